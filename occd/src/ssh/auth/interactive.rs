//! Logins that need a person: keyboard-interactive and passwords, where the host allows them.

use occ_proto::prompt::PromptKind;
use occ_proto::text::sanitize;
use occ_proto::{HostName, Secret};
use russh::MethodSet;
use russh::client::{AuthResult, Handle, KeyboardInteractiveAuthResponse as Response, Prompt};

use super::passwords::{Accepted, Passwords, unanswered};
use super::person::verdict;
use super::{Credentials, lost, lost_at_last};
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
                again: note.is_some(),
                note: note.take(),
                secret: true,
            };
            let password = self.passwords.next(question).await?.expose().to_owned();
            let (handle, shared) = (&mut *self.handle, self.shared);
            let login = async {
                let result = handle.authenticate_password(user.clone(), password).await;
                match result.map_err(|_| lost(shared))? {
                    // russh tells a lost connection as a failure without any method left.
                    AuthResult::Failure { remaining_methods, .. }
                        if handle.is_closed() || remaining_methods.is_empty() =>
                    {
                        Err(lost_at_last(shared).await)
                    }
                    result => Ok(result),
                }
            };
            let verdict = verdict(self.questions, self.host, None, login).await?;
            self.owed.by_client |= verdict.by_person;
            match verdict.word {
                AuthResult::Success => {
                    self.accepted().await;
                    return Ok(Outcome::Done);
                }
                AuthResult::Failure { remaining_methods, partial_success } => {
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
            if is_lost(self.handle, &response) {
                return Err(lost_at_last(self.shared).await);
            }
            let mut is_again = round > 0;
            let mut again = is_again.then(|| "That was wrong.".to_owned());
            let mut password_given = false;
            loop {
                match response {
                    Response::Success => {
                        self.accepted().await;
                        return Ok(Outcome::Done);
                    }
                    Response::Failure { remaining_methods, partial_success } => {
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
                        // A second one in a round is another: the first has not been refused.
                        let is_password = is_password(&prompts) && !password_given;
                        password_given |= is_password;
                        if prompts.iter().any(|prompt| is_new(&prompt.prompt)) {
                            self.passwords.change();
                        }
                        let nothing_asked = prompts.is_empty();
                        for prompt in prompts {
                            let text = sanitize(&prompt.prompt);
                            let question = Question {
                                kind: PromptKind::Code,
                                host: self.host.cloned(),
                                message: text.trim().trim_end_matches(':').to_owned(),
                                note: note.take(),
                                secret: !prompt.echo,
                                again: std::mem::take(&mut is_again),
                            };
                            let answer = if is_password {
                                self.passwords.next(question).await?
                            } else {
                                self.ask(question).await?
                            };
                            answers.push(answer.expose().to_owned());
                        }
                        let (handle, shared) = (&mut *self.handle, self.shared);
                        let respond = async {
                            let said = handle.authenticate_keyboard_interactive_respond(answers);
                            let said = said.await.map_err(|_| lost(shared))?;
                            match is_lost(handle, &said) {
                                true => Err(lost_at_last(shared).await),
                                false => Ok(said),
                            }
                        };
                        // Words without a question say what the server does now, such as a push to a telephone.
                        let note = note.filter(|_| nothing_asked);
                        let verdict = verdict(self.questions, self.host, note, respond).await?;
                        self.owed.by_client |= verdict.by_person;
                        response = verdict.word;
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

/// Returns whether an answer is none: russh tells a lost connection as a failure without any method left.
fn is_lost(handle: &Handle<Handler>, response: &Response) -> bool {
    matches!(response, Response::Failure { remaining_methods, .. }
        if handle.is_closed() || remaining_methods.is_empty())
}

/// Returns whether a server asks for the password by its own words, as PAM does: one hidden question that says
/// so and nothing of a new one, a changed one or one for once. A code is good for once and nothing to keep.
fn is_password(prompts: &[Prompt]) -> bool {
    let [one] = prompts else { return false };
    let other = ["current", "old", "one", "time", "otp", "oath", "token", "code"];
    let words = words(&one.prompt);
    !one.echo
        && words.iter().any(|word| word == "password")
        && !is_new(&one.prompt)
        && !other.iter().any(|other| words.iter().any(|word| word == other))
}

/// Returns whether a server asks for a new password.
fn is_new(prompt: &str) -> bool {
    let new = ["new", "retype", "repeat", "again", "change"];
    words(prompt).iter().any(|word| new.contains(&word.as_str()))
}

/// Returns the words of a question, without the name that it is for: `Password for alice@new-york:`.
fn words(prompt: &str) -> Vec<String> {
    let text = prompt.to_lowercase();
    let text = text.split(" for ").next().unwrap_or_default();
    text.split(|c: char| !c.is_alphanumeric()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_told_from_a_code_and_from_a_new_password() {
        let asks =
            |prompt: &str, echo: bool| is_password(&[Prompt { prompt: prompt.to_owned(), echo }]);
        for prompt in [
            "Password: ",
            "Password for u@exchange1.new-york:",
            "u@h's password: ",
            "LDAP Password:",
        ] {
            assert!(asks(prompt, false), "{prompt}");
        }
        for prompt in [
            "One-time password (OATH) for `alice': ",
            "New password: ",
            "Retype new password: ",
            "(current) UNIX password: ",
            "Current password: ",
            "Verification code: ",
            "Passcode or option (1-3): ",
        ] {
            assert!(!asks(prompt, false), "{prompt}");
        }
        assert!(!asks("Password: ", true));
        assert!(is_new("New password: ") && is_new("Retype new UNIX password:"));
        assert!(!is_new("Password for u@new-york: "));
    }
}
