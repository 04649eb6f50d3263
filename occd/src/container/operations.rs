//! Work that goes on without its client: what runs, what is told of it, what came of it.
//!
//! One at a time on each engine: two that start and update the same sandbox would undo each other.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use jiff::Timestamp;
use occ_proto::HostName;
use occ_proto::operation::{OperationKind, OperationState, Outcome, PullProgress};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Engine, SandboxError};
use crate::events::{Changes, Topic};

/// Operations that have ended and are kept for whoever asks later.
const KEPT: usize = 100;
/// Events of one operation that are kept. What a program says comes without end.
const EVENTS: usize = 2000;

/// The operations of a daemon.
#[derive(Debug)]
pub struct Operations {
    /// The oldest first.
    all: Mutex<VecDeque<Arc<Running>>>,
    changes: Arc<Changes>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Something that happens in an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The next step.
    Step(String),
    /// How much of an image is there.
    Pull(PullProgress),
    /// What a program says.
    Output(String),
    /// What a person should know.
    Note(String),
}

/// An operation, which goes on or has ended.
#[derive(Debug)]
pub struct Running {
    /// Its name.
    pub id: String,
    /// What it does.
    pub kind: OperationKind,
    /// Where.
    pub engine: Engine,
    /// When it began.
    pub started_at: Timestamp,
    cancel: CancellationToken,
    log: watch::Sender<Log>,
    changes: Arc<Changes>,
}

/// What has happened so far.
#[derive(Debug, Default)]
struct Log {
    events: VecDeque<(u64, Event)>,
    next: u64,
    end: Option<Arc<End>>,
}

/// How an operation ended.
#[derive(Debug)]
pub struct End {
    /// When.
    pub at: Timestamp,
    /// What came of it.
    pub result: Result<Outcome, SandboxError>,
}

/// Why an operation does not begin.
#[derive(Debug)]
pub enum NotBegun {
    /// Another one is at work there.
    Busy(Arc<Running>),
    /// The daemon stops.
    Stopping,
}

/// What the work itself has of its operation.
#[derive(Debug, Clone)]
pub struct Progress(Arc<Running>);

impl Operations {
    /// Returns a list of nothing. What is in it is cancelled with `stop`.
    pub fn new(changes: Arc<Changes>, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { all: Mutex::default(), changes, tasks, stop }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Running>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an operation on an engine.
    ///
    /// # Errors
    /// When another one is at work there, or the daemon stops.
    pub fn begin<F>(
        &self,
        kind: OperationKind,
        engine: Engine,
        work: impl FnOnce(Progress) -> F,
    ) -> Result<Arc<Running>, NotBegun>
    where
        F: Future<Output = Result<Outcome, SandboxError>> + Send + 'static,
    {
        if self.stop.is_cancelled() {
            return Err(NotBegun::Stopping);
        }
        let mut all = self.lock();
        let busy = all.iter().find(|other| other.engine.is_same(&engine) && other.end().is_none());
        if let Some(busy) = busy {
            return Err(NotBegun::Busy(Arc::clone(busy)));
        }
        let running = Arc::new(Running {
            id: format!("{:08x}", fastrand::u32(..)),
            kind,
            engine,
            started_at: Timestamp::now(),
            cancel: self.stop.child_token(),
            log: watch::Sender::default(),
            changes: Arc::clone(&self.changes),
        });
        all.push_back(Arc::clone(&running));
        let mut ended = all.iter().filter(|other| other.end().is_some()).count();
        all.retain(|other| {
            let forget = ended > KEPT && other.end().is_some();
            ended -= usize::from(forget);
            !forget
        });
        drop(all);
        self.changes.touch(Topic::Operations);
        let work = work(Progress(Arc::clone(&running)));
        let (kind, place) = (kind.as_str(), running.engine.name().to_owned());
        tracing::info!(id = running.id, kind, place, "an operation begins");
        self.tasks.spawn({
            let running = Arc::clone(&running);
            async move {
                // A panic is a defect of ours. It fails this operation, and costs nobody else anything.
                let work = AssertUnwindSafe(work).catch_unwind();
                let result = work.await.unwrap_or(Err(SandboxError::Defect));
                match &result {
                    Ok(outcome) => tracing::info!(id = running.id, did = ?outcome.did, "done"),
                    Err(error) => {
                        let error = error.for_log();
                        tracing::warn!(id = running.id, kind, place, error, "an operation failed");
                    }
                }
                let end = Arc::new(End { at: Timestamp::now(), result });
                running.log.send_modify(|log| log.end = Some(end));
                running.changes.touch(Topic::Operations);
            }
        });
        Ok(running)
    }

    /// Returns what is at work on an engine.
    pub fn at_work(&self, engine: &Engine) -> Option<Arc<Running>> {
        let is_it = |other: &&Arc<Running>| other.engine.is_same(engine) && other.end().is_none();
        self.lock().iter().find(is_it).cloned()
    }

    /// Returns whether something is at work there; `None` is this machine.
    pub fn is_at_work(&self, host: Option<&HostName>) -> bool {
        self.lock().iter().any(|other| other.engine.host() == host && other.end().is_none())
    }

    /// Returns the operations, the newest first.
    pub fn list(&self) -> Vec<Arc<Running>> {
        self.lock().iter().rev().cloned().collect()
    }

    /// Returns an operation by its name.
    pub fn get(&self, id: &str) -> Option<Arc<Running>> {
        self.lock().iter().find(|running| running.id == id).cloned()
    }
}

impl Running {
    /// Returns how it ended, if it has.
    pub fn end(&self) -> Option<Arc<End>> {
        self.log.borrow().end.clone()
    }

