//! `occ daemon`: run, start, stop, status.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use occ_proto::daemon::Version;
use occ_proto::text::sanitize;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::net::UnixStream;

use super::Context;
use crate::autostart::{self, Start, cannot_run, occd_program, socket_path};
use crate::cli::DaemonCommand;
use crate::client::Client;
use crate::duration::{seconds_between, two_units};
use crate::error::{CliError, DAEMON};
use crate::versions;

/// How long a daemon may take to stop: it gives running work 10 s, and 2 s more are for the rest.
const STOP_LIMIT: Duration = Duration::from_secs(12);

/// How often to look whether it is gone: often enough to feel instant.
const STOP_STEP: Duration = Duration::from_millis(20);

/// Runs the command and returns its exit code.
pub(crate) async fn run(context: &Context<'_>, command: &DaemonCommand) -> Result<u8, CliError> {
    match command {
        DaemonCommand::Run => Err(foreground(context)?),
        DaemonCommand::Start => start(context).await,
        DaemonCommand::Stop => stop(context).await,
        DaemonCommand::Status => status(context).await,
    }
}

/// Becomes occd; returns the error if that fails.
fn foreground(context: &Context<'_>) -> Result<CliError, CliError> {
    let program = occd_program();
    let mut command = std::process::Command::new(&program);
    if context.socket.is_some() {
        command.arg("--socket").arg(socket_path(context)?);
    }
    Ok(cannot_run(&program, &command.exec()))
}

async fn start(context: &Context<'_>) -> Result<u8, CliError> {
    let found = autostart::connect(context, Start::Asked).await?;
    let started = found.started;
    let socket = found.socket.clone();
    if context.ui.json {
        return describe(context, found).await;
    }
    let word = if started { "started" } else { "is already running" };
    context.ui.say(&format!("occd {word} (socket {}).", shown(&socket)))?;
    Ok(0)
}

async fn stop(context: &Context<'_>) -> Result<u8, CliError> {
    let ui = context.ui;
    let found = match autostart::connect(context, Start::Never).await {
        Ok(found) => found,
        Err(error) if error.code == autostart::ABSENT => {
            let socket = socket_path(context)?;
            if let Some(pid) = autostart::lock_holder(&socket) {
                return end(context, pid, &socket).await;
            }
            if ui.json {
                ui.value(&json!({ "stopped": false, "running": false }))?;
            } else {
                ui.say("occd is not running.")?;
            }
            return Ok(0);
        }
        Err(error) => return Err(error),
    };
    let socket = found.socket.clone();
    let peer = found
        .stream
        .peer_cred()
        .map_err(|error| CliError::daemon(format!("occd's process cannot be told: {error}")))?;
    let version: Version = Client::of(found, context.ui).get("/v1/version").await?.parse()?;
    // The number to signal must be the one that the kernel names, not only the one in a document.
    let stated = i32::try_from(version.pid).ok();
    if peer.pid().is_some() && peer.pid() != stated {
        return Err(CliError::failed(format!(
            "occd says it is process {}, but its socket belongs to process {}: not stopped.",
            version.pid,
            peer.pid().unwrap_or_default()
        ))
        .hint("systemctl --user stop occd.socket occd.service, if systemd holds its socket"));
    }
    let pid = stated.unwrap_or_default();
    end(context, pid, &socket).await
}

/// Tells the daemon to stop and waits until it is there no more. Another client may have started a new one by then.
async fn end(context: &Context<'_>, pid: i32, socket: &Path) -> Result<u8, CliError> {
    let ui = context.ui;
    let process = Some(pid)
        .filter(|pid| *pid > 1)
        .and_then(Pid::from_raw)
        .ok_or_else(|| CliError::failed(format!("occd's process number {pid} is odd.")))?;
    kill_process(process, Signal::TERM)
        .map_err(|error| CliError::failed(format!("occd (process {pid}): {error}")))?;
    let gone = async {
        // Only when it has let go of its lock can another one start.
        while autostart::lock_holder(socket) == Some(pid) || listener(socket).await == Some(pid) {
            tokio::time::sleep(STOP_STEP).await;
        }
    };
    if tokio::time::timeout(STOP_LIMIT, gone).await.is_err() {
        return Err(CliError::failed(format!(
            "occd (process {pid}) was told to stop but is still there after {} seconds.",
            STOP_LIMIT.as_secs()
        ))
        .hint(format!("kill -9 {pid}")));
    }
    let next = autostart::lock_holder(socket).or(listener(socket).await);
    if ui.json {
        let mut document = json!({ "stopped": true, "running": next.is_some(), "pid": pid });
        if let (Some(next), Some(keys)) = (next, document.as_object_mut()) {
            keys.insert("new_pid".to_owned(), json!(next));
        }
        ui.value(&document)?;
        return Ok(0);
    }
    let again = next.map_or_else(String::new, |next| {
        format!("; another client has started it again (process {next})")
    });
    ui.say(&format!("occd stopped (process {pid}){again}."))?;
    Ok(0)
}

/// Returns the process that listens on the socket, if one does.
async fn listener(socket: &Path) -> Option<i32> {
    UnixStream::connect(socket).await.ok()?.peer_cred().ok()?.pid()
}

async fn status(context: &Context<'_>) -> Result<u8, CliError> {
    match autostart::connect(context, Start::Never).await {
        Ok(found) => describe(context, found).await,
        Err(error) if error.code == autostart::ABSENT => {
            let socket = socket_path(context)?;
            if let Some(pid) = autostart::lock_holder(&socket) {
                let text = format!(
                    "occd (process {pid}) runs, but its socket {} is gone.",
                    shown(&socket)
                );
                return Err(CliError::daemon(text).hint("occ daemon stop; occ daemon start"));
            }
            if context.ui.json {
                context
                    .ui
                    .value(&json!({ "running": false, "socket": socket.to_string_lossy() }))?;
            } else {
                context.ui.say(&format!("occd is not running (socket {}).", shown(&socket)))?;
                context.ui.note("hint: occ daemon start");
            }
            Ok(DAEMON)
        }
        Err(error) => Err(error),
    }
}

async fn describe(context: &Context<'_>, found: autostart::Found) -> Result<u8, CliError> {
    let ui = context.ui;
    let reply = Client::of(found, context.ui).get("/v1/version").await?;
    let version: Version = reply.parse()?;
    if ui.json {
        let mut document: serde_json::Value = reply.parse()?;
        if let Some(keys) = document.as_object_mut() {
            keys.insert("running".to_owned(), json!(true));
        }
        ui.value(&document)?;
        return Ok(0);
    }
    let up = two_units(seconds_between(version.started_at, Timestamp::now()));
    ui.say(&format!(
        "occd {} is running: process {}, up {up}, socket {}",
        sanitize(&version.version),
        version.pid,
        sanitize(&version.socket)
    ))?;
    for warning in &version.warnings {
        ui.warn(warning);
    }
    let own = env!("CARGO_PKG_VERSION");
    if version.version != own {
        let remedy = versions::remedy(&sanitize(&version.version));
        ui.note(&format!("occ is {own}. hint: {remedy}"));
    }
    Ok(0)
}

fn shown(socket: &Path) -> String {
    sanitize(&socket.to_string_lossy())
}
