//! `occ trust`: review a host's key and put it in the place of what is on record.

use hyper::Method;
use occ_proto::text::sanitize;
use occ_proto::trust::{HostKeyReview, Record, TrustKey};

use super::Context;
use super::connect::{self, Verb};
use crate::cli::TrustArgs;
use crate::client::host_path;
use crate::error::{CONNECTION, CliError};
use crate::output::with_note;

/// Runs the command and returns its exit code.
pub(crate) async fn run(context: &Context<'_>, args: &TrustArgs) -> Result<u8, CliError> {
    let ui = context.ui;
    let (client, host, source) = context.client_and_host("trust").await?;
    let path = host_path(&host, "/trust");
    let note = format!("[{host}] looking at its key …");
    let reply = match with_note(ui, &note, client.get_slow(&path)).await {
        Ok(reply) => reply,
        Err(error) => return Err(super::explain(context, &client, &host, source, error).await),
    };
    let review: HostKeyReview = reply.parse()?;
    let fingerprint = review.shown.split(' ').next_back().unwrap_or_default();
    // Whatever is on record: whoever names a key has another in mind than this.
    if let Some(wanted) = args.fingerprint.as_ref().filter(|wanted| *wanted != fingerprint) {
        return Err(CliError::failed(format!(
            "{host} shows {fingerprint}, not {wanted}. Nothing was changed."
        )));
    }
    if review.record == Record::Known {
        if ui.json {
            return ui.document(&reply.body).map(|()| 0);
        }
        let why = match &review.authority {
            None => "which is on record".to_owned(),
            Some(authority) => format!(
                "for which the certificate authority {} of known_hosts vouches",
                sanitize(authority)
            ),
        };
        ui.say(&format!("[{host}] The server shows {}, {why}.", sanitize(&review.shown)))?;
        return Ok(0);
    }
    if !ui.json {
        show(context, &review);
    }
    if review.record == Record::Revoked {
        let place = match (&review.file, review.line) {
            (Some(file), Some(line)) => format!("{}:{line}", sanitize(file)),
            _ => "known_hosts".to_owned(),
        };
        let says = format!("{host} shows a key that is revoked. Nothing was changed.");
        let hint = format!("ask the server's owner for another; take {place} away if it is wrong");
        return Err(CliError { exit: CONNECTION, ..CliError::failed(says).hint(hint) });
    }
    if let Some(obstacle) = &review.obstacle {
        let says = format!("{host}: {}. Nothing was changed.", sanitize(obstacle));
        let hint = format!(
            "give {host} a line of its own there, or take that line away; then occ reconnect --host {host}"
        );
        return Err(CliError { exit: CONNECTION, ..CliError::failed(says).hint(hint) });
    }
    let agreed = match &args.fingerprint {
        Some(_) => true,
        None if ui.can_ask() => ui.ask("Trust the key that the server shows, from now on?").await?,
        None => {
            return Err(CliError::usage(
                "without a terminal a key is trusted by its fingerprint, which somebody has compared.",
            )
                .hint(format!("occ trust --host {host} --fingerprint {fingerprint}")));
        }
    };
    if !agreed {
        return Err(CliError::failed("Nothing was changed."));
    }
    let wish = TrustKey { shown: review.shown.clone() };
    let reply = client.request(Method::POST, &path, Some(&wish), None).await?;
    let after: HostKeyReview = reply.parse()?;
    if after.record != Record::Known {
        // The user's files have no other any more.
        let place = after.file.as_deref().map_or_else(|| "known_hosts".to_owned(), sanitize);
        return Err(CliError {
            exit: CONNECTION,
            ..CliError::failed(format!(
                "the key is on record now, and {place} still has another: that file is the system's."
            ))
        });
    }
    if ui.json {
        return ui.document(&reply.body).map(|()| 0);
    }
    ui.say(&format!("[{host}] Trusted: {}", sanitize(&review.shown)))?;
    connect::run(context, Verb::Reconnect).await
}

fn show(context: &Context<'_>, review: &HostKeyReview) {
    let line = |label: &str, text: &str| {
        context.ui.note(&format!("[{}] {label:<17} {}", review.name, sanitize(text)));
    };
    let place = match (&review.file, review.line) {
        (Some(file), Some(line)) => format!("  {file}:{line}"),
        _ => String::new(),
    };
    line("The server shows", &review.shown);
    if let Some(why) = &review.certificate {
        line("Its certificate", &format!("is by an authority on record, and refused: {why}"));
    }
    match review.record {
        Record::Revoked => line("Revoked by", place.trim_start()),
        Record::Unknown | Record::Known if review.certificate.is_some() => {
            line("On record", "that authority, and no key");
        }
        Record::Unknown | Record::Known => line("On record", "nothing"),
        Record::Changed => {
            for (number, key) in review.recorded.iter().enumerate() {
                line("On record", &format!("{key}{}", if number == 0 { &place } else { "" }));
            }
        }
    }
}
