//! What a login that failed depended on: when that changes, the next command tries again.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;

use occ_proto::{HostConfig, Secret};

use super::Actor;
use crate::ssh::dial::DialEnvironment;
use crate::ssh::{ConnectError, certificate_beside};

/// The files that decide whether a login that failed would fail again.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Inputs(Vec<(PathBuf, Option<[i64; 6]>)>);

impl Inputs {
    pub(super) fn now(config: &HostConfig, environment: &DialEnvironment) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        let ssh = environment.home.join(".ssh");
        let mut paths: Vec<PathBuf> = ["config", "known_hosts", "id_ed25519", "id_ecdsa", "id_rsa"]
            .map(|f| ssh.join(f))
            .into();
        if let Some(path) = &config.identity_file {
            paths.push(occ_proto::paths::expand_tilde(path, Some(&environment.home)));
        }
        // The certificates beside the keys, which are renewed more often than those.
        let certificates: Vec<PathBuf> =
            paths.iter().map(|path| certificate_beside(path)).collect();
        paths.extend(certificates);
        let stamp = |path: &PathBuf| {
            let m = std::fs::metadata(path).ok()?;
            // With nanoseconds: a file that is mended at once often keeps its length.
            let (ino, len) = (m.ino().cast_signed(), m.len().cast_signed());
            Some([ino, len, m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()])
        };
        Self(
            paths
                .into_iter()
                .map(|path| {
                    let s = stamp(&path);
                    (path, s)
                })
                .collect(),
        )
    }
}

impl Actor {
    /// Returns whether a login that failed may go otherwise now.
    pub(super) fn inputs_changed(&self) -> bool {
        let error = self.last_error.as_ref().map(|(error, _)| error);
        let answerable = error.is_some_and(|error| error.needs_answer());
        // Nothing here says whether the jump host was mended; asking it costs no login.
        let of_hop = error.is_some_and(|error| {
            matches!(**error, ConnectError::Hop { .. } | ConnectError::HopConnect { .. })
        });
        let another_key = self.given_keys().iter().any(|key| !self.tried_keys.contains(key));
        (answerable && self.questions.can_ask()) || of_hop || another_key || self.files_changed()
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
        self.inputs
            .as_ref()
            .is_some_and(|then| *then != Inputs::now(&self.config, &self.context.dial))
    }
}
