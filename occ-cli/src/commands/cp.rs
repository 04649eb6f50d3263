//! `occ cp`: files from here to a host, from a host to here, from host to host.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, LocalBoxStream};
use hyper::Method;
use hyper::header::{CONTENT_RANGE, IF_MATCH, RANGE};
use occ_proto::HostName;
use occ_proto::error::Code;
use occ_proto::files::{FileAction, FileDigest, FileKind, Listed};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::Context;
use super::files::{stat, stat_if_there};
use super::group::{End, Group, OnSignal, of_host};
use crate::cli::{CpArgs, Eol};
use crate::client::Client;
use crate::eol::ToLf;
use crate::error::{CliError, DAEMON_UNREACHABLE, INTERRUPTED, TERMINATED};
use crate::exchange::{Answer, Ask};
use crate::local_file::{self, LocalFile};
use crate::progress::{Progress, size};
use crate::spot::Spot;

/// Bytes of one read of a file here.
const CHUNK: usize = 256 * 1024;
/// What is as long as this is kept when its copy is interrupted, so that it can be gone on with.
const WORTH_RESUMING: u64 = 1024 * 1024;

/// What was copied.
#[derive(Debug, Serialize)]
pub(super) struct Copied {
    from: String,
    to: String,
    bytes: u64,
    /// Those that were there already.
    resumed: u64,
    /// How many files, of a directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) files: Option<u64>,
    /// What of a directory is neither file nor directory nor link.
    #[serde(skip_serializing_if = "Listed::is_empty")]
    pub(super) left_out: Listed,
    /// What of a directory could not be read.
    #[serde(skip_serializing_if = "Listed::is_empty")]
    pub(super) unread: Listed,
    ms: u64,
}

/// Runs the command and returns its exit code.
pub(crate) async fn run(context: &Context<'_>, args: &CpArgs) -> Result<u8, CliError> {
    if let Some(group) = context.group().await? {
        return to_group(context, args, &group).await;
    }
    let spots = args.paths.iter().map(|path| Spot::of(path, None));
    let mut spots = spots.collect::<Result<Vec<Spot>, CliError>>()?;
    let Some(to) = spots.pop().filter(|_| !spots.is_empty()) else {
        return Err(CliError::usage("occ cp needs something to copy, and where to."));
    };
    if to.host.is_none() && spots.iter().any(|from| from.host.is_none()) {
        return Err(CliError::usage("Both are on this machine, which cp is for.")
            .hint("occ cp FILE HOST:PATH"));
    }
    let client = context.client().await?;
    let copy = Copy { context, args, client: &client, alone: true };
    let all = copy.all(&spots, &to).await?;
    for copied in &all {
        copy.tell(copied, None)?;
    }
    not_all(&all).map(|()| 0)
}

/// Fails where something could not be read.
fn not_all(all: &[Copied]) -> Result<(), CliError> {
    let Some(copied) = all.iter().find(|copied| !copied.unread.is_empty()) else { return Ok(()) };
    let Copied { from, unread, .. } = copied;
    Err(CliError::failed(format!("{from}: not all was copied: {unread}."))
        .hint(format!("occ ls -la {from}")))
}

/// Copies from here to the same place on each host of a group: `:PATH`.
async fn to_group(context: &Context<'_>, args: &CpArgs, group: &Group) -> Result<u8, CliError> {
    let option = group.selection.option();
    let Some((to, from @ [_, ..])) = args.paths.split_last() else {
        return Err(CliError::usage("occ cp needs something to copy, and where to."));
    };
    let Some(path) = to.as_bytes().strip_prefix(b":") else {
        return Err(CliError::usage(format!(
            "With {option}, the last path is one on each host: :PATH."
        ))
        .hint(format!("occ cp {option} FILE :PATH")));
    };
    let spots = from.iter().map(|path| Spot::of(path, None));
    let spots = spots.collect::<Result<Vec<Spot>, CliError>>()?;
    if let Some(there) = spots.iter().find(|spot| spot.host.is_some()) {
        let text = format!("{there} is on a host: with {option}, files are copied from here.");
        return Err(CliError::usage(text));
    }
    // What is not here is said once.
    for spot in &spots {
        spot.here().metadata().map_err(|error| local_file::failed(&spot.here(), &error))?;
    }
    group.client.many();
    let copy = Copy { context, args, client: &group.client, alone: false };
    let work = |host: HostName| {
        let (copy, spots) = (&copy, &spots);
        async move {
            let to = Spot { host: Some(host.clone()), path: path.to_vec() };
            match copy.all(spots, &to).await {
                Ok(all) => {
                    for copied in &all {
                        copy.tell(copied, Some(&host))?;
                    }
                    match not_all(&all) {
                        Ok(()) => Ok(End::Ok),
                        Err(error) => group.failed(context.ui, &host, &error),
                    }
                }
                Err(error) => group.failed(context.ui, &host, &error),
            }
        }
    };
    // Boxed: there are many of them.
    let done = group.each(context.ui, OnSignal::Leave, |host| Box::pin(work(host))).await?;
    done.conclude(context.ui)
}

