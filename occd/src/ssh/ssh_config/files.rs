//! Whether an answer of `ssh -G` still holds: the state of the files it was made from.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How long an answer holds that may depend on something we do not watch.
const UNWATCHED: Duration = Duration::from_secs(2);
/// The largest configuration file that is looked into.
const MAX_CONFIG: u64 = 1024 * 1024;
/// The system's configuration, which ssh reads after the user's.
const SYSTEM_DIR: &str = "/etc/ssh";

/// The state of the configuration files, and how long an answer made from them may be kept.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Files {
    pub(super) stamps: Vec<(PathBuf, Option<Stamp>)>,
    /// Nothing means until a file changes.
    pub(super) lasts: Option<Duration>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl Files {
    /// Looks at the files that ssh reads: `config` below `home`, the system's one, and the directories
    /// that are customarily included from each. `ssh_home` is what ssh takes for home.
    pub(super) fn survey(home: &Path, ssh_home: &Path) -> Self {
        let user_base = ssh_home.join(".ssh");
        let system_base = PathBuf::from(SYSTEM_DIR);
        let watched = [user_base.join("config.d"), system_base.join("ssh_config.d")];
        let mut files = Self::default();
        for (main, base, directory) in [
            (home.join(".ssh/config"), &user_base, &watched[0]),
            (system_base.join("ssh_config"), &system_base, &watched[1]),
        ] {
            files.look_into(main, ssh_home, base, &watched);
            files.stamp(directory.clone());
            let Ok(entries) = directory.read_dir() else { continue };
            let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
            paths.sort();
            for path in paths {
                files.look_into(path, ssh_home, base, &watched);
            }
        }
        files
    }

    /// Notes a path's state, and returns whether it is a file to look into.
    fn stamp(&mut self, path: PathBuf) -> bool {
        let metadata = std::fs::metadata(&path).ok();
        let is_file = metadata.as_ref().is_some_and(|metadata| metadata.is_file());
        let stamp = metadata.map(|metadata| Stamp {
            modified: metadata.modified().ok(),
            length: metadata.len(),
            inode: metadata.ino(),
        });
        self.stamps.push((path, stamp));
        is_file
    }

    fn look_into(&mut self, path: PathBuf, ssh_home: &Path, base: &Path, watched: &[PathBuf]) {
        if !self.stamp(path.clone()) {
            return;
        }
        let mut content = Vec::new();
        let read =
            File::open(&path).and_then(|file| file.take(MAX_CONFIG + 1).read_to_end(&mut content));
        if read.is_err() || content.len() as u64 > MAX_CONFIG {
            self.shorten(Duration::ZERO);
            return;
        }
        let is_watched = |pattern: &str| {
            let path = match pattern.strip_prefix("~/") {
                Some(rest) => ssh_home.join(rest),
                None => base.join(pattern),
            };
            watched.iter().any(|directory| path.parent() == Some(directory))
        };
        for line in String::from_utf8_lossy(&content).lines() {
            if let Some(limit) = limit_of(line, is_watched) {
                self.shorten(limit);
            }
        }
    }

    fn shorten(&mut self, limit: Duration) {
        self.lasts = Some(self.lasts.map_or(limit, |lasts| lasts.min(limit)));
    }
}

/// Returns how long an answer may be kept in view of one line of configuration, if that is a matter of time:
/// not at all when commands or the network decide, and shortly when a file or a name server we do not
/// watch does. In doubt the shorter.
pub(super) fn limit_of(line: &str, is_watched: impl Fn(&str) -> bool) -> Option<Duration> {
    let line = line.replace('"', " ");
    let is_separator = |c: char| c.is_whitespace() || c == '=';
    let (keyword, rest) = line.trim_start().split_once(is_separator)?;
    let rest = rest.trim_matches(is_separator);
    let lower = rest.to_ascii_lowercase();
    match keyword.to_ascii_lowercase().as_str() {
        "match" if lower.contains("exec") || lower.contains("localnetwork") => Some(Duration::ZERO),
        "include" if !rest.split_whitespace().all(is_watched) => Some(UNWATCHED),
        "canonicalizehostname" if lower != "no" => Some(UNWATCHED),
        _ => None,
    }
}
