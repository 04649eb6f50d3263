//! The way to what a forward leads to on its host.

use std::time::Duration;

use occ_proto::forward::{Endpoint, Service};
use tokio::time::Instant;

use crate::container::Sandboxes;
use crate::host::{HostHandle, Tries};
use crate::prompts::Client;
use crate::ssh::error::chain;
use crate::ssh::{Channel, ChannelError};

/// How long the connection of a host that nobody has used yet may take.
const CONNECT: Duration = Duration::from_secs(15);

/// Whose connection it is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Whose<'a> {
    /// A program's, which waits: a host that is down is dialled, as for a command.
    Programs,
    /// A browser's to a service of a sandbox. It wants an answer at once: a host that is down is left to its own time.
    Browsers(&'a Sandboxes, Service),
}

/// Why there is no way, as one sentence.
#[derive(Debug)]
pub(super) enum NoWay {
    /// The host is not connected.
    Down(String),
    /// The server's settings forbid it.
    Forbidden(String),
    /// Nothing answers there.
    Refused(String),
}

impl NoWay {
    pub(super) fn why(&self) -> &str {
        match self {
            Self::Down(why) | Self::Forbidden(why) | Self::Refused(why) => why,
        }
    }
}

/// Opens a channel to what is there.
pub(super) async fn open(
    host: &HostHandle,
    to: &Endpoint,
    whose: Whose<'_>,
) -> Result<Channel, NoWay> {
    let name = host.name();
    let tries = Tries::default();
    let begun = Instant::now();
    let deadline = begun
        + match whose {
            Whose::Programs => tries.patience(),
            Whose::Browsers(..) => CONNECT,
        };
    loop {
        let connected = match whose {
            // There is nobody to be asked.
            Whose::Programs => host.connection_by(deadline, tries, &Client::default()).await,
            Whose::Browsers(..) => host.connection_if_due(deadline).await,
        };
        let connection = connected.map_err(|unreachable| {
            // It is told to whoever comes through the forward: occ status has the rest.
            let why = unreachable.error.for_log();
            NoWay::Down(format!("{name} is not connected: {}.", why.trim_end_matches('.')))
        })?;
        if let Whose::Browsers(sandboxes, service) = whose
            // Its way to Docker is deep.
            && let Err(why) = Box::pin(sandboxes.serves(host, &connection, service, to)).await
            && !connection.is_closed()
        {
            return Err(NoWay::Refused(format!("{name}: {why}.")));
        }
        let opened = match to {
            Endpoint::Tcp { host, port } => connection.direct_tcpip(host, *port).await,
            Endpoint::Unix { path } => connection.streamlocal(path).await,
        };
        return match opened {
            Ok(channel) => Ok(channel),
            // It broke at this moment: what becomes of the host is known in the next.
            Err(ChannelError::Lost(_)) if Instant::now() < deadline => {
                host.other_than(&connection).await;
                continue;
            }
            Err(error @ ChannelError::Prohibited) => {
                Err(NoWay::Forbidden(format!("{name}: {}.", chain(&error))))
            }
            Err(ChannelError::Refused(why)) => {
                Err(NoWay::Refused(format!("{name}: nothing answers at {to} ({why}).")))
            }
            Err(error) => Err(NoWay::Down(format!("{name}: {}.", chain(&error)))),
        };
    }
}
