//! Whether the key that a server shows is the host's: OpenSSH's known_hosts files, and what to do with a
//! key that is in none of them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use occ_proto::HostName;
use occ_proto::paths::expand_tilde;
use occ_proto::prompt::PromptKind;
use occ_proto::status::Phase;
use occ_proto::text::sanitize;
use occ_proto::trust::NewHostKey;
use russh::keys::{Certificate, PublicKey, PublicKeyOrCertificate};

use super::error::{ConnectError, chain};
use super::host_certificate;
use super::known_hosts::{self, KnownHosts, KnownHostsError, Verdict};
use super::ssh_config::{SshConfig, Strict};
use crate::blocking::blocking;
use crate::prompts::{NoAnswer, Question, Questions};

/// What happens to a key of a host that is not on record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// It is recorded (`StrictHostKeyChecking accept-new`).
    Record,
    /// A person is asked (`StrictHostKeyChecking ask`).
    Ask,
    /// It is refused (`StrictHostKeyChecking yes`).
    Refuse,
    /// It is refused to everybody here.
    Forbid,
}

/// A server's key that may be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedKey {
    /// Type and fingerprint.
    pub text: String,
    /// Why it may be trusted.
    pub standing: Standing,
    /// The authority that vouches for it, by its fingerprint.
    pub authority: Option<String>,
    /// The key that is on record; none where an authority vouches for it, or it could not be recorded.
    pub recorded: Option<PublicKey>,
}

/// Why a key may be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It was on record, or an authority that is vouches for it.
    Known,
    /// It is on record from now on.
    Recorded,
    /// It is new, and could not be recorded, or only where nothing is kept (`UserKnownHostsFile /dev/null`).
    Unrecorded,
}

impl Standing {
    /// Returns the word for a person.
    pub fn word(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::Recorded => "new, recorded in known_hosts",
            Self::Unrecorded => "new, not recorded in known_hosts",
        }
    }
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
    /// The signatures that are taken from an authority (`CASignatureAlgorithms`).
    pub ca_signatures: Option<String>,
    /// `KnownHostsCommand` is set. It is not run, and might know a key that is not on record, or know better.
    pub has_command: bool,
    /// The user's files, which a person may change.
    pub user_files: Vec<PathBuf>,
    /// The host's name and who can be asked about it.
    pub asking: Option<(Option<HostName>, Arc<Questions>)>,
    /// The key is only looked at, and nobody logs in.
    pub review: Option<Arc<OnceLock<ShownKey>>>,
}

/// A key that a server showed to somebody who wanted to see it, and the record that it was held against.
#[derive(Debug, Clone)]
pub struct ShownKey {
    /// The key.
    pub key: PublicKey,
    /// What the files say of it.
    pub verdict: Verdict,
    /// The authority that vouches for it, by its fingerprint.
    pub authority: Option<String>,
    /// Why its certificate is refused, though an authority on record has signed that, in words.
    pub refused: Option<String>,
    policy: HostKeyPolicy,
}

impl ShownKey {
    /// Returns type and fingerprint.
    pub fn text(&self) -> String {
        known_hosts::describe(&self.key)
    }

    /// Returns what is in the way of putting the key in the place of what is on record, if a person has to mend it.
    pub async fn obstacle(&self) -> Option<String> {
        let Self { key, policy, .. } = self.clone();
        let look =
            move || known_hosts::obstacle(&policy.user_files, &policy.host, policy.port, &key);
        blocking(look).await.err().map(|error| chain(&error))
    }

    /// Puts the key in the place of whatever the user's files have of the host.
    pub async fn trust(self) -> Result<(), KnownHostsError> {
        blocking(move || {
            let Self { key, policy, .. } = self;
            known_hosts::replace(&policy.user_files, &policy.host, policy.port, &key, policy.hash)
        })
        .await
    }
}

