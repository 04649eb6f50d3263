//! The heads of HTTP messages, as far as the socket for Docker's clients has to know them.

use std::io::{Error, ErrorKind};

use bytes::BytesMut;

/// The longest head that is read, in bytes.
const LONGEST: usize = 64 * 1024;
/// The most headers of one.
const HEADERS: usize = 100;

/// What the engine answers to `/_ping`: its version and what it can, in headers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ping(Vec<(String, String)>);

impl Ping {
    /// Returns the whole answer; `head_only` to a HEAD request.
    pub(super) fn answer(&self, head_only: bool) -> String {
        let headers: String =
            self.0.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let body = if head_only { "" } else { "OK" };
        format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: 2\r\n\r\n{body}")
    }
}

/// Reads the engine's answer to `/_ping`, once it is there as a whole.
pub(super) fn answer(bytes: &[u8]) -> Result<Option<Ping>, Error> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let at = match response.parse(bytes) {
        Ok(httparse::Status::Complete(at)) => at,
        Ok(httparse::Status::Partial) if bytes.len() < LONGEST => return Ok(None),
        _ => return Err(ErrorKind::InvalidData.into()),
    };
    if response.code != Some(200) {
        return Err(Error::other(format!("it answers with status {}", response.code.unwrap_or(0))));
    }
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let all = response.headers.iter().map(|header| (header.name.to_owned(), text(header.value)));
    let (framing, kept): (Vec<_>, Vec<_>) = all.partition(|(name, _)| {
        ["content-length", "transfer-encoding", "connection", "date"]
            .iter()
            .any(|framing| name.eq_ignore_ascii_case(framing))
    });
    let length = framing.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: usize =
        length.and_then(|(_, value)| value.parse().ok()).ok_or(ErrorKind::InvalidData)?;
    Ok((bytes.len() >= at + length).then_some(Ping(kept)))
}

/// A client's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// `/_ping`, whose head is so long; with HEAD; and no other request follows.
    Ping { length: usize, head_only: bool, last: bool },
    /// Another one.
    Other,
}

/// Has the engine close the connection after its answer to a whole request's head, unless the connection is to become
/// something else (RFC 9110, section 7.8).
pub(super) fn close_after(buffer: &mut BytesMut) {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let Ok(httparse::Status::Complete(length)) = request.parse(buffer) else { return };
    if request.headers.iter().any(|header| header.name.eq_ignore_ascii_case("upgrade")) {
        return;
    }
    let mut whole = Vec::with_capacity(buffer.len() + 32);
    for (number, line) in buffer[..length].split_inclusive(|byte| *byte == b'\n').enumerate() {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        if !name.eq_ignore_ascii_case(b"connection") {
            whole.extend_from_slice(line);
        }
        if number == 0 {
            whole.extend_from_slice(b"Connection: close\r\n");
        }
    }
    whole.extend_from_slice(&buffer[length..]);
    *buffer = BytesMut::from(&whole[..]);
}

/// Returns the first line of a request, for people.
pub(super) fn first_line(bytes: &[u8]) -> String {
    let line = bytes.split(|byte| *byte == b'\r' || *byte == b'\n').next().unwrap_or_default();
    String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned()
}

/// What of the engine only tells a state, in the terms of its API (v1.41 to v1.47) without the version: `*` is a
/// name, `**` one that may have slashes. Not among them are files out of containers, whole images, secrets, configs and
/// the tokens of a swarm, what has the engine ask a registry (its address is the client's choice, and may be anything
/// that the host reaches), nor whatever a later engine adds.
const READS: [&str; 29] = [
    "_ping",
    "version",
    "info",
    "events",
    "system/df",
    "containers/json",
    "containers/*/json",
    "containers/*/top",
    "containers/*/logs",
    "containers/*/changes",
    "containers/*/stats",
    "exec/*/json",
    "images/json",
    "images/**/json",
    "images/**/history",
    "networks",
    "networks/*",
    "volumes",
    "volumes/*",
    "plugins",
    "plugins/**/json",
    "nodes",
    "nodes/*",
    "services",
    "services/*",
    "services/*/logs",
    "tasks",
    "tasks/*",
    "tasks/*/logs",
];

/// Returns whether a path, with or without a version and a query, is one of [`READS`].
fn only_tells(path: &str) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    let Some(path) = path.strip_prefix('/') else { return false };
    let path = match path.split_once('/') {
        Some((version, path)) if is_version(version) => path,
        _ => path,
    };
    let names: Vec<&str> = path.split('/').collect();
    // An escape could hide a word, and dots could lead elsewhere.
    let is_plain = |name: &&str| {
        let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-:@+".contains(&byte);
        !matches!(*name, "" | "." | "..") && name.bytes().all(is_known)
    };
    names.iter().all(is_plain)
        && READS.iter().any(|read| is_like(&read.split('/').collect::<Vec<_>>(), &names))
}

