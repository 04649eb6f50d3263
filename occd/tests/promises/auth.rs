//! Logging in: which keys are offered, how often, and what is said when it cannot be done.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use occ_proto::Code;
use occ_proto::status::{Phase, State};
use testkit::daemon::Target;
use testkit::keys::KeyFile;
use testkit::wait::blocking::wait_for;
use testkit::{DaemonRig, EmbeddedHost, RealSshd};

use crate::ask::{Clock, GUARD, connect, echoes, exec, failure, look, meanwhile, post, problem};

/// OpenSSH's agent, for one test.
pub(crate) struct Agent {
    child: Child,
    socket: PathBuf,
}

impl Agent {
    /// Starts an empty one in the rig and names it to whatever is started there from now on.
    pub(crate) fn start(rig: &mut DaemonRig) -> Self {
        Self::start_at(rig, "agent.sock")
    }

    pub(crate) fn start_at(rig: &mut DaemonRig, name: &str) -> Self {
        let agent = Self::listen(&rig.root().join(name), None);
        rig.set_env("SSH_AUTH_SOCK", &agent.socket);
        agent
    }

    /// Starts an empty one that nobody is told of. `asks` is the program by which it asks its user.
    pub(crate) fn listen(socket: &Path, asks: Option<&Path>) -> Self {
        let mut command = Command::new("ssh-agent");
        command.args(["-D", "-a"]).arg(socket).stdout(Stdio::null());
        if let Some(program) = asks {
            command.env("SSH_ASKPASS", program).env("SSH_ASKPASS_REQUIRE", "force");
            command.env("DISPLAY", ":0");
        }
        let agent = Self { child: command.spawn().unwrap(), socket: socket.to_owned() };
        wait_for("the agent to listen", GUARD, || agent.run(&["-l"]).filter(|code| *code <= 1));
        agent
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Runs `ssh-add` and returns its exit code: 0, 1 for an empty agent, 2 for none.
    pub(crate) fn run(&self, args: &[&str]) -> Option<i32> {
        let mut command = Command::new("ssh-add");
        command.args(args).env("SSH_AUTH_SOCK", &self.socket);
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().code()
    }

    pub(crate) fn add(&self, key: &Path) {
        assert_eq!(self.run(&["-q", key.to_str().unwrap()]), Some(0));
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = (self.child.kill(), self.child.wait());
    }
}

/// Adds a server with another identity file, or none.
pub(crate) fn add_with(rig: &DaemonRig, target: impl Into<Target>, identity: Option<&Path>) {
    rig.add_host("far", target);
    rig.edit_hosts(|file| {
        let config = file.hosts.get_mut("far").unwrap();
        config.identity_file = identity.map(|path| path.display().to_string());
    });
}

#[test]
fn a_named_identity_file_logs_in_whatever_its_kind() {
    if !RealSshd::require() {
        return;
    }
    for kind in ["ed25519", "ecdsa", "rsa"] {
        let sshd = RealSshd::builder().client_key(kind).start();
        let mut rig = DaemonRig::new();
        rig.add_host("far", &sshd);
        rig.start_daemon(&[]);
        echoes(&rig, "far");
        let auth = look(&rig, "far").connection.unwrap().auth;
        let path = sshd.client_key_path().display();
        assert_eq!(auth, format!("publickey {path} (file)"), "{kind}");
    }
}

#[test]
fn a_status_tells_the_login_key_and_how_safe_the_exchange_was() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let embedded = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &sshd);
    rig.add_host("new", &embedded);
    rig.start_daemon(&[]);
    echoes(&rig, "far");
    let shown = look(&rig, "far").connection.unwrap();
    let listed =
        Command::new("ssh-keygen").arg("-lf").arg(sshd.client_key_path()).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    // `256 SHA256:… comment (ED25519)`.
    assert_eq!(shown.auth_key.as_deref(), listed.split(' ').nth(1));
    let lines = rig.occ_ok(&["status", "-v", "--host", "far"]);
    assert!(lines.contains(shown.auth_key.as_deref().unwrap()), "{lines}");
    // AES-GCM and ChaCha20-Poly1305 need no MAC.
    assert_eq!(shown.mac, None, "{shown:?}");
    // sshd before 9.9 has no ML-KEM.
    assert_eq!(shown.post_quantum, shown.kex.contains("mlkem"), "{shown:?}");
    let quantum = if shown.post_quantum { ", post-quantum" } else { "not post-quantum" };
    assert!(lines.contains(quantum), "{lines}");

    echoes(&rig, "new");
    let shown = look(&rig, "new").connection.unwrap();
    assert!(shown.post_quantum && shown.strict_kex, "{shown:?}");
    assert!(
        rig.occ_ok(&["status", "-v", "--host", "new"])
            .contains("mlkem768x25519-sha256, post-quantum")
    );
}