impl HostKeyPolicy {
    /// Returns the policy for a server, from ssh_config and the known_hosts files.
    pub async fn load(
        ssh_config: &SshConfig,
        address: &str,
        port: u16,
        home: &Path,
    ) -> Result<Self, ConnectError> {
        let ssh_dir = home.join(".ssh");
        let paths = |configured: &[String], defaults: [&Path; 2]| -> Vec<PathBuf> {
            if configured.is_empty() {
                defaults.iter().map(PathBuf::from).collect()
            } else {
                configured.iter().map(|path| expand_tilde(path, Some(home))).collect()
            }
        };
        let user_files = paths(
            &ssh_config.user_known_hosts_files,
            [&ssh_dir.join("known_hosts"), &ssh_dir.join("known_hosts2")],
        );
        let mut files = user_files.clone();
        files.extend(paths(
            &ssh_config.global_known_hosts_files,
            [Path::new("/etc/ssh/ssh_known_hosts"), Path::new("/etc/ssh/ssh_known_hosts2")],
        ));
        let expand = |path: &String| expand_tilde(path, Some(home));
        let revoked: Vec<PathBuf> = ssh_config.revoked_host_keys.iter().map(expand).collect();
        let known = blocking(move || {
            let mut known = KnownHosts::load(&files)?;
            revoked.iter().try_for_each(|path| known.revoke(path)).map(|()| known)
        });
        let known = known.await.map_err(ConnectError::KnownHosts)?;
        if ssh_config.known_hosts_command {
            tracing::warn!(host = address, "KnownHostsCommand of ssh_config is not run");
        }
        let unknown = match ssh_config.strict_host_key_checking {
            Strict::Yes => Unknown::Refuse,
            // `no` and `off` would also accept a changed key; that much trust is never given here.
            Strict::Unset | Strict::AcceptNew | Strict::No => Unknown::Record,
        };
        // An alias stands for host and port: it is filed as on port 22.
        let (host, port) = match &ssh_config.host_key_alias {
            Some(alias) => (alias.clone(), 22),
            None => (address.to_owned(), port),
        };
        Ok(Self {
            host,
            port,
            known,
            unknown,
            file: user_files.first().cloned().unwrap_or_else(|| ssh_dir.join("known_hosts")),
            hash: ssh_config.hash_known_hosts,
            ca_signatures: ssh_config.algorithms.ca_signature.clone(),
            has_command: ssh_config.known_hosts_command,
            user_files,
            asking: None,
            review: None,
        })
    }

