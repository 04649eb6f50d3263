//! hosts.json: the file shared with the existing opencode-cloud tool, and the host type in it.
//!
//! The schema is that tool's and closed: a key it does not know makes it refuse the whole file, so
//! nothing is ever added here. Settings of our own live in occd.toml.

use indexmap::IndexMap;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::name::{Address, Destination, GroupName, HostName, UserName, check_jump_hosts};

/// One configured host, in the shape of hosts.json.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct HostConfig {
    /// A DNS name, an IP address, or an alias of ssh_config.
    pub hostname: Address,
    /// The login name; absent means ssh_config's `User`, else the local login name.
    #[serde(default)]
    pub user: Option<UserName>,
    /// The TCP port, 1 to 65535; absent means ssh_config's `Port`, else 22.
    #[serde(default, deserialize_with = "port")]
    pub port: Option<u16>,
    /// The path of a private key; `~` is the home directory.
    #[serde(default)]
    pub identity_file: Option<String>,
    /// Jump hosts as for `ssh -J`: comma-separated `[user@]host[:port]`.
    #[serde(default, deserialize_with = "jump_hosts")]
    pub jump_host: Option<String>,
    /// Groups, for commands on several hosts.
    #[serde(default)]
    pub groups: Vec<GroupName>,
    /// A label shown beside the name.
    #[serde(default)]
    pub description: Option<String>,
}

impl HostConfig {
    /// Returns a configuration with only the address set.
    pub fn new(hostname: Address) -> Self {
        Self {
            hostname,
            user: None,
            port: None,
            identity_file: None,
            jump_host: None,
            groups: Vec::new(),
            description: None,
        }
    }

    /// Returns whether a connection made for `other` would also serve `self`: the fields that decide
    /// where and how to connect are equal.
    pub fn same_connection(&self, other: &Self) -> bool {
        self.hostname == other.hostname
            && self.user == other.user
            && self.port == other.port
            && self.identity_file == other.identity_file
            && self.jump_host == other.jump_host
    }
}

/// Refuses port 0, which no server listens on, with the words a person would use.
fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    match Option::<u64>::deserialize(deserializer)? {
        None => Ok(None),
        Some(number) => match u16::try_from(number) {
            Ok(port) if port > 0 => Ok(Some(port)),
            _ => Err(serde::de::Error::custom(format!("port {number} is not 1 to 65535"))),
        },
    }
}

/// Refuses jump hosts that `ssh -J` could take for options, or a shell for syntax.
fn jump_hosts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let jump = Option::<String>::deserialize(deserializer)?;
    if let Some(jump) = &jump {
        check_jump_hosts(jump).map_err(serde::de::Error::custom)?;
    }
    Ok(jump)
}

/// The whole of hosts.json. Hosts keep the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostsFile {
    /// 0 or 1. The existing tool writes 0 into a new file and reads a missing one as 1.
    #[serde(default = "missing_version")]
    pub version: u32,
    /// The host that commands without a target go to.
    #[serde(default)]
    pub default_host: Option<HostName>,
    /// The hosts by name.
    #[serde(default, deserialize_with = "each_name_once")]
    pub hosts: IndexMap<HostName, HostConfig>,
}

impl HostsFile {
    /// Returns the names on the way from a host to itself, if its jump hosts lead there: each would wait for the
    /// other.
    pub fn jump_circle(&self, host: &HostName) -> Option<Vec<HostName>> {
        let mut way = vec![host.clone()];
        let mut jump = self.hosts.get(host)?.jump_host.as_deref();
        while let Some(list) = jump {
            jump = None;
            // The last one is next to the host. Behind one that is not configured nobody knows more.
            for hop in list.rsplit(',') {
                let known = self.named(hop);
                jump = known.and_then(|(_, config)| config.jump_host.as_deref());
                let Some((name, _)) = known else { continue };
                let again = way.contains(name);
                way.push(name.clone());
                if again {
                    return (name == host).then_some(way);
                }
            }
        }
        None
    }

    /// Returns the host that a jump host stands for: its name, or that of a host with another user.
    fn named(&self, hop: &str) -> Option<(&HostName, &HostConfig)> {
        let hop = hop.strip_prefix("ssh://").unwrap_or(hop).trim_end_matches('/');
        let by_name = |name: &str| self.hosts.get_key_value(&HostName::new(name).ok()?);
        by_name(hop).or_else(|| by_name(hop.parse::<Destination>().ok()?.address.as_str()))
    }
}

