//! The sandbox container of a host, or of this machine.

use std::sync::Arc;

use axum::extract::State;
use occ_proto::container::ContainerStatus;
use serde::Deserialize;

use super::App;
use super::error::{self, ApiResult};
use super::extract::{Caller, EngineOf, Query};
use super::json::Json;
use crate::container::{self, SandboxError};
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
    EngineOf(engine): EngineOf,
    Caller(client): Caller,
) -> ApiResult<Json<ContainerStatus>> {
    if !query.fresh
        && let Some(host) = engine.host()
        && let Some(status) = app.sandboxes.known(host).status()
    {
        return Ok(Json(app.with_url(host, status)));
    }
    let failed = |failure: SandboxError| error::sandbox(engine.host(), &failure);
    let docker = engine.docker(Tries::default(), &client).await.map_err(|e| failed(e.into()))?;
    let status = container::status(&docker).await.map_err(|e| failed(e.into()))?;
    Ok(Json(match engine.host() {
        Some(host) => app.with_url(host, status),
        // Nothing has to lead there.
        None => app.with_local_url(status),
    }))
}
