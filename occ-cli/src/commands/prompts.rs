//! `occ prompts`: the questions that wait for somebody, and answering them; `occ unlock`.

use hyper::Method;
use jiff::Timestamp;
use occ_proto::prompt::{Prompt, PromptKind, PromptList, Unlock, Unlocked};
use occ_proto::status::HostList;
use occ_proto::text::sanitize;

use super::Context;
use crate::cli::UnlockArgs;
use crate::duration::{seconds_between, two_units};
use crate::error::CliError;
use crate::prompter;
use crate::terminal::Terminal;

/// Runs `occ prompts` and returns its exit code.
pub(crate) async fn run(context: &Context<'_>) -> Result<u8, CliError> {
    let ui = context.ui;
    let client = context.client().await?;
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
    for prompt in &list.prompts {
        if prompt.kind == PromptKind::Notice {
            ui.say(prompter::notice(prompt).trim_end())?;
            continue;
        }
        let (answer, _turn) = prompter::ask(ui, &terminal, prompt).await?;
        prompter::send(&client, prompt.id, answer).await?;
    }
    Ok(0)
}

fn line(prompt: &Prompt, now: Timestamp) -> String {
    let host = prompt.host.as_ref().map_or_else(String::new, |host| format!("[{host}] "));
    let since = two_units(seconds_between(prompt.at, now));
    format!("{host}{} (asked {since} ago)\n", sanitize(&prompt.message))
}

/// Runs `occ unlock` and returns its exit code.
pub(crate) async fn unlock(context: &Context<'_>, args: &UnlockArgs) -> Result<u8, CliError> {
    let ui = context.ui;
    let (client, wish) = match &args.key {
        Some(key) => {
            let key = super::host_edit::absolute(key);
            (context.client().await?, Unlock::IdentityFile(key))
        }
        None => {
            let (client, host, _) = context.client_and_host("unlock").await?;
            (client, Unlock::Host(host))
        }
    };
    let reply = client.request(Method::POST, "/v1/unlock", Some(&wish), None).await?;
    if ui.json {
        return ui.document(&reply.body).map(|()| 0);
    }
    let unlocked: Unlocked = reply.parse()?;
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
