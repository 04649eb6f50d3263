//! `occ start`, `stop` and `restart` over many hosts, and one host's part in that.

use hyper::Method;
use occ_proto::HostName;
use occ_proto::container::{OneTimePassword, StopRequest};
use occ_proto::operation::{Did, Operation, OperationEvent, OperationList, OperationState};
use occ_proto::text::sanitize;
use serde::Serialize;

use super::group::{Done, End, Group, OnSignal};
use super::{Context, operations, sandbox};
use crate::cli::{RestartArgs, StartArgs, StopArgs};
use crate::client::host_path;
use crate::error::CliError;
use crate::output::{Ui, json};
use crate::place::Place;
use crate::target::Source;

/// What is to be done with the sandbox of each host.
pub(super) struct Job<'a, B> {
    pub(super) context: &'a Context<'a>,
    pub(super) group: &'a Group,
    /// The last part of its route.
    pub(super) verb: &'a str,
    pub(super) body: B,
}

impl<B: Serialize + Sync> Job<'_, B> {
    /// Does it on one host and says what came of it. Returns that, or why it failed.
    pub(super) async fn on(&self, host: &HostName) -> Result<Did, CliError> {
        let (ui, client) = (self.context.ui, &self.group.client);
        // A host that is down is dialled once.
        let path = host_path(host, &format!("/container/{}?retries=0", self.verb));
        let reply = client.request_among(Method::POST, &path, Some(&self.body)).await?;
        let begun: Operation = reply.parse()?;
        let tell = |event: &OperationEvent| match event {
            OperationEvent::Note { text } => said(ui, host, text),
            OperationEvent::Step { text } | OperationEvent::Output { text } if ui.verbose > 0 => {
                said(ui, host, text);
            }
            _ => {}
        };
        let operation = operations::to_its_end(client, &begun.id, tell).await?;
        if let Some(problem) = &operation.problem {
            return Err(operations::failed(&operation, problem));
        }
        let did = operation.outcome.as_ref().map_or(Did::Unknown, |outcome| outcome.did);
        let password = match did {
            Did::Started if self.verb == "start" && (ui.json || !ui.quiet) => {
                self.password(host).await
            }
            _ => None,
        };
        let password = password.as_ref().and_then(|password| password.password.as_ref());
        let password = password.map(|password| password.expose());
        if ui.json {
            // It names its host already.
            let document = sandbox::document(&operation, password)?;
            ui.print(&json::line(&document))?;
        } else {
            let place = Place::Host(host.clone(), Source::Named);
            operations::finished(self.context, &place, &operation)?;
            if let Some(password) = password {
                ui.say(&format!("[{host}] First login: one-time password {}", sanitize(password)))?;
            }
        }
        Ok(did)
    }

    /// Asks for the first password. That it cannot be asked for is no failure of the start.
    async fn password(&self, host: &HostName) -> Option<OneTimePassword> {
        let path = host_path(host, "/container/password");
        let reply = self.group.client.request_among(Method::GET, &path, None::<&()>).await;
        reply.ok()?.parse().ok()
    }

    /// Does it on all hosts of the group, so many at once.
    async fn on_all(&self) -> Result<u8, CliError> {
        let ui = self.context.ui;
        let work = |host: HostName| async move {
            match self.on(&host).await {
                Ok(_) => Ok(End::Ok),
                Err(error) => self.group.failed(ui, &host, &error),
            }
        };
        let mut done = self.group.each(ui, OnSignal::Leave, work).await?;
        tell_what_goes_on(ui, self.group, &mut done).await;
        done.conclude(ui)
    }
}

fn said(ui: &Ui, host: &HostName, text: &str) {
    if !ui.json {
        ui.note(&format!("[{host}] {}", sanitize(text)));
    }
}

/// Says which operations the daemon goes on with after a signal, and how to follow them.
pub(super) async fn tell_what_goes_on(ui: &Ui, group: &Group, done: &mut Done) {
    if done.left.is_empty() {
        return;
    }
    let asked = async { group.client.get("/v1/operations").await?.parse::<OperationList>() };
    let list = match asked.await {
        Ok(list) => list,
        // How far it was is to be said all the same.
        Err(error) => return ui.note(&format!("What goes on is not known: {}", error.message)),
    };
    for (host, left) in &mut done.left {
        let goes_on = |operation: &&Operation| {
            operation.state == OperationState::Running && operation.host.as_ref() == Some(host)
        };
        let Some(operation) = list.operations.iter().find(goes_on) else { continue };
        let id = &operation.id;
        *left = Some(id.clone());
        if !ui.json {
            ui.note(&format!("[{host}] The operation goes on without you: {id}."));
            ui.note(&format!(
                "[{host}] hint: occ operations attach {id}; occ operations cancel {id}"
            ));
        }
    }
}

/// Runs `occ start`.
pub(super) async fn start(
    context: &Context<'_>,
    args: &StartArgs,
    group: &Group,
) -> Result<u8, CliError> {
    if args.open {
        return Err(CliError::usage("--open is for one host."));
    }
    let body = sandbox::start_request(args);
    Job { context, group, verb: "start", body }.on_all().await
}

/// Runs `occ stop`.
pub(super) async fn stop(
    context: &Context<'_>,
    args: &StopArgs,
    group: &Group,
) -> Result<u8, CliError> {
    let asked = match args.remove {
        true => ("stop --remove", "Stop and remove the sandbox"),
        false => ("stop", "Stop the sandbox"),
    };
    if !group.confirmed(context.ui, asked, args.yes).await? {
        return Ok(0);
    }
    let body = StopRequest { timeout_s: args.timeout, remove: args.remove };
    Job { context, group, verb: "stop", body }.on_all().await
}

/// Runs `occ restart`.
pub(super) async fn restart(
    context: &Context<'_>,
    args: &RestartArgs,
    group: &Group,
) -> Result<u8, CliError> {
    if !group.confirmed(context.ui, ("restart", "Restart the sandbox"), args.yes).await? {
        return Ok(0);
    }
    Job { context, group, verb: "restart", body: serde_json::json!({}) }.on_all().await
}
