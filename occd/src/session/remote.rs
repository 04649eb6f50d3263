//! What is asked of the host of a session: one command each, with an answer in a few words.
//!
//! Each may be asked twice, so what a broken link leaves unknown is asked again: a start that was made already says
//! so, and input is taken by its offset.

use std::time::Duration;

use bytes::Bytes;
use occ_proto::exec::ExecRequest;
use occ_proto::session::{SessionInfo, SessionState};

use super::error::SessionError;
use super::place::{Failure, Place, Words};
use super::supervisor;
use super::told::Run;
use crate::host::Tries;
use crate::prompts::Client;

/// How often a question is asked whose answer the link swallowed.
const ROUNDS: u32 = 5;
/// How long an answer may take: the longest is that to a kill, 4 s.
const ANSWER: Duration = Duration::from_secs(60);

/// A host as one client asks it.
#[derive(Debug, Clone)]
pub(super) struct Remote {
    pub(super) place: Place,
    pub(super) tries: Tries,
    pub(super) client: Client,
}

/// What a host tells of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) id: String,
    pub(super) state: SessionState,
    pub(super) exit: Option<u8>,
    pub(super) stdin: u64,
    pub(super) stdout: u64,
    pub(super) stderr: u64,
    /// What the host keeps of it; absent where that cannot be read.
    pub(super) info: Option<SessionInfo>,
}

/// A host's answer to input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// It was taken, or had been before.
    All,
    /// Another's input is where this one should be.
    Moved,
    /// What comes before it is missing.
    Hole,
    /// The end of the input came before.
    Closed,
    /// Too much waits for the program.
    Busy,
    /// The host's disk did not take all of it.
    Unwritten,
    /// The program has ended.
    Ended,
    /// Nothing is known of the program any more.
    Lost,
}

/// What came of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signalled {
    /// It was sent.
    Sent,
    /// The program has ended, with this status where it is known.
    Over(SessionState, Option<u8>),
    /// The program lives in spite of KILL.
    Alive,
    /// The host has nothing of it any more.
    Gone,
}

impl Remote {
    /// Asks until there is an answer, as its words line by line.
    async fn ask(&self, mut words: Words, stdin: Bytes) -> Result<String, SessionError> {
        words.limit(ANSWER);
        let mut rounds = 0;
        loop {
            match self.place.run(words.clone(), stdin.clone(), self.tries, &self.client).await {
                Ok(answer) if answer.out.is_empty() => {
                    let said = String::from_utf8_lossy(&answer.err).trim().to_owned();
                    return Err(SessionError::Garbled(occ_proto::text::sanitize(&said)));
                }
                Ok(answer) => return Ok(String::from_utf8_lossy(&answer.out).into_owned()),
                Err(failure) if failure.is_passing() && rounds < ROUNDS => {
                    tracing::debug!(host = %self.place, %failure, "asked again");
                    rounds += 1;
                }
                Err(failure) => return Err(failure.into()),
            }
        }
    }

    /// Starts a session. `keep` is how many bytes are kept of each stream. If `replace`, it takes the place of one that has
    /// ended, which is there as before when it does not start.
    pub(super) async fn start(
        &self,
        info: &SessionInfo,
        request: &ExecRequest,
        keep: u64,
        replace: bool,
    ) -> Result<(), SessionError> {
        let meta = serde_json::to_string(info).unwrap_or_default();
        let env = environment(request);
        let takes = if env.is_empty() { "0" } else { "1" };
        let flag = |is, letter| if is { letter } else { "" };
        let takes = format!("{takes}{}{}", flag(info.tty, "t"), flag(replace, "r"));
        let cwd = request.cwd.clone().unwrap_or_default();
        let keep = keep.to_string();
        let own = [&info.id, supervisor::RUN.as_str(), &meta, &keep, &takes, &cwd];
        let own = own.map(str::as_bytes);
        let terminal = ["sh", "-c", &supervisor::TTY, "sh"].map(str::as_bytes);
        let terminal = terminal.into_iter().filter(|_| info.tty);
        let program = request.argv.iter().map(|arg| &arg.0[..]);
        let words = Words::new(&supervisor::START, own.into_iter().chain(terminal).chain(program));
        let answer = self.ask(words, env.into()).await?;
        let line = first_line(&answer);
        match line.split_once(' ').unwrap_or((line, "")) {
            // The answer to the first question got lost on the way.
            ("s" | "exists", "") => Ok(()),
            ("r", "") => Err(SessionError::Running(info.name.clone())),
            ("f", why) => Err(SessionError::NotStarted(occ_proto::text::sanitize(why))),
            ("d", why) => Err(SessionError::NoRoom(occ_proto::text::sanitize(why))),
            _ => Err(garbled(&answer)),
        }
    }

