use super::*;

fn of(code: Code, host: &str, detail: &str) -> String {
    hint(code, Some(host), detail).unwrap()
}

#[test]
fn hints_know_the_address() {
    let mut config: HostConfig = serde_json::from_value(serde_json::json!({
        "hostname": "192.0.2.1", "user": "deploy", "port": 2222
    }))
    .unwrap();
    let host = HostName::new("p").unwrap();
    assert_eq!(
        hint_for(Code::AuthFailed, &host, &config, None, "").unwrap(),
        "ssh-copy-id -p 2222 deploy@192.0.2.1; then occ reconnect --host p"
    );
    config.identity_file = Some("~/.ssh/my key".into());
    assert_eq!(
        hint_for(Code::AuthFailed, &host, &config, Some("root"), "").unwrap(),
        "ssh-copy-id -i ~/'.ssh/my key' -p 2222 root@192.0.2.1; then occ reconnect --host p"
    );
    let hint = hint_for(Code::HostKeyChanged, &host, &config, None, "").unwrap();
    assert!(hint.contains("occ trust --host p"), "{hint}");
}

#[test]
fn a_jump_host_that_is_not_configured_is_known_by_its_name() {
    for (host, copy) in [
        ("via:u@127.0.0.1:4203", "ssh-copy-id -p 4203 u@127.0.0.1; then"),
        ("via:gate", "ssh-copy-id gate; then"),
        ("via:u@far:23+gate", "put your public key into ~/.ssh/authorized_keys of u there"),
    ] {
        let hint = of(Code::AuthFailed, host, "");
        assert!(hint.starts_with(copy), "{hint}");
    }
    for code in [Code::NoIdentity, Code::IdentityInvalid] {
        let hint = of(code, "via:u@gate:23", "");
        assert!(!hint.contains("occ host edit"), "{hint}");
        assert!(hint.contains("IdentityFile KEY for gate in ~/.ssh/config"), "{hint}");
    }
}

#[test]
fn the_jump_host_that_lets_nobody_through_is_the_last_of_those_named() {
    for (names, place) in [
        ("the jump host bastion", "bastion"),
        ("waiting for the jump host near: the jump host bastion", "bastion"),
        ("the jump host via:u@gate:23+bastion", "gate"),
        ("waiting for the jump host via:u@gate+b: the jump host via:u@far", "far"),
    ] {
        let detail = format!("h: {names} does not connect to h:22: its sshd_config forbids it");
        let hint = of(Code::HostUnreachable, "h", &detail);
        assert!(hint.contains(&format!("in sshd_config of {place} decide")), "{hint}");
    }
}

#[test]
fn a_test_that_reached_nobody_leads_on() {
    assert!(after_test("h").starts_with("occ host show h; "));
    for host in ["via:u@gate:23", "via:u@gate+far"] {
        assert!(after_test(host).starts_with("ssh -G gate shows what applies; "));
    }
}

#[test]
fn where_keys_were_left_out_the_right_one_is_named() {
    for limit in [
        "3 more keys were not offered, five is the most",
        "it allowed no more tries, 1 more keys were not offered",
    ] {
        let hint = of(Code::AuthFailed, "h", &format!("h: the server refused every key; {limit}."));
        assert!(hint.starts_with("occ host edit h -i KEY"), "{hint}");
        assert!(!hint.contains("ssh-copy-id"), "{hint}");
    }
}

#[test]
fn a_setting_comes_with_its_place() {
    let detail = "x: refused; it would take \"password\": auth = [\"password\"] for this host in occd.toml allows it.";
    let hint = of(Code::AuthMethodNeeded, "via:u@h", detail);
    assert!(hint.starts_with("auth = [\"password\"] under [hosts.\"via:u@h\"] in /"), "{hint}");
    assert!(hint.ends_with("/occd.toml; then occ connect --host via:u@h"), "{hint}");
    let hint = of(Code::AuthMethodNeeded, "pw-1", detail);
    assert!(hint.contains(" under [hosts.pw-1] in "), "{hint}");
    let forbidden =
        "x: refused; it would take \"password\", which [security] passwords = false forbids.";
    let hint = of(Code::AuthMethodNeeded, "pw", forbidden);
    assert!(
        hint.starts_with(
            "passwords = true under [security], and auth = [\"password\"] under [hosts.pw] in"
        ),
        "{hint}"
    );
    let no_keys = "h: no identity file, and ssh_config allows none (PubkeyAuthentication, PreferredAuthentications).";
    let hint = of(Code::NoIdentity, "h", no_keys);
    assert!(hint.contains("[hosts.h] in /") && !hint.contains("ssh-add"), "{hint}");
}

