//! [`SystemdRig`]: a real `systemd --user` for the home of a [`DaemonRig`], where no systemd is init.
//!
//! systemd refuses to be a user's manager on a machine that was not booted with it, which it tells by the
//! directory `/run/systemd/system`, and it wants a control group of its own. The rig gives it both: the
//! directory in a mount namespace, so that nothing else sees it, and a group that is removed at the end.
//! It needs root.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::DaemonRig;
use crate::daemon::Output;
use crate::proc::{Process, Signal};
use crate::require::{find_program, is_root, require};
use crate::wait::blocking;

/// How long the manager may take to be ready, and to end.
const LIMIT: Duration = Duration::from_secs(30);
/// Where the hierarchies are that systemd keeps its groups in: of version 1, hybrid, and 2 alone.
const HIERARCHIES: [&str; 3] =
    ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
/// Enters the groups given as arguments, then becomes the manager. What starts it becomes its init.
const START: &str = r#"
set -e
for group; do echo $$ > "$group/cgroup.procs"; done
mount -t tmpfs tmpfs /run/systemd
mkdir /run/systemd/system
exec "$SYSTEMD" --user --unit=basic.target
"#;

/// A user's manager. Dropping it ends it with all its units.
#[derive(Debug)]
pub struct SystemdRig {
    manager: Child,
    groups: Vec<PathBuf>,
    /// The variables of the rig whose home it serves.
    variables: Vec<(std::ffi::OsString, std::ffi::OsString)>,
}

impl SystemdRig {
    /// Returns why a manager cannot be run here, if it cannot.
    pub fn availability() -> Result<(), String> {
        for program in ["systemctl", "unshare", "mount"] {
            find_program(program)?;
        }
        if !Path::new(SYSTEMD).is_file() {
            return Err(format!("{SYSTEMD} is not installed"));
        }
        if !is_root() {
            return Err("only root can give it a mount namespace".into());
        }
        (!hierarchies().is_empty())
            .then_some(())
            .ok_or_else(|| "there are no control groups".into())
    }

    /// Returns whether a test with systemd may run; says so in its output when not.
    ///
    /// # Panics
    /// When it cannot be run and `OCC_REQUIRE_SYSTEMD=1`.
    pub fn require() -> bool {
        require("systemd", Self::availability(), "OCC_REQUIRE_SYSTEMD")
    }

    /// Starts a manager for the rig's home and waits until it answers.
    pub fn start(rig: &DaemonRig) -> Self {
        let name = format!("occ-test-{}", rig.root().file_name().unwrap().display());
        let groups: Vec<PathBuf> = hierarchies().iter().map(|top| top.join(&name)).collect();
        for group in &groups {
            std::fs::create_dir(group).unwrap_or_else(|e| panic!("{}: {e}", group.display()));
        }
        let occ = rig.occ(&[]);
        let set = |(name, value): (&std::ffi::OsStr, Option<&std::ffi::OsStr>)| {
            Some((name.to_owned(), value?.to_owned()))
        };
        let variables: Vec<_> = occ.get_envs().filter_map(set).collect();
        let log = || File::create(rig.root().join("systemd.log")).unwrap();
        // /run may be empty where no systemd ever ran.
        std::fs::create_dir_all("/run/systemd").unwrap();
        let manager = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", START, "sh"])
            .args(&groups)
            .env_clear()
            .envs(variables.clone())
            .env("SYSTEMD", SYSTEMD)
            // Units of this machine's users are none of a test's.
            .env("SYSTEMD_UNIT_PATH", format!("{}:/usr/lib/systemd/user", units_of(rig).display()))
            .env("SYSTEMD_LOG_TARGET", "console")
            .stdin(Stdio::null())
            .stdout(log())
            .stderr(log())
            .spawn()
            .unwrap();
        let systemd = Self { manager, groups, variables };
        let ready = blocking::try_wait_for(LIMIT, || {
            let state = systemd.systemctl(&["is-active", "basic.target"]).stdout;
            (state.trim() == "active").then_some(())
        });
        let log = || std::fs::read_to_string(rig.root().join("systemd.log")).unwrap_or_default();
        assert!(ready.is_some(), "systemd is not ready within {LIMIT:?}:\n{}", log());
        systemd
    }

    /// Runs `systemctl --user` to its end.
    pub fn systemctl(&self, args: &[&str]) -> Output {
        let output = Command::new("systemctl")
            .arg("--user")
            .args(args)
            .env_clear()
            .envs(self.variables.clone())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Output {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Returns a property of a unit, such as `MainPID`.
    pub fn show(&self, unit: &str, property: &str) -> String {
        let output = self.systemctl(&["show", "--value", "--property", property, unit]);
        output.stdout.trim().to_owned()
    }
}

/// systemd's program, which is in nobody's PATH.
const SYSTEMD: &str = "/usr/lib/systemd/systemd";

/// Returns where a rig's units are put.
pub fn units_of(rig: &DaemonRig) -> PathBuf {
    rig.root().join("config/systemd/user")
}

fn hierarchies() -> Vec<PathBuf> {
    let all = HIERARCHIES.iter().map(PathBuf::from);
    all.filter(|top| top.join("cgroup.procs").is_file()).collect()
}

impl Drop for SystemdRig {
    fn drop(&mut self) {
        if let Some(manager) = Process::find(self.manager.id()) {
            // systemd(1): a user's manager stops its units and exits.
            manager.signal(Signal::TERM);
            let ended = blocking::try_wait_for(LIMIT, || self.manager.try_wait().unwrap());
            if ended.is_none() {
                let below = manager.descendants();
                below.into_iter().chain([manager]).for_each(|p| p.signal(Signal::KILL));
                let _ = self.manager.wait();
            }
        }
        for group in &self.groups {
            remove(group);
        }
    }
}

/// Removes a control group and those below it. One that a process has not left yet stays, empty soon.
fn remove(group: &Path) {
    let below = std::fs::read_dir(group).into_iter().flatten().flatten();
    for entry in below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove(&entry.path());
    }
    let _ = std::fs::remove_dir(group);
}
