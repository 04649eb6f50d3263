//! What may be done on a host, by whom: policies, and grants, which are sockets with a policy of their own.
//!
//! - `GET /v1/hosts/{host}/policy` answers with a [`PolicyView`].
//! - `POST /v1/hosts/{host}/policy/check` takes a [`PolicyCheck`] and answers with a [`PolicyVerdict`]; nothing is done.
//! - `POST /v1/grants` takes a [`GrantRequest`]; `GET /v1/grants` lists them, `DELETE /v1/grants/{name}` revokes one.

use std::collections::BTreeMap;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::exec::Bytes;
use crate::name::HostName;
use crate::session::SessionHost;

/// The name of a grant's socket, in a directory of its own.
pub const GRANT_SOCKET: &str = "occ.sock";

/// The request header by which a client says of what kind it is ([`ClientKind`]). It is a claim: nobody checks it.
pub const CLIENT_HEADER: &str = "occ-client";

/// A kind of client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum ClientKind {
    /// `occ`.
    Cli,
    /// An editor.
    Editor,
    /// Any other program, and each that does not say what it is.
    #[default]
    Api,
    /// A tool server for AI agents.
    Mcp,
}

impl ClientKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Cli, Self::Editor, Self::Api, Self::Mcp];

    /// Returns the word used on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cli => "cli",
            Self::Editor => "editor",
            Self::Api => "api",
            Self::Mcp => "mcp",
        }
    }
}

impl FromStr for ClientKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is none of cli, editor, api and mcp"))
    }
}

/// What is done with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is done.
    Allow,
    /// A person is asked first.
    Ask,
    /// It is refused.
    Deny,
}

impl Action {
    /// Returns the word used on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Ask => "ask",
            Self::Deny => "deny",
        }
    }
}

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Capability {
    /// Reading files and directories, and what Docker and sessions have to say.
    Read,
    /// Changing files.
    Write,
    /// Running programs: exec, shell, sessions.
    Exec,
    /// Changing anything of Docker's.
    Docker,
    /// Ports and sockets that lead to the host or from it.
    Forward,
}

impl Capability {
    /// Every one.
    pub const ALL: [Self; 5] = [Self::Read, Self::Write, Self::Exec, Self::Docker, Self::Forward];

    /// Returns the word used on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Exec => "exec",
            Self::Docker => "docker",
            Self::Forward => "forward",
        }
    }
}

/// What a grant gives: `read`, `write`, `exec`, or `exec:PROGRAM`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Permission {
    /// To do what.
    pub capability: Capability,
    /// With which program, by a pattern; with any unless given.
    pub program: Option<String>,
}

impl FromStr for Permission {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (word, program) = match text.split_once(':') {
            Some((word, program)) => (word, Some(program.to_owned())),
            None => (text, None),
        };
        let capability = match word {
            "read" => Capability::Read,
            "write" => Capability::Write,
            "exec" => Capability::Exec,
            // Both would lead out of the grant: to all of the host, or to ports of this machine.
            "docker" | "forward" => return Err(format!("a grant cannot give {word}")),
            _ => return Err(format!("{text:?} is none of read, write, exec and exec:PROGRAM")),
        };
        match &program {
            Some(_) if capability != Capability::Exec => Err(format!("{word} takes no program")),
            Some(program) if program.is_empty() => Err("exec: lacks its program".to_owned()),
            _ => Ok(Self { capability, program }),
        }
    }
}

impl std::fmt::Display for Permission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.capability.as_str())?;
        self.program.as_ref().map_or(Ok(()), |program| write!(f, ":{program}"))
    }
}

impl Serialize for Permission {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Permission {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A rule as it is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct RuleView {
    /// Where it is written.
    pub at: String,
    /// What is done with what it fits.
    pub action: Action,
    /// What it is about; everything unless given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub what: Vec<Capability>,
    /// Which programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// With which arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<String>,
    /// For which kinds of client; all unless given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub client: Vec<ClientKind>,
}

/// The policy of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct PolicyView {
    /// The host, or `local`.
    pub host: SessionHost,
    /// Anything is restricted at all.
    pub restricts: bool,
    /// The directory that work stays below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// Nothing is changed.
    pub read_only: bool,
    /// What is done where no rule fits.
    pub default: Action,
    /// What is done about changes of Docker's where no rule fits.
    pub docker: Action,
    /// What is done about reading what Docker tells, where no rule fits. An older daemon does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_read: Option<Action>,
    /// What is done about forwards where no rule fits.
    pub forward: Action,
    /// The rules, of which the first that fits decides.
    pub rules: Vec<RuleView>,
    /// What whoever administers this machine says, which counts as well: the strictest of all decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub system: Vec<SystemPolicyView>,
}

/// A system-wide policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct SystemPolicyView {
    /// Where it is.
    pub file: String,
    /// Patterns of what may be connected to; everything unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<String>>,
    /// Patterns of what may not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
    /// The features that are turned off.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub off: Vec<String>,
    /// The directory that work stays below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// Nothing is changed.
    pub read_only: bool,
    /// What is done where no rule fits.
    pub default: Action,
    /// What is done about changes of Docker's where no rule fits.
    pub docker: Action,
    /// What is done about reading what Docker tells, where no rule fits. An older daemon does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_read: Option<Action>,
    /// What is done about forwards where no rule fits.
    pub forward: Action,
    /// The rules, of which the first that fits decides.
    pub rules: Vec<RuleView>,
}

/// Something that is only asked about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PolicyCheck {
    /// What; `exec` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub what: Option<Capability>,
    /// The program and its arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub argv: Vec<Bytes>,
    /// A line for the shell in place of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<String>,
    /// Variables that would be set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// For this kind of client; for the one that asks unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientKind>,
}

/// What would be done, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct PolicyVerdict {
    /// What.
    pub action: Action,
    /// What decides it.
    pub why: String,
}

/// A grant to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct GrantRequest {
    /// The host that it is for.
    pub host: HostName,
    /// What it gives.
    pub allow: Vec<Permission>,
    /// How long it lasts, in milliseconds.
    pub ttl_ms: u64,
    /// The directory that work stays below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// What to call it; some other name unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whoever reaches the socket may use it, of whatever user.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub any_uid: bool,
}

/// A grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Grant {
    /// Its name.
    pub name: String,
    /// Its host.
    pub host: HostName,
    /// What it gives.
    pub allow: Vec<Permission>,
    /// The directory that work stays below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// When it was made.
    pub created: Timestamp,
    /// When it ends.
    pub ends_at: Timestamp,
    /// Whoever reaches the socket may use it.
    #[serde(default)]
    pub any_uid: bool,
    /// Its socket, in a directory of its own.
    pub socket: String,
}

/// The grants that have not ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct GrantList {
    /// By their names.
    pub grants: Vec<Grant>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permission_is_a_word_and_perhaps_a_program() {
        for text in ["read", "write", "exec", "exec:git", "exec:/usr/bin/make"] {
            assert_eq!(text.parse::<Permission>().unwrap().to_string(), text);
        }
        for bad in ["", "Read", "exec:", "read:x", "docker", "forward", "session", "exec git"] {
            assert!(bad.parse::<Permission>().is_err(), "{bad}");
        }
    }
}
