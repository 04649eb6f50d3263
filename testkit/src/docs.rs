//! What the documents say, for the tests that compare it with the code.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde_json::Value;

/// What follows a heading, up to the next.
#[derive(Debug)]
pub struct Section {
    /// The heading's words.
    pub heading: String,
    /// The text.
    pub text: String,
    /// The rows of its tables, without their heads.
    pub rows: Vec<Vec<String>>,
}

/// Returns the project's directory.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Returns a file of the project, by its path from there.
pub fn text(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the sections of a document.
pub fn sections(text: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    let mut in_block = false;
    for line in text.lines() {
        in_block ^= line.starts_with("```");
        match line.trim_start_matches('#').strip_prefix(' ') {
            Some(heading) if line.starts_with('#') && !in_block => {
                let heading = heading.to_owned();
                sections.push(Section { heading, text: String::new(), rows: Vec::new() });
            }
            _ => {
                let Some(section) = sections.last_mut() else { continue };
                section.text.push_str(line);
                section.text.push('\n');
            }
        }
    }
    for section in &mut sections {
        section.rows = rows(&section.text);
    }
    sections
}

/// Returns the rows of the tables of a text, without their heads.
pub fn rows(text: &str) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut of_table = 0;
    for line in text.lines() {
        of_table = if line.starts_with('|') { of_table + 1 } else { 0 };
        // Its head, and the line below that.
        if of_table > 2 {
            let cells = line.trim_matches('|').split('|');
            rows.push(cells.map(|cell| cell.trim().to_owned()).collect());
        }
    }
    rows
}

/// Returns what stands between backticks.
pub fn literals(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// Returns the keys that a parser says it knows when it refuses `no_such_key`.
pub fn known_keys(error: &str) -> Option<Vec<String>> {
    let (_, known) = error.split_once("unknown field `no_such_key`, expected ")?;
    Some(literals(known).into_iter().map(str::to_owned).collect())
}

/// Returns the files of the project that are code, by their paths from its directory.
pub fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    collect(&root(), &mut found);
    found
}

fn collect(dir: &Path, found: &mut Vec<(String, String)>) {
    const CODE: [&str; 10] =
        ["rs", "sh", "lua", "vim", "conf", "service", "socket", "plist", "toml", "fish"];
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        let name = entry.file_name().into_string().unwrap_or_default();
        if entry.file_type().unwrap().is_dir() {
            if !matches!(name.as_str(), "target" | ".git" | "corpus" | "artifacts") {
                collect(&path, found);
            }
        } else if path.extension().is_some_and(|end| CODE.iter().any(|code| end == *code)) {
            let relative = path.strip_prefix(root()).unwrap().display().to_string();
            found.push((relative, std::fs::read_to_string(&path).unwrap()));
        }
    }
}

/// Returns the headers of an answer that docs/openapi.json does not have, where it has the answer.
pub fn undocumented_headers<'a>(
    method: &str,
    target: &str,
    status: u16,
    names: impl Iterator<Item = &'a str>,
) -> Vec<&'a str> {
    /// Headers of HTTP itself, which an OpenAPI document leaves out or has elsewhere.
    const OF_HTTP: [&str; 7] = [
        "connection",
        "content-length",
        "content-type",
        "date",
        "sec-websocket-accept",
        "transfer-encoding",
        "upgrade",
    ];
    static DOCUMENT: LazyLock<Value> =
        LazyLock::new(|| serde_json::from_str(&text("docs/openapi.json")).unwrap());
    let path = target.split('?').next().unwrap_or_default();
    // HEAD is GET without the body.
    let method = if method == "HEAD" { "get".into() } else { method.to_ascii_lowercase() };
    let paths = DOCUMENT["paths"].as_object().unwrap();
    // Of two that fit, the one that names more: `/v1/hosts/{host}/files/{path}` fits many.
    let fitting = paths.iter().filter(|(template, _)| is_at(path, template));
    let Some((_, item)) = fitting.min_by_key(|(template, _)| template.matches('{').count()) else {
        return Vec::new();
    };
    let mut answer = &item[&method]["responses"][status.to_string()];
    if let Some(to) = answer["$ref"].as_str() {
        answer = DOCUMENT.pointer(&to[1..]).unwrap();
    }
    let is_unknown = |name: &&str| !OF_HTTP.contains(name) && answer["headers"][*name].is_null();
    if answer.is_null() { Vec::new() } else { names.filter(is_unknown).collect() }
}

/// Returns whether a path is one of a template: `{path}` is all that follows, any other name one segment.
fn is_at(path: &str, template: &str) -> bool {
    let mut parts = path.split('/');
    for wanted in template.split('/') {
        match (wanted, parts.next()) {
            ("{path}", Some(_)) => return true,
            (wanted, Some(part)) if wanted == part || wanted.starts_with('{') => {}
            _ => return false,
        }
    }
    parts.next().is_none()
}

/// A block of code in a document.
#[derive(Debug)]
pub struct Block {
    /// The words of the heading above it.
    pub heading: String,
    /// What follows the first three backticks, such as `toml`.
    pub language: String,
    /// What is in it.
    pub text: String,
}

/// Returns the blocks of a document.
pub fn blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let (mut heading, mut inside) = (String::new(), false);
    for line in text.lines() {
        if let Some(language) = line.strip_prefix("```") {
            inside = !inside;
            if inside {
                let (heading, language) = (heading.clone(), language.to_owned());
                blocks.push(Block { heading, language, text: String::new() });
            }
        } else if inside {
            let block = blocks.last_mut().unwrap();
            block.text.push_str(line);
            block.text.push('\n');
        } else if line.starts_with('#') {
            heading = line.trim_start_matches('#').trim().to_owned();
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_the_document_does_not_have_is_found() {
        let names = || ["occ-version", "content-type", "occ-surprise"].into_iter();
        let of = |method, path, status| undocumented_headers(method, path, status, names());
        assert_eq!(of("GET", "/v1/hosts/h/files//etc/hosts?stat=true", 200), ["occ-surprise"]);
        assert_eq!(of("HEAD", "/v1/hosts", 200), ["occ-surprise"]);
        assert_eq!(of("GET", "/v1/hosts/none", 404), ["occ-surprise"]);
        // What is not in it has no headers in it.
        assert!(of("GET", "/v1/nothing", 404).is_empty());
    }
}
