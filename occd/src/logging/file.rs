//! The log in a file, which is put aside when it is large. Whatever becomes of the disk, the daemon goes on, and the log
//! says how much of it is missing once it can.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rustix::fs::OFlags;
use tokio::time::Instant;
use tracing_subscriber::fmt::MakeWriter;

use super::Format;
use super::record::{self, Record};
use crate::check::can_make_in;

/// A file that would become larger is put aside as `occd.log.1`, in the place of the one before: 16 MiB in all.
const LIMIT: u64 = 8 * 1024 * 1024;
/// How often to look whether the file is still the one at its path.
const LOOK: Duration = Duration::from_secs(1);

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be had.
    #[error("the log {path} cannot be written")]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A defect.
    #[error("it is not known what to log")]
    NoDefault,
}

/// The log's file.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    format: Format,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    open: Option<Open>,
    /// Lines that could not be written, and why the first could not.
    missing: Option<(u64, String)>,
}

#[derive(Debug)]
struct Open {
    file: File,
    size: u64,
    /// When it was last known to be the one at its path.
    looked: Instant,
}

impl LogFile {
    pub(super) fn open(path: &Path, format: Format) -> Result<Self, LogError> {
        let open = open_at(path);
        let open = open.map_err(|source| LogError::File { path: path.to_owned(), source })?;
        let state = Mutex::new(State { open: Some(open), missing: None });
        Ok(Self { path: path.to_owned(), format, state })
    }

    /// Writes a line with its end.
    fn line(&self, line: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.try_line(&mut state, line) {
            let missing = state.missing.get_or_insert_with(|| (0, error.to_string()));
            missing.0 += 1;
        }
    }

    fn try_line(&self, state: &mut State, line: &[u8]) -> io::Result<()> {
        let mut open = match state.open.take() {
            // A file that was removed takes no more lines, not even those of the next moment.
            Some(open) if open.looked.elapsed() < LOOK && open.file.metadata()?.nlink() > 0 => open,
            Some(open) => self.look(open)?,
            None => open_at(&self.path)?,
        };
        if open.size > 0 && open.size + line.len() as u64 > LIMIT {
            open = self.put_aside(open)?;
        }
        let open = state.open.insert(open);
        if let Some((lines, why)) = &state.missing {
            open.write(self.note(*lines, why).as_bytes())?;
            state.missing = None;
        }
        open.write(line)
    }

    /// Returns the file again if it is still there, else the one that is.
    fn look(&self, open: Open) -> io::Result<Open> {
        let own = open.file.metadata()?;
        let there = std::fs::symlink_metadata(&self.path);
        let same = there.is_ok_and(|there| (there.dev(), there.ino()) == (own.dev(), own.ino()));
        if !same {
            return open_at(&self.path);
        }
        Ok(Open { looked: Instant::now(), size: own.len(), ..open })
    }

    fn put_aside(&self, open: Open) -> io::Result<Open> {
        match std::fs::rename(&self.path, old(&self.path)) {
            Ok(()) => open_at(&self.path),
            // It must not grow without end, so what is in it goes.
            Err(_) => {
                open.file.set_len(0)?;
                Ok(Open { size: 0, ..open })
            }
        }
    }

    fn note(&self, lines: u64, why: &str) -> String {
        let message = format!("{lines} lines of the log are missing here: {why}");
        match self.format {
            Format::Text => format!("{:.6}  WARN {message}\n", Timestamp::now()),
            Format::Json => {
                let record = Record { message, ..Record::default() };
                record::json("warn", module_path!(), record)
            }
        }
    }
}

impl Open {
    /// Writes the whole, or nothing.
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match self.file.write_all(line) {
            Ok(()) => {
                self.size += line.len() as u64;
                Ok(())
            }
            Err(error) => {
                self.file.set_len(self.size)?;
                Err(error)
            }
        }
    }
}

