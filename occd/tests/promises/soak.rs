//! A short soak; `cargo xtask soak` is the long one.

use std::time::Duration;

use testkit::RealSshd;
use testkit::soak::Soak;

#[test]
fn what_must_hold_holds_whatever_breaks() {
    if !RealSshd::require() {
        return;
    }
    let soak = Soak { seed: 7, hosts: 6, time: Duration::from_secs(20) };
    let report = soak.run();
    println!("{report:?}");
    assert!(report.succeeded > 50 && report.faults > 20, "{soak:?}: {report:?}");
}
