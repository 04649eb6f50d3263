//! `--eol lf`: line feeds at the ends of lines, as git's `text=auto` makes them.

use std::fs::File;
use std::io::{self, Read, Seek as _};

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

/// So much of a file's beginning tells whether it is a text: as much as git looks at.
const BEGINNING: usize = 8000;
/// Bytes of one read of a file.
const CHUNK: usize = 128 * 1024;

/// A file of many that comes in pieces of any length.
#[derive(Debug, Default)]
pub(crate) struct FileToLf {
    eol: ToLf,
    /// Its beginning, until that is long enough.
    beginning: Option<Vec<u8>>,
    is_begun: bool,
}

impl FileToLf {
    /// Returns the next piece as it is to be.
    pub(crate) fn take(&mut self, data: Vec<u8>) -> Vec<u8> {
        if self.is_begun {
            return self.eol.take(&data);
        }
        let beginning = self.beginning.get_or_insert_default();
        beginning.extend_from_slice(&data);
        if beginning.len() < BEGINNING {
            return Vec::new();
        }
        self.is_begun = true;
        self.eol.take(&self.beginning.take().unwrap_or_default())
    }

    /// Returns what is left at the end.
    pub(crate) fn rest(mut self) -> Vec<u8> {
        let mut out = self.eol.take(&self.beginning.take().unwrap_or_default());
        out.extend(self.eol.rest());
        out
    }
}

/// A text that is read as it is to be.
pub(crate) struct LfReader {
    file: File,
    eol: Option<FileToLf>,
    ready: Vec<u8>,
    /// What of it has been read.
    taken: usize,
}

impl LfReader {
    /// Returns one for a file, and how long it will be; nothing for one that stays as it is. The file is read once.
    pub(crate) fn of(file: &mut File) -> io::Result<Option<(Self, u64)>> {
        let mut reader = Self {
            file: file.try_clone()?,
            eol: Some(FileToLf::default()),
            ready: Vec::new(),
            taken: 0,
        };
        let long = io::copy(&mut reader, &mut io::sink())?;
        let length = file.stream_position()?;
        file.rewind()?;
        (reader.eol, reader.taken) = (Some(FileToLf::default()), 0);
        reader.ready.clear();
        Ok((long != length).then_some((reader, long)))
    }
}

impl Read for LfReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.ready.len() {
            let Some(mut eol) = self.eol.take() else { return Ok(0) };
            let mut data = vec![0; CHUNK];
            let count = self.file.read(&mut data)?;
            data.truncate(count);
            self.taken = 0;
            self.ready = match count {
                0 => eol.rest(),
                _ => {
                    let ready = eol.take(data);
                    self.eol = Some(eol);
                    ready
                }
            };
        }
        let count = buffer.len().min(self.ready.len() - self.taken);
        buffer[..count].copy_from_slice(&self.ready[self.taken..self.taken + count]);
        self.taken += count;
        Ok(count)
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

    #[test]
    fn a_file_is_a_text_by_its_beginning_however_it_comes() {
        let in_bytes = |data: &[u8]| {
            let mut eol = FileToLf::default();
            let mut out: Vec<u8> = data.iter().flat_map(|byte| eol.take(vec![*byte])).collect();
            out.extend(eol.rest());
            out
        };
        assert_eq!(in_bytes(b"a\r\nb\r"), b"a\nb\r");
        assert_eq!(in_bytes(b"a\r\nb\0"), b"a\r\nb\0");
        let long = b"0123456\r\n".repeat(20_000);
        assert_eq!(in_bytes(&long), b"0123456\n".repeat(20_000));
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, &long).unwrap();
        file.rewind().unwrap();
        let (mut reader, length) = LfReader::of(&mut file).unwrap().unwrap();
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        assert_eq!((read.len() as u64, read), (length, b"0123456\n".repeat(20_000)));
        file.set_len(7).unwrap();
        file.rewind().unwrap();
        assert!(LfReader::of(&mut file).unwrap().is_none());
        assert_eq!(file.stream_position().unwrap(), 0);
    }
}
