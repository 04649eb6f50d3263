//! Installing Docker on a host: `/v1/hosts/{host}/docker-setup`.
//!
//! `GET` shows what would be done; `POST` does it, as an [`Operation`](crate::operation::Operation).

use serde::{Deserialize, Serialize};

/// What has to be done on a host for Docker to answer there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct DockerSetup {
    /// The version of the engine that answers already: there is nothing to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_version: Option<String>,
    /// The family of its distribution, which decides the commands.
    pub family: Family,
    /// What the system calls itself, such as `Debian GNU/Linux 12 (bookworm)`.
    pub os: String,
    /// The login that Docker is set up for.
    pub user: String,
    /// How the commands come to be root's.
    pub sudo: Sudo,
    /// The commands in their order, as they would be typed in a shell there.
    pub commands: Vec<String>,
    /// What a person should know before it begins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Names exactly these commands, for [`InstallDocker`].
    pub digest: String,
}

/// A family of distributions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Debian, Ubuntu and what is made of them.
    Debian,
    /// Fedora, Red Hat Enterprise Linux, CentOS, Rocky, Alma, Amazon Linux.
    Rhel,
    /// Alpine.
    Alpine,
    /// Arch.
    Arch,
    /// openSUSE and SUSE Linux Enterprise.
    Suse,
    /// Another one.
    #[serde(other)]
    Unknown,
}

/// How a command comes to be root's on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Sudo {
    /// The login is root's.
    NotNeeded,
    /// `sudo` asks for nothing.
    Free,
    /// `sudo` wants the login's password.
    Password,
    /// There is none that this login may use.
    None,
    /// Something of a newer daemon.
    #[serde(other)]
    Unknown,
}

/// The body of `POST /v1/hosts/{host}/docker-setup`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct InstallDocker {
    /// The digest of what was shown. When other commands would be run by now, none is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}
