//! Questions to people: who can be asked, what is open, and the answers.
//!
//! [`Prompts`] has every open question. Whatever may have to ask (a host, a locked key) has [`Questions`]: the
//! clients that can answer for it, and whether it is waiting for an answer, which stops the clocks of
//! everything that waits for it. What waits for something else that asks shares its question and lends it
//! its clients ([`Questions::during`]).
//!
//! A notice is a question without an answer: it tells of a person who is waited for elsewhere
//! ([`Questions::elsewhere`]).
//!
//! A question is shown first to the clients whose requests raised it, after [`FIRST`] to all; the first
//! answer wins.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::peer::Peer;
use jiff::Timestamp;
use occ_proto::prompt::{AnswerPrompt, Prompt, PromptKind};
use occ_proto::trust::NewHostKey;
use occ_proto::{HostName, Secret};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

mod approval;
mod asked;
mod clients;

pub use approval::Approval;
pub use asked::{Answer, Asked, Fate, Place, Whom};
pub use clients::{BadToken, Client, News, check_token};

use asked::{Last, Reply};
use clients::Clients;

/// How long a person has for an answer.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long a question is shown only to the clients that raised it.
const FIRST: Duration = Duration::from_secs(5);
/// How often a passphrase may be wrong, for one request.
pub const TRIES: usize = 3;
/// What takes longer may wait for a person: programs answer faster.
pub const BY_ITSELF: Duration = Duration::from_secs(1);

/// What to ask.
#[derive(Debug, Clone)]
pub struct Question {
    /// What is asked for.
    pub kind: PromptKind,
    /// The host concerned, if it is about one.
    pub host: Option<HostName>,
    /// In one line, safe for a terminal.
    pub message: String,
    /// What comes before it, safe for a terminal.
    pub note: Option<String>,
    /// The answer must not be shown.
    pub secret: bool,
    /// The last answer was wrong, and this is asked in place of that question.
    pub again: bool,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// No client that waits for it can ask a person.
    #[error("there is nobody to ask")]
    Nobody,
    /// Whoever was asked has gone, and nobody else can be asked.
    #[error("there is nobody to ask any more: whoever was asked has left")]
    Left,
    /// Somebody else is asked, and has not answered yet.
    #[error("somebody else is asked")]
    Elsewhere,
    /// Nobody answered in time.
    #[error("nobody answered within {} s", PATIENCE.as_secs())]
    Timeout,
    /// The daemon stops.
    #[error("occd stopped before anybody answered")]
    Stopping,
    /// The person did not want to.
    #[error("the answer was declined")]
    Declined,
    /// The fingerprint is that of another key.
    #[error("the fingerprint that was typed is not that of this key")]
    Mismatch,
    /// The answers were wrong.
    #[error("the answers were wrong")]
    Wrong,
    /// The connection went before it was known what became of the answer.
    #[error("the connection was lost before the server said whether it is content")]
    Lost,
}

/// Why an answer is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTaken {
    /// There is no such question.
    NoSuchPrompt,
    /// It allows what is asked about, and comes from whoever wants to do that, or from what that has started.
    Own,
}

/// The open questions.
#[derive(Debug, Default)]
pub struct Prompts {
    open: Mutex<Vec<Open>>,
    changed: watch::Sender<bool>,
    next: AtomicU64,
}

#[derive(Debug)]
struct Open {
    prompt: Prompt,
    /// When it is shown to all.
    for_all: Instant,
    clients: Clients,
    /// Who wants to do what it is about, and cannot allow it.
    wants: Option<approval::Wants>,
    reply: oneshot::Sender<Reply>,
}

impl Prompts {
    fn lock(&self) -> MutexGuard<'_, Vec<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the open questions of a client; without one, those that are for all.
    pub fn visible(&self, client: Option<&str>) -> Vec<Prompt> {
        let open = self.lock();
        let shown = open.iter().filter(|open| match client {
            Some(token) => open.clients.has(token),
            None => open.for_all <= Instant::now(),
        });
        shown.map(|open| open.prompt.clone()).collect()
    }

