//! `POST /v1/hosts/{host}/exec`: a command with its whole result, or as a stream of lines.

use std::collections::VecDeque;
use std::sync::Arc;

use axum::body::Body as HttpBody;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream;
use occ_proto::exec::{ExecEvent, ExecRequest, ExecResult, NDJSON, RESULT_LIMIT, STDOUT};

use super::App;
use super::error::{self, ApiError, ApiResult};
use super::extract::{Body, Caller, ExecutorOf};
use super::json::{self, Json};
use super::params::PlacePath;
use super::permit::QUIETLY;
use super::problems::OfExec;
use super::shown::Shown as _;
use crate::exec::{self, Control, Executor, Progress, Running, Step};
use crate::host::Tries;
use crate::policy::Asker;

/// Runs a command and answers with its result, or with `Accept: application/x-ndjson` with an `ExecEvent` a line as it goes.
#[utoipa::path(
    post,
    path = "/v1/hosts/{host}/exec",
    tag = "exec",
    operation_id = "exec",
    params(PlacePath),
    request_body = ExecRequest,
    responses((status = 200, description = "What came of it", content((ExecResult = "application/json"), (ExecEvent = "application/x-ndjson"))), OfExec)
)]
pub(super) async fn run(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    ExecutorOf(executor): ExecutorOf,
    Caller(client): Caller,
    asker: Asker,
    Body(request): Body<ExecRequest>,
) -> ApiResult<Response> {
    if request.tty.is_some() {
        return Err(ApiError::bad_request("A terminal is for a WebSocket: GET with Upgrade."));
    }
    asker.trail.begin_exec(&request);
    let stdin = request.stdin.clone().unwrap_or_default();
    let tries = Tries::of(request.retries, request.wait_ms);
    let request = app.permit_exec((&asker, &client), &executor, request, QUIETLY).await?;
    let command = app.command(&executor, request)?;
    let running = executor
        .start(&command, tries, &client, &Progress::default())
        .await
        .map_err(|failure| error::exec_at(&executor, &failure))?;
    feed(running.control(), stdin.0.into());
    if wants_lines(&headers) {
        let lines = HttpBody::from_stream(lines(executor, running, asker));
        return Ok(([(header::CONTENT_TYPE, NDJSON)], lines).into_response());
    }
    let result = collect(running).await.map_err(|failure| error::exec_at(&executor, &failure))?;
    asker.trail.exited(&result.exit);
    Ok(Json(result).into_response())
}

/// Returns whether the client wants lines of JSON.
pub(super) fn wants_lines(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.split(',').any(|kind| kind.trim().starts_with(NDJSON)))
}

/// Sends the whole input beside the output. It ends with the channel at the latest.
fn feed(control: Control, stdin: Bytes) {
    let owner = control.clone();
    owner.spawn(async move {
        // A program that does not read its input is no error.
        let sent = async {
            if !stdin.is_empty() {
                control.write(stdin).await?;
            }
            control.close_input().await
        };
        if let Err(closed) = sent.await {
            tracing::debug!(?closed, "the program ended before it read all its input");
        }
    });
}

async fn collect(mut running: Running) -> Result<ExecResult, exec::ExecError> {
    let new_host_key = running.new_host_key();
    let (mut stdout, mut stderr) = (Excerpt::default(), Excerpt::default());
    loop {
        match running.next().await {
            Step::Output(frame) if frame.stream() == STDOUT => stdout.push(&frame.data()),
            Step::Output(frame) => stderr.push(&frame.data()),
            Step::Ended(Err(failure)) => return Err(failure),
            Step::Ended(Ok(exit)) => {
                let truncated = stdout.dropped || stderr.dropped;
                let (stdout_bytes, stderr_bytes) = (stdout.total, stderr.total);
                let (stdout, stdout_b64) = stdout.into_text();
                let (stderr, stderr_b64) = stderr.into_text();
                return Ok(ExecResult {
                    exit,
                    stdout,
                    stdout_b64,
                    stderr,
                    stderr_b64,
                    truncated,
                    stdout_bytes,
                    stderr_bytes,
                    new_host_key,
                });
            }
        }
    }
}

