//! The command line, as clap types and nothing else.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};
use occ_proto::name::Destination;
use occ_proto::{HostName, UserName};

use crate::duration::parse_ms;
use crate::error::CliError;
use crate::parse::{
    Clearable, DefaultArg, clearable_jump, clearable_port, clearable_user, parse_count,
    parse_destination, parse_env, parse_group, parse_jump, parse_lines, parse_name, parse_port,
};
use crate::target::HostArg;

const HELP: &str = "\
occ: your servers, always connected

Usage: occ <command> [--host NAME | --local | --group NAME | --all] [options]

  status                         link and sandbox, from memory
  start stop restart logs update cockpit   the opencode sandbox
  sandbox                        compare two, make them alike
  exec                           a command on a host
  host                           add list show edit remove test default install-docker
  connect disconnect reconnect   the link itself
  trust unlock prompts           a changed host key; locked keys; open questions
  operations                     what is being done, or was not long ago
  docker docker-socket docker-context   the docker program at a host's engine
  history                        when a link was down, and why
  daemon                         run start stop status: occd, which keeps the links

  --host NAME    target (also --remote-host); else OCC_HOST, else the default host, else this machine
  --group NAME, --all   many hosts, --parallel N at once [default: 32]: exec status start stop
                 restart update logs connect disconnect reconnect docker-socket, host test
  --json -q -v   one JSON document; the essential; more
  --no-input     ask nothing: what needs an answer fails
  --no-color     as NO_COLOR does
  --socket PATH  occd's socket; else OCC_SOCKET
  --version      occ <command> --help has examples

Start here
  occ host add prod-1 deploy@203.0.113.10
  occ status --host prod-1
  occ exec --host prod-1 -- uname -a
  occ exec --group eu -- uname -r
";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "occ",
    bin_name = "occ",
    version,
    about = "occ: your servers, always connected",
    override_help = HELP,
    max_term_width = 100,
    infer_long_args = false
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

impl Cli {
    /// Returns the exit code that replaces ours (`exec --own-exit`).
    pub(crate) fn own_exit(&self) -> Option<u8> {
        match &self.command {
            Some(Command::Exec(exec)) => exec.own_exit,
            _ => None,
        }
    }
}

/// What every command takes, before or behind its name.
#[derive(Debug, Args)]
#[command(next_help_heading = "Everywhere")]
pub(crate) struct Global {
    /// The host to work on; else OCC_HOST, else the default host
    #[arg(
        long,
        alias = "remote-host",
        global = true,
        // So that the name is refused in our words, and not taken for an option of ours.
        allow_hyphen_values = true,
        value_name = "NAME",
        conflicts_with = "local"
    )]
    pub(crate) host: Option<HostArg>,
    /// This machine instead of a host
    #[arg(long, global = true)]
    pub(crate) local: bool,
    /// All hosts of a group
    #[arg(long, global = true, value_name = "NAME", conflicts_with_all = ["host", "local", "all"])]
    pub(crate) group: Option<String>,
    /// All hosts that hosts.json lists
    #[arg(long, global = true, conflicts_with_all = ["host", "local"])]
    pub(crate) all: bool,
    /// How many hosts of --group or --all at once [default: 32]
    #[arg(long, global = true, value_name = "N", value_parser = parse_count)]
    pub(crate) parallel: Option<usize>,
    /// One JSON document on stdout; failures as a problem document on stderr
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Only the essential
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// More
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Ask nothing: what needs an answer fails
    #[arg(long, global = true)]
    pub(crate) no_input: bool,
    /// No colours
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
    /// occd's socket; else OCC_SOCKET
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show how hosts are linked, from the daemon's memory
    #[command(after_help = "\
Examples:
  occ status --host prod-1
  occ status --all                      on a terminal, rows that are alike fold; not with -v
  occ status --group eu
  occ status --watch --group eu         follows; in a pipe a line per change, with --json a document
  occ status --host prod-1 --fresh      connect first, and ask Docker
  occ status -q --host prod-1           exit 0 if the sandbox runs, 1 if not, 5 if that is not known")]
    Status(StatusArgs),
    /// Start the opencode sandbox, making it if need be
    #[command(after_help = "\
