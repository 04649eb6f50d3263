//! The algorithms that are offered to a server, in the order of preference.

use std::borrow::Cow;
use std::time::Duration;

use russh::keys::{Algorithm, HashAlg};
use russh::{Preferred, cipher, compression, kex, mac};

use super::error::ConnectError;
use super::host_key::HostKeyPolicy;
use super::ssh_config::AlgorithmLists;

/// From this round trip on, compressing is worth the processor's time, unless told otherwise.
const FAR: Duration = Duration::from_millis(80);
/// Below this rate, in bytes per second, it is too.
const SLOW: u64 = 2_000_000;

/// What is known of the line to a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Line {
    /// The last round trip.
    pub rtt: Option<Duration>,
    /// The highest rate at which data came, in bytes per second.
    pub rate: Option<u64>,
}

/// Whether to compress.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Where the last round trip took [`FAR`] or more, or data never came faster than [`SLOW`].
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

impl Compression {
    fn is_on(self, line: Line) -> bool {
        match self {
            Self::Auto => {
                line.rtt.is_some_and(|rtt| rtt >= FAR) || line.rate.is_some_and(|rate| rate < SLOW)
            }
            Self::On => true,
            Self::Off => false,
        }
    }
}

/// Returns the algorithms to offer. What ssh_config sets is offered as it is set, as far as russh has it.
/// Otherwise: the kinds of host key on record first, so that a server with several shows one that is known;
/// AES-GCM first where the processor has AES instructions, because it is then twice as fast as ChaCha20; SHA-1 only
/// in a MAC and last, as with ssh, because HMAC does not rest on what is broken of it.
pub(super) fn preferred(
    policy: &HostKeyPolicy,
    lists: &AlgorithmLists,
    compression: Compression,
    line: Line,
) -> Result<Preferred, ConnectError> {
    let mut preferred = Preferred::DEFAULT;
    let (keys, mut certificates): (Vec<_>, Vec<_>) =
        match only(&lists.host_key, "HostKeyAlgorithms", host_key)? {
            Some(set) => {
                let (certificates, keys): (Vec<_>, Vec<_>) =
                    set.into_iter().partition(|(_, in_certificate)| *in_certificate);
                let plain = |list: Vec<(Algorithm, bool)>| list.into_iter().map(|(name, _)| name);
                (plain(keys).collect(), plain(certificates).collect())
            }
            None => (by_record(policy), by_record(policy)),
        };
    // A server that has a certificate then shows that: where somebody can vouch for it, or the key by itself is not
    // taken.
    let vouched = !policy.known.cert_authorities(&policy.host, policy.port).is_empty();
    certificates.retain(|kind| vouched || !keys.contains(kind));
    preferred.host_key_certificates = certificates.into();
    preferred.key = keys.into();
    preferred.cipher =
        match only(&lists.cipher, "Ciphers", |name| cipher::Name::try_from(name).ok())? {
            Some(set) => set.into(),
            None => fastest_ciphers().into(),
        };
    if let Some(set) = only(&lists.kex, "KexAlgorithms", |name| kex::Name::try_from(name).ok())? {
        // What says that we know the extensions is no exchange, and no part of the option.
        let default = Preferred::DEFAULT.kex;
        let extensions = default.iter().filter(|name| {
            name.as_ref().starts_with("ext-info") || name.as_ref().starts_with("kex-strict")
        });
        preferred.kex = set.into_iter().chain(extensions.copied()).collect::<Vec<_>>().into();
    }
    preferred.mac = match only(&lists.mac, "MACs", |name| mac::Name::try_from(name).ok())? {
        Some(set) => set.into(),
        None => {
            let best = preferred.mac.iter().copied();
            best.chain([mac::HMAC_SHA1_ETM, mac::HMAC_SHA1]).collect::<Vec<_>>().into()
        }
    };
    // Compressed from the login on, not before: the other kind lets anybody feed the server's zlib.
    preferred.compression = Cow::Borrowed(if compression.is_on(line) {
        &[compression::ZLIB_LEGACY, compression::NONE]
    } else {
        &[compression::NONE, compression::ZLIB_LEGACY]
    });
    Ok(preferred)
}

/// Returns the algorithms of a list that we have, or nothing where ssh_config sets no list.
fn only<T>(
    list: &Option<String>,
    option: &'static str,
    known: impl Fn(&str) -> Option<T>,
) -> Result<Option<Vec<T>>, ConnectError> {
    let Some(list) = list else { return Ok(None) };
    let ours: Vec<T> = list.split(',').filter_map(|name| known(name.trim())).collect();
    if ours.is_empty() {
        return Err(ConnectError::UnknownAlgorithms { option, list: list.clone() });
    }
    Ok(Some(ours))
}

/// Returns the kind of host key that a name of `HostKeyAlgorithms` stands for, and whether it is in a certificate.
fn host_key(name: &str) -> Option<(Algorithm, bool)> {
    let is_ours = |algorithm: &Algorithm| DEFAULT_KEYS.contains(algorithm) || is_sha1(algorithm);
    let plain = Algorithm::new(name).ok().filter(is_ours).map(|algorithm| (algorithm, false));
    let certificate = || Algorithm::new_certificate(name).ok().filter(is_ours);
    plain.or_else(|| certificate().map(|algorithm| (algorithm, true)))
}

