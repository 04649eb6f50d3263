//! The sandbox container of a host.

use std::sync::Arc;

use axum::extract::State;
use occ_proto::container::ContainerStatus;

use super::App;
use super::error::{self, ApiResult};
use super::extract::{Caller, Host};
use super::json::Json;
use crate::container::{self, Docker};
use crate::host::Tries;

pub(super) async fn show(
    State(app): State<Arc<App>>,
    Host(host): Host,
    Caller(client): Caller,
) -> ApiResult<Json<ContainerStatus>> {
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
