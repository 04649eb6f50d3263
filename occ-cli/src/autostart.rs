//! Finding the daemon: its socket, whether to trust it, and starting it when it is not there.
//!
//! Fifty `occ` at once start one daemon: whoever holds `start.lock` in the socket's directory starts
//! it, the others find it running when they get the lock. It is started through its systemd unit where
//! there is one (`unit`), else as a process of its own.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _,
    PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use occ_proto::paths::{Env, PathError, is_read_only};
use occ_proto::policy::GRANT_SOCKET;
use occ_proto::text::sanitize;
use occ_proto::{Code, KEY_VARIABLES};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use crate::commands::Context;
use crate::error::{CliError, DAEMON_UNREACHABLE, DENIED};
use crate::hint::{exposed, shell_word, unusable};
use crate::unit;

/// How long a daemon may take to accept connections.
const START_LIMIT: Duration = Duration::from_secs(10);

/// How long a daemon that stops may take until the next can start: it gives running work 8 s.
const GOING: Duration = Duration::from_secs(10);
/// How long to wait in line to be let in.
const IN_LINE: Duration = Duration::from_secs(10);

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

/// What to do without a home directory.
const NO_HOME: &str = "export HOME=DIRECTORY, with the directory that has your .ssh";

/// What to do where it does not tell by itself.
pub(crate) const SHOWS: &str = "occ daemon run shows what it does";
/// What to do where there is no occd.
pub(crate) const INSTALL: &str = "install occd beside occ, or name it in OCCD_BIN";
/// What to do where XDG_RUNTIME_DIR names a directory that is not there, or is not this user's.
const UNSET_RUNTIME_DIR: &str =
    "unset XDG_RUNTIME_DIR, or log in anew: the system makes that directory at the login";

/// Whether a daemon may be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// When none runs, unless OCC_NO_AUTOSTART says no.
    IfNeeded,
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

/// Why there is no connection.
enum Failure {
    /// Nobody listens.
    Absent,
    /// Somebody does, or something is wrong.
    Refused(CliError),
}

/// Returns where the daemon's socket is.
pub(crate) fn socket_path(context: &Context<'_>) -> Result<PathBuf, CliError> {
    Env::from_process().socket(context.socket.as_deref()).map_err(|error| {
        let text = sanitize(&error.to_string());
        match error {
            PathError::NoHome(_) | PathError::RelativeHome(..) => {
                CliError::daemon(format!("{text}.")).hint(NO_HOME)
            }
            PathError::SocketNotAbsolute(path) => {
                let given =
                    if context.socket.is_some() { "--socket " } else { "export OCC_SOCKET=" };
                // As Docker's variables have it, and D-Bus's.
                let of_url = ["unix://", "unix:"]
                    .iter()
                    .find_map(|scheme| path.to_str()?.strip_prefix(scheme));
                let meant = match of_url.filter(|path| path.starts_with('/')) {
                    Some(path) => shown(Path::new(path)),
                    None => format!("\"$PWD/{}\"", shown(&path)),
                };
                CliError::usage(format!("{text}."))
                    .hint(format!("{given}{meant}, or leave it out for the usual one"))
            }
            PathError::SocketPathTooLong { .. } => CliError::usage(format!("{text}."))
                .hint("export OCC_SOCKET=PATH, with a shorter one in a directory of its own"),
        }
    })
}

