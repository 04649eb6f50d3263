//! One file per verb. A command asks the daemon, prints the answer, and returns its exit code.

mod agent;
mod allow;
mod api;
mod audit;
mod connect;
mod cp;
mod cp_tree;
mod daemon;
mod daemon_log_level;
mod daemon_logs;
mod docker;
mod doctor;
mod edit;
mod events;
mod exec;
mod exec_group;
mod exec_result;
mod exec_run;
mod files;
mod files_follow;
mod forward;
mod group;
mod history;
mod host;
mod host_edit;
mod host_import;
mod host_lines;
mod install_docker;
pub(crate) mod legacy;
mod logs;
mod metrics;
mod operations;
mod policy;
mod prompts;
mod rolling;
mod sandbox;
mod sandbox_group;
mod sandbox_spec;
mod service;
mod session;
mod session_attach;
mod session_durable;
mod setup;
mod ssh_config;
mod status;
mod trace;
mod trust;
pub(crate) mod upgrade;
mod watch;

pub(crate) use exec_result::Kept;
pub(crate) use host_lines::HostLines;

use std::path::PathBuf;

use crate::autostart::{self, Start};
use crate::cli::{Cli, Command, ForwardCommand, Global, HostCommand};
use crate::client::{Client, host_path};
use crate::endpoint;
use crate::error::CliError;
use crate::hint::{PROXY_COMMAND, hint};
use crate::output::Ui;
use crate::place::Place;
use crate::stranger;
use crate::target::{Source, Target};
use group::Selection;
use occ_proto::HostName;
use occ_proto::error::Code;
use occ_proto::status::{HostList, HostStatus};

/// What every command knows.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    /// How to write.
    pub(crate) ui: &'a Ui,
    /// `--socket`.
    pub(crate) socket: Option<PathBuf>,
    /// The target, as far as the command line and the environment tell it.
    named: Option<Target>,
    /// Whether the command line does.
    is_given: bool,
    /// `--group` or `--all`.
    selection: Option<Selection>,
    /// `--parallel`.
    parallel: Option<usize>,
}

impl<'a> Context<'a> {
    /// Returns one for somebody who names no host.
    pub(crate) fn plain(ui: &'a Ui, socket: Option<PathBuf>) -> Self {
        Self { ui, socket, named: None, is_given: false, selection: None, parallel: None }
    }
}

impl Context<'_> {
    /// Returns a client of the daemon, which is started when it does not run.
    pub(crate) async fn client(&self) -> Result<Client, CliError> {
        Client::open(self, Start::IfNeeded).await
    }

    /// Returns the host that the command line names, which narrows a list down.
    fn given_host(&self) -> Option<&HostName> {
        match &self.named {
            Some(Target::Host(host, _)) if self.is_given => Some(host),
            _ => None,
        }
    }

    /// Returns a client and the host to work on.
    async fn client_and_host(&self, command: &str) -> Result<(Client, HostName, Source), CliError> {
        if self.named == Some(Target::Local) {
            Target::Local.host(command)?;
        }
        let client = self.client().await?;
        let (host, source) = Target::resolve(self.named.clone(), &client).await?.host(command)?;
        Ok((client, host, source))
    }
}

impl Context<'_> {
    /// Returns a client and the host to work on, or this machine where no host is chosen.
    async fn client_and_place(&self) -> Result<(Client, Place), CliError> {
        let client = self.client().await?;
        let target = Target::resolve(self.named.clone(), &client).await?;
        Ok((client, target.into()))
    }
}

/// Runs the command and returns its exit code.
pub(crate) async fn run(cli: Cli, ui: &Ui) -> Result<u8, CliError> {
    let context = Context::plain(ui, cli.global.socket.clone());
    let error = match perform(cli, ui).await {
        Err(error) => stranger::explained(&context, error).await,
        done => return done,
    };
    let error = with_nearest(&context, error).await;
    Err(match endpoint::socket_path(&context) {
        Ok(socket) => autostart::of_ended_grant(&socket, error),
        Err(_) => error,
    })
}