    /// Returns the approvals that are waited for by a process.
    pub fn wanted_by(&self, peer: Option<Peer>) -> Vec<Prompt> {
        let open = self.lock();
        let own = |open: &&Open| open.wants.as_ref().is_some_and(|wants| wants.are_by(peer));
        open.iter().filter(own).map(|open| open.prompt.clone()).collect()
    }

    /// Returns when the next question becomes one for all.
    pub fn next_for_all(&self) -> Option<Instant> {
        let open = self.lock();
        let later = open.iter().map(|open| open.for_all);
        later.filter(|at| *at > Instant::now()).min()
    }

    /// Returns the questions that have been for all for that time, and when there is the next one.
    pub fn neglected(&self, time: Duration) -> (Vec<Prompt>, Option<Instant>) {
        let (open, now) = (self.lock(), Instant::now());
        let (over, later): (Vec<&Open>, Vec<&Open>) =
            open.iter().partition(|open| open.for_all + time <= now);
        let next = later.iter().map(|open| open.for_all + time).min();
        (over.into_iter().map(|open| open.prompt.clone()).collect(), next)
    }

    /// Returns an open question.
    pub fn get(&self, id: u64) -> Option<Prompt> {
        let open = self.lock();
        open.iter().find(|open| open.prompt.id == id).map(|open| open.prompt.clone())
    }

    /// Answers a question, or declines to. It must be one that this client is shown. What is returned tells when
    /// the answer was wrong or something more is asked, and closes otherwise.
    pub fn answer(
        &self,
        id: u64,
        client: Option<&str>,
        by: Option<Peer>,
        answer: AnswerPrompt,
    ) -> Result<oneshot::Receiver<Fate>, NotTaken> {
        let is_for_all = |id| self.visible(None).iter().any(|prompt| prompt.id == id);
        let is_theirs = |id| self.visible(client).iter().any(|prompt| prompt.id == id);
        if !is_theirs(id) && !is_for_all(id) {
            return Err(NotTaken::NoSuchPrompt);
        }
        // Looking at processes takes no lock.
        let wants = self
            .lock()
            .iter()
            .find(|open| open.prompt.id == id)
            .and_then(|open| open.wants.clone());
        // Whoever gives up what they want themselves harms nobody.
        let allows = answer.answer.as_ref().is_some_and(approval::allows);
        if allows && wants.is_some_and(|wants| wants.are_of(by)) {
            return Err(NotTaken::Own);
        }
        // A notice can be declined, which gives up what it is about; it has no answer.
        let is_notice =
            |open: &Open| open.prompt.id == id && open.prompt.kind == PromptKind::Notice;
        if answer.answer.is_some() && self.lock().iter().any(is_notice) {
            return Err(NotTaken::NoSuchPrompt);
        }
        let open = self.take(id).ok_or(NotTaken::NoSuchPrompt)?;
        let by = client.and_then(|token| open.clients.only(token));
        let (fate, told) = oneshot::channel();
        let reply = Reply { answer: answer.answer, by, fate };
        // Whoever asked may have given up in this moment.
        open.reply.send(reply).map(|()| told).map_err(|_| NotTaken::NoSuchPrompt)
    }

    /// Returns a watch that changes with the open questions, and is true when the daemon stops.
    pub fn changes(&self) -> watch::Receiver<bool> {
        self.changed.subscribe()
    }

    /// Withdraws every question: the daemon stops.
    pub fn close(&self) {
        self.lock().clear();
        self.changed.send_replace(true);
    }

    fn take(&self, id: u64) -> Option<Open> {
        let mut open = self.lock();
        let at = open.iter().position(|open| open.prompt.id == id)?;
        let taken = open.remove(at);
        drop(open);
        self.changed.send_modify(|_| {});
        Some(taken)
    }

