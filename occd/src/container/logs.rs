//! What the sandbox says, line by line. Following goes on over a broken link where it was.

use std::collections::HashMap;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error as BollardError;
use bollard::query_parameters::LogsOptions;
use futures_util::StreamExt as _;
use jiff::Timestamp;
use occ_proto::container::{LogLine, SANDBOX_CONTAINER};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::session::is_answer;
use super::{Docker, DockerError, Engine, EngineError, SandboxError, sandbox};
use crate::host::Tries;
use crate::prompts::Client;

/// Lines that are ahead of their reader.
const AHEAD: usize = 256;
/// The longest line that is kept together, in bytes.
const LONGEST: usize = 256 * 1024;
/// How long a broken link is waited for before it is tried again.
const LINK: Duration = Duration::from_secs(60);
/// How long until an engine that does not answer is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// Which lines.
#[derive(Debug, Clone)]
pub struct LogQuery {
    /// How many of those that are there; all unless set.
    pub lines: Option<u64>,
    /// Whether to go on with those that come.
    pub follow: bool,
}

/// The lines on their way. Dropping it ends the reading.
#[derive(Debug)]
pub struct Logs {
    lines: mpsc::Receiver<Result<LogLine, SandboxError>>,
}

impl Logs {
    /// Reads the sandbox's lines.
    ///
    /// # Errors
    /// When there is no sandbox, or it cannot be asked.
    pub async fn open(
        engine: Engine,
        query: LogQuery,
        client: &Client,
        spawn: impl FnOnce(futures_util::future::BoxFuture<'static, ()>),
    ) -> Result<Self, SandboxError> {
        let docker = engine.docker(Tries::default(), client).await?;
        sandbox::ours(&docker).await?;
        let (sender, lines) = mpsc::channel(AHEAD);
        spawn(Box::pin(async move {
            let gone = sender.clone();
            let mut reader = Reader { sender, place: Place::default() };
            tokio::select! {
                () = gone.closed() => {}
                ended = reader.run(&engine, docker, &query) => if let Err(error) = ended {
                    // Nobody is there to be told otherwise.
                    let _ = reader.sender.send(Err(error)).await;
                }
            }
        }));
        Ok(Self { lines })
    }

    /// Returns the next line, or why there is none; nothing at the end.
    pub async fn next(&mut self) -> Option<Result<LogLine, SandboxError>> {
        self.lines.recv().await
    }
}

struct Reader {
    sender: mpsc::Sender<Result<LogLine, SandboxError>>,
    place: Place,
}

/// How far has been read: the time of the last line, and how many have that time.
#[derive(Debug, Default, Clone, Copy)]
struct Place {
    last: Option<Timestamp>,
    of_that_time: usize,
}

impl Reader {
    async fn run(
        &mut self,
        engine: &Engine,
        mut docker: Docker,
        query: &LogQuery,
    ) -> Result<(), SandboxError> {
        loop {
            match self.read(&docker, query).await {
                Ok(()) => return Ok(()),
                Err(error) if is_answer(&error) || !query.follow => return Err(error.into()),
                Err(error) => tracing::debug!(
                    error = DockerError::from(error).for_log(),
                    "the lines of a sandbox broke off"
                ),
            }
            docker = loop {
                sleep(RETRY).await;
                match engine.docker(Tries::Wait(LINK), &Client::default()).await {
                    Ok(docker) => break docker,
                    Err(EngineError::Docker(error)) => {
                        tracing::debug!(error = error.for_log(), "no engine yet");
                    }
                    Err(EngineError::Unreachable(lost)) if lost.next_retry_at.is_some() => {}
                    Err(error) => return Err(error.into()),
                }
            };
        }
    }

    /// Reads from where it was to the end of the stream.
    async fn read(&mut self, docker: &Docker, query: &LogQuery) -> Result<(), BollardError> {
        let begun = self.place;
        let since = begun.last.map_or(0, |at| i32::try_from(at.as_second()).unwrap_or(0));
        let options = LogsOptions {
            stdout: true,
            stderr: true,
            follow: query.follow,
            timestamps: true,
            since,
            tail: match (begun.last, query.lines) {
                (None, Some(lines)) => lines.to_string(),
                _ => "all".to_owned(),
            },
            ..LogsOptions::default()
        };
        let mut skip = begun.of_that_time;
        let mut parts: HashMap<bool, Vec<u8>> = HashMap::new();
        let client = docker.client().clone().with_timeout(Duration::from_secs(u64::from(u32::MAX)));
        let mut stream = std::pin::pin!(client.logs(SANDBOX_CONTAINER, Some(options)));
        while let Some(output) = stream.next().await {
            let output = output?;
            let stderr = matches!(output, LogOutput::StdErr { .. });
            let is_frame = !matches!(output, LogOutput::Console { .. });
            let bytes = output.into_bytes();
            let part = parts.entry(stderr).or_default();
            // Each frame begins with a time, also one that goes on with a long line.
            let rest = match stamped(&bytes) {
                Some((_, rest)) if is_frame && !part.is_empty() => rest,
                _ => &bytes,
            };
            part.extend_from_slice(rest);
            while let Some(end) = end_of_line(part) {
                let line: Vec<u8> = part.drain(..end).collect();
                let (at, text) = match stamped(&line) {
                    Some((at, text)) => (Some(at), text),
                    None => (None, line.as_slice()),
                };
                if at.is_some() && at <= begun.last {
                    if at < begun.last {
                        continue;
                    }
                    if skip > 0 {
                        skip -= 1;
                        continue;
                    }
                }
                self.place.passed(at);
                let text = String::from_utf8_lossy(text);
                let text = text.trim_end_matches(['\n', '\r']).to_owned();
                let line = LogLine { stderr, at, text, problem: None };
                if self.sender.send(Ok(line)).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

impl Place {
    fn passed(&mut self, at: Option<Timestamp>) {
        if at.is_none() || at == self.last {
            self.of_that_time += 1;
        } else {
            (self.last, self.of_that_time) = (at, 1);
        }
    }
}

/// Returns where the first line ends; a line that is too long ends there.
fn end_of_line(bytes: &[u8]) -> Option<usize> {
    let newline = bytes.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
    newline.or((bytes.len() > LONGEST).then_some(bytes.len()))
}

/// Takes the time apart that Docker writes before a line.
fn stamped(line: &[u8]) -> Option<(Timestamp, &[u8])> {
    let space = line.iter().take(40).position(|byte| *byte == b' ')?;
    let at = std::str::from_utf8(&line[..space]).ok()?.parse().ok()?;
    Some((at, &line[space + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_taken_off_and_nothing_else() {
        let (at, rest) = stamped(b"2026-11-26T05:00:00.123456789Z hello world\n").unwrap();
        assert_eq!(at.to_string(), "2026-11-26T05:00:00.123456789Z");
        assert_eq!(rest, b"hello world\n");
        assert_eq!(stamped(b"hello world\n"), None);
        assert_eq!(stamped(b""), None);
    }

    #[test]
    fn lines_of_one_moment_are_counted() {
        let mut place = Place::default();
        let moment: Timestamp = "2026-11-26T05:00:00Z".parse().unwrap();
        place.passed(Some(moment));
        place.passed(Some(moment));
        assert_eq!((place.last, place.of_that_time), (Some(moment), 2));
        place.passed(Some(moment + jiff::SignedDuration::from_nanos(1)));
        assert_eq!(place.of_that_time, 1);
    }
}
