//! Running commands on hosts.

mod command;
mod quote;
mod running;

pub use command::{BadCommand, Command};
pub use quote::Shell;
pub use running::{Control, ExecError, Running, Step, start};
