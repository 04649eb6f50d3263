//! `occ shell` and `occ exec --tty`: a terminal on a host is like one here.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use occ_proto::exec::{ExecEvent, STDOUT};
use occ_proto::status::State;
use serde_json::json;
use testkit::daemon::Target;
use testkit::proc::{Process, Signal};
use testkit::require::{find_program, require};
use testkit::wait::blocking::wait_until;
use testkit::{DaemonRig, EmbeddedHost, FaultyLink, RealSshd, Terminal};

use crate::ask::{connect, look};
use crate::support::{
    GUARD, Incoming, Ws, daemon_for, eventually, no_programs, remote_program, sshd, status,
};

/// Opens `occ shell` with more arguments on a terminal.
fn open(rig: &DaemonRig, args: &[&str]) -> Terminal {
    let args = [&["shell", "--host", "h"], args].concat();
    let mut occ = rig.occ(&args);
    occ.env("TERM", "xterm-256color");
    let terminal = Terminal::control(&occ, "");
    terminal.resize(30, 90);
    terminal
}

#[test]
fn a_shell_has_a_terminal_of_this_ones_size_and_kind() {
    let Some((_sshd, rig)) = sshd() else { return };
    let mut terminal = open(&rig, &[]);
    terminal.type_text("stty size; echo kind=$TERM; tty && echo is-$((40+2))\n");
    terminal.wait_for("30 90");
    terminal.wait_for("kind=xterm-256color");
    terminal.wait_for("is-42");
    terminal.resize(40, 132);
    terminal
        .type_text("until [ \"$(stty size)\" = '40 132' ]; do sleep 0.05; done; echo re''sized\n");
    terminal.wait_for("resized");
    terminal.type_text("exit 7\n");
    let (_, code) = terminal.finish();
    assert_eq!(code, 7);
}

