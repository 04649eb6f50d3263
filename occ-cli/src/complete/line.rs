//! A line of bash, divided into words, and how a word is put into it.

/// What stands before the cursor. Nothing is expanded.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// The words before the cursor's own, without quotes.
    pub(super) words: Vec<String>,
    /// The cursor's word up to there, without quotes.
    pub(super) current: String,
    /// That word begins with a tilde that bash expands.
    tilde: bool,
    /// A variable or a command's output is in it.
    expands: bool,
    /// The quote that is open at the cursor, and how many bytes of the word are before it.
    quote: Option<(char, usize)>,
    /// How many bytes of the word bash takes for words before it: `:` and `=` divide words unless somebody has told it
    /// otherwise.
    cut: usize,
}

impl Line {
    /// Returns one that the shell has divided.
    pub(super) fn of_words(words: Vec<String>, current: String) -> Self {
        Self { words, current, ..Self::default() }
    }

    /// Divides a line up to the cursor. `breaks` is what divides words for bash.
    pub(super) fn split(line: &str, breaks: &str) -> Self {
        let (mut it, mut begun) = (Self::default(), false);
        let mut letters = line.chars().peekable();
        while let Some(letter) = letters.next() {
            match (it.quote.map(|(quote, _)| quote), letter) {
                (None, ' ' | '\t' | '\n') => {
                    let Self { mut words, current, .. } = std::mem::take(&mut it);
                    words.extend(begun.then_some(current));
                    it.words = words;
                    begun = false;
                    continue;
                }
                // What stands before one of these is another command.
                (None, ';' | '|' | '&') => {
                    it = Self::default();
                    begun = false;
                    continue;
                }
                (None, '\'' | '"') => it.quote = Some((letter, it.current.len())),
                (Some(open), _) if open == letter => it.quote = None,
                (None, '\\') => it.current.extend(letters.next()),
                (Some('"'), '\\') => {
                    it.current
                        .push(letters.next_if(|next| IN_QUOTES.contains(*next)).unwrap_or('\\'));
                }
                (quote, _) => {
                    it.expands |= matches!(letter, '$' | '`') && quote != Some('\'');
                    it.tilde |= letter == '~' && !begun;
                    it.current.push(letter);
                    if quote.is_none() && breaks.contains(letter) {
                        it.cut = it.current.len();
                    }
                }
            }
            begun = true;
        }
        it
    }

    /// Returns whether the cursor's word is a path in the home directory, behind `~/`.
    pub(super) fn is_at_home(&self) -> bool {
        self.tilde && self.current.starts_with("~/") && !self.expands
    }

    /// Returns whether bash puts something in the place of the cursor's word that it alone knows: `$DIR/x`, `~user/x`.
    pub(super) fn is_bashs_own(&self) -> bool {
        self.expands || (self.tilde && !self.is_at_home())
    }

    /// Returns what bash is to put in the place of the cursor's word for that word to be `word`: quoted as the line has
    /// it there, so that none of it means anything to the shell.
    pub(super) fn put(&self, word: &str) -> String {
        let (quote, kept) = match self.quote {
            Some((quote, before)) => (Some(quote), before),
            None => (None, self.cut),
        };
        let rest = word.get(kept..).unwrap_or_default();
        let home = if self.is_at_home() && kept == 0 { "~" } else { "" };
        let mut text = String::from(home);
        for letter in rest.strip_prefix(home).unwrap_or(rest).chars() {
            match quote {
                Some('\'') if letter == '\'' => text.push_str(r"'\''"),
                // Where it means an earlier command, a backslash before it would stay.
                Some('"') if letter == '!' => text.push_str(r#""'!'""#),
                Some('"') if IN_QUOTES.contains(letter) => text.extend(['\\', letter]),
                None if !is_plain(letter) => text.extend(['\\', letter]),
                _ => text.push(letter),
            }
        }
        text
    }
}

/// What has a meaning between double quotes.
const IN_QUOTES: &str = "$`\"\\";

/// Returns whether a character has no meaning to a shell, wherever it stands.
fn is_plain(letter: char) -> bool {
    letter.is_alphanumeric() || !letter.is_ascii() || "/._-+@%:=,".contains(letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BREAKS: &str = " \t\n\"'@><=;|&(:";

    fn split(line: &str) -> Line {
        Line::split(line, BREAKS)
    }

    #[test]
    fn a_line_is_divided_as_bash_does() {
        let split = |line: &str| {
            let Line { words, current, .. } = split(line);
            format!("{}|{current}", words.join("/"))
        };
        assert_eq!(split("occ status --ho"), "occ/status|--ho");
        assert_eq!(split("occ status "), "occ/status|");
        assert_eq!(split("occ exec --cwd 'a b' \"c"), "occ/exec/--cwd/a b|c");
        assert_eq!(split(r"occ cp a\ b"), "occ/cp|a b");
        assert_eq!(split(r#"occ cp "a\ \"b"#), r#"occ/cp|a\ "b"#);
        assert_eq!(split("cd x && occ ls"), "occ|ls");
        assert_eq!(split("occ exec ''"), "occ/exec|");
        assert_eq!(split("occ exec '' "), "occ/exec/|");
    }

    #[test]
    fn what_bash_has_taken_is_cut() {
        assert_eq!(split("occ status --host=pr").put("--host=prod-1"), "prod-1");
        assert_eq!(split("occ ls prod-1:/v").put("prod-1:/var"), "/var");
        assert_eq!(split("occ exec --group a@").put("a@b"), "b");
        assert_eq!(split(r"occ ls a\:b").put("a:bc"), "a:bc");
        assert_eq!(split("occ ls 'a:b").put("a:bc"), "a:bc");
        assert_eq!(split("occ ls 'a:b'c").put("a:bcd"), "a:bcd");
        assert_eq!(Line::split("occ ls prod-1:/v", " \t").put("prod-1:/var"), "prod-1:/var");
    }

    #[test]
    fn a_word_is_put_as_the_line_has_its_quotes() {
        let name = "a $(x)'\"`\\!~;b";
        assert_eq!(split("occ x a").put(name), r#"a\ \$\(x\)\'\"\`\\\!\~\;b"#);
        assert_eq!(split("occ x 'a").put(name), r#"a $(x)'\''"`\!~;b"#);
        assert_eq!(split("occ x \"a").put(name), r#"a \$(x)'\"\`\\"'!'"~;b"#);
        assert_eq!(split("occ x --group='a").put("--group=a b"), "a b");
        assert_eq!(split("occ x ").put("~z"), r"\~z");
        assert_eq!(split("occ x ").put("bücher"), "bücher");
    }

    #[test]
    fn what_bash_expands_is_known() {
        for line in
            ["occ cp ~root/x", "occ cp ~", "occ cp $HOME/x", "occ cp \"$HOME/x", "occ cp `a`"]
        {
            assert!(split(line).is_bashs_own(), "{line}");
        }
        assert_eq!(split("occ cp ~/a").put("~/a b~"), r"~/a\ b\~");
        assert_eq!(split("occ cp ~/'a").put("~/a b"), "a b");
        assert_eq!(split("occ cp '~/a").put("~/a b"), "~/a b");
        for line in ["occ cp $HOME x", "occ cp '$HOME/x", r"occ cp \$x", "occ cp a~", "occ cp '~/x"]
        {
            assert!(!split(line).is_bashs_own() && !split(line).is_at_home(), "{line}");
        }
    }
}
