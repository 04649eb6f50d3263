//! Starting the daemon when it is not there.
//!
//! Fifty `occ` at once start one daemon: one has its turn (`locks`) and starts it, the others find it running when theirs
//! comes. It is started through its systemd unit where there is one (`unit`), else as a process of its own.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use occ_proto::paths::{Env, is_grants, is_read_only};
use occ_proto::text::sanitize;
use occ_proto::{Code, KEY_VARIABLES};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use crate::commands::Context;
use crate::endpoint::{
    Failure, connect_checked, directory, make_directory, named_socket, shown, socket_path,
    try_connect,
};
use crate::error::{CliError, DAEMON_UNREACHABLE, DENIED};
use crate::hint::{cure, state_dir};
use crate::locks::{self, Turn};
use crate::unit;

/// How long a daemon may take to accept connections.
const START_LIMIT: Duration = Duration::from_secs(10);

/// How long a daemon that stops may take until the next can start: it gives running work 8 s.
const GOING: Duration = Duration::from_secs(10);

/// How often to look whether it is gone.
const STEP: Duration = Duration::from_millis(20);

/// The most of a failing daemon's words that are read, in bytes.
const MAX_REASON: u64 = 64 * 1024;

/// EX_CONFIG of sysexits.h: the daemon's exit code for an invalid occd.toml.
const EX_CONFIG: i32 = 78;

/// What starts a daemon where none runs.
pub(crate) const START: &str = "occ daemon start";
/// What starts one in place of the one that runs.
pub(crate) const RESTART: &str = "occ daemon restart";

/// What to do where it does not tell by itself.
pub(crate) const SHOWS: &str = "occ daemon run shows what it does";
/// What to do where there is no occd.
pub(crate) const INSTALL: &str = "install occd beside occ, or name it in OCCD_BIN";

/// Whether a daemon may be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// When none runs, unless OCC_NO_AUTOSTART says no.
    IfNeeded,
    /// The same for whoever goes on with the next one, where the one before was killed, and not stopped by somebody.
    IfKilled,
    /// When none runs: the user asked for it.
    Asked,
    /// Never.
    Never,
}

/// A daemon that answers and is ours.
#[derive(Debug)]
pub(crate) struct Found {
    /// Its socket.
    pub(crate) socket: PathBuf,
    /// The connection on which it was checked.
    pub(crate) stream: UnixStream,
    /// It was started just now.
    pub(crate) started: bool,
    /// How it was looked for: `--socket`, and whether one may be started.
    pub(crate) sought: (Option<PathBuf>, Start),
}

impl Found {
    /// Returns its process, as the kernel names it.
    pub(crate) fn pid(&self) -> Option<i32> {
        self.stream.peer_cred().ok().and_then(|peer| peer.pid())
    }
}

/// Returns a checked connection to the daemon, starting one where that is allowed.
pub(crate) async fn connect(context: &Context<'_>, start: Start) -> Result<Found, CliError> {
    let sought = (context.socket.clone(), start);
    let mut socket = named_socket(context)?;
    let mut found = try_connect(&socket).await;
    // Who has which lock is asked only where nobody listens.
    if matches!(found, Err(Failure::Absent)) {
        let other = socket_path(context)?;
        if other != socket {
            found = try_connect(&other).await;
            socket = other;
        }
    }
    match found {
        Ok(stream) => return Ok(Found { socket, stream, started: false, sought }),
        Err(Failure::Refused(error)) => return Err(error),
        Err(Failure::Absent) => {}
    }
    // What a daemon of ours would serve there is everything.
    if is_grants(&socket) {
        if has_ended(&socket) {
            return Err(CliError::absent(of_ended(&socket)).hint(IN_FORCE));
        }
        let message = format!(
            "Nobody serves the grant of {}: occd is stopped, or has its sockets in another place.",
            shown(&socket)
        );
        return Err(CliError::absent(message).hint(
            "by whoever made it: occ grant list says where it is; after occ daemon start it goes on",
        ));
    }
    let is_refused = match start {
        Start::Asked => false,
        Start::IfNeeded => is_forbidden(),
        Start::IfKilled => is_forbidden() || !locks::was_killed(&socket),
        Start::Never => true,
    };
    if is_refused {
        let message = format!("occd is not running (socket {}).", shown(&socket));
        return Err(CliError::absent(message).hint("occ daemon start"));
    }
    let turn = locks::turn(context.ui).await?;
    start_in_turn(context, start, &turn).await
}

