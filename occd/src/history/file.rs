//! The files of the history: one per host, a line of JSON for each change and for each hour of round trips.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use occ_proto::HostName;
use occ_proto::history::{Change, Link, RoundTrips};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// The file whose time of change tells when a daemon ran last.
const ALIVE: &str = "alive";
/// The longest host name that is a file name; longer ones are hashed.
const LONGEST: usize = 200;

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Line {
    /// Round trips up to that moment.
    Rtt { at: Timestamp, rtt: RoundTrips },
    /// A change.
    Change(Change),
}

impl Line {
    fn at(&self) -> Timestamp {
        match self {
            Self::Rtt { at, .. } => *at,
            Self::Change(change) => change.at,
        }
    }
}

/// The directory. What goes wrong with it is logged: a full disk must not keep anybody from working.
#[derive(Debug)]
pub(super) struct Directory(PathBuf);

impl Directory {
    pub(super) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    fn create(&self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0)
    }

    fn file(&self, host: &HostName) -> PathBuf {
        // A name holds neither a slash nor a control character.
        let name = host.as_str();
        if name.len() <= LONGEST {
            return self.0.join(format!("{name}.jsonl"));
        }
        let digest = sha2::Sha256::digest(name);
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        self.0.join(format!("{hex}.jsonl"))
    }

    /// Appends lines to the files of their hosts.
    pub(super) fn append(&self, lines: &[(HostName, Line)]) {
        let write = |host: &HostName, line: &Line| -> io::Result<()> {
            let path = self.file(host);
            let mut text = serde_json::to_vec(line)?;
            text.push(b'\n');
            // One write: a line is there as a whole or not at all.
            open(&path, File::options().append(true).create(true).mode(0o600))?.write_all(&text)
        };
        if let Err(error) = self.create() {
            tracing::warn!(directory = %self.0.display(), %error, "the history is not written");
            return;
        }
        for (host, line) in lines {
            if let Err(error) = write(host, line) {
                tracing::warn!(file = %self.file(host).display(), %error, "the history is not written");
            }
        }
    }

    /// Returns a host's lines, the oldest first; none where there is no file. A line that does not parse is
    /// passed over: the disk was full, or a newer daemon wrote it.
    pub(super) fn read(&self, host: &HostName) -> io::Result<Vec<Line>> {
        read(&self.file(host))
    }

    /// Returns when the history of a host ended that has no last word of its daemon: when that was last seen
    /// alive, and not before it wrote its last line.
    pub(super) fn ended(
        &self,
        host: &HostName,
        last_alive: Option<Timestamp>,
    ) -> Option<Timestamp> {
        let lines = self.read(host).unwrap_or_default();
        let last = lines.iter().rev().find_map(|line| match line {
            Line::Change(change) => Some(change.link),
            Line::Rtt { .. } => None,
        })?;
        (last != Link::Off).then(|| lines.last().map(Line::at).max(last_alive))?
    }

    /// Notes that the daemon is alive.
    pub(super) fn note_alive(&self) {
        let note = || -> io::Result<()> {
            self.create()?;
            let path = self.0.join(ALIVE);
            let file = open(&path, File::options().append(true).create(true).mode(0o600))?;
            file.set_modified(std::time::SystemTime::now())
        };
        if let Err(error) = note() {
            tracing::debug!(%error, "the history's clock is not set");
        }
    }

    /// Returns when a daemon was alive last.
    pub(super) fn last_alive(&self) -> Option<Timestamp> {
        let modified = fs::metadata(self.0.join(ALIVE)).ok()?.modified().ok()?;
        Timestamp::try_from(modified).ok()
    }

    /// Throws away what is older than `before`.
    pub(super) fn prune(&self, before: Timestamp) {
        let Ok(entries) = fs::read_dir(&self.0) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.extension().is_some_and(|extension| extension == "jsonl")
                && let Err(error) = prune(&path, before)
            {
                tracing::warn!(file = %path.display(), %error, "the history is not pruned");
            }
        }
    }
}

/// Opens a regular file and nothing else: a pipe would hold up whoever reads or writes it.
fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file =
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")),
    }
}

fn read(path: &Path) -> io::Result<Vec<Line>> {
    let file = match open(path, File::options().read(true)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut lines = Vec::new();
    for line in BufReader::new(file).split(b'\n') {
        if let Ok(line) = serde_json::from_slice(&line?) {
            lines.push(line);
        }
    }
    Ok(lines)
}

fn prune(path: &Path, before: Timestamp) -> io::Result<()> {
    let lines = read(path)?;
    let old = lines.iter().filter(|line| line.at() < before).count();
    // The last old change still holds when the first new one comes.
    let held = lines.iter().take(old).rposition(|line| matches!(line, Line::Change(_)));
    if old <= usize::from(held.is_some()) {
        return Ok(());
    }
    let kept: Vec<&Line> =
        held.and_then(|at| lines.get(at)).into_iter().chain(lines.iter().skip(old)).collect();
    if kept.len() <= 1 && lines.last().is_some_and(|line| line.at() < before) {
        return fs::remove_file(path);
    }
    let dir = path.parent().ok_or(io::ErrorKind::NotFound)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    for line in kept {
        serde_json::to_writer(&mut file, line)?;
        file.write_all(b"\n")?;
    }
    file.persist(path)?;
    Ok(())
}
