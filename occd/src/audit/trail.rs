//! What is known of one thing that somebody does, from its beginning to its end.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use jiff::Timestamp;
use occ_proto::Code;
use occ_proto::audit::{AuditEvent, AuditLine, AuditOutcome};
use occ_proto::exec::{Bytes, ExecRequest, Exit};
use tokio::time::Instant;

use super::{Shared, mask};
use crate::peer::{self, Peer};

/// How many words of a command are kept, and how long all of them and one of them may be, in bytes. What is masked is
/// looked for in that much, and each word is cut once more when that is done.
const WORDS: usize = 64;
const LENGTH: usize = 8 * 1024;
const WORD: usize = 4 * 1024;
/// Names of variables.
const NAMES: usize = 64;

/// The process at the other end of a connection, and what can be told of it. Found out once for each connection.
#[derive(Debug, Default)]
pub struct Who {
    peer: Option<Peer>,
    program: OnceLock<Option<PathBuf>>,
    parents: OnceLock<Vec<String>>,
}

impl Who {
    /// Returns the one that is known as that.
    pub fn of(peer: Option<Peer>) -> Arc<Self> {
        Arc::new(Self { peer, ..Self::default() })
    }

    /// Returns its program. Looked up at once: a process that has asked for something may be gone in a moment.
    fn program(&self) -> Option<&PathBuf> {
        let find = || {
            let pid = self.peer?.pid?;
            std::fs::read_link(format!("/proc/{pid}/exe")).ok()
        };
        self.program.get_or_init(find).as_ref()
    }

    /// Returns the names of the processes that it comes from. That takes longer, so only the writer asks.
    fn parents(&self) -> Vec<String> {
        let find = || self.peer.and_then(|peer| peer.pid).map(peer::parents).unwrap_or_default();
        self.parents.get_or_init(find).clone()
    }
}

/// What somebody does. The last one that is dropped says that it has ended; whoever goes on with the work therefore keeps
/// one.
#[derive(Debug, Clone, Default)]
pub struct Trail(Option<Arc<Record>>);

#[derive(Debug)]
struct Record {
    shared: Arc<Shared>,
    who: Arc<Who>,
    begun_at: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// What is known, but for the command and what is found out by the writer.
    line: AuditLine,
    argv: Vec<Vec<u8>>,
    /// It begins as soon as it is permitted, and all is said.
    complete: bool,
    /// Its first line has been written.
    begun: bool,
    /// An answer to the request is not its end.
    goes_on: bool,
    /// Nothing is to be written.
    forgotten: bool,
}

/// A line on its way to the writer.
#[derive(Debug)]
pub(super) struct Entry {
    line: AuditLine,
    argv: Vec<Vec<u8>>,
    who: Option<Arc<Who>>,
}

impl Entry {
    /// Returns the line as it is written: with whatever takes a while to find out, and without what must not be in it.
    pub(super) fn line(&self) -> AuditLine {
        let mut line = self.line.clone();
        line.argv = mask::argv(&self.argv);
        line.detail = line.detail.map(|text| mask::free(&text));
        if let Some(who) = &self.who {
            line.parents = who.parents();
        }
        line
    }
}

impl Trail {
    pub(super) fn new(shared: Arc<Shared>, who: Arc<Who>, via: String, action: String) -> Self {
        let mut line = AuditLine::new(Timestamp::now(), shared.id(), AuditEvent::Begin, action);
        line.via = Some(via);
        if let Some(peer) = who.peer {
            line.pid = peer.pid;
            line.uid = Some(peer.uid);
            line.program = who.program().map(|path| path.to_string_lossy().into_owned());
        }
        let state = State {
            line,
            argv: Vec::new(),
            complete: false,
            begun: false,
            goes_on: false,
            forgotten: false,
        };
        let begun_at = Instant::now();
        Self(Some(Arc::new(Record { shared, who, begun_at, state: Mutex::new(state) })))
    }

    /// Says more of it.
    pub fn set(&self, say: impl FnOnce(&mut AuditLine)) {
        if let Some(record) = &self.0 {
            say(&mut record.state().line);
        }
    }

    /// Says that it begins, and is what was said so far.
    pub fn begin(&self) {
        if let Some(record) = &self.0 {
            record.begin(&mut record.state());
        }
    }

    /// Says that all there is to say is said, so that it begins as soon as it is permitted.
    pub fn begin_once_permitted(&self) {
        if let Some(record) = &self.0 {
            record.state().complete = true;
        }
    }

    /// Says that it is permitted. What is refused has no beginning: its one line is counted as a refusal.
    pub fn permitted(&self) {
        if let Some(record) = &self.0 {
            let mut state = record.state();
            if state.complete {
                record.begin(&mut state);
            }
        }
    }

    /// Says that a command begins.
    pub fn begin_exec(&self, request: &ExecRequest) {
        let Some(record) = &self.0 else { return };
        let mut state = record.state();
        match &request.shell {
            Some(line) => state.words([b"sh", b"-c", line.as_bytes()].into_iter()),
            None => state.words(request.argv.iter().map(|word| word.0.as_slice())),
        }
        if request.tty.is_some() {
            state.line.action = "shell".to_owned();
        }
        state.line.env = request.env.keys().take(NAMES).cloned().collect();
        state.line.cwd.clone_from(&request.cwd);
        state.input(request.stdin.as_ref().map_or(0, |stdin| stdin.0.len()));
        state.goes_on = true;
        record.begin(&mut state);
    }