#[test]
fn a_key_that_only_the_agent_holds_logs_in() {
    if !RealSshd::require() {
        return;
    }
    for kind in ["ed25519", "ecdsa", "rsa"] {
        let sshd = RealSshd::builder().client_key(kind).start();
        let mut rig = DaemonRig::new();
        let agent = Agent::start(&mut rig);
        agent.add(sshd.client_key_path());
        add_with(&rig, &sshd, None);
        rig.start_daemon(&[]);
        echoes(&rig, "far");
        let auth = look(&rig, "far").connection.unwrap().auth;
        assert!(auth.ends_with("(agent)"), "{kind}: {auth}");
    }
}

#[test]
fn what_is_added_to_the_agent_after_a_login_failed_is_tried_by_the_next_command() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let mut rig = DaemonRig::new();
    let agent = Agent::start(&mut rig);
    add_with(&rig, &sshd, None);
    rig.start_daemon(&[]);
    let answer = problem(&exec(&rig, "far", &["true"]));
    assert_eq!(answer.code, Code::NoIdentity, "{answer:?}");
    agent.add(sshd.client_key_path());
    // Long before a failed login is tried again for any command.
    wait_for("the login", Duration::from_secs(10), || {
        (exec(&rig, "far", &["true"]).status == 200).then_some(())
    });
    assert_eq!(sshd.log().matches("Connection from ").count(), 2, "{}", sshd.log());
}

#[test]
fn a_default_key_that_others_may_read_is_said_to_be_there() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    add_with(&rig, &host, None);
    let key = KeyFile::generate(rig.home().join(".ssh/id_ed25519"), "ed25519");
    fs::set_permissions(&key.path, fs::Permissions::from_mode(0o644)).unwrap();
    rig.start_daemon(&[]);
    let answer = problem(&exec(&rig, "far", &["true"]));
    assert_eq!(answer.code, Code::NoIdentity, "{answer:?}");
    assert!(answer.detail.contains("id_ed25519 has mode 0644"), "{answer:?}");
    let output = rig.run_occ(&["connect", "--host", "far"]);
    let hint = format!("hint: chmod 600 {}; then occ reconnect --host far", key.path.display());
    assert!(output.stderr.contains(&hint), "{output:?}");
}

#[test]
fn a_test_that_goes_well_brings_a_failed_host_back() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let keys = fs::read_to_string(sshd.authorized_keys_path()).unwrap();
    fs::write(sshd.authorized_keys_path(), "").unwrap();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &sshd);
    rig.start_daemon(&[]);
    assert_eq!(problem(&exec(&rig, "far", &["true"])).code, Code::AuthFailed);
    failure(&rig, "far", State::Failed);
    fs::write(sshd.authorized_keys_path(), keys).unwrap();
    // Nothing here has changed, so a command would say the same as before for half a minute.
    rig.occ_ok(&["host", "test", "far"]);
    crate::ask::in_state(&rig, "far", State::Connected);
}

