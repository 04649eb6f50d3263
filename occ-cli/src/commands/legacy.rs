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
        "install" => {
            "occ daemon install has systemd or launchd run occd; without it occ starts occd by itself"
        }
        "uninstall" => "occ daemon uninstall",
        _ => return None,
    };
    let message =
        format!("occ {name} is a command of opencode-cloud that this program does not have.");
    Some(CliError::unsupported(message).hint(instead))
}

/// Returns the answer to an option that this program does not have; `None` for one that never was.
pub(crate) fn refuse_option(option: &str) -> Option<CliError> {
    let (why, instead) = match option {
        "--sandbox-instance" => return Some(no_instances("--sandbox-instance")),
        "--runtime" => (
            "occ always works on Docker from outside: it does not run inside the sandbox",
            "--host NAME or --local says where",
        ),
        "--broker" => (
            "occ shows the container's own log alone",
            "occ docker --host NAME -- exec opencode-cloud-sandbox journalctl -u opencode-broker",
        ),
        "--branch" | "--commit" => {
            ("occ does not build opencode inside the sandbox: its images bring it", "occ update")
        }
        _ => return None,
    };
    Some(CliError::unsupported(format!("{option}: {why}.")).hint(instead))
}

/// Returns the answer to a named sandbox beside the one, which `by` asks for.
pub(crate) fn no_instances(by: &str) -> CliError {
    CliError::unsupported(format!("{by}: occ has one sandbox on each host, without a name."))
        .hint("occ without it; opencode-cloud manages the others")
}

/// Refuses the variable that names a sandbox beside the one: the wrong one would be worked on.
pub(crate) fn refuse_instance_of_environment() -> Result<(), CliError> {
    const VARIABLE: &str = "OPENCODE_SANDBOX_INSTANCE";
    match std::env::var_os(VARIABLE).filter(|name| !name.is_empty() && name != "auto") {
        Some(_) => Err(no_instances(VARIABLE)),
        None => Ok(()),
    }
}
