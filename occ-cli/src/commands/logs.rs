//! `occ logs`: what the sandbox says.

use occ_proto::container::LogLine;
use occ_proto::text::sanitize_log;

use super::Context;
use crate::cli::LogsArgs;
use crate::error::CliError;
use crate::lines::Lines;
use crate::output::{write_stderr, write_stdout};
use crate::place::Place;

/// Runs `occ logs`.
pub(crate) async fn run(context: &Context<'_>, args: &LogsArgs) -> Result<u8, CliError> {
    let ui = context.ui;
    let (client, place) = context.client_and_place().await?;
    let follow = args.follow || !args.no_follow;
    let lines = match args.lines.as_str() {
        "all" => "all=true".to_owned(),
        number => format!("lines={number}"),
    };
    let path = place.path(&format!("/container/logs?{lines}&follow={follow}"));
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
        error = crate::terminal::ended() => return if follow { Ok(error.exit) } else { Err(error) },
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
        return write_stdout(&json);
    }
    // What the program says may be anybody's words.
    let text = sanitize_log(&line.text, ui.stdout_terminal);
    let prefix = if args.no_prefix { String::new() } else { place.prefix() };
    let at = match line.at {
        Some(at) if args.timestamps => format!("{at} "),
        _ => String::new(),
    };
    let text = format!("{prefix}{at}{text}\n");
    if line.stderr {
        write_stderr(text.as_bytes());
        Ok(())
    } else {
        write_stdout(text.as_bytes())
    }
}
