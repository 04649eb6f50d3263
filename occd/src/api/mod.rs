//! The HTTP API: router, layers, and one file per resource.
//!
//! A handler extracts, makes one call, and maps the answer. It may be dropped at any await when its client
//! leaves; what must outlive that is owned elsewhere.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, Version, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use occ_proto::exec::ExecRequest;
use occ_proto::status::{DockerFault, HostStatus};
use occ_proto::{
    AGENT_HEADER, API_VERSION, API_VERSION_HEADER, Code, HostName, MIN_CLIENT, MIN_CLIENT_HEADER,
    NEW_HOST_KEY_HEADER, Problem, VERSION_HEADER, WARNING_HEADER,
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceBuilder;

use crate::config::{Config, EffectiveSettings, LiveConfig};
use crate::container::{DockerError, DockerSockets, Operations, Sandboxes};
use crate::events::{Changes, Events, Topic};
use crate::exec::{Command, Executor, Local};
use crate::files::Files;
use crate::forward::Forwards;
use crate::grants::Grants;
use crate::history::Archive;
use crate::hosts::{HostsSnapshot, HostsStore};
use crate::in_flight::InFlight;
use crate::logging::Logging;
use crate::policy::{Asker, Guard};
use crate::pool::Pool;
use crate::prompts::News;
use crate::session::Sessions;
use crate::ssh::error::chain;
use crate::used::UsedFile;
use crate::wire::Resumable;

mod at_work;
mod audit;
mod auto_forward;
mod changing;
mod container;
mod daemon;
mod default_host;
#[cfg(test)]
mod describe;
mod docker_setup;
mod docker_socket;
mod document;
#[cfg(test)]
mod door_tests;
mod doors;
mod error;
mod events;
mod exec;
mod exec_ws;
mod extract;
mod file_reads;
mod files;
mod forwards;
mod grants;
mod hand_over;
mod history;
mod hosts;
mod json;
mod limits;
mod links;
mod log_level;
mod logs;
mod measure;
mod metrics;
mod once;
mod operations;
mod params;
mod password;
mod past;
mod permit;
mod policy;
mod problems;
mod prompts;
mod publish;
mod routes;
mod sandbox;
mod session_events;
mod session_ws;
mod sessions;
mod shown;
mod ssh_config;
mod strict;
mod taken;
mod test;
mod trace;
mod trust;
mod turns;
mod unread;
mod ways;
mod websocket;
mod workspaces;

pub use at_work::AtWork;
pub use auto_forward::restore as restore_auto_forwards;
pub use changing::Changing;
use error::{About, ApiError};
use limits::Places;
pub use limits::Streams;
pub use measure::{Door, Measured};
pub use once::Once;
pub use past::PastOperations;
pub use publish::publish;
pub use routes::ALIVE;
use routes::Routes;
pub use sessions::notice_ends;
use taken::Taken;
pub use turns::Turns;

/// The largest body: hosts, commands and their input are small.
const BODY_LIMIT: usize = 1024 * 1024;
/// A stream that has nothing to say sends an empty line this often, so that both sides see a dead one.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// The media type of server-sent events (HTML, 9.2.5).
const SSE: &str = "text/event-stream";
/// How long a request waits for a look at a file of the settings.
const FILES: Duration = Duration::from_millis(500);
/// The names under which a client may address the daemon. A browser that was tricked into connecting
/// (DNS rebinding) sends another one.
const HOSTS: [&str; 2] = ["localhost", "occd"];

/// What handlers share.
#[derive(Debug)]
pub struct App {
    /// The hosts.
    pub pool: Arc<Pool>,
    /// Which of them the next daemon connects.
    pub used: Arc<UsedFile>,
    /// Says what has changed.
    pub changes: Arc<Changes>,
    /// Tells of it.
    pub events: Events,
    /// The places of those who hear it.
    pub streams: Streams,
    /// The sandboxes on them.
    pub sandboxes: Arc<Sandboxes>,
    /// The sockets of this machine that speak to their engines.
    pub docker_sockets: DockerSockets,
    /// The ports of this machine that lead to theirs.
    pub forwards: Arc<Forwards>,
    /// What outlives connections on hosts.
    pub sessions: Arc<Sessions>,
    /// What is being done, or was not long ago.
    pub operations: Operations,
    /// The same of the daemons before this one.
    pub past: PastOperations,
    /// How many requests do something on hosts.
    pub at_work: AtWork,
    /// What changes files below a root.
    pub turns: Turns,
    /// What changes a file.
    pub changing: Changing,
    /// Requests that are not done again.
    pub once: Once,
    /// Where config.json of the existing tool may be, the preferred place first.
    pub opencode_config: Vec<PathBuf>,
    /// This machine, as a place to run commands on.
    pub local: Arc<Local>,
    /// The files of the hosts, and of this machine.
    pub files: Files,
    /// Tasks that the daemon waits for when it stops.
    pub tasks: TaskTracker,
    /// Cancelled when the daemon stops.
    pub stop: CancellationToken,
    /// hosts.json.
    pub hosts: HostsStore,
    /// What was told last of what these say besides.
    pub besides: Mutex<Besides>,
    /// occd.toml.
    pub config: LiveConfig,
    /// What may be done.
    pub guard: Arc<Guard>,
    /// The sockets with a policy of their own.
    pub grants: Arc<Grants>,
    /// What became of the hosts' links.
    pub archive: Archive,
    /// Where traces are written that name no file.
    pub traces: PathBuf,
    /// The control socket's path.
    pub socket: PathBuf,
    /// The read-only socket's.
    pub read_only_socket: Option<PathBuf>,
    /// What clients have in flight.
    pub in_flight: InFlight,
    /// How requests are answered.
    pub measured: Measured,
    /// What is logged.
    pub log: Arc<Logging>,
    /// To be cancelled to have the daemon end.
    pub end: CancellationToken,
    /// When the daemon started.
    pub started_at: Timestamp,
    /// What it lacks since then, and until the next one starts.
    pub lacking: Vec<String>,
}

/// What hosts.json and occd.toml say besides each host, as a list of hosts has it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Besides {
    default_host: Option<HostName>,
    order: Vec<HostName>,
    warnings: Vec<String>,
}

