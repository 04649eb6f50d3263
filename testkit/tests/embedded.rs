//! The embedded host, driven by the real client.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use testkit::embedded::{Phase, Refusal, UNSOLICITED_KINDS};
use testkit::proc;
use testkit::ssh::ssh;
use testkit::wait::blocking::{wait_for, wait_until};
use testkit::{EmbeddedHost, RealSshd};

const DEADLINE: Duration = Duration::from_secs(20);

/// How long silence is watched: a fault that does not hold shows within a few milliseconds.
const SILENCE: Duration = Duration::from_millis(200);

fn client(host: &EmbeddedHost) -> Command {
    ssh(host.addr(), host.user(), &host.client_key_path())
}

fn start(host: &EmbeddedHost, script: &str) -> Child {
    testkit::ssh::start(client(host), script)
}

#[test]
fn commands_run_with_streams_apart_and_their_exit_code() {
    if !RealSshd::require() {
        return;
    }
    let host = EmbeddedHost::start();
    let output = client(&host).arg("echo out; echo err >&2; pwd; exit 42").output().unwrap();
    let text = format!("out\n{}\n", host.home().display());
    assert_eq!(String::from_utf8_lossy(&output.stdout), text);
    assert_eq!(output.stderr, b"err\n");
    assert_eq!(output.status.code(), Some(42));
    assert_eq!((host.connections(), host.execs(), host.auth_attempts()), (1, 1, 1));
    let methods: Vec<_> = host.offered_auth().into_iter().map(|offer| offer.method).collect();
    assert_eq!(methods, ["none", "publickey"]);
    wait_until("the channel to go", DEADLINE, || host.open_channels(), |n| *n == 0);
    wait_until("the connection to go", DEADLINE, || host.active_connections(), |n| *n == 0);
}

#[test]
fn bytes_pass_both_ways_unchanged() {
    if !RealSshd::require() {
        return;
    }
    let host = EmbeddedHost::start();
    let mut child =
        client(&host).arg("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let bytes: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut stdin = child.stdin.take().unwrap();
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.stdout == bytes && output.status.success());
}

#[test]
fn the_host_key_is_what_known_hosts_says_until_it_changes() {
    if !RealSshd::require() {
        return;
    }
    let host = EmbeddedHost::start();
    let file = host.home().join("known_hosts");
    std::fs::write(&file, host.known_hosts_line() + "\n").unwrap();
    let strict = || {
        Command::new("ssh")
            .args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o"])
            .arg(format!("UserKnownHostsFile={}", file.display()))
            .arg("-i")
            .arg(host.client_key_path())
            .args(["-p", &host.port().to_string(), "127.0.0.1", "true"])
            .output()
            .unwrap()
    };
    assert!(strict().status.success());
    host.change_host_key();
    assert!(!strict().status.success());
}

#[test]
fn programs_die_with_their_connection_and_with_the_host() {
    if !RealSshd::require() {
        return;
    }
    let host = EmbeddedHost::start();
    let mark = format!("OCC_TESTKIT={}", host.home().display());
    let programs = || proc::marked(&mark).len();
    let mut lost = start(&host, "trap '' TERM HUP; sleep 1000 & sleep 1000");
    wait_until("the programs", DEADLINE, programs, |n| *n == 3);
    host.drop_connections();
    assert_eq!(lost.wait().unwrap().code(), Some(255));
    wait_until("them to go", DEADLINE, programs, |n| *n == 0);
    assert!(client(&host).arg("setsid sleep 1000 >/dev/null 2>&1 &").status().unwrap().success());
    let mut held = start(&host, "sleep 1000");
    wait_until("the programs", DEADLINE, programs, |n| *n >= 2);
    drop(host);
    assert_eq!(programs(), 0);
    assert_eq!(held.wait().unwrap().code(), Some(255));
    assert_no_zombies();
}