/// Returns a checked connection to the daemon, starting one where that is allowed.
pub(crate) async fn connect(context: &Context<'_>, start: Start) -> Result<Found, CliError> {
    let socket = socket_path(context)?;
    let sought = (context.socket.clone(), start);
    match try_connect(&socket).await {
        Ok(stream) => return Ok(Found { socket, stream, started: false, sought }),
        Err(Failure::Refused(error)) => return Err(error),
        Err(Failure::Absent) => {}
    }
    // What a daemon of ours would serve there is everything.
    if socket.file_name() == Some(OsStr::new(GRANT_SOCKET)) {
        let message = format!("The grant of {} has ended, or was revoked.", shown(&socket));
        return Err(CliError::absent(message)
            .hint("occ grant list, where it was made, shows those in force"));
    }
    if start == Start::Never || (start == Start::IfNeeded && is_forbidden()) {
        let message = format!("occd is not running (socket {}).", shown(&socket));
        return Err(CliError::absent(message).hint("occ daemon start"));
    }
    let _lock = lock(&socket).await?;
    // Another occ may have started it while this one waited for the lock, and one that stops still has its own.
    let going = tokio::time::Instant::now() + GOING;
    loop {
        match try_connect(&socket).await {
            Ok(stream) => return Ok(Found { socket, stream, started: false, sought }),
            Err(Failure::Refused(error)) => return Err(error),
            Err(Failure::Absent) => {}
        }
        let is_going = socket.symlink_metadata().is_ok() && lock_holder(&socket).is_some();
        if !is_going || tokio::time::Instant::now() > going {
            break;
        }
        tokio::time::sleep(STEP).await;
    }
    start_daemon(context, &socket).await?;
    let stream = connect_checked(&socket).await?;
    if start == Start::IfNeeded {
        context.ui.note_if_talking(&format!(
            "occd was not running: started (socket {}).",
            shown(&socket)
        ));
    }
    Ok(Found { socket, stream, started: true, sought })
}

/// Returns why something was cut off: what was open through a grant ends with it, and its socket has gone by then.
pub(crate) fn of_ended_grant(socket: &Path, error: CliError) -> CliError {
    let is_grants = socket.file_name() == Some(OsStr::new(GRANT_SOCKET));
    let is_cut = error.code == DAEMON_UNREACHABLE || error.is_interrupted();
    if !is_grants || !is_cut || socket.symlink_metadata().is_ok() {
        return error;
    }
    let code = Code::PolicyDenied.as_str().to_owned();
    let message = format!("The grant of {} has ended, or was revoked.", shown(socket));
    CliError { exit: DENIED, code, ..CliError::failed(message) }
        .hint("occ grant list, where it was made, shows those in force")
}

/// Returns whether occ is to start no daemon by itself.
pub(crate) fn is_forbidden() -> bool {
    std::env::var_os("OCC_NO_AUTOSTART").is_some_and(|v| !v.is_empty() && v != "0")
}

/// Returns a checked connection to a daemon that must be there.
pub(crate) async fn connect_checked(socket: &Path) -> Result<UnixStream, CliError> {
    match try_connect(socket).await {
        Ok(stream) => Ok(stream),
        Err(Failure::Refused(error)) => Err(error),
        Err(Failure::Absent) => Err(CliError::daemon("occd went away.").hint("occ daemon start")),
    }
}

/// Connects, and waits where others are before us: the kernel's line is full then (`EAGAIN`, unix(7)).
async fn open(socket: &Path) -> io::Result<UnixStream> {
    let full = match UnixStream::connect(socket).await {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => error,
        done => return done,
    };
    // Who waits in the kernel has its turn; who asks again and again has none where others do so, too.
    let path = socket.to_owned();
    let waiting = tokio::task::spawn_blocking(|| std::os::unix::net::UnixStream::connect(path));
    let stream = match tokio::time::timeout(IN_LINE, waiting).await {
        Ok(waited) => waited.map_err(io::Error::other)??,
        Err(_) => return Err(full),
    };
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

async fn try_connect(socket: &Path) -> Result<UnixStream, Failure> {
    match check_directory(socket) {
        Ok(true) => {}
        Ok(false) => return Err(Failure::Absent),
        Err(error) => return Err(Failure::Refused(error)),
    }
    let stream = match open(socket).await {
        Ok(stream) => stream,
        Err(error) => {
            return Err(match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    displaced(socket).map_or(Failure::Absent, Failure::Refused)
                }
                io::ErrorKind::WouldBlock => Failure::Refused(
                    CliError::daemon(format!(
                        "occd takes no more clients at {}: others wait there already.",
                        shown(socket)
                    ))
                    .hint("ss -xp shows which programs they are; try again"),
                ),
                _ => Failure::Refused(
                    displaced(socket).unwrap_or_else(|| cannot_be_opened(socket, &error)),
                ),
            });
        }
    };
    let peer = stream
        .peer_cred()
        .map_err(|error| Failure::Refused(CliError::daemon(format!("occd's user: {error}"))))?;
    let own = rustix::process::geteuid().as_raw();
    if peer.uid() != own && Some(peer.uid()) != trusted_owner().map_err(Failure::Refused)? {
        return Err(Failure::Refused(
            CliError::daemon(format!(
                "the program behind {} runs as user {}, not as you ({own}): not used.",
                shown(socket),
                peer.uid()
            ))
            .hint(format!("rm {}, if that user is to have nothing there", shown(socket))),
        ));
    }
    Ok(stream)
}

