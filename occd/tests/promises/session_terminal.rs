//! Sessions with a terminal of their own: what is typed and what is sent reaches the program and nothing around it, how it
//! ends is the program's affair, and who leaves has their terminal as it was.

use occ_proto::session::SessionState;
use testkit::daemon::Target;
use testkit::proc::{Process, Signal};
use testkit::user::password_user;
use testkit::wait::blocking::{try_wait_for, wait_until};
use testkit::{DaemonRig, FaultyLink, RealSshd, Terminal};

use crate::session::Far;
use crate::session_face::{POSIX, far_with};
use crate::session_together::programs;
use crate::support::GUARD;

/// Says what comes to it, and ends in its own time with a status of its own.
const STUBBORN: &str = "for s in INT QUIT HUP USR1 TERM; do trap \"echo caught $s; n=x\\$n\" $s; done; echo ready; \
                        while [ ${#n} -lt 5 ]; do sleep 0.05; done; exit 9";

fn start(far: &Far, name: &str, line: &str) {
    let start =
        ["session", "start", "--host", "h", "--tty", "--name", name, "--", "sh", "-c", line];
    far.rig.occ_ok(&start);
}

fn wait_for_words(far: &Far, name: &str, words: &str) {
    let logs = || far.rig.occ_ok(&["session", "logs", name]);
    wait_until(words, GUARD, logs, |out| out.contains(words));
}

fn attach(far: &Far, name: &str) -> Terminal {
    on_terminal(far, &["session", "attach", name])
}

fn on_terminal(far: &Far, args: &[&str]) -> Terminal {
    let mut occ = far.rig.occ(args);
    occ.env("TERM", "xterm");
    let terminal = Terminal::control(&occ, "");
    terminal.resize(24, 80);
    terminal
}

/// Keys and signals, with the tools of that host.
fn reaches_the_program(far: &Far) {
    start(far, "work", STUBBORN);
    wait_for_words(far, "work", "ready");
    let mut terminal = attach(far, "work");
    terminal.wait_for("ready");
    for (key, words) in [("\u{3}", "caught INT"), ("\u{1c}", "caught QUIT")] {
        terminal.type_text(key);
        wait_for_words(far, "work", words);
    }
    for signal in ["HUP", "USR1"] {
        far.rig.occ_ok(&["session", "kill", "work", "--signal", signal]);
        wait_for_words(far, "work", &format!("caught {signal}"));
    }
    let list = far.rig.occ_ok(&["session", "list"]);
    assert!(list.contains("running"), "{list}");
    far.rig.occ_ok(&["session", "kill", "work", "--signal", "TERM"]);
    assert_eq!(far.rig.run_occ(&["session", "wait", "work"]).code(), 9);
    assert_eq!(terminal.finish().1, 9);
    // One that does nothing about it.
    start(far, "plain", "echo ready; exec sleep 1000");
    wait_for_words(far, "plain", "ready");
    let mut terminal = attach(far, "plain");
    terminal.wait_for("ready");
    terminal.type_text("\u{3}");
    assert_eq!(terminal.finish().1, 130);
    // An end has a way out for whoever wants one.
    start(far, "polite", "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done");
    wait_for_words(far, "polite", "ready");
    assert_eq!(far.rig.occ_ok(&["session", "kill", "polite"]), "[h] polite: exit 7\n");
    far.rig.occ_ok(&["session", "rm", "polite"]);
}

#[test]
fn what_is_typed_and_sent_reaches_the_program_in_tmux() {
    let Some((far, _dir)) = far_with(&[&POSIX[..], &["tmux"]].concat()) else { return };
    reaches_the_program(&far);
}

#[test]
fn what_is_typed_and_sent_reaches_the_program_in_screen() {
    let Some((far, _dir)) = far_with(&[&POSIX[..], &["screen"]].concat()) else { return };
    reaches_the_program(&far);
}

#[test]
fn who_leaves_a_screen_has_their_terminal_as_it_was() {
    let Some((far, _dir)) = far_with(&[&POSIX[..], &["tmux"]].concat()) else { return };
    start(&far, "work", "echo ready; exec sleep 1000");
    wait_for_words(&far, "work", "ready");
    let leaves: [&dyn Fn(&mut Terminal); 2] =
        [&|terminal| terminal.type_text("\r~."), &|terminal| {
            Process::find(terminal.child.id()).unwrap().signal(Signal::TERM);
        }];
    for leave in leaves {
        let mut terminal = attach(&far, "work");
        terminal.wait_for("ready");
        leave(&mut terminal);
        let (screen, code) = terminal.finish();
        assert_eq!(code, 0, "{screen}");
        // The alternate screen, and then the usual one with what is said.
        let off = screen.rfind("\u{1b}[?1049l").unwrap_or_else(|| panic!("{screen:?}"));
        assert!(screen.find("\u{1b}[?1049h").is_some_and(|on| on < off), "{screen:?}");
        assert!(screen[off..].contains("detached; work goes on"), "{screen:?}");
        assert!(!screen.contains("terminated"), "{screen:?}");
    }
}

