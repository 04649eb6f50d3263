//! An operation on a terminal: its progress while it lasts, and what came of it.

use std::time::Duration;

use occ_proto::container::ContainerStatus;
use occ_proto::operation::{Did, OperationEvent, Outcome, PullProgress};
use occ_proto::text::sanitize;
use tokio::time::Instant;

use super::host::bytes;
use super::{Colour, Ui, write_stderr};
use crate::place::Place;

/// The progress bar's width.
const BAR: usize = 24;
/// Between two lines about a layer that comes, in a pipe: enough to see that it goes on.
const PIPE: Duration = Duration::from_secs(10);

/// The progress of one operation.
#[derive(Debug)]
pub(crate) struct ProgressLine<'a> {
    ui: &'a Ui,
    prefix: String,
    /// A line that is not finished stands on the terminal.
    open: bool,
    pull: PlainPull,
}

/// What was said last of a pull, in a pipe.
#[derive(Debug, Default)]
struct PlainPull {
    said: PullProgress,
    at: Option<Instant>,
}

impl PlainPull {
    /// Returns whether it is time for a line: another layer is there, or it has gone on for a while.
    fn is_due(&mut self, progress: PullProgress, now: Instant) -> bool {
        let since = *self.at.get_or_insert(now);
        let layer = progress.layers_done > self.said.layers_done;
        let due = layer || (progress.bytes != self.said.bytes && now - since >= PIPE);
        if due {
            (self.said, self.at) = (progress, Some(now));
        }
        due
    }
}

impl<'a> ProgressLine<'a> {
    pub(crate) fn new(ui: &'a Ui, place: &Place) -> Self {
        Self { ui, prefix: place.prefix(), open: false, pull: PlainPull::default() }
    }

    /// Tells of an event.
    pub(crate) fn tell(&mut self, event: &OperationEvent) {
        if self.ui.quiet || self.ui.json {
            return;
        }
        match event {
            OperationEvent::Step { text } => self.replace(&format!("{} …", sanitize(text))),
            OperationEvent::Pull(progress) if self.ui.stderr_terminal => {
                self.replace(&bar(*progress));
            }
            OperationEvent::Pull(progress) => {
                if self.pull.is_due(*progress, Instant::now()) {
                    self.ui.note(&format!("{}pulled {}", self.prefix, amounts(*progress)));
                }
            }
            OperationEvent::Output { text } | OperationEvent::Note { text } => {
                // What a program says is of the step before it.
                match event {
                    OperationEvent::Output { .. } => self.keep(),
                    _ => self.clear(),
                }
                self.ui.note(&format!("{}{}", self.prefix, sanitize(text)));
            }
            OperationEvent::End { .. } | OperationEvent::Unknown => {}
        }
    }

    /// Lets an unfinished line stand.
    fn keep(&mut self) {
        if std::mem::take(&mut self.open) {
            write_stderr(b"\n");
        }
    }

    /// Takes an unfinished line away.
    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.open) {
            write_stderr(b"\r\x1b[K");
        }
    }

    fn replace(&mut self, text: &str) {
        self.clear();
        if self.ui.stderr_terminal {
            self.open = true;
            write_stderr(format!("{}{text}", self.prefix).as_bytes());
        } else {
            self.ui.note(&format!("{}{text}", self.prefix));
        }
    }
}

impl Drop for ProgressLine<'_> {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Returns a pull as a bar.
fn bar(progress: PullProgress) -> String {
    let filled = (progress.bytes * BAR as u64).checked_div(progress.total).unwrap_or(0);
    let filled = usize::try_from(filled).unwrap_or(BAR).min(BAR);
    format!("pulling {}{} {}", "█".repeat(filled), "░".repeat(BAR - filled), amounts(progress))
}

fn amounts(progress: PullProgress) -> String {
    let layers = format!("{} of {} layers", progress.layers_done, progress.layers);
    match progress.total {
        // How large they are is not known of layers that are there already, or have not begun to come.
        0 => layers,
        total => format!("{} of {}, {layers}", bytes(progress.bytes), bytes(total)),
    }
}

/// Nobody knows whether the sandbox answers.
const NOT_LOOKED_AT: &str = "whether it answers was not looked at";

