//! An answer that comes line by line.

use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use occ_proto::exec::NDJSON;
use occ_proto::policy::CLIENT_HEADER;
use occ_proto::prompt::PROMPTS_HEADER;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::client::{self, Client};
use crate::connection::Connection;
use crate::error::CliError;
use crate::prompter::Prompter;

/// The longest line, in bytes.
const LONGEST: usize = 16 * 1024 * 1024;

/// The lines of an answer.
pub(crate) struct Lines {
    /// Drives the connection; nothing once it has ended.
    connection: Option<Pin<Box<dyn Future<Output = ()>>>>,
    body: Incoming,
    buffer: BytesMut,
    daemon: String,
}

impl Lines {
    /// Asks for lines of JSON.
    pub(crate) async fn get(client: &Client, path: &str) -> Result<Self, CliError> {
        Self::ask(client, Method::GET, path, None::<&()>).await
    }

    /// The same with a method and a body of JSON.
    pub(crate) async fn ask(
        client: &Client,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Self, CliError> {
        let body = body.map(serde_json::to_vec).transpose();
        let body = body
            .map_err(|error| CliError::failed(format!("the request cannot be written: {error}")))?;
        client
            .let_in(async |_| Self::ask_now(client, method.clone(), path, body.clone()).await)
            .await
    }

    /// The same of what comes in a moment.
    pub(crate) async fn get_at_once(client: &Client, path: &str) -> Result<Self, CliError> {
        let asked = || Self::ask_now(client, Method::GET, path, None);
        client.let_in(async |_| client.at_once(asked()).await).await
    }

    async fn ask_now(
        client: &Client,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Self, CliError> {
        let stream = client.another_stream().await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(Connection::new(stream))
                .await
                .map_err(|error| client::broken(&error))?;
        // Its error is the body's, too.
        let mut connection = Box::pin(async move { drop(connection.await) });
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "localhost")
            .header(ACCEPT, NDJSON);
        request = request.header(CLIENT_HEADER, client::kind());
        if let Some(agent) = client::agent() {
            request = request.header(occ_proto::AGENT_HEADER, agent);
        }
        if let Some(token) = client.prompter().map(Prompter::token) {
            request = request.header(PROMPTS_HEADER, token);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|error| CliError::failed(format!("the request cannot be made: {error}")))?;
        let mut asked = std::pin::pin!(sender.send_request(request));
        let answer = tokio::select! {
            answer = &mut asked => answer,
            () = &mut connection => asked.await,
        };
        let answer = answer.map_err(|error| client::broken(&error))?;
        let (head, body) = answer.into_parts();
        let daemon = client.serves_us(&head.headers).await?;
        client::note_warnings(client.ui(), &head.headers);
        let connection: Pin<Box<dyn Future<Output = ()>>> = connection;
        let connection = Some(connection);
        let mut lines = Self { connection, body, buffer: BytesMut::new(), daemon };
        if client::is_failure(head.status) {
            while lines.more().await? {}
            return Err(client::problem(head.status, &lines.buffer, &lines.daemon));
        }
        Ok(lines)
    }

    /// Returns the next line; nothing at the end.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, CliError> {
        let line = self.next_line().await?;
        line.map(|line| self.parse(&line)).transpose()
    }

    /// Returns what a line says.
    pub(crate) fn parse<T: DeserializeOwned>(&self, line: &str) -> Result<T, CliError> {
        serde_json::from_str(line).map_err(|_| self.misunderstood())
    }

    /// Returns the next line as it is; nothing at the end.
    pub(crate) async fn next_line(&mut self) -> Result<Option<String>, CliError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                // A sign of life.
                if line.trim_ascii().is_empty() {
                    continue;
                }
                let line = String::from_utf8(line.into());
                return line.map(Some).map_err(|_| self.misunderstood());
            }
            if self.buffer.len() > LONGEST {
                return Err(client::misunderstood(&self.daemon));
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }

    /// Returns the error about an answer that means nothing.
    pub(crate) fn misunderstood(&self) -> CliError {
        client::misunderstood(&self.daemon)
    }

    /// Reads on. Returns whether there is more.
    async fn more(&mut self) -> Result<bool, CliError> {
        let frame = match &mut self.connection {
            Some(connection) => tokio::select! {
                biased;
                frame = self.body.frame() => frame,
                () = connection => {
                    self.connection = None;
                    self.body.frame().await
                }
            },
            None => self.body.frame().await,
        };
        match frame {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    self.buffer.extend_from_slice(&data);
                }
                Ok(true)
            }
            Some(Err(error)) => Err(client::broken(&error)),
            None => Ok(false),
        }
    }
}
