//! This machine: the programs, the ssh client, the ssh-agent, Docker, systemd and the clock.

use std::ffi::{OsStr, OsString};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use occ_proto::KEY_VARIABLES;
use occ_proto::paths::{Env, expand_tilde};
use tokio::process::Command;

use super::Finding;
use crate::autostart::{INSTALL, is_named, occd_program};
use crate::hint::{shell_word, start_docker};
use crate::unit::{self, Units};

/// What to do where there is no ssh.
const INSTALL_SSH: &str = "install OpenSSH's client, such as: sudo apt install openssh-client";
/// The files of host keys of all users, as ssh has them.
const GLOBAL_KNOWN_HOSTS: [&str; 2] = ["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"];
/// How long an agent or an engine may take for a word.
const ANSWER: Duration = Duration::from_secs(3);

/// Looks at which occ and occd would run.
pub(super) fn programs() -> Vec<Finding> {
    const CHECK: &str = "programs";
    let mut findings = Vec::new();
    let own = std::env::current_exe().and_then(|path| path.canonicalize());
    let own = match own {
        Ok(own) => own,
        Err(error) => {
            return vec![Finding::warning(CHECK, format!("where occ is: {error}"), "type -a occ")];
        }
    };
    let daemon = occd_program();
    let found = in_path(&daemon).into_iter().next();
    match &found {
        Some(found) => findings.push(Finding::ok(
            CHECK,
            format!(
                "occ {} in {}, occd in {}{}",
                env!("CARGO_PKG_VERSION"),
                own.display(),
                found.display(),
                if is_named() { ", which OCCD_BIN names" } else { "" }
            ),
        )),
        None if is_named() => findings.push(Finding::failed(
            CHECK,
            format!("OCCD_BIN is {}, which is no program", daemon.display()),
            "unset OCCD_BIN, or have it name an occd",
        )),
        None => {
            findings.push(Finding::failed(
                CHECK,
                "occd is neither beside occ nor in PATH",
                INSTALL,
            ));
        }
    }
    let daemon = found.and_then(|daemon| daemon.canonicalize().ok());
    for (name, ours) in [("occ", Some(&own)), ("occd", daemon.as_ref())] {
        // Whatever PATH has, OCCD_BIN is the one that counts.
        if name == "occd" && is_named() {
            continue;
        }
        let others: Vec<PathBuf> = in_path(OsStr::new(name))
            .into_iter()
            .filter(|path| path.canonicalize().ok().as_ref() != ours)
            .collect();
        for other in others {
            let text = format!("another {name} is in PATH: {}", other.display());
            let hint =
                format!("type -a {name}; put {} first in PATH", own.with_file_name("").display());
            findings.push(Finding::warning(CHECK, text, hint));
        }
    }
    findings
}

/// Returns the programs of this name: where it says, or each in PATH, once.
fn in_path(name: &OsStr) -> Vec<PathBuf> {
    let is_program = |path: &PathBuf| {
        path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    let named = PathBuf::from(name);
    if named.components().count() > 1 {
        return Some(named).filter(is_program).into_iter().collect();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<PathBuf> = Vec::new();
    for program in std::env::split_paths(&path).map(|dir| dir.join(name)).filter(is_program) {
        let same = |other: &PathBuf| other.canonicalize().ok() == program.canonicalize().ok();
        if !found.iter().any(same) {
            found.push(program);
        }
    }
    found
}

/// Looks for the ssh client, which alone understands ssh_config, and whether it does.
pub(super) async fn ssh() -> Vec<Finding> {
    const CHECK: &str = "ssh";
    vec![match ask_ssh(&["-V".into()]).await {
        Ok(output) if output.status.success() => {
            let version = String::from_utf8_lossy(&output.stderr);
            let version = version.lines().next().unwrap_or("ssh").trim();
            refusal().await.unwrap_or_else(|| Finding::ok(CHECK, version))
        }
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let last = said.lines().map(str::trim).rfind(|line| !line.is_empty());
            let why = last.map_or_else(|| output.status.to_string(), str::to_owned);
            let hint = match why.strip_prefix("No user exists for uid ") {
                Some(uid) => format!(
                    "getent passwd {uid} says nothing, and ssh runs for nobody whom that does not know: add a line for this user to /etc/passwd"
                ),
                None => "ssh -V; type -a ssh shows which one that is".to_owned(),
            };
            Finding::failed(CHECK, format!("ssh does not run: {why}"), hint)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let config = Env::from_process().home.map(|home| home.join(".ssh/config"));
            let text = "there is no ssh program, so nothing of ssh_config applies";
            match config.is_some_and(|config| config.exists()) {
                true => Finding::failed(CHECK, text, INSTALL_SSH),
                false => Finding::warning(CHECK, text, INSTALL_SSH),
            }
        }
        Err(error) => Finding::failed(CHECK, format!("ssh cannot be run: {error}"), "type -a ssh"),
    }]
}

/// Returns why ssh tells nothing of any host, as occd asks it before each dial. That `localhost` is asked for makes no
/// connection.
async fn refusal() -> Option<Finding> {
    const CHECK: &str = "ssh";
    let words = [vec!["-G".into()], config_arguments().await, vec!["localhost".into()]].concat();
    let typed = words.iter().map(|word: &OsString| shell_word(&word.to_string_lossy()));
    let hint = format!("ssh {}", typed.collect::<Vec<_>>().join(" "));
    let Ok(answer) = tokio::time::timeout(ANSWER, ask_ssh(&words)).await else {
        let text = format!(
            "ssh -G does not answer within {} s: a Match exec of ssh_config may hang, and no host is dialled",
            ANSWER.as_secs()
        );
        return Some(Finding::failed(CHECK, text, hint));
    };
    let why = match answer {
        Ok(output) if output.status.success() => return None,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            said.lines().next().map_or_else(|| output.status.to_string(), |said| said.trim().into())
        }
        Err(error) => error.to_string(),
    };
    let text = format!("ssh refuses its configuration, and no host is dialled: {why}");
    Some(Finding::failed(CHECK, text, hint))
}

