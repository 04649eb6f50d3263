//! `occ setup`: to a first host that works, by questions.

use hyper::Method;
use occ_proto::error::Code;
use occ_proto::host::DefaultHost;
use occ_proto::name::Destination;
use occ_proto::status::{HostList, TestReport};
use occ_proto::text::sanitize;
use occ_proto::{HostConfig, HostName};

use super::host_import::{self, Choice};
use super::{Context, host_edit, service};
use crate::autostart;
use crate::cli::HostAddArgs;
use crate::client::{Client, host_path};
use crate::error::CliError;
use crate::hint::hint_for;
use crate::output::with_note;
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
    let free = host_import::free(&known);
    let choice = match free.is_empty() {
        true => Choice::None,
        false => host_import::ask(context, &free).await?,
    };
    let working = match choice {
        Choice::Some(names) => from_ssh_config(context, &client, names).await?,
        Choice::Other(text) => Box::pin(by_address(context, Some(text))).await?,
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

/// Adds hosts of ssh_config, tries them, and returns those that work.
async fn from_ssh_config(
    context: &Context<'_>,
    client: &Client,
    names: Vec<String>,
) -> Result<Vec<HostName>, CliError> {
    let ui = context.ui;
    let done = host_import::import(client, names, Vec::new()).await?;
    for one in &done.skipped {
        ui.note(&format!("Skipped: {} ({}).", sanitize(&one.name), sanitize(&one.why)));
    }
    let mut working = Vec::new();
    for name in done.added.iter().take(TRIED) {
        if tried(context, client, name).await? {
            working.push(name.clone());
        }
    }
    let rest = done.added.len().saturating_sub(TRIED);
    if rest > 0 {
        ui.note(&format!("{rest} more are added and not tried: occ host test --all tries them."));
    }
    Ok(working)
}

/// Tries a host that was added until it works, somebody keeps it as it is, or it is left out again, as it is when nobody
/// says anything. Returns whether it works.
async fn tried(context: &Context<'_>, client: &Client, name: &HostName) -> Result<bool, CliError> {
    let ui = context.ui;
    let (path, note) = (host_path(name, "/test"), format!("[{name}] connecting …"));
    loop {
        let tested = tokio::select! {
            tested = with_note(ui, &note, client.post(&path)) => tested,
            error = terminal::ended() => Err(error),
        };
        let report: TestReport = match tested {
            Ok(reply) => reply.parse()?,
            // A signal, maybe while a question was open: nobody has seen whether it works.
            Err(error) => {
                if let Err(why) = leave_out(context, client, name).await {
                    ui.note(&format!("[{name}] stays: {}", why.message));
                }
                return Err(error);
            }
        };
        let Some(problem) = &report.problem else {
            ui.say(&host_edit::connected(context, &report))?;
            return Ok(true);
        };
        ui.note(&format!("[{name}] ✗ {}", sanitize(&problem.detail)));
        let address = name.as_str().parse().ok();
        let hint = address.and_then(|address| {
            hint_for(problem.code, name, &HostConfig::new(address), None, &problem.detail)
        });
        let again = || format!("occ host test {name} shows where it stops");
        // The general hint for these would be this very test.
        let general = matches!(problem.code, Code::HostUnreachable | Code::NotSsh);
        // While the question is open it is there, for whoever does that in another terminal.
        ui.note(&format!("hint: {}", hint.filter(|_| !general).unwrap_or_else(again)));
        match ask_whether_kept(context, name).await {
            Ok(Failed::Again) => {}
            Ok(Failed::Keep) => {
                ui.note(&format!("[{name}] is kept, and does not work yet."));
                return Ok(false);
            }
            answer => {
                leave_out(context, client, name).await?;
                return answer.map(|_| false);
            }
        }
    }
}

/// Removes a host that does not work, or of which nobody has seen whether it does.
async fn leave_out(
    context: &Context<'_>,
    client: &Client,
    name: &HostName,
) -> Result<(), CliError> {
    client.request(Method::DELETE, &host_path(name, ""), None::<&()>, None).await?;
    context.ui.note(&format!("[{name}] is left out."));
    Ok(())
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
            Some(_) => {}
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
        match crate::parse::parse_name(&text) {
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
    crate::parse::parse_name(if is_number { return None } else { first }).ok()
}
