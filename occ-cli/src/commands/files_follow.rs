//! `occ files`: a directory that is watched, or searched.

use std::ffi::OsStr;

use bytes::BytesMut;
use hyper::Method;
use occ_proto::Code;
use occ_proto::files_follow::{SearchEvent, WatchEvent, WatchedBy};
use occ_proto::text::sanitize;
use serde::de::DeserializeOwned;

use super::Context;
use super::files::home;
use crate::cli::{FilesCommand, SearchArgs, WatchArgs};
use crate::client::{Client, segment};
use crate::error::{CliError, FAILED};
use crate::exchange::{Answer, Ask, bytes_of};
use crate::output::{json, write_stdout};
use crate::spot::Spot;

/// The longest line of the daemon's, in bytes.
const LONGEST: usize = 1024 * 1024;

/// Runs the command and returns its exit code.
pub(crate) async fn run(context: &Context<'_>, command: &FilesCommand) -> Result<u8, CliError> {
    let following = async {
        match command {
            FilesCommand::Watch(args) => watch(context, args).await,
            FilesCommand::Search(args) => search(context, args).await,
        }
    };
    tokio::select! {
        biased;
        error = crate::terminal::following_ended() => Err(error),
        done = following => done,
    }
}

/// Lines of an answer.
struct Lines {
    answer: Answer,
    buffer: BytesMut,
}

impl Lines {
    async fn of(client: &Client, path: String) -> Result<Self, CliError> {
        let answer = Answer::to(client, Ask::new(Method::GET, path)).await?;
        Ok(Self { answer, buffer: BytesMut::new() })
    }

    /// Returns the next document, as it is and as it is understood.
    async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<(String, T)>, CliError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                let text = String::from_utf8_lossy(&line).into_owned();
                let event = serde_json::from_str(&text).map_err(|error| {
                    CliError::failed(format!("occd's answer is not one: {error}"))
                })?;
                return Ok(Some((text, event)));
            }
            if self.buffer.len() > LONGEST {
                return Err(CliError::failed("occd's answer is not one: a line has no end"));
            }
            match self.answer.next().await {
                Ok(Some(data)) => self.buffer.extend_from_slice(&data),
                Ok(None) => return Ok(None),
                Err(error) => return Err(crate::client::broken(&error)),
            }
        }
    }
}

async fn watch(context: &Context<'_>, args: &WatchArgs) -> Result<u8, CliError> {
    let (client, home) = home(context, &[&args.path]).await?;
    let spot = Spot::of(&args.path, home.as_ref())?;
    let query = format!("?watch=true&recursive={}", args.recursive);
    let mut lines = Lines::of(&client, spot.api(&query)?).await?;
    let ui = context.ui;
    while let Some((text, event)) = lines.next::<WatchEvent>().await? {
        if let WatchEvent::Failed { reason, code } = &event {
            let error = failed(&spot, reason, *code);
            return Err(match code {
                Some(_) => error,
                None => error.hint(format!("occ ls {}", spot.word())),
            });
        }
        if ui.json {
            ui.print(&json::line(&text))?;
            continue;
        }
        let (word, path) = match &event {
            WatchEvent::Created { path } => ("created", path),
            WatchEvent::Changed { path } => ("changed", path),
            WatchEvent::Removed { path } => ("removed", path),
            WatchEvent::Ready { by: WatchedBy::Inotify } => {
                ui.note_if_talking(&format!("watching {spot}"));
                continue;
            }
            WatchEvent::Ready { by: WatchedBy::Polling } => {
                ui.note_if_talking(&format!("watching {spot}, with a look every second"));
                continue;
            }
            WatchEvent::Ready { by: WatchedBy::Unknown } | WatchEvent::Unknown => continue,
            WatchEvent::Resync { reason } => {
                ui.note(&format!("not known what happened meanwhile: {}", sanitize(reason)));
                continue;
            }
            WatchEvent::Failed { .. } => continue,
        };
        let out = [word.as_bytes(), b"  ", &bytes_of(path, !ui.stdout_terminal), b"\n"];
        write_stdout(&out.concat())?;
    }
    Err(CliError::failed(format!("{spot}: occd has ended the watch.")))
}

/// Returns why a watch or a search has ended.
fn failed(spot: &Spot, reason: &str, code: Option<Code>) -> CliError {
    let text = format!("{spot}: {}.", sanitize(reason.trim_end_matches('.')));
    match code {
        Some(Code::ShuttingDown) => CliError::daemon(text),
        _ => CliError::failed(text),
    }
}

async fn search(context: &Context<'_>, args: &SearchArgs) -> Result<u8, CliError> {
    let (client, home) = home(context, args.path.as_slice()).await?;
    let path = args.path.as_deref().unwrap_or(OsStr::new(""));
    let spot = Spot::of(path, home.as_ref())?;
    let mut query = format!(
        "?search={}&ignore_case={}&literal={}",
        segment(&args.pattern),
        args.ignore_case,
        args.fixed_strings
    );
    if !args.glob.is_empty() {
        query.push_str(&format!("&globs={}", segment(&args.glob.join("\n"))));
    }
    if let Some(limit) = args.limit {
        query.push_str(&format!("&limit={limit}"));
    }
    let mut lines = Lines::of(&client, spot.api(&query)?).await?;
    let ui = context.ui;
    // What goes on to a program is as it is in the file.
    let raw = !ui.stdout_terminal;
    while let Some((text, event)) = lines.next::<SearchEvent>().await? {
        if ui.json && !matches!(event, SearchEvent::Failed { .. }) {
            ui.print(&json::line(&text))?;
        }
        match event {
            SearchEvent::Match { path, line, column, text, .. } if !ui.json => {
                let column = column.map_or_else(String::new, |column| format!("{column}:"));
                let mut out = bytes_of(&path, raw || args.null);
                out.push(if args.null { 0 } else { b':' });
                out.extend_from_slice(format!("{line}:{column}").as_bytes());
                out.extend(bytes_of(&text, raw));
                out.push(b'\n');
                write_stdout(&out)?;
            }
            SearchEvent::Match { .. } | SearchEvent::Unknown => {}
            SearchEvent::Done { matches, limited, trouble, .. } => {
                if limited {
                    ui.note(&format!("These are the first {matches}: there are more."));
                }
                if let Some(trouble) = trouble {
                    ui.note(&format!("Not all could be searched: {}", sanitize(&trouble)));
                }
                return Ok(if matches == 0 { FAILED } else { 0 });
            }
            SearchEvent::Failed { reason, code } => return Err(failed(&spot, &reason, code)),
        }
    }
    Err(CliError::failed(format!("{spot}: occd has ended the search.")))
}
