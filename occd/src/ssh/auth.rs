//! Logging in: keys named for the host, then the agent's, then the default key files; at most five
//! offers, because servers count each one against MaxAuthTries (6 by default in OpenSSH). Where the host
//! allows it, a person is asked after that.

use std::path::{Path, PathBuf};

use occ_proto::status::Phase;
use occ_proto::{HostConfig, HostName};
use russh::client::{AuthResult, Handle};
use russh::keys::{HashAlg, PublicKey};
use russh::{MethodKind, MethodSet};

use super::agent::{self, AgentChoice};
use super::candidates::{Candidate, Found, Locked, UserCertificate, candidates, locked};
use super::dial::DialEnvironment;
use super::error::{ConnectError, IdentityError, LossCause, Offer, Refusal};
use super::given_key;
use super::handler::{Handler, Shared};
use super::identity;
use super::seen::Seen;
use super::target::resolve;
use crate::prompts::Questions;
use crate::secrets::Account;

mod interactive;
mod passwords;
mod person;
mod signer;

use interactive::{Interactive, Outcome};
use passwords::{Accepted, Passwords, unanswered};
use person::{is_refusal, leaves_no_method, unless_asked};
use signer::{AgentSigner, FileSigner, Noted, SignError};

/// Offers to one server in one login.
const MAX_OFFERS: usize = 5;

/// Ways to log in besides keys, each of which needs a person.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Methods {
    /// Passwords.
    pub password: bool,
    /// Questions of the server's.
    pub keyboard_interactive: bool,
    /// What allows neither to any host, if something does.
    pub forbidden: Option<&'static str>,
}

impl Methods {
    fn any(self) -> bool {
        self.password || self.keyboard_interactive
    }
}

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
    /// ssh_config allows no keys: none is offered but the one that hosts.json names.
    pub no_keys: bool,
    /// Passwords before keyboard-interactive (`PreferredAuthentications`).
    pub password_first: bool,
}

/// How a login was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Login {
    /// The method and the key, in words.
    pub how: String,
    /// The fingerprint of the key, if one was part of it.
    pub key: Option<String>,
    /// The agent that was asked, if one answered.
    pub agent: Option<PathBuf>,
    /// It took something that a client gave and that is not kept: an answer, a key of its own.
    pub by_client: bool,
    /// Why a password was not kept, though a person wanted that.
    pub not_kept: Option<String>,
}

/// One login: with what, and who can be asked.
#[derive(Debug)]
pub struct LoginRequest<'a> {
    /// With what.
    pub credentials: &'a Credentials,
    /// The host's name, if it has one in the pool.
    pub host: Option<&'a HostName>,
    /// The server's address and port.
    pub server: String,
    /// What else is allowed.
    pub methods: Methods,
    /// Who can be asked.
    pub questions: &'a Questions,
    /// The agents and the keys that are open.
    pub environment: &'a DialEnvironment,
    /// For what it looks at.
    pub seen: &'a Seen,
}

/// Opens the keys whose passphrases are asked for before anything is sent to the server: the one that is named
/// for the host, and those of which not even the public part can be read. The others are asked for when
/// the server has said that it would take them. Returns why one of them stays locked that a login may do without.
pub async fn unlock_first(
    request: &LoginRequest<'_>,
) -> Result<Option<ConnectError>, ConnectError> {
    let LoginRequest { credentials, environment, questions, .. } = request;
    let keys = &environment.unlocked;
    let named = credentials.named.iter().filter_map(|path| locked(path, keys));
    let others = credentials.configured.iter().chain(&credentials.defaults);
    let others = others.filter_map(|path| locked(path, keys)).filter(|key| key.public.is_none());
    let needed: Vec<(Locked, bool)> =
        named.map(|key| (key, true)).chain(others.map(|key| (key, false))).collect();
    if needed.is_empty() {
        return Ok(None);
    }
    let mut stays = None;
    let agent = agent::open(&credentials.agent, &environment.agents, None).await;
    let identities = agent.map(|open| open.identities).unwrap_or_default();
    request.seen.set_agent(&credentials.agent, &identities);
    for (key, is_named) in needed {
        if key.is_among(&identities) {
            continue;
        }
        match keys.unlock(&key.path, questions).await {
            Ok(_) => {}
            Err(error) if is_named => return Err(error),
            Err(error) => {
                tracing::info!(key = %key.path.display(), %error, "a locked key is passed over");
                stays.get_or_insert(error);
            }
        }
    }
    Ok(stays)
}

