//! A look at a host: a command of ours whose output is small, and without which we can do.

use std::time::Duration;

use occ_proto::exec::{ExecRequest, STDOUT};
use tokio::time::timeout;

use super::{Command, Progress, Step, start};
use crate::host::{HostHandle, Tries};
use crate::prompts::Client;
use crate::ssh::{Preamble, SAY};

/// How long a look may take.
const LOOK: Duration = Duration::from_secs(10);
/// What it may say, in bytes.
const SAID: usize = 64 * 1024;

/// Runs a command on a host and returns what it says; nothing where it does not run, fails or takes long.
pub async fn look(host: &HostHandle, argv: &[&str]) -> Option<Vec<u8>> {
    timeout(LOOK, run(host, argv)).await.ok()?
}

async fn run(host: &HostHandle, argv: &[&str]) -> Option<Vec<u8>> {
    let script = [SAY, "say look; exec \"$@\""].concat();
    let first = ["sh", "-c", &script, "sh"];
    let argv = first.iter().chain(argv).map(|word| (*word).into()).collect();
    let request = ExecRequest { argv, ..ExecRequest::default() };
    let command = Command::new(request).ok()?;
    let (tries, client, progress) = (Tries::default(), Client::default(), Progress::default());
    let mut running = start(host, &command, tries, &client, &progress).await.ok()?;
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
