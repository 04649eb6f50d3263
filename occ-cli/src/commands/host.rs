//! `occ host`: remove, list, show, test and default. `host_edit` has add and edit.

use hyper::Method;
use occ_proto::error::Code;
use occ_proto::forward::{Forward, ForwardList};
use occ_proto::host::{DefaultHost, Forgotten};
use occ_proto::paths::docker_socket_name;
use occ_proto::policy::{Grant, GrantList};
use occ_proto::status::{HostList, HostStatus, TestReport};
use occ_proto::text::sanitize;
use occ_proto::{HostConfig, HostName};
use serde::Deserialize;
use serde_json::{Value, json};

use super::group::{End, Group, OnSignal, cause, of_host};
use super::{Context, docker, host_edit, host_import, install_docker};
use crate::autostart::START;
use crate::cli::HostCommand;
use crate::client::{Client, Reply, host_path};
use crate::error::{CONNECTION, CliError, DAEMON, FAILED};
use crate::hint::{
    NO_WAY_THROUGH, PROXY_COMMAND, after_test, hint_for, installing_helps, kept_passwords,
    was_asked,
};
use crate::output::removal::{self, Deed, Done};
use crate::output::table::Table;
use crate::output::{host as show, with_note};
use crate::parse::DefaultArg;

/// A request without a body.
const NO_BODY: Option<&()> = None;

/// Runs the command and returns its exit code.
pub(crate) async fn run(
    context: &Context<'_>,
    command: HostCommand,
    all: bool,
) -> Result<u8, CliError> {
    match command {
        HostCommand::Import(args) => host_import::run(context, &args, all || args.all).await,
        HostCommand::Add(args) => Box::pin(host_edit::add(context, args)).await,
        HostCommand::Edit(args) => host_edit::edit(context, args).await,
        HostCommand::Remove { name, force } => remove(context, &name, force).await,
        HostCommand::List { group, names_only } => {
            list(context, group.as_deref(), names_only).await
        }
        HostCommand::Show { name } => show_one(context, &name).await,
        HostCommand::ForgetPassword { name } => forget_password(context, &name).await,
        HostCommand::Test { name } => test(context, name).await,
        HostCommand::Default { name } => default(context, name).await,
        HostCommand::InstallDocker { name, yes, dry_run } => {
            install_docker::run(context, &name, yes, dry_run).await
        }
    }
}

async fn remove(context: &Context<'_>, name: &HostName, force: bool) -> Result<u8, CliError> {
    let ui = context.ui;
    let client = context.client().await?;
    let removing = async { remove_one(context, &client, name, force).await };
    removal::one(ui, name.as_str(), removing).await
}

async fn remove_one(
    context: &Context<'_>,
    client: &Client,
    name: &HostName,
    force: bool,
) -> Result<Deed, CliError> {
    let ui = context.ui;
    let list: HostList = client.get("/v1/hosts").await?.parse()?;
    let behind = hosts_behind(name, &list);
    let reached =
        behind.as_ref().map(|names| format!("Hosts that are reached through it: {names}."));
    let leading = Leading::to(client, name).await?;
    let goes = leading.sentence();
    let is_default = list.default_host.as_ref() == Some(name);
    if !force {
        // Ask only about a host that is there.
        client.get(&host_path(name, "")).await?;
        if !ui.can_ask() {
            return Err(CliError::usage(format!("Removing host '{name}' needs a confirmation."))
                .hint(format!("occ host remove {name} -f")));
        }
        for about in [&reached, &goes].into_iter().flatten() {
            ui.note(about);
        }
        if is_default {
            ui.note(
                "It is the default host: without it, commands without --host use local Docker.",
            );
        }
        if !ui.ask(&format!("Remove host '{name}'?")).await? {
            ui.say("Cancelled.")?;
            return Ok((Done::Untouched, None));
        }
    }
    let delete = |force: bool| {
        let path = host_path(name, if force { "?force=true" } else { "" });
        async move { client.request(Method::DELETE, &path, NO_BODY, None).await }
    };
    match delete(force).await {
        Ok(_) => {}
        Err(error) if error.daemon_code() == Some(Code::HostBusy) && ui.can_ask() => {
            ui.note(&error.message);
            if !ui.ask("End its work and remove it?").await? {
                ui.say("Cancelled.")?;
                return Ok((Done::Untouched, None));
            }
            delete(true).await?;
        }
        Err(error) => return Err(error),
    }
    if !ui.json {
        let went = goes.map_or_else(String::new, |goes| format!(" {goes}"));
        let default = match is_default {
            true => " It was the default host: commands without --host will use local Docker.",
            false => "",
        };
        ui.say(&format!("Removed: Host '{name}' removed.{went}{default}"))?;
    }
    let kept = still_kept(client, name).await;
    let about = leading.about(is_default, kept.as_ref());
    if !ui.json {
        if let Some(error) = kept {
            let hint = error.hint.map_or_else(String::new, |hint| format!("\nhint: {hint}"));
            ui.note(&format!("Warning: [{name}] {}{hint}", error.message));
        }
        if let Some(reached) = reached.filter(|_| force) {
            ui.note(&format!("Warning: {reached}"));
        }
    }
    if let Some(docker_context) = docker::own_context(client, name) {
        docker_context.remove(context)?;
    }
    Ok((Done::Removed, about))
}

