//! Starting a command, on a host or on this machine.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, timeout, timeout_at};

use super::command::Command;
use super::error::ExecError;
use super::local::Local;
use super::measured;
use super::program::Program;
use super::quote::Shell;
use super::running::{Progress, Running};
use crate::host::{HostHandle, Tries};
use crate::prompts::Client;
use crate::ssh::marker::{Elsewhere, Marker};
use crate::ssh::{ChannelError, Closed, Connection};

/// How long a server may take to answer a request to run a command. It answers when it has forked, before
/// the login shell reads its files, so this is generous.
pub(crate) const ACCEPT: Duration = Duration::from_secs(30);

/// Starts a command. As long as it has not been sent, a broken connection is made anew, as the tries allow; once
/// it may have been sent, nothing is repeated.
pub async fn start(
    host: &HostHandle,
    command: &Command,
    tries: Tries,
    client: &Client,
    progress: &Progress,
) -> Result<Running, ExecError> {
    let started = start_when_connected(host, command, tries, client, progress).await;
    started.inspect_err(|error| measured::not_started(host.metrics(), command, error))
}

async fn start_when_connected(
    host: &HostHandle,
    command: &Command,
    tries: Tries,
    client: &Client,
    progress: &Progress,
) -> Result<Running, ExecError> {
    let asked = Timestamp::now();
    let begun = Instant::now();
    // Its limit is for the connection and the command together, unless somebody wants to wait for the host.
    let limit = command.limit().filter(|_| matches!(tries, Tries::Retries(_)));
    let end = limit.map(|limit| begun + limit);
    let deadline = begun + limit.unwrap_or(Duration::MAX).min(tries.patience());
    let answering = host.time_for_answers();
    let before = host.snapshot().dials();
    let dialled = || u32::try_from(host.snapshot().dials() - before).unwrap_or(u32::MAX);
    let mut connected = None;
    loop {
        // The time that a person took for an answer counts for nobody.
        let answered = || host.time_for_answers().saturating_sub(answering);
        let by = deadline + answered();
        let connecting = host.connection_by(by, tries.after(dialled()), client);
        let connecting = host.at_most_until(end.map(|end| end + answered()), begun, connecting);
        let connection = connecting.await.map_err(ExecError::Unreachable)?;
        let by = deadline + answered();
        let terminal = command.request().tty.is_some();
        let connection =
            host.for_commands(connection, terminal, by).await.map_err(ExecError::Unreachable)?;
        // On however many connections it has waited for a session since.
        let since = *connected.get_or_insert_with(Instant::now);
        let time = Time { since, by: deadline + answered(), end: end.map(|end| end + answered()) };
        match start_on(host, &connection, command, asked, time, progress).await {
            Err(ExecError::NoSession(ChannelError::Lost(cause))) if tries.allow(dialled()) => {
                tracing::info!(host = %host.name(), %cause, "the connection broke before a command was sent");
                connection.closed().cancelled().await;
            }
            // The host has another connection now.
            Err(ExecError::NoSession(ChannelError::Retired)) => tokio::task::yield_now().await,
            result => return result,
        }
    }
}

/// Starts a command of ours that may as well not run: over a connection that is there, if that has room at this moment. It
/// ends by itself, or with the connection: nothing is done to end it on the host.
pub(super) async fn start_over(
    host: &HostHandle,
    connection: &Arc<Connection>,
    command: &Command,
) -> Result<Running, ExecError> {
    let full = || ExecError::NoSession(ChannelError::Full(Duration::ZERO));
    let channel = connection.session_at_once().await.ok_or_else(full)?;
    channel.in_background();
    let shell = connection.known_system().map_or(Shell::Posix, |system| Shell::of(&system.shell));
    let line = command.line_beside(&HashSet::new(), host.name().as_str(), shell, None);
    let limit = connection.longest_command();
    if line.len() > limit {
        return Err(ExecError::TooLong { length: line.len(), limit });
    }
    let begun = Instant::now();
    let accepted = async {
        channel.request_exec(&line).await?;
        channel.accepted().await
    };
    match timeout(ACCEPT, accepted).await {
        Ok(Ok(true)) => {
            let program = Program::Remote(channel);
            Ok(Running::new(program, command, (begun, None), None, host.metrics()))
        }
        Ok(Ok(false)) => Err(ExecError::Refused),
        Ok(Err(Closed::ByServer)) => Err(ExecError::NotStarted),
        Ok(Err(Closed::Connection(cause))) => {
            Err(ExecError::LinkLost { after: begun.elapsed(), cause })
        }
        Err(_) => Err(ExecError::NoAnswer { after: ACCEPT }),
    }
}

/// The time of a start.
#[derive(Debug, Clone, Copy)]
struct Time {
    /// Since when it has waited for a session.
    since: Instant,
    /// When the command has its session.
    by: Instant,
    /// When it is over, if that is known before it begins.
    end: Option<Instant>,
}

