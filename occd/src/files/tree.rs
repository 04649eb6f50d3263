//! Directories with everything in them, as one stream (`occ_proto::tar`).
//!
//! Where a host has tar, that makes and takes the stream, and thousands of small files cost no round trips. Elsewhere,
//! and on this machine, each file is read and written by itself, many at once.
//!
//! What is unpacked by a host's tar, or where nothing is yet, lands in a hidden directory beside what is there, and is moved
//! when all of it has come: no file is ever there in part, and a new directory is there as a whole or not at all.

use occ_proto::tar;
use occ_proto::text::sanitize;

use super::join;
use super::script::{Script, arg};
use crate::exec::Executor;
use crate::prompts::Client;

mod confined;
mod pack;
mod unpack;

pub use pack::Pack;
pub use unpack::Unpack;

/// Says whose tar is there, unless it gets to no directory `$1`.
const LOOK: &str = "cd \"$1\" || { say closed; exit; }; command -v tar >/dev/null || { say none; exit; }; \
    case $(tar --version 2>/dev/null) in *GNU*) say gnu;; *) say other;; esac; ";
/// `$2` is how tar treats permissions and times. Only GNU's gives directories their times when all is in them. When it has said its
/// word it is in the directory, whatever becomes of the path.
const TAKE: &str = "exec tar -xof - $2";
/// What it says is read. GNU's opens what is below from the directory that it is in, and follows no link; others may.
const MAKE: &str = "export LC_MESSAGES=C; exec tar -cf - .";

/// The words of hosts with a tar: GNU's, and another.
const GNU: &str = "gnu";
const OTHER: &str = "other";

/// Starts a script with tar on the host; nothing where none runs.
async fn script(
    executor: &Executor,
    line: &str,
    dir: &[u8],
    option: &str,
    client: &Client,
) -> Option<Script> {
    let line = [LOOK, line].concat();
    let begun = Script::begin(executor, &line, [arg(dir), option.into()], client);
    begun.await.inspect_err(|error| tracing::debug!(%error, "no tar there")).ok()
}

/// Returns the first thing that a program said.
fn first_line(said: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(said);
    let line = text.lines().find(|line| !line.trim().is_empty())?;
    Some(sanitize(line.trim()))
}

/// Returns where an entry is below a directory.
fn place(root: &[u8], path: &[u8]) -> Vec<u8> {
    let parts = tar::parts(path).unwrap_or_default();
    parts.iter().fold(root.to_vec(), |path, part| join(&path, part))
}
