//! Searching files for a pattern: by the host's `rg`, else by its `grep`.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::{Buf as _, BytesMut};
use occ_proto::exec::STDOUT;
use occ_proto::files::FileKind;
use occ_proto::files_follow::SearchEvent;
use occ_proto::text::sanitize;

use super::script::{Script, arg, keep};
use super::{FileError, FileSystem, Shown, split};
use crate::exec::{Executor, Running, Step};
use crate::prompts::Client;

/// `$1` is the directory, `$2` the file or `.`, `$3` the pattern, `$4` `i` where case does not matter, `$5` `F` where the
/// pattern is a text; the rest are globs. Each line comes as path, NUL, number, colon, (with rg: column, colon,) text. A grep
/// that knows no `-Z` gets one file after the other.
const SCRIPT: &str = r#"LC_ALL=C; export LC_ALL
cd "$1" || { say closed; exit; }; at=$2 pattern=$3 i=${4:+-i} f=${5:+-F}; shift 5
if command -v rg >/dev/null 2>&1; then
  say rg
  for g; do set -- "$@" -g "$g"; shift; done
  exec rg --null --line-number --column --no-heading --color never --no-messages --no-config -H --sort path $i $f "$@" -e "$pattern" -- "$at"
fi
command -v grep >/dev/null 2>&1 || { say none; exit; }
if grep -V 2>/dev/null | grep -q '(GNU grep)'; then
  say grep
  for g; do
    case $g in '!'*) set -- "$@" "--exclude=${g#!}" "--exclude-dir=${g#!}";; *) set -- "$@" "--include=$g";; esac
    shift
  done
  exec grep -rnHIZs --exclude-dir=.git $i ${f:-'-E'} "$@" -e "$pattern" -- "$at"
fi
say grep-each
find "$at" -type f -exec sh -c 'pattern=$1 i=$2 f=$3 n=$4; shift 4
  while [ "$n" -gt 0 ]; do globs="$globs
$1"; shift; n=$((n - 1)); done
  IFS="
"; set -f
  for file; do
    name=${file##*/}; any= ok=
    for g in $globs; do case $g in
      "!"*) g=${g#!}; case $name in $g) continue 2;; esac;;
      *) any=1; case $name in $g) ok=1;; esac;;
    esac; done
    [ -z "$any" ] || [ -n "$ok" ] || continue
    found=$(grep -n $i $f -e "$pattern" "$file" 2>/dev/null) && printf "%s\0%s\n\0" "$file" "$found"
  done' sh "$pattern" "$i" "${f:-"-E"}" $# "$@" {} +
exit 0"#;

/// The most bytes of a line that are told.
const TEXT: usize = 1000;
/// So many of them, in bytes, are from before the match, where the line is longer.
const BEFORE: usize = 200;
/// The longest line that is kept, in bytes; of a longer one the rest is passed over.
const LONGEST: usize = 4 * 1024 * 1024;
/// The most lines that are found, unless less is asked for.
const MOST: u64 = 10_000;

/// What is searched for.
#[derive(Debug, Clone, Default)]
pub struct SearchWish {
    /// A regular expression, in the program's own language.
    pub pattern: String,
    /// It is no expression, but the text itself.
    pub literal: bool,
    /// Letters match in either case.
    pub ignore_case: bool,
    /// Names of files that are searched; those behind `!` are not.
    pub globs: Vec<String>,
    /// So many lines at most.
    pub limit: Option<u64>,
}

/// A search. Dropping it ends it.
pub struct Search {
    running: Running,
    wish: SearchWish,
    buffer: BytesMut,
    said: Vec<u8>,
    by: By,
    /// The file whose line comes, or whose lines, where each comes by itself.
    file: Option<Vec<u8>>,
    /// What comes is the rest of a line that was too long.
    skipping: bool,
    matches: u64,
    told: VecDeque<SearchEvent>,
    over: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Rg,
    Grep,
    Each,
}

impl By {
    /// Returns the program's name.
    fn name(self) -> &'static str {
        match self {
            Self::Rg => "rg",
            Self::Grep | Self::Each => "grep",
        }
    }
}

impl std::fmt::Debug for Search {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Search").field("wish", &self.wish).finish_non_exhaustive()
    }
}

