//! JSON requests to the daemon.
//!
//! The first request goes over the connection on which the peer was checked (`endpoint`); further ones
//! go through hyperlocal's connector, which hides its sockets: the directory is private to this user,
//! hence whoever answered there once is the one who answers the second time.

mod answer;

use std::cell::{Cell, OnceCell, RefCell};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT, CONTENT_TYPE, ETAG, HOST, HeaderMap, HeaderValue};
use hyper::http::response;
use hyper::{Method, Request};
use hyper_util::client::legacy;
use hyperlocal::{UnixClientExt as _, UnixConnector};
use occ_proto::paths::{is_grants, is_read_only};
use occ_proto::policy::CLIENT_HEADER;
use occ_proto::prompt::{PROMPTS_HEADER, PromptList};
use occ_proto::trust::NewHostKey;
use occ_proto::{
    AGENT_HEADER, Code, KEY_HEADER, KEY_VARIABLES, MIN_CLIENT_HEADER, NEW_HOST_KEY_HEADER,
};
use serde::Serialize;
use tokio::net::UnixStream;

pub(crate) use answer::{Reply, broken, is_failure, misunderstood, note_warnings, problem};
use answer::{check_version, collect};

use crate::autostart::{self, Start};
use crate::commands::Context;
use crate::commands::upgrade::too_old;
use crate::connection::Connection;
use crate::endpoint;
use crate::error::{CliError, DAEMON_UNREACHABLE};
use crate::hint::wake_or_kill;
use crate::locks;
use crate::output::Ui;
use crate::output::host::tell_news;
use crate::prompter::{self, Prompter};
use crate::stranger;
use crate::versions;

/// How long an answer from the daemon's memory may take. It takes a millisecond; a daemon that needs
/// this long is stopped or stuck. One that has no place for a request says so after 10 s, which must be heard.
const FROM_MEMORY: Duration = Duration::from_secs(15);

/// Where the daemon tells its version, and whom it serves.
const VERSION: &str = "/v1/version";

/// How long a daemon that has closed a connection is given to end, and how often that is looked at.
const DYING: Duration = Duration::from_secs(1);
const DYING_STEP: Duration = Duration::from_millis(5);

/// How long a daemon that has no place is asked again, and after how long that is said.
const IN_LINE: Duration = Duration::from_secs(30);
const MOMENT: Duration = Duration::from_millis(500);

/// The daemon, found and trusted.
#[derive(Debug)]
pub(crate) struct Client {
    http: legacy::Client<UnixConnector, Full<Bytes>>,
    socket: PathBuf,
    /// How it was found: `--socket`, and whether one may be started.
    sought: (Option<PathBuf>, Cell<Start>),
    /// The connection on which the peer was checked.
    first: RefCell<Option<UnixStream>>,
    /// The daemon's process, as the kernel names it.
    pid: Option<i32>,
    ui: Ui,
    /// Who answers questions; looked for when the first request is made that may raise one.
    prompter: OnceCell<Option<Prompter>>,
    /// See [`Client::many`].
    many: Cell<bool>,
    /// It was said that there is no place.
    told: Cell<bool>,
    /// A daemon that is newer was asked whom it serves.
    asked: Cell<bool>,
}

impl Client {
    /// Returns a client of the running daemon, starting one if there is none and `start` allows it.
    pub(crate) async fn open(context: &Context<'_>, start: Start) -> Result<Self, CliError> {
        Ok(Self::of(autostart::connect(context, start).await?, context.ui))
    }

    /// Returns a client of a daemon that was found.
    pub(crate) fn of(found: autostart::Found, ui: &Ui) -> Self {
        let pid = found.pid();
        let first = RefCell::new(Some(found.stream));
        let (ui, prompter) = (ui.clone(), OnceCell::new());
        let (many, told, asked) = (Cell::new(false), Cell::new(false), Cell::new(false));
        let http = legacy::Client::unix();
        let sought = (found.sought.0, Cell::new(found.sought.1));
        Self { http, socket: found.socket, sought, first, pid, ui, prompter, many, told, asked }
    }

    /// Returns the same for what another daemon knows nothing of: none is started for it.
    pub(crate) fn of_this_daemon(self) -> Self {
        self.sought.1.set(Start::Never);
        self
    }

