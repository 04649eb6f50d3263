//! How a sandbox is to be made: occd.toml's `[hosts.NAME.sandbox]`, the existing tool's config.json, its defaults.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;

use occ_proto::container::StartRequest;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::mount::{BadMount, BindMount};
use super::opencode_config::OpencodeConfig;

/// The existing tool's image.
pub(crate) const DEFAULT_IMAGE: &str = "ghcr.io/prizz/opencode-cloud-sandbox:latest";
/// The same image in another registry, for the days when the first one does not answer.
pub(super) const FALLBACK_IMAGE: &str = "prizz/opencode-cloud-sandbox:latest";

/// `[hosts.NAME.sandbox]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct SandboxConfig {
    /// The image.
    #[serde(deserialize_with = "image")]
    pub image: Option<String>,
    /// The port on the host.
    #[serde(deserialize_with = "port")]
    pub port: Option<u16>,
    /// The address on the host that the port is bound to; 127.0.0.1 unless set.
    pub bind_address: Option<IpAddr>,
    /// Variables, `NAME=value`, beside those of config.json.
    #[serde(deserialize_with = "variables")]
    pub env: Vec<String>,
    /// What of the host is mounted; nothing unless set.
    pub mounts: Vec<BindMount>,
    /// Whether the sandbox runs systemd; found out unless set.
    pub systemd: Option<bool>,
}

/// What holds for one sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxSettings {
    /// The image, with its tag.
    pub image: String,
    /// The port on the host.
    pub port: u16,
    /// The address that it is bound to there.
    pub bind_address: IpAddr,
    /// Variables, `NAME=value`.
    pub env: Vec<String>,
    /// What of the host is mounted.
    pub mounts: Vec<BindMount>,
    /// Those that nobody has named: directories of the existing tool's own, which are made where they are missing.
    pub own_directories: Vec<String>,
    /// Cockpit's port on the host, if it is published.
    pub cockpit: Option<u16>,
    /// Whether Docker starts it again when it ends.
    pub restart: bool,
    /// Whether it runs systemd; found out unless set.
    pub systemd: Option<bool>,
}

/// Why the settings mean nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BadSettings {
    /// A mount.
    #[error("the mount {0}")]
    Mount(#[from] BadMount),
    /// The address in config.json.
    #[error("bind_address {0:?} of config.json is no IP address")]
    Address(String),
    /// Port 0.
    #[error("0 is no port")]
    Port,
    /// The image's name.
    #[error("{0:?} is no name of an image")]
    Image(String),
}

impl SandboxSettings {
    /// Returns what holds for a host: config.json's mounts and bind address are this machine's, and not a host's.
    ///
    /// # Errors
    /// When a value is out of range.
    pub fn for_host(own: &SandboxConfig, shared: &OpencodeConfig) -> Result<Self, BadSettings> {
        let image = own.image.clone().unwrap_or_else(|| DEFAULT_IMAGE.to_owned());
        let mut env = shared.container_env.clone();
        let name = |variable: &str| variable.split('=').next().map(str::to_owned);
        env.retain(|theirs| !own.env.iter().any(|ours| name(ours) == name(theirs)));
        env.extend(own.env.iter().cloned());
        Self {
            image: tagged(&image).ok_or(BadSettings::Image(image))?,
            port: own.port.unwrap_or(shared.opencode_web_port),
            bind_address: own.bind_address.unwrap_or(IpAddr::from([127, 0, 0, 1])),
            env,
            mounts: own.mounts.clone(),
            own_directories: Vec::new(),
            cockpit: shared.cockpit_enabled.then_some(shared.cockpit_port),
            restart: shared.auto_restart,
            systemd: own.systemd,
        }
        .checked()
    }

    /// Returns what holds for this machine, where `home` is the user's.
    ///
    /// # Errors
    /// When a value is out of range.
    pub fn for_this_machine(
        own: &SandboxConfig,
        shared: &OpencodeConfig,
        home: &Path,
    ) -> Result<Self, BadSettings> {
        let mut here = Self::for_host(own, shared)?;
        if own.bind_address.is_none() {
            here.bind_address = address(&shared.bind_address)?;
        }
        if own.mounts.is_empty() {
            here.mounts = match &shared.mounts {
                Some(mounts) => {
                    mounts.iter().map(|mount| mount.parse()).collect::<Result<_, _>>()?
                }
                None => default_mounts(home),
            };
            if shared.mounts.is_none() {
                let sources = here.mounts.iter().map(|mount| mount.source.clone());
                here.own_directories = sources.collect();
            }
        }
        here.checked()
    }

