//! Jump hosts and ProxyCommand: the way to a server is the one that ssh would take, and a jump host's
//! connection is shared by all that are behind it.

use std::os::unix::fs::PermissionsExt as _;

use jiff::SignedDuration;
use occ_proto::status::{HostStatus, Phase, State};
use occ_proto::{Code, HostConfig, HostName};
use testkit::daemon::Target;
use testkit::wait::blocking::{wait_for, wait_until};
use testkit::{DaemonRig, EmbeddedHost, FaultyLink, RealSshd};

use crate::ask::{GUARD, connect, echoes, exec, in_state, list, look, post, problem};
use crate::support::remote_program;

fn write_ssh_config(rig: &DaemonRig, text: &str) {
    let path = rig.home().join(".ssh/config");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn edit(rig: &DaemonRig, host: &str, change: impl FnOnce(&mut HostConfig)) {
    rig.edit_hosts(|file| change(file.hosts.get_mut(&HostName::new(host).unwrap()).unwrap()));
}

/// Adds a host that is reached through others.
fn add_behind(rig: &DaemonRig, name: &str, target: impl Into<Target>, jump: &str) {
    rig.add_host(name, target);
    edit(rig, name, |config| config.jump_host = Some(jump.to_owned()));
}

fn via(status: &HostStatus) -> Vec<String> {
    status.connection.as_ref().map(|connection| connection.via.clone()).unwrap_or_default()
}

#[test]
fn a_host_behind_a_bastion_is_reached_through_it_and_through_nothing_else() {
    if !RealSshd::require() {
        return;
    }
    let (bastion, server) = (RealSshd::start(), RealSshd::start());
    let mut rig = DaemonRig::new();
    rig.add_host("bastion", &bastion);
    add_behind(&rig, "far", &server, "bastion");
    rig.start_daemon(&[]);
    echoes(&rig, "far");
    let far = look(&rig, "far");
    assert_eq!(via(&far), ["bastion"]);
    // The bastion's connection is a connection like any other.
    // Its own probe takes a second channel for a moment.
    let one = |hop: &HostStatus| (hop.state, hop.open_channels) == (State::Connected, 1);
    wait_until("the one channel through the bastion", GUARD, || look(&rig, "bastion"), one);
    echoes(&rig, "bastion");
    // 64 MB through it, byte for byte, and it is shared by others still.
    let bytes = rig.occ_ok(&["exec", "--host", "far", "--", "head", "-c", "64000000", "/dev/zero"]);
    assert_eq!((bytes.len(), bytes.trim_matches('\0').len()), (64_000_000, 0));
    assert_eq!(look(&rig, "bastion").connections, 1);
    let shown = rig.occ_ok(&["status", "--host", "far"]);
    assert!(shown.contains(" via bastion"), "{shown}");
    let test = rig.occ_ok(&["host", "test", "far"]);
    assert!(test.contains("✓ jump") && test.contains("bastion"), "{test}");
}

#[test]
fn many_hosts_behind_one_bastion_share_one_connection() {
    let (bastion, server) = (EmbeddedHost::start(), EmbeddedHost::start());
    let mut rig = DaemonRig::new();
    rig.add_host("bastion", &bastion);
    let names: Vec<String> = (0..30).map(|n| format!("far-{n}")).collect();
    for name in &names {
        add_behind(&rig, name, &server, "bastion");
    }
    rig.start_daemon(&[]);
    std::thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| echoes(&rig, name));
        }
    });
    assert_eq!((bastion.connections(), server.connections()), (1, 30));
    // Each host has its own connection; they end with it when the bastion's does, and come back.
    bastion.drop_connections();
    for name in &names {
        wait_until(
            "a new connection",
            GUARD,
            || look(&rig, name),
            |status| status.state == State::Connected && status.connects == 2,
        );
        let error = look(&rig, name).last_error.unwrap();
        assert!(error.message.contains("bastion"), "the bastion is to blame: {error:?}");
    }
    assert_eq!(bastion.connections(), 2);
}

