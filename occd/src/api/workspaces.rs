//! `GET /v1/hosts/{host}/workspaces`: which directory here is which on the host.

use std::path::Path;
use std::sync::Arc;

use axum::extract::State;
use occ_proto::host::{Workspace, WorkspaceList};
use serde::Deserialize;

use super::App;
use super::error::{ApiError, ApiResult};
use super::extract::{Host, Query};
use super::json::Json;
use super::params::HostPath;
use super::problems::OfHost;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct WorkspacesQuery {
    /// Only what this directory here is.
    here: Option<String>,
    /// Only what this directory on the host is.
    there: Option<String>,
}

/// Tells which directory here is which on the host.
#[utoipa::path(
    get,
    path = "/v1/hosts/{host}/workspaces",
    tag = "files",
    operation_id = "listWorkspaces",
    params(HostPath, WorkspacesQuery),
    responses((status = 200, description = "The workspaces", body = WorkspaceList), OfHost)
)]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    Query(query): Query<WorkspacesQuery>,
    Host(host): Host,
) -> ApiResult<Json<WorkspaceList>> {
    let workspaces = app.settings(host.name()).workspaces;
    let home = app.local.home();
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let of = |here: String, there: String| Workspace { here, there };
    let found = match (query.here, query.there) {
        (Some(_), Some(_)) => {
            return Err(ApiError::bad_request("here and there exclude each other."));
        }
        (Some(here), None) => {
            let there = workspaces.there(home, Path::new(&here));
            there.map(|there| of(here, there)).into_iter().collect()
        }
        (None, Some(there)) => {
            let here = workspaces.here(home, Path::new(&there));
            here.map(|here| of(text(&here), there)).into_iter().collect()
        }
        (None, None) => {
            workspaces.all(home).into_iter().map(|(here, there)| of(text(&here), there)).collect()
        }
    };
    Ok(Json(WorkspaceList { workspaces: found }))
}
