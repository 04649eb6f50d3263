//! Timing requests, and counting what becomes of them.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::HttpBody as _;
use axum::extract::{MatchedPath, Request};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use occ_proto::event::GapReason;
use tokio::time::Instant;

use super::App;
use crate::descriptors::Passed;
use crate::in_flight::{Flying, InFlight, until_the_end_of};
use crate::metrics::{Counter, Histogram, Times};

/// Bounds of an answer, in seconds: from memory, from a host, and after a command's end.
const ANSWER: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.01, 0.05, 0.25, 1.0, 5.0, 30.0, 300.0];
/// The words for methods and for kinds of answers. What a client makes up is none of them.
const METHODS: [&str; 7] = ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "other"];
const KINDS: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// The word for a path that is no route.
const NO_ROUTE: &str = "none";
/// With which statuses a request is turned away, because of what it costs.
const TURNED_AWAY: [StatusCode; 5] = [
    StatusCode::TOO_MANY_REQUESTS,
    StatusCode::REQUEST_TIMEOUT,
    StatusCode::PAYLOAD_TOO_LARGE,
    StatusCode::URI_TOO_LONG,
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
];
const GAPS: [GapReason; 3] = [GapReason::Restarted, GapReason::Forgotten, GapReason::Unknown];

/// The times of one route by method, as far as each is asked for, and by kind of answer.
type OfRoute = [OnceLock<Box<[Histogram; KINDS.len()]>>; METHODS.len()];

/// How requests are answered.
#[derive(Debug, Default)]
pub struct Measured {
    /// Made once: nothing that a client sends adds to it.
    routes: OnceLock<HashMap<String, OfRoute>>,
    no_route: OfRoute,
    door: Door,
    streams: InFlight,
    gaps: [Counter; GAPS.len()],
}

/// What is counted where clients come in, also of those that no route sees.
#[derive(Debug, Clone, Default)]
pub struct Door {
    turned_away: Arc<[Counter; TURNED_AWAY.len()]>,
    clients: InFlight,
}

impl Door {
    /// Counts a client, until what is returned is dropped.
    pub fn let_in(&self) -> Flying {
        self.clients.begin()
    }

    /// Returns how many clients there are.
    pub fn clients(&self) -> usize {
        self.clients.count()
    }

    /// Counts an answer with which somebody is turned away; others are none.
    pub fn answered(&self, status: StatusCode) {
        if let Some(at) = TURNED_AWAY.iter().position(|away| *away == status) {
            self.turned_away[at].add();
        }
    }
}

/// The times of a route's answers.
#[derive(Debug)]
pub(super) struct Answers<'a> {
    pub(super) route: &'a str,
    pub(super) method: &'static str,
    pub(super) kind: &'static str,
    pub(super) times: Times,
}

impl Measured {
    /// Takes the routes that there are.
    pub(super) fn know<'a>(&self, routes: impl Iterator<Item = &'a String>) {
        self.routes
            .get_or_init(|| routes.map(|route| (route.clone(), OfRoute::default())).collect());
    }

    /// Returns what is counted where clients come in.
    pub fn door(&self) -> &Door {
        &self.door
    }

    /// A client was told that events are lost to it.
    pub(super) fn gap(&self, reason: GapReason) {
        if let Some(at) = GAPS.iter().position(|known| *known == reason) {
            self.gaps[at].add();
        }
    }

    fn answered(&self, route: Option<&str>, method: &Method, status: StatusCode, time: Duration) {
        let known = route.and_then(|route| self.routes.get()?.get(route));
        let method = METHODS.iter().position(|known| *known == method.as_str());
        let method = &known.unwrap_or(&self.no_route)[method.unwrap_or(METHODS.len() - 1)];
        let kinds =
            method.get_or_init(|| Box::new([const { Histogram::new(ANSWER) }; KINDS.len()]));
        let kind = usize::from(status.as_u16() / 100).clamp(1, KINDS.len()) - 1;
        kinds[kind].add(time);
        self.door.answered(status);
    }

    /// Returns the times of all answers, by route.
    pub(super) fn answers(&self) -> Vec<Answers<'_>> {
        let known = self.routes.get().into_iter().flatten();
        let routes = known.map(|(route, times)| (route.as_str(), times));
        let mut all = Vec::new();
        for (route, methods) in routes.chain([(NO_ROUTE, &self.no_route)]) {
            for (method, kinds) in METHODS.into_iter().zip(methods) {
                for (kind, times) in
                    KINDS.into_iter().zip(kinds.get().into_iter().flat_map(|all| all.iter()))
                {
                    let times = times.times();
                    all.extend(times.map(|times| Answers { route, method, kind, times }));
                }
            }
        }
        all.sort_by_key(|answers| (answers.route, answers.method, answers.kind));
        all
    }

    /// Returns how many requests were turned away with which status.
    pub(super) fn refusals(&self) -> impl Iterator<Item = (u16, u64)> {
        let counts = TURNED_AWAY.into_iter().zip(&*self.door.turned_away);
        counts.map(|(status, count)| (status.as_u16(), count.get()))
    }

    /// Returns how often clients were told of a gap, by its reason.
    pub(super) fn gaps(&self) -> impl Iterator<Item = (GapReason, u64)> {
        GAPS.into_iter().zip(&self.gaps).map(|(reason, count)| (reason, count.get()))
    }

    /// Returns how many answers go on.
    pub(super) fn streams(&self) -> usize {
        self.streams.count()
    }
}

