//! `occ metrics`: how the daemon and its hosts do, in numbers.

use std::collections::BTreeMap;

use jiff::Timestamp;
use occ_proto::HostName;
use occ_proto::metrics::{Buckets, Sample, parse, sample};
use occ_proto::text::sanitize;
use serde::Serialize;

use super::Context;
use crate::cli::MetricsArgs;
use crate::duration::{seconds_between, two_units};
use crate::error::CliError;
use crate::output::host::{bytes, milliseconds};
use crate::output::{Ui, table::Table};
use crate::target::Target;

/// The word for this machine.
const LOCAL: &str = "local";

/// Runs the command and returns its exit code.
pub(crate) async fn run(context: &Context<'_>, args: &MetricsArgs) -> Result<u8, CliError> {
    let ui = context.ui;
    if args.raw && ui.json {
        return Err(CliError::usage("--raw cannot be used with --json."));
    }
    // A default host chooses where to work, and not what is shown.
    let host = match &context.named {
        Some(Target::Host(host, _)) => Some(host),
        Some(Target::Local | Target::Unset) | None => None,
    };
    let client = context.client().await?;
    let reply = client.get("/metrics").await?;
    let text = reply.text()?;
    let samples = parse(text).map_err(|_| reply.misunderstood())?;
    // Each has a state at least.
    if let Some(host) = host
        && !samples.iter().any(|sample| sample.label("host") == Some(host.as_str()))
    {
        return Err(CliError::host_not_found(host));
    }
    // This machine may have run no command yet.
    let local = (context.named == Some(Target::Local)).then_some(LOCAL);
    let host = host.map(HostName::as_str).or(local);
    if args.raw {
        match host {
            None => ui.print(text)?,
            Some(host) => ui.print(&only(text, host))?,
        }
        return Ok(0);
    }
    let report = Report::of(&samples, host, Timestamp::now());
    if ui.json {
        ui.value(&report)?;
    } else {
        ui.print(&shown(ui, &report))?;
    }
    Ok(0)
}

/// Returns the lines about a host, each family with its comments.
fn only(text: &str, host: &str) -> String {
    let mut only = String::new();
    let mut comments = String::new();
    let mut are_new = true;
    for line in text.lines() {
        if line.starts_with('#') {
            if std::mem::replace(&mut are_new, true) {
                comments.push_str(line);
            } else {
                comments = line.to_owned();
            }
            comments.push('\n');
            continue;
        }
        are_new = false;
        if sample(line).is_ok_and(|sample| sample.label("host") == Some(host)) {
            only.push_str(&std::mem::take(&mut comments));
            only.push_str(line);
            only.push('\n');
        }
    }
    only
}