#[test]
fn an_agent_that_comes_back_or_gets_the_key_brings_the_host_back() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let mut rig = DaemonRig::new();
    let agent = Agent::start(&mut rig);
    add_with(&rig, &sshd, None);
    rig.start_daemon(&[]);
    assert_eq!(problem(&post(&rig, "/v1/hosts/far/connect")).code, Code::NoIdentity);
    // Nobody says more than that they look.
    agent.add(sshd.client_key_path());
    wait_for("the host to be back", GUARD, || {
        rig.occ_ok(&["status", "--host", "far"]).contains("● connected").then_some(())
    });

    drop(agent);
    assert_eq!(problem(&post(&rig, "/v1/hosts/far/reconnect")).code, Code::NoIdentity);
    fs::remove_file(rig.root().join("agent.sock")).unwrap();
    let agent = Agent::start(&mut rig);
    agent.add(sshd.client_key_path());
    // Not even that.
    wait_for("the login", GUARD, || rig.log().matches("connected host=far").nth(1).map(drop));
    echoes(&rig, "far");
}

#[test]
fn a_locked_key_file_is_used_through_the_agent_that_holds_it() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let mut rig = DaemonRig::new();
    let agent = Agent::start(&mut rig);
    let key = KeyFile::generate(rig.home().join(".ssh/locked"), "ed25519");
    fs::write(sshd.authorized_keys_path(), format!("{}\n", key.public)).unwrap();
    agent.add(&key.path);
    let locked = Command::new("ssh-keygen")
        .args(["-q", "-p", "-P", "", "-N", "a passphrase", "-f"])
        .arg(&key.path)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(locked.success());
    add_with(&rig, &sshd, Some(&key.path));
    rig.start_daemon(&[]);
    echoes(&rig, "far");
    assert!(look(&rig, "far").connection.unwrap().auth.ends_with("(agent)"));
}

#[test]
fn a_default_key_file_is_found() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let mut rig = DaemonRig::new();
    fs::copy(sshd.client_key_path(), rig.home().join(".ssh/id_ed25519")).unwrap();
    add_with(&rig, &sshd, None);
    rig.start_daemon(&[]);
    echoes(&rig, "far");
    assert!(look(&rig, "far").connection.unwrap().auth.contains("id_ed25519 (file)"));
}

#[test]
fn a_refused_login_is_made_once_and_waits_for_a_person() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let mut rig = DaemonRig::new();
    let wrong = KeyFile::generate(rig.home().join("wrong"), "ed25519");
    add_with(&rig, &sshd, Some(&wrong.path));
    rig.write_config_toml(Clock::CONFIG);
    let clock = Clock::add(&rig);
    rig.start_daemon(&[]);
    let answer = problem(&exec(&rig, "far", &["true"]));
    assert_eq!((answer.status, answer.code), (409, Code::AuthFailed));
    assert_eq!(answer.phase, Some(Phase::Authentication));
    assert!(!answer.retryable && answer.detail.contains("SHA256:"), "{answer:?}");
    assert!(answer.detail.contains(&wrong.path.display().to_string()), "{answer:?}");
    let error = failure(&rig, "far", State::Failed);
    assert_eq!((error.code, error.phase), (Code::AuthFailed, Phase::Authentication));

    meanwhile(&rig, &clock, 20);
    assert_eq!(problem(&exec(&rig, "far", &["true"])).code, Code::AuthFailed);
    let log = sshd.log();
    assert_eq!(log.matches("Connection from ").count(), 1, "{log}");
    assert_eq!(log.matches("Failed publickey").count(), 1, "{log}");

    // The key is what a command's dial depends on: a new one is tried at once.
    fs::copy(sshd.client_key_path(), &wrong.path).unwrap();
    echoes(&rig, "far");
}

