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

/// The same of a line of a log, in which colours (SGR, ECMA-48 section 8.3.117) are kept, or taken away. They
/// end with the line: one sandbox is not to colour, or to conceal, what comes after it.
pub fn sanitize_log(line: &str, colours: bool) -> String {
    let mut text = String::with_capacity(line.len());
    let mut rest = line;
    let mut coloured = false;
    while let Some(at) = rest.find("\u{1b}[") {
        let (before, sequence) = rest.split_at(at);
        text.push_str(&sanitize(before));
        let parameters = &sequence[2..];
        let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';');
        match end.filter(|end| parameters[*end..].starts_with('m')) {
            Some(end) => {
                if colours {
                    text.push_str(&sequence[..end + 3]);
                    coloured = !matches!(&parameters[..end], "" | "0");
                }
                rest = &parameters[end + 1..];
            }
            None => {
                text.push(char::REPLACEMENT_CHARACTER);
                rest = &sequence[1..];
            }
        }
    }
    text.push_str(&sanitize(rest));
    if coloured {
        text.push_str("\u{1b}[0m");
    }
    text
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
    fn colours_of_a_log_are_kept_and_nothing_else() {
        let line = "\u{1b}[1;31mred\u{1b}[0m\u{1b}[2J\u{1b}]0;t\u{7} \u{1b}[";
        let kept = sanitize_log(line, true);
        assert_eq!(kept, "\u{1b}[1;31mred\u{1b}[0m\u{fffd}[2J\u{fffd}]0;t\u{fffd} \u{fffd}[");
        assert_eq!(sanitize_log("\u{1b}[32mok\u{1b}[m", false), "ok");
        assert_eq!(sanitize_log("\u{1b}[32mok\u{1b}[m", true), "\u{1b}[32mok\u{1b}[m");
        assert_eq!(sanitize_log("a\u{1b}[8mb", true), "a\u{1b}[8mb\u{1b}[0m");
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
