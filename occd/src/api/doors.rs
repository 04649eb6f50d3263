//! What each route asks of the policy: the one list of all doors. A route that is not on it lets nobody in.

use std::sync::Arc;

use axum::extract::{FromRequestParts, MatchedPath, Request};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use occ_proto::files::decode_path;
use occ_proto::policy::CLIENT_HEADER;
use occ_proto::prompt::PROMPTS_HEADER;
use occ_proto::session::SessionHost;
use occ_proto::{AGENT_HEADER, Code, KEY_HEADER};

use super::App;
use super::error::{self, ApiError};
use super::taken::{Taken, as_answered};
use crate::config::Feature;
use crate::policy::{self, Asker, GrantInForce};
use crate::prompts::{Client, check_token};

/// What stands before a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    /// Nothing: it tells nothing of any host, or a grant of its own alone.
    Open,
    /// Nothing; a grant comes to its own host alone.
    Host,
    /// Nothing, for clients on the daemon's own socket; a grant does not come in.
    Owner,
    /// The policy about what Docker tells.
    DockerRead,
    /// The policy about what Docker does.
    Docker,
    /// The policy about what the body or the path asks for, which the handler has (`permit.rs`).
    Work,
    /// The same, on the daemon's own socket alone.
    OwnerWork,
}

/// Returns what stands before a route.
pub(super) fn door(method: &Method, route: &str) -> Option<Door> {
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    Some(match route {
        "/healthz" | "/v1/openapi.json" => Door::Open,
        "/v1/default-host" if is_read => Door::Open,
        // A grant is told of what it waits for itself.
        "/v1/prompts" if is_read => Door::Open,
        "/v1/hosts/{host}" if is_read => Door::Host,
        "/v1/hosts/{host}/policy" | "/v1/hosts/{host}/policy/check" => Door::Host,
        "/v1/hosts/{host}/exec" => Door::Work,
        "/v1/hosts/{host}/files" | "/v1/hosts/{host}/files/" | "/v1/hosts/{host}/files/{*path}" => {
            Door::Work
        }
        "/v1/hosts/{host}/container"
        | "/v1/hosts/{host}/container/spec"
        | "/v1/hosts/{host}/container/password"
        | "/v1/hosts/{host}/container/logs" => Door::DockerRead,
        "/v1/hosts/{host}/container/start"
        | "/v1/hosts/{host}/container/stop"
        | "/v1/hosts/{host}/container/restart"
        | "/v1/hosts/{host}/container/update"
        | "/v1/hosts/{host}/container/sync"
        | "/v1/hosts/{host}/container/cockpit" => Door::Docker,
        // What goes through the socket is looked at there; it can be had where anything is allowed.
        "/v1/hosts/{host}/docker-socket" if *method == Method::PUT => Door::DockerRead,
        "/v1/hosts/{host}/docker-setup" if *method == Method::POST => Door::Docker,
        "/v1/sessions" | "/v1/sessions/{id}/start" if *method == Method::POST => Door::OwnerWork,
        "/v1/sessions/{id}/output"
        | "/v1/sessions/{id}/input"
        | "/v1/sessions/{id}/signal"
        | "/v1/sessions/{id}/attach" => Door::OwnerWork,
        "/v1/sessions/{id}" if matches!(*method, Method::DELETE | Method::PATCH) => Door::OwnerWork,
        "/v1/forwards" if *method == Method::POST => Door::OwnerWork,
        // The daemon, hosts.json, links, keys, and what is known of work; nothing is done on a host.
        "/metrics"
        | "/v1/version"
        | "/v1/hand-over"
        | "/v1/log-level"
        | "/v1/hosts"
        | "/v1/hosts/{host}"
        | "/v1/default-host"
        | "/v1/ssh-config"
        | "/v1/ssh-config/import"
        | "/v1/hosts/{host}/connect"
        | "/v1/hosts/{host}/disconnect"
        | "/v1/hosts/{host}/reconnect"
        | "/v1/hosts/{host}/test"
        | "/v1/hosts/{host}/workspaces"
        | "/v1/hosts/{host}/password"
        | "/v1/hosts/{host}/trust"
        | "/v1/hosts/{host}/docker-socket"
        | "/v1/hosts/{host}/docker-setup"
        | "/v1/hosts/{host}/history"
        | "/v1/hosts/{host}/trace"
        | "/v1/sessions"
        | "/v1/sessions/{id}"
        | "/v1/forwards"
        | "/v1/forwards/{id}"
        | "/v1/operations"
        | "/v1/operations/{id}"
        | "/v1/operations/{id}/events"
        | "/v1/events"
        | "/v1/prompts"
        | "/v1/prompts/{id}"
        | "/v1/unlock"
        | "/v1/grants"
        | "/v1/grants/{name}"
        | "/v1/audit" => Door::Owner,
        _ => return None,
    })
}