    /// Many requests are made at once from now on, whose questions are answered in one place (`prompter::listening`).
    pub(crate) fn many(&self) {
        self.many.set(true);
    }

    /// Returns whether [`Client::many`] was called.
    pub(crate) fn is_many(&self) -> bool {
        self.many.get()
    }

    /// Returns who answers the questions that requests raise, if somebody can.
    pub(crate) fn prompter(&self) -> Option<&Prompter> {
        self.prompter.get_or_init(|| Prompter::new(&self.ui, self.directory())).as_ref()
    }

    /// From now on another daemon is started only where this one was killed: what goes on for long outlives those that
    /// somebody stops.
    pub(crate) fn goes_on(&self) {
        if self.sought.1.get() == Start::IfNeeded {
            self.sought.1.set(Start::IfKilled);
        }
    }

    /// Returns whether the daemon that this client has talked to is gone. That of a grant cannot be told from others.
    pub(crate) async fn has_gone(&self) -> bool {
        ended(&self.socket, self.pid).await;
        !self.is_grants() && self.pid.is_some() && locks::holder(&self.socket) != self.pid
    }

    /// Returns whether the socket is the one for those who only look.
    pub(crate) fn only_looks(&self) -> bool {
        is_read_only(&self.socket)
    }

    /// Returns the socket's directory, which is private to this user.
    pub(crate) fn directory(&self) -> &Path {
        self.socket.parent().unwrap_or(Path::new("/"))
    }

    /// Returns how to write.
    pub(crate) fn ui(&self) -> &Ui {
        &self.ui
    }

    /// Returns a new connection.
    pub(crate) async fn another_stream(&self) -> Result<UnixStream, CliError> {
        endpoint::connect_checked(&self.socket).await
    }

    /// Returns a new connection, to the next daemon when this one has gone.
    pub(crate) async fn stream_to_next(&self) -> Result<UnixStream, CliError> {
        match self.another_stream().await {
            Err(error) if error.code == DAEMON_UNREACHABLE => {
                self.find_next(error).await?;
                self.stream().await
            }
            stream => stream,
        }
    }

    /// Returns the connection on which the peer was checked, or a new one.
    pub(crate) async fn stream(&self) -> Result<UnixStream, CliError> {
        let first = self.first.borrow_mut().take();
        match first {
            Some(stream) => Ok(stream),
            None => self.another_stream().await,
        }
    }

    /// Asks for something the daemon has in memory. Nothing is changed by asking, so when the daemon goes meanwhile the
    /// next one is asked.
    pub(crate) async fn get(&self, path: &str) -> Result<Reply, CliError> {
        self.let_in(async |again| {
            self.renew(again).await?;
            self.get_now(path).await
        })
        .await
    }

    async fn get_now(&self, path: &str) -> Result<Reply, CliError> {
        let asked = || self.send(Method::GET, path, None, None, None);
        // The daemon's silence is no reason to ask another, only its end.
        match self.at_once(async { Ok(asked().await) }).await? {
            Err(error) if error.code == DAEMON_UNREACHABLE => {
                self.find_next(error).await?;
                self.at_once(asked()).await
            }
            answer => answer,
        }
    }

    /// Asks, and again while the daemon has no place: with what it turns away it has not begun. `ask` is told whether
    /// it is asked again.
    ///
    /// # Errors
    /// With those of `ask`; with that there is no place, when none comes free for long.
    pub(crate) async fn let_in<T>(
        &self,
        ask: impl AsyncFn(bool) -> Result<T, CliError>,
    ) -> Result<T, CliError> {
        let begun = tokio::time::Instant::now();
        let mut again = false;
        loop {
            // Boxed: it is large.
            let error = match Box::pin(ask(again)).await {
                Err(error) if error.daemon_code() == Some(Code::TooManyRequests) => error,
                answer => return answer,
            };
            let pause = error.problem.as_ref().and_then(|problem| problem.retry_after_ms);
            let Some(pause) = pause.map(Duration::from_millis) else { return Err(error) };
            if begun.elapsed() + pause > IN_LINE {
                return Err(error);
            }
            if begun.elapsed() > MOMENT && !self.told.replace(true) {
                let (why, seconds) = (&error.message, IN_LINE.as_secs());
                self.ui.note(&format!("{why} Waiting for a place, {seconds} s at most."));
            }
            tokio::time::sleep(pause).await;
            again = true;
        }
    }

