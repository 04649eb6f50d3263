//! Signals for programs on servers that do not pass them on as they should.
//!
//! OpenSSH passes signals on only from its unprivileged half, and a login as root has none ("session
//! signalling requires privilege separation"). Dropbear signals the program alone, and not what it started.
//! There a command is started with a marker in its environment, which all its descendants inherit, and a
//! second command finds those by it and signals them: the groups of those that lead one, as OpenSSH would, and
//! the others by themselves. Linux alone shows environments in /proc; elsewhere nothing is found, and the
//! answer says that the program may still run.
//!
//! The second command takes a session. Where the connection has none to give (MaxSessions 1, an old Dropbear)
//! it is run on another connection of the host.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use russh::Sig;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::connection::Connection;
use super::{Channel, ChannelError, signal};

/// The variable that carries the marker.
pub const VARIABLE: &str = "OCC_EXEC_ID";
/// How long the second command may take. It reads one small file per process of the host.
const LIMIT: Duration = Duration::from_secs(10);

/// Returns another connection of the host, once this one gives no more sessions.
pub type Elsewhere = Arc<dyn Fn() -> BoxFuture<'static, Option<Arc<Connection>>> + Send + Sync>;

/// What is wrong with a server's way to signal a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SignalFault {
    /// It does not.
    Refused,
    /// It signals the program, and nothing that this has started.
    ProgramAlone,
}

/// How a program is found.
#[derive(Clone)]
pub struct Marker {
    id: String,
    fault: SignalFault,
    elsewhere: Elsewhere,
}

impl std::fmt::Debug for Marker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Marker").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Marker {
    /// Returns a marker for a command on this connection, if its server does not signal as it should.
    pub fn for_command(connection: &Connection, elsewhere: Elsewhere) -> Option<Self> {
        let fault = connection.signal_fault()?;
        Some(Self { id: format!("{:032x}", fastrand::u128(..)), fault, elsewhere })
    }

    /// Returns whether the server, too, is to be asked to send a signal.
    pub(super) fn goes_beside_the_server(&self) -> bool {
        self.fault == SignalFault::ProgramAlone
    }

    /// Returns the value of [`VARIABLE`].
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Sends a signal to what carries the marker. It is sent in any case: whoever waits may leave when the
    /// program itself has ended.
    pub(super) async fn send(&self, connection: &Arc<Connection>, signal: &Sig) {
        let (sent, done) = oneshot::channel();
        let (marker, signal, on) = (self.clone(), signal.clone(), Arc::clone(connection));
        connection.spawn(async move {
            if timeout(LIMIT, marker.run(&on, &signal)).await.ok().flatten().is_none() {
                tracing::debug!("a command could not be signalled by its marker");
            }
            let _ = sent.send(());
        });
        // The task always answers; that it was dropped means that the daemon ends.
        let _ = done.await;
    }

    async fn run(&self, connection: &Arc<Connection>, signal: &Sig) -> Option<()> {
        let script = format!(
            "exec sh -c 'for f in $(grep -laF {VARIABLE}={} /proc/[0-9]*/environ 2>/dev/null); do \
             f=${{f#/proc/}}; p=${{f%/environ}}; \
             kill -{signal} -$p 2>/dev/null || kill -{signal} $p 2>/dev/null; done'",
            self.id,
            signal = signal::name(signal)
        );
        let session = match connection.session(false).await {
            Err(ChannelError::Retired) => (self.elsewhere)().await?.session(false).await,
            session => session,
        };
        let (channel, _): (Channel, bool) = session.ok()?;
        channel.request_exec(script.as_bytes()).await.ok()?;
        channel.accepted().await.ok()?;
        channel.exited().await;
        Some(())
    }
}
