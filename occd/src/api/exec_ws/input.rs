//! The client's side of a running command: input, signals, and its leaving.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::ws::Message;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use occ_proto::exec::{ExecControl, TtySize};
use tokio::sync::mpsc;

use super::{CONTROLS, Source};
use crate::api::websocket;
use crate::audit::Trail;
use crate::exec::Control;

/// How much memory input takes that is read ahead of the program, in bytes.
const READ_AHEAD: usize = 1024 * 1024;
/// What a message takes beside its bytes, about. Else a client could send empty ones without end.
const EACH: usize = 64;

/// What is read ahead of the program.
#[derive(Debug, Default)]
pub(super) struct ReadAhead {
    /// Bytes for the program, `None` for the end of file.
    queue: VecDeque<Option<Bytes>>,
    /// What they take in memory.
    size: usize,
    /// The last size of the client's terminal.
    resized: Option<TtySize>,
    /// What is wrong with messages of the client.
    wrong: Vec<String>,
}

/// What a client wants whose command has not begun.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wants {
    /// The command.
    It,
    /// The command no more.
    GiveUp,
    /// Nothing: it has gone.
    Nothing,
}

/// Returns what a piece of input takes in memory.
fn size_of(piece: Option<&Bytes>) -> usize {
    EACH + piece.map_or(0, Bytes::len)
}

impl ReadAhead {
    /// Returns whether more may be read.
    pub(super) fn has_room(&self) -> bool {
        self.size < READ_AHEAD
    }

    /// Takes a message to a command that has not begun. Returns what the client wants.
    pub(super) fn take(&mut self, message: Option<Message>) -> Wants {
        let wrong = match message {
            Some(Message::Text(text)) => match websocket::control(&text) {
                Ok(ExecControl::Resize(size)) => {
                    self.resized = Some(size);
                    return Wants::It;
                }
                // It has nobody to go to but us: what may be under way is ended.
                Ok(ExecControl::Signal { .. } | ExecControl::Cancel) => return Wants::GiveUp,
                Err(wrong) => wrong,
            },
            Some(Message::Binary(data)) => match self.push(&data) {
                Ok(_) => return Wants::It,
                Err(wrong) => wrong,
            },
            Some(Message::Ping(_) | Message::Pong(_)) => return Wants::It,
            None | Some(Message::Close(_)) => return Wants::Nothing,
        };
        if self.wrong.len() < CONTROLS {
            self.wrong.push(wrong);
        }
        Wants::It
    }

    /// Queues a binary message. Returns how many bytes there are in it for the program.
    ///
    /// # Errors
    /// With words when it is for nobody.
    pub(super) fn push(&mut self, message: &Bytes) -> Result<usize, String> {
        let piece = websocket::input(message)?;
        self.size += size_of(piece.as_ref());
        self.queue.push_back(piece);
        Ok(message.len() - 1)
    }

    fn pop(&mut self) -> Option<Option<Bytes>> {
        let piece = self.queue.pop_front()?;
        self.size -= size_of(piece.as_ref());
        Some(piece)
    }

    fn bytes(&self) -> usize {
        self.queue.iter().flatten().map(Bytes::len).sum()
    }
}

/// The client's side of a running command.
pub(super) struct Input {
    control: Control,
    /// Hears how much there is.
    trail: Trail,
    ahead: ReadAhead,
    writing: Option<BoxFuture<'static, ()>>,
    /// Takes what is wrong with the client's messages.
    wrong: mpsc::Sender<String>,
    /// The queue is full and the client's side is not read.
    pub(super) blocked: Arc<AtomicBool>,
}

impl Input {
    pub(super) fn new(
        (control, trail): (Control, Trail),
        mut early: ReadAhead,
        wrong: mpsc::Sender<String>,
    ) -> Self {
        trail.input(early.bytes());
        let told = std::mem::take(&mut early.wrong);
        let input =
            Self { control, trail, wrong, ahead: early, writing: None, blocked: Arc::default() };
        told.into_iter().for_each(|detail| input.tell(detail));
        input
    }

    /// Takes input and controls until the client has gone. A program that takes no input does not keep a
    /// signal from reaching it: some input is read ahead.
    pub(super) async fn run(&mut self, source: &mut Source) {
        if let Some(size) = self.ahead.resized.take() {
            self.control.resize(size).await;
        }
        loop {
            if self.writing.is_none() {
                self.write_next();
            }
            let room = self.ahead.has_room();
            self.blocked.store(!room, Ordering::Relaxed);
            let writing = async {
                match self.writing.as_mut() {
                    Some(writing) => writing.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = writing => self.writing = None,
                message = source.next(), if room => match message {
                    Some(message) => {
                        if !self.message(message).await {
                            return;
                        }
                    }
                    None => return,
                },
            }
        }
    }

    fn write_next(&mut self) {
        let Some(next) = self.ahead.pop() else { return };
        let control = self.control.clone();
        self.writing = Some(Box::pin(async move {
            let sent = match next {
                Some(data) => control.write(data).await,
                None => control.close_input().await,
            };
            if sent.is_err() {
                // The program has ended; what is still to come has no reader.
                tracing::trace!("input after the program's end");
            }
        }));
    }

    /// Has the client told what is wrong with its message.
    fn tell(&self, detail: String) {
        if self.wrong.try_send(detail).is_err() {
            tracing::debug!("a client is told of no more controls that are none");
        }
    }

    /// Handles a message. Returns false when it is the client's goodbye.
    async fn message(&mut self, message: Message) -> bool {
        match message {
            Message::Binary(data) => match self.ahead.push(&data) {
                Ok(bytes) => self.trail.input(bytes),
                Err(wrong) => self.tell(wrong),
            },
            Message::Text(text) => match websocket::control(&text) {
                Ok(ExecControl::Signal { signal }) => _ = self.control.signal(&signal).await,
                Ok(ExecControl::Resize(size)) => self.control.resize(size).await,
                Ok(ExecControl::Cancel) => self.control.cancel(),
                Err(wrong) => self.tell(wrong),
            },
            Message::Close(_) => return false,
            Message::Ping(_) | Message::Pong(_) => {}
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use occ_proto::exec::STDIN;

    use super::*;

    #[test]
    fn messages_without_a_byte_are_not_read_ahead_without_end() {
        let mut ahead = ReadAhead::default();
        let end = Bytes::from_static(&[STDIN]);
        let mut count = 0;
        while ahead.has_room() {
            assert_eq!(ahead.push(&end), Ok(0));
            count += 1;
            assert!(count < READ_AHEAD / 32, "{count}");
        }
        // What is for nobody is not kept.
        for nothing in [&[][..], &[7]] {
            let before = ahead.size;
            assert!(ahead.push(&Bytes::from_static(nothing)).is_err());
            assert_eq!(ahead.size, before);
        }
        while ahead.pop().is_some() {}
        assert_eq!((ahead.size, ahead.push(&Bytes::from_static(b"\0abc"))), (0, Ok(3)));
        assert_eq!((ahead.bytes(), ahead.pop()), (3, Some(Some(Bytes::from_static(b"abc")))));
    }
}