#[test]
fn an_account_that_the_server_says_is_closed_is_a_refused_login() {
    if !RealSshd::require() {
        return;
    }
    let Some(user) = testkit::user::expired_user() else { return };
    let sshd = RealSshd::builder().user(user).config("UsePAM yes").start();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &sshd);
    rig.start_daemon(&[]);
    let answer = problem(&post(&rig, "/v1/hosts/far/connect"));
    assert_eq!((answer.code, answer.phase), (Code::AuthFailed, Some(Phase::Authentication)));
    let key = sshd.client_key_path().display();
    let says = format!(
        "the server took the key {key} and closed the connection: is the account {user} locked"
    );
    assert!(answer.detail.contains(&says), "{answer:?}");
    // PAM's own words, which sshd passes on.
    assert!(answer.detail.contains("Your account has expired"), "{answer:?}");
    assert!(!failure(&rig, "far", State::Failed).retryable);
    assert_eq!(sshd.log().matches("Connection from ").count(), 1, "{}", sshd.log());
    let output = rig.run_occ(&["connect", "--host", "far"]);
    let hint = "hint: ask the server's owner; then occ reconnect --host far";
    assert!(output.code() == 5 && output.stderr.contains(hint), "{output:?}");
    let many = rig.run_occ(&["connect", "--all"]);
    assert!(many.stderr.ends_with("0 ok, 1 failed: far (account locked or expired)\n"), "{many:?}");
}

#[test]
fn a_server_without_an_authentication_method_refuses_the_login() {
    if !RealSshd::require() {
        return;
    }
    for config in [
        // It names no method.
        &["PubkeyAuthentication no"][..],
        // It says so.
        &["Match User *", "AuthenticationMethods password"],
    ] {
        let builder = RealSshd::builder().config("PasswordAuthentication no");
        let builder = builder.config("KbdInteractiveAuthentication no");
        let sshd = config.iter().fold(builder, |builder, line| builder.config(*line)).start();
        let mut rig = DaemonRig::new();
        rig.add_host("far", &sshd);
        rig.start_daemon(&[]);
        let answer = problem(&exec(&rig, "far", &["true"]));
        assert_eq!(answer.code, Code::AuthFailed, "{config:?}: {answer:?}");
        assert!(answer.detail.contains("authentication method"), "{answer:?}");
        assert!(!answer.detail.contains("broke the protocol"), "{answer:?}");
        assert!(!failure(&rig, "far", State::Failed).retryable);
        assert_eq!(sshd.log().matches("Connection from ").count(), 1, "{}", sshd.log());
        let output = rig.run_occ(&["exec", "--host", "far", "--", "true"]);
        let hint = "hint: ask the server's owner; then occ reconnect --host far";
        assert!(output.code() == 5 && output.stderr.contains(hint), "{output:?}");
    }
}

#[test]
fn a_full_agent_makes_five_offers_and_one_round() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    let agent = Agent::start(&mut rig);
    for n in 0..8 {
        agent.add(&KeyFile::generate(rig.home().join(format!("key{n}")), "ed25519").path);
    }
    add_with(&rig, &host, None);
    rig.write_config_toml(Clock::CONFIG);
    let clock = Clock::add(&rig);
    rig.start_daemon(&[]);
    let answer = problem(&exec(&rig, "far", &["true"]));
    assert_eq!(answer.code, Code::AuthFailed);
    assert_eq!(answer.detail.matches("SHA256:").count(), 5, "{answer:?}");
    let mut keys: Vec<_> = host.offered_auth().into_iter().filter_map(|offer| offer.key).collect();
    assert_eq!(keys.len(), 5);
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 5, "no key is offered twice");
    meanwhile(&rig, &clock, 20);
    assert_eq!(host.connections(), 1);
    // The right one may be among the others.
    let output = rig.run_occ(&["connect", "--host", "far"]);
    let says = "hint: occ host edit far -i KEY names the right one, which is offered first";
    assert!(output.stderr.contains(says) && !output.stderr.contains("copy-id"), "{output:?}");
}

#[test]
fn a_named_key_comes_before_the_agents() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    let agent = Agent::start(&mut rig);
    for n in 0..8 {
        agent.add(&KeyFile::generate(rig.home().join(format!("key{n}")), "ed25519").path);
    }
    rig.add_host("far", &host);
    rig.start_daemon(&[]);
    connect(&rig, "far");
    assert_eq!(host.auth_attempts(), 1, "{:?}", host.offered_auth());
}

