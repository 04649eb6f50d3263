//! Files that are encrypted with age (<https://age-encryption.org/v1>): to the key in an identity file, as
//! `age-keygen` makes it, or with a passphrase.

use std::io::{BufReader, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use age::armor::ArmoredReader;
use age::secrecy::SecretString;
use age::{DecryptError, Decryptor, Encryptor, IdentityFile};
use occ_proto::Secret;
use zeroize::Zeroizing;

/// The largest content that is read; settings and passwords have some KiB.
const LIMIT: u64 = 1024 * 1024;

/// What opens a file.
#[derive(Debug, Clone)]
pub enum Key {
    /// An identity file: of this user, and of nobody else to read.
    Identity(PathBuf),
    /// A passphrase. Trying one takes a second on purpose.
    Passphrase(Secret),
}

/// Why a file cannot be opened or made.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Another kind of key is needed.
    #[error("it is encrypted with a passphrase")]
    NeedsPassphrase,
    /// The passphrase is wrong.
    #[error("that passphrase is wrong")]
    WrongPassphrase,
    /// There is no identity file.
    #[error("its key is expected in {}, which cannot be read", path.display())]
    Identity {
        /// The identity file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The identity file is not this user's alone.
    #[error("{} must be yours and closed to others (chmod 600)", path.display())]
    Exposed {
        /// The identity file.
        path: PathBuf,
    },
    /// The identity file has another key.
    #[error("the key in {} does not open it", path.display())]
    OtherKey {
        /// The identity file.
        path: PathBuf,
    },
    /// It is no age file, is damaged, or is larger than 1 MiB.
    #[error("it is no age file, or is damaged ({0})")]
    Damaged(String),
}

/// Returns whether a passphrase opens a file, and not an identity.
pub fn is_by_passphrase(sealed: &[u8]) -> Result<bool, SealError> {
    let decryptor = Decryptor::new_buffered(BufReader::new(ArmoredReader::new(sealed)));
    Ok(decryptor.map_err(damaged)?.is_scrypt())
}

/// Returns what is in a file.
pub fn unseal(sealed: &[u8], key: &Key) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let decryptor =
        Decryptor::new_buffered(BufReader::new(ArmoredReader::new(sealed))).map_err(damaged)?;
    let reader = match key {
        Key::Passphrase(passphrase) => {
            let identity = age::scrypt::Identity::new(secret_string(passphrase));
            decryptor.decrypt(std::iter::once(&identity as _)).map_err(|error| match error {
                DecryptError::DecryptionFailed | DecryptError::NoMatchingKeys => {
                    SealError::WrongPassphrase
                }
                other => damaged(other),
            })?
        }
        Key::Identity(_) if decryptor.is_scrypt() => return Err(SealError::NeedsPassphrase),
        Key::Identity(path) => {
            let identities = identity_file(path)?.into_identities().map_err(damaged)?;
            let identities = identities.iter().map(|identity| &**identity as _);
            decryptor.decrypt(identities).map_err(|error| match error {
                DecryptError::NoMatchingKeys => SealError::OtherKey { path: path.clone() },
                other => damaged(other),
            })?
        }
    };
    // Room for all of it at once: a buffer that grows leaves copies behind.
    let room = usize::try_from(LIMIT.min(sealed.len() as u64)).unwrap_or_default();
    let mut content = Zeroizing::new(Vec::with_capacity(room));
    let read = reader.take(LIMIT + 1).read_to_end(&mut content).map_err(damaged)?;
    if read as u64 > LIMIT {
        return Err(SealError::Damaged("it is larger than 1 MiB".into()));
    }
    Ok(content)
}

