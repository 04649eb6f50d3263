//! Commands of the opencode-cloud tool that are not here: recognised, and answered with a sentence.

use crate::cli::Command;
use crate::error::CliError;

/// Returns the answer to a command that this version does not have.
pub(crate) fn refuse(command: &Command) -> CliError {
    let sandbox = |name: &str, docker: &str| {
        CliError::unsupported(format!(
            "occ {name} is a command of opencode-cloud that this version does not have yet."
        ))
        .hint(format!("occ exec --host NAME -- docker {docker}"))
    };
    let other = |name: &str, instead: &str| {
        CliError::unsupported(format!(
            "occ {name} is a command of opencode-cloud that this program does not have."
        ))
        .hint(instead)
    };
    match command {
        Command::Start(_) => sandbox("start", "start opencode-cloud-sandbox"),
        Command::Stop(_) => sandbox("stop", "stop opencode-cloud-sandbox"),
        Command::Restart(_) => sandbox("restart", "restart opencode-cloud-sandbox"),
        Command::Logs(_) => sandbox("logs", "logs -n 50 opencode-cloud-sandbox"),
        Command::Update(_) => sandbox("update", "pull ghcr.io/prizz/opencode-cloud-sandbox:latest"),
        Command::Cockpit(_) => sandbox("cockpit", "port opencode-cloud-sandbox"),
        Command::Config(_) => {
            other("config", "opencode-cloud config; occ's own settings are in occd.toml")
        }
        Command::User(_) => other("user", "opencode-cloud user"),
        Command::Mount(_) => other("mount", "opencode-cloud mount"),
        Command::Reset(_) => other("reset", "opencode-cloud reset"),
        Command::Install(_) => {
            other("install", "occ starts occd by itself; occ daemon start does it now")
        }
        Command::Uninstall(_) => other("uninstall", "occ daemon stop"),
        _ => other("setup", "occ host add NAME USER@ADDRESS"),
    }
}
