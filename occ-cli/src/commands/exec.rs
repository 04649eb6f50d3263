//! `occ exec` and `occ shell`: a command on a host or here, its streams byte for byte, its exit code ours.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};
use std::os::unix::ffi::OsStringExt as _;
use std::sync::Arc;

use jiff::Timestamp;
use occ_proto::exec::{Bytes, ExecRequest};
use occ_proto::status::HostStatus;
use occ_proto::text::sanitize;
use occ_proto::{HostName, KEY_VARIABLES};
use tokio::sync::Notify;

use super::exec_run::{Ended, Run, Signals, how, ours};
use super::{Context, Kept, exec_group, exec_result, session_durable};
use crate::cli::{ExecArgs, ShellArgs};
use crate::client::{Client, host_path};
use crate::descriptors::Offer;
use crate::duration::of_ms;
use crate::error::CliError;
use crate::hint::shell_word;
use crate::keys::{self, Keys, OtherScreen};
use crate::output::host as show;
use crate::parse::is_variable;
use crate::place::Place;
use crate::project::{Project, Wishes};
use crate::stdio::{Descriptor, Input};
use crate::target::{Source, Target};
use crate::ws::{ExecStream, Output};

/// What a shell ends with where there is no such program (POSIX, 2.8.2).
const NO_PROGRAM: u8 = 127;

/// Runs the command and returns its exit code.
pub(crate) async fn run(context: &Context<'_>, args: ExecArgs) -> Result<u8, CliError> {
    if args.durable {
        return session_durable::run(context, &args).await;
    }
    if let Some(group) = context.group().await? {
        if args.tty {
            return Err(CliError::usage("--tty is for one host at a time."));
        }
        let request = request(&args)?;
        return exec_group::run(context, &args, request, &group).await;
    }
    let (client, place, directory) = place(context, "exec").await?;
    let mut request = request(&args)?;
    request.cwd = request.cwd.or(directory);
    let request = here(&place, request)?;
    on(context, &args, &request, &client, &place).await
}

/// Runs the login shell of a host, or a program there, in this terminal.
pub(crate) async fn shell(context: &Context<'_>, args: ShellArgs) -> Result<u8, CliError> {
    if context.ui.json {
        return Err(CliError::usage("occ shell is for a person: --json does not go with it.")
            .hint("occ exec --json -- PROGRAM"));
    }
    if !io::stdin().is_terminal() {
        return Err(CliError::usage("occ shell needs a terminal as its input.")
            .hint("occ exec --shell -- 'LINE' runs a line of the login shell"));
    }
    let (client, place, directory) = place(context, "shell").await?;
    let args = ExecArgs {
        cwd: args.cwd,
        env: args.env,
        retries: args.retries,
        wait: args.wait,
        own_exit: args.own_exit,
        escape: args.escape,
        argv: args.argv,
        tty: true,
        ..ExecArgs::default()
    };
    let mut request = request(&args)?;
    request.cwd = request.cwd.or(directory);
    let request = here(&place, request)?;
    on(context, &args, &request, &client, &place).await
}

/// Returns where the command goes, and in which directory if its project says so: one that is not told is not run
/// just anywhere.
pub(super) async fn place(
    context: &Context<'_>,
    command: &str,
) -> Result<(Client, Place, Option<String>), CliError> {
    if context.named == Some(Target::Local) {
        return Ok((context.client().await?, Place::Local, None));
    }
    if context.named.is_none()
        && let Some(project) = Project::find()?
    {
        let Wishes { host, directory } = project.allowed()?;
        return Ok((context.client().await?, Place::Host(host, Source::Named), directory));
    }
    let (client, host, source) = context.client_and_host(command).await?;
    Ok((client, Place::Host(host, source), None))
}

pub(super) async fn on(
    context: &Context<'_>,
    args: &ExecArgs,
    request: &ExecRequest,
    client: &Client,
    place: &Place,
) -> Result<u8, CliError> {
    let result = execute(context, args, request, client, place).await;
    if let (Ok(NO_PROGRAM), Some(line)) = (&result, line_for_a_shell(args)) {
        let line = shell_word(&sanitize(line));
        context.ui.note_if_talking(&format!(
            "hint: that is one word, the name of a program; a line is for a shell: occ exec --shell -- {line}"
        ));
    }
    match (result, place) {
        (Err(error), Place::Host(host, source)) => {
            Err(super::explain(context, client, host, *source, error).await)
        }
        (done, _) => done,
    }
}

/// Returns what was given as a program, and is a line such as `ls -la`, which ssh would have had a shell read.
fn line_for_a_shell(args: &ExecArgs) -> Option<&str> {
    let [line] = args.argv.as_slice() else { return None };
    line.to_str().filter(|line| !args.shell && line.contains(' '))
}

