//! Whether a daemon could start as things are, which its own program knows best.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use occ_proto::text::sanitize;
use tokio::process::Command;

use crate::autostart::{INSTALL, SHOWS, is_named, occd_program, units};
use crate::commands::Context;
use crate::hint::cure;

/// How long the program may take to say it.
const CHECK: Duration = Duration::from_secs(10);

/// Returns the command by which the daemon's program says whether it could start as things are.
pub(crate) fn occd_check() -> Command {
    let mut check = Command::new(occd_program());
    check.arg("--check").stdin(Stdio::null()).kill_on_drop(true);
    check
}

/// Returns the same for a start on that socket, as it would be made.
async fn start_check(context: &Context<'_>, socket: &Path) -> Command {
    let mut check = occd_check();
    check.arg("--socket").arg(socket);
    // systemd's logs to the journal.
    if !units(context).await.is_some_and(|units| units.installed) {
        check.arg("--daemonize");
    }
    check
}

/// Has the daemon's program say it.
///
/// # Errors
/// When it cannot be run, or says nothing in time.
pub(crate) async fn checked(mut check: Command) -> io::Result<Output> {
    tokio::time::timeout(CHECK, check.output()).await.unwrap_or_else(|_| {
        let text = format!("no answer within {} s", CHECK.as_secs());
        Err(io::Error::new(io::ErrorKind::TimedOut, text))
    })
}

/// Returns whether a program calls itself occd.
async fn is_occd(program: &OsStr) -> bool {
    let mut version = Command::new(program);
    version.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    checked(version).await.is_ok_and(|output| output.stdout.starts_with(b"occd "))
}

/// Returns why a daemon would not start as things are, and what to do: occd itself knows best. `then` starts it.
pub(crate) async fn cannot_start(
    context: &Context<'_>,
    socket: &Path,
    then: &str,
) -> Option<(String, String)> {
    let program = occd_program();
    let named = program.to_string_lossy();
    let named = match is_named() {
        true => format!("OCCD_BIN, {}", sanitize(&named)),
        false => sanitize(&named),
    };
    let (why, is_occd) = match checked(start_check(context, socket).await).await {
        // Whatever else it is, it would say that it goes well.
        Ok(output) if output.status.success() => match is_occd(&program).await {
            true => return None,
            false => (format!("{named} is no occd"), false),
        },
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            match said.lines().next().map(sanitize) {
                Some(said) if is_named() => (format!("{said} (says {named})"), true),
                Some(said) => (said, true),
                None => (format!("{named} says nothing ({})", output.status), false),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            return Some((format!("{named}: {error}"), SHOWS.to_owned()));
        }
        Err(error) => (format!("{named}: {error}"), false),
    };
    let hint = match (is_occd, is_named()) {
        (false, true) => "unset OCCD_BIN, or have it name an occd".to_owned(),
        (false, false) => INSTALL.to_owned(),
        _ => cure(&why, then).unwrap_or_else(|| format!("mend that, then: {then}")),
    };
    Some((why, hint))
}
