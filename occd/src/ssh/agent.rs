//! The ssh-agents that logins may ask.
//!
//! A daemon that systemd starts knows no agent, and one that a shell started knows that shell's, which may
//! be gone. So clients name theirs, and the newest one that answers is asked.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use occ_proto::paths::MAX_SOCKET_PATH;
use occ_proto::text::sanitize;
use russh::keys::agent::client::{AgentClient, AgentStream};
use russh::keys::agent::{AgentIdentity, AgentSessionBinding};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::stamp::Stamp;

/// How long an agent may take to list its keys; one that hangs must not cost the whole dial.
const LIST: Duration = Duration::from_secs(3);
/// The same for a look at whether its keys have changed.
const LOOK: Duration = Duration::from_millis(500);
/// How long all agents together may take.
const LIST_ALL: Duration = Duration::from_secs(5);
/// How often a login that failed looks at whether the agent's socket is another.
const GLANCE: Duration = Duration::from_secs(5);
/// How often an agent that has just come is asked whether it holds a key by now: for two minutes.
const FILLED: u32 = 24;
/// Agents that are remembered: a person has one, and one for each forwarded login.
const MAX_KNOWN: usize = 8;

/// The connection to an agent.
pub(super) type Agent = AgentClient<UnixStream>;

/// The agents' sockets, the newest first.
#[derive(Debug, Default)]
pub struct Agents(Mutex<Vec<PathBuf>>);

impl Agents {
    /// Returns the agents of a daemon whose own environment names `own`.
    pub fn new(own: Option<PathBuf>) -> Self {
        Self(Mutex::new(own.into_iter().collect()))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a client's agent. What is not a socket of this user is not remembered.
    pub fn offer(&self, socket: &Path) {
        if self.lock().first().is_some_and(|newest| newest == socket) {
            return;
        }
        if let Err(why) = check(socket) {
            tracing::debug!(socket = %socket.display(), why, "a client's agent is not remembered");
            return;
        }
        tracing::info!(socket = %socket.display(), "a client named its ssh-agent");
        let mut known = self.lock();
        known.retain(|other| other != socket);
        known.insert(0, socket.to_owned());
        known.truncate(MAX_KNOWN);
    }

    /// Returns the sockets, the newest first.
    pub fn sockets(&self) -> Vec<PathBuf> {
        self.lock().clone()
    }

    /// Returns the newest socket: the one that the next login asks first.
    pub fn newest(&self) -> Option<PathBuf> {
        self.lock().first().cloned()
    }

    /// Returns what the agent of a choice holds, as a hash; nothing when it holds no key, or does not answer at
    /// once.
    pub async fn holds(&self, choice: &AgentChoice) -> Option<u64> {
        for socket in choice.sockets(self) {
            let list =
                async { AgentClient::connect_uds(&socket).await?.request_identities().await };
            if let Ok(Ok(identities)) = timeout(LOOK, list).await {
                return digest(&identities);
            }
        }
        None
    }

    /// Waits until the agent of a choice is another than it was, or has come back, and holds keys. Returns what it holds, as a
    /// hash. Agents are not asked again and again: some ask their user to be unlocked then.
    pub async fn comes(&self, choice: &AgentChoice, mut before: AgentLook) -> u64 {
        loop {
            tokio::time::sleep(GLANCE).await;
            let now = choice.look(self);
            if now == before {
                continue;
            }
            before = now;
            // One that has just started gets its keys in a moment.
            for _ in 0..FILLED {
                if let Some(held) = self.holds(choice).await {
                    return held;
                }
                tokio::time::sleep(GLANCE).await;
                if choice.look(self) != before {
                    break;
                }
            }
        }
    }

    /// Asks an agent last that takes its time.
    fn put_off(&self, socket: &Path) {
        let mut known = self.lock();
        if let Some(at) = known.iter().position(|other| other == socket) {
            let slow = known.remove(at);
            known.push(slow);
        }
    }

    /// Forgets an agent that does not answer, unless it is the only one: it may come back.
    fn gone(&self, socket: &Path) {
        let mut known = self.lock();
        if known.len() > 1 {
            known.retain(|other| other != socket);
        }
    }
}

fn check(socket: &Path) -> Result<(), &'static str> {
    if !socket.is_absolute() || socket.as_os_str().len() > MAX_SOCKET_PATH {
        return Err("its path is not absolute, or too long");
    }
    let metadata = std::fs::metadata(socket).map_err(|_| "there is no such file")?;
    if !metadata.file_type().is_socket() {
        return Err("it is not a socket");
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err("it belongs to another user");
    }
    Ok(())
}

