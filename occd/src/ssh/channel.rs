//! One channel of a connection: opened, used, and always ended.
//!
//! russh sends nothing when a channel is dropped, and its own `close` leaves an entry of 3–4 KiB behind
//! for ever, because russh forgets the channel before the server's answer comes. So a channel is ended by
//! ending what runs on it and letting the server close it; a close of our own is the last resort.

use std::collections::HashSet;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use occ_proto::exec::{Tty, TtySize};
use russh::client::Msg;
use russh::{ChannelWriteHalf, Sig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use super::connection::Connection;
use super::inbox::{ANSWERS, Closed, ExitReport, Frame, Inbox, OutputLost};
use super::marker::Marker;
use super::preamble::{Preamble, TooLong};
use super::sessions::StreamPlace;

/// How long a program has between TERM and KILL, and between KILL and end of file.
const GRACE: Duration = Duration::from_secs(2);
/// How long the server has to close a channel after end of file before we close it ourselves.
const CLOSE: Duration = Duration::from_secs(5);

/// How much of standard error is kept of a byte stream, in bytes: what one error takes.
const SAID: usize = 1024;

/// An open channel without an owner's duties: what a spare is made of.
#[derive(Debug)]
pub(super) struct RawChannel {
    /// A session channel, as opposed to one to a socket.
    pub(super) session: bool,
    pub(super) write: ChannelWriteHalf<Msg>,
    pub(super) inbox: Arc<Inbox>,
}

/// An open channel. Dropping it ends what runs on it, in the background.
#[derive(Debug)]
pub struct Channel {
    // Taken only when dropped.
    raw: Option<RawChannel>,
    inbox: Arc<Inbox>,
    connection: Arc<Connection>,
    /// A program was asked for, so that there may be something to end.
    program: AtomicBool,
    /// It has a terminal.
    tty: AtomicBool,
    /// It is a byte stream: what runs on it ends with its input. The docker program, for one, ignores TERM.
    stream: bool,
    /// What finds the program where the server refuses signals.
    marker: OnceLock<Marker>,
    ended: AtomicBool,
    /// See [`Channel::in_background`].
    background: AtomicBool,
    /// Its place among those that carry streams, until the server has its session back.
    place: Option<StreamPlace>,
}

impl Channel {
    pub(super) fn new(raw: RawChannel, connection: Arc<Connection>) -> Self {
        connection.channel_opened();
        Self {
            inbox: Arc::clone(&raw.inbox),
            raw: Some(raw),
            connection,
            program: AtomicBool::new(false),
            tty: AtomicBool::new(false),
            stream: false,
            marker: OnceLock::new(),
            ended: AtomicBool::new(false),
            background: AtomicBool::new(false),
            place: None,
        }
    }

    /// Keeps the place until the channel has ended.
    pub(super) fn hold(&mut self, place: StreamPlace) {
        self.place = Some(place);
    }

    #[expect(clippy::expect_used, reason = "taken in drop alone")]
    fn write_half(&self) -> &ChannelWriteHalf<Msg> {
        &self.raw.as_ref().expect("present until dropped").write
    }

    /// Tells whoever traces the host of what is about to be sent.
    fn goes(&self, kind: &'static str, bytes: &[u8]) {
        self.connection.shared().tap.goes(self.write_half().id(), kind, bytes);
    }

    /// Returns the connection the channel is on.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Counts the channel as one that is in use no longer: it only stands by, and can be opened anew. A connection
    /// that closes does not wait for it, and a host with nothing else is not in use.
    pub fn in_background(&self) {
        if !self.background.swap(true, Ordering::Relaxed) {
            self.connection.one_less();
        }
    }

    /// Asks for a command. The answer is awaited with [`Channel::accepted`].
    pub async fn request_exec(&self, command: &[u8]) -> Result<(), Closed> {
        self.program.store(true, Ordering::Relaxed);
        if self.connection.lends_agent() {
            // A server that does not want it runs the command without, as with ssh.
            self.send(self.write_half().agent_forward(false)).await?;
        }
        self.goes("exec", command);
        self.send(self.write_half().exec(true, command)).await
    }

    /// Offers variables for the program's environment the protocol's own way (RFC 4254, section 6.4), in which no process
    /// list shows them, and returns the names of those that the server takes. It is asked about each name once for a
    /// connection, which takes a round trip; servers take few (`AcceptEnv`).
    pub async fn offer_variables<'a>(
        &self,
        variables: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<HashSet<&'a str>, Closed> {
        let mut taken = HashSet::new();
        let mut asked = Vec::new();
        for (name, value) in variables {
            let known = self.connection.variables.takes(name);
            if known == Some(false) {
                continue;
            }
            // Whatever comes of it, nobody else is to find it here.
            self.program.store(true, Ordering::Relaxed);
            self.goes("env", name.as_bytes());
            self.send(self.write_half().set_env(known.is_none(), name, value)).await?;
            match known {
                Some(_) => drop(taken.insert(name)),
                None => asked.push(name),
            }
            if asked.len() == ANSWERS {
                self.hear_of(&mut asked, &mut taken).await?;
            }
        }
        self.hear_of(&mut asked, &mut taken).await?;
        Ok(taken)
    }

    /// Waits for the answers about variables.
    async fn hear_of<'a>(
        &self,
        asked: &mut Vec<&'a str>,
        taken: &mut HashSet<&'a str>,
    ) -> Result<(), Closed> {
        for name in asked.drain(..) {
            let is_taken = self.accepted().await?;
            self.connection.variables.note(name, is_taken);
            if is_taken {
                taken.insert(name);
            }
        }
        Ok(())
    }

    /// Asks for a subsystem, such as `sftp`. The answer is awaited with [`Channel::accepted`].
    pub async fn request_subsystem(&self, name: &str) -> Result<(), Closed> {
        self.program.store(true, Ordering::Relaxed);
        self.goes("subsystem", name.as_bytes());
        self.send(self.write_half().request_subsystem(true, name)).await
    }

    /// Asks for a terminal, and then for a command, or for the login shell where there is none. There are two
    /// answers to await with [`Channel::accepted`], the terminal's first.
    pub async fn request_in_terminal(
        &self,
        tty: &Tty,
        command: Option<&[u8]>,
    ) -> Result<(), Closed> {
        self.program.store(true, Ordering::Relaxed);
        self.tty.store(true, Ordering::Relaxed);
        let write = self.write_half();
        if self.connection.lends_agent() {
            self.send(write.agent_forward(false)).await?;
        }
        let TtySize { cols, rows } = tty.size;
        let (cols, rows) = (u32::from(cols), u32::from(rows));
        self.goes("pty", tty.term.as_bytes());
        // The modes are those of a new terminal of the host's.
        self.send(write.request_pty(true, &tty.term, cols, rows, 0, 0, &[])).await?;
        self.goes(if command.is_some() { "exec" } else { "shell" }, command.unwrap_or_default());
        match command {
            Some(command) => self.send(write.exec(true, command)).await,
            None => self.send(write.request_shell(true)).await,
        }
    }

    /// Tells the program's terminal its size.
    pub async fn resize(&self, size: TtySize) -> Result<(), Closed> {
        let (cols, rows) = (u32::from(size.cols), u32::from(size.rows));
        self.goes("resize", &[]);
        self.send(self.write_half().window_change(cols, rows, 0, 0)).await
    }

    /// Tells how the program can be found where the server refuses signals (`marker.rs`).
    pub fn set_marker(&self, marker: Marker) {
        // One program runs on a channel.
        let _ = self.marker.set(marker);
    }

    /// Waits for the answer to the request: accepted or refused.
    pub async fn accepted(&self) -> Result<bool, Closed> {
        self.inbox.accepted().await
    }

    /// Waits for the next bytes. `None` means that no more comes.
    pub async fn recv(&self) -> Option<Frame> {
        self.inbox.recv().await
    }

    /// Waits until the program has ended or the channel is closed.
    pub async fn exited(&self) {
        self.inbox.exited().await;
    }

    /// Waits until the channel is closed.
    pub async fn closed(&self) -> Closed {
        self.inbox.closed().await
    }

    /// Returns whether any output has arrived.
    pub fn has_received(&self) -> bool {
        self.inbox.received() > 0
    }

    /// Returns how the program ended, if the server has told.
    pub fn exit(&self) -> Option<ExitReport> {
        self.inbox.exit()
    }

    /// Returns why the channel is closed, if it is.
    pub fn closed_reason(&self) -> Option<Closed> {
        self.inbox.closed_reason()
    }

    /// Returns whether all output has arrived, as far as the server says.
    pub fn output_complete(&self) -> bool {
        self.inbox.is_complete()
    }

    /// Waits until output is lost, because there was too much to keep or no place for it.
    pub async fn output_lost(&self) -> OutputLost {
        self.inbox.output_lost().await
    }

    /// Returns why output was lost, if any was.
    pub fn lost_output(&self) -> Option<OutputLost> {
        self.inbox.lost()
    }

    /// Sends bytes to the program, as fast as it takes them.
    pub async fn write(&self, data: Bytes) -> Result<(), Closed> {
        self.goes("data", &data);
        self.send(self.write_half().data_bytes(data)).await
    }

    /// The same with what a person was asked for, which whoever traces the host does not see.
    pub async fn write_secret(&self, data: Bytes) -> Result<(), Closed> {
        self.connection.shared().tap.goes_unseen(self.write_half().id(), data.len());
        self.send(self.write_half().data_bytes(data)).await
    }

    /// Tells the program that nothing more comes.
    pub async fn eof(&self) -> Result<(), Closed> {
        self.goes("eof", &[]);
        self.send(self.write_half().eof()).await
    }

    /// Sends a signal to the program. Servers may ignore it; nothing tells.
    pub async fn signal(&self, signal: Sig) -> Result<(), Closed> {
        let marker = self.marker.get();
        if marker.is_none_or(Marker::goes_beside_the_server) {
            self.goes("signal", super::signal::name(&signal).as_bytes());
            self.send(self.write_half().signal(signal.clone())).await?;
        }
        if let Some(marker) = marker {
            marker.send(&self.connection, &signal).await;
        }
        Ok(())
    }

    /// Races a write against the channel's end: russh does not wake a writer that waits for window when
    /// the channel or the connection is gone.
    async fn send(
        &self,
        sending: impl Future<Output = Result<(), russh::Error>>,
    ) -> Result<(), Closed> {
        tokio::select! {
            biased;
            result = sending => match result {
                Ok(()) => Ok(()),
                Err(_) => Err(self.lost()),
            },
            closed = self.inbox.closed() => Err(closed),
        }
    }

    /// The session loop takes no messages any more.
    fn lost(&self) -> Closed {
        self.inbox
            .closed_reason()
            .unwrap_or_else(|| Closed::Connection(self.connection.shared().cause()))
    }

    /// Ends the program: TERM, then KILL, then end of file. Returns whether it is known to have ended:
    /// the server closed the channel or told how it exited. Output goes on arriving meanwhile.
    pub async fn end(&self) -> bool {
        self.ended.store(true, Ordering::Relaxed);
        self.inbox.hurry();
        let signals = self.signals();
        let marker = self.marker.get();
        wind_down(&self.connection, self.write_half(), &self.inbox, signals, marker).await
    }

    /// Returns the signals that end what runs on it.
    fn signals(&self) -> &'static [Sig] {
        match (self.program.load(Ordering::Relaxed), self.tty.load(Ordering::Relaxed)) {
            (false, _) => &[],
            (true, false) => &[Sig::TERM, Sig::KILL],
            // An interactive shell ignores TERM, and passes on that its terminal is gone.
            (true, true) => &[Sig::HUP, Sig::KILL],
        }
    }

    /// Returns whether [`Channel::end`] was called.
    pub fn was_told_to_end(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Returns the channel as a byte stream, for protocols that run over it. Standard error is no part of it.
    pub fn into_stream(self) -> ChannelStream {
        ChannelStream::new(self, None)
    }

    /// Returns the stream of a script, which begins behind its word.
    pub fn into_script_stream(self) -> ChannelStream {
        ChannelStream::new(self, Some(Preamble::default()))
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        let Some(raw) = self.raw.take() else { return };
        let connection = Arc::clone(&self.connection);
        let session = raw.session;
        if *self.background.get_mut() {
            // It was counted off, and is counted off once more when it ends.
            connection.channel_opened();
        }
        if raw.inbox.closed_reason() == Some(Closed::ByServer) || connection.is_closed() {
            connection.channel_ended(session);
            return;
        }
        let asked = self.program.load(Ordering::Relaxed);
        let signals = if self.ended.load(Ordering::Relaxed) { &[] } else { self.signals() };
        let unused = session && !asked;
        let tty = self.tty.load(Ordering::Relaxed);
        let kept = if unused { connection.keep_spare(raw) } else { Some(raw) };
        let Some(raw) = kept else {
            connection.channel_ended(false);
            return;
        };
        raw.inbox.discard();
        let marker = self.marker.take();
        let (place, stream) = (self.place.take(), self.stream);
        let task_owner = Arc::clone(&connection);
        task_owner.spawn(async move {
            // A session on which nothing was started has nothing to end, and its server waits for ever.
            // A terminal that is closed says to what runs in it that it is gone, where signals do not reach it.
            let at_once = unused || (tty && connection.signal_fault().is_some());
            if !at_once {
                if stream {
                    connection.shared().tap.goes(raw.write.id(), "eof", &[]);
                    if let Err(error) = raw.write.eof().await {
                        tracing::debug!(%error, "the connection ended before a stream did");
                    }
                }
                let marker = marker.as_ref();
                wind_down(&connection, &raw.write, &raw.inbox, signals, marker).await;
            }
            if at_once || timeout(CLOSE, raw.inbox.closed()).await.is_err() {
                // Costs an entry in russh's table, and frees the server's session.
                if let Err(error) = raw.write.close().await {
                    tracing::debug!(%error, "the connection ended before a channel was closed");
                }
            }
            connection.channel_ended(session);
            drop(place);
        });
    }
}

