//! `GET /v1/sessions/{id}/attach`: a session over a WebSocket; the frames are in `proto/src/session.rs`.

use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::Message;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::SinkExt as _;
use futures_util::future::{Either, join, select};
use occ_proto::Problem;
use occ_proto::exec::{ExecControl, STDERR, STDOUT};
use occ_proto::session::{OutputStream, SessionEvent, SessionHost};
use serde::Deserialize;
use tokio::sync::{OnceCell, mpsc};
use tokio::time::{Instant, timeout};

use super::App;
use super::error::{self, ApiError, ApiResult};
use super::extract::{Caller, Path, Query};
use super::params::SessionPath;
use super::problems::OfSession;
use super::session_events::{begin, on_the_wire};
use super::sessions::{MOST, NO_ENV, meant, permit_look, permit_session, says};
use super::websocket::{self, Handshake, Sink, Source, send};
use crate::config::Feature;
use crate::host::Tries;
use crate::policy::Asker;
use crate::prompts::Client;
use crate::session::{Event, Forwarded, Handle, PIECE, Run, SessionError, Wanted};

/// Messages of input that wait for the host. With messages of 64 KiB, as much as goes with one command.
const INPUTS: usize = 16;
/// Answers that wait for the client's socket: one at a time comes from the input, others from signals.
const ANSWERS: usize = 4;
/// Signals that wait for the host. More are a key that is held down.
const CONTROLS: usize = 4;
/// How long what a client said last is brought to the host after it has left.
const LAST_WORDS: Duration = Duration::from_secs(15);
/// How often it is remembered how far a client has read.
const NOTE: Duration = Duration::from_secs(5);

/// A beginning that means none of a stream, as the host's script takes it.
const NONE: &str = "-";

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct AttachQuery {
    /// Where to begin in standard output: an offset, `end`, `lines:N`, or `none`; where the last client that was attached
    /// stopped unless given.
    stdout: Option<String>,
    /// The same for standard error.
    stderr: Option<String>,
    /// Go on with what comes, until the program has ended; so unless given.
    follow: Option<bool>,
    /// Remember how far this client has read; so unless given.
    note: Option<bool>,
    /// Where the first input of this connection belongs, if some of it was sent on an earlier one; at the end unless given.
    stdin: Option<u64>,
    /// How many bytes that may be. The host drops what it has of them.
    resent: Option<u64>,
    /// How long to wait for a host that is down, in milliseconds, before it is attached; it is dialled a few times unless given.
    wait_ms: Option<u64>,
}

/// Attaches to a session over a WebSocket.
///
/// Binary messages carry bytes behind the number of their stream: 0 to the daemon, 1 and 2 from it. Text messages are `ExecControl`s to the
/// daemon and `SessionEvent`s from it.
#[utoipa::path(
    get,
    path = "/v1/sessions/{id}/attach",
    tag = "sessions",
    operation_id = "attachSession",
    params(SessionPath, AttachQuery),
    responses((status = 101, description = "Switches to a WebSocket (RFC 6455)"), OfSession)
)]
pub(super) async fn upgrade(
    State(app): State<Arc<App>>,
    Path(wanted): Path<String>,
    Query(query): Query<AttachQuery>,
    Caller(client): Caller,
    asker: Asker,
    handshake: Handshake,
) -> ApiResult<Response> {
    let (handle, host) = meant(&app, &asker, &wanted, client.clone()).await?;
    says(&asker, &host, &handle.known());
    asker.trail.begin();
    let handle = handle.with_patience(Tries::of(None, query.wait_ms));
    let [stdout, stderr] = handle.read_so_far();
    let of = |text: Option<&str>, so_far: u64| match text {
        None => Ok(so_far.to_string()),
        Some("none") => Ok(NONE.to_owned()),
        Some(text) => begin(text),
    };
    let wanted_output = Wanted {
        stdout: of(query.stdout.as_deref(), stdout)?,
        stderr: of(query.stderr.as_deref(), stderr)?,
        on: query.follow.unwrap_or(true),
    };
    // Who sees nothing of it, and only waits or writes, needs not be allowed to read.
    if [&wanted_output.stdout, &wanted_output.stderr].iter().any(|from| *from != NONE) {
        permit_look(&app, (&asker, &client), &host, &handle.known()).await?;
    }
    if query.stdin.is_some() != query.resent.is_some() || query.stdin > Some(MOST) {
        return Err(ApiError::bad_request("stdin and resent go together, and stdin is an offset."));
    }
    let resent = query.stdin.map(|from| from..from.saturating_add(query.resent.unwrap_or(0)));
    Ok(handshake.accept(move |mut sink, mut source| async move {
        let notes = query.note.unwrap_or(true);
        let work = Work { app, handle, host, by: (asker, client), may: OnceCell::new() };
        serve(&work, wanted_output, notes, resent, (&mut sink, &mut source)).await;
        let trail = &work.by.0.trail;
        match source.problem() {
            Some(problem) => trail.failed(problem.0.code),
            // Whoever leaves has had what they wanted.
            None => trail.done(),
        }
        // Nothing of it waits for the client.
        drop(work);
        websocket::end(sink, source, |problem| SessionEvent::Error { problem }).await;
    }))
}

