//! Servers that close what is idle are left alone: the host is idle, and dialled when it is used next. A daemon that
//! nobody asks for anything does next to nothing.

use std::time::Duration;

use occ_proto::history::{History, Link};
use occ_proto::status::{IdleReason, State};
use testkit::wait::blocking::{wait_for, wait_until};
use testkit::{DaemonRig, EmbeddedHost, RealSshd};
use tokio::time::Instant;

use crate::ask::{GUARD, body, connect, echoes, list};
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

#[test]
fn a_daemon_that_nobody_asks_sleeps() {
    const WINDOW: Duration = Duration::from_secs(15);
    /// A look at the clock, a keep-alive with its answer, and a round trip that is measured, each of which may wake
    /// two threads, and one more when they go to sleep again.
    const WAITS: u64 = 20;
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("h", &host);
    rig.start_daemon(&[]);
    connect(&rig, "h");
    let waits = || rig.daemon().waits();
    // What follows a login takes a moment, and files that were just written are looked at twice.
    let woken = || {
        let (before, begun) = (waits(), Instant::now());
        wait_until("a while", GUARD, || begun.elapsed(), |time| *time > WINDOW);
        waits().since(&before)
    };
    let few = wait_until("the daemon to sleep", 3 * GUARD, woken, |woken| *woken <= WAITS);
    assert!(few <= WAITS, "{few} in {WINDOW:?}");
}

#[test]
fn a_daemon_at_rest_gives_back_what_starting_and_logging_in_took() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let rig = daemon_for(&sshd);
    let mapped = || {
        let rest = rig.daemon_rss_kib() - rig.daemon().memory_kib("Private_Dirty").unwrap();
        u32::try_from(rest).unwrap()
    };
    echoes(&rig, "h");
    let begun = mapped();
    wait_until("the program's text to be given back", GUARD, mapped, |now| *now * 2 < begun);
    // What is needed is there again.
    echoes(&rig, "h");
}
