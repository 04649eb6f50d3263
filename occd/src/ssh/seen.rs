//! What a dial has looked at: when it fails, that decides whether another would go otherwise.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use russh::keys::agent::AgentIdentity;
use tokio::sync::watch;

use super::agent::{AgentChoice, digest};
use super::target::Target;

/// What a dial has looked at.
#[derive(Debug, Default)]
pub struct Seen(Mutex<Parts>);

/// The parts of it.
#[derive(Debug, Default)]
pub struct Parts {
    /// Which agent the login asked, and what that held, as a hash; nothing if it did not come so far.
    pub agent: Option<(AgentChoice, Option<u64>)>,
    /// Keys, certificates and records, those that were not there included.
    pub files: Vec<PathBuf>,
    /// A password that is kept could not be had for want of a passphrase: what changes when somebody gives that.
    pub passwords: Option<watch::Receiver<u64>>,
}

impl Seen {
    fn lock(&self) -> MutexGuard<'_, Parts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_agent(&self, choice: &AgentChoice, identities: &[AgentIdentity]) {
        self.lock().agent = Some((choice.clone(), digest(identities)));
    }

    pub(super) fn set_files(&self, target: &Target, home: &Path) {
        self.lock().files = target.files(home);
    }

    pub(super) fn set_locked_passwords(&self, opened: watch::Receiver<u64>) {
        self.lock().passwords = Some(opened);
    }

    /// Takes out what was seen.
    pub fn take(&self) -> Parts {
        std::mem::take(&mut self.lock())
    }
}