    /// Makes a new connection for a request that is made again: on one of hyperlocal's the refusal may come too early.
    async fn renew(&self, again: bool) -> Result<(), CliError> {
        if again {
            self.first.replace(Some(self.another_stream().await?));
        }
        Ok(())
    }

    /// Finds the daemon that follows on one that has gone with that error, as this one was found.
    ///
    /// # Errors
    /// With what was given, when there is none.
    pub(crate) async fn find_next(&self, error: CliError) -> Result<(), CliError> {
        ended(&self.socket, self.pid).await;
        let (socket, start) = (self.sought.0.clone(), self.sought.1.get());
        let context = Context::plain(&self.ui, socket);
        // Boxed: few requests come this far.
        let found = Box::pin(autostart::connect(&context, start)).await.map_err(|_| error)?;
        self.first.replace(Some(found.stream));
        Ok(())
    }

    /// The same of this daemon alone, which may wait for something before it answers.
    pub(crate) async fn get_once(&self, path: &str) -> Result<Reply, CliError> {
        self.let_in(async |again| {
            self.renew(again).await?;
            self.send(Method::GET, path, None, None, None).await
        })
        .await
    }

    /// The same of what it has in memory.
    pub(crate) async fn get_once_from_memory(&self, path: &str) -> Result<Reply, CliError> {
        self.let_in(async |again| {
            self.renew(again).await?;
            self.at_once(self.send(Method::GET, path, None, None, None)).await
        })
        .await
    }

    /// Waits for an answer that takes the daemon a moment; a daemon that does not give it is stuck.
    pub(crate) async fn at_once<T>(
        &self,
        answer: impl Future<Output = Result<T, CliError>>,
    ) -> Result<T, CliError> {
        if let Ok(answer) = tokio::time::timeout(FROM_MEMORY, answer).await {
            return answer;
        }
        Err(self.stuck(FROM_MEMORY))
    }

    /// Returns the error about a daemon that has not answered for that time.
    pub(crate) fn stuck(&self, time: Duration) -> CliError {
        let seconds = time.as_secs();
        let of_none = || CliError::daemon(format!("occd has not answered for {seconds} seconds."));
        let of_occd = |pid| {
            CliError::daemon(format!(
                "occd (process {pid}) has not answered for {seconds} seconds."
            ))
            .hint(format!("{}, and the next command starts a new one", wake_or_kill(pid)))
        };
        // A daemon of ours has a lock. Who listens may be systemd, for a daemon that does not come.
        match (locks::holder(&self.socket), self.pid.filter(|pid| *pid > 0)) {
            (Some(pid), _) => of_occd(pid),
            (None, Some(pid)) => match stranger::name(pid).as_deref() {
                None => of_occd(pid),
                Some("systemd") => of_none(),
                Some(name) => stranger::silent(&self.socket, pid, name, seconds),
            },
            (None, None) => of_none(),
        }
    }

    /// Returns the daemon's program version, after checking that it speaks our API and serves this occ: what an answer
    /// leaves out may be what it is about. A newer one whose answers do not say whom it serves is asked, once.
    ///
    /// # Errors
    /// With what to do about the two versions.
    pub(crate) async fn serves_us(&self, headers: &HeaderMap) -> Result<String, CliError> {
        let daemon = check_version(headers)?;
        let oldest = headers.get(MIN_CLIENT_HEADER).and_then(|value| value.to_str().ok());
        let refusal = match oldest {
            Some(oldest) => versions::too_old(&daemon, oldest),
            // Boxed: it is a request itself.
            None if versions::is_newer(&daemon) && !self.asked.replace(true) => {
                Box::pin(too_old(self)).await
            }
            None => None,
        };
        refusal.map_or(Ok(daemon), Err)
    }

    /// Returns when the daemon answers at all.
    ///
    /// # Errors
    /// When it has not for long.
    pub(crate) async fn alive(&self) -> Result<(), CliError> {
        let asking = async { Ok(self.send(Method::GET, "/healthz", None, None, None).await) };
        // What else goes wrong is told by the request that waits.
        self.at_once(asking).await.map(|_| ())
    }

