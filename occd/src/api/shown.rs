//! What is left out of what is known for those who may not know all: on the read-only socket, through a grant, and of Docker.
//! The words of a command may be secret, and so may questions, which quote commands and servers, and what a program has said.

use occ_proto::Problem;
use occ_proto::event::{Change, Event, Snapshot};
use occ_proto::forward::{Forward, ForwardList};
use occ_proto::history::History;
use occ_proto::operation::Operation;
use occ_proto::prompt::{Prompt, PromptKind};
use occ_proto::session::Session;
use occ_proto::status::{HostList, HostStatus};

use crate::policy::Asker;

/// What has parts that not everybody sees.
pub(super) trait Shown {
    /// Takes those out.
    fn hide(&mut self);

    /// Returns whether somebody does not see them. What else comes through a grant is of those who have it.
    fn is_hidden_from(asker: &Asker) -> bool {
        asker.only_looks
    }

    /// Returns what somebody sees.
    fn to(mut self, asker: &Asker) -> Self
    where
        Self: Sized,
    {
        if Self::is_hidden_from(asker) {
            self.hide();
        }
        self
    }
}

impl<T: Shown> Shown for [T] {
    fn hide(&mut self) {
        self.iter_mut().for_each(T::hide);
    }
}

impl<T: Shown> Shown for Vec<T> {
    fn hide(&mut self) {
        self.as_mut_slice().hide();
    }
}

impl<T: Shown> Shown for Box<T> {
    fn hide(&mut self) {
        (**self).hide();
    }

    fn is_hidden_from(asker: &Asker) -> bool {
        T::is_hidden_from(asker)
    }
}

impl<T: Shown> Shown for Option<T> {
    fn hide(&mut self) {
        if let Some(inner) = self {
            inner.hide();
        }
    }
}

impl Shown for Session {
    /// The program stays, and the names of variables.
    fn hide(&mut self) {
        self.info.argv.truncate(1);
    }
}

impl Shown for Prompt {
    /// Its kind and its host stay.
    fn hide(&mut self) {
        self.message = match self.kind {
            PromptKind::Passphrase => "A passphrase is asked for.",
            PromptKind::Password => "A password is asked for.",
            PromptKind::Code => "The server asks something.",
            PromptKind::HostKey => "Is the server's key to be trusted?",
            PromptKind::Keep => "Is the password to be kept?",
            PromptKind::Notice => "A person is waited for.",
            PromptKind::Approval => "Is something to be done?",
            PromptKind::Unknown => "Something is asked.",
        }
        .to_owned();
        self.note = None;
    }
}

impl Shown for Problem {
    /// What is wrong with a dial names keys and files of this machine, and quotes programs and servers.
    fn hide(&mut self) {
        if self.phase.is_some() {
            kind_alone(self);
        }
    }

    fn is_hidden_from(asker: &Asker) -> bool {
        asker.sees_less()
    }
}

/// Leaves of a problem its kind and its host.
fn kind_alone(problem: &mut Problem) {
    let of = problem.host.as_ref().map_or_else(String::new, |host| format!("{host}: "));
    problem.detail = format!("{of}{}.", problem.code.as_str().replace('_', " "));
    problem.causes.clear();
}

impl Shown for HostStatus {
    fn hide(&mut self) {
        if let Some(question) = &mut self.question {
            "A question waits for a person.".clone_into(question);
        }
        if let Some(error) = &mut self.last_error {
            // Which names keys, and quotes programs and servers. The code says what it is about.
            error.message = error.code.as_str().replace('_', " ");
        }
        if let Some(error) = &mut self.docker_error {
            error.message = error.code.as_str().replace('_', " ");
        }
        // Where a key is helps nobody who may not use it, but whoever is after it.
        self.config.identity_file = None;
        if let Some(connection) = &mut self.connection {
            let method = connection.auth.split(' ').next().unwrap_or_default();
            connection.auth = method.to_owned();
            connection.agent = None;
        }
    }

    fn is_hidden_from(asker: &Asker) -> bool {
        asker.sees_less()
    }
}

impl Shown for History {
    /// The codes stay.
    fn hide(&mut self) {
        self.changes.iter_mut().for_each(|change| change.message = None);
    }
}

impl Shown for HostList {
    fn hide(&mut self) {
        self.hosts.hide();
        self.via.hide();
    }
}

impl Shown for Operation {
    /// What Docker and programs have said is in the problem.
    fn hide(&mut self) {
        if let Some(problem) = &mut self.problem {
            kind_alone(problem);
        }
    }
}

impl Shown for Forward {
    /// What is wrong quotes servers, and names programs of this machine. The state stays.
    fn hide(&mut self) {
        if let Some(error) = &mut self.last_error {
            "occ forward list tells its owner what is wrong".clone_into(error);
        }
    }
}

impl Shown for ForwardList {
    fn hide(&mut self) {
        self.forwards.hide();
    }
}

impl Shown for Snapshot {
    fn hide(&mut self) {
        self.hosts.hide();
        self.sessions.hide();
        self.prompts.hide();
        self.operations.hide();
        self.forwards.hide();
    }
}

