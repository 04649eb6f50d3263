//! Ports and sockets of this machine that are listened on.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use occ_proto::forward::Endpoint;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use super::owner;
use super::stream::LocalStream;
use crate::server;
use crate::socket::SocketFile;
use crate::ssh::agent::knock;

/// Clients that the system keeps until they are taken.
const BACKLOG: i32 = 1024;
/// How long a name may take to become an address.
const LOOKUP: Duration = Duration::from_secs(5);

/// What is listened on.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    /// Its name ends with it.
    Unix {
        listener: UnixListener,
        _file: SocketFile,
    },
}

impl Listener {
    /// Accepts a client; nothing when that fails, or it is none of this user's.
    pub(super) async fn accept(&self) -> Option<LocalStream> {
        match self {
            Self::Tcp(listener) => server::accept_tcp(listener).await.map(LocalStream::Tcp),
            Self::Unix { listener, .. } => server::accept(listener).await.map(LocalStream::Unix),
        }
    }
}

/// Why something cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else does.
    #[error("{listen} is taken by {by}")]
    Taken {
        /// What was to be listened on.
        listen: Endpoint,
        /// Who has it, as far as that can be told.
        by: String,
    },
    /// There is something of that name.
    #[error("{0} exists and is no socket")]
    NoSocket(PathBuf),
    /// The system does not want it.
    #[error("{listen} cannot be listened on")]
    Io {
        /// What was to be listened on.
        listen: Endpoint,
        /// Why.
        source: io::Error,
    },
}

/// Listens. Returns also what is listened on, with the port that was found where any was wanted.
pub(super) async fn bind(listen: &Endpoint) -> Result<(Vec<Listener>, Endpoint), BindError> {
    let (host, port) = match listen {
        Endpoint::Unix { path } => {
            return Ok((vec![unix(Path::new(path), listen)?], listen.clone()));
        }
        Endpoint::Tcp { host, port } => (host, *port),
    };
    let failed = |source| BindError::Io { listen: listen.clone(), source };
    let addresses = addresses(host).await.map_err(failed)?;
    let mut listeners = Vec::new();
    let mut taken = port;
    for address in addresses {
        match tcp(SocketAddr::new(address, taken)) {
            Ok(listener) => {
                taken = listener.local_addr().map_err(failed)?.port();
                listeners.push(Listener::Tcp(listener));
            }
            // One of a name's addresses is enough: this machine may not know the other family.
            Err(error) if !listeners.is_empty() => {
                tracing::debug!(%address, port = taken, %error, "not listened on");
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let by = owner::of_port(taken).await;
                return Err(BindError::Taken { listen: listen.clone(), by });
            }
            Err(error) => return Err(failed(error)),
        }
    }
    if listeners.is_empty() {
        return Err(failed(io::ErrorKind::AddrNotAvailable.into()));
    }
    Ok((listeners, Endpoint::Tcp { host: host.clone(), port: taken }))
}

/// Returns the addresses of a listener.
async fn addresses(host: &str) -> io::Result<Vec<IpAddr>> {
    Ok(match host {
        "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        "*" => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        _ => match host.parse() {
            Ok(address) => vec![address],
            Err(_) => {
                let looking = tokio::time::timeout(LOOKUP, tokio::net::lookup_host((host, 0)));
                let found = looking.await.map_err(|_| io::ErrorKind::TimedOut)??;
                found.map(|found| found.ip()).collect()
            }
        },
    })
}

/// Listens on one address.
pub(super) fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Connections of the one before, which have ended, do not keep the port.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Listens on a socket that is this user's alone. One that nobody listens on any more is replaced.
fn unix(path: &Path, listen: &Endpoint) -> Result<Listener, BindError> {
    let failed = |source| BindError::Io { listen: listen.clone(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
        Ok(there) if !there.file_type().is_socket() => {
            return Err(BindError::NoSocket(path.to_owned()));
        }
        Ok(_) => match knock(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
            Ok(()) => {
                let by = "a program that listens there".to_owned();
                return Err(BindError::Taken { listen: listen.clone(), by });
            }
        },
    }
    let listener = StdUnixListener::bind(path).map_err(failed)?;
    let file = SocketFile::of(path).map_err(failed)?;
    // Clients of other users that come before this are refused when they are taken.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| listener.set_nonblocking(true))
        .and_then(|()| UnixListener::from_std(listener))
        .map(|listener| Listener::Unix { listener, _file: file })
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against hanging.
    const GUARD: Duration = Duration::from_secs(30);

    #[test]
    fn a_socket_of_a_program_that_takes_no_client_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let address = socket2::SockAddr::unix(&path).unwrap();
        let socket = || Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        let stopped = socket();
        stopped.bind(&address).unwrap();
        stopped.listen(1).unwrap();
        let mut waiting = Vec::new();
        loop {
            let client = socket();
            client.set_nonblocking(true).unwrap();
            if client.connect(&address).is_err() {
                break;
            }
            waiting.push(client);
        }
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let listen = Endpoint::Unix { path: path.display().to_string() };
            tell.send(matches!(unix(&path, &listen), Err(BindError::Taken { .. })))
        });
        assert_eq!(told.recv_timeout(GUARD), Ok(true));
    }
}
