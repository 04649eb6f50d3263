//! The files that a rig's daemon and clients read: hosts.json, occd.toml, known_hosts.

use std::io::Write as _;

use occ_proto::{Address, HostConfig, HostName, HostsFile, UserName};

use super::*;
use crate::{Dropbear, EmbeddedHost, FaultyLink, RealSshd};

/// A server as hosts.json and known_hosts describe it.
#[derive(Debug, Clone)]
pub struct Target {
    /// The address to dial.
    pub hostname: String,
    /// The port.
    pub port: u16,
    /// The login name.
    pub user: String,
    /// The private key.
    pub key: PathBuf,
    /// Host keys as OpenSSH writes them, for known_hosts.
    pub host_keys: Vec<String>,
}

impl Target {
    /// Returns the same server reached through `link`.
    #[must_use]
    pub fn through(mut self, link: &FaultyLink) -> Self {
        self.hostname = link.addr().ip().to_string();
        self.port = link.port();
        self
    }
}

impl From<&RealSshd> for Target {
    fn from(sshd: &RealSshd) -> Self {
        Self {
            hostname: sshd.addr().ip().to_string(),
            port: sshd.port(),
            user: sshd.user().to_owned(),
            key: sshd.client_key_path().to_owned(),
            host_keys: sshd.host_public_keys().map(str::to_owned).collect(),
        }
    }
}

impl From<&Dropbear> for Target {
    fn from(dropbear: &Dropbear) -> Self {
        Self {
            hostname: dropbear.addr().ip().to_string(),
            port: dropbear.port(),
            user: dropbear.user().to_owned(),
            key: dropbear.client_key_path().to_owned(),
            host_keys: vec![dropbear.host_public_key().to_owned()],
        }
    }
}

impl From<&EmbeddedHost> for Target {
    fn from(host: &EmbeddedHost) -> Self {
        Self {
            hostname: host.addr().ip().to_string(),
            port: host.port(),
            user: host.user().to_owned(),
            key: host.client_key_path(),
            host_keys: vec![host.host_public_key()],
        }
    }
}

impl DaemonRig {
    /// Adds a host to hosts.json and its keys to known_hosts: a server, or one behind a link with
    /// `Target::from(&server).through(&link)`.
    pub fn add_host(&self, name: &str, target: impl Into<Target>) {
        let target = target.into();
        for key in &target.host_keys {
            self.add_known_host(&crate::keys::known_hosts_line(&target.hostname, target.port, key));
        }
        self.add_host_to(name, &target.hostname, target.port, &target.user, &target.key);
    }

    /// Adds a host to hosts.json; known_hosts stays as it is.
    pub fn add_host_to(&self, name: &str, hostname: &str, port: u16, user: &str, key: &Path) {
        let mut config = HostConfig::new(Address::new(hostname).unwrap());
        config.port = Some(port);
        config.user = Some(UserName::new(user).unwrap());
        config.identity_file = Some(key.display().to_string());
        self.edit_hosts(|file| {
            file.hosts.insert(HostName::new(name).unwrap(), config);
        });
    }

    /// Changes hosts.json through its schema, in one step.
    pub fn edit_hosts(&self, edit: impl FnOnce(&mut HostsFile)) {
        let path = self.hosts_file();
        let mut file = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).unwrap(),
            Err(_) => HostsFile::default(),
        };
        edit(&mut file);
        self.write_hosts_json(&serde_json::to_string_pretty(&file).unwrap());
    }

    /// Writes hosts.json as given, valid or not, in one step.
    pub fn write_hosts_json(&self, text: &str) {
        replace(&self.hosts_file(), text);
    }

    /// Writes occd.toml as given, in one step.
    pub fn write_config_toml(&self, text: &str) {
        replace(&self.config_toml(), text);
    }

    /// Returns where occd.toml is.
    pub fn config_toml(&self) -> PathBuf {
        self.paths().config_file().unwrap()
    }

    /// Returns where hosts.json is.
    pub fn hosts_file(&self) -> PathBuf {
        self.paths().hosts_file_candidates().unwrap().remove(0)
    }

    /// Returns where known_hosts is.
    pub fn known_hosts_file(&self) -> PathBuf {
        self.home().join(".ssh/known_hosts")
    }

    /// Adds lines to known_hosts.
    pub fn add_known_host(&self, lines: &str) {
        let path = self.known_hosts_file();
        let mut file = File::options().create(true).append(true).open(path).unwrap();
        writeln!(file, "{lines}").unwrap();
    }
}

/// Replaces a file by renaming, so that a daemon that watches it never reads half of it.
fn replace(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(new, path).unwrap();
}
