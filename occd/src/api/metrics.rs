//! `GET /metrics`: the numbers of the daemon and its hosts, as Prometheus reads them.
//!
//! prometheus-client writes the format. Its own counters are not used: what is timed on the way of every request must not wait
//! for a lock (`metrics/`), and what has a state anyway is read here. Labels are names of hosts, which go with their hosts, and
//! words from lists of ours; nothing that a client, a command or a server makes up is one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use occ_proto::event::GapReason;
use occ_proto::forward::ForwardState;
use occ_proto::session::SessionState;
use occ_proto::status::State as LinkState;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::prometheus_text::{self, CONTENT_TYPE};
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::App;
use super::error::{ApiError, ApiResult};
use crate::blocking::blocking;
use crate::host::HostSnapshot;
use crate::metrics::{HostMetrics, Times, Usage};

/// The path, which is where Prometheus looks.
pub(super) const METRICS: &str = "/metrics";

/// The states that a host can have.
const STATES: [LinkState; 6] = [
    LinkState::Idle,
    LinkState::Connecting,
    LinkState::Connected,
    LinkState::Backoff,
    LinkState::Failed,
    LinkState::Stopped,
];
const SESSION_STATES: [SessionState; 4] =
    [SessionState::Running, SessionState::Ended, SessionState::Lost, SessionState::Gone];
const FORWARD_STATES: [ForwardState; 3] =
    [ForwardState::Listening, ForwardState::Waiting, ForwardState::Refused];
/// The word for this machine, as a place to run commands on.
const LOCAL: &str = "local";

/// Tells the numbers of the daemon and its hosts in Prometheus' text format.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "daemon",
    operation_id = "metrics",
    responses((status = 200, description = "The numbers (Prometheus text format 0.0.4)", body = String, content_type = "text/plain"))
)]
pub(super) async fn show(State(app): State<Arc<App>>) -> ApiResult<Response> {
    // Off the async threads: there are files to read, and with a thousand hosts some MiB to write.
    let text = blocking(move || write(app)).await;
    // Writing to a text does not fail.
    let text = text.map_err(|error| ApiError::new_internal(error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}

fn write(app: Arc<App>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Look::new(app)));
    let mut text = String::new();
    prometheus_text::encode(&mut text, &registry)?;
    Ok(text)
}

/// One look at everything.
#[derive(Debug)]
struct Look {
    app: Arc<App>,
    hosts: Vec<Host>,
    usage: Usage,
}

#[derive(Debug)]
struct Host {
    name: String,
    snapshot: Arc<HostSnapshot>,
    metrics: Arc<HostMetrics>,
}

impl Look {
    fn new(app: Arc<App>) -> Self {
        let hosts = app.pool.all().into_iter();
        // A jump host that hosts.json does not name is made by whoever names it, and tells nothing until it is dialled.
        let hosts = hosts.filter(|host| !host.name().is_via() || host.metrics().dials.get() > 0);
        let hosts = hosts.map(|host| Host {
            name: host.name().to_string(),
            snapshot: host.snapshot(),
            metrics: Arc::clone(host.metrics()),
        });
        Self { hosts: hosts.collect(), usage: Usage::now(), app }
    }

    /// Returns a value of each host.
    fn each<'a, T>(
        &'a self,
        value: impl Fn(&'a Host) -> T + 'a,
    ) -> impl Iterator<Item = ([(&'static str, &'a str); 1], T)> {
        self.hosts.iter().map(move |host| ([("host", host.name.as_str())], value(host)))
    }

