//! Agents that come, go and hold other keys: a login that failed is tried again when it may go otherwise, and
//! only then.

use std::fs;

use occ_proto::Code;
use occ_proto::status::State;
use testkit::keys::KeyFile;
use testkit::{DaemonRig, RealSshd};

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
        assert!(!sshd.log().contains("Postponed publickey"), "{}", sshd.log());
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
