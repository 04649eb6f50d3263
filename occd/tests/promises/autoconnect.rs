//! Which hosts are connected when the daemon starts.

use occ_proto::status::State;
use testkit::wait::blocking::wait_until;
use testkit::{DaemonRig, EmbeddedHost};

use crate::ask::{GUARD, echoes, list};

/// Returns each host's state without asking for any of them.
fn states(rig: &DaemonRig) -> Vec<(String, State)> {
    list(rig).hosts.iter().map(|host| (host.name.to_string(), host.state)).collect()
}

#[test]
fn what_was_disconnected_stays_so_over_a_restart_until_it_is_connected() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("away", &host);
    rig.add_host("used", &host);
    rig.start_daemon(&[]);
    echoes(&rig, "away");
    echoes(&rig, "used");
    rig.occ_ok(&["disconnect", "--host", "away"]);
    // What is asked of it in vain is no use of it.
    assert_eq!(rig.run_occ(&["exec", "--host", "away", "true"]).code(), 5);
    let restarted = |rig: &mut DaemonRig, expected: State| {
        rig.terminate_daemon();
        rig.start_daemon(&[]);
        let expected = [("away".to_owned(), expected), ("used".to_owned(), State::Connected)];
        wait_until("the states", GUARD, || states(rig), |seen| *seen == expected);
    };
    for _ in 0..2 {
        restarted(&mut rig, State::Stopped);
        // Neither a look nor a command brings it back.
        let status = rig.occ_ok(&["status", "--host", "away"]);
        assert!(status.contains("disconnected on request"), "{status:?}");
        assert_eq!(rig.run_occ(&["exec", "--host", "away", "true"]).code(), 5);
    }
    rig.occ_ok(&["reconnect", "--host", "away"]);
    restarted(&mut rig, State::Connected);
    // A daemon that is killed has noted it, too.
    rig.occ_ok(&["disconnect", "--host", "away"]);
    let used = rig.paths().state_dir().unwrap().join("used.json");
    let noted = || std::fs::read_to_string(&used).unwrap();
    wait_until("it to be noted", GUARD, noted, |noted| noted.contains("\"away\":null"));
    // Another of its name begins anew.
    rig.occ_ok(&["host", "remove", "away", "-f"]);
    rig.terminate_daemon();
    rig.add_host("away", &host);
    rig.start_daemon(&[]);
    echoes(&rig, "away");
}

#[test]
fn what_a_person_asked_for_outlives_a_kill_right_after_the_answer() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("h", &host);
    rig.start_daemon(&[]);
    echoes(&rig, "h");
    for (ask, expected) in [
        ("disconnect", State::Stopped),
        ("connect", State::Connected),
        ("disconnect", State::Stopped),
        ("reconnect", State::Connected),
    ] {
        rig.occ_ok(&[ask, "--host", "h"]);
        rig.kill_daemon();
        rig.start_daemon(&[]);
        let expected = [("h".to_owned(), expected)];
        wait_until("the state", GUARD, || states(&rig), |seen| *seen == expected);
    }
}

#[test]
fn what_was_used_lately_is_connected_again_unless_the_settings_say_otherwise() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    for name in ["used", "looked-at", "new"] {
        rig.add_host(name, &host);
    }
    rig.start_daemon(&[]);
    echoes(&rig, "used");
    rig.occ_ok(&["status", "--host", "looked-at"]);
    rig.occ_ok(&["forward", "add", "-L", "0:127.0.0.1:9", "--host", "used"]);
    for (setting, expected) in [
        ("", [State::Connected, State::Idle, State::Idle]),
        ("[connection]\nautoconnect = \"all\"\n", [State::Connected; 3]),
        ("[connection]\nautoconnect = \"none\"\n", [State::Idle; 3]),
        (
            "[connection]\nautoconnect = \"none\"\n[hosts.new.connection]\nautoconnect = \"all\"\n",
            [State::Idle, State::Idle, State::Connected],
        ),
    ] {
        // The use is remembered from start to start.
        rig.terminate_daemon();
        rig.write_config_toml(setting);
        rig.start_daemon(&[]);
        let names = ["used", "looked-at", "new"].map(str::to_owned);
        let expected: Vec<(String, State)> = names.into_iter().zip(expected).collect();
        wait_until("the states", GUARD, || states(&rig), |seen| *seen == expected);
        // Nobody else follows, nor the host of a forward that listens here: that waits for a client.
        rig.occ_ok(&["host", "list"]);
        assert_eq!(states(&rig), expected);
    }
}
