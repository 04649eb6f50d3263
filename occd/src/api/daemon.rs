//! `/healthz` and `/v1/version`.

use std::sync::Arc;

use axum::extract::State;
use occ_proto::daemon::{Health, Version};
use occ_proto::{API_VERSION, MIN_CLIENT};

use super::json::Json;
use super::{App, see_files, shown};
use crate::policy::Asker;

/// Words for what this daemon can do; none is ever taken away within an API version.
const CAPABILITIES: [&str; 31] = [
    "hosts",
    "exec",
    "exec-stream",
    "exec-websocket",
    "host-test",
    "container-status",
    "prompts",
    "unlock",
    "trust",
    "history",
    "passwords",
    "hand-over",
    "openapi",
    "idempotency-key",
    "operations",
    "container",
    "docker-socket",
    "docker-setup",
    "files",
    "files-tar",
    "files-follow",
    "sessions",
    "forwards",
    "policy",
    "grants",
    "events",
    "read-only-socket",
    "metrics",
    "log-level",
    "trace",
    "audit",
];

/// Says that the daemon is alive, with the number of tasks that live in it: one that keeps growing is a leak.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "daemon",
    operation_id = "health",
    responses((status = 200, description = "It is", body = Health))
)]
pub(super) async fn health() -> Json<Health> {
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    Json(Health { status: "ok".into(), tasks: u64::try_from(tasks).unwrap_or(u64::MAX) })
}

/// Tells what the daemon is, which clients it serves, why the files on disk are not what is in force, and what it lacks.
#[utoipa::path(
    get,
    path = "/v1/version",
    tag = "daemon",
    operation_id = "version",
    responses((status = 200, description = "The daemon", body = Version))
)]
pub(super) async fn version(State(app): State<Arc<App>>, asker: Asker) -> Json<Version> {
    // Whoever asks has perhaps just mended them.
    see_files(&app).await;
    let hosts = app.hosts.current();
    Json(Version {
        version: env!("CARGO_PKG_VERSION").into(),
        api_version: API_VERSION,
        min_client: MIN_CLIENT.into(),
        capabilities: CAPABILITIES.map(str::to_owned).to_vec(),
        pid: std::process::id(),
        started_at: app.started_at,
        socket: app.socket.display().to_string(),
        read_only_socket: app.read_only_socket.as_ref().map(|path| path.display().to_string()),
        warnings: {
            let mut warnings = app.warnings(&hosts);
            // No reason for anything to fail, so that other answers need not tell it.
            warnings.extend(app.guard.audit().problem());
            warnings.extend(app.lacking.iter().cloned());
            shown::warnings(&asker)(warnings)
        },
        hosts_unsaved: hosts.is_unsaved() && !asker.sees_less(),
    })
}
