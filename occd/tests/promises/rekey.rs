//! New keys in the middle of a stream: every byte arrives, and nothing waits for long.

use std::io::Write as _;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use testkit::RealSshd;
use tokio::time::Instant;

use crate::support::{daemon_for, occ_exec, settled, shell, status};

const BYTES: usize = 32_000_000;

/// Bytes that are not the same anywhere.
fn bytes() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(42);
    std::iter::repeat_with(|| random.u8(..)).take(BYTES).collect()
}

#[test]
fn streams_are_exact_however_often_the_keys_change() {
    if !RealSshd::require() {
        return;
    }
    // 32 MB are 120 changes of the keys, and 500.
    for limit in ["RekeyLimit 256k", "RekeyLimit 64k"] {
        let sshd = RealSshd::builder().config(limit).start();
        let rig = daemon_for(&sshd);
        settled(&rig);
        let data = bytes();
        let sum: String = Sha256::digest(&data).iter().map(|byte| format!("{byte:02x}")).collect();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let beside = scope.spawn(|| {
                let mut longest = Duration::ZERO;
                while !done.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    assert_eq!(shell(&rig, "echo beside").stdout.unwrap(), "beside\n");
                    longest = longest.max(begun.elapsed());
                }
                longest
            });
            let mut occ = occ_exec(&rig);
            occ.args(["sh", "-c", "tee /dev/stderr | sha256sum >&2"]);
            occ.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
            // Up and down at once.
            let mut occ = occ.spawn().unwrap();
            let mut input = occ.stdin.take().unwrap();
            let writing = scope.spawn(|| {
                input.write_all(&data).unwrap();
                drop(input);
            });
            let output = occ.wait_with_output().unwrap();
            writing.join().unwrap();
            assert_eq!(output.status.code(), Some(0));
            let (back, told) = output.stderr.split_at(BYTES.min(output.stderr.len()));
            assert!(back == data, "{limit}: the bytes that came back differ");
            assert_eq!(String::from_utf8_lossy(told).split(' ').next(), Some(sum.as_str()));
            done.store(true, Ordering::Relaxed);
            let longest = beside.join().unwrap();
            // No measurement: a connection that is stuck in an exchange gives its commands up after 10 s.
            assert!(longest < Duration::from_secs(5), "{limit}: {longest:?}");
        });
        assert!(status(&rig).last_error.is_none(), "{:?}", status(&rig));
    }
}