/// How long what is sent may pause when the daemon stops. The hosts are there a little longer: what has come so far is
/// cleared away.
const LAST_PAUSE: Duration = Duration::from_secs(1);

impl App {
    /// Waits until the daemon stops, and then a little for what clients still send.
    async fn reads_no_more(&self) {
        self.end.cancelled().await;
        // Either way it is over.
        let _ = timeout(LAST_PAUSE, self.stop.cancelled()).await;
    }

    /// Returns the hosts as hosts.json has them at this moment, with the pool in line: somebody may have
    /// just edited it.
    async fn hosts_now(&self) -> Arc<HostsSnapshot> {
        let snapshot = self.hosts.refresh().await;
        // Whoever saw the change first, the pool may not have heard of it yet.
        if !self.pool.knows(&snapshot) {
            let config = self.config.current().config;
            self.reload(&snapshot, &config).await;
        }
        snapshot
    }

    /// Brings the pool, and what follows its hosts, in line with the files.
    pub async fn reload(&self, snapshot: &HostsSnapshot, config: &Arc<Config>) {
        self.pool.reload(snapshot, config).await;
        let hosts = self.pool.configured();
        let shown = hosts.iter().filter(|host| self.guard.shows_docker_to_anybody(host.name()));
        self.sandboxes.follow(&shown.cloned().collect::<Vec<_>>());
        self.docker_sockets.follow(&hosts);
        self.files.follow(&hosts);
        self.forwards.follow(&hosts, config.forwards.by_name(), &self.guard);
        self.tell_of_files();
    }

    /// Tells of what a list of hosts has from the files besides the hosts, when that is another than the last time: each
    /// change of a file is read by whoever makes it and by whoever watches.
    fn tell_of_files(&self) {
        let snapshot = self.hosts.current();
        let now = Besides {
            default_host: snapshot.file.default_host.clone(),
            order: snapshot.file.hosts.keys().cloned().collect(),
            warnings: self.warnings(&snapshot),
        };
        let mut told = self.besides.lock().unwrap_or_else(PoisonError::into_inner);
        if *told != now {
            *told = now;
            self.changes.touch(Topic::Files);
        }
    }

