//! Looks at what has changed, and tells what is new in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use occ_proto::HostName;
use occ_proto::container::ContainerStatus;
use occ_proto::event::{Change, EventKind};
use occ_proto::forward::Forward;
use occ_proto::operation::Operation;
use occ_proto::prompt::Prompt;
use occ_proto::session::Session;
use occ_proto::status::DockerFault;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::App;
use crate::events::Topic;

/// What was told of last.
#[derive(Debug, Default)]
struct Last {
    containers: BTreeMap<HostName, ContainerStatus>,
    docker_faults: BTreeMap<HostName, DockerFault>,
    forwards: BTreeMap<String, Forward>,
    sessions: BTreeMap<String, Session>,
    prompts: BTreeMap<u64, Prompt>,
    operations: BTreeMap<String, Operation>,
}

/// Tells of every change until `stop` is cancelled.
pub async fn publish(app: Arc<App>, stop: CancellationToken) {
    let prompts = Arc::clone(&app.pool.context().dial.prompts);
    let (mut changes, mut questions) = (app.changes.watch(), prompts.changes());
    let mut last = Last::default();
    // What there is already is in every snapshot, and no news.
    app.changes.take();
    last.forwards(&app, false);
    last.sessions(&app, false);
    last.operations(&app, false);
    loop {
        changes.borrow_and_update();
        for topic in app.changes.take() {
            match topic {
                Topic::Host(host) => last.host(&app, host),
                Topic::Container(host) => last.container(&app, host),
                Topic::Forwards => last.forwards(&app, true),
                Topic::Sessions => last.sessions(&app, true),
                Topic::Operations => last.operations(&app, true),
                Topic::Files => {}
            }
        }
        questions.borrow_and_update();
        last.prompts(&app);
        let for_all = prompts.next_for_all();
        let later = async {
            match for_all {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
            changed = questions.changed() => if changed.is_err() { return },
            () = later => {}
        }
    }
}

impl Last {
    fn host(&mut self, app: &App, host: HostName) {
        let status = app.pool.get(&host).map(|host| Box::new(app.with_sandbox(host.status())));
        let is_gone = status.is_none();
        self.is_other_fault(&host, status.as_ref().and_then(|status| status.docker_error.clone()));
        let change = Change::Host { host: host.clone(), status };
        app.events.tell(EventKind::Host, Some(host.clone()), change);
        if is_gone {
            self.container(app, host);
        }
    }

    /// Notes what keeps a host's Docker from being asked, and returns whether that is another than the last time.
    fn is_other_fault(&mut self, host: &HostName, now: Option<DockerFault>) -> bool {
        let before = match now.clone() {
            Some(now) => self.docker_faults.insert(host.clone(), now),
            None => self.docker_faults.remove(host),
        };
        before != now
    }

    fn container(&mut self, app: &App, host: HostName) {
        // It is part of the host, as its own resource shows it.
        let status = app.pool.get(&host).map(|host| app.with_sandbox(host.status()));
        if let Some(status) = status
            && self.is_other_fault(&host, status.docker_error.clone())
        {
            let change = Change::Host { host: host.clone(), status: Some(Box::new(status)) };
            app.events.tell(EventKind::Host, Some(host.clone()), change);
        }
        let known = app.pool.get(&host).and_then(|_| app.sandboxes.known(&host).status());
        let known = known.map(|container| app.with_url(&host, container));
        // Its age is no news.
        let at_no_time = |container: &ContainerStatus| ContainerStatus {
            as_of: Timestamp::UNIX_EPOCH,
            ..container.clone()
        };
        let now = known.as_ref().map(at_no_time);
        let before = match now.clone() {
            Some(now) => self.containers.insert(host.clone(), now),
            None => self.containers.remove(&host),
        };
        if before != now {
            let change = Change::Container { host: host.clone(), container: known.map(Box::new) };
            app.events.tell(EventKind::Container, Some(host), change);
        }
    }

    fn forwards(&mut self, app: &App, is_news: bool) {
        let all = app.forwards.list().into_iter();
        // What goes through it is no news.
        let quiet = |forward: Forward| Forward {
            connections: 0,
            connections_total: 0,
            bytes_in: 0,
            bytes_out: 0,
            ..forward
        };
        let now = all.map(|forward| (forward.id.clone(), quiet(forward))).collect();
        let tell = |id: &String, before: Option<&Forward>, now: Option<&Forward>| {
            let Some(of) = now.or(before) else { return };
            let (forward_id, host) = (id.clone(), of.host.clone());
            let forward = now.cloned().map(Box::new);
            let change = Change::Forward { forward_id, host: host.clone(), forward };
            app.events.tell(EventKind::Forward, Some(host), change);
        };
        differ(&mut self.forwards, now, is_news, tell);
    }

    fn sessions(&mut self, app: &App, is_news: bool) {
        let all = app.sessions.known().into_iter();
        let now = all.map(|session| (session.info.id.clone(), session)).collect();
        let tell = |id: &String, before: Option<&Session>, now: Option<&Session>| {
            let host = now.or(before).and_then(|session| session.host.host().cloned());
            let (session_id, session) = (id.clone(), now.cloned().map(Box::new));
            let change = Change::Session { session_id, host: host.clone(), session };
            app.events.tell(EventKind::Session, host, change);
        };
        differ(&mut self.sessions, now, is_news, tell);
    }

    fn prompts(&mut self, app: &App) {
        let all = app.pool.context().dial.prompts.visible(None).into_iter();
        let now = all.map(|prompt| (prompt.id, prompt)).collect();
        let tell = |id: &u64, before: Option<&Prompt>, now: Option<&Prompt>| {
            let host = now.or(before).and_then(|prompt| prompt.host.clone());
            let prompt = now.cloned().map(Box::new);
            let change = Change::Prompt { prompt_id: *id, host: host.clone(), prompt };
            app.events.tell(EventKind::Prompt, host, change);
        };
        differ(&mut self.prompts, now, true, tell);
    }

    fn operations(&mut self, app: &App, is_news: bool) {
        let all = app.all_operations().into_iter();
        let now = all.map(|operation| (operation.id.clone(), operation)).collect();
        let tell = |id: &String, before: Option<&Operation>, now: Option<&Operation>| {
            let host = now.or(before).and_then(|operation| operation.host.clone());
            let (operation_id, operation) = (id.clone(), now.cloned().map(Box::new));
            let change = Change::Operation { operation_id, host: host.clone(), operation };
            app.events.tell(EventKind::Operation, host, change);
        };
        differ(&mut self.operations, now, is_news, tell);
    }
}

/// Calls `tell` for what is new, has changed or is no more.
fn differ<K: Ord, T: PartialEq>(
    last: &mut BTreeMap<K, T>,
    now: BTreeMap<K, T>,
    is_news: bool,
    tell: impl Fn(&K, Option<&T>, Option<&T>),
) {
    let before = std::mem::replace(last, now);
    if !is_news {
        return;
    }
    for (id, gone) in before.iter().filter(|(id, _)| !last.contains_key(id)) {
        tell(id, Some(gone), None);
    }
    for (id, now) in last.iter().filter(|(id, now)| before.get(id) != Some(now)) {
        tell(id, before.get(id), Some(now));
    }
}
