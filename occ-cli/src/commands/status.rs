//! `occ status`: one host's link, or the table of many.

use hyper::Method;
use jiff::Timestamp;
use occ_proto::HostName;
use occ_proto::container::ContainerStatus;
use occ_proto::error::Code;
use occ_proto::status::{HostList, HostStatus, State};
use serde_json::json;

use super::group::{End, OnSignal, Selection};
use super::{Context, watch};
use crate::cli::StatusArgs;
use crate::client::{Client, host_path};
use crate::error::{CONNECTION, CliError, FAILED};
use crate::hint::has_no_docker;
use crate::output::{Ui, host as show, with_note};
use crate::target::{Source, Target};

/// Runs `occ` without a command: the table on a terminal, the help without hosts.
pub(crate) async fn bare(context: &Context<'_>) -> Result<u8, CliError> {
    if context.named.is_some() || context.selection.is_some() {
        return run(context, &StatusArgs { fresh: false, watch: false, summary: false }).await;
    }
    if !context.ui.stdout_terminal && !context.ui.json {
        return help(context);
    }
    let client = context.client().await?;
    let reply = client.get("/v1/hosts").await?;
    let list: HostList = reply.parse()?;
    if list.hosts.is_empty() && list.warnings.is_empty() && !context.ui.json {
        return help(context);
    }
    print_all(context, &reply.body, &list)
}

fn help(context: &Context<'_>) -> Result<u8, CliError> {
    use clap::CommandFactory as _;
    context.ui.print(&crate::cli::Cli::command().render_help().to_string())?;
    Ok(0)
}

/// Runs `occ status` and returns its exit code.
pub(crate) async fn run(context: &Context<'_>, args: &StatusArgs) -> Result<u8, CliError> {
    if args.watch {
        return match args.summary {
            true => watch::summary(context).await,
            false => watch::run(context).await,
        };
    }
    if let Some(selection) = &context.selection {
        if let Some(Target::Host(..) | Target::Local) = context.named
            && context.ui.verbose > 0
        {
            let option = selection.option();
            context.ui.note(&format!("{option} says which hosts; the target is not used."));
        }
        return many(context, args, selection).await;
    }
    let client = context.client().await?;
    match Target::resolve(context.named.clone(), &client).await? {
        Target::Host(host, source) => one(context, args, &client, &host, source).await,
        Target::Local => local(context, &client, args.fresh).await,
        Target::Unset => {
            let code = local(context, &client, args.fresh).await?;
            if !context.ui.json && context.ui.stderr_terminal {
                context.ui.note("hint: occ status --all shows every host");
            }
            Ok(code)
        }
    }
}

/// Shows this machine's own sandbox.
async fn local(context: &Context<'_>, client: &Client, fresh: bool) -> Result<u8, CliError> {
    let ui = context.ui;
    let query = match (fresh, ui.quiet) {
        (true, _) => "?fresh=true",
        (false, true) => "",
        (false, false) => "?disk=true",
    };
    let reply = match client.get_slow(&format!("/v1/hosts/local/container{query}")).await {
        Ok(reply) => reply,
        // Docker's troubles are part of the answer.
        Err(error) if error.daemon_code() == Some(Code::DockerUnavailable) => {
            // Without Docker there is no sandbox; of one whose Docker is down nothing is known.
            let none = has_no_docker(&error.message);
            if ui.json {
                let fault = json!({ "code": error.code, "message": error.message });
                ui.value(&json!({ "docker_error": fault }))?;
            }
            match (ui.quiet, none) {
                (true, true) => return Ok(FAILED),
                (true, false) => return Ok(CONNECTION),
                (false, _) if ui.json => return Ok(0),
                (false, _) => {}
            }
            let sign = if none { "○ none   " } else { "? unknown" };
            ui.print(&format!("Sandbox   {sign}    {}\n", error.message))?;
            if let Some(hint) = error.hint.filter(|_| !none) {
                ui.note(&format!("hint: {hint}"));
            }
            return Ok(0);
        }
        Err(error) => return Err(error),
    };
    let sandbox: ContainerStatus = reply.parse()?;
    let running = runs(&sandbox);
    let code = if ui.quiet && !running { FAILED } else { 0 };
    if ui.json {
        ui.document(&reply.body)?;
    } else if !ui.quiet {
        for line in show::sandbox(ui, None, &sandbox, Timestamp::now()) {
            ui.print(&format!("{line}\n"))?;
        }
    }
    Ok(code)
}

