//! Where a value begins and ends in a line for a shell: quotes, backslashes and substitutions as POSIX and bash read them
//! (POSIX.1-2024, XCU 2.2 and 2.6), as far as a guess needs them.

use std::ops::Range;

use super::is_option;

/// Programs to which `-c LINE` is a line.
const SHELLS: [&str; 10] =
    ["sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "fish", "su", "runuser"];

/// Returns where a value is that begins there: inside its quotes, else up to whatever ends a word of a shell or a query.
pub(super) fn value(text: &str, start: usize, is_line: bool) -> Range<usize> {
    let bytes = text.as_bytes();
    let mut at = start;
    while bytes.get(at) == Some(&b'\\') {
        at += 1;
    }
    if let Some(quote @ (b'"' | b'\'')) = bytes.get(at) {
        let from = at + 1;
        let mut end = from;
        while bytes.get(end).is_some_and(|byte| byte != quote) {
            // In quotes that are escaped themselves so is their end.
            let is_escape = bytes[end] == b'\\' && at == start && *quote == b'"';
            end += if is_escape { 2 } else { 1 };
        }
        let end = text.floor_char_boundary(end);
        let is_escaped = at > start && end > from && bytes.get(end - 1) == Some(&b'\\');
        return from..if is_escaped { end - 1 } else { end };
    }
    let ends = |byte: &u8| match is_line {
        true => b"\n\r\"'".contains(byte),
        false => byte.is_ascii_whitespace() || b"&;|,)}\"'`<>".contains(byte),
    };
    let end = bytes[start..].iter().position(ends);
    start..end.map_or(text.len(), |end| start + end)
}

/// Returns where a value is that begins there in a line for a shell, outside of quotes: up to the end of its word, which
/// quotes, backslashes and substitutions may hold together. Where it is in quotes as a whole, it is what is in them.
pub(super) fn word_of_shell(text: &str, start: usize) -> Range<usize> {
    let bytes = text.as_bytes();
    // What ends what is open, the innermost last; `$` stands for the end of `$'…'`.
    let (mut at, mut open) = (start, Vec::new());
    while let Some(byte) = bytes.get(at) {
        let before = if at > start { bytes[at - 1] } else { b' ' };
        match (open.last(), byte) {
            (Some(b'\''), b'\'') | (Some(b'$'), b'\'') => _ = open.pop(),
            (Some(b'\''), _) => {}
            (_, b'\\') => at += 1,
            (Some(b'$'), _) => {}
            (Some(end), _) if end == byte => _ = open.pop(),
            (_, b'"' | b'`') => open.push(*byte),
            (_, b'(') if before == b'$' || at == start => open.push(b')'),
            (Some(b')'), b'(') => open.push(b')'),
            (_, b'{') if before == b'$' => open.push(b'}'),
            (Some(b'"'), _) => {}
            (_, b'\'') if before == b'$' => open.push(b'$'),
            (_, b'\'') => open.push(b'\''),
            (None, _) if byte.is_ascii_whitespace() || b"&;|()<>".contains(byte) => break,
            _ => {}
        }
        at += 1;
    }
    let end = text.floor_char_boundary(at);
    let whole = value(text, start, false);
    if whole.start > start && whole.end + 1 == end { whole } else { start..end }
}

/// Returns the quote that is open where a text ends that is the beginning of a line for a shell, and where it was opened.
pub(super) fn open_quote(before: &str) -> Option<(u8, usize)> {
    let bytes = before.as_bytes();
    let (mut at, mut open) = (0, None);
    while let Some(byte) = bytes.get(at) {
        match (open, byte) {
            (None | Some((b'"', _)), b'\\') => at += 1,
            (Some((quote, _)), _) if quote == *byte => open = None,
            (None, b'"' | b'\'') => open = Some((*byte, at)),
            // A comment ends with its line.
            (None, b'#') if at == 0 || bytes[at - 1].is_ascii_whitespace() => {
                let line = bytes[at..].iter().position(|byte| *byte == b'\n');
                at = line.map_or(bytes.len(), |length| at + length);
            }
            _ => {}
        }
        at += 1;
    }
    open
}

/// Returns where the value of an assignment is in a line for a shell, whose name begins at `name`.
pub(super) fn value_of_assignment(text: &str, name: usize, start: usize) -> Range<usize> {
    match open_quote(&text[..name]) {
        None => word_of_shell(text, start),
        // A word that is an assignment, as env(1) takes it: but for what another shell is given.
        Some((quote, at)) if at + 1 == name && !text[..at].trim_end().ends_with("-c") => {
            let end = text[start..].find(char::from(quote));
            start..end.map_or(text.len(), |length| start + length)
        }
        Some(_) => value(text, start, false),
    }
}

/// Returns where what is assigned to ends, whose name ends there: `NAME[0]` and `NAME+` of an assignment in a shell do so
/// later.
pub(super) fn end_of_name(text: &str, end: usize) -> usize {
    let rest = &text[end..];
    let index = rest.strip_prefix('[').and_then(|rest| rest.find(']')).map_or(0, |at| at + 2);
    let plus = usize::from(rest[index..].starts_with("+="));
    if rest[index + plus..].starts_with('=') { end + index + plus } else { end }
}

/// Looks for the lines that shells are given, word by word: `sh -c LINE`.
#[derive(Debug, Default)]
pub(super) struct Shell {
    /// A shell was named.
    is_named: bool,
    /// The next word is its line.
    next: bool,
}

impl Shell {
    /// Returns whether a word is such a line: the first that is no option behind one with a `c`.
    pub(super) fn is_line(&mut self, word: &str) -> bool {
        if is_option(word) {
            let is_short = !word.starts_with("--");
            self.next |= self.is_named && is_short && word.contains('c');
            return false;
        }
        let base = word.rsplit('/').next().unwrap_or_default();
        self.is_named |= SHELLS.contains(&base);
        std::mem::take(&mut self.next)
    }
}
