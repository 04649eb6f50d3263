//! Reading the text of a private key, also of one whose secret number is short.
//!
//! OpenSSH writes numbers without leading zeros (RFC 4251, section 5), so the secret of one NIST P-256 key in 256 has 31
//! bytes or fewer. The ssh-key crate refuses what is shorter than 32 (0.7.0-rc.11): such a key is read here.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use russh::keys::ssh_encoding::Decode as _;
use russh::keys::ssh_key::private::{EcdsaKeypair, KeypairData};
use russh::keys::{Error, PrivateKey, decode_secret_key};
use zeroize::Zeroizing;

const MAGIC: &[u8] = b"openssh-key-v1\0";
const P256: &[u8] = b"ecdsa-sha2-nistp256";
/// The bytes of a secret number of P-256.
const SECRET: usize = 32;

/// Reads a private key in any of the usual forms.
///
/// # Errors
/// As russh has them.
pub(super) fn decode(text: &str, passphrase: Option<&str>) -> Result<PrivateKey, Error> {
    let error = match decode_secret_key(text, passphrase) {
        Ok(key) => return Ok(key),
        Err(error) => error,
    };
    decode_short(text, passphrase).ok_or(error)
}

/// Reads an OpenSSH key of P-256; nothing where it is none, or the passphrase is wrong.
fn decode_short(text: &str, passphrase: Option<&str>) -> Option<PrivateKey> {
    let section = match passphrase {
        None => unencrypted(text)?,
        Some(passphrase) => decrypted(text, passphrase)?,
    };
    let mut rest = section.as_slice();
    let (check, again) = (take(&mut rest, 4)?, take(&mut rest, 4)?);
    if check != again || string(&mut rest)? != P256 {
        return None;
    }
    let (curve, point, secret) = (string(&mut rest)?, string(&mut rest)?, string(&mut rest)?);
    let comment = String::from_utf8(string(&mut rest)?.to_vec()).ok()?;
    if secret.is_empty() || secret.len() >= SECRET {
        return None;
    }
    let mut whole = Zeroizing::new(Vec::with_capacity(256));
    let mut padded = Zeroizing::new([0; SECRET]);
    padded[SECRET - secret.len()..].copy_from_slice(secret);
    for part in [curve, point, padded.as_slice()] {
        whole.extend_from_slice(&u32::try_from(part.len()).ok()?.to_be_bytes());
        whole.extend_from_slice(part);
    }
    let pair = EcdsaKeypair::decode(&mut whole.as_slice()).ok()?;
    PrivateKey::new(KeypairData::Ecdsa(pair), comment).ok()
}

/// Returns the private section of a key without a passphrase (PROTOCOL.key of OpenSSH).
fn unencrypted(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let (_, body) = text.split_once("-----BEGIN OPENSSH PRIVATE KEY-----")?;
    let (body, _) = body.split_once("-----END")?;
    let body: Zeroizing<String> = Zeroizing::new(body.split_ascii_whitespace().collect());
    let bytes = Zeroizing::new(STANDARD.decode(body.as_bytes()).ok()?);
    let mut rest = bytes.strip_prefix(MAGIC)?;
    let (cipher, _kdf, _options) = (string(&mut rest)?, string(&mut rest)?, string(&mut rest)?);
    let count = take(&mut rest, 4)?;
    if cipher != b"none" || count != 1u32.to_be_bytes() {
        return None;
    }
    let _public = string(&mut rest)?;
    Some(Zeroizing::new(string(&mut rest)?.to_vec()))
}

/// The same of a key with one.
fn decrypted(text: &str, passphrase: &str) -> Option<Zeroizing<Vec<u8>>> {
    let key = PrivateKey::from_openssh(text).ok()?;
    let KeypairData::Encrypted(sealed) = key.key_data() else { return None };
    let cipher = key.cipher();
    let (secret, iv) = key.kdf().derive_key_and_iv(cipher, passphrase).ok()?;
    let mut section = Zeroizing::new(sealed.clone());
    // A cipher with a tag is none that ssh-keygen uses unless it is told to.
    cipher.decrypt(&secret, &iv, &mut section, None).ok()?;
    Some(section)
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(count)?;
    *rest = left;
    Some(taken)
}

fn string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_be_bytes(take(rest, 4)?.try_into().ok()?);
    take(rest, usize::try_from(length).ok()?)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Made by ssh-keygen; its secret has 31 bytes.
    const SHORT: &str = include_str!("private_key_short.txt");

    fn public(text: &str, passphrase: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
        let output =
            Command::new("ssh-keygen").args(["-y", "-P", passphrase, "-f"]).arg(&path).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    }

    fn locked(text: &str, passphrase: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-p", "-a", "1", "-P", "", "-N", passphrase, "-f"]).arg(&path);
        assert!(command.output().unwrap().status.success());
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_short_secret_is_read_as_ssh_reads_it() {
        assert!(decode_secret_key(SHORT, None).is_err(), "the crate reads it by itself now");
        let key = decode(SHORT, None).unwrap();
        let line = key.public_key().to_openssh().unwrap();
        assert!(public(SHORT, "").starts_with(line.split(" t@").next().unwrap()), "{line}");
        // What it signs is good.
        let signature = key.sign("file", russh::keys::HashAlg::Sha256, b"x").unwrap();
        key.public_key().verify("file", b"x", &signature).unwrap();

        let locked = locked(SHORT, "secret");
        let open = decode(&locked, Some("secret")).unwrap();
        assert_eq!(open.public_key().key_data(), key.public_key().key_data());
        assert!(decode(&locked, Some("wrong")).is_err());
        assert!(matches!(decode(&locked, None), Err(Error::KeyIsEncrypted)));
    }

    #[test]
    fn what_is_damaged_stays_refused() {
        let (head, tail) = SHORT.split_at(SHORT.len() / 2);
        for text in ["", "x", head, tail, &SHORT.replace('A', "B")] {
            assert!(decode(text, None).is_err());
        }
    }
}
