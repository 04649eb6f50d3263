//! The descriptors that a client offers in its handshake (`occ_proto::exec::DESCRIPTORS_HEADER`).

use axum::extract::FromRequestParts;
use axum::http::HeaderValue;
use axum::http::request::Parts;
use occ_proto::exec::{DESCRIPTORS_HEADER, STDERR, STDOUT};

use crate::descriptors::{self, Passed};
use crate::exec::Destinations;

/// What a client offers, if anything.
#[derive(Debug, Default)]
pub(in crate::api) struct Passing {
    offer: Option<HeaderValue>,
    /// The streams that it names, in the order of their descriptors.
    streams: &'static [u8],
    passed: Passed,
}

impl<S: Sync> FromRequestParts<S> for Passing {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let Some(passed) = parts.extensions.get::<Passed>().cloned() else {
            return Ok(Self::default());
        };
        let offer = parts.headers.get(DESCRIPTORS_HEADER).cloned();
        let streams: &[u8] = match offer.as_ref().map(HeaderValue::as_bytes) {
            Some(b"stdout") => &[STDOUT],
            Some(b"stderr") => &[STDERR],
            Some(b"stdout,stderr") => &[STDOUT, STDERR],
            // None, or one of another kind, which is not taken up.
            _ => return Ok(Self::default()),
        };
        Ok(Self { offer, streams, passed })
    }
}

impl Passing {
    /// Takes the offer up, if there is one, and returns what to answer in the header.
    pub(super) fn accept(&self) -> Option<HeaderValue> {
        self.offer.clone().filter(|_| self.passed.accept())
    }

    /// Returns where the output goes, when the client's first message is here.
    pub(super) async fn destinations(&self) -> Destinations {
        let passed = self.passed.take();
        if passed.len() == self.streams.len() {
            return Destinations::of(self.streams, passed).await;
        }
        // Which of them is missing cannot be told.
        descriptors::close(passed).await;
        Destinations::default()
    }

    /// Closes what has come.
    pub(super) async fn refuse(&self) {
        descriptors::close(self.passed.take()).await;
    }
}
