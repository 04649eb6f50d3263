//! Making a connection: resolve, connect, key exchange, login; each phase with its own deadline.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use occ_proto::HostConfig;
use occ_proto::paths::expand_tilde;
use occ_proto::status::{Phase, TestStep};
use russh::client::Handle;
use russh::keys::Algorithm;
use russh::{Preferred, SshId, cipher};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::TaskTracker;

use super::agent::{AgentChoice, Agents};
use super::auth::{self, Credentials};
use super::connection::{Connection, Facts, identification};
use super::error::ConnectError;
use super::handler::{Handler, SessionError, Shared, loss_cause};
use super::host_key::{HostKeyPolicy, Unknown};
use super::inbox::SpillPolicy;
use super::known_hosts::KnownHosts;
use super::ssh_config::{Resolver, SshConfig, Strict};
use super::stream::{GuardedStream, StreamControl};
use crate::host::machine::ConnectionId;

/// How long a name may take to resolve.
const RESOLVE: Duration = Duration::from_secs(5);
/// How long TCP, the identification line and the key exchange may each take.
const PER_PHASE: Duration = Duration::from_secs(10);
/// How long written data may stay unacknowledged before the kernel gives the connection up.
const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// The bounds of a channel's receive window, and the rate it should allow. OpenSSH's own 2 MiB allow 40 MB/s
/// at a round trip of 50 ms. More than is needed costs the server: OpenSSH's buffers grow to the window,
/// and at 16 MiB on a near host it spends twice the time.
const WINDOW_MIN: u32 = 2 * 1024 * 1024;
const WINDOW_MAX: u32 = 16 * 1024 * 1024;
const WINDOW_BYTES_PER_SECOND: f64 = 330e6;
/// SSH's usual largest packet, which every server takes (RFC 4254, section 5.2).
const PACKET: u32 = 32 * 1024;

/// What is the same for all hosts.
#[derive(Debug)]
pub struct DialEnvironment {
    /// The home directory.
    pub home: PathBuf,
    /// The local login name, which is also the remote one unless something says otherwise.
    pub login_user: String,
    /// The agents that logins may ask.
    pub agents: Agents,
    /// Resolves names by ssh_config.
    pub resolver: Resolver,
    /// Where unread output is kept.
    pub spill: Arc<SpillPolicy>,
}

/// The settings of one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DialSettings {
    /// The whole dial.
    pub timeout: Duration,
    /// Keep-alive interval.
    pub keepalive_interval: Duration,
    /// Unanswered keep-alives after which the connection is dead.
    pub keepalive_count: u32,
    /// The round trip to the host, where an earlier connection measured it.
    pub known_rtt: Option<Duration>,
}

/// The steps of a dial, as `occ host test` shows them.
#[derive(Debug, Default)]
pub struct Steps(pub Vec<TestStep>);

impl Steps {
    /// Records a step that went well.
    pub fn ok(&mut self, name: &str, detail: String, since: Instant) {
        let ms = Some(since.elapsed().as_secs_f64() * 1000.0);
        self.0.push(TestStep { name: name.into(), ok: true, detail, ms });
    }

    /// Records a step that failed.
    pub fn failed(&mut self, name: &str, detail: String) {
        self.0.push(TestStep { name: name.into(), ok: false, detail, ms: None });
    }
}

