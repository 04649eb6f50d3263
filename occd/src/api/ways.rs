//! How requests get to files: permitted, and in their turns where there is a root.

use std::sync::Arc;
use std::time::Duration;

use axum::BoxError;
use axum::body::{Body as HttpBody, BodyDataStream, Bytes};
use axum::http::StatusCode;
use futures_util::{Stream, StreamExt as _, stream};
use occ_proto::Code;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::App;
use super::error::{ApiError, ApiResult};
use super::extract::FileAt;
use super::files::{about, problem};
use super::permit::{By, place_of};
use super::turns::Turn;
use crate::exec::Executor;
use crate::files::{FileError, FileSystem, Shown};
use crate::host::Tries;
use crate::policy::{self, Asker};

/// What a request may do to what is on the way to files.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ways {
    /// Nothing.
    Keeps,
    /// It gives names to links or to what has some in it.
    Moves,
}

/// Opens the files of a place, once the policy permits what is asked for. The path is then as that has it, and leads
/// nowhere else until the turn is dropped.
pub(super) async fn open(
    app: &App,
    by: By<'_>,
    at: &mut FileAt,
    retries: Option<u32>,
    (writes, follow): (bool, bool),
    ways: Ways,
) -> ApiResult<(FileSystem, Option<Turn>)> {
    let files = app.files.of(&at.executor, Tries::of(retries, None), by.1).await;
    let files = files.map_err(|error| problem(&at.executor, &error))?;
    let turn = turn(app, by.0, &at.executor, ways).await?;
    at.path = app.permit_file(by, &at.executor, &files, &at.path, (writes, follow)).await?;
    Ok((files, turn))
}

/// Returns what a server is known by: it may have several names.
pub(super) fn server_of(executor: &Executor) -> String {
    let key = match executor {
        Executor::Host(host) => {
            host.snapshot().primary.as_ref().and_then(|connection| connection.host_key())
        }
        Executor::Local(_) => None,
    };
    key.unwrap_or_else(|| executor.name().to_owned())
}

/// Waits for a turn, where there is a root.
pub(super) async fn turn(
    app: &App,
    asker: &Asker,
    executor: &Executor,
    ways: Ways,
) -> ApiResult<Option<Turn>> {
    if app.guard.roots(asker, &place_of(executor)).is_empty() {
        return Ok(None);
    }
    let server = server_of(executor);
    let turn = match ways {
        Ways::Keeps => app.turns.among(&server).await,
        Ways::Moves => app.turns.alone(&server).await,
    };
    turn.map(Some).map_err(|error| about(error, executor.host()))
}

/// How slowly an archive may come that others wait for, in bytes a second, and for how long that is not looked at.
const SLOWEST: f64 = 64.0 * 1024.0;
const GRACE: Duration = Duration::from_secs(10);

/// Returns the next piece of what a client sends. When the daemon stops, one that does not come is not waited for.
pub(super) async fn next_piece(
    app: &App,
    body: &mut BodyDataStream,
) -> ApiResult<Option<Result<Bytes, axum::Error>>> {
    tokio::select! {
        biased;
        () = app.reads_no_more() => {
            let detail = "occd stops, and not all that was to be written has come.";
            Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, Code::ShuttingDown, detail))
        }
        piece = body.next() => Ok(piece),
    }
}

/// Returns the next piece of an archive. One that others wait for has to come at a pace.
pub(super) async fn next_of_archive(
    app: &App,
    body: &mut BodyDataStream,
    (begun, taken): (Instant, u64),
    is_awaited: bool,
) -> ApiResult<Option<Result<Bytes, axum::Error>>> {
    if !is_awaited {
        return next_piece(app, body).await;
    }
    let slow = || {
        let detail = "The archive comes too slowly: below a root others wait for its end.";
        ApiError::new(StatusCode::REQUEST_TIMEOUT, Code::RequestTimeout, detail).after(GRACE)
    };
    let late = begun.elapsed().saturating_sub(GRACE).as_secs_f64() * SLOWEST;
    #[expect(clippy::cast_precision_loss, reason = "it is compared with an estimate")]
    if (taken as f64) < late {
        return Err(slow());
    }
    timeout(GRACE, next_piece(app, body)).await.map_err(|_| slow())?
}

/// Returns the body of an answer that is made in a turn. That ends with what makes the answer, or when the client takes the
/// answer too slowly: others wait for it.
pub(super) fn in_turn<E: Into<BoxError> + Send + 'static>(
    app: &App,
    turn: Option<Turn>,
    pieces: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
) -> HttpBody {
    let Some(turn) = turn else { return HttpBody::from_stream(pieces) };
    let (send, mut taken) = mpsc::channel::<Result<Bytes, BoxError>>(1);
    app.tasks.spawn(async move {
        let mut pieces = Box::pin(pieces);
        let (mut waited, mut length) = (Duration::ZERO, 0);
        loop {
            let next = tokio::select! {
                () = send.closed() => return,
                next = pieces.next() => next,
            };
            let Some(piece) = next.map(|piece| piece.map_err(Into::into)) else { return };
            #[expect(clippy::cast_precision_loss, reason = "it is an estimate")]
            let patience = GRACE + Duration::from_secs_f64(length as f64 / SLOWEST);
            length += piece.as_ref().map_or(0, Bytes::len);
            let begun = Instant::now();
            match timeout(patience.saturating_sub(waited), send.reserve()).await {
                Ok(Ok(place)) => place.send(piece),
                Ok(Err(_)) => return,
                Err(_) => break,
            }
            waited += begun.elapsed();
        }
        drop((pieces, turn));
        let why = "an answer was taken too slowly: below a root others wait for its end";
        tracing::warn!("{why}");
        // So that it does not look like its end.
        let _ = send.send(Err(why.into())).await;
    });
    HttpBody::from_stream(stream::poll_fn(move |cx| taken.poll_recv(cx)))
}

/// Whoever looks at a directory time and again.
pub(super) struct Looking {
    pub(super) app: Arc<App>,
    pub(super) asker: Asker,
    pub(super) executor: Executor,
    pub(super) dir: Vec<u8>,
    pub(super) confined: bool,
}

impl Looking {
    /// Waits for a turn to look, and sees that the directory is where it was.
    pub(super) async fn enter(&self, fs: &FileSystem) -> Result<Option<Turn>, FileError> {
        if !self.confined {
            return Ok(None);
        }
        let turn = loop {
            // Whoever watches waits longer than others do.
            if let Ok(turn) = turn(&self.app, &self.asker, &self.executor, Ways::Keeps).await {
                break turn;
            }
        };
        match policy::resolve(fs, &self.dir, true).await? {
            Some(real) if real == self.dir => Ok(turn),
            _ => Err(FileError::NotFound(Shown::of(&self.dir))),
        }
    }
}