impl Copy<'_> {
    /// Copies all of them there.
    async fn all(&self, spots: &[Spot], to: &Spot) -> Result<Vec<Copied>, CliError> {
        let mut all = Vec::new();
        let (copy, args) = (self, self.args);
        if args.mkpath {
            let is_in = to.path.ends_with(b"/") || spots.len() > 1;
            copy.mkdir_all(&if is_in { to.clone() } else { to.parent() }).await?;
        }
        let there = copy.look(to).await?;
        let is_dir = there.map(|(kind, _)| kind) == Some(FileKind::Directory);
        if !is_dir && (spots.len() > 1 || to.path.ends_with(b"/")) && !args.recursive {
            return Err(CliError::failed(format!("{to} is not a directory."))
                .hint(format!("occ ls {}", to.parent().word())));
        }
        for from in spots {
            let into = match (is_dir, from.name()) {
                (true, Some(name)) => to.join(name),
                (true, None) if !args.recursive => {
                    return Err(CliError::usage(format!("{from} has no name.")));
                }
                _ => to.clone(),
            };
            let is_tree = args.recursive
                && copy.look(from).await?.map(|(kind, _)| kind) == Some(FileKind::Directory);
            let copying = async {
                match is_tree {
                    true => Box::pin(copy.tree(from, &into)).await,
                    false => Box::pin(copy.file(from, &into)).await,
                }
            };
            all.push(copying.await.map_err(|error| copy.explain(from, to, error))?);
        }
        Ok(all)
    }

    /// Says what was copied; of one host of many, with its name.
    fn tell(&self, copied: &Copied, host: Option<&HostName>) -> Result<(), CliError> {
        let ui = self.context.ui;
        if let (true, Some(host)) = (ui.json, host) {
            let document = serde_json::to_vec(copied).map_err(|error| {
                CliError::failed(format!("the answer cannot be written: {error}"))
            })?;
            return ui.print(&of_host(host, &document));
        }
        if ui.json {
            return ui.value(copied);
        }
        let prefix = host.map_or_else(String::new, |host| format!("[{host}] "));
        if !copied.left_out.is_empty() {
            let Listed { count, .. } = copied.left_out;
            let names = &copied.left_out;
            ui.note(&format!(
                "{prefix}Left out: {count}, neither file nor directory nor link: {names}"
            ));
        }
        let (bytes, ms) = (copied.bytes - copied.resumed, copied.ms.max(1));
        let rate = size(bytes.saturating_mul(1000) / ms);
        let to = match host {
            Some(host) => copied.to.strip_prefix(&format!("{host}:")).unwrap_or(&copied.to),
            None => &copied.to,
        };
        ui.note_if_talking(&format!(
            "{prefix}{to}: {} in {} ({rate}/s)",
            size(copied.bytes),
            crate::duration::of_ms(copied.ms)
        ));
        Ok(())
    }

    /// Waits for a copy, and shows how far it is unless there are others beside it.
    pub(super) async fn during<T>(
        &self,
        progress: &Progress,
        copy: impl Future<Output = Result<T, CliError>>,
    ) -> Result<T, CliError> {
        match self.alone {
            true => progress.during(self.context.ui, copy).await,
            false => copy.await,
        }
    }
}

pub(super) struct Copy<'a> {
    pub(super) context: &'a Context<'a>,
    pub(super) args: &'a CpArgs,
    pub(super) client: &'a Client,
    /// It is the only one at a time.
    pub(super) alone: bool,
}

/// A file that is copied, as far as it is known.
struct Source {
    size: u64,
    mode: u32,
    mtime: i64,
    etag: Option<String>,
}

