//! `cargo xtask soak [SECONDS [SEED]]`: see `testkit::soak`.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a tool that prints its findings")]

use std::time::{Duration, SystemTime};

use testkit::soak::Soak;

fn main() {
    let mut words = std::env::args().skip(1).map(|word| word.parse().expect("a number"));
    let time = Duration::from_secs(words.next().unwrap_or(180));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = words.next().unwrap_or(now.as_secs());
    println!("20 hosts for {} s, seed {seed}", time.as_secs());
    let report = Soak { seed, hosts: 20, time }.run();
    println!("{report:#?}\nall held");
}
