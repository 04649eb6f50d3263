//! Forwards: ports and sockets of this machine that lead to hosts, and of hosts that lead here.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use occ_proto::Code;
use occ_proto::forward::{AddForward, Direction, Forward, ForwardList, Spec};
use occ_proto::session::SessionHost;

use super::App;
use super::error::{self, ApiError, ApiResult};
use super::extract::{Body, Caller, LOCAL, Path, Query, host_named};
use super::json::Json;
use super::links::TriesQuery;
use super::params::ForwardPath;
use super::problems::{OfForward, OfForwardId};
use super::shown::Shown as _;
use crate::policy::{self, Asker};

/// Lists the forwards, each with its state and what went through it.
#[utoipa::path(
    get,
    path = "/v1/forwards",
    tag = "forwards",
    operation_id = "listForwards",
    responses((status = 200, description = "The forwards", body = ForwardList))
)]
pub(super) async fn list(State(app): State<Arc<App>>, asker: Asker) -> Json<ForwardList> {
    let by_name_port = app.forwards.by_name();
    Json(ForwardList { forwards: app.forwards.list(), by_name_port }.to(&asker))
}

/// Tells the state of a forward.
#[utoipa::path(
    get,
    path = "/v1/forwards/{id}",
    tag = "forwards",
    operation_id = "showForward",
    params(ForwardPath),
    responses((status = 200, description = "The forward", body = Forward), OfForwardId)
)]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    asker: Asker,
) -> ApiResult<Json<Forward>> {
    app.forwards.get(&id).map(|forward| Json(forward.to(&asker))).ok_or_else(not_found)
}

/// Adds a forward: 201. One that is there already is as good: 200.
#[utoipa::path(
    post,
    path = "/v1/forwards",
    tag = "forwards",
    operation_id = "addForward",
    params(TriesQuery),
    request_body = AddForward,
    responses((status = 200, description = "There is the same already", body = Forward), (status = 201, description = "It is listened", body = Forward), OfForward)
)]
pub(super) async fn add(
    State(app): State<Arc<App>>,
    Caller(client): Caller,
    asker: Asker,
    Query(query): Query<TriesQuery>,
    Body(request): Body<AddForward>,
) -> ApiResult<(StatusCode, Json<Forward>)> {
    let spec = request.spec().map_err(|error| ApiError::bad_request(error.to_string()))?;
    asker.trail.set(|line| {
        line.host = Some(request.host.clone());
        line.detail = Some(shown(&spec));
    });
    asker.trail.begin();
    if request.host == LOCAL {
        return Err(ApiError::bad_request(
            "A forward leads to a host or comes from one; this machine reaches its own ports without.",
        ));
    }
    let host = host_named(&app, request.host)?;
    let place = SessionHost::Host(host.name().clone());
    let allowed = app.guard.check_forward(spec.direction, &spec.listen);
    allowed.map_err(|why| error::denied(&place, &why))?;
    let text = format!("forward {}", shown(&spec));
    app.permit((&asker, &client), &place, &policy::Request::Forward, &text).await?;
    let added = app.forwards.add(&host, spec, None, (query.tries(), &client)).await;
    let (forward, is_new) = added.map_err(|failure| error::forward(host.name(), &failure))?;
    Ok((if is_new { StatusCode::CREATED } else { StatusCode::OK }, Json(forward)))
}

/// Takes a forward away, and the connections through it.
#[utoipa::path(
    delete,
    path = "/v1/forwards/{id}",
    tag = "forwards",
    operation_id = "removeForward",
    params(ForwardPath),
    responses((status = 204, description = "It is removed"), OfForwardId)
)]
pub(super) async fn remove(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    asker: Asker,
) -> ApiResult<StatusCode> {
    match app.forwards.remove(&id).await {
        Ok(Some(forward)) => {
            asker.trail.set(|line| line.host = Some(forward.host.to_string()));
            Ok(StatusCode::NO_CONTENT)
        }
        Ok(None) => Err(not_found()),
        Err(failure) => {
            let (status, code) = error::unsaved(&failure);
            let detail = "The forward is removed, and comes back with the next daemon";
            Err(ApiError::new(status, code, format!("{detail}: {failure}.")))
        }
    }
}

/// Returns a forward in words.
fn shown(spec: &Spec) -> String {
    let to = spec.to.as_ref().map_or_else(|| "anywhere".to_owned(), ToString::to_string);
    match spec.direction {
        Direction::Remote if spec.to.is_none() => {
            format!("{} of the host to wherever this machine connects (SOCKS)", spec.listen)
        }
        Direction::Remote => format!("{} of the host to {to} of this machine", spec.listen),
        _ => format!("{} of this machine to {to} of the host", spec.listen),
    }
}

fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, Code::ForwardNotFound, "There is no such forward.")
}