    /// Says which command it is about.
    pub fn command<'a>(&self, argv: &[Bytes], env: impl Iterator<Item = &'a String>) {
        let Some(record) = &self.0 else { return };
        let mut state = record.state();
        state.words(argv.iter().map(|word| word.0.as_slice()));
        state.line.env = env.take(NAMES).cloned().collect();
    }

    /// Says that so many more bytes of input have come for it.
    pub fn input(&self, bytes: usize) {
        if let Some(record) = &self.0 {
            record.state().input(bytes);
        }
    }

    /// Says that it goes on when the request is answered.
    pub fn goes_on(&self) {
        if let Some(record) = &self.0 {
            record.state().goes_on = true;
        }
    }

    /// Says that it is nothing that is recorded, unless its beginning is.
    pub fn forget(&self) {
        if let Some(record) = &self.0 {
            record.state().forgotten = true;
        }
    }

    /// Says how the request was answered, which for most is its end.
    pub fn answered(&self, code: Option<Code>, is_error: bool) {
        match code {
            Some(code) => self.failed(code),
            None if is_error => self.end(AuditOutcome::Failed, |_| {}),
            None => {
                let Some(record) = &self.0 else { return };
                if !record.state().goes_on {
                    self.done();
                }
            }
        }
    }

    /// Says that it was done.
    pub fn done(&self) {
        self.end(AuditOutcome::Ok, |_| {});
    }

    /// Says how a program ended.
    pub fn exited(&self, exit: &Exit) {
        let outcome = match exit {
            Exit { timed_out: true, .. } => AuditOutcome::Timeout,
            Exit { cut_off: true, .. } => AuditOutcome::Unknown,
            Exit { code: Some(_), .. } => AuditOutcome::Exit,
            Exit { signal: Some(_), .. } => AuditOutcome::Signal,
            _ => AuditOutcome::Unknown,
        };
        self.end(outcome, |line| {
            line.exit_code = exit.code;
            line.signal.clone_from(&exit.signal);
        });
    }

    /// Says that it was refused or failed.
    pub fn failed(&self, code: Code) {
        if matches!(code, Code::PolicyDenied | Code::ReadOnly)
            && let Some(record) = &self.0
        {
            let mut state = record.state();
            if !state.begun
                && !record.shared.takes_refusal(state.line.via.as_deref().unwrap_or_default())
            {
                state.forgotten = true;
            }
        }
        let outcome = match code {
            Code::PolicyDenied | Code::ReadOnly | Code::Forbidden => AuditOutcome::Refused,
            Code::OutcomeUnknown => AuditOutcome::Unknown,
            _ => AuditOutcome::Failed,
        };
        self.end(outcome, |line| line.code = Some(code));
    }

    /// Says how it ended. What is said first counts.
    fn end(&self, outcome: AuditOutcome, say: impl FnOnce(&mut AuditLine)) {
        let Some(record) = &self.0 else { return };
        let mut state = record.state();
        if state.line.outcome.is_none() {
            state.line.outcome = Some(outcome);
            say(&mut state.line);
            let ms = record.begun_at.elapsed().as_millis();
            state.line.ms = Some(u64::try_from(ms).unwrap_or(u64::MAX));
        }
    }
}

impl State {
    fn input(&mut self, bytes: usize) {
        if bytes > 0 {
            *self.line.input_bytes.get_or_insert(0) += bytes as u64;
        }
    }

    /// Keeps the beginning of a command.
    fn words<'a>(&mut self, words: impl Iterator<Item = &'a [u8]>) {
        self.argv.clear();
        let mut left = LENGTH;
        for word in words {
            let length = word.len().min(WORD).min(left);
            if self.argv.len() == WORDS || (length == 0 && !word.is_empty()) {
                self.line.argv_cut = true;
                break;
            }
            left -= length;
            self.line.argv_cut |= length < word.len();
            self.argv.push(word[..length].to_vec());
        }
    }
}

/// Keeps what is said in free words from being as long as a body may be.
fn bound(line: &mut AuditLine) {
    let free = [&mut line.detail, &mut line.cwd, &mut line.path, &mut line.host];
    for text in free.into_iter().flatten().chain(&mut line.env) {
        text.truncate(text.floor_char_boundary(WORD));
    }
}

impl Record {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, state: &mut State) {
        if state.begun || state.forgotten {
            return;
        }
        state.begun = true;
        bound(&mut state.line);
        let line = state.line.clone();
        // What is said of it from now on comes with its end.
        state.line.detail = None;
        let (argv, who) = (std::mem::take(&mut state.argv), Some(Arc::clone(&self.who)));
        self.shared.send(Entry { line, argv, who });
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if state.forgotten && !state.begun {
            return;
        }
        let line = &mut state.line;
        bound(line);
        line.outcome = line.outcome.or(Some(AuditOutcome::Unknown));
        let ms = self.begun_at.elapsed().as_millis();
        line.ms = line.ms.or(Some(u64::try_from(ms).unwrap_or(u64::MAX)));
        let entry = if state.begun {
            // The rest is in the line before.
            let end = AuditLine::new(
                Timestamp::now(),
                std::mem::take(&mut line.id),
                AuditEvent::End,
                std::mem::take(&mut line.action),
            );
            let line = AuditLine {
                host: line.host.take(),
                input_bytes: line.input_bytes,
                detail: line.detail.take(),
                outcome: line.outcome,
                exit_code: line.exit_code,
                signal: line.signal.take(),
                code: line.code,
                ms: line.ms,
                ..end
            };
            Entry { line, argv: Vec::new(), who: None }
        } else {
            line.event = AuditEvent::End;
            let line = line.clone();
            Entry { line, argv: std::mem::take(&mut state.argv), who: Some(Arc::clone(&self.who)) }
        };
        self.shared.send(entry);
    }
}
