//! `occ start`, `stop`, `restart`, `update` and `cockpit`: the opencode sandbox on a host, or on this machine.

use hyper::Method;
use occ_proto::container::{
    ContainerStatus, OneTimePassword, StartRequest, StopRequest, UpdateRequest,
};
use occ_proto::error::Code;
use occ_proto::operation::{Did, Operation};
use occ_proto::text::sanitize;
use serde::Serialize;

use super::{Context, operations, rolling, sandbox_group};
use crate::cli::{RestartArgs, StartArgs, StopArgs, UpdateArgs, UpdateWhat};
use crate::client::Client;
use crate::error::CliError;
use crate::output::with_note;
use crate::place::Place;

/// What `--json` prints of a start: the operation, and the password that is in nothing else.
#[derive(Debug, Serialize)]
struct Started<'a> {
    #[serde(flatten)]
    operation: &'a Operation,
    #[serde(skip_serializing_if = "Option::is_none")]
    one_time_password: Option<&'a str>,
}

/// Returns that document.
pub(super) fn document(
    operation: &Operation,
    one_time_password: Option<&str>,
) -> Result<String, CliError> {
    serde_json::to_string(&Started { operation, one_time_password })
        .map_err(|error| CliError::failed(format!("the answer cannot be written: {error}")))
}

/// Begins an operation and follows it to its end.
pub(crate) async fn operate(
    context: &Context<'_>,
    client: &Client,
    place: &Place,
    verb: &str,
    body: &(impl Serialize + Sync),
) -> Result<Operation, CliError> {
    let path = place.path(&format!("/container/{verb}"));
    let note = format!("{}connecting …", place.prefix());
    let asked = client.request(Method::POST, &path, Some(body), None);
    let reply = match with_note(context.ui, &note, asked).await {
        Ok(reply) => reply,
        Err(error) => return Err(explained(context, client, place, error).await),
    };
    let begun: Operation = reply.parse()?;
    operations::follow(context, client, place, &begun.id).await
}

/// Returns an error in the words for its place.
pub(crate) async fn explained(
    context: &Context<'_>,
    client: &Client,
    place: &Place,
    error: CliError,
) -> CliError {
    match place {
        Place::Host(host, source) => super::explain(context, client, host, *source, error).await,
        Place::Local => error,
    }
}

/// Returns what is asked for.
pub(super) fn start_request(args: &StartArgs) -> StartRequest {
    StartRequest {
        port: args.port,
        mounts: args.mount.clone(),
        no_mounts: args.no_mounts,
        pull: args.pull_sandbox_image,
        yes: args.yes,
    }
}

/// Runs `occ start`.
pub(crate) async fn start(context: &Context<'_>, args: &StartArgs) -> Result<u8, CliError> {
    args.refuse_builds()?;
    let ui = context.ui;
    if let Some(group) = context.group().await? {
        return sandbox_group::start(context, args, &group).await;
    }
    let (client, place) = context.client_and_place().await?;
    let mut request = start_request(args);
    let mut operation = operate(context, &client, &place, "start", &request).await?;
    let needs_a_yes =
        operation.problem.as_ref().is_some_and(|problem| problem.code == Code::ConfirmationNeeded);
    if needs_a_yes && ui.can_ask() {
        if let Some(problem) = &operation.problem {
            ui.note(&sanitize(&problem.detail));
        }
        if !ui.ask("Make it anew? Its volumes stay").await? {
            ui.say("Cancelled.")?;
            return Ok(0);
        }
        request.yes = true;
        operation = operate(context, &client, &place, "start", &request).await?;
    }
    if let Some(problem) = &operation.problem {
        let error = operations::failed(&operation, problem);
        return Err(explained(context, &client, &place, error).await);
    }
    let url = operation.outcome.as_ref().and_then(|outcome| outcome.url.clone());
    let runs = operation
        .outcome
        .as_ref()
        .is_some_and(|outcome| matches!(outcome.did, Did::Started | Did::WasRunning));
    // It is told until somebody has used it: whoever began the start may have left.
    let password = match runs && (ui.json || !ui.quiet) {
        true => password(&client, &place).await,
        false => None,
    };
    let exposed = password.as_ref().and_then(|p| p.password.as_ref()).map(|p| p.expose());
    if ui.json {
        ui.document(document(&operation, exposed)?.as_bytes())?;
    } else if ui.quiet {
        if let Some(url) = &url {
            ui.print(&format!("{url}\n"))?;
        }
    } else {
        operations::finished(context, &place, &operation)?;
        if let Some(password) = exposed {
            say_password(context, &place, password)?;
        }
    }
    if args.open {
        open(context, &place, url.as_deref())?;
    }
    Ok(0)
}

/// Asks for the first password. That it cannot be asked for is no failure of the start.
async fn password(client: &Client, place: &Place) -> Option<OneTimePassword> {
    client.get_slow(&place.path("/container/password")).await.ok()?.parse().ok()
}

/// Says the first password, as long as nobody has used it.
pub(crate) async fn tell_password(
    context: &Context<'_>,
    client: &Client,
    place: &Place,
) -> Result<(), CliError> {
    match password(client, place).await.and_then(|answer| answer.password) {
        Some(password) => say_password(context, place, password.expose()),
        None => Ok(()),
    }
}

