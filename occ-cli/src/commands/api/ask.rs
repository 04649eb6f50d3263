//! What a line of standard input asks for.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};
use occ_proto::IDEMPOTENCY_HEADER;
use occ_proto::error::{Code, Position, Problem};
use occ_proto::exec::not_base64;
use occ_proto::wording::in_words;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Headers that belong to the connection, which is ours.
const OURS: [&str; 6] =
    ["connection", "content-length", "host", "te", "transfer-encoding", "upgrade"];

/// The longest target of a request that hyper reads, in bytes: the daemon answers a longer one with 414, too.
const LONGEST_TARGET: usize = 65_534;

/// What a client calls a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged, expecting = "an ID is a whole number or a text")]
pub(super) enum Id {
    Number(i64),
    Text(String),
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&serde_json::to_string(self).unwrap_or_default())
    }
}

/// A line as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    id: Option<Id>,
    method: Option<String>,
    path: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: Option<Value>,
    body_b64: Option<String>,
    #[serde(default)]
    websocket: bool,
    #[serde(default)]
    upload: bool,
    start: Option<bool>,
    send: Option<Value>,
    send_b64: Option<String>,
    #[serde(default)]
    close: bool,
    ack: Option<Id>,
    cancel: Option<Id>,
}

/// What a line asks for.
#[derive(Debug)]
pub(super) enum Line {
    Request(Request),
    /// Something for a request in flight.
    Piece {
        id: Id,
        piece: Piece,
    },
    Cancel {
        id: Option<Id>,
        which: Id,
    },
}

/// A request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) id: Id,
    pub(super) method: Method,
    pub(super) uri: hyper::Uri,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Option<Content>,
    pub(super) websocket: bool,
    pub(super) upload: bool,
    /// Whether the daemon may be started for it.
    pub(super) start: bool,
}

impl Request {
    /// Returns whether more may be sent while it is in flight.
    pub(super) fn takes_input(&self) -> bool {
        self.websocket || self.upload
    }

    /// Returns whether it has a key by which its answer is fetched later.
    pub(super) fn has_key(&self) -> bool {
        self.headers.iter().any(|(name, _)| name == IDEMPOTENCY_HEADER)
    }

    /// Returns whether the daemon goes on with it when its client leaves. Keys of other methods mean nothing.
    pub(super) fn goes_on(&self) -> bool {
        self.method == Method::POST && self.has_key()
    }
}

/// What is sent: text, which may be JSON, or bytes.
#[derive(Debug)]
pub(super) enum Content {
    Json(String),
    Text(String),
    Bytes(Bytes),
}

impl Content {
    /// Returns what a line has in `member`, or as base64 in `member_b64`.
    fn of(member: &str, value: Option<Value>, b64: Option<String>) -> Result<Option<Self>, String> {
        Ok(match (value, b64) {
            (Some(_), Some(_)) => return Err("one of the two bodies is too many".into()),
            (Some(Value::String(text)), None) => Some(Self::Text(text)),
            (Some(value), None) => Some(Self::Json(value.to_string())),
            (None, Some(b64)) => {
                let bytes = STANDARD.decode(b64);
                let bytes =
                    bytes.map_err(|error| not_base64(&format!("`{member}_b64`"), &error))?;
                Some(Self::Bytes(bytes.into()))
            }
            (None, None) => None,
        })
    }

    pub(super) fn bytes(self) -> Bytes {
        match self {
            Self::Json(text) | Self::Text(text) => text.into(),
            Self::Bytes(bytes) => bytes,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Json(text) | Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }
}

/// Something for a WebSocket or an upload.
#[derive(Debug)]
pub(super) struct Piece {
    /// Nothing is the end.
    pub(super) content: Option<Content>,
    /// What is said when it has been taken.
    pub(super) ack: Option<Id>,
}

impl Piece {
    pub(super) fn len(&self) -> usize {
        self.content.as_ref().map_or(0, Content::len)
    }

