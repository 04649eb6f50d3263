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

pub(super) async fn show(State(app): State<Arc<App>>) -> ApiResult<Json<DefaultHost>> {
    let snapshot = app.hosts.refresh().await;
    let file = snapshot.usable().map_err(ApiError::from)?;
    Ok(Json(DefaultHost { name: file.default_host.clone() }))
}

pub(super) async fn set(
    State(app): State<Arc<App>>,
    Body(default): Body<DefaultHost>,
) -> ApiResult<Json<DefaultHost>> {
    change(&app, default.name.as_ref()).await?;
    Ok(Json(default))
}

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
