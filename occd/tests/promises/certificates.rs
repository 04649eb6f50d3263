//! OpenSSH certificates, of users and of hosts, against a real sshd and beside a real ssh.

use std::path::Path;
use std::process::Command;

use occ_proto::Code;
use occ_proto::status::Phase;
use testkit::daemon::Target;
use testkit::keys::KeyFile;
use testkit::{DaemonRig, RealSshd};

use crate::ask::{connect, echoes, look, post, problem};

/// A server that trusts an authority for its users and no key by itself.
struct ByAuthority {
    _dir: tempfile::TempDir,
    ca: KeyFile,
    sshd: RealSshd,
}

impl ByAuthority {
    fn start() -> Option<Self> {
        if !RealSshd::require() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let ca = KeyFile::generate(dir.path().join("ca"), "ed25519");
        let trust = format!("TrustedUserCAKeys {}.pub", ca.path.display());
        let sshd = RealSshd::builder().config(trust).start();
        std::fs::write(sshd.authorized_keys_path(), "").unwrap();
        Some(Self { _dir: dir, ca, sshd })
    }

    fn user(&self) -> &str {
        self.sshd.user()
    }
}

fn add(rig: &DaemonRig, sshd: &RealSshd, key: Option<&Path>) {
    rig.add_host("far", sshd);
    rig.edit_hosts(|file| {
        file.hosts.get_mut("far").unwrap().identity_file = key.map(|key| key.display().to_string());
    });
}

#[test]
fn a_certificate_beside_the_key_logs_in() {
    let Some(server) = ByAuthority::start() else { return };
    for kind in ["ed25519", "ecdsa"] {
        let mut rig = DaemonRig::new();
        let key = KeyFile::generate(rig.home().join("key"), kind);
        add(&rig, &server.sshd, Some(&key.path));
        rig.start_daemon(&[]);
        // The bare key is not enough.
        assert_eq!(problem(&post(&rig, "/v1/hosts/far/connect")).code, Code::AuthFailed);
        key.certify(&server.ca, &["-n", server.user()]);
        assert_eq!(post(&rig, "/v1/hosts/far/connect").status, 200, "{kind}");
        let auth = look(&rig, "far").connection.unwrap().auth;
        assert!(auth.contains("with certificate a-certificate"), "{auth}");
    }
}

#[test]
fn certificates_come_from_ssh_config_and_from_the_agent() {
    let Some(server) = ByAuthority::start() else { return };
    let mut rig = DaemonRig::new();
    let key = KeyFile::generate(rig.home().join("key"), "ed25519");
    let elsewhere = rig.home().join("elsewhere.pub");
    std::fs::rename(key.certify(&server.ca, &["-n", server.user()]), &elsewhere).unwrap();
    add(&rig, &server.sshd, None);
    let config = format!(
        "IdentityFile {}\nCertificateFile {}\nIdentitiesOnly yes\n",
        key.path.display(),
        elsewhere.display()
    );
    std::fs::write(rig.home().join(".ssh/config"), config).unwrap();
    rig.start_daemon(&[]);
    echoes(&rig, "far");

    // ssh-add takes the certificate beside a key along. RSA too: an agent is told the hash.
    std::fs::write(rig.home().join(".ssh/config"), "").unwrap();
    let rsa = KeyFile::generate(rig.home().join("rsa"), "rsa");
    rsa.certify(&server.ca, &["-n", server.user()]);
    let agent = crate::auth::Agent::start(&mut rig);
    agent.add(&rsa.path);
    rig.occ_ok(&["reconnect", "--host", "far"]);
    let auth = look(&rig, "far").connection.unwrap().auth;
    assert!(auth.contains("with certificate") && auth.contains("(agent)"), "{auth}");
}

