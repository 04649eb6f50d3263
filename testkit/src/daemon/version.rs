//! A daemon of another version.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use super::{DaemonRig, daemon_binary};

/// The version of everything that is built here.
const OWN: &str = env!("CARGO_PKG_VERSION");

impl DaemonRig {
    /// Returns a copy of the daemon's program that says another version, in the directory `other`: the text stands in
    /// the program as it is.
    ///
    /// # Panics
    /// When the version is not as long as that of this workspace.
    pub fn daemon_of_version(&self, version: &str) -> PathBuf {
        assert_eq!(version.len(), OWN.len());
        let mut bytes = std::fs::read(daemon_binary()).unwrap();
        let (own, other) = (OWN.as_bytes(), version.as_bytes());
        let found = bytes.windows(own.len()).enumerate().filter(|(_, window)| *window == own);
        for at in found.map(|(at, _)| at).collect::<Vec<_>>() {
            bytes[at..at + own.len()].copy_from_slice(other);
        }
        let dir = self.root().join("other");
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("occd");
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}