async fn one(
    context: &Context<'_>,
    args: &StatusArgs,
    client: &Client,
    host: &HostName,
    source: Source,
) -> Result<u8, CliError> {
    let ui = context.ui;
    let explain = |error| source.explain(host, error);
    let asked = Timestamp::now();
    let reply = if args.fresh {
        let note = format!("[{host}] connecting …");
        with_note(ui, &note, client.get_slow(&host_path(host, "?fresh=true"))).await
    } else {
        client.get(&host_path(host, "")).await
    }
    .map_err(explain)?;
    let status: HostStatus = reply.parse()?;
    if !ui.json {
        status.warnings.iter().for_each(|warning| ui.warn(warning));
        show::tell_host_key_since(ui, &status, asked);
    }
    if ui.json {
        ui.document(&reply.body)?;
        let unseen = args.fresh && status.state != State::Connected;
        return Ok(match ui.quiet {
            true => quiet_code(&status),
            false if unseen => CONNECTION,
            false => 0,
        });
    }
    if ui.quiet {
        return Ok(quiet_code(&status));
    }
    let now = Timestamp::now();
    let mut text = show::link(ui, &status, now, !client.only_looks());
    text.push('\n');
    let mut hint = show::hint(&status);
    let connected = status.state == State::Connected;
    let unknown = status.sandbox.is_none() && status.docker_error.is_none();
    let ask = connected && (args.fresh || (ui.verbose > 0 && unknown));
    if connected || !unknown {
        let (lines, docker_hint) = match ask {
            true => sandbox(context, client, &status, now).await?,
            false => remembered(ui, &status, now),
        };
        for line in lines {
            text.push_str(&line);
            text.push('\n');
        }
        hint = hint.or(docker_hint);
    }
    if ui.verbose > 0 {
        for line in show::details(&status, now) {
            text.push_str(&line);
            text.push('\n');
        }
    }
    ui.print(&text)?;
    if args.fresh && !connected && hint.is_none() {
        hint = Some(format!("occ connect --host {host} waits for it"));
    }
    if let Some(hint) = hint {
        ui.note(&format!("hint: {hint}"));
    }
    // A look that is asked for and cannot be had is no success, whatever is shown.
    Ok(if args.fresh && !connected { CONNECTION } else { 0 })
}

/// Returns the sandbox's lines from memory.
pub(super) fn remembered(
    ui: &Ui,
    status: &HostStatus,
    now: Timestamp,
) -> (Vec<String>, Option<String>) {
    match (&status.sandbox, &status.docker_error) {
        // What was seen last, and why nothing has been heard since.
        (Some(container), None) => (show::sandbox(ui, Some(&status.name), container, now), None),
        (Some(container), Some(fault)) if container.exists => {
            let mut lines = show::sandbox(ui, Some(&status.name), container, now);
            lines.push(show::docker_fault(status, fault));
            (lines, show::status_hint(status, fault.code, &fault.message))
        }
        (_, Some(fault)) => {
            let line = show::sandbox_unknown(status, fault.code, &fault.message);
            (vec![line], show::status_hint(status, fault.code, &fault.message))
        }
        (None, None) if is_without_docker(status) => {
            let why = "there is no Docker on this host";
            (vec![show::sandbox_unknown(status, Code::DockerUnavailable, why)], None)
        }
        (None, None) if status.state == State::Connected => {
            (vec![show::sandbox_unheard(status)], None)
        }
        (None, None) => (Vec::new(), None),
    }
}

/// Returns the sandbox's lines. Docker's troubles are part of the answer, not a failure of `status`.
async fn sandbox(
    context: &Context<'_>,
    client: &Client,
    status: &HostStatus,
    now: Timestamp,
) -> Result<(Vec<String>, Option<String>), CliError> {
    let note = format!("[{}] asking Docker …", status.name);
    let path = host_path(&status.name, "/container?fresh=true");
    match with_note(context.ui, &note, client.get_slow(&path)).await {
        Ok(reply) => {
            let container: ContainerStatus = reply.parse()?;
            Ok((show::sandbox(context.ui, Some(&status.name), &container, now), None))
        }
        Err(error) => match error.daemon_code() {
            Some(code) => Ok((
                vec![show::sandbox_unknown(status, code, error.message.trim_end_matches('.'))],
                show::status_hint(status, code, &error.message),
            )),
            None => Err(error),
        },
    }
}

