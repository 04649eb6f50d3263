//! A host's state as lines and as a table row.

use jiff::Timestamp;
use occ_proto::HostName;
use occ_proto::container::ContainerStatus;
use occ_proto::error::Code;
use occ_proto::status::{
    ConnectionInfo, DockerFault, HostList, HostStatus, IdleReason, LastError, RemoteSystem, State,
    SystemUnknown, TestReport,
};
use occ_proto::text::sanitize;
use occ_proto::trust::NewHostKey;

use super::table::Table;
use super::{Colour, Ui};
use crate::duration::{one_unit, seconds_between, two_units};
use crate::hint::{damaged_passwords, has_no_docker, has_own_hint, hint_for};

/// The sign of a state: each differs in shape, so that colour is never needed.
fn sign(state: State) -> &'static str {
    match state {
        State::Connected => "●",
        State::Connecting | State::Backoff => "◐",
        State::Idle | State::Stopped => "○",
        State::Failed => "✗",
        State::Unknown => "?",
    }
}

fn colour(state: State) -> Colour {
    match state {
        State::Connected => Colour::Green,
        State::Connecting | State::Backoff => Colour::Yellow,
        State::Idle | State::Stopped | State::Unknown => Colour::Grey,
        State::Failed => Colour::Red,
    }
}

/// Returns milliseconds as a person reads them: `12 ms`, `0.4 ms`.
pub(crate) fn milliseconds(ms: f64) -> String {
    if ms < 9.95 && (ms.round() - ms).abs() >= 0.05 {
        format!("{ms:.1} ms")
    } else {
        format!("{ms:.0} ms")
    }
}

/// Returns a number of bytes in decimal units: `980 B`, `1.2 MB`.
pub(crate) fn bytes(count: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
    let mut value = count as f64;
    if count < 1000 {
        return format!("{count} B");
    }
    for unit in ["kB", "MB", "GB"] {
        value /= 1000.0;
        if value < 999.5 {
            return if value < 9.95 {
                format!("{value:.1} {unit}")
            } else {
                format!("{value:.0} {unit}")
            };
        }
    }
    format!("{:.1} TB", value / 1000.0)
}

/// Returns a line about a host: `[prod-1] Link      …`.
fn line(status: &HostStatus, label: &str, text: &str) -> String {
    line_of(&prefix(status), label, text)
}

/// Returns a line about a host, or about this machine, which has no prefix.
fn line_of(prefix: &str, label: &str, text: &str) -> String {
    format!("{prefix}{label:<9} {text}")
}

/// Returns what a host's lines begin with.
fn prefix(status: &HostStatus) -> String {
    format!("[{}] ", status.name)
}

/// Returns the line about a host key that was not on record until now, unless it has been told already.
pub(crate) fn host_key_news(ui: &Ui, new: &NewHostKey) -> Option<String> {
    let (host, key) = (&new.host, sanitize(&new.key));
    let line = match &new.not_recorded {
        None => format!("[{host}] New host key recorded: {key}\n"),
        Some(why) => format!("[{host}] New host key not recorded, {}: {key}\n", sanitize(why)),
    };
    ui.is_news(&line).then_some(line)
}

/// Tells of a host key that was not on record until now.
pub(crate) fn tell_host_key(ui: &Ui, host: &HostName, key: &str) {
    tell_news(ui, &NewHostKey { host: host.clone(), key: key.to_owned(), not_recorded: None });
}

/// The same of what the daemon tells of it.
pub(crate) fn tell_news(ui: &Ui, new: &NewHostKey) {
    if !ui.json
        && let Some(line) = host_key_news(ui, new)
    {
        ui.note(line.trim_end());
    }
}

/// The same for a status, if the connection was made at or after `asked`.
pub(crate) fn tell_host_key_since(ui: &Ui, status: &HostStatus, asked: Timestamp) {
    if let Some(connection) = &status.connection
        && connection.new_host_key
        && connection.since >= asked
    {
        tell_host_key(ui, &status.name, &connection.host_key);
    }
}

/// Returns why a password was not kept, if the connection was made at or after `asked`.
pub(crate) fn not_kept_since(status: &HostStatus, asked: Timestamp) -> Option<String> {
    let connection = status.connection.as_ref().filter(|connection| connection.since >= asked)?;
    let why = connection.not_kept.as_ref()?;
    let hint = damaged_passwords(why).map_or_else(String::new, |hint| format!("\nhint: {hint}"));
    Some(format!("[{}] The password was not kept: {}.{hint}", status.name, sanitize(why)))
}

