//! Answering the daemon's questions while a request waits: passphrases, passwords, codes, unknown host keys.
//!
//! A request that may lead to a question names a token; the questions that it raises come over a second
//! connection, which is opened only when the answer takes longer than a connected host needs.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode};
use occ_proto::Secret;
use occ_proto::error::Code;
use occ_proto::exec::NDJSON;
use occ_proto::prompt::{AnswerPrompt, Prompt, PromptEvent, PromptKind, PromptVerdict};
use occ_proto::text::sanitize;
use tokio::task::JoinSet;

use crate::client::Client;
use crate::connection::Connection;
use crate::error::CliError;
use crate::output::Ui;
use crate::output::host::host_key_news;
use crate::terminal::{Terminal, Turn};

/// An answer that comes within this time raised no question.
const AT_ONCE: Duration = Duration::from_millis(100);
/// The first look at what is asked elsewhere, and the longest pause between two.
const LOOK: Duration = Duration::from_millis(300);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a request waits before the daemon is asked whether it still answers at all, and again.
const QUIET: Duration = Duration::from_secs(3);
/// The longest line of the daemon's that is taken, in bytes.
const LONGEST_LINE: usize = 1024 * 1024;

/// The person at the terminal, and the token by which the daemon knows them.
#[derive(Debug)]
pub(crate) struct Prompter {
    token: HeaderValue,
    terminal: Terminal,
}

impl Prompter {
    /// Returns a prompter, where there is a terminal to ask at.
    pub(crate) fn new(ui: &Ui, dir: &Path) -> Option<Self> {
        if !ui.input {
            return None;
        }
        let terminal = Terminal::open(dir)?;
        let mut random = [0; 16];
        getrandom::fill(&mut random).ok()?;
        let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        Some(Self { token: HeaderValue::from_str(&token).ok()?, terminal })
    }

    /// Returns the value of the header that goes with requests.
    pub(crate) fn token(&self) -> HeaderValue {
        self.token.clone()
    }
}

/// Waits for a request and puts its questions to the person meanwhile.
pub(crate) async fn answering<T>(
    client: &Client,
    request: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    if client.is_many() {
        return request.await;
    }
    tokio::select! {
        biased;
        done = request => done,
        error = listening(client, std::future::pending()) => Err(error),
        never = Box::pin(telling(client)) => match never {},
        never = Box::pin(watching(client)) => match never {},
    }
}

/// Tells once of a daemon that does not answer at all any more. A request that waits for a host cannot know.
async fn watching(client: &Client) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(QUIET).await;
        if let Err(error) = client.alive().await {
            let hint = error.hint.map_or_else(String::new, |hint| format!("\nhint: {hint}"));
            client.ui().note(&format!("{} Still waiting.{hint}", error.message));
            return std::future::pending().await;
        }
    }
}

/// Tells of an approval that the request waits for, where there is no terminal to ask at.
async fn telling(client: &Client) -> std::convert::Infallible {
    let mut pause = LOOK;
    // Through a grant nothing is asked of a person here.
    while client.prompter().is_none() || client.is_grants() {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        // The request itself tells what is wrong with the daemon.
        let Ok(list) = client.prompts_beside().await else { break };
        let is_ours = |prompt: &&Prompt| prompt.kind == PromptKind::Approval;
        if let Some(prompt) = list.prompts.iter().find(is_ours) {
            client.ui().note(&waits_for_approval(prompt.id, &prompt.message));
            break;
        }
    }
    std::future::pending().await
}

/// Puts questions to the person until `enough`. Ends only when that fails, or is interrupted.
pub(crate) async fn listening(client: &Client, enough: impl Future<Output = ()>) -> CliError {
    if let Some(prompter) = client.prompter() {
        let listening = async {
            tokio::time::sleep(AT_ONCE).await;
            // Boxed: few requests come this far.
            Box::pin(listen(client, prompter)).await
        };
        tokio::select! {
            biased;
            () = enough => {}
            error = listening => return error,
        }
    }
    std::future::pending().await
}

