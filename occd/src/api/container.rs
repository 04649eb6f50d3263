//! The sandbox container of a host.

use std::sync::Arc;

use axum::extract::State;
use occ_proto::container::ContainerStatus;
use serde::Deserialize;

use super::App;
use super::error::{self, ApiResult};
use super::extract::{Caller, Host, Query};
use super::json::Json;
use crate::container::{self, Docker};
use crate::host::Tries;

#[derive(Debug, Deserialize)]
pub(super) struct ShowQuery {
    /// Ask the host, whatever is known.
    #[serde(default)]
    fresh: bool,
}

pub(super) async fn show(
    State(app): State<Arc<App>>,
    Query(query): Query<ShowQuery>,
    Host(host): Host,
    Caller(client): Caller,
) -> ApiResult<Json<ContainerStatus>> {
    if !query.fresh
        && let Some(status) = app.sandboxes.known(host.name()).status()
    {
        return Ok(Json(status));
    }
    let connection = host
        .connection(Tries::default(), &client)
        .await
        .map_err(|e| error::unreachable(host.name(), &e))?;
    let socket = app.settings(host.name()).docker_socket;
    let docker = Docker::connect(&connection, socket.as_deref())
        .await
        .map_err(|e| error::docker(host.name(), &e))?;
    let status = container::status(&docker).await.map_err(|e| error::docker(host.name(), &e))?;
    Ok(Json(status))
}
