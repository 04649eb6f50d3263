//! A server is who known_hosts says it is, or it learns nothing about us.

use std::path::Path;
use std::process::Command;

use occ_proto::Code;
use occ_proto::status::{Phase, State};
use testkit::daemon::Target;
use testkit::keys::known_hosts_line_for;
use testkit::wait::blocking::wait_until;
use testkit::{DaemonRig, EmbeddedHost, RealSshd, Terminal};

use crate::ask::{Clock, GUARD, connect, echoes, exec, failure, look, meanwhile, post, problem};

/// Adds a server to hosts.json and nothing to known_hosts.
fn add_unknown(rig: &DaemonRig, name: &str, target: impl Into<Target>) {
    let target = target.into();
    rig.add_host_to(name, &target.hostname, target.port, &target.user, &target.key);
}

fn write_ssh_config(rig: &DaemonRig, text: &str) {
    std::fs::write(rig.home().join(".ssh/config"), text).unwrap();
}

fn known_hosts(rig: &DaemonRig) -> String {
    std::fs::read_to_string(rig.known_hosts_file()).unwrap_or_default()
}

/// Returns what OpenSSH finds for a name in a known_hosts file.
fn found_by_openssh(file: &Path, name: &str) -> Option<String> {
    let output = Command::new("ssh-keygen").args(["-F", name, "-f"]).arg(file).output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

#[test]
fn a_changed_key_is_refused_before_anything_is_sent_and_waits_for_a_person() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &host);
    rig.write_config_toml(Clock::CONFIG);
    let clock = Clock::add(&rig);
    let old = known_hosts(&rig);
    host.change_host_key();
    rig.start_daemon(&[]);

    let answer = problem(&exec(&rig, "far", &["true"]));
    assert_eq!((answer.status, answer.code), (409, Code::HostKeyChanged));
    assert_eq!(answer.phase, Some(Phase::HostKey));
    assert!(!answer.retryable, "{answer:?}");
    let place = format!("{}:1", rig.known_hosts_file().display());
    assert!(answer.detail.contains(&place), "{answer:?}");
    assert_eq!(answer.detail.matches("SHA256:").count(), 2, "both keys: {answer:?}");
    let error = failure(&rig, "far", State::Failed);
    assert_eq!((error.code, error.phase), (Code::HostKeyChanged, Phase::HostKey));

    // Not by itself, and not for a command as long as nothing has changed.
    meanwhile(&rig, &clock, 20);
    assert_eq!(problem(&exec(&rig, "far", &["true"])).code, Code::HostKeyChanged);
    assert_eq!((host.connections(), host.auth_attempts()), (1, 0));
    assert!(host.offered_auth().is_empty(), "not even a name was sent");
    assert_eq!(known_hosts(&rig), old, "nothing is replaced without a person");

    // Mended in place: the length stays, and on a fast machine the second too.
    let new = old.replace(old.lines().next().unwrap(), &host.known_hosts_line());
    assert_eq!(new.len(), old.len());
    std::fs::write(rig.known_hosts_file(), new).unwrap();
    echoes(&rig, "far");
}

#[test]
fn a_key_that_changes_while_connected_is_refused_at_the_next_dial() {
    if !RealSshd::require() {
        return;
    }
    let mut sshd = RealSshd::start();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &sshd);
    rig.start_daemon(&[]);
    connect(&rig, "far");
    sshd.change_host_keys();
    echoes(&rig, "far");
    sshd.kill_sessions();
    assert_eq!(failure(&rig, "far", State::Failed).code, Code::HostKeyChanged);
}

#[test]
fn a_revoked_key_is_refused_whatever_else_the_file_says() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &host);
    rig.add_known_host(&format!("@revoked * {}", host.host_public_key()));
    rig.start_daemon(&[]);
    let answer = problem(&post(&rig, "/v1/hosts/far/connect"));
    assert_eq!((answer.status, answer.code), (409, Code::HostKeyRevoked));
    let place = format!("revoked by {}:2", rig.known_hosts_file().display());
    assert!(answer.detail.contains(&place), "{answer:?}");
    assert_eq!(host.auth_attempts(), 0);
}

#[test]
fn an_unknown_key_is_recorded_once_and_openssh_finds_it() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    // Twice, so that two dials meet the same unknown key.
    add_unknown(&rig, "far", &host);
    add_unknown(&rig, "also-far", &host);
    rig.start_daemon(&[]);
    std::thread::scope(|scope| {
        for name in ["far", "also-far"] {
            scope.spawn(|| echoes(&rig, name));
        }
    });
    assert_eq!(post(&rig, "/v1/hosts/far/reconnect").status, 200);
    assert_eq!(known_hosts(&rig), format!("{}\n", host.known_hosts_line()));
    let name = format!("[127.0.0.1]:{}", host.port());
    let found = found_by_openssh(&rig.known_hosts_file(), &name).expect("ssh-keygen finds it");
    assert!(found.contains(&host.host_public_key()), "{found}");

    // From now on it is held to that key.
    host.change_host_key();
    let answer = problem(&post(&rig, "/v1/hosts/far/reconnect"));
    assert_eq!(answer.code, Code::HostKeyChanged);
}

