//! `/v1/ssh-config`: the hosts that the user's ssh_config names, and taking them into hosts.json.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use futures_util::StreamExt as _;
use futures_util::stream;
use occ_proto::ssh_config::{ImportHosts, Imported, NotImported, SshConfigHost, SshConfigHosts};
use occ_proto::{Address, Code, HostConfig, HostName, HostsFile};

use super::App;
use super::error::{ApiError, ApiResult};
use super::extract::Body;
use super::json::Json;
use super::problems::{OfImport, OfSshConfig};
use crate::policy::Asker;
use crate::ssh::error::chain;
use crate::ssh::ssh_config::SshConfigError;

/// How many hosts ssh is asked about at once; each takes it 5 ms of one processor.
const AT_ONCE: usize = 8;

/// Lists the hosts that the user's ssh_config names.
///
/// Patterns apart, with what it says of each; ssh is asked for that.
#[utoipa::path(
    get,
    path = "/v1/ssh-config",
    tag = "hosts",
    operation_id = "listSshConfig",
    responses((status = 200, description = "The hosts, in its order", body = SshConfigHosts), OfSshConfig)
)]
pub(super) async fn list(State(app): State<Arc<App>>) -> ApiResult<Json<SshConfigHosts>> {
    let snapshot = app.hosts.current();
    let file = snapshot.usable().map_err(ApiError::from)?;
    let names = aliases(&app).await?;
    let look = |name: String| {
        let app = &app;
        let configured = HostName::new(&name).is_ok_and(|name| file.hosts.contains_key(&name));
        async move {
            let mut host = SshConfigHost {
                configured,
                unusable: usable(&name).err(),
                name,
                hostname: None,
                user: None,
                port: None,
            };
            let Ok(address) = Address::new(&host.name) else { return host };
            match app.pool.context().dial.resolver.resolve(&address, None, None).await {
                Ok(config) => {
                    host.hostname = config.hostname.map(|name| name.to_string());
                    host.user = config.user.map(|user| user.to_string());
                    host.port = config.port;
                }
                Err(error) => host.unusable = Some(chain(&error).to_string()),
            }
            host
        }
    };
    let hosts = stream::iter(names).map(look).buffered(AT_ONCE).collect().await;
    Ok(Json(SshConfigHosts { hosts }))
}

/// Takes hosts out of the user's ssh_config, with one save.
///
/// Each is saved by its alias and no more. Those that are configured or cannot be taken are skipped, which is told.
#[utoipa::path(
    post,
    path = "/v1/ssh-config/import",
    tag = "hosts",
    operation_id = "importSshConfig",
    request_body = ImportHosts,
    responses((status = 200, description = "What was taken, and what not", body = Imported), OfImport)
)]
pub(super) async fn import(
    State(app): State<Arc<App>>,
    asker: Asker,
    Body(request): Body<ImportHosts>,
) -> ApiResult<Json<Imported>> {
    asker.trail.set(|line| line.detail = Some(request.names.join(", ")));
    asker.trail.begin();
    let known = aliases(&app).await?;
    let mut refused = BTreeMap::new();
    for name in &request.names {
        let Ok((_, address)) = usable(name) else { continue };
        if let Err(error) = app.pool.check_allowed(&HostConfig::new(address)).await
            && error.code() == Code::PolicyDenied
        {
            refused.insert(name.clone(), chain(&error));
        }
    }
    let take = |file: &mut HostsFile| {
        let mut done = Imported { added: Vec::new(), skipped: Vec::new() };
        for name in &request.names {
            let added = usable(name).and_then(|(host, address)| {
                if !known.contains(name) {
                    return Err("ssh_config does not name it".to_owned());
                }
                if let Some(why) = refused.get(name) {
                    return Err(why.clone());
                }
                if file.hosts.contains_key(&host) {
                    return Err("a host of this name is configured".to_owned());
                }
                // Its alias and no more: what ssh_config says of it applies, also when it changes.
                let config =
                    HostConfig { groups: request.groups.clone(), ..HostConfig::new(address) };
                file.hosts.insert(host.clone(), config);
                Ok(host)
            });
            match added {
                Ok(host) => done.added.push(host),
                Err(why) => done.skipped.push(NotImported { name: name.clone(), why }),
            }
        }
        Ok::<_, ApiError>(done)
    };
    let done = app.hosts.update(take).await.map_err(ApiError::from)?;
    let config = app.config.current().config;
    app.reload(&app.hosts.current(), &config).await;
    Ok(Json(done))
}

/// Returns what a host of ssh_config is called here, or why that cannot be.
fn usable(name: &str) -> Result<(HostName, Address), String> {
    let host = HostName::new(name).map_err(|error| error.to_string())?;
    host.check_new()?;
    let address = Address::new(name).map_err(|error| error.to_string())?;
    Ok((host, address))
}

async fn aliases(app: &App) -> ApiResult<Vec<String>> {
    app.pool.context().dial.resolver.aliases().await.map_err(|error: SshConfigError| {
        ApiError::new(
            axum::http::StatusCode::CONFLICT,
            Code::SshConfigInvalid,
            chain(&error).to_string(),
        )
    })
}