/// Returns the line about a host's link. `dials` is whether asking for it has an idle host dialled.
pub(crate) fn link(ui: &Ui, status: &HostStatus, now: Timestamp, dials: bool) -> String {
    let state = ui.paint(
        colour(status.state),
        &format!("{} {:<10}", sign(status.state), status.state.as_str()),
    );
    line(status, "Link", format!("{state} {}", link_detail(status, now, dials)).trim_end())
}

fn link_detail(status: &HostStatus, now: Timestamp, dials: bool) -> String {
    let age = two_units(seconds_between(status.since, now));
    let message = status.last_error.as_ref().map_or_else(|| "no reason given".to_owned(), said);
    match status.state {
        State::Connected => {
            let mut parts = vec![age];
            parts.extend(status.rtt_ms.map(milliseconds));
            if let Some(connection) = &status.connection {
                parts.push(login(connection));
            }
            parts.extend(unanswered(status, now));
            let via = status.connection.as_ref().filter(|connection| !connection.via.is_empty());
            let via = via.map_or_else(String::new, |connection| {
                let names = sanitize(&connection.via.join(", "));
                // The name of one that hosts.json does not have says so itself.
                if names.starts_with(HostName::VIA) {
                    format!(" {names}")
                } else {
                    format!(" via {names}")
                }
            });
            format!("{}{via}", parts.join(", "))
        }
        State::Connecting => format!("{age}, {}", attempt(status)),
        State::Backoff => {
            let attempt = status.attempt.saturating_add(1);
            let of_hop = status.last_error.as_ref().is_some_and(|error| error.hop.is_some());
            let what = if of_hop { "it is tried".to_owned() } else { format!("attempt {attempt}") };
            let next =
                next_try(status, now).map_or_else(String::new, |due| format!("; {what} {due}"));
            format!("{age}, {message}{next}")
        }
        State::Failed => format!("{age}, {message}"),
        State::Idle => {
            let why = idle_reason(status).map_or_else(String::new, |why| format!("{why}; "));
            let next = match dials {
                true => "connecting on this request; --fresh waits for it",
                false => "connected when somebody uses it",
            };
            format!("{why}{next}")
        }
        State::Stopped => format!("{age}, disconnected on request"),
        State::Unknown => age,
    }
}

/// Returns the rule for which the host is idle.
pub(super) fn idle_reason(status: &HostStatus) -> Option<String> {
    match status.idle_reason? {
        IdleReason::ServerIdlePolicy => {
            let after = status.idle_close_s;
            let after = after.map_or_else(String::new, |s| format!(" after {}", two_units(s)));
            Some(format!("the server closes idle connections{after}"))
        }
        IdleReason::IdleTimeout => {
            Some("nobody used it for as long as idle_timeout says".to_owned())
        }
        IdleReason::Unknown => None,
    }
}

/// Returns since when a connected server gives no sign of life, if so.
fn unanswered(status: &HostStatus, now: Timestamp) -> Option<String> {
    let since = status.connection.as_ref()?.unanswered_since?;
    Some(format!("keep-alives unanswered for {}", two_units(seconds_between(since, now))))
}

/// Returns what a dial does, or what it waits for.
fn attempt(status: &HostStatus) -> String {
    match &status.question {
        Some(question) => format!("waits for a person (occ prompts): {}", sanitize(question)),
        None => format!("attempt {}", status.attempt.max(1)),
    }
}

/// Returns a failure's sentence without its full stop, since text follows it.
pub(super) fn said(error: &LastError) -> String {
    sanitize(error.message.trim_end_matches('.'))
}

fn login(connection: &ConnectionInfo) -> String {
    // Port 22 goes without saying.
    let peer = connection.peer.strip_suffix(":22").unwrap_or(&connection.peer);
    sanitize(&format!("{}@{peer}", connection.user))
}

/// Returns when the next dial is due; nothing for a host that follows its jump host.
fn next_try(status: &HostStatus, now: Timestamp) -> Option<String> {
    Some(match seconds_between(now, status.next_retry_at?) {
        0 => "now".to_owned(),
        seconds => format!("in {}", two_units(seconds)),
    })
}