/// See [`Channel::end`].
async fn wind_down(
    connection: &Arc<Connection>,
    write: &ChannelWriteHalf<Msg>,
    inbox: &Inbox,
    signals: &[Sig],
    marker: Option<&Marker>,
) -> bool {
    let goes = |kind, bytes: &[u8]| connection.shared().tap.goes(write.id(), kind, bytes);
    let send = async {
        // The process number of a program that has exited is not ours any more.
        if inbox.exit().is_none() {
            for signal in signals {
                if marker.is_none_or(Marker::goes_beside_the_server) {
                    goes("signal", super::signal::name(signal).as_bytes());
                    write.signal(signal.clone()).await?;
                }
                if let Some(marker) = marker {
                    marker.send(connection, signal).await;
                }
                if timeout(GRACE, inbox.exited()).await.is_ok() {
                    break;
                }
            }
        }
        goes("eof", &[]);
        write.eof().await
    };
    tokio::select! {
        biased;
        _ = inbox.closed() => {}
        result = send => {
            if result.is_ok() {
                // A background child may hold the output open; the program itself has then exited.
                let _ = timeout(GRACE, inbox.closed()).await;
            }
        }
    }
    inbox.exit().is_some() || inbox.closed_reason() == Some(Closed::ByServer)
}

/// The beginning of a program's standard error, shared with whoever tells of it.
#[derive(Debug, Default, Clone)]
pub struct Stderr(Arc<Mutex<Vec<u8>>>);

