//! The way to a Docker Engine's socket: a channel of a host's connection, or a socket of this machine.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use occ_proto::exec::ExecRequest;
use occ_proto::status::RemoteSystem;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::DockerError;
use crate::exec::{Command, Shell};
use crate::host::HostHandle;
use crate::ssh::{
    Channel, ChannelError, ChannelStream, Closed, Connection, ExitReport, Preamble, SAY, Stderr,
    Work,
};

/// Streams that are kept without a request. More than that are needed for a moment only.
const IDLE: usize = 4;
/// How long the next connection may take where one has no more room.
const SUCCESSOR: Duration = Duration::from_secs(15);

/// Says of a socket that it is not there (3), not open to this user (4; and whose it is), or that somebody listens on it (5), as far
/// as Linux tells that of this network namespace.
static LOOK: LazyLock<String> = LazyLock::new(|| {
    let script = r#"
test -S "$1" || exit 3
test -r "$1" && test -w "$1" || {
  w=$(stat -Lc %a:%U:%G "$1" 2>/dev/null || stat -Lf %Lp:%Su:%Sg "$1" 2>/dev/null) && echo "$w:$(id -nG)"; exit 4; }
for p in "$1" "$(readlink -f "$1")"; do
  grep -F -e " $p" /proc/net/unix | grep -q " 00010000 " && exit 5
done 2>/dev/null; exit 0"#;
    [SAY, "say look; ", script].concat()
});
/// Stands in for a socket.
static PROGRAM: LazyLock<String> =
    LazyLock::new(|| [SAY, r#"say stdio; exec docker --host "$1" system dial-stdio"#].concat());

/// The way to an engine.
#[derive(Debug)]
pub(super) enum Way {
    /// The socket `path` of the host at the other end, which occd.toml sets or which was found. Streams that somebody waits for are the host's: they go on
    /// to its next connection where this one has no room. Without it they stand by, and give up.
    Host {
        connection: Arc<Connection>,
        system: Arc<RemoteSystem>,
        path: String,
        is_set: bool,
        host: Option<HostHandle>,
    },
    /// A socket of this machine; its tasks belong to the tracker.
    Local { path: PathBuf, is_set: bool, tasks: TaskTracker },
}

/// A byte stream to an engine.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {
    /// Returns whether the engine has closed it.
    fn is_ended(&self) -> bool;

    /// Returns what the program says that stands in for the socket.
    fn stderr(&self) -> Stderr {
        Stderr::default()
    }
}

impl Stream for ChannelStream {
    fn is_ended(&self) -> bool {
        Self::is_ended(self)
    }

    fn stderr(&self) -> Stderr {
        Self::stderr(self)
    }
}

impl Stream for UnixStream {
    fn is_ended(&self) -> bool {
        // Nothing comes before a request, so whatever can be read is the end.
        !matches!(self.try_read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
    }
}

/// An open stream.
pub(super) struct Opened {
    pub(super) stream: Box<dyn Stream>,
    /// Why the server did not open the socket, where the docker program stands in for it.
    pub(super) refusal: Option<ChannelError>,
    /// The connection that carries it, which may be another one than the way's by then.
    pub(super) on: Option<Arc<Connection>>,
}

impl Opened {
    /// Counts as work on its connection until it is dropped.
    pub(super) fn work(&self) -> Option<Work> {
        self.on.as_ref().map(Connection::work)
    }
}

impl Way {
    /// Opens a stream. A channel is in the background: it counts as work only while somebody says so.
    pub(super) async fn open(&self) -> Result<Opened, DockerError> {
        match self {
            Self::Host { connection, system, path, is_set, host } => {
                let mut on = Arc::clone(connection);
                let (channel, refusal) = loop {
                    match (open(&on, path, *is_set, system, host.is_none()).await, host) {
                        (Err(DockerError::Moved), Some(host)) => on = successor(host, &on).await?,
                        (Err(DockerError::Moved), None) => return Err(DockerError::Lost),
                        (opened, _) => break opened?,
                    }
                };
                // A program that somebody waits for is work.
                if host.is_none() || !on.opens_no_sockets() {
                    channel.in_background();
                }
                let stream = match &refusal {
                    Some(_) => channel.into_script_stream(),
                    None => channel.into_stream(),
                };
                Ok(Opened { stream: Box::new(stream), refusal, on: Some(on) })
            }
            Self::Local { path, is_set, .. } => match UnixStream::connect(path).await {
                Ok(stream) => Ok(Opened { stream: Box::new(stream), refusal: None, on: None }),
                Err(error) => Err(local_error(path, *is_set, error)),
            },
        }
    }

    /// Runs a task that belongs to the way.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        match self {
            Self::Host { connection, .. } => connection.spawn(task),
            Self::Local { tasks, .. } => drop(tasks.spawn(task)),
        }
    }

    /// Returns whether a program stands in for the socket: each stream is a session, of which there are few.
    pub(super) fn is_program(&self) -> bool {
        matches!(self, Self::Host { connection, .. } if connection.opens_no_sockets())
    }

    /// A program stands in for the socket.
    pub(super) fn by_program(&self) {
        if let Self::Host { connection, .. } = self {
            connection.sockets_forbidden();
        }
    }

    /// The engine has answered over a stream that came after that refusal.
    pub(super) fn answered(&self, refusal: Option<&ChannelError>) {
        if matches!(refusal, Some(ChannelError::Refused(_))) {
            self.by_program();
        }
    }

    /// Returns how many streams are kept without a request.
    pub(super) fn idle(&self) -> usize {
        match self {
            Self::Host { host: None, .. } if self.is_program() => 0,
            Self::Host { .. } if self.is_program() => 1,
            _ => IDLE,
        }
    }

    /// Returns the socket.
    pub(super) fn path(&self) -> String {
        match self {
            Self::Host { path, .. } => path.clone(),
            Self::Local { path, .. } => path.display().to_string(),
        }
    }

    /// Returns whether it leads nowhere any more.
    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::Host { connection, .. } => connection.is_closed(),
            Self::Local { .. } => false,
        }
    }
}

