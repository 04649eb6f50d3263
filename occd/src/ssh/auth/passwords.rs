//! The password of one login: the one that is kept for it, then what a person types.

use occ_proto::Secret;
use occ_proto::status::Phase;

use crate::prompts::{NoAnswer, Question, Questions};
use crate::secrets::{Account, Secrets, SecretsError};
use crate::ssh::error::{ConnectError, chain};
use crate::ssh::seen::Seen;

/// Where a login's passwords come from.
pub(super) struct Passwords<'a> {
    secrets: &'a Secrets,
    questions: &'a Questions,
    seen: &'a Seen,
    /// What a password is kept for; nothing where none is.
    account: Option<Account>,
    /// The kept one may be used, and has not been.
    kept_is_next: bool,
    given: Option<Given>,
    /// Why none can be kept: what they are in is no good.
    unusable: Option<String>,
}

/// The last password that was given to the server.
enum Given {
    Kept,
    Typed(Secret),
}

/// What a login owes to the password that it was made with.
#[derive(Debug, Default)]
pub(super) struct Accepted {
    /// A person typed it, and would have to again.
    pub(super) by_client: bool,
    /// Why it was not kept, though the person wanted that or was not asked because of it.
    pub(super) not_kept: Option<String>,
}

impl<'a> Passwords<'a> {
    /// Returns the passwords for an account.
    pub(super) fn new(
        secrets: &'a Secrets,
        questions: &'a Questions,
        seen: &'a Seen,
        account: Option<Account>,
    ) -> Self {
        let (kept_is_next, given, unusable) = (true, None, None);
        Self { secrets, questions, seen, account, kept_is_next, given, unusable }
    }

    /// Returns the next password to try.
    pub(super) async fn next(&mut self, mut question: Question) -> Result<Secret, ConnectError> {
        let mut words = "a password is needed".to_owned();
        let mut locked = None;
        if std::mem::take(&mut self.kept_is_next)
            && let Some(account) = &self.account
        {
            let opened = self.secrets.opened();
            match self.secrets.get(account, self.questions).await {
                Ok(Some(kept)) => {
                    self.given = Some(Given::Kept);
                    return Ok(kept);
                }
                Ok(None) => {}
                Err(error) => {
                    if error.no_answer().is_some() {
                        self.seen.set_locked_passwords(opened);
                    }
                    let why = chain(&error);
                    question.note =
                        Some(format!("A password: one that is kept cannot be had: {why}."));
                    self.unusable = (!error.is_unanswered()).then_some(why);
                    locked = Some(error);
                }
            }
        }
        if let (Some(Given::Kept), Some(account)) = (&self.given, &self.account) {
            self.secrets.was_refused(account);
            words = "the server refused the password that is kept, and a new one is needed".into();
            question.note = Some("The password that is kept was refused.".to_owned());
        }
        let answer = self.questions.ask(question).await;
        let answer = answer.map_err(|why| {
            if let Some(error) = &locked {
                // The same once.
                let is_same = SecretsError::no_answer(error) == Some(why);
                let cause = if is_same { error.to_string() } else { chain(error) };
                words = format!("{words} (one that is kept cannot be had: {cause})");
            }
            unanswered(words, why)
        })?;
        self.given = Some(Given::Typed(answer.clone()));
        Ok(answer)
    }

    /// The server wants a new one: the one that it took is good no more.
    pub(super) fn change(&mut self) {
        if let (Some(Given::Kept), Some(account)) = (self.given.take(), &self.account) {
            self.secrets.was_refused(account);
        }
    }

    /// The server took the last one: asks whether it is to be kept, if a person typed it.
    pub(super) async fn accepted(&mut self) -> Accepted {
        let Some(Given::Typed(password)) = self.given.take() else { return Accepted::default() };
        let by_client = Accepted { by_client: true, not_kept: None };
        let Some(account) = &self.account else { return by_client };
        if self.unusable.is_some() {
            return Accepted { not_kept: self.unusable.take(), ..by_client };
        }
        let Some(whom) = self.secrets.may_keep(account, self.questions).await else {
            return by_client;
        };
        match self.secrets.keep(account, &password, self.questions, &whom).await {
            Ok(()) => Accepted::default(),
            Err(error) => {
                let why = chain(&error);
                tracing::warn!(%account, error = why, "a password could not be kept");
                Accepted { by_client: true, not_kept: Some(why) }
            }
        }
    }
}

/// Returns the error of a login that waited for an answer.
pub(super) fn unanswered(question: String, why: NoAnswer) -> ConnectError {
    ConnectError::Unanswered { question, phase: Phase::Authentication, key: None, why }
}
