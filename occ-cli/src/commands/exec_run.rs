//! One command on one host, from the open stream to its end: what a person and the signals do meanwhile.

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use occ_proto::error::{Code, Problem};
use occ_proto::exec::{ExecControl, ExecRequest, Exit};
use occ_proto::trust::NewHostKey;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, OwnedMutexGuard, watch};
use tokio::time::{Instant, sleep_until};

use crate::cli::ExecArgs;
use crate::client::Client;
use crate::duration::of_ms;
use crate::error::{CLOSED_PIPE, CliError, HUNG_UP, INTERRUPTED, OUTCOME_UNKNOWN, TERMINATED};
use crate::keys::{self, OtherScreen, Raw};
use crate::output::Ui;
use crate::output::host as show;
use crate::place::Place;
use crate::prompter;
use crate::stdio::Input;
use crate::ws::{End, ExecStream, Output, controls};

/// When a person is told that there is no connection yet.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a command may take to end by the signal that was sent, before it is cancelled.
const GRACE: Duration = Duration::from_secs(1);

/// The exit code for a command that --timeout ended, as timeout(1) has it.
const TIMED_OUT: u8 = 124;

/// How long the end of a cancelled command may take: TERM, 2 s, KILL, 2 s, and the way back.
const STUCK: Duration = Duration::from_secs(8);

/// A time that never comes within the life of this process.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// A command to be run.
pub(super) struct Run<'a> {
    pub(super) ui: &'a Ui,
    pub(super) place: &'a Place,
    pub(super) request: &'a ExecRequest,
    pub(super) input: Option<Input>,
    /// What is typed before the command runs may be the answer to a question.
    pub(super) input_waits: bool,
    /// Told when the person leaves the terminal that the command has.
    pub(super) left: Arc<Notify>,
    /// What it shows, if it only shows a screen: it ends with the terminal, and what is behind it goes on.
    pub(super) screen: Option<OtherScreen>,
    pub(super) signals: Signals,
    /// Whose questions are put to the person; nobody's where that is done for many at once.
    pub(super) asks: Option<&'a Client>,
}

/// A command that ended, and what was seen of it.
pub(super) struct Ended {
    pub(super) exit: Exit,
    pub(super) caught: Option<Caught>,
    pub(super) new_host_key: Option<String>,
}

