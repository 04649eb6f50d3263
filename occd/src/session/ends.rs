//! Noticing the end of programs to which nobody is attached.
//!
//! Who follows a session's output learns of its end at once. For all others a host on which sessions run is asked now and
//! then, as long as it is connected, in one short command, if the connection has room for it: nobody dials for it, waits for it, or is kept
//! waiting, and it is no use of the host.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use jiff::Timestamp;
use occ_proto::session::{SessionHost, SessionState};
use tokio::time::{Instant, sleep_until};

use super::remote::status;
use super::{Entry, Run, Sessions, supervisor};
use crate::exec::{self, Executor};

/// How long until a host is asked again, at least and at most. In between it is a quarter of what its youngest session
/// has run for: who waits for a program learns of its end soon after it, in proportion.
const SOON: Duration = Duration::from_secs(1);
const LATE: Duration = Duration::from_secs(15);
/// A host is left alone for so many times as long as it took to answer.
const SHARE: u32 = 10;
/// How many sessions are asked about at once: their answer is no longer than one may be, [`exec::look`].
const AT_ONCE: usize = 1000;

impl Entry {
    /// Returns whether its program runs, as far as is known, and its host can tell.
    fn is_running(&self) -> bool {
        self.record.state == SessionState::Running && !self.starting
    }
}

impl Sessions {
    /// Notes how programs end, until the daemon stops. `executor` knows where the sessions of a host run, if there is such a
    /// host.
    pub async fn notice_ends(&self, executor: impl Fn(&SessionHost) -> Option<Executor>) {
        let (mut bell, mut changes) = (self.bell.subscribe(), self.changes.watch());
        let (mut followed, mut ends) = (BTreeSet::new(), FuturesUnordered::new());
        loop {
            bell.borrow_and_update();
            changes.borrow_and_update();
            for host in self.hosts_at_work() {
                if !followed.contains(&host)
                    && let Some(executor) = executor(&host)
                {
                    followed.insert(host.clone());
                    ends.push(async move {
                        self.notice_ends_at(&host, &executor).await;
                        host
                    });
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                _ = bell.changed() => {}
                // A host may be there now that was not.
                _ = changes.changed() => {}
                Some(host) = ends.next() => {
                    followed.remove(&host);
                }
            }
        }
    }

    /// The same for one host, until none runs there, or the host is no more.
    async fn notice_ends_at(&self, host: &SessionHost, executor: &Executor) {
        let mut bell = self.bell.subscribe();
        // What ended while nobody could ask is known soon.
        let mut next = Instant::now() + SOON;
        let mut looked: Option<(Instant, Duration)> = None;
        loop {
            bell.borrow_and_update();
            let Some(pause) = self.pause(host) else { return };
            if let Some((at, took)) = looked {
                next = at + pause.max(took * SHARE);
            }
            tokio::select! {
                () = sleep_until(next) => {}
                // One may have been started.
                _ = bell.changed() => continue,
            }
            let connection = match executor {
                Executor::Local(_) => None,
                Executor::Host(host) => match host.next_connection().await {
                    Some(connection) => Some(connection),
                    None => return,
                },
            };
            let begun = Instant::now();
            for runs in self.running(host).chunks(AT_ONCE) {
                let ids = runs.iter().map(|run| run.id.as_str());
                let argv: Vec<&str> =
                    ["sh", "-c", &supervisor::STATES, "occ"].into_iter().chain(ids).collect();
                let said = match (executor, &connection) {
                    (Executor::Local(local), _) => exec::look_here(local, &argv).await,
                    (Executor::Host(host), Some(connection)) => {
                        exec::look_over(host, connection, &argv).await
                    }
                    (Executor::Host(_), None) => None,
                };
                // Without an answer nothing is known.
                let said = said.map(|said| String::from_utf8_lossy(&said).into_owned());
                if let Some(states) = said.as_deref().and_then(states) {
                    let gone = (SessionState::Gone, None);
                    let state = |run: &Run| states.get(run.id.as_str()).copied().unwrap_or(gone);
                    self.note_all(runs.iter().map(|run| (run, state(run))));
                }
            }
            looked = Some((Instant::now(), begun.elapsed()));
        }
    }

    fn hosts_at_work(&self) -> BTreeSet<SessionHost> {
        let entries = self.lock();
        let at_work = entries.values().filter(|entry| entry.is_running());
        at_work.map(|entry| entry.record.host.clone()).collect()
    }

    /// Returns what runs on a host.
    fn running(&self, host: &SessionHost) -> Vec<Run> {
        let entries = self.lock();
        let at_work = entries.values().filter(|entry| entry.is_running());
        let there = at_work.filter(|entry| entry.record.host == *host);
        there.map(|entry| entry.record.run()).collect()
    }

    /// Returns how long a host on which sessions run is left alone.
    fn pause(&self, host: &SessionHost) -> Option<Duration> {
        let youngest = self.running(host).into_iter().map(|run| run.created).max()?;
        // One of the future was started by another clock.
        let age = Duration::try_from(Timestamp::now().duration_since(youngest));
        Some((age.unwrap_or(Duration::MAX) / 4).clamp(SOON, LATE))
    }
}

/// Reads how sessions are from the answer of [`supervisor::STATES`], if it is whole.
fn states(said: &str) -> Option<BTreeMap<&str, (SessionState, Option<u8>)>> {
    let lines = said.trim_end().strip_suffix('.')?.lines();
    let state = |line| match str::split_once(line, ' ')? {
        (id, "r") => Some((id, (SessionState::Running, None))),
        (id, over) => Some((id, status(over.strip_prefix("x ")?))),
    };
    Some(lines.filter_map(state).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_cut_short_is_none() {
        let whole = states("ab r\ncd x 0004\nef x lost\n.\n").unwrap();
        assert_eq!(whole["ab"], (SessionState::Running, None));
        assert_eq!(whole["cd"], (SessionState::Ended, Some(4)));
        assert_eq!(whole["ef"], (SessionState::Lost, None));
        assert!(states(".\n").unwrap().is_empty());
        assert_eq!(states("ab r\ncd x 0004\n"), None);
        assert_eq!(states(""), None);
    }
}
