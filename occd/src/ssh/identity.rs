//! Private key files: checked, then read.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use occ_proto::Secret;
use russh::keys::{PrivateKey, PublicKey};
use zeroize::Zeroizing;

use super::error::IdentityError;
use super::private_key;

/// The largest file that is looked at; an RSA key of 16384 bits has 13 KiB.
const LIMIT: u64 = 256 * 1024;
/// What a file is in the words of an error.
pub(super) const A_PUBLIC_KEY: &str = "a public key";

/// What an identity file holds.
#[derive(Debug, Clone)]
pub enum Identity {
    /// A key that can sign.
    Key(Arc<PrivateKey>),
    /// A key behind a passphrase; its public part tells whether an agent holds it.
    Locked(Option<Box<PublicKey>>),
    /// Only a public key: it names one that an agent may hold, such as that of a security key.
    Public(Box<PublicKey>),
}

/// Reads an identity file. As with ssh, it may be a public key, or be missing where one with `.pub` behind its
/// name is there (`IdentityFile` and `IdentitiesOnly` of ssh_config(5)).
pub fn load(path: &Path) -> Result<Identity, IdentityError> {
    let text = match read(path) {
        Ok(text) => text,
        Err(error) => {
            let public = match &error {
                IdentityError::NotAKey { what: A_PUBLIC_KEY, .. } => read_public(path),
                error if error.is_not_found() => read_public(&with_pub(path)),
                _ => None,
            };
            return public.map(Identity::Public).ok_or(error);
        }
    };
    // PKCS#8 says so in its first line; russh tries to read on.
    if text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") {
        return Ok(Identity::Locked(public_part(path, &text)));
    }
    match private_key::decode(&text, None) {
        Ok(key) => Ok(Identity::Key(Arc::new(key))),
        Err(russh::keys::Error::KeyIsEncrypted) => Ok(Identity::Locked(public_part(path, &text))),
        Err(source) => Err(IdentityError::Damaged { path: path.to_owned(), source }),
    }
}

/// Opens a locked key. Returns nothing if that is not its passphrase.
pub fn open(path: &Path, passphrase: &Secret) -> Result<Option<PrivateKey>, IdentityError> {
    let text = read(path)?;
    match private_key::decode(&text, Some(passphrase.expose())) {
        Ok(key) => Ok(Some(key)),
        // Only OpenSSH's format tells a wrong passphrase from a damaged file.
        Err(source @ russh::keys::Error::SshKey(_)) if !is_wrong_passphrase(&source) => {
            Err(IdentityError::Damaged { path: path.to_owned(), source })
        }
        Err(_) => Ok(None),
    }
}

fn is_wrong_passphrase(error: &russh::keys::Error) -> bool {
    matches!(error, russh::keys::Error::SshKey(russh::keys::ssh_key::Error::Crypto))
}

/// Returns an identity file's text. It must be a regular file of this user that nobody else can read, as ssh
/// demands. Small enough to read without leaving the task.
fn read(path: &Path) -> Result<Zeroizing<String>, IdentityError> {
    let path_buf = || path.to_owned();
    let read = |source| IdentityError::Read { path: path.to_owned(), source };
    let metadata = std::fs::metadata(path).map_err(read)?;
    if !metadata.is_file() {
        return Err(IdentityError::NotAFile { path: path_buf() });
    }
    let not_a_key = |what| Err(IdentityError::NotAKey { path: path.to_owned(), what });
    if metadata.len() > LIMIT {
        return not_a_key("far too large");
    }
    let bytes = std::fs::read(path).map_err(read)?;
    let Ok(text) = String::from_utf8(bytes) else { return not_a_key("a binary file") };
    let text = Zeroizing::new(text);
    let start = text.trim_start();
    if start.starts_with("PuTTY-User-Key-File") {
        return not_a_key("a PuTTY key (convert it: puttygen KEY -O private-openssh -o NEW)");
    }
    if ["ssh-", "ecdsa-", "sk-"].iter().any(|kind| start.starts_with(kind)) {
        return not_a_key(A_PUBLIC_KEY);
    }
    if start.is_empty() {
        return not_a_key("empty");
    }
    if !start.contains("PRIVATE KEY-----") {
        return not_a_key("some other file");
    }
    // Checked after the content: whoever names a public key should hear that first.
    let owner = metadata.uid();
    if owner != rustix::process::geteuid().as_raw() {
        return Err(IdentityError::WrongOwner { path: path_buf(), owner });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::TooOpen { path: path_buf(), mode });
    }
    Ok(text)
}