/// Returns whether names are those of a pattern of [`READS`].
fn is_like(pattern: &[&str], names: &[&str]) -> bool {
    match (pattern, names) {
        ([], []) => true,
        (["**", pattern @ ..], [_, names @ ..]) => {
            is_like(pattern, names) || is_like(&[&["**"], pattern].concat(), names)
        }
        ([one, pattern @ ..], [name, names @ ..]) => {
            (*one == "*" || one == name) && is_like(pattern, names)
        }
        _ => false,
    }
}

/// Returns whether a word is a version in a path, such as `v1.44`.
fn is_version(word: &str) -> bool {
    word.strip_prefix('v').is_some_and(|version| {
        !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
    })
}

/// Returns the head of a request that changes nothing, written anew and without anything that could be understood
/// otherwise; the connection ends with its answer. Nothing where it may change something.
pub(super) fn read_only(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    if !matches!(request.parse(bytes), Ok(httparse::Status::Complete(_))) {
        return None;
    }
    let (method, path) = (request.method?, request.path?);
    let has_more = request.headers.iter().any(|header| {
        ["upgrade", "transfer-encoding", "expect"]
            .iter()
            .any(|more| header.name.eq_ignore_ascii_case(more))
            || (header.name.eq_ignore_ascii_case("content-length") && header.value != b"0")
    });
    if !matches!(method, "GET" | "HEAD") || !only_tells(path) || has_more {
        return None;
    }
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n").into_bytes();
    for header in request.headers.iter() {
        let is_kept = ["host", "user-agent", "accept"]
            .iter()
            .any(|kept| header.name.eq_ignore_ascii_case(kept));
        if is_kept {
            head.extend_from_slice(header.name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(header.value);
            head.extend_from_slice(b"\r\n");
        }
    }
    head.extend_from_slice(b"\r\n");
    Some(head)
}

/// Reads the head of a client's request, once it is there as a whole.
pub(super) fn request(bytes: &[u8]) -> Result<Option<Request>, Error> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < LONGEST => return Ok(None),
        _ => return Err(ErrorKind::InvalidData.into()),
    };
    let (method, path) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
    let has_body = request.headers.iter().any(|header| {
        header.name.eq_ignore_ascii_case("transfer-encoding")
            || (header.name.eq_ignore_ascii_case("content-length") && header.value != b"0")
    });
    let last = request.headers.iter().any(|header| {
        header.name.eq_ignore_ascii_case("connection")
            && header.value.to_ascii_lowercase().windows(5).any(|word| word == b"close")
    });
    let head_only = method == "HEAD";
    let ping = (head_only || method == "GET") && is_ping(path) && !has_body;
    Ok(Some(if ping { Request::Ping { length, head_only, last } } else { Request::Other }))
}

