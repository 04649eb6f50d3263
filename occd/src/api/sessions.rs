//! `/v1/sessions`: programs on hosts that outlive the connection.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use futures_util::future::join_all;
use occ_proto::Code;
use occ_proto::policy::Action;
use occ_proto::session::{
    InputTaken, Session, SessionEdit, SessionHost, SessionList, SessionRequest, SessionSignal,
    SessionStart, SessionState,
};
use occ_proto::status::State as Link;
use serde::Deserialize;
use tokio::time::timeout;

use super::document::Binary;
use super::error::{self, ApiError, ApiResult};
use super::extract::{Body, Caller, OptionalBody, Path, Query, executor_named, whole};
use super::json::Json;
use super::params::SessionPath;
use super::permit::{By, Line, QUIETLY};
use super::problems::OfSession;
use super::shown::Shown as _;
use super::{App, auto_forward};
use crate::config::Feature;
use crate::exec::Executor;
use crate::host::Tries;
use crate::policy::{self, Asker, Denied};
use crate::prompts::Client;
use crate::session::{Handle, Place, SessionError};
use crate::ssh::ConnectError;

/// How long a list waits for each host: it shows what was known last of one that does not answer.
const LOOK: Duration = Duration::from_secs(5);

/// The largest offset.
pub(super) const MOST: u64 = 1 << 60;

/// What a session does that forwards by itself, for people.
const FORWARDS: &str = "forward the ports whose URLs a session prints";

/// No variables.
pub(super) static NO_ENV: BTreeMap<String, String> = BTreeMap::new();

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Ask this host, and list what it has.
    host: Option<String>,
}

/// Returns where the sessions of a host run.
async fn place(app: &Arc<App>, host: &SessionHost) -> ApiResult<Place> {
    Ok(Place::new(executor_named(app, host.as_str())?))
}

/// The same for a session's own host, which may have been removed.
async fn own_place(app: &Arc<App>, host: &SessionHost) -> ApiResult<Place> {
    place(app, host).await.map_err(|error| match error.0.code {
        Code::HostNotFound => error::session(None, &SessionError::NoHost(host.to_string())),
        _ => error,
    })
}

/// Returns a session by its name or ID, and its host.
pub(super) async fn handle(
    app: &Arc<App>,
    wanted: &str,
    client: Client,
) -> ApiResult<(Handle, SessionHost)> {
    let found = app.sessions.host_of(wanted).map_err(|failure| error::session(None, &failure));
    let (id, host) = found?;
    let place = own_place(app, &host).await?;
    let handle = app.sessions.handle(&id, place, client);
    let handle = handle.map_err(|failure| error::session(None, &failure))?;
    Ok((handle, host))
}

/// The same for who does something with it: the audit log names it also where there is none.
pub(super) async fn meant(
    app: &Arc<App>,
    asker: &Asker,
    wanted: &str,
    client: Client,
) -> ApiResult<(Handle, SessionHost)> {
    asker.trail.set(|line| line.detail = Some(format!("session {wanted}")));
    handle(app, wanted, client).await
}

/// Permits to act on a session's program as if it was run anew: its directory and its command must be permitted.
pub(super) async fn permit_session(
    app: &Arc<App>,
    by: By<'_>,
    host: &SessionHost,
    (session, env): (&Session, &BTreeMap<String, String>),
    verb: &str,
) -> ApiResult<()> {
    if !app.guard.restricts(by.0, host) {
        return Ok(());
    }
    let info = &session.info;
    let line = Line { argv: &info.argv, shell: None, env };
    let text = format!("{verb} the session {}: {}", info.name, line.text());
    let executor = executor_named(app, host.as_str())?;
    // Where it runs: what is not absolute is so to the home directory.
    let cwd = Some(match info.cwd.as_deref() {
        None => "~".to_owned(),
        Some(cwd) if cwd.starts_with(['/', '~']) => cwd.to_owned(),
        Some(cwd) => format!("~/{cwd}"),
    });
    app.directory_below(by, &executor, cwd, Tries::default()).await?;
    let mut decision = line.with(|request| app.guard.decide(by.0, host, request));
    // Who was allowed to start it is not asked again for each word.
    if decision.action == Action::Ask && app.guard.remembers(by.0, &info.id) {
        decision.action = Action::Allow;
    }
    app.abide(by, host, decision, &text).await
}

