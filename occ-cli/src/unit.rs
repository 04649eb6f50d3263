//! Starting the daemon through the user's systemd, where its unit is installed there: then it is systemd
//! that restarts it, stops it at logout and keeps its log.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use occ_proto::text::sanitize;
use tokio::process::Command;

/// The unit's name.
pub(crate) const UNIT: &str = "occd.service";
/// The name of the unit of its socket.
pub(crate) const SOCKET: &str = "occd.socket";

/// How long systemd may take for an answer, or for starting the unit: it gives up by itself before.
const LIMIT: Duration = Duration::from_secs(95);

/// What the user's systemd knows of occd.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Units {
    /// The unit is installed.
    pub(crate) installed: bool,
    /// It runs, or starts or stops.
    pub(crate) active: bool,
    /// systemd listens on the socket.
    pub(crate) listens: bool,
    /// The daemon's process, when the unit runs.
    pub(crate) main_pid: Option<i32>,
    /// The program that the unit starts.
    pub(crate) program: Option<PathBuf>,
}

/// Returns what the user's systemd knows of occd; nothing where there is none.
pub(crate) async fn units(runtime_dir: Option<&Path>) -> Option<Units> {
    // Where there is no manager, systemctl is not worth its time.
    if !runtime_dir?.join("systemd/private").exists() {
        return None;
    }
    let shown = ["show", "--property", "Id,LoadState,ActiveState,MainPID,ExecStart", UNIT, SOCKET];
    let output = systemctl(&shown).await.ok().filter(|output| output.status.success())?;
    Some(parse(&String::from_utf8_lossy(&output.stdout)))
}

/// Reads what `systemctl show` prints of both units: lines of properties, and an empty one between the units.
fn parse(text: &str) -> Units {
    let mut units = Units::default();
    for block in text.split("\n\n") {
        let property = |name: &str| {
            block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or("")
        };
        let active = !matches!(property("ActiveState"), "" | "inactive" | "failed");
        match property("Id") {
            UNIT => {
                units.installed = property("LoadState") == "loaded";
                units.active = active;
                units.main_pid = property("MainPID").parse().ok().filter(|pid| *pid > 0);
                // { path=/usr/bin/occd ; argv[]=/usr/bin/occd ; … }
                let path = property("ExecStart").split_once("path=").map(|(_, rest)| rest);
                let path = path.and_then(|rest| rest.split_once(" ; "));
                units.program = path.map(|(path, _)| PathBuf::from(path));
            }
            SOCKET => units.listens = active,
            _ => {}
        }
    }
    units
}

/// Starts the unit and returns when the daemon accepts clients, or says why it does not.
pub(crate) async fn start() -> Result<(), String> {
    tell(&["start", UNIT]).await
}

/// Has systemd do something, or says why it does not.
pub(crate) async fn tell(args: &[&str]) -> Result<(), String> {
    succeeded("systemctl", &systemctl(args).await?)
}

/// Runs a program of the system's to its end, or says why it fails.
pub(crate) async fn run(program: &str, args: &[&OsStr]) -> Result<(), String> {
    succeeded(program, &output(program, args).await?)
}

fn succeeded(program: &str, output: &Output) -> Result<(), String> {
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(said.lines().next().map_or_else(|| format!("{program} says nothing"), sanitize))
}

async fn systemctl(args: &[&str]) -> Result<Output, String> {
    let args: Vec<&OsStr> = ["--user"].iter().chain(args).map(OsStr::new).collect();
    output("systemctl", &args).await
}

async fn output(program: &str, args: &[&OsStr]) -> Result<Output, String> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(LIMIT, command.output()).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(error)) => Err(format!("{program} cannot be run: {error}")),
        Err(_) => Err(format!("{program} has not answered for {} s", LIMIT.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemctl_shows_is_read() {
        let text = "MainPID=12\nExecStart={ path=/a b/occd ; argv[]=/a b/occd ; ignore_errors=no }\n\
                    Id=occd.service\nLoadState=loaded\nActiveState=active\n\n\
                    Id=occd.socket\nLoadState=loaded\nActiveState=active\n";
        let expected = Units {
            installed: true,
            active: true,
            listens: true,
            main_pid: Some(12),
            program: Some("/a b/occd".into()),
        };
        assert_eq!(parse(text), expected);
        let absent = "MainPID=0\nId=occd.service\nLoadState=not-found\nActiveState=inactive\n\n\
                      Id=occd.socket\nLoadState=not-found\nActiveState=inactive\n";
        assert_eq!(parse(absent), Units::default());
    }
}
