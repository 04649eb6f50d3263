//! A connection that breaks is noticed, shown, and brought back; one that was stopped stays away.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use occ_proto::status::{HostStatus, Phase, State};
use occ_proto::{Code, HostName};
use occd::config::Config;
use occd::ssh::ssh_config::SshConfig;
use serde_json::json;
use testkit::daemon::Target;
use testkit::wait::blocking::{wait_for, wait_until};
use testkit::{DaemonRig, EmbeddedHost, FaultyLink, RealSshd};
use tokio::time::Instant;

use crate::ask::{
    Clock, GUARD, body, connect, echoes, exec, failure, in_state, list, look, meanwhile, post,
    probed, problem,
};
use crate::invariants::Held;

/// A real server behind a link, and a daemon that knows it as `far`.
struct Far {
    rig: DaemonRig,
    link: FaultyLink,
    sshd: RealSshd,
}

impl Far {
    fn start(config: &str) -> Self {
        let sshd = RealSshd::start();
        let link = FaultyLink::start(sshd.addr());
        let mut rig = DaemonRig::new();
        rig.add_host("far", Target::from(&sshd).through(&link));
        rig.write_config_toml(config);
        rig.start_daemon(&[]);
        Self { rig, link, sshd }
    }
}

/// Returns how long after `begun` the daemon saw the failure that the host shows.
fn seen_after(status: &HostStatus, begun: Timestamp) -> SignedDuration {
    status.last_error.as_ref().expect("a reason").at.duration_since(begun)
}

/// Waits for the connection after `old`, which nobody asks for.
fn back_by_itself(rig: &DaemonRig, old: &HostStatus) -> HostStatus {
    let is_new =
        |status: &HostStatus| status.state == State::Connected && status.connects > old.connects;
    wait_until("the daemon to connect again by itself", GUARD, || look(rig, "far"), is_new)
}

fn connection_id(status: &HostStatus) -> u64 {
    status.connection.as_ref().expect("a connection").id
}

#[test]
fn a_killed_session_is_seen_within_a_second_and_the_next_command_works() {
    if !RealSshd::require() {
        return;
    }
    let far = Far::start("");
    let old = connect(&far.rig, "far");
    far.sshd.kill_sessions();
    let killed = Timestamp::now();
    let now = wait_until(
        "the loss to be seen",
        GUARD,
        || look(&far.rig, "far"),
        |status| status.last_error.is_some(),
    );
    assert!(seen_after(&now, killed) <= SignedDuration::from_secs(1), "{now:?}");
    let error = now.last_error.unwrap();
    assert_eq!((error.code, error.phase), (Code::HostUnreachable, Phase::Established));
    echoes(&far.rig, "far");
    assert!(connection_id(&look(&far.rig, "far")) > connection_id(&old));
}

#[test]
fn a_broken_connection_comes_back_without_a_request() {
    if !RealSshd::require() {
        return;
    }
    let far = Far::start("");
    let old = connect(&far.rig, "far");
    far.sshd.kill_sessions();
    let new = back_by_itself(&far.rig, &old);
    assert_eq!((new.attempt, new.next_retry_at), (0, None));
    assert_eq!(new.last_error.as_ref().expect("the break stays visible").phase, Phase::Established);

    far.link.reset_all();
    let newer = back_by_itself(&far.rig, &new);
    let error = newer.last_error.as_ref().expect("the break stays visible");
    assert!(error.message.contains("reset"), "{error:?}");
    assert!(connection_id(&newer) > connection_id(&new));
    echoes(&far.rig, "far");
}

#[test]
fn a_restarted_listener_is_not_noticed() {
    if !RealSshd::require() {
        return;
    }
    let mut far = Far::start("");
    let before = connect(&far.rig, "far");
    far.sshd.stop_listener();
    echoes(&far.rig, "far");
    far.sshd.start_again();
    echoes(&far.rig, "far");
    let after = look(&far.rig, "far");
    assert_eq!(connection_id(&after), connection_id(&before));
    assert_eq!((after.state, after.connects, after.since), (State::Connected, 1, before.since));
    assert_eq!(after.last_error, None);
}

#[test]
fn silence_is_death_after_the_set_number_of_keepalives() {
    if !RealSshd::require() {
        return;
    }
    let far = Far::start(
        "[connection]\nkeepalive_interval = \"1s\"\nkeepalive_count = 2\nconnect_timeout = \"1s\"\n",
    );
    connect(&far.rig, "far");
    // Answered keep-alives keep it alive, however long nothing else happens.
    let quiet = far.link.bytes();
    wait_until(
        "keep-alives to be sent and answered",
        GUARD,
        || far.link.bytes(),
        |now| now.0 > quiet.0 + 200 && now.1 > quiet.1 + 100,
    );
    assert_eq!(look(&far.rig, "far").last_error, None);

    far.link.blackhole(true);
    let silent = Timestamp::now();
    let now = wait_until(
        "the silence to be seen",
        GUARD,
        || look(&far.rig, "far"),
        |status| status.last_error.is_some(),
    );
    // (count + 1) × interval, and some for a busy machine.
    assert!(seen_after(&now, silent) <= SignedDuration::from_millis(3800), "{now:?}");
    assert!(now.last_error.unwrap().message.contains("keep-alive"));
    far.link.blackhole(false);
    echoes(&far.rig, "far");
}

