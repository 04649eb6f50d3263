//! What is in the file of passwords, but for the passwords: so that nobody is asked to open it for what is not
//! there. It is beside that file, and counts only for the very file that it was written for.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use occ_proto::HostName;
use serde::{Deserialize, Serialize};

use super::Account;
use super::file::write;

/// For each host the host key of each login that a password is kept for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Index {
    /// SHA-256 of the file of passwords.
    sealed: String,
    hosts: BTreeMap<HostName, BTreeMap<String, String>>,
}

impl Index {
    /// Returns the index of a file with that content.
    pub(super) fn new(sealed: &[u8], hosts: BTreeMap<HostName, BTreeMap<String, String>>) -> Self {
        Self { sealed: digest(sealed), hosts }
    }

    /// Returns the index of a file of passwords: an empty one where there is no such file, nothing where the file
    /// has to be opened to know.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let sealed = match std::fs::read(path) {
            Ok(sealed) => sealed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Some(Self::default()),
            // Opening it says why.
            Err(_) => return None,
        };
        Self::beside(path).filter(|index| index.sealed == digest(&sealed))
    }

    /// Returns whether there is one that was written for a file with other content.
    pub(super) fn is_of_another(path: &Path) -> bool {
        let Ok(sealed) = std::fs::read(path) else { return false };
        Self::beside(path).is_some_and(|index| index.sealed != digest(&sealed))
    }

    fn beside(path: &Path) -> Option<Self> {
        let text = std::fs::read(beside(path)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Writes it beside the file of passwords.
    pub(super) fn save(&self, path: &Path) -> io::Result<()> {
        write(&beside(path), &serde_json::to_vec(self)?).map(drop)
    }

    /// Removes the one beside a file of passwords.
    pub(super) fn remove(path: &Path) -> io::Result<()> {
        match std::fs::remove_file(beside(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    /// Returns whether a password is kept for an account.
    pub(super) fn has(&self, account: &Account) -> bool {
        let of_host = self.hosts.get(&account.host);
        of_host.and_then(|logins| logins.get(&account.login)) == Some(&account.host_key)
    }

    /// Returns how many passwords are kept for a host.
    pub(super) fn count(&self, host: &HostName) -> usize {
        self.hosts.get(host).map_or(0, BTreeMap::len)
    }

    /// Returns whether all are a host's.
    pub(super) fn is_all_of(&self, host: &HostName) -> bool {
        self.hosts.keys().eq([host])
    }
}

fn beside(path: &Path) -> PathBuf {
    path.with_extension("index")
}

fn digest(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
