//! Connecting, disconnecting and reconnecting a host on request.

use occ_proto::status::HostStatus;
use serde::Deserialize;

use super::error::{self, ApiResult};
use super::extract::{Caller, Host, Query};
use super::json::Json;
use crate::host::Tries;

#[derive(Debug, Deserialize)]
pub(super) struct ConnectQuery {
    /// How many milliseconds to wait for a host that is down, in place of four dials.
    wait_ms: Option<u64>,
}

pub(super) async fn connect(
    Host(host): Host,
    Caller(client): Caller,
    Query(query): Query<ConnectQuery>,
) -> ApiResult<Json<HostStatus>> {
    host.connect(Tries::of(None, query.wait_ms), &client)
        .await
        .map_err(|e| error::unreachable(host.name(), &e))?;
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