/// Returns the key files of a host's login that are locked, and that no agent holds.
pub async fn locked_keys(
    config: &HostConfig,
    environment: &DialEnvironment,
) -> Result<Vec<PathBuf>, ConnectError> {
    let credentials = resolve(config, environment).await?.credentials;
    let agent = agent::open(&credentials.agent, &environment.agents, None).await;
    let identities = agent.map(|open| open.identities).unwrap_or_default();
    let files =
        credentials.named.iter().chain(&credentials.configured).chain(&credentials.defaults);
    let keys = files.filter_map(|path| locked(path, &environment.unlocked));
    Ok(keys.filter(|key| !key.is_among(&identities)).map(|key| key.path).collect())
}

/// Returns a key file if it is locked.
pub fn locked_key(
    path: &Path,
    environment: &DialEnvironment,
) -> Result<Option<PathBuf>, ConnectError> {
    if let identity::Identity::Public(_) = identity::load(path)? {
        let what = identity::A_PUBLIC_KEY;
        return Err(IdentityError::NotAKey { path: path.to_owned(), what }.into());
    }
    Ok(locked(path, &environment.unlocked).map(|key| key.path))
}

/// Logs in.
pub async fn login(
    handle: &mut Handle<Handler>,
    shared: &Shared,
    request: &LoginRequest<'_>,
) -> Result<Login, ConnectError> {
    let LoginRequest { credentials, environment, methods, .. } = request;
    let session = handle.agent_session_binding().cloned();
    let (mut agent, agent_socket, agent_keys, agent_word) = match agent::open(
        &credentials.agent,
        &environment.agents,
        session.as_ref(),
    )
    .await
    {
        Ok(open) => {
            let name = agent::named(&open.socket);
            let word = match open.identities.len() {
                0 => format!("{name} holds no keys (is it locked?)"),
                1 => format!("{name} holds 1 key"),
                count => format!("{name} holds {count} keys"),
            };
            (Some(open.agent), Some(open.socket), open.identities, word)
        }
        // The word is of IdentityAgent, which is not in the way.
        Err(_) if credentials.no_keys => {
            let word = "ssh_config allows none of an agent's (PubkeyAuthentication, PreferredAuthentications)";
            (None, None, Vec::new(), word.to_owned())
        }
        Err(word) => (None, None, Vec::new(), word),
    };
    request.seen.set_agent(&credentials.agent, &agent_keys);
    let given = given(request);
    // For a key that it is asked for by name.
    let has_keys = !agent_keys.is_empty();
    let lacks = match &agent_socket {
        Some(socket) if has_keys => {
            format!("{} does not hold the private one", agent::named(socket))
        }
        _ => agent_word.clone(),
    };
    let found = candidates(credentials, (agent_keys, &lacks), given, &environment.unlocked)?;
    let Found { candidates, passed_over, wants_agent, unusable } = found;
    for why in &unusable {
        tracing::info!("{why}");
    }
    let unoffered = candidates.len();
    let mut attempt = Attempt {
        handle,
        shared,
        request,
        offered: Vec::new(),
        unsigned: Vec::new(),
        unusable,
        accepted: Vec::new(),
        unoffered,
        answered: Vec::new(),
        unanswered: None,
        by_person: false,
    };
    let mut accepts = if candidates.is_empty() {
        if !methods.any() {
            let user = credentials.user.clone();
            let is_of_files =
                credentials.identities_only && !wants_agent && !passed_over.is_empty();
            let rest = if credentials.no_keys {
                "ssh_config allows none (PubkeyAuthentication, PreferredAuthentications)".into()
            } else if wants_agent {
                lacks
            } else if is_of_files {
                "IdentitiesOnly of ssh_config allows no other".into()
            } else if credentials.identities_only && has_keys {
                format!("{agent_word}, of which IdentitiesOnly allows none")
            } else {
                agent_word
            };
            // One that takes no keys at all wants no other key. As with ssh, it is asked.
            match attempt.none().await {
                Ok(Step::Done(how)) => {
                    return Ok(Login { how, agent: agent_socket, ..Login::default() });
                }
                Ok(Step::Further(accepts) | Step::Refused(accepts))
                    if !accepts.contains(&MethodKind::PublicKey) =>
                {
                    return Err(attempt.refused(&accepts, false));
                }
                Err(refused @ ConnectError::AuthRefused(_)) => return Err(refused),
                // Nothing was lost with it that would have been of use.
                Ok(Step::Further(_) | Step::Refused(_)) | Err(_) => {}
            }
            let passed_over = [passed_over, attempt.unusable].concat();
            return Err(ConnectError::NoIdentity { user, rest, is_of_files, passed_over });
        }
        match attempt.none().await? {
            Step::Done(how) => {
                let by_client = attempt.by_person;
                return Ok(Login { how, by_client, agent: agent_socket, ..Login::default() });
            }
            Step::Further(accepts) | Step::Refused(accepts) => accepts,
        }
    } else {
        MethodSet::empty()
    };
    let mut done = Vec::new();
    let mut key = None;
    let mut by_client = false;
    for candidate in candidates.into_iter().take(MAX_OFFERS) {
        let offer = candidate.offer(&credentials.user);
        attempt.unoffered -= 1;
        let of_client = matches!(candidate, Candidate::Given { by_client: true, .. });
        match attempt.offer(candidate, &offer, agent.as_mut(), &accepts).await? {
            // The agent declined, or nobody opened the key: try the next.
            None => {}
            Some(Step::Done(how)) => {
                done.push(how);
                let how = done.join(", then ");
                let by_client = by_client || of_client || attempt.by_person;
                let key = Some(offer.fingerprint);
                return Ok(Login { how, key, agent: agent_socket, by_client, not_kept: None });
            }
            Some(Step::Further(now)) => {
                by_client |= of_client;
                attempt.offered.pop();
                attempt.accepted.push(format!("the key {}", offer.name));
                done.push(format!("publickey {} ({})", offer.name, offer.origin));
                key = Some(offer.fingerprint);
                accepts = now;
                if !accepts.contains(&MethodKind::PublicKey) {
                    break;
                }
            }
            Some(Step::Refused(now)) => {
                accepts = now;
                if !accepts.contains(&MethodKind::PublicKey) {
                    break;
                }
            }
        }
    }
    // The server has not said what else it would take, if no key came as far as to be refused.
    if accepts.is_empty()
        && methods.any()
        && let Step::Refused(now) = attempt.none().await?
    {
        accepts = now;
    }
    let by_client = by_client || attempt.by_person;
    let login = Login { key, agent: agent_socket, by_client, ..Login::default() };
    attempt.by_person(accepts, done, login).await
}

