//! The command line of `occ daemon`, and of what tells what has been done: `occ history`, `metrics`, `trace`, `audit`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use occ_proto::log::LogFilter;

use crate::duration::{parse_ms, parse_since};
use crate::parse::parse_audited;

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum DaemonCommand {
    /// Run occd in the foreground
    #[command(after_help = "Example:\n  occ daemon run")]
    Run,
    /// Start occd unless it runs
    #[command(after_help = "Example:\n  occ daemon start")]
    Start,
    /// Stop occd, and with it every connection
    #[command(after_help = "\
Example:
  occ daemon stop

Commands that run have two seconds to end by themselves; then they are told to end (TERM), and two seconds later
killed. Sessions go on on their hosts.")]
    Stop,
    /// Stop occd and start it again; sessions and forwards go on
    #[command(after_help = "\
Example:
  occ daemon restart

Commands that run have two seconds to end by themselves; then they are told to end (TERM), and two seconds later
killed. With settings that it could not start with it is not stopped.")]
    Restart,
    /// Show whether occd runs, its version and its socket; exit 0 or 3
    #[command(after_help = "Examples:\n  occ daemon status\n  occ daemon status --json")]
    Status,
    /// Show what occd logs
    #[command(after_help = "\
Examples:
  occ daemon logs
  occ daemon logs -f
  occ daemon logs -n 500 --json")]
    Logs(DaemonLogsArgs),
    /// Show how much occd logs, or have it log more or less from now on
    #[command(after_help = "\
Examples:
  occ daemon log-level
  occ daemon log-level debug --for 10m
  occ daemon log-level warn,occd::ssh=trace")]
    LogLevel(DaemonLogLevelArgs),
    /// Have systemd or launchd run this occ's occd from your login on
    #[command(after_help = "\
Examples:
  occ daemon install
  occ daemon install --xdg-autostart    where there is no systemd: at a graphical login
  loginctl enable-linger                keeps it while you are logged out")]
    Install {
        /// Write an entry for graphical sessions, too
        #[arg(long)]
        xdg_autostart: bool,
    },
    /// Take away what install has put in place; hosts, settings and sessions stay
    #[command(after_help = "Example:\n  occ daemon uninstall")]
    Uninstall,
}

#[derive(Debug, Args)]
pub(crate) struct DaemonLogsArgs {
    /// How many lines
    #[arg(short = 'n', long, value_name = "N", default_value_t = 50)]
    pub(crate) lines: usize,
    /// Go on with what comes
    #[arg(short, long)]
    pub(crate) follow: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DaemonLogLevelArgs {
    /// What to log from now on: off, error, warn, info, debug or trace, and the same for single modules
    #[arg(value_name = "LEVEL")]
    pub(crate) level: Option<LogFilter>,
    /// Go back by itself after this long, such as 10m; else when occd is started anew
    #[arg(long = "for", value_name = "TIME", value_parser = parse_ms, requires = "level")]
    pub(crate) time: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// From then on: a time before now, such as 24h or 7d, or a moment (RFC 3339)
    #[arg(long, value_name = "TIME", default_value = "7d")]
    pub(crate) since: String,
}

#[derive(Debug, Args)]
pub(crate) struct MetricsArgs {
    /// Print the text that Prometheus reads
    #[arg(long)]
    pub(crate) raw: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// How long
    #[arg(long = "for", value_name = "TIME", value_parser = parse_ms, default_value = "60s")]
    pub(crate) time: u64,
    /// The file, which must not be there yet; else a new one where occd keeps its state
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// From then on: a time before now, such as 2h or 7d, or a moment (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    pub(crate) since: Option<jiff::Timestamp>,
    /// How many things, the last ones: 20000 at most
    #[arg(short = 'n', long, value_name = "N", value_parser = parse_audited, default_value_t = 100)]
    pub(crate) number: usize,
    /// Go on with what comes
    #[arg(short, long)]
    pub(crate) follow: bool,
}
