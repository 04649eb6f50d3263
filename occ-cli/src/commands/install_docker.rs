//! `occ host install-docker`, and the same from `occ host add` and `occ host test` where Docker is missing.

use hyper::Method;
use occ_proto::HostName;
use occ_proto::docker_setup::{DockerSetup, InstallDocker, Sudo};
use occ_proto::operation::Operation;
use occ_proto::status::TestReport;
use occ_proto::text::sanitize;

use super::{Context, operations};
use crate::client::{Client, host_path};
use crate::error::CliError;
use crate::hint::{has_no_docker, installing_helps, start_docker};
use crate::output::{Colour, with_note};
use crate::place::Place;
use crate::target::Source;

/// What was decided about the commands.
enum Verdict {
    /// They are to be run.
    Go,
    /// The person does not want them to be.
    Declined,
    /// Docker is there.
    Done,
    /// They cannot be run.
    Impossible(CliError),
}

/// Runs `occ host install-docker`.
pub(crate) async fn run(
    context: &Context<'_>,
    host: &HostName,
    yes: bool,
    dry_run: bool,
) -> Result<u8, CliError> {
    let ui = context.ui;
    let client = context.client().await?;
    if dry_run && ui.json {
        let reply = client.get_slow(&host_path(host, "/docker-setup")).await?;
        return ui.document(&reply.body).map(|()| 0);
    }
    let setup = look(context, &client, host).await?;
    if dry_run {
        show(context, host, &setup, true)?;
        return Ok(0);
    }
    // Where it is there already, nothing has to be confirmed.
    if !yes && setup.docker_version.is_none() && !ui.can_ask() {
        return Err(CliError::usage(format!(
            "Installing Docker on '{host}' needs a confirmation."
        ))
        .hint(format!(
            "occ host install-docker {host} --dry-run shows the commands; --yes runs them"
        )));
    }
    match decided(context, host, &setup, !yes).await? {
        Verdict::Done => {}
        Verdict::Declined => ui.say("Cancelled.")?,
        Verdict::Impossible(error) => return Err(error),
        Verdict::Go => {
            let operation = install(context, &client, host, &setup).await?;
            return operations::finished(context, &place(host), &operation);
        }
    }
    Ok(0)
}

/// Offers to have Docker run after a test that did not find it or found it down; without a person to ask, says how.
/// That it does not come to that is no failure of the test.
pub(crate) async fn offer(
    context: &Context<'_>,
    client: &Client,
    report: &TestReport,
) -> Result<(), CliError> {
    let ui = context.ui;
    let host = &report.name;
    let Some(problem) = report.docker_problem.as_ref().filter(|_| !ui.json && is_missing(report))
    else {
        return Ok(());
    };
    let how = match has_no_docker(&problem.detail) {
        true => format!("occ host install-docker {host} installs it"),
        false => start_docker(Some(host.as_str())),
    };
    let how = format!("hint: {how}");
    if !ui.can_ask() {
        ui.note(&how);
        return Ok(());
    }
    let offered = async {
        let setup = look(context, client, host).await?;
        match decided(context, host, &setup, true).await? {
            Verdict::Done => {}
            Verdict::Declined => ui.note(&how),
            Verdict::Impossible(error) => {
                ui.note(&error.message);
                error.hint.iter().for_each(|hint| ui.note(&format!("hint: {hint}")));
            }
            Verdict::Go => {
                let operation = install(context, client, host, &setup).await?;
                operations::finished(context, &place(host), &operation)?;
            }
        }
        Ok::<_, CliError>(())
    };
    match offered.await {
        // Why not is told, and who has interrupted it is let go.
        Err(error) if error.problem.is_some() => {
            ui.note(&format!("Docker was not installed: {}", error.message));
            ui.note(&how);
            Ok(())
        }
        offered => offered,
    }
}

