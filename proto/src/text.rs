//! Making text of foreign origin safe for a terminal.

/// Returns `text` without the characters that a terminal would act on or that change how other text
/// reads: C0 and C1 controls, escape, and bidirectional controls. Line feeds and tabs become spaces,
/// everything else dangerous becomes `\u{fffd}`.
///
/// For everything a server, a file name or a container can choose: banners, error texts, names. A
/// user's own command output is never passed through this.
pub fn sanitize(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' | '\r' => ' ',
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            '\u{61c}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}

/// The same of a text of any length, of which at most so many characters are kept.
pub fn sanitize_short(text: &str, most: usize) -> String {
    let mut short: String = text.chars().take(most).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    sanitize(&short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(sanitize_short("äöü", 3), "äöü");
        assert_eq!(sanitize_short("äöü\n", 2), "äö…");
        assert_eq!(sanitize("a\u{2028}b"), "a\u{fffd}b");
    }

    #[test]
    fn terminal_controls_do_not_survive() {
        for bad in [
            "\u{1b}]52;c;aGk=\u{7}",
            "\u{1b}]0;t\u{7}",
            "\u{1b}P1$r\u{1b}\\",
            "\u{9b}31m",
            "\u{202e}x",
        ] {
            assert!(!sanitize(bad).chars().any(|c| c.is_control() || c == '\u{202e}'), "{bad:?}");
        }
        assert_eq!(sanitize("a\nb ü"), "a b ü");
    }
}
