//! What the sandbox says, as lines of JSON.

use std::sync::Arc;

use axum::body::Body as HttpBody;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use occ_proto::container::LogLine;
use occ_proto::exec::NDJSON;
use serde::Deserialize;

use super::App;
use super::error::{self, ApiResult};
use super::extract::{Caller, EngineOf, Query};
use super::json;
use super::params::PlacePath;
use super::problems::OfSandbox;
use crate::container::{Engine, LogQuery, Logs};
use crate::host::Tries;

/// The lines that are there, unless a request says how many.
const LINES: u64 = 50;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct LogsQuery {
    /// How many of the lines that are there.
    lines: Option<u64>,
    /// All of them.
    #[serde(default)]
    all: bool,
    /// Go on with those that come.
    #[serde(default)]
    follow: bool,
    /// How many times to dial a host again that is down.
    retries: Option<u32>,
}

/// Tells what the sandbox says, a `LogLine` a line; with `follow=true` it goes on, also over a broken link.
#[utoipa::path(
    get,
    path = "/v1/hosts/{host}/container/logs",
    tag = "sandbox",
    operation_id = "showSandboxLogs",
    params(PlacePath, LogsQuery),
    responses((status = 200, description = "Lines of JSON", body = LogLine, content_type = "application/x-ndjson"), OfSandbox)
)]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    Query(query): Query<LogsQuery>,
    EngineOf(engine): EngineOf,
    Caller(client): Caller,
) -> ApiResult<Response> {
    if let (Engine::Host(host), Some(retries)) = (&engine, query.retries) {
        let connected = host.connection(Tries::Retries(retries), &client).await;
        connected.map_err(|failure| error::unreachable(host.name(), &failure))?;
    }
    let host = engine.host().cloned();
    let lines = if query.all { None } else { Some(query.lines.unwrap_or(LINES)) };
    let query = LogQuery { lines, follow: query.follow };
    let (tasks, stop) = (app.tasks.clone(), app.stop.clone());
    let spawn = |task| {
        tasks.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    };
    let opened = Logs::open(engine, query, &client, spawn).await;
    let logs = opened.map_err(|failure| error::sandbox(host.as_ref(), &failure))?;
    let lines = stream::unfold(Some(logs), move |logs| {
        let host = host.clone();
        async move {
            let mut logs = logs?;
            let (line, rest) = match logs.next().await? {
                Ok(line) => (line, Some(logs)),
                Err(failure) => {
                    let problem = error::sandbox(host.as_ref(), &failure).into_problem();
                    (LogLine { problem: Some(problem), ..LogLine::default() }, None)
                }
            };
            Some((Ok::<_, std::convert::Infallible>(json::line(&line)), rest))
        }
    });
    Ok(([(header::CONTENT_TYPE, NDJSON)], HttpBody::from_stream(lines)).into_response())
}
