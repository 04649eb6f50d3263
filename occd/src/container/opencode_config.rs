//! config.json of the existing opencode-cloud tool, which is read and never written. It is JSONC, and a key that it
//! does not have is an error, as it is there.

use std::path::{Path, PathBuf};

use jsonc_parser::ParseOptions;
use occ_proto::wording::in_words;
use serde::Deserialize;

/// The largest config.json that is read, in bytes.
const MAX_SIZE: u64 = 1024 * 1024;

/// The keys that concern the sandbox; the others are known and of no use here.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OpencodeConfig {
    /// The file's own version.
    pub(crate) version: u32,
    /// The port on the host.
    pub opencode_web_port: u16,
    pub(super) bind: serde::de::IgnoredAny,
    /// Whether the container is started again when it ends.
    pub auto_restart: bool,
    pub(super) boot_mode: serde::de::IgnoredAny,
    pub(super) restart_retries: serde::de::IgnoredAny,
    pub(super) restart_delay: serde::de::IgnoredAny,
    pub(super) auth_username: serde::de::IgnoredAny,
    pub(super) auth_password: serde::de::IgnoredAny,
    /// Variables for the container, `NAME=value`.
    pub container_env: Vec<String>,
    /// The address that the port is bound to on the host.
    pub bind_address: String,
    pub(super) trust_proxy: serde::de::IgnoredAny,
    pub(super) allow_unauthenticated_network: serde::de::IgnoredAny,
    pub(super) rate_limit_attempts: serde::de::IgnoredAny,
    pub(super) rate_limit_window_seconds: serde::de::IgnoredAny,
    pub(super) users: serde::de::IgnoredAny,
    /// Cockpit's port on the host.
    pub cockpit_port: u16,
    /// Whether cockpit is published.
    pub cockpit_enabled: bool,
    pub(super) image_source: serde::de::IgnoredAny,
    pub(super) update_check: serde::de::IgnoredAny,
    /// What is mounted; absent: the existing tool's own six directories.
    pub mounts: Option<Vec<String>>,
    /// A key of older versions.
    pub(super) opencode_commit: serde::de::IgnoredAny,
}

impl Default for OpencodeConfig {
    fn default() -> Self {
        let ignored = serde::de::IgnoredAny;
        Self {
            version: 1,
            opencode_web_port: 3000,
            bind: ignored,
            auto_restart: true,
            boot_mode: ignored,
            restart_retries: ignored,
            restart_delay: ignored,
            auth_username: ignored,
            auth_password: ignored,
            container_env: Vec::new(),
            bind_address: "127.0.0.1".to_owned(),
            trust_proxy: ignored,
            allow_unauthenticated_network: ignored,
            rate_limit_attempts: ignored,
            rate_limit_window_seconds: ignored,
            users: ignored,
            cockpit_port: 9090,
            cockpit_enabled: false,
            image_source: ignored,
            update_check: ignored,
            mounts: None,
            opencode_commit: ignored,
        }
    }
}

/// Why config.json cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{} {what}", path.display())]
pub struct OpencodeConfigError {
    path: PathBuf,
    what: String,
}

impl OpencodeConfig {
    /// Reads the first file that is there, of the places where it may be.
    ///
    /// # Errors
    /// When it cannot be read or does not parse.
    pub fn find(places: &[PathBuf]) -> Result<Self, OpencodeConfigError> {
        match places.iter().find(|path| path.exists()).or_else(|| places.first()) {
            Some(path) => Self::load(path),
            None => Ok(Self::default()),
        }
    }

    /// Reads the file; where there is none, its defaults hold.
    ///
    /// # Errors
    /// When it cannot be read or does not parse.
    pub fn load(path: &Path) -> Result<Self, OpencodeConfigError> {
        let fail = |what: String| OpencodeConfigError { path: path.to_owned(), what };
        let text = match std::fs::metadata(path) {
            Ok(metadata) if !metadata.is_file() => {
                return Err(fail("is not a regular file".into()));
            }
            Ok(metadata) if metadata.len() > MAX_SIZE => {
                return Err(fail("is larger than 1 MiB".into()));
            }
            Ok(_) => std::fs::read_to_string(path),
            Err(error) => Err(error),
        };
        match text {
            Ok(text) => Self::parse(&text).map_err(|what| fail(format!("does not parse: {what}"))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(fail(format!("cannot be read: {error}"))),
        }
    }

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let config: Self = jsonc_parser::parse_to_serde_value(text, &ParseOptions::default())
            .map_err(|error| placed(text, error.to_string()))?;
        if config.version != 1 {
            return Err(format!("version {} is not known", config.version));
        }
        for variable in &config.container_env {
            super::settings::check_variable(variable)?;
        }
        Ok(config)
    }
}

