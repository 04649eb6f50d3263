//! `occ logs`: what the sandbox says.

use occ_proto::HostName;
use occ_proto::container::LogLine;
use occ_proto::text::sanitize_log;

use super::Context;
use super::group::{End, Group, OnSignal, of_host};
use crate::cli::LogsArgs;
use crate::error::CliError;
use crate::lines::Lines;
use crate::output::{write_stderr, write_stdout};
use crate::place::Place;
use crate::target::Source;

/// Runs `occ logs`.
pub(crate) async fn run(context: &Context<'_>, args: &LogsArgs) -> Result<u8, CliError> {
    let ui = context.ui;
    let follow = args.follow || !args.no_follow;
    if let Some(group) = context.group().await? {
        return many(context, args, group, follow).await;
    }
    let (client, place) = context.client_and_place().await?;
    let path = place.path(&query(args, follow));
    let reading = async {
        let mut lines = Lines::get(&client, &path).await?;
        if follow && ui.stderr_terminal && !ui.json {
            ui.note("Following logs (Ctrl-C ends it) …");
        }
        while let Some(line) = lines.next::<LogLine>().await? {
            if let Some(problem) = line.problem {
                return Err(CliError::from(*problem));
            }
            print(context, args, &place, &line)?;
        }
        Ok(())
    };
    let read = tokio::select! {
        read = reading => read,
        // It is how following ends.
        error = crate::terminal::following_ended() => return if follow { Ok(error.exit) } else { Err(error) },
    };
    match (read, &place) {
        (Ok(()), _) => {
            if follow && ui.stderr_terminal && !ui.json {
                ui.note("The sandbox has ended.");
            }
            Ok(0)
        }
        (Err(error), Place::Host(host, source)) => {
            Err(super::explain(context, &client, host, *source, error).await)
        }
        (Err(error), Place::Local) => Err(error),
    }
}

fn query(args: &LogsArgs, follow: bool) -> String {
    let lines = match args.lines.as_str() {
        "all" => "all=true".to_owned(),
        number => format!("lines={number}"),
    };
    format!("/container/logs?{lines}&follow={follow}")
}

/// Shows what the sandboxes of a group say, each line as it comes.
async fn many(
    context: &Context<'_>,
    args: &LogsArgs,
    mut group: Group,
    follow: bool,
) -> Result<u8, CliError> {
    let ui = context.ui;
    if follow {
        // Following has no end that another host's turn could come after.
        if context.parallel.is_some_and(|parallel| parallel < group.hosts.len()) {
            let few = "--parallel is too small to follow all of these hosts.";
            return Err(CliError::usage(few).hint("occ logs --no-follow ends with what is there"));
        }
        group.parallel = group.hosts.len();
    }
    let (group, path) = (&group, format!("{}&retries=0", query(args, follow)));
    let path = path.as_str();
    let work = |host: HostName| async move {
        let place = Place::Host(host.clone(), Source::Named);
        let reading = async {
            let mut lines = Lines::get(&group.client, &place.path(path)).await?;
            while let Some(line) = lines.next::<LogLine>().await? {
                if let Some(problem) = line.problem {
                    return Err(CliError::from(*problem));
                }
                print(context, args, &place, &line)?;
            }
            Ok(())
        };
        match reading.await {
            Ok(()) => Ok(End::Ok),
            Err(error) => group.failed(ui, &host, &error),
        }
    };
    if follow && ui.stderr_terminal && !ui.json {
        ui.note("Following logs (Ctrl-C ends it) …");
    }
    let done = group.each(ui, OnSignal::Leave, work).await?;
    // It is how following ends.
    match follow && done.caught.is_some() && done.failures().next().is_none() {
        true => Ok(done.code()),
        false => done.conclude(ui),
    }
}

fn print(
    context: &Context<'_>,
    args: &LogsArgs,
    place: &Place,
    line: &LogLine,
) -> Result<(), CliError> {
    let ui = context.ui;
    if args.grep.as_ref().is_some_and(|pattern| !line.text.contains(pattern)) {
        return Ok(());
    }
    if ui.json {
        let mut json = serde_json::to_vec(line)
            .map_err(|error| CliError::failed(format!("a line cannot be written: {error}")))?;
        json.push(b'\n');
        return match (place, &context.selection) {
            (Place::Host(host, _), Some(_)) => ui.print(&of_host(host, &json)),
            _ => write_stdout(&json),
        };
    }
    // What the program says may be anybody's words.
    let text = sanitize_log(&line.text, ui.stdout_terminal);
    let prefix = if args.no_prefix { String::new() } else { place.prefix() };
    let at = match line.at {
        Some(at) if args.timestamps => format!("{at} "),
        _ => String::new(),
    };
    let text = format!("{prefix}{at}{text}\n");
    ui.clear_progress();
    if line.stderr {
        write_stderr(text.as_bytes());
        Ok(())
    } else {
        write_stdout(text.as_bytes())
    }
}
