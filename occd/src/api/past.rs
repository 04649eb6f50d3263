//! What came of operations, kept over the daemon's end: `operations.json` in the state directory. One that was not at
//! its end is shown as interrupted. Losing the file loses nothing else.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::StatusCode;
use occ_proto::Code;
use occ_proto::operation::{Operation, OperationState};

use super::App;
use super::error::ApiError;
use super::operations;
use crate::container::{Event, Running};
use crate::state_file;

/// Operations in the file.
const KEPT: usize = 50;

/// The operations of the daemons before this one, and the file.
#[derive(Debug)]
pub struct PastOperations {
    file: PathBuf,
    /// The newest first.
    before: Vec<Operation>,
    /// One writer at a time, so that the file ends with the newest.
    writing: Mutex<()>,
}

impl PastOperations {
    /// Reads the file in the state directory. One that is missing or damaged says nothing.
    pub fn load(state: &Path) -> Self {
        let file = state.join("operations.json");
        let mut before: Vec<Operation> =
            state_file::load(&file, "earlier operations are forgotten");
        before.iter_mut().for_each(interrupted);
        Self { file, before, writing: Mutex::default() }
    }

    /// Returns them, the newest first.
    pub(super) fn list(&self) -> &[Operation] {
        &self.before
    }

    fn save(&self, now: impl FnOnce() -> Vec<Operation>) {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = now();
        all.extend(self.before.iter().cloned());
        all.truncate(KEPT);
        if let Err(error) = state_file::save(&self.file, &all) {
            tracing::warn!(file = %self.file.display(), %error, "not written");
        }
    }
}

/// Says of an operation that was not at its end that it is over.
fn interrupted(operation: &mut Operation) {
    if operation.state != OperationState::Running {
        return;
    }
    let place = operation.host.as_ref().map_or("local", |host| host.as_str());
    let step = match operation.step.as_str() {
        "" => String::new(),
        step => format!(" ({step})"),
    };
    let detail = format!("{place}: interrupted: occd ended in the middle of it{step}.");
    let problem = ApiError::new(StatusCode::BAD_GATEWAY, Code::OutcomeUnknown, detail);
    let problem = match &operation.host {
        Some(host) => problem.host(host),
        None => problem,
    };
    operation.state = OperationState::Interrupted;
    operation.problem = Some(problem.into_problem());
}

impl App {
    /// Keeps what becomes of an operation in the file.
    pub(super) fn remember(self: &Arc<Self>, running: &Arc<Running>) {
        let save = |app: &Self| {
            let now = || app.operations.list().iter().map(|other| operations::of(other)).collect();
            app.past.save(now);
        };
        save(self);
        let (app, running) = (Arc::clone(self), Arc::clone(running));
        self.tasks.spawn(async move {
            let mut next = 0;
            loop {
                let (events, then, ended) = running.events(next).await;
                if ended || events.iter().any(|event| matches!(event, Event::Step(_))) {
                    save(&app);
                }
                if ended {
                    return;
                }
                next = then;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use occ_proto::operation::OperationKind;

    fn operation(id: usize, state: OperationState) -> Operation {
        Operation {
            id: id.to_string(),
            kind: OperationKind::Update,
            host: None,
            state,
            started_at: Timestamp::now(),
            ended_at: None,
            step: "pulling x".into(),
            outcome: None,
            problem: None,
        }
    }

    #[test]
    fn the_file_is_bounded_and_says_what_was_cut_short() {
        let dir = tempfile::tempdir().unwrap();
        let all = |now: usize| {
            let past = PastOperations::load(dir.path());
            past.save(|| {
                let mut all: Vec<_> =
                    (0..now).map(|id| operation(id, OperationState::Succeeded)).collect();
                all.insert(0, operation(1000, OperationState::Running));
                all
            });
            PastOperations::load(dir.path()).before
        };
        let one = all(0);
        assert_eq!(one[0].state, OperationState::Interrupted);
        let detail = &one[0].problem.as_ref().unwrap().detail;
        assert_eq!(detail, "local: interrupted: occd ended in the middle of it (pulling x).");
        assert_eq!(all(1).len(), 3);
        assert_eq!(all(2 * KEPT).len(), KEPT);
        std::fs::write(dir.path().join("operations.json"), "{").unwrap();
        assert!(PastOperations::load(dir.path()).before.is_empty());
    }
}