/// Returns the next command to type for a host in this state.
pub(crate) fn hint(status: &HostStatus) -> Option<String> {
    match status.state {
        State::Backoff => {
            let error = status.last_error.as_ref();
            match error.and_then(|error| Some((error, error.hop.as_ref()?))) {
                // It has failed for a reason that trying again does not mend.
                Some((error, hop)) if error.code != Code::HostUnreachable => {
                    crate::hint::hint(error.code, Some(hop.as_str()), &error.message)
                }
                Some((_, hop)) => Some(format!("occ reconnect --host {hop}")),
                None if let Some(error) = error.filter(|e| has_own_hint(&e.message)) => {
                    status_hint(status, error.code, &error.message)
                }
                None => Some(format!("occ reconnect --host {}", status.name)),
            }
        }
        State::Stopped => Some(format!("occ connect --host {}", status.name)),
        State::Failed => {
            let error = status.last_error.as_ref();
            error.and_then(|error| status_hint(status, error.code, &error.message))
        }
        State::Idle | State::Connecting | State::Connected | State::Unknown => None,
    }
}

/// Returns the hint for a problem of a host whose configuration is known.
pub(crate) fn status_hint(status: &HostStatus, code: Code, detail: &str) -> Option<String> {
    // A host may do without, and is not to be told so each time.
    if has_no_docker(detail) {
        return None;
    }
    let login = status.connection.as_ref().map(|connection| connection.user.as_str());
    hint_for(code, &status.name, &status.config, login, detail)
}

/// Returns what `-v` adds: what the connection negotiated and what the probe found.
pub(crate) fn details(status: &HostStatus, now: Timestamp) -> Vec<String> {
    let mut lines = Vec::new();
    let mut add = |label: &str, text: String| lines.push(line(status, label, &sanitize(&text)));
    if let Some(connection) = &status.connection {
        add("Server", connection.server.clone());
        add("Host key", connection.host_key.clone());
        let key = connection.auth_key.as_ref().map_or_else(String::new, |key| format!(", {key}"));
        add("Login", format!("{}{key}", connection.auth));
        if let Some(why) = &connection.not_kept {
            add("Not kept", format!("the password: {why}"));
        }
        if let Some(agent) = &connection.agent {
            add("Agent", agent.clone());
        }
        if connection.agent_forwarding {
            add("Lent", "commands there may use your ssh-agent".to_owned());
        }
        let mac = connection.mac.as_ref().map_or_else(String::new, |mac| format!(" with {mac}"));
        let quantum = if connection.post_quantum { "post-quantum" } else { "not post-quantum" };
        let compressed = if connection.compressed { ", compressed" } else { "" };
        add("Cipher", format!("{}{mac}{compressed}", connection.cipher));
        add("Exchange", format!("{}, {quantum}", connection.kex));
        add(
            "Traffic",
            format!(
                "{} in, {} out; connections {}, channels in use {}",
                bytes(status.bytes_in.max(connection.bytes_in)),
                bytes(status.bytes_out.max(connection.bytes_out)),
                status.connections,
                status.open_channels
            ),
        );
        match &connection.system {
            None => add("System", "not known yet".to_owned()),
            Some(RemoteSystem { unknown: Some(why), .. }) => {
                let why = match why {
                    SystemUnknown::ProbeOff => "it was not asked (probe = false in occd.toml)",
                    SystemUnknown::ForcedCommand => {
                        "the host runs one command, whatever it is asked for (a forced command)"
                    }
                    SystemUnknown::NoAnswer => "it did not answer",
                    SystemUnknown::Other => "?",
                };
                add("System", format!("not known: {why}"));
            }
            Some(system) => {
                let or =
                    |text: &str| if text.is_empty() { "?".to_owned() } else { text.to_owned() };
                add(
                    "System",
                    format!("{} {}, {}", or(&system.os), or(&system.arch), or(&system.shell)),
                );
                let mut docker: Vec<String> = system
                    .docker_sockets
                    .iter()
                    .map(|socket| {
                        let why = if socket.usable { "" } else { " (not open to this user)" };
                        format!("{}{why}", socket.path)
                    })
                    .collect();
                if system.docker_cli {
                    docker.push("docker in PATH".to_owned());
                }
                if docker.is_empty() {
                    docker.push("none".to_owned());
                }
                add("Docker", docker.join(", "));
            }
        }
    }
    if status.state == State::Connected
        && let Some(error) = &status.last_error
    {
        let ago = two_units(seconds_between(error.at, now));
        add("Last cut", format!("{ago} ago, {} ({})", said(error), error.phase.as_str()));
    }
    lines
}

