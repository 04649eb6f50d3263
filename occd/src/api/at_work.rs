//! How many operations are at work: what a policy has a say in, from when it begins to the last byte of its answer, or to
//! the end of the connection that it has become. Whoever floods one host leaves places for the others.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::Request;
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use occ_proto::session::SessionHost;

use super::App;
use super::doors;
use super::error::ApiResult;
use super::limits::too_many;
use crate::config::LimitsConfig;
use crate::descriptors::Passed;
use crate::in_flight::until_the_end_of;

/// The operations at work.
#[derive(Debug, Clone, Default)]
pub struct AtWork(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    /// On each host and on this machine. What is about to begin a session or a forward names its host in its body.
    places: BTreeMap<SessionHost, usize>,
}

/// Is at work until dropped.
#[derive(Debug)]
struct Operation {
    counts: Arc<Mutex<Counts>>,
    place: Option<SessionHost>,
}

impl AtWork {
    fn begin(&self, place: Option<SessionHost>, limits: &LimitsConfig) -> ApiResult<Operation> {
        let (most, most_per_host) = (limits.max_operations, limits.max_operations_per_host);
        let mut counts = lock(&self.0);
        if counts.all >= most.get() {
            return Err(too_many(format!(
                "occd has {} at work, and takes no more.",
                operations(most)
            )));
        }
        if let Some(place) = &place {
            let count = counts.places.get(place).copied().unwrap_or_default();
            if count >= most_per_host.get() {
                let count = operations(most_per_host);
                let detail = format!("{place} has {count} at work, and takes no more.");
                let error = too_many(detail);
                return Err(match place.host() {
                    Some(host) => error.host(host),
                    None => error,
                });
            }
            counts.places.insert(place.clone(), count + 1);
        }
        counts.all += 1;
        Ok(Operation { counts: Arc::clone(&self.0), place })
    }

    /// Returns how many there are.
    pub(super) fn count(&self) -> usize {
        lock(&self.0).all
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts);
        counts.all -= 1;
        let Some(place) = &self.place else { return };
        let left = counts.places.get_mut(place).map(|count| {
            *count -= 1;
            *count
        });
        if left == Some(0) {
            counts.places.remove(place);
        }
    }
}

/// Returns how many there are, in words.
fn operations(count: NonZeroUsize) -> String {
    format!("{count} {}", if count.get() == 1 { "operation" } else { "operations" })
}

fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has a request done; an operation where there is a place for it.
pub(super) async fn done(app: &App, request: Request, next: Next) -> Response {
    if !doors::takes_place(&request) {
        return next.run(request).await;
    }
    let place = doors::place_in(app, request.uri().path());
    let operation = match app.at_work.begin(place, &app.config.current().config.limits) {
        Ok(operation) => operation,
        Err(error) => return error.into_response(),
    };
    // What goes on without its client is not to hold its connection, and never becomes a stream.
    let connection = request.extensions().get::<Passed>();
    let connection =
        connection.filter(|_| request.headers().contains_key(header::UPGRADE)).cloned();
    until_the_end_of(operation, next.run(request).await, connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_operation_ends() {
        let (at_work, limits) = (AtWork::default(), LimitsConfig::default());
        let (host, most) = ("a".parse::<SessionHost>().unwrap(), limits.max_operations_per_host);
        let begin = |place: Option<&SessionHost>| at_work.begin(place.cloned(), &limits);
        let mut all: Vec<_> = (0..most.get()).map(|_| begin(Some(&host)).unwrap()).collect();
        assert!(begin(Some(&host)).is_err());
        all.push(begin(None).unwrap());
        drop(all);
        assert_eq!(at_work.count(), 0);
        assert!(lock(&at_work.0).places.is_empty());
        begin(Some(&host)).unwrap();
    }
}
