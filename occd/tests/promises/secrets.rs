//! Passwords that are kept: in a real keyring, or in a file that is encrypted with age; settings in such a file.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use occ_proto::Code;
use occ_proto::status::State;
use serde_json::{Value, json};
use testkit::require::is_root;
use testkit::user::password_user;
use testkit::wait::blocking::{wait_for, wait_until};
use testkit::{DaemonRig, Keyring, RealSshd, Terminal};

use crate::ask::{GUARD, echoes, in_state, list, look, post, problem};
use crate::canary::{answers, holding};

const PASSWORD: [&str; 2] = ["PasswordAuthentication yes", "AuthenticationMethods password"];
const PAM: [&str; 3] = [
    "UsePAM yes",
    "KbdInteractiveAuthentication yes",
    "AuthenticationMethods keyboard-interactive",
];
const ALLOWED: &str = "[hosts.a]\nauth = [\"password\", \"keyboard-interactive\"]\n";

/// Returns a server, and a rig without a daemon whose host `a` logs in there with a password.
fn server(lines: &[&str]) -> Option<(RealSshd, DaemonRig, &'static str)> {
    if !RealSshd::require() || !Keyring::require() {
        return None;
    }
    let (user, password) = password_user()?;
    let builder = RealSshd::builder().user(user);
    let sshd = lines.iter().fold(builder, |builder, line| builder.config(*line)).start();
    let rig = DaemonRig::new();
    rig.add_host("a", &sshd);
    rig.write_config_toml(ALLOWED);
    Some((sshd, rig, password))
}

fn connect(rig: &DaemonRig) -> Terminal {
    Terminal::control(&rig.occ(&["connect", "--host", "a"]), "")
}

/// Ends the session and waits until the daemon has made another by itself.
fn comes_back(rig: &DaemonRig, sshd: &RealSshd) {
    let before = look(rig, "a").connects;
    wait_for("the host to be connected anew", GUARD, || {
        let now = list(rig).hosts.remove(0);
        // sshd forks a session's processes after it has told that the login is made.
        if now.connects == before && now.state == State::Connected {
            sshd.kill_sessions();
        }
        (now.connects > before && now.state == State::Connected).then_some(())
    });
}

fn refusals(sshd: &RealSshd) -> usize {
    sshd.log().matches("Failed password for").count()
}

fn log_in_and_keep(rig: &DaemonRig, password: &str) {
    let mut terminal = connect(rig);
    terminal.answer("Password for ", password);
    terminal.answer("[a] Keep the password in the keyring? [y/N]: ", "y");
    let (screen, code) = terminal.finish();
    assert_eq!(code, 0, "{screen}");
    assert!(!screen.contains(password) && !screen.contains("not kept"), "{screen}");
}

#[test]
fn a_password_is_kept_in_the_keyring_and_logs_in_without_a_person() {
    let Some((sshd, mut rig, password)) = server(&PASSWORD) else { return };
    let keyring = Keyring::start(&mut rig);
    rig.start_daemon(&[]);
    let mut terminal = connect(&rig);
    terminal.answer("Password for ", password);
    // Whoever types nothing has it kept nowhere, and is not asked again.
    terminal.answer("[a] Keep the password in the keyring? [y/N]: ", "");
    assert_eq!(terminal.finish().1, 0);
    assert_eq!(keyring.lookup("a"), None);
    rig.occ_ok(&["disconnect", "--host", "a"]);
    let mut terminal = connect(&rig);
    terminal.answer("Password for ", password);
    let (screen, code) = terminal.finish();
    assert_eq!((code, screen.contains("Keep")), (0, false), "{screen}");
    rig.terminate_daemon();
    rig.start_daemon(&[]);

    log_in_and_keep(&rig, password);
    assert_eq!(keyring.lookup("a").as_deref(), Some(password));
    comes_back(&rig, &sshd);
    rig.terminate_daemon();
    rig.start_daemon(&[]);
    let output = rig.run_occ(&["--no-input", "connect", "--host", "a"]);
    assert_eq!(output.code(), 0, "{}", output.stderr);
    assert!(!rig.log().contains(password));

    assert_eq!(rig.occ_ok(&["host", "forget-password", "a"]), "[a] Its password is forgotten.\n");
    assert_eq!(keyring.lookup("a"), None);
    assert_eq!(rig.occ_ok(&["host", "forget-password", "a"]), "[a] No password is kept.\n");
    let nobody = rig.run_occ(&["host", "forget-password", "nosuch"]);
    assert_eq!(nobody.code(), 4, "{nobody:?}");
    assert!(nobody.stderr.contains("Host 'nosuch' not found."), "{nobody:?}");
    // A host that is removed takes its password along.
    rig.occ_ok(&["disconnect", "--host", "a"]);
    log_in_and_keep(&rig, password);
    rig.occ_ok(&["host", "remove", "a", "-f"]);
    wait_for("the password to be gone", GUARD, || keyring.lookup("a").is_none().then_some(()));
    rig.add_host("a", &sshd);
    rig.occ_ok(&["disconnect", "--host", "a"]);
    assert_eq!(problem(&post(&rig, "/v1/hosts/a/connect")).code, Code::InputNeeded);
}