#[test]
fn a_chain_of_hosts_that_are_not_configured() {
    let (first, second, server) =
        (EmbeddedHost::start(), EmbeddedHost::start(), EmbeddedHost::start());
    let mut rig = DaemonRig::new();
    let hop = |host: &EmbeddedHost| format!("{}@127.0.0.1:{}", host.user(), host.port());
    let chain = format!("{},{}", hop(&first), hop(&second));
    add_behind(&rig, "far", &server, &chain);
    for host in [&first, &second] {
        rig.add_known_host(&host.known_hosts_line());
    }
    let keys: Vec<String> = [&first, &second]
        .iter()
        .map(|host| format!("IdentityFile {}\n", host.client_key_path().display()))
        .collect();
    write_ssh_config(&rig, &keys.concat());
    rig.start_daemon(&[]);
    let before = std::fs::read_to_string(rig.hosts_file()).unwrap();
    echoes(&rig, "far");
    let names = via(&look(&rig, "far"));
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!(names[0], format!("via:{}", hop(&first)));
    assert!(names[1].starts_with(&format!("via:{}+", hop(&second))), "{names:?}");
    assert_eq!([&first, &second, &server].map(EmbeddedHost::connections), [1, 1, 1]);
    // They are shown, and neither saved nor listed among the hosts.
    let hosts = list(&rig);
    assert_eq!((hosts.hosts.len(), hosts.via.len()), (1, 2));
    assert_eq!(std::fs::read_to_string(rig.hosts_file()).unwrap(), before);
    let shown = rig.occ_ok(&["status", "--host", &names[0]]);
    assert!(shown.contains("connected"), "{shown}");
    let shown = rig.occ_ok(&["status", "--host", "far"]);
    assert!(shown.contains(&format!(" {}", names[0])) && !shown.contains("via via"), "{shown}");
}

#[test]
fn a_jump_host_that_hosts_json_does_not_name_answers_to_its_name() {
    let (gate, server) = (EmbeddedHost::start(), EmbeddedHost::start());
    let mut rig = DaemonRig::new();
    rig.add_known_host(&gate.known_hosts_line());
    let key = format!("IdentityFile {}\n", gate.client_key_path().display());
    write_ssh_config(&rig, &key);
    rig.add_host("far", &server);
    rig.start_daemon(&[]);
    let name = format!("via:{}@127.0.0.1:{}", gate.user(), gate.port());
    let name = name.as_str();
    for command in [
        &["host", "test", name][..],
        &["trust", "--host", name],
        &["connect", "--host", name],
        &["reconnect", "--host", name],
        &["exec", "--host", name, "--", "true"],
        &["status", "--host", name],
    ] {
        rig.occ_ok(command);
        // Ends the jump hosts that nobody uses: the next command finds none.
        edit(&rig, "far", |config| config.description = Some(command.concat()));
        wait_until("no jump host in use", GUARD, || list(&rig).via, Vec::is_empty);
    }
    for bad in ["via:a:b", "via:u@h:0", "via:"] {
        let output = rig.run_occ(&["host", "test", bad]);
        assert_eq!(output.code(), 4, "{bad}: {output:?}");
    }
    // What to type next names it, and works.
    let target = format!("{}@127.0.0.1:{}", server.user(), server.port());
    let output = rig.run_occ(&["host", "add", "j1", &target, "-J", "srvu@127.0.0.1:1"]);
    assert!(output.stderr.contains("occ host test via:srvu@127.0.0.1:1 shows"), "{output:?}");
    edit(&rig, "far", |config| config.description = None);
    wait_until("no jump host in use", GUARD, || list(&rig).via, Vec::is_empty);
    let output = rig.run_occ(&["host", "test", "via:srvu@127.0.0.1:1"]);
    assert_eq!(output.code(), 5, "{output:?}");
    assert!(output.stdout.contains("✗ connect"), "{output:?}");
    // One that refuses the login is told how to take the key, by its own address.
    std::fs::remove_file(rig.home().join(".ssh/config")).unwrap();
    let stranger = testkit::keys::KeyFile::generate(rig.home().join(".ssh/id_ed25519"), "ed25519");
    let output = rig.run_occ(&["host", "add", "j1", &target, "-J", &name[4..]]);
    let copy = format!("ssh-copy-id -p {} {}@127.0.0.1; then", gate.port(), gate.user());
    assert!(output.stderr.contains(&copy), "{output:?} {}", stranger.public);
}

#[test]
fn looking_at_many_jump_hosts_makes_so_many_at_most() {
    let mut rig = DaemonRig::new();
    rig.start_daemon(&[]);
    for number in 0..200 {
        let path = format!("/v1/hosts/via:u{number}@127.0.0.1:1");
        assert_eq!(rig.http("GET", &path, &[], None).status, 200);
    }
    let kept = list(&rig).via;
    assert_eq!(kept.len(), 64);
    // The oldest go.
    assert!(kept.iter().any(|via| via.name.as_str().contains("u199@")), "{kept:?}");
}