    /// Returns what the host tells of a session; nothing where it has none.
    pub(super) async fn look(&self, id: &str) -> Result<Option<Told>, SessionError> {
        Ok(self.list(&[id]).await?.pop())
    }

    /// Returns what the host tells of these sessions, or of all.
    pub(super) async fn list(&self, ids: &[&str]) -> Result<Vec<Told>, SessionError> {
        let answer = self.ask(script(&supervisor::LIST, ids), Bytes::new()).await?;
        match first_line(&answer).strip_prefix("f ") {
            Some(why) => Err(SessionError::Unlisted(occ_proto::text::sanitize(why))),
            None => Ok(told(&answer)),
        }
    }

    /// Gives input from an offset on. `again` says, and is told, that it may have been given before. Also returns where
    /// the input ends now.
    pub(super) async fn input(
        &self,
        id: &str,
        from: u64,
        data: Bytes,
        last: bool,
        again: &mut bool,
    ) -> Result<(Taken, u64), SessionError> {
        let flag = |is| if is { "1" } else { "0" };
        let (from, length) = (from.to_string(), data.len().to_string());
        let args = [id, &from, &length, flag(last), flag(*again)];
        let mut words = script(&supervisor::INPUT, &args);
        words.limit(ANSWER);
        let answer = match self.place.run(words, data, self.tries, &self.client).await {
            Ok(answer) => String::from_utf8_lossy(&answer.out).into_owned(),
            Err(failure) if failure.is_passing() => {
                *again |= failure.may_have_run();
                return Err(SessionError::LinkLost);
            }
            // The link broke before it said anything.
            Err(Failure::NotOurs(said)) if said.is_empty() => {
                *again = true;
                return Err(SessionError::LinkLost);
            }
            Err(failure) => return Err(failure.into()),
        };
        let line = first_line(&answer);
        let (word, end) = line.split_once(' ').unwrap_or((line, ""));
        let taken = match word {
            "k" => Taken::All,
            "m" => Taken::Moved,
            "h" => Taken::Hole,
            "c" => Taken::Closed,
            "b" => Taken::Busy,
            "f" => Taken::Unwritten,
            "x" => Taken::Ended,
            "g" => Taken::Lost,
            "n" => return Err(SessionError::Gone),
            // The link broke in the middle of it.
            "short" | "" => {
                *again = true;
                return Err(SessionError::LinkLost);
            }
            _ => return Err(garbled(&answer)),
        };
        Ok((taken, end.parse().unwrap_or(0)))
    }

    /// Sends a signal to a session's program; none means TERM, and KILL after 2 s.
    pub(super) async fn signal(
        &self,
        id: &str,
        signal: Option<&str>,
    ) -> Result<Signalled, SessionError> {
        let args = [id, signal.unwrap_or("end")];
        let answer = self.ask(script(&supervisor::SIGNAL, &args), Bytes::new()).await?;
        match first_line(&answer) {
            "k" => Ok(Signalled::Sent),
            "a" => Ok(Signalled::Alive),
            "n" => Ok(Signalled::Gone),
            over => match over.strip_prefix("x ").map(status) {
                Some((state, exit)) => Ok(Signalled::Over(state, exit)),
                None => Err(garbled(&answer)),
            },
        }
    }

