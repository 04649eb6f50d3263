//! The command line of `occ exec` and `occ shell`.

use std::ffi::OsString;

use clap::Args;

use crate::duration::parse_ms;
use crate::escape::{EscapeKey, parse_escape};
use crate::parse::parse_env;

#[derive(Debug, Default, Args)]
pub(crate) struct ExecArgs {
    /// End the command after this long, such as 10s, 1m30s, 500ms; getting a connection
    /// is part of it, unless --wait says how long that may take
    #[arg(long, value_name = "TIME", value_parser = parse_ms)]
    pub(crate) timeout: Option<u64>,
    /// The directory to run in, on the host
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    /// Set a variable for the command; may be given more than once
    #[arg(long, value_name = "K=V", value_parser = parse_env)]
    pub(crate) env: Vec<(String, String)>,
    /// Hand the words, joined by spaces, to the host's login shell as one line
    #[arg(long)]
    pub(crate) shell: bool,
    /// How many times to dial again when the host cannot be reached [default: 3; 0 with --group or --all]
    #[arg(long, value_name = "N")]
    pub(crate) retries: Option<u32>,
    /// Wait this long for a host that is down, such as 5m, instead of dialling a few times
    #[arg(long, value_name = "TIME", value_parser = parse_ms, conflicts_with = "retries")]
    pub(crate) wait: Option<u64>,
    /// Exit with this code for every failure of occ's own (ssh uses 255)
    #[arg(long, value_name = "CODE")]
    pub(crate) own_exit: Option<u8>,
    /// Give the command no input
    #[arg(short = 'n', long)]
    pub(crate) no_stdin: bool,
    /// Run it as a session, which a broken link does not end
    #[arg(long, conflicts_with = "retries")]
    pub(crate) durable: bool,
    /// Run it in a terminal: its output is one stream, and keys such as Ctrl-C are the program's
    #[arg(short = 't', long)]
    pub(crate) tty: bool,
    /// What runs shows the screen of a session, which goes on without it
    #[arg(skip)]
    pub(crate) shows_a_screen: bool,
    /// The key that begins an escape with --tty, or none
    #[arg(long, value_name = "CHAR", value_parser = parse_escape, requires = "tty")]
    pub(crate) escape: Option<EscapeKey>,
    /// Wait for what the program left behind with its output; else a second of silence is the end
    #[arg(long)]
    pub(crate) wait_output: bool,
    /// The program and its arguments, passed exactly
    #[arg(required = true, trailing_var_arg = true, value_name = "ARGV")]
    pub(crate) argv: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct ShellArgs {
    /// The directory to begin in
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    /// Set a variable; may be given more than once
    #[arg(long, value_name = "K=V", value_parser = parse_env)]
    pub(crate) env: Vec<(String, String)>,
    /// How many times to dial again when the host cannot be reached [default: 3]
    #[arg(long, value_name = "N")]
    pub(crate) retries: Option<u32>,
    /// Wait this long for a host that is down, such as 5m, instead of dialling a few times
    #[arg(long, value_name = "TIME", value_parser = parse_ms, conflicts_with = "retries")]
    pub(crate) wait: Option<u64>,
    /// Exit with this code for every failure of occ's own (ssh uses 255)
    #[arg(long, value_name = "CODE")]
    pub(crate) own_exit: Option<u8>,
    /// The key that begins an escape at a line's beginning, or none [default: ~]
    #[arg(long, value_name = "CHAR", value_parser = parse_escape)]
    pub(crate) escape: Option<EscapeKey>,
    /// A program in place of the login shell, and its arguments
    #[arg(trailing_var_arg = true, value_name = "ARGV")]
    pub(crate) argv: Vec<OsString>,
}