impl Stderr {
    fn take(&self, data: &[u8]) {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = SAID.saturating_sub(said.len());
        said.extend_from_slice(&data[..data.len().min(room)]);
    }

    /// Returns the last line of it that has come.
    pub fn last_line(&self) -> Option<String> {
        let said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let said = String::from_utf8_lossy(&said);
        said.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned)
    }
}

/// A channel as a byte stream.
pub struct ChannelStream {
    channel: Arc<Channel>,
    /// What comes before a script's own output.
    preamble: Option<Preamble>,
    frame: Bytes,
    stderr: Stderr,
    receiving: Option<Pin<Box<dyn Future<Output = Option<Frame>> + Send>>>,
    writer: Pin<Box<dyn AsyncWrite + Send>>,
    closed: Pin<Box<dyn Future<Output = Closed> + Send>>,
}

impl std::fmt::Debug for ChannelStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChannelStream").field("channel", &self.channel).finish_non_exhaustive()
    }
}

impl ChannelStream {
    fn new(mut channel: Channel, preamble: Option<Preamble>) -> Self {
        channel.stream = true;
        let writer = Box::pin(channel.write_half().make_writer());
        let inbox = Arc::clone(&channel.inbox);
        Self {
            channel: Arc::new(channel),
            preamble,
            frame: Bytes::new(),
            stderr: Stderr::default(),
            receiving: None,
            writer,
            closed: Box::pin(async move { inbox.closed().await }),
        }
    }
}