/// Returns the keys from the environment of the clients that wait, and from the daemon's own.
fn given(request: &LoginRequest<'_>) -> Vec<Candidate> {
    let of_clients = request.questions.keys();
    // Checked when they came.
    let of_clients = of_clients.iter().filter_map(|key| given_key::parse(key).ok());
    let of_clients = of_clients.map(|key| Candidate::Given { key, by_client: true });
    let own = request.environment.given_key.clone();
    of_clients.chain(own.map(|key| Candidate::Given { key, by_client: false })).collect()
}

/// How a step of the login ended.
enum Step {
    Done(String),
    Further(MethodSet),
    Refused(MethodSet),
}

/// A login under way.
struct Attempt<'a, 'b> {
    handle: &'a mut Handle<Handler>,
    shared: &'a Shared,
    request: &'a LoginRequest<'b>,
    offered: Vec<Offer>,
    /// What the agent did not sign with.
    unsigned: Vec<Offer>,
    /// Certificates that could not be offered, in words.
    unusable: Vec<String>,
    /// What the server took and is not content with, in words.
    accepted: Vec<String>,
    /// Keys whose turn has not come.
    unoffered: usize,
    /// What a person gave in vain, in words.
    answered: Vec<&'static str>,
    /// A key that the server would have taken and that nobody opened.
    unanswered: Option<ConnectError>,
    /// A person was part of it elsewhere than at a client.
    by_person: bool,
}

impl Attempt<'_, '_> {
    /// Asks what the server accepts (RFC 4252, section 5.2).
    async fn none(&mut self) -> Result<Step, ConnectError> {
        let user = self.request.credentials.user.clone();
        let LoginRequest { questions, host, .. } = *self.request;
        let asking = self.handle.authenticate_none(user);
        let verdict = unless_asked(questions, host, self.shared, asking).await?;
        self.by_person |= verdict.by_person;
        match verdict.word.map_err(|_| lost(self.shared))? {
            AuthResult::Success => Ok(Step::Done("none".into())),
            AuthResult::Failure { remaining_methods, .. } => {
                if self.handle.is_closed() || remaining_methods.is_empty() {
                    let lost = lost_at_last(self.shared).await;
                    return Err(self.too_many_failures(lost, &MethodSet::empty()));
                }
                Ok(Step::Refused(remaining_methods))
            }
        }
    }

