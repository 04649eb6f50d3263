//! `/v1/prompts`: the questions that wait for a person, and their answers; `/v1/unlock`: asking for the
//! passphrase of a key on somebody's wish.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body as HttpBody;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream;
use occ_proto::exec::NDJSON;
use occ_proto::paths::expand_tilde;
use occ_proto::prompt::{
    AnswerPrompt, Prompt, PromptEvent, PromptList, PromptVerdict, Unlock, Unlocked,
};
use occ_proto::{Code, HostName};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::error::{self, ApiError, ApiResult};
use super::exec::wants_lines;
use super::extract::{Body, Caller, Path, Query};
use super::json::{self, Json};
use super::problems::{OfDial, OfPrompt};
use super::shown::Shown as _;
use super::{App, HEARTBEAT, doors};
use crate::host::HostHandle;
use crate::policy::Asker;
use crate::prompts::{NotTaken, Prompts, Questions, check_token};
use crate::ssh::error::chain;
use crate::ssh::{ConnectError, auth};

/// How long whoever answers waits to hear what became of it; a server takes some seconds to refuse a password.
const VERDICT: Duration = Duration::from_secs(30);

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only the questions that requests with this token raised, which are shown at once; else those that are
    /// for all.
    #[serde(default, deserialize_with = "token")]
    client: Option<String>,
    /// Only the approvals that other requests of the same process wait for; through a grant there are no others.
    #[serde(default)]
    own: bool,
}

/// Reads what a client calls itself, as its requests do.
fn token<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let token = String::deserialize(from)?;
    check_token(&token).map_err(D::Error::custom)?;
    Ok(Some(token))
}

/// Lists the questions that wait for a person; with `Accept: application/x-ndjson` a `PromptEvent` a line as they come and go.
#[utoipa::path(
    get,
    path = "/v1/prompts",
    tag = "prompts",
    operation_id = "listPrompts",
    params(ListQuery),
    responses((status = 200, description = "The questions", content((PromptList = "application/json"), (PromptEvent = "application/x-ndjson"))))
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Query(query): Query<ListQuery>,
    asker: Asker,
    headers: HeaderMap,
) -> Response {
    let prompts = Arc::clone(&app.pool.context().dial.prompts);
    if query.own {
        let prompts = prompts.wanted_by(asker.peer).to(&asker);
        return Json(PromptList { prompts }).into_response();
    }
    if let Some(grant) = &asker.grant {
        return doors::not_given(grant).into_response();
    }
    if wants_lines(&headers) {
        let lines = HttpBody::from_stream(events(prompts, query.client, asker));
        return ([(header::CONTENT_TYPE, NDJSON)], lines).into_response();
    }
    let prompts = prompts.visible(query.client.as_deref()).to(&asker);
    Json(PromptList { prompts }).into_response()
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct AnswerQuery {
    /// The token of the request that raised it, where it is not for all yet.
    #[serde(default, deserialize_with = "token")]
    client: Option<String>,
    /// Wait until it is known what became of the answer.
    #[serde(default)]
    verdict: bool,
}

/// Answers a question, or declines it.
#[utoipa::path(
    post,
    path = "/v1/prompts/{id}",
    tag = "prompts",
    operation_id = "answerPrompt",
    params(("id" = String, Path, description = "The number of the question"), AnswerQuery),
    request_body = AnswerPrompt,
    responses((status = 204, description = "The answer is taken"), (status = 200, description = "With `verdict`: whether it is right", body = PromptVerdict), OfPrompt)
)]
pub(super) async fn answer(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Query(query): Query<AnswerQuery>,
    asker: Asker,
    Body(answer): Body<AnswerPrompt>,
) -> ApiResult<Response> {
    let gone = || {
        ApiError::new(
            StatusCode::NOT_FOUND,
            Code::PromptNotFound,
            "There is no such prompt: it has been answered, or is asked no more.",
        )
    };
    let id = id.parse().map_err(|_| gone())?;
    let prompts = &app.pool.context().dial.prompts;
    // The question and whether it was answered, and nothing of the answer.
    asker.trail.set(|line| {
        if let Some(prompt) = prompts.get(id) {
            line.host = prompt.host.as_ref().map(ToString::to_string);
            let kind = serde_json::to_value(prompt.kind).unwrap_or_default();
            let kind = kind.as_str().unwrap_or_default().to_owned();
            line.detail = Some(format!("prompts/{id} ({kind})"));
        }
        if answer.answer.is_none() {
            line.action = "prompt.decline".to_owned();
        }
    });
    asker.trail.begin();
    let told = prompts.answer(id, query.client.as_deref(), asker.peer, answer);
    let told = told.map_err(|why| match why {
        NotTaken::NoSuchPrompt => gone(),
        NotTaken::Own => ApiError::new(
            StatusCode::FORBIDDEN,
            Code::PolicyDenied,
            "Whoever wants it done, and what that has started, cannot allow it.",
        ),
    })?;
    if !query.verdict {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    // Closed means that nobody finds fault with it.
    let fate = timeout(VERDICT, told).await.ok().and_then(Result::ok);
    let next = fate.and_then(|fate| fate.next).and_then(|id| prompts.get(id));
    Ok(Json(PromptVerdict { wrong: fate.is_some_and(|fate| fate.wrong), next }).into_response())
}

/// Asks for the passphrases of the keys of a host, or of a key.
#[utoipa::path(
    post,
    path = "/v1/unlock",
    tag = "prompts",
    operation_id = "unlock",
    request_body = Unlock,
    responses((status = 200, description = "What is unlocked", body = Unlocked), OfDial)
)]
pub(super) async fn unlock(
    State(app): State<Arc<App>>,
    Caller(client): Caller,
    asker: Asker,
    Body(wish): Body<Unlock>,
) -> ApiResult<Json<Unlocked>> {
    asker.trail.set(|line| match &wish {
        Unlock::Host(name) => line.host = Some(name.to_string()),
        Unlock::IdentityFile(file) => line.path = Some(file.clone()),
    });
    asker.trail.begin();
    let environment = &app.pool.context().dial;
    let questions = Questions::of(Arc::clone(&environment.prompts), &client);
    let failed = |failure: ConnectError| match &wish {
        Unlock::Host(name) => error::connect_error(name, &failure),
        Unlock::IdentityFile(_) => {
            let (code, detail) = (failure.code(), format!("{}.", chain(&failure)));
            let status = match code {
                Code::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::CONFLICT,
            };
            ApiError::new(status, code, detail)
        }
    };
    let paths = match &wish {
        Unlock::Host(name) => {
            let host = known(&app, name)?;
            let config = host.snapshot().config.clone();
            auth::locked_keys(&config, environment).await.map_err(failed)?
        }
        Unlock::IdentityFile(file) => {
            let path = expand_tilde(file, Some(&environment.home));
            if !path.is_absolute() {
                return Err(ApiError::bad_request("The identity file must be an absolute path."));
            }
            auth::locked_key(&path, environment).map_err(failed)?.into_iter().collect()
        }
    };
    let mut unlocked = Unlocked::default();
    for path in paths {
        let waiting = waiting_for(&app, &path);
        environment.unlocked.unlock(&path, &questions).await.map_err(failed)?;
        unlocked.keys.push(path.display().to_string());
        unlocked.hosts.extend(waiting);
    }
    Ok(Json(unlocked))
}