fn assert_no_zombies() {
    let own = std::process::id().to_string();
    let output = Command::new("ps").args(["--ppid", &own, "-o", "stat=,args="]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let zombies: Vec<&str> =
        text.lines().filter(|line| line.starts_with('Z') && line.contains("[sh]")).collect();
    assert!(zombies.is_empty(), "{zombies:?}");
}

#[test]
fn a_program_killed_by_a_signal_is_reported_so() {
    if !RealSshd::require() {
        return;
    }
    let host = EmbeddedHost::start();
    // OpenSSH's client ends with 255 and says so when a signal ended the program.
    let output = client(&host).arg("kill -TERM $$").output().unwrap();
    assert_eq!(output.status.code(), Some(255));
    host.exit_without_status(true);
    let output = client(&host).arg("exit 3").output().unwrap();
    assert_eq!(output.status.code(), Some(255));
}

/// A client that goes no further than it has to, for phases in which `ssh` itself would wait.
fn banner_of(host: &EmbeddedHost) -> TcpStream {
    let stream = TcpStream::connect(host.addr()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

#[test]
fn each_phase_stalls_and_goes_on() {
    if !RealSshd::require() {
        return;
    }
    let host = EmbeddedHost::start();
    for phase in [
        Phase::Banner,
        Phase::Kex,
        Phase::KexReply,
        Phase::Auth,
        Phase::Signature,
        Phase::ChannelOpen,
    ] {
        host.stall_at(phase);
        let before = (host.connections(), host.auth_attempts());
        let mut child = client(&host).arg("echo done").stdout(Stdio::piped()).spawn().unwrap();
        wait_until("the dial", DEADLINE, || host.connections(), |n| *n > before.0);
        if phase == Phase::ChannelOpen {
            wait_until("the channel", DEADLINE, || host.open_channels(), |n| *n == 1);
        }
        if phase == Phase::Signature {
            wait_until("the key", DEADLINE, || host.auth_attempts(), |n| *n == before.1 + 1);
        }
        std::thread::sleep(SILENCE);
        assert!(child.try_wait().unwrap().is_none(), "{phase:?} did not stall");
        if !matches!(phase, Phase::Signature | Phase::ChannelOpen) {
            assert_eq!(host.auth_attempts(), before.1, "{phase:?}");
        }
        host.clear_stall();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.stdout, b"done\n", "{phase:?}");
    }
    // What a stall withholds is exactly its phase.
    host.stall_at(Phase::Kex);
    let mut lines = BufReader::new(banner_of(&host));
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert!(line.starts_with("SSH-2.0-"), "{line}");
    host.stall_at(Phase::KexReply);
    lines.get_mut().write_all(b"SSH-2.0-test\r\n").unwrap();
    let mut head = [0; 6];
    lines.read_exact(&mut head).unwrap();
    assert_eq!(head[5], 20, "SSH_MSG_KEXINIT (RFC 4253, section 12)");
    drop(host);
}

#[test]
fn a_stalled_host_is_dropped_at_once() {
    let host = EmbeddedHost::start();
    host.stall_at(Phase::Banner);
    let mut stream = banner_of(&host);
    wait_until("the dial", DEADLINE, || host.active_connections(), |n| *n == 1);
    drop(host);
    assert!(matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_)));
}

#[test]
fn what_is_not_ssh_is_sent_as_told() {
    let host = EmbeddedHost::start();
    host.farewell_banner("Not allowed at this time\r\n");
    let mut text = String::new();
    banner_of(&host).read_to_string(&mut text).unwrap();
    assert_eq!(text, "Not allowed at this time\r\n");
    host.garbage_banner([0xff; 5]);
    let mut bytes = [0; 5];
    banner_of(&host).read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, [0xff; 5]);
    host.http_banner();
    let mut stream = banner_of(&host);
    stream.write_all(b"SSH-2.0-x\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
    host.ssh_banner();
    let mut line = [0; 8];
    banner_of(&host).read_exact(&mut line).unwrap();
    assert_eq!(&line, b"SSH-2.0-");
}

#[test]
fn logins_are_dropped_and_refused() {
    if !RealSshd::require() {
        return;
    }
    let host = EmbeddedHost::start();
    let run = || {
        let output = client(&host).arg("true").output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    host.drop_during_auth(true);
    let (code, text) = run();
    assert!(code == Some(255) && !text.contains("Permission denied"), "{text}");
    host.drop_during_auth(false);
    host.drop_after_auth(true);
    let (code, text) = run();
    assert!(code == Some(255) && !text.contains("Permission denied"), "{text}");
    host.drop_after_auth(false);
    host.reject_auth(true);
    let (code, text) = run();
    assert!(code == Some(255) && text.contains("Permission denied"), "{text}");
    host.reject_auth(false);
    assert_eq!(run().0, Some(0));
    let offers = host.offered_auth();
    let key = offers.last().unwrap().key.clone().unwrap();
    assert!(key.starts_with("ssh-ed25519 "), "{key}");
    assert_eq!(host.execs(), 1);
}

#[test]
fn channels_are_closed_early_never_or_not_at_all() {
    if !RealSshd::require() {
        return;
    }
    let host = EmbeddedHost::start();
    host.close_channel_before_success(1);
    let marker = host.home().join("ran");
    let touch = format!("touch {}", marker.display());
    assert_eq!(client(&host).arg(&touch).output().unwrap().status.code(), Some(255));
    assert!(!marker.exists());
    assert_eq!(client(&host).arg(&touch).output().unwrap().status.code(), Some(0));
    assert!(marker.exists() && host.execs() == 2);

    host.never_close_channel(true);
    let mut child = start(&host, "true");
    // The client has everything but the close.
    let mut rest = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut rest).unwrap_or_default();
    std::thread::sleep(SILENCE);
    assert_eq!(host.open_channels(), 1);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("the channel to go", DEADLINE, || host.open_channels(), |n| *n == 0);
}