#[test]
fn whoever_caused_the_dial_is_told_of_the_new_key() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    for name in ["by-exec", "by-connect", "by-status", "by-json"] {
        add_unknown(&rig, name, &host);
    }
    rig.start_daemon(&[]);
    let told = |args: &[&str]| {
        let output = rig.run_occ(args);
        assert_eq!(output.code(), 0, "{output:?}");
        output.stderr.lines().filter(|line| line.contains("New host key recorded: ssh-")).count()
    };
    let forget = || std::fs::write(rig.known_hosts_file(), "").unwrap();
    let exec = ["exec", "--host", "by-exec", "--", "true"];
    assert_eq!(told(&exec), 1);
    assert_eq!(told(&exec), 0, "once");
    assert_eq!(told(&["reconnect", "--host", "by-exec"]), 0, "it is on record now");
    forget();
    assert_eq!(told(&["connect", "--host", "by-connect"]), 1);
    assert_eq!(told(&["connect", "--host", "by-connect"]), 0);
    forget();
    assert_eq!(told(&["status", "--fresh", "--host", "by-status"]), 1);
    assert_eq!(told(&["status", "--fresh", "--host", "by-status"]), 0);
    forget();
    let result = crate::ask::exec(&rig, "by-json", &["true"]).json();
    let key = result["new_host_key"].as_str().unwrap_or_default();
    assert!(key.starts_with("ssh-ed25519 SHA256:"), "{result}");
    assert_eq!(crate::ask::exec(&rig, "by-json", &["true"]).json().get("new_host_key"), None);
}

#[test]
fn keys_of_jump_hosts_and_of_logins_that_fail_are_told_too() {
    let (outer, inner, host) =
        (EmbeddedHost::start(), EmbeddedHost::start(), EmbeddedHost::start());
    let mut rig = DaemonRig::new();
    add_unknown(&rig, "outer", &outer);
    add_unknown(&rig, "inner", &inner);
    add_unknown(&rig, "far", &host);
    add_unknown(&rig, "refused", &host);
    rig.write_config_toml("[connection]\nautoconnect = \"none\"\n");
    rig.edit_hosts(|file| {
        file.hosts.get_mut("inner").unwrap().jump_host = Some("outer".into());
        file.hosts.get_mut("far").unwrap().jump_host = Some("inner".into());
    });
    rig.start_daemon(&[]);
    let told = |rig: &DaemonRig, args: &[&str], code: i32| {
        let output = rig.run_occ(args);
        assert_eq!(output.code(), code, "{output:?}");
        let lines = output.stderr.lines().filter(|line| line.contains("New host key recorded"));
        let hosts = lines.filter_map(|line| line.split(']').next());
        hosts.map(|host| host.trim_start_matches('[').to_owned()).collect::<Vec<_>>()
    };
    for command in [&["exec", "--host", "far", "--", "true"][..], &["connect", "--host", "far"]] {
        assert_eq!(told(&rig, command, 0), ["outer", "inner", "far"]);
        assert_eq!(told(&rig, command, 0), [""; 0], "once");
        rig.terminate_daemon();
        std::fs::write(rig.known_hosts_file(), "").unwrap();
        rig.start_daemon(&[]);
    }
    host.reject_auth(true);
    assert_eq!(told(&rig, &["exec", "--host", "refused", "--", "true"], 5), ["refused"]);
    std::fs::write(rig.known_hosts_file(), "").unwrap();
    assert_eq!(told(&rig, &["reconnect", "--host", "refused"], 5), ["refused"]);
}

#[test]
fn a_key_that_cannot_be_recorded_is_told_to_be_so() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    add_unknown(&rig, "far", &host);
    std::fs::create_dir_all(rig.home().join(".ssh")).unwrap();
    // A directory that is not there: root, too, cannot write into it.
    std::os::unix::fs::symlink("nowhere/known_hosts", rig.known_hosts_file()).unwrap();
    rig.start_daemon(&[]);
    for command in [&["exec", "--host", "far", "--", "true"][..], &["reconnect", "--host", "far"]] {
        let output = rig.run_occ(command);
        assert_eq!(output.code(), 0, "{output:?}");
        let says = "[far] New host key not recorded, the known_hosts file ";
        let line = output.stderr.lines().find(|line| line.starts_with(says));
        let line = line.unwrap_or_else(|| panic!("{output:?}"));
        assert!(line.contains("No such file") && line.contains("ssh-ed25519 SHA256:"), "{line}");
        assert!(!output.stderr.contains("key recorded"), "{output:?}");
    }
}

