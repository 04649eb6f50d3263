//! The command line, as clap types and nothing else.

mod daemon;
mod exec;
mod files;
mod forward;
mod help;
mod host;
mod link;
mod policy;
mod sandbox;
mod session;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::parse::parse_count;
use crate::target::HostArg;

pub(crate) use daemon::*;
pub(crate) use exec::*;
pub(crate) use files::*;
pub(crate) use forward::*;
pub(crate) use help::help;
pub(crate) use host::*;
pub(crate) use link::*;
pub(crate) use policy::*;
pub(crate) use sandbox::*;
pub(crate) use session::*;

const HELP: &str = "\
occ: your servers, always connected

Usage: occ <command> [--host NAME | --local | --group NAME | --all] [options]

  status                         link and sandbox, from memory
  start stop restart logs update cockpit   the opencode sandbox
  sandbox                        compare two, make them alike
  exec shell                     a command on a host, a terminal there
  session agent                  programs that outlive the link: start attach send logs kill
  cp ls cat rm edit              files, here and there: HOST:PATH
  files                          watch search: what changes there, and where a text is
  setup doctor                   to a first host that works; what is wrong on this machine
  host                           add list show edit remove test default import install-docker
  connect disconnect reconnect   the link itself
  trust unlock prompts           a changed host key; locked keys; open questions
  allow                          a project's .occ.toml: the host of its commands
  policy grant                   what may be done on a host; a socket that may do little
  operations                     what is being done, or was not long ago
  forward                        add list remove: ports and sockets, as ssh -L -R -D
  docker docker-socket docker-context   the docker program at a host's engine
  events api                     what changes, as it changes; the API in JSON lines
  history audit                  when a link was down, and why; what was done, and by whom
  metrics trace                  times and counts; what goes through a host's channels, into a file
  daemon                         start stop restart status logs log-level run install: occd itself
  completions                    bash zsh fish: what TAB knows, names of hosts too

  --host NAME    target (also --remote-host); else OCC_HOST, else the default host, else this machine
  --group NAME, --all   many hosts, --parallel N at once [default: 32]: exec cp status start stop
                 restart update logs connect disconnect reconnect docker-socket, host test
  --json -q -v   one JSON document; the essential; more
  --no-input     ask nothing: what needs an answer fails; what a policy asks others waits
  --no-color     as NO_COLOR does
  --socket PATH  occd's socket; else OCC_SOCKET
  --version      occ <command> --help has examples

Start here
  occ setup
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
    /// Reads a command line.
    ///
    /// With the grammar of the named command alone if it fits, as it nearly always does: each
    /// command of the whole grammar has a copy of all global options, and `occ` starts for each
    /// command that is typed. What does not fit (help, an unknown word) is the whole grammar's.
    pub(crate) fn read(args: &[OsString]) -> Result<Self, clap::Error> {
        if let Some(named) = named_alone(args)
            && let Ok(matches) = named.try_get_matches_from(args)
        {
            return Self::from_arg_matches(&matches);
        }
        Self::try_parse_from(args)
    }

    /// Returns the exit code that replaces ours (`exec --own-exit`).
    pub(crate) fn own_exit(&self) -> Option<u8> {
        match &self.command {
            Some(Command::Exec(exec)) => exec.own_exit,
            Some(Command::Shell(shell)) => shell.own_exit,
            _ => None,
        }
    }
}

/// Returns the grammar of the first command that the words name, without its siblings.
fn named_alone(args: &[OsString]) -> Option<clap::Command> {
    let mut words = args.iter().skip(1).filter_map(|word| word.to_str());
    let mut named = take_below(Cli::command(), &mut words)?;
    if named.has_subcommands() {
        // clap's names live as long as the process.
        let name: &'static str = named.get_name().to_owned().leak();
        named = clap::Command::new(name).subcommand(take_below(named, &mut words)?);
    }
    Some(Global::augment_args(clap::Command::new("occ")).subcommand(named))
}

/// Takes the first command that the words name out of those below another.
fn take_below<'a>(
    mut command: clap::Command,
    words: &mut impl Iterator<Item = &'a str>,
) -> Option<clap::Command> {
    let name = words.find(|word| command.find_subcommand(word).is_some())?;
    command.find_subcommand_mut(name).map(std::mem::take)
}