impl ChannelStream {
    /// Returns what comes on standard error.
    pub fn stderr(&self) -> Stderr {
        self.stderr.clone()
    }

    /// Returns whether the other side has said that nothing more comes.
    pub fn is_ended(&self) -> bool {
        self.channel.output_complete() || self.channel.closed_reason().is_some()
    }
}

impl AsyncRead for ChannelStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.frame.is_empty() {
            let inbox = Arc::clone(&self.channel.inbox);
            let receiving =
                self.receiving.get_or_insert_with(|| Box::pin(async move { inbox.recv().await }));
            let next = ready!(receiving.as_mut().poll(cx));
            self.receiving = None;
            match next {
                Some(frame) if frame.stream() == occ_proto::exec::STDOUT => {
                    self.frame = match &mut self.preamble {
                        None => frame.data(),
                        Some(preamble) => match preamble.pass(frame.data()) {
                            Ok(passed) => passed.unwrap_or_default(),
                            Err(TooLong) => {
                                let text = "the host runs something else than it was asked to";
                                return Poll::Ready(Err(io::Error::other(text)));
                            }
                        },
                    };
                }
                Some(frame) => {
                    self.stderr.take(&frame.data());
                }
                None => {
                    // Whatever ran in a script's place has said this.
                    if let Some(preamble) = self.preamble.take().filter(|one| !one.is_over()) {
                        self.stderr.take(preamble.text().as_bytes());
                    }
                    return Poll::Ready(Ok(()));
                }
            }
        }
        let n = self.frame.len().min(buf.remaining());
        buf.put_slice(&self.frame[..n]);
        self.frame.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl ChannelStream {
    /// Fails a write that could wait for ever once the channel is gone.
    fn check_open(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.closed.as_mut().poll(cx) {
            Poll::Ready(_) => {
                // Polled again on the next write: it must not be a finished future then.
                let inbox = Arc::clone(&self.channel.inbox);
                self.closed = Box::pin(async move { inbox.closed().await });
                Err(io::Error::new(io::ErrorKind::BrokenPipe, "the channel is closed"))
            }
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncWrite for ChannelStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_open(cx)?;
        let written = ready!(self.writer.as_mut().poll_write(cx, buf))?;
        self.channel.goes("data", buf.get(..written).unwrap_or_default());
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.check_open(cx).is_err() {
            return Poll::Ready(Ok(()));
        }
        ready!(self.writer.as_mut().poll_shutdown(cx))?;
        self.channel.goes("eof", &[]);
        Poll::Ready(Ok(()))
    }
}
