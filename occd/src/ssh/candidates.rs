//! What can be offered to a server at a login, in the order of the offers.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use occ_proto::KEY_VARIABLES;
use occ_proto::text::sanitize;
use russh::keys::agent::AgentIdentity;
use russh::keys::ssh_key::certificate::CertType;
use russh::keys::{Certificate, PrivateKey, PublicKey};

use super::auth::Credentials;
use super::error::{IdentityError, Offer};
use super::identity::{self, Identity};
use super::known_hosts::fingerprint;
use super::unlocked::UnlockedKeys;
use super::validity;

/// The largest certificate that is read; one with hundreds of principals has some KiB.
const MAX_CERTIFICATE: u64 = 256 * 1024;

/// Characters of a certificate's names in an error.
const MAX_PRINCIPALS: usize = 100;

/// A certificate, and the file that it is from; an agent's is from none.
#[derive(Debug, Clone)]
pub(super) struct UserCertificate {
    pub(super) certificate: Certificate,
    path: Option<PathBuf>,
}

/// A key, with or without a certificate, and who signs with it.
#[derive(Debug, Clone)]
pub(super) enum Candidate {
    File {
        path: PathBuf,
        key: Arc<PrivateKey>,
        certificate: Option<Box<UserCertificate>>,
    },
    /// From the environment of the client, or of the daemon.
    Given {
        key: Arc<PrivateKey>,
        by_client: bool,
    },
    /// Behind a passphrase that nobody has given yet.
    Locked {
        path: PathBuf,
        key: Box<PublicKey>,
        certificate: Option<Box<UserCertificate>>,
    },
    Agent {
        comment: String,
        key: Box<PublicKey>,
        certificate: Option<Box<UserCertificate>>,
    },
}

impl Candidate {
    pub(super) fn public(&self) -> &PublicKey {
        match self {
            Self::File { key, .. } | Self::Given { key, .. } => key.public_key(),
            Self::Agent { key, .. } | Self::Locked { key, .. } => key,
        }
    }

    fn certificate(&self) -> Option<&UserCertificate> {
        match self {
            Self::File { certificate, .. }
            | Self::Locked { certificate, .. }
            | Self::Agent { certificate, .. } => certificate.as_deref(),
            Self::Given { .. } => None,
        }
    }

    /// Returns it in the words of an error, which is one for a login as `user`.
    pub(super) fn offer(&self, user: &str) -> Offer {
        let fingerprint = fingerprint(self.public());
        let mut name = match self {
            Self::File { path, .. } | Self::Locked { path, .. } => path.display().to_string(),
            Self::Agent { comment, .. } => sanitize(comment),
            Self::Given { .. } => KEY_VARIABLES[0].to_owned(),
        };
        let mut note = String::new();
        if let Some(UserCertificate { certificate, path }) = self.certificate() {
            name.push_str(&format!(" with certificate {}", sanitize(certificate.key_id())));
            if let Some(path) = path {
                name.push_str(&format!(" of {}", path.display()));
            }
            note = certificate_note(certificate, user);
        }
        let origin = match self {
            Self::File { .. } | Self::Locked { .. } => "file",
            Self::Agent { .. } => "agent",
            Self::Given { by_client: true, .. } => "the client's environment",
            Self::Given { by_client: false, .. } => "occd's environment",
        };
        Offer { name, note, fingerprint, origin }
    }

    fn is_same(&self, other: &Self) -> bool {
        let bytes =
            |candidate: &Self| candidate.certificate().and_then(|c| c.certificate.to_bytes().ok());
        self.public().key_data() == other.public().key_data() && bytes(self) == bytes(other)
    }

    fn with(&self, certificate: UserCertificate) -> Self {
        let certificate = Some(Box::new(certificate));
        match self.clone() {
            Self::File { path, key, .. } => Self::File { path, key, certificate },
            Self::Locked { path, key, .. } => Self::Locked { path, key, certificate },
            Self::Agent { comment, key, .. } => Self::Agent { comment, key, certificate },
            given @ Self::Given { .. } => given,
        }
    }
}

/// Returns what is to be said of a certificate that a server hardly takes for a user: not at this time, or only where
/// it maps the names (AuthorizedPrincipalsFile in its sshd_config).
fn certificate_note(certificate: &Certificate, user: &str) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let now = now.as_secs();
    let mut notes: Vec<String> = Vec::new();
    notes.extend(validity::fault(certificate, now));
    let principals = certificate.valid_principals();
    if !principals.is_empty() && !principals.iter().any(|principal| principal == user) {
        let mut names = sanitize(&principals.join(", "));
        if let Some((at, _)) = names.char_indices().nth(MAX_PRINCIPALS) {
            names.replace_range(at.., "…");
        }
        notes.push(format!("is for {names} and not for {user}"));
    }
    if notes.is_empty() { String::new() } else { format!(", which {},", notes.join(" and ")) }
}

