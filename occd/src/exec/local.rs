//! Programs on this machine: the second executor.
//!
//! What a client sees is what it would see of a host: the program leads a group of its own and gets the same
//! signals, one that is not there is told of on standard error with exit code 127, and its output waits for the
//! reader. No shell is between, unless the request is for one.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use occ_proto::KEY_VARIABLES;
use occ_proto::exec::Tty;
use occ_proto::text::sanitize;
use tokio::process::Child;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Command;
use super::process::{Input, Output, Process};
use crate::blocking::blocking;
use crate::metrics::HostMetrics;

/// The shell where the user has none.
const SHELL: &str = "/bin/sh";
/// What a shell exits with for a program that is not there, and for one that cannot be run (POSIX, 2.8.2).
const NOT_FOUND: u32 = 127;
const NOT_EXECUTABLE: u32 = 126;

/// So many programs are started at once. Each start holds its thread up for about a millisecond.
const STARTS: usize = 2;

/// This machine, as a place to run programs on.
#[derive(Debug)]
pub struct Local {
    home: PathBuf,
    pub(super) tasks: TaskTracker,
    /// Cancelled when the daemon stops.
    pub(super) stop: CancellationToken,
    metrics: Arc<HostMetrics>,
    starts: Semaphore,
}

impl Local {
    /// Returns the executor for this user. Programs are ended when `stop` is cancelled.
    pub fn new(home: PathBuf, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { home, tasks, stop, metrics: Arc::default(), starts: Semaphore::new(STARTS) }
    }

    /// Returns the numbers of the programs that were run here.
    pub fn metrics(&self) -> &Arc<HostMetrics> {
        &self.metrics
    }

    /// Returns the home directory.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Starts a program. One that cannot be started has ended at once, with the words that a shell has for that.
    pub(super) async fn spawn(self: &Arc<Self>, command: &Command) -> io::Result<Process> {
        // A thousand starts at once would leave no thread for anybody else, and the processor to programs alone.
        let _turn = self.starts.acquire().await;
        let (local, command) = (Arc::clone(self), command.clone());
        blocking(move || local.start(&command)).await
    }

    fn start(self: &Arc<Self>, command: &Command) -> io::Result<Process> {
        let started = match &command.request().tty {
            Some(tty) => self.in_terminal(command, tty),
            None => self.plain(command),
        };
        match started {
            Ok((child, input, output)) => {
                Ok(Process::new(Arc::clone(self), Some(child), input, output))
            }
            Err(error) => {
                let (status, words) = self.why_not(command, &error).ok_or(error)?;
                Ok(Process::failed(Arc::clone(self), status, &words))
            }
        }
    }

    fn plain(&self, command: &Command) -> io::Result<(Child, Input, Output)> {
        let (program, args, _) = self.words(command);
        let mut start = tokio::process::Command::new(program);
        start.args(args).process_group(0);
        start.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if command.request().clear_env {
            start.env_clear();
        }
        for name in not_for_programs() {
            start.env_remove(name);
        }
        start.envs(&command.request().env);
        start.current_dir(self.directory(command));
        let mut child = start.spawn()?;
        let input = child.stdin.take().map_or(Input::None, Input::Pipe);
        let output = Output::pipes(child.stdout.take(), child.stderr.take());
        Ok((child, input, output))
    }

    fn in_terminal(&self, command: &Command, tty: &Tty) -> io::Result<(Child, Input, Output)> {
        let (pty, pts) = pty_process::open().map_err(unwrap)?;
        pty.resize(pty_process::Size::new(tty.size.rows, tty.size.cols)).map_err(unwrap)?;
        let (program, args, arg0) = self.words(command);
        let mut start = pty_process::Command::new(program).args(args);
        if let Some(arg0) = arg0 {
            start = start.arg0(arg0);
        }
        if command.request().clear_env {
            start = start.env_clear();
        }
        for name in not_for_programs() {
            start = start.env_remove(name);
        }
        start = start.env("TERM", &tty.term).envs(&command.request().env);
        start = start.current_dir(self.directory(command));
        let child = start.spawn(pts).map_err(unwrap)?;
        let (output, input) = pty.into_split();
        Ok((child, Input::Tty(input), Output::tty(output)))
    }

