//! A reader that is slow or has stopped costs disk, and nobody else anything; it loses nothing.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use occ_proto::Code;
use occ_proto::exec::{ExecEvent, STDOUT};
use occ_proto::status::State;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use testkit::proc::{Process, Signal};
use testkit::readers::{self, median};
use testkit::wait::blocking::{wait_for, wait_until};
use testkit::{DaemonRig, FaultyLink, RealSshd};
use tokio::time::Instant;

pub(crate) use testkit::readers::spilled;

use crate::support::{
    GUARD, Incoming, Ws, daemon_for, daemon_with, exec, no_channels, no_programs, occ_exec,
    settled, sshd, status,
};

/// How long a server with `ClientAliveInterval 1` and `ClientAliveCountMax 3` is put to the test: more
/// than twice what it takes to give up a client that does not answer.
const STOPPED: Duration = Duration::from_secs(10);

pub(crate) fn wait_for_spill(rig: &DaemonRig) {
    wait_until("output on disk", GUARD, || spilled(rig), |bytes| *bytes > 0);
}

/// Runs short commands, at least `count` and at least as long as `span`, and returns their median time.
///
/// # Panics
/// When one fails.
fn short_commands(rig: &DaemonRig, count: usize, span: Duration) -> Duration {
    let begun = Instant::now();
    median(&readers::short_commands(rig, "h", |n| n < count || begun.elapsed() < span))
}

fn strict_sshd() -> Option<(RealSshd, DaemonRig)> {
    if !RealSshd::require() {
        return None;
    }
    let sshd = RealSshd::builder().client_alive(1, 3).start();
    let rig = daemon_for(&sshd);
    Some((sshd, rig))
}

/// Stops the reader of a stream for a while, beside short commands, and lets it go on.
fn beside_a_stopped_reader(request: &Value) {
    let Some((sshd, rig)) = strict_sshd() else { return };
    settled(&rig);
    let alone = short_commands(&rig, 100, Duration::ZERO);
    let mut stream = Ws::start(&rig, request);
    stream.started();
    // Nothing is read from here on: first the socket is full, then memory, then it goes to disk.
    wait_for_spill(&rig);
    let beside = short_commands(&rig, 300, STOPPED);
    // No measurement: a command that waits for the stream takes seconds.
    assert!(beside < 5 * alone + Duration::from_millis(20), "{beside:?} instead of {alone:?}");
    assert!(!sshd.log().contains("Timeout, client not responding"), "{}", sshd.log());
    // The stream goes on where it was.
    let mut read = 0;
    while read < 16 * 1024 * 1024 {
        match stream.next() {
            Incoming::Bytes(STDOUT, bytes) => read += bytes.len(),
            other => panic!("after {read} bytes: {other:?}"),
        }
    }
    drop(stream);
    no_programs(&sshd, GUARD);
    no_channels(&rig, GUARD);
    wait_until("the files to be gone", GUARD, || spilled(&rig), |bytes| *bytes == 0);
    assert_eq!(status(&rig).state, State::Connected);
}

#[test]
fn a_stopped_reader_delays_nobody() {
    beside_a_stopped_reader(&json!({ "argv": ["yes"] }));
}

#[test]
fn a_stopped_reader_of_small_writes_delays_nobody() {
    beside_a_stopped_reader(&json!({ "shell": "exec dd if=/dev/zero bs=8 2>/dev/null" }));
}

#[test]
fn a_stopped_reader_delays_nobody_on_the_only_connection() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let rig = daemon_with(&sshd, "[connection]\nmax_connections = 1\n");
    settled(&rig);
    let alone = short_commands(&rig, 50, Duration::ZERO);
    // Slower than the disk, since nothing may hold it back here.
    let script = "while :; do head -c 1000000 /dev/zero; sleep 0.05; done";
    let mut stream = Ws::start(&rig, &json!({ "argv": ["sh", "-c", script] }));
    stream.started();
    wait_until("much output on disk", GUARD, || spilled(&rig), |bytes| *bytes > 16 * 1024 * 1024);
    let beside = short_commands(&rig, 100, Duration::ZERO);
    assert!(beside < 5 * alone + Duration::from_millis(20), "{beside:?} instead of {alone:?}");
    assert_eq!((status(&rig).connects, status(&rig).connections), (1, 1));
    drop(stream);
    no_programs(&sshd, GUARD);
    no_channels(&rig, GUARD);
}

