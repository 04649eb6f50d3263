//! The Docker Engine's HTTP API over a channel to the remote socket.
//!
//! Docker gets no TCP port on either side. Where the server does not open a socket that this user may
//! open, `docker system dial-stdio` carries the same bytes over a command.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bollard::errors::Error as BollardError;
use bollard::{API_DEFAULT_VERSION, BollardRequest, ClientVersion};
use http_body_util::{BodyExt as _, Limited};
use occ_proto::status::RemoteSystem;
use tokio_util::task::TaskTracker;

use super::transport::Transport;
use super::way::Way;
use crate::host::HostHandle;
use crate::ssh::Connection;

/// How long Docker may take to answer one request, in seconds.
const TIMEOUT: u64 = 30;

/// How long what a host has said of itself is good enough for who stands by. There are many such hosts after a start, and
/// most of them have no Docker.
const JUST_ASKED: Duration = Duration::from_secs(1);
/// The largest answer that is read whole, in bytes.
const LARGEST: usize = 64 * 1024 * 1024;
/// The oldest version of the API that is spoken: Docker 20.10's. Older ones lack what a sandbox needs.
const OLDEST: ClientVersion = ClientVersion { major_version: 1, minor_version: 41 };

/// What stands before the group that a socket is open to, see [`crate::ssh::whose`].
const OF_GROUP: &str = "(of the group ";

/// Why Docker cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// No socket was found on the host.
    #[error("there is no Docker on this host")]
    Missing,
    /// The socket that is set is not there.
    #[error(
        "the Docker daemon does not answer: docker_socket in occd.toml names {0}, which is not there"
    )]
    NotThere(String),
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
    /// An engine that is too old.
    #[error(
        "its Docker speaks version {0} of the API, and {OLDEST} is the oldest that is understood (Docker 20.10)"
    )]
    TooOld(String),
    /// The connection broke.
    #[error("the connection to the host was lost")]
    Lost,
    /// The connection takes no more work, and another one does.
    #[error("the connection takes no new work")]
    Moved,
    /// The server opens no socket, although somebody listens on it, and there is no docker program.
    #[error(
        "the SSH server forbids forwarding of sockets (AllowStreamLocalForwarding), and there is no docker program on the host to reach {0} otherwise (docker system dial-stdio): allow the one or install the other"
    )]
    Forbidden(String),
    /// The server opens no socket, and has no session free for the docker program.
    #[error(
        "the server opens no socket for it (AllowStreamLocalForwarding), and the sessions that stand in for one are all in use (MaxSessions)"
    )]
    Crowded,
    /// It takes connections, and says nothing in all the time it has.
    #[error("the Docker daemon does not answer: it takes connections, and says nothing")]
    Hung,
    /// Docker said no.
    #[error("Docker answered with status {status}: {words}")]
    Refused {
        /// The status of HTTP.
        status: u16,
        /// What it said, as it said it.
        words: String,
    },
    /// What came was not the answer of a Docker.
    #[error("Docker did not answer as Docker does")]
    Api(#[source] BollardError),
}

impl From<BollardError> for DockerError {
    fn from(error: BollardError) -> Self {
        match error {
            BollardError::RequestTimeoutError => Self::Hung,
            BollardError::DockerResponseServerError { status_code, message } => {
                Self::Refused { status: status_code, words: message }
            }
            // It comes from the way, which is ours.
            BollardError::IOError { err } if err.get_ref().is_some_and(|e| e.is::<Self>()) => {
                match err.downcast() {
                    Ok(error) => error,
                    Err(err) => Self::Api(BollardError::IOError { err }),
                }
            }
            error => Self::Api(error),
        }
    }
}

impl DockerError {
    /// Returns it for the log, without what the other side has said.
    pub(super) fn for_log(&self) -> String {
        match self {
            Self::Refused { status, .. } => format!("Docker answered with status {status}"),
            error => error.to_string(),
        }
    }

    /// Returns whether another socket may be the engine's by now.
    fn is_of_the_socket(&self) -> bool {
        matches!(self, Self::Missing | Self::Permission(_) | Self::Down { .. })
    }

