//! The command line of what is done with the sandbox and with Docker.

use std::ffi::OsString;

use clap::{Args, Subcommand};
use occ_proto::HostName;
use occ_proto::event::EventKind;

use crate::error::CliError;
use crate::parse::{parse_count, parse_lines, parse_port};
use crate::target::HostArg;

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
    #[arg(long, value_name = "SPEC", conflicts_with = "no_mounts")]
    pub(crate) mount: Vec<String>,
    /// Mount nothing of the host
    #[arg(long)]
    pub(crate) no_mounts: bool,
    /// Pull the image even if there is one
    #[arg(long)]
    pub(crate) pull_sandbox_image: bool,
    /// Make a sandbox anew that is not as the settings and the options say, without asking
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
#[command(defer = true)]
pub(crate) enum SandboxCommand {
    /// Show what differs: image, variables, ports, mounts, policy; exit 1 if anything does
    #[command(after_help = "Example:\n  occ sandbox diff --from prod-1 --to prod-2")]
    Diff(SandboxPair),
    /// Make sandboxes like another one; secrets, volumes and data stay as they are
    #[command(after_help = "\
Examples:
  occ sandbox sync --from prod-1 --to prod-2
  occ sandbox sync --from prod-1 --to prod-2 prod-3 --yes")]
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
    /// The host whose sandbox is compared or made like it; several are all compared with that one
    #[arg(long, value_name = "HOST", required = true, num_args = 1..)]
    pub(crate) to: Vec<HostArg>,
}

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Only these: host, container, forward, session, prompt, operation
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    pub(crate) kind: Vec<EventKind>,
    /// Only what came after the event with this ID
    #[arg(long, value_name = "ID", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) after: Option<String>,
    /// Tell how everything is, and end
    #[arg(long, conflicts_with = "after")]
    pub(crate) once: bool,
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
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
