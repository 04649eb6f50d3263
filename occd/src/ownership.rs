//! Whether a settings file is to be trusted: who can write to it decides where connections go.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;

/// Somebody else can write to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Exposed {
    /// It is neither this user's nor root's.
    #[error("belongs to user id {0}, not to you (chown)")]
    Owner(u32),
    /// Its mode lets others write, or a group that is not this user's own.
    #[error("can be written by others, its mode is {0:04o} (chmod go-w)")]
    Mode(u32),
}

/// Refuses a file that somebody else could have written. The user's own group may write: where everybody has a
/// group of their own, that is how files come into being (a umask of 002).
pub fn check(metadata: &Metadata) -> Result<(), Exposed> {
    let own_group = metadata.gid() == rustix::process::getegid().as_raw();
    check_bits(metadata, if own_group { 0o002 } else { 0o022 })
}

/// The same, and no group may write, as ssh has it for its own files (ssh_config(5), FILES).
pub fn check_strictly(metadata: &Metadata) -> Result<(), Exposed> {
    check_bits(metadata, 0o022)
}

fn check_bits(metadata: &Metadata, others: u32) -> Result<(), Exposed> {
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if ![0, rustix::process::geteuid().as_raw()].contains(&owner) {
        return Err(Exposed::Owner(owner));
    }
    if mode & others == 0 { Ok(()) } else { Err(Exposed::Mode(mode)) }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_that_others_can_write_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let file = File::create(&path).unwrap();
        for (mode, good) in
            [(0o600, true), (0o644, true), (0o664, true), (0o666, false), (0o602, false)]
        {
            file.set_permissions(Permissions::from_mode(mode)).unwrap();
            let refused = check(&file.metadata().unwrap()).err();
            assert_eq!(refused, (!good).then_some(Exposed::Mode(mode)), "{mode:o}");
            let strictly = check_strictly(&file.metadata().unwrap()).is_ok();
            assert_eq!(strictly, good && mode != 0o664, "{mode:o}");
        }
    }
}
