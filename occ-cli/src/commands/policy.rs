//! `occ policy`: what may be done on a host; `occ grant`: sockets that may do little.

use std::os::unix::ffi::OsStringExt as _;

use hyper::Method;
use jiff::Timestamp;
use occ_proto::policy::{
    Action, Capability, Grant, GrantList, GrantRequest, PolicyCheck, PolicyVerdict, PolicyView,
    RuleView,
};
use occ_proto::text::sanitize;

use super::Context;
use crate::cli::{GrantArgs, GrantCommand, PolicyCheckArgs, PolicyCommand};
use crate::client::segment;
use crate::duration::{seconds_between, two_units};
use crate::error::{CONNECTION, CliError, DENIED};
use crate::output::removal::{self, Done};
use crate::output::table::Table;

/// Runs `occ policy` and returns its exit code.
pub(crate) async fn run(context: &Context<'_>, command: PolicyCommand) -> Result<u8, CliError> {
    match command {
        PolicyCommand::Show => show(context).await,
        PolicyCommand::Check(args) => check(context, args).await,
    }
}

async fn show(context: &Context<'_>) -> Result<u8, CliError> {
    let ui = context.ui;
    let (client, place) = context.client_and_place().await?;
    let reply = client.get_slow(&place.path("/policy")).await?;
    if ui.json {
        return ui.document(&reply.body).map(|()| 0);
    }
    let view: PolicyView = reply.parse()?;
    if !view.restricts && view.system.is_empty() {
        ui.say(&format!("{}No policy is set: everything may be done.", place.prefix()))?;
        return Ok(0);
    }
    let mut lines = Vec::new();
    if view.restricts {
        let defaults = [
            ("default", view.default.as_str().to_owned()),
            ("docker", of_docker(view.docker, view.docker_read)),
            ("forward", view.forward.as_str().to_owned()),
        ];
        lines.extend(lines_of(view.root.as_deref(), view.read_only, &defaults, &view.rules));
    }
    for system in &view.system {
        lines.push(format!("system     {}, which counts as well", system.file));
        let defaults = [
            ("default", system.default.as_str().to_owned()),
            ("docker", of_docker(system.docker, system.docker_read)),
            ("forward", system.forward.as_str().to_owned()),
        ];
        // What it leaves alone is not worth a line.
        let defaults = defaults.into_iter().filter(|(_, what)| what != Action::Allow.as_str());
        let defaults: Vec<_> = defaults.collect();
        if let Some(allow) = &system.allow {
            lines.push(format!("allow      {}", allow.join(", ")));
        }
        if !system.deny.is_empty() {
            lines.push(format!("deny       {}", system.deny.join(", ")));
        }
        if !system.off.is_empty() {
            lines.push(format!("off        {}", system.off.join(", ")));
        }
        lines.extend(lines_of(system.root.as_deref(), system.read_only, &defaults, &system.rules));
    }
    let text: String =
        lines.iter().map(|line| format!("{}{}\n", place.prefix(), sanitize(line))).collect();
    ui.print(&text)?;
    Ok(0)
}

/// Returns what is done about Docker in words: changes, and reading where that differs.
fn of_docker(changes: Action, reading: Option<Action>) -> String {
    match (changes, reading) {
        (Action::Deny, Some(Action::Allow)) => "read only".to_owned(),
        (_, Some(reading)) if reading != changes => {
            format!("{}, reading {}", changes.as_str(), reading.as_str())
        }
        _ => changes.as_str().to_owned(),
    }
}

/// Returns a policy in lines.
fn lines_of(
    root: Option<&str>,
    read_only: bool,
    defaults: &[(&str, String)],
    rules: &[RuleView],
) -> Vec<String> {
    let mut lines: Vec<String> =
        defaults.iter().map(|(key, what)| format!("{key:<10} {what}")).collect();
    if read_only {
        lines.insert(0, "read_only  true".to_owned());
    }
    if let Some(root) = root {
        lines.insert(0, format!("root       {root}"));
    }
    for rule in rules {
        let mut line = format!("{:<5}", rule.action.as_str());
        match (&rule.program, rule.what.is_empty()) {
            (Some(program), _) => line.push_str(&format!(" program {program:?}")),
            (None, true) => line.push_str(" everything"),
            (None, false) => {
                let words: Vec<&str> = rule.what.iter().map(|what| what.as_str()).collect();
                line.push_str(&format!(" {}", words.join(", ")));
            }
        }
        if let Some(args) = &rule.args {
            line.push_str(&format!(" args {args:?}"));
        }
        if !rule.client.is_empty() {
            let words: Vec<&str> = rule.client.iter().map(|kind| kind.as_str()).collect();
            line.push_str(&format!(" for {}", words.join(", ")));
        }
        lines.push(format!("rule       {line}  ({})", rule.at));
    }
    lines
}

