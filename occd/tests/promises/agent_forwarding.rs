//! The user's ssh-agent on a host: only where the host is allowed to have it, over a connection of its own, and for
//! lists and signatures alone.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use occ_proto::status::{HostStatus, State};
use testkit::keys::known_hosts_line_for;
use testkit::wait::blocking::wait_until;
use testkit::{DaemonRig, RealSshd};

use crate::ask::{GUARD, connect, echoes, look, post};
use crate::auth::Agent;
use crate::invariants::Held;

const ALLOWED: &str = "[hosts.far]\nforward_agent = true\n";

/// Returns a server that takes the key of an agent, that agent and a daemon with these settings.
fn far(config: &str) -> (RealSshd, Agent, DaemonRig) {
    let sshd = RealSshd::start();
    let mut rig = DaemonRig::new();
    let agent = Agent::start(&mut rig);
    agent.add(sshd.client_key_path());
    rig.add_host("far", &sshd);
    rig.write_config_toml(config);
    rig.start_daemon(&[]);
    (sshd, agent, rig)
}

fn run(rig: &DaemonRig, line: &str) -> String {
    rig.occ_ok(&["exec", "--host", "far", "--shell", "--", line])
}

fn connections(rig: &DaemonRig) -> u32 {
    look(rig, "far").connections
}

#[test]
fn commands_have_the_agent_where_the_host_may_have_it_and_over_a_connection_of_its_own() {
    if !RealSshd::require() {
        return;
    }
    let (sshd, agent, rig) = far("");
    assert_eq!(run(&rig, "echo \"[$SSH_AUTH_SOCK]\""), "[]\n");
    assert_eq!(connections(&rig), 1);

    rig.write_config_toml(ALLOWED);
    let shared = |status: &HostStatus| status.connects == 2;
    wait_until("the settings to be in force", GUARD, || connect(&rig, "far"), shared);
    assert!(rig.occ_ok(&["status", "-v", "--host", "far"]).contains("may use your ssh-agent"));
    let held = Held::by(&rig);
    let listed = run(&rig, "ssh-add -L");
    let key = fs::read_to_string(sshd.client_key_path().with_extension("pub")).unwrap();
    assert!(listed.contains(key.split_whitespace().nth(1).unwrap()), "{listed}");
    assert_eq!(connections(&rig), 2);
    // Shared by all that may use it, as long as there are such.
    echoes(&rig, "far");
    run(&rig, "ssh-add -l");
    assert_eq!(connections(&rig), 2);
    // It signs: with it one goes on to where the key is good.
    let onward = format!(
        "ssh -F none -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
         -p {} {}@127.0.0.1 echo onward",
        sshd.port(),
        sshd.user()
    );
    assert_eq!(run(&rig, &format!("{onward} 2>/dev/null")), "onward\n");
    // Nothing else: no key is removed or added, nor is the agent locked.
    let add = "f=$(mktemp -u) && ssh-keygen -q -t ed25519 -N '' -f $f && ! ssh-add $f 2>/dev/null; \
               c=$?; rm $f $f.pub; exit $c";
    assert_eq!(run(&rig, add), "");
    for wish in ["ssh-add -D", "ssh-add -s /nowhere.so </dev/null"] {
        let output = rig.run_occ(&["exec", "--host", "far", "--shell", "--", wish]);
        assert_ne!(output.code(), 0, "{wish}: {output:?}");
    }
    assert_eq!(agent.run(&["-l"]), Some(0));
    assert_eq!(run(&rig, "ssh-add -l | wc -l"), "1\n");

    assert_eq!(post(&rig, "/v1/hosts/far/disconnect").status, 200);
    wait_until("both to be closed", GUARD, || look(&rig, "far").connections, |count| *count == 0);
    assert_eq!(look(&rig, "far").state, State::Stopped);
    connect(&rig, "far");
    held.is_all_again(&rig);
}

