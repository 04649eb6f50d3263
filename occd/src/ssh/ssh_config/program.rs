//! A running `ssh -G`: its output, bounded, and its end, certain.

use std::io;
use std::time::Duration;

use occ_proto::text::sanitize;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Child;

use super::SshConfigError;

/// The most that is read of its answer, which has some 6 KB.
const MAX_OUTPUT: u64 = 1024 * 1024;
/// The most that is read of its complaints, and how many characters of them are kept.
const MAX_STDERR: u64 = 16 * 1024;
pub(super) const SHOWN_STDERR: usize = 300;

/// A running `ssh -G` and whatever it has started. Dropping it ends them all.
pub(super) struct Group(pub(super) Child);

impl Group {
    pub(super) async fn output(&mut self) -> Result<Vec<u8>, SshConfigError> {
        let (Some(stdout), Some(stderr)) = (self.0.stdout.take(), self.0.stderr.take()) else {
            return Err(SshConfigError::Spawn(io::Error::other("its output is not connected")));
        };
        let (output, complaint) = tokio::try_join!(read_output(stdout), read_complaint(stderr))?;
        let status = self.0.wait().await.map_err(SshConfigError::Read)?;
        if !status.success() {
            let text = sanitize(String::from_utf8_lossy(&complaint).trim());
            let stderr = text.chars().take(SHOWN_STDERR).collect();
            return Err(SshConfigError::Failed { status, stderr });
        }
        Ok(output)
    }

    /// Ends the group and waits for ssh itself, so that not even a dead process is left.
    pub(super) async fn end(&mut self) {
        self.kill();
        let reaped = tokio::time::timeout(Duration::from_secs(1), self.0.wait()).await;
        if !matches!(reaped, Ok(Ok(_))) {
            tracing::warn!("a killed ssh -G has not ended");
        }
    }

    fn kill(&self) {
        // The id is gone once ssh was waited for: its number may belong to another process by then.
        let pid = self.0.id().and_then(|id| rustix::process::Pid::from_raw(id.try_into().ok()?));
        let Some(pid) = pid else { return };
        if let Err(error) = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL)
        {
            tracing::debug!(%error, "ending ssh -G");
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn read_output(stdout: impl AsyncRead + Unpin) -> Result<Vec<u8>, SshConfigError> {
    let mut output = Vec::new();
    let mut limited = stdout.take(MAX_OUTPUT + 1);
    limited.read_to_end(&mut output).await.map_err(SshConfigError::Read)?;
    if output.len() as u64 > MAX_OUTPUT { Err(SshConfigError::TooLong) } else { Ok(output) }
}

async fn read_complaint(stderr: impl AsyncRead + Unpin) -> Result<Vec<u8>, SshConfigError> {
    let mut complaint = Vec::new();
    let mut limited = stderr.take(MAX_STDERR);
    limited.read_to_end(&mut complaint).await.map_err(SshConfigError::Read)?;
    // The rest is read as well, or ssh would wait for room in the pipe.
    let mut rest = limited.into_inner();
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await.map_err(SshConfigError::Read)?;
    Ok(complaint)
}
