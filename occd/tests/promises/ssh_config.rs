//! The user's ssh_config applies, and hosts.json wins over it.

use std::os::unix::fs::PermissionsExt as _;

use occ_proto::status::{HostStatus, Phase, State};
use occ_proto::{Address, Code, HostConfig, HostName, UserName};
use testkit::daemon::Target;
use testkit::keys::known_hosts_line_for;
use testkit::wait::blocking::{wait_for, wait_until};
use testkit::{DaemonRig, EmbeddedHost, FaultyLink, RealSshd};

use crate::ask::{GUARD, connect, echoes, look, post, problem};

fn write_ssh_config(rig: &DaemonRig, text: &str) {
    let path = rig.home().join(".ssh/config");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Adds a host that has nothing but an address.
fn add_alias(rig: &DaemonRig, name: &str, address: &str, edit: impl FnOnce(&mut HostConfig)) {
    let mut config = HostConfig::new(Address::new(address).unwrap());
    edit(&mut config);
    rig.edit_hosts(|file| {
        file.hosts.insert(HostName::new(name).unwrap(), config);
    });
}

/// Returns the block that makes `alias` this server.
fn block(alias: &str, host: &EmbeddedHost, user: &str) -> String {
    format!(
        "Host {alias}\n  HostName 127.0.0.1\n  Port {}\n  User {user}\n  IdentityFile {}\n",
        host.port(),
        host.client_key_path().display()
    )
}

#[test]
fn an_alias_brings_address_user_port_and_key() {
    if !RealSshd::require() {
        return;
    }
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    write_ssh_config(&rig, &block("bastion", &host, "deploy"));
    add_alias(&rig, "far", "bastion", |_| {});
    rig.start_daemon(&[]);
    echoes(&rig, "far");
    let connection = look(&rig, "far").connection.unwrap();
    assert_eq!(connection.user, "deploy");
    assert_eq!(connection.peer, host.addr().to_string());
    assert!(host.offered_auth().iter().all(|offer| offer.user == "deploy"));
}

#[test]
fn the_limit_of_a_dial_counts_what_ssh_config_takes() {
    if !RealSshd::require() {
        return;
    }
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    let slow = "Match exec \"sleep 4\"\n  User deploy\n";
    write_ssh_config(&rig, &format!("{slow}{}", block("bastion", &host, "deploy")));
    add_alias(&rig, "far", "bastion", |_| {});
    rig.write_config_toml("[connection]\nconnect_timeout = \"300ms\"\nmax_retries = 1\n");
    rig.start_daemon(&[]);
    let answer = problem(&post(&rig, "/v1/hosts/far/connect"));
    assert!(answer.detail.contains("no answer within 0.3 s (resolve)"), "{answer:?}");
    assert_eq!(answer.phase, Some(Phase::Resolve));
}

#[test]
fn algorithms_compression_and_keep_alive_are_those_of_ssh_config() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let link = FaultyLink::start(sshd.addr());
    let mut rig = DaemonRig::new();
    rig.add_host("far", Target::from(&sshd).through(&link));
    let key = sshd.host_public_keys().next().unwrap();
    rig.add_known_host(&known_hosts_line_for(link.addr(), key));
    write_ssh_config(
        &rig,
        "Ciphers aes256-ctr\nMACs hmac-sha2-256\nKexAlgorithms curve25519-sha256\nCompression yes\n\
         ServerAliveInterval 1\nServerAliveCountMax 1\n",
    );
    rig.start_daemon(&[]);
    echoes(&rig, "far");
    let shown = look(&rig, "far").connection.unwrap();
    assert_eq!((shown.cipher.as_str(), shown.kex.as_str()), ("aes256-ctr", "curve25519-sha256"));
    assert_eq!((shown.mac.as_deref(), shown.post_quantum), (Some("hmac-sha2-256"), false));
    assert!(shown.compressed, "{shown:?}");
    // Compressed both ways and exact: far less on the wire than was read.
    let bytes = rig.occ_ok(&["exec", "--host", "far", "--", "head", "-c", "3000000", "/dev/zero"]);
    assert_eq!((bytes.len(), bytes.trim_matches('\0').len()), (3_000_000, 0));
    assert!(look(&rig, "far").connection.unwrap().bytes_in < 300_000);
    // Within 2 s where the default would take 45.
    link.blackhole(true);
    let within = std::time::Duration::from_secs(20);
    let lost = |status: &HostStatus| status.state != State::Connected;
    let error = wait_until("the death", within, || look(&rig, "far"), lost).last_error.unwrap();
    assert!(error.message.contains("keep-alive"), "{error:?}");
    link.blackhole(false);

    write_ssh_config(&rig, "MACs umac-64@openssh.com\n");
    let answer = problem(&post(&rig, "/v1/hosts/far/reconnect"));
    assert_eq!((answer.status, answer.code), (409, Code::SshConfigInvalid), "{answer:?}");
    assert!(answer.detail.contains("sets MACs to umac-64@openssh.com"), "{answer:?}");

    // occd.toml wins over ssh_config.
    write_ssh_config(&rig, "Compression yes\n");
    rig.write_config_toml("[connection]\ncompression = \"off\"\n");
    wait_for("occd.toml to be read", GUARD, || {
        assert_eq!(post(&rig, "/v1/hosts/far/reconnect").status, 200);
        // New settings are a new dial: there may be no connection at the moment.
        look(&rig, "far").connection.is_some_and(|shown| !shown.compressed).then_some(())
    });
}

