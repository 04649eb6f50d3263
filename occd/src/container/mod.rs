//! Docker on a host, and the opencode sandbox in it, through a channel of the pooled connection.

mod docker;
mod sandbox;

pub use docker::{Docker, DockerError};
pub use sandbox::status;
