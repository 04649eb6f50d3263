//! occd.toml: our own settings, beside hosts.json. Every key has a default; an unknown key is an error
//! that names the line.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use occ_proto::HostName;
use occ_proto::session::SessionHost;
use occ_proto::wording::in_words;
use serde::de::IntoDeserializer as _;
use serde::{Deserialize, Deserializer};
use toml::de::DeTable;

#[cfg(test)]
mod documented;
mod file;
mod live;
mod system;
mod workspaces;

pub use file::{ConfigFile, Stamps};
pub use live::{LiveConfig, LoadedConfig};
pub use system::{Feature, SystemPolicy};
pub use workspaces::Workspaces;

use crate::audit::AuditConfig;
use crate::container::SandboxConfig;
use crate::host::backoff::Caps;
use crate::host::machine::Limits;
use crate::logging;
use crate::ownership::Exposed;
use crate::policy::{self, Policy, PolicyConfig, RulePlace};
use crate::sealed::SealError;
use crate::ssh::allowed::AllRules;
use crate::ssh::auth::Methods;
use crate::ssh::dial::DialSettings;
use crate::ssh::error::chain;
use crate::ssh::host_key::Unknown;
use crate::ssh::{Compression, Line};
use crate::used::Autoconnect;

/// The shortest time that can be set: what is shorter would only make work.
const SHORTEST: Duration = Duration::from_millis(100);
/// The longest that a server may be silent, or a dial last: what is longer is a slip of the finger.
const LONGEST_SILENCE: Duration = Duration::from_secs(24 * 3600);
/// The longest of all other times: ten years.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The whole file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct Config {
    /// Settings for all hosts.
    pub connection: ConnectionConfig,
    /// What is kept for slow readers.
    pub output: OutputConfig,
    /// Secrets.
    pub security: SecurityConfig,
    /// The daemon's log.
    pub log: LogConfig,
    /// The audit log.
    pub audit: AuditConfig,
    /// How much at a time.
    pub limits: LimitsConfig,
    /// Questions to people.
    pub prompts: PromptsConfig,
    /// Ports of this machine.
    pub forwards: ForwardsConfig,
    /// What may be done, on all hosts and on this machine.
    pub policy: PolicyConfig,
    /// This machine's own Docker.
    pub local: LocalConfig,
    /// Settings for single hosts, over those for all.
    pub hosts: BTreeMap<HostName, HostSettings>,
    /// Where the tables of those are: the file, and the line if it is known.
    #[serde(skip)]
    pub places: BTreeMap<HostName, String>,
    /// What the administrator of this machine has to say, which goes before all of it.
    #[serde(skip)]
    pub system: Vec<SystemPolicy>,
}

/// `[connection]`, and the same keys under `[hosts.NAME]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct ConnectionConfig {
    /// The longest a dial may take, such as `"15s"`.
    #[serde(deserialize_with = "silence")]
    pub connect_timeout: Option<Duration>,
    /// Time without a byte after which a keep-alive is sent.
    #[serde(deserialize_with = "silence")]
    pub keepalive_interval: Option<Duration>,
    /// Unanswered keep-alives after which a connection is dead.
    #[serde(deserialize_with = "at_least_one")]
    pub keepalive_count: Option<u32>,
    /// Failed dials in a row after which a host is failed; 0, the default, means never.
    pub max_retries: Option<u32>,
    /// The longest time between two dials.
    #[serde(deserialize_with = "duration")]
    pub max_backoff: Option<Duration>,
    /// The same for a host that has been down for 30 minutes.
    #[serde(deserialize_with = "duration")]
    pub max_backoff_long_down: Option<Duration>,
    /// Time after which a command is ended that says nothing of its own; none unless set.
    #[serde(deserialize_with = "duration")]
    pub command_timeout: Option<Duration>,
    /// Time after which a host that nobody uses is disconnected; never unless set.
    #[serde(deserialize_with = "duration")]
    pub idle_timeout: Option<Duration>,
    /// Connections of one host at a time.
    #[serde(deserialize_with = "at_least_one")]
    pub max_connections: Option<u32>,
    /// Whether the host is connected before anybody asks: `"recent"`, `"all"` or `"none"`.
    pub autoconnect: Option<Autoconnect>,
    /// Whether to compress: `"auto"`, `"on"` or `"off"`.
    pub compression: Option<Compression>,
    /// What happens to a host key that is not on record: `"accept-new"`, `"ask"` or `"yes"`, which refuses it.
    #[serde(deserialize_with = "strictness")]
    pub strict_host_key_checking: Option<Unknown>,
}