/// Connects five hosts on one server behind a bastion with a link before it, and returns the bastion, the server, the
/// link, the daemon and the hosts' names.
fn five_behind_a_link(
    config: &str,
) -> (EmbeddedHost, EmbeddedHost, FaultyLink, DaemonRig, Vec<String>) {
    let (bastion, server) = (EmbeddedHost::start(), EmbeddedHost::start());
    let link = FaultyLink::start(bastion.addr());
    let mut rig = DaemonRig::new();
    rig.add_host("bastion", Target::from(&bastion).through(&link));
    rig.add_known_host(&testkit::keys::known_hosts_line_for(
        link.addr(),
        &bastion.host_public_key(),
    ));
    let names: Vec<String> = (0..5).map(|n| format!("far-{n}")).collect();
    for name in &names {
        add_behind(&rig, name, &server, "bastion");
    }
    rig.write_config_toml(config);
    rig.start_daemon(&[]);
    names.iter().for_each(|name| drop(connect(&rig, name)));
    (bastion, server, link, rig, names)
}

#[test]
fn a_bastion_that_falls_silent_is_what_its_hosts_wait_for() {
    // Its hosts notice first, and it is not their fault.
    let (_bastion, server, link, rig, names) = five_behind_a_link(
        "[connection]\nkeepalive_interval = \"1s\"\nkeepalive_count = 1\nmax_backoff = \"2s\"\n\
         connect_timeout = \"4s\"\n[hosts.bastion.connection]\nkeepalive_interval = \"60s\"\n",
    );
    let dials = server.connections();
    link.blackhole(true);
    for name in &names {
        let waits = |status: &HostStatus| {
            let error = status.last_error.as_ref();
            let hop = error.and_then(|error| error.hop.as_ref());
            status.state == State::Backoff && hop.is_some_and(|hop| hop.as_str() == "bastion")
        };
        let waiting = wait_until("waiting for the bastion", GUARD, || look(&rig, name), waits);
        let message = waiting.last_error.unwrap().message;
        assert!(message.contains("waiting for the jump host bastion"), "{message}");
    }
    // One dial to the bastion at a time, and none past it.
    assert_eq!(server.connections(), dials);
    assert!(link.active() <= 2, "{} connections to the bastion", link.active());
    link.blackhole(false);
    for name in &names {
        in_state(&rig, name, State::Connected);
        echoes(&rig, name);
    }
}

#[test]
fn a_test_does_not_take_a_bastions_word_that_it_gave_before_it_fell_silent() {
    let (_bastion, _server, link, rig, names) = five_behind_a_link("");
    link.blackhole(true);
    let test = rig.run_occ(&["host", "test", &names[0]]);
    assert_eq!(test.code(), 5, "{test:?}");
    assert!(test.stdout.contains("✗ jump") && !test.stdout.contains("✓ jump"), "{test:?}");
    assert!(
        test.stdout.contains("  bastion: the connection was lost")
            && test.stdout.contains("no sign of life"),
        "{test:?}"
    );
}

/// How long after its jump host a host is back at the latest.
const AFTER_THE_HOP: SignedDuration = SignedDuration::from_secs(10);

#[test]
fn while_the_bastion_is_down_its_hosts_wait_and_dial_nothing() {
    let (_bastion, server, link, rig, names) =
        five_behind_a_link("[connection]\nmax_backoff = \"2s\"\n");
    link.refuse(true);
    link.reset_all();
    for name in &names {
        let waiting = wait_until(
            "waiting for the bastion",
            GUARD,
            || look(&rig, name),
            |status| {
                let error = status.last_error.as_ref();
                status.state == State::Backoff
                    && error
                        .is_some_and(|e| e.message.contains("waiting for the jump host bastion"))
            },
        );
        assert!(waiting.last_error.unwrap().retryable);
    }
    let told = rig.occ_ok(&["status", "--host", "far-0"]);
    assert!(told.contains("s, waiting for the jump host bastion: "), "{told}");
    let answer = problem(&exec(&rig, "far-0", &["true"]));
    assert_eq!((answer.status, answer.code), (503, Code::HostUnreachable));
    assert!(answer.detail.contains("waiting for the jump host bastion: "), "{answer:?}");
    assert_eq!(server.connections(), 5, "nobody got past the bastion");

    link.refuse(false);
    for name in &names {
        // As the daemon has it, not as soon as this test looks: its clock, and its moments.
        let back = in_state(&rig, name, State::Connected).since;
        let after = back.duration_since(in_state(&rig, "bastion", State::Connected).since);
        assert!(after <= AFTER_THE_HOP, "{name} was back {after} after the bastion");
        echoes(&rig, name);
    }
    assert_eq!(server.connections(), 10);
}

