//! What keeps an archive from writing out of where it is to stay.

use std::collections::HashSet;

use occ_proto::files::{FileKind, is_unfinished};
use occ_proto::tar::{self, Entry, Kind};

use crate::files::{FileError, FileSystem, SET_ID, Shown, join};

/// What keeps an archive from writing through links: those that are there, and its own.
#[derive(Debug, Default)]
pub(super) struct Confined {
    /// What is known to be no link, by its path below the target.
    pub(super) plain: HashSet<Vec<u8>>,
    /// The archive's own links.
    pub(super) links: HashSet<Vec<u8>>,
    /// Nothing is at the target but what we put there.
    pub(super) fresh: bool,
}

impl Confined {
    /// Refuses an entry that would.
    pub(super) async fn check(
        &mut self,
        fs: &FileSystem,
        target: &[u8],
        entry: &Entry,
    ) -> Result<(), FileError> {
        if !matches!(entry.kind, Kind::Symlink(_)) && entry.mode & SET_ID != 0 {
            return Err(FileError::SetId(Shown::of(&join(target, &entry.path))));
        }
        // What is no path is told by whoever writes it.
        let parts = tar::parts(&entry.path).unwrap_or_default();
        if let Kind::Hardlink(to) = &entry.kind {
            let outside = || FileError::Outside(Shown::of(&join(target, &entry.path)));
            let to = tar::parts(to).ok_or_else(outside)?;
            let mut whole = Vec::new();
            for part in to {
                whole = if whole.is_empty() { part.to_vec() } else { join(&whole, part) };
                if self.links.contains(&whole) {
                    return Err(outside());
                }
            }
        }
        let mut path = Vec::new();
        for (at, part) in parts.iter().enumerate() {
            path = if at == 0 { part.to_vec() } else { join(&path, part) };
            let is_last = at + 1 == parts.len();
            let full = join(target, &path);
            if self.links.contains(&path) || is_unfinished(part) {
                return Err(FileError::Outside(Shown::of(&full)));
            }
            let is_link = matches!(entry.kind, Kind::Symlink(_)) && is_last;
            if is_link {
                // It replaces what is there.
                self.links.insert(path.clone());
            } else if !self.fresh && self.plain.insert(path.clone()) {
                no_link(fs, &full).await?;
            }
        }
        Ok(())
    }
}

/// Returns whether an entry is the directory that was there before, which may be the root that all has to stay below.
pub(super) fn keeps(confined: Option<&Confined>, entry: &Entry) -> bool {
    confined.is_some_and(|confined| !confined.fresh)
        && tar::parts(&entry.path).is_some_and(|parts| parts.is_empty())
}

/// Makes sure that no directory on the way to an entry has become a link since it came.
pub(super) async fn no_links(
    fs: &FileSystem,
    target: &[u8],
    entries: &[Entry],
) -> Result<(), FileError> {
    let mut plain = HashSet::new();
    for Entry { path, kind, .. } in entries {
        let parts = tar::parts(path).unwrap_or_default();
        // A file takes the place of a link, and is not written through it.
        let others = usize::from(*kind != Kind::Directory).min(parts.len());
        let mut full = target.to_vec();
        for part in &parts[..parts.len() - others] {
            full = join(&full, part);
            if !plain.insert(full.clone()) {
                continue;
            }
            no_link(fs, &full).await?;
        }
    }
    Ok(())
}

/// Refuses a path where a link is.
async fn no_link(fs: &FileSystem, path: &[u8]) -> Result<(), FileError> {
    match fs.stat(path, false).await {
        Ok(attrs) if attrs.kind == FileKind::Symlink => Err(FileError::Outside(Shown::of(path))),
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}
