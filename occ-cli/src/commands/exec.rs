//! `occ exec`: a command on a host, its streams byte for byte, its exit code ours.

use std::cell::{Cell, RefCell};
use std::io::{self, IsTerminal as _};
use std::os::unix::ffi::OsStringExt as _;
use std::time::Duration;

use occ_proto::HostName;
use occ_proto::error::Code;
use occ_proto::exec::{Bytes, ExecControl, ExecRequest, Exit};
use occ_proto::trust::NewHostKey;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::{Context, Kept, exec_result};
use crate::cli::ExecArgs;
use crate::client::Client;
use crate::descriptors::Offer;
use crate::duration::of_ms;
use crate::error::{CLOSED_PIPE, CliError, HUNG_UP, INTERRUPTED, TERMINATED};
use crate::output::host as show;
use crate::prompter;
use crate::stdio::{Descriptor, Input};
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

/// Runs the command and returns its exit code.
pub(crate) async fn run(context: &Context<'_>, args: ExecArgs) -> Result<u8, CliError> {
    let request = request(&args)?;
    let (mut client, host, source) = context.client_and_host("exec").await?;
    let result = execute(context, &args, &request, &mut client, &host).await;
    match result {
        Err(error) => Err(super::explain(context, &client, &host, source, error).await),
        done => done,
    }
}

fn request(args: &ExecArgs) -> Result<ExecRequest, CliError> {
    let mut request = ExecRequest {
        cwd: args.cwd.clone(),
        env: args.env.iter().cloned().collect(),
        timeout_ms: args.timeout,
        retries: args.retries,
        wait_ms: args.wait,
        ..ExecRequest::default()
    };
    if args.shell {
        let words: Option<Vec<&str>> = args.argv.iter().map(|word| word.to_str()).collect();
        let words = words.ok_or_else(|| CliError::usage("--shell takes text in UTF-8."))?;
        request.shell = Some(words.join(" "));
    } else {
        request.argv = args.argv.iter().map(|word| Bytes(word.clone().into_vec())).collect();
    }
    Ok(request)
}

