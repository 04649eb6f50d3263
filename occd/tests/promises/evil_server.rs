//! A server that misbehaves gets nothing it has not been asked for, and never a command twice.

use std::thread;

use occ_proto::exec::ExecResult;
use occ_proto::status::State;
use occ_proto::{Code, Problem};
use serde_json::{Value, json};
use testkit::embedded::{Phase, Refusal, UNSOLICITED_KINDS};
use testkit::wait::blocking::{wait_for, wait_until};
use testkit::{DaemonRig, EmbeddedHost};

use crate::support::{
    GUARD, daemon_for, daemon_with, exec, exit_code, no_channels, post, settled, shell, spawn_occ,
    status,
};

fn embedded() -> (EmbeddedHost, DaemonRig) {
    let host = EmbeddedHost::start();
    let rig = daemon_for(&host);
    (host, rig)
}

/// A line that leaves a trace, so that it can be counted how often it ran.
const TRACE: &str = "echo ran >> ~/ran; echo done";

fn ran(host: &EmbeddedHost) -> usize {
    std::fs::read_to_string(host.home().join("ran")).unwrap_or_default().lines().count()
}

fn problem(rig: &DaemonRig, request: Value) -> Problem {
    let response = post(rig, request);
    assert_ne!(response.status, 200, "{}", response.text());
    serde_json::from_slice(&response.body).unwrap()
}

#[test]
fn channels_that_nobody_asked_for_are_refused() {
    let host = EmbeddedHost::start();
    host.open_unsolicited_channels(true);
    let rig = daemon_for(&host);
    settled(&rig);
    let all = wait_until(
        "an answer to every unsolicited channel",
        GUARD,
        || host.unsolicited(),
        |answers| answers.len() >= UNSOLICITED_KINDS,
    );
    assert!(all.iter().all(|channel| channel.rejected), "{all:?}");
    assert_eq!(shell(&rig, "echo fine").stdout.as_deref(), Some("fine\n"));
    assert_eq!(status(&rig).connects, 1);
}

#[test]
fn a_command_whose_channel_closes_before_it_starts_is_repeated_once() {
    let (host, rig) = embedded();
    settled(&rig);
    let before = host.execs();
    host.close_channel_before_success(1);
    let result = shell(&rig, TRACE);
    assert_eq!(result.stdout.as_deref(), Some("done\n"));
    assert_eq!((host.execs() - before, ran(&host)), (2, 1));
    no_channels(&rig, GUARD);
}

#[test]
fn a_command_that_never_starts_is_not_tried_for_ever() {
    let (host, rig) = embedded();
    settled(&rig);
    let before = host.execs();
    host.close_channel_before_success(2);
    let problem = problem(&rig, json!({ "shell": TRACE }));
    assert_eq!((problem.code, problem.status), (Code::ExecRefused, 502));
    assert_eq!((host.execs() - before, ran(&host)), (2, 0));
    host.close_channel_before_success(2);
    let occ = rig.run_occ(&["exec", "--host", "h", "--shell", "--", TRACE]);
    assert_eq!(occ.code(), 1, "{occ:?}");
    assert!(
        occ.stderr.contains("not start") || occ.stderr.contains("before it started"),
        "{occ:?}"
    );
    assert_eq!((host.execs() - before, ran(&host)), (4, 0));
    assert_eq!(shell(&rig, TRACE).stdout.as_deref(), Some("done\n"));
    no_channels(&rig, GUARD);
}

#[test]
fn an_end_without_a_status_is_no_success() {
    let (host, rig) = embedded();
    settled(&rig);
    host.exit_without_status(true);
    let problem = problem(&rig, json!({ "shell": TRACE }));
    assert_eq!((problem.code, problem.status), (Code::OutcomeUnknown, 502));
    let occ = rig.run_occ(&["exec", "--host", "h", "--shell", "--", TRACE]);
    assert_eq!((occ.code(), occ.stdout.as_str()), (6, "done\n"), "{occ:?}");
    assert_eq!(ran(&host), 2);
}

#[test]
fn a_status_without_the_output_is_no_success() {
    // A soak found it: the status had come, the link broke before the output, and occd said success.
    let (host, rig) = embedded();
    settled(&rig);
    host.disconnect_before_output(true);
    let problem = problem(&rig, json!({ "shell": TRACE }));
    assert_eq!((problem.code, problem.status), (Code::OutcomeUnknown, 502));
    assert!(problem.detail.contains("ended with exit code 0"), "{problem:?}");
    let occ = rig.run_occ(&["exec", "--host", "h", "--shell", "--", TRACE]);
    assert_eq!(occ.code(), 6, "{occ:?}");
    assert_eq!(ran(&host), 2);
    host.disconnect_before_output(false);
    assert_eq!(shell(&rig, TRACE).stdout.as_deref(), Some("done\n"));
    no_channels(&rig, GUARD);
}

#[test]
fn a_channel_that_is_never_closed_holds_nothing() {
    let (host, rig) = embedded();
    settled(&rig);
    host.never_close_channel(true);
    for _ in 0..3 {
        let result = shell(&rig, TRACE);
        assert_eq!((result.stdout.as_deref(), result.exit.code), (Some("done\n"), Some(0)));
    }
    no_channels(&rig, GUARD);
    // The spare at most.
    wait_until("the server's channels", GUARD, || host.open_channels(), |n| *n <= 1);
}

