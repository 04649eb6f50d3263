//! `occ trust`: a changed host key is reviewed before anything is sent to the server, and takes the place of
//! the record when a person says so.

use occ_proto::Code;
use occ_proto::status::State;
use testkit::daemon::Target;
use testkit::{DaemonRig, EmbeddedHost, RealSshd, Terminal};

use crate::ask::{echoes, exec, in_state, problem};

fn known_hosts(rig: &DaemonRig) -> String {
    std::fs::read_to_string(rig.known_hosts_file()).unwrap()
}

fn fingerprint(rig: &DaemonRig) -> String {
    fingerprint_of(rig, "far")
}

fn fingerprint_of(rig: &DaemonRig, host: &str) -> String {
    let review = rig.http("GET", &format!("/v1/hosts/{host}/trust"), &[], None).json();
    review["shown"].as_str().unwrap().split(' ').next_back().unwrap().to_owned()
}

#[test]
fn a_changed_key_is_shown_and_trusted_by_its_fingerprint() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &host);
    let others = "other.example.com ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIrc4g5bq1mJ7sKXGvWfTQxLQ7GZtLkG0bH1lQGJ2iuC";
    rig.add_known_host(&format!("# mine\n{others}"));
    let before = known_hosts(&rig);
    host.change_host_key();
    rig.start_daemon(&[]);
    assert_eq!(problem(&exec(&rig, "far", &["true"])).code, Code::HostKeyChanged);

    // Nobody is there to ask: both keys and the command for scripts, and nothing changes.
    let asked = rig.run_occ(&["trust", "--host", "far"]);
    assert_eq!(asked.code(), 2, "{asked:?}");
    assert_eq!(asked.stderr.matches("SHA256:").count(), 3, "{asked:?}");
    assert!(asked.stderr.contains(&format!("{}:1", rig.known_hosts_file().display())), "{asked:?}");
    let another = format!("SHA256:{}", "A".repeat(43));
    let named = |print: &str| rig.run_occ(&["trust", "--host", "far", "--fingerprint", print]);
    let says = format!("far shows {}, not {another}.", fingerprint(&rig));
    let wrong = named(&another);
    assert!(wrong.code() == 1 && wrong.stderr.contains(&says), "{wrong:?}");
    for none in ["bad", "SHA256:no", &another[7..], &format!("{another}=")] {
        let wrong = named(none);
        assert!(wrong.code() == 2 && wrong.stderr.contains("a fingerprint is"), "{wrong:?}");
    }
    assert_eq!(known_hosts(&rig), before);
    assert_eq!(host.auth_attempts(), 0, "a look sends nothing");

    let trusted = rig.occ_ok(&["trust", "--host", "far", "--fingerprint", &fingerprint(&rig)]);
    assert!(trusted.contains("Trusted: ssh-ed25519 SHA256:"), "{trusted}");
    in_state(&rig, "far", State::Connected);
    echoes(&rig, "far");
    let old_line = before.lines().next().unwrap();
    let after = known_hosts(&rig);
    assert!(!after.contains(old_line) && after.contains("# mine") && after.contains(others));
    let kept = std::fs::read_to_string(format!("{}.old", rig.known_hosts_file().display()));
    assert_eq!(kept.unwrap(), before);
    // Again there is nothing to do.
    let again = rig.occ_ok(&["trust", "--host", "far"]);
    assert!(again.contains("which is on record"), "{again}");
    // Not for whoever has another key in mind.
    let wrong = named(&another);
    assert!(wrong.code() == 1 && wrong.stderr.contains(&says), "{wrong:?}");
    assert_eq!(known_hosts(&rig), after);
}

#[test]
fn openssh_trusts_the_same_from_then_on() {
    if !RealSshd::require() {
        return;
    }
    for config in ["", "HashKnownHosts yes\n"] {
        let mut sshd = RealSshd::start();
        let mut rig = DaemonRig::new();
        let target = Target::from(&sshd);
        rig.add_host_to("far", &target.hostname, target.port, &target.user, &target.key);
        std::fs::write(rig.home().join(".ssh/config"), config).unwrap();
        rig.start_daemon(&[]);
        echoes(&rig, "far");
        sshd.change_host_keys();
        sshd.kill_sessions();
        in_state(&rig, "far", State::Failed);
        rig.occ_ok(&["trust", "--host", "far", "--fingerprint", &fingerprint(&rig)]);
        echoes(&rig, "far");
        assert_eq!(known_hosts(&rig).lines().count(), 1, "{}", known_hosts(&rig));
        assert!(crate::certificates::ssh_trusts(&rig, &sshd, &[]));
    }
}

