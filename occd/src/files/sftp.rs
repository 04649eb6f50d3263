//! A client of SFTP version 3 over one channel.
//!
//! Ours, because the crate for russh has names and handles as `String`: a name that is not UTF-8 would come out as
//! another one. Any number of requests may be under way; each may be given up at any moment, its answer is then
//! dropped. Requests are written whole by one task, answers are read by another.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use occ_proto::exec::STDOUT;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use crate::ssh::{Channel, Closed, Connection};

mod wire;

pub(crate) use wire::WireAttrs;
use wire::{Malformed, Packet, Reader};

/// The longest packet that is read, in bytes: OpenSSH's own limit (`SFTP_MAX_MSG_LENGTH`).
const LONGEST: usize = 256 * 1024;
/// Requests that wait to be written. As many as may be under way for one file.
const QUEUE: usize = 64;
/// How long the server may be silent while it owes an answer. From its last byte, not from the request: a slow link
/// takes long for what is queued before. A link that is dead is found by keep-alives, long before.
const SILENCE: Duration = Duration::from_secs(120);
/// The most bytes of one READ or WRITE: with 64 under way 8 MiB, which fill a link of 150 MB/s at 50 ms.
const CHUNK: u64 = 128 * 1024;
/// What every server takes (section 3 of the draft: packets of 34,000 bytes).
const CHUNK_OF_ALL: u64 = 32 * 1024;

/// Why a request has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// There is no such file (or a part of its path is none).
    NoSuchFile,
    /// Not allowed.
    Permission,
    /// The server says no more than that it failed.
    Failure(String),
    /// Not a name that the server takes, such as one that is too long.
    BadMessage,
    /// The server does not know the operation.
    Unsupported,
    /// The end of the file, or of the list.
    Eof,
    /// The channel is gone.
    Closed(Closed),
    /// The server broke the protocol.
    Protocol(&'static str),
    /// The server has said nothing for so long.
    Silent(Duration),
}

impl From<Malformed> for Fault {
    fn from(_: Malformed) -> Self {
        Self::Protocol("a packet ends too early")
    }
}

/// What a server offers beside the standard.
#[derive(Debug, Default, Clone, Copy)]
struct Offers {
    posix_rename: bool,
    fsync: bool,
    statvfs: bool,
    limits: bool,
    lsetstat: bool,
}

/// An open file or directory. It is closed once: servers give what was closed to the next that is opened, and whoever closed it
/// again would close that.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    bytes: Bytes,
    is_closed: Arc<AtomicBool>,
}

/// An answer: its kind, and what follows its number.
type Answer = Result<(u8, Bytes), Fault>;

#[derive(Debug)]
struct Pending {
    waiting: HashMap<u32, oneshot::Sender<Answer>>,
    /// When the last byte came.
    heard: Instant,
    /// Why no answer comes any more.
    over: Option<Fault>,
}

#[derive(Debug)]
struct Shared {
    pending: Mutex<Pending>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, fault: Fault) {
        let mut pending = self.lock();
        let fault = pending.over.get_or_insert(fault).clone();
        for (_, answer) in pending.waiting.drain() {
            // Whoever asked may have left.
            let _ = answer.send(Err(fault.clone()));
        }
    }
}

/// A session of SFTP. Dropping the last reference ends it.
#[derive(Debug)]
pub(crate) struct Sftp {
    shared: Arc<Shared>,
    queue: mpsc::Sender<(Bytes, Bytes)>,
    next: AtomicU32,
    offers: Offers,
    /// The most bytes of one READ and of one WRITE.
    chunks: (u64, u64),
    connection: Arc<Connection>,
}

impl Sftp {
    /// Takes a channel on which a server of SFTP runs. The channel stands by: requests count as work, it does not.
    pub(crate) async fn start(channel: Channel) -> Result<Self, Fault> {
        let connection = Arc::clone(channel.connection());
        let _work = connection.work();
        channel.in_background();
        let channel = Arc::new(channel);
        let pending = Pending { waiting: HashMap::new(), heard: Instant::now(), over: None };
        let shared = Arc::new(Shared { pending: Mutex::new(pending) });
        let (queue, queued) = mpsc::channel(QUEUE);
        connection.spawn(write(Arc::clone(&channel), queued));
        connection.spawn(read(channel, Arc::downgrade(&shared)));
        let mut sftp = Self {
            shared,
            queue,
            next: AtomicU32::new(1),
            offers: Offers::default(),
            chunks: (CHUNK_OF_ALL, CHUNK_OF_ALL),
            connection,
        };
        sftp.offers = sftp.greet().await?;
        if sftp.offers.limits {
            sftp.chunks = sftp.limits().await?;
        }
        Ok(sftp)
    }

