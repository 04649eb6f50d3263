//! An attached session: its output and its input, over as many connections to the daemon as it takes.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use occ_proto::Code;
use occ_proto::exec::{ExecControl, STDERR, STDIN, STDOUT};
use occ_proto::session::{OutputStream, SessionEvent};
use tokio::time::{Instant, sleep};
use tokio_tungstenite::tungstenite::Message;

use super::{Begin, SessionError, path, reach};
use crate::autostart::Start;
use crate::client::Client;
use crate::descriptors::Offer;
use crate::error::CliError;
use crate::output::Ui;
use crate::ws::{self, WebSocket};

/// How many messages of input may be on their way to the host: as many as the daemon takes without making us wait, so that
/// a signal never waits behind input.
const MESSAGES: usize = 12;
/// The largest message of input.
const PIECE: usize = 64 * 1024;
/// How long a host that is lost is waited for by whoever is attached, in milliseconds.
pub(crate) const AGAIN: u64 = 3_600_000;
/// How long a daemon that went away may take to come back.
pub(super) const BACK: Duration = Duration::from_secs(30);
/// How long it is left alone in between.
pub(super) const PAUSE: Duration = Duration::from_millis(200);

/// What comes from a session.
#[derive(Debug, Clone, PartialEq)]
pub enum Received {
    /// Output.
    Output {
        /// Of which stream.
        stream: OutputStream,
        /// The bytes.
        bytes: Bytes,
    },
    /// Bytes that are kept no more are missing here.
    Gap {
        /// Of which stream.
        stream: OutputStream,
        /// The offset of the first of them.
        from: u64,
        /// How many.
        missing: u64,
    },
    /// The host's disk was full: some of a stream was not kept.
    NoSpace(OutputStream),
    /// The link to the host broke; the program goes on, and what it writes comes later.
    Paused {
        /// Why, in one sentence.
        message: String,
    },
    /// A port whose URL the program has printed is forwarded.
    Forwarded {
        /// As it was printed.
        url: String,
        /// What it is on this machine.
        here: String,
    },
    /// The link is there.
    Live,
    /// The host has taken input: there is room for more.
    Taken,
    /// The program has ended, with this status as a shell gives it. The last.
    Exit(u8),
    /// Nobody saw how the program ended, or whether. The last.
    Lost,
    /// That was all there is so far, and more was not asked for. The last.
    End,
}

/// An attached session. Dropping it leaves the program alone.
#[derive(Debug)]
pub struct Attached {
    ui: Ui,
    socket: Option<PathBuf>,
    session: String,
    begin: Begin,
    on: bool,
    /// Where this one stops is where the next one goes on.
    notes: bool,
    /// How long a host is waited for that is down, in milliseconds, before it is attached to.
    wait: Option<u64>,
    /// It is attached to, or was when the daemon went away.
    live: bool,
    /// Whether a daemon may be started when there is none.
    start: Start,
    stream: Option<WebSocket>,
    /// Input that the host has not taken yet.
    waiting: VecDeque<Bytes>,
    /// How much of that was sent on this connection.
    sent: usize,
    /// How many bytes were taken of what was sent on this connection.
    taken: u64,
    /// The offset in the input of the first byte that waits, once it is known.
    base: Option<u64>,
    /// How many of the bytes that wait were sent, on this connection or an earlier one. The host may have them.
    doubtful: u64,
    /// Nothing comes after what waits; and whether that was sent on this connection.
    ends: bool,
    end_sent: bool,
    end_taken: bool,
    /// Output of a line that has not ended.
    line: BytesMut,
    over: bool,
}

