//! `POST /v1/hand-over`: the daemon ends for one of another version, unless something would be lost.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::Method;
use axum::response::Response;
use occ_proto::daemon::HandOver;
use occ_proto::status::State as LinkState;
use serde::Deserialize;

use super::App;
use super::extract::Query;
use super::json::Json;
use crate::descriptors::Passed;
use crate::in_flight::{Flying, until_the_end_of};

impl App {
    /// Returns how much would be lost if the daemon ended now, `asking` requests apart. Forwards that nobody uses and
    /// sessions that nobody follows are not lost: the next daemon has them.
    fn in_flight(&self, asking: usize) -> u64 {
        let requests =
            self.in_flight.count().saturating_sub(asking) + self.docker_sockets.clients();
        let operations = self.operations.list();
        let operations = operations.iter().filter(|operation| operation.end().is_none()).count();
        // What a person has unlocked or typed for a login is in memory alone.
        let hosts = self.pool.all();
        let by_person = hosts
            .iter()
            .filter(|host| host.needs_client() && host.snapshot().state == LinkState::Connected);
        let count = requests + operations + by_person.count();
        u64::try_from(count).unwrap_or(u64::MAX) + self.forwards.connections()
    }
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct HandOverQuery {
    /// The version of the daemon that is to end: of two clients that ask, the second may come to the next daemon already.
    /// One of another version goes on.
    version: Option<String>,
}

/// Has the daemon end for another one, if nothing would be lost by it.
#[utoipa::path(
    post,
    path = "/v1/hand-over",
    tag = "daemon",
    operation_id = "handOver",
    params(HandOverQuery),
    responses((status = 200, description = "Whether it ends, and what is in flight", body = HandOver))
)]
pub(super) async fn hand_over(
    State(app): State<Arc<App>>,
    Query(query): Query<HandOverQuery>,
) -> Json<HandOver> {
    let in_flight = app.in_flight(1);
    let is_meant = query.version.is_none_or(|version| version == env!("CARGO_PKG_VERSION"));
    let ending = is_meant && in_flight == 0;
    if ending {
        tracing::info!("this daemon hands over to another one");
        app.end.cancel();
    }
    Json(HandOver { ending, in_flight })
}

/// A request that counts as in flight.
pub(super) struct Counted(Option<(Flying, Option<Passed>)>);

/// Counts a request.
pub(super) fn count(app: &App, request: &Request) -> Counted {
    // Who follows what changes goes on with the next daemon, and so does who asks for the list, and may wait for another.
    if matches!(request.uri().path(), "/v1/events" | "/v1/hosts") && request.method() == Method::GET
    {
        return Counted(None);
    }
    Counted(Some((app.in_flight.begin(), request.extensions().get::<Passed>().cloned())))
}

impl Counted {
    /// Counts it until the last byte of its answer; one that becomes a stream, until its connection ends.
    pub(super) fn until_the_end_of(self, response: Response) -> Response {
        match self.0 {
            Some((flying, connection)) => until_the_end_of(flying, response, connection),
            None => response,
        }
    }
}
