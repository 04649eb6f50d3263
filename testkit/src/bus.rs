//! [`Bus`]: a D-Bus session of its own.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::require::find_program;
use crate::wait::blocking::wait_for;

/// How long the bus may take to start.
const DEADLINE: Duration = Duration::from_secs(20);

/// A real session bus for one test. Dropping it ends it.
#[derive(Debug)]
pub struct Bus {
    dir: TempDir,
    child: Child,
}

impl Bus {
    /// Starts one.
    #[expect(clippy::new_without_default, reason = "it starts a program")]
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("occ-bus-").tempdir_in("/tmp").unwrap();
        let socket = dir.path().join("bus");
        let config = dir.path().join("bus.conf");
        // Without the system's files of services, so that nothing is started by a name on the bus.
        let text = format!(
            "<busconfig><type>session</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>\
             <policy context=\"default\"><allow send_destination=\"*\"/>\
             <allow receive_sender=\"*\"/><allow own=\"*\"/></policy></busconfig>",
            socket.display()
        );
        fs::write(&config, text).unwrap();
        let child = Command::new(find_program("dbus-daemon").unwrap())
            .arg(format!("--config-file={}", config.display()))
            .arg("--nofork")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for("the bus to listen", DEADLINE, || socket.exists().then_some(()));
        Self { dir, child }
    }

    /// Returns its address, as `DBUS_SESSION_BUS_ADDRESS` has it.
    pub fn address(&self) -> String {
        format!("unix:path={}", self.path("bus").display())
    }

    /// Returns a path in a directory of its own.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = (self.child.kill(), self.child.wait());
    }
}
