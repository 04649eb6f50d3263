//! What is dialled: hosts.json over ssh_config over the defaults.

use std::path::{Path, PathBuf};

use occ_proto::HostConfig;
use occ_proto::paths::{DEFAULT_KEYS, expand_tilde};

use super::agent::AgentChoice;
use super::allowed::Server;
use super::auth::Credentials;
use super::candidates::certificate_beside;
use super::dial::DialEnvironment;
use super::error::ConnectError;
use super::ssh_config::SshConfig;

/// Where to connect and how to log in.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) address: String,
    pub(super) port: u16,
    pub(super) route: Route,
    pub(super) credentials: Credentials,
    pub(super) ssh_config: SshConfig,
}

/// How the server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// By TCP.
    Direct,
    /// Through jump hosts, the one next to us first; never empty.
    Jump(Vec<String>),
    /// By a program's input and output.
    Command(String),
}

impl Route {
    /// Returns how a host is reached: hosts.json wins over ssh_config, and there as here `none` means
    /// neither jump host nor program.
    pub fn of(config: &HostConfig, ssh_config: &SshConfig) -> Self {
        let chain = |text: &str| {
            let hops = text.split(',').map(|hop| hop.trim().to_owned()).collect();
            if text.eq_ignore_ascii_case("none") { Self::Direct } else { Self::Jump(hops) }
        };
        match (&config.jump_host, &ssh_config.proxy_jump, &ssh_config.proxy_command) {
            (Some(own), ..) => chain(own),
            (None, Some(jump), _) => chain(jump),
            (None, None, Some(command)) => Self::Command(command.clone()),
            (None, None, None) => Self::Direct,
        }
    }
}

/// Puts hosts.json over ssh_config over the defaults.
pub(super) async fn resolve(
    config: &HostConfig,
    environment: &DialEnvironment,
) -> Result<Target, ConnectError> {
    let mut ssh_config =
        environment.resolver.resolve(&config.hostname, config.user.as_ref(), config.port).await?;
    let route = Route::of(config, &ssh_config);
    if let (Route::Direct, Some(name)) = (&route, &ssh_config.bind_address) {
        ssh_config.local = ssh_config.local.bound_to(name.as_str()).await?;
    }
    let home = Some(environment.home.as_path());
    let user = match config.user.as_ref().or(ssh_config.user.as_ref()) {
        Some(user) => user.as_str().to_owned(),
        None => environment.login_user.clone(),
    };
    let in_ssh_dir = |name| environment.home.join(".ssh").join(name);
    let no_keys = !allows_keys(&ssh_config);
    let configured: Vec<PathBuf> =
        ssh_config.identity_files.iter().map(|path| expand_tilde(path, home)).collect();
    let defaults = if configured.is_empty() && !ssh_config.no_identity_files && !no_keys {
        DEFAULT_KEYS.map(in_ssh_dir).into()
    } else {
        Vec::new()
    };
    let credentials = Credentials {
        user,
        named: config.identity_file.as_deref().map(|path| expand_tilde(path, home)),
        configured: if no_keys { Vec::new() } else { configured },
        certificates: ssh_config
            .certificate_files
            .iter()
            .map(|path| expand_tilde(path, home))
            .collect(),
        defaults,
        agent: if no_keys { AgentChoice::None } else { agent(&ssh_config, &environment.home) },
        identities_only: ssh_config.identities_only,
        no_keys,
        password_first: password_first(&ssh_config),
    };
    Ok(Target {
        address: ssh_config.hostname.as_ref().unwrap_or(&config.hostname).as_str().to_owned(),
        port: config.port.or(ssh_config.port).unwrap_or(22),
        route,
        credentials,
        ssh_config,
    })
}

/// Returns how a host is reached, if it may be connected to.
pub async fn check_allowed(
    config: &HostConfig,
    environment: &DialEnvironment,
) -> Result<Route, ConnectError> {
    let target = resolve(config, environment).await?;
    environment.allowed.check(target.as_server())?;
    Ok(target.route)
}

