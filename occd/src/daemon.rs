//! The composition root: what the daemon is made of, in which order it starts and stops.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use occ_proto::Secret;
use occ_proto::paths::{Env, PathError, RUN_DIR};
use occ_proto::status::State;
use rustix::fs::{Access, access};
use rustix::io::Errno;
use tokio::net::UnixListener;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{self, App, AtWork, Changing, Measured, Once, PastOperations, Streams, Turns};
use crate::audit;
use crate::check::refuse_as_root;
use crate::config::{Config, ConfigError, ConfigFile, LiveConfig, Stamps};
use crate::container::{DockerSockets, Operations, Sandboxes};
use crate::events::{Changes, Events};
use crate::exec::Local;
use crate::files::{Files, LocalFiles};
use crate::forward::Forwards;
use crate::grants::Grants;
use crate::history;
use crate::host::HostContext;
use crate::hosts::HostsStore;
use crate::in_flight::InFlight;
use crate::logging::{self, Logging};
use crate::notify;
use crate::ownership::{self, Exposed};
use crate::policy::Guard;
use crate::pool::Pool;
use crate::process;
use crate::prompts::Prompts;
use crate::rest;
use crate::secrets::Secrets;
use crate::server::{self, Pulse};
use crate::session::Sessions;
use crate::socket::{
    self, LockFile, OwnedSocket, PassedSocket, SocketError, SocketFile, SocketLock,
};
use crate::ssh::SpillPolicy;
use crate::ssh::agent::Agents;
use crate::ssh::allowed::Allowed;
use crate::ssh::dial::DialEnvironment;
use crate::ssh::error::chain;
use crate::ssh::given_key;
use crate::ssh::hop::{Hops, HopsLink};
use crate::ssh::ssh_config::Resolver;
use crate::ssh::tap::Taps;
use crate::ssh::unlocked::UnlockedKeys;
use crate::state_file;
use crate::used::UsedFile;
use crate::wake;

/// How long what is nearly done has to end by itself when the daemon stops.
const MOMENT: Duration = Duration::from_secs(2);
/// How long running requests and connections may take to end after that.
const DRAIN: Duration = Duration::from_secs(7);
/// How long the audit log may take behind that: what waits is little.
const AUDIT: Duration = Duration::from_secs(1);

/// Why the daemon cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A path cannot be told.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Others could change what the daemon remembers, or where it logs to.
    #[error("the directory {path} {source}")]
    State {
        /// The directory.
        path: PathBuf,
        /// Who.
        source: Exposed,
    },
    /// What is remembered there is closed to this user, as root's is after `sudo occ`: taken for damaged, it would be lost.
    #[error("{} cannot be read and written", .path.display())]
    Closed {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Run by root, it would leave files there that the user cannot use.
    #[error(
        "{} belongs to user {owner}, who could not use what root leaves there: run it as that user, without sudo, or with root's own HOME (sudo -H)", .path.display()
    )]
    OfAnother {
        /// Whose directory it is, or the nearest one above that is there.
        path: PathBuf,
        /// The user's number.
        owner: u32,
    },
    /// Another daemon, on another socket, uses the state directory.
    #[error("another occd ({}) uses the state directory {}", holder(*.pid, .socket.as_deref()), .path.display())]
    StateInUse {
        /// The directory.
        path: PathBuf,
        /// The other one, as it wrote.
        pid: Option<u32>,
        /// Where it serves, as it wrote.
        socket: Option<PathBuf>,
    },
    /// The socket cannot be had.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// occd.toml is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The listener could not be used.
    #[error("the socket cannot be listened on")]
    Listen(#[source] std::io::Error),
}

/// Where the control socket comes from.
#[derive(Debug)]
pub enum Place {
    /// It is to be made there.
    Path(PathBuf),
    /// systemd has made it.
    Passed(PassedSocket),
}

impl Place {
    /// Returns where it is.
    fn path(&self) -> &Path {
        match self {
            Self::Path(path) => path,
            Self::Passed(passed) => passed.path(),
        }
    }
}

/// Everything that is decided before the runtime starts.
#[derive(Debug)]
pub struct Daemon {
    /// The read-only socket, or why there is none. It goes before the lock does.
    read_only: Result<(SocketFile, StdListener), SocketError>,
    socket: OwnedSocket,
    /// Held as long as this process runs.
    state_lock: Option<File>,
    /// The files of that and of the socket's lock.
    locks: Vec<LockFile>,
    listener: StdListener,
    env: Env,
    config: Config,
    config_file: ConfigFile,
    /// How the settings' files looked when they were read.
    config_stamp: Stamps,
    home: PathBuf,
    login_user: String,
    agent: Option<PathBuf>,
    given_key: Option<Secret>,
}

