//! When each host was last used, and whether a person has disconnected it, kept over restarts: `used.json` in the state
//! directory. It decides which hosts are connected when the daemon starts. Losing it loses nothing but that.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use occ_proto::HostName;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::pool::Pool;
use crate::state_file;

/// A host that was used within this time is connected when the daemon starts.
pub const RECENT: SignedDuration = SignedDuration::from_hours(7 * 24);
/// How often the file is written at most while the daemon runs, unless a host is used for the first time.
const INTERVAL: Duration = Duration::from_secs(60);
/// From the first use of a host to the file: it may be used for its login, and others with it.
const SOON: Duration = Duration::from_secs(1);

/// Which hosts are connected before anybody asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Autoconnect {
    /// Those used within [`RECENT`].
    #[default]
    Recent,
    /// Every one.
    All,
    /// None.
    None,
}

impl Autoconnect {
    /// Returns whether a host that was last used then is to be connected.
    pub fn applies(self, used: Option<Timestamp>, now: Timestamp) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::Recent => used.is_some_and(|used| now.duration_since(used) <= RECENT),
        }
    }
}

/// What is known of a host's last use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LastUse {
    /// When it was.
    At(Timestamp),
    /// A person has disconnected it since; `null` in the file.
    Disconnected,
}

/// What is known of each host's last use.
pub type LastUsed = BTreeMap<HostName, LastUse>;

/// The file.
#[derive(Debug)]
pub struct UsedFile {
    path: PathBuf,
    /// What it has in it. Locked while it is written.
    saved: Mutex<LastUsed>,
}

impl UsedFile {
    /// Reads the file in the state directory. One that is missing or damaged says nothing.
    pub fn open(state_dir: &Path) -> Self {
        let path = state_dir.join("used.json");
        Self { saved: Mutex::new(Self::load(&path)), path }
    }

    /// Returns what it has in it.
    pub fn saved(&self) -> LastUsed {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, LastUsed> {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn load(path: &Path) -> LastUsed {
        match std::fs::read(path).map(|bytes| serde_json::from_slice(&bytes)) {
            Ok(Ok(used)) => used,
            Ok(Err(error)) => {
                tracing::warn!(file = %path.display(), %error, "not read");
                LastUsed::new()
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => LastUsed::new(),
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "not read");
                LastUsed::new()
            }
        }
    }

    /// Writes the file now and then, soon after a host was used for the first time, so that a daemon that is killed is
    /// followed by one that knows, and when `stop` is cancelled.
    pub async fn keep(self: Arc<Self>, pool: Arc<Pool>, stop: CancellationToken) {
        let changed = Arc::clone(&pool.context().use_changed);
        loop {
            let wait = tokio::select! {
                () = stop.cancelled() => Duration::ZERO,
                () = tokio::time::sleep(INTERVAL) => Duration::ZERO,
                () = changed.notified() => SOON,
            };
            let stopped = timeout(wait, stop.cancelled()).await.is_ok();
            pool.let_unused_go();
            // It has said so.
            let _ = self.write(&pool);
            if stopped {
                return;
            }
        }
    }

    /// Writes the file if a host of the pool was used or disconnected since. Where a person asked for that, before the
    /// answer: the next daemon is to know it, however this one ends.
    ///
    /// # Errors
    /// When it cannot be written, which is in the log then, too.
    pub fn write(&self, pool: &Pool) -> io::Result<()> {
        let mut saved = self.lock();
        let mut used = saved.clone();
        for (host, at) in pool.used() {
            match at {
                Some(at) => used.insert(host, at),
                None => used.remove(&host),
            };
        }
        used.retain(|host, last| match last {
            LastUse::At(at) => Timestamp::now().duration_since(*at) <= RECENT,
            // Another of its name begins anew.
            LastUse::Disconnected => pool.get(host).is_some(),
        });
        if used == *saved {
            return Ok(());
        }
        state_file::save(&self.path, &used).inspect_err(
            |error| tracing::warn!(file = %self.path.display(), %error, "not written"),
        )?;
        *saved = used;
        Ok(())
    }
}

/// The moment of the last use of one host; shared with its handles.
#[derive(Debug)]
pub struct UseClock {
    last: Mutex<Option<LastUse>>,
    /// The last login needed a client, so that none is to be tried without one.
    by_client: AtomicBool,
    changed: Arc<Notify>,
}

impl UseClock {
    /// Returns a clock that stands there, and tells of a first use and of one that is forgotten.
    pub fn at(used: Option<Timestamp>, changed: Arc<Notify>) -> Self {
        let last = Mutex::new(used.map(LastUse::At));
        Self { last, by_client: AtomicBool::new(false), changed }
    }

    /// Notes a use.
    pub fn note(&self) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let before = last.replace(LastUse::At(Timestamp::now()));
        if !matches!(before, Some(LastUse::At(_))) {
            self.changed.notify_one();
        }
    }

    /// Notes that a person wants it disconnected, also by the next daemon.
    pub fn note_disconnect(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(LastUse::Disconnected);
        self.changed.notify_one();
    }

    /// Notes whether the last login needed a client.
    pub fn set_by_client(&self, by_client: bool) {
        self.by_client.store(by_client, Ordering::Relaxed);
    }

    /// Returns whether the last login needed a client.
    pub fn is_by_client(&self) -> bool {
        self.by_client.load(Ordering::Relaxed)
    }

    /// Returns what is known of the last use.
    pub fn last_use(&self) -> Option<LastUse> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the moment of the last use, if it was not disconnected since.
    pub fn last(&self) -> Option<Timestamp> {
        match self.last_use()? {
            LastUse::At(at) => Some(at),
            LastUse::Disconnected => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_means_within_a_week() {
        let now = Timestamp::now();
        let days = |days: i64| Some(now - SignedDuration::from_hours(24 * days));
        for (setting, used, applies) in [
            (Autoconnect::Recent, days(6), true),
            (Autoconnect::Recent, days(8), false),
            (Autoconnect::Recent, None, false),
            (Autoconnect::All, None, true),
            (Autoconnect::None, days(0), false),
        ] {
            assert_eq!(setting.applies(used, now), applies, "{setting:?} {used:?}");
        }
    }

    #[test]
    fn the_file_is_read_back_and_a_damaged_one_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let saved = || UsedFile::open(&state).saved();
        assert_eq!(saved(), LastUsed::new());
        let used = LastUsed::from([
            (HostName::new("a").unwrap(), LastUse::At(Timestamp::now())),
            (HostName::new("b").unwrap(), LastUse::Disconnected),
        ]);
        let path = state.join("used.json");
        state_file::save(&path, &used).unwrap();
        assert_eq!(saved(), used);
        std::fs::write(&path, "{").unwrap();
        assert_eq!(saved(), LastUsed::new());
    }
}
