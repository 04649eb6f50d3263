//! Where the log goes: stderr when somebody watches it (a terminal, systemd), else a file.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::{EnvFilter, FilterExt as _, filter_fn};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// A log file larger than this is put aside as `occd.log.1` when the daemon starts.
const ROTATE: u64 = 8 * 1024 * 1024;

/// What is logged unless OCCD_LOG says otherwise.
const DEFAULT: &str = "info";
/// Those who may say no more than this, whatever OCCD_LOG says: below it they log what they receive, which may
/// hold secrets.
const GUARDED: [(&str, Level); 3] =
    [("russh", Level::WARN), ("zbus", Level::WARN), ("hyper", Level::INFO)];

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
#[error("the log {path} cannot be written")]
pub struct LogError {
    path: PathBuf,
    source: io::Error,
}

/// Starts logging. `OCCD_LOG` sets the level (`debug`, `occd=trace`, …).
pub fn start(file: Option<&Path>) -> Result<(), LogError> {
    let wanted = EnvFilter::try_from_env("OCCD_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let (writer, ansi) = match file {
        Some(path) => {
            let file = open(path).map_err(|source| LogError { path: path.to_owned(), source })?;
            (BoxMakeWriter::new(Mutex::new(file)), false)
        }
        None => (BoxMakeWriter::new(io::stderr), io::IsTerminal::is_terminal(&io::stderr())),
    };
    let lines = tracing_subscriber::fmt::layer().with_target(false).with_ansi(ansi);
    let lines = lines.with_writer(writer).with_filter(wanted.and(filter_fn(may_say)));
    tracing_subscriber::registry().with(lines).init();
    Ok(())
}

fn may_say(metadata: &Metadata<'_>) -> bool {
    let most = GUARDED.iter().find(|(name, _)| metadata.target().starts_with(name));
    most.is_none_or(|(_, most)| metadata.level() <= most)
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        DirBuilder::new().mode(0o700).recursive(true).create(dir)?;
    }
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > ROTATE) {
        std::fs::rename(path, path.with_extension("log.1"))?;
    }
    // Not through a link: somebody else may have chosen where it leads.
    let no_follow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    OpenOptions::new().create(true).append(true).mode(0o600).custom_flags(no_follow).open(path)
}