/// Makes a connection. Whatever goes wrong, nothing of the attempt stays behind.
pub async fn dial(
    id: ConnectionId,
    config: &HostConfig,
    settings: &DialSettings,
    environment: &DialEnvironment,
    tasks: &TaskTracker,
    steps: &mut Steps,
) -> Result<Arc<Connection>, ConnectError> {
    let limit = Limit { end: Instant::now() + settings.timeout, whole: settings.timeout };

    let begun = Instant::now();
    let resolving = async {
        let target = resolve(config, environment).await?;
        let addresses = lookup(&target).await?;
        Ok::<_, ConnectError>((target, addresses))
    };
    // ssh -G and the lookup have limits of their own, so that the error names the one that is slow.
    let (target, addresses) = match timeout_at(limit.end, resolving).await {
        Ok(result) => result?,
        Err(_) => {
            return Err(ConnectError::Timeout { phase: Phase::Resolve, after: limit.whole });
        }
    };
    let origin = if target.from_ssh_config { "hosts.json, ssh_config" } else { "hosts.json" };
    steps.ok(
        "resolve",
        format!("{}:{} as {} ({origin})", target.address, target.port, target.credentials.user),
        begun,
    );

    let begun = Instant::now();
    let (tcp, peer) = connect(&addresses, limit).await?;
    // The handshake took one round trip; what an earlier connection measured is at least as good.
    let window = window(begun.elapsed().max(settings.known_rtt.unwrap_or_default()));
    steps.ok("connect", format!("TCP {peer}"), begun);

    let begun = Instant::now();
    let shared = Arc::new(Shared::new(Arc::clone(&environment.spill), window));
    let host_key = host_key_policy(&target, environment).await?;
    let preferred = preferred(&host_key);
    let (stream, control) = GuardedStream::new(tcp);
    let handler = Handler::new(Arc::clone(&shared), host_key);
    // From here on a task of russh's owns the stream; killing the stream is what ends it.
    let guard = KillOnDrop(Some(Arc::clone(&control)));
    let mut handle =
        handshake(stream, &control, handler, session_config(settings, preferred, window), limit)
            .await?;
    let trusted = shared.host_key.get().map(|key| {
        let word = if key.new { "new, recorded in known_hosts" } else { "known" };
        format!("{}, {word}", key.text)
    });
    steps.ok("host key", trusted.unwrap_or_default(), begun);

    let begun = Instant::now();
    let login = auth::login(&mut handle, &shared, &target.credentials, &environment.agents);
    let login = match timeout_at(limit.end, login).await {
        Ok(result) => result?,
        Err(_) => {
            return Err(ConnectError::Timeout {
                phase: Phase::Authentication,
                after: settings.timeout,
            });
        }
    };
    steps.ok("login", login.how.clone(), begun);

    let facts = Facts {
        user: target.credentials.user,
        peer: peer.to_string(),
        server: identification(&control.head()),
        login,
    };
    guard.disarm();
    Ok(Connection::start(id, handle, shared, control, facts, tasks.clone()))
}

/// The time that a dial has.
#[derive(Debug, Clone, Copy)]
struct Limit {
    /// When it ends.
    end: Instant,
    /// How long it was in all.
    whole: Duration,
}

impl Limit {
    /// Returns when a phase that begins now must end, and the limit that this comes from.
    fn of_a_phase(self) -> (Instant, Duration) {
        let end = Instant::now() + PER_PHASE;
        if self.end < end { (self.end, self.whole) } else { (end, PER_PHASE) }
    }
}

/// Kills the stream of a dial that is given up.
struct KillOnDrop(Option<Arc<StreamControl>>);

impl KillOnDrop {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(control) = &self.0 {
            control.kill();
        }
    }
}

/// Where to connect and how to log in.
#[derive(Debug)]
struct Target {
    address: String,
    port: u16,
    credentials: Credentials,
    ssh_config: SshConfig,
    from_ssh_config: bool,
}

/// Puts hosts.json over ssh_config over the defaults.
async fn resolve(
    config: &HostConfig,
    environment: &DialEnvironment,
) -> Result<Target, ConnectError> {
    let ssh_config =
        environment.resolver.resolve(&config.hostname, config.user.as_ref(), config.port).await?;
    if let Some(jump) = config.jump_host.as_deref().or(ssh_config.proxy_jump.as_deref()) {
        return Err(ConnectError::Unsupported(format!("a jump host ({jump})")));
    }
    if ssh_config.proxy_command.is_some() {
        return Err(ConnectError::Unsupported("a ProxyCommand".into()));
    }
    let home = Some(environment.home.as_path());
    let user = match config.user.as_ref().or(ssh_config.user.as_ref()) {
        Some(user) => user.as_str().to_owned(),
        None => environment.login_user.clone(),
    };
    let default_files = ["id_ed25519", "id_ecdsa", "id_rsa"];
    let in_ssh_dir = |name| environment.home.join(".ssh").join(name);
    let configured: Vec<PathBuf> =
        ssh_config.identity_files.iter().map(|path| expand_tilde(path, home)).collect();
    let defaults = if configured.is_empty() && !ssh_config.no_identity_files {
        default_files.map(in_ssh_dir).into()
    } else {
        Vec::new()
    };
    let credentials = Credentials {
        user,
        named: config.identity_file.as_deref().map(|path| expand_tilde(path, home)),
        configured,
        defaults,
        agent: agent(&ssh_config, &environment.home),
        identities_only: ssh_config.identities_only,
    };
    Ok(Target {
        address: ssh_config.hostname.as_ref().unwrap_or(&config.hostname).as_str().to_owned(),
        port: config.port.or(ssh_config.port).unwrap_or(22),
        credentials,
        from_ssh_config: ssh_config != SshConfig::default(),
        ssh_config,
    })
}

