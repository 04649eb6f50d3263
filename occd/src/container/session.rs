//! Docker as an operation uses it: asked again over the next connection when the link breaks in the middle.

use std::time::Duration;

use bollard::errors::Error as BollardError;
use tokio::time::{Instant, sleep};

use super::operations::Progress;
use super::{Docker, DockerError, Engine, EngineError, SandboxError};
use crate::host::Tries;
use crate::prompts::Client;

/// How long an operation waits for a link that broke.
const LINK: Duration = Duration::from_secs(300);
/// How long it waits for an engine that went away, such as one that is started anew.
const ENGINE: Duration = Duration::from_secs(20);
/// How long until an engine that does not answer is asked again.
const RETRY: Duration = Duration::from_millis(500);

/// An operation's way to Docker.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) engine: Engine,
    pub(super) progress: Progress,
    docker: Option<Docker>,
}

impl Session {
    pub(super) fn new(engine: Engine, progress: Progress) -> Self {
        Self { engine, progress, docker: None }
    }

    /// Asks Docker. What is asked may be asked again, so it must do no harm the second time.
    pub(super) async fn ask<T, F>(
        &mut self,
        question: impl Fn(bollard::Docker) -> F,
    ) -> Result<T, SandboxError>
    where
        F: Future<Output = Result<T, BollardError>>,
    {
        let mut patience = None;
        loop {
            let error = match self.client(patience.is_some()).await {
                // In a box: what is asked for can be large.
                Ok(client) => match Box::pin(question(client)).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) if is_answer(&error) => return Err(error.into()),
                    Err(error) => error.into(),
                },
                // What was said before the first question is said to the one who asks.
                Err(EngineError::Docker(error)) if patience.is_some() && may_come_back(&error) => {
                    error
                }
                Err(error) => return Err(error.into()),
            };
            self.docker = None;
            let patience = patience.get_or_insert_with(|| {
                self.progress.note("the link to Docker broke; this goes on when it is back");
                Patience::default()
            });
            let link = match &self.engine {
                Engine::Host(host) => {
                    let snapshot = host.snapshot();
                    snapshot.usable().is_some().then_some(snapshot.connects)
                }
                Engine::Local(_) => Some(0),
            };
            if patience.is_spent(link, Instant::now()) {
                return Err(error.into());
            }
            sleep(RETRY).await;
        }
    }

    /// Returns a client of bollard's, of a connection that was not found broken.
    async fn client(&mut self, again: bool) -> Result<bollard::Docker, EngineError> {
        if self.docker.is_none() {
            // A person's part was done before the operation began.
            let tries = if again { Tries::Wait(LINK) } else { Tries::default() };
            self.docker = Some(self.engine.docker(tries, &Client::default()).await?);
        }
        let docker = self.docker.as_ref().ok_or(DockerError::Lost)?;
        Ok(docker.client().clone())
    }
}

/// With an engine that does not answer, on the link that there is: a link that is down has its own, and a host that has just
/// come back has its engine a while later.
#[derive(Debug, Default)]
struct Patience(Option<(u64, Instant)>);

impl Patience {
    /// Returns whether the engine has been silent for too long; `link` counts the links, and is nothing while there is none.
    fn is_spent(&mut self, link: Option<u64>, now: Instant) -> bool {
        let begun = |(same, since)| (Some(same) == link).then_some(since);
        let since = self.0.and_then(begun).unwrap_or(now);
        self.0 = link.map(|link| (link, since));
        now - since > ENGINE
    }
}

/// Returns whether Docker has answered, and would answer the same again.
pub(super) fn is_answer(error: &BollardError) -> bool {
    matches!(
        error,
        BollardError::DockerResponseServerError { .. }
            | BollardError::DockerStreamError { .. }
            | BollardError::DockerContainerWaitError { .. }
            | BollardError::JsonDataError { .. }
            | BollardError::RequestTimeoutError
    )
}

/// Returns whether an engine may be there again in a moment.
fn may_come_back(error: &DockerError) -> bool {
    matches!(
        error,
        DockerError::Down { .. }
            // An engine that is started anew makes its socket anew.
            | DockerError::NotThere(_)
            // And opens it to its group after that.
            | DockerError::Permission(_)
            | DockerError::Lost
            | DockerError::Moved
            | DockerError::Crowded
            | DockerError::Hung
            | DockerError::Refused { .. }
            | DockerError::Api(_)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_has_its_time_from_when_its_host_is_back() {
        let mut patience = Patience::default();
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        assert!(!patience.is_spent(Some(1), begun));
        // The host is started anew, which takes longer than an engine.
        assert!(!patience.is_spent(None, after(60)));
        assert!(!patience.is_spent(Some(2), after(90)));
        assert!(!patience.is_spent(Some(2), after(100)));
        assert!(patience.is_spent(Some(2), after(111)));
        // The link was down and up again between two looks.
        assert!(!patience.is_spent(Some(3), after(112)));
    }
}
