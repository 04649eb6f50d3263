//! What is run on a host so that Docker answers there: decided by what the host says of itself, and nothing else.
//!
//! Each command can be run again: a plan that was broken off is made anew and gone through from its beginning.

use occ_proto::docker_setup::{DockerSetup, Family, Sudo};

use super::InstallError;
use super::look::{Facts, Init};
use super::os_release::OsRelease;

/// Whoever is in it may open Docker's socket, unless that is another group's.
const GROUP: &str = "docker";
/// Groups that nobody is to join for Docker's sake: they open more than that.
const NOT_TO_JOIN: [&str; 3] = ["root", "wheel", "sudo"];
/// The packages of Docker's own repository.
const DOCKER_CE: &str = "docker-ce docker-ce-cli containerd.io";
/// How long apt waits for another that is at work, such as the first updates of a new machine.
const APT_LOCK: &str = "DPkg::Lock::Timeout=120";

/// What is to be done, and what is shown of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub(super) setup: DockerSetup,
    /// The commands, without sudo.
    pub(super) steps: Vec<Vec<String>>,
    /// Why root's rights cannot be had, where they are needed and cannot.
    pub(super) no_root: Option<String>,
    /// Something starts Docker.
    pub(super) is_started: bool,
    /// Docker may come to answer: something starts it, or its package does, which is new there.
    pub(super) may_come: bool,
    /// The group whose members may open the socket.
    pub(super) group: String,
}

/// What is known of Docker on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Now {
    /// It answers, with this version.
    Answers(String),
    /// Its socket is there, and closed to this login; the members of that group may open it.
    Closed(Option<String>),
    /// It does not answer, whether or not it is there.
    Silent,
}

impl Plan {
    /// Decides what is to be done.
    pub(super) fn new(facts: &Facts, now: &Now) -> Result<Self, InstallError> {
        let os = &facts.os;
        let mut steps = Steps::default();
        let (mut is_started, mut may_come) = (true, true);
        if *now == Now::Silent {
            let is_there = facts.has("dockerd");
            if !is_there {
                packages(facts, &mut steps)?;
            }
            is_started = start(facts.init, &mut steps);
            may_come = is_started || !is_there;
        }
        let version = match now {
            Now::Answers(version) => Some(version.clone()),
            Now::Closed(_) | Now::Silent => None,
        };
        let group = match now {
            Now::Closed(Some(group)) if NOT_TO_JOIN.contains(&group.as_str()) => {
                steps.note(format!(
                    "the socket is the group {group}'s: \"group\": \"{GROUP}\" in /etc/docker/daemon.json, and Docker started anew, gives it to {GROUP}"
                ));
                GROUP
            }
            Now::Closed(Some(group)) => group,
            _ => GROUP,
        };
        if version.is_none() && facts.uid != 0 && !facts.member.iter().any(|one| one == group) {
            match os.family() {
                Family::Alpine => steps.run(&["addgroup", &facts.user, group]),
                _ => steps.run(&["usermod", "-aG", group, &facts.user]),
            }
            steps.note(format!(
                "whoever is in the group {group} can become root there, and {} will be",
                facts.user
            ));
        }
        if steps.commands.is_empty() && version.is_none() && is_started {
            steps.note("nothing has to be run: connecting anew is all".to_owned());
        }
        let Steps { commands, notes } = steps;
        let needs_root = facts.uid != 0 && !commands.is_empty();
        let sudo = if needs_root { facts.sudo } else { Sudo::NotNeeded };
        let by_sudo = matches!(sudo, Sudo::Free | Sudo::Password);
        let shown: Vec<String> = commands.iter().map(|argv| shown(argv, by_sudo)).collect();
        let digest = digest(&facts.user, &shown);
        let setup = DockerSetup {
            docker_version: version,
            family: os.family(),
            os: os.name(),
            user: facts.user.clone(),
            sudo,
            commands: shown,
            notes,
            digest,
        };
        let no_root = (sudo == Sudo::None).then(|| facts.why_no_sudo.clone());
        let group = group.to_owned();
        Ok(Self { setup, steps: commands, no_root, is_started, may_come, group })
    }

    /// Returns what is shown of it.
    pub fn setup(&self) -> &DockerSetup {
        &self.setup
    }
}