impl Search {
    /// Begins to search a directory, or a file.
    ///
    /// # Errors
    /// When it is not there, or the host has neither program.
    pub async fn begin(
        fs: &FileSystem,
        executor: &Executor,
        path: &[u8],
        wish: SearchWish,
        client: &Client,
    ) -> Result<Self, FileError> {
        let attrs = fs.stat(path, true).await?;
        let (dir, at) = match attrs.kind {
            FileKind::Directory => (path, &b"."[..]),
            _ => split(path)?,
        };
        let flag = |is: bool, letter: &str| if is { letter.into() } else { "".into() };
        let (case, text) = (flag(wish.ignore_case, "i"), flag(wish.literal, "F"));
        let globs = wish.globs.iter().map(|glob| glob.as_str().into());
        let args = [arg(dir), arg(at), wish.pattern.as_str().into(), case, text];
        let begun = Script::begin(executor, SCRIPT, args.into_iter().chain(globs), client).await;
        let script = begun.map_err(|error| error.about(path))?;
        let by = match script.word.as_str() {
            "rg" => By::Rg,
            "grep" => By::Grep,
            "grep-each" => By::Each,
            "closed" => return Err(FileError::Permission(Shown::of(path))),
            _ => {
                let why = "there is neither rg nor grep".into();
                return Err(FileError::Failed(Shown::of(path), why));
            }
        };
        let Script { running, output, said, .. } = script;
        let buffer = BytesMut::from(output);
        // rg reads standard input where it is told of no path, which it is.
        let _ = running.control().close_input().await;
        let (file, matches, told) = (None, 0, VecDeque::new());
        let (skipping, over) = (false, false);
        Ok(Self { running, wish, buffer, said, by, file, skipping, matches, told, over })
    }

    /// Returns whether it opens what is in the directory by paths, and not from within as GNU's grep does.
    pub fn goes_by_paths(&self) -> bool {
        self.by != By::Grep
    }

    fn limit(&self) -> u64 {
        self.wish.limit.unwrap_or(MOST)
    }

    /// Returns what comes next; nothing when it is over.
    pub async fn next(&mut self) -> Option<SearchEvent> {
        loop {
            if let Some(event) = self.told.pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            while let Some(found) = self.take() {
                if self.matches == self.limit() {
                    self.running.control().cancel();
                    self.done(true, None);
                    break;
                }
                self.matches += 1;
                self.told.push_back(found);
            }
            if !self.told.is_empty() {
                continue;
            }
            match self.running.next().await {
                Step::Output(frame) if frame.stream() == STDOUT => {
                    self.buffer.extend_from_slice(&frame.data());
                }
                Step::Output(frame) => keep(&mut self.said, &frame.data()),
                // 1 is that nothing was found.
                Step::Ended(Ok(exit)) if exit.status() <= 1 => self.done(false, None),
                Step::Ended(Ok(exit)) => {
                    let said = String::from_utf8_lossy(&self.said);
                    let line = said.lines().map(str::trim).rfind(|line| !line.is_empty());
                    let line = line.map_or_else(|| self.ended_with(exit.status()), sanitize);
                    match self.matches {
                        0 => self.fail(line),
                        // What can be read was searched.
                        _ => self.done(false, Some(line)),
                    }
                }
                Step::Ended(Err(error)) => self.fail(crate::ssh::error::chain(&error)),
            }
        }
    }

    fn fail(&mut self, reason: String) {
        self.told.push_back(SearchEvent::Failed { reason, code: None });
        self.over = true;
    }

    fn done(&mut self, limited: bool, trouble: Option<String>) {
        let (matches, by) = (self.matches, self.by.name().to_owned());
        self.told.push_back(SearchEvent::Done { matches, limited, by, trouble });
        self.over = true;
    }

    /// Returns the trouble of a program that says none: both are told not to name the files that they cannot read.
    fn ended_with(&self, status: u8) -> String {
        let by = self.by.name();
        match status {
            2 => format!("some of it could not be read ({by} ended with 2)"),
            _ => format!("{by} ended with {status}"),
        }
    }

    /// Takes what comes before a byte, and that, out of what has come. Of what is too long the beginning is taken, and the rest of
    /// its line is passed over.
    fn take_until(&mut self, byte: u8) -> Option<BytesMut> {
        if let Some(end) = self.buffer.iter().position(|found| *found == byte) {
            let taken = self.buffer.split_to(end);
            self.buffer.advance(1);
            return Some(taken);
        }
        self.skipping = self.buffer.len() > LONGEST;
        self.skipping.then(|| self.buffer.split())
    }