#[test]
fn files_are_named() {
    let at = |what: &str| format!("h: the identity file /k/my key {what}.");
    let hint =
        of(Code::IdentityTooOpen, "h", &at("has mode 0644; a private key must be yours alone"));
    assert!(hint.starts_with("chmod 600 '/k/my key'; then"), "{hint}");
    let hint = of(Code::IdentityTooOpen, "h", &at("belongs to user id 7, not to you"));
    assert!(hint.starts_with("sudo chown \"$(id -un)\" '/k/my key'; "), "{hint}");
    let hint = of(Code::IdentityInvalid, "h", &at("is damaged or of an unsupported type"));
    assert!(hint.starts_with("ssh-keygen -y -f '/k/my key' checks it; occ host edit h"), "{hint}");
    let words = "h: the ssh configuration for this host cannot be used: /h/.ssh/config may be written by others, so nothing in it is used.";
    let hint = of(Code::SshConfigInvalid, "h", words);
    assert!(hint.starts_with("chmod go-w /h/.ssh/config; then"), "{hint}");
    let words = "h: ssh -G failed (exit status: 255): Bad owner or permissions on /h/.ssh/config.";
    assert_eq!(of(Code::SshConfigInvalid, "h", words), hint);
}

#[test]
fn a_certificate_of_another_time_is_looked_at_and_renewed() {
    let offered = |of: &str, why: &str| {
        format!(
            "h: the server refused every key for u; offered k with certificate a of b{of}, which {why} UTC, SHA256:x (file)."
        )
    };
    let expired = "expired on 2026-01-01 00:00";
    let hint = of(Code::AuthFailed, "h", &offered(" of /k/my c.pub", expired));
    let shows = "ssh-keygen -L -f '/k/my c.pub' shows it; whoever issued it has to renew it; then occ reconnect --host h";
    assert_eq!(hint, shows);
    let hint = of(Code::AuthFailed, "h", &offered("", expired));
    assert!(hint.starts_with("ssh-add -L | ssh-keygen -L -f - shows it; "), "{hint}");
    let early = offered(" of /c", "is not valid before 2030-01-01 00:00");
    assert!(of(Code::AuthFailed, "h", &early).contains("; check the clock here; then"));
    let refused = |why: &str| format!("h: the host certificate k SHA256:x is refused: it {why}.");
    let hint = of(Code::HostCertificate, "h", &refused("expired on 2026-01-01 00:00 UTC"));
    assert!(hint.contains("renew it (there, ssh-keygen -L -f CERT shows it)"), "{hint}");
    let hint = of(Code::HostCertificate, "h", &refused("is not valid before 2030-01-01 UTC"));
    assert!(hint.starts_with("check the clock here"), "{hint}");
}

#[test]
fn an_agent_is_mended_according_to_what_is_the_matter_with_it() {
    let of = |agent: &str| {
        let detail =
            format!("h: there is no key to log in with as u: no identity file, and {agent}.");
        of(Code::NoIdentity, "h", &detail)
    };
    for (agent, begins) in [
        (
            "the ssh-agent /a b does not answer: Connection refused (os error 111)",
            "the agent at /a b does not answer: start it, or name another (SSH_AUTH_SOCK; Id",
        ),
        ("the ssh-agent /a does not answer in time", "the agent at /a does not answer: start it"),
        (
            "the ssh-agent /a b holds no keys (is it locked?)",
            "SSH_AUTH_SOCK='/a b' ssh-add KEY puts a key into that agent, or occ host edit h",
        ),
        ("ssh_config says to use no ssh-agent", "IdentityAgent none in ssh_config is in the"),
        ("the ssh-agent is $A by ssh_config, which is not set", "give IdentityAgent in ssh_co"),
        ("occd knows no ssh-agent (SSH_AUTH_SOCK is not set)", "ssh-add KEY puts a key into"),
    ] {
        let hint = of(agent);
        assert!(hint.starts_with(begins), "{agent}: {hint}");
        assert!(hint.contains(", or occ host edit h -i KEY names a file; then"), "{hint}");
    }
}

