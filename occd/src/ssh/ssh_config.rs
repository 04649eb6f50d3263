//! What ssh_config says about a destination, by asking `ssh -G`.
//!
//! Owns running that program, taking its output apart, and keeping the answer until a configuration file
//! changes. The dialer decides what to do with the values; nothing here connects. No shell is involved on
//! our side, though ssh itself runs the commands of `Match exec`.
//!
//! `ssh -G` prints every option, set or not. What is the built-in default is learnt by asking the same
//! program once with no configuration at all (`-F none`): a table of ours would be wrong for some version,
//! since the list of default identity files alone differs from one to the next. The same answer tells the
//! home directory of the passwd database, which ssh uses where everyone else uses `$HOME`.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use occ_proto::KEY_VARIABLES;
use occ_proto::name::{Address, InvalidName, UserName};
use tokio::process::Command;
use tokio::time::Instant;

use self::files::Files;
use self::program::Group;
use self::value::{Set, Tokens, Values, parse, split_paths};
use super::tcp::Local;
use crate::ownership;

mod aliases;
mod files;
mod program;
mod value;

#[cfg(test)]
mod tests;

/// How long `ssh -G` may take. It needs 5 ms unless a `Match exec` does something slow.
const TIME_LIMIT: Duration = Duration::from_secs(5);
/// The most answers that are kept: far more hosts than a person configures.
const MAX_CACHED: usize = 1024;

/// What to do with a host key that is not on record (`StrictHostKeyChecking`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Strict {
    /// Not set, or `ask`, which is the default.
    #[default]
    Unset,
    /// Record an unknown key, refuse a changed one.
    AcceptNew,
    /// Refuse both.
    Yes,
    /// Record an unknown key; `no` and `off` are the same.
    No,
}

/// The options that are set for a destination. A value equal to OpenSSH's default counts as not set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SshConfig {
    /// `HostName`, when it differs from the name asked for.
    pub hostname: Option<Address>,
    /// `User`, when it is not the local login name.
    pub user: Option<UserName>,
    /// `Port`, when it is not 22.
    pub port: Option<u16>,
    /// `AddressFamily`; the addresses of `BindAddress` when they have been looked up.
    pub local: Local,
    /// `BindAddress`.
    pub bind_address: Option<Address>,
    /// `IdentityFile`, with `~`, tokens and variables expanded; empty is the default list.
    pub identity_files: Vec<String>,
    /// `IdentityFile none`: use no files, not even the default ones.
    pub no_identity_files: bool,
    /// `CertificateFile`, expanded likewise.
    pub certificate_files: Vec<String>,
    /// `IdentitiesOnly`.
    pub identities_only: bool,
    /// `IdentityAgent`: a socket, `SSH_AUTH_SOCK`, `$VARIABLE`, or `none` for no agent at all.
    pub identity_agent: Option<String>,
    /// `ProxyJump`: one or more hops separated by commas, the first hop first.
    pub proxy_jump: Option<String>,
    /// `ProxyCommand`, its tokens expanded.
    pub proxy_command: Option<String>,
    /// `UserKnownHostsFile`; empty is the default. New keys go to the first. `none` is `/dev/null`.
    pub user_known_hosts_files: Vec<String>,
    /// `GlobalKnownHostsFile`; empty is the default. `none` is `/dev/null`.
    pub global_known_hosts_files: Vec<String>,
    /// `RevokedHostKeys`, expanded like `IdentityFile`.
    pub revoked_host_keys: Vec<String>,
    /// `KnownHostsCommand` is set.
    pub known_hosts_command: bool,
    /// `StrictHostKeyChecking`.
    pub strict_host_key_checking: Strict,
    /// `HostKeyAlias`, which stands for host and port in known_hosts, so it is looked up as on port 22.
    pub host_key_alias: Option<String>,
    /// `HashKnownHosts`.
    pub hash_known_hosts: bool,
    /// `UpdateHostKeys` is `no` or `ask`, or is off because `UserKnownHostsFile` is set.
    pub keep_host_keys: bool,
    /// `PubkeyAuthentication`; `unbound` and `host-bound` are yes.
    pub pubkey_authentication: Option<bool>,
    /// `PasswordAuthentication`.
    pub password_authentication: Option<bool>,
    /// `KbdInteractiveAuthentication`.
    pub kbd_interactive_authentication: Option<bool>,
    /// `PreferredAuthentications`: the methods that may be tried, in this order.
    pub preferred_authentications: Option<Vec<String>>,
    /// `ConnectTimeout`.
    pub connect_timeout: Option<Duration>,
    /// `ServerAliveInterval`.
    pub server_alive_interval: Option<Duration>,
    /// `ServerAliveCountMax`.
    pub server_alive_count_max: Option<u32>,
    /// `Compression`.
    pub compression: Option<bool>,
    /// The lists of algorithms.
    pub algorithms: AlgorithmLists,
    /// `ForwardAgent`: `yes`, or the socket or `$VARIABLE` of the agent to forward.
    pub forward_agent: Option<String>,
}