    /// Returns what was shown when it may be trusted. Nothing has been sent to the server by then but the
    /// key exchange.
    pub async fn check(&self, shown: &PublicKeyOrCertificate) -> Result<TrustedKey, ConnectError> {
        let mut refused = None;
        let (key, vouched) = match shown {
            PublicKeyOrCertificate::PublicKey { key, .. } => (key.clone(), None),
            PublicKeyOrCertificate::Certificate(certificate) => {
                let key = host_certificate::key(certificate);
                // As with ssh, whether or not the authority is one for this host.
                let signer = host_certificate::signer(certificate);
                for (what, key) in [("host key", &key), ("certificate authority", &signer)] {
                    let verdict = self.known.check(&self.host, self.port, key);
                    if let Verdict::Revoked { file, line } = verdict {
                        let shown = known_hosts::describe(key);
                        return Err(ConnectError::HostKeyRevoked { what, shown, file, line });
                    }
                }
                match self.check_certificate(certificate) {
                    Ok(vouched) => (key, vouched),
                    // As with ssh, the key is still as good as its record. We do not record it for the first time
                    // where an authority should decide.
                    Err(error)
                        if self.known.check(&self.host, self.port, &key) == Verdict::Known =>
                    {
                        tracing::warn!(host = self.host, %error, "the key itself is on record");
                        refused = why_refused(error);
                        (key, None)
                    }
                    // A person may put the key itself on record.
                    Err(error) if self.review.is_some() => {
                        refused = why_refused(error);
                        (key, None)
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        if let Some(review) = &self.review {
            let authority = vouched.and_then(|vouched| vouched.authority);
            let verdict = match authority {
                Some(_) => Verdict::Known,
                None => self.known.check(&self.host, self.port, &key),
            };
            let policy = Self { review: None, ..self.clone() };
            let _ = review.set(ShownKey { key, verdict, authority, refused, policy });
            return Err(ConnectError::Reviewed);
        }
        let recorded = Some(key.clone());
        if let Some(trusted) = vouched {
            return Ok(trusted);
        }
        let text = known_hosts::describe(&key);
        let mut verdict = self.known.check(&self.host, self.port, &key);
        let mut new = false;
        if verdict == Verdict::Unknown {
            match self.unknown {
                Unknown::Record if self.has_command => self.ask(&text).await?,
                Unknown::Record => {}
                Unknown::Ask => self.ask(&text).await?,
                Unknown::Refuse => {
                    let by = "StrictHostKeyChecking";
                    return Err(ConnectError::HostKeyUnknown { shown: text, by });
                }
                Unknown::Forbid => {
                    let by = "trust_on_first_use in the policy of this machine's administrator";
                    return Err(ConnectError::HostKeyUnknown { shown: text, by });
                }
            }
            let not_recorded;
            (verdict, new, not_recorded) = self.record(key).await?;
            if (new || not_recorded.is_some())
                && let Some((name, questions)) = &self.asking
            {
                let name = name.clone().or_else(|| HostName::new(self.host.as_str()).ok());
                let not_recorded = not_recorded.clone();
                let told = name.map(|host| NewHostKey { host, key: text.clone(), not_recorded });
                told.iter().for_each(|key| questions.tell(key));
            }
            if let Some(why) = not_recorded {
                tracing::warn!(host = self.host, key = text, why, "a host key is not recorded");
                let standing = Standing::Unrecorded;
                return Ok(TrustedKey { text, standing, authority: None, recorded: None });
            }
            tracing::info!(
                host = self.host,
                key = text,
                recorded = new,
                "a host key that is not on record"
            );
        }
        match verdict {
            Verdict::Known => {
                let standing = if new { Standing::Recorded } else { Standing::Known };
                Ok(TrustedKey { text, standing, authority: None, recorded })
            }
            Verdict::Revoked { file, line } => {
                let what = "host key";
                Err(ConnectError::HostKeyRevoked { what, shown: text, file, line })
            }
            Verdict::Changed { file, line, known, .. } => Err(ConnectError::HostKeyChanged {
                shown: text,
                recorded: known.join(", "),
                file,
                line,
            }),
            Verdict::Unknown => {
                Err(ConnectError::HostKeyUnknown { shown: text, by: "StrictHostKeyChecking" })
            }
        }
    }

    /// Asks a person whether a key that is not on record may be trusted.
    async fn ask(&self, shown: &str) -> Result<(), ConnectError> {
        let command = match self.has_command {
            true => " (KnownHostsCommand of ssh_config is not run)",
            false => "",
        };
        let unanswered = |why| ConnectError::Unanswered {
            question: format!(
                "the host key {shown} is not on record{command}, and somebody must compare it"
            ),
            phase: Phase::HostKey,
            key: None,
            why,
        };
        let Some((host, questions)) = &self.asking else {
            return Err(unanswered(NoAnswer::Nobody));
        };
        let question = Question {
            kind: PromptKind::HostKey,
            host: host.clone(),
            message: format!(
                "The server shows {shown}, which is not on record{command}. Trust it (yes/no)"
            ),
            note: None,
            secret: false,
            again: false,
        };
        let answer = questions.ask(question).await.map_err(unanswered)?;
        // As with ssh, the fingerprint is as good an answer, and a better one.
        let text = answer.expose().trim();
        let fingerprint = shown.split(' ').next_back().unwrap_or_default();
        if text.eq_ignore_ascii_case("yes") || text == fingerprint {
            return Ok(());
        }
        Err(unanswered(if text.starts_with("SHA256:") {
            NoAnswer::Mismatch
        } else {
            NoAnswer::Declined
        }))
    }

    /// Takes a certificate that an authority of known_hosts vouches with; nothing is recorded. Returns nothing
    /// for one of another authority.
    fn check_certificate(
        &self,
        certificate: &Certificate,
    ) -> Result<Option<TrustedKey>, ConnectError> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_secs());
        let shown = known_hosts::describe(&host_certificate::key(certificate));
        let signatures = self.ca_signatures.as_deref();
        let Self { known, host, port, .. } = self;
        match host_certificate::check(certificate, known, host, *port, signatures, now) {
            Ok(None) => Ok(None),
            Ok(Some(authority)) => {
                let by = known_hosts::fingerprint(&authority);
                let text = format!("{shown}, certificate by {by}");
                let (standing, authority) = (Standing::Known, Some(by));
                Ok(Some(TrustedKey { text, standing, authority, recorded: None }))
            }
            Err(why) => Err(ConnectError::HostCertificate { shown, why: sanitize(&why) }),
        }
    }

    /// Follows a server that announces its keys: what it can prove is added to the user's files, and what it has
    /// no more is taken out.
    pub async fn update<E>(
        self,
        used: PublicKey,
        announced: Vec<PublicKey>,
        prove: impl AsyncFnOnce(Vec<PublicKey>) -> Result<(), E>,
    ) -> Result<(), KnownHostsError> {
        let (this, update) = blocking(move || {
            let Self { user_files, known, host, port, .. } = &self;
            let update = known_hosts::compare(user_files, known, host, *port, &used, &announced);
            update.map(|update| (self, update))
        })
        .await?;
        if update.is_empty() {
            return Ok(());
        }
        if !update.new.is_empty() && prove(update.new.clone()).await.is_err() {
            tracing::warn!(host = this.host, "the server cannot prove the keys that it announces");
            return Ok(());
        }
        let texts = |keys: &[PublicKey]| {
            let texts: Vec<String> = keys.iter().map(known_hosts::describe).collect();
            texts.join(", ")
        };
        let (added, removed) = (texts(&update.new), texts(&update.gone));
        tracing::info!(host = this.host, added, removed, "the server changed its host keys");
        blocking(move || {
            known_hosts::update(&this.user_files, &this.host, this.port, &update, this.hash)
        })
        .await
    }

    /// Records a first key, unless somebody else recorded another one meanwhile. Returns the verdict from then on,
    /// whether a line was added, and for a key that is unknown still why none could be: as with ssh, it is trusted
    /// this once.
    async fn record(
        &self,
        key: PublicKey,
    ) -> Result<(Verdict, bool, Option<String>), ConnectError> {
        let Self { file, user_files, host, port, hash, .. } = self.clone();
        let record = move || match known_hosts::record_first(&file, &host, port, &key, hash) {
            // Not recorded now, nor by somebody else meanwhile.
            Ok((Verdict::Known, false))
                if KnownHosts::load(&user_files)?.check(&host, port, &key) == Verdict::Unknown =>
            {
                let why = format!("{} keeps nothing", file.display());
                Ok((Verdict::Unknown, false, Some(why)))
            }
            Ok((verdict, new)) => Ok((verdict, new, None)),
            Err(error @ KnownHostsError::Write { .. }) => {
                let verdict = KnownHosts::load(&user_files)?.check(&host, port, &key);
                let why = (verdict == Verdict::Unknown).then(|| chain(&error));
                Ok((verdict, false, why))
            }
            Err(error) => Err(error),
        };
        blocking(record).await.map_err(ConnectError::KnownHostsWrite)
    }
}

/// Returns what is wrong with a certificate, in words.
fn why_refused(error: ConnectError) -> Option<String> {
    match error {
        ConnectError::HostCertificate { why, .. } => Some(why),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use testkit::keys::{KeyFile, known_hosts_line};

    use super::*;

    #[tokio::test]
    async fn keys_that_a_server_announces_are_recorded_once_it_has_proved_them() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join(".ssh/known_hosts");
        std::fs::create_dir(home.path().join(".ssh")).unwrap();
        let [known, new] = ["known", "new"].map(|name| {
            let key = KeyFile::generate(home.path().join(name), "ed25519");
            PublicKey::from_openssh(&key.public).unwrap()
        });
        let text = |key: &PublicKey| key.to_openssh().unwrap();
        std::fs::write(&file, format!("{}\n", known_hosts_line("h", 22, &text(&known)))).unwrap();
        let before = std::fs::read_to_string(&file).unwrap();
        for (proof, added) in [(Err(()), false), (Ok(()), true)] {
            let config = SshConfig::default();
            let policy = HostKeyPolicy::load(&config, "h", 22, home.path()).await.unwrap();
            let announced = vec![known.clone(), new.clone()];
            let prove = async |keys: Vec<PublicKey>| {
                assert_eq!(keys.iter().map(text).collect::<Vec<_>>(), [text(&new)]);
                proof
            };
            policy.update(known.clone(), announced, prove).await.unwrap();
            let after = std::fs::read_to_string(&file).unwrap();
            assert!(after.starts_with(&before), "{after}");
            let blob = text(&new).split(' ').nth(1).unwrap().to_owned();
            assert_eq!(after.contains(&blob), added, "{after}");
        }
    }
    #[tokio::test]
    async fn a_key_that_cannot_be_recorded_is_trusted_once_unless_another_is_on_record() {
        let home = tempfile::tempdir().unwrap();
        let ssh = home.path().join(".ssh");
        std::fs::create_dir(&ssh).unwrap();
        std::os::unix::fs::symlink("nowhere/known_hosts", ssh.join("known_hosts")).unwrap();
        let [shown, other] = ["shown", "other"].map(|name| {
            let key = KeyFile::generate(home.path().join(name), "ed25519");
            PublicKey::from_openssh(&key.public).unwrap()
        });
        let config = SshConfig::default();
        let policy = HostKeyPolicy::load(&config, "h", 22, home.path()).await.unwrap();
        let server = PublicKeyOrCertificate::PublicKey { key: shown.clone(), hash_alg: None };
        let trusted = policy.check(&server).await.unwrap();
        let text = known_hosts::describe(&shown);
        let standing = Standing::Unrecorded;
        assert_eq!(trusted, TrustedKey { text, standing, authority: None, recorded: None });
        // Somebody recorded another one since the policy was made, where it could be.
        let line = known_hosts_line("h", 22, &other.to_openssh().unwrap());
        std::fs::write(ssh.join("known_hosts2"), format!("{line}\n")).unwrap();
        let error = policy.check(&server).await.unwrap_err();
        assert!(matches!(error, ConnectError::HostKeyChanged { .. }), "{error}");
    }
}
