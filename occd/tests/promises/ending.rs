//! Ending commands where it is harder: servers that refuse signals, hosts that are taken away, and hosts
//! that are full.

use std::os::unix::fs::PermissionsExt as _;

use occ_proto::exec::ExecResult;
use occ_proto::status::{HostStatus, State, SystemUnknown};
use occ_proto::{Code, Problem};
use serde_json::json;
use testkit::require::require_root;
use testkit::wait::blocking::wait_until;
use testkit::{DaemonRig, RealSshd};

use crate::support::{
    GUARD, Ws, daemon_for, daemon_with, exec, no_channels, no_programs, post, remote_program,
    settled, spawn_occ, sshd, status,
};

/// OpenSSH passes no signals on for a login as root.
fn as_root() -> Option<(RealSshd, testkit::DaemonRig)> {
    if !RealSshd::require() || !require_root("a login as root") {
        return None;
    }
    let sshd = RealSshd::builder().user("root").start();
    let rig = daemon_for(&sshd);
    Some((sshd, rig))
}

#[test]
fn a_command_of_root_is_ended_too() {
    let Some((sshd, rig)) = as_root() else { return };
    settled(&rig);
    let ended = |argv: serde_json::Value| -> ExecResult {
        let result = exec(&rig, json!({ "argv": argv, "timeout_ms": 1000 }));
        assert!(result.exit.timed_out && !result.exit.may_still_run, "{result:?}");
        no_programs(&sshd, GUARD);
        result
    };
    assert_eq!(ended(json!(["sleep", "1000"])).exit.signal.as_deref(), Some("TERM"));
    // The whole group, and the second signal where the first does not help.
    let deaf = "trap '' TERM; sleep 1000; sleep 1000";
    assert_eq!(ended(json!(["sh", "-c", deaf])).exit.signal.as_deref(), Some("KILL"));
    no_channels(&rig, GUARD);
}

#[test]
fn a_client_of_root_that_leaves_ends_its_command() {
    let Some((sshd, rig)) = as_root() else { return };
    settled(&rig);
    let mut ws = Ws::start(&rig, &json!({ "argv": ["sleep", "1000"] }));
    ws.started();
    remote_program(&sshd, "sleep");
    drop(ws);
    no_programs(&sshd, GUARD);
    no_channels(&rig, GUARD);
}

#[test]
fn what_runs_on_a_host_ends_when_the_host_is_taken_away() {
    let Some((sshd, mut rig)) = sshd() else { return };
    let runs = |rig: &testkit::DaemonRig| {
        settled(rig);
        let mut ws = Ws::start(rig, &json!({ "argv": ["sleep", "1000"] }));
        ws.started();
        remote_program(&sshd, "sleep");
        ws
    };
    let ws = runs(&rig);
    assert_eq!(rig.http("POST", "/v1/hosts/h/disconnect", &[], None).status, 200);
    no_programs(&sshd, GUARD);
    drop(ws);

    assert_eq!(rig.http("POST", "/v1/hosts/h/connect", &[], None).status, 200);
    let ws = runs(&rig);
    assert!(rig.terminate_daemon().success());
    no_programs(&sshd, GUARD);
    drop(ws);

    rig.start_daemon(&[]);
    let ws = runs(&rig);
    assert_eq!(rig.http("DELETE", "/v1/hosts/h?force=true", &[], None).status, 204);
    no_programs(&sshd, GUARD);
    drop(ws);
}

#[test]
fn a_command_that_loses_its_host_on_purpose_says_so() {
    let Some((sshd, rig)) = sshd() else { return };
    for verb in ["disconnect", "reconnect"] {
        rig.occ_ok(&["connect", "--host", "h"]);
        let occ = spawn_occ(&rig, &["sleep", "1000"]);
        remote_program(&sshd, "sleep");
        rig.occ_ok(&[verb, "--host", "h"]);
        let output = occ.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(143), "{said}");
        assert!(said.starts_with("Error: h was disconnected"), "{said}");
    }
}

#[test]
fn root_is_signalled_where_only_one_session_is_to_be_had() {
    if !RealSshd::require() || !require_root("a login as root") {
        return;
    }
    let sshd = RealSshd::builder().user("root").max_sessions(1).start();
    let rig = daemon_for(&sshd);
    settled(&rig);
    let result = exec(&rig, json!({ "argv": ["sleep", "1000"], "timeout_ms": 500 }));
    assert!(result.exit.timed_out && !result.exit.may_still_run, "{result:?}");
    assert_eq!(result.exit.signal.as_deref(), Some("TERM"));
    no_programs(&sshd, GUARD);
}

