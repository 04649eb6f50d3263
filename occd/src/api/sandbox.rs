//! What is done with the sandbox of a host, or of this machine.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use occ_proto::container::{
    ContainerStatus, OneTimePassword, SandboxSpec, StartRequest, StopRequest, SyncRequest,
    UpdateRequest,
};
use occ_proto::forward::{Endpoint, Service};
use occ_proto::operation::{Did, Operation, OperationKind, Outcome};
use occ_proto::{Code, HostName};

use super::App;
use super::error::{self, ApiError, ApiResult};
use super::extract::{Body, Caller, EngineOf, OptionalBody, Query, engine_named};
use super::json::Json;
use super::links::TriesQuery;
use super::operations;
use super::params::PlacePath;
use super::problems::OfSandbox;
use crate::audit::Trail;
use crate::container::{
    self, Docker, Engine, LocalEngine, NotBegun, OpencodeConfig, Progress, Running, SandboxError,
    SandboxSettings, is_running, published,
};
use crate::forward::NoPort;
use crate::host::Tries;
use crate::policy::{Asker, Request};
use crate::prompts::Client;

fn url(address: &str, port: u16) -> String {
    match address.contains(':') {
        true => format!("http://[{address}]:{port}"),
        false => format!("http://{address}:{port}"),
    }
}

impl App {
    /// Returns this machine's engine.
    pub(super) fn local_engine(&self) -> Engine {
        let tasks = self.tasks.clone();
        Engine::Local(Arc::new(match &self.config.current().config.local.docker_socket {
            Some(socket) => LocalEngine::at(socket.clone(), tasks),
            None => LocalEngine::find(&self.pool.context().dial.home, tasks),
        }))
    }

    /// Returns how a sandbox is to be made there.
    fn sandbox_settings(&self, engine: &Engine) -> Result<SandboxSettings, SandboxError> {
        let shared = OpencodeConfig::find(&self.opencode_config)?;
        let config = self.config.current().config;
        Ok(match engine {
            Engine::Host(host) => {
                let own = config.hosts.get(host.name()).map(|own| own.sandbox.clone());
                SandboxSettings::for_host(&own.unwrap_or_default(), &shared)?
            }
            Engine::Local(_) => {
                let home = &self.pool.context().dial.home;
                SandboxSettings::for_this_machine(&config.local.sandbox, &shared, home)?
            }
        })
    }

    /// Returns a sandbox's state with its address on this machine, where there is one.
    pub(super) fn with_url(&self, host: &HostName, sandbox: ContainerStatus) -> ContainerStatus {
        let at = published(&sandbox, Service::Sandbox).filter(|_| is_running(&sandbox));
        // Whoever else has made it anew may have given it another port.
        let port = at.and_then(|(address, port)| {
            let to = Endpoint::Tcp { host: address, port };
            self.forwards.port(host, Service::Sandbox, &to)
        });
        let url = port.map(|port| format!("http://127.0.0.1:{port}"));
        ContainerStatus { url, ..self.without_own(Some(host), sandbox) }
    }

    /// Leaves out what an operation has set aside that is still at work.
    fn without_own(&self, host: Option<&HostName>, sandbox: ContainerStatus) -> ContainerStatus {
        let set_aside = sandbox.set_aside.filter(|_| !self.operations.is_at_work(host));
        ContainerStatus { set_aside, ..sandbox }
    }

    /// Has a service of the sandbox answer on this machine. Returns its address.
    fn reach(
        &self,
        engine: &Engine,
        sandbox: &ContainerStatus,
        service: Service,
    ) -> Result<Option<String>, SandboxError> {
        let Some((address, port)) = published(sandbox, service) else { return Ok(None) };
        let Engine::Host(host) = engine else { return Ok(Some(url(&address, port))) };
        // An operation takes long: the policy may be another than when it began.
        if self.guard.still_permits(host.name(), &Request::Docker).is_err() {
            return Ok(None);
        }
        let by_name = self.config.current().config.forwards.by_name();
        let local = self.forwards.ensure(host, service, (&address, port), by_name);
        let local = local.map_err(|failure| match failure {
            NoPort::Taken(error) => SandboxError::Forward(error),
            NoPort::Save(error) => SandboxError::Unsaved(error),
        })?;
        Ok(Some(url("127.0.0.1", local)))
    }

