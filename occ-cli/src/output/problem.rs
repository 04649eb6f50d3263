//! Failures on standard error: `Error: …` and `hint: …`, or the problem document with `--json`.

use occ_proto::error::title;
use occ_proto::text::sanitize;
use serde::Serialize;

use super::{Ui, write_stderr};
use crate::error::{CONNECTION, CliError, DAEMON, DENIED, NOT_FOUND, OUTCOME_UNKNOWN, USAGE};

/// A problem that arose here: the shape of RFC 9457 with a code of our own.
#[derive(Debug, Serialize)]
struct Failure<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    retryable: bool,
}

/// Writes a failure to standard error.
pub(crate) fn print(ui: &Ui, error: &CliError) {
    print_as(ui.json, ui.verbose, error);
}

/// The same before the flags are known as a whole.
pub(crate) fn print_as(json: bool, verbose: u8, error: &CliError) {
    if error.is_quiet() {
        return;
    }
    if json {
        print_json(error);
        return;
    }
    let mut text = format!("Error: {}\n", error.message);
    if verbose > 0 {
        for cause in error.problem.iter().flat_map(|problem| &problem.causes) {
            text.push_str(&format!("  caused by: {}\n", sanitize(cause)));
        }
        text.push_str(&format!("  code: {}\n", error.code));
    }
    if let Some(hint) = &error.hint {
        text.push_str(&format!("hint: {hint}\n"));
    }
    write_stderr(text.as_bytes());
}

/// Writes a failure to standard error as one JSON document.
fn print_json(error: &CliError) {
    write_stderr(format!("{}\n", json(error)).as_bytes());
}

/// Returns the status that the daemon would give, where it could be asked.
fn status(error: &CliError) -> u16 {
    match error.exit {
        USAGE => 400,
        DENIED => 403,
        NOT_FOUND => 404,
        OUTCOME_UNKNOWN => 502,
        DAEMON | CONNECTION => 503,
        // What is asked for does not go with how things are here, and nothing is wrong with occd.
        _ => 409,
    }
}

/// Returns a failure as a JSON document on one line.
pub(crate) fn json(error: &CliError) -> String {
    let text = match &error.problem {
        Some(problem) => serde_json::to_string(problem),
        None => {
            let status = status(error);
            serde_json::to_string(&Failure {
                kind: format!("urn:occ:problem:{}", error.code),
                title: title(status),
                status,
                detail: &error.message,
                code: &error.code,
                retryable: error.is_away(),
            })
        }
    };
    // Plain structures of texts and numbers always serialise.
    text.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_of_our_own_has_the_status_that_fits_it() {
        let failed = || CliError::failed("no");
        let no_group = CliError { exit: NOT_FOUND, code: "group_not_found".into(), ..failed() };
        for (error, status, title) in [
            (no_group, 404, "Not Found"),
            (CliError::usage("no"), 400, "Bad Request"),
            (CliError::daemon("no"), 503, "Service Unavailable"),
            (CliError::interrupted("no"), 503, "Service Unavailable"),
            (CliError::outcome_unknown("no"), 502, "Bad Gateway"),
            (failed(), 409, "Conflict"),
        ] {
            let document: serde_json::Value = serde_json::from_str(&json(&error)).unwrap();
            assert_eq!((&document["status"], &document["title"]), (&status.into(), &title.into()));
        }
    }
}