impl Target {
    /// Returns it as rules see it.
    pub(super) fn as_server(&self) -> Server<'_> {
        Server { user: &self.credentials.user, address: &self.address, port: self.port }
    }

    /// Returns the agent that commands on the host may use: none, unless occd.toml or else `ForwardAgent` of
    /// ssh_config(5) says so.
    pub(super) fn lends_agent(&self, allowed: Option<bool>, home: &Path) -> Option<AgentChoice> {
        let word = self.ssh_config.forward_agent.as_deref();
        if !allowed.unwrap_or(word.is_some()) {
            return None;
        }
        match word {
            None | Some("yes") => Some(self.credentials.agent.clone()),
            Some(word) => Some(socket(word, home)),
        }
    }

    /// Returns the files that decide about the login and about the server's key.
    pub(super) fn files(&self, home: &Path) -> Vec<PathBuf> {
        let Credentials { named, configured, certificates, defaults, .. } = &self.credentials;
        let keys = named.iter().chain(configured).chain(defaults);
        // A certificate beside a key is renewed more often than that.
        let beside = keys.clone().map(|key| certificate_beside(key));
        let own = keys.chain(certificates).cloned().chain(beside);
        let config = &self.ssh_config;
        let records = config.user_known_hosts_files.iter().chain(&config.global_known_hosts_files);
        let records = records.chain(&config.revoked_host_keys);
        own.chain(records.map(|path| expand_tilde(path, Some(home)))).collect()
    }

    /// Returns the server's address and port.
    pub(super) fn server(&self) -> String {
        let Self { address, port, .. } = self;
        match address.contains(':') {
            true => format!("[{address}]:{port}"),
            false => format!("{address}:{port}"),
        }
    }

    /// Returns what was read to find it, in words.
    pub(super) fn origin(&self) -> &'static str {
        if self.ssh_config == SshConfig::default() {
            "hosts.json"
        } else {
            "hosts.json, ssh_config"
        }
    }
}

/// Returns whether keys may be offered that hosts.json does not name.
fn allows_keys(ssh_config: &SshConfig) -> bool {
    let preferred = ssh_config.preferred_authentications.as_ref();
    ssh_config.pubkey_authentication != Some(false)
        && preferred.is_none_or(|list| list.iter().any(|method| method == "publickey"))
}

/// Returns whether `PreferredAuthentications` has passwords before keyboard-interactive, unlike ssh's own order.
fn password_first(ssh_config: &SshConfig) -> bool {
    let list = ssh_config.preferred_authentications.as_deref().unwrap_or_default();
    let of = |name: &str| list.iter().position(|method| method == name);
    match (of("password"), of("keyboard-interactive")) {
        (Some(password), Some(keyboard)) => password < keyboard,
        (Some(_), None) => true,
        (None, _) => false,
    }
}

/// Returns which agent `IdentityAgent` allows (ssh_config(5)).
fn agent(ssh_config: &SshConfig, home: &Path) -> AgentChoice {
    match ssh_config.identity_agent.as_deref() {
        None | Some("SSH_AUTH_SOCK" | "$SSH_AUTH_SOCK") => AgentChoice::Known,
        Some("none") => AgentChoice::None,
        Some(word) => socket(word, home),
    }
}

/// Returns the agent that a path names, or a variable of the daemon's own environment.
fn socket(word: &str, home: &Path) -> AgentChoice {
    match word.strip_prefix('$') {
        Some("SSH_AUTH_SOCK") => AgentChoice::Known,
        Some(variable) => std::env::var_os(variable)
            .map_or(AgentChoice::Unset(variable.to_owned()), |path| {
                AgentChoice::Socket(path.into())
            }),
        None => AgentChoice::Socket(expand_tilde(word, Some(home))),
    }
}

#[cfg(test)]
mod tests {
    use occ_proto::Address;

    use super::*;

    #[test]
    fn preferred_methods_order_passwords_and_may_leave_out_keys() {
        let list = |list: &str| SshConfig {
            preferred_authentications: Some(list.split(',').map(str::to_owned).collect()),
            ..SshConfig::default()
        };
        for (config, keys, password) in [
            (SshConfig::default(), true, false),
            (list("publickey,keyboard-interactive,password"), true, false),
            (list("password,publickey"), true, true),
            (list("password,keyboard-interactive"), false, true),
            (
                SshConfig { pubkey_authentication: Some(false), ..SshConfig::default() },
                false,
                false,
            ),
        ] {
            assert_eq!(
                (allows_keys(&config), password_first(&config)),
                (keys, password),
                "{config:?}"
            );
        }
    }

    #[test]
    fn hosts_json_wins_and_none_means_direct() {
        let mut config = HostConfig::new(Address::new("h").unwrap());
        let mut ssh = SshConfig::default();
        assert_eq!(Route::of(&config, &ssh), Route::Direct);
        ssh.proxy_command = Some("nc %h %p".into());
        assert_eq!(Route::of(&config, &ssh), Route::Command("nc %h %p".into()));
        ssh.proxy_jump = Some("a,u@b:22".into());
        let jump = |hops: &[&str]| Route::Jump(hops.iter().map(|hop| (*hop).to_owned()).collect());
        assert_eq!(Route::of(&config, &ssh), jump(&["a", "u@b:22"]));
        config.jump_host = Some("c".into());
        assert_eq!(Route::of(&config, &ssh), jump(&["c"]));
        config.jump_host = Some("none".into());
        assert_eq!(Route::of(&config, &ssh), Route::Direct);
    }
}
