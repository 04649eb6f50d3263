//! The order of what changes a file: between the look at what is there (`If-Match`, `if_sha256`) and its change no other client
//! of this daemon changes it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex as StdMutex, PoisonError, Weak};

use tokio::sync::{Mutex, OwnedMutexGuard};

/// A server and a path there.
type Place = (String, Vec<u8>);

/// The files that are being changed.
#[derive(Debug, Default)]
pub struct Changing(StdMutex<HashMap<Place, Weak<Mutex<()>>>>);

impl Changing {
    /// Waits until nobody else changes that file. Nobody does until what is returned is dropped.
    pub(super) async fn alone(&self, server: String, path: &[u8]) -> OwnedMutexGuard<()> {
        let place = {
            let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            places.retain(|_, place| place.strong_count() > 0);
            let place = places.entry((server, path.to_vec())).or_default();
            place.upgrade().unwrap_or_else(|| {
                let made = Arc::default();
                *place = Arc::downgrade(&made);
                made
            })
        };
        place.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn one_changes_a_file_at_a_time_and_nothing_is_kept_of_it() {
        let changing = Changing::default();
        let at = |server: &str| changing.alone(server.to_owned(), b"/a");
        let first = at("s").await;
        assert!(at("s").now_or_never().is_none());
        let elsewhere = at("t").await;
        drop(first);
        let second = at("s").now_or_never().expect("its turn");
        drop((second, elsewhere));
        drop(at("u").await);
        assert_eq!(changing.0.lock().unwrap().len(), 1, "all but the last");
    }
}