/// What every command takes, before or behind its name.
#[derive(Debug, Default, Args)]
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
    /// Ask nothing: what needs an answer fails; what a policy asks others waits for them
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
///
/// Deferred, as is what is below each: only the grammar of the command that is given is built, since `occ` starts for each.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum Command {
    /// Show how hosts are linked, from the daemon's memory
    #[command(after_help = "\
Examples:
  occ status --host prod-1
  occ status --all                      on a terminal, rows that are alike fold; not with -v
  occ status --group eu
  occ status --watch --group eu         follows; in a pipe a line per change, with --json a document
  occ status --host prod-1 --fresh      connect first, and ask Docker
  occ status -q --host prod-1           exit 0 if the sandbox runs, 1 if not, 5 if that is not known

Without -q it exits 0 when it could answer, also that a host is down or that Docker does not answer: docker_error
with --json. With --fresh, a host that cannot be connected to is exit code 5, one of many 1.")]
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
    /// Tell what changes: links, sandboxes, forwards, sessions, prompts, operations
    #[command(after_help = "\
Examples:
  occ events                               everything, until Ctrl-C
  occ events --host prod-1 --kind host,container
  occ events --json                        JSON lines; each has an ID
  occ events --json --after 1f3c9a2b-17    what came after that one
  occ events --json --once                 how everything is, and no more

It goes on when occd is restarted; events that nobody knows any more are told as a gap, with a new snapshot.")]
    Events(EventsArgs),
    /// Speak the API in JSON lines on standard input and output, for editors and other programs
    #[command(after_help = "\
Examples:
  echo '{\"id\":1,\"method\":\"GET\",\"path\":\"/v1/hosts\"}' | occ api
  echo '{\"id\":1,\"method\":\"GET\",\"path\":\"/v1/events\"}' | occ api
  echo '{\"id\":1,\"method\":\"POST\",\"path\":\"/v1/hosts/prod-1/exec\",\"body\":{\"shell\":\"ls\"}}' | occ api

A line has id, method and path, and may have headers and body (body_b64 for bytes). Its answer
has the id, status, headers and body; or stream in place of the body, then lines with event and
data (data_b64), and one with end. {\"id\":2,\"cancel\":1} cancels. After the end of its input it
ends when all is answered. docs/api.md has all of it.")]
    Api,
    /// Show what is being done on hosts, attach to it, or cancel it
    #[command(after_help = "\
Examples:
  occ operations
  occ operations --host prod-1          those there; -q prints the IDs alone
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
  occ exec --host prod-1 --durable -- make         a broken link is a pause, and no more
  occ exec --host prod-1 --tty -- sudo vi /etc/hosts   in a terminal there
  occ exec --local -- make test                    here, as it would be on a host
  occ exec --group eu -- uname -r                  on all hosts of a group, 32 at once
  occ exec --all --parallel 4 --json -- df /       a document per host, as each ends

The exit code is the command's own; 128 + n for a signal; 124 when --timeout ended it.
What --env sets shows for a moment in the host's process list, unless its sshd takes the variable (AcceptEnv).

With --group or --all:
  Each line has its host before it; on a terminal, equal outputs are shown once, unless with -v.
  The exit code is 0 when it was 0 everywhere, else 1.
  Standard input is read first, up to 16 MiB, and given to each; a terminal is not read.
  A host that is down is dialled once, unless --retries or --wait says otherwise.")]
    Exec(ExecArgs),
    /// Programs on hosts that outlive the link, occd and this machine
    #[command(
        subcommand,
        after_help = "\
Examples:
  occ session start --host prod-1 --name build -- make -j8
  occ session attach build
  occ session list"
    )]
    Session(SessionCommand),
    /// Start coding agents on hosts, as sessions
    #[command(subcommand, after_help = "Example:\n  occ agent start codex --host prod-1")]
    Agent(AgentCommand),
    /// Open a shell on a host, or another program, in this terminal
    #[command(after_help = "\
Examples:
  occ shell --host prod-1
  occ shell --host prod-1 --cwd /srv/app
  occ shell --host prod-1 -- top
  occ shell --local

At the beginning of a line, ~. leaves (the program is hung up), ~? lists the escapes.
Terminals of a host have a connection of their own: no stream delays what is typed.")]
    Shell(ShellArgs),
    /// Copy files to a host, from a host, or from host to host
    #[command(after_help = "\