#[test]
fn a_bastion_that_needs_a_person_is_named() {
    let (bastion, server) = (EmbeddedHost::start(), EmbeddedHost::start());
    let mut rig = DaemonRig::new();
    rig.add_host("bastion", &bastion);
    add_behind(&rig, "far", &server, "bastion");
    bastion.change_host_key();
    rig.start_daemon(&[]);
    let answer = problem(&exec(&rig, "far", &["true"]));
    assert_eq!((answer.status, answer.code), (409, Code::HostKeyChanged), "{answer:?}");
    assert!(answer.detail.contains("the jump host bastion: the host key changed"), "{answer:?}");
    let occ = rig.run_occ(&["exec", "--host", "far", "--", "true"]);
    assert_eq!(occ.code(), 5, "{occ:?}");
    assert!(occ.stderr.contains("occ trust --host bastion"), "{occ:?}");
    assert_eq!((server.connections(), bastion.auth_attempts()), (0, 0));
    let test = rig.run_occ(&["host", "test", "far"]);
    let step = test.stdout.lines().find(|line| line.contains("✗")).unwrap();
    assert!(step.contains("✗ jump"), "{test:?}");
    assert!(step.contains("  bastion stopped at host key: the host key changed"), "{test:?}");
    // Nobody dials before somebody has mended the bastion, so no time is promised.
    assert_eq!(look(&rig, "far").next_retry_at, None);
    for args in [&["status", "--host", "far"][..], &["status", "--all"]] {
        let told = rig.occ_ok(args);
        let line = told.lines().find(|line| line.contains("far")).unwrap();
        assert!(line.contains("waiting for the jump host bastion: the host key"), "{told}");
        assert!(!line.contains("attempt") && !line.contains("next try"), "{told}");
    }

    // Once a person has mended it, what is behind it comes back by itself.
    let right = format!("{}\n{}\n", bastion.known_hosts_line(), server.known_hosts_line());
    std::fs::write(rig.known_hosts_file(), right).unwrap();
    assert_eq!(post(&rig, "/v1/hosts/bastion/reconnect").status, 200);
    in_state(&rig, "far", State::Connected);
    echoes(&rig, "far");
}

#[test]
fn what_runs_behind_a_bastion_that_is_ended_on_request_is_cut_off_and_new_work_goes_elsewhere() {
    if !RealSshd::require() {
        return;
    }
    let (bastion, server) = (RealSshd::start(), RealSshd::start());
    let mut rig = DaemonRig::new();
    rig.add_host("bastion", &bastion);
    add_behind(&rig, "far", &server, "bastion");
    rig.start_daemon(&[]);
    for how in ["reconnect", "disconnect"] {
        connect(&rig, "far");
        // It ends only with its KILL.
        let line = "trap '' TERM; while :; do sleep 1; done";
        std::thread::scope(|scope| {
            let running = scope.spawn(|| exec(&rig, "far", &["sh", "-c", line]));
            remote_program(&server, "sleep");
            let ended = post(&rig, &format!("/v1/hosts/bastion/{how}"));
            assert_eq!(ended.status, 200, "{}", ended.text());
            if how == "reconnect" {
                echoes(&rig, "far");
                let connects = |host| look(&rig, host).connects;
                assert_eq!((connects("far"), connects("bastion")), (2, 2));
            } else {
                let answer = problem(&exec(&rig, "far", &["true"]));
                assert_eq!(answer.code, Code::HostStopped, "{answer:?}");
                let says = "bastion: the host is disconnected on request";
                assert!(answer.detail.contains(says), "{answer:?}");
                assert_eq!(look(&rig, "far").state, State::Backoff);
            }
            assert!(!running.is_finished(), "{how}");
            let result = running.join().unwrap();
            assert_eq!(result.status, 200, "{}", result.text());
            let exit = result.json();
            assert_eq!((&exit["cut_off"], &exit["may_still_run"]), (&true.into(), &false.into()));
            assert_eq!(exit["cut_off_by"], "bastion");
        });
    }
}

#[test]
fn a_bastion_and_what_is_behind_it_are_reconnected_and_connected_together() {
    let (bastion, server) = (EmbeddedHost::start(), EmbeddedHost::start());
    let link = FaultyLink::start(bastion.addr());
    // A dial through it takes long enough to be cut off.
    link.set_latency(std::time::Duration::from_millis(20));
    let mut rig = DaemonRig::new();
    rig.add_known_host(&testkit::keys::known_hosts_line_for(
        link.addr(),
        &bastion.host_public_key(),
    ));
    let behind = ["a", "b", "c"];
    // In the order of the list: those behind it before the bastion.
    behind.iter().for_each(|name| add_behind(&rig, name, &server, "bastion"));
    rig.add_host("bastion", Target::from(&bastion).through(&link));
    rig.start_daemon(&[]);
    behind.iter().for_each(|name| drop(connect(&rig, name)));
    let reconnect = |host: &str| {
        let answer = post(&rig, &format!("/v1/hosts/{host}/reconnect?retries=0"));
        assert_eq!(answer.status, 200, "{host}: {}", answer.text());
    };
    std::thread::scope(|scope| {
        let children = behind.map(|name| scope.spawn(move || reconnect(name)));
        behind.iter().for_each(|name| drop(in_state(&rig, name, State::Connecting)));
        reconnect("bastion");
        children.into_iter().for_each(|child| child.join().unwrap());
    });
    for _ in 0..3 {
        let told = rig.run_occ(&["reconnect", "--all"]);
        assert_eq!(told.code(), 0, "{told:?}");
    }
    for verb in ["connect", "reconnect"] {
        rig.occ_ok(&["disconnect", "--all"]);
        for name in ["bastion", "a", "b", "c"] {
            in_state(&rig, name, State::Stopped);
        }
        let told = rig.run_occ(&[verb, "--all", "--parallel", "1"]);
        assert_eq!(told.code(), 0, "{told:?}");
        assert_eq!(told.stderr.trim(), "4 ok", "{told:?}");
    }
    // Only what was asked for is connected.
    rig.occ_ok(&["disconnect", "--all"]);
    let told = rig.run_occ(&["connect", "--host", "a"]);
    assert!(told.stderr.contains("the jump host bastion: the host is disconnected"), "{told:?}");
}

