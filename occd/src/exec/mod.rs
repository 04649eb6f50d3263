//! Running commands on hosts.

mod command;
mod destination;
mod quote;
mod running;

pub use command::{BadCommand, Command};
pub use destination::Destinations;
pub use quote::Shell;
pub use running::{Control, ExecError, Progress, Running, Step, start};
