//! Questions and what comes between: an edited file, a person who leaves, a daemon that has just started.

use std::fs;

use occ_proto::Code;
use testkit::keys::KeyFile;
use testkit::wait::blocking::wait_until;
use testkit::{DaemonRig, RealSshd, Terminal};

use crate::ask::{GUARD, look, post, problem};

const PASSPHRASE: &str = "open sesame";

/// Returns a bastion whose key is locked, by ssh_config alone, and a host `h` behind it; the daemon is not started.
fn behind_a_locked_bastion() -> (RealSshd, RealSshd, DaemonRig) {
    let (bastion, server) = (RealSshd::start(), RealSshd::start());
    let rig = DaemonRig::new();
    let key = KeyFile::generate_with(rig.home().join(".ssh/locked"), "ed25519", PASSPHRASE);
    fs::write(bastion.authorized_keys_path(), format!("{}\n", key.public)).unwrap();
    rig.add_host("h", &server);
    // For its line in known_hosts.
    rig.add_host("bastion", &bastion);
    rig.edit_hosts(|file| {
        file.hosts.shift_remove("bastion");
        file.hosts.get_mut("h").unwrap().jump_host = Some("gate".to_owned());
    });
    let config = format!(
        "Host gate\n  HostName 127.0.0.1\n  Port {}\n  User {}\n  IdentityFile {}\n",
        bastion.port(),
        bastion.user(),
        key.path.display()
    );
    fs::write(rig.home().join(".ssh/config"), config).unwrap();
    (bastion, server, rig)
}

/// Returns the same with the daemon, and a command that asks for the passphrase at a terminal.
fn at_the_question() -> Option<([RealSshd; 2], DaemonRig, Terminal)> {
    if !RealSshd::require() {
        return None;
    }
    let (bastion, server, mut rig) = behind_a_locked_bastion();
    rig.start_daemon(&[]);
    let mut terminal = Terminal::control(&rig.occ(&RUN), "");
    terminal.wait_for("Passphrase for ~/.ssh/locked");
    Some(([bastion, server], rig, terminal))
}

const RUN: [&str; 6] = ["exec", "--host", "h", "--", "echo", "in"];

#[test]
fn an_edited_file_does_not_disturb_a_question_for_a_jump_host() {
    let Some((_servers, rig, mut terminal)) = at_the_question() else { return };
    // Both files; the daemon has read them when occ is done.
    rig.write_config_toml("[connection]\nmax_connections = 3\n");
    wait_until("the settings", GUARD, || rig.log(), |log| log.contains("occd.toml was read anew"));
    rig.occ_ok(&["host", "add", "other", "203.0.113.9", "--no-verify"]);
    terminal.answer("Passphrase for ~/.ssh/locked", PASSPHRASE);
    let (screen, code) = terminal.finish();
    assert_eq!((code, screen.ends_with("in\n")), (0, true), "{screen}");
}

#[test]
fn new_settings_of_a_host_do_not_disturb_a_question_for_its_jump_host() {
    let Some((_servers, rig, mut terminal)) = at_the_question() else { return };
    for seconds in 11..16 {
        let redials = || rig.log().matches("the configuration of the connection changed").count();
        let before = redials();
        let setting = format!("[hosts.h.connection]\nconnect_timeout = \"{seconds}s\"\n");
        rig.write_config_toml(&setting);
        wait_until("the dial to be made anew", GUARD, redials, |count| *count > before);
        wait_until("the question", GUARD, || look(&rig, "h"), |h| h.question.is_some());
    }
    terminal.answer("Passphrase for ~/.ssh/locked", PASSPHRASE);
    let (screen, code) = terminal.finish();
    assert_eq!((code, screen.ends_with("in\n")), (0, true), "{screen}");
    assert_eq!(screen.matches("Passphrase for ").count(), 1, "{screen}");
}

#[test]
fn a_question_goes_with_the_one_who_was_asked() {
    let Some((_servers, rig, mut terminal)) = at_the_question() else { return };
    terminal.type_text("\u{3}");
    assert_eq!(terminal.finish().1, 130);
    wait_until("the question to go", GUARD, || look(&rig, "h"), |h| h.question.is_none());
    assert_eq!(rig.occ_ok(&["prompts"]), "Nothing waits for an answer.\n");
    // Nobody is told that somebody else is being asked, and who can answer is.
    let answer = problem(&post(&rig, "/v1/hosts/h/connect"));
    assert_eq!(answer.code, Code::InputNeeded, "{answer:?}");
    assert!(answer.detail.contains("there is nobody to ask"), "{answer:?}");
    let mut terminal = Terminal::control(&rig.occ(&RUN), "");
    terminal.answer("Passphrase for ~/.ssh/locked", PASSPHRASE);
    assert_eq!(terminal.finish().1, 0);
}

#[test]
fn the_first_command_of_a_daemon_asks_whatever_the_daemon_has_begun_by_itself() {
    if !RealSshd::require() {
        return;
    }
    let (_bastion, _server, mut rig) = behind_a_locked_bastion();
    rig.write_config_toml("[connection]\nautoconnect = \"all\"\n");
    for _ in 0..3 {
        rig.start_daemon(&[]);
        let mut terminal = Terminal::control(&rig.occ(&RUN), "");
        terminal.answer("Passphrase for ~/.ssh/locked", PASSPHRASE);
        let (screen, code) = terminal.finish();
        assert_eq!((code, screen.ends_with("in\n")), (0, true), "{screen}");
        rig.terminate_daemon();
    }
}

#[test]
fn a_daemon_that_is_stopped_says_so_to_who_was_asked() {
    let Some((_servers, mut rig, terminal)) = at_the_question() else { return };
    rig.terminate_daemon();
    let (screen, code) = terminal.finish();
    assert_ne!(code, 0);
    assert!(!screen.contains("on request"), "{screen}");
}