/// `[hosts.NAME]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct HostSettings {
    /// Settings of the connection.
    pub connection: ConnectionConfig,
    /// The Docker socket on the host, where it is not in a usual place.
    #[serde(deserialize_with = "absolute")]
    pub docker_socket: Option<String>,
    /// Where commands run on the host that name no directory; where the login begins, unless set. May begin with `~/`.
    #[serde(deserialize_with = "directory")]
    pub directory: Option<String>,
    /// Directories here and what they are on the host: a command that is typed in one runs in the other.
    pub workspaces: Workspaces,
    /// Whether the host is asked, by a command at each login, for its shell, system and Docker sockets. One that
    /// runs one command whatever is asked for (ForceCommand) would run that.
    pub probe: Option<bool>,
    /// Whether commands on the host may use the user's ssh-agent; what `ForwardAgent` says, unless set.
    pub forward_agent: Option<bool>,
    /// What a login may ask of a person beside keys: `"password"`, `"keyboard-interactive"`.
    pub auth: Vec<AuthMethod>,
    /// How the opencode sandbox is made there.
    pub sandbox: SandboxConfig,
    /// What may be done there, over `[policy]`.
    pub policy: PolicyConfig,
}

/// A way to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuthMethod {
    /// Always allowed, and always tried first.
    Publickey,
    /// A password.
    Password,
    /// Questions of the server's, such as one-time codes.
    KeyboardInteractive,
}

/// `[security]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct SecurityConfig {
    /// Whether any host may be logged in to with a password or keyboard-interactive.
    pub passwords: bool,
    /// Whether the ProxyCommand of ssh_config is run.
    pub proxy_commands: bool,
    /// Whether a person is offered to have a password kept, and kept ones are used.
    pub keep_passwords: bool,
    /// How long an unlocked key stays in memory; until the daemon stops, unless set.
    #[serde(deserialize_with = "duration")]
    pub key_lifetime: Option<Duration>,
}

impl Default for SecurityConfig {
    fn default() -> Self {
        Self { passwords: true, proxy_commands: true, keep_passwords: true, key_lifetime: None }
    }
}

/// `[prompts]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct PromptsConfig {
    /// Whether the desktop is told of a question that nobody answers.
    pub notify: bool,
}

impl Default for PromptsConfig {
    fn default() -> Self {
        Self { notify: true }
    }
}

/// `[limits]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct LimitsConfig {
    /// The most operations at a time, on all hosts and this machine.
    #[serde(deserialize_with = "from_one")]
    pub max_operations: NonZeroUsize,
    /// The most on one of them.
    #[serde(deserialize_with = "from_one")]
    pub max_operations_per_host: NonZeroUsize,
    /// How long a client that takes nothing of a stream is waited for, where it can come back for the rest; for ever if none.
    #[serde(deserialize_with = "duration_or_zero")]
    pub stream_idle_timeout: Option<Duration>,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            max_operations: NonZeroUsize::MIN.saturating_add(4095),
            max_operations_per_host: NonZeroUsize::MIN.saturating_add(2047),
            stream_idle_timeout: Some(Duration::from_secs(600)),
        }
    }
}

