//! `occ docker`, `docker-socket` and `docker-context`: the docker program at a host's engine.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use hyper::Method;
use occ_proto::HostName;
use occ_proto::container::DockerSocketPath;

use super::Context;
use super::group::{End, Group, OnSignal};
use crate::cli::{DockerArgs, DockerContextArgs, DockerSocketArgs};
use crate::client::{Client, host_path};
use crate::error::CliError;
use crate::place::Place;

/// Returns the socket that speaks to a host's engine; it is there from now on.
async fn socket(client: &Client, host: &HostName) -> Result<DockerSocketPath, CliError> {
    let path = host_path(host, "/docker-socket");
    client.request_among(Method::PUT, &path, None::<&()>).await?.parse()
}

async fn remove(client: &Client, host: &HostName) -> Result<(), CliError> {
    let path = host_path(host, "/docker-socket");
    client.request_among(Method::DELETE, &path, None::<&()>).await.map(drop)
}

/// Runs `occ docker`: the docker program takes occ's place.
pub(crate) async fn run(context: &Context<'_>, args: &DockerArgs) -> Result<u8, CliError> {
    let (client, place) = context.client_and_place().await?;
    let Place::Host(host, source) = place else {
        // The engine that the sandbox commands mean, whatever this shell's docker would use.
        let path = "/v1/hosts/local/docker-socket";
        let socket: DockerSocketPath = client.get(path).await?.parse()?;
        return Err(no_docker(&docker_at(&socket, args)));
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
    let (client, host, _) = context.client_and_host("docker-socket").await?;
    if args.remove {
        remove(&client, &host).await?;
        removed(context, &host)?;
        return Ok(0);
    }
    let socket = socket(&client, &host).await?;
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

fn removed(context: &Context<'_>, host: &HostName) -> Result<(), CliError> {
    match context.ui.json {
        true => Ok(()),
        false => context.ui.say(&format!("Removed: the Docker socket of '{host}'.")),
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
                remove(client, &host).await?;
                return removed(context, &host);
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

/// Runs `occ docker-context`: makes or removes the docker program's name for the engine.
pub(crate) async fn run_context(
    context: &Context<'_>,
    args: &DockerContextArgs,
) -> Result<u8, CliError> {
    let ui = context.ui;
    let (client, host, _) = context.client_and_host("docker-context").await?;
    let name = format!("occ-{host}");
    let docker = |arguments: &[&str]| {
        let mut command = Command::new("docker");
        command.arg("context").args(arguments).env_remove("DOCKER_HOST");
        command.stdin(Stdio::null()).output().map_err(|error| no_docker(&error))
    };
    let done = |output: std::process::Output| match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = occ_proto::text::sanitize(said.trim());
            Err(CliError::failed(format!("docker context says: {said}")))
        }
    };
    if args.remove {
        done(docker(&["rm", "--force", &name])?)?;
        remove(&client, &host).await?;
        if ui.json {
            let gone = serde_json::json!({ "host": host, "context": name, "removed": true });
            return ui.value(&gone).map(|()| 0);
        }
        ui.say(&format!("Removed: docker context '{name}'."))?;
        return Ok(0);
    }
    let socket = socket(&client, &host).await?;
    let endpoint = format!("host=unix://{}", socket.path);
    let exists = docker(&["inspect", &name])?.status.success();
    let verb = if exists { "update" } else { "create" };
    let description = format!("{host}, by occ");
    done(docker(&[verb, &name, "--description", &description, "--docker", &endpoint])?)?;
    if ui.json {
        let made = serde_json::json!({ "host": host, "context": name, "socket": socket.path });
        return ui.value(&made).map(|()| 0);
    }
    ui.say(&format!("Added: docker context '{name}'."))?;
    if !ui.quiet {
        ui.note(&format!("hint: docker --context {name} ps"));
    }
    Ok(0)
}
