//! The audit log: what clients have done through the daemon, in files of JSON lines below the state directory.
//!
//! Whatever a client does has a [`Trail`], from the layer in `api/audit.rs` or from the Docker sockets; those who do it say
//! on it what it is and how it ended. Nobody waits for the disk: lines go through a bounded queue to one task
//! ([`Writer`]), and when that cannot write, work goes on and the loss is told. What lines look like is in
//! `proto/src/audit.rs`; what is masked in them in `mask.rs`. Environment values, standard input and answers to prompts
//! never come here.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use occ_proto::audit::{AuditEvent, AuditFilter, AuditLine};
use serde::Deserialize;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

mod file;
mod mask;
mod trail;

pub use trail::{Trail, Who};

use crate::blocking::blocking;
use file::{Log, LostCount, Reader};
use trail::Entry;

/// So many refusals a minute are written down of each socket.
const REFUSALS: u32 = 60;
const MINUTE: Duration = Duration::from_secs(60);
/// Lines that wait to be written: two thousand commands that begin and end at once. A command's words are cut before they
/// come here (`trail.rs`).
const WAITING: usize = 4096;
/// How many are written at once.
const BATCH: usize = 512;
const MIB: u64 = 1024 * 1024;

/// `[audit]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct AuditConfig {
    /// Whether there is an audit log.
    pub enabled: bool,
    /// The size at which the file is put aside and a new one begun, in MiB. Four of those are kept.
    #[serde(deserialize_with = "size")]
    pub max_size_mib: u64,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self { enabled: true, max_size_mib: 8 }
    }
}

fn size<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    match u64::deserialize(deserializer)? {
        size @ 1..=4096 => Ok(size),
        size => {
            Err(serde::de::Error::custom(format!("{size} is no size: at least 1, at most 4096")))
        }
    }
}

/// The audit log, for whoever has something to say or wants to read.
#[derive(Debug, Clone)]
pub struct Audit(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    log: Log,
    entries: mpsc::Sender<Entry>,
    enabled: AtomicBool,
    max_size: AtomicU64,
    /// What the next lines have before their number, so that no two daemons use the same.
    prefix: String,
    next: AtomicU64,
    /// Refusals of this minute, by the socket they came through.
    refusals: Mutex<(Option<Instant>, HashMap<String, u32>)>,
    /// Lines that were not written.
    lost: AtomicU64,
    /// The same, for the daemon after this one.
    lost_count: LostCount,
    /// That this cannot be written was said.
    said_uncounted: AtomicBool,
    /// That lines of the files are none was said.
    said_broken: AtomicBool,
    /// Why the last ones were not.
    problem: Mutex<Option<String>>,
    /// How often something was written.
    written: watch::Sender<u64>,
    /// Held while a file takes another's place, and while all of them are opened.
    order: Mutex<()>,
}

/// The other end.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    entries: mpsc::Receiver<Entry>,
}

/// Returns the log in a state directory, and what writes it.
pub fn open(state_dir: &Path, config: &AuditConfig) -> (Audit, Writer) {
    let (sender, entries) = mpsc::channel(WAITING);
    let lost_count = LostCount::new(state_dir);
    let known = lost_count.open();
    let shared = Arc::new(Shared {
        log: Log::new(state_dir),
        entries: sender,
        enabled: AtomicBool::new(config.enabled),
        max_size: AtomicU64::new(config.max_size_mib * MIB),
        prefix: format!("{:08x}", fastrand::u32(..)),
        next: AtomicU64::new(1),
        refusals: Mutex::default(),
        lost: AtomicU64::new(known.as_ref().map_or(0, |lost| *lost)),
        lost_count,
        said_uncounted: AtomicBool::new(false),
        said_broken: AtomicBool::new(false),
        problem: Mutex::default(),
        written: watch::Sender::default(),
        order: Mutex::default(),
    });
    shared.say_uncounted(known.err());
    (Audit(Arc::clone(&shared)), Writer { shared, entries })
}