#[test]
fn a_kept_password_that_is_refused_is_sent_once_and_asked_for_again() {
    let Some((sshd, mut rig, password)) = server(&PASSWORD) else { return };
    let keyring = Keyring::start(&mut rig);
    rig.start_daemon(&[]);
    // What the status says of the host key is what the password is kept for.
    log_in_and_keep(&rig, password);
    let host_key = look(&rig, "a").connection.unwrap().host_key;
    let login = format!("{}@{}", sshd.user(), sshd.addr());
    assert!(keyring.store("a", &login, &host_key, "an old one"));
    rig.occ_ok(&["disconnect", "--host", "a"]);
    let answer = problem(&post(&rig, "/v1/hosts/a/connect"));
    assert_eq!(answer.code, Code::InputNeeded, "{answer:?}");
    assert!(answer.detail.contains("the server refused the password that is kept"), "{answer:?}");
    assert_eq!(refusals(&sshd), 1, "{}", sshd.log());
    problem(&post(&rig, "/v1/hosts/a/connect"));
    assert_eq!(refusals(&sshd), 1, "{}", sshd.log());
    // Not deleted: the server may only have lost its directory for a while.
    assert_eq!(keyring.lookup("a").as_deref(), Some("an old one"));
    log_in_and_keep(&rig, password);
    assert_eq!(keyring.lookup("a").as_deref(), Some(password));
    comes_back(&rig, &sshd);
}

#[test]
fn a_kept_password_is_for_one_server_and_its_key() {
    let Some((mut sshd, mut rig, password)) = server(&PASSWORD) else { return };
    let keyring = Keyring::start(&mut rig);
    rig.start_daemon(&[]);
    log_in_and_keep(&rig, password);
    // Another key at the same address: trusted by a person, it is another server all the same.
    sshd.change_host_keys();
    rig.occ_ok(&["disconnect", "--host", "a"]);
    fs::write(rig.known_hosts_file(), "").unwrap();
    for _ in 0..2 {
        assert_eq!(problem(&post(&rig, "/v1/hosts/a/connect")).code, Code::InputNeeded);
    }
    rig.terminate_daemon();
    rig.start_daemon(&[]);
    assert_eq!(problem(&post(&rig, "/v1/hosts/a/connect")).code, Code::InputNeeded);
    assert_eq!(sshd.log().matches("Accepted password").count(), 1, "{}", sshd.log());
    log_in_and_keep(&rig, password);
    comes_back(&rig, &sshd);

    // The same host at another address: its password is not sent there.
    let other = RealSshd::builder().user(sshd.user());
    let other = PASSWORD.iter().fold(other, |builder, line| builder.config(*line)).start();
    rig.add_host("b", &other);
    rig.edit_hosts(|file| {
        let there = file.hosts["b"].clone();
        file.hosts.insert(occ_proto::HostName::new("a").unwrap(), there);
    });
    wait_for("the new address", GUARD, || {
        (look(&rig, "a").config.port == Some(other.addr().port())).then_some(())
    });
    assert_eq!(problem(&post(&rig, "/v1/hosts/a/connect")).code, Code::InputNeeded);
    assert!(!other.log().contains("Accepted password"), "{}", other.log());
    assert_eq!(keyring.lookup("a").as_deref(), Some(password));
}

