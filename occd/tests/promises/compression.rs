//! `compression = "auto"`: worth its time on a line that is far, or slow.

use testkit::daemon::Target;
use testkit::{DaemonRig, FaultyLink, RealSshd};

use crate::ask::{echoes, exec, look, post};

#[test]
fn a_slow_line_is_compressed_from_the_next_connection_on() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let link = FaultyLink::start(sshd.addr());
    let mut rig = DaemonRig::new();
    rig.add_host("far", Target::from(&sshd).through(&link));
    rig.start_daemon(&[]);
    let compressed = || {
        assert_eq!(post(&rig, "/v1/hosts/far/reconnect").status, 200);
        look(&rig, "far").connection.unwrap().compressed
    };
    // Nothing that could be compressed away.
    let load = |bytes: &str| {
        let answer = exec(&rig, "far", &["head", "-c", bytes, "/dev/urandom"]);
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    echoes(&rig, "far");
    // Long enough for a busy machine to have a good moment.
    load("40000000");
    assert!(!compressed());
    link.set_bandwidth(Some(1_000_000));
    load("3000000");
    assert!(compressed());
    // Fast again: so is the next one after it has been seen.
    link.set_bandwidth(None);
    load("40000000");
    assert!(!compressed());
}