impl Shared {
    fn problem(&self) -> MutexGuard<'_, Option<String>> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn id(&self) -> String {
        format!("{}-{}", self.prefix, self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Returns whether an ID is of this daemon.
    fn is_own(&self, id: &str) -> bool {
        id.split_once('-').is_some_and(|(prefix, _)| prefix == self.prefix)
    }

    /// Says once that the files have lines that are none.
    fn say_broken(&self, lines: u64) {
        if lines > 0 && !self.said_broken.swap(true, Ordering::Relaxed) {
            let path = self.log.path().display();
            tracing::warn!(
                lines,
                "the audit log {path} has lines that cannot be read: passed over"
            );
        }
    }

    /// Has the daemon after this one know how many lines are lost.
    fn keep_count(&self, lost: u64) {
        self.say_uncounted(self.lost_count.set(lost).err());
    }

    /// Says once that this cannot be kept.
    fn say_uncounted(&self, error: Option<std::io::Error>) {
        let Some(error) = error else { return };
        if !self.said_uncounted.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "how many lines of the audit log are lost is known to this daemon alone");
        }
    }

    /// Returns whether one more refusal is written down. Whoever may do nothing here is not to fill the files with that, and
    /// have what was done before put aside. Those that are not are counted as lost.
    fn takes_refusal(&self, via: &str) -> bool {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, counts) = &mut *refusals;
        if since.is_none_or(|since| since.elapsed() >= MINUTE) {
            *since = Some(Instant::now());
            counts.clear();
        }
        let count = counts.entry(via.to_owned()).or_default();
        *count += 1;
        let takes = *count <= REFUSALS;
        if !takes {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        takes
    }

    fn send(&self, entry: Entry) {
        match self.entries.try_send(entry) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                if self.lost.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::error!("the audit log is too far behind: lines are lost");
                }
            }
            Err(TrySendError::Closed(_)) => tracing::debug!("something ended after the audit log"),
        }
    }

    /// Writes lines. What cannot be written is counted, and told by a line of its own when one can be.
    fn write(&self, batch: &[Entry]) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let mut text = Vec::new();
        if lost > 0 {
            let line = AuditLine::new(Timestamp::now(), self.id(), AuditEvent::Lost, "audit");
            put(&mut text, &AuditLine { lost: Some(lost), ..line });
        }
        for entry in batch {
            put(&mut text, &entry.line());
        }
        let written = {
            let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
            self.log.append(&text, self.max_size.load(Ordering::Relaxed))
        };
        let mut problem = self.problem();
        match written {
            Ok(()) => {
                if problem.take().is_some() {
                    tracing::info!(lost, "the audit log is written again");
                }
                drop(problem);
                // Behind the line: who is killed in between tells of it twice, and not never.
                if lost > 0 {
                    self.keep_count(0);
                }
                self.written.send_modify(|times| *times += 1);
            }
            Err(error) => {
                let missing = lost + batch.len() as u64;
                self.keep_count(self.lost.fetch_add(missing, Ordering::Relaxed) + missing);
                let path = self.log.path().display();
                let text = format!("the audit log {path} cannot be written: {error}");
                if problem.as_ref() != Some(&text) {
                    tracing::error!("{text}; what is done is done without");
                    *problem = Some(text);
                }
            }
        }
    }
}

fn put(text: &mut Vec<u8>, line: &AuditLine) {
    match serde_json::to_writer(&mut *text, line) {
        Ok(()) => text.push(b'\n'),
        // Strings and numbers alone: this does not happen.
        Err(error) => tracing::error!(%error, "a line of the audit log is none"),
    }
}

impl Audit {
    /// Puts the settings in force.
    pub fn set(&self, config: &AuditConfig) {
        if self.0.enabled.swap(config.enabled, Ordering::Relaxed) != config.enabled {
            tracing::info!(enabled = config.enabled, "the audit log");
        }
        self.0.max_size.store(config.max_size_mib * MIB, Ordering::Relaxed);
    }

