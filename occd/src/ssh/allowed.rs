//! Which servers may be connected to, as the administrator of this machine has it (`config/system.rs`).
//!
//! Pure. Each dial asks before anything is sent, and whoever saves a host asks before that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use occ_proto::wildcard;
use serde::{Deserialize, Deserializer};

use super::error::ConnectError;

/// `[hosts]` of a system-wide policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct HostRules {
    /// What may be connected to; everything unless given.
    pub allow: Option<Vec<HostPattern>>,
    /// What may not, whatever is allowed.
    pub deny: Vec<HostPattern>,
}

/// A pattern of servers: `[USER@]ADDRESS[:PORT]`, with `*` and `?` in each part.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPattern {
    text: String,
    user: Option<String>,
    address: String,
    port: Option<String>,
}

/// What is to be connected to, after ssh_config.
#[derive(Debug, Clone, Copy)]
pub(super) struct Server<'a> {
    pub(super) user: &'a str,
    pub(super) address: &'a str,
    pub(super) port: u16,
}

impl HostPattern {
    /// Reads one.
    ///
    /// # Errors
    /// What is wrong, for a person.
    pub fn new(text: &str) -> Result<Self, String> {
        let (user, rest) = match text.rsplit_once('@') {
            Some((user, rest)) => (Some(user.to_owned()), rest),
            None => (None, text),
        };
        let (address, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, "")) => (address, None),
            Some((address, port)) => (address, Some(port.strip_prefix(':').unwrap_or(""))),
            // An IPv6 address has more than one colon.
            None => match rest.split_once(':') {
                Some((address, port)) if !port.contains(':') => (address, Some(port)),
                _ => (rest, None),
            },
        };
        let is_port = |port: &str| {
            !port.is_empty()
                && port.bytes().all(|byte| byte.is_ascii_digit() || b"*?".contains(&byte))
        };
        let bad_user = user.as_ref().is_some_and(String::is_empty);
        if address.is_empty() || bad_user || port.is_some_and(|port| !is_port(port)) {
            return Err(format!(
                "{text:?} is no pattern such as \"*.example.org\" or \"user@10.0.0.*:22\""
            ));
        }
        let port = port.map(str::to_owned);
        Ok(Self { text: text.to_owned(), user, address: plain(address), port })
    }

    /// Returns it as it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn fits(&self, server: Server<'_>) -> bool {
        let matches =
            |pattern: &str, text: &str| wildcard::matches(pattern.as_bytes(), text.as_bytes());
        self.user.as_deref().is_none_or(|user| matches(user, server.user))
            && matches(&self.address, &plain(server.address))
            && self.port.as_deref().is_none_or(|port| matches(port, &server.port.to_string()))
    }
}

impl<'de> Deserialize<'de> for HostPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

/// Returns an address in the one way of writing it: names have no case and may end with a dot, and an IPv6 address may
/// be an IPv4 one.
fn plain(address: &str) -> String {
    let name = address.trim_end_matches('.').to_lowercase();
    match name.split('%').next().unwrap_or_default().parse::<IpAddr>() {
        // A connection to no address goes to this machine (connect(2) on Linux).
        Ok(ip) => match ip.to_canonical() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.to_string(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.to_string(),
            ip => ip.to_string(),
        },
        Err(_) => name,
    }
}

impl HostRules {
    /// Returns whether nothing is restricted.
    pub fn is_silent(&self) -> bool {
        self.allow.is_none() && self.deny.is_empty()
    }

    fn denial(&self, server: Server<'_>) -> Option<String> {
        let denied = self.deny.iter().find(|pattern| pattern.fits(server))?;
        Some(format!("deny has {:?}", denied.text))
    }

    fn refusal(&self, server: Server<'_>) -> Option<String> {
        let denied = self.denial(server);
        let allowed = |allow: &Vec<HostPattern>| allow.iter().any(|pattern| pattern.fits(server));
        match &self.allow {
            _ if denied.is_some() => denied,
            Some(allow) if !allowed(allow) => Some("allow has nothing that fits".to_owned()),
            _ => None,
        }
    }
}

