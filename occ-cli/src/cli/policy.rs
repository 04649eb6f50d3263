//! The command line of `occ policy` and `occ grant`.

use std::ffi::OsString;

use clap::{Args, Subcommand};
use occ_proto::policy::{Capability, ClientKind, Permission};

use crate::duration::parse_ms;
use crate::parse::parse_env;

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum PolicyCommand {
    /// Show what may be done on a host, and the rules
    #[command(after_help = "\
Examples:
  occ policy show --host prod-1
  occ policy show --local --json")]
    Show,
    /// Tell what would be said to a command, and which rule says so; nothing is run
    #[command(after_help = "\
Examples:
  occ policy check --host prod-1 -- sudo rm -rf build
  occ policy check --host prod-1 --client mcp --shell -- 'ls | wc -l'
  occ policy check --host prod-1 --what forward

The exit code is 0 for allow, 5 for ask, 7 for deny.")]
    Check(PolicyCheckArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PolicyCheckArgs {
    /// For this kind of client: cli, editor, api, mcp [default: cli]
    #[arg(long, value_name = "KIND")]
    pub(crate) client: Option<ClientKind>,
    /// In place of a command: read, write, docker, forward
    #[arg(long, value_name = "WHAT", value_parser = parse_capability)]
    pub(crate) what: Option<Capability>,
    /// The words are a line for a shell
    #[arg(long)]
    pub(crate) shell: bool,
    /// A variable that would be set; may be given more than once
    #[arg(long, value_name = "K=V", value_parser = parse_env)]
    pub(crate) env: Vec<(String, String)>,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, value_name = "ARGV")]
    pub(crate) argv: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct GrantArgs {
    #[command(subcommand)]
    pub(crate) command: Option<GrantCommand>,
    /// What it gives, with commas: read, write, exec, exec:PROGRAM
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    pub(crate) allow: Vec<Permission>,
    /// How long it lasts, such as 2h
    #[arg(long, value_name = "TIME", value_parser = parse_ms)]
    pub(crate) ttl: Option<u64>,
    /// Commands run, and files are, below this directory of the host
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<String>,
    /// What to call it
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Whoever the directory is mounted for may use it, of whatever user
    #[arg(long)]
    pub(crate) any_uid: bool,
}

impl GrantArgs {
    /// Returns whether they say what is to be given.
    pub(crate) fn says_something(&self) -> bool {
        let Self { command: _, allow, ttl, root, name, any_uid } = self;
        !allow.is_empty() || ttl.is_some() || root.is_some() || name.is_some() || *any_uid
    }
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum GrantCommand {
    /// List the grants that have not ended
    #[command(after_help = "Examples:\n  occ grant list\n  occ grant list --json")]
    List,
    /// End a grant now, and all that is open through it
    #[command(after_help = "Example:\n  occ grant revoke agent")]
    Revoke {
        /// Its name
        name: String,
    },
}

fn parse_capability(text: &str) -> Result<Capability, String> {
    let found = Capability::ALL.into_iter().find(|what| what.as_str() == text);
    found.ok_or_else(|| format!("'{text}' is none of read, write, exec, docker and forward"))
}