#[test]
fn who_attaches_at_once_sees_the_screen() {
    for with in ["tmux", "screen"] {
        let Some((far, _dir)) = far_with(&[&POSIX[..], &[with]].concat()) else { return };
        for round in 0..5 {
            let name = format!("work-{round}");
            let start = ["session", "start", "--host", "h", "--tty", "--attach", "--name", &name];
            let line = ["--", "sh", "-c", "echo ready; read x; exit 4"];
            let mut terminal = on_terminal(&far, &[&start[..], &line].concat());
            terminal.wait_for("ready");
            terminal.type_text("x\r");
            let (screen, code) = terminal.finish();
            assert_eq!(code, 4, "{with}: {screen}");
        }
    }
}

/// Nobody waits for the host to say how the program is.
#[test]
fn who_leaves_while_the_host_is_down_leaves_at_once() {
    let Some((far, _dir)) = far_with(&[&POSIX[..], &["tmux"]].concat()) else { return };
    start(&far, "work", "echo ready; exec sleep 1000");
    let leaves: [&dyn Fn(&mut Terminal); 4] = [
        &|terminal| {
            Process::find(terminal.child.id()).unwrap().signal(Signal::INT);
        },
        &|terminal| terminal.type_text("\u{3}"),
        &|terminal| terminal.type_text("~."),
        &|terminal| terminal.type_text("ls\r~."),
    ];
    for leave in leaves {
        let mut terminal = attach(&far, "work");
        terminal.wait_for("ready");
        // A question to such a host is given up after some 14 s.
        far.link.refuse(true);
        far.link.reset_all();
        terminal.wait_for("paused");
        wait_until("the keys to be read", GUARD, || terminal.echoes(), |echoes| !echoes);
        leave(&mut terminal);
        let left = try_wait_for(GUARD / 6, || terminal.child.try_wait().unwrap());
        let echoes = terminal.echoes();
        let (screen, code) = terminal.finish();
        assert!(left.is_some_and(|status| status.success()), "{code}: {screen}");
        assert!(screen.contains("detached; work goes on"), "{screen}");
        assert!(echoes, "{screen}");
        far.link.refuse(false);
    }
    // Who comes while it is down.
    far.link.refuse(true);
    far.link.reset_all();
    let mut terminal = on_terminal(&far, &["session", "attach", "work", "--wait", "1h"]);
    terminal.wait_for("[work] its host does not answer yet; trying …");
    wait_until("the keys to be read", GUARD, || terminal.echoes(), |echoes| !echoes);
    terminal.type_text("~.");
    let (screen, code) = terminal.finish();
    assert_eq!(code, 0, "{screen}");
    assert!(screen.contains("detached; work goes on"), "{screen}");
}

#[test]
fn keys_that_are_typed_while_the_host_is_down_reach_the_program_as_they_are() {
    for with in ["tmux", "screen"] {
        let Some((far, _dir)) = far_with(&[&POSIX[..], &[with]].concat()) else { return };
        start(&far, "work", "stty raw -echo; echo ready; exec cat -v");
        wait_for_words(&far, "work", "ready");
        let down = || {
            far.link.refuse(true);
            far.link.reset_all();
        };
        let types = |terminal: &mut Terminal, name: &str| {
            wait_until("the keys to be read", GUARD, || terminal.echoes(), |echoes| !echoes);
            // Of a terminal as it usually is the most would be read by nobody, or end something.
            terminal
                .type_text(&format!("{name}\ra\u{1a}\u{1c}b\u{15}\u{7f}\u{4}c\u{16}\u{1}d\u{2}d"));
            far.link.refuse(false);
            wait_for_words(&far, "work", &format!("{name}^Ma^Z^\\b^U^?^Dc^V^Ad^Bd"));
        };
        let mut terminal = attach(&far, "work");
        terminal.wait_for("ready");
        down();
        terminal.wait_for("paused");
        types(&mut terminal, "one");
        down();
        types(&mut on_terminal(&far, &["session", "attach", "work", "--wait", "1h"]), "two");
        far.rig.occ_ok(&["session", "kill", "work", "--signal", "KILL"]);
        let (screen, code) = terminal.finish();
        assert_eq!(code, 137, "{with}: {screen}");
    }
}

