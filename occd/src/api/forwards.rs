//! The ports of this machine that lead to ports of hosts.

use std::sync::Arc;

use axum::extract::State;
use occ_proto::forward::ForwardList;

use super::App;
use super::json::Json;

pub(super) async fn list(State(app): State<Arc<App>>) -> Json<ForwardList> {
    let by_name_port = app.forwards.by_name();
    Json(ForwardList { forwards: app.forwards.list(), by_name_port })
}
