//! The daemon: its socket, its lock, whether it answers, and which version it is.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use occ_proto::daemon::Version;
use occ_proto::paths::{Env, is_grants};
use occ_proto::policy::PolicyView;
use occ_proto::text::sanitize;
use tokio::time::timeout;

use super::{Finding, Level, files};
use crate::autostart::{self, RESTART, START, Start};
use crate::client::Client;
use crate::commands::daemon::{granted, settings_fault};
use crate::commands::{Context, upgrade};
use crate::duration::{seconds_between, two_units};
use crate::endpoint;
use crate::error::{ABSENT, CliError, DAEMON_INCOMPATIBLE};
use crate::hint::{self, denied, exposed, shell_word};
use crate::locks;
use crate::start_check;
use crate::stranger;
use crate::versions::{remedy, too_old};

/// How long the daemon may take to answer from memory: less than the whole check, so that there is time to say what to do.
pub(super) const PATIENCE: Duration = Duration::from_secs(4);

/// Looks at the socket and at who is behind it, and starts nobody.
pub(super) async fn check(context: &Context<'_>) -> Vec<Finding> {
    let socket = match endpoint::socket_path(context) {
        Ok(socket) => socket,
        Err(error) => return vec![of("socket", error)],
    };
    let shown = socket.display().to_string();
    let found = match autostart::connect(context, Start::Never).await {
        Ok(found) => found,
        Err(error) if error.code == ABSENT && !is_grants(&socket) => {
            if let Some(pid) = locks::holder(&socket) {
                let text = format!("process {pid} holds the lock, and nobody listens on {shown}");
                return vec![Finding::failed("daemon", text, "occ daemon restart")];
            }
            let is_socket =
                std::fs::symlink_metadata(&socket).is_ok_and(|meta| meta.file_type().is_socket());
            let left = if is_socket {
                "; a socket was left behind, which the next one replaces"
            } else {
                ""
            };
            let text = format!("not running (socket {shown}){left}");
            if let Err(error) = locks::refuse_as_root() {
                let hint = error.hint.unwrap_or_default();
                let text = format!("{text}; occ would not start it: {}", error.message);
                return vec![Finding::failed("daemon", text, hint)];
            }
            if let Some((why, cure)) = locks::unusable(&socket, START) {
                let text = format!("{text}; occ would not start it: {why}");
                return vec![Finding::failed("daemon", text, cure)];
            }
            if let Some((why, hint)) = start_check::cannot_start(context, &socket, START).await {
                let text = format!("{text}; it would not start: {why}");
                return vec![Finding::failed("daemon", text, hint)];
            }
            return vec![match autostart::is_forbidden() {
                true => Finding::warning(
                    "daemon",
                    format!("{text}; OCC_NO_AUTOSTART keeps occ from starting it"),
                    "occ daemon start",
                ),
                false => Finding::ok("daemon", format!("{text}; the next command starts it")),
            }];
        }
        Err(error) => return vec![of("socket", error)],
    };
    let client = Client::of(found, context.ui);
    let version = version(&client).await;
    // The mode of a grant's is as it was made, and of the daemon it tells nothing.
    if let Err(error) = &version
        && let Some((grant, host)) = granted(&client, error)
    {
        let text = format!("{shown} is the socket of the grant {grant}, and works");
        return vec![Finding::ok("daemon", text).hint(format!("occ policy show --host {host}"))];
    }
    let mut findings = vec![socket_mode(&socket)];
    // It takes neither again, but the next one does.
    if let Some((why, cure)) = locks::unusable(&socket, RESTART) {
        findings.push(Finding::failed(
            "socket",
            format!("{why}: the next occd cannot be started"),
            cure,
        ));
    }
    match version {
        Ok(version) => {
            findings.extend(versions(&version));
            findings.extend(of_another_home(&socket));
        }
        Err(error) => {
            // What it says may be new in more than that.
            let too_old = match error.code.as_str() {
                DAEMON_INCOMPATIBLE => upgrade::too_old(&client).await,
                _ => None,
            };
            let error = stranger::explained(context, too_old.unwrap_or(error)).await;
            findings.push(of("daemon", error));
            return findings;
        }
    }
    // One that does not tell it has none, or said above what is wrong with it.
    if let Ok(policy) = policy(&client).await {
        findings.extend(policy.system.iter().map(|system| {
            let text = format!("{} restricts what occ does for all users", system.file);
            Finding::ok("policy", text).hint("occ policy show")
        }));
    }
    findings
}

/// Looks at the settings: at what anybody sees of the file, and then at what occd, which knows its keys, says of it.
pub(super) async fn occd_toml() -> Vec<Finding> {
    const CHECK: &str = "occd.toml";
    let env = Env::from_process();
    if env.config_file().is_ok_and(|file| files::in_closed(&file)) {
        return Vec::new();
    }
    let found = super::apart(CHECK, files::occd_toml).await;
    if found.iter().any(|finding| finding.level != Level::Ok) {
        return found;
    }
    let Some(fault) = settings_fault().await else { return found };
    let places = [env.config_file(), env.sealed_config_file()].into_iter().flatten();
    let shown = places.map(|place| sanitize(&place.to_string_lossy()));
    // What is wrong with the machine's policy is told elsewhere, and occd looks at that first.
    let Some(file) = shown.filter(|place| fault.starts_with(place)).max_by_key(String::len) else {
        return found;
    };
    let line = fault.split_once(", line ").and_then(|(_, rest)| rest.split_once(": "));
    let line = line.map_or_else(String::new, |(line, _)| format!(" +{line}"));
    vec![Finding::failed(CHECK, &fault, format!("mend it: ${{EDITOR:-vi}}{line} {file}"))]
}

