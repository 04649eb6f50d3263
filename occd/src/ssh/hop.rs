//! Jump hosts, as a dial sees them: somebody else keeps their connections.

use std::fmt::Debug;
use std::sync::{Arc, OnceLock, Weak};

use futures_util::future::BoxFuture;
use occ_proto::HostName;
use occ_proto::status::Phase;
use tokio::time::Instant;

use super::connection::Connection;
use super::error::{ConnectError, LossCause};
use crate::prompts::Questions;

/// Who wants a jump host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HopDemand {
    /// Somebody waits: the jump host is dialled as for a command.
    Command,
    /// The daemon itself: a jump host that is down has a time for its next dial, and that is soon enough.
    Background,
}

/// A jump host that is connected.
#[derive(Debug, Clone)]
pub struct Hop {
    /// Its name in the pool.
    pub name: HostName,
    /// Its connection.
    pub connection: Arc<Connection>,
}

impl Hop {
    /// Returns the failure of what was under way through it, if its connection has ended or is about to.
    pub(super) fn end_during(&self, phase: Phase) -> Option<ConnectError> {
        let ends = self.connection.is_closed() || self.connection.is_ending();
        let cause = LossCause::Hop(self.name.clone());
        ends.then_some(ConnectError::Lost { phase, cause })
    }
}

/// The keeper of the jump hosts' connections: the pool.
pub trait Hops: Debug + Send + Sync {
    /// Returns the connection of the last of `chain`, which is reached through those before it. `host` is
    /// the one that is dialled, and `questions` are its: who can answer those can answer the jump host's.
    ///
    /// # Errors
    /// When the chain is none, goes in a circle, or the jump host is not connected by `deadline`.
    fn connect<'a>(
        &'a self,
        host: Option<&'a HostName>,
        chain: &'a [String],
        demand: HopDemand,
        deadline: Instant,
        questions: &'a Questions,
    ) -> BoxFuture<'a, Result<Hop, ConnectError>>;

    /// Waits until a jump host is connected.
    fn up(&self, hop: &HostName) -> BoxFuture<'static, ()>;
}

/// The way from a dial to the pool, which is made after it and owns it.
#[derive(Debug, Default)]
pub struct HopsLink(OnceLock<Weak<dyn Hops>>);

impl HopsLink {
    /// Sets the keeper. Once only; a second one is ignored.
    pub fn set(&self, hops: Weak<dyn Hops>) {
        let _ = self.0.set(hops);
    }

    /// Returns the keeper, unless there is none or the daemon ends.
    pub fn get(&self) -> Option<Arc<dyn Hops>> {
        self.0.get()?.upgrade()
    }
}
