//! What goes wrong with files.

use std::io;
use std::time::Duration;

use occ_proto::exec::Exit;
use occ_proto::text::sanitize;

use super::sftp::Fault;
use crate::host::Unreachable;
use crate::ssh::error::tenths;
use crate::ssh::{ChannelError, Closed, LossCause};

/// A path as it is shown: safe for a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown(String);

impl Shown {
    /// Returns the path as it is shown.
    pub fn of(path: &[u8]) -> Self {
        Self(sanitize(&String::from_utf8_lossy(path)))
    }
}

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why something with files was not done.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// No connection.
    #[error("no connection to the host")]
    Unreachable(Unreachable),
    /// No channel.
    #[error("no session on the host")]
    NoSession(#[source] ChannelError),
    /// The server did not answer the request.
    #[error("the server did not say within {} s whether it serves files", tenths(*.0))]
    NoAnswer(Duration),
    /// The host serves no files.
    #[error(
        "the host serves no files: SFTP is not offered there or does not work, and no shell with its tools could stand in for it"
    )]
    NoSftp,
    /// The link broke.
    #[error("the link broke at {0}")]
    Lost(Shown, #[source] LossCause),
    /// The host closed the session.
    #[error("the host ended the session for files at {0}")]
    Ended(Shown),
    /// The host does not answer.
    #[error("the host has not answered for {} s at {path}", tenths(*.time))]
    Silent {
        /// At what.
        path: Shown,
        /// For how long.
        time: Duration,
    },
    /// It is not there.
    #[error("{0} is not there")]
    NotFound(Shown),
    /// Nothing can be made in it, as it is not there.
    #[error("the directory {0} is not there")]
    NoDirectory(Shown),
    /// Not allowed.
    #[error("{0}: permission denied")]
    Permission(Shown),
    /// A file is wanted.
    #[error("{0} is a directory")]
    IsDirectory(Shown),
    /// A directory is wanted.
    #[error("{0} is not a directory")]
    NotDirectory(Shown),
    /// It is neither a file nor a directory.
    #[error("{0} is neither a file nor a directory")]
    Special(Shown),
    /// It is there.
    #[error("{0} is there already")]
    Exists(Shown),
    /// There is something in it.
    #[error("{0} is not empty")]
    NotEmpty(Shown),
    /// Its path ends in no name of its own.
    #[error("{0}: '.', '..' and '/' are not removed")]
    Nameless(Shown),
    /// Longer than the file system allows.
    #[error("{0}: the name is too long")]
    NameTooLong(Shown),
    /// The disk is full.
    #[error("{0} could not be written: the disk is full")]
    NoSpace(Shown),
    /// There is space, but not for this user.
    #[error("{0} could not be written: a quota or a limit is reached, or the disk is failing")]
    Quota(Shown),
    /// It has changed.
    #[error("{0} has changed since it was read")]
    Changed(Shown),
    /// It ends before that.
    #[error("{path} has {size} bytes, and less is left than was asked for")]
    Range {
        /// Which.
        path: Shown,
        /// Its length.
        size: u64,
    },
    /// What is kept of an upload is another length, if anything is.
    #[error("{0} cannot be gone on with there: another length of it is kept, or nothing")]
    NotKept(Shown),
    /// The client's bytes did not come to their end.
    #[error("{0}: what was sent ended too early")]
    Cut(Shown),
    /// The client's archive is none, or has what none may have.
    #[error("{0}: {1}")]
    BadArchive(Shown, String),
    /// A path that cannot be one.
    #[error("{0}")]
    BadPath(&'static str),
    /// The server sent a name that leads elsewhere.
    #[error("{0}: the host sent a name that no file can have, {1}")]
    BadName(Shown, Shown),
    /// It would be written through a link, which may lead out of where it is to stay.
    #[error("{0} is a link or something unfinished, to which nothing is unpacked here")]
    Outside(Shown),
    /// It would run as its owner or group, whoever starts it.
    #[error("{0} has a set-user-ID or set-group-ID bit, which nothing is given here")]
    SetId(Shown),
    /// Something else.
    #[error("{0}: {1}")]
    Failed(Shown, String),
}

/// The bytes of a name, and of a path, that every host takes; eCryptfs takes the shortest names, macOS the shortest paths.
const SHORT: usize = 143;
const SHORT_PATH: usize = 900;

impl FileError {
    /// Returns the error for a path that a server's fault is about.
    pub(super) fn of(path: &[u8], fault: Fault) -> Self {
        // OpenSSH has one word for that and for whatever its system calls invalid (ENAMETOOLONG, EINVAL).
        let is_long =
            path.len() >= SHORT_PATH || path.split(|b| *b == b'/').any(|n| n.len() >= SHORT);
        let path = Shown::of(path);
        match fault {
            Fault::NoSuchFile => Self::NotFound(path),
            Fault::Permission => Self::Permission(path),
            Fault::BadMessage if is_long => Self::NameTooLong(path),
            Fault::BadMessage => Self::Failed(path, "the host says that this cannot be".into()),
            Fault::Unsupported => Self::Failed(path, "the host's SFTP cannot do that".into()),
            Fault::Eof => Self::Failed(path, "it ended too early".into()),
            Fault::Failure(text) => Self::Failed(path, sanitize(&text.to_lowercase())),
            Fault::Closed(Closed::ByServer) => Self::Ended(path),
            Fault::Closed(Closed::Connection(cause)) => Self::Lost(path, cause),
            Fault::Protocol(what) => {
                Self::Failed(path, format!("the host broke the protocol: {what}"))
            }
            Fault::Silent(time) => Self::Silent { path, time },
        }
    }

    /// Returns the error for a path of this machine.
    pub(super) fn local(path: &[u8], error: &io::Error) -> Self {
        let path = Shown::of(path);
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound(path),
            io::ErrorKind::PermissionDenied => Self::Permission(path),
            io::ErrorKind::IsADirectory => Self::IsDirectory(path),
            io::ErrorKind::NotADirectory => Self::NotDirectory(path),
            io::ErrorKind::AlreadyExists => Self::Exists(path),
            io::ErrorKind::DirectoryNotEmpty => Self::NotEmpty(path),
            io::ErrorKind::InvalidFilename => Self::NameTooLong(path),
            io::ErrorKind::StorageFull => Self::NoSpace(path),
            io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Self::Quota(path),
            _ => Self::Failed(path, error.to_string()),
        }
    }

    /// Returns the error where a program that worked on a path ended because its connection had to.
    pub(super) fn cut_off(path: &[u8], exit: &Exit) -> Option<Self> {
        let cause = exit.cut_off_by.clone().map_or(LossCause::Ours, LossCause::Hop);
        exit.cut_off.then(|| Self::Lost(Shown::of(path), cause))
    }

    /// Returns the same about another path, where it is about a file that stood in for that.
    pub(super) fn about(self, path: &[u8]) -> Self {
        let path = Shown::of(path);
        match self {
            Self::NotFound(_) => Self::NotFound(path),
            Self::Permission(_) => Self::Permission(path),
            Self::NotDirectory(_) => Self::NotDirectory(path),
            Self::NameTooLong(_) => Self::NameTooLong(path),
            Self::NoSpace(_) => Self::NoSpace(path),
            Self::Quota(_) => Self::Quota(path),
            Self::NotKept(_) => Self::NotKept(path),
            Self::Failed(_, text) => Self::Failed(path, text),
            Self::Lost(_, cause) => Self::Lost(path, cause),
            Self::Ended(_) => Self::Ended(path),
            other => other,
        }
    }

    /// Returns the same about what is to be at `to` and was below `from` until now.
    pub(super) fn moved(mut self, from: &[u8], to: &[u8]) -> Self {
        let (from, to) = (Shown::of(from).0, Shown::of(to).0);
        if let Some(shown) = self.shown()
            && from != to
            && let Some(inner) = shown.0.strip_prefix(&from)
        {
            shown.0 = format!("{to}{inner}");
        }
        self
    }

    fn shown(&mut self) -> Option<&mut Shown> {
        match self {
            Self::Lost(path, _)
            | Self::Ended(path)
            | Self::Silent { path, .. }
            | Self::NotFound(path)
            | Self::NoDirectory(path)
            | Self::BadArchive(path, _)
            | Self::Permission(path)
            | Self::IsDirectory(path)
            | Self::NotDirectory(path)
            | Self::Special(path)
            | Self::Exists(path)
            | Self::NotEmpty(path)
            | Self::Nameless(path)
            | Self::NameTooLong(path)
            | Self::NoSpace(path)
            | Self::Quota(path)
            | Self::Changed(path)
            | Self::Range { path, .. }
            | Self::NotKept(path)
            | Self::Cut(path)
            | Self::BadName(path, _)
            | Self::Outside(path)
            | Self::SetId(path)
            | Self::Failed(path, _) => Some(path),
            Self::Unreachable(_)
            | Self::NoSession(_)
            | Self::NoAnswer(_)
            | Self::NoSftp
            | Self::BadPath(_) => None,
        }
    }

    /// Returns whether the host was not reached, which says nothing of what is there.
    pub fn is_about_link(&self) -> bool {
        matches!(
            self,
            Self::Unreachable(_)
                | Self::NoSession(_)
                | Self::NoAnswer(_)
                | Self::NoSftp
                | Self::Lost(..)
                | Self::Ended(_)
                | Self::Silent { .. }
        )
    }

    /// Returns whether it is that something is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_calls_a_bad_message_is_a_long_name_where_there_is_one() {
        let is_long = |path: &str| {
            matches!(FileError::of(path.as_bytes(), Fault::BadMessage), FileError::NameTooLong(_))
        };
        assert!(is_long(&format!("d/{}", "x".repeat(200))) && is_long(&"x/".repeat(600)));
        assert!(!is_long("d/."));
    }
}
