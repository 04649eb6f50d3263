//! `occ setup`: to a first host that works, by questions.

use hyper::Method;
use occ_proto::error::{Code, Problem};
use occ_proto::host::{AddHost, DefaultHost};
use occ_proto::name::Destination;
use occ_proto::status::{HostList, HostSaved};
use occ_proto::text::sanitize;
use occ_proto::{Address, HostConfig, HostName};

use super::host_import::{self, Choice};
use super::{Context, host_edit, service};
use crate::autostart;
use crate::cli::HostAddArgs;
use crate::client::Client;
use crate::error::{CONNECTION, CliError};
use crate::hint::{has_own_hint, hint_for};
use crate::output::with_note;
use crate::parse::parse_name;
use crate::terminal;

/// The most hosts that are tried here, one after the other; `occ host test --all` tries more at once.
const TRIED: usize = 8;

/// Runs the command and returns its exit code.
pub(crate) async fn run(context: &Context<'_>) -> Result<u8, CliError> {
    let ui = context.ui;
    if !ui.can_ask() {
        return Err(CliError::usage("occ setup asks questions, and here is nobody to ask.")
            .hint("occ host add NAME USER@ADDRESS; or occ host import --all --yes"));
    }
    let client = context.client().await?;
    let before: HostList = client.get("/v1/hosts").await?.parse()?;
    if !before.hosts.is_empty() {
        let count = before.hosts.len();
        ui.note(&format!("Configured already: {count}; occ host list shows them."));
    }
    let known = match host_import::known(context, &client).await {
        Ok(known) => known,
        Err(error) => {
            ui.note(&format!("Warning: {}", error.message));
            Vec::new()
        }
    };
    let choice = match host_import::free(&known).is_empty() {
        true => Choice::None,
        false => host_import::ask(context, &known).await?,
    };
    let working = match choice {
        Choice::Some(names) => from_ssh_config(context, &client, names).await?,
        Choice::Other(text) => {
            let shown = sanitize(&text);
            ui.note(&format!("~/.ssh/config names no host {shown}: it is taken for an address."));
            Box::pin(by_address(context, Some(text))).await?
        }
        Choice::None => Box::pin(by_address(context, None)).await?,
    };
    let Some(host) = working.first() else {
        let after: HostList = client.get("/v1/hosts").await?.parse()?;
        ui.note("hint: occ setup again, or occ host add NAME USER@ADDRESS");
        // Somebody who has hosts and adds none has not failed.
        return Ok(u8::from(after.hosts.is_empty() || after.hosts.len() > before.hosts.len()));
    };
    if before.default_host.is_none() {
        let default = DefaultHost { name: Some(host.clone()) };
        client.request(Method::PUT, "/v1/default-host", Some(&default), None).await?;
        ui.say(&format!("Commands without --host go to {host}: occ host default changes that."))?;
    }
    match autostart::systemd_units().await {
        Some(units) if units.installed => {}
        Some(_) if ui.ask("Have systemd start occd at login?").await? => {
            service::install(context, false).await?;
        }
        _ => {
            ui.say("occd starts with the first occ. To have it from login on: occ daemon install")?;
        }
    }
    ui.say(&format!(
        "Next:\n  occ status --all\n  occ exec --host {host} -- uptime\n  occ shell --host {host}"
    ))?;
    Ok(0)
}

/// Tries hosts of ssh_config, adds them as [`added`] does, and returns those that work.
async fn from_ssh_config(
    context: &Context<'_>,
    client: &Client,
    names: Vec<String>,
) -> Result<Vec<HostName>, CliError> {
    let ui = context.ui;
    let mut working = Vec::new();
    for (before, name) in names.iter().take(TRIED).enumerate() {
        match added(context, client, name).await {
            Ok(host) => working.extend(host),
            // A signal, maybe while a question was open: nobody has said what is to become of these.
            Err(error) => {
                let left: Vec<&str> = names.iter().skip(before).map(String::as_str).collect();
                ui.note(&format!("Left out: {}.", host_import::listed(&left)));
                return Err(error);
            }
        }
    }
    let rest = names.into_iter().skip(TRIED).collect();
    let done = host_import::import(client, rest, Vec::new()).await?;
    host_import::tell_skipped(context, &done.skipped);
    if !done.added.is_empty() {
        let count = done.added.len();
        ui.note(&format!("{count} more are added and not tried: occ host test --all tries them."));
    }
    Ok(working)
}

