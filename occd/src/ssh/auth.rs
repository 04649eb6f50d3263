//! Logging in: keys named for the host, then the agent's, then the default key files; at most five
//! offers, because servers count each one against MaxAuthTries (6 by default in OpenSSH).

use std::path::PathBuf;

use occ_proto::status::Phase;
use russh::client::{AuthResult, Handle};
use russh::keys::{HashAlg, PrivateKeyWithHashAlg};
use russh::{MethodKind, MethodSet};

use super::agent::{self, AgentChoice, Agents};
use super::candidates::{Candidate, candidates};
use super::error::{ConnectError, LossCause, Offer};
use super::handler::{Handler, Shared};

/// Offers to one server in one login.
const MAX_OFFERS: usize = 5;

/// What to log in with.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// The login name.
    pub user: String,
    /// The key file named for the host in hosts.json: it must be usable.
    pub named: Option<PathBuf>,
    /// Key files from ssh_config: those that are missing are passed over, as ssh does.
    pub configured: Vec<PathBuf>,
    /// Certificates from ssh_config, for whichever key they are.
    pub certificates: Vec<PathBuf>,
    /// Key files tried last.
    pub defaults: Vec<PathBuf>,
    /// Which agent may be asked.
    pub agent: AgentChoice,
    /// Offer only the named and configured keys (`IdentitiesOnly`).
    pub identities_only: bool,
}

/// How a login was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The method and the key, in words.
    pub how: String,
    /// The agent that was asked, if one answered.
    pub agent: Option<PathBuf>,
}

/// Logs in.
pub async fn login(
    handle: &mut Handle<Handler>,
    shared: &Shared,
    credentials: &Credentials,
    agents: &Agents,
) -> Result<Login, ConnectError> {
    let (mut agent, agent_socket, agent_keys, agent_word) =
        match agent::open(&credentials.agent, agents).await {
            Ok(open) => {
                let word = format!("the ssh-agent holds {} keys", open.identities.len());
                (Some(open.agent), Some(open.socket), open.identities, word)
            }
            Err(word) => (None, None, Vec::new(), word),
        };
    let candidates = candidates(credentials, agent_keys)?;
    if candidates.is_empty() {
        return Err(ConnectError::NoIdentity { user: credentials.user.clone(), agent: agent_word });
    }
    let mut offered = Vec::new();
    let mut accepts = MethodSet::empty();
    for candidate in candidates.into_iter().take(MAX_OFFERS) {
        let offer = candidate.offer();
        let hash = if candidate.public().algorithm().is_rsa() {
            // Waits up to a second for the server's list, so only RSA keys pay for it.
            handle
                .best_supported_rsa_hash()
                .await
                .map_err(|_| lost(shared))?
                .unwrap_or(Some(HashAlg::Sha512))
        } else {
            None
        };
        let user = credentials.user.clone();
        let result = match candidate {
            Candidate::File { key, certificate, .. } => match certificate {
                None => {
                    let key = PrivateKeyWithHashAlg::new(key, hash);
                    handle.authenticate_publickey(user, key).await
                }
                Some(certificate) => {
                    handle.authenticate_openssh_cert(user, key, *certificate).await
                }
            }
            .map_err(|_| lost(shared)),
            Candidate::Agent { key, certificate, .. } => {
                let Some(agent) = agent.as_mut() else { continue };
                let signed = match certificate {
                    None => handle.authenticate_publickey_with(user, *key, hash, agent).await,
                    Some(certificate) => {
                        handle.authenticate_certificate_with(user, *certificate, hash, agent).await
                    }
                };
                match signed {
                    Ok(result) => Ok(result),
                    Err(_) if handle.is_closed() => Err(lost(shared)),
                    Err(error) => {
                        // The agent declined (a confirmation was refused, the key is gone): try the next.
                        tracing::debug!(%error, key = offer.fingerprint, "the agent did not sign");
                        offered.push(offer);
                        continue;
                    }
                }
            }
        };
        let result = result
            .map_err(|error| too_many_failures(error, credentials, &offered, accepts.clone()))?;
        match result {
            AuthResult::Success => {
                let how = format!("publickey {} ({})", offer.name, offer.origin);
                return Ok(Login { how, agent: agent_socket });
            }
            AuthResult::Failure { remaining_methods, .. } => {
                // russh tells a lost connection as a failure without any method left.
                if handle.is_closed() || remaining_methods.is_empty() {
                    offered.push(offer);
                    return Err(too_many_failures(lost(shared), credentials, &offered, accepts));
                }
                offered.push(offer);
                accepts = remaining_methods;
                if !accepts.contains(&MethodKind::PublicKey) {
                    break;
                }
            }
        }
    }
    Err(refused(credentials, offered, &accepts))
}

fn refused(credentials: &Credentials, offered: Vec<Offer>, accepts: &MethodSet) -> ConnectError {
    let accepts: Vec<&str> = accepts.iter().map(Into::into).collect();
    ConnectError::AuthRefused {
        user: credentials.user.clone(),
        offered,
        accepts: accepts.join(","),
    }
}

/// OpenSSH ends the connection at MaxAuthTries: that is a refused login, not a lost connection, and
/// dialling again would only repeat it.
fn too_many_failures(
    error: ConnectError,
    credentials: &Credentials,
    offered: &[Offer],
    accepts: MethodSet,
) -> ConnectError {
    match &error {
        ConnectError::Lost { cause: LossCause::Disconnected(text), .. }
            if text.to_lowercase().contains("too many authentication failures") =>
        {
            refused(credentials, offered.to_vec(), &accepts)
        }
        _ => error,
    }
}

fn lost(shared: &Shared) -> ConnectError {
    ConnectError::Lost { phase: Phase::Authentication, cause: shared.cause() }
}
