//! Noticing the end of programs to which nobody is attached.
//!
//! Who follows a session's output learns of its end at once. For all others a host on which sessions run is asked now and
//! then, as long as it is connected, in one short command that takes no channel from anybody: nobody dials for it, and it is no
//! use of the host.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use jiff::Timestamp;
use occ_proto::session::{SessionHost, SessionState};
use tokio::time::{Instant, sleep_until};

use super::remote::status;
use super::{Entry, Sessions, supervisor};
use crate::exec::{self, Executor};

/// How long until a host is asked again, at least and at most. In between it is a quarter of what its youngest session
/// has run for: who waits for a program learns of its end soon after it, in proportion.
const SOON: Duration = Duration::from_secs(1);
const LATE: Duration = Duration::from_secs(15);

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
        let mut looked = None;
        loop {
            bell.borrow_and_update();
            let Some(pause) = self.pause(host) else { return };
            if let Some(looked) = looked {
                next = looked + pause;
            }
            tokio::select! {
                () = sleep_until(next) => {}
                // One may have been started.
                _ = bell.changed() => continue,
            }
            let asked = self.running(host);
            let ids: Vec<&str> = asked.keys().map(String::as_str).collect();
            let argv = [&["sh", "-c", &supervisor::STATES, "occ"], &ids[..]].concat();
            let said = match executor {
                Executor::Local(local) => exec::look_here(local, &argv).await,
                Executor::Host(host) => match host.next_connection().await {
                    Some(connection) => exec::look_over(host, &connection, &argv).await,
                    None => return,
                },
            };
            looked = Some(Instant::now());
            // Without an answer nothing is known.
            let said = said.map(|said| String::from_utf8_lossy(&said).into_owned());
            if let Some(states) = said.as_deref().and_then(states) {
                for (id, created) in asked {
                    let state = states.get(id.as_str()).copied();
                    self.note_end(&id, created, state.unwrap_or((SessionState::Gone, None)));
                }
            }
        }
    }

    /// Notes what a host said of a session that it was asked about, unless that has begun anew since.
    fn note_end(&self, id: &str, created: Timestamp, (state, exit): (SessionState, Option<u8>)) {
        let is_meant = |entry: &Entry| entry.is_running() && entry.record.info.created == created;
        if state != SessionState::Running && self.lock().get(id).is_some_and(is_meant) {
            self.note(id, state, exit);
        }
    }

    fn hosts_at_work(&self) -> BTreeSet<SessionHost> {
        let entries = self.lock();
        let at_work = entries.values().filter(|entry| entry.is_running());
        at_work.map(|entry| entry.record.host.clone()).collect()
    }

    /// Returns the sessions that run on a host, and when they were started.
    fn running(&self, host: &SessionHost) -> BTreeMap<String, Timestamp> {
        let entries = self.lock();
        let there = entries.iter().filter(|(_, entry)| entry.is_running());
        let there = there.filter(|(_, entry)| entry.record.host == *host);
        there.map(|(id, entry)| (id.clone(), entry.record.info.created)).collect()
    }

    /// Returns how long a host on which sessions run is left alone.
    fn pause(&self, host: &SessionHost) -> Option<Duration> {
        let youngest = self.running(host).into_values().max()?;
        // Nothing where the clock was put back.
        let age = Duration::try_from(Timestamp::now().duration_since(youngest)).unwrap_or_default();
        Some((age / 4).clamp(SOON, LATE))
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