Examples:
  occ start --host prod-1
  occ start --host prod-1 -p 4000 --mount /srv/work:/home/opencoder/workspace
  occ start --host prod-1 --open        shows it in the browser
  occ start -q --host prod-1            prints the address alone
  occ start --group eu
  occ start --local                     this machine's own Docker")]
    Start(StartArgs),
    /// Stop the sandbox
    #[command(after_help = "\
Examples:
  occ stop --host prod-1
  occ stop --host prod-1 --remove       its volumes stay
  occ stop --group eu                   asks once for all; -y for scripts")]
    Stop(StopArgs),
    /// Stop and start the sandbox
    #[command(after_help = "\
Examples:
  occ restart --host prod-1
  occ restart --group eu -y             for scripts; without -y it asks once for all")]
    Restart(RestartArgs),
    /// Show what the sandbox says, and follow it
    #[command(after_help = "\
Examples:
  occ logs --host prod-1
  occ logs --host prod-1 -n 200 --no-follow --grep error
  occ logs --host prod-1 --timestamps
  occ logs --group eu -n 5              all of them, each line with its host")]
    Logs(LogsArgs),
    /// Bring the sandbox to the newest image, or back to the one before
    #[command(after_help = "\
Examples:
  occ update --host prod-1
  occ update --host prod-1 --rollback
  occ update --host prod-1 -y           for scripts
  occ update --group eu                 one after the other, up to the first that fails
  occ update --group eu --canary eu-01 --batch 5 --max-fail 2
      eu-01 first; if it is healthy then, the rest, five at a time, up to the third that fails")]
    Update(UpdateArgs),
    /// Open the sandbox's cockpit
    #[command(after_help = "Example:\n  occ cockpit --host prod-1")]
    Cockpit,
    /// Compare how two sandboxes are made, and make them alike
    #[command(
        subcommand,
        after_help = "\
Examples:
  occ sandbox diff --from prod-1 --to prod-2
  occ sandbox sync --from prod-1 --to prod-2 --to prod-3"
    )]
    Sandbox(SandboxCommand),
    /// Show what is being done on hosts, attach to it, or cancel it
    #[command(after_help = "\
Examples:
  occ operations
  occ operations attach 1f3c9a2b
  occ operations cancel 1f3c9a2b")]
    Operations {
        /// What to do; list unless given
        #[command(subcommand)]
        command: Option<OperationsCommand>,
    },
    /// Run a command on a host, byte for byte
    #[command(after_help = "\
Examples:
  occ exec --host prod-1 -- uname -a
  occ exec --host prod-1 --shell -- 'ls *.log | wc -l'
  tar c . | occ exec --host prod-1 --cwd /srv -- tar x
  occ exec --host prod-1 --timeout 10s --env LANG=C -- make test
  occ exec --host prod-1 --wait 5m -- uptime       waits for a host that is down
  occ exec --group eu -- uname -r                  on all hosts of a group, 32 at once
  occ exec --all --parallel 4 --json -- df /       a document per host, as each ends

The exit code is the command's own; 128 + n for a signal; 124 when --timeout ended it.
What --env sets shows for a moment in the host's process list.

With --group or --all:
  Each line has its host before it; on a terminal, equal outputs are shown once, unless with -v.
  The exit code is 0 when it was 0 everywhere, else 1.
  Standard input is read first, up to 16 MiB, and given to each; a terminal is not read.
  A host that is down is dialled once, unless --retries or --wait says otherwise.")]
    Exec(ExecArgs),
    /// Connect to a host and wait until it is connected
    #[command(after_help = "\
Examples:
  occ connect --host prod-1
  occ connect --host prod-1 --wait 5m   also if it is down for a while
  occ connect --group eu                a host that is down is dialled once")]
    Connect(ConnectArgs),
    /// Disconnect from a host until `occ connect`
    #[command(
        after_help = "Examples:\n  occ disconnect --host prod-1\n  occ disconnect --group eu"
    )]
    Disconnect,
    /// Drop a host's connection and dial anew, now
    #[command(after_help = "Examples:\n  occ reconnect --host prod-1\n  occ reconnect --group eu")]
    Reconnect,
    /// Review a host's key, and trust it in place of the one on record
    #[command(after_help = "\
