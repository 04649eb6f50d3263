//! Jump hosts: each is a host of the pool, with its own state, login and host-key check, shared by all that
//! are reached through it. One that hosts.json does not name is made when it is needed.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use occ_proto::name::{Destination, check_jump_hosts};
use occ_proto::status::State;
use occ_proto::{HostConfig, HostName, InvalidName};
use tokio::time::Instant;

use super::{Entry, Pool};
use crate::events::Topic;
use crate::host::{self, HostHandle, Unreachable};
use crate::prompts::Questions;
use crate::ssh::ConnectError;
use crate::ssh::hop::{Hop, HopDemand, Hops};
use crate::ssh::target::{Route, check_allowed};

/// How many jump hosts that hosts.json does not name may be made because somebody asks for them by name. Those that hosts
/// are behind are as many as it takes.
const MOST: usize = 64;
/// After this time one that nobody uses goes.
const UNUSED: SignedDuration = SignedDuration::from_mins(10);

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
            loop {
                let hop = self.hop(chain)?;
                self.check_way(host, &hop).await?;
                if hop.name().is_via() {
                    hop.note_use();
                }
                let connection = match demand {
                    HopDemand::Command => hop.connection_behind(questions, deadline).await,
                    HopDemand::Background => hop.connection_if_due(deadline).await,
                };
                let name = hop.name().clone();
                let Unreachable { error, next_retry_at, .. } = match connection {
                    Ok(connection) => return Ok(Hop { name, connection }),
                    Err(unreachable) => unreachable,
                };
                // It was let go right when it was found, as one that nobody uses: it is made anew.
                let is_let_go = name.is_via() && matches!(*error, ConnectError::Removed);
                if !is_let_go || self.stop.is_cancelled() || Instant::now() >= deadline {
                    return Err(ConnectError::Hop { name, source: error, next_retry_at });
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
        check_jump_hosts(&chain.join(",")).ok()?;
        self.make_room().then(|| self.hop(&chain).ok()).flatten()
    }

    /// Has one jump host fewer than there may be, and returns whether that is so: the one goes that has not been used
    /// for the longest time.
    fn make_room(&self) -> bool {
        if self.via.len() < MOST {
            return true;
        }
        let unused = self.via().into_iter().filter(is_unused);
        let oldest = unused.min_by_key(|via| (via.last_used(), via.snapshot().since));
        oldest.inspect(|via| self.let_go(via.name())).is_some() && self.via.len() < MOST
    }

    /// Ends the jump hosts that nobody has used for a while.
    pub fn let_unused_go(&self) {
        let now = Timestamp::now();
        for handle in self.via().iter().filter(|handle| is_unused(handle)) {
            let snapshot = handle.snapshot();
            let used = handle.last_used();
            if is_over(snapshot.state, snapshot.since, used, now) {
                self.let_go(handle.name());
            }
        }
    }

    /// Ends a jump host, which is made anew when it is needed.
    pub(super) fn let_go(&self, name: &HostName) {
        if let Some((_, entry)) = self.via.remove(name) {
            tracing::info!(host = %name, "a jump host that nobody uses");
            entry.stop.cancel();
            self.context.changes.touch(Topic::Host(name.clone()));
        }
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

/// Returns whether nothing runs through a jump host and nobody waits for it.
pub(super) fn is_unused(handle: &HostHandle) -> bool {
    // Whoever waits for an answer there may be a dial that is being made anew.
    let is_asking = handle.question().is_some();
    handle.snapshot().open_channels() == 0 && !handle.is_waited_for() && !is_asking
}

/// Returns whether a jump host that is not in use has been so for long enough.
fn is_over(state: State, since: Timestamp, used: Option<Timestamp>, now: Timestamp) -> bool {
    let is_long = |at: Timestamp| now.duration_since(at) > UNUSED;
    match (state, used) {
        // A person wants it so.
        (State::Stopped, _) => false,
        // Somebody has asked for it by name, and no host is behind it.
        (_, None) => is_long(since),
        // Hosts behind it wait until it is back.
        (State::Connecting | State::Backoff, Some(_)) => false,
        (State::Idle | State::Connected | State::Failed | State::Unknown, Some(used)) => {
            is_long(used)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_uses_goes_after_a_while_unless_somebody_waits_for_it() {
        let now = Timestamp::now();
        let ago = |minutes| now - SignedDuration::from_mins(minutes);
        for (state, since, used, goes) in [
            (State::Connected, 60, None, true),
            (State::Connected, 5, None, false),
            (State::Connected, 60, Some(11), true),
            (State::Connected, 60, Some(9), false),
            (State::Failed, 60, Some(11), true),
            (State::Backoff, 60, Some(11), false),
            (State::Backoff, 11, None, true),
            (State::Stopped, 60, Some(11), false),
        ] {
            let over = is_over(state, ago(since), used.map(ago), now);
            assert_eq!(over, goes, "{state:?} {since} {used:?}");
        }
    }
}
