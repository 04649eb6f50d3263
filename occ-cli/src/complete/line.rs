//! A line of bash, divided into words.

/// Returns the words before the cursor's own, and that one up to the cursor, without quotes. Nothing is expanded.
/// `point` counts bytes.
pub(super) fn split(line: &str, point: usize) -> (Vec<String>, String) {
    let mut end = point.min(line.len());
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    let (mut words, mut word, mut quote, mut begun) = (Vec::new(), String::new(), None, false);
    let mut letters = line.get(..end).unwrap_or_default().chars();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (None, ' ' | '\t' | '\n') => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
                continue;
            }
            // What stands before one of these is another command.
            (None, ';' | '|' | '&') => {
                words.clear();
                word.clear();
                begun = false;
                continue;
            }
            (None, '\'' | '"') => quote = Some(letter),
            (Some(open), _) if open == letter => quote = None,
            (None | Some('"'), '\\') => word.extend(letters.next()),
            _ => word.push(letter),
        }
        begun = true;
    }
    (words, word)
}

/// Returns how many bytes of the cursor's word bash takes for words before it: `:` and `=` divide words unless
/// somebody has told it otherwise.
pub(super) fn cut(current: &str, breaks: &str) -> usize {
    let is_break = |letter: char| matches!(letter, ':' | '=') && breaks.contains(letter);
    current.rfind(is_break).map_or(0, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_divided_as_bash_does() {
        let split = |line: &str| {
            let (words, current) = split(line, line.len());
            format!("{}|{current}", words.join("/"))
        };
        assert_eq!(split("occ status --ho"), "occ/status|--ho");
        assert_eq!(split("occ status "), "occ/status|");
        assert_eq!(split("occ exec --cwd 'a b' \"c"), "occ/exec/--cwd/a b|c");
        assert_eq!(split(r"occ cp a\ b"), "occ/cp|a b");
        assert_eq!(split("cd x && occ ls"), "occ|ls");
        assert_eq!(split("occ exec ''"), "occ/exec|");
        assert_eq!(super::split("occ stätus", 7).1, "st");
    }

    #[test]
    fn what_bash_has_taken_is_cut() {
        assert_eq!(cut("--host=pr", " \t=:"), 7);
        assert_eq!(cut("prod-1:/v", " \t=:"), 7);
        assert_eq!(cut("prod-1:/v", " \t"), 0);
    }
}