    /// Returns the group whose members may open the socket that this user may not.
    pub(super) fn group(&self) -> Option<&str> {
        let Self::Permission(whose) = self else { return None };
        whose.split_once(OF_GROUP)?.1.split([')', ';']).next()
    }

    /// Returns the one of a socket that this user may not open.
    pub(super) fn denied(path: &str, whose: Option<&str>) -> Self {
        let whose = whose.map_or_else(String::new, |whose| format!(" ({whose})"));
        Self::Permission(format!("{path}{whose}"))
    }
}

/// The body of bollard's requests, whose name it does not tell.
trait BodyOf {
    type Body;
}

impl<B> BodyOf for hyper::Request<B> {
    type Body = B;
}

/// A client of one host's Docker Engine.
pub struct Docker {
    client: bollard::Docker,
    transport: Arc<Transport<<BollardRequest as BodyOf>::Body>>,
}

impl std::fmt::Debug for Docker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Docker").field("client", &self.client).finish_non_exhaustive()
    }
}

impl Docker {
    /// Opens a channel to the host's Docker Engine and agrees on an API version. `socket` is the one
    /// set for the host; otherwise the probe's finding is used, which is asked for anew where nobody answers there. Without the host, it stands by: where sessions are
    /// few it gives up.
    pub async fn connect(
        connection: &Arc<Connection>,
        socket: Option<&str>,
        host: Option<HostHandle>,
    ) -> Result<Self, DockerError> {
        let before = connection.known_system();
        let error = match Self::to_host(connection, socket, host.clone()).await {
            Err(error) if socket.is_none() && error.is_of_the_socket() => error,
            done => return done,
        };
        // The login found the sockets of that moment: an engine may have come since, at another one.
        let sockets = |system: &RemoteSystem| system.docker_sockets.clone();
        let within = if host.is_some() { Duration::ZERO } else { JUST_ASKED };
        let now = connection.look_again(within).await;
        match now.as_deref().map(sockets) == before.as_deref().map(sockets) {
            true => Err(error),
            false => Self::to_host(connection, socket, host).await,
        }
    }

    async fn to_host(
        connection: &Arc<Connection>,
        socket: Option<&str>,
        host: Option<HostHandle>,
    ) -> Result<Self, DockerError> {
        Self::over(Way::to_host(connection, socket, host).await?).await
    }

    /// The same with a socket of this machine, which occd.toml sets or which was found; its tasks belong to the tracker.
    pub async fn connect_local(
        path: PathBuf,
        is_set: bool,
        tasks: TaskTracker,
    ) -> Result<Self, DockerError> {
        Self::over(Way::Local { path, is_set, tasks }).await
    }

    async fn over(way: Way) -> Result<Self, DockerError> {
        let path = way.path();
        let mut opened = way.open().await?;
        let refusal = opened.refusal.take();
        let stderr = opened.stream.stderr();
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
            Ok(client) => match client.client_version() {
                version if version < OLDEST => Err(DockerError::TooOld(version.to_string())),
                _ => {
                    transport.answered(refusal.as_ref());
                    Ok(Self { client, transport })
                }
            },
            Err(
                error @ (BollardError::DockerResponseServerError { .. }
                | BollardError::RequestTimeoutError),
            ) => Err(error.into()),
            Err(_) if transport.is_closed() => Err(DockerError::Lost),
            Err(error) => match refusal {
                // The docker program ended without a word of HTTP.
                Some(refusal) => {
                    let source = match stderr.last_line() {
                        Some(said) => said.into(),
                        None => refusal.into(),
                    };
                    Err(DockerError::Down { path, source })
                }
                None => Err(DockerError::Api(error)),
            },
        }
    }

    /// Asks for something that bollard knows in one version of the API only. `path` is without that version.
    pub(super) async fn get(&self, path: &str) -> Result<serde_json::Value, DockerError> {
        let version = self.client.client_version();
        let request = hyper::Request::get(format!("/v{version}{path}"))
            .body(bollard::body_full(bytes::Bytes::new()))
            .map_err(|error| DockerError::Api(BollardError::from(error)))?;
        let answer = self.transport.send(request).await.map_err(DockerError::Api)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), LARGEST).collect().await;
        let body = body
            .map_err(|error| DockerError::Api(BollardError::from(std::io::Error::other(error))))?;
        let body = body.to_bytes();
        if !status.is_success() {
            let words = String::from_utf8_lossy(&body).into_owned();
            return Err(DockerError::Refused { status: status.as_u16(), words });
        }
        serde_json::from_slice(&body).map_err(|error| DockerError::Api(error.into()))
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
        Some(socket) => Err(DockerError::denied(&socket.path, socket.whose.as_deref())),
        // A host that runs none of our commands has said nothing of it.
        None if system.shell.is_empty() => Err(DockerError::Untold),
        // Its daemon is down, and may be there later.
        None if system.docker_cli => Ok(super::engine::USUAL[0].to_owned()),
        None => Err(DockerError::Missing),
    }
}

