//! `/v1/default-host`: the host that commands without a target go to.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use occ_proto::HostName;
use occ_proto::host::DefaultHost;

use super::App;
use super::error::{ApiError, ApiResult};
use super::extract::Body;
use super::json::Json;
use super::problems::{OfHostEdit, OfHostsFile};
use crate::policy::Asker;

/// Tells which host is meant where none is named; through a grant, its own.
#[utoipa::path(
    get,
    path = "/v1/default-host",
    tag = "hosts",
    operation_id = "showDefaultHost",
    responses((status = 200, description = "The host, or null", body = DefaultHost), OfHostsFile)
)]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    asker: Asker,
) -> ApiResult<Json<DefaultHost>> {
    if let Some(grant) = &asker.grant {
        return Ok(Json(DefaultHost { name: Some(grant.host.clone()) }));
    }
    let snapshot = app.hosts.current();
    let file = snapshot.usable().map_err(ApiError::from)?;
    Ok(Json(DefaultHost { name: file.default_host.clone() }))
}

/// Sets which host is meant where none is named.
#[utoipa::path(
    put,
    path = "/v1/default-host",
    tag = "hosts",
    operation_id = "setDefaultHost",
    request_body = DefaultHost,
    responses((status = 200, description = "It is set", body = DefaultHost), OfHostEdit)
)]
pub(super) async fn set(
    State(app): State<Arc<App>>,
    asker: Asker,
    Body(default): Body<DefaultHost>,
) -> ApiResult<Json<DefaultHost>> {
    asker.trail.set(|line| line.host = default.name.as_ref().map(ToString::to_string));
    asker.trail.begin();
    change(&app, default.name.as_ref()).await?;
    Ok(Json(default))
}

/// Has no host be meant where none is named.
#[utoipa::path(
    delete,
    path = "/v1/default-host",
    tag = "hosts",
    operation_id = "clearDefaultHost",
    responses((status = 204, description = "There is none any more"), OfHostEdit)
)]
pub(super) async fn clear(State(app): State<Arc<App>>) -> ApiResult<StatusCode> {
    change(&app, None).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn change(app: &App, name: Option<&HostName>) -> ApiResult<()> {
    app.hosts
        .update(|file| match name {
            Some(name) if !file.hosts.contains_key(name) => Err(ApiError::host_not_found(name)),
            name => {
                file.default_host = name.cloned();
                Ok(())
            }
        })
        .await
        .map_err(ApiError::from)
}
