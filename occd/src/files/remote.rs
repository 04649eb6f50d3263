//! A host's files over SFTP.

use std::sync::Arc;
use std::time::Duration;

use occ_proto::files::FileKind;
use tokio::time::{Instant, timeout, timeout_at};

use super::sftp::{Fault, Sftp, WireAttrs};
use super::{Attrs, Entry, FileError, Remote, Shown, lanes};
use crate::exec::ACCEPT;
use crate::host::COMMAND_PATIENCE;
use crate::ssh::{Channel, ChannelError, Closed, Connection};

/// Where the server of SFTP is, on hosts whose sshd does not offer it: Debian, Red Hat and BSD, SUSE and Arch, Alpine.
/// A line for any login shell.
const SERVERS: &str = "exec sh -c 'for p in /usr/lib/openssh /usr/libexec/openssh /usr/libexec /usr/lib/ssh /usr/lib; do \
    [ -x $p/sftp-server ] && exec $p/sftp-server; done; exit 127'";

/// How long a session is waited for: as long as by a command.
pub(super) const SESSION: Duration = COMMAND_PATIENCE;

/// Returns that no session became free in that time.
pub(super) fn full() -> FileError {
    FileError::NoSession(ChannelError::Full(SESSION))
}

/// Opens a session for files, for which a place has to become free until then.
pub(super) async fn open(connection: &Arc<Connection>, by: Instant) -> Result<Sftp, FileError> {
    for way in [Way::Subsystem, Way::Again, Way::Program] {
        let session = timeout_at(by, connection.session(matches!(way, Way::Again))).await;
        let (channel, is_spare) = session.map_err(|_| full())?.map_err(FileError::NoSession)?;
        match way.accepted(&channel).await? {
            // What runs there and does not speak it has nobody wait for long.
            Ok(true) => match timeout(ACCEPT, Sftp::start(channel)).await {
                Ok(Ok(sftp)) => return Ok(sftp),
                Ok(Err(Fault::Closed(Closed::Connection(cause)))) => {
                    return Err(FileError::NoSession(ChannelError::Lost(cause)));
                }
                fault => tracing::debug!(?fault, "no SFTP this way"),
            },
            Err(Closed::Connection(cause)) => {
                return Err(FileError::NoSession(ChannelError::Lost(cause)));
            }
            // A spare that the server has ended says nothing of SFTP.
            Err(Closed::ByServer) if is_spare => continue,
            Ok(false) | Err(Closed::ByServer) => {}
        }
    }
    Err(FileError::NoSftp)
}

/// Opens another session beside one that there is, if one is to be had at once.
pub(super) async fn open_beside(connection: &Arc<Connection>) -> Result<Sftp, FileError> {
    for way in [Way::Subsystem, Way::Program] {
        let channel = connection.stream_session(true).await.map_err(FileError::NoSession)?;
        if way.accepted(&channel).await? == Ok(true)
            && let Ok(Ok(sftp)) = timeout(ACCEPT, Sftp::start(channel)).await
        {
            return Ok(sftp);
        }
    }
    Err(FileError::NoSftp)
}

#[derive(Debug, Clone, Copy)]
enum Way {
    Subsystem,
    Again,
    Program,
}

impl Way {
    /// Asks for SFTP this way. Returns whether the server lets it begin, or why the channel ended.
    async fn accepted(self, channel: &Channel) -> Result<Result<bool, Closed>, FileError> {
        let asked = async {
            match self {
                Self::Subsystem | Self::Again => channel.request_subsystem("sftp").await?,
                Self::Program => channel.request_exec(SERVERS.as_bytes()).await?,
            }
            channel.accepted().await
        };
        timeout(ACCEPT, asked).await.map_err(|_| FileError::NoAnswer(ACCEPT))
    }
}

/// The type bits of a mode, which version 3 has no other place for (POSIX, sys/stat.h).
pub(super) fn kind(mode: u32) -> FileKind {
    match mode & 0o170_000 {
        0o040_000 => FileKind::Directory,
        0o120_000 => FileKind::Symlink,
        // A server that does not say means a file.
        0o100_000 | 0 => FileKind::File,
        _ => FileKind::Other,
    }
}

pub(super) fn attrs(wire: &WireAttrs) -> Attrs {
    let mode = wire.mode.unwrap_or_default();
    Attrs {
        kind: kind(mode),
        size: wire.size.unwrap_or_default(),
        mode: mode & 0o7777,
        owner: wire.owner.unwrap_or_default(),
        mtime: wire.times.map_or(0, |(_, changed)| i64::from(changed)),
        stamp: u64::from(mode),
    }
}

impl Remote {
    pub(super) fn sftp(&self) -> &Arc<Sftp> {
        &self.sftp
    }

    pub(super) async fn stat(&self, path: &[u8], follow: bool) -> Result<Attrs, FileError> {
        let found = self.sftp.stat(path, follow).await;
        found.map(|wire| attrs(&wire)).map_err(|fault| FileError::of(path, fault))
    }

    pub(super) async fn list(&self, path: &[u8]) -> Result<Vec<Entry>, FileError> {
        let handle = match self.sftp.open_dir(path).await {
            Ok(handle) => handle,
            // Servers have the same word for a file as for nothing.
            Err(fault @ (Fault::NoSuchFile | Fault::Failure(_))) => {
                return Err(match self.sftp.stat(path, true).await {
                    Ok(wire) if attrs(&wire).kind != FileKind::Directory => {
                        FileError::NotDirectory(Shown::of(path))
                    }
                    _ => FileError::of(path, fault),
                });
            }
            Err(fault) => return Err(FileError::of(path, fault)),
        };
        let mut entries = Vec::new();
        let result = loop {
            match self.sftp.read_dir(&handle).await {
                Ok(names) if names.is_empty() => break Ok(()),
                Ok(names) => entries.extend(
                    names.into_iter().map(|(name, wire)| Entry { name, attrs: attrs(&wire) }),
                ),
                Err(fault) => break Err(FileError::of(path, fault)),
            }
        };
        self.sftp.close_behind(handle);
        result.map(|()| entries)
    }