#[test]
fn identities_only_offers_nothing_else() {
    if !RealSshd::require() {
        return;
    }
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    let agent = Agent::start(&mut rig);
    // The right key is in the agent, and must stay there.
    agent.add(&host.client_key_path());
    let wrong = KeyFile::generate(rig.home().join("wrong"), "ed25519");
    let config = format!("IdentitiesOnly yes\nIdentityFile {}\n", wrong.path.display());
    fs::write(rig.home().join(".ssh/config"), config).unwrap();
    add_with(&rig, &host, None);
    rig.start_daemon(&[]);
    assert_eq!(problem(&exec(&rig, "far", &["true"])).code, Code::AuthFailed);
    let keys: Vec<_> = host.offered_auth().into_iter().filter_map(|offer| offer.key).collect();
    assert_eq!(keys, [wrong.public]);
}

#[test]
fn identities_only_with_no_file_that_is_there_blames_the_file_and_no_agent() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    let gone = rig.home().join("gone");
    let config = format!("IdentitiesOnly yes\nIdentityFile {}\n", gone.display());
    fs::write(rig.home().join(".ssh/config"), config).unwrap();
    add_with(&rig, &host, None);
    rig.start_daemon(&[]);
    let output = rig.run_occ(&["connect", "--host", "far"]);
    assert_eq!(output.code(), 5, "{output:?}");
    let says = format!(
        "the identity file {} is not there, and IdentitiesOnly of ssh_config allows no other",
        gone.display()
    );
    assert!(output.stderr.contains(&says), "{output:?}");
    assert!(!output.stderr.contains("ssh-add"), "{output:?}");
    assert_eq!(host.auth_attempts(), 0);
}

#[test]
fn identities_only_allows_the_default_files_as_with_ssh() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    let key = rig.home().join(".ssh/id_ed25519");
    fs::copy(host.client_key_path(), &key).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(rig.home().join(".ssh/config"), "IdentitiesOnly yes\n").unwrap();
    add_with(&rig, &host, None);
    rig.start_daemon(&[]);
    echoes(&rig, "far");
}

#[test]
fn without_any_key_the_reason_is_said() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    add_with(&rig, &host, None);
    rig.start_daemon(&[]);
    let answer = problem(&post(&rig, "/v1/hosts/far/connect"));
    assert_eq!((answer.status, answer.code), (409, Code::NoIdentity));
    assert!(answer.detail.contains("SSH_AUTH_SOCK is not set"), "{answer:?}");
    // Only what it takes was asked.
    assert!(
        host.offered_auth().iter().all(|offer| offer.key.is_none()),
        "{:?}",
        host.offered_auth()
    );
}

#[test]
fn a_daemon_without_an_agent_asks_the_newest_one_that_a_client_named() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let mut rig = DaemonRig::new();
    add_with(&rig, &sshd, None);
    // As under systemd: nothing names an agent to it.
    rig.start_daemon(&[]);
    assert_eq!(problem(&post(&rig, "/v1/hosts/far/connect")).code, Code::NoIdentity);
    let first = Agent::start(&mut rig);
    first.add(sshd.client_key_path());
    // A new agent is a reason to try a failed login again.
    rig.occ_ok(&["exec", "--host", "far", "--", "true"]);
    let named = |agent: &Agent| Some(agent.socket.display().to_string());
    assert_eq!(look(&rig, "far").connection.unwrap().agent, named(&first));
    // Other clients, too, from now on.
    assert_eq!(post(&rig, "/v1/hosts/far/reconnect").status, 200);

    let second = Agent::start_at(&mut rig, "agent2.sock");
    second.add(sshd.client_key_path());
    rig.occ_ok(&["reconnect", "--host", "far"]);
    assert_eq!(look(&rig, "far").connection.unwrap().agent, named(&second));
    // Its shell has ended: the one before still answers.
    let path = second.socket.clone();
    drop(second);
    let _ = fs::remove_file(path);
    assert_eq!(post(&rig, "/v1/hosts/far/reconnect").status, 200);
    assert_eq!(look(&rig, "far").connection.unwrap().agent, named(&first));
}

#[test]
fn an_agent_that_hangs_or_is_gone_does_not_stop_a_login_with_a_file() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &host);
    let socket = rig.root().join("mute.sock");
    // Never accepted, never answered.
    let _mute = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    rig.set_env("SSH_AUTH_SOCK", &socket);
    rig.start_daemon(&[]);
    echoes(&rig, "far");
    fs::remove_file(&socket).unwrap();
    assert_eq!(post(&rig, "/v1/hosts/far/reconnect").status, 200);
}