    fn open(
        &self,
        question: Question,
        clients: Clients,
        is_for_all: bool,
    ) -> (u64, oneshot::Receiver<Reply>) {
        self.open_until(question, clients, is_for_all, PATIENCE, None)
    }

    fn open_until(
        &self,
        question: Question,
        clients: Clients,
        is_for_all: bool,
        patience: Duration,
        wants: Option<approval::Wants>,
    ) -> (u64, oneshot::Receiver<Reply>) {
        let (reply, answered) = oneshot::channel();
        let Question { kind, host, message, note, secret, again: _ } = question;
        let at = Timestamp::now();
        // From 1: a 0 in somebody's JSON is more likely a mistake.
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let expires_at = jiff::SignedDuration::try_from(patience).map_or(at, |time| at + time);
        let new_host_keys = clients.show_news();
        let prompt =
            Prompt { id, kind, host, message, note, new_host_keys, secret, at, expires_at };
        let now = Instant::now();
        let for_all = if is_for_all { now } else { now + FIRST };
        self.lock().push(Open { prompt, for_all, clients, wants, reply });
        self.changed.send_modify(|_| {});
        (id, answered)
    }
}

/// What is waited for, and for how long people have been waited for in all.
#[derive(Debug, Clone, Default)]
struct Waiting {
    open: Option<Wait>,
    spent: Duration,
}

/// A person is waited for.
#[derive(Debug, Clone)]
struct Wait {
    /// For what.
    text: Arc<str>,
    /// A client has to answer, as opposed to a person who is busy with something else than a client.
    asks: bool,
    since: Instant,
}

/// The questions of one host or one key, of which one at a time is open.
#[derive(Debug)]
pub struct Questions {
    prompts: Arc<Prompts>,
    clients: Clients,
    waiting: watch::Sender<Waiting>,
    last: Mutex<Option<Last>>,
}

impl Questions {
    /// Returns questions that nobody can answer yet.
    pub fn new(prompts: Arc<Prompts>) -> Self {
        let (clients, waiting) = (Clients::default(), watch::Sender::default());
        Self { prompts, clients, waiting, last: Mutex::default() }
    }

    /// Returns questions that one client at most can answer.
    pub fn of(prompts: Arc<Prompts>, client: &Client) -> Self {
        let questions = Self::new(prompts);
        questions.add(client);
        questions
    }

    /// Lets a client answer, and give its key, as long as its request lasts.
    pub fn add(&self, client: &Client) {
        if self.clients.add(client) {
            // An open question is one for this client, too.
            self.prompts.changed.send_modify(|_| {});
        }
    }

    /// Returns whether a client waits that can answer, or brings a key.
    pub fn can_help(&self) -> bool {
        self.can_ask() || !self.keys().is_empty()
    }

    /// Returns the keys that waiting clients bring.
    pub fn keys(&self) -> Vec<Secret> {
        self.clients.keys()
    }

    /// Returns whether somebody can be asked.
    pub fn can_ask(&self) -> bool {
        self.clients.can_answer()
    }

    /// Returns whether each who can be asked has given as many wrong passphrases for a file as a request may.
    pub fn are_spent(&self, file: &Path) -> bool {
        self.clients.are_spent(file, TRIES)
    }

    /// Returns the question that is waited for.
    pub fn open(&self) -> Option<Arc<str>> {
        self.waiting.borrow().open.as_ref().map(|wait| Arc::clone(&wait.text))
    }

    /// Waits until a question is open that a client has to answer, and returns it.
    pub async fn opened(&self) -> Arc<str> {
        let mut waiting = self.waiting.subscribe();
        let asks = |waiting: &Waiting| waiting.open.as_ref().is_some_and(|wait| wait.asks);
        let opened = waiting.wait_for(asks).await;
        // The sender is ours and lives as long as we do, and that one was waited for.
        let wait = opened.ok().and_then(|waiting| waiting.open.clone());
        wait.map_or_else(|| "".into(), |wait| wait.text)
    }

