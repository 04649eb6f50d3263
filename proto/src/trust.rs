//! Reviewing a host's key: `GET` and `POST /v1/hosts/{host}/trust`.

use serde::{Deserialize, Serialize};

use crate::name::HostName;

/// What is on record of a host's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Record {
    /// This key.
    Known,
    /// Nothing.
    Unknown,
    /// Other keys.
    Changed,
    /// That this key is revoked.
    Revoked,
}

/// The key that the server shows now, beside what is on record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct HostKeyReview {
    /// The host.
    pub name: HostName,
    /// Type and SHA-256 fingerprint of the key shown.
    pub shown: String,
    /// What is on record.
    pub record: Record,
    /// The SHA-256 fingerprint of the certificate authority on record that vouches for the key, if one does: the key
    /// itself is on record nowhere, and need not be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// Why the certificate that the server shows with the key is refused, if an authority on record has signed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// What a person has to change in the records before the key can take their place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obstacle: Option<String>,
    /// The other keys on record, in the same words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recorded: Vec<String>,
    /// The known_hosts file with the first of them, or with the revocation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The line there, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
}

/// The wish to trust a key in place of what is on record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TrustKey {
    /// The key as [`HostKeyReview::shown`] has it: no other is trusted.
    pub shown: String,
}

/// A host key that was not on record and has been trusted for a request, perhaps that of a jump host on the
/// way. The value of [`crate::NEW_HOST_KEY_HEADER`], as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct NewHostKey {
    /// The host.
    pub host: HostName,
    /// Type and SHA-256 fingerprint of the key.
    pub key: String,
    /// Why it could not be recorded, if so: the next dial does not know it, either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_recorded: Option<String>,
}