/// Returns that a daemon runs and something else has its socket's place, if that is how it is: it serves clients that it
/// has, and no other reaches it. The next one could not start either.
pub(crate) fn displaced(socket: &Path) -> Option<CliError> {
    let pid = lock_holder(socket)?;
    let meta = socket.symlink_metadata().ok()?;
    if meta.file_type().is_socket() {
        return None;
    }
    let what = format!("{} exists and is not a socket", shown(socket));
    let cure = and_then(in_the_way(&what)?, RESTART);
    let text = format!("occd (process {pid}) runs and cannot be reached: {what}.");
    Some(CliError::daemon(text).hint(cure))
}

/// Returns the error for a socket that is there, and cannot be opened.
fn cannot_be_opened(socket: &Path, error: &io::Error) -> CliError {
    let shown = shown(socket);
    // To open it takes the right to write, unix(7).
    let is_closed = socket.metadata().is_ok_and(|meta| {
        let is_ours = meta.uid() == rustix::process::geteuid().as_raw();
        meta.file_type().is_socket() && is_ours && meta.mode() & 0o200 == 0
    });
    let hint = match is_closed {
        true => format!("chmod 600 {}", shell_word(&shown)),
        false => format!("ls -l {shown}; move it away if it is not a socket of yours"),
    };
    CliError::daemon(format!("occd's socket {shown} cannot be opened: {error}")).hint(hint)
}

/// Returns whose socket is trusted beside this user's: the number that OCC_SOCKET_OWNER has. In a container, a grant's
/// socket is that of a user whom the container does not know.
fn trusted_owner() -> Result<Option<u32>, CliError> {
    const NAME: &str = "OCC_SOCKET_OWNER";
    let Some(set) = std::env::var_os(NAME).filter(|set| !set.is_empty()) else { return Ok(None) };
    let number = set.to_str().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| {
        CliError::usage(format!("{NAME} is the number of a user, such as 1000, and that is none."))
            .hint("id -u NAME tells it")
    })
}

/// Returns a path as text that is safe for a terminal.
pub(crate) fn shown(path: &Path) -> String {
    sanitize(&path.to_string_lossy())
}

/// Returns the directory of a socket; sockets are absolute paths.
fn directory(socket: &Path) -> &Path {
    socket.parent().unwrap_or(Path::new("/"))
}