#[test]
fn a_slow_reader_gets_every_byte_and_delays_nobody() {
    let Some((sshd, rig)) = strict_sshd() else { return };
    settled(&rig);
    let alone = short_commands(&rig, 100, Duration::ZERO);
    let times = readers::paced(&rig, "h", 300_000_000, 20_000_000);
    let beside = median(&times);
    assert!(beside < 5 * alone + Duration::from_millis(20), "{beside:?} instead of {alone:?}");
    assert!(times.len() > 100, "{} commands", times.len());
    assert!(!sshd.log().contains("Timeout, client not responding"), "{}", sshd.log());
    // The stream kept the first connection to itself, and none was lost.
    wait_until("the first to close", GUARD, || status(&rig).connections, |n| *n == 1);
    assert_eq!((status(&rig).connects, status(&rig).last_error), (2, None));
    no_channels(&rig, GUARD);
}

#[test]
fn a_reader_that_resumes_gets_every_byte() {
    let Some((_sshd, rig)) = sshd() else { return };
    settled(&rig);
    let before = rig.daemon_rss_kib();
    let generator = ["seq", "1", "20000000"];
    let mut occ = occ_exec(&rig).args(generator).stdout(Stdio::piped()).spawn().unwrap();
    let process = Process::find(occ.id()).unwrap();
    let mut stdout = occ.stdout.take().unwrap();
    let mut sum = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    let n = stdout.read(&mut buffer).unwrap();
    sum.update(&buffer[..n]);
    process.signal(Signal::STOP);
    wait_until("occ to stop", GUARD, || process.is_stopped(), |stopped| *stopped);
    wait_for_spill(&rig);
    short_commands(&rig, 100, Duration::ZERO);
    let during = rig.daemon_rss_kib();
    process.signal(Signal::CONT);
    let mut total = n as u64;
    let mut highest = during;
    loop {
        let n = stdout.read(&mut buffer).unwrap();
        if n == 0 {
            break;
        }
        // Now and then: the read of the memory costs more than that of the pipe.
        if total % (16 << 20) < n as u64 {
            highest = highest.max(rig.daemon_rss_kib());
        }
        total += n as u64;
        sum.update(&buffer[..n]);
    }
    assert!(occ.wait().unwrap().success());
    let mut local =
        Command::new("seq").args(&generator[1..]).stdout(Stdio::piped()).spawn().unwrap();
    let mut expected = Sha256::new();
    let copied = std::io::copy(local.stdout.as_mut().unwrap(), &mut expected).unwrap();
    assert!(local.wait().unwrap().success());
    assert!(local.wait().unwrap().success());
    assert_eq!(total, copied);
    assert!(sum.finalize() == expected.finalize(), "the bytes differ");
    assert!(highest < before + 24 * 1024, "{before} KiB before, {highest} KiB at the most");
    wait_until("the files to be gone", GUARD, || spilled(&rig), |bytes| *bytes == 0);
    no_channels(&rig, GUARD);
}

#[test]
fn too_much_unread_output_ends_its_command_alone() {
    if !RealSshd::require() {
        return;
    }
    // Without a file, too, the memory is what may be kept.
    for limit in [8, 0] {
        too_much_unread_output(limit);
    }
}