/// `[output]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct OutputConfig {
    /// The most unread output of one command that is kept on disk, in MiB.
    pub spill_limit_mib: u64,
}

impl OutputConfig {
    /// Returns the most unread output of one command that is kept on disk, in bytes.
    pub fn spill_limit(&self) -> u64 {
        self.spill_limit_mib.saturating_mul(1024 * 1024)
    }
}

impl Default for OutputConfig {
    fn default() -> Self {
        Self { spill_limit_mib: 1024 }
    }
}

/// `[log]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct LogConfig {
    /// How its lines look: `"text"` or `"json"`. Read when the daemon starts.
    pub format: logging::Format,
}

/// `[local]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct LocalConfig {
    /// The Docker socket; else the one that the docker program would use.
    #[serde(deserialize_with = "absolute")]
    pub docker_socket: Option<PathBuf>,
    /// How the opencode sandbox is made here, over config.json.
    pub sandbox: SandboxConfig,
    /// What may be done here, over `[policy]`.
    pub policy: PolicyConfig,
}

/// `[forwards]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct ForwardsConfig {
    /// The port of this machine where `http://NAME.localhost` leads to the sandbox of the host NAME; 0 for none.
    pub by_name_port: u16,
}

impl ForwardsConfig {
    /// Returns that port, if there is to be one.
    pub fn by_name(&self) -> Option<u16> {
        (self.by_name_port != 0).then_some(self.by_name_port)
    }
}

impl Default for ForwardsConfig {
    fn default() -> Self {
        Self { by_name_port: 4180 }
    }
}

/// What is in force for one host.
#[derive(Debug, Clone, PartialEq)]
pub struct EffectiveSettings {
    /// For the dial.
    pub dial: DialSettings,
    /// For the backoff.
    pub caps: Caps,
    /// For the state machine.
    pub limits: Limits,
    /// Time after which a command is ended that sets no limit of its own.
    pub command_timeout: Option<Duration>,
    /// Time after which the host is disconnected if nobody uses it.
    pub idle_timeout: Option<Duration>,
    /// Connections of the host at a time.
    pub max_connections: usize,
    /// Whether it is connected before anybody asks.
    pub autoconnect: Autoconnect,
    /// The Docker socket, if set.
    pub docker_socket: Option<String>,
    /// Where commands run that name no directory, if set.
    pub directory: Option<String>,
    /// Directories here and what they are on the host.
    pub workspaces: Workspaces,
}

/// Why occd.toml cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("{path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Somebody else could have written it.
    #[error("{path} {source}")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Who.
        source: Exposed,
    },
    /// It is encrypted, and cannot be opened.
    #[error("{path} cannot be opened")]
    Sealed {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: SealError,
    },
    /// The same of a system-wide policy.
    #[error("{path}, line {line}, column {column}: {message}")]
    System {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column, in characters from 1.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// It does not parse, or a value is out of range.
    #[error("{path}, line {line}: {message}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line, from 1; 0 when the place is not known.
        line: usize,
        /// What is wrong.
        message: String,
    },
}

impl ConfigError {
    /// Returns it for the log, where nothing is that stands in the file: the place of what is wrong with it.
    pub fn for_log(&self) -> String {
        match self {
            Self::System { path, line, .. } | Self::Invalid { path, line, .. } => {
                format!("{}, line {line}; occ doctor says what is wrong there", path.display())
            }
            _ => chain(self),
        }
    }
}

