//! Passwords and keyboard-interactive: only where a host allows them, and never without a person.

use std::fs;

use occ_proto::Code;
use occ_proto::status::State;
use testkit::user::password_user;
use testkit::wait::blocking::wait_until;
use testkit::{DaemonRig, EmbeddedHost, RealSshd, Terminal};

use crate::ask::{GUARD, echoes, failure, list, look, post, problem};

/// Returns a server that asks for what its configuration says, and a daemon whose host `a` logs in there as a
/// user with a password, with what occd.toml allows.
fn server(lines: &[&str], config: &str) -> Option<(RealSshd, DaemonRig, &'static str)> {
    if !RealSshd::require() {
        return None;
    }
    let (user, password) = password_user()?;
    let builder = RealSshd::builder().user(user);
    let sshd = lines.iter().fold(builder, |builder, line| builder.config(*line)).start();
    let mut rig = DaemonRig::new();
    rig.add_host("a", &sshd);
    rig.write_config_toml(config);
    rig.start_daemon(&[]);
    Some((sshd, rig, password))
}

const PASSWORD: &[&str] = &["PasswordAuthentication yes", "AuthenticationMethods password"];
const PAM: [&str; 2] = ["UsePAM yes", "KbdInteractiveAuthentication yes"];

#[test]
fn a_password_is_asked_for_where_the_host_allows_it() {
    let Some((sshd, rig, password)) = server(PASSWORD, "[hosts.a]\nauth = [\"password\"]\n") else {
        return;
    };
    let nobody = problem(&post(&rig, "/v1/hosts/a/connect"));
    assert_eq!(nobody.code, Code::InputNeeded, "{nobody:?}");
    fs::write(rig.known_hosts_file(), "").unwrap();
    let mut terminal = Terminal::control(&rig.occ(&["connect", "--host", "a"]), "");
    // Who the server is on first sight, before anything is typed, and once.
    terminal.wait_for("[a] New host key recorded: ssh-ed25519 SHA256:");
    terminal.wait_for(&format!("[a] Password for {} on a: ", sshd.user()));
    assert!(!terminal.echoes());
    terminal.type_text("wrong\n");
    terminal.wait_for("[a] That password is wrong.\n");
    terminal.type_text(&format!("{password}\n"));
    terminal.wait_for("[a] Keep the password in ");
    terminal.type_text("n\n");
    let (screen, code) = terminal.finish();
    assert_eq!(code, 0, "{screen}");
    assert!(!screen.contains(password), "{screen}");
    assert_eq!(screen.matches("New host key").count(), 1, "{screen}");
    assert_eq!(look(&rig, "a").connection.unwrap().auth, "password");
    echoes(&rig, "a");
    assert!(!rig.log().contains(password));
}

#[test]
fn a_server_that_takes_no_keys_is_known_for_it_without_any() {
    for (config, begins) in [
        ("", "hint: auth = [\"password\"] under [hosts.a] in "),
        ("[security]\npasswords = false\n", "hint: passwords = true under [security], and auth ="),
    ] {
        let Some((_sshd, rig, _)) = server(PASSWORD, config) else { return };
        rig.edit_hosts(|file| {
            file.hosts.values_mut().for_each(|host| host.identity_file = None);
        });
        let key = || list(&rig).hosts[0].config.identity_file.clone();
        wait_until("the host without a key", GUARD, key, Option::is_none);
        let answer = problem(&post(&rig, "/v1/hosts/a/connect"));
        assert_eq!(answer.code, Code::AuthMethodNeeded, "{answer:?}");
        assert!(answer.detail.contains("the server takes no key for "), "{answer:?}");
        let output = rig.run_occ(&["connect", "--host", "a"]);
        assert!(output.stderr.contains(begins), "{output:?}");
    }
}

