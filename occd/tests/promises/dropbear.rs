//! Dropbear, whose channels behave differently: it ends unused sessions when any session ends.

use std::process::Stdio;
use std::thread;

use serde_json::json;
use testkit::proc::{self, Process};
use testkit::wait::blocking::{wait_for, wait_until};
use testkit::{DaemonRig, Dropbear};

use crate::support::{GUARD, daemon_for, exec, no_channels, occ_exec, settled, shell, status};

fn dropbear() -> Option<(Dropbear, DaemonRig)> {
    if !Dropbear::require() {
        return None;
    }
    let dropbear = Dropbear::start();
    let rig = daemon_for(&dropbear);
    Some((dropbear, rig))
}

/// Returns the processes whose command line holds `word`, occ's own apart.
fn remote(word: &str) -> Vec<Process> {
    proc::marked(word).into_iter().filter(|process| process.name() == "sleep").collect()
}

/// Returns an argument for `sleep` that no other test uses.
fn unique_sleep() -> String {
    format!("1000.{}", fastrand::u32(1_000_000..))
}

#[test]
fn no_command_is_lost_and_none_runs_twice() {
    let Some((_dropbear, rig)) = dropbear() else { return };
    let dir = shell(&rig, "mktemp -d").stdout.unwrap().trim().to_owned();
    for n in 0..60 {
        let result = exec(&rig, json!({ "shell": format!("echo {n} >> {dir}/ran; echo {n}") }));
        assert_eq!((result.stdout, result.exit.code), (Some(format!("{n}\n")), Some(0)));
    }
    let ran = shell(&rig, &format!("cat {dir}/ran; rm -r {dir}")).stdout.unwrap();
    assert_eq!(ran, (0..60).map(|n| format!("{n}\n")).collect::<String>());
    assert_eq!(status(&rig).connects, 1);
    no_channels(&rig, GUARD);
}

#[test]
fn a_time_limit_ends_the_command() {
    let Some((_dropbear, rig)) = dropbear() else { return };
    shell(&rig, "true");
    let sleep = unique_sleep();
    let result = exec(&rig, json!({ "argv": ["sleep", sleep], "timeout_ms": 300 }));
    assert!(result.exit.timed_out && !result.exit.may_still_run, "{result:?}");
    assert_eq!(remote(&sleep), []);
    no_channels(&rig, GUARD);
    assert_eq!(shell(&rig, "echo next").stdout.as_deref(), Some("next\n"));
}

#[test]
fn what_a_shell_has_started_ends_with_it() {
    let Some((_dropbear, rig)) = dropbear() else { return };
    shell(&rig, "true");
    // Dropbear signals the shell alone.
    let timed_out = unique_sleep();
    let line = format!("sleep {timed_out} & sleep {timed_out}; echo never");
    let result = exec(&rig, json!({ "shell": line, "timeout_ms": 300 }));
    assert!(result.exit.timed_out, "{result:?}");
    wait_until("the sleeps to be gone", GUARD, || remote(&timed_out), Vec::is_empty);
    let left = unique_sleep();
    let line = format!("sleep {left}; echo never");
    let mut occ = occ_exec(&rig).args(["sh", "-c", &line]).stdout(Stdio::null()).spawn().unwrap();
    wait_for("the remote sleep", GUARD, || remote(&left).first().copied());
    occ.kill().unwrap();
    occ.wait().unwrap();
    wait_until("the sleep to be gone", GUARD, || remote(&left), Vec::is_empty);
    no_channels(&rig, GUARD);
    assert_eq!(shell(&rig, "echo next").stdout.as_deref(), Some("next\n"));
}

#[test]
fn a_killed_client_ends_its_command() {
    let Some((_dropbear, rig)) = dropbear() else { return };
    let sleep = unique_sleep();
    let mut occ = occ_exec(&rig).args(["sleep", &sleep]).stdout(Stdio::null()).spawn().unwrap();
    wait_for("the remote sleep", GUARD, || remote(&sleep).first().copied());
    occ.kill().unwrap();
    occ.wait().unwrap();
    wait_until("the remote sleep to be gone", GUARD, || remote(&sleep), Vec::is_empty);
    no_channels(&rig, GUARD);
    assert_eq!(shell(&rig, "echo next").stdout.as_deref(), Some("next\n"));
}

#[test]
fn commands_at_once_answer_right_and_run_once() {
    let Some((_dropbear, rig)) = dropbear() else { return };
    settled(&rig);
    let dir = shell(&rig, "mktemp -d").stdout.unwrap().trim().to_owned();
    // Dropbear closes the sessions that have not started anything whenever a program ends, and runs what
    // was on its way to them: many short commands at once meet that.
    thread::scope(|scope| {
        for n in 0..60u32 {
            let (rig, dir) = (&rig, &dir);
            scope.spawn(move || {
                let script = format!("echo {n} >> {dir}/ran; cat; echo {n}; exit {n}");
                let request = json!({ "argv": ["sh", "-c", script], "stdin": format!("in-{n} ") });
                let result = exec(rig, request);
                assert_eq!(result.stdout, Some(format!("in-{n} {n}\n")));
                assert_eq!(result.exit.code, Some(n));
            });
        }
    });
    let ran = shell(&rig, &format!("sort -n {dir}/ran; rm -r {dir}")).stdout.unwrap();
    assert_eq!(ran, (0..60).map(|n| format!("{n}\n")).collect::<String>());
    no_channels(&rig, GUARD);
}

#[test]
fn a_long_command_does_not_keep_others_from_running() {
    let Some((_dropbear, rig)) = dropbear() else { return };
    let sleep = unique_sleep();
    let mut long = occ_exec(&rig).args(["sleep", &sleep]).stdout(Stdio::null()).spawn().unwrap();
    wait_for("the remote sleep", GUARD, || remote(&sleep).first().copied());
    for n in 0..5 {
        assert_eq!(shell(&rig, &format!("echo {n}")).stdout, Some(format!("{n}\n")));
    }
    assert_eq!(remote(&sleep).len(), 1);
    long.kill().unwrap();
    long.wait().unwrap();
    wait_until("the remote sleep to be gone", GUARD, || remote(&sleep), Vec::is_empty);
}

#[test]
fn input_that_nobody_reads_holds_nothing() {
    let Some((_dropbear, rig)) = dropbear() else { return };
    // Dropbear's window is a few kilobytes: most of this waits for one that never opens.
    let stdin = "x".repeat(900 * 1024);
    for _ in 0..3 {
        let result = exec(&rig, json!({ "argv": ["head", "-c1"], "stdin": stdin }));
        assert_eq!((result.stdout.as_deref(), result.exit.code), (Some("x"), Some(0)));
    }
    no_channels(&rig, GUARD);
}