impl Config {
    fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let mut config: Self = toml::from_str(text).map_err(|error| ConfigError::Invalid {
            path: path.to_owned(),
            line: error.span().map_or(0, |span| line_of(text, span.start)),
            message: in_words(error.message()),
        })?;
        config.places = places(text, path);
        let of_hosts = config.hosts.values_mut().map(|host| &mut host.policy);
        for policy in [&mut config.policy, &mut config.local.policy].into_iter().chain(of_hosts) {
            for rule in &mut policy.rules {
                if let RulePlace::Offset(offset) = rule.place {
                    rule.place = RulePlace::Line(line_of(text, offset));
                }
            }
        }
        Ok(config)
    }

    /// Returns the policy of a place.
    pub fn policy(&self, place: &SessionHost) -> Policy<'_> {
        let own = match place {
            SessionHost::Local => Some(&self.local.policy),
            SessionHost::Host(host) => self.hosts.get(host).map(|host| &host.policy),
        };
        Policy::new(own.unwrap_or(&policy::NOTHING), &self.policy)
    }

    /// Returns what is in force for a host: its own table, then `[connection]`, then the default.
    pub fn effective(&self, host: &HostName) -> EffectiveSettings {
        let own = self.hosts.get(host);
        macro_rules! own {
            ($key:ident) => {
                own.and_then(|own| own.connection.$key).or(self.connection.$key)
            };
        }
        macro_rules! setting {
            ($key:ident, $default:expr) => {
                own!($key).unwrap_or($default)
            };
        }
        let caps = Caps::default();
        let max_backoff = setting!(max_backoff, caps.normal);
        let max_retries = setting!(max_retries, 0);
        EffectiveSettings {
            dial: DialSettings {
                timeout: own!(connect_timeout),
                keepalive_interval: own!(keepalive_interval),
                keepalive_count: own!(keepalive_count),
                compression: own!(compression),
                forward_agent: match self.is_off(Feature::AgentForwarding) {
                    true => Some(false),
                    false => own.and_then(|own| own.forward_agent),
                },
                no_probe: own.is_some_and(|own| own.probe == Some(false)),
                forced: false,
                granted: None,
                no_proxy_commands: match self.is_off(Feature::ProxyCommands) {
                    true => Some("proxy_commands in the policy of this machine's administrator"),
                    false if self.security.proxy_commands => None,
                    false => Some("[security] proxy_commands = false"),
                },
                allowed: self.allowed_mark(),
                methods: self.methods(own),
                unknown_host_key: match self.is_off(Feature::TrustOnFirstUse) {
                    true => Some(Unknown::Forbid),
                    false => own!(strict_host_key_checking),
                },
                line: Line::default(),
            },
            caps: Caps {
                normal: max_backoff,
                long_down: setting!(max_backoff_long_down, caps.long_down).max(max_backoff),
            },
            limits: Limits { max_retries: (max_retries > 0).then_some(max_retries) },
            command_timeout: own!(command_timeout),
            idle_timeout: own!(idle_timeout),
            max_connections: setting!(max_connections, 4) as usize,
            autoconnect: setting!(autoconnect, Autoconnect::Recent),
            docker_socket: own.and_then(|own| own.docker_socket.clone()),
            directory: own.and_then(|own| own.directory.clone()),
            workspaces: own.map(|own| own.workspaces.clone()).unwrap_or_default(),
        }
    }
}

impl Config {
    /// Returns the system-wide policy that has a feature turned off, if one has.
    pub fn turned_off(&self, feature: Feature) -> Option<&SystemPolicy> {
        self.system.iter().find(|system| !system.has(feature))
    }

    fn is_off(&self, feature: Feature) -> bool {
        self.turned_off(feature).is_some()
    }

    /// Returns whether passwords are kept.
    pub fn keeps_passwords(&self) -> bool {
        self.security.keep_passwords && !self.is_off(Feature::KeepPasswords)
    }

    /// Returns what may be connected to.
    pub fn allowed(&self) -> AllRules {
        self.system.iter().map(|system| (system.path.clone(), system.hosts.clone())).collect()
    }

    /// Returns a number that is another where that is.
    fn allowed_mark(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.system.iter().for_each(|system| system.hosts.hash(&mut hasher));
        hasher.finish()
    }

