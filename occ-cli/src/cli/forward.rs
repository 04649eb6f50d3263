//! The command line of `occ forward`.

use clap::{ArgGroup, Args, Subcommand};

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum ForwardCommand {
    /// Forward a port or a socket, as ssh's -L, -R and -D do, and keep it so
    #[command(after_help = "\
Examples:
  occ forward add -L 8080:localhost:80 --host prod-1
  occ forward add -L 5432:/run/postgresql/.s.PGSQL.5432 --host prod-1
  occ forward add -L /tmp/docker.sock:/run/docker.sock --host prod-1
  occ forward add -R 9000:localhost:3000 --host prod-1      the host's port 9000 leads here
  occ forward add -R 1080 --host prod-1                     SOCKS there: its programs reach what this machine does
  occ forward add -D 1080 --host prod-1                     curl --socks5-hostname localhost:1080 …
  occ forward add -q -L 0:localhost:80 --host prod-1        takes a free port, and prints it
  occ forward add -g -L 8080:localhost:80 --host prod-1     other machines may connect, too

It stays until it is removed: after a reconnect, a restart of occd or of this machine it is there again, on the same port.
An IPv6 address stands in brackets: -L [::1]:8080:[2001:db8::7]:80.")]
    Add(ForwardAddArgs),
    /// List the forwards
    #[command(after_help = "\
Examples:
  occ forward list
  occ forward list --host prod-1
  occ forward list -q                   the IDs alone")]
    List,
    /// Take a forward away, and end the connections through it
    #[command(after_help = "\
Examples:
  occ forward remove 8080               by its port
  occ forward remove 1f3c9a2b           by its ID
  occ forward remove /tmp/docker.sock
  occ forward remove --all              all but those that occ made by itself")]
    Remove {
        /// Its port, its socket, or its ID
        #[arg(value_name = "PORT|PATH|ID")]
        which: Option<String>,
    },
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("forward").required(true).multiple(true).args(["local_forward", "remote_forward", "dynamic_forward"]))]
pub(crate) struct ForwardAddArgs {
    /// Listen here, and connect from the host
    #[arg(short = 'L', value_name = "[ADDRESS:]PORT:HOST:PORT")]
    pub(crate) local_forward: Vec<String>,
    /// Listen on the host, and connect from here; a port alone is for SOCKS
    #[arg(short = 'R', value_name = "[ADDRESS:]PORT[:HOST:PORT]")]
    pub(crate) remote_forward: Vec<String>,
    /// Listen here for SOCKS 5 and 4a, and connect from the host wherever a client says
    #[arg(short = 'D', value_name = "[ADDRESS:]PORT")]
    pub(crate) dynamic_forward: Vec<String>,
    /// Let other machines connect: without an ADDRESS, at all addresses
    #[arg(short = 'g', long)]
    pub(crate) public: bool,
}