#[test]
fn pams_own_question_for_the_password_is_answered_by_the_kept_one() {
    let Some((sshd, mut rig, password)) = server(&PAM) else { return };
    let _keyring = Keyring::start(&mut rig);
    rig.start_daemon(&[]);
    let mut terminal = connect(&rig);
    terminal.answer("[a] Password: ", password);
    terminal.answer("[a] Keep the password in the keyring? [y/N]: ", "y");
    let (screen, code) = terminal.finish();
    assert_eq!(code, 0, "{screen}");
    comes_back(&rig, &sshd);
    echoes(&rig, "a");
}

#[test]
fn without_a_keyring_passwords_are_in_a_file_behind_a_passphrase() {
    let Some((sshd, mut rig, password)) = server(&PASSWORD) else { return };
    // A keyring that nobody has opened is none.
    let keyring = Keyring::start(&mut rig);
    keyring.lock();
    rig.start_daemon(&[]);
    let file = rig.paths().secrets_file().unwrap();
    let mut terminal = connect(&rig);
    terminal.answer("Password for ", password);
    terminal.answer("[a] Keep the password in an encrypted file (", "y");
    for (first, second) in [("open", "opne"), ("open", "open")] {
        terminal.answer("New passphrase for the kept passwords (", first);
        terminal.answer("The same passphrase again: ", second);
    }
    let (screen, code) = terminal.finish();
    assert_eq!(code, 0, "{screen}");
    assert!(screen.contains("They were not the same."), "{screen}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read(&file).unwrap();
    assert!(text.starts_with(b"age-encryption.org/v1\n"));
    comes_back(&rig, &sshd);

    rig.terminate_daemon();
    rig.start_daemon(&[]);
    assert_eq!(problem(&post(&rig, "/v1/hosts/a/connect")).code, Code::InputNeeded);
    let mut terminal = connect(&rig);
    terminal.answer("Passphrase for the kept passwords (", "wrong");
    terminal.answer("That passphrase is wrong.", "open");
    let (screen, code) = terminal.finish();
    assert_eq!(code, 0, "{screen}");
    assert!(!screen.contains("Password for "), "{screen}");
    // Gone from the file; nobody knows what is in the keyring.
    let output = rig.run_occ(&["host", "forget-password", "a"]);
    assert_eq!(output.code(), 5, "{output:?}");
    assert!(output.stderr.contains("the keyring is locked"), "{output:?}");
    rig.occ_ok(&["disconnect", "--host", "a"]);
    assert_eq!(problem(&post(&rig, "/v1/hosts/a/connect")).code, Code::InputNeeded);
}

/// Logs in, has the password kept in the file and gives that a passphrase.
fn log_in_and_keep_in_file(rig: &DaemonRig, password: &str) {
    let mut terminal = connect(rig);
    terminal.answer("Password for ", password);
    terminal.answer("[a] Keep the password in an encrypted file (", "y");
    terminal.answer("New passphrase for the kept passwords (", "open");
    terminal.answer("The same passphrase again: ", "open");
    let (screen, code) = terminal.finish();
    assert_eq!(code, 0, "{screen}");
}

#[test]
fn a_login_that_has_nothing_to_do_with_the_file_of_passwords_is_not_asked_about_it() {
    let Some((sshd, mut rig, password)) = server(&PASSWORD) else { return };
    rig.add_host("b", &sshd);
    rig.write_config_toml(&format!("{ALLOWED}{}", ALLOWED.replace(".a]", ".b]")));
    rig.start_daemon(&[]);
    let to_b = || Terminal::control(&rig.occ(&["connect", "--host", "b"]), "");
    let mut keeping = connect(&rig);
    // Another terminal waits for the same host; it does not ask for anything to be kept.
    let mut beside = connect(&rig);
    beside.wait_for("Password for ");
    keeping.answer("Password for ", password);
    keeping.answer("[a] Keep the password in an encrypted file (", "y");
    keeping.answer("New passphrase for the kept passwords (", "open");
    keeping.wait_for("The same passphrase again: ");
    let mut other = to_b();
    other.answer("Password for ", password);
    other.answer("[b] Keep the password in an encrypted file (", "");
    let (screen, code) = other.finish();
    assert_eq!((code, screen.contains("passphrase")), (0, false), "{screen}");
    keeping.answer("The same passphrase again: ", "open");
    assert_eq!(keeping.finish().1, 0);
    let (screen, code) = beside.finish();
    assert_eq!((code, screen.contains("passphrase")), (0, false), "{screen}");

    // Nor when the file is there and locked.
    rig.terminate_daemon();
    rig.start_daemon(&[]);
    let problem = problem(&post(&rig, "/v1/hosts/b/connect"));
    assert!(problem.detail.contains("a password is needed: "), "{problem:?}");
    let to_b = || Terminal::control(&rig.occ(&["connect", "--host", "b"]), "");
    let mut other = to_b();
    other.answer("[b] Password for ", password);
    other.answer("[b] Keep the password in an encrypted file (", "");
    let (screen, code) = other.finish();
    assert_eq!((code, screen.contains("passphrase")), (0, false), "{screen}");
}

#[test]
fn hosts_that_failed_for_want_of_the_passphrase_come_back_when_somebody_gives_it() {
    let Some((sshd, mut rig, password)) = server(&PASSWORD) else { return };
    rig.add_host("b", &sshd);
    rig.write_config_toml(&format!("{ALLOWED}{}", ALLOWED.replace(".a]", ".b]")));
    rig.start_daemon(&[]);
    log_in_and_keep_in_file(&rig, password);
    let mut other = Terminal::control(&rig.occ(&["connect", "--host", "b"]), "");
    other.answer("Password for ", password);
    other.answer("[b] Keep the password in an encrypted file (", "y");
    assert_eq!(other.finish().1, 0);
    rig.terminate_daemon();
    rig.start_daemon(&[]);
    for host in ["a", "b"] {
        let problem = problem(&post(&rig, &format!("/v1/hosts/{host}/connect")));
        assert_eq!(problem.code, Code::InputNeeded, "{problem:?}");
        in_state(&rig, host, State::Failed);
    }
    let mut terminal = connect(&rig);
    terminal.answer("Passphrase for the kept passwords (", "open");
    assert_eq!(terminal.finish().1, 0);
    in_state(&rig, "b", State::Connected);
}

#[test]
fn a_damaged_file_of_passwords_is_named_wherever_it_is_in_the_way() {
    let Some((_sshd, mut rig, password)) = server(&PASSWORD) else { return };
    rig.start_daemon(&[]);
    let file = rig.paths().secrets_file().unwrap();
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "no age file").unwrap();
    let hint = format!("hint: mv {0} {0}.damaged; a new one is made", file.display());
    for command in [&["exec", "--host", "a", "--", "true"][..], &["connect", "--host", "a"]] {
        let mut terminal = Terminal::control(&rig.occ(command), "");
        // Nothing is kept there: nobody is asked whether to.
        terminal.answer("Password for ", password);
        let (screen, code) = terminal.finish();
        let says = format!("[a] The password was not kept: {}: it is no age file", file.display());
        assert!(code == 0 && screen.contains(&says) && screen.contains(&hint), "{screen}");
        rig.occ_ok(&["disconnect", "--host", "a"]);
    }
    let output = rig.run_occ(&["host", "forget-password", "a"]);
    assert!(output.code() != 0 && output.stderr.contains(&hint), "{output:?}");
    // Without a terminal, too.
    for command in [
        &["connect", "--host", "a"][..],
        &["exec", "--host", "a", "--", "true"],
        &["reconnect", "--host", "a"],
        &["status", "--host", "a"],
    ] {
        let output = rig.run_occ(command);
        assert!(output.stderr.contains(&hint), "{command:?}: {output:?}");
        assert!(!output.stderr.contains("occ prompts"), "{output:?}");
    }

    // A file whose passphrase alone shows the damage.
    fs::remove_file(&file).unwrap();
    rig.occ_ok(&["disconnect", "--host", "a"]);
    log_in_and_keep_in_file(&rig, password);
    rig.terminate_daemon();
    let mut sealed = fs::read(&file).unwrap();
    *sealed.last_mut().unwrap() ^= 1;
    fs::write(&file, sealed).unwrap();
    rig.start_daemon(&[]);
    let perhaps = format!("if it is damaged, mv {0} {0}.damaged", file.display());
    for command in [&["host", "forget-password", "a"][..], &["connect", "--host", "a"]] {
        let output = rig.run_occ(command);
        let says = format!("the passphrase for {}, which is not as occd wrote it", file.display());
        assert!(output.stderr.contains(&says) && output.stderr.contains(&perhaps), "{output:?}");
    }
    let mut terminal = connect(&rig);
    terminal.answer("Passphrase for the kept passwords (", "open");
    terminal.answer("Password for ", password);
    let (screen, code) = terminal.finish();
    assert!(code == 0 && screen.contains(&hint) && !screen.contains("Keep the"), "{screen}");
}

