//! The policy of whoever administers this machine, for all its users: which hosts, which features, and rules as in
//! occd.toml, beside which both must allow.
//!
//! It binds an occd that looks at it. A user can run another program; docs/security.md says what that means.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use occ_proto::policy::SystemPolicyView;
use occ_proto::session::SessionHost;
use occ_proto::wording::in_words;
use serde::Deserialize;

use super::{ConfigError, line_of};
use crate::policy::{self, Policy, PolicyConfig, RulePlace};
use crate::ssh::allowed::{HostPattern, HostRules};

/// Something that can be turned off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// Commands.
    Exec,
    /// Commands on a terminal, and login shells.
    Shell,
    /// Programs that outlive the link.
    Sessions,
    /// Files.
    Files,
    /// Docker, its sockets, sandboxes, and installing it.
    Docker,
    /// Ports and sockets of this machine that lead to hosts.
    LocalForwards,
    /// Those of hosts that lead here.
    RemoteForwards,
    /// Those that others than the machine itself reach.
    PublicForwards,
    /// Lending the user's ssh-agent.
    AgentForwarding,
    /// Sockets with a policy of their own.
    Grants,
    /// Logging in with a password, or what a server asks beside keys.
    Passwords,
    /// Keeping passwords.
    KeepPasswords,
    /// Taking a host key that is not on record, whoever says so.
    TrustOnFirstUse,
    /// Running the ProxyCommand of ssh_config.
    ProxyCommands,
}

impl Feature {
    /// Every one.
    pub const ALL: [Self; 14] = [
        Self::Exec,
        Self::Shell,
        Self::Sessions,
        Self::Files,
        Self::Docker,
        Self::LocalForwards,
        Self::RemoteForwards,
        Self::PublicForwards,
        Self::AgentForwarding,
        Self::Grants,
        Self::Passwords,
        Self::KeepPasswords,
        Self::TrustOnFirstUse,
        Self::ProxyCommands,
    ];

    /// Returns its key.
    pub fn key(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Shell => "shell",
            Self::Sessions => "sessions",
            Self::Files => "files",
            Self::Docker => "docker",
            Self::LocalForwards => "local_forwards",
            Self::RemoteForwards => "remote_forwards",
            Self::PublicForwards => "public_forwards",
            Self::AgentForwarding => "agent_forwarding",
            Self::Grants => "grants",
            Self::Passwords => "passwords",
            Self::KeepPasswords => "keep_passwords",
            Self::TrustOnFirstUse => "trust_on_first_use",
            Self::ProxyCommands => "proxy_commands",
        }
    }
}

/// The file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct SystemPolicy {
    /// Where it was read.
    #[serde(skip)]
    pub path: PathBuf,
    /// Which hosts.
    #[serde(default)]
    pub hosts: HostRules,
    /// Which features: those that are not named are on.
    #[serde(default)]
    features: BTreeMap<Feature, bool>,
    /// What may be done, on all hosts and on this machine.
    #[serde(default)]
    pub policy: PolicyConfig,
}

impl SystemPolicy {
    pub(super) fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let mut system: Self = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let before = text.get(..at).unwrap_or_default();
            let line = before.rsplit('\n').next().unwrap_or_default();
            ConfigError::System {
                path: path.to_owned(),
                line: line_of(text, at),
                column: line.chars().count() + 1,
                message: in_words(error.message()),
            }
        })?;
        path.clone_into(&mut system.path);
        for rule in &mut system.policy.rules {
            if let RulePlace::Offset(offset) = rule.place {
                rule.place = RulePlace::System(path.to_owned(), line_of(text, offset));
            }
        }
        Ok(system)
    }

    /// Returns whether something is on. A program that makes connections leads past the rules for hosts: where there
    /// are some, it has to be allowed by name.
    pub fn has(&self, feature: Feature) -> bool {
        let unless_named = feature != Feature::ProxyCommands || self.hosts.is_silent();
        self.features.get(&feature).copied().unwrap_or(unless_named)
    }

    /// Returns whether it restricts nothing that requests ask for.
    pub fn is_silent(&self) -> bool {
        self.features.values().all(|on| *on) && !self.policy().restricts()
    }

    /// Returns it for people.
    pub fn view(&self, place: &SessionHost) -> SystemPolicyView {
        let words = |patterns: &[HostPattern]| {
            patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect()
        };
        let off = Feature::ALL.into_iter().filter(|feature| !self.has(*feature));
        let view = self.policy().view(place.clone());
        SystemPolicyView {
            file: self.path.display().to_string(),
            allow: self.hosts.allow.as_deref().map(words),
            deny: words(&self.hosts.deny),
            off: off.map(|feature| feature.key().to_owned()).collect(),
            root: view.root,
            read_only: view.read_only,
            default: view.default,
            docker: view.docker,
            docker_read: view.docker_read,
            forward: view.forward,
            rules: view.rules,
        }
    }

    /// Returns its rules.
    pub fn policy(&self) -> Policy<'_> {
        Policy::new(&self.policy, &policy::NOTHING)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<SystemPolicy, ConfigError> {
        SystemPolicy::parse(text, Path::new("/etc/occ/policy.toml"))
    }

    #[test]
    fn errors_name_line_and_column() {
        for (text, place, word) in [
            ("[features]\nexec = false\nexce = true\n", "line 3, column 1", "exce"),
            ("[features]\n  exec = \"no\"\n", "line 2, column 10", "true or false"),
            ("[hosts]\nallow = [\"ok\", \"a:b\"]\n", "line 2, column", "no pattern"),
            ("\n[policy]\nroot = \"srv\"\n", "line 3, column 8", "begins with /"),
            ("[hots]\n", "line 1, column 2", "hots"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with("/etc/occ/policy.toml, "), "{error}");
            assert!(error.contains(place) && error.contains(word), "{error}");
        }
    }

    #[test]
    fn what_is_not_named_is_on() {
        let all = parse("").unwrap();
        assert!(Feature::ALL.into_iter().all(|feature| all.has(feature)));
        let some = parse("[hosts]\ndeny = [\"x\"]\n[features]\nexec = false\n").unwrap();
        let off: Vec<_> = Feature::ALL.into_iter().filter(|feature| !some.has(*feature)).collect();
        assert_eq!(off, [Feature::Exec, Feature::ProxyCommands]);
        let named = parse("[hosts]\ndeny = [\"x\"]\n[features]\nproxy_commands = true\n").unwrap();
        assert!(named.has(Feature::ProxyCommands));
        for feature in Feature::ALL {
            let text = format!("[features]\n{} = false\n", feature.key());
            assert!(!parse(&text).unwrap().has(feature), "{text}");
        }
    }
}