/// The beginning and the end of a stream, half of [`RESULT_LIMIT`] each.
#[derive(Debug, Default)]
struct Excerpt {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
    dropped: bool,
}

impl Excerpt {
    const HALF: usize = RESULT_LIMIT / 2;

    fn push(&mut self, data: &[u8]) {
        self.total += data.len() as u64;
        let (head, rest) = data.split_at(data.len().min(Self::HALF - self.head.len()));
        self.head.extend_from_slice(head);
        let keep = &rest[rest.len().saturating_sub(Self::HALF)..];
        let surplus = (self.tail.len() + keep.len()).saturating_sub(Self::HALF);
        self.dropped |= surplus > 0 || keep.len() < rest.len();
        self.tail.drain(..surplus);
        self.tail.extend(keep);
    }

    /// Returns the text, or base64 where it is not UTF-8.
    fn into_text(self) -> (Option<String>, Option<String>) {
        let mut bytes = self.head;
        bytes.extend(self.tail);
        match String::from_utf8(bytes) {
            Ok(text) => (Some(text), None),
            Err(error) => (None, Some(STANDARD.encode(error.as_bytes()))),
        }
    }
}

/// Makes lines of a running command. Dropping the stream ends the command.
fn lines(
    executor: Executor,
    running: Running,
    asker: Asker,
) -> impl futures_util::Stream<Item = Result<Bytes, std::convert::Infallible>> {
    enum At {
        Start(Running),
        Output(Running),
        End,
    }
    stream::unfold((At::Start(running), executor, asker), |(at, executor, asker)| async move {
        let (event, next) = match at {
            At::End => return None,
            At::Start(running) => (started(&running), At::Output(running)),
            At::Output(mut running) => match running.next().await {
                Step::Output(frame) => {
                    let data = occ_proto::exec::Bytes(frame.data().to_vec());
                    let event = match frame.stream() {
                        STDOUT => ExecEvent::Stdout { data },
                        _ => ExecEvent::Stderr { data },
                    };
                    (event, At::Output(running))
                }
                Step::Ended(Ok(exit)) => {
                    asker.trail.exited(&exit);
                    (ExecEvent::Exit(exit), At::End)
                }
                Step::Ended(Err(failure)) => {
                    let problem = error::exec_at(&executor, &failure).into_problem().to(&asker);
                    asker.trail.failed(problem.code);
                    (ExecEvent::Error { problem }, At::End)
                }
            },
        };
        Some((Ok(json::line(&event)), (next, executor, asker)))
    })
}

/// Returns the event of a command that the host accepted.
pub(super) fn started(running: &Running) -> ExecEvent {
    ExecEvent::Started { new_host_key: running.new_host_key() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_keeps_head_and_tail() {
        let mut excerpt = Excerpt::default();
        for i in 0..3000u32 {
            excerpt.push(&[(i % 251) as u8; 1000]);
        }
        assert!(excerpt.dropped);
        assert_eq!(excerpt.total, 3_000_000);
        assert_eq!(excerpt.head.len(), Excerpt::HALF);
        assert_eq!(excerpt.tail.len(), Excerpt::HALF);
        assert_eq!(excerpt.tail.back(), Some(&(2999u32 % 251).to_le_bytes()[0]));

        let mut small = Excerpt::default();
        small.push(b"hello ");
        small.push(b"\xff");
        assert!(!small.dropped);
        assert_eq!(small.into_text(), (None, Some("aGVsbG8g/w==".into())));
        let mut huge = Excerpt::default();
        huge.push(&vec![b'a'; RESULT_LIMIT + 1]);
        assert!(huge.dropped);
    }
}
