//! Reading hosts.json and turning it into text again: which file counts, what is wrong with it, what
//! it says. Knows nothing of the store, and writes nothing.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use occ_proto::host::{HostConfig, HostsFile};
use occ_proto::name::{Address, GroupName, HostName, UserName};
use occ_proto::wording::in_words;
use serde::{Deserialize, Serialize, Serializer};

use crate::ownership::{self, Exposed};

/// A file written less than this before it was read may be written again without a visible change of
/// its times, which some file systems keep in whole seconds (two, on FAT).
const TIMES_ARE_COARSE: Duration = Duration::from_secs(2);
/// The largest hosts.json that is read, in bytes: some 15,000 hosts.
const MAX_SIZE: u64 = 4 * 1024 * 1024;

/// Why hosts.json cannot be used. Says where, and whether there is a copy to go back to.
#[derive(Debug, Clone)]
pub struct HostsFileError {
    /// The file, by the name under which it was looked for.
    pub path: PathBuf,
    /// The copy of the content before the last change, when there is one.
    pub bak: Option<PathBuf>,
    /// What is wrong.
    pub fault: HostsFault,
}

/// What is wrong with hosts.json.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HostsFault {
    /// Not JSON, an unknown key, or a value that is not valid there.
    #[error("does not parse: {message} at line {line} column {column}")]
    Invalid {
        /// What the parser says, safe to print.
        message: String,
        /// The line, from 1.
        line: usize,
        /// The column in bytes, from 1; 0 at the very start of a line.
        column: usize,
    },
    /// Written by a version of the existing tool that is not known here.
    #[error("has version {0}; only versions 0 and 1 are understood")]
    Version(String),
    /// Larger than any real one.
    #[error("is larger than {} MiB", MAX_SIZE / 1024 / 1024)]
    TooLarge,
    /// A directory, a named pipe or the like.
    #[error("is {0}, not a regular file")]
    NotAFile(&'static str),
    /// Treated as an error and not as an empty file, because it most likely means that the place where
    /// the real one lives is not there at the moment.
    #[error("is a symbolic link to {}, which does not exist", .0.display())]
    DanglingLink(PathBuf),
    /// Somebody else could have written it.
    #[error(transparent)]
    Exposed(#[from] Exposed),
    /// The system does not let it be read.
    #[error("cannot be read")]
    Read(#[source] Arc<io::Error>),
}

impl HostsFileError {
    /// Returns it for the log, where nothing is that stands in the file.
    pub(crate) fn for_log(&self) -> String {
        match &self.fault {
            HostsFault::Invalid { line, column, .. } => {
                format!("{} does not parse at line {line} column {column}", self.path.display())
            }
            _ => self.to_string(),
        }
    }
}

impl fmt::Display for HostsFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hosts.json {} ({})", self.fault, self.path.display())
    }
}

impl std::error::Error for HostsFileError {
    // The fault's own text is part of this one's, so the chain goes on behind it.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.fault.source()
    }
}

/// What the published state was read from.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) at: Observation,
    /// False if the file can change again without its observation changing.
    pub(super) conclusive: bool,
}

/// What `stat` says, without reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Observation {
    pub(super) path: PathBuf,
    pub(super) file: Stat,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stat {
    Missing,
    DanglingLink,
    Failed(Option<i32>),
    /// Device, inode, size, and the times of content and inode with nanoseconds.
    Present([i64; 7]),
}

/// One reading of the file.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) seen: Seen,
    pub(super) result: Result<Good, HostsFileError>,
}

#[derive(Debug)]
pub(super) struct Good {
    pub(super) file: HostsFile,
    /// The bytes and permission bits; `None` when there is no file.
    pub(super) content: Option<(Vec<u8>, u32)>,
}

/// Returns whether two files say the same, the order of the hosts included.
pub(super) fn same(a: &HostsFile, b: &HostsFile) -> bool {
    a == b && a.hosts.keys().eq(b.hosts.keys())
}

