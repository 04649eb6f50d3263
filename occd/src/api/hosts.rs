//! `/v1/hosts`: the configured hosts and their state.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body as HttpBody;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use occ_proto::host::{AddHost, Forgotten, PatchHost};
use occ_proto::status::{HostList, HostSaved, HostStatus, State as LinkState, TestReport};
use occ_proto::{Code, HostConfig, HostName, HostsFile};
use serde::Deserialize;
use tokio::time::timeout;

use super::App;
use super::error::{self, ApiError, ApiResult};
use super::extract::{Body, Caller, Host, Query, check_match};
use super::json::{self, Json};
use super::params::{HostPath, IfMatch};
use super::password::deleted;
use super::problems::{OfHost, OfHostEdit, OfHostRemoval, OfHostsFile};
use super::shown::{self, Shown as _};
use super::test::test;
use crate::config::duration;
use crate::host::{HostHandle, Tries, etag};
use crate::hosts::HostsSnapshot;
use crate::policy::Asker;
use crate::prompts::{Client, Questions};
use crate::ssh::Connection;
use crate::ssh::error::chain;

/// How long a client waits for a change unless it says so, and at most.
const WAIT: Duration = Duration::from_secs(30);
const WAIT_MAX: Duration = Duration::from_secs(300);

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Answer when the list is another than at this revision.
    since: Option<u64>,
    /// How long to wait for that at most, such as `30s`; 30 s unless given.
    #[serde(default, deserialize_with = "duration")]
    #[param(value_type = Option<String>)]
    wait: Option<Duration>,
}

/// Lists the hosts and the state of their links.
#[utoipa::path(
    get,
    path = "/v1/hosts",
    tag = "hosts",
    operation_id = "listHosts",
    params(ListQuery),
    responses((status = 200, description = "The hosts", body = HostList), OfHostsFile)
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Query(query): Query<ListQuery>,
    asker: Asker,
) -> ApiResult<Response> {
    let snapshot = app.hosts.current();
    let now = listed(&app, &snapshot, &asker)?.to(&asker);
    let wait = query.wait.unwrap_or(WAIT);
    if wait > WAIT_MAX {
        let text = format!("wait: no more than {} s.", WAIT_MAX.as_secs());
        return Err(ApiError::bad_request(text));
    }
    if query.since != Some(now.revision) {
        return Ok(Json(now).into_response());
    }
    // The head of the answer goes at once, and the request with it: who waits takes nobody's place.
    let later = async move {
        let mut changes = app.changes.watch();
        let changed = async {
            while app.changes.revision() == now.revision && changes.changed().await.is_ok() {}
        };
        tokio::select! {
            // Either way the list is told as it is.
            _ = timeout(wait, changed) => {}
            () = app.stop.cancelled() => {}
        }
        let list = listed(&app, &app.hosts.current(), &asker);
        let list = list.map_or(now, |list| list.to(&asker));
        Ok::<_, Infallible>(json::line(&list))
    };
    let kind = HeaderValue::from_static("application/json");
    let body = HttpBody::from_stream(stream::once(later));
    Ok(([(header::CONTENT_TYPE, kind)], body).into_response())
}