    /// Returns a host's status with what is known of its sandbox.
    fn with_sandbox(&self, status: HostStatus) -> HostStatus {
        let known = self.sandboxes.known(&status.name);
        // A host without Docker has no sandbox, which is no fault.
        let fault = known.error.as_deref().filter(|error| !matches!(error, DockerError::Missing));
        let docker_error = fault.map(|error| DockerFault {
            code: error::docker_code(error),
            message: error::docker_text(error),
        });
        let sandbox = known.status().map(|sandbox| self.with_url(&status.name, sandbox));
        HostStatus { sandbox, docker_error, ..status }
    }

    /// Returns the same for somebody: without the sandbox, unless they may ask Docker about it.
    fn with_sandbox_for(&self, asker: &Asker, status: HostStatus) -> HostStatus {
        match self.guard.shows_docker(asker, &status.name) {
            true => self.with_sandbox(status),
            false => status,
        }
    }

    /// Returns an answer whose connection ends when its client takes nothing for long: it can come back for the rest.
    fn resumable(&self, mut response: Response) -> Response {
        if let Some(patience) = self.config.current().config.limits.stream_idle_timeout {
            response.extensions_mut().insert(Resumable(patience));
        }
        response
    }

    /// Puts occd.toml as it is at this moment in force.
    pub async fn refresh_config(&self) {
        self.config.refresh(async |config| self.apply(&self.hosts.current(), config).await).await;
    }

    /// Brings everything in line with the files.
    pub async fn apply(&self, snapshot: &HostsSnapshot, config: &Arc<Config>) {
        let environment = &self.pool.context().dial;
        self.guard.audit().set(&config.audit);
        environment.spill.set_limit(config.output.spill_limit());
        environment.secrets.set_enabled(config.keeps_passwords());
        environment.allowed.set(config.allowed());
        environment.unlocked.set_lifetime(config.security.key_lifetime);
        self.reload(snapshot, config).await;
    }

    /// Checks a command for that place, and completes it by what is set for its host.
    fn command(&self, executor: &Executor, request: ExecRequest) -> Result<Command, ApiError> {
        let command = Command::new(request)?.of_client();
        Ok(match executor.host() {
            Some(host) => {
                let limit = self.settings(host).command_timeout;
                let directory = self.directory(host, command.request().here.as_deref());
                command.limited(limit).placed(directory)
            }
            None => command,
        })
    }

    /// Returns where commands of a host run that name no directory: in the workspace whose directory `here` is below, else
    /// where the settings say.
    fn directory(&self, host: &HostName, here: Option<&str>) -> Option<String> {
        let settings = self.settings(host);
        let mapped =
            here.and_then(|here| settings.workspaces.there(self.local.home(), Path::new(here)));
        mapped.or(settings.directory)
    }

    /// Returns what is in force for a host. Its actor may not have heard of it yet.
    fn settings(&self, host: &HostName) -> EffectiveSettings {
        self.config.current().config.effective(host)
    }

    /// Returns why hosts.json or occd.toml on disk is not what is in force, or means nothing.
    fn warnings(&self, snapshot: &HostsSnapshot) -> Vec<String> {
        self.warnings_beside(snapshot, None)
    }

    /// The same in an answer about a host, which says itself when that is not there: it may be the one that was to be added.
    fn warnings_beside(&self, snapshot: &HostsSnapshot, about: Option<&HostName>) -> Vec<String> {
        let loaded = self.config.current();
        let hosts = snapshot.problem.iter().map(|problem| match snapshot.is_unsaved() {
            true => format!("{}; the hosts from before stay in force", chain(problem)),
            false => chain(problem),
        });
        let is_known = |name: &HostName| {
            name.is_via() || about == Some(name) || snapshot.file.hosts.contains_key(name)
        };
        // In a file that cannot be read the host may be, or the table be gone.
        let is_read = snapshot.problem.is_none() && loaded.problem.is_none();
        let nobodys = loaded.config.places.iter().filter(|(name, _)| is_read && !is_known(name));
        let nobodys =
            nobodys.map(|(name, at)| format!("{at}: there is no host for [hosts.{name}]"));
        hosts.chain(loaded.problem.clone()).chain(nobodys).collect()
    }
}

