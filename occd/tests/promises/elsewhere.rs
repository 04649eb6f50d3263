//! Logins that wait for a person who is not asked by us: in a dialog of the ssh-agent, at an address that the server
//! shows. They are waited for, told to whoever waits, and never repeated by themselves.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use occ_proto::Code;
use occ_proto::prompt::{PromptKind, PromptList};
use occ_proto::status::State;
use serde_json::json;
use testkit::embedded::Phase;
use testkit::wait::blocking::wait_for;
use testkit::{DaemonRig, EmbeddedHost, RealSshd, Terminal};

use crate::ask::{GUARD, body, failure, in_state, look, post, problem};
use crate::auth::{Agent, add_with};
use crate::limits::alone;

/// Makes a program by which an agent asks its user: it notes each question and waits for `answer` in `dir`.
fn dialog(dir: &Path) -> std::path::PathBuf {
    let program = dir.join("dialog");
    let script = "#!/bin/sh\ncd \"${0%/*}\"\necho >> asked\nuntil [ -e answer ]; do [ -e dialog ] || exit 1; sleep 0.02; done\ncat answer\n";
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    program
}

#[test]
fn an_agents_dialog_is_waited_for_and_opens_once_for_a_wish() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let mut rig = DaemonRig::new();
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::listen(&rig.root().join("agent.sock"), Some(&dialog(dir.path())));
    rig.set_env("SSH_AUTH_SOCK", agent.socket());
    assert_eq!(agent.run(&["-q", "-c", sshd.client_key_path().to_str().unwrap()]), Some(0));
    add_with(&rig, &sshd, None);
    // Far less than it takes.
    rig.write_config_toml("[connection]\nconnect_timeout = \"1500ms\"\n");
    rig.start_daemon(&[]);
    let asked = || fs::read_to_string(dir.path().join("asked")).unwrap_or_default().lines().count();
    let run = ["exec", "--host", "far", "--", "echo", "in"];
    let mut terminal = Terminal::control(&rig.occ(&run), "");
    terminal.wait_for("[far] the ssh-agent has not signed yet: touch the security key");
    let status = rig.occ_ok(&["status", "--host", "far"]);
    assert!(status.contains("waits for a person (occ prompts): the ssh-agent"), "{status}");
    let begun = tokio::time::Instant::now();
    wait_for("more time than a dial has", GUARD, || (begun.elapsed().as_secs() >= 2).then_some(()));
    fs::write(dir.path().join("answer"), "yes\n").unwrap();
    let (screen, code) = terminal.finish();
    assert_eq!((code, screen.ends_with("in\n")), (0, true), "{screen}");
    assert_eq!(asked(), 1);

    // The connection breaks: the next dialog is for somebody who wants it.
    fs::remove_file(dir.path().join("answer")).unwrap();
    sshd.kill_sessions();
    let error = failure(&rig, "far", State::Failed);
    assert_eq!(error.code, Code::InputNeeded, "{error:?}");
    assert_eq!(asked(), 1);

    // Whoever gives it up there gets no other one, either.
    let mut terminal = Terminal::control(&rig.occ(&run), "");
    terminal.wait_for("[far] the ssh-agent has not signed yet");
    let prompts = || body::<PromptList>(&rig.http("GET", "/v1/prompts", &[], None)).prompts;
    let notice = wait_for("the notice for all", GUARD, || prompts().pop());
    assert_eq!(notice.kind, PromptKind::Notice);
    let path = format!("/v1/prompts/{}", notice.id);
    let answered = rig.http("POST", &path, &[], Some(json!({ "answer": "yes" })));
    assert_eq!(problem(&answered).code, Code::PromptNotFound);
    assert_eq!(rig.http("POST", &path, &[], Some(json!({}))).status, 204);
    let (screen, code) = terminal.finish();
    assert_eq!(code, 5, "{screen}");
    assert!(screen.contains("the answer was declined"), "{screen}");
    failure(&rig, "far", State::Failed);
    assert_eq!(asked(), 2);
    // Ends the dialog.
    fs::write(dir.path().join("answer"), "no\n").unwrap();
}

