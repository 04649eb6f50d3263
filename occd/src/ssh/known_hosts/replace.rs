//! Replacing what is on record for a host by a key that a person has chosen.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use russh::keys::PublicKey;

use super::locked::{make_directory, open_locked, to_append};
use super::{
    Hosts, KnownHosts, KnownHostsError, Marker, is_plain, is_recordable, is_regular, lookup_name,
    new_line, parse_line, read_capped,
};
use occ_proto::wildcard;

/// Takes every other key of the host out of the files and adds `key` to the first of them. Authorities and
/// revocations stay as they are. What a file was before is kept beside it, with `.old` behind its name, as
/// `ssh-keygen -R` does.
///
/// # Errors
/// When a file cannot be read or written, the first of them keeps nothing, or a pattern that is meant for more hosts
/// would have to go.
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
    let Some(path) = files.first() else { return Ok(()) };
    make(path)?;
    if let Ok(metadata) = std::fs::metadata(path)
        && !is_regular(path, &metadata)?
    {
        return Err(KnownHostsError::KeepsNothing { path: path.clone() });
    }
    let locked = Locked::all(files)?;
    let (first, others): (Vec<_>, Vec<_>) = locked.iter().partition(|file| file.path == *path);
    // Whatever keeps a file from being changed is found before any is: a key that the answer calls refused must
    // not be trusted.
    let mut staged = Vec::new();
    for file in others {
        let after = file.without(&name, &stays)?;
        if after != file.before {
            staged.push(file.stage(&after)?);
        }
    }
    for file in first {
        let mut after = file.without(&name, &stays)?;
        let mut known = KnownHosts::default();
        known.parse(path, &after);
        let mut line = Vec::new();
        if !known.has(&name, key) {
            line = new_line(&after, &name, key, hash, path)?;
        }
        if after == file.before {
            file.append(&line)?;
        } else {
            // In one step: a host that lost its record and got no other would be one that nobody knows.
            after.extend(line);
            file.stage(&after)?.save()?;
        }
    }
    staged.into_iter().try_for_each(Staged::save)
}

/// Looks whether the other keys of a host can be taken out of the files.
///
/// # Errors
/// The line that is meant for more hosts, which a person has to change. What else may be in the way shows when it is
/// done.
pub fn obstacle(
    files: &[PathBuf],
    host: &str,
    port: u16,
    key: &PublicKey,
) -> Result<(), KnownHostsError> {
    let name = lookup_name(host, port);
    let stays = |recorded: &PublicKey| recorded.key_data() == key.key_data();
    for path in files {
        let Some(file) = File::open(path)
            .ok()
            .filter(|file| file.metadata().is_ok_and(|metadata| metadata.is_file()))
        else {
            continue;
        };
        without_all(path, &read_capped(path, &file)?, &name, &stays)?;
    }
    Ok(())
}

/// Makes a file that is not there: only one that is can be locked.
fn make(path: &Path) -> Result<(), KnownHostsError> {
    let fail = |source| KnownHostsError::Write { path: path.to_owned(), source };
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_directory(path).and_then(|()| to_append().open(path)).map(drop).map_err(fail)
        }
        // What else is wrong with it shows when it is locked.
        _ => Ok(()),
    }
}

/// Takes the keys of a name out of a file, except those that stay.
pub(super) fn remove_all_but(
    path: &Path,
    name: &str,
    stays: &dyn Fn(&PublicKey) -> bool,
) -> Result<(), KnownHostsError> {
    for file in Locked::all(&[path.to_owned()])? {
        let after = file.without(name, stays)?;
        if after != file.before {
            file.stage(&after)?.save()?;
        }
    }
    Ok(())
}

/// A file that is locked until this is dropped.
struct Locked {
    /// As it is configured.
    path: PathBuf,
    /// What it points at: a link stays a link, and this is replaced.
    target: PathBuf,
    file: Arc<File>,
    /// Its device and inode.
    id: (u64, u64),
    before: Vec<u8>,
}

