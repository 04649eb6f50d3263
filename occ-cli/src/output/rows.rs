//! Hosts' states beside each other and after one another: which rows are alike, and what of a host has changed.

use occ_proto::container::ContainerStatus;
use occ_proto::status::{HostList, HostStatus, State};
use occ_proto::text::sanitize;

use super::host::{idle_reason, said};

/// From so many rows on, those that are alike but for the name are one; fewer are as quickly read with their names.
const FOLD: usize = 3;

/// Makes one row of those that differ in nothing but the host's name, in the place of the first.
pub(super) fn folded(
    rows: Vec<(State, Vec<String>)>,
    list: &HostList,
) -> Vec<(State, Vec<String>)> {
    // Jump hosts are not counted among the hosts.
    let counts = |cells: &[String]| list.hosts.iter().any(|host| cells[0] == host.name.as_str());
    let alike = |cells: &[String]| -> usize {
        rows.iter().filter(|(_, other)| counts(other) && other[1..] == cells[1..]).count()
    };
    let mut folded: Vec<(State, Vec<String>)> = Vec::new();
    let mut seen: Vec<&[String]> = Vec::new();
    for (state, cells) in &rows {
        let count = if counts(cells) { alike(cells) } else { 1 };
        if count < FOLD {
            folded.push((*state, cells.clone()));
        } else if !seen.contains(&&cells[1..]) {
            seen.push(&cells[1..]);
            let mut one = cells.clone();
            one[0] = format!("{count} hosts");
            folded.push((*state, one));
        }
    }
    folded
}

/// Returns what there is to say of a link beside its state, without what the clock alone changes.
pub(crate) fn note(status: &HostStatus) -> String {
    match status.state {
        State::Failed | State::Backoff => status.last_error.as_ref().map(said).unwrap_or_default(),
        State::Connecting => status.question.as_deref().map(sanitize).unwrap_or_default(),
        State::Stopped => "disconnected on request".to_owned(),
        State::Unknown => String::new(),
        State::Connected => match status.connection.as_ref() {
            Some(connection) if connection.unanswered_since.is_some() => {
                "keep-alives unanswered".to_owned()
            }
            _ => String::new(),
        },
        State::Idle => idle_reason(status).unwrap_or_default(),
    }
}

/// Returns a word for what is known of the sandbox; nothing where nothing is.
pub(crate) fn sandbox_word(status: &HostStatus) -> Option<String> {
    if let Some(fault) = &status.docker_error {
        return Some(format!("unknown: {}", sanitize(&fault.message)));
    }
    status.sandbox.as_ref().map(container_word)
}

/// Returns a word for a sandbox.
pub(crate) fn container_word(container: &ContainerStatus) -> String {
    let state = match (container.exists, container.state.as_deref()) {
        (false, _) => "none".to_owned(),
        (true, state) => sanitize(state.unwrap_or("?")),
    };
    let health = container.health.as_deref();
    let health = health.map_or_else(String::new, |health| format!(", {}", sanitize(health)));
    let stale = if container.stale { ", stale" } else { "" };
    format!("{state}{health}{stale}")
}