async fn execute(
    context: &Context<'_>,
    args: &ExecArgs,
    request: &ExecRequest,
    client: &mut Client,
    host: &HostName,
) -> Result<u8, CliError> {
    let ui = context.ui;
    // One document is made of the output, so it must come to us.
    let offer = if ui.json { Offer::default() } else { Offer::of_standard_streams() };
    let stream = ExecStream::open(client, host, offer).await?;
    let mut signals = Signals::new()
        .map_err(|error| CliError::failed(format!("signals cannot be caught: {error}")))?;
    let mut output = if ui.json {
        Output::Kept { out: Kept::default(), err: Kept::default() }
    } else {
        let open = || -> io::Result<Output> {
            Ok(Output::Streams {
                out: Descriptor::of(&io::stdout())?,
                err: Descriptor::of(&io::stderr())?,
            })
        };
        open().map_err(|error| CliError::failed(format!("standard output: {error}")))?
    };

    // An input that was closed is no input.
    let input = if args.no_stdin { None } else { Input::stdin().ok() };
    // What is typed before the command runs may be the answer to a question.
    let input_waits = io::stdin().is_terminal() && client.prompter().is_some();
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
    let mut caught: Option<Caught> = None;
    let end = {
        let ready = async {
            if input_waits {
                starts().await;
            }
        };
        let mut up = std::pin::pin!(up.run(input, ready, controls));
        let mut up_done = false;
        let on_start = |key: Option<String>| {
            started.set(true);
            start.send_replace(true);
            if let Some(key) = key {
                *new_host_key.borrow_mut() = Some(key.clone());
                show::tell_host_key(ui, host, &key);
            }
        };
        let on_key = |told: NewHostKey| show::tell_news(ui, &told);
        let mut down = std::pin::pin!(down.run(&mut output, |is| unsent.set(is), on_start, on_key));
        let mut answering = std::pin::pin!(prompter::listening(client, starts()));
        let mut note = std::pin::pin!(sleep_until(Instant::now() + PATIENCE));
        let mut noted = !ui.stderr_terminal || ui.json;
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
                () = &mut up, if !up_done => Event::InputDone,
            };
            match event {
                Event::End(end) => break end,
                Event::InputDone => up_done = true,
                Event::Unanswered(error) => return Err(error),
                Event::Slow => {
                    noted = true;
                    if !started.get() && !ui.asked.get() {
                        ui.note(&format!("[{host}] not connected; trying …"));
                    }
                }
                // Told before: our own output is stuck, and occd ends the command without us.
                Event::Cancel if cancelled => {
                    let signal = caught.unwrap_or(Caught::Interrupt);
                    return Err(signal.error(host, Seen::of(started.get())));
                }
                Event::Cancel => {
                    cancelled = true;
                    cancel.as_mut().reset(Instant::now() + STUCK);
                    // Full means that cancels wait already.
                    let _ = control.try_send(ExecControl::Cancel);
                }
                Event::Caught(Caught::HangUp) => return Err(quiet(HUNG_UP)),
                Event::Caught(signal) if caught.is_some() => {
                    return Err(signal.error(host, Seen::of(started.get())));
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
    match end {
        End::Exit(exit) => {
            let ended = Ended { exit, output, caught, new_host_key: new_host_key.take() };
            finish(context, args, host, ended)
        }
        End::Problem(problem) => {
            if let Some(signal) = caught {
                let seen = match problem.code {
                    Code::OutcomeUnknown if !started.get() => Seen::Unknown,
                    _ => Seen::of(started.get()),
                };
                return Err(signal.error(host, seen));
            }
            let code = problem.code;
            let mut error = CliError::from(*problem);
            if !started.get()
                && code != Code::OutcomeUnknown
                && !error.message.contains("not start")
            {
                let stop = if error.message.ends_with('.') { "" } else { "." };
                error.message.push_str(stop);
                error.message.push_str(" The command was not started.");
            }
            Err(error)
        }
        End::Lost => {
            if let Some(signal) = caught {
                return Err(signal.error(host, Seen::of(started.get())));
            }
            if unsent.get() && !started.get() {
                let when = format!("occd went away before it was connected to {host}");
                return Err(CliError::daemon(format!("{when}. The command was not started.")));
            }
            let when = if started.get() {
                format!("occd went away while the command ran on {host}")
            } else {
                format!("occd went away before the command on {host} was answered for")
            };
            Err(CliError::outcome_unknown(format!(
                "{when}. Outcome unknown: it may still run or have finished."
            ))
            .hint(format!("look on {host} before running it again")))
        }
        End::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(quiet(CLOSED_PIPE)),
        End::Output(error) => Err(CliError::failed(format!(
            "the command's output cannot be written: {error}. The command was ended."
        ))),
    }
}

/// A command that ended, and what was seen of it.
struct Ended {
    exit: Exit,
    output: Output,
    caught: Option<Caught>,
    new_host_key: Option<String>,
}

/// Returns the exit code for a command that ended, and says what a shell would not show.
fn finish(
    context: &Context<'_>,
    args: &ExecArgs,
    host: &HostName,
    ended: Ended,
) -> Result<u8, CliError> {
    let ui = context.ui;
    let Ended { exit, output, caught, new_host_key } = ended;
    if ui.verbose > 0 {
        let how = match (&exit.signal, exit.code) {
            (Some(signal), _) => format!("signal {}", occ_proto::text::sanitize(signal)),
            (None, Some(code)) => format!("exit {code}"),
            (None, None) => "no exit status".to_owned(),
        };
        ui.note(&format!("[{host}] {how} after {}", of_ms(exit.duration_ms)));
    }
    let error = ours(args, host, &exit, caught);
    if let Output::Kept { out, err } = output {
        let status = exit.status();
        ui.value(&exec_result::result(exit, out, err, new_host_key))?;
        // The document says how it ended; a second one on standard error would say it again.
        return Ok(match error {
            Some(error) => args.own_exit.unwrap_or(error.exit),
            None => status,
        });
    }
    match error {
        Some(error) => Err(error),
        None => Ok(exit.status()),
    }
}

/// Returns the error when the end was of our making, or no end at all.
fn ours(args: &ExecArgs, host: &HostName, exit: &Exit, caught: Option<Caught>) -> Option<CliError> {
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
    if exit.cut_off {
        let end = if exit.may_still_run { "it may still run" } else { "it was ended" };
        return own(
            exit.status(),
            format!("{host} was disconnected, or occd stopped, while the command ran: {end}."),
        );
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
    InputDone,
}

/// Returns the end without words.
fn quiet(code: u8) -> CliError {
    CliError { exit: code, ..CliError::closed_pipe() }
}

/// A signal that this process got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caught {
    Interrupt,
    Terminate,
    HangUp,
}

impl Caught {
    fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "INT",
            Self::Terminate => "TERM",
            Self::HangUp => "HUP",
        }
    }

    /// Returns the end of a command that was ended by this signal.
    fn error(self, host: &HostName, seen: Seen<'_>) -> CliError {
        let (code, word) = match self {
            Self::Interrupt => (INTERRUPTED, "interrupted"),
            Self::Terminate => (TERMINATED, "terminated"),
            Self::HangUp => (HUNG_UP, "hung up"),
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
            exit: code,
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
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Caught {
        tokio::select! {
            _ = self.interrupt.recv() => Caught::Interrupt,
            _ = self.terminate.recv() => Caught::Terminate,
            _ = self.hang_up.recv() => Caught::HangUp,
        }
    }
}
