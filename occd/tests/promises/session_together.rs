//! Sessions that several clients act on at the same time, and sessions whose host is another one by now.

use std::io::{BufRead as _, BufReader};
use std::thread;

use occ_proto::session::{Session, SessionList, SessionState};
use serde_json::{Value, json};
use testkit::RealSshd;
use testkit::daemon::Target;
use testkit::proc::{Process, Signal};
use testkit::wait::blocking::{wait_for, wait_until};

use crate::session::Far;
use crate::session_face::{signal, spawn};
use crate::support::{GUARD, exit_code, remote_programs};

/// Returns the programs of sessions that run this line of sh.
pub(crate) fn programs(far: &Far, line: &str) -> Vec<Process> {
    let runs_it = |process: &Process| {
        let words = std::fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
        words == format!("sh\0-c\0{line}\0").as_bytes()
    };
    remote_programs(&far.sshd).into_iter().filter(runs_it).collect()
}

fn list(far: &Far) -> Vec<Session> {
    let list: SessionList = serde_json::from_slice(&far.call("GET", "", None).body).unwrap();
    list.sessions
}

/// Has a session that has ended, whose next start runs a line of sh.
fn ended(far: &Far, name: &str, line: &str) {
    far.begin(name, "echo precious");
    far.wait_for_end(name);
    let edit = json!({"argv": ["sh", "-c", line]});
    assert_eq!(far.call("PATCH", &format!("/{name}"), Some(edit)).status, 200);
}

#[test]
fn a_session_that_several_start_again_at_once_is_started_once() {
    let Some(far) = Far::start() else { return };
    let line = "sleep 1000; echo end";
    for round in 0..5 {
        let name = format!("work-{round}");
        ended(&far, &name, line);
        let start = || far.call("POST", &format!("/{name}/start"), None).status;
        let mut answers = thread::scope(|scope| {
            let all: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>()
        });
        answers.sort_unstable();
        assert_eq!(answers, [200, 409, 409, 409]);
        wait_until("its program", GUARD, || programs(&far, line).len(), |n| *n == 1);
        assert_eq!(far.look(&name).state, SessionState::Running);
        assert_eq!(far.call("DELETE", &format!("/{name}?force=true"), None).status, 204);
        wait_until("its end", GUARD, || programs(&far, line).len(), |n| *n == 0);
    }
}

#[test]
fn a_session_that_is_removed_while_it_is_started_again_is_there_or_is_not() {
    let Some(far) = Far::start() else { return };
    let line = "sleep 1000; echo end";
    for round in 0..8 {
        let name = format!("work-{round}");
        ended(&far, &name, line);
        let (started, removed) = thread::scope(|scope| {
            let start = scope.spawn(|| far.call("POST", &format!("/{name}/start"), None).status);
            let remove = far.call("DELETE", &format!("/{name}?force=true"), None).status;
            (start.join().unwrap(), remove)
        });
        // Whoever comes second finds what the first has left.
        assert!([200, 404].contains(&started) && removed == 204, "{started} {removed}");
        assert!(list(&far).is_empty());
        wait_until("no program of it", GUARD, || programs(&far, line).len(), |n| *n == 0);
    }
}

#[test]
fn input_for_a_program_that_has_ended_is_refused() {
    let Some(far) = Far::start() else { return };
    far.begin("work", "exit 3");
    far.wait_for_end("work");
    let sent = far.rig.run_occ(&["session", "send", "work", "hello"]);
    assert_eq!(sent.code(), 1, "{}", sent.stdout);
    assert!(sent.stderr.contains("has ended"), "{}", sent.stderr);
}

/// Its end may be told before what it was sent is known to be taken.
#[test]
fn input_that_a_program_ends_with_is_no_failure() {
    let Some(far) = Far::start() else { return };
    let rig = &far.rig;
    for round in 0..15 {
        let name = format!("work-{round}");
        let run = ["--", "sh", "-c", "read x; echo got $x; exit 3"];
        rig.occ_ok(&[&["session", "start", "--host", "h", "--name", &name][..], &run].concat());
        let eof: &[&str] = if round % 3 == 0 { &["--eof"] } else { &[] };
        rig.occ_ok(&[&["session", "send", &name][..], eof, &["it"]].concat());
        assert_eq!(rig.run_occ(&["session", "wait", &name]).code(), 3);
        assert_eq!(rig.occ_ok(&["session", "logs", &name]), "got it\n");
    }
}

