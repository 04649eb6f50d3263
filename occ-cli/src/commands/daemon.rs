//! `occ daemon`: run, start, stop, restart, status.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use occ_proto::daemon::Version;
use occ_proto::paths::{is_grants, is_read_only};
use occ_proto::text::sanitize;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::json;
use tokio::net::UnixStream;

use super::{Context, daemon_log_level, daemon_logs, service};
use crate::autostart::{self, RESTART, Start, cannot_run, occd_program};
use crate::cli::DaemonCommand;
use crate::client::Client;
use crate::duration::{seconds_between, two_units};
use crate::endpoint::{self, lasting_socket, socket_path};
use crate::error::{ABSENT, CliError, DAEMON};
use crate::hint::wake_or_kill;
use crate::locks::{self, Turn};
use crate::start_check;
use crate::unit;
use crate::versions;

/// How long a daemon may take to stop: it gives running work 10 s, and 2 s more are for the rest.
const STOP_LIMIT: Duration = Duration::from_secs(12);

/// What occd ends with where its settings are to blame: `EX_CONFIG` of sysexits.h.
const CONFIG: i32 = 78;

/// How long a daemon that is to be replaced may take to say how it is.
const SAYS: Duration = Duration::from_secs(2);

/// How often to look whether it is gone: often enough to feel instant.
const STOP_STEP: Duration = Duration::from_millis(20);

/// Runs the command and returns its exit code.
pub(crate) async fn run(context: &Context<'_>, command: &DaemonCommand) -> Result<u8, CliError> {
    match command {
        DaemonCommand::Run => Err(foreground(context)?),
        DaemonCommand::Start => start(context).await,
        DaemonCommand::Stop => stop(context).await,
        DaemonCommand::Restart => restart(context).await,
        DaemonCommand::Status => status(context).await,
        DaemonCommand::Logs(args) => daemon_logs::run(context, args).await,
        DaemonCommand::LogLevel(args) => daemon_log_level::run(context, args).await,
        DaemonCommand::Install { xdg_autostart } => service::install(context, *xdg_autostart).await,
        DaemonCommand::Uninstall => service::uninstall(context).await,
    }
}

/// Becomes occd; returns the error if that fails.
fn foreground(context: &Context<'_>) -> Result<CliError, CliError> {
    locks::refuse_as_root()?;
    let program = occd_program();
    let mut command = std::process::Command::new(&program);
    if context.socket.is_some() {
        command.arg("--socket").arg(socket_path(context)?);
    }
    Ok(cannot_run(&program, &command.exec()))
}

async fn start(context: &Context<'_>) -> Result<u8, CliError> {
    let socket = socket_path(context)?;
    let before = locks::holder(&socket);
    let by_systemd =
        before.is_none() && autostart::units(context).await.is_some_and(|units| units.listens);
    let found = autostart::connect(context, Start::Asked).await?;
    let mut started = found.started || by_systemd;
    if context.ui.json {
        return describe(context, found).await;
    }
    // It may be systemd that listens, or no occd at all; the daemon is there when it answers, and tells what is wrong.
    let reply = Client::of(found, context.ui).get("/v1/version").await?;
    let version = reply.parse::<Version>()?;
    // Another one than the one that was about to end.
    started |= before.is_some() && before != i32::try_from(version.pid).ok();
    let word = if started { "started" } else { "is already running" };
    context.ui.say(&format!("occd {word} (socket {}).", shown(&socket)))?;
    for warning in &version.warnings {
        context.ui.warn(warning);
    }
    Ok(0)
}

/// How a daemon was stopped.
struct Stopped {
    /// It; nothing where none ran.
    pid: Option<i32>,
    /// The one that another client has started since.
    next: Option<i32>,
}

async fn stop(context: &Context<'_>) -> Result<u8, CliError> {
    let ui = context.ui;
    let stopped = end(context).await?;
    let Some(pid) = stopped.pid else {
        if ui.json {
            ui.value(&json!({ "stopped": false, "running": false }))?;
        } else {
            ui.say("occd is not running.")?;
            tell_elsewhere(context)?;
        }
        return Ok(0);
    };
    if ui.json {
        let mut document =
            json!({ "stopped": true, "running": stopped.next.is_some(), "pid": pid });
        if let (Some(next), Some(keys)) = (stopped.next, document.as_object_mut()) {
            keys.insert("new_pid".to_owned(), json!(next));
        }
        ui.value(&document)?;
        return Ok(0);
    }
    let again = stopped.next.map_or_else(String::new, |next| {
        format!("; another client has started it again (process {next})")
    });
    ui.say(&format!("occd stopped (process {pid}){again}."))?;
    Ok(0)
}

