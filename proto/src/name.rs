//! The validated strings: host names, addresses and user names.
//!
//! Every door (command line, API, hosts.json, `ssh -G`) takes these types and never a bare string, so
//! that a value which a program could read as an option or a shell could read as syntax exists nowhere
//! behind the doors. The rules are OpenSSH's own (`valid_hostname` and `valid_ruser` in its `ssh.c`),
//! tightened where a name also serves as a path segment and as a prefix of printed lines.

use std::borrow::Borrow;
use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

/// Why a string is not a valid name, host or user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {shown} {why}")]
pub struct InvalidName {
    what: &'static str,
    shown: String,
    why: &'static str,
}

impl InvalidName {
    fn new(what: &'static str, value: &str, why: &'static str) -> Self {
        // The value goes to a terminal: quoted, escaped and cut.
        let cut: String = value.chars().take(60).collect();
        let more = if cut.len() < value.len() { "…" } else { "" };
        Self { what, shown: format!("{cut:?}{more}"), why }
    }
}

/// Characters that OpenSSH refuses in host names, because ProxyCommand hands them to a shell.
const SHELL_SYNTAX: &str = "'`\"$\\;&<>|(){},";
/// The same for user names: `\` and `,` occur in real ones (`DOMAIN\user`), `$` does not.
const SHELL_SYNTAX_USER: &str = "'`\";&<>|(){}$";
/// The longest name of a host here and of a DNS name (RFC 1035, section 2.3.4).
const MAX_LEN: usize = 253;
/// Words that select something other than one configured host.
const RESERVED: [&str; 4] = ["local", "none", "all", "auto"];

/// Returns whether a character has no place in any name: control, white space, or invisible and
/// direction-changing characters that make two names look alike.
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || c.is_whitespace()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

fn check(what: &'static str, value: &str, forbidden: &str) -> Result<(), InvalidName> {
    let fail = |why| Err(InvalidName::new(what, value, why));
    if value.is_empty() {
        return fail("is empty");
    }
    if value.len() > MAX_LEN {
        return fail("is longer than 253 bytes");
    }
    if value.starts_with('-') {
        return fail("begins with '-', which a program would read as an option");
    }
    if value.chars().any(is_unprintable) {
        return fail("contains a space, a control character or an invisible character");
    }
    if value.chars().any(|c| forbidden.contains(c)) {
        return fail("contains a character that a shell would interpret");
    }
    Ok(())
}