/// Refuses a name that occurs twice: whichever entry were taken, the other would be lost without a word
/// when the file is saved.
fn each_name_once<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<IndexMap<HostName, HostConfig>, D::Error> {
    struct Hosts;

    impl<'de> Visitor<'de> for Hosts {
        type Value = IndexMap<HostName, HostConfig>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a map")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut hosts = IndexMap::new();
            while let Some(name) = map.next_key::<HostName>()? {
                if name.is_via() {
                    let text = format!("'{name}': {}", HostName::VIA_IS_OURS);
                    return Err(serde::de::Error::custom(text));
                }
                if hosts.contains_key(&name) {
                    return Err(serde::de::Error::custom(format!(
                        "the host '{name}' is there twice"
                    )));
                }
                hosts.insert(name, map.next_value()?);
            }
            Ok(hosts)
        }
    }

    deserializer.deserialize_map(Hosts)
}

fn missing_version() -> u32 {
    1
}

impl Default for HostsFile {
    fn default() -> Self {
        Self { version: 1, default_host: None, hosts: IndexMap::new() }
    }
}

/// Body of `POST /v1/hosts`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AddHost {
    /// The new host's name.
    #[serde(deserialize_with = "configurable")]
    pub name: HostName,
    /// Its configuration.
    pub config: HostConfig,
    /// Connect first and write nothing if that fails. True unless said otherwise.
    #[serde(default = "yes")]
    pub verify: bool,
    /// Replace a host of the same name instead of refusing.
    #[serde(default)]
    pub force: bool,
}

/// Refuses what is no name for a new host.
fn configurable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HostName, D::Error> {
    let name = HostName::deserialize(deserializer)?;
    name.check_new().map_err(serde::de::Error::custom)?;
    Ok(name)
}

fn yes() -> bool {
    true
}

/// Body of `PATCH /v1/hosts/{host}`: fields that are absent stay as they are, `null` clears.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PatchHost {
    /// A new address.
    #[serde(default, deserialize_with = "set", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Address))]
    pub hostname: Option<Address>,
    /// A new login name, or `null`.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub user: Option<Option<UserName>>,
    /// A new port, or `null`.
    #[serde(default, deserialize_with = "present_port", skip_serializing_if = "Option::is_none")]
    pub port: Option<Option<u16>>,
    /// A new identity file, or `null`.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub identity_file: Option<Option<String>>,
    /// New jump hosts, or `null`.
    #[serde(default, deserialize_with = "present_jump", skip_serializing_if = "Option::is_none")]
    pub jump_host: Option<Option<String>>,
    /// The whole new list of groups.
    #[serde(default, deserialize_with = "set", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Vec<GroupName>))]
    pub groups: Option<Vec<GroupName>>,
    /// A new description, or `null`.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub description: Option<Option<String>>,
    /// Connect first when a connection field changes. True unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<bool>,
}

impl PatchHost {
    /// Returns `config` with the changes made.
    pub fn apply(&self, config: &HostConfig) -> HostConfig {
        let mut new = config.clone();
        if let Some(hostname) = &self.hostname {
            new.hostname = hostname.clone();
        }
        if let Some(user) = &self.user {
            new.user = user.clone();
        }
        if let Some(port) = self.port {
            new.port = port;
        }
        if let Some(identity_file) = &self.identity_file {
            new.identity_file = identity_file.clone();
        }
        if let Some(jump_host) = &self.jump_host {
            new.jump_host = jump_host.clone();
        }
        if let Some(groups) = &self.groups {
            new.groups = groups.clone();
        }
        if let Some(description) = &self.description {
            new.description = description.clone();
        }
        new
    }
}

/// Reads what can be changed and not cleared: `null` is no value of it.
fn set<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    let value = Option::<T>::deserialize(deserializer)?;
    let value =
        value.ok_or_else(|| serde::de::Error::custom("null: it can be changed, not cleared"))?;
    Ok(Some(value))
}

/// Tells `null` (clear) from absent (keep): called only when the key is there.
fn present<'de, T, D>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::<T>::deserialize(deserializer).map(Some)
}

fn present_port<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<u16>>, D::Error> {
    port(deserializer).map(Some)
}

fn present_jump<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<String>>, D::Error> {
    jump_hosts(deserializer).map(Some)
}

/// `GET` and `PUT /v1/default-host`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct DefaultHost {
    /// The default host; `null` when commands go to the local Docker.
    pub name: Option<HostName>,
}

/// The answer to `DELETE /v1/hosts/{host}/password`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Forgotten {
    /// How many passwords were kept for the host.
    pub passwords: usize,
    /// Whether there was a keyring to look into.
    #[serde(default)]
    pub keyring: bool,
}