#[test]
fn a_change_of_ssh_config_counts_from_the_next_dial_on() {
    if !RealSshd::require() {
        return;
    }
    let (first, second) = (EmbeddedHost::start(), EmbeddedHost::start());
    let mut rig = DaemonRig::new();
    write_ssh_config(&rig, &block("alias", &first, "one"));
    add_alias(&rig, "far", "alias", |_| {});
    rig.start_daemon(&[]);
    assert_eq!(connect(&rig, "far").connection.unwrap().user, "one");
    write_ssh_config(&rig, &block("alias", &second, "two"));
    assert_eq!(post(&rig, "/v1/hosts/far/reconnect").status, 200);
    let connection = look(&rig, "far").connection.unwrap();
    assert_eq!((connection.user.as_str(), connection.peer), ("two", second.addr().to_string()));
}

#[test]
fn hosts_json_wins_over_ssh_config() {
    if !RealSshd::require() {
        return;
    }
    let (right, wrong) = (EmbeddedHost::start(), EmbeddedHost::start());
    let mut rig = DaemonRig::new();
    write_ssh_config(&rig, &block("alias", &wrong, "theirs"));
    add_alias(&rig, "far", "alias", |config| {
        config.user = Some(UserName::new("ours").unwrap());
        config.port = Some(right.port());
        config.identity_file = Some(right.client_key_path().display().to_string());
    });
    rig.start_daemon(&[]);
    echoes(&rig, "far");
    let connection = look(&rig, "far").connection.unwrap();
    assert_eq!((connection.user.as_str(), connection.peer), ("ours", right.addr().to_string()));
    assert!(connection.auth.contains(right.client_key_path().to_str().unwrap()));
    assert_eq!(wrong.connections(), 0);
}

#[test]
fn without_the_ssh_program_hosts_json_alone_is_enough() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.set_env("PATH", rig.root().join("empty"));
    rig.add_host("far", &host);
    rig.start_daemon(&[]);
    echoes(&rig, "far");
    assert_eq!(rig.occ_ok(&["exec", "--host", "far", "--", "echo", "hi"]), "hi\n");
}

#[test]
fn a_mistake_in_ssh_config_is_told_in_one_sentence() {
    if !RealSshd::require() {
        return;
    }
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &host);
    write_ssh_config(&rig, "Host *\n  NoSuchOption yes\n");
    rig.start_daemon(&[]);
    let answer = problem(&post(&rig, "/v1/hosts/far/connect"));
    assert_eq!((answer.status, answer.code), (409, Code::SshConfigInvalid));
    assert!(answer.detail.to_lowercase().contains("nosuchoption"), "{answer:?}");
    assert!(answer.detail.contains("line 2"), "{answer:?}");
    assert_eq!(host.connections(), 0);
    write_ssh_config(&rig, "");
    echoes(&rig, "far");
}

