//! `/v1/hosts/{host}/trace`: what goes through a host's channels, into a file.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body as HttpBody;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream;
use jiff::{SignedDuration, Timestamp};
use occ_proto::Code;
use occ_proto::exec::NDJSON;
use occ_proto::trace::{TraceCounts, TraceEnd, TraceEvent, TraceRequest};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::error::{ApiError, ApiResult};
use super::extract::{Body, Host};
use super::params::HostPath;
use super::problems::{OfHost, OfTrace};
use super::{App, HEARTBEAT, json};
use crate::blocking::blocking;
use crate::policy::Asker;
use crate::ssh::error::chain;
use crate::state_file::is_no_space;
use crate::trace::{self, Ended, FileError, LARGEST};

/// The longest trace: a day.
const LONGEST: u64 = 24 * 3600 * 1000;
/// How often whoever reads is told how far it is.
const PROGRESS: Duration = Duration::from_secs(1);

/// Writes what goes through the host's channels into a file, until its time is over or its client leaves: a `TraceEvent` a
/// line. Logins are no part of it.
#[utoipa::path(
    post,
    path = "/v1/hosts/{host}/trace",
    tag = "links",
    operation_id = "traceHost",
    params(HostPath),
    request_body = TraceRequest,
    responses((status = 200, description = "Lines of JSON", body = TraceEvent, content_type = "application/x-ndjson", headers(("cache-control" = String, description = "`no-store`"))), OfTrace)
)]
pub(super) async fn start(
    State(app): State<Arc<App>>,
    Host(host): Host,
    asker: Asker,
    Body(request): Body<TraceRequest>,
) -> ApiResult<Response> {
    if request.for_ms == 0 || request.for_ms > LONGEST {
        return Err(ApiError::bad_request("for_ms must be from 1 to 86400000, a day."));
    }
    let name = host.name().clone();
    let tap = app.pool.context().dial.taps.of(&name);
    let Some(tracer) = tap.trace() else {
        let detail = format!("Host '{name}' is being traced already.");
        return Err(ApiError::new(StatusCode::CONFLICT, Code::TraceRunning, detail).host(&name));
    };
    let now = Timestamp::now();
    let made = {
        let (traces, name) = (app.traces.clone(), name.clone());
        blocking(move || match request.file {
            Some(path) => trace::create(path.as_ref()),
            None => {
                let time = now.strftime("%Y%m%dT%H%M%S%.3fZ");
                trace::create_in(&traces, &format!("{name}-{time}.jsonl"))
            }
        })
    };
    let (file, path) = made.await.map_err(|error| of_file(&error).host(&name))?;
    let time = Duration::from_millis(request.for_ms);
    let ends_at = SignedDuration::try_from(time).ok().and_then(|time| now.checked_add(time).ok());
    let (left, stop) = (CancellationToken::new(), app.stop.clone());
    let (counts, progress) = watch::channel(TraceCounts::default());
    let (done, ended) = oneshot::channel();
    let file_name = path.display().to_string();
    let trail = asker.trail;
    trail.set(|line| line.path = Some(file_name.clone()));
    trail.begin();
    trail.goes_on();
    tracing::warn!(host = %name, file = file_name, "the host's channels are traced");
    let of_client = left.clone();
    app.tasks.spawn(async move {
        let ended = trace::run(tracer, (file, LARGEST), time, &counts, of_client, stop).await;
        let Ended { why, counts, error } = &ended;
        let error = error.as_ref().map(ToString::to_string);
        tracing::warn!(host = %name, ?why, records = counts.records, error, "the trace has ended");
        match why {
            TraceEnd::Failed => trail.failed(Code::FileError),
            _ => trail.done(),
        }
        // Its client may have left.
        let _ = done.send(ended);
    });
    let started = TraceEvent::Started { file: file_name, ends_at: ends_at.unwrap_or(now) };
    let reader = Reader {
        started: Some(started),
        told: TraceCounts::default(),
        progress,
        ended: Some(ended),
        heartbeat: Instant::now(),
        _left: left.drop_guard(),
    };
    let body = HttpBody::from_stream(stream::unfold(reader, Reader::next));
    let headers = [(header::CONTENT_TYPE, NDJSON), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, body).into_response())
}

/// Ends the trace of a host, if there is one.
#[utoipa::path(
    delete,
    path = "/v1/hosts/{host}/trace",
    tag = "links",
    operation_id = "endTrace",
    params(HostPath),
    responses((status = 204, description = "There is none any more, once its last line is written"), OfHost)
)]
pub(super) async fn end(State(app): State<Arc<App>>, Host(host): Host) -> StatusCode {
    app.pool.context().dial.taps.of(host.name()).end();
    StatusCode::NO_CONTENT
}

fn of_file(error: &FileError) -> ApiError {
    let (status, code) = match error {
        FileError::Relative(_) => (StatusCode::BAD_REQUEST, Code::BadRequest),
        FileError::Exists(_) => (StatusCode::PRECONDITION_FAILED, Code::FileExists),
        FileError::NoDirectory(_) => (StatusCode::NOT_FOUND, Code::FileNotFound),
        FileError::Exposed { .. } => (StatusCode::FORBIDDEN, Code::PermissionDenied),
        FileError::Io { source, .. } => match source.kind() {
            std::io::ErrorKind::PermissionDenied => (StatusCode::FORBIDDEN, Code::PermissionDenied),
            _ if is_no_space(source) => (StatusCode::INSUFFICIENT_STORAGE, Code::NoSpace),
            _ => (StatusCode::CONFLICT, Code::FileError),
        },
    };
    ApiError::new(status, code, format!("The trace has no file: {}.", chain(error)))
}

/// Tells a client of its trace, which ends when this is dropped.
struct Reader {
    started: Option<TraceEvent>,
    told: TraceCounts,
    progress: watch::Receiver<TraceCounts>,
    /// Nothing once it was told.
    ended: Option<oneshot::Receiver<Ended>>,
    /// When something was sent last.
    heartbeat: Instant,
    _left: DropGuard,
}

impl Reader {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        if let Some(started) = self.started.take() {
            return Some((Ok(json::line(&started)), self));
        }
        loop {
            let ended = self.ended.as_mut()?;
            let look = Instant::now() + PROGRESS;
            let ended = tokio::select! {
                ended = ended => Some(ended),
                () = sleep_until(look) => None,
            };
            if let Some(ended) = ended {
                self.ended = None;
                let event = match ended {
                    Ok(Ended { why, counts, error }) => {
                        TraceEvent::Ended { why, counts, error: error.map(|e| e.to_string()) }
                    }
                    // The task panicked, or was cut off.
                    Err(_) => TraceEvent::Ended {
                        why: TraceEnd::Failed,
                        counts: *self.progress.borrow(),
                        error: None,
                    },
                };
                return Some((Ok(json::line(&event)), self));
            }
            let counts = *self.progress.borrow_and_update();
            if counts != self.told {
                self.told = counts;
                self.heartbeat = Instant::now();
                return Some((Ok(json::line(&TraceEvent::Progress { counts })), self));
            }
            if self.heartbeat.elapsed() >= HEARTBEAT {
                self.heartbeat = Instant::now();
                return Some((Ok(Bytes::from_static(b"\n")), self));
            }
        }
    }
}
