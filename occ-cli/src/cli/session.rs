//! `occ session`.

use std::ffi::OsString;

use super::files::Eol;
use clap::{Args, Subcommand, ValueEnum};

use crate::duration::parse_ms;
use crate::parse::{parse_env, parse_session};

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum SessionCommand {
    /// Start a program on a host; or, with the name of a session that has ended and no program, that one again
    #[command(after_help = "\
Examples:
  occ session start --host prod-1 -- codex app-server
  occ session start --host prod-1 --name build --cwd /srv/app --attach -- make -j8
  occ session start --name build                   once more, as it was or as edited
  occ session start --host prod-1 --tty --attach -- codex
  occ session start --local -- make                on this machine

Its output is kept on the host, 64 MiB of each stream, until 7 days after its end.
The values of --env are kept nowhere once the program runs: a second start has to be given them again.")]
    Start(SessionStartArgs),
    /// List sessions
    #[command(after_help = "\
Examples:
  occ session list
  occ session list --host prod-1        asks the host, and finds those that occd has forgotten")]
    List,
    /// See a session's output, from where you stopped, and type its input
    #[command(after_help = "\
Examples:
  occ session attach build
  occ session attach build --from-start
  occ session attach build --offset 1048576
  occ session attach build --json       a document a line: stdout, stderr, gap, and exit at the end
  cat requests | occ session attach agent --eof

Ctrl-C goes to the program; a second one within 2 s detaches, and so does a line that is ~. and nothing else.
With --tty every key goes to the program, Ctrl-C too, but ~. at the beginning of a line; while the host is down Ctrl-C leaves as well.
Ctrl-D on a terminal is the end of the program's input; the end of a pipe is only with --eof.
The exit code is the program's own; 0 after detaching.")]
    Attach(AttachArgs),
    /// Give a session input: a line, or standard input
    #[command(after_help = "\
Examples:
  occ session send build yes
  occ session send agent --eol lf < notes.txt
  occ session send agent --eof < request.json")]
    Send(SendArgs),
    /// Print what a session has written
    #[command(after_help = "\
Examples:
  occ session logs build
  occ session logs build -n 50 -f
  occ session logs build --stderr

Ctrl-C ends the looking, and not the program.")]
    Logs(SessionLogsArgs),
    /// Wait for the end of a session's program; the exit code is the program's
    #[command(after_help = "Example:\n  occ session wait build && occ session logs build -n 5")]
    Wait {
        /// The session's name or ID
        #[arg(value_parser = parse_session)]
        name: String,
    },
    /// Change what a session's next start is; --name and --retries hold at once
    #[command(after_help = "\
Examples:
  occ session edit build --host prod-2; occ session start --name build
  occ session edit build --name nightly
  occ session edit build --cwd /srv/app -- make -j4")]
    Edit(SessionEditArgs),
    /// End a session's program and what it has started: TERM, and KILL 2 s later
    #[command(after_help = "\
Examples:
  occ session kill build
  occ session kill build --signal HUP")]
    Kill {
        /// The session's name or ID
        #[arg(value_parser = parse_session)]
        name: String,
        /// Send this signal, and nothing else; in a terminal (--tty) to the program and its descendants
        #[arg(long, value_name = "NAME")]
        signal: Option<String>,
    },
    /// Remove a session that has ended, with its output
    #[command(after_help = "\
Examples:
  occ session rm build
  occ session rm build --force          ends its program first
  occ session rm build --forget         its host is no more")]
    Rm {
        /// The session's name or ID
        #[arg(value_parser = parse_session)]
        name: String,
        /// End its program first
        #[arg(long, short, conflicts_with = "forget")]
        force: bool,
        /// Forget it without asking its host
        #[arg(long)]
        forget: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct SessionStartArgs {
    /// What to call it [default: its program]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// The directory to run in, on the host [default: the home directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    /// Set a variable for the program; may be given more than once
    #[arg(long, value_name = "K=V", value_parser = parse_env)]
    pub(crate) env: Vec<(String, String)>,
    /// How many times a lost host is dialled again for somebody who is attached [default: for ever]
    #[arg(long, value_name = "N")]
    pub(crate) retries: Option<u32>,
    /// Forward the ports of the host whose local URLs it prints, such as http://localhost:5173/, as long as it runs
    #[arg(long)]
    pub(crate) forward_urls: bool,
    /// Attach to it
    #[arg(long)]
    pub(crate) attach: bool,
    /// Run it in a terminal, which takes tmux or screen on the host
    #[arg(short = 't', long)]
    pub(crate) tty: bool,
    /// The program and its arguments, passed exactly
    #[arg(trailing_var_arg = true, value_name = "ARGV")]
    pub(crate) argv: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct AttachArgs {
    /// The session's name or ID
    #[arg(value_parser = parse_session)]
    pub(crate) name: String,
    /// All output that is kept
    #[arg(long, conflicts_with = "offset")]
    pub(crate) from_start: bool,
    /// From this byte of standard output on
    #[arg(long, value_name = "N")]
    pub(crate) offset: Option<u64>,
    /// Wait this long for a host that is down, such as 5m, instead of dialling a few times
    #[arg(long, value_name = "TIME", value_parser = parse_ms)]
    pub(crate) wait: Option<u64>,
    /// Send no input
    #[arg(short = 'n', long, conflicts_with = "eof")]
    pub(crate) no_stdin: bool,
    /// Pass on the end of standard input
    #[arg(long)]
    pub(crate) eof: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SendArgs {
    /// The session's name or ID
    #[arg(value_parser = parse_session)]
    pub(crate) name: String,
    /// Make line feeds of the ends of lines that are CR LF
    #[arg(long, value_name = "EOL")]
    pub(crate) eol: Option<Eol>,
    /// Nothing comes after it
    #[arg(long)]
    pub(crate) eof: bool,
    /// The line to send, joined by spaces, behind -- if it begins with a hyphen; else standard input as it is
    #[arg(value_name = "TEXT")]
    pub(crate) text: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct SessionLogsArgs {
    /// The session's name or ID
    #[arg(value_parser = parse_session)]
    pub(crate) name: String,
    /// Only the last lines
    #[arg(short = 'n', long, value_name = "LINES")]
    pub(crate) lines: Option<u64>,
    /// Go on with what comes
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Standard error in place of standard output
    #[arg(long)]
    pub(crate) stderr: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SessionEditArgs {
    /// The session's name or ID
    pub(crate) session: String,
    /// A new name
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// The directory to run in
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    /// How many times a lost host is dialled again for somebody who is attached
    #[arg(long, value_name = "N")]
    pub(crate) retries: Option<u32>,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, value_name = "ARGV")]
    pub(crate) argv: Vec<OsString>,
}

/// Agents that are known by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Agent {
    /// OpenAI's Codex CLI, as `codex app-server`: JSON by lines.
    Codex,
    /// opencode, as `opencode serve`: HTTP.
    Opencode,
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum AgentCommand {
    /// Start an agent on a host, if it is there
    #[command(after_help = "\
Examples:
  occ agent start codex --host prod-1 --attach
  occ agent start opencode --host prod-1 --cwd /srv/app -- --port 4096

It is a session like any other: occ session attach codex, list, logs, kill.")]
    Start(AgentStartArgs),
}

#[derive(Debug, Args)]
pub(crate) struct AgentStartArgs {
    /// The agent
    #[arg(value_enum)]
    pub(crate) agent: Agent,
    /// What to call the session [default: the agent]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// The directory to run in, on the host [default: the home directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    /// Set a variable for it; may be given more than once
    #[arg(long, value_name = "K=V", value_parser = parse_env)]
    pub(crate) env: Vec<(String, String)>,
    /// Attach to it
    #[arg(long)]
    pub(crate) attach: bool,
    /// More arguments for it
    #[arg(last = true, value_name = "ARGS")]
    pub(crate) args: Vec<OsString>,
}