#[test]
fn a_certificate_of_another_time_is_said_to_be() {
    let Some(server) = ByAuthority::start() else { return };
    let mut rig = DaemonRig::new();
    let key = KeyFile::generate(rig.home().join("key"), "ed25519");
    let day = |days: i64| {
        let at = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * days);
        at.strftime("%F ").to_string()
    };
    for (time, note) in [
        ("-2d:-1d", format!("expired on {}", day(-1))),
        ("+1d:+2d", format!("is not valid before {}", day(1))),
    ] {
        key.certify(&server.ca, &["-n", server.user(), "-V", time]);
        if time == "-2d:-1d" {
            add(&rig, &server.sshd, Some(&key.path));
            rig.start_daemon(&[]);
        }
        let answer = problem(&post(&rig, "/v1/hosts/far/connect"));
        // Also where the server would take a password: it is the certificate that is to be mended.
        assert_eq!(answer.code, Code::AuthFailed);
        let file = rig.home().join("key-cert.pub");
        let says = format!("with certificate a-certificate of {}, which {note}", file.display());
        assert!(answer.detail.contains(&says), "{answer:?}");
        // Set off from what follows.
        assert!(answer.detail.contains(" UTC, SHA256:"), "{answer:?}");
        let said = rig.run_occ(&["connect", "--host", "far"]).stderr;
        let hint = format!("ssh-keygen -L -f {} shows it", file.display());
        assert!(said.contains(&hint) && !said.contains("ssh-copy-id"), "{said}");
        let said = rig.run_occ(&["status", "--host", "far"]).stderr;
        assert!(said.contains(&hint) && !said.contains("ssh-copy-id"), "{said}");
    }
    key.certify(&server.ca, &["-n", "alice,bob", "-V", "-2d:-1d"]);
    let answer = problem(&post(&rig, "/v1/hosts/far/connect"));
    let says = format!(" UTC and is for alice, bob and not for {}, SHA256:", server.user());
    assert!(answer.detail.contains(&says), "{answer:?}");
    // For somebody else, or by an authority that the server does not know: no other key would help.
    let stranger = KeyFile::generate(rig.home().join("stranger"), "ed25519");
    for (ca, user) in [(&server.ca, "alice"), (&stranger, server.user())] {
        key.certify(ca, &["-n", user]);
        let said = rig.run_occ(&["reconnect", "--host", "far"]).stderr;
        let file = rig.home().join("key-cert.pub");
        let hint = format!("hint: ssh-keygen -L -f {} shows it; whoever issued it", file.display());
        assert!(said.contains(&hint) && !said.contains("ssh-copy-id"), "{said}");
    }
    // A new one, and a command asks: it works at once.
    key.certify(&server.ca, &["-n", server.user()]);
    echoes(&rig, "far");
}

#[test]
fn a_certificate_file_that_is_of_no_use_is_named_when_the_login_fails() {
    let Some(server) = ByAuthority::start() else { return };
    let mut rig = DaemonRig::new();
    let [key, other] = ["key", "other"].map(|name| {
        let key = KeyFile::generate(rig.home().join(name), "ed25519");
        let of = key.certify(&server.ca, &["-n", server.user()]);
        (key, of)
    });
    let good = rig.home().join("good.pub");
    std::fs::rename(&key.1, &good).unwrap();
    let garbage = rig.home().join("garbage.pub");
    std::fs::write(&garbage, "ssh-ed25519-cert-v01@openssh.com AAAA\n").unwrap();
    let missing = rig.home().join("missing.pub");
    add(&rig, &server.sshd, Some(&key.0.path));
    rig.start_daemon(&[]);
    let configure = |certificate: &Path| {
        let text = format!("CertificateFile {}\n", certificate.display());
        std::fs::write(rig.home().join(".ssh/config"), text).unwrap();
    };
    for (certificate, says) in [
        (&missing, "No such file or directory"),
        (&garbage, "it is not an OpenSSH certificate"),
        (&other.1, "it is for none of the keys"),
    ] {
        configure(certificate);
        let answer = problem(&post(&rig, "/v1/hosts/far/connect"));
        assert_eq!(answer.code, Code::AuthFailed, "{answer:?}");
        let says = format!("; the certificate {} cannot be used: {says}", certificate.display());
        assert!(answer.detail.contains(&says), "{says}: {answer:?}");
    }
    // Beside its key, and of the wrong kind.
    configure(&good);
    let beside = key.0.certify(&server.ca, &["-h", "-n", server.user()]);
    std::fs::copy(&beside, &good).unwrap();
    let answer = problem(&post(&rig, "/v1/hosts/far/connect"));
    let says = format!("{} cannot be used: it is a host's certificate", beside.display());
    assert!(answer.detail.contains(&says), "{answer:?}");
    std::fs::remove_file(&beside).unwrap();
    std::fs::rename(key.0.certify(&server.ca, &["-n", server.user()]), &good).unwrap();
    assert_eq!(post(&rig, "/v1/hosts/far/connect").status, 200);
}