impl Way {
    /// Returns the way to a host's engine: by the socket that is set for it, else by the one that the probe found.
    pub(super) async fn to_host(
        connection: &Arc<Connection>,
        socket: Option<&str>,
        host: Option<HostHandle>,
    ) -> Result<Self, DockerError> {
        let system = connection.system().await.ok_or(DockerError::Lost)?;
        let path = super::docker::choose(socket, &system)?;
        let (connection, is_set) = (Arc::clone(connection), socket.is_some());
        Ok(Self::Host { connection, system, path, is_set, host })
    }
}

fn local_error(path: &std::path::Path, is_set: bool, error: std::io::Error) -> DockerError {
    let name = path.display().to_string();
    match error.kind() {
        ErrorKind::NotFound if is_set => DockerError::NotThere(name),
        ErrorKind::NotFound if !super::engine::is_installed() => DockerError::Missing,
        ErrorKind::PermissionDenied => DockerError::denied(&name, whose(path).as_deref()),
        _ => DockerError::Down { path: name, source: error.into() },
    }
}

/// Returns who may open a socket of this machine. Where it cannot be looked at, nothing is known.
fn whose(path: &std::path::Path) -> Option<String> {
    let metadata = std::fs::metadata(path).ok()?;
    // passwd(5) and group(5): the third field is the number.
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let name = |file: &str, id: u32| {
        let mut lines = file.lines().map(|line| line.split(':'));
        let found = lines.find_map(|mut fields| {
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
        });
        found.unwrap_or_else(|| id.to_string())
    };
    let (passwd, group) = (read("/etc/passwd"), read("/etc/group"));
    let joined = rustix::process::getgroups().unwrap_or_default();
    let joined: Vec<String> = joined.iter().map(|gid| name(&group, gid.as_raw())).collect();
    let (owner, of) = (name(&passwd, metadata.uid()), name(&group, metadata.gid()));
    crate::ssh::whose(&format!("{:o}:{owner}:{of}:{}", metadata.mode() & 0o777, joined.join(" ")))
}

/// Returns the connection that takes the work that another takes no more.
async fn successor(
    host: &HostHandle,
    old: &Arc<Connection>,
) -> Result<Arc<Connection>, DockerError> {
    loop {
        let next = host.connection_if_due(Instant::now() + SUCCESSOR).await;
        let next = next.map_err(|_| DockerError::Lost)?;
        if next.id() != old.id() {
            next.sockets_forbidden();
            return Ok(next);
        }
        // The host is told in a moment.
        tokio::task::yield_now().await;
    }
}

