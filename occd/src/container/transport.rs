//! HTTP connections to a Docker Engine, which are kept open and used again: a new one costs a round trip.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bollard::errors::Error as BollardError;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HOST, HeaderValue};
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;

use super::way::{Opened, Way};
use crate::ssh::ChannelError;

/// The connections to one engine.
#[derive(Debug)]
pub(super) struct Transport<B> {
    way: Way,
    idle: Mutex<Vec<SendRequest<B>>>,
}

impl<B> Transport<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Returns a transport with its first connection.
    pub(super) async fn new(way: Way, opened: Opened) -> Result<Arc<Self>, BollardError> {
        let transport = Arc::new(Self { way, idle: Mutex::default() });
        let sender = transport.shake_hands(opened).await?;
        transport.lock().push(sender);
        Ok(transport)
    }

    /// Returns whether the way leads nowhere any more.
    pub(super) fn is_closed(&self) -> bool {
        self.way.is_closed()
    }

    /// The engine has answered over a stream with that refusal.
    pub(super) fn answered(&self, refusal: Option<&ChannelError>) {
        self.way.answered(refusal);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<SendRequest<B>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request over a connection that has none, or a new one. bollard writes absolute URIs, which a Unix
    /// socket's server does not expect (RFC 9112, section 3.2.1).
    pub(super) async fn send(
        self: &Arc<Self>,
        mut request: Request<B>,
    ) -> Result<Response<Incoming>, BollardError> {
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
        request.headers_mut().insert(HOST, HeaderValue::from_static("docker"));
        loop {
            let idle = self.lock().pop();
            let is_new = idle.is_none();
            let mut sender = match idle {
                Some(sender) => sender,
                None => self.shake_hands(self.way.open().await.map_err(other)?).await?,
            };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    self.keep(sender);
                    return Ok(response);
                }
                // The engine had closed it, and has seen nothing of the request.
                Err(mut error) => match error.take_message() {
                    Some(unsent) if !is_new => request = unsent,
                    _ => return Err(error.into_error().into()),
                },
            }
        }
    }

    async fn shake_hands(&self, opened: Opened) -> Result<SendRequest<B>, BollardError> {
        let (sender, http) = http1::handshake(TokioIo::new(opened.stream)).await?;
        self.way.spawn(async move {
            if let Err(error) = http.with_upgrades().await {
                tracing::debug!(%error, "a Docker connection ended");
            }
        });
        Ok(sender)
    }

    /// Keeps a connection for the next request once the answer to this one has been read.
    fn keep(self: &Arc<Self>, mut sender: SendRequest<B>) {
        let transport = Arc::downgrade(self);
        self.way.spawn(async move {
            // An error is a connection that ended, or became something else than HTTP.
            if sender.ready().await.is_ok()
                && let Some(transport) = transport.upgrade()
            {
                let mut idle = transport.lock();
                if idle.len() < transport.way.idle() {
                    idle.push(sender);
                }
            }
        });
    }
}

fn other(error: super::DockerError) -> BollardError {
    std::io::Error::other(error).into()
}
