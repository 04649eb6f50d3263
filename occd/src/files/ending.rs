//! Where the output of a script of ours ends, and how it ended.
//!
//! A server may have every command in a program that says something when it is over (`ForceCommand`), or that has an exit
//! status of its own. So a script says last that it is over and how, by a word that nobody else knows: the output may be
//! a file of any bytes. What comes behind it is passed over. What comes before the output is `Preamble`'s.

use bytes::{Bytes, BytesMut};

/// What a script with an end begins with, and what comes behind it. Its first argument is its word, and none of its own.
pub(super) const BEGIN: &str = "end=$1; shift; (\n";
pub(super) const END: &str = "\n); r=$?; printf \"\\001occ-end %s %s\\n\" \"$end\" $r; exit $r";
/// The first byte of the line with the word. It is no line feed: what may begin the end is held back, and whoever waits for
/// a line must not wait for what comes behind it.
const FIRST: u8 = 1;
/// How many digits are behind the word at most: no status has more.
const DIGITS: usize = 3;

/// The end of one script's output.
#[derive(Debug)]
pub(super) struct Ending {
    word: String,
    /// What its line begins with.
    mark: Vec<u8>,
    /// What may be the beginning of that line.
    held: BytesMut,
    status: Option<u8>,
}

impl Ending {
    /// Returns the end of a script that has not begun.
    pub(super) fn new() -> Self {
        let word = format!("{:016x}", fastrand::u64(..));
        let mark = mark(&word);
        Self { word, mark, held: BytesMut::new(), status: None }
    }

    /// Returns the word that the script is given.
    pub(super) fn word(&self) -> &str {
        &self.word
    }

    /// Returns what the script exited with, once it has said so.
    pub(super) fn status(&self) -> Option<u8> {
        self.status
    }

    /// Passes output on, and drops what comes behind the end. What it returns is not empty.
    pub(super) fn pass(&mut self, data: Bytes) -> Option<Bytes> {
        if self.status.is_some() {
            return None;
        }
        // Nothing is copied but what comes with the end.
        let data = match self.held.is_empty() {
            true => data,
            false => {
                self.held.extend_from_slice(&data);
                self.held.split().freeze()
            }
        };
        let mut at = 0;
        let end = loop {
            let Some(found) = data[at..].iter().position(|byte| *byte == FIRST) else {
                break data.len();
            };
            at += found;
            match self.read(&data[at..]) {
                Line::Other => at += 1,
                Line::Begun => {
                    self.held.extend_from_slice(&data[at..]);
                    break at;
                }
                Line::End(status) => {
                    self.status = Some(status);
                    break at;
                }
            }
        };
        (end > 0).then(|| data.slice(..end))
    }

    /// Reads what begins as the line with the word does.
    fn read(&self, data: &[u8]) -> Line {
        let Some(behind) = data.strip_prefix(&self.mark[..]) else {
            return if self.mark.starts_with(data) { Line::Begun } else { Line::Other };
        };
        let digits = behind.iter().take_while(|byte| byte.is_ascii_digit()).count();
        match behind.get(digits) {
            None if digits <= DIGITS => Line::Begun,
            Some(b'\n') => {
                let status = std::str::from_utf8(&behind[..digits]).ok();
                status.and_then(|text| text.parse().ok()).map_or(Line::Other, Line::End)
            }
            _ => Line::Other,
        }
    }
}

fn mark(word: &str) -> Vec<u8> {
    let mut mark = vec![FIRST];
    mark.extend_from_slice(format!("occ-end {word} ").as_bytes());
    mark
}

/// What a part of the output is.
enum Line {
    /// That alone.
    Other,
    /// Perhaps the end: what has come of it begins so.
    Begun,
    /// The end, with the exit status.
    End(u8),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_ends_at_the_word_however_it_is_cut() {
        for output in [&b""[..], b"\n", b"file\x01\x01occ-end 0 0\nocc-end", b"\xff\0\x01occ-end "]
        {
            let word = Ending::new().word;
            let end = [mark(&word), b"98\nbye\n".to_vec(), mark(&word), b"0\n".to_vec()].concat();
            let whole = [output, &end].concat();
            for step in 1..=whole.len() {
                let mark = mark(&word);
                let mut ending =
                    Ending { word: word.clone(), mark, held: BytesMut::new(), status: None };
                let parts = whole.chunks(step).map(Bytes::copy_from_slice);
                let passed: Vec<Bytes> = parts.filter_map(|part| ending.pass(part)).collect();
                assert_eq!(passed.concat(), output, "{step}");
                assert!(passed.iter().all(|part| !part.is_empty()));
                assert_eq!(ending.status(), Some(98));
            }
        }
        // A line that is waited for comes at once.
        let line = Ending::new().pass(Bytes::from_static(b"ok\n"));
        assert_eq!(line.as_deref(), Some(&b"ok\n"[..]));
    }

    #[test]
    fn a_shell_says_how_it_ended() {
        let mut ending = Ending::new();
        let script = [BEGIN, "printf '%s' \"$1\"; exit 7", END].concat();
        let args = ["-c", &script, "sh", ending.word(), "it"];
        let output = std::process::Command::new("sh").args(args).output().unwrap();
        assert_eq!(ending.pass(output.stdout.into()).as_deref(), Some(&b"it"[..]));
        assert_eq!(ending.status(), Some(7));
    }
}
