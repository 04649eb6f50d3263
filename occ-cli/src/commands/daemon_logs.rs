//! `occ daemon logs`: what the daemon says, wherever it says it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use occ_proto::paths::Env;
use occ_proto::text::sanitize;
use serde_json::json;
use tokio::process::Command;

use super::Context;
use crate::autostart;
use crate::cli::DaemonLogsArgs;
use crate::error::CliError;
use crate::unit::UNIT;

/// Where the daemon logs to.
enum Source {
    /// systemd's journal.
    Journal,
    /// A file.
    File(PathBuf),
}

pub(super) async fn run(context: &Context<'_>, args: &DaemonLogsArgs) -> Result<u8, CliError> {
    if args.follow && context.ui.json {
        return Err(CliError::usage("--json cannot be used with --follow."));
    }
    let source = source(context).await?;
    let count = args.lines.to_string();
    let (program, mut words) = match &source {
        Source::Journal => {
            let words = ["--user", "--no-pager", "--output", "short-iso", "--unit", UNIT];
            ("journalctl", words.map(OsString::from).to_vec())
        }
        Source::File(path) if !path.exists() => {
            let text = format!("occd has not logged anything to {} yet.", shown(path));
            return Err(CliError::failed(text).hint("occ daemon start"));
        }
        // By its name: it is put aside when it is large.
        Source::File(_) if args.follow => ("tail", vec!["-F".into()]),
        Source::File(_) => ("tail", Vec::new()),
    };
    words.extend(["-n".into(), count.into()]);
    match &source {
        Source::Journal if args.follow => words.push("--follow".into()),
        Source::Journal => {}
        Source::File(path) => words.extend(["--".into(), path.into()]),
    }
    if !context.ui.json {
        let error = std::process::Command::new(program).args(words).exec();
        return Err(CliError::failed(format!("{program} cannot be run: {error}")));
    }
    let failed = |why: String| CliError::failed(format!("{program}: {why}"));
    let output = Command::new(program).args(words).stdin(Stdio::null()).output().await;
    let output = output.map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(sanitize(&String::from_utf8_lossy(&output.stderr))));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let source = match &source {
        Source::Journal => "journal".into(),
        Source::File(path) => path.to_string_lossy(),
    };
    context.ui.value(&json!({ "source": source, "lines": text.lines().collect::<Vec<_>>() }))?;
    Ok(0)
}

/// Returns where the daemon that runs logs to; where none runs, the one that would be started.
async fn source(context: &Context<'_>) -> Result<Source, CliError> {
    let units = autostart::units(context).await.unwrap_or_default();
    let of_systemd = match autostart::lock_holder(&autostart::socket_path(context)?) {
        Some(pid) => units.main_pid == Some(pid),
        None => units.installed,
    };
    if of_systemd {
        return Ok(Source::Journal);
    }
    let env = Env::from_process();
    // Where the launch agent has it, if that was ever there.
    let of_launchd = env.home.as_ref().map(|home| home.join("Library/Logs/occd.log"));
    if let Some(path) = of_launchd.filter(|path| cfg!(target_os = "macos") && path.exists()) {
        return Ok(Source::File(path));
    }
    let path = env.log_file().map_err(|error| CliError::failed(sanitize(&error.to_string())))?;
    Ok(Source::File(path))
}

fn shown(path: &Path) -> String {
    sanitize(&path.to_string_lossy())
}