/// Returns an error about a host that is not there with the nearest name that is: near is what clap takes for it where
/// a word is unknown to itself. Whatever goes wrong, the hint stays as it is.
async fn with_nearest(context: &Context<'_>, error: CliError) -> CliError {
    /// From 0, nothing in common, to 1.
    const NEAR: f64 = 0.7;
    let missing = error.problem.as_ref().and_then(|problem| problem.host.as_ref());
    let (Some(Code::HostNotFound), Some(missing), Some(general)) =
        (error.daemon_code(), missing, &error.hint)
    else {
        return error;
    };
    // Another hint says more already.
    if missing.is_via() || error.hint != hint(Code::HostNotFound, Some(missing.as_str()), "") {
        return error;
    }
    let list = async {
        let client = Client::open(context, Start::Never).await.ok()?;
        client.get("/v1/hosts").await.ok()?.parse::<HostList>().ok()
    };
    let hosts = list.await.map_or_else(Vec::new, |list| list.hosts);
    let likeness = |host: &HostStatus| strsim::jaro(missing.as_str(), host.name.as_str());
    let near = hosts.iter().map(|host| (likeness(host), host)).filter(|(like, _)| *like > NEAR);
    match near.max_by(|(one, _), (other, _)| one.total_cmp(other)) {
        Some((_, host)) => {
            let hint = format!("did you mean {}? {general}", host.name);
            error.hint(hint)
        }
        None => error,
    }
}

async fn perform(cli: Cli, ui: &Ui) -> Result<u8, CliError> {
    let Cli { global, command } = cli;
    // clap sees a conflict only between flags on the same side of the verb.
    if global.local && global.host.is_some() {
        return Err(CliError::usage("--local cannot be used with --host."));
    }
    if (global.local || global.host.is_some())
        && let Some((name, hint)) = command.as_ref().and_then(Command::without_host)
    {
        let text = format!("--host and --local do not go with {name}.");
        return Err(CliError::usage(text).hint(hint));
    }
    if command.as_ref().is_some_and(Command::is_about_the_sandbox) {
        legacy::refuse_instance_of_environment()?;
    }
    let selection = selection(&global, command.as_ref())?;
    let is_given = global.local || global.host.is_some();
    let named = Target::named(&global, std::env::var_os("OCC_HOST").as_deref())?;
    let parallel = global.parallel;
    let context = Context { ui, socket: global.socket, named, is_given, selection, parallel };
    match command {
        None => status::bare(&context).await,
        Some(Command::Status(args)) => status::run(&context, &args).await,
        Some(Command::Start(args)) => sandbox::start(&context, &args).await,
        Some(Command::Stop(args)) => sandbox::stop(&context, &args).await,
        Some(Command::Restart(args)) => sandbox::restart(&context, &args).await,
        Some(Command::Update(args)) => sandbox::update(&context, &args).await,
        Some(Command::Cockpit) => sandbox::cockpit(&context).await,
        Some(Command::Sandbox(command)) => sandbox_spec::run(&context, &command).await,
        Some(Command::Logs(args)) => logs::run(&context, &args).await,
        Some(Command::Api) => Box::pin(api::run(&context)).await,
        Some(Command::Events(args)) => events::run(&context, &args).await,
        Some(Command::Metrics(args)) => metrics::run(&context, &args).await,
        Some(Command::Operations { command }) => operations::run(&context, command.as_ref()).await,
        Some(Command::Exec(args)) => exec::run(&context, args).await,
        Some(Command::Agent(command)) => agent::run(&context, command).await,
        Some(Command::Session(command)) => session::run(&context, command).await,
        Some(Command::Shell(args)) => exec::shell(&context, args).await,
        Some(Command::Cp(args)) => cp::run(&context, &args).await,
        Some(Command::Ls(args)) => files::ls(&context, &args).await,
        Some(Command::Cat(args)) => files::cat(&context, &args).await,
        Some(Command::Rm(args)) => files::rm(&context, &args).await,
        Some(Command::Edit(args)) => edit::run(&context, &args).await,
        Some(Command::Files(command)) => files_follow::run(&context, &command).await,
        Some(Command::Connect(args)) => {
            connect::run(&context, connect::Verb::Connect { wait_ms: args.wait }).await
        }
        Some(Command::Disconnect) => connect::run(&context, connect::Verb::Disconnect).await,
        Some(Command::Reconnect) => connect::run(&context, connect::Verb::Reconnect).await,
        Some(Command::Trust(args)) => trust::run(&context, &args).await,
        Some(Command::History(args)) => history::run(&context, &args).await,
        Some(Command::Trace(args)) => trace::run(&context, &args).await,
        Some(Command::Audit(args)) => audit::run(&context, &args).await,
        Some(Command::Unlock(args)) => prompts::unlock(&context, &args).await,
        Some(Command::Allow(args)) => allow::run(&context, &args),
        Some(Command::Prompts(args)) => prompts::run(&context, &args).await,
        Some(Command::Policy(command)) => policy::run(&context, command).await,
        Some(Command::Grant(args)) => policy::grant(&context, args).await,
        Some(Command::Docker(args)) => docker::run(&context, &args).await,
        Some(Command::DockerSocket(args)) => docker::run_socket(&context, &args).await,
        Some(Command::DockerContext(args)) => docker::run_context(&context, &args).await,
        Some(Command::Forward(command)) => forward::run(&context, &command, global.all).await,
        Some(Command::Setup) => Box::pin(setup::run(&context)).await,
        Some(Command::Doctor) => Box::pin(doctor::run(&context)).await,
        Some(Command::Host(command)) => Box::pin(host::run(&context, command, global.all)).await,
        Some(Command::Daemon(command)) => daemon::run(&context, &command).await,
        Some(Command::Completions { shell }) => {
            ui.print(crate::complete::script(shell)).map(|()| 0)
        }
    }
}

