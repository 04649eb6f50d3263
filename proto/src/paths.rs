//! Where things are, as pure functions of the environment.
//!
//! Both programs compute the same paths from the same variables. Whose they are is the one thing here for which the disk
//! is looked at.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::policy::GRANT_SOCKET;

/// The policy of this machine's administrator, for all its users. Not to be had by a variable: those are the user's.
pub const SYSTEM_POLICY: &str = "/etc/occ/policy.toml";

/// The largest settings that occd takes, in bytes: what is read is kept, and parsed, in memory.
pub const MAX_SETTINGS: u64 = 1024 * 1024;

/// The key files in `~/.ssh` that a login offers where none is named.
pub const DEFAULT_KEYS: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];

/// The longest path that fits a Unix socket address: `sun_path` less its terminating NUL.
pub const MAX_SOCKET_PATH: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// Returns the file name of the socket that speaks to a host's Docker Engine; it is beside the control socket.
pub fn docker_socket_name(host: &crate::HostName) -> String {
    format!("docker-{host}.sock")
}

/// Returns the path of the read-only socket that belongs to a control socket: `occd-ro.sock` beside `occd.sock`.
pub fn read_only_beside(socket: &Path) -> PathBuf {
    let mut name = socket.file_stem().unwrap_or_default().to_owned();
    name.push("-ro");
    if let Some(extension) = socket.extension() {
        name.push(".");
        name.push(extension);
    }
    socket.with_file_name(name)
}

/// Returns whether a socket has the name of one that is read-only: `NAME-ro.sock`. A daemon that took it for its control socket
/// would give all that it can do to whoever may only look.
pub fn is_read_only(socket: &Path) -> bool {
    socket.file_stem().is_some_and(|stem| stem.as_encoded_bytes().ends_with(b"-ro"))
}

/// Returns whether a socket has the name of a grant's, which serves one host behind a policy of its own.
pub fn is_grants(socket: &Path) -> bool {
    socket.file_name().is_some_and(|name| name == GRANT_SOCKET)
}

/// Returns the link that leads nowhere, among a path and what it is in, if there is one.
pub fn dangling_link(path: &Path) -> Option<&Path> {
    path.ancestors().find(|place| place.is_symlink() && !place.exists())
}

/// The directory of sockets in that of state, where there is no XDG_RUNTIME_DIR.
pub const RUN_DIR: &str = "run";
/// The variable that names the directory of settings, as the XDG base directory specification has it.
pub const CONFIG_HOME: &str = "XDG_CONFIG_HOME";
/// The variable that names the directory of state, of the same specification.
pub const STATE_HOME: &str = "XDG_STATE_HOME";