    fn methods(&self, own: Option<&HostSettings>) -> Methods {
        let forbidden = match self.is_off(Feature::Passwords) {
            true => Some("passwords in the policy of this machine's administrator"),
            false if self.security.passwords => None,
            false => Some("[security] passwords = false"),
        };
        let allowed =
            |method| forbidden.is_none() && own.is_some_and(|own| own.auth.contains(&method));
        Methods {
            forbidden,
            password: allowed(AuthMethod::Password),
            keyboard_interactive: allowed(AuthMethod::KeyboardInteractive),
        }
    }
}

/// Reads the words of `StrictHostKeyChecking` (ssh_config(5)). `no` would also take a changed key, which is
/// never done.
fn strictness<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Unknown>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.as_str() {
        "accept-new" => Ok(Some(Unknown::Record)),
        "ask" => Ok(Some(Unknown::Ask)),
        "yes" => Ok(Some(Unknown::Refuse)),
        _ => Err(serde::de::Error::custom(format!(
            "{text:?} is none of \"accept-new\", \"ask\" and \"yes\""
        ))),
    }
}

/// Reads a directory of a host's: one that does not depend on another.
fn directory<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if !is_anchored(&text) {
        let why = format!("{text:?} is no directory that begins with / or ~/");
        return Err(serde::de::Error::custom(why));
    }
    Ok(Some(text))
}

fn absolute<'de, D, P>(deserializer: D) -> Result<Option<P>, D::Error>
where
    D: Deserializer<'de>,
    P: From<String>,
{
    let text = String::deserialize(deserializer)?;
    if !text.starts_with('/') || text.contains('\0') {
        return Err(serde::de::Error::custom(format!("{text:?} is no path that begins with /")));
    }
    Ok(Some(text.into()))
}

fn from_one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NonZeroUsize, D::Error> {
    NonZeroUsize::new(usize::deserialize(deserializer)?)
        .ok_or_else(|| serde::de::Error::custom("0 is too small: at least 1"))
}

fn is_anchored(text: &str) -> bool {
    (text.starts_with('/') || text == "~" || text.starts_with("~/")) && !text.contains('\0')
}

/// Returns where each host's table begins.
fn places(text: &str, path: &Path) -> BTreeMap<HostName, String> {
    let Ok(table) = DeTable::parse(text) else { return BTreeMap::new() };
    let hosts = table.get_ref().get("hosts").and_then(|hosts| hosts.get_ref().as_table());
    let keys = hosts.into_iter().flat_map(|hosts| hosts.keys());
    keys.filter_map(|key| {
        let place = format!("{}, line {}", path.display(), line_of(text, key.span().start));
        Some((HostName::new(key.get_ref().to_string()).ok()?, place))
    })
    .collect()
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}

/// Reads a duration such as `"15s"`, `"1m 30s"` or `"500ms"`.
pub(crate) fn duration<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    up_to(LONGEST, "ten years", deserializer)
}

/// The same, or `"0s"`, which is none.
fn duration_or_zero<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.as_str() {
        "0s" => Ok(None),
        _ => duration(text.into_deserializer()),
    }
}

/// Reads a time in which nothing is heard of a server.
fn silence<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    up_to(LONGEST_SILENCE, "24h", deserializer)
}

fn up_to<'de, D: Deserializer<'de>>(
    longest: Duration,
    words: &str,
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let error = || serde::de::Error::custom(format!("{text:?} is not a duration such as \"15s\""));
    let signed: jiff::SignedDuration = text.parse().map_err(|_| error())?;
    let time = Duration::try_from(signed).map_err(|_| error())?;
    // Here and not once the file is read, so that the error knows its line.
    if time < SHORTEST {
        return Err(serde::de::Error::custom(format!("{text:?} is too short: at least 100ms")));
    }
    if time > longest {
        return Err(serde::de::Error::custom(format!("{text:?} is too long: at most {words}")));
    }
    Ok(Some(time))
}