/// A request whose answer is awaited.
pub(super) struct Timed {
    begun: Instant,
    method: Method,
    route: Option<MatchedPath>,
    connection: Option<Passed>,
}

/// Begins to time a request.
pub(super) fn begin(request: &Request) -> Timed {
    Timed {
        begun: Instant::now(),
        method: request.method().clone(),
        route: request.extensions().get::<MatchedPath>().cloned(),
        connection: request.extensions().get::<Passed>().cloned(),
    }
}

impl Timed {
    /// Takes the time until the answer begins, and counts one that goes on as a stream until it ends.
    pub(super) fn answered(self, app: &App, response: Response) -> Response {
        let Self { begun, method, route, connection } = self;
        let (measured, status) = (&app.measured, response.status());
        let route = route.as_ref().map(MatchedPath::as_str);
        measured.answered(route, &method, status, begun.elapsed());
        let body = response.body();
        // What is there as a whole has a length.
        if status != StatusCode::SWITCHING_PROTOCOLS
            && (body.size_hint().exact().is_some() || body.is_end_stream())
        {
            return response;
        }
        until_the_end_of(measured.streams.begin(), response, connection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_client_makes_up_adds_a_row() {
        let measured = Measured::default();
        measured.know([String::from("/v1/hosts/{host}")].iter());
        let (time, ok) = (Duration::from_millis(2), StatusCode::OK);
        measured.answered(Some("/v1/hosts/{host}"), &Method::GET, ok, time);
        for i in 0..100 {
            let method = Method::from_bytes(format!("M{i}").as_bytes()).unwrap();
            measured.answered(None, &method, StatusCode::NOT_FOUND, time);
            measured.answered(Some(&format!("/{i}")), &method, StatusCode::NOT_FOUND, time);
        }
        let rows: Vec<_> = measured.answers();
        let row =
            |at: usize| (rows[at].route, rows[at].method, rows[at].kind, rows[at].times.count);
        assert_eq!(rows.len(), 2, "{rows:?}");
        assert_eq!(row(0), ("/v1/hosts/{host}", "GET", "2xx", 1));
        assert_eq!(row(1), (NO_ROUTE, "other", "4xx", 200));
    }

    #[test]
    fn who_is_turned_away_is_counted() {
        let measured = Measured::default();
        measured.door().answered(StatusCode::TOO_MANY_REQUESTS);
        measured.door().answered(StatusCode::OK);
        for status in TURNED_AWAY {
            measured.answered(None, &Method::GET, status, Duration::ZERO);
        }
        let counted: Vec<_> = measured.refusals().collect();
        assert_eq!(counted, [(429, 2), (408, 1), (413, 1), (414, 1), (431, 1)]);
        measured.gap(GapReason::Forgotten);
        assert_eq!(measured.gaps().map(|(_, count)| count).collect::<Vec<_>>(), [0, 1, 0]);
    }
}
