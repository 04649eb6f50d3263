//! The keys that `RevokedHostKeys` of ssh_config(5) names: refused whatever else is on record, and as authorities.

use std::fs::File;
use std::io;
use std::path::Path;

use russh::keys::{Certificate, PublicKey};

use super::{Entry, Hosts, KnownHosts, KnownHostsError, is_regular, read_capped};

/// What a key revocation list begins with (PROTOCOL.krl of OpenSSH).
const KRL: &[u8] = b"SSHKRL\n\0";

/// Why a file of `RevokedHostKeys` cannot be used. As with ssh, no host can be trusted then.
#[derive(Debug, thiserror::Error)]
pub enum RevokedKeysError {
    /// It is not there, or cannot be read.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    /// It is in the binary format.
    #[error(
        "it is a key revocation list (KRL), which occd does not understand; \
         name a text file with the public keys instead"
    )]
    Krl,
    /// A line is no public key.
    #[error("line {0} is no public key")]
    Line(usize),
}

impl KnownHosts {
    /// Revokes the keys of a file, one a line, for every host.
    ///
    /// # Errors
    /// When the file cannot be read as a whole.
    pub fn revoke(&mut self, path: &Path) -> Result<(), KnownHostsError> {
        let fail = |source| KnownHostsError::RevokedKeys { path: path.to_owned(), source };
        let read = |error| fail(RevokedKeysError::Read(error));
        // Looked at before opening: opening a pipe would wait for its writer.
        if !is_regular(path, &std::fs::metadata(path).map_err(read)?)? {
            return Ok(());
        }
        let content = read_capped(path, &File::open(path).map_err(read)?)?;
        if content.starts_with(KRL) {
            return Err(fail(RevokedKeysError::Krl));
        }
        for (index, line) in content.split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let key = key(line).ok_or_else(|| fail(RevokedKeysError::Line(index + 1)))?;
            let hosts = Hosts::Patterns(b"*".to_vec().into());
            self.revoked.push(Entry { file: path.into(), line: index + 1, hosts, key });
        }
        Ok(())
    }
}

/// Returns the key of a line, also that of a certificate.
fn key(line: &[u8]) -> Option<PublicKey> {
    let text = std::str::from_utf8(line).ok()?;
    if let Ok(certificate) = Certificate::from_openssh(text) {
        return Some(PublicKey::new(certificate.public_key().clone(), ""));
    }
    PublicKey::from_openssh(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_understood_as_a_whole_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("revoked");
        let mut known = KnownHosts::default();
        let mut revoke = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            match known.revoke(&path) {
                Ok(()) => String::new(),
                Err(error) => crate::ssh::error::chain(&error),
            }
        };
        assert_eq!(revoke(b"\n # nothing\n"), "");
        assert!(revoke(b"SSHKRL\n\0\0\0").contains("key revocation list (KRL)"));
        assert!(revoke(b"# x\nssh-ed25519 AAAA\n").contains("line 2 is no public key"));
        assert!(revoke(b"\xff\n").contains("line 1 is no public key"));
        std::fs::remove_file(&path).unwrap();
        let error = known.revoke(&path).unwrap_err();
        assert!(error.to_string().contains("RevokedHostKeys"), "{error}");
        assert!(known.revoke(Path::new("/dev/null")).is_ok());
    }
}
