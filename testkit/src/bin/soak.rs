//! `cargo xtask soak [SECONDS [SEED]]`: see `testkit::soak`; `cargo xtask soak readers [SECONDS]`: see
//! `testkit::readers`.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a tool that prints its findings")]

use std::time::{Duration, SystemTime};

use testkit::soak::Soak;
use testkit::{DaemonRig, RealSshd, readers};

/// What the slow reader reads in a second.
const PACE: u64 = 5_000_000;
/// How long the stopped readers are stopped, where the slow one reads for ten minutes.
const STOPPED_PART: u32 = 5;

fn main() {
    let mut words = std::env::args().skip(1).peekable();
    let readers = words.next_if(|word| word == "readers").is_some();
    let mut words = words.map(|word| word.parse().expect("a number"));
    if readers {
        return read(Duration::from_secs(words.next().unwrap_or(600)));
    }
    let time = Duration::from_secs(words.next().unwrap_or(180));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = words.next().unwrap_or(now.as_secs());
    println!("20 hosts for {} s, seed {seed}", time.as_secs());
    let report = Soak { seed, hosts: 20, time }.run();
    println!("{report:#?}\nall held");
}

fn read(time: Duration) {
    let sshd = RealSshd::builder().client_alive(5, 3).start();
    let mut rig = DaemonRig::new();
    rig.add_host("h", &sshd);
    rig.start_daemon(&[]);
    let bytes = PACE * time.as_secs();
    println!("a reader of {bytes} bytes at {PACE} bytes per second, and short commands");
    tell("beside the slow reader", &readers::paced(&rig, "h", bytes, PACE));
    let stopped = time / STOPPED_PART;
    println!(
        "a stopped `yes` and a stopped stream of writes of 8 bytes for {} s",
        stopped.as_secs()
    );
    let small = ["sh", "-c", "exec dd if=/dev/zero bs=8 2>/dev/null"];
    let least = (1000, stopped);
    let times = readers::beside_stopped(&rig, "h", &[&["yes"], &small], least);
    tell("beside the stopped ones", &times);
    assert!(!sshd.log().contains("Timeout, client not responding"), "{}", sshd.log());
    println!("all held");
}

fn tell(what: &str, times: &[Duration]) {
    let (median, longest) = (readers::median(times), times[times.len() - 1]);
    println!("{} commands {what}: {median:?} in the median, {longest:?} at most", times.len());
}