#[test]
fn who_is_asked_for_a_host_that_is_removed_is_told_so() {
    let Some((_sshd, rig, _)) = server(PASSWORD, "[hosts.a]\nauth = [\"password\"]\n") else {
        return;
    };
    let mut terminal = Terminal::control(&rig.occ(&["connect", "--host", "a"]), "");
    terminal.wait_for("Password for ");
    rig.occ_ok(&["host", "remove", "a", "-f"]);
    let (screen, code) = terminal.finish();
    assert_eq!(code, 4, "{screen}");
    assert!(screen.contains("Host 'a' was removed.") && !screen.contains("on request"), "{screen}");
}

#[test]
fn three_wrong_passwords_are_the_end_of_it() {
    let Some((_sshd, rig, _)) = server(PASSWORD, "[hosts.a]\nauth = [\"password\"]\n") else {
        return;
    };
    let mut terminal = Terminal::control(&rig.occ(&["connect", "--host", "a"]), "");
    for _ in 0..3 {
        terminal.wait_for("[a] Password for ");
        wait_until("the terminal to be silent", GUARD, || terminal.echoes(), |echo| !*echo);
        terminal.type_text("wrong\n");
        wait_until("the terminal to be as it was", GUARD, || terminal.echoes(), |echo| *echo);
    }
    let (screen, code) = terminal.finish();
    assert_eq!(code, 5, "{screen}");
    assert_eq!(screen.matches("[a] Password for ").count(), 3, "{screen}");
    let error = failure(&rig, "a", State::Failed);
    assert_eq!(error.code, Code::LoginRefused);
    assert!(
        error.message.contains("the server refused every key and the password for"),
        "{error:?}"
    );
}

#[test]
fn a_server_that_lets_time_pass_after_a_wrong_password_is_not_said_to_wait_for_somebody() {
    let config = "[hosts.a]\nauth = [\"keyboard-interactive\"]\n";
    let lines = [&PAM[..], &["AuthenticationMethods keyboard-interactive"]].concat();
    let Some((_sshd, rig, password)) = server(&lines, config) else { return };
    let mut terminal = Terminal::control(&rig.occ(&["connect", "--host", "a"]), "");
    terminal.answer("[a] Password: ", "wrong");
    terminal.wait_for("[a] That was wrong.");
    terminal.answer("[a] Password: ", password);
    terminal.answer("[a] Keep the password in ", "n");
    let (screen, code) = terminal.finish();
    assert_eq!(code, 0, "{screen}");
    assert!(!screen.contains("the server has not said yet"), "{screen}");
}

#[test]
fn without_a_word_in_the_settings_no_password_is_asked_for() {
    let forbidden = "[security]\npasswords = false\n[hosts.a]\nauth = [\"password\"]\n";
    for config in ["", forbidden, "[hosts.a]\nauth = [\"keyboard-interactive\"]\n"] {
        let Some((_sshd, rig, _)) = server(PASSWORD, config) else { return };
        let terminal = Terminal::control(&rig.occ(&["connect", "--host", "a"]), "");
        let (screen, code) = terminal.finish();
        assert_eq!(code, 5, "{screen}");
        assert!(!screen.contains("Password for"), "{screen}");
        let says = if config == forbidden {
            "\"password\", which [security] passwords = false forbids"
        } else {
            "auth = [\"password\"] for this host in occd.toml"
        };
        assert!(screen.contains(says), "{screen}");
        let place = format!("under [hosts.a] in {}; then occ", rig.config_toml().display());
        assert!(screen.contains("hint: ") && screen.contains(&place), "{screen}");
        assert!(screen.contains("auth = [\"password\"] under"), "{screen}");
    }
}

