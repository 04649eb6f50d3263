//! What ssh_config names: the hosts that can be taken from there.

use serde::{Deserialize, Serialize};

use crate::name::{GroupName, HostName};

/// A host that ssh_config names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct SshConfigHost {
    /// The word behind `Host`.
    pub name: String,
    /// `HostName`, when it differs from the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// `User`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// `Port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// A configured host has this name already.
    #[serde(default)]
    pub configured: bool,
    /// Why it cannot be taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unusable: Option<String>,
}

/// `GET /v1/ssh-config`: the hosts that the user's ssh_config names, patterns apart, in its order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct SshConfigHosts {
    /// The hosts.
    pub hosts: Vec<SshConfigHost>,
}

/// `POST /v1/ssh-config/import`: the hosts to take, in one go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ImportHosts {
    /// Their names in ssh_config.
    pub names: Vec<String>,
    /// Groups that each is to belong to.
    #[serde(default)]
    pub groups: Vec<GroupName>,
}

/// A host that was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct NotImported {
    /// Its name in ssh_config.
    pub name: String,
    /// Why.
    pub why: String,
}

/// What became of an import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Imported {
    /// The hosts that are configured now.
    pub added: Vec<HostName>,
    /// The others.
    pub skipped: Vec<NotImported>,
}
