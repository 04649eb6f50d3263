//! The processes at the other end of connections, and where they come from.

mod lineage;

pub use lineage::{Lineage, parents};

/// The process at the other end of a connection, as the kernel names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its number; nothing where it cannot be told, such as for another PID namespace.
    pub pid: Option<u32>,
    /// Its user.
    pub uid: u32,
}

impl Peer {
    /// Returns whoever is at the other end.
    pub fn of(stream: &tokio::net::UnixStream) -> Option<Self> {
        let peer = stream.peer_cred().ok()?;
        let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0);
        Some(Self { pid, uid: peer.uid() })
    }
}
