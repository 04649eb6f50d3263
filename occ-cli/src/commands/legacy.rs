//! Commands of the opencode-cloud tool that are not here: recognised, and answered with a sentence.
//!
//! They are no clap commands, since building thirteen more would cost every run of `occ` its share of
//! a millisecond; they are looked up when clap knows no such command.

use crate::error::CliError;

/// Returns the answer to a command that this version does not have; `None` for a word that was never
/// a command.
pub(crate) fn refuse(name: &str) -> Option<CliError> {
    let instead = match name {
        "config" => "opencode-cloud config; occ's own settings are in occd.toml",
        "user" => "opencode-cloud user",
        "mount" => "opencode-cloud mount",
        "reset" => "opencode-cloud reset",
        "install" => "occ starts occd by itself; occ daemon start does it now",
        "uninstall" => "occ daemon stop",
        "setup" => "occ host add NAME USER@ADDRESS",
        _ => return None,
    };
    let message =
        format!("occ {name} is a command of opencode-cloud that this program does not have.");
    Some(CliError::unsupported(message).hint(instead))
}
