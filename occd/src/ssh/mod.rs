//! SSH: the only place that names russh. What is above deals in [`Connection`]s and [`Channel`]s.

pub mod agent;
mod agent_forward;
mod algorithms;
pub mod auth;
mod candidates;
pub mod channel;
pub mod connection;
pub mod dial;
pub mod error;
pub mod given_key;
mod handler;
pub mod hop;
mod host_certificate;
pub mod host_key;
pub mod identity;
mod inbox;
pub mod known_hosts;
mod limit;
pub mod marker;
mod probe;
mod proxy_command;
mod sessions;
pub mod signal;
pub mod ssh_config;
mod stream;
pub mod target;
mod tcp;
mod transport;
pub mod turns;
pub mod unlocked;

pub use algorithms::{Compression, Line};
pub use candidates::certificate_beside;
pub use channel::{Channel, ChannelStream};
pub use connection::Connection;
pub use error::{ChannelError, ConnectError, LossCause};
pub use inbox::{Closed, ExitReport, Frame, OutputLost, SpillPolicy};
