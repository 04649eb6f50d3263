//! How far a copy is, on a terminal.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::error::CliError;
use crate::output::Ui;

/// How often the line is drawn.
const TICK: Duration = Duration::from_millis(200);
/// Before so much time a rate is a guess.
const SETTLED: Duration = Duration::from_millis(500);

/// The bytes that have been copied, out of how many.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    /// What is copied, safe for a terminal.
    pub(crate) name: String,
    pub(crate) total: Option<u64>,
    /// Those that need not be copied again.
    pub(crate) before: u64,
    pub(crate) done: Rc<Cell<u64>>,
    pub(crate) begun: Instant,
}

impl Progress {
    /// Returns the progress of a copy that begins.
    pub(crate) fn new(name: String, total: Option<u64>, before: u64) -> Self {
        Self { name, total, before, done: Rc::new(Cell::new(before)), begun: Instant::now() }
    }

    /// Adds bytes.
    pub(crate) fn add(&self, bytes: usize) {
        self.done.set(self.done.get() + bytes as u64);
    }

    /// Returns how far it is, for a sentence: ` at 1.5 MB of 3.0 MB`.
    pub(crate) fn how_far(&self) -> String {
        let done = size(self.done.get());
        match self.total {
            Some(total) => format!(" at {done} of {}", size(total)),
            None => format!(" at {done}"),
        }
    }

    /// Returns the line for now.
    fn line(&self, elapsed: Duration) -> String {
        let done = self.done.get();
        let mut line = self.name.clone();
        match self.total {
            Some(total) if total > 0 => {
                // The share of what is there, which fits.
                let percent = (done.min(total) as f64 / total as f64 * 100.0).floor();
                line.push_str(&format!("  {percent:.0}%  {} / {}", size(done), size(total)));
            }
            _ => line.push_str(&format!("  {}", size(done))),
        }
        if elapsed < SETTLED {
            return line;
        }
        let rate = done.saturating_sub(self.before) as f64 / elapsed.as_secs_f64();
        line.push_str(&format!("  {}/s", size(rate as u64)));
        if let Some(total) = self.total.filter(|total| *total > done && rate >= 1.0) {
            let left = Duration::from_secs_f64((total - done) as f64 / rate);
            line.push_str(&format!("  {} left", crate::duration::two_units(left.as_secs())));
        }
        line
    }

    /// Waits for the copy and draws meanwhile. Ends early when the user ends it.
    pub(crate) async fn during<T>(
        &self,
        ui: &Ui,
        copy: impl Future<Output = Result<T, CliError>>,
    ) -> Result<T, CliError> {
        let mut copy = std::pin::pin!(copy);
        let mut ended = std::pin::pin!(crate::terminal::ended());
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        // The first comes at once.
        tick.tick().await;
        loop {
            tokio::select! {
                biased;
                error = &mut ended => return Err(error),
                _ = tick.tick() => ui.show_progress(&self.line(self.begun.elapsed())),
                done = &mut copy => {
                    ui.clear_progress();
                    return done;
                }
            }
        }
    }
}

/// Returns a number of bytes as a person reads it.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut amount = bytes as f64 / 1000.0;
    let mut unit = 0;
    while amount >= 999.95 && unit + 1 < UNITS.len() {
        amount /= 1000.0;
        unit += 1;
    }
    format!("{amount:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(999), "999 B");
        assert_eq!(size(1000), "1.0 kB");
        assert_eq!(size(999_960), "1.0 MB");
        assert_eq!(size(1_500_000_000), "1.5 GB");
    }

    #[tokio::test]
    async fn the_line_has_rate_and_time_left() {
        let progress = Progress::new("f".into(), Some(300_000_000), 0);
        progress.add(100_000_000);
        let line = progress.line(Duration::from_secs(2));
        assert_eq!(line, "f  33%  100.0 MB / 300.0 MB  50.0 MB/s  4s left");
        assert_eq!(progress.line(Duration::ZERO), "f  33%  100.0 MB / 300.0 MB");
    }
}
