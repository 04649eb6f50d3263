//! What to do when occ and the daemon are of different versions: the older of the two is the one to change.

use std::cmp::Ordering;

use occ_proto::Code;
use occ_proto::text::sanitize;

use crate::error::CliError;

/// What to type when the daemon that runs is the older one: the next one is of the version that is installed.
const RESTART: &str = "occ daemon restart";

const OWN: &str = env!("CARGO_PKG_VERSION");

/// Returns what to do about a daemon of that version which occ does not understand.
pub(crate) fn remedy(daemon: &str) -> String {
    match compare(daemon, OWN) {
        Some(Ordering::Greater) => format!("install occ {daemon}: this one is older than occd"),
        // Also one that says nothing of itself, or that was built from other sources.
        _ => RESTART.to_owned(),
    }
}

/// Returns what to do about a daemon that speaks another version of the API, or none.
pub(crate) fn remedy_of_api(api: Option<u32>, daemon: &str) -> String {
    match api {
        Some(api) if api > occ_proto::API_VERSION => {
            format!("install occ {daemon}: this one is older than occd")
        }
        _ => RESTART.to_owned(),
    }
}

/// Returns whether a daemon of that version is newer than this occ, and may need a newer one.
pub(crate) fn is_newer(daemon: &str) -> bool {
    compare(daemon, OWN) == Some(Ordering::Greater)
}

/// Returns that a daemon needs a newer occ than this one, where it does. `min_client` is the oldest that it serves in full.
pub(crate) fn too_old(daemon: &str, min_client: &str) -> Option<CliError> {
    let is_older = compare(OWN, min_client) == Some(Ordering::Less);
    is_older.then(|| {
        let (daemon, needed) = (sanitize(daemon), sanitize(min_client));
        let text = format!("occd {daemon} needs occ {needed} or newer, and this is occ {OWN}.");
        CliError::incompatible(text).hint(remedy(&daemon))
    })
}

/// Completes a daemon's problem that may come from its version alone: a route, or a word in a request, that one of the two
/// does not know.
pub(crate) fn explained(error: CliError, daemon: &str) -> CliError {
    let may_be_of_the_version = matches!(
        error.daemon_code(),
        Some(Code::NotFound | Code::MethodNotAllowed | Code::BadRequest | Code::Unknown)
    );
    match compare(daemon, OWN) {
        Some(Ordering::Less | Ordering::Greater) if may_be_of_the_version => {
            let remedy = remedy(daemon);
            error.hint(format!("occ is {OWN}, occd {daemon}; if that is why: {remedy}"))
        }
        _ => error,
    }
}

/// Compares two versions by their numbers; nothing where one has none.
fn compare(one: &str, other: &str) -> Option<Ordering> {
    Some(numbers(one)?.cmp(&numbers(other)?))
}

fn numbers(version: &str) -> Option<Vec<u32>> {
    // What follows a hyphen or a plus is no number (semver.org, 9 and 10).
    let core = version.split(['-', '+']).next()?;
    core.split('.').map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_of_the_two_is_the_one_to_change() {
        assert_eq!(remedy("99.0.0"), "install occ 99.0.0: this one is older than occd");
        for daemon in ["0.0.1", OWN, "of an unknown version", ""] {
            assert_eq!(remedy(daemon), RESTART, "{daemon}");
        }
        assert!(too_old("99.0.0", OWN).is_none() && too_old("99.0.0", "of no number").is_none());
        let error = too_old("99.0.0", "98.0.0").unwrap();
        assert_eq!(error.hint, Some(remedy("99.0.0")));
        assert_eq!(compare("0.10.0", "0.9.9"), Some(Ordering::Greater));
        assert_eq!(compare("1.2.3-dev+7", "1.2.3"), Some(Ordering::Equal));
        assert_eq!(remedy_of_api(None, "?"), RESTART);
        assert_eq!(remedy_of_api(Some(0), "?"), RESTART);
        assert!(remedy_of_api(Some(99), "9.0.0").starts_with("install occ 9.0.0"));
    }
}
