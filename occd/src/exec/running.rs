//! A command that runs, up to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use occ_proto::exec::{Exit, TtySize};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::command::Command;
use super::error::ExecError;
use super::measured::Measured;
use super::program::Program;
use crate::metrics::HostMetrics;
use crate::ssh::{Closed, Connection, ExitReport, Frame, OutputLost};

/// A background child may hold the output open after the program has ended. So much silence after the
/// program's end is taken for the end of the output.
const SILENCE: Duration = Duration::from_secs(1);

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

    pub(super) async fn pass(&self) {
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

    pub(super) fn set(&self, sent: bool) {
        self.sent.store(sent, Ordering::Relaxed);
    }
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
    pub(super) fn new(
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