/// Returns where the previous content goes: where the existing tool puts it too.
pub(super) fn bak_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".bak");
    name.into()
}

/// Returns which file counts and what `stat` says about it.
pub(super) fn observe(candidates: &[PathBuf]) -> Observation {
    for path in candidates {
        let file = stat(path);
        if file != Stat::Missing {
            return Observation { path: path.clone(), file };
        }
    }
    let path = candidates.first().cloned().unwrap_or_default();
    Observation { path, file: Stat::Missing }
}

fn stat(path: &Path) -> Stat {
    use io::ErrorKind::{NotADirectory, NotFound};
    match fs::metadata(path) {
        Ok(meta) => Stat::Present([
            meta.dev().cast_signed(),
            meta.ino().cast_signed(),
            meta.size().cast_signed(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
        ]),
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => {
            if fs::symlink_metadata(path).is_ok() { Stat::DanglingLink } else { Stat::Missing }
        }
        Err(error) => Stat::Failed(error.raw_os_error()),
    }
}

pub(super) fn load(candidates: &[PathBuf]) -> Loaded {
    let started = SystemTime::now();
    // Before reading: a write during the reading then shows as a change.
    let at = observe(candidates);
    let mut conclusive = true;
    let result = match &at.file {
        Stat::Missing => Ok(Good { file: HostsFile::default(), content: None }),
        Stat::DanglingLink => {
            Err(HostsFault::DanglingLink(fs::read_link(&at.path).unwrap_or_default()))
        }
        Stat::Failed(_) | Stat::Present(_) => read_file(&at.path).and_then(|(bytes, meta)| {
            conclusive =
                meta.modified().is_ok_and(|modified| modified + TIMES_ARE_COARSE < started);
            let mode = meta.permissions().mode() & 0o777;
            Ok(Good { file: parse(&bytes)?, content: Some((bytes, mode)) })
        }),
    };
    let result = result.map_err(|fault| {
        // The next reading may fare better though nothing about the file changes.
        conclusive &= !matches!(fault, HostsFault::Read(_));
        let bak = Some(bak_path(&at.path)).filter(|bak| bak.is_file());
        HostsFileError { path: at.path.clone(), bak, fault }
    });
    Loaded { seen: Seen { at, conclusive }, result }
}

fn read_file(path: &Path) -> Result<(Vec<u8>, fs::Metadata), HostsFault> {
    let failed = |error| HostsFault::Read(Arc::new(error));
    // Asked before opening, which could act on a device, and again after it, for what it became.
    regular(&fs::metadata(path).map_err(failed)?)?;
    let file = File::options()
        .read(true)
        // A named pipe without a writer does not hang the opening.
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    regular(&meta)?;
    ownership::check(&meta)?;
    let mut bytes = Vec::new();
    file.take(MAX_SIZE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err(HostsFault::TooLarge);
    }
    Ok((bytes, meta))
}

fn regular(meta: &fs::Metadata) -> Result<(), HostsFault> {
    let kind = meta.file_type();
    Err(HostsFault::NotAFile(match kind {
        _ if kind.is_file() => return Ok(()),
        _ if kind.is_dir() => "a directory",
        _ if kind.is_fifo() => "a named pipe",
        _ if kind.is_socket() => "a socket",
        _ => "a device",
    }))
}

fn parse(bytes: &[u8]) -> Result<HostsFile, HostsFault> {
    /// Read first: a later version would otherwise be refused for the first key it added.
    #[derive(Deserialize)]
    struct Version {
        #[serde(default)]
        version: Option<serde_json::Number>,
    }
    if let Ok(Version { version: Some(version) }) = serde_json::from_slice(bytes)
        && !matches!(version.as_u64(), Some(0 | 1))
    {
        return Err(HostsFault::Version(version.to_string()));
    }
    if let Some(what) = misplaced_array(bytes) {
        let message = format!("{what} is an array where an object belongs");
        return Err(HostsFault::Invalid { message, line: 1, column: 1 });
    }
    serde_json::from_slice(bytes).map_err(|error| {
        let text = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        let message = in_words(text.strip_suffix(&place).unwrap_or(&text));
        let message = occ_proto::text::sanitize(&message);
        let (line, column) = position(bytes, &error);
        HostsFault::Invalid { message, line, column }
    })
}

/// Returns what is an array instead of an object. serde takes an array for a struct, its fields in order, so
/// that `[]` would be a file without hosts. Only structs: serde refuses an array for the map of hosts by itself.
fn misplaced_array(bytes: &[u8]) -> Option<String> {
    // What does not parse at all is told with its place by the caller.
    let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    if value.is_array() {
        return Some("the whole file".to_owned());
    }
    let (name, _) = value.get("hosts")?.as_object()?.iter().find(|(_, host)| host.is_array())?;
    Some(occ_proto::text::sanitize(&format!("the host {name:?}")))
}

/// Returns line and column of an error. serde_json reports a value that our types refuse only after
/// it has passed the brace behind it, often a line further down; this goes back to the value.
fn position(bytes: &[u8], error: &serde_json::Error) -> (usize, usize) {
    let reported = (error.line(), error.column());
    let start = match error.line().checked_sub(2) {
        None => 0,
        Some(n) => match bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(n) {
            Some((newline, _)) => newline + 1,
            None => return reported,
        },
    };
    match bytes.get(..start + error.column()).and_then(|head| head.strip_suffix(b"}")) {
        Some(head) if error.is_data() => {
            let head = head.trim_ascii_end();
            let line_start = head.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
            (1 + head.iter().filter(|b| **b == b'\n').count(), head.len() - line_start)
        }
        _ => reported,
    }
}

/// hosts.json as it is written: as the existing tool does, with the nulls, but for a `user` that is
/// not set. There that tool wants a string or no key, and refuses the whole file over a null.
#[derive(Serialize)]
struct FileOnDisk<'a> {
    version: u32,
    default_host: Option<&'a HostName>,
    #[serde(serialize_with = "hosts_on_disk")]
    hosts: &'a HostsFile,
}

