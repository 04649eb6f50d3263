//! Whether the key that a server shows is the host's: OpenSSH's known_hosts files, and what to do with a
//! key that is in none of them.

use std::path::PathBuf;

use russh::keys::{PublicKey, PublicKeyOrCertificate};

use super::error::ConnectError;
use super::known_hosts::{self, KnownHosts, Verdict};

/// What happens to a key of a host that is not on record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// It is recorded (`StrictHostKeyChecking accept-new`).
    Record,
    /// It is refused (`StrictHostKeyChecking yes`).
    Refuse,
}

/// A server's key that may be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedKey {
    /// Type and fingerprint.
    pub text: String,
    /// It was not on record until now.
    pub new: bool,
}

/// The check of one host's key.
#[derive(Debug, Clone)]
pub struct HostKeyPolicy {
    /// The name the key is filed under: HostKeyAlias, else the name that was resolved.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The records.
    pub known: KnownHosts,
    /// What to do with an unknown key.
    pub unknown: Unknown,
    /// Where a new key is recorded.
    pub file: PathBuf,
    /// Whether a recorded host name is hashed.
    pub hash: bool,
}

impl HostKeyPolicy {
    /// Returns what was shown when it may be trusted. Nothing has been sent to the server by then but the
    /// key exchange.
    pub async fn check(&self, shown: &PublicKeyOrCertificate) -> Result<TrustedKey, ConnectError> {
        let key = match shown {
            PublicKeyOrCertificate::PublicKey { key, .. } => key.clone(),
            // Never offered by us, so a server that sends one breaks the protocol.
            PublicKeyOrCertificate::Certificate(certificate) => {
                return Err(ConnectError::HostKeyUnknown {
                    shown: format!("certificate {}", certificate.algorithm()),
                });
            }
        };
        let text = format!("{} {}", key.algorithm(), known_hosts::fingerprint(&key));
        let mut verdict = self.known.check(&self.host, self.port, &key);
        let new = verdict == Verdict::Unknown;
        if new {
            if self.unknown == Unknown::Refuse {
                return Err(ConnectError::HostKeyUnknown { shown: text });
            }
            verdict = self.record(key).await?;
            tracing::info!(host = self.host, key = text, "recorded a new host key");
        }
        match verdict {
            Verdict::Known => Ok(TrustedKey { text, new }),
            Verdict::Revoked { file, line } => {
                Err(ConnectError::HostKeyRevoked { shown: text, file, line })
            }
            Verdict::Changed { file, line, known, .. } => Err(ConnectError::HostKeyChanged {
                shown: text,
                recorded: known.join(", "),
                file,
                line,
            }),
            Verdict::Unknown => Err(ConnectError::HostKeyUnknown { shown: text }),
        }
    }

    /// Records a first key, unless somebody else recorded another one meanwhile.
    async fn record(&self, key: PublicKey) -> Result<Verdict, ConnectError> {
        let (file, host, port, hash) = (self.file.clone(), self.host.clone(), self.port, self.hash);
        tokio::task::spawn_blocking(move || {
            known_hosts::record_first(&file, &host, port, &key, hash)
        })
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
        .map_err(ConnectError::KnownHostsWrite)
    }
}