/// Says in the audit log which session it is about.
pub(super) fn says(asker: &Asker, host: &SessionHost, session: &Session) {
    asker.trail.set(|line| {
        line.host = Some(host.to_string());
        line.detail = Some(format!("session {} ({})", session.info.id, session.info.name));
    });
}

/// Permits to see what a session's program writes: to whoever may read there, or run it, which shows the same.
pub(super) async fn permit_look(
    app: &Arc<App>,
    by: By<'_>,
    host: &SessionHost,
    session: &Session,
) -> ApiResult<()> {
    let reading = app.guard.decide(by.0, host, &policy::Request::Read);
    if reading.action == Action::Allow {
        return Ok(());
    }
    let line = Line { argv: &session.info.argv, shell: None, env: &NO_ENV };
    let running = line.with(|request| app.guard.decide(by.0, host, request));
    let was_asked = running.action == Action::Ask && app.guard.remembers(by.0, &session.info.id);
    if running.action == Action::Allow || was_asked {
        return permit_session(app, by, host, (session, &NO_ENV), "attach to").await;
    }
    let text = format!("read the output of the session {}", session.info.name);
    app.abide(by, host, reading, &text).await
}

/// Notes how programs end to which nobody is attached, until the daemon stops.
pub async fn notice_ends(app: Arc<App>) {
    let executor = |host: &SessionHost| match host.host() {
        None => Some(Executor::Local(Arc::clone(&app.local))),
        Some(host) => app.pool.get(host).filter(|host| !host.is_ended()).map(Executor::Host),
    };
    app.sessions.notice_ends(executor).await;
}

fn problem(host: &SessionHost) -> impl Fn(SessionError) -> ApiError {
    move |failure| error::session(Some(host), &failure)
}

/// Lists the sessions; hosts that are connected are asked.
#[utoipa::path(
    get,
    path = "/v1/sessions",
    tag = "sessions",
    operation_id = "listSessions",
    params(ListQuery),
    responses((status = 200, description = "The sessions", body = SessionList), OfSession)
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Query(query): Query<ListQuery>,
    Caller(client): Caller,
    asker: Asker,
) -> ApiResult<Json<SessionList>> {
    let host = query.host.map(|host| host.parse::<SessionHost>()).transpose();
    let host = host.map_err(|error| ApiError::bad_request(format!("The {error}.")))?;
    if asker.only_looks {
        let mut sessions = app.sessions.known();
        sessions.retain(|session| host.as_ref().is_none_or(|host| *host == session.host));
        return Ok(Json(SessionList { sessions: sessions.to(&asker) }));
    }
    if let Some(name) = host {
        let place = place(&app, &name).await?;
        let looked = app.sessions.look_at(&name, place, client, true).await;
        return Ok(Json(SessionList { sessions: looked.map_err(problem(&name))? }));
    }
    // Hosts that are connected are asked; the others are not dialled for a list.
    let mut hosts: Vec<SessionHost> =
        app.sessions.known().into_iter().map(|session| session.host).collect();
    hosts.sort();
    hosts.dedup();
    let asked = hosts.into_iter().map(|host| {
        let (app, client) = (Arc::clone(&app), client.clone());
        async move {
            let looked = look(&app, &host, client).await;
            (host, looked.map_err(ApiError::into_problem))
        }
    });
    let answers = join_all(asked).await;
    let mut sessions = app.sessions.known();
    for session in &mut sessions {
        match answers.iter().find(|(host, _)| *host == session.host) {
            Some((_, Ok(fresh))) => {
                if let Some(other) = fresh.iter().find(|other| other.info.id == session.info.id) {
                    *session = other.clone();
                }
            }
            Some((_, Err(problem))) => session.problem = Some(problem.clone()),
            // Started meanwhile.
            None => {}
        }
    }
    Ok(Json(SessionList { sessions }))
}

