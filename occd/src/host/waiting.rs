//! Waiting for a host's connection: whoever wants it asks the actor, and sees from what that publishes what becomes
//! of it. Nothing here dials or changes state.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use occ_proto::status::State;
use tokio::time::{Instant, timeout_at};

use super::machine::Retry;
use super::tries::{COMMAND_RETRIES, Tries};
use super::{HostHandle, HostRequest, HostSnapshot, Unreachable, Wish};
use crate::prompts::{NoAnswer, TimedOut};
use crate::ssh::{ConnectError, Connection};

/// How long a dial may be set to take, at most.
const LONGEST_DIAL: Duration = Duration::from_secs(600);
/// How often a command that waits for a host that is down has it dialled, at least.
const WAIT_STEP: Duration = Duration::from_secs(5);

/// Counts as one that waits, until dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl HostHandle {
    /// Returns the connection if it is there or on its way; an idle host is dialled, one that is down is
    /// left to its own time.
    pub async fn connection_if_due(
        &self,
        deadline: Instant,
    ) -> Result<Arc<Connection>, Unreachable> {
        let _waiting = Waiting::new(&self.waiting);
        let begun = Instant::now();
        self.ask(|done| HostRequest::Want { by: Wish::Glance, agent_holds: None, done }).await?;
        let mut snapshots = self.snapshot.clone();
        loop {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            if let Some(connection) = snapshot.usable().cloned() {
                connection.checked().await;
                if !connection.is_closed() {
                    return Ok(connection);
                }
                // What becomes of the host now is told in a moment.
            }
            let coming = matches!(snapshot.state, State::Connecting | State::Connected);
            if !coming || !matches!(timeout_at(deadline, snapshots.changed()).await, Ok(Ok(()))) {
                let error = match (&snapshot.last_error, snapshot.state) {
                    (_, State::Stopped) | (None, _) => self.ended(),
                    (Some((error, _)), _) => Arc::clone(error),
                };
                let next_retry_at = snapshot.next_retry_at;
                return Err(Unreachable {
                    error,
                    attempts: 0,
                    waited: begun.elapsed(),
                    next_retry_at,
                });
            }
        }
    }

    /// Waits for the connection, until a deadline, as hard as the tries say.
    pub(super) async fn wait_for_connection(
        &self,
        mut wish: Wish,
        tries: Tries,
        mut deadline: Instant,
        can_answer: bool,
    ) -> Result<Arc<Connection>, Unreachable> {
        let mut prolonged = matches!(tries, Tries::Wait(_));
        let _waiting = Waiting::new(&self.waiting);
        let (begun, spent) = (Instant::now(), self.questions.spent());
        let mut asked_in_vain = false;
        let mut cut_off = 0;
        let mut snapshots = self.snapshot.clone();
        let before = snapshots.borrow_and_update().dials();
        loop {
            let dials = snapshots.borrow_and_update().dials();
            // What failed for want of a key may go well with those that somebody has added since.
            let awaited = self.snapshot.borrow().awaited_agent.clone();
            let agent_holds = match awaited {
                Some(choice) => self.context.dial.agents.holds(&choice).await,
                None => None,
            };
            self.ask(|done| HostRequest::Want { by: wish, agent_holds, done }).await?;
            // A person's wish overrides a failed or stopped state once, not again and again.
            wish = Wish::Command;
            let give_up = |snapshot: &HostSnapshot, error: Arc<ConnectError>| Unreachable {
                error,
                attempts: u32::try_from(snapshot.dials() - before).unwrap_or(u32::MAX),
                waited: begun.elapsed(),
                next_retry_at: snapshot.next_retry_at,
            };
            // Wait for the end of the dial that was asked for.
            loop {
                let snapshot = Arc::clone(&snapshots.borrow_and_update());
                if let Some(connection) = snapshot.usable() {
                    return Ok(Arc::clone(connection));
                }
                let last_error = || match &snapshot.last_error {
                    Some((error, _)) => Arc::clone(error),
                    None => Arc::new(ConnectError::Stopped),
                };
                // The dial was under way before we came, and did not know whom to ask.
                let early = |e: &ConnectError| can_answer && !asked_in_vain && e.asked_nobody();
                match snapshot.state {
                    State::Failed if early(&last_error()) => {
                        asked_in_vain = true;
                        break;
                    }
                    State::Failed => return Err(give_up(&snapshot, last_error())),
                    State::Stopped => return Err(give_up(&snapshot, self.ended())),
                    // It failed, or it made a connection that is gone already.
                    State::Backoff if snapshot.dials() > dials => {
                        let error = last_error();
                        // A jump host that needs a person, or a server that wants us to stay away for a while:
                        // asking again brings the same answer.
                        let retry = error.blame().0.retry();
                        let hopeless = match tries {
                            Tries::Retries(_) => retry.is_hopeless_now(),
                            Tries::Wait(_) => retry == Retry::Fatal,
                        };
                        if early(&error) {
                            asked_in_vain = true;
                            break;
                        }
                        // The jump host is being reconnected: the next dial waits for it.
                        if error.is_end_of_hop() && cut_off < COMMAND_RETRIES {
                            cut_off += 1;
                            break;
                        }
                        let made = u32::try_from(snapshot.dials() - before).unwrap_or(u32::MAX);
                        let made = made.saturating_sub(cut_off);
                        if hopeless || !tries.allow(made) {
                            return Err(give_up(&snapshot, error));
                        }
                        if matches!(tries, Tries::Retries(_)) {
                            break;
                        }
                    }
                    // A connection that broke while it was asked for.
                    State::Idle => break,
                    State::Backoff | State::Connecting | State::Connected | State::Unknown => {}
                }
                // Who waits for long looks again by themselves: the backoff may have grown to minutes.
                let again = Instant::now() + WAIT_STEP;
                let looks_again = matches!(tries, Tries::Wait(_))
                    && snapshot.state == State::Backoff
                    && !last_error().retry().is_hopeless_now();
                let until = if looks_again { again.min(deadline) } else { deadline };
                let changed = self.questions.timeout_at(until, spent, snapshots.changed());
                let changed = tokio::select! {
                    changed = changed => changed,
                    question = self.questions.opened(), if !can_answer => {
                        let error = ConnectError::Unanswered {
                            question: question.to_string(),
                            phase: occ_proto::status::Phase::Authentication,
                            key: None,
                            why: NoAnswer::Elsewhere,
                        };
                        return Err(give_up(&snapshot, Arc::new(error)));
                    }
                };
                match changed {
                    Ok(Ok(())) => {}
                    Err(TimedOut) if until < deadline => break,
                    // The first dial has a limit of its own, which may be set to more than this.
                    Err(TimedOut) if !prolonged && snapshot.dials() == before => {
                        prolonged = true;
                        deadline += LONGEST_DIAL;
                    }
                    Ok(Err(_)) => {
                        return Err(give_up(&snapshot, self.ended()));
                    }
                    Err(TimedOut) => {
                        let error = match &snapshot.last_error {
                            Some((error, _)) => Arc::clone(error),
                            None => Arc::new(ConnectError::Timeout {
                                phase: occ_proto::status::Phase::Unknown,
                                after: begun.elapsed(),
                            }),
                        };
                        return Err(give_up(&snapshot, error));
                    }
                }
            }
        }
    }
}
