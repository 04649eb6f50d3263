//! Commands on the host: one whose answer is looked at, and one that is a step of the installation.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use occ_proto::Secret;
use occ_proto::exec::{ExecRequest, Exit, STDOUT};
use tokio::time::{Instant, timeout, timeout_at};
use zeroize::Zeroizing;

use super::InstallError;
use super::sudo::Root;
use crate::container::SandboxError;
use crate::container::operations::Progress;
use crate::exec::{self, Command, Control, ExecError, Running, Shell, Step};
use crate::host::{HostHandle, Tries};
use crate::prompts::Client;
use crate::ssh::Frame;

/// The most bytes of an answer that are looked at.
const ANSWER: usize = 64 * 1024;
/// The most bytes of one line that are shown.
const LINE: usize = 4096;
/// The last lines of a step that are told when it fails.
const LAST: usize = 10;
/// How long a step has to end after a signal.
const GRACE: Duration = Duration::from_secs(5);
/// How long signalling it may take.
const SIGNAL: Duration = Duration::from_secs(30);
/// Finds the processes of a step by the variable that all of them have, and signals them. This one has it in the text of
/// another, SUDO_COMMAND. Not by `grep -a`, which busybox has not.
const KILL: &str = r#"
for f in $(grep -lF "$1" /proc/[0-9]*/environ 2>/dev/null); do
  tr '\0' '\n' 2>/dev/null <"$f" | grep -qxF "$1" || continue
  f=${f#/proc/}; kill -"$2" "${f%/environ}" 2>/dev/null
done; exit 0"#;

/// What a command answered.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) exit: Exit,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// Runs a command to its end. `input` is what it reads, as one line.
pub(super) async fn ask(
    host: &HostHandle,
    client: &Client,
    argv: &[String],
    input: Option<&Secret>,
    limit: Duration,
) -> Result<Said, SandboxError> {
    let command = command(argv)?.limited(Some(limit));
    let said = said(host, client, &command, input).await;
    said.map_err(|error| failed(argv.first().map_or("", String::as_str), error))
}

async fn said(
    host: &HostHandle,
    client: &Client,
    command: &Command,
    input: Option<&Secret>,
) -> Result<Said, ExecError> {
    let mut running = start(host, client, command, input).await?;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let exit = loop {
        match running.next().await {
            Step::Output(frame) => {
                let into = if frame.stream() == STDOUT { &mut stdout } else { &mut stderr };
                let data = frame.data();
                into.extend_from_slice(&data[..data.len().min(ANSWER - into.len())]);
            }
            Step::Ended(exit) => break exit?,
        }
    };
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Said { exit, stdout: text(stdout), stderr: text(stderr) })
}

/// Runs a step to its end, and tells what it says. When the operation is cancelled it is ended.
pub(super) async fn run(
    host: &HostHandle,
    client: &Client,
    step: &[String],
    shown: &str,
    root: &Root,
    progress: &Progress,
) -> Result<(), SandboxError> {
    let cancelled = || SandboxError::Cancelled { undone: false };
    let cancel = progress.cancelled();
    let (argv, mark) = root.argv(step);
    let command = command(&argv)?;
    let starting = start(host, client, &command, root.password());
    let started = cancel.run_until_cancelled(starting).await.ok_or_else(cancelled)?;
    let mut running = started.map_err(|error| failed(shown, error))?;
    let mut output = Output::new(progress);
    let ended = loop {
        let next = cancel.run_until_cancelled(running.next()).await;
        match next {
            Some(Step::Output(frame)) => output.push(&frame),
            Some(Step::Ended(ended)) => break ended,
            None => {
                progress.step(format!("ending {shown}"));
                let ended = end(host, client, &mut running, mark.as_deref(), root, &mut output);
                let note = match ended.await {
                    true => format!("`{shown}` was ended; installing again begins anew"),
                    false => format!("`{shown}` may still run"),
                };
                progress.note(note);
                return Err(cancelled());
            }
        }
    };
    output.finish();
    let exit = ended.map_err(|error| failed(shown, error))?;
    match exit.code {
        Some(0) => Ok(()),
        _ => {
            let (command, how) = (shown.to_owned(), how(&exit));
            Err(InstallError::Failed { command, how, log: output.last.into() }.into())
        }
    }
}