/// Returns the public part of a locked key: OpenSSH's format holds it unencrypted; for the others the
/// file with `.pub` behind its name is asked, as ssh does.
fn public_part(path: &Path, text: &str) -> Option<Box<PublicKey>> {
    if let Ok(key) = PrivateKey::from_openssh(text) {
        return Some(Box::new(key.public_key().clone()));
    }
    read_public(&with_pub(path))
}

fn with_pub(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

fn read_public(path: &Path) -> Option<Box<PublicKey>> {
    let metadata = std::fs::metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() > LIMIT {
        return None;
    }
    let line = std::fs::read_to_string(path).ok()?;
    PublicKey::from_openssh(line.trim()).ok().map(Box::new)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use super::*;

    fn keygen(dir: &Path, name: &str, args: &[&str]) -> PathBuf {
        let path = dir.join(name);
        let status = Command::new("ssh-keygen")
            .args(["-q", "-f"])
            .arg(&path)
            .args(args)
            .status()
            .expect("ssh-keygen is part of the ssh client");
        assert!(status.success());
        path
    }

    fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    #[test]
    fn real_keys_load() {
        let dir = tempfile::tempdir().unwrap();
        for (name, args) in [
            ("ed25519", &["-t", "ed25519", "-N", ""][..]),
            ("ecdsa", &["-t", "ecdsa", "-N", ""]),
            ("rsa", &["-t", "rsa", "-b", "2048", "-N", ""]),
            ("pem", &["-t", "rsa", "-b", "2048", "-m", "PEM", "-N", ""]),
        ] {
            let path = keygen(dir.path(), name, args);
            assert!(matches!(load(&path).unwrap(), Identity::Key(_)), "{name}");
        }
        let locked = keygen(dir.path(), "locked", &["-t", "ed25519", "-N", "secret"]);
        let Identity::Locked(Some(public)) = load(&locked).unwrap() else { panic!("not locked") };
        let line = fs::read_to_string(dir.path().join("locked.pub")).unwrap();
        assert_eq!(public.key_data(), PublicKey::from_openssh(&line).unwrap().key_data());
    }

    #[test]
    fn a_public_key_may_stand_for_one_that_an_agent_holds() {
        let dir = tempfile::tempdir().unwrap();
        let path = keygen(dir.path(), "key", &["-t", "ed25519", "-N", ""]);
        let Identity::Key(key) = load(&path).unwrap() else { panic!("not a key") };
        let public = path.with_extension("pub");
        fs::remove_file(&path).unwrap();
        for path in [path, public] {
            let Identity::Public(found) = load(&path).unwrap() else { panic!("not public") };
            assert_eq!(found.key_data(), key.public_key().key_data());
        }
    }

    #[test]
    fn a_locked_key_opens_with_its_passphrase_only() {
        let dir = tempfile::tempdir().unwrap();
        let secret = |text: &str| Secret::new(text.to_owned());
        for (name, args) in [
            ("ed25519", &["-t", "ed25519"][..]),
            ("rsa", &["-t", "rsa", "-b", "2048"]),
            ("pem", &["-t", "rsa", "-b", "2048", "-m", "PEM"]),
            ("pkcs8", &["-t", "ecdsa", "-m", "PKCS8"]),
        ] {
            let path = keygen(dir.path(), name, &[args, &["-N", "open sesame"]].concat());
            assert!(matches!(load(&path).unwrap(), Identity::Locked(Some(_))), "{name}");
            assert!(open(&path, &secret("wrong")).unwrap().is_none(), "{name}");
            let key = open(&path, &secret("open sesame")).unwrap().unwrap();
            let line = fs::read_to_string(dir.path().join(format!("{name}.pub"))).unwrap();
            let public = PublicKey::from_openssh(&line).unwrap();
            assert_eq!(key.public_key().key_data(), public.key_data(), "{name}");
        }
    }

    #[test]
    fn each_bad_file_gets_its_own_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let good = keygen(dir.path(), "good", &["-t", "ed25519", "-N", ""]);
        let says = |path: &Path| load(path).unwrap_err().to_string();

        assert!(says(&dir.path().join("missing")).contains("cannot be read"));
        assert!(says(dir.path()).contains("not a regular file"));
        let broken = write(dir.path(), "broken.pub", "ssh-ed25519 AAAA");
        assert!(says(&broken).contains("is a public key"));
        assert!(says(&write(dir.path(), "e", "")).contains("is empty"));
        assert!(says(&write(dir.path(), "t", "hello")).contains("some other file"));
        assert!(says(&write(dir.path(), "p", "PuTTY-User-Key-File-3: x")).contains("PuTTY"));
        let text = fs::read_to_string(&good).unwrap();
        assert!(says(&write(dir.path(), "cut", &text[..text.len() / 2])).contains("damaged"));
        fs::set_permissions(&good, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(says(&good).contains("has mode 0644"));
    }
}