#[test]
fn what_was_forgotten_is_found_by_whoever_asks_for_it_alone() {
    let Some(far) = Far::start() else { return };
    far.begin("other", "exec sleep 1000");
    far.begin("work", "exec sleep 1000");
    far.rig.occ_ok(&["session", "rm", "--forget", "work"]);
    let names = |args: &[&str]| far.rig.occ_ok(&[&["session", "list", "-q"], args].concat());
    assert_eq!(names(&[]), "other\n");
    assert_eq!(names(&["--host", "h"]).lines().count(), 2);
    assert_eq!(names(&[]).lines().count(), 2);
}

#[test]
fn what_is_done_with_a_session_on_another_host_than_the_one_given_is_refused() {
    let Some(far) = Far::start() else { return };
    far.begin("work", "exec sleep 1000");
    far.rig.add_host("other", Target::from(&far.sshd));
    for args in [
        &["kill", "work"][..],
        &["rm", "--force", "work"],
        &["logs", "work"],
        &["send", "work", "x"],
        &["start", "--name", "work"],
    ] {
        let done = far.rig.run_occ(&[&["session"], args, &["--host", "other"]].concat());
        assert_eq!(done.code(), 2, "{args:?}: {}", done.stderr);
        assert!(done.stderr.contains("'work' is on h, and not on other"), "{}", done.stderr);
    }
    assert_eq!(far.look("work").state, SessionState::Running);
    assert_eq!(far.rig.occ_ok(&["session", "kill", "work", "--host", "h"]), "[h] work: exit 143\n");
}

#[test]
fn a_session_whose_host_was_removed_starts_on_another() {
    let Some(far) = Far::start() else { return };
    far.begin("work", "echo here");
    far.wait_for_end("work");
    far.rig.add_host("other", Target::from(&far.sshd));
    far.rig.occ_ok(&["host", "remove", "h", "--force"]);
    let stuck = far.rig.run_occ(&["session", "start", "--name", "work"]);
    assert!(stuck.stderr.contains("occ session edit"), "{}", stuck.stderr);
    far.rig.occ_ok(&["session", "edit", "work", "--host", "other"]);
    far.rig.occ_ok(&["session", "start", "--name", "work"]);
    assert_eq!(far.rig.run_occ(&["session", "wait", "work"]).code(), 0);
    assert_eq!(far.rig.occ_ok(&["session", "logs", "work"]), "here\n");
}

/// Both names have one home directory.
#[test]
fn a_session_that_moves_to_another_name_of_its_machine_keeps_what_it_writes() {
    let Some(far) = Far::start() else { return };
    far.rig.add_host("other", Target::from(&far.sshd));
    for name in ["one", "two", "three"] {
        far.begin(name, "echo before");
        far.wait_for_end(name);
        far.rig.occ_ok(&["session", "edit", name, "--host", "other", "--", "echo", "after"]);
        far.rig.occ_ok(&["session", "start", "--name", name]);
        assert_eq!(far.rig.run_occ(&["session", "wait", name]).code(), 0);
        assert_eq!(far.rig.occ_ok(&["session", "logs", name]), "after\n");
    }
}

/// What has lost its supervisor can be ended, and no signal has a meaning for it.
#[test]
fn a_lost_session_is_not_signalled() {
    if !RealSshd::require() {
        return;
    }
    let far = Far::start().unwrap();
    let session = far.begin("work", "exec sleep 1000");
    let kept = far.sshd.dir().join("cache/occ/sessions").join(&session.info.id);
    wait_for("the program", GUARD, || std::fs::read_to_string(kept.join("pid")).ok());
    let supervisor = std::fs::read_to_string(kept.join("sup")).unwrap();
    let supervisor = Process::find(supervisor.trim().parse().unwrap()).unwrap();
    supervisor.signal(Signal::KILL);
    let signalled = far.call("POST", "/work/signal", Some(json!({"signal": "INT"})));
    let problem: Value = signalled.json();
    assert_eq!((signalled.status, &problem["code"]), (409, &json!("session_ended")));
    assert!(problem["detail"].as_str().unwrap().contains("was lost"), "{problem}");
    let sent = far.rig.run_occ(&["session", "send", "work", "hello"]);
    assert_eq!(sent.code(), 1, "{}", sent.stdout);
    assert!(sent.stderr.contains("was lost"), "{}", sent.stderr);
}