#[test]
fn the_default_keepalive_finds_a_dead_peer_within_45_seconds() {
    let dial = Config::default().effective(&HostName::new("any").unwrap()).dial;
    let (interval, count) = dial.keepalive(&SshConfig::default());
    assert_eq!(interval * (count + 1), Duration::from_secs(45));
}

#[test]
fn a_host_that_flaps_costs_one_dial_each_time_and_leaves_nothing_behind() {
    const FLAPS: u64 = 50;
    let host = EmbeddedHost::start();
    let link = FaultyLink::start(host.addr());
    let mut rig = DaemonRig::new();
    rig.add_host("far", Target::from(&host).through(&link));
    rig.write_config_toml("[connection]\nmax_backoff = \"100ms\"\n");
    rig.start_daemon(&[]);
    connect(&rig, "far");
    let mut now = probed(&rig, "far");
    let held = Held::by(&rig);
    for _ in 0..FLAPS {
        link.reset_all();
        now = back_by_itself(&rig, &now);
    }
    probed(&rig, "far");
    assert_eq!(now.connects, FLAPS + 1);
    assert_eq!(link.connections(), FLAPS + 1, "one dial for each loss");
    assert_eq!(now.connections, 1);
    held.is_all_again(&rig);
    wait_until("the server's side to end too", GUARD, || host.active_connections(), |n| *n == 1);
}

#[test]
fn backoff_shows_attempt_next_retry_and_phase() {
    let host = EmbeddedHost::start();
    let link = FaultyLink::start(host.addr());
    let mut rig = DaemonRig::new();
    rig.add_host("far", Target::from(&host).through(&link));
    rig.start_daemon(&[]);
    connect(&rig, "far");
    link.refuse(true);
    link.reset_all();
    let down = wait_until(
        "a third failed dial",
        GUARD,
        || look(&rig, "far"),
        |status| status.state == State::Backoff && status.attempt >= 3,
    );
    let error = down.last_error.unwrap();
    assert_eq!((error.code, error.phase), (Code::HostUnreachable, Phase::Connect));
    assert!(error.retryable && error.message.contains("refused"), "{error:?}");
    let step = down.next_retry_at.expect("a time for the next dial").duration_since(error.at);
    assert!(step <= SignedDuration::from_secs(4), "the third step is at most 2 s, not {step}");
    assert_eq!((down.connections, down.connection), (0, None));

    // A problem that names the time, for a client that can wait.
    let refused = rig.http(
        "POST",
        "/v1/hosts/far/exec",
        &[],
        Some(json!({ "argv": ["true"], "retries": 0 })),
    );
    let refused = problem(&refused);
    assert_eq!((refused.status, refused.code), (503, Code::HostUnreachable));
    assert!(refused.retryable && refused.retry_after_ms.is_some(), "{refused:?}");
    assert!(refused.detail.ends_with("The command was not started."), "{refused:?}");

    link.refuse(false);
    echoes(&rig, "far");
    let up = look(&rig, "far");
    assert_eq!((up.attempt, up.next_retry_at), (0, None));
    assert!(up.last_error.is_some(), "a past break stays visible");
}

#[test]
fn a_command_does_not_wait_for_a_backoff_to_end() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &host);
    rig.start_daemon(&[]);
    // The longest backoff there is after one dial: 15 s at least.
    host.farewell_banner("Not allowed at this time\r\n");
    rig.http("GET", "/v1/hosts/far", &[], None);
    in_state(&rig, "far", State::Backoff);
    host.ssh_banner();
    let begun = Instant::now();
    echoes(&rig, "far");
    // One extra dial, at least 2 s after the one before.
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert_eq!(host.connections(), 2);
}

#[test]
fn a_command_makes_at_most_four_attempts() {
    let host = EmbeddedHost::start();
    host.drop_during_auth(true);
    let mut rig = DaemonRig::new();
    rig.add_host("far", &host);
    rig.write_config_toml("[connection]\nmax_backoff = \"100ms\"\n");
    rig.start_daemon(&[]);
    let answer = problem(&exec(&rig, "far", &["true"]));
    assert_eq!((answer.status, answer.code), (503, Code::HostUnreachable));
    let attempts = answer.causes.last().unwrap();
    assert!(attempts.starts_with("4 attempts in "), "{answer:?}");
    assert_eq!(host.execs(), 0);
}

