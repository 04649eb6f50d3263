//! `GET /v1/audit`, and the layer that has every request that does something leave its trail in the audit log.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body as HttpBody;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream;
use jiff::Timestamp;
use occ_proto::audit::{AUDIT_MOST, AuditFilter, AuditLine};
use occ_proto::exec::NDJSON;
use occ_proto::files::decode_path;
use occ_proto::policy::{CLIENT_HEADER, ClientKind};
use occ_proto::session::SessionHost;
use occ_proto::{Code, REPLAYED_HEADER};
use serde::Deserialize;
use tokio::time::timeout;

use super::doors::host_in;
use super::error::{ApiError, ApiResult};
use super::extract::Query;
use super::history::{bad_since, since};
use super::json;
use super::{App, HEARTBEAT};
use crate::audit::{Following, Trail};
use crate::policy::Asker;

/// How many things an answer tells unless the client says otherwise, and at most.
const USUAL: usize = 1000;
const MOST: usize = AUDIT_MOST;

/// What a route does, as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    /// Nothing: it tells something. Only a refusal is recorded.
    Tells,
    /// All that there is to know is in the path.
    Does(&'static str),
    /// The handler says more, which is in the body, and then that it begins.
    Says(&'static str),
    /// A route that this list does not know, which may change something.
    New,
}

/// Returns what a route does.
fn what(method: &Method, route: &str) -> What {
    use What::{Does, New, Says, Tells};
    let is = |one: &Method| *method == *one;
    match route {
        "/v1/hosts/{host}/policy/check" => Tells,
        "/v1/hosts/{host}/exec" => Says("exec"),
        "/v1/sessions/{id}/attach" => Says("session.attach"),
        // A secret is told.
        "/v1/hosts/{host}/container/password" => Does("sandbox.password"),
        _ if is(&Method::GET) || is(&Method::HEAD) => Tells,
        "/v1/hand-over" => Does("daemon.hand-over"),
        "/v1/hosts" => Says("host.add"),
        "/v1/hosts/{host}" if is(&Method::DELETE) => Does("host.remove"),
        "/v1/hosts/{host}" => Says("host.edit"),
        "/v1/default-host" => Says("host.default"),
        "/v1/ssh-config/import" => Says("host.import"),
        "/v1/hosts/{host}/connect" => Does("host.connect"),
        "/v1/hosts/{host}/disconnect" => Does("host.disconnect"),
        "/v1/hosts/{host}/reconnect" => Does("host.reconnect"),
        "/v1/hosts/{host}/test" => Does("host.test"),
        "/v1/hosts/{host}/password" => Says("password.forget"),
        "/v1/hosts/{host}/trust" => Says("trust"),
        "/v1/hosts/{host}/container/start" => Does("sandbox.start"),
        "/v1/hosts/{host}/container/stop" => Does("sandbox.stop"),
        "/v1/hosts/{host}/container/restart" => Does("sandbox.restart"),
        "/v1/hosts/{host}/container/update" => Does("sandbox.update"),
        "/v1/hosts/{host}/container/sync" => Does("sandbox.sync"),
        "/v1/hosts/{host}/container/cockpit" => Does("sandbox.cockpit"),
        "/v1/hosts/{host}/docker-socket" if is(&Method::PUT) => Does("docker.socket"),
        "/v1/hosts/{host}/docker-socket" => Does("docker.socket.remove"),
        "/v1/hosts/{host}/docker-setup" => Does("docker.install"),
        "/v1/hosts/{host}/files" | "/v1/hosts/{host}/files/" | "/v1/hosts/{host}/files/{*path}" => {
            match *method {
                Method::PUT => Says("files.write"),
                Method::DELETE => Does("files.remove"),
                _ => Says("files.change"),
            }
        }
        "/v1/grants" => Says("grant.make"),
        "/v1/grants/{name}" => Says("grant.revoke"),
        "/v1/sessions" => Says("session.start"),
        "/v1/sessions/{id}/start" => Says("session.start"),
        "/v1/sessions/{id}/input" => Says("session.input"),
        "/v1/sessions/{id}/signal" => Says("session.signal"),
        "/v1/sessions/{id}" if is(&Method::DELETE) => Says("session.remove"),
        "/v1/sessions/{id}" => Says("session.edit"),
        "/v1/forwards" => Says("forward.add"),
        "/v1/forwards/{id}" => Does("forward.remove"),
        "/v1/operations/{id}" => Does("operation.cancel"),
        "/v1/prompts/{id}" => Says("prompt.answer"),
        "/v1/unlock" => Says("unlock"),
        "/v1/hosts/{host}/trace" if is(&Method::DELETE) => Does("trace.end"),
        "/v1/hosts/{host}/trace" => Says("trace.start"),
        "/v1/log-level" => Does("daemon.log-level"),
        _ => New,
    }
}

/// How much of a path that was refused is kept, in characters.
const DETAIL: usize = 1024;

/// What is to be noted of a request once it is answered.
pub(super) enum Noted {
    /// Nothing.
    Nothing,
    /// That it was refused, if it is: it would only have read. What is needed for that is looked at then.
    Refusal { asker: Box<Asker>, uri: Uri, kind: Option<HeaderValue> },
    /// How what it does was answered.
    Trail(Trail),
}

/// Gives a request that does something its trail.
pub(super) fn note(app: &App, request: &mut Request) -> Noted {
    let Some(route) = request.extensions().get::<MatchedPath>().cloned() else {
        return Noted::Nothing;
    };
    let what = what(request.method(), route.as_str());
    if what == What::Tells && request.method() == Method::GET {
        let kind = request.headers().get(CLIENT_HEADER).cloned();
        let asker = Box::new(Asker::of(request));
        return Noted::Refusal { asker, uri: request.uri().clone(), kind };
    }
    let (action, says) = match what {
        What::Tells => return Noted::Nothing,
        What::Does(action) => (action.to_owned(), false),
        What::Says(action) => (action.to_owned(), true),
        What::New => (format!("{} {}", request.method(), route.as_str()), false),
    };
    let mut asker = Asker::of(request);
    asker.trail = app.guard.audit().trail(&asker.who, asker.via(), action);
    let trail = asker.trail.clone();
    trail.set(|line| {
        line.host = place(request.uri());
        line.client = Some(word(request.headers().get(CLIENT_HEADER)));
        // What names it, where that is no host.
        match route.as_str() {
            "/v1/hosts/{host}/files/{*path}"
            | "/v1/hosts/{host}/files"
            | "/v1/hosts/{host}/files/" => {
                line.path = Some(file_of(request));
            }
            "/v1/grants/{name}"
            | "/v1/forwards/{id}"
            | "/v1/operations/{id}"
            | "/v1/prompts/{id}" => {
                line.detail = request.uri().path().strip_prefix("/v1/").map(str::to_owned);
            }
            _ => {}
        }
    });
    if !says {
        trail.begin_once_permitted();
    }
    request.extensions_mut().insert(asker);
    Noted::Trail(trail)
}

impl Noted {
    /// Notes how the request was answered.
    pub(super) fn answered(self, app: &App, response: &Response) {
        match self {
            Self::Nothing => {}
            Self::Refusal { asker, uri, kind } => {
                if response.status() == StatusCode::FORBIDDEN
                    && let Some(code @ (Code::PolicyDenied | Code::ReadOnly)) = code_of(response)
                {
                    let trail = app.guard.audit().trail(&asker.who, asker.via(), "read");
                    trail.set(|line| {
                        line.host = place(&uri);
                        line.client = Some(word(kind.as_ref()));
                        line.detail = Some(uri.path().chars().take(DETAIL).collect());
                    });
                    trail.failed(code);
                }
            }
            Self::Trail(trail) => {
                if response.headers().contains_key(REPLAYED_HEADER) {
                    // Nothing was done, and the one before has its lines.
                    trail.set(|line| line.detail = Some("it had been done before".to_owned()));
                    trail.forget();
                }
                let status = response.status();
                if status == StatusCode::TOO_MANY_REQUESTS {
                    // It had no place, and comes again: a command that waits for one asks each second.
                    trail.forget();
                }
                if status != StatusCode::SWITCHING_PROTOCOLS {
                    let is_error = status.is_client_error() || status.is_server_error();
                    trail.answered(code_of(response), is_error);
                }
            }
        }
    }
}

/// Returns the code of a problem.
fn code_of(response: &Response) -> Option<Code> {
    response.extensions().get::<Code>().copied()
}

fn place(uri: &Uri) -> Option<String> {
    // What is no name is no host of ours.
    host_in(uri.path()).as_ref().map(SessionHost::to_string)
}

/// Returns what a client says that it is.
fn word(kind: Option<&HeaderValue>) -> String {
    let kind = kind.and_then(|kind| kind.to_str().ok()?.parse().ok());
    kind.unwrap_or(ClientKind::Api).as_str().to_owned()
}

/// Returns the file that a path names: what follows `files/`.
fn file_of(request: &Request) -> String {
    // /v1/hosts/{host}/files/{path}
    let path = request.uri().path().splitn(6, '/').nth(5).unwrap_or_default();
    String::from_utf8_lossy(&decode_path(path).unwrap_or_default()).into_owned()
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct AuditQuery {
    /// What was done there; `local` is this machine.
    host: Option<String>,
    /// From then on: a moment (RFC 3339), or a time before now, such as `24h`.
    since: Option<String>,
    /// How many things, the last ones: 1000 unless said, 20000 at most.
    limit: Option<usize>,
    /// Go on with what comes: a line when something begins, and one when it ends.
    #[serde(default)]
    follow: bool,
}

/// Tells what was done through the daemon, on whose behalf, and how it ended, as lines of JSON, the oldest first.
///
/// A line with the event `end` has all of it; one with `begin` is about something that goes on. Where the daemon was killed meanwhile, the
/// outcome is `unknown`.
#[utoipa::path(
    get,
    path = "/v1/audit",
    tag = "policy",
    operation_id = "showAudit",
    params(AuditQuery),
    responses((status = 200, description = "Lines of JSON", body = AuditLine, content_type = "application/x-ndjson", headers(("cache-control" = String, description = "`no-store`"))))
)]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    Query(query): Query<AuditQuery>,
) -> ApiResult<Response> {
    let now = Timestamp::now();
    let from = match &query.since {
        None => None,
        Some(text) => Some(since(text, now).ok_or_else(bad_since)?),
    };
    let most = query.limit.unwrap_or(USUAL);
    if most > MOST {
        return Err(ApiError::bad_request(format!("limit: no more than {MOST}.")));
    }
    let filter = AuditFilter { host: query.host, since: from };
    let (lines, following) = app.guard.audit().read(filter, most).await.map_err(|error| {
        ApiError::new_internal(format!("The audit log cannot be read: {error}."))
    })?;
    let first = Bytes::from(told(&lines));
    let body = match query.follow {
        false => HttpBody::from(first),
        true => {
            let at = At::First(first, following);
            HttpBody::from_stream(stream::unfold((app, at), |(app, at)| async move {
                let (bytes, at) = at.next(&app).await?;
                Some((Ok::<_, Infallible>(bytes), (app, at)))
            }))
        }
    };
    Ok(([(header::CONTENT_TYPE, NDJSON), (header::CACHE_CONTROL, "no-store")], body)
        .into_response())
}

