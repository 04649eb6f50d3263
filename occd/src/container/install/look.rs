//! What a host says of itself: its system, its login, and whether that can become root.

use std::time::Duration;

use occ_proto::docker_setup::Sudo;
use occ_proto::text::sanitize;

use super::InstallError;
use super::os_release::OsRelease;
use super::remote::{self, Said};
use crate::container::SandboxError;
use crate::host::HostHandle;
use crate::prompts::Client;

/// How long the host may take. sudo waits for a while after it has refused somebody.
const LOOK: Duration = Duration::from_secs(60);

/// One fact a line. Programs of root's are looked for where a login that is not root's has none of them in its PATH.
/// What sudo is asked to run is the program that each command is run by, so that it says what it will say then; `-k`
/// has it forget what it remembers for a while.
const SCRIPT: &str = r#"
case ":$PATH:" in */sbin:*) ;; *) PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin ;; esac
echo "uid=$(id -u)"
echo "user=$(id -un)"
echo "member=$(id -Gn "$(id -un)")"
for p in dockerd sudo; do command -v $p >/dev/null 2>&1 && echo "has=$p"; done
if [ -d /run/systemd/system ]; then echo init=systemd; elif [ -d /run/openrc ]; then echo init=openrc
else case $(systemctl is-system-running 2>/dev/null) in running|starting|degraded) echo init=systemd;; esac; fi
[ -n "$(ls /var/lib/dpkg/updates 2>/dev/null)" ] && echo dpkg=interrupted
for f in /etc/os-release /usr/lib/os-release; do [ -r $f ] && { sed 's/^/os=/' $f; break; }; done
if [ "$(id -u)" != 0 ] && command -v sudo >/dev/null 2>&1; then
  if said=$(LC_ALL=C sudo -k -n -- env true 2>&1 </dev/null); then echo sudo=free
  else printf '%s\n' "$said" | sed 's/^/said=/'; fi
fi
echo end=1"#;

/// What starts services there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Init {
    Systemd,
    OpenRc,
    /// Something else, or nothing.
    #[default]
    Other,
}

/// What a host says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) uid: u32,
    pub(super) user: String,
    /// The login's groups by the host's records, which those of its processes may not have yet.
    pub(super) member: Vec<String>,
    pub(super) programs: Vec<String>,
    pub(super) init: Init,
    /// dpkg was ended in its work, and does nothing until it has finished that.
    pub(super) dpkg_interrupted: bool,
    pub(super) os: OsRelease,
    pub(super) sudo: Sudo,
    pub(super) why_no_sudo: String,
}

impl Facts {
    /// Returns whether a program is there.
    pub(super) fn has(&self, program: &str) -> bool {
        self.programs.iter().any(|other| other == program)
    }
}

/// Looks at a host.
pub(super) async fn look(host: &HostHandle, client: &Client) -> Result<Facts, SandboxError> {
    let argv = ["sh", "-c", SCRIPT].map(str::to_owned);
    let Said { stdout, stderr, .. } = remote::ask(host, client, &argv, None, LOOK).await?;
    match parse(&stdout) {
        Some(facts) => Ok(facts),
        None => {
            let why = stderr.lines().next().map_or("it runs no command of occd's".into(), sanitize);
            Err(InstallError::Look(why).into())
        }
    }
}