#[test]
fn a_keyring_that_is_locked_is_named_where_the_password_is_in_it() {
    let Some((_sshd, mut rig, password)) = server(&PASSWORD) else { return };
    let keyring = Keyring::start(&mut rig);
    rig.start_daemon(&[]);
    log_in_and_keep(&rig, password);
    rig.occ_ok(&["disconnect", "--host", "a"]);
    keyring.lock();
    for command in [
        &["connect", "--host", "a"][..],
        &["exec", "--host", "a", "--", "true"],
        &["status", "--host", "a"],
        &["host", "forget-password", "a"],
    ] {
        let output = rig.run_occ(command);
        let said = format!("{}{}", output.stdout, output.stderr);
        assert!(said.contains("the keyring that has one is locked"), "{command:?}: {output:?}");
        assert!(output.stderr.contains("hint: unlock the keyring ("), "{command:?}: {output:?}");
    }
    assert!(rig.log().contains("the keyring that has one is locked"), "{}", rig.log());
}

#[test]
fn whoever_removes_a_host_is_told_of_a_password_that_stays() {
    let Some((sshd, mut rig, password)) = server(&PASSWORD) else { return };
    for host in ["b", "c", "d"] {
        rig.add_host(host, &sshd);
    }
    let allowed = ["a", "b", "c", "d"].map(|host| ALLOWED.replace(".a]", &format!(".{host}]")));
    rig.write_config_toml(&allowed.concat());
    rig.start_daemon(&[]);
    log_in_and_keep_in_file(&rig, password);
    for host in ["b", "c", "d"] {
        let mut other = Terminal::control(&rig.occ(&["connect", "--host", host]), "");
        other.answer("Password for ", password);
        other.answer("Keep the password in an encrypted file (", "y");
        assert_eq!(other.finish().1, 0);
    }
    rig.terminate_daemon();
    rig.start_daemon(&[]);
    let output = rig.run_occ(&["host", "remove", "a", "-f"]);
    assert_eq!(output.code(), 0, "{output:?}");
    let says = "Warning: [a] The passwords cannot be forgotten: the passphrase for ";
    let hint = "\nhint: on a terminal: occ host forget-password a asks\n";
    assert!(output.stderr.contains(says) && output.stderr.contains(hint), "{output:?}");
    // Who leaves at the question is told, too.
    let mut terminal = Terminal::control(&rig.occ(&["host", "remove", "d", "-f"]), "");
    terminal.wait_for("Passphrase for the kept passwords (");
    terminal.type_text("\u{3}");
    let (screen, _) = terminal.finish();
    assert!(screen.contains("its passwords are still kept"), "{screen}");
    assert!(screen.contains("hint: occ host forget-password d"), "{screen}");
    let mut terminal = Terminal::control(&rig.occ(&["host", "remove", "b", "-f"]), "");
    terminal.answer("Passphrase for the kept passwords (", "open");
    let (screen, code) = terminal.finish();
    assert!(code == 0 && !screen.contains("be forgotten"), "{screen}");
    // The file is open now.
    assert_eq!(rig.occ_ok(&["host", "forget-password", "a"]), "[a] Its password is forgotten.\n");
    // With it that of the host whose question was left, unless it went when the file was opened.
    assert!([0, 4].contains(&rig.run_occ(&["host", "forget-password", "d"]).code()));
    assert_eq!(rig.run_occ(&["host", "forget-password", "b"]).code(), 4);
    let output = rig.run_occ(&["host", "remove", "c", "-f"]);
    assert!(output.code() == 0 && !output.stderr.contains("be forgotten"), "{output:?}");
    assert!(!rig.paths().secrets_file().unwrap().exists());
}