/// Returns how ssh is told of the configuration of `$HOME`, where it would look into another directory: it goes by the
/// passwd database (ssh(1), FILES).
async fn config_arguments() -> Vec<OsString> {
    let said = told(&["-G", "-F", "none", "localhost"].map(OsString::from)).await;
    let known_hosts = said.lines().find_map(|line| line.strip_prefix("userknownhostsfile "));
    let theirs = known_hosts.and_then(|files| files.split_once("/.ssh/known_hosts"));
    let (Some((theirs, _)), Some(home)) = (theirs, Env::from_process().home) else {
        return Vec::new();
    };
    if Path::new(theirs)
        .canonicalize()
        .is_ok_and(|dir| home.canonicalize().is_ok_and(|own| own == dir))
    {
        return Vec::new();
    }
    let file = home.join(".ssh/config");
    vec!["-F".into(), if file.is_file() { file.into() } else { "none".into() }]
}

/// Looks at the files of host keys: those that ssh_config names for a host of which it says nothing else, and the usual
/// ones.
pub(super) async fn known_hosts(env: &Env) -> Vec<Finding> {
    const CHECK: &str = "known_hosts";
    let home = match env.home("it") {
        Ok(home) => home.to_owned(),
        Err(error) => return vec![Finding::failed(CHECK, error.to_string(), super::files::HOME)],
    };
    let plain = told(&["-G", "-F", "none", "localhost"].map(OsString::from)).await;
    let set = [vec!["-G".into()], config_arguments().await, vec!["localhost".into()]].concat();
    let set = told(&set).await;
    let files = |keyword: &str, usual: [PathBuf; 2]| -> Vec<PathBuf> {
        let of = |text: &str| {
            text.lines().find_map(|line| line.strip_prefix(keyword)).map(str::to_owned)
        };
        let Some(named) = of(&set).filter(|line| of(&plain).as_ref() != Some(line)) else {
            return usual.into();
        };
        let all = named.split_whitespace().map(|path| expand_tilde(path, Some(&home)));
        // "none" is a file of no name.
        all.filter(|path| path.is_absolute()).collect()
    };
    let ssh = home.join(".ssh");
    let user = files("userknownhostsfile ", [ssh.join("known_hosts"), ssh.join("known_hosts2")]);
    let global = files("globalknownhostsfile ", GLOBAL_KNOWN_HOSTS.map(PathBuf::from));
    super::apart(CHECK, move || super::files::known_hosts(&user, &global)).await
}

