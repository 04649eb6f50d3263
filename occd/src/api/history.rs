//! `GET /v1/hosts/{host}/history`: what became of a host's link.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use occ_proto::Code;
use occ_proto::history::History;
use serde::Deserialize;

use super::App;
use super::error::{ApiError, ApiResult};
use super::extract::{Host, Query};
use super::json::Json;
use super::params::HostPath;
use super::problems::OfHost;
use super::shown::Shown as _;
use crate::history::KEPT;
use crate::policy::Asker;

/// How far back an answer goes unless the client says otherwise.
const USUAL: SignedDuration = SignedDuration::from_hours(7 * 24);

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct HistoryQuery {
    /// A moment (RFC 3339), or a time before now, such as `24h`.
    since: Option<String>,
}

pub(super) fn bad_since() -> ApiError {
    ApiError::bad_request(
        "since must be a moment such as 2026-11-21T14:00:00Z or a time such as 24h.",
    )
}

/// Tells what became of a host's link: 7 days unless said, 90 at most.
#[utoipa::path(
    get,
    path = "/v1/hosts/{host}/history",
    tag = "links",
    operation_id = "showHistory",
    params(HostPath, HistoryQuery),
    responses((status = 200, description = "Its changes", body = History), OfHost)
)]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    Query(query): Query<HistoryQuery>,
    Host(host): Host,
    asker: Asker,
) -> ApiResult<Json<History>> {
    let now = Timestamp::now();
    let since = match &query.since {
        None => now - USUAL,
        Some(text) => since(text, now).ok_or_else(bad_since)?,
    };
    if since < now - KEPT {
        let text =
            format!("since: the history goes back {} days, no further.", KEPT.as_hours() / 24);
        return Err(ApiError::bad_request(text));
    }
    let history = app.archive.read(host.name().clone(), since).await.map_err(|error| {
        let detail = format!("The history of {} cannot be read: {error}.", host.name());
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, Code::Internal, detail).host(host.name())
    })?;
    Ok(Json(history.to(&asker)))
}

pub(super) fn since(text: &str, now: Timestamp) -> Option<Timestamp> {
    if let Ok(moment) = text.parse() {
        return Some(moment);
    }
    // The friendly format has hours at most: days differ in length elsewhere.
    let (days, rest) = match text.split_once('d') {
        Some((days, rest)) => (days.parse::<i64>().ok()?, rest.trim()),
        None => (0, text),
    };
    let rest: SignedDuration =
        if rest.is_empty() { SignedDuration::ZERO } else { rest.parse().ok()? };
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let time = SignedDuration::from_secs(days.checked_mul(24 * 3600)?).checked_add(rest)?;
    if time.is_negative() { None } else { now.checked_sub(time).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_moment_or_a_time_before_now() {
        let now: Timestamp = "2026-11-21T14:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("2026-11-20T00:00:00Z", "2026-11-20T00:00:00Z"),
            ("24h", "2026-11-20T14:00:00Z"),
            ("1d", "2026-11-20T14:00:00Z"),
            ("1d 2h", "2026-11-20T12:00:00Z"),
            ("90m", "2026-11-21T12:30:00Z"),
        ] {
            assert_eq!(since(text, now), Some(expected.parse().unwrap()), "{text}");
        }
        for bad in [
            "",
            "yesterday",
            "-1d",
            "-1h",
            "1x",
            "d",
            "x1h",
            "99999999999999d",
            "99999999999999999d",
        ] {
            assert_eq!(since(bad, now), None, "{bad}");
        }
    }
}