    /// Returns how far it is.
    pub fn state(&self) -> OperationState {
        match self.end().as_deref() {
            None => OperationState::Running,
            Some(End { result: Ok(_), .. }) => OperationState::Succeeded,
            Some(End { result: Err(SandboxError::Cancelled { .. }), .. }) => {
                OperationState::Cancelled
            }
            Some(End { result: Err(_), .. }) => OperationState::Failed,
        }
    }

    /// Returns what it does at the moment, or did last.
    pub fn step(&self) -> String {
        let log = self.log.borrow();
        let steps = log.events.iter().rev().filter_map(|(_, event)| match event {
            Event::Step(text) => Some(text.clone()),
            _ => None,
        });
        steps.take(1).next().unwrap_or_default()
    }

    /// Has it end and leave nothing half made behind.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Waits for events from number `next` on, or for the end. Returns the events, the next number, and whether there
    /// will be no more.
    pub async fn events(&self, next: u64) -> (Vec<Event>, u64, bool) {
        let mut changes = self.log.subscribe();
        loop {
            {
                let log = changes.borrow_and_update();
                let new: Vec<Event> = log
                    .events
                    .iter()
                    .filter(|(number, _)| *number >= next)
                    .map(|(_, event)| event.clone())
                    .collect();
                if !new.is_empty() || log.end.is_some() {
                    return (new, log.next, log.end.is_some());
                }
            }
            // The sender is ours.
            let _ = changes.changed().await;
        }
    }

    fn tell(&self, event: Event) {
        let is_step = matches!(event, Event::Step(_));
        self.log.send_modify(|log| {
            // Only the last word about an image counts.
            if matches!(event, Event::Pull(_)) {
                log.events.retain(|(_, other)| !matches!(other, Event::Pull(_)));
            }
            if log.events.len() == EVENTS {
                log.events.pop_front();
            }
            log.events.push_back((log.next, event));
            log.next += 1;
        });
        if is_step {
            self.changes.touch(Topic::Operations);
        }
    }
}

impl Progress {
    /// Tells of the next step.
    pub fn step(&self, text: impl Into<String>) {
        self.0.tell(Event::Step(text.into()));
    }

