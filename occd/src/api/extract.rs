//! Extractors whose refusals are problem documents.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body as RequestBody, Bytes, HttpBody as _};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use occ_proto::files::decode_path;
use occ_proto::prompt::PROMPTS_HEADER;
use occ_proto::wording::in_words;
use occ_proto::{Code, HostName, KEY_HEADER, Secret};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::App;
use super::BODY_LIMIT;
use super::error::{ApiError, ApiResult};
use super::strict;
use crate::container::Engine;
use crate::exec::Executor;
use crate::files;
use crate::host::HostHandle;
use crate::policy::Asker;
use crate::prompts::{BadToken, Client, News};
use crate::ssh::given_key;

/// What stands for this machine in place of a host's name.
pub(super) const LOCAL: &str = "local";

/// How long a client may take to send a body that is read as a whole.
const BODY_TIME: Duration = Duration::from_secs(30);

/// A JSON body.
#[derive(Debug)]
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<App>> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Self::Rejection> {
        // Also what keeps a page's simple form from being taken for a request.
        if !is_json(request.headers()) {
            return Err(ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                Code::UnsupportedMediaType,
                "The body must be sent with Content-Type: application/json.",
            ));
        }
        let bytes = whole(app, request.into_body()).await?;
        strict::from_slice(&bytes).map(Self).map_err(|unfit| ApiError::unfit("The body", unfit))
    }
}

/// Reads a body as a whole, which has to come in time and may not be too large. When the daemon stops, one that does not come
/// is not waited for.
pub(super) async fn whole(app: &App, body: RequestBody) -> ApiResult<Bytes> {
    tokio::select! {
        biased;
        read = read(body) => read,
        () = app.reads_no_more() => {
            let detail = "occd stops, and not all of the body has come. Nothing was done.";
            Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, Code::ShuttingDown, detail))
        }
    }
}

async fn read(body: RequestBody) -> ApiResult<Bytes> {
    let too_large = || {
        let detail = "The body is larger than 1 MiB.";
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, Code::TooLarge, detail)
    };
    // One that says so is not waited for.
    if body.size_hint().lower() > BODY_LIMIT as u64 {
        return Err(too_large());
    }
    let read = Limited::new(body, BODY_LIMIT).collect();
    let read = timeout(BODY_TIME, read).await.map_err(|_| {
        let seconds = BODY_TIME.as_secs();
        let detail = format!("The body did not come within {seconds} s.");
        ApiError::new(StatusCode::REQUEST_TIMEOUT, Code::RequestTimeout, detail)
            .after(Duration::from_secs(1))
    })?;
    match read {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) => {
            let why = innermost(&*error);
            Err(ApiError::bad_request(format!("The body could not be read: {why}.")))
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok())
    else {
        return false;
    };
    let kind = value.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
}

/// Returns the words of what is at the bottom of an error: those above it name types of ours.
fn innermost(error: &(dyn Error + 'static)) -> String {
    match error.source() {
        Some(below) => innermost(below),
        None => error.to_string(),
    }
}

/// The query string.
#[derive(Debug)]
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        match axum::extract::Query::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(rejection) => {
                let why = rejection.source().map_or_else(|| rejection.to_string(), innermost);
                let why = in_words(&why);
                Err(ApiError::bad_request(format!("The query is not valid: {why}.")))
            }
        }
    }
}

/// The host named in the path.
#[derive(Debug)]
pub(super) struct Host(pub(super) HostHandle);

impl FromRequestParts<Arc<App>> for Host {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut Parts,
        app: &Arc<App>,
    ) -> Result<Self, Self::Rejection> {
        let name = name_in_path(parts, app).await?;
        // For somebody who only looks, no jump host comes to be.
        if parts.extensions.get::<Asker>().is_some_and(|asker| asker.only_looks)
            && let Ok(name) = HostName::new(name.clone())
            && name.is_via()
        {
            let found = app.pool.get(&name).ok_or_else(|| ApiError::host_not_found(&name));
            return found.map(Self);
        }
        host_named(app, name).map(Self)
    }
}

/// The part of the path that the route leaves open.
#[derive(Debug)]
pub(super) struct Path<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(rejection) => {
                Err(ApiError::bad_request(format!("The path is not valid: {rejection}.")))
            }
        }
    }
}

async fn name_in_path(parts: &mut Parts, app: &Arc<App>) -> Result<String, ApiError> {
    Path::from_request_parts(parts, app).await.map(|Path(name)| name)
}

/// Returns a host by its name.
pub(super) fn host_named(app: &Arc<App>, name: String) -> Result<HostHandle, ApiError> {
    let name =
        HostName::new(name).map_err(|error| ApiError::bad_request(format!("The {error}.")))?;
    if let Some(handle) = app.pool.get_or_make_via(&name) {
        return Ok(handle);
    }
    let snapshot = app.hosts.current();
    snapshot.usable().map_err(ApiError::from)?;
    // It may be in the file that cannot be read: "not found" alone would be a riddle.
    Err(match &snapshot.problem {
        Some(problem) => ApiError::from(problem).host(&name).not_among_the_last_good(&name),
        None => ApiError::host_not_found(&name),
    })
}

/// Returns the engine of a host by its name; `local` is this machine's.
pub(super) fn engine_named(app: &Arc<App>, name: &str) -> Result<Engine, ApiError> {
    if name == LOCAL {
        return Ok(app.local_engine());
    }
    host_named(app, name.to_owned()).map(Engine::Host)
}

