//! Operations: what is being done, or was not long ago.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body as HttpBody;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::{Stream, stream};
use occ_proto::Code;
use occ_proto::exec::NDJSON;
use occ_proto::operation::{Operation, OperationEvent, OperationList};

use super::App;
use super::error::{self, ApiError, ApiResult};
use super::extract::Path;
use super::json::{self, Json};
use super::params::OperationPath;
use super::problems::OfOperation;
use super::shown::Shown as _;
use crate::container::{Event, Running};
use crate::policy::Asker;

/// Returns an operation as it is now.
pub(super) fn of(running: &Running) -> Operation {
    let end = running.end();
    let (outcome, problem) = match end.as_deref().map(|end| &end.result) {
        None => (None, None),
        Some(Ok(outcome)) => (Some(outcome.clone()), None),
        Some(Err(failure)) => {
            let problem = error::sandbox(running.engine.host(), failure).into_problem();
            (None, Some(problem))
        }
    };
    Operation {
        id: running.id.clone(),
        kind: running.kind,
        host: running.engine.host().cloned(),
        state: running.state(),
        started_at: running.started_at,
        ended_at: end.map(|end| end.at),
        step: running.step(),
        outcome,
        problem,
    }
}

impl App {
    /// Returns the operations, the newest first.
    pub(super) fn all_operations(&self) -> Vec<Operation> {
        let now = self.operations.list();
        let now = now.iter().map(|running| of(running));
        now.chain(self.past.list().iter().cloned()).collect()
    }
}

/// Lists the operations, with those of earlier daemons.
#[utoipa::path(
    get,
    path = "/v1/operations",
    tag = "operations",
    operation_id = "listOperations",
    responses((status = 200, description = "The operations", body = OperationList))
)]
pub(super) async fn list(State(app): State<Arc<App>>, asker: Asker) -> Json<OperationList> {
    Json(OperationList { operations: app.all_operations().to(&asker) })
}

/// Tells how an operation stands.
#[utoipa::path(
    get,
    path = "/v1/operations/{id}",
    tag = "operations",
    operation_id = "showOperation",
    params(OperationPath),
    responses((status = 200, description = "The operation", body = Operation), OfOperation)
)]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    asker: Asker,
) -> ApiResult<Json<Operation>> {
    Ok(Json(find(&app, &id)?.now().to(&asker)))
}

/// Cancels an operation.
#[utoipa::path(
    delete,
    path = "/v1/operations/{id}",
    tag = "operations",
    operation_id = "cancelOperation",
    params(OperationPath),
    responses((status = 202, description = "It is about to end", body = Operation), OfOperation)
)]
pub(super) async fn cancel(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> ApiResult<(StatusCode, Json<Operation>)> {
    let found = find(&app, &id)?;
    if let Found::Here(running) = &found {
        running.cancel();
    }
    Ok((StatusCode::ACCEPTED, Json(found.now())))
}

/// Tells what happens, from the beginning on, as lines of JSON up to the end.
#[utoipa::path(
    get,
    path = "/v1/operations/{id}/events",
    tag = "operations",
    operation_id = "followOperation",
    params(OperationPath),
    responses((status = 200, description = "Lines of JSON", body = OperationEvent, content_type = "application/x-ndjson"), OfOperation)
)]
pub(super) async fn events(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let body = match find(&app, &id)? {
        Found::Here(running) => HttpBody::from_stream(lines(running)),
        Found::Past(operation) => HttpBody::from(last_lines(*operation)),
    };
    Ok(([(header::CONTENT_TYPE, NDJSON)], body).into_response())
}

fn lines(running: Arc<Running>) -> impl Stream<Item = Result<Vec<u8>, Infallible>> {
    stream::unfold(Some((running, 0)), |at| async move {
        let (running, next) = at?;
        let (events, next, ended) = running.events(next).await;
        let mut lines: Vec<u8> =
            events.into_iter().flat_map(|event| json::line(&told(event))).collect();
        if ended {
            let operation = Box::new(of(&running));
            lines.extend(json::line(&OperationEvent::End { operation }));
        }
        let rest = (!ended).then_some((running, next));
        Some((Ok(lines), rest))
    })
}

/// Returns what is kept of an operation's events: what a program said last where it failed, and the end.
fn last_lines(operation: Operation) -> Vec<u8> {
    let problem = operation.problem.as_ref();
    let failed = problem
        .filter(|problem| matches!(problem.code, Code::SandboxNotReady | Code::InstallFailed));
    let said = failed.map(|problem| problem.causes.clone()).unwrap_or_default();
    let said = said.into_iter().map(|text| OperationEvent::Output { text });
    let end = OperationEvent::End { operation: Box::new(operation) };
    said.chain([end]).flat_map(|event| json::line(&event)).collect()
}

fn told(event: Event) -> OperationEvent {
    match event {
        Event::Step(text) => OperationEvent::Step { text },
        Event::Pull(progress) => OperationEvent::Pull(progress),
        Event::Output(text) => OperationEvent::Output { text },
        Event::Note(text) => OperationEvent::Note { text },
    }
}

/// An operation of this daemon's, or what is kept of an earlier one's.
enum Found {
    Here(Arc<Running>),
    Past(Box<Operation>),
}

impl Found {
    fn now(self) -> Operation {
        match self {
            Self::Here(running) => of(&running),
            Self::Past(operation) => *operation,
        }
    }
}

fn find(app: &App, id: &str) -> Result<Found, ApiError> {
    let here = app.operations.get(id).map(Found::Here);
    let past = || app.past.list().iter().find(|operation| operation.id == id).cloned();
    here.or_else(|| past().map(|operation| Found::Past(Box::new(operation)))).ok_or_else(|| {
        let detail = "There is no such operation; those that ended long ago are forgotten.";
        ApiError::new(StatusCode::NOT_FOUND, Code::OperationNotFound, detail)
    })
}