/// Returns whether a policy has a say in a request, as it has in whatever is done on a host, and with its files and its Docker.
fn is_work(request: &Request) -> bool {
    let method = as_answered(request.method());
    let route = request.extensions().get::<MatchedPath>();
    match route.and_then(|route| door(&method, route.as_str())) {
        Some(Door::Work | Door::OwnerWork | Door::Docker | Door::DockerRead) => true,
        Some(Door::Open | Door::Host | Door::Owner) | None => false,
    }
}

/// Returns whether a request is work that needs a place among all that are at work. Whatever ends a session makes one.
pub(super) fn takes_place(request: &Request) -> bool {
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let ends = match route {
        Some("/v1/sessions/{id}/signal") => true,
        Some("/v1/sessions/{id}") => *request.method() == Method::DELETE,
        _ => false,
    };
    is_work(request) && !ends
}

/// Returns all that a route is part of that whoever administers this machine may turn off. What ends or removes something
/// is no part of it.
fn features(method: &Method, route: &str) -> &'static [Feature] {
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    match route {
        "/v1/hosts/{host}/exec" => &[Feature::Exec],
        "/v1/hosts/{host}/files" | "/v1/hosts/{host}/files/" | "/v1/hosts/{host}/files/{*path}" => {
            &[Feature::Files]
        }
        // A session runs a command, and what is typed into it may be more of them.
        "/v1/sessions" | "/v1/sessions/{id}/start" if *method == Method::POST => {
            &[Feature::Sessions, Feature::Exec]
        }
        "/v1/sessions/{id}/input" => &[Feature::Sessions, Feature::Exec],
        // Whoever attaches may only look; each word that is typed asks for the rest.
        "/v1/sessions/{id}/output" | "/v1/sessions/{id}/attach" => &[Feature::Sessions],
        "/v1/grants" if *method == Method::POST => &[Feature::Grants],
        "/v1/hosts/{host}/trust" if !is_read => &[Feature::TrustOnFirstUse],
        _ => &[],
    }
}

/// Returns whether the read-only socket has a route: it tells what the daemon knows of hosts and of work. What is in
/// files, in output and in logs may be secret, and nothing is dialled or asked for somebody who only looks.
pub(super) fn is_shown(method: &Method, route: &str) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
        && matches!(
            route,
            "/healthz"
                | "/metrics"
                | "/v1/version"
                | "/v1/openapi.json"
                | "/v1/events"
                | "/v1/hosts"
                | "/v1/hosts/{host}"
                | "/v1/hosts/{host}/history"
                | "/v1/default-host"
                | "/v1/sessions"
                | "/v1/forwards"
                | "/v1/forwards/{id}"
                | "/v1/operations"
                | "/v1/operations/{id}"
                | "/v1/prompts"
        )
}

impl Asker {
    /// Refuses what would ask a host or dial one, where somebody only looks.
    pub(super) fn may_ask_hosts(&self) -> Result<(), ApiError> {
        match self.only_looks {
            false => Ok(()),
            true => Err(read_only("The read-only socket tells what is known, and asks no host.")),
        }
    }

    /// Returns whoever made a request.
    pub(super) fn of(request: &Request) -> Self {
        Self::seen(request).cloned().unwrap_or_default()
    }

