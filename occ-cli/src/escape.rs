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
    at_line_start: bool,
    escaped: bool,
}

impl Escape {
    pub(crate) fn new(EscapeKey(character): EscapeKey) -> Self {
        Self { character, at_line_start: true, escaped: false }
    }

    /// Adds what of `typed` is to be sent to `buffer`, and shows what there is where that is asked for. Returns whether the
    /// person leaves: what was typed behind that is for nobody.
    pub(crate) fn pass(&mut self, typed: &[u8], buffer: &mut BytesMut) -> bool {
        for byte in typed.iter().copied() {
            if std::mem::take(&mut self.escaped) {
                match byte {
                    b'.' => return true,
                    b'?' => {
                        help();
                        self.at_line_start = true;
                        continue;
                    }
                    _ if Some(byte) == self.character => {}
                    _ => buffer.extend(self.character),
                }
            } else if self.at_line_start && Some(byte) == self.character {
                self.escaped = true;
                continue;
            }
            self.at_line_start = matches!(byte, b'\r' | b'\n');
            buffer.extend_from_slice(&[byte]);
        }
        false
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
        ] {
            assert_eq!(typed(keys, EscapeKey::default()), (sent.to_vec(), left));
        }
    }

    #[test]
    fn without_an_escape_every_key_is_sent() {
        assert_eq!(typed(b"~.", EscapeKey::NONE), (b"~.".to_vec(), false));
        assert_eq!(typed(b"~.%.", EscapeKey(Some(b'%'))), (b"~.%.".to_vec(), false));
    }
}