/// What leads to a host, or comes from one, and goes with it.
struct Leading {
    forwards: Vec<Forward>,
    grants: Vec<Grant>,
    has_docker_socket: bool,
}

impl Leading {
    async fn to(client: &Client, name: &HostName) -> Result<Self, CliError> {
        let ForwardList { mut forwards, .. } = client.get("/v1/forwards").await?.parse()?;
        forwards.retain(|forward| forward.host == *name);
        let GrantList { mut grants } = client.get("/v1/grants").await?.parse()?;
        grants.retain(|grant| grant.host == *name);
        let has_docker_socket = client.directory().join(docker_socket_name(name)).exists();
        Ok(Self { forwards, grants, has_docker_socket })
    }

    /// Returns what there is in words, unless there is nothing.
    fn sentence(&self) -> Option<String> {
        let (forwards, grants) = (self.forwards.len(), self.grants.len());
        let counted = |what: &str, count: usize| match count {
            0 => None,
            1 => Some(format!("1 {what}")),
            more => Some(format!("{more} {what}s")),
        };
        let socket = self.has_docker_socket.then(|| "its Docker socket".to_owned());
        let all = [counted("forward", forwards), counted("grant", grants), socket];
        let mut all: Vec<String> = all.into_iter().flatten().collect();
        let last = all.pop()?;
        let is_one = forwards + grants + usize::from(self.has_docker_socket) == 1;
        let verb = if is_one { "goes" } else { "go" };
        let before = match all.is_empty() {
            true => String::new(),
            false => format!("{} and ", all.join(", ")),
        };
        Some(format!("With it {verb} {before}{last}."))
    }

    /// Returns what scripts are told of it, of a host that was the default, and of passwords that are still kept.
    fn about(&self, is_default: bool, kept: Option<&CliError>) -> Option<Value> {
        let mut about = serde_json::Map::new();
        if is_default {
            about.insert("default".to_owned(), json!(true));
        }
        if !self.forwards.is_empty() {
            about.insert("forwards".to_owned(), json!(self.forwards));
        }
        if !self.grants.is_empty() {
            about.insert("grants".to_owned(), json!(self.grants));
        }
        if let Some(error) = kept {
            about.insert("passwords_kept".to_owned(), json!(error.message));
        }
        (!about.is_empty()).then_some(Value::Object(about))
    }
}