    /// Waits until a question is open, or none is.
    pub async fn until(&self, open: bool) {
        let mut waiting = self.waiting.subscribe();
        // The sender is ours.
        let _ = waiting.wait_for(|waiting| waiting.open.is_some() == open).await;
    }

    /// Returns how long people have been waited for.
    pub fn spent(&self) -> Duration {
        let waiting = self.waiting.borrow();
        waiting.spent + waiting.open.as_ref().map_or(Duration::ZERO, |wait| wait.since.elapsed())
    }

    /// Tells all who wait of a host key that was recorded just now.
    pub fn tell(&self, key: &NewHostKey) {
        self.clients.tell(key);
    }

    /// Waits for `work`, which may wait for a person who is busy with something else than a client of ours: a
    /// security key to be touched, the dialog of an agent, a push to a telephone. When it does not end by itself
    /// the clients are told `notice` and the clocks stand still, for [`PATIENCE`] at most.
    pub async fn elsewhere<T>(
        &self,
        notice: Question,
        work: impl Future<Output = T>,
    ) -> Result<T, NoAnswer> {
        tokio::pin!(work);
        if let Ok(done) = timeout(BY_ITSELF, &mut work).await {
            return Ok(done);
        }
        let text: Arc<str> = notice.message.as_str().into();
        let host = notice.host.as_ref().map(HostName::as_str);
        tracing::info!(host, "somebody is waited for");
        let (id, declined) = self.prompts.open(notice, self.clients.clone(), false);
        let _withdrawn = OnDrop(|| drop(self.prompts.take(id)));
        let _over = OnDrop(|| self.set(None));
        self.set(Some((text, false)));
        tokio::select! {
            biased;
            done = &mut work => Ok(done),
            _ = declined => Err(NoAnswer::Declined),
            () = sleep(PATIENCE) => Err(NoAnswer::Timeout),
        }
    }

    /// Waits for `work`, which may need an answer to one of the `other` questions: our clients can give it,
    /// and it is ours for as long.
    pub async fn during<T>(&self, other: &Questions, work: impl Future<Output = T>) -> T {
        let _lent = other.clients.lend(&self.clients);
        let _over = OnDrop(|| self.set(None));
        let mut theirs = other.waiting.subscribe();
        other.prompts.changed.send_modify(|_| {});
        tokio::pin!(work);
        loop {
            let wait = theirs.borrow_and_update().open.clone();
            self.set(wait.map(|wait| (wait.text, wait.asks)));
            tokio::select! {
                biased;
                done = &mut work => return done,
                // `other` outlives the call, and so does its sender.
                _ = theirs.changed() => {}
            }
        }
    }

    /// Waits for `work` until `end`. The clock stands still while a question is open; `spent` is what
    /// [`Questions::spent`] was when `end` was set.
    pub async fn timeout_at<T>(
        &self,
        end: Instant,
        spent: Duration,
        work: impl Future<Output = T>,
    ) -> Result<T, TimedOut> {
        let mut waiting = self.waiting.subscribe();
        tokio::pin!(work);
        loop {
            let now = waiting.borrow_and_update().clone();
            let end = end + now.spent.saturating_sub(spent);
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = sleep_until(end), if now.open.is_none() => return Err(TimedOut),
                _ = waiting.changed() => {}
            }
        }
    }

    fn set(&self, open: Option<(Arc<str>, bool)>) {
        self.waiting.send_if_modified(|waiting| {
            let now = waiting.open.as_ref().map(|wait| (&wait.text, wait.asks));
            if now == open.as_ref().map(|(text, asks)| (text, *asks)) {
                return false;
            }
            if let Some(wait) = waiting.open.take() {
                waiting.spent += wait.since.elapsed();
            }
            waiting.open = open.map(|(text, asks)| Wait { text, asks, since: Instant::now() });
            true
        });
    }
}

/// The time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedOut;

struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[cfg(test)]
mod tests;