Examples:
  occ trust --host prod-1                               shows both keys and asks
  occ trust --host prod-1 --fingerprint SHA256:Qm3nV…   for scripts: that key and no other")]
    Trust(TrustArgs),
    /// Unlock the private keys of a host, or one key file, until occd stops
    #[command(after_help = "\
Examples:
  occ unlock --host prod-1
  occ unlock ~/.ssh/id_ed25519")]
    Unlock(UnlockArgs),
    /// Show when a host's link was up and down, and why
    #[command(after_help = "\
Examples:
  occ history --host prod-1
  occ history --host prod-1 --since 24h
  occ history --host prod-1 --since 2026-11-21T03:00:00Z --json")]
    History(HistoryArgs),
    /// Show what waits for an answer, and ask for it
    #[command(after_help = "Examples:\n  occ prompts\n  occ prompts --json")]
    Prompts,
    /// Run the docker program here against a host's engine, over the pooled connection
    #[command(after_help = "\
Examples:
  occ docker --host prod-1 -- ps
  occ docker --host prod-1 -- logs -f web
  occ docker --host prod-1 -- compose up -d")]
    Docker(DockerArgs),
    /// Print the Unix socket of this machine that speaks to a host's engine
    #[command(after_help = "\
Examples:
  export DOCKER_HOST=unix://$(occ docker-socket -q --host prod-1)
  occ docker-socket --all
  occ docker-socket --group eu
  occ docker-socket --host prod-1 --remove")]
    DockerSocket(DockerSocketArgs),
    /// Make a docker context for a host's engine
    #[command(after_help = "\
Examples:
  occ docker-context --host prod-1; docker --context occ-prod-1 ps
  occ docker-context --host prod-1 --remove")]
    DockerContext(DockerContextArgs),
    /// Add, list, show, edit, remove and test hosts
    #[command(
        subcommand,
        after_help = "\
Examples:
  occ host add prod-1 deploy@203.0.113.10
  occ host list
  occ host test prod-1"
    )]
    Host(HostCommand),
    /// Run, start, stop and look at occd
    #[command(
        subcommand,
        after_help = "\
Examples:
  occ daemon status
  occ daemon stop; occ daemon start"
    )]
    Daemon(DaemonCommand),
}

impl Command {
    /// Returns whether it goes with `--group` and `--all`.
    pub(crate) fn works_on_many(&self) -> bool {
        matches!(
            self,
            Self::Status(_)
                | Self::Start(_)
                | Self::Stop(_)
                | Self::Restart(_)
                | Self::Update(_)
                | Self::Logs(_)
                | Self::Exec(_)
                | Self::Connect(_)
                | Self::Disconnect
                | Self::Reconnect
                | Self::DockerSocket(_)
                | Self::Host(HostCommand::Test { .. })
        )
    }
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Wait for a connection and ask the host, instead of answering from memory
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Go on showing it when something changes
    #[arg(long, conflicts_with = "fresh")]
    pub(crate) watch: bool,
}

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(crate) struct StartArgs {
    /// The port on the host; else the settings', else 3000
    #[arg(short, long, value_parser = parse_port)]
    pub(crate) port: Option<u16>,
    /// Show it in the browser
    #[arg(long)]
    pub(crate) open: bool,
    /// Mount a path of the host: /path/there:/path/inside, and :ro behind it; may be given more than once
    #[arg(long, value_name = "SPEC")]
    pub(crate) mount: Vec<String>,
    /// Mount nothing of the host
    #[arg(long)]
    pub(crate) no_mounts: bool,
    /// Pull the image even if there is one
    #[arg(long)]
    pub(crate) pull_sandbox_image: bool,
    /// Make a sandbox anew that was made otherwise, without asking
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Accepted for opencode-cloud's sake: versions are never compared
    #[arg(long, hide = true)]
    pub(crate) ignore_version: bool,
    /// Accepted for opencode-cloud's sake: occ looks for no updates by itself
    #[arg(long, hide = true)]
    pub(crate) no_update_check: bool,
    /// Not done by occ
    #[arg(long, hide = true)]
    no_daemon: bool,
    /// Not done by occ
    #[arg(long, hide = true)]
    cached_rebuild_sandbox_image: bool,
    /// Not done by occ
    #[arg(long, hide = true)]
    full_rebuild_sandbox_image: bool,
    /// Not done by occ
    #[arg(long, hide = true)]
    local_opencode_submodule: bool,
}

