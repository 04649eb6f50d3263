//! Replacing what is on record for a host by a key that a person has chosen.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use russh::keys::PublicKey;

use super::{
    Hosts, KnownHosts, KnownHostsError, Marker, append, is_plain, is_recordable, is_regular,
    lookup_name, matches_pattern, new_line, open_locked, parse_line, read_capped,
};

/// Takes every other key of the host out of the files and adds `key` to the first of them. Authorities and
/// revocations stay as they are. What a file was before is kept beside it, with `.old` behind its name, as
/// `ssh-keygen -R` does.
///
/// # Errors
/// When a file cannot be read or written, or a pattern that is meant for more hosts would have to go.
pub fn replace(
    files: &[PathBuf],
    host: &str,
    port: u16,
    key: &PublicKey,
    hash: bool,
) -> Result<(), KnownHostsError> {
    if !is_recordable(host) {
        return Err(KnownHostsError::Name);
    }
    if !is_plain(key) {
        return Err(KnownHostsError::KeyKind);
    }
    let name = lookup_name(host, port);
    let stays = |recorded: &PublicKey| recorded.key_data() == key.key_data();
    let Some((first, others)) = files.split_first() else { return Ok(()) };
    // Whatever keeps a file from being changed is found before any is: a key that the answer calls refused must
    // not be trusted.
    let mut staged = Vec::new();
    for path in others {
        if let Some(rewrite) = rewritten(path, &name, &stays)? {
            staged.push((path, rewrite.stage(path)?));
        }
    }
    match rewritten(first, &name, &stays)? {
        // In one step: a host that lost its record and got no other would be one that nobody knows.
        Some(mut rewrite) => {
            let mut known = KnownHosts::default();
            known.parse(first, &rewrite.after);
            if !known.has(&name, key) {
                rewrite.after.extend(new_line(&rewrite.after, &name, key, hash, first)?);
            }
            rewrite.stage(first)?.save(first)?;
        }
        None => append(first, host, port, key, hash)?,
    }
    staged.into_iter().try_for_each(|(path, staged)| staged.save(path))
}

/// A file that is to lose some lines, and is locked until this is dropped.
struct Rewrite {
    file: File,
    target: PathBuf,
    after: Vec<u8>,
}

/// Returns what a file becomes without the keys of a name, except those that stay; nothing if it stays as it is.
fn rewritten(
    path: &Path,
    name: &str,
    stays: &dyn Fn(&PublicKey) -> bool,
) -> Result<Option<Rewrite>, KnownHostsError> {
    let fail = |source| KnownHostsError::Write { path: path.to_owned(), source };
    match std::fs::metadata(path) {
        Ok(metadata) if is_regular(path, &metadata)? => {}
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    }
    // A link stays a link; what it points at is replaced.
    let target = path.canonicalize().map_err(fail)?;
    let file = open_locked(&target, OpenOptions::new().read(true)).map_err(fail)?;
    let before = read_capped(path, &file)?;
    let mut after = Vec::with_capacity(before.len());
    for (index, line) in before.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let wildcard = || KnownHostsError::Pattern { path: path.to_owned(), line: index + 1 };
        match without(line, name, stays) {
            Line::Stays => after.extend_from_slice(line),
            Line::Goes => {}
            Line::Becomes(new) => after.extend_from_slice(&new),
            Line::IsForOthersToo => return Err(wildcard()),
        }
    }
    Ok((after != before).then_some(Rewrite { file, target, after }))
}

/// Takes the keys of a name out of a file, except those that stay.
pub(super) fn remove_all_but(
    path: &Path,
    name: &str,
    stays: &dyn Fn(&PublicKey) -> bool,
) -> Result<(), KnownHostsError> {
    rewritten(path, name, stays)?.map_or(Ok(()), |rewrite| rewrite.stage(path)?.save(path))
}

impl Rewrite {
    /// Writes the new content beside the old, and a copy of the old.
    fn stage(self, path: &Path) -> Result<Staged, KnownHostsError> {
        let Self { file, target, after } = self;
        // The library's error names its temporary file, which says nothing to anybody.
        let fail = |error: std::io::Error| KnownHostsError::Write {
            path: path.to_owned(),
            source: error.kind().into(),
        };
        let mut old = target.clone().into_os_string();
        old.push(".old");
        std::fs::copy(&target, &old).map_err(fail)?;
        let dir = target.parent().unwrap_or(Path::new("/"));
        let mut staged = tempfile::NamedTempFile::new_in(dir).map_err(fail)?;
        let mode = file.metadata().map_err(fail)?.permissions();
        staged.as_file().set_permissions(mode).map_err(fail)?;
        staged.write_all(&after).map_err(fail)?;
        staged.as_file().sync_all().map_err(fail)?;
        Ok(Staged { staged, target, _file: file })
    }
}

/// New content that is ready to take the place of the old.
struct Staged {
    staged: tempfile::NamedTempFile,
    target: PathBuf,
    /// Locked until then.
    _file: File,
}

impl Staged {
    fn save(self, path: &Path) -> Result<(), KnownHostsError> {
        let saved = self.staged.persist(&self.target);
        saved
            .map(drop)
            .map_err(|error| KnownHostsError::Write { path: path.to_owned(), source: error.error })
    }
}

/// What becomes of a line.
enum Line {
    Stays,
    Goes,
    Becomes(Vec<u8>),
    IsForOthersToo,
}

fn without(line: &[u8], name: &str, stays: &dyn Fn(&PublicKey) -> bool) -> Line {
    let text = line.trim_ascii();
    let Some((Marker::None, hosts, recorded)) = parse_line(text) else { return Line::Stays };
    if !hosts.contain(name) || stays(&recorded) {
        return Line::Stays;
    }
    let Hosts::Patterns(list) = &hosts else { return Line::Goes };
    let rest: Vec<&[u8]> =
        list.split(|byte| *byte == b',').filter(|pattern| *pattern != name.as_bytes()).collect();
    let still = |pattern: &&[u8]| matches_pattern(pattern, name.as_bytes());
    if rest.iter().any(still) {
        return Line::IsForOthersToo;
    }
    if rest.is_empty() {
        return Line::Goes;
    }
    // The names of the others, and the line as it was behind them.
    let fields = text.iter().position(|byte| matches!(byte, b' ' | b'\t')).unwrap_or(text.len());
    let mut new = rest.join(&b',');
    new.extend_from_slice(&text[fields..]);
    new.push(b'\n');
    Line::Becomes(new)
}
