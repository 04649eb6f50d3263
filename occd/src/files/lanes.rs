//! Writing a long file over several sessions at once.
//!
//! A server grants each channel a window, OpenSSH 2 MiB, and no more than that is under way in it: at 50 ms 40 MB/s,
//! whatever the line carries. So a long upload to a host that is far is spread over more channels of the same connection, each
//! a session of SFTP that writes its share of the same file.
//!
//! The others open it by its path, at which somebody else may have put a link by then: whoever may write to the directory. SFTP has
//! no number of a file, so the first session gives it a mark that nobody can foresee, a time of reading; what has another is not it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use super::sftp::{Fault, Handle, Sftp, WireAttrs};
use super::{FileError, Shown, remote};

/// Requests under way of one session alone, as many as OpenSSH's own client has.
const ALONE: usize = 64;
/// The same of each of several: twice what OpenSSH's window holds.
const EACH: usize = 32;
/// What one session may have under way, in bytes: OpenSSH's window (`CHAN_SES_WINDOW_DEFAULT`).
const WINDOW: u64 = 2 * 1024 * 1024;
/// What a line is thought to carry, in bytes per second, when there is no reason to believe in less.
const RATE: f64 = 200e6;
/// The most sessions of one upload: of ten that OpenSSH grants, others need some.
const MOST: usize = 5;
/// A file is long when so much of it has been written.
const LONG: u64 = 4 * WINDOW;
/// Marks are of the last years that 32 bits with a sign count: a kernel leaves times to come as they are when it notes reading.
const MARKS: std::ops::Range<u32> = 0x7800_0000..0x7fff_ffff;

/// A file that is open in one session.
struct Lane {
    sftp: Arc<Sftp>,
    handle: Handle,
    under_way: usize,
}