    /// Asks for something that may wait for a host.
    pub(crate) async fn get_slow(&self, path: &str) -> Result<Reply, CliError> {
        self.send_answering(Method::GET, path, None, None).await
    }

    /// Sends a request with a JSON body, or none.
    pub(crate) async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
        if_match: Option<HeaderValue>,
    ) -> Result<Reply, CliError> {
        let body = body.map(written).transpose()?;
        self.send_answering(method, path, body, if_match).await
    }

    /// Sends a request while another one waits for its answer.
    pub(crate) async fn request_beside(
        &self,
        method: Method,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<Reply, CliError> {
        self.at_once(self.send(method, path, Some(written(body)?), None, None)).await
    }

    /// Returns whether the socket is a grant's.
    pub(crate) fn is_grants(&self) -> bool {
        is_grants(&self.socket)
    }

    /// Returns the approvals that requests of this process wait for.
    pub(crate) async fn prompts_beside(&self) -> Result<PromptList, CliError> {
        self.at_once(self.send(Method::GET, "/v1/prompts?own=true", None, None, None))
            .await?
            .parse()
    }

    /// Sends one of many requests, whose questions are answered in one place (`prompter::listening`).
    pub(crate) async fn request_among(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<Reply, CliError> {
        let body = body.map(written).transpose()?;
        let prompts = self.prompter().map(Prompter::token);
        self.send_to_next(method, path, body, None, prompts).await
    }

    /// Sends a POST without a body.
    pub(crate) async fn post(&self, path: &str) -> Result<Reply, CliError> {
        self.send_answering(Method::POST, path, None, None).await
    }

    /// Sends a POST with bytes as they are.
    pub(crate) async fn post_bytes(&self, path: &str, body: Bytes) -> Result<Reply, CliError> {
        self.send_answering(Method::POST, path, Some(body.to_vec()), None).await
    }

    /// Sends a request and answers the questions that it raises.
    async fn send_answering(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        if_match: Option<HeaderValue>,
    ) -> Result<Reply, CliError> {
        let prompts = self.prompter().map(Prompter::token);
        prompter::answering(self, self.send_to_next(method, path, body, if_match, prompts)).await
    }

    /// Sends a request, and once more to the next daemon when this one goes without an answer and that changes nothing:
    /// it only asks, or has not been read.
    async fn send_to_next(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        if_match: Option<HeaderValue>,
        prompts: Option<HeaderValue>,
    ) -> Result<Reply, CliError> {
        let send = async || {
            let (body, if_match, prompts) = (body.clone(), if_match.clone(), prompts.clone());
            self.send(method.clone(), path, body, if_match, prompts).await
        };
        self.let_in(async |again| {
            self.renew(again).await?;
            match send().await {
                Err(error) if error.may_ask_next(method == Method::GET) => {
                    self.find_next(error).await?;
                    Box::pin(send()).await
                }
                answer => answer,
            }
        })
        .await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        if_match: Option<HeaderValue>,
        prompts: Option<HeaderValue>,
    ) -> Result<Reply, CliError> {
        // The connector's URI names the socket; the daemon accepts these words only.
        let mut request = Request::builder().method(method).header(HOST, "localhost");
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(tag) = if_match {
            request = request.header(hyper::header::IF_MATCH, tag);
        }
        request = request.header(CLIENT_HEADER, kind());
        if let Some(agent) = agent() {
            request = request.header(AGENT_HEADER, agent);
        }
        if let Some(key) = given_key() {
            request = request.header(KEY_HEADER, key);
        }
        if let Some(token) = prompts {
            request = request.header(PROMPTS_HEADER, token);
        }
        let request = request.header(ACCEPT, "application/json");
        let body = Full::new(Bytes::from(body.unwrap_or_default()));
        let bad = |error| CliError::failed(format!("the request cannot be made: {error}"));
        let first = self.first.borrow_mut().take();
        let (head, body) = match first {
            Some(stream) => {
                first_exchange(stream, request.uri(path).body(body).map_err(bad)?).await?
            }
            None => {
                let uri: hyper::Uri = hyperlocal::Uri::new(&self.socket, path).into();
                let request = request.uri(uri).body(body).map_err(bad)?;
                let answer = self.http.request(request).await.map_err(|error| broken(&error))?;
                collect(answer).await?
            }
        };
        let daemon = match path {
            VERSION => check_version(&head.headers)?,
            _ => self.serves_us(&head.headers).await?,
        };
        note_warnings(&self.ui, &head.headers);
        for value in head.headers.get_all(NEW_HOST_KEY_HEADER) {
            if let Ok(new) = serde_json::from_slice::<NewHostKey>(value.as_bytes()) {
                tell_news(&self.ui, &new);
            }
        }
        if is_failure(head.status) {
            return Err(problem(head.status, &body, &daemon));
        }
        Ok(Reply { etag: head.headers.get(ETAG).cloned(), body, daemon })
    }
}

/// Waits for the end of a daemon that has closed a connection: one that is killed may take others for some milliseconds more.
pub(crate) async fn ended(socket: &Path, pid: Option<i32>) {
    let until = tokio::time::Instant::now() + DYING;
    while pid.is_some() && locks::holder(socket) == pid && tokio::time::Instant::now() < until {
        tokio::time::sleep(DYING_STEP).await;
    }
}

fn written(body: &(impl Serialize + Sync)) -> Result<Vec<u8>, CliError> {
    serde_json::to_vec(body)
        .map_err(|error| CliError::failed(format!("the request cannot be written: {error}")))
}

/// Sends a request on the connection that is there already. Most commands make one request, and are half
/// as long on the way as with a second connection.
async fn first_exchange(
    stream: UnixStream,
    request: Request<Full<Bytes>>,
) -> Result<(response::Parts, Bytes), CliError> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(Connection::new(stream))
        .await
        .map_err(|error| broken(&error))?;
    let exchange = async move {
        let answer = sender.send_request(request).await.map_err(|error| broken(&error))?;
        collect(answer).await
    };
    // The connection must be driven for the answer to come; its own error is the answer's too. It ends with
    // the sender.
    tokio::join!(connection, exchange).1
}

