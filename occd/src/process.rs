//! The process around the daemon: hardening, the session, and telling whoever started it.

use std::io::Write as _;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;
use std::time::Duration;

use occ_proto::{KEY_VARIABLES, Secret};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;

/// Why the process cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// Nobody knows who we are.
    #[error("the login name of user id {0} is not known; set USER")]
    NoLoginName(u32),
    /// The terminal's session could not be left.
    #[error("could not leave the terminal's session")]
    Session(#[source] std::io::Error),
}

/// Keeps keys out of core dumps and other processes' reach, and allows as many files as the system does:
/// each connection and each client takes one.
pub fn harden() {
    let no_core = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, no_core) {
        tracing::warn!(%error, "core dumps could not be turned off");
    }
    #[cfg(target_os = "linux")]
    if let Err(error) =
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
    {
        tracing::warn!(%error, "the process could not be made undumpable");
    }
    let files = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: files.maximum, maximum: files.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

/// Leaves the terminal's session, so that closing the terminal does not end the daemon, and the
/// directory it was started in, so that that can be unmounted. Returns false when a child has taken over
/// and this process is to end.
pub fn leave_session() -> Result<bool, ProcessError> {
    match rustix::process::setsid() {
        Ok(_) => {}
        // A shell makes each job the leader of a group, and a leader cannot leave; a child of it can.
        Err(rustix::io::Errno::PERM) => {
            let program = std::env::current_exe().map_err(ProcessError::Session)?;
            let mut child = std::process::Command::new(program);
            child.args(std::env::args_os().skip(1)).spawn().map_err(ProcessError::Session)?;
            return Ok(false);
        }
        Err(error) => return Err(ProcessError::Session(error.into())),
    }
    rustix::process::chdir("/").map_err(|error| ProcessError::Session(error.into()))?;
    close_inherited();
    Ok(true)
}

/// Closes what the shell that started us had open beside the standard streams: a lock or a pipe would
/// otherwise be held as long as the daemon lives. Called before anything of ours is open.
fn close_inherited() {
    // Those of socket activation (sd_listen_fds(3)) come first, and are meant for us.
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<i32>().ok());
    let for_us = number("LISTEN_PID") == i32::try_from(std::process::id()).ok();
    let given = number("LISTEN_FDS").filter(|_| for_us).unwrap_or(0).max(0);
    let open = match std::fs::read_dir("/dev/fd") {
        Ok(entries) => {
            entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        }
        Err(error) => {
            tracing::warn!(%error, "what was inherited stays open");
            return;
        }
    };
    // Collected first: the directory is itself among them, and closed by then.
    for descriptor in open.collect::<Vec<i32>>() {
        if descriptor >= 3 + given {
            // It is the directory's own, or another thread's of a library: nobody else's by now.
            let _ = nix::unistd::close(descriptor);
        }
    }
}

/// Returns the local login name: what the user database says, else `USER`.
pub fn login_user() -> Result<String, ProcessError> {
    let uid = rustix::process::geteuid().as_raw();
    // The database may be more than a file (LDAP, sssd); USER is what a login set from it.
    let listed = std::fs::read_to_string("/etc/passwd").ok().and_then(|passwd| {
        let mut lines = passwd.lines().map(|line| line.split(':'));
        lines.find_map(|mut fields| {
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
        })
    });
    listed
        .or_else(|| std::env::var("USER").ok())
        .or_else(|| std::env::var("LOGNAME").ok())
        .filter(|name| !name.is_empty())
        .ok_or(ProcessError::NoLoginName(uid))
}

/// Tells systemd, if it started us, and `occ`, if it did, that clients are accepted.
pub fn notify_ready(socket: &Path, daemonized: bool) {
    notify(&[NotifyState::Ready, NotifyState::Status("Clients are accepted.")]);
    if daemonized {
        let mut out = std::io::stdout();
        // Whoever started us may have gone.
        let _ = writeln!(out, "ready {}", socket.display()).and_then(|()| out.flush());
        detach_stdio();
    }
}

/// Tells systemd that we stop.
pub fn notify_stopping() {
    notify(&[NotifyState::Stopping, NotifyState::Status("What runs is given time to end.")]);
}

/// Tells systemd that the files are read anew; [`notify_reloaded`] ends that.
pub fn notify_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "systemd could not be told"),
    }
}

/// Tells systemd that the files have been read anew.
pub fn notify_reloaded() {
    notify(&[NotifyState::Ready]);
}

/// Tells systemd that we live, and how things are.
pub fn notify_alive(status: &str) {
    notify(&[NotifyState::Watchdog, NotifyState::Status(status)]);
}

/// Returns how often systemd wants to hear that we live, if it does (`WatchdogSec=`): twice as often as would do, as
/// sd_watchdog_enabled(3) advises.
pub fn watchdog_period() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2).filter(|period| !period.is_zero())
}

fn notify(state: &[NotifyState<'_>]) {
    let told = abstract_socket().map_or_else(
        || sd_notify::notify(state),
        |name| {
            let lines: String = state.iter().map(|state| format!("{state}\n")).collect();
            tell_abstract(&name, lines.as_bytes())
        },
    );
    if let Err(error) = told {
        tracing::warn!(%error, "systemd could not be told");
    }
}

/// Returns the name of the socket where systemd is told, if it is no file (`@` before it; sd_notify(3)). sd-notify knows
/// files alone.
fn abstract_socket() -> Option<Vec<u8>> {
    let socket = std::env::var_os("NOTIFY_SOCKET")?.into_vec();
    socket.strip_prefix(b"@").map(<[u8]>::to_vec)
}

#[cfg(target_os = "linux")]
fn tell_abstract(name: &[u8], text: &[u8]) -> std::io::Result<()> {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let address = SocketAddr::from_abstract_name(name)?;
    UnixDatagram::unbound()?.send_to_addr(text, &address).map(drop)
}

#[cfg(not(target_os = "linux"))]
fn tell_abstract(_name: &[u8], _text: &[u8]) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Points the standard streams at /dev/null, so that whoever started us sees their end.
fn detach_stdio() {
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null");
    let result = null.and_then(|null| {
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)?;
        Ok(())
    });
    if let Err(error) = result {
        tracing::warn!(%error, "the standard streams could not be detached");
    }
}

/// Returns the private key in our environment, if there is one. Programs that we start do not get it.
pub fn given_key() -> Option<Secret> {
    let set = |name| std::env::var(name).ok().filter(|key| !key.is_empty());
    KEY_VARIABLES.into_iter().find_map(set).map(Secret::new)
}
