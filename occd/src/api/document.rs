//! `GET /v1/openapi.json`: the API as an OpenAPI 3.1 document.
//!
//! What is served is docs/openapi.json, of which a test sees to it that it is what `describe.rs` makes of the handlers and the
//! types: made at run time it would cost each start some milliseconds, and some MiB.

use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use occ_proto::files::{FileDigest, FileInfo, FileList, TreeWritten};
use occ_proto::files_follow::{SearchEvent, WatchEvent};
use serde::Serialize;
use utoipa::ToSchema;

const DOCUMENT: &str = include_str!("../../../docs/openapi.json");

/// Bytes as they are.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[allow(dead_code, reason = "for the document")]
pub(super) struct Binary(String);

/// What a GET of a file answers in JSON.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "for the document")]
pub(super) enum FileRead {
    Info(FileInfo),
    List(FileList),
}

/// What a GET of a file answers line by line.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "for the document")]
pub(super) enum FileEvent {
    Watch(WatchEvent),
    Search(SearchEvent),
}

/// What a PUT of a file answers.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "for the document")]
pub(super) enum FileWritten {
    Info(FileInfo),
    Tree(TreeWritten),
}

/// What a POST to a file answers.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "for the document")]
pub(super) enum FileChanged {
    Info(FileInfo),
    Digest(FileDigest),
}

/// Shows this document.
#[utoipa::path(
    get,
    path = "/v1/openapi.json",
    tag = "daemon",
    operation_id = "showDocument",
    responses((status = 200, description = "OpenAPI 3.1", body = Object))
)]
pub(super) async fn show() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT).into_response()
}
