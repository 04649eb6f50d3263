//! The audit log: what was done through the daemon, on whose behalf, and how it ended. `GET /v1/audit` tells it as JSON
//! lines, and so does the file.
//!
//! The file has two lines of whatever is done, with one ID: one when it begins, so that a daemon that is killed leaves word
//! of it, and one when it ends. [`Joined`] makes one of both.

use std::collections::{HashMap, VecDeque};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::Code;

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum AuditEvent {
    /// Something begins.
    Begin,
    /// Something has ended.
    End,
    /// So many lines could not be written before this one.
    Lost,
    /// An event of a newer daemon.
    #[serde(other)]
    Unknown,
}

/// How something ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum AuditOutcome {
    /// It was done.
    Ok,
    /// The program ended with `exit_code`.
    Exit,
    /// `signal` ended the program.
    Signal,
    /// It was ended because its time was over.
    Timeout,
    /// It was not allowed.
    Refused,
    /// It was not done, or not to its end.
    Failed,
    /// Nobody knows: its client left, the link broke, the daemon ended.
    #[serde(other)]
    Unknown,
}

/// A line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct AuditLine {
    /// When.
    pub at: Timestamp,
    /// What the two lines of one thing have in common.
    pub id: String,
    /// What the line is about.
    pub event: AuditEvent,
    /// What is done, such as `exec`, `files.write` or `host.add`.
    pub action: String,
    /// Where; `local` is this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The process that asked, as the kernel names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Its user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Its program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// The names of the processes that it comes from, its parent first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<String>,
    /// What it says it is: `cli`, `editor`, `api` or `mcp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The socket it came by: `owner`, `read-only`, `docker` or `grant NAME`; `daemon` for what the daemon does by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// The command, without what looks like a secret.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub argv: Vec<String>,
    /// There is more of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub argv_cut: bool,
    /// The names of the variables that are set for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// The directory that it was asked for in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// The file that is changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// How many bytes of input it was given by its client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_bytes: Option<u64>,
    /// What else there is to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<AuditOutcome>,
    /// The program's exit code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<u32>,
    /// The signal that ended the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Why it was refused, or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// How long it took, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ms: Option<u64>,
    /// How many lines were lost, at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
}

impl AuditLine {
    /// Returns a line that says no more than that.
    pub fn new(at: Timestamp, id: String, event: AuditEvent, action: impl Into<String>) -> Self {
        Self {
            at,
            id,
            event,
            action: action.into(),
            host: None,
            pid: None,
            uid: None,
            program: None,
            parents: Vec::new(),
            client: None,
            via: None,
            argv: Vec::new(),
            argv_cut: false,
            env: Vec::new(),
            cwd: None,
            path: None,
            input_bytes: None,
            detail: None,
            outcome: None,
            exit_code: None,
            signal: None,
            code: None,
            ms: None,
            lost: None,
        }
    }

    /// Has the line of a beginning say how it ended. The time stays that of the beginning.
    fn finish(&mut self, end: Self) {
        self.event = end.event;
        self.action = end.action;
        self.host = end.host.or(self.host.take());
        self.input_bytes = end.input_bytes.or(self.input_bytes);
        self.detail = end.detail.or(self.detail.take());
        self.outcome = end.outcome;
        self.exit_code = end.exit_code;
        self.signal = end.signal;
        self.code = end.code;
        self.ms = end.ms;
    }
}

/// How many things an answer of `GET /v1/audit` tells at most.
pub const AUDIT_MOST: usize = 20_000;

/// Which lines are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Those of this host.
    pub host: Option<String>,
    /// Those of what began then or later.
    pub since: Option<Timestamp>,
}

impl AuditFilter {
    /// Returns whether a line is wanted. That some are lost concerns everybody.
    pub fn takes(&self, line: &AuditLine) -> bool {
        self.since.is_none_or(|since| line.at >= since)
            && (line.event == AuditEvent::Lost
                || self.host.is_none()
                || self.host.as_deref() == line.host.as_deref())
    }
}

/// The last lines of a log, both lines of one thing put together.
#[derive(Debug)]
pub struct Joined {
    filter: AuditFilter,
    most: usize,
    lines: VecDeque<AuditLine>,
    /// What has begun and not ended, by how many lines there were before it.
    open: HashMap<String, u64>,
    /// Lines that were given up in favour of later ones.
    dropped: u64,
    /// Lines that are none.
    broken: u64,
}

impl Joined {
    /// Returns none, of which the last `most` will be kept.
    pub fn new(filter: AuditFilter, most: usize) -> Self {
        Self { filter, most, lines: VecDeque::new(), open: HashMap::new(), dropped: 0, broken: 0 }
    }

    /// Takes the next line, as it is in the file. One that means nothing is passed over and counted: the disk was full, or
    /// the machine lost its power.
    pub fn take_json(&mut self, json: &[u8]) {
        match serde_json::from_slice(json) {
            Ok(line) => self.take(line),
            Err(_) if json.trim_ascii().is_empty() => {}
            Err(_) => self.broken += 1,
        }
    }

