//! The settings in force, loaded anew when the file changes.
//!
//! Who must not be late, such as a request that comes right after an edit, calls [`LiveConfig::refresh`]; the daemon
//! does so when a look is [due](LiveConfig::due). A file that cannot be used is told and not used.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};

use super::{Config, ConfigFile, Stamps};
use crate::blocking::blocking;
use crate::ssh::error::chain;
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
    seen: Mutex<Seen>,
    loaded: watch::Sender<LoadedConfig>,
}

#[derive(Debug)]
struct Seen {
    stamps: Stamps,
    /// What a file says, or said before it was gone, is in force, and not only the defaults.
    counted: bool,
}

impl LiveConfig {
    /// Returns the settings that were read from a file when it looked like `seen`.
    pub fn new(file: ConfigFile, seen: Stamps, config: Config) -> Self {
        let loaded = LoadedConfig { config: Arc::new(config), problem: file.warning() };
        let counted = is_there(&seen);
        let seen = Mutex::new(Seen { stamps: seen, counted });
        let watched = Arc::new(Watched::new(file.paths()));
        Self { file: Arc::new(file), watched, seen, loaded: watch::channel(loaded).0 }
    }

    /// Returns what is in force.
    pub fn current(&self) -> LoadedConfig {
        self.loaded.borrow().clone()
    }

    /// Returns what is in force, as it changes.
    pub fn subscribe(&self) -> watch::Receiver<LoadedConfig> {
        self.loaded.subscribe()
    }

    /// Reads the files anew if they have changed, and has `apply` put them in force. Nobody who calls it returns before
    /// that is done.
    pub async fn refresh(&self, apply: impl AsyncFnOnce(&Arc<Config>)) {
        if self.watched.is_quiet() {
            return;
        }
        let mut seen = self.seen.lock().await;
        let (file, watched) = (Arc::clone(&self.file), Arc::clone(&self.watched));
        let (since, now) = blocking(move || (watched.begin(), file.stamp())).await;
        if seen.stamps != now {
            self.read(&mut seen.counted, &now, apply).await;
            // Last: whoever asked may have left before it was done.
            seen.stamps = now;
        }
        self.watched.looked(since);
    }

    /// Waits until it is time for a look at the files when nobody asks.
    pub async fn due(&self) {
        self.watched.due(POLL).await;
    }

    /// Reads the files. `counted` is whether what one says, or said, is in force.
    async fn read(&self, counted: &mut bool, now: &Stamps, apply: impl AsyncFnOnce(&Arc<Config>)) {
        // Whoever removes it need not mean to lift a policy; it may be lost. One that never counted lifts none.
        let gone = *counted && !is_there(now);
        let old = self.current().config;
        let (file, kept) = (Arc::clone(&self.file), gone.then(|| Config::clone(&old)));
        let load = move || match kept {
            Some(kept) => Ok(Config { system: file.load_system()?, ..kept }),
            None => file.load(),
        };
        match blocking(load).await {
            Ok(mut config) => {
                tracing::info!("occd.toml was read anew");
                let mut problems: Vec<String> = gone.then(|| GONE.to_owned()).into_iter().collect();
                for lost in &old.system {
                    if !config.system.iter().any(|system| system.path == lost.path) {
                        let path = lost.path.display();
                        problems.push(format!(
                            "{path} is gone: what it said stays in force until occd is started anew"
                        ));
                        config.system.push(lost.clone());
                    }
                }
                for problem in &problems {
                    tracing::error!("{problem}");
                }
                problems.extend(self.file.warning());
                let problem = (!problems.is_empty()).then(|| problems.join("; "));
                let config = Arc::new(config);
                self.loaded.send_replace(LoadedConfig { config: Arc::clone(&config), problem });
                *counted |= is_there(now);
                apply(&config).await;
            }
            Err(error) => {
                tracing::error!(
                    error = error.for_log(),
                    "the settings cannot be used; the last good ones stay"
                );
                let problem = format!("{}; the settings from before stay in force", chain(&error));
                self.loaded.send_modify(|loaded| loaded.problem = Some(problem));
            }
        }
    }
}

/// Returns whether there are settings.
fn is_there((own, _): &Stamps) -> bool {
    own.iter().any(Option::is_some)
}
