//! A server's certificate: whether an authority that known_hosts names vouches for this host (sshd(8),
//! `@cert-authority`; PROTOCOL.certkeys of OpenSSH).

use russh::keys::ssh_key::certificate::CertType;
use russh::keys::{Certificate, HashAlg, PublicKey};

use super::known_hosts::KnownHosts;
use super::validity;

/// The signatures of authorities that are taken unless `CASignatureAlgorithms` is set: OpenSSH's own, so none with
/// SHA-1.
const SIGNATURES: &str = "ssh-ed25519,ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521,\
    sk-ssh-ed25519@openssh.com,sk-ecdsa-sha2-nistp256@openssh.com,rsa-sha2-512,rsa-sha2-256";

/// Returns the authority that vouches for the host; nothing if known_hosts names no such authority, in which
/// case the certificate says nothing and its key stands for itself, as with ssh. Whether the two keys are revoked
/// is for the caller to see.
///
/// # Errors
/// Why the certificate is not good for this host, in words.
pub(super) fn check(
    certificate: &Certificate,
    known: &KnownHosts,
    host: &str,
    port: u16,
    signatures: Option<&str>,
    now: u64,
) -> Result<Option<PublicKey>, String> {
    let signer = signer(certificate);
    let authorities = known.cert_authorities(host, port);
    let Some(authority) = authorities.into_iter().find(|a| a.key_data() == signer.key_data())
    else {
        return Ok(None);
    };
    if certificate.cert_type() != CertType::Host {
        return Err("it is a user's certificate, not a host's".into());
    }
    let algorithm = certificate.signature().algorithm();
    let mut allowed = signatures.unwrap_or(SIGNATURES).split(',');
    if !allowed.any(|name| name.trim() == algorithm.as_str()) {
        return Err(format!("it is signed with {algorithm}, which is not taken from an authority"));
    }
    // Signature and authority; the time is looked at below, to say which end of it was missed.
    let within = now.clamp(certificate.valid_after(), certificate.valid_before().saturating_sub(1));
    let fingerprint = authority.fingerprint(HashAlg::Sha256);
    if certificate.validate_at(within, [&fingerprint]).is_err() {
        return Err("its signature is wrong".into());
    }
    if let Some(fault) = validity::fault(certificate, now) {
        return Err(format!("it {fault}"));
    }
    // One without principals would be good for every host; OpenSSH takes none since 10.3.
    let name = host.to_ascii_lowercase();
    // Exactly: a principal has no wildcards, and ssh asks with the name in lower case.
    if !certificate.valid_principals().contains(&name) {
        let list = certificate.valid_principals().join(",");
        return Err(format!("it is for {list:?}, not for {host}"));
    }
    if let Some((option, _)) = certificate.critical_options().iter().next() {
        return Err(format!("it has the critical option {option:?}, which no host has"));
    }
    Ok(Some(authority.clone()))
}

/// Returns the key that a certificate is for.
pub(super) fn key(certificate: &Certificate) -> PublicKey {
    PublicKey::new(certificate.public_key().clone(), "")
}

/// Returns the key that signed a certificate.
pub(super) fn signer(certificate: &Certificate) -> PublicKey {
    PublicKey::new(certificate.signature_key().clone(), "")
}