fn told(lines: &[AuditLine]) -> Vec<u8> {
    lines.iter().flat_map(json::line).collect()
}

/// Where a client that follows is.
enum At {
    First(Bytes, Following),
    Then(Following),
}

impl At {
    /// Returns what comes next; nothing at the daemon's end.
    async fn next(self, app: &App) -> Option<(Bytes, Self)> {
        let mut following = match self {
            // Nothing would be no piece of the answer, and its head would wait for one.
            Self::First(bytes, following) if bytes.is_empty() => {
                return Some((Bytes::from_static(b"\n"), Self::Then(following)));
            }
            Self::First(bytes, following) => return Some((bytes, Self::Then(following))),
            Self::Then(following) => following,
        };
        let next = timeout(HEARTBEAT, following.changed());
        let changed = tokio::select! {
            () = app.stop.cancelled() => return None,
            changed = next => changed.is_ok(),
        };
        if !changed {
            return Some((Bytes::from_static(b"\n"), Self::Then(following)));
        }
        match following.read().await {
            // Lines for others, and no piece of the answer must be empty.
            Ok(lines) if lines.is_empty() => {
                Some((Bytes::from_static(b"\n"), Self::Then(following)))
            }
            Ok(lines) => Some((Bytes::from(told(&lines)), Self::Then(following))),
            Err(error) => {
                tracing::warn!(%error, "the audit log can be followed no more");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::describe::document;

    #[test]
    fn every_route_that_changes_something_has_a_name() {
        let document = document();
        let mut unnamed = Vec::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for method in item.as_object().unwrap().keys() {
                let method: Method = method.to_uppercase().parse().unwrap();
                let route = path.replace("/files/{path}", "/files/{*path}");
                match what(&method, &route) {
                    What::New => unnamed.push(format!("{method} {route}")),
                    What::Tells => assert!(
                        method == Method::GET || route == "/v1/hosts/{host}/policy/check",
                        "{method} {route} is not recorded"
                    ),
                    What::Does(_) | What::Says(_) => {}
                }
            }
        }
        // They are recorded by their route, too; a word is what people read.
        assert_eq!(unnamed, [""; 0]);
    }
}