#[test]
fn the_file_of_passwords_goes_with_the_last_one() {
    let Some((_sshd, mut rig, password)) = server(&PASSWORD) else { return };
    rig.start_daemon(&[]);
    let file = rig.paths().secrets_file().unwrap();
    let left = || {
        let names = fs::read_dir(file.parent().unwrap()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("passwords")).collect::<Vec<_>>()
    };
    for is_open in [true, false] {
        log_in_and_keep_in_file(&rig, password);
        assert_eq!(left().len(), 2, "{:?}", left());
        if !is_open {
            rig.terminate_daemon();
            rig.start_daemon(&[]);
            let problem = problem(&post(&rig, "/v1/hosts/a/connect"));
            assert_eq!(problem.code, Code::InputNeeded);
            assert_eq!(problem.detail.matches("there is nobody to ask").count(), 1, "{problem:?}");
        }
        // What is deleted as a whole need not be opened.
        let forgotten = rig.occ_ok(&["host", "forget-password", "a"]);
        assert_eq!(forgotten, "[a] Its password is forgotten.\n");
        assert_eq!(left(), Vec::<String>::new());
        let forgotten = rig.occ_ok(&["host", "forget-password", "a"]);
        assert!(forgotten.starts_with("[a] No password is kept in a file"), "{forgotten}");
        rig.occ_ok(&["disconnect", "--host", "a"]);
        let problem = problem(&post(&rig, "/v1/hosts/a/connect"));
        assert!(problem.detail.contains("a password is needed: "), "{problem:?}");
    }
}