    async fn greet(&self) -> Result<Offers, Fault> {
        // INIT has the version where other packets have their number.
        let (kind, body) = self.ask_as(0, Packet::new(wire::INIT, 3), Bytes::new()).await?;
        if kind != wire::VERSION {
            return Err(Fault::Protocol("no version came"));
        }
        let mut body = Reader(body);
        let mut offers = Offers::default();
        while !body.is_empty() {
            let (name, version) = (body.string()?, body.string()?);
            match (&name[..], &version[..]) {
                (b"posix-rename@openssh.com", b"1") => offers.posix_rename = true,
                (b"fsync@openssh.com", b"1") => offers.fsync = true,
                (b"statvfs@openssh.com", b"2") => offers.statvfs = true,
                (b"limits@openssh.com", b"1") => offers.limits = true,
                (b"lsetstat@openssh.com", b"1") => offers.lsetstat = true,
                _ => {}
            }
        }
        Ok(offers)
    }

    async fn limits(&self) -> Result<(u64, u64), Fault> {
        let (id, packet) = self.begin(wire::EXTENDED);
        let mut body = self.extended(id, packet.string(b"limits@openssh.com")).await?;
        let (_packet, read, write) = (body.u64()?, body.u64()?, body.u64()?);
        // Zero is no limit.
        let most = |limit| if limit == 0 { CHUNK } else { CHUNK.min(limit) };
        Ok((most(read), most(write)))
    }

    /// Returns the connection that it is on.
    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Returns the number of requests so far.
    pub(crate) fn requests(&self) -> u32 {
        self.next.load(Ordering::Relaxed)
    }

    /// Returns whether it answers no more.
    pub(crate) fn is_over(&self) -> bool {
        self.shared.lock().over.is_some()
    }

    /// Returns the most bytes of one READ.
    pub(crate) fn read_chunk(&self) -> u64 {
        self.chunks.0
    }

    /// Returns the most bytes of one WRITE.
    pub(crate) fn write_chunk(&self) -> usize {
        usize::try_from(self.chunks.1).unwrap_or(usize::MAX)
    }

    fn begin(&self, kind: u8) -> (u32, Packet) {
        // Zero is the greeting's; four thousand million requests later an old one has been answered.
        let id = self.next.fetch_add(1, Ordering::Relaxed).max(1);
        (id, Packet::new(kind, id))
    }

    async fn ask_as(&self, id: u32, packet: Packet, behind: Bytes) -> Answer {
        let answer = self.send(id, packet, behind).await?;
        self.answer(id, answer).await
    }