#[test]
fn a_terminal_that_is_resized_before_its_program_runs_has_that_size() {
    let Some((_sshd, rig)) = sshd() else { return };
    let line = "until [ \"$(stty size)\" = '30 100' ]; do sleep 0.02; done; echo re''sized";
    let tty = json!({ "term": "vt100", "cols": 80, "rows": 24 });
    let mut ws = Ws::start(&rig, &json!({ "argv": ["sh", "-c", line], "tty": tty }));
    // All of it is there before the host is connected.
    ws.control(&json!({ "type": "resize", "cols": 90, "rows": 25 }));
    ws.control(&json!({ "type": "resize", "cols": 100, "rows": 30 }));
    ws.control(&json!({ "type": "bogus" }));
    ws.control(&json!({ "type": "signal", "signal": "NONE" }));
    ws.started();
    let (mut seen, mut wrong) = (Vec::new(), 0);
    let exit = loop {
        match ws.next() {
            Incoming::Bytes(_, bytes) => seen.extend_from_slice(&bytes),
            Incoming::Event(ExecEvent::BadControl { .. }) => wrong += 1,
            Incoming::Event(ExecEvent::Exit(exit)) => break exit,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((exit.code, wrong), (Some(0), 2), "{}", String::from_utf8_lossy(&seen));
    // A signal is another matter: whoever sends it wants an end.
    let mut ws = Ws::start(&rig, &json!({ "argv": ["sleep", "1000"], "cwd": "/" }));
    ws.control(&json!({ "type": "signal", "signal": "INT" }));
    let ended = loop {
        match ws.next() {
            Incoming::Event(ExecEvent::Started { .. }) => {}
            ended => break ended,
        }
    };
    let over = matches!(&ended, Incoming::Event(ExecEvent::Error { .. } | ExecEvent::Exit(_)));
    assert!(over, "{ended:?}");
}

#[test]
fn a_window_that_is_resized_while_the_daemon_is_waited_for_has_that_size() {
    let Some((_sshd, rig)) = sshd() else { return };
    connect(&rig, "h");
    let daemon = rig.daemon();
    daemon.signal(Signal::STOP);
    let line = "until [ \"$(stty size)\" = '50 133' ]; do sleep 0.02; done; echo re''sized";
    let occ = rig.occ(&["exec", "--host", "h", "--tty", "--", "sh", "-c", line]);
    let terminal = Terminal::control(&occ, "");
    let asks = || Process::find(std::process::id()).unwrap().descendants();
    let waits = |all: &Vec<Process>| all.iter().any(|one| one.name() == "occ" && one.is_waiting());
    wait_until("occ to wait", GUARD, asks, waits);
    terminal.resize(50, 133);
    daemon.signal(Signal::CONT);
    let (screen, code) = terminal.finish();
    assert!(code == 0 && screen.contains("resized"), "{screen}");
}

#[test]
fn a_sign_of_life_may_be_asked_for_before_anything_else() {
    let Some((_sshd, rig)) = sshd() else { return };
    let mut ws = Ws::open(&rig);
    ws.ping();
    ws.ask(&json!({ "argv": ["true"] }));
    ws.started();
}

#[test]
fn an_error_is_the_last_word_and_the_connection_is_closed_behind_it() {
    let Some((_sshd, rig)) = sshd() else { return };
    let mut ws = Ws::start(&rig, &json!("nonsense"));
    // It may not have been read yet when the daemon answers.
    ws.input(b"more");
    let last = ws.next();
    assert!(matches!(&last, Incoming::Event(ExecEvent::Error { .. })), "{last:?}");
    assert_eq!(ws.next(), Incoming::End);
    // Nor is a frame that is none a reason to hang up: a text that is not UTF-8, and a frame without a mask.
    for wrong in [&b"\x81\x81\0\0\0\0\xff"[..], b"\x81\x01a"] {
        let mut running = Ws::start(&rig, &json!({ "argv": ["sleep", "1000"] }));
        running.started();
        for mut ws in [Ws::open(&rig), running] {
            ws.raw(wrong);
            let last = ws.next();
            assert!(matches!(&last, Incoming::Event(ExecEvent::Error { .. })), "{last:?}");
            assert_eq!(ws.next(), Incoming::End);
        }
    }
}

#[test]
fn keys_are_the_programs() {
    let Some((sshd, rig)) = sshd() else { return };
    let mut terminal = open(&rig, &[]);
    // Ctrl-C ends what runs, and not the shell.
    terminal.type_text("sleep 1000\n");
    remote_program(&sshd, "sleep");
    terminal.type_text("\u{3}");
    terminal.type_text("echo code=$?\n");
    terminal.wait_for("code=130");
    // Ctrl-Z stops it, and the shell goes on.
    terminal.type_text("sleep 1000\n");
    remote_program(&sshd, "sleep");
    terminal.type_text("\u{1a}");
    terminal.type_text("kill -9 %1; wait; echo sto''pped\n");
    terminal.wait_for("stopped");
    // Ctrl-D ends it.
    terminal.type_text("cat; echo ca''t=$?\n\u{4}");
    terminal.wait_for("cat=0");
    terminal.type_text("exit\n");
    let (_, code) = terminal.finish();
    assert_eq!(code, 0);
    no_programs(&sshd, GUARD);
}

#[test]
fn bytes_of_every_value_pass_in_both_directions() {
    let Some((_sshd, rig)) = sshd() else { return };
    let mut ws = Ws::start(
        &rig,
        &json!({"argv": ["sh", "-c", "stty raw -echo; echo ready; exec head -c 256"],
                "tty": {"term": "vt100", "cols": 80, "rows": 24}}),
    );
    let mut seen = Vec::new();
    let all: Vec<u8> = (0..=255).collect();
    loop {
        match ws.next() {
            Incoming::Bytes(stream, bytes) => {
                assert_eq!(stream, STDOUT);
                seen.extend_from_slice(&bytes);
                if seen == b"ready\n" || seen == b"ready\r\n" {
                    assert!(ws.input(&all));
                }
            }
            Incoming::Event(ExecEvent::Exit(exit)) => {
                assert_eq!(exit.code, Some(0));
                break;
            }
            Incoming::Event(_) => {}
            Incoming::End => panic!("no exit"),
        }
    }
    assert_eq!(&seen[seen.len() - 256..], &all[..]);
}

#[test]
fn the_escape_leaves_and_the_terminal_is_as_it_was() {
    let Some((sshd, rig)) = sshd() else { return };
    let mut terminal = open(&rig, &["--", "sh", "-c", "echo ready; sleep 1000"]);
    terminal.wait_for("ready");
    eventually("a raw terminal", || !terminal.echoes());
    terminal.type_text("~?");
    terminal.wait_for("~.  leave");
    // What the terminal itself answers to a program's question is typed by nobody.
    terminal.type_text("\u{1b}[>84;0;0c\u{1b}P>|xterm(370)\u{1b}\\~.");
    eventually("a terminal as it was", || terminal.echoes());
    let (screen, code) = terminal.finish();
    assert_eq!(code, 129, "{screen}");
    assert!(screen.contains("Left: the program on h is hung up"), "{screen}");
    no_programs(&sshd, GUARD);
}

#[test]
fn a_client_that_is_killed_hangs_the_program_up() {
    let Some((sshd, rig)) = sshd() else { return };
    let mut terminal = open(&rig, &["--", "sh", "-c", "echo ready; sleep 1000"]);
    terminal.wait_for("ready");
    // occ itself, and what started it.
    let started = Process::find(terminal.child.id()).unwrap();
    for process in started.descendants().into_iter().chain([started]) {
        process.signal(Signal::KILL);
    }
    no_programs(&sshd, GUARD);
}

#[test]
fn a_broken_link_ends_it_with_the_terminal_as_it_was() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let rig = daemon_for(&sshd);
    let mut terminal = open(&rig, &["--", "sh", "-c", "echo ready; sleep 1000"]);
    terminal.wait_for("ready");
    eventually("a raw terminal", || !terminal.echoes());
    sshd.kill_sessions();
    let (screen, code) = terminal.finish();
    assert_eq!(code, 6, "{screen}");
    assert!(screen.contains("the link broke"), "{screen}");
}

#[test]
fn terminals_have_a_connection_of_their_own_and_share_it() {
    let Some((sshd, rig)) = sshd() else { return };
    rig.occ_ok(&["connect", "--host", "h"]);
    let one_connection = sshd.session_count();
    let mut one = open(&rig, &["--", "sh", "-c", "echo ready; sleep 1000"]);
    one.wait_for("ready");
    let with_terminal = sshd.session_count();
    assert_eq!(with_terminal, one_connection + 1);
    let mut two = open(&rig, &["--", "sh", "-c", "echo ready; sleep 1000"]);
    two.wait_for("ready");
    assert_eq!(sshd.session_count(), with_terminal);
    assert_eq!(status(&rig).connections, 2);
    // A command in no terminal is not among them: its stream would delay what is typed.
    rig.occ_ok(&["exec", "--host", "h", "--", "true"]);
    assert_eq!(sshd.session_count(), with_terminal);
    one.type_text("\r~.");
    two.type_text("\r~.");
    one.finish();
    two.finish();
    no_programs(&sshd, GUARD);
}

#[test]
fn a_server_without_terminals_is_named() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::builder().config("PermitTTY no").start();
    let rig = daemon_for(&sshd);
    let (screen, code) = open(&rig, &[]).finish();
    assert_eq!(code, 1, "{screen}");
    assert!(screen.contains("the server gives no terminal"), "{screen}");
    assert!(screen.contains("hint: occ exec --host h"), "{screen}");
    no_programs(&sshd, GUARD);
}

