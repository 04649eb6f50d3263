//! `/v1/hosts/{host}/policy`: what may be done there, and what would be said to something.

use std::sync::Arc;

use axum::extract::State;
use occ_proto::policy::{Capability, PolicyCheck, PolicyVerdict, PolicyView};

use super::App;
use super::error::{ApiError, ApiResult};
use super::extract::{Body, ExecutorOf};
use super::json::Json;
use super::params::PlacePath;
use super::permit::{Line, place_of};
use super::problems::OfHost;
use crate::policy::{Asker, Request};

/// Shows what may be done on a host.
#[utoipa::path(
    get,
    path = "/v1/hosts/{host}/policy",
    tag = "policy",
    operation_id = "showPolicy",
    params(PlacePath),
    responses((status = 200, description = "The policy", body = PolicyView), OfHost)
)]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    ExecutorOf(executor): ExecutorOf,
    asker: Asker,
) -> Json<PolicyView> {
    Json(app.guard.view(&asker, place_of(&executor)))
}

/// Tells what the policy would say to something, and which rule. Nothing is done.
#[utoipa::path(
    post,
    path = "/v1/hosts/{host}/policy/check",
    tag = "policy",
    operation_id = "checkPolicy",
    params(PlacePath),
    request_body = PolicyCheck,
    responses((status = 200, description = "What it would say", body = PolicyVerdict), OfHost)
)]
pub(super) async fn check(
    State(app): State<Arc<App>>,
    ExecutorOf(executor): ExecutorOf,
    asker: Asker,
    Body(check): Body<PolicyCheck>,
) -> ApiResult<Json<PolicyVerdict>> {
    let place = place_of(&executor);
    let asker = Asker { kind: check.client.unwrap_or(asker.kind), ..asker };
    let decide = |request: &Request<'_>| app.guard.decide(&asker, &place, request);
    let decision = match check.what.unwrap_or(Capability::Exec) {
        Capability::Read => decide(&Request::Read),
        Capability::Write => decide(&Request::Write),
        Capability::Docker => decide(&Request::Docker),
        Capability::Forward => decide(&Request::Forward),
        Capability::Exec if check.argv.is_empty() && check.shell.is_none() => {
            return Err(ApiError::bad_request("argv is empty; name a program, or use shell."));
        }
        Capability::Exec if !check.argv.is_empty() && check.shell.is_some() => {
            return Err(ApiError::bad_request("argv and shell exclude each other."));
        }
        Capability::Exec => {
            let line = Line { argv: &check.argv, shell: check.shell.as_deref(), env: &check.env };
            line.with(decide)
        }
    };
    Ok(Json(PolicyVerdict { action: decision.action, why: decision.why }))
}