/// Lists of algorithms, as ssh prints them: names separated by commas.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AlgorithmLists {
    /// `Ciphers`.
    pub cipher: Option<String>,
    /// `KexAlgorithms`.
    pub kex: Option<String>,
    /// `MACs`.
    pub mac: Option<String>,
    /// `HostKeyAlgorithms`.
    pub host_key: Option<String>,
    /// `CASignatureAlgorithms`.
    pub ca_signature: Option<String>,
}

/// Why a destination could not be resolved.
#[derive(Debug, thiserror::Error)]
pub enum SshConfigError {
    /// The ssh program is there and does not start.
    #[error("the ssh program cannot be run")]
    Spawn(#[source] io::Error),
    /// There is no ssh program, and a file that only it can read. Without what is set there, such as
    /// `StrictHostKeyChecking yes`, nothing is dialled.
    #[error(
        "{file} is there and no ssh program to read it: install OpenSSH's client, or put it into occd's PATH"
    )]
    NoProgram {
        /// The file.
        file: PathBuf,
    },
    /// Its answer could not be read.
    #[error("the answer of ssh -G cannot be read")]
    Read(#[source] io::Error),
    /// It took longer than 5 s, as a `Match exec` that hangs makes it do. It has been ended.
    #[error("ssh -G did not finish within {} s", TIME_LIMIT.as_secs())]
    Timeout,
    /// It printed more than 1 MiB.
    #[error("ssh -G printed more than 1 MiB")]
    TooLong,
    /// It refused, usually because of a mistake in ssh_config.
    #[error("ssh -G failed ({status}): {stderr}")]
    Failed {
        /// How it ended.
        status: ExitStatus,
        /// The beginning of what it said, safe to print.
        stderr: String,
    },
    /// Somebody else could have put a program into the file. ssh checks those that it finds by itself, not one
    /// that it is given.
    #[error("{file} may be written by others, so nothing in it is used")]
    Unsafe {
        /// The file.
        file: PathBuf,
    },
    /// It is there and cannot be read. ssh itself goes on without it.
    #[error("{file} cannot be read")]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An option has a value that we cannot use.
    #[error("ssh_config has an unusable value for {key}")]
    Invalid {
        /// The option, in lower case.
        key: &'static str,
        /// What is wrong with it.
        source: InvalidValue,
    },
}

/// What is wrong with the value of an option. Never shows the value as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidValue {
    /// Not a host, user or address.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// Not printed at all, so this was not the answer of `ssh -G`.
    #[error("there is no value")]
    Missing,
    /// Not a number in range.
    #[error("it is not a number in range")]
    Number,
    /// Not one of the words this option takes.
    #[error("it is none of the words that this option takes")]
    Word,
    /// Not UTF-8.
    #[error("it is not UTF-8")]
    Encoding,
    /// A `%` token that we do not expand in a file name.
    #[error("the token %{} is not supported here", .0.escape_debug())]
    Token(char),
    /// A `${…}` that does not end or names a variable that is not set.
    #[error("it uses an environment variable that is not set")]
    Variable,
}