    /// Returns the trail of something that somebody does; one that leaves nothing where there is to be no log.
    pub fn trail(
        &self,
        who: &Arc<Who>,
        via: impl Into<String>,
        action: impl Into<String>,
    ) -> Trail {
        if !self.0.enabled.load(Ordering::Relaxed) {
            return Trail::default();
        }
        Trail::new(Arc::clone(&self.0), Arc::clone(who), via.into(), action.into())
    }

    /// Notes what the daemon does by itself.
    pub fn note(&self, action: &str, host: Option<&str>, detail: String) {
        let trail = self.trail(&Arc::default(), "daemon", action);
        trail.set(|line| {
            line.host = host.map(str::to_owned);
            line.detail = Some(detail);
        });
        trail.done();
    }

    /// Returns why lines are lost at the moment.
    pub fn problem(&self) -> Option<String> {
        let problem = self.0.problem().clone()?;
        let lost = self.0.lost.load(Ordering::Relaxed);
        Some(format!("{problem}; lines lost so far: {lost}"))
    }

    /// Returns what is in the files, the last `most` that are wanted, and what goes on behind that.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub async fn read(
        &self,
        filter: AuditFilter,
        most: usize,
    ) -> std::io::Result<(Vec<AuditLine>, Following)> {
        let shared = Arc::clone(&self.0);
        let mut changes = self.0.written.subscribe();
        changes.mark_unchanged();
        let wanted = filter.clone();
        let (lines, reader) = blocking(move || {
            let mut reader = {
                let _order = shared.order.lock().unwrap_or_else(PoisonError::into_inner);
                shared.log.reader()?
            };
            let mut joined = reader.last(wanted, most)?;
            shared.say_broken(joined.broken());
            joined.end_unless(|id| shared.is_own(id));
            let lines = joined.into_lines().into();
            Ok::<_, std::io::Error>((lines, reader))
        })
        .await?;
        Ok((
            lines,
            Following { shared: Arc::clone(&self.0), reader: Some(reader), filter, changes },
        ))
    }
}

/// What comes behind what was read.
#[derive(Debug)]
pub struct Following {
    shared: Arc<Shared>,
    /// With a thread that may wait for the disk, or here.
    reader: Option<Reader>,
    filter: AuditFilter,
    changes: watch::Receiver<u64>,
}

impl Following {
    /// Waits until something has been written. Dropping the future loses nothing.
    pub async fn changed(&mut self) {
        // The sender lives as long as this.
        let _ = self.changes.changed().await;
    }

    /// Returns the lines that have come since.
    ///
    /// # Errors
    /// When the file cannot be read. It is over then, and so where the future is dropped.
    pub async fn read(&mut self) -> std::io::Result<Vec<AuditLine>> {
        let Some(mut reader) = self.reader.take() else {
            return Err(std::io::ErrorKind::Interrupted.into());
        };
        let shared = Arc::clone(&self.shared);
        let (reader, read) = blocking(move || {
            let _order = shared.order.lock().unwrap_or_else(PoisonError::into_inner);
            let read = reader.next(&shared.log);
            (reader, read)
        })
        .await;
        let mut lines = read?;
        self.reader = Some(reader);
        lines.retain(|line| self.filter.takes(line));
        Ok(lines)
    }
}

impl Writer {
    /// Writes until `stop` is cancelled and everything has been written that was said before.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::new();
        loop {
            let received = tokio::select! {
                biased;
                received = self.entries.recv_many(&mut batch, BATCH) => received,
                () = stop.cancelled(), if !self.entries.is_closed() => {
                    self.entries.close();
                    continue;
                }
            };
            if received == 0 {
                return;
            }
            let shared = Arc::clone(&self.shared);
            let lines = std::mem::take(&mut batch);
            blocking(move || shared.write(&lines)).await;
        }
    }
}

/// Returns the path of the file that is written to.
pub fn path(state_dir: &Path) -> PathBuf {
    Log::new(state_dir).path().to_owned()
}

#[cfg(test)]
mod tests;