/// Returns what ssh tells; nothing where it does not.
async fn told(arguments: &[OsString]) -> String {
    let Ok(Ok(output)) = tokio::time::timeout(ANSWER, ask_ssh(arguments)).await else {
        return String::new();
    };
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Asks ssh for what it tells without a connection.
async fn ask_ssh(arguments: &[OsString]) -> std::io::Result<std::process::Output> {
    let mut ssh = Command::new("ssh");
    // `Match exec` runs programs.
    for name in KEY_VARIABLES {
        ssh.env_remove(name);
    }
    ssh.args(arguments).stdin(Stdio::null()).kill_on_drop(true).output().await
}

/// Looks at the ssh-agent of this shell, and how many keys it has.
pub(super) fn agent() -> Vec<Finding> {
    const CHECK: &str = "agent";
    let socket = std::env::var_os("SSH_AUTH_SOCK").filter(|socket| !socket.is_empty());
    let Some(socket) = socket.map(PathBuf::from) else {
        return vec![Finding::ok(CHECK, "none in this shell; key files are used")];
    };
    let shown = socket.display();
    vec![match keys(&socket) {
        Ok(0) => Finding::warning(CHECK, format!("{shown} answers and has no keys"), "ssh-add"),
        Ok(count) => Finding::ok(CHECK, format!("{shown}, keys: {count}")),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            let text = format!("{shown} does not answer within {} s", ANSWER.as_secs());
            let hint = "unset SSH_AUTH_SOCK, or start another: eval $(ssh-agent); ssh-add";
            Finding::failed(CHECK, text, hint)
        }
        Err(error) => Finding::failed(
            CHECK,
            format!("{shown}: {error}"),
            "eval $(ssh-agent); ssh-add. Or unset SSH_AUTH_SOCK",
        ),
    }]
}

/// Asks an agent how many keys it has (draft-ietf-sshm-ssh-agent, section 3.5).
fn keys(socket: &Path) -> std::io::Result<u32> {
    const REQUEST_IDENTITIES: u8 = 11;
    const IDENTITIES_ANSWER: u8 = 12;

    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    stream.write_all(&[0, 0, 0, 1, REQUEST_IDENTITIES])?;
    let mut head = [0; 9];
    stream.read_exact(&mut head)?;
    let [_, _, _, _, kind, count @ ..] = head;
    if kind != IDENTITIES_ANSWER {
        return Err(std::io::Error::other("it answers with something else than keys"));
    }
    Ok(u32::from_be_bytes(count))
}

/// Looks at this machine's own Docker, which `--local` is about.
pub(super) async fn docker() -> Vec<Finding> {
    const CHECK: &str = "docker";
    let named = std::env::var("DOCKER_HOST").ok().filter(|named| !named.is_empty());
    let socket = match named.as_deref().map(|named| named.strip_prefix("unix://").ok_or(named)) {
        None => usual_socket(),
        Some(Ok(path)) => PathBuf::from(path),
        Some(Err(other)) => {
            return vec![Finding::ok(
                CHECK,
                format!("DOCKER_HOST is {other}, which is not looked at"),
            )];
        }
    };
    let shown = socket.display().to_string();
    let asked = tokio::task::spawn_blocking(move || ping(&socket)).await;
    vec![match asked.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
        Ok(true) => Finding::ok(CHECK, format!("{shown} answers")),
        Ok(false) => Finding::warning(
            CHECK,
            format!("{shown} answers with something else than Docker does"),
            format!("docker -H unix://{shown} version; DOCKER_HOST names another"),
        ),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            let program = ["dockerd", "docker"]
                .into_iter()
                .find_map(|name| in_path(OsStr::new(name)).into_iter().next());
            match program {
                Some(program) => Finding::warning(
                    CHECK,
                    format!(
                        "{} is installed, and does not run: {shown} is not there; only --local needs it",
                        program.display()
                    ),
                    start_docker(None),
                ),
                None => Finding::ok(CHECK, "none on this machine; only --local needs it"),
            }
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            let hint = "sudo usermod -aG docker $USER, and log in again";
            Finding::warning(CHECK, format!("{shown} is not for you: {error}"), hint)
        }
        Err(error) => Finding::warning(
            CHECK,
            format!("{shown}: {error}"),
            "sudo systemctl start docker, if --local is to be used",
        ),
    }]
}

/// Returns where an engine listens here, as occd has it where nothing is set: the first of the usual places.
fn usual_socket() -> PathBuf {
    const USUAL: &str = "/var/run/docker.sock";
    let runtime = Env::from_process().xdg_runtime_dir;
    let rootless = runtime
        .iter()
        .flat_map(|dir| ["docker.sock", "podman/podman.sock"].map(|name| dir.join(name)));
    let all = [USUAL, "/run/podman/podman.sock"].map(PathBuf::from).into_iter().chain(rootless);
    all.into_iter().find(|path| path.exists()).unwrap_or_else(|| USUAL.into())
}