#[test]
fn who_cut_a_command_off_is_said() {
    if !RealSshd::require() {
        return;
    }
    let (bastion, server) = (RealSshd::start(), RealSshd::start());
    let mut rig = DaemonRig::new();
    rig.add_host("bastion", &bastion);
    add_behind(&rig, "far", &server, "bastion");
    rig.start_daemon(&[]);
    for (host, why) in [
        ("bastion", "the connection to the jump host bastion was closed on purpose while"),
        ("far", "far was disconnected, or occd stopped, while the command ran"),
    ] {
        connect(&rig, "far");
        let running = rig.occ(&["exec", "--host", "far", "--", "sleep", "1000"]);
        let output = std::thread::scope(|scope| {
            let mut running = running;
            let running = scope.spawn(move || running.output().unwrap());
            remote_program(&server, "sleep");
            assert_eq!(post(&rig, &format!("/v1/hosts/{host}/reconnect")).status, 200);
            running.join().unwrap()
        });
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(why) && said.contains("it was ended"), "{said}");
        assert!(matches!(output.status.code(), Some(143 | 255)), "{output:?}");
    }
}

#[test]
fn jump_hosts_that_lead_to_each_other_are_refused_at_once() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    for (name, jump) in [("a", "b"), ("b", "c"), ("c", "a"), ("self", "self")] {
        add_behind(&rig, name, &host, jump);
    }
    rig.start_daemon(&[]);
    for (name, way) in [("a", "a, b, c, a"), ("self", "self, self")] {
        let answer = problem(&exec(&rig, name, &["true"]));
        assert_eq!((answer.status, answer.code), (409, Code::SshConfigInvalid), "{answer:?}");
        assert!(answer.detail.contains(&format!("go in a circle: {way}")), "{answer:?}");
    }
    assert_eq!(host.connections(), 0);
}

#[test]
fn a_host_that_would_be_reached_through_itself_is_not_saved() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("a", &host);
    add_behind(&rig, "b", &host, "a");
    rig.start_daemon(&[]);
    let before = std::fs::read_to_string(rig.hosts_file()).unwrap();
    for (args, says) in [
        (&["host", "add", "x", "h", "-J", "x"][..], "Host 'x' cannot be its own jump host."),
        (&["host", "add", "x", "h", "-J", "root@x", "--no-verify"], "cannot be its own jump host."),
        (&["host", "edit", "a", "-J", "b"], "Host 'a' would be reached through itself: a, b, a."),
    ] {
        // Before the last: to edit a host is to look at it, which has it dialled.
        assert_eq!(host.connections(), 0);
        let output = rig.run_occ(args);
        assert_eq!(output.code(), 2, "{args:?}: {output:?}");
        assert!(output.stderr.contains(says), "{args:?}: {output:?}");
    }
    assert_eq!(std::fs::read_to_string(rig.hosts_file()).unwrap(), before);
}

#[test]
fn what_the_bastion_may_not_forward_is_said() {
    if !RealSshd::require() {
        return;
    }
    let bastion = RealSshd::builder().config("PermitOpen none").start();
    let server = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("bastion", &bastion);
    add_behind(&rig, "far", &server, "bastion");
    rig.start_daemon(&[]);
    let answer = problem(&exec(&rig, "far", &["true"]));
    assert_eq!(answer.status, 409, "{answer:?}");
    let said = format!("the jump host bastion does not connect to {}", server.addr());
    assert!(answer.detail.contains(&said) && answer.detail.contains("forbid"), "{answer:?}");
    let output = rig.run_occ(&["exec", "--host", "far", "--", "true"]);
    let hint = "hint: AllowTcpForwarding and PermitOpen in sshd_config of bastion decide that";
    assert!(output.stderr.contains(hint), "{output:?}");
    let test = rig.run_occ(&["host", "test", "far"]);
    assert!(test.stderr.contains(hint), "{test:?}");
    let address = format!("{}@127.0.0.1:{}", server.user(), server.port());
    let add = rig.run_occ(&["host", "add", "more", &address, "-J", "bastion"]);
    let again = format!("{hint}; then occ host add again");
    assert!(add.stderr.contains(&again), "{add:?}");
}

