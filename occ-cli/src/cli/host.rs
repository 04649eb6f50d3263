//! The command line of `occ host`.

use clap::{Args, Subcommand};
use occ_proto::name::Destination;
use occ_proto::{GroupName, HostName, UserName};

use crate::parse::{
    Clearable, DefaultArg, clearable_jump, clearable_port, clearable_user, parse_destination,
    parse_jump, parse_name, parse_port,
};

// Not deferred: a --group of its own must be there before the global one would be added.
#[derive(Debug, Subcommand)]
pub(crate) enum HostCommand {
    /// Add a host, after connecting to it
    #[command(after_help = "\
Examples:
  occ host add prod-1 deploy@203.0.113.10
  occ host add build-1 10.0.0.7 -u ci -i ~/.ssh/ci -J bastion.example.com -g build
  occ host add later 192.0.2.9 --no-verify
  occ host add prod-2 deploy@203.0.113.11 --ssh-config    ssh prod-2 goes there, too
  occ host add new-1 root@198.51.100.7 --install-docker")]
    Add(HostAddArgs),
    /// Remove a host
    #[command(after_help = "Examples:\n  occ host remove old-1\n  occ host remove old-1 -f")]
    Remove {
        /// The host's name
        name: HostName,
        /// Do not ask, and end work that runs there
        #[arg(short, long, visible_alias = "yes", visible_short_alias = 'y')]
        force: bool,
    },
    /// List the hosts
    #[command(after_help = "Examples:\n  occ host list\n  occ host list -g eu --names-only")]
    List {
        /// Only hosts of this group
        #[arg(short, long, value_name = "GROUP")]
        group: Option<String>,
        /// One name per line
        #[arg(long)]
        names_only: bool,
    },
    /// Show a host's configuration
    #[command(after_help = "Example:\n  occ host show prod-1")]
    Show {
        /// The host's name
        name: HostName,
    },
    /// Change a host; an empty value clears a field
    #[command(after_help = "\
Examples:
  occ host edit prod-1 --hostname 203.0.113.11
  occ host edit prod-1 -J '' --add-group eu")]
    Edit(HostEditArgs),
    /// Forget the passwords that are kept for a host, in the keyring or in the encrypted file
    #[command(after_help = "Example:\n  occ host forget-password prod-1")]
    ForgetPassword {
        /// The host's name
        name: HostName,
    },
    /// Connect anew and show each step
    #[command(after_help = "\
Examples:
  occ host test prod-1
  occ host test prod-1 -q
  occ host test --group eu")]
    Test {
        /// The host's name
        name: Option<HostName>,
    },
    /// Install Docker on a host, after showing the commands
    #[command(after_help = "\
Examples:
  occ host install-docker prod-1
  occ host install-docker prod-1 --dry-run   only shows the commands
  occ host install-docker prod-1 --yes       for scripts, where sudo asks for no password

sudo's password is asked for on the terminal, or by occ prompts on another.")]
    InstallDocker {
        /// The host's name
        name: HostName,
        /// Do not ask whether to run the commands
        #[arg(short, long)]
        yes: bool,
        /// Show the commands and run none
        #[arg(long, conflicts_with = "yes")]
        dry_run: bool,
    },
    /// Take hosts out of ~/.ssh/config
    #[command(after_help = "\
Examples:
  occ host import                       lists them and asks
  occ host import prod-1 prod-2 -g eu
  occ host import --all --yes           for scripts
  occ host import --match 'web-*' --dry-run

A host is saved under its name there and nothing else: what ~/.ssh/config says of it applies, also when
that changes. Names that are configured are left as they are. Patterns such as Host *.example.com are none.")]
    Import(HostImportArgs),
    /// Show or set the host that commands go to
    #[command(after_help = "\
Examples:
  occ host default
  occ host default prod-1
  occ host default none")]
    Default {
        /// A host's name, or `local` or `none` to clear
        name: Option<DefaultArg>,
    },
}

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(crate) struct HostAddArgs {
    /// The name to use for it
    #[arg(value_parser = parse_name)]
    pub(crate) name: HostName,
    /// A DNS name, an address or an ssh_config alias: [user@]hostname[:port]
    #[arg(value_parser = parse_destination)]
    pub(crate) hostname: Destination,
    /// The login name; else ssh_config's, else yours
    #[arg(short, long, allow_hyphen_values = true)]
    pub(crate) user: Option<UserName>,
    /// The port; else ssh_config's, else 22
    #[arg(short, long, value_parser = parse_port, allow_hyphen_values = true)]
    pub(crate) port: Option<u16>,
    /// A private key
    #[arg(short, long, value_name = "PATH")]
    pub(crate) identity_file: Option<String>,
    /// Jump hosts, as for ssh -J
    #[arg(short = 'J', long, value_name = "HOSTS", value_parser = parse_jump, allow_hyphen_values = true)]
    pub(crate) jump_host: Option<String>,
    /// A group it belongs to; may be given more than once
    #[arg(short, long, value_name = "GROUP")]
    pub(crate) group: Vec<String>,
    /// A label
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
    /// Do not connect first
    #[arg(long)]
    pub(crate) no_verify: bool,
    /// Replace a host of the same name
    #[arg(long)]
    pub(crate) force: bool,
    /// Do not ask anything: a host that cannot be connected to is not added
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Install Docker if it is missing there, without asking
    #[arg(long, conflicts_with = "no_verify")]
    pub(crate) install_docker: bool,
    /// Write it into ~/.ssh/config as well, for ssh itself
    #[arg(long)]
    pub(crate) ssh_config: bool,
    /// Accepted for opencode-cloud's sake: ~/.ssh/config is not written unless --ssh-config says so
    #[arg(long, hide = true, conflicts_with = "ssh_config")]
    pub(crate) no_ssh_config: bool,
}