/// What a certificate is like, what known_hosts says, and whether the server is then trusted.
#[derive(Debug, Clone, Copy)]
struct Row {
    what: &'static str,
    /// Arguments of `ssh-keygen -s`.
    certificate: &'static [&'static str],
    /// Lines of known_hosts: CA, OTHER and KEY stand for public keys, HOST for the server's name there.
    known_hosts: &'static str,
    /// `None`: as ssh decides. `Some`: we are stricter on purpose.
    trusted: Option<bool>,
}

const ROWS: &[Row] = &[
    Row {
        what: "good",
        certificate: &["-h", "-n", "127.0.0.1"],
        known_hosts: "@cert-authority HOST CA",
        trusted: None,
    },
    Row {
        what: "several principals",
        certificate: &["-h", "-n", "a,127.0.0.1"],
        known_hosts: "@cert-authority * CA",
        trusted: None,
    },
    Row {
        what: "a principal with a wildcard",
        certificate: &["-h", "-n", "127.0.*"],
        known_hosts: "@cert-authority HOST CA",
        trusted: None,
    },
    Row {
        what: "another principal",
        certificate: &["-h", "-n", "other"],
        known_hosts: "@cert-authority * CA",
        trusted: None,
    },
    Row {
        what: "no principal",
        certificate: &["-h"],
        known_hosts: "@cert-authority * CA",
        trusted: Some(false),
    },
    Row {
        what: "expired",
        certificate: &["-h", "-n", "127.0.0.1", "-V", "-2d:-1d"],
        known_hosts: "@cert-authority * CA",
        trusted: None,
    },
    Row {
        what: "not yet valid",
        certificate: &["-h", "-n", "127.0.0.1", "-V", "+1d:+2d"],
        known_hosts: "@cert-authority * CA",
        trusted: None,
    },
    Row {
        what: "revoked authority",
        certificate: &["-h", "-n", "127.0.0.1"],
        known_hosts: "@cert-authority * CA\n@revoked * CA",
        trusted: None,
    },
    Row {
        what: "revoked key",
        certificate: &["-h", "-n", "127.0.0.1"],
        known_hosts: "@cert-authority * CA\n@revoked * KEY",
        trusted: None,
    },
    Row {
        what: "authority of another host",
        certificate: &["-h", "-n", "127.0.0.1"],
        known_hosts: "@cert-authority elsewhere CA",
        trusted: None,
    },
    Row {
        what: "an authority of the name without the port",
        certificate: &["-h", "-n", "127.0.0.1"],
        known_hosts: "@cert-authority 127.0.* CA",
        trusted: None,
    },
    Row {
        what: "an authority of the name without the port, another key on record with it",
        certificate: &["-h", "-n", "127.0.0.1"],
        known_hosts: "@cert-authority 127.0.0.1 CA\nHOST OTHER",
        trusted: None,
    },
    Row {
        what: "expired, the key on record",
        certificate: &["-h", "-n", "127.0.0.1", "-V", "-2d:-1d"],
        known_hosts: "@cert-authority * CA\nHOST KEY",
        trusted: None,
    },
    Row {
        what: "another principal, another key on record",
        certificate: &["-h", "-n", "other"],
        known_hosts: "@cert-authority * CA\nHOST OTHER",
        trusted: None,
    },
    Row {
        what: "revoked authority, the key on record",
        certificate: &["-h", "-n", "127.0.0.1"],
        known_hosts: "@cert-authority * CA\n@revoked * CA\nHOST KEY",
        trusted: None,
    },
    Row {
        what: "another authority",
        certificate: &["-h", "-n", "127.0.0.1"],
        known_hosts: "@cert-authority * OTHER",
        trusted: None,
    },
    Row {
        what: "another authority, the key on record",
        certificate: &["-h", "-n", "127.0.0.1"],
        known_hosts: "@cert-authority * OTHER\nHOST KEY",
        trusted: None,
    },
    Row {
        what: "no authority, the key on record",
        certificate: &["-h", "-n", "127.0.0.1"],
        known_hosts: "HOST KEY",
        trusted: None,
    },
    Row {
        what: "a line that is not an authority's",
        certificate: &["-h", "-n", "127.0.0.1"],
        known_hosts: "* CA",
        trusted: None,
    },
];

