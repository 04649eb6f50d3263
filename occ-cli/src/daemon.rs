//! A client of the daemon for programs that link it, such as editors: requests by type, events that go on over a
//! restart, commands as they run, and [`sessions`](crate::session).
//!
//! The types are in `occ_proto`, the routes in docs/api.md. The daemon is found as `occ` finds it: the socket that is
//! given, else `OCC_SOCKET`'s, else the usual one; who answers there is checked, and where nobody does, the daemon is
//! started. Each request has a connection of its own, so a daemon that was restarted is no other.
//!
//! Its futures stay on the thread that made them: run them on a current-thread runtime or in a `LocalSet`.
//! `examples/watch.rs` is a program.
//!
//! ```no_run
//! # async fn example() -> Result<(), occ_cli::daemon::DaemonError> {
//! use occ_cli::daemon::Daemon;
//! use occ_proto::exec::{ExecEvent, ExecRequest};
//! use occ_proto::status::HostList;
//!
//! let daemon = Daemon::connect(None).await?;
//! let list: HostList = daemon.get("/v1/hosts").await?;
//! let host = list.hosts[0].name.clone();
//! let request = ExecRequest { argv: vec!["uname".into()], ..ExecRequest::default() };
//! let mut command = daemon.exec(&host, &request).await?;
//! while let Some(event) = command.next().await? {
//!     if let ExecEvent::Exit(exit) = event {
//!         println!("{host}: {}", exit.status());
//!     }
//! }
//! # Ok(())
//! # }
//! ```

use std::path::PathBuf;
use std::time::Duration;

use hyper::Method;
use occ_proto::event::Event;
use occ_proto::exec::{ExecEvent, ExecRequest};
use occ_proto::{Code, HostName, Problem};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::autostart::Start;
use crate::cli::Global;
use crate::client::{Client, host_path};
use crate::commands::Context;
use crate::error::{CliError, DAEMON_INCOMPATIBLE};
use crate::lines::Lines;
use crate::output::Ui;
use crate::session::Sessions;

/// How long until a daemon that is away is looked for again.
const AGAIN: Duration = Duration::from_millis(500);

/// Why something did not work.
#[derive(Debug)]
pub struct DaemonError(pub(crate) CliError);

impl std::fmt::Display for DaemonError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for DaemonError {}

impl DaemonError {
    /// Returns the daemon's document, where the daemon said why; else it could not be asked, or understood.
    pub fn problem(&self) -> Option<&Problem> {
        self.0.problem.as_deref()
    }

    /// Returns the daemon's code, where the daemon said why.
    pub fn code(&self) -> Option<Code> {
        self.0.daemon_code()
    }

    /// Returns the command to type next, where there is one.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
}

impl From<CliError> for DaemonError {
    fn from(error: CliError) -> Self {
        Self(error)
    }
}

impl From<DaemonError> for CliError {
    fn from(error: DaemonError) -> Self {
        error.0
    }
}

/// The daemon.
#[derive(Debug, Clone)]
pub struct Daemon {
    ui: Ui,
    socket: Option<PathBuf>,
}

impl Daemon {
    /// Finds the daemon, which is started if it does not run. `socket` is its socket where that is not the usual one.
    ///
    /// # Errors
    /// When there is no daemon and none can be started, or when it is not to be trusted.
    pub async fn connect(socket: Option<PathBuf>) -> Result<Self, DaemonError> {
        let daemon = Self { ui: quiet(), socket };
        daemon.client(Start::IfNeeded).await?;
        Ok(daemon)
    }

    async fn client(&self, start: Start) -> Result<Client, CliError> {
        let context = Context::plain(&self.ui, self.socket.clone());
        Box::pin(Client::open(&context, start)).await
    }