#[test]
fn a_full_host_is_waited_for_and_not_for_ever() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::builder().max_sessions(1).start();
    let rig = daemon_with(&sshd, "[connection]\nmax_connections = 1\n");
    settled(&rig);
    let mut ws = Ws::start(&rig, &json!({ "argv": ["sleep", "1000"] }));
    ws.started();
    let response = post(&rig, json!({ "argv": ["true"] }));
    let problem: Problem = serde_json::from_slice(&response.body).unwrap();
    assert_eq!((response.status, problem.code), (503, Code::SessionRefused), "{problem:?}");
    assert_eq!((problem.retryable, problem.retry_after_ms), (true, Some(1000)), "{problem:?}");
    assert_eq!(response.header("retry-after"), Some("1"));
    // A wait that is over in a moment is told as what it was.
    let soon = rig.http(
        "POST",
        "/v1/hosts/h/exec",
        &[],
        Some(json!({ "argv": ["true"], "wait_ms": 300 })),
    );
    assert!(
        !soon.text().contains("within 0 s") && !soon.text().contains("within 0.0 s"),
        "{}",
        soon.text()
    );
    drop(ws);
    assert_eq!(exec(&rig, json!({ "argv": ["true"] })).exit.code, Some(0));
    assert_eq!(status(&rig).connects, 1);
}

#[test]
fn a_forced_command_runs_in_place_of_the_one_asked_for_and_is_told_when_it_cannot_be_ended() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::builder()
        .config(
            "ForceCommand case \"$SSH_ORIGINAL_COMMAND\" in *probe*) exit;; esac; \
             echo forced: $SSH_ORIGINAL_COMMAND; exec sleep 600",
        )
        .start();
    let rig = daemon_for(&sshd);
    // sshd passes no signals to a forced command.
    let output = rig.run_occ(&["exec", "--host", "h", "--timeout", "1s", "--", "echo", "asked"]);
    assert_eq!(output.code(), 124, "{output:?}");
    assert!(output.stdout.starts_with("forced: ") && output.stdout.contains("asked"), "{output:?}");
    assert!(output.stderr.contains("may still run"), "{output:?}");
    // The host is as good as it was.
    no_channels(&rig, GUARD);
    assert_eq!(status(&rig).state, State::Connected);
}

#[test]
fn a_forced_command_is_run_once_by_the_daemon_or_never() {
    if !RealSshd::require() {
        return;
    }
    for (probe, runs) in [("true", 1), ("false", 0)] {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let file = dir.path().join("ran");
        let command = format!("ForceCommand echo >> {}", file.display());
        let sshd = RealSshd::builder().config(&command).start();
        let mut rig = DaemonRig::new();
        rig.add_host("h", &sshd);
        rig.write_config_toml(&format!("[hosts.h]\nprobe = {probe}\n"));
        rig.start_daemon(&[]);
        let ran = || std::fs::read_to_string(&file).unwrap_or_default().lines().count();
        for connects in 1..=3 {
            let known = |status: &HostStatus| {
                status.connects == connects
                    && status.connection.as_ref().is_some_and(|c| c.system.is_some())
            };
            assert_eq!(crate::ask::post(&rig, "/v1/hosts/h/connect").status, 200);
            let status_of = wait_until("the host to be known", GUARD, || status(&rig), known);
            let system = status_of.connection.unwrap().system.unwrap();
            let (unknown, says) = match probe {
                "true" => (SystemUnknown::ForcedCommand, "not known: the host runs one command"),
                _ => (SystemUnknown::ProbeOff, "not known: it was not asked (probe = false"),
            };
            assert_eq!(system.unknown, Some(unknown));
            let told = rig.occ_ok(&["status", "-v", "--host", "h"]);
            assert!(told.contains(&format!("System    {says}")), "{told}");
            assert!(!told.contains("Docker    none"), "{told}");
            assert_eq!(told.contains("forced command"), probe == "true", "{told}");
            if probe == "false" {
                let test = rig.occ_ok(&["host", "test", "h"]);
                assert!(test.contains("none was run (probe = false in occd.toml)"), "{test}");
            }
            assert_eq!(ran(), runs, "after {connects} logins");
            sshd.kill_sessions();
            wait_until("the end", GUARD, || status(&rig), |s| !known(s));
        }
    }
}

#[test]
fn a_server_without_sessions_is_a_jump_host_and_says_that_it_runs_nothing() {
    if !RealSshd::require() {
        return;
    }
    let (bastion, server) = (RealSshd::builder().max_sessions(0).start(), RealSshd::start());
    let mut rig = DaemonRig::new();
    rig.add_host("bastion", &bastion);
    rig.add_host("h", &server);
    rig.edit_hosts(|file| {
        file.hosts.get_mut("h").unwrap().jump_host = Some("bastion".to_owned());
    });
    rig.start_daemon(&[]);
    assert_eq!(exec(&rig, json!({ "argv": ["echo", "through"] })).stdout.unwrap(), "through\n");
    let output = rig.run_occ(&["exec", "--host", "bastion", "--", "true"]);
    assert_eq!(output.code(), 5, "{output:?}");
    assert!(
        output.stderr.contains("session") && output.stderr.contains("MaxSessions"),
        "{output:?}"
    );
    let output = rig.run_occ(&["host", "test", "bastion"]);
    assert_eq!(output.code(), 5, "{output:?}");
    assert!(output.stdout.contains("✗ command") && output.stdout.contains("✓ login"), "{output:?}");
    assert_eq!(exec(&rig, json!({ "argv": ["echo", "still"] })).stdout.unwrap(), "still\n");
}