Examples:
  occ cp notes.txt prod-1:/srv/notes.txt
  occ cp prod-1:/var/log/syslog .
  occ cp -r site prod-1:/var/www/          a directory with everything in it
  occ cp -p prod-1:db.dump prod-2:         times and permissions are kept
  occ cp --resume big.iso prod-1:          goes on where a copy was interrupted
  occ cp --eol lf setup.sh prod-1:bin/     line feeds in place of CR LF; a CR alone stays, as with git
  occ cp --group eu app.conf :/etc/app/    to the same place on all hosts of a group, 32 at once

HOST:PATH is on a host, relative to the home directory there; any other path is here.
A file is in its place when it is whole; until then, what was there stays. So is a directory that is new.
FIFOs, sockets and devices are left out; what cannot be read is named, and the exit code is 1.")]
    Cp(CpArgs),
    /// List a directory of a host
    #[command(after_help = "\
Examples:
  occ ls prod-1:/var/log
  occ ls -la --host prod-1
  occ ls --json prod-1:src")]
    Ls(LsArgs),
    /// Write files of a host to standard output, byte for byte
    #[command(after_help = "\
Examples:
  occ cat prod-1:/etc/hosts
  occ cat --host prod-1 notes.txt | less")]
    Cat(CatArgs),
    /// Remove files of a host
    #[command(after_help = "\
Examples:
  occ rm prod-1:old.log
  occ rm -r prod-1:build")]
    Rm(RmArgs),
    /// Edit a file of a host in the editor here
    #[command(after_help = "\
Examples:
  occ edit prod-1:/etc/nginx/nginx.conf
  EDITOR='code --wait' occ edit prod-1:src/main.rs
  occ edit --eol lf --host prod-1 run.sh

The editor is VISUAL's, else EDITOR's, else vi. The file is written back, whole, if it was changed here and
nobody has changed it there meanwhile; else what was edited is kept here, and it is said where.")]
    Edit(EditArgs),
    /// Watch a directory of a host, or search it
    #[command(
        subcommand,
        after_help = "\
Examples:
  occ files watch prod-1:src
  occ files search TODO prod-1:src"
    )]
    Files(FilesCommand),
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
    /// Show how occd and its hosts do, in numbers
    #[command(after_help = "\
Examples:
  occ metrics
  occ metrics --host prod-1
  occ metrics --json
  occ metrics --raw                     as Prometheus reads it

The numbers are those since occd started. Times are estimated from classes, as Prometheus does it.")]
    Metrics(MetricsArgs),
    /// Write what goes through a host's channels to a file, decrypted, for a while
    #[command(after_help = "\
Examples:
  occ trace --host prod-1                        for a minute, into a new file
  occ trace --host prod-1 --for 10m -o trace.jsonl
  jq -r 'select(.kind == \"data\") | .bytes' trace.jsonl | base64 -d

Everything on all channels is in it: commands, their input and output, files, terminals with what is typed
there, passwords included. Logins, and passwords that occ itself has asked for, are not. The file is new, only
for you, in a directory of yours, and 256 MiB at most; it stays until you remove it. Ctrl-C ends it sooner.")]
    Trace(TraceArgs),
    /// Show what was done through occd, on whose behalf, and how it ended
    #[command(after_help = "\
Examples:
  occ audit
  occ audit --host prod-1 --since 2h
  occ audit --follow                    goes on with what comes
  occ audit -n 5000 --json | jq 'select(.outcome == \"refused\")'

What looks like a secret is shown as ***. Where no occd runs, its files are read.")]
    Audit(AuditArgs),
    /// Let this project's .occ.toml say which host its commands go to
    #[command(after_help = "\
Examples:
  echo 'host = \"prod-1\"' > .occ.toml
  occ allow; occ exec -- make test      also from the directories below
  occ allow --remove

A .occ.toml has host, and may have directory: where commands run on the host. It counts once what it says
has been allowed, and no more when it says something else. --host, --local and OCC_HOST go before it.")]
    Allow(AllowArgs),
    /// Show what waits for an answer, and ask for it
    #[command(after_help = "\
Examples:
  occ prompts                           asks for each on a terminal; Enter leaves a password open
  occ prompts --json
  occ prompts --allow 3                 a command that a policy asks about may be run; --deny 3

Whoever wants a command run cannot allow it, nor can what that has started: use another terminal.")]
    Prompts(PromptsArgs),
    /// Show what may be done on a host, and try what would be said to a command
    #[command(
        subcommand,
        after_help = "\
Examples:
  occ policy show --host prod-1
  occ policy check --host prod-1 -- rm -rf build"
    )]
    Policy(PolicyCommand),
    /// Make a socket that may do little, for an agent's container
    #[command(after_help = "\
