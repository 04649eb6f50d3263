//! What can be named: of the daemon that runs, or of hosts.json where none does.

use std::path::PathBuf;
use std::time::Duration;

use clap::Arg;
use occ_proto::log::Level;
use occ_proto::paths::Env;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::autostart::{self, Start};
use crate::cli::Global;
use crate::client::Client;
use crate::commands::Context;
use crate::output::Ui;

/// How long the daemon may take. It takes a millisecond; nobody waits at a TAB for one that is stuck.
const LIMIT: Duration = Duration::from_millis(300);

/// What an argument names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing that could be known.
    Other,
    /// A host.
    Hosts,
    /// A host, or none of them.
    DefaultHost,
    /// A group of hosts.
    Groups,
    /// A session.
    Sessions,
    /// A forward.
    Forwards,
    /// An operation.
    Operations,
    /// A grant.
    Grants,
    /// How much is logged.
    Levels,
    /// A file here.
    Files,
    /// `HOST:PATH`, or a file here.
    HostPaths,
}

impl Kind {
    /// Returns what an argument of a command names.
    pub(super) fn of(path: &[&str], arg: &Arg) -> Self {
        match (path, arg.get_id().as_str()) {
            // That one is to be new.
            (["host", "add"], "name") => Self::Other,
            (["host", "default"], "name") => Self::DefaultHost,
            (["host", ..], "name") => Self::Hosts,
            (_, "host" | "canary" | "from" | "to" | "jump_host") => Self::Hosts,
            (_, "group" | "add_group" | "remove_group") => Self::Groups,
            (["session", "start" | "edit"] | ["agent", ..], "name") => Self::Other,
            (["session", ..], "name" | "session") => Self::Sessions,
            (["forward", "remove"], "which") => Self::Forwards,
            (["operations", ..], "id") => Self::Operations,
            (["grant", "revoke"], "name") => Self::Grants,
            (["daemon", "log-level"], "level") => Self::Levels,
            (["cp" | "ls" | "cat" | "rm" | "edit" | "files", ..], "path" | "paths") => {
                Self::HostPaths
            }
            (_, "identity_file" | "key" | "socket" | "mount" | "argv" | "ssh_config_file") => {
                Self::Files
            }
            _ => Self::Other,
        }
    }
}

#[derive(Debug, Deserialize)]
struct HostList {
    hosts: Vec<Host>,
}

#[derive(Debug, Deserialize)]
struct Host {
    name: String,
    config: Config,
}

#[derive(Debug, Deserialize)]
struct Config {
    hostname: String,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    description: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Sessions {
    sessions: Vec<Named>,
}

#[derive(Debug, Deserialize)]
struct Grants {
    grants: Vec<Named>,
}

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
    #[serde(default)]
    host: Option<String>,
    #[serde(default)]
    state: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Operations {
    operations: Vec<Operation>,
}

#[derive(Debug, Deserialize)]
struct Operation {
    id: String,
    #[serde(default)]
    host: Option<String>,
    #[serde(default)]
    kind: String,
}

/// Who knows the names.
pub(super) struct Names {
    socket: Option<PathBuf>,
}

impl Names {
    pub(super) fn new(socket: Option<PathBuf>) -> Self {
        Self { socket }
    }

