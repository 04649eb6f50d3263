//! A session's output from an offset on, over as many connections as it takes.
//!
//! One command on the host sends it in pieces that say where they belong, so that what came of a piece when the link broke
//! counts, and the rest is asked for again. A task that waits for its reader: nothing is held here.

use std::time::Duration;

use bytes::{Buf as _, Bytes};
use occ_proto::session::{OutputStream, SessionState};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::error::SessionError;
use super::place::{Failure, Following};
use super::remote::{self, Remote};
use crate::host::Tries;
use crate::ssh::error::chain;

/// Events that wait for their reader. Each is a piece of output as it came from the channel, 32 KiB at most.
const EVENTS: usize = 16;
/// How long a host that is down is waited for before it is looked at again.
const STEP: Duration = Duration::from_secs(300);
/// The pause after a failure that comes at once and would come at once again.
const PAUSE: Duration = Duration::from_millis(500);
/// How often a command may say nothing at all, which no broken link explains.
const SILENCES: u32 = 3;
/// The longest line before a piece.
const LONGEST_LINE: usize = 128;
/// No offset is as large as this; a host may say anything.
const MOST: u64 = 1 << 53;

/// What happens.
#[derive(Debug)]
pub(crate) enum Event {
    /// Output comes from these offsets on. Comes again when a broken link is back.
    Attached { stdin: u64, stdout: Option<u64>, stderr: Option<u64> },
    /// Bytes.
    Output { stream: OutputStream, from: u64, data: Bytes },
    /// Some of a stream was not kept, since the host's disk was full.
    NoSpace(OutputStream),
    /// Bytes are kept no more.
    Gap { stream: OutputStream, from: u64, to: u64 },
    /// The link broke.
    Paused(String),
    /// The program has ended; the last.
    Ended(SessionState, Option<u8>),
    /// That was all that there is for now; the last.
    CaughtUp,
    /// The last.
    Failed(SessionError),
}

/// What is followed.
#[derive(Debug)]
pub(crate) struct Follow {
    pub(super) remote: Remote,
    pub(super) id: String,
    /// Where to begin: an offset, `kept:N` for that or the first byte that is kept, `end`, `lines:N`, or `-` for not at all.
    pub(super) stdout: String,
    pub(super) stderr: String,
    /// Go on with what comes.
    pub(super) on: bool,
    /// How often a lost host is dialled again; for ever if `None`.
    pub(super) retries: Option<u32>,
}