/// Puts questions to the person until that fails or is interrupted.
async fn listen(client: &Client, prompter: &Prompter) -> CliError {
    let Ok(mut events) = Events::open(client, Some(prompter)).await else {
        // A daemon of an older version, or one that is ending: the request itself tells.
        return std::future::pending().await;
    };
    let mut waiting = VecDeque::new();
    loop {
        let prompt = match waiting.pop_front() {
            Some(prompt) => prompt,
            None => match events.next().await {
                Some(PromptEvent::Opened { prompt }) => prompt,
                Some(PromptEvent::Closed { .. } | PromptEvent::Unknown) => continue,
                None => return std::future::pending().await,
            },
        };
        client.ui().clear_progress();
        if prompt.kind == PromptKind::Notice {
            prompter.terminal.write(&notice(&prompt));
            continue;
        }
        if prompt.kind == PromptKind::Approval {
            client.ui().asked.set(true);
            let text = waits_for_approval(prompt.id, &prompt.message);
            prompter.terminal.write(&format!("{text}\n"));
            continue;
        }
        let asking =
            ask_while_open(client.ui(), &prompter.terminal, &prompt, &mut events, |event| {
                match event {
                    PromptEvent::Opened { prompt } => waiting.push_back(prompt),
                    PromptEvent::Closed { id } => waiting.retain(|p: &Prompt| p.id != id),
                    PromptEvent::Unknown => {}
                }
            });
        match asking.await {
            // Somebody else has answered it, or the request is over: it tells itself.
            Ok(Asked::Over | Asked::NoDaemon) => {}
            Err(error) => return error,
            Ok(Asked::Answered(answer, _turn)) => {
                if let Err(error) = send(client, prompt.id, answer).await {
                    return error;
                }
            }
        }
    }
}

/// What came of a question that was put to the person.
pub(crate) enum Asked {
    /// They answered, or, with nothing, declined.
    Answered(Option<Secret>, Turn),
    /// Somebody else answered it, or nobody waits for an answer any more.
    Over,
    /// The daemon tells no more what becomes of it.
    NoDaemon,
}

/// Puts a question to the person as long as it is open. What becomes of other questions meanwhile is told to `other`.
pub(crate) async fn ask_while_open(
    ui: &Ui,
    terminal: &Terminal,
    prompt: &Prompt,
    events: &mut Events,
    mut other: impl FnMut(PromptEvent),
) -> Result<Asked, CliError> {
    let over = {
        let mut asking = std::pin::pin!(ask(ui, terminal, prompt));
        loop {
            tokio::select! {
                biased;
                answer = &mut asking => {
                    return answer.map(|(answer, turn)| Asked::Answered(answer, turn));
                }
                event = events.next() => match event {
                    Some(PromptEvent::Closed { id }) if id == prompt.id => break Asked::Over,
                    Some(event) => other(event),
                    None => break Asked::NoDaemon,
                },
            }
        }
    };
    // It was to be the answer to that question, and is none to the next.
    terminal.forget_typed();
    Ok(over)
}

/// Returns what is to be told of an approval that is waited for: whoever wants it cannot give it.
pub(crate) fn waits_for_approval(id: u64, message: &str) -> String {
    let question = sanitize(message);
    format!(
        "waiting: {question}\nhint: in another terminal: occ prompts --allow {id}, or --deny {id}"
    )
}

/// Returns what is to be told of a notice.
pub(crate) fn notice(prompt: &Prompt) -> String {
    let host = prompt.host.as_ref().map_or_else(String::new, |host| format!("[{host}] "));
    let lines = prompt.note.iter().flat_map(|note| note.lines()).chain([prompt.message.as_str()]);
    lines.map(|line| format!("{host}{}\n", sanitize(line))).collect()
}