type CacheKey = (Address, Option<UserName>, Option<u16>);

/// Resolves destinations by `ssh -G`. Keep one per process: it remembers answers.
#[derive(Debug)]
pub struct Resolver {
    /// The places where the program may be, of which the first counts.
    ssh: Vec<PathBuf>,
    home: PathBuf,
    time_limit: Duration,
    baseline: OnceLock<Baseline>,
    cache: Mutex<Cache>,
}

/// What ssh says when nothing is configured.
#[derive(Debug)]
struct Baseline {
    values: Values,
    /// The home directory ssh uses, where it differs from ours.
    other_home: Option<PathBuf>,
}

#[derive(Debug, Default)]
struct Cache {
    files: Files,
    answers: HashMap<CacheKey, (Instant, SshConfig)>,
}

impl Resolver {
    /// Returns a resolver that runs the `ssh` found in `PATH` for the user whose `$HOME` is `home`. The `PATH`
    /// of a service may be shorter than a person's, so it is also looked for in the usual places.
    pub fn new(home: PathBuf) -> Self {
        const USUAL: [&str; 4] =
            ["ssh", "/usr/bin/ssh", "/usr/local/bin/ssh", "/opt/homebrew/bin/ssh"];
        Self::with_programs(home, USUAL.map(PathBuf::from).into())
    }

    /// Returns a resolver that runs the first of these that is there: paths, or names to be found in `PATH`.
    pub fn with_programs(home: PathBuf, ssh: Vec<PathBuf>) -> Self {
        Self {
            ssh,
            home,
            time_limit: TIME_LIMIT,
            baseline: OnceLock::new(),
            cache: Mutex::default(),
        }
    }

    /// Returns what is set for `host`, when logging in as `user` on `port` if these are given (they can
    /// select a `Match` block). Without an ssh program and without a file of the user's nothing is set. May be
    /// cancelled at any time.
    ///
    /// # Errors
    /// When ssh does not answer, refuses its configuration, or gives a value that is not safe to use.
    pub async fn resolve(
        &self,
        host: &Address,
        user: Option<&UserName>,
        port: Option<u16>,
    ) -> Result<SshConfig, SshConfigError> {
        let Some(baseline) = self.baseline().await? else { return self.without_program() };
        check_owner(&self.home.join(".ssh/config"))?;
        // Looked at before ssh reads them: a change in between makes the answer be thrown away, not kept.
        let files = self.survey(baseline).await;
        let key: CacheKey = (host.clone(), user.cloned(), port);
        if let Some(answer) = self.cached(&key, &files) {
            return Ok(answer);
        }
        let mut arguments = self.file_arguments(baseline);
        if let Some(user) = user {
            arguments.extend(["-l".into(), user.as_str().into()]);
        }
        if let Some(port) = port {
            arguments.extend(["-p".into(), port.to_string().into()]);
        }
        arguments.extend(["--".into(), host.as_str().into()]);
        let Some(output) = self.run(&arguments).await? else { return self.without_program() };
        let answer = self.read(baseline, &parse(&output)?, host)?;
        self.keep(key, files, answer.clone());
        Ok(answer)
    }

    /// Returns the hosts that the user's configuration names, in its order; the system's names patterns alone.
    ///
    /// # Errors
    /// When somebody else may write the file, or it cannot be read, or there is one and no ssh to read what is in it.
    pub async fn aliases(&self) -> Result<Vec<String>, SshConfigError> {
        let Some(baseline) = self.baseline().await? else {
            return self.without_program().map(|_| Vec::new());
        };
        let file = self.home.join(".ssh/config");
        check_owner(&file)?;
        let ssh_home = baseline.other_home.clone().unwrap_or_else(|| self.home.clone());
        let shown = file.clone();
        let read = tokio::task::spawn_blocking(move || aliases::aliases(&file, &ssh_home));
        let read = read.await.unwrap_or_else(|panicked| Err(panicked.into()));
        read.map_err(|source| SshConfigError::Unreadable { file: shown, source })
    }

