//! A daemon that is killed, whatever it was doing: the next one needs no help, and no file is half written.

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use occ_proto::status::State;
use serde_json::{Value, json};
use testkit::http;
use testkit::proc::{Process, Signal};
use testkit::wait::blocking::wait_until;
use testkit::{DaemonRig, EmbeddedHost};

use crate::ask::{GUARD, body, echoes, in_state, list};

/// How often it is killed; OCC_KILLS says otherwise.
const KILLS: usize = 200;
/// Long before the file is written anyway.
const SOON: Duration = Duration::from_secs(20);
/// The latest moment of a kill after the start: a daemon is ready, and has written some files, by then.
const LATEST: Duration = Duration::from_millis(400);

fn names(rig: &DaemonRig) -> BTreeSet<String> {
    let path = &rig.paths().hosts_file_candidates().unwrap()[0];
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return BTreeSet::new(),
        Err(error) => panic!("{}: {error}", path.display()),
    };
    let file: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    file["hosts"].as_object().unwrap().keys().cloned().collect()
}

#[test]
fn whenever_it_is_killed_the_next_start_needs_no_help() {
    let kills = std::env::var("OCC_KILLS").ok().map_or(KILLS, |count| count.parse().unwrap());
    let seed = u64::from(std::process::id());
    println!("the moments are those of the seed {seed}");
    let mut random = seed;
    let mut rig = DaemonRig::new();
    // The edits that were answered.
    let mut done = BTreeSet::new();
    let mut count = 0;
    for round in 0..kills {
        // xorshift64: moments that a failure can be made to happen at again.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let after = LATEST.mul_f64((random % 1000) as f64 / 1000.0);
        let mut daemon = rig.spawn_daemon(&[]);
        let over = AtomicBool::new(false);
        let (socket, never) = (rig.socket(), mpsc::sync_channel::<()>(1));
        std::thread::scope(|scope| {
            let editor = scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    count += 1;
                    let name = format!("h{count}");
                    let config = json!({ "hostname": "203.0.113.9" });
                    let host = json!({ "name": name, "config": config, "verify": false });
                    let text = host.to_string();
                    let json = [("Content-Type", "application/json")];
                    let sent =
                        http::request(&socket, "POST", "/v1/hosts", &json, Some(text.as_bytes()));
                    match sent {
                        Ok(answer) if answer.status == 201 => _ = done.insert(name),
                        Ok(answer) => panic!("{}: {}", answer.status, answer.text()),
                        // Nobody listens yet, or it was killed.
                        Err(_) => std::thread::yield_now(),
                    }
                }
            });
            // A moment, and not something that is waited for.
            assert!(never.1.recv_timeout(after).is_err());
            daemon.kill().unwrap();
            daemon.wait().unwrap();
            over.store(true, Ordering::Relaxed);
            editor.join().unwrap();
        });
        let found = names(&rig);
        // Without the last edit, which nobody was told of, or with it.
        let missing: Vec<_> = done.difference(&found).collect();
        let more: Vec<_> = found.difference(&done).collect();
        assert!(missing.is_empty() && more.len() <= 1, "round {round}: {missing:?}, {more:?}");
        done = found;
    }
    rig.start_daemon(&[]);
    let listed = list(&rig).hosts.into_iter().map(|host| host.name.to_string());
    assert_eq!(listed.collect::<BTreeSet<_>>(), done);
    assert!(!done.is_empty(), "some edit was made");
    rig.occ_ok(&["host", "add", "last", "203.0.113.9", "--no-verify"]);
    assert!(rig.terminate_daemon().success());
    assert!(!rig.socket().exists());
}

#[test]
fn what_was_connected_when_it_was_killed_is_connected_again() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("used", &host);
    rig.start_daemon(&[]);
    echoes(&rig, "used");
    // It is soon known to whoever comes after, and not only when the daemon ends well.
    let file = rig.paths().state_dir().unwrap().join("used.json");
    wait_until(
        "the file",
        SOON,
        || fs::read_to_string(&file).unwrap_or_default(),
        |text| text.contains("used"),
    );
    rig.kill_daemon();
    rig.start_daemon(&[]);
    in_state(&rig, "used", State::Connected);
    let version: occ_proto::daemon::Version = body(&rig.http("GET", "/v1/version", &[], None));
    assert_eq!(version.pid, rig.daemon_pid());
}

#[test]
fn what_was_not_begun_is_asked_of_the_next_daemon_and_is_done_once() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("h", &host);
    let done = rig.root().join("done");
    let command = format!("echo once >>{}", done.display());
    for args in [
        &["host", "list"][..],
        &["status", "--host", "h", "--fresh"],
        &["ls", "h:/"],
        // Also what is more than a question: a daemon that has read nothing of it has not begun with it.
        &["host", "test", "h"],
        &["host", "default", "h"],
        &["exec", "--host", "h", "--", "sh", "-c", &command],
        // It says that it has started one.
        &["daemon", "start"],
    ] {
        rig.start_daemon(&[]);
        let daemon = rig.daemon();
        // It takes what is asked, as far as the kernel does that for it, and never answers.
        daemon.signal(Signal::STOP);
        wait_until("it to be stopped", GUARD, || daemon.is_stopped(), |stopped| *stopped);
        let mut occ = rig.occ(args);
        let occ = occ.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let occ = occ.spawn().unwrap();
        let asking = Process::find(occ.id()).unwrap();
        let has_asked = || {
            asking.is_waiting()
                && asking.open_files().iter().any(|file| file.starts_with("socket:"))
        };
        wait_until("it to ask", GUARD, has_asked, |asked| *asked);
        rig.kill_daemon();
        let output = occ.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {said}");
        let is_start = *args == ["daemon", "start"];
        assert_eq!(String::from_utf8_lossy(&output.stdout).contains("occd started"), is_start);
        rig.run_occ(&["daemon", "stop"]);
    }
    assert_eq!(fs::read_to_string(&done).unwrap(), "once\n");
}

#[test]
fn a_command_that_may_have_begun_is_not_run_again() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("h", &host);
    rig.start_daemon(&[]);
    let done = rig.root().join("done");
    let command = format!("echo once >>{}; sleep 600", done.display());
    let mut occ = rig.occ(&["exec", "--host", "h", "--", "sh", "-c", &command]);
    let occ = occ.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let occ = occ.spawn().unwrap();
    let read = || fs::read_to_string(&done).unwrap_or_default();
    wait_until("it to begin", GUARD, read, |text| text == "once\n");
    rig.kill_daemon();
    let output = occ.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{said}");
    assert!(said.contains("Outcome unknown"), "{said}");
    rig.start_daemon(&[]);
    echoes(&rig, "h");
    assert_eq!(read(), "once\n");
}