    /// Tells how much of an image is there.
    pub fn pull(&self, progress: PullProgress) {
        self.0.tell(Event::Pull(progress));
    }

    /// Tells what a program says.
    pub fn output(&self, text: impl Into<String>) {
        self.0.tell(Event::Output(text.into()));
    }

    /// Tells what a person should know.
    pub fn note(&self, text: impl Into<String>) {
        self.0.tell(Event::Note(text.into()));
    }

    /// Returns the token that is cancelled when the operation is to end.
    pub fn cancelled(&self) -> &CancellationToken {
        &self.0.cancel
    }
}

#[cfg(test)]
mod tests {
    use occ_proto::operation::Did;

    use super::*;
    use crate::container::LocalEngine;

    fn engine(name: &str) -> Engine {
        Engine::Local(Arc::new(LocalEngine::at(name.into(), TaskTracker::new())))
    }

    fn outcome(did: Did) -> Outcome {
        Outcome { did, sandbox: None, url: None, docker_version: None, notes: Vec::new() }
    }

    #[tokio::test]
    async fn one_at_a_time_and_readable_after_its_end() {
        let operations =
            Operations::new(Arc::default(), TaskTracker::new(), CancellationToken::new());
        let (go, went) = tokio::sync::oneshot::channel::<()>();
        let first = operations
            .begin(OperationKind::Start, engine("/a"), |progress| async move {
                progress.step("waiting");
                let _ = went.await;
                Ok(outcome(Did::Started))
            })
            .unwrap();
        let (events, next, ended) = first.events(0).await;
        assert_eq!((events, ended), (vec![Event::Step("waiting".into())], false));
        let second = operations
            .begin(OperationKind::Stop, engine("/a"), async |_| Ok(outcome(Did::Stopped)));
        assert!(matches!(second, Err(NotBegun::Busy(busy)) if busy.id == first.id));
        go.send(()).unwrap();
        assert_eq!(first.events(next).await, (vec![], 1, true));
        assert_eq!(first.state(), OperationState::Succeeded);
        assert_eq!(operations.get(&first.id).unwrap().step(), "waiting");
        assert!(
            operations
                .begin(OperationKind::Stop, engine("/a"), async |_| Ok(outcome(Did::Stopped)))
                .is_ok()
        );
    }

    #[tokio::test]
    async fn what_is_told_is_bounded_and_an_image_has_one_word() {
        let operations =
            Operations::new(Arc::default(), TaskTracker::new(), CancellationToken::new());
        let running = operations
            .begin(OperationKind::Update, engine("/a"), |progress| async move {
                for bytes in 0..10 {
                    progress.pull(PullProgress { bytes, ..PullProgress::default() });
                }
                (0..3 * EVENTS).for_each(|line| progress.output(line.to_string()));
                progress.cancelled().cancelled().await;
                Err(SandboxError::Cancelled { undone: true })
            })
            .unwrap();
        running.cancel();
        while running.end().is_none() {
            tokio::task::yield_now().await;
        }
        let (events, _, ended) = running.events(0).await;
        assert!(ended);
        assert_eq!(events.len(), EVENTS);
        assert_eq!(events.last(), Some(&Event::Output((3 * EVENTS - 1).to_string())));
        assert_eq!(running.state(), OperationState::Cancelled);
    }

    #[tokio::test]
    async fn a_panic_is_an_end_and_the_next_one_may_begin() {
        let operations =
            Operations::new(Arc::default(), TaskTracker::new(), CancellationToken::new());
        let running = operations
            .begin(OperationKind::Start, engine("/a"), async |_| panic!("a defect"))
            .unwrap();
        let told = tokio::time::timeout(std::time::Duration::from_secs(30), running.events(0));
        assert_eq!(told.await.unwrap(), (vec![], 0, true));
        assert_eq!(running.state(), OperationState::Failed);
        let next = operations
            .begin(OperationKind::Stop, engine("/a"), async |_| Ok(outcome(Did::Stopped)));
        assert!(next.is_ok());
    }
}