    /// Returns what there is of a kind, and what it is.
    pub(super) fn of(&self, kind: Kind) -> Vec<(String, String)> {
        match kind {
            Kind::Other | Kind::Files => Vec::new(),
            Kind::Hosts => self.hosts().iter().map(Host::described).collect(),
            Kind::DefaultHost => {
                let none = [("none".to_owned(), "no default host".to_owned())];
                self.hosts().iter().map(Host::described).chain(none).collect()
            }
            Kind::Levels => Level::ALL.map(|(_, word)| (word.to_owned(), String::new())).to_vec(),
            Kind::HostPaths => {
                let named = |host: &Host| (format!("{}:", host.name), host.described().1);
                self.hosts().iter().map(named).collect()
            }
            Kind::Groups => {
                let hosts = self.hosts();
                let mut groups: Vec<&String> =
                    hosts.iter().flat_map(|host| &host.config.groups).collect();
                groups.sort();
                groups.dedup();
                let count = |group: &String| {
                    hosts.iter().filter(|host| host.config.groups.contains(group)).count()
                };
                groups
                    .iter()
                    .map(|group| ((*group).clone(), format!("hosts: {}", count(group))))
                    .collect()
            }
            Kind::Sessions => {
                let known: Option<Sessions> = self.ask("/v1/sessions");
                known.map_or_else(Vec::new, |known| {
                    known.sessions.iter().map(Named::described).collect()
                })
            }
            Kind::Grants => {
                let known: Option<Grants> = self.ask("/v1/grants");
                known.map_or_else(Vec::new, |known| {
                    known.grants.iter().map(Named::described).collect()
                })
            }
            Kind::Operations => {
                let known: Option<Operations> = self.ask("/v1/operations");
                let described = |one: Operation| {
                    (one.id, [one.kind, one.host.unwrap_or_default()].join(" ").trim().to_owned())
                };
                known.map_or_else(Vec::new, |known| {
                    known.operations.into_iter().map(described).collect()
                })
            }
            Kind::Forwards => {
                let known: Option<occ_proto::forward::ForwardList> = self.ask("/v1/forwards");
                let described = |forward: occ_proto::forward::Forward| {
                    let to = forward.to.map_or_else(|| "SOCKS".to_owned(), |to| to.to_string());
                    (forward.id, format!("{}: {} to {to}", forward.host, forward.listen))
                };
                known.map_or_else(Vec::new, |known| {
                    known.forwards.into_iter().map(described).collect()
                })
            }
        }
    }

    fn hosts(&self) -> Vec<Host> {
        let known: Option<HostList> = self.ask("/v1/hosts");
        known.map(|list| list.hosts).or_else(hosts_on_disk).unwrap_or_default()
    }

    /// Returns what the daemon says, if one runs and says it at once.
    fn ask<T: DeserializeOwned>(&self, path: &str) -> Option<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        let ui = Ui::new(&Global { quiet: true, no_input: true, ..Global::default() });
        let context = Context::plain(&ui, self.socket.clone());
        let answer = async {
            let found = autostart::connect(&context, Start::Never).await.ok()?;
            Client::of(found, &ui).get(path).await.ok()?.parse().ok()
        };
        // A connection that is in the way of nobody: this process is about to end.
        let answer = runtime.block_on(async { tokio::time::timeout(LIMIT, answer).await });
        std::mem::forget(runtime);
        answer.ok().flatten()
    }
}

impl Host {
    fn described(&self) -> (String, String) {
        let what = self.config.description.clone().unwrap_or_else(|| self.config.hostname.clone());
        (self.name.clone(), what)
    }
}

impl Named {
    fn described(&self) -> (String, String) {
        let parts = [self.host.as_deref(), self.state.as_deref()];
        (self.name.clone(), parts.into_iter().flatten().collect::<Vec<_>>().join(" "))
    }
}

/// Returns the hosts of hosts.json, without what the daemon would say of them.
fn hosts_on_disk() -> Option<Vec<Host>> {
    let places = Env::from_process().hosts_file_candidates().ok()?;
    let text = places.iter().find_map(|place| std::fs::read(place).ok())?;
    let file: occ_proto::HostsFile = serde_json::from_slice(&text).ok()?;
    let host = |(name, config): (occ_proto::HostName, occ_proto::HostConfig)| Host {
        name: name.to_string(),
        config: Config {
            hostname: config.hostname.to_string(),
            groups: config.groups.iter().map(ToString::to_string).collect(),
            description: config.description,
        },
    };
    Some(file.hosts.into_iter().map(host).collect())
}
