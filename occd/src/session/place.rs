//! Where sessions run: a command whose whole output is wanted, and one whose output is followed.
//!
//! The only place here that knows how a command gets to a host.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use occ_proto::exec::{self as wire, ExecRequest, STDOUT};

use crate::exec::{Command, ExecError, Executor, Progress, Running, Step};
use crate::host::Tries;
use crate::host::machine::Retry;
use crate::prompts::Client;

/// The most that an answer may be, in bytes: a thousand sessions with what is known of each.
const ANSWER_LIMIT: usize = 4 * 1024 * 1024;

/// A place.
#[derive(Debug, Clone)]
pub(crate) struct Place(Executor);

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.name())
    }
}

/// The whole output of a command.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) out: Vec<u8>,
    pub(super) err: Vec<u8>,
}

/// A command and its arguments.
#[derive(Debug)]
pub(super) struct Words(ExecRequest);

impl Words {
    pub(super) fn new(argv: &[Bytes]) -> Self {
        let argv = argv.iter().map(|arg| wire::Bytes(arg.to_vec())).collect();
        Self(ExecRequest { argv, ..ExecRequest::default() })
    }

    /// Ends it after so long.
    pub(super) fn limit(&mut self, limit: Duration) {
        self.0.timeout_ms = u64::try_from(limit.as_millis()).ok();
    }
}

/// Why a command gave no answer.
#[derive(Debug)]
pub(super) struct Failure(ExecError);

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Failure {
    /// Returns whether it may be over soon, without anybody acting: the link.
    pub(super) fn is_passing(&self) -> bool {
        matches!(
            self.0,
            ExecError::LinkLost { .. }
                | ExecError::OutputCut { .. }
                | ExecError::NoExit
                | ExecError::NoAnswer { .. }
                | ExecError::NoSession(_)
                | ExecError::NotStarted
        )
    }

    /// Returns whether the host may be there later: nobody has to act for that.
    pub(super) fn is_worth_waiting(&self) -> bool {
        match &self.0 {
            ExecError::Unreachable(inner) => inner.error.retry() != Retry::Fatal,
            _ => self.is_passing(),
        }
    }

    /// Returns whether the command may have been run.
    pub(super) fn may_have_run(&self) -> bool {
        let not_sent = matches!(
            self.0,
            ExecError::NoSession(_)
                | ExecError::NotStarted
                | ExecError::Unreachable(_)
                | ExecError::NoShell(_)
        );
        !not_sent
    }

    pub(super) fn into_inner(self) -> ExecError {
        self.0
    }
}

impl Place {
    /// Returns a host, or this machine.
    pub(crate) fn new(executor: Executor) -> Self {
        Self(executor)
    }

    /// Returns whether a command would run at once.
    pub(crate) fn is_at_hand(&self) -> bool {
        match &self.0 {
            Executor::Host(host) => host.snapshot().usable().is_some(),
            Executor::Local(_) => true,
        }
    }

    async fn start(&self, words: Words, tries: Tries, client: &Client) -> Result<Running, Failure> {
        let command = Command::new(words.0).map_err(|_| Failure(ExecError::Refused))?;
        let progress = Progress::default();
        // Boxed, as its type is deep.
        let starting: BoxFuture<'_, _> = Box::pin(self.0.start(&command, tries, client, &progress));
        starting.await.map_err(Failure)
    }

    /// Runs a command and returns its output.
    pub(super) async fn run(
        &self,
        words: Words,
        stdin: Bytes,
        tries: Tries,
        client: &Client,
    ) -> Result<Answer, Failure> {
        let mut running = self.start(words, tries, client).await?;
        let control = running.control();
        let owner = control.clone();
        // Beside the output: a command may end before it has read all.
        owner.spawn(async move {
            let sent = async {
                if !stdin.is_empty() {
                    control.write(stdin).await?;
                }
                control.close_input().await
            };
            if sent.await.is_err() {
                tracing::trace!("a command ended before it read its input");
            }
        });
        let mut answer = Answer::default();
        loop {
            match running.next().await {
                Step::Output(frame) => {
                    let stdout = frame.stream() == STDOUT;
                    let kept = if stdout { &mut answer.out } else { &mut answer.err };
                    let room = ANSWER_LIMIT.saturating_sub(kept.len());
                    let data = frame.data();
                    kept.extend_from_slice(&data[..data.len().min(room)]);
                }
                Step::Ended(Ok(_)) => return Ok(answer),
                Step::Ended(Err(failure)) => return Err(Failure(failure)),
            }
        }
    }

    /// Starts a command whose output is read as it comes. It ends when it is dropped.
    pub(super) async fn open(
        &self,
        words: Words,
        tries: Tries,
        client: &Client,
    ) -> Result<Following, Failure> {
        Ok(Following(self.start(words, tries, client).await?))
    }
}

/// A command whose output is followed.
#[derive(Debug)]
pub(super) struct Following(Running);

impl Following {
    /// Returns the next bytes of its standard output, nothing at its end. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            match self.0.next().await {
                Step::Output(frame) if frame.stream() == STDOUT => return Ok(Some(frame.data())),
                Step::Output(frame) => {
                    let text = String::from_utf8_lossy(&frame.data()).into_owned();
                    tracing::debug!(%text, "a host said about a session");
                }
                Step::Ended(Ok(_)) => return Ok(None),
                Step::Ended(Err(failure)) => return Err(Failure(failure)),
            }
        }
    }
}