#[test]
fn retries_end_at_a_set_limit_and_a_person_can_begin_anew() {
    let host = EmbeddedHost::start();
    let link = FaultyLink::start(host.addr());
    let mut rig = DaemonRig::new();
    rig.add_host("far", Target::from(&host).through(&link));
    rig.write_config_toml("[connection]\nmax_retries = 2\nmax_backoff = \"100ms\"\n");
    rig.start_daemon(&[]);
    link.refuse(true);
    let answer = problem(&post(&rig, "/v1/hosts/far/connect"));
    assert_eq!((answer.status, answer.code), (409, Code::HostUnreachable));
    let error = failure(&rig, "far", State::Failed);
    assert!(error.message.starts_with("given up after 3 attempts: no connection to"), "{error:?}");
    assert!(!error.retryable && error.phase == Phase::Connect, "{error:?}");
    assert_eq!(look(&rig, "far").next_retry_at, None);
    link.refuse(false);
    assert_eq!(connect(&rig, "far").state, State::Connected);
}

#[test]
fn a_host_that_was_disconnected_stays_silent_until_connect() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &host);
    rig.write_config_toml(Clock::CONFIG);
    let clock = Clock::add(&rig);
    rig.start_daemon(&[]);
    connect(&rig, "far");
    let stopped: HostStatus = body(&post(&rig, "/v1/hosts/far/disconnect"));
    assert_eq!(stopped.state, State::Stopped);
    wait_until("the goodbye", GUARD, || host.active_connections(), |n| *n == 0);
    wait_until("no connection", GUARD, || look(&rig, "far").connections, |n| *n == 0);

    // Nothing that looks or commands dials, and neither does time.
    let answer = problem(&exec(&rig, "far", &["true"]));
    assert_eq!((answer.status, answer.code), (409, Code::HostStopped));
    assert!(!answer.retryable && answer.phase.is_none(), "{answer:?}");
    for path in ["/v1/hosts", "/v1/hosts/far", "/v1/hosts/far?fresh=true"] {
        assert_eq!(rig.http("GET", path, &[], None).status, 200);
    }
    let patched =
        rig.http("PATCH", "/v1/hosts/far", &[], Some(json!({ "description": "at rest" })));
    assert_eq!(patched.status, 200, "{}", patched.text());
    meanwhile(&rig, &clock, 20);
    assert_eq!((look(&rig, "far").state, host.connections()), (State::Stopped, 1));

    assert_eq!(connect(&rig, "far").state, State::Connected);
    assert_eq!(host.connections(), 2);
}

#[test]
fn a_disconnect_ends_a_backoff_and_a_dial_under_way() {
    let host = EmbeddedHost::start();
    // A dial that nothing but a disconnect ends before this test does.
    host.stall_at(testkit::embedded::Phase::Auth);
    let patient = "[hosts.far.connection]\nconnect_timeout = \"1000s\"\n";
    let mut rig = DaemonRig::new();
    rig.add_host("far", &host);
    rig.write_config_toml(&format!("{}{patient}", Clock::CONFIG));
    let clock = Clock::add(&rig);
    rig.start_daemon(&[]);
    let held = Held::by(&rig);
    rig.http("GET", "/v1/hosts/far", &[], None);
    wait_until("the login", GUARD, || host.offered_auth().len(), |n| *n > 0);
    assert_eq!(look(&rig, "far").state, State::Connecting);
    assert_eq!(post(&rig, "/v1/hosts/far/disconnect").status, 200);
    held.is_all_again(&rig);

    host.clear_stall();
    host.drop_during_auth(true);
    assert_eq!(post(&rig, "/v1/hosts/far/connect").status, 503);
    assert_eq!(post(&rig, "/v1/hosts/far/disconnect").status, 200);
    let dials = host.connections();
    meanwhile(&rig, &clock, 20);
    assert_eq!(host.connections(), dials);
    assert_eq!(look(&rig, "far").next_retry_at, None);
}

#[test]
fn reconnect_replaces_the_connection() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &host);
    rig.start_daemon(&[]);
    let old = connect(&rig, "far");
    let new: HostStatus = body(&post(&rig, "/v1/hosts/far/reconnect"));
    assert_eq!(new.state, State::Connected);
    assert!(connection_id(&new) > connection_id(&old));
    wait_until("the old one to end", GUARD, || host.active_connections(), |n| *n == 1);
    assert_eq!(in_state(&rig, "far", State::Connected).last_error, None);
}

#[test]
fn a_look_starts_a_dial_without_waiting_and_one_is_enough_for_all() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &host);
    rig.start_daemon(&[]);
    host.stall_at(testkit::embedded::Phase::Banner);
    // The list starts nothing.
    assert_eq!(list(&rig).hosts[0].state, State::Idle);
    let looked: HostStatus = body(&rig.http("GET", "/v1/hosts/far", &[], None));
    assert!(matches!(looked.state, State::Idle | State::Connecting), "{looked:?}");
    wait_for("the dial", GUARD, || (host.connections() == 1).then_some(()));
    std::thread::scope(|scope| {
        let commands: Vec<_> = (0..8).map(|_| scope.spawn(|| echoes(&rig, "far"))).collect();
        host.clear_stall();
        commands.into_iter().for_each(|command| command.join().unwrap());
    });
    assert_eq!(host.connections(), 1, "one dial at a time for a host");
}
