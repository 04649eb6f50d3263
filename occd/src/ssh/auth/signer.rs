//! Signing with a key file or by an agent: asked for only when the server has said that it would take the key.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use occ_proto::HostName;
use russh::keys::agent::AgentIdentity;
use russh::keys::signature::Signer as _;
use russh::keys::ssh_encoding::Encode as _;
use russh::keys::ssh_key::private::KeypairData;
use russh::keys::ssh_key::{self, Signature};
use russh::keys::{Algorithm, HashAlg, PrivateKey};
use russh::{AgentAuthError, SendError};
use tokio::time::Instant;

use super::person::{BY_ITSELF, notice};
use crate::prompts::{NoAnswer, Questions};
use crate::ssh::agent::Agent;
use crate::ssh::error::ConnectError;
use crate::ssh::handler::Shared;
use crate::ssh::unlocked::UnlockedKeys;

/// A key file as a signer.
pub(super) enum FileSigner<'a> {
    /// The key is open.
    Open(Arc<PrivateKey>),
    /// Its passphrase is asked for.
    Locked { path: &'a Path, keys: &'a UnlockedKeys, questions: &'a Questions },
}

/// A security key blinks before it is touched; one that signs sooner wants no touch.
const TOUCHED: Duration = Duration::from_millis(300);

/// An agent as a signer. It may ask its user first, or wait for a touch of the key.
pub(super) struct AgentSigner<'a> {
    pub(super) agent: &'a mut Agent,
    pub(super) host: Option<&'a HostName>,
    pub(super) questions: &'a Questions,
    /// Whether the signature took so long that a person must have been part of it.
    pub(super) by_person: bool,
}

impl russh::Signer for AgentSigner<'_> {
    type Error = SignError;

    async fn auth_sign(
        &mut self,
        key: &AgentIdentity,
        hash: Option<HashAlg>,
        to_sign: Vec<u8>,
    ) -> Result<Vec<u8>, Self::Error> {
        let words =
            "the ssh-agent has not signed yet: touch the security key, or confirm in its dialog";
        let begun = Instant::now();
        let signing = self.agent.auth_sign(key, hash, to_sign);
        let signed = self.questions.elsewhere(notice(self.host, words.into(), None), signing);
        let signed = signed.await.map_err(SignError::NoConsent)?;
        let is_touched = matches!(
            key.public_key().algorithm(),
            Algorithm::SkEd25519 | Algorithm::SkEcdsaSha2NistP256
        );
        self.by_person = begun.elapsed() >= if is_touched { TOUCHED } else { BY_ITSELF };
        Ok(signed?)
    }
}

/// A signer whose signatures are noted: what a server does after one is its word to the login.
pub(super) struct Noted<'a, S> {
    pub(super) signer: &'a mut S,
    pub(super) shared: &'a Shared,
}

impl<S: russh::Signer<Error = SignError> + Send> russh::Signer for Noted<'_, S> {
    type Error = SignError;

    async fn auth_sign(
        &mut self,
        key: &AgentIdentity,
        hash: Option<HashAlg>,
        to_sign: Vec<u8>,
    ) -> Result<Vec<u8>, Self::Error> {
        let signed = self.signer.auth_sign(key, hash, to_sign).await?;
        self.shared.signed();
        Ok(signed)
    }
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
    /// The agent did not sign.
    #[error(transparent)]
    Agent(#[from] AgentAuthError),
    /// Nobody touched the key, or answered the agent's dialog.
    #[error("{0}")]
    NoConsent(NoAnswer),
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