#[test]
fn a_key_for_which_no_record_is_kept_is_told_before_a_password_is_asked_for() {
    for (file, names) in [("/dev/null", "/dev/null"), ("none", "/dev/null")] {
        let host = EmbeddedHost::start();
        host.ask_passwords(true);
        let mut rig = DaemonRig::new();
        add_unknown(&rig, "far", &host);
        rig.edit_hosts(|file| file.hosts.get_mut("far").unwrap().identity_file = None);
        write_ssh_config(&rig, &format!("UserKnownHostsFile {file}\n"));
        rig.write_config_toml("[hosts.far]\nauth = [\"password\"]\n");
        rig.start_daemon(&[]);
        let mut terminal = Terminal::control(&rig.occ(&["connect", "--host", "far"]), "");
        let key =
            format!("[far] New host key not recorded, {names} keeps nothing: ssh-ed25519 SHA256:");
        terminal.wait_for(&key);
        terminal.wait_for("[far] Password for ");
        drop(terminal);
        let test = rig.run_occ(&["host", "test", "far"]);
        let said = format!("{}{}", test.stdout, test.stderr);
        let line = said.lines().find(|line| line.contains("host key")).unwrap_or_default();
        assert!(line.contains(", new, not recorded in known_hosts"), "{said}");
    }
}

#[test]
fn a_key_is_recorded_hashed_where_ssh_config_asks_for_it() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::builder().host_keys(&["ecdsa"]).start();
    let mut rig = DaemonRig::new();
    add_unknown(&rig, "far", &sshd);
    write_ssh_config(&rig, "HashKnownHosts yes\n");
    rig.start_daemon(&[]);
    echoes(&rig, "far");
    assert!(known_hosts(&rig).starts_with("|1|"), "{}", known_hosts(&rig));
    let name = format!("[127.0.0.1]:{}", sshd.port());
    assert!(found_by_openssh(&rig.known_hosts_file(), &name).is_some());
    assert_eq!(post(&rig, "/v1/hosts/far/reconnect").status, 200);
    assert_eq!(known_hosts(&rig).lines().count(), 1);
}

#[test]
fn a_host_with_a_known_key_shows_that_one_and_not_a_newer_kind() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::builder().host_keys(&["ed25519", "rsa"]).start();
    let mut rig = DaemonRig::new();
    add_unknown(&rig, "far", &sshd);
    let rsa = sshd.host_public_keys().nth(1).unwrap();
    rig.add_known_host(&known_hosts_line_for(sshd.addr(), rsa));
    // Else the newer one is learned from the server that the known one has proved.
    write_ssh_config(&rig, "UpdateHostKeys no\n");
    rig.start_daemon(&[]);
    echoes(&rig, "far");
    let shown = look(&rig, "far").connection.unwrap().host_key;
    assert!(shown.contains("rsa"), "{shown}");
    assert_eq!(known_hosts(&rig).lines().count(), 1);
}

#[test]
fn strict_checking_refuses_an_unknown_key_and_writes_nothing() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    add_unknown(&rig, "far", &host);
    write_ssh_config(&rig, "StrictHostKeyChecking yes\n");
    rig.start_daemon(&[]);
    let answer = problem(&exec(&rig, "far", &["true"]));
    assert_eq!((answer.status, answer.code), (409, Code::HostKeyUnknown));
    assert!(answer.detail.contains("StrictHostKeyChecking"), "{answer:?}");
    assert_eq!(host.auth_attempts(), 0);
    assert!(!rig.known_hosts_file().exists());

    rig.add_known_host(&host.known_hosts_line());
    echoes(&rig, "far");
}

#[test]
fn a_bad_host_does_not_disturb_the_others() {
    let (good, bad) = (EmbeddedHost::start(), EmbeddedHost::start());
    let mut rig = DaemonRig::new();
    rig.add_host("good", &good);
    rig.add_host("bad", &bad);
    bad.change_host_key();
    rig.start_daemon(&[]);
    let before = connect(&rig, "good");
    assert_eq!(problem(&post(&rig, "/v1/hosts/bad/connect")).code, Code::HostKeyChanged);
    echoes(&rig, "good");
    let after = look(&rig, "good");
    assert_eq!(after.connection.unwrap().id, before.connection.unwrap().id);
    wait_until("the bad one's connection to end", GUARD, || bad.active_connections(), |n| *n == 0);
}
