//! A `ProxyCommand` of the user's own ssh_config: a program whose standard input and output lead to the
//! server. It is the one thing here that a shell gets to see, because ssh defines it so (ssh_config(5)).

use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use occ_proto::KEY_VARIABLES;
use occ_proto::text::sanitize;
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::error::{ConnectError, LossCause};

/// How much of the program's last words is kept for an error.
const WORDS: usize = 300;

/// How long the program and what it has started may take to end by themselves. Some have a session at a cloud
/// service to end. Shorter than what the daemon waits for at its own end.
const GRACE: Duration = Duration::from_secs(3);

/// What they have of it even when nothing holds their output any more.
const LEAST_GRACE: Duration = Duration::from_millis(300);

/// How long is waited after a piece of a flood.
const REST: Duration = Duration::from_millis(20);

/// How long a program that has closed its output may take to say why.
const PARTING: Duration = Duration::from_secs(1);

/// What the program says on its standard error, for errors.
#[derive(Debug, Clone, Default)]
pub(super) struct LastWords {
    text: Arc<Mutex<String>>,
    /// Cancelled when it says no more; nothing where there is no program.
    silent: Option<CancellationToken>,
}

impl LastWords {
    /// Returns the last line, safe to print; empty when it said nothing.
    pub(super) fn get(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts the words of the program beside an error that it probably caused.
    pub(super) async fn explain(&self, error: ConnectError) -> ConnectError {
        if let Some(silent) = &self.silent {
            // Its words may still be on their way, or never come: then there are none.
            let _ = timeout(PARTING, silent.cancelled()).await;
        }
        let words = self.get();
        match error {
            ConnectError::Lost { phase, .. } if !words.is_empty() => {
                let cause = LossCause::ProxyCommand(words);
                ConnectError::Lost { phase, cause }
            }
            error => error,
        }
    }

    async fn follow(self, mut stderr: ChildStderr) {
        let _silent = self.silent.clone().map(CancellationToken::drop_guard);
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
        let words = LastWords { silent: Some(CancellationToken::new()), ..LastWords::default() };
        tasks.spawn(words.clone().follow(stderr));
        let (child, stdout, tasks) = (Some(child), Some(stdout), tasks.clone());
        Ok((Self { child, stdin, stdout, tasks }, words))
    }
}

impl Drop for ProxyCommand {
    fn drop(&mut self) {
        let Some(child) = self.child.take() else { return };
        // The id is gone once the child was waited for: its number may belong to another process by then.
        let pid = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        let Some(pid) = pid else { return };
        signal_group(pid, Signal::TERM);
        let stdout = self.stdout.take();
        self.tasks.spawn(async move {
            let ended = async {
                tokio::join!(tokio::time::sleep(LEAST_GRACE), end_of(stdout));
            };
            // The child is not waited for meanwhile, so that the group's number stays this group's. Those that
            // are late are ended all the same.
            let _ = timeout(GRACE, ended).await;
            signal_group(pid, Signal::KILL);
            drop(child);
        });
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
            Some(stdout) => Pin::new(stdout).poll_read(cx, buf),
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
        Pin::new(&mut self.stdin).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdin).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdin).poll_shutdown(cx)
    }
}