impl Daemon {
    /// Takes the lock and the socket. Called before the runtime exists: see [`SocketLock::bind`].
    ///
    /// `system_policy` is a policy as the system-wide one, beside that.
    pub fn bind(
        env: Env,
        system_policy: Option<PathBuf>,
        place: Place,
        login_user: String,
        agent: Option<PathBuf>,
        given_key: Option<Secret>,
    ) -> Result<Self, StartError> {
        let home = env.home("ssh keys and known_hosts")?.to_owned();
        refuse_as_root(&env)?;
        let config_file = ConfigFile::of(&env, system_policy)?;
        // A bad file is said before another daemon is disturbed.
        let config_stamp = config_file.stamp();
        let config = config_file.load()?;
        let state = env.state_dir()?;
        check_state_dir(&state)?;
        let lock = SocketLock::take(place.path(), [&state, &env.config_dir()?, &home])?;
        // Before the socket is there: nobody is to come to a daemon that ends for want of this.
        let held = lock_state_dir(&state, place.path())?;
        let locks = [lock.file(), LockFile::of(&state_lock(&state))];
        let locks = locks.into_iter().flatten().collect();
        let (socket, listener) = match place {
            Place::Path(_) => lock.bind()?,
            Place::Passed(passed) => lock.adopt(passed)?,
        };
        // Nobody needs it as they need the other: a path that is too long by its few letters is no reason to fail.
        let read_only = socket.bind_read_only();
        Ok(Self {
            socket,
            read_only,
            state_lock: held,
            locks,
            listener,
            env,
            config,
            config_file,
            config_stamp,
            home,
            login_user,
            agent,
            given_key,
        })
    }

    /// Returns how the lines of the log are to look.
    pub fn log_format(&self) -> logging::Format {
        self.config.log.format
    }