fn at_least_one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let number = u32::try_from(from_one(deserializer)?.get()).map_err(serde::de::Error::custom)?;
    Ok(Some(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("occd.toml"))
    }

    #[test]
    fn a_host_inherits_what_it_does_not_set() {
        let config = parse(
            "[connection]\nkeepalive_interval = \"5s\"\nmax_retries = 3\n\
             [hosts.a.connection]\nkeepalive_interval = \"1m 30s\"\n",
        )
        .unwrap();
        let a = config.effective(&HostName::new("a").unwrap());
        let b = config.effective(&HostName::new("b").unwrap());
        assert_eq!(a.dial.keepalive_interval, Some(Duration::from_secs(90)));
        assert_eq!(b.dial.keepalive_interval, Some(Duration::from_secs(5)));
        assert_eq!(a.limits.max_retries, Some(3));
        // Left to ssh_config, and to the default behind it.
        assert_eq!(a.dial.timeout, None);
    }

    #[test]
    fn passwords_need_the_host_and_the_switch() {
        let host = "[hosts.a]\nauth = [\"publickey\", \"password\"]\n";
        let of = |text: &str, name| {
            parse(text).unwrap().effective(&HostName::new(name).unwrap()).dial.methods
        };
        let password = Methods { password: true, ..Methods::default() };
        assert_eq!(of(host, "a"), password);
        assert_eq!(of(host, "b"), Methods::default());
        let forbidden =
            Methods { forbidden: Some("[security] passwords = false"), ..Methods::default() };
        assert_eq!(of(&format!("[security]\npasswords = false\n{host}"), "a"), forbidden);
    }

    #[test]
    fn errors_name_the_line() {
        for (text, line, word) in [
            ("\n\nnope = 1\n", 3, "nope"),
            ("[connection]\nconnect_timeout = \"soon\"\n", 2, "soon"),
            ("[connection]\nconnect_timeout = 5\n", 2, "expected a string"),
            ("[hosts.a]\ndirectory = \"srv\"\n", 2, "begins with / or ~/"),
            ("[hosts.\"a b\"]\n", 1, "space"),
            ("[hosts.a]\nworkspaces = { \"src\" = \"/srv\" }\n", 2, "begins with / or ~/"),
            ("x", 1, "expected"),
            ("[connection]\nkeepalive_count = 0\n", 2, "at least 1"),
            ("[hosts.a.sandbox]\nport = 0\n", 2, "1 to 65535"),
            ("[hosts.a.sandbox]\nimage = \"\"\n", 2, "no name of an image"),
            ("[hosts.a.sandbox]\nimage = \"a b\"\n", 2, "no name of an image"),
            ("[local]\ndocker_socket = \"docker.sock\"\n", 2, "begins with /"),
            ("[hosts.a]\ndocker_socket = \"x\"\n", 2, "begins with /"),
            ("[hosts.a.connection]\n\nkeepalive_interval = \"1ms\"\n", 3, "at least 100ms"),
            ("[connection]\n\nkeepalive_interval = \"100000000000h\"\n", 3, "at most 24h"),
            ("[connection]\nconnect_timeout = \"25h\"\n", 2, "at most 24h"),
            ("[connection]\nidle_timeout = \"87601h\"\n", 2, "at most ten years"),
            ("[connection]\nstrict_host_key_checking = \"no\"\n", 2, "accept-new"),
            ("[hosts.a]\nauth = [\"gssapi\"]\n", 2, "password"),
            ("[audit]\nmax_size_mib = 0\n", 2, "at least 1"),
            ("[limits]\nmax_operations = 0\n", 2, "at least 1"),
            ("[hosts.a]\npolicy = \"none\"\n", 2, "expected a table"),
        ] {
            let error = parse(text).unwrap_err();
            let ConfigError::Invalid { line: at, message, .. } = &error else { panic!() };
            assert_eq!(*at, line, "{error}");
            assert!(message.contains(word) || error.to_string().contains(word), "{error}");
        }
    }
}