/// Puts a question to the person at the terminal; nothing means that they decline.
pub(crate) async fn ask(
    ui: &Ui,
    terminal: &Terminal,
    prompt: &Prompt,
) -> Result<(Option<Secret>, Turn), CliError> {
    ui.asked.set(true);
    let _keys = ui.keyboard.take().await;
    let host = prompt.host.as_ref().map_or_else(String::new, |host| format!("[{host}] "));
    let keys = prompt.new_host_keys.iter();
    let keys: String = keys.filter_map(|new| host_key_news(ui, new)).collect();
    // In one piece: what is typed after the note must not be shown, either.
    let note = prompt.note.as_ref();
    let note = note.map_or_else(String::new, |note| format!("{host}{}\n", sanitize(note)));
    let is_yes_or_no = matches!(prompt.kind, PromptKind::Keep | PromptKind::Approval);
    let end = if is_yes_or_no { " [y/N]: " } else { ": " };
    let question = format!("{keys}{note}{host}{}{end}", sanitize(&prompt.message));
    loop {
        let (answer, turn) = terminal.ask(&question, prompt.secret, &ui.question).await?;
        let Some(text) = &answer else { return Ok((None, turn)) };
        // A slip of the finger must not decide whom to trust.
        let word = text.expose().trim();
        if prompt.kind != PromptKind::HostKey || is_verdict(word) {
            return Ok((answer, turn));
        }
        terminal.write("Type yes or no, or the fingerprint that you have from elsewhere.\n");
    }
}

fn is_verdict(word: &str) -> bool {
    ["yes", "no"].iter().any(|verdict| word.eq_ignore_ascii_case(verdict))
        || word.starts_with("SHA256:")
}

/// Sends an answer. A question that is open no more was answered by somebody else.
async fn send(client: &Client, id: u64, answer: Option<Secret>) -> Result<(), CliError> {
    // A question is for its client at first.
    let token = client.prompter().and_then(|prompter| prompter.token.to_str().ok());
    let query = token.map_or_else(String::new, |token| format!("?client={token}"));
    let path = format!("/v1/prompts/{id}{query}");
    let body = AnswerPrompt { answer };
    match client.request_beside(Method::POST, &path, &body).await {
        Ok(_) => Ok(()),
        Err(error) if error.daemon_code() == Some(Code::PromptNotFound) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Sends an answer to a question that is for all, and waits until it is known what became of it. Nothing means that it came
/// too late.
pub(crate) async fn send_for_another(
    client: &Client,
    id: u64,
    answer: Option<Secret>,
) -> Result<Option<PromptVerdict>, CliError> {
    let path = format!("/v1/prompts/{id}?verdict=true");
    let body = AnswerPrompt { answer };
    match client.request(Method::POST, &path, Some(&body), None).await {
        // An older daemon does not say.
        Ok(reply) if reply.body.is_empty() => Ok(Some(PromptVerdict::default())),
        Ok(reply) => reply.parse().map(Some),
        Err(error) if error.daemon_code() == Some(Code::PromptNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The daemon's stream of questions.
pub(crate) struct Events {
    body: Incoming,
    buffer: BytesMut,
    /// Drives the connection as long as the stream is read.
    _connections: JoinSet<()>,
}

impl Events {
    /// Opens the stream of the prompter's own questions; without one, of those that are for all.
    pub(crate) async fn open(
        client: &Client,
        prompter: Option<&Prompter>,
    ) -> Result<Self, CliError> {
        let stream = client.another_stream().await?;
        let token = prompter.and_then(|prompter| prompter.token.to_str().ok());
        let query = token.map_or_else(String::new, |token| format!("?client={token}"));
        let request = Request::get(format!("/v1/prompts{query}"))
            .header(HOST, "localhost")
            .header(ACCEPT, NDJSON)
            .body(Full::<Bytes>::default())
            .map_err(|error| CliError::failed(format!("the request cannot be made: {error}")))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(Connection::new(stream))
                .await
                .map_err(|error| crate::client::broken(&error))?;
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            // How it ended shows in the stream.
            let _ = connection.await;
        });
        let answer =
            sender.send_request(request).await.map_err(|error| crate::client::broken(&error))?;
        if answer.status() != StatusCode::OK {
            return Err(CliError::incompatible("this occd has no prompts"));
        }
        Ok(Self { body: answer.into_body(), buffer: BytesMut::new(), _connections: connections })
    }

    /// Returns the next event; nothing at the end of the stream. Nothing is lost when the future is dropped.
    async fn next(&mut self) -> Option<PromptEvent> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                // An empty line is a sign of life.
                if let Ok(event) = serde_json::from_slice(&line) {
                    return Some(event);
                }
                continue;
            }
            let frame = self.body.frame().await?.ok()?;
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
            if self.buffer.len() > LONGEST_LINE {
                return None;
            }
        }
    }
}