async fn restart(context: &Context<'_>) -> Result<u8, CliError> {
    let ui = context.ui;
    let (old, new) = start_anew(context).await?;
    if ui.json {
        ui.value(
            &json!({ "restarted": old.is_some(), "running": true, "old_pid": old, "pid": new }),
        )?;
        return Ok(0);
    }
    let new = new.map_or_else(String::new, |pid| format!(" (process {pid})"));
    ui.say(&match old {
        Some(_) => format!("occd restarted{new}."),
        None => format!("occd was not running: started{new}."),
    })?;
    Ok(0)
}

/// Returns what is wrong with the settings, which occd itself knows best. That it cannot be asked is told elsewhere.
pub(super) async fn settings_fault() -> Option<String> {
    let output = start_check::checked(start_check::occd_check()).await.ok()?;
    let said = String::from_utf8_lossy(&output.stderr);
    said.lines().next().filter(|_| output.status.code() == Some(CONFIG)).map(sanitize)
}

/// Stops the daemon, if one runs, and starts one. Returns the processes of both.
pub(super) async fn start_anew(
    context: &Context<'_>,
) -> Result<(Option<i32>, Option<i32>), CliError> {
    let socket = lasting_socket(context)?;
    refuse_read_only(&socket)?;
    locks::refuse_as_root()?;
    // What keeps the next one from starting is no reason to lose the one that works.
    let reason = match locks::unusable(&socket, RESTART) {
        None => start_check::cannot_start(context, &socket, RESTART).await,
        reason => reason,
    };
    if let Some((why, cure)) = reason {
        return Err(CliError::daemon(format!("occd is not restarted: {why}")).hint(cure));
    }
    let units = autostart::units(context).await.unwrap_or_default();
    // systemd starts it as it did before.
    if !units.active
        && let Some(other) = locks::holder_of_another_home(&socket)
    {
        let text =
            format!("occd is not restarted: {other}, and one from here would have other hosts.");
        return Err(CliError::daemon(text).hint(
            "occ daemon restart where it was started, or occ daemon stop; occ daemon start for one from here",
        ));
    }
    if let Some(warning) = would_lose_hosts(context).await {
        return Err(CliError::daemon(format!("occd is not restarted: {warning}")).hint(
            "mend that file; or occ daemon stop; occ daemon start, which has no hosts then",
        ));
    }
    // Nobody starts one in between, in another place.
    let turn = locks::turn(context.ui).await?;
    let socket = lasting_socket(context)?;
    let old = if units.active {
        let old = locks::holder(&socket);
        // systemd holds its socket meanwhile, where it has one: whoever comes waits.
        let told = unit::tell(&["restart", unit::UNIT]).await;
        told.map_err(|why| CliError::daemon(format!("systemd could not restart occd: {why}")))?;
        old
    } else {
        end(context).await?.pid
    };
    start_at(context, &socket, &turn).await?;
    Ok((old, locks::holder(&socket)))
}

/// Returns what the daemon says of hosts that it alone still knows, since their file cannot be used. One that says nothing
/// in time is no reason to keep it.
async fn would_lose_hosts(context: &Context<'_>) -> Option<String> {
    let asked = async {
        let client = Client::open(context, Start::Never).await.ok()?;
        client.get_once("/v1/version").await.ok()?.parse::<Version>().ok()
    };
    let version = tokio::time::timeout(SAYS, asked).await.ok().flatten()?;
    // What is wrong with that file comes first.
    version.hosts_unsaved.then(|| version.warnings.first().map(|first| sanitize(first)))?
}

/// Starts a daemon where the one before it was, which may not be the usual place here: what leads to its sockets stays.
pub(super) async fn start_at(
    context: &Context<'_>,
    socket: &Path,
    turn: &Turn,
) -> Result<(), CliError> {
    let is_usual = socket_path(context)? == socket;
    let there = Context::plain(context.ui, Some(socket.to_owned()));
    let context = if is_usual { context } else { &there };
    autostart::start_in_turn(context, Start::Asked, turn).await.map(drop)
}

