//! The sandbox container of a host.

use occ_proto::container::ContainerStatus;

use super::error::{self, ApiResult};
use super::extract::{Caller, Host};
use super::json::Json;
use crate::container::{self, Docker};
use crate::host::Tries;

pub(super) async fn show(
    Host(host): Host,
    Caller(client): Caller,
) -> ApiResult<Json<ContainerStatus>> {
    let connection = host
        .connection(Tries::default(), &client)
        .await
        .map_err(|e| error::unreachable(host.name(), &e))?;
    let socket = host.snapshot().settings.docker_socket.clone();
    let docker = Docker::connect(&connection, socket.as_deref())
        .await
        .map_err(|e| error::docker(host.name(), &e))?;
    let status = container::status(&docker).await.map_err(|e| error::docker(host.name(), &e))?;
    Ok(Json(status))
}