async fn check(context: &Context<'_>, args: PolicyCheckArgs) -> Result<u8, CliError> {
    let ui = context.ui;
    let PolicyCheckArgs { client: kind, what, shell, env, argv } = args;
    if argv.is_empty() && what.is_none_or(|what| what == Capability::Exec) {
        return Err(CliError::usage("Name a command to check, or --what.")
            .hint("occ policy check --host NAME -- rm -rf build"));
    }
    let mut request =
        PolicyCheck { what, client: kind, env: env.into_iter().collect(), ..Default::default() };
    if shell {
        let words: Vec<String> =
            argv.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        request.shell = Some(words.join(" "));
    } else {
        request.argv = argv.into_iter().map(|word| word.into_vec().into()).collect();
    }
    let (client, place) = context.client_and_place().await?;
    let path = place.path("/policy/check");
    let reply = client.request(Method::POST, &path, Some(&request), None).await?;
    let verdict: PolicyVerdict = reply.parse()?;
    if ui.json {
        ui.document(&reply.body)?;
    } else {
        let why = sanitize(&verdict.why);
        ui.say(&format!("{}{}: {why}", place.prefix(), verdict.action.as_str()))?;
    }
    Ok(match verdict.action {
        Action::Allow => 0,
        Action::Ask => CONNECTION,
        Action::Deny => DENIED,
    })
}

/// Runs `occ grant` and returns its exit code.
pub(crate) async fn grant(context: &Context<'_>, args: GrantArgs) -> Result<u8, CliError> {
    match args.command {
        Some(_) if args.says_something() => {
            Err(CliError::usage("What a new grant is to give does not go with list and revoke.")
                .hint("occ grant --help"))
        }
        Some(GrantCommand::List) => list(context).await,
        Some(GrantCommand::Revoke { name }) => {
            let client = context.client().await?;
            let path = format!("/v1/grants/{}", segment(&name));
            let revoking = async {
                client.request(Method::DELETE, &path, None::<&()>, None).await?;
                if !context.ui.json {
                    context.ui.say(&format!("The grant {} has ended.", sanitize(&name)))?;
                }
                Ok((Done::Removed, None))
            };
            removal::one(context.ui, &name, revoking).await
        }
        None => make(context, args).await,
    }
}

async fn make(context: &Context<'_>, args: GrantArgs) -> Result<u8, CliError> {
    let ui = context.ui;
    let (false, Some(ttl_ms)) = (args.allow.is_empty(), args.ttl) else {
        return Err(CliError::usage("A grant needs --allow and --ttl.")
            .hint("occ grant --host NAME --allow read,exec:git --ttl 2h"));
    };
    let (client, host, _) = context.client_and_host("grant").await?;
    let GrantArgs { allow, root, name, any_uid, .. } = args;
    let request = GrantRequest { host, allow, ttl_ms, root, name, any_uid };
    let reply = client.request(Method::POST, "/v1/grants", Some(&request), None).await?;
    if ui.json {
        return ui.document(&reply.body).map(|()| 0);
    }
    let grant: Grant = reply.parse()?;
    if ui.quiet {
        return ui.print(&format!("{}\n", sanitize(&grant.socket))).map(|()| 0);
    }
    ui.print(&format!("{}\n", sanitize(&grant.socket)))?;
    ui.note(&format!(
        "The grant {} for {} ends {}: occ grant revoke {} ends it now.",
        grant.name, grant.host, grant.ends_at, grant.name
    ));
    Ok(0)
}

async fn list(context: &Context<'_>) -> Result<u8, CliError> {
    let ui = context.ui;
    let client = context.client().await?;
    let mut list: GrantList = client.get("/v1/grants").await?.parse()?;
    if let Some(host) = context.given_host() {
        list.grants.retain(|grant| grant.host == *host);
    }
    if ui.json {
        return ui.value(&list).map(|()| 0);
    }
    if list.grants.is_empty() {
        ui.say("There are no grants.")?;
        return Ok(0);
    }
    let now = Timestamp::now();
    let mut table = Table::new(&["NAME", "HOST", "GIVES", "ROOT", "ENDS IN", "SOCKET"]);
    for grant in &list.grants {
        let gives: Vec<String> = grant.allow.iter().map(ToString::to_string).collect();
        table.row(vec![
            grant.name.clone(),
            grant.host.to_string(),
            sanitize(&gives.join(",")),
            sanitize(grant.root.as_deref().unwrap_or("-")),
            two_units(seconds_between(now, grant.ends_at)),
            sanitize(&grant.socket),
        ]);
    }
    for line in table.lines() {
        ui.say(&line)?;
    }
    Ok(0)
}