/// Refuses to stop a daemon by the socket of those who only look.
fn refuse_read_only(socket: &Path) -> Result<(), CliError> {
    if !is_read_only(socket) {
        return Ok(());
    }
    let text = format!("{} is for those who only look: occd is not stopped.", shown(socket));
    Err(CliError::usage(text).hint("leave out --socket, and unset OCC_SOCKET"))
}

/// Stops the daemon and waits until it is there no more. Another client may have started a new one by then.
async fn end(context: &Context<'_>) -> Result<Stopped, CliError> {
    let socket = lasting_socket(context)?;
    refuse_read_only(&socket)?;
    let units = autostart::units(context).await.unwrap_or_default();
    if units.active || units.listens {
        let pid = locks::holder(&socket);
        // The socket first, or somebody could have the daemon started again.
        let which = [(units.listens, unit::SOCKET), (units.active, unit::UNIT)];
        let which = which.into_iter().filter(|(active, _)| *active).map(|(_, name)| name);
        let told = unit::tell(&std::iter::once("stop").chain(which).collect::<Vec<_>>()).await;
        told.map_err(|why| CliError::daemon(format!("systemd could not stop occd: {why}")))?;
        // The daemon may be another one, that systemd did not start.
        let next = locks::holder(&socket);
        if next.is_none() || next != pid {
            return Ok(Stopped { pid, next });
        }
    }
    let found = match autostart::connect(context, Start::Never).await {
        Ok(found) => found,
        // Whatever has the place of its socket, it is known by its lock.
        Err(error) if error.code == ABSENT || endpoint::displaced(&socket).is_some() => {
            return match locks::holder(&socket) {
                Some(pid) => terminate(pid, &socket).await,
                None => Ok(Stopped { pid: None, next: None }),
            };
        }
        Err(error) => return Err(error),
    };
    let peer = found
        .stream
        .peer_cred()
        .map_err(|error| CliError::daemon(format!("occd's process cannot be told: {error}")))?;
    // Whoever holds the lock and the socket is the daemon, whatever it answers and in which version.
    if let Some(pid) = locks::holder(&socket).filter(|pid| Some(*pid) == peer.pid()) {
        return terminate(pid, &socket).await;
    }
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
    terminate(stated.unwrap_or_default(), &socket).await
}

/// Tells a process to stop and waits until it is the daemon no more.
async fn terminate(pid: i32, socket: &Path) -> Result<Stopped, CliError> {
    let process = Some(pid)
        .filter(|pid| *pid > 1)
        .and_then(Pid::from_raw)
        .ok_or_else(|| CliError::failed(format!("occd's process number {pid} is odd.")))?;
    kill_process(process, Signal::TERM)
        .map_err(|error| CliError::failed(format!("occd (process {pid}): {error}")))?;
    gone(pid, socket).await?;
    let next = locks::holder(socket).or(listener(socket).await);
    Ok(Stopped { pid: Some(pid), next })
}

/// Waits until a process that is about to end is the daemon no more.
pub(super) async fn gone(pid: i32, socket: &Path) -> Result<(), CliError> {
    let gone = async {
        // Only when it has let go of its lock can another one start.
        while locks::holder(socket) == Some(pid)
            || listener(socket).await == Some(pid)
            || is_running(pid)
        {
            tokio::time::sleep(STOP_STEP).await;
        }
    };
    if tokio::time::timeout(STOP_LIMIT, gone).await.is_ok() {
        return Ok(());
    }
    Err(CliError::failed(format!(
        "occd (process {pid}) was told to stop but is still there after {} seconds.",
        STOP_LIMIT.as_secs()
    ))
    .hint(wake_or_kill(pid)))
}

