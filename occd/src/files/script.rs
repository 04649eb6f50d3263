//! Scripts of ours that run on a host, told from whatever else a server may run.
//!
//! A script says a word first ([`Preamble`]), which tells what it can do: where it does not come, nothing of ours runs.

use std::time::Duration;

use bytes::Bytes;
use occ_proto::exec::{ExecRequest, Exit, STDOUT};
use tokio::time::timeout;

use super::{FileError, Shown, shell};
use crate::exec::{BadCommand, Command, ExecError, Executor, Progress, Running, Step};
use crate::host::Tries;
use crate::prompts::Client;
use crate::ssh::{ChannelError, Preamble, SAY, TooLong};

/// What each script begins with: it waits for [`GO`], and has a way to say its word.
const BEGIN: &str = "read -r go; ";
/// What a script reads. A server of SFTP in its place takes it for a packet that is far too long, and ends; it would wait for ever
/// for one that does not come.
const GO: &[u8] = b"occ-files\n";
/// How long a host may take to the word: some login shells read slow start-up files.
const WAIT: Duration = Duration::from_secs(30);
/// What is kept of what is said on standard error, in bytes: tar names all that it cannot read.
const SAID: usize = 64 * 1024;

/// A script that runs, and has said its word.
pub(super) struct Script {
    pub(super) running: Running,
    pub(super) word: String,
    /// What has come of its output behind the word.
    pub(super) output: Bytes,
    /// What has come of its standard error.
    pub(super) said: Vec<u8>,
}

/// Why no script runs.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotRun {
    #[error(transparent)]
    Bad(BadCommand),
    #[error(transparent)]
    Exec(ExecError),
    /// What ran there has ended without the word, or had to be ended.
    #[error("the host runs no programs of ours: it has one of its own for whatever it is asked")]
    Other(Option<Exit>),
}

impl NotRun {
    /// Returns the error for a path that the script was to be about.
    pub(super) fn about(self, path: &[u8]) -> FileError {
        let text = self.to_string();
        match self {
            Self::Exec(error) => shell::not_run(path, error),
            Self::Other(Some(exit)) if exit.cut_off => FileError::cut_off(path, &exit)
                .unwrap_or_else(|| FileError::Failed(Shown::of(path), text)),
            Self::Bad(_) | Self::Other(_) => FileError::Failed(Shown::of(path), text),
        }
    }

    /// Returns whether the link had to end, which says nothing of what the host runs.
    pub(super) fn is_about_link(&self) -> bool {
        match self {
            Self::Exec(error) => is_about_link(error),
            Self::Other(exit) => exit.as_ref().is_some_and(|exit| exit.cut_off),
            Self::Bad(_) => false,
        }
    }
}

/// Returns whether a command came to nothing because of the link.
pub(super) fn is_about_link(error: &ExecError) -> bool {
    matches!(
        error,
        ExecError::Unreachable(_)
            | ExecError::NoSession(ChannelError::Lost(_) | ChannelError::Retired)
            | ExecError::LinkLost { .. }
            | ExecError::OutputCut { .. }
    )
}

/// Returns a path as a script takes it: one that begins with a hyphen would be an option.
pub(super) fn arg(path: &[u8]) -> occ_proto::exec::Bytes {
    if path.starts_with(b"-") { [b"./", path].concat().into() } else { path.to_vec().into() }
}

/// Keeps what is said on standard error.
pub(super) fn keep(said: &mut Vec<u8>, data: &[u8]) {
    said.extend_from_slice(&data[..data.len().min(SAID.saturating_sub(said.len()))]);
}

impl Script {
    /// Starts a script and waits for its word, which it says by `say WORD`.
    pub(super) async fn begin(
        executor: &Executor,
        script: &str,
        args: impl IntoIterator<Item = occ_proto::exec::Bytes>,
        client: &Client,
    ) -> Result<Self, NotRun> {
        let script = [BEGIN, SAY, script].concat();
        let mut argv = vec!["sh".into(), "-c".into(), script.as_str().into(), "sh".into()];
        argv.extend(args);
        let command =
            Command::new(ExecRequest { argv, ..ExecRequest::default() }).map_err(NotRun::Bad)?;
        let (tries, progress) = (Tries::default(), Progress::default());
        // Boxed, as its type is deep.
        let starting = Box::pin(executor.start(&command, tries, client, &progress));
        let running = starting.await.map_err(NotRun::Exec)?;
        let (word, output, said) = (String::new(), Bytes::new(), Vec::new());
        let mut script = Self { running, word, output, said };
        match timeout(WAIT, script.listen()).await {
            Ok(heard) => heard.map(|()| script),
            Err(_) => Err(NotRun::Other(None)),
        }
    }

    async fn listen(&mut self) -> Result<(), NotRun> {
        // It may have ended, as is told below.
        let _ = self.running.control().write(Bytes::from_static(GO)).await;
        let mut preamble = Preamble::default();
        loop {
            match self.running.next().await {
                Step::Output(frame) if frame.stream() == STDOUT => {
                    match preamble.word(&frame.data()) {
                        Ok(None) => {}
                        Ok(Some(heard)) => {
                            (self.word, self.output) = heard;
                            return Ok(());
                        }
                        Err(TooLong) => return Err(NotRun::Other(None)),
                    }
                }
                Step::Output(frame) => keep(&mut self.said, &frame.data()),
                Step::Ended(Ok(exit)) => return Err(NotRun::Other(Some(exit))),
                Step::Ended(Err(error)) => return Err(NotRun::Exec(error)),
            }
        }
    }

    /// Returns the next bytes of its output, as long as it runs.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        if !self.output.is_empty() {
            return Some(std::mem::take(&mut self.output));
        }
        loop {
            match self.running.next().await {
                Step::Output(frame) if frame.stream() == STDOUT => return Some(frame.data()),
                Step::Output(frame) => keep(&mut self.said, &frame.data()),
                Step::Ended(_) => return None,
            }
        }
    }
}
