//! Signals for programs on servers that refuse them.
//!
//! OpenSSH passes signals on only from its unprivileged half, and a login as root has none ("session
//! signalling requires privilege separation"). There a command is started with a marker in its environment,
//! which all its descendants inherit, and a second command finds those by it that lead a process group and
//! signals the groups, as the server would. Linux alone shows environments in /proc; elsewhere nothing is
//! found, and the answer says that the program may still run.

use std::sync::Arc;
use std::time::Duration;

use russh::Sig;
use tokio::time::timeout;

use super::connection::Connection;
use super::{Channel, signal};

/// The variable that carries the marker.
pub const VARIABLE: &str = "OCC_EXEC_ID";
/// How long the second command may take. It reads one small file per process of the host.
const LIMIT: Duration = Duration::from_secs(10);

/// Returns a marker for a command on this connection, if its server refuses signals.
pub fn for_command(connection: &Connection) -> Option<String> {
    connection.refuses_signals().then(|| format!("{:032x}", fastrand::u128(..)))
}

/// Sends a signal to the process groups of a marked command. A process that leads none is in one of them, and
/// `kill` finds no group of its number.
pub(super) async fn send(connection: &Arc<Connection>, marker: &str, signal: &Sig) {
    let script = format!(
        "exec sh -c 'for f in $(grep -laF {VARIABLE}={marker} /proc/[0-9]*/environ 2>/dev/null); do \
         f=${{f#/proc/}}; kill -{} -${{f%/environ}} 2>/dev/null; done'",
        signal::name(signal)
    );
    let run = async {
        let (channel, _): (Channel, bool) = connection.session(false).await.ok()?;
        channel.request_exec(script.as_bytes()).await.ok()?;
        channel.accepted().await.ok()?;
        channel.exited().await;
        Some(())
    };
    if timeout(LIMIT, run).await.ok().flatten().is_none() {
        tracing::debug!("a command could not be signalled by its marker");
    }
}