/// Installs Docker where a test did not find it, and asks nothing.
pub(crate) async fn unasked(
    context: &Context<'_>,
    client: &Client,
    report: &TestReport,
) -> Result<Option<Operation>, CliError> {
    if !is_missing(report) {
        return Ok(None);
    }
    let setup = look(context, client, &report.name).await?;
    match decided(context, &report.name, &setup, false).await? {
        Verdict::Go => install(context, client, &report.name, &setup).await.map(Some),
        Verdict::Impossible(error) => Err(error),
        Verdict::Declined | Verdict::Done => Ok(None),
    }
}

/// Returns whether there is no Docker on a host that was reached, or it does not run.
fn is_missing(report: &TestReport) -> bool {
    report.docker_problem.as_ref().is_some_and(|problem| installing_helps(&problem.detail))
}

fn place(host: &HostName) -> Place {
    Place::Host(host.clone(), Source::Named)
}

/// Asks what has to be done.
async fn look(
    context: &Context<'_>,
    client: &Client,
    host: &HostName,
) -> Result<DockerSetup, CliError> {
    let path = host_path(host, "/docker-setup");
    let asked = client.get_slow(&path);
    with_note(context.ui, &format!("[{host}] looking …"), asked).await?.parse()
}

/// Shows the commands, and asks whether to run them where somebody is to be asked.
async fn decided(
    context: &Context<'_>,
    host: &HostName,
    setup: &DockerSetup,
    asks: bool,
) -> Result<Verdict, CliError> {
    let ui = context.ui;
    if !ui.json {
        show(context, host, setup, false)?;
    }
    if setup.docker_version.is_some() {
        // A program gets an operation in any case, of which nothing comes.
        return Ok(if ui.json { Verdict::Go } else { Verdict::Done });
    }
    if setup.sudo == Sudo::None {
        let user = sanitize(&setup.user);
        let error = CliError::failed(format!(
            "[{host}] {user} cannot become root there with sudo, so occ cannot run these commands."
        ));
        let hint = format!("run them as root on {host}; then occ reconnect --host {host}");
        return Ok(Verdict::Impossible(error.hint(hint)));
    }
    let question = match setup.commands.len() {
        0 => "Connect anew?",
        1 => "Run this command there?",
        _ => "Run these commands there?",
    };
    match asks && !ui.ask(&format!("[{host}] {question}")).await? {
        true => Ok(Verdict::Declined),
        false => Ok(Verdict::Go),
    }
}

/// Shows what would be done: as the answer of this command, or beside it.
fn show(
    context: &Context<'_>,
    host: &HostName,
    setup: &DockerSetup,
    is_answer: bool,
) -> Result<(), CliError> {
    let ui = context.ui;
    if let Some(version) = &setup.docker_version {
        let mark = ui.paint(Colour::Green, "✓");
        return ui.say(&format!("[{host}] {mark} Docker {} is there already", sanitize(version)));
    }
    let how = match setup.sudo {
        Sudo::NotNeeded => "",
        Sudo::Free => ", by sudo, which asks for no password",
        Sudo::Password => ", by sudo, which asks for your password there",
        Sudo::None => ", by root, since there is no sudo for this login",
        Sudo::Unknown => ", by sudo",
    };
    let mut lines = vec![format!("{}: to be run{how}:", sanitize(&setup.os))];
    lines.extend(setup.commands.iter().map(|command| format!("  {}", sanitize(command))));
    lines.extend(setup.notes.iter().map(|note| format!("Note: {}", sanitize(note))));
    for line in lines {
        let line = format!("[{host}] {line}");
        if is_answer { ui.say(&line)? } else { ui.note(&line) }
    }
    Ok(())
}

/// Begins it, and follows it to its end.
async fn install(
    context: &Context<'_>,
    client: &Client,
    host: &HostName,
    setup: &DockerSetup,
) -> Result<Operation, CliError> {
    let path = host_path(host, "/docker-setup");
    let body = InstallDocker { digest: Some(setup.digest.clone()) };
    let begun = client.request(Method::POST, &path, Some(&body), None).await?;
    let begun: Operation = begun.parse()?;
    operations::follow(context, client, &place(host), &begun.id).await
}