/// Returns a checked connection to the daemon, started where none runs, for whoever has the turn to do so.
pub(crate) async fn start_in_turn(
    context: &Context<'_>,
    start: Start,
    _turn: &Turn,
) -> Result<Found, CliError> {
    let sought = (context.socket.clone(), start);
    // Another occ may have started it while this one waited for its turn, in another place; and one that stops still has
    // its lock.
    let socket = socket_path(context)?;
    let going = tokio::time::Instant::now() + GOING;
    loop {
        match try_connect(&socket).await {
            Ok(stream) => return Ok(Found { socket, stream, started: false, sought }),
            Err(Failure::Refused(error)) => return Err(error),
            Err(Failure::Absent) => {}
        }
        let is_going = socket.symlink_metadata().is_ok() && locks::holder(&socket).is_some();
        if !is_going || tokio::time::Instant::now() > going {
            break;
        }
        tokio::time::sleep(STEP).await;
    }
    make_directory(&socket)?;
    if let Err(error) = start_daemon(context, &socket).await {
        // Somebody may have been faster without a turn, as systemd is, or with another HOME.
        let socket = socket_path(context)?;
        return match try_connect(&socket).await {
            Ok(stream) => Ok(Found { socket, stream, started: false, sought }),
            Err(_) => Err(error),
        };
    }
    let stream = connect_checked(&socket).await?;
    if matches!(start, Start::IfNeeded | Start::IfKilled) {
        context.ui.note_if_talking(&format!(
            "occd was not running: started (socket {}).",
            shown(&socket)
        ));
    }
    Ok(Found { socket, stream, started: true, sought })
}

/// Returns why something was cut off: what was open through a grant ends with it, and its socket has gone by then.
pub(crate) fn of_ended_grant(socket: &Path, error: CliError) -> CliError {
    let is_cut = error.code == DAEMON_UNREACHABLE || error.is_interrupted();
    if !is_grants(socket) || !is_cut || !has_ended(socket) {
        return error;
    }
    let code = Code::PolicyDenied.as_str().to_owned();
    CliError { exit: DENIED, code, ..CliError::failed(of_ended(socket)) }.hint(IN_FORCE)
}

/// What shows which grants there are.
const IN_FORCE: &str = "occ grant list, where it was made, shows those in force";