/// Returns whether a socket's directory is there, and refuses one that another user could put a socket into, or in which
/// occd would not start.
fn check_directory(socket: &Path) -> Result<bool, CliError> {
    let dir = directory(socket);
    let refused = |why: &str| {
        let text = format!("the socket directory {} {why}: not used.", shown(dir));
        CliError::daemon(text).hint(format!("ls -ld {}", shown(dir)))
    };
    let refuse = |why: &str| Err(refused(why));
    let meta = match std::fs::symlink_metadata(dir) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => {
            return Err(refused(&format!("cannot be looked at ({error})")).hint(cure_of(dir)));
        }
    };
    if meta.file_type().is_symlink() {
        return refuse("is a symbolic link");
    }
    if !meta.is_dir() {
        return refuse("is not a directory");
    }
    // Mounted from another machine, as it were; only its owner can put anything there.
    if Some(meta.uid()) == trusted_owner()? {
        return match meta.mode() & 0o022 {
            0 => Ok(true),
            _ => refuse("can be written to by others than its owner"),
        };
    }
    let is_ours = meta.uid() == rustix::process::geteuid().as_raw();
    // One for everybody, as /tmp is, is to stay as it is.
    if meta.mode() & 0o022 != 0 && (!is_ours || meta.mode() & 0o1000 != 0) {
        let own = shown(&dir.join("occ").join(socket.file_name().unwrap_or_default()));
        return Err(refused("can be written to by others").hint(format!(
            "--socket {own}, or export OCC_SOCKET={own}: occ makes that directory, for you alone"
        )));
    }
    if !is_ours {
        let error = refused(&format!("belongs to user {}", meta.uid()));
        return Err(error.hint(format!(
            "ls -ld {}; OCC_SOCKET_OWNER={} if that is whom you trust here",
            shown(dir),
            meta.uid()
        )));
    }
    // Through that of a grant for any user others may pass, and can neither look nor put anything there.
    let is_grants = socket.file_name() == Some(OsStr::new(GRANT_SOCKET));
    let mode = meta.mode() & 0o777;
    if mode != 0o700 && !(is_grants && mode == 0o711) {
        let why = format!("has mode {:04o} instead of 0700", meta.mode() & 0o7777);
        return Err(refused(&why).hint(format!("chmod 700 {}", shown(dir))));
    }
    Ok(true)
}

/// Takes the lock that makes one daemon out of many starters; it is released when the file is dropped.
async fn lock(socket: &Path) -> Result<std::fs::File, CliError> {
    let dir = directory(socket);
    let fail =
        |what: &str, error: io::Error| CliError::daemon(format!("{what} {}: {error}", shown(dir)));
    if !check_directory(socket)? {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            // Whatever the umask takes away.
            .and_then(|()| std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)))
            .map_err(|error| fail("cannot create", error).hint(cure_of(dir)))?;
        check_directory(socket)?;
    }
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0))
        .open(dir.join("start.lock"))
        .map_err(|error| fail("cannot open start.lock in", error).hint(cure_of(dir)))?;
    // The holder waits at most START_LIMIT, so this wait ends; blocking costs the least.
    loop {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(fail("cannot lock start.lock in", error.into())),
        }
    }
}

/// Returns the process of a daemon that holds its lock. It may have no socket: somebody removed the file.
pub(crate) fn lock_holder(socket: &Path) -> Option<i32> {
    held(&socket.with_extension("lock"))?.trim().parse().ok()
}

/// Returns where a daemon of ours serves that has another socket, and what to do about it.
pub(crate) fn elsewhere(socket: &Path) -> Option<(String, String)> {
    let text = held(&Env::from_process().state_dir().ok()?.join("occd.lock"))?;
    let (pid, other) = text.trim_end().split_once('\n')?;
    let other = shown(Path::new(other));
    (other != shown(socket)).then(|| {
        let text = format!("Another occd (process {}) runs on the socket {other}.", sanitize(pid));
        (text, ways_to(&other))
    })
}

/// Returns what is written in a lock that somebody holds. What is in one that nobody holds is a process that is gone.
fn held(lock: &Path) -> Option<String> {
    let mut file = std::fs::File::open(lock).ok()?;
    let free = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared).is_ok();
    let mut text = String::new();
    (!free && io::Read::read_to_string(&mut file, &mut text).is_ok()).then_some(text)
}

/// Returns how to use or end a daemon on another socket.
fn ways_to(socket: &str) -> String {
    format!("occ --socket {socket} uses that one; occ --socket {socket} daemon stop ends it")
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

/// Returns the daemon's directory, as text that is safe for a terminal.
pub(crate) fn state_dir() -> Option<String> {
    Env::from_process().state_dir().ok().map(|dir| shown(&dir))
}

/// Returns what to do about another daemon, on another socket, that keeps ours from starting: one that was started with
/// another XDG_RUNTIME_DIR, or none, as `su` and cron do.
fn other_daemon(reason: &str) -> Option<String> {
    let (_, other) = reason.split_once("another occd (process ")?;
    let (other, _) = other.split_once(") uses the state directory ")?;
    Some(match other.split_once(", on the socket ") {
        Some((_, socket)) => ways_to(socket),
        None => format!("kill {other} ends it"),
    })
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
        // It has lost its socket.
        error.hint("occ daemon stop ends it")
    } else {
        error.hint(SHOWS)
    })
}

