//! `occ`: the short-lived client of `occd`.
//!
//! It owns the command line, the texts on a terminal and the exit codes. It knows neither SSH nor
//! Docker: everything about a host comes from the daemon. It must start in about a millisecond, so it
//! runs on one thread and links nothing heavy (`tests/deps.rs`). What other programs may link of it is [`daemon`] and [`session`].

mod autostart;
mod cli;
mod client;
mod commands;
mod complete;
mod connection;
pub mod daemon;
mod descriptors;
#[cfg(test)]
mod documented;
mod duration;
mod endpoint;
mod eol;
mod error;
mod escape;
mod exchange;
mod hint;
mod keys;
mod lines;
mod local_file;
mod locks;
mod man;
mod output;
mod parse;
mod place;
mod progress;
mod project;
mod prompter;
pub mod session;
mod spot;
mod start_check;
mod stdio;
mod stranger;
mod target;
mod terminal;
mod tree;
mod unit;
mod versions;
mod ws;

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use occ_proto::text::sanitize;

use cli::Cli;
use error::CliError;
use output::Ui;

/// Runs `occ` with this process's arguments and ends the process with its exit code.
pub fn main() -> ! {
    let args: Vec<OsString> = std::env::args_os().collect();
    let code = run(args);
    // Not a return: a thread that is blocked reading standard input must not hold the process.
    std::process::exit(i32::from(code))
}

fn run(args: Vec<OsString>) -> u8 {
    if args.get(1).is_some_and(|word| word == complete::WORD) {
        let words = args.iter().skip(2).map(|word| word.to_string_lossy().into_owned());
        // The shell that asked may have gone on.
        let _ = output::write_stdout(complete::answer(&words.collect::<Vec<_>>()).as_bytes());
        return 0;
    }
    if let [_, word, dir] = &args[..]
        && word == man::WORD
    {
        return match man::write(dir.as_ref()) {
            Ok(()) => 0,
            Err(error) => {
                let error = CliError::failed(format!("the man pages cannot be written: {error}"));
                output::problem::print_as(false, 0, &error);
                error.exit
            }
        };
    }
    let wants_json = args.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--json");
    let args = first_steps(args);
    let cli = match Cli::read(&args) {
        Ok(cli) => cli,
        Err(error) => return unparsed(&error, &args, wants_json),
    };
    let ui = Ui::new(&cli.global);
    let own_exit = cli.own_exit();
    // One thread: occ waits for one socket, and a second thread costs more than it brings.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            let upgrade = commands::upgrade::Upgrade::of(&cli);
            let result = runtime.block_on(async {
                match commands::run(cli, &ui).await {
                    Ok(code) => {
                        upgrade.after(&ui).await;
                        Ok(code)
                    }
                    Err(error) => Err(upgrade.explained(&ui, error).await),
                }
            });
            // The process ends with the exit code: taking the runtime apart first would only take time.
            std::mem::forget(runtime);
            result
        }
        Err(error) => Err(CliError::failed(format!("the runtime could not be started: {error}"))),
    };
    ui.clear_progress();
    ui.warn_of_files();
    match result {
        Ok(code) => code,
        Err(error) => {
            output::problem::print(&ui, &error);
            // A closed pipe is the reader's doing; everything else here is ours.
            if error.is_quiet() { error.exit } else { own_exit.unwrap_or(error.exit) }
        }
    }
}

/// Returns `occ setup` in place of `occ host add` without anything more.
fn first_steps(mut args: Vec<OsString>) -> Vec<OsString> {
    if let [before @ .., host, add] = &args[..]
        && host == "host"
        && add == "add"
        && !before.iter().any(|arg| arg == "help")
    {
        args.truncate(args.len() - 2);
        args.push("setup".into());
    }
    args
}

/// Prints what clap has to say: help and version on stdout, a usage error on stderr in our own form.
fn unparsed(error: &clap::Error, args: &[OsString], json: bool) -> u8 {
    // `occ start`, but not `occ daemon restart`.
    let first = |name: &str| {
        args.iter().take_while(|arg| *arg != name).all(|arg| arg != "host" && arg != "daemon")
    };
    if let Some(ContextValue::String(name)) = error.get(ContextKind::InvalidSubcommand)
        && first(name)
        && let Some(error) = commands::legacy::refuse(name)
    {
        output::problem::print_as(json, 0, &error);
        return error.exit;
    }
    if let (ErrorKind::UnknownArgument, Some(ContextValue::String(option))) =
        (error.kind(), error.get(ContextKind::InvalidArg))
        && let Some(error) = commands::legacy::refuse_option(option)
    {
        output::problem::print_as(json, 0, &error);
        return error.exit;
    }
    let own_help = match error.kind() {
        ErrorKind::DisplayHelp => cli::help(args),
        _ => None,
    };
    let text = own_help.unwrap_or_else(|| error.to_string());
    if !error.use_stderr() {
        // A closed pipe here is nobody's concern.
        let _ = output::write_stdout(text.as_bytes());
        return 0;
    }
    if json {
        // Up to the usage, which is help and no error.
        let lines = text.lines().take_while(|line| !line.starts_with("Usage:"));
        let words: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
        let detail = words.join(" ");
        let detail = sanitize(detail.strip_prefix("error: ").unwrap_or(&detail));
        output::problem::print_as(true, 0, &CliError::usage(detail));
    } else {
        let text =
            text.strip_prefix("error: ").map(|rest| format!("Error: {rest}")).unwrap_or(text);
        // It repeats the argument, which a script may have taken from anywhere.
        for line in text.lines() {
            output::write_stderr(format!("{}\n", sanitize(line)).as_bytes());
        }
    }
    error::USAGE
}
