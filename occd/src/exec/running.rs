//! A command on a host, from its start to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use occ_proto::exec::{Exit, TtySize};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::command::Command;
use super::local::Local;
use super::measured::{self, Measured};
use super::program::Program;
use super::quote::Shell;
use crate::host::{HostHandle, Tries, Unreachable};
use crate::metrics::HostMetrics;
use crate::prompts::Client;
use crate::ssh::error::tenths;
use crate::ssh::marker::{Elsewhere, Marker};
use crate::ssh::{ChannelError, Closed, Connection, ExitReport, Frame, LossCause, OutputLost};

/// How long a server may take to answer a request to run a command. It answers when it has forked, before
/// the login shell reads its files, so this is generous.
pub(crate) const ACCEPT: Duration = Duration::from_secs(30);
/// A background child may hold the output open after the program has ended. So much silence after the
/// program's end is taken for the end of the output.
const SILENCE: Duration = Duration::from_secs(1);

/// Why a command did not run, or why its end is not known.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// No connection. The command was not started.
    #[error("no connection to the host")]
    Unreachable(Unreachable),
    /// No channel. The command was not started.
    #[error("no session on the host")]
    NoSession(#[source] ChannelError),
    /// The host did not say in time which shell it has. The command was not started.
    #[error("the host did not say within {} s which shell it has", tenths(*.0))]
    NoShell(Duration),
    /// The command is longer than a server reads, which would end the connection for all who use it.
    #[error("the command is {length} bytes long, and the server takes {limit} at most")]
    TooLong {
        /// Bytes of the line that the login shell would get.
        length: usize,
        /// The most.
        limit: usize,
    },
    /// The server refused the request. The command was not started.
    #[error("the server refused to run the command")]
    Refused,
    /// The server closed the channel before it answered, twice. The command was not started.
    #[error("the server closed the session before it started the command")]
    NotStarted,
    /// The link broke while the command may have been running.
    #[error("the link broke {:.1} s into the command; it may still run or have finished", .after.as_secs_f32())]
    LinkLost {
        /// How long after the start.
        after: Duration,
        /// Why.
        #[source]
        cause: LossCause,
    },
    /// The program ended, and the link broke before the end of its output had come: what was received may
    /// lack its last part, so this is no success whatever the program's status.
    #[error("the command ended with {exit}, but the link broke before all of its output had come")]
    OutputCut {
        /// How the program ended.
        exit: ExitReport,
        /// Why the link broke.
        #[source]
        cause: LossCause,
    },
    /// The server ended the session without saying how the program ended.
    #[error("the server ended the session without saying how the command ended")]
    NoExit,
    /// The server did not answer the request.
    #[error("the server did not say within {} s whether it started the command", tenths(*.after))]
    NoAnswer {
        /// How long it had.
        after: Duration,
    },
    /// The output was not read and became too much to keep.
    #[error(
        "the output was not read and passed the limit: what was not read is lost, the command was ended"
    )]
    Overflow,
    /// This machine could not start it.
    #[error("it could not be started")]
    Spawn(#[source] std::io::Error),
    /// The server gives no terminals (`PermitTTY no`).
    #[error("the server gives no terminal")]
    NoTerminal,
    /// The output could not be kept.
    #[error("the output was not read and could not be kept on disk: {0}")]
    Spill(String),
}

/// What [`Running::next`] tells.
#[derive(Debug)]
pub enum Step {
    /// Output.
    Output(Frame),
    /// The end.
    Ended(Result<Exit, ExecError>),
}

/// A command that the host has accepted. Dropping it ends the program.
pub struct Running {
    control: Control,
    measured: Measured,
    begun: Instant,
    /// How long it may take, and when that is over.
    limit: Option<(Duration, Instant)>,
    drained: bool,
    /// It is over when its output is, whoever holds that.
    waits: bool,
    new_host_key: Option<String>,
    /// Ends when the program has ended and no more output comes. Kept over calls of [`Running::next`],
    /// whose futures may be dropped at any moment.
    silence: BoxFuture<'static, ()>,
    /// Ends the supervisor when the command is dropped.
    _gone: DropGuard,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("control", &self.control).finish_non_exhaustive()
    }
}

/// The way to a running command beside its output: input, signals, ending it.
#[derive(Debug, Clone)]
pub struct Control {
    program: Arc<Program>,
    cancel: CancellationToken,
    timed_out: Arc<AtomicBool>,
    /// The host was disconnected or removed, or the daemon stops, and the command had to end.
    cut_off: Arc<AtomicBool>,
    /// The program ended in time, and something that it started holds its output beyond that.
    left_behind: Arc<AtomicBool>,
    /// `None` until the program was told to end; then whether it is known to have ended.
    ended: watch::Receiver<Option<bool>>,
}