    /// Serves until `stop` is cancelled; the files are looked at when `reload` is notified, too. `ready` is called
    /// when clients are accepted.
    pub async fn run(
        self,
        stop: CancellationToken,
        reload: Arc<Notify>,
        log: Arc<Logging>,
        ready: impl FnOnce(),
    ) -> Result<(), StartError> {
        let tasks = TaskTracker::new();
        // Hosts outlive the clients while both wind down, so they have a token of their own.
        let hosts_stop = CancellationToken::new();
        let spill =
            SpillPolicy::new(self.env.state_dir()?.join("spill"), self.config.output.spill_limit());
        let given_key = self.given_key.and_then(|key| match given_key::parse(&key) {
            Ok(key) => Some(key),
            Err(error) => {
                tracing::error!("OCC_SSH_KEY in the environment of occd is {error}: not used");
                None
            }
        });
        let prompts = Arc::new(Prompts::default());
        let unlocked = Arc::new(UnlockedKeys::new(Arc::clone(&prompts), self.home.clone()));
        unlocked.set_lifetime(self.config.security.key_lifetime);
        tasks.spawn({
            let (unlocked, stop) = (Arc::clone(&unlocked), hosts_stop.clone());
            async move { unlocked.sweep(stop).await }
        });
        let secrets = Arc::new(Secrets::new(
            self.env.secrets_file()?,
            self.env.age_identity()?,
            self.home.clone(),
            Arc::clone(&prompts),
        ));
        secrets.set_enabled(self.config.keeps_passwords());
        let local =
            Arc::new(Local::new(self.home.clone(), tasks.clone(), hosts_stop.child_token()));
        let files = Files::new(
            LocalFiles::new(self.home.clone()),
            &self.env.state_dir()?,
            tasks.clone(),
            hosts_stop.child_token(),
        );
        let changes: Arc<Changes> = Arc::default();
        let (audit, audit_writer) = audit::open(&self.env.state_dir()?, &self.config.audit);
        // Of its own, for it ends when all that has something to say has ended.
        let (audit_task, audit_stop) = (TaskTracker::new(), CancellationToken::new());
        audit_task.spawn(audit_writer.run(audit_stop.clone()));
        audit_task.close();
        audit.note("daemon.start", None, format!("process {}", std::process::id()));
        let (recorder, writer, archive) = history::open(self.env.state_dir()?);
        let context = Arc::new(HostContext {
            dial: Arc::new(DialEnvironment {
                resolver: Resolver::new(self.home.clone()),
                hops: HopsLink::default(),
                allowed: Allowed::default(),
                turns: Arc::default(),
                home: self.home,
                login_user: self.login_user,
                agents: Arc::new(Agents::new(self.agent)),
                unlocked,
                given_key,
                secrets: Arc::clone(&secrets),
                prompts: Arc::clone(&prompts),
                spill: Arc::new(spill),
                taps: Taps::default(),
            }),
            changes: Arc::clone(&changes),
            tasks: tasks.clone(),
            recorder,
            clock: Arc::default(),
            use_changed: Arc::default(),
            stop: hosts_stop.clone(),
        });
        let used = Arc::new(UsedFile::open(&self.env.state_dir()?));
        let pool = Arc::new(Pool::new(Arc::clone(&context), used.saved(), hosts_stop.clone()));
        tasks.spawn(wake::watch(Arc::clone(&pool), Arc::clone(&context.clock), hosts_stop.clone()));
        tasks.spawn(writer.run(Arc::clone(&pool), hosts_stop.clone()));
        tasks.spawn(Arc::clone(&used).keep(Arc::clone(&pool), hosts_stop.clone()));
        let hops: Arc<dyn Hops> = Arc::clone(&pool) as _;
        context.dial.hops.set(Arc::downgrade(&hops));
        context.dial.allowed.set(self.config.allowed());
        let hosts = HostsStore::open(self.env.hosts_file_candidates()?);
        if let Some(problem) = &hosts.current().problem {
            tracing::error!(error = chain(problem), "hosts.json cannot be used");
        }
        let config = LiveConfig::new(self.config_file, self.config_stamp, self.config);
        let (asked, stopping) = (Arc::clone(&prompts), hosts_stop.clone());
        tasks.spawn(notify::run(asked, config.subscribe(), stopping));
        let guard = Arc::new(Guard::new(config.subscribe(), Arc::clone(&prompts), audit.clone()));
        let sandboxes =
            Arc::new(Sandboxes::new(Arc::clone(&changes), tasks.clone(), hosts_stop.child_token()));
        let app = Arc::new(App {
            grants: Arc::new(Grants::new(
                self.socket.path().parent().unwrap_or(Path::new("/")),
                &self.env.state_dir()?,
                audit.clone(),
                tasks.clone(),
                hosts_stop.child_token(),
            )),
            guard: Arc::clone(&guard),
            sandboxes: Arc::clone(&sandboxes),
            changes: Arc::clone(&changes),
            events: Events::default(),
            streams: Streams::among(server::most_clients()),
            docker_sockets: DockerSockets::new(
                self.socket.path().parent().unwrap_or(Path::new("/")),
                &self.env.state_dir()?,
                guard,
                tasks.clone(),
                hosts_stop.child_token(),
            ),
            forwards: Arc::new(Forwards::new(
                &self.env.state_dir()?,
                sandboxes,
                Arc::clone(&changes),
                tasks.clone(),
                hosts_stop.child_token(),
            )),
            sessions: Arc::new(Sessions::new(
                &self.env.state_dir()?,
                Arc::clone(&changes),
                tasks.clone(),
                hosts_stop.child_token(),
            )),
            operations: Operations::new(
                Arc::clone(&changes),
                tasks.clone(),
                hosts_stop.child_token(),
            ),
            files,
            local,
            past: PastOperations::load(&self.env.state_dir()?),
            at_work: AtWork::default(),
            turns: Turns::default(),
            changing: Changing::default(),
            once: Once::load(&self.env.state_dir()?),
            opencode_config: self.env.opencode_config_candidates()?,
            tasks: tasks.clone(),
            stop: hosts_stop.child_token(),
            pool,
            used,
            hosts: hosts.clone(),
            besides: Mutex::default(),
            config,
            traces: self.env.state_dir()?.join("traces"),
            socket: self.socket.path().to_owned(),
            read_only_socket: self.read_only.as_ref().ok().map(|(file, _)| file.path().to_owned()),
            archive,
            in_flight: InFlight::default(),
            measured: Measured::default(),
            log: Arc::clone(&log),
            end: stop.clone(),
            started_at: Timestamp::now(),
            // Last: what was damaged is known when it has been read.
            lacking: lacking(self.read_only.as_ref().err(), &self.env.state_dir()?),
        });

        let settings = app.config.current().config;
        app.reload(&hosts.current(), &settings).await;
        api::restore_auto_forwards(&app);

        let watchers = stop.child_token();
        {
            let (hosts, watchers) = (hosts.clone(), watchers.clone());
            tasks.spawn(async move { hosts.watch(watchers).await });
        }
        tasks.spawn(api::publish(Arc::clone(&app), watchers.clone()));
        tasks.spawn(api::notice_ends(Arc::clone(&app)));
        let (leaving, seen_leaving) = watch::channel(());
        tasks.spawn(rest::keep_small(app.events.watch(), seen_leaving, watchers.clone()));
        tasks.spawn(watch_config(Arc::clone(&app), watchers.clone()));
        tasks.spawn(log.keep(watchers.clone()));
        tasks.spawn(follow(Arc::clone(&app), watchers.clone()));
        tasks.spawn(reload_on(reload, Arc::clone(&app), watchers.clone()));
        let (ticks, end) = (context.clock.ticks(), stop.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = watchers.cancelled() => {}
                () = lost(&self.locks, ticks) => end.cancel(),
            }
        });

        let listener = UnixListener::from_std(self.listener).map_err(StartError::Listen)?;
        let clients = TaskTracker::new();
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            socket = %self.socket.path().display(),
            "ready"
        );
        ready();
        let service = api::service(Arc::clone(&app));
        // Another, so that a grant's clients take no places of the daemon's own.
        app.grants.serve_all(&api::service(Arc::clone(&app)));
        let pulse = process::watchdog_period().map(|period| {
            let pool = Arc::clone(&app.pool);
            Pulse { period, beat: Box::new(move || process::notify_alive(&connected(&pool))) }
        });
        let read_only_file = match self.read_only {
            Ok((file, listener)) => {
                let listener = UnixListener::from_std(listener).map_err(StartError::Listen)?;
                let service = api::service(Arc::clone(&app));
                tasks.spawn(server::serve_looks(listener, service, clients.clone(), stop.clone()));
                Some(file)
            }
            Err(_) => None,
        };
        let in_flight = app.in_flight.clone();
        drop(app);
        let clients_of = clients.clone();
        let stopping = stop.clone();
        let serving = server::serve(listener, service, clients_of, pulse, leaving, stopping);
        // A task, so that a worker thread accepts: this thread would have to be woken for each client, and
        // then wake a worker.
        if let Err(error) = tasks.spawn(serving).await {
            tracing::error!(%error, "clients are accepted no more");
        }

        tracing::info!("stopping");
        process::notify_stopping();
        prompts.close();
        clients.close();
        // What ends by itself in a moment is let end.
        let _ = timeout(MOMENT, in_flight.none()).await;
        // Hosts end at the same time: a command that runs for ever would otherwise hold its client, and
        // the client the daemon.
        hosts_stop.cancel();
        tasks.close();
        let ended = async { tokio::join!(secrets.lock(), clients.wait(), tasks.wait()) };
        let drained = timeout(DRAIN, ended).await;
        if drained.is_err() {
            tracing::warn!(
                clients = clients.len(),
                tasks = tasks.len(),
                "not everything ended in time; the rest is cut off"
            );
        }
        audit.note("daemon.stop", None, format!("process {}", std::process::id()));
        audit_stop.cancel();
        if timeout(AUDIT, audit_task.wait()).await.is_err() {
            tracing::warn!("the audit log lacks its last lines: the disk does not take them");
        }
        drop(read_only_file);
        // Before the socket's: whoever has seen that one free starts another daemon.
        drop(self.state_lock);
        drop(self.socket);
        tracing::info!("stopped");
        Ok(())
    }
}