/// Returns what has a daemon start, for the words with which it does not, where they alone tell. `then` starts it.
pub(crate) fn cure(said: &str, then: &str) -> Option<String> {
    if said.contains("HOME is ") {
        return Some(NO_HOME.to_owned());
    }
    let no_runtime_dir = || {
        let (_, rest) = said.split_once("nothing can be made in ")?;
        let (dir, _) = rest.split_once(": ")?;
        of_runtime_dir(Path::new(dir), then)
    };
    let in_place = in_the_way(said).or_else(|| of_state(said)).or_else(|| exposed(said));
    in_place.map(|cure| and_then(cure, then)).or_else(no_runtime_dir).or_else(|| other_daemon(said))
}

/// Returns what has the state directory be used, for words that name it.
fn of_state(said: &str) -> Option<String> {
    let dir = Env::from_process().state_dir().ok().filter(|dir| said.contains(&shown(dir)))?;
    unusable(&dir).map(|(_, cure)| cure)
}

fn and_then(cure: String, then: &str) -> String {
    format!("{cure}, then: {then}")
}

/// Returns what to do about a directory of the socket in which nothing can be made.
fn cure_of(dir: &Path) -> String {
    of_runtime_dir(dir, START).unwrap_or_else(|| {
        of_state(&shown(dir)).map_or_else(
            || format!("ls -ld {0} {1}", shown(directory(dir)), shown(dir)),
            |cure| and_then(cure, START),
        )
    })
}

/// Returns the same where it is XDG_RUNTIME_DIR that names the directory: one of occ's own that is closed is opened, and
/// the others are the system's.
fn of_runtime_dir(dir: &Path, then: &str) -> Option<String> {
    let named = Env::from_process().xdg_runtime_dir.filter(|named| dir.starts_with(named))?;
    let own = rustix::process::geteuid().as_raw();
    let is_closed = |meta: std::fs::Metadata| meta.uid() == own && meta.mode() & 0o300 != 0o300;
    let closed = dir != named && std::fs::metadata(dir).is_ok_and(is_closed);
    Some(match closed {
        true => and_then(format!("chmod 700 {}", shell_word(&dir.to_string_lossy())), then),
        false => UNSET_RUNTIME_DIR.to_owned(),
    })
}

/// Returns how something is moved away that is in a socket's place, if that is what the daemon says.
pub(crate) fn in_the_way(said: &str) -> Option<String> {
    let (before, _) = said.split_once(" exists and is not a socket")?;
    let path = before.find('/').and_then(|start| before.get(start..))?;
    Some(format!("mv {} {}", shell_word(path), shell_word(&format!("{path}.old"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_private_directory_of_ours_will_do() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("run");
        let (socket, granted) = (dir.join("occd.sock"), dir.join(GRANT_SOCKET));
        assert!(!check_directory(&socket).unwrap());
        std::fs::create_dir(&dir).unwrap();
        for (mode, good, good_for_grant) in [
            (0o700, true, true),
            (0o750, false, false),
            (0o711, false, true),
            (0o777, false, false),
            (0o701, false, false),
        ] {
            std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(check_directory(&socket).is_ok(), good, "{mode:o}");
            assert_eq!(check_directory(&granted).is_ok(), good_for_grant, "{mode:o}");
        }
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
        let link = top.path().join("link");
        std::os::unix::fs::symlink(&dir, &link).unwrap();
        let error = check_directory(&link.join("occd.sock")).unwrap_err();
        assert!(error.message.contains("symbolic link") && error.exit == 3, "{}", error.message);
    }
}