/// Those of an authority with an RSA key, which may sign with SHA-1.
const RSA_ROWS: &[Row] = &[
    Row {
        what: "RSA with SHA-2",
        certificate: &["-h", "-n", "127.0.0.1", "-t", "rsa-sha2-256"],
        known_hosts: "@cert-authority * CA",
        trusted: None,
    },
    Row {
        what: "RSA with SHA-1",
        certificate: &["-h", "-n", "127.0.0.1", "-t", "ssh-rsa"],
        known_hosts: "@cert-authority * CA",
        trusted: None,
    },
    Row {
        what: "RSA with SHA-1, the key on record",
        certificate: &["-h", "-n", "127.0.0.1", "-t", "ssh-rsa"],
        known_hosts: "@cert-authority * CA\nHOST KEY",
        trusted: None,
    },
];

/// Returns whether the real ssh trusts the server with these files, and logs in.
pub(crate) fn ssh_trusts(rig: &DaemonRig, sshd: &RealSshd, options: &[&str]) -> bool {
    let known = format!("UserKnownHostsFile={}", rig.known_hosts_file().display());
    let output = Command::new("ssh")
        .args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"])
        .args(["-o", &known, "-o", "GlobalKnownHostsFile=/dev/null", "-i"])
        .arg(sshd.client_key_path())
        .args(["-p", &sshd.port().to_string()])
        .args(options.iter().flat_map(|option| ["-o", option]))
        .arg(format!("{}@127.0.0.1", sshd.user()))
        .arg("true")
        .output()
        .unwrap();
    output.status.success()
}

#[test]
fn host_certificates_are_trusted_as_ssh_trusts_them() {
    follow_ssh("ed25519", ROWS, &[]);
}

#[test]
fn the_signatures_of_authorities_are_those_that_ssh_takes() {
    follow_ssh("rsa", RSA_ROWS, &[]);
    // A list of the user's may be longer, and shorter.
    follow_ssh("rsa", &RSA_ROWS[1..2], &["CASignatureAlgorithms=+ssh-rsa"]);
    follow_ssh("ed25519", &ROWS[..1], &["CASignatureAlgorithms=rsa-sha2-512"]);
}

#[test]
fn host_key_algorithms_say_whether_certificates_are_taken() {
    let named = |names: &[&str]| -> Vec<Row> {
        let rows = ROWS.iter().filter(|row| names.contains(&row.what));
        rows.copied().collect()
    };
    let rows = named(&["good", "another principal", "no authority, the key on record"]);
    assert_eq!(rows.len(), 3);
    for list in ["ssh-ed25519-cert-v01@openssh.com", "ssh-ed25519", "-ssh-ed25519", "+ssh-rsa"] {
        follow_ssh("ed25519", &rows, &[&format!("HostKeyAlgorithms={list}")]);
    }
}

