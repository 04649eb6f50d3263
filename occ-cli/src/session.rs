//! A client of sessions for programs that link it: start, send, receive line by line, kill.
//!
//! A session is a program on a host that outlives the connection, the daemon and this machine (`occ_proto::session`). What
//! is received comes once and in order, over as many connections to the daemon as it takes, and what is sent is read by
//! the program once. The daemon is started where it does not run.
//!
//! Its futures stay on the thread that made them: run them on a current-thread runtime or in a `LocalSet`.
//!
//! ```no_run
//! # async fn example() -> Result<(), occ_cli::session::SessionError> {
//! use occ_cli::session::{Begin, Sessions};
//! use occ_proto::session::SessionRequest;
//!
//! let sessions = Sessions::connect(None).await?;
//! let request = SessionRequest {
//!     host: "prod-1".parse().expect("a host's name"),
//!     argv: vec!["codex".into(), "app-server".into()],
//!     name: None,
//!     cwd: None,
//!     env: Default::default(),
//!     base_env: Default::default(),
//!     tty: false,
//!     forward_urls: false,
//!     retries: None,
//!     wait_ms: None,
//!     ask_ms: None,
//! };
//! let session = sessions.start(&request).await?;
//! let mut attached = sessions.attach(&session.info.id, Begin::start()).await?;
//! attached.send(b"{\"id\":1,\"method\":\"initialize\"}\n").await?;
//! while let Some(line) = attached.receive_line().await? {
//!     println!("{}", String::from_utf8_lossy(&line));
//! }
//! sessions.kill(&session.info.id).await?;
//! # Ok(())
//! # }
//! ```

mod attached;

use std::path::PathBuf;

use hyper::Method;
use occ_proto::session::{
    Session, SessionEdit, SessionList, SessionRequest, SessionSignal, SessionStart,
};

use tokio::time::{Instant, sleep};

pub(crate) use attached::{AGAIN, lost};
pub use attached::{Attached, Received};

pub use crate::daemon::DaemonError as SessionError;

use crate::autostart::Start;
use crate::client::{Client, Reply};
use crate::commands::Context;
use crate::error::CliError;
use crate::output::Ui;

/// Where to begin in each stream of a session's output: an offset in bytes, `end`, `lines:N` for the last lines, `none`; or,
/// if `None`, where the last client that was attached stopped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Begin {
    /// In standard output.
    pub stdout: Option<String>,
    /// In standard error.
    pub stderr: Option<String>,
}

impl Begin {
    /// Returns the very beginning.
    pub fn start() -> Self {
        Self { stdout: Some("0".into()), stderr: Some("0".into()) }
    }

    /// Returns where the last client stopped.
    pub fn resume() -> Self {
        Self::default()
    }

    /// Returns the end: what comes from now on.
    pub fn end() -> Self {
        Self { stdout: Some("end".into()), stderr: Some("end".into()) }
    }
}

/// The daemon's sessions.
#[derive(Debug)]
pub struct Sessions {
    ui: Ui,
    socket: Option<PathBuf>,
    client: Client,
}

impl Sessions {
    /// Connects to the daemon, which is started if it does not run. `socket` is its socket where that is not the usual one.
    ///
    /// # Errors
    /// When there is no daemon and none can be started.
    pub async fn connect(socket: Option<PathBuf>) -> Result<Self, SessionError> {
        let ui = crate::daemon::quiet();
        let client = reach(&ui, socket.clone(), Start::IfNeeded).await?;
        Ok(Self { ui, socket, client })
    }

    /// Returns them for a command of `occ`.
    pub(crate) fn of(context: &Context<'_>, client: Client) -> Self {
        Self { ui: context.ui.clone(), socket: context.socket.clone(), client }
    }

    /// Returns the client.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Returns them once there is a daemon again, which may have to be started; what was killed leaves its place to another.
    pub(crate) async fn back(&self) -> Result<Self, CliError> {
        let until = Instant::now() + attached::BACK;
        loop {
            match reach(&self.ui, self.socket.clone(), Start::IfKilled).await {
                Ok(client) => {
                    return Ok(Self { ui: self.ui.clone(), socket: self.socket.clone(), client });
                }
                Err(error) if Instant::now() >= until => return Err(error),
                Err(_) => sleep(attached::PAUSE).await,
            }
        }
    }