/// The kinds of host key that are taken, the best first.
const DEFAULT_KEYS: [Algorithm; 6] = [
    Algorithm::Ed25519,
    Algorithm::Ecdsa { curve: russh::keys::EcdsaCurve::NistP256 },
    Algorithm::Ecdsa { curve: russh::keys::EcdsaCurve::NistP384 },
    Algorithm::Ecdsa { curve: russh::keys::EcdsaCurve::NistP521 },
    Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
    Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
];

fn by_record(policy: &HostKeyPolicy) -> Vec<Algorithm> {
    let known = policy.known.known_algorithms(&policy.host, policy.port);
    let rsa = |algorithm: &Algorithm| matches!(algorithm, Algorithm::Rsa { .. });
    let is_known = |algorithm: &&Algorithm| {
        known.iter().any(|k| k == *algorithm || (rsa(k) && rsa(algorithm)))
    };
    let (first, rest): (Vec<_>, Vec<_>) = DEFAULT_KEYS.iter().partition(is_known);
    first.into_iter().chain(rest).cloned().collect()
}

/// `ssh-rsa` as a signature: taken only where ssh_config asks for it.
fn is_sha1(algorithm: &Algorithm) -> bool {
    matches!(algorithm, Algorithm::Rsa { hash: None })
}

/// Returns whether a key exchange withstands a quantum computer. russh has ML-KEM and no sntrup761.
pub(super) fn is_post_quantum(exchange: kex::Name) -> bool {
    exchange.as_ref().starts_with("mlkem")
}

/// Returns whether a cipher guards the packets itself, so that the MAC that was agreed on is not used.
pub(super) fn is_authenticated(cipher: cipher::Name) -> bool {
    [cipher::AES_128_GCM, cipher::AES_256_GCM, cipher::CHACHA20_POLY1305].contains(&cipher)
}

fn fastest_ciphers() -> Vec<cipher::Name> {
    let default = Preferred::DEFAULT.cipher;
    if !has_aes() {
        return default.to_vec();
    }
    let rest = default.iter().filter(|name| **name != cipher::AES_256_GCM);
    [cipher::AES_128_GCM, cipher::AES_256_GCM].iter().chain(rest).copied().collect()
}

fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes")
        && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::host_key::Unknown;
    use super::super::known_hosts::KnownHosts;
    use super::*;

    fn with(lists: AlgorithmLists) -> Result<Preferred, ConnectError> {
        let policy = HostKeyPolicy {
            host: "h".into(),
            port: 22,
            known: KnownHosts::default(),
            unknown: Unknown::Record,
            file: PathBuf::new(),
            hash: false,
            ca_signatures: None,
            has_command: false,
            user_files: Vec::new(),
            asking: None,
            review: None,
        };
        preferred(&policy, &lists, Compression::Auto, Line::default())
    }

    #[test]
    fn nothing_with_sha1_is_offered_unless_it_is_asked_for_but_a_mac_at_last() {
        let default = with(AlgorithmLists::default()).unwrap();
        let names: Vec<String> = default.key.iter().map(ToString::to_string).collect();
        assert!(!names.contains(&"ssh-rsa".to_owned()), "{names:?}");
        assert!(default.kex.iter().all(|name| !name.as_ref().ends_with("-sha1")));
        let (best, last) = default.mac.split_at(default.mac.len() - 2);
        assert_eq!(last, [mac::HMAC_SHA1_ETM, mac::HMAC_SHA1]);
        assert!(best.iter().all(|name| !name.as_ref().contains("sha1") && *name != mac::NONE));
        assert!(default.cipher.iter().all(|name| !name.as_ref().contains("cbc")));
        let old = AlgorithmLists { host_key: Some("ssh-rsa".into()), ..Default::default() };
        assert_eq!(*with(old).unwrap().key, [Algorithm::Rsa { hash: None }]);
        assert!(default.host_key_certificates.is_empty(), "nobody vouches");
        let certificate = "ssh-ed25519-cert-v01@openssh.com,no-such-cert-v01@openssh.com";
        let set = AlgorithmLists { host_key: Some(certificate.into()), ..Default::default() };
        let set = with(set).unwrap();
        assert_eq!((&*set.key, &*set.host_key_certificates), (&[][..], &[Algorithm::Ed25519][..]));
    }

    #[test]
    fn a_list_of_ssh_config_is_taken_in_its_order_and_as_far_as_we_have_it() {
        let lists = AlgorithmLists {
            cipher: Some("aes256-ctr,no-such,aes128-gcm@openssh.com".into()),
            kex: Some("sntrup761x25519-sha512,curve25519-sha256".into()),
            ..Default::default()
        };
        let set = with(lists).unwrap();
        assert_eq!(*set.cipher, [cipher::AES_256_CTR, cipher::AES_128_GCM]);
        assert_eq!(set.kex[0], kex::CURVE25519);
        assert!(set.kex.contains(&kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT));
        let none = AlgorithmLists { mac: Some("umac-64@openssh.com".into()), ..Default::default() };
        let error = with(none).unwrap_err().to_string();
        assert!(error.contains("MACs") && error.contains("umac-64"), "{error}");
    }

    #[test]
    fn far_hosts_are_compressed() {
        let of = |rtt, rate| Line { rtt, rate };
        for (line, on) in [
            (Line::default(), false),
            (of(Some(FAR), None), true),
            (of(Some(FAR / 2), None), false),
            (of(Some(FAR / 2), Some(SLOW - 1)), true),
            (of(None, Some(SLOW)), false),
        ] {
            assert_eq!(Compression::Auto.is_on(line), on, "{line:?}");
            assert!(Compression::On.is_on(line) && !Compression::Off.is_on(line));
        }
    }
}
