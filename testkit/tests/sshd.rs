//! The real servers, driven by the real client.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use std::time::Duration;

use testkit::proc::{self, Process};
use testkit::ssh::{ssh, start};
use testkit::wait::blocking::wait_until;
use testkit::{Dropbear, RealSshd};

const DEADLINE: Duration = Duration::from_secs(20);

fn client(sshd: &RealSshd) -> std::process::Command {
    ssh(sshd.addr(), sshd.user(), sshd.client_key_path())
}

/// Returns a client whose command lasts, once it has started.
fn hold_session(sshd: &RealSshd) -> std::process::Child {
    start(client(sshd), "exec sleep 1000")
}

#[test]
fn a_login_runs_a_command_as_the_test_user_with_a_plain_shell() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::builder().host_keys(&["ed25519", "rsa"]).max_sessions(3).start();
    let output = client(&sshd).arg("id -un; echo e >&2; exit 7").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), sshd.user(), "{}", sshd.log());
    assert_eq!(output.stderr, b"e\n");
    assert_eq!(output.status.code(), Some(7));
    assert!(sshd.log().contains("Accepted publickey"), "{}", sshd.log());
    assert_eq!(sshd.known_hosts_line().lines().count(), 2);
    wait_until("the session to end", DEADLINE, || sshd.session_count(), |n| *n == 0);
}

#[test]
fn known_hosts_lines_are_what_the_client_checks() {
    if !RealSshd::require() {
        return;
    }
    let mut sshd = RealSshd::start();
    let file = sshd.dir().join("known_hosts");
    std::fs::write(&file, sshd.known_hosts_line() + "\n").unwrap();
    let strict = |sshd: &RealSshd| {
        let mut command = std::process::Command::new("ssh");
        command.args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"]);
        command.arg("-o").arg(format!("UserKnownHostsFile={}", file.display()));
        command.arg("-i").arg(sshd.client_key_path());
        command.args(["-p", &sshd.port().to_string(), "-l", sshd.user(), "127.0.0.1", "true"]);
        command.output().unwrap().status.success()
    };
    assert!(strict(&sshd));
    sshd.change_host_keys();
    assert!(!strict(&sshd));
}

#[test]
fn sessions_survive_a_restart_of_the_listener_and_die_when_killed() {
    if !RealSshd::require() {
        return;
    }
    let mut sshd = RealSshd::start();
    let port = sshd.port();
    let mut first = hold_session(&sshd);
    sshd.restart_listener();
    assert_eq!((sshd.port(), sshd.session_count()), (port, 1));
    assert!(first.try_wait().unwrap().is_none());
    let mut second = hold_session(&sshd);
    sshd.kill_sessions();
    assert_eq!(sshd.session_count(), 0);
    assert_eq!(first.wait().unwrap().code(), Some(255));
    assert_eq!(second.wait().unwrap().code(), Some(255));
    assert!(client(&sshd).arg("true").status().unwrap().success());
}

#[test]
fn a_stopped_server_refuses_and_starts_again_on_its_port() {
    if !RealSshd::require() {
        return;
    }
    let mut sshd = RealSshd::start();
    let mut held = hold_session(&sshd);
    sshd.stop();
    assert_eq!(held.wait().unwrap().code(), Some(255));
    assert!(std::net::TcpStream::connect(sshd.addr()).is_err());
    sshd.start_again();
    assert!(client(&sshd).arg("true").status().unwrap().success());
}

#[test]
fn a_paused_session_is_silent_until_it_is_resumed() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let mut held = start(client(&sshd), "cat");
    sshd.pause();
    let sessions = Process::find(sshd.pid()).unwrap().children();
    wait_until("the stop", DEADLINE, || sessions[0].is_stopped(), |stopped| *stopped);
    drop(held.stdin.take());
    assert!(held.try_wait().unwrap().is_none());
    sshd.resume();
    assert!(held.wait().unwrap().success());
}

#[test]
fn nothing_is_left_after_drop() {
    if !RealSshd::require() {
        return;
    }
    let mut sshd = RealSshd::start();
    let mut held = hold_session(&sshd);
    // One that leaves sshd's process tree, and one whose listener is gone.
    let left = client(&sshd).arg("setsid sleep 1000 >/dev/null 2>&1 </dev/null &").status();
    assert!(left.unwrap().success());
    sshd.restart_listener();
    let dir = sshd.dir().to_owned();
    let listener = Process::find(sshd.pid()).unwrap();
    assert!(!proc::marked(&dir.display().to_string()).is_empty());
    drop(sshd);
    assert!(!listener.is_alive() && !dir.exists());
    assert_eq!(held.wait().unwrap().code(), Some(255));
    assert_eq!(proc::marked(&dir.display().to_string()), []);
}

#[test]
fn dropbear_logs_in_without_touching_a_persons_keys() {
    if !Dropbear::require() {
        return;
    }
    let dropbear = Dropbear::start();
    let other = Dropbear::start();
    for server in [&dropbear, &other] {
        let output = ssh(server.addr(), server.user(), server.client_key_path())
            .arg("echo out; echo err >&2; exit 3")
            .output()
            .unwrap();
        assert_eq!(output.stdout, b"out\n", "{}", server.log());
        assert_eq!((output.stderr.as_slice(), output.status.code()), (&b"err\n"[..], Some(3)));
    }
    let key = std::fs::read_to_string(dropbear.client_key_path().with_extension("pub")).unwrap();
    let file = testkit::user::home_of(dropbear.user()).unwrap().join(".ssh/authorized_keys");
    assert!(std::fs::read_to_string(&file).unwrap().contains(key.trim()));
    drop(dropbear);
    assert!(!std::fs::read_to_string(&file).unwrap().contains(key.trim()));
}
