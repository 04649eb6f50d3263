//! A `ProxyCommand` of the user's own ssh_config: a program whose standard input and output lead to the
//! server. It is the one thing here that a shell gets to see, because ssh defines it so (ssh_config(5)).

use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use occ_proto::KEY_VARIABLES;
use occ_proto::text::sanitize;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::error::{LossCause, tenths};

/// How much of the program's last words is kept for an error.
const WORDS: usize = 300;

/// How long the program and what it has started may take to end by themselves. Some have a session at a cloud
/// service to end. Shorter than what the daemon waits for at its own end.
const GRACE: Duration = Duration::from_secs(3);

/// What they have of it even when nothing holds their output any more.
const LEAST_GRACE: Duration = Duration::from_millis(300);

/// How long is waited after a piece of a flood.
const REST: Duration = Duration::from_millis(20);

/// How long a program that has closed its output may take to say why, and to end by itself.
const PARTING: Duration = Duration::from_secs(1);
/// How often it is looked whether it has ended.
const LOOK: Duration = Duration::from_millis(10);

/// How the program ends and what it says on its standard error, for errors.
#[derive(Debug, Clone, Default)]
pub(super) struct LastWords {
    text: Arc<Mutex<String>>,
    /// How it ended by itself.
    end: Arc<OnceLock<End>>,
    /// Nothing where there is no program.
    over: Option<Over>,
}

#[derive(Debug)]
struct End {
    /// In words.
    how: String,
    exit_code: Option<i32>,
}

#[derive(Debug, Clone, Default)]
struct Over {
    /// Cancelled when it says no more.
    silent: CancellationToken,
    /// Cancelled when it has ended, or is no longer waited for.
    ended: CancellationToken,
}

impl LastWords {
    /// Returns the last line, safe to print; empty when it said nothing.
    pub(super) fn get(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns whether there is a program on the way.
    pub(super) fn is_program(&self) -> bool {
        self.over.is_some()
    }

    /// Returns that it brought no server, in words.
    pub(super) fn silence(&self, after: Duration) -> String {
        let words = self.get();
        let words = if words.is_empty() { words } else { format!(" and says: {words}") };
        format!("brought no word of a server within {} s{words}", tenths(after))
    }

    /// Returns why a connection ended before the login: its end may be the program's, and not the server's.
    pub(super) async fn explain(&self, cause: LossCause) -> LossCause {
        let (Some(over), LossCause::Closed | LossCause::Io(_)) = (&self.over, &cause) else {
            return cause;
        };
        let both = async { tokio::join!(over.silent.cancelled(), over.ended.cancelled()) };
        // Its words may still be on their way, or never come: then there are none.
        let _ = timeout(PARTING, both).await;
        match (self.end.get().map(|end| &end.how), self.get()) {
            (None, words) if words.is_empty() => cause,
            (None, words) => LossCause::ProxyCommand(format!("says: {words}")),
            (Some(end), words) if words.is_empty() => LossCause::ProxyCommand(end.clone()),
            (Some(end), words) => LossCause::ProxyCommand(format!("{end} and says: {words}")),
        }
    }

    /// Returns whether it ended with one of the exit codes by which shells say that they could not run a program.
    pub(super) fn was_not_run(&self) -> bool {
        const CANNOT: [i32; 2] = [126, 127];
        self.end.get().and_then(|end| end.exit_code).is_some_and(|code| CANNOT.contains(&code))
    }

    async fn follow(self, mut stderr: ChildStderr) {
        let _silent = self.over.clone().map(|over| over.silent.drop_guard());
        let mut tail = Vec::new();
        let mut buffer = [0; 1024];
        // An error is the end of what can be read, and so of the words.
        while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
            tail.extend_from_slice(&buffer[..read]);
            let surplus = tail.len().saturating_sub(WORDS);
            tail.drain(..surplus);
            let text = String::from_utf8_lossy(&tail);
            let line = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
            *self.text.lock().unwrap_or_else(PoisonError::into_inner) = sanitize(line.trim());
            // One that floods waits for us, and not the other way round.
            if read == buffer.len() {
                tokio::time::sleep(REST).await;
            }
        }
    }
}

/// The running program. Dropping it ends it and whatever it has started.
#[derive(Debug)]
pub(super) struct ProxyCommand {
    child: Option<Child>,
    stdin: ChildStdin,
    /// There until the end.
    stdout: Option<ChildStdout>,
    /// It has closed its output, or its input.
    at_end: bool,
    words: LastWords,
    tasks: TaskTracker,
}

