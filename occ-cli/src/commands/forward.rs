//! `occ forward`: ports and sockets of this machine that lead to hosts, and of hosts that lead here.

use hyper::Method;
use occ_proto::HostName;
use occ_proto::error::{Code, Problem};
use occ_proto::forward::{
    AddForward, Direction, Endpoint, Forward, ForwardList, ForwardState, Service, Spec,
};
use occ_proto::text::sanitize;
use serde_json::json;

use super::Context;
use crate::cli::{ForwardAddArgs, ForwardCommand};
use crate::client::Client;
use crate::error::CliError;
use crate::output::host::bytes;
use crate::output::removal::{self, Deed, Done};
use crate::output::table::Table;
use crate::output::{Colour, Ui, with_note};
use crate::target::Target;

/// Runs the command and returns its exit code. `all` is `--all`.
pub(crate) async fn run(
    context: &Context<'_>,
    command: &ForwardCommand,
    all: bool,
) -> Result<u8, CliError> {
    match command {
        ForwardCommand::Add(args) => add(context, args).await,
        ForwardCommand::List => list(context).await,
        ForwardCommand::Remove { which } => match (which, all) {
            (Some(which), false) => remove(context, which).await,
            (None, true) => remove_all(context).await,
            _ => Err(CliError::usage(
                "A forward to remove is named by its port, path or ID, or --all.",
            )
            .hint("occ forward list shows them")),
        },
    }
}

async fn add(context: &Context<'_>, args: &ForwardAddArgs) -> Result<u8, CliError> {
    let of = |direction, texts: &[String]| {
        let each = texts.iter().map(move |text| (direction, text.clone()));
        each.collect::<Vec<_>>()
    };
    let mut wanted = Vec::new();
    for (direction, text) in [
        of(Direction::Local, &args.local_forward),
        of(Direction::Remote, &args.remote_forward),
        of(Direction::Dynamic, &args.dynamic_forward),
    ]
    .concat()
    {
        // All are looked at before the first is made.
        let spec = Spec::parse(direction, &text, args.public)
            .map_err(|error| CliError::usage(error.to_string()))?;
        wanted.push((spec, text));
    }
    let (client, host, source) = context.client_and_host("forward add").await?;
    for (spec, text) in wanted {
        match add_one(context, &client, &host, (&spec, text), args.public).await {
            Ok(()) => {}
            Err(error) => {
                let error = super::explain(context, &client, &host, source, error).await;
                return Err(with_next_command(&host, &spec, args.public, error));
            }
        }
    }
    Ok(0)
}

async fn add_one(
    context: &Context<'_>,
    client: &Client,
    host: &HostName,
    (spec, text): (&Spec, String),
    public: bool,
) -> Result<(), CliError> {
    let ui = context.ui;
    let mut request = AddForward { host: host.to_string(), public, ..AddForward::default() };
    match spec.direction {
        Direction::Local => request.local = Some(text),
        Direction::Remote => request.remote = Some(text),
        Direction::Dynamic => request.dynamic = Some(text),
    }
    let note = format!("[{host}] connecting …");
    let adding = client.request(Method::POST, "/v1/forwards", Some(&request), None);
    let reply = with_note(ui, &note, adding).await?;
    let forward: Forward = reply.parse()?;
    if ui.json {
        ui.document(&reply.body)?;
    } else if ui.quiet {
        ui.print(&format!("{}\n", forward.listen))?;
    } else {
        ui.say(&format!("[{host}] {}", sentence(&forward)))?;
    }
    if forward.state == ForwardState::Waiting {
        ui.note(&format!("[{host}] is not connected: the forward is kept, and waits for that."));
        ui.note(&format!("hint: occ connect --host {host}"));
    }
    if let Some(error) = &forward.last_error {
        ui.warn(error);
    } else if forward.listen.is_public() {
        let whose =
            if forward.direction == Direction::Remote { "the host" } else { "this machine" };
        ui.warn(&format!("whoever reaches {whose} may connect to {}.", forward.listen));
    }
    Ok(())
}

fn sentence(forward: &Forward) -> String {
    let listen = &forward.listen;
    match (&forward.to, forward.direction) {
        (Some(to), Direction::Remote) => format!("{listen} there leads to {to} here."),
        (Some(to), _) => format!("{listen} here leads to {to} there."),
        (None, Direction::Remote) => {
            format!("{listen} there speaks SOCKS; this machine connects.")
        }
        (None, _) => format!("{listen} here speaks SOCKS; the host connects."),
    }
}

/// The first port that is not root's alone.
const FIRST_OF_ALL: u16 = 1024;

/// Completes an error with the command that goes on from it.
fn with_next_command(host: &HostName, spec: &Spec, public: bool, error: CliError) -> CliError {
    let command_with = |address: &str, port: u16| {
        let listen = match address {
            "localhost" | "*" => port.to_string(),
            _ => Endpoint::Tcp { host: address.to_owned(), port }.to_string(),
        };
        let to = spec.to.as_ref().map_or_else(String::new, |to| format!(":{to}"));
        let public = if public { " -g" } else { "" };
        format!("occ forward add{public} {} {listen}{to} --host {host}", spec.direction.option())
    };
    let by = error.message.split_once("by the forward ");
    let id = by.and_then(|(_, rest)| rest.split_whitespace().next());
    let hint = match (error.daemon_code(), id, &spec.listen) {
        (Some(Code::LocalPortTaken), Some(id), _) => {
            format!("occ forward remove {id} takes that away")
        }
        (Some(Code::LocalPortTaken), None, Endpoint::Tcp { host: address, .. }) => {
            format!("{} takes a free port", command_with(address, 0))
        }
        (Some(Code::ForwardFailed), _, Endpoint::Tcp { host: address, port })
            if *port < FIRST_OF_ALL && error.message.contains("Permission denied") =>
        {
            // 8080 for 80, as is the custom.
            let command = command_with(address, 8000 + port);
            format!("ports below {FIRST_OF_ALL} are root's; {command}")
        }
        _ => return error,
    };
    error.hint(hint)
}