    pub(super) async fn real_path(&self, path: &[u8]) -> Result<Vec<u8>, FileError> {
        let real = self.sftp.real_path(path).await.map_err(|fault| FileError::of(path, fault))?;
        Ok(real.to_vec())
    }

    pub(super) async fn read_link(&self, path: &[u8]) -> Result<Vec<u8>, FileError> {
        let target = self.sftp.read_link(path).await.map_err(|fault| FileError::of(path, fault))?;
        Ok(target.to_vec())
    }

    pub(super) async fn symlink(&self, target: &[u8], path: &[u8]) -> Result<(), FileError> {
        let made = self.sftp.symlink(target, path).await;
        self.explained(path, made).await
    }

    pub(super) async fn mkdir(&self, path: &[u8], mode: Option<u32>) -> Result<(), FileError> {
        let made = self.sftp.mkdir(path, mode).await;
        self.explained(path, made).await
    }

    pub(super) async fn rename(
        &self,
        from: &[u8],
        to: &[u8],
        replace: bool,
    ) -> Result<(), FileError> {
        let result = match replace {
            true => self.sftp.replace(from, to).await,
            false => self.sftp.rename(from, to).await,
        };
        match result {
            Err(Fault::NoSuchFile) => {
                self.stat(from, false).await?;
                // It is the directory of the other that is not there.
                Err(FileError::NotFound(Shown::of(to)))
            }
            Err(Fault::Failure(text)) => match self.stat(to, false).await {
                Ok(there) if replace && there.kind == FileKind::Directory => {
                    Err(FileError::IsDirectory(Shown::of(to)))
                }
                Ok(_) if !replace => Err(FileError::Exists(Shown::of(to))),
                _ => Err(FileError::of(to, Fault::Failure(text))),
            },
            result => result.map_err(|fault| FileError::of(to, fault)),
        }
    }

    pub(super) async fn remove(&self, path: &[u8], kind: FileKind) -> Result<(), FileError> {
        match kind {
            FileKind::Directory => match self.sftp.rmdir(path).await {
                Err(Fault::Failure(text)) => match self.list(path).await {
                    Ok(entries) if entries.len() > 2 => Err(FileError::NotEmpty(Shown::of(path))),
                    _ => Err(FileError::of(path, Fault::Failure(text))),
                },
                result => result.map_err(|fault| FileError::of(path, fault)),
            },
            _ => self.sftp.remove(path).await.map_err(|fault| FileError::of(path, fault)),
        }
    }

    pub(super) async fn chmod(&self, path: &[u8], mode: u32) -> Result<(), FileError> {
        let attrs = WireAttrs { mode: Some(mode & 0o7777), ..WireAttrs::default() };
        self.sftp.setstat(path, &attrs).await.map_err(|fault| FileError::of(path, fault))
    }

    pub(super) async fn cut(
        &self,
        path: &[u8],
        length: u64,
        mark: Option<u32>,
    ) -> Result<bool, FileError> {
        // A pipe would be waited for.
        if self.stat(path, false).await?.kind != FileKind::File {
            return Ok(false);
        }
        let cut = async {
            // It follows a link that somebody has put there, which is then told by the mark.
            let handle = self.sftp.open_to_write(path).await?;
            let is_it = lanes::has_mark(&self.sftp, &handle, mark).await?;
            if is_it {
                let attrs = WireAttrs { size: Some(length), ..WireAttrs::default() };
                self.sftp.fsetstat(&handle, &attrs).await?;
            }
            self.sftp.close(&handle).await?;
            Ok(is_it)
        };
        cut.await.map_err(|fault| FileError::of(path, fault))
    }

    pub(super) async fn touch(&self, path: &[u8], mtime: i64) -> Result<(), FileError> {
        let attrs = WireAttrs { times: Some(times(mtime)), ..WireAttrs::default() };
        self.sftp.setstat(path, &attrs).await.map_err(|fault| FileError::of(path, fault))
    }

    /// Returns the result of making something, a plain failure with its reason as far as it can be found.
    async fn explained(&self, path: &[u8], result: Result<(), Fault>) -> Result<(), FileError> {
        match result {
            Err(Fault::Failure(text)) => match self.stat(path, false).await {
                Ok(_) => Err(FileError::Exists(Shown::of(path))),
                Err(_) => Err(self.cannot_write(path, Fault::Failure(text)).await),
            },
            result => result.map_err(|fault| FileError::of(path, fault)),
        }
    }

    /// Returns the error for something that could not be written: servers have no word for a full disk.
    pub(super) async fn cannot_write(&self, path: &[u8], fault: Fault) -> FileError {
        if !matches!(fault, Fault::Failure(_)) {
            return FileError::of(path, fault);
        }
        let dir = super::split(path).map_or(&b"."[..], |(dir, _)| dir);
        match self.sftp.free(dir).await {
            Ok(Some(free)) if free < self.sftp.write_chunk() as u64 => {
                FileError::NoSpace(Shown::of(path))
            }
            Ok(Some(_)) => FileError::Quota(Shown::of(path)),
            _ => FileError::of(path, fault),
        }
    }
}

/// Returns both times for the wire, which counts to 2106.
pub(super) fn times(mtime: i64) -> (u32, u32) {
    let seconds = u32::try_from(mtime.max(0)).unwrap_or(u32::MAX);
    (seconds, seconds)
}