/// Returns a file with that content.
pub fn seal(content: &[u8], key: &Key) -> Result<Vec<u8>, SealError> {
    let encryptor = match key {
        Key::Passphrase(passphrase) => Encryptor::with_user_passphrase(secret_string(passphrase)),
        Key::Identity(path) => {
            let recipients = identity_file(path)?.to_recipients().map_err(damaged)?;
            let recipients = recipients.iter().map(|recipient| &**recipient as _);
            Encryptor::with_recipients(recipients).map_err(damaged)?
        }
    };
    let mut sealed = Vec::new();
    let mut writer = encryptor.wrap_output(&mut sealed).map_err(damaged)?;
    writer.write_all(content).map_err(damaged)?;
    writer.finish().map_err(damaged)?;
    Ok(sealed)
}

fn secret_string(passphrase: &Secret) -> SecretString {
    SecretString::from(passphrase.expose().to_owned())
}

fn identity_file(path: &Path) -> Result<IdentityFile<age::NoCallbacks>, SealError> {
    let failed = |source| SealError::Identity { path: path.to_owned(), source };
    let metadata = std::fs::metadata(path).map_err(failed)?;
    let is_ours = metadata.uid() == rustix::process::geteuid().as_raw();
    if !is_ours || metadata.mode() & 0o077 != 0 {
        return Err(SealError::Exposed { path: path.to_owned() });
    }
    if !metadata.is_file() || metadata.len() > LIMIT {
        return Err(failed(std::io::Error::other("it is no regular file, or far too large")));
    }
    let text = Zeroizing::new(std::fs::read(path).map_err(failed)?);
    IdentityFile::from_buffer(&text[..]).map_err(failed)
}

fn damaged(error: impl std::fmt::Display) -> SealError {
    // The library's words are for a terminal: lines, and marks of direction around its arguments.
    let text = error.to_string();
    SealError::Damaged(occ_proto::text::sanitize(text.lines().next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn identity(directory: &Path, name: &str) -> Key {
        use age::secrecy::ExposeSecret as _;
        let path = directory.join(name);
        let key = age::x25519::Identity::generate().to_string();
        std::fs::write(&path, format!("# a comment\n{}\n", key.expose_secret())).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        Key::Identity(path)
    }

    #[test]
    fn a_file_is_opened_by_what_it_was_sealed_with_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (ours, other) =
            (identity(directory.path(), "ours"), identity(directory.path(), "other"));
        let sealed = seal(b"content", &ours).unwrap();
        assert!(!sealed.windows(7).any(|bytes| bytes == b"content"));
        assert!(!is_by_passphrase(&sealed).unwrap());
        assert_eq!(unseal(&sealed, &ours).unwrap().as_slice(), b"content");
        assert!(matches!(unseal(&sealed, &other), Err(SealError::OtherKey { .. })));

        let Key::Identity(path) = &ours else { unreachable!() };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(unseal(&sealed, &ours), Err(SealError::Exposed { .. })));
        std::fs::remove_file(path).unwrap();
        assert!(matches!(unseal(&sealed, &ours), Err(SealError::Identity { .. })));

        let (right, wrong) = ("right".to_owned(), "wrong".to_owned());
        let (right, wrong) =
            (Key::Passphrase(Secret::new(right)), Key::Passphrase(Secret::new(wrong)));
        let sealed = seal(b"content", &right).unwrap();
        assert!(is_by_passphrase(&sealed).unwrap());
        assert_eq!(unseal(&sealed, &right).unwrap().as_slice(), b"content");
        assert!(matches!(unseal(&sealed, &wrong), Err(SealError::WrongPassphrase)));
        assert!(matches!(unseal(&sealed, &other), Err(SealError::NeedsPassphrase)));
    }

    #[test]
    fn damage_is_told_in_one_line() {
        let directory = tempfile::tempdir().unwrap();
        let key = identity(directory.path(), "ours");
        let mut sealed = seal(b"content", &key).unwrap();
        *sealed.last_mut().unwrap() ^= 1;
        for bytes in [&sealed[..], &sealed[..30], b"", b"[security]\n", b"age-encryption.org/v1\n"]
        {
            let error = unseal(bytes, &key).unwrap_err().to_string();
            assert!(error.starts_with("it is no age file, or is damaged ("), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