/// What `--json` prints.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Report {
    daemon: Daemon,
    hosts: Vec<Host>,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct Daemon {
    version: String,
    up_s: u64,
    memory_bytes: Option<u64>,
    descriptors: Option<u64>,
    most_descriptors: Option<u64>,
    tasks: u64,
    open_channels: u64,
    open_streams: u64,
    spilled_bytes: u64,
    /// Those that run commands apart, whose time is the command's.
    requests: u64,
    request_p50_ms: Option<f64>,
    request_p99_ms: Option<f64>,
    turned_away: u64,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct Host {
    host: String,
    /// None for this machine.
    state: Option<String>,
    dials: u64,
    dial_failures: BTreeMap<String, u64>,
    reconnects: u64,
    connect: Times,
    first_byte: Times,
    exec: Times,
    bytes_in: u64,
    bytes_out: u64,
    channels: u64,
    commands: BTreeMap<String, u64>,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct Times {
    count: u64,
    p50_ms: Option<f64>,
    p95_ms: Option<f64>,
}

impl Times {
    fn of(buckets: &Buckets) -> Self {
        let ms = |part| buckets.quantile(part).map(milliseconds_of);
        Self { count: buckets.count(), p50_ms: ms(0.5), p95_ms: ms(0.95) }
    }
}

fn milliseconds_of(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e3
}

/// Adds the samples of a histogram together.
fn together<'a>(samples: impl Iterator<Item = &'a Sample>) -> Buckets {
    let mut buckets = Buckets::default();
    for sample in samples {
        if let Some(bound) = sample.label("le").and_then(|bound| bound.parse().ok()) {
            buckets.add(bound, sample.value);
        }
    }
    buckets
}

impl Report {
    fn of(samples: &[Sample], only: Option<&str>, now: Timestamp) -> Self {
        let mut by_host: BTreeMap<&str, Vec<&Sample>> = BTreeMap::new();
        for sample in samples {
            if let Some(host) =
                sample.label("host").filter(|host| only.is_none_or(|only| only == *host))
            {
                by_host.entry(host).or_default().push(sample);
            }
        }
        let hosts = by_host.into_iter().map(|(host, samples)| Host::of(host, &samples)).collect();
        Self { daemon: Daemon::of(samples, now), hosts }
    }
}

impl Daemon {
    fn of(samples: &[Sample], now: Timestamp) -> Self {
        let one = |name: &str| samples.iter().find(|sample| sample.name == name);
        let count = |name: &str| one(name).map(Sample::count);
        let sum = |name: &str| {
            samples.iter().filter(|sample| sample.name == name).map(Sample::count).sum()
        };
        let version = one("occd_build_info").and_then(|sample| sample.label("version"));
        let started = count("process_start_time_seconds").and_then(|at| i64::try_from(at).ok());
        let started = started.and_then(|at| Timestamp::from_second(at).ok());
        let is_exec =
            |sample: &Sample| sample.label("route").is_some_and(|route| route.ends_with("/exec"));
        let answers = samples.iter().filter(|sample| sample.name == "occd_request_seconds_bucket");
        let answers = together(answers.filter(|sample| !is_exec(sample)));
        Self {
            version: version.unwrap_or_default().to_owned(),
            up_s: started.map_or(0, |started| seconds_between(started, now)),
            memory_bytes: count("process_resident_memory_bytes"),
            descriptors: count("process_open_fds"),
            most_descriptors: count("process_max_fds"),
            tasks: sum("occd_tasks"),
            open_channels: sum("occd_open_channels"),
            open_streams: sum("occd_open_streams"),
            spilled_bytes: sum("occd_spilled_bytes"),
            requests: answers.count(),
            request_p50_ms: answers.quantile(0.5).map(milliseconds_of),
            request_p99_ms: answers.quantile(0.99).map(milliseconds_of),
            turned_away: sum("occd_requests_turned_away_total"),
        }
    }
}

impl Host {
    fn of(name: &str, samples: &[&Sample]) -> Self {
        let of =
            |name: &'static str| samples.iter().copied().filter(move |sample| sample.name == name);
        let count = |name: &'static str| of(name).map(Sample::count).sum();
        let by = |name: &'static str, label: &str| {
            let word = |sample: &Sample| Some((sample.label(label)?.to_owned(), sample.count()));
            of(name).filter_map(word).collect()
        };
        let state = of("occd_host_state").find(|sample| sample.value > 0.0);
        // How long it takes to connect, and not how long it takes not to.
        let made = of("occd_host_connect_seconds_bucket")
            .filter(|sample| sample.label("outcome") == Some("ok"));
        Self {
            host: name.to_owned(),
            state: state.and_then(|sample| sample.label("state")).map(str::to_owned),
            dials: count("occd_host_dials_total"),
            dial_failures: by("occd_host_dial_failures_total", "code"),
            reconnects: count("occd_host_reconnects_total"),
            connect: Times::of(&together(made)),
            first_byte: Times::of(&together(of("occd_host_exec_first_byte_seconds_bucket"))),
            exec: Times::of(&together(of("occd_host_exec_seconds_bucket"))),
            bytes_in: count("occd_host_received_bytes_total"),
            bytes_out: count("occd_host_sent_bytes_total"),
            channels: count("occd_host_used_channels"),
            commands: by("occd_host_commands_total", "outcome"),
        }
    }
}

