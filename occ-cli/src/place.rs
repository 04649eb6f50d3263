//! Where a command goes: to a host, or to this machine.

use std::fmt;

use occ_proto::HostName;

use crate::client::host_path;
use crate::target::{Source, Target};

/// A host, or this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A host.
    Host(HostName, Source),
    /// This machine.
    Local,
}

impl From<Target> for Place {
    fn from(target: Target) -> Self {
        match target {
            Target::Host(host, source) => Self::Host(host, source),
            Target::Local | Target::Unset => Self::Local,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host, _) => f.pad(host.as_str()),
            Self::Local => f.pad("this machine"),
        }
    }
}

impl Place {
    /// Returns `/v1/hosts/{host}{rest}`.
    pub(crate) fn path(&self, rest: &str) -> String {
        match self {
            Self::Host(host, _) => host_path(host, rest),
            Self::Local => format!("/v1/hosts/local{rest}"),
        }
    }

    /// Returns what a line about it begins with: `[prod-1] `, and nothing for this machine.
    pub(crate) fn prefix(&self) -> String {
        match self {
            Self::Host(host, _) => format!("[{host}] "),
            Self::Local => String::new(),
        }
    }

    /// Returns what an error about it begins with: `prod-1: `, and nothing for this machine.
    pub(crate) fn error_prefix(&self) -> String {
        match self {
            Self::Host(host, _) => format!("{host}: "),
            Self::Local => String::new(),
        }
    }

    /// Returns the option that names it: ` --host prod-1`, and nothing for this machine.
    pub(crate) fn option(&self) -> String {
        match self {
            Self::Host(host, _) => format!(" --host {host}"),
            Self::Local => String::new(),
        }
    }
}
