//! `occ prompts`: the questions that wait for somebody, and answering them; `occ unlock`.

use std::collections::VecDeque;

use hyper::Method;
use jiff::Timestamp;
use occ_proto::Secret;
use occ_proto::error::Code;
use occ_proto::prompt::{
    AnswerPrompt, Prompt, PromptEvent, PromptKind, PromptList, Unlock, Unlocked,
};
use occ_proto::status::{HostList, State};
use occ_proto::text::sanitize;

use super::Context;
use crate::cli::{PromptsArgs, UnlockArgs};
use crate::client::Client;
use crate::duration::{seconds_between, two_units};
use crate::error::{CliError, FAILED};
use crate::hint::{shell_word, was_asked};
use crate::prompter::{self, Asked, Events};
use crate::terminal::Terminal;

/// What is told of a question that is open no more, and of an answer that came too late.
const OVER: &str =
    "It is asked no more: somebody else answered it, or nobody waits for an answer any more.";

/// Answers a question that yes or no is an answer to, and declines another.
async fn answer_at_once(client: &Client, id: u64, allows: bool) -> Result<u8, CliError> {
    let list: PromptList = client.get("/v1/prompts").await?.parse()?;
    let kind = list.prompts.iter().find(|prompt| prompt.id == id).map(|prompt| prompt.kind);
    let word = match kind {
        // As a passphrase, or to a server, `no` would be tried.
        Some(PromptKind::Passphrase | PromptKind::Password | PromptKind::Code) => None,
        _ => Some(if allows { "yes" } else { "no" }),
    };
    if allows && word.is_none() {
        let text = format!("question {id} is not one of yes or no.");
        return Err(CliError::usage(text).hint("occ prompts asks for the answer"));
    }
    let body = AnswerPrompt { answer: word.map(|word| Secret::new(word.to_owned())) };
    client.request(Method::POST, &format!("/v1/prompts/{id}"), Some(&body), None).await?;
    Ok(0)
}

/// Runs `occ prompts` and returns its exit code.
pub(crate) async fn run(context: &Context<'_>, args: &PromptsArgs) -> Result<u8, CliError> {
    let ui = context.ui;
    // Questions go with the daemon that asks them.
    let client = context.client().await?.of_this_daemon();
    if let Some(id) = args.allow.or(args.deny) {
        return answer_at_once(&client, id, args.allow.is_some()).await;
    }
    let reply = client.get("/v1/prompts").await?;
    if ui.json {
        return ui.document(&reply.body).map(|()| 0);
    }
    let list: PromptList = reply.parse()?;
    if list.prompts.is_empty() {
        let hosts: HostList = client.get("/v1/hosts").await?.parse()?;
        let mut asked = false;
        for host in hosts.hosts.iter().chain(&hosts.via) {
            if let Some(question) = &host.question {
                asked = true;
                let question = sanitize(question);
                ui.say(&format!("[{}] Another client is being asked: {question}", host.name))?;
            }
        }
        match asked {
            true => ui.note("hint: a question is for everybody after 5 s: occ prompts"),
            false => ui.say("Nothing waits for an answer.")?,
        }
        return Ok(0);
    }
    let terminal = if ui.input && !ui.quiet { Terminal::open(client.directory()) } else { None };
    let Some(terminal) = terminal else {
        let now = Timestamp::now();
        let lines: String = list.prompts.iter().map(|prompt| line(prompt, now)).collect();
        ui.print(&lines)?;
        ui.note("hint: occ prompts on a terminal asks for the answers");
        return Ok(0);
    };
    let mut events = Events::open(&client, None).await?;
    let mut waiting = VecDeque::from(list.prompts);
    let (mut is_wrong, mut is_over, mut is_answered) = (false, false, false);
    while let Some(prompt) = waiting.pop_front() {
        if prompt.kind == PromptKind::Notice {
            ui.say(prompter::notice(&prompt).trim_end())?;
            continue;
        }
        let mut next = Some(prompt);
        while let Some(prompt) = next.take() {
            let others = |event| {
                if let PromptEvent::Closed { id } = event {
                    waiting.retain(|prompt| prompt.id != id);
                }
            };
            let asking = prompter::ask_while_open(ui, &terminal, &prompt, &mut events, others);
            let (mut answer, _turn) = match asking.await? {
                Asked::Answered(answer, turn) => (answer, turn),
                Asked::Over => {
                    ui.note(OVER);
                    is_over = true;
                    break;
                }
                Asked::NoDaemon => {
                    return Err(CliError::daemon("occd has ended, and with it its questions."));
                }
            };
            if prompt.kind == PromptKind::Approval {
                answer = answer.map(yes_or_no);
            }
            // Others may know it. An empty one would cost a try; an empty code can be right.
            let is_skipped = matches!(prompt.kind, PromptKind::Password | PromptKind::Passphrase)
                && answer.as_ref().is_some_and(|answer| answer.expose().is_empty());
            if is_skipped {
                ui.note("It is left open.");
                break;
            }
            let Some(verdict) = prompter::send_for_another(&client, prompt.id, answer).await?
            else {
                ui.note(OVER);
                is_over = true;
                break;
            };
            is_answered = true;
            is_wrong |= verdict.wrong && verdict.next.is_none();
            next = verdict.next;
        }
    }
    if is_wrong {
        return Err(CliError::failed("That was wrong, and it is not asked again."));
    }
    // The person may believe that it was theirs.
    Ok(if is_over && !is_answered { FAILED } else { 0 })
}