/// Returns the hosts that `--group` or `--all` means, after checking that the command can be done on many.
fn selection(global: &Global, command: Option<&Command>) -> Result<Option<Selection>, CliError> {
    // The option of that name is their own.
    let import = matches!(command, Some(Command::Host(HostCommand::Import(_))));
    let own = import
        || matches!(command, Some(Command::Host(HostCommand::Add(_) | HostCommand::List { .. })));
    let all = matches!(command, Some(Command::Forward(ForwardCommand::Remove { .. })));
    if global.all && (all || import) {
        return Ok(None);
    }
    let selection = match (&global.group, global.all) {
        (Some(_), true) => {
            return Err(CliError::usage("--group cannot be used with --all."));
        }
        (Some(group), false) if !own => Selection::Group(group.clone()),
        (None, true) => Selection::All,
        (_, false) => return Ok(None),
    };
    let option = selection.option();
    // clap sees a conflict only between flags on the same side of the verb.
    if global.local || global.host.is_some() {
        return Err(CliError::usage(format!("{option} cannot be used with --host or --local.")));
    }
    let can = match command {
        // `occ` alone is `occ status`.
        None => true,
        Some(command) => command.works_on_many(),
    };
    if !can {
        return Err(CliError::usage(format!("{option} does not go with this command."))
            .hint("occ --help lists those that it goes with"));
    }
    Ok(Some(selection))
}

/// Returns `error` in the words for this host: a default host that is missing, and hints that name its
/// address and user, which takes one more request.
async fn explain(
    context: &Context<'_>,
    client: &Client,
    host: &HostName,
    source: Source,
    error: CliError,
) -> CliError {
    let mut error = source.explain(host, error);
    // The settings were asked before it was known what it is about.
    if error.daemon_code() == Some(Code::PolicyDenied)
        && error.problem.as_ref().is_some_and(|problem| problem.host.is_none())
    {
        error.hint = hint(Code::PolicyDenied, Some(host.as_str()), &error.message);
    }
    let named = matches!(
        error.daemon_code(),
        Some(
            Code::AuthFailed
                | Code::HostKeyChanged
                | Code::HostKeyUnknown
                | Code::SshConfigInvalid
                | Code::DockerPermission
        )
    ) || error.daemon_code() == Some(Code::HostUnreachable)
        && error.message.contains(PROXY_COMMAND);
    let Some(code) = error.daemon_code().filter(|_| named && !context.ui.json) else {
        return error;
    };
    // Without the status the general hint stays.
    let blamed = error.problem.as_ref().and_then(|problem| problem.hop.as_ref()).unwrap_or(host);
    let status = match client.get_once_from_memory(&host_path(blamed, "")).await {
        Ok(reply) => reply.parse::<HostStatus>().ok(),
        Err(_) => None,
    };
    let hint =
        status.and_then(|status| crate::output::host::status_hint(&status, code, &error.message));
    CliError { hint: hint.or(error.hint.clone()), ..error }
}