/// Returns which agent `IdentityAgent` allows (ssh_config(5)).
fn agent(ssh_config: &SshConfig, home: &Path) -> AgentChoice {
    match ssh_config.identity_agent.as_deref() {
        None | Some("SSH_AUTH_SOCK" | "$SSH_AUTH_SOCK") => AgentChoice::Known,
        Some("none") => AgentChoice::None,
        Some(word) => match word.strip_prefix('$') {
            // A variable of the daemon's own environment; one that is not set names no agent.
            Some(variable) => std::env::var_os(variable)
                .map_or(AgentChoice::None, |path| AgentChoice::Socket(path.into())),
            None => AgentChoice::Socket(expand_tilde(word, Some(home))),
        },
    }
}

async fn lookup(target: &Target) -> Result<Vec<SocketAddr>, ConnectError> {
    let host = target.address.clone();
    let error = |source| ConnectError::Resolve { host: target.address.clone(), source };
    let lookup = tokio::net::lookup_host((host.as_str(), target.port));
    let addresses: Vec<_> = match timeout(RESOLVE, lookup).await {
        Ok(result) => result.map_err(error)?.collect(),
        Err(_) => return Err(ConnectError::Timeout { phase: Phase::Resolve, after: RESOLVE }),
    };
    if addresses.is_empty() {
        return Err(error(std::io::Error::other("no address")));
    }
    Ok(addresses)
}

/// Connects to the first address that answers, in the resolver's order.
async fn connect(
    addresses: &[SocketAddr],
    limit: Limit,
) -> Result<(TcpStream, SocketAddr), ConnectError> {
    let (end, after) = limit.of_a_phase();
    let mut last = ConnectError::Timeout { phase: Phase::Connect, after };
    for (tried, addr) in addresses.iter().enumerate() {
        // What is left is shared among the addresses not yet tried.
        let share = end.saturating_duration_since(Instant::now())
            / u32::try_from(addresses.len() - tried).unwrap_or(1);
        match timeout(share, TcpStream::connect(addr)).await {
            Ok(Ok(tcp)) => {
                tune(&tcp).map_err(|source| ConnectError::Connect { addr: *addr, source })?;
                return Ok((tcp, *addr));
            }
            Ok(Err(source)) => last = ConnectError::Connect { addr: *addr, source },
            Err(_) => last = ConnectError::Timeout { phase: Phase::Connect, after },
        }
    }
    Err(last)
}

fn tune(tcp: &TcpStream) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(tcp).set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}

async fn host_key_policy(
    target: &Target,
    environment: &DialEnvironment,
) -> Result<HostKeyPolicy, ConnectError> {
    let home = Some(environment.home.as_path());
    let ssh_config = &target.ssh_config;
    let ssh_dir = environment.home.join(".ssh");
    let paths = |configured: &[String], defaults: [&Path; 2]| -> Vec<PathBuf> {
        if configured.is_empty() {
            defaults.iter().map(PathBuf::from).collect()
        } else {
            configured.iter().map(|path| expand_tilde(path, home)).collect()
        }
    };
    let user_files = paths(
        &ssh_config.user_known_hosts_files,
        [&ssh_dir.join("known_hosts"), &ssh_dir.join("known_hosts2")],
    );
    let mut files = user_files.clone();
    files.extend(paths(
        &ssh_config.global_known_hosts_files,
        [Path::new("/etc/ssh/ssh_known_hosts"), Path::new("/etc/ssh/ssh_known_hosts2")],
    ));
    let known = tokio::task::spawn_blocking(move || KnownHosts::load(&files))
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
        .map_err(ConnectError::KnownHosts)?;
    let unknown = match ssh_config.strict_host_key_checking {
        Strict::Yes => Unknown::Refuse,
        // `no` and `off` would also accept a changed key; that much trust is never given here.
        Strict::Unset | Strict::AcceptNew | Strict::No => Unknown::Record,
    };
    // An alias stands for host and port: it is filed as on port 22.
    let (host, port) = match &ssh_config.host_key_alias {
        Some(alias) => (alias.clone(), 22),
        None => (target.address.clone(), target.port),
    };
    Ok(HostKeyPolicy {
        host,
        port,
        known,
        unknown,
        file: user_files.into_iter().next().unwrap_or_else(|| ssh_dir.join("known_hosts")),
        hash: ssh_config.hash_known_hosts,
    })
}

