//! Standard input in lines.

use std::io;

use bytes::{Bytes, BytesMut};

use crate::stdio::Input;

/// The longest line, in bytes: room for a file of 48 MiB in base64. Longer ones are sent in pieces.
const LONGEST: usize = 64 * 1024 * 1024;
/// How much is read at once.
const PIECE: usize = 64 * 1024;

/// What was read.
pub(super) enum Read {
    Line { number: u64, text: Bytes },
    TooLong { number: u64 },
    End,
}

/// The lines of standard input.
pub(super) struct Lines {
    input: Input,
    buffer: BytesMut,
    /// How much of the buffer has no end of a line.
    looked: usize,
    number: u64,
    /// The line is too long, and passed over.
    skips: bool,
    ended: bool,
}

impl Lines {
    pub(super) fn new(input: Input) -> Self {
        Self { input, buffer: BytesMut::new(), looked: 0, number: 0, skips: false, ended: false }
    }

    /// Returns the next line. Nothing is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> io::Result<Read> {
        loop {
            if let Some(end) = self.buffer[self.looked..].iter().position(|byte| *byte == b'\n') {
                let text = self.buffer.split_to(self.looked + end + 1).freeze();
                return Ok(self.line(text));
            }
            if self.ended {
                // What stands behind the last end of a line is one, too.
                return Ok(match self.buffer.is_empty() && !self.skips {
                    true => Read::End,
                    false => {
                        let text = self.buffer.split().freeze();
                        self.line(text)
                    }
                });
            }
            self.looked = self.buffer.len();
            if self.looked > LONGEST || self.skips {
                self.skips = true;
                self.buffer.clear();
                self.looked = 0;
            }
            self.buffer.reserve(PIECE);
            self.ended = self.input.read(&mut self.buffer).await? == 0;
        }
    }

    fn line(&mut self, text: Bytes) -> Read {
        self.looked = 0;
        self.number += 1;
        let number = self.number;
        if std::mem::take(&mut self.skips) || text.len() > LONGEST {
            Read::TooLong { number }
        } else {
            Read::Line { number, text }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(text: Vec<u8>) -> Vec<String> {
        let mut lines = Lines::new(Input::Kept(text.into()));
        let mut read = Vec::new();
        loop {
            match lines.next().await.unwrap() {
                Read::Line { number, text } => {
                    read.push(format!("{number}:{}", String::from_utf8_lossy(&text).trim_end()));
                }
                Read::TooLong { number } => read.push(format!("{number}: too long")),
                Read::End => return read,
            }
        }
    }

    #[tokio::test]
    async fn lines_are_numbered_and_long_ones_passed_over() {
        assert_eq!(all(b"a\n\nb".to_vec()).await, ["1:a", "2:", "3:b"]);
        assert_eq!(all(Vec::new()).await, Vec::<String>::new());
        let long = [vec![b'x'; LONGEST + PIECE], b"\nb\n".to_vec()].concat();
        // Not `assert_eq!`, which would show it.
        assert!(all(long).await == ["1: too long", "2:b"]);
    }
}
