//! Lending the user's ssh-agent to the commands of one connection.
//!
//! Whoever is root on the server can use a lent agent as long as the connection lives. So only a connection of its
//! own lends it, it may only list its keys and sign (CVE-2023-38408 began with what else an agent does), and it is
//! told whose session it is and that it is lent (`session-bind@openssh.com`, PROTOCOL.agent of OpenSSH), so that
//! it keeps back the keys that are not for that.

use std::io;
use std::sync::Arc;

use russh::Channel;
use russh::client::Msg;
use russh::keys::agent::AgentSessionBinding;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::agent::{self, AgentChoice, Agents};

/// Programs that use the agent at once, on one connection.
const AT_ONCE: usize = 16;
/// The longest message; OpenSSH's agent takes no longer one (`AGENT_MAX_LEN`).
const LONGEST: u32 = 256 * 1024;

/// Messages of an agent's clients (draft-miller-ssh-agent, section 5.1).
mod message {
    pub(super) const FAILURE: u8 = 5;
    pub(super) const REQUEST_IDENTITIES: u8 = 11;
    pub(super) const SIGN_REQUEST: u8 = 13;
    pub(super) const EXTENSION: u8 = 27;
}

/// The one extension that passes: an ssh on the server binds its own session, too.
const SESSION_BIND: &[u8] = b"session-bind@openssh.com";

/// Lends an agent to what runs on one connection.
#[derive(Debug)]
pub(super) struct AgentLender {
    choice: AgentChoice,
    agents: Arc<Agents>,
    session: Option<AgentSessionBinding>,
    tasks: TaskTracker,
    places: Arc<Semaphore>,
}

impl AgentLender {
    pub(super) fn new(
        choice: AgentChoice,
        agents: Arc<Agents>,
        session: Option<AgentSessionBinding>,
        tasks: TaskTracker,
    ) -> Self {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        Self { choice, agents, session, tasks, places }
    }

    /// Serves a program on the server that has connected to the agent, in the background. Returns nothing when
    /// too many do already.
    pub(super) fn serve(&self, channel: Channel<Msg>) -> Option<()> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let (choice, agents, session) =
            (self.choice.clone(), Arc::clone(&self.agents), self.session.clone());
        self.tasks.spawn(async move {
            let _place = place;
            let (mut read, write) = channel.split();
            let client = tokio::io::join(read.make_reader(), write.make_writer());
            let ended = match agent::open_to_lend(&choice, &agents, session.as_ref()).await {
                Ok(agent) => relay(client, agent).await,
                Err(why) => {
                    tracing::info!(why, "there is no agent to lend");
                    refuse_all(client).await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a lent agent's use ended");
            }
            // Dropped, it would stay open, and whoever waits at its other end would wait for ever.
            let _ = write.close().await;
        });
        Some(())
    }
}

/// Passes requests and answers, one after the other, as long as the client has any.
async fn relay(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    mut agent: impl AsyncRead + AsyncWrite + Unpin,
) -> io::Result<()> {
    while let Some(request) = read(&mut client).await? {
        if is_allowed(&request) {
            write(&mut agent, &request).await?;
            let answer = read(&mut agent).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            write(&mut client, &answer).await?;
        } else {
            tracing::warn!(
                kind = request.first(),
                "a server asked the lent agent for more than a signature"
            );
            write(&mut client, &[message::FAILURE]).await?;
        }
    }
    Ok(())
}

/// Answers for an agent that is not there: a program that only loses its connection may die of it.
async fn refuse_all(mut client: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    while read(&mut client).await?.is_some() {
        write(&mut client, &[message::FAILURE]).await?;
    }
    Ok(())
}

fn is_allowed(request: &[u8]) -> bool {
    match request.split_first() {
        Some((&(message::REQUEST_IDENTITIES | message::SIGN_REQUEST), _)) => true,
        Some((&message::EXTENSION, name)) => {
            let length = u32::try_from(SESSION_BIND.len()).unwrap_or_default().to_be_bytes();
            name.strip_prefix(&length).is_some_and(|name| name.starts_with(SESSION_BIND))
        }
        _ => false,
    }
}

/// Returns the next message; nothing at the end.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u32().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if length > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long"));
    }
    let mut message = vec![0; length as usize];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], message].concat()).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extension(name: &str) -> Vec<u8> {
        let length = u32::try_from(name.len()).unwrap().to_be_bytes();
        [&[message::EXTENSION][..], &length, name.as_bytes(), b"rest"].concat()
    }

    #[test]
    fn only_lists_and_signatures_pass() {
        assert!(is_allowed(&[message::REQUEST_IDENTITIES]));
        assert!(is_allowed(&[message::SIGN_REQUEST, 0, 0]));
        assert!(is_allowed(&extension("session-bind@openssh.com")));
        assert!(!is_allowed(&extension("session-bind@openssh.co")));
        assert!(!is_allowed(&extension("query")));
        assert!(!is_allowed(&[]));
        // Adding and removing keys, smart cards and their PKCS#11 libraries, locking, SSH 1.
        for kind in (0..=u8::MAX).filter(|kind| ![11, 13, 27].contains(kind)) {
            assert!(!is_allowed(&[kind, 0, 0]), "{kind}");
        }
    }

    #[tokio::test]
    async fn what_is_refused_never_reaches_the_agent() {
        let (mut client, near) = tokio::io::duplex(1024);
        let (far, mut agent) = tokio::io::duplex(1024);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(relay(near, far));
        // A PKCS#11 library to be loaded (20), then a list.
        write(&mut client, &[20, 0, 0, 0, 0]).await.unwrap();
        assert_eq!(read(&mut client).await.unwrap().unwrap(), [message::FAILURE]);
        write(&mut client, &[message::REQUEST_IDENTITIES]).await.unwrap();
        assert_eq!(read(&mut agent).await.unwrap().unwrap(), [message::REQUEST_IDENTITIES]);
        write(&mut agent, &[12, 0, 0, 0, 0]).await.unwrap();
        assert_eq!(read(&mut client).await.unwrap().unwrap(), [12, 0, 0, 0, 0]);
        client.write_all(&(LONGEST + 1).to_be_bytes()).await.unwrap();
        let ended = tasks.join_next().await.unwrap().unwrap();
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
