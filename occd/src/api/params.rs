//! What requests say in paths and headers, for the document alone: the extractors read it themselves.
#![allow(dead_code, reason = "the fields are read by the derive")]

use occ_proto::HostName;
use occ_proto::session::SessionHost;
use utoipa::IntoParams;

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct HostPath {
    /// The host.
    host: HostName,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct PlacePath {
    /// The host, or `local`: this machine.
    host: SessionHost,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct FilePath {
    /// The host, or `local`: this machine.
    host: SessionHost,
    /// The path there, percent-encoded. It may have slashes as they are: `/etc/hosts` is absolute, `notes.txt` is in the
    /// home directory, and so is nothing at all.
    path: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct SessionPath {
    /// The ID of the session, or its name.
    id: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct ForwardPath {
    /// The ID of the forward.
    id: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct OperationPath {
    /// The ID of the operation.
    id: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(super) struct IfMatch {
    /// Only if it has one of these entity tags, or is there at all (`*`).
    #[param(rename = "If-Match")]
    if_match: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(super) struct IfNoneMatch {
    /// `*`: only if there is none yet.
    #[param(rename = "If-None-Match", pattern = r"^\*$")]
    if_none_match: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(super) struct FileReadHeaders {
    /// Only if it has none of these entity tags.
    #[param(rename = "If-None-Match")]
    if_none_match: Option<String>,
    /// One part of the bytes, as `bytes=0-99`, `bytes=100-` or `bytes=-100`.
    #[param(rename = "Range")]
    range: Option<String>,
    /// The part only if it has this entity tag, else all.
    #[param(rename = "If-Range")]
    if_range: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(super) struct LastEvent {
    /// The `id` of the last event that was seen.
    #[param(rename = "Last-Event-ID")]
    last_event_id: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(super) struct LastEventId {
    /// The id of the last event that was seen, in the place of `offset`.
    #[param(rename = "Last-Event-ID", pattern = "^(?:[0-9]{1,15})$")]
    last_event_id: Option<String>,
}
