//! Forgetting the passwords that are kept for a host.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use occ_proto::host::Forgotten;
use occ_proto::{Code, HostName};

use super::App;
use super::error::{ApiError, ApiResult};
use super::extract::{Caller, Path};
use super::json::Json;
use super::params::HostPath;
use super::problems::OfDial;
use crate::policy::Asker;
use crate::prompts::Questions;
use crate::ssh::error::chain;

/// Forgets the passwords that are kept for a host, also for one that is no more.
#[utoipa::path(
    delete,
    path = "/v1/hosts/{host}/password",
    tag = "links",
    operation_id = "forgetPasswords",
    params(HostPath),
    responses((status = 200, description = "How many there were", body = Forgotten), OfDial)
)]
pub(super) async fn forget(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Caller(client): Caller,
    asker: Asker,
) -> ApiResult<Json<Forgotten>> {
    // Also one that is no more: its passwords may have outlived it.
    let name =
        HostName::new(name).map_err(|error| ApiError::bad_request(format!("The {error}.")))?;
    let environment = &app.pool.context().dial;
    let questions = Questions::of(Arc::clone(&environment.prompts), &client);
    match environment.secrets.forget(&name, &questions).await {
        Ok(forgotten) => {
            match forgotten.passwords {
                // `occ host remove` asks for this whether anything is kept or not.
                0 => asker.trail.forget(),
                count => asker.trail.set(|line| line.detail = Some(deleted(count))),
            }
            let is_known = forgotten.passwords > 0 || name.is_via() || {
                let snapshot = app.hosts.current();
                snapshot.usable().map_err(ApiError::from)?.hosts.contains_key(&name)
            };
            if is_known { Ok(Json(forgotten)) } else { Err(ApiError::host_not_found(&name)) }
        }
        Err(error) => {
            let (status, code) = match error.is_unanswered() {
                true => (StatusCode::CONFLICT, Code::InputNeeded),
                false => (StatusCode::INTERNAL_SERVER_ERROR, Code::Internal),
            };
            let detail = format!("The passwords cannot be forgotten: {}.", chain(&error));
            Err(ApiError::new(status, code, detail).host(&name))
        }
    }
}

/// Returns what the audit log has of it.
pub(super) fn deleted(count: usize) -> String {
    format!("{count} deleted")
}