/// Returns what kind of client this is: an editor or an agent's tools say so in OCC_CLIENT when they run `occ`.
pub(crate) fn kind() -> HeaderValue {
    let named = std::env::var_os("OCC_CLIENT").filter(|kind| !kind.is_empty());
    let named = named.and_then(|kind| HeaderValue::from_bytes(kind.as_bytes()).ok());
    named.unwrap_or(HeaderValue::from_static("cli"))
}

/// Returns this shell's ssh-agent, for the daemon: systemd's knows none, and another shell's may be gone.
pub(crate) fn agent() -> Option<HeaderValue> {
    let socket = std::env::var_os("SSH_AUTH_SOCK").filter(|socket| !socket.is_empty())?;
    HeaderValue::from_bytes(socket.as_bytes()).ok()
}

/// Returns the private key in this process's environment, for this request's login.
pub(crate) fn given_key() -> Option<HeaderValue> {
    let set = |name| std::env::var(name).ok().filter(|key| !key.is_empty());
    let key: String = KEY_VARIABLES.into_iter().find_map(set)?.split_ascii_whitespace().collect();
    let mut value = HeaderValue::from_str(&key).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Returns `/v1/hosts/{host}{rest}`.
pub(crate) fn host_path(host: &occ_proto::HostName, rest: &str) -> String {
    format!("/v1/hosts/{}{rest}", segment(host.as_str()))
}

/// Returns a text as one segment of a path.
pub(crate) fn segment(text: &str) -> String {
    let mut path = String::new();
    for byte in text.bytes() {
        // The unreserved characters of RFC 3986, section 2.3, stand for themselves.
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            path.push(char::from(byte));
        } else {
            const HEX: &[u8; 16] = b"0123456789ABCDEF";
            path.push('%');
            path.push(char::from(HEX[usize::from(byte >> 4)]));
            path.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_become_one_path_segment() {
        let host = occ_proto::HostName::new("bü:1").unwrap();
        assert_eq!(host_path(&host, "/exec"), "/v1/hosts/b%C3%BC%3A1/exec");
    }
}
