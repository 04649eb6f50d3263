//! Indenting JSON for a terminal without changing the document: same keys, same order, same numbers.

/// Returns a JSON text indented by two spaces. Characters that a terminal would act on are escaped,
/// which leaves the value the same. The input must be valid JSON; other text comes back mangled but safe.
pub(crate) fn pretty(json: &[u8]) -> String {
    let text = String::from_utf8_lossy(json);
    let mut out = String::with_capacity(text.len() * 2);
    let mut depth = 0usize;
    let mut in_string = false;
    let mut escaped = false;
    let mut chars = text.chars().filter(|c| !c.is_ascii_control()).peekable();
    let newline = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    };
    while let Some(c) = chars.next() {
        if in_string {
            push_safe(&mut out, c);
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match c {
            '"' => {
                in_string = true;
                out.push(c);
            }
            '{' | '[' => {
                out.push(c);
                while chars.next_if(|c| *c == ' ').is_some() {}
                if chars.peek().is_some_and(|c| matches!(c, '}' | ']')) {
                    out.extend(chars.next());
                } else {
                    depth += 1;
                    newline(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                newline(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                newline(&mut out, depth);
            }
            ':' => out.push_str(": "),
            ' ' => {}
            c => push_safe(&mut out, c),
        }
    }
    out.push('\n');
    out
}

/// Returns a JSON text on one line, as it is, with the characters escaped that a terminal would act on.
pub(crate) fn line(json: &str) -> String {
    let mut out = String::with_capacity(json.len() + 1);
    json.trim_end().chars().for_each(|c| push_safe(&mut out, c));
    out.push('\n');
    out
}

fn push_safe(out: &mut String, c: char) {
    let mut buffer = [0; 4];
    let one = c.encode_utf8(&mut buffer);
    if occ_proto::text::sanitize(one) == *one {
        out.push(c);
    } else {
        out.push_str(&format!("\\u{:04x}", u32::from(c)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_stays_the_same() {
        let text = r#"{"z":1,"a":{"s":"x: {,}\"\\","e":{},"l":[]},"n":[1.50,null,"é"]}"#;
        let pretty = pretty(text.as_bytes());
        assert_eq!(
            pretty,
            "{\n  \"z\": 1,\n  \"a\": {\n    \"s\": \"x: {,}\\\"\\\\\",\n    \"e\": {},\n    \"l\": []\n  },\n  \"n\": [\n    1.50,\n    null,\n    \"é\"\n  ]\n}\n"
        );
        let value = |t: &str| serde_json::from_str::<serde_json::Value>(t).unwrap();
        assert_eq!(value(&pretty), value(text));
    }

    #[test]
    fn terminal_controls_are_escaped_and_keep_their_value() {
        let text = "{\"a\":\"\u{9b}31m\u{202e}\"}";
        let pretty = pretty(text.as_bytes());
        assert!(pretty.contains("\\u009b") && pretty.contains("\\u202e"), "{pretty}");
        let value = |t: &str| serde_json::from_str::<serde_json::Value>(t).unwrap();
        assert_eq!(value(&pretty), value(text));
    }
}