async fn start_on(
    host: &HostHandle,
    connection: &Arc<Connection>,
    command: &Command,
    asked: Timestamp,
    time: Time,
    progress: &Progress,
) -> Result<Running, ExecError> {
    let shell = if command.needs_shell() {
        match timeout_at(time.by, connection.system()).await {
            Ok(Some(system)) => Shell::of(&system.shell),
            Ok(None) => return Err(ExecError::NoSession(ChannelError::Lost(connection.cause()))),
            Err(_) => return Err(ExecError::NoShell(time.since.elapsed())),
        }
    } else {
        // What is known by now, and not worth waiting for.
        connection.known_system().map_or(Shell::Posix, |system| Shell::of(&system.shell))
    };
    let tty = command.request().tty.as_ref();
    // What runs in a terminal is ended by the terminal's end.
    let marker = match tty {
        None => Marker::for_command(connection, elsewhere(host)),
        Some(_) => None,
    };
    for fresh in [false, true] {
        let (channel, spare) = match timeout_at(time.by, connection.session(fresh)).await {
            Ok(session) => session.map_err(ExecError::NoSession)?,
            Err(_) => {
                return Err(ExecError::NoSession(ChannelError::Full(time.since.elapsed())));
            }
        };
        if let Some(marker) = &marker {
            channel.set_marker(marker.clone());
        }
        let offered = channel.offer_variables(command.variables());
        let taken = match timeout(ACCEPT, offered).await {
            Ok(Ok(taken)) => taken,
            Ok(Err(Closed::ByServer)) => {
                if spare {
                    connection.spare_failed();
                }
                continue;
            }
            Ok(Err(Closed::Connection(cause))) => {
                return Err(ExecError::NoSession(ChannelError::Lost(cause)));
            }
            // It has to answer, and does not: on the next channel nothing is offered.
            Err(_) => {
                connection.takes_no_variables();
                continue;
            }
        };
        if too_late(command.limit(), time) {
            return Err(ExecError::NoSession(ChannelError::Full(time.since.elapsed())));
        }
        let line = command.line_beside(
            &taken,
            host.name().as_str(),
            shell,
            marker.as_ref().map(Marker::id),
        );
        let limit = connection.longest_command();
        if line.len() > limit {
            return Err(ExecError::TooLong { length: line.len(), limit });
        }
        let begun = Instant::now();
        progress.pass().await;
        let answer = async {
            match tty {
                None => channel.request_exec(&line).await?,
                Some(tty) => {
                    let command = (!command.is_bare_login()).then_some(&line[..]);
                    channel.request_in_terminal(tty, command).await?;
                    if !channel.accepted().await? {
                        return Ok(Answer::NoTerminal);
                    }
                }
            }
            channel.accepted().await.map(Answer::of)
        };
        // A command that may last only so long has no more time to begin.
        let limit = command.limit().map(|limit| (limit, time.end.unwrap_or(begun + limit)));
        let left = limit.map(|(_, end)| end.saturating_duration_since(begun));
        let patience = left.map_or(ACCEPT, |left| left.min(ACCEPT));
        match timeout(patience, answer).await {
            Ok(Ok(Answer::Started)) => {
                let new_host_key = channel.connection().host_key_recorded_since(asked);
                let program = Program::Remote(channel);
                let times = (begun, limit);
                return Ok(Running::new(program, command, times, new_host_key, host.metrics()));
            }
            Ok(Ok(Answer::Refused)) => return Err(ExecError::Refused),
            // Dropping the channel ends what may have been started without one.
            Ok(Ok(Answer::NoTerminal)) => return Err(ExecError::NoTerminal),
            // No answer, but a sign that it ran.
            Ok(Err(Closed::ByServer)) if channel.exit().is_some() || channel.has_received() => {
                return Err(ExecError::NoExit);
            }
            // Closed without an answer: the command did not run, and may be sent once more.
            Ok(Err(Closed::ByServer)) => {
                if spare {
                    connection.spare_failed();
                }
                progress.set(false);
                tracing::debug!(spare, "a session was closed before its command started");
            }
            Ok(Err(Closed::Connection(cause))) => {
                return Err(ExecError::LinkLost { after: begun.elapsed(), cause });
            }
            Err(_) => return Err(ExecError::NoAnswer { after: patience }),
        }
    }
    Err(ExecError::NotStarted)
}

/// Returns whether the wait for a session has left a command so little of its time that nobody would hear whether it began.
fn too_late(limit: Option<Duration>, time: Time) -> bool {
    let little = limit.map(|limit| limit / 10);
    let left = time.end.map(|end| end.saturating_duration_since(Instant::now()));
    little.zip(left).is_some_and(|(little, left)| left < little && time.since.elapsed() > little)
}

/// What a server says to a request to run something.
enum Answer {
    Started,
    Refused,
    NoTerminal,
}

impl Answer {
    fn of(accepted: bool) -> Self {
        if accepted { Self::Started } else { Self::Refused }
    }
}

/// Starts a command on this machine.
pub(super) async fn start_local(
    local: &Arc<Local>,
    command: &Command,
    progress: &Progress,
) -> Result<Running, ExecError> {
    let begun = Instant::now();
    progress.pass().await;
    let process = local.spawn(command).await.map_err(ExecError::Spawn);
    let process =
        process.inspect_err(|error| measured::not_started(local.metrics(), command, error))?;
    let limit = command.limit().map(|limit| (limit, begun + limit));
    let program = Program::Local(process);
    Ok(Running::new(program, command, (begun, limit), None, local.metrics()))
}

/// Returns the way to another connection of a host.
fn elsewhere(host: &HostHandle) -> Elsewhere {
    let host = host.clone();
    Arc::new(move || {
        let host = host.clone();
        Box::pin(async move { host.connection(Tries::Retries(0), &Client::default()).await.ok() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_command_that_has_waited_nearly_all_its_time_is_not_sent() {
        const SECOND: Duration = Duration::from_secs(1);
        let begun = Instant::now();
        let after = |waited: u64, left: u64| {
            let (waited, left) = (Duration::from_millis(waited), Duration::from_millis(left));
            let time = Time { since: begun - waited, by: begun, end: Some(begun + left) };
            too_late(Some(SECOND), time)
        };
        assert!(after(950, 50) && after(1000, 0));
        assert!(!after(500, 500) && !after(0, 1000));
        // What took its time was something else.
        assert!(!after(50, 50));
        let time = Time { since: begun - SECOND, by: begun, end: None };
        assert!(!too_late(None, time));
    }
}
