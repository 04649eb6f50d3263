//! Servers that close what is idle are left alone: the host is idle, and dialled when it is used next.

use occ_proto::status::State;
use testkit::RealSshd;
use testkit::wait::blocking::wait_until;

use crate::ask::{GUARD, echoes, list};
use crate::support::daemon_for;

#[test]
fn a_server_that_closes_idle_connections_is_not_fought() {
    if !RealSshd::require() {
        return;
    }
    // As strict as sshd can be: no channel may be idle for 1 s, no connection without a channel for 1 s.
    let sshd = RealSshd::builder()
        .config("ChannelTimeout *=1s")
        .config("UnusedConnectionTimeout 1s")
        .start();
    let rig = daemon_for(&sshd);
    // The list dials nothing.
    let host = || list(&rig).hosts.remove(0);
    let idle = || {
        wait_until(
            "the host to be left alone",
            GUARD,
            || host().state,
            |state| *state == State::Idle,
        )
    };
    echoes(&rig, "h");
    idle();
    let connects = host().connects;
    assert!(connects <= 8, "{connects} connections");
    // Dialled when it is used, and then left alone at once.
    echoes(&rig, "h");
    idle();
    assert_eq!(host().connects, connects + 1);
}