/// Returns the hosts of hosts.json as they are, each with what somebody may know of its sandbox.
fn listed(app: &App, snapshot: &HostsSnapshot, asker: &Asker) -> ApiResult<HostList> {
    // With a broken file and nothing known, an empty list would be a lie.
    snapshot.usable().map_err(ApiError::from)?;
    // Before anything is looked at: what changes meanwhile counts as after it.
    let revision = app.changes.revision();
    let configured = snapshot.file.hosts.keys().filter_map(|name| app.pool.get(name));
    Ok(HostList {
        revision,
        hosts: configured.map(|host| app.with_sandbox_for(asker, host.status())).collect(),
        via: app.pool.via().iter().map(HostHandle::status).collect(),
        default_host: snapshot.file.default_host.clone(),
        warnings: shown::warnings(asker)(app.warnings(snapshot)),
    })
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ShowQuery {
    /// Wait for a connection if there is none.
    #[serde(default)]
    fresh: bool,
    /// How many times to dial again for that.
    retries: Option<u32>,
}

/// Tells the state of a host. One that is idle is dialled then, which the answer waits for with `fresh=true`.
#[utoipa::path(
    get,
    path = "/v1/hosts/{host}",
    tag = "hosts",
    operation_id = "showHost",
    params(HostPath, ShowQuery),
    responses((status = 200, description = "The host, whose `ETag` is that of its settings", body = HostStatus, headers(("etag" = String, description = "The version of its settings"))), OfHost)
)]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    Query(query): Query<ShowQuery>,
    Host(host): Host,
    Caller(client): Caller,
    asker: Asker,
) -> ApiResult<Response> {
    if query.fresh {
        asker.may_ask_hosts()?;
        // The state says what went wrong, so a failed dial is an answer too.
        let tries = Tries::of(query.retries, None);
        if let Err(unreachable) = host.connection(tries, &client).await {
            tracing::debug!(host = %host.name(), error = unreachable.error.for_log(), "asked for a fresh status");
        }
    } else if !asker.only_looks
        && matches!(host.snapshot().state, LinkState::Idle | LinkState::Failed)
    {
        // Whoever looks will want to use it, or has done something about it. The answer does not wait.
        host.glance();
    }
    let mut status = app.with_sandbox_for(&asker, host.full_status()).to(&asker);
    status.warnings = shown::warnings(&asker)(app.warnings(&app.hosts.current()));
    Ok(([(header::ETAG, status.etag.clone())], Json(status)).into_response())
}

/// Adds a host, once it could be connected to unless `verify` is false.
#[utoipa::path(
    post,
    path = "/v1/hosts",
    tag = "hosts",
    operation_id = "addHost",
    request_body = AddHost,
    responses((status = 201, description = "The host is saved", body = HostSaved), OfHostEdit)
)]
pub(super) async fn add(
    State(app): State<Arc<App>>,
    Caller(client): Caller,
    asker: Asker,
    Body(request): Body<AddHost>,
) -> ApiResult<Response> {
    let AddHost { name, config, verify, force } = request;
    asker.trail.set(|line| {
        line.host = Some(name.to_string());
        line.detail = Some(serde_json::to_string(&config).unwrap_or_default());
    });
    asker.trail.begin();
    let exists = |hosts: &HostsFile| !force && hosts.hosts.contains_key(&name);
    let refuse = || {
        ApiError::new(
            StatusCode::CONFLICT,
            Code::HostExists,
            format!("Host '{name}' already exists. Only `force` overwrites it; or choose a different name."),
        )
        .host(&name)
    };
    let insert = |file: &mut HostsFile| {
        if exists(file) {
            return Err(refuse());
        }
        file.hosts.insert(name.clone(), config.clone());
        refuse_circle(file, &name)
    };
    // Before the test, which may take a while; and again when it is written.
    insert(&mut app.hosts.current().usable().map_err(ApiError::from)?.clone())?;
    check_allowed(&app, &name, &config).await?;
    let verified = match verify {
        true => Some(verified(&app, &name, &config, &client).await?),
        false => None,
    };
    let taken_away = take_away_earlier(&app, &name).await?;
    app.hosts.update(insert).await.map_err(ApiError::from)?;
    let saved = HostSaved { taken_away, ..reload(&app, &name, verified).await? };
    Ok((StatusCode::CREATED, Json(saved)).into_response())
}

