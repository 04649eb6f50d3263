//! `/v1/log-level`: what the daemon logs.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use occ_proto::log::{LogLevel, SetLogLevel};

use super::App;
use super::error::{ApiError, ApiResult};
use super::extract::Body;
use super::json::Json;
use crate::policy::Asker;

/// The longest time for which something else is logged: 7 days.
const LONGEST: u64 = 7 * 24 * 3600 * 1000;

/// Tells what the daemon logs.
#[utoipa::path(
    get,
    path = "/v1/log-level",
    tag = "daemon",
    operation_id = "showLogLevel",
    responses((status = 200, description = "What is logged", body = LogLevel))
)]
pub(super) async fn show(State(app): State<Arc<App>>) -> Json<LogLevel> {
    Json(app.log.level())
}

/// Has the daemon log more or less from now on, for a while or until it ends.
#[utoipa::path(
    put,
    path = "/v1/log-level",
    tag = "daemon",
    operation_id = "setLogLevel",
    request_body = SetLogLevel,
    responses((status = 200, description = "It is set", body = LogLevel))
)]
pub(super) async fn set(
    State(app): State<Arc<App>>,
    asker: Asker,
    Body(wanted): Body<SetLogLevel>,
) -> ApiResult<Json<LogLevel>> {
    asker.trail.set(|line| line.detail = Some(wanted.level.to_string()));
    if wanted.for_ms.is_some_and(|ms| ms == 0 || ms > LONGEST) {
        return Err(ApiError::bad_request(
            "The time must be from 1 ms to 7 days: for_ms is at most 604800000.",
        ));
    }
    app.log.set(wanted.level, wanted.for_ms.map(Duration::from_millis));
    Ok(Json(app.log.level()))
}