#[cfg(test)]
mod tests {
    use occ_proto::status::DockerSocket;

    use super::*;

    #[test]
    fn no_docker_and_a_docker_that_is_down_are_two_things() {
        let mut system = system(&[]);
        assert!(matches!(choose(None, &system), Err(DockerError::Missing)));
        system.docker_cli = true;
        assert_eq!(choose(None, &system).unwrap(), "/var/run/docker.sock");
    }

    #[test]
    fn who_may_is_named() {
        let mut system = system(&[("/s", false)]);
        system.docker_sockets[0].whose = Some("of the group wheel".into());
        let error = choose(None, &system).unwrap_err();
        assert_eq!(error.to_string(), "permission denied on /s (of the group wheel)");
        assert_eq!(error.group(), Some("wheel"));
        system.docker_sockets[0].whose = Some("of the group g; the login is in docker".into());
        assert_eq!(choose(None, &system).unwrap_err().group(), Some("g"));
        system.docker_sockets[0].whose = Some("for its owner root alone".into());
        assert_eq!(choose(None, &system).unwrap_err().group(), None);
    }

    #[test]
    fn what_a_host_did_not_say_is_not_known() {
        let silent = RemoteSystem::default();
        assert!(matches!(choose(None, &silent), Err(DockerError::Untold)));
    }

    #[tokio::test]
    async fn an_engine_that_is_too_old_is_said_to_be() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("docker.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let tasks = TaskTracker::new();
        tasks.spawn(async move {
            let (mut client, _) = listener.accept().await.unwrap();
            assert!(client.read(&mut [0; 4096]).await.unwrap() > 0);
            let body = r#"{"Version":"17.03","ApiVersion":"1.26","MinAPIVersion":"1.12"}"#;
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length";
            let answer = format!("{head}: {}\r\n\r\n{body}", body.len());
            client.write_all(answer.as_bytes()).await.unwrap();
        });
        let error = Docker::connect_local(socket, true, tasks).await.unwrap_err();
        assert!(matches!(&error, DockerError::TooOld(version) if version == "1.26"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_says_nothing_is_not_one_that_answered() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("docker.sock");
        // The kernel takes the connections, and nobody ever reads from them.
        let _listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let error = Docker::connect_local(socket, true, TaskTracker::new()).await.unwrap_err();
        let said = "the Docker daemon does not answer: it takes connections, and says nothing";
        assert!(matches!(error, DockerError::Hung), "{error:?}");
        assert_eq!(error.to_string(), said);
    }

    #[test]
    fn what_docker_said_is_told_once() {
        let answer =
            BollardError::DockerResponseServerError { status_code: 500, message: "no".into() };
        let said = |error: DockerError| crate::ssh::error::chain(&error);
        assert_eq!(said(answer.into()), "Docker answered with status 500: no");
        // What the way to it met is no word of Docker's.
        let lost = BollardError::from(std::io::Error::other(DockerError::Lost));
        assert_eq!(said(lost.into()), "the connection to the host was lost");
    }

    fn system(sockets: &[(&str, bool)]) -> RemoteSystem {
        let docker_sockets = sockets
            .iter()
            .map(|(path, usable)| DockerSocket {
                path: (*path).into(),
                usable: *usable,
                whose: None,
            })
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
