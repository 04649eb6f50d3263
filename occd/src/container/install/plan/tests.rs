//! Plans for systems as their os-release files have them.

use super::*;
use crate::container::install::look;

const DEBIAN_12: &str = r#"PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
NAME="Debian GNU/Linux"
VERSION_ID="12"
VERSION="12 (bookworm)"
VERSION_CODENAME=bookworm
ID=debian
HOME_URL="https://www.debian.org/"
"#;
const UBUNTU_24_04: &str = r#"PRETTY_NAME="Ubuntu 24.04.1 LTS"
NAME="Ubuntu"
VERSION_ID="24.04"
VERSION="24.04.1 LTS (Noble Numbat)"
VERSION_CODENAME=noble
ID=ubuntu
ID_LIKE=debian
HOME_URL="https://www.ubuntu.com/"
UBUNTU_CODENAME=noble
"#;
const FEDORA_41: &str = r#"NAME="Fedora Linux"
VERSION="41 (Server Edition)"
RELEASE_TYPE=stable
ID=fedora
VERSION_ID=41
VERSION_CODENAME=""
PLATFORM_ID="platform:f41"
PRETTY_NAME="Fedora Linux 41 (Server Edition)"
ANSI_COLOR="0;38;2;60;110;180"
VARIANT="Server Edition"
VARIANT_ID=server
"#;
const ROCKY_9: &str = r#"NAME="Rocky Linux"
VERSION="9.5 (Blue Onyx)"
ID="rocky"
ID_LIKE="rhel centos fedora"
VERSION_ID="9.5"
PLATFORM_ID="platform:el9"
PRETTY_NAME="Rocky Linux 9.5 (Blue Onyx)"
"#;
const AMAZON_2023: &str = r#"NAME="Amazon Linux"
VERSION="2023"
ID="amzn"
ID_LIKE="fedora"
VERSION_ID="2023"
PLATFORM_ID="platform:al2023"
PRETTY_NAME="Amazon Linux 2023.6.20241212"
"#;
const ALPINE_3_20: &str = r#"NAME="Alpine Linux"
ID=alpine
VERSION_ID=3.20.3
PRETTY_NAME="Alpine Linux v3.20"
HOME_URL="https://alpinelinux.org/"
"#;
const ARCH: &str = r#"NAME="Arch Linux"
PRETTY_NAME="Arch Linux"
ID=arch
BUILD_ID=rolling
ANSI_COLOR="38;2;23;147;209"
"#;
const LEAP: &str = r#"NAME="openSUSE Leap"
VERSION="15.6"
ID="opensuse-leap"
ID_LIKE="suse opensuse"
VERSION_ID="15.6"
PRETTY_NAME="openSUSE Leap 15.6"
"#;
const TUMBLEWEED: &str = r#"NAME="openSUSE Tumbleweed"
# VERSION="20241211"
ID="opensuse-tumbleweed"
ID_LIKE="opensuse suse"
VERSION_ID="20241211"
PRETTY_NAME="openSUSE Tumbleweed"
"#;
const VOID: &str = "NAME=\"Void\"\nID=\"void\"\nPRETTY_NAME=\"Void Linux\"\n";
const COREOS: &str =
    "ID=fedora\nVERSION_ID=41\nVARIANT_ID=coreos\nPRETTY_NAME=\"Fedora CoreOS 41\"\n";

/// Returns what a host with that file says, of a login that sudo asks for its password.
fn facts(os: &str, more: &str) -> Facts {
    let os: String = os.lines().map(|line| format!("os={line}\n")).collect();
    let text = format!("uid=1000\nuser=alice\nmember=alice\nhas=sudo\n{more}{os}end=1\n");
    look::parse(&text).unwrap()
}

fn plan(os: &str, more: &str) -> Plan {
    Plan::new(&facts(os, more), &Now::Silent).unwrap()
}

fn commands(os: &str, more: &str) -> Vec<String> {
    plan(os, more).setup.commands
}