    /// Returns the state of this machine's sandbox with its address.
    pub(super) fn with_local_url(&self, sandbox: ContainerStatus) -> ContainerStatus {
        let at = published(&sandbox, Service::Sandbox).filter(|_| is_running(&sandbox));
        let url = at.map(|(address, port)| url(&address, port));
        ContainerStatus { url, ..self.without_own(None, sandbox) }
    }

    /// Completes what came of an operation with the address on this machine.
    async fn reached(
        &self,
        engine: &Engine,
        mut outcome: Outcome,
    ) -> Result<Outcome, SandboxError> {
        let Some(mut sandbox) = outcome.sandbox.take() else { return Ok(outcome) };
        if let (Did::Removed, Some(host)) = (outcome.did, engine.host()) {
            for service in [Service::Sandbox, Service::Cockpit] {
                self.forwards.remove_service(host, service).map_err(SandboxError::Unsaved)?;
            }
        }
        if is_running(&sandbox)
            && let Some((address, port)) = published(&sandbox, Service::Sandbox)
        {
            // An address that leads nowhere is none.
            if let Err(container::TcpError::Forbidden) = engine.tcp(&address, port).await {
                let there = url(&address, port);
                outcome.notes.push(format!(
                    "it is reached on its host only, at {there}: the SSH server forbids forwarding (AllowTcpForwarding)"
                ));
            } else {
                outcome.url = self.reach(engine, &sandbox, Service::Sandbox)?;
            }
            sandbox.url.clone_from(&outcome.url);
        }
        outcome.sandbox = Some(sandbox);
        Ok(outcome)
    }
}

/// Begins an operation once the host is connected, for which its client can still be asked.
pub(super) async fn begin<F>(
    app: &Arc<App>,
    engine: &Engine,
    kind: OperationKind,
    (tries, client, trail): (Tries, &Client, &Trail),
    work: impl FnOnce(Engine, Progress) -> F + Send,
) -> ApiResult<(StatusCode, Json<Operation>)>
where
    F: Future<Output = Result<Outcome, SandboxError>> + Send + 'static,
{
    if let Engine::Host(host) = engine {
        let connected = host.connection(tries, client).await;
        connected.map_err(|failure| error::unreachable(host.name(), &failure))?;
    }
    let begun = app.operations.begin(kind, engine.clone(), |progress| {
        let (app, engine, trail) = (Arc::clone(app), engine.clone(), trail.clone());
        let work = work(engine.clone(), progress);
        async move {
            let done = async {
                let outcome = work.await?;
                if let Some(host) = engine.host() {
                    app.sandboxes.answered(host);
                }
                app.reached(&engine, outcome).await
            };
            let done = done.await;
            match &done {
                Ok(_) => trail.done(),
                Err(failure) => trail.failed(error::sandbox(engine.host(), failure).0.code),
            }
            done
        }
    });
    match begun {
        Ok(running) => {
            trail.goes_on();
            app.remember(&running);
            Ok((StatusCode::ACCEPTED, Json(operations::of(&running))))
        }
        Err(NotBegun::Busy(other)) => Err(busy(engine, &other)),
        Err(NotBegun::Stopping) => Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            Code::ShuttingDown,
            "occd is stopping.",
        )),
    }
}

/// Returns the problem of an engine on which another operation is at work.
pub(super) fn busy(engine: &Engine, other: &Running) -> ApiError {
    let detail = format!(
        "{}: another operation ({}) is at work there: {}.",
        engine.name(),
        other.kind.as_str(),
        other.id
    );
    let problem = ApiError::new(StatusCode::CONFLICT, Code::OperationRunning, detail);
    match engine.host() {
        Some(host) => problem.host(host),
        None => problem,
    }
}

