//! What became of each host's link, for 90 days: a file of JSON lines per host below the state directory.
//!
//! Whoever has something to record hands it to a [`Recorder`], which never waits; one task writes. The time at
//! which the daemon was seen alive last tells how long a host was up before a crash.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use occ_proto::HostName;
use occ_proto::history::{Change, History, Link, Percentiles, RoundTrips};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

mod file;

use file::{Directory, Line};

use crate::blocking::blocking;
use crate::pool::Pool;

/// How long the history goes back.
pub const KEPT: SignedDuration = SignedDuration::from_hours(90 * 24);
/// How often round trips are measured and the time is noted.
const SAMPLE: Duration = Duration::from_secs(60);
/// Samples that are put together into one line.
const SAMPLES: u32 = 60;
/// Changes that wait to be written. A thousand hosts that lose their network change at once.
const WAITING: usize = 4096;
/// How often what is too old is thrown away, in samples.
const PRUNE: u32 = 24 * 60;

/// Takes changes and passes them on to the disk.
#[derive(Debug, Clone)]
pub struct Recorder(mpsc::Sender<(HostName, Change)>);

impl Recorder {
    /// Records a change. It is lost when the disk is so far behind that thousands wait.
    pub fn record(&self, host: &HostName, change: Change) {
        if self.0.try_send((host.clone(), change)).is_err() {
            tracing::warn!(%host, "the history is too far behind: a change is not recorded");
        }
    }
}

/// The other end of the recorder.
#[derive(Debug)]
pub struct Writer {
    directory: Arc<Directory>,
    changes: mpsc::Receiver<(HostName, Change)>,
}

/// The recorded history.
#[derive(Debug, Clone)]
pub struct Archive(Arc<Directory>);

/// Returns what records, what writes and what reads.
pub fn open(state_dir: PathBuf) -> (Recorder, Writer, Archive) {
    let directory = Arc::new(Directory::new(state_dir.join("history")));
    let (sender, changes) = mpsc::channel(WAITING);
    (Recorder(sender), Writer { directory: Arc::clone(&directory), changes }, Archive(directory))
}

impl Writer {
    /// Writes until `stop` is cancelled and everything has been written.
    pub async fn run(mut self, pool: Arc<Pool>, stop: CancellationToken) {
        let last_alive = self.on_disk(|directory| directory.last_alive()).await;
        let mut known: HashMap<HostName, RoundTrips> = HashMap::new();
        let mut seen = HashSet::new();
        let mut samples = 0;
        let mut tick = tokio::time::interval(SAMPLE);
        // After sleep one look is enough.
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut batch = Vec::new();
            tokio::select! {
                biased;
                received = self.changes.recv_many(&mut batch, WAITING) => if received == 0 { break },
                () = stop.cancelled() => {
                    self.changes.close();
                    continue;
                }
                _ = tick.tick() => {
                    self.sample(&pool, &mut known).await;
                    samples += 1;
                    if samples % SAMPLES == 0 {
                        self.summarise(&mut known).await;
                    }
                    if samples % PRUNE == 1 {
                        self.on_disk(|directory| directory.prune(Timestamp::now() - KEPT)).await;
                    }
                    continue;
                }
            }
            let mut lines = Vec::new();
            for (host, change) in batch {
                // The first word about a host since the start: the daemon before may have left without one.
                if seen.insert(host.clone()) {
                    let before = host.clone();
                    let ended = self.on_disk(move |directory| directory.ended(&before, last_alive));
                    let off = ended.await.map(off);
                    lines.extend(off.map(|off| (host.clone(), Line::Change(off))));
                }
                lines.push((host, Line::Change(change)));
            }
            self.on_disk(move |directory| directory.append(&lines)).await;
        }
        self.summarise(&mut known).await;
        let off = off(Timestamp::now());
        let lines: Vec<(HostName, Line)> =
            seen.into_iter().map(|host| (host, Line::Change(off.clone()))).collect();
        self.on_disk(move |directory| directory.append(&lines)).await;
    }

    /// Takes what was measured in the last minute, and measures the round trip to every connected host anew.
    async fn sample(&self, pool: &Pool, known: &mut HashMap<HostName, RoundTrips>) {
        self.on_disk(Directory::note_alive).await;
        for host in pool.all() {
            for ms in host.take_round_trips() {
                known.entry(host.name().clone()).or_default().add(ms);
            }
            host.measure();
        }
    }

    async fn summarise(&self, known: &mut HashMap<HostName, RoundTrips>) {
        let at = Timestamp::now();
        let lines: Vec<(HostName, Line)> =
            known.drain().map(|(host, rtt)| (host, Line::Rtt { at, rtt })).collect();
        self.on_disk(move |directory| directory.append(&lines)).await;
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Directory) -> T + Send + 'static,
    ) -> T {
        let directory = Arc::clone(&self.directory);
        blocking(move || work(&directory)).await
    }
}

/// Returns the change to a daemon that does not run.
fn off(at: Timestamp) -> Change {
    Change { at, link: Link::Off, code: None, phase: None, idle_reason: None, message: None }
}

impl Archive {
    /// Reads a host's history from `since` on.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn read(&self, host: HostName, since: Timestamp) -> std::io::Result<History> {
        let directory = Arc::clone(&self.0);
        let of = host.clone();
        let lines = blocking(move || directory.read(&of)).await?;
        Ok(history(host, lines, since, Timestamp::now()))
    }
}

/// Puts the lines of a file together.
fn history(name: HostName, lines: Vec<Line>, since: Timestamp, now: Timestamp) -> History {
    let (mut changes, mut trips) = (Vec::<Change>::new(), RoundTrips::default());
    for line in lines {
        match line {
            Line::Rtt { at, rtt } if at >= since => trips.merge(&rtt),
            Line::Rtt { .. } => {}
            Line::Change(change) => {
                // What held at `since` is its first entry.
                if change.at < since {
                    changes.clear();
                }
                changes.push(change);
            }
        }
    }
    let (mut up, mut down) = (SignedDuration::ZERO, SignedDuration::ZERO);
    for (at, change) in changes.iter().enumerate() {
        let end = changes.get(at + 1).map_or(now, |next| next.at);
        let time = end.duration_since(change.at.max(since)).max(SignedDuration::ZERO);
        match change.link {
            Link::Up => up += time,
            Link::Down | Link::Failed => down += time,
            Link::Idle | Link::Stopped | Link::Off | Link::Unknown => {}
        }
    }
    let wanted = up + down;
    let availability = (!wanted.is_zero()).then(|| up.as_secs_f64() / wanted.as_secs_f64());
    let seconds = |time: SignedDuration| u64::try_from(time.as_secs()).unwrap_or(0);
    let percentile = |part| trips.percentile(part);
    let rtt_ms = percentile(0.5).zip(percentile(0.95)).zip(percentile(0.99));
    History {
        name,
        since,
        changes,
        availability,
        up_s: seconds(up),
        down_s: seconds(down),
        rtt_ms: rtt_ms.map(|((p50, p95), p99)| Percentiles { p50, p95, p99 }),
    }
}

#[cfg(test)]
mod tests;