#[test]
fn an_included_file_that_others_can_write_is_not_obeyed() {
    if !RealSshd::require() {
        return;
    }
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &host);
    let included = rig.home().join("included");
    let ran = rig.root().join("ran");
    let text = format!("Match exec \"touch {}\"\n  User nobody\n", ran.display());
    std::fs::write(&included, text).unwrap();
    std::fs::set_permissions(&included, std::fs::Permissions::from_mode(0o666)).unwrap();
    write_ssh_config(&rig, &format!("Include {}\n", included.display()));
    rig.start_daemon(&[]);
    // ssh looks at those itself, also where it was given the file that names them.
    let answer = problem(&post(&rig, "/v1/hosts/far/connect"));
    assert_eq!((answer.status, answer.code), (409, Code::SshConfigInvalid), "{answer:?}");
    assert!(answer.detail.contains("Bad owner or permissions"), "{answer:?}");
    assert!(!ran.exists());
}

#[test]
fn a_connection_comes_from_the_address_that_is_asked_for() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &sshd);
    write_ssh_config(&rig, "BindAddress 127.0.0.5\n");
    rig.start_daemon(&[]);
    echoes(&rig, "far");
    assert!(sshd.log().contains("Accepted publickey for "), "{}", sshd.log());
    assert!(sshd.log().contains(" from 127.0.0.5 port "), "{}", sshd.log());
    // A name is looked up, and its addresses of the server's family count.
    write_ssh_config(&rig, "BindAddress localhost\n");
    assert_eq!(post(&rig, "/v1/hosts/far/reconnect").status, 200);
    assert!(sshd.log().contains(" from 127.0.0.1 port "), "{}", sshd.log());
    write_ssh_config(&rig, "BindAddress ::1\n");
    let answer = problem(&post(&rig, "/v1/hosts/far/reconnect"));
    assert!(answer.detail.contains("AddressFamily or BindAddress of ssh_config"), "{answer:?}");
    write_ssh_config(&rig, "AddressFamily inet6\n");
    let answer = problem(&post(&rig, "/v1/hosts/far/reconnect"));
    assert!(answer.detail.contains("AddressFamily or BindAddress of ssh_config"), "{answer:?}");
}

#[test]
fn a_hash_of_the_connection_in_a_file_name_is_what_ssh_replaces_it_by_or_an_error() {
    if !RealSshd::require() {
        return;
    }
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    let target = Target::from(&host);
    rig.add_host_to("far", &target.hostname, target.port, &target.user, &target.key);
    write_ssh_config(&rig, "UserKnownHostsFile ~/.ssh/known-%C\n");
    rig.start_daemon(&[]);
    echoes(&rig, "far");
    let names = std::fs::read_dir(rig.home().join(".ssh")).unwrap();
    let names: Vec<_> =
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let is_hash = |name: &String| {
        let hash = name.strip_prefix("known-").unwrap_or_default();
        hash.len() == 40 && hash.chars().all(|c| c.is_ascii_hexdigit())
    };
    assert!(names.iter().any(is_hash), "{names:?}");
    for option in ["IdentityFile", "CertificateFile", "RevokedHostKeys", "ProxyCommand"] {
        write_ssh_config(&rig, &format!("{option} /nowhere/%C\n"));
        let answer = problem(&post(&rig, "/v1/hosts/far/reconnect"));
        assert_eq!(answer.code, Code::SshConfigInvalid, "{option}: {answer:?}");
    }
}

#[test]
fn a_server_with_nothing_but_hmac_sha1_is_reached_as_by_ssh() {
    if !RealSshd::require() {
        return;
    }
    for mac in ["hmac-sha1", "hmac-sha1-etm@openssh.com"] {
        let sshd = RealSshd::builder().config(format!("MACs {mac}")).config("Ciphers aes128-ctr");
        let sshd = sshd.start();
        let mut rig = DaemonRig::new();
        rig.add_host("far", &sshd);
        rig.start_daemon(&[]);
        echoes(&rig, "far");
        assert_eq!(look(&rig, "far").connection.unwrap().mac.as_deref(), Some(mac));
        for (set, is_had) in [
            ("-hmac-sha1*", false),
            ("+hmac-sha1", true),
            ("^hmac-sha1,hmac-sha1-etm@openssh.com", true),
        ] {
            write_ssh_config(&rig, &format!("MACs {set}\n"));
            let answer = post(&rig, "/v1/hosts/far/reconnect");
            assert_eq!(answer.status == 200, is_had, "{mac}, {set}: {}", answer.text());
        }
    }
}