/// What goes to the host, in one order.
enum Input {
    Bytes(Bytes),
    End,
}

/// A session, and who is attached to it.
struct Work {
    app: Arc<App>,
    handle: Handle,
    host: SessionHost,
    by: (Asker, Client),
    /// Whether the program may be given something, once that was asked.
    may: OnceCell<Option<Box<Problem>>>,
}

impl Work {
    /// Returns why this client gives the program neither input nor signals: whoever attaches may only look.
    async fn refusal(&self) -> Option<SessionEvent> {
        // Also where it was on when they attached.
        if let Err(why) = self.app.guard.check_feature(Feature::Exec) {
            let problem = error::denied(&self.host, &why).into_problem();
            return Some(SessionEvent::Error { problem });
        }
        let ask = || async {
            let (asker, client) = &self.by;
            let known = self.handle.known();
            let asked = (&known, &NO_ENV);
            let asked = permit_session(&self.app, (asker, client), &self.host, asked, "write to");
            asked.await.err().map(ApiError::into_problem)
        };
        let refused = self.may.get_or_init(ask).await;
        refused.clone().map(|problem| SessionEvent::Error { problem })
    }
}

async fn serve(
    work: &Work,
    wanted: Wanted,
    notes: bool,
    resent: Option<Range<u64>>,
    (sink, source): (&mut Sink, &mut Source),
) {
    let Work { app, handle, host, .. } = work;
    let mut events = handle.follow(&app.sessions, wanted);
    let mut forwarded = handle.forwarded();
    // What was forwarded before is told as well.
    forwarded.mark_changed();
    let run = handle.run();
    let (inputs, input) = mpsc::channel(INPUTS);
    let (controls, control) = mpsc::channel(CONTROLS);
    let (answers, mut answer) = mpsc::channel(ANSWERS);
    let mut read = ReadSoFar { app, run: &run, next: [None; 2], noted: Instant::now() };
    // Whatever fails here fails because the client has gone; the program goes on without it.
    let output = async {
        let mut told = 0;
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                Ok(()) = forwarded.changed() => {
                    let news = forwarded.borrow_and_update()[told..].to_vec();
                    told += news.len();
                    for Forwarded { url, here } in news {
                        if send(sink, &SessionEvent::Forwarded { url, here }).await.is_err() {
                            return;
                        }
                    }
                    continue;
                }
                Some(event) = answer.recv() => {
                    if send(sink, &event).await.is_err() {
                        return;
                    }
                    continue;
                }
            };
            let Some(event) = event else {
                // The daemon stops. The client is not to start another for that.
                let problem = error::stopping().into_problem();
                let _ = send(sink, &SessionEvent::Error { problem }).await;
                return;
            };
            if let Event::Output { stream, from, data } = event {
                let number = match stream {
                    OutputStream::Stdout => STDOUT,
                    OutputStream::Stderr => STDERR,
                };
                let to = from + data.len() as u64;
                let mut message = BytesMut::with_capacity(data.len() + 1);
                message.extend_from_slice(&[number]);
                message.extend_from_slice(&data);
                if sink.send(Message::Binary(message.freeze())).await.is_err() {
                    return;
                }
                if notes {
                    read.note(stream, to);
                }
                continue;
            }
            let event = on_the_wire(app, &run, host, event);
            let is_last = matches!(
                event,
                SessionEvent::Exit { .. }
                    | SessionEvent::Lost
                    | SessionEvent::End
                    | SessionEvent::Error { .. }
            );
            if send(sink, &event).await.is_err() || is_last {
                return;
            }
        }
    };
    let working = async {
        let doing = join(feed(work, resent, input, &answers), control_all(work, control, &answers));
        let listening = listen(source, inputs, controls, answers.clone());
        match select(pin!(listening), pin!(doing)).await {
            Either::Left(((), doing)) => {
                // What has no answer by then may be lost: its client did not wait for one.
                let _ = timeout(LAST_WORDS, doing).await;
            }
            // The input is over, and signals are not permitted. The client looks on.
            Either::Right((_, listening)) => listening.await,
        }
    };
    tokio::select! {
        () = output => {}
        () = working => {}
    }
}

/// Where the client has come to in each stream that it has read anything of, which is remembered now and then, and when it
/// leaves.
struct ReadSoFar<'a> {
    app: &'a App,
    run: &'a Run,
    next: [Option<u64>; 2],
    noted: Instant,
}

