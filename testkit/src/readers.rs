//! Readers of a command's output that are slow or have stopped, and short commands beside them: shared by the
//! tests and `cargo xtask soak readers`, which takes longer.

#![allow(clippy::disallowed_methods, reason = "it is real time that passes")]

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::DaemonRig;
use crate::wait::blocking::wait_until;

/// Guards against hanging.
const GUARD: Duration = Duration::from_secs(60);
/// Bytes per read: a pipe's capacity.
const CHUNK: usize = 64 * 1024;

/// Returns the bytes of unread output that the daemon keeps in unlinked files.
pub fn spilled(rig: &DaemonRig) -> u64 {
    let dir = rig.root().join("state/occ/spill").display().to_string();
    let Ok(entries) = std::fs::read_dir(format!("/proc/{}/fd", rig.daemon_pid())) else { return 0 };
    entries
        .flatten()
        .filter(|entry| {
            let target = std::fs::read_link(entry.path()).unwrap_or_default();
            target.to_string_lossy().starts_with(&dir)
        })
        .filter_map(|entry| std::fs::metadata(entry.path()).ok())
        .map(|file| file.size())
        .sum()
}

/// Runs short commands one after the other for as long as `more` says, given how many there were. Returns how
/// long each took, the shortest first.
///
/// # Panics
/// When one fails or answers wrong.
pub fn short_commands(
    rig: &DaemonRig,
    host: &str,
    mut more: impl FnMut(usize) -> bool,
) -> Vec<Duration> {
    let path = format!("/v1/hosts/{host}/exec");
    let mut times = Vec::new();
    while more(times.len()) {
        let word = format!("word-{}", times.len());
        let start = Instant::now();
        let answer = rig.http("POST", &path, &[], Some(json!({ "argv": ["echo", word] })));
        times.push(start.elapsed());
        let said = answer.text();
        assert_eq!(answer.status, 200, "{said}");
        assert_eq!(answer.json()["stdout"], format!("{word}\n"), "{said}");
    }
    times.sort_unstable();
    times
}

/// Returns the median of sorted times.
///
/// # Panics
/// When there are none.
pub fn median(times: &[Duration]) -> Duration {
    times[times.len() / 2]
}

fn stream(rig: &DaemonRig, host: &str, argv: &[&str]) -> (Child, ChildStdout) {
    let mut occ = rig.occ(&["exec", "--host", host, "--"]);
    let mut occ = occ.args(argv).stdout(Stdio::piped()).spawn().unwrap();
    let stdout = occ.stdout.take().unwrap();
    (occ, stdout)
}

/// Reads `bytes` bytes of numbered lines through `occ exec` at a steady `rate`, in bytes per second, beside short
/// commands, and compares each byte with what it must be. Returns the commands' times.
///
/// # Panics
/// When the bytes differ, or a command fails.
pub fn paced(rig: &DaemonRig, host: &str, bytes: u64, rate: u64) -> Vec<Duration> {
    // No line is like another one: what is lost, doubled or swapped shows.
    let argv = ["sh", "-c", &format!("seq 1 4000000000 | head -c {bytes}")];
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let commands = scope.spawn(|| short_commands(rig, host, |_| !over.load(Ordering::Relaxed)));
        let reading = scope.spawn(|| read_at(rate, stream(rig, host, &argv), &argv));
        let read = reading.join();
        over.store(true, Ordering::Relaxed);
        assert_eq!(read.unwrap(), bytes);
        commands.join().unwrap()
    })
}

fn read_at(rate: u64, (mut occ, mut stdout): (Child, ChildStdout), argv: &[&str]) -> u64 {
    let mut local = Command::new(argv[0]).args(&argv[1..]).stdout(Stdio::piped()).spawn().unwrap();
    let mut expected = local.stdout.take().unwrap();
    let begun = Instant::now();
    let (mut total, mut buffer, mut right) = (0, vec![0; CHUNK], vec![0; CHUNK]);
    loop {
        let n = stdout.read(&mut buffer).unwrap();
        expected.read_exact(&mut right[..n]).unwrap();
        assert!(buffer[..n] == right[..n], "the bytes from {total} on differ");
        if n == 0 {
            break;
        }
        total += n as u64;
        let due = Duration::from_secs_f64(total as f64 / rate as f64);
        thread::sleep(due.saturating_sub(begun.elapsed()));
    }
    assert!(occ.wait().unwrap().success() && local.wait().unwrap().success());
    total
}

/// Starts commands whose output is read no further than its first bytes, and beside them short ones: at least
/// `count`, and at least as long as `span`. Returns their times.
///
/// # Panics
/// When one fails, or what the daemon keeps of the stopped ones is not gone when they are.
pub fn beside_stopped(
    rig: &DaemonRig,
    host: &str,
    stopped: &[&[&str]],
    (count, span): (usize, Duration),
) -> Vec<Duration> {
    let streams: Vec<(Child, ChildStdout)> = stopped
        .iter()
        .map(|argv| {
            let (occ, mut stdout) = stream(rig, host, argv);
            stdout.read_exact(&mut [0; 8]).unwrap();
            (occ, stdout)
        })
        .collect();
    wait_until("output on disk", GUARD, || spilled(rig), |bytes| *bytes > 0);
    let begun = Instant::now();
    let times = short_commands(rig, host, |n| n < count || begun.elapsed() < span);
    for (mut occ, stdout) in streams {
        drop(stdout);
        // It may have ended by itself, of the closed pipe.
        occ.kill().unwrap();
        occ.wait().unwrap();
    }
    wait_until("the files to be gone", GUARD, || spilled(rig), |bytes| *bytes == 0);
    times
}
