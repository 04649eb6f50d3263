//! Docker on a host, and the opencode sandbox in it, through a channel of the pooled connection.

mod docker;
mod follow;
mod head;
mod memory;
mod ready;
mod relay;
mod sandbox;
mod sockets;
mod transport;
mod way;

pub use docker::{Docker, DockerError};
pub use memory::{Known, Sandboxes};
pub use sandbox::status;
pub use sockets::DockerSockets;
