//! A small HTTP/1.1 client over a Unix socket, for tests that look at the wire itself.
//!
//! One connection per request (`Connection: close`), no runtime. It understands just what is needed:
//! `Content-Length`, `chunked`, and a body that ends with the connection (RFC 9112, section 6.3).

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::docs;

/// How long one read or write may take: longer than any answer that a test waits for.
const IO_TIMEOUT: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The header fields in their order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, decoded.
    pub body: Vec<u8>,
}

impl Response {
    /// Returns the first header field of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let is_it = |(key, _): &&(String, String)| key.eq_ignore_ascii_case(name);
        self.headers.iter().find(is_it).map(|(_, value)| value.as_str())
    }

    /// Returns the body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Returns the body as JSON.
    ///
    /// # Panics
    /// When it is not JSON, showing it.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("status {}, not JSON ({e}): {}", self.status, self.text()))
    }
}

/// Sends a request and reads the whole answer.
///
/// `Host: localhost` and, with a body, `Content-Type: application/json` are sent unless `headers` has
/// them.
///
/// # Panics
/// When the answer has a header that docs/openapi.json does not have, where that has the answer.
pub fn request(
    socket: &Path,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
) -> io::Result<Response> {
    let answer = request_within(socket, method, target, headers, body, IO_TIMEOUT)?;
    let names = answer.headers.iter().map(|(name, _)| name.as_str());
    let unknown = docs::undocumented_headers(method, target, answer.status, names);
    assert!(unknown.is_empty(), "{method} {target}: docs/openapi.json has no {unknown:?}");
    Ok(answer)
}

/// The same with a limit for each read and write.
pub fn request_within(
    socket: &Path,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
    limit: Duration,
) -> io::Result<Response> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    let given = |name: &str| headers.iter().any(|(key, _)| key.eq_ignore_ascii_case(name));
    let mut head = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n");
    if !given("host") {
        head.push_str("Host: localhost\r\n");
    }
    if let Some(body) = body {
        if !given("content-type") {
            head.push_str("Content-Type: application/json\r\n");
        }
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    // A server may answer and close before it has read all of that: then its answer counts.
    let sent =
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.unwrap_or_default()));
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    match parse(&answer) {
        Some(response) => Ok(response),
        None => {
            sent?;
            read?;
            let text = String::from_utf8_lossy(&answer);
            Err(io::Error::other(format!("not a whole HTTP answer: {text:?}")))
        }
    }
}

fn parse(answer: &[u8]) -> Option<Response> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let header =
        |name: &str| headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let rest = &answer[end + 4..];
    let body = if header("transfer-encoding").is_some_and(|value| value.contains("chunked")) {
        unchunk(rest)?
    } else if let Some(length) = header("content-length") {
        rest.get(..length.parse().ok()?)?.to_vec()
    } else {
        rest.to_vec()
    };
    Some(Response { status, headers, body })
}

/// Joins the chunks (RFC 9112, section 7.1); nothing when the last one is missing.
fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line_end = rest.windows(2).position(|window| window == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..line_end]).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        rest = &rest[line_end + 2..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_parsed_by_length_and_by_chunks_and_short_ones_are_refused() {
        let plain = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\nETag: \"x\"\r\n\r\n{}";
        let response = parse(plain).unwrap();
        assert_eq!((response.status, response.text().as_str()), (404, "{}"));
        assert_eq!(response.header("ETag"), Some("\"x\""));
        let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n1\r\nd\r\n0\r\n\r\n";
        assert_eq!(parse(chunked).unwrap().text(), "abcd");
        assert!(parse(&chunked[..chunked.len() - 6]).is_none());
        assert!(parse(&plain[..plain.len() - 1]).is_none());
    }
}
