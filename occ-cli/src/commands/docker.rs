//! `occ docker`, `docker-socket` and `docker-context`: the docker program at a host's engine.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use hyper::Method;
use occ_proto::HostName;
use occ_proto::container::DockerSocketPath;
use occ_proto::paths::docker_socket_name;
use serde_json::json;

use super::Context;
use super::group::{End, Group, OnSignal, of_host};
use crate::cli::{DockerArgs, DockerContextArgs, DockerSocketArgs};
use crate::client::{Client, host_path};
use crate::error::CliError;
use crate::output::removal::{self, Done, Removal};
use crate::place::Place;

/// Returns the socket of this machine's own engine: the one that the sandbox commands mean, whatever this shell's docker
/// would use.
async fn local_socket(client: &Client) -> Result<DockerSocketPath, CliError> {
    client.get("/v1/hosts/local/docker-socket").await?.parse()
}

/// Returns the socket that speaks to a host's engine; it is there from now on.
async fn socket(client: &Client, host: &HostName) -> Result<DockerSocketPath, CliError> {
    let path = host_path(host, "/docker-socket");
    client.request_among(Method::PUT, &path, None::<&()>).await?.parse()
}

/// Takes a host's socket away, if there is one.
async fn remove(client: &Client, host: &HostName) -> Result<Done, CliError> {
    let is_there = client.directory().join(docker_socket_name(host)).exists();
    let path = host_path(host, "/docker-socket");
    client.request_among(Method::DELETE, &path, None::<&()>).await?;
    Ok(if is_there { Done::Removed } else { Done::Absent })
}

/// Runs `occ docker`: the docker program takes occ's place.
pub(crate) async fn run(context: &Context<'_>, args: &DockerArgs) -> Result<u8, CliError> {
    let (client, place) = context.client_and_place().await?;
    let Place::Host(host, source) = place else {
        return Err(no_docker(&docker_at(&local_socket(&client).await?, args)));
    };
    let socket = match socket(&client, &host).await {
        Ok(socket) => socket,
        Err(error) => return Err(super::explain(context, &client, &host, source, error).await),
    };
    Err(no_docker(&docker_at(&socket, args)))
}

/// Becomes the docker program; returns why it cannot.
fn docker_at(socket: &DockerSocketPath, args: &DockerArgs) -> std::io::Error {
    Command::new("docker")
        .env("DOCKER_HOST", format!("unix://{}", socket.path))
        .env_remove("DOCKER_CONTEXT")
        // They are for a TCP port, and the socket is none.
        .env_remove("DOCKER_TLS_VERIFY")
        .env_remove("DOCKER_TLS")
        .args(&args.argv)
        .exec()
}

fn no_docker(error: &std::io::Error) -> CliError {
    let failed = CliError::failed(format!("The docker program cannot be run here: {error}."));
    failed.hint("install the docker client; occ exec --host NAME -- docker … runs the host's own")
}

/// Runs `occ docker-socket`: prints where the sockets are, or takes them away.
pub(crate) async fn run_socket(
    context: &Context<'_>,
    args: &DockerSocketArgs,
) -> Result<u8, CliError> {
    let ui = context.ui;
    if let Some(group) = context.group().await? {
        return sockets(context, args, &group).await;
    }
    let (client, place) = context.client_and_place().await?;
    let socket = match (&place, args.remove) {
        (Place::Host(host, _), true) => {
            let removing = async {
                let done = remove(&client, host).await?;
                if !ui.json {
                    ui.say(&removed(host, done))?;
                }
                Ok((done, None))
            };
            return removal::one(ui, host.as_str(), removing).await;
        }
        (Place::Host(host, _), false) => socket(&client, host).await?,
        (Place::Local, true) => {
            return Err(CliError::usage(
                "The socket of this machine's own engine is the engine's, and is not taken away.",
            )
            .hint("occ docker-socket --host NAME --remove takes a host's away"));
        }
        (Place::Local, false) => local_socket(&client).await?,
    };
    if ui.json {
        ui.print(&document(&socket)?)?;
        return Ok(0);
    }
    // The path alone, for `DOCKER_HOST=unix://$(occ docker-socket --host h)`.
    ui.print(&format!("{}\n", socket.path))?;
    if !ui.quiet {
        ui.note(&format!("hint: export DOCKER_HOST=unix://{}", socket.path));
    }
    Ok(0)
}

fn document(socket: &DockerSocketPath) -> Result<String, CliError> {
    let line = serde_json::to_string(socket)
        .map_err(|error| CliError::failed(format!("cannot be written: {error}")))?;
    Ok(format!("{line}\n"))
}

fn removed(host: &HostName, done: Done) -> String {
    match done {
        Done::Absent => format!("Nothing to remove: there is no Docker socket of '{host}'."),
        _ => format!("Removed: the Docker socket of '{host}'."),
    }
}