#[test]
fn this_machine_has_terminals_too() {
    let mut rig = DaemonRig::new();
    rig.start_daemon(&[]);
    let mut occ = rig.occ(&["shell", "--local", "--", "sh"]);
    occ.env("TERM", "xterm");
    let mut terminal = Terminal::control(&occ, "");
    terminal.resize(33, 99);
    terminal.type_text("stty size; echo $((40+2))$TERM\n");
    terminal.wait_for("33 99");
    terminal.wait_for("42xterm");
    terminal.type_text("sleep 1000\n");
    eventually("what is to come", || {
        rig.daemon().descendants().iter().any(|program| program.name() == "sleep")
    });
    terminal.type_text("\u{3}");
    terminal.type_text("exit 5\n");
    let (screen, code) = terminal.finish();
    assert_eq!(code, 5, "{screen}");
    eventually("what is to come", || rig.daemon_children().is_empty());
}

#[test]
fn without_a_terminal_a_shell_says_what_to_use() {
    let Some((_sshd, rig)) = sshd() else { return };
    let output = rig.run_occ(&["shell", "--host", "h"]);
    assert_eq!(output.code(), 2);
    assert!(output.stderr.contains("occ exec --shell"), "{}", output.stderr);
    // And a command in a terminal works from a pipe, as with ssh -tt.
    let mut occ = rig.occ(&["exec", "--host", "h", "--tty", "--", "tty"]);
    let output = occ.stdin(Stdio::null()).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("/dev/pts/"), "{output:?}");
}