#[test]
fn what_the_bastion_says_of_a_server_that_it_does_not_reach_is_passed_on() {
    if !RealSshd::require() {
        return;
    }
    let bastion = RealSshd::start();
    let mut rig = DaemonRig::new();
    rig.add_host("bastion", &bastion);
    let gone = EmbeddedHost::start();
    add_behind(&rig, "refused", &gone, "bastion");
    add_behind(&rig, "nowhere", &gone, "bastion");
    let address = occ_proto::Address::new("no-such-host.invalid").unwrap();
    edit(&rig, "nowhere", |config| config.hostname = address);
    drop(gone);
    rig.start_daemon(&[]);
    for (host, says) in [
        ("refused", "(connect failed: Connection refused)"),
        // In the words of its own resolver, which may have none.
        ("nowhere", "(connect failed"),
    ] {
        let test = rig.run_occ(&["host", "test", host]);
        let said = format!("{}{}", test.stdout, test.stderr);
        assert!(said.contains("the jump host bastion does not connect to"), "{said}");
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn ssh_config_names_the_way_and_hosts_json_overrides_it() {
    if !RealSshd::require() {
        return;
    }
    let (bastion, server) = (EmbeddedHost::start(), EmbeddedHost::start());
    let mut rig = DaemonRig::new();
    rig.add_host("bastion", &bastion);
    rig.add_host("far", &server);
    let block = format!(
        "Host inner\n  HostName 127.0.0.1\n  Port {}\n  User u\n  IdentityFile {}\n  ProxyJump bastion\n",
        server.port(),
        server.client_key_path().display()
    );
    write_ssh_config(&rig, &block);
    edit(&rig, "far", |config| {
        *config = HostConfig::new(occ_proto::Address::new("inner").unwrap());
    });
    rig.start_daemon(&[]);
    echoes(&rig, "far");
    assert_eq!(via(&look(&rig, "far")), ["bastion"]);
    assert_eq!(bastion.connections(), 1);

    edit(&rig, "far", |config| config.jump_host = Some("none".into()));
    wait_for("the direct way", GUARD, || {
        echoes(&rig, "far");
        via(&look(&rig, "far")).is_empty().then_some(())
    });
}

#[test]
fn a_proxy_command_is_the_way_and_ends_with_its_connection() {
    if !RealSshd::require() {
        return;
    }
    let (bastion, server) = (RealSshd::start(), RealSshd::start());
    let mut rig = DaemonRig::new();
    rig.add_host("far", &server);
    // As people write it: OpenSSH's own client as the program.
    let command = format!(
        "ssh -F none -q -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
         -i {} -p {} -W %h:%p {}@127.0.0.1",
        bastion.client_key_path().display(),
        bastion.port(),
        bastion.user()
    );
    write_ssh_config(&rig, &format!("Host *\n  ProxyCommand {command}\n"));
    rig.start_daemon(&[]);
    echoes(&rig, "far");
    assert_eq!(rig.daemon_children().len(), 1);
    let peer = look(&rig, "far").connection.unwrap().peer;
    assert_eq!(peer, server.addr().to_string());
    assert_eq!(post(&rig, "/v1/hosts/far/disconnect").status, 200);
    wait_for("the program to end", GUARD, || rig.daemon_children().is_empty().then_some(()));

    // One that fails is quoted.
    write_ssh_config(&rig, "Host *\n  ProxyCommand sh -c 'echo no way there >&2; exit 1'\n");
    let answer = problem(&post(&rig, "/v1/hosts/far/connect"));
    let says = "the ProxyCommand ended with exit code 1 and says: no way there";
    assert!(answer.detail.contains(says), "{answer:?}");
    wait_for("the program to end", GUARD, || rig.daemon_children().is_empty().then_some(()));

    // So is one that brings nothing.
    write_ssh_config(
        &rig,
        "Host *\n  ConnectTimeout 1\n  ProxyCommand sh -c 'echo trying >&2; exec sleep 1000'\n",
    );
    let output = rig.run_occ(&["connect", "--host", "far"]);
    let says = "the ProxyCommand brought no word of a server within 1 s and says: trying";
    assert!(output.stderr.contains(says), "{output:?}");
    assert!(output.stderr.contains(" | grep -i proxycommand shows it"), "{output:?}");
    wait_for("the program to end", GUARD, || rig.daemon_children().is_empty().then_some(()));

    // One that others could have written is not run.
    let file = rig.home().join(".ssh/config");
    std::fs::write(&file, format!("Host *\n  ProxyCommand touch {}/ran\n", rig.root().display()))
        .unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
    let answer = problem(&post(&rig, "/v1/hosts/far/connect"));
    assert_eq!((answer.status, answer.code), (409, Code::SshConfigInvalid), "{answer:?}");
    assert!(answer.detail.contains("may be written by others"), "{answer:?}");
    // Nor is what ssh itself would run.
    let text = format!("Match exec \"touch {}/ran\"\n  User nobody\n", rig.root().display());
    std::fs::write(&file, text).unwrap();
    let answer = problem(&post(&rig, "/v1/hosts/far/connect"));
    assert_eq!(answer.code, Code::SshConfigInvalid, "{answer:?}");
    assert!(!rig.root().join("ran").exists());
    if testkit::require::is_root() {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::chown(&file, Some(65534), None).unwrap();
        let answer = problem(&post(&rig, "/v1/hosts/far/connect"));
        assert_eq!(answer.code, Code::SshConfigInvalid, "{answer:?}");
        std::os::unix::fs::chown(&file, Some(0), None).unwrap();
    }

    // There is a switch.
    write_ssh_config(&rig, &format!("Host *\n  ProxyCommand touch {}/ran\n", rig.root().display()));
    rig.write_config_toml("[security]\nproxy_commands = false\n");
    let says = "which [security] proxy_commands = false forbids";
    wait_for("the switch", GUARD, || {
        let answer = problem(&post(&rig, "/v1/hosts/far/connect"));
        answer.detail.contains(says).then_some(())
    });
}

/// Connects sixty hosts on one server, straight or through a bastion, and looks for refusals. The servers are set
/// up as OpenSSH is: from ten logins under way on, some are refused (MaxStartups 10:30:100).
fn sixty_hosts_at_once(through_bastion: bool) {
    if !RealSshd::require() {
        return;
    }
    let (bastion, server) = (RealSshd::start(), RealSshd::start());
    let mut rig = DaemonRig::new();
    rig.add_host("bastion", &bastion);
    for n in 0..60 {
        match through_bastion {
            true => add_behind(&rig, &format!("far-{n}"), &server, "bastion"),
            false => rig.add_host(&format!("far-{n}"), &server),
        }
    }
    rig.write_config_toml("[connection]\nautoconnect = \"all\"\n");
    rig.start_daemon(&[]);
    let connected = || {
        let hosts = list(&rig).hosts;
        hosts.into_iter().filter(|host| host.state == State::Connected).collect::<Vec<_>>()
    };
    let hosts = wait_until("all to be connected", GUARD, connected, |hosts| hosts.len() == 61);
    for host in hosts {
        assert_eq!((host.connects, host.last_error), (1, None), "{}", host.name);
    }
    for sshd in [&bastion, &server] {
        assert!(!sshd.log().contains("MaxStartups"), "{}", sshd.log());
    }
    assert_eq!(server.session_count(), 60);
    assert_eq!(bastion.session_count(), 1);
}

#[test]
fn sixty_hosts_on_one_server_are_connected_without_one_refusal() {
    sixty_hosts_at_once(false);
}

#[test]
fn sixty_hosts_behind_one_bastion_are_connected_without_one_refusal() {
    sixty_hosts_at_once(true);
}

#[test]
fn what_to_type_next_names_the_hop_that_is_to_blame() {
    let (bastion, host) = (EmbeddedHost::start(), EmbeddedHost::start());
    let mut rig = DaemonRig::new();
    rig.add_host("bastion", &bastion);
    add_behind(&rig, "far", &host, "bastion");
    bastion.change_host_key();
    rig.start_daemon(&[]);
    let target = format!("{}@127.0.0.1:{}", host.user(), host.port());
    for command in [
        &["exec", "--host", "far", "--", "true"][..],
        &["connect", "--host", "far"],
        &["host", "test", "far"],
        &["host", "add", "more", &target, "-J", "bastion"],
        &["status", "--host", "far"],
    ] {
        let output = rig.run_occ(command);
        assert!(output.stderr.contains("occ trust --host bastion"), "{command:?}: {output:?}");
    }
    // The next command to type does what it says.
    let review = rig.http("GET", "/v1/hosts/bastion/trust", &[], None).json();
    let print = review["shown"].as_str().unwrap().split(' ').next_back().unwrap().to_owned();
    rig.occ_ok(&["trust", "--host", "bastion", "--fingerprint", &print]);
    echoes(&rig, "far");
}

#[test]
fn a_proxy_command_that_ends_is_to_blame_and_not_the_server() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &host);
    rig.start_daemon(&[]);
    for (command, says) in [
        ("echo 'vpn is down' >&2; exit 7", "ended with exit code 7 and says: vpn is down"),
        // As some write it, and ssh runs it: the program takes the place of the shell.
        ("exec echo 'vpn is down' >&2", "ended with exit code 0 and says: vpn is down"),
        ("exec >&-; sleep 0.3; echo late >&2; exit 3", "ended with exit code 3 and says: late"),
        ("exit 9", "ended with exit code 9"),
        ("kill -9 \\$\\$", "was ended by signal 9"),
    ] {
        write_ssh_config(&rig, &format!("Host *\n  ProxyCommand sh -c \"{command}\"\n"));
        // It is fast, so each time something else may come first.
        for _ in 0..5 {
            let test = rig.run_occ(&["host", "test", "far"]);
            let said = format!("{}{}", test.stdout, test.stderr);
            assert!(said.contains(&format!("the ProxyCommand {says}")), "{said}");
        }
    }
    let answer = problem(&exec(&rig, "far", &["true"]));
    assert_eq!((answer.code, answer.phase), (Code::HostUnreachable, Some(Phase::Connect)));
    for command in [
        &["status", "--host", "far"][..],
        &["host", "test", "far"],
        &["exec", "--host", "far", "--", "true"],
        &["connect", "--host", "far"],
    ] {
        let said = rig.run_occ(command).stderr;
        assert!(said.contains("hint: ssh -G 127.0.0.1 | grep -i proxycommand"), "{said}");
    }
    assert_eq!(host.connections(), 0);
}

