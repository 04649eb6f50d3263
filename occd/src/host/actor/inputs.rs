//! What a login that failed depended on: when that changes, the next command tries again.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;

use occ_proto::Secret;
use occ_proto::paths::DEFAULT_KEYS;

use super::Actor;
use crate::ssh::ConnectError;
use crate::ssh::dial::DialEnvironment;

/// The files that decide whether a login that failed would fail again.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Inputs(Vec<(PathBuf, Option<[i64; 6]>)>);

impl Inputs {
    /// Returns how these files look, and those that any login depends on.
    pub(super) fn of(files: &[PathBuf], environment: &DialEnvironment) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        let ssh = environment.home.join(".ssh");
        let always = ["config", "known_hosts"].into_iter().chain(DEFAULT_KEYS);
        let paths = always.map(|file| ssh.join(file)).chain(files.iter().cloned());
        let stamp = |path: &PathBuf| {
            let m = std::fs::metadata(path).ok()?;
            // With nanoseconds: a file that is mended at once often keeps its length.
            let (ino, len) = (m.ino().cast_signed(), m.len().cast_signed());
            Some([ino, len, m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()])
        };
        let with_stamp = |path: PathBuf| {
            let stamp = stamp(&path);
            (path, stamp)
        };
        Self(paths.map(with_stamp).collect())
    }

    /// Returns whether one of the files looks otherwise by now.
    fn have_changed(&self, environment: &DialEnvironment) -> bool {
        let files: Vec<PathBuf> = self.0.iter().map(|(path, _)| path.clone()).collect();
        let now = Self::of(&files, environment);
        self.0.iter().any(|then| !now.0.contains(then))
    }
}

impl Actor {
    /// Returns whether somebody waits who can answer what the last dial failed for.
    pub(super) fn is_answerable(&self) -> bool {
        let error = self.last_error.as_ref().map(|(error, _)| error);
        error.is_some_and(|error| error.needs_answer()) && self.questions.can_ask()
    }

    /// Returns whether a login that failed may go otherwise now.
    pub(super) fn inputs_changed(&self) -> bool {
        let error = self.last_error.as_ref().map(|(error, _)| error);
        // Nothing here says whether the jump host was mended; asking it costs no login.
        let of_hop = error.is_some_and(|error| {
            matches!(**error, ConnectError::Hop { .. } | ConnectError::HopConnect { .. })
        });
        let another_key = self.given_keys().iter().any(|key| !self.tried_keys.contains(key));
        of_hop || another_key || self.files_changed()
    }

    pub(super) fn given_keys(&self) -> Vec<u64> {
        let hash = |key: &Secret| {
            let mut hasher = DefaultHasher::new();
            key.expose().hash(&mut hasher);
            hasher.finish()
        };
        self.questions.keys().iter().map(hash).collect()
    }

    pub(super) fn files_changed(&self) -> bool {
        self.inputs.as_ref().is_some_and(|inputs| inputs.have_changed(&self.context.dial))
    }
}
