//! A host's Docker socket on this machine.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use occ_proto::Code;
use occ_proto::container::DockerSocketPath;

use super::App;
use super::error::{self, ApiError, ApiResult};
use super::extract::{EngineOf, Host};
use super::json::Json;
use super::params::{HostPath, PlacePath};
use super::problems::{OfDockerSocket, OfHost};
use crate::container::Engine;

/// Tells the path of the socket of this machine that speaks to the host's Docker.
#[utoipa::path(
    get,
    path = "/v1/hosts/{host}/docker-socket",
    tag = "docker",
    operation_id = "showDockerSocket",
    params(PlacePath),
    responses((status = 200, description = "The socket", body = DockerSocketPath), OfDockerSocket)
)]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    EngineOf(engine): EngineOf,
) -> ApiResult<Json<DockerSocketPath>> {
    let host = match engine {
        Engine::Host(host) => host,
        Engine::Local(local) => {
            let path = local.socket().display().to_string();
            return Ok(Json(DockerSocketPath { host: None, path }));
        }
    };
    let path = app.docker_sockets.path(host.name());
    let none = || {
        let detail = format!("{} has no Docker socket here.", host.name());
        ApiError::new(StatusCode::NOT_FOUND, Code::NotFound, detail).host(host.name())
    };
    let path = path.ok_or_else(none)?.display().to_string();
    Ok(Json(DockerSocketPath { host: Some(host.name().clone()), path }))
}

/// Makes a socket of this machine that speaks to the host's Docker.
#[utoipa::path(
    put,
    path = "/v1/hosts/{host}/docker-socket",
    tag = "docker",
    operation_id = "openDockerSocket",
    params(HostPath),
    responses((status = 200, description = "The socket", body = DockerSocketPath), OfHost)
)]
pub(super) async fn open(
    State(app): State<Arc<App>>,
    Host(host): Host,
) -> ApiResult<Json<DockerSocketPath>> {
    let opened =
        app.docker_sockets.open(&host).map_err(|error| failed(&error).host(host.name()))?;
    // Whoever wants it will use it.
    host.glance();
    let path = opened.display().to_string();
    Ok(Json(DockerSocketPath { host: Some(host.name().clone()), path }))
}

/// Takes that socket away.
#[utoipa::path(
    delete,
    path = "/v1/hosts/{host}/docker-socket",
    tag = "docker",
    operation_id = "closeDockerSocket",
    params(HostPath),
    responses((status = 204, description = "It is gone"), OfHost)
)]
pub(super) async fn close(State(app): State<Arc<App>>, Host(host): Host) -> ApiResult<StatusCode> {
    app.docker_sockets.close(host.name()).map_err(|error| failed(&error).host(host.name()))?;
    Ok(StatusCode::NO_CONTENT)
}

fn failed(error: &std::io::Error) -> ApiError {
    let detail = format!("The Docker socket cannot be made or taken away: {error}.");
    let (status, code) = error::unsaved(error);
    ApiError::new(status, code, detail)
}