/// Asks a host for its sessions, if that takes no dial and no long time.
async fn look(
    app: &Arc<App>,
    host: &SessionHost,
    client: Client,
) -> Result<Vec<Session>, ApiError> {
    let place = place(app, host).await?;
    if !place.is_at_hand() {
        let known = host.host().and_then(|name| app.pool.get(name));
        return Err(match known.filter(|known| known.snapshot().state == Link::Stopped) {
            Some(known) => error::connect_error(known.name(), &ConnectError::Stopped),
            None => ApiError::not_connected(host),
        });
    }
    match timeout(LOOK, app.sessions.look_at(host, place, client, false)).await {
        Ok(looked) => looked.map_err(problem(host)),
        Err(_) => Err(ApiError::not_connected(host)),
    }
}

/// Starts a session.
#[utoipa::path(
    post,
    path = "/v1/sessions",
    tag = "sessions",
    operation_id = "startSession",
    request_body = SessionRequest,
    responses((status = 201, description = "It runs", body = Session), OfSession)
)]
pub(super) async fn start(
    State(app): State<Arc<App>>,
    Caller(client): Caller,
    asker: Asker,
    Body(mut request): Body<SessionRequest>,
) -> ApiResult<Response> {
    let host = request.host.clone();
    asker.trail.set(|line| {
        line.host = Some(host.to_string());
        line.detail = request.name.as_ref().map(|name| format!("session {name}"));
        line.cwd.clone_from(&request.cwd);
    });
    asker.trail.command(&request.argv, request.env.keys());
    asker.trail.begin();
    if host == SessionHost::Local && request.forward_urls {
        return Err(ApiError::bad_request("What runs on this machine needs no forward."));
    }
    if let SessionHost::Host(name) = &host {
        request.cwd = request.cwd.or_else(|| app.settings(name).directory);
    }
    allow_terminal(&app, &host, request.tty)?;
    let executor = executor_named(&app, host.as_str())?;
    if app.guard.restricts(&asker, &host) {
        let line = Line { argv: &request.argv, shell: None, env: &request.env };
        let tries = Tries::of(None, request.wait_ms);
        let cwd = request.cwd.clone();
        let by = (&asker, &client);
        let within = request.ask_ms.map(Duration::from_millis);
        request.cwd = app.permit_line(by, &executor, &line, cwd, (tries, within), QUIETLY).await?;
    }
    if request.forward_urls {
        app.permit((&asker, &client), &host, &policy::Request::Forward, FORWARDS).await?;
    }
    let place = Place::new(executor);
    let session = app.sessions.start(place, request, client).await.map_err(problem(&host))?;
    asker.trail.set(|line| line.detail = Some(format!("session {}", session.info.id)));
    auto_forward::follow(&app, &session);
    if app.guard.restricts(&asker, &host) {
        app.guard.remember(&asker, &session.info.id);
    }
    Ok((StatusCode::CREATED, Json(session)).into_response())
}

/// Refuses a terminal where the administrator of this machine has turned those off.
fn allow_terminal(app: &App, host: &SessionHost, tty: bool) -> ApiResult<()> {
    let allowed = if tty { app.guard.check_feature(Feature::Shell) } else { Ok(()) };
    allowed.map_err(|why| error::denied(host, &why))
}

