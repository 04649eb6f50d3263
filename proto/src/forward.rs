//! Forwards: ports and sockets of this machine that lead to hosts, and of hosts that lead here.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::HostName;

mod spec;

pub use spec::{InvalidSpec, Spec};

/// What is behind a forward that occ made by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Service {
    /// The sandbox's web port.
    Sandbox,
    /// The sandbox's cockpit.
    Cockpit,
}

/// Which way a forward leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// This machine listens, the host connects (`ssh -L`).
    Local,
    /// The host listens, this machine connects (`ssh -R`).
    Remote,
    /// This machine listens and speaks SOCKS, the host connects where it is told to (`ssh -D`).
    Dynamic,
}

impl Direction {
    /// Returns the option of ssh and occ for it.
    pub fn option(self) -> &'static str {
        match self {
            Self::Local => "-L",
            Self::Remote => "-R",
            Self::Dynamic => "-D",
        }
    }
}

/// What is listened on or connected to: `HOST:PORT`, an IPv6 address in brackets, or the path of a Unix socket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Endpoint {
    /// TCP.
    Tcp {
        /// A name or an address; `*` stands for all addresses of a listener.
        host: String,
        /// The port; 0 has a listener take one that is free.
        port: u16,
    },
    /// A Unix socket.
    Unix {
        /// Its absolute path.
        path: String,
    },
}

impl Endpoint {
    /// Returns the port of a TCP endpoint.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp { port, .. } => Some(*port),
            Self::Unix { .. } => None,
        }
    }

    /// Returns whether others than this machine's users reach what listens there.
    pub fn is_public(&self) -> bool {
        match self {
            Self::Unix { .. } => false,
            Self::Tcp { host, .. } if host == "localhost" => false,
            Self::Tcp { host, .. } => {
                host.parse::<std::net::IpAddr>().map_or(true, |address| !address.is_loopback())
            }
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix { path } => f.write_str(path),
        }
    }
}

impl FromStr for Endpoint {
    type Err = InvalidSpec;

    fn from_str(text: &str) -> Result<Self, InvalidSpec> {
        spec::endpoint(text)
    }
}

impl TryFrom<String> for Endpoint {
    type Error = InvalidSpec;

    fn try_from(text: String) -> Result<Self, InvalidSpec> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

/// How a forward is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ForwardState {
    /// It can be used.
    Listening,
    /// The host is not connected. A port of this machine takes clients all the same, and has the host dialled.
    Waiting,
    /// It cannot be used: its port is taken, or the server forbids it. It is tried again by itself.
    Refused,
    /// A state of a newer daemon.
    #[serde(other)]
    Unknown,
}

impl ForwardState {
    /// Returns the word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Listening => "listening",
            Self::Waiting => "waiting",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
        }
    }
}

/// A forward: an entry of `GET /v1/forwards`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Forward {
    /// Its ID.
    pub id: String,
    /// The host.
    pub host: HostName,
    /// Which way it leads.
    pub direction: Direction,
    /// What is listened on, by this machine or by the host.
    pub listen: Endpoint,
    /// Where it leads; absent where the client says that (SOCKS).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Endpoint>,
    /// What is behind it, where occ made it by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Service>,
    /// The ID of the session whose program printed its URL, where that is why it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// How it is.
    pub state: ForwardState,
    /// Why it cannot be used, or why the last connection through it failed.
    pub last_error: Option<String>,
    /// Connections through it that are open now.
    pub connections: u64,
    /// All that there were since the daemon started.
    pub connections_total: u64,
    /// Bytes from the host.
    pub bytes_in: u64,
    /// Bytes to the host.
    pub bytes_out: u64,
}

/// `GET /v1/forwards`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ForwardList {
    /// The forwards.
    pub forwards: Vec<Forward>,
    /// The port on 127.0.0.1 where `http://NAME.localhost` leads to the sandbox of the host NAME.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_name_port: Option<u16>,
}

/// `POST /v1/forwards`: exactly one of `local`, `remote` and `dynamic`, in the syntax of ssh's options of these names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AddForward {
    /// The host.
    pub host: String,
    /// As for `ssh -L`, such as `8080:localhost:80`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
    /// As for `ssh -R`; a port alone speaks SOCKS to programs of the host, and this machine connects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// As for `ssh -D`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dynamic: Option<String>,
    /// Others than this machine's (for `remote`, the host's) own users may connect. Without an address to listen on, it
    /// is then all of them.
    #[serde(default)]
    pub public: bool,
}

impl AddForward {
    /// Returns what is asked for.
    ///
    /// # Errors
    /// When it is not exactly one, is malformed, or would be public and was not asked to be.
    pub fn spec(&self) -> Result<Spec, InvalidSpec> {
        let given = [
            (Direction::Local, &self.local),
            (Direction::Remote, &self.remote),
            (Direction::Dynamic, &self.dynamic),
        ];
        let mut given = given.into_iter().filter_map(|(way, text)| Some((way, text.as_ref()?)));
        match (given.next(), given.next()) {
            (Some((way, text)), None) => Spec::parse(way, text, self.public),
            _ => Err(InvalidSpec::one()),
        }
    }
}
