//! `GET /v1/hosts/{host}/exec`: a command over a WebSocket; the frames are in `proto/src/exec.rs`.

mod input;
mod output;
mod passing;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::Message;
use axum::http::StatusCode;
use axum::response::Response;
use occ_proto::Code;
use occ_proto::exec::{DESCRIPTORS_HEADER, ExecEvent, ExecRequest};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use input::{Input, ReadAhead, Wants};
use output::Last;
use passing::Passing;

use super::App;
use super::error::{self, ApiError, ApiResult};
use super::extract::{Caller, ExecutorOf};
use super::params::PlacePath;
use super::permit::{By, place_of};
use super::problems::OfExec;
use super::shown::Shown as _;
use super::strict;
use super::websocket::{self, GOODBYE, Handshake, Sink, Source, send};
use crate::exec::{Destinations, Executor, Progress, Running};
use crate::host::Tries;
use crate::policy::{Asker, GrantInForce};
use crate::prompts::Client;

/// How long a client may take to say what to run.
const REQUEST: Duration = Duration::from_secs(10);
/// A command on a connected host is sent within this time, and nothing is said before it is started.
const AT_ONCE: Duration = Duration::from_millis(50);
/// Controls that are none and of which the client has not been told. More come of a client that does not read.
const CONTROLS: usize = 4;

/// Runs a command over a WebSocket.
///
/// The first text message is an `ExecRequest`. Binary messages carry bytes behind the number of their stream: 0 to the daemon, 1 and 2 from
/// it. Text messages are `ExecControl`s to the daemon and `ExecEvent`s from it.
#[utoipa::path(
    get,
    path = "/v1/hosts/{host}/exec",
    tag = "exec",
    operation_id = "execWebSocket",
    params(PlacePath),
    responses((status = 101, description = "Switches to a WebSocket (RFC 6455)", headers(("occ-descriptors" = String, description = "Which of the descriptors that were offered are taken"))), OfExec)
)]
pub(super) async fn upgrade(
    State(app): State<Arc<App>>,
    ExecutorOf(executor): ExecutorOf,
    Caller(client): Caller,
    asker: Asker,
    passing: Passing,
    handshake: Handshake,
) -> ApiResult<Response> {
    let offer = passing.accept();
    let mut response = handshake.accept(move |mut sink, mut source| async move {
        let (grant, trail) = (asker.grant.clone(), asker.trail.clone());
        let stop = app.stop.clone();
        let socket = (&mut sink, &mut source);
        let served = serve(app, executor, socket, (asker, client), passing);
        // Boxed: it is large.
        if !GrantInForce::bound(grant.clone(), Box::pin(served)).await
            && !stop.is_cancelled()
            && let Some(grant) = grant
        {
            tell_the_end(&mut sink, &grant).await;
        }
        if let Some(problem) = source.problem() {
            trail.failed(problem.0.code);
        }
        // Its line does not wait for the client.
        drop(trail);
        websocket::end(sink, source, |problem| ExecEvent::Error { problem }).await;
    });
    if let Some(offer) = offer {
        response.headers_mut().insert(DESCRIPTORS_HEADER, offer);
    }
    Ok(response)
}

/// Tells a client that its grant has ended, and its command with that.
async fn tell_the_end(sink: &mut Sink, grant: &GrantInForce) {
    let text = format!("The grant {} has ended: the command was ended.", grant.name);
    let problem = ApiError::new(StatusCode::FORBIDDEN, Code::PolicyDenied, text);
    let event = ExecEvent::Error { problem: problem.host(&grant.host).into_problem() };
    // One that does not read is not waited for.
    if !matches!(timeout(GOODBYE, send(sink, &event)).await, Ok(Ok(()))) {
        tracing::debug!(grant = grant.name, "a client was not told of the end of its grant");
    }
}

async fn serve(
    app: Arc<App>,
    executor: Executor,
    (sink, source): (&mut Sink, &mut Source),
    (asker, client): (Asker, Client),
    passing: Passing,
) {
    // Whatever fails here fails because the client has gone; dropping all of it ends the command.
    let begun = begin(&app, &executor, sink, source, (&asker, &client)).await;
    let news = client.take_news();
    let is_told = !news.is_empty();
    for key in news {
        if send(sink, &ExecEvent::NewHostKey(key)).await.is_err() {
            return;
        }
    }
    let (running, early) = match begun {
        Ok(Some(begun)) => begun,
        Ok(None) => return,
        Err(problem) => {
            asker.trail.failed(problem.0.code);
            passing.refuse().await;
            let event = ExecEvent::Error { problem: problem.into_problem().to(&asker) };
            let _ = send(sink, &event).await;
            return;
        }
    };
    if send(sink, &super::exec::started(&running)).await.is_err() {
        return;
    }
    // A client that is told of a new host key says so first; its words and the output may share a file.
    let destinations = if is_told || running.new_host_key().is_some() {
        passing.refuse().await;
        Destinations::default()
    } else {
        passing.destinations().await
    };
    let (wrong, told) = mpsc::channel(CONTROLS);
    let mut input = Input::new((running.control(), asker.trail.clone()), early, wrong);
    let blocked = Arc::clone(&input.blocked);
    // Both directions at once: a client that does not read must still be heard, and the other way round.
    tokio::select! {
        last = output::run(running, sink, destinations, &blocked, told) => {
            if let Some(last) = last {
                let event = match last {
                    Last::Ended(Ok(exit)) => {
                        asker.trail.exited(&exit);
                        ExecEvent::Exit(exit)
                    }
                    Last::Ended(Err(failure)) => {
                        let problem = error::exec_at(&executor, &failure).into_problem().to(&asker);
                        asker.trail.failed(problem.code);
                        ExecEvent::Error { problem }
                    }
                    Last::Unwritable(errno) => ExecEvent::OutputError { errno },
                };
                let _ = send(sink, &event).await;
            }
        }
        () = input.run(source) => {
            tracing::debug!(host = executor.name(), "the client left before its command ended");
        }
    }
}

