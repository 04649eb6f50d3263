//! Being attached to a session: its output here, what is typed there.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use bytes::BytesMut;
use occ_proto::error::Code;
use occ_proto::exec::{Bytes, ExecEvent};
use occ_proto::session::{
    OutputStream, SHOW_SCREEN, Session, SessionEvent, SessionHost, SessionState,
};
use tokio::time::Instant;

use super::exec_run::{Caught, Signals};
use super::{Context, exec};
use crate::cli::{AttachArgs, ExecArgs, SessionLogsArgs};
use crate::error::{ABSENT, CLOSED_PIPE, CliError, DAEMON_UNREACHABLE, OUTCOME_UNKNOWN};
use crate::escape::{Escape, EscapeKey};
use crate::output::{Ui, with_note};
use crate::place::Place;
use crate::prompter;
use crate::session::{AGAIN, Attached, Begin, Received, Sessions};
use crate::stdio::{Descriptor, Input};
use crate::target::Source;

/// A second Ctrl-C within this time is meant for occ: the program did not end by the first.
const TWICE: Duration = Duration::from_secs(2);
/// How much is read from standard input at once.
const CHUNK: usize = 64 * 1024;

/// A host that is connected and well answers in that time.
const SOON: Duration = Duration::from_millis(300);
/// How long a program may take to end when its screen has.
const SCREEN: Duration = Duration::from_millis(500);

/// What became of it.
pub(super) enum Left {
    /// The program has ended.
    Exit(u8),
    /// The host has ended it.
    Lost,
    /// That was all so far.
    End,
    /// The person left, or was made to; the program goes on.
    Detached(Option<Caught>),
    /// What reads our output left.
    Closed,
}

/// Where the output of a session goes.
pub(super) trait Sink {
    async fn write(&mut self, stream: OutputStream, bytes: bytes::Bytes) -> io::Result<()>;

    /// Takes an event of which programs are to know. Returns whether it did; a person is told otherwise.
    async fn event(&mut self, _: &SessionEvent) -> io::Result<bool> {
        Ok(false)
    }
}

/// A document a line on standard output.
struct JsonLines(Descriptor);

impl JsonLines {
    async fn line(&mut self, event: &impl serde::Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(event).map_err(io::Error::other)?;
        line.push(b'\n');
        self.0.write(line.into()).await
    }
}

impl Sink for JsonLines {
    async fn write(&mut self, stream: OutputStream, bytes: bytes::Bytes) -> io::Result<()> {
        let data = Bytes(bytes.to_vec());
        // As with an exec that is followed.
        self.line(&match stream {
            OutputStream::Stdout => ExecEvent::Stdout { data },
            OutputStream::Stderr => ExecEvent::Stderr { data },
        })
        .await
    }

    async fn event(&mut self, event: &SessionEvent) -> io::Result<bool> {
        self.line(event).await.map(|()| true)
    }
}

/// Our own two streams.
pub(super) struct Streams {
    out: Descriptor,
    err: Descriptor,
}

impl Streams {
    pub(super) fn open() -> Result<Self, CliError> {
        let open = || -> io::Result<Self> {
            Ok(Self { out: Descriptor::of(&io::stdout())?, err: Descriptor::of(&io::stderr())? })
        };
        open().map_err(|error| CliError::failed(format!("standard output: {error}")))
    }
}

impl Sink for Streams {
    async fn write(&mut self, stream: OutputStream, bytes: bytes::Bytes) -> io::Result<()> {
        match stream {
            OutputStream::Stdout => self.out.write(bytes).await,
            OutputStream::Stderr => self.err.write(bytes).await,
        }
    }
}

/// What is sent.
pub(super) struct Typed {
    pub(super) input: Option<Input>,
    /// Its end is the end of the program's input.
    pub(super) eof: bool,
    /// What detaches, with a dot at the beginning of a line.
    pub(super) escape: EscapeKey,
    /// Ctrl-C goes to the program; who only looks on leaves by it.
    pub(super) interrupts: bool,
}