/// Changes the settings of a host: what is absent stays, and null clears.
#[utoipa::path(
    patch,
    path = "/v1/hosts/{host}",
    tag = "hosts",
    operation_id = "editHost",
    params(HostPath, IfMatch),
    request_body = PatchHost,
    responses((status = 200, description = "The host is saved", body = HostSaved), OfHostEdit)
)]
pub(super) async fn edit(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Host(host): Host,
    Caller(client): Caller,
    asker: Asker,
    Body(patch): Body<PatchHost>,
) -> ApiResult<Json<HostSaved>> {
    asker.trail.set(|line| line.detail = serde_json::to_string(&patch).ok());
    asker.trail.begin();
    let name = host.name();
    let before = configured(&app, name)?;
    check_match(&headers, name, &etag(&before))?;
    let after = patch.apply(&before);
    let change = |file: &mut HostsFile| {
        let config = file.hosts.get_mut(name).ok_or_else(|| ApiError::host_not_found(name))?;
        // Without If-Match the patch applies to whatever is there by now.
        check_match(&headers, name, &etag(config))?;
        *config = patch.apply(config);
        if patch.jump_host.is_some() { refuse_circle(file, name) } else { Ok(()) }
    };
    change(&mut app.hosts.current().usable().map_err(ApiError::from)?.clone())?;
    if !before.same_connection(&after) {
        check_allowed(&app, name, &after).await?;
    }
    let verified = if patch.verify.unwrap_or(true) && !before.same_connection(&after) {
        Some(verified(&app, name, &after, &client).await?)
    } else {
        None
    };
    app.hosts.update(change).await.map_err(ApiError::from)?;
    Ok(Json(reload(&app, name, verified).await?))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct RemoveQuery {
    /// End what is running there.
    #[serde(default)]
    force: bool,
}

/// Removes a host, and what was kept for it: what leads there, and its grants.
#[utoipa::path(
    delete,
    path = "/v1/hosts/{host}",
    tag = "hosts",
    operation_id = "removeHost",
    params(HostPath, RemoveQuery, IfMatch),
    responses((status = 204, description = "It is removed"), OfHostRemoval)
)]
pub(super) async fn remove(
    State(app): State<Arc<App>>,
    Query(query): Query<RemoveQuery>,
    headers: HeaderMap,
    Host(host): Host,
) -> ApiResult<StatusCode> {
    let name = host.name().clone();
    let running = host.snapshot().open_channels();
    if running > 0 && !query.force {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            Code::HostBusy,
            format!("{name} has {running} channels in use."),
        )
        .host(&name));
    }
    // Goes on when its client leaves: a host that is half removed leaves to the next of its name what led to it.
    let removing = app.tasks.spawn(take_away(Arc::clone(&app), name, headers));
    removing.await.unwrap_or_else(|_| Err(ApiError::new_internal("The removal failed.")))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Takes a host out of hosts.json, and away what was kept for it.
async fn take_away(app: Arc<App>, name: HostName, headers: HeaderMap) -> ApiResult<()> {
    app.hosts
        .update(|file| {
            let config = file.hosts.get(&name).ok_or_else(|| ApiError::host_not_found(&name))?;
            check_match(&headers, &name, &etag(config))?;
            file.hosts.shift_remove(&name);
            // A default that names nothing would make every command fail.
            file.default_host.take_if(|default| *default == name);
            Ok(())
        })
        .await
        .map_err(ApiError::from)?;
    let config = app.config.current().config;
    app.reload(&app.hosts.current(), &config).await;
    // After the reload: to a host that is gone none is added any more.
    let cut_off = cut_off(&app, &name).await;
    forget_passwords(&app, name.clone());
    cut_off.map_err(|failure| {
        let but = "is removed, but what led to it comes back with the next daemon";
        still_leads(&name, but, &failure)
    })
}

/// Returns that what leads to a host is not forgotten, with what that means for the host.
fn still_leads(name: &HostName, but: &str, failure: &io::Error) -> ApiError {
    let (status, code) = error::unsaved(failure);
    ApiError::new(status, code, format!("Host '{name}' {but}: {failure}.")).host(name)
}

/// Takes away what leads to a host, or from one: another server may have the name next.
async fn cut_off(app: &App, name: &HostName) -> io::Result<()> {
    app.grants.revoke_all(name);
    let forwards = app.forwards.remove_of_host(name).await;
    let socket = app.docker_sockets.close(name);
    forwards.and(socket.map(drop))
}

/// Takes away what led to an earlier host of that name, if hosts.json has none, and returns it for people. Whoever took
/// that host out by hand may have put it back; whoever adds one means another.
async fn take_away_earlier(app: &App, name: &HostName) -> ApiResult<Vec<String>> {
    if app.hosts.current().file.hosts.contains_key(name) {
        return Ok(Vec::new());
    }
    let grants = app.grants.list().into_iter().filter(|grant| grant.host == *name);
    let forwards = app.forwards.list().into_iter().filter(|forward| forward.host == *name);
    let socket = app.docker_sockets.is_wanted(name).then(|| "the Docker socket".to_owned());
    let earlier: Vec<String> = grants
        .map(|grant| format!("the grant {}", grant.name))
        .chain(forwards.map(|forward| format!("the forward at {}", forward.listen)))
        .chain(socket)
        .collect();
    if !earlier.is_empty() {
        cut_off(app, name).await.map_err(|failure| {
            let what = earlier.join(", ");
            let but = format!(
                "is not added: what led to an earlier one of that name ({what}) cannot be taken away"
            );
            still_leads(name, &but, &failure)
        })?;
    }
    Ok(earlier)
}

