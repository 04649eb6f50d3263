//! [`Registry`]: a private image registry on a loopback port. Engines take it as it is: what is on loopback needs no
//! certificate.

use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::ports::free_port;
use crate::proc::{Process, Signal};
use crate::require::{find_program, require};
use crate::wait::blocking;

/// How long it may take to listen.
const START: Duration = Duration::from_secs(20);

/// A running docker-registry. Dropping it ends it.
#[derive(Debug)]
pub struct Registry {
    _root: TempDir,
    child: Child,
    port: u16,
}

impl Registry {
    /// Returns whether a test with a registry may run; says so in its output when not.
    ///
    /// # Panics
    /// When there is none and `OCC_REQUIRE_DOCKER=1`.
    pub fn require() -> bool {
        let found = find_program("docker-registry").map(drop);
        require("a Docker registry", found, "OCC_REQUIRE_DOCKER")
    }

    /// Starts one and waits until it listens.
    pub fn start() -> Self {
        let root = tempfile::Builder::new().prefix("occ-registry-").tempdir_in("/tmp").unwrap();
        let port = free_port();
        let config = root.path().join("config.yml");
        let data = root.path().join("data");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: 127.0.0.1:{port}\n",
            data.display()
        );
        std::fs::write(&config, text).unwrap();
        let child = Command::new(find_program("docker-registry").unwrap())
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        blocking::wait_for("the registry to listen", START, || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok().map(drop)
        });
        Self { _root: root, child, port }
    }

    /// Returns what an image's name begins with there: `127.0.0.1:PORT`.
    pub fn name(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Returns its port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Some(process) = Process::find(self.child.id()) {
            process.signal(Signal::KILL);
        }
        let _ = self.child.wait();
    }
}
