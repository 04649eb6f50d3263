//! Waiting for a person who is part of a login without being asked by us: who touches a security key, confirms
//! on a telephone, opens the address in the server's banner.

use std::time::Duration;

use occ_proto::HostName;
use occ_proto::prompt::PromptKind;
use tokio::time::{Instant, timeout};

use super::passwords::unanswered;
use crate::prompts::{NoAnswer, Question, Questions};
use crate::ssh::error::{ConnectError, LossCause};
use crate::ssh::handler::Shared;

pub(super) use crate::prompts::BY_ITSELF;

/// What a server decides by itself, with a directory at hand, it says within this time. What takes longer waits
/// for a person, who must not be bothered again without having asked for it.
const DECIDED: Duration = Duration::from_secs(3);

/// How much longer than [`BY_ITSELF`] a server may take before it is told that it may wait for somebody: PAM lets
/// two to four seconds pass after a password that is wrong. The dial's clock goes on.
const UNTOLD: Duration = Duration::from_secs(4);

/// The server's word to what was given to it.
pub(super) struct Verdict<T> {
    pub(super) word: T,
    /// It took so long that a person must have been part of it.
    pub(super) by_person: bool,
}

/// Returns the notice that a person is waited for.
pub(super) fn notice(host: Option<&HostName>, message: String, note: Option<String>) -> Question {
    let host = host.cloned();
    Question { kind: PromptKind::Notice, host, message, note, secret: false, again: false }
}

/// Waits for what the server says to a password or to answers. It may ask a person meanwhile, and whatever
/// becomes of it, the same must not be sent again without somebody's wish: a connection that ends now is no
/// mere break of the line.
pub(super) async fn verdict<T>(
    questions: &Questions,
    host: Option<&HostName>,
    note: Option<String>,
    work: impl Future<Output = Result<T, ConnectError>>,
) -> Result<Verdict<T>, ConnectError> {
    const WORDS: &str = "the server has not said yet whether the login is good";
    let begun = Instant::now();
    // What it has said itself is no guess.
    let untold = if note.is_some() { Duration::ZERO } else { UNTOLD };
    let notice = notice(host, format!("{WORDS}; it may wait for you elsewhere"), note);
    tokio::pin!(work);
    let done = match timeout(untold, &mut work).await {
        Ok(done) => Ok(done),
        Err(_) => questions.elsewhere(notice, work).await,
    };
    match done {
        Ok(Ok(word)) => Ok(Verdict { word, by_person: begun.elapsed() >= DECIDED }),
        Ok(Err(ConnectError::Lost { cause, .. })) if !is_refusal(&cause) => {
            Err(unanswered(format!("the login was not decided ({cause})"), NoAnswer::Lost))
        }
        Ok(Err(error)) => Err(error),
        Err(why) => Err(unanswered(WORDS.into(), why)),
    }
}

/// Returns whether a server ended the connection because of what was given to it: OpenSSH does so at MaxAuthTries,
/// and where it has no method left.
pub(super) fn is_refusal(cause: &LossCause) -> bool {
    is_said(cause, "too many authentication failures") || leaves_no_method(cause)
}

/// Returns whether a server has no method for the account: OpenSSH says so, or names none.
pub(super) fn leaves_no_method(cause: &LossCause) -> bool {
    *cause == LossCause::NoMethod || is_said(cause, "no authentication method")
}

fn is_said(cause: &LossCause, words: &str) -> bool {
    let LossCause::Disconnected(text) = cause else { return false };
    text.to_lowercase().contains(words)
}

/// Waits for what the server says to a key. It may want a person to open an address, which it shows in its banner.
pub(super) async fn unless_asked<T>(
    questions: &Questions,
    host: Option<&HostName>,
    shared: &Shared,
    work: impl Future<Output = T>,
) -> Result<Verdict<T>, ConnectError> {
    let begun = Instant::now();
    tokio::pin!(work);
    let banner = tokio::select! {
        biased;
        word = &mut work => return Ok(Verdict { word, by_person: false }),
        banner = shared.address_in_banner() => banner,
    };
    let words = "the server waits for you to do what it says";
    let done = questions.elsewhere(notice(host, words.into(), Some(banner)), work).await;
    let word = done.map_err(|why| unanswered(words.into(), why))?;
    Ok(Verdict { word, by_person: begun.elapsed() >= DECIDED })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use occ_proto::status::Phase;
    use tokio::time::sleep;

    use super::*;
    use crate::host::machine::Retry;
    use crate::prompts::Prompts;

    #[tokio::test(start_paused = true)]
    async fn a_verdict_that_takes_a_persons_time_is_a_persons() {
        let questions = Questions::new(Arc::new(Prompts::default()));
        let after = |time: Duration| async move {
            sleep(time).await;
            Ok::<_, ConnectError>(())
        };
        for (seconds, by_person) in [(0, false), (2, false), (5, true), (40, true)] {
            let work = after(Duration::from_secs(seconds));
            let said = verdict(&questions, None, None, work).await.unwrap();
            assert_eq!(said.by_person, by_person, "{seconds} s");
        }
        let error = verdict(&questions, None, None, after(Duration::from_secs(90))).await;
        assert_eq!(error.err().map(|error| error.retry()), Some(Retry::Fatal));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_takes_its_time_is_not_at_once_said_to_wait_for_somebody() {
        let prompts = Arc::new(Prompts::default());
        let questions = Questions::new(Arc::clone(&prompts));
        for (note, quiet) in [(None, 4), (Some("a push".to_owned()), 0)] {
            let work = std::future::pending::<Result<(), ConnectError>>();
            let mut said = std::pin::pin!(verdict(&questions, None, note, work));
            assert!(timeout(Duration::from_millis(quiet * 1000 + 900), &mut said).await.is_err());
            assert_eq!(questions.open(), None);
            assert!(timeout(Duration::from_millis(200), &mut said).await.is_err());
            assert!(questions.open().is_some());
        }
    }

    #[tokio::test]
    async fn a_connection_that_ends_before_the_verdict_is_not_made_anew() {
        let questions = Questions::new(Arc::new(Prompts::default()));
        let lost = |cause| ConnectError::Lost { phase: Phase::Authentication, cause };
        for cause in [LossCause::Closed, LossCause::Disconnected("go away".into())] {
            let work = async { Err::<(), _>(lost(cause.clone())) };
            let error = verdict(&questions, None, None, work).await.err().unwrap();
            assert_eq!(error.retry(), Retry::Fatal, "{error}");
        }
        // That has words of its own, at the end of the login.
        let cause = LossCause::Disconnected("Too many authentication failures".into());
        let work = async { Err::<(), _>(lost(cause)) };
        let error = verdict(&questions, None, None, work).await.err().unwrap();
        assert!(matches!(error, ConnectError::Lost { .. }), "{error}");
    }
}