/// Returns the names of the hosts that have a host among their jump hosts.
fn hosts_behind(name: &HostName, list: &HostList) -> Option<String> {
    let leads = |host: &&HostStatus| {
        let hops = host.config.jump_host.as_deref().unwrap_or_default();
        hops.split(',').any(|hop| hop.trim() == name.as_str())
    };
    let names: Vec<&str> = list.hosts.iter().filter(leads).map(|host| host.name.as_str()).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

/// Returns why passwords of a host that was removed may still be kept. The daemon forgets them by itself where it
/// needs nobody for that.
async fn still_kept(client: &Client, name: &HostName) -> Option<CliError> {
    let error = forget(client, name).await.err()?;
    // Of a keyring that shows nothing while it is locked nothing is known, which is no news.
    let is_known = !error.message.contains("the keyring is locked");
    // Whoever was asked for a passphrase may have left.
    let error = match error.code.as_str() {
        "interrupted" => {
            CliError::failed("its passwords are still kept: nobody gave the passphrase.")
                .hint(format!("occ host forget-password {name}"))
        }
        _ => error,
    };
    (error.daemon_code() != Some(Code::HostNotFound) && is_known).then_some(error)
}

/// Forgets a host's passwords.
async fn forget(client: &Client, name: &HostName) -> Result<Reply, CliError> {
    let path = host_path(name, "/password");
    let reply = client.request(Method::DELETE, &path, NO_BODY, None).await;
    reply.map_err(|error| {
        let again = format!("occ host forget-password {name}");
        let cure = kept_passwords(&error.message);
        let hint = match (error.daemon_code(), cure) {
            (Some(Code::InputNeeded), Some(cure)) if error.message.contains("the keyring ") => {
                format!("{cure}; then {again}")
            }
            (Some(Code::InputNeeded), cure) => {
                let asks = match was_asked(&error.message) {
                    true => format!("{again} asks again"),
                    false => format!("on a terminal: {again} asks"),
                };
                cure.map_or(asks.clone(), |cure| format!("{asks}; {cure}"))
            }
            (_, Some(cure)) => cure,
            (_, None) => return error,
        };
        error.hint(hint)
    })
}

async fn forget_password(context: &Context<'_>, name: &HostName) -> Result<u8, CliError> {
    let ui = context.ui;
    let client = context.client().await?;
    let forgetting = async {
        let forgotten: Forgotten = forget(&client, name).await?.parse()?;
        let text = match forgotten.passwords {
            0 if forgotten.keyring => "No password is kept.".to_owned(),
            0 => "No password is kept in a file, and there is no keyring to look into.".to_owned(),
            1 => "Its password is forgotten.".to_owned(),
            more => format!("{more} passwords are forgotten."),
        };
        if !ui.json {
            ui.say(&format!("[{name}] {text}"))?;
        }
        let done = if forgotten.passwords == 0 { Done::Absent } else { Done::Removed };
        Ok((done, Some(json!(forgotten))))
    };
    removal::one(ui, name.as_str(), forgetting).await
}

/// What is listed of `GET /v1/hosts`: reading all that is known of each link takes as long as the rest of the command.
#[derive(Deserialize)]
struct Listed {
    hosts: Vec<ListedHost>,
    default_host: Option<HostName>,
    #[serde(default)]
    warnings: Vec<String>,
}

#[derive(Deserialize)]
struct ListedHost {
    name: HostName,
    config: HostConfig,
}

async fn list(
    context: &Context<'_>,
    group: Option<&str>,
    names_only: bool,
) -> Result<u8, CliError> {
    let ui = context.ui;
    let reply = context.client().await?.get("/v1/hosts").await?;
    let list: Listed = reply.parse()?;
    let hosts: Vec<&ListedHost> = list
        .hosts
        .iter()
        .filter(|host| {
            group.is_none_or(|group| host.config.groups.iter().any(|g| g.as_str() == group))
        })
        .collect();
    if ui.json {
        if group.is_none() {
            ui.document(&reply.body)?;
        } else {
            // The daemon's own values, so that keys this program does not know stay.
            let mut document: serde_json::Value = reply.parse()?;
            if let Some(all) = document.get_mut("hosts").and_then(|hosts| hosts.as_array_mut()) {
                all.retain(|one| {
                    hosts.iter().any(|host| one.get("name") == Some(&json!(host.name)))
                });
            }
            ui.value(&document)?;
        }
        return Ok(0);
    }
    list.warnings.iter().for_each(|warning| ui.warn(warning));
    if names_only || ui.quiet {
        let names: String = hosts.iter().map(|host| format!("{}\n", host.name)).collect();
        ui.print(&names)?;
        return Ok(0);
    }
    if hosts.is_empty() {
        match group.filter(|_| !list.hosts.is_empty()) {
            Some(group) => ui.print(&format!("No hosts in group '{}'.\n", sanitize(group)))?,
            None => {
                ui.print("No hosts configured.\n")?;
                ui.note("hint: occ setup, or occ host add NAME USER@ADDRESS");
            }
        }
        return Ok(0);
    }
    ui.print(&list_table(&hosts, list.default_host.as_ref()))?;
    Ok(0)
}

fn list_table(hosts: &[&ListedHost], default_host: Option<&HostName>) -> String {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let mut table = Table::new(&["NAME", "HOSTNAME", "USER", "PORT", "GROUPS", "DEFAULT"]);
    for host in hosts {
        let config = &host.config;
        let groups = (!config.groups.is_empty()).then(|| sanitize(&config.groups.join(", ")));
        let default = default_host == Some(&host.name);
        table.row(vec![
            host.name.to_string(),
            config.hostname.to_string(),
            or_dash(config.user.as_ref().map(ToString::to_string)),
            or_dash(config.port.map(|port| port.to_string())),
            or_dash(groups),
            if default { "*".to_owned() } else { String::new() },
        ]);
    }
    table.lines().iter().map(|line| format!("{line}\n")).collect()
}

async fn show_one(context: &Context<'_>, name: &HostName) -> Result<u8, CliError> {
    let ui = context.ui;
    let client = context.client().await?;
    let reply = client.get("/v1/hosts").await?;
    let list: HostList = reply.parse()?;
    // From the list, since asking for one host would dial it.
    let mut hosts = list.hosts.iter().chain(&list.via);
    let host =
        hosts.find(|host| host.name == *name).ok_or_else(|| CliError::host_not_found(name))?;
    let config = &host.config;
    let default = list.default_host.as_ref() == Some(name);
    if ui.json {
        let mut document = serde_json::to_value(config)
            .map_err(|error| CliError::failed(format!("the host cannot be written: {error}")))?;
        if let Some(keys) = document.as_object_mut() {
            keys.insert("name".to_owned(), json!(name));
            keys.insert("default".to_owned(), json!(default));
        }
        ui.value(&document)?;
        return Ok(0);
    }
    let or_none = |text: Option<&str>| text.map_or_else(|| "-".to_owned(), sanitize);
    let port = config.port.map(|port| port.to_string());
    let groups = (!config.groups.is_empty()).then(|| config.groups.join(", "));
    let rows = [
        ("Name", name.to_string()),
        ("Hostname", config.hostname.to_string()),
        ("User", or_none(config.user.as_ref().map(|user| user.as_str()))),
        ("Port", or_none(port.as_deref())),
        ("Identity file", or_none(config.identity_file.as_deref())),
        ("Jump host", or_none(config.jump_host.as_deref())),
        ("Groups", or_none(groups.as_deref())),
        ("Description", or_none(config.description.as_deref())),
        ("Default", if default { "yes" } else { "no" }.to_owned()),
    ];
    let text: String = rows.iter().map(|(label, value)| format!("{label:<14} {value}\n")).collect();
    ui.print(&text)?;
    Ok(0)
}

async fn test(context: &Context<'_>, name: Option<HostName>) -> Result<u8, CliError> {
    let ui = context.ui;
    let name = match (name, context.group().await?) {
        (None, Some(group)) => return test_many(context, &group).await,
        (Some(name), None) => name,
        (Some(_), Some(group)) => {
            let option = group.selection.option();
            return Err(CliError::usage(format!("{option} cannot be used with a host's name.")));
        }
        (None, None) => {
            return Err(CliError::usage("occ host test needs a host's name, --group or --all.")
                .hint("occ host list shows the available hosts"));
        }
    };
    let name = &name;
    let client = context.client().await?;
    let path = host_path(name, "/test");
    let reply = with_note(ui, &format!("[{name}] testing …"), client.post(&path)).await?;
    let report: TestReport = reply.parse()?;
    let is_stopped =
        report.problem.as_ref().is_some_and(|problem| problem.code == Code::ShuttingDown);
    let code = match (report.ssh_ok, ui.quiet) {
        (true, _) => 0,
        (false, true) => FAILED,
        (false, false) if is_stopped => DAEMON,
        (false, false) => CONNECTION,
    };
    if ui.json {
        ui.document(&reply.body)?;
    } else if !ui.quiet {
        ui.print(&show::steps(ui, &report))?;
        if let Some(hint) = test_hint(&client, &report).await {
            ui.note(&format!("hint: {hint}"));
        }
        install_docker::offer(context, &client, &report).await?;
    }
    Ok(code)
}

/// Tests each host of a group.
async fn test_many(context: &Context<'_>, group: &Group) -> Result<u8, CliError> {
    let ui = context.ui;
    let work = |host: HostName| async move {
        let tested = async {
            let path = host_path(&host, "/test");
            let reply = group.client.request_among(Method::POST, &path, NO_BODY).await?;
            let report: TestReport = reply.parse()?;
            if ui.json {
                ui.print(&of_host(&host, &reply.body))?;
            } else if !ui.quiet {
                ui.print(&show::steps(ui, &report))?;
            }
            Ok(report)
        };
        match tested.await {
            Ok(TestReport { ssh_ok: true, .. }) => Ok(End::Ok),
            Ok(TestReport { problem: Some(problem), .. }) => {
                Ok(End::Failed(cause(&host, &problem.into())))
            }
            Ok(_) => Ok(End::Failed("the test failed".to_owned())),
            Err(error) => group.failed(ui, &host, &error),
        }
    };
    let done = group.each(ui, OnSignal::Leave, work).await?;
    done.conclude(ui)
}

/// Returns what to type after a test that failed.
async fn test_hint(client: &Client, report: &TestReport) -> Option<String> {
    let problem = report.problem.as_ref().or(report.docker_problem.as_ref())?;
    let (code, detail) = (problem.code, problem.detail.as_str());
    // There is none to ask more.
    if code == Code::ShuttingDown {
        return Some(START.to_owned());
    }
    // It is offered, in words of its own.
    if installing_helps(detail) {
        return None;
    }
    let has_own = [PROXY_COMMAND, NO_WAY_THROUGH].iter().any(|words| detail.contains(words));
    if matches!(code, Code::HostUnreachable | Code::NotSsh) && !has_own {
        return Some(match &problem.hop {
            Some(hop) => format!("occ host test {hop} shows where it stops"),
            // The general hint would name this very command.
            None => after_test(report.name.as_str()),
        });
    }
    // Another daemon than the one that has told it knows nothing of it.
    let reply = client.get_once_from_memory("/v1/hosts").await.ok()?;
    let list: HostList = reply.parse().ok()?;
    let blamed = problem.hop.as_ref().unwrap_or(&report.name);
    let host = list.hosts.iter().chain(&list.via).find(|host| host.name == *blamed)?;
    hint_for(code, &host.name, &host.config, None, detail)
}

async fn default(context: &Context<'_>, name: Option<DefaultArg>) -> Result<u8, CliError> {
    let ui = context.ui;
    let client = context.client().await?;
    const PATH: &str = "/v1/default-host";
    match name {
        None => {
            let reply = client.get(PATH).await?;
            let default: DefaultHost = reply.parse()?;
            if ui.json {
                return ui.document(&reply.body).map(|()| 0);
            }
            if let Some(name) = &default.name {
                let list: HostList = client.get("/v1/hosts").await?.parse()?;
                if !list.hosts.iter().any(|host| host.name == *name) {
                    ui.note(&format!("Warning: there is no host '{name}'."));
                    ui.note("hint: occ host default NAME, or occ host default none");
                }
            }
            let text = match (default.name, ui.quiet) {
                (Some(name), true) => format!("{name}\n"),
                (Some(name), false) => format!("Default host: {name}\n"),
                (None, true) => "local\n".to_owned(),
                (None, false) => "Default host: local (local Docker)\n".to_owned(),
            };
            ui.print(&text)?;
        }
        Some(DefaultArg::Host(name)) => {
            let body = DefaultHost { name: Some(name.clone()) };
            client.request(Method::PUT, PATH, Some(&body), None).await?;
            if ui.json {
                ui.value(&body)?;
            } else {
                ui.say(&format!("Updated: Default host set to '{name}'."))?;
            }
        }
        Some(DefaultArg::Cleared) => {
            client.request(Method::DELETE, PATH, NO_BODY, None).await?;
            if ui.json {
                ui.value(&DefaultHost { name: None })?;
            } else {
                ui.say("Updated: Default cleared. Commands will use local Docker.")?;
            }
        }
    }
    Ok(0)
}