/// Passes output and input until one of them ends it.
pub(super) async fn pass(
    ui: &Ui,
    name: &str,
    attached: &mut Attached,
    mut typed: Typed,
    sink: &mut impl Sink,
    deadline: Option<Instant>,
) -> Result<(Left, bool), CliError> {
    enum Next {
        Received(Result<Received, crate::session::SessionError>),
        Read(io::Result<usize>),
        Caught(Caught),
        Late,
    }
    let mut signals = Signals::catch()?;
    let mut buffer = BytesMut::new();
    let mut escape = Escape::by_lines(typed.escape);
    let mut interrupted: Option<Instant> = None;
    let mut paused = false;
    let mut timed_out = false;
    if typed.input.is_none() && typed.eof {
        attached.end_input().await?;
    }
    loop {
        buffer.reserve(CHUNK);
        let full = attached.is_full();
        let read = async {
            match &mut typed.input {
                Some(input) if !full => input.read(&mut buffer).await,
                _ => std::future::pending().await,
            }
        };
        let late = async {
            match deadline.filter(|_| !timed_out) {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let next = tokio::select! {
            biased;
            caught = signals.next() => Next::Caught(caught),
            received = attached.receive() => Next::Received(received),
            () = late => Next::Late,
            read = read => Next::Read(read),
        };
        match next {
            Next::Received(received) => match received? {
                Received::Output { stream, bytes } => {
                    if let Some(left) = written(sink.write(stream, bytes).await)? {
                        return Ok((left, timed_out));
                    }
                }
                Received::Gap { stream, from, missing } => {
                    let gap = SessionEvent::Gap { stream, from, to: from + missing };
                    let told = sink.event(&gap).await;
                    if matches!(told, Ok(false)) {
                        ui.note(&format!("[{name}] {missing} bytes are kept no more"));
                    }
                    if let Some(left) = written(told.map(drop))? {
                        return Ok((left, timed_out));
                    }
                }
                Received::Paused { message } => {
                    paused = true;
                    ui.note_if_talking(&format!(
                        "[{name}] paused: {message}; it goes on when the link is back"
                    ));
                }
                Received::NoSpace(stream) => {
                    let stream = match stream {
                        OutputStream::Stdout => "output",
                        OutputStream::Stderr => "error output",
                    };
                    ui.note(&format!(
                        "[{name}] some {stream} was not kept: the host's disk is full"
                    ));
                }
                Received::Forwarded { url, here } => {
                    ui.note(&format!("[{name}] {url} is {here} on this machine"));
                }
                Received::Live if paused => {
                    paused = false;
                    ui.note_if_talking(&format!("[{name}] the link is back"));
                }
                Received::Live | Received::Taken => {}
                Received::Exit(code) => return Ok((Left::Exit(code), timed_out)),
                Received::Lost => return Ok((Left::Lost, timed_out)),
                Received::End => return Ok((Left::End, timed_out)),
            },
            Next::Late => {
                timed_out = true;
                attached.kill().await?;
            }
            Next::Caught(Caught::Interrupt)
                if typed.interrupts && interrupted.is_none_or(|then| then.elapsed() > TWICE) =>
            {
                interrupted = Some(Instant::now());
                attached.signal("INT").await?;
            }
            Next::Caught(caught) => return Ok((Left::Detached(Some(caught)), timed_out)),
            // An input that cannot be read ends, as it does for a local program's child.
            Next::Read(read @ (Ok(0) | Err(_))) => {
                if let Err(error) = read {
                    ui.tell_unreadable(&error);
                }
                typed.input = None;
                if typed.eof {
                    attached.end_input().await?;
                }
            }
            Next::Read(Ok(_)) => {
                let read = buffer.split();
                let mut sent = BytesMut::with_capacity(read.len());
                let leaves = escape.pass(&read, &mut sent);
                attached.send(&sent).await?;
                if leaves {
                    return Ok((Left::Detached(None), timed_out));
                }
            }
        }
    }
}

/// Returns how it ends where the output could not be written.
fn written(written: io::Result<()>) -> Result<Option<Left>, CliError> {
    match written {
        Ok(()) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Some(Left::Closed)),
        Err(error) => {
            let text = format!("the session's output cannot be written: {error}");
            Err(CliError::failed(text))
        }
    }
}

/// Returns what detaches: with a terminal a person types it, and what comes out of a file or a program is all for the session.
fn of_terminal(is_terminal: bool) -> EscapeKey {
    if is_terminal { EscapeKey::default() } else { EscapeKey::NONE }
}

/// Runs `occ session attach`.
pub(super) async fn attach(
    context: &Context<'_>,
    sessions: &Sessions,
    args: &AttachArgs,
) -> Result<u8, CliError> {
    let begin = match args.offset {
        Some(offset) => Begin { stdout: Some(offset.to_string()), stderr: None },
        None if args.from_start => Begin::start(),
        None => Begin::resume(),
    };
    let terminal = io::stdin().is_terminal();
    let plain = args.no_stdin || args.from_start || args.offset.is_some();
    if terminal && !plain && !context.ui.json {
        let Some(session) = Box::pin(met(context, sessions, &args.name)).await? else {
            return Ok(detached(context, &args.name));
        };
        if session.info.tty && session.state == SessionState::Running {
            return in_terminal(context, sessions, &session, args.wait).await;
        }
    }
    let typed = Typed {
        input: if args.no_stdin { None } else { Input::stdin().ok() },
        eof: (terminal && !args.no_stdin) || args.eof,
        escape: of_terminal(terminal),
        interrupts: true,
    };
    passing(context, sessions, &args.name, begin, typed, args.wait).await
}

/// Returns a session as its host has it, which may take seconds to answer: where the daemon knows that the session has a
/// screen, the keys are its program's meanwhile. Nothing where the person leaves before.
async fn met(
    context: &Context<'_>,
    sessions: &Sessions,
    name: &str,
) -> Result<Option<Session>, CliError> {
    let note = format!("[{name}] its host does not answer yet; trying …");
    let shown = async { Ok::<_, CliError>(sessions.show(name).await?) };
    let mut shown = std::pin::pin!(with_note(context.ui, &note, shown));
    let has_screen = async {
        tokio::time::sleep(SOON).await;
        // Without an answer the terminal stays as it is.
        let known = sessions.list().await.unwrap_or_default();
        let is_it = |session: &Session| session.info.name == name || session.info.id == name;
        if !known.iter().any(|session| is_it(session) && session.info.tty) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        session = &mut shown => return session.map(Some),
        () = has_screen => {}
    }
    let mut signals = Signals::catch()?;
    tokio::select! {
        biased;
        _ = signals.next() => Ok(None),
        () = context.ui.keyboard.pause() => Ok(None),
        session = shown => session.map(Some),
    }
}

/// Says that the person has left, and returns the exit code.
fn detached(context: &Context<'_>, name: &str) -> u8 {
    context.ui.note_if_talking(&format!(
        "detached; {name} goes on\nhint: occ session attach {name}; occ session kill {name}"
    ));
    0
}

/// Attaches to a session that was just started, with what is typed.
pub(super) async fn follow(
    context: &Context<'_>,
    sessions: &Sessions,
    session: &Session,
    begin: Begin,
) -> Result<u8, CliError> {
    let terminal = io::stdin().is_terminal();
    if terminal && session.info.tty {
        return in_terminal(context, sessions, session, None).await;
    }
    let name = &session.info.name;
    let input = Input::stdin().ok();
    let typed = Typed { input, eof: terminal, escape: of_terminal(terminal), interrupts: true };
    passing(context, sessions, name, begin, typed, None).await
}

/// Shows the screen of a session that has one, in this terminal, until the program ends or the person leaves. A broken
/// link is a pause.
async fn in_terminal(
    context: &Context<'_>,
    sessions: &Sessions,
    session: &Session,
    wait: Option<u64>,
) -> Result<u8, CliError> {
    let name = &session.info.name;
    // One for all of it: a signal that comes between two of them would be nobody's.
    let mut signals = Signals::catch()?;
    let now = tokio::select! {
        biased;
        _ = signals.next() => None,
        () = context.ui.keyboard.pause() => None,
        now = Box::pin(screens(context, sessions, session, wait)) => now?,
    };
    match now.map(|now| (now.state, now.exit)) {
        Some((SessionState::Ended, Some(code))) => Ok(code),
        Some((SessionState::Lost, _)) => Err(crate::session::lost(name)),
        Some((SessionState::Gone, _)) => Err(removed(name)),
        _ => Ok(detached(context, name)),
    }
}

fn removed(name: &str) -> CliError {
    CliError::failed(format!("session '{name}' was removed"))
}

/// Shows it as often as it takes. Returns the session as it is after its program's end; nothing when the person leaves.
async fn screens(
    context: &Context<'_>,
    sessions: &Sessions,
    session: &Session,
    wait: Option<u64>,
) -> Result<Option<Session>, CliError> {
    let name = &session.info.name;
    let place = match &session.host {
        SessionHost::Local => Place::Local,
        SessionHost::Host(host) => Place::Host(host.clone(), Source::Named),
    };
    let words = ["sh", "-c", SHOW_SCREEN, "sh", &session.info.id];
    let mut args = ExecArgs { tty: true, wait, shows_a_screen: true, ..ExecArgs::default() };
    args.argv = words.map(Into::into).to_vec();
    let mut next: Option<Sessions> = None;
    loop {
        let sessions = next.as_ref().unwrap_or(sessions);
        sessions.client().goes_on();
        let why = match screen(context, sessions, session, (&args, &place)).await {
            Ok(now) => return Ok(now),
            Err(error) if error.daemon_code() == Some(Code::SessionNotFound) => {
                return Err(removed(name));
            }
            Err(error) if is_of_no_daemon(&error) => "occd went away".to_owned(),
            Err(error) if error.exit == OUTCOME_UNKNOWN => error.message,
            Err(error) => return Err(error),
        };
        context.ui.note(&format!("[{name}] paused: {why}"));
        args.wait = Some(AGAIN);
        // This daemon may be another already.
        let back = sessions.back().await;
        next = Some(back.map_err(|error| error.hint(format!("occ session attach {name}")))?);
    }
}

/// Shows it once.
async fn screen(
    context: &Context<'_>,
    sessions: &Sessions,
    session: &Session,
    (args, place): (&ExecArgs, &Place),
) -> Result<Option<Session>, CliError> {
    let request = exec::here(place, exec::request(args)?)?;
    let shown = exec::on(context, args, &request, sessions.client(), place);
    let code = match Box::pin(shown).await {
        // The escape. A host that is down is not waited for to say how it is.
        Err(error) if error.is_quiet() => return Ok(None),
        shown => shown?,
    };
    let name = &session.info.name;
    let now = sessions.show(&session.info.id).await?;
    if now.state != SessionState::Running {
        if code != 0 {
            context.ui.note_if_talking(&format!("hint: occ session logs {name} has what it wrote"));
        }
        return Ok(Some(now));
    }
    // Its screen ends a moment before it does.
    tokio::time::sleep(SCREEN).await;
    let now = sessions.show(&session.info.id).await?;
    match (now.state, code) {
        // Somebody has detached it by a command of tmux's or screen's.
        (SessionState::Running, 0) => Ok(None),
        (SessionState::Running, _) => {
            let text = format!("the screen of session '{name}' could not be shown");
            let way = format!("occ session attach {name}; occ session logs {name}");
            Err(CliError::failed(text).hint(way))
        }
        _ => Ok(Some(now)),
    }
}

/// Returns the failure with what waits for the host, if that is down.
fn waitable(name: &str, error: CliError) -> CliError {
    match error.daemon_code() {
        Some(Code::HostUnreachable) => error.hint(format!("occ session attach --wait 10m {name}")),
        _ => error,
    }
}

/// Returns whether there was no daemon any more to say anything: the screen is where it was.
fn is_of_no_daemon(error: &CliError) -> bool {
    let is_silent = error.problem.is_none() && error.exit == OUTCOME_UNKNOWN;
    is_silent || [DAEMON_UNREACHABLE, ABSENT].contains(&error.code.as_str())
}

async fn passing(
    context: &Context<'_>,
    sessions: &Sessions,
    name: &str,
    begin: Begin,
    typed: Typed,
    wait: Option<u64>,
) -> Result<u8, CliError> {
    let mut attached = sessions.attach_within(name, begin, wait).await?;
    let left = if context.ui.json {
        let out = Descriptor::of(&io::stdout());
        let out = out.map_err(|error| CliError::failed(format!("standard output: {error}")))?;
        let mut sink = JsonLines(out);
        let passing = Box::pin(pass(context.ui, name, &mut attached, typed, &mut sink, None));
        let (left, _) = prompter::answering(sessions.client(), passing).await?;
        let last = match &left {
            Left::Exit(code) => Some(SessionEvent::Exit { code: *code }),
            Left::Lost => Some(SessionEvent::Lost),
            Left::End | Left::Detached(_) | Left::Closed => None,
        };
        match last {
            None => left,
            Some(last) => written(sink.event(&last).await.map(drop))?.unwrap_or(left),
        }
    } else {
        let mut sink = Streams::open()?;
        let passing = Box::pin(pass(context.ui, name, &mut attached, typed, &mut sink, None));
        let passed = prompter::answering(sessions.client(), passing).await;
        passed.map_err(|error| waitable(name, error))?.0
    };
    match left {
        Left::Detached(_) => Ok(detached(context, name)),
        left => ended(name, left),
    }
}

/// Returns the exit code of what ended by itself.
pub(super) fn ended(name: &str, left: Left) -> Result<u8, CliError> {
    match left {
        Left::Exit(code) => Ok(code),
        Left::Lost => Err(crate::session::lost(name)),
        Left::End => Ok(0),
        Left::Closed => Err(CliError { exit: CLOSED_PIPE, ..CliError::closed_pipe() }),
        Left::Detached(caught) => {
            let exit = caught.map_or(0, Caught::exit);
            Err(CliError { exit, ..CliError::closed_pipe() })
        }
    }
}

/// Runs `occ session logs`.
pub(super) async fn logs(sessions: &Sessions, args: &SessionLogsArgs) -> Result<u8, CliError> {
    if sessions.client().ui().json {
        let text = "occ session logs writes what the program wrote: --json does not go with it.";
        return Err(CliError::usage(text).hint("occ api has it as JSON lines, from any offset"));
    }
    let from = args.lines.map_or_else(|| "0".to_owned(), |lines| format!("lines:{lines}"));
    let none = || Some("none".to_owned());
    let begin = match args.stderr {
        false => Begin { stdout: Some(from), stderr: none() },
        true => Begin { stdout: none(), stderr: Some(from) },
    };
    let mut attached = sessions.look(&args.name, begin, args.follow).await?;
    let mut sink = OnlyOut(Streams::open()?);
    let typed = Typed { input: None, eof: false, escape: EscapeKey::NONE, interrupts: false };
    let ui = sessions.client().ui().clone();
    let passing = Box::pin(pass(&ui, &args.name, &mut attached, typed, &mut sink, None));
    match prompter::answering(sessions.client(), passing).await?.0 {
        Left::Exit(_) => Ok(0),
        left => ended(&args.name, left),
    }
}

/// The one stream that was asked for goes to standard output.
struct OnlyOut(Streams);

impl Sink for OnlyOut {
    async fn write(&mut self, _: OutputStream, bytes: bytes::Bytes) -> io::Result<()> {
        self.0.out.write(bytes).await
    }
}

/// Runs `occ session wait`.
pub(super) async fn wait(
    context: &Context<'_>,
    sessions: &Sessions,
    name: &str,
) -> Result<u8, CliError> {
    let none = || Some("none".to_owned());
    let begin = Begin { stdout: none(), stderr: none() };
    let mut attached = sessions.look(name, begin, true).await?;
    let waiting = async {
        loop {
            match attached.receive().await? {
                Received::Exit(code) => return Ok(Left::Exit(code)),
                Received::Lost => return Ok(Left::Lost),
                Received::End => return Ok(Left::End),
                Received::Paused { message } => {
                    context.ui.note_if_talking(&format!("[{name}] paused: {message}"));
                }
                _ => {}
            }
        }
    };
    let left = prompter::answering(sessions.client(), waiting).await?;
    if context.ui.json {
        context.ui.value(&sessions.show(name).await?)?;
    }
    ended(name, left)
}
