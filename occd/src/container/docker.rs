//! The Docker Engine's HTTP API over a channel to the remote socket.
//!
//! Docker gets no TCP port on either side. Where the server does not open a socket that this user may
//! open, `docker system dial-stdio` carries the same bytes over a command.

use std::sync::Arc;

use bollard::errors::Error as BollardError;
use bollard::{API_DEFAULT_VERSION, BollardRequest};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use occ_proto::exec::ExecRequest;
use occ_proto::status::RemoteSystem;
use tokio::sync::Mutex;

use crate::exec::{Command, Shell};
use crate::ssh::{Channel, ChannelError, Closed, Connection, ExitReport};

/// How long Docker may take to answer one request, in seconds.
const TIMEOUT: u64 = 30;

/// Why Docker cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// No socket was found on the host.
    #[error("there is no Docker on this host")]
    Missing,
    /// The host was asked nothing: it runs no command of ours.
    #[error("whether there is Docker is not known, because the host runs no command of occd's")]
    Untold,
    /// The socket is there and this user may not open it.
    #[error("permission denied on {0}")]
    Permission(String),
    /// The socket is there and nobody answers.
    #[error("the Docker daemon does not answer on {path}")]
    Down {
        /// The socket.
        path: String,
        /// What the server said.
        #[source]
        source: ChannelError,
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
        let system = connection.system().await.ok_or(DockerError::Lost)?;
        let path = choose(socket, &system)?;
        let Way { channel, refusal } = open(connection, &path, &system).await?;
        let (sender, http) = http1::handshake(TokioIo::new(channel.into_stream()))
            .await
            .map_err(|error| DockerError::Api(error.into()))?;
        connection.spawn(async move {
            if let Err(error) = http.with_upgrades().await {
                tracing::debug!(%error, "a Docker connection ended");
            }
        });
        let sender = Arc::new(Mutex::new(sender));
        let client = bollard::Docker::connect_with_custom_transport(
            move |request: BollardRequest| {
                let sender = Arc::clone(&sender);
                Box::pin(async move { send(&sender, request).await })
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
            Err(_) if connection.is_closed() => Err(DockerError::Lost),
            Err(error) => match refusal {
                // The docker program ended without a word of HTTP.
                Some(source) => Err(DockerError::Down { path, source }),
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
fn choose(set: Option<&str>, system: &RemoteSystem) -> Result<String, DockerError> {
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

/// The way to the engine.
struct Way {
    channel: Channel,
    /// Why the server did not open the socket, when the docker program stands in.
    refusal: Option<ChannelError>,
}

async fn open(
    connection: &Arc<Connection>,
    path: &str,
    system: &RemoteSystem,
) -> Result<Way, DockerError> {
    let source = match connection.streamlocal(path).await {
        Ok(channel) => return Ok(Way { channel, refusal: None }),
        Err(ChannelError::Lost(_)) => return Err(DockerError::Lost),
        Err(error) => error,
    };
    let down = |source| DockerError::Down { path: path.to_owned(), source };
    // The server says no more than that it did not open the socket; the host knows why.
    let look = r#"test -S "$1" || exit 3; test -r "$1" && test -w "$1" || exit 4"#;
    let looked = start(connection, system, &["sh", "-c", look, "sh", path]).await?;
    let exit = match &looked {
        Some(channel) => {
            channel.exited().await;
            channel.exit()
        }
        None => None,
    };
    match exit {
        Some(ExitReport::Status(3)) => return Err(down(source)),
        Some(ExitReport::Status(4)) => return Err(DockerError::Permission(path.to_owned())),
        _ if !system.docker_cli => return Err(down(source)),
        _ => {}
    }
    let host = format!("unix://{path}");
    match start(connection, system, &["docker", "--host", &host, "system", "dial-stdio"]).await? {
        Some(channel) => Ok(Way { channel, refusal: Some(source) }),
        None => Err(down(source)),
    }
}

/// Starts a command; `None` when the server does not run it.
async fn start(
    connection: &Arc<Connection>,
    system: &RemoteSystem,
    argv: &[&str],
) -> Result<Option<Channel>, DockerError> {
    let argv = argv.iter().map(|word| (*word).into()).collect();
    let Ok(command) = Command::new(ExecRequest { argv, ..ExecRequest::default() }) else {
        return Ok(None);
    };
    let channel = match connection.session(false).await {
        Ok((channel, _)) => channel,
        Err(ChannelError::Lost(_)) => return Err(DockerError::Lost),
        Err(_) => return Ok(None),
    };
    let asked = async {
        channel.request_exec(&command.line(Shell::of(&system.shell), None)).await?;
        channel.accepted().await
    };
    match asked.await {
        Ok(true) => Ok(Some(channel)),
        Ok(false) | Err(Closed::ByServer) => Ok(None),
        Err(Closed::Connection(_)) => Err(DockerError::Lost),
    }
}

/// Sends one request over the channel. bollard writes absolute URIs, which a Unix socket's server does
/// not expect (RFC 9112, section 3.2.1).
async fn send<B: Body + Send + 'static>(
    sender: &Mutex<http1::SendRequest<B>>,
    mut request: Request<B>,
) -> Result<Response<Incoming>, BollardError> {
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    request.headers_mut().insert(HOST, HeaderValue::from_static("docker"));
    let mut sender = sender.lock().await;
    sender.ready().await?;
    Ok(sender.send_request(request).await?)
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
