//! Installing Docker on a host: what it takes there, root's rights, the commands one after the other, and a connection
//! whose processes have the login's new group.

mod error;
mod look;
mod os_release;
mod plan;
mod remote;
mod sudo;

pub use error::InstallError;
pub use plan::Plan;
pub use sudo::Root;

use std::time::Duration;

use occ_proto::operation::{Did, Outcome};
use occ_proto::text::sanitize;
use tokio::time::{Instant, sleep};

use super::operations::Progress;
use super::{DockerError, Engine, EngineError, SandboxError};
use crate::host::{HostHandle, Tries};
use crate::prompts::Client;
use plan::Now;

/// How long an engine that was just started may take to answer.
const ANSWERS: Duration = Duration::from_secs(30);
/// How long until one that does not is asked again.
const RETRY: Duration = Duration::from_millis(500);
/// Waits until the socket is there: a login looks for it once. `DOCKER_HOST` is the host's own, as for that look.
const SOCKET: &str = r#"
i=0; while [ $i -lt 30 ]; do
  for s in "$1" "${DOCKER_HOST#unix://}" /var/run/docker.sock; do [ -S "$s" ] && exit 0; done
  sleep 1; i=$((i+1))
done; exit 0"#;

/// Finds out what has to be done on a host. Nothing is changed there.
///
/// # Errors
/// When the host cannot be reached or looked at, or how it is done there is not known.
pub async fn plan(host: &HostHandle, client: &Client) -> Result<Plan, SandboxError> {
    let now = match version(host, client).await {
        Ok(version) => Now::Answers(version),
        // Root's podman is no Docker, and the group docker opens nothing of it.
        Err(EngineError::Docker(error @ DockerError::Permission(_)))
            if !error.to_string().contains("podman") =>
        {
            Now::Closed(error.group().map(str::to_owned))
        }
        Err(EngineError::Docker(error)) if !matches!(error, DockerError::Lost) => Now::Silent,
        Err(error) => return Err(error.into()),
    };
    let facts = look::look(host, client).await?;
    Ok(Plan::new(&facts, &now)?)
}

/// Does what a plan says. `client` is whoever asked for it, whom a login may have to ask.
///
/// # Errors
/// When a command fails, how it ended is not known, or Docker does not answer in the end. All of it can be done again.
pub async fn install(
    host: HostHandle,
    plan: Plan,
    root: Root,
    client: Client,
    progress: Progress,
) -> Result<Outcome, SandboxError> {
    let mut notes = Vec::new();
    if plan.setup.docker_version.is_some() {
        notes.push("it was there already".to_owned());
        return Ok(outcome(plan.setup.docker_version, notes));
    }
    for (step, shown) in plan.steps.iter().zip(&plan.setup.commands) {
        progress.step(shown.as_str());
        remote::run(&host, &client, step, shown, &root, &progress).await?;
    }
    // The password is wiped here.
    drop(root);
    let cancel = progress.cancelled().clone();
    let answering = async {
        if plan.is_started {
            progress.step("waiting for Docker");
            socket(&host, &client).await?;
        }
        progress.step(format!("connecting anew, as a member of the group {}", plan.group));
        host.renew(&client).await.map_err(SandboxError::Unreachable)?;
        progress.step("asking Docker");
        answered(&host, &client, if plan.may_come { ANSWERS } else { Duration::ZERO }).await
    };
    let answered = cancel.run_until_cancelled(answering).await;
    match answered.unwrap_or(Err(SandboxError::Cancelled { undone: false })) {
        Ok(version) => Ok(outcome(Some(version), notes)),
        Err(SandboxError::Install(InstallError::Silent(_))) if !plan.is_started => {
            notes.push("nothing starts it there, and it does not run".to_owned());
            Ok(outcome(None, notes))
        }
        Err(error) => Err(error),
    }
}

fn outcome(docker_version: Option<String>, notes: Vec<String>) -> Outcome {
    Outcome { did: Did::Installed, sandbox: None, url: None, docker_version, notes }
}

/// Returns the version that the engine says, safe for a terminal.
async fn version(host: &HostHandle, client: &Client) -> Result<String, EngineError> {
    let docker = Engine::Host(host.clone()).docker(Tries::default(), client).await?;
    let version = docker.client().version().await.map_err(DockerError::from)?;
    Ok(sanitize(&version.version.unwrap_or_default()))
}

/// Waits for the engine's socket. What comes of it is seen when the engine is asked.
async fn socket(host: &HostHandle, client: &Client) -> Result<(), SandboxError> {
    let set = host.snapshot().settings.docker_socket.clone().unwrap_or_default();
    let argv = ["sh", "-c", SOCKET, "sh", &set].map(str::to_owned);
    remote::ask(host, client, &argv, None, ANSWERS * 2).await.map(drop)
}

/// Waits so long until the engine answers. It is asked once in any case.
async fn answered(
    host: &HostHandle,
    client: &Client,
    limit: Duration,
) -> Result<String, SandboxError> {
    let deadline = Instant::now() + limit;
    loop {
        let error = match version(host, client).await {
            Ok(version) => return Ok(version),
            Err(EngineError::Docker(error)) => error,
            Err(error) => return Err(error.into()),
        };
        // What a login did not find it does not find later, either.
        let is_final = matches!(error, DockerError::Missing | DockerError::Untold);
        if is_final || Instant::now() >= deadline {
            return Err(InstallError::Silent(error).into());
        }
        sleep(RETRY).await;
    }
}