    /// Returns what a route answers to a GET. It may take as long as the route waits.
    ///
    /// # Errors
    /// When the daemon cannot be reached, or answers with a problem.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, DaemonError> {
        let client = self.client(Start::IfNeeded).await?;
        Ok(client.get_slow(path).await?.value()?)
    }

    /// Returns what a route answers to a POST.
    ///
    /// # Errors
    /// When the daemon cannot be reached, or answers with a problem.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<T, DaemonError> {
        self.request("POST", path, Some(body)).await
    }

    /// Returns what a route answers; `()` where that is nothing.
    ///
    /// # Errors
    /// When the daemon cannot be reached, or answers with a problem.
    pub async fn request<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<T, DaemonError> {
        let method = Method::from_bytes(method.as_bytes())
            .map_err(|_| CliError::usage(format!("{method:?} is no method")))?;
        let client = self.client(Start::IfNeeded).await?;
        Ok(client.request(method, path, body, None).await?.value()?)
    }

    /// Follows what changes, from a snapshot on, or from what comes after the event `after`. `query` is what the route
    /// takes beside that, such as `kind=host,prompt`.
    ///
    /// # Errors
    /// When the daemon cannot be reached, or refuses.
    pub async fn events(&self, query: &str, after: Option<String>) -> Result<Events, DaemonError> {
        let mut events =
            Events { daemon: self.clone(), query: query.to_owned(), seen: after, lines: None };
        events.lines = Some(events.open(Start::IfNeeded).await?);
        Ok(events)
    }

    /// Runs a command on a host. Dropping what is returned ends it.
    ///
    /// # Errors
    /// When the daemon cannot be reached, or refuses. What goes wrong later is an event.
    pub async fn exec(
        &self,
        host: &HostName,
        request: &ExecRequest,
    ) -> Result<Command, DaemonError> {
        let client = self.client(Start::IfNeeded).await?;
        let path = host_path(host, "/exec");
        let lines = Lines::ask(&client, Method::POST, &path, Some(request)).await?;
        Ok(Command { lines })
    }

    /// Returns the sessions: programs on hosts that outlive the connection.
    ///
    /// # Errors
    /// When the daemon cannot be reached.
    pub async fn sessions(&self) -> Result<Sessions, DaemonError> {
        Sessions::connect(self.socket.clone()).await
    }
}

/// Returns how a client writes that has no terminal of its own: not at all.
pub(crate) fn quiet() -> Ui {
    Ui::new(&Global { quiet: true, no_input: true, ..Global::default() })
}

/// What changes, as it changes.
pub struct Events {
    daemon: Daemon,
    query: String,
    seen: Option<String>,
    lines: Option<Lines>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("seen", &self.seen).finish_non_exhaustive()
    }
}

impl Events {
    /// Returns the ID of the last event, to go on after it some other time.
    pub fn seen(&self) -> Option<&str> {
        self.seen.as_deref()
    }

    /// Waits for the next event, for as long as the daemon is away, too; what could not be kept is told as a gap, with a new
    /// snapshot. Nobody starts a daemon for it.
    ///
    /// # Errors
    /// When the daemon refuses, or is of a version that is not understood.
    pub async fn next(&mut self) -> Result<Event, DaemonError> {
        loop {
            let next = match &mut self.lines {
                Some(lines) => lines.next::<Event>().await,
                None => match self.open(Start::Never).await {
                    Ok(lines) => {
                        self.lines = Some(lines);
                        continue;
                    }
                    Err(error) => Err(error),
                },
            };
            match next {
                Ok(Some(event)) => {
                    self.seen = Some(event.id.clone());
                    return Ok(event);
                }
                Err(error) if error.problem.is_some() || error.code == DAEMON_INCOMPATIBLE => {
                    return Err(error.into());
                }
                Ok(None) | Err(_) => {
                    self.lines = None;
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    async fn open(&self, start: Start) -> Result<Lines, CliError> {
        let client = self.daemon.client(start).await?;
        let after = self.seen.as_deref().map(|seen| format!("after={seen}"));
        let query: Vec<&str> =
            [Some(self.query.as_str()), after.as_deref()].into_iter().flatten().collect();
        let path = format!("/v1/events?{}", query.join("&"));
        Box::pin(Lines::get(&client, path.trim_end_matches(['?', '&']))).await
    }
}

/// A command on a host.
pub struct Command {
    lines: Lines,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Command").finish_non_exhaustive()
    }
}

impl Command {
    /// Waits for the next event: output, or the end, after which there is none.
    ///
    /// # Errors
    /// When the daemon went away: what became of the command is not known.
    pub async fn next(&mut self) -> Result<Option<ExecEvent>, DaemonError> {
        Ok(self.lines.next().await?)
    }
}
