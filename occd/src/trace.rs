//! A trace of a host: what goes through its channels, in a file of the user's, as lines of JSON ([`TraceRecord`]).

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use occ_proto::trace::{TraceCounts, TraceEnd, TraceRecord};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::blocking::blocking;
use crate::ownership::{self, Exposed};
use crate::ssh::tap::{Direction, Piece, Tracer};

/// The largest file, in bytes.
pub const LARGEST: u64 = 256 * 1024 * 1024;
/// Bytes of a batch that are written at once, about.
const BATCH: usize = 1024 * 1024;

/// Why there is no file to trace into.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The path depends on where the daemon is, or names no file.
    #[error("{0} is not the absolute path of a file")]
    Relative(PathBuf),
    /// There is something of that name, a link say.
    #[error("{0} is there already")]
    Exists(PathBuf),
    /// Its directory is not there.
    #[error("there is no directory {0}")]
    NoDirectory(PathBuf),
    /// Others could read it, or exchange it for another.
    #[error("the directory {path} {why}")]
    Exposed {
        /// The directory.
        path: PathBuf,
        /// Who.
        why: Exposed,
    },
    /// It cannot be made.
    #[error("{path} cannot be made")]
    Io {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Makes the file, for its owner alone, in a directory that nobody else can write to. Returns where it is by its own name.
pub fn create(path: &Path) -> Result<(File, PathBuf), FileError> {
    let (Some(dir), Some(name), true) = (path.parent(), path.file_name(), path.is_absolute())
    else {
        return Err(FileError::Relative(path.to_owned()));
    };
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            FileError::NoDirectory(dir.to_owned())
        }
        _ => FileError::Io { path: path.to_owned(), source },
    };
    let dir = dir.canonicalize().map_err(failed)?;
    let metadata = std::fs::metadata(&dir).map_err(failed)?;
    let checked = match metadata.uid() {
        uid if uid == rustix::process::geteuid().as_raw() => ownership::check(&metadata),
        uid => Err(Exposed::Owner(uid)),
    };
    checked.map_err(|why| FileError::Exposed { path: dir.clone(), why })?;
    let path = dir.join(name);
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    match made {
        Ok(file) => Ok((file, path)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(FileError::Exists(path)),
        Err(source) => Err(FileError::Io { path, source }),
    }
}

/// Makes a file in the daemon's own directory for traces.
pub fn create_in(dir: &Path, name: &str) -> Result<(File, PathBuf), FileError> {
    let made = DirBuilder::new().mode(0o700).recursive(true).create(dir);
    made.map_err(|source| FileError::Io { path: dir.to_owned(), source })?;
    create(&dir.join(OsString::from(name)))
}

/// How a trace has ended.
#[derive(Debug)]
pub struct Ended {
    /// Why.
    pub why: TraceEnd,
    /// What is in the file.
    pub counts: TraceCounts,
    /// What went wrong.
    pub error: Option<io::Error>,
}

/// Writes what comes until the time is over, somebody ends it (also by `left`), the file has so many bytes, or the daemon
/// stops. `progress` is told how far it is.
pub async fn run(
    mut tracer: Tracer,
    (file, largest): (File, u64),
    time: Duration,
    progress: &watch::Sender<TraceCounts>,
    left: CancellationToken,
    stop: CancellationToken,
) -> Ended {
    let file = Arc::new(file);
    let (end, over) = (tracer.end(), Instant::now() + time);
    let mut counts = TraceCounts::default();
    let mut size = 0;
    loop {
        let next = tokio::select! {
            biased;
            () = stop.cancelled() => Err(TraceEnd::Shutdown),
            () = end.cancelled() => Err(TraceEnd::Stopped),
            () = left.cancelled() => Err(TraceEnd::Stopped),
            () = sleep_until(over) => Err(TraceEnd::Time),
            piece = tracer.next() => Ok(piece),
        };
        let (mut piece, mut why) = match next {
            Ok(piece) => (Some(piece), None),
            Err(why) => {
                // What came before that is in it.
                tracer.close();
                (tracer.try_next(), Some(why))
            }
        };
        loop {
            let mut batch = Vec::new();
            while let Some(one) = piece.take() {
                let line = line(&one);
                if size + line.len() as u64 > largest {
                    why = Some(TraceEnd::Full);
                    break;
                }
                size += line.len() as u64;
                batch.extend_from_slice(&line);
                count(&mut counts, &one);
                if batch.len() < BATCH {
                    piece = tracer.try_next();
                }
            }
            counts.missing = tracer.missing();
            if let Err(error) = write(&file, batch).await {
                return Ended { why: TraceEnd::Failed, counts, error: Some(error) };
            }
            progress.send_replace(counts);
            match why {
                None => break,
                Some(TraceEnd::Full) => return Ended { why: TraceEnd::Full, counts, error: None },
                Some(why) => {
                    piece = tracer.try_next();
                    if piece.is_none() {
                        return Ended { why, counts, error: None };
                    }
                }
            }
        }
    }
}