#[test]
fn what_is_full_and_what_is_at_work_is_named() {
    let full = "h: there is no room for the sandbox: the disk is full.";
    let of_docker = "occ docker --host h -- system df shows what of Docker's takes the room";
    let hint = of(Code::ImageUnavailable, "h", full);
    assert!(hint.starts_with(of_docker) && hint.contains("occ exec --host h -- df -h"), "{hint}");
    let busy = "h: another operation (start) is at work there: 1f3c9a2b.";
    let hint = of(Code::OperationRunning, "h", busy);
    assert!(hint.ends_with("occ operations attach 1f3c9a2b follows it"), "{hint}");
}

#[test]
fn who_asks_for_a_sudo_password_is_told() {
    let asked = "h: the sudo password of alice is needed: the answers were wrong.";
    assert_eq!(of(Code::InputNeeded, "h", asked), "occ host install-docker h asks again");
    let unasked = "h: the sudo password of alice is needed: there is nobody to ask.";
    assert!(of(Code::InputNeeded, "h", unasked).starts_with("on a terminal: occ host install"));
}

#[test]
fn a_terminal_is_spoken_of_only_where_there_was_none() {
    let asked = of(Code::InputNeeded, "h", "h: a password is needed: the answer was declined.");
    assert_eq!(asked, "occ connect --host h asks again");
    let unasked = of(Code::InputNeeded, "h", "h: a password is needed: there is nobody to ask.");
    assert_eq!(unasked, "on a terminal: occ connect --host h asks");
    let elsewhere = of(Code::InputNeeded, "h", "h: a password is needed: somebody else is asked.");
    assert!(elsewhere.ends_with("asks; occ prompts shows what is asked"), "{elsewhere}");
}

#[test]
fn a_closed_socket_is_opened_according_to_whose_it_is() {
    let of = |whose: &str| {
        of(Code::DockerPermission, "h", &format!("h: permission denied on /s ({whose})."))
    };
    let joins = "sudo usermod -aG docker USER; ";
    assert_eq!(
        of("of the group docker"),
        "on h: sudo usermod -aG docker USER; then occ reconnect --host h"
    );
    let wheel = of("of the group wheel");
    assert!(wheel.contains("in /etc/docker/daemon.json") && wheel.contains(joins), "{wheel}");
    for whose in ["of the group wheel", "of the group adm", "for its owner root alone"] {
        let joined = of(&format!("{whose}; the login is in docker"));
        assert!(!joined.contains("usermod"), "{joined}");
    }
    let closed = of("for its owner root alone");
    assert!(closed.starts_with("on h: sudo chgrp docker /s; sudo chmod 660 /s opens"), "{closed}");
    assert!(closed.contains(joins), "{closed}");
    let of_another = of("for its owner eve alone");
    assert!(of_another.contains("docker_socket = \"PATH\" under [hosts.h] in /"), "{of_another}");
    assert!(!of_another.contains("sudo"), "{of_another}");
    let podman = "permission denied on /run/podman/podman.sock (of the group root).";
    let podman = super::hint(Code::DockerPermission, Some("h"), podman).unwrap();
    assert!(podman.contains("systemctl --user enable --now podman.socket"), "{podman}");
}

#[test]
fn a_host_without_docker_can_get_it() {
    let missing = "there is no Docker on this host.";
    assert_eq!(of(Code::DockerUnavailable, "h", missing), "occ host install-docker h installs it");
    assert_eq!(hint(Code::DockerUnavailable, None, missing), None);
    // It may be that nothing which occ knows starts it.
    let down = "the Docker daemon does not answer on /s: Docker is installed, but its socket is not there.";
    let start = of(Code::DockerUnavailable, "h", down);
    assert!(start.starts_with("on h: sudo systemctl start docker, where systemd"), "{start}");
    let in_vain = format!("every command went well, but Docker does not answer: {missing}");
    assert_eq!(of(Code::DockerUnavailable, "h", &in_vain), "occ host test h shows what was tried");
    assert_eq!(of(Code::DockerUnavailable, "h", "it does not answer on /s"), start);
    let wrong = "docker_socket in occd.toml names /no, which is not there.";
    let wrong = of(Code::DockerUnavailable, "h", wrong);
    // The engine may be stopped, and the setting right.
    let cure = "; if it runs, docker_socket = \"PATH\" under [hosts.h] in /";
    assert!(wrong.starts_with(&start) && wrong.contains(cure), "{wrong}");
    assert!(!start.contains("reconnect"), "a Docker that is back is found by itself: {start}");
    for code in [Code::DockerUnavailable, Code::DockerPermission, Code::DockerTooOld] {
        let here = hint(code, None, "it does not answer").unwrap();
        assert!(here.contains("on this machine") && !here.contains("HOST"), "{here}");
    }
}