impl ProxyCommand {
    /// Starts the program as ssh does: the user's shell replaces itself by it. Its last words are followed
    /// by a task of `tasks`.
    pub(super) fn start(line: &str, tasks: &TaskTracker) -> io::Result<(Self, LastWords)> {
        let shell = std::env::var_os("SHELL").filter(|shell| !shell.is_empty());
        let mut child = Command::new(shell.unwrap_or_else(|| "/bin/sh".into()))
            .arg("-c")
            .arg(format!("exec {line}"))
            .env_remove(KEY_VARIABLES[0])
            .env_remove(KEY_VARIABLES[1])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own, so that what it starts ends with it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(io::Error::other("its streams are not connected"));
        };
        let words = LastWords { over: Some(Over::default()), ..LastWords::default() };
        tasks.spawn(words.clone().follow(stderr));
        let (child, stdout, tasks) = (Some(child), Some(stdout), tasks.clone());
        let command = Self { child, stdin, stdout, at_end: false, words: words.clone(), tasks };
        Ok((command, words))
    }
}

impl Drop for ProxyCommand {
    fn drop(&mut self) {
        let Some(child) = self.child.take() else { return };
        // The id is gone once the child was waited for: its number may belong to another process by then.
        let pid = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        let ended = self.words.over.take().map(|over| over.ended.drop_guard());
        let Some(pid) = pid else { return };
        // One that ends by itself says more by its end than by ours.
        let parting = if self.at_end { PARTING } else { Duration::ZERO };
        if !self.at_end {
            signal_group(pid, Signal::TERM);
        }
        let (stdout, end) = (self.stdout.take(), Arc::clone(&self.words.end));
        self.tasks.spawn(async move {
            if let Ok(how) = timeout(parting, end_of_program(pid)).await {
                let _ = end.set(how);
            }
            drop(ended);
            if !parting.is_zero() {
                signal_group(pid, Signal::TERM);
            }
            let ended = async {
                tokio::join!(tokio::time::sleep(LEAST_GRACE), end_of(stdout));
            };
            // The child is not waited for meanwhile, so that the group's number stays this group's. Those that
            // are late are ended all the same.
            let _ = timeout(GRACE - parting, ended).await;
            signal_group(pid, Signal::KILL);
            drop(child);
        });
    }
}

/// Returns how the program has ended, once it has. It stays a zombie, so that its number stays its own.
async fn end_of_program(pid: Pid) -> End {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    loop {
        match waitid(WaitId::Pid(pid), options) {
            Ok(None) => tokio::time::sleep(LOOK).await,
            Ok(Some(status)) => {
                let exit_code = status.exit_status();
                let how = match (exit_code, status.terminating_signal()) {
                    (Some(code), _) => format!("ended with exit code {code}"),
                    (None, Some(signal)) => format!("was ended by signal {signal}"),
                    (None, None) => "ended".to_owned(),
                };
                return End { how, exit_code };
            }
            // It is nobody's child any more.
            Err(error) => {
                tracing::debug!(%error, "waiting for a ProxyCommand");
                return End { how: "ended".to_owned(), exit_code: None };
            }
        }
    }
}

/// Returns when nobody can write there any more.
async fn end_of(stdout: Option<ChildStdout>) {
    let Some(mut stdout) = stdout else { return };
    let mut buffer = [0; 4096];
    // An error is an end, too.
    while let Ok(1..) = stdout.read(&mut buffer).await {}
}

fn signal_group(group: Pid, signal: Signal) {
    if let Err(error) = rustix::process::kill_process_group(group, signal) {
        tracing::debug!(%error, "ending a ProxyCommand");
    }
}

impl AsyncRead for ProxyCommand {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.stdout {
            Some(stdout) => {
                let (before, room) = (buf.filled().len(), buf.remaining() > 0);
                let polled = Pin::new(stdout).poll_read(cx, buf);
                let is_end = room && buf.filled().len() == before;
                self.at_end |= is_end && matches!(polled, Poll::Ready(Ok(())));
                polled
            }
            None => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for ProxyCommand {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stdin).poll_write(cx, buf);
        self.at_end |= matches!(polled, Poll::Ready(Err(_)));
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdin).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdin).poll_shutdown(cx)
    }
}