fn too_much_unread_output(limit: u64) {
    let sshd = RealSshd::start();
    let rig = daemon_with(&sshd, &format!("[output]\nspill_limit_mib = {limit}\n"));
    settled(&rig);
    let mut other = Ws::start(&rig, &json!({ "argv": ["cat"] }));
    other.started();
    // It floods when it is told to: one that did at once could be gone before it is looked for.
    let script = "echo $$; read go; exec yes";
    let mut stream = Ws::start(&rig, &json!({ "argv": ["sh", "-c", script] }));
    stream.started();
    let Incoming::Bytes(STDOUT, pid) = stream.next() else { panic!("no number of the program") };
    let pid = String::from_utf8(pid).unwrap().trim().parse().unwrap();
    let yes = Process::find(pid).expect("the program waits");
    assert!(stream.input(b"go\n"));
    // Not because the reader says something: it is stopped.
    wait_until("the program to be ended", GUARD, || yes.is_alive(), |alive| !alive);
    short_commands(&rig, 20, Duration::ZERO);
    wait_until("the file to be gone", GUARD, || spilled(&rig), |bytes| *bytes == 0);
    let problem = loop {
        match stream.next() {
            Incoming::Bytes(STDOUT, bytes) => assert!(bytes.iter().all(|b| b"y\n".contains(b))),
            Incoming::Event(ExecEvent::Error { problem }) => break problem,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((problem.code, problem.status), (Code::OutputOverflow, 507));
    // None of what was not read comes any more, so no number of bytes is promised.
    assert!(!problem.detail.contains("kept") && problem.detail.contains("is lost"), "{problem:?}");
    // One that shares the connection lives on.
    assert!(other.input(b"still here"));
    assert_eq!(other.next(), Incoming::Bytes(STDOUT, b"still here".to_vec()));
    drop(other);
    no_channels(&rig, GUARD);
}

#[test]
fn a_large_stream_moves_new_work_to_another_connection() {
    let Some((sshd, rig)) = sshd() else { return };
    settled(&rig);
    let script = "head -c 20000000 /dev/zero; exec cat";
    let mut stream = Ws::start(&rig, &json!({ "argv": ["sh", "-c", script] }));
    stream.started();
    let mut read = 0;
    while read < 20_000_000 {
        match stream.next() {
            Incoming::Bytes(STDOUT, bytes) => read += bytes.len(),
            other => panic!("{other:?}"),
        }
    }
    let two = |rig: &DaemonRig| {
        let status = status(rig);
        (status.connections, status.connects, sshd.session_count())
    };
    wait_until("a second connection", GUARD, || two(&rig), |seen| *seen == (2, 2, 2));
    assert_eq!(status(&rig).state, State::Connected);
    short_commands(&rig, 10, Duration::ZERO);
    // The first one goes when its last command has.
    assert!(stream.input(&[]));
    let Incoming::Event(ExecEvent::Exit(exit)) = stream.next() else { panic!() };
    assert_eq!(exit.code, Some(0));
    wait_until("the first to close", GUARD, || two(&rig), |seen| *seen == (1, 2, 1));
}

#[test]
fn a_retired_connection_goes_at_its_readers_pace() {
    let Some((_sshd, rig)) = sshd() else { return };
    settled(&rig);
    let mut stream = Ws::start(&rig, &json!({ "argv": ["yes"] }));
    stream.started();
    wait_until("a second connection", GUARD, || status(&rig).connections, |n| *n == 2);
    wait_for_spill(&rig);
    let clock = Instant::now();
    let before = spilled(&rig);
    short_commands(&rig, 200, Duration::from_secs(2));
    let (grown, took) = (spilled(&rig) - before, clock.elapsed());
    // A window of 2 MiB within 10 s, in writes of 1 MiB; left alone `yes` makes a hundred times as much.
    let allowed = 4 * 1024 * 1024 + 1024 * 1024 * took.as_secs();
    assert!(grown < allowed, "{grown} bytes in {took:?}");
    drop(stream);
    no_channels(&rig, GUARD);
    // Its last channel goes first, and then the connection.
    wait_until("the retired connection to close", GUARD, || status(&rig).connections, |n| *n == 1);
}

#[test]
fn a_pause_of_the_link_after_the_end_loses_no_output() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let link = FaultyLink::start(sshd.addr());
    let rig = daemon_for(testkit::daemon::Target::from(&sshd).through(&link));
    settled(&rig);
    // The end of the program is told before the last of its output, which is still on its way when the
    // link pauses: silence of the link, not of the program.
    let request = json!({ "argv": ["head", "-c", "600000", "/dev/zero"] });
    let whole = exec(&rig, request.clone());
    assert_eq!(whole.stdout_bytes, 600_000);
    for missing in [70_000, 30_000, 10_000, 2_000] {
        let (_, before) = link.bytes();
        link.stall_after(Some(before + 600_000 - missing));
        let result = thread::scope(|scope| {
            let command = scope.spawn(|| exec(&rig, request.clone()));
            // Longer than the silence that ends a command whose background child holds its output.
            let clock = Instant::now();
            wait_for("the pause to pass", GUARD, || {
                (command.is_finished() || clock.elapsed() > Duration::from_secs(3)).then_some(())
            });
            link.stall_after(None);
            command.join().unwrap()
        });
        assert_eq!(
            result.stdout_bytes, 600_000,
            "with {missing} bytes held back: {:?}",
            result.exit
        );
    }
}