/// Returns the lines about the sandbox container; `host` is absent for this machine's.
pub(crate) fn sandbox(
    ui: &Ui,
    host: Option<&HostName>,
    container: &ContainerStatus,
    now: Timestamp,
) -> Vec<String> {
    let prefix = &host.map_or_else(String::new, |host| format!("[{host}] "));
    let option = host.map_or_else(|| " --local".to_owned(), |host| format!(" --host {host}"));
    let mut lines = state_lines(ui, prefix, container, now);
    if container.foreign {
        lines.push(line_of(prefix, "Note", FOREIGN));
    }
    if let Some(aside) = &container.set_aside {
        let text = format!(
            "an update was cut short, the sandbox from before is the container {}: occ start{option} finishes or undoes it",
            sanitize(aside)
        );
        lines.push(line_of(prefix, "Note", &text));
    }
    lines
}

fn state_lines(ui: &Ui, prefix: &str, container: &ContainerStatus, now: Timestamp) -> Vec<String> {
    let as_of = two_units(seconds_between(container.as_of, now));
    let stale = container.stale.then(|| format!("as of {as_of} ago, stale"));
    if !container.exists {
        let text = ui.paint(Colour::Grey, "○ No service found.");
        let stale = stale.map_or_else(String::new, |stale| format!(" ({stale})"));
        return vec![line_of(prefix, "Sandbox", &format!("{text}{stale}"))];
    }
    let word = sanitize(container.state.as_deref().unwrap_or("unknown"));
    let running = word == "running";
    let (sign, colour) = match (container.stale, running) {
        (true, _) => ("?", Colour::Yellow),
        (false, true) => ("●", Colour::Green),
        (false, false) => ("○", Colour::Grey),
    };
    let mut parts: Vec<String> = stale.into_iter().collect();
    if running
        && !container.stale
        && let Some(at) = container.started_at
    {
        parts.push(two_units(seconds_between(at, now)));
    }
    parts.extend(container.health.as_deref().map(sanitize));
    if let Some(code) = container.exit_code.filter(|_| !running) {
        parts.push(format!("exit code {code}"));
    }
    let state = ui.paint(colour, &format!("{sign} {word:<10}"));
    let mut lines =
        vec![line_of(prefix, "Sandbox", format!("{state} {}", parts.join(", ")).trim_end())];
    if let Some(url) = &container.url {
        lines.push(line_of(prefix, "URL", &sanitize(url)));
    }
    if let Some(image) = &container.image {
        let mut text = sanitize(image);
        if let Some(version) = &container.image_version {
            text.push_str(&format!(" ({})", sanitize(version)));
        }
        if let Some(id) = &container.image_id {
            // Docker's own short form: twelve digits of the digest.
            let id: String = id.trim_start_matches("sha256:").chars().take(12).collect();
            text.push_str(&format!(", {}", sanitize(&id)));
        }
        lines.push(line_of(prefix, "Image", &text));
    }
    for port in &container.ports {
        lines.push(line_of(
            prefix,
            "Port",
            &sanitize(&format!("{}:{} -> {}", port.host_ip, port.host_port, port.container_port)),
        ));
    }
    let binds = container.mounts.iter().filter(|mount| mount.kind == "bind");
    for mount in binds {
        let mode = if mount.read_only { " (read-only)" } else { "" };
        let text = format!("{} -> {}{mode}", mount.source, mount.target);
        lines.push(line_of(prefix, "Mount", &sanitize(&text)));
    }
    if let Some(disk) = &container.disk {
        let total = disk.container + disk.image + disk.volumes;
        let text = format!(
            "{}: image {}, volumes {}, container {} (as of {} ago)",
            bytes(total),
            bytes(disk.image),
            bytes(disk.volumes),
            bytes(disk.container),
            two_units(seconds_between(disk.as_of, now))
        );
        lines.push(line_of(prefix, "Disk", &text));
    }
    if !container.ports.is_empty() {
        let words = if container.exposed { "network exposed" } else { "local only" };
        lines.push(line_of(prefix, "Security", words));
    }
    lines
}