/// Asks an engine for a sign of life.
fn ping(socket: &Path) -> std::io::Result<bool> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    Ok(head.starts_with(b"HTTP/1.") && head.ends_with(b" 200"))
}

/// Looks at the unit of the user's systemd, and at what is left of occd when the user logs out.
pub(super) async fn unit(env: &Env) -> Vec<Finding> {
    let units = unit::units(env.xdg_runtime_dir.as_deref()).await;
    let is_unit = units.as_ref().is_some_and(|units| units.installed);
    let mut findings = vec![unit_of(units).await];
    findings.extend(logout(is_unit, env.xdg_runtime_dir.is_some()).await);
    findings
}

async fn unit_of(units: Option<Units>) -> Finding {
    const CHECK: &str = "unit";
    let Some(units) = units else {
        return Finding::ok(CHECK, "no systemd of yours runs here; occ starts occd by itself");
    };
    if !units.installed {
        return Finding::ok(CHECK, "not installed; occ starts occd by itself")
            .hint("occ daemon install");
    }
    if let Some(program) = units.program.filter(|program| !program.is_file()) {
        let text = format!("{} starts {}, which is not there", unit::UNIT, program.display());
        return Finding::failed(CHECK, text, "occ daemon install");
    }
    let enabled = said("systemctl", &["--user", "is-enabled", unit::UNIT]).await;
    let socket = said("systemctl", &["--user", "is-enabled", unit::SOCKET]).await;
    let is = |answer: &Option<String>| answer.as_deref() == Some("enabled");
    if !is(&enabled) && !is(&socket) {
        let text = format!(
            "{} is installed, and starts with the first occ, not with the login",
            unit::UNIT
        );
        return Finding::ok(CHECK, text).hint("occ daemon install");
    }
    Finding::ok(CHECK, format!("{} is installed and enabled", unit::UNIT))
}

/// Looks at what ends when the user logs out. Where the user does not linger, systemd ends the user's manager then, and
/// with it the unit and the sessions of this machine, and takes the runtime directory away. `KillUserProcesses` ends,
/// lingering or not, what was started outside of that manager, as occ starts occd where there is no unit; logind.conf(5).
async fn logout(is_unit: bool, has_runtime_dir: bool) -> Option<Finding> {
    const CHECK: &str = "linger";
    let user = rustix::process::getuid().as_raw().to_string();
    let linger = said("loginctl", &["show-user", &user, "--property=Linger", "--value"]).await?;
    let kills = said("loginctl", &["show-user", "--property=KillUserProcesses", "--value"]).await;
    let kills = kills.as_deref() == Some("yes");
    let all = "occd and the sessions of this machine end when you log out";
    let killed = format!("{all} (KillUserProcesses=yes)");
    let linger = match linger.as_str() {
        "yes" => true,
        "no" => false,
        _ => return None,
    };
    Some(match (linger, is_unit, kills) {
        (true, false, true) => Finding::warning(CHECK, killed, "occ daemon install"),
        (false, false, true) => {
            Finding::warning(CHECK, killed, "occ daemon install; loginctl enable-linger")
        }
        (false, true, _) => Finding::warning(CHECK, all, "loginctl enable-linger"),
        (false, false, false) if has_runtime_dir => Finding::warning(
            CHECK,
            "occd's socket is taken away when you log out, and nothing reaches occd then",
            "loginctl enable-linger",
        ),
        _ => Finding::ok(CHECK, "occd goes on when you log out"),
    })
}

/// Looks at the clock: certificates, times of files and histories are by it.
pub(super) async fn clock() -> Vec<Finding> {
    const CHECK: &str = "clock";
    match said("timedatectl", &["show", "--property=NTPSynchronized", "--value"]).await.as_deref() {
        Some("yes") => vec![Finding::ok(CHECK, "set by the network")],
        Some("no") => {
            vec![Finding::warning(CHECK, "not set by the network", "sudo timedatectl set-ntp true")]
        }
        _ => vec![
            Finding::ok(CHECK, "not known: there is no timedatectl that tells").hint("date -u"),
        ],
    }
}

/// Returns what a program says in one line; nothing where there is no such program, or it says nothing.
async fn said(program: &str, args: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(ANSWER, command.output()).await.ok()?.ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Some(text).filter(|text| !text.is_empty())
}
