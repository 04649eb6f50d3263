//! The log: where it goes, in which form, and how much of it there is, which can be changed while the daemon runs.
//!
//! stderr when somebody watches it; the journal (`journal.rs`) when that is what stderr is; else a file (`file.rs`).

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use occ_proto::log::{self, LogFilter, LogLevel};
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Metadata;
use tracing_subscriber::Registry;
use tracing_subscriber::filter::{FilterExt as _, LevelFilter, Targets, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

mod file;
mod journal;
mod record;

pub use file::LogError;
use file::LogFile;
pub use file::check;
use journal::Journal;
use record::JsonLines;

/// The variable of the environment that says what is logged.
const VARIABLE: &str = "OCCD_LOG";
/// What is logged unless it says otherwise.
const DEFAULT: &str = "info";
/// Those who may say no more than this, whatever is asked for: below it they log what they receive, which may
/// hold secrets.
const GUARDED: [(&str, tracing::Level); 3] = [
    ("russh", tracing::Level::WARN),
    ("zbus", tracing::Level::WARN),
    ("hyper", tracing::Level::INFO),
];

/// How lines look in a file and on stderr. The journal has its own form.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// An object a line.
    Json,
}

/// What is logged, and for how long.
#[derive(Debug)]
struct Now {
    level: LogFilter,
    /// When what was logged at the start is logged again.
    end: Option<(Instant, Timestamp)>,
}

/// The log of this process.
#[derive(Debug)]
pub struct Logging {
    filter: reload::Handle<Targets, Registry>,
    at_start: LogFilter,
    now: Mutex<Now>,
    changed: Notify,
}

/// Starts logging: into that file, else to where stderr leads. `OCCD_LOG` says what (`debug`, `warn,occd::ssh=trace`).
pub fn start(file: Option<&Path>, format: Format) -> Result<Arc<Logging>, LogError> {
    let asked = std::env::var(VARIABLE).ok().filter(|text| !text.trim().is_empty());
    let wanted = asked.as_deref().map(|text| read(&text.to_ascii_lowercase().replace(' ', "")));
    let (at_start, wrong) = match wanted {
        Some(Ok(wanted)) => (Some(wanted), None),
        Some(Err(wrong)) => (None, Some(wrong)),
        None => (None, None),
    };
    let at_start = at_start.or_else(|| read(DEFAULT).ok()).ok_or(LogError::NoDefault)?;
    let sink: Box<dyn Layer<Registry> + Send + Sync> = match (file, Journal::of_stderr()) {
        (Some(path), _) => {
            let file = LogFile::open(path, format)?;
            match format {
                Format::Text => Box::new(text(file, false)),
                Format::Json => Box::new(JsonLines(file)),
            }
        }
        (None, Some(journal)) => Box::new(journal),
        (None, None) => match format {
            Format::Text => Box::new(text(io::stderr, io::IsTerminal::is_terminal(&io::stderr()))),
            Format::Json => Box::new(JsonLines(io::stderr)),
        },
    };
    let (filter, handle) = reload::Layer::new(targets(&at_start));
    let sink = sink.with_filter(filter.and(filter_fn(may_say)));
    tracing_subscriber::registry().with(sink).init();
    if let Some(wrong) = wrong {
        tracing::warn!("{VARIABLE}: {wrong}; {at_start} is logged");
    }
    Ok(Arc::new(Logging {
        filter: handle,
        now: Mutex::new(Now { level: at_start.clone(), end: None }),
        at_start,
        changed: Notify::new(),
    }))
}

fn read(text: &str) -> Result<LogFilter, log::InvalidFilter> {
    text.parse()
}

fn text<W>(writer: W, ansi: bool) -> impl Layer<Registry> + Send + Sync
where
    W: for<'w> tracing_subscriber::fmt::MakeWriter<'w> + Send + Sync + 'static,
{
    tracing_subscriber::fmt::layer().with_target(false).with_ansi(ansi).with_writer(writer)
}

fn targets(filter: &LogFilter) -> Targets {
    filter.parts().fold(Targets::new(), |targets, (target, level)| {
        let level = match level {
            log::Level::Off => LevelFilter::OFF,
            log::Level::Error => LevelFilter::ERROR,
            log::Level::Warn => LevelFilter::WARN,
            log::Level::Info => LevelFilter::INFO,
            log::Level::Debug => LevelFilter::DEBUG,
            log::Level::Trace => LevelFilter::TRACE,
        };
        match target {
            Some(target) => targets.with_target(target, level),
            None => targets.with_default(level),
        }
    })
}

/// Holds whatever the filter is: a part of its own that nothing changes.
fn may_say(metadata: &Metadata<'_>) -> bool {
    let most = GUARDED.iter().find(|(name, _)| metadata.target().starts_with(name));
    most.is_none_or(|(_, most)| metadata.level() <= most)
}

impl Logging {
    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what is logged.
    pub fn level(&self) -> LogLevel {
        let now = self.lock();
        LogLevel {
            level: now.level.clone(),
            at_start: self.at_start.clone(),
            until: now.end.map(|(_, at)| at),
        }
    }

    /// Logs something else, for so long, or until the daemon ends.
    pub fn set(&self, level: LogFilter, time: Option<Duration>) {
        let until = time.map(|time| {
            let now = Timestamp::now();
            let at = jiff::SignedDuration::try_from(time).ok();
            (Instant::now() + time, at.and_then(|at| now.checked_add(at).ok()).unwrap_or(now))
        });
        {
            let mut now = self.lock();
            self.put(&level);
            *now = Now { level: level.clone(), end: until };
        }
        self.changed.notify_one();
        let until = until.map(|(_, at)| at.to_string());
        tracing::info!(filter = level.as_str(), until, "what is logged was changed");
    }

    fn put(&self, level: &LogFilter) {
        if let Err(error) = self.filter.reload(targets(level)) {
            tracing::error!(%error, "what is logged could not be changed");
        }
    }

    /// Puts what was logged at the start back when the time of something else is over.
    pub async fn keep(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let end = self.lock().end.map(|(end, _)| end);
            let over = async {
                match end {
                    Some(end) => tokio::time::sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.changed.notified() => continue,
                () = over => {}
            }
            {
                let mut now = self.lock();
                // It may have been set anew in this moment.
                if now.end.is_none_or(|(end, _)| end > Instant::now()) {
                    continue;
                }
                self.put(&self.at_start);
                *now = Now { level: self.at_start.clone(), end: None };
            }
            tracing::info!(
                filter = self.at_start.as_str(),
                "what was logged at the start is logged again"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_guarded_says_more_than_it_may() {
        use tracing::Level;
        let says = |target: &str, level: Level| {
            let most = GUARDED.iter().find(|(name, _)| target.starts_with(name));
            most.is_none_or(|(_, most)| level <= *most)
        };
        assert!(says("russh", Level::WARN) && !says("russh::client", Level::INFO));
        assert!(says("hyper::proto", Level::INFO) && !says("hyper_util::client", Level::DEBUG));
        assert!(!says("zbus", Level::DEBUG) && says("occd::ssh", Level::TRACE));
    }
}