    pub(super) fn is_last(&self) -> bool {
        self.content.is_none()
    }
}

/// A line that means nothing.
#[derive(Debug)]
pub(super) struct Misread {
    /// The request's, where it may be told so.
    pub(super) id: Option<Id>,
    pub(super) problem: Box<Problem>,
}

/// Why a line means nothing.
#[derive(Debug)]
pub(super) struct Why {
    status: u16,
    code: Code,
    /// In words, without the full stop.
    text: String,
}

impl From<String> for Why {
    fn from(text: String) -> Self {
        Self { status: 400, code: Code::BadRequest, text }
    }
}

impl From<&str> for Why {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl Misread {
    pub(super) fn at(line: u64, column: usize, id: Option<Id>, why: impl Into<Why>) -> Self {
        let Why { status, code, text } = why.into();
        let detail = format!("Line {line}, column {column}: {text}.");
        Self { id, problem: placed(line, column, Problem::new(status, code, detail)) }
    }

    pub(super) fn too_long(line: u64) -> Self {
        let detail = format!("Line {line} is longer than 64 MiB; send it in pieces.");
        let problem = placed(line, 1, Problem::new(413, Code::TooLarge, detail));
        Self { id: None, problem }
    }
}

fn placed(line: u64, column: usize, problem: Problem) -> Box<Problem> {
    let column = u64::try_from(column).unwrap_or(u64::MAX);
    Box::new(Problem { position: Some(Position { line, column }), ..problem })
}

/// Reads a line; an empty one asks for nothing.
pub(super) fn read(number: u64, text: &[u8]) -> Result<Option<Line>, Misread> {
    // The end of the line is no place in it.
    let text = text.trim_ascii_end();
    if text.is_empty() {
        return Ok(None);
    }
    // serde takes an array for the fields in their order.
    if !text.trim_ascii_start().starts_with(b"{")
        && serde_json::from_slice::<IgnoredAny>(text).is_ok()
    {
        let what =
            "a line is a JSON object, such as {\"id\":1,\"method\":\"GET\",\"path\":\"/v1/hosts\"}";
        return Err(Misread::at(number, 1, None, what));
    }
    let written: Written = serde_json::from_slice(text).map_err(|error| {
        // serde_json names the place by itself, within this one line.
        let what = in_words(&error.to_string());
        let what = what.split(" at line ").next().unwrap_or_default();
        let id = serde_json::from_slice::<Value>(text).ok();
        let id = id.and_then(|line| serde_json::from_value(line.get("id")?.clone()).ok());
        Misread::at(number, error.column(), id, what)
    })?;
    let id = written.id.clone();
    understood(written).map(Some).map_err(|why| Misread::at(number, 1, id, why))
}

fn understood(written: Written) -> Result<Line, Why> {
    let no_id = || "`id` is missing: a whole number or a text".to_owned();
    let is_request = written.method.is_some() || written.path.is_some();
    let is_piece = written.send.is_some() || written.send_b64.is_some() || written.close;
    match (is_request, is_piece, written.cancel) {
        (false, false, Some(which)) => Ok(Line::Cancel { id: written.id, which }),
        (false, true, None) => {
            let content = Content::of("send", written.send, written.send_b64)?;
            if content.is_some() && written.close {
                return Err("`close` is a line of its own".into());
            }
            let id = written.id.ok_or_else(no_id)?;
            Ok(Line::Piece { id, piece: Piece { content, ack: written.ack } })
        }
        (true, false, None) => {
            let id = written.id.ok_or_else(no_id)?;
            let method = written.method.ok_or("`method` is missing")?;
            let method = Method::from_bytes(method.as_bytes())
                .map_err(|_| format!("`{method}` is no method"))?;
            let path = written.path.ok_or("`path` is missing")?;
            let uri = target(&path)?;
            let headers = written.headers.into_iter().map(header).collect::<Result<_, _>>()?;
            let body = Content::of("body", written.body, written.body_b64)?;
            let (websocket, upload) = (written.websocket, written.upload);
            let start = written.start.unwrap_or(true);
            if upload && (websocket || body.is_some()) {
                return Err("with `upload` the body is what is sent".into());
            }
            if websocket && method != Method::GET {
                return Err("a WebSocket is opened by GET".into());
            }
            Ok(Line::Request(Request { id, method, uri, headers, body, websocket, upload, start }))
        }
        _ => {
            Err("a line has `method` and `path`, or `send`, `send_b64` or `close`, or `cancel`"
                .into())
        }
    }
}

/// Reads what a request is sent to.
fn target(path: &str) -> Result<hyper::Uri, Why> {
    if path.len() > LONGEST_TARGET {
        let text = "`path` is longer than 64 KiB".to_owned();
        return Err(Why { status: 414, code: Code::TooLarge, text });
    }
    let uri = Some(path).filter(|path| path.starts_with('/'));
    let uri = uri.and_then(|path| path.parse().ok());
    Ok(uri.ok_or("`path` is no path: it begins with / and is percent-encoded")?)
}

fn header((name, value): (String, String)) -> Result<(HeaderName, HeaderValue), String> {
    let known = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| format!("`{name}` is no name of a header"))?;
    if OURS.contains(&known.as_str()) {
        return Err(format!("the header `{known}` is set by occ"));
    }
    let value = HeaderValue::from_str(&value)
        .or_else(|_| HeaderValue::from_bytes(value.as_bytes()))
        .map_err(|_| format!("the value of `{known}` does not go into a header"))?;
    Ok((known, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_line_is_told_with_its_place_and_its_id() {
        for (text, id, column, words) in [
            ("nonsense", None, 2, "expected ident"),
            (r#"{"id":1"#, None, 7, "EOF while parsing an object"),
            (r#"{"id":1,"method":"GET"}"#, Some(1), 1, "`path` is missing"),
            (r#"{"id":1,"method":"GET","path":"v1"}"#, Some(1), 1, "begins with /"),
            (r#"{"id":1,"method":"G T","path":"/"}"#, Some(1), 1, "no method"),
            (r#"{"method":"GET","path":"/"}"#, None, 1, "`id` is missing"),
            ("[]", None, 1, "a line is a JSON object, such as {"),
            (r#"[1,"GET","/",{},null,null,false,false]"#, None, 1, "a line is a JSON object"),
            ("7", None, 1, "a line is a JSON object"),
            (r#"{"id":1.5}"#, None, 10, "an ID is a whole number or a text."),
            (r#"{"id":1,"cancel":{}}"#, Some(1), 20, "an ID is a whole number or a text."),
            (r#"{"id":1,"headers":7}"#, Some(1), 19, "expected an object."),
            (r#"{"id":1,"close":7}"#, Some(1), 17, "expected true or false."),
            (r#"{"id":1,"verb":"GET"}"#, Some(1), 14, "unknown field `verb`"),
            (r#"{"id":1}"#, Some(1), 1, "a line has"),
            (r#"{"id":1,"cancel":2,"close":true}"#, Some(1), 1, "a line has"),
            (r#"{"id":1,"send_b64":"*"}"#, Some(1), 1, "`send_b64` is not base64: "),
            (
                r#"{"id":1,"method":"GET","path":"/","headers":{"Host":"x"}}"#,
                Some(1),
                1,
                "is set by occ",
            ),
            (
                r#"{"id":1,"method":"PUT","path":"/","upload":true,"body":"x"}"#,
                Some(1),
                1,
                "with `upload`",
            ),
        ] {
            let misread = read(7, text.as_bytes()).unwrap_err();
            let detail = &misread.problem.detail;
            assert!(detail.contains(words), "{text}: {detail}");
            assert!(detail.starts_with(&format!("Line 7, column {column}: ")), "{detail}");
            assert!(!detail.ends_with(".."), "{detail}");
            assert_eq!(misread.problem.position, Some(Position { line: 7, column }), "{text}");
            assert_eq!(misread.id, id.map(Id::Number), "{text}");
        }
        let place = read(1, b"{\"id\":1,\n").unwrap_err().problem.position;
        assert_eq!(place, Some(Position { line: 1, column: 8 }));
        assert!(read(1, b" \r\n").unwrap().is_none());
    }
}
