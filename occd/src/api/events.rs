//! `GET /v1/events`: what changes, as server-sent events or as lines of JSON.

use std::borrow::Cow;
use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::str::FromStr;
use std::sync::Arc;

use axum::body::Body as HttpBody;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream;
use occ_proto::HostName;
use occ_proto::event::{Change, Event, EventKind, HostContainer, Snapshot};
use occ_proto::exec::NDJSON;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep_until};

use super::error::{ApiError, ApiResult};
use super::exec::wants_lines;
use super::extract::Query;
use super::params::LastEvent;
use super::problems::OfHost;
use super::shown::{Shown as _, without_docker};
use super::{App, HEARTBEAT, SSE};
use crate::events::{Lost, Told};
use crate::policy::Asker;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct EventsQuery {
    /// Only what concerns these hosts, by comma.
    host: Option<String>,
    /// Only these kinds, by comma.
    kind: Option<String>,
    /// The last event that was seen; the header Last-Event-ID counts before it.
    after: Option<String>,
}

/// What a client wants to hear of.
#[derive(Debug)]
pub(super) struct Filter {
    /// None named: all.
    hosts: BTreeSet<HostName>,
    kinds: BTreeSet<EventKind>,
}

impl Filter {
    fn of(query: &EventsQuery) -> ApiResult<Self> {
        let hosts = list(query.host.as_deref())?;
        let mut kinds = list(query.kind.as_deref())?;
        if kinds.is_empty() {
            kinds.extend(EventKind::ALL);
        }
        Ok(Self { hosts, kinds })
    }

    fn is_about(&self, host: Option<&HostName>) -> bool {
        self.hosts.is_empty() || host.is_some_and(|host| self.hosts.contains(host))
    }

    fn wants(&self, told: &Told) -> bool {
        self.kinds.contains(&told.kind) && self.is_about(told.host.as_ref())
    }
}

/// Reads a list that is separated by commas.
fn list<T: FromStr<Err: std::fmt::Display> + Ord>(text: Option<&str>) -> ApiResult<BTreeSet<T>> {
    let words = text.into_iter().flat_map(|text| text.split(',')).map(str::trim);
    let all: Result<_, _> = words.map(str::parse).collect();
    all.map_err(|error: T::Err| ApiError::bad_request(format!("{error}.")))
}

/// Tells what changes, as it changes, after a snapshot; as server-sent events, or with `Accept: application/x-ndjson` an
/// `Event` a line.
#[utoipa::path(
    get,
    path = "/v1/events",
    tag = "events",
    operation_id = "followEvents",
    params(EventsQuery, LastEvent),
    responses((status = 200, description = "Events, without an end", content((Event = "text/event-stream"), (Event = "application/x-ndjson")), headers(("cache-control" = String, description = "`no-store`"))), OfHost)
)]
pub(super) async fn events(
    State(app): State<Arc<App>>,
    Query(query): Query<EventsQuery>,
    asker: Asker,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let filter = Filter::of(&query)?;
    for host in &filter.hosts {
        app.pool.get(host).ok_or_else(|| ApiError::host_not_found(host))?;
    }
    let place = app.streams.take()?;
    let seen = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let seen = seen.or(query.after.as_deref());
    let latest = app.events.watch();
    let lines = wants_lines(&headers);
    let heartbeat = Instant::now() + HEARTBEAT;
    let at = app.events.latest();
    let ready = VecDeque::new();
    let owner = Arc::clone(&app);
    let mut reader =
        Reader { app, asker, filter, lines, latest, at, ready, heartbeat, _place: place };
    let seen = seen.map(|seen| reader.app.events.number(seen));
    match seen.map(|seen| seen.and_then(|at| reader.app.events.after(at).map(|_| at))) {
        Some(Ok(at)) => reader.at = at,
        Some(Err(lost)) => reader.lost(lost),
        None => reader.snapshot(),
    }
    let kind = if lines { NDJSON } else { SSE };
    let body = HttpBody::from_stream(stream::unfold(reader, Reader::next));
    let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-store")];
    Ok(owner.resumable((headers, body).into_response()))
}

/// One client's place among the events.
struct Reader {
    app: Arc<App>,
    asker: Asker,
    filter: Filter,
    /// Lines of JSON, and no server-sent events.
    lines: bool,
    latest: watch::Receiver<u64>,
    /// The number of the last event that was looked at.
    at: u64,
    /// What is to be sent.
    ready: VecDeque<Bytes>,
    heartbeat: Instant,
    _place: OwnedSemaphorePermit,
}