impl Run<'_> {
    /// Runs the command to its end, which may be an error: the host's, the daemon's, or a signal to us.
    pub(super) async fn complete(
        self,
        stream: ExecStream,
        output: &mut Output,
    ) -> Result<Ended, CliError> {
        let Run { ui, place, request, input, input_waits, left, screen, mut signals, asks } = self;
        let mut raw = None;
        let started = Cell::new(false);
        let unsent = Cell::new(false);
        let (start, starting) = watch::channel(false);
        let starts = || {
            let mut starting = starting.clone();
            // The sender outlives whoever waits.
            async move { drop(starting.wait_for(|started| *started).await) }
        };
        let new_host_key = RefCell::new(None);
        let (up, down) = stream.start(request).await?;
        let (control, controls) = controls();
        let mut resized = Resized::watch()?;
        // Between the request and this its terminal may have been resized, of which nobody was told.
        if request.tty.as_ref().is_some_and(|tty| tty.size != keys::size()) {
            let _ = control.try_send(ExecControl::Resize(keys::size()));
        }
        let mut caught: Option<Caught> = None;
        let end = {
            let ready = async {
                if input_waits {
                    starts().await;
                }
            };
            let mut up =
                std::pin::pin!(up.run(input, ready, controls, |error| ui.tell_unreadable(error)));
            let mut up_done = false;
            let on_start = |key: Option<String>| {
                started.set(true);
                start.send_replace(true);
                if let Some(key) = key {
                    *new_host_key.borrow_mut() = Some(key.clone());
                    if let Place::Host(host, _) = place {
                        show::tell_host_key(ui, host, &key);
                    }
                }
            };
            let enters = async {
                starts().await;
                let keys = ui.keyboard.take().await;
                // A terminal that cannot be made raw is used as it is. In this order they are dropped: the terminal is
                // as it was before somebody else has the keys.
                (Raw::begin().await.ok().flatten(), keys)
            };
            let mut enters = std::pin::pin!(enters);
            let mut entered = request.tty.is_none();
            let on_key = |told: NewHostKey| show::tell_news(ui, &told);
            let on_approval = |id: u64, message: &str| {
                // A person at a terminal is told with all other questions (`prompter`).
                if asks.is_none_or(|client| client.prompter().is_none() || client.is_grants()) {
                    ui.note(&prompter::waits_for_approval(id, message));
                }
                ui.asked.set(true);
            };
            let on_unsent = |is| unsent.set(is);
            let on_output = || screen.iter().for_each(OtherScreen::begins);
            let running = down.run(output, on_unsent, on_start, on_output, on_key, on_approval);
            let mut down = std::pin::pin!(running);
            let answering = async {
                match asks {
                    Some(client) => prompter::listening(client, starts()).await,
                    None => std::future::pending().await,
                }
            };
            let mut answering = std::pin::pin!(answering);
            let mut note = std::pin::pin!(sleep_until(Instant::now() + PATIENCE));
            let mut noted = !ui.stderr_terminal || ui.json || asks.is_none();
            let mut cancel = std::pin::pin!(sleep_until(Instant::now() + NEVER));
            let mut cancelled = false;
            loop {
                let event = tokio::select! {
                    biased;
                    end = &mut down => Event::End(end),
                    signal = signals.next() => Event::Caught(signal),
                    error = &mut answering => Event::Unanswered(error),
                    () = &mut cancel => Event::Cancel,
                    () = &mut note, if !noted => Event::Slow,
                    () = left.notified() => Event::Left,
                    raw = &mut enters, if !entered => Event::Raw(raw),
                    () = resized.next(), if request.tty.is_some() => Event::Resized,
                    () = &mut up, if !up_done => Event::InputDone,
                };
                match event {
                    Event::End(end) => break end,
                    Event::InputDone => up_done = true,
                    Event::Raw(made) => {
                        entered = true;
                        raw = Some(made);
                    }
                    Event::Unanswered(error) => return Err(error),
                    Event::Slow => {
                        noted = true;
                        if !started.get() && !ui.asked.get() {
                            ui.note(&format!("{}not connected; trying …", place.prefix()));
                        }
                    }
                    // Told before: our own output is stuck, and occd ends the command without us.
                    Event::Cancel if cancelled => {
                        let signal = caught.unwrap_or(Caught::Interrupt);
                        return Err(signal.error(place, Seen::of(started.get())));
                    }
                    Event::Cancel => {
                        cancelled = true;
                        cancel.as_mut().reset(Instant::now() + STUCK);
                        // Full means that cancels wait already.
                        let _ = control.try_send(ExecControl::Cancel);
                    }
                    Event::Resized => {
                        // Full means that sizes wait already, and this is one of them.
                        let _ = control.try_send(ExecControl::Resize(keys::size()));
                    }
                    Event::Left => {
                        drop(raw.take());
                        if screen.is_none() {
                            ui.note(&format!("Left: the program on {place} is hung up."));
                        }
                        return Err(quiet(HUNG_UP));
                    }
                    Event::Caught(Caught::HangUp) => return Err(quiet(HUNG_UP)),
                    Event::Caught(signal) if caught.is_some() => {
                        return Err(signal.error(place, Seen::of(started.get())));
                    }
                    Event::Caught(signal) => {
                        caught = Some(signal);
                        let name = signal.name().to_owned();
                        let _ = control.try_send(ExecControl::Signal { signal: name });
                        // Before it runs there is nothing that could end by itself.
                        let grace = if started.get() { GRACE } else { Duration::ZERO };
                        cancel.as_mut().reset(Instant::now() + grace);
                    }
                }
            }
        };
        // What follows is for a terminal as it was.
        drop(raw.take());
        let seen = Sent { place, started: started.get(), unsent: unsent.get(), caught };
        match end {
            End::Exit(exit) => {
                screen.iter().for_each(OtherScreen::is_gone);
                Ok(Ended { exit, caught, new_host_key: new_host_key.take() })
            }
            End::Problem(problem) => Err(seen.problem(*problem)),
            End::Lost => Err(seen.lost()),
            End::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                Err(quiet(CLOSED_PIPE))
            }
            End::Output(error) => Err(CliError::failed(format!(
                "the command's output cannot be written: {error}. The command was ended."
            ))),
        }
    }
}

