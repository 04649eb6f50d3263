//! The escape among what a person types to a program elsewhere.
//!
//! As with ssh(1), the escape character counts at the beginning of a line only: `~.` leaves, `~?` lists what there is, `~~`
//! sends the character itself.

use std::io::{self, Write as _};

use bytes::BytesMut;

/// The character that begins an escape; `~` unless another is named, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EscapeKey(Option<u8>);

impl EscapeKey {
    /// There is none: every key is sent.
    pub(crate) const NONE: Self = Self(None);
}

impl Default for EscapeKey {
    fn default() -> Self {
        Self(Some(b'~'))
    }
}

/// Reads `--escape`: one character, or `none`.
pub(crate) fn parse_escape(text: &str) -> Result<EscapeKey, String> {
    match text.as_bytes() {
        b"none" => Ok(EscapeKey::NONE),
        [byte] if byte.is_ascii_graphic() => Ok(EscapeKey(Some(*byte))),
        _ => Err("must be one ASCII character, or none".to_owned()),
    }
}

/// Finds the escape among keys.
#[derive(Debug)]
pub(crate) struct Escape {
    character: Option<u8>,
    /// What is typed comes line by line: it is the escape where nothing is behind it.
    by_lines: bool,
    at_line_start: bool,
    escaped: bool,
    report: Report,
}

/// How far into what the terminal itself says, asked by a program: that is no key, and a line begins behind it as before (xterm's
/// control sequences; ECMA-48, section 5.4 and 5.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Report {
    None,
    /// Behind the escape character of the code.
    Begun,
    /// A control sequence: a report, or a key.
    Sequence,
    /// A string, up to its terminator.
    String,
}

impl Escape {
    pub(crate) fn new(EscapeKey(character): EscapeKey) -> Self {
        let (by_lines, report) = (false, Report::None);
        Self { character, by_lines, at_line_start: true, escaped: false, report }
    }

    /// Returns the same for what a terminal collects until a line is whole.
    pub(crate) fn by_lines(key: EscapeKey) -> Self {
        Self { by_lines: true, ..Self::new(key) }
    }

    /// Adds what of `typed` is to be sent to `buffer`, and shows what there is where that is asked for. Returns whether the
    /// person leaves: what was typed behind that is for nobody.
    pub(crate) fn pass(&mut self, typed: &[u8], buffer: &mut BytesMut) -> bool {
        let mut rest = typed.iter().copied().peekable();
        while let Some(byte) = rest.next() {
            if std::mem::take(&mut self.escaped) {
                let is_alone = !self.by_lines || rest.peek().is_none_or(|next| *next == b'\n');
                match byte {
                    b'.' if is_alone => return true,
                    b'?' if is_alone => {
                        help();
                        self.at_line_start = true;
                        // The end of that line is none of the program's.
                        rest.next_if(|_| self.by_lines);
                        continue;
                    }
                    _ if Some(byte) == self.character => {}
                    _ => buffer.extend(self.character),
                }
            } else if self.begins_line() && Some(byte) == self.character {
                self.escaped = true;
                continue;
            }
            buffer.extend_from_slice(&[byte]);
            self.at_line_start = match byte {
                b'\r' | b'\n' => {
                    self.report = Report::None;
                    true
                }
                _ => self.at_line_start && self.is_reported(byte),
            };
        }
        false
    }

    /// Returns whether what is typed now is at the beginning of a line, and in nothing that the terminal says.
    fn begins_line(&self) -> bool {
        self.at_line_start && self.report == Report::None
    }

    /// Returns whether a byte may be, or is, part of what the terminal itself says.
    fn is_reported(&mut self, byte: u8) -> bool {
        const ESC: u8 = 0x1b;
        const BEL: u8 = 7;
        let (next, is_reported) = match (self.report, byte) {
            (Report::None | Report::String, ESC) => (Report::Begun, true),
            (Report::Begun, b'[') => (Report::Sequence, true),
            // DCS, OSC, PM, APC; and the end of one, ST.
            (Report::Begun, b'P' | b']' | b'^' | b'_') => (Report::String, true),
            (Report::Begun, b'\\') => (Report::None, true),
            // The last byte of a sequence. These are arrows and other keys; all others are reports.
            (Report::Sequence, b'A'..=b'H' | b'P'..=b'S' | b'Z' | b'u' | b'~') => {
                (Report::None, byte == b'R')
            }
            (Report::Sequence, 0x40..=0x7e) => (Report::None, true),
            (Report::String, BEL) => (Report::None, true),
            (Report::Sequence | Report::String, _) => (self.report, true),
            (Report::None | Report::Begun, _) => (Report::None, false),
        };
        self.report = next;
        is_reported
    }
}

