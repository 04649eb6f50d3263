//! Running commands on hosts, and on this machine.

mod command;
mod destination;
mod executor;
mod local;
mod look;
mod measured;
mod process;
mod program;
mod quote;
mod running;

pub use command::{BadCommand, Command};
pub use destination::Destinations;
pub use executor::Executor;
pub use local::Local;
pub use look::look;
pub use quote::Shell;
pub(crate) use running::ACCEPT;
pub use running::{Control, ExecError, Progress, Running, Step, start};