#[test]
fn each_unusable_identity_file_gets_one_clear_sentence() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    let dir = rig.home().join("keys");
    fs::create_dir(&dir).unwrap();
    let good = KeyFile::generate(dir.join("good"), "ed25519");
    let text = fs::read_to_string(&good.path).unwrap();
    fs::copy(dir.join("good.pub"), dir.join("gone.pub")).unwrap();
    let write = |name: &str, text: &str, mode: u32| {
        let path = dir.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    let cases = [
        (dir.join("missing"), "cannot be read: No such file"),
        (dir.clone(), "is not a regular file"),
        (dir.join("gone"), "is missing but for its public key, and occd knows no ssh-agent"),
        (dir.join("good.pub"), "is a public key, and occd knows no ssh-agent"),
        (write("open", &text, 0o644), "has mode 0644; a private key must be yours alone"),
        (write("cut", &text[..text.len() / 2], 0o600), "is damaged or of an unsupported type"),
        (write("putty", "PuTTY-User-Key-File-3: ssh-ed25519\n", 0o600), "is a PuTTY key"),
        (write("empty", "", 0o600), "is empty"),
        (write("other", "hello\n", 0o600), "is some other file"),
    ];
    add_with(&rig, &host, Some(&good.path));
    rig.start_daemon(&[]);
    for (path, says) in cases {
        // What a person does about it differs, and so does the word for it.
        let (code, phase) = match says.split(' ').next() {
            Some("has") => (Code::IdentityTooOpen, Phase::Config),
            _ if says.contains("ssh-agent") => (Code::NoIdentity, Phase::Authentication),
            _ => (Code::IdentityInvalid, Phase::Config),
        };
        let patch = serde_json::json!({ "identity_file": path, "verify": false });
        assert_eq!(rig.http("PATCH", "/v1/hosts/far", &[], Some(patch)).status, 200);
        let answer = problem(&exec(&rig, "far", &["true"]));
        assert_eq!((answer.status, answer.code), (409, code), "{answer:?}");
        assert!(!answer.retryable, "{answer:?}");
        let sentence = format!("far: the identity file {} {says}", path.display());
        assert!(answer.detail.starts_with(&sentence), "{says}: {answer:?}");
        // No content of a key file: its lines are base64 of this length.
        assert!(!answer.detail.split(' ').any(|word| word.len() > 60 && !word.contains('/')));
        let error = failure(&rig, "far", State::Failed);
        assert_eq!((error.code, error.phase), (code, phase));
    }
    assert_eq!(host.auth_attempts(), 0);
}

#[test]
fn a_public_key_names_the_one_of_a_full_agent_that_is_offered() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let mut rig = DaemonRig::new();
    let agent = Agent::start(&mut rig);
    for n in 0..6 {
        agent.add(&KeyFile::generate(rig.home().join(format!("key{n}")), "ed25519").path);
    }
    agent.add(sshd.client_key_path());
    // The private half is nowhere but in the agent, as that of a security key is.
    let public = rig.home().join("hardware.pub");
    fs::copy(sshd.client_key_path().with_extension("pub"), &public).unwrap();
    let missing = public.with_extension("");
    add_with(&rig, &sshd, Some(&public));
    rig.start_daemon(&[]);
    echoes(&rig, "far");
    let auth = look(&rig, "far").connection.unwrap().auth;
    assert!(auth.ends_with("(agent)"), "{auth}");
    rig.occ_ok(&["disconnect", "--host", "far"]);
    let patch = serde_json::json!({ "identity_file": null, "verify": false });
    assert_eq!(rig.http("PATCH", "/v1/hosts/far", &[], Some(patch)).status, 200);
    for (file, only) in [(&public, "yes"), (&missing, "yes"), (&missing, "no")] {
        let config = format!("IdentitiesOnly {only}\nIdentityFile {}\n", file.display());
        fs::write(rig.home().join(".ssh/config"), config).unwrap();
        rig.occ_ok(&["reconnect", "--host", "far"]);
        echoes(&rig, "far");
    }
}

