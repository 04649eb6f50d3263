//! `occ exec` over many hosts.

use std::io::{self, IsTerminal as _};
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use occ_proto::HostName;
use occ_proto::exec::{ExecRequest, ExecResult, Exit};
use serde::Serialize;
use tokio::sync::watch;

use super::exec_run::{Caught, Ended, Run, Signals, how, ours, quiet};
use super::group::{Done, End, Group, INTERRUPTED, OnSignal, cause, failure, streams};
use super::host_lines::Screen;
use super::{Context, Kept, exec_result};
use crate::cli::ExecArgs;
use crate::descriptors::Offer;
use crate::duration::of_ms;
use crate::error::CliError;
use crate::output::fold::{Ending, Stream};
use crate::output::{json, with_note};
use crate::place::Place;
use crate::stdio::Input;
use crate::target::Source;
use crate::ws::{ExecStream, Output};

/// The largest input that is kept for all hosts, in bytes.
const MOST_INPUT: usize = 16 * 1024 * 1024;
/// How much of it is read at once, in bytes: what a pipe holds on Linux.
const CHUNK: usize = 64 * 1024;

/// What `--json` prints of a host.
#[derive(Debug, Serialize)]
struct HostResult<'a> {
    host: &'a HostName,
    #[serde(flatten)]
    result: ExecResult,
}

/// A command for many hosts.
struct Many<'a> {
    context: &'a Context<'a>,
    args: &'a ExecArgs,
    request: ExecRequest,
    group: &'a Group,
    input: Option<Bytes>,
    screen: Rc<Screen>,
}

/// Runs the command on each host of the group, and returns the exit code for all.
pub(super) async fn run(
    context: &Context<'_>,
    args: &ExecArgs,
    mut request: ExecRequest,
    group: &Group,
) -> Result<u8, CliError> {
    let ui = context.ui;
    if request.wait_ms.is_none() {
        // Sixty hosts are not waited for as one is.
        request.retries = request.retries.or(Some(0));
    }
    let note = "reading the input, which each host is given; -n gives none …";
    let input = with_note(ui, note, input(ui, args)).await?;
    let fold = ui.stdout_terminal && ui.stderr_terminal && ui.verbose == 0 && !ui.json;
    let screen = Screen::new(ui, fold).map_err(|error| streams(&error))?;
    let many = Many { context, args, request, group, input, screen };
    let (tell, told) = watch::channel(None);
    let work = |host| many.on(host, told.clone());
    let done = group.each(ui, OnSignal::Tell(tell), work).await?;
    let folded = many.screen.fold().await.map_err(|error| streams(&error))?;
    conclude(context, &done, folded)
}

fn conclude(context: &Context<'_>, done: &Done, folded: bool) -> Result<u8, CliError> {
    // The folded output says it all, unless it is not all.
    match folded && done.caught.is_none() {
        true => Ok(done.code()),
        false => done.conclude(context.ui),
    }
}

/// Reads what is on standard input to its end, once for all hosts.
async fn input(ui: &crate::output::Ui, args: &ExecArgs) -> Result<Option<Bytes>, CliError> {
    // What is typed is meant for one program.
    if args.no_stdin || io::stdin().is_terminal() {
        return Ok(None);
    }
    // An input that was closed is no input.
    let Ok(mut stdin) = Input::stdin() else { return Ok(None) };
    let mut all = BytesMut::new();
    loop {
        all.reserve(CHUNK);
        match stdin.read(&mut all).await {
            Ok(0) => break,
            Err(error) => {
                ui.tell_unreadable(&error);
                break;
            }
            Ok(_) if all.len() > MOST_INPUT => {
                return Err(CliError::usage(
                    "The input is longer than 16 MiB, which is the most for several hosts.",
                )
                .hint("occ exec -n gives none; a file is better copied to each host first"));
            }
            Ok(_) => {}
        }
    }
    Ok((!all.is_empty()).then(|| all.freeze()))
}

/// Returns in a few words why a command had no end of its own.
fn cut_short(exit: &Exit) -> &'static str {
    match (exit.timed_out, exit.cut_off, exit.may_still_run) {
        (true, _, false) => "timed out",
        (true, _, true) => "timed out, may still run",
        (_, true, false) => "cut off",
        (_, true, true) => "cut off, may still run",
        (false, false, _) => "no exit status",
    }
}