/// Returns why a log could not be written there. Changes nothing.
pub fn check(path: &Path) -> Result<(), LogError> {
    // Without waiting for whoever would read a pipe.
    let mut options = OpenOptions::new();
    let opened = open_no_link(options.append(true), path, OFlags::NONBLOCK);
    match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match path.parent() {
            Some(dir) => can_make_in(dir),
            None => Ok(()),
        },
        opened => opened.map(|_| ()),
    }
    .map_err(|source| LogError::File { path: path.to_owned(), source })
}

/// Opens it, and not through a link: somebody else may have chosen where it leads.
fn open_no_link(options: &mut OpenOptions, path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW;
    options.custom_flags(flags.bits().cast_signed()).open(path).map_err(|error| {
        match path.is_symlink() {
            true => io::Error::other("it is a symbolic link"),
            false => error,
        }
    })
}

/// Returns where the file before is.
fn old(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

fn open_at(path: &Path) -> io::Result<Open> {
    if let Some(dir) = path.parent() {
        DirBuilder::new().mode(0o700).recursive(true).create(dir)?;
    }
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600);
    let file = open_no_link(&mut options, path, OFlags::empty())?;
    let metadata = file.metadata()?;
    if metadata.mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(Open { size: metadata.len(), file, looked: Instant::now() })
}

/// Writes to the file, line by line.
#[derive(Debug)]
pub(super) struct Lines<'a>(&'a LogFile);

impl<'a> MakeWriter<'a> for LogFile {
    type Writer = Lines<'a>;

    fn make_writer(&'a self) -> Lines<'a> {
        Lines(self)
    }
}

impl Write for Lines<'_> {
    /// Takes everything: a line comes as one.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &Path) -> Vec<String> {
        std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_large_file_is_put_aside_in_mid_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/occd.log");
        let log = LogFile::open(&path, Format::Text).unwrap();
        let line = [[b'x'; 1023].as_slice(), b"\n"].concat();
        // Two files full, and one line.
        for _ in 0..=2 * LIMIT / 1024 {
            log.line(&line);
        }
        let size = |path: &Path| std::fs::metadata(path).unwrap().len();
        assert_eq!((size(&path), size(&old(&path))), (1024, LIMIT));
        for path in [&path, &old(&path)] {
            assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 2);
    }

    #[test]
    fn it_goes_on_where_the_directory_was_removed() {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(async {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("state/occd.log");
                let log = LogFile::open(&path, Format::Text).unwrap();
                log.line(b"one\n");
                std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path.parent().unwrap(), "in its place").unwrap();
                tokio::time::advance(LOOK).await;
                log.line(b"two\n");
                log.line(b"three\n");
                std::fs::remove_file(path.parent().unwrap()).unwrap();
                log.line(b"four\n");
                let lines = lines(&path);
                assert!(
                    lines[0].contains(" WARN 2 lines of the log are missing here: "),
                    "{lines:?}"
                );
                assert_eq!(lines[1..], ["four"]);
            });
    }

    #[test]
    fn the_next_line_makes_a_removed_file_anew() {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(async {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("occd.log");
                let log = LogFile::open(&path, Format::Text).unwrap();
                log.line(b"one\n");
                std::fs::remove_file(&path).unwrap();
                log.line(b"two\n");
                assert_eq!(lines(&path), ["two"]);
            });
    }

    #[test]
    fn it_writes_through_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("occd.log"), dir.path().join("other"));
        std::fs::write(&other, "").unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        assert!(LogFile::open(&path, Format::Text).is_err());
        std::fs::remove_file(&path).unwrap();
        let log = LogFile::open(&path, Format::Text).unwrap();
        std::os::unix::fs::symlink(&other, old(&path)).unwrap();
        let line = vec![b'x'; usize::try_from(LIMIT).unwrap()];
        log.line(&line);
        log.line(b"two\n");
        assert_eq!(std::fs::read(&other).unwrap(), b"");
        assert_eq!(lines(&path), ["two"]);
    }
}