#[test]
fn what_is_not_ours_to_change_stays_and_is_told() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &host);
    host.change_host_key();
    // A pattern for more hosts, and then a revocation.
    let old = known_hosts(&rig);
    let key: Vec<&str> = old.split_whitespace().skip(1).take(2).collect();
    let pattern = format!("[127.0.0.*]:{} {}\n", host.port(), key.join(" "));
    std::fs::write(rig.known_hosts_file(), &pattern).unwrap();
    rig.start_daemon(&[]);
    let print = fingerprint(&rig);
    let trust = |print: &str| rig.run_occ(&["trust", "--host", "far", "--fingerprint", print]);
    let refused = trust(&print);
    assert_eq!(refused.code(), 5, "{refused:?}");
    assert!(refused.stderr.contains("is a pattern for more hosts"), "{refused:?}");
    assert!(refused.stderr.contains("hint: give far a line of its own there"), "{refused:?}");
    // Nobody is asked about what cannot be done, nor told that it can.
    let (screen, code) = Terminal::control(&rig.occ(&["trust", "--host", "far"]), "").finish();
    assert!(code == 5 && screen.contains("is a pattern") && !screen.contains("[y/N]"), "{screen}");
    let hint = rig.run_occ(&["connect", "--host", "far"]).stderr;
    assert!(hint.contains("occ trust --host far shows it") && !hint.contains("records"), "{hint}");
    assert_eq!(known_hosts(&rig), pattern);

    let revoked = format!("@revoked * {}\n", host.host_public_key());
    std::fs::write(rig.known_hosts_file(), &revoked).unwrap();
    let refused = trust(&print);
    assert_eq!(refused.code(), 5, "{refused:?}");
    assert!(refused.stderr.contains("shows a key that is revoked"), "{refused:?}");
    assert_eq!(known_hosts(&rig), revoked);
    assert_eq!(host.auth_attempts(), 0);
}

#[test]
fn where_no_record_is_kept_trust_says_so_and_what_to_change() {
    for (set, file) in [("/dev/null", "/dev/null"), ("none", "/dev/null")] {
        let host = EmbeddedHost::start();
        let mut rig = DaemonRig::new();
        rig.add_host("far", &host);
        let config = format!("UserKnownHostsFile {set}\nStrictHostKeyChecking yes\n");
        std::fs::write(rig.home().join(".ssh/config"), config).unwrap();
        rig.start_daemon(&[]);
        let print = fingerprint(&rig);
        let refused = rig.run_occ(&["trust", "--host", "far", "--fingerprint", &print]);
        assert_eq!(refused.code(), 5, "{refused:?}");
        let why = format!("UserKnownHostsFile of ssh_config is {file}, which keeps nothing");
        assert!(refused.stderr.contains(&why), "{refused:?}");
        let hint = "hint: name a file in UserKnownHostsFile of ssh_config";
        assert!(refused.stderr.contains(hint), "{refused:?}");
        assert!(!refused.stderr.contains("the system's"), "{refused:?}");
    }
}

#[test]
fn a_person_at_the_terminal_decides() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &host);
    let before = known_hosts(&rig);
    host.change_host_key();
    rig.start_daemon(&[]);
    let ask = |answer: &str| {
        let mut terminal = Terminal::control(&rig.occ(&["trust", "--host", "far"]), "");
        terminal.answer("Trust the key that the server shows, from now on? [y/N]", answer);
        terminal.finish()
    };
    for no in ["n", "", "ye"] {
        let (screen, code) = ask(no);
        assert_eq!(code, 1, "{screen}");
        assert!(screen.contains("Nothing was changed."), "{screen}");
        // Both keys came before the question.
        assert_eq!(screen.matches("SHA256:").count(), 2, "{screen}");
        assert_eq!((known_hosts(&rig), host.auth_attempts()), (before.clone(), 0), "{no:?}");
    }
    let (screen, code) = ask("y");
    assert_eq!(code, 0, "{screen}");
    assert!(screen.contains("[far] Trusted: ssh-ed25519 SHA256:"), "{screen}");
    assert_eq!(known_hosts(&rig), format!("{}\n", host.known_hosts_line()));
    in_state(&rig, "far", State::Connected);
}

#[test]
fn the_key_of_a_jump_host_that_is_not_configured_is_trusted_by_its_own_name() {
    let (hop, server) = (EmbeddedHost::start(), EmbeddedHost::start());
    let mut rig = DaemonRig::new();
    rig.add_host("far", &server);
    let way = format!("{}@127.0.0.1:{}", hop.user(), hop.port());
    rig.edit_hosts(|file| file.hosts.get_mut("far").unwrap().jump_host = Some(way.clone()));
    rig.add_known_host(&hop.known_hosts_line());
    let old = hop.known_hosts_line();
    hop.change_host_key();
    let config = format!("IdentityFile {}\n", hop.client_key_path().display());
    std::fs::write(rig.home().join(".ssh/config"), config).unwrap();
    rig.start_daemon(&[]);
    let answer = problem(&exec(&rig, "far", &["true"]));
    assert_eq!(answer.code, Code::HostKeyChanged, "{answer:?}");
    let name = format!("via:{way}");
    assert_eq!(answer.hop.as_ref().map(|hop| hop.as_str()), Some(name.as_str()), "{answer:?}");

    // Without a terminal, the command that was told for it.
    let asked = rig.run_occ(&["trust", "--host", &name]);
    assert_eq!(asked.code(), 2, "{asked:?}");
    let fingerprint = fingerprint_of(&rig, &name);
    let command = format!("occ trust --host {name} --fingerprint {fingerprint}");
    assert!(asked.stderr.contains(&command), "{asked:?}");
    let trusted = rig.occ_ok(&["trust", "--host", &name, "--fingerprint", &fingerprint]);
    assert!(trusted.contains(&format!("[{name}] Trusted: ")), "{trusted}");
    let known = known_hosts(&rig);
    assert!(!known.contains(&old) && known.contains(&hop.known_hosts_line()), "{known}");
    // The server's own key is as it was.
    assert!(known.contains(&server.known_hosts_line()), "{known}");
    echoes(&rig, "far");
}
