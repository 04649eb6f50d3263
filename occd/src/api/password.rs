//! Forgetting the passwords that are kept for a host.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use occ_proto::Code;
use occ_proto::host::Forgotten;

use super::App;
use super::error::{ApiError, ApiResult};
use super::extract::{Caller, Host};
use super::json::Json;
use crate::prompts::Questions;
use crate::ssh::error::chain;

pub(super) async fn forget(
    State(app): State<Arc<App>>,
    Host(host): Host,
    Caller(client): Caller,
) -> ApiResult<Json<Forgotten>> {
    let environment = &app.pool.context().dial;
    let questions = Questions::of(Arc::clone(&environment.prompts), &client);
    match environment.secrets.forget(host.name(), &questions).await {
        Ok(passwords) => Ok(Json(Forgotten { passwords })),
        Err(error) => {
            let (status, code) = match error.is_unanswered() {
                true => (StatusCode::CONFLICT, Code::InputNeeded),
                false => (StatusCode::INTERNAL_SERVER_ERROR, Code::Internal),
            };
            let detail = format!("The passwords cannot be forgotten: {}.", chain(&error));
            Err(ApiError::new(status, code, detail).host(host.name()))
        }
    }
}
