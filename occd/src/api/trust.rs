//! Reviewing a host's key, and trusting it in place of what is on record. Nobody logs in for that.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use occ_proto::Code;
use occ_proto::trust::{HostKeyReview, Record, TrustKey};

use super::App;
use super::error::{self, ApiError, ApiResult};
use super::extract::{Body, Caller, Host};
use super::json::Json;
use super::params::HostPath;
use super::problems::{OfDial, OfTrust};
use crate::host::HostHandle;
use crate::host::machine::ConnectionId;
use crate::policy::Asker;
use crate::prompts::{Client, Questions};
use crate::ssh::dial::Dial;
use crate::ssh::error::chain;
use crate::ssh::hop::HopDemand;
use crate::ssh::host_key::ShownKey;
use crate::ssh::known_hosts::Verdict;
use crate::ssh::seen::Seen;

/// A look makes no connection of any host's generations.
const LOOK: ConnectionId = ConnectionId(0);

/// Shows the key of a host beside what is on record. Nobody logs in.
#[utoipa::path(
    get,
    path = "/v1/hosts/{host}/trust",
    tag = "links",
    operation_id = "reviewHostKey",
    params(HostPath),
    responses((status = 200, description = "The key", body = HostKeyReview), OfDial)
)]
pub(super) async fn review(
    State(app): State<Arc<App>>,
    Host(host): Host,
    Caller(client): Caller,
) -> ApiResult<Json<HostKeyReview>> {
    let shown = look(&app, &host, &client).await?;
    Ok(Json(describe(&host, &shown).await))
}

/// Puts the key that the server shows in the place of the user's records.
#[utoipa::path(
    post,
    path = "/v1/hosts/{host}/trust",
    tag = "links",
    operation_id = "trustHostKey",
    params(HostPath),
    request_body = TrustKey,
    responses((status = 200, description = "It is trusted", body = HostKeyReview), OfTrust)
)]
pub(super) async fn trust(
    State(app): State<Arc<App>>,
    Host(host): Host,
    Caller(client): Caller,
    asker: Asker,
    Body(wanted): Body<TrustKey>,
) -> ApiResult<Json<HostKeyReview>> {
    asker.trail.set(|line| line.detail = Some(wanted.shown.clone()));
    asker.trail.begin();
    // Looked at anew: it is this key that is trusted, and not whatever the server shows next.
    let shown = look(&app, &host, &client).await?;
    let conflict = |code, text| {
        Err(ApiError::new(StatusCode::CONFLICT, code, format!("{}: {text}", host.name()))
            .host(host.name()))
    };
    if shown.text() != wanted.shown {
        let text = format!("the server shows {} now, not {}.", shown.text(), wanted.shown);
        return conflict(Code::EditConflict, text);
    }
    match shown.verdict {
        Verdict::Known => {}
        Verdict::Revoked { ref file, line } => {
            let text = format!(
                "the key is revoked by {}:{line}; take that line away by hand if it is wrong.",
                file.display()
            );
            return conflict(Code::HostKeyRevoked, text);
        }
        Verdict::Unknown | Verdict::Changed { .. } => {
            tracing::info!(host = %host.name(), key = shown.text(), "a person trusts a host key");
            if let Err(failure) = shown.clone().trust().await {
                return conflict(Code::KnownHostsInvalid, format!("{}.", chain(&failure)));
            }
        }
    }
    // Also tells what is still in the way: a file of the system, which is not ours to change.
    let after = look(&app, &host, &client).await?;
    Ok(Json(describe(&host, &after).await))
}

async fn look(app: &App, host: &HostHandle, client: &Client) -> ApiResult<ShownKey> {
    let snapshot = host.snapshot();
    let context = app.pool.context();
    // Of the jump hosts: this one's key is what is looked at, and nobody logs in.
    let questions = Arc::new(Questions::of(Arc::clone(&context.dial.prompts), client));
    let dial = Dial {
        id: LOOK,
        name: Some(host.name()),
        config: &snapshot.config,
        settings: &app.settings(host.name()).dial,
        demand: HopDemand::Command,
        used: None,
        lend_agent: false,
        looks_at_hop: false,
        questions: &questions,
        environment: &context.dial,
        seen: &Seen::default(),
        tasks: &context.tasks,
    };
    dial.host_key().await.map_err(|failure| error::connect_error(host.name(), &failure))
}

async fn describe(host: &HostHandle, shown: &ShownKey) -> HostKeyReview {
    let (record, file, line, recorded) = match &shown.verdict {
        Verdict::Known => (Record::Known, None, None, Vec::new()),
        Verdict::Unknown => (Record::Unknown, None, None, Vec::new()),
        Verdict::Changed { file, line, known, .. } => {
            (Record::Changed, Some(file), Some(*line), known.clone())
        }
        Verdict::Revoked { file, line } => (Record::Revoked, Some(file), Some(*line), Vec::new()),
    };
    HostKeyReview {
        name: host.name().clone(),
        shown: shown.text(),
        record,
        authority: shown.authority.clone(),
        certificate: shown.refused.clone(),
        obstacle: match record {
            Record::Changed => shown.obstacle().await,
            Record::Known | Record::Unknown | Record::Revoked => None,
        },
        recorded,
        file: file.map(|file| file.display().to_string()),
        line,
    }
}
