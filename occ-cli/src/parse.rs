//! The values of the command line: texts in, checked types out.

use occ_proto::audit::AUDIT_MOST;
use occ_proto::name::{Destination, check_jump_hosts};
use occ_proto::{HostName, InvalidName, UserName};

/// A new value, or the wish to have none (an empty text).
#[derive(Debug, Clone)]
pub(crate) struct Clearable<T>(pub(crate) Option<T>);

/// The argument of `host default`.
#[derive(Debug, Clone)]
pub(crate) enum DefaultArg {
    Host(HostName),
    Cleared,
}

impl std::str::FromStr for DefaultArg {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "local" | "none" => Ok(Self::Cleared),
            name => HostName::new(name).map(Self::Host),
        }
    }
}

/// Returns the name or ID of a session, which may be of any kind but none.
pub(crate) fn parse_session(text: &str) -> Result<String, String> {
    match text {
        "" => Err("a session has a name; occ session list shows them".to_owned()),
        name => Ok(name.to_owned()),
    }
}

/// Returns a name for a new host.
pub(crate) fn parse_name(text: &str) -> Result<HostName, String> {
    let name = HostName::new(text).map_err(|error| error.to_string())?;
    name.check_new()?;
    Ok(name)
}

/// Returns `[user@]hostname[:port]` taken apart.
pub(crate) fn parse_destination(text: &str) -> Result<Destination, String> {
    text.parse().map_err(|error: InvalidName| error.to_string())
}

/// Returns a number of hosts, from 1 on.
pub(crate) fn parse_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..) => Ok(count),
        _ => Err("a number from 1 on is wanted".to_owned()),
    }
}

/// Returns a port, 1 to 65535.
pub(crate) fn parse_port(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        // Rust's parser takes a plus sign.
        Ok(port) if port > 0 && !text.starts_with('+') => Ok(port),
        _ => Err("a port is a number from 1 to 65535".to_owned()),
    }
}

/// Checks each hop of `ssh -J`'s list, so that a wrong one is named here and not by a failing dial.
pub(crate) fn parse_jump(text: &str) -> Result<String, String> {
    check_jump_hosts(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

fn clearable<T>(
    text: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Clearable<T>, String> {
    if text.is_empty() { Ok(Clearable(None)) } else { parse(text).map(|v| Clearable(Some(v))) }
}

/// Returns how many things of the audit log are wanted.
pub(crate) fn parse_audited(text: &str) -> Result<usize, String> {
    let number = text.parse().map_err(|_| "it is no number".to_owned())?;
    match number <= AUDIT_MOST {
        true => Ok(number),
        false => Err(format!("{AUDIT_MOST} at most; the files have all of it, as JSON lines")),
    }
}

/// Returns a key's fingerprint, as ssh-keygen shows it: a SHA-256 hash in base64 without padding.
pub(crate) fn parse_fingerprint(text: &str) -> Result<String, String> {
    let hash = text.strip_prefix("SHA256:").unwrap_or_default();
    let is_base64 = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
    match hash.len() == 43 && hash.bytes().all(is_base64) {
        true => Ok(text.to_owned()),
        false => {
            Err("a fingerprint is SHA256: and 43 characters, as ssh-keygen -l shows it".into())
        }
    }
}

/// Returns a user name, or none for an empty text.
pub(crate) fn clearable_user(text: &str) -> Result<Clearable<UserName>, String> {
    clearable(text, |text| UserName::new(text).map_err(|error| error.to_string()))
}

/// Returns a port, or none for an empty text.
pub(crate) fn clearable_port(text: &str) -> Result<Clearable<u16>, String> {
    clearable(text, parse_port)
}

/// Returns jump hosts, or none for an empty text.
pub(crate) fn clearable_jump(text: &str) -> Result<Clearable<String>, String> {
    clearable(text, parse_jump)
}

/// Returns the name and the value; the name as POSIX wants it (XBD 8.1), so that no shell on the host
/// can read it as anything else.
pub(crate) fn parse_env(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it must be NAME=VALUE")?;
    if !is_variable(name) {
        return Err("the name must be letters, digits and _, not beginning with a digit".into());
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// Returns whether a text is the name of a variable (POSIX, Base Definitions, 8.1).
pub(crate) fn is_variable(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Reads a number of lines, or `all`.
pub(crate) fn parse_lines(text: &str) -> Result<String, String> {
    match text == "all" || text.parse::<u64>().is_ok() {
        true => Ok(text.to_owned()),
        false => Err("is neither a number of lines nor all".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_need_a_valid_name() {
        assert_eq!(parse_env("A_1=x=y").unwrap(), ("A_1".into(), "x=y".into()));
        assert_eq!(parse_env("A=").unwrap().1, "");
        for bad in ["A", "=x", "1A=x", "A B=x", "A-B=x", "$(id)=x"] {
            assert!(parse_env(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ports_are_plain_numbers() {
        assert_eq!(parse_port("22"), Ok(22));
        for bad in ["0", "70000", "+22", "-1", " 22", "22x", ""] {
            assert!(parse_port(bad).is_err(), "{bad}");
        }
    }
}