/// Returns whether the sandbox runs, and is one.
fn runs(sandbox: &ContainerStatus) -> bool {
    sandbox.state.as_deref() == Some("running") && !sandbox.foreign
}

/// Returns whether the host has said that it has no Docker.
fn is_without_docker(status: &HostStatus) -> bool {
    let connection = status.connection.as_ref().filter(|_| status.state == State::Connected);
    let system = connection.and_then(|connection| connection.system.as_ref());
    system.is_some_and(|system| {
        system.unknown.is_none() && system.docker_sockets.is_empty() && !system.docker_cli
    }) && status.sandbox.is_none()
        && status.docker_error.is_none()
}

/// Returns the exit code of `status -q`: whether the sandbox runs, as far as it is known at this moment.
fn quiet_code(status: &HostStatus) -> u8 {
    match &status.sandbox {
        Some(sandbox) if sandbox.stale => CONNECTION,
        Some(sandbox) if runs(sandbox) => 0,
        Some(_) => FAILED,
        None if is_without_docker(status) => FAILED,
        None if status.docker_error.as_ref().is_some_and(|fault| has_no_docker(&fault.message)) => {
            FAILED
        }
        None => CONNECTION,
    }
}

async fn many(
    context: &Context<'_>,
    args: &StatusArgs,
    selection: &Selection,
) -> Result<u8, CliError> {
    if args.fresh
        && let Some(group) = context.group_if_any().await?
    {
        // A host that could not be asked shows its state in the list that follows.
        let ask = |host: HostName| {
            let client = &group.client;
            async move {
                let path = host_path(&host, "?fresh=true&retries=0");
                // Its own trouble is in its state.
                drop(client.request_among(Method::GET, &path, None::<&()>).await);
                Ok(End::Ok)
            }
        };
        let done = group.each(context.ui, OnSignal::Leave, ask).await?;
        if done.caught.is_some() {
            return Ok(done.code());
        }
    }
    let client = context.client().await?;
    let reply = client.get("/v1/hosts").await?;
    let mut list: HostList = reply.parse()?;
    selection.narrow(&mut list)?;
    let code = match selection {
        Selection::All => print_all(context, &reply.body, &list)?,
        Selection::Group(_) => print_all(context, &narrowed(&reply.parse()?, &list), &list)?,
    };
    let is_unseen = |host: &HostStatus| host.state != State::Connected;
    Ok(if args.fresh && list.hosts.iter().any(is_unseen) { FAILED } else { code })
}

/// Returns the daemon's own document with only those hosts in it that are in the list, so that keys which this
/// program does not know stay.
fn narrowed(document: &serde_json::Value, list: &HostList) -> Vec<u8> {
    let mut document = document.clone();
    if let Some(keys) = document.as_object_mut() {
        keys.shift_remove("via");
    }
    if let Some(hosts) = document.get_mut("hosts").and_then(|hosts| hosts.as_array_mut()) {
        let is_in = |name: &str| list.hosts.iter().any(|host| host.name.as_str() == name);
        hosts.retain(|host| host.get("name").and_then(|name| name.as_str()).is_some_and(is_in));
    }
    document.to_string().into_bytes()
}

fn print_all(context: &Context<'_>, document: &[u8], list: &HostList) -> Result<u8, CliError> {
    let ui = context.ui;
    let connected =
        !list.hosts.is_empty() && list.hosts.iter().all(|host| host.state == State::Connected);
    let code = if ui.quiet && !connected { FAILED } else { 0 };
    if ui.json {
        ui.document(document)?;
        return Ok(code);
    }
    list.warnings.iter().for_each(|warning| ui.warn(warning));
    if ui.quiet {
        return Ok(code);
    }
    if list.hosts.is_empty() {
        ui.print("No hosts configured.\n")?;
        ui.note("hint: occ host add NAME USER@ADDRESS");
    } else {
        let fold = ui.stdout_terminal && ui.verbose == 0;
        ui.print(&show::table(ui, list, Timestamp::now(), fold))?;
    }
    Ok(code)
}