/// Does the same for each host of a group.
async fn sockets(
    context: &Context<'_>,
    args: &DockerSocketArgs,
    group: &Group,
) -> Result<u8, CliError> {
    let (ui, client) = (context.ui, &group.client);
    let work = |host: HostName| async move {
        let done = async {
            if args.remove {
                let done = remove(client, &host).await?;
                return match ui.json {
                    true => {
                        let text = json!(Removal::of(host.as_str(), done)).to_string();
                        ui.print(&of_host(&host, text.as_bytes()))
                    }
                    false => ui.say(&removed(&host, done)),
                };
            }
            let socket = socket(client, &host).await?;
            match ui.json {
                true => ui.print(&document(&socket)?),
                false => ui.print(&format!("[{host}] {}\n", socket.path)),
            }
        };
        match done.await {
            Ok(()) => Ok(End::Ok),
            Err(error) => group.failed(ui, &host, &error),
        }
    };
    let done = group.each(ui, OnSignal::Leave, work).await?;
    done.conclude(ui)
}

/// Runs `docker context` with these arguments.
fn docker_context(arguments: &[&str]) -> std::io::Result<std::process::Output> {
    let mut command = Command::new("docker");
    // Either would be the current context's better.
    command.arg("context").args(arguments).env_remove("DOCKER_HOST").env_remove("DOCKER_CONTEXT");
    command.stdin(Stdio::null()).output()
}

/// The same, and says why when it does not work.
fn docker_context_ok(arguments: &[&str]) -> Result<(), CliError> {
    let output = docker_context(arguments).map_err(|error| no_docker(&error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = occ_proto::text::sanitize(said.trim());
    Err(CliError::failed(format!("docker context says: {said}")))
}

/// Returns where a docker context leads, if there is one of that name and a docker program.
fn context_leads_to(name: &str) -> Option<String> {
    let format = "{{(index .Endpoints \"docker\").Host}}";
    let output = docker_context(&["inspect", "--format", format, name]).ok()?;
    let there = output.status.success();
    there.then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Removes a docker context, and says so. The docker program takes its default for the current one without a word.
fn remove_context(context: &Context<'_>, name: &str) -> Result<(), CliError> {
    let current = docker_context(&["show"]).map_err(|error| no_docker(&error))?;
    let was_current = String::from_utf8_lossy(&current.stdout).trim() == name;
    docker_context_ok(&["rm", "--force", name])?;
    if was_current {
        let now = "it was the current one, so docker speaks to this machine's own engine now";
        context.ui.note(&format!("Warning: docker context '{name}' is removed: {now}."));
        context.ui.note("hint: docker context use NAME; docker context ls shows them");
    }
    match context.ui.json {
        true => Ok(()),
        false => context.ui.say(&format!("Removed: docker context '{name}'.")),
    }
}

/// A host's docker context that leads to our socket.
#[derive(Debug)]
pub(crate) struct OwnContext(String);

/// Returns the context of a host that was removed, if there is one and it is ours.
pub(crate) fn own_context(client: &Client, host: &HostName) -> Option<OwnContext> {
    let name = format!("occ-{host}");
    let ours = client.directory().join(docker_socket_name(host));
    let leads_to = context_leads_to(&name)?;
    (leads_to == format!("unix://{}", ours.display())).then_some(OwnContext(name))
}

impl OwnContext {
    /// Removes it: it leads nowhere any more.
    pub(crate) fn remove(&self, context: &Context<'_>) -> Result<(), CliError> {
        let (ui, name) = (context.ui, &self.0);
        match remove_context(context, name) {
            Ok(()) => Ok(()),
            // The host is removed all the same.
            Err(error) => {
                ui.note(&format!(
                    "Warning: docker context '{name}' leads nowhere any more: {}",
                    error.message
                ));
                ui.note(&format!("hint: docker context rm --force {name}"));
                Ok(())
            }
        }
    }
}

/// Runs `occ docker-context`: makes or removes the docker program's name for the engine.
pub(crate) async fn run_context(
    context: &Context<'_>,
    args: &DockerContextArgs,
) -> Result<u8, CliError> {
    let ui = context.ui;
    let (client, place) = context.client_and_place().await?;
    let host = match &place {
        Place::Host(host, _) => Some(host),
        Place::Local => None,
    };
    // No host has that name.
    let place = host.map_or_else(|| "local".to_owned(), ToString::to_string);
    let name = format!("occ-{place}");
    if args.remove {
        let removing = async {
            let found = docker_context(&["inspect", &name]).map_err(|error| no_docker(&error))?;
            let is_there = found.status.success();
            if is_there {
                remove_context(context, &name)?;
            } else if !ui.json {
                ui.say(&format!("Nothing to remove: there is no docker context '{name}'."))?;
            }
            if let Some(host) = host {
                remove(&client, host).await?;
            }
            Ok((if is_there { Done::Removed } else { Done::Absent }, None))
        };
        return removal::one(ui, &name, removing).await;
    }
    let socket = match host {
        Some(host) => socket(&client, host).await?,
        None => local_socket(&client).await?,
    };
    let endpoint = format!("host=unix://{}", socket.path);
    let exists = docker_context(&["inspect", &name]).map_err(|error| no_docker(&error))?;
    let verb = if exists.status.success() { "update" } else { "create" };
    let description = format!("{place}, by occ");
    docker_context_ok(&[verb, &name, "--description", &description, "--docker", &endpoint])?;
    if ui.json {
        let made = serde_json::json!({ "host": place, "context": name, "socket": socket.path });
        return ui.value(&made).map(|()| 0);
    }
    ui.say(&format!("Added: docker context '{name}'."))?;
    if !ui.quiet {
        ui.note(&format!("hint: docker --context {name} ps"));
    }
    Ok(0)
}