    /// Returns them with what a request asks for.
    ///
    /// # Errors
    /// When a value is out of range.
    pub fn with(mut self, request: &StartRequest) -> Result<Self, BadSettings> {
        if request.no_mounts {
            self.mounts.clear();
        }
        let mounts: Vec<BindMount> =
            request.mounts.iter().map(|mount| mount.parse()).collect::<Result<_, _>>()?;
        // What is asked for takes the place of what is set.
        self.mounts.retain(|set| mounts.iter().all(|mount| mount.target != set.target));
        self.own_directories.retain(|own| self.mounts.iter().any(|set| set.source == *own));
        self.mounts.extend(mounts);
        self.port = request.port.unwrap_or(self.port);
        self.checked()
    }

    fn checked(self) -> Result<Self, BadSettings> {
        if self.port == 0 {
            return Err(BadSettings::Port);
        }
        let mut targets = HashSet::new();
        match self.mounts.iter().find(|mount| !targets.insert(&mount.target)) {
            Some(twice) => Err(BadMount::Twice(twice.target.clone()).into()),
            None => Ok(self),
        }
    }

    /// Returns the mounts that somebody has named.
    pub(super) fn named_mounts(&self) -> Vec<BindMount> {
        let is_own = |mount: &&BindMount| self.own_directories.contains(&mount.source);
        self.mounts.iter().filter(|mount| !is_own(mount)).cloned().collect()
    }
}

/// Checks a variable for the container.
pub(crate) fn check_variable(variable: &str) -> Result<(), String> {
    match variable.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.contains('\0') => Ok(()),
        _ => Err("a variable of the sandbox is not NAME=value".to_owned()),
    }
}

fn variables<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let variables = Vec::<String>::deserialize(deserializer)?;
    variables.iter().try_for_each(|variable| check_variable(variable)).map_err(D::Error::custom)?;
    Ok(variables)
}

fn image<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let image = String::deserialize(deserializer)?;
    tagged(&image).ok_or_else(|| D::Error::custom(BadSettings::Image(image.clone())))?;
    Ok(Some(image))
}

fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    match u16::deserialize(deserializer)? {
        0 => Err(D::Error::custom("a port is a number from 1 to 65535")),
        port => Ok(Some(port)),
    }
}

