//! A request and an answer whose bodies are of any length.

use std::io;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::LocalBoxStream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode};
use occ_proto::files::Bytes as Name;
use occ_proto::policy::CLIENT_HEADER;
use occ_proto::prompt::PROMPTS_HEADER;
use occ_proto::trust::NewHostKey;
use occ_proto::{AGENT_HEADER, KEY_HEADER, NEW_HOST_KEY_HEADER};

use crate::client::{self, Client};
use crate::connection::Connection;
use crate::error::CliError;
use crate::output::host::tell_news;
use crate::prompter::{self, Prompter};

/// The most bytes of a problem that are read.
const LONGEST_PROBLEM: usize = 1024 * 1024;

/// A request to be sent.
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: Vec<(hyper::header::HeaderName, HeaderValue)>,
    /// What is sent, and its length where that is known.
    pub(crate) body: Option<(LocalBoxStream<'static, io::Result<Bytes>>, Option<u64>)>,
}

impl Ask {
    /// Returns a request without a body.
    pub(crate) fn new(method: Method, path: String) -> Self {
        Self { method, path, headers: Vec::new(), body: None }
    }

    /// Adds a header.
    pub(crate) fn header(
        mut self,
        name: hyper::header::HeaderName,
        value: &str,
    ) -> Result<Self, CliError> {
        let value = HeaderValue::from_str(value)
            .map_err(|_| CliError::failed("a value does not go into a header"))?;
        self.headers.push((name, value));
        Ok(self)
    }
}

/// An answer whose body is read as it comes.
pub(crate) struct Answer {
    pub(crate) headers: HeaderMap,
    body: Incoming,
    /// Drives the connection; nothing once it has ended.
    connection: Option<Pin<Box<dyn Future<Output = ()>>>>,
    daemon: String,
}

impl Answer {
    /// Sends a request and answers the questions that it raises.
    pub(crate) async fn to(client: &Client, ask: Ask) -> Result<Self, CliError> {
        let prompts = client.prompter().map(Prompter::token);
        prompter::answering(client, Self::ask_next(client, ask, prompts)).await
    }

    /// Sends a request, and once more to the next daemon when this one goes without an answer and that changes nothing.
    /// What comes as a stream is there once.
    async fn ask_next(
        client: &Client,
        ask: Ask,
        prompts: Option<HeaderValue>,
    ) -> Result<Self, CliError> {
        if ask.body.is_some() {
            return Self::ask(client, ask, prompts).await;
        }
        let send = async || {
            let (method, path, headers) =
                (ask.method.clone(), ask.path.clone(), ask.headers.clone());
            Self::ask(client, Ask { method, path, headers, body: None }, prompts.clone()).await
        };
        client
            .let_in(async |_| match send().await {
                Err(error) if error.may_ask_next(ask.method == Method::GET) => {
                    Box::pin(send()).await
                }
                answer => answer,
            })
            .await
    }

    async fn ask(
        client: &Client,
        ask: Ask,
        prompts: Option<HeaderValue>,
    ) -> Result<Self, CliError> {
        let stream = client.stream_to_next().await?;
        let mut request =
            Request::builder().method(ask.method).uri(ask.path).header(HOST, "localhost");
        request = request.header(CLIENT_HEADER, client::kind());
        if let Some(agent) = client::agent() {
            request = request.header(AGENT_HEADER, agent);
        }
        if let Some(key) = client::given_key() {
            request = request.header(KEY_HEADER, key);
        }
        if let Some(token) = prompts {
            request = request.header(PROMPTS_HEADER, token);
        }
        for (name, value) in ask.headers {
            request = request.header(name, value);
        }
        let bad = |error| CliError::failed(format!("the request cannot be made: {error}"));
        match ask.body {
            None => {
                let body = http_body_util::Empty::<Bytes>::new();
                exchange(client, stream, request.body(body).map_err(bad)?).await
            }
            Some((body, length)) => {
                if let Some(length) = length {
                    request = request.header(CONTENT_LENGTH, length);
                }
                request = request.header(CONTENT_TYPE, "application/octet-stream");
                let body = StreamBody::new(body.map(|piece| piece.map(Frame::data)));
                exchange(client, stream, request.body(body).map_err(bad)?).await
            }
        }
    }

    /// Returns the next bytes; nothing at the end.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let frame = match &mut self.connection {
                Some(connection) => tokio::select! {
                    biased;
                    frame = self.body.frame() => frame,
                    () = connection => {
                        self.connection = None;
                        continue;
                    }
                },
                None => self.body.frame().await,
            };
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(io::Error::other(error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// Returns the whole body.
    pub(crate) async fn whole(&mut self, most: usize) -> Result<Bytes, CliError> {
        let mut whole = BytesMut::new();
        while let Some(data) = self.next().await.map_err(|error| client::broken(&error))? {
            if whole.len() + data.len() > most {
                return Err(client::misunderstood(&self.daemon));
            }
            whole.extend_from_slice(&data);
        }
        Ok(whole.freeze())
    }

    /// Returns a header as text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

async fn exchange<B>(
    client: &Client,
    stream: tokio::net::UnixStream,
    request: Request<B>,
) -> Result<Answer, CliError>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(Connection::new(stream))
        .await
        .map_err(|error| client::broken(&error))?;
    // Its error is the answer's, too.
    let mut connection: Pin<Box<dyn Future<Output = ()>>> =
        Box::pin(async move { drop(connection.await) });
    let mut asked = std::pin::pin!(sender.send_request(request));
    let (answer, connection) = tokio::select! {
        biased;
        answer = &mut asked => (answer, Some(connection)),
        () = &mut connection => (asked.await, None),
    };
    let (head, body) = answer.map_err(|error| client::broken(&error))?.into_parts();
    let daemon = client.serves_us(&head.headers).await?;
    client::note_warnings(client.ui(), &head.headers);
    for value in head.headers.get_all(NEW_HOST_KEY_HEADER) {
        if let Ok(new) = serde_json::from_slice::<NewHostKey>(value.as_bytes()) {
            tell_news(client.ui(), &new);
        }
    }
    let (headers, status) = (head.headers, head.status);
    let mut answer = Answer { headers, body, connection, daemon };
    if client::is_failure(status) {
        let problem = answer.whole(LONGEST_PROBLEM).await?;
        return Err(client::problem(status, &problem, &answer.daemon));
    }
    if status == StatusCode::NOT_MODIFIED {
        return Err(client::misunderstood(&answer.daemon));
    }
    Ok(answer)
}

/// Returns a name or a text of a host as it goes out: as it is there, or safe for a terminal.
pub(crate) fn bytes_of(bytes: &Name, raw: bool) -> Vec<u8> {
    match raw {
        true => bytes.0.clone(),
        false => occ_proto::text::sanitize(&String::from_utf8_lossy(&bytes.0)).into_bytes(),
    }
}