#[test]
fn without_the_list_of_what_is_kept_the_file_is_opened() {
    let Some((_sshd, mut rig, password)) = server(&PASSWORD) else { return };
    rig.start_daemon(&[]);
    log_in_and_keep_in_file(&rig, password);
    rig.terminate_daemon();
    let index = rig.paths().secrets_file().unwrap().with_extension("index");
    let text = fs::read_to_string(&index).unwrap();
    assert_eq!(fs::metadata(&index).unwrap().permissions().mode() & 0o777, 0o600);
    // As it was for another file.
    fs::write(&index, text.replace(|c: char| c.is_ascii_digit(), "x")).unwrap();
    rig.start_daemon(&[]);
    let mut terminal = connect(&rig);
    terminal.answer("Passphrase for the kept passwords (", "open");
    let (screen, code) = terminal.finish();
    assert_eq!(code, 0, "{screen}");
    assert_eq!(fs::read_to_string(&index).unwrap(), text);
}

/// Makes a key with the real program and returns what encrypts to it.
fn age_keygen(identity: &Path) -> String {
    fs::create_dir_all(identity.parent().unwrap()).unwrap();
    let made = Command::new("age-keygen").arg("-o").arg(identity).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let text = fs::read_to_string(identity).unwrap();
    text.lines().find_map(|line| line.strip_prefix("# public key: ")).unwrap().to_owned()
}

