//! Which variables a server takes for a program's environment (RFC 4254, section 6.4).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many names are remembered. About others the server is asked each time.
const NAMES: usize = 256;

/// What is known of one connection's server.
#[derive(Debug, Default)]
pub(super) struct Variables(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    said: HashMap<String, bool>,
    /// It does not answer such questions.
    mute: bool,
}

impl Variables {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the server takes a variable, if that is known.
    pub(super) fn takes(&self, name: &str) -> Option<bool> {
        let known = self.lock();
        if known.mute { Some(false) } else { known.said.get(name).copied() }
    }

    /// Notes what it said.
    pub(super) fn note(&self, name: &str, taken: bool) {
        let mut known = self.lock();
        if known.said.len() < NAMES {
            known.said.insert(name.to_owned(), taken);
        }
    }

    /// Notes that it is not to be asked.
    pub(super) fn is_mute(&self) {
        self.lock().mute = true;
    }
}
