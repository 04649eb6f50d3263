//! The sandbox container's state on the wire.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The container's name, shared with the existing opencode-cloud tool.
pub const SANDBOX_CONTAINER: &str = "opencode-cloud-sandbox";

/// `GET /v1/hosts/{host}/container`.
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
