//! What serde says is wrong with a text, for people who have never heard of the types that it is read into.

/// What the standard library says of a number or a switch that it reads from a query, and the same for people.
const OF_QUERIES: [(&str, &str); 4] = [
    ("invalid digit found in string", "expected a whole number from 0 on"),
    ("cannot parse integer from empty string", "expected a whole number from 0 on"),
    ("number too large to fit in target type", "the number is too large"),
    ("provided string was not `true` or `false`", "expected true or false"),
];

/// What serde says of a value that does not fit, before it names the value.
const UNFIT: [&str; 2] = ["invalid type: ", "invalid value: "];
/// The kinds of value that it names with the value itself.
const KINDS: [&str; 5] = ["integer", "floating point", "string", "boolean", "character"];

/// Returns an error without the names that types have in Rust, and without a value that does not fit: that may be
/// somebody's secret.
pub fn in_words(error: &str) -> String {
    let error = &without_value(error);
    let mut words: Vec<&str> = Vec::new();
    let mut all = error.split(' ').peekable();
    while let Some(word) = all.next() {
        // What is quoted comes from the client, and is its own.
        let is_expected = words.last() == Some(&"expected") || words.last() == Some(&"of");
        match (word, is_expected) {
            ("struct" | "enum", true) => {
                all.next();
                words.push("an object");
            }
            ("untagged", true) if all.next_if_eq(&"enum").is_some() => {
                all.next();
                words.push("those that are known");
            }
            ("internally" | "adjacently", true) if all.next_if_eq(&"tagged").is_some() => {
                // "enum", and its name.
                all.nth(1);
                words.push("an object");
            }
            ("u8", true) => words.push("a number from 0 to 255"),
            ("u16", true) => words.push("a number from 0 to 65535"),
            ("u32", true) => words.push("a number from 0 to 4294967295"),
            ("u64" | "usize", true) => words.push("a number from 0 on"),
            ("i8" | "i16" | "i32" | "i64" | "f32" | "f64", true) => words.push("a number"),
            _ => words.push(word),
        }
    }
    let said = words.join(" ").replace("a sequence", "an array").replace("a map", "an object");
    OF_QUERIES.iter().fold(said.replace("a boolean", "true or false"), |said, (rusts, ours)| {
        said.replace(rusts, ours)
    })
}

/// Returns what is said of a value that does not fit without the value.
fn without_value(error: &str) -> String {
    let Some((unfit, rest)) =
        UNFIT.iter().find_map(|unfit| Some((*unfit, error.strip_prefix(*unfit)?)))
    else {
        return error.to_owned();
    };
    let kind = KINDS.iter().find(|kind| rest.starts_with(&format!("{kind} ")));
    match (kind, rest.rsplit_once(", expected ")) {
        (Some(kind), Some((_, expected))) => format!("{unfit}{kind}, expected {expected}"),
        _ => error.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::in_words;

    #[test]
    fn a_value_that_does_not_fit_is_not_repeated() {
        for (said, told) in [
            (
                "invalid type: string \"a, expected b\", expected u64",
                "string, expected a number from 0 on",
            ),
            ("invalid type: boolean `true`, expected a string", "boolean, expected a string"),
            ("invalid type: null, expected a string", "null, expected a string"),
        ] {
            assert_eq!(in_words(said), format!("invalid type: {told}"));
        }
        let said = "invalid value: string \"a\", expected b at line 3 column 4";
        assert_eq!(in_words(said), "invalid value: string, expected b at line 3 column 4");
    }

    #[test]
    fn a_number_is_a_number_by_whatever_type() {
        let said = in_words("invalid type: string \"24100\", expected u64");
        assert_eq!(said, "invalid type: string, expected a number from 0 on");
    }

    #[test]
    fn what_a_query_has_in_place_of_a_number_is_told_in_words_of_queries() {
        let number = |text: &str| in_words(&text.parse::<u16>().unwrap_err().to_string());
        assert_eq!(number("abc"), "expected a whole number from 0 on");
        assert_eq!(number(""), "expected a whole number from 0 on");
        assert_eq!(number("-1"), "expected a whole number from 0 on");
        assert_eq!(number("70000"), "the number is too large");
        let switch = "maybe".parse::<bool>().unwrap_err();
        assert_eq!(in_words(&switch.to_string()), "expected true or false");
    }

    #[test]
    fn a_number_that_is_too_large_is_told_its_limit() {
        let told = [
            serde_json::from_str::<u8>("70000000000").unwrap_err(),
            serde_json::from_str::<u16>("70000000000").unwrap_err(),
            serde_json::from_str::<u32>("70000000000").unwrap_err(),
        ];
        let most = [u64::from(u8::MAX), u64::from(u16::MAX), u64::from(u32::MAX)];
        for (error, most) in told.iter().zip(most) {
            let said = in_words(&error.to_string());
            assert!(said.contains(&format!("expected a number from 0 to {most} at")), "{said}");
        }
    }
}