fn say_password(context: &Context<'_>, place: &Place, password: &str) -> Result<(), CliError> {
    let prefix = place.prefix();
    context.ui.say(&format!("{prefix}First login: one-time password {}", sanitize(password)))
}

/// Shows an address in the person's browser.
fn open(context: &Context<'_>, place: &Place, url: Option<&str>) -> Result<(), CliError> {
    let Some(url) = url else {
        return Err(CliError::failed(format!(
            "{}the sandbox has no address to open.",
            place.error_prefix()
        )));
    };
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let opened = std::process::Command::new(program)
        .arg(url)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn();
    if let Err(error) = opened {
        context.ui.note(&format!("Warning: {program} cannot be run ({error}); open {url}"));
    }
    Ok(())
}

/// Runs `occ stop`.
pub(crate) async fn stop(context: &Context<'_>, args: &StopArgs) -> Result<u8, CliError> {
    if let Some(group) = context.group().await? {
        return sandbox_group::stop(context, args, &group).await;
    }
    let (client, place) = context.client_and_place().await?;
    let request = StopRequest { timeout_s: args.timeout, remove: args.remove };
    let operation = operate(context, &client, &place, "stop", &request).await?;
    done(context, &client, &place, &operation).await
}

/// Runs `occ restart`.
pub(crate) async fn restart(context: &Context<'_>, args: &RestartArgs) -> Result<u8, CliError> {
    if let Some(group) = context.group().await? {
        return sandbox_group::restart(context, args, &group).await;
    }
    let (client, place) = context.client_and_place().await?;
    let operation = operate(context, &client, &place, "restart", &serde_json::json!({})).await?;
    done(context, &client, &place, &operation).await
}

/// Runs `occ update`.
pub(crate) async fn update(context: &Context<'_>, args: &UpdateArgs) -> Result<u8, CliError> {
    match args.what {
        None | Some(UpdateWhat::Container) => {}
        Some(UpdateWhat::Cli) => {
            return Err(CliError::unsupported("occ update cli: occ does not replace itself.")
                .hint("install the newer occ and occd as you installed these"));
        }
        Some(UpdateWhat::Opencode) => {
            return Err(CliError::unsupported(
                "occ update opencode builds inside the sandbox, which occ does not do: its images bring opencode.",
            )
            .hint("occ update"));
        }
    }
    let ui = context.ui;
    if let Some(group) = context.group().await? {
        return rolling::update(context, args, &group).await;
    }
    if args.canary.is_some() || args.batch.is_some() || args.max_fail.is_some() {
        return Err(CliError::usage("--canary, --batch and --max-fail are for --group or --all."));
    }
    let (client, place) = context.client_and_place().await?;
    let what =
        if args.rollback { "Go back to the image from before?" } else { "Update the sandbox?" };
    if !args.yes
        && ui.can_ask()
        && !ui.ask(&format!("{}{what} It is stopped for a moment", place.prefix())).await?
    {
        ui.say("Cancelled.")?;
        return Ok(0);
    }
    let request = UpdateRequest { rollback: args.rollback };
    let operation = operate(context, &client, &place, "update", &request).await?;
    done(context, &client, &place, &operation).await
}

pub(crate) async fn done(
    context: &Context<'_>,
    client: &Client,
    place: &Place,
    operation: &Operation,
) -> Result<u8, CliError> {
    match operations::finished(context, place, operation) {
        Err(error) => Err(explained(context, client, place, error).await),
        code => code,
    }
}

/// Runs `occ cockpit`.
pub(crate) async fn cockpit(context: &Context<'_>) -> Result<u8, CliError> {
    let ui = context.ui;
    let (client, place) = context.client_and_place().await?;
    let path = place.path("/container/cockpit");
    let note = format!("{}asking Docker …", place.prefix());
    let reply = match with_note(ui, &note, client.post(&path)).await {
        Ok(reply) => reply,
        Err(error) => return Err(explained(context, &client, &place, error).await),
    };
    if ui.json {
        return ui.document(&reply.body).map(|()| 0);
    }
    let sandbox: ContainerStatus = reply.parse()?;
    let prefix = place.prefix();
    match (sandbox.url.as_deref(), sandbox.state.as_deref()) {
        (_, Some(state)) if state != "running" => Err(CliError::failed(format!(
            "{}the sandbox is {}, and cockpit runs inside it.",
            place.error_prefix(),
            sanitize(state)
        ))
        .hint(format!("occ start{}", place.option()))),
        (Some(url), _) => {
            ui.print(&format!("{prefix}{url}\n"))?;
            open(context, &place, Some(url))?;
            Ok(0)
        }
        (None, _) if sandbox.foreign => Err(CliError::failed(format!(
            "{}the container of the sandbox's name is somebody else's, and is left alone.",
            place.error_prefix()
        ))
        .hint(format!("occ status{} shows it", place.option()))),
        (None, _) => {
            ui.say(&format!(
                "{prefix}Note: cockpit is disabled in this sandbox: its port 9090 is not published."
            ))?;
            ui.note(&format!(
                "hint: \"cockpit_enabled\": true in config.json, then occ start{} --yes makes the sandbox anew with it; its volumes stay",
                place.option()
            ));
            Ok(0)
        }
    }
}