const SYSTEMD: &str = "init=systemd\n";

#[test]
fn each_family_has_its_commands() {
    let enable = "sudo systemctl enable --now docker";
    let member = "sudo usermod -aG docker alice";
    let debian = [
        "sudo env DEBIAN_FRONTEND=noninteractive apt-get update",
        "sudo env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 install -y docker.io",
        enable,
        member,
    ];
    assert_eq!(commands(DEBIAN_12, SYSTEMD), debian);
    assert_eq!(commands(UBUNTU_24_04, SYSTEMD), debian);
    for (os, install) in [
        (FEDORA_41, "sudo dnf -y install moby-engine"),
        (AMAZON_2023, "sudo dnf -y install docker"),
        (ARCH, "sudo pacman -Sy --noconfirm --needed docker"),
        (LEAP, "sudo zypper --non-interactive install docker"),
        (TUMBLEWEED, "sudo zypper --non-interactive install docker"),
    ] {
        assert_eq!(commands(os, SYSTEMD), [install, enable, member], "{os}");
    }
    assert_eq!(
        commands(ROCKY_9, SYSTEMD),
        [
            "sudo dnf -y install dnf-plugins-core",
            "sudo dnf config-manager --add-repo https://download.docker.com/linux/centos/docker-ce.repo",
            "sudo dnf -y install docker-ce docker-ce-cli containerd.io",
            enable,
            member,
        ]
    );
    assert_eq!(
        commands(ALPINE_3_20, "init=openrc\n"),
        [
            "sudo apk add docker",
            "sudo rc-update add docker default",
            "sudo service docker start",
            "sudo addgroup alice docker",
        ]
    );
}

#[test]
fn what_is_chosen_is_said() {
    let families = [
        (DEBIAN_12, Family::Debian),
        (UBUNTU_24_04, Family::Debian),
        (FEDORA_41, Family::Rhel),
        (ROCKY_9, Family::Rhel),
        (AMAZON_2023, Family::Rhel),
        (ALPINE_3_20, Family::Alpine),
        (ARCH, Family::Arch),
        (LEAP, Family::Suse),
        (TUMBLEWEED, Family::Suse),
    ];
    for (os, family) in families {
        assert_eq!(plan(os, SYSTEMD).setup.family, family, "{os}");
    }
    let notes = |os| plan(os, SYSTEMD).setup.notes.join("\n");
    assert!(notes(ROCKY_9).contains("Rocky Linux 9.5 (Blue Onyx) has no package of Docker"));
    assert!(notes(FEDORA_41).contains("moby-engine"));
    let setup = plan(DEBIAN_12, SYSTEMD).setup;
    assert_eq!((setup.os.as_str(), setup.sudo), ("Debian GNU/Linux 12 (bookworm)", Sudo::Password));
    // Nothing starts it.
    let other = plan(DEBIAN_12, "");
    assert!(!other.is_started && other.setup.notes[0].contains("nothing starts Docker"));
    assert_eq!(other.setup.commands.len(), 3);
    // Its package may do so; where that is there already, nobody waits for what does not come.
    assert!(other.may_come && !plan(DEBIAN_12, "has=dockerd\n").may_come);
}

#[test]
fn another_version_of_a_family_has_its_own() {
    let older = |os: &str, from, to| commands(&os.replace(from, to), SYSTEMD)[0].clone();
    assert_eq!(
        older(AMAZON_2023, "\"2023\"", "\"2\""),
        "sudo amazon-linux-extras install -y docker"
    );
    assert_eq!(older(ROCKY_9, "\"9.5\"", "\"7.9\""), "sudo yum -y install yum-utils");
    let rhel = commands("ID=rhel\nID_LIKE=\"fedora\"\nVERSION_ID=\"9.4\"\n", SYSTEMD);
    assert!(rhel[1].ends_with("https://download.docker.com/linux/rhel/docker-ce.repo"), "{rhel:?}");
    let resumed = commands(DEBIAN_12, "init=systemd\ndpkg=interrupted\n");
    assert_eq!(resumed[0], "sudo env DEBIAN_FRONTEND=noninteractive dpkg --configure -a");
}