/// Ends a step: by the signals that any command gets, and as root where it is root's, which sshd does not signal.
/// Returns whether it is known to have ended.
async fn end(
    host: &HostHandle,
    client: &Client,
    running: &mut Running,
    mark: Option<&str>,
    root: &Root,
    output: &mut Output<'_>,
) -> bool {
    let control = running.control();
    if let Some(mark) = mark {
        for signal in ["TERM", "KILL"] {
            let kill = ["sh", "-c", KILL, "sh", mark, signal].map(str::to_owned);
            let (argv, _) = root.argv(&kill);
            let beside = run_beside(&control, &argv, root.password());
            if timeout(SIGNAL, beside).await.ok().flatten().is_none()
                && let Err(error) = ask(host, client, &argv, root.password(), SIGNAL).await
            {
                tracing::debug!(host = %host.name(), %error, "a step could not be signalled");
            }
            let deadline = Instant::now() + GRACE;
            while let Ok(next) = timeout_at(deadline, running.next()).await {
                match next {
                    Step::Output(frame) => output.push(&frame),
                    Step::Ended(ended) => return ended.is_ok(),
                }
            }
        }
    }
    control.cancel();
    loop {
        match running.next().await {
            Step::Output(frame) => output.push(&frame),
            Step::Ended(ended) => return ended.is_ok_and(|exit| !exit.may_still_run),
        }
    }
}

/// Runs a command on the connection of another to its end: it is there also when the daemon stops, which ends all that
/// is no part of that. Returns nothing where it was not run.
async fn run_beside(control: &Control, argv: &[String], input: Option<&Secret>) -> Option<()> {
    let command = command(argv).ok()?;
    let connection = control.connection()?;
    let system = connection.system().await?;
    let (channel, _) = connection.session(false).await.ok()?;
    channel.request_exec(&command.line("", Shell::of(&system.shell), None)).await.ok()?;
    channel.accepted().await.ok().filter(|accepted| *accepted)?;
    if let Some(secret) = input {
        channel.write_secret(line(secret)).await.ok()?;
    }
    channel.eof().await.ok()?;
    channel.exited().await;
    channel.exit().map(drop)
}

/// Returns a command for the host. sudo and the package managers say the same everywhere in the C locale.
fn command(argv: &[String]) -> Result<Command, InstallError> {
    let request = ExecRequest {
        argv: argv.iter().map(|word| word.as_str().into()).collect(),
        env: BTreeMap::from([("LC_ALL".to_owned(), "C".to_owned())]),
        ..ExecRequest::default()
    };
    // Ours, apart from the login's name.
    Command::new(request).map_err(|bad| InstallError::Look(bad.0))
}

async fn start(
    host: &HostHandle,
    client: &Client,
    command: &Command,
    input: Option<&Secret>,
) -> Result<Running, ExecError> {
    let progress = exec::Progress::default();
    let running = exec::start(host, command, Tries::default(), client, &progress).await?;
    let control = running.control();
    let given = async {
        if let Some(secret) = input {
            control.write_secret(line(secret)).await?;
        }
        control.close_input().await
    };
    if given.await.is_err() {
        tracing::debug!(host = %host.name(), "a command ended before it had its input");
    }
    Ok(running)
}

/// Returns a secret as a line, which is wiped when it has been sent.
fn line(secret: &Secret) -> Bytes {
    let text = secret.expose().as_bytes();
    // Made at its full length: one that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len() + 1));
    bytes.extend_from_slice(text);
    bytes.push(b'\n');
    Bytes::from_owner(bytes)
}

/// Returns why a command is not known to have ended.
fn failed(command: &str, source: ExecError) -> SandboxError {
    let command = command.to_owned();
    match source {
        ExecError::Unreachable(unreachable) => SandboxError::Unreachable(unreachable),
        ExecError::NoSession(_)
        | ExecError::NoShell(_)
        | ExecError::TooLong { .. }
        | ExecError::Refused
        | ExecError::NotStarted => InstallError::NotStarted { command, source }.into(),
        _ => InstallError::Unknown { command, source }.into(),
    }
}

fn how(exit: &Exit) -> String {
    match (exit.code, &exit.signal) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown result".to_owned(),
    }
}

/// What a step says, line by line.
struct Output<'a> {
    progress: &'a Progress,
    /// The beginnings of lines: of standard output and of standard error.
    begun: [Vec<u8>; 2],
    last: VecDeque<String>,
}

impl<'a> Output<'a> {
    fn new(progress: &'a Progress) -> Self {
        Self { progress, begun: [Vec::new(), Vec::new()], last: VecDeque::new() }
    }

    fn push(&mut self, frame: &Frame) {
        let at = usize::from(frame.stream() != STDOUT);
        for byte in frame.data() {
            match byte {
                b'\n' | b'\r' => self.end(at),
                byte if self.begun[at].len() < LINE => self.begun[at].push(byte),
                _ => {}
            }
        }
    }

    fn end(&mut self, at: usize) {
        let line = std::mem::take(&mut self.begun[at]);
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if line.is_empty() {
            return;
        }
        if self.last.len() == LAST {
            self.last.pop_front();
        }
        self.last.push_back(line.clone());
        self.progress.output(line);
    }

    fn finish(&mut self) {
        self.end(0);
        self.end(1);
    }
}