/// A tmux server of its own.
struct Tmux {
    socket: String,
}

impl Tmux {
    fn run(&self, args: &[&str]) -> String {
        let mut tmux = Command::new("tmux");
        tmux.env_remove("TMUX").args(["-S", &self.socket, "-f", "/dev/null"]).args(args);
        let output = tmux.output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn keys(&self, keys: &[&str]) {
        self.run(&[&["send-keys", "-t", "occ"], keys].concat());
    }

    fn shows(&self, text: &str) {
        wait_until(
            text,
            GUARD,
            || self.run(&["capture-pane", "-p", "-t", "occ"]),
            |screen| screen.contains(text),
        );
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        self.run(&["kill-server"]);
    }
}

#[test]
fn editors_and_full_screen_programs_behave_in_tmux() {
    let Some((_sshd, rig)) = sshd() else { return };
    let programs = ["tmux", "vi", "top", "tput"].map(find_program);
    let available = programs.into_iter().collect::<Result<Vec<_>, _>>().map(drop);
    if !require("tmux and what runs in it", available, "OCC_REQUIRE_TERMINAL") {
        return;
    }
    let tmux = Tmux { socket: rig.root().join("tmux").to_str().unwrap().to_owned() };
    let occ = rig.occ(&["shell", "--host", "h"]);
    let variables = occ
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}='{}'", name.to_str()?, value?.to_str()?)));
    let line = format!(
        "env {} {} shell --host h",
        variables.collect::<Vec<_>>().join(" "),
        occ.get_program().to_str().unwrap()
    );
    tmux.run(&["new-session", "-d", "-s", "occ", "-x", "90", "-y", "24", &line]);
    tmux.keys(&["PS1='$ '; clear; echo rea''dy", "Enter"]);
    tmux.shows("ready");
    // For the login's user, who is not ours.
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
    let file = dir.path().join("edited");
    tmux.keys(&[&format!("vi {}", file.display()), "Enter"]);
    tmux.shows("[New");
    tmux.keys(&["i", "written over a link"]);
    tmux.shows("written over a link");
    tmux.keys(&["Escape"]);
    // The cursor steps back; the next key too early would be one of Alt's.
    eventually("the end of typing", || {
        tmux.run(&["display", "-p", "-t", "occ", "#{cursor_x}"]).trim() == "18"
    });
    tmux.run(&["resize-window", "-t", "occ", "-x", "60", "-y", "15"]);
    tmux.keys(&[":wq", "Enter"]);
    tmux.shows("written\n");
    eventually("the file", || {
        std::fs::read_to_string(&file).is_ok_and(|text| text == "written over a link\n")
    });
    tmux.shows("edited\n$");
    tmux.keys(&["clear; stty size; top -d 1", "Enter"]);
    tmux.shows("PID");
    tmux.keys(&["q"]);
    tmux.shows("\n$");
    tmux.keys(&["clear; stty size; tput colors", "Enter"]);
    tmux.shows("15 60");
    tmux.keys(&["exit", "Enter"]);
    eventually("what is to come", || !tmux.run(&["list-sessions"]).contains("occ"));
}

#[test]
fn a_terminal_whose_connection_comes_after_the_host_was_disconnected_has_none() {
    let host = EmbeddedHost::start();
    let link = FaultyLink::start(host.addr());
    let mut rig = DaemonRig::new();
    rig.add_host("far", Target::from(&host).through(&link));
    rig.start_daemon(&[]);
    connect(&rig, "far");
    // A login takes some round trips, and goes on while the host is disconnected.
    link.set_latency(Duration::from_millis(150));
    let mut occ = rig.occ(&["exec", "--host", "far", "--tty", "--", "sleep", "1000"]);
    occ.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let occ = occ.spawn().unwrap();
    wait_until("its own dial", GUARD, || link.connections(), |count| *count == 2);
    rig.occ_ok(&["disconnect", "--host", "far"]);
    let output = occ.wait_with_output().unwrap();
    assert!(!output.status.success(), "{output:?}");
    wait_until("no connection", GUARD, || host.active_connections(), |count| *count == 0);
    let status = look(&rig, "far");
    assert_eq!((status.state, status.connections), (State::Stopped, 0));
}

