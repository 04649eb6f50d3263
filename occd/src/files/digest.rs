//! What a file's bytes are, without reading them over the link where the host has a program for that.

use std::time::Duration;

use occ_proto::exec::STDOUT;
use tokio::time::timeout;

use super::script::Script;
use super::{Download, FileError, FileSystem, upload};
use crate::exec::{Executor, Step};
use crate::prompts::Client;

/// GNU and busybox, BSD and macOS, and what is nearly everywhere.
const SCRIPT: &str = "say begun; head -c \"$2\" <\"$1\" | { sha256sum || shasum -a 256 || openssl dgst -r -sha256; } 2>/dev/null";
/// How long a host may take to read its own disk.
const LIMIT: Duration = Duration::from_secs(600);

/// Returns the SHA-256 of the beginning of a file in hexadecimal digits, and of how many bytes it is.
pub async fn digest_of(
    fs: &FileSystem,
    executor: &Executor,
    path: &[u8],
    length: Option<u64>,
    client: &Client,
) -> Result<(String, u64), FileError> {
    let mut download = Download::open(fs, path).await?;
    let size = download.attrs().size;
    let length = length.map_or(size, |length| length.min(size));
    if !matches!(fs, FileSystem::Local(_))
        && let Ok(Some(digest)) = timeout(LIMIT, there(executor, path, length, client)).await
    {
        return Ok((digest, length));
    }
    download.set_range(0, length).await?;
    Ok((upload::digest(&mut download).await?, length))
}

/// Returns what the host's own program says; nothing where it has none.
async fn there(executor: &Executor, path: &[u8], length: u64, client: &Client) -> Option<String> {
    let args = [path.to_vec().into(), length.to_string().as_str().into()];
    let mut script = Script::begin(executor, SCRIPT, args, client).await.ok()?;
    let mut said = script.output.to_vec();
    loop {
        match script.running.next().await {
            Step::Output(frame) if frame.stream() == STDOUT && said.len() < 256 => {
                said.extend_from_slice(&frame.data());
            }
            Step::Output(_) => {}
            Step::Ended(Ok(exit)) if exit.status() == 0 => break,
            Step::Ended(_) => return None,
        }
    }
    let digits: String =
        said.iter().take_while(|byte| byte.is_ascii_hexdigit()).map(|b| char::from(*b)).collect();
    (digits.len() == 64).then(|| digits.to_ascii_lowercase())
}