/// The rules of each file, all of which must allow a server.
pub type AllRules = Vec<(PathBuf, HostRules)>;

/// Those that are in force.
#[derive(Debug, Default)]
pub struct Allowed(RwLock<Arc<AllRules>>);

impl Allowed {
    /// Puts rules in force.
    pub fn set(&self, rules: AllRules) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }

    fn rules(&self) -> Arc<AllRules> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns whether nothing is restricted.
    pub fn is_silent(&self) -> bool {
        self.rules().iter().all(|(_, rules)| rules.is_silent())
    }

    /// Refuses a server that may not be connected to.
    pub(super) fn check(&self, server: Server<'_>) -> Result<(), ConnectError> {
        self.first(server, HostRules::refusal)
    }

    /// Refuses what a name turns out to be: an address that is denied is denied by whatever name. What is allowed by
    /// its name need not be so by its address.
    pub(super) fn check_resolved(
        &self,
        server: Server<'_>,
        ip: IpAddr,
    ) -> Result<(), ConnectError> {
        self.first(Server { address: &ip.to_string(), ..server }, HostRules::denial)
    }

    fn first(
        &self,
        server: Server<'_>,
        why: impl Fn(&HostRules, Server<'_>) -> Option<String>,
    ) -> Result<(), ConnectError> {
        for (file, rules) in self.rules().iter() {
            if let Some(why) = why(rules, server) {
                let Server { user, address, port } = server;
                let place = match address.contains(':') {
                    true => format!("{user}@[{address}]:{port}"),
                    false => format!("{user}@{address}:{port}"),
                };
                return Err(ConnectError::NotAllowed { file: file.clone(), place, why });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_user_an_address_and_a_port() {
        for (pattern, user, address, port, fits) in [
            ("*.example.org", "u", "db.example.org", 22, true),
            ("*.example.org", "u", "DB.Example.ORG.", 2222, true),
            ("*.example.org", "u", "example.org", 22, false),
            ("*.EXAMPLE.org", "u", "db.example.org.evil.net", 22, false),
            ("deploy@10.0.0.*:22", "deploy", "10.0.0.7", 22, true),
            ("deploy@10.0.0.*:22", "root", "10.0.0.7", 22, false),
            ("deploy@10.0.0.*:22", "deploy", "10.0.0.7", 2222, false),
            ("10.0.0.7", "u", "::ffff:10.0.0.7", 22, true),
            ("::1", "u", "0:0:0:0:0:0:0:1", 22, true),
            ("[::1]:22", "u", "::1", 22, true),
            ("[::1]:22", "u", "::1", 23, false),
            ("fe80::*", "u", "fe80::1%eth0", 22, true),
            ("a@b@h", "a@b", "h", 22, true),
            ("*", "u", "anything", 1, true),
            ("*:22??", "u", "h", 2201, true),
        ] {
            let got = HostPattern::new(pattern).unwrap().fits(Server { user, address, port });
            assert_eq!(got, fits, "{pattern} {user}@{address}:{port}");
        }
        for bad in ["", "@h", "h:", "h:ssh", "[::1]x", "u@"] {
            assert!(HostPattern::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_denied_is_denied_by_any_name() {
        let pattern = |text: &str| HostPattern::new(text).unwrap();
        let allowed = Allowed::default();
        assert!(allowed.is_silent());
        let rules = HostRules {
            allow: Some(vec![pattern("*.example.org")]),
            deny: vec![pattern("db.*"), pattern("10.1.*")],
        };
        allowed.set(vec![(PathBuf::from("/etc/f"), rules)]);
        let check = |address: &str| allowed.check(Server { user: "u", address, port: 22 });
        assert!(check("web.example.org").is_ok());
        let refused = check("db.example.org").unwrap_err().to_string();
        assert_eq!(refused, "/etc/f does not allow u@db.example.org:22: deny has \"db.*\"");
        assert!(check("web.example.net").is_err());
        let web = Server { user: "u", address: "web.example.org", port: 22 };
        assert!(allowed.check_resolved(web, "10.2.0.1".parse().unwrap()).is_ok());
        assert!(allowed.check_resolved(web, "10.1.0.1".parse().unwrap()).is_err());
    }
}
