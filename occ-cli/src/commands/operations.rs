//! `occ operations`, and following an operation to its end.

use hyper::Method;
use jiff::Timestamp;
use occ_proto::error::Problem;
use occ_proto::operation::{
    Operation, OperationEvent, OperationKind, OperationList, OperationState,
};
use occ_proto::text::sanitize;
use serde_json::json;

use super::{Context, sandbox};
use crate::cli::OperationsCommand;
use crate::client::Client;
use crate::duration::{one_unit, seconds_between};
use crate::error::{CliError, DAEMON, FAILED};
use crate::lines::Lines;
use crate::output::operation::{self as show, ProgressLine};
use crate::output::removal::{self, Deed, Done};
use crate::output::table::Table;
use crate::place::Place;
use crate::prompter;
use crate::target::Source;

/// How much of an operation's step or problem is shown in the list, in characters.
const LONGEST: usize = 100;

/// Follows an operation to its end, with its progress shown. When the person leaves, it goes on.
pub(crate) async fn follow(
    context: &Context<'_>,
    client: &Client,
    place: &Place,
    id: &str,
) -> Result<Operation, CliError> {
    let mut progress = ProgressLine::new(context.ui, place);
    let following = to_its_end(client, id, |event| progress.tell(event));
    tokio::select! {
        ended = prompter::answering(client, following) => ended,
        error = crate::terminal::ended() => Err(CliError {
            message: format!("The operation goes on without you: {id}."),
            hint: Some(format!("occ operations attach {id}; occ operations cancel {id}")),
            ..error
        }),
    }
}

/// Follows an operation to its end, and tells what happens.
pub(crate) async fn to_its_end(
    client: &Client,
    id: &str,
    mut tell: impl FnMut(&OperationEvent),
) -> Result<Operation, CliError> {
    let followed = async {
        let mut lines = Lines::get(client, &format!("/v1/operations/{id}/events")).await?;
        while let Some(event) = lines.next::<OperationEvent>().await? {
            if let OperationEvent::End { operation } = event {
                return Ok(Some(*operation));
            }
            tell(&event);
        }
        Ok::<_, CliError>(None)
    };
    match followed.await {
        Ok(Some(operation)) => Ok(operation),
        // What it says of itself is no more than that.
        Err(error) if error.problem.is_some() || error.exit != DAEMON => Err(error),
        Ok(None) | Err(_) => Err(CliError::daemon(format!(
            "occd went away in the middle of operation {id}: what it left is undone or finished by the next operation there."
        ))
        .hint("occ operations shows how far it was, and starts occd again")),
    }
}

/// Returns where an operation is at work.
fn place_of(operation: &Operation) -> Place {
    match &operation.host {
        Some(host) => Place::Host(host.clone(), Source::Named),
        None => Place::Local,
    }
}

/// Runs `occ operations`.
pub(crate) async fn run(
    context: &Context<'_>,
    command: Option<&OperationsCommand>,
) -> Result<u8, CliError> {
    let client = context.client().await?;
    match command {
        None | Some(OperationsCommand::List) => list(context, &client).await,
        Some(OperationsCommand::Attach { id }) => {
            let now: Operation = client.get(&path(id)).await?.parse()?;
            let place = place_of(&now);
            let operation = follow(context, &client, &place, &now.id).await?;
            let code = finished(context, &place, &operation)?;
            // Whoever began it left before it was shown.
            if operation.kind == OperationKind::Start && !context.ui.json {
                sandbox::tell_password(context, &client, &place).await?;
            }
            Ok(code)
        }
        Some(OperationsCommand::Cancel { id }) => {
            let cancelling = async { cancel(context, &client, id).await };
            removal::one(context.ui, id, cancelling).await
        }
    }
}

