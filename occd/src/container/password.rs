//! The password with which a new sandbox is logged in to for the first time: asked of the sandbox's own helper, and
//! kept nowhere.

use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, StartExecResults};
use futures_util::StreamExt as _;
use occ_proto::Secret;
use occ_proto::container::SANDBOX_CONTAINER;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{Docker, SandboxError, sandbox};

/// The helper, in the existing tool's image.
const HELPER: &str = "/usr/local/bin/opencode-cloud-bootstrap";
/// What it may say, in bytes.
const SAID: usize = 64 * 1024;

/// What the helper says.
#[derive(Deserialize)]
struct Said {
    #[serde(default)]
    ok: bool,
    #[serde(default)]
    active: bool,
    otp: Option<Secret>,
}

/// Returns the password, as long as nobody has used it. An image without the helper has none.
///
/// # Errors
/// When there is no sandbox, or it is somebody else's, or Docker cannot be asked.
pub async fn one_time_password(docker: &Docker) -> Result<Option<Secret>, SandboxError> {
    sandbox::ours(docker).await?;
    let client = docker.client();
    let options = CreateExecOptions {
        cmd: Some(vec![HELPER, "status", "--include-secret"]),
        attach_stdout: Some(true),
        // What goes wrong in there may name the secret.
        attach_stderr: Some(false),
        ..CreateExecOptions::default()
    };
    let exec = match client.create_exec(SANDBOX_CONTAINER, options).await {
        Ok(exec) => exec,
        Err(error) => {
            let error = SandboxError::from(error);
            // It does not run.
            return if error.refusal().is_some_and(|(s, _)| s == 409) {
                Ok(None)
            } else {
                Err(error)
            };
        }
    };
    let started = client.start_exec(&exec.id, None).await;
    let mut output = match started.map_err(SandboxError::from) {
        Ok(StartExecResults::Attached { output, .. }) => output,
        Ok(StartExecResults::Detached) => return Ok(None),
        // Older engines say so that there is no such program.
        Err(error) if error.refusal().is_some() => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Zeroizing::new(Vec::with_capacity(SAID));
    while let Some(part) = output.next().await {
        if let LogOutput::StdOut { message } = part?
            && text.len() + message.len() <= SAID
        {
            text.extend_from_slice(&message);
        }
    }
    Ok(read(&text))
}

/// Reads what the helper says: its last line is JSON.
fn read(text: &[u8]) -> Option<Secret> {
    let line =
        text.split(|byte| *byte == b'\n').rev().find(|line| !line.trim_ascii().is_empty())?;
    let said: Said = serde_json::from_slice(line).ok()?;
    said.otp.filter(|otp| said.ok && said.active && !otp.expose().trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_unused_password_is_one() {
        let of = |text: &str| read(text.as_bytes()).map(|secret| secret.expose().to_owned());
        assert_eq!(of("{\"ok\":true,\"active\":true,\"otp\":\"abc\"}\n").as_deref(), Some("abc"));
        assert_eq!(
            of("warning\n{\"ok\":true,\"active\":true,\"otp\":\"abc\"}").as_deref(),
            Some("abc")
        );
        assert_eq!(of("{\"ok\":true,\"active\":false,\"reason\":\"completed\"}"), None);
        assert_eq!(of("{\"ok\":true,\"active\":true,\"otp\":\" \"}"), None);
        for bad in ["", "no such file", "{\"ok\":false}"] {
            assert_eq!(of(bad), None);
        }
    }
}
