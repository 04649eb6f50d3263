//! Channels that a server refused. Its words reach the handler of the connection, and not who asked for the channel:
//! they are told where it is certain that they are about that one.

use std::sync::{Mutex, MutexGuard, PoisonError};

use occ_proto::text::sanitize;

/// Characters of a server's words that are kept.
const MAX_WORDS: usize = 200;

/// The refusals of one connection.
#[derive(Debug, Default)]
pub(super) struct RefusedChannels(Mutex<Refusals>);

#[derive(Debug, Default)]
struct Refusals {
    count: u64,
    /// What the server said last, safe to print.
    words: String,
    /// The first refusal since which it has said nothing else.
    since: u64,
}

impl RefusedChannels {
    fn lock(&self) -> MutexGuard<'_, Refusals> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a refusal and what the server said to it.
    pub(super) fn note(&self, description: &str) {
        let words: String = sanitize(description.trim()).chars().take(MAX_WORDS).collect();
        let mut refusals = self.lock();
        refusals.count += 1;
        if refusals.words != words {
            (refusals.words, refusals.since) = (words, refusals.count);
        }
    }

    /// Returns how many there were.
    pub(super) fn count(&self) -> u64 {
        self.lock().count
    }

    /// Returns what the server said to one that was none of the first `before`; nothing if it has said different
    /// things since, of which any could be meant.
    pub(super) fn words_since(&self, before: u64) -> Option<String> {
        let refusals = self.lock();
        let is_clear = refusals.count > before && refusals.since <= before + 1;
        (is_clear && !refusals.words.is_empty()).then(|| refusals.words.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_told_only_where_they_can_be_of_no_other() {
        let refused = RefusedChannels::default();
        assert_eq!(refused.words_since(0), None);
        refused.note("Connection refused\u{1b}[31m");
        let words = refused.words_since(0).unwrap();
        assert!(words.starts_with("Connection refused") && !words.contains('\u{1b}'), "{words:?}");
        assert_eq!(refused.words_since(1), None, "that was before");
        refused.note("No route to host");
        assert_eq!(refused.words_since(0), None, "it may be either");
        refused.note("No route to host");
        assert_eq!(refused.words_since(1).as_deref(), Some("No route to host"));
    }
}