/// Returns the line about why Docker tells nothing more.
pub(crate) fn docker_fault(status: &HostStatus, fault: &DockerFault) -> String {
    line(status, "Docker", &format!("✗ {}", sanitize(&fault.message)))
}

/// Returns the line for a sandbox of which nothing has been heard yet, as in the first moments of a connection.
pub(crate) fn sandbox_unheard(status: &HostStatus) -> String {
    line(
        status,
        "Sandbox",
        "? unknown    Docker has not answered yet, or is closed to you; --fresh says which",
    )
}

/// Returns the line for a sandbox that Docker could not be asked about.
pub(crate) fn sandbox_unknown(status: &HostStatus, code: Code, why: &str) -> String {
    // The line names the host already.
    let why = why.strip_prefix(&format!("{}: ", status.name)).unwrap_or(why);
    // Without Docker there is no sandbox, and that much is known.
    let sign = if code == Code::DockerUnavailable && has_no_docker(why) {
        "○ none   "
    } else {
        "? unknown"
    };
    line(status, "Sandbox", &format!("{sign}    {why}"))
}

/// Returns the table of `status --all`, problems first, and the summary line. With `fold`, rows that differ in
/// nothing but the host's name are one.
pub(crate) fn table(ui: &Ui, list: &HostList, now: Timestamp, fold: bool) -> String {
    let rank = |state: State| match state {
        State::Failed => 0,
        State::Backoff => 1,
        State::Connecting => 2,
        State::Connected => 3,
        State::Idle => 4,
        State::Stopped => 5,
        State::Unknown => 6,
    };
    let mut hosts: Vec<&HostStatus> = list.hosts.iter().chain(&list.via).collect();
    hosts.sort_by_key(|status| rank(status.state));
    // Without Docker anywhere nobody misses its columns.
    let docker = hosts.iter().any(|host| host.sandbox.is_some() || host.docker_error.is_some());
    let mut headings = vec!["HOST", "LINK", "FOR", "RTT", "NOTE"];
    if docker {
        headings.splice(4..4, ["SANDBOX", "AS OF"]);
    }
    let mut rows: Vec<(State, Vec<String>)> = Vec::new();
    for status in &hosts {
        let mut cells = row(status, list, now);
        if docker {
            cells.splice(4..4, sandbox_cells(status, now));
        }
        rows.push((status.state, cells));
    }
    if fold {
        rows = super::rows::folded(rows, list);
    }
    let mut table = Table::new(&headings);
    rows.iter().for_each(|(_, cells)| table.row(cells.clone()));
    let mut text = String::new();
    for (number, line) in table.lines().iter().enumerate() {
        let state = number.checked_sub(1).and_then(|i| rows.get(i)).map(|(state, _)| *state);
        match state {
            Some(state) => text.push_str(&ui.paint(colour(state), sign(state))),
            None => text.push(' '),
        }
        text.push_str(&format!(" {line}\n"));
    }
    text.push_str(&format!("\n{}\n", summary(list)));
    text
}

fn row(status: &HostStatus, list: &HostList, now: Timestamp) -> Vec<String> {
    let dash = || "-".to_owned();
    let mark = if list.default_host.as_ref() == Some(&status.name) { " *" } else { "" };
    let message = || status.last_error.as_ref().map(said).unwrap_or_default();
    let note = match status.state {
        State::Failed => message(),
        State::Backoff => match next_try(status, now) {
            Some(due) => format!("{}, next try {due}", message()),
            None => message(),
        },
        State::Connecting => attempt(status),
        State::Stopped => "disconnected on request".to_owned(),
        State::Unknown => String::new(),
        State::Connected if let Some(silent) = unanswered(status, now) => silent,
        State::Connected | State::Idle => match (idle_reason(status), &status.docker_error) {
            (Some(why), _) => format!("{why}; connects on use"),
            (None, Some(fault)) => sanitize(&fault.message),
            (None, None) if let Some(note) = sandbox_note(status) => note,
            (None, None) => status.config.description.as_deref().map(sanitize).unwrap_or_default(),
        },
    };
    vec![
        format!("{}{mark}", status.name),
        status.state.as_str().to_owned(),
        if status.state == State::Idle {
            dash()
        } else {
            one_unit(seconds_between(status.since, now))
        },
        match status.rtt_ms {
            Some(ms) if status.state == State::Connected => milliseconds(ms),
            _ => dash(),
        },
        note,
    ]
}

