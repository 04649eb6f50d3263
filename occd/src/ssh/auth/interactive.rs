//! Logins that need a person: keyboard-interactive and passwords, where the host allows them.

use occ_proto::prompt::PromptKind;
use occ_proto::text::sanitize;
use occ_proto::{HostName, Secret};
use russh::MethodSet;
use russh::client::{AuthResult, Handle, KeyboardInteractiveAuthResponse as Response, Prompt};

use super::passwords::{Accepted, Passwords, unanswered};
use super::{Credentials, lost};
use crate::prompts::{NoAnswer, Question, Questions};
use crate::ssh::error::ConnectError;
use crate::ssh::handler::{Handler, Shared};

/// Passwords that are tried, and rounds of questions that are begun (`NumberOfPasswordPrompts` of ssh_config(5)).
const TRIES: usize = 3;
/// Questions of one round that are put to a person: a code, a password, a new password twice.
const MAX_QUESTIONS: usize = 16;

/// How a method that asks a person ended.
pub(super) enum Outcome {
    /// Logged in.
    Done,
    /// One step further: the server wants these as well.
    Further(MethodSet),
    /// Refused; what the server would still take.
    Refused(MethodSet),
}

/// A login that asks a person.
pub(super) struct Interactive<'a> {
    pub(super) handle: &'a mut Handle<Handler>,
    pub(super) shared: &'a Shared,
    pub(super) credentials: &'a Credentials,
    pub(super) host: Option<&'a HostName>,
    pub(super) questions: &'a Questions,
    pub(super) passwords: Passwords<'a>,
    /// What the login owes to what was given.
    pub(super) owed: Accepted,
}

impl Interactive<'_> {
    /// Asks for the password until the server takes it.
    pub(super) async fn password(&mut self) -> Result<Outcome, ConnectError> {
        let user = &self.credentials.user;
        let place = self.host.map_or_else(String::new, |host| format!(" on {host}"));
        let mut note = None;
        let mut accepts = MethodSet::empty();
        for _ in 0..TRIES {
            let question = Question {
                kind: PromptKind::Password,
                host: self.host.cloned(),
                message: format!("Password for {user}{place}"),
                note: note.take(),
                secret: true,
            };
            let password = self.passwords.next(question).await?.expose().to_owned();
            let result = self.handle.authenticate_password(user.clone(), password).await;
            match result.map_err(|_| lost(self.shared))? {
                AuthResult::Success => {
                    self.accepted().await;
                    return Ok(Outcome::Done);
                }
                AuthResult::Failure { remaining_methods, partial_success } => {
                    // russh tells a lost connection as a failure without any method left.
                    if self.handle.is_closed() || remaining_methods.is_empty() {
                        return Err(lost(self.shared));
                    }
                    if partial_success {
                        self.accepted().await;
                        return Ok(Outcome::Further(remaining_methods));
                    }
                    accepts = remaining_methods;
                    if !accepts.contains(&russh::MethodKind::Password) {
                        break;
                    }
                    note = Some("That password is wrong.".to_owned());
                }
            }
        }
        Ok(Outcome::Refused(accepts))
    }

    /// Puts the server's questions to a person (RFC 4256).
    pub(super) async fn keyboard(&mut self) -> Result<Outcome, ConnectError> {
        let user = &self.credentials.user;
        let mut accepts = MethodSet::empty();
        for round in 0..TRIES {
            let start =
                self.handle.authenticate_keyboard_interactive_start(user.clone(), None::<String>);
            let mut response = start.await.map_err(|_| lost(self.shared))?;
            let mut again = (round > 0).then(|| "That was wrong.".to_owned());
            loop {
                match response {
                    Response::Success => {
                        self.accepted().await;
                        return Ok(Outcome::Done);
                    }
                    Response::Failure { remaining_methods, partial_success } => {
                        if self.handle.is_closed() || remaining_methods.is_empty() {
                            return Err(lost(self.shared));
                        }
                        if partial_success {
                            self.accepted().await;
                            return Ok(Outcome::Further(remaining_methods));
                        }
                        accepts = remaining_methods;
                        break;
                    }
                    Response::InfoRequest { name, instructions, prompts } => {
                        if prompts.len() > MAX_QUESTIONS {
                            let question = format!("the server asks {} questions", prompts.len());
                            return Err(unanswered(question, NoAnswer::Declined));
                        }
                        let words = [again.take().unwrap_or_default(), name, instructions];
                        let words: Vec<String> =
                            words.iter().map(|text| sanitize(text).trim().to_owned()).collect();
                        let words: Vec<&str> = words
                            .iter()
                            .map(String::as_str)
                            .filter(|text| !text.is_empty())
                            .collect();
                        let mut note = (!words.is_empty()).then(|| words.join(" "));
                        let mut answers = Vec::new();
                        let is_password = is_password(&prompts);
                        for prompt in prompts {
                            let text = sanitize(&prompt.prompt);
                            let question = Question {
                                kind: PromptKind::Code,
                                host: self.host.cloned(),
                                message: text.trim().trim_end_matches(':').to_owned(),
                                note: note.take(),
                                secret: !prompt.echo,
                            };
                            let answer = if is_password {
                                self.passwords.next(question).await?
                            } else {
                                self.ask(question).await?
                            };
                            answers.push(answer.expose().to_owned());
                        }
                        let respond =
                            self.handle.authenticate_keyboard_interactive_respond(answers);
                        response = respond.await.map_err(|_| lost(self.shared))?;
                    }
                }
            }
            if !accepts.contains(&russh::MethodKind::KeyboardInteractive) {
                break;
            }
        }
        Ok(Outcome::Refused(accepts))
    }

    async fn accepted(&mut self) {
        let accepted = self.passwords.accepted().await;
        self.owed.by_client |= accepted.by_client;
        self.owed.not_kept = accepted.not_kept;
    }

    /// Asks what only a person knows.
    async fn ask(&mut self, question: Question) -> Result<Secret, ConnectError> {
        self.owed.by_client = true;
        let words = format!("the server asks a question ({})", question.message);
        let answer = self.questions.ask(question).await;
        answer.map_err(|why| unanswered(words, why))
    }
}

/// Returns whether a server asks for the password by its own words, as PAM does: one hidden question that says
/// so and nothing of a new one. A code is good for once and nothing to keep.
fn is_password(prompts: &[Prompt]) -> bool {
    let [one] = prompts else { return false };
    let text = one.prompt.to_lowercase();
    let is_new =
        ["new", "retype", "repeat", "again", "change"].iter().any(|word| text.contains(word));
    !one.echo && text.contains("password") && !is_new
}
