//! `occ agent`: coding agents on hosts, as sessions that outlive the link.

use std::process::{Command, Stdio};

use hyper::Method;
use occ_proto::exec::{ExecRequest, ExecResult};
use occ_proto::text::sanitize;

use super::{Context, exec, session};
use crate::cli::{Agent, AgentCommand, AgentStartArgs, SessionStartArgs};
use crate::client::Client;
use crate::error::CliError;
use crate::place::Place;

/// How long a program may take to say its version, in milliseconds: they load a lot for it.
const VERSION_MS: u64 = 30_000;
/// What a shell exits with where there is no such program (POSIX, 2.8.2).
const NOT_FOUND: u32 = 127;

impl Agent {
    fn program(self) -> &'static str {
        match self {
            Self::Codex => "codex",
            Self::Opencode => "opencode",
        }
    }

    /// Returns the arguments with which it talks to a client.
    fn serves(self) -> &'static [&'static str] {
        match self {
            // Requests and answers by lines, on its standard streams.
            Self::Codex => &["app-server"],
            // HTTP, on the port that it is told.
            Self::Opencode => &["serve", "--hostname", "127.0.0.1"],
        }
    }

    fn package(self) -> &'static str {
        match self {
            Self::Codex => "@openai/codex",
            Self::Opencode => "opencode-ai",
        }
    }
}

/// Runs `occ agent`.
pub(crate) async fn run(context: &Context<'_>, command: AgentCommand) -> Result<u8, CliError> {
    let AgentCommand::Start(args) = command;
    let (client, place, directory) = exec::place(context, "agent start").await?;
    let there = version_there(context, &client, &place, args.agent).await?;
    tell_difference(context, &place, args.agent, &there);
    let AgentStartArgs { agent, name, cwd, env, attach, args } = args;
    let words = [agent.program()].into_iter().chain(agent.serves().iter().copied());
    let session = SessionStartArgs {
        name: Some(name.unwrap_or_else(|| agent.program().to_owned())),
        cwd: cwd.or(directory),
        env,
        retries: None,
        attach,
        tty: false,
        forward_urls: false,
        argv: words.map(Into::into).chain(args).collect(),
    };
    session::launch(context, client, place, session).await
}

/// Returns the version of the program there.
async fn version_there(
    context: &Context<'_>,
    client: &Client,
    place: &Place,
    agent: Agent,
) -> Result<String, CliError> {
    let program = agent.program();
    let request = ExecRequest {
        argv: [program, "--version"].map(Into::into).to_vec(),
        timeout_ms: Some(VERSION_MS),
        ..ExecRequest::default()
    };
    let request = exec::here(place, request)?;
    let asked = client.request(Method::POST, &place.path("/exec"), Some(&request), None).await;
    let reply = match (asked, place) {
        (Err(error), Place::Host(host, source)) => {
            return Err(super::explain(context, client, host, *source, error).await);
        }
        (asked, _) => asked?,
    };
    let result: ExecResult = reply.parse()?;
    match (result.exit.code, &result.stdout) {
        (Some(0), Some(text)) => Ok(version(text)),
        (Some(NOT_FOUND), _) => {
            let option = match place {
                Place::Host(host, _) => format!("--host {host}"),
                Place::Local => "--local".to_owned(),
            };
            let install = format!("occ exec {option} -- npm install -g {}", agent.package());
            let missing = format!("There is no {program} in the PATH of commands on {place}.");
            Err(CliError::failed(missing)
                .hint(format!("{install}; see {program}'s own site for other ways")))
        }
        _ => {
            let said = result.stderr.as_deref().unwrap_or_default().lines().next_back();
            let said = sanitize(said.unwrap_or("nothing"));
            Err(CliError::failed(format!(
                "{program} --version on {place} failed, and said: {said}"
            )))
        }
    }
}

/// Returns the version in what a program says of itself, such as `codex-cli 0.171.0`.
fn version(text: &str) -> String {
    let words = text.split_whitespace();
    let found = words
        .clone()
        .find(|word| word.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit()));
    sanitize(found.or_else(|| words.last()).unwrap_or("unknown").trim_start_matches('v'))
}

/// Says that another version is here, if one is: a client of this machine's may not understand the one there.
fn tell_difference(context: &Context<'_>, place: &Place, agent: Agent, there: &str) {
    if *place == Place::Local || context.ui.json {
        return;
    }
    let program = agent.program();
    let mut command = Command::new(program);
    let asked = command.arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output();
    // That there is none here is usual.
    let Ok(output) = asked else { return };
    let here = version(&String::from_utf8_lossy(&output.stdout));
    if output.status.success() && here != there {
        context.ui.note(&format!("Note: {program} is {there} on {place}, and {here} here."));
    }
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (text, expected) in [
            ("codex-cli 0.171.0\n", "0.171.0"),
            ("1.18.33\n", "1.18.33"),
            ("opencode v1.2.3 (linux)", "1.2.3"),
            ("", "unknown"),
        ] {
            assert_eq!(version(text), expected);
        }
    }
}