impl Control {
    /// Sends bytes to the program; waits while it does not take them.
    pub async fn write(&self, data: Bytes) -> Result<(), Closed> {
        self.program.write(data).await
    }

    /// The same with what a person was asked for: no trace of the host has it.
    pub async fn write_secret(&self, data: Bytes) -> Result<(), Closed> {
        self.program.write_secret(data).await
    }

    /// Tells the program that nothing more comes.
    pub async fn close_input(&self) -> Result<(), Closed> {
        self.program.eof().await
    }

    /// Sends a signal, named without `SIG`. Returns false for a name that is none.
    pub async fn signal(&self, name: &str) -> bool {
        self.program.signal(name).await
    }

    /// Tells the program's terminal its size.
    pub async fn resize(&self, size: TtySize) {
        self.program.resize(size).await;
    }

    /// Returns the connection that it runs on, if it runs on a host.
    pub fn connection(&self) -> Option<&Arc<Connection>> {
        match &*self.program {
            Program::Remote(channel) => Some(channel.connection()),
            Program::Local(_) => None,
        }
    }

    /// Runs a task beside the command, of the same owner.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.program.spawn(task);
    }

    /// Waits until the program was told to end and has, or has had its time for that.
    pub async fn told_to_end(&self) {
        let mut ended = self.ended.clone();
        let by_the_daemon = async {
            if ended.wait_for(Option::is_some).await.is_err() {
                // It ended by itself: nobody tells it any more.
                std::future::pending::<()>().await;
            }
        };
        // The program may be over, and its end not yet read, when the user gives up.
        let over_and_given_up = async {
            self.cancel.cancelled().await;
            tokio::select! {
                () = self.program.exited() => {}
                _ = self.program.closed() => {}
            }
        };
        tokio::select! {
            () = by_the_daemon => {}
            () = over_and_given_up => {}
        }
    }

    /// Begins to end the program: TERM, then KILL. What it still writes goes on arriving.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }
}

/// Waits for the time limit, a cancellation or the loss of output and ends the program. A task of its own, so that a reader
/// who takes no output does not stop the clock.
async fn supervise(
    control: Control,
    deadline: Option<Instant>,
    gone: CancellationToken,
    ended: watch::Sender<Option<bool>>,
) {
    let limit = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = gone.cancelled() => return,
        _ = control.program.closed() => return,
        () = control.cancel.cancelled() => {}
        // The host is disconnected or removed, or the daemon stops.
        () = control.program.ending() => {
            // One that has ended by itself was not: what it left behind was.
            control.cut_off.store(control.program.exit().is_none(), Ordering::Relaxed);
        }
        // The reader may be stuck for ever; the program must not run on for nobody.
        _ = control.program.output_lost() => {}
        () = limit => {
            if control.program.exit().is_some() {
                // What it left behind and still holds its output has no more time than it had itself.
                control.left_behind.store(true, Ordering::Relaxed);
                ended.send_replace(Some(true));
                return;
            }
            control.timed_out.store(true, Ordering::Relaxed);
        }
    }
    tokio::select! {
        () = gone.cancelled() => {}
        confirmed = control.program.end() => drop(ended.send_replace(Some(confirmed))),
    }
}

/// How far a start has come, for whoever gives it up.
#[derive(Debug, Default)]
pub struct Progress {
    sent: AtomicBool,
    gate: watch::Sender<Gate>,
}

/// Whether a command may be sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Gate {
    #[default]
    Open,
    Held,
    /// It is ready to be sent, and held.
    Ready,
}

impl Progress {
    /// Returns whether the command may have reached the server.
    pub fn may_have_started(&self) -> bool {
        self.sent.load(Ordering::Relaxed)
    }

    /// Has the command wait before it is sent, unless it was sent by now, until it is let go. Returns whether it
    /// does.
    pub fn hold(&self) -> bool {
        if !self.may_have_started() {
            self.gate.send_replace(Gate::Held);
        }
        !self.may_have_started()
    }

    /// Waits until the command is held and ready to be sent.
    pub async fn ready(&self) {
        // The sender is ours.
        let _ = self.gate.subscribe().wait_for(|gate| *gate == Gate::Ready).await;
    }

