//! Operations: what is being done, or was not long ago.

use std::sync::Arc;

use axum::body::Body as HttpBody;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use occ_proto::Code;
use occ_proto::exec::NDJSON;
use occ_proto::operation::{Operation, OperationEvent, OperationList};

use super::App;
use super::error::{self, ApiError, ApiResult};
use super::json::{self, Json};
use crate::container::{Event, Running};

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

pub(super) async fn list(State(app): State<Arc<App>>) -> Json<OperationList> {
    let operations = app.operations.list().iter().map(|running| of(running)).collect();
    Json(OperationList { operations })
}

pub(super) async fn show(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> ApiResult<Json<Operation>> {
    Ok(Json(of(&*find(&app, &id)?)))
}

pub(super) async fn cancel(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> ApiResult<(StatusCode, Json<Operation>)> {
    let running = find(&app, &id)?;
    running.cancel();
    Ok((StatusCode::ACCEPTED, Json(of(&running))))
}

/// Tells what happens, from the beginning on, as lines of JSON up to the end.
pub(super) async fn events(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let running = find(&app, &id)?;
    let lines = stream::unfold(Some((running, 0)), |at| async move {
        let (running, next) = at?;
        let (events, next, ended) = running.events(next).await;
        let mut lines: Vec<u8> =
            events.into_iter().flat_map(|event| json::line(&told(event))).collect();
        if ended {
            let operation = Box::new(of(&running));
            lines.extend(json::line(&OperationEvent::End { operation }));
        }
        let rest = (!ended).then_some((running, next));
        Some((Ok::<_, std::convert::Infallible>(lines), rest))
    });
    Ok(([(header::CONTENT_TYPE, NDJSON)], HttpBody::from_stream(lines)).into_response())
}

fn told(event: Event) -> OperationEvent {
    match event {
        Event::Step(text) => OperationEvent::Step { text },
        Event::Pull(progress) => OperationEvent::Pull(progress),
        Event::Output(text) => OperationEvent::Output { text },
        Event::Note(text) => OperationEvent::Note { text },
    }
}

fn find(app: &App, id: &str) -> Result<Arc<Running>, ApiError> {
    app.operations.get(id).ok_or_else(|| {
        let detail = "There is no such operation; those that ended long ago are forgotten.";
        ApiError::new(StatusCode::NOT_FOUND, Code::OperationNotFound, detail)
    })
}