impl Copy<'_> {
    /// Returns what is there, and how long; nothing where nothing is.
    pub(super) async fn look(&self, spot: &Spot) -> Result<Option<(FileKind, u64)>, CliError> {
        if spot.host.is_some() {
            let info = stat_if_there(self.client, spot).await?;
            return Ok(info.map(|info| (info.kind, info.size)));
        }
        match spot.here().metadata() {
            Ok(meta) if meta.is_dir() => Ok(Some((FileKind::Directory, 0))),
            Ok(meta) if meta.is_file() => Ok(Some((FileKind::File, meta.len()))),
            Ok(_) => Ok(Some((FileKind::Other, 0))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(local_file::failed(&spot.here(), &error)),
        }
    }

    /// Makes a directory and those above it.
    async fn mkdir_all(&self, dir: &Spot) -> Result<(), CliError> {
        if dir.host.is_none() {
            let path = dir.here();
            return std::fs::create_dir_all(&path).map_err(|e| local_file::failed(&path, &e));
        }
        let action = FileAction::Mkdir { mode: None, parents: true };
        self.client.request(Method::POST, &dir.api("")?, Some(&action), None).await.map(drop)
    }

    /// Returns the error with what to type next.
    fn explain(&self, from: &Spot, to: &Spot, error: CliError) -> CliError {
        let goes_on = matches!(
            error.daemon_code(),
            Some(Code::FileInterrupted | Code::HostUnreachable | Code::ShuttingDown)
        ) || matches!(error.exit, INTERRUPTED | TERMINATED)
            || error.is_interrupted()
            // The daemon was killed in mid copy; the next command starts one.
            || error.code == DAEMON_UNREACHABLE;
        if !goes_on {
            return error;
        }
        let preserve = if self.args.preserve { " -p" } else { "" };
        // Of a directory nothing is kept, nor where line ends are changed.
        let how = match (self.args.recursive, self.args.eol) {
            (true, _) => " -r",
            (false, None) => " --resume",
            (false, Some(Eol::Lf)) => " --eol lf",
        };
        error.hint(format!("occ cp{preserve}{how} {} {}", from.word(), to.word()))
    }

    /// Copies one file.
    async fn file(&self, from: &Spot, to: &Spot) -> Result<Copied, CliError> {
        match (&from.host, &to.host) {
            (None, _) => self.upload(from, to).await,
            (_, None) => self.download(from, to).await,
            _ => self.relay(from, to).await,
        }
    }

    async fn upload(&self, from: &Spot, to: &Spot) -> Result<Copied, CliError> {
        let path = from.here();
        let failed = |error: io::Error| local_file::failed(&path, &error);
        let meta = path.metadata().map_err(failed)?;
        if meta.is_dir() {
            return Err(a_directory(from));
        }
        // Nobody may ever write into a FIFO.
        if !meta.is_file() {
            return Err(CliError::failed(format!("{from} is no regular file.")));
        }
        let mut file = File::open(&path).map_err(failed)?;
        let source = Source {
            size: meta.len(),
            mode: meta.permissions().mode() & 0o7777,
            mtime: meta.mtime(),
            etag: None,
        };
        let offset = match self.resumable(&source) {
            Some(_) if self.args.resume => self.kept_there(to, &mut file, source.size).await?,
            resumable => resumable,
        };
        let before = offset.unwrap_or(0);
        file.seek(io::SeekFrom::Start(before)).map_err(failed)?;
        let progress = self.progress(from, &source, before);
        let pieces = pieces(file, &progress);
        self.put(to, &source, offset, pieces, &progress).await?;
        Ok(self.copied(from, to, &progress, before))
    }

    /// Returns the offset of a copy that may be gone on with later: at first 0. A short one is soon made anew.
    fn resumable(&self, source: &Source) -> Option<u64> {
        (source.size >= WORTH_RESUMING && self.args.eol.is_none()).then_some(0)
    }

    fn progress(&self, from: &Spot, source: &Source, before: u64) -> Progress {
        let total = (source.size > 0).then_some(source.size);
        let name = from.name().map_or_else(String::new, |name| {
            occ_proto::text::sanitize_short(&String::from_utf8_lossy(name), 40)
        });
        Progress::new(name, total, before)
    }

    pub(super) fn copied(
        &self,
        from: &Spot,
        to: &Spot,
        progress: &Progress,
        resumed: u64,
    ) -> Copied {
        let ms = u64::try_from(progress.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let bytes = progress.done.get();
        let (from, to, files) = (from.to_string(), to.to_string(), None);
        let (left_out, unread) = (Listed::default(), Listed::default());
        Copied { from, to, bytes, resumed, files, left_out, unread, ms }
    }

    /// Returns how much of a file is at the other end already, after a look at whether it is the same.
    async fn kept_there(
        &self,
        to: &Spot,
        file: &mut File,
        whole: u64,
    ) -> Result<Option<u64>, CliError> {
        let part = partial(to);
        let Some(info) = stat_if_there(self.client, &part).await? else { return Ok(Some(0)) };
        if info.size == 0 || info.size > whole {
            return Ok(Some(0));
        }
        let ours = digest(file, info.size)
            .map_err(|error| CliError::failed(format!("the file could not be read: {error}")))?;
        let theirs = self.digest_there(&part, info.size).await?;
        if ours != theirs.sha256 || theirs.length != info.size {
            self.context.ui.note("What was copied before is another file's: beginning anew.");
            return Ok(Some(0));
        }
        Ok(Some(info.size))
    }

    async fn digest_there(&self, spot: &Spot, length: u64) -> Result<FileDigest, CliError> {
        let action = FileAction::Digest { length: Some(length) };
        self.client.request(Method::POST, &spot.api("")?, Some(&action), None).await?.parse()
    }

    /// Sends a file's bytes.
    async fn put(
        &self,
        to: &Spot,
        source: &Source,
        offset: Option<u64>,
        pieces: LocalBoxStream<'static, io::Result<Bytes>>,
        progress: &Progress,
    ) -> Result<(), CliError> {
        let mut query = match self.args.preserve {
            true => {
                let mtime = source.mtime.clamp(0, u32::MAX.into());
                if mtime != source.mtime {
                    self.context.ui.note(
                        "Its time is not between 1970 and 2106, as SFTP has it: the nearest is kept.",
                    );
                }
                format!("?mode={:o}&mtime={mtime}", source.mode)
            }
            false => format!("?new_mode={:o}", source.mode & 0o777 & !umask()),
        };
        if let Some(offset) = offset {
            query.push_str(&format!("&resume={offset}"));
        }
        let mut ask = Ask::new(Method::PUT, to.api(&query)?);
        // Files of /proc say that they are empty.
        let is_known = source.size > 0 && self.args.eol.is_none();
        let length = is_known.then(|| source.size - offset.unwrap_or(0));
        let pieces = if self.args.eol == Some(Eol::Lf) { to_lf(pieces) } else { pieces };
        ask.body = Some((pieces, length));
        let sent = async {
            let mut answer = Answer::to(self.client, ask).await?;
            answer.whole(CHUNK).await
        };
        self.during(progress, Box::pin(sent)).await.map(drop)
    }

    async fn source(&self, from: &Spot) -> Result<Source, CliError> {
        let info = stat(self.client, from).await?;
        if info.kind == FileKind::Directory {
            return Err(a_directory(from));
        }
        let (size, mode, mtime, etag) = (info.size, info.mode, info.mtime, Some(info.etag));
        Ok(Source { size, mode, mtime, etag })
    }

    async fn get(&self, from: &Spot, source: &Source, offset: u64) -> Result<Answer, CliError> {
        let mut ask = Ask::new(Method::GET, from.api("")?);
        if let Some(etag) = &source.etag {
            ask = ask.header(IF_MATCH, etag)?;
        }
        if offset > 0 {
            ask = ask.header(RANGE, &format!("bytes={offset}-"))?;
        }
        let answer = Answer::to(self.client, ask).await?;
        if offset > 0 && answer.text(CONTENT_RANGE.as_str()).is_none() {
            return Err(CliError::failed(format!("{from} could not be gone on with."))
                .hint("occ cp without --resume"));
        }
        Ok(answer)
    }

    async fn download(&self, from: &Spot, to: &Spot) -> Result<Copied, CliError> {
        let source = self.source(from).await?;
        let path = to.here();
        let resumable = self.resumable(&source);
        let offset = match resumable {
            Some(_) if self.args.resume => Some(self.kept_here(from, &path, source.size).await?),
            resumable => resumable,
        };
        let before = offset.unwrap_or(0);
        let progress = self.progress(from, &source, before);
        let mut file = LocalFile::begin(&path, source.mode, offset)?;
        let copy = async {
            // All of it is here, if not yet in its place.
            if source.size > 0 && before == source.size {
                return Ok(file);
            }
            let mut answer = self.get(from, &source, before).await?;
            let mut eol = self.args.eol.map(|Eol::Lf| ToLf::default());
            loop {
                match answer.next().await {
                    Ok(Some(data)) => {
                        progress.add(data.len());
                        match &mut eol {
                            Some(eol) => file.write(&eol.take(&data))?,
                            None => file.write(&data)?,
                        }
                    }
                    Ok(None) => break,
                    Err(_) => {
                        return Err(super::files::cut(self.client, from, &progress.how_far()).await);
                    }
                }
            }
            if let Some(eol) = &mut eol {
                file.write(&eol.rest())?;
            }
            Ok(file)
        };
        let file = self.during(&progress, Box::pin(copy)).await?;
        file.finish(self.args.preserve.then_some((source.mode, source.mtime)))?;
        Ok(self.copied(from, to, &progress, before))
    }

    /// Returns how much of a file is here already, after a look at whether it is the same.
    async fn kept_here(
        &self,
        from: &Spot,
        path: &std::path::Path,
        whole: u64,
    ) -> Result<u64, CliError> {
        let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let part = local_file::partial_path(&target);
        let mut file = match File::open(&part) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(local_file::failed(&part, &error)),
        };
        let failed = |error: io::Error| local_file::failed(&part, &error);
        let length = file.metadata().map_err(failed)?.len();
        if length == 0 || length > whole {
            return Ok(0);
        }
        let ours = digest(&mut file, length).map_err(failed)?;
        let theirs = self.digest_there(from, length).await?;
        if ours != theirs.sha256 || theirs.length != length {
            self.context.ui.note("What was copied before is another file's: beginning anew.");
            return Ok(0);
        }
        Ok(length)
    }

    /// Copies from host to host, through the daemon and us.
    async fn relay(&self, from: &Spot, to: &Spot) -> Result<Copied, CliError> {
        let source = self.source(from).await?;
        let progress = self.progress(from, &source, 0);
        let answer = self.get(from, &source, 0).await?;
        let counted = progress.clone();
        let pieces = stream::unfold(Some(answer), move |answer| {
            let counted = counted.clone();
            async move {
                let mut answer = answer?;
                match answer.next().await {
                    Ok(Some(data)) => {
                        counted.add(data.len());
                        Some((Ok(data), Some(answer)))
                    }
                    Ok(None) => None,
                    Err(error) => Some((Err(error), None)),
                }
            }
        });
        let sent = self.put(to, &source, None, pieces.boxed_local(), &progress).await;
        if let Err(error) = sent {
            // The bytes end early where the one that they come from is to blame.
            let is_whole = source.size == 0 || progress.done.get() == source.size;
            return Err(match error.daemon_code() {
                None | Some(Code::BadRequest) if !is_whole && !error.is_quiet() => {
                    super::files::cut(self.client, from, &progress.how_far()).await
                }
                _ => error,
            });
        }
        Ok(self.copied(from, to, &progress, 0))
    }
}