Examples:
  occ grant --host prod-1 --allow read,exec:git,exec:ls --ttl 2h --root /srv/app
  dir=$(dirname $(occ grant -q --host prod-1 --allow read --ttl 8h --name agent))
  docker run -v $dir:/run/occ -e OCC_SOCKET=/run/occ/occ.sock …
  occ grant list; occ grant revoke agent

Mount the directory as a whole: the socket in it is made anew when occd starts.
The client inside trusts the owner that OCC_SOCKET_OWNER names by its number, where that is another user.
exec:PROGRAM gives all that the program can do: git, make and editors run others.")]
    Grant(GrantArgs),
    /// Run the docker program here against a host's engine, over the pooled connection
    #[command(after_help = "\
Examples:
  occ docker --host prod-1 -- ps
  occ docker --host prod-1 -- logs -f web
  occ docker --host prod-1 -- compose up -d")]
    Docker(DockerArgs),
    /// Print the Unix socket of this machine that speaks to a host's engine, or to its own
    #[command(after_help = "\
Examples:
  export DOCKER_HOST=unix://$(occ docker-socket -q --host prod-1)
  occ docker-socket --all
  occ docker-socket --group eu
  occ docker-socket --local
  occ docker-socket --host prod-1 --remove")]
    DockerSocket(DockerSocketArgs),
    /// Forward ports and sockets to a host and back, and keep them so
    #[command(
        subcommand,
        after_help = "\
Examples:
  occ forward add -L 8080:localhost:80 --host prod-1
  occ forward list
  occ forward remove 8080"
    )]
    Forward(ForwardCommand),
    /// Make a docker context for a host's engine, or this machine's
    #[command(after_help = "\
Examples:
  occ docker-context --host prod-1; docker --context occ-prod-1 ps
  occ docker-context --local; docker --context occ-local ps
  occ docker-context --host prod-1 --remove")]
    DockerContext(DockerContextArgs),
    /// Find, try and add a first host, by questions
    #[command(
        after_help = "Example:\n  occ setup                             occ host add without arguments is the same"
    )]
    Setup,
    /// Look at everything that occ needs on this machine, and tell what to do
    #[command(after_help = "\
Examples:
  occ doctor
  occ doctor --host prod-1              that host more deeply, with a new connection
  occ doctor --json

Each line is ok, a warning or a failure, with what to type. Exits 0 when nothing failed, else 1.
It starts no occd, and connects to no host unless one is named.")]
    Doctor,
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
    /// Run, start, stop, install and look at occd
    #[command(
        subcommand,
        after_help = "\
Examples:
  occ daemon status
  occ daemon restart
  occ daemon install                    systemd or launchd runs it from your login on"
    )]
    Daemon(DaemonCommand),
    /// Print the completion script of a shell; it knows the names of hosts, groups, sessions and more
    #[command(after_help = "\
Examples:
  source <(occ completions bash)        in ~/.bashrc
  source <(occ completions zsh)         in ~/.zshrc, after compinit
  occ completions fish | source         in ~/.config/fish/config.fish

Names are those that the running occd knows; where none runs, hosts.json's.")]
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
}

/// A shell that has completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Command {
    /// Returns whether it does something with the sandbox.
    pub(crate) fn is_about_the_sandbox(&self) -> bool {
        matches!(
            self,
            Self::Start(_)
                | Self::Stop(_)
                | Self::Restart(_)
                | Self::Update(_)
                | Self::Logs(_)
                | Self::Cockpit
                | Self::Sandbox(_)
        )
    }

    /// Returns the name of one that `--host` and `--local` do not go with, and what to do in their place.
    pub(crate) fn without_host(&self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Sandbox(_) => Some((
                "occ sandbox",
                "--from HOST and --to HOST name the two; local is this machine",
            )),
            Self::Daemon(_) => Some((
                "occ daemon",
                "one occd has the connections of all hosts; occ disconnect --host NAME closes one",
            )),
            _ => None,
        }
    }

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
                | Self::Cp(_)
                | Self::Connect(_)
                | Self::Disconnect
                | Self::Reconnect
                | Self::DockerSocket(_)
                | Self::Host(HostCommand::Test { .. })
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let mut whole = Cli::command();
        whole.build();
        check(&whole);
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