/// Starts the sandbox, and makes it where there is none.
#[utoipa::path(
    post,
    path = "/v1/hosts/{host}/container/start",
    tag = "sandbox",
    operation_id = "startSandbox",
    params(PlacePath, TriesQuery),
    request_body = Option<StartRequest>,
    responses((status = 202, description = "It has begun", body = Operation), OfSandbox)
)]
pub(super) async fn start(
    State(app): State<Arc<App>>,
    EngineOf(engine): EngineOf,
    Caller(client): Caller,
    asker: Asker,
    Query(query): Query<TriesQuery>,
    OptionalBody(request): OptionalBody<StartRequest>,
) -> ApiResult<(StatusCode, Json<Operation>)> {
    let failed = |failure: SandboxError| error::sandbox(engine.host(), &failure);
    let settings = app.sandbox_settings(&engine).map_err(failed)?;
    let settings = settings.with(&request).map_err(|bad| failed(bad.into()))?;
    let work = move |engine, progress| async move {
        container::start(engine, &settings, &request, progress).await
    };
    begin(&app, &engine, OperationKind::Start, (query.tries(), &client, &asker.trail), work).await
}

/// Stops the sandbox.
#[utoipa::path(
    post,
    path = "/v1/hosts/{host}/container/stop",
    tag = "sandbox",
    operation_id = "stopSandbox",
    params(PlacePath, TriesQuery),
    request_body = Option<StopRequest>,
    responses((status = 202, description = "It has begun", body = Operation), OfSandbox)
)]
pub(super) async fn stop(
    State(app): State<Arc<App>>,
    EngineOf(engine): EngineOf,
    Caller(client): Caller,
    asker: Asker,
    Query(query): Query<TriesQuery>,
    OptionalBody(request): OptionalBody<StopRequest>,
) -> ApiResult<(StatusCode, Json<Operation>)> {
    let work =
        move |engine, progress| async move { container::stop(engine, &request, progress).await };
    begin(&app, &engine, OperationKind::Stop, (query.tries(), &client, &asker.trail), work).await
}

/// Restarts the sandbox.
#[utoipa::path(
    post,
    path = "/v1/hosts/{host}/container/restart",
    tag = "sandbox",
    operation_id = "restartSandbox",
    params(PlacePath, TriesQuery),
    responses((status = 202, description = "It has begun", body = Operation), OfSandbox)
)]
pub(super) async fn restart(
    State(app): State<Arc<App>>,
    EngineOf(engine): EngineOf,
    Caller(client): Caller,
    asker: Asker,
    Query(query): Query<TriesQuery>,
) -> ApiResult<(StatusCode, Json<Operation>)> {
    // One that is made already can be started again whatever the settings are.
    let settings = app.sandbox_settings(&engine);
    let work = move |engine, progress| container::restart(engine, settings, progress);
    begin(&app, &engine, OperationKind::Restart, (query.tries(), &client, &asker.trail), work).await
}

/// Brings the sandbox a newer image, or the one before.
#[utoipa::path(
    post,
    path = "/v1/hosts/{host}/container/update",
    tag = "sandbox",
    operation_id = "updateSandbox",
    params(PlacePath, TriesQuery),
    request_body = Option<UpdateRequest>,
    responses((status = 202, description = "It has begun", body = Operation), OfSandbox)
)]
pub(super) async fn update(
    State(app): State<Arc<App>>,
    EngineOf(engine): EngineOf,
    Caller(client): Caller,
    asker: Asker,
    Query(query): Query<TriesQuery>,
    OptionalBody(request): OptionalBody<UpdateRequest>,
) -> ApiResult<(StatusCode, Json<Operation>)> {
    let settings =
        app.sandbox_settings(&engine).map_err(|failure| error::sandbox(engine.host(), &failure))?;
    let work = move |engine, progress| async move {
        container::update(engine, &settings, &request, progress).await
    };
    begin(&app, &engine, OperationKind::Update, (query.tries(), &client, &asker.trail), work).await
}

/// Returns Docker there, and what makes a problem of what it does not do.
pub(super) async fn docker_of<'a>(
    engine: &'a Engine,
    client: &Client,
) -> ApiResult<(Docker, impl Fn(SandboxError) -> ApiError + Copy + use<'a>)> {
    let failed = |failure: SandboxError| error::sandbox(engine.host(), &failure);
    match engine.docker(Tries::default(), client).await {
        Ok(docker) => Ok((docker, failed)),
        Err(failure) => Err(failed(failure.into())),
    }
}