/// Returns an image's name with its tag.
fn tagged(image: &str) -> Option<String> {
    let valid = |c: char| c.is_ascii_alphanumeric() || "./:-_@".contains(c);
    if image.is_empty() || image.starts_with('-') || !image.chars().all(valid) {
        return None;
    }
    // A colon before the last slash is a registry's port.
    let last = image.rsplit('/').next().unwrap_or(image);
    Some(if last.contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") })
}

/// Returns the address that a port is bound to, as the existing tool reads it.
fn address(text: &str) -> Result<IpAddr, BadSettings> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("localhost") {
        return Ok(IpAddr::from([127, 0, 0, 1]));
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().map_err(|_| BadSettings::Address(text.to_owned()))
}

/// Returns the directories that the existing tool mounts where its config.json says nothing else.
fn default_mounts(home: &Path) -> Vec<BindMount> {
    let inside = "/home/opencoder";
    [
        (".local/share/opencode", ".local/share/opencode"),
        (".local/state/opencode", ".local/state/opencode"),
        (".cache/opencode", ".cache/opencode"),
        ("opencode", "workspace"),
        (".config/opencode-cloud/opencode", ".config/opencode"),
        (".local/share/opencode-cloud/ssh", ".ssh"),
    ]
    .into_iter()
    .map(|(here, there)| BindMount {
        source: home.join(here).display().to_string(),
        target: format!("{inside}/{there}"),
        read_only: false,
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_takes_neither_mounts_nor_the_address_from_the_shared_file() {
        let shared = OpencodeConfig {
            opencode_web_port: 4000,
            bind_address: "0.0.0.0".into(),
            container_env: vec!["A=1".into(), "B=2".into()],
            mounts: Some(vec!["/a:/b".into()]),
            ..OpencodeConfig::default()
        };
        let own = SandboxConfig { env: vec!["B=3".into()], ..SandboxConfig::default() };
        let host = SandboxSettings::for_host(&own, &shared).unwrap();
        assert_eq!((host.port, host.bind_address.to_string()), (4000, "127.0.0.1".to_owned()));
        assert_eq!(host.env, ["A=1", "B=3"]);
        assert!(host.mounts.is_empty());
        assert_eq!(host.image, DEFAULT_IMAGE);
        let here =
            SandboxSettings::for_this_machine(&SandboxConfig::default(), &shared, Path::new("/h"))
                .unwrap();
        assert_eq!(here.bind_address.to_string(), "0.0.0.0");
        assert_eq!(here.mounts, ["/a:/b".parse().unwrap()]);
        let bare = SandboxSettings::for_this_machine(
            &SandboxConfig::default(),
            &OpencodeConfig::default(),
            Path::new("/h"),
        );
        assert_eq!(bare.unwrap().mounts.len(), 6);
    }

    #[test]
    fn a_request_wins() {
        let own = SandboxConfig {
            mounts: vec!["/a:/x".parse().unwrap(), "/b:/y".parse().unwrap()],
            ..SandboxConfig::default()
        };
        let of = |request: StartRequest| {
            SandboxSettings::for_host(&own, &OpencodeConfig::default()).unwrap().with(&request)
        };
        let more = StartRequest {
            mounts: vec!["/c:/y:ro".into()],
            port: Some(1),
            ..StartRequest::default()
        };
        let settings = of(more).unwrap();
        assert_eq!(settings.mounts, ["/a:/x".parse().unwrap(), "/c:/y:ro".parse().unwrap()]);
        assert_eq!(settings.port, 1);
        let twice = StartRequest {
            mounts: vec!["/c:/z".into(), "/d:/z/".into()],
            ..StartRequest::default()
        };
        let twice = of(twice).unwrap_err().to_string();
        assert_eq!(
            twice,
            "the mount at \"/z\" is the second one there: only one can be mounted at one path"
        );
        let none = StartRequest { no_mounts: true, ..StartRequest::default() };
        assert!(of(none).unwrap().mounts.is_empty());
        assert!(of(StartRequest { port: Some(0), ..StartRequest::default() }).is_err());
        assert!(of(StartRequest { mounts: vec!["x".into()], ..StartRequest::default() }).is_err());
    }

    #[test]
    fn directories_that_nobody_has_named_are_made_also_beside_others() {
        let shared = OpencodeConfig::default();
        let here = || {
            let own = SandboxConfig::default();
            SandboxSettings::for_this_machine(&own, &shared, Path::new("/h")).unwrap()
        };
        let with = |request| here().with(&request).unwrap();
        let own = |settings: &SandboxSettings| settings.own_directories.len();
        let mounts = vec!["/a:/home/opencoder/workspace".into(), "/b:/c".into()];
        let more = with(StartRequest { mounts, ..StartRequest::default() });
        assert_eq!((more.mounts.len(), own(&more)), (7, 5));
        let named = ["/a:/home/opencoder/workspace", "/b:/c"].map(|one| one.parse().unwrap());
        assert_eq!(more.named_mounts(), named);
        let none = with(StartRequest { no_mounts: true, ..StartRequest::default() });
        assert_eq!((none.mounts.len(), own(&none)), (0, 0));
    }

    #[test]
    fn images_have_a_tag() {
        assert_eq!(tagged("a/b").as_deref(), Some("a/b:latest"));
        assert_eq!(tagged("localhost:5000/a").as_deref(), Some("localhost:5000/a:latest"));
        assert_eq!(tagged("localhost:5000/a:1").as_deref(), Some("localhost:5000/a:1"));
        assert_eq!(tagged("a@sha256:00").as_deref(), Some("a@sha256:00"));
        for bad in ["", "-a", "a b", "a\n"] {
            assert_eq!(tagged(bad), None, "{bad:?}");
        }
    }
}
