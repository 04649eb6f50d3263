//! Passwords in a file that is encrypted with age, for machines without a keyring.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use occ_proto::paths::with_tilde;
use occ_proto::prompt::PromptKind;
use occ_proto::text::sanitize;
use occ_proto::wording::in_words;
use occ_proto::{HostName, Secret};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::Account;
use super::index::Index;
use crate::blocking::blocking;
use crate::prompts::{NoAnswer, Place, Prompts, Question, Questions, TRIES, Whom};
use crate::sealed::{self, Key, SealError};
use crate::stamp::Stamp;

/// Why the file was of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    /// It cannot be read or written.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It cannot be opened or made.
    #[error("{}", path.display())]
    Sealed {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: SealError,
    },
    /// What is in it is not ours.
    #[error("{} has other content than expected: {why}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Why, without any of it.
        why: String,
    },
    /// Nobody gave its passphrase.
    #[error("the passphrase for {}{} is needed", path.display(), changed_text(*.changed))]
    Locked {
        /// The file.
        path: PathBuf,
        /// It is not what was written last: by another program, or it is damaged, which only its passphrase shows.
        changed: bool,
        /// Why.
        #[source]
        source: NoAnswer,
    },
}

fn changed_text(changed: bool) -> &'static str {
    if changed { ", which is not as occd wrote it," } else { "" }
}

impl FileError {
    fn unexpected(path: &Path, error: &serde_json::Error) -> Self {
        Self::Content { path: path.to_owned(), why: in_words(&error.to_string()) }
    }
}

/// What is in the file: for each host the password of each login there.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Content {
    version: Version,
    passwords: BTreeMap<HostName, BTreeMap<String, Kept>>,
}

/// A password, and the host key of the server that it is for.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    password: Secret,
    host_key: String,
}

impl Content {
    fn index(&self, sealed: &[u8]) -> Index {
        let of_host = |logins: &BTreeMap<String, Kept>| {
            logins.iter().map(|(login, kept)| (login.clone(), kept.host_key.clone())).collect()
        };
        let hosts = self.passwords.iter().map(|(host, logins)| (host.clone(), of_host(logins)));
        Index::new(sealed, hosts.collect())
    }
}

/// The only version there is.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
struct Version;

impl TryFrom<u32> for Version {
    type Error = String;

    fn try_from(number: u32) -> Result<Self, String> {
        if number == 1 { Ok(Self) } else { Err(format!("version {number} is not known")) }
    }
}

impl From<Version> for u32 {
    fn from(_: Version) -> Self {
        1
    }
}

/// The file.
#[derive(Debug)]
pub(super) struct SecretsFile {
    path: PathBuf,
    /// Where a key is looked for; without one the file gets a passphrase.
    identity: PathBuf,
    home: PathBuf,
    /// The file as it was last read or written: opening it takes a second. One at a time reads, asks or writes.
    open: tokio::sync::Mutex<Option<Open>>,
    place: Place,
    questions: Questions,
    /// Counts how often somebody gave its passphrase.
    opened: watch::Sender<u64>,
}

/// An open file.
#[derive(Debug, Clone)]
struct Open {
    stamp: Stamp,
    content: Content,
    key: Key,
}

impl SecretsFile {
    pub(super) fn new(
        path: PathBuf,
        identity: PathBuf,
        home: PathBuf,
        prompts: Arc<Prompts>,
    ) -> Self {
        let questions = Questions::new(prompts);
        let (open, place) = (tokio::sync::Mutex::default(), Place::default());
        Self { path, identity, home, open, place, questions, opened: watch::Sender::default() }
    }

    /// Returns what changes when somebody opens the file.
    pub(super) fn opened(&self) -> watch::Receiver<u64> {
        self.opened.subscribe()
    }

    /// Returns the file as a person knows it.
    pub(super) fn shown(&self) -> String {
        sanitize(&with_tilde(&self.path, &self.home))
    }

    /// Forgets what was in it, and its passphrase.
    pub(super) async fn lock(&self) {
        self.open.lock().await.take();
    }

