//! Agents that come, go and hold other keys: a login that failed is tried again when it may go otherwise, and
//! only then.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use occ_proto::Code;
use occ_proto::status::State;
use testkit::keys::KeyFile;
use testkit::{DaemonRig, EmbeddedHost, RealSshd};

use crate::ask::{failure, in_state, post, problem};
use crate::auth::{Agent, add_with};

fn logins(sshd: &RealSshd) -> usize {
    sshd.log().matches("Connection from ").count()
}

#[test]
fn a_host_waits_for_the_agent_that_ssh_config_names_for_it() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let mut rig = DaemonRig::new();
    let named = rig.root().join("named.sock");
    let config = format!("IdentityAgent {}\n", named.display());
    fs::write(rig.home().join(".ssh/config"), config).unwrap();
    // Another agent, which holds the key and may not be asked.
    let other = Agent::start(&mut rig);
    other.add(sshd.client_key_path());
    add_with(&rig, &sshd, None);
    rig.start_daemon(&[]);
    assert_eq!(problem(&post(&rig, "/v1/hosts/far/connect")).code, Code::NoIdentity);
    let agent = Agent::listen(&named, None);
    agent.add(sshd.client_key_path());
    in_state(&rig, "far", State::Connected);
}

#[test]
fn an_agent_is_tried_once_for_what_it_holds() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let mut rig = DaemonRig::new();
    let agents = ["a.sock", "b.sock"].map(|name| {
        let agent = Agent::listen(&rig.root().join(name), None);
        let key = KeyFile::generate(rig.home().join(name), "ed25519");
        agent.add(&key.path);
        agent
    });
    add_with(&rig, &sshd, None);
    rig.start_daemon(&[]);
    let connect_with = |agent: &Agent| {
        let mut command = rig.occ(&["exec", "--host", "far", "--", "true"]);
        let output = command.env("SSH_AUTH_SOCK", agent.socket()).output().unwrap();
        assert_eq!(output.status.code(), Some(5), "{output:?}");
    };
    connect_with(&agents[0]);
    failure(&rig, "far", State::Failed);
    assert_eq!(logins(&sshd), 1);
    // Two terminals, each with its own agent, take turns.
    for _ in 0..3 {
        connect_with(&agents[1]);
        connect_with(&agents[0]);
    }
    assert_eq!(logins(&sshd), 2, "{}", sshd.log());
}

#[test]
fn no_key_is_offered_where_ssh_config_allows_none_but_the_one_that_is_named() {
    if !RealSshd::require() {
        return;
    }
    for setting in ["PubkeyAuthentication no", "PreferredAuthentications password"] {
        let sshd = RealSshd::start();
        let mut rig = DaemonRig::new();
        let agent = Agent::start(&mut rig);
        agent.add(sshd.client_key_path());
        fs::write(rig.home().join(".ssh/config"), format!("{setting}\n")).unwrap();
        add_with(&rig, &sshd, None);
        rig.start_daemon(&[]);
        let answer = problem(&post(&rig, "/v1/hosts/far/connect"));
        assert_eq!(answer.code, Code::NoIdentity, "{answer:?}");
        assert!(answer.detail.contains("ssh_config allows none"), "{answer:?}");
        let output = rig.run_occ(&["connect", "--host", "far"]);
        let cure = "hint: auth = [\"password\"] under [hosts.far] in /";
        assert!(output.stderr.contains(cure), "{output:?}");
        assert!(!output.stderr.contains("ssh-add"), "{output:?}");
        assert!(!sshd.log().contains("Postponed publickey"), "{}", sshd.log());
        // Only an agent could use the one that is named.
        let public = sshd.client_key_path().with_extension("pub");
        let public = public.to_str().unwrap();
        rig.occ_ok(&["host", "edit", "far", "-i", public, "--no-verify"]);
        let output = rig.run_occ(&["connect", "--host", "far"]);
        let why = "ssh_config allows none of an agent's (PubkeyAuthentication";
        assert!(output.stderr.contains(why) && output.stderr.contains(cure), "{output:?}");
        // hosts.json wins.
        rig.add_host("near", &sshd);
        assert_eq!(post(&rig, "/v1/hosts/near/connect").status, 200);
    }
}