/// What was seen of a command that nobody saw the end of.
struct Sent<'a> {
    place: &'a Place,
    started: bool,
    /// It is certain not to have been sent.
    unsent: bool,
    caught: Option<Caught>,
}

impl Sent<'_> {
    fn problem(&self, problem: Problem) -> CliError {
        let code = problem.code;
        if let Some(signal) = self.caught {
            let seen = match code {
                Code::OutcomeUnknown if !self.started => Seen::Unknown,
                _ => Seen::of(self.started),
            };
            return signal.error(self.place, seen);
        }
        let mut error = CliError::from(problem);
        if !self.started && code != Code::OutcomeUnknown && !error.message.contains("not start") {
            let stop = if error.message.ends_with('.') { "" } else { "." };
            error.message.push_str(stop);
            error.message.push_str(NOT_STARTED);
        }
        error
    }

    fn lost(&self) -> CliError {
        let host = self.place;
        if let Some(signal) = self.caught {
            return signal.error(host, Seen::of(self.started));
        }
        if self.unsent && !self.started {
            let when = format!("occd went away before it was connected to {host}");
            return CliError::daemon(format!("{when}.{NOT_STARTED}"));
        }
        let when = if self.started {
            format!("occd went away while the command ran on {host}")
        } else {
            format!("occd went away before the command on {host} was answered for")
        };
        CliError::outcome_unknown(format!(
            "{when}. Outcome unknown: it may still run or have finished."
        ))
        .hint(format!("look on {host} before running it again"))
    }
}

/// What a failure ends with before a command has started.
pub(super) const NOT_STARTED: &str = " The command was not started.";

/// What a shell says of a program that HUP, KILL or TERM has ended, by which commands are told to end.
const BY_SIGNAL: [u32; 3] = [128 + 1, 128 + 9, 128 + 15];

/// Returns the error when the end was of our making, or no end at all.
pub(super) fn ours(
    args: &ExecArgs,
    host: &Place,
    exit: &Exit,
    caught: Option<Caught>,
) -> Option<CliError> {
    let own =
        |code: u8, message: String| Some(CliError { exit: code, ..CliError::failed(message) });
    if let Some(signal) = caught {
        return Some(signal.error(host, Seen::End(exit)));
    }
    if exit.timed_out {
        let limit = match (args.timeout, exit.limit_ms) {
            (Some(ms), _) => of_ms(ms),
            (None, Some(ms)) => format!("{} (command_timeout in occd.toml)", of_ms(ms)),
            (None, None) => "command_timeout in occd.toml".to_owned(),
        };
        return own(
            TIMED_OUT,
            if exit.may_still_run {
                format!(
                    "the command ran longer than {limit}; {host} did not confirm its end: it may still run"
                )
            } else {
                format!("the command ran longer than {limit} and was ended on {host}")
            },
        );
    }
    // A program with a status of its own has said itself how it ended.
    let is_own = exit.code.is_some_and(|code| !BY_SIGNAL.contains(&code));
    if exit.cut_off && (!is_own || exit.may_still_run) {
        let why = match &exit.cut_off_by {
            Some(hop) => format!("the connection to the jump host {hop} was closed on purpose"),
            None => format!("{host} was disconnected, or occd stopped,"),
        };
        return match exit.may_still_run {
            true => own(OUTCOME_UNKNOWN, format!("{why} while the command ran: it may still run.")),
            false => own(exit.status(), format!("{why} while the command ran: it was ended.")),
        };
    }
    if exit.code.is_none() && exit.signal.is_none() {
        return own(exit.status(), format!("{host} ended the command without an exit status."));
    }
    None
}

