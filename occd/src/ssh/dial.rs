//! Making a connection: resolve, connect, key exchange, login; each phase with its own deadline.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use occ_proto::status::{Phase, SystemUnknown, TestStep};
use occ_proto::{HostConfig, HostName};
use russh::keys::PrivateKey;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use super::agent::Agents;
use super::agent_forward::AgentLender;
use super::algorithms::{Compression, Line, preferred};
use super::allowed::Allowed;
use super::auth::{self, LoginRequest};
use super::connection::{Connection, Facts, identification};
use super::error::{ConnectError, LossCause};
use super::handler::{Handler, Shared};
use super::hop::{Hop, HopDemand, HopsLink};
use super::host_key::{HostKeyPolicy, ShownKey};
use super::inbox::SpillPolicy;
use super::limit::Limit;
use super::proxy_command::{LastWords, ProxyCommand};
use super::seen::Seen;
use super::ssh_config::Resolver;
use super::stream::GuardedStream;
use super::tap::Taps;
use super::target::{Route, Target, resolve};
use super::tcp;
use super::transport::Transport;
use super::turns::{Lane, Turn, Turns};
use super::unlocked::UnlockedKeys;
use crate::host::machine::ConnectionId;
use crate::prompts::{Prompts, Questions};
use crate::secrets::Secrets;

mod handshake;
pub(crate) mod settings;

use handshake::{KillOnDrop, handshake, session_config, window};
pub use settings::DialSettings;
use settings::TIMEOUT;

/// How long after a login the turn is kept at most. sshd says that a login went well before it stops counting it
/// among those under way (MaxStartups); its answer to anything else comes after that.
const SETTLED: Duration = Duration::from_secs(2);
/// How long a jump host may take to give a sign of life where a test asks for one.
const ALIVE: Duration = Duration::from_secs(3);

/// What is the same for all hosts.
#[derive(Debug)]
pub struct DialEnvironment {
    /// The home directory.
    pub home: PathBuf,
    /// The local login name, which is also the remote one unless something says otherwise.
    pub login_user: String,
    /// The agents that logins may ask.
    pub agents: Arc<Agents>,
    /// The keys that are open.
    pub unlocked: Arc<UnlockedKeys>,
    /// The key in the daemon's own environment.
    pub given_key: Option<Arc<PrivateKey>>,
    /// The passwords that are kept.
    pub secrets: Arc<Secrets>,
    /// Questions to people.
    pub prompts: Arc<Prompts>,
    /// Resolves names by ssh_config.
    pub resolver: Resolver,
    /// Keeps the connections of jump hosts.
    pub hops: HopsLink,
    /// What may be connected to.
    pub allowed: Allowed,
    /// Whose turn it is to dial.
    pub turns: Arc<Turns>,
    /// Where unread output is kept.
    pub spill: Arc<SpillPolicy>,
    /// Who traces hosts.
    pub taps: Taps,
}

impl DialEnvironment {
    /// Returns one for single dials: everything is below one directory, and there is no agent, no key of the
    /// daemon's own and nobody to ask.
    #[doc(hidden)]
    pub fn alone(home: &Path) -> Self {
        let prompts = Arc::new(Prompts::default());
        Self {
            unlocked: Arc::new(UnlockedKeys::new(Arc::clone(&prompts), home.to_owned())),
            secrets: Arc::new(Secrets::new(
                home.join("passwords.age"),
                home.join("age-identity.txt"),
                home.to_owned(),
                Arc::clone(&prompts),
            )),
            prompts,
            given_key: None,
            home: home.to_owned(),
            login_user: "nobody".into(),
            agents: Arc::default(),
            resolver: Resolver::new(home.to_owned()),
            hops: HopsLink::default(),
            allowed: Allowed::default(),
            turns: Arc::default(),
            spill: Arc::new(SpillPolicy::new(home.join("spill"), 1 << 30)),
            taps: Taps::default(),
        }
    }
}

/// The steps of a dial, as `occ host test` shows them.
#[derive(Debug, Default)]
pub struct Steps {
    /// Those that were taken.
    pub taken: Vec<TestStep>,
    /// How long the dial waited for its turn, which is no part of any.
    pub waited: Duration,
}

impl Steps {
    /// Records a step that went well.
    pub fn ok(&mut self, name: &str, detail: String, since: Instant) {
        let ms = Some(since.elapsed().as_secs_f64() * 1000.0);
        self.taken.push(TestStep { name: name.into(), ok: true, detail, ms });
    }

    /// Records a step that failed.
    pub fn failed(&mut self, name: &str, detail: String) {
        self.taken.push(TestStep { name: name.into(), ok: false, detail, ms: None });
    }
}

