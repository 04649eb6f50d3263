//! `GET /v1/sessions/{id}/output`: one stream of a session's output, as server-sent events or as it is.

use std::sync::Arc;

use axum::body::Body as HttpBody;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream;
use occ_proto::session::{OutputStream, SessionEvent, SessionHost, SessionState};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::document::Binary;
use super::error::{self, ApiError, ApiResult};
use super::extract::{Caller, Path, Query};
use super::params::{LastEventId, SessionPath};
use super::problems::OfSession;
use super::sessions::{handle, permit_look};
use super::{App, SSE};
use crate::policy::Asker;
use crate::session::{Event, Run, Wanted};

/// The media type of output as it is.
const RAW: &str = "application/octet-stream";
/// The header of an answer with output as it is that says where it begins.
const OFFSET: &str = "occ-offset";

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct OutputQuery {
    /// Standard output unless given.
    stream: Option<OutputStream>,
    /// Where to begin: an offset, `end`, or `lines:N` for the last lines; 0 unless given.
    offset: Option<String>,
    /// Go on with what comes, until the program has ended; so unless given.
    follow: Option<bool>,
}

/// Returns where to begin, as the host's script takes it.
pub(super) fn begin(text: &str) -> ApiResult<String> {
    let number = text.strip_prefix("lines:").unwrap_or(text);
    let is_number =
        !number.is_empty() && number.len() < 16 && number.bytes().all(|b| b.is_ascii_digit());
    if text == "end" || is_number {
        return Ok(text.to_owned());
    }
    Err(ApiError::bad_request("A beginning is an offset, end, or lines:N."))
}

/// Reads one stream of a session's output, as server-sent events whose data are `SessionEvent`s and whose ids are offsets, or with
/// `Accept: application/octet-stream` as it is.
#[utoipa::path(
    get,
    path = "/v1/sessions/{id}/output",
    tag = "sessions",
    operation_id = "readSessionOutput",
    params(SessionPath, OutputQuery, LastEventId),
    responses((status = 200, description = "The output", content((SessionEvent = "text/event-stream"), (Binary = "application/octet-stream")), headers(("occ-offset" = u64, description = "Where the bytes begin: further on than was asked for where that is kept no more; not with server-sent events"))), OfSession)
)]
pub(super) async fn output(
    State(app): State<Arc<App>>,
    Path(wanted): Path<String>,
    Query(query): Query<OutputQuery>,
    headers: HeaderMap,
    Caller(client): Caller,
    asker: Asker,
) -> ApiResult<Response> {
    // What a client that lost its connection had seen (HTML, 9.2.4).
    let seen = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let from = begin(seen.or(query.offset.as_deref()).unwrap_or("0"))?;
    let raw = headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|value| value.to_str().is_ok_and(|value| value.contains(RAW)));
    let (handle, host) = handle(&app, &wanted, client.clone()).await?;
    permit_look(&app, (&asker, &client), &host, &handle.known()).await?;
    let stream = query.stream.unwrap_or(OutputStream::Stdout);
    let none = || "-".to_owned();
    // As it is, nothing but where it begins can tell of what is kept no more.
    let is_offset = raw && from.bytes().all(|byte| byte.is_ascii_digit());
    let from = if is_offset { format!("kept:{from}") } else { from };
    let on = query.follow.unwrap_or(true);
    let wanted = match stream {
        OutputStream::Stdout => Wanted { stdout: from, stderr: none(), on },
        OutputStream::Stderr => Wanted { stdout: none(), stderr: from, on },
    };
    let mut events = handle.follow(&app.sessions, wanted);
    let run = handle.run();
    // So that a host that is down is a problem, and no answer that breaks off.
    let first = match events.recv().await {
        None => return Err(ApiError::new_internal("The output ended before it began.")),
        Some(Event::Failed(failure)) => return Err(error::session(Some(&host), &failure)),
        Some(event) => event,
    };
    if raw {
        let mut response = HttpBody::from_stream(as_it_is(events)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(RAW));
        if let Event::Attached { stdout, stderr, .. } = first {
            let at = stdout.or(stderr).unwrap_or(0);
            headers.insert(OFFSET, HeaderValue::from(at));
        }
        return Ok(app.resumable(response));
    }
    let lines = HttpBody::from_stream(server_sent(Arc::clone(&app), run, host, first, events));
    Ok(app.resumable(([(header::CONTENT_TYPE, SSE)], lines).into_response()))
}

