//! `occ exec`: a command on a host, its streams byte for byte, its exit code ours.

use std::io::{self, IsTerminal as _};
use std::os::unix::ffi::OsStringExt as _;

use jiff::Timestamp;
use occ_proto::HostName;
use occ_proto::exec::{Bytes, ExecRequest};
use occ_proto::status::HostStatus;

use super::exec_run::{Ended, Run, Signals, how, ours};
use super::{Context, Kept, exec_group, exec_result, session_durable};
use crate::cli::ExecArgs;
use crate::client::{Client, host_path};
use crate::descriptors::Offer;
use crate::duration::of_ms;
use crate::error::CliError;
use crate::output::host as show;
use crate::stdio::{Descriptor, Input};
use crate::ws::{ExecStream, Output};

/// Runs the command and returns its exit code.
pub(crate) async fn run(context: &Context<'_>, args: ExecArgs) -> Result<u8, CliError> {
    let request = request(&args)?;
    if args.durable {
        return session_durable::run(context, &args, &request).await;
    }
    if let Some(group) = context.group().await? {
        return exec_group::run(context, &args, request, &group).await;
    }
    let (client, host, source) = context.client_and_host("exec").await?;
    let result = execute(context, &args, &request, &client, &host).await;
    match result {
        Err(error) => Err(super::explain(context, &client, &host, source, error).await),
        done => done,
    }
}

fn request(args: &ExecArgs) -> Result<ExecRequest, CliError> {
    let mut request = ExecRequest {
        cwd: args.cwd.clone(),
        env: args.env.iter().cloned().collect(),
        timeout_ms: args.timeout,
        retries: args.retries,
        wait_ms: args.wait,
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
    host: &HostName,
) -> Result<u8, CliError> {
    let ui = context.ui;
    let asked = Timestamp::now();
    // One document is made of the output, so it must come to us.
    let offer = if ui.json { Offer::default() } else { Offer::of_standard_streams() };
    let stream = ExecStream::open(client, host, offer).await?;
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
    let input = if args.no_stdin { None } else { Input::stdin().ok() };
    let input_waits = io::stdin().is_terminal() && client.prompter().is_some();
    let run = Run { ui, host, request, input, input_waits, signals, asks: Some(client) };
    let ended = run.complete(stream, &mut output).await;
    if ui.asked.get() && !ui.json {
        tell_not_kept(context, client, host, asked).await;
    }
    finish(context, args, host, ended?, output)
}

/// Returns the exit code for a command that ended, and says what a shell would not show.
fn finish(
    context: &Context<'_>,
    args: &ExecArgs,
    host: &HostName,
    ended: Ended,
    output: Output,
) -> Result<u8, CliError> {
    let ui = context.ui;
    let Ended { exit, caught, new_host_key } = ended;
    if ui.verbose > 0 {
        ui.note(&format!("[{host}] {} after {}", how(&exit), of_ms(exit.duration_ms)));
    }
    let error = ours(args, host, &exit, caught);
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

/// Says that a password was not kept, if a person wanted that. That it cannot be asked is no reason to fail.
async fn tell_not_kept(context: &Context<'_>, client: &Client, host: &HostName, asked: Timestamp) {
    let Ok(reply) = client.get(&host_path(host, "")).await else { return };
    let status = reply.parse::<HostStatus>().ok();
    if let Some(line) = status.and_then(|status| show::not_kept_since(&status, asked)) {
        context.ui.note(&line);
    }
}