/// Returns the algorithms to offer: the kinds of host key on record first, so that a server with several
/// shows one that is known; AES-GCM first where the processor has AES instructions, because it is then
/// twice as fast as ChaCha20.
fn preferred(policy: &HostKeyPolicy) -> Preferred {
    let mut preferred = Preferred::DEFAULT;
    let known = policy.known.known_algorithms(&policy.host, policy.port);
    let (mut first, rest): (Vec<_>, Vec<_>) =
        preferred.key.iter().cloned().partition(|algorithm| {
            known.iter().any(|k| *k == *algorithm || (is_rsa(k) && is_rsa(algorithm)))
        });
    first.extend(rest);
    preferred.key = first.into();
    if has_aes() {
        let mut ciphers = vec![cipher::AES_128_GCM, cipher::AES_256_GCM];
        ciphers.extend(preferred.cipher.iter().filter(|c| **c != cipher::AES_256_GCM).copied());
        preferred.cipher = ciphers.into();
    }
    preferred
}

fn is_rsa(algorithm: &Algorithm) -> bool {
    matches!(algorithm, Algorithm::Rsa { .. })
}

fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes")
        && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// Returns the receive window for a round trip.
fn window(rtt: Duration) -> u32 {
    let bytes = (rtt.as_secs_f64() * WINDOW_BYTES_PER_SECOND) as u32;
    bytes.clamp(WINDOW_MIN, WINDOW_MAX)
}

fn session_config(
    settings: &DialSettings,
    preferred: Preferred,
    window: u32,
) -> russh::client::Config {
    russh::client::Config {
        client_id: SshId::Standard(concat!("SSH-2.0-occd_", env!("CARGO_PKG_VERSION")).into()),
        window_size: window,
        maximum_packet_size: PACKET,
        preferred,
        inactivity_timeout: None,
        keepalive_interval: Some(settings.keepalive_interval),
        // Death is seen after (max + 1) intervals without a byte.
        keepalive_max: settings.keepalive_count as usize,
        nodelay: true,
        ..Default::default()
    }
}

/// Exchanges identifications and keys. The two waits have deadlines of their own, so that the error names
/// the one that failed.
async fn handshake(
    stream: GuardedStream,
    control: &Arc<StreamControl>,
    handler: Handler,
    config: russh::client::Config,
    limit: Limit,
) -> Result<Handle<Handler>, ConnectError> {
    let connecting = russh::client::connect_stream(Arc::new(config), stream, handler);
    tokio::pin!(connecting);
    let mut phase = Phase::Banner;
    let (mut end, mut after) = limit.of_a_phase();
    loop {
        match timeout_at(end, &mut connecting).await {
            Ok(Ok(handle)) => return Ok(handle),
            Ok(Err(SessionError::HostKey(error))) => return Err(*error),
            Ok(Err(SessionError::Russh(error))) => return Err(classify(error, control)),
            Err(_) if phase == Phase::Banner && control.identified() => {
                phase = Phase::KeyExchange;
                (end, after) = limit.of_a_phase();
            }
            Err(_) => {
                return Err(
                    no_identification(control).unwrap_or(ConnectError::Timeout { phase, after })
                );
            }
        }
    }
}

/// Returns what it means that a peer has said something, and not who it is.
fn no_identification(control: &StreamControl) -> Option<ConnectError> {
    let head = control.head();
    if control.identified() || head.is_empty() {
        return None;
    }
    let text = occ_proto::text::sanitize(&String::from_utf8_lossy(&head));
    // sshd's words to a client that it penalises, in place of its identification (sshd.c), and to one
    // that comes when MaxStartups is reached.
    let penalty = ["Not allowed at this time", "Exceeded MaxStartups"];
    Some(match penalty.into_iter().find(|word| text.contains(word)) {
        Some(word) => ConnectError::Penalised(word.into()),
        None => ConnectError::NotSsh(text.chars().take(60).collect()),
    })
}

/// Finds out what a failed handshake means from the error and the server's first words.
fn classify(error: russh::Error, control: &StreamControl) -> ConnectError {
    if let Some(error) = no_identification(control) {
        return error;
    }
    match error {
        russh::Error::NoCommonAlgo { kind, theirs, .. } => ConnectError::NoCommonAlgorithm {
            kind: format!("{kind:?}").to_lowercase(),
            theirs: occ_proto::text::sanitize(&theirs.join(",")),
        },
        russh::Error::Version => {
            let text = occ_proto::text::sanitize(&String::from_utf8_lossy(&control.head()));
            ConnectError::NotSsh(text.chars().take(60).collect())
        }
        error @ (russh::Error::IO(_)
        | russh::Error::HUP
        | russh::Error::Disconnect
        | russh::Error::Join(_)) => {
            let phase = if control.identified() { Phase::KeyExchange } else { Phase::Banner };
            ConnectError::Lost { phase, cause: loss_cause(&error) }
        }
        error => ConnectError::KeyExchange(error),
    }
}
