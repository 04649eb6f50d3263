//! `occ trace`: what goes through a host's channels, into a file.

use hyper::Method;
use jiff::tz::TimeZone;
use occ_proto::Code;
use occ_proto::text::sanitize;
use occ_proto::trace::{TraceCounts, TraceEnd, TraceEvent, TraceRequest};

use super::Context;
use crate::cli::TraceArgs;
use crate::client::host_path;
use crate::error::{CliError, INTERRUPTED};
use crate::lines::Lines;
use crate::output::Ui;

/// Runs the command and returns its exit code.
pub(crate) async fn run(context: &Context<'_>, args: &TraceArgs) -> Result<u8, CliError> {
    let (client, host, source) = context.client_and_host("trace").await?;
    let path = host_path(&host, "/trace");
    let file = args.output.as_ref().map(|file| {
        // The daemon is somewhere else.
        let file = std::path::absolute(file)
            .map_err(|error| CliError::failed(format!("{}: {error}", file.display())))?;
        let text = file.into_os_string().into_string();
        text.map_err(|_| CliError::usage("The name of the file must be UTF-8."))
    });
    let request = TraceRequest { file: file.transpose()?, for_ms: args.time };
    let lines = match Lines::ask(&client, Method::POST, &path, Some(&request)).await {
        Ok(lines) => lines,
        Err(error) => {
            let error = super::explain(context, &client, &host, source, error).await;
            // The file is one of this machine's.
            return Err(match error.daemon_code() {
                Some(
                    Code::FileExists
                    | Code::FileNotFound
                    | Code::PermissionDenied
                    | Code::FileError,
                ) => error.hint("-o names a new file, in a directory that only you can write to"),
                _ => error,
            });
        }
    };
    let mut trace = Trace { ui: context.ui, lines, file: String::new() };
    let told = tokio::select! {
        biased;
        ended = crate::terminal::following_ended() => Err(ended),
        told = trace.told() => told.map(Some),
    };
    match told {
        Ok(_) => Ok(0),
        // It is how a trace is ended, and no failure.
        Err(ended) if ended.exit == INTERRUPTED => {
            // On a connection of its own: the first one may have waited for too long.
            Lines::ask(&client, Method::DELETE, &path, None::<&()>).await?;
            trace.told().await?;
            Ok(0)
        }
        Err(error) => Err(error),
    }
}

struct Trace<'a> {
    ui: &'a Ui,
    lines: Lines,
    file: String,
}

impl Trace<'_> {
    /// Tells what becomes of it, to its end.
    async fn told(&mut self) -> Result<(), CliError> {
        while let Some(json) = self.lines.next::<serde_json::Value>().await? {
            let event: TraceEvent =
                serde_json::from_value(json.clone()).map_err(|_| self.lines.misunderstood())?;
            if self.ui.json && !matches!(event, TraceEvent::Progress { .. }) {
                self.ui.print(&format!("{json}\n"))?;
            }
            match event {
                TraceEvent::Started { file, ends_at } => {
                    self.file = sanitize(&file);
                    let until = ends_at.to_zoned(TimeZone::system()).strftime("%H:%M:%S");
                    self.ui.note(&format!(
                        "Tracing into {} until {until}. Ctrl-C ends it.",
                        self.file
                    ));
                    self.ui.note(
                        "It has all that goes through the host's channels, decrypted: also what is typed in \
                         terminals, passwords included.",
                    );
                }
                TraceEvent::Progress { counts } => {
                    self.ui.show_progress(&said(&counts));
                }
                TraceEvent::Ended { why, counts, error } => {
                    self.ui.clear_progress();
                    return self.ended(why, &counts, error.as_deref());
                }
                TraceEvent::Unknown => {}
            }
        }
        Err(CliError::failed(format!(
            "The trace ended with occd. {} has what came before.",
            self.file
        )))
    }

    fn ended(
        &self,
        why: TraceEnd,
        counts: &TraceCounts,
        error: Option<&str>,
    ) -> Result<(), CliError> {
        if !self.ui.json {
            self.ui.say(&format!("{}: {}", self.file, said(counts)))?;
        }
        match why {
            TraceEnd::Time | TraceEnd::Stopped | TraceEnd::Unknown => Ok(()),
            TraceEnd::Full => {
                self.ui.note("The file has reached its limit, 256 MiB.");
                Ok(())
            }
            TraceEnd::Shutdown => {
                self.ui.note("occd was stopped.");
                Ok(())
            }
            TraceEnd::Failed => {
                let why = sanitize(error.unwrap_or("a defect of occd; its log has more"));
                Err(CliError::failed(format!("{} could not be written: {why}", self.file)))
            }
        }
    }
}

fn said(counts: &TraceCounts) -> String {
    let TraceCounts { records, bytes_in, bytes_out, missing } = counts;
    let missing = match missing {
        0 => String::new(),
        missing => format!("; {missing} more came too fast and are missing"),
    };
    format!("{records} records, {bytes_in} bytes from the host, {bytes_out} bytes to it{missing}")
}