    /// Returns values of each host, each with a word of its own.
    fn each_of<'a, T, I: IntoIterator<Item = (&'static str, T)>>(
        &'a self,
        word: &'static str,
        values: impl Fn(&'a Host) -> I + 'a,
    ) -> impl Iterator<Item = ([(&'static str, &'a str); 2], T)> {
        self.hosts.iter().flat_map(move |host| {
            let values = values(host).into_iter();
            values.map(move |(text, value)| ([("host", host.name.as_str()), (word, text)], value))
        })
    }

    /// Returns what runs commands: the hosts, and this machine where it has run any.
    fn executors(&self) -> impl Iterator<Item = (&str, &HostMetrics)> {
        let hosts = self.hosts.iter().map(|host| (host.name.as_str(), &*host.metrics));
        hosts.chain([(LOCAL, &**self.app.local.metrics())])
    }

    fn of_process(&self, page: &mut Page<'_>) -> fmt::Result {
        let usage = &self.usage;
        let started = self.app.started_at.as_millisecond() as f64 / 1000.0;
        page.info(
            "occd_build",
            "The daemon's version.",
            &[("version", env!("CARGO_PKG_VERSION"))],
        )?;
        page.gauge("process_start_time_seconds", "When the daemon started (Unix time).", started)?;
        page.gauges(
            "process_resident_memory_bytes",
            "Resident memory.",
            usage.memory.map(|bytes| (NONE, bytes as f64)),
        )?;
        page.gauges(
            "process_open_fds",
            "Open file descriptors.",
            usage.descriptors.map(|count| (NONE, count as f64)),
        )?;
        page.gauges(
            "process_max_fds",
            "The most file descriptors that may be open.",
            usage.most_descriptors.map(|count| (NONE, count as f64)),
        )?;
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        page.gauge("occd_tasks", "Tasks that live in the daemon.", tasks as f64)
    }

    fn of_daemon(&self, page: &mut Page<'_>) -> fmt::Result {
        let app = &self.app;
        let hosts = app.pool.configured();
        let states = hosts.iter().map(|host| host.snapshot().state.as_str());
        page.gauges(
            "occd_hosts",
            "Hosts of hosts.json by state.",
            counted(STATES.map(LinkState::as_str), states),
        )?;
        let all = self.hosts.iter().flat_map(|host| host.snapshot.connections());
        let channels: usize = all.map(|connection| connection.open_channels()).sum();
        page.gauge(
            "occd_open_channels",
            "Channels that are open on all connections, with those that only stand by.",
            channels as f64,
        )?;
        let sessions = app.sessions.known();
        let states = sessions.iter().map(|session| session.state.as_str());
        page.gauges(
            "occd_sessions",
            "Sessions by state.",
            counted(SESSION_STATES.map(SessionState::as_str), states),
        )?;
        let forwards = app.forwards.list();
        let states = forwards.iter().map(|forward| forward.state.as_str());
        page.gauges(
            "occd_forwards",
            "Forwards by state.",
            counted(FORWARD_STATES.map(ForwardState::as_str), states),
        )?;
        page.gauge(
            "occd_clients",
            "Clients that are connected, those of grants apart.",
            app.measured.door().clients() as f64,
        )?;
        page.gauge(
            "occd_operations",
            "Requests at work on hosts and on this machine.",
            app.at_work.count() as f64,
        )?;
        page.gauge(
            "occd_open_streams",
            "Answers that go on: events, output, files, terminals.",
            app.measured.streams() as f64,
        )?;
        page.gauge(
            "occd_kept_events",
            "Events that are kept for clients that come back.",
            app.events.kept() as f64,
        )?;
        let gaps = app.measured.gaps().map(|(reason, count)| {
            let reason = match reason {
                GapReason::Restarted => "restarted",
                GapReason::Forgotten => "forgotten",
                GapReason::Unknown => "unknown",
            };
            ([("reason", reason)], count)
        });
        page.counters(
            "occd_event_gaps",
            "How often a client was told that events are lost to it.",
            gaps,
        )?;
        page.gauge(
            "occd_spilled_bytes",
            "Output on disk that its readers have not taken.",
            app.pool.context().dial.spill.held() as f64,
        )
    }

    fn of_requests(&self, page: &mut Page<'_>) -> fmt::Result {
        let measured = &self.app.measured;
        let refusals: Vec<_> =
            measured.refusals().map(|(status, count)| (status.to_string(), count)).collect();
        page.counters(
            "occd_requests_turned_away",
            "Requests that were turned away because there were too many, or they were too slow or too large.",
            refusals.iter().map(|(status, count)| ([("status", status.as_str())], *count)),
        )?;
        page.histograms(
            "occd_request_seconds",
            "Time until an answer begins, by the route's pattern.",
            measured.answers().into_iter().map(|answers| {
                let labels = [
                    ("route", answers.route),
                    ("method", answers.method),
                    ("status", answers.kind),
                ];
                (labels, answers.times)
            }),
        )
    }

    fn of_hosts(&self, page: &mut Page<'_>) -> fmt::Result {
        page.gauges(
            "occd_host_state",
            "1 for the state that a host is in.",
            self.each_of("state", |host| {
                let state = host.snapshot.state;
                STATES.map(|one| (one.as_str(), if one == state { 1.0 } else { 0.0 }))
            }),
        )?;
        page.gauges(
            "occd_host_used_channels",
            "Channels in use on a host's connections.",
            self.each(|host| f64::from(host.snapshot.open_channels())),
        )?;
        page.counters(
            "occd_host_dials",
            "Dials that were begun.",
            self.each(|host| host.metrics.dials.get()),
        )?;
        page.counters(
            "occd_host_dial_failures",
            "Dials that failed, by the code of the failure.",
            self.each_of("code", |host| host.metrics.failures()),
        )?;
        page.counters(
            "occd_host_reconnects",
            "Connections that were made in place of one that had ended.",
            self.each(|host| host.metrics.reconnects.get()),
        )?;
        page.counters(
            "occd_host_received_bytes",
            "Bytes that came over a host's connections.",
            self.each(|host| host.snapshot.bytes().0),
        )?;
        page.counters(
            "occd_host_sent_bytes",
            "Bytes that went over a host's connections.",
            self.each(|host| host.snapshot.bytes().1),
        )?;
        page.histograms(
            "occd_host_connect_seconds",
            "Time of a dial, without the wait for its turn and for a person's answer.",
            self.each_of("outcome", |host| host.metrics.dial_times()),
        )?;
        page.histograms(
            "occd_host_connect_phase_seconds",
            "Time of a part of a dial.",
            self.each_of("phase", |host| host.metrics.step_times()),
        )
    }

    fn of_commands(&self, page: &mut Page<'_>) -> fmt::Result {
        page.counters(
            "occd_host_commands",
            "Commands of clients by what became of them.",
            self.executors().flat_map(|(host, metrics)| {
                metrics
                    .commands()
                    .map(move |(end, count)| ([("host", host), ("outcome", end)], count))
            }),
        )?;
        page.histograms(
            "occd_host_exec_first_byte_seconds",
            "Time from when a command was sent until its first output.",
            self.executors().filter_map(|(host, metrics)| {
                Some(([("host", host)], metrics.first_byte.times()?))
            }),
        )?;
        page.histograms(
            "occd_host_exec_seconds",
            "Time from when a command was sent until its end.",
            self.executors()
                .filter_map(|(host, metrics)| Some(([("host", host)], metrics.whole.times()?))),
        )
    }
}

