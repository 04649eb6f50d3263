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
use crate::endpoint;
use crate::error::CliError;
use crate::locks;
use crate::output::write_stdout;
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
        Source::File(path) if !path.exists() && !put_aside(path).exists() => {
            return Err(no_file(context, path)?);
        }
        Source::File(path) if args.follow => {
            // It goes on from what is in the file now, which may not be so many lines.
            let missing = args.lines.saturating_sub(last(path, args.lines).await?.len());
            print(&last(&put_aside(path), missing).await?)?;
            // By its name: it is put aside when it is large.
            ("tail", vec!["-F".into()])
        }
        Source::File(path) => {
            let mut lines = last(path, args.lines).await?;
            let missing = args.lines.saturating_sub(lines.len());
            let mut all = last(&put_aside(path), missing).await?;
            all.append(&mut lines);
            if !context.ui.json {
                return print(&all).map(|()| 0);
            }
            let all: Vec<_> = all.iter().map(|line| String::from_utf8_lossy(line)).collect();
            context.ui.value(&json!({ "source": path.to_string_lossy(), "lines": all }))?;
            return Ok(0);
        }
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
    context.ui.value(&json!({ "source": "journal", "lines": text.lines().collect::<Vec<_>>() }))?;
    Ok(0)
}

/// Returns what to say where there is no log. A daemon that runs may have been told to log to where nobody finds it.
fn no_file(context: &Context<'_>, path: &Path) -> Result<CliError, CliError> {
    let path = shown(path);
    Ok(match locks::holder(&endpoint::socket_path(context)?) {
        Some(pid) => CliError::failed(format!(
            "There is no {path}: occd (process {pid}) logs to its standard error, or the file was removed and comes \
             back with the next line."
        ))
        .hint("occ daemon log-level info has it log a line"),
        None => CliError::failed(format!("There is no {path}, and occd is not running."))
            .hint("occ daemon start"),
    })
}

/// Returns where a file is put when it is large.
fn put_aside(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

/// Returns the last lines of a file; none of one that is not there.
async fn last(path: &Path, count: usize) -> Result<Vec<Vec<u8>>, CliError> {
    if count == 0 || !path.exists() {
        return Ok(Vec::new());
    }
    let failed = |why: &str| CliError::failed(format!("{}: {}", shown(path), sanitize(why)));
    let mut tail = Command::new("tail");
    tail.args(["-n", &count.to_string(), "--"]).arg(path).stdin(Stdio::null());
    let output = tail.output().await.map_err(|error| failed(&format!("tail: {error}")))?;
    if !output.status.success() {
        return Err(failed(&String::from_utf8_lossy(&output.stderr)));
    }
    let lines = output.stdout.strip_suffix(b"\n").unwrap_or(&output.stdout);
    let lines = lines.split(|byte| *byte == b'\n').map(<[u8]>::to_vec);
    Ok(if output.stdout.is_empty() { Vec::new() } else { lines.collect() })
}

fn print(lines: &[Vec<u8>]) -> Result<(), CliError> {
    let mut text = lines.join(&b'\n');
    if !text.is_empty() {
        text.push(b'\n');
    }
    write_stdout(&text)
}

/// Returns where the daemon that runs logs to; where none runs, the one that would be started.
async fn source(context: &Context<'_>) -> Result<Source, CliError> {
    let units = autostart::units(context).await.unwrap_or_default();
    let of_systemd = match locks::holder(&endpoint::socket_path(context)?) {
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
