//! Starting the daemon through the user's systemd, where its unit is installed there: then it is systemd
//! that restarts it, stops it at logout and keeps its log.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use occ_proto::text::sanitize;
use tokio::process::Command;

/// The unit's name.
pub(crate) const UNIT: &str = "occd.service";

/// How long systemd may take for an answer, or for starting the unit: it gives up by itself before.
const LIMIT: Duration = Duration::from_secs(95);

/// Returns whether the user's systemd runs and knows the unit.
pub(crate) async fn is_installed(runtime_dir: Option<&Path>) -> bool {
    // Where there is no manager, systemctl is not worth its time.
    let Some(dir) = runtime_dir else { return false };
    if !dir.join("systemd/private").exists() {
        return false;
    }
    let loaded = systemctl(&["show", "--value", "--property", "LoadState", UNIT]).await;
    loaded.is_ok_and(|output| output.stdout.trim_ascii() == b"loaded")
}

/// Starts the unit and returns when the daemon accepts clients, or says why it does not.
pub(crate) async fn start() -> Result<(), String> {
    let output = systemctl(&["start", UNIT]).await?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(sanitize(said.lines().next().unwrap_or("systemctl says nothing")))
}

async fn systemctl(args: &[&str]) -> Result<Output, String> {
    let mut command = Command::new("systemctl");
    command.arg("--user").args(args).stdin(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(LIMIT, command.output()).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(error)) => Err(format!("systemctl cannot be run: {error}")),
        Err(_) => Err(format!("systemctl has not answered for {} s", LIMIT.as_secs())),
    }
}