    /// Returns whoever made a request, as far as that is known.
    pub(super) fn seen(request: &Request) -> Option<&Self> {
        request.extensions().get::<Self>()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Asker {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

/// Notes what a client says that it is. Through a grant nothing else of its own comes in.
pub(super) fn know(request: &mut Request) -> Result<(), ApiError> {
    let word = request.headers().get(CLIENT_HEADER).map(|value| value.to_str().unwrap_or("?"));
    if let Some(word) = word {
        let kind = word
            .parse()
            .map_err(|why| ApiError::bad_request(format!("{CLIENT_HEADER}: {why}.")))?;
        request.extensions_mut().get_or_insert_default::<Asker>().kind = kind;
    }
    if Asker::seen(request).is_some_and(|asker| asker.grant.is_some()) {
        // They name files and sockets of this machine, and people.
        for header in [AGENT_HEADER, KEY_HEADER, PROMPTS_HEADER] {
            request.headers_mut().remove(header);
        }
    }
    // Also where the request turns out to have no question.
    let token = request.headers().get(PROMPTS_HEADER).map(|value| value.to_str().unwrap_or("?"));
    Ok(token.map_or(Ok(()), check_token)?)
}

/// What a policy is to be asked before a request may pass.
pub(super) struct Asked {
    asker: Asker,
    client: Client,
    place: SessionHost,
    what: policy::Request<'static>,
    text: String,
}

/// Lets a request pass, if its door does. Returns what its policy is to be asked, if it has one.
pub(super) fn pass(
    app: &App,
    taken: &Taken,
    request: &Request,
) -> Result<Option<Asked>, Box<Response>> {
    let Some(route) = request.extensions().get::<MatchedPath>() else {
        // There is no such route, which is about to be said.
        return Ok(None);
    };
    let nobody = Asker::default();
    let asker = Asker::seen(request).unwrap_or(&nobody);
    taken.check(route.as_str(), request)?;
    let method = as_answered(request.method());
    let Some(door) = door(&method, route.as_str()) else {
        return Err(denied("no policy is known for this route", None).into_response().into());
    };
    if asker.only_looks && !is_shown(request.method(), route.as_str()) {
        return Err(read_only("The read-only socket does not have this.").into_response().into());
    }
    if let Some(grant) = &asker.grant {
        if Timestamp::now() >= grant.ends_at {
            let why = format!("the end of the grant {}", grant.name);
            return Err(denied(&why, None).host(&grant.host).into_response().into());
        }
        let is_own = || host_of(request).as_ref() == Some(&SessionHost::Host(grant.host.clone()));
        let may = match door {
            Door::Open => true,
            Door::Host | Door::Work => is_own(),
            Door::Owner | Door::OwnerWork | Door::Docker | Door::DockerRead => false,
        };
        // What was turned off serves nobody, also where it was there before.
        if let Err(why) = app.guard.check_feature(Feature::Grants) {
            let place = SessionHost::Host(grant.host.clone());
            return Err(error::denied(&place, &why).into_response().into());
        }
        if !may {
            return Err(not_given(grant).into_response().into());
        }
    }
    for feature in features(&method, route.as_str()) {
        let Err(why) = app.guard.check_feature(*feature) else { continue };
        let refused = match place_in(app, request.uri().path()) {
            Some(place) => error::denied(&place, &why),
            None => {
                let detail = format!("{}: {why}.", feature.key());
                ApiError::new(StatusCode::FORBIDDEN, Code::PolicyDenied, detail)
            }
        };
        return Err(refused.into_response().into());
    }
    let what = match door {
        Door::Docker => policy::Request::Docker,
        Door::DockerRead => policy::Request::DockerRead,
        Door::Open | Door::Host | Door::Owner | Door::Work | Door::OwnerWork => return Ok(None),
    };
    let Some(place) = host_of(request) else {
        return Err(denied("no policy is known for this host", None).into_response().into());
    };
    let token = request.headers().get(PROMPTS_HEADER).and_then(|value| value.to_str().ok());
    let client = Client::new(token, None, Arc::default()).unwrap_or_default();
    let text = format!("{} {}", request.method(), request.uri().path());
    Ok(Some(Asked { asker: asker.clone(), client, place, what, text }))
}

impl Asked {
    /// Asks the policy.
    pub(super) async fn permit(self, app: &App) -> Result<(), Box<Response>> {
        let Self { asker, client, place, what, text } = self;
        let permitted = app.guard.permit((&asker, &client), &place, &what, &text, &|_, _| {}).await;
        permitted.map_err(|why| error::denied(&place, &why).into_response().into())
    }
}

/// Returns the problem of what a grant does not give; with the host whose policy it may see.
pub(super) fn not_given(grant: &GrantInForce) -> ApiError {
    let why = format!("the grant {}, which does not give this", grant.name);
    denied(&why, None).host(&grant.host)
}

fn read_only(detail: &str) -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, Code::ReadOnly, detail)
}

fn denied(why: &str, host: Option<&SessionHost>) -> ApiError {
    let place = host.map_or_else(String::new, |host| format!("{host}: "));
    let detail = format!("{place}refused by {why}.");
    ApiError::new(StatusCode::FORBIDDEN, Code::PolicyDenied, detail)
}

fn host_of(request: &Request) -> Option<SessionHost> {
    host_in(request.uri().path())
}

/// Returns the host that a path names: `/v1/hosts/{host}` with anything behind it.
pub(super) fn host_in(path: &str) -> Option<SessionHost> {
    first_after("/v1/hosts/", path)?.parse().ok()
}

/// Returns the host that a path is about: the one that it names, or that of the session that it names.
pub(super) fn place_in(app: &App, path: &str) -> Option<SessionHost> {
    let of_session = || app.sessions.host_of(&first_after("/v1/sessions/", path)?).ok();
    host_in(path).or_else(|| of_session().map(|(_, host)| host))
}

fn first_after(start: &str, path: &str) -> Option<String> {
    let name = path.strip_prefix(start)?.split('/').next()?;
    String::from_utf8(decode_path(name)?).ok()
}
