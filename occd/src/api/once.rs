//! `Idempotency-Key`: a request that is sent again is not done again.
//!
//! A client that lost its connection does not know whether its request was heard. With a key of its own making, it
//! sends the request again and gets the answer of the first, which goes on without its client meanwhile. What
//! certainly did not begin leaves no trace and may be tried with the same key. Keys are kept on disk for a day,
//! since the daemon may be what was lost; answers are not, and a key without its answer is `outcome_unknown`.
//! The header is that of draft-ietf-httpapi-idempotency-key-header.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use occ_proto::policy::CLIENT_HEADER;
use occ_proto::{Code, IDEMPOTENCY_HEADER, Problem, REPLAYED_HEADER};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::App;
use super::at_work;
use super::error::{self, ApiError, ApiResult};
use super::exec::wants_lines;
use super::extract::whole;
use crate::blocking::blocking;
use crate::policy::Asker;

mod journal;

use journal::{Journal, Line};

/// How long a key is remembered.
const KEPT: Duration = Duration::from_hours(24);
/// How many keys are remembered. More forget the oldest.
const KEYS: usize = 10_000;
/// How many bytes of answers are remembered in all. More forget the oldest, but not their keys.
const ANSWERS: usize = 32 * 1024 * 1024;
/// The largest answer: a command's result has 1 MiB of each stream, in base64 at most.
const ANSWER: usize = 4 * 1024 * 1024;
/// The longest key.
const KEY_LENGTH: usize = 255;

type Digest = [u8; 32];

/// The requests with a key.
#[derive(Debug)]
pub struct Once {
    known: Mutex<Known>,
    journal: Journal,
}

#[derive(Debug, Default)]
struct Known {
    entries: HashMap<Digest, Entry>,
    /// The keys, the oldest first.
    order: VecDeque<(Timestamp, Digest)>,
    /// The keys whose answers are here, the oldest first, and the size of those.
    answered: VecDeque<Digest>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    at: Timestamp,
    request: Digest,
    state: Done,
}

#[derive(Debug)]
enum Done {
    /// It is at work. The value comes when it is not any more.
    Running(watch::Receiver<bool>),
    Answered(Answer),
    /// It was at work, or done, and its answer is not here.
    Unknown,
}

#[derive(Debug, Clone)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        (self.status, self.headers, self.body).into_response()
    }
}

impl Once {
    /// Reads what the daemons before this one have begun. A file that is missing or damaged says nothing.
    pub fn load(state: &std::path::Path) -> Self {
        let (journal, lines) = Journal::open(state, KEPT, KEYS);
        let mut known = Known::default();
        for line in lines {
            known.add(line.key, line.at, line.request, Done::Unknown);
        }
        Self { known: Mutex::new(known), journal }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, line: &Line) -> ApiResult<Begun> {
        let mut known = self.lock();
        known.sweep(line.at);
        Ok(match known.entries.get(&line.key) {
            Some(entry) if entry.request != line.request => return Err(other_request()),
            Some(Entry { state: Done::Running(running), .. }) => Begun::Running(running.clone()),
            Some(Entry { state: Done::Answered(answer), .. }) => Begun::Answered(answer.clone()),
            Some(Entry { state: Done::Unknown, .. }) => return Err(answer_is_gone()),
            None => {
                let (done, running) = watch::channel(false);
                known.add(line.key, line.at, line.request, Done::Running(running));
                Begun::Now(done)
            }
        })
    }

    /// Notes that nobody knows what came of it.
    fn lose(&self, key: &Digest) {
        if let Some(entry) = self.lock().entries.get_mut(key) {
            entry.state = Done::Unknown;
        }
    }
}

/// What became of a request that comes, perhaps again.
enum Begun {
    /// It begins now. To be told when it is over.
    Now(watch::Sender<bool>),
    /// It is at work.
    Running(watch::Receiver<bool>),
    Answered(Answer),
}