impl Shown for Event {
    fn hide(&mut self) {
        match &mut self.change {
            Change::Snapshot(snapshot) => snapshot.hide(),
            Change::Host { status, .. } => status.hide(),
            Change::Session { session, .. } => session.hide(),
            Change::Prompt { prompt, .. } => prompt.hide(),
            Change::Operation { operation, .. } => operation.hide(),
            Change::Forward { forward, .. } => forward.hide(),
            // They have neither.
            Change::Gap { .. } | Change::Container { .. } | Change::Unknown => {}
        }
    }
}

/// What those who only look are told of what is wrong with the files.
const LOOKED_AT: &str = "something is wrong with the settings: occ doctor tells their owner what";

/// Returns what makes of the warnings about the files what somebody may know of them. They quote the files, and name other
/// hosts: they are for whoever may mend them.
pub(super) fn warnings(asker: &Asker) -> fn(Vec<String>) -> Vec<String> {
    match (&asker.grant, asker.only_looks) {
        (Some(_), _) => |_| Vec::new(),
        (None, true) => |all| all.first().map(|_| LOOKED_AT.to_owned()).into_iter().collect(),
        (None, false) => |all| all,
    }
}

/// Takes out of an event what Docker tells: there is nothing then, as where nothing is known.
pub(super) fn without_docker(mut event: Event) -> Event {
    match &mut event.change {
        Change::Host { status: Some(status), .. } => {
            (status.sandbox, status.docker_error) = (None, None);
        }
        Change::Container { container, .. } => *container = None,
        _ => {}
    }
    event
}

#[cfg(test)]
mod tests {
    use serde::Serialize;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;

    /// Checks that what is secret in a document is for whoever may act, and for nobody who only looks.
    fn masked<T: Shown + Serialize + DeserializeOwned>(document: &Value) {
        let told = |only_looks| {
            let value: T = serde_json::from_value(document.clone()).unwrap();
            let asker = Asker { only_looks, ..Asker::default() };
            serde_json::to_string(&value.to(&asker)).unwrap()
        };
        assert!(told(false).contains("SECRET"), "{document}");
        assert!(!told(true).contains("SECRET"), "{}", told(true));
    }

    #[test]
    fn words_of_commands_questions_and_programs_are_for_those_who_may_act() {
        const AT: &str = "2026-01-01T00:00:00Z";
        let host = json!({
            "name": "h", "state": "connecting", "status": "disconnected", "since": AT, "attempt": 1, "next_retry_at": null,
            "last_error": { "code": "auth_failed", "phase": "authentication", "message": "SECRET", "at": AT, "retryable": false },
            "question": "SECRET?", "rtt_ms": null, "connections": 0, "open_channels": 0,
            "docker_error": { "code": "docker_error", "message": "SECRET", "at": AT },
            "config": { "hostname": "h", "identity_file": "~/SECRET" }, "revision": 1,
        });
        let prompt = json!({
            "id": 1, "kind": "code", "message": "SECRET: ", "note": "SECRET", "secret": true, "at": AT, "expires_at": AT,
        });
        let problem = json!({
            "type": "about:blank", "title": "t", "status": 500, "code": "internal", "detail": "SECRET", "retriable": false,
            "causes": ["SECRET"],
        });
        let operation = json!({
            "id": "o", "kind": "start", "state": "failed", "started_at": AT, "problem": problem,
        });
        masked::<HostStatus>(&host);
        masked::<History>(&json!({
            "name": "h", "since": AT, "up_s": 0, "down_s": 1, "rtt_ms": null,
            "changes": [{ "at": AT, "link": "failed", "code": "auth_failed", "message": "SECRET" }],
        }));
        let forward = json!({
            "id": "f", "host": "h", "direction": "local", "listen": "127.0.0.1:1", "to": "h:2", "state": "refused",
            "last_error": "SECRET", "connections": 0, "connections_total": 0, "bytes_in": 0, "bytes_out": 0,
        });
        masked::<Forward>(&forward);
        masked::<ForwardList>(&json!({ "forwards": [forward] }));
        masked::<Prompt>(&prompt);
        masked::<Operation>(&operation);
        masked::<HostList>(
            &json!({ "revision": 1, "hosts": [host], "via": [], "default_host": null, "warnings": [] }),
        );
        masked::<HostList>(
            &json!({ "revision": 1, "hosts": [], "via": [host], "default_host": null, "warnings": [] }),
        );
        for part in [
            json!({ "hosts": [host] }),
            json!({ "prompts": [prompt] }),
            json!({ "operations": [operation] }),
            json!({ "forwards": [forward] }),
        ] {
            masked::<Snapshot>(&part);
        }
        for change in [
            json!({ "event": "host", "host": "h", "status": host }),
            json!({ "event": "prompt", "prompt_id": 1, "prompt": prompt }),
            json!({ "event": "operation", "operation_id": "o", "operation": operation }),
            json!({ "event": "forward", "forward_id": "f", "host": "h", "forward": forward }),
            json!({ "event": "snapshot", "hosts": [host] }),
        ] {
            let mut event = json!({ "id": "a-1", "at": AT });
            event.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            masked::<Event>(&event);
        }
    }
}
