//! Ten thousand clients that follow what changes, or as many as there are file descriptors for, cost nobody else an
//! answer, and leave nothing behind.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;

use occ_proto::Code;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use testkit::daemon::daemon_binary;
use testkit::proc::{Process, Signal};
use testkit::wait::blocking::wait_until;
use testkit::{DaemonRig, EmbeddedHost};
use tokio::time::Instant;

use crate::ask::{GUARD, connect, problem};

const STREAMS: usize = 10_000;
/// Opened together: the daemon's line of those who want to come in is not endless.
const TOGETHER: usize = 250;
/// What the daemon keeps of its descriptors for hosts and files, and this test for itself.
const RESERVED: u64 = 512;
/// What the daemon opens and does for itself meanwhile.
const OWN: usize = 8;
/// What a stream may cost the daemon: a debug build's tasks are large.
const EACH_KIB: u64 = 24;
/// How long a sign of life may take beside them; a debug build on a machine with other work.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// Opens streams, and waits until each has begun. Returns those of them that were not refused.
fn open(rig: &DaemonRig, count: usize) -> Vec<UnixStream> {
    let mut streams = Vec::with_capacity(count);
    for begun in (0..count).step_by(TOGETHER) {
        let mut some: Vec<UnixStream> = (begun..count.min(begun + TOGETHER))
            .map(|_| {
                let mut socket = UnixStream::connect(rig.socket()).unwrap();
                socket.set_read_timeout(Some(GUARD)).unwrap();
                let head = "GET /v1/events?kind=prompt HTTP/1.1\r\nHost: localhost\r\n\r\n";
                socket.write_all(head.as_bytes()).unwrap();
                socket
            })
            .collect();
        some.retain_mut(|socket| {
            let mut head = [0; 12];
            socket.read_exact(&mut head).unwrap();
            let head = String::from_utf8_lossy(&head).into_owned();
            assert!(matches!(&*head, "HTTP/1.1 200" | "HTTP/1.1 429"), "{head}");
            head.ends_with("200")
        });
        streams.append(&mut some);
    }
    streams
}

/// Reads whatever has come on a stream until it has a text.
fn read_until(stream: &mut UnixStream, text: &str) {
    let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&seen).contains(text) {
        let length = stream.read(&mut buffer).unwrap();
        assert_ne!(length, 0, "the stream ended: {}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&buffer[..length]);
    }
}

/// Allows this process, and the daemon that it starts, as many files as the system lets. Returns how many.
fn raise_limit() -> u64 {
    let wanted = STREAMS as u64 * 2;
    let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let most = Rlimit { current: Some(wanted.max(hard)), maximum: Some(wanted.max(hard)) };
    // Without the right to raise it there are fewer.
    if setrlimit(Resource::Nofile, most).is_err() {
        setrlimit(Resource::Nofile, Rlimit { current: Some(hard), maximum: Some(hard) }).unwrap();
        return hard;
    }
    wanted.max(hard)
}

#[test]
fn ten_thousand_idle_streams_cost_nobody_an_answer_and_leave_nothing() {
    let room = raise_limit().saturating_sub(RESERVED);
    let count = STREAMS.min(usize::try_from(room).unwrap() / 8 * 7);
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("h", &host);
    rig.start_daemon(&[]);
    connect(&rig, "h");
    // The first costs what is made once.
    drop(open(&rig, TOGETHER));
    let alone = |rig: &DaemonRig| (rig.daemon_fds(), rig.daemon_tasks());
    let settled = wait_until("them to be gone", GUARD, || alone(&rig).0, |fds| *fds < TOGETHER);
    let (tasks, memory) = (rig.daemon_tasks(), rig.daemon_rss_kib());

    let mut streams = open(&rig, count);
    assert_eq!(streams.len(), count);
    let begun = Instant::now();
    assert_eq!(rig.http("GET", "/healthz", &[], None).status, 200);
    assert!(begun.elapsed() < SIGN_OF_LIFE, "{:?}", begun.elapsed());
    assert_eq!(rig.http("GET", "/v1/hosts/h", &[], None).status, 200);
    let answer =
        rig.http("POST", "/v1/hosts/h/exec", &[], Some(serde_json::json!({"argv": ["echo", "x"]})));
    assert_eq!(answer.json()["stdout"], "x\n");
    for at in [0, count / 2, count - 1] {
        read_until(&mut streams[at], "event: snapshot");
    }
    let (beside, beside_dirty) = (rig.daemon_rss_kib(), rig.daemon_private_dirty_kib());
    let bound = memory + EACH_KIB * count as u64;
    assert!(beside <= bound, "{beside} KiB, not {bound}");

    drop(streams);
    wait_until(
        "their descriptors to be closed",
        GUARD,
        || rig.daemon_fds(),
        |fds| *fds <= settled + OWN,
    );
    wait_until(
        "their tasks to end",
        GUARD,
        || rig.daemon_tasks(),
        |now| *now <= tasks + OWN as u64,
    );
    // Most of it is given back to the system once nothing goes on.
    wait_until(
        "their memory to be given back",
        GUARD,
        || rig.daemon_private_dirty_kib(),
        |now| *now < beside_dirty / 4,
    );
    let again = open(&rig, count / 4);
    let bound = beside + beside / 8;
    assert!(rig.daemon_rss_kib() <= bound, "{} KiB, not {bound}", rig.daemon_rss_kib());
    drop(again);
}

#[test]
fn streams_leave_places_to_those_who_ask() {
    let mut rig = DaemonRig::new();
    let few = rig.root().join("few");
    let script = format!("#!/bin/sh\nulimit -n 1024\nexec {} \"$@\"\n", daemon_binary().display());
    std::fs::write(&few, script).unwrap();
    std::fs::set_permissions(&few, std::fs::Permissions::from_mode(0o755)).unwrap();
    rig.set_daemon_binary(few);
    rig.start_daemon(&[]);
    // Of 1024 descriptors 512 are for clients, and an eighth of those for who asks.
    let streams = open(&rig, 500);
    assert_eq!(streams.len(), 448);
    let refused = rig.http("GET", "/v1/events", &[], None);
    assert_eq!(problem(&refused).code, Code::TooManyRequests);
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(rig.http("GET", "/v1/hosts", &[], None).status, 200);
    drop(streams);
    wait_until("room", GUARD, || open(&rig, 1).len(), |opened| *opened == 1);
}

#[test]
fn who_finds_a_full_line_waits_in_it() {
    raise_limit();
    let mut rig = DaemonRig::new();
    rig.start_daemon(&[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    rig.daemon().signal(Signal::STOP);
    let mut line = Vec::new();
    let full = loop {
        match runtime.block_on(tokio::net::UnixStream::connect(rig.socket())) {
            Ok(stream) => line.push(stream),
            Err(error) => break error,
        }
    };
    assert_eq!(full.kind(), std::io::ErrorKind::WouldBlock);
    let mut occ = rig.occ(&["daemon", "status"]);
    let occ = occ.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It waits in the kernel, on a thread of its own.
    let waits = || Process::find(occ.id()).unwrap().threads();
    wait_until("it to wait", GUARD, waits, |threads| *threads > 1);
    rig.daemon().signal(Signal::CONT);
    drop(line);
    let output = occ.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
