//! The server's side of one connection: logins and channels.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use russh::keys::PublicKey;
use russh::server::{
    Auth, ChannelOpenHandle, Handle, Handler, Msg, PublicKeyOffer, Response, Session,
    VerifiedPublicKey,
};
use russh::{Channel, ChannelId, ChannelOpenFailure, Pty};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::Counted;
use super::exec::{Program, Sessions};
use super::faults::{Faults, Phase};
use super::forward;
use super::stream::EndOnRead;
use super::{Offer, Shared, Unsolicited};
use crate::sshd::sftp_server;

/// A channel that is counted: as a channel of the host, and as a session of its connection.
pub(super) type Guards = (Counted, Option<Counted>);

/// What the handler keeps of a channel.
enum Kept {
    /// A session that waits for its command.
    Session(Channel<Msg>, Guards),
    /// A forwarding, ended by its token.
    Forward(CancellationToken),
}

pub(super) struct HostHandler {
    shared: Arc<Shared>,
    token: CancellationToken,
    tasks: TaskTracker,
    end_on_read: EndOnRead,
    channels: HashMap<ChannelId, Kept>,
    sessions: Arc<AtomicUsize>,
}

/// Ends the connection: russh's loop returns this error and closes the stream.
fn end<T>() -> Result<T, russh::Error> {
    Err(russh::Error::Disconnect)
}

impl HostHandler {
    pub(super) fn new(
        shared: Arc<Shared>,
        token: CancellationToken,
        tasks: TaskTracker,
        end_on_read: EndOnRead,
    ) -> Self {
        let (channels, sessions) = (HashMap::new(), Arc::default());
        Self { shared, token, tasks, end_on_read, channels, sessions }
    }

    fn faults(&self) -> Faults {
        self.shared.faults.borrow().clone()
    }

    /// Records an offer and lets the faults of this phase happen; returns whether it may be accepted.
    async fn offered(
        &self,
        user: &str,
        method: &'static str,
        key: Option<&PublicKey>,
    ) -> Result<bool, russh::Error> {
        let text = key.and_then(|key| PublicKey::from(key.key_data().clone()).to_openssh().ok());
        let offer = Offer { user: user.to_owned(), method, key: text };
        self.shared.offered.lock().unwrap().push(offer);
        if method != "none" {
            self.shared.counters.auth_attempts.fetch_add(1, Ordering::SeqCst);
        }
        tokio::select! {
            () = self.token.cancelled() => return end(),
            () = self.shared.pass(Phase::Auth) => {}
        }
        let faults = self.faults();
        if faults.drop_during_auth && method != "none" {
            return end();
        }
        let accepted = self.shared.accepted_keys.lock().unwrap();
        let known = key.is_some_and(|key| accepted.iter().any(|k| k.key_data() == key.key_data()));
        Ok(known && !faults.reject_auth)
    }

    /// Runs a command, or the login shell without one, on a channel that waits for it.
    fn start(&mut self, id: ChannelId, command: Option<&[u8]>, session: &mut Session) -> Reply {
        let counters = &self.shared.counters;
        counters.execs.fetch_add(1, Ordering::SeqCst);
        if self.faults().stall == Some(Phase::Exec) {
            // The channel is kept until the client closes it.
            return Ok(());
        }
        let Some(Kept::Session(channel, guards)) = self.channels.remove(&id) else {
            return session.channel_failure(id);
        };
        let take = |left: u64| left.checked_sub(1);
        let order = Ordering::SeqCst;
        if counters.close_before_success.fetch_update(order, order, take).is_ok() {
            drop(guards);
            return session.close(id);
        }
        let Ok(program) = Program::start(command, &self.shared) else {
            self.channels.insert(id, Kept::Session(channel, guards));
            return session.channel_failure(id);
        };
        session.channel_success(id)?;
        let sessions = Sessions {
            handle: session.handle(),
            shared: Arc::clone(&self.shared),
            token: self.token.clone(),
        };
        self.tasks.spawn(Box::pin(sessions.run(program, channel, guards)));
        Ok(())
    }

    /// Answers the opening of a channel, after the stall if there is one.
    async fn accept(&self, reply: ChannelOpenHandle) {
        if self.faults().stall != Some(Phase::ChannelOpen) {
            return reply.accept().await;
        }
        let (shared, token) = (Arc::clone(&self.shared), self.token.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = shared.pass(Phase::ChannelOpen) => reply.accept().await,
            }
        });
    }

    fn forward(&mut self, channel: Channel<Msg>, reply: ChannelOpenHandle, to: forward::To) {
        let token = self.token.child_token();
        self.channels.insert(channel.id(), Kept::Forward(token.clone()));
        let guard = Counted::new(&self.shared.counters.channels);
        let shared = Arc::clone(&self.shared);
        self.tasks.spawn(async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = forward::run(channel, reply, to, shared) => {}
            }
            drop(guard);
        });
    }

    /// Opens a channel of every kind that a server can and notes what the client says.
    fn open_unsolicited(&self, handle: Handle) {
        async fn note(
            shared: Arc<Shared>,
            kind: &'static str,
            opening: impl Future<Output = Result<Channel<Msg>, russh::Error>>,
        ) {
            let opened = opening.await;
            // A connection that ends meanwhile has refused nothing.
            let rejected = matches!(opened, Err(russh::Error::ChannelOpenFailure(_)));
            if rejected || opened.is_ok() {
                shared.unsolicited.lock().unwrap().push(Unsolicited { kind, rejected });
            }
        }
        macro_rules! open {
            ($kind:literal, $method:ident $(, $argument:expr)*) => {{
                let (shared, token, handle) =
                    (Arc::clone(&self.shared), self.token.clone(), handle.clone());
                self.tasks.spawn(async move {
                    tokio::select! {
                        () = token.cancelled() => {}
                        () = note(shared, $kind, handle.$method($($argument),*)) => {}
                    }
                });
            }};
        }
        open!("session", channel_open_session);
        open!("x11", channel_open_x11, "127.0.0.1", 6000);
        open!("forwarded-tcpip", channel_open_forwarded_tcpip, "127.0.0.1", 22, "127.0.0.1", 1);
        open!(
            "forwarded-streamlocal@openssh.com",
            channel_open_forwarded_streamlocal,
            "/tmp/unsolicited"
        );
        open!("auth-agent@openssh.com", channel_open_agent);
        open!("direct-tcpip", channel_open_direct_tcpip, "127.0.0.1", 22, "127.0.0.1", 1);
        open!(
            "direct-streamlocal@openssh.com",
            channel_open_direct_streamlocal,
            "/var/run/docker.sock"
        );
    }
}

