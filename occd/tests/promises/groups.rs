//! One command on many hosts: each is asked, one that is down or blocks holds nobody up, and what runs is ended
//! together.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use occ_proto::status::State;
use occ_proto::{GroupName, HostName};
use serde_json::{Value, json};
use testkit::embedded::Phase;
use testkit::keys::KeyFile;
use testkit::proc::{Process, Signal};
use testkit::wait::blocking::{wait_for, wait_until};
use testkit::{DaemonRig, EmbeddedHost, RealSshd, Registry, Terminal, free_port};

use crate::ask::{GUARD, in_state, list, look, post, problem};
use crate::sandbox::world;

/// Puts hosts into a group.
fn group(rig: &DaemonRig, group: &str, hosts: &[&str]) {
    rig.edit_hosts(|file| {
        for host in hosts {
            let config = file.hosts.get_mut(&HostName::new(*host).unwrap()).unwrap();
            config.groups.push(GroupName::new(group).unwrap());
        }
    });
}

/// Hosts `eu-1` … in the group `eu`, and one that is in none.
fn fleet(count: usize) -> (DaemonRig, Vec<EmbeddedHost>) {
    let rig = DaemonRig::new();
    let hosts: Vec<EmbeddedHost> = (0..=count).map(|_| EmbeddedHost::start()).collect();
    let names: Vec<String> = (1..=count).map(|number| format!("eu-{number}")).collect();
    for (name, host) in names.iter().zip(&hosts) {
        rig.add_host(name, host);
    }
    rig.add_host("us-1", &hosts[count]);
    group(&rig, "eu", &names.iter().map(String::as_str).collect::<Vec<_>>());
    (rig, hosts)
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn a_command_goes_to_every_host_of_the_group_and_to_no_other() {
    let (mut rig, hosts) = fleet(3);
    let sshd = RealSshd::require().then(RealSshd::start);
    if let Some(sshd) = &sshd {
        rig.add_host("real", sshd);
        group(&rig, "eu", &["real"]);
    }
    // One that is down, and one on which the command fails.
    hosts[1].drop_during_auth(true);
    std::fs::write(hosts[2].home().join("fails"), "").unwrap();
    rig.start_daemon(&[]);
    let script = "echo it runs; printf partly; if [ -e fails ]; then echo no >&2; exit 3; fi";
    let output = rig.run_occ(&["exec", "--group", "eu", "--shell", "--", script]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let mut expected = vec!["[eu-1] it runs", "[eu-1] partly", "[eu-3] it runs", "[eu-3] partly"];
    if sshd.is_some() {
        expected.extend(["[real] it runs", "[real] partly"]);
    }
    assert_eq!(sorted(&output.stdout), expected, "{output:?}");
    assert!(output.stderr.contains("[eu-3] no\n"), "{output:?}");
    let ok = if sshd.is_some() { 2 } else { 1 };
    let end = format!("{ok} ok, 2 failed: eu-2 (");
    let last = output.stderr.lines().last().unwrap();
    assert!(last.starts_with(&end) && last.ends_with("), eu-3 (exit 3)"), "{output:?}");
    assert_eq!((hosts[3].connections(), hosts[3].execs()), (0, 0));
    // Its input.
    let mut occ = rig.occ(&["exec", "--group", "eu", "--json", "--", "wc", "-c"]);
    let input = rig.root().join("input");
    std::fs::write(&input, vec![b'x'; 200_000]).unwrap();
    let output = occ.stdin(std::fs::File::open(input).unwrap()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let documents: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(documents.len(), if sshd.is_some() { 4 } else { 3 });
    for document in documents {
        match document["host"].as_str().unwrap() {
            "eu-2" => assert!(document["problem"]["code"].is_string(), "{document}"),
            _ => assert_eq!(document["stdout"].as_str().unwrap().trim(), "200000"),
        }
    }
}

#[test]
fn a_host_that_is_down_is_dialled_once() {
    let (mut rig, hosts) = fleet(2);
    hosts[0].drop_during_auth(true);
    // Nothing is dialled in the background meanwhile.
    rig.write_config_toml("[connection]\nmax_backoff = \"300s\"\n");
    rig.start_daemon(&[]);
    for path in [
        "/v1/hosts/eu-1/connect?retries=0",
        "/v1/hosts/eu-1/reconnect?retries=0",
        "/v1/hosts/eu-1/container/stop?retries=0",
        "/v1/hosts/eu-1/container/restart?retries=0",
    ] {
        let problem = problem(&post(&rig, path));
        assert!(!problem.causes.iter().any(|cause| cause.contains("attempts")), "{problem:?}");
    }
    let problem = problem(&rig.http("GET", "/v1/hosts/eu-1/container/logs?retries=0", &[], None));
    assert!(!problem.causes.iter().any(|cause| cause.contains("attempts")), "{problem:?}");
    let output = rig.run_occ(&["connect", "--group", "eu"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.contains("[eu-2] Link      ● connected"), "{output:?}");
    assert!(output.stderr.contains("[eu-1] Error: "), "{output:?}");
    let output = rig.run_occ(&["status", "--group", "eu", "--fresh"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.contains("2 hosts: 1 connected, 1 backoff\n"), "{output:?}");
    assert!(!output.stdout.contains("us-1"), "{output:?}");
    assert_eq!(rig.run_occ(&["disconnect", "--group", "eu"]).status.code(), Some(0));
    in_state(&rig, "eu-2", State::Stopped);
    assert_eq!(look(&rig, "us-1").state, State::Idle);
}

#[test]
fn an_interrupt_ends_the_command_on_all_hosts() {
    let (mut rig, hosts) = fleet(4);
    rig.start_daemon(&[]);
    let child = rig
        .occ(&["exec", "--group", "eu", "--parallel", "3", "--", "sleep", "1000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let running = || {
        hosts
            .iter()
            .filter(|host| host.execs() > 0)
            .count()
            .min(list(&rig).hosts.iter().filter(|host| host.open_channels == 1).count())
    };
    wait_until("three to run", GUARD, running, |count| *count == 3);
    Process::find(child.id()).unwrap().signal(Signal::INT);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.ends_with("0 ok, 3 interrupted, 1 not begun\n"), "{stderr}");
    wait_for("nothing to be left", GUARD, || {
        list(&rig).hosts.iter().all(|host| host.open_channels == 0).then_some(())
    });
}

#[test]
fn what_happened_to_several_hosts_is_shown_once() {
    let (mut rig, hosts) = fleet(2);
    let key = hosts[0].client_key_path();
    for name in ["gate", "down-1", "down-2"] {
        rig.add_host_to(name, "127.0.0.1", free_port(), "u", &key);
    }
    for name in ["behind-1", "behind-2", "behind-3"] {
        rig.add_host_to(name, "127.0.0.1", free_port(), "u", &key);
    }
    rig.edit_hosts(|file| {
        for name in ["behind-1", "behind-2", "behind-3"] {
            let config = file.hosts.get_mut(&HostName::new(name).unwrap()).unwrap();
            config.jump_host = Some("gate".to_owned());
        }
    });
    hosts[1].reject_auth(true);
    group(&rig, "some", &["eu-1", "eu-2", "down-1", "down-2", "behind-1", "behind-2", "behind-3"]);
    rig.start_daemon(&[]);
    let run = ["exec", "--group", "some", "--", "echo", "hello"];
    let (screen, code) = Terminal::start(rig.occ(&run)).finish();
    assert_eq!(code, 1, "{screen}");
    // What goes before is how far it was.
    let rows = screen.rsplit('\u{1b}').next().unwrap().trim_start_matches("[K");
    assert_eq!(
        rows,
        "\
hello       1 host : eu-1
failed      3 hosts: behind-1 behind-2 behind-3 (jump host gate: Connection refused)
failed      2 hosts: down-1 down-2 (Connection refused)
failed      1 host : eu-2 (every key refused)
"
    );
}

#[test]
fn no_host_moves_the_cursor_below_the_lines_of_another() {
    let (mut rig, _hosts) = fleet(2);
    rig.start_daemon(&[]);
    let print = r"printf 'a\tb\033]0;pwn\007\033[1A\033[2Kfake\n\033[31m1%%\r2%%\r\n\2331A\n'";
    let both = format!("{print}; {print} >&2");
    let group = ["exec", "--group", "eu"];
    let clean = ["a\tb\u{fffd}]0;pwn\u{fffd}\u{fffd}[1A\u{fffd}[2Kfake", "2%", "\u{fffd}1A"];
    let is_clean = |screen: &str| {
        let raw = ["\u{7}", "\u{1b}]", "\u{1b}[1A", "\u{1b}[31m", "1%"];
        raw.iter().all(|raw| !screen.contains(raw))
            && clean.iter().all(|clean| screen.contains(clean))
    };
    // On one stream, since of two the order is not certain.
    let run = [&group[..], &["--", "sh", "-c", print]].concat();
    let (screen, _) = Terminal::start(rig.occ(&run)).finish();
    assert!(is_clean(&screen), "{screen:?}");
    assert!(screen.contains("2 hosts: eu-1 eu-2"), "{screen:?}");
    let run = [&group[..], &["-v", "--", "sh", "-c", &both]].concat();
    let (screen, _) = Terminal::start(rig.occ(&run)).finish();
    assert!(is_clean(&screen), "{screen:?}");
    assert!(screen.contains("[eu-1] 2%") && screen.contains("[eu-2] 2%"), "{screen:?}");
    // What goes to a file stays as it is, also where the other stream is a terminal.
    let file = rig.root().join("out");
    let (screen, _) = Terminal::control(&rig.occ(&run), &format!(">{}", file.display())).finish();
    assert!(is_clean(&screen), "{screen:?}");
    let bytes = std::fs::read(file).unwrap();
    let raw = b"] a\tb\x1b]0;pwn\x07\x1b[1A\x1b[2Kfake\n";
    assert_eq!(bytes.windows(raw.len()).filter(|window| window == raw).count(), 2);
    assert!(bytes.windows(12).any(|window| window == b"\x1b[31m1%\r2%\r\n"), "{bytes:?}");
}

#[test]
fn what_several_hosts_need_is_asked_once() {
    if !RealSshd::require() {
        return;
    }
    let servers = [RealSshd::start(), RealSshd::start()];
    let mut rig = DaemonRig::new();
    let key = KeyFile::generate_with(rig.home().join(".ssh/locked"), "ed25519", "open sesame");
    for (name, sshd) in ["a", "b"].iter().zip(&servers) {
        std::fs::write(sshd.authorized_keys_path(), format!("{}\n", key.public)).unwrap();
        rig.add_host(name, sshd);
        rig.add_host_to(name, "127.0.0.1", sshd.port(), sshd.user(), &key.path);
    }
    group(&rig, "locked", &["a", "b"]);
    rig.start_daemon(&[]);
    let run = ["exec", "--group", "locked", "--", "echo", "in"];
    let unasked = rig.run_occ(&run);
    let end = "0 ok, 2 failed: a (a login needs an answer), b (a login needs an answer)\n";
    assert!(unasked.stderr.ends_with(end), "{unasked:?}");
    let mut terminal = Terminal::control(&rig.occ(&run), "");
    terminal.answer("Passphrase for ~/.ssh/locked", "open sesame");
    let (screen, code) = terminal.finish();
    assert_eq!((code, screen.matches("Passphrase for ").count()), (0, 1), "{screen}");
    assert!(screen.contains("in      2 hosts: a b\n"), "{screen}");
}

#[test]
fn hosts_that_block_hold_nobody_up_while_there_is_another_turn() {
    let (mut rig, hosts) = fleet(5);
    // It is connected, and then takes no command.
    hosts[0].stall_at(Phase::Exec);
    rig.write_config_toml("[hosts.eu-1]\nprobe = false\n");
    rig.start_daemon(&[]);
    let mut child = rig
        .occ(&["exec", "--group", "eu", "--parallel", "2", "--json", "--", "echo", "done"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The others go through the one turn that is left, and are told of while the first has not ended.
    let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&stdout.next().unwrap().unwrap()).unwrap() };
    for host in ["eu-2", "eu-3", "eu-4", "eu-5"] {
        let document = next();
        assert_eq!((&document["host"], &document["stdout"]), (&json!(host), &json!("done\n")));
    }
    Process::find(child.id()).unwrap().signal(Signal::INT);
    let document = next();
    assert_eq!(document["host"], "eu-1");
    assert_eq!(document["problem"]["code"], "interrupted", "{document}");
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn watching_tells_each_change_and_dials_nobody() {
    let (mut rig, hosts) = fleet(2);
    rig.start_daemon(&[]);
    let mut child = rig
        .occ(&["status", "--watch", "--group", "eu"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut next = || {
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        line
    };
    assert!(next().starts_with("[eu-1] ") && next().ends_with(" idle\n"));
    rig.occ_ok(&["connect", "--host", "eu-2"]);
    // It may be seen on its way.
    while !next().ends_with(" connected\n") {}
    hosts[1].drop_during_auth(true);
    hosts[1].drop_connections();
    while !next().contains(" backoff: ") {}
    // Another daemon is watched as well.
    rig.terminate_daemon();
    hosts[1].drop_during_auth(false);
    rig.start_daemon(&[]);
    rig.occ_ok(&["connect", "--host", "eu-2"]);
    while !next().ends_with(" connected\n") {}
    Process::find(child.id()).unwrap().signal(Signal::INT);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.lines().all(|line| line.ends_with(" It is tried again.")), "{said}");
    assert_eq!(hosts[0].connections(), 0);

    // On a terminal the screen is given back.
    let mut terminal = Terminal::control(&rig.occ(&["status", "--watch", "--all"]), "");
    terminal.wait_for("3 hosts: ");
    rig.occ_ok(&["connect", "--host", "us-1"]);
    // Beside the one from before.
    terminal.wait_for("2 connected");
    terminal.type_text("\u{3}");
    let (screen, code) = terminal.finish();
    assert_eq!(code, 130, "{screen}");
    assert!(screen.starts_with("\u{1b}[?1049h"), "{screen:?}");
    let (_, after) = screen.rsplit_once("\u{1b}[?1049l").unwrap();
    assert!(after.contains("us-1") && after.contains("2 connected"), "{screen:?}");
}

#[test]
fn an_update_rolls_on_up_to_the_first_that_fails() {
    if !Registry::require() {
        return;
    }
    let registry = Registry::start();
    let image = format!("{}/sandbox:latest", registry.name());
    let Some(world) = world(&image, "") else { return };
    let (docker, rig) = (&world.docker, &world.rig);
    let publish = |version: &str| {
        docker.import_sandbox(&image, version, &[]);
        docker.docker_ok(&["push", &image]);
        docker.docker_ok(&["rmi", "-f", &image]);
    };
    publish("1.0");
    let down = EmbeddedHost::start();
    down.drop_during_auth(true);
    for name in ["a", "b"] {
        rig.add_host(name, &down);
    }
    group(rig, "fleet", &["a", "b", "h"]);
    rig.occ_ok(&["start", "--host", "h"]);
    publish("2.0");

    let unasked = rig.run_occ(&["update", "--group", "fleet"]);
    assert_eq!(unasked.status.code(), Some(2), "{unasked:?}");
    assert!(unasked.stderr.contains("hint: occ update --group fleet --yes"), "{unasked:?}");
    // A canary that fails is the only one.
    let none =
        rig.run_occ(&["update", "--group", "fleet", "-y", "--canary", "a", "--max-fail", "9"]);
    assert_eq!(none.status.code(), Some(1), "{none:?}");
    assert!(
        none.stderr.contains("1 failed: a (") && none.stderr.ends_with("2 not touched: h, b\n")
    );

    let done = rig.run_occ(&["update", "--group", "fleet", "-y", "--canary", "h"]);
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    assert!(done.stdout.contains("[h] ✓ Service updated"), "{done:?}");
    let ends = done.stderr.lines().rev().take(3).collect::<Vec<_>>();
    assert_eq!((ends[0], ends[2]), ("1 not touched: b", "1 updated: h"), "{done:?}");
    assert!(ends[1].starts_with("1 failed: a ("), "{done:?}");

    let goes_on = rig.run_occ(&["update", "--group", "fleet", "-y", "--max-fail", "2"]);
    assert!(goes_on.stderr.contains("1 up to date already: h\n2 failed: a ("), "{goes_on:?}");
}
