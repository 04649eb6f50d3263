//! ARCHITECTURE.md, docs/russh.md and docs/security.md speak of what there is: files, functions, tests.

use testkit::docs::{literals, root, rows, sections, sources, text};

/// Returns whether a word is the path of something in the project.
fn is_path(word: &str) -> bool {
    let ends = [".rs", ".md", ".sh", ".toml", ".json", "/"];
    ends.iter().any(|end| word.ends_with(end))
        && word.chars().all(|c| c.is_alphanumeric() || "/_.-".contains(c))
}

/// Returns whether a path is there, as the document has it: from the project's directory or a crate's sources, below one
/// of their parts, or below what the line is about.
fn is_there(path: &str, about: &str) -> bool {
    let crates = ["", "proto/src/", "occd/src/", "occ-cli/src/", "testkit/src/", "xtask/src/"];
    let parts =
        ["", "container/", "session/", "files/", "host/", "ssh/", "forward/", "api/", about];
    crates
        .iter()
        .any(|base| parts.iter().any(|part| root().join(base).join(part).join(path).exists()))
}

#[test]
fn every_path_of_the_architecture_is_there() {
    /// Files of users.
    const THEIRS: [&str; 4] = ["occd.toml", "hosts.json", "/dev/null", "config.json"];
    let text = text("ARCHITECTURE.md");
    let mut gone = Vec::new();
    let mut count = 0;
    for line in text.lines() {
        let words = literals(line);
        // What is named after a directory is in it, and what is named after a file beside that.
        let first = words.first().copied().unwrap_or_default();
        let about = first.rfind('/').map_or("", |end| &first[..=end]);
        for word in words.iter().filter(|word| is_path(word) && !THEIRS.contains(word)) {
            count += 1;
            if !is_there(word, about) {
                gone.push((*word).to_owned());
            }
        }
    }
    assert!(gone.is_empty(), "ARCHITECTURE.md names what is not there: {gone:?}");
    assert!(count > 60, "only {count} paths were found");
}

#[test]
fn every_part_of_the_daemon_is_in_the_architecture() {
    let text = text("ARCHITECTURE.md");
    let mut missing = Vec::new();
    for dir in ["occd/src", "occ-cli/src", "testkit/src", "proto/src"] {
        for entry in std::fs::read_dir(root().join(dir)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let path = format!("{dir}/{name}");
            // Those of the client, the fixtures and the types are told together.
            let is_told = text.contains(&format!("`{dir}/`"))
                || text.contains(&path)
                || text.contains(&format!("`{name}`"));
            let is_small = matches!(name.as_str(), "lib.rs" | "main.rs");
            if !is_told && !is_small {
                missing.push(path);
            }
        }
    }
    assert!(missing.is_empty(), "ARCHITECTURE.md does not say what these are for: {missing:?}");
}

#[test]
fn every_hazard_is_contained_where_it_is_said_to_be_and_has_a_test() {
    let document = text("docs/russh.md");
    let sources = sources();
    let has = |path: &str, what: &str| {
        sources.iter().any(|(own, text)| own == path && text.contains(what))
    };
    let mut wrong = Vec::new();
    let mut hazards = 0;
    for section in sections(&document) {
        for row in &section.rows {
            // A function is in the file that was named before it.
            let mut file = "";
            for word in literals(&row[1]) {
                if is_path(word) {
                    file = word;
                    if !root().join(word).is_file() {
                        wrong.push(format!("{word} is not there"));
                    }
                } else if !has(file, &format!("fn {word}")) {
                    wrong.push(format!("{file} has no function {word}"));
                }
            }
            if section.heading == "How it is used" {
                continue;
            }
            hazards += 1;
            if file.is_empty() && !row[1].starts_with("it is ") {
                wrong.push(format!("where is this contained? {}", row[0]));
            }
            let proofs = literals(&row[2]);
            if proofs.is_empty() && !row[2].contains("docs/benchmarks.md") {
                wrong.push(format!("what proves this? {}", row[0]));
            }
            for proof in proofs {
                let found = match proof.split_once("::") {
                    Some((module, "*")) => {
                        has(&format!("occd/tests/promises/{module}.rs"), "#[test]")
                    }
                    Some((module, test)) => {
                        has(&format!("occd/tests/promises/{module}.rs"), &format!("fn {test}("))
                    }
                    None => sources.iter().any(|(_, text)| text.contains(&format!("fn {proof}("))),
                };
                if !found {
                    wrong.push(format!("there is no test {proof}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "docs/russh.md: {}", wrong.join("\n"));
    assert!(hazards >= 25 && !rows(&document).is_empty(), "{hazards}");
}

#[test]
fn every_defence_has_its_test() {
    let document = text("docs/security.md");
    let sources = sources();
    let is_there = |named: &str| {
        let (module, test) = named.split_once("::").unwrap_or_default();
        // The beginning of a name tells which, and a whole module may be meant.
        let function = match test.strip_suffix('…') {
            Some(begin) => format!("fn {begin}"),
            None if test == "*" => "#[test]".to_owned(),
            None => format!("fn {test}("),
        };
        let file = format!("occd/tests/promises/{module}.rs");
        sources.iter().any(|(path, text)| *path == file && text.contains(&function))
    };
    let is_test = |word: &&str| word.contains("::") && !word.contains(' ');
    let named: Vec<&str> = literals(&document).into_iter().filter(is_test).collect();
    let gone: Vec<&&str> = named.iter().filter(|named| !is_there(named)).collect();
    assert!(gone.is_empty(), "docs/security.md names tests that are not there: {gone:?}");
    assert!(named.len() > 40, "only {} tests were found", named.len());
}

#[test]
fn russh_is_named_below_ssh_alone() {
    for (path, text) in sources() {
        let is_ours = path.starts_with("occd/src/") && !path.starts_with("occd/src/ssh/");
        if !is_ours {
            continue;
        }
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        // A word in quotation marks is the name of whoever logs.
        let named = code.filter(|line| line.contains("russh::") && !line.contains("\"russh::"));
        let named = named.count();
        assert_eq!(named, 0, "{path} names russh: only occd/src/ssh/ may");
    }
}