/// Returns what a daemon lacks that has just read what it remembers, and logs it.
fn lacking(no_read_only: Option<&SocketError>, state: &Path) -> Vec<String> {
    let no_read_only =
        no_read_only.map(|error| format!("there is no read-only socket: {}", chain(error)));
    let lacking: Vec<String> = no_read_only.into_iter().chain(state_file::damaged(state)).collect();
    for what in &lacking {
        tracing::warn!("{what}");
    }
    lacking
}

/// Refuses a state directory that others can write to, or exchange, or in which something is closed to this user. One that is
/// not there is made private.
pub(crate) fn check_state_dir(path: &Path) -> Result<(), StartError> {
    ownership::check_way_to(path).map_err(|(path, source)| StartError::State { path, source })?;
    // Whoever writes there first says what is wrong.
    let Ok(metadata) = std::fs::metadata(path) else { return Ok(()) };
    ownership::check_strictly(&metadata)
        .map_err(|source| StartError::State { path: path.to_owned(), source })?;
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        let path = entry.path();
        // No daemon reads it again; and the directory of sockets is looked at by those who need it.
        if state_file::is_aside(&path) || path.ends_with(RUN_DIR) {
            continue;
        }
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let search = if is_dir { Access::EXEC_OK } else { Access::empty() };
        if let Err(error @ Errno::ACCESS) =
            access(&path, Access::READ_OK | Access::WRITE_OK | search)
        {
            return Err(StartError::Closed { path, source: error.into() });
        }
    }
    Ok(())
}