#[test]
fn a_key_file_that_ssh_config_names_is_tried_when_it_is_another() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let mut rig = DaemonRig::new();
    let key = KeyFile::generate(rig.home().join("elsewhere"), "ed25519");
    let config = format!("IdentityFile {}\n", key.path.display());
    fs::write(rig.home().join(".ssh/config"), config).unwrap();
    add_with(&rig, &sshd, None);
    rig.start_daemon(&[]);
    let run = ["exec", "--host", "far", "--", "echo", "in"];
    for _ in 0..3 {
        assert_eq!(rig.run_occ(&run).code(), 5);
    }
    assert_eq!(logins(&sshd), 1, "{}", sshd.log());
    // The right one takes its place: the next command need not wait.
    fs::copy(sshd.client_key_path(), &key.path).unwrap();
    let output = rig.run_occ(&run);
    assert_eq!((output.code(), output.stdout.as_str()), (0, "in\n"), "{output:?}");
}

/// Locks an agent, as `ssh-add -x` does for a person.
fn lock(agent: &Agent, dir: &Path) {
    let program = dir.join("passphrase");
    fs::write(&program, "#!/bin/sh\necho secret\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    let mut command = Command::new("ssh-add");
    command.arg("-x").env("SSH_AUTH_SOCK", agent.socket()).stdout(Stdio::null());
    command.stderr(Stdio::null());
    command.env("SSH_ASKPASS", &program).env("SSH_ASKPASS_REQUIRE", "force").env("DISPLAY", ":0");
    assert!(command.status().unwrap().success());
}

#[test]
fn what_is_the_matter_with_an_agent_is_said() {
    if !RealSshd::require() {
        return;
    }
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    let socket = |name: &str| rig.root().join(name);
    let key = KeyFile::generate(rig.home().join("key"), "ed25519");
    let agents = ["other", "empty", "locked"].map(|name| Agent::listen(&socket(name), None));
    agents[0].add(&KeyFile::generate(rig.home().join("another"), "ed25519").path);
    agents[2].add(&key.path);
    lock(&agents[2], rig.root());
    drop(UnixListener::bind(socket("dead")).unwrap());
    // Never accepted, never answered.
    let _mute = UnixListener::bind(socket("mute")).unwrap();
    let public = rig.home().join("key.pub");
    let of = |name: &str, says: &str| {
        (
            socket(name).display().to_string(),
            format!("the ssh-agent {}{says}", socket(name).display()),
        )
    };
    let cases = [
        (
            "SSH_AUTH_SOCK".to_owned(),
            "occd knows no ssh-agent (SSH_AUTH_SOCK is not set)".to_owned(),
        ),
        ("none".to_owned(), "ssh_config says to use no ssh-agent".to_owned()),
        (
            "$MY_AGENT".to_owned(),
            "the ssh-agent is $MY_AGENT by ssh_config, which is not set in occd's environment"
                .to_owned(),
        ),
        of("nowhere", " does not answer: No such file or directory"),
        of("dead", " does not answer: Connection refused"),
        of("mute", " does not answer in time"),
        of("empty", " holds no keys (is it locked?)"),
        of("locked", " holds no keys (is it locked?)"),
        of("other", " does not hold the private one"),
    ];
    let file = rig.home().join(".ssh/config");
    add_with(&rig, &host, Some(&public));
    rig.add_host("near", &host);
    rig.edit_hosts(|file| file.hosts.get_mut("near").unwrap().identity_file = None);
    rig.start_daemon(&[]);
    for (agent, says) in cases {
        let config = format!("IdentityAgent {agent}\nIdentityFile {}\n", public.display());
        fs::write(&file, config).unwrap();
        // Once as the key that is named for the host, and once as one of ssh_config.
        for (host, begins) in [("far", ""), ("near", "there is no key to log in with as ")] {
            if host == "near" && says.contains("private one") {
                // What it does hold is offered.
                continue;
            }
            let answer = problem(&post(&rig, &format!("/v1/hosts/{host}/connect")));
            assert_eq!(answer.code, Code::NoIdentity, "{answer:?}");
            let says =
                format!("the identity file {} is a public key, and {says}", public.display());
            assert!(answer.detail.contains(&says), "{says}: {answer:?}");
            assert!(answer.detail.contains(begins), "{answer:?}");
            assert_eq!(answer.detail.matches("ssh-agent").count(), 1, "{answer:?}");
            let hint = rig.run_occ(&["connect", "--host", host]).stderr;
            let fits = match says.as_str() {
                says if says.contains("not answer") => hint.contains("does not answer: start it"),
                says if says.contains("hold") => {
                    hint.contains(&format!("SSH_AUTH_SOCK={agent} ssh-add KEY"))
                }
                says if says.contains("SSH_AUTH_SOCK") => hint.contains("hint: ssh-add KEY"),
                _ => hint.contains("IdentityAgent"),
            };
            assert!(fits, "{says}: {hint}");
        }
    }
    assert_eq!(host.auth_attempts(), 0);
}