fn help() {
    let text = "~?\r\n  ~.  leave: the program is hung up; a session's goes on\r\n  ~~  send the escape character\r\n  ~?  this\r\n";
    // A terminal that is gone shows in the reading.
    let _ = io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns what is sent, and whether it was left.
    fn typed(keys: &[u8], escape: EscapeKey) -> (Vec<u8>, bool) {
        let at_once = {
            let (mut escape, mut sent) = (Escape::new(escape), BytesMut::new());
            let left = escape.pass(keys, &mut sent);
            (sent.to_vec(), left)
        };
        let (mut escape, mut sent) = (Escape::new(escape), BytesMut::new());
        let left = keys.iter().any(|key| escape.pass(&[*key], &mut sent));
        assert_eq!((sent.to_vec(), left), at_once, "key by key");
        at_once
    }

    #[test]
    fn the_escape_counts_at_the_beginning_of_a_line() {
        for (keys, sent, left) in [
            (&b"~."[..], &b""[..], true),
            (b"ls\r~.x", b"ls\r", true),
            (b"a\n~.b", b"a\n", true),
            (b"cp ~.bak", b"cp ~.bak", false),
            (b"~~/x", b"~/x", false),
            (b"~~.\n", b"~.\n", false),
            (b"~/x", b"~/x", false),
            (b"~\r~.", b"~\r", true),
            (b"~?~.", b"", true),
            (b"\x03\x1a\x04\xff", b"\x03\x1a\x04\xff", false),
            // What the terminal says of itself is not typed: what it is, where its cursor is, its colours, its focus.
            (b"\x1b[?1;2c~.", b"\x1b[?1;2c", true),
            (
                b"\x1b[>84;0;0c\x1bP>|tmux 3.3a\x1b\\~.",
                b"\x1b[>84;0;0c\x1bP>|tmux 3.3a\x1b\\",
                true,
            ),
            (b"\r\x1b[12;40R\x1b[I~.", b"\r\x1b[12;40R\x1b[I", true),
            (b"\x1b]11;rgb:0/0/0\x07~.", b"\x1b]11;rgb:0/0/0\x07", true),
            (b"a\x1b[?1;2c~.", b"a\x1b[?1;2c~.", false),
            // Keys are.
            (b"\x1b[A~.", b"\x1b[A~.", false),
            (b"\x1bOA~.", b"\x1bOA~.", false),
            (b"\x1bb~.", b"\x1bb~.", false),
            (b"\x1b[3~~.", b"\x1b[3~~.", false),
            (b"\x1b]x\r~.", b"\x1b]x\r", true),
        ] {
            assert_eq!(typed(keys, EscapeKey::default()), (sent.to_vec(), left));
        }
    }

    #[test]
    fn of_a_whole_line_the_escape_is_all() {
        let typed = |text: &str| {
            let (mut escape, mut sent) = (Escape::by_lines(EscapeKey::default()), BytesMut::new());
            let left = escape.pass(text.as_bytes(), &mut sent);
            (String::from_utf8(sent.to_vec()).unwrap(), left)
        };
        assert_eq!(typed("~.\n"), (String::new(), true));
        assert_eq!(typed("~."), (String::new(), true));
        assert_eq!(typed("one\n~.\n"), ("one\n".into(), true));
        assert_eq!(typed("~.profile\n"), ("~.profile\n".into(), false));
        assert_eq!(typed("~?\ntwo\n"), ("two\n".into(), false));
        assert_eq!(typed("~?x\n"), ("~?x\n".into(), false));
        assert_eq!(typed("~~.\n"), ("~.\n".into(), false));
    }

    #[test]
    fn without_an_escape_every_key_is_sent() {
        assert_eq!(typed(b"~.", EscapeKey::NONE), (b"~.".to_vec(), false));
        assert_eq!(typed(b"~.%.", EscapeKey(Some(b'%'))), (b"~.%.".to_vec(), false));
    }
}
