//! How a file looks from outside: another look means other content.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The look of a file: which one it is, its length, and when it was last written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp(u64, u64, i64, i64);

impl Stamp {
    /// Returns how a file looks now.
    pub fn of(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        Ok(Self(metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
    }
}