#[test]
fn what_is_not_known_is_not_tried() {
    let refused = |os| Plan::new(&facts(os, SYSTEMD), &Now::Silent).unwrap_err().to_string();
    assert_eq!(refused(VOID), "how Docker is installed on Void Linux is not known");
    assert!(refused(COREOS).ends_with("its packages are part of an image"));
    assert!(refused("").contains("a system without a name"));
    // Where it is there, it only has to be started.
    let there = commands(COREOS, "init=systemd\nhas=dockerd\n");
    assert_eq!(there, ["sudo systemctl enable --now docker", "sudo usermod -aG docker alice"]);
}

#[test]
fn only_what_is_missing_is_done() {
    let of_group = |more, group: Option<&str>| {
        Plan::new(&facts(DEBIAN_12, more), &Now::Closed(group.map(str::to_owned))).unwrap().setup
    };
    let closed = |more| of_group(more, None);
    // The socket's own group is the one that opens it.
    assert_eq!(of_group(SYSTEMD, Some("boxes")).commands, ["sudo usermod -aG boxes alice"]);
    let wheel = of_group(SYSTEMD, Some("wheel"));
    assert_eq!(wheel.commands, ["sudo usermod -aG docker alice"]);
    assert!(wheel.notes[0].contains("daemon.json"), "{:?}", wheel.notes);
    assert_eq!(closed(SYSTEMD).commands, ["sudo usermod -aG docker alice"]);
    // A member by the records, whose connection is older.
    let member = closed("init=systemd\nmember=alice docker\n");
    assert!(member.commands.is_empty() && member.notes[0].contains("connecting anew is all"));
    assert_eq!(member.sudo, Sudo::NotNeeded);
    // Of one that nothing known starts, connecting anew would change nothing.
    let more = "has=dockerd\nmember=alice docker\n";
    let idle = Plan::new(&facts(DEBIAN_12, more), &Now::Silent).unwrap().setup;
    assert!(idle.commands.is_empty() && idle.notes.len() == 1, "{:?}", idle.notes);
    assert!(idle.notes[0].contains("nothing starts Docker"), "{:?}", idle.notes);
    let answers = Plan::new(&facts(VOID, SYSTEMD), &Now::Answers("26.1.4".into())).unwrap().setup;
    assert!(answers.commands.is_empty() && answers.docker_version.as_deref() == Some("26.1.4"));
    // Root needs no sudo, and no group.
    let text = format!("uid=0\nuser=root\nmember=root\n{SYSTEMD}os=ID=arch\nend=1\n");
    let root = Plan::new(&look::parse(&text).unwrap(), &Now::Silent).unwrap().setup;
    assert_eq!(
        (root.sudo, root.commands),
        (
            Sudo::NotNeeded,
            vec![
                "pacman -Sy --noconfirm --needed docker".to_owned(),
                "systemctl enable --now docker".to_owned()
            ]
        )
    );
}

#[test]
fn a_digest_names_the_commands_as_they_are() {
    let digest = |os, more| plan(os, more).setup.digest;
    assert_eq!(digest(DEBIAN_12, SYSTEMD), digest(UBUNTU_24_04, SYSTEMD));
    assert_ne!(digest(DEBIAN_12, SYSTEMD), digest(DEBIAN_12, "init=systemd\ndpkg=interrupted\n"));
    let free = digest(DEBIAN_12, "init=systemd\nsudo=free\n");
    assert_eq!(digest(DEBIAN_12, SYSTEMD), free, "who types a password runs the same");
    let odd = ["usermod".to_owned(), "a b'c".to_owned()];
    assert_eq!(shown(&odd, true), "sudo usermod 'a b'\\''c'");
}