/// A request: whose it is, its end in the file, the answer.
type UnderWay = (usize, u64, BoxFuture<'static, Result<(), Fault>>);

/// A file that is open in one session or more.
pub(super) struct Lanes {
    path: Vec<u8>,
    /// The first is the one that it was made in.
    lanes: Vec<Lane>,
    /// More that are being opened.
    coming: Option<mpsc::Receiver<Lane>>,
    has_asked: bool,
    mark: Option<u32>,
    /// In the order of the file.
    under_way: VecDeque<UnderWay>,
    begun: u64,
    /// All before that is written.
    written: u64,
}

impl Lanes {
    pub(super) fn new(path: &[u8], sftp: Arc<Sftp>, handle: Handle, offset: u64) -> Self {
        Self {
            path: path.to_vec(),
            lanes: vec![Lane { sftp, handle, under_way: 0 }],
            coming: None,
            has_asked: false,
            mark: None,
            under_way: VecDeque::new(),
            begun: offset,
            written: offset,
        }
    }

    pub(super) fn chunk(&self) -> usize {
        self.lanes.iter().map(|lane| lane.sftp.write_chunk()).min().unwrap_or(1)
    }

    /// Returns the first session and its file.
    pub(super) fn first(&self) -> (&Arc<Sftp>, &Handle) {
        (&self.lanes[0].sftp, &self.lanes[0].handle)
    }

    /// Returns up to where all is written, if there may be something beyond that which is not whole, and the file's mark.
    pub(super) fn whole_until(&self) -> Option<(u64, u32)> {
        self.mark.filter(|_| self.lanes.len() > 1).map(|mark| (self.written, mark))
    }

    /// Waits for the oldest answer.
    async fn oldest(&mut self) -> Result<(), Fault> {
        let Some((_, _, answer)) = self.under_way.front_mut() else { return Ok(()) };
        let answer = answer.await;
        if let Some((lane, end, _)) = self.under_way.pop_front() {
            self.lanes[lane].under_way -= 1;
            if answer.is_ok() {
                self.written = end;
            }
        }
        answer
    }

    /// Sends bytes for the file at an offset.
    pub(super) async fn put(&mut self, offset: u64, data: Bytes) -> Result<(), Fault> {
        self.widen(offset).await?;
        let lane = loop {
            let most = if self.lanes.len() > 1 { EACH } else { ALONE };
            let least = self.lanes.iter().enumerate().min_by_key(|(_, lane)| lane.under_way);
            match least {
                Some((at, lane)) if lane.under_way < most => break at,
                _ => self.oldest().await?,
            }
        };
        let end = offset + data.len() as u64;
        let Lane { sftp, handle, under_way } = &mut self.lanes[lane];
        let answer = sftp.write(handle, offset, data).await?;
        *under_way += 1;
        self.under_way.push_back((lane, end, Box::pin(answer)));
        Ok(())
    }

    /// Takes more sessions in, and asks for them once the file shows to be long.
    async fn widen(&mut self, offset: u64) -> Result<(), Fault> {
        if let Some(coming) = &mut self.coming {
            while let Ok(lane) = coming.try_recv() {
                self.lanes.push(lane);
            }
        }
        if self.has_asked || offset - self.begun < LONG {
            return Ok(());
        }
        self.has_asked = true;
        let connection = Arc::clone(self.lanes[0].sftp.connection());
        let wanted = wanted(connection.rtt().unwrap_or_default());
        if wanted < 2 {
            return Ok(());
        }
        let mark = fastrand::u32(MARKS);
        let (sftp, handle) = self.first();
        let Some((_, changed)) = sftp.fstat(handle).await?.times else { return Ok(()) };
        let attrs = WireAttrs { times: Some((mark, changed)), ..WireAttrs::default() };
        if let Err(fault @ (Fault::Closed(_) | Fault::Silent(_))) =
            sftp.fsetstat(handle, &attrs).await
        {
            return Err(fault);
        }
        self.mark = Some(mark);
        let (sender, receiver) = mpsc::channel(MOST);
        self.coming = Some(receiver);
        let path = self.path.clone();
        Arc::clone(&connection).spawn(async move {
            let opening = (1..wanted).map(|_| lane(&connection, &path, mark));
            for opened in futures_util::future::join_all(opening).await {
                match opened {
                    // Whoever has no use for it any more closes it with its session.
                    Ok(lane) => drop(sender.send(lane).await),
                    // It goes without, only slower.
                    Err(error) => tracing::debug!(%error, "no more sessions for an upload"),
                }
            }
        });
        Ok(())
    }

    /// Waits until all is written and closes all but the first.
    pub(super) async fn join(&mut self) -> Result<(), Fault> {
        self.coming = None;
        while !self.under_way.is_empty() {
            self.oldest().await?;
        }
        for lane in self.lanes.drain(1..) {
            lane.sftp.close(&lane.handle).await?;
        }
        Ok(())
    }

    /// Gives the file what it is to have, and closes it.
    pub(super) async fn settle(
        &mut self,
        attrs: &WireAttrs,
        owner: Option<(u32, u32)>,
        sync: bool,
    ) -> Result<(), Fault> {
        self.join().await?;
        let (sftp, handle) = self.first();
        if let Some(owner) = owner {
            let ours = sftp.fstat(handle).await?.owner;
            if ours.is_some_and(|ours| ours != owner) {
                let attrs = WireAttrs { owner: Some(owner), ..WireAttrs::default() };
                super::upload::give(sftp.fsetstat(handle, &attrs).await);
            }
        }
        let mut attrs = *attrs;
        if attrs.times.is_none() && (self.mark.is_some() || self.begun > 0) {
            // Without its mark, or that of whoever began it.
            attrs.times = sftp.fstat(handle).await?.times.map(|(_, changed)| (changed, changed));
        }
        if attrs != WireAttrs::default() {
            sftp.fsetstat(handle, &attrs).await?;
        }
        if sync {
            sftp.fsync(handle).await?;
        }
        sftp.close(handle).await
    }
}

/// Returns how many sessions fill a line with that round trip.
fn wanted(rtt: Duration) -> usize {
    let under_way = rtt.as_secs_f64() * RATE;
    ((under_way / WINDOW as f64).ceil() as usize).clamp(1, MOST)
}

/// Returns whether a file has a mark.
pub(super) async fn has_mark(
    sftp: &Sftp,
    handle: &Handle,
    mark: Option<u32>,
) -> Result<bool, Fault> {
    let there = sftp.fstat(handle).await?.times.map(|(read, _)| read);
    Ok(there.is_some() && there == mark)
}

async fn lane(
    connection: &Arc<crate::ssh::Connection>,
    path: &[u8],
    mark: u32,
) -> Result<Lane, FileError> {
    let sftp = Arc::new(remote::open_beside(connection).await?);
    let failed = |fault| FileError::of(path, fault);
    let handle = sftp.open_to_write(path).await.map_err(failed)?;
    if !has_mark(&sftp, &handle, Some(mark)).await.map_err(failed)? {
        return Err(FileError::Changed(Shown::of(path)));
    }
    Ok(Lane { sftp, handle, under_way: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_far_host_gets_more_sessions() {
        for (ms, sessions) in [(0, 1), (5, 1), (20, 2), (50, 5), (300, 5)] {
            assert_eq!(wanted(Duration::from_millis(ms)), sessions, "{ms} ms");
        }
    }
}
