//! The sandbox container's state on the wire.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::name::HostName;

/// The container's name, shared with the existing opencode-cloud tool.
pub const SANDBOX_CONTAINER: &str = "opencode-cloud-sandbox";

/// `GET /v1/hosts/{host}/container`, from memory where that is up to date, or with `?fresh=true` from the host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Whether the sandbox container exists.
    pub exists: bool,
    /// Docker's word for its state: `running`, `exited`, `created`, `paused`, …
    pub state: Option<String>,
    /// Docker's health word, where the image has a health check.
    pub health: Option<String>,
    /// When it was started last.
    pub started_at: Option<Timestamp>,
    /// The image it was made from, by name.
    pub image: Option<String>,
    /// The image's identifier.
    pub image_id: Option<String>,
    /// The image's `org.opencode-cloud.version` label.
    pub image_version: Option<String>,
    /// The container's identifier.
    pub id: Option<String>,
    /// Published ports.
    #[serde(default)]
    pub ports: Vec<PublishedPort>,
    /// The exit code of a container that has ended.
    pub exit_code: Option<i64>,
    /// The Docker Engine's version.
    pub docker_version: Option<String>,
    /// When this was true.
    pub as_of: Timestamp,
    /// Whether it may be otherwise by now: nothing has been heard of it since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
}

/// `GET`, `PUT /v1/hosts/{host}/docker-socket`: where the host's Docker Engine is reached on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DockerSocketPath {
    /// The host.
    pub host: HostName,
    /// The Unix socket's path, for `DOCKER_HOST=unix://PATH`.
    pub path: String,
}

/// A container's port that is published on its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// The port inside, such as `3000/tcp`.
    pub container_port: String,
    /// The address it is bound to on the host.
    pub host_ip: String,
    /// The port on the host.
    pub host_port: u16,
}