#[test]
fn a_link_lost_in_the_middle_is_told_and_nothing_is_repeated() {
    let (host, rig) = embedded();
    settled(&rig);
    let script = "echo ran >> ~/ran; exec sleep 1000";
    let answer: Problem = thread::scope(|scope| {
        let request = scope.spawn(|| problem(&rig, json!({ "shell": script })));
        wait_until("the command", GUARD, || ran(&host), |n| *n == 1);
        host.drop_connections();
        request.join().unwrap()
    });
    assert_eq!((answer.code, answer.status), (Code::OutcomeUnknown, 502));
    assert!(answer.detail.contains("may still run"), "{answer:?}");
    // Connected again on the next use, whatever the backoff says.
    let mut occ = spawn_occ(&rig, &["sh", "-c", script]);
    wait_until("the second command", GUARD, || ran(&host), |n| *n == 2);
    host.drop_connections();
    assert_eq!(exit_code(&mut occ), 6);
    assert_eq!(shell(&rig, "echo next").stdout.as_deref(), Some("next\n"));
    assert_eq!(ran(&host), 2);
}

#[test]
fn one_session_at_a_time_is_enough() {
    let host = EmbeddedHost::start();
    host.max_sessions(Some((1, Refusal::ConnectFailed)));
    let rig = daemon_for(&host);
    let results: Vec<ExecResult> = thread::scope(|scope| {
        let run = |n: u32| {
            let rig = &rig;
            scope.spawn(move || exec(rig, json!({ "shell": format!("echo {n}; {TRACE}") })))
        };
        let workers: Vec<_> = (0..5).map(run).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    for (n, result) in results.iter().enumerate() {
        assert_eq!(result.stdout, Some(format!("{n}\ndone\n")), "{result:?}");
    }
    assert_eq!(ran(&host), 5);
    no_channels(&rig, GUARD);
    // With nobody waiting any more, the only session is kept open ahead again, and serves.
    for n in 6..8 {
        wait_until("the spare", GUARD, || host.open_channels(), |open| *open == 1);
        assert_eq!(shell(&rig, TRACE).stdout.as_deref(), Some("done\n"));
        assert_eq!(ran(&host), n);
    }
}

#[test]
fn a_command_does_not_wait_longer_to_begin_than_it_may_last() {
    let host = EmbeddedHost::start();
    host.max_sessions(Some((1, Refusal::ConnectFailed)));
    let rig = daemon_with(&host, "[connection]\nmax_connections = 1\n");
    let mut first = spawn_occ(&rig, &["sh", "-c", "echo ran >> ~/ran; exec sleep 1000"]);
    wait_until("the first command", GUARD, || ran(&host), |n| *n == 1);
    let second = rig.run_occ(&["exec", "--host", "h", "--timeout", "1s", "--", "true"]);
    // A command without a limit waits for 30 s.
    assert!(second.stderr.contains("within 1 s"), "{second:?}");
    assert_eq!(second.code(), 5, "{second:?}");
    assert!(second.stderr.contains("The command was not started."), "{second:?}");
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
fn whoever_wants_files_waits_for_a_session_no_longer_than_a_command() {
    let full = EmbeddedHost::start();
    full.max_sessions(Some((1, Refusal::ConnectFailed)));
    let of_full = daemon_with(&full, "[connection]\nmax_connections = 1\n");
    let mut first = spawn_occ(&of_full, &["sh", "-c", "echo ran >> ~/ran; exec sleep 1000"]);
    wait_until("the first command", GUARD, || ran(&full), |n| *n == 1);
    let silent = EmbeddedHost::start();
    let of_silent = daemon_for(&silent);
    settled(&of_silent);
    silent.stall_at(Phase::Exec);
    // At once: one that waits for another is not to wait for the sum.
    thread::scope(|scope| {
        let full = || scope.spawn(|| of_full.run_occ(&["ls", "h:/"]));
        let (one, other) = (full(), full());
        let silent = scope.spawn(|| of_silent.run_occ(&["ls", "h:/"]));
        for occ in [one, other] {
            let occ = occ.join().unwrap();
            assert!(occ.stderr.contains("none became free within 30"), "{occ:?}");
            assert_eq!(occ.code(), 5, "{occ:?}");
        }
        let occ = silent.join().unwrap();
        assert!(occ.stderr.contains("did not say within 30 s"), "{occ:?}");
    });
    first.kill().unwrap();
    first.wait().unwrap();
    // Nothing is left in the way of the next one.
    full.max_sessions(None);
    of_full.occ_ok(&["ls", "h:/"]);
    silent.clear_stall();
    of_silent.occ_ok(&["ls", "h:/"]);
}

#[test]
fn a_server_without_sessions_says_so_at_once() {
    let host = EmbeddedHost::start();
    host.max_sessions(Some((0, Refusal::AdministrativelyProhibited)));
    let rig = daemon_for(&host);
    let answer = problem(&rig, json!({ "shell": TRACE }));
    assert_eq!((answer.code, answer.status), (Code::SessionRefused, 503));
    let occ = rig.run_occ(&["exec", "--host", "h", "--", "true"]);
    assert_eq!(occ.code(), 5, "{occ:?}");
    assert!(occ.stderr.contains("The command was not started."), "{occ:?}");
    assert_eq!(host.execs(), 0);
    // The connection itself is good: forwarding needs no session.
    assert_eq!(status(&rig).state, State::Connected);
    // Several at once are told the same, whatever each of them hopes of the others.
    thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| {
                let answer = problem(&rig, json!({ "argv": ["true"] }));
                assert_eq!(answer.code, Code::SessionRefused);
            });
        }
    });
    host.max_sessions(None);
    wait_for("sessions to be taken again", GUARD, || {
        (post(&rig, json!({ "argv": ["true"] })).status == 200).then_some(())
    });
}