    /// Returns the program, its arguments, and what it takes itself for where that is something else.
    fn words<'a>(
        &self,
        command: &'a Command,
    ) -> (PathBuf, Vec<&'a OsStr>, Option<std::ffi::OsString>) {
        let request = command.request();
        let text = |bytes: &'a occ_proto::exec::Bytes| OsStr::from_bytes(&bytes.0);
        match (&request.shell, request.argv.split_first()) {
            (Some(line), _) => (shell(request), vec![OsStr::new("-c"), OsStr::new(line)], None),
            (None, Some((program, args))) => {
                (PathBuf::from(text(program)), args.iter().map(text).collect(), None)
            }
            (None, None) => {
                let shell = shell(request);
                // A login shell is one whose name begins with a hyphen (login(1)).
                let mut arg0 = std::ffi::OsString::from("-");
                arg0.push(shell.file_name().unwrap_or_default());
                (shell, Vec::new(), Some(arg0))
            }
        }
    }

    fn directory(&self, command: &Command) -> PathBuf {
        match command.request().cwd.as_deref() {
            None | Some("~") => self.home.clone(),
            // What is relative is so to where a login begins.
            Some(cwd) => self.home.join(cwd.strip_prefix("~/").unwrap_or(cwd)),
        }
    }

    /// Returns the exit status and the words of a shell for what could not be started, or nothing for a failure of
    /// the system's.
    fn why_not(&self, command: &Command, error: &io::Error) -> Option<(u32, String)> {
        let directory = self.directory(command);
        let status = match error.kind() {
            _ if !may_be_entered(&directory) => 1,
            io::ErrorKind::NotFound => NOT_FOUND,
            io::ErrorKind::PermissionDenied => NOT_EXECUTABLE,
            // No program at all (ENOEXEC), or an argument that is too long.
            _ if error.raw_os_error().is_some_and(|errno| {
                [rustix::io::Errno::NOEXEC, rustix::io::Errno::TOOBIG, rustix::io::Errno::NOTDIR]
                    .map(rustix::io::Errno::raw_os_error)
                    .contains(&errno)
            }) =>
            {
                NOT_EXECUTABLE
            }
            _ => return None,
        };
        let (program, _, _) = self.words(command);
        let words = match status {
            1 => format!(
                "occ: {} on this machine: {}",
                directory.display(),
                why_no_directory(&directory)
            ),
            NOT_FOUND => format!("{}: not found", program.display()),
            _ => format!("{}: {}", program.display(), plain(error)),
        };
        Some((status, sanitize(&words) + "\n"))
    }
}

fn may_be_entered(path: &Path) -> bool {
    path.is_dir() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// Returns the words for a directory that cannot be entered, as a host says them (command.rs).
fn why_no_directory(path: &Path) -> &'static str {
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => "permission denied",
        Ok(_) => "not a directory",
        Err(_) => "no such directory",
    }
}

/// Returns the system's words for an error, without its number.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// Returns the user's shell.
fn shell(request: &occ_proto::exec::ExecRequest) -> PathBuf {
    let named = request.env.get("SHELL").cloned().or_else(|| std::env::var("SHELL").ok());
    named.filter(|shell| shell.starts_with('/')).map_or_else(|| PathBuf::from(SHELL), PathBuf::from)
}

/// What of the daemon's environment is the daemon's alone: keys, and how it was started (sd_notify(3),
/// sd_listen_fds(3)).
fn not_for_programs() -> impl Iterator<Item = &'static str> {
    let started = [
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "LISTEN_PID",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
    ];
    KEY_VARIABLES.into_iter().chain(started)
}

fn unwrap(error: pty_process::Error) -> io::Error {
    match error {
        pty_process::Error::Io(error) => error,
        pty_process::Error::Rustix(error) => error.into(),
        other => io::Error::other(other),
    }
}