/// The variables that decide the paths.
#[derive(Debug, Clone, Default)]
pub struct Env {
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// What `HOME` is set to where that is no absolute path.
    pub relative_home: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`.
    pub xdg_runtime_dir: Option<PathBuf>,
    /// `XDG_CONFIG_HOME`.
    pub xdg_config_home: Option<PathBuf>,
    /// `XDG_STATE_HOME`.
    pub xdg_state_home: Option<PathBuf>,
    /// `OCC_SOCKET`.
    pub occ_socket: Option<PathBuf>,
    /// `OCCD_AGE_IDENTITY`.
    pub age_identity: Option<PathBuf>,
}

/// Why a path cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Neither `HOME` nor the variable that would replace it is set.
    #[error("HOME is not set, so there is no place for {0}")]
    NoHome(&'static str),
    /// `HOME` is no absolute path, so it depends on where a program is started.
    #[error("HOME is {0:?}, which is not an absolute path, so there is no place for {1}")]
    RelativeHome(PathBuf, &'static str),
    /// The socket's path does not fit a socket address.
    #[error("the socket path {path} is {len} bytes long; the system's limit is {MAX_SOCKET_PATH}")]
    SocketPathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        len: usize,
    },
    /// A socket path without a directory of its own.
    #[error("the socket path {0} must be absolute")]
    SocketNotAbsolute(PathBuf),
}

impl Env {
    /// Returns the variables of this process. An empty or relative value counts as not set, as the XDG
    /// base directory specification asks.
    pub fn from_process() -> Self {
        Self::from_lookup(|name| std::env::var_os(name))
    }

    /// Returns the variables as `lookup` tells them.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> Self {
        let absolute =
            |name: &str| lookup(name).map(PathBuf::from).filter(|path| path.is_absolute());
        Self {
            home: absolute("HOME"),
            relative_home: lookup("HOME")
                .filter(|home| !home.is_empty())
                .map(PathBuf::from)
                .filter(|home| home.is_relative()),
            xdg_runtime_dir: absolute("XDG_RUNTIME_DIR"),
            xdg_config_home: absolute(CONFIG_HOME),
            xdg_state_home: absolute(STATE_HOME),
            // Kept when relative, so that it is an error instead of being ignored.
            occ_socket: lookup("OCC_SOCKET").filter(|v| !v.is_empty()).map(PathBuf::from),
            age_identity: absolute("OCCD_AGE_IDENTITY"),
        }
    }

    /// Returns the home directory, which is needed for `what`.
    pub fn home(&self, what: &'static str) -> Result<&Path, PathError> {
        self.home.as_deref().ok_or_else(|| match &self.relative_home {
            Some(home) => PathError::RelativeHome(home.clone(), what),
            None => PathError::NoHome(what),
        })
    }

    /// Returns the directory for what outlives a reboot but is not configuration:
    /// `$XDG_STATE_HOME/occ`, else `~/.local/state/occ`.
    pub fn state_dir(&self) -> Result<PathBuf, PathError> {
        Ok(match &self.xdg_state_home {
            Some(dir) => dir.join("occ"),
            None => self.home("state")?.join(".local/state/occ"),
        })
    }

    /// Returns the directory of the control socket: `$XDG_RUNTIME_DIR/occ`, else `run` in the state
    /// directory. Never a directory that other users can write to.
    pub fn runtime_dir(&self) -> Result<PathBuf, PathError> {
        match &self.xdg_runtime_dir {
            Some(dir) => Ok(dir.join("occ")),
            None => Ok(self.state_dir()?.join(RUN_DIR)),
        }
    }

    /// Returns the control socket: `explicit` (the `--socket` option), else `OCC_SOCKET`, else
    /// `occd.sock` in [`Env::runtime_dir`].
    pub fn socket(&self, explicit: Option<&Path>) -> Result<PathBuf, PathError> {
        let path = match explicit.or(self.occ_socket.as_deref()) {
            Some(path) => path.to_owned(),
            None => self.runtime_dir()?.join("occd.sock"),
        };
        if !path.is_absolute() {
            return Err(PathError::SocketNotAbsolute(path));
        }
        let len = path.as_os_str().len();
        if len > MAX_SOCKET_PATH {
            return Err(PathError::SocketPathTooLong { path, len });
        }
        Ok(path)
    }

    /// Returns the configuration directory shared with the existing opencode-cloud tool.
    pub fn config_dir(&self) -> Result<PathBuf, PathError> {
        Ok(match &self.xdg_config_home {
            Some(dir) => dir.join("opencode-cloud"),
            None => self.home("configuration")?.join(".config/opencode-cloud"),
        })
    }

    /// Returns which of the directories that a daemon writes to are another user's than `user`, by its number, and whose.
    /// Of one that is not there yet, the nearest above it counts.
    pub fn of_others(&self, user: u32) -> impl Iterator<Item = (PathBuf, u32)> {
        let dirs = [self.state_dir().ok(), self.config_dir().ok(), self.home.clone()];
        dirs.into_iter().flatten().filter_map(move |dir| {
            let owned = |place: &Path| Some((place.to_owned(), place.metadata().ok()?.uid()));
            dir.ancestors().find_map(owned).filter(|(_, owner)| *owner != user)
        })
    }

    /// Returns the places of hosts.json, the preferred one first. The existing tool ignores
    /// XDG_CONFIG_HOME, so when that is set and its directory has no hosts.json, the one below
    /// `~/.config` is used if it is there.
    pub fn hosts_file_candidates(&self) -> Result<Vec<PathBuf>, PathError> {
        self.candidates("hosts.json")
    }

    /// Returns the places of the existing tool's config.json, in the same way.
    pub fn opencode_config_candidates(&self) -> Result<Vec<PathBuf>, PathError> {
        self.candidates("config.json")
    }

    fn candidates(&self, name: &str) -> Result<Vec<PathBuf>, PathError> {
        let mut candidates = vec![self.config_dir()?.join(name)];
        if let Some(home) = &self.home {
            let theirs = home.join(".config/opencode-cloud").join(name);
            if !candidates.contains(&theirs) {
                candidates.push(theirs);
            }
        }
        Ok(candidates)
    }

    /// Returns our own settings file, beside hosts.json.
    pub fn config_file(&self) -> Result<PathBuf, PathError> {
        Ok(self.config_dir()?.join("occd.toml"))
    }

    /// Returns the settings file in its encrypted form, which is read in place of the other.
    pub fn sealed_config_file(&self) -> Result<PathBuf, PathError> {
        Ok(self.config_dir()?.join("occd.toml.age"))
    }

    /// Returns the identity file with the key that opens encrypted files.
    pub fn age_identity(&self) -> Result<PathBuf, PathError> {
        match &self.age_identity {
            Some(path) => Ok(path.clone()),
            None => Ok(self.config_dir()?.join("age-identity.txt")),
        }
    }

    /// Returns the file of kept passwords, for machines without a keyring.
    pub fn secrets_file(&self) -> Result<PathBuf, PathError> {
        Ok(self.state_dir()?.join("passwords.age"))
    }

    /// Returns the files of the audit log, the oldest first: the last is the one that is written to.
    pub fn audit_files(&self) -> Result<Vec<PathBuf>, PathError> {
        Ok(audit_files(&self.state_dir()?))
    }

    /// Returns the log file of a daemon that was started by `occ`.
    pub fn log_file(&self) -> Result<PathBuf, PathError> {
        Ok(self.state_dir()?.join("occd.log"))
    }
}

/// How many full files of the audit log are kept beside the one that is written to.
const OLD_AUDIT_FILES: usize = 4;

/// Returns the files of the audit log in a state directory, the oldest first.
pub fn audit_files(state_dir: &Path) -> Vec<PathBuf> {
    let old = (1..=OLD_AUDIT_FILES).rev().map(|age| format!("audit.jsonl.{age}"));
    old.chain(["audit.jsonl".to_owned()]).map(|name| state_dir.join(name)).collect()
}

/// Returns `path` with a leading `~/` replaced by `home`.
pub fn expand_tilde(path: &str, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ if path == "~" => home.map_or_else(|| PathBuf::from(path), Path::to_path_buf),
        _ => PathBuf::from(path),
    }
}

/// Returns `path` as a person knows it: with `~/` in place of `home`.
pub fn with_tilde(path: &Path, home: &Path) -> String {
    match path.strip_prefix(home) {
        Ok(rest) => format!("~/{}", rest.display()),
        Err(_) => path.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Env {
        Env::from_lookup(|name| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn the_socket_is_private_with_and_without_a_runtime_dir() {
        let with = env(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/run/user/1")]);
        assert_eq!(with.socket(None).unwrap(), Path::new("/run/user/1/occ/occd.sock"));
        let without = env(&[("HOME", "/h")]);
        assert_eq!(without.socket(None).unwrap(), Path::new("/h/.local/state/occ/run/occd.sock"));
        assert_eq!(env(&[]).socket(None), Err(PathError::NoHome("state")));
        assert_eq!(env(&[("HOME", "")]).socket(None), Err(PathError::NoHome("state")));
        let relative = env(&[("HOME", "h")]).socket(None).unwrap_err();
        assert_eq!(relative, PathError::RelativeHome("h".into(), "state"));
        assert!(relative.to_string().starts_with("HOME is \"h\", which is not an absolute path"));
    }

    #[test]
    fn overrides_win_and_are_checked() {
        let e = env(&[("HOME", "/h"), ("OCC_SOCKET", "/x/s")]);
        assert_eq!(e.socket(None).unwrap(), Path::new("/x/s"));
        assert_eq!(e.socket(Some(Path::new("/y/s"))).unwrap(), Path::new("/y/s"));
        assert!(matches!(e.socket(Some(Path::new("s"))), Err(PathError::SocketNotAbsolute(_))));
        let long = format!("/{}", "x".repeat(MAX_SOCKET_PATH));
        assert!(matches!(
            e.socket(Some(Path::new(&long))),
            Err(PathError::SocketPathTooLong { .. })
        ));
    }

    #[test]
    fn hosts_json_falls_back_to_where_the_existing_tool_keeps_it() {
        let e = env(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/c")]);
        assert_eq!(
            e.hosts_file_candidates().unwrap(),
            [
                PathBuf::from("/c/opencode-cloud/hosts.json"),
                PathBuf::from("/h/.config/opencode-cloud/hosts.json")
            ]
        );
        let plain = env(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "relative")]);
        assert_eq!(plain.hosts_file_candidates().unwrap().len(), 1);
    }

    #[test]
    fn tilde_is_the_home_directory() {
        let home = Some(Path::new("/h"));
        assert_eq!(expand_tilde("~/k", home), Path::new("/h/k"));
        assert_eq!(expand_tilde("/k", home), Path::new("/k"));
        assert_eq!(expand_tilde("~u/k", home), Path::new("~u/k"));
    }
}
