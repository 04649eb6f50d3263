//! What hosts tell of sessions, and of which run of one: what was asked of a run says nothing of the next.

use std::collections::BTreeMap;

use jiff::Timestamp;
use occ_proto::session::{Session, SessionHost, SessionState};

use super::error::SessionError;
use super::names::{check, free_name};
use super::place::Place;
use super::remote::{Remote, Told};
use super::store::Record;
use super::{Entry, Sessions};
use crate::host::Tries;
use crate::prompts::Client;

/// One run of a session, which may begin anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(super) id: String,
    /// When it was started.
    pub(super) created: Timestamp,
}

impl Entry {
    /// Returns whether that run is meant, and its host was asked for it: it can tell of it.
    pub(super) fn is_at(&self, run: &Run) -> bool {
        !self.starting && self.record.info.created == run.created
    }
}

impl Sessions {
    /// The host of a run was asked to start it.
    pub(super) fn started(&self, run: &Run) {
        let mut entries = self.lock();
        if let Some(entry) = entries.get_mut(&run.id)
            && entry.record.info.created == run.created
        {
            entry.starting = false;
        }
        self.bell.send_modify(|()| {});
    }

    /// Returns whether its host may know nothing of it yet.
    pub(super) fn is_starting(&self, id: &str) -> bool {
        self.lock().get(id).is_some_and(|entry| entry.starting)
    }

    /// Has a session as it was before a run that did not start, unless it was removed meanwhile, or begun once more.
    pub(super) fn restore(&self, run: &Run, record: Record) -> Result<(), SessionError> {
        let mut entries = self.lock();
        if let Some(entry) = entries.get_mut(&run.id)
            && entry.is_at(run)
        {
            entry.record = record;
            self.save(&entries)?;
        }
        Ok(())
    }

    /// Notes what is known of a run's program by now.
    pub(crate) fn note(&self, run: &Run, state: SessionState, exit: Option<u8>) {
        self.note_all([(run, (state, exit))]);
    }

    /// The same for several, with one write. What is said of a run that has been followed by another is old.
    pub(super) fn note_all<'a>(
        &self,
        told: impl IntoIterator<Item = (&'a Run, (SessionState, Option<u8>))>,
    ) {
        let mut entries = self.lock();
        let mut is_news = false;
        for (run, now) in told {
            if let Some(entry) = entries.get_mut(&run.id).filter(|entry| entry.is_at(run)) {
                let record = &mut entry.record;
                is_news |= (record.state, record.exit) != now;
                (record.state, record.exit) = now;
            }
        }
        if is_news && let Err(error) = self.save(&entries) {
            tracing::warn!(%error, "what became of a session is not remembered");
        }
    }

    /// Notes how far a client has read standard output and standard error of a run, as far as it has read any.
    pub(crate) fn note_read(&self, run: &Run, read: [Option<u64>; 2]) {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(&run.id).filter(|entry| entry.is_at(run)) else { return };
        let before = entry.record.read;
        let [out, err] = read;
        entry.record.read = [out.unwrap_or(before[0]), err.unwrap_or(before[1])];
        if entry.record.read == before {
            return;
        }
        if let Err(error) = self.save(&entries) {
            tracing::warn!(%error, "how far a session was read is not remembered");
        }
    }

    /// Returns the sessions of a host as it knows them. If `all`, also those that are not in the list: they are from now on.
    pub(crate) async fn look_at(
        &self,
        host: &SessionHost,
        place: Place,
        client: Client,
        all: bool,
    ) -> Result<Vec<Session>, SessionError> {
        // Which are meant: others may be started meanwhile.
        let mut asked: BTreeMap<String, Run> = {
            let entries = self.lock();
            let there = entries.iter().filter(|(_, entry)| !entry.starting);
            there.map(|(id, entry)| (id.clone(), entry.record.run())).collect()
        };
        let told = Remote { place, tries: Tries::default(), client }.list(&[]).await?;
        let mut entries = self.lock();
        for told in &told {
            if all
                && !entries.contains_key(&told.id)
                && is_id(&told.id)
                && let Some(mut info) = told.info.clone().filter(|info| info.id == told.id)
            {
                if check(&entries, &info.name, None).is_err() {
                    info.name = free_name(&entries, &info.name);
                }
                let (state, exit) = (told.state, told.exit);
                let host = host.clone();
                let record = Record { info, host, next_host: None, state, exit, read: [0; 2] };
                asked.insert(told.id.clone(), record.run());
                entries.insert(told.id.clone(), Entry::new(record));
            }
        }
        let mut sessions = Vec::new();
        for entry in entries.values_mut().filter(|entry| entry.record.host == *host) {
            let of = told.iter().find(|told| told.id == entry.record.info.id);
            let is_meant = asked.get(&entry.record.info.id).is_some_and(|run| entry.is_at(run));
            sessions.push(match is_meant {
                true => entry.record.learn(of),
                false => entry.record.session(),
            });
        }
        self.save(&entries)?;
        Ok(sessions)
    }
}

/// Returns whether a host's word is an ID as we make them.
fn is_id(text: &str) -> bool {
    text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl Record {
    /// Returns which run it is of.
    pub(super) fn run(&self) -> Run {
        Run { id: self.info.id.clone(), created: self.info.created }
    }

    /// Takes in what the host tells of it, or that it knows nothing, and returns the session as it is now.
    pub(super) fn learn(&mut self, told: Option<&Told>) -> Session {
        (self.state, self.exit) = match told {
            Some(told) => (told.state, told.exit),
            None => (SessionState::Gone, self.exit),
        };
        let mut session = self.session();
        if let Some(told) = told {
            session.stdin = Some(told.stdin);
            session.stdout = Some(told.stdout);
            session.stderr = Some(told.stderr);
        }
        session
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use occ_proto::session::SessionState;

    use crate::session::tests::{request, sessions};

    #[test]
    fn what_is_told_of_a_run_is_not_taken_for_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let sessions = sessions(dir.path());
        let record = sessions.enter(&request(Some("work"))).unwrap();
        let state = || sessions.known()[0].state;
        // Its host may not have been asked for it yet.
        let first = record.run();
        sessions.note(&first, SessionState::Gone, None);
        assert_eq!(state(), SessionState::Running);
        sessions.started(&first);
        sessions.note(&first, SessionState::Ended, Some(1));
        assert_eq!(state(), SessionState::Ended);

        let mut again = record;
        again.info.created = Timestamp::from_second(2_000_000_000).unwrap();
        sessions.put(&mut sessions.lock(), &again).unwrap();
        sessions.started(&first);
        sessions.note(&again.run(), SessionState::Gone, None);
        sessions.started(&again.run());
        sessions.note(&first, SessionState::Ended, Some(1));
        assert_eq!(state(), SessionState::Running);
    }
}