#[test]
fn with_an_identity_file_the_file_of_passwords_needs_nobody() {
    let Some((_sshd, mut rig, password)) = server(&PASSWORD) else { return };
    let identity = rig.paths().age_identity().unwrap();
    age_keygen(&identity);
    rig.start_daemon(&[]);
    let mut terminal = connect(&rig);
    terminal.answer("Password for ", password);
    terminal.answer("[a] Keep the password in an encrypted file (", "y");
    let (screen, code) = terminal.finish();
    assert_eq!(code, 0, "{screen}");
    // Whoever has the key can read it with age itself.
    let mut age = Command::new("age");
    age.arg("-d").arg("-i").arg(&identity).arg(rig.paths().secrets_file().unwrap());
    let opened = age.output().unwrap();
    assert!(opened.status.success(), "{opened:?}");
    assert!(String::from_utf8(opened.stdout).unwrap().contains(password));
    rig.terminate_daemon();
    rig.start_daemon(&[]);
    assert_eq!(post(&rig, "/v1/hosts/a/connect").status, 200);

    // Not read when it is anybody's.
    fs::set_permissions(&identity, fs::Permissions::from_mode(0o644)).unwrap();
    rig.terminate_daemon();
    rig.start_daemon(&[]);
    assert_eq!(problem(&post(&rig, "/v1/hosts/a/connect")).code, Code::InputNeeded);
    let says = format!("{} must be yours and closed to others", identity.display());
    assert!(rig.log().contains(&says), "{}", rig.log());

    fs::set_permissions(&identity, fs::Permissions::from_mode(0o600)).unwrap();
    rig.terminate_daemon();
    rig.start_daemon(&[]);
    // That it is forgotten is on record, and where there was nothing to forget, nothing is.
    for _ in 0..2 {
        rig.occ_ok(&["host", "forget-password", "a"]);
    }
    let forgotten = || {
        let lines = rig.occ_ok(&["audit", "--json"]);
        let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["action"] == "password.forget").collect::<Vec<_>>()
    };
    let lines = wait_until("the line", GUARD, forgotten, |lines| !lines.is_empty());
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!((&lines[0]["host"], &lines[0]["detail"]), (&json!("a"), &json!("1 deleted")));
}

#[test]
fn nothing_is_kept_where_the_settings_say_so() {
    let Some((_sshd, mut rig, password)) = server(&PASSWORD) else { return };
    let keyring = Keyring::start(&mut rig);
    rig.write_config_toml(&format!("[security]\nkeep_passwords = false\n{ALLOWED}"));
    rig.start_daemon(&[]);
    let mut terminal = connect(&rig);
    terminal.answer("Password for ", password);
    let (screen, code) = terminal.finish();
    assert_eq!(code, 0, "{screen}");
    assert!(!screen.contains("Keep the"), "{screen}");
    assert_eq!(keyring.lookup("a"), None);
}

/// Encrypts a text with the real program.
fn age(arguments: &[&str], text: &str, to: &PathBuf) {
    let plain = to.with_extension("plain");
    fs::write(&plain, text).unwrap();
    let mut command = Command::new("age");
    command.arg("-e").args(arguments).arg("-o").arg(to).arg(&plain).stdin(Stdio::null());
    let made = command.output().unwrap();
    assert!(made.status.success(), "{made:?}");
    fs::remove_file(plain).unwrap();
}

#[test]
fn encrypted_settings_are_read_in_place_of_the_others() {
    if !Keyring::require() {
        return;
    }
    let mut rig = DaemonRig::new();
    let host = testkit::EmbeddedHost::start();
    host.drop_during_auth(true);
    rig.add_host("a", &host);
    let identity = rig.paths().age_identity().unwrap();
    let recipient = age_keygen(&identity);
    let sealed = rig.paths().sealed_config_file().unwrap();
    let settings =
        |retries: u32| format!("[connection]\nmax_backoff = \"100ms\"\nmax_retries = {retries}\n");
    rig.write_config_toml(&settings(9));
    age(&["-r", &recipient], &settings(1), &sealed);
    rig.start_daemon(&[]);
    let answer = problem(&post(&rig, "/v1/hosts/a/connect"));
    assert!(answer.detail.contains("given up after 2 attempts"), "{answer:?}");
    let [warning] = &list(&rig).warnings[..] else { panic!("{:?}", list(&rig)) };
    assert!(
        warning.ends_with("occd.toml is not read, because occd.toml.age is there"),
        "{warning}"
    );
    // Read anew when it changes, in age's form for mail as well.
    age(&["-a", "-r", &recipient], &settings(2), &sealed);
    wait_for("the new settings", GUARD, || {
        let answer = problem(&post(&rig, "/v1/hosts/a/connect"));
        answer.detail.contains("given up after 3 attempts").then_some(())
    });
    in_state(&rig, "a", State::Failed);
    rig.terminate_daemon();

    // What cannot be read is no reason to go on with other settings.
    let other = rig.root().join("other.txt");
    let recipient = age_keygen(&other);
    age(&["-r", &recipient], &settings(3), &sealed);
    let mut child = rig.spawn_daemon(&[]);
    let status = wait_for("the daemon to end", GUARD, || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(78), "{}", rig.log());
    let says = format!(
        "occd.toml.age cannot be opened: the key in {} does not open it",
        identity.display()
    );
    assert!(rig.log().contains(&says), "{}", rig.log());
    // The variable names another key.
    rig.set_env("OCCD_AGE_IDENTITY", &other);
    rig.start_daemon(&[]);
    let answer = problem(&post(&rig, "/v1/hosts/a/connect"));
    assert!(answer.detail.contains("given up after 4 attempts"), "{answer:?}");
}

