//! `exec --json`: the whole of a command as one document, with the daemon's limits.

use std::collections::VecDeque;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use occ_proto::exec::{ExecResult, Exit, RESULT_LIMIT};

/// The head and the tail of a stream, each half of [`RESULT_LIMIT`].
#[derive(Debug, Default)]
pub(crate) struct Kept {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
}

impl Kept {
    /// Adds bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        const HALF: usize = RESULT_LIMIT / 2;
        self.total += bytes.len() as u64;
        let (to_head, rest) = bytes.split_at(bytes.len().min(HALF - self.head.len()));
        self.head.extend_from_slice(to_head);
        // Of a long piece only its end can stay.
        let rest = &rest[rest.len().saturating_sub(HALF)..];
        self.tail.extend(rest);
        let excess = self.tail.len().saturating_sub(HALF);
        self.tail.drain(..excess);
    }

    /// Returns the stream as text or in base64, all its bytes' number, and whether any is missing.
    fn finish(self) -> (Option<String>, Option<String>, u64, bool) {
        let truncated = self.total > (self.head.len() + self.tail.len()) as u64;
        let mut bytes = self.head;
        bytes.extend(self.tail);
        match String::from_utf8(bytes) {
            Ok(text) => (Some(text), None, self.total, truncated),
            Err(error) => (None, Some(STANDARD.encode(error.as_bytes())), self.total, truncated),
        }
    }
}

/// Returns the document.
pub(crate) fn result(exit: Exit, out: Kept, err: Kept, new_host_key: Option<String>) -> ExecResult {
    let (stdout, stdout_b64, stdout_bytes, cut_out) = out.finish();
    let (stderr, stderr_b64, stderr_bytes, cut_err) = err.finish();
    ExecResult {
        exit,
        stdout,
        stdout_b64,
        stderr,
        stderr_b64,
        truncated: cut_out || cut_err,
        stdout_bytes,
        stderr_bytes,
        new_host_key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_and_tail_stay_and_the_middle_goes() {
        let mut kept = Kept::default();
        kept.push(b"first");
        for _ in 0..40 {
            kept.push(&[b'x'; 100_000]);
        }
        kept.push(b"last");
        let (text, _, total, truncated) = kept.finish();
        let text = text.unwrap();
        assert!(truncated && text.starts_with("firstx") && text.ends_with("xlast"));
        assert_eq!((text.len(), total), (RESULT_LIMIT, 4_000_009));
    }

    #[test]
    fn exactly_the_limit_is_whole_and_other_bytes_are_base64() {
        let mut kept = Kept::default();
        kept.push(&vec![b'x'; RESULT_LIMIT]);
        assert!(!kept.finish().3);
        let mut kept = Kept::default();
        kept.push(b"\xff");
        assert_eq!(kept.finish().1.unwrap(), "/w==");
    }
}
