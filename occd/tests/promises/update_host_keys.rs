//! A server that changes its host keys is followed as ssh follows it: what it proves is added, what it has no more
//! is taken out, and nothing where the records are not of this host alone.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};

use testkit::daemon::Target;
use testkit::keys::{KeyFile, known_hosts_line_for};
use testkit::wait::blocking::wait_until;
use testkit::{DaemonRig, EmbeddedHost, RealSshd};

use crate::ask::{GUARD, echoes, look, post};

/// A case: what known_hosts has, with the place of the server's name and keys, and whether it is to change.
struct Case {
    name: &'static str,
    /// `<HOST>` is the server's name, `<ED>`, `<EC>` its keys, `<OLD>` one that it has no more.
    known: &'static str,
    /// In the same words; the order does not count.
    after: &'static str,
    ssh_config: &'static str,
}

const CASES: &[Case] = &[
    Case {
        name: "a new key",
        known: "<HOST> <ED>",
        after: "<HOST> <ED>\n<HOST> <EC>",
        ssh_config: "",
    },
    Case {
        name: "an old key",
        known: "<HOST> <ED>\n<HOST> <EC>\n<HOST> <OLD>",
        after: "<HOST> <ED>\n<HOST> <EC>",
        ssh_config: "",
    },
    Case {
        name: "both, beside another host and a comment",
        known: "# mine\nother <UNRELATED>\n<HOST> <ED>\n<HOST> <OLD>",
        after: "# mine\nother <UNRELATED>\n<HOST> <ED>\n<HOST> <EC>",
        ssh_config: "",
    },
    Case {
        name: "a key that another host has, too",
        known: "other <ED>\n<HOST> <ED>\n<HOST> <OLD>",
        after: "other <ED>\n<HOST> <ED>\n<HOST> <OLD>",
        ssh_config: "",
    },
    Case {
        name: "an old key that another host has, too",
        known: "<HOST> <ED>\n<HOST> <EC>\n<HOST> <OLD>\nother <OLD>",
        after: "<HOST> <ED>\n<HOST> <EC>\n<HOST> <OLD>\nother <OLD>",
        ssh_config: "",
    },
    Case {
        name: "a pattern",
        known: "[127.0.0.*]:* <ED>",
        after: "[127.0.0.*]:* <ED>",
        ssh_config: "",
    },
    Case {
        name: "switched off",
        known: "<HOST> <ED>",
        after: "<HOST> <ED>",
        ssh_config: "UpdateHostKeys no\n",
    },
];

#[test]
fn known_hosts_follows_as_it_does_with_ssh() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::builder().host_keys(&["ed25519", "ecdsa"]).start();
    let keys: Vec<String> = sshd.host_public_keys().map(str::to_owned).collect();
    let dir = tempfile::tempdir().unwrap();
    let old = KeyFile::generate(dir.path().join("old"), "ed25519");
    let unrelated = KeyFile::generate(dir.path().join("unrelated"), "ed25519");
    let host = known_hosts_line_for(sshd.addr(), "");
    let fill = |text: &str| {
        let text = text.replace("<HOST>", host.trim()).replace("<UNRELATED>", &unrelated.public);
        let text = text.replace("<ED>", &keys[0]);
        text.replace("<EC>", &keys[1]).replace("<OLD>", &old.public) + "\n"
    };
    for case in CASES {
        let mut rig = DaemonRig::new();
        let target = Target::from(&sshd);
        rig.add_host_to("far", &target.hostname, target.port, &target.user, &target.key);
        let file = rig.known_hosts_file();
        fs::write(&file, fill(case.known)).unwrap();
        fs::write(rig.home().join(".ssh/config"), case.ssh_config).unwrap();
        let lines = |file: &std::path::Path| -> BTreeSet<String> {
            fs::read_to_string(file).unwrap().lines().map(str::to_owned).collect()
        };
        let expected: BTreeSet<String> = fill(case.after).lines().map(str::to_owned).collect();
        rig.start_daemon(&[]);
        echoes(&rig, "far");
        wait_until(case.name, GUARD, || lines(&file), |lines| *lines == expected);
        // Once more, with what was learned: nothing changes any more.
        assert_eq!(post(&rig, "/v1/hosts/far/reconnect").status, 200);
        echoes(&rig, "far");
        assert_eq!(lines(&file), expected, "{}", case.name);

        // What ssh makes of the same file.
        let theirs = dir.path().join("known_hosts");
        fs::write(&theirs, fill(case.known)).unwrap();
        let switch = if case.ssh_config.is_empty() { "yes" } else { "no" };
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-T", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"]);
        ssh.args(["-o", "GlobalKnownHostsFile=/dev/null", "-o", "HashKnownHosts=no"]);
        ssh.args(["-o", "StrictHostKeyChecking=yes", "-o", &format!("UpdateHostKeys={switch}")]);
        ssh.args(["-o", &format!("UserKnownHostsFile={}", theirs.display()), "-i"]);
        ssh.arg(sshd.client_key_path()).args(["-p", &sshd.port().to_string(), "-l", sshd.user()]);
        let output = ssh.args(["127.0.0.1", "true"]).stdin(Stdio::null()).output().unwrap();
        let says = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(lines(&theirs), expected, "{}: ssh: {says}", case.name);
    }
}

#[test]
fn a_server_that_announces_nothing_is_left_alone() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &host);
    rig.start_daemon(&[]);
    let before = fs::read_to_string(rig.known_hosts_file()).unwrap();
    echoes(&rig, "far");
    assert_eq!(look(&rig, "far").connects, 1);
    assert_eq!(fs::read_to_string(rig.known_hosts_file()).unwrap(), before);
}