impl ReadSoFar<'_> {
    fn note(&mut self, stream: OutputStream, to: u64) {
        self.next[usize::from(stream == OutputStream::Stderr)] = Some(to);
        if self.noted.elapsed() >= NOTE {
            self.app.sessions.note_read(self.run, self.next);
            self.noted = Instant::now();
        }
    }
}

impl Drop for ReadSoFar<'_> {
    fn drop(&mut self) {
        self.app.sessions.note_read(self.run, self.next);
    }
}

/// Sorts what the client says, until it leaves: after its Close nothing comes any more (RFC 6455, section 5.5.1).
async fn listen(
    source: &mut Source,
    inputs: mpsc::Sender<Input>,
    controls: mpsc::Sender<Option<String>>,
    answers: mpsc::Sender<SessionEvent>,
) {
    while let Some(message) = source.next().await {
        let wrong = match message {
            Message::Binary(data) => match websocket::input(&data) {
                Ok(input) => {
                    if inputs.send(input.map_or(Input::End, Input::Bytes)).await.is_err() {
                        tracing::debug!("input after its end");
                    }
                    continue;
                }
                Err(wrong) => wrong,
            },
            Message::Text(text) => {
                let control = match websocket::control(&text) {
                    Ok(ExecControl::Signal { signal }) => Ok(Some(signal)),
                    Ok(ExecControl::Cancel) => Ok(None),
                    // A session has no terminal.
                    Ok(ExecControl::Resize(_)) => continue,
                    Err(wrong) => Err(wrong),
                };
                match control {
                    Ok(control) => {
                        if controls.try_send(control).is_err() {
                            tracing::debug!("a signal was dropped: others wait");
                        }
                        continue;
                    }
                    Err(wrong) => wrong,
                }
            }
            // The answer to a Close goes out as the source is asked for what comes next.
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) => continue,
        };
        if answers.try_send(SessionEvent::BadControl { detail: wrong }).is_err() {
            tracing::debug!("a client is told of no more messages that are none");
        }
    }
}

/// Brings the input to the host, as much at once as is there, and tells how far that is. What may have been sent before, on a
/// connection whose daemon was killed, goes to its offset: the host may take that very input at this moment, for the other.
async fn feed(
    work: &Work,
    resent: Option<Range<u64>>,
    mut queue: mpsc::Receiver<Input>,
    answers: &mpsc::Sender<SessionEvent>,
) {
    let Work { handle, host, .. } = work;
    let mut taken = 0;
    let mut resent = resent.unwrap_or_default();
    while let Some(first) = queue.recv().await {
        if let Some(refusal) = work.refusal().await {
            // Where nobody hears it, the client has gone.
            let _ = answers.send(refusal).await;
            return;
        }
        let mut data = BytesMut::new();
        let mut last = false;
        let mut next = Some(first);
        while let Some(input) = next {
            match input {
                Input::Bytes(bytes) => data.extend_from_slice(&bytes),
                Input::End => last = true,
            }
            next = if last || data.len() >= PIECE { None } else { queue.try_recv().ok() };
        }
        taken += data.len() as u64;
        work.by.0.trail.input(data.len());
        let event = match bring(handle, &mut resent, data.freeze(), last).await {
            Ok(end) => SessionEvent::Input { end, taken },
            // Its end comes with the output.
            Err(SessionError::Ended | SessionError::Lost | SessionError::Gone) => return,
            Err(failure) => {
                SessionEvent::Error { problem: error::session(Some(host), &failure).into_problem() }
            }
        };
        let is_over = last || matches!(event, SessionEvent::Error { .. });
        if answers.send(event).await.is_err() || is_over {
            return;
        }
    }
}

/// Returns where the input ends then: that of this client, as long as it says again what it has said.
async fn bring(
    handle: &Handle,
    resent: &mut Range<u64>,
    mut data: Bytes,
    last: bool,
) -> Result<u64, SessionError> {
    if !resent.is_empty() {
        let most = usize::try_from(resent.end - resent.start).unwrap_or(usize::MAX);
        let known = data.split_to(data.len().min(most));
        let at = resent.start;
        resent.start += known.len() as u64;
        let is_last = last && data.is_empty();
        handle.add(Some(at), known, is_last, true).await?;
        if data.is_empty() {
            return Ok(resent.start);
        }
    }
    handle.add(None, data, last, true).await
}

async fn control_all(
    work: &Work,
    mut control: mpsc::Receiver<Option<String>>,
    answers: &mpsc::Sender<SessionEvent>,
) {
    while let Some(signal) = control.recv().await {
        if let Some(refusal) = work.refusal().await {
            // Where nobody hears it, the client has gone.
            let _ = answers.send(refusal).await;
            return;
        }
        if let Err(failure) = work.handle.signal(&work.app.sessions, signal.as_deref()).await {
            tracing::debug!(%failure, "a session's program was not signalled");
        }
    }
}