/// Returns whether a process has not ended yet. The kernel closes its files, and with them the lock, a little earlier.
/// One that only waits to be reaped has ended, which `kill(2)` does not tell: a container may have nobody who reaps.
#[cfg(target_os = "linux")]
fn is_running(pid: i32) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{PidfdFlags, pidfd_open};

    // A kernel without them (before 5.3) leaves it at the lock.
    let Some(Ok(process)) = Pid::from_raw(pid).map(|pid| pidfd_open(pid, PidfdFlags::empty()))
    else {
        return false;
    };
    let mut ended = [PollFd::new(&process, PollFlags::IN)];
    matches!(poll(&mut ended, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
}

/// Returns whether a process has not ended yet.
#[cfg(not(target_os = "linux"))]
fn is_running(pid: i32) -> bool {
    Pid::from_raw(pid).is_some_and(|pid| test_kill_process(pid).is_ok())
}

/// Returns the process that listens on the socket, if one does. A socket that systemd keeps names the last one, which
/// may be gone.
async fn listener(socket: &Path) -> Option<i32> {
    let pid = UnixStream::connect(socket).await.ok()?.peer_cred().ok()?.pid()?;
    test_kill_process(Pid::from_raw(pid)?).is_ok().then_some(pid)
}

/// Tells of a daemon that runs on another socket. Returns whether there is one.
fn tell_elsewhere(context: &Context<'_>) -> Result<bool, CliError> {
    let Some((text, hint)) = locks::elsewhere(&socket_path(context)?) else {
        return Ok(false);
    };
    context.ui.note(&format!("{text}\nhint: {hint}"));
    Ok(true)
}

async fn status(context: &Context<'_>) -> Result<u8, CliError> {
    let socket = lasting_socket(context)?;
    // To connect would start it.
    if locks::holder(&socket).is_none()
        && autostart::units(context).await.is_some_and(|units| units.listens)
    {
        if context.ui.json {
            let document = json!({ "running": false, "socket": socket.to_string_lossy(), "systemd_listens": true });
            context.ui.value(&document)?;
        } else {
            let text = format!(
                "occd is not running: systemd starts it for whoever uses its socket ({}).",
                shown(&socket)
            );
            context.ui.say(&text)?;
        }
        return Ok(DAEMON);
    }
    match autostart::connect(context, Start::Never).await {
        Ok(found) => describe(context, found).await,
        Err(error) if error.code == ABSENT && !is_grants(&socket) => {
            if let Some(pid) = locks::holder(&socket) {
                let text = format!(
                    "occd (process {pid}) runs, but its socket {} is gone: it is just ending, or somebody removed it.",
                    shown(&socket)
                );
                return Err(CliError::daemon(text).hint("occ daemon restart"));
            }
            if context.ui.json {
                context
                    .ui
                    .value(&json!({ "running": false, "socket": socket.to_string_lossy() }))?;
            } else {
                context.ui.say(&format!("occd is not running (socket {}).", shown(&socket)))?;
                if !tell_elsewhere(context)? {
                    // What would start none is no hint.
                    locks::refuse_as_root()?;
                    context.ui.note("hint: occ daemon start");
                }
            }
            Ok(DAEMON)
        }
        Err(error) => Err(error),
    }
}

async fn describe(context: &Context<'_>, found: autostart::Found) -> Result<u8, CliError> {
    let ui = context.ui;
    let socket = found.socket.clone();
    let client = Client::of(found, context.ui);
    let reply = match client.get("/v1/version").await {
        Ok(reply) => reply,
        Err(error) => return of_grant(context, &socket, granted(&client, &error).ok_or(error)?),
    };
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
    if let Some(error) = versions::too_old(&version.version, &version.min_client) {
        ui.note(&format!("{} hint: {}", error.message, error.hint.unwrap_or_default()));
    } else if version.version != own {
        let remedy = versions::remedy(&sanitize(&version.version));
        ui.note(&format!("occ is {own}. hint: {remedy}"));
    }
    Ok(0)
}

/// Returns the grant and its host, where it is a grant's socket that refuses to tell of the daemon: all is well with it.
pub(super) fn granted(client: &Client, error: &CliError) -> Option<(String, String)> {
    let problem = error.problem.as_ref().filter(|_| client.is_grants())?;
    let (_, name) = problem.detail.split_once("refused by the grant ")?;
    let (name, _) = name.split_once(',')?;
    Some((sanitize(name), problem.host.as_ref()?.to_string()))
}

/// Tells of a daemon that is reached through a grant.
fn of_grant(
    context: &Context<'_>,
    socket: &Path,
    (grant, host): (String, String),
) -> Result<u8, CliError> {
    let ui = context.ui;
    if ui.json {
        let socket = socket.to_string_lossy();
        ui.value(&json!({ "running": true, "socket": socket, "grant": grant, "host": host }))?;
        return Ok(0);
    }
    let socket = shown(socket);
    ui.say(&format!("occd is running: {socket} is the socket of the grant {grant}."))?;
    ui.note(&format!("hint: occ policy show --host {host} shows what it gives"));
    Ok(0)
}

fn shown(socket: &Path) -> String {
    sanitize(&socket.to_string_lossy())
}
