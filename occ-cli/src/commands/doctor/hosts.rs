//! Hosts: all of them from the daemon's memory, and one of them by a new connection.

use hyper::Method;
use occ_proto::exec::ExecResult;
use occ_proto::status::{HostList, HostStatus, State, TestReport};
use occ_proto::{Code, HostName};
use serde_json::json;
use tokio::time::timeout;

use super::{Finding, daemon};
use crate::autostart::{self, Start};
use crate::client::{Client, host_path};
use crate::commands::Context;
use crate::commands::daemon::granted;
use crate::error::{CliError, FAILED, NOT_FOUND};
use crate::hint::hint_for;
use crate::output::host::status_hint;
use crate::stranger;

/// How far apart two clocks may be, in seconds: what a round trip and a slow login shell may take, and more.
const APART: i64 = 5;

/// Looks at what a daemon that runs knows of the hosts. None is asked anything, and nothing is said of the link of the one
/// that is tested: what was wrong with it before is no news.
pub(super) async fn check(context: &Context<'_>, tested: Option<&HostName>) -> Vec<Finding> {
    // What is wrong with the daemon is told elsewhere.
    let Ok(found) = autostart::connect(context, Start::Never).await else { return Vec::new() };
    let client = Client::of(found, context.ui);
    let list = async { client.get("/v1/hosts").await?.parse::<HostList>() };
    // So is that it does not answer.
    let Ok(list) = timeout(daemon::PATIENCE, list).await else { return Vec::new() };
    let list = match list {
        Ok(list) => list,
        // It tells of its own host alone.
        Err(error) if granted(&client, &error).is_some() => return Vec::new(),
        Err(error) => {
            return vec![daemon::of("hosts", stranger::explained(context, error).await)];
        }
    };
    let mut findings = Vec::new();
    let connected = list.hosts.iter().filter(|host| host.state == State::Connected).count();
    findings.push(Finding::ok(
        "hosts",
        format!("configured: {}, connected: {connected}", list.hosts.len()),
    ));
    let others = list.hosts.iter().filter(|host| tested != Some(&host.name));
    findings.extend(others.filter_map(link));
    findings.extend(list.hosts.iter().filter_map(docker));
    findings
}

/// Returns what is wrong with a host's link. One that is merely not in use is well.
fn link(host: &HostStatus) -> Option<Finding> {
    let error = host.last_error.as_ref()?;
    let look = format!("occ doctor --host {}", host.name);
    let finding = match host.state {
        State::Failed => {
            // A look would ask for the same.
            let asks = matches!(error.code, Code::KeyLocked | Code::InputNeeded);
            let hint = asks.then(|| status_hint(host, error.code, &error.message)).flatten();
            Finding::failed("hosts", &error.message, hint.unwrap_or(look))
        }
        State::Backoff => Finding::warning("hosts", &error.message, look),
        _ => return None,
    };
    Some(finding.of(&host.name))
}

fn docker(host: &HostStatus) -> Option<Finding> {
    let fault = host.docker_error.as_ref().filter(|_| host.state == State::Connected)?;
    let hint = hint_for(fault.code, &host.name, &host.config, None, &fault.message);
    let hint = hint.unwrap_or_else(|| format!("occ doctor --host {}", host.name));
    Some(Finding::warning("docker", &fault.message, hint).of(&host.name))
}

/// Tests one host with a new connection, and compares its clock with ours.
pub(super) async fn deep(context: &Context<'_>, host: &HostName) -> Vec<Finding> {
    match tested(context, host).await {
        Ok(findings) => findings,
        Err(error) => {
            let error = stranger::explained(context, error).await;
            let exit = if error.exit == NOT_FOUND { NOT_FOUND } else { FAILED };
            vec![Finding { exit, ..daemon::of("host", error).of(host) }]
        }
    }
}

async fn tested(context: &Context<'_>, host: &HostName) -> Result<Vec<Finding>, CliError> {
    let client = context.client().await?;
    let report: TestReport = client.post(&host_path(host, "/test")).await?.parse()?;
    let list: HostList = client.get("/v1/hosts").await?.parse()?;
    let config = list.hosts.into_iter().find(|one| one.name == *host).map(|one| one.config);
    let problem = report.problem.as_ref().or(report.docker_problem.as_ref());
    let hint = problem
        .zip(config)
        .and_then(|(problem, config)| hint_for(problem.code, host, &config, None, &problem.detail));
    let hint = hint.unwrap_or_else(|| format!("occ history --host {host}; occ daemon logs"));
    let mut findings = Vec::new();
    for step in &report.steps {
        let text = format!("{}: {}", step.name, step.detail);
        let finding = match (step.ok, step.name == "docker") {
            (true, _) => Finding::ok("host", text),
            // A host without Docker is a host all the same.
            (false, true) => Finding::warning("host", text, &hint),
            (false, false) => Finding::failed("host", text, &hint),
        };
        findings.push(finding.of(host));
    }
    if report.ssh_ok {
        findings.extend(clock(&client, host).await);
    }
    Ok(findings)
}

/// Compares a host's clock with ours. A host that does not tell, as a policy may have it, is left alone.
async fn clock(client: &Client, host: &HostName) -> Option<Finding> {
    let body = json!({ "argv": ["date", "+%s"], "timeout_ms": 5000 });
    let before = jiff::Timestamp::now().as_second();
    let path = host_path(host, "/exec");
    let reply = client.request_beside(Method::POST, &path, &body).await.ok()?;
    let after = jiff::Timestamp::now().as_second();
    let result: ExecResult = reply.parse().ok()?;
    let there: i64 = result.stdout?.trim().parse().ok()?;
    let apart = if there < before { there - before } else { (there - after).max(0) };
    Some(if apart.abs() <= APART {
        Finding::ok("clock", "as ours").of(host)
    } else {
        let word = if apart < 0 { "behind" } else { "ahead of" };
        let hint = format!("occ exec --host {host} -- timedatectl");
        Finding::warning("clock", format!("{} s {word} ours", apart.abs()), hint).of(host)
    })
}