/// One dial: of which host, for whom, and with what.
#[derive(Debug)]
pub struct Dial<'a> {
    /// The generation of the connection to be made.
    pub id: ConnectionId,
    /// The host's name, if it has one in the pool.
    pub name: Option<&'a HostName>,
    /// Its configuration.
    pub config: &'a HostConfig,
    /// Its settings.
    pub settings: &'a DialSettings,
    /// Who wants it, which decides whether a jump host that is down is dialled.
    pub demand: HopDemand,
    /// When the host was last used: what is used more comes first.
    pub used: Option<Timestamp>,
    /// Whether the connection lends the agent, where the host is allowed to have it: nothing else goes over it.
    pub lend_agent: bool,
    /// Whether the jump host must give a sign of life first.
    pub looks_at_hop: bool,
    /// Who can be asked.
    pub questions: &'a Arc<Questions>,
    /// What is the same for all hosts.
    pub environment: &'a DialEnvironment,
    /// For what it looks at.
    pub seen: &'a Seen,
    /// Owns the connection's tasks.
    pub tasks: &'a TaskTracker,
}

impl Dial<'_> {
    /// Returns the key that the server shows, without logging in.
    pub async fn host_key(&self) -> Result<ShownKey, ConnectError> {
        let shown = Arc::new(OnceLock::new());
        let mut steps = Steps::default();
        let dialled = Box::pin(self.connect(&mut steps, Some(Arc::clone(&shown)))).await;
        match (dialled, shown.get()) {
            (_, Some(shown)) => Ok(shown.clone()),
            (Err(error), None) => Err(error),
            // Nothing logs in before the key is seen.
            (Ok(_), None) => Err(ConnectError::Reviewed),
        }
    }

    /// Makes the connection. Whatever goes wrong, nothing of the attempt stays behind.
    pub async fn run(&self, steps: &mut Steps) -> Result<Arc<Connection>, ConnectError> {
        let (host, id) = (self.name.map(HostName::as_str), self.id.0);
        tracing::info!(host, id, phase = Phase::Config.as_str(), class = "attempt", "dialling");
        // Boxed: it is large, and rare.
        let result = Box::pin(self.connect(steps, None)).await;
        if let Err(error) = &result {
            tracing::warn!(
                host,
                id,
                phase = error.phase().as_str(),
                class = error.class(),
                code = error.code().as_str(),
                error = error.for_log(),
                "the dial failed"
            );
        }
        result
    }

    /// Makes the connection, unless the server's key is only to be looked at: it is then put into `review`.
    async fn connect(
        &self,
        steps: &mut Steps,
        review: Option<Arc<OnceLock<ShownKey>>>,
    ) -> Result<Arc<Connection>, ConnectError> {
        let settings = self.settings;
        let environment = self.environment;
        let questions = self.questions;
        let limit = Limit::from_now(settings.timeout, TIMEOUT, questions);

        let begun = Instant::now();
        let resolving = resolve(self.config, environment);
        let target = limit.bound(Phase::Resolve, questions, resolving).await?;
        self.seen.set_files(&target, &environment.home);
        environment.allowed.check(target.as_server())?;
        let mut limit = match (settings.timeout, target.ssh_config.connect_timeout) {
            (None, Some(set)) => limit.of_length(set),
            _ => limit,
        };
        let request = LoginRequest {
            credentials: &target.credentials,
            host: self.name,
            server: target.server(),
            methods: settings.methods,
            questions,
            environment,
            seen: self.seen,
        };
        // Before anything is sent: a server gives a login two minutes, and a person may need longer.
        let mut locked = None;
        if review.is_none() {
            let unlocking = auth::unlock_first(&request);
            locked = limit.bound(Phase::Authentication, questions, unlocking).await?;
        }
        let user = &target.credentials.user;
        let place = format!("{}:{} as {user} ({})", target.address, target.port, target.origin());
        let mut way = self.way(&target, place, &mut limit, steps, begun).await?;
        // The time it took to open was one round trip; what an earlier connection measured is as good.
        let rtt = way.rtt.max(settings.line.rtt.unwrap_or_default());
        let line = Line { rtt: Some(rtt), ..settings.line };

        let begun = Instant::now();
        let tap = self.name.map(|host| environment.taps.of(host)).unwrap_or_default();
        let shared = Arc::new(Shared::new(Arc::clone(&environment.spill), window(rtt), tap));
        let mut host_key = HostKeyPolicy::load(
            &target.ssh_config,
            &target.address,
            target.port,
            &environment.home,
        )
        .await?;
        host_key.review = review;
        if let Some(unknown) = settings.unknown_host_key {
            host_key.unknown = unknown;
        }
        host_key.asking = Some((self.name.cloned(), Arc::clone(questions)));
        let ssh_config = &target.ssh_config;
        let compression = match (settings.compression, ssh_config.compression) {
            (Some(ours), _) => ours,
            (None, Some(true)) => Compression::On,
            (None, _) => Compression::Auto,
        };
        let preferred = preferred(&host_key, &ssh_config.algorithms, compression, line)?;
        let (stream, control) = GuardedStream::new(way.transport);
        let follow = (!ssh_config.keep_host_keys).then(|| host_key.clone());
        let handler = Handler::new(Arc::clone(&shared), host_key);
        // From here on a task of russh's owns the stream; killing the stream is what ends it.
        let guard = KillOnDrop(Some(Arc::clone(&control)));
        let config = session_config(settings, ssh_config, preferred, window(rtt));
        let shaken = handshake(stream, &control, handler, config, limit, questions).await;
        let mut handle = match shaken {
            Ok(handle) => handle,
            Err(ConnectError::Lost { phase, .. })
                if let Some(end) = end_of_hop(&way.hop, phase) =>
            {
                return Err(end);
            }
            Err(ConnectError::Lost { phase, cause }) => {
                let cause = way.words.explain(shared.told_cause().unwrap_or(cause)).await;
                return Err(match cause {
                    LossCause::ProxyCommand(how) if phase == Phase::Banner => {
                        let not_run = way.words.was_not_run();
                        ConnectError::ProxyCommandEnded { how, not_run }
                    }
                    cause => ConnectError::Lost { phase, cause },
                });
            }
            Err(ConnectError::Timeout { phase: Phase::Banner, after })
                if way.words.is_program() =>
            {
                let how = way.words.silence(after);
                return Err(ConnectError::ProxyCommandEnded { how, not_run: false });
            }
            Err(error) => return Err(error),
        };
        let trusted =
            shared.host_key.get().map(|key| format!("{}, {}", key.text, key.standing.word()));
        steps.ok("host key", trusted.unwrap_or_default(), begun);

        let begun = Instant::now();
        if settings.timeout.is_none() && ssh_config.connect_timeout.is_some() {
            // ConnectTimeout ends with the key exchange (ssh_config(5)).
            limit = Limit::from_now(None, TIMEOUT, questions);
        }
        let login = auth::login(&mut handle, &shared, &request);
        let login = Box::pin(way.turn.around(questions, login));
        let login = match limit.bound(Phase::Authentication, questions, login).await {
            // There would have been one, had somebody opened it.
            Err(ConnectError::NoIdentity { .. }) if let Some(locked) = locked => {
                return Err(locked);
            }
            Err(ConnectError::ClosedAtLogin { .. } | ConnectError::Lost { .. })
                if let Some(end) = end_of_hop(&way.hop, Phase::Authentication) =>
            {
                return Err(end);
            }
            login => login?,
        };
        steps.ok("login", login.how.clone(), begun);

        let lends = target.lends_agent(settings.forward_agent, &environment.home);
        if self.lend_agent
            && let Some(choice) = &lends
        {
            let session = handle.agent_session_binding().cloned();
            let agents = Arc::clone(&environment.agents);
            shared.lend(AgentLender::new(choice.clone(), agents, session, self.tasks.clone()));
        }
        let facts = Facts {
            lends,
            agents: Arc::clone(&environment.agents),
            granted: settings.granted,
            unasked: match (settings.no_probe, settings.forced) {
                (true, _) => Some(SystemUnknown::ProbeOff),
                (false, true) => Some(SystemUnknown::ForcedCommand),
                (false, false) => None,
            },
            keepalive: settings.asks_after(&target.ssh_config),
            user: target.credentials.user,
            peer: way.peer,
            hop: way.hop,
            server: identification(&control.head()),
            login,
        };
        guard.disarm();
        let tasks = self.tasks.clone();
        let turns = Arc::clone(&environment.turns);
        // The probe is work for the server, too: logins that others wait for come first.
        let lane = way.turn.lane().clone();
        let calm = async move { turns.calm(&lane).await };
        let connection = Connection::start(self.id, handle, shared, control, facts, tasks, calm);
        if !self.lend_agent {
            // For the log: now, and not only with the first command.
            let _ = connection.lends();
        }
        let (turn, made) = (way.turn, Arc::clone(&connection));
        self.tasks.spawn(async move {
            // No matter whether it came: the turn must not be lost.
            let _ = timeout(SETTLED, made.round_trip()).await;
            drop(turn);
        });
        if let Some(policy) = follow {
            connection.follow_host_keys(policy);
        }
        Ok(connection)
    }

    /// Opens the way to the server.
    async fn way(
        &self,
        target: &Target,
        place: String,
        limit: &mut Limit,
        steps: &mut Steps,
        begun: Instant,
    ) -> Result<Way, ConnectError> {
        let questions = self.questions;
        let (address, port) = (target.address.as_str(), target.port);
        let peer = target.server();
        match &target.route {
            Route::Direct => {
                let looking = tcp::lookup(address, port);
                let addresses = limit.bound(Phase::Resolve, questions, looking).await?;
                for found in &addresses {
                    let allowed = &self.environment.allowed;
                    allowed.check_resolved(target.as_server(), found.ip())?;
                }
                steps.ok("resolve", place, begun);
                let turn = self.turn(Lane::Server(address.to_owned(), port), limit, steps).await;
                let begun = Instant::now();
                let phase = limit.of_a_phase(questions);
                let connecting = tcp::connect(&addresses, target.ssh_config.local);
                let (tcp, peer) = phase.bound(Phase::Connect, questions, connecting).await?;
                steps.ok("connect", format!("TCP {peer}"), begun);
                Ok(Way {
                    transport: Transport::Tcp(tcp),
                    turn,
                    peer: peer.to_string(),
                    hop: None,
                    rtt: begun.elapsed(),
                    words: LastWords::default(),
                })
            }
            Route::Jump(chain) => {
                steps.ok("resolve", place, begun);
                let begun = Instant::now();
                let hops = self.environment.hops.get().ok_or(ConnectError::ShuttingDown)?;
                // Not a turn of ours: the jump host's own dial takes one.
                let end = limit.end(questions);
                let hop = hops.connect(self.name, chain, self.demand, end, questions).await?;
                if self.looks_at_hop {
                    // It may have gone without a word, and not been found out yet.
                    let alive = timeout(ALIVE, hop.connection.round_trip()).await;
                    if alive.is_err() || hop.connection.is_closed() {
                        let (phase, cause) = (Phase::Established, LossCause::Asleep);
                        let source = Arc::new(ConnectError::Lost { phase, cause });
                        return Err(ConnectError::Hop {
                            name: hop.name,
                            source,
                            next_retry_at: None,
                        });
                    }
                }
                steps.ok("jump", hop.name.to_string(), begun);
                let turn = self.turn(Lane::Hop(hop.name.clone()), limit, steps).await;
                let begun = Instant::now();
                let opening = hop.connection.transport(address, port);
                let opening = async {
                    opening.await.map_err(|source| {
                        let (name, peer) = (hop.name.clone(), peer.clone());
                        hop.end_during(Phase::Connect).unwrap_or(ConnectError::HopConnect {
                            name,
                            peer,
                            source,
                        })
                    })
                };
                let phase = limit.of_a_phase(questions);
                let channel = phase.bound(Phase::Connect, questions, opening).await?;
                steps.ok("connect", format!("{peer} from {}", hop.name), begun);
                Ok(Way {
                    transport: Transport::Channel(Box::new(channel.into_stream())),
                    turn,
                    peer,
                    hop: Some(hop),
                    rtt: begun.elapsed(),
                    words: LastWords::default(),
                })
            }
            Route::Command(line) => {
                if let Some(by) = self.settings.no_proxy_commands {
                    return Err(ConnectError::ProxyCommandForbidden(by));
                }
                steps.ok("resolve", place, begun);
                let turn = self.turn(Lane::Server(address.to_owned(), port), limit, steps).await;
                let begun = Instant::now();
                let (command, words) = ProxyCommand::start(line, self.tasks)
                    .map_err(|source| ConnectError::ProxyCommand { source })?;
                steps.ok("connect", "ProxyCommand started".into(), begun);
                Ok(Way {
                    transport: Transport::Command(Box::new(command)),
                    turn,
                    peer,
                    hop: None,
                    rtt: Duration::ZERO,
                    words,
                })
            }
        }
    }

    /// Waits for a turn. The time is nobody's fault, so it is not the dial's.
    async fn turn(&self, lane: Lane, limit: &mut Limit, steps: &mut Steps) -> Turn {
        let begun = Instant::now();
        let turn = self.environment.turns.turn(self.name, lane, self.demand, self.used).await;
        steps.waited += begun.elapsed();
        limit.extend(begun.elapsed());
        turn
    }
}

/// An open way to a server.
struct Way {
    transport: Transport,
    peer: String,
    hop: Option<Hop>,
    /// How long a round trip takes at most, if that was to be seen.
    rtt: Duration,
    /// What the program on the way says.
    words: LastWords,
    /// Held until the login is made: a server counts who has not logged in.
    turn: Turn,
}

/// Returns the failure of a dial that was cut off with its jump host's connection, if it was.
fn end_of_hop(hop: &Option<Hop>, phase: Phase) -> Option<ConnectError> {
    hop.as_ref().and_then(|hop| hop.end_during(phase))
}
