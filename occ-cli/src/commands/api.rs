//! `occ api`: the daemon's API as JSON lines on standard input and output, for clients without HTTP.
//!
//! One task does everything: requests are futures of one set, and what they say goes through one bounded queue to
//! standard output. So a reader that stops stops the requests, and through them the daemon; nothing piles up here.
//! The contract is in docs/api.md; `ask.rs` reads lines, `answer.rs` serves one request, `said.rs` writes lines.

mod answer;
mod ask;
mod said;
mod split;

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;

use futures_util::StreamExt as _;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use occ_proto::error::{Code, Problem};
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};

use super::Context;
use crate::error::CliError;
use crate::stdio::{Descriptor, Input, reader_gone};
use answer::Work;
use ask::{Id, Line, Misread, Piece, Request};
use said::{Mouth, Said};
use split::Lines;

/// How many requests may be in flight: each has a connection, and a process often has 1024 descriptors.
const IN_FLIGHT: usize = 256;
/// How many requests and short answers of ours may wait; above that, no more lines are read.
const WAITING: usize = 2 * IN_FLIGHT;
/// How many lines may wait for standard output. They are short; see [`said::SHORT`].
const LINES: usize = 64;
/// How many messages to a WebSocket or an upload may wait, and how many bytes of them.
const PIECES: usize = 1024;
const PIECE_BYTES: usize = 16 * 1024 * 1024;

/// What all requests share.
pub(super) struct Api<'a> {
    context: &'a Context<'a>,
    mouth: Mouth,
    /// Held by whoever starts the daemon: the lock between processes blocks the only thread.
    starting: Mutex<()>,
}

/// A request in flight.
struct Flight {
    /// Ends it with that problem; used once. Its ID is taken until its last line has been said.
    end: Option<oneshot::Sender<Problem>>,
    /// Takes what is sent to it; nothing where nothing can be sent, or after the end.
    input: Option<mpsc::Sender<Piece>>,
    /// How many bytes of that wait.
    bytes: Rc<Cell<usize>>,
    /// What it has is a body, which is none without its end.
    upload: bool,
    /// It goes on in the daemon when it is left.
    goes_on: bool,
}

impl Flight {
    /// Ends it, and returns whether that is new to it. One that has ended meanwhile has said so.
    fn end(&mut self, problem: Problem) -> bool {
        self.input = None;
        self.end.take().is_some_and(|end| end.send(problem).is_ok())
    }

    /// Ends it for somebody who wants it no more, and returns whether that is new to it.
    fn cancel(&mut self) -> bool {
        self.end(match self.goes_on {
            true => {
                let detail = "The request was left, and goes on in occd if it was there: the same request with its Idempotency-Key fetches its answer.";
                Problem::new(502, Code::OutcomeUnknown, detail)
            }
            false => Problem::new(409, Code::Cancelled, "The request was cancelled."),
        })
    }

    /// Ends it if it is an upload that is not whole, and may have lost a piece to that problem. Returns whether it was.
    fn spoiled(&mut self, problem: &Problem) -> bool {
        if !self.upload || self.input.is_none() {
            return false;
        }
        let detail = format!(
            "{} It may have been a piece of what was sent: a file that it was to write is unchanged.",
            problem.detail
        );
        self.end(Problem { detail, ..problem.clone() })
    }

    /// Notes that nothing more can be sent to it.
    fn input_ended(&mut self) {
        if self.input.take().is_some() && self.upload {
            let detail = "The input ended before `close`: what was sent is no whole request, and a file that it was to write is unchanged.";
            self.end(Problem::new(400, Code::BadRequest, detail));
        }
    }
}

/// What happens next.
enum Next {
    Done(Option<Id>),
    Written(io::Result<()>),
    Line(io::Result<split::Read>),
    Gone,
}