    /// Takes the next line out of what has come.
    fn take(&mut self) -> Option<SearchEvent> {
        loop {
            if self.skipping {
                let end = self.buffer.iter().position(|byte| *byte == b'\n');
                self.buffer.advance(end.map_or(self.buffer.len(), |end| end + 1));
                self.skipping = end.is_none();
                end?;
            }
            // The lines of a file by itself end by a NUL byte.
            if self.file.is_some() && self.by == By::Each && self.buffer.first() == Some(&0) {
                self.buffer.advance(1);
                self.file = None;
            }
            let Some(path) = self.file.take() else {
                let path = self.take_until(0)?;
                // No path is so long.
                self.file = (!self.skipping).then(|| path.to_vec());
                continue;
            };
            let line = self.take_until(b'\n');
            let found = line.as_ref().and_then(|line| self.found(&path, line));
            if line.is_none() || self.by == By::Each {
                self.file = Some(path);
            }
            line?;
            if found.is_some() {
                return found;
            }
        }
    }

    fn found(&self, path: &[u8], line: &[u8]) -> Option<SearchEvent> {
        let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<u64>().ok();
        let mut parts = line.splitn(if self.by == By::Rg { 3 } else { 2 }, |b| *b == b':');
        let line = number(parts.next()?)?;
        let (column, text) = match self.by {
            By::Rg => (Some(number(parts.next()?)?), parts.next()?),
            By::Grep | By::Each => {
                let text = parts.next()?;
                (self.wish.literal.then(|| self.column(text)).flatten(), text)
            }
        };
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let at =
            column.map(|column| usize::try_from(column.saturating_sub(1)).unwrap_or(usize::MAX));
        let at = at.or_else(|| (text.len() > TEXT).then(|| self.likely(text)).flatten());
        let piece = piece(text, at.unwrap_or(0));
        let text_column = (piece.start > 0).then_some(piece.start as u64 + 1);
        let text = text[piece].to_vec().into();
        let path = path.strip_prefix(b"./").unwrap_or(path).to_vec().into();
        Some(SearchEvent::Match { path, line, column, text_column, text })
    }

    /// Returns where a text is in a line, which grep does not tell.
    fn column(&self, text: &[u8]) -> Option<u64> {
        Some(self.place(text, self.wish.pattern.as_bytes())? as u64 + 1)
    }

    /// Returns where in a line an expression may match: where the longest text that it has is. To know, it would have to be
    /// understood as grep understands it.
    fn likely(&self, text: &[u8]) -> Option<usize> {
        let plain = |c: char| c.is_alphanumeric() || matches!(c, ' ' | '_' | '-' | ':' | '=' | '/');
        let mut texts: Vec<&str> = self.wish.pattern.split(|c| !plain(c)).collect();
        texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
        texts
            .into_iter()
            .filter(|wanted| !wanted.is_empty())
            .find_map(|wanted| self.place(text, wanted.as_bytes()))
    }

    fn place(&self, text: &[u8], wanted: &[u8]) -> Option<usize> {
        let same = |part: &[u8]| match self.wish.ignore_case {
            true => part.eq_ignore_ascii_case(wanted),
            false => part == wanted,
        };
        text.windows(wanted.len().max(1)).position(same)
    }
}

/// Returns what of a line is told, if the match begins at a byte of it: no character of UTF-8 is cut.
fn piece(text: &[u8], at: usize) -> Range<usize> {
    if text.len() <= TEXT {
        return 0..text.len();
    }
    // No character has more than three bytes that go on with it; what is no UTF-8 is cut where it comes.
    let goes_on = |at: &usize| text.get(*at).is_some_and(|byte| byte & 0xc0 == 0x80);
    let begin = at.saturating_sub(BEFORE).min(text.len() - TEXT);
    let begin = (begin..begin + 4).find(|at| !goes_on(at)).unwrap_or(begin);
    let end = (begin + TEXT).min(text.len());
    let end = (end - 3..=end).rev().find(|at| !goes_on(at)).unwrap_or(end);
    begin..end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_a_line_has_the_match_in_it_and_whole_characters() {
        assert_eq!(piece(b"short", 3), 0..5);
        for wide in ["x", "\u{e4}", "\u{20ac}", "\u{1f600}"] {
            let text = format!("{}needle{}", wide.repeat(3000), wide.repeat(3000));
            for (at, wanted) in [(0, &wide), (wide.len() * 3000, &"needle")] {
                let piece = std::str::from_utf8(&text.as_bytes()[piece(text.as_bytes(), at)]);
                assert!(piece.unwrap().contains(wanted) && piece.unwrap().len() <= TEXT, "{wide}");
            }
            let end = piece(text.as_bytes(), text.len() - 1);
            assert_eq!(end.end, text.len());
        }
        // What is no UTF-8 is told as well.
        assert_eq!(piece(&[0x80; 5000], 4000).len(), TEXT);
    }
}