/// A directory of this machine, and what it is on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Workspace {
    /// Here.
    pub here: String,
    /// On the host; may begin with `~/`.
    pub there: String,
}

/// The answer to `GET /v1/hosts/{host}/workspaces`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct WorkspaceList {
    /// All that occd.toml names, or the one that was asked for, if there is one.
    pub workspaces: Vec<Workspace>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_existing_tools_file_round_trips_with_its_nulls() {
        let text = r#"{"version":0,"default_host":"b","hosts":{"b":{"hostname":"h","user":null,"port":null,"identity_file":null,"jump_host":null,"groups":[],"description":null},"a":{"hostname":"x","user":"u","port":2222,"identity_file":"~/.ssh/k","jump_host":"j","groups":["g"],"description":"d"}}}"#;
        let file: HostsFile = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&file).unwrap(), text);
    }

    #[test]
    fn only_hostname_is_required_and_a_missing_version_is_1() {
        let file: HostsFile = serde_json::from_str(r#"{"hosts":{"a":{"hostname":"h"}}}"#).unwrap();
        assert_eq!(file.version, 1);
        assert!(serde_json::from_str::<HostsFile>(r#"{"hosts":{"a":{}}}"#).is_err());
    }

    #[test]
    fn unknown_keys_and_bad_ports_are_refused() {
        for bad in [
            r#"{"hosts":{},"extra":1}"#,
            r#"{"hosts":{"a":{"hostname":"h","proxy_command":"x"}}}"#,
            r#"{"hosts":{"a":{"hostname":"h","port":0}}}"#,
            r#"{"hosts":{"a":{"hostname":"h","port":70000}}}"#,
            r#"{"hosts":{"-a":{"hostname":"h"}}}"#,
            r#"{"hosts":{"a":{"hostname":"-h"}}}"#,
            r#"{"hosts":{"a":{"hostname":"h","user":"a b"}}}"#,
        ] {
            assert!(serde_json::from_str::<HostsFile>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn jump_hosts_that_lead_back_are_found() {
        let file = |jumps: &[(&str, &str)]| -> HostsFile {
            let host = |(name, jump): &(&str, &str)| {
                let config = serde_json::json!({ "hostname": "h", "jump_host": jump });
                ((*name).to_owned(), config)
            };
            let hosts: serde_json::Map<_, _> = jumps.iter().map(host).collect();
            serde_json::from_value(serde_json::json!({ "hosts": hosts })).unwrap()
        };
        for (jumps, circle) in [
            (&[("a", "a")][..], Some("a a")),
            (&[("a", "root@a:23")], Some("a a")),
            (&[("a", "gate,ssh://a/")], Some("a a")),
            (&[("a", "a,gate")], Some("a a")),
            (&[("a", "b"), ("b", "c"), ("c", "a")], Some("a b c a")),
            (&[("a", "b"), ("b", "x")], None),
            // Not by way of this host: its owner is told when it is used.
            (&[("a", "b"), ("b", "c"), ("c", "b")], None),
            // Whatever is before an explicit way there does not count.
            (&[("a", "c,b"), ("b", "a"), ("c", "x")], None),
            (&[("a", "none")], None),
        ] {
            let found = file(jumps).jump_circle(&HostName::new("a").unwrap());
            let words =
                found.map(|way| way.iter().map(HostName::as_str).collect::<Vec<_>>().join(" "));
            assert_eq!(words.as_deref(), circle, "{jumps:?}");
        }
    }

    #[test]
    fn a_patch_tells_null_from_absent() {
        let mut config = HostConfig::new(Address::new("h").unwrap());
        config.port = Some(22);
        config.description = Some("d".into());
        let patch: PatchHost = serde_json::from_str(r#"{"port":null,"groups":["g"]}"#).unwrap();
        let new = patch.apply(&config);
        assert_eq!(new.port, None);
        assert_eq!(new.description.as_deref(), Some("d"));
        assert_eq!(new.groups, [GroupName::new("g").unwrap()]);
        assert!(serde_json::from_str::<PatchHost>(r#"{"port":0}"#).is_err());
        // These cannot be cleared.
        assert!(serde_json::from_str::<PatchHost>(r#"{"hostname":null}"#).is_err());
        assert!(serde_json::from_str::<PatchHost>(r#"{"groups":null}"#).is_err());
        assert!(serde_json::from_str::<PatchHost>(r#"{"proxy_command":"x"}"#).is_err());
    }
}