fn a_directory(spot: &Spot) -> CliError {
    CliError::failed(format!("{spot} is a directory.")).hint(format!("occ cp -r {} …", spot.word()))
}

/// Returns where what was copied of a file is kept.
fn partial(to: &Spot) -> Spot {
    let name = occ_proto::files::partial_name(to.name().unwrap_or_default());
    let parent = to.parent();
    parent.join(&name)
}

/// Returns a file's pieces from where it stands.
fn pieces(file: File, progress: &Progress) -> LocalBoxStream<'static, io::Result<Bytes>> {
    let progress = progress.clone();
    stream::unfold(Some(file), move |file| {
        let progress = progress.clone();
        async move {
            let mut file = file?;
            let mut buffer = vec![0; CHUNK];
            match file.read(&mut buffer) {
                Ok(0) => None,
                Ok(count) => {
                    buffer.truncate(count);
                    progress.add(count);
                    Some((Ok(buffer.into()), Some(file)))
                }
                Err(error) => Some((Err(error), None)),
            }
        }
    })
    .boxed_local()
}

/// Returns the SHA-256 of the beginning of a file.
fn digest(file: &mut File, length: u64) -> io::Result<String> {
    file.rewind()?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut left = length;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let count = file.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hash.update(&buffer[..count]);
        left -= count as u64;
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Returns this process's umask, which can only be read by setting it.
pub(super) fn umask() -> u32 {
    let umask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    rustix::process::umask(umask);
    umask.as_raw_mode()
}

fn to_lf(
    pieces: LocalBoxStream<'static, io::Result<Bytes>>,
) -> LocalBoxStream<'static, io::Result<Bytes>> {
    let whole = pieces.map(Some).chain(stream::iter([None]));
    whole
        .scan(ToLf::default(), |eol, piece| {
            std::future::ready(Some(match piece {
                Some(Ok(data)) => Ok(eol.take(&data).into()),
                Some(Err(error)) => Err(error),
                None => Ok(eol.rest().into()),
            }))
        })
        .filter(|piece| {
            std::future::ready(piece.as_ref().map_or(true, |data: &Bytes| !data.is_empty()))
        })
        .boxed_local()
}
