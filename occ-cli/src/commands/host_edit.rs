//! `occ host add` and `occ host edit`: nothing is saved unless the host could be connected to.

use hyper::Method;
use hyper::header::HeaderValue;
use occ_proto::error::Code;
use occ_proto::host::{AddHost, PatchHost};
use occ_proto::status::{HostSaved, HostStatus, TestReport};
use occ_proto::text::sanitize;
use occ_proto::{GroupName, HostConfig};
use serde_json::json;

use super::{Context, install_docker, operations, ssh_config};
use crate::cli::{HostAddArgs, HostEditArgs};
use crate::client::{Client, Reply, host_path};
use crate::error::{CONNECTION, CliError};
use crate::hint::{NO_WAY_THROUGH, NOT_OFFERED, PROXY_COMMAND, agent_cure, hint_for, was_asked};
use crate::output::{Colour, host as show, with_note};
use crate::parse::Clearable;
use crate::place::Place;
use crate::target::Source;

/// Runs `occ host add` and returns its exit code.
pub(crate) async fn add(context: &Context<'_>, args: HostAddArgs) -> Result<u8, CliError> {
    let ui = context.ui;
    let mut body = AddHost {
        name: args.name.clone(),
        config: config(&args)?,
        verify: !args.no_verify,
        force: args.force,
    };
    let client = context.client().await?;
    let note = format!("[{}] connecting …", args.name);
    let send = |body: AddHost| {
        let client = &client;
        async move { client.request(Method::POST, "/v1/hosts", Some(&body), None).await }
    };
    let reply = match with_note(ui, &note, send(body.clone())).await {
        Ok(reply) => reply,
        Err(error) if error.exit == CONNECTION && body.verify => {
            let error = unverified(&args.name, &body.config, error, "occ host add");
            failed_step(context, args.name.as_str(), &error);
            if args.yes || !ui.can_ask() {
                return Err(error);
            }
            ui.note(&format!("Error: {}", error.message));
            if let Some(hint) = &error.hint {
                ui.note(&format!("hint: {hint}"));
            }
            if !ui.ask(&format!("Add '{}' anyway?", args.name)).await? {
                // Said already; the exit code says it to scripts.
                return Err(CliError { message: String::new(), ..error });
            }
            body.verify = false;
            send(body.clone()).await?
        }
        Err(error) => return Err(error),
    };
    let done = format!("Added: Host '{}' added ({}).", args.name, args.hostname.address);
    let config = &body.config;
    if args.install_docker {
        if args.ssh_config {
            ssh_config::add(context, &client, &args.name, config).await?;
        }
        return installed(context, &client, &reply, &done).await;
    }
    let code = saved(context, &reply, &done)?;
    if args.ssh_config {
        ssh_config::add(context, &client, &args.name, config).await?;
    }
    if let (false, Some(test)) = (args.yes, reply.parse::<HostSaved>()?.test) {
        install_docker::offer(context, &client, &test).await?;
    }
    Ok(code)
}

/// Installs Docker on a host that was added and has none.
async fn installed(
    context: &Context<'_>,
    client: &Client,
    reply: &Reply,
    done: &str,
) -> Result<u8, CliError> {
    let ui = context.ui;
    if !ui.json {
        saved(context, reply, done)?;
    }
    let host: HostSaved = reply.parse()?;
    let operation = match &host.test {
        Some(test) => install_docker::unasked(context, client, test).await?,
        None => None,
    };
    if let Some(problem) = operation.as_ref().and_then(|operation| operation.problem.as_ref()) {
        return Err(CliError::from((**problem).clone()));
    }
    if ui.json {
        // The daemon's own values, so that keys this program does not know stay.
        let mut document: serde_json::Value = reply.parse()?;
        if let (Some(keys), Some(operation)) = (document.as_object_mut(), &operation) {
            keys.insert("operation".to_owned(), json!(operation));
        }
        return ui.value(&document).map(|()| 0);
    }
    match &operation {
        Some(operation) => operations::finished(
            context,
            &Place::Host(host.host.name.clone(), Source::Named),
            operation,
        ),
        None => Ok(0),
    }
}

fn config(args: &HostAddArgs) -> Result<HostConfig, CliError> {
    let to = &args.hostname;
    let mut config = HostConfig::new(to.address.clone());
    config.user = one_of("user name", args.user.clone(), to.user.clone())?;
    config.port = one_of("port", args.port, to.port)?;
    config.identity_file = args.identity_file.as_deref().and_then(filled).map(absolute);
    config.jump_host = args.jump_host.clone();
    config.groups = groups(&args.group)?;
    config.description = args.description.as_deref().and_then(filled).map(str::to_owned);
    Ok(config)
}