    async fn send(
        &self,
        id: u32,
        packet: Packet,
        behind: Bytes,
    ) -> Result<oneshot::Receiver<Answer>, Fault> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut pending = self.shared.lock();
            if let Some(fault) = &pending.over {
                return Err(fault.clone());
            }
            if pending.waiting.is_empty() {
                pending.heard = Instant::now();
            }
            pending.waiting.insert(id, sender);
        }
        let forget = Forget { shared: &self.shared, id };
        if self.queue.send((packet.finish(behind.len()), behind)).await.is_err() {
            // The writer ends with the channel, whose end the reader tells; it may not have come to that yet.
            let over = self.shared.lock().over.clone();
            return Err(over.unwrap_or(Fault::Closed(Closed::ByServer)));
        }
        std::mem::forget(forget);
        Ok(receiver)
    }

    async fn answer(&self, id: u32, mut receiver: oneshot::Receiver<Answer>) -> Answer {
        // Given up, its answer is nobody's.
        let _forget = Forget { shared: &self.shared, id };
        loop {
            if let Ok(answer) = timeout(SILENCE, &mut receiver).await {
                return answer.unwrap_or(Err(Fault::Closed(Closed::ByServer)));
            }
            if self.shared.lock().heard.elapsed() >= SILENCE {
                self.shared.end(Fault::Silent(SILENCE));
            }
        }
    }

    async fn ask(&self, id: u32, packet: Packet) -> Answer {
        self.ask_as(id, packet, Bytes::new()).await
    }

    /// Asks for something that is done or not.
    async fn done(&self, id: u32, packet: Packet) -> Result<(), Fault> {
        expect_ok(self.ask(id, packet).await?)
    }

    async fn extended(&self, id: u32, packet: Packet) -> Result<Reader, Fault> {
        match self.ask(id, packet).await? {
            (wire::EXTENDED_REPLY, body) => Ok(Reader(body)),
            other => Err(unexpected(other)),
        }
    }

    async fn handle(&self, id: u32, packet: Packet) -> Result<Handle, Fault> {
        match self.ask(id, packet).await? {
            (wire::HANDLE, body) => {
                let (bytes, is_closed) = (Reader(body).string()?, Arc::default());
                Ok(Handle { bytes, is_closed })
            }
            other => Err(unexpected(other)),
        }
    }

    /// Opens a file to be read.
    pub(crate) async fn open(&self, path: &[u8]) -> Result<Handle, Fault> {
        self.open_as(path, wire::OPEN_READ, &WireAttrs::default()).await
    }

    /// Makes a file that must not be there yet, to be written.
    pub(crate) async fn create(&self, path: &[u8], mode: Option<u32>) -> Result<Handle, Fault> {
        let flags = wire::OPEN_WRITE | wire::OPEN_CREATE | wire::OPEN_EXCLUSIVE;
        self.open_as(path, flags, &WireAttrs { mode, ..WireAttrs::default() }).await
    }

    /// Opens a file that is there, to be written on.
    pub(crate) async fn open_to_write(&self, path: &[u8]) -> Result<Handle, Fault> {
        self.open_as(path, wire::OPEN_WRITE, &WireAttrs::default()).await
    }

    async fn open_as(&self, path: &[u8], flags: u32, attrs: &WireAttrs) -> Result<Handle, Fault> {
        let (id, packet) = self.begin(wire::OPEN);
        self.handle(id, packet.string(path).u32(flags).attrs(attrs)).await
    }

    /// Closes a file or directory; what could not be written may be told only now.
    pub(crate) async fn close(&self, handle: &Handle) -> Result<(), Fault> {
        if handle.is_closed.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let (id, packet) = self.begin(wire::CLOSE);
        self.done(id, packet.string(&handle.bytes)).await
    }

    /// Closes a file whose owner has left, in the background.
    pub(crate) fn close_behind(self: &Arc<Self>, handle: Handle) {
        let sftp = Arc::clone(self);
        self.connection.spawn(async move {
            if let Err(fault) = sftp.close(&handle).await {
                tracing::debug!(?fault, "a file was not closed");
            }
        });
    }

    /// Asks for bytes of a file; the answer is awaited apart, so that many can be under way.
    pub(crate) async fn read(
        self: &Arc<Self>,
        handle: &Handle,
        offset: u64,
        length: u64,
    ) -> Result<impl Future<Output = Result<Bytes, Fault>> + Send + 'static, Fault> {
        let (id, packet) = self.begin(wire::READ);
        let packet = packet.string(&handle.bytes).u64(offset);
        let packet = packet.u32(u32::try_from(length.min(self.chunks.0)).unwrap_or(u32::MAX));
        let receiver = self.send(id, packet, Bytes::new()).await?;
        let sftp = Arc::clone(self);
        Ok(async move {
            match sftp.answer(id, receiver).await? {
                (wire::DATA, body) => Ok(Reader(body).string()?),
                other => Err(unexpected(other)),
            }
        })
    }

    /// Sends bytes for a file, at most [`Sftp::write_chunk`]; the answer is awaited apart.
    pub(crate) async fn write(
        self: &Arc<Self>,
        handle: &Handle,
        offset: u64,
        data: Bytes,
    ) -> Result<impl Future<Output = Result<(), Fault>> + Send + 'static, Fault> {
        let (id, packet) = self.begin(wire::WRITE);
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let packet = packet.string(&handle.bytes).u64(offset).u32(length);
        let receiver = self.send(id, packet, data).await?;
        let sftp = Arc::clone(self);
        Ok(async move { expect_ok(sftp.answer(id, receiver).await?) })
    }

    /// Has a file's bytes put on the disk, where the server can.
    pub(crate) async fn fsync(&self, handle: &Handle) -> Result<(), Fault> {
        if !self.offers.fsync {
            return Ok(());
        }
        let (id, packet) = self.begin(wire::EXTENDED);
        self.done(id, packet.string(b"fsync@openssh.com").string(&handle.bytes)).await
    }

    /// Returns what is known of an open file.
    pub(crate) async fn fstat(&self, handle: &Handle) -> Result<WireAttrs, Fault> {
        let (id, packet) = self.begin(wire::FSTAT);
        self.attrs(id, packet.string(&handle.bytes)).await
    }

    /// Returns what is known of a file, or of a link itself.
    pub(crate) async fn stat(&self, path: &[u8], follow: bool) -> Result<WireAttrs, Fault> {
        let (id, packet) = self.begin(if follow { wire::STAT } else { wire::LSTAT });
        self.attrs(id, packet.string(path)).await
    }

    async fn attrs(&self, id: u32, packet: Packet) -> Result<WireAttrs, Fault> {
        match self.ask(id, packet).await? {
            (wire::ATTRS, body) => Ok(Reader(body).attrs()?),
            other => Err(unexpected(other)),
        }
    }

    /// Sets attributes of an open file.
    pub(crate) async fn fsetstat(&self, handle: &Handle, attrs: &WireAttrs) -> Result<(), Fault> {
        let (id, packet) = self.begin(wire::FSETSTAT);
        self.done(id, packet.string(&handle.bytes).attrs(attrs)).await
    }

    /// Sets attributes of a file.
    pub(crate) async fn setstat(&self, path: &[u8], attrs: &WireAttrs) -> Result<(), Fault> {
        let (id, packet) = self.begin(wire::SETSTAT);
        self.done(id, packet.string(path).attrs(attrs)).await
    }

    /// Opens a directory.
    pub(crate) async fn open_dir(&self, path: &[u8]) -> Result<Handle, Fault> {
        let (id, packet) = self.begin(wire::OPENDIR);
        self.handle(id, packet.string(path)).await
    }

    /// Returns the next names of a directory; none at its end.
    pub(crate) async fn read_dir(&self, handle: &Handle) -> Result<Vec<(Bytes, WireAttrs)>, Fault> {
        let (id, packet) = self.begin(wire::READDIR);
        match self.names(id, packet.string(&handle.bytes)).await {
            Err(Fault::Eof) => Ok(Vec::new()),
            names => names,
        }
    }

    async fn names(&self, id: u32, packet: Packet) -> Result<Vec<(Bytes, WireAttrs)>, Fault> {
        let mut body = match self.ask(id, packet).await? {
            (wire::NAME, body) => Reader(body),
            other => return Err(unexpected(other)),
        };
        // The count is the server's word; what is there decides.
        let count = body.u32()?;
        let mut names = Vec::new();
        for _ in 0..count {
            let (name, _long) = (body.string()?, body.string()?);
            names.push((name, body.attrs()?));
        }
        Ok(names)
    }

    async fn name(&self, kind: u8, path: &[u8]) -> Result<Bytes, Fault> {
        let (id, packet) = self.begin(kind);
        let names = self.names(id, packet.string(path)).await?;
        names.into_iter().next().map(|(name, _)| name).ok_or(Fault::Protocol("no name came"))
    }

    /// Returns the absolute path, without links.
    pub(crate) async fn real_path(&self, path: &[u8]) -> Result<Bytes, Fault> {
        self.name(wire::REALPATH, path).await
    }

    /// Returns what a link leads to.
    pub(crate) async fn read_link(&self, path: &[u8]) -> Result<Bytes, Fault> {
        self.name(wire::READLINK, path).await
    }

    /// Makes a link. OpenSSH has the two paths the other way round than the draft.
    pub(crate) async fn symlink(&self, target: &[u8], path: &[u8]) -> Result<(), Fault> {
        let (id, packet) = self.begin(wire::SYMLINK);
        self.done(id, packet.string(target).string(path)).await
    }

    /// Removes what is no directory.
    pub(crate) async fn remove(&self, path: &[u8]) -> Result<(), Fault> {
        let (id, packet) = self.begin(wire::REMOVE);
        self.done(id, packet.string(path)).await
    }

    /// Removes an empty directory.
    pub(crate) async fn rmdir(&self, path: &[u8]) -> Result<(), Fault> {
        let (id, packet) = self.begin(wire::RMDIR);
        self.done(id, packet.string(path)).await
    }

    /// Makes a directory.
    pub(crate) async fn mkdir(&self, path: &[u8], mode: Option<u32>) -> Result<(), Fault> {
        let (id, packet) = self.begin(wire::MKDIR);
        let attrs = WireAttrs { mode, ..WireAttrs::default() };
        self.done(id, packet.string(path).attrs(&attrs)).await
    }

    /// Gives a file another name where nothing has that name.
    pub(crate) async fn rename(&self, from: &[u8], to: &[u8]) -> Result<(), Fault> {
        let (id, packet) = self.begin(wire::RENAME);
        self.done(id, packet.string(from).string(to)).await
    }

    /// Puts a file in the place of another. Where the server cannot at once, the other is removed first.
    pub(crate) async fn replace(&self, from: &[u8], to: &[u8]) -> Result<(), Fault> {
        if self.offers.posix_rename {
            let (id, packet) = self.begin(wire::EXTENDED);
            let packet = packet.string(b"posix-rename@openssh.com");
            return self.done(id, packet.string(from).string(to)).await;
        }
        match self.rename(from, to).await {
            Err(Fault::Failure(_)) => {
                self.remove(to).await?;
                self.rename(from, to).await
            }
            result => result,
        }
    }

    /// Returns the bytes that this user may still write there, where the server tells.
    pub(crate) async fn free(&self, path: &[u8]) -> Result<Option<u64>, Fault> {
        if !self.offers.statvfs {
            return Ok(None);
        }
        let (id, packet) = self.begin(wire::EXTENDED);
        let mut body =
            self.extended(id, packet.string(b"statvfs@openssh.com").string(path)).await?;
        let (_size, fragment) = (body.u64()?, body.u64()?);
        let (_blocks, _free, available) = (body.u64()?, body.u64()?, body.u64()?);
        Ok(Some(available.saturating_mul(fragment)))
    }
}