impl StartArgs {
    /// Says what to do in place of building an image, if that is asked for.
    pub(crate) fn refuse_builds(&self) -> Result<(), CliError> {
        if self.no_daemon {
            return Err(CliError::unsupported(
                "--no-daemon: occd itself is the daemon, and a service of systemd or launchd.",
            )
            .hint("occ start, without it"));
        }
        let builds = [
            (self.cached_rebuild_sandbox_image, "--cached-rebuild-sandbox-image"),
            (self.full_rebuild_sandbox_image, "--full-rebuild-sandbox-image"),
            (self.local_opencode_submodule, "--local-opencode-submodule"),
        ];
        match builds.into_iter().find(|(asked, _)| *asked) {
            Some((_, flag)) => Err(CliError::unsupported(format!(
                "{flag}: occ builds no images from source."
            ))
            .hint("occ docker --host NAME -- build …, then image = \"NAME\" under [hosts.NAME.sandbox] of occd.toml; or occ start --pull-sandbox-image")),
            None => Ok(()),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// How long it has to end by itself, in seconds [default: 30]
    #[arg(short, long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u32>,
    /// Remove the container, too; its volumes stay
    #[arg(long)]
    pub(crate) remove: bool,
    /// With --group or --all: do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RestartArgs {
    /// With --group or --all: do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(crate) struct LogsArgs {
    /// How many of the lines that are there, or `all`
    #[arg(short = 'n', long, value_name = "N", default_value = "50", value_parser = parse_lines)]
    pub(crate) lines: String,
    /// Go on with those that come, which is the default
    #[arg(short, long, conflicts_with = "no_follow")]
    pub(crate) follow: bool,
    /// End with the lines that are there
    #[arg(long)]
    pub(crate) no_follow: bool,
    /// The time before each line
    #[arg(long)]
    pub(crate) timestamps: bool,
    /// Only lines with this text
    #[arg(long, value_name = "TEXT")]
    pub(crate) grep: Option<String>,
    /// No host's name before each line
    #[arg(long)]
    pub(crate) no_prefix: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// What to update
    #[arg(value_enum, hide = true)]
    pub(crate) what: Option<UpdateWhat>,
    /// Back to the image from before the last update
    #[arg(long)]
    pub(crate) rollback: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// With --group or --all: this host first, and the others only when that went well
    #[arg(long, value_name = "HOST")]
    pub(crate) canary: Option<HostName>,
    /// With --group or --all: so many hosts at a time [default: 1]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub(crate) batch: Option<usize>,
    /// With --group or --all: go on until more than so many have failed [default: 0]
    #[arg(long, value_name = "N")]
    pub(crate) max_fail: Option<usize>,
}

/// What the existing tool updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum UpdateWhat {
    /// The sandbox.
    Container,
    /// The program itself.
    Cli,
    /// What is in the sandbox.
    Opencode,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SandboxCommand {
    /// Show what differs: image, variables, ports, mounts, policy; exit 1 if anything does
    #[command(after_help = "Example:\n  occ sandbox diff --from prod-1 --to prod-2")]
    Diff(SandboxPair),
    /// Make sandboxes like another one; secrets, volumes and data stay as they are
    #[command(after_help = "\
Examples:
  occ sandbox sync --from prod-1 --to prod-2
  occ sandbox sync --from prod-1 --to prod-2 --to prod-3 --yes")]
    Sync {
        #[command(flatten)]
        pair: SandboxPair,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct SandboxPair {
    /// The host whose sandbox is the model, or `local`
    #[arg(long, value_name = "HOST")]
    pub(crate) from: HostArg,
    /// The host whose sandbox is compared or made like it; may be given more than once
    #[arg(long, value_name = "HOST", required = true)]
    pub(crate) to: Vec<HostArg>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OperationsCommand {
    /// List them, the newest first
    #[command(after_help = "Example:\n  occ operations list")]
    List,
    /// Follow one to its end
    #[command(after_help = "Example:\n  occ operations attach 1f3c9a2b")]
    Attach {
        /// Its ID
        id: String,
    },
    /// Cancel one, and leave nothing half made behind
    #[command(after_help = "Example:\n  occ operations cancel 1f3c9a2b")]
    Cancel {
        /// Its ID
        id: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DockerArgs {
    /// What the docker program is to do
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARGV"
    )]
    pub(crate) argv: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct DockerSocketArgs {
    /// Take the socket away
    #[arg(long)]
    pub(crate) remove: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DockerContextArgs {
    /// Remove the context and the socket
    #[arg(long)]
    pub(crate) remove: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ConnectArgs {
    /// Wait this long for a host that is down, such as 5m, instead of dialling a few times
    #[arg(long, value_name = "TIME", value_parser = parse_ms)]
    pub(crate) wait: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// End the command after this long, such as 10s, 1m30s, 500ms
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
    /// The program and its arguments, passed exactly
    #[arg(required = true, trailing_var_arg = true, value_name = "ARGV")]
    pub(crate) argv: Vec<OsString>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum HostCommand {
    /// Add a host, after connecting to it
    #[command(after_help = "\
Examples:
  occ host add prod-1 deploy@203.0.113.10
  occ host add build-1 10.0.0.7 -u ci -i ~/.ssh/ci -J bastion.example.com -g build
  occ host add later 192.0.2.9 --no-verify
  occ host add new-1 root@198.51.100.7 --install-docker")]
    Add(HostAddArgs),
    /// Remove a host
    #[command(after_help = "Examples:\n  occ host remove old-1\n  occ host remove old-1 -f")]
    Remove {
        /// The host's name
        name: HostName,
        /// Do not ask, and end work that runs there
        #[arg(short, long)]
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
    #[arg(short, long, value_name = "GROUP", value_parser = parse_group)]
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
    /// Accepted for opencode-cloud's sake: ~/.ssh/config is never written
    #[arg(long, hide = true)]
    pub(crate) no_ssh_config: bool,
}

#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// From then on: a time before now, such as 24h or 7d, or a moment (RFC 3339)
    #[arg(long, value_name = "TIME", default_value = "7d")]
    pub(crate) since: String,
}

#[derive(Debug, Args)]
pub(crate) struct UnlockArgs {
    /// A private key; else those that the host's login would offer; without a host, those that hosts wait for
    #[arg(value_name = "KEY")]
    pub(crate) key: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct TrustArgs {
    /// Trust the key with this fingerprint without asking, and no other
    #[arg(long, value_name = "SHA256:…")]
    pub(crate) fingerprint: Option<String>,
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
    #[arg(long, value_name = "GROUP", value_parser = parse_group)]
    pub(crate) add_group: Vec<String>,
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

#[derive(Debug, Subcommand)]
pub(crate) enum DaemonCommand {
    /// Run occd in the foreground
    #[command(after_help = "Example:\n  occ daemon run")]
    Run,
    /// Start occd unless it runs
    #[command(after_help = "Example:\n  occ daemon start")]
    Start,
    /// Stop occd, and with it every connection
    #[command(after_help = "Example:\n  occ daemon stop")]
    Stop,
    /// Show whether occd runs, its version and its socket; exit 0 or 3
    #[command(after_help = "Examples:\n  occ daemon status\n  occ daemon status --json")]
    Status,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_visible_command_says_what_it_does_and_shows_an_example() {
        fn check(command: &clap::Command) {
            for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
                if sub.get_name() == "help" {
                    continue;
                }
                assert!(sub.get_about().is_some(), "{}", sub.get_name());
                let examples = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(examples.contains("occ "), "{}", sub.get_name());
                check(sub);
            }
        }
        check(&Cli::command());
    }

    #[test]
    fn the_help_names_every_visible_command() {
        let command = Cli::command();
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            assert!(
                HELP.contains(&format!("  {}", sub.get_name()))
                    || HELP.contains(&format!(" {} ", sub.get_name())),
                "{}",
                sub.get_name()
            );
        }
    }
}