/// Cancels an operation, which may come to its end before.
async fn cancel(context: &Context<'_>, client: &Client, id: &str) -> Result<Deed, CliError> {
    let reply = client.request(Method::DELETE, &path(id), None::<&()>, None).await?;
    let now: Operation = reply.parse()?;
    let place = place_of(&now);
    let operation = follow(context, client, &place, &now.id).await?;
    if operation.state != OperationState::Cancelled {
        match &operation.problem {
            Some(problem) => return Err(failed(&operation, problem)),
            None if context.ui.json => {}
            None => drop(finished(context, &place, &operation)?),
        }
        return Ok((Done::Absent, Some(json!(operation))));
    }
    if !context.ui.json {
        let said = operation.problem.as_ref().map(|problem| sanitize(&problem.detail));
        context.ui.say(&said.unwrap_or_else(|| "Cancelled.".to_owned()))?;
    }
    Ok((Done::Cancelled, Some(json!(operation))))
}

fn path(id: &str) -> String {
    let id: String = id.chars().filter(char::is_ascii_alphanumeric).collect();
    format!("/v1/operations/{id}")
}

/// Says what came of an operation; its failure is ours.
pub(crate) fn finished(
    context: &Context<'_>,
    place: &Place,
    operation: &Operation,
) -> Result<u8, CliError> {
    let ui = context.ui;
    if let Some(problem) = &operation.problem {
        return Err(failed(operation, problem));
    }
    if ui.json {
        return ui.value(operation).map(|()| 0);
    }
    let Some(outcome) = &operation.outcome else { return Ok(FAILED) };
    let end = operation.ended_at.unwrap_or_else(Timestamp::now);
    let seconds = seconds_between(operation.started_at, end);
    for line in show::outcome(ui, place, outcome, seconds) {
        ui.say(&line)?;
    }
    Ok(0)
}

/// Returns why an operation failed. What to type names it.
pub(crate) fn failed(operation: &Operation, problem: &Problem) -> CliError {
    let mut error = CliError::from(problem.clone());
    if let Some(hint) = &mut error.hint {
        *hint = hint.replace("attach ID", &format!("attach {}", operation.id));
    }
    error
}

/// Returns the beginning of a text, as one line: the whole is told by `operations attach`.
fn cut(text: &str) -> String {
    let text = text.lines().next().unwrap_or_default();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", sanitize(text[..end].trim_end())),
        None => sanitize(text),
    }
}

async fn list(context: &Context<'_>, client: &Client) -> Result<u8, CliError> {
    let ui = context.ui;
    let reply = client.get("/v1/operations").await?;
    let place = context.named.clone().map(Place::from);
    if ui.json && place.is_none() {
        return ui.document(&reply.body).map(|()| 0);
    }
    let mut list: OperationList = reply.parse()?;
    // A default host chooses where to work, and not what is shown.
    let wanted = place.map(|place| match place {
        Place::Host(host, _) => Some(host),
        Place::Local => None,
    });
    list.operations.retain(|one| wanted.as_ref().is_none_or(|wanted| *wanted == one.host));
    if ui.json {
        return ui.value(&list).map(|()| 0);
    }
    if ui.quiet {
        for operation in &list.operations {
            ui.print(&format!("{}\n", operation.id))?;
        }
        return Ok(0);
    }
    if list.operations.is_empty() {
        ui.say("No operations.")?;
        return Ok(0);
    }
    let now = Timestamp::now();
    let mut table = Table::new(&["ID", "HOST", "WHAT", "STATE", "AGE", "STEP"]);
    for operation in &list.operations {
        let what = match &operation.problem {
            Some(problem) => &problem.detail,
            None => &operation.step,
        };
        table.row(vec![
            operation.id.clone(),
            operation.host.as_ref().map_or_else(|| "local".to_owned(), ToString::to_string),
            operation.kind.as_str().to_owned(),
            operation.state.as_str().to_owned(),
            one_unit(seconds_between(operation.started_at, now)),
            cut(what),
        ]);
    }
    for line in table.lines() {
        ui.print(&format!("{line}\n"))?;
    }
    Ok(0)
}
