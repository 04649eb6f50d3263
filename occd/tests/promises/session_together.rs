//! Sessions that several clients act on at the same time, and sessions whose host is another one by now.

use std::thread;

use occ_proto::session::{Session, SessionList, SessionState};
use serde_json::{Value, json};
use testkit::RealSshd;
use testkit::daemon::Target;
use testkit::proc::Process;
use testkit::wait::blocking::{wait_for, wait_until};

use crate::session::Far;
use crate::support::{GUARD, remote_programs};

/// Returns the programs of sessions that run this line of sh.
fn programs(far: &Far, line: &str) -> Vec<Process> {
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
    supervisor.signal(testkit::proc::Signal::KILL);
    let signalled = far.call("POST", "/work/signal", Some(json!({"signal": "INT"})));
    let problem: Value = signalled.json();
    assert_eq!((signalled.status, &problem["code"]), (409, &json!("session_ended")));
    assert!(problem["detail"].as_str().unwrap().contains("was lost"), "{problem}");
}