type Reply = Result<(), russh::Error>;

impl Handler for HostHandler {
    type Error = russh::Error;

    async fn authentication_banner(&mut self) -> Result<Option<String>, Self::Error> {
        Ok(self.faults().before_login)
    }

    async fn auth_none(&mut self, user: &str) -> Result<Auth, Self::Error> {
        self.offered(user, "none", None).await?;
        Ok(Auth::reject())
    }

    async fn auth_password(&mut self, user: &str, _password: &str) -> Result<Auth, Self::Error> {
        self.offered(user, "password", None).await?;
        Ok(Auth::reject())
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        user: &str,
        _submethods: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, Self::Error> {
        self.offered(user, "keyboard-interactive", None).await?;
        if !self.faults().ask_twice {
            return Ok(Auth::reject());
        }
        let ask = |question: &'static str| Auth::Partial {
            name: "".into(),
            instructions: "".into(),
            prompts: vec![(question.into(), false)].into(),
        };
        let answer = response.and_then(|mut answers| answers.next());
        Ok(match answer.as_deref() {
            None => ask("PIN: "),
            Some(b"pin") => ask("Code: "),
            Some(b"code") => Auth::Accept,
            Some(_) => Auth::reject(),
        })
    }

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        let accepted = self.offered(user, "publickey", Some(offer.public_key)).await?;
        Ok(if accepted { Auth::Accept } else { Auth::reject() })
    }

    /// The key passed `auth_publickey_offered`, which russh always asks first, and its signature holds.
    async fn auth_publickey(
        &mut self,
        _user: &str,
        _key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        tokio::select! {
            () = self.token.cancelled() => return end(),
            () = self.shared.pass(Phase::Signature) => {}
        }
        Ok(Auth::Accept)
    }

    async fn auth_succeeded(&mut self, session: &mut Session) -> Reply {
        let faults = self.faults();
        if faults.drop_after_auth {
            self.end_on_read.set();
        }
        if faults.open_unsolicited {
            self.open_unsolicited(session.handle());
        }
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Reply {
        if let Some((limit, refusal)) = self.faults().max_sessions
            && self.sessions.load(Ordering::SeqCst) >= limit
        {
            reply.reject(refusal.into()).await;
            return Ok(());
        }
        let all = Counted::new(&self.shared.counters.channels);
        let guards = (all, Some(Counted::new(&self.sessions)));
        self.channels.insert(channel.id(), Kept::Session(channel, guards));
        self.accept(reply).await;
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host_to_connect: &str,
        port_to_connect: u32,
        _originator_address: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Reply {
        let Ok(port) = u16::try_from(port_to_connect) else {
            reply.reject(ChannelOpenFailure::ConnectFailed).await;
            return Ok(());
        };
        self.forward(channel, reply, forward::To::Tcp(host_to_connect.to_owned(), port));
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        socket_path: &str,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Reply {
        self.forward(channel, reply, forward::To::Unix(socket_path.into()));
        Ok(())
    }

    async fn channel_close(&mut self, channel: ChannelId, _session: &mut Session) -> Reply {
        if let Some(Kept::Forward(token)) = self.channels.remove(&channel) {
            token.cancel();
        }
        Ok(())
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Reply {
        match self.faults().files_alone {
            true => session.channel_failure(channel),
            false => self.start(channel, Some(data), session),
        }
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Session) -> Reply {
        self.start(channel, None, session)
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Reply {
        let program = sftp_server().filter(|_| name == "sftp" && self.faults().files_alone);
        match program {
            Some(program) => {
                let line = format!("exec {}", program.display());
                self.start(channel, Some(line.as_bytes()), session)
            }
            None => session.channel_failure(channel),
        }
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        _variable_name: &str,
        _variable_value: &str,
        session: &mut Session,
    ) -> Reply {
        session.channel_failure(channel)
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        _term: &str,
        _col_width: u32,
        _row_height: u32,
        _pix_width: u32,
        _pix_height: u32,
        _modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Reply {
        session.channel_failure(channel)
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _single_connection: bool,
        _x11_auth_protocol: &str,
        _x11_auth_cookie: &str,
        _x11_screen_number: u32,
        session: &mut Session,
    ) -> Reply {
        session.channel_failure(channel)
    }
}
