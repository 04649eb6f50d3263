//! Reading a directory as one stream.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use occ_proto::exec::STDOUT;
use occ_proto::files::FileKind;
use occ_proto::tar::{self, Entry, Kind};

use super::{GNU, MAKE, OTHER, first_line, script};
use crate::exec::{Executor, Running, Step};
use crate::files::script::{Script, keep};
use crate::files::{self, Download, FileError, FileSystem, Shown, join};
use crate::prompts::Client;

/// Bytes of one piece of a stream that is made here.
const PIECE: usize = 128 * 1024;

/// A tree that is read.
pub struct Pack {
    path: Vec<u8>,
    source: From,
}

enum From {
    Tar { running: Box<Running>, first: Option<Bytes>, said: Vec<u8>, ended: bool, within: bool },
    Walk(Box<Walk>),
}

impl std::fmt::Debug for Pack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pack").field("path", &Shown::of(&self.path)).finish_non_exhaustive()
    }
}

impl Pack {
    /// Returns whether it opens what is in the directory by paths, one after the other, and not from within.
    pub fn goes_by_paths(&self) -> bool {
        !matches!(self.source, From::Tar { within: true, .. })
    }

    /// Begins to read a directory.
    pub async fn begin(
        fs: &FileSystem,
        executor: &Executor,
        path: &[u8],
        client: &Client,
    ) -> Result<Self, FileError> {
        if fs.stat(path, true).await?.kind != FileKind::Directory {
            return Err(FileError::NotDirectory(Shown::of(path)));
        }
        if !matches!(fs, FileSystem::Local(_))
            && let Some(mut script) = script(executor, MAKE, path, "", client).await
        {
            let within = script.word == GNU;
            if script.word == "closed" {
                return Err(FileError::Permission(Shown::of(path)));
            }
            // One that ends before its archive begins cannot be run.
            if (within || script.word == OTHER)
                && let Some(first) = script.next().await
            {
                let Script { running, said, .. } = script;
                let (running, first) = (Box::new(running), Some(first));
                let source = From::Tar { running, first, said, ended: false, within };
                return Ok(Self { path: path.to_vec(), source });
            }
        }
        let walk = Walk {
            fs: fs.clone(),
            open: vec![(path.to_vec(), Vec::new(), None)],
            file: None,
            troubles: Vec::new(),
            ended: false,
        };
        Ok(Self { path: path.to_vec(), source: From::Walk(Box::new(walk)) })
    }

    /// Returns the next bytes; nothing at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FileError> {
        match &mut self.source {
            From::Walk(walk) => walk.next().await,
            From::Tar { ended: true, .. } => Ok(None),
            From::Tar { running, first, said, ended, .. } => {
                if let Some(first) = first.take() {
                    return Ok(Some(first));
                }
                loop {
                    match running.next().await {
                        Step::Output(frame) if frame.stream() == STDOUT => {
                            return Ok(Some(frame.data()));
                        }
                        Step::Output(frame) => keep(said, &frame.data()),
                        Step::Ended(Ok(exit)) => {
                            *ended = true;
                            let out = told(said, exit.status());
                            return Ok((!out.is_empty()).then(|| out.into()));
                        }
                        Step::Ended(Err(error)) => {
                            let text = crate::ssh::error::chain(&error);
                            return Err(FileError::Failed(Shown::of(&self.path), text));
                        }
                    }
                }
            }
        }
    }
}