/// Returns the table, and a line about the daemon.
fn shown(ui: &Ui, report: &Report) -> String {
    let mut text = String::new();
    if !report.hosts.is_empty() {
        let mut table = Table::new(&[
            "HOST",
            "STATE",
            "RECONNECTS",
            "CONNECT p50/p95",
            "EXEC p50/p95",
            "IN",
            "OUT",
            "CHANNELS",
            "COMMANDS",
        ]);
        for host in &report.hosts {
            table.row(row(host));
        }
        let lines = table.lines();
        // What programs cut up has no headings.
        for line in lines.iter().skip(usize::from(ui.quiet)) {
            text.push_str(line);
            text.push('\n');
        }
    }
    if !ui.quiet {
        text.push_str(&line(&report.daemon));
        text.push('\n');
    }
    text
}

fn row(host: &Host) -> Vec<String> {
    let all: u64 = host.commands.values().sum();
    let not_ok = all - host.commands.get("ok").copied().unwrap_or_default();
    let commands = match (all, not_ok) {
        (0, _) => "-".to_owned(),
        (all, 0) => all.to_string(),
        (all, not_ok) => format!("{all} ({not_ok} not ok)"),
    };
    let is_host = host.state.is_some();
    let of_link = |text: String| if is_host { text } else { "-".to_owned() };
    vec![
        sanitize(&host.host),
        host.state.as_deref().map_or_else(|| "-".to_owned(), sanitize),
        of_link(host.reconnects.to_string()),
        both(&host.connect),
        both(&host.exec),
        of_link(bytes(host.bytes_in)),
        of_link(bytes(host.bytes_out)),
        of_link(host.channels.to_string()),
        commands,
    ]
}

fn both(times: &Times) -> String {
    match (times.p50_ms, times.p95_ms) {
        (Some(p50), Some(p95)) => format!("{} / {}", time(p50), time(p95)),
        _ => "-".to_owned(),
    }
}

fn time(ms: f64) -> String {
    if ms < 999.5 {
        milliseconds(ms)
    } else if ms < 59_950.0 {
        format!("{:.1} s", ms / 1000.0)
    } else {
        two_units((ms / 1000.0).round() as u64)
    }
}

fn line(daemon: &Daemon) -> String {
    let mut parts = vec![format!("up {}", two_units(daemon.up_s))];
    parts.extend(daemon.memory_bytes.map(|count| format!("{} of memory", bytes(count))));
    parts.extend(match (daemon.descriptors, daemon.most_descriptors) {
        (Some(open), Some(most)) => Some(format!("{open} of {most} descriptors")),
        (Some(open), None) => Some(format!("{open} descriptors")),
        (None, _) => None,
    });
    parts.push(format!("{} tasks", daemon.tasks));
    let times = match (daemon.request_p50_ms, daemon.request_p99_ms) {
        (Some(p50), Some(p99)) => format!(", p50 {}, p99 {}", fine(p50), fine(p99)),
        _ => String::new(),
    };
    let requests = if daemon.requests == 1 { "request" } else { "requests" };
    parts.push(format!("{} {requests}{times}", daemon.requests));
    if daemon.turned_away > 0 {
        parts.push(format!("{} turned away", daemon.turned_away));
    }
    format!("occd {}: {}", sanitize(&daemon.version), parts.join("; "))
}