/// Several sessions on one connection, through the client's own multiplexing.
#[test]
fn sessions_are_limited_per_connection() {
    if !RealSshd::require() {
        return;
    }
    let host = EmbeddedHost::start();
    host.max_sessions(Some((1, Refusal::ResourceShortage)));
    let control = host.home().join("control");
    let shared = |what: &str| {
        let mut command = Command::new("ssh");
        command
            .args(["-F", "none", "-T", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"])
            .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "ControlMaster=auto", "-o"])
            .arg(format!("ControlPath={}", control.display()))
            .arg("-i")
            .arg(host.client_key_path())
            .args(["-p", &host.port().to_string(), "127.0.0.1", what]);
        command
    };
    let mut first = shared("echo up; cat");
    let mut first = first.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    first.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
    wait_for("the control socket", DEADLINE, || control.exists().then_some(()));
    let refused = shared("true").stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("open failed") || text.contains("refused"), "{text}");
    host.max_sessions(None);
    assert!(shared("true").stdin(Stdio::null()).output().unwrap().status.success());
    drop(first.stdin.take());
    assert!(first.wait().unwrap().success());
}

#[test]
fn unsolicited_channels_are_opened_and_the_answers_noted() {
    if !RealSshd::require() {
        return;
    }
    let host = EmbeddedHost::start();
    host.open_unsolicited_channels(true);
    let mut child = start(&host, "cat");
    let all = wait_until(
        "every answer",
        DEADLINE,
        || host.unsolicited(),
        |answers| answers.len() == UNSOLICITED_KINDS,
    );
    // OpenSSH's client refuses what it did not ask for.
    assert!(all.iter().all(|answer| answer.rejected), "{all:?}");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn streams_are_forwarded_to_real_sockets() {
    if !RealSshd::require() {
        return;
    }
    let host = EmbeddedHost::start();
    let path = host.home().join("server.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            stream.write_all(text.to_uppercase().as_bytes()).unwrap();
        }
    });
    let local = host.home().join("local.sock");
    let mut command = Command::new("ssh");
    let mut forward = command
        .args(["-F", "none", "-N", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"])
        .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-L"])
        .arg(format!("{}:{}", local.display(), path.display()))
        .arg("-i")
        .arg(host.client_key_path())
        .args(["-p", &host.port().to_string(), "127.0.0.1"])
        .spawn()
        .unwrap();
    let connect = || std::os::unix::net::UnixStream::connect(&local).ok();
    let mut stream = wait_for("the forwarding", DEADLINE, connect);
    stream.write_all(b"hello").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "HELLO");
    wait_until("the channel to go", DEADLINE, || host.open_channels(), |n| *n == 0);
    forward.kill().unwrap();
    forward.wait().unwrap();
}

#[test]
fn tcp_is_forwarded_and_a_refused_port_is_a_failure() {
    if !RealSshd::require() {
        return;
    }
    let host = EmbeddedHost::start();
    let target = EmbeddedHost::start();
    let through = |port: u16| {
        let mut command = Command::new("ssh");
        command
            .args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"])
            .args(["-o", "UserKnownHostsFile=/dev/null", "-W", &format!("127.0.0.1:{port}"), "-i"])
            .arg(host.client_key_path())
            .args(["-p", &host.port().to_string(), "127.0.0.1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let mut child = through(target.port());
    let mut line = [0; 8];
    child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"SSH-2.0-");
    child.kill().unwrap();
    child.wait().unwrap();
    let closed = target.port();
    drop(target);
    let output = through(closed).wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("open failed"), "{text}");
}
