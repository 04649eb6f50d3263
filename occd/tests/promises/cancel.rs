//! A command whose client has gone is ended on the host, and nothing of it is left anywhere.

use std::io::{Read as _, Write as _};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use occ_proto::Code;
use occ_proto::exec::{ExecEvent, NDJSON, STDOUT};
use occ_proto::status::State;
use serde_json::json;
use testkit::embedded::Phase;
use testkit::proc::{Process, Signal};
use testkit::wait::blocking::{wait_for, wait_until};
use testkit::{DaemonRig, EmbeddedHost, RealSshd};

use crate::support::{
    GUARD, Incoming, Stream, Ws, daemon_for, exec, exit_code, no_channels, no_programs, occ_exec,
    remote_program, remote_programs, settled, shell, spawn_occ, sshd, status,
};

/// How soon nothing may be left of a command that ends at the first signal (F23 of the fault list).
const SOON: Duration = Duration::from_secs(5);

fn signal(child: &Child, signal: Signal) {
    Process::find(child.id()).unwrap().signal(signal);
}

#[test]
fn a_killed_occ_ends_its_command() {
    let Some((sshd, rig)) = sshd() else { return };
    let mut occ = spawn_occ(&rig, &["sleep", "1000"]);
    remote_program(&sshd, "sleep");
    // The probe may be under way beside it.
    wait_until("its channel alone", GUARD, || status(&rig).open_channels, |n| *n == 1);
    occ.kill().unwrap();
    occ.wait().unwrap();
    no_programs(&sshd, SOON);
    no_channels(&rig, SOON);
    assert_eq!(shell(&rig, "echo next").stdout.unwrap(), "next\n");
}

#[test]
fn a_client_that_hangs_up_ends_its_command() {
    let Some((sshd, rig)) = sshd() else { return };
    let request = json!({ "argv": ["sleep", "1000"] });
    for accept in ["application/json", NDJSON] {
        let stream = Stream::post(&rig, accept, &request);
        remote_program(&sshd, "sleep");
        drop(stream);
        no_programs(&sshd, SOON);
        no_channels(&rig, SOON);
    }
    // One that is in the middle of a stream, which it no longer reads.
    let mut stream = Stream::post(&rig, NDJSON, &json!({ "argv": ["yes"] }));
    stream.wait_for("stdout");
    drop(stream);
    no_programs(&sshd, SOON);
    no_channels(&rig, SOON);
    assert_eq!(status(&rig).state, State::Connected);
}

/// What a cancelled command could leave behind.
#[derive(Debug, PartialEq)]
struct Footprint {
    daemon_fds: usize,
    daemon_children: usize,
    channels: u32,
    sshd_processes: usize,
    remote_programs: usize,
}

impl Footprint {
    fn of(rig: &DaemonRig, sshd: &RealSshd) -> Self {
        Self {
            // The request that asks for the status is over by then.
            channels: status(rig).open_channels,
            daemon_fds: rig.daemon_fds(),
            daemon_children: rig.daemon_children().len(),
            sshd_processes: Process::find(sshd.pid()).unwrap().descendants().len(),
            remote_programs: remote_programs(sshd).len(),
        }
    }
}

/// Starts and drops `count` commands, from `workers` clients at once.
fn cancel(rig: &DaemonRig, workers: u32, count: u32) {
    let left = AtomicU32::new(count);
    let take = || left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Ok(n) = take() {
                    let mut ws = Ws::start(rig, &json!({ "argv": ["sleep", "1000"] }));
                    // Some clients leave before the command has started.
                    if n % 8 != 0 {
                        ws.started();
                    }
                }
            });
        }
    });
}

#[test]
fn two_hundred_cancelled_commands_leave_nothing() {
    let Some((sshd, rig)) = sshd() else { return };
    assert_eq!(shell(&rig, "echo first").stdout.unwrap(), "first\n");
    settled(&rig);
    let footprint = || Footprint::of(&rig, &sshd);
    // The spare session is part of the baseline; it comes a moment after the first command.
    let stable = || {
        let (one, two) = (footprint(), footprint());
        (one == two).then_some(one)
    };
    let before = wait_for("a stable baseline", GUARD, stable);
    cancel(&rig, 8, 200);
    wait_until("the baseline again", GUARD, footprint, |now| *now == before);
    assert_eq!(shell(&rig, "echo next").stdout.unwrap(), "next\n");
    // A crowded connection may have been relieved by a second one; none was lost.
    assert_eq!(status(&rig).last_error, None);
}