/// Puts the keys in the order of their offers, each once: those named for the host, those given in the
/// environment, the agent's, the default files. A certificate comes before its bare key, as with ssh.
pub(super) fn candidates(
    credentials: &Credentials,
    (agent, agent_word): (Vec<AgentIdentity>, &str),
    given: Vec<Candidate>,
    unlocked: &UnlockedKeys,
) -> Result<Found, IdentityError> {
    let mut passed_over = Vec::new();
    let mut wants_agent = false;
    let of_agent: Vec<Candidate> = agent.into_iter().filter_map(of_agent).collect();
    let mut unusable = Vec::new();
    let mut certificates = Vec::new();
    for path in &credentials.certificates {
        match read_certificate(path) {
            Ok(certificate) => certificates.push(certificate),
            Err(why) => unusable.push(unusable_text(path, &why)),
        }
    }
    let mut list = List { candidates: Vec::new(), certificates, unusable: Vec::new() };
    let in_agent = |public: &PublicKey| {
        let plain = |c: &&Candidate| c.certificate().is_none();
        of_agent.iter().filter(plain).find(|c| c.public().key_data() == public.key_data()).cloned()
    };
    let of_file = |path: &Path| -> Result<Option<Candidate>, IdentityError> {
        let open = |key| Candidate::File { path: path.to_owned(), key, certificate: None };
        Ok(match identity::load(path)? {
            Identity::Key(key) => Some(open(key)),
            Identity::Public(key) => match in_agent(&key) {
                None => {
                    let what = match path.exists() {
                        true => "is a public key",
                        false => "is missing but for its public key",
                    };
                    let (path, agent) = (path.to_owned(), agent_word.to_owned());
                    return Err(IdentityError::NotInAgent { path, what, agent });
                }
                held => held,
            },
            Identity::Locked(public) => match unlocked.get(path) {
                Some(key) => Some(open(key)),
                // Without a public part it was asked for before; whoever did not answer goes without.
                None => public.map(|key| {
                    let path = path.to_owned();
                    in_agent(&key).unwrap_or(Candidate::Locked { path, key, certificate: None })
                }),
            },
        })
    };
    let mut optional = |path: &PathBuf| match of_file(path) {
        Ok(candidate) => candidate,
        Err(error) if error.is_not_found() => {
            // Of the default files most are not there.
            if credentials.configured.contains(path) {
                passed_over.push(format!("the identity file {} is not there", path.display()));
            }
            None
        }
        Err(IdentityError::NotInAgent { path, what, .. }) => {
            wants_agent = true;
            passed_over.push(format!("the identity file {} {what}", path.display()));
            None
        }
        Err(error) => {
            tracing::info!(%error, "an identity file is passed over");
            passed_over.push(error.to_string());
            None
        }
    };
    if let Some(path) = &credentials.named
        && let Some(candidate) = of_file(path)?
    {
        list.add_file(candidate, path);
    }
    for path in &credentials.configured {
        if let Some(candidate) = optional(path) {
            list.add_file(candidate, path);
        }
    }
    given.into_iter().for_each(|candidate| list.push(candidate));
    if !credentials.identities_only {
        of_agent.iter().for_each(|candidate| list.add(candidate));
    }
    // As with ssh, the default files are among what IdentitiesOnly allows, unless others take their place.
    if !credentials.identities_only || credentials.named.is_none() {
        for path in &credentials.defaults {
            if let Some(candidate) = optional(path) {
                list.add_file(candidate, path);
            }
        }
    }
    unusable.extend(list.strays());
    unusable.append(&mut list.unusable);
    Ok(Found { candidates: list.candidates, passed_over, wants_agent, unusable })
}

/// What can be offered, and why some files cannot.
pub(super) struct Found {
    pub(super) candidates: Vec<Candidate>,
    /// In words, in the order of the files.
    pub(super) passed_over: Vec<String>,
    /// One of them only names a key that an agent may hold.
    pub(super) wants_agent: bool,
    /// The certificates of ssh_config that are for nothing, in words.
    pub(super) unusable: Vec<String>,
}

