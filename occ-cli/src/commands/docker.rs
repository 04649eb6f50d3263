//! `occ docker`, `docker-socket` and `docker-context`: the docker program at a host's engine.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use hyper::Method;
use occ_proto::HostName;
use occ_proto::container::DockerSocketPath;
use occ_proto::status::HostList;

use super::Context;
use crate::cli::{DockerArgs, DockerContextArgs, DockerSocketArgs};
use crate::client::{Client, host_path};
use crate::error::CliError;
use crate::place::Place;

/// Returns the socket that speaks to a host's engine; it is there from now on.
async fn socket(client: &Client, host: &HostName) -> Result<DockerSocketPath, CliError> {
    let path = host_path(host, "/docker-socket");
    client.request(Method::PUT, &path, None::<&()>, None).await?.parse()
}

async fn remove(client: &Client, host: &HostName) -> Result<(), CliError> {
    let path = host_path(host, "/docker-socket");
    client.request(Method::DELETE, &path, None::<&()>, None).await.map(drop)
}

/// Runs `occ docker`: the docker program takes occ's place.
pub(crate) async fn run(context: &Context<'_>, args: &DockerArgs) -> Result<u8, CliError> {
    let (client, place) = context.client_and_place().await?;
    let Place::Host(host, source) = place else {
        // What the docker program does by itself.
        return Err(no_docker(&Command::new("docker").args(&args.argv).exec()));
    };
    let socket = match socket(&client, &host).await {
        Ok(socket) => socket,
        Err(error) => return Err(super::explain(context, &client, &host, source, error).await),
    };
    let error = Command::new("docker")
        .env("DOCKER_HOST", format!("unix://{}", socket.path))
        .env_remove("DOCKER_CONTEXT")
        .args(&args.argv)
        .exec();
    Err(no_docker(&error))
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
    let (client, hosts) = if args.all {
        let client = context.client().await?;
        let list: HostList = client.get("/v1/hosts").await?.parse()?;
        (client, list.hosts.into_iter().map(|host| host.name).collect())
    } else {
        let (client, host, _) = context.client_and_host("docker-socket").await?;
        (client, vec![host])
    };
    let mut sockets = Vec::new();
    for host in &hosts {
        if args.remove {
            remove(&client, host).await?;
            if !ui.json {
                ui.say(&format!("Removed: the Docker socket of '{host}'."))?;
            }
        } else {
            sockets.push(socket(&client, host).await?);
        }
    }
    if ui.json {
        for socket in &sockets {
            let line = serde_json::to_string(socket)
                .map_err(|error| CliError::failed(format!("cannot be written: {error}")))?;
            ui.print(&format!("{line}\n"))?;
        }
        return Ok(0);
    }
    for socket in &sockets {
        // A path alone where there is one, for `DOCKER_HOST=unix://$(occ docker-socket --host h)`.
        let name = if args.all { format!("{}  ", socket.host) } else { String::new() };
        ui.print(&format!("{name}{}\n", socket.path))?;
    }
    if let (false, Some(first)) = (args.remove || ui.quiet, sockets.first()) {
        ui.note(&format!("hint: export DOCKER_HOST=unix://{}", first.path));
    }
    Ok(0)
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
        ui.say(&format!("Removed: docker context '{name}'."))?;
        return Ok(0);
    }
    let socket = socket(&client, &host).await?;
    let endpoint = format!("host=unix://{}", socket.path);
    let exists = docker(&["inspect", &name])?.status.success();
    let verb = if exists { "update" } else { "create" };
    let description = format!("{host}, by occ");
    done(docker(&[verb, &name, "--description", &description, "--docker", &endpoint])?)?;
    ui.say(&format!("Added: docker context '{name}'."))?;
    if !ui.quiet {
        ui.note(&format!("hint: docker --context {name} ps"));
    }
    Ok(0)
}
