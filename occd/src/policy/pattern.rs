//! Patterns of rules: `*` stands for any bytes, `?` for one, everything else for itself.

use serde::{Deserialize, Deserializer};

use occ_proto::wildcard;

/// A pattern, which has to fit as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Returns the pattern that is written so.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns it as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether it fits whatever there is.
    pub fn is_anything(&self) -> bool {
        !self.0.is_empty() && self.0.bytes().all(|byte| byte == b'*')
    }

    /// Returns whether it fits.
    pub fn fits(&self, text: &[u8]) -> bool {
        wildcard::matches(self.0.as_bytes(), text)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn stars_and_question_marks() {
        for (pattern, text, fits) in [
            ("rm", "rm", true),
            ("rm", "rmdir", false),
            ("rm*", "rmdir", true),
            ("-rf *", "-rf /", true),
            ("-rf *", "-rf", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b", "ab\nab", true),
            ("[a]", "a", false),
        ] {
            assert_eq!(Pattern::new(pattern).fits(text.as_bytes()), fits, "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn it_is_the_rule(pattern in "[ab*?]{0,8}", text in "[ab]{0,10}") {
            prop_assert_eq!(
                Pattern::new(pattern.clone()).fits(text.as_bytes()),
                slow(pattern.as_bytes(), text.as_bytes())
            );
        }
    }

    /// The rule itself, as slow as it is short.
    fn slow(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|taken| slow(rest, &text[taken..])),
            Some((p, rest)) => {
                text.first().is_some_and(|t| p == t || *p == b'?') && slow(rest, &text[1..])
            }
        }
    }
}
