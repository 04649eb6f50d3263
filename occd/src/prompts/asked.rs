//! One question that is open, and what comes of it: the answer, from whom, and whether it was right.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};

use occ_proto::{HostName, Secret};
use tokio::sync::{MutexGuard, oneshot};
use tokio::time::{Instant, timeout_at};

use super::clients::Clients;
use super::{NoAnswer, OnDrop, PATIENCE, Prompts, Question, Questions};

/// A question that is open. It is withdrawn when this is dropped.
#[derive(Debug)]
pub struct Asked {
    prompts: Arc<Prompts>,
    id: u64,
    text: Arc<str>,
    whom: Clients,
    end: Instant,
    reply: oneshot::Receiver<Reply>,
}

impl Drop for Asked {
    fn drop(&mut self) {
        drop(self.prompts.take(self.id));
    }
}

/// What came to a question.
#[derive(Debug)]
pub(super) struct Reply {
    /// Nothing means declined.
    pub(super) answer: Option<Secret>,
    /// Which of those who were asked; nothing means somebody else.
    pub(super) by: Option<Clients>,
    pub(super) fate: oneshot::Sender<Fate>,
}

/// What became of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fate {
    /// It was wrong.
    pub wrong: bool,
    /// The question that is asked next: in place of that one, or because a login takes more than one.
    pub next: Option<u64>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The words.
    pub text: Secret,
    /// Whose they are.
    pub by: Whom,
}

/// Who gave an answer, as long as their request lasts: one client; or all that were asked, where it was somebody
/// else who answered.
#[derive(Debug, Clone)]
pub struct Whom(Clients);

impl Whom {
    /// Notes that their passphrase for a file was wrong.
    pub fn were_wrong(&self, file: &Path) {
        self.0.were_wrong(file);
    }
}

/// The last answer, of which it is not known yet whether it is right.
#[derive(Debug)]
pub(super) struct Last {
    is_by_other: bool,
    fate: oneshot::Sender<Fate>,
}

impl Questions {
    /// Asks, and waits for the answer.
    pub async fn ask(&self, question: Question) -> Result<Secret, NoAnswer> {
        self.ask_in(&mut None, question).await.map(|answer| answer.text)
    }

    /// The same with the open question in `place`: it stays open there when this is dropped, and whoever comes
    /// next with that place waits for its answer instead of asking anew.
    pub async fn ask_in(
        &self,
        place: &mut Option<Asked>,
        question: Question,
    ) -> Result<Answer, NoAnswer> {
        let asked = match place {
            Some(asked) => asked,
            None => place.insert(self.open_for(&self.clients, question)?),
        };
        let answer = self.answered(asked).await;
        *place = None;
        answer
    }

    /// Asks those alone. Everybody else who waits for them waits for the answer, too.
    pub async fn ask_of(&self, whom: &Whom, question: Question) -> Result<Answer, NoAnswer> {
        let mut asked = self.open_for(&whom.0, question)?;
        self.answered(&mut asked).await
    }

    fn open_for(&self, whom: &Clients, question: Question) -> Result<Asked, NoAnswer> {
        if !whom.can_answer() {
            return Err(NoAnswer::Nobody);
        }
        let text: Arc<str> = question.message.as_str().into();
        // Its words may be the server's, with a code or an address for this login: they are not for the log.
        let host = question.host.as_ref().map(HostName::as_str);
        tracing::info!(kind = ?question.kind, host, "somebody is asked");
        let wrong = question.again;
        // Whoever answers from elsewhere is there now, with what is asked once more, or waits for what comes.
        let last = self.take_last().filter(|last| wrong || !last.fate.is_closed());
        let is_for_all = last.as_ref().is_some_and(|last| last.is_by_other);
        let (id, reply) = self.prompts.open(question, whom.clone(), is_for_all);
        if let Some(last) = last {
            // They may have left.
            let _ = last.fate.send(Fate { wrong, next: Some(id) });
        }
        let (prompts, whom) = (Arc::clone(&self.prompts), whom.clone());
        Ok(Asked { prompts, id, text, whom, end: Instant::now() + PATIENCE, reply })
    }

    async fn answered(&self, asked: &mut Asked) -> Result<Answer, NoAnswer> {
        // Whoever waits for the answer may be dropped at any moment.
        let _over = OnDrop(|| self.set(None));
        self.set(Some((Arc::clone(&asked.text), true)));
        let (whom, end) = (asked.whom.clone(), asked.end);
        let answered = async {
            tokio::select! {
                biased;
                // All questions are withdrawn when the daemon stops, and no other is.
                reply = &mut asked.reply => reply.map_err(|_| NoAnswer::Stopping),
                // Whoever else waits gets no answer to somebody's question, and can ask anew.
                () = whom.gone() => Err(NoAnswer::Left),
            }
        };
        let Reply { answer, by, fate } =
            timeout_at(end, answered).await.unwrap_or(Err(NoAnswer::Timeout))?;
        let text = answer.ok_or(NoAnswer::Declined)?;
        let last = Last { is_by_other: by.is_none(), fate };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(last);
        Ok(Answer { text, by: Whom(by.unwrap_or(whom)) })
    }

    fn take_last(&self) -> Option<Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Says what became of the last answer when nothing more is asked; whoever gave it may wait for that.
    pub fn settle(&self, is_wrong: bool) {
        if let Some(last) = self.take_last().filter(|_| is_wrong) {
            // They may have left.
            let _ = last.fate.send(Fate { wrong: true, next: None });
        }
    }
}

/// Where a question stays open while those who wait for its answer come and go: one of them at a time asks.
#[derive(Debug, Default)]
pub struct Place {
    asked: tokio::sync::Mutex<Option<Asked>>,
    waiting: AtomicUsize,
}

impl Place {
    /// Returns a stay. The last one to leave withdraws the question.
    pub fn enter(&self) -> impl Drop + use<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        OnDrop(|| {
            let is_last = self.waiting.fetch_sub(1, Ordering::SeqCst) == 1;
            // Whoever holds the lock has come in since.
            if let Some(mut asked) = self.asked.try_lock().ok().filter(|_| is_last) {
                asked.take();
            }
        })
    }

    /// Waits for the turn to ask.
    pub async fn turn(&self) -> MutexGuard<'_, Option<Asked>> {
        self.asked.lock().await
    }
}