/// Which agents a login may ask.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AgentChoice {
    /// The newest that answers of those that clients named.
    #[default]
    Known,
    /// This one (`IdentityAgent`).
    Socket(PathBuf),
    /// The one that a variable of the daemon's environment names, and that is not set (`IdentityAgent $NAME`).
    Unset(String),
    /// None (`IdentityAgent none`).
    None,
}

/// Returns a hash of what an agent holds; nothing when that is nothing.
pub(super) fn digest(identities: &[AgentIdentity]) -> Option<u64> {
    if identities.is_empty() {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    for identity in identities {
        match identity {
            AgentIdentity::PublicKey { key, .. } => key.to_bytes().ok(),
            AgentIdentity::Certificate { certificate, .. } => certificate.to_bytes().ok(),
        }
        .hash(&mut hasher);
    }
    Some(hasher.finish())
}

/// How the sockets of a choice look: others are other agents.
#[derive(Debug, PartialEq, Eq)]
pub struct AgentLook(Vec<(PathBuf, Option<Stamp>)>);

impl AgentChoice {
    /// Returns how the sockets look.
    pub fn look(&self, known: &Agents) -> AgentLook {
        let look = |socket: PathBuf| {
            let stamp = Stamp::of(&socket).ok();
            (socket, stamp)
        };
        AgentLook(self.sockets(known).into_iter().map(look).collect())
    }

    /// Returns the sockets to try, in that order.
    fn sockets(&self, known: &Agents) -> Vec<PathBuf> {
        match self {
            Self::Known => known.sockets(),
            Self::Socket(socket) => vec![socket.clone()],
            Self::Unset(_) | Self::None => Vec::new(),
        }
    }
}

/// An agent that answered, and its keys.
pub(super) struct Open {
    pub(super) agent: Agent,
    pub(super) socket: PathBuf,
    pub(super) identities: Vec<AgentIdentity>,
}

/// Returns the agent for a login, or a word for errors about why there is none. An agent that does not
/// answer is not an error: there may be key files.
///
/// The agent is told first whose session it is (`session-bind@openssh.com`, PROTOCOL.agent of OpenSSH): else it
/// keeps back the keys that are constrained to certain destinations (`ssh-add -h`).
pub(super) async fn open(
    choice: &AgentChoice,
    known: &Agents,
    session: Option<&AgentSessionBinding>,
) -> Result<Open, String> {
    let sockets = choice.sockets(known);
    if sockets.is_empty() {
        return Err(no_socket(choice));
    }
    let mut whys = Vec::new();
    let end = Instant::now() + LIST_ALL;
    for socket in sockets {
        let list = async {
            let mut agent = connect(&socket, session, false).await?;
            let identities = agent.request_identities().await?;
            Ok::<_, russh::keys::Error>((agent, identities))
        };
        match timeout_at(end.min(Instant::now() + LIST), list).await {
            Ok(Ok((agent, identities))) => return Ok(Open { agent, socket, identities }),
            Ok(Err(error)) => {
                known.gone(&socket);
                whys.push(format!("{} does not answer: {error}", named(&socket)));
            }
            Err(_) => {
                known.put_off(&socket);
                whys.push(format!("{} does not answer in time", named(&socket)));
            }
        }
        tracing::info!("{}", whys.last().map(String::as_str).unwrap_or_default());
    }
    Err(whys.join(", and "))
}

/// Returns an agent's name for errors.
pub(super) fn named(socket: &Path) -> String {
    format!("the ssh-agent {}", sanitize(&socket.display().to_string()))
}

/// Returns why there is no agent to ask.
fn no_socket(choice: &AgentChoice) -> String {
    match choice {
        AgentChoice::None => "ssh_config says to use no ssh-agent".to_owned(),
        AgentChoice::Unset(variable) => format!(
            "the ssh-agent is ${} by ssh_config, which is not set in occd's environment",
            sanitize(variable)
        ),
        AgentChoice::Known | AgentChoice::Socket(_) => {
            "occd knows no ssh-agent (SSH_AUTH_SOCK is not set)".to_owned()
        }
    }
}

/// Connects to an agent and tells it whose session it is, and whether it is lent to the server.
async fn connect(
    socket: &Path,
    session: Option<&AgentSessionBinding>,
    lent: bool,
) -> Result<Agent, russh::keys::Error> {
    let mut agent = AgentClient::connect_uds(socket).await?;
    if let Some(session) = session
        && let Err(error) = agent.bind_session(session, lent).await
    {
        // An agent of another make does not know it, and has no such keys.
        tracing::debug!(%error, "the ssh-agent is not bound to the session");
        agent = AgentClient::connect_uds(socket).await?;
    }
    Ok(agent)
}

/// Returns whether there is an agent that could be lent.
pub fn is_there(choice: &AgentChoice, known: &Agents) -> bool {
    why_not_there(choice, known).is_none()
}

/// Returns why there is none, if so. As with ssh, it must take a connection.
pub(super) fn why_not_there(choice: &AgentChoice, known: &Agents) -> Option<String> {
    let Some(socket) = choice.sockets(known).into_iter().next() else {
        return Some(no_socket(choice));
    };
    if let Err(why) = check(&socket) {
        return Some(format!("{} cannot be used: {why}", named(&socket)));
    }
    match knock(&socket) {
        Ok(()) => None,
        Err(error) => Some(format!("{} does not answer: {error}", named(&socket))),
    }
}

/// Connects to a socket without waiting: one with a full queue has somebody behind it, too.
///
/// # Errors
/// When nobody listens there.
pub(crate) fn knock(path: &Path) -> io::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&socket2::SockAddr::unix(path)?) {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(()),
    }
}

