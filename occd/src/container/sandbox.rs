//! The opencode sandbox: the container that the existing tool makes, by its name there.

use std::net::IpAddr;

use bollard::errors::Error as BollardError;
use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::InspectContainerOptions;
use jiff::Timestamp;
use occ_proto::container::{ContainerStatus, PublishedPort, SANDBOX_CONTAINER, SandboxMount};
use occ_proto::forward::Service;
use occ_proto::text::sanitize;

use super::answer::reached_at;
use super::docker::{Docker, DockerError};
use super::error::SandboxError;
use super::objects::{self, COCKPIT, SET_ASIDE, VERSION_LABEL, WEB};

/// Returns where a service of the sandbox is reached on its host.
pub fn published(sandbox: &ContainerStatus, service: Service) -> Option<(String, u16)> {
    let inside = match service {
        Service::Sandbox => WEB,
        Service::Cockpit => COCKPIT,
    };
    let port = sandbox.ports.iter().find(|port| port.container_port == inside)?;
    Some((reached_at(&port.host_ip), port.host_port))
}

/// Returns whether anything answers there.
pub fn is_running(sandbox: &ContainerStatus) -> bool {
    sandbox.state.as_deref() == Some("running")
}

/// Asks the host for the sandbox's state.
pub async fn status(docker: &Docker) -> Result<ContainerStatus, DockerError> {
    let version = version(docker).await?;
    let status = look(docker, version).await?;
    Ok(ContainerStatus { set_aside: set_aside(docker).await?, ..status })
}

/// Returns the sandbox as Docker has it.
///
/// # Errors
/// When there is none, somebody else has made the container of its name, or Docker cannot be asked.
pub async fn ours(docker: &Docker) -> Result<ContainerInspectResponse, SandboxError> {
    let client = docker.client();
    let looked = client.inspect_container(SANDBOX_CONTAINER, None::<InspectContainerOptions>).await;
    let container = looked.map_err(SandboxError::from).map_err(|error| match error {
        error if error.is_not_found() => SandboxError::NoSandbox,
        error => error,
    })?;
    objects::check_ours(&container, SANDBOX_CONTAINER)?;
    Ok(container)
}

/// Returns the name of the sandbox that a replacement has set aside, if there is one.
pub(super) async fn set_aside(docker: &Docker) -> Result<Option<String>, DockerError> {
    let inspected =
        docker.client().inspect_container(SET_ASIDE, None::<InspectContainerOptions>).await;
    match inspected {
        Ok(container) => Ok(objects::is_ours(&container).then(|| SET_ASIDE.to_owned())),
        Err(BollardError::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Asks for the engine's version.
pub(super) async fn version(docker: &Docker) -> Result<Option<String>, DockerError> {
    let version = docker.client().version().await.map_err(DockerError::from)?;
    Ok(version.version.as_deref().map(sanitize))
}

/// Asks for the sandbox's state alone.
pub(super) async fn look(
    docker: &Docker,
    docker_version: Option<String>,
) -> Result<ContainerStatus, DockerError> {
    let inspected =
        docker.client().inspect_container(SANDBOX_CONTAINER, None::<InspectContainerOptions>).await;
    match inspected {
        Ok(container) => Ok(of(container, docker_version)),
        Err(BollardError::DockerResponseServerError { status_code: 404, .. }) => {
            Ok(absent(docker_version))
        }
        Err(error) => Err(error.into()),
    }
}

/// Returns the state of a sandbox that is not there.
pub(super) fn absent(docker_version: Option<String>) -> ContainerStatus {
    ContainerStatus {
        exists: false,
        state: None,
        health: None,
        started_at: None,
        image: None,
        image_id: None,
        image_version: None,
        id: None,
        ports: Vec::new(),
        mounts: Vec::new(),
        exposed: false,
        url: None,
        disk: None,
        exit_code: None,
        foreign: false,
        set_aside: None,
        docker_version,
        as_of: Timestamp::now(),
        stale: false,
    }
}

pub(super) fn of(
    container: ContainerInspectResponse,
    docker_version: Option<String>,
) -> ContainerStatus {
    let foreign = !objects::is_ours(&container);
    let state = container.state.unwrap_or_default();
    let config = container.config.unwrap_or_default();
    let running = state.running.unwrap_or(false);
    let ports = container.network_settings.and_then(|network| network.ports).unwrap_or_default();
    let mut ports: Vec<PublishedPort> = ports
        .into_iter()
        .flat_map(|(container_port, bindings)| {
            bindings.unwrap_or_default().into_iter().filter_map(move |binding| {
                Some(PublishedPort {
                    container_port: sanitize(&container_port),
                    host_ip: sanitize(&binding.host_ip.unwrap_or_default()),
                    host_port: binding.host_port?.parse().ok()?,
                })
            })
        })
        .collect();
    let exposed = ports
        .iter()
        .any(|port| port.host_ip.parse::<IpAddr>().is_ok_and(|address| !address.is_loopback()));
    let mounts = container.mounts.unwrap_or_default().into_iter().map(|mount| SandboxMount {
        kind: mount.typ.map(|kind| kind.to_string()).unwrap_or_default(),
        source: sanitize(&mount.name.or(mount.source).unwrap_or_default()),
        target: sanitize(&mount.destination.unwrap_or_default()),
        read_only: mount.rw == Some(false),
    });
    let mut mounts: Vec<SandboxMount> = mounts.collect();
    mounts.sort_by(|a, b| (&a.kind, &a.target).cmp(&(&b.kind, &b.target)));
    ports.sort_by(|a, b| (&a.container_port, &a.host_ip).cmp(&(&b.container_port, &b.host_ip)));
    ContainerStatus {
        exists: true,
        state: state.status.map(|status| sanitize(status.as_ref())),
        health: state
            .health
            .and_then(|health| health.status)
            .map(|status| sanitize(status.as_ref()))
            .filter(|status| !status.is_empty() && status != "none"),
        started_at: state.started_at.and_then(|at| at.to_string().parse().ok()).filter(|_| running),
        image: config.image.as_deref().map(sanitize),
        image_id: container.image.as_deref().map(sanitize),
        image_version: config
            .labels
            .and_then(|labels| labels.get(VERSION_LABEL).map(|version| sanitize(version))),
        id: container.id.as_deref().map(sanitize),
        ports,
        mounts,
        exposed,
        url: None,
        disk: None,
        exit_code: state.exit_code.filter(|_| !running),
        foreign,
        set_aside: None,
        docker_version,
        as_of: Timestamp::now(),
        stale: false,
    }
}