    /// Returns a password, asking for the file's passphrase where that is needed: where one is kept.
    pub(super) async fn get(
        &self,
        account: &Account,
        asking: &Questions,
    ) -> Result<Option<Secret>, FileError> {
        if self.index().await.is_some_and(|index| !index.has(account)) {
            return Ok(None);
        }
        let _stay = self.place.enter();
        let work = async {
            let mut open = self.open.lock().await;
            self.open(&mut open, asking).await?;
            let of_host = open.as_ref().and_then(|open| open.content.passwords.get(&account.host));
            let kept = of_host.and_then(|logins| logins.get(&account.login));
            let kept = kept.filter(|kept| kept.host_key == account.host_key);
            Ok(kept.map(|kept| kept.password.clone()))
        };
        asking.during(&self.questions, work).await
    }

    /// Keeps a password. A file that is new gets a passphrase, unless there is an identity file: `whom` is asked
    /// for it, who wants the password kept.
    pub(super) async fn keep(
        &self,
        account: &Account,
        password: &Secret,
        asking: &Questions,
        whom: &Whom,
    ) -> Result<(), FileError> {
        let _stay = self.place.enter();
        let work = async {
            let mut open = self.open.lock().await;
            self.open(&mut open, asking).await?;
            let (mut content, key) = match open.take() {
                Some(open) => (open.content, open.key),
                None if self.identity.exists() => {
                    (Content::default(), Key::Identity(self.identity.clone()))
                }
                None => (Content::default(), Key::Passphrase(self.ask_new(whom).await?)),
            };
            let of_host = content.passwords.entry(account.host.clone()).or_default();
            let kept = Kept { password: password.clone(), host_key: account.host_key.clone() };
            of_host.insert(account.login.clone(), kept);
            *open = Some(self.save(content, key).await?);
            Ok(())
        };
        asking.during(&self.questions, work).await
    }

    /// Deletes the passwords of a host, and returns how many there were; with the last one the file.
    pub(super) async fn forget(
        &self,
        host: &HostName,
        asking: &Questions,
    ) -> Result<usize, FileError> {
        if self.index().await.is_some_and(|index| index.count(host) == 0) {
            return Ok(0);
        }
        let _stay = self.place.enter();
        let work = async {
            let mut open = self.open.lock().await;
            // What is deleted as a whole need not be opened.
            if let Some(index) = self.index().await.filter(|index| index.is_all_of(host)) {
                self.remove().await?;
                *open = None;
                return Ok(index.count(host));
            }
            self.open(&mut open, asking).await?;
            let Some(Open { mut content, key, .. }) = open.clone() else { return Ok(0) };
            let Some(gone) = content.passwords.remove(host) else { return Ok(0) };
            if content.passwords.is_empty() {
                self.remove().await?;
                *open = None;
            } else {
                *open = Some(self.save(content, key).await?);
            }
            Ok(gone.len())
        };
        asking.during(&self.questions, work).await
    }

    /// Returns what is in the file, as far as that is known without opening it.
    async fn index(&self) -> Option<Index> {
        let path = self.path.clone();
        blocking(move || Index::of(&path)).await
    }

    async fn remove(&self) -> Result<(), FileError> {
        let path = self.path.clone();
        blocking(move || {
            std::fs::remove_file(&path)
                .and_then(|()| Index::remove(&path))
                .map_err(|source| FileError::Io { path, source })
        })
        .await
    }

