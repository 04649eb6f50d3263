//! Small files of what outlives the daemon, as JSON.

use std::io::{self, Write as _};
use std::path::Path;

use serde::Serialize;

/// Writes a value to a file of this user's alone, which has the old or the new content at every moment. Its
/// directory is made if need be.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn save(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::NotFound)?;
    std::fs::create_dir_all(dir)?;
    let mut staged = tempfile::NamedTempFile::new_in(dir)?;
    staged.write_all(&serde_json::to_vec(value).map_err(io::Error::other)?)?;
    staged.persist(path)?;
    Ok(())
}