/// Returns the lock of a state directory.
pub(crate) fn state_lock(path: &Path) -> PathBuf {
    path.join("occd.lock")
}

/// Returns who another daemon is, for a person.
fn holder(pid: Option<u32>, socket: Option<&Path>) -> String {
    let pid = pid.map_or_else(|| "an unknown process".to_owned(), |pid| format!("process {pid}"));
    match socket {
        Some(socket) => format!("{pid}, on the socket {}", socket.display()),
        None => pid,
    }
}

/// Makes sure that no other daemon uses the state directory: each would write over what the other remembers.
fn lock_state_dir(path: &Path, serves: &Path) -> Result<Option<File>, StartError> {
    let made = DirBuilder::new().mode(0o700).recursive(true).create(path);
    match made.map(|()| socket::lock(&state_lock(path), &[serves])) {
        Ok(Ok(lock)) => Ok(Some(lock)),
        Ok(Err(SocketError::AlreadyRunning { pid, other: socket, .. })) => {
            Err(StartError::StateInUse { path: path.to_owned(), pid, socket })
        }
        Ok(Err(SocketError::Io { path, source, .. }))
            if path.symlink_metadata().is_ok_and(|meta| !meta.is_file()) =>
        {
            Err(StartError::Closed { path, source })
        }
        // Whoever writes there first says what is wrong. Not every file system has locks.
        Ok(Err(error)) => {
            tracing::warn!(error = chain(&error), "the state directory is not locked");
            Ok(None)
        }
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "the state directory cannot be made");
            Ok(None)
        }
    }
}

/// Brings the pool in line whenever hosts.json or occd.toml has changed.
async fn follow(app: Arc<App>, stop: CancellationToken) {
    let mut hosts = app.hosts.subscribe();
    let mut config = app.config.subscribe();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = hosts.changed() => if changed.is_err() { return },
            changed = config.changed() => if changed.is_err() { return },
        }
        let snapshot = Arc::clone(&hosts.borrow_and_update());
        if let Some(problem) = &snapshot.problem {
            tracing::error!(
                error = problem.for_log(),
                "hosts.json cannot be used; the last good one stays"
            );
        }
        let settings = Arc::clone(&config.borrow_and_update().config);
        app.apply(&snapshot, &settings).await;
    }
}

/// Waits until the files of all locks are gone, as when somebody has removed what is beside the socket and the state: no
/// client finds the daemon any more, and another one can start beside it.
async fn lost(locks: &[LockFile], mut ticks: watch::Receiver<()>) {
    while locks.is_empty() || !locks.iter().all(LockFile::is_lost) {
        if ticks.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
    tracing::error!(
        "the socket and the state were removed: nobody finds this daemon any more, and it ends"
    );
}

/// Returns how many hosts are connected, for a person.
fn connected(pool: &Pool) -> String {
    let hosts = pool.configured();
    let connected = hosts.iter().filter(|host| host.snapshot().state == State::Connected).count();
    format!("{connected} of {} hosts are connected.", hosts.len())
}

/// Looks at the files when told to (SIGHUP), and tells systemd about it.
async fn reload_on(reload: Arc<Notify>, app: Arc<App>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = reload.notified() => {}
        }
        process::notify_reloading();
        app.refresh_config().await;
        let snapshot = app.hosts.refresh().await;
        let settings = app.config.current().config;
        app.apply(&snapshot, &settings).await;
        tracing::info!("hosts.json and occd.toml were looked at");
        process::notify_reloaded();
    }
}

/// Loads occd.toml anew when it changes, also when nobody asks for anything.
async fn watch_config(app: Arc<App>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = app.config.due() => {}
        }
        app.refresh_config().await;
    }
}