#[test]
fn keys_that_are_typed_before_the_host_has_answered_reach_the_program_as_they_are() {
    let Some((far, _dir)) = far_with(&[&POSIX[..], &["tmux"]].concat()) else { return };
    start(&far, "work", "stty raw -echo; echo ready; exec cat -v");
    wait_for_words(&far, "work", "ready");
    // It is dialled, which is given up after some 14 s.
    far.link.blackhole(true);
    far.link.reset_all();
    let mut terminal = attach(&far, "work");
    let is_read = try_wait_for(GUARD / 6, || (!terminal.echoes()).then_some(()));
    assert!(is_read.is_some(), "{}", terminal.finish().0);
    terminal.type_text("one\ra\u{1c}b");
    far.link.blackhole(false);
    wait_for_words(&far, "work", "one^Ma^\\b");
    terminal.type_text("\r~.");
    let (screen, code) = terminal.finish();
    assert!(code == 0 && screen.contains("detached; work goes on"), "{code}: {screen}");
    // Who does not want to wait.
    far.link.blackhole(true);
    far.link.reset_all();
    let mut terminal = attach(&far, "work");
    wait_until("the keys to be read", GUARD, || terminal.echoes(), |echoes| !echoes);
    terminal.type_text("~.");
    let left = try_wait_for(GUARD / 6, || terminal.child.try_wait().unwrap());
    let echoes = terminal.echoes();
    let (screen, code) = terminal.finish();
    assert!(left.is_some() && echoes, "{screen}");
    assert!(code == 0 && screen.contains("detached; work goes on"), "{code}: {screen}");
}

/// What is typed in a pause is the answer where something is asked, and else for the program behind it.
#[test]
fn what_is_typed_while_the_host_is_down_is_lost_to_nobody() {
    if !RealSshd::require() {
        return;
    }
    let Some((user, password)) = password_user() else { return };
    let builder = RealSshd::builder().user(user).config("PasswordAuthentication yes");
    let sshd = builder.config("AuthenticationMethods password").start();
    let link = FaultyLink::start(sshd.addr());
    let mut rig = DaemonRig::new();
    rig.add_host("h", Target::from(&sshd).through(&link));
    rig.write_config_toml("[hosts.h]\nauth = [\"password\"]\n");
    rig.start_daemon(&[]);
    let far = Far { rig, link, sshd };
    let question = format!("[h] Password for {user} on h: ");
    let line = "echo ready; while read -r x; do echo got $x; test $x = end && exit 6; done";
    let start = ["session", "start", "--host", "h", "--tty", "--attach", "--name", "work"];
    let mut terminal = on_terminal(&far, &[&start[..], &["--", "sh", "-c", line]].concat());
    terminal.answer(&question, password);
    terminal.answer("Keep the password", "n");
    terminal.wait_for("ready");
    terminal.type_text("before\r");
    terminal.wait_for("got before");
    far.link.refuse(true);
    far.link.reset_all();
    terminal.wait_for("paused");
    wait_until("the keys to be read", GUARD, || terminal.echoes(), |echoes| !echoes);
    terminal.type_text("meanwhile\r");
    far.link.refuse(false);
    terminal.answer(&question, password);
    terminal.wait_for("got meanwhile");
    terminal.type_text("end\r");
    let (screen, code) = terminal.finish();
    assert_eq!(code, 6, "{screen}");
    assert!(!screen.contains(password), "{screen}");
}

#[test]
fn a_lost_session_with_a_terminal_starts_again() {
    let Some((far, _dir)) = far_with(&[&POSIX[..], &["tmux"]].concat()) else { return };
    let line = "echo ready; sleep 1000; echo end";
    start(&far, "work", line);
    wait_for_words(&far, "work", "ready");
    let kept = far.sshd.dir().join("cache/occ/sessions").join(far.look("work").info.id);
    let supervisor = std::fs::read_to_string(kept.join("sup")).unwrap();
    Process::find(supervisor.trim().parse().unwrap()).unwrap().signal(Signal::KILL);
    wait_until("its loss", GUARD, || far.look("work").state, |state| *state == SessionState::Lost);
    far.rig.occ_ok(&["session", "start", "--name", "work"]);
    wait_for_words(&far, "work", "ready");
    assert_eq!(far.look("work").state, SessionState::Running);
    wait_until("one program", GUARD, || programs(&far, line).len(), |count| *count == 1);
}

#[test]
fn the_end_of_the_input_is_typed() {
    for with in ["tmux", "screen"] {
        let Some((far, _dir)) = far_with(&[&POSIX[..], &[with]].concat()) else { return };
        start(&far, "work", "stty -echo; cat; exit 3");
        let id = far.look("work").info.id;
        let kind = [("content-type", "application/octet-stream")];
        let path = format!("/v1/sessions/{id}/input?eof=true");
        let sent =
            testkit::http::request(&far.rig.socket(), "POST", &path, &kind, Some(b"one\ntwo"));
        assert_eq!(sent.unwrap().status, 200, "{with}");
        assert_eq!(far.rig.run_occ(&["session", "wait", "work"]).code(), 3, "{with}");
        let logs = far.rig.occ_ok(&["session", "logs", "work"]);
        assert!(logs.contains("one") && logs.contains("two"), "{with}: {logs}");
    }
}