#[test]
fn ten_thousand_cancelled_commands_take_no_memory() {
    let Some((sshd, rig)) = sshd() else { return };
    cancel(&rig, 8, 2_000);
    no_programs(&sshd, GUARD);
    no_channels(&rig, GUARD);
    let before = rig.daemon_rss_kib();
    cancel(&rig, 8, 8_000);
    no_programs(&sshd, GUARD);
    no_channels(&rig, GUARD);
    let after = rig.daemon_rss_kib();
    // An entry left in russh's table is 3 to 4 KiB: 8,000 of them would be 24 MiB and more.
    assert!(after < before + 2 * 1024, "{before} KiB before, {after} KiB after");
}

#[test]
fn a_client_that_leaves_while_the_host_connects_starts_nothing() {
    let host = EmbeddedHost::start();
    let rig = daemon_for(&host);
    host.stall_at(Phase::Auth);
    let idle = rig.daemon_fds();
    let request = json!({ "argv": ["sh", "-c", "echo ran >> ~/ran"] });
    let mut occ = occ_exec(&rig)
        .args(["sh", "-c", "echo ran >> ~/ran"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let plain = Stream::post(&rig, "application/json", &request);
    let lines = Stream::post(&rig, NDJSON, &request);
    let ws = Ws::start(&rig, &request);
    // Four clients and the dial.
    wait_until("the clients and the dial", GUARD, || rig.daemon_fds(), |fds| *fds >= idle + 5);
    wait_until("the stall", GUARD, || host.auth_attempts(), |n| *n > 0);
    drop((plain, lines, ws));
    signal(&occ, Signal::INT);
    // Long before the dial or the patience of a command ends.
    wait_for("occ to end", SOON, || occ.try_wait().unwrap());
    assert_eq!(exit_code(&mut occ), 130);
    // The dial alone is left.
    wait_until("the clients to be gone", SOON, || rig.daemon_fds(), |fds| *fds <= idle + 1);
    host.clear_stall();
    settled(&rig);
    let result = exec(&rig, json!({ "argv": ["echo", "alone"] }));
    assert_eq!(result.stdout.as_deref(), Some("alone\n"));
    // The probe and this one.
    assert_eq!(host.execs(), 2);
    assert!(!host.home().join("ran").exists());
}

#[test]
fn a_program_that_ignores_term_is_killed() {
    let Some((sshd, rig)) = sshd() else { return };
    let script = "trap '' TERM INT HUP; echo ready; while :; do sleep 0.1; done";
    // The limit counts the dial, too, and is not to end that.
    shell(&rig, "true");
    let stubborn = json!({ "argv": ["sh", "-c", script], "timeout_ms": 200 });
    let result = exec(&rig, stubborn);
    assert_eq!(result.exit.signal.as_deref(), Some("KILL"), "{result:?}");
    assert!(result.exit.timed_out && !result.exit.may_still_run, "{result:?}");
    no_programs(&sshd, GUARD);
    let mut occ = spawn_occ(&rig, &["sh", "-c", script]);
    remote_program(&sshd, "sh");
    occ.kill().unwrap();
    occ.wait().unwrap();
    no_programs(&sshd, GUARD);
    no_channels(&rig, GUARD);
}

#[test]
fn a_server_that_ignores_signals_is_no_hang_and_is_told() {
    let host = EmbeddedHost::start();
    host.ignore_signals(true);
    let rig = daemon_for(&host);
    shell(&rig, "true");
    let request = json!({ "argv": ["sh", "-c", "echo out; exec sleep 1000"], "timeout_ms": 200 });
    let result = exec(&rig, request);
    assert!(result.exit.timed_out && result.exit.may_still_run, "{result:?}");
    assert_eq!(result.stdout.as_deref(), Some("out\n"));
    let occ = rig.run_occ(&["exec", "--host", "h", "--timeout", "200ms", "--", "sleep", "1000"]);
    assert_eq!(occ.code(), 124);
    assert!(occ.stderr.contains("may still run"), "{occ:?}");
    // At last our own close ends it, also where the server is deaf to everything else.
    no_channels(&rig, GUARD);
    let probe_and_spare = 1;
    wait_until("its channels", GUARD, || host.open_channels(), |n| *n <= probe_and_spare);
    assert_eq!(shell(&rig, "echo next").stdout.unwrap(), "next\n");
}

#[test]
fn a_program_that_stops_reading_ends_in_time() {
    let Some((sshd, rig)) = sshd() else { return };
    // It ends while our input waits for a window that nobody opens any more.
    let output = occ_exec(&rig)
        .args(["head", "-c1"])
        .stdin(std::fs::File::open("/dev/zero").unwrap())
        .output()
        .unwrap();
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"\0"[..]), "{output:?}");
    no_channels(&rig, GUARD);

    let mut ws = Ws::start(&rig, &json!({ "argv": ["sh", "-c", "head -c1; exit 3"] }));
    ws.started();
    for _ in 0..64 {
        // Once it has said how the program ended, the daemon closes.
        if !ws.input(&[7; 64 * 1024]) {
            break;
        }
    }
    assert_eq!(ws.next(), Incoming::Bytes(STDOUT, vec![7]));
    let Incoming::Event(ExecEvent::Exit(exit)) = ws.next() else { panic!() };
    assert_eq!(exit.code, Some(3));
    no_programs(&sshd, GUARD);
}