/// Removes a request whose asker has left.
struct Forget<'a> {
    shared: &'a Shared,
    id: u32,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shared.lock().waiting.remove(&self.id);
    }
}

fn expect_ok(answer: (u8, Bytes)) -> Result<(), Fault> {
    match unexpected(answer) {
        // A status of zero is success, which is what is unexpected elsewhere.
        Fault::Protocol(SUCCESS) => Ok(()),
        fault => Err(fault),
    }
}

const SUCCESS: &str = "success came in place of an answer";

/// Returns the fault that an answer is which is not the one that was expected.
fn unexpected((kind, body): (u8, Bytes)) -> Fault {
    if kind != wire::STATUS {
        return Fault::Protocol("an answer of another kind came");
    }
    let mut body = Reader(body);
    let Ok(code) = body.u32() else { return Malformed.into() };
    // Version 3 has a text, older servers none.
    let text = body.string().unwrap_or_default();
    match code {
        0 => Fault::Protocol(SUCCESS),
        1 => Fault::Eof,
        2 => Fault::NoSuchFile,
        3 => Fault::Permission,
        5 => Fault::BadMessage,
        8 => Fault::Unsupported,
        _ => Fault::Failure(String::from_utf8_lossy(&text).into_owned()),
    }
}

/// Writes requests, each whole, until nobody has any more or the channel is gone.
async fn write(channel: Arc<Channel>, mut queued: mpsc::Receiver<(Bytes, Bytes)>) {
    while let Some((head, behind)) = queued.recv().await {
        for part in [head, behind] {
            if !part.is_empty() && channel.write(part).await.is_err() {
                return;
            }
        }
    }
    // The server ends at the end of its input. A channel that is gone has ended as well.
    let _ = channel.eof().await;
}