/// Returns the sentence for what was done, and whether it is good news.
pub(crate) fn sentence(did: Did, seconds: u64) -> (&'static str, String) {
    let text = match did {
        Did::Started => "Service started and ready".to_owned(),
        Did::WasRunning => "Service is already running".to_owned(),
        Did::Restarted => "Service restarted".to_owned(),
        Did::Stopped => format!("Service stopped ({seconds}s)"),
        Did::Killed => format!("Service stopped (force killed after {seconds}s)"),
        Did::WasStopped => "Service is not running".to_owned(),
        Did::Removed => "Service stopped and removed".to_owned(),
        Did::NotFound => "No service found.".to_owned(),
        Did::Updated => "Service updated".to_owned(),
        Did::UpToDate => "Service is up to date".to_owned(),
        Did::RolledBack => "Service rolled back to the image from before".to_owned(),
        Did::Synced => "Service is like the other one now".to_owned(),
        Did::Installed => "Docker is installed".to_owned(),
        Did::Unknown => "Done".to_owned(),
    };
    let sign = match did {
        Did::NotFound | Did::WasStopped => "○",
        _ => "✓",
    };
    (sign, text)
}

/// Returns the lines about what came of an operation.
pub(crate) fn outcome(ui: &Ui, place: &Place, outcome: &Outcome, seconds: u64) -> Vec<String> {
    let prefix = place.prefix();
    let (sign, mut text) = sentence(outcome.did, seconds);
    if let (Did::Installed, Some(version)) = (outcome.did, &outcome.docker_version) {
        text = format!("Docker {} is installed", sanitize(version));
    }
    if outcome.did == Did::Started && outcome.notes.iter().any(|n| n.contains(NOT_LOOKED_AT)) {
        text = "Service started".to_owned();
    }
    let colour = if sign == "✓" { Colour::Green } else { Colour::Grey };
    let mut lines = vec![format!("{prefix}{} {text}", ui.paint(colour, sign))];
    let mut add = |label: &str, text: &str| {
        lines.push(format!("{prefix}{label:<11} {}", sanitize(text)));
    };
    let running = outcome.sandbox.as_ref().filter(|s| s.state.as_deref() == Some("running"));
    if let Some(sandbox) = running {
        if let Some(url) = &outcome.url {
            add("URL:", url);
        }
        if let Some(id) = &sandbox.id {
            add("Container:", &id.chars().take(12).collect::<String>());
        }
        for port in &sandbox.ports {
            let inside = port.container_port.trim_end_matches("/tcp");
            add("Port:", &format!("{} -> {inside}", port.host_port));
        }
        add("Security:", security(sandbox));
    }
    for note in &outcome.notes {
        add("Note:", note);
    }
    lines
}

/// Returns whether others on the network can reach a sandbox.
pub(crate) fn security(sandbox: &ContainerStatus) -> &'static str {
    if sandbox.exposed { "[NETWORK EXPOSED]" } else { "[LOCAL ONLY]" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_in_a_pipe_is_a_line_for_each_layer_and_one_now_and_then() {
        let mut pull = PlainPull::default();
        let begun = Instant::now();
        let mut lines = Vec::new();
        for (second, layers_done, bytes) in [
            (0, 0, 0),
            (1, 0, 1_000_000),
            (9, 0, 2_000_000),
            (10, 0, 3_000_000),
            (12, 1, 4_000_000),
            (13, 1, 4_100_000),
            (22, 1, 5_000_000),
            (40, 1, 5_000_000),
            (41, 2, 10_000_000),
        ] {
            let progress = PullProgress { layers: 2, layers_done, bytes, total: 10_000_000 };
            if pull.is_due(progress, begun + Duration::from_secs(second)) {
                lines.push(format!("{second} {}", amounts(progress)));
            }
        }
        assert_eq!(
            lines,
            [
                "10 3.0 MB of 10 MB, 0 of 2 layers",
                "12 4.0 MB of 10 MB, 1 of 2 layers",
                "22 5.0 MB of 10 MB, 1 of 2 layers",
                "41 10 MB of 10 MB, 2 of 2 layers",
            ]
        );
    }

    #[test]
    fn a_pull_is_a_bar() {
        let half = PullProgress { layers: 4, layers_done: 1, bytes: 5_000_000, total: 10_000_000 };
        let text = bar(half);
        assert!(text.contains("████████████░░░░░░░░░░░░ 5.0 MB of 10 MB, 1 of 4 layers"), "{text}");
        let waiting = bar(PullProgress { layers: 3, layers_done: 1, ..PullProgress::default() });
        assert_eq!(waiting, format!("pulling {} 1 of 3 layers", "░".repeat(BAR)));
    }
}
