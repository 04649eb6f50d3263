//! What the documents say of `occ` is so: each error has its section, and each command is one.

use std::collections::{BTreeMap, BTreeSet};

use clap::Parser as _;
use occ_proto::Code;
use testkit::docs::{literals, root, sections, sources, text};

use crate::cli::Cli;
use crate::error::{self, CliError, exit_code};

const TROUBLE: &str = "docs/troubleshooting.md";

/// Returns the words that are no code of the daemon's, with their exit codes.
fn own_words() -> BTreeMap<String, u8> {
    let errors = [
        CliError::failed("x"),
        CliError::usage("x"),
        CliError::unsupported("x"),
        CliError::daemon("x"),
        CliError::absent("x"),
        CliError::not_occd("x"),
        CliError::incompatible("x"),
    ];
    let mut words: BTreeMap<_, _> =
        errors.into_iter().map(|error| (error.code, error.exit)).collect();
    // `occ api` says it in an answer, and goes on.
    words.insert(error::BAD_ANSWER.to_owned(), 0);
    words
}

/// Returns the words that the code gives to an error in its place: `code: "word"`, or a constant's name.
fn words_in_the_code() -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    for (path, code) in sources() {
        if !path.starts_with("occ-cli/src/") || path.ends_with("/documented.rs") {
            continue;
        }
        for given in code.split("code: ").skip(1) {
            let name = given.split(|c: char| !c.is_ascii_uppercase() && c != '_').next();
            let constant = format!("const {}: &str = ", name.unwrap_or_default());
            let text = if given.starts_with('"') {
                Some(given)
            } else {
                code.split_once(&constant).map(|(_, text)| text)
            };
            let word = text.and_then(|text| text.strip_prefix('"')?.split('"').next());
            words.extend(word.map(str::to_owned));
        }
    }
    words
}

#[test]
fn every_code_has_a_section_with_its_exit_code() {
    let found = words_in_the_code();
    // Else nothing would be compared.
    assert!(["no_hosts", "interrupted"].iter().all(|word| found.contains(*word)), "{found:?}");
    let mut all = own_words();
    all.extend(Code::ALL.iter().map(|code| (code.to_string(), exit_code(*code, 0))));
    let mut told = BTreeMap::new();
    for section in sections(&text(TROUBLE)) {
        let code = section.heading.strip_prefix('`').and_then(|rest| rest.strip_suffix('`'));
        let Some(code) = code else { continue };
        let exit = section.text.split_once("Exit code ").and_then(|(_, rest)| rest.split_once('.'));
        let exit = exit.unwrap_or_else(|| panic!("{TROUBLE}: {code} has no exit code")).0;
        let (_, cure) = section.text.split_once("To do: ").unwrap_or_default();
        assert!(cure.len() > 3, "{TROUBLE} does not say what to do about {code}");
        told.insert(code.to_owned(), exit.parse::<u8>().unwrap());
    }
    for (code, exit) in &all {
        let told = told.get(code);
        let told = told.unwrap_or_else(|| panic!("{TROUBLE} has no section for {code}"));
        assert_eq!(told, exit, "{TROUBLE}: the exit code of {code}");
    }
    for code in &found {
        assert!(told.contains_key(code), "{TROUBLE} has no section for {code}");
    }
    for code in told.keys() {
        let is_one = all.contains_key(code) || found.contains(code);
        assert!(is_one, "{TROUBLE} explains {code}, which there is not");
    }
}

#[test]
fn what_occ_api_says_by_itself_is_told_where_it_is_described() {
    let all = sections(&text("docs/api.md"));
    let section = all.iter().find(|section| section.heading == "JSON lines").unwrap();
    let (_, own) = section.text.split_once("codes are `occ`'s own").unwrap();
    let own = literals(own.split_once("troubleshooting.md").unwrap().0);
    for code in [error::DAEMON_UNREACHABLE, error::ABSENT, error::BAD_ANSWER] {
        assert!(own.contains(&code), "{code}: {own:?}");
    }
    assert!(Code::ALL.iter().all(|code| !own.contains(&code.as_str())), "{own:?}");
}

#[test]
fn every_exit_code_is_told() {
    let all = sections(&text(TROUBLE));
    let section = all.iter().find(|section| section.heading == "Exit codes").unwrap();
    let numbers = section.rows.iter().flat_map(|row| row[0].split(", "));
    let told: Vec<u8> = numbers.map(|number| number.parse().unwrap()).collect();
    for exit in [
        0,
        error::FAILED,
        error::USAGE,
        error::DAEMON,
        error::NOT_FOUND,
        error::CONNECTION,
        error::OUTCOME_UNKNOWN,
        error::DENIED,
        error::INTERRUPTED,
        error::QUIT,
        error::TERMINATED,
        error::HUNG_UP,
        error::CLOSED_PIPE,
    ] {
        assert!(told.contains(&exit), "{TROUBLE} does not tell the exit code {exit}");
    }
}

/// Returns the commands that a text shows: lines of its blocks, and what stands between backticks.
fn commands(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, part) in text.split("```").enumerate() {
        let candidates: Vec<&str> = if at % 2 == 1 {
            // What is set apart from a command says what it does.
            let lines = part.lines().map(|line| line.trim_start_matches("$ "));
            lines.map(|line| line.split("  ").next().unwrap_or_default()).collect()
        } else {
            literals(part)
        };
        let parts = candidates.into_iter().flat_map(|line| line.split("; "));
        let parts = parts.flat_map(|line| line.split(" | ")).map(str::trim);
        found.extend(parts.filter(|line| line.starts_with("occ ")).map(str::to_owned));
    }
    found
}

/// Returns the words of a command as a shell has them, up to what is no longer its.
fn words(command: &str) -> Option<Vec<String>> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for c in command.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, ' ' | '\n') => words.push(String::new()),
            (None, '>' | '<' | '&' | '#' | ')') => break,
            // What it stands for is left to whoever reads.
            (None, '…' | '[') => return None,
            (_, c) => words.last_mut()?.push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    (quote.is_none() && words.len() > 1).then_some(words)
}

#[test]
fn every_command_in_the_documents_is_one() {
    let mut files = vec!["README.md".to_owned()];
    for entry in std::fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        // The benchmarks name what they measure, and not how it is typed.
        if name.ends_with(".md") && name != "benchmarks.md" {
            files.push(format!("docs/{name}"));
        }
    }
    let mut wrong = Vec::new();
    let mut count = 0;
    for file in files {
        for command in commands(&text(&file)) {
            let Some(words) = words(&command) else { continue };
            count += 1;
            let whole = Cli::try_parse_from(&words);
            let args: Vec<_> = words.iter().map(Into::into).collect();
            // A time that is told as an age is another one each time.
            if !command.contains("--since") {
                assert_eq!(format!("{:?}", Cli::read(&args)), format!("{whole:?}"), "{command}");
            }
            if let Err(error) = whole {
                use clap::error::ErrorKind::{
                    DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, MissingRequiredArgument,
                    MissingSubcommand,
                };
                // A command may be named without all that it takes.
                if !matches!(
                    error.kind(),
                    DisplayHelp
                        | DisplayHelpOnMissingArgumentOrSubcommand
                        | MissingRequiredArgument
                        | MissingSubcommand
                ) {
                    let why = error.to_string();
                    wrong.push(format!("{file}: {command}\n    {}", why.lines().next().unwrap()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 200, "only {count} commands were found");
}