    fn without_program(&self) -> Result<SshConfig, SshConfigError> {
        let file = self.home.join(".ssh/config");
        if file.exists() {
            Err(SshConfigError::NoProgram { file })
        } else {
            Ok(SshConfig::default())
        }
    }

    /// Returns ssh's defaults, asked for once, or nothing when there is no ssh. An ssh that is upgraded
    /// later may have other defaults; a restart of the daemon learns them.
    async fn baseline(&self) -> Result<Option<&Baseline>, SshConfigError> {
        if let Some(baseline) = self.baseline.get() {
            return Ok(Some(baseline));
        }
        let arguments = ["-F", "none", "--", "localhost"].map(OsString::from);
        let Some(output) = self.run(&arguments).await? else { return Ok(None) };
        let values = parse(&output)?;
        if !values.contains_key("user") {
            return Err(invalid("user", InvalidValue::Missing));
        }
        let home = values
            .get("userknownhostsfile")
            .and_then(|value| split_paths(value.first()?).into_iter().next())
            .and_then(|path| path.strip_suffix("/.ssh/known_hosts").map(PathBuf::from));
        let other_home = home.filter(|home| !is_same_directory(home, &self.home));
        Ok(Some(self.baseline.get_or_init(|| Baseline { values, other_home })))
    }

    /// Returns the arguments that make ssh read the configuration below `$HOME`. It would by itself, unless
    /// its idea of home is another one; a file given by `-F` is then the only one it reads, so that
    /// /etc/ssh/ssh_config does not apply, and a relative `Include` is still relative to ssh's own home.
    fn file_arguments(&self, baseline: &Baseline) -> Vec<OsString> {
        if baseline.other_home.is_none() {
            return Vec::new();
        }
        let file = self.home.join(".ssh/config");
        vec!["-F".into(), if file.is_file() { file.into() } else { "none".into() }]
    }

    /// Runs `ssh -G` and returns what it printed, or nothing when there is no such program.
    async fn run(&self, arguments: &[OsString]) -> Result<Option<Vec<u8>>, SshConfigError> {
        for program in &self.ssh {
            if let Some(output) = self.run_program(program, arguments).await? {
                return Ok(Some(output));
            }
        }
        Ok(None)
    }

    async fn run_program(
        &self,
        program: &Path,
        arguments: &[OsString],
    ) -> Result<Option<Vec<u8>>, SshConfigError> {
        let mut command = Command::new(program);
        command
            .arg("-G")
            .args(arguments)
            // `Match exec` runs programs.
            .env_remove(KEY_VARIABLES[0])
            .env_remove(KEY_VARIABLES[1])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own, so that the commands of `Match exec` can be ended with it.
            .process_group(0)
            .kill_on_drop(true);
        let mut group = match command.spawn() {
            Ok(child) => Group(child),
            Err(error) if is_missing(program, &error) => return Ok(None),
            Err(error) => return Err(SshConfigError::Spawn(error)),
        };
        match tokio::time::timeout(self.time_limit, group.output()).await {
            Ok(result) => result.map(Some),
            Err(_) => {
                group.end().await;
                Err(SshConfigError::Timeout)
            }
        }
    }

    async fn survey(&self, baseline: &Baseline) -> Files {
        let home = self.home.clone();
        let ssh_home = baseline.other_home.clone().unwrap_or_else(|| home.clone());
        tokio::task::spawn_blocking(move || Files::survey(&home, &ssh_home)).await.unwrap_or_else(
            |error| {
                tracing::warn!(%error, "looking at the ssh configuration failed");
                Files { lasts: Some(Duration::ZERO), ..Files::default() }
            },
        )
    }

