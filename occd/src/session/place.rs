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
use crate::ssh::{Preamble, SAY, TooLong};

/// The most that an answer may be, in bytes: a thousand sessions with what is known of each.
const ANSWER_LIMIT: usize = 4 * 1024 * 1024;
/// What is kept of standard error, in bytes.
const SAID: usize = 64 * 1024;

/// A place.
#[derive(Debug, Clone)]
pub(crate) struct Place(Executor);

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.name())
    }
}

/// The whole output of a script.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) out: Vec<u8>,
    pub(super) err: Vec<u8>,
}

/// A script and its arguments, as words that every login shell passes on.
#[derive(Debug, Clone)]
pub(super) struct Words(ExecRequest);

impl Words {
    pub(super) fn new<'a>(script: &str, args: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let script = [SAY, "say session; ", script].concat();
        let mut argv: Vec<wire::Bytes> = ["sh", "-c", &script, "occ"].map(Into::into).into();
        argv.extend(args.into_iter().map(|arg| wire::Bytes(arg.to_vec())));
        Self(ExecRequest { argv, ..ExecRequest::default() })
    }

    /// Ends it after so long.
    pub(super) fn limit(&mut self, limit: Duration) {
        self.0.timeout_ms = u64::try_from(limit.as_millis()).ok();
    }
}

/// Why a script gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Exec(ExecError),
    /// It did not run: something else did, which said this.
    #[error("the host runs something else than it was asked to: {0:?}")]
    NotOurs(String),
}

impl Failure {
    /// Returns whether it may be over soon, without anybody acting: the link.
    pub(super) fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Exec(
                ExecError::LinkLost { .. }
                    | ExecError::OutputCut { .. }
                    | ExecError::NoExit
                    | ExecError::NoAnswer { .. }
                    | ExecError::NoSession(_)
                    | ExecError::NotStarted
            )
        )
    }

    /// Returns whether the host may be there later: nobody has to act for that.
    pub(super) fn is_worth_waiting(&self) -> bool {
        match self {
            Self::Exec(ExecError::Unreachable(inner)) => inner.error.retry() != Retry::Fatal,
            _ => self.is_passing(),
        }
    }

    /// Returns whether the command may have been run.
    pub(super) fn may_have_run(&self) -> bool {
        let not_sent = matches!(
            self,
            Self::Exec(
                ExecError::NoSession(_)
                    | ExecError::NotStarted
                    | ExecError::Unreachable(_)
                    | ExecError::NoShell(_)
            )
        );
        !not_sent
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
        let command = Command::new(words.0).map_err(|_| Failure::Exec(ExecError::Refused))?;
        let progress = Progress::default();
        // Boxed, as its type is deep.
        let starting: BoxFuture<'_, _> = Box::pin(self.0.start(&command, tries, client, &progress));
        starting.await.map_err(Failure::Exec)
    }

    /// Runs a script and returns its output.
    pub(super) async fn run(
        &self,
        words: Words,
        stdin: Bytes,
        tries: Tries,
        client: &Client,
    ) -> Result<Answer, Failure> {
        let running = self.start(words, tries, client).await?;
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
        let mut following = Following::new(running);
        let mut out = Vec::new();
        while let Some(data) = following.next().await? {
            let room = ANSWER_LIMIT.saturating_sub(out.len());
            out.extend_from_slice(&data[..data.len().min(room)]);
        }
        Ok(Answer { out, err: following.said })
    }

    /// Starts a script whose output is read as it comes. It ends when it is dropped.
    pub(super) async fn open(
        &self,
        words: Words,
        tries: Tries,
        client: &Client,
    ) -> Result<Following, Failure> {
        Ok(Following::new(self.start(words, tries, client).await?))
    }
}

/// A script whose output is followed.
#[derive(Debug)]
pub(super) struct Following {
    running: Running,
    preamble: Preamble,
    /// What it says on standard error.
    said: Vec<u8>,
}

impl Following {
    fn new(running: Running) -> Self {
        Self { running, preamble: Preamble::default(), said: Vec::new() }
    }

    /// Returns the next bytes of its standard output, nothing at its end. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            match self.running.next().await {
                Step::Output(frame) if frame.stream() == STDOUT => {
                    match self.preamble.pass(frame.data()) {
                        Ok(Some(data)) => return Ok(Some(data)),
                        Ok(None) => {}
                        Err(TooLong) => return Err(self.not_ours()),
                    }
                }
                Step::Output(frame) => {
                    let data = frame.data();
                    let room = SAID.saturating_sub(self.said.len());
                    self.said.extend_from_slice(&data[..data.len().min(room)]);
                    // With `set -x` in a file that its shell reads, that is a command.
                    tracing::debug!(bytes = data.len(), "a host said something about a session");
                }
                // The link broke before the script had begun.
                Step::Ended(Ok(exit)) if exit.cut_off => return Ok(None),
                Step::Ended(Ok(_)) if !self.preamble.is_over() => return Err(self.not_ours()),
                Step::Ended(Ok(_)) => return Ok(None),
                Step::Ended(Err(failure)) => return Err(Failure::Exec(failure)),
            }
        }
    }

    fn not_ours(&self) -> Failure {
        let before = self.preamble.text();
        let said = String::from_utf8_lossy(&self.said);
        Failure::NotOurs(if before.is_empty() { said.trim().to_owned() } else { before })
    }
}