/// Runs a script of a shell at a terminal; `"$@"` in it is `occ` with these arguments.
fn scripted(rig: &DaemonRig, script: &str, args: &[&str]) -> Terminal {
    let occ = rig.occ(args);
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]).arg(occ.get_program()).args(occ.get_args());
    shell.envs(occ.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Terminal::control(&shell, "")
}

#[test]
fn who_is_ended_in_the_background_of_its_terminal_ends() {
    let mut rig = DaemonRig::new();
    rig.start_daemon(&[]);
    // It puts itself and what it runs into a group of their own, which is not the terminal's, and sends TERM and CONT.
    let script = "timeout 2 \"$@\"; echo code=$?";
    for args in [
        &["exec", "--local", "--", "sleep", "1000"][..],
        &["exec", "--local", "--tty", "--", "sleep", "1000"],
        &["status", "--all", "--watch"],
    ] {
        let terminal = scripted(&rig, script, args);
        let (screen, _) = terminal.finish();
        assert!(screen.contains("code=124"), "{args:?}: {screen}");
    }
    let mut terminal = scripted(&rig, script, &["host", "add", "x", "203.0.113.1", "--no-verify"]);
    terminal.wait_for("code=");
    let mut terminal = scripted(&rig, script, &["host", "remove", "x"]);
    terminal.wait_for("[y/N]");
    let (screen, _) = terminal.finish();
    assert!(screen.contains("code=124"), "{screen}");
}

#[test]
fn what_runs_in_the_background_of_its_terminal_does_its_work() {
    let mut rig = DaemonRig::new();
    rig.start_daemon(&[]);
    let script = "timeout 60 \"$@\"; echo code=$?";
    let args = ["exec", "--local", "--", "echo", "hi"];
    let (screen, _) = scripted(&rig, script, &args).finish();
    assert!(screen.contains("hi\ncode=0"), "{screen}");
    // What changes is told in lines: the screen is another's.
    rig.occ_ok(&["host", "add", "x", "203.0.113.1", "--no-verify"]);
    let mut terminal = scripted(&rig, script, &["status", "--all", "--watch"]);
    terminal.wait_for("[x] ");
    terminal.type_text("\u{3}");
}

#[test]
fn a_job_reads_its_terminal_when_it_is_in_the_foreground() {
    let mut rig = DaemonRig::new();
    rig.start_daemon(&[]);
    let line = "echo up; read line; echo got-$line";
    let args = ["exec", "--local", "--", "sh", "-c", line];
    // In the background first: what is typed is the shell's.
    let mut terminal =
        scripted(&rig, "set -m; \"$@\" & read own; echo own-$own; fg; echo code=$?", &args);
    terminal.wait_for("up");
    terminal.type_text("one\n");
    terminal.wait_for("own-one");
    terminal.type_text("two\n");
    let (screen, _) = terminal.finish();
    assert!(screen.contains("got-two\ncode=0"), "{screen}");
    // Stopped, and gone on with.
    let mut terminal =
        scripted(&rig, "set -m; \"$@\"; echo stopped-$?; read own; fg; echo code=$?", &args);
    terminal.wait_for("up");
    terminal.type_text("\u{1a}");
    terminal.wait_for("stopped-");
    terminal.type_text("one\n");
    // The shell names the job that it goes on with.
    terminal.wait_for("${@}");
    terminal.type_text("two\n");
    let (screen, _) = terminal.finish();
    assert!(screen.contains("got-two\ncode=0"), "{screen}");
    // A program with a terminal of its own has the keys from then on.
    let args = ["exec", "--local", "--tty", "--", "sh", "-c", line];
    let mut terminal = scripted(&rig, "set -m; \"$@\" & read own; fg; echo code=$?", &args);
    terminal.wait_for("up");
    assert!(terminal.echoes());
    terminal.type_text("one\n");
    eventually("a raw terminal", || !terminal.echoes());
    terminal.type_text("two\r");
    let (screen, _) = terminal.finish();
    assert!(screen.contains("got-two") && screen.contains("code=0"), "{screen}");
}