fn known(app: &App, name: &HostName) -> ApiResult<HostHandle> {
    app.hosts.current().usable().map_err(ApiError::from)?;
    app.pool.get_or_make_via(name).ok_or_else(|| ApiError::host_not_found(name))
}

/// Returns the hosts whose login failed for that key.
fn waiting_for(app: &App, path: &PathBuf) -> Vec<HostName> {
    let failed_for = |host: &HostHandle| match &host.snapshot().last_error {
        Some((error, _)) => {
            matches!(&**error, ConnectError::Unanswered { key: Some(key), .. } if key == path)
        }
        None => false,
    };
    app.pool.all().into_iter().filter(failed_for).map(|host| host.name().clone()).collect()
}

/// What a stream of prompts has told and must still tell.
struct Stream {
    prompts: Arc<Prompts>,
    client: Option<String>,
    asker: Asker,
    changes: watch::Receiver<bool>,
    told: Vec<Prompt>,
    pending: VecDeque<PromptEvent>,
}

/// Returns the open questions and what becomes of them, as lines. Ends with the daemon.
fn events(
    prompts: Arc<Prompts>,
    client: Option<String>,
    asker: Asker,
) -> impl futures_util::Stream<Item = Result<Bytes, Infallible>> {
    let changes = prompts.changes();
    let (told, pending) = (Vec::new(), VecDeque::new());
    let state = Stream { prompts, client, asker, changes, told, pending };
    stream::unfold(state, |mut state| async move {
        loop {
            if let Some(event) = state.pending.pop_front() {
                return Some((Ok(json::line(&event)), state));
            }
            if *state.changes.borrow_and_update() {
                return None;
            }
            state.compare();
            if !state.pending.is_empty() {
                continue;
            }
            let heartbeat = Instant::now() + HEARTBEAT;
            let next = state.prompts.next_for_all().map_or(heartbeat, |at| at.min(heartbeat));
            tokio::select! {
                changed = state.changes.changed() => if changed.is_err() { return None },
                () = sleep_until(next) => if next == heartbeat {
                    return Some((Ok(Bytes::from_static(b"\n")), state));
                },
            }
        }
    })
}

impl Stream {
    fn compare(&mut self) {
        let now = self.prompts.visible(self.client.as_deref()).to(&self.asker);
        let is_in = |list: &[Prompt], prompt: &Prompt| list.iter().any(|one| one.id == prompt.id);
        let closed = self.told.iter().filter(|prompt| !is_in(&now, prompt));
        self.pending.extend(closed.map(|prompt| PromptEvent::Closed { id: prompt.id }));
        let opened = now.iter().filter(|prompt| !is_in(&self.told, prompt)).cloned();
        self.pending.extend(opened.map(|prompt| PromptEvent::Opened { prompt }));
        self.told = now;
    }
}