    /// Lets it go.
    pub fn let_go(&self) {
        self.gate.send_replace(Gate::Open);
    }

    async fn pass(&self) {
        let is_held = self.gate.send_if_modified(|gate| {
            let is_held = *gate != Gate::Open;
            if is_held {
                *gate = Gate::Ready;
            }
            is_held
        });
        if is_held {
            // The sender is ours.
            let _ = self.gate.subscribe().wait_for(|gate| *gate == Gate::Open).await;
        }
        self.set(true);
    }

    fn set(&self, sent: bool) {
        self.sent.store(sent, Ordering::Relaxed);
    }
}

/// Starts a command. As long as it has not been sent, a broken connection is made anew, as the tries allow; once
/// it may have been sent, nothing is repeated.
pub async fn start(
    host: &HostHandle,
    command: &Command,
    tries: Tries,
    client: &Client,
    progress: &Progress,
) -> Result<Running, ExecError> {
    let started = start_when_connected(host, command, tries, client, progress).await;
    started.inspect_err(|error| measured::not_started(host.metrics(), command, error))
}

async fn start_when_connected(
    host: &HostHandle,
    command: &Command,
    tries: Tries,
    client: &Client,
    progress: &Progress,
) -> Result<Running, ExecError> {
    let asked = Timestamp::now();
    let begun = Instant::now();
    // Its limit is for the connection and the command together, unless somebody wants to wait for the host.
    let limit = command.limit().filter(|_| matches!(tries, Tries::Retries(_)));
    let end = limit.map(|limit| begun + limit);
    let deadline = begun + limit.unwrap_or(Duration::MAX).min(tries.patience());
    let answering = host.time_for_answers();
    let before = host.snapshot().dials();
    let dialled = || u32::try_from(host.snapshot().dials() - before).unwrap_or(u32::MAX);
    loop {
        // The time that a person took for an answer counts for nobody.
        let answered = || host.time_for_answers().saturating_sub(answering);
        let by = deadline + answered();
        let connecting = host.connection_by(by, tries.after(dialled()), client);
        let connecting = host.at_most_until(end.map(|end| end + answered()), begun, connecting);
        let connection = connecting.await.map_err(ExecError::Unreachable)?;
        let by = deadline + answered();
        let terminal = command.request().tty.is_some();
        let connection =
            host.for_commands(connection, terminal, by).await.map_err(ExecError::Unreachable)?;
        let time = Time { by: deadline + answered(), end: end.map(|end| end + answered()) };
        match start_on(host, &connection, command, asked, time, progress).await {
            Err(ExecError::NoSession(ChannelError::Lost(cause))) if tries.allow(dialled()) => {
                tracing::info!(host = %host.name(), %cause, "the connection broke before a command was sent");
                connection.closed().cancelled().await;
            }
            // The host has another connection now.
            Err(ExecError::NoSession(ChannelError::Retired)) => tokio::task::yield_now().await,
            result => return result,
        }
    }
}

/// The time of a start.
#[derive(Debug, Clone, Copy)]
struct Time {
    /// When the command has its session.
    by: Instant,
    /// When it is over, if that is known before it begins.
    end: Option<Instant>,
}