/// Returns the request as this machine is to run it: where we are, and with our environment.
pub(super) fn here(place: &Place, mut request: ExecRequest) -> Result<ExecRequest, CliError> {
    if *place != Place::Local {
        return Ok(request);
    }
    let here = std::env::current_dir()
        .map_err(|error| CliError::failed(format!("the current directory: {error}")))?;
    let cwd = match &request.cwd {
        Some(cwd) if cwd == "~" || cwd.starts_with("~/") => None,
        Some(cwd) => Some(here.join(cwd)),
        None => Some(here),
    };
    if let Some(cwd) = cwd {
        let cwd = cwd.into_os_string().into_string();
        request.cwd = Some(cwd.map_err(|_| {
            CliError::usage("The directory's name is not UTF-8, which a command needs here.")
        })?);
    }
    let mut env: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        // What is no name of a shell's, such as an exported function of bash's, stays behind.
        .filter(|(name, _)| is_variable(name) && !KEY_VARIABLES.contains(&name.as_str()))
        .collect();
    env.append(&mut request.env);
    request.env = env;
    request.clear_env = true;
    Ok(request)
}

pub(super) fn request(args: &ExecArgs) -> Result<ExecRequest, CliError> {
    // It says where a command runs that names no directory.
    let here = args.cwd.is_none().then(std::env::current_dir).and_then(Result::ok);
    let mut request = ExecRequest {
        cwd: args.cwd.clone(),
        here: here.and_then(|dir| dir.into_os_string().into_string().ok()),
        env: args.env.iter().cloned().collect(),
        timeout_ms: args.timeout,
        retries: args.retries,
        wait_ms: args.wait,
        wait_output: args.wait_output,
        tty: args.tty.then(keys::wanted),
        ..ExecRequest::default()
    };
    if args.shell {
        let words: Option<Vec<&str>> = args.argv.iter().map(|word| word.to_str()).collect();
        let words = words.ok_or_else(|| CliError::usage("--shell takes text in UTF-8."))?;
        request.shell = Some(words.join(" "));
    } else {
        request.argv = args.argv.iter().map(|word| Bytes(word.clone().into_vec())).collect();
    }
    Ok(request)
}

async fn execute(
    context: &Context<'_>,
    args: &ExecArgs,
    request: &ExecRequest,
    client: &Client,
    place: &Place,
) -> Result<u8, CliError> {
    let ui = context.ui;
    let asked = Timestamp::now();
    // It must come to us where one document is made of it, and where it tells that a screen is shown.
    let to_us = ui.json || args.shows_a_screen;
    let offer = if to_us { Offer::default() } else { Offer::of_standard_streams() };
    let stream = ExecStream::open(client, place, offer).await?;
    let signals = Signals::catch()?;
    let mut output = if ui.json {
        Output::Kept { out: Kept::default(), err: Kept::default() }
    } else {
        let open = || -> io::Result<Output> {
            Ok(Output::Streams {
                out: Descriptor::of(&io::stdout())?,
                err: Descriptor::of(&io::stderr())?,
            })
        };
        open().map_err(|error| CliError::failed(format!("standard output: {error}")))?
    };
    // An input that was closed is no input.
    let left = Arc::new(Notify::new());
    let screen = args.shows_a_screen.then(OtherScreen::default);
    let keys = || {
        let escape = args.escape.unwrap_or_default();
        let held = screen.as_ref().map(OtherScreen::shown);
        let open = || Keys::open(escape, Arc::clone(&left), &ui.keyboard, held);
        args.tty.then(open).flatten().map(Input::Keys)
    };
    let input = if args.no_stdin { None } else { keys().or_else(|| Input::stdin().ok()) };
    let asks = Some(client);
    let input_waits = io::stdin().is_terminal() && (client.prompter().is_some() || args.tty);
    let run = Run { ui, place, request, input, input_waits, left, screen, signals, asks };
    let ended = run.complete(stream, &mut output).await;
    if ui.asked.get()
        && !ui.json
        && let Place::Host(host, _) = place
    {
        tell_not_kept(context, client, host, asked).await;
    }
    finish(context, args, place, ended?, output)
}

/// Returns the exit code for a command that ended, and says what a shell would not show.
fn finish(
    context: &Context<'_>,
    args: &ExecArgs,
    place: &Place,
    ended: Ended,
    output: Output,
) -> Result<u8, CliError> {
    let ui = context.ui;
    let Ended { exit, caught, new_host_key } = ended;
    if ui.verbose > 0 {
        ui.note(&format!("{}{} after {}", place.prefix(), how(&exit), of_ms(exit.duration_ms)));
    }
    let error = ours(args, place, &exit, caught);
    if let Output::Kept { out, err } = output {
        let status = exit.status();
        ui.value(&exec_result::result(exit, out, err, new_host_key))?;
        // The document says how it ended; a second one on standard error would say it again.
        return Ok(match error {
            Some(error) => args.own_exit.unwrap_or(error.exit),
            None => status,
        });
    }
    match error {
        Some(error) => Err(error),
        None => Ok(exit.status()),
    }
}

/// Says that a password was not kept, if a person wanted that. That it cannot be asked is no reason to fail, nor to start
/// another daemon, which would not know.
async fn tell_not_kept(context: &Context<'_>, client: &Client, host: &HostName, asked: Timestamp) {
    let Ok(reply) = client.get_once_from_memory(&host_path(host, "")).await else { return };
    let status = reply.parse::<HostStatus>().ok();
    if let Some(line) = status.and_then(|status| show::not_kept_since(&status, asked)) {
        context.ui.note(&line);
    }
}
