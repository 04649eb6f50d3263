//! Passwords that people want kept: in the system's keyring or, where there is none that is open, in a file
//! that is encrypted with age. Key passphrases are never among them.

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use occ_proto::host::Forgotten;
use occ_proto::prompt::PromptKind;
use occ_proto::{HostName, Secret};
use tokio::sync::watch;

use crate::prompts::{NoAnswer, Prompts, Question, Questions, Whom};
use crate::ssh::error::chain;

mod file;
mod index;
mod keyring;

use file::{FileError, SecretsFile};
use keyring::KeyringError;

/// Whose the items in the keyring are.
const APPLICATION: &str = "occ";

/// What a password is for. The server is part of it: a host that is given another address, or that answers with
/// another key, is not sent it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Account {
    /// The host.
    pub host: HostName,
    /// `user@address:port`.
    pub login: String,
    /// The server's host key: type and fingerprint.
    pub host_key: String,
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.host, self.login)
    }
}

/// Why a password could not be kept or forgotten.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct SecretsError(#[from] Fault);

impl SecretsError {
    /// Returns why the file they are in was not opened, where that is for want of an answer.
    pub fn no_answer(&self) -> Option<NoAnswer> {
        match &self.0 {
            Fault::File(FileError::Locked { source, .. }) => Some(*source),
            _ => None,
        }
    }

    /// Returns whether nobody opened what they are in.
    pub fn is_unanswered(&self) -> bool {
        let locked = &self.0;
        matches!(
            locked,
            Fault::File(FileError::Locked { .. })
                | Fault::Keyring(KeyringError::Locked | KeyringError::LockedItem)
        )
    }
}

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    #[error(transparent)]
    File(#[from] FileError),
}

/// The kept passwords.
#[derive(Debug)]
pub struct Secrets {
    file: SecretsFile,
    /// Refused by their servers: not tried again until a new one is kept. A server that has lost its directory
    /// for a while must not cost anybody their passwords, so they are not deleted.
    refused: Mutex<HashSet<Account>>,
    /// Whose passwords are not to be kept.
    declined: Mutex<HashSet<Account>>,
    enabled: AtomicBool,
}

impl Secrets {
    /// Returns the passwords in the keyring, or in that file; `identity` is where its key is looked for.
    pub fn new(file: PathBuf, identity: PathBuf, home: PathBuf, prompts: Arc<Prompts>) -> Self {
        let file = SecretsFile::new(file, identity, home, prompts);
        let enabled = AtomicBool::new(true);
        Self { file, refused: Mutex::default(), declined: Mutex::default(), enabled }
    }

    /// Sets whether passwords are kept, and looked for, at all.
    pub fn set_enabled(&self, enabled: bool) {
        self.enabled.store(enabled, Ordering::Relaxed);
    }

    /// Asks whether a password is to be kept, and returns who says so. Whoever says no is not asked again.
    pub async fn may_keep(&self, account: &Account, questions: &Questions) -> Option<Whom> {
        let is_asked = self.enabled.load(Ordering::Relaxed)
            && questions.can_ask()
            && !lock(&self.declined).contains(account);
        if !is_asked {
            return None;
        }
        let place = match keyring::is_there().await {
            true => "the keyring".to_owned(),
            false => format!("an encrypted file ({})", self.file.shown()),
        };
        let question = Question {
            kind: PromptKind::Keep,
            host: Some(account.host.clone()),
            message: format!("Keep the password in {place}?"),
            note: None,
            secret: false,
            again: false,
        };
        let says_yes =
            |text: &Secret| ["y", "yes"].iter().any(|yes| text.expose().eq_ignore_ascii_case(yes));
        match questions.ask_in(&mut None, question).await {
            Ok(answer) if says_yes(&answer.text) => Some(answer.by),
            // Nobody has said anything.
            Err(NoAnswer::Nobody | NoAnswer::Left | NoAnswer::Elsewhere | NoAnswer::Timeout) => {
                None
            }
            Ok(_) | Err(_) => {
                lock(&self.declined).insert(account.clone());
                None
            }
        }
    }

    /// Returns the password of an account, if it is kept and was not refused. Somebody may be asked for the
    /// passphrase of the file it is in.
    pub async fn get(
        &self,
        account: &Account,
        questions: &Questions,
    ) -> Result<Option<Secret>, SecretsError> {
        if !self.enabled.load(Ordering::Relaxed) || lock(&self.refused).contains(account) {
            return Ok(None);
        }
        let found = match keyring::get(account).await {
            Err(KeyringError::Unavailable | KeyringError::Locked) => {
                self.file.get(account, questions).await.map_err(Fault::from)
            }
            // Another may have been kept in the file since.
            Err(locked @ KeyringError::LockedItem) => {
                match self.file.get(account, questions).await {
                    Ok(None) => Err(locked.into()),
                    found => found.map_err(Fault::from),
                }
            }
            found => found.map_err(Fault::from),
        };
        found.map_err(|error| {
            tracing::warn!(%account, error = chain(&error), "the kept password cannot be had");
            SecretsError(error)
        })
    }

    /// Returns what changes when somebody gives the passphrase of the file that they are in.
    pub fn opened(&self) -> watch::Receiver<u64> {
        self.file.opened()
    }

    /// Records that the server refused the password that is kept.
    pub fn was_refused(&self, account: &Account) {
        tracing::warn!(%account, "the kept password was refused");
        lock(&self.refused).insert(account.clone());
    }

    /// Keeps a password in place of the one before, as those wish.
    pub async fn keep(
        &self,
        account: &Account,
        password: &Secret,
        questions: &Questions,
        whom: &Whom,
    ) -> Result<(), SecretsError> {
        match keyring::keep(account, password).await {
            Err(KeyringError::Unavailable | KeyringError::Locked | KeyringError::LockedItem) => {
                let kept = self.file.keep(account, password, questions, whom).await;
                kept.map_err(Fault::from)?;
            }
            kept => kept.map_err(Fault::from)?,
        }
        lock(&self.refused).remove(account);
        tracing::info!(%account, "a password is kept");
        Ok(())
    }

    /// Deletes the passwords of a host, wherever they are. A keyring that is locked is an error: nobody knows what
    /// is in it.
    pub async fn forget(
        &self,
        host: &HostName,
        questions: &Questions,
    ) -> Result<Forgotten, SecretsError> {
        let in_file = self.file.forget(host, questions).await.map_err(Fault::from)?;
        let in_keyring = match keyring::forget(host).await {
            Err(KeyringError::Unavailable) => None,
            count => Some(count.map_err(Fault::from)?),
        };
        lock(&self.refused).retain(|account| account.host != *host);
        lock(&self.declined).retain(|account| account.host != *host);
        let passwords = in_keyring.unwrap_or_default() + in_file;
        Ok(Forgotten { passwords, keyring: in_keyring.is_some() })
    }

    /// Wipes what memory holds: the daemon stops.
    pub async fn lock(&self) {
        self.file.lock().await;
    }
}

fn lock(accounts: &Mutex<HashSet<Account>>) -> MutexGuard<'_, HashSet<Account>> {
    accounts.lock().unwrap_or_else(PoisonError::into_inner)
}