impl Collector for Look {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        self.of_process(&mut page)?;
        self.of_daemon(&mut page)?;
        self.of_requests(&mut page)?;
        self.of_hosts(&mut page)?;
        self.of_commands(&mut page)
    }
}

/// Returns how often each word comes, also those that do not.
fn counted<'a, const N: usize>(
    words: [&'static str; N],
    seen: impl Iterator<Item = &'a str>,
) -> impl Iterator<Item = ([(&'static str, &'static str); 1], f64)> {
    let mut counts = BTreeMap::new();
    seen.for_each(|word| *counts.entry(word.to_owned()).or_insert(0_u32) += 1);
    words.into_iter().map(move |word| {
        ([("state", word)], f64::from(counts.get(word).copied().unwrap_or_default()))
    })
}

/// No labels.
const NONE: [(&str, &str); 0] = [];

/// What is written. A family of which there is nothing yet is left out.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn family<'l, const N: usize, T>(
        &mut self,
        (name, help, kind): (&str, &str, MetricType),
        samples: impl IntoIterator<Item = ([(&'static str, &'l str); N], T)>,
        write: impl Fn(&mut MetricEncoder<'_>, T) -> fmt::Result,
    ) -> fmt::Result {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in samples {
            write(&mut family.encode_family(&labels)?, value)?;
        }
        Ok(())
    }

    fn info(&mut self, name: &str, help: &str, labels: &[(&str, &str)]) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Info)?.encode_info(&labels)
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.gauges(name, help, [(NONE, value)])
    }

    fn gauges<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = ([(&'static str, &'l str); N], f64)>,
    ) -> fmt::Result {
        self.family((name, help, MetricType::Gauge), samples, |encoder, value| {
            encoder.encode_gauge(&value)
        })
    }

    /// The name gets its `_total` from the library.
    fn counters<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = ([(&'static str, &'l str); N], u64)>,
    ) -> fmt::Result {
        self.family((name, help, MetricType::Counter), samples, |encoder, value| {
            encoder.encode_counter::<NoLabelSet, _, u64>(&value, None)
        })
    }

    fn histograms<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = ([(&'static str, &'l str); N], Times)>,
    ) -> fmt::Result {
        self.family((name, help, MetricType::Histogram), samples, |encoder, times| {
            encoder.encode_histogram::<NoLabelSet>(times.sum, times.count, &times.classes, None)
        })
    }
}