#[test]
fn a_jump_host_that_hosts_json_does_not_name_has_settings_by_its_name() {
    let Some((sshd, rig, _)) = server(PASSWORD, "") else { return };
    let host = EmbeddedHost::start();
    rig.add_host("far", &host);
    let gate = format!("{}@127.0.0.1:{}", sshd.user(), sshd.port());
    rig.edit_hosts(|file| {
        let far = file.hosts.iter_mut().find(|(name, _)| name.as_str() == "far").unwrap();
        far.1.jump_host = Some(gate.clone());
    });
    // A key that is offered in vain: the server then says what it takes.
    let config = format!("IdentityFile {}\n", host.client_key_path().display());
    fs::write(rig.home().join(".ssh/config"), config).unwrap();
    let section = format!("[hosts.\"via:{gate}\"]");
    let output = rig.run_occ(&["connect", "--host", "far"]);
    let says = format!("auth = [\"password\"] under {section} in {}", rig.config_toml().display());
    assert!(output.stderr.contains(&says), "{output:?}");
    rig.write_config_toml(&format!("{section}\nauth = [\"password\"]\n"));
    let answer = problem(&post(&rig, "/v1/hosts/far/connect"));
    assert_eq!(answer.code, Code::InputNeeded, "{answer:?}");
}

#[test]
fn a_key_and_then_a_code_log_in_and_are_not_repeated_in_the_background() {
    let lines = [&PAM[..], &["AuthenticationMethods publickey,keyboard-interactive"]].concat();
    let config = "[hosts.a]\nauth = [\"keyboard-interactive\"]\n";
    let Some((sshd, rig, password)) = server(&lines, config) else { return };
    let mut terminal =
        Terminal::control(&rig.occ(&["exec", "--host", "a", "--", "echo", "in"]), "");
    // PAM's own words.
    terminal.wait_for("[a] Password: ");
    terminal.type_text(&format!("{password}\n"));
    terminal.wait_for("[a] Keep the password in ");
    terminal.type_text("n\n");
    let (screen, code) = terminal.finish();
    assert_eq!(code, 0, "{screen}");
    assert!(screen.ends_with("in\n"), "{screen}");
    let auth = look(&rig, "a").connection.unwrap().auth;
    assert!(
        auth.starts_with("publickey ") && auth.ends_with(", then keyboard-interactive"),
        "{auth}"
    );
    let logins = |sshd: &RealSshd| sshd.log().matches("Connection from ").count();
    let before = logins(&sshd);
    sshd.kill_sessions();
    let error = failure(&rig, "a", State::Failed);
    assert_eq!(error.code, Code::InputNeeded, "{error:?}");
    assert!(error.message.contains("a login needs a person"), "{error:?}");
    // A command without a person is told so and causes no dial, either.
    let answer = problem(&post(&rig, "/v1/hosts/a/connect"));
    assert_eq!(answer.code, Code::InputNeeded);
    let output = rig.run_occ(&["exec", "--host", "a", "--", "true"]);
    assert_eq!(output.code(), 5, "{}", output.stderr);
    // Only the one that was asked for by name has been made.
    assert!(logins(&sshd) <= before + 1, "{}", sshd.log());
    // Nor does a daemon that starts try what needs a person, though the host was used lately.
    let before = logins(&sshd);
    let mut rig = rig;
    rig.terminate_daemon();
    rig.start_daemon(&[]);
    assert_eq!(list(&rig).hosts[0].state, State::Idle);
    assert_eq!(logins(&sshd), before);
    // The key was not refused: it was not enough.
    rig.write_config_toml("");
    rig.terminate_daemon();
    rig.start_daemon(&[]);
    let answer = problem(&post(&rig, "/v1/hosts/a/connect"));
    assert_eq!(answer.code, Code::AuthMethodNeeded, "{answer:?}");
    assert!(
        answer.detail.contains("took the key ") && !answer.detail.contains("refused"),
        "{answer:?}"
    );
}

#[test]
fn who_answers_from_elsewhere_is_asked_all_that_a_login_takes() {
    let host = EmbeddedHost::start();
    host.reject_auth(true);
    host.ask_twice(true);
    let mut rig = DaemonRig::new();
    rig.add_host("a", &host);
    rig.write_config_toml("[hosts.a]\nauth = [\"keyboard-interactive\"]\n");
    rig.start_daemon(&[]);
    // A client that is asked, and does not answer.
    let asked = [("occ-prompts", "a-test")];
    std::thread::scope(|scope| {
        let connecting =
            scope.spawn(|| rig.http("POST", "/v1/hosts/a/connect", &asked, None).status);
        for query in ["?client=a-test", ""] {
            let path = format!("/v1/prompts{query}");
            let shown = || rig.http("GET", &path, &[], None).json()["prompts"].clone();
            wait_until("a question", GUARD, shown, |list| !list[0].is_null());
        }
        let mut terminal = Terminal::control(&rig.occ(&["prompts"]), "");
        terminal.answer("[a] PIN", "pin");
        terminal.answer("[a] Code", "code");
        let (screen, code) = terminal.finish();
        assert_eq!(code, 0, "{screen}");
        assert_eq!(connecting.join().unwrap(), 200);
    });
}