/// Returns a time that may be much less than a millisecond.
fn fine(ms: f64) -> String {
    if ms < 0.95 { format!("{ms:.2} ms") } else { time(ms) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# HELP occd_build_info The daemon's version.
# TYPE occd_build_info gauge
occd_build_info{version=\"0.1.0\"} 1
# HELP process_start_time_seconds When the daemon started (Unix time).
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1700000000.25
process_resident_memory_bytes 9500000
process_open_fds 41
process_max_fds 1024
occd_tasks 38
occd_request_seconds_bucket{route=\"/v1/hosts\",method=\"GET\",status=\"2xx\",le=\"0.001\"} 98
occd_request_seconds_bucket{route=\"/v1/hosts\",method=\"GET\",status=\"2xx\",le=\"+Inf\"} 98
occd_request_seconds_bucket{route=\"/v1/hosts/{host}/exec\",method=\"GET\",status=\"1xx\",le=\"+Inf\"} 7
# HELP occd_host_state 1 for the state that a host is in.
# TYPE occd_host_state gauge
occd_host_state{host=\"a\",state=\"idle\"} 0
occd_host_state{host=\"a\",state=\"connected\"} 1
occd_host_state{host=\"b\",state=\"idle\"} 1
occd_host_state{host=\"b\",state=\"connected\"} 0
occd_host_reconnects_total{host=\"a\"} 2
occd_host_received_bytes_total{host=\"a\"} 1200
occd_host_sent_bytes_total{host=\"a\"} 900
occd_host_used_channels{host=\"a\"} 1
occd_host_connect_seconds_bucket{host=\"a\",outcome=\"ok\",le=\"0.1\"} 2
occd_host_connect_seconds_bucket{host=\"a\",outcome=\"ok\",le=\"+Inf\"} 2
occd_host_connect_seconds_bucket{host=\"a\",outcome=\"failed\",le=\"0.1\"} 0
occd_host_connect_seconds_bucket{host=\"a\",outcome=\"failed\",le=\"+Inf\"} 9
# HELP occd_host_commands_total Commands of clients by what became of them.
# TYPE occd_host_commands_total counter
occd_host_commands_total{host=\"a\",outcome=\"ok\"} 10
occd_host_commands_total{host=\"a\",outcome=\"failed\"} 2
occd_host_commands_total{host=\"local\",outcome=\"ok\"} 1
";

    fn report(only: Option<&str>) -> Report {
        let now = Timestamp::from_second(1_700_000_000 + 7500).unwrap();
        Report::of(&parse(TEXT).unwrap(), only, now)
    }

    #[test]
    fn the_table_has_each_host_and_the_daemon_a_line() {
        let report = report(None);
        let names: Vec<&str> = report.hosts.iter().map(|host| host.host.as_str()).collect();
        assert_eq!(names, ["a", "b", "local"]);
        let cells = row(&report.hosts[0]);
        let a = ["a", "connected", "2", "50 ms / 95 ms", "-", "1.2 kB", "900 B", "1"];
        assert_eq!(cells[..8], a);
        assert_eq!(cells[8], "12 (2 not ok)");
        assert_eq!(row(&report.hosts[2]), ["local", "-", "-", "-", "-", "-", "-", "-", "1"]);
        assert_eq!(
            line(&report.daemon),
            "occd 0.1.0: up 2h 5m; 9.5 MB of memory; 41 of 1024 descriptors; 38 tasks; \
             98 requests, p50 0.50 ms, p99 1 ms"
        );
    }

    #[test]
    fn one_host_alone_is_shown_where_it_is_named() {
        let report = report(Some("a"));
        assert_eq!(report.hosts.len(), 1);
        assert_eq!(report.daemon.requests, 98);
        let raw = only(TEXT, "local");
        assert_eq!(
            raw,
            "# HELP occd_host_commands_total Commands of clients by what became of them.\n\
             # TYPE occd_host_commands_total counter\n\
             occd_host_commands_total{host=\"local\",outcome=\"ok\"} 1\n"
        );
    }

    #[test]
    fn times_are_said_in_their_own_unit() {
        assert_eq!(fine(0.12), "0.12 ms");
        assert_eq!(
            (time(12.0), time(1234.0), time(125_000.0)),
            ("12 ms".into(), "1.2 s".into(), "2m 5s".into())
        );
    }
}
