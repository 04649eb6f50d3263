//! Where the log goes: stderr when somebody watches it (a terminal, systemd), else a file.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;

/// A log file larger than this is put aside as `occd.log.1` when the daemon starts.
const ROTATE: u64 = 8 * 1024 * 1024;

/// What is logged unless OCCD_LOG says otherwise. russh's own messages begin at `warn`: below that it
/// logs what it receives, which may hold secrets.
const DEFAULT: &str = "info,russh=warn";

/// Starts logging. `OCCD_LOG` sets the level (`debug`, `occd=trace`, …).
pub fn start(file: Option<&Path>) -> io::Result<()> {
    let filter = EnvFilter::try_from_env("OCCD_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    match file {
        Some(path) => builder.with_ansi(false).with_writer(Mutex::new(open(path)?)).init(),
        None => {
            let terminal = io::IsTerminal::is_terminal(&io::stderr());
            builder.with_ansi(terminal).with_writer(io::stderr).init();
        }
    }
    Ok(())
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        DirBuilder::new().mode(0o700).recursive(true).create(dir)?;
    }
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > ROTATE) {
        std::fs::rename(path, path.with_extension("log.1"))?;
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}