/// What clients are served with.
#[derive(Debug, Clone, Default)]
pub struct Service {
    /// Answers requests.
    pub router: Router,
    /// Counts those who come in.
    pub door: Door,
}

/// Returns the service of the whole API.
pub fn service(app: Arc<App>) -> Service {
    let Routes { router, alive, taken } = Routes::all();
    app.measured.know(taken.routes());
    let around = Around { app: Arc::clone(&app), taken, places: Places::default() };
    // One layer: axum copies all that stands behind a layer, for each request and each layer.
    let layers = ServiceBuilder::new()
        .layer(middleware::from_fn_with_state(Arc::new(around), around_all))
        .layer(DefaultBodyLimit::max(BODY_LIMIT));
    let door = app.measured.door().clone();
    // The sign of life waits for nothing, whatever else is being done.
    let router = router
        .fallback(no_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(layers)
        .merge(
            alive
                .method_not_allowed_fallback(wrong_method)
                .layer(middleware::from_fn_with_state(Arc::clone(&app), around_alive)),
        )
        .with_state(app);
    Service { router, door }
}

/// Returns the problem of a client for whom there is no place among so many.
pub fn no_place(most: usize) -> Box<Problem> {
    limits::too_many(format!("occd has {most} clients, and takes no more.")).into_problem()
}

/// Returns a problem as the answer to a request that no route sees.
pub fn refuse(problem: Box<Problem>) -> Response {
    let mut response = ApiError(problem).into_response();
    name_versions(&mut response);
    response
}

/// What stands around the routes.
struct Around {
    app: Arc<App>,
    taken: Taken,
    places: Places,
}

/// Around every route but the sign of life: what counts requests, and says of which version the answer is.
async fn around_all(State(around): State<Arc<Around>>, request: Request, next: Next) -> Response {
    let app = &around.app;
    let (timed, counted) = (measure::begin(&request), hand_over::count(app, &request));
    let (mut request, left) = unread::keep(request);
    // Before anything that the settings have a say in.
    if concerns_hosts(&request) {
        see_files(app).await;
    }
    let noted = audit::note(app, &mut request);
    let response = guarded(request, async |request| checked(&around, request, next).await).await;
    noted.answered(app, &response);
    let mut response = left.finish(response).await;
    name_versions(&mut response);
    timed.answered(app, counted.until_the_end_of(response))
}

async fn around_alive(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let timed = measure::begin(&request);
    let (request, left) = unread::keep(request);
    let response = guarded(request, async |request| next.run(request).await).await;
    let mut response = left.finish(response).await;
    name_versions(&mut response);
    timed.answered(&app, response)
}

/// What a request may be, and what is told about all hosts.
async fn checked(around: &Around, mut request: Request, next: Next) -> Response {
    let app = &around.app;
    if let Err(error) = doors::know(&mut request) {
        return error.into_response();
    }
    note_agent(app, &request);
    let concerns_hosts = concerns_hosts(&request);
    let nobody = Asker::default();
    let asker = Asker::seen(&request).unwrap_or(&nobody);
    let (seen_by, hides) = (shown::warnings(asker), asker.sees_less());
    let permitted = match doors::pass(app, &around.taken, &request) {
        Ok(None) => Ok(()),
        Ok(Some(asked)) => asked.permit(app).await,
        Err(refusal) => Err(refusal),
    };
    let mut response = match permitted {
        Ok(()) => {
            if let Some(asker) = Asker::seen(&request) {
                asker.trail.permitted();
            }
            placed(around, request, next).await
        }
        Err(refusal) => *refusal,
    };
    response = error::shown_to(hides, response);
    if concerns_hosts {
        let about = response.extensions().get::<About>().and_then(|about| about.0.clone());
        let warnings = app.warnings_beside(&app.hosts.current(), about.as_ref());
        for warning in seen_by(warnings) {
            if let Some(value) = header_value(&warning) {
                response.headers_mut().append(WARNING_HEADER, value);
            }
        }
    }
    response
}

/// Has a request done once it has a place, and tells in the answer's headers of host keys that were recorded for it.
async fn placed(around: &Around, mut request: Request, next: Next) -> Response {
    let news = Arc::new(News::default());
    request.extensions_mut().insert(Arc::clone(&news));
    let mut response = match around.places.place(request.uri().path()).await {
        Ok(_place) => once::once(&around.app, request, next).await,
        Err(error) => error.into_response(),
    };
    for key in news.take() {
        if let Some(value) = header_value(&key) {
            response.headers_mut().append(NEW_HOST_KEY_HEADER, value);
        }
    }
    response
}

fn name_versions(response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(VERSION_HEADER, HeaderValue::from_static(env!("CARGO_PKG_VERSION")));
    headers.insert(API_VERSION_HEADER, HeaderValue::from(API_VERSION));
    headers.insert(MIN_CLIENT_HEADER, HeaderValue::from_static(MIN_CLIENT));
}

/// Refuses what a browser would send: no page has business with this socket.
async fn guarded(request: Request, next: impl AsyncFnOnce(Request) -> Response) -> Response {
    let headers = request.headers();
    let forbidden = |detail| ApiError::new(StatusCode::FORBIDDEN, Code::Forbidden, detail);
    if headers.contains_key(header::ORIGIN) || headers.contains_key(header::REFERER) {
        return forbidden("Requests with an Origin or Referer header are refused.").into_response();
    }
    // RFC 9112, section 3.2.
    if request.version() == Version::HTTP_11 && headers.get_all(header::HOST).iter().count() != 1 {
        let detail = "An HTTP/1.1 request has one Host header: localhost or occd.";
        return ApiError::bad_request(detail).into_response();
    }
    // An absolute target counts like the header (RFC 9112, section 3.2.2).
    let target = request.uri().authority().map(|authority| authority.as_str());
    let hosts = headers.get_all(header::HOST).iter().map(|host| host.to_str().unwrap_or("?"));
    for host in hosts.chain(target) {
        let name = host.split_once(':').map_or(host, |(name, _port)| name);
        if !name.is_empty() && !HOSTS.iter().any(|ours| ours.eq_ignore_ascii_case(name)) {
            return forbidden("The Host header must be localhost or occd.").into_response();
        }
    }
    if request.method() == Method::GET {
        return next(request).await;
    }
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = next(request).await;
    tracing::info!(%method, path, status = response.status().as_u16(), "request");
    response
}

/// Remembers the agent that a client names.
fn note_agent(app: &App, request: &Request) {
    if let Some(socket) = request.headers().get(AGENT_HEADER) {
        app.pool.context().dial.agents.offer(Path::new(OsStr::from_bytes(socket.as_bytes())));
    }
}

/// Returns whether a request is to see the settings as they are on disk at this moment, and to be told why that is not
/// what is in force: it may be why it failed.
fn concerns_hosts(request: &Request) -> bool {
    let path = request.uri().path();
    [
        "/v1/hosts",
        "/v1/default-host",
        "/v1/sessions",
        "/v1/forwards",
        "/v1/grants",
        "/v1/ssh-config",
        "/v1/unlock",
    ]
    .iter()
    .any(|start| path.starts_with(start))
}

async fn see_files(app: &App) {
    in_time("occd.toml", app.refresh_config()).await;
    in_time("hosts.json", app.hosts_now()).await;
}

/// Waits for a look at a file, but not for long: a home directory on a network can hang, and what is in force is in memory.
async fn in_time<T>(file: &str, look: impl Future<Output = T>) {
    if timeout(FILES, look).await.is_err() {
        tracing::warn!("{file} could not be looked at in time");
    }
}

/// Returns a value as JSON in a header, which has no control characters.
fn header_value(value: &impl serde::Serialize) -> Option<HeaderValue> {
    let json = serde_json::to_vec(value).ok()?;
    HeaderValue::from_maybe_shared(Bytes::from(json)).ok()
}

async fn no_route() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, Code::NotFound, "There is no such route.")
}

async fn wrong_method(method: Method) -> ApiError {
    taken::takes_no(&method)
}
