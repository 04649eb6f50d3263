//! Installing Docker on a host: what it takes there, and doing it.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use occ_proto::docker_setup::{DockerSetup, InstallDocker};
use occ_proto::operation::{Operation, OperationKind};

use super::App;
use super::error::{self, ApiResult};
use super::extract::{Caller, Host, OptionalBody};
use super::json::Json;
use super::params::HostPath;
use super::problems::OfSandbox;
use super::sandbox;
use crate::container::{self, Engine, InstallError, Root, Running, SandboxError};
use crate::host::Tries;
use crate::policy::Asker;

/// Tells which commands it takes for Docker to answer there. Nothing is changed.
#[utoipa::path(
    get,
    path = "/v1/hosts/{host}/docker-setup",
    tag = "docker",
    operation_id = "showDockerSetup",
    params(HostPath),
    responses((status = 200, description = "The commands, or the version of the Docker that answers", body = DockerSetup), OfSandbox)
)]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    Host(host): Host,
    Caller(client): Caller,
) -> ApiResult<Json<DockerSetup>> {
    // What it takes is known when the installation has ended, and nobody confirms for nothing.
    let engine = Engine::Host(host.clone());
    let installs = |other: &Arc<Running>| other.kind == OperationKind::InstallDocker;
    if let Some(other) = app.operations.at_work(&engine).filter(installs) {
        return Err(sandbox::busy(&engine, &other));
    }
    let plan = container::plan_install(&host, &client).await;
    let plan = plan.map_err(|failure| error::sandbox(Some(host.name()), &failure))?;
    Ok(Json(plan.setup().clone()))
}

/// Asks for sudo's password as long as the client is there, and begins the operation.
#[utoipa::path(
    post,
    path = "/v1/hosts/{host}/docker-setup",
    tag = "docker",
    operation_id = "installDocker",
    params(HostPath),
    request_body = Option<InstallDocker>,
    responses((status = 202, description = "It has begun", body = Operation), OfSandbox)
)]
pub(super) async fn install(
    State(app): State<Arc<App>>,
    Host(host): Host,
    Caller(client): Caller,
    asker: Asker,
    OptionalBody(request): OptionalBody<InstallDocker>,
) -> ApiResult<(StatusCode, Json<Operation>)> {
    let failed = |failure: SandboxError| error::sandbox(Some(host.name()), &failure);
    let engine = Engine::Host(host.clone());
    // Nobody types a password for nothing.
    if let Some(other) = app.operations.at_work(&engine) {
        return Err(sandbox::busy(&engine, &other));
    }
    let plan = container::plan_install(&host, &client).await.map_err(failed)?;
    if request.digest.is_some_and(|digest| digest != plan.setup().digest) {
        return Err(failed(InstallError::PlanChanged.into()));
    }
    let prompts = &app.pool.context().dial.prompts;
    let root = Root::obtain(&host, &plan, prompts, &client).await.map_err(failed)?;
    let work = {
        let (host, client) = (host.clone(), client.clone());
        move |_, progress| container::install_docker(host, plan, root, client, progress)
    };
    let by = (Tries::default(), &client, &asker.trail);
    sandbox::begin(&app, &engine, OperationKind::InstallDocker, by, work).await
}