/// Reads answers until the channel is gone or nobody waits for any.
async fn read(channel: Arc<Channel>, shared: std::sync::Weak<Shared>) {
    let mut buffer = BytesMut::new();
    let fault = loop {
        let Some(frame) = channel.recv().await else {
            break Fault::Closed(channel.closed_reason().unwrap_or(Closed::ByServer));
        };
        // What a server says on standard error is for its own log.
        if frame.stream() != STDOUT {
            continue;
        }
        let Some(shared) = shared.upgrade() else { return };
        buffer.extend_from_slice(&frame.data());
        shared.lock().heard = Instant::now();
        if let Err(fault) = take(&mut buffer, &shared) {
            break fault;
        }
    };
    if let Some(shared) = shared.upgrade() {
        shared.end(fault);
    }
}

/// Takes the whole packets out of what has come.
fn take(buffer: &mut BytesMut, shared: &Shared) -> Result<(), Fault> {
    while let Some(head) = buffer.first_chunk::<4>() {
        let length = u32::from_be_bytes(*head) as usize;
        if !(5..=LONGEST).contains(&length) {
            return Err(Fault::Protocol("a packet has an impossible length"));
        }
        if buffer.len() < 4 + length {
            buffer.reserve(4 + length - buffer.len());
            return Ok(());
        }
        buffer.advance(4);
        let mut packet = Reader(buffer.split_to(length).freeze());
        let (kind, id) = (packet.u8()?, packet.u32()?);
        // The greeting has a version in place of a number.
        let id = if kind == wire::VERSION { 0 } else { id };
        let waiting = shared.lock().waiting.remove(&id);
        if let Some(answer) = waiting {
            // Whoever asked may have left.
            let _ = answer.send(Ok((kind, packet.0)));
        }
    }
    Ok(())
}