#[test]
fn no_password_is_sent_to_a_server_whose_key_has_changed() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("a", &host);
    rig.edit_hosts(|file| file.hosts.get_mut("a").unwrap().identity_file = None);
    rig.write_config_toml("[hosts.a]\nauth = [\"password\", \"keyboard-interactive\"]\n");
    let other = EmbeddedHost::start();
    let known = fs::read_to_string(rig.known_hosts_file()).unwrap();
    rig.start_daemon(&[]);
    // The record is that of another server.
    let key = other.known_hosts_line();
    let key = key.split_once(' ').unwrap().1;
    let place = known.split_once(' ').unwrap().0;
    fs::write(rig.known_hosts_file(), format!("{place} {key}\n")).unwrap();
    let terminal = Terminal::control(&rig.occ(&["connect", "--host", "a"]), "");
    let (screen, code) = terminal.finish();
    assert_eq!(code, 5, "{screen}");
    assert!(screen.contains("the host key changed"), "{screen}");
    assert_eq!(host.auth_attempts(), 0);
}

#[test]
fn whoever_adds_or_edits_a_host_is_asked_once() {
    let Some((sshd, rig, password)) = server(PASSWORD, "[hosts.b]\nauth = [\"password\"]\n") else {
        return;
    };
    let (to, key) = (format!("{}@{}", sshd.user(), sshd.addr()), sshd.client_key_path());
    let key = key.to_str().unwrap();
    // Whether Docker can be installed there is another question.
    for command in [&["host", "add", "b", &to, "--yes"][..], &["host", "edit", "b", "-i", key]] {
        let mut terminal = Terminal::control(&rig.occ(command), "");
        terminal.answer("[b] Password for ", password);
        if command.contains(&"add") {
            terminal.answer("[b] Keep the password in ", "n");
        }
        let (screen, code) = terminal.finish();
        assert_eq!(code, 0, "{screen}");
        assert_eq!(screen.matches("Password for").count(), 1, "{screen}");
        // Nobody is there to be asked now.
        echoes(&rig, "b");
    }
    assert_eq!(look(&rig, "b").connects, 2);
}

#[test]
fn a_question_after_others_is_ended_by_a_signal_and_waits_as_long_as_a_person_takes() {
    let Some((sshd, rig, _)) = server(PASSWORD, "[hosts.b]\nauth = [\"password\"]\n") else {
        return;
    };
    let to = format!("{}@{}", sshd.user(), sshd.addr());
    let add = || {
        let mut terminal = Terminal::control(&rig.occ(&["host", "add", "b", &to]), "");
        for _ in 0..3 {
            terminal.answer("[b] Password for ", "wrong");
        }
        terminal
    };
    let mut terminal = add();
    terminal.wait_for("Add 'b' anyway? [y/N] ");
    terminal.type_text("\u{3}");
    assert_eq!(terminal.finish().1, 130);
    assert_eq!(list(&rig).hosts.len(), 1);

    let mut terminal = add();
    terminal.wait_for("Add 'b' anyway? [y/N] ");
    // Longer than the daemon keeps a connection on which nothing is asked.
    let begun = tokio::time::Instant::now();
    let waited = |time: &std::time::Duration| time.as_secs() >= 7;
    wait_until("the connection to be given up", GUARD, || begun.elapsed(), waited);
    terminal.type_text("y\n");
    let (screen, code) = terminal.finish();
    assert_eq!(code, 0, "{screen}");
    assert_eq!(list(&rig).hosts.len(), 2);
}
