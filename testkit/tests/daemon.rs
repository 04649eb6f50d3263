//! The rig itself, with a stand-in for the daemon: the real one is tested by its own crate.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt as _;

use occ_proto::paths::Env;
use serde_json::json;
use testkit::daemon::Target;
use testkit::proc::{self, Process};
use testkit::wait::blocking;
use testkit::{DaemonRig, EmbeddedHost, FaultyLink};

/// Guards against hanging.
const GUARD: std::time::Duration = std::time::Duration::from_secs(30);

#[test]
fn hosts_are_written_as_the_schema_says_and_known() {
    let rig = DaemonRig::new();
    let host = EmbeddedHost::start();
    let link = FaultyLink::start(host.addr());
    rig.add_host("near", &host);
    rig.add_host("far", Target::from(&host).through(&link));
    let text = std::fs::read_to_string(rig.hosts_file()).unwrap();
    let file: occ_proto::HostsFile = serde_json::from_str(&text).unwrap();
    let ports: Vec<_> = file.hosts.values().map(|config| config.port.unwrap()).collect();
    assert_eq!(ports, [host.port(), link.port()]);
    let known = std::fs::read_to_string(rig.known_hosts_file()).unwrap();
    assert!(known.contains(&host.known_hosts_line()), "{known}");
    assert!(known.contains(&format!("[127.0.0.1]:{} ", link.port())), "{known}");
}

#[test]
fn paths_are_private_short_and_gone_after_drop() {
    let rig = DaemonRig::new();
    assert!(rig.socket().as_os_str().len() < 60, "{}", rig.socket().display());
    assert!(rig.socket().starts_with(rig.root()));
    for dir in ["run", "home/.ssh"] {
        let mode = std::fs::metadata(rig.root().join(dir)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
    rig.write_config_toml("x = 1\n");
    let root = rig.root().to_owned();
    drop(rig);
    assert!(!root.exists());
}

/// Set in the environment of this test program when it is to be the daemon.
const STAND_IN: &str = "TESTKIT_STAND_IN";

/// The stand-in, as a test so that it needs no program of its own: it answers with its own process id
/// and the request's body. Without the variable it does nothing.
#[test]
fn stand_in() {
    if std::env::var_os(STAND_IN).is_none() {
        return;
    }
    let socket = Env::from_process().socket(None).unwrap();
    std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
    let _ = std::fs::remove_file(&socket);
    println!("the stand-in listens");
    for mut stream in UnixListener::bind(socket).unwrap().incoming().map_while(Result::ok) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let (mut line, mut length) = (String::new(), 0);
        while reader.read_line(&mut line).unwrap() > 2 {
            length =
                line.strip_prefix("Content-Length: ").map_or(length, |n| n.trim().parse().unwrap());
            line.clear();
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let body = String::from_utf8(body).unwrap();
        let answer = json!({"pid": std::process::id(), "body": body}).to_string();
        let length = answer.len();
        let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{answer}");
    }
}

fn stand_in_rig() -> DaemonRig {
    let mut rig = DaemonRig::new();
    rig.set_env(STAND_IN, "1");
    rig.set_daemon_binary(std::env::current_exe().unwrap());
    rig
}

const ARGS: [&str; 3] = ["--exact", "stand_in", "--nocapture"];

#[test]
fn a_daemon_is_started_asked_looked_at_and_ended() {
    let mut rig = stand_in_rig();
    rig.start_daemon(&ARGS);
    let answer = rig.http("POST", "/x", &[("X-A", "b")], Some(json!({"a": 1})));
    assert_eq!((answer.status, answer.header("Content-Length").is_some()), (200, true));
    assert_eq!(answer.json()["body"], r#"{"a":1}"#);
    assert_eq!(answer.json()["pid"], rig.daemon_pid());
    assert!(rig.daemon_fds() >= 4 && rig.daemon_threads() >= 1);
    assert!(rig.daemon_rss_kib() > rig.daemon_private_dirty_kib());
    assert!(rig.daemon_private_dirty_kib() > 0 && rig.daemon_children().is_empty());
    assert!(rig.log().contains("the stand-in listens"), "{}", rig.log());
    assert_eq!(rig.terminate_daemon().signal(), Some(15));
    rig.start_daemon(&ARGS);
    let first = rig.daemon();
    rig.kill_daemon();
    assert!(!first.is_alive());
}

#[test]
fn daemons_that_the_rig_did_not_start_end_with_it_too() {
    let rig = stand_in_rig();
    let mut other = rig.spawn_daemon(&ARGS);
    let process = Process::find(other.id()).unwrap();
    let root = rig.root().display().to_string();
    // A process that has just been started has no environment for a moment.
    let marked = || proc::marked(&root);
    blocking::wait_until("the mark", GUARD, marked, |found| *found == [process]);
    drop(rig);
    assert!(!process.is_alive());
    other.wait().unwrap();
}

#[test]
#[should_panic(expected = "ended with exit status: 101")]
fn a_daemon_that_fails_is_reported_with_its_log() {
    let mut rig = stand_in_rig();
    rig.start_daemon(&["--no-such-option"]);
}