#[test]
fn an_agent_that_does_not_sign_is_blamed_and_not_the_server() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let mut rig = DaemonRig::new();
    let agent = Agent::start(&mut rig);
    // Each use is to be confirmed, and there is nothing to confirm with: as a security key that nobody touches.
    assert_eq!(agent.run(&["-q", "-c", sshd.client_key_path().to_str().unwrap()]), Some(0));
    add_with(&rig, &sshd, None);
    rig.start_daemon(&[]);
    let answer = problem(&post(&rig, "/v1/hosts/far/connect"));
    assert_eq!(answer.code, Code::AgentRefused, "{answer:?}");
    let said = &answer.detail;
    assert!(said.starts_with("far: the ssh-agent did not sign with "), "{said}");
    assert!(said.contains("which the server would take") && !said.contains("refused"), "{said}");
    let output = rig.run_occ(&["connect", "--host", "far"]);
    assert!(output.stderr.contains("hint: confirm or touch the key"), "{output:?}");
}

#[test]
fn a_login_that_lacks_only_a_passphrase_says_so() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    // In this format even the public half is behind the passphrase.
    let key = rig.home().join("locked");
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "secret", "-f"])
        .arg(&key)
        .status();
    assert!(made.unwrap().success());
    fs::remove_file(key.with_extension("pub")).unwrap();
    let config = format!("IdentitiesOnly yes\nIdentityFile {}\n", key.display());
    fs::write(rig.home().join(".ssh/config"), config).unwrap();
    add_with(&rig, &host, None);
    rig.start_daemon(&[]);
    let answer = problem(&exec(&rig, "far", &["true"]));
    assert_eq!(answer.code, Code::InputNeeded, "{answer:?}");
    assert!(answer.detail.contains("passphrase"), "{answer:?}");
    assert_eq!(host.connections(), 1);
}

#[test]
fn a_key_in_the_clients_environment_is_for_that_request_and_comes_after_the_named_ones() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let mut rig = DaemonRig::new();
    let named = KeyFile::generate(rig.home().join(".ssh/named"), "ed25519");
    add_with(&rig, &sshd, Some(&named.path));
    rig.start_daemon(&[]);
    let key = STANDARD.encode(fs::read(sshd.client_key_path()).unwrap());
    assert_eq!(problem(&post(&rig, "/v1/hosts/far/connect")).code, Code::AuthFailed);
    for variable in ["OCC_SSH_KEY", "TENDHOST_SSH_KEY"] {
        let mut command = rig.occ(&["exec", "--host", "far", "--", "echo", "in"]);
        let output = command.env(variable, &key).output().unwrap();
        assert_eq!(output.stdout, b"in\n", "{}", String::from_utf8_lossy(&output.stderr));
        let auth = look(&rig, "far").connection.unwrap().auth;
        assert_eq!(auth, "publickey OCC_SSH_KEY (the client's environment)");
        // The next login has no such key, so there is none in the background.
        sshd.kill_sessions();
        assert_eq!(failure(&rig, "far", State::Failed).code, Code::InputNeeded);
    }
    // The named one was offered first.
    let offered: Vec<String> = sshd
        .log()
        .lines()
        .filter(|line| line.contains("ed publickey for") && !line.starts_with("Postponed"))
        .map(str::to_owned)
        .collect();
    assert!(offered[0].starts_with("Failed") && offered[1].starts_with("Failed"), "{offered:?}");
    assert!(offered[2].starts_with("Accepted"), "{offered:?}");
    assert!(!rig.log().contains(&key[..40]));
    // Nobody can be asked for its passphrase there.
    let locked = KeyFile::generate_with(rig.home().join("locked"), "ed25519", "secret");
    let text = STANDARD.encode(fs::read(&locked.path).unwrap());
    let output = rig.occ(&["connect", "--host", "far"]).env("OCC_SSH_KEY", text).output().unwrap();
    let says = String::from_utf8_lossy(&output.stderr);
    assert!(says.contains("name its file: occ host edit HOST -i KEYFILE"), "{says}");
    for bad in ["%%%", "aGVsbG8="] {
        let output =
            rig.occ(&["connect", "--host", "far"]).env("OCC_SSH_KEY", bad).output().unwrap();
        let says = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{says}");
        assert!(says.contains("OCC_SSH_KEY") && !says.contains(bad), "{says}");
    }
}