impl HostAddArgs {
    /// Returns the arguments of `occ host add NAME HOSTNAME`.
    pub(crate) fn new(name: HostName, hostname: Destination) -> Self {
        Self {
            name,
            hostname,
            user: None,
            port: None,
            identity_file: None,
            jump_host: None,
            group: Vec::new(),
            description: None,
            no_verify: false,
            force: false,
            yes: false,
            install_docker: false,
            ssh_config: false,
            no_ssh_config: false,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct HostImportArgs {
    /// Names in ~/.ssh/config
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// All whose names match, with * and ?
    #[arg(long = "match", value_name = "GLOB")]
    pub(crate) matching: Option<String>,
    /// All hosts that ~/.ssh/config names
    #[arg(long)]
    pub(crate) all: bool,
    /// A group they are to belong to; may be given more than once
    #[arg(short, long, value_name = "GROUP")]
    pub(crate) group: Vec<String>,
    /// Show what would be added, and add nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct HostEditArgs {
    /// The host's name
    pub(crate) name: HostName,
    /// A new address: [user@]hostname[:port]
    #[arg(long, value_parser = parse_destination, allow_hyphen_values = true)]
    pub(crate) hostname: Option<Destination>,
    /// A new login name
    #[arg(short, long, value_parser = clearable_user, allow_hyphen_values = true)]
    pub(crate) user: Option<Clearable<UserName>>,
    /// A new port
    #[arg(short, long, value_parser = clearable_port, allow_hyphen_values = true)]
    pub(crate) port: Option<Clearable<u16>>,
    /// A new private key
    #[arg(short, long, value_name = "PATH")]
    pub(crate) identity_file: Option<String>,
    /// New jump hosts, as for ssh -J
    #[arg(short = 'J', long, value_name = "HOSTS", value_parser = clearable_jump, allow_hyphen_values = true)]
    pub(crate) jump_host: Option<Clearable<String>>,
    /// Add it to a group; may be given more than once
    #[arg(long, value_name = "GROUP")]
    pub(crate) add_group: Vec<GroupName>,
    /// Take it out of a group; may be given more than once
    #[arg(long, value_name = "GROUP")]
    pub(crate) remove_group: Vec<String>,
    /// A new label
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
    /// Do not connect first
    #[arg(long)]
    pub(crate) no_verify: bool,
}