impl Known {
    fn add(&mut self, key: Digest, at: Timestamp, request: Digest, state: Done) {
        self.entries.insert(key, Entry { at, request, state });
        self.order.push_back((at, key));
    }

    fn remove(&mut self, key: &Digest) {
        if let Some(Entry { state: Done::Answered(answer), .. }) = self.entries.remove(key) {
            self.bytes -= answer.body.len();
            self.answered.retain(|answered| answered != key);
        }
    }

    /// Forgets what is too old, and the oldest of what is too much.
    fn sweep(&mut self, now: Timestamp) {
        while let Some((at, key)) = self.order.front().copied() {
            if self.order.len() <= KEYS && at + KEPT > now {
                break;
            }
            self.order.pop_front();
            // The key may be in use again since.
            if self.entries.get(&key).is_some_and(|entry| entry.at == at) {
                self.remove(&key);
            }
        }
    }

    fn answer(&mut self, key: Digest, answer: Answer) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        self.bytes += answer.body.len();
        entry.state = Done::Answered(answer);
        self.answered.push_back(key);
        while self.bytes > ANSWERS
            && let Some(oldest) = self.answered.pop_front()
        {
            if let Some(entry) = self.entries.get_mut(&oldest)
                && let Done::Answered(answer) = std::mem::replace(&mut entry.state, Done::Unknown)
            {
                self.bytes -= answer.body.len();
            }
        }
    }
}

