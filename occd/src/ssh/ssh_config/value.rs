//! The output of `ssh -G` taken apart.

use std::collections::HashMap;
use std::path::Path;

use occ_proto::Address;

use super::{InvalidValue, SshConfigError, invalid};

/// The options that are read. `user`, `hostname` and `port` are always printed.
pub(super) const KEYS: [&str; 33] = [
    "addressfamily",
    "bindaddress",
    "hostname",
    "user",
    "port",
    "identityfile",
    "certificatefile",
    "identitiesonly",
    "identityagent",
    "proxyjump",
    "proxycommand",
    "userknownhostsfile",
    "globalknownhostsfile",
    "stricthostkeychecking",
    "hostkeyalias",
    "hashknownhosts",
    "updatehostkeys",
    "connecttimeout",
    "serveraliveinterval",
    "serveralivecountmax",
    "forwardagent",
    "compression",
    "ciphers",
    "kexalgorithms",
    "macs",
    "hostkeyalgorithms",
    "casignaturealgorithms",
    "revokedhostkeys",
    "knownhostscommand",
    "pubkeyauthentication",
    "passwordauthentication",
    "kbdinteractiveauthentication",
    "preferredauthentications",
];

/// The values by option.
pub(super) type Values = HashMap<&'static str, Vec<String>>;

/// Returns the values of the options we read, several of one name in the order printed.
pub(super) fn parse(output: &[u8]) -> Result<Values, SshConfigError> {
    let mut values = Values::new();
    for line in output.split(|byte| *byte == b'\n') {
        let mut halves = line.splitn(2, |byte| *byte == b' ');
        let name = halves.next().unwrap_or_default();
        let Some(key) = KEYS.into_iter().find(|key| name.eq_ignore_ascii_case(key.as_bytes()))
        else {
            continue;
        };
        let value = std::str::from_utf8(halves.next().unwrap_or_default())
            .map_err(|_| invalid(key, InvalidValue::Encoding))?;
        values.entry(key).or_default().push(value.to_owned());
    }
    Ok(values)
}

/// The values that ssh printed, seen against its defaults.
pub(super) struct Set<'a> {
    pub(super) values: &'a Values,
    pub(super) defaults: &'a Values,
}

impl<'a> Set<'a> {
    /// Returns a value that ssh always prints.
    pub(super) fn printed(&self, key: &'static str) -> Result<&'a str, SshConfigError> {
        let first = self.values.get(key).and_then(|lines| lines.first());
        first.map(String::as_str).ok_or_else(|| invalid(key, InvalidValue::Missing))
    }

    pub(super) fn default_of(&self, key: &str) -> &'a str {
        self.defaults.get(key).and_then(|lines| lines.first()).map_or("", String::as_str)
    }

    /// Returns all values, unless they are the default.
    fn lines(&self, key: &str) -> Option<&'a [String]> {
        let lines = self.values.get(key)?;
        (self.defaults.get(key) != Some(lines)).then_some(lines)
    }

    pub(super) fn word(&self, key: &str) -> Option<&'a str> {
        self.lines(key)?.first().map(String::as_str)
    }

    /// Returns a value for which `none` means the same as not being set.
    pub(super) fn value(&self, key: &str) -> Option<String> {
        self.word(key).filter(|word| !word.eq_ignore_ascii_case("none")).map(str::to_owned)
    }

    /// Returns a list in which `none` stands for no element.
    pub(super) fn list(&self, key: &str) -> Option<Vec<&'a str>> {
        let lines = self.lines(key)?.iter().map(String::as_str);
        Some(lines.filter(|line| !line.eq_ignore_ascii_case("none")).collect())
    }

    pub(super) fn flag(&self, key: &'static str) -> Result<bool, SshConfigError> {
        match self.word(key) {
            None | Some("no" | "false") => Ok(false),
            Some("yes" | "true") => Ok(true),
            Some(_) => Err(invalid(key, InvalidValue::Word)),
        }
    }

    /// Returns a number; 0 counts as not set, as it switches the option off.
    pub(super) fn number(&self, key: &'static str) -> Result<Option<u32>, SshConfigError> {
        let Some(word) = self.value(key) else { return Ok(None) };
        let number: u32 = word.parse().map_err(|_| invalid(key, InvalidValue::Number))?;
        Ok(Some(number).filter(|number| *number > 0))
    }

    pub(super) fn known_hosts(
        &self,
        key: &str,
        places: impl FnMut(String) -> Vec<String>,
    ) -> Vec<String> {
        match self.word(key) {
            None => Vec::new(),
            Some(word) if word.eq_ignore_ascii_case("none") => vec!["/dev/null".to_owned()],
            Some(line) => split_paths(line).into_iter().flat_map(places).collect(),
        }
    }
}

