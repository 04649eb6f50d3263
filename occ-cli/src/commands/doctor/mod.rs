//! `occ doctor`: everything that occ needs on this machine, looked at all at once.
//!
//! It must work where nothing else does: without a daemon, without HOME, with broken files and file systems that hang.
//! So each check has a limit of its own, none needs another, and a check that cannot be made is a line like any other.

mod daemon;
mod files;
mod hosts;
mod machine;

use std::time::Duration;

use occ_proto::HostName;
use occ_proto::paths::Env;
use occ_proto::text::sanitize;
use serde::Serialize;

use super::Context;
use crate::error::{CliError, FAILED};
use crate::output::Colour;
use crate::target::Target;

/// How long a check may take. Those of this machine take milliseconds.
const LIMIT: Duration = Duration::from_secs(5);
/// How long the test of a host may take: what a dial may, and what Docker may after it.
const HOST_LIMIT: Duration = Duration::from_secs(60);

/// What to do where a check itself did not come to its end: what hangs is a file system or a program that it asks.
const AGAIN: &str = "occ doctor looks again; df and mount show a file system that hangs";

/// What to do where it is the daemon that did not come to an end.
const OF_DAEMON: &str = "occ daemon status; occ daemon logs shows what occd does";

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    Ok,
    /// It works, and something will not.
    Warning,
    Failed,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Finding {
    /// What was looked at.
    check: &'static str,
    /// Of which host.
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<HostName>,
    level: Level,
    /// What there is.
    detail: String,
    /// What to type.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    /// The exit code where it failed.
    #[serde(skip)]
    exit: u8,
}

impl Finding {
    fn new(check: &'static str, level: Level, detail: impl AsRef<str>) -> Self {
        // It may name files and repeat what other programs say.
        let detail = sanitize(detail.as_ref());
        Self { check, host: None, level, detail, hint: None, exit: FAILED }
    }

    fn ok(check: &'static str, detail: impl AsRef<str>) -> Self {
        Self::new(check, Level::Ok, detail)
    }

    /// Returns what works, though something will not. Whatever is not well comes with what to do about it.
    fn warning(check: &'static str, detail: impl AsRef<str>, hint: impl AsRef<str>) -> Self {
        Self::new(check, Level::Warning, detail).hint(hint)
    }

    fn failed(check: &'static str, detail: impl AsRef<str>, hint: impl AsRef<str>) -> Self {
        Self::new(check, Level::Failed, detail).hint(hint)
    }

    fn hint(self, hint: impl AsRef<str>) -> Self {
        Self { hint: Some(sanitize(hint.as_ref())), ..self }
    }

    fn of(self, host: &HostName) -> Self {
        Self { host: Some(host.clone()), ..self }
    }
}

/// What there is in the end, as `--json` has it.
#[derive(Debug, Serialize)]
struct Report {
    /// Nothing failed.
    ok: bool,
    checks: Vec<Finding>,
}

/// Runs the command and returns its exit code.
pub(crate) async fn run(context: &Context<'_>) -> Result<u8, CliError> {
    let env = Env::from_process();
    let host = match &context.named {
        Some(Target::Host(host, _)) => Some(host),
        _ => None,
    };
    let deep = async {
        match host {
            Some(host) => limited("host", HOST_LIMIT, OF_DAEMON, hosts::deep(context, host)).await,
            None => Vec::new(),
        }
    };
    let all = tokio::join!(
        limited("daemon", LIMIT, OF_DAEMON, daemon::check(context)),
        apart("programs", machine::programs),
        apart("files", files::check),
        within("occd.toml", LIMIT, daemon::occd_toml()),
        within("occd", LIMIT, daemon::checked_by_occd()),
        apart("disk", files::disk),
        within("ssh", LIMIT, machine::ssh()),
        apart("agent", machine::agent),
        within("known_hosts", LIMIT, machine::known_hosts(&env)),
        within("docker", LIMIT, machine::docker()),
        within("unit", LIMIT, machine::unit(&env)),
        within("clock", LIMIT, machine::clock()),
        limited("hosts", LIMIT, OF_DAEMON, hosts::check(context, host)),
        deep,
    );
    let (a, b, c, d, e, f, g, h, i, j, k, l, m, n) = all;
    let checks: Vec<Finding> =
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n].into_iter().flatten().collect();
    let failed = checks.iter().filter(|finding| finding.level == Level::Failed);
    // Whatever else has failed, that there is no such host is what a script can act on.
    let exit = failed.map(|finding| finding.exit).max();
    let report = Report { ok: exit.is_none(), checks };
    if context.ui.json {
        context.ui.value(&report)?;
    } else {
        context.ui.print(&shown(context, &report))?;
    }
    Ok(exit.unwrap_or(0))
}

/// Makes a check that waits for others, with what to do where they do not come to an end.
async fn limited(
    check: &'static str,
    limit: Duration,
    hint: &str,
    work: impl Future<Output = Vec<Finding>>,
) -> Vec<Finding> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        let text = format!("no answer within {} s", limit.as_secs());
        vec![Finding::failed(check, text, hint)]
    })
}

/// Makes a check that waits for programs and files.
async fn within(
    check: &'static str,
    limit: Duration,
    work: impl Future<Output = Vec<Finding>>,
) -> Vec<Finding> {
    limited(check, limit, AGAIN, work).await
}

/// Makes a check that the file system may hold up. One that hangs is left behind: this process ends without it.
async fn apart(
    check: &'static str,
    work: impl FnOnce() -> Vec<Finding> + Send + 'static,
) -> Vec<Finding> {
    let work = tokio::task::spawn_blocking(work);
    let done = async {
        work.await.unwrap_or_else(|error| {
            vec![Finding::failed(check, format!("it could not be looked at: {error}"), AGAIN)]
        })
    };
    within(check, LIMIT, done).await
}

fn shown(context: &Context<'_>, report: &Report) -> String {
    let ui = context.ui;
    let mut text = String::new();
    for finding in &report.checks {
        let (mark, colour) = match finding.level {
            Level::Ok => ("✓", Colour::Green),
            Level::Warning => ("!", Colour::Yellow),
            Level::Failed => ("✗", Colour::Red),
        };
        if ui.quiet && finding.level == Level::Ok {
            continue;
        }
        let host = finding.host.as_ref().map_or_else(String::new, |host| format!("[{host}] "));
        let mark = ui.paint(colour, mark);
        text.push_str(&format!("{mark} {:<12} {host}{}\n", finding.check, finding.detail));
        if let Some(hint) = &finding.hint {
            text.push_str(&format!("  hint: {hint}\n"));
        }
    }
    let count = |level| report.checks.iter().filter(|finding| finding.level == level).count();
    let (warnings, failed) = (count(Level::Warning), count(Level::Failed));
    if !ui.quiet {
        text.push_str(&match (failed, warnings) {
            (0, 0) => "\nAll is well.\n".to_owned(),
            (0, warnings) => format!("\nNothing failed; warnings: {warnings}.\n"),
            (failed, warnings) => format!("\nFailed: {failed}; warnings: {warnings}.\n"),
        });
    }
    text
}