impl Follow {
    /// Follows in a task that ends with the receiver.
    pub(super) fn spawn(
        self,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> mpsc::Receiver<Event> {
        let (events, receiver) = mpsc::channel(EVENTS);
        let stop = stop.clone();
        tasks.spawn(async move {
            let left = events.clone();
            tokio::select! {
                () = self.run(events) => {}
                () = left.closed() => {}
                () = stop.cancelled() => {}
            }
        });
        receiver
    }

    async fn run(mut self, events: mpsc::Sender<Event>) {
        let mut reader = Reader::default();
        let (mut rounds, mut silences) = (0, 0);
        loop {
            let words = Remote::follow(&self.id, &self.stdout, &self.stderr, self.on);
            let tries = match (reader.attached, self.retries) {
                (false, _) => self.remote.tries,
                (true, Some(retries)) => Tries::Retries(retries),
                (true, None) => Tries::Wait(STEP),
            };
            let opened = self.remote.place.open(words, tries, &self.remote.client).await;
            let following = match opened {
                Ok(following) => following,
                Err(failure) if self.goes_on(&failure, reader.attached, &mut rounds) => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                Err(failure) => return last(&events, Event::Failed(failure.into())).await,
            };
            let broke = reader.pass(following, &events).await;
            match broke {
                Broke::Left => return,
                Broke::End(event) => return last(&events, event).await,
                Broke::Silent if silences < SILENCES => {
                    silences += 1;
                    tokio::time::sleep(PAUSE).await;
                }
                Broke::Silent => {
                    let failure = SessionError::Garbled(String::new());
                    return last(&events, Event::Failed(failure)).await;
                }
                Broke::Link(why) => {
                    rounds = 0;
                    silences = 0;
                    // A reader that has left is noticed by the next piece.
                    let _ = events.send(Event::Paused(why)).await;
                }
            }
            let next = |at: Option<u64>, spec: &mut String| {
                if let Some(at) = at {
                    *spec = at.to_string();
                }
            };
            next(reader.next[0], &mut self.stdout);
            next(reader.next[1], &mut self.stderr);
        }
    }

    /// Returns whether a failure to ask is to be waited out.
    fn goes_on(&self, failure: &Failure, attached: bool, rounds: &mut u32) -> bool {
        *rounds += 1;
        match (attached, self.retries) {
            (true, None) => failure.is_worth_waiting(),
            (true, Some(retries)) => failure.is_passing() && *rounds <= retries.max(1),
            (false, _) => failure.is_passing() && *rounds <= 3,
        }
    }
}

async fn last(events: &mpsc::Sender<Event>, event: Event) {
    // Nobody is left to be told.
    let _ = events.send(event).await;
}

/// Why there is no more from a command.
enum Broke {
    /// The reader has gone.
    Left,
    /// That was all.
    End(Event),
    /// The command ended and had said nothing.
    Silent,
    /// The link, for this reason.
    Link(String),
}

/// Understands what comes, over several commands.
#[derive(Debug, Default)]
struct Reader {
    /// It has begun once.
    attached: bool,
    /// The next offsets of standard output and standard error.
    next: [Option<u64>; 2],
    line: Vec<u8>,
    /// Of which streams it was said that the host's disk was full.
    told_no_space: [bool; 2],
    /// The piece that comes: its stream, its next offset and how much is left of it.
    piece: Option<(OutputStream, u64, u64)>,
}

impl Reader {
    async fn pass(&mut self, mut following: Following, events: &mpsc::Sender<Event>) -> Broke {
        self.line.clear();
        self.piece = None;
        let mut said = false;
        loop {
            let mut data = match following.next().await {
                Ok(Some(data)) => data,
                Ok(None) if said => return Broke::Link("the host ended the connection".into()),
                Ok(None) => return Broke::Silent,
                Err(Failure::Exec(error)) => return Broke::Link(chain(&error)),
                // Nothing of it where the link broke before it began.
                Err(Failure::NotOurs(said)) if said.is_empty() => return Broke::Silent,
                Err(failure) => return Broke::End(Event::Failed(failure.into())),
            };
            said = true;
            while !data.is_empty() {
                match self.take(&mut data) {
                    Ok(happened) => {
                        for event in happened {
                            if is_last(&event) {
                                return Broke::End(event);
                            }
                            if events.send(event).await.is_err() {
                                return Broke::Left;
                            }
                        }
                    }
                    Err(failure) => return Broke::End(Event::Failed(failure)),
                }
            }
        }
    }

    /// Takes a line, or what there is of a piece.
    fn take(&mut self, data: &mut Bytes) -> Result<Vec<Event>, SessionError> {
        if let Some((stream, from, left)) = self.piece {
            let length = data.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let piece = data.split_to(length);
            let (to, left) = (from + length as u64, left - length as u64);
            self.piece = (left > 0).then_some((stream, to, left));
            self.next[index(stream)] = Some(to);
            return Ok(vec![Event::Output { stream, from, data: piece }]);
        }
        let Some(end) = data.iter().position(|byte| *byte == b'\n') else {
            self.line.extend_from_slice(data);
            data.clear();
            return if self.line.len() > LONGEST_LINE { Err(self.garbled()) } else { Ok(vec![]) };
        };
        self.line.extend_from_slice(&data[..end]);
        data.advance(end + 1);
        let happened = self.understand();
        self.line.clear();
        happened
    }

    fn garbled(&self) -> SessionError {
        let start = &self.line[..self.line.len().min(LONGEST_LINE)];
        SessionError::Garbled(occ_proto::text::sanitize(&String::from_utf8_lossy(start)))
    }