/// Candidates, and the certificates of ssh_config for any of them.
struct List {
    candidates: Vec<Candidate>,
    certificates: Vec<UserCertificate>,
    /// Those beside keys that cannot be used, in words.
    unusable: Vec<String>,
}

impl List {
    /// Adds a key with the certificate beside its file.
    fn add_file(&mut self, candidate: Candidate, path: &Path) {
        let beside = certificate_beside(path);
        match read_certificate(&beside) {
            Ok(certificate) if is_for(&certificate, &candidate) => {
                self.push(candidate.with(certificate));
            }
            Ok(_) => {}
            // Most keys have none.
            Err(why) => {
                tracing::debug!(path = %beside.display(), why, "no certificate");
                self.unusable.extend(beside.exists().then(|| unusable_text(&beside, &why)));
            }
        }
        self.add(&candidate);
    }

    /// Adds a key, the certificates of ssh_config for it first.
    fn add(&mut self, candidate: &Candidate) {
        if candidate.certificate().is_none() {
            let ours: Vec<UserCertificate> =
                self.certificates.iter().filter(|c| is_for(c, candidate)).cloned().collect();
            ours.into_iter().for_each(|certificate| self.push(candidate.with(certificate)));
        }
        self.push(candidate.clone());
    }

    /// Returns the certificates that are for none of the keys, in words.
    fn strays(&self) -> Vec<String> {
        let is_stray = |certificate: &&UserCertificate| {
            !self.candidates.iter().any(|candidate| is_for(certificate, candidate))
        };
        let strays = self.certificates.iter().filter(is_stray);
        let path = |certificate: &UserCertificate| certificate.path.clone().unwrap_or_default();
        strays.map(|c| unusable_text(&path(c), "it is for none of the keys")).collect()
    }

    fn push(&mut self, candidate: Candidate) {
        if !self.candidates.iter().any(|other| other.is_same(&candidate)) {
            self.candidates.push(candidate);
        }
    }
}

/// Returns whether a certificate is one of that key.
fn is_for(certificate: &UserCertificate, candidate: &Candidate) -> bool {
    certificate.certificate.public_key() == candidate.public().key_data()
}

/// A key file behind a passphrase.
pub(super) struct Locked {
    pub(super) path: PathBuf,
    pub(super) public: Option<Box<PublicKey>>,
}

impl Locked {
    /// Returns whether an agent holds the key.
    pub(super) fn is_among(&self, identities: &[AgentIdentity]) -> bool {
        let Some(public) = &self.public else { return false };
        let same = |identity: &AgentIdentity| match identity {
            AgentIdentity::PublicKey { key, .. } => key.key_data() == public.key_data(),
            AgentIdentity::Certificate { .. } => false,
        };
        identities.iter().any(same)
    }
}

/// Returns the key of a file if it is locked and nobody has opened it.
pub(super) fn locked(path: &Path, unlocked: &UnlockedKeys) -> Option<Locked> {
    match identity::load(path) {
        Ok(Identity::Locked(public)) if unlocked.get(path).is_none() => {
            Some(Locked { path: path.to_owned(), public })
        }
        _ => None,
    }
}

fn of_agent(identity: AgentIdentity) -> Option<Candidate> {
    match identity {
        AgentIdentity::PublicKey { key, comment } => {
            Some(Candidate::Agent { comment, key: Box::new(key), certificate: None })
        }
        AgentIdentity::Certificate { certificate, comment } => {
            let key = PublicKey::new(certificate.public_key().clone(), comment.clone());
            Some(Candidate::Agent {
                comment,
                key: Box::new(key),
                certificate: Some(Box::new(UserCertificate { certificate, path: None })),
            })
        }
    }
}

/// Returns where ssh looks for the certificate of a key file (ssh_config(5), CertificateFile).
pub(super) fn certificate_beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-cert.pub");
    name.into()
}

fn unusable_text(path: &Path, why: &str) -> String {
    format!("the certificate {} cannot be used: {why}", sanitize(&path.display().to_string()))
}

/// Reads a certificate, or returns why that cannot be.
fn read_certificate(path: &Path) -> Result<UserCertificate, String> {
    let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() || metadata.len() > MAX_CERTIFICATE {
        return Err("it is no regular file, or too large".to_owned());
    }
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let certificate = Certificate::from_openssh(text.trim());
    let certificate = certificate.map_err(|_| "it is not an OpenSSH certificate".to_owned())?;
    if certificate.cert_type() != CertType::User {
        return Err("it is a host's certificate, not a user's".to_owned());
    }
    Ok(UserCertificate { certificate, path: Some(path.to_owned()) })
}