/// Returns whether a path is `/_ping`, or `/v1.44/_ping`.
fn is_ping(path: &str) -> bool {
    let path = path.strip_prefix("http://docker").unwrap_or(path);
    match path.strip_suffix("/_ping") {
        Some("") => true,
        Some(version) => version.strip_prefix('/').is_some_and(is_version),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_closed_after_its_request_unless_it_becomes_another() {
        let closed = |text: &str| {
            let mut buffer = BytesMut::from(text.as_bytes());
            close_after(&mut buffer);
            String::from_utf8(buffer.to_vec()).unwrap()
        };
        assert_eq!(
            closed("POST /a HTTP/1.1\r\nHost: x\r\nconnection: keep-alive\r\n\r\nConnection: b\n"),
            "POST /a HTTP/1.1\r\nConnection: close\r\nHost: x\r\n\r\nConnection: b\n"
        );
        for same in [
            "POST /a HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
            "POST /a HTTP/1.1\r\nHost: x\r\n",
        ] {
            assert_eq!(closed(same), same);
        }
    }

    #[test]
    fn what_only_reads_is_written_anew() {
        let anew =
            |text: &str| read_only(text.as_bytes()).map(|head| String::from_utf8(head).unwrap());
        assert_eq!(
            anew(
                "GET /v1.44/containers/json?all=1 HTTP/1.1\r\nHost: d\r\nX: y\r\n\r\nPOST / HTTP/1.1"
            ),
            Some(
                "GET /v1.44/containers/json?all=1 HTTP/1.1\r\nConnection: close\r\nHost: d\r\n\r\n"
                    .into()
            )
        );
        for other in [
            "POST /containers/create HTTP/1.1\r\n\r\n",
            "GET /containers/x/attach/ws HTTP/1.1\r\n\r\n",
            "GET /containers/x/archive?path=/etc/shadow HTTP/1.1\r\n\r\n",
            "GET /containers/x/%61rchive?path=/ HTTP/1.1\r\n\r\n",
            "GET /v1.44/swarm HTTP/1.1\r\n\r\n",
            "GET /swarm/unlockkey HTTP/1.1\r\n\r\n",
            "GET /secrets HTTP/1.1\r\n\r\n",
            "GET /configs/x HTTP/1.1\r\n\r\n",
            "GET /images/get?names=x HTTP/1.1\r\n\r\n",
            "GET /v1.44/images/a/b/get HTTP/1.1\r\n\r\n",
            "GET /images/x/../../swarm/json HTTP/1.1\r\n\r\n",
            "GET /containers//json HTTP/1.1\r\n\r\n",
            "GET http://docker/swarm HTTP/1.1\r\n\r\n",
            "GET /libpod/secrets/json HTTP/1.1\r\n\r\n",
            "GET /containers/json HTTP/1.1\r\nUpgrade: tcp\r\n\r\n",
            "GET /containers/json HTTP/1.1\r\nContent-Length: 5\r\n\r\n",
            "GET /containers/json HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET /containers/json HTTP/1.1\r\nHost:",
        ] {
            assert_eq!(anew(other), None, "{other}");
        }
    }

    #[test]
    fn what_tells_a_state_is_known_by_its_path() {
        for path in [
            "/version",
            "/v1.44/info",
            "/containers/a-b.c/logs?follow=1",
            "/images/json",
            "/v1.41/images/registry.example:5000/a/b:1@sha256:0f/json",
            "/images/a/history",
            "/networks/x",
            "/services/x/logs",
        ] {
            assert!(only_tells(path), "{path}");
        }
        for path in [
            "",
            "/",
            "/v1.44",
            "/images//json",
            "/images/**",
            "/networks/x/y",
            "/vx/info",
            // They lead from the host to wherever the client says.
            "/distribution/127.0.0.1:22/x/json",
            "/images/search?term=127.0.0.1:22/x",
            "/plugins/privileges?remote=127.0.0.1:22/x",
        ] {
            assert!(!only_tells(path), "{path}");
        }
    }

    #[test]
    fn a_ping_is_told_from_what_else_is_asked() {
        let asked = |text: &str| request(text.as_bytes()).unwrap();
        for (path, is) in [
            ("/_ping", true),
            ("/v1.44/_ping", true),
            ("/_pingx", false),
            ("/x/_ping", false),
            ("/v/_ping", false),
            ("/containers/json", false),
        ] {
            let text = format!("GET {path} HTTP/1.1\r\nHost: d\r\n\r\nrest");
            let ping = Request::Ping { length: text.len() - 4, head_only: false, last: false };
            assert_eq!(asked(&text), Some(if is { ping } else { Request::Other }), "{path}");
        }
        let closing = asked("HEAD /_ping HTTP/1.1\r\nConnection: Close\r\n\r\n");
        assert!(matches!(closing, Some(Request::Ping { head_only: true, last: true, .. })));
        assert_eq!(asked("GET /_ping HTTP/1.1\r\nHost:"), None);
        assert_eq!(asked("POST /_ping HTTP/1.1\r\n\r\n"), Some(Request::Other));
        let body = "GET /_ping HTTP/1.1\r\nContent-Length: 3\r\n\r\n";
        assert_eq!(asked(body), Some(Request::Other));
        assert!(request(b"\x00\x01").is_err());
        assert!(request(&[b'a'; LONGEST + 1]).is_err());
    }

    #[test]
    fn the_answer_is_kept_without_its_framing() {
        let text =
            "HTTP/1.1 200 OK\r\nApi-Version: 1.44\r\nDate: now\r\nContent-Length: 2\r\n\r\nOK";
        assert_eq!(answer(&text.as_bytes()[..text.len() - 1]).unwrap(), None);
        let ping = answer(text.as_bytes()).unwrap().unwrap();
        assert_eq!(
            ping.answer(true),
            "HTTP/1.1 200 OK\r\nApi-Version: 1.44\r\nContent-Length: 2\r\n\r\n"
        );
        assert!(ping.answer(false).ends_with("\r\n\r\nOK"));
        assert!(answer(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n").is_err());
    }
}
