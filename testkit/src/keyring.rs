//! [`Keyring`]: GNOME's keyring on a D-Bus session of its own, unlocked.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::DaemonRig;
use crate::require::{find_program, require};
use crate::wait::blocking::wait_for;

/// How long the bus and the keyring may take to start.
const DEADLINE: Duration = Duration::from_secs(20);

/// A real Secret Service for one test. Dropping it ends it.
#[derive(Debug)]
pub struct Keyring {
    dir: TempDir,
    bus: Child,
    daemon: Child,
}

impl Keyring {
    /// Returns whether a test with a keyring may run; says so in its output when not.
    ///
    /// # Panics
    /// When one cannot be started and `OCC_REQUIRE_KEYRING=1`.
    pub fn require() -> bool {
        let programs = ["dbus-daemon", "gnome-keyring-daemon", "secret-tool", "age", "age-keygen"];
        let missing = programs.iter().find_map(|name| find_program(name).err());
        require("a keyring", missing.map_or(Ok(()), Err), "OCC_REQUIRE_KEYRING")
    }

    /// Starts one, and names it to whatever is started in the rig from now on.
    pub fn start(rig: &mut DaemonRig) -> Self {
        let dir = tempfile::Builder::new().prefix("occ-keyring-").tempdir_in("/tmp").unwrap();
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
        fs::DirBuilder::new().mode(0o700).create(dir.path().join("run")).unwrap();
        let bus = Command::new(find_program("dbus-daemon").unwrap())
            .arg(format!("--config-file={}", config.display()))
            .arg("--nofork")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for("the bus to listen", DEADLINE, || socket.exists().then_some(()));
        let mut daemon = Self::in_session(&dir, "gnome-keyring-daemon")
            .args(["--foreground", "--unlock", "--components=secrets"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        daemon.stdin.take().unwrap().write_all(b"the keyring's own").unwrap();
        let keyring = Self { dir, bus, daemon };
        wait_for("the keyring to answer", DEADLINE, || {
            keyring.store("probe", "-", "-", "x").then_some(())
        });
        rig.set_env("DBUS_SESSION_BUS_ADDRESS", keyring.address());
        keyring
    }

    fn address(&self) -> String {
        format!("unix:path={}", self.dir.path().join("bus").display())
    }

    fn in_session(dir: &TempDir, program: &str) -> Command {
        let mut command = Command::new(find_program(program).unwrap());
        let path = |name: &str| -> PathBuf { dir.path().join(name) };
        command.env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={}", path("bus").display()));
        command.env("HOME", dir.path()).env("XDG_RUNTIME_DIR", path("run"));
        command.env_remove("XDG_DATA_HOME").env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY");
        command
    }

    /// Puts a password in, as the one of a login at a host whose server has that key.
    pub fn store(&self, host: &str, login: &str, host_key: &str, password: &str) -> bool {
        let attributes = ["application", "occ", "host", host, "login", login, "host_key", host_key];
        let mut child = Self::in_session(&self.dir, "secret-tool")
            .args(["store", "--label=test"])
            .args(attributes)
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
        child.wait().unwrap().success()
    }

    /// Returns the password that is kept for a host.
    pub fn lookup(&self, host: &str) -> Option<String> {
        let mut command = Self::in_session(&self.dir, "secret-tool");
        let output = command.args(["lookup", "application", "occ", "host", host]).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// Locks it, as the desktop does when its user leaves.
    pub fn lock(&self) {
        let status = Self::in_session(&self.dir, "dbus-send")
            .args(["--session", "--print-reply", "--dest=org.freedesktop.secrets"])
            .args(["/org/freedesktop/secrets", "org.freedesktop.Secret.Service.Lock"])
            .arg("array:objpath:/org/freedesktop/secrets/collection/login")
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "the keyring was not locked");
    }
}

impl Drop for Keyring {
    fn drop(&mut self) {
        for child in [&mut self.daemon, &mut self.bus] {
            let _ = (child.kill(), child.wait());
        }
    }
}