/// Starts a session anew that has ended.
#[utoipa::path(
    post,
    path = "/v1/sessions/{id}/start",
    tag = "sessions",
    operation_id = "startSessionAgain",
    params(SessionPath),
    request_body = Option<SessionStart>,
    responses((status = 200, description = "It runs", body = Session), OfSession)
)]
pub(super) async fn start_again(
    State(app): State<Arc<App>>,
    Path(wanted): Path<String>,
    Caller(client): Caller,
    asker: Asker,
    OptionalBody(request): OptionalBody<SessionStart>,
) -> ApiResult<Json<Session>> {
    asker.trail.set(|line| line.detail = Some(format!("session {wanted}")));
    let known = app.sessions.known_as(&wanted).map_err(|failure| error::session(None, &failure))?;
    let host = known.host.clone();
    let to = known.next_host.clone().unwrap_or_else(|| host.clone());
    says(&asker, &to, &known);
    asker.trail.command(&known.info.argv, request.env.keys());
    asker.trail.begin();
    allow_terminal(&app, &to, known.info.tty)?;
    permit_session(&app, (&asker, &client), &to, (&known, &request.env), "start again").await?;
    if known.info.forward_urls {
        app.permit((&asker, &client), &to, &policy::Request::Forward, FORWARDS).await?;
    }
    let new = own_place(&app, &to).await?;
    // A host that is not known any more cannot be asked, and need not be.
    let old = place(&app, &host).await.ok();
    let started = app.sessions.start_again(&known, old, new, request, client).await;
    let session = started.map_err(|failure| match failure {
        SessionError::Running(_) => problem(&host)(failure),
        failure => problem(&to)(failure),
    })?;
    auto_forward::follow(&app, &session);
    Ok(Json(session))
}

/// Tells the state of a session, as its host knows it.
#[utoipa::path(
    get,
    path = "/v1/sessions/{id}",
    tag = "sessions",
    operation_id = "showSession",
    params(SessionPath),
    responses((status = 200, description = "The session; with a `problem` where its host cannot be asked", body = Session), OfSession)
)]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    Path(wanted): Path<String>,
    Caller(client): Caller,
) -> ApiResult<Json<Session>> {
    let (mut handle, host) = match handle(&app, &wanted, client).await {
        Ok(found) => found,
        Err(error) if error.0.code == Code::HostNotFound => {
            let known = app.sessions.known_as(&wanted);
            let known = known.map_err(|failure| error::session(None, &failure))?;
            return Ok(Json(Session { problem: Some(error.into_problem()), ..known }));
        }
        Err(error) => return Err(error),
    };
    let session = match handle.look(&app.sessions).await {
        Ok(session) => session,
        // What was known last is still worth telling.
        Err(failure) => {
            let problem = error::session(Some(&host), &failure).into_problem();
            Session { problem: Some(problem), ..handle.known() }
        }
    };
    Ok(Json(session))
}

