//! The sandbox container's state on the wire.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::name::HostName;

/// The container's name, shared with the existing opencode-cloud tool.
pub const SANDBOX_CONTAINER: &str = "opencode-cloud-sandbox";

/// `GET /v1/hosts/{host}/container`, from memory where that is up to date, or with `?fresh=true` from the host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
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
    /// What of the host is mounted, and the volumes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<SandboxMount>,
    /// Whether it has an address of the host's network, and not of the host alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exposed: bool,
    /// Where it answers on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The exit code of a container that has ended.
    pub exit_code: Option<i64>,
    /// What it takes on disk, which is looked at now and then only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskUse>,
    /// The container of that name was made by neither this tool nor the existing one, and is left alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub foreign: bool,
    /// An update was cut short, and nobody is at work on it: what the sandbox from before it is called. The next
    /// operation finishes or undoes the update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_aside: Option<String>,
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
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct DockerSocketPath {
    /// The host; absent for this machine's own engine, of which it is the socket itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
    /// The Unix socket's path, for `DOCKER_HOST=unix://PATH`.
    pub path: String,
}

/// A container's port that is published on its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct PublishedPort {
    /// The port inside, such as `3000/tcp`.
    pub container_port: String,
    /// The address it is bound to on the host.
    pub host_ip: String,
    /// The port on the host.
    pub host_port: u16,
}

/// What a sandbox takes on its host's disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct DiskUse {
    /// What it has written outside its volumes.
    pub container: u64,
    /// Its image.
    pub image: u64,
    /// Its volumes.
    pub volumes: u64,
    /// When this was true. Docker tells of no change.
    pub as_of: Timestamp,
}

/// What is mounted into a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct SandboxMount {
    /// `bind` for a path of the host, `volume` for a volume.
    pub kind: String,
    /// The path on the host, or the volume's name.
    pub source: String,
    /// The path inside.
    pub target: String,
    /// Whether it cannot be written to.
    pub read_only: bool,
}

/// `GET /v1/hosts/{host}/container/spec`: how a sandbox is made, for comparing it with another's. No secrets, and none
/// of its data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct SandboxSpec {
    /// The image's name.
    pub image: String,
    /// The image's identifier.
    pub image_id: String,
    /// Its own variables; without a value where that is a secret, by its name.
    pub env: BTreeMap<String, Option<String>>,
    /// Published ports: the port inside, and where it is on the host.
    pub ports: BTreeMap<String, String>,
    /// What of the host is mounted, and the volumes.
    pub mounts: Vec<SandboxMount>,
    /// Docker's word for when it is started again: `no`, `always`, `unless-stopped`, `on-failure`.
    pub restart: String,
    /// Whether it may do what the host's root may.
    pub privileged: bool,
}

/// `POST /v1/hosts/{host}/container/sync`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SyncRequest {
    /// The host whose sandbox is the model; `local` for this machine's.
    pub from: String,
}

/// `POST /v1/hosts/{host}/container/start`. What is absent is as the settings have it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct StartRequest {
    /// The port on the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// More mounts: `/host/path:/path/inside`, and `:ro` behind it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<String>,
    /// Nothing of the host is mounted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_mounts: bool,
    /// Pull the image even if there is one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pull: bool,
    /// Replace a sandbox that was made otherwise.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub yes: bool,
}

/// `POST /v1/hosts/{host}/container/stop`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct StopRequest {
    /// How long it has to end by itself, in seconds; 30 unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u32>,
    /// Remove the container, not its volumes.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub remove: bool,
}

/// `POST /v1/hosts/{host}/container/update`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct UpdateRequest {
    /// Back to the image from before the last update.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub rollback: bool,
}

/// A line of `GET /v1/hosts/{host}/container/logs`, which answers with one per line.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct LogLine {
    /// Whether the program wrote it to its standard error.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stderr: bool,
    /// When, as Docker has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// The text without its end; bytes that are not UTF-8 are replaced.
    #[serde(default)]
    pub text: String,
    /// Instead of a line: why there are no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Box<crate::Problem>>,
}

/// `GET /v1/hosts/{host}/container/password`: the first login to a new sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct OneTimePassword {
    /// The password, as long as nobody has used it.
    #[serde(default)]
    pub password: Option<crate::Secret>,
}
