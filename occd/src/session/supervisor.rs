//! The scripts that run on a host, each as one line that every login shell passes on unchanged.
//!
//! They are kept readable in `sh/`; [`one_line`] makes a line of them. It has no line feed, which csh would want
//! escaped, and no `!`, which it would expand. Nothing is installed on the host: each request brings its script. Only
//! the supervisor is written there, into the directory of its session, so that a list of processes shows its
//! path and not its text.
//!
//! They use what POSIX has, and beyond that `head -c`, `ls -n` and, where it is there, a `sleep` that knows parts of a
//! second: GNU, BSD and busybox have all of them.

use std::sync::LazyLock;

/// What all of them share.
const COMMON: &str = include_str!("sh/common.sh");

/// Starts a session.
pub(super) static START: LazyLock<String> = LazyLock::new(|| script(include_str!("sh/start.sh")));
/// Runs a session's program; [`START`] gets it as an argument.
pub(super) static RUN: LazyLock<String> = LazyLock::new(|| script(include_str!("sh/run.sh")));
/// Runs a program in a terminal; it is what [`RUN`] runs then.
pub(super) static TTY: LazyLock<String> = LazyLock::new(|| one_line(&[include_str!("sh/tty.sh")]));
/// Sends a session's output.
pub(super) static FOLLOW: LazyLock<String> = LazyLock::new(|| script(include_str!("sh/follow.sh")));
/// Takes a session's input.
pub(super) static INPUT: LazyLock<String> = LazyLock::new(|| script(include_str!("sh/input.sh")));
/// Tells of sessions.
pub(super) static LIST: LazyLock<String> = LazyLock::new(|| script(include_str!("sh/list.sh")));
/// Tells whether sessions have ended.
pub(super) static STATES: LazyLock<String> = LazyLock::new(|| script(include_str!("sh/states.sh")));
/// Signals a session's program.
pub(super) static SIGNAL: LazyLock<String> = LazyLock::new(|| script(include_str!("sh/signal.sh")));
/// Removes a session that has ended.
pub(super) static REMOVE: LazyLock<String> = LazyLock::new(|| script(include_str!("sh/remove.sh")));

fn script(own: &str) -> String {
    one_line(&[COMMON, own])
}

/// Returns scripts as one line: without comments, which stand on lines of their own, and with `;` where a line ends and
/// the grammar wants it. A script has no here-documents, no strings over several lines, no line that goes on behind a
/// `\`, and what is done in a case stands on the line of its pattern.
fn one_line(scripts: &[&str]) -> String {
    let lines = scripts.iter().flat_map(|script| script.lines()).map(str::trim);
    let mut line = String::new();
    for next in lines.filter(|next| !next.is_empty() && !next.starts_with('#')) {
        if !line.is_empty() {
            line.push_str(if takes_no_semicolon(&line) { " " } else { "; " });
        }
        line.push_str(next);
    }
    line
}

/// Returns whether a command may not end here (POSIX shell grammar, `linebreak`), or has ended.
fn takes_no_semicolon(line: &str) -> bool {
    let word = line.rsplit(' ').next().unwrap_or_default();
    word.ends_with(";;")
        || ["do", "then", "else", "{", "(", "in", "&", "&&", "||", "|"].contains(&word)
}

#[cfg(test)]
mod tests;