/// Sets what the next start of a session is.
#[utoipa::path(
    patch,
    path = "/v1/sessions/{id}",
    tag = "sessions",
    operation_id = "editSession",
    params(SessionPath),
    request_body = SessionEdit,
    responses((status = 200, description = "The session", body = Session), OfSession)
)]
pub(super) async fn edit(
    State(app): State<Arc<App>>,
    Path(wanted): Path<String>,
    asker: Asker,
    Body(edit): Body<SessionEdit>,
) -> ApiResult<Json<Session>> {
    let found = app.sessions.host_of(&wanted).map_err(|failure| error::session(None, &failure));
    // Not asked of its host, which may be gone.
    let (id, host) = found?;
    asker.trail.set(|line| {
        line.host = Some(host.to_string());
        line.detail = Some(format!("session {id}"));
    });
    if let Some(argv) = &edit.argv {
        asker.trail.command(argv, std::iter::empty());
    }
    asker.trail.begin();
    let runs = app
        .sessions
        .known()
        .iter()
        .any(|session| session.info.id == id && session.state == SessionState::Running);
    // What is known of a program that runs is what its input and its end are decided by.
    let is_relabelled = edit.argv.is_some() || edit.cwd.is_some();
    if is_relabelled && runs && app.guard.restricts(&asker, &host) {
        let why = "the policy: of a session that runs, command and directory stay as they are";
        return Err(error::denied(&host, &Denied::Policy(why.to_owned())));
    }
    if let Some(host) = &edit.host {
        place(&app, host).await?;
    }
    let edited = app.sessions.edit(&wanted, edit);
    Ok(Json(edited.map_err(|failure| error::session(None, &failure))?))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct RemoveQuery {
    /// End its program first.
    #[serde(default)]
    force: bool,
    /// Forget it without asking its host.
    #[serde(default)]
    forget: bool,
}

/// Removes a session with its output.
#[utoipa::path(
    delete,
    path = "/v1/sessions/{id}",
    tag = "sessions",
    operation_id = "removeSession",
    params(SessionPath, RemoveQuery),
    responses((status = 204, description = "It is removed"), OfSession)
)]
pub(super) async fn remove(
    State(app): State<Arc<App>>,
    Path(wanted): Path<String>,
    Query(query): Query<RemoveQuery>,
    Caller(client): Caller,
    asker: Asker,
) -> ApiResult<StatusCode> {
    if query.forget {
        asker.trail.set(|line| line.detail = Some(format!("forget the session {wanted}")));
        let forgotten = app.sessions.host_of(&wanted).and_then(|(id, _)| app.sessions.forget(&id));
        forgotten.map_err(|failure| error::session(None, &failure))?;
        return Ok(StatusCode::NO_CONTENT);
    }
    let (handle, host) = meant(&app, &asker, &wanted, client.clone()).await?;
    says(&asker, &host, &handle.known());
    asker.trail.begin();
    permit_session(&app, (&asker, &client), &host, (&handle.known(), &NO_ENV), "remove").await?;
    handle.remove(&app.sessions, query.force).await.map_err(problem(&host))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Signals a session's program; without a body, ends it: TERM, and KILL 2 s later.
#[utoipa::path(
    post,
    path = "/v1/sessions/{id}/signal",
    tag = "sessions",
    operation_id = "signalSession",
    params(SessionPath),
    request_body = Option<SessionSignal>,
    responses((status = 200, description = "The session", body = Session), OfSession)
)]
pub(super) async fn signal(
    State(app): State<Arc<App>>,
    Path(wanted): Path<String>,
    Caller(client): Caller,
    asker: Asker,
    OptionalBody(request): OptionalBody<SessionSignal>,
) -> ApiResult<Json<Session>> {
    let (mut handle, host) = meant(&app, &asker, &wanted, client.clone()).await?;
    says(&asker, &host, &handle.known());
    asker.trail.begin();
    permit_session(&app, (&asker, &client), &host, (&handle.known(), &NO_ENV), "end or signal")
        .await?;
    let signalled = handle.signal(&app.sessions, request.signal.as_deref()).await;
    signalled.map_err(problem(&host))?;
    if request.signal.is_some() {
        return Ok(Json(handle.known()));
    }
    Ok(Json(handle.look(&app.sessions).await.map_err(problem(&host))?))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct InputQuery {
    /// Where the bytes belong; at the end of what was taken unless given.
    offset: Option<u64>,
    /// Nothing comes after them.
    #[serde(default)]
    eof: bool,
}

/// Writes to the standard input of a session.
#[utoipa::path(
    post,
    path = "/v1/sessions/{id}/input",
    tag = "sessions",
    operation_id = "writeSessionInput",
    params(SessionPath, InputQuery),
    request_body(content = Binary, content_type = "application/octet-stream"),
    responses((status = 200, description = "How far the input was taken", body = InputTaken), OfSession)
)]
pub(super) async fn input(
    State(app): State<Arc<App>>,
    Path(wanted): Path<String>,
    Query(query): Query<InputQuery>,
    Caller(client): Caller,
    asker: Asker,
    body: axum::body::Body,
) -> ApiResult<Json<InputTaken>> {
    let body = whole(&app, body).await?;
    // Beyond what a shell reckons with.
    if query.offset.is_some_and(|offset| offset > MOST) {
        return Err(ApiError::bad_request(format!("An offset is {MOST} at most.")));
    }
    let (handle, host) = meant(&app, &asker, &wanted, client.clone()).await?;
    says(&asker, &host, &handle.known());
    asker.trail.input(body.len());
    permit_session(&app, (&asker, &client), &host, (&handle.known(), &NO_ENV), "write to").await?;
    let taken = handle.add(query.offset, body, query.eof, false).await;
    Ok(Json(InputTaken { end: taken.map_err(problem(&host))? }))
}