#[derive(Debug, Default)]
struct Steps {
    commands: Vec<Vec<String>>,
    notes: Vec<String>,
}

impl Steps {
    fn run(&mut self, argv: &[&str]) {
        self.commands.push(argv.iter().map(|word| (*word).to_owned()).collect());
    }

    /// Runs a line of words that have no blanks in them.
    fn line(&mut self, line: &str) {
        self.run(&line.split(' ').collect::<Vec<_>>());
    }

    fn note(&mut self, text: String) {
        self.notes.push(text);
    }
}

/// Adds what installs the packages.
fn packages(facts: &Facts, steps: &mut Steps) -> Result<(), InstallError> {
    let os = &facts.os;
    let unsupported = |why| Err(InstallError::Unsupported { os: os.name(), why });
    if os.is_image() {
        return unsupported(Some("its packages are part of an image"));
    }
    match os.family() {
        Family::Debian => {
            let apt = "env DEBIAN_FRONTEND=noninteractive";
            if facts.dpkg_interrupted {
                steps.line(&format!("{apt} dpkg --configure -a"));
            }
            steps.line(&format!("{apt} apt-get update"));
            steps.line(&format!("{apt} apt-get -o {APT_LOCK} install -y docker.io"));
        }
        Family::Rhel => rhel(os, steps),
        Family::Alpine => {
            steps.line("apk add docker");
            steps.note("the package is in Alpine's community repository".to_owned());
        }
        Family::Arch => steps.line("pacman -Sy --noconfirm --needed docker"),
        Family::Suse => steps.line("zypper --non-interactive install docker"),
        Family::Unknown => return unsupported(None),
    }
    Ok(())
}

/// Some of this family have a package of their own, others have podman alone and take Docker's.
fn rhel(os: &OsRelease, steps: &mut Steps) {
    match (os.id.as_str(), os.major()) {
        ("amzn", Some(2)) => return steps.line("amazon-linux-extras install -y docker"),
        ("amzn", Some(..2000)) => return steps.line("yum -y install docker"),
        ("amzn", _) => return steps.line("dnf -y install docker"),
        _ if !os.is("rhel") && !os.is("centos") && os.is("fedora") => {
            steps.line("dnf -y install moby-engine");
            return steps.note("Fedora's package of Docker is called moby-engine".to_owned());
        }
        _ => {}
    }
    let path = if os.id == "rhel" { "rhel" } else { "centos" };
    let repo = format!("https://download.docker.com/linux/{path}/docker-ce.repo");
    if os.major().is_some_and(|major| major < 8) {
        steps.line("yum -y install yum-utils");
        steps.line(&format!("yum-config-manager --add-repo {repo}"));
        steps.line(&format!("yum -y install {DOCKER_CE}"));
    } else {
        steps.line("dnf -y install dnf-plugins-core");
        steps.line(&format!("dnf config-manager --add-repo {repo}"));
        steps.line(&format!("dnf -y install {DOCKER_CE}"));
    }
    steps.note(format!(
        "{} has no package of Docker: docker-ce comes from Docker's own repository",
        os.name()
    ));
}

/// Adds what starts Docker now and with the system. Returns whether something does.
fn start(init: Init, steps: &mut Steps) -> bool {
    match init {
        Init::Systemd => steps.line("systemctl enable --now docker"),
        Init::OpenRc => {
            steps.line("rc-update add docker default");
            steps.line("service docker start");
        }
        Init::Other => {
            steps.note(
                "neither systemd nor OpenRC runs there: nothing starts Docker, which is left to you"
                    .to_owned(),
            );
        }
    }
    init != Init::Other
}

/// Returns a command as it would be typed.
pub(super) fn shown(argv: &[String], by_sudo: bool) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:=,@%".contains(c);
    let word = |word: &String| match !word.is_empty() && word.chars().all(plain) {
        true => word.clone(),
        false => format!("'{}'", occ_proto::text::sanitize(word).replace('\'', "'\\''")),
    };
    let sudo = by_sudo.then(|| "sudo".to_owned());
    sudo.into_iter().chain(argv.iter().map(word)).collect::<Vec<_>>().join(" ")
}

fn digest(user: &str, commands: &[String]) -> String {
    use sha2::{Digest as _, Sha256};
    // Line feeds are in none of them: what is shown is safe for a terminal.
    let text = format!("{user}\n{}", commands.join("\n"));
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
