//! What a login shell's start-up files print before a script of ours begins.
//!
//! A server has a login shell run whatever it is asked, and that may print a greeting first, which is then a part of the output;
//! or the server has one program for whatever it is asked (`ForceCommand`, a login shell that is none). So each script of ours
//! says a word first: what comes before it is passed over, and where it does not come, nothing of ours runs.

use bytes::{Buf as _, Bytes, BytesMut};

/// The shell's words for `say`, which a script says its word with. They have no single quote and no `!`, so that they reach `sh`
/// unchanged through every login shell.
pub(crate) const SAY: &str = "say() { echo; echo \"occ-script $1\"; }; ";
/// What is before the word. Servers do not say it by chance, even if they repeat what they were asked, as no line of a script
/// begins so. Nothing is gained by one that cannot be guessed: a host that wants to lie has the script.
const MARK: &[u8] = b"\nocc-script ";
/// The most bytes that come before the word is whole.
const LIMIT: usize = 1024 * 1024;
/// What is shown of what came in its place, in characters.
const SHOWN: usize = 200;

/// What comes before the word.
#[derive(Debug, Default)]
pub(crate) struct Preamble {
    before: BytesMut,
    is_over: bool,
}

/// More came than any greeting is.
#[derive(Debug)]
pub(crate) struct TooLong;

impl Preamble {
    /// Takes output before the word. Returns the word and what came behind it, once it has come.
    pub(crate) fn word(&mut self, data: &[u8]) -> Result<Option<(String, Bytes)>, TooLong> {
        if self.before.len() > LIMIT {
            return Err(TooLong);
        }
        // The mark may have come in two parts.
        let known = self.before.len().saturating_sub(LONGEST_WORD);
        self.before.extend_from_slice(data);
        let Some((word, behind)) = find(&self.before[known..]) else { return Ok(None) };
        self.is_over = true;
        self.before.advance(known + behind);
        Ok(Some((word, std::mem::take(&mut self.before).freeze())))
    }

    /// Passes the script's own output on, and drops what comes before it. What it returns is not empty.
    pub(crate) fn pass(&mut self, data: Bytes) -> Result<Option<Bytes>, TooLong> {
        if self.is_over {
            return Ok(Some(data));
        }
        let word = self.word(&data)?;
        Ok(word.map(|(_, behind)| behind).filter(|behind| !behind.is_empty()))
    }

    /// Returns whether the script has begun.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Returns what has come instead of the word.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.before).trim().chars().take(SHOWN).collect()
    }
}

/// The longest mark with its word and the line's end.
const LONGEST_WORD: usize = 128;

/// Returns the word and where it ends.
fn find(data: &[u8]) -> Option<(String, usize)> {
    let start = data.windows(MARK.len()).position(|part| part == MARK)? + MARK.len();
    let length = data[start..].iter().position(|byte| *byte == b'\n')?;
    let word = String::from_utf8_lossy(&data[start..start + length]).into_owned();
    Some((word, start + length + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_is_found_however_the_output_is_cut() {
        let whole = b"Welcome!\nocc-script\nno newline\nocc-script go\nocc-script not\n\0rest";
        for step in 1..whole.len() {
            let mut preamble = Preamble::default();
            let mut parts = whole.chunks(step);
            let word = parts.find_map(|part| preamble.word(part).unwrap());
            let (word, behind) = word.expect("the word has come");
            assert_eq!(word, "go");
            let rest: Vec<u8> = behind.iter().chain(parts.flatten()).copied().collect();
            assert_eq!(rest, b"occ-script not\n\0rest");
            let mut preamble = Preamble::default();
            let parts = whole.chunks(step).map(Bytes::copy_from_slice);
            let passed: Vec<Bytes> =
                parts.filter_map(|part| preamble.pass(part).unwrap()).collect();
            assert_eq!(passed.concat(), rest);
            assert!(preamble.is_over() && passed.iter().all(|part| !part.is_empty()));
        }
    }

    #[test]
    fn what_comes_without_a_word_is_bounded_and_told() {
        let mut preamble = Preamble::default();
        assert!(preamble.word(b"This account is not available.\n").unwrap().is_none());
        assert_eq!(preamble.text(), "This account is not available.");
        let flood = [b'x'; 4096];
        assert!((0..).any(|_| preamble.word(&flood).is_err()));
        assert!(preamble.before.len() <= LIMIT + flood.len());
    }

    #[test]
    fn a_shell_says_the_word() {
        let script = [SAY, "say there; echo more"].concat();
        let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        let (word, rest) = Preamble::default().word(&output.stdout).unwrap().unwrap();
        assert_eq!((word.as_str(), &rest[..]), ("there", &b"more\n"[..]));
    }
}
