//! What is set for the dials of one host.

use std::time::Duration;

use crate::ssh::algorithms::{Compression, Line};
use crate::ssh::auth::Methods;
use crate::ssh::host_key::Unknown;
use crate::ssh::ssh_config::SshConfig;

/// How long a dial may take.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(15);
/// How long a server may be silent before it is asked for a sign of life, and how many questions may stay
/// unanswered: a dead peer is found within 45 s.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
pub(crate) const KEEPALIVE_COUNT: u32 = 2;
/// The share of the interval after which a sign of life is asked for: so the last of them is missed in time to find
/// the dead within so many whole intervals, however busy the machine is.
const EARLY: f64 = 0.96;

/// What occd.toml sets for one host; ssh_config stands behind it, and the defaults behind both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DialSettings {
    /// The whole dial.
    pub timeout: Option<Duration>,
    /// Keep-alive interval.
    pub keepalive_interval: Option<Duration>,
    /// Unanswered keep-alives after which the connection is dead.
    pub keepalive_count: Option<u32>,
    /// Whether to compress.
    pub compression: Option<Compression>,
    /// The host is not asked what it is (`probe = false`).
    pub no_probe: bool,
    /// Nor is one that runs one command, whatever is asked for, as earlier connections found out.
    pub forced: bool,
    /// The most sessions that the server grants a connection, as far as those before have found out.
    pub granted: Option<u32>,
    /// What forbids to run a ProxyCommand, if something does.
    pub no_proxy_commands: Option<&'static str>,
    /// Stands for what is allowed to be connected to: whenever that changes, it is asked again.
    pub allowed: u64,
    /// Whether commands may use the user's ssh-agent.
    pub forward_agent: Option<bool>,
    /// What may be asked of a person to log in.
    pub methods: Methods,
    /// What happens to a host key that is not on record.
    pub unknown_host_key: Option<Unknown>,
    /// What earlier connections found out about the line to the host.
    pub line: Line,
}

impl DialSettings {
    /// Returns whether a dial would be the same with these.
    pub fn same_dial(&self, other: &Self) -> bool {
        // What is allowed to no host at all only gives a refusal other words.
        let methods = |settings: &Self| Methods { forbidden: None, ..settings.methods };
        Self { methods: methods(self), ..*self } == Self { methods: methods(other), ..*other }
    }

    /// Returns the interval of keep-alives, and how many may stay unanswered.
    pub fn keepalive(&self, ssh_config: &SshConfig) -> (Duration, u32) {
        let interval = self.keepalive_interval.or(ssh_config.server_alive_interval);
        let count = self.keepalive_count.or(ssh_config.server_alive_count_max);
        (interval.unwrap_or(KEEPALIVE_INTERVAL), count.unwrap_or(KEEPALIVE_COUNT))
    }

    /// Returns the silence after which the server is asked for a sign of life.
    pub(super) fn asks_after(&self, ssh_config: &SshConfig) -> Duration {
        self.keepalive(ssh_config).0.mul_f64(EARLY)
    }
}