enum Event {
    End(End),
    Caught(Caught),
    Unanswered(CliError),
    Cancel,
    Slow,
    Resized,
    Left,
    Raw((Option<Raw>, OwnedMutexGuard<()>)),
    InputDone,
}

/// The changes of this terminal's size.
struct Resized(Signal);

impl Resized {
    fn watch() -> Result<Self, CliError> {
        signal(SignalKind::window_change())
            .map(Self)
            .map_err(|error| CliError::failed(format!("signals cannot be caught: {error}")))
    }

    async fn next(&mut self) {
        self.0.recv().await;
    }
}

/// Returns the end without words.
pub(super) fn quiet(code: u8) -> CliError {
    CliError { exit: code, ..CliError::closed_pipe() }
}

/// A signal that this process got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caught {
    Interrupt,
    Terminate,
    HangUp,
}

impl Caught {
    /// Returns the exit code of a program that it ends.
    pub(crate) fn exit(self) -> u8 {
        match self {
            Self::Interrupt => INTERRUPTED,
            Self::Terminate => TERMINATED,
            Self::HangUp => HUNG_UP,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "INT",
            Self::Terminate => "TERM",
            Self::HangUp => "HUP",
        }
    }

    /// Returns the end of a command that was ended by this signal.
    fn error(self, host: &Place, seen: Seen<'_>) -> CliError {
        let word = match self {
            Self::Interrupt => "interrupted",
            Self::Terminate => "terminated",
            Self::HangUp => "hung up",
        };
        let rest = match seen {
            Seen::End(exit) if exit.may_still_run => {
                format!("{host} did not confirm the command's end: it may still run")
            }
            Seen::End(_) => format!("the command was ended on {host}"),
            Seen::Start => format!("occd ends the command on {host}"),
            Seen::Nothing => format!("the command had not started on {host}"),
            Seen::Unknown => format!(
                "{host} had not said whether the command started; it may have, and is ended if it did"
            ),
        };
        CliError {
            exit: self.exit(),
            code: "interrupted".into(),
            ..CliError::failed(format!("{word}: {rest}."))
        }
    }
}

/// What was seen of a command when a signal came.
enum Seen<'a> {
    /// It had not started.
    Nothing,
    /// It had been sent, and the host had not said yet whether it started.
    Unknown,
    /// It ran, and nobody waited for its end.
    Start,
    /// It has ended.
    End(&'a Exit),
}

impl Seen<'_> {
    fn of(started: bool) -> Self {
        if started { Self::Start } else { Self::Nothing }
    }
}

/// The signals that end a command.
pub(crate) enum Signals {
    /// This process's own.
    Own { interrupt: Signal, terminate: Signal, hang_up: Signal },
    /// What somebody tells who has caught one.
    Told(watch::Receiver<Option<Caught>>),
}

impl Signals {
    /// Catches this process's signals from now on.
    pub(crate) fn catch() -> Result<Self, CliError> {
        let caught = || -> io::Result<Self> {
            Ok(Self::Own {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
                hang_up: signal(SignalKind::hangup())?,
            })
        };
        caught().map_err(|error| CliError::failed(format!("signals cannot be caught: {error}")))
    }

    pub(crate) async fn next(&mut self) -> Caught {
        match self {
            Self::Own { interrupt, terminate, hang_up } => tokio::select! {
                _ = interrupt.recv() => Caught::Interrupt,
                _ = terminate.recv() => Caught::Terminate,
                _ = hang_up.recv() => Caught::HangUp,
            },
            Self::Told(told) => loop {
                if told.changed().await.is_err() {
                    return std::future::pending().await;
                }
                if let Some(caught) = *told.borrow_and_update() {
                    return caught;
                }
            },
        }
    }
}

/// Returns in words how a program ended.
pub(super) fn how(exit: &Exit) -> String {
    match (&exit.signal, exit.code) {
        (Some(signal), _) => format!("signal {}", occ_proto::text::sanitize(signal)),
        (None, Some(code)) => format!("exit {code}"),
        (None, None) => "no exit status".to_owned(),
    }
}
