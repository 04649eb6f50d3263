//! The sandbox container of a host, or of this machine.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use occ_proto::container::ContainerStatus;
use serde::Deserialize;
use tokio::time::timeout;

use super::App;
use super::error::ApiResult;
use super::extract::{Caller, EngineOf, Query};
use super::json::Json;
use super::params::PlacePath;
use super::problems::OfSandbox;
use super::sandbox::docker_of;
use crate::container;

/// How long a look at the disk may take.
const DISK: Duration = Duration::from_secs(5);
/// The same where nobody asked for it to be looked at anew.
const MOMENT: Duration = Duration::from_secs(1);

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ShowQuery {
    /// Ask the host, whatever is known.
    #[serde(default)]
    fresh: bool,
    /// Look at the disk, too, if that takes no more than a moment. What is known from memory has it anyway.
    #[serde(default)]
    disk: bool,
}

/// Tells the state of a host's sandbox, from memory where it is known.
#[utoipa::path(
    get,
    path = "/v1/hosts/{host}/container",
    tag = "sandbox",
    operation_id = "showSandbox",
    params(PlacePath, ShowQuery),
    responses((status = 200, description = "The sandbox", body = ContainerStatus), OfSandbox)
)]
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
    let (docker, failed) = docker_of(&engine, &client).await?;
    let mut status = container::status(&docker).await.map_err(|e| failed(e.into()))?;
    if (query.fresh || query.disk) && status.exists {
        // It takes a while where there is much, and is no reason to fail.
        let within = if query.fresh { DISK } else { MOMENT };
        let measured = timeout(within, container::disk_use(&docker)).await;
        status.disk = measured.ok().and_then(Result::ok).flatten();
    }
    Ok(Json(match engine.host() {
        Some(host) => {
            app.sandboxes.answered(host);
            app.with_url(host, status)
        }
        // Nothing has to lead there.
        None => app.with_local_url(status),
    }))
}
