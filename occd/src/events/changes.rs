//! What has changed since somebody looked.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use occ_proto::HostName;
use tokio::sync::watch;

/// Something with a state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// A host.
    Host(HostName),
    /// The sandbox of a host.
    Container(HostName),
    /// The forwards.
    Forwards,
    /// The sessions.
    Sessions,
    /// The operations.
    Operations,
    /// What hosts.json and occd.toml say besides.
    Files,
}

/// What has changed.
#[derive(Debug)]
pub struct Changes {
    revision: AtomicU64,
    touched: Mutex<BTreeSet<Topic>>,
    bell: watch::Sender<()>,
}

impl Default for Changes {
    /// Begins at a revision that no daemon before has come to, unless it saw a change each microsecond: who has waited for
    /// another revision of that one goes on with this one.
    fn default() -> Self {
        let now = u64::try_from(Timestamp::now().as_microsecond()).unwrap_or(0);
        Self {
            revision: AtomicU64::new(now),
            touched: Mutex::default(),
            bell: watch::Sender::default(),
        }
    }
}

impl Changes {
    /// Returns a number that is higher after every change.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// Returns the number of the next change.
    pub fn next_revision(&self) -> u64 {
        self.revision.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Something has changed, and can be looked at.
    pub fn touch(&self, topic: Topic) {
        self.next_revision();
        self.touched.lock().unwrap_or_else(PoisonError::into_inner).insert(topic);
        self.bell.send_modify(|()| {});
    }

    /// Returns a watch that changes with everything.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.bell.subscribe()
    }

    /// Returns what has changed since this was last asked.
    pub fn take(&self) -> BTreeSet<Topic> {
        std::mem::take(&mut self.touched.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