/// Returns the stream to the agent that a server may use, bound to that session.
pub(super) async fn open_to_lend(
    choice: &AgentChoice,
    known: &Agents,
    session: Option<&AgentSessionBinding>,
) -> Result<Box<dyn AgentStream + Send + Unpin>, String> {
    let sockets = choice.sockets(known);
    let socket = sockets.first().ok_or_else(|| no_socket(choice))?;
    match timeout(LIST, connect(socket, session, true)).await {
        Ok(Ok(agent)) => Ok(agent.into_inner()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it does not answer in time".into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn the_newest_comes_first_and_only_sockets_of_ours_count() {
        let dir = tempfile::tempdir().unwrap();
        let socket = |name: &str| {
            let path = dir.path().join(name);
            UnixListener::bind(&path).unwrap();
            path
        };
        let (own, first, second) = (dir.path().join("own"), socket("first"), socket("second"));
        let agents = Agents::new(Some(own.clone()));
        for path in [&first, &second, &first] {
            agents.offer(path);
        }
        assert_eq!(agents.sockets(), [first.clone(), second, own]);
        std::fs::write(dir.path().join("file"), "").unwrap();
        for bad in [dir.path().join("file"), dir.path().join("missing"), "relative".into()] {
            agents.offer(&bad);
        }
        assert_eq!(agents.newest().as_ref(), Some(&first));
        for n in 0..20 {
            agents.offer(&socket(&n.to_string()));
        }
        assert_eq!(agents.sockets().len(), MAX_KNOWN);
    }

    #[tokio::test]
    async fn an_agent_that_is_gone_is_forgotten_unless_it_is_the_only_one() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        for path in [&a, &b] {
            UnixListener::bind(path).unwrap();
        }
        let agents = Agents::new(Some(a.clone()));
        agents.offer(&b);
        // Nobody listens any more.
        assert!(open(&AgentChoice::Known, &agents, None).await.is_err());
        assert_eq!(agents.sockets(), [a]);
        let none = open(&AgentChoice::None, &agents, None).await;
        assert!(none.is_err_and(|why| why.contains("ssh_config")));
    }
}
