//! `/v1/grants`: sockets with a policy and an end of their own.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use occ_proto::Code;
use occ_proto::files::FileKind;
use occ_proto::policy::{Grant, GrantList, GrantRequest};

use super::App;
use super::error::{self, ApiError, ApiResult};
use super::extract::{Body, Caller, Path, host_named};
use super::files;
use super::json::Json;
use super::problems::OfGrant;
use crate::exec::Executor;
use crate::files::{FileError, Shown, checked};
use crate::grants::{GrantError, Wish};
use crate::host::{HostHandle, Tries};
use crate::policy::{Asker, check_root};
use crate::prompts::Client;

/// Lists the grants: sockets with a policy and an end of their own.
#[utoipa::path(
    get,
    path = "/v1/grants",
    tag = "policy",
    operation_id = "listGrants",
    responses((status = 200, description = "The grants", body = GrantList))
)]
pub(super) async fn list(State(app): State<Arc<App>>) -> Json<GrantList> {
    Json(GrantList { grants: app.grants.list() })
}

/// Makes a grant.
#[utoipa::path(
    post,
    path = "/v1/grants",
    tag = "policy",
    operation_id = "addGrant",
    request_body = GrantRequest,
    responses((status = 201, description = "The grant, with its socket", body = Grant), OfGrant)
)]
pub(super) async fn add(
    State(app): State<Arc<App>>,
    Caller(client): Caller,
    asker: Asker,
    Body(request): Body<GrantRequest>,
) -> ApiResult<(StatusCode, Json<Grant>)> {
    asker.trail.set(|line| {
        line.host = Some(request.host.to_string());
        line.detail = serde_json::to_string(&request).ok();
    });
    asker.trail.begin();
    let host = host_named(&app, request.host.to_string())?;
    let mut request = request;
    if let Some(root) = &mut request.root {
        check_root(root).map_err(|why| problem(&GrantError::Bad(why)))?;
        *root = resolved(&app, &host, root, &client).await?;
    }
    let GrantRequest { host: _, allow, ttl_ms, root, name, any_uid } = request;
    let lasts = Duration::from_millis(ttl_ms);
    let wish = Wish { host: host.name().clone(), allow, lasts, root, name, any_uid };
    let made = app.grants.add(wish, &super::service(Arc::clone(&app)));
    if let Ok(grant) = &made {
        asker.trail.set(|line| line.detail = Some(format!("grant {}", grant.name)));
    }
    made.map(|grant| (StatusCode::CREATED, Json(grant))).map_err(|error| problem(&error))
}

/// Revokes a grant; what is open through it ends.
#[utoipa::path(
    delete,
    path = "/v1/grants/{name}",
    tag = "policy",
    operation_id = "revokeGrant",
    params(("name" = String, Path, description = "The name of the grant")),
    responses((status = 204, description = "It is revoked"), OfGrant)
)]
pub(super) async fn revoke(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    asker: Asker,
) -> ApiResult<StatusCode> {
    let host = app.grants.list().into_iter().find(|grant| grant.name == name);
    asker.trail.set(|line| line.host = host.map(|grant| grant.host.to_string()));
    asker.trail.begin();
    app.grants.revoke(&name).map_err(|error| problem(&error))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Returns a root as the host resolves it, so that nobody leads it elsewhere later; refuses one that the host does not have:
/// behind it there would be nothing.
async fn resolved(app: &App, host: &HostHandle, root: &str, client: &Client) -> ApiResult<String> {
    let executor = Executor::Host(host.clone());
    let failed = |error| files::problem(&executor, &error);
    let path = checked(root.as_bytes()).map_err(failed)?;
    let fs = app.files.of(&executor, Tries::default(), client).await.map_err(failed)?;
    let attrs = fs.stat(&path, true).await.map_err(failed)?;
    if attrs.kind != FileKind::Directory {
        return Err(failed(FileError::NotDirectory(Shown::of(&path))));
    }
    let real = fs.real_path(&path).await.map_err(failed)?;
    String::from_utf8(real).map_err(|_| {
        problem(&GrantError::Bad("a root has to lead to a name that is UTF-8".to_owned()))
    })
}

fn problem(error: &GrantError) -> ApiError {
    let (status, code) = match error {
        GrantError::Bad(_) => (StatusCode::BAD_REQUEST, Code::BadRequest),
        GrantError::Taken(_) => (StatusCode::CONFLICT, Code::GrantExists),
        GrantError::Unknown(_) => (StatusCode::NOT_FOUND, Code::GrantNotFound),
        GrantError::Io { source, .. } => error::unsaved(source),
    };
    ApiError::new(status, code, format!("{}.", crate::ssh::error::chain(error)))
}