/// Says where in the text the error is: of a value that does not fit, the parser says that it is at the beginning.
fn placed(text: &str, error: String) -> String {
    match serde_json::from_str::<OpencodeConfig>(&plain_json(text)) {
        // Its own words end with the place.
        Err(found) if found.is_data() => in_words(&found.to_string()),
        _ => error,
    }
}

/// Returns JSON in which everything stands where it does in the JSONC: what JSON does not have is blank.
fn plain_json(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    let mut last_comma = None;
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('"', _) => {
                last_comma = None;
                plain.push(c);
                let mut escaped = false;
                for c in chars.by_ref() {
                    plain.push(c);
                    if c == '"' && !escaped {
                        break;
                    }
                    escaped = c == '\\' && !escaped;
                }
            }
            ('/', Some('/')) => {
                plain.push(' ');
                while let Some(c) = chars.next_if(|c| *c != '\n') {
                    plain.extend(std::iter::repeat_n(' ', c.len_utf8()));
                }
            }
            ('/', Some('*')) => {
                plain.push(' ');
                let mut before = c;
                for c in chars.by_ref() {
                    let blank = if c == '\n' { "\n" } else { " " };
                    plain.push_str(&blank.repeat(c.len_utf8()));
                    if (before, c) == ('*', '/') {
                        break;
                    }
                    before = c;
                }
            }
            _ => {
                match (c, last_comma) {
                    ('}' | ']', Some(at)) => plain.replace_range(at..=at, " "),
                    _ if c.is_whitespace() => {
                        plain.push(c);
                        continue;
                    }
                    _ => {}
                }
                last_comma = (c == ',').then_some(plain.len());
                plain.push(c);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_read_and_unknown_keys_refused() {
        let text = "{\n // the port\n \"version\": 1, \"opencode_web_port\": 4000, /* x */ \
                    \"users\": [\"a\"], \"mounts\": [\"/a:/b\"], \"auth_password\": null,\n}";
        let config = OpencodeConfig::parse(text).unwrap();
        assert_eq!(config.opencode_web_port, 4000);
        assert_eq!(config.mounts, Some(vec!["/a:/b".to_owned()]));
        assert_eq!(OpencodeConfig::parse("{\"version\":1}").unwrap(), OpencodeConfig::default());
        let unknown = OpencodeConfig::parse("{\"version\":1,\"nope\":2}").unwrap_err();
        assert!(unknown.contains("nope"), "{unknown}");
        for bad in ["", "{", "[]", "{\"version\":2}", "{\"container_env\":[\"=x\"]}"] {
            assert!(OpencodeConfig::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_error_says_where_it_is() {
        for (text, place) in [
            (
                "{\n // the port, \"x\"\n \"version\": 1, /* a\n b */ \"nope\": 2,\n}",
                "line 4 column",
            ),
            ("{\n \"version\": 1,\n \"mounts\": 5,\n}", "line 3 column"),
            ("{\n \"version\": 1,\n \"opencode_web_port\": 70000\n}", "line 3 column"),
            ("{\n \"version\" 1\n}", "line 2 column"),
        ] {
            let error = OpencodeConfig::parse(text).unwrap_err();
            assert!(error.contains(place), "{error}");
        }
    }

    #[test]
    fn no_file_means_the_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        assert_eq!(OpencodeConfig::load(&path).unwrap(), OpencodeConfig::default());
        std::fs::write(&path, "{ nope").unwrap();
        let error = OpencodeConfig::load(&path).unwrap_err().to_string();
        assert!(error.contains("config.json does not parse"), "{error}");
    }
}
