//! Slow readers behind a bastion, and readers whose server is gone meanwhile.

use std::time::Duration;

use occ_proto::Code;
use occ_proto::exec::{ExecEvent, STDOUT};
use occ_proto::status::State;
use serde_json::json;
use testkit::daemon::Target;
use testkit::wait::blocking::wait_until;
use testkit::{DaemonRig, FaultyLink, RealSshd};
use tokio::time::Instant;

use crate::ask::echoes;
use crate::slow_reader::{spilled, wait_for_spill};
use crate::support::{
    GUARD, Incoming, Ws, daemon_with, exec, no_channels, no_programs, settled, status,
};

/// How long the servers are put to the test, with `ClientAliveInterval 1` and `ClientAliveCountMax 3`.
const STOPPED: Duration = Duration::from_secs(10);
/// A command that waits for the stream waits for ever. No measurement.
const AT_ONCE: Duration = Duration::from_secs(3);

#[test]
fn a_stopped_reader_behind_a_bastion_delays_nobody_behind_it_nor_the_bastion() {
    if !RealSshd::require() {
        return;
    }
    let [bastion, near, other] = [(); 3].map(|()| RealSshd::builder().client_alive(1, 3).start());
    let mut rig = DaemonRig::new();
    rig.add_host("bastion", &bastion);
    rig.add_host("h", &near);
    rig.add_host("other", &other);
    rig.edit_hosts(|file| {
        for name in ["h", "other"] {
            file.hosts.get_mut(name).unwrap().jump_host = Some("bastion".to_owned());
        }
    });
    rig.start_daemon(&[]);
    settled(&rig);
    echoes(&rig, "other");
    let mut stream = Ws::start(&rig, &json!({ "argv": ["yes"] }));
    stream.started();
    wait_for_spill(&rig);
    let (begun, mut longest) = (Instant::now(), Duration::ZERO);
    while begun.elapsed() < STOPPED {
        for host in ["h", "other", "bastion"] {
            let start = Instant::now();
            echoes(&rig, host);
            longest = longest.max(start.elapsed());
        }
    }
    assert!(longest < AT_ONCE, "{longest:?}");
    for sshd in [&bastion, &near, &other] {
        assert!(!sshd.log().contains("Timeout, client not responding"), "{}", sshd.log());
    }
    // The stream goes on where it was.
    let mut read = 0;
    while read < 16 * 1024 * 1024 {
        match stream.next() {
            Incoming::Bytes(STDOUT, bytes) => {
                assert!(bytes.iter().all(|byte| b"y\n".contains(byte)));
                read += bytes.len();
            }
            other => panic!("after {read} bytes: {other:?}"),
        }
    }
    drop(stream);
    no_programs(&near, GUARD);
    no_channels(&rig, GUARD);
    wait_until("the files to be gone", GUARD, || spilled(&rig), |bytes| *bytes == 0);
    assert_eq!(status(&rig).state, State::Connected);
}

/// Stops the reader of numbered lines, has the server go, and reads what had come.
fn the_server_goes(rig: &DaemonRig, go: impl FnOnce()) {
    settled(rig);
    let mut stream = Ws::start(rig, &json!({ "argv": ["seq", "1", "1000000000"] }));
    stream.started();
    wait_for_spill(rig);
    go();
    let (mut text, mut lines) = (Vec::new(), 0_u64);
    let problem = loop {
        match stream.next() {
            Incoming::Bytes(STDOUT, bytes) => {
                text.extend(bytes);
                let end = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                for line in text.drain(..end).collect::<Vec<_>>().split(|byte| *byte == b'\n') {
                    if !line.is_empty() {
                        lines += 1;
                        assert_eq!(line, lines.to_string().as_bytes());
                    }
                }
            }
            Incoming::Event(ExecEvent::Error { problem }) => break problem,
            other => panic!("after {lines} lines: {other:?}"),
        }
    };
    assert_eq!(problem.code, Code::OutcomeUnknown, "{problem:?}");
    assert!(lines > 100_000, "{lines}");
    wait_until("the files to be gone", GUARD, || spilled(rig), |bytes| *bytes == 0);
    no_channels(rig, GUARD);
}

#[test]
fn what_had_come_when_the_server_died_is_read_to_its_end() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let rig = daemon_with(&sshd, "");
    the_server_goes(&rig, || sshd.kill_sessions());
    assert_eq!(exec(&rig, json!({ "argv": ["echo", "back"] })).stdout.unwrap(), "back\n");
}

#[test]
fn the_death_of_a_paced_connection_is_seen_and_loses_nothing_that_had_come() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let link = FaultyLink::start(sshd.addr());
    let rig = daemon_with(
        Target::from(&sshd).through(&link),
        "[connection]\nkeepalive_interval = \"1s\"\nkeepalive_count = 1\n",
    );
    the_server_goes(&rig, || {
        wait_until("another connection", GUARD, || status(&rig).connections, |n| *n == 2);
        link.blackhole(true);
        let down = |state: &State| *state == State::Backoff;
        wait_until("the host to be down", GUARD, || status(&rig).state, down);
    });
    link.blackhole(false);
    assert_eq!(exec(&rig, json!({ "argv": ["echo", "back"] })).stdout.unwrap(), "back\n");
}