/// Returns an answer as the daemon takes it.
fn yes_or_no(answer: Secret) -> Secret {
    let word = answer.expose().trim();
    let is_yes = ["y", "yes"].iter().any(|yes| word.eq_ignore_ascii_case(yes));
    Secret::new(if is_yes { "yes" } else { "no" }.to_owned())
}

fn line(prompt: &Prompt, now: Timestamp) -> String {
    let host = prompt.host.as_ref().map_or_else(String::new, |host| format!("[{host}] "));
    let since = two_units(seconds_between(prompt.at, now));
    let number = match prompt.kind {
        PromptKind::Notice => String::new(),
        _ => format!("{}: ", prompt.id),
    };
    format!("{host}{number}{} (asked {since} ago)\n", sanitize(&prompt.message))
}

/// Runs `occ unlock` and returns its exit code.
pub(crate) async fn unlock(context: &Context<'_>, args: &UnlockArgs) -> Result<u8, CliError> {
    let ui = context.ui;
    let (client, wishes) = match (&args.key, &context.named) {
        (Some(key), _) => {
            let key = super::host_edit::absolute(key);
            (context.client().await?, vec![Unlock::IdentityFile(key)])
        }
        (None, Some(_)) => {
            let (client, host, _) = context.client_and_host("unlock").await?;
            (client, vec![Unlock::Host(host)])
        }
        (None, None) => {
            let client = context.client().await?;
            let wishes = waiting(&client).await?;
            (client, wishes)
        }
    };
    let mut unlocked = Unlocked::default();
    for wish in &wishes {
        let reply = client.request(Method::POST, "/v1/unlock", Some(wish), None).await;
        let now: Unlocked = reply.map_err(|error| explain(error, args.key.as_deref()))?.parse()?;
        unlocked.keys.extend(now.keys);
        unlocked.hosts.extend(now.hosts);
    }
    if ui.json {
        return ui.value(&unlocked).map(|()| 0);
    }
    if unlocked.keys.is_empty() {
        ui.say("Nothing to unlock: no key is behind a passphrase, or it is open already.")?;
    }
    for key in &unlocked.keys {
        ui.say(&format!("Unlocked: {}", sanitize(key)))?;
    }
    for host in &unlocked.hosts {
        ui.say(&format!("[{host}] waited for it and is dialled now."))?;
    }
    Ok(0)
}

/// Returns the default host, else the hosts whose login waits for a key.
async fn waiting(client: &Client) -> Result<Vec<Unlock>, CliError> {
    let list: HostList = client.get("/v1/hosts").await?.parse()?;
    if let Some(default) = list.default_host {
        return Ok(vec![Unlock::Host(default)]);
    }
    let mut hosts = Vec::new();
    for host in list.hosts.iter().chain(&list.via) {
        let Some(error) = host.last_error.as_ref().filter(|_| host.state != State::Connected)
        else {
            continue;
        };
        let blamed = error.hop.as_ref().unwrap_or(&host.name);
        let waits = matches!(error.code, Code::KeyLocked | Code::InputNeeded);
        if waits && !hosts.contains(blamed) {
            hosts.push(blamed.clone());
        }
    }
    if hosts.is_empty() {
        return Err(CliError::usage("No host waits for a key; name a host or a key file.")
            .hint("occ unlock --host NAME, or occ unlock KEYFILE"));
    }
    Ok(hosts.into_iter().map(Unlock::Host).collect())
}

/// Returns `error` with what to type for a key that was named by its file.
fn explain(error: CliError, key: Option<&str>) -> CliError {
    let (Some(key), Some(Code::KeyLocked | Code::InputNeeded)) = (key, error.daemon_code()) else {
        return error;
    };
    let key = shell_word(key);
    let hint = match was_asked(&error.message) {
        true => format!("occ unlock {key} asks again"),
        false => format!("on a terminal: occ unlock {key} asks"),
    };
    error.hint(hint)
}
