//! Jump hosts: each is a host of the pool, with its own state, login and host-key check, shared by all that
//! are reached through it. One that hosts.json does not name is made when it is needed.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use occ_proto::name::{Destination, check_jump_hosts};
use occ_proto::{HostConfig, HostName, InvalidName};
use tokio::time::Instant;

use super::{Entry, Pool};
use crate::host::{self, HostHandle, Unreachable};
use crate::prompts::Questions;
use crate::ssh::ConnectError;
use crate::ssh::hop::{Hop, HopDemand, Hops};
use crate::ssh::target::{Route, check_allowed};

/// The most jump hosts on one way. More is a mistake in a configuration, most likely.
const LONGEST: usize = 8;

impl Hops for Pool {
    fn connect<'a>(
        &'a self,
        host: Option<&'a HostName>,
        chain: &'a [String],
        demand: HopDemand,
        deadline: Instant,
        questions: &'a Questions,
    ) -> BoxFuture<'a, Result<Hop, ConnectError>> {
        Box::pin(async move {
            let hop = self.hop(chain)?;
            self.check_way(host, &hop).await?;
            let connection = match demand {
                HopDemand::Command => hop.connection_behind(questions, deadline).await,
                HopDemand::Background => hop.connection_if_due(deadline).await,
            };
            let name = hop.name().clone();
            match connection {
                Ok(connection) => Ok(Hop { name, connection }),
                Err(Unreachable { error, next_retry_at, .. }) => {
                    Err(ConnectError::Hop { name, source: error, next_retry_at })
                }
            }
        })
    }

    fn up(&self, hop: &HostName) -> BoxFuture<'static, ()> {
        match self.get(hop) {
            Some(hop) => Box::pin(hop.up()),
            // Removed meanwhile: the next dial makes it anew, or says that it cannot be.
            None => Box::pin(std::future::ready(())),
        }
    }
}

impl Pool {
    /// Returns a host; a jump host that hosts.json does not name is made from its name, as it is when a host behind
    /// it is dialled.
    pub fn get_or_make_via(&self, name: &HostName) -> Option<HostHandle> {
        if let Some(handle) = self.get(name) {
            return Some(handle);
        }
        // See `make_via`: the destination, and the ways there.
        let way = name.as_str().strip_prefix(HostName::VIA)?;
        let (text, before) = way.split_once('+').unwrap_or((way, ""));
        let hops = before.split('+').filter(|hop| !hop.is_empty()).chain([text]);
        let chain: Vec<String> = hops.map(str::to_owned).collect();
        check_jump_hosts(&chain.join(",")).and_then(|()| self.hop(&chain)).ok()
    }

    /// Refuses a host that may not be connected to, or whose jump hosts may not, before anything is saved or dialled.
    pub async fn check_allowed(&self, config: &HostConfig) -> Result<(), ConnectError> {
        let environment = &self.context.dial;
        if environment.allowed.is_silent() {
            return Ok(());
        }
        let Route::Jump(chain) = check_allowed(config, environment).await? else { return Ok(()) };
        for end in 1..=chain.len() {
            let hop = self.hop(&chain[..end])?;
            let checked = check_allowed(&hop.snapshot().config, environment).await;
            checked.map_err(|error| ConnectError::Hop {
                name: hop.name().clone(),
                source: Arc::new(error),
                next_retry_at: None,
            })?;
        }
        Ok(())
    }

    /// Returns the last jump host of a chain: the configured host of that name, else one made from its
    /// address, which ssh_config may know more about.
    fn hop(&self, chain: &[String]) -> Result<HostHandle, InvalidName> {
        let (text, before) = chain.split_last().map_or(("", &[][..]), |(last, rest)| (last, rest));
        let text = text.strip_prefix("ssh://").unwrap_or(text).trim_end_matches('/');
        let before = (!before.is_empty()).then(|| before.join(","));
        if let Some(configured) = HostName::new(text).ok().and_then(|name| self.hosts.get(&name)) {
            let handle = configured.handle.clone();
            let own = handle.snapshot().config.jump_host.clone();
            if before.is_none() || before == own {
                return Ok(handle);
            }
            // The same host by another way is another connection.
            let config = HostConfig { jump_host: before, ..handle.snapshot().config.clone() };
            return self.make_via(text, config);
        }
        let destination: Destination = text.parse()?;
        // `user@name` of a configured host is that host with another user.
        let known = HostName::new(destination.address.as_str()).ok();
        let known = known.and_then(|name| Some(self.hosts.get(&name)?.handle.clone()));
        let base = match known {
            Some(handle) => handle.snapshot().config.clone(),
            None => HostConfig::new(destination.address.clone()),
        };
        let config = HostConfig {
            user: destination.user.or(base.user.clone()),
            port: destination.port.or(base.port),
            jump_host: before.or(base.jump_host.clone()),
            ..base
        };
        self.make_via(text, config)
    }

    /// Returns the jump host of that way, making it if there is none.
    fn make_via(&self, text: &str, config: HostConfig) -> Result<HostHandle, InvalidName> {
        let behind = config.jump_host.as_ref().map_or_else(String::new, |jump| {
            // A comma and a slash have no place in a name.
            format!("+{}", jump.replace("ssh://", "").replace(',', "+"))
        });
        let name = HostName::new(format!("{}{text}{behind}", HostName::VIA))?;
        let settings = self.config().effective(&name);
        let entry = self.via.entry(name.clone()).or_insert_with(|| {
            tracing::info!(host = %name, "a jump host that hosts.json does not name");
            let stop = self.stop.child_token();
            let context = Arc::clone(&self.context);
            let handle = host::spawn(name, config, settings, context, None, stop.clone());
            Entry { handle, stop }
        });
        Ok(entry.handle.clone())
    }

    /// Follows the way from a jump host to us and refuses one that comes back to `host` or to itself: each
    /// would wait for the other.
    async fn check_way(
        &self,
        host: Option<&HostName>,
        hop: &HostHandle,
    ) -> Result<(), ConnectError> {
        let mut seen: Vec<HostName> = host.cloned().into_iter().collect();
        let mut next = hop.clone();
        loop {
            let again = seen.contains(next.name());
            seen.push(next.name().clone());
            if again || seen.len() > LONGEST {
                let names: Vec<&str> = seen.iter().map(HostName::as_str).collect();
                return Err(ConnectError::HopCircle(names.join(", ")));
            }
            let config = next.snapshot().config.clone();
            let resolver = &self.context.dial.resolver;
            let ssh_config =
                resolver.resolve(&config.hostname, config.user.as_ref(), config.port).await?;
            match Route::of(&config, &ssh_config) {
                Route::Jump(chain) => next = self.hop(&chain)?,
                Route::Direct | Route::Command(_) => return Ok(()),
            }
        }
    }
}