#[test]
fn a_proxy_command_that_cannot_be_run_is_not_tried_again_before_the_settings_change() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &host);
    rig.start_daemon(&[]);
    let script = rig.root().join("no-program");
    std::fs::write(&script, "text").unwrap();
    for (command, code) in [("no-such-program-here -W %h:%p", 127), (script.to_str().unwrap(), 126)]
    {
        write_ssh_config(&rig, &format!("ProxyCommand {command}\n"));
        let answer = problem(&exec(&rig, "far", &["true"]));
        assert_eq!((answer.status, answer.code), (409, Code::SshConfigInvalid), "{answer:?}");
        let says = format!("far: the ProxyCommand ended with exit code {code} and says: ");
        assert!(answer.detail.starts_with(&says), "{answer:?}");
        assert_eq!(look(&rig, "far").state, State::Failed);
    }
    write_ssh_config(&rig, "");
    echoes(&rig, "far");
}

#[test]
fn a_proxy_command_has_the_time_to_end_a_session_of_its_own() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &host);
    let (script, ended) = (rig.root().join("manager"), rig.root().join("ended"));
    // As the session managers of clouds do: what the program started says goodbye, and that takes a while. The
    // program itself ends at once.
    let text = format!(
        "#!/bin/sh\nsh -c 'trap \"sleep 1; echo far >{0}; exit\" TERM; sleep 1000 & wait' &\nwait\n",
        ended.display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700)).unwrap();
    write_ssh_config(&rig, &format!("ConnectTimeout 1\nProxyCommand {}\n", script.display()));
    rig.start_daemon(&[]);
    let output = rig.run_occ(&["exec", "--retries", "0", "--host", "far", "--", "true"]);
    assert_eq!(output.code(), 5, "{output:?}");
    // Also at the end of the daemon, which waits for it.
    rig.terminate_daemon();
    assert_eq!(std::fs::read_to_string(&ended).unwrap_or_default(), "far\n");
}

#[test]
fn a_proxy_command_that_ignores_its_end_is_ended_with_what_it_started() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &host);
    let pids = rig.root().join("pids");
    // It says nothing, and neither it nor its child heeds TERM.
    let script = rig.root().join("stubborn");
    let text = format!(
        "#!/bin/sh\ntrap '' TERM\necho $$ >>{0}\nsleep 1000 &\necho $! >>{0}\nwait\nsleep 1000\n",
        pids.display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700)).unwrap();
    write_ssh_config(&rig, &format!("ConnectTimeout 1\nProxyCommand {}\n", script.display()));
    rig.start_daemon(&[]);
    let output = rig.run_occ(&["exec", "--retries", "0", "--host", "far", "--", "true"]);
    assert_eq!(output.code(), 5, "{output:?}");
    rig.terminate_daemon();
    let pids = std::fs::read_to_string(&pids).unwrap();
    assert!(pids.lines().count() >= 2, "{pids}");
    for pid in pids.lines().map(|pid| pid.parse::<u32>().unwrap()) {
        wait_for("the program to be gone", GUARD, || {
            testkit::proc::Process::find(pid).is_none().then_some(())
        });
    }
}