#[test]
fn no_secret_is_in_a_file_an_answer_or_a_command_line_however_much_is_logged() {
    let Some((sshd, mut rig, password)) = server(&PASSWORD) else { return };
    let passphrase = "a canary in a coal mine";
    rig.set_env("OCCD_LOG", "trace");
    rig.start_daemon(&[]);
    let mut terminal = connect(&rig);
    terminal.answer("Password for ", password);
    terminal.answer("Keep the password in ", "y");
    terminal.answer("New passphrase for ", passphrase);
    terminal.answer("The same passphrase again: ", passphrase);
    let (screen, code) = terminal.finish();
    assert_eq!(code, 0, "{screen}");
    comes_back(&rig, &sshd);
    echoes(&rig, "a");
    let answers = answers(&rig, &[("host", "a")]);
    let answers: String = answers.into_iter().map(|(_, answer)| answer).collect();
    assert!(answers.contains("prompt.answer"), "the audit log is among them");
    let log = rig.log();
    assert!(log.contains("DEBUG"), "the log was to say all it can");
    let daemon = format!("/proc/{}", rig.daemon_pid());
    let shown = ["cmdline", "environ"].map(|file| fs::read(format!("{daemon}/{file}")).unwrap());
    let shown = String::from_utf8_lossy(&shown.concat()).into_owned();
    for secret in [password, passphrase] {
        assert_eq!(holding(rig.root(), secret), Vec::<PathBuf>::new());
        assert!(!answers.contains(secret) && !log.contains(secret) && !shown.contains(secret));
    }
    // What is in memory stays there.
    let limits = fs::read_to_string(format!("{daemon}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
}

#[test]
fn not_even_its_own_user_reads_what_the_daemon_has_in_memory() {
    // Root reads everything, so root's daemon is somebody else's here.
    const NOBODY: u32 = 65534;
    let rig = DaemonRig::new();
    let (root, daemon) = (rig.root(), rig.root().join("occd"));
    // Its own place may be closed to others, and a program that cannot be read has no readable memory anyway.
    fs::copy(testkit::daemon::daemon_binary(), &daemon).unwrap();
    fs::set_permissions(&daemon, fs::Permissions::from_mode(0o755)).unwrap();
    let theirs = |program: &Path| {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", rig.home()).current_dir("/");
        command.stdout(Stdio::null()).stderr(Stdio::null());
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    };
    if is_root() {
        let owner = format!("{NOBODY}:{NOBODY}");
        let changed = Command::new("chown").args(["-R", &owner]).arg(root).status();
        assert!(changed.unwrap().success());
    }
    let mut any = theirs(Path::new("sleep")).arg("1000").spawn().unwrap();
    let mut occd = theirs(&daemon).env("XDG_RUNTIME_DIR", root.join("run")).spawn().unwrap();
    wait_for("the daemon", GUARD, || rig.socket().exists().then_some(()));
    let read = |pid: u32| {
        let file = format!("/proc/{pid}/environ");
        theirs(Path::new("cat")).arg(file).status().unwrap().success()
    };
    assert_eq!((read(any.id()), read(occd.id())), (true, false));
    for child in [&mut any, &mut occd] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
