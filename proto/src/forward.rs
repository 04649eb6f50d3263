//! Ports of this machine that lead to ports of hosts.

use serde::{Deserialize, Serialize};

use crate::name::HostName;

/// What is behind a forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Service {
    /// The sandbox's web port.
    Sandbox,
    /// The sandbox's cockpit.
    Cockpit,
}

/// A forward: an entry of `GET /v1/forwards`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// The host.
    pub host: HostName,
    /// What is behind it.
    pub service: Service,
    /// The address on the host, as it is reached there.
    pub address: String,
    /// The port on the host.
    pub port: u16,
    /// The port on 127.0.0.1 of this machine.
    pub local_port: u16,
    /// Whether it is listened on.
    #[serde(default)]
    pub open: bool,
}

/// `GET /v1/forwards`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardList {
    /// The forwards.
    pub forwards: Vec<Forward>,
    /// The port on 127.0.0.1 where `http://NAME.localhost` leads to the sandbox of the host NAME.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_name_port: Option<u16>,
}