/// Shows how the sandbox is made.
#[utoipa::path(
    get,
    path = "/v1/hosts/{host}/container/spec",
    tag = "sandbox",
    operation_id = "showSandboxSpec",
    params(PlacePath),
    responses((status = 200, description = "Without secrets", body = SandboxSpec), OfSandbox)
)]
pub(super) async fn spec(
    EngineOf(engine): EngineOf,
    Caller(client): Caller,
) -> ApiResult<Json<SandboxSpec>> {
    let (docker, failed) = docker_of(&engine, &client).await?;
    Ok(Json(container::spec(&docker).await.map_err(failed)?))
}

/// Makes the sandbox like that of another host.
#[utoipa::path(
    post,
    path = "/v1/hosts/{host}/container/sync",
    tag = "sandbox",
    operation_id = "syncSandbox",
    params(PlacePath, TriesQuery),
    request_body = SyncRequest,
    responses((status = 202, description = "It has begun", body = Operation), OfSandbox)
)]
pub(super) async fn sync(
    State(app): State<Arc<App>>,
    EngineOf(engine): EngineOf,
    Caller(client): Caller,
    asker: Asker,
    Query(query): Query<TriesQuery>,
    Body(request): Body<SyncRequest>,
) -> ApiResult<(StatusCode, Json<Operation>)> {
    let from = engine_named(&app, &request.from)?;
    if from.is_same(&engine) {
        return Err(ApiError::bad_request("A sandbox is like itself already."));
    }
    if let Engine::Host(host) = &from {
        let connected = host.connection(query.tries(), &client).await;
        connected.map_err(|failure| error::unreachable(host.name(), &failure))?;
    }
    let work = move |engine, progress| async move { container::sync(from, engine, progress).await };
    begin(&app, &engine, OperationKind::Sync, (query.tries(), &client, &asker.trail), work).await
}

/// Has the sandbox's cockpit answer on this machine.
#[utoipa::path(
    post,
    path = "/v1/hosts/{host}/container/cockpit",
    tag = "sandbox",
    operation_id = "openCockpit",
    params(PlacePath),
    responses((status = 200, description = "The sandbox with the `url` of its cockpit, if that is published", body = ContainerStatus), OfSandbox)
)]
pub(super) async fn cockpit(
    State(app): State<Arc<App>>,
    EngineOf(engine): EngineOf,
    Caller(client): Caller,
) -> ApiResult<Json<ContainerStatus>> {
    let (docker, failed) = docker_of(&engine, &client).await?;
    container::ours(&docker).await.map_err(failed)?;
    let sandbox = container::status(&docker).await.map_err(|e| failed(e.into()))?;
    let answered = match published(&sandbox, Service::Cockpit).filter(|_| is_running(&sandbox)) {
        Some((address, port)) => container::answers(&engine, &address, port)
            .await
            .map(|()| app.reach(&engine, &sandbox, Service::Cockpit))
            .map_err(|source| SandboxError::NoCockpit { port, source }),
        None => Ok(Ok(None)),
    };
    // An address that leads nowhere is none, and none stays of one that did before.
    if !matches!(answered, Ok(Ok(Some(_))))
        && let Some(host) = engine.host()
    {
        let removed = app.forwards.remove_service(host, Service::Cockpit);
        removed.map_err(|error| failed(SandboxError::Unsaved(error)))?;
    }
    let url = answered.flatten().map_err(failed)?;
    Ok(Json(ContainerStatus { url, ..sandbox }))
}

/// Asks the sandbox for its first password, which is kept nowhere else.
#[utoipa::path(
    get,
    path = "/v1/hosts/{host}/container/password",
    tag = "sandbox",
    operation_id = "showSandboxPassword",
    params(PlacePath),
    responses((status = 200, description = "The password, or null where none is needed", body = OneTimePassword), OfSandbox)
)]
pub(super) async fn password(
    EngineOf(engine): EngineOf,
    Caller(client): Caller,
) -> ApiResult<Json<OneTimePassword>> {
    let (docker, failed) = docker_of(&engine, &client).await?;
    let password = container::one_time_password(&docker).await.map_err(failed)?;
    Ok(Json(OneTimePassword { password }))
}
