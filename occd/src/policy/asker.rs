//! Who asks.

use std::sync::Arc;

use jiff::Timestamp;
use occ_proto::HostName;
use occ_proto::policy::ClientKind;
use tokio_util::sync::CancellationToken;

use super::PolicyConfig;
use crate::audit::{Trail, Who};
use crate::peer::Peer;

/// A grant as it is in force on its socket.
#[derive(Debug)]
pub struct GrantInForce {
    /// Its name.
    pub name: String,
    /// Its host.
    pub host: HostName,
    /// What it gives.
    pub policy: PolicyConfig,
    /// When it ends.
    pub ends_at: Timestamp,
    /// Cancelled then, or when it is revoked.
    pub over: CancellationToken,
}

impl GrantInForce {
    /// Does something until the end of a grant, if it is done for one. Returns whether that came first to its end.
    pub async fn bound(grant: Option<Arc<Self>>, work: impl Future<Output = ()>) -> bool {
        match grant {
            None => {
                work.await;
                true
            }
            Some(grant) => grant.over.run_until_cancelled(work).await.is_some(),
        }
    }
}

/// Whoever made a request.
#[derive(Debug, Clone, Default)]
pub struct Asker {
    /// What it says it is.
    pub kind: ClientKind,
    /// What the kernel says it is.
    pub peer: Option<Peer>,
    /// On whose socket it came; nothing is the daemon's own.
    pub grant: Option<Arc<GrantInForce>>,
    /// It came on the read-only socket.
    pub only_looks: bool,
    /// What the audit log tells of the process.
    pub who: Arc<Who>,
    /// The trail of what is asked for.
    pub trail: Trail,
}

impl Asker {
    /// Returns whether it is not told all that the owner is: on the read-only socket, and through a grant.
    pub fn sees_less(&self) -> bool {
        self.only_looks || self.grant.is_some()
    }

    /// Returns the name of the socket that it came by, for the audit log.
    pub fn via(&self) -> String {
        match &self.grant {
            Some(grant) => format!("grant {}", grant.name),
            None if self.only_looks => "read-only".to_owned(),
            None => "owner".to_owned(),
        }
    }
}