    /// Removes what is kept of a session, of whichever run or of this one. Returns false when its program runs.
    pub(super) async fn remove(&self, id: &str, run: Option<&Run>) -> Result<bool, SessionError> {
        let created = run.map(|run| serde_json::to_string(&run.created).unwrap_or_default());
        let args = [id, created.as_deref().unwrap_or_default()];
        let remove = || self.ask(script(&supervisor::REMOVE, &args), Bytes::new());
        let mut answer = remove().await?;
        if first_line(&answer) == "l" {
            // What is known of it would be gone, and its program run on.
            self.signal(id, None).await?;
            answer = remove().await?;
        }
        match first_line(&answer) {
            "k" | "n" => Ok(true),
            "r" | "l" => Ok(false),
            _ => Err(garbled(&answer)),
        }
    }

    /// Returns the words that send a session's output.
    pub(super) fn follow(id: &str, stdout: &str, stderr: &str, on: bool) -> Words {
        script(&supervisor::FOLLOW, &[id, stdout, stderr, if on { "1" } else { "0" }])
    }
}

/// Returns an answer of one line. What logs in for a command may print something after it, too.
fn first_line(answer: &str) -> &str {
    answer.lines().next().unwrap_or_default().trim_end()
}

fn garbled(answer: &str) -> SessionError {
    SessionError::Garbled(occ_proto::text::sanitize(answer.trim_end()))
}

fn script(script: &str, args: &[&str]) -> Words {
    Words::new(script, args.iter().map(|arg| arg.as_bytes()))
}

/// Returns the environment as lines for a shell, which do not show in a list of processes as words would.
fn environment(request: &ExecRequest) -> String {
    let mut lines = String::new();
    // A shell would end of the first, which are its own (bash(1)). The last is this session's, and not that of one from which
    // it is started.
    const OWN: [&str; 6] = ["UID", "EUID", "PPID", "SHELLOPTS", "BASHOPTS", "OCC_SESSION_ID"];
    for (name, value) in request.env.iter().filter(|(name, _)| !OWN.contains(&name.as_str())) {
        let value = value.replace('\'', r"'\''");
        lines.push_str(&format!("{name}='{value}'; export {name}\n"));
    }
    lines
}

/// Returns what a session's status says.
pub(super) fn status(text: &str) -> (SessionState, Option<u8>) {
    match text.trim_end().parse::<u32>() {
        // ksh has 256 + n for a signal.
        Ok(status) if status > 256 => (SessionState::Ended, Some((status - 128).min(255) as u8)),
        Ok(status) => (SessionState::Ended, Some(status.min(255) as u8)),
        Err(_) => (SessionState::Lost, None),
    }
}

fn told(answer: &str) -> Vec<Told> {
    let mut all = Vec::new();
    let mut lines = answer.lines();
    while let (Some(first), Some(meta)) = (lines.next(), lines.next()) {
        let words: Vec<&str> = first.split(' ').collect();
        let [id, state, exit, stdin, stdout, stderr] = words[..] else { continue };
        let (state, exit) = if state == "r" { (SessionState::Running, None) } else { status(exit) };
        let offset = |text: &str| text.parse().unwrap_or(0);
        all.push(Told {
            id: id.to_owned(),
            state,
            exit,
            stdin: offset(stdin),
            stdout: offset(stdout),
            stderr: offset(stderr),
            info: serde_json::from_str(meta).ok(),
        });
    }
    all
}

impl From<Failure> for SessionError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Exec(error) => Self::Exec(error),
            Failure::NotOurs(said) => garbled(&said),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_tells_two_lines_for_each() {
        let all = told("ab r - 0 3 4\n{}\ncd x 130 0 0 0\n{}\nef x lost 1 2 3\n{}\n.\n");
        let states: Vec<_> = all.iter().map(|told| (told.state, told.exit)).collect();
        assert_eq!(
            states,
            [
                (SessionState::Running, None),
                (SessionState::Ended, Some(130)),
                (SessionState::Lost, None)
            ]
        );
        assert_eq!((all[0].stdin, all[0].stdout, all[0].stderr), (0, 3, 4));
        assert!(told("").is_empty());
    }

    #[test]
    fn an_environment_is_quoted() {
        let mut request = ExecRequest::default();
        request.env.insert("K".into(), "it's $X\n!".into());
        request.env.insert("OCC_SESSION_ID".into(), "another".into());
        assert_eq!(environment(&request), "K='it'\\''s $X\n!'; export K\n");
    }
}
