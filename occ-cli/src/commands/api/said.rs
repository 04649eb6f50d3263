//! The lines of standard output.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::HeaderMap;
use occ_proto::error::Problem;
use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::ask::{Id, Misread};

/// What is longer, in bytes, waits until it is the only long one in memory.
pub(super) const SHORT: usize = 1024 * 1024;

/// A line, with its end.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) text: Bytes,
    /// Held by a long one until it is written.
    _room: Room,
}

/// The right to keep something long in memory.
pub(super) type Room = Option<OwnedSemaphorePermit>;

/// Where lines are said.
#[derive(Debug, Clone)]
pub(super) struct Mouth {
    queue: mpsc::Sender<Said>,
    room: Arc<Semaphore>,
}

impl Mouth {
    pub(super) fn new(queue: mpsc::Sender<Said>, room: Arc<Semaphore>) -> Self {
        Self { queue, room }
    }

    /// Waits until there is room for a line. Without a reader the program is about to end.
    pub(super) async fn say(&self, line: Said) {
        let _ = self.queue.send(line).await;
    }

    /// Waits for room, if so many bytes need it.
    pub(super) async fn room(&self, bytes: usize, room: &mut Room) {
        if bytes > SHORT && room.is_none() {
            *room = Arc::clone(&self.room).acquire_owned().await.ok();
        }
    }
}

impl Said {
    fn new(mut text: Vec<u8>, room: Room) -> Self {
        text.push(b'\n');
        Self { text: text.into(), _room: room }
    }

    /// Returns an object of these fields, in their order.
    fn object(fields: &[(&str, Value)]) -> Self {
        let mut line = Vec::new();
        for (n, (name, value)) in fields.iter().enumerate() {
            line.push(if n == 0 { b'{' } else { b',' });
            push(&mut line, format!("\"{name}\":").as_bytes(), value);
        }
        line.push(b'}');
        Self::new(line, None)
    }

    /// Says that a line means nothing.
    pub(super) fn misread(misread: &Misread) -> Self {
        let body = json!(misread.problem);
        let status = misread.problem.status.into();
        Self::object(&[
            ("id", json!(misread.id)),
            ("status", status),
            ("headers", json!({})),
            ("body", body),
        ])
    }

    pub(super) fn cancelled(id: &Id, cancelled: bool) -> Self {
        Self::object(&[("id", json!(id)), ("cancelled", cancelled.into())])
    }

    pub(super) fn dropped(id: &Id) -> Self {
        Self::object(&[("id", json!(id)), ("dropped", true.into())])
    }

    pub(super) fn ack(id: &Id, ack: &Id) -> Self {
        Self::object(&[("id", json!(id)), ("ack", json!(ack))])
    }

    /// Says that a request has no answer of the daemon's.
    pub(super) fn failure(id: &Id, status: u16, problem: Value) -> Self {
        let headers = json!({});
        let (id, status) = (json!(id), status.into());
        Self::object(&[("id", id), ("status", status), ("headers", headers), ("body", problem)])
    }

    /// Says the end of a stream; with a problem it was cut off.
    pub(super) fn end(id: &Id, problem: Option<Value>) -> Self {
        let mut fields = vec![("id", json!(id)), ("end", true.into())];
        fields.extend(problem.map(|problem| ("problem", problem)));
        Self::object(&fields)
    }

    /// Says a whole answer.
    pub(super) fn answer(
        id: &Id,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
        room: Room,
    ) -> Self {
        let mut line = head(id, status, headers);
        match std::str::from_utf8(body) {
            Ok("") => line.extend_from_slice(b",\"body\":null"),
            Ok(text) => {
                line.extend_from_slice(b",\"body\":");
                push_text(&mut line, text, is_json(headers));
            }
            Err(_) => {
                line.extend_from_slice(b",\"body_b64\":");
                push_b64(&mut line, body);
            }
        }
        line.push(b'}');
        Self::new(line, room)
    }

    /// Says that an answer is a stream.
    pub(super) fn stream(id: &Id, status: StatusCode, headers: &HeaderMap, kind: &str) -> Self {
        let mut line = head(id, status, headers);
        line.extend_from_slice(format!(",\"stream\":\"{kind}\"}}").as_bytes());
        Self::new(line, None)
    }

    /// Says an event whose data is text: JSON as such, anything else in quotation marks.
    pub(super) fn event(id: &Id, name: &str, at: Option<&str>, data: &str, room: Room) -> Self {
        let mut line = Vec::with_capacity(data.len() + 64);
        push(&mut line, b"{\"id\":", id);
        push(&mut line, b",\"event\":", &name);
        if let Some(at) = at {
            push(&mut line, b",\"event_id\":", &at);
        }
        line.extend_from_slice(b",\"data\":");
        push_text(&mut line, data, true);
        line.push(b'}');
        Self::new(line, room)
    }

    /// Says bytes.
    pub(super) fn bytes(id: &Id, data: &[u8], room: Room) -> Self {
        let mut line = Vec::with_capacity(data.len() * 4 / 3 + 64);
        push(&mut line, b"{\"id\":", id);
        line.extend_from_slice(b",\"event\":\"bytes\",\"data_b64\":");
        push_b64(&mut line, data);
        line.push(b'}');
        Self::new(line, room)
    }
}

/// Returns a problem of our own.
pub(super) fn problem(status: u16, code: &str, detail: &str, retryable: bool) -> Value {
    let title = Problem::new(status, occ_proto::Code::Unknown, "").title;
    json!({
        "type": format!("urn:occ:problem:{code}"), "title": title, "status": status,
        "detail": detail, "code": code, "retryable": retryable
    })
}

/// Returns whether a body is JSON, by its type.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let kind = media_type(headers);
    kind == "application/json" || kind.ends_with("+json")
}

/// Returns the type of a body without its parameters; nothing where there is none.
pub(super) fn media_type(headers: &HeaderMap) -> &str {
    let kind = headers.get(hyper::header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.unwrap_or_default().split(';').next().unwrap_or_default().trim()
}

fn head(id: &Id, status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let mut all = serde_json::Map::new();
    for name in headers.keys() {
        let text = |value: &hyper::header::HeaderValue| {
            Value::String(String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let mut values: Vec<Value> = headers.get_all(name).iter().map(text).collect();
        let value = if values.len() == 1 { values.remove(0) } else { Value::Array(values) };
        all.insert(name.as_str().to_owned(), value);
    }
    let mut line = Vec::new();
    push(&mut line, b"{\"id\":", id);
    push(&mut line, b",\"status\":", &status.as_u16());
    push(&mut line, b",\"headers\":", &all);
    line
}

fn push(line: &mut Vec<u8>, name: &[u8], value: &impl Serialize) {
    line.extend_from_slice(name);
    // Texts and numbers always serialise.
    line.extend_from_slice(&serde_json::to_vec(value).unwrap_or_default());
}

/// Appends text: as it is where it is JSON, which it must be on one line.
fn push_text(line: &mut Vec<u8>, text: &str, may_be_json: bool) {
    let is_one_line = !text.contains(['\n', '\r']);
    if may_be_json && is_one_line && serde_json::from_str::<IgnoredAny>(text).is_ok() {
        line.extend_from_slice(text.as_bytes());
    } else {
        match serde_json::from_str::<Value>(text) {
            Ok(value) if may_be_json => push(line, b"", &value),
            _ => push(line, b"", &text),
        }
    }
}

fn push_b64(line: &mut Vec<u8>, bytes: &[u8]) {
    line.push(b'"');
    line.extend_from_slice(STANDARD.encode(bytes).as_bytes());
    line.push(b'"');
}