    fn understand(&mut self) -> Result<Vec<Event>, SessionError> {
        let line = String::from_utf8_lossy(&self.line).into_owned();
        let words: Vec<&str> = line.split(' ').collect();
        let number = |word: &str| {
            let number = word.parse::<u64>().ok().filter(|number| *number < MOST);
            number.ok_or_else(|| self.garbled())
        };
        match words[..] {
            ["a", stdin, stdout, stderr] => {
                let stdin = number(stdin)?;
                let of = |word: &str| (word != "-").then(|| number(word)).transpose();
                let (stdout, stderr) = (of(stdout)?, of(stderr)?);
                self.next = [stdout, stderr];
                self.attached = true;
                Ok(vec![Event::Attached { stdin, stdout, stderr }])
            }
            [which @ ("o" | "e"), from, length] => {
                let (from, length) = (number(from)?, number(length)?);
                let stream = if which == "o" { OutputStream::Stdout } else { OutputStream::Stderr };
                self.piece = (length > 0).then_some((stream, from, length));
                match self.next[index(stream)].replace(from) {
                    Some(known) if known < from => {
                        Ok(vec![Event::Gap { stream, from: known, to: from }])
                    }
                    Some(known) if known > from => Err(self.garbled()),
                    _ => Ok(vec![]),
                }
            }
            ["x", status] => {
                let (state, exit) = remote::status(status);
                Ok(vec![Event::Ended(state, exit)])
            }
            ["l", which @ ("o" | "e")] => {
                let stream = if which == "o" { OutputStream::Stdout } else { OutputStream::Stderr };
                // Each command says it anew.
                let told = std::mem::replace(&mut self.told_no_space[index(stream)], true);
                Ok(if told { vec![] } else { vec![Event::NoSpace(stream)] })
            }
            ["."] => Ok(vec![Event::CaughtUp]),
            ["n"] => Err(SessionError::Gone),
            _ => Err(self.garbled()),
        }
    }
}

fn index(stream: OutputStream) -> usize {
    match stream {
        OutputStream::Stdout => 0,
        OutputStream::Stderr => 1,
    }
}

fn is_last(event: &Event) -> bool {
    matches!(event, Event::Ended(..) | Event::CaughtUp | Event::Failed(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(reader: &mut Reader, text: &[u8], step: usize) -> Vec<String> {
        let mut seen = Vec::new();
        for part in text.chunks(step) {
            let mut data = Bytes::copy_from_slice(part);
            while !data.is_empty() {
                match reader.take(&mut data) {
                    Ok(events) => seen.extend(events.iter().map(|event| match event {
                        Event::Output { stream, from, data } => {
                            format!("{stream:?} {from} {}", String::from_utf8_lossy(data))
                        }
                        other => format!("{other:?}"),
                    })),
                    Err(error) => seen.push(error.to_string()),
                }
            }
        }
        seen
    }

    #[test]
    fn pieces_are_understood_however_they_are_cut() {
        let text = b"a 7 2 0\no 2 5\nab\ncde 4 3\nxyzl o\nl o\n.\n";
        let whole = feed(&mut Reader::default(), text, text.len());
        assert_eq!(
            whole,
            [
                "Attached { stdin: 7, stdout: Some(2), stderr: Some(0) }",
                "Stdout 2 ab\ncd",
                "Gap { stream: Stderr, from: 0, to: 4 }",
                "Stderr 4 xyz",
                "NoSpace(Stdout)",
                "CaughtUp",
            ]
        );
        let bytes = feed(&mut Reader::default(), text, 1);
        let out: String =
            bytes.iter().filter_map(|seen| seen.strip_prefix("Stdout ")?.get(2..)).collect();
        assert_eq!(out, "ab\ncd");
        assert_eq!(bytes.last(), whole.last());
    }

    #[test]
    fn what_is_no_piece_is_an_error() {
        assert!(feed(&mut Reader::default(), b"hello\n", 99)[0].contains("hello"));
        assert!(feed(&mut Reader::default(), &[b'x'; 200], 99)[0].contains("xxx"));
        let huge = b"a 0 99999999999999999999 0\n";
        assert!(feed(&mut Reader::default(), huge, 99)[0].contains("999"));
        let again = b"a 0 5 0\no 4 1\nx";
        assert!(feed(&mut Reader::default(), again, 99)[1].contains("o 4 1"));
    }
}