/// Does a request once that has a key.
pub(super) async fn once(app: &Arc<App>, request: Request, next: Next) -> Response {
    let Some(key) = request.headers().get(IDEMPOTENCY_HEADER).cloned() else {
        return at_work::done(app, request, next).await;
    };
    // The other methods may be repeated as they are.
    if request.method() != Method::POST {
        return at_work::done(app, request, next).await;
    }
    match keyed(Arc::clone(app), &key, request, next).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn keyed(
    app: Arc<App>,
    key: &HeaderValue,
    request: Request,
    next: Next,
) -> ApiResult<Response> {
    if Asker::of(&request).grant.is_some() {
        // What is done for a grant ends with its client, and with the grant.
        return Err(ApiError::bad_request("On a grant's socket there is no Idempotency-Key."));
    }
    if request.headers().get_all(IDEMPOTENCY_HEADER).iter().nth(1).is_some() {
        // Which of them the client would come back with is not known.
        return Err(ApiError::bad_request("A request has one Idempotency-Key."));
    }
    let word = key.to_str().unwrap_or_default();
    let visible = word.bytes().all(|byte| byte.is_ascii_graphic());
    if word.is_empty() || word.len() > KEY_LENGTH || !visible {
        return Err(ApiError::bad_request(format!(
            "An Idempotency-Key has 1 to {KEY_LENGTH} visible ASCII characters."
        )));
    }
    if wants_lines(request.headers()) {
        return Err(ApiError::bad_request(
            "A stream of lines cannot be kept for an Idempotency-Key: ask for the whole result.",
        ));
    }
    let (parts, body) = request.into_parts();
    let body = whole(&app, body).await?;
    let digest = digest(&[word.as_bytes()]);
    let query = parts.uri.query().unwrap_or_default();
    // Another kind of client may be refused what this one was not.
    let kind = parts.headers.get(CLIENT_HEADER).map_or(&b""[..], HeaderValue::as_bytes);
    let asked = [parts.method.as_str(), parts.uri.path(), query].map(str::as_bytes);
    let asked = self::digest(&[&asked[..], &[kind, &body]].concat());
    let line = Line { key: digest, at: Timestamp::now(), request: asked };
    loop {
        let mut running = match app.once.begin(&line)? {
            Begun::Running(running) => running,
            Begun::Answered(answer) => {
                let mut response = answer.into_response();
                response.headers_mut().insert(REPLAYED_HEADER, HeaderValue::from_static("true"));
                return Ok(response);
            }
            Begun::Now(done) => {
                let request = Request::from_parts(parts, Body::from(body));
                // It goes on when its client leaves.
                let work = app.tasks.spawn(run(Arc::clone(&app), line, request, next, done));
                return work.await.unwrap_or_else(|_| Err(answer_is_gone()));
            }
        };
        // It panicked if there is no word of its end.
        if running.wait_for(|done| *done).await.is_err() {
            app.once.lose(&digest);
        }
    }
}

async fn run(
    app: Arc<App>,
    line: Line,
    request: Request,
    next: Next,
    done: watch::Sender<bool>,
) -> ApiResult<Response> {
    let key = line.key;
    // Before it begins: a daemon that is killed must not leave the next one to do it again.
    let owner = Arc::clone(&app);
    if let Err(error) = blocking(move || owner.once.journal.begin(&line)).await {
        app.once.lock().remove(&key);
        done.send_replace(true);
        let (status, code) = error::unsaved(&error);
        let detail = "The Idempotency-Key could not be noted, so nothing was begun";
        return Err(ApiError::new(status, code, format!("{detail}: {error}.")));
    }
    let (parts, body) = at_work::done(&app, request, next).await.into_parts();
    let read = to_bytes(body, ANSWER).await;
    let answer = read.map(|body| Answer { status: parts.status, headers: parts.headers, body });
    let kept = answer.as_ref().map_or(true, has_begun);
    match &answer {
        Ok(answer) if kept => app.once.lock().answer(key, answer.clone()),
        Ok(_) => app.once.lock().remove(&key),
        Err(_) => app.once.lose(&key),
    }
    if !kept {
        let owner = Arc::clone(&app);
        if let Err(error) = blocking(move || owner.once.journal.undo(&key)).await {
            tracing::warn!(%error, "a request that did not begin counts as begun after a restart");
        }
    }
    done.send_replace(true);
    match answer {
        Ok(answer) => Ok(answer.into_response()),
        Err(error) => {
            Err(ApiError::new_internal(format!("The answer could not be read: {error}.")))
        }
    }
}

/// Returns whether something may have been done. What is wrong with the request (4xx) or with the moment (503) is told
/// before anything is, and so are a few others; a command whose output was too much, for one, has run.
fn has_begun(answer: &Answer) -> bool {
    if answer.status.is_client_error() || answer.status == StatusCode::SERVICE_UNAVAILABLE {
        return false;
    }
    let problem = serde_json::from_slice::<Problem>(&answer.body);
    let before = [Code::ExecRefused, Code::NoSftp, Code::HostsFileWrite];
    answer.status.is_success() || !problem.is_ok_and(|problem| before.contains(&problem.code))
}

fn other_request() -> ApiError {
    let detail = "That Idempotency-Key was used for another request.";
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, Code::KeyReused, detail)
}

fn answer_is_gone() -> ApiError {
    let detail = "A request with that Idempotency-Key was begun, and its answer is kept no more: \
                  occd ended meanwhile, or it was long ago. It is not done again.";
    ApiError::new(StatusCode::BAD_GATEWAY, Code::OutcomeUnknown, detail)
}

/// Returns what tells texts from others, wherever one ends.
fn digest(texts: &[&[u8]]) -> Digest {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_been_done_keeps_its_key() {
        let answer = |status: u16, code| Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: serde_json::to_vec(&Problem::new(status, code, "x")).unwrap().into(),
        };
        // The command ran, the rename may be done, the image is half there.
        let done = [
            (507, Code::OutputOverflow),
            (502, Code::FileInterrupted),
            (502, Code::OutcomeUnknown),
            (502, Code::ImageUnavailable),
            (500, Code::Internal),
        ];
        for (status, code) in done {
            assert!(has_begun(&answer(status, code)), "{code:?}");
        }
        let not_done = [
            (404, Code::HostNotFound),
            (429, Code::TooManyRequests),
            (503, Code::HostUnreachable),
            (502, Code::ExecRefused),
            (507, Code::HostsFileWrite),
        ];
        for (status, code) in not_done {
            assert!(!has_begun(&answer(status, code)), "{code:?}");
        }
    }
}
