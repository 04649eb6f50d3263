//! The names of sessions: each is one session's, and no other's ID.

use std::collections::BTreeMap;

use occ_proto::session::check_name;

use super::Entry;
use super::error::SessionError;

/// Returns a session by its name or its ID.
pub(super) fn find<'a>(
    entries: &'a BTreeMap<String, Entry>,
    wanted: &str,
) -> Result<&'a Entry, SessionError> {
    let named = entries.values().find(|entry| entry.record.info.name == wanted);
    named.or_else(|| entries.get(wanted)).ok_or_else(|| not_found(entries, wanted))
}

/// Returns that there is no such session, and which there are.
pub(super) fn not_found(entries: &BTreeMap<String, Entry>, wanted: &str) -> SessionError {
    let mut names: Vec<_> = entries.values().map(|entry| entry.record.info.name.clone()).collect();
    names.sort();
    SessionError::NotFound { wanted: occ_proto::text::sanitize(wanted), names }
}

/// Checks that a name is one, and that no session has it but the one with this ID.
pub(super) fn check(
    entries: &BTreeMap<String, Entry>,
    name: &str,
    own: Option<&str>,
) -> Result<(), SessionError> {
    check_name(name).map_err(SessionError::BadName)?;
    match find(entries, name) {
        Ok(other) if own != Some(&other.record.info.id) => {
            Err(SessionError::Taken(name.to_owned()))
        }
        _ => Ok(()),
    }
}

/// Returns a name that no session has, after a program.
pub(super) fn free_name(entries: &BTreeMap<String, Entry>, program: &str) -> String {
    let base = program.rsplit('/').next().unwrap_or_default();
    let allowed = |c: &char| c.is_ascii_alphanumeric() || "-_.".contains(*c);
    let base: String = base.chars().filter(allowed).take(48).collect();
    let base = base.trim_start_matches(['-', '.']);
    let base = if base.is_empty() { "session" } else { base };
    let numbered = (2u32..).map(|n| format!("{base}-{n}"));
    let mut names = std::iter::once(base.to_owned()).chain(numbered);
    names.find(|name| find(entries, name).is_err()).unwrap_or_default()
}
