//! Connecting, disconnecting and reconnecting a host on request.

use occ_proto::status::HostStatus;

use super::error::{self, ApiResult};
use super::extract::{Caller, Host};
use super::json::Json;

pub(super) async fn connect(
    Host(host): Host,
    Caller(client): Caller,
) -> ApiResult<Json<HostStatus>> {
    host.connect(&client).await.map_err(|e| error::unreachable(host.name(), &e))?;
    Ok(Json(host.status()))
}

pub(super) async fn disconnect(Host(host): Host) -> ApiResult<Json<HostStatus>> {
    host.disconnect().await.map_err(|e| error::unreachable(host.name(), &e))?;
    Ok(Json(host.status()))
}

pub(super) async fn reconnect(
    Host(host): Host,
    Caller(client): Caller,
) -> ApiResult<Json<HostStatus>> {
    host.reconnect(&client).await.map_err(|e| error::unreachable(host.name(), &e))?;
    Ok(Json(host.status()))
}