impl Locked {
    /// Locks the files that are there, each once and in the order of their names: two who want the same ones in
    /// different orders would else wait for each other.
    fn all(paths: &[PathBuf]) -> Result<Vec<Self>, KnownHostsError> {
        let id = |metadata: &Metadata| (metadata.dev(), metadata.ino());
        let mut targets = BTreeMap::new();
        for path in paths {
            let fail = |source| KnownHostsError::Write { path: path.to_owned(), source };
            match std::fs::metadata(path) {
                Ok(metadata) if is_regular(path, &metadata)? => {
                    targets.entry(path.canonicalize().map_err(fail)?).or_insert(path);
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(fail(error)),
            }
        }
        let mut locked: Vec<Self> = Vec::new();
        for (target, path) in targets {
            let fail = |source| KnownHostsError::Write { path: path.to_owned(), source };
            let there = id(&std::fs::metadata(&target).map_err(fail)?);
            // Another name of a file whose lock we have: to wait for it would be to wait for ourselves.
            let twin = locked.iter().find(|other| other.id == there);
            let (file, id, before) = match twin {
                Some(twin) => (Arc::clone(&twin.file), twin.id, twin.before.clone()),
                None => {
                    let file = open_locked(&target, File::options().read(true)).map_err(fail)?;
                    let before = read_capped(path, &file)?;
                    let id = id(&file.metadata().map_err(fail)?);
                    (Arc::new(file), id, before)
                }
            };
            locked.push(Self { path: path.clone(), target, file, id, before });
        }
        Ok(locked)
    }

    /// Returns what the file becomes without the keys of a name, except those that stay.
    fn without(
        &self,
        name: &str,
        stays: &dyn Fn(&PublicKey) -> bool,
    ) -> Result<Vec<u8>, KnownHostsError> {
        without_all(&self.path, &self.before, name, stays)
    }

    /// Adds a line.
    fn append(&self, line: &[u8]) -> Result<(), KnownHostsError> {
        if line.is_empty() {
            return Ok(());
        }
        let opened = to_append().open(&self.target);
        opened
            .and_then(|mut file| file.write_all(line).and_then(|()| file.sync_all()))
            .map_err(|source| KnownHostsError::Write { path: self.path.clone(), source })
    }

    /// Writes new content beside the old, and a copy of the old.
    fn stage(&self, after: &[u8]) -> Result<Staged<'_>, KnownHostsError> {
        // The library's error names its temporary file, which says nothing to anybody.
        let fail = |error: io::Error| KnownHostsError::Write {
            path: self.path.clone(),
            source: error.kind().into(),
        };
        let mut old = self.target.clone().into_os_string();
        old.push(".old");
        std::fs::copy(&self.target, &old).map_err(fail)?;
        let dir = self.target.parent().unwrap_or(Path::new("/"));
        let mut staged = tempfile::NamedTempFile::new_in(dir).map_err(fail)?;
        let mode = self.file.metadata().map_err(fail)?.permissions();
        staged.as_file().set_permissions(mode).map_err(fail)?;
        staged.write_all(after).map_err(fail)?;
        staged.as_file().sync_all().map_err(fail)?;
        Ok(Staged { staged, of: self })
    }
}

/// New content that is ready to take the place of the old.
struct Staged<'a> {
    staged: tempfile::NamedTempFile,
    of: &'a Locked,
}

impl Staged<'_> {
    fn save(self) -> Result<(), KnownHostsError> {
        self.staged.persist(&self.of.target).map(drop).map_err(|error| KnownHostsError::Write {
            path: self.of.path.clone(),
            source: error.error,
        })
    }
}

/// What becomes of a line.
enum Line {
    Stays,
    Goes,
    Becomes(Vec<u8>),
    IsForOthersToo,
}

fn without_all(
    path: &Path,
    before: &[u8],
    name: &str,
    stays: &dyn Fn(&PublicKey) -> bool,
) -> Result<Vec<u8>, KnownHostsError> {
    let mut after = Vec::with_capacity(before.len());
    let lines = before.split_inclusive(|byte| *byte == b'\n');
    for (index, line) in lines.enumerate() {
        match without(line, name, stays) {
            Line::Stays => after.extend_from_slice(line),
            Line::Goes => {}
            Line::Becomes(new) => after.extend_from_slice(&new),
            Line::IsForOthersToo => {
                let path = path.to_owned();
                return Err(KnownHostsError::Pattern { path, line: index + 1 });
            }
        }
    }
    Ok(after)
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
    let still = |pattern: &&[u8]| wildcard::matches(pattern, name.as_bytes());
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
