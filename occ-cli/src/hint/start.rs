//! What to type where a daemon does not start, or its socket cannot be used.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use occ_proto::paths::{CONFIG_HOME, Env, STATE_HOME};

use super::files::{anothers_way, denied, exposed, is_out_of_reach, shell_word, unusable};
use crate::autostart::{RESTART, START};
use crate::endpoint::{directory, shown};

/// What to do without a home directory.
pub(crate) const NO_HOME: &str = "export HOME=DIRECTORY, with the directory that has your .ssh";
/// What to do where XDG_RUNTIME_DIR names a directory that is not there, or is not this user's.
pub(super) const UNSET_RUNTIME_DIR: &str =
    "unset XDG_RUNTIME_DIR, or log in anew: the system makes that directory at the login";

/// Returns the daemon's directory, as text that is safe for a terminal.
pub(crate) fn state_dir() -> Option<String> {
    Env::from_process().state_dir().ok().map(|dir| shown(&dir))
}

/// Returns what to do about another daemon, on another socket, that keeps ours from starting: one that was started with
/// another XDG_RUNTIME_DIR, or none, as `su` and cron do.
fn other_daemon(reason: &str) -> Option<String> {
    let (_, other) = reason.split_once("another occd (process ")?;
    let (other, _) = other.split_once(") uses the state directory ")?;
    Some(match other.split_once(", on the socket ") {
        // Whoever removed it, or its directory, has left a daemon that nobody reaches.
        Some((_, socket)) if Path::new(socket).symlink_metadata().is_err() => {
            format!("its socket is gone: {RESTART}")
        }
        Some((_, socket)) => ways_to(socket),
        None => format!("kill {other} ends it"),
    })
}

/// Returns what has a daemon start, for the words with which it does not, where they alone tell. `then` starts it.
pub(crate) fn cure(said: &str, then: &str) -> Option<String> {
    if said.contains("HOME is ") {
        return Some(NO_HOME.to_owned());
    }
    let no_runtime_dir = || {
        let (_, rest) = said.split_once("nothing can be made in ")?;
        let (dir, _) = rest.split_once(": ")?;
        of_runtime_dir(Path::new(dir), then)
    };
    let in_place = in_the_way(said).or_else(|| of_own(said)).or_else(|| denied(said));
    let in_place = in_place.or_else(|| exposed(said)).or_else(|| anothers_way(said));
    in_place.map(|cure| and_then(cure, then)).or_else(no_runtime_dir).or_else(|| other_daemon(said))
}

/// Returns what has a directory of occ's own be used, for words that name it: the daemon's, or that of the settings, whose
/// files are to blame unless it is closed.
fn of_own(said: &str) -> Option<String> {
    let env = Env::from_process();
    let is_named = |dir: &PathBuf| said.contains(&shown(dir));
    let state = env.state_dir().ok().filter(is_named);
    let config = env.config_dir().ok().filter(|dir| is_named(dir) && is_out_of_reach(dir));
    let state = state.and_then(|dir| unusable(&dir, STATE_HOME));
    let unused = state.or_else(|| unusable(&config?, CONFIG_HOME))?;
    Some(unused.1)
}

/// Returns a cure, and what comes after it.
pub(crate) fn and_then(cure: String, then: &str) -> String {
    format!("{cure}, then: {then}")
}

/// Returns what to do about a directory of the socket in which nothing can be made.
pub(crate) fn cure_of(dir: &Path) -> String {
    of_runtime_dir(dir, START).unwrap_or_else(|| {
        of_own(&shown(dir)).map_or_else(
            || format!("ls -ld {0} {1}", shown(directory(dir)), shown(dir)),
            |cure| and_then(cure, START),
        )
    })
}

/// Returns the same where it is XDG_RUNTIME_DIR that names the directory: one of occ's own that is closed is opened, and
/// the others are the system's.
fn of_runtime_dir(dir: &Path, then: &str) -> Option<String> {
    let named = Env::from_process().xdg_runtime_dir.filter(|named| dir.starts_with(named))?;
    let own = rustix::process::geteuid().as_raw();
    let is_out_of_reach =
        |meta: std::fs::Metadata| meta.uid() == own && meta.mode() & 0o300 != 0o300;
    let closed = dir != named && std::fs::metadata(dir).is_ok_and(is_out_of_reach);
    Some(match closed {
        true => and_then(format!("chmod 700 {}", shell_word(&dir.to_string_lossy())), then),
        false => UNSET_RUNTIME_DIR.to_owned(),
    })
}

/// Returns how something is moved away that is in the place of a socket or a lock, if that is what the daemon says.
pub(crate) fn in_the_way(said: &str) -> Option<String> {
    let is_closed = said.contains(": Permission denied");
    // Nor can one of that kind be opened that root has made: the directory is ours, and it is for a process that is no more.
    let lock =
        said.split_once("could not open the lock ").and_then(|(_, rest)| rest.split_once(": "));
    if let Some((path, _)) = lock.filter(|(path, _)| Path::new(path).symlink_metadata().is_ok()) {
        let word = shell_word(path);
        return Some(format!("mv {word} {word}.old"));
    }
    let no_file = || said.split_once(" cannot be read and written: ").filter(|_| !is_closed);
    let (before, _) = said.split_once(" exists and is not a socket").or_else(no_file)?;
    let path = before.find('/').and_then(|start| before.get(start..))?;
    Some(format!("mv {} {}", shell_word(path), shell_word(&format!("{path}.old"))))
}

/// Returns how to use or end a daemon on another socket.
pub(crate) fn ways_to(socket: &str) -> String {
    format!("occ --socket {socket} uses that one; occ --socket {socket} daemon stop ends it")
}
