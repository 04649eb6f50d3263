//! The Docker Engine's HTTP API over a channel to the remote socket.
//!
//! Docker gets no TCP port on either side. Where the server does not open a socket that this user may
//! open, `docker system dial-stdio` carries the same bytes over a command.

use std::path::PathBuf;
use std::sync::Arc;

use bollard::errors::Error as BollardError;
use bollard::{API_DEFAULT_VERSION, BollardRequest};
use occ_proto::status::RemoteSystem;
use tokio_util::task::TaskTracker;

use super::transport::Transport;
use super::way::Way;
use crate::ssh::Connection;

/// How long Docker may take to answer one request, in seconds.
const TIMEOUT: u64 = 30;

/// Why Docker cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// No socket was found on the host.
    #[error("there is no Docker on this host")]
    Missing,
    /// The host was asked nothing: it runs no command of ours.
    #[error(
        "whether there is Docker is not known: the host was not asked, or runs no command of occd's"
    )]
    Untold,
    /// The socket is there and this user may not open it.
    #[error("permission denied on {0}")]
    Permission(String),
    /// The socket is there and nobody answers.
    #[error("the Docker daemon does not answer on {path}")]
    Down {
        /// The socket.
        path: String,
        /// What was said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The connection broke.
    #[error("the connection to the host was lost")]
    Lost,
    /// Docker answered with an error, or not with HTTP.
    #[error("Docker answered with an error")]
    Api(#[source] BollardError),
}

/// A client of one host's Docker Engine.
#[derive(Debug)]
pub struct Docker {
    client: bollard::Docker,
}

impl Docker {
    /// Opens a channel to the host's Docker Engine and agrees on an API version. `socket` is the one
    /// set for the host; otherwise the probe's finding is used.
    pub async fn connect(
        connection: &Arc<Connection>,
        socket: Option<&str>,
    ) -> Result<Self, DockerError> {
        Self::over(Way::to_host(connection, socket).await?).await
    }

    /// The same with a socket of this machine; its tasks belong to the tracker.
    pub async fn connect_local(path: PathBuf, tasks: TaskTracker) -> Result<Self, DockerError> {
        Self::over(Way::Local { path, tasks }).await
    }

    async fn over(way: Way) -> Result<Self, DockerError> {
        let path = way.path();
        let mut opened = way.open().await?;
        let refusal = opened.refusal.take();
        let transport = Transport::new(way, opened).await.map_err(DockerError::Api)?;
        let requests = Arc::clone(&transport);
        let client = bollard::Docker::connect_with_custom_transport(
            move |request: BollardRequest| {
                let requests = Arc::clone(&requests);
                Box::pin(async move { requests.send(request).await })
            },
            Some("http://docker"),
            TIMEOUT,
            API_DEFAULT_VERSION,
        )
        .map_err(DockerError::Api)?;
        match client.negotiate_version().await {
            Ok(client) => Ok(Self { client }),
            Err(error @ BollardError::DockerResponseServerError { .. }) => {
                Err(DockerError::Api(error))
            }
            Err(_) if transport.is_closed() => Err(DockerError::Lost),
            Err(error) => match refusal {
                // The docker program ended without a word of HTTP.
                Some(source) => Err(DockerError::Down { path, source: source.into() }),
                None => Err(DockerError::Api(error)),
            },
        }
    }

    /// Returns the API client.
    pub fn client(&self) -> &bollard::Docker {
        &self.client
    }
}

/// Returns the socket to use: the one set, else the first usable one found.
pub(super) fn choose(set: Option<&str>, system: &RemoteSystem) -> Result<String, DockerError> {
    if let Some(set) = set {
        return Ok(set.to_owned());
    }
    let sockets = &system.docker_sockets;
    match sockets.iter().find(|socket| socket.usable).or_else(|| sockets.first()) {
        Some(socket) if socket.usable => Ok(socket.path.clone()),
        Some(socket) => Err(DockerError::Permission(socket.path.clone())),
        // A host that runs none of our commands has said nothing of it.
        None if system.shell.is_empty() => Err(DockerError::Untold),
        None => Err(DockerError::Missing),
    }
}

#[cfg(test)]
mod tests {
    use occ_proto::status::DockerSocket;

    use super::*;

    #[test]
    fn what_a_host_did_not_say_is_not_known() {
        let silent = RemoteSystem::default();
        assert!(matches!(choose(None, &silent), Err(DockerError::Untold)));
    }

    fn system(sockets: &[(&str, bool)]) -> RemoteSystem {
        let docker_sockets = sockets
            .iter()
            .map(|(path, usable)| DockerSocket { path: (*path).into(), usable: *usable })
            .collect();
        RemoteSystem { docker_sockets, shell: "/bin/sh".into(), ..RemoteSystem::default() }
    }

    #[test]
    fn the_first_usable_socket_is_used_and_a_denied_one_is_named() {
        let two = system(&[("/var/run/docker.sock", false), ("/run/user/1/docker.sock", true)]);
        assert_eq!(choose(None, &two).unwrap(), "/run/user/1/docker.sock");
        assert_eq!(choose(Some("/x"), &two).unwrap(), "/x");
        let denied = system(&[("/var/run/docker.sock", false)]);
        assert!(
            matches!(choose(None, &denied), Err(DockerError::Permission(path)) if path == "/var/run/docker.sock")
        );
        assert!(matches!(choose(None, &system(&[])), Err(DockerError::Missing)));
    }
}
