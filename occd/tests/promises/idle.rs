//! Servers that close what is idle are left alone: the host is idle, and dialled when it is used next.

use occ_proto::history::{History, Link};
use occ_proto::status::{IdleReason, State};
use testkit::RealSshd;
use testkit::wait::blocking::{wait_for, wait_until};

use crate::ask::{GUARD, body, echoes, list};
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
    // It says why, and not only for as long as it lasts.
    let why = host();
    assert_eq!(why.idle_reason, Some(IdleReason::ServerIdlePolicy));
    let age = why.idle_close_s.unwrap();
    assert!((1..10).contains(&age), "{age} s");
    let sentence = "the server closes idle connections after ";
    let table = rig.occ_ok(&["status", "--all"]);
    assert!(table.contains(&format!("{sentence}{age}s; connects on use")), "{table}");
    let history = || -> History { body(&rig.http("GET", "/v1/hosts/h/history", &[], None)) };
    let recorded = wait_for("the history", GUARD, || {
        history().changes.pop().filter(|change| change.link == Link::Idle)
    });
    assert_eq!(recorded.idle_reason, Some(IdleReason::ServerIdlePolicy));
    let told = rig.occ_ok(&["history", "--host", "h"]);
    assert!(told.contains(&format!("{sentence}{age} s\n")), "{told}");
    let connects = why.connects;
    assert!(connects <= 8, "{connects} connections");
    // Dialled when it is used, and then left alone at once.
    echoes(&rig, "h");
    assert_eq!(host().idle_reason, None);
    idle();
    assert_eq!(host().connects, connects + 1);
}
