//! A look at a host: a command of ours whose output is small, and without which we can do.

use std::sync::Arc;
use std::time::Duration;

use occ_proto::exec::{ExecRequest, STDOUT};
use tokio::time::timeout;

use super::start::{start_local, start_over};
use super::{Command, ExecError, Local, Progress, Running, Step, start};
use crate::host::{HostHandle, Tries};
use crate::prompts::Client;
use crate::ssh::{Connection, Preamble, SAY};

/// How long a look may take.
const LOOK: Duration = Duration::from_secs(10);
/// What it may say, in bytes.
const SAID: usize = 64 * 1024;

/// Runs a command on a host and returns what it says; nothing where it does not run, fails or takes long.
pub async fn look(host: &HostHandle, argv: &[&str]) -> Option<Vec<u8>> {
    let (tries, client, progress) = (Tries::default(), Client::default(), Progress::default());
    said(argv, async |command| start(host, &command, tries, &client, &progress).await).await
}

/// The same over a connection that is there, where it has room at this moment: that is no use of the host, and no other
/// connection is made. Where the server runs a command of its own instead, there is nothing to look at.
pub async fn look_over(
    host: &HostHandle,
    connection: &Arc<Connection>,
    argv: &[&str],
) -> Option<Vec<u8>> {
    if connection.is_forced() {
        return None;
    }
    said(argv, async |command| start_over(host, connection, &command).await).await
}

/// The same on this machine.
pub async fn look_here(local: &Arc<Local>, argv: &[&str]) -> Option<Vec<u8>> {
    said(argv, async |command| start_local(local, &command, &Progress::default()).await).await
}

async fn said(
    argv: &[&str],
    start: impl AsyncFnOnce(Command) -> Result<Running, ExecError>,
) -> Option<Vec<u8>> {
    let script = [SAY, "say look; exec \"$@\""].concat();
    let first = ["sh", "-c", &script, "sh"];
    let argv = first.iter().chain(argv).map(|word| (*word).into()).collect();
    let request = ExecRequest { argv, ..ExecRequest::default() };
    let command = Command::new(request).ok()?;
    timeout(LOOK, async { read(start(command).await.ok()?).await }).await.ok()?
}

async fn read(mut running: Running) -> Option<Vec<u8>> {
    // Whether it reads its input or not.
    let _ = running.control().close_input().await;
    let (mut preamble, mut said) = (Preamble::default(), Vec::new());
    loop {
        match running.next().await {
            Step::Output(frame) if frame.stream() == STDOUT && said.len() < SAID => {
                said.extend_from_slice(&preamble.pass(frame.data()).ok()?.unwrap_or_default());
            }
            Step::Output(_) => {}
            Step::Ended(Ok(exit)) if exit.code == Some(0) && preamble.is_over() => {
                return Some(said);
            }
            Step::Ended(_) => return None,
        }
    }
}
