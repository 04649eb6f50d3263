//! The clock is paused in the tests of the watcher: the runtime steps from one `stat` to the next as
//! soon as the test waits, so nothing depends on how fast the machine is.

use std::convert::Infallible;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::{env, fs, io, thread};

use occ_proto::host::HostConfig;
use occ_proto::name::{Address, HostName};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::*;

mod failures;
mod reading;
mod saving;
mod watching;
mod writers;

const V0: &str = r#"{
  "version": 0,
  "default_host": "zeta",
  "hosts": {
    "zeta": {
      "hostname": "zeta.example.com",
      "user": "deploy",
      "port": 2222,
      "identity_file": "~/.ssh/id",
      "jump_host": "a@b:22,c",
      "groups": [
        "prod",
        "eu"
      ],
      "description": "ü \"quoted\""
    },
    "alpha": {
      "hostname": "alpha.example.com",
      "user": "root",
      "port": null,
      "identity_file": null,
      "jump_host": null,
      "groups": [],
      "description": null
    },
    "mid": {
      "hostname": "mid",
      "port": null,
      "identity_file": null,
      "jump_host": null,
      "groups": [],
      "description": null
    }
  }
}"#;

/// Long enough for any loaded machine; only ends a test that would hang. Paused time passes at once.
const GUARD: Duration = Duration::from_secs(120);

/// Returns a store that looks at its file time and again.
fn unwatched(path: PathBuf) -> HostsStore {
    HostsStore::open_with(vec![path], Watched::nobodys())
}

struct Place {
    dir: TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts.json");
        Self { dir, path }
    }

    fn with(text: &str) -> Self {
        let place = Self::new();
        fs::write(&place.path, text).unwrap();
        place
    }

    fn store(&self) -> HostsStore {
        unwatched(self.path.clone())
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.path).unwrap()
    }

    fn bak(&self) -> PathBuf {
        self.dir.path().join("hosts.json.bak")
    }

    fn names(&self) -> Vec<String> {
        names_in(self.dir.path())
    }
}

fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn name(text: &str) -> HostName {
    HostName::new(text).unwrap()
}

fn host(text: &str) -> HostConfig {
    HostConfig::new(Address::new(text).unwrap())
}

fn insert(file: &mut HostsFile, host_name: &str) -> Result<(), Infallible> {
    file.hosts.insert(name(host_name), host("h.example.com"));
    Ok(())
}

fn describe(file: &mut HostsFile, host_name: &str, text: &str) -> Result<(), Infallible> {
    file.hosts[host_name].description = Some(text.into());
    Ok(())
}

fn keys(snapshot: &HostsSnapshot) -> Vec<&str> {
    snapshot.file.hosts.keys().map(HostName::as_str).collect()
}

fn minimal(hosts: &[&str]) -> String {
    let hosts: Vec<_> = hosts.iter().map(|h| format!(r#""{h}":{{"hostname":"x"}}"#)).collect();
    format!(r#"{{"version":1,"hosts":{{{}}}}}"#, hosts.join(","))
}

/// Returns a receiver, and the task that runs `watch` until it is dropped.
fn watched(store: &HostsStore) -> (watch::Receiver<Arc<HostsSnapshot>>, JoinSet<()>) {
    let (receiver, mut watcher, store) = (store.subscribe(), JoinSet::new(), store.clone());
    watcher.spawn(async move { store.watch(CancellationToken::new()).await });
    (receiver, watcher)
}

async fn wait(
    receiver: &mut watch::Receiver<Arc<HostsSnapshot>>,
    until: impl Fn(&HostsSnapshot) -> bool,
) -> Arc<HostsSnapshot> {
    timeout(GUARD, receiver.wait_for(|s| until(s))).await.expect("in time").unwrap().clone()
}