#[test]
fn what_a_server_asks_in_its_banner_is_shown_and_waited_for() {
    let host = EmbeddedHost::start();
    host.say_before_login("To log in, open\n  https://login.example/a1b2 \u{1b}[31m\n");
    host.stall_at(Phase::Auth);
    let mut rig = DaemonRig::new();
    rig.add_host("far", &host);
    rig.write_config_toml("[connection]\nconnect_timeout = \"2s\"\n");
    rig.start_daemon(&[]);
    let run = ["exec", "--host", "far", "--", "echo", "in"];
    let mut terminal = Terminal::control(&rig.occ(&run), "");
    terminal.wait_for("[far] To log in, open   https://login.example/a1b2");
    terminal.wait_for("[far] the server waits for you to do what it says");
    let begun = tokio::time::Instant::now();
    wait_for("a person's time", GUARD, || (begun.elapsed().as_secs() >= 3).then_some(()));
    host.clear_stall();
    let (screen, code) = terminal.finish();
    assert_eq!((code, screen.ends_with("in\n")), (0, true), "{screen}");
    assert!(!screen.contains('\u{1b}'), "{screen}");
    // Who had to do something has to again, where nobody is there any more who could.
    alone(&rig);
    host.drop_connections();
    assert_eq!(failure(&rig, "far", State::Failed).code, Code::InputNeeded);
    assert_eq!(host.connections(), 1);
}

#[test]
fn a_connect_timeout_of_ssh_config_is_not_one_of_the_login() {
    if !RealSshd::require() {
        return;
    }
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let gate = dir.path().join("open");
    let (_sshd, rig) = gated(&gate);
    fs::write(rig.home().join(".ssh/config"), "ConnectTimeout 1\n").unwrap();
    std::thread::scope(|scope| {
        let connecting = scope.spawn(|| post(&rig, "/v1/hosts/far/connect").status);
        let begun = tokio::time::Instant::now();
        wait_for("more than that", GUARD, || (begun.elapsed().as_secs() >= 2).then_some(()));
        fs::write(&gate, "").unwrap();
        assert_eq!(connecting.join().unwrap(), 200);
    });
    assert_eq!(look(&rig, "far").connects, 1);
}

/// Returns a server that decides nothing until there is a file `gate`, and a daemon with it as `far`.
fn gated(gate: &Path) -> (RealSshd, DaemonRig) {
    let keys = gate.with_file_name("keys");
    let command = format!(
        "AuthorizedKeysCommand /bin/sh -c \"until [ -e {} ]; do sleep 0.05; done; cat {}\"",
        gate.display(),
        keys.display()
    );
    let builder = RealSshd::builder().config("AuthorizedKeysFile none").config(&command);
    let sshd = builder.config("AuthorizedKeysCommandUser root").start();
    fs::copy(sshd.authorized_keys_path(), &keys).unwrap();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &sshd);
    rig.start_daemon(&[]);
    (sshd, rig)
}

#[test]
fn a_password_whose_fate_is_unknown_is_not_sent_again() {
    let host = EmbeddedHost::start();
    host.ask_passwords(true);
    let mut rig = DaemonRig::new();
    add_with(&rig, &host, None);
    rig.write_config_toml("[hosts.far]\nauth = [\"password\"]\n");
    rig.start_daemon(&[]);
    let mut terminal = Terminal::control(&rig.occ(&["connect", "--host", "far"]), "");
    host.drop_during_auth(true);
    terminal.answer("[far] Password for ", "secret");
    let (screen, code) = terminal.finish();
    assert_eq!(code, 5, "{screen}");
    assert!(screen.contains("before the server said whether it is content"), "{screen}");
    assert_eq!(failure(&rig, "far", State::Failed).code, Code::InputNeeded);
    assert_eq!(host.connections(), 1);
}

#[test]
fn after_an_agent_that_declines_the_password_is_asked_for() {
    if !RealSshd::require() {
        return;
    }
    let Some((user, password)) = testkit::user::password_user() else { return };
    let sshd = RealSshd::builder().user(user).config("PasswordAuthentication yes").start();
    let mut rig = DaemonRig::new();
    // It has nothing to ask its user with, so it declines.
    let agent = Agent::start(&mut rig);
    assert_eq!(agent.run(&["-q", "-c", sshd.client_key_path().to_str().unwrap()]), Some(0));
    add_with(&rig, &sshd, None);
    rig.write_config_toml("[hosts.far]\nauth = [\"password\"]\n");
    rig.start_daemon(&[]);
    let mut terminal = Terminal::control(&rig.occ(&["connect", "--host", "far"]), "");
    terminal.answer("[far] Password for ", password);
    terminal.answer("[far] Keep the password in ", "n");
    let (screen, code) = terminal.finish();
    assert_eq!(code, 0, "{screen}");
    in_state(&rig, "far", State::Connected);
}