async fn start_on(
    host: &HostHandle,
    connection: &Arc<Connection>,
    command: &Command,
    asked: Timestamp,
    time: Time,
    progress: &Progress,
) -> Result<Running, ExecError> {
    let waiting_since = Instant::now();
    let shell = if command.needs_shell() {
        match timeout_at(time.by, connection.system()).await {
            Ok(Some(system)) => Shell::of(&system.shell),
            Ok(None) => return Err(ExecError::NoSession(ChannelError::Lost(connection.cause()))),
            Err(_) => return Err(ExecError::NoShell(waiting_since.elapsed())),
        }
    } else {
        // What is known by now, and not worth waiting for.
        connection.known_system().map_or(Shell::Posix, |system| Shell::of(&system.shell))
    };
    let tty = command.request().tty.as_ref();
    // What runs in a terminal is ended by the terminal's end.
    let marker = match tty {
        None => Marker::for_command(connection, elsewhere(host)),
        Some(_) => None,
    };
    for fresh in [false, true] {
        let (channel, spare) = match timeout_at(time.by, connection.session(fresh)).await {
            Ok(session) => session.map_err(ExecError::NoSession)?,
            Err(_) => {
                return Err(ExecError::NoSession(ChannelError::Full(waiting_since.elapsed())));
            }
        };
        if let Some(marker) = &marker {
            channel.set_marker(marker.clone());
        }
        let offered = channel.offer_variables(command.variables());
        let taken = match timeout(ACCEPT, offered).await {
            Ok(Ok(taken)) => taken,
            Ok(Err(Closed::ByServer)) => {
                if spare {
                    connection.spare_failed();
                }
                continue;
            }
            Ok(Err(Closed::Connection(cause))) => {
                return Err(ExecError::NoSession(ChannelError::Lost(cause)));
            }
            // It has to answer, and does not: on the next channel nothing is offered.
            Err(_) => {
                connection.takes_no_variables();
                continue;
            }
        };
        let line = command.line_beside(
            &taken,
            host.name().as_str(),
            shell,
            marker.as_ref().map(Marker::id),
        );
        let limit = connection.longest_command();
        if line.len() > limit {
            return Err(ExecError::TooLong { length: line.len(), limit });
        }
        let begun = Instant::now();
        progress.pass().await;
        let answer = async {
            match tty {
                None => channel.request_exec(&line).await?,
                Some(tty) => {
                    let command = (!command.is_bare_login()).then_some(&line[..]);
                    channel.request_in_terminal(tty, command).await?;
                    if !channel.accepted().await? {
                        return Ok(Answer::NoTerminal);
                    }
                }
            }
            channel.accepted().await.map(Answer::of)
        };
        // A command that may last only so long has no more time to begin.
        let limit = command.limit().map(|limit| (limit, time.end.unwrap_or(begun + limit)));
        let left = limit.map(|(_, end)| end.saturating_duration_since(begun));
        let patience = left.map_or(ACCEPT, |left| left.min(ACCEPT));
        match timeout(patience, answer).await {
            Ok(Ok(Answer::Started)) => {
                let new_host_key = channel.connection().host_key_recorded_since(asked);
                let program = Program::Remote(channel);
                let times = (begun, limit);
                return Ok(Running::new(program, command, times, new_host_key, host.metrics()));
            }
            Ok(Ok(Answer::Refused)) => return Err(ExecError::Refused),
            // Dropping the channel ends what may have been started without one.
            Ok(Ok(Answer::NoTerminal)) => return Err(ExecError::NoTerminal),
            // No answer, but a sign that it ran.
            Ok(Err(Closed::ByServer)) if channel.exit().is_some() || channel.has_received() => {
                return Err(ExecError::NoExit);
            }
            // Closed without an answer: the command did not run, and may be sent once more.
            Ok(Err(Closed::ByServer)) => {
                if spare {
                    connection.spare_failed();
                }
                progress.set(false);
                tracing::debug!(spare, "a session was closed before its command started");
            }
            Ok(Err(Closed::Connection(cause))) => {
                return Err(ExecError::LinkLost { after: begun.elapsed(), cause });
            }
            Err(_) => return Err(ExecError::NoAnswer { after: patience }),
        }
    }
    Err(ExecError::NotStarted)
}

/// What a server says to a request to run something.
enum Answer {
    Started,
    Refused,
    NoTerminal,
}

impl Answer {
    fn of(accepted: bool) -> Self {
        if accepted { Self::Started } else { Self::Refused }
    }
}

/// Starts a command on this machine.
pub(super) async fn start_local(
    local: &Arc<Local>,
    command: &Command,
    progress: &Progress,
) -> Result<Running, ExecError> {
    let begun = Instant::now();
    progress.pass().await;
    let process = local.spawn(command).await.map_err(ExecError::Spawn);
    let process =
        process.inspect_err(|error| measured::not_started(local.metrics(), command, error))?;
    let limit = command.limit().map(|limit| (limit, begun + limit));
    let program = Program::Local(process);
    Ok(Running::new(program, command, (begun, limit), None, local.metrics()))
}

/// Returns the way to another connection of a host.
fn elsewhere(host: &HostHandle) -> Elsewhere {
    let host = host.clone();
    Arc::new(move || {
        let host = host.clone();
        Box::pin(async move { host.connection(Tries::Retries(0), &Client::default()).await.ok() })
    })
}

/// Waits for the program's end and then for silence that is the program's and not the link's: what the
/// server sent before it answers has arrived.
fn silence(program: &Arc<Program>) -> BoxFuture<'static, ()> {
    let program = Arc::clone(program);
    Box::pin(async move {
        program.exited().await;
        tokio::time::sleep(SILENCE).await;
        program.settle().await;
    })
}