/// Returns the bytes alone. One that ends before all has come breaks off: a length is not known.
fn as_it_is(
    events: mpsc::Receiver<Event>,
) -> impl futures_util::Stream<Item = Result<Bytes, std::io::Error>> {
    stream::unfold(events, |mut events| async move {
        loop {
            let Some(event) = events.recv().await else {
                return Some((Err(cut_off()), events));
            };
            match event {
                Event::Output { data, .. } => return Some((Ok(data), events)),
                Event::Gap { from, to, .. } => {
                    let text = format!("bytes {from} to {to} are kept no more");
                    return Some((Err(std::io::Error::other(text)), events));
                }
                Event::Failed(failure) => {
                    return Some((Err(std::io::Error::other(failure)), events));
                }
                Event::Attached { .. } | Event::NoSpace(_) | Event::Paused(_) => {}
                Event::Ended(..) | Event::CaughtUp => return None,
            }
        }
    })
}

/// The daemon stops: what came was not all, and is not to look as if it were.
fn cut_off() -> std::io::Error {
    std::io::Error::other("occd is stopping")
}

fn server_sent(
    app: Arc<App>,
    run: Run,
    host: SessionHost,
    first: Event,
    events: mpsc::Receiver<Event>,
) -> impl futures_util::Stream<Item = Result<Bytes, std::io::Error>> {
    stream::unfold((Some(first), events, 0, false), move |(first, mut events, at, is_over)| {
        let (app, run, host) = (Arc::clone(&app), run.clone(), host.clone());
        async move {
            let event = match first {
                Some(event) => event,
                None => match events.recv().await {
                    Some(event) => event,
                    None if is_over => return None,
                    None => return Some((Err(cut_off()), (None, events, at, true))),
                },
            };
            let is_over = matches!(event, Event::Ended(..) | Event::CaughtUp | Event::Failed(_));
            let (event, at) = match event {
                Event::Output { from, data, .. } => {
                    let at = from + data.len() as u64;
                    let data = occ_proto::exec::Bytes(data.to_vec());
                    (SessionEvent::Output { data }, at)
                }
                other => {
                    let at = match other {
                        Event::Attached { stdout, stderr, .. } => stdout.or(stderr).unwrap_or(at),
                        Event::Gap { to, .. } => to,
                        _ => at,
                    };
                    (on_the_wire(&app, &run, &host, other), at)
                }
            };
            let json = serde_json::to_value(&event).unwrap_or_default();
            let name = json["type"].as_str().unwrap_or_default();
            let text = format!("id: {at}\nevent: {name}\ndata: {json}\n\n");
            Some((Ok(Bytes::from(text)), (None, events, at, is_over)))
        }
    })
}

/// Returns an event as clients get it.
pub(super) fn on_the_wire(app: &App, run: &Run, host: &SessionHost, event: Event) -> SessionEvent {
    match event {
        Event::Attached { stdin, stdout, stderr } => {
            SessionEvent::Attached { stdin, stdout, stderr }
        }
        Event::Output { data, .. } => {
            SessionEvent::Output { data: occ_proto::exec::Bytes(data.to_vec()) }
        }
        Event::Gap { stream, from, to } => SessionEvent::Gap { stream, from, to },
        Event::NoSpace(stream) => SessionEvent::NoSpace { stream },
        Event::Paused(message) => {
            SessionEvent::Paused { message: occ_proto::text::sanitize(&message) }
        }
        Event::Ended(state, exit) => {
            app.sessions.note(run, state, exit);
            match (state, exit) {
                (SessionState::Ended, Some(code)) => SessionEvent::Exit { code },
                _ => SessionEvent::Lost,
            }
        }
        Event::CaughtUp => SessionEvent::End,
        Event::Failed(failure) => {
            SessionEvent::Error { problem: error::session(Some(host), &failure).into_problem() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_is_an_offset_the_end_or_lines() {
        for good in ["0", "123456789012345", "end", "lines:10"] {
            assert_eq!(begin(good).unwrap(), good);
        }
        for bad in ["", "-1", "lines:", "1234567890123456", "x", "lines:x", "$(id)"] {
            assert!(begin(bad).is_err(), "{bad}");
        }
    }
}