/// Runs until the end of standard input, and until the requests in flight have been answered.
pub(crate) async fn run(context: &Context<'_>) -> Result<u8, CliError> {
    let failed = |what: &str, error: &io::Error| CliError::failed(format!("{what}: {error}."));
    let input = Input::stdin().map_err(|error| failed("standard input", &error))?;
    let output =
        Descriptor::of(&io::stdout()).map_err(|error| failed("standard output", &error))?;
    let (queue, said) = mpsc::channel(LINES);
    let room = std::sync::Arc::new(Semaphore::new(1));
    let mouth = Mouth::new(queue, room);
    let api = Api { context, mouth, starting: Mutex::new(()) };
    let mut flights = HashMap::new();
    let mut tasks: FuturesUnordered<LocalBoxFuture<'_, Option<Id>>> = FuturesUnordered::new();
    let mut lines = Lines::new(input);
    let mut writing = std::pin::pin!(write(output, said));
    let mut open = true;
    while open || !tasks.is_empty() {
        let next = tokio::select! {
            biased;
            Some(done) = tasks.next() => Next::Done(done),
            written = &mut writing => Next::Written(written),
            line = lines.next(), if open && tasks.len() < WAITING => Next::Line(line),
            () = reader_gone(), if !open => Next::Gone,
        };
        match next {
            Next::Done(None) => {}
            Next::Done(Some(id)) => {
                flights.remove(&id);
            }
            Next::Written(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => {
                return Err(failed("standard output", &error));
            }
            Next::Written(_) | Next::Gone => return Err(CliError::closed_pipe()),
            Next::Line(Err(error)) => return Err(failed("standard input", &error)),
            Next::Line(Ok(split::Read::End)) => {
                open = false;
                flights.values_mut().for_each(Flight::input_ended);
            }
            Next::Line(Ok(split::Read::Line { number, text })) => match ask::read(number, &text) {
                Ok(None) => {}
                Ok(Some(line)) => heard(&api, &mut flights, &tasks, number, line),
                Err(misread) => misheard(&api, &mut flights, &tasks, misread),
            },
            Next::Line(Ok(split::Read::TooLong { number })) => {
                misheard(&api, &mut flights, &tasks, Misread::too_long(number));
            }
        }
    }
    drop(tasks);
    drop(api);
    match writing.await {
        Ok(()) => Ok(0),
        Err(_) => Err(CliError::closed_pipe()),
    }
}

/// Says what is wrong with a line. It may have been a piece of an upload, and a file is not to be replaced by what is left.
fn misheard<'a>(
    api: &'a Api<'a>,
    flights: &mut HashMap<Id, Flight>,
    tasks: &FuturesUnordered<LocalBoxFuture<'a, Option<Id>>>,
    mut misread: Misread,
) {
    match misread.id.as_ref().map(|id| flights.get_mut(id)) {
        // What a request in flight is told is its own end.
        Some(Some(flight)) => {
            if flight.spoiled(&misread.problem) {
                return;
            }
            misread.id = None;
        }
        Some(None) => {}
        None => flights.values_mut().for_each(|flight| {
            flight.spoiled(&misread.problem);
        }),
    }
    tasks.push(say(api, Said::misread(&misread)));
}

/// Does what a line asks for.
fn heard<'a>(
    api: &'a Api<'a>,
    flights: &mut HashMap<Id, Flight>,
    tasks: &FuturesUnordered<LocalBoxFuture<'a, Option<Id>>>,
    number: u64,
    line: Line,
) {
    match line {
        Line::Request(request) => begin(api, flights, tasks, number, request),
        Line::Cancel { id, which } => {
            let cancelled = flights.get_mut(&which).is_some_and(Flight::cancel);
            if let Some(id) = id {
                tasks.push(say(api, Said::cancelled(&id, cancelled)));
            }
        }
        Line::Piece { id, piece } => {
            let flight = flights.get_mut(&id).filter(|flight| flight.end.is_some());
            let Some(flight) = flight else {
                // It may have ended while the line was on its way.
                tasks.push(say(api, Said::dropped(&id)));
                return;
            };
            let Some(input) = &flight.input else {
                let detail = "nothing can be sent to that request";
                tasks.push(say(api, Said::misread(&Misread::at(number, 1, None, detail))));
                return;
            };
            let (length, last) = (piece.len(), piece.is_last());
            let fits = flight.bytes.get() + length <= PIECE_BYTES;
            if fits && input.try_send(piece).is_ok() {
                flight.bytes.set(flight.bytes.get() + length);
                if last {
                    flight.input = None;
                }
            } else {
                let detail = "More was sent than is taken; wait for each `ack`.";
                flight.end(Problem::new(413, Code::TooLarge, detail));
            }
        }
    }
}

/// Begins a request.
fn begin<'a>(
    api: &'a Api<'a>,
    flights: &mut HashMap<Id, Flight>,
    tasks: &FuturesUnordered<LocalBoxFuture<'a, Option<Id>>>,
    number: u64,
    request: Request,
) {
    let id = request.id.clone();
    if flights.contains_key(&id) {
        let detail = format!("the id {id} is that of a request in flight");
        tasks.push(say(api, Said::misread(&Misread::at(number, 1, None, detail))));
        return;
    }
    if flights.len() >= IN_FLIGHT {
        let detail = format!("{IN_FLIGHT} requests are in flight already.");
        let problem = Problem::new(429, Code::TooManyRequests, detail);
        let body = serde_json::json!(Problem { retryable: true, ..problem });
        tasks.push(say(api, Said::failure(&id, 429, body)));
        return;
    }
    let (end, ended) = oneshot::channel();
    let (send, input) = mpsc::channel(PIECES);
    let bytes = Rc::new(Cell::new(0));
    let send = request.takes_input().then_some(send);
    let (upload, goes_on) = (request.upload, request.goes_on());
    let flight = Flight { end: Some(end), input: send, bytes: Rc::clone(&bytes), upload, goes_on };
    flights.insert(id.clone(), flight);
    let work = Work::new(api, request, input, bytes);
    tasks.push(Box::pin(async move {
        work.run(ended).await;
        Some(id)
    }));
}

/// Says a line of our own.
fn say<'a>(api: &'a Api<'a>, line: Said) -> LocalBoxFuture<'a, Option<Id>> {
    Box::pin(async move {
        api.mouth.say(line).await;
        None
    })
}

/// Writes lines until there are no more.
async fn write(mut output: Descriptor, mut said: mpsc::Receiver<Said>) -> io::Result<()> {
    while let Some(line) = said.recv().await {
        output.write(line.text.clone()).await?;
    }
    Ok(())
}