/// Tries a host of ssh_config until it works, somebody keeps it as it is, or it is left out, as it is when nobody says
/// anything. Not before one of the first two is it in hosts.json. Returns it if it works.
async fn added(
    context: &Context<'_>,
    client: &Client,
    name: &str,
) -> Result<Option<HostName>, CliError> {
    let ui = context.ui;
    let skipped = |why: &str| {
        ui.note(&format!("Skipped: {} ({}).", sanitize(name), sanitize(why)));
        Ok(None)
    };
    let address = Address::new(name).map_err(|error| error.to_string());
    let (host, address) = match (parse_name(name), address) {
        (Ok(host), Ok(address)) => (host, address),
        (Err(error), _) | (_, Err(error)) => return skipped(&error),
    };
    // Its alias and no more, as an import has it: what ssh_config says of it applies, also when it changes.
    let config = HostConfig::new(address);
    let mut body = AddHost { name: host.clone(), config, verify: true, force: false };
    let note = format!("[{host}] connecting …");
    loop {
        let sent = client.request(Method::POST, "/v1/hosts", Some(&body), None);
        let saved = tokio::select! {
            saved = with_note(ui, &note, sent) => saved,
            // Whoever has asked a question catches signals from then on.
            error = terminal::ended() => Err(error),
        };
        let problem = match saved {
            Ok(reply) => {
                if let Some(test) = reply.parse::<HostSaved>()?.test {
                    ui.say(&host_edit::connected(context, &test))?;
                    return Ok(Some(host));
                }
                ui.note(&format!("[{host}] is kept, and does not work yet."));
                ui.note(&format!("hint: occ host test {host} shows where it stops"));
                return Ok(None);
            }
            Err(CliError { exit: CONNECTION, problem: Some(problem), .. }) => problem,
            Err(error) => match error.daemon_code() {
                Some(Code::HostExists) => return skipped("a host of this name is configured"),
                Some(Code::PolicyDenied) => return skipped(&error.message),
                _ => return Err(error),
            },
        };
        ui.note(&format!("[{host}] ✗ {}", sanitize(&problem.detail)));
        if let Some(hint) = before_it_is_kept(&host, &body.config, &problem) {
            ui.note(&format!("hint: {hint}"));
        }
        match ask_whether_kept(context, &host).await? {
            Failed::Again => {}
            Failed::Keep => body.verify = false,
            Failed::LeaveOut => {
                ui.note(&format!("[{host}] is left out."));
                return Ok(None);
            }
        }
    }
}

/// Returns what to do about a host of ssh_config that occ does not know yet.
fn before_it_is_kept(host: &HostName, config: &HostConfig, problem: &Problem) -> Option<String> {
    // What occ's own test shows, ssh does, too.
    if matches!(problem.code, Code::HostUnreachable | Code::NotSsh)
        && !has_own_hint(&problem.detail)
    {
        return Some(format!("ssh -v {host} shows where it stops"));
    }
    let hint = hint_for(problem.code, host, config, None, &problem.detail)?;
    let again = ["reconnect", "connect"]
        .into_iter()
        .find_map(|verb| hint.strip_suffix(&format!("; then occ {verb} --host {host}")));
    Some(match again {
        Some(cure) => format!("{cure}; then try again"),
        None if hint.contains("occ ") => format!("once it is kept: {hint}"),
        None => hint,
    })
}

/// What is to become of a host that does not work.
enum Failed {
    Keep,
    Again,
    LeaveOut,
}

async fn ask_whether_kept(context: &Context<'_>, name: &HostName) -> Result<Failed, CliError> {
    let question = format!("[{name}] does not work: [k]eep it, [t]ry again, or [l]eave it out?");
    loop {
        match context.ui.ask_text(&question).await?.as_deref() {
            Some("k" | "keep") => break Ok(Failed::Keep),
            Some("t" | "try" | "try again" | "again") => break Ok(Failed::Again),
            None | Some("l" | "leave" | "leave out") => break Ok(Failed::LeaveOut),
            Some(_) => context.ui.note("Type k, t or l."),
        }
    }
}

/// Asks for an address and a name until a host works or nothing more is given, and returns the host.
async fn by_address(
    context: &Context<'_>,
    mut given: Option<String>,
) -> Result<Vec<HostName>, CliError> {
    let ui = context.ui;
    loop {
        let text = match given.take() {
            Some(text) => Some(text),
            None => {
                ui.ask_text("A server's address, as [user@]name[:port] (Enter for none):").await?
            }
        };
        let Some(text) = text else { return Ok(Vec::new()) };
        let to: Destination = match text.parse() {
            Ok(to) => to,
            Err(error) => {
                ui.note(&format!("Error: {}", sanitize(&format!("{error}"))));
                continue;
            }
        };
        let Some(name) = ask_name(context, suggestion(&to)).await? else { return Ok(Vec::new()) };
        // One that does not work is not kept, and Docker is for later.
        let args = HostAddArgs { yes: true, ..HostAddArgs::new(name.clone(), to) };
        let added = tokio::select! {
            added = Box::pin(host_edit::add(context, args)) => added,
            // Whoever has asked a question catches signals from then on. What is not verified is not saved.
            error = terminal::ended() => Err(error),
        };
        match added {
            Ok(_) => break Ok(vec![name]),
            // The daemon has gone, or somebody wants to leave.
            Err(error) if error.problem.is_none() => break Err(error),
            Err(error) => {
                ui.note(&format!("Error: {}", error.message));
                if let Some(hint) = &error.hint {
                    ui.note(&format!("hint: {hint}"));
                }
            }
        }
    }
}

async fn ask_name(
    context: &Context<'_>,
    suggested: Option<HostName>,
) -> Result<Option<HostName>, CliError> {
    let ui = context.ui;
    loop {
        let question = match &suggested {
            Some(name) => format!("A name for it [{name}]:"),
            None => "A name for it:".to_owned(),
        };
        let text = ui.ask_text(&question).await?;
        let Some(text) = text.or_else(|| suggested.as_ref().map(ToString::to_string)) else {
            return Ok(None);
        };
        match parse_name(&text) {
            Ok(name) => return Ok(Some(name)),
            Err(error) => ui.note(&format!("Error: {}", sanitize(&error))),
        }
    }
}

/// Returns a name for an address: the first part of a DNS name.
fn suggestion(to: &Destination) -> Option<HostName> {
    let address = to.address.as_str();
    let first = address.split('.').next().unwrap_or(address);
    let is_number = first.chars().all(|letter| letter.is_ascii_digit()) || address.contains(':');
    parse_name(if is_number { return None } else { first }).ok()
}
