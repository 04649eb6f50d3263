//! What a fresh connection to a host meets, for `occ host test` and before a host is saved. The pooled connection
//! is not touched.

use std::sync::Arc;

use axum::extract::State;
use occ_proto::status::{Phase, SystemUnknown, TestReport};
use occ_proto::{HostConfig, HostName};
use tokio::time::Instant;

use super::App;
use super::error::{self, ApiResult};
use super::extract::{Caller, Host};
use super::json::Json;
use super::params::HostPath;
use super::problems::OfHost;
use crate::config::EffectiveSettings;
use crate::container::{Docker, DockerError};
use crate::exec::ExecError;
use crate::host::HostContext;
use crate::host::machine::ConnectionId;
use crate::policy::Asker;
use crate::prompts::{Client, Questions};
use crate::ssh::Connection;
use crate::ssh::dial::{Dial, Steps};
use crate::ssh::error::chain;
use crate::ssh::hop::HopDemand;
use crate::ssh::seen::Seen;

/// Test connections are of no host's generations.
const TEST: ConnectionId = ConnectionId(0);

/// Dials a host anew, runs a command and asks Docker, and tells what became of each step. The pooled connection is not touched.
#[utoipa::path(
    post,
    path = "/v1/hosts/{host}/test",
    tag = "links",
    operation_id = "testHost",
    params(HostPath),
    responses((status = 200, description = "What it met", body = TestReport), OfHost)
)]
pub(super) async fn run(
    State(app): State<Arc<App>>,
    Host(host): Host,
    Caller(client): Caller,
    asker: Asker,
) -> ApiResult<Json<TestReport>> {
    let (config, settings) = (host.snapshot().config.clone(), app.settings(host.name()));
    let context = app.pool.context();
    let (report, connection) = test(context, host.name(), &config, &settings, &client).await;
    if let Some(connection) = connection {
        connection.close().await;
    }
    // The answer itself is no problem.
    if let Some(problem) = &report.problem {
        asker.trail.failed(problem.code);
    }
    if report.ssh_ok {
        // What kept the host from connecting has been mended.
        host.mended();
    }
    Ok(Json(report))
}

/// Dials a host anew, runs a command and asks Docker. Returns the connection, if one was made that commands can use.
pub(super) async fn test(
    context: &HostContext,
    name: &HostName,
    config: &HostConfig,
    settings: &EffectiveSettings,
    client: &Client,
) -> (TestReport, Option<Arc<Connection>>) {
    let questions = Arc::new(Questions::of(Arc::clone(&context.dial.prompts), client));
    let mut steps = Steps::default();
    let mut report = TestReport {
        name: name.clone(),
        ssh_ok: false,
        docker_ok: false,
        docker_version: None,
        new_host_key: None,
        steps: Vec::new(),
        problem: None,
        docker_problem: None,
    };
    let dial = Dial {
        id: TEST,
        name: Some(name),
        config,
        settings: &settings.dial,
        demand: HopDemand::Command,
        used: None,
        lend_agent: false,
        looks_at_hop: true,
        questions: &questions,
        environment: &context.dial,
        seen: &Seen::default(),
        tasks: &context.tasks,
    };
    let connection = match dial.run(&mut steps).await {
        Ok(connection) => connection,
        Err(failure) => {
            let phase = failure.phase().as_str();
            match failure.blame() {
                (error, Some(hop)) => {
                    // A connection that was made and ended stopped at nothing.
                    let at = match failure.phase() {
                        Phase::Established | Phase::Unknown => String::new(),
                        _ => format!(" stopped at {phase}"),
                    };
                    steps.failed("jump", format!("{hop}{at}: {}", chain(error)));
                }
                (error, None) => steps.failed(phase, chain(error)),
            }
            report.problem = Some(*error::connect_error(name, &failure).into_problem());
            report.steps = steps.taken;
            return (report, None);
        }
    };
    report.new_host_key = connection.new_host_key().then(|| connection.info().host_key);
    let begun = Instant::now();
    let system = connection.system().await;
    // One that grants no session runs nothing: that is no place for commands.
    if let Err(failure) = connection.session(false).await {
        steps.failed("command", chain(&failure));
        let failure = ExecError::NoSession(failure);
        report.problem = Some(*error::exec(name, &failure).into_problem());
        connection.close().await;
        report.steps = steps.taken;
        return (report, None);
    }
    report.ssh_ok = true;
    match system {
        Some(system) if !system.shell.is_empty() => {
            steps.ok(
                "command",
                format!("{} on {} {}", system.shell, system.os, system.arch),
                begun,
            );
        }
        // The login itself is what was promised.
        Some(system) => {
            let why = match system.unknown {
                Some(SystemUnknown::ProbeOff) => "none was run (probe = false in occd.toml)",
                Some(SystemUnknown::NoAnswer) => "the host did not answer what it is",
                // Or a system without sh.
                _ => "the host runs none of ours (forced command?)",
            };
            steps.ok("command", why.into(), begun);
        }
        None => steps.failed("command", format!("the connection was lost: {}", connection.cause())),
    }
    let begun = Instant::now();
    let asked = async {
        let socket = settings.docker_socket.as_deref();
        let docker = Docker::connect(&connection, socket, None).await?;
        docker.client().version().await.map_err(DockerError::from)
    };
    match asked.await {
        Ok(version) => {
            let version = occ_proto::text::sanitize(&version.version.unwrap_or_default());
            steps.ok("docker", version.clone(), begun);
            report.docker_ok = true;
            report.docker_version = Some(version);
        }
        Err(failure) => {
            steps.failed("docker", error::docker_text(&failure));
            report.docker_problem = Some(*error::docker(name, &failure).into_problem());
        }
    }
    report.steps = steps.taken;
    (report, Some(connection))
}