/// Compares us with the real ssh in each row, with these options of ssh_config.
fn follow_ssh(kind: &str, rows: &[Row], options: &[&str]) {
    if !RealSshd::require() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ca = KeyFile::generate(dir.path().join("ca"), kind);
    let other = KeyFile::generate(dir.path().join("other"), "ed25519");
    for row in rows {
        let sshd = RealSshd::builder().host_certificate(&ca, row.certificate).start();
        let mut rig = DaemonRig::new();
        let target = Target::from(&sshd);
        rig.add_host_to("far", &target.hostname, target.port, &target.user, &target.key);
        let lines = row
            .known_hosts
            .replace("HOST", &format!("[127.0.0.1]:{}", sshd.port()))
            .replace("CA", &ca.public)
            .replace("OTHER", &other.public)
            .replace("KEY", sshd.host_public_key());
        rig.add_known_host(&lines);
        let config = format!("StrictHostKeyChecking yes\n{}\n", options.join("\n"));
        std::fs::write(rig.home().join(".ssh/config"), config).unwrap();
        rig.start_daemon(&[]);
        let trusted = row.trusted.unwrap_or_else(|| ssh_trusts(&rig, &sshd, options));
        let response = post(&rig, "/v1/hosts/far/connect");
        assert_eq!(response.status == 200, trusted, "{}: {}", row.what, response.text());
        if trusted {
            echoes(&rig, "far");
        } else {
            let answer = problem(&response);
            let of_authority = answer.detail.contains("the certificate authority ");
            assert_eq!(of_authority, row.what.starts_with("revoked authority"), "{answer:?}");
            assert_eq!((answer.status, answer.phase), (409, Some(Phase::HostKey)), "{}", row.what);
        }
        // Nothing is recorded for a host that a certificate vouches for.
        let known = std::fs::read_to_string(rig.known_hosts_file()).unwrap();
        assert_eq!(known.trim_end(), lines, "{}", row.what);
    }
}

#[test]
fn a_certificate_is_shown_with_its_authority() {
    if !RealSshd::require() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ca = KeyFile::generate(dir.path().join("ca"), "ed25519");
    let sshd = RealSshd::builder().host_certificate(&ca, &["-h", "-n", "127.0.0.1"]).start();
    let mut rig = DaemonRig::new();
    let target = Target::from(&sshd);
    rig.add_host_to("far", &target.hostname, target.port, &target.user, &target.key);
    rig.add_known_host(&format!("@cert-authority * {}", ca.public));
    rig.start_daemon(&[]);
    let shown = connect(&rig, "far").connection.unwrap().host_key;
    let (key, authority) = shown.split_once(", certificate by ").unwrap();
    // There is nothing to record, and whose word it is is said.
    let before = std::fs::read_to_string(rig.known_hosts_file()).unwrap();
    let trust = rig.occ_ok(&["trust", "--host", "far"]);
    let says = format!(
        "The server shows {key}, for which the certificate authority {authority} of known_hosts vouches."
    );
    assert!(authority.starts_with("SHA256:") && trust.contains(&says), "{says}: {trust}");
    assert_eq!(std::fs::read_to_string(rig.known_hosts_file()).unwrap(), before);
}

#[test]
fn a_key_whose_certificate_is_not_good_can_be_put_on_record() {
    if !RealSshd::require() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ca = KeyFile::generate(dir.path().join("ca"), "ed25519");
    let old = ["-h", "-n", "127.0.0.1", "-V", "-2d:-1d"];
    let sshd = RealSshd::builder().host_certificate(&ca, &old).start();
    let mut rig = DaemonRig::new();
    let target = Target::from(&sshd);
    rig.add_host_to("far", &target.hostname, target.port, &target.user, &target.key);
    rig.add_known_host(&format!("@cert-authority * {}", ca.public));
    rig.start_daemon(&[]);
    assert_eq!(problem(&post(&rig, "/v1/hosts/far/connect")).code, Code::HostCertificate);
    let review = rig.http("GET", "/v1/hosts/far/trust", &[], None);
    assert_eq!(review.status, 200, "{}", review.text());
    let review = review.json();
    let (_, fingerprint) = review["shown"].as_str().unwrap().rsplit_once(' ').unwrap();
    let asked = rig.run_occ(&["trust", "--host", "far"]).stderr;
    assert!(asked.contains("is by an authority on record, and refused: it expired on "), "{asked}");
    assert!(asked.contains("that authority, and no key"), "{asked}");
    rig.occ_ok(&["trust", "--host", "far", "--fingerprint", fingerprint]);
    echoes(&rig, "far");
}