/// Reads the facts; nothing where they are not whole.
pub(super) fn parse(text: &str) -> Option<Facts> {
    let (mut uid, mut user, mut ended) = (None, None, false);
    let (mut member, mut programs, mut init) = (Vec::new(), Vec::new(), Init::Other);
    let (mut dpkg_interrupted, mut os, mut is_free, mut said) =
        (false, String::new(), false, Vec::new());
    // Before the facts there may be a greeting of the shell's.
    for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
        match key {
            "uid" => uid = value.trim().parse().ok(),
            "user" => user = Some(value.trim().to_owned()).filter(|user| is_name(user)),
            "member" => member = value.split_whitespace().map(str::to_owned).collect(),
            "has" => programs.push(value.to_owned()),
            "init" if value == "systemd" => init = Init::Systemd,
            "init" => init = Init::OpenRc,
            "dpkg" => dpkg_interrupted = true,
            "os" => os.extend([value, "\n"]),
            "sudo" => is_free = true,
            "said" => said.push(sanitize(value)),
            "end" => ended = true,
            _ => {}
        }
    }
    let (uid, user) = (uid.filter(|_| ended)?, user?);
    let has_sudo = programs.iter().any(|program| program == "sudo");
    let (sudo, why_no_sudo) = match why_not(&said.join("\n")) {
        _ if uid == 0 => (Sudo::NotNeeded, String::new()),
        _ if is_free => (Sudo::Free, String::new()),
        _ if !has_sudo => (Sudo::None, "there is no sudo".to_owned()),
        Some(why) => (Sudo::None, why),
        None => (Sudo::Password, String::new()),
    };
    let os = OsRelease::parse(&os);
    Some(Facts { uid, user, member, programs, init, dpkg_interrupted, os, sudo, why_no_sudo })
}

/// Returns why no password helps, by what sudo says in English.
pub(super) fn why_not(said: &str) -> Option<String> {
    const REFUSALS: [&str; 6] = [
        "not in the sudoers file",
        "is not allowed to",
        "may not run sudo",
        "you must have a tty",
        "no new privileges",
        "must be owned by uid 0",
    ];
    let refuses = |line: &&str| REFUSALS.iter().any(|text| line.contains(text));
    said.lines().find(refuses).map(|line| sanitize(line.trim()).trim_end_matches('.').to_owned())
}

/// A name that usermod takes; what is an option to it is none.
fn is_name(user: &str) -> bool {
    !user.is_empty() && !user.starts_with('-') && !user.contains(|c: char| c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = "Welcome!\nuid=1000\nuser=alice\nmember=alice users\nhas=sudo\ninit=systemd\n\
        os=ID=debian\nos=VERSION_ID=\"12\"\n";

    #[test]
    fn the_facts_are_found_among_a_shells_greetings() {
        assert_eq!(parse(DEBIAN), None, "not whole");
        let facts = parse(&format!("{DEBIAN}said=sudo: a password is required\nend=1\n")).unwrap();
        assert_eq!((facts.uid, facts.user.as_str(), facts.init), (1000, "alice", Init::Systemd));
        assert_eq!((facts.sudo, facts.os.major()), (Sudo::Password, Some(12)));
        assert!(!facts.has("dockerd") && facts.has("sudo") && facts.member[1] == "users");
    }

    #[test]
    fn what_sudo_says_decides_whether_a_password_helps() {
        let of = |lines: &str| {
            let facts = parse(&format!("{DEBIAN}{lines}\nend=1\n")).unwrap();
            (facts.sudo, facts.why_no_sudo)
        };
        assert_eq!(of("sudo=free").0, Sudo::Free);
        let asks =
            "said=sudo: a terminal is required to read the password; either use the -S option";
        assert_eq!(of(asks).0, Sudo::Password);
        let (sudo, why) = of("said=sudo: sorry, you must have a tty to run sudo");
        assert_eq!(
            (sudo, why.as_str()),
            (Sudo::None, "sudo: sorry, you must have a tty to run sudo")
        );
        assert_eq!(
            why_not("alice is not in the sudoers file.").unwrap(),
            "alice is not in the sudoers file"
        );
        let none = parse(&format!("{}end=1\n", DEBIAN.replace("has=sudo\n", ""))).unwrap();
        assert_eq!((none.sudo, none.why_no_sudo.as_str()), (Sudo::None, "there is no sudo"));
        let root = parse(&format!("{}end=1\n", DEBIAN.replace("uid=1000", "uid=0"))).unwrap();
        assert_eq!(root.sudo, Sudo::NotNeeded);
    }
}
