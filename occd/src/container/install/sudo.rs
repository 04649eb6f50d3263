//! Root's rights on a host: by sudo, and a password that is asked for before the first command is run.
//!
//! The password goes to sudo's standard input and nowhere else. So that no program but sudo ever reads it, sudo is
//! told to forget what it remembers (`-k`), and every command is run by the same program, env, for which it was asked
//! whether it wants one.

use std::sync::Arc;
use std::time::Duration;

use occ_proto::docker_setup::Sudo;
use occ_proto::prompt::PromptKind;
use occ_proto::{HostName, Secret};

use super::look::why_not;
use super::remote::{self, Said};
use super::{InstallError, Plan};
use crate::container::SandboxError;
use crate::host::HostHandle;
use crate::prompts::{Client, NoAnswer, Prompts, Question, Questions, TRIES};

/// How long sudo may take to say whether a password is right; it waits for some seconds when it is not.
const VERDICT: Duration = Duration::from_secs(60);
/// The variable by which the processes of a step are found.
const MARK: &str = "OCC_STEP_ID";

/// How commands become root's.
#[derive(Debug)]
pub struct Root {
    sudo: Sudo,
    password: Option<Secret>,
}

impl Root {
    /// Has what the commands of a plan need, asking the client for a password if need be.
    ///
    /// # Errors
    /// When there is no way to become root, nobody gives the password, or it is wrong three times.
    pub async fn obtain(
        host: &HostHandle,
        plan: &Plan,
        prompts: &Arc<Prompts>,
        client: &Client,
    ) -> Result<Self, SandboxError> {
        let (user, sudo) = (&plan.setup.user, plan.setup.sudo);
        let no_root = |why: String| {
            let commands = plan.steps.iter().map(|argv| super::plan::shown(argv, false)).collect();
            InstallError::NoRoot { user: user.clone(), why, commands }
        };
        if let Some(why) = &plan.no_root {
            return Err(no_root(why.clone()).into());
        }
        if sudo != Sudo::Password {
            return Ok(Self { sudo, password: None });
        }
        let questions = Questions::of(Arc::clone(prompts), client);
        let no_password = |why| InstallError::NoPassword { user: user.clone(), why };
        for attempt in 0..TRIES {
            let question = question(host.name(), user, attempt > 0);
            let password = questions.ask(question).await.map_err(no_password)?;
            let root = Self { sudo, password: Some(password) };
            let said = root.try_it(host, client).await?;
            if said.exit.code == Some(0) {
                questions.settle(false);
                return Ok(root);
            }
            let silent = said.exit.timed_out.then(|| "sudo does not answer".to_owned());
            if let Some(why) = silent.or_else(|| refusal(&said.stderr)) {
                questions.settle(false);
                return Err(no_root(why).into());
            }
        }
        questions.settle(true);
        Err(no_password(NoAnswer::Wrong).into())
    }

    /// Runs what does nothing.
    async fn try_it(&self, host: &HostHandle, client: &Client) -> Result<Said, SandboxError> {
        let (argv, _) = self.argv(&["true".to_owned()]);
        remote::ask(host, client, &argv, self.password(), VERDICT).await
    }

    /// Returns a command that runs as root, and what its processes have in their environment.
    pub(super) fn argv(&self, command: &[String]) -> (Vec<String>, Option<String>) {
        let flags: &[&str] = match self.sudo {
            Sudo::Free => &["-n"],
            Sudo::Password => &["-k", "-S", "-p", ""],
            Sudo::NotNeeded | Sudo::None | Sudo::Unknown => return (command.to_vec(), None),
        };
        let mark = format!("{MARK}={:032x}", fastrand::u128(..));
        let words = [&["sudo"], flags, &["--", "env", &mark]].concat();
        let argv = words.into_iter().map(str::to_owned).chain(command.iter().cloned()).collect();
        (argv, Some(mark))
    }

    /// Returns what sudo reads.
    pub(super) fn password(&self) -> Option<&Secret> {
        self.password.as_ref()
    }
}

fn question(host: &HostName, user: &str, again: bool) -> Question {
    Question {
        kind: PromptKind::Password,
        host: Some(host.clone()),
        message: format!("Password of {} for sudo", occ_proto::text::sanitize(user)),
        note: again.then(|| "That password is wrong.".to_owned()),
        secret: true,
        again,
    }
}

/// Returns why sudo refuses, where another password does not help.
fn refusal(said: &str) -> Option<String> {
    const WRONG: [&str; 3] = ["try again", "incorrect password", "no password was provided"];
    let is_wrong = WRONG.iter().any(|text| said.contains(text));
    why_not(said).or_else(|| {
        let last = said.lines().rev().find(|line| !line.trim().is_empty())?;
        (!is_wrong).then(|| occ_proto::text::sanitize(last.trim()).trim_end_matches('.').to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_password_is_told_from_a_login_that_may_not() {
        let wrong = "Sorry, try again.\nsudo: no password was provided\nsudo: 1 incorrect password attempt\n";
        assert_eq!(refusal(wrong), None);
        assert_eq!(refusal(""), None);
        let unknown = "alice is not in the sudoers file.  This incident will be reported.\n";
        assert!(refusal(unknown).unwrap().starts_with("alice is not in the sudoers file"));
        let expired = "sudo: Account expired or PAM config lacks an \"account\" section\n";
        assert!(refusal(expired).unwrap().contains("Account expired"));
    }

    #[test]
    fn the_password_is_in_no_argument() {
        let password = Some(Secret::new("canary".into()));
        let root = Root { sudo: Sudo::Password, password };
        let (argv, mark) = root.argv(&["true".into()]);
        assert_eq!(argv[..6], ["sudo", "-k", "-S", "-p", "", "--"]);
        assert_eq!(argv[6..], ["env".to_owned(), mark.unwrap(), "true".to_owned()]);
        assert!(!format!("{root:?}").contains("canary"));
    }
}