/// Returns the groups that hosts are to belong to. `--group` is an option of every command, where it is any text.
pub(super) fn groups(names: &[String]) -> Result<Vec<GroupName>, CliError> {
    let names = names.iter().map(GroupName::new).collect::<Result<_, _>>();
    names.map_err(|error| CliError::usage(format!("--group: {error}.")))
}

fn filled(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// Returns what was given as an option or inside HOSTNAME; two different ones are a mistake.
fn one_of<T: PartialEq>(
    what: &str,
    option: Option<T>,
    inside: Option<T>,
) -> Result<Option<T>, CliError> {
    match (option, inside) {
        (Some(option), Some(inside)) if option != inside => {
            Err(CliError::usage(format!("HOSTNAME and the option give two different {what}s.")))
        }
        (option, inside) => Ok(option.or(inside)),
    }
}

/// Returns the path as the daemon can use it, whose working directory is another.
pub(super) fn absolute(path: &str) -> String {
    if path.starts_with('~') {
        return path.to_owned();
    }
    std::path::absolute(path)
        .ok()
        .and_then(|path| path.into_os_string().into_string().ok())
        .unwrap_or_else(|| path.to_owned())
}

/// Runs `occ host edit` and returns its exit code.
pub(crate) async fn edit(context: &Context<'_>, args: HostEditArgs) -> Result<u8, CliError> {
    let ui = context.ui;
    if is_empty(&args) {
        return Err(CliError::usage("Nothing to change was given.")
            .hint("occ host edit --help lists what can be changed"));
    }
    let client = context.client().await?;
    let mut retried = false;
    loop {
        let (status, tag) = current(&client, &args).await?;
        let patch = patch(&args, &status.config);
        let path = host_path(&args.name, "");
        let send = client.request(Method::PATCH, &path, Some(&patch), tag);
        let note = format!("[{}] connecting …", args.name);
        match with_note(ui, &note, send).await {
            Ok(reply) => {
                return saved(context, &reply, &format!("Updated: Host '{}' updated.", args.name));
            }
            // Somebody edited between our two requests: once more, on what they left.
            Err(error) if error.daemon_code() == Some(Code::EditConflict) && !retried => {
                retried = true;
            }
            Err(error) if error.exit == CONNECTION => {
                let new = patch.apply(&status.config);
                let error = unverified(&args.name, &new, error, "occ host edit");
                failed_step(context, args.name.as_str(), &error);
                return Err(error);
            }
            Err(error) => return Err(error),
        }
    }
}

fn is_empty(args: &HostEditArgs) -> bool {
    args.hostname.is_none()
        && args.user.is_none()
        && args.port.is_none()
        && args.identity_file.is_none()
        && args.jump_host.is_none()
        && args.add_group.is_empty()
        && args.remove_group.is_empty()
        && args.description.is_none()
}

async fn current(
    client: &Client,
    args: &HostEditArgs,
) -> Result<(HostStatus, Option<HeaderValue>), CliError> {
    let reply = client.get(&host_path(&args.name, "")).await?;
    let status: HostStatus = reply.parse()?;
    let tag = reply.etag.clone().or_else(|| HeaderValue::from_str(&status.etag).ok());
    Ok((status, tag.filter(|tag| !tag.is_empty())))
}

fn patch(args: &HostEditArgs, config: &HostConfig) -> PatchHost {
    fn value<T: Clone>(field: Option<&Clearable<T>>) -> Option<Option<T>> {
        field.map(|field| field.0.clone())
    }
    let to = args.hostname.as_ref();
    let text = |field: Option<&String>| field.map(|text| filled(text).map(str::to_owned));
    let groups = (!args.add_group.is_empty() || !args.remove_group.is_empty()).then(|| {
        let mut groups = config.groups.clone();
        groups.retain(|group| !args.remove_group.iter().any(|name| name == group.as_str()));
        for group in &args.add_group {
            if !groups.contains(group) {
                groups.push(group.clone());
            }
        }
        groups
    });
    PatchHost {
        hostname: to.map(|to| to.address.clone()),
        user: value(args.user.as_ref()).or_else(|| to?.user.clone().map(Some)),
        port: value(args.port.as_ref()).or_else(|| to?.port.map(Some)),
        identity_file: args.identity_file.as_deref().map(|path| filled(path).map(absolute)),
        jump_host: value(args.jump_host.as_ref()),
        groups,
        description: text(args.description.as_ref()),
        verify: args.no_verify.then_some(false),
    }
}

/// Returns `error` with the words for a host that was not saved: it has no name to reconnect to yet.
fn unverified(
    name: &occ_proto::HostName,
    config: &HostConfig,
    mut error: CliError,
    command: &str,
) -> CliError {
    let stop = if error.message.ends_with('.') { "" } else { "." };
    let detail = std::mem::take(&mut error.message);
    error.message = format!("{detail}{stop} Nothing was written.");
    let unsaved = format!("{command} with --no-verify saves it without connecting");
    let again = |cure: &str| format!("{cure}; then {command} again");
    // The cure that other commands have, without what they do with a host that is saved.
    let cure = |code| {
        let hint = hint_for(code, name, config, None, &detail)?;
        let end = ["; then occ ", "; occ host show "].iter().filter_map(|end| hint.find(end)).min();
        Some(again(hint.get(..end?)?))
    };
    let of_hop = error.problem.as_ref().is_some_and(|problem| problem.hop.is_some());
    error.hint = match error.daemon_code() {
        // That host is there, and is mended by itself.
        Some(_) if of_hop => error.hint.take().map(|hint| again(&hint)),
        Some(code @ Code::HostUnreachable)
            if [PROXY_COMMAND, NO_WAY_THROUGH].iter().any(|words| detail.contains(words)) =>
        {
            cure(code)
        }
        // Who is right, the network or the person, cannot be told.
        Some(Code::HostUnreachable) => {
            Some(format!("are the address and the port right, and is the server up? {unsaved}"))
        }
        Some(Code::NotSsh) => Some(again("is the port right?")),
        Some(Code::NoIdentity) if !detail.contains("ssh_config allows none") => {
            Some(again(&format!("{}, or -i KEY names a file", agent_cure(&detail))))
        }
        Some(Code::AuthFailed) if detail.contains(NOT_OFFERED) => {
            Some(format!("{command} with -i KEY names the right one, which is offered first"))
        }
        Some(Code::IdentityInvalid) => {
            let hint = error.hint.take();
            let check = hint.as_deref().and_then(|hint| hint.split("; ").next());
            check.map(|check| format!("{check}; {command} with -i KEY names another"))
        }
        Some(Code::AgentRefused) => Some(format!(
            "confirm or touch the key when the agent asks: {command} again; ssh-add -l shows what it holds"
        )),
        Some(code @ (Code::HostKeyChanged | Code::HostKeyUnknown)) => {
            let does = match code {
                Code::HostKeyChanged => "shows both keys and asks before it replaces the old one",
                _ => "shows the key and asks before it records it",
            };
            Some(format!(
                "ask the server's owner which key is right; {unsaved}, and occ trust --host {name} then {does}"
            ))
        }
        Some(Code::HostKeyRevoked | Code::HostCertificate) => {
            Some(again("ask the server's owner for another key"))
        }
        Some(Code::SessionRefused) => Some(again("see MaxSessions in the server's sshd_config")),
        Some(Code::InputNeeded | Code::KeyLocked | Code::LoginRefused) if was_asked(&detail) => {
            Some(format!("{command} again asks again"))
        }
        Some(Code::InputNeeded | Code::KeyLocked | Code::LoginRefused) => {
            Some(format!("on a terminal {command} asks"))
        }
        Some(code) => cure(code),
        None => error.hint.take(),
    };
    error
}

/// Prints where connecting stopped.
fn failed_step(context: &Context<'_>, name: &str, error: &CliError) {
    if context.ui.json {
        return;
    }
    if let Some(phase) = error.problem.as_ref().and_then(|problem| problem.phase) {
        context.ui.note(&format!("[{name}] ✗ {}", phase.as_str()));
    }
}

fn saved(context: &Context<'_>, reply: &Reply, done: &str) -> Result<u8, CliError> {
    let ui = context.ui;
    if ui.json {
        return ui.document(&reply.body).map(|()| 0);
    }
    let saved: HostSaved = reply.parse()?;
    if let Some(test) = &saved.test {
        ui.say(&connected(context, test))?;
    }
    ui.say(done)?;
    if !saved.taken_away.is_empty() {
        let what = saved.taken_away.join(", ");
        ui.note(&format!(
            "What led to an earlier host of this name is taken away: {}",
            sanitize(&what)
        ));
    }
    Ok(0)
}

/// Returns the line about a host that was connected to.
pub(super) fn connected(context: &Context<'_>, test: &TestReport) -> String {
    let mark = context.ui.paint(Colour::Green, "✓");
    let docker = match (&test.docker_version, test.docker_ok) {
        (Some(version), true) => format!("Docker {}", sanitize(version)),
        (None, true) => "Docker".to_owned(),
        (_, false) => {
            // "No Docker" would be wrong where it is there and does not answer, or not this user.
            let other = test
                .steps
                .iter()
                .find(|step| step.name == "docker" && !crate::hint::has_no_docker(&step.detail));
            other.map_or_else(|| "no Docker on this host".to_owned(), |step| sanitize(&step.detail))
        }
    };
    if let Some(key) = &test.new_host_key {
        show::tell_host_key(context.ui, &test.name, key);
    }
    format!("[{}] {mark} Connected ({docker})", test.name)
}
