//! [`Keyring`]: GNOME's keyring on a D-Bus session of its own, unlocked.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::DaemonRig;
use crate::bus::Bus;
use crate::require::{find_program, require};
use crate::wait::blocking::wait_for;

/// How long the bus and the keyring may take to start.
const DEADLINE: Duration = Duration::from_secs(20);

/// A real Secret Service for one test. Dropping it ends it.
#[derive(Debug)]
pub struct Keyring {
    bus: Bus,
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
        let bus = Bus::new();
        fs::DirBuilder::new().mode(0o700).create(bus.path("run")).unwrap();
        let mut daemon = Self::in_session(&bus, "gnome-keyring-daemon")
            .args(["--foreground", "--unlock", "--components=secrets"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        daemon.stdin.take().unwrap().write_all(b"the keyring's own").unwrap();
        let keyring = Self { bus, daemon };
        wait_for("the keyring to answer", DEADLINE, || {
            keyring.store("probe", "-", "-", "x").then_some(())
        });
        rig.set_env("DBUS_SESSION_BUS_ADDRESS", keyring.bus.address());
        keyring
    }

    fn in_session(bus: &Bus, program: &str) -> Command {
        let mut command = Command::new(find_program(program).unwrap());
        command.env("DBUS_SESSION_BUS_ADDRESS", bus.address());
        command.env("HOME", bus.path("")).env("XDG_RUNTIME_DIR", bus.path("run"));
        command.env_remove("XDG_DATA_HOME").env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY");
        command
    }

    /// Puts a password in, as the one of a login at a host whose server has that key.
    pub fn store(&self, host: &str, login: &str, host_key: &str, password: &str) -> bool {
        let attributes = ["application", "occ", "host", host, "login", login, "host_key", host_key];
        let mut child = Self::in_session(&self.bus, "secret-tool")
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
        let mut command = Self::in_session(&self.bus, "secret-tool");
        let output = command.args(["lookup", "application", "occ", "host", host]).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// Locks it, as the desktop does when its user leaves.
    pub fn lock(&self) {
        let status = Self::in_session(&self.bus, "dbus-send")
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
        let _ = (self.daemon.kill(), self.daemon.wait());
    }
}
