//! Running commands on hosts, and on this machine.

mod command;
mod destination;
mod error;
mod executor;
mod local;
mod look;
mod measured;
mod process;
mod program;
mod quote;
mod running;
mod start;

pub use command::{BadCommand, Command};
pub use destination::Destinations;
pub use error::ExecError;
pub use executor::Executor;
pub use local::Local;
pub use look::{look, look_here, look_over};
pub use quote::Shell;
pub use running::{Control, Progress, Running, Step};
pub(crate) use start::ACCEPT;
pub use start::start;