/// Has occd say what it alone knows to look at: config.json of opencode-cloud, which it reads no sooner than it makes a
/// sandbox, and what it remembers. What is closed to it when it starts is closed to the one that runs.
pub(super) async fn checked_by_occd() -> Vec<Finding> {
    // That occd cannot be run is told of the programs.
    let Ok(output) = start_check::checked(start_check::occd_check()).await else {
        return Vec::new();
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let places = Env::from_process().opencode_config_candidates().unwrap_or_default();
    let shown = places.iter().filter(|place| !files::in_closed(place));
    let shown = shown.map(|place| place.display().to_string());
    let warnings = shown.filter_map(|place| {
        let line = said.lines().find(|line| line.starts_with(&place))?;
        let text = format!("{line}: no sandbox can be made");
        Some(Finding::warning("config.json", text, format!("mend it: ${{EDITOR:-vi}} {place}")))
    });
    let why = String::from_utf8_lossy(&output.stderr);
    let closed = why.lines().next().filter(|why| why.contains(" cannot be read and written: "));
    let closed = closed.map(|why| {
        let look = || format!("ls -la {}", hint::state_dir().unwrap_or_default());
        let cure = denied(why).or_else(|| hint::in_the_way(why)).unwrap_or_else(look);
        Finding::failed("state", why, cure)
    });
    warnings.chain(closed).collect()
}

async fn version(client: &Client) -> Result<Version, CliError> {
    match timeout(PATIENCE, client.get("/v1/version")).await {
        Ok(reply) => reply?.parse(),
        Err(_) => Err(client.stuck(PATIENCE)),
    }
}

async fn policy(client: &Client) -> Result<PolicyView, CliError> {
    match timeout(PATIENCE, client.get("/v1/hosts/local/policy")).await {
        Ok(reply) => reply?.parse(),
        Err(_) => Err(client.stuck(PATIENCE)),
    }
}

fn versions(version: &Version) -> Vec<Finding> {
    let up = two_units(seconds_between(version.started_at, Timestamp::now()));
    let own = env!("CARGO_PKG_VERSION");
    let text = format!("occd {} runs, process {}, up {up}", version.version, version.pid);
    let mut findings = vec![match too_old(&version.version, &version.min_client) {
        Some(error) => of("daemon", error),
        None if version.version == own => Finding::ok("daemon", text),
        None => {
            Finding::warning("daemon", format!("{text}; occ is {own}"), remedy(&version.version))
        }
    }];
    findings.extend(version.warnings.iter().map(|warning| told(warning)));
    findings
}

/// Returns what the daemon itself has to say.
fn told(warning: &str) -> Finding {
    // Work goes on without it.
    if warning.starts_with("the audit log ") {
        let dir = hint::state_dir().unwrap_or_else(|| "~/.local/state/occ".to_owned());
        let hint = format!("df -h {dir}; ls -ld {dir}");
        return Finding::warning("audit", warning, hint);
    }
    if warning.starts_with("there is no read-only socket: ") {
        let hint = match hint::in_the_way(warning) {
            Some(cure) => format!("{cure}, then: occ daemon restart"),
            None => "if its path is too long: export OCC_SOCKET=PATH, with a shorter one; then: occ daemon restart".to_owned(),
        };
        return Finding::warning("socket", warning, hint);
    }
    if let Some((_, kept)) = warning.split_once(" was damaged, and is kept as ") {
        let hint = format!(
            "look into it; when nothing there is needed: rm {}, then: occ daemon restart",
            shell_word(kept)
        );
        return Finding::warning("state", warning, hint);
    }
    // It has the last good settings in force, and takes the next ones by itself.
    let hint = exposed(warning).or_else(|| denied(warning)).unwrap_or_else(|| {
        match warning.contains(" is gone: ") {
            true => "put that file back or, if it is to be gone: occ daemon restart",
            false => "mend that file: occd reads it again at once",
        }
        .to_owned()
    });
    Finding::failed("config", warning, hint)
}

/// Returns that the daemon has its files elsewhere than where they are looked at here.
fn of_another_home(socket: &Path) -> Option<Finding> {
    let other = locks::holder_of_another_home(socket)?;
    let text = format!("{other}, and what is said here of files is not of its files");
    let hint = "the HOME with which it was started, or export XDG_RUNTIME_DIR=DIRECTORY for one of your own";
    Some(Finding::warning("state", text, hint))
}

fn socket_mode(socket: &Path) -> Finding {
    let shown = socket.display();
    match std::fs::symlink_metadata(socket) {
        Ok(meta) if meta.permissions().mode() & 0o177 != 0 => {
            let mode = meta.permissions().mode() & 0o777;
            let text = format!("{shown} has mode {mode:04o} instead of 0600");
            Finding::warning("socket", text, format!("chmod 600 {shown}"))
        }
        Ok(_) => Finding::ok("socket", format!("{shown}, for you alone")),
        Err(error) => Finding::failed("socket", format!("{shown}: {error}"), "occ daemon restart"),
    }
}

/// Returns an error as a finding.
pub(super) fn of(check: &'static str, error: CliError) -> Finding {
    let hint = error.hint.as_deref().unwrap_or("occ daemon status; occ daemon logs");
    Finding::failed(check, &error.message, hint)
}
