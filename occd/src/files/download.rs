//! Reading a file from its beginning, or from somewhere in it, to the end.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use occ_proto::files::FileKind;

use super::sftp::{Fault, Handle, Sftp};
use super::shell::{Shell, Stream};
use super::{Attrs, FileError, FileSystem, Shown, local};
use crate::blocking::blocking;
use crate::ssh::Work;

/// Requests under way, as many as OpenSSH's own client has.
const UNDER_WAY: usize = 64;
/// Bytes of one read of this machine's disk.
const LOCAL_CHUNK: u64 = 512 * 1024;

/// A file that is being read. Dropping it closes the file.
pub struct Download {
    path: Vec<u8>,
    attrs: Attrs,
    offset: u64,
    end: Option<u64>,
    source: Source,
}

impl std::fmt::Debug for Download {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Download")
            .field("path", &Shown::of(&self.path))
            .field("attrs", &self.attrs)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

enum Source {
    Remote(Pipeline),
    Shell { shell: Arc<Shell>, stream: Box<Stream> },
    Local(Arc<File>),
}

/// A file of a host, with reads under way.
struct Pipeline {
    sftp: Arc<Sftp>,
    handle: Option<Handle>,
    under_way: VecDeque<Read>,
    /// Where the next request reads.
    next: u64,
    _work: Arc<Work>,
}

struct Read {
    offset: u64,
    length: u64,
    answer: BoxFuture<'static, Result<Bytes, Fault>>,
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            self.sftp.close_behind(handle);
        }
    }
}

impl Download {
    /// Opens a file. What is neither a file nor a directory is refused: reading it could wait for ever.
    pub async fn open(fs: &FileSystem, path: &[u8]) -> Result<Self, FileError> {
        let attrs = fs.stat(path, true).await?;
        match attrs.kind {
            FileKind::File => {}
            FileKind::Directory => return Err(FileError::IsDirectory(Shown::of(path))),
            _ => return Err(FileError::Special(Shown::of(path))),
        }
        let (source, attrs) = match fs {
            FileSystem::Remote(remote) => {
                let sftp = Arc::clone(remote.sftp());
                let handle = sftp.open(path).await.map_err(|fault| FileError::of(path, fault))?;
                let pipeline = Pipeline {
                    handle: Some(handle),
                    under_way: VecDeque::new(),
                    next: 0,
                    _work: Arc::clone(&remote.work),
                    sftp,
                };
                (Source::Remote(pipeline), attrs)
            }
            FileSystem::Shell(shell) => {
                // Whether it may be read shows only then, and the whole of it is what is wanted mostly.
                let stream = Box::new(shell.read(path, None).await?);
                (Source::Shell { shell: Arc::clone(shell), stream }, attrs)
            }
            FileSystem::Local(files) => {
                let full = files.path(path);
                let opened = blocking(move || {
                    let file = File::open(full)?;
                    let attrs = local::attrs(&file.metadata()?);
                    Ok((file, attrs))
                });
                let (file, attrs) = opened.await.map_err(|error| FileError::local(path, &error))?;
                (Source::Local(Arc::new(file)), attrs)
            }
        };
        // Files of /proc have no length, and are read to their end.
        let end = (attrs.size > 0).then_some(attrs.size);
        Ok(Self { path: path.to_vec(), attrs, offset: 0, end, source })
    }

    /// Returns what was known of the file when it was opened.
    pub fn attrs(&self) -> &Attrs {
        &self.attrs
    }

    /// Reads only from there on, up to before `end`.
    pub async fn set_range(&mut self, start: u64, end: u64) -> Result<(), FileError> {
        self.offset = start;
        self.end = Some(end);
        if let Source::Remote(pipeline) = &mut self.source {
            pipeline.next = start;
        }
        if let Source::Shell { shell, stream } = &mut self.source {
            // Now, while the path leads to where it is known to lead.
            **stream = shell.read(&self.path, Some((start, end))).await?;
        }
        Ok(())
    }

    /// Returns the next bytes; nothing at the end.
    ///
    /// # Errors
    ///
    /// Also when the file has become shorter than it was.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FileError> {
        let left = self.end.map_or(u64::MAX, |end| end.saturating_sub(self.offset));
        if left == 0 {
            return Ok(None);
        }
        let read = match &mut self.source {
            Source::Remote(pipeline) => {
                let end = self.end.unwrap_or(u64::MAX);
                pipeline.read(end).await.map_err(|fault| FileError::of(&self.path, fault))
            }
            Source::Shell { stream, .. } => stream.next().await.map(Option::unwrap_or_default),
            Source::Local(file) => {
                let (file, offset) = (Arc::clone(file), self.offset);
                let length = usize::try_from(left.min(LOCAL_CHUNK)).unwrap_or(usize::MAX);
                let read = blocking(move || {
                    let mut buffer = vec![0; length];
                    let count = file.read_at(&mut buffer, offset)?;
                    buffer.truncate(count);
                    Ok(Bytes::from(buffer))
                });
                read.await.map_err(|error| FileError::local(&self.path, &error))
            }
        };
        let mut data = read?;
        if data.is_empty() {
            return match self.end {
                None => Ok(None),
                Some(_) => Err(FileError::Changed(Shown::of(&self.path))),
            };
        }
        // A server may send more than it was asked for.
        data.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        self.offset += data.len() as u64;
        Ok(Some(data))
    }
}

impl Pipeline {
    /// Returns the next bytes; none at the end of the file.
    async fn read(&mut self, end: u64) -> Result<Bytes, Fault> {
        let Some(handle) = self.handle.clone() else { return Ok(Bytes::new()) };
        loop {
            // One alone until it is known that there is more: for a file without a length, or one of one piece.
            let most = if end == u64::MAX { 1 } else { UNDER_WAY };
            while self.under_way.len() < most && self.next < end {
                let length = (end - self.next).min(self.sftp.read_chunk());
                let answer = self.sftp.read(&handle, self.next, length).await?;
                self.under_way.push_back(Read {
                    offset: self.next,
                    length,
                    answer: Box::pin(answer),
                });
                self.next += length;
            }
            let Some(read) = self.under_way.front_mut() else { return Ok(Bytes::new()) };
            let (offset, length) = (read.offset, read.length);
            let answer = (&mut read.answer).await;
            self.under_way.pop_front();
            return match answer {
                Ok(data) => {
                    if (data.len() as u64) < length {
                        // What follows was asked for at the wrong places.
                        self.under_way.clear();
                        self.next = offset + data.len() as u64;
                        if data.is_empty() {
                            continue;
                        }
                    }
                    Ok(data)
                }
                Err(Fault::Eof) => Ok(Bytes::new()),
                Err(fault) => Err(fault),
            };
        }
    }
}