impl Running {
    fn new(
        program: Program,
        command: &Command,
        (begun, limit): (Instant, Option<(Duration, Instant)>),
        new_host_key: Option<String>,
        metrics: &Arc<HostMetrics>,
    ) -> Self {
        let measured = Measured::new(metrics, begun, command);
        let (ended, ended_receiver) = watch::channel(None);
        let control = Control {
            program: Arc::new(program),
            cancel: CancellationToken::new(),
            timed_out: Arc::default(),
            cut_off: Arc::default(),
            left_behind: Arc::default(),
            ended: ended_receiver,
        };
        let gone = CancellationToken::new();
        let supervisor = supervise(control.clone(), limit.map(|(_, end)| end), gone.clone(), ended);
        control.program.spawn(supervisor);
        let waits = command.request().wait_output;
        let silence =
            if waits { Box::pin(std::future::pending()) } else { silence(&control.program) };
        let _gone = gone.drop_guard();
        Self {
            control,
            measured,
            begun,
            limit,
            drained: false,
            waits,
            new_host_key,
            silence,
            _gone,
        }
    }

    /// Returns the way to the program's input.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Returns type and fingerprint of a host key that was recorded by the connection made for this
    /// command.
    pub fn new_host_key(&self) -> Option<String> {
        self.new_host_key.clone()
    }

    /// Waits for output or the end. After the end it must not be called again. Dropping the future loses
    /// nothing.
    pub async fn next(&mut self) -> Step {
        loop {
            let drained = self.drained;
            let program = &self.control.program;
            let mut ended = self.control.ended.clone();
            let left_behind = &self.control.left_behind;
            let over = async {
                tokio::select! {
                    // Output may follow the close from our own buffers, so a drained one alone counts.
                    _ = program.closed(), if drained => {}
                    _ = program.output_lost(), if drained => {}
                    () = &mut self.silence => {}
                    // Nothing helps: the host ignores signals and does not close.
                    Ok(_) = ended.wait_for(|ended| *ended == Some(false)
                        || left_behind.load(Ordering::Relaxed)) => {}
                }
            };
            tokio::select! {
                biased;
                frame = program.recv(), if !drained => match frame {
                    Some(frame) => {
                        if !self.waits && program.exit().is_some() {
                            self.silence = silence(program);
                        }
                        self.measured.output();
                        return Step::Output(frame);
                    }
                    None => self.drained = true,
                },
                () = over => return Step::Ended(self.outcome()),
            }
        }
    }

    /// Returns how the command ended, for somebody who does not wait for the rest of its output.
    pub fn outcome(&self) -> Result<Exit, ExecError> {
        let outcome = self.what_became();
        self.measured.ended(&outcome);
        outcome
    }

    fn what_became(&self) -> Result<Exit, ExecError> {
        match self.control.program.lost_output() {
            Some(OutputLost::Overflow { .. }) => return Err(ExecError::Overflow),
            Some(OutputLost::Spill(error)) => return Err(ExecError::Spill(error)),
            None => {}
        }
        let closed = self.control.program.closed_reason();
        let duration_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let told_to_end = self.control.program.was_told_to_end();
        let timed_out = self.control.timed_out.load(Ordering::Relaxed);
        let limit = self.limit.filter(|_| timed_out);
        let limit_ms = limit.map(|(limit, _)| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        let cut_off = self.control.cut_off.load(Ordering::Relaxed);
        let hop = || self.control.connection()?.ending_hop().cloned();
        let cut_off_by = if cut_off { hop() } else { None };
        let exit = |code, signal| Exit {
            code,
            signal,
            timed_out,
            limit_ms,
            cut_off,
            cut_off_by: cut_off_by.clone(),
            may_still_run: *self.control.ended.borrow() == Some(false),
            duration_ms,
        };
        match (self.control.program.exit(), closed) {
            (Some(exit), Some(Closed::Connection(cause)))
                if !told_to_end && !self.control.program.output_complete() =>
            {
                Err(ExecError::OutputCut { exit, cause })
            }
            (Some(ExitReport::Status(code)), _) => Ok(exit(Some(code), None)),
            (Some(ExitReport::Signal(signal)), _) => Ok(exit(None, Some(signal))),
            (None, Some(Closed::Connection(cause))) => {
                Err(ExecError::LinkLost { after: self.begun.elapsed(), cause })
            }
            // We ended it, and the server said no more than that.
            (None, _) if told_to_end => Ok(exit(None, None)),
            (None, _) => Err(ExecError::NoExit),
        }
    }
}
