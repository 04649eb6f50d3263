//! A private key in a variable of the environment, in base64: `OCC_SSH_KEY`, and `TENDHOST_SSH_KEY`, as users of
//! opencode-cloud have it. A client's is used for that request only, the daemon's own for every login.

use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use occ_proto::Secret;
use russh::keys::PrivateKey;
use zeroize::Zeroizing;

use super::private_key;

/// The longest text that is taken, in bytes: an RSA key of 16384 bits has 17 KiB in base64.
pub const LONGEST: usize = 32 * 1024;

/// Why such a variable holds no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GivenKeyError {
    /// It is longer than any key.
    #[error("longer than any key")]
    TooLong,
    /// It is not base64.
    #[error("not base64")]
    Base64,
    /// It is behind a passphrase, which nobody can be asked for there.
    #[error("a key behind a passphrase; name its file instead")]
    Locked,
    /// It is something else.
    #[error("not a private key in OpenSSH or PEM format")]
    NotAKey,
}

/// Returns the key.
pub fn parse(text: &Secret) -> Result<Arc<PrivateKey>, GivenKeyError> {
    // `base64` wraps its lines; padding is often lost on the way.
    let text: Zeroizing<String> = Zeroizing::new(text.expose().split_ascii_whitespace().collect());
    if text.len() > LONGEST {
        return Err(GivenKeyError::TooLong);
    }
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let bytes = GeneralPurpose::new(&STANDARD, config)
        .decode(text.as_bytes())
        .map_err(|_| GivenKeyError::Base64)?;
    let key = Zeroizing::new(String::from_utf8(bytes).map_err(|_| GivenKeyError::NotAKey)?);
    if !key.contains("PRIVATE KEY-----") {
        return Err(GivenKeyError::NotAKey);
    }
    let locked = key.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----");
    match private_key::decode(&key, None) {
        Ok(key) => Ok(Arc::new(key)),
        Err(russh::keys::Error::KeyIsEncrypted) => Err(GivenKeyError::Locked),
        Err(_) if locked => Err(GivenKeyError::Locked),
        Err(_) => Err(GivenKeyError::NotAKey),
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD as BASE64;

    use super::*;

    /// Returns a new key file's text.
    fn keygen(passphrase: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let mut command = std::process::Command::new("ssh-keygen");
        command.args(["-q", "-t", "ed25519", "-N", passphrase, "-f"]).arg(&path);
        assert!(command.status().unwrap().success());
        std::fs::read_to_string(path).unwrap()
    }

    fn of(text: &str) -> Result<Arc<PrivateKey>, GivenKeyError> {
        parse(&Secret::new(text.to_owned()))
    }

    #[test]
    fn a_key_in_base64_is_taken_with_and_without_line_feeds_and_padding() {
        let text = BASE64.encode(keygen(""));
        let wrapped: Vec<&str> =
            text.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap()).collect();
        for text in [&text, &wrapped.join("\n"), text.trim_end_matches('=')] {
            assert_eq!(of(text).unwrap().algorithm(), russh::keys::Algorithm::Ed25519);
        }
    }

    #[test]
    fn what_is_no_key_is_told_in_its_own_words() {
        let key = keygen("");
        for (text, error) in [
            ("%%%".to_owned(), GivenKeyError::Base64),
            (key.clone(), GivenKeyError::Base64),
            (BASE64.encode("hello"), GivenKeyError::NotAKey),
            (BASE64.encode(b"\xff\xfe"), GivenKeyError::NotAKey),
            (BASE64.encode(&key[..key.len() / 2]), GivenKeyError::NotAKey),
            (BASE64.encode(keygen("locked")), GivenKeyError::Locked),
            ("A".repeat(LONGEST + 1), GivenKeyError::TooLong),
            (String::new(), GivenKeyError::NotAKey),
        ] {
            assert_eq!(of(&text).unwrap_err(), error, "{text:.20}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "\\PC{0,200}", bytes: Vec<u8>) {
            crate::fuzz::given_key(&text);
            crate::fuzz::given_key(&BASE64.encode(&bytes));
            let header = "-----BEGIN OPENSSH PRIVATE KEY-----";
            crate::fuzz::given_key(&BASE64.encode(format!("{header}\n{text}")));
        }
    }
}
