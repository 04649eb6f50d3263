//! An operation on a terminal: its progress while it lasts, and what came of it.

use occ_proto::container::ContainerStatus;
use occ_proto::operation::{Did, OperationEvent, Outcome, PullProgress};
use occ_proto::text::sanitize;

use super::host::bytes;
use super::{Colour, Ui, write_stderr};
use crate::place::Place;

/// The progress bar's width.
const BAR: usize = 24;
/// Between two lines about a pull in a pipe, in tenths of the whole.
const TENTHS: u64 = 2;

/// The progress of one operation.
#[derive(Debug)]
pub(crate) struct ProgressLine<'a> {
    ui: &'a Ui,
    prefix: String,
    /// A line that is not finished stands on the terminal.
    open: bool,
    tenth: u64,
}

impl<'a> ProgressLine<'a> {
    pub(crate) fn new(ui: &'a Ui, place: &Place) -> Self {
        Self { ui, prefix: place.prefix(), open: false, tenth: 0 }
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
            OperationEvent::Pull(progress) => self.tenths(*progress),
            OperationEvent::Output { text } | OperationEvent::Note { text } => {
                self.clear();
                self.ui.note(&format!("{}{}", self.prefix, sanitize(text)));
            }
            OperationEvent::End { .. } | OperationEvent::Unknown => {}
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

    /// Says now and then how far a pull is.
    fn tenths(&mut self, progress: PullProgress) {
        let tenth = (progress.bytes * 10).checked_div(progress.total).unwrap_or(0);
        if tenth >= self.tenth + TENTHS {
            self.tenth = tenth;
            self.ui.note(&format!("{}{}", self.prefix, amounts(progress)));
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
    format!(
        "{} of {}, {} of {} layers",
        bytes(progress.bytes),
        bytes(progress.total),
        progress.layers_done,
        progress.layers
    )
}

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
    let (sign, text) = sentence(outcome.did, seconds);
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
    fn a_pull_is_a_bar() {
        let half = PullProgress { layers: 4, layers_done: 1, bytes: 5_000_000, total: 10_000_000 };
        let text = bar(half);
        assert!(text.contains("████████████░░░░░░░░░░░░ 5.0 MB of 10 MB, 1 of 4 layers"), "{text}");
        assert!(bar(PullProgress::default()).contains("░".repeat(BAR).as_str()));
    }
}