impl Many<'_> {
    /// Runs the command on one host.
    async fn on(
        &self,
        host: HostName,
        told: watch::Receiver<Option<Caught>>,
    ) -> Result<End, CliError> {
        let json = self.context.ui.json;
        let mut output = match json {
            true => Output::Kept { out: Kept::default(), err: Kept::default() },
            false => Output::Lines(self.screen.of(&host)),
        };
        // Boxed: there are many of them.
        let ended = Box::pin(self.ended(&host, told, &mut output)).await;
        match output {
            Output::Lines(mut lines) => {
                lines.finish().await.map_err(|error| streams(&error))?;
                self.tell(&host, ended).await
            }
            Output::Kept { out, err } => self.document(&host, ended, out, err).await,
            Output::Streams { .. } => Ok(End::Ok),
        }
    }

    async fn ended(
        &self,
        host: &HostName,
        told: watch::Receiver<Option<Caught>>,
        output: &mut Output,
    ) -> Result<Ended, CliError> {
        let place = &Place::Host(host.clone(), Source::Named);
        let stream = ExecStream::open(&self.group.client, place, Offer::default()).await?;
        let input = self.input.clone().map(Input::Kept);
        let (ui, request, signals) = (self.context.ui, &self.request, Signals::Told(told));
        let left = Arc::default();
        let (input_waits, screen, asks) = (false, None, None);
        let run = Run { ui, place, request, input, input_waits, left, screen, signals, asks };
        run.complete(stream, output).await
    }

    /// Returns how a host's part ended, and what there is to be said of it.
    fn end(
        &self,
        host: &HostName,
        ended: &Result<Ended, CliError>,
    ) -> Result<(End, Ending, Option<String>), CliError> {
        let own;
        let error = match ended {
            Ok(ended) => {
                let place = Place::Host(host.clone(), Source::Named);
                own = ours(self.args, &place, &ended.exit, ended.caught);
                own.as_ref()
            }
            Err(error) if error.is_quiet() => return Err(quiet(error.exit)),
            Err(error) => Some(error),
        };
        Ok(match (error, ended) {
            (Some(error), _) => {
                let cause = match ended {
                    Ok(ended) if ended.caught.is_none() => cut_short(&ended.exit).to_owned(),
                    _ => cause(host, error),
                };
                let end = match error.code == INTERRUPTED {
                    true => End::Interrupted,
                    false => End::Failed(cause.clone()),
                };
                (end, Ending::Failed(cause), Some(self.group.sentences(host, error)))
            }
            (None, Ok(ended)) if ended.exit.status() != 0 => {
                let how = how(&ended.exit);
                (End::Failed(how.clone()), Ending::Exit(how), None)
            }
            (None, _) => (End::Ok, Ending::Ok, None),
        })
    }

    async fn tell(&self, host: &HostName, ended: Result<Ended, CliError>) -> Result<End, CliError> {
        let (end, ending, error) = self.end(host, &ended)?;
        if let (1.., Ok(ended)) = (self.context.ui.verbose, &ended) {
            let after = of_ms(ended.exit.duration_ms);
            self.context.ui.note(&format!("[{host}] {} after {after}", how(&ended.exit)));
        }
        self.screen.ended(host, ending, error).await.map_err(|error| streams(&error))?;
        Ok(end)
    }

    /// Prints a host's document.
    async fn document(
        &self,
        host: &HostName,
        ended: Result<Ended, CliError>,
        out: Kept,
        err: Kept,
    ) -> Result<End, CliError> {
        let (end, ..) = self.end(host, &ended)?;
        let text = match ended {
            Ok(Ended { exit, new_host_key, .. }) => {
                let result = exec_result::result(exit, out, err, new_host_key);
                serde_json::to_string(&HostResult { host, result }).map_err(|error| {
                    CliError::failed(format!("the answer cannot be written: {error}"))
                })?
            }
            Err(error) => failure(host, &error),
        };
        let line = json::line(&text).into_bytes();
        self.screen.write(Stream::Out, line).await.map_err(|error| streams(&error))?;
        Ok(end)
    }
}