#[test]
fn a_server_that_dies_during_an_upload_is_told() {
    let Some((sshd, rig)) = sshd() else { return };
    // Nothing is read, so the upload waits for its window when the server goes.
    let mut occ = occ_exec(&rig)
        .args(["sleep", "1000"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = occ.stdin.take().unwrap();
    let sent = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&sent);
    let writer = thread::spawn(move || {
        while stdin.write_all(&[0; 64 * 1024]).is_ok() {
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    remote_program(&sshd, "sleep");
    // Our buffers and the window are full: nothing moved between two looks.
    let stuck = || {
        let before = status(&rig).connection.map(|c| c.bytes_out);
        thread::sleep(Duration::from_millis(100));
        let after = status(&rig).connection.map(|c| c.bytes_out);
        (before.is_some_and(|bytes| bytes > 1024 * 1024) && before == after).then_some(())
    };
    wait_for("the upload to be stuck", GUARD, stuck);
    sshd.kill_sessions();
    assert_eq!(exit_code(&mut occ), 6);
    writer.join().unwrap();
    let mut error = String::new();
    occ.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert!(error.contains("may still run"), "{error}");
    // The same through the API: the document says so too.
    settled(&rig);
    let mut stream = Stream::post(&rig, NDJSON, &json!({ "argv": ["sleep", "1000"] }));
    stream.wait_for("started");
    remote_program(&sshd, "sleep");
    sshd.kill_sessions();
    let line = stream.wait_for("error");
    assert!(line.contains(Code::OutcomeUnknown.as_str()), "{line}");
}

#[test]
fn an_interrupt_before_the_start_says_what_is_known() {
    let Some((sshd, rig)) = sshd() else { return };
    settled(&rig);
    // Sent to a server that does not answer: it may run, once that goes on.
    sshd.pause();
    let occ = spawn_occ(&rig, &["sleep", "1000"]);
    wait_until("the request", GUARD, || status(&rig).open_channels, |open| *open > 0);
    let said = interrupted(occ);
    assert!(said.contains("had not said whether the command started"), "{said}");
    sshd.resume();
    no_programs(&sshd, GUARD);
}

#[test]
fn an_interrupt_while_the_host_connects_says_that_nothing_started() {
    let host = EmbeddedHost::start();
    host.stall_at(Phase::Auth);
    let rig = daemon_for(&host);
    let occ = spawn_occ(&rig, &["true"]);
    wait_until("the dial", GUARD, || host.connections(), |n| *n == 1);
    let said = interrupted(occ);
    assert!(said.contains("the command had not started on h"), "{said}");
    assert_eq!(host.execs(), 0);
}

fn interrupted(occ: std::process::Child) -> String {
    Process::find(occ.id()).unwrap().signal(Signal::INT);
    let output = occ.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}
