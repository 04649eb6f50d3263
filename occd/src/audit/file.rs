//! The files of the audit log: one that is written to, a few that are full, and how many lines are lost.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use occ_proto::audit::{AuditFilter, AuditLine, Joined};
use occ_proto::paths::audit_files;

use crate::state_file::ends_whole;

/// The longest line that is read: more is none of ours.
const LONGEST: usize = 1024 * 1024;

/// The length of a number of lost lines, in bytes, with the end of its line.
const NUMBER: usize = 21;

/// Where the log is.
#[derive(Debug)]
pub(super) struct Log {
    /// The full ones, the oldest first, and the one that is written to.
    paths: Vec<PathBuf>,
}

impl Log {
    pub(super) fn new(state_dir: &Path) -> Self {
        Self { paths: audit_files(state_dir) }
    }

    /// Returns the file that is written to.
    pub(super) fn path(&self) -> &Path {
        self.paths.last().map_or(Path::new(""), PathBuf::as_path)
    }

    /// Appends whole lines, to a new file where they would make the old one larger than `max`. The file is opened anew each
    /// time: whoever takes it away gets a new one.
    pub(super) fn append(&self, text: &[u8], max: u64) -> io::Result<()> {
        if let Some(dir) = self.path().parent() {
            DirBuilder::new().mode(0o700).recursive(true).create(dir)?;
        }
        let mut file = self.open()?;
        let size = file.metadata()?.len();
        if size > 0 && size.saturating_add(text.len() as u64) > max {
            for pair in self.paths.windows(2) {
                let [older, newer] = pair else { continue };
                match fs::rename(newer, older) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            file = self.open()?;
        } else if !ends_whole(&file)? {
            // The disk was full in the middle of a line.
            file.write_all(b"\n")?;
        }
        file.write_all(text)
    }

    fn open(&self) -> io::Result<File> {
        let file =
            regular(File::options().read(true).append(true).create(true).mode(0o600), self.path())?;
        if file.metadata()?.permissions().mode() & 0o077 != 0 {
            file.set_permissions(Permissions::from_mode(0o600))?;
        }
        Ok(file)
    }

    /// Returns what reads all of them from the beginning.
    pub(super) fn reader(&self) -> io::Result<Reader> {
        let mut old = Vec::new();
        let mut current = None;
        for path in &self.paths {
            let file = existing(path)?;
            if path == self.path() {
                current = file;
            } else {
                old.extend(file);
            }
        }
        Ok(Reader { old, current, rest: Vec::new() })
    }
}

/// How many lines are lost and not told of yet, in a file whose length never changes: what is overwritten in place needs no
/// room on a full disk.
#[derive(Debug)]
pub(super) struct LostCount {
    path: PathBuf,
}

impl LostCount {
    pub(super) fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join("audit.lost") }
    }

    /// Returns the number, after making the file if it is not there: later there may be no room.
    pub(super) fn open(&self) -> io::Result<u64> {
        let mut text = String::new();
        let read = self.file()?.take(NUMBER as u64).read_to_string(&mut text);
        match read.map(|_| text.trim().parse()) {
            Ok(Ok(number)) => Ok(number),
            // New, or nothing of ours.
            _ => self.set(0).map(|()| 0),
        }
    }

    pub(super) fn set(&self, number: u64) -> io::Result<()> {
        let line = format!("{number:0width$}\n", width = NUMBER - 1);
        self.file()?.write_all_at(line.as_bytes(), 0)
    }

    fn file(&self) -> io::Result<File> {
        regular(File::options().read(true).write(true).create(true).mode(0o600), &self.path)
    }
}

/// Opens a regular file and nothing else: a pipe would hold up whoever reads or writes it, and where a link leads somebody
/// else may have chosen.
fn regular(options: &mut fs::OpenOptions, path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW;
    let file = options.custom_flags(flags.bits().cast_signed()).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")),
    }
}

fn existing(path: &Path) -> io::Result<Option<File>> {
    match regular(File::options().read(true), path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads the files, and then what comes behind.
#[derive(Debug)]
pub(super) struct Reader {
    old: Vec<File>,
    current: Option<File>,
    /// The beginning of a line whose end has not been read.
    rest: Vec<u8>,
}

impl Reader {
    /// Returns the last lines of all that is there now.
    pub(super) fn last(&mut self, filter: AuditFilter, most: usize) -> io::Result<Joined> {
        let mut joined = Joined::new(filter, most);
        for file in self.old.drain(..) {
            for line in BufReader::new(file).split(b'\n') {
                joined.take_json(&line?);
            }
        }
        self.lines(|line| joined.take_json(line))?;
        Ok(joined)
    }

    /// Returns the lines that have come since, also those of a file that has taken this one's place.
    pub(super) fn next(&mut self, log: &Log) -> io::Result<Vec<AuditLine>> {
        let mut lines = Vec::new();
        let mut take = |line: &[u8]| lines.extend(serde_json::from_slice::<AuditLine>(line));
        self.lines(&mut take)?;
        let is_same = |file: &File| -> io::Result<bool> {
            let (ours, theirs) = (file.metadata()?, fs::metadata(log.path())?);
            Ok((ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()))
        };
        // One that is gone comes back with the next line.
        if !self.current.as_ref().is_some_and(|file| is_same(file).unwrap_or(true)) {
            self.current = existing(log.path())?;
            self.rest.clear();
            self.lines(&mut take)?;
        }
        Ok(lines)
    }

    fn lines(&mut self, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        let Some(file) = &mut self.current else { return Ok(()) };
        let mut piece = vec![0; 64 * 1024];
        loop {
            let length = match file.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            for part in piece[..length].split_inclusive(|byte| *byte == b'\n') {
                if self.rest.len() + part.len() <= LONGEST {
                    self.rest.extend_from_slice(part);
                }
                if part.ends_with(b"\n") {
                    take(&self.rest);
                    self.rest.clear();
                }
            }
        }
    }
}
