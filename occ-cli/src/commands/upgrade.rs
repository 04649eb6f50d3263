//! After a command: a daemon that is older than this occ is replaced, when nothing would be lost by it.
//!
//! A daemon tells its version in every answer, so one of the same version costs nothing.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use hyper::Method;
use occ_proto::daemon::HandOver;
use occ_proto::paths::is_grants;
use serde::Deserialize;
use tokio::process::Command as Program;

use super::{Context, daemon};
use crate::autostart::{self, Start};
use crate::cli::{Cli, Command};
use crate::client::{Client, segment};
use crate::endpoint;
use crate::error::{ABSENT, CliError, DAEMON_INCOMPATIBLE, DAEMON_UNREACHABLE};
use crate::locks;
use crate::output::Ui;
use crate::versions;

const OWN: &str = env!("CARGO_PKG_VERSION");
/// How long a program may take to say its version.
const SAYS: Duration = Duration::from_secs(2);

/// What is to be done after a command.
pub(crate) struct Upgrade {
    socket: Option<PathBuf>,
    wanted: bool,
}

impl Upgrade {
    /// Returns it for a command line. Who starts and stops the daemon by hand decides alone, and who only looks at
    /// everything is to find it as it was.
    pub(crate) fn of(cli: &Cli) -> Self {
        let wanted = !matches!(cli.command, Some(Command::Daemon(_) | Command::Doctor));
        Self { socket: cli.global.socket.clone(), wanted }
    }

    /// Returns why an answer was not understood: a daemon that needs a newer occ says so.
    pub(crate) async fn explained(self, ui: &Ui, error: CliError) -> CliError {
        let is_newer = |other: &String| is_older(OWN, other);
        if error.code != DAEMON_INCOMPATIBLE
            || !ui.other_version.borrow().as_ref().is_some_and(is_newer)
        {
            return error;
        }
        let context = Context::plain(ui, self.socket);
        match Client::open(&context, Start::Never).await {
            Ok(client) => too_old(&client).await.unwrap_or(error),
            // The first error says more.
            Err(_) => error,
        }
    }

    /// Replaces a daemon that is older than this occ, or says what to do.
    pub(crate) async fn after(self, ui: &Ui) {
        let other = ui.other_version.borrow().clone();
        let Some(other) = other.filter(|other| self.wanted && is_older(other, OWN)) else { return };
        let context = Context::plain(ui, self.socket);
        match replace(&context, &other).await {
            Ok(Some(line)) => ui.note(&line),
            Ok(None) => {}
            Err(error) => {
                let older = format!("occd {other} is older than occ {OWN}");
                ui.note(&format!("{older} and could not be replaced: {}", error.message));
            }
        }
    }
}

/// The one word of `GET /v1/version` that an older occ has to understand, whatever else is new there.
#[derive(Debug, Deserialize)]
struct Serves {
    min_client: String,
}

/// Returns that a daemon needs a newer occ than this one, where it does and says so.
pub(crate) async fn too_old(client: &Client) -> Option<CliError> {
    let reply = tokio::time::timeout(SAYS, client.get("/v1/version")).await.ok()?.ok()?;
    let serves: Serves = reply.parse().ok()?;
    versions::too_old(reply.daemon(), &serves.min_client)
}

/// Returns what is to be said.
async fn replace(context: &Context<'_>, other: &str) -> Result<Option<String>, CliError> {
    // Somebody else's daemon, as it were.
    if is_grants(&endpoint::socket_path(context)?) {
        return Ok(None);
    }
    let older = format!("occd {other} is older than occ {OWN}");
    let by_hand = format!("{older}. hint: occ daemon restart");
    if autostart::is_forbidden() {
        return Ok(Some(by_hand));
    }
    // The one that would be started may be an old one, too: to replace one by the other would not end.
    let program = match autostart::units(context).await {
        Some(units) if units.installed => units.program.map(PathBuf::into_os_string),
        // The next one would have other hosts.
        _ if locks::holder_of_another_home(&endpoint::socket_path(context)?).is_some() => {
            return Ok(Some(by_hand));
        }
        _ => Some(autostart::occd_program()),
    };
    let next = match program {
        Some(program) => version_of(&program).await,
        None => None,
    };
    if next.as_deref() != Some(OWN) {
        let next = next.unwrap_or_else(|| "not to be found".to_owned());
        return Ok(Some(format!(
            "{older}, and the one that would be started is {next}. \
             hint: install occd {OWN} beside occ, then occ daemon restart"
        )));
    }
    // Nobody starts another one in between, in another place.
    let turn = locks::turn(context.ui).await?;
    let socket = endpoint::socket_path(context)?;
    let Some(pid) = locks::holder(&socket) else { return Ok(None) };
    let asked = async {
        let client = Client::open(context, Start::Never).await?;
        let path = format!("/v1/hand-over?version={}", segment(other));
        client.request(Method::POST, &path, None::<&()>, None).await
    };
    let answer: HandOver = match asked.await {
        // The next one already: another client has had it replaced.
        Ok(reply) if reply.daemon() == OWN => return Ok(None),
        Ok(reply) => reply.parse()?,
        // It ends already: another client has had it replaced.
        Err(error) if [ABSENT, DAEMON_UNREACHABLE].contains(&error.code.as_str()) => {
            return Ok(None);
        }
        // It does not know how.
        Err(_) => return Ok(Some(by_hand)),
    };
    if !answer.ending {
        return Ok(Some(format!(
            "{older} and at work: it is replaced when that has ended. hint: occ daemon restart"
        )));
    }
    daemon::gone(pid, &socket).await?;
    daemon::start_at(context, &socket, &turn).await?;
    Ok(Some(format!("occd {other} was older than occ {OWN}: started anew.")))
}

/// Returns the version that a daemon's program says.
async fn version_of(program: &OsString) -> Option<String> {
    let mut command = Program::new(program);
    command.arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(SAYS, command.output()).await.ok()?.ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.strip_prefix("occd ")?.trim().to_owned())
}

/// Returns whether a version comes before another. One that cannot be read does not.
fn is_older(version: &str, than: &str) -> bool {
    let numbers = |text: &str| -> Option<[u64; 3]> {
        let text = text.split(['-', '+']).next()?;
        let numbers: Result<Vec<u64>, _> = text.split('.').map(str::parse).collect();
        numbers.ok()?.try_into().ok()
    };
    numbers(version).zip(numbers(than)).is_some_and(|(version, than)| version < than)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        for (version, than, older) in [
            ("0.1.0", "0.2.0", true),
            ("0.9.0", "0.10.0", true),
            ("1.0.0", "0.10.0", false),
            ("0.1.0", "0.1.0", false),
            ("0.1.0-rc.1", "0.1.1", true),
            ("of an unknown version", "0.1.0", false),
            ("1.0", "2.0.0", false),
        ] {
            assert_eq!(is_older(version, than), older, "{version} {than}");
        }
    }
}