    /// Returns the daemon's answer to a start, as it is.
    pub(crate) async fn begin(&self, request: &SessionRequest) -> Result<Reply, CliError> {
        self.client.request(Method::POST, "/v1/sessions", Some(request), None).await
    }

    /// Starts a session.
    ///
    /// # Errors
    /// When the host cannot be reached, or refuses.
    pub async fn start(&self, request: &SessionRequest) -> Result<Session, SessionError> {
        Ok(self.begin(request).await?.parse()?)
    }

    /// Starts a session that has ended once more. The values of its variables have to be given again.
    ///
    /// # Errors
    /// When it runs, or its host cannot be reached.
    pub async fn start_again(
        &self,
        session: &str,
        request: &SessionStart,
    ) -> Result<Session, SessionError> {
        let path = path(session, "/start");
        Ok(self.client.request(Method::POST, &path, Some(request), None).await?.parse()?)
    }

    /// Lists all sessions.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn list(&self) -> Result<Vec<Session>, SessionError> {
        let list: SessionList = self.client.get_slow("/v1/sessions").await?.parse()?;
        Ok(list.sessions)
    }

    /// Returns a session, by its name or ID, as its host knows it.
    ///
    /// # Errors
    /// When there is none.
    pub async fn show(&self, session: &str) -> Result<Session, SessionError> {
        Ok(self.client.get_slow(&path(session, "")).await?.parse()?)
    }

    /// Changes what a session's next start is.
    ///
    /// # Errors
    /// When there is none, or the change is not valid.
    pub async fn edit(&self, session: &str, edit: &SessionEdit) -> Result<Session, SessionError> {
        let path = path(session, "");
        Ok(self.client.request(Method::PATCH, &path, Some(edit), None).await?.parse()?)
    }

    /// Attaches to a session.
    ///
    /// # Errors
    /// When there is none.
    pub async fn attach(&self, session: &str, begin: Begin) -> Result<Attached, SessionError> {
        self.attach_within(session, begin, None).await
    }

    /// Attaches to a session, and waits so many milliseconds for a host that is down.
    pub(crate) async fn attach_within(
        &self,
        session: &str,
        begin: Begin,
        wait: Option<u64>,
    ) -> Result<Attached, SessionError> {
        self.open(session, begin, (true, true, wait)).await
    }

    /// Looks at a session's output, and goes on with what comes if `on`. Where whoever is attached goes on stays as it is.
    pub(crate) async fn look(
        &self,
        session: &str,
        begin: Begin,
        on: bool,
    ) -> Result<Attached, SessionError> {
        self.open(session, begin, (on, false, None)).await
    }

    async fn open(
        &self,
        session: &str,
        begin: Begin,
        how: (bool, bool, Option<u64>),
    ) -> Result<Attached, SessionError> {
        let (ui, socket) = (self.ui.clone(), self.socket.clone());
        Attached::open(ui, socket, &self.client, session, begin, how).await
    }

    /// Signals a session's program and what it has started.
    ///
    /// # Errors
    /// When it has ended.
    pub async fn signal(&self, session: &str, signal: &str) -> Result<(), SessionError> {
        let request = SessionSignal { signal: Some(signal.to_owned()) };
        self.client.request(Method::POST, &path(session, "/signal"), Some(&request), None).await?;
        Ok(())
    }

    /// Ends a session's program and what it has started: TERM, and KILL 2 s later. Returns how it ended.
    ///
    /// # Errors
    /// When its host cannot be reached.
    pub async fn kill(&self, session: &str) -> Result<Session, SessionError> {
        Ok(self.client.post(&path(session, "/signal")).await?.parse()?)
    }

    /// Removes a session that has ended, with its output.
    ///
    /// # Errors
    /// When it runs, or its host cannot be reached.
    pub async fn remove(&self, session: &str) -> Result<(), SessionError> {
        self.remove_how(session, "").await?;
        Ok(())
    }

    pub(crate) async fn remove_how(&self, session: &str, query: &str) -> Result<(), CliError> {
        let path = path(session, query);
        self.client.request(Method::DELETE, &path, None::<&()>, None).await.map(drop)
    }
}

/// Returns a client of the daemon.
async fn reach(ui: &Ui, socket: Option<PathBuf>, start: Start) -> Result<Client, CliError> {
    Client::open(&Context::plain(ui, socket), start).await
}

/// Returns `/v1/sessions/{session}{rest}`.
fn path(session: &str, rest: &str) -> String {
    format!("/v1/sessions/{}{rest}", crate::client::segment(session))
}