#[test]
fn ssh_config_may_allow_it_and_occd_toml_has_the_last_word() {
    if !RealSshd::require() {
        return;
    }
    let (_sshd, _agent, rig) = far("");
    let file = rig.home().join(".ssh/config");
    fs::write(&file, "Host *\n  ForwardAgent yes\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    connect(&rig, "far");
    assert_eq!(run(&rig, "ssh-add -l | wc -l"), "1\n");
    assert_eq!(connections(&rig), 2);
    // Taken away: what ran may end, and nothing new has it.
    rig.write_config_toml("[hosts.far]\nforward_agent = false\n");
    wait_until(
        "the settings to be in force",
        GUARD,
        || run(&rig, "echo \"[$SSH_AUTH_SOCK]\""),
        |said| said == "[]\n",
    );
    wait_until("the other to be closed", GUARD, || connections(&rig), |count| *count == 1);
}

#[test]
fn a_key_that_is_not_for_lending_is_kept_back() {
    if !RealSshd::require() {
        return;
    }
    let (sshd, agent, rig) = far(ALLOWED);
    // Good for a login on the first host, and for nothing beyond it.
    let known = rig.root().join("known");
    let key = sshd.host_public_keys().next().unwrap();
    fs::write(&known, format!("{}\n", known_hosts_line_for(sshd.addr(), key))).unwrap();
    let place = format!("[127.0.0.1]:{}", sshd.port());
    assert_eq!(agent.run(&["-D"]), Some(0));
    let key = sshd.client_key_path().to_str().unwrap();
    let constrained = ["-q", "-H", known.to_str().unwrap(), "-h", &place, key];
    assert_eq!(agent.run(&constrained), Some(0));
    assert_eq!(run(&rig, "ssh-add -l >/dev/null; echo $?"), "1\n", "it shows no key");
}

#[test]
fn an_agent_that_is_gone_leaves_nobody_waiting() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &sshd);
    rig.write_config_toml(ALLOWED);
    rig.start_daemon(&[]);
    // None at all: as with ssh, the command runs without.
    assert_eq!(run(&rig, "echo \"[$SSH_AUTH_SOCK]\""), "[]\n");
    rig.terminate_daemon();
    let agent = Agent::start(&mut rig);
    rig.start_daemon(&[]);
    assert_eq!(run(&rig, "ssh-add -l; echo $?"), "The agent has no identities.\n1\n");
    assert!(rig.occ_ok(&["status", "-v", "--host", "far"]).contains("may use your ssh-agent"));
    // It dies: its socket is there still, and refuses.
    drop(agent);
    assert_eq!(run(&rig, "echo \"[$SSH_AUTH_SOCK]\""), "[]\n");
    assert!(!rig.occ_ok(&["status", "-v", "--host", "far"]).contains("may use your ssh-agent"));
    let log = rig.log();
    // Once for each of the two daemons.
    assert_eq!(log.matches("commands run without the ssh-agent").count(), 2, "{log}");
    assert!(log.contains("does not answer: Connection refused"), "{log}");
}

#[test]
fn an_agent_that_cannot_be_lent_is_told_in_the_log_and_not_promised() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    for (config, says) in [
        ("ForwardAgent yes", "occd knows no ssh-agent"),
        ("ForwardAgent /no/such", "the ssh-agent /no/such cannot be used: there is no such file"),
        ("ForwardAgent $XAGENT", "the ssh-agent is $XAGENT by ssh_config, which is not set in"),
    ] {
        let mut rig = DaemonRig::new();
        rig.add_host("far", &sshd);
        let file = rig.home().join(".ssh/config");
        fs::write(&file, format!("{config}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        rig.start_daemon(&[]);
        assert_eq!(run(&rig, "echo \"[$SSH_AUTH_SOCK]\""), "[]\n");
        assert!(!connect(&rig, "far").connection.unwrap().agent_forwarding, "{config}");
        assert_eq!(run(&rig, "echo \"[$SSH_AUTH_SOCK]\""), "[]\n");
        let log = rig.log();
        assert_eq!(log.matches("commands run without the ssh-agent").count(), 1, "{log}");
        assert!(log.contains(says), "{log}");
    }
}