    /// Opens the file if there is one, unless that was done.
    async fn open(&self, open: &mut Option<Open>, asking: &Questions) -> Result<(), FileError> {
        let (path, known) = (self.path.clone(), open.as_ref().map(|open| open.stamp));
        let look = blocking(move || -> io::Result<_> {
            // First the look: what is written in between is then read again the next time.
            let stamp = Stamp::of(&path)?;
            let changed = known != Some(stamp);
            Ok(if changed { Some((std::fs::read(&path)?, stamp)) } else { None })
        });
        let (sealed, stamp) = match look.await {
            Ok(Some((sealed, stamp))) => (Arc::new(sealed), stamp),
            Ok(None) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                *open = None;
                return Ok(());
            }
            Err(source) => return Err(FileError::Io { path: self.path.clone(), source }),
        };
        // Somebody else may have written it, with the same key or another.
        let known = open.take().map(|open| open.key);
        let failed = |source| FileError::Sealed { path: self.path.clone(), source };
        let by_passphrase = sealed::is_by_passphrase(&sealed).map_err(failed)?;
        let mut next = match known {
            Some(key @ Key::Passphrase(_)) if by_passphrase => Some(key),
            _ if !by_passphrase => Some(Key::Identity(self.identity.clone())),
            _ => None,
        };
        let mut asked = self.place.turn().await;
        let mut note = None;
        for _ in 0..TRIES {
            let (key, by) = match next.take() {
                Some(key) => (key, None),
                // Another dial of the same request has asked already.
                None if asking.are_spent(&self.path) => break,
                None => {
                    let message = format!("Passphrase for the kept passwords ({})", self.shown());
                    let question = question(message, note.take());
                    let answer = self.questions.ask_in(&mut asked, question).await;
                    let answer = match answer {
                        Ok(answer) => answer,
                        Err(source) => return Err(self.locked(source).await),
                    };
                    (Key::Passphrase(answer.text), Some(answer.by))
                }
            };
            match unseal(&sealed, &key).await {
                Ok(content) => {
                    self.questions.settle(false);
                    let content = self.parse(&content)?;
                    self.note(&content, &sealed).await;
                    *open = Some(Open { stamp, content, key });
                    if by.is_some() {
                        self.opened.send_modify(|count| *count += 1);
                    }
                    return Ok(());
                }
                Err(SealError::WrongPassphrase) => {
                    if let Some(by) = by {
                        by.were_wrong(&self.path);
                        note = Some("That passphrase is wrong.".to_owned());
                    }
                }
                Err(error) => return Err(failed(error)),
            }
        }
        self.questions.settle(true);
        Err(self.locked(NoAnswer::Wrong).await)
    }

    async fn locked(&self, source: NoAnswer) -> FileError {
        let path = self.path.clone();
        let changed = blocking(move || Index::is_of_another(&path)).await;
        FileError::Locked { path: self.path.clone(), changed, source }
    }

    /// Writes down what is in the file, where that is not known without opening it.
    async fn note(&self, content: &Content, sealed: &[u8]) {
        let (path, index) = (self.path.clone(), content.index(sealed));
        let known = blocking(move || match Index::of(&path) {
            Some(known) if known == index => Ok(()),
            _ => index.save(&path),
        });
        if let Err(error) = known.await {
            tracing::warn!(%error, "it cannot be written down which passwords are kept");
        }
    }

    fn parse(&self, content: &[u8]) -> Result<Content, FileError> {
        serde_json::from_slice(content).map_err(|error| FileError::unexpected(&self.path, &error))
    }

    async fn ask_new(&self, whom: &Whom) -> Result<Secret, FileError> {
        let ask = async |message, note| match self
            .questions
            .ask_of(whom, question(message, note))
            .await
        {
            Ok(answer) => Ok(answer.text),
            Err(source) => Err(self.locked(source).await),
        };
        let mut note =
            Some("There is no keyring that is open: the password is kept in a file.".to_owned());
        for _ in 0..TRIES {
            let message = format!("New passphrase for the kept passwords ({})", self.shown());
            let first = ask(message, note.take()).await?;
            if first.expose().is_empty() {
                note = Some("An empty passphrase keeps nothing secret.".to_owned());
                continue;
            }
            let again = ask("The same passphrase again".to_owned(), None).await?;
            if first == again {
                return Ok(first);
            }
            note = Some("They were not the same.".to_owned());
        }
        Err(self.locked(NoAnswer::Wrong).await)
    }

    /// Replaces the file as a whole, so that it is the old one or the new one whatever happens.
    async fn save(&self, content: Content, key: Key) -> Result<Open, FileError> {
        let path = self.path.clone();
        let (open, sealed) = blocking(move || {
            let failed = |source| FileError::Io { path: path.clone(), source };
            let text = serde_json::to_vec(&content)
                .map(Zeroizing::new)
                .map_err(|error| FileError::unexpected(&path, &error))?;
            let sealed = sealed::seal(&text, &key)
                .map_err(|source| FileError::Sealed { path: path.clone(), source })?;
            let stamp = write(&path, &sealed).map_err(failed)?;
            Ok((Open { stamp, content, key }, sealed))
        })
        .await?;
        self.note(&open.content, &sealed).await;
        Ok(open)
    }
}

fn question(message: String, note: Option<String>) -> Question {
    // A note says why it is asked again.
    let again = note.is_some();
    Question { kind: PromptKind::Passphrase, host: None, message, note, secret: true, again }
}

/// Readable by its owner alone from the first moment.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<Stamp> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    std::fs::File::open(directory)?.sync_all()?;
    Stamp::of(path)
}

async fn unseal(sealed: &Arc<Vec<u8>>, key: &Key) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let (sealed, key) = (Arc::clone(sealed), key.clone());
    blocking(move || sealed::unseal(&sealed, &key)).await
}
