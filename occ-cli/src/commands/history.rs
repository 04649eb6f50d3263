//! `occ history`: what became of a host's link, and why.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use occ_proto::history::{Change, History};
use occ_proto::text::sanitize;

use super::Context;
use crate::cli::HistoryArgs;
use crate::client::host_path;
use crate::duration::{seconds_between, two_units};
use crate::error::CliError;
use crate::output::host::milliseconds;

/// Runs the command and returns its exit code.
pub(crate) async fn run(context: &Context<'_>, args: &HistoryArgs) -> Result<u8, CliError> {
    let ui = context.ui;
    let (client, host, source) = context.client_and_host("history").await?;
    let since: String = args.since.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let path = host_path(&host, &format!("/history?since={since}"));
    let reply = match client.get(&path).await {
        Ok(reply) => reply,
        Err(error) => return Err(super::explain(context, &client, &host, source, error).await),
    };
    if ui.json {
        return ui.document(&reply.body).map(|()| 0);
    }
    let history: History = reply.parse()?;
    if history.changes.is_empty() {
        ui.say(&format!("[{host}] Nothing happened since {}.", moment(history.since)))?;
        return Ok(0);
    }
    let mut text = String::new();
    if !ui.quiet {
        let now = Timestamp::now();
        for (at, change) in history.changes.iter().enumerate() {
            let end = history.changes.get(at + 1).map_or(now, |next| next.at);
            text.push_str(&line(change, end));
        }
    }
    text.push_str(&summary(&history));
    ui.print(&text)?;
    Ok(0)
}

fn line(change: &Change, end: Timestamp) -> String {
    let time = two_units(seconds_between(change.at, end));
    let why = change.message.as_deref().map_or_else(String::new, |message| {
        let phase = change.phase.map_or_else(String::new, |phase| format!(" ({})", phase.as_str()));
        // Some sentences say it themselves.
        let phase = if message.contains(phase.trim_start()) { String::new() } else { phase };
        format!("  {}{phase}", sanitize(message))
    });
    let line = format!("{}  {:<7} {time:<8}{why}", moment(change.at), change.link.as_str());
    format!("{}\n", line.trim_end())
}

fn summary(history: &History) -> String {
    let wanted = history.up_s + history.down_s;
    let mut parts = match history.availability {
        Some(part) => vec![format!(
            "up {:.2} % of {} in which it was wanted",
            // Never rounded up to what it was not.
            (part * 1e4).floor() / 1e2,
            two_units(wanted)
        )],
        None => vec!["never wanted".to_owned()],
    };
    parts.extend(history.rtt_ms.map(|rtt| {
        format!(
            "round trip {}, {} for 95 %, {} for 99 %",
            milliseconds(rtt.p50),
            milliseconds(rtt.p95),
            milliseconds(rtt.p99)
        )
    }));
    format!("[{}] {}\n", history.name, parts.join("; "))
}

/// Returns a moment on this machine's clock, to the second.
fn moment(at: Timestamp) -> String {
    at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}