/// The engine of the host named in the path; `local` is this machine's.
#[derive(Debug)]
pub(super) struct EngineOf(pub(super) Engine);

impl FromRequestParts<Arc<App>> for EngineOf {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut Parts,
        app: &Arc<App>,
    ) -> Result<Self, Self::Rejection> {
        engine_named(app, &name_in_path(parts, app).await?).map(Self)
    }
}

/// Returns the place to run commands on by its name; `local` is this machine.
pub(super) fn executor_named(app: &Arc<App>, name: &str) -> Result<Executor, ApiError> {
    if name == LOCAL {
        return Ok(Executor::Local(Arc::clone(&app.local)));
    }
    host_named(app, name.to_owned()).map(Executor::Host)
}

/// The place to run commands on that the path names; `local` is this machine.
#[derive(Debug)]
pub(super) struct ExecutorOf(pub(super) Executor);

impl FromRequestParts<Arc<App>> for ExecutorOf {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut Parts,
        app: &Arc<App>,
    ) -> Result<Self, Self::Rejection> {
        executor_named(app, &name_in_path(parts, app).await?).map(Self)
    }
}

/// The place whose files the path names, and the path there: what follows `files/`, which need not be text.
#[derive(Debug)]
pub(super) struct FileAt {
    pub(super) executor: Executor,
    pub(super) path: Vec<u8>,
}

impl FromRequestParts<Arc<App>> for FileAt {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut Parts,
        app: &Arc<App>,
    ) -> Result<Self, Self::Rejection> {
        // /v1/hosts/{host}/files/{path}
        let mut segments = parts.uri.path().splitn(6, '/').skip(3);
        let decoded = |text: Option<&str>| decode_path(text.unwrap_or_default());
        let (host, _files, path) =
            (decoded(segments.next()), segments.next(), decoded(segments.next()));
        let (Some(host), Some(path)) = (host, path) else {
            return Err(ApiError::bad_request("The path has a % that is followed by no byte."));
        };
        let path = files::checked(&path)
            .map_err(|error| ApiError::bad_request(format!("The path cannot be one: {error}.")))?;
        let name = String::from_utf8(host)
            .map_err(|_| ApiError::bad_request("The host's name is not UTF-8."))?;
        let executor = match name == LOCAL {
            true => Executor::Local(Arc::clone(&app.local)),
            false => Executor::Host(host_named(app, name)?),
        };
        Ok(Self { executor, path })
    }
}

/// A JSON body that may be left out.
#[derive(Debug)]
pub(super) struct OptionalBody<T>(pub(super) T);

impl<T: DeserializeOwned + Default> FromRequest<Arc<App>> for OptionalBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Self::Rejection> {
        if request.headers().contains_key(header::CONTENT_TYPE) || !request.body().is_end_stream() {
            let Body(body) = Body::from_request(request, app).await?;
            return Ok(Self(body));
        }
        Ok(Self(T::default()))
    }
}

/// What the client can give while its request lasts: answers, and a key of its own.
#[derive(Debug)]
pub(super) struct Caller(pub(super) Client);

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        // Whatever is not visible ASCII is not valid in either.
        let text = |name| parts.headers.get(name).map(|value| value.to_str().unwrap_or("?"));
        let key = text(KEY_HEADER).map(|key| Secret::new(key.to_owned()));
        if let Some(key) = &key {
            given_key::parse(key).map_err(|error| {
                ApiError::bad_request(format!("OCC_SSH_KEY, or {KEY_HEADER}, is {error}."))
            })?;
        }
        let news = parts.extensions.get::<Arc<News>>().cloned().unwrap_or_default();
        Ok(Self(Client::new(text(PROMPTS_HEADER), key, news)?))
    }
}

impl From<BadToken> for ApiError {
    fn from(bad: BadToken) -> Self {
        Self::bad_request(format!("{PROMPTS_HEADER} {bad}."))
    }
}

/// Checks `If-Match` against a host's current entity tag.
pub(super) fn check_match(
    headers: &HeaderMap,
    name: &HostName,
    etag: &str,
) -> Result<(), ApiError> {
    let Some(wanted) = headers.get(header::IF_MATCH) else { return Ok(()) };
    let wanted = wanted.to_str().unwrap_or_default();
    if wanted.split(',').any(|tag| tag.trim() == etag || tag.trim() == "*") {
        return Ok(());
    }
    let detail = format!("Host '{name}' was changed since you read it.");
    Err(ApiError::new(StatusCode::PRECONDITION_FAILED, Code::EditConflict, detail).host(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_waited_for_for_a_while() {
        let nothing = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
        let problem = read(RequestBody::from_stream(nothing)).await.unwrap_err().0;
        assert_eq!((problem.status, problem.code), (408, Code::RequestTimeout));
        assert_eq!(problem.retry_after_ms, Some(1000));
    }

    #[tokio::test]
    async fn a_body_that_is_too_large_is_refused_however_it_comes() {
        let pieces = (0..17).map(|_| Ok::<_, std::io::Error>(vec![b' '; 64 * 1024]));
        let piecewise = RequestBody::from_stream(futures_util::stream::iter(pieces));
        for body in [piecewise, RequestBody::from(vec![b' '; BODY_LIMIT + 1])] {
            let problem = read(body).await.unwrap_err().0;
            assert_eq!((problem.status, problem.code), (413, Code::TooLarge));
        }
        assert_eq!(
            read(RequestBody::from(vec![b' '; BODY_LIMIT])).await.unwrap().len(),
            BODY_LIMIT
        );
    }
}