#[test]
fn a_key_in_the_daemons_environment_is_for_all_logins_and_for_no_program() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let mut rig = DaemonRig::new();
    add_with(&rig, &sshd, None);
    let seen = rig.root().join("seen");
    let config = format!(
        "Match exec \"env | grep -c SSH_KEY >{0}\"\nHost *\n\
         ProxyCommand bash -c 'env | grep -c SSH_KEY >>{0}; exec 3<>/dev/tcp/%h/%p; cat <&3 & exec cat >&3'\n",
        seen.display()
    );
    fs::write(rig.home().join(".ssh/config"), config).unwrap();
    let key = STANDARD.encode(fs::read(sshd.client_key_path()).unwrap());
    rig.set_env("OCC_SSH_KEY", &key);
    rig.start_daemon(&[]);
    assert_eq!(post(&rig, "/v1/hosts/far/connect").status, 200);
    let auth = look(&rig, "far").connection.unwrap().auth;
    assert_eq!(auth, "publickey OCC_SSH_KEY (occd's environment)");
    assert!(fs::read_to_string(seen).unwrap().lines().all(|line| line == "0"));
    // It is there for the next one, too.
    sshd.kill_sessions();
    echoes(&rig, "far");
}

#[test]
fn an_rsa_certificate_beside_a_key_file_logs_in() {
    if !RealSshd::require() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ca = KeyFile::generate(dir.path().join("ca"), "ed25519");
    let trusted = dir.path().join("ca.pub");
    let sshd = RealSshd::builder()
        .client_key("rsa")
        .config(format!("TrustedUserCAKeys {}", trusted.display()))
        .start();
    fs::write(sshd.authorized_keys_path(), "").unwrap();
    let key = KeyFile::generate(dir.path().join("key"), "rsa");
    key.certify(&ca, &["-n", sshd.user()]);
    let mut rig = DaemonRig::new();
    add_with(&rig, &sshd, Some(&key.path));
    rig.start_daemon(&[]);
    echoes(&rig, "far");
    let auth = look(&rig, "far").connection.unwrap().auth;
    assert!(auth.contains("with certificate a-certificate"), "{auth}");
}

#[test]
fn a_key_that_an_agent_keeps_for_certain_destinations_logs_in_there_and_nowhere_else() {
    if !RealSshd::require() {
        return;
    }
    let (right, wrong) = (RealSshd::start(), RealSshd::start());
    let mut rig = DaemonRig::new();
    let agent = Agent::start(&mut rig);
    let key = KeyFile::generate(rig.home().join(".ssh/constrained"), "ed25519");
    for sshd in [&right, &wrong] {
        fs::write(sshd.authorized_keys_path(), format!("{}\n", key.public)).unwrap();
    }
    // ssh-add looks the destination's keys up.
    let known = rig.home().join("known");
    fs::write(&known, format!("{}\n", right.known_hosts_line())).unwrap();
    let to = format!("{}@[127.0.0.1]:{}", right.user(), right.port());
    let known = known.to_str().unwrap();
    assert_eq!(agent.run(&["-q", "-H", known, "-h", &to, key.path.to_str().unwrap()]), Some(0));
    for (name, sshd) in [("right", &right), ("wrong", &wrong)] {
        rig.add_host(name, sshd);
        rig.edit_hosts(|file| {
            for config in file.hosts.values_mut() {
                config.identity_file = None;
            }
        });
    }
    rig.start_daemon(&[]);
    echoes(&rig, "right");
    let refused = problem(&post(&rig, "/v1/hosts/wrong/connect"));
    assert!([Code::AuthFailed, Code::NoIdentity].contains(&refused.code), "{refused:?}");
}
