//! Signing with a key file: asked for only when the server has said that it would take the key.

use std::path::Path;
use std::sync::Arc;

use russh::SendError;
use russh::keys::agent::AgentIdentity;
use russh::keys::signature::Signer as _;
use russh::keys::ssh_encoding::Encode as _;
use russh::keys::ssh_key::private::KeypairData;
use russh::keys::ssh_key::{self, Signature};
use russh::keys::{HashAlg, PrivateKey};

use crate::prompts::Questions;
use crate::ssh::error::ConnectError;
use crate::ssh::unlocked::UnlockedKeys;

/// A key file as a signer.
pub(super) enum FileSigner<'a> {
    /// The key is open.
    Open(Arc<PrivateKey>),
    /// Its passphrase is asked for.
    Locked { path: &'a Path, keys: &'a UnlockedKeys, questions: &'a Questions },
}

/// Why there is no signature.
#[derive(Debug, thiserror::Error)]
pub(super) enum SignError {
    /// The session has ended.
    #[error("the session has ended")]
    Session,
    /// The key could not be opened.
    #[error(transparent)]
    Locked(Box<ConnectError>),
    /// The key cannot sign.
    #[error("the key cannot sign")]
    Key(#[from] ssh_key::Error),
}

impl From<SendError> for SignError {
    fn from(_: SendError) -> Self {
        Self::Session
    }
}

impl russh::Signer for FileSigner<'_> {
    type Error = SignError;

    async fn auth_sign(
        &mut self,
        _key: &AgentIdentity,
        hash: Option<HashAlg>,
        mut to_sign: Vec<u8>,
    ) -> Result<Vec<u8>, Self::Error> {
        let key = match self {
            Self::Open(key) => Arc::clone(key),
            Self::Locked { path, keys, questions } => keys
                .unlock(path, questions)
                .await
                .map_err(|error| SignError::Locked(Box::new(error)))?,
        };
        let signature = sign(&key, hash, &to_sign)?;
        let mut blob = Vec::new();
        signature.encode(&mut blob).map_err(ssh_key::Error::from)?;
        // russh takes the request back with the signature behind it.
        blob.encode(&mut to_sign).map_err(ssh_key::Error::from)?;
        Ok(to_sign)
    }
}

fn sign(key: &PrivateKey, hash: Option<HashAlg>, data: &[u8]) -> Result<Signature, ssh_key::Error> {
    Ok(match key.key_data() {
        KeypairData::Rsa(pair) => (pair, hash).try_sign(data)?,
        pair => pair.try_sign(data)?,
    })
}