/// What there is to say of a container of the sandbox's name that is not ours.
const FOREIGN: &str = "somebody else's container of this name: it is left alone";

/// Returns what a person should know of the sandbox, where there is something.
fn sandbox_note(status: &HostStatus) -> Option<String> {
    let container = status.sandbox.as_ref()?;
    if container.foreign {
        return Some(FOREIGN.to_owned());
    }
    container.set_aside.as_ref().map(|_| {
        format!("an update was cut short: occ start --host {} finishes or undoes it", status.name)
    })
}

/// Returns a word for the sandbox and the time at which it was true.
fn sandbox_cells(status: &HostStatus, now: Timestamp) -> [String; 2] {
    let Some(container) = &status.sandbox else {
        let word = if status.docker_error.is_some() { "?" } else { "-" };
        return [word.to_owned(), "-".to_owned()];
    };
    let word = match (container.exists, container.state.as_deref()) {
        (false, _) => "none".to_owned(),
        (true, state) => sanitize(state.unwrap_or("?")),
    };
    let unhealthy = container.health.as_deref() == Some("unhealthy");
    let word = if unhealthy && !container.stale { "unhealthy".to_owned() } else { word };
    match container.stale {
        true => [format!("{word}?"), one_unit(seconds_between(container.as_of, now))],
        false => [word, "now".to_owned()],
    }
}

fn summary(list: &HostList) -> String {
    let states = [
        State::Connected,
        State::Connecting,
        State::Backoff,
        State::Failed,
        State::Idle,
        State::Stopped,
        State::Unknown,
    ];
    let counted = |hosts: &[HostStatus], what: &str| {
        let counts: Vec<String> = states
            .iter()
            .map(|state| (state, hosts.iter().filter(|host| host.state == *state).count()))
            .filter(|(_, count)| *count > 0)
            .map(|(state, count)| format!("{count} {}", state.as_str()))
            .collect();
        let plural = if hosts.len() == 1 { "" } else { "s" };
        format!("{} {what}{plural}: {}", hosts.len(), counts.join(", "))
    };
    let mut text = counted(&list.hosts, "host");
    if !list.via.is_empty() {
        // hosts.json has no such host, and nobody counts it among theirs.
        text.push_str(&format!("; {}", counted(&list.via, "jump host")));
    }
    if let Some(name) = &list.default_host {
        let known = list.hosts.iter().any(|host| host.name == *name);
        let missing = if known { "" } else { ", which does not exist" };
        text.push_str(&format!("; * default: {name}{missing}"));
    }
    text
}

/// Returns the steps of `host test`, the times in one column.
pub(crate) fn steps(ui: &Ui, report: &TestReport) -> String {
    let names: Vec<String> = report.steps.iter().map(|step| sanitize(&step.name)).collect();
    let details: Vec<String> = report.steps.iter().map(|step| sanitize(&step.detail)).collect();
    let width = |texts: &[String]| texts.iter().map(|t| t.chars().count()).max().unwrap_or(0);
    let timed: Vec<String> = report
        .steps
        .iter()
        .zip(&details)
        .filter(|(step, _)| step.ms.is_some())
        .map(|(_, detail)| detail.clone())
        .collect();
    let (names_width, details_width) = (width(&names).max(8), width(&timed));
    let mut text = String::new();
    for ((step, name), detail) in report.steps.iter().zip(&names).zip(&details) {
        let mark = match step.ok {
            true => ui.paint(Colour::Green, "✓"),
            // Nothing is wrong with such a host.
            false if step.name == "docker" && has_no_docker(detail) => ui.paint(Colour::Grey, "–"),
            false => ui.paint(Colour::Red, "✗"),
        };
        let detail = detail.strip_prefix("there is ").unwrap_or(detail);
        let time = step.ms.map(milliseconds).unwrap_or_default();
        let row = format!(
            "[{}] {mark} {name:<names_width$}  {detail:<details_width$}  {time:>8}",
            report.name
        );
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}
