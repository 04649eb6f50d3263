//! Sessions: programs on hosts that outlive the connection, the daemon and this machine.
//!
//! A small supervisor on the host keeps the program's output by offset, takes its input by offset, and notes how it ended
//! (`supervisor.rs`). The daemon keeps the list of sessions in `sessions.json`, and can do without it: their hosts know
//! them, too. A session that nobody is attached to costs an entry in that list, and no channel; while any runs, its host is
//! looked at now and then (`ends.rs`).
//!
//! The API alone talks to this; it reaches hosts through `place.rs`.

mod ends;
mod error;
mod follow;
mod handle;
mod input;
mod names;
mod place;
mod remote;
mod store;
mod supervisor;
mod told;
mod urls;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use occ_proto::exec::ExecRequest;
use occ_proto::session::{
    Session, SessionEdit, SessionHost, SessionInfo, SessionRequest, SessionStart, SessionState,
};
use tokio::sync::{OwnedMutexGuard, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use error::SessionError;
pub(crate) use follow::Event;
pub(crate) use handle::{Handle, Wanted};
pub(crate) use input::PIECE;
pub(crate) use place::Place;
pub(crate) use told::Run;
pub(crate) use urls::{LocalUrl, Scanner};

use crate::events::{Changes, Topic};
use crate::exec::Command;
use crate::host::Tries;
use crate::prompts::Client;
use input::Line;
use names::{check, find, free_name};
use remote::Remote;
use store::{Record, Store};

/// How much is kept of each stream of a session, in bytes.
const KEEP: u64 = 64 * 1024 * 1024;

/// How long one who would start, end or remove a session waits for another who does: longer than it takes to end one.
const TURN: Duration = Duration::from_secs(15);

/// What only one at a time may do.
type Turn = tokio::sync::Mutex<()>;

/// All sessions.
#[derive(Debug)]
pub struct Sessions {
    store: Store,
    entries: Mutex<BTreeMap<String, Entry>>,
    changes: Arc<Changes>,
    /// Rings when the list is another.
    bell: watch::Sender<()>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A URL that a session's program has printed, and the same on this machine.
#[derive(Debug, Clone)]
pub(crate) struct Forwarded {
    pub(crate) url: String,
    pub(crate) here: String,
}

#[derive(Debug)]
struct Entry {
    record: Record,
    line: Arc<Line>,
    /// The ports that were forwarded for its URLs.
    forwarded: watch::Sender<Vec<Forwarded>>,
    /// Whoever starts, ends or removes it has this meanwhile.
    turn: Arc<Turn>,
    /// Its host is being asked to start it, and may know nothing of it, or of the one before it.
    starting: bool,
}

impl Entry {
    fn new(record: Record) -> Self {
        let (line, turn) = (Arc::default(), Arc::default());
        Self { record, line, forwarded: watch::Sender::default(), turn, starting: false }
    }
}

impl Sessions {
    /// Returns those that are remembered in `state`.
    pub fn new(
        state: &Path,
        changes: Arc<Changes>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let store = Store::new(state);
        let of = |record: Record| (record.info.id.clone(), Entry::new(record));
        let entries = Mutex::new(store.load().into_iter().map(of).collect());
        Self { store, entries, changes, bell: watch::Sender::default(), tasks, stop }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn save(&self, entries: &BTreeMap<String, Entry>) -> Result<(), SessionError> {
        self.changes.touch(Topic::Sessions);
        self.bell.send_modify(|()| {});
        let records: Vec<&Record> = entries.values().map(|entry| &entry.record).collect();
        self.store.save(&records).map_err(SessionError::Store)
    }

    /// Returns a session's host, by its name or its ID.
    pub(crate) fn host_of(&self, wanted: &str) -> Result<(String, SessionHost), SessionError> {
        let entries = self.lock();
        let entry = find(&entries, wanted)?;
        Ok((entry.record.info.id.clone(), entry.record.host.clone()))
    }

    /// Returns a session as it was known last, by its name or its ID.
    pub(crate) fn known_as(&self, wanted: &str) -> Result<Session, SessionError> {
        Ok(find(&self.lock(), wanted)?.record.session())
    }

    /// Returns a session for a client that reaches its host.
    pub(crate) fn handle(
        &self,
        id: &str,
        place: Place,
        client: Client,
    ) -> Result<Handle, SessionError> {
        let entries = self.lock();
        let entry = find(&entries, id)?;
        let remote = Remote { place, tries: Tries::default(), client };
        Ok(Handle {
            record: entry.record.clone(),
            remote,
            line: Arc::clone(&entry.line),
            forwarded: entry.forwarded.clone(),
        })
    }

    /// Returns all of them as they were known last, the oldest first.
    pub(crate) fn known(&self) -> Vec<Session> {
        let entries = self.lock();
        let mut all: Vec<Session> = entries.values().map(|entry| entry.record.session()).collect();
        all.sort_by(|a, b| (a.info.created, &a.info.id).cmp(&(b.info.created, &b.info.id)));
        all
    }

    /// Starts a session. Goes on when the caller leaves.
    pub(crate) async fn start(
        self: &Arc<Self>,
        place: Place,
        request: SessionRequest,
        client: Client,
    ) -> Result<Session, SessionError> {
        let env = [&request.base_env, &request.env].into_iter().flatten();
        let env = env.map(|(name, value)| (name.clone(), value.clone())).collect();
        let exec = exec_request(&request.argv, request.cwd.as_deref(), env)?;
        let record = self.enter(&request)?;
        let turn = self.turn(&record.info.id).await?;
        let tries = Tries::of(None, request.wait_ms);
        self.launch(Remote { place, tries, client }, (record, turn), exec, None).await
    }

    /// Starts a session that has ended once more, where it is to be now. `old` is where it was, and `known` what was
    /// permitted: somebody may change it meanwhile.
    pub(crate) async fn start_again(
        self: &Arc<Self>,
        known: &Session,
        old: Option<Place>,
        new: Place,
        request: SessionStart,
        client: Client,
    ) -> Result<Session, SessionError> {
        let SessionStart { env, base_env } = request;
        let turn = self.turn(&known.info.id).await?;
        let mut record = {
            let entries = self.lock();
            find(&entries, &known.info.id)?.record.clone()
        };
        let (info, host, next) = (&record.info, &record.host, &record.next_host);
        if (info, host, next) != (&known.info, &known.host, &known.next_host) {
            return Err(match record.state {
                // Somebody was faster.
                SessionState::Running => SessionError::Running(record.info.name),
                _ => SessionError::Busy(record.info.name),
            });
        }
        let given = |name: &&String| !env.contains_key(*name);
        let missing: Vec<String> = record.info.env.iter().filter(given).cloned().collect();
        if !missing.is_empty() {
            return Err(SessionError::NoValues(missing));
        }
        record.info.env = env.keys().cloned().collect();
        let env = base_env.into_iter().chain(env).collect();
        let exec = exec_request(&record.info.argv, record.info.cwd.as_deref(), env)?;
        let (before, last) = (record.clone(), record.run());
        let to = record.next_host.take().unwrap_or_else(|| record.host.clone());
        // In its own place it replaces itself there, when it has started.
        let left = old.filter(|_| to != record.host);
        let left =
            left.map(|place| Remote { place, tries: Tries::default(), client: client.clone() });
        if let Some(left) = &left
            && let Some(told) = left.look(&record.info.id).await?
            && told.state == SessionState::Running
        {
            return Err(SessionError::Running(record.info.name));
        }
        let remote = Remote { place: new, tries: Tries::default(), client };
        let there = left.as_ref().unwrap_or(&remote);
        if record.state != SessionState::Ended
            && there
                .look(&record.info.id)
                .await?
                .is_none_or(|told| told.state == SessionState::Lost)
        {
            // What is left of its program would run beside the next one, and has its terminal.
            there.signal(&record.info.id, None).await?;
        }
        record.host = to;
        record.info.created = Timestamp::now();
        record.state = SessionState::Running;
        record.exit = None;
        record.read = [0; 2];
        self.put(&mut self.lock(), &record)?;
        let session = self.launch(remote, (record, turn), exec, Some(before)).await?;
        // Another name of the same machine has the new one there.
        if let Some(left) = left
            && let Err(error) = left.remove(&session.info.id, Some(&last)).await
        {
            tracing::warn!(%error, id = session.info.id, "what a session left behind stays");
        }
        Ok(session)
    }

    /// Waits until nobody else starts, ends or removes a session: each finds what the one before has left.
    async fn turn(&self, id: &str) -> Result<OwnedMutexGuard<()>, SessionError> {
        let (turn, name) = {
            let entries = self.lock();
            let entry = find(&entries, id)?;
            (Arc::clone(&entry.turn), entry.record.info.name.clone())
        };
        let taken = timeout(TURN, turn.lock_owned()).await;
        let taken = taken.map_err(|_| SessionError::Busy(name.clone()))?;
        let entries = self.lock();
        // It may have been removed by the one before.
        match find(&entries, id) {
            Ok(_) => Ok(taken),
            Err(_) => Err(names::not_found(&entries, &name)),
        }
    }

    /// Starts it on its host. `before` is what it was, and is again when it does not start.
    async fn launch(
        self: &Arc<Self>,
        remote: Remote,
        (record, turn): (Record, OwnedMutexGuard<()>),
        exec: ExecRequest,
        before: Option<Record>,
    ) -> Result<Session, SessionError> {
        let sessions = Arc::clone(self);
        let session = record.session();
        let run = record.run();
        let starting = self.tasks.spawn(async move {
            let run = record.run();
            let started = remote.start(&record.info, &exec, KEEP, before.is_some()).await;
            // One that may have been started is kept.
            let unknown = matches!(started, Ok(()) | Err(SessionError::LinkLost))
                || matches!(&started, Err(SessionError::Exec(error)) if may_have_run(error));
            sessions.started(&run);
            if !unknown {
                match before {
                    Some(before) => sessions.restore(&run, before)?,
                    None => {
                        sessions.note(&run, SessionState::Gone, None);
                        sessions.forget(&record.info.id)?;
                    }
                }
            }
            drop(turn);
            started
        });
        match starting.await {
            Ok(started) => started?,
            Err(error) => {
                self.started(&run);
                tracing::error!(%error, id = run.id, "a session's start ended early");
                return Err(SessionError::LinkLost);
            }
        }
        Ok(session)
    }

    /// Enters a session into the list, which is written before anything is started.
    fn enter(&self, request: &SessionRequest) -> Result<Record, SessionError> {
        let mut entries = self.lock();
        let name = match &request.name {
            Some(name) => {
                check(&entries, name, None)?;
                name.clone()
            }
            None => {
                let program = String::from_utf8_lossy(&request.argv[0].0).into_owned();
                free_name(&entries, &program)
            }
        };
        let id = loop {
            let id = format!("{:08x}", fastrand::u32(..));
            if find(&entries, &id).is_err() {
                break id;
            }
        };
        let info = SessionInfo {
            id,
            name,
            argv: request.argv.clone(),
            cwd: request.cwd.clone(),
            env: request.env.keys().cloned().collect(),
            tty: request.tty,
            forward_urls: request.forward_urls,
            created: Timestamp::now(),
            retries: request.retries,
        };
        let record = Record {
            info,
            host: request.host.clone(),
            next_host: None,
            state: SessionState::Running,
            exit: None,
            read: [0; 2],
        };
        self.put(&mut entries, &record)?;
        Ok(record)
    }

    /// Puts a session that is to be started into the list, which stays as it was where it cannot be written.
    fn put(
        &self,
        entries: &mut BTreeMap<String, Entry>,
        record: &Record,
    ) -> Result<(), SessionError> {
        let id = &record.info.id;
        let mut entry = Entry { starting: true, ..Entry::new(record.clone()) };
        if let Some(before) = entries.get(id) {
            entry.turn = Arc::clone(&before.turn);
        }
        let before = entries.insert(id.clone(), entry);
        let saved = self.save(entries);
        if saved.is_err() {
            match before {
                Some(before) => entries.insert(id.clone(), before),
                None => entries.remove(id),
            };
        }
        saved
    }

    /// Changes what a session's next start is.
    pub(crate) fn edit(&self, id: &str, edit: SessionEdit) -> Result<Session, SessionError> {
        let mut entries = self.lock();
        let mut record = find(&entries, id)?.record.clone();
        if let Some(name) = edit.name {
            check(&entries, &name, Some(&record.info.id))?;
            record.info.name = name;
        }
        if let Some(argv) = edit.argv {
            record.info.argv = argv;
        }
        record.info.cwd = edit.cwd.or(record.info.cwd);
        exec_request(&record.info.argv, record.info.cwd.as_deref(), BTreeMap::new())?;
        record.info.retries = edit.retries.or(record.info.retries);
        if let Some(host) = edit.host {
            record.next_host = Some(host).filter(|host| *host != record.host);
        }
        let (session, id) = (record.session(), record.info.id.clone());
        let mut swap = |entries: &mut BTreeMap<String, Entry>| {
            if let Some(entry) = entries.get_mut(&id) {
                std::mem::swap(&mut entry.record, &mut record);
            }
        };
        swap(&mut entries);
        if let Err(error) = self.save(&entries) {
            // The answer is that nothing was changed.
            swap(&mut entries);
            return Err(error);
        }
        Ok(session)
    }

    /// Forgets a session.
    pub(crate) fn forget(&self, id: &str) -> Result<(), SessionError> {
        let mut entries = self.lock();
        entries.remove(id);
        self.save(&entries)
    }
}

/// Returns a checked command.
fn exec_request(
    argv: &[occ_proto::exec::Bytes],
    cwd: Option<&str>,
    env: BTreeMap<String, String>,
) -> Result<ExecRequest, SessionError> {
    let request = ExecRequest {
        argv: argv.to_vec(),
        cwd: cwd.map(ToOwned::to_owned),
        env,
        ..ExecRequest::default()
    };
    Ok(Command::new(request)?.request().clone())
}

fn may_have_run(error: &crate::exec::ExecError) -> bool {
    use crate::exec::ExecError as E;
    matches!(error, E::LinkLost { .. } | E::OutputCut { .. } | E::NoExit | E::NoAnswer { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn request(name: Option<&str>) -> SessionRequest {
        SessionRequest {
            host: "h".parse().unwrap(),
            name: name.map(Into::into),
            argv: vec!["/usr/bin/codex".into(), "app-server".into()],
            cwd: None,
            base_env: BTreeMap::from([("PATH".into(), "/bin".into())]),
            env: BTreeMap::from([("TOKEN".into(), "secret".into())]),
            tty: false,
            forward_urls: false,
            retries: None,
            wait_ms: None,
            ask_ms: None,
        }
    }

    pub(super) fn sessions(dir: &Path) -> Sessions {
        Sessions::new(dir, Arc::default(), TaskTracker::new(), CancellationToken::new())
    }

    #[test]
    fn the_list_is_remembered_without_secrets_and_names_are_unique() {
        let dir = tempfile::tempdir().unwrap();
        let first = sessions(dir.path());
        let record = first.enter(&request(None)).unwrap();
        assert_eq!(record.info.name, "codex");
        assert_eq!(first.enter(&request(None)).unwrap().info.name, "codex-2");
        assert!(matches!(first.enter(&request(Some("codex"))), Err(SessionError::Taken(_))));
        assert!(matches!(first.enter(&request(Some("a b"))), Err(SessionError::BadName(_))));
        // A name that is another's ID would name both.
        let taken = first.enter(&request(Some(&record.info.id)));
        assert!(matches!(taken, Err(SessionError::Taken(_))));

        let file = std::fs::read_to_string(dir.path().join("sessions.json")).unwrap();
        assert!(file.contains("TOKEN") && !file.contains("secret"), "{file}");
        let again = sessions(dir.path());
        assert_eq!(again.known(), first.known());
        assert_eq!(again.host_of("codex-2").unwrap().1.as_str(), "h");
        let error = again.host_of("other").unwrap_err().to_string();
        assert!(error.contains("codex-2"), "{error}");
    }

    #[test]
    fn an_edit_is_for_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let sessions = sessions(dir.path());
        let id = sessions.enter(&request(Some("work"))).unwrap().info.id;
        let host = |name: &str| Some(name.parse::<SessionHost>().unwrap());
        let edit = SessionEdit { host: host("h2"), name: Some("job".into()), ..Default::default() };
        let session = sessions.edit("work", edit).unwrap();
        assert_eq!((session.host, session.next_host), (host("h").unwrap(), host("h2")));
        assert_eq!(sessions.host_of("job").unwrap(), (id.clone(), host("h").unwrap()));
        let edit = SessionEdit { host: host("h"), ..Default::default() };
        assert_eq!(sessions.edit(&id, edit).unwrap().next_host, None);
        let empty = SessionEdit { argv: Some(vec![]), ..Default::default() };
        assert!(matches!(sessions.edit(&id, empty), Err(SessionError::BadCommand(_))));
    }

    #[tokio::test]
    async fn what_was_changed_since_it_was_permitted_is_not_started() {
        let dir = tempfile::tempdir().unwrap();
        let sessions = Arc::new(sessions(dir.path()));
        let run = sessions.enter(&request(Some("work"))).unwrap().run();
        sessions.started(&run);
        sessions.note(&run, SessionState::Ended, Some(3));
        let permitted = sessions.known().remove(0);
        let turn = sessions.turn("work").await.unwrap();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let local = crate::exec::Local::new(dir.path().to_owned(), tasks, stop);
        let place = Place::new(crate::exec::Executor::Local(Arc::new(local)));
        let env = BTreeMap::from([("TOKEN".to_owned(), "secret".to_owned())]);
        let start = SessionStart { env, base_env: BTreeMap::new() };
        let starting = sessions.start_again(&permitted, None, place, start, Client::default());
        let changing = async {
            let argv = Some(vec!["/bin/rm".into()]);
            sessions.edit("work", SessionEdit { argv, ..Default::default() }).unwrap();
            drop(turn);
        };
        let (started, ()) = tokio::join!(starting, changing);
        assert!(matches!(started, Err(SessionError::Busy(_))), "{started:?}");
    }

    #[tokio::test]
    async fn a_start_that_cannot_be_noted_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let sessions = Arc::new(sessions(&state));
        let run = sessions.enter(&request(Some("work"))).unwrap().run();
        sessions.started(&run);
        sessions.note(&run, SessionState::Ended, Some(3));
        let before = sessions.known();
        std::fs::remove_dir_all(&state).unwrap();
        std::fs::write(&state, "in the way").unwrap();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let local = crate::exec::Local::new(dir.path().to_owned(), tasks, stop);
        let place = Place::new(crate::exec::Executor::Local(Arc::new(local)));
        let env = BTreeMap::from([("TOKEN".to_owned(), "secret".to_owned())]);
        let start = SessionStart { env, base_env: BTreeMap::new() };
        let started = sessions.start_again(&before[0], None, place, start, Client::default()).await;
        assert!(matches!(started, Err(SessionError::Store(_))), "{started:?}");
        assert_eq!(sessions.known(), before);
    }
}