/// Takes the request and starts the command. `None` means that the client has gone; a command that was not
/// sent by then is not started, however long the connecting took. Also returns what the client sent meanwhile.
async fn begin(
    app: &App,
    executor: &Executor,
    sink: &mut Sink,
    source: &mut Source,
    by: By<'_>,
) -> Result<Option<(Running, ReadAhead)>, ApiError> {
    let first = async {
        loop {
            match source.next().await {
                Some(Message::Ping(_) | Message::Pong(_)) => {}
                message => break message,
            }
        }
    };
    let first = match timeout(REQUEST, first).await {
        Ok(Some(Message::Text(text))) => text,
        Ok(Some(_)) => {
            return Err(ApiError::bad_request("The first message must be the request, as text."));
        }
        Ok(None) => return Ok(None),
        Err(_) => return Err(ApiError::bad_request("No request came within 10 s.")),
    };
    let request: ExecRequest = strict::from_slice(first.as_bytes())
        .map_err(|unfit| ApiError::unfit("The request", unfit))?;
    by.0.trail.begin_exec(&request);
    if request.stdin.is_some() {
        return Err(ApiError::bad_request("On a WebSocket, stdin is sent as binary messages."));
    }
    let tries = Tries::of(request.retries, request.wait_ms);
    let mut early = ReadAhead::default();
    let permitted = permitted(app, executor, (sink, source), by, request, &mut early);
    let Some(request) = permitted.await? else {
        return Ok(None);
    };
    let client = by.1;
    let command = app.command(executor, request)?;
    let progress = Progress::default();
    let starting = executor.start(&command, tries, client, &progress);
    tokio::pin!(starting);
    let mut is_told = false;
    let late = sleep(AT_ONCE);
    tokio::pin!(late);
    loop {
        let event = tokio::select! {
            biased;
            started = &mut starting => {
                return started
                    .map(|running| Some((running, early)))
                    .map_err(|failure| error::exec_at(executor, &failure));
            }
            () = progress.ready() => ExecEvent::Sending,
            () = &mut late, if !is_told => ExecEvent::Waiting,
            message = source.next(), if early.has_room() => match early.take(message) {
                Wants::It => continue,
                Wants::GiveUp => {
                    return Err(error::given_up(executor, progress.may_have_started()));
                }
                Wants::Nothing => return Ok(None),
            },
        };
        is_told = true;
        if event == ExecEvent::Waiting && !progress.hold() {
            continue;
        }
        if send(sink, &event).await.is_err() {
            return Ok(None);
        }
        if event == ExecEvent::Sending {
            progress.let_go();
        }
    }
}

/// Returns the request that may be run, once that is decided, which may wait for a person. `None` means that the client has
/// gone; what it sent meanwhile is `early`.
async fn permitted(
    app: &App,
    executor: &Executor,
    (sink, source): (&mut Sink, &mut Source),
    by: By<'_>,
    request: ExecRequest,
    early: &mut ReadAhead,
) -> Result<Option<ExecRequest>, ApiError> {
    if !app.guard.restricts(by.0, &place_of(executor)) {
        return Ok(Some(request));
    }
    // One question at most.
    let (told, mut tells) = mpsc::channel(1);
    let told = move |id, message: &str| {
        let message = message.to_owned();
        if told.try_send(ExecEvent::Approval { id, message }).is_err() {
            tracing::debug!("a client is not told what it waits for");
        }
    };
    // Boxed: most commands have no policy.
    let mut permitting = Box::pin(app.permit_exec(by, executor, request, &told));
    loop {
        let event = tokio::select! {
            biased;
            permitted = &mut permitting => return permitted.map(Some),
            Some(event) = tells.recv() => event,
            message = source.next(), if early.has_room() => match early.take(message) {
                Wants::It => continue,
                Wants::GiveUp => return Err(error::given_up(executor, false)),
                Wants::Nothing => return Ok(None),
            },
        };
        if send(sink, &event).await.is_err() {
            return Ok(None);
        }
    }
}