    /// Offers a key. Nothing is returned when it was not to be used after all.
    async fn offer(
        &mut self,
        candidate: Candidate,
        offer: &Offer,
        agent: Option<&mut agent::Agent>,
        accepts: &MethodSet,
    ) -> Result<Option<Step>, ConnectError> {
        let shared = self.shared;
        let hash = if candidate.public().algorithm().is_rsa() {
            // Waits up to a second for the server's list, so only RSA keys pay for it.
            let best = self.handle.best_supported_rsa_hash().await.map_err(|_| lost(shared))?;
            best.unwrap_or(Some(HashAlg::Sha512))
        } else {
            None
        };
        let public = candidate.public().clone();
        let LoginRequest { questions, host, .. } = *self.request;
        shared.unsigned();
        let signed = match candidate {
            Candidate::Given { key, .. } | Candidate::File { key, certificate: None, .. } => {
                let mut signer = FileSigner::Open(key);
                let login = self.sign_in(public, None, hash, &mut signer);
                let verdict = unless_asked(questions, host, shared, login).await?;
                self.by_person |= verdict.by_person;
                verdict.word
            }
            Candidate::File { key, certificate, .. } => {
                self.sign_in(public, certificate, hash, &mut FileSigner::Open(key)).await
            }
            Candidate::Locked { path, certificate, .. } => {
                let keys = &self.request.environment.unlocked;
                let mut signer = FileSigner::Locked { path: &path, keys, questions };
                self.sign_in(public, certificate, hash, &mut signer).await
            }
            Candidate::Agent { certificate, .. } => {
                let Some(agent) = agent else { return Ok(None) };
                let mut signer = AgentSigner { agent, host, questions, by_person: false };
                let signed = self.sign_in(public, certificate, hash, &mut signer).await;
                self.by_person |= signer.by_person;
                signed
            }
        };
        let result = match signed {
            Ok(result) => Ok(result),
            Err(_) if self.handle.is_closed() => Err(self.lost_with(offer)),
            Err(SignError::Locked(error)) => {
                tracing::info!(key = offer.fingerprint, %error, "a locked key is passed over");
                self.unanswered = Some(*error);
                return Ok(None);
            }
            Err(SignError::NoConsent(why)) => {
                return Err(unanswered("the ssh-agent waits for its user".to_owned(), why));
            }
            Err(error @ SignError::Agent(_)) => {
                // The agent declined (a confirmation was refused, the key is gone): try the next.
                tracing::info!(%error, key = offer.fingerprint, "the agent did not sign");
                self.unsigned.push(offer.clone());
                return Ok(None);
            }
            Err(error) => {
                tracing::info!(key = offer.fingerprint, %error, "a key is passed over");
                self.offered.push(offer.clone());
                return Ok(None);
            }
        };
        let result = result.map_err(|error| self.too_many_failures(error, accepts))?;
        self.offered.push(offer.clone());
        match result {
            AuthResult::Success => {
                Ok(Some(Step::Done(format!("publickey {} ({})", offer.name, offer.origin))))
            }
            AuthResult::Failure { remaining_methods, partial_success } => {
                // russh tells a lost connection as a failure without any method left.
                if self.handle.is_closed() || remaining_methods.is_empty() {
                    shared.closed.cancelled().await;
                    return Err(self.too_many_failures(self.lost_with(offer), accepts));
                }
                Ok(Some(match partial_success {
                    true => Step::Further(remaining_methods),
                    false => Step::Refused(remaining_methods),
                }))
            }
        }
    }

    /// Logs in with a key, or its certificate.
    async fn sign_in<S: russh::Signer<Error = SignError> + Send>(
        &mut self,
        key: PublicKey,
        certificate: Option<Box<UserCertificate>>,
        hash: Option<HashAlg>,
        signer: &mut S,
    ) -> Result<AuthResult, SignError> {
        let user = self.request.credentials.user.clone();
        let mut signer = Noted { signer, shared: self.shared };
        match certificate {
            None => self.handle.authenticate_publickey_with(user, key, hash, &mut signer).await,
            Some(certificate) => {
                let login = self.handle.authenticate_certificate_with(
                    user,
                    certificate.certificate,
                    hash,
                    &mut signer,
                );
                login.await
            }
        }
    }

    /// Returns the error of a connection that ended while a key was offered. A server that takes a key and then
    /// closes in good order does not let its account in; a line that breaks does so otherwise, and seldom then.
    fn lost_with(&self, offer: &Offer) -> ConnectError {
        match (self.shared.said_since_signed(), self.shared.cause()) {
            (Some(said), LossCause::Closed) => ConnectError::ClosedAtLogin {
                user: self.request.credentials.user.clone(),
                key: offer.name.clone(),
                said,
            },
            _ => lost(self.shared),
        }
    }