/// Forgets the passwords of a host that is no more, in the background: the keyring may take long.
fn forget_passwords(app: &App, name: HostName) {
    let (context, audit) = (Arc::clone(app.pool.context()), app.guard.audit().clone());
    app.pool.context().tasks.spawn(async move {
        // Nobody is asked: what is locked stays, and `forget-password` deletes it by the name.
        let nobody = Questions::new(Arc::clone(&context.dial.prompts));
        match context.dial.secrets.forget(&name, &nobody).await {
            Ok(Forgotten { passwords: 0, .. }) => {}
            Ok(Forgotten { passwords, .. }) => {
                audit.note("password.forget", Some(name.as_str()), deleted(passwords));
            }
            Err(error) => {
                tracing::warn!(host = %name, error = chain(&error), "its passwords are still kept");
            }
        }
    });
}

/// Refuses a host that is reached through itself.
fn refuse_circle(file: &HostsFile, name: &HostName) -> ApiResult<()> {
    let Some(way) = file.jump_circle(name) else { return Ok(()) };
    let detail = match way.len() {
        2 => format!("Host '{name}' cannot be its own jump host."),
        _ => {
            let names: Vec<&str> = way.iter().map(HostName::as_str).collect();
            format!("Host '{name}' would be reached through itself: {}.", names.join(", "))
        }
    };
    Err(ApiError::bad_request(detail).host(name))
}

/// Refuses a host that whoever administers this machine does not have connected to.
async fn check_allowed(app: &App, name: &HostName, config: &HostConfig) -> ApiResult<()> {
    match app.pool.check_allowed(config).await {
        Err(error) if error.code() == Code::PolicyDenied => Err(error::connect_error(name, &error)),
        // Whatever else is wrong is for the dial to say.
        _ => Ok(()),
    }
}

fn configured(app: &App, name: &HostName) -> ApiResult<HostConfig> {
    let snapshot = app.hosts.current();
    let file = snapshot.usable().map_err(ApiError::from)?;
    file.hosts.get(name).cloned().ok_or_else(|| ApiError::host_not_found(name))
}

/// A host that could be connected to before it was saved.
struct Verified {
    config: HostConfig,
    report: TestReport,
    connection: Option<Arc<Connection>>,
}

/// Tests a host before it is saved. No Docker is not a failure.
async fn verified(
    app: &App,
    name: &HostName,
    config: &HostConfig,
    client: &Client,
) -> ApiResult<Verified> {
    let settings = app.settings(name);
    let (mut report, connection) = test(app.pool.context(), name, config, &settings, client).await;
    match report.problem.take() {
        Some(problem) => Err(error::ApiError(Box::new(problem))),
        None => Ok(Verified { config: config.clone(), report, connection }),
    }
}

/// Brings the pool in line with what was just saved and returns the host's status. The connection that was made to
/// verify it is the host's from now on: whoever answered a question for it is not asked again.
async fn reload(app: &App, name: &HostName, verified: Option<Verified>) -> ApiResult<HostSaved> {
    let snapshot = app.hosts.current();
    let config = app.config.current().config;
    if app.pool.get(name).is_none() {
        app.reload(&snapshot, &config).await;
    }
    let mut test = None;
    if let Some(Verified { config, report, connection }) = verified {
        test = Some(report);
        // Somebody else may have edited it meanwhile.
        let saved = snapshot.file.hosts.get(name).filter(|saved| saved.same_connection(&config));
        match (saved, connection, app.pool.get(name)) {
            // Before the reload, for which the configuration is then no new one.
            (Some(saved), Some(connection), Some(host)) => {
                let taken = host.take(saved.clone(), app.settings(name), connection).await;
                if let Err(gone) = taken {
                    tracing::debug!(host = %name, error = gone.error.for_log(), "removed meanwhile");
                }
            }
            (_, Some(connection), _) => connection.close().await,
            (_, None, _) => {}
        }
    }
    app.reload(&snapshot, &config).await;
    let host = app.pool.get(name).ok_or_else(|| ApiError::host_not_found(name))?;
    let mut status = host.status();
    // The host's actor learns its new configuration in a moment; the answer shows it already.
    if let Some(config) = app.hosts.current().file.hosts.get(name) {
        status.etag = etag(config);
        status.config = config.clone();
    }
    Ok(HostSaved { host: status, test, taken_away: Vec::new() })
}
