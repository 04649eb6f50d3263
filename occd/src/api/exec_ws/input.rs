//! The client's side of a running command: input, signals, and its leaving.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::ws::Message;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use occ_proto::exec::{ExecControl, STDIN};

use tokio::sync::mpsc;

use super::Source;
use crate::audit::Trail;
use crate::exec::Control;

/// How much input is read ahead of the program.
pub(super) const READ_AHEAD: usize = 1024 * 1024;

/// The client's side of a running command.
pub(super) struct Input {
    control: Control,
    /// Hears how much there is.
    trail: Trail,
    /// Bytes for the program, `None` for the end of file.
    queue: VecDeque<Option<Bytes>>,
    queued: usize,
    writing: Option<BoxFuture<'static, ()>>,
    /// Takes what is wrong with the client's controls.
    wrong: mpsc::Sender<String>,
    /// The queue is full and the client's side is not read.
    pub(super) blocked: Arc<AtomicBool>,
}

impl Input {
    pub(super) fn new(
        (control, trail): (Control, Trail),
        early: VecDeque<Message>,
        wrong: mpsc::Sender<String>,
    ) -> Self {
        let mut input = Self {
            control,
            trail,
            wrong,
            queue: VecDeque::new(),
            queued: 0,
            writing: None,
            blocked: Arc::default(),
        };
        for message in early {
            if let Message::Binary(data) = message {
                input.take(&data);
            }
        }
        input
    }

    /// Takes input and controls until the client has gone. A program that takes no input does not keep a
    /// signal from reaching it: some input is read ahead.
    pub(super) async fn run(&mut self, source: &mut Source) {
        loop {
            if self.writing.is_none() {
                self.write_next();
            }
            let room = self.queued < READ_AHEAD;
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
                    Some(Ok(message)) => {
                        if !self.message(message).await {
                            return;
                        }
                    }
                    None | Some(Err(_)) => return,
                },
            }
        }
    }

    fn write_next(&mut self) {
        let Some(next) = self.queue.pop_front() else { return };
        self.queued -= next.as_ref().map_or(0, Bytes::len);
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

    /// Queues a binary message.
    fn take(&mut self, data: &Bytes) {
        if data.first() == Some(&STDIN) {
            self.queued += data.len() - 1;
            self.trail.input(data.len() - 1);
            self.queue.push_back((data.len() > 1).then(|| data.slice(1..)));
        }
    }

    /// Has the client told what is wrong with its control.
    fn tell(&self, detail: String) {
        if self.wrong.try_send(detail).is_err() {
            tracing::debug!("a client is told of no more controls that are none");
        }
    }

    /// Handles a message. Returns false when it is the client's goodbye.
    async fn message(&mut self, message: Message) -> bool {
        match message {
            Message::Binary(data) => self.take(&data),
            Message::Text(text) => match serde_json::from_str(&text) {
                Ok(ExecControl::Signal { signal }) => {
                    if !self.control.signal(&signal).await {
                        self.tell(format!("{signal:?} is no signal"));
                    }
                }
                Ok(ExecControl::Resize(size)) => self.control.resize(size).await,
                Ok(ExecControl::Cancel) => self.control.cancel(),
                Err(error) => self.tell(error.to_string()),
            },
            Message::Close(_) => return false,
            Message::Ping(_) | Message::Pong(_) => {}
        }
        true
    }
}