async fn write(file: &Arc<File>, batch: Vec<u8>) -> io::Result<()> {
    let file = Arc::clone(file);
    blocking(move || (&*file).write_all(&batch)).await
}

fn count(counts: &mut TraceCounts, piece: &Piece) {
    counts.records += 1;
    let bytes = piece.bytes.len() as u64;
    match (piece.kind, piece.direction) {
        ("data" | "stderr", Direction::In) => counts.bytes_in += bytes,
        ("data", Direction::Out) => counts.bytes_out += bytes,
        _ => {}
    }
}

fn line(piece: &Piece) -> Vec<u8> {
    let record = TraceRecord {
        time: piece.at,
        connection: piece.connection,
        channel: piece.channel,
        direction: match piece.direction {
            Direction::In => "in".into(),
            Direction::Out => "out".into(),
        },
        kind: piece.kind.into(),
        bytes: STANDARD.encode(&piece.bytes),
        left_out: piece.left_out.map(|bytes| bytes as u64),
    };
    // Texts and numbers: it cannot fail.
    let mut line = serde_json::to_vec(&record).unwrap_or_default();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use jiff::Timestamp;

    use super::*;
    use crate::ssh::tap::Tap;

    fn piece(at: Timestamp, kind: &'static str) -> Piece {
        Piece {
            at,
            connection: 1,
            channel: 2,
            direction: Direction::In,
            kind,
            bytes: vec![b'x'; 1000],
            left_out: None,
        }
    }

    #[tokio::test]
    async fn it_ends_when_the_file_is_full_and_counts_what_came_too_fast() {
        let tap = Arc::<Tap>::default();
        tap.tell(|at| piece(at, "nobody traces"));
        let tracer = tap.trace().unwrap();
        assert!(tap.trace().is_none(), "one at a time");
        // Nothing takes them yet.
        for _ in 0..20_000 {
            tap.tell(|at| piece(at, "data"));
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let (progress, told) = watch::channel(TraceCounts::default());
        let (left, stop) = (CancellationToken::new(), CancellationToken::new());
        let to = (file.reopen().unwrap(), 100_000);
        let ended = run(tracer, to, Duration::from_secs(60), &progress, left, stop).await;
        assert_eq!(ended.why, TraceEnd::Full);
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert!((98_000..=100_000).contains(&text.len()), "{}", text.len());
        let lines = text.lines().map(|line| serde_json::from_str::<TraceRecord>(line).unwrap());
        assert_eq!(lines.count() as u64, ended.counts.records);
        assert_eq!(ended.counts.bytes_in, 1000 * ended.counts.records);
        assert_eq!(ended.counts.missing, 20_000 - 16 * 1024);
        assert_eq!(*told.borrow(), ended.counts);
        assert!(tap.trace().is_some(), "the next one may begin");
    }

    #[test]
    fn the_file_is_new_private_and_in_a_directory_of_the_users() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let (file, path) = create(&at("new")).unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(path, dir.path().canonicalize().unwrap().join("new"));
        assert!(matches!(create(&at("new")), Err(FileError::Exists(_))));
        std::os::unix::fs::symlink(at("elsewhere"), at("link")).unwrap();
        assert!(matches!(create(&at("link")), Err(FileError::Exists(_))));
        assert!(!at("elsewhere").exists());
        assert!(matches!(create(&at("no/file")), Err(FileError::NoDirectory(_))));
        assert!(matches!(create(Path::new("new")), Err(FileError::Relative(_))));
        assert!(matches!(create(Path::new("/tmp/occ-trace")), Err(FileError::Exposed { .. })));
    }
}
