//! The clients that wait for something, and what they can give: an answer, or a key of their own.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use occ_proto::Secret;
use occ_proto::trust::NewHostKey;

/// How deep groups of clients lie in one another: a host behind jump hosts, and a key that the last needs.
const DEEPEST: usize = 16;

/// How often it is looked whether those who are asked are still there.
const LOOK: Duration = Duration::from_millis(250);

/// A client's request. What it can give ends with it.
#[derive(Debug, Clone, Default)]
pub struct Client(Arc<Gifts>);

#[derive(Debug, Default)]
struct Gifts {
    /// The name under which it listens for prompts.
    token: Option<String>,
    /// A private key (`OCC_SSH_KEY`).
    key: Option<Secret>,
    /// The host keys that were recorded while it waited.
    news: Arc<News>,
    /// How often it gave a wrong passphrase, for each file.
    wrong: Mutex<HashMap<PathBuf, usize>>,
}

impl Gifts {
    fn wrong(&self) -> MutexGuard<'_, HashMap<PathBuf, usize>> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Host keys that were recorded for a request, for its answer.
#[derive(Debug, Default)]
pub struct News(Mutex<Vec<Told>>);

#[derive(Debug)]
struct Told {
    key: NewHostKey,
    /// A question has said so.
    shown: bool,
}

impl News {
    fn lock(&self) -> MutexGuard<'_, Vec<Told>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the keys out.
    pub fn take(&self) -> Vec<NewHostKey> {
        self.lock().drain(..).map(|told| told.key).collect()
    }
}

/// A token is 1 to 64 letters, digits and hyphens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 64 letters, digits and hyphens")]
pub struct BadToken;

/// Returns whether a client can have that token: 1 to 64 letters, digits and hyphens.
///
/// # Errors
/// When it cannot.
pub fn check_token(token: &str) -> Result<(), BadToken> {
    let letters = token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if (1..=64).contains(&token.len()) && letters { Ok(()) } else { Err(BadToken) }
}

impl Client {
    /// Returns a client that listens for prompts under that token, if any, and brings that key, if any.
    /// What it is to be told of comes into `news`.
    pub fn new(
        token: Option<&str>,
        key: Option<Secret>,
        news: Arc<News>,
    ) -> Result<Self, BadToken> {
        token.map_or(Ok(()), check_token)?;
        let token = token.map(str::to_owned);
        Ok(Self(Arc::new(Gifts { token, key, news, wrong: Mutex::default() })))
    }

    /// Takes the host keys out that were recorded for it so far.
    pub fn take_news(&self) -> Vec<NewHostKey> {
        self.0.news.take()
    }

    /// Returns whether it can put a question to a person.
    pub fn can_answer(&self) -> bool {
        self.0.token.is_some()
    }
}

#[derive(Debug)]
enum Member {
    Client(Weak<Gifts>),
    Group(Weak<Mutex<Vec<Member>>>),
}

/// The clients of one host or key, and those of others that wait for it.
#[derive(Debug, Clone, Default)]
pub(super) struct Clients(Arc<Mutex<Vec<Member>>>);

impl Clients {
    fn lock(&self) -> MutexGuard<'_, Vec<Member>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a client for as long as its request lasts. Returns whether it has anything to give.
    pub(super) fn add(&self, client: &Client) -> bool {
        let mut members = self.lock();
        members.retain(|member| match member {
            Member::Client(client) => client.strong_count() > 0,
            Member::Group(group) => group.strong_count() > 0,
        });
        members.push(Member::Client(Arc::downgrade(&client.0)));
        client.0.token.is_some() || client.0.key.is_some()
    }

    /// Tells every client of a host key.
    pub(super) fn tell(&self, key: &NewHostKey) {
        for client in self.all(DEEPEST) {
            client.news.lock().push(Told { key: key.clone(), shown: false });
        }
    }

    /// Returns the host keys that no question has shown them yet; from now on one has.
    pub(super) fn show_news(&self) -> Vec<NewHostKey> {
        let mut news: Vec<NewHostKey> = Vec::new();
        for client in self.all(DEEPEST) {
            for told in client.news.lock().iter_mut().filter(|told| !told.shown) {
                told.shown = true;
                if !news.contains(&told.key) {
                    news.push(told.key.clone());
                }
            }
        }
        news
    }

    /// Adds the clients of another, now and later, until the guard is dropped.
    pub(super) fn lend<'a>(&'a self, other: &'a Clients) -> impl Drop + use<'a> {
        self.lock().push(Member::Group(Arc::downgrade(&other.0)));
        super::OnDrop(move || {
            let mut members = self.lock();
            let is_it = |member: &Member| match member {
                Member::Group(group) => group.as_ptr() == Arc::as_ptr(&other.0),
                Member::Client(_) => false,
            };
            if let Some(at) = members.iter().position(is_it) {
                members.swap_remove(at);
            }
        })
    }

    /// Returns whether one can put a question to a person.
    pub(super) fn can_answer(&self) -> bool {
        self.all(DEEPEST).iter().any(|client| client.token.is_some())
    }

    /// Returns those of them that listen under this token: nobody who comes later.
    pub(super) fn only(&self, token: &str) -> Option<Self> {
        let all = self.all(DEEPEST);
        let own = all.iter().filter(|client| client.token.as_deref() == Some(token));
        let own: Vec<Member> = own.map(|client| Member::Client(Arc::downgrade(client))).collect();
        (!own.is_empty()).then(|| Self(Arc::new(Mutex::new(own))))
    }

    /// Notes that each of them gave a wrong passphrase for a file.
    pub(super) fn were_wrong(&self, file: &Path) {
        for client in self.all(DEEPEST) {
            *client.wrong().entry(file.to_owned()).or_default() += 1;
        }
    }

    /// Returns whether each that can be asked gave wrong ones for a file so often.
    pub(super) fn are_spent(&self, file: &Path, tries: usize) -> bool {
        let all = self.all(DEEPEST);
        let mut asked = all.iter().filter(|client| client.token.is_some()).peekable();
        let is_spent = |client: &Arc<Gifts>| client.wrong().get(file).is_some_and(|n| *n >= tries);
        asked.peek().is_some() && asked.all(is_spent)
    }

    /// Waits until none is left that can put a question to a person: its request has ended.
    pub(super) async fn gone(&self) {
        // Not at the first look: a dial of theirs that is made anew lends them again in a moment.
        let mut was_there = true;
        loop {
            let is_there = self.can_answer();
            if !is_there && !was_there {
                return;
            }
            was_there = is_there;
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Returns whether one listens under this token.
    pub(super) fn has(&self, token: &str) -> bool {
        self.all(DEEPEST).iter().any(|client| client.token.as_deref() == Some(token))
    }

    /// Returns the keys that they bring.
    pub(super) fn keys(&self) -> Vec<Secret> {
        self.all(DEEPEST).iter().filter_map(|client| client.key.clone()).collect()
    }

    fn all(&self, depth: usize) -> Vec<Arc<Gifts>> {
        // Not under the lock: groups lie in one another.
        let (mut clients, mut groups) = (Vec::new(), Vec::new());
        for member in self.lock().iter() {
            match member {
                Member::Client(client) => clients.extend(client.upgrade()),
                Member::Group(group) => groups.extend(group.upgrade().map(Clients)),
            }
        }
        if depth > 0 {
            clients.extend(groups.iter().flat_map(|group| group.all(depth - 1)));
        }
        clients
    }
}