impl Attached {
    pub(super) async fn open(
        ui: Ui,
        socket: Option<PathBuf>,
        client: &Client,
        session: &str,
        begin: Begin,
        (on, notes, wait): (bool, bool, Option<u64>),
    ) -> Result<Self, SessionError> {
        let mut attached = Self {
            ui,
            socket,
            session: session.to_owned(),
            begin,
            on,
            notes,
            wait,
            live: false,
            start: Start::IfKilled,
            stream: None,
            waiting: VecDeque::new(),
            sent: 0,
            taken: 0,
            base: None,
            doubtful: 0,
            ends: false,
            end_sent: false,
            end_taken: false,
            line: BytesMut::new(),
            over: false,
        };
        attached.stream = Some(attached.connect(client).await?);
        Ok(attached)
    }

    async fn connect(&self, client: &Client) -> Result<WebSocket, CliError> {
        let mut query = format!("/attach?follow={}&note={}", self.on, self.notes);
        for (name, at) in [("stdout", &self.begin.stdout), ("stderr", &self.begin.stderr)] {
            if let Some(at) = at {
                query.push_str(&format!("&{name}={at}"));
            }
        }
        if let Some(wait) = self.wait {
            query.push_str(&format!("&wait_ms={wait}"));
        }
        if let Some(base) = self.base.filter(|_| self.doubtful > 0) {
            query.push_str(&format!("&stdin={base}&resent={}", self.doubtful));
        }
        ws::open(client, &path(&self.session, &query), Offer::default()).await
    }

    /// Connects to the daemon again, which may have to be started.
    async fn reconnect(&mut self) -> Result<(), CliError> {
        self.stream = None;
        let until = Instant::now() + BACK;
        let stream = loop {
            let reached = reach(&self.ui, self.socket.clone(), self.start);
            let opened = async { self.connect(&reached.await?).await };
            match opened.await {
                Ok(stream) => break stream,
                // What the daemon itself says will not change.
                Err(error) if error.problem.is_some() || Instant::now() >= until => {
                    return Err(error.hint(format!("occ session attach {}", self.session)));
                }
                Err(_) => sleep(PAUSE).await,
            }
        };
        self.stream = Some(stream);
        self.start = Start::IfKilled;
        (self.sent, self.taken, self.end_sent) = (0, 0, false);
        Ok(())
    }