    fn cached(&self, key: &CacheKey, files: &Files) -> Option<SshConfig> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, answer) = cache.answers.get(key)?;
        let fresh = files.lasts.is_none_or(|limit| since.elapsed() < limit);
        (fresh && cache.files == *files).then(|| answer.clone())
    }

    fn keep(&self, key: CacheKey, files: Files, answer: SshConfig) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.files != files || cache.answers.len() >= MAX_CACHED {
            cache.answers.clear();
        }
        cache.files = files;
        cache.answers.insert(key, (Instant::now(), answer));
    }

    fn read(
        &self,
        baseline: &Baseline,
        values: &Values,
        asked: &Address,
    ) -> Result<SshConfig, SshConfigError> {
        let set = Set { values, defaults: &baseline.values };
        let hostname = set.printed("hostname")?;
        let resolved = Address::new(hostname).map_err(|error| invalid("hostname", error))?;
        let user = set.printed("user")?;
        let remote_user = UserName::new(user).map_err(|error| invalid("user", error))?;
        let port = set.printed("port")?.parse::<u16>().ok().filter(|port| *port > 0);
        let port = port.ok_or_else(|| invalid("port", InvalidValue::Number))?;
        let tokens = Tokens {
            home: &self.home,
            hostname: resolved.as_str(),
            asked: asked.as_str(),
            alias: set.word("hostkeyalias"),
            user: remote_user.as_str(),
            local_user: set.default_of("user"),
            port,
        };
        let identity_files = set.list("identityfile");
        let no_identity_files = identity_files.as_ref().is_some_and(Vec::is_empty);
        let identity_files =
            tokens.expand_all("identityfile", identity_files.unwrap_or_default())?;
        let certificate_files = set.list("certificatefile").unwrap_or_default();
        let certificate_files = tokens.expand_all("certificatefile", certificate_files)?;
        // From OpenSSH 10 on there may be several, in one line.
        let revoked_host_keys = set.value("revokedhostkeys").unwrap_or_default();
        let revoked_host_keys = split_paths(&revoked_host_keys);
        let revoked_host_keys = revoked_host_keys.iter().map(String::as_str);
        let revoked_host_keys = tokens.expand_all(
            "revokedhostkeys",
            revoked_host_keys.filter(|path| !path.is_empty()).collect(),
        )?;
        let allows = |key| set.word(key).map(|word| !matches!(word, "no" | "false"));
        let proxy_command = set.value("proxycommand").map(|text| tokens.expand_command(&text));
        let proxy_command =
            proxy_command.transpose().map_err(|error| invalid("proxycommand", error))?;
        Ok(SshConfig {
            // ssh prints a name in lower case, whatever the case it was asked in.
            hostname: (!hostname.eq_ignore_ascii_case(asked.as_str())).then_some(resolved),
            user: set.word("user").is_some().then_some(remote_user),
            port: set.word("port").is_some().then_some(port),
            local: Local {
                v6: match set.word("addressfamily") {
                    Some("inet") => Some(false),
                    Some("inet6") => Some(true),
                    _ => None,
                },
                ..Local::default()
            },
            bind_address: set
                .value("bindaddress")
                .map(|text| Address::new(text).map_err(|error| invalid("bindaddress", error)))
                .transpose()?,
            identity_files,
            no_identity_files,
            certificate_files,
            identities_only: set.flag("identitiesonly")?,
            // ssh has expanded the rest already, a `~` to its own idea of home.
            identity_agent: set
                .word("identityagent")
                .map(|path| baseline.at_home(path, &self.home)),
            proxy_jump: set.value("proxyjump"),
            proxy_command,
            user_known_hosts_files: set.known_hosts("userknownhostsfile", |path| {
                // With another home, `~/x` and ssh's home written out look the same: both are consulted.
                let ours = baseline.at_home(&path, &self.home);
                if ours == path { vec![path] } else { vec![ours, path] }
            }),
            global_known_hosts_files: set.known_hosts("globalknownhostsfile", |path| vec![path]),
            revoked_host_keys,
            known_hosts_command: set.value("knownhostscommand").is_some(),
            strict_host_key_checking: match set.word("stricthostkeychecking") {
                None | Some("ask") => Strict::Unset,
                Some("accept-new") => Strict::AcceptNew,
                Some("yes" | "true") => Strict::Yes,
                Some("no" | "false" | "off") => Strict::No,
                Some(_) => return Err(invalid("stricthostkeychecking", InvalidValue::Word)),
            },
            host_key_alias: set.word("hostkeyalias").map(str::to_owned),
            hash_known_hosts: set.flag("hashknownhosts")?,
            keep_host_keys: set.word("updatehostkeys").is_some(),
            pubkey_authentication: allows("pubkeyauthentication"),
            password_authentication: allows("passwordauthentication"),
            kbd_interactive_authentication: allows("kbdinteractiveauthentication"),
            preferred_authentications: set
                .word("preferredauthentications")
                .map(|list| list.split(',').map(|name| name.trim().to_owned()).collect()),
            connect_timeout: set.number("connecttimeout")?.map(|n| Duration::from_secs(n.into())),
            server_alive_interval: set
                .number("serveraliveinterval")?
                .map(|n| Duration::from_secs(n.into())),
            server_alive_count_max: set.number("serveralivecountmax")?,
            compression: set.word("compression").map(|word| word == "yes"),
            algorithms: AlgorithmLists {
                cipher: set.value("ciphers"),
                kex: set.value("kexalgorithms"),
                mac: set.value("macs"),
                host_key: set.value("hostkeyalgorithms"),
                ca_signature: set.value("casignaturealgorithms"),
            },
            forward_agent: set.word("forwardagent").filter(|word| *word != "no").map(str::to_owned),
        })
    }
}