    /// Goes on with what needs a person, as far as the host allows it.
    async fn by_person(
        mut self,
        mut accepts: MethodSet,
        mut done: Vec<String>,
        mut login: Login,
    ) -> Result<Login, ConnectError> {
        let LoginRequest { credentials, host, methods, questions, seen, .. } = *self.request;
        let user = &credentials.user;
        let account = host.map(|host| Account {
            host: host.clone(),
            login: format!("{user}@{}", self.request.server),
            host_key: self.shared.host_key.get().map(|key| key.text.clone()).unwrap_or_default(),
        });
        let secrets = &self.request.environment.secrets;
        let Methods { mut password, mut keyboard_interactive, .. } = methods;
        loop {
            let mut interactive = Interactive {
                handle: &mut *self.handle,
                shared: self.shared,
                credentials,
                host,
                questions,
                passwords: Passwords::new(secrets, questions, seen, account.clone()),
                owed: Accepted::default(),
            };
            let by_keyboard =
                keyboard_interactive && accepts.contains(&MethodKind::KeyboardInteractive);
            let by_password = password && accepts.contains(&MethodKind::Password);
            let (outcome, word, given) =
                if by_password && (credentials.password_first || !by_keyboard) {
                    password = false;
                    (interactive.password().await, "password", "the password")
                } else if by_keyboard {
                    keyboard_interactive = false;
                    (interactive.keyboard().await, "keyboard-interactive", "the answers")
                } else {
                    break;
                };
            login.by_client |= interactive.owed.by_client;
            login.not_kept = login.not_kept.or(interactive.owed.not_kept.take());
            match outcome.map_err(|error| self.too_many_failures(error, &accepts))? {
                Outcome::Done => {
                    done.push(word.to_owned());
                    login.how = done.join(", then ");
                    return Ok(login);
                }
                Outcome::Further(now) => {
                    self.accepted.push(given.to_owned());
                    done.push(word.to_owned());
                    accepts = now;
                }
                Outcome::Refused(now) => {
                    self.answered.push(given);
                    accepts = now;
                }
            }
        }
        Err(match self.unanswered.take() {
            Some(error) => error,
            None => self.refused(&accepts, false),
        })
    }

    fn refused(&self, accepts: &MethodSet, cut_short: bool) -> ConnectError {
        ConnectError::AuthRefused(Box::new(self.refusal(accepts, cut_short)))
    }

    fn refusal(&self, accepts: &MethodSet, cut_short: bool) -> Refusal {
        let methods = self.request.methods;
        let missing = [
            (MethodKind::Password, "password", methods.password),
            (MethodKind::KeyboardInteractive, "keyboard-interactive", methods.keyboard_interactive),
        ];
        let missing =
            missing.iter().filter(|(kind, _, allowed)| !allowed && accepts.contains(kind));
        let allow = missing.map(|(_, word, _)| *word).collect();
        let accepts: Vec<&str> = accepts.iter().map(Into::into).collect();
        Refusal {
            allow,
            user: self.request.credentials.user.clone(),
            accepted: self.accepted.clone(),
            offered: self.offered.clone(),
            unsigned: self.unsigned.clone(),
            unusable: self.unusable.clone(),
            // Those that the server would not have looked at were not too many.
            unoffered: if cut_short || self.offered.len() + self.unsigned.len() >= MAX_OFFERS {
                self.unoffered
            } else {
                0
            },
            cut_short,
            no_method: false,
            forbidden: methods.forbidden,
            answered: self.answered.clone(),
            accepts: accepts.join(","),
        }
    }

    /// OpenSSH ends the connection at MaxAuthTries: that is a refused login, not a lost connection, and
    /// dialling again would only repeat it.
    fn too_many_failures(&self, error: ConnectError, accepts: &MethodSet) -> ConnectError {
        match &error {
            ConnectError::Lost { cause, .. } if leaves_no_method(cause) => {
                // Another key would be offered in vain.
                let refusal = self.refusal(&MethodSet::empty(), false);
                let refusal = Refusal { no_method: true, unoffered: 0, ..refusal };
                ConnectError::AuthRefused(Box::new(refusal))
            }
            ConnectError::Lost { cause, .. } if is_refusal(cause) => self.refused(accepts, true),
            _ => error,
        }
    }
}

/// Returns the error of a connection that has ended or is about to, as russh tells both: a server that names no
/// method any more is left by it.
async fn lost_at_last(shared: &Shared) -> ConnectError {
    shared.closed.cancelled().await;
    lost(shared)
}

fn lost(shared: &Shared) -> ConnectError {
    ConnectError::Lost { phase: Phase::Authentication, cause: shared.cause() }
}
