//! `--eol lf`: line feeds at the ends of lines, as git's `text=auto` makes them.

/// Makes line feeds of the ends of lines that are two characters (CR LF). A carriage return alone stays, as with git: it ends
/// no line on any system of today. What has a NUL byte at its beginning is no text, and stays as it is.
#[derive(Debug, Default)]
pub(crate) struct ToLf {
    is_text: Option<bool>,
    /// The piece before ended with a carriage return.
    held: bool,
}

impl ToLf {
    /// Returns the next piece as it is to be.
    pub(crate) fn take(&mut self, data: &[u8]) -> Vec<u8> {
        if !*self.is_text.get_or_insert_with(|| !data.contains(&0)) {
            return data.to_vec();
        }
        let mut out = Vec::with_capacity(data.len() + 1);
        for &byte in data {
            if self.held && byte != b'\n' {
                out.push(b'\r');
            }
            self.held = byte == b'\r';
            if !self.held {
                out.push(byte);
            }
        }
        out
    }

    /// Returns what is left at the end.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        if std::mem::take(&mut self.held) { b"\r".to_vec() } else { Vec::new() }
    }

    /// Returns a whole text as it is to be.
    pub(crate) fn whole(text: &[u8]) -> Vec<u8> {
        let mut eol = Self::default();
        let mut out = eol.take(text);
        out.extend(eol.rest());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_characters_at_the_end_of_a_line_become_one() {
        let lf = |pieces: &[&[u8]]| {
            let mut eol = ToLf::default();
            let mut out: Vec<u8> = pieces.iter().flat_map(|piece| eol.take(piece)).collect();
            out.extend(eol.rest());
            out
        };
        assert_eq!(lf(&[b"a\r\nb\rc\n\r", b"\n\r"]), b"a\nb\rc\n\n\r");
        assert_eq!(lf(&[b"\r", b"\r", b"\n"]), b"\r\n");
        assert_eq!(lf(&[b"a\0\r\n", b"b\r\n"]), b"a\0\r\nb\r\n");
        assert_eq!(ToLf::whole(b"a\r\nb\r"), b"a\nb\r");
    }
}