/// Returns the forwards, those of the host that is named, if one is.
async fn forwards(context: &Context<'_>, client: &Client) -> Result<ForwardList, CliError> {
    let mut list: ForwardList = client.get("/v1/forwards").await?.parse()?;
    // A default host chooses where to work, and not what is shown.
    match &context.named {
        Some(Target::Host(host, _)) => list.forwards.retain(|forward| forward.host == *host),
        Some(Target::Local) => list.forwards.clear(),
        _ => {}
    }
    Ok(list)
}

async fn list(context: &Context<'_>) -> Result<u8, CliError> {
    let ui = context.ui;
    let client = context.client().await?;
    let list = forwards(context, &client).await?;
    if ui.json {
        return ui.value(&list).map(|()| 0);
    }
    if ui.quiet {
        for forward in &list.forwards {
            ui.print(&format!("{}\n", forward.id))?;
        }
        return Ok(0);
    }
    if list.forwards.is_empty() {
        ui.say("No forwards.")?;
        return Ok(0);
    }
    for line in table(ui, &list.forwards).lines() {
        ui.print(&format!("{line}\n"))?;
    }
    Ok(0)
}

fn table(ui: &Ui, forwards: &[Forward]) -> Table {
    let mut table = Table::new(&[
        "ID",
        "HOST",
        "LISTENS",
        "LEADS TO",
        "STATE",
        "OPEN",
        "IN",
        "OUT",
        "LAST ERROR",
    ]);
    for forward in forwards {
        let listens = match forward.direction {
            Direction::Remote => format!("{} there", forward.listen),
            _ => forward.listen.to_string(),
        };
        let leads = match (&forward.to, forward.service) {
            (None, _) if forward.direction == Direction::Remote => "SOCKS here".to_owned(),
            (None, _) => "SOCKS".to_owned(),
            (Some(to), Some(Service::Sandbox)) => format!("{to} (sandbox)"),
            (Some(to), Some(Service::Cockpit)) => format!("{to} (cockpit)"),
            (Some(to), None) if forward.direction == Direction::Remote => format!("{to} here"),
            (Some(to), None) => match &forward.session {
                Some(session) => format!("{to} (session {})", sanitize(session)),
                None => to.to_string(),
            },
        };
        let colour = match forward.state {
            ForwardState::Listening => Colour::Green,
            ForwardState::Waiting | ForwardState::Unknown => Colour::Yellow,
            ForwardState::Refused => Colour::Red,
        };
        table.row(vec![
            forward.id.clone(),
            forward.host.to_string(),
            listens,
            leads,
            ui.paint(colour, &format!("{:<9}", forward.state.as_str())),
            forward.connections.to_string(),
            bytes(forward.bytes_in),
            bytes(forward.bytes_out),
            forward.last_error.as_deref().map_or_else(String::new, sanitize),
        ]);
    }
    table
}

async fn remove(context: &Context<'_>, which: &str) -> Result<u8, CliError> {
    let client = context.client().await?;
    let list = forwards(context, &client).await?;
    let removing = async { take_away(context, &client, find(&list, which)?).await };
    removal::one(context.ui, which, removing).await
}

/// Returns the forward of that port, path or ID.
fn find<'a>(list: &'a ForwardList, which: &str) -> Result<&'a Forward, CliError> {
    let is_it = |forward: &&Forward| {
        let port = forward.listen.port().map(|port| port.to_string());
        forward.id == which || port.as_deref() == Some(which) || forward.listen.to_string() == which
    };
    let found: Vec<&Forward> = list.forwards.iter().filter(is_it).collect();
    match found.as_slice() {
        [] => {
            let text = format!("There is no forward '{}'.", sanitize(which));
            Err(Problem::new(404, Code::ForwardNotFound, text).into())
        }
        [one] => Ok(one),
        several => {
            let ids: Vec<&str> = several.iter().map(|forward| forward.id.as_str()).collect();
            let text = format!("{} are several forwards: {}.", sanitize(which), ids.join(", "));
            Err(CliError::failed(text).hint(format!("occ forward remove {}", ids[0])))
        }
    }
}

async fn remove_all(context: &Context<'_>) -> Result<u8, CliError> {
    let client = context.client().await?;
    let list = forwards(context, &client).await?;
    let own = list.forwards.iter().filter(|forward| forward.service.is_none());
    let own: Vec<_> = own.map(|forward| (forward.id.clone(), forward)).collect();
    if own.is_empty() && !context.ui.json {
        context.ui.say("No forwards.")?;
    }
    let take_away = async |forward: &Forward| take_away(context, &client, forward).await;
    removal::each(context.ui, own, take_away).await
}

async fn take_away(
    context: &Context<'_>,
    client: &Client,
    forward: &Forward,
) -> Result<Deed, CliError> {
    let path = format!("/v1/forwards/{}", forward.id);
    client.request(Method::DELETE, &path, None::<&()>, None).await?;
    if !context.ui.json {
        context.ui.say(&format!("[{}] Removed: {}", forward.host, sentence(forward)))?;
    }
    Ok((Done::Removed, Some(json!(forward))))
}
