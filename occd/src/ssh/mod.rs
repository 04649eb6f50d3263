//! SSH: the only place that names russh. What is above deals in [`Connection`]s and [`Channel`]s.

pub mod agent;
pub mod auth;
pub mod channel;
pub mod connection;
pub mod dial;
pub mod error;
mod handler;
mod host_key;
pub mod identity;
mod inbox;
pub mod known_hosts;
pub mod marker;
mod probe;
mod sessions;
pub mod signal;
pub mod ssh_config;
mod stream;

pub use channel::{Channel, ChannelStream};
pub use connection::Connection;
pub use error::{ChannelError, ConnectError, LossCause};
pub use inbox::{Closed, ExitReport, Frame, OutputLost, SpillPolicy};