    /// Returns whether more input would have to wait: receive first.
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= MESSAGES
    }

    /// Returns whether all that was sent has been taken by the host.
    pub fn is_taken(&self) -> bool {
        self.waiting.is_empty() && self.ends == self.end_taken
    }

    /// Returns the input that is not known to be taken, and its offset, once that is known.
    pub(crate) fn untaken(&self) -> Option<(u64, Bytes)> {
        let bytes: Vec<u8> = self.waiting.iter().flatten().copied().collect();
        Some((self.base?, bytes.into()))
    }

    /// Returns where the input ends that the host has taken, as far as that is known: the offset of what comes next.
    pub fn input_end(&self) -> u64 {
        self.base.unwrap_or(0)
    }

    /// Sends input. What a broken connection swallows is sent again. Most of a long one is kept here, and sent while
    /// something is received: look at [`Attached::is_full`] before more is sent.
    ///
    /// # Errors
    /// None at this time: what goes wrong with the connection is told by [`Attached::receive`].
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
        for piece in bytes.chunks(PIECE) {
            self.waiting.push_back(Bytes::copy_from_slice(piece));
        }
        self.push().await;
        Ok(())
    }

    /// Ends the input: the program reads an end of file.
    ///
    /// # Errors
    /// None at this time, as with [`Attached::send`].
    pub async fn end_input(&mut self) -> Result<(), SessionError> {
        self.ends = true;
        self.push().await;
        Ok(())
    }

    /// Signals the program and what it has started.
    ///
    /// # Errors
    /// None at this time, as with [`Attached::send`].
    pub async fn signal(&mut self, name: &str) -> Result<(), SessionError> {
        self.control(&ExecControl::Signal { signal: name.to_owned() }).await;
        Ok(())
    }

    /// Ends the program: TERM, and KILL 2 s later. Its end is received.
    ///
    /// # Errors
    /// None at this time, as with [`Attached::send`].
    pub async fn kill(&mut self) -> Result<(), SessionError> {
        self.control(&ExecControl::Cancel).await;
        Ok(())
    }

    async fn control(&mut self, control: &ExecControl) {
        if let (Some(stream), Ok(text)) = (&mut self.stream, serde_json::to_string(control)) {
            // A connection that is gone is noticed by who reads it.
            let _ = stream.send(Message::text(text)).await;
        }
    }

    /// Sends what waits and was not sent on this connection, as far as the daemon takes it. Before the first event it is not
    /// known where it belongs. Dropping the future loses nothing.
    async fn push(&mut self) {
        let (Some(_), Some(stream)) = (self.base, &mut self.stream) else { return };
        // A connection that is gone is noticed by who reads it.
        while let Some(piece) = self.waiting.get(self.sent).filter(|_| self.sent < MESSAGES) {
            let mut message = BytesMut::with_capacity(piece.len() + 1);
            message.put_u8(STDIN);
            message.extend_from_slice(piece);
            // Not `send`: it may be dropped when the message is on its way.
            if stream.feed(Message::Binary(message.freeze())).await.is_err() {
                return;
            }
            self.sent += 1;
            let sent = self.waiting.iter().take(self.sent).map(|piece| piece.len() as u64).sum();
            self.doubtful = self.doubtful.max(sent);
        }
        if self.ends && !self.end_sent && self.sent == self.waiting.len() {
            if stream.feed(Message::binary([STDIN].as_slice())).await.is_err() {
                return;
            }
            self.end_sent = true;
        }
        let _ = stream.flush().await;
    }

    /// Waits for what comes next. After the last it must not be called again. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When the host or the daemon cannot be reached any more; the program goes on.
    pub async fn receive(&mut self) -> Result<Received, SessionError> {
        loop {
            self.push().await;
            let Some(stream) = &mut self.stream else {
                // Boxed: it seldom comes to that.
                Box::pin(self.reconnect()).await?;
                continue;
            };
            match stream.next().await {
                Some(Ok(Message::Binary(bytes))) => {
                    let stream = match bytes.first() {
                        Some(&STDOUT) => OutputStream::Stdout,
                        Some(&STDERR) => OutputStream::Stderr,
                        _ => continue,
                    };
                    let bytes = bytes.slice(1..);
                    self.move_on(stream, bytes.len() as u64);
                    return Ok(Received::Output { stream, bytes });
                }
                Some(Ok(Message::Text(text))) => {
                    let event = serde_json::from_str(&text).unwrap_or(SessionEvent::Unknown);
                    if let Some(received) = self.event(event)? {
                        return Ok(received);
                    }
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => {
                    self.stream = None;
                    if std::mem::take(&mut self.live) {
                        // That the host is down as well is no reason to leave it: the link is broken, by whichever end.
                        self.wait = Some(AGAIN);
                        return Ok(Received::Paused { message: "occd went away".to_owned() });
                    }
                }
            }
        }
    }

    fn at(&mut self, stream: OutputStream) -> &mut Option<String> {
        match stream {
            OutputStream::Stdout => &mut self.begin.stdout,
            OutputStream::Stderr => &mut self.begin.stderr,
        }
    }

    /// Notes how far a stream was read.
    fn move_on(&mut self, stream: OutputStream, by: u64) {
        let at = self.at(stream);
        let before: u64 = at.as_deref().and_then(|at| at.parse().ok()).unwrap_or(0);
        *at = Some((before + by).to_string());
    }

    fn event(&mut self, event: SessionEvent) -> Result<Option<Received>, CliError> {
        Ok(match event {
            SessionEvent::Attached { stdin, stdout, stderr } => {
                for (stream, at) in [(OutputStream::Stdout, stdout), (OutputStream::Stderr, stderr)]
                {
                    if let Some(at) = at {
                        *self.at(stream) = Some(at.to_string());
                    }
                }
                // On a new connection, the host drops what the old one has brought there.
                if self.doubtful == 0 && self.sent == 0 {
                    self.base = Some(stdin);
                }
                self.live = true;
                Some(Received::Live)
            }
            SessionEvent::Input { end, taken } => {
                let more = taken.saturating_sub(self.taken);
                self.taken = taken;
                self.drop_taken(more);
                self.base = Some(end);
                self.end_taken |= self.end_sent && self.waiting.is_empty();
                Some(Received::Taken)
            }
            SessionEvent::Gap { stream, from, to } => {
                let missing = to.saturating_sub(from);
                self.move_on(stream, missing);
                Some(Received::Gap { stream, from, missing })
            }
            SessionEvent::NoSpace { stream } => Some(Received::NoSpace(stream)),
            SessionEvent::Forwarded { url, here } => Some(Received::Forwarded { url, here }),
            SessionEvent::Paused { message } => Some(Received::Paused { message }),
            SessionEvent::Exit { code } => Some(self.last(Received::Exit(code))),
            SessionEvent::Lost => Some(self.last(Received::Lost)),
            SessionEvent::End => Some(self.last(Received::End)),
            // Another may take its place; nobody wants one to be started for that.
            SessionEvent::Error { problem } if problem.code == Code::ShuttingDown => {
                self.stream = None;
                self.start = Start::Never;
                None
            }
            SessionEvent::Error { problem } => return Err((*problem).into()),
            SessionEvent::Output { .. }
            | SessionEvent::BadControl { .. }
            | SessionEvent::Unknown => None,
        })
    }

    fn last(&mut self, received: Received) -> Received {
        self.over = true;
        received
    }

    /// Forgets input that the host has.
    fn drop_taken(&mut self, bytes: u64) {
        self.doubtful = self.doubtful.saturating_sub(bytes);
        let mut rest = usize::try_from(bytes).unwrap_or(usize::MAX);
        while rest > 0 {
            let Some(first) = self.waiting.front_mut() else { return };
            if first.len() > rest {
                drop(first.split_to(rest));
                return;
            }
            rest -= first.len();
            self.waiting.pop_front();
            self.sent = self.sent.saturating_sub(1);
        }
    }

    /// Waits for the next line of standard output, without its end; what is left at the end of the program counts as one.
    /// Standard error is passed over. `None` is the program's end.
    ///
    /// # Errors
    /// When the host or the daemon cannot be reached any more, when the host has ended the program, and when bytes of
    /// the line are kept no more.
    pub async fn receive_line(&mut self) -> Result<Option<Vec<u8>>, SessionError> {
        loop {
            if let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
                let mut line = self.line.split_to(end + 1).to_vec();
                line.pop();
                return Ok(Some(line));
            }
            if self.over {
                let rest = self.line.split().to_vec();
                return Ok((!rest.is_empty()).then_some(rest));
            }
            match self.receive().await? {
                Received::Output { stream: OutputStream::Stdout, bytes } => {
                    self.line.extend_from_slice(&bytes);
                }
                Received::Gap { stream: OutputStream::Stdout, missing, .. } => {
                    let text = format!("{missing} bytes of the session's output are kept no more");
                    return Err(CliError::failed(text).into());
                }
                Received::Lost => return Err(lost(&self.session).into()),
                _ => {}
            }
        }
    }
}

/// Returns the error for a session whose supervisor is gone.
pub(crate) fn lost(session: &str) -> CliError {
    CliError::outcome_unknown(format!(
        "Session '{session}' was lost, and how its program ended is not known: the host was rebooted, ends what a user leaves running at logout, or what watched over the program was killed."
    ))
    .hint(format!(
        "occ session kill {session} ends what may be left of it; loginctl enable-linger, on the host, keeps programs running after logout"
    ))
}