async fn open(
    connection: &Arc<Connection>,
    path: &str,
    is_set: bool,
    system: &RemoteSystem,
    stands_by: bool,
) -> Result<(Channel, Option<ChannelError>), DockerError> {
    let host = format!("unix://{path}");
    let program = ["sh", "-c", &PROGRAM, "sh", &host];
    if connection.opens_no_sockets() {
        let refused = || ChannelError::Refused("no Unix socket".to_owned());
        return match start(connection, system, &program, stands_by).await? {
            Some(channel) => Ok((channel, Some(refused()))),
            None => Err(DockerError::Down { path: path.to_owned(), source: refused().into() }),
        };
    }
    let source = match connection.streamlocal(path).await {
        Ok(channel) => return Ok((channel, None)),
        Err(ChannelError::Lost(_)) => return Err(DockerError::Lost),
        Err(ChannelError::Retired) => return Err(DockerError::Moved),
        Err(error) => error,
    };
    let down =
        |source: ChannelError| DockerError::Down { path: path.to_owned(), source: source.into() };
    let not_there = || {
        let source = "Docker is installed, but its socket is not there".into();
        Err(DockerError::Down { path: path.to_owned(), source })
    };
    // Who only stands by has no command run for each stream: the last look found none.
    if stands_by && !is_set && system.docker_sockets.is_empty() {
        return not_there();
    }
    // The server says no more than that it did not open the socket; the host knows why.
    let looked = start(connection, system, &["sh", "-c", &LOOK, "sh", path], stands_by).await?;
    let mut said = Vec::new();
    let exit = match &looked {
        Some(channel) => {
            let mut preamble = Preamble::default();
            while let Some(frame) = channel.recv().await {
                // Without its word it has not run, and its status is another's.
                said.extend(preamble.pass(frame.data()).ok().flatten().unwrap_or_default());
            }
            channel.exited().await;
            channel.exit()
        }
        None => None,
    };
    match exit {
        Some(ExitReport::Status(3)) if is_set => {
            return Err(DockerError::NotThere(path.to_owned()));
        }
        Some(ExitReport::Status(3)) => return not_there(),
        Some(ExitReport::Status(4)) => {
            let whose = crate::ssh::whose(&String::from_utf8_lossy(&said));
            return Err(DockerError::denied(path, whose.as_deref()));
        }
        Some(ExitReport::Status(5)) if !system.docker_cli => {
            return Err(DockerError::Forbidden(path.to_owned()));
        }
        _ if !system.docker_cli => return Err(down(source)),
        _ => {}
    }
    // Its session is free for the program.
    drop(looked);
    match start(connection, system, &program, stands_by).await? {
        Some(channel) => Ok((channel, Some(source))),
        None => Err(down(source)),
    }
}

/// Starts a command; `None` when the server does not run it.
async fn start(
    connection: &Arc<Connection>,
    system: &RemoteSystem,
    argv: &[&str],
    stands_by: bool,
) -> Result<Option<Channel>, DockerError> {
    let argv = argv.iter().map(|word| (*word).into()).collect();
    let Ok(command) = Command::new(ExecRequest { argv, ..ExecRequest::default() }) else {
        return Ok(None);
    };
    let channel = match connection.stream_session(stands_by).await {
        Ok(channel) => channel,
        Err(ChannelError::Lost(_)) => return Err(DockerError::Lost),
        Err(ChannelError::Retired) => return Err(DockerError::Moved),
        Err(ChannelError::Full(_)) => return Err(DockerError::Crowded),
        Err(_) => return Ok(None),
    };
    let asked = async {
        channel.request_exec(&command.line("", Shell::of(&system.shell), None)).await?;
        channel.accepted().await
    };
    match asked.await {
        Ok(true) => Ok(Some(channel)),
        Ok(false) | Err(Closed::ByServer) => Ok(None),
        Err(Closed::Connection(_)) => Err(DockerError::Lost),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn whose_a_socket_of_this_machine_is_is_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let mode = |mode| std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&socket, mode(0o600)).unwrap();
        let user = crate::process::login_user().unwrap();
        let whose = || super::whose(&socket).unwrap();
        assert!(whose().starts_with(&format!("for its owner {user} alone")), "{}", whose());
        std::fs::set_permissions(&socket, mode(0o660)).unwrap();
        assert!(whose().starts_with("of the group "), "{}", whose());
        assert_eq!(super::whose(&dir.path().join("none")), None);
    }
}
