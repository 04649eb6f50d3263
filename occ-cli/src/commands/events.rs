//! `occ events`: what changes, as it changes.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use occ_proto::HostName;
use occ_proto::event::{Change, Event};
use occ_proto::forward::Forward;
use occ_proto::status::{HostStatus, State};
use occ_proto::text::sanitize;

use super::Context;
use crate::cli::EventsArgs;
use crate::error::CliError;
use crate::lines::Lines;
use crate::output::{Ui, json};
use crate::stranger;

/// How long until a daemon that is away is looked for again.
pub(super) const AGAIN: Duration = Duration::from_secs(1);

/// Runs the command until a signal ends it.
pub(crate) async fn run(context: &Context<'_>, args: &EventsArgs) -> Result<u8, CliError> {
    let client = context.client().await?;
    let mut query = vec![];
    // A default host chooses where to work, and not what is shown.
    if let Some(target) = context.named.clone() {
        query.push(format!("host={}", target.host("events")?.0));
    }
    if !args.kind.is_empty() {
        let kinds: Vec<String> = args.kind.iter().map(ToString::to_string).collect();
        query.push(format!("kind={}", kinds.join(",")));
    }
    let following = async {
        let mut seen = args.after.clone();
        let mut shown = Shown::default();
        let mut away = false;
        loop {
            let mut query = query.clone();
            if let Some(seen) = &seen {
                let seen: String =
                    seen.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
                query.push(format!("after={seen}"));
            }
            let path = format!("/v1/events?{}", query.join("&"));
            // Its head comes at once.
            let ended = match Lines::get_at_once(&client, &path).await {
                Ok(mut lines) => {
                    away = false;
                    let telling = told(context.ui, args, &mut lines, (&mut seen, &mut shown));
                    match args.once {
                        true => client.at_once(telling).await,
                        false => telling.await,
                    }
                }
                Err(error) => Err(error),
            };
            let why = match ended {
                Ok(true) => return Ok(0),
                Ok(false) => CliError::daemon("occd is away"),
                Err(error) => stranger::explained(context, error).await,
            };
            if args.once || !why.is_away() {
                return Err(why);
            }
            if !std::mem::replace(&mut away, true) {
                let why = why.message.trim_end_matches('.');
                context.ui.note(&format!("{why}. It is tried again."));
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    tokio::select! {
        biased;
        // It is how following ends.
        ended = crate::terminal::following_ended() => Ok(ended.exit),
        done = following => done,
    }
}

/// Tells events until there are no more. Returns whether there was enough.
async fn told(
    ui: &Ui,
    args: &EventsArgs,
    lines: &mut Lines,
    (seen, shown): (&mut Option<String>, &mut Shown),
) -> Result<bool, CliError> {
    while let Some(line) = lines.next_line().await? {
        let event: Event = lines.parse(&line)?;
        *seen = Some(event.id);
        if ui.json {
            ui.print(&json::line(&line))?;
        } else {
            for line in shown.lines(&event.change) {
                let time = Timestamp::now().to_zoned(TimeZone::system()).strftime("%H:%M:%S");
                ui.print(&format!("{time}  {line}\n"))?;
            }
        }
        if args.once && matches!(event.change, Change::Snapshot(_)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What was said last of each host: a state is told also where something has changed of which a line says nothing.
#[derive(Default)]
struct Shown(HashMap<HostName, String>);

impl Shown {
    /// Returns the lines of an event that say something new.
    fn lines(&mut self, change: &Change) -> Vec<String> {
        if let Change::Snapshot(all) = change {
            let hosts = all.hosts.iter().flatten();
            self.0 = hosts.map(|status| (status.name.clone(), host_line(status))).collect();
        }
        let mut lines = said(change);
        if let Change::Host { host, .. } = change {
            lines.retain(|line| self.0.insert(host.clone(), line.clone()).as_ref() != Some(line));
        }
        lines
    }
}

fn line(host: Option<&str>, what: &str) -> String {
    format!("{:<16} {}", host.unwrap_or("-"), sanitize(what))
}

fn host_line(status: &HostStatus) -> String {
    let is_down = matches!(status.state, State::Backoff | State::Failed);
    let why = status.last_error.as_ref().filter(|_| is_down);
    let why = why.map_or_else(String::new, |error| format!(": {}", error.message));
    line(Some(status.name.as_str()), &format!("{}{why}", status.state.as_str()))
}

fn forward_line(forward: &Forward) -> String {
    let why = forward.last_error.as_deref().map_or_else(String::new, |why| format!(": {why}"));
    let text = format!(
        "forward {} {} {}{why}",
        forward.direction.option(),
        forward.listen,
        forward.state.as_str()
    );
    line(Some(forward.host.as_str()), &text)
}

/// Returns an event in lines for a person.
fn said(change: &Change) -> Vec<String> {
    let one = match change {
        Change::Snapshot(all) => {
            let hosts = all.hosts.iter().flatten().map(host_line);
            let forwards = all.forwards.iter().flatten().map(forward_line);
            let prompts = all.prompts.iter().flatten().map(|prompt| {
                let host = prompt.host.as_ref().map(occ_proto::HostName::as_str);
                line(host, &format!("asks: {} (occ prompts)", prompt.message))
            });
            return hosts.chain(forwards).chain(prompts).collect();
        }
        Change::Gap { .. } => line(None, "what happened meanwhile is not known"),
        Change::Host { status: Some(status), .. } => host_line(status),
        Change::Host { host, status: None } => line(Some(host.as_str()), "removed"),
        Change::Container { host, container } => {
            let text = match container.as_deref() {
                Some(container) if container.exists => {
                    let state = container.state.as_deref().unwrap_or("unknown");
                    let health = container.health.as_deref();
                    let health = health.map_or_else(String::new, |health| format!(" ({health})"));
                    let stale = if container.stale { ", as it was last seen" } else { "" };
                    format!("sandbox {state}{health}{stale}")
                }
                Some(_) => "no sandbox".to_owned(),
                None => "sandbox unknown".to_owned(),
            };
            line(Some(host.as_str()), &text)
        }
        Change::Forward { forward: Some(forward), .. } => forward_line(forward),
        Change::Forward { forward_id, host, forward: None } => {
            line(Some(host.as_str()), &format!("forward {forward_id} removed"))
        }
        Change::Session { session_id, host, session } => {
            let text = match session.as_deref() {
                Some(session) => {
                    let exit =
                        session.exit.map_or_else(String::new, |exit| format!(" with exit {exit}"));
                    format!("session {} {}{exit}", session.info.name, session.state.as_str())
                }
                None => format!("session {session_id} removed"),
            };
            line(host.as_ref().map(occ_proto::HostName::as_str), &text)
        }
        Change::Prompt { prompt_id, host, prompt } => {
            let text = match prompt.as_deref() {
                Some(prompt) => format!("asks: {} (occ prompts)", prompt.message),
                None => format!("prompt {prompt_id} is done"),
            };
            line(host.as_ref().map(occ_proto::HostName::as_str), &text)
        }
        Change::Operation { operation_id, host, operation } => {
            let text = match operation.as_deref() {
                Some(operation) => {
                    let kind = operation.kind.as_str();
                    let state = operation.state.as_str();
                    match (&operation.problem, operation.step.is_empty()) {
                        (Some(problem), _) => format!("{kind} {state}: {}", problem.detail),
                        (None, false) if operation.ended_at.is_none() => {
                            format!("{kind} {state}: {}", operation.step)
                        }
                        _ => format!("{kind} {state}"),
                    }
                }
                None => format!("operation {operation_id} is forgotten"),
            };
            line(host.as_ref().map(occ_proto::HostName::as_str), &text)
        }
        Change::Unknown => return Vec::new(),
    };
    vec![one]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_of_which_nothing_new_is_to_be_said_is_not_spoken_of() {
        let mut shown = Shown::default();
        let mut told = |state: &str| {
            let status = serde_json::json!({
                "name": "h", "state": state, "status": "disconnected", "config": {"hostname": "h"},
                "since": "2026-01-01T00:00:00Z", "attempt": 0, "connections": 0, "open_channels": 0,
                "revision": 1
            });
            let change = serde_json::json!({"event": "host", "host": "h", "status": status});
            shown.lines(&serde_json::from_value(change).unwrap()).len()
        };
        let told = ["stopped", "stopped", "connected", "connected", "stopped"].map(&mut told);
        assert_eq!(told, [1, 0, 1, 0, 1]);
    }

    #[test]
    fn what_a_host_says_cannot_draw_on_the_terminal() {
        let change: Change = serde_json::from_value(serde_json::json!({
            "event": "prompt", "prompt_id": 3, "host": "h", "prompt": {
                "id": 3, "kind": "password", "host": "h", "message": "a\u{1b}[31mb", "secret": true,
                "at": "2026-01-01T00:00:00Z", "expires_at": "2026-01-01T00:01:00Z"
            }
        }))
        .unwrap();
        let lines = said(&change);
        assert!(lines[0].starts_with("h                asks: a"), "{lines:?}");
        assert!(!lines[0].contains('\u{1b}'), "{lines:?}");
    }
}
