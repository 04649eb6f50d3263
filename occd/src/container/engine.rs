//! Where Docker is: on a host, or on this machine.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use occ_proto::HostName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

use super::{Docker, DockerError};
use crate::host::{HostHandle, Tries, Unreachable};
use crate::prompts::Client;
use crate::ssh::ChannelError;

/// Where the sockets of engines are usually.
pub(super) const USUAL: [&str; 2] = ["/var/run/docker.sock", "/run/podman/podman.sock"];
/// The same below the user's runtime directory.
const USUAL_ROOTLESS: [&str; 2] = ["docker.sock", "podman/podman.sock"];

/// A Docker Engine: a host's, or this machine's.
#[derive(Debug, Clone)]
pub enum Engine {
    /// A host's.
    Host(HostHandle),
    /// This machine's.
    Local(Arc<LocalEngine>),
}

/// This machine's engine.
#[derive(Debug)]
pub struct LocalEngine {
    socket: PathBuf,
    /// occd.toml sets it.
    is_set: bool,
    tasks: TaskTracker,
}

/// Why an engine cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The host is not connected.
    #[error("{}", .0.error)]
    Unreachable(Unreachable),
    /// Docker cannot be asked there.
    #[error(transparent)]
    Docker(#[from] DockerError),
}

/// A byte stream to a TCP port.
pub trait TcpLike: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> TcpLike for T {}

impl LocalEngine {
    /// Returns the engine behind the socket that occd.toml sets.
    pub fn at(socket: PathBuf, tasks: TaskTracker) -> Self {
        Self { socket, is_set: true, tasks }
    }

    /// Returns its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Finds this machine's engine as the docker program does: by `DOCKER_HOST`, the current docker context, the
    /// usual places.
    pub fn find(home: &Path, tasks: TaskTracker) -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let named =
            variable("DOCKER_HOST").or_else(|| context_host(home, variable("DOCKER_CONTEXT")));
        let named = named.and_then(|host| host.strip_prefix("unix://").map(PathBuf::from));
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let rootless = runtime.iter().flat_map(|dir| USUAL_ROOTLESS.map(|name| dir.join(name)));
        let usual = USUAL.map(PathBuf::from).into_iter().chain(rootless);
        let found = named.or_else(|| usual.into_iter().find(|path| path.exists()));
        let socket = found.unwrap_or_else(|| PathBuf::from(USUAL[0]));
        Self { socket, is_set: false, tasks }
    }
}

/// Returns whether this machine has Docker, running or not.
pub(super) fn is_installed() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Where engines are may be no part of a user's path.
    let places = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/bin"].map(PathBuf::from));
    places.into_iter().any(|dir| dir.join("dockerd").exists() || dir.join("docker").exists())
}

/// Returns the endpoint of a docker context, or of the current one (`docker context inspect`).
fn context_host(home: &Path, named: Option<String>) -> Option<String> {
    use sha2::{Digest as _, Sha256};
    let config =
        std::env::var_os("DOCKER_CONFIG").map_or_else(|| home.join(".docker"), PathBuf::from);
    let read = |path: PathBuf| -> Option<serde_json::Value> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    };
    let current =
        || Some(read(config.join("config.json"))?.get("currentContext")?.as_str()?.to_owned());
    let name = named.or_else(current).filter(|name| name != "default")?;
    // Its directory is named by the digest of its name.
    let digest: String =
        Sha256::digest(name.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let meta = read(config.join("contexts/meta").join(digest).join("meta.json"))?;
    Some(meta.pointer("/Endpoints/docker/Host")?.as_str()?.to_owned())
}

impl Engine {
    /// Returns the host's name, or `local`.
    pub fn name(&self) -> &str {
        match self {
            Self::Host(host) => host.name().as_str(),
            Self::Local(_) => "local",
        }
    }

    /// Returns the host, if it is one's.
    pub fn host(&self) -> Option<&HostName> {
        match self {
            Self::Host(host) => Some(host.name()),
            Self::Local(_) => None,
        }
    }

    /// Returns whether both are the same.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Host(one), Self::Host(other)) => one.is_same(other),
            (Self::Local(one), Self::Local(other)) => one.socket == other.socket,
            _ => false,
        }
    }

    /// Returns a client of Docker there, connecting the host if need be.
    pub async fn docker(&self, tries: Tries, client: &Client) -> Result<Docker, EngineError> {
        match self {
            Self::Host(host) => {
                let connected = host.connection(tries, client).await;
                let connection = connected.map_err(EngineError::Unreachable)?;
                let socket = host.snapshot().settings.docker_socket.clone();
                Ok(Docker::connect(&connection, socket.as_deref(), Some(host.clone())).await?)
            }
            Self::Local(local) => {
                Ok(Docker::connect_local(local.socket.clone(), local.is_set, local.tasks.clone())
                    .await?)
            }
        }
    }

    /// Opens a connection to a TCP port as it is reached there.
    pub async fn tcp(&self, address: &str, port: u16) -> Result<Box<dyn TcpLike>, TcpError> {
        match self {
            Self::Host(host) => {
                let snapshot = host.snapshot();
                let connection = snapshot.usable().ok_or(TcpError::Down)?;
                match connection.direct_tcpip(address, port).await {
                    Ok(channel) => Ok(Box::new(channel.into_stream())),
                    Err(ChannelError::Prohibited) => Err(TcpError::Forbidden),
                    Err(ChannelError::Lost(_)) => Err(TcpError::Down),
                    Err(_) => Err(TcpError::Refused),
                }
            }
            Self::Local(_) => match TcpStream::connect((address, port)).await {
                Ok(stream) => Ok(Box::new(stream)),
                Err(_) => Err(TcpError::Refused),
            },
        }
    }
}

/// Why a port cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TcpError {
    /// Nobody listens there.
    #[error("nobody listens there")]
    Refused,
    /// The SSH server opens no ports for anybody (`AllowTcpForwarding no`).
    #[error("the SSH server forbids forwarding")]
    Forbidden,
    /// The host is not connected.
    #[error("the host is not connected")]
    Down,
}