impl Reader {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                self.heartbeat = Instant::now() + HEARTBEAT;
                return Some((Ok(bytes), self));
            }
            self.latest.borrow_and_update();
            match self.app.events.after(self.at) {
                Ok(told) => {
                    for told in &told {
                        self.at = told.number;
                        if self.filter.wants(told)
                            && let Some(json) = self.shown(told)
                        {
                            self.push(told.kind.as_str(), &json);
                        }
                    }
                    if !told.is_empty() {
                        continue;
                    }
                }
                Err(lost) => {
                    self.lost(lost);
                    continue;
                }
            }
            let stop = self.app.stop.clone();
            tokio::select! {
                changed = self.latest.changed() => if changed.is_err() { return None },
                () = stop.cancelled() => return None,
                () = sleep_until(self.heartbeat) => {
                    let nothing = if self.lines { "\n" } else { ":\n\n" };
                    self.ready.push_back(Bytes::from_static(nothing.as_bytes()));
                }
            }
        }
    }

    /// Returns an event as this client sees it. It was made for those who see all of it.
    fn shown<'a>(&self, told: &'a Told) -> Option<Cow<'a, str>> {
        let guard = &self.app.guard;
        let all = told.host.as_ref().is_none_or(|host| guard.shows_docker(&self.asker, host));
        if all && !self.asker.only_looks {
            return Some(Cow::Borrowed(&told.json));
        }
        let event = serde_json::from_str::<Event>(&told.json);
        let shown = event.and_then(|event| {
            let event = event.to(&self.asker);
            serde_json::to_string(&if all { event } else { without_docker(event) })
        });
        match shown {
            Ok(json) => Some(Cow::Owned(json)),
            // Our own words: this does not happen.
            Err(error) => {
                tracing::error!(%error, "an event is none");
                None
            }
        }
    }

    fn push(&mut self, kind: &str, json: &str) {
        let text = match self.lines {
            true => format!("{json}\n"),
            false => {
                let id = self.app.events.id(self.at);
                format!("event: {kind}\nid: {id}\ndata: {json}\n\n")
            }
        };
        self.ready.push_back(text.into());
    }

    fn lost(&mut self, Lost(reason): Lost) {
        self.app.measured.gap(reason);
        self.at = self.app.events.latest();
        let json = self.app.events.json(self.at, Change::Gap { reason });
        self.push("gap", &json);
        self.snapshot();
    }

    /// Tells how everything is. What changes meanwhile is told again.
    fn snapshot(&mut self) {
        self.at = self.app.events.latest();
        let snapshot = Box::new(self.app.everything(&self.filter, &self.asker).to(&self.asker));
        let json = self.app.events.json(self.at, Change::Snapshot(snapshot));
        self.push("snapshot", &json);
    }
}

impl App {
    /// Returns how everything is that a client wants to hear of, with what Docker tells where they may ask it.
    fn everything(&self, filter: &Filter, asker: &Asker) -> Snapshot {
        let wants = |kind| filter.kinds.contains(&kind);
        let hosts = || {
            let all = self.pool.all().into_iter();
            all.filter(|host| filter.is_about(Some(host.name())))
        };
        let container = |host: HostName| {
            let known = self.guard.shows_docker(asker, &host).then(|| self.sandboxes.known(&host));
            let container = known?.status()?;
            Some(HostContainer { container: self.with_url(&host, container), host })
        };
        Snapshot {
            hosts: wants(EventKind::Host)
                .then(|| hosts().map(|host| self.with_sandbox_for(asker, host.status())).collect()),
            containers: wants(EventKind::Container)
                .then(|| hosts().filter_map(|host| container(host.name().clone())).collect()),
            forwards: wants(EventKind::Forward).then(|| {
                let all = self.forwards.list().into_iter();
                all.filter(|forward| filter.is_about(Some(&forward.host))).collect()
            }),
            sessions: wants(EventKind::Session).then(|| {
                let all = self.sessions.known().into_iter();
                all.filter(|session| filter.is_about(session.host.host())).collect()
            }),
            prompts: wants(EventKind::Prompt).then(|| {
                let all = self.pool.context().dial.prompts.visible(None).into_iter();
                all.filter(|prompt| filter.is_about(prompt.host.as_ref())).collect()
            }),
            operations: wants(EventKind::Operation).then(|| {
                let all = self.all_operations().into_iter();
                all.filter(|operation| filter.is_about(operation.host.as_ref())).collect()
            }),
        }
    }
}
