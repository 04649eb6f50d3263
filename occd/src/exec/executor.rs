//! Where a command runs: on a host, or on this machine.

use std::sync::Arc;

use occ_proto::HostName;

use super::command::Command;
use super::error::ExecError;
use super::local::Local;
use super::running::{Progress, Running};
use super::start;
use crate::host::{HostHandle, Tries};
use crate::prompts::Client;

/// A place to run commands on. Both kinds give the same results, errors, streams and signals.
#[derive(Debug, Clone)]
pub enum Executor {
    /// A host, over its pooled connection.
    Host(HostHandle),
    /// This machine.
    Local(Arc<Local>),
}

impl Executor {
    /// Returns the host's name, or `local`.
    pub fn name(&self) -> &str {
        match self {
            Self::Host(host) => host.name().as_str(),
            Self::Local(_) => "local",
        }
    }

    /// Returns the host's name, if it is a host.
    pub fn host(&self) -> Option<&HostName> {
        match self {
            Self::Host(host) => Some(host.name()),
            Self::Local(_) => None,
        }
    }

    /// Starts a command. As long as it has not been sent, a broken connection is made anew, as the tries allow; once
    /// it may have been sent, nothing is repeated.
    ///
    /// # Errors
    ///
    /// See [`ExecError`]: each says whether the command may have been started.
    pub async fn start(
        &self,
        command: &Command,
        tries: Tries,
        client: &Client,
        progress: &Progress,
    ) -> Result<Running, ExecError> {
        match self {
            Self::Host(host) => start::start(host, command, tries, client, progress).await,
            Self::Local(local) => start::start_local(local, command, progress).await,
        }
    }
}