macro_rules! validated {
    ($(#[$doc:meta])* $name:ident, $check:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Returns the value, checked.
            pub fn new(value: impl Into<String>) -> Result<Self, InvalidName> {
                let value = value.into();
                $check(&value)?;
                Ok(Self(value))
            }

            /// Returns the text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(value: &str) -> Result<Self, InvalidName> {
                Self::new(value)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

validated! {
    /// The name under which a host is configured: the key in hosts.json and `{host}` in the API.
    HostName, check_host_name
}
validated! {
    /// What to connect to: a DNS name, an IP address, or an alias of ssh_config.
    Address, check_address
}
validated! {
    /// The login name on a host.
    UserName, check_user
}
validated! {
    /// The name of a group of hosts. No program and no path takes it, so that it may have blanks.
    GroupName, check_group
}

impl HostName {
    /// What the name of a jump host that is not configured begins with; the rest is its destination, and
    /// behind a plus sign each, the ways there.
    pub const VIA: &str = "via:";

    /// Why no configured host may have such a name.
    pub const VIA_IS_OURS: &str = "names that begin with 'via:' are occd's own";

    /// Returns whether this is such a name. No configured host may have one.
    pub fn is_via(&self) -> bool {
        self.0.starts_with(Self::VIA)
    }

    /// Checks the name of a host that is new. One that hosts.json has already may have a colon, or begin with a tilde.
    ///
    /// # Errors
    /// When no host is given such a name, with words.
    pub fn check_new(&self) -> Result<(), &'static str> {
        match self.is_via() {
            true => Err(Self::VIA_IS_OURS),
            false if self.0.contains(':') => {
                Err("the name of a host has no ':', behind which a path begins")
            }
            false if self.0.starts_with('~') => {
                Err("the name of a host does not begin with '~', which a shell expands")
            }
            false => Ok(()),
        }
    }
}

fn check_host_name(value: &str) -> Result<(), InvalidName> {
    const WHAT: &str = "host name";
    check(WHAT, value, SHELL_SYNTAX)?;
    // A jump host's name is its destination.
    let rest = value.strip_prefix(HostName::VIA).unwrap_or(value);
    let of_destinations = if rest.len() < value.len() { &[][..] } else { &['@', '[', ']'] };
    if value.contains(['/', '%', '#', '?', '*', '!'])
        || value.contains(of_destinations)
        || value.starts_with('.')
    {
        return Err(InvalidName::new(
            WHAT,
            value,
            "contains one of / % # ? * ! @ [ ] or begins with '.'",
        ));
    }
    if RESERVED.contains(&value) {
        return Err(InvalidName::new(WHAT, value, "is a reserved word"));
    }
    Ok(())
}

fn check_address(value: &str) -> Result<(), InvalidName> {
    const WHAT: &str = "address";
    check(WHAT, value, SHELL_SYNTAX)?;
    if value.contains(['/', '#', '?', '*', '!', '@', '[', ']']) {
        return Err(InvalidName::new(WHAT, value, "contains one of / # ? * ! @ [ ]"));
    }
    // An IPv6 address may name its interface (RFC 4007, section 11).
    let bare = value.split_once('%').map_or(value, |(bare, _interface)| bare);
    if value.contains([':', '%']) && bare.parse::<Ipv6Addr>().is_err() {
        let why = "contains ':' or '%' and is no IPv6 address; a port is given apart";
        return Err(InvalidName::new(WHAT, value, why));
    }
    if value.bytes().all(|byte| byte == b'.') {
        return Err(InvalidName::new(WHAT, value, "is no name of a machine"));
    }
    Ok(())
}

fn check_user(value: &str) -> Result<(), InvalidName> {
    const WHAT: &str = "user name";
    check(WHAT, value, SHELL_SYNTAX_USER)?;
    if value.contains('/') || value.ends_with('\\') {
        return Err(InvalidName::new(WHAT, value, "contains '/' or ends in '\\'"));
    }
    Ok(())
}

fn check_group(value: &str) -> Result<(), InvalidName> {
    let fail = |why| Err(InvalidName::new("group", value, why));
    if value.trim().is_empty() {
        return fail("is empty or blank");
    }
    if value.chars().any(char::is_control) {
        return fail("contains a control character");
    }
    Ok(())
}

/// Checks jump hosts as for `ssh -J`: destinations separated by commas, the one next to us first, or `none`.
///
/// # Errors
/// When one of them is no destination.
pub fn check_jump_hosts(value: &str) -> Result<(), InvalidName> {
    for hop in value.split(',') {
        let hop = hop.strip_prefix("ssh://").unwrap_or(hop);
        hop.trim_end_matches('/').parse::<Destination>()?;
    }
    Ok(())
}

/// `[user@]address[:port]` taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The part before `@`.
    pub user: Option<UserName>,
    /// The address, without brackets.
    pub address: Address,
    /// The part behind `:`, 1 to 65535.
    pub port: Option<u16>,
}

impl FromStr for Destination {
    type Err = InvalidName;

    /// Takes `user@host:port` apart. An IPv6 address with a port is written in brackets; without
    /// brackets, a text with two or more colons is an IPv6 address alone.
    fn from_str(value: &str) -> Result<Self, InvalidName> {
        let (user, rest) = match value.rsplit_once('@') {
            Some((user, rest)) => (Some(UserName::new(user)?), rest),
            None => (None, value),
        };
        let (address, port) = if let Some(inner) = rest.strip_prefix('[') {
            let (address, after) = inner
                .split_once(']')
                .ok_or_else(|| InvalidName::new("address", value, "lacks the closing ']'"))?;
            match after.strip_prefix(':') {
                Some(port) => (address, Some(port)),
                None if after.is_empty() => (address, None),
                None => {
                    return Err(InvalidName::new("address", value, "has text behind the ']'"));
                }
            }
        } else {
            match rest.split_once(':') {
                Some((address, port)) if !port.contains(':') => (address, Some(port)),
                _ => (rest, None),
            }
        };
        let port = port.map(|text| parse_port(text, value)).transpose()?;
        Ok(Self { user, address: Address::new(address)?, port })
    }
}

fn parse_port(text: &str, whole: &str) -> Result<u16, InvalidName> {
    match text.parse::<u16>() {
        Ok(port) if port > 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ => Err(InvalidName::new("address", whole, "has a port that is not 1 to 65535")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD_EVERYWHERE: [&str; 5] = ["prod-1", "web_07", "a", "example.com", "bücher"];
    const BAD_EVERYWHERE: [&str; 24] = [
        "",
        "-oProxyCommand=x",
        "-",
        "a b",
        "a\tb",
        "a\nb",
        "a\0b",
        "a\u{1b}[31m",
        "a\u{202e}b",
        "a\u{200b}b",
        "a;b",
        "a&b",
        "a|b",
        "a<b",
        "a>b",
        "a(b",
        "a`id`",
        "$(id)",
        "a\"b",
        "a'b",
        "a{b",
        "a/b",
        "../x",
        "a\u{a0}b",
    ];

    #[test]
    fn every_newtype_refuses_what_a_shell_or_an_option_parser_would_read() {
        for bad in BAD_EVERYWHERE {
            assert!(HostName::new(bad).is_err(), "host name {bad:?}");
            assert!(Address::new(bad).is_err(), "address {bad:?}");
            assert!(UserName::new(bad).is_err(), "user {bad:?}");
        }
        for good in GOOD_EVERYWHERE {
            HostName::new(good).unwrap();
            Address::new(good).unwrap();
            UserName::new(good).unwrap();
        }
        assert!(HostName::new("x".repeat(254)).is_err());
    }

    #[test]
    fn what_a_shell_expands_begins_no_new_name() {
        let old = HostName::new("~z").unwrap();
        assert!(old.check_new().is_err());
        HostName::new("a~z").unwrap().check_new().unwrap();
    }

    #[test]
    fn reserved_words_are_not_host_names() {
        for word in RESERVED {
            assert!(HostName::new(word).is_err());
            assert!(Address::new(word).is_ok());
        }
    }

    #[test]
    fn an_address_is_no_destination() {
        for bad in ["h:22", "127.0.0.1:22", "a%b", ".", ".."] {
            assert!(Address::new(bad).is_err(), "{bad}");
        }
        for good in ["fe80::1%eth0", "::1", "a.b.", "..a"] {
            Address::new(good).unwrap();
        }
    }

    #[test]
    fn jump_hosts_are_checked_hop_by_hop() {
        for good in ["a", "a,u@b:22,ssh://c", "[::1]:22", "none", "ssh://u@h:22/"] {
            check_jump_hosts(good).unwrap();
        }
        for bad in ["", "a,", "-oProxyCommand=x", "a,-J", "a,b c", "a;b", "a:0"] {
            assert!(check_jump_hosts(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn real_users_and_addresses_pass() {
        UserName::new("DOMAIN\\deploy").unwrap();
        UserName::new("deploy@corp.example").unwrap();
        assert!(UserName::new("deploy\\").is_err());
        Address::new("2001:db8::1").unwrap();
        Address::new("fe80::1%eth0").unwrap();
        assert!(HostName::new("a%2fb").is_err());
    }

    #[test]
    fn deserialising_validates() {
        assert!(serde_json::from_str::<HostName>("\"-x\"").is_err());
        assert_eq!(serde_json::from_str::<HostName>("\"x\"").unwrap().as_str(), "x");
    }

    #[test]
    fn errors_are_safe_to_print() {
        let text = HostName::new("a\u{1b}]0;x\u{7}").unwrap_err().to_string();
        assert!(!text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn destinations_come_apart() {
        let parse = |s: &str| s.parse::<Destination>();
        let of = |u: Option<&str>, a: &str, p| Destination {
            user: u.map(|u| UserName::new(u).unwrap()),
            address: Address::new(a).unwrap(),
            port: p,
        };
        assert_eq!(parse("h").unwrap(), of(None, "h", None));
        assert_eq!(parse("u@h:22").unwrap(), of(Some("u"), "h", Some(22)));
        assert_eq!(parse("u@x@h").unwrap(), of(Some("u@x"), "h", None));
        assert_eq!(parse("::1").unwrap(), of(None, "::1", None));
        assert_eq!(parse("u@[::1]:2222").unwrap(), of(Some("u"), "::1", Some(2222)));
        assert_eq!(parse("[::1]").unwrap(), of(None, "::1", None));
        for bad in ["h:0", "h:70000", "h:", "h:+1", "h:x", "@h", "[::1", "[::1]x", "-h:22", ""] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