/// Returns whether a grant is no more: its directory goes with it, where a daemon that stops takes the socket alone. Where that
/// is mounted, as in a container, it has no name any more.
fn has_ended(socket: &Path) -> bool {
    match directory(socket).metadata() {
        Ok(meta) => meta.nlink() == 0,
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

fn of_ended(socket: &Path) -> String {
    format!("The grant of {} has ended, or was revoked.", shown(socket))
}

/// Returns whether occ is to start no daemon by itself.
pub(crate) fn is_forbidden() -> bool {
    std::env::var_os("OCC_NO_AUTOSTART").is_some_and(|v| !v.is_empty() && v != "0")
}

/// Returns whether OCCD_BIN names the daemon's program.
pub(crate) fn is_named() -> bool {
    std::env::var_os("OCCD_BIN").is_some_and(|value| !value.is_empty())
}

/// Returns the daemon's program: OCCD_BIN, else beside this program, else wherever PATH has it.
pub(crate) fn occd_program() -> OsString {
    if let Some(program) = std::env::var_os("OCCD_BIN").filter(|value| !value.is_empty()) {
        return program;
    }
    // The canonical path: occ may be a link in a directory that has no occd.
    std::env::current_exe()
        .and_then(|path| path.canonicalize())
        .map(|path| path.with_file_name("occd"))
        .ok()
        .filter(|path| path.is_file())
        .map_or_else(|| OsString::from("occd"), PathBuf::into_os_string)
}

/// Returns the error for a daemon's program that cannot be run.
pub(crate) fn cannot_run(program: &std::ffi::OsStr, error: &io::Error) -> CliError {
    if error.kind() == io::ErrorKind::NotFound {
        CliError::daemon("occd was not found beside occ nor in PATH.").hint(INSTALL)
    } else {
        CliError::daemon(format!("{} cannot be run: {error}", sanitize(&program.to_string_lossy())))
    }
}

/// Starts the daemon and returns when it accepts connections: through its unit where systemd has one. A
/// unit that fails is told, and does not keep anybody from working.
async fn start_daemon(context: &Context<'_>, socket: &Path) -> Result<(), CliError> {
    if is_read_only(socket) {
        let text = format!(
            "occd is not running, and {} is where it serves those who only look.",
            sanitize(&socket.display().to_string())
        );
        return Err(CliError::daemon(text)
            .hint("occ daemon start, without --socket and OCC_SOCKET, starts it"));
    }
    if units(context).await.is_some_and(|units| units.installed) {
        match unit::start().await {
            Ok(()) => return Ok(()),
            Err(why) => context.ui.note(&format!(
                "Warning: systemd could not start {}: {why} Starting occd without it.",
                unit::UNIT
            )),
        }
    }
    spawn(context, socket).await
}

/// Returns what systemd knows of occd, where it is systemd's to start.
pub(crate) async fn units(context: &Context<'_>) -> Option<unit::Units> {
    if is_usual(context) { systemd_units().await } else { None }
}

/// Returns what systemd knows of occd, whoever else may start one.
pub(crate) async fn systemd_units() -> Option<unit::Units> {
    unit::units(Env::from_process().xdg_runtime_dir.as_deref()).await
}

/// Returns whether nobody asked for another socket or another program than the unit has.
fn is_usual(context: &Context<'_>) -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    context.socket.is_none() && !set("OCC_SOCKET") && !set("OCCD_BIN")
}

/// Starts the daemon's program and returns when it accepts connections.
async fn spawn(context: &Context<'_>, socket: &Path) -> Result<(), CliError> {
    let program = occd_program();
    let mut command = Command::new(&program);
    command.arg("--daemonize");
    // A key that is meant for our own requests is not for all that the daemon will ever do.
    for name in KEY_VARIABLES {
        command.env_remove(name);
    }
    // Nor does it, and what it starts, belong to a session from which it is started.
    command.env_remove("OCC_SESSION_ID");
    if context.socket.is_some() || std::env::var_os("OCC_SOCKET").is_some_and(|v| !v.is_empty()) {
        command.arg("--socket").arg(socket);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| cannot_run(&program, &error))?;
    let outcome = tokio::time::timeout(START_LIMIT, until_ready(&mut child)).await;
    match outcome {
        Ok(result) => result,
        Err(_) => {
            // Ours, by its handle; the daemon proper has left it if it got that far.
            let _ = child.start_kill();
            Err(CliError::daemon(format!(
                "occd did not start: not ready after {} seconds.",
                START_LIMIT.as_secs()
            ))
            .hint(SHOWS))
        }
    }
}

/// Waits for the daemon's `ready` line, or for its end and its reason.
async fn until_ready(child: &mut Child) -> Result<(), CliError> {
    if let Some(stdout) = child.stdout.take() {
        let mut line = String::new();
        let mut reader = BufReader::new(stdout).take(MAX_REASON);
        if reader.read_line(&mut line).await.is_ok() && line.starts_with("ready ") {
            return Ok(());
        }
    }
    let mut reason = Vec::new();
    let stderr = child.stderr.take();
    let words = async {
        if let Some(stderr) = stderr {
            // What was read until an error is still the best reason there is.
            let _ = stderr.take(MAX_REASON).read_to_end(&mut reason).await;
        }
    };
    // A second is plenty for a reason that is already written; a child of occd may hold the pipe.
    let _ = tokio::time::timeout(Duration::from_secs(1), words).await;
    let status = child
        .wait()
        .await
        .map_err(|error| CliError::daemon(format!("occd did not start: {error}")))?;
    let reason = String::from_utf8_lossy(&reason);
    let reason = reason.trim().trim_start_matches("Error: ");
    let reason = &if reason.is_empty() { status.to_string() } else { sanitize(reason) };
    let error = CliError::daemon(format!("occd did not start: {reason}"));
    Err(if let Some(cure) = cure(reason, START) {
        error.hint(cure)
    } else if status.code() == Some(EX_CONFIG) {
        error.hint("mend that file, then occ daemon start")
    } else if let Some(dir) = state_dir().filter(|dir| reason.contains(dir)) {
        error.hint(format!("look at the permissions and the free space of {dir}"))
    } else if reason.contains("already running") {
        error.hint(format!("its socket is gone: {RESTART}"))
    } else {
        error.hint(SHOWS)
    })
}
