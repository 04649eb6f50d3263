//! The settings in force, loaded anew when the file changes.
//!
//! Who must not be late, such as a request that comes right after an edit, calls [`LiveConfig::refresh`]; the daemon
//! does so when a look is [due](LiveConfig::due). A file that cannot be used is told and not used.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};

use super::{Config, ConfigFile};
use crate::blocking::blocking;
use crate::ssh::error::chain;
use crate::stamp::Stamp;
use crate::watched::Watched;

/// How often files that are not watched are looked at.
const POLL: Duration = Duration::from_secs(1);

/// What is said where the settings were, and are no more.
const GONE: &str = "occd.toml is gone: the settings from before, with their policies, stay in force until occd is started anew";

/// The settings in force, and why they are not those on disk.
#[derive(Debug, Clone)]
pub struct LoadedConfig {
    /// In force.
    pub config: Arc<Config>,
    /// What is wrong with the file.
    pub problem: Option<String>,
}

/// The settings of a daemon.
#[derive(Debug)]
pub struct LiveConfig {
    file: Arc<ConfigFile>,
    watched: Arc<Watched>,
    /// How the files looked when they were read. Locked until what was read is in force.
    seen: Mutex<[Option<Stamp>; 2]>,
    loaded: watch::Sender<LoadedConfig>,
}

impl LiveConfig {
    /// Returns the settings that were read from a file when it looked like `seen`.
    pub fn new(file: ConfigFile, seen: [Option<Stamp>; 2], config: Config) -> Self {
        let loaded = LoadedConfig { config: Arc::new(config), problem: file.warning() };
        let watched = Arc::new(Watched::new(file.paths()));
        let loaded = watch::channel(loaded).0;
        Self { file: Arc::new(file), watched, seen: Mutex::new(seen), loaded }
    }

    /// Returns what is in force.
    pub fn current(&self) -> LoadedConfig {
        self.loaded.borrow().clone()
    }

    /// Returns what is in force, as it changes.
    pub fn subscribe(&self) -> watch::Receiver<LoadedConfig> {
        self.loaded.subscribe()
    }

    /// Reads the file anew if it has changed, and has `apply` put it in force. Nobody who calls it returns before
    /// that is done.
    pub async fn refresh(&self, apply: impl AsyncFnOnce(&Arc<Config>)) {
        if self.watched.is_quiet() {
            return;
        }
        let mut seen = self.seen.lock().await;
        let (file, watched) = (Arc::clone(&self.file), Arc::clone(&self.watched));
        let (since, now) = blocking(move || (watched.begin(), file.stamp())).await;
        if *seen != now {
            self.read(&seen, &now, apply).await;
            // Last: whoever asked may have left before it was done.
            *seen = now;
        }
        self.watched.looked(since);
    }

    /// Waits until it is time for a look at the file when nobody asks.
    pub async fn due(&self) {
        self.watched.due(POLL).await;
    }

    async fn read(
        &self,
        seen: &[Option<Stamp>; 2],
        now: &[Option<Stamp>; 2],
        apply: impl AsyncFnOnce(&Arc<Config>),
    ) {
        if seen.iter().any(Option::is_some) && now.iter().all(Option::is_none) {
            // Whoever removes it need not mean to lift a policy; it may be lost.
            tracing::error!("{GONE}");
            self.loaded.send_modify(|loaded| loaded.problem = Some(GONE.to_owned()));
            return;
        }
        let file = Arc::clone(&self.file);
        match blocking(move || file.load()).await {
            Ok(config) => {
                tracing::info!("occd.toml was read anew");
                let config = Arc::new(config);
                let problem = self.file.warning();
                self.loaded.send_replace(LoadedConfig { config: Arc::clone(&config), problem });
                apply(&config).await;
            }
            Err(error) => {
                let problem = chain(&error);
                tracing::error!(
                    error = problem,
                    "occd.toml cannot be used; the last good one stays"
                );
                let problem = format!("{problem}; the settings from before stay in force");
                self.loaded.send_modify(|loaded| loaded.problem = Some(problem));
            }
        }
    }
}
