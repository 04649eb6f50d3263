//! Connecting, disconnecting and reconnecting a host on request.

use std::sync::Arc;

use axum::extract::State;
use occ_proto::status::HostStatus;
use serde::Deserialize;

use super::App;
use super::error::{self, ApiError, ApiResult};
use super::extract::{Caller, Host, Query};
use super::json::Json;
use super::params::HostPath;
use super::problems::{OfDial, OfState};
use crate::host::Tries;

/// How hard a host that is down is tried for a request.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct TriesQuery {
    /// How many times to dial again.
    retries: Option<u32>,
    /// In place of that: how many milliseconds to wait for it.
    wait_ms: Option<u64>,
}

impl TriesQuery {
    /// Returns what is asked for.
    pub(super) fn tries(&self) -> Tries {
        Tries::of(self.retries, self.wait_ms)
    }
}

/// Connects a host.
#[utoipa::path(
    post,
    path = "/v1/hosts/{host}/connect",
    tag = "links",
    operation_id = "connect",
    params(HostPath, TriesQuery),
    responses((status = 200, description = "It is connected", body = HostStatus), OfDial)
)]
pub(super) async fn connect(
    State(app): State<Arc<App>>,
    Host(host): Host,
    Caller(client): Caller,
    Query(query): Query<TriesQuery>,
) -> ApiResult<Json<HostStatus>> {
    let connected = host.connect(query.tries(), &client).await;
    // Whoever uses it is as well served by a daemon that will not connect it by itself.
    let _ = app.used.write(&app.pool);
    connected.map_err(|e| error::unreachable(host.name(), &e))?;
    Ok(Json(host.status()))
}

/// Closes the connection of a host, which stays so until somebody connects it.
#[utoipa::path(
    post,
    path = "/v1/hosts/{host}/disconnect",
    tag = "links",
    operation_id = "disconnect",
    params(HostPath),
    responses((status = 200, description = "It is disconnected", body = HostStatus), OfDial, OfState)
)]
pub(super) async fn disconnect(
    State(app): State<Arc<App>>,
    Host(host): Host,
) -> ApiResult<Json<HostStatus>> {
    host.disconnect().await.map_err(|e| error::unreachable(host.name(), &e))?;
    app.used.write(&app.pool).map_err(|failure| {
        let (status, code) = error::unsaved(&failure);
        let detail = "The host is disconnected, and the next daemon may connect it again";
        ApiError::new(status, code, format!("{detail}: {failure}.")).host(host.name())
    })?;
    Ok(Json(host.status()))
}

/// Connects a host anew.
#[utoipa::path(
    post,
    path = "/v1/hosts/{host}/reconnect",
    tag = "links",
    operation_id = "reconnect",
    params(HostPath, TriesQuery),
    responses((status = 200, description = "It is connected", body = HostStatus), OfDial)
)]
pub(super) async fn reconnect(
    State(app): State<Arc<App>>,
    Host(host): Host,
    Caller(client): Caller,
    Query(query): Query<TriesQuery>,
) -> ApiResult<Json<HostStatus>> {
    let connected = host.reconnect(query.tries(), &client).await;
    // Whoever uses it is as well served by a daemon that will not connect it by itself.
    let _ = app.used.write(&app.pool);
    connected.map_err(|e| error::unreachable(host.name(), &e))?;
    Ok(Json(host.status()))
}