/// Returns the absolute paths in a line. ssh prints several in one line and does not quote their spaces,
/// so a path begins wherever a slash follows a space.
pub(super) fn split_paths(line: &str) -> Vec<String> {
    let mut parts = line.split(" /");
    let first = parts.next().map(str::to_owned);
    first.into_iter().chain(parts.map(|rest| format!("/{rest}"))).collect()
}

/// What stands for the tokens in file names (ssh_config(5), TOKENS). ssh expands them after `-G` is done.
pub(super) struct Tokens<'a> {
    pub(super) home: &'a Path,
    pub(super) hostname: &'a str,
    pub(super) asked: &'a str,
    pub(super) alias: Option<&'a str>,
    pub(super) user: &'a str,
    pub(super) local_user: &'a str,
    pub(super) port: u16,
}

impl Tokens<'_> {
    pub(super) fn expand_all(
        &self,
        key: &'static str,
        paths: Vec<&str>,
    ) -> Result<Vec<String>, SshConfigError> {
        let expand = |path| self.expand(path).map_err(|error| invalid(key, error));
        paths.into_iter().map(expand).collect()
    }

    /// Returns a ProxyCommand with the tokens that it may have (ssh_config(5), TOKENS). Only checked names
    /// get into it: a shell reads it.
    pub(super) fn expand_command(&self, command: &str) -> Result<String, InvalidValue> {
        let mut expanded = String::new();
        let mut characters = command.chars();
        while let Some(character) = characters.next() {
            if character != '%' {
                expanded.push(character);
                continue;
            }
            match characters.next() {
                Some('%') => expanded.push('%'),
                Some('h') => expanded += self.hostname,
                Some('k') => expanded += Address::new(self.alias.unwrap_or(self.asked))?.as_str(),
                Some('n') => expanded += self.asked,
                Some('p') => expanded += &self.port.to_string(),
                Some('r') => expanded += self.user,
                other => return Err(InvalidValue::Token(other.unwrap_or(' '))),
            }
        }
        Ok(expanded)
    }

    /// Returns a path with `~`, `%` tokens and `${VARIABLE}` replaced. `%C` and `%j` are errors: what they
    /// stand for differs between versions of ssh. `~user` stays as it is.
    pub(super) fn expand(&self, path: &str) -> Result<String, InvalidValue> {
        let home = self.home.to_string_lossy();
        let (mut expanded, mut rest) = match path.strip_prefix('~') {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => (home.to_string(), rest),
            _ => (String::new(), path),
        };
        while let Some(at) = rest.find(['%', '$']) {
            let (before, after) = rest.split_at(at);
            expanded.push_str(before);
            if let Some(variable) = after.strip_prefix("${") {
                let (name, behind) = variable.split_once('}').ok_or(InvalidValue::Variable)?;
                expanded += &std::env::var(name).map_err(|_| InvalidValue::Variable)?;
                rest = behind;
            } else if let Some(token) = after.strip_prefix('%') {
                let mut characters = token.chars();
                match characters.next() {
                    Some('%') => expanded.push('%'),
                    Some('d') => expanded += &home,
                    Some('h') => expanded += self.hostname,
                    Some('i') => expanded += &rustix::process::getuid().as_raw().to_string(),
                    Some('k') => expanded += self.alias.unwrap_or(self.asked),
                    Some('L') => expanded += nodename().split('.').next().unwrap_or_default(),
                    Some('l') => expanded += &nodename(),
                    Some('n') => expanded += self.asked,
                    Some('p') => expanded += &self.port.to_string(),
                    Some('r') => expanded += self.user,
                    Some('u') => expanded += self.local_user,
                    other => return Err(InvalidValue::Token(other.unwrap_or(' '))),
                }
                rest = characters.as_str();
            } else {
                expanded.push('$');
                rest = &after[1..];
            }
        }
        Ok(expanded + rest)
    }
}

/// Returns this machine's name.
fn nodename() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
