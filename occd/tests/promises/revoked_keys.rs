//! Keys that `RevokedHostKeys` names are refused as ssh refuses them, and a `KnownHostsCommand` is not passed over.

use std::path::Path;
use std::process::Command;

use occ_proto::Code;
use testkit::daemon::Target;
use testkit::keys::KeyFile;
use testkit::{DaemonRig, EmbeddedHost, RealSshd};

use crate::ask::{echoes, exec, post, problem};
use crate::certificates::ssh_trusts;

/// What the file holds, whether the host is then trusted where ssh does not decide, and the words for it if not.
struct Row {
    what: &'static str,
    /// Makes the file: KEY, CA and OTHER stand for public keys.
    revoked: &'static str,
    /// Lines of known_hosts.
    known_hosts: &'static str,
    trusted: Option<bool>,
    says: &'static str,
}

const fn row(
    what: &'static str,
    revoked: &'static str,
    known_hosts: &'static str,
    says: &'static str,
) -> Row {
    Row { what, revoked, known_hosts, trusted: None, says }
}

const ROWS: &[Row] = &[
    row("another key", "# a comment\n\n OTHER a comment\n", "HOST KEY", ""),
    row("the key", "OTHER\nKEY", "HOST KEY", "revoked:2"),
    row("the key of a certificate", "KEY", "@cert-authority * CA", "revoked:1"),
    row("the authority", "CA", "@cert-authority * CA", "revoked:1"),
    row("the authority, the key on record", "CA", "@cert-authority * CA\nHOST KEY", "revoked:1"),
    row("another authority", "OTHER", "@cert-authority * CA", ""),
    row("no file", "", "HOST KEY", "revoked, which RevokedHostKeys of ssh_config names"),
    row("a line that is no key", "OTHER\nnonsense\n", "HOST KEY", "line 2 is no public key"),
    // ssh would look into it.
    Row {
        what: "a list in binary",
        revoked: "KRL",
        known_hosts: "HOST KEY",
        trusted: Some(false),
        says: "it is a key revocation list (KRL)",
    },
];

#[test]
fn revoked_host_keys_are_refused_as_ssh_refuses_them() {
    if !RealSshd::require() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ca = KeyFile::generate(dir.path().join("ca"), "ed25519");
    let other = KeyFile::generate(dir.path().join("other"), "ed25519");
    let sshd = RealSshd::builder().host_certificate(&ca, &["-h", "-n", "127.0.0.1"]).start();
    let fill = |text: &str| {
        let text = text.replace("HOST", &format!("[127.0.0.1]:{}", sshd.port()));
        let text = text.replace("CA", &ca.public).replace("OTHER", &other.public);
        text.replace("KEY", sshd.host_public_key())
    };
    for row in ROWS {
        let mut rig = DaemonRig::new();
        let target = Target::from(&sshd);
        rig.add_host_to("far", &target.hostname, target.port, &target.user, &target.key);
        rig.add_known_host(&fill(row.known_hosts));
        let file = rig.home().join("revoked");
        match row.revoked {
            "" => {}
            "KRL" => revocation_list(&file, &other),
            text => std::fs::write(&file, fill(text)).unwrap(),
        }
        std::fs::write(rig.home().join(".ssh/config"), "RevokedHostKeys ~/revoked\n").unwrap();
        rig.start_daemon(&[]);
        let option = format!("RevokedHostKeys={}", file.display());
        let trusted = row.trusted.unwrap_or_else(|| ssh_trusts(&rig, &sshd, &[&option]));
        assert_eq!(trusted, row.says.is_empty(), "ssh: {}", row.what);
        let response = post(&rig, "/v1/hosts/far/connect");
        assert_eq!(response.status == 200, trusted, "{}: {}", row.what, response.text());
        if trusted {
            echoes(&rig, "far");
            continue;
        }
        let answer = problem(&response);
        let code = match row.says.starts_with("revoked:") {
            true => Code::HostKeyRevoked,
            false => Code::KnownHostsInvalid,
        };
        assert_eq!((answer.status, answer.code), (409, code), "{}", row.what);
        assert!(answer.detail.contains(row.says), "{}: {}", row.what, answer.detail);
    }
}

/// Makes the binary form of a list that revokes a key.
fn revocation_list(file: &Path, key: &KeyFile) {
    let mut public = key.path.as_os_str().to_owned();
    public.push(".pub");
    let made = Command::new("ssh-keygen").args(["-q", "-k", "-f"]).arg(file).arg(public).status();
    assert!(made.unwrap().success());
}

#[test]
fn an_unknown_key_is_asked_about_where_a_command_might_know_it() {
    if !RealSshd::require() {
        return;
    }
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    let target = Target::from(&host);
    rig.add_host_to("far", &target.hostname, target.port, &target.user, &target.key);
    let config = rig.home().join(".ssh/config");
    std::fs::write(&config, "KnownHostsCommand /bin/echo %H\nStrictHostKeyChecking accept-new\n")
        .unwrap();
    rig.write_config_toml("[connection]\nstrict_host_key_checking = \"accept-new\"\n");
    rig.start_daemon(&[]);
    let answer = problem(&exec(&rig, "far", &["true"]));
    assert_eq!(answer.code, Code::InputNeeded, "{answer:?}");
    let says = "is not on record (KnownHostsCommand of ssh_config is not run)";
    assert!(answer.detail.contains(says), "{answer:?}");
    assert_eq!(host.auth_attempts(), 0);
    assert!(!rig.known_hosts_file().exists());
    // One on record is as good as ever.
    rig.add_known_host(&host.known_hosts_line());
    echoes(&rig, "far");
}