    /// Returns how many lines were passed over.
    pub fn broken(&self) -> u64 {
        self.broken
    }

    /// Takes the next line.
    pub fn take(&mut self, line: AuditLine) {
        if line.event == AuditEvent::End
            && let Some(at) = self.open.remove(&line.id)
        {
            let at = at.checked_sub(self.dropped).and_then(|at| usize::try_from(at).ok());
            if let Some(begun) = at.and_then(|at| self.lines.get_mut(at)) {
                begun.finish(line);
            }
            return;
        }
        if !self.filter.takes(&line) {
            return;
        }
        if line.event == AuditEvent::Begin {
            self.open.insert(line.id.clone(), self.dropped + self.lines.len() as u64);
        }
        self.lines.push_back(line);
        if self.lines.len() > self.most
            && let Some(old) = self.lines.pop_front()
        {
            self.dropped += 1;
            // The end of one that goes on is not wanted either.
            if old.event != AuditEvent::Begin {
                self.open.remove(&old.id);
            }
        }
    }

    /// Says of what has begun and not ended that nobody knows how it ended, unless it may go on. A daemon that is killed
    /// leaves such beginnings, and what IDs begin with tells those of one daemon from those of another.
    pub fn end_unless(&mut self, may_go_on: impl Fn(&str) -> bool) {
        for line in &mut self.lines {
            if line.event == AuditEvent::Begin && !may_go_on(&line.id) {
                line.event = AuditEvent::End;
                line.outcome = Some(AuditOutcome::Unknown);
            }
        }
    }

    /// Returns what there is, the oldest first.
    pub fn into_lines(self) -> VecDeque<AuditLine> {
        self.lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at: i64, id: &str, event: AuditEvent, host: &str) -> AuditLine {
        let at = Timestamp::from_second(at).unwrap();
        AuditLine { host: Some(host.into()), ..AuditLine::new(at, id.into(), event, "exec") }
    }

    #[test]
    fn both_lines_of_one_thing_become_one() {
        let mut joined = Joined::new(AuditFilter::default(), 10);
        joined.take(AuditLine { argv: vec!["ls".into()], ..line(1, "a", AuditEvent::Begin, "h") });
        joined.take(line(2, "b", AuditEvent::Begin, "h"));
        let end = line(3, "a", AuditEvent::End, "h");
        joined.take(AuditLine { outcome: Some(AuditOutcome::Exit), exit_code: Some(3), ..end });
        joined.take_json(b"{\"at\":");
        joined.take_json(b"\n");
        assert_eq!(joined.broken(), 1);
        let lines = joined.into_lines();
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[0].exit_code, lines[0].event), (Some(3), AuditEvent::End));
        assert_eq!((&lines[0].argv[..], lines[0].at.as_second()), (&["ls".to_owned()][..], 1));
        assert_eq!((lines[1].outcome, lines[1].event), (None, AuditEvent::Begin));
    }

    #[test]
    fn of_what_a_daemon_that_is_gone_has_begun_the_end_is_unknown() {
        let mut joined = Joined::new(AuditFilter::default(), 10);
        joined.take(line(1, "a-1", AuditEvent::Begin, "h"));
        joined.take(line(2, "a-2", AuditEvent::Begin, "h"));
        joined.take(AuditLine {
            outcome: Some(AuditOutcome::Ok),
            ..line(3, "a-2", AuditEvent::End, "h")
        });
        joined.take(line(4, "b-1", AuditEvent::Begin, "h"));
        joined.end_unless(|id| id.starts_with("b-"));
        let outcomes: Vec<_> = joined.into_lines().iter().map(|line| line.outcome).collect();
        assert_eq!(outcomes, [Some(AuditOutcome::Unknown), Some(AuditOutcome::Ok), None]);
    }

    #[test]
    fn the_last_ones_that_are_wanted_are_kept() {
        let since = Some(Timestamp::from_second(3).unwrap());
        let mut joined = Joined::new(AuditFilter { host: Some("h".into()), since }, 2);
        for (at, id) in [(1, "old"), (3, "a"), (4, "b"), (5, "c")] {
            joined.take(line(at, id, AuditEvent::Begin, "h"));
            joined.take(line(at, &format!("{id}2"), AuditEvent::Begin, "other"));
        }
        // Of what is not kept.
        joined.take(line(6, "a", AuditEvent::End, "h"));
        joined.take(line(6, "c", AuditEvent::End, "h"));
        let lines = joined.into_lines();
        let shown: Vec<_> = lines.iter().map(|line| (line.id.as_str(), line.event)).collect();
        assert_eq!(shown, [("b", AuditEvent::Begin), ("c", AuditEvent::End)]);
        let lost = AuditLine { host: None, ..line(7, "x", AuditEvent::Lost, "") };
        assert!(AuditFilter { host: Some("h".into()), since: None }.takes(&lost));
    }
}