#[test]
fn who_only_looks_on_leaves_by_ctrl_c_and_the_program_goes_on() {
    let Some(far) = Far::start() else { return };
    far.begin("work", "echo ready; exec sleep 1000");
    let mut occ = spawn(&far.rig, &["session", "logs", "-f", "work"]);
    let mut lines = BufReader::new(occ.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    signal(&occ, Signal::INT);
    assert_eq!(exit_code(&mut occ), 130);
    assert_eq!(far.look("work").state, SessionState::Running);
}

#[test]
fn who_waits_or_looks_on_takes_nobody_their_place_in_the_output() {
    let Some(far) = Far::start() else { return };
    far.begin("work", "echo one; read x; echo two");
    // These two began while nothing had been read.
    let mut others = [&["session", "wait", "work"][..], &["session", "logs", "-f", "work"]]
        .map(|args| spawn(&far.rig, args));
    let mut lines = BufReader::new(others[1].stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "one");
    let mut occ = spawn(&far.rig, &["session", "attach", "work"]);
    let mut lines = BufReader::new(occ.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "one");
    // Its second Ctrl-C would be for the program as well: this is how a terminal goes away.
    signal(&occ, Signal::HUP);
    exit_code(&mut occ);
    far.rig.occ_ok(&["session", "send", "work", "go"]);
    for other in &mut others {
        assert_eq!(exit_code(other), 0);
    }
    let attached = far.rig.run_occ(&["session", "attach", "-n", "work"]);
    assert_eq!((attached.code(), &attached.stdout[..]), (0, "two\n"));
}

#[test]
fn what_starting_again_does_not_change_is_refused_with_what_does() {
    let Some(far) = Far::start() else { return };
    far.begin("work", "pwd");
    far.wait_for_end("work");
    for (option, way) in [
        (&["--cwd", "/tmp"][..], "occ session edit work --cwd"),
        (&["--retries", "2"], "occ session edit work --retries"),
        (&["--tty"], "occ session rm work"),
        (&["--forward-urls"], "occ session rm work"),
    ] {
        let args = [&["session", "start", "--name", "work"], option].concat();
        let refused = far.rig.run_occ(&args);
        assert_eq!(refused.code(), 2, "{option:?}: {}", refused.stdout);
        assert!(refused.stderr.contains(option[0]), "{}", refused.stderr);
        assert!(refused.stderr.contains(way), "{}", refused.stderr);
    }
    far.rig.occ_ok(&["session", "edit", "work", "--cwd", "/tmp"]);
    far.rig.occ_ok(&["session", "start", "--name", "work"]);
    assert_eq!(far.rig.run_occ(&["session", "wait", "work"]).code(), 0);
    assert_eq!(far.rig.occ_ok(&["session", "logs", "work"]), "/tmp\n");
}

#[test]
fn what_was_over_before_it_was_to_be_ended_is_told_as_that() {
    let Some(far) = Far::start() else { return };
    far.begin("work", "exec sleep 1000");
    let done = || {
        let json = far.rig.occ_ok(&["session", "kill", "work", "--json"]);
        serde_json::from_str::<Value>(&json).unwrap()["items"][0]["done"].clone()
    };
    assert_eq!((done(), done()), (json!("ended"), json!("absent")));
}

/// A directory that somebody has taken away is no empty one.
#[test]
fn sessions_that_a_host_does_not_show_are_told_as_that() {
    let Some(far) = Far::start() else { return };
    far.begin("work", "exec sleep 1000");
    let kept = far.sshd.dir().join("cache/occ/sessions");
    let allow = |mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(&kept, mode).unwrap();
    };
    // To whom nothing is forbidden.
    if far.sshd.user() == "root" {
        return;
    }
    allow(0o000);
    let listed = far.rig.run_occ(&["session", "list", "--host", "h"]);
    let started = far.rig.run_occ(&["session", "start", "--host", "h", "--", "true"]);
    allow(0o700);
    for refused in [listed, started] {
        assert_eq!(refused.code(), 1, "{}", refused.stdout);
        assert!(refused.stderr.contains("sessions: permission denied"), "{}", refused.stderr);
    }
}