#[derive(Serialize)]
struct HostOnDisk<'a> {
    hostname: &'a Address,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a UserName>,
    port: Option<u16>,
    identity_file: Option<&'a str>,
    jump_host: Option<&'a str>,
    groups: &'a [GroupName],
    description: Option<&'a str>,
}

fn hosts_on_disk<S: Serializer>(file: &&HostsFile, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(file.hosts.iter().map(|(name, config)| {
        // Taken apart without `..`, so that a new field cannot be forgotten here.
        let HostConfig { hostname, user, port, identity_file, jump_host, groups, description } =
            config;
        let host = HostOnDisk {
            hostname,
            user: user.as_ref(),
            port: *port,
            identity_file: identity_file.as_deref(),
            jump_host: jump_host.as_deref(),
            groups,
            description: description.as_deref(),
        };
        (name, host)
    }))
}

/// Returns the bytes to write, after reading them back: a change must not make a file that we would
/// refuse at the next start.
pub(super) fn encode(file: &HostsFile, trailing_newline: bool) -> io::Result<Vec<u8>> {
    let on_disk =
        FileOnDisk { version: file.version, default_host: file.default_host.as_ref(), hosts: file };
    let mut bytes = serde_json::to_vec_pretty(&on_disk)?;
    if trailing_newline {
        bytes.push(b'\n');
    }
    if bytes.len() as u64 > MAX_SIZE {
        return Err(io::Error::other(HostsFault::TooLarge));
    }
    match parse(&bytes).map_err(io::Error::other)? {
        read if same(&read, file) => Ok(bytes),
        _ => Err(io::Error::other("it would read back differently")),
    }
}