/// Returns what tar said of what it left out or could not read, as records behind the archive.
fn told(said: &[u8], status: u8) -> Vec<u8> {
    let (mut out, mut is_explained) = (Vec::new(), false);
    let text = String::from_utf8_lossy(said);
    for line in text.lines() {
        let line = line.trim();
        let line = line.split_once("tar: ").filter(|(before, _)| !before.contains(' '));
        let Some((_, line)) = line else { continue };
        // GNU and busybox; BSD.
        let socket = line.strip_suffix(": socket ignored");
        let socket = socket.or_else(|| {
            Some(line.split_once(": ")?.0).filter(|_| line.contains("archive sockets"))
        });
        let is_summary = line.to_ascii_lowercase().contains("error exit delayed")
            || line.starts_with("Exiting with failure status");
        if let Some(path) = socket {
            let (path, kind) = (path.as_bytes().to_vec(), Kind::Other);
            tar::head(&mut out, &Entry { path, kind, mode: 0, mtime: 0, size: 0 });
        } else if status != 0 && !is_summary {
            tar::trouble(&mut out, line.strip_prefix("./").unwrap_or(line));
            is_explained = true;
        }
    }
    if status != 0 && !is_explained {
        let line = first_line(said).unwrap_or_else(|| format!("tar ended with {status}"));
        tar::trouble(&mut out, &line);
    }
    out
}

/// What is left in a directory, once it was listed.
type Left = Option<VecDeque<files::Entry>>;

/// A tree that is read file by file.
struct Walk {
    fs: FileSystem,
    /// Directories that are open: path there, path in the tree, what is left in it.
    open: Vec<(Vec<u8>, Vec<u8>, Left)>,
    /// The file that is being read, and how much of it is still to come.
    file: Option<(Download, u64, u64)>,
    troubles: Vec<String>,
    ended: bool,
}

impl Walk {
    async fn next(&mut self) -> Result<Option<Bytes>, FileError> {
        let mut out = BytesMut::new();
        while out.len() < PIECE && !self.ended {
            self.step(&mut out).await?;
        }
        Ok((!out.is_empty()).then(|| out.freeze()))
    }

    async fn step(&mut self, out: &mut BytesMut) -> Result<(), FileError> {
        if let Some((download, size, left)) = &mut self.file {
            let data = if *left > 0 { download.next().await? } else { None };
            match data {
                Some(data) => {
                    *left -= data.len() as u64;
                    out.extend_from_slice(&data);
                }
                None => {
                    out.resize(out.len() + tar::padding(*size), 0);
                    self.file = None;
                }
            }
            return Ok(());
        }
        let Some((dir, inner, entries)) = self.open.last_mut() else {
            out.extend_from_slice(&tar::END);
            let mut notes = Vec::new();
            self.troubles.iter().for_each(|text| tar::trouble(&mut notes, text));
            out.extend_from_slice(&notes);
            self.ended = true;
            return Ok(());
        };
        let entries = match entries {
            Some(entries) => entries,
            None => match self.fs.list(dir).await {
                Ok(found) => entries.insert(found.into()),
                Err(error) => return self.skip(error),
            },
        };
        let Some(entry) = entries.pop_front() else {
            self.open.pop();
            return Ok(());
        };
        let (path, mut name) = (join(dir, &entry.name), inner.clone());
        name.extend_from_slice(&entry.name);
        let mut head = Entry {
            path: name,
            kind: Kind::File,
            mode: entry.attrs.mode,
            mtime: entry.attrs.mtime,
            size: 0,
        };
        match entry.attrs.kind {
            FileKind::Directory => {
                head.kind = Kind::Directory;
                head.path.push(b'/');
                self.open.push((path, head.path.clone(), None));
            }
            FileKind::Symlink => match self.fs.read_link(&path).await {
                Ok(target) => head.kind = Kind::Symlink(target),
                Err(error) => return self.skip(error),
            },
            FileKind::File => match Download::open(&self.fs, &path).await {
                Ok(download) => {
                    head.size = download.attrs().size;
                    self.file = Some((download, head.size, head.size));
                }
                Err(error) => return self.skip(error),
            },
            FileKind::Other => head.kind = Kind::Other,
        }
        let mut block = Vec::new();
        tar::head(&mut block, &head);
        out.extend_from_slice(&block);
        Ok(())
    }

    /// Leaves out what cannot be read; that is told at the end.
    fn skip(&mut self, error: FileError) -> Result<(), FileError> {
        match error {
            FileError::Permission(_) | FileError::NotFound(_) => {
                self.troubles.push(error.to_string());
                if let Some((_, _, entries)) = self.open.last_mut() {
                    entries.get_or_insert_default();
                }
                Ok(())
            }
            error => Err(error),
        }
    }
}
