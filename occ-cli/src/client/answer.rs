//! What the daemon answers: a value, a problem, or something that another version would say.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderValue};
use hyper::http::response;
use hyper::{Response, StatusCode};
use hyper_util::client::legacy;
use occ_proto::WARNING_HEADER;
use occ_proto::error::Problem;
use occ_proto::text::sanitize;
use serde::de::DeserializeOwned;

use crate::error::CliError;
use crate::output::Ui;
use crate::versions;

/// The largest answer that is read, in bytes: thousands of hosts, and no end of memory.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// An answer with a status below 400.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The entity tag, for If-Match.
    pub(crate) etag: Option<HeaderValue>,
    /// The body.
    pub(crate) body: Bytes,
    /// The daemon's program version, for messages.
    pub(super) daemon: String,
}

impl Reply {
    /// Returns the body as a value. A body that does not fit is a daemon of another version.
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T, CliError> {
        serde_json::from_slice(&self.body).map_err(|_| misunderstood(&self.daemon))
    }

    /// The same where there may be no body, which is `null`.
    pub(crate) fn value<T: DeserializeOwned>(&self) -> Result<T, CliError> {
        let body: &[u8] = if self.body.is_empty() { b"null" } else { &self.body };
        serde_json::from_slice(body).map_err(|_| misunderstood(&self.daemon))
    }

    /// Returns the body as text.
    pub(crate) fn text(&self) -> Result<&str, CliError> {
        std::str::from_utf8(&self.body).map_err(|_| self.misunderstood())
    }

    /// Returns the version of the daemon that answered.
    pub(crate) fn daemon(&self) -> &str {
        &self.daemon
    }

    /// Returns that the body is of another version.
    pub(crate) fn misunderstood(&self) -> CliError {
        misunderstood(&self.daemon)
    }
}

/// Reads an answer to its end.
pub(super) async fn collect(
    answer: Response<Incoming>,
) -> Result<(response::Parts, Bytes), CliError> {
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await;
    Ok((head, body.map_err(|error| broken(error.as_ref()))?.to_bytes()))
}

/// Returns whether an answer is a problem.
pub(crate) fn is_failure(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}

/// Returns the problem in an answer.
pub(crate) fn problem(status: StatusCode, body: &[u8], daemon: &str) -> CliError {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => versions::explained(problem.into(), daemon),
        Err(_) => {
            let mut error = misunderstood(daemon);
            error.message = format!("occd answered {status} without a reason. {}", error.message);
            error
        }
    }
}

/// Keeps what the daemon says of its files, and its version, to be told in the end.
pub(crate) fn note_warnings(ui: &Ui, headers: &HeaderMap) {
    let version = headers.get(occ_proto::VERSION_HEADER).and_then(|value| value.to_str().ok());
    if version != Some(env!("CARGO_PKG_VERSION")) {
        ui.other_version.replace(version.map(sanitize));
    }
    let warnings = headers.get_all(WARNING_HEADER).iter();
    let warnings = warnings.filter_map(|value| serde_json::from_slice(value.as_bytes()).ok());
    ui.warnings.replace(warnings.collect());
}

/// Returns the daemon's program version, after checking that it speaks our API.
pub(super) fn check_version(headers: &HeaderMap) -> Result<String, CliError> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let version = text(occ_proto::VERSION_HEADER);
    let daemon = sanitize(version.unwrap_or("of an unknown version"));
    match text(occ_proto::API_VERSION_HEADER) {
        Some(api) if api.parse() == Ok(occ_proto::API_VERSION) => Ok(daemon),
        // Whatever an occd answers, of whichever version, it says that.
        None if version.is_none() => {
            let why = "its answer names no version of occd";
            let error = CliError::not_occd(format!("what answers is no occd: {why}."));
            Err(CliError { unanswered: Some(why.into()), ..error })
        }
        api => Err(CliError::incompatible(format!(
            "occ {} speaks API version {}, but occd {daemon} speaks {}.",
            env!("CARGO_PKG_VERSION"),
            occ_proto::API_VERSION,
            api.map_or_else(|| "an unknown one".to_owned(), sanitize),
        ))
        .hint(versions::remedy_of_api(api.and_then(|api| api.parse().ok()), &daemon))),
    }
}

/// Returns the error for an answer that does not have the expected shape.
pub(crate) fn misunderstood(daemon: &str) -> CliError {
    CliError::incompatible(format!(
        "occ {} does not understand the answer of occd {daemon}.",
        env!("CARGO_PKG_VERSION")
    ))
    .hint(versions::remedy(daemon))
}

/// Returns the error for a connection that broke between request and answer.
pub(crate) fn broken(error: &(dyn std::error::Error + 'static)) -> CliError {
    let connecting = error.downcast_ref().is_some_and(legacy::Error::is_connect);
    // The outermost text of hyper's errors says nothing; the innermost says why.
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    let is_end = inner.is::<std::io::Error>()
        || inner.downcast_ref().is_some_and(hyper::Error::is_incomplete_message);
    let what = match (connecting, is_end) {
        (true, _) => format!("occd went away: {inner}"),
        // That it ended says all.
        (false, true) => "occd went away before it answered.".to_owned(),
        (false, false) => format!("occd went away before it answered: {inner}"),
    };
    let error = CliError::daemon(what).hint("occ daemon status");
    let unanswered = (!connecting).then(|| sanitize(&inner.to_string()).into());
    CliError { unread: connecting || is_unread(inner), unanswered, ..error }
}

/// Returns whether a request that ended so has not been read to its end. Linux resets a Unix connection whose other end
/// closes it with something in it that was not read, or without having taken it (af_unix.c, unix_release_sock); one that
/// was read to its end just ends.
fn is_unread(inner: &(dyn std::error::Error + 'static)) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
    let kind = inner.downcast_ref().map(std::io::Error::kind);
    cfg!(target_os = "linux") && matches!(kind, Some(BrokenPipe | ConnectionReset | NotConnected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_api_version_is_named() {
        let mut headers = HeaderMap::new();
        headers.insert("occ-version", HeaderValue::from_static("9.9.9"));
        headers.insert("occ-api-version", HeaderValue::from_static("2"));
        let error = check_version(&headers).unwrap_err();
        assert!(
            error.message.contains("9.9.9") && error.message.contains(env!("CARGO_PKG_VERSION"))
        );
        let hint = "install occ 9.9.9: this one is older than occd";
        assert_eq!(error.hint.as_deref(), Some(hint));
        headers.insert("occ-api-version", HeaderValue::from_static("0"));
        let error = check_version(&headers).unwrap_err();
        assert_eq!(error.hint.as_deref(), Some("occ daemon restart"));
        headers.insert("occ-api-version", HeaderValue::from_static("1"));
        assert_eq!(check_version(&headers).unwrap(), "9.9.9");
    }
}
