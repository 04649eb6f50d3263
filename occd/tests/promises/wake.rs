//! After sleep and after a change of the network connections are checked, and what was down is dialled.

use std::process::Command;
use std::time::Duration;

use occ_proto::Code;
use occ_proto::status::State;
use serde_json::json;
use testkit::daemon::Target;
use testkit::proc::Signal;
use testkit::require::{find_program, require, require_namespaces};
use testkit::wait::blocking::{wait_for, wait_until};
use testkit::{DaemonRig, EmbeddedHost, FaultyLink};
use tokio::time::Instant;

use crate::ask::{GUARD, begin_exec, echoes, exec, failure, in_state, look, probed, problem};

/// Far below the 45 s after which an idle dead connection is found anyway.
const SOON: Duration = Duration::from_secs(20);

fn rig() -> (EmbeddedHost, FaultyLink, DaemonRig) {
    let host = EmbeddedHost::start();
    let link = FaultyLink::start(host.addr());
    let mut rig = DaemonRig::new();
    rig.add_host("far", Target::from(&host).through(&link));
    rig.start_daemon(&[]);
    echoes(&rig, "far");
    (host, link, rig)
}

/// Set in a network namespace of the test's own.
const INSIDE: &str = "OCC_TEST_NAMESPACE";

/// Adds an address to the loopback interface, or takes it away.
fn ip(verb: &str, address: &str) {
    let mut command = Command::new("ip");
    command.args(["address", verb, &format!("{address}/32"), "dev", "lo"]);
    assert!(command.status().unwrap().success(), "ip address {verb} {address}");
}

/// Runs a test of this program once more in a network namespace of its own, in which it may change what it
/// likes. Needs root; elsewhere it is skipped, visibly.
fn in_namespace(test: &str) {
    let ip = find_program("ip").map(drop);
    if !require_namespaces(&["--net"]) || !require("ip", ip, "OCC_REQUIRE_SYSTEMD") {
        return;
    }
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]);
    command.arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]);
    let output = command.env(INSIDE, "1").output().unwrap();
    let says = [output.stdout, output.stderr].concat();
    let says = String::from_utf8_lossy(&says);
    assert!(output.status.success() && says.contains("1 passed"), "{says}");
}

#[test]
fn a_change_of_the_network_finds_the_dead_and_hurries_the_waiting() {
    if std::env::var_os(INSIDE).is_none() {
        let test = "wake::a_change_of_the_network_finds_the_dead_and_hurries_the_waiting";
        return in_namespace(test);
    }
    let (_host, link, rig) = rig();
    // A live one is left in peace.
    let before = look(&rig, "far").connection.unwrap().id;
    let checks = |rig: &DaemonRig| rig.log().matches("the network changed").count();
    // One of the addresses for documentation (RFC 5737): nobody else uses it.
    ip("add", "192.0.2.101");
    wait_for("the change to be seen", GUARD, || (checks(&rig) == 1).then_some(()));
    echoes(&rig, "far");
    assert_eq!(look(&rig, "far").connection.unwrap().id, before);

    link.blackhole(true);
    let begun = Instant::now();
    ip("del", "192.0.2.101");
    let error = failure(&rig, "far", State::Backoff);
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert!(error.message.contains("gave no sign of life when it was asked for one"), "{error:?}");

    // Deep in its backoff; the change brings the next dial forward.
    link.blackhole(false);
    link.refuse(true);
    wait_until(
        "a long backoff",
        Duration::from_secs(90),
        || look(&rig, "far"),
        |host| {
            let wait = host.next_retry_at.map(|at| at.duration_since(jiff::Timestamp::now()));
            host.attempt >= 4 && wait.is_some_and(|wait| wait.as_secs() >= 8)
        },
    );
    link.refuse(false);
    let begun = Instant::now();
    ip("add", "192.0.2.102");
    // Asked by the list, which hurries nobody.
    wait_until(
        "the host to be back",
        GUARD,
        || crate::ask::list(&rig).hosts[0].state,
        |state| *state == State::Connected,
    );
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[test]
fn after_a_sleep_no_command_is_sent_on_a_connection_that_nobody_has_looked_at() {
    let (host, link, rig) = rig();
    probed(&rig, "far");
    let [begun, go] = ["begun", "go"].map(|name| rig.root().join(name));
    let (b, g) = (begun.display(), go.display());
    let line =
        format!("true >{b}; until [ -e {g} ]; do sleep 0.01; done; echo more; exec sleep 1000");
    let asked = json!({"argv": ["sh", "-c", line]});
    let _running = begin_exec(&rig, "far", "accept: application/x-ndjson", &asked);
    // Not only a look at the host, which is a command as well.
    wait_for("it to run", GUARD, || begun.exists().then_some(()));
    let before = host.execs();
    // A process that is stopped for so long is what a machine that sleeps looks like from inside.
    let daemon = rig.daemon();
    daemon.signal(Signal::STOP);
    // What has come by the end of the sleep, and is read after it, is no sign of life.
    let seen = link.bytes().1;
    std::fs::write(&go, "").unwrap();
    wait_until("more", GUARD, || link.bytes().1, |bytes| *bytes > seen);
    link.blackhole(true);
    let begun = Instant::now();
    wait_until("the sleep", GUARD, || begun.elapsed(), |time| *time > Duration::from_secs(26));
    daemon.signal(Signal::CONT);
    let begun = Instant::now();
    let answer = problem(&exec(&rig, "far", &["true"]));
    // Not "outcome unknown": it was not sent.
    assert_eq!(answer.code, Code::HostUnreachable, "{answer:?}");
    assert_eq!(host.execs(), before);
    let found = rig.log().contains("gave no sign of life when it was asked for one");
    assert!(found && begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    link.blackhole(false);
    in_state(&rig, "far", State::Connected);
    echoes(&rig, "far");
}
