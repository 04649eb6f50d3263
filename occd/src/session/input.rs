//! A session's input: taken in one order, each byte once.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Mutex;

use super::error::SessionError;
use super::remote::{Remote, Taken};
use crate::exec::ExecError;
use crate::host::machine::Retry;

/// How much goes with one command. Each takes a round trip or two, and is sent as a whole again when the link breaks: less
/// goes with the next one then.
pub(crate) const PIECE: usize = 1024 * 1024;
/// How little goes with one command at least, over a link that breaks again and again.
const LEAST: usize = 32 * 1024;
/// How long a program that does not read its input is left alone, at first and at most.
const BUSY: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];
/// How many answers the link may swallow for a client that does not wait.
const LOSSES: u32 = 5;
/// The pause before a host is asked again that could not be.
const PAUSE: Duration = Duration::from_millis(500);

/// Where the input of a session ends, as far as this daemon knows. Whoever sends input has it meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Line(Mutex<Option<u64>>);

impl Line {
    /// Adds input and returns where it ends then: at `at`, where what is known of it is dropped and nothing may be missing before
    /// it, or else at the end. Waits for a program that does not read and, if `patient`, for a host that is down. A future that
    /// is dropped may have added it or not.
    pub(super) async fn add(
        &self,
        remote: &Remote,
        id: &str,
        at: Option<u64>,
        data: Bytes,
        last: bool,
        patient: bool,
    ) -> Result<u64, SessionError> {
        let mut end = self.0.lock().await;
        let mut from = match at.or(*end) {
            Some(from) => from,
            None => remote.look(id).await?.ok_or(SessionError::Gone)?.stdin,
        };
        let (mut again, mut busy, mut most) = (at.is_some(), BUSY[0], PIECE);
        let mut losses = 0;
        let mut rest = data;
        loop {
            let piece = rest.slice(..rest.len().min(most));
            let is_last = last && piece.len() == rest.len();
            let (taken, now) = match remote.input(id, from, piece, is_last, &mut again).await {
                Ok(taken) => taken,
                Err(error) if goes_on(&error, patient, &mut losses) => {
                    most = (most / 4).max(LEAST);
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            match taken {
                Taken::All => {
                    *end = Some(now);
                    // More than this piece may have been taken before, when it was a larger one.
                    let there = usize::try_from(now.saturating_sub(from)).unwrap_or(usize::MAX);
                    rest = rest.slice(there.min(rest.len())..);
                    if rest.is_empty() && (is_last || !last) {
                        return Ok(now);
                    }
                    from = now;
                    // What comes next was sent before only if it was part of a larger piece that was cut off.
                    again = at.is_some() || most < PIECE;
                }
                // Another daemon sent some, or another session is in this one's place.
                Taken::Moved | Taken::Hole if at.is_none() => from = now,
                Taken::Busy => {
                    tokio::time::sleep(busy).await;
                    busy = (busy * 2).min(BUSY[1]);
                }
                other => {
                    *end = Some(now);
                    return Err(refused(other, now));
                }
            }
        }
    }
}

fn refused(taken: Taken, end: u64) -> SessionError {
    match taken {
        Taken::Closed => SessionError::Closed { end },
        Taken::Unwritten => SessionError::Unwritten,
        Taken::Ended => SessionError::Ended,
        Taken::Lost => SessionError::Lost,
        Taken::All | Taken::Moved | Taken::Hole | Taken::Busy => SessionError::Hole { end },
    }
}

/// Returns whether to ask again: for as long as it takes if `patient`, else while the link breaks in mid-question.
fn goes_on(error: &SessionError, patient: bool, losses: &mut u32) -> bool {
    *losses += 1;
    match error {
        SessionError::LinkLost => patient || *losses <= LOSSES,
        SessionError::Exec(ExecError::Unreachable(inner)) => {
            patient && inner.error.retry() != Retry::Fatal
        }
        SessionError::Exec(ExecError::NoSession(_)) => patient,
        _ => false,
    }
}