/// See [`crate::fuzz`].
pub(crate) fn fuzz(output: &[u8]) {
    const DEFAULTS: &[u8] =
        b"hostname localhost\nuser u\nport 22\nidentityfile ~/.ssh/id_ed25519\n";

    let Ok(values) = parse(DEFAULTS) else { return };
    let baseline = Baseline { values, other_home: None };
    let resolver = Resolver::new(PathBuf::from("/home/u"));
    let (Ok(asked), Ok(values)) = (Address::new("h"), parse(output)) else { return };
    if let Ok(config) = resolver.read(&baseline, &values, &asked) {
        // Typed names cannot be anything else; the rest goes to no shell, and to `ssh` never again.
        assert!(config.hostname.is_none_or(|name| !name.as_str().starts_with('-')));
        assert!(config.port != Some(0));
    }
}

fn invalid(key: &'static str, source: impl Into<InvalidValue>) -> SshConfigError {
    SshConfigError::Invalid { key, source: source.into() }
}

impl Baseline {
    /// Returns a path that ssh has put below its own home as a path below ours.
    fn at_home(&self, path: &str, home: &Path) -> String {
        let inside = self.other_home.as_deref().filter(|other| *other != Path::new("/"));
        match inside.and_then(|other| Path::new(path).strip_prefix(other).ok()) {
            Some(rest) => home.join(rest).to_string_lossy().into_owned(),
            None => path.to_owned(),
        }
    }
}

/// Returns whether a program did not start because there is none. For a name searched in `PATH`, the system
/// says "permission denied" when one of the directories cannot be searched, whatever is in the others.
fn is_missing(program: &Path, error: &io::Error) -> bool {
    let in_path = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|directory| directory.join(program).exists())
    };
    match error.kind() {
        io::ErrorKind::NotFound => true,
        io::ErrorKind::PermissionDenied => program.components().count() == 1 && !in_path(),
        _ => false,
    }
}

fn is_same_directory(a: &Path, b: &Path) -> bool {
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Refuses a file that somebody else could have written, as ssh does (ssh_config(5), FILES).
fn check_owner(file: &Path) -> Result<(), SshConfigError> {
    let Ok(metadata) = std::fs::metadata(file) else { return Ok(()) };
    ownership::check_strictly(&metadata)
        .map_err(|_| SshConfigError::Unsafe { file: file.to_owned() })
}
