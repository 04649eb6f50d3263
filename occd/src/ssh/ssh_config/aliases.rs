//! The hosts that ssh_config names: the words behind `Host` that are no patterns, with what is included.
//!
//! `ssh -G` says everything about a host and lists none, so here, and only here, the files are read. What
//! a host's options are is asked of ssh all the same.

use std::io::{self, Read as _};
use std::path::{Component, Path, PathBuf};

use occ_proto::wildcard;

/// The largest file that is read.
const MAX_FILE: u64 = 1024 * 1024;
/// How deep files may include each other; that of OpenSSH (readconf.c, READCONF_MAX_DEPTH).
const MAX_DEPTH: usize = 16;
/// The most hosts that are listed.
const MAX_HOSTS: usize = 4096;
/// The most files that are read: one may be included more than once.
const MAX_FILES: usize = 1024;

/// Reads `file` and what it includes, and returns the hosts it names, each once, in order. `ssh_home` is what ssh takes
/// for home: a relative `Include` is below its `.ssh`.
///
/// # Errors
/// When `file` is there and cannot be read. ssh goes on without it, as without an included one; who asks what is in it
/// wants to know.
pub(super) fn aliases(file: &Path, ssh_home: &Path) -> io::Result<Vec<String>> {
    let mut reading = Reading { ssh_home, found: Vec::new(), files: 0 };
    match reading.file(file, &[], 0) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(reading.found),
    }
}

struct Reading<'a> {
    ssh_home: &'a Path,
    found: Vec<String>,
    files: usize,
}

impl Reading<'_> {
    /// Reads a file that stands in `blocks`: the patterns of each `Host` around its `Include`.
    fn file(&mut self, path: &Path, blocks: &[Vec<String>], depth: usize) -> io::Result<()> {
        self.files += 1;
        if depth > MAX_DEPTH || self.files > MAX_FILES {
            return Ok(());
        }
        // To open a pipe would wait for somebody who writes.
        let meta = std::fs::metadata(path)?;
        if !meta.is_file() && !meta.is_dir() {
            return Ok(());
        }
        let mut content = Vec::new();
        std::fs::File::open(path)?.take(MAX_FILE).read_to_end(&mut content)?;
        // The block that a line stands in: none, a `Host` with its patterns, or one that nobody here can decide.
        let mut inside: Option<Vec<String>> = Some(vec!["*".to_owned()]);
        for line in String::from_utf8_lossy(&content).lines() {
            let mut words = words(line).into_iter();
            let Some(keyword) = words.next() else { continue };
            match keyword.to_ascii_lowercase().as_str() {
                "host" => {
                    let patterns: Vec<String> = words.collect();
                    for name in &patterns {
                        self.found(name, &patterns, blocks);
                    }
                    inside = Some(patterns);
                }
                "match" => {
                    let all = words.next().is_some_and(|word| word.eq_ignore_ascii_case("all"));
                    inside = all.then(|| vec!["*".to_owned()]);
                }
                "include" => {
                    let Some(patterns) = &inside else { continue };
                    let mut around = blocks.to_vec();
                    around.push(patterns.clone());
                    for pattern in words {
                        for path in self.included(&pattern) {
                            // As ssh does with one that it cannot read or that is not there.
                            let _ = self.file(&path, &around, depth + 1);
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn found(&mut self, name: &str, own: &[String], blocks: &[Vec<String>]) {
        let is_pattern = name.contains(['*', '?', '!']);
        let applies = selects(own, name) && blocks.iter().all(|patterns| selects(patterns, name));
        if !is_pattern
            && applies
            && self.found.len() < MAX_HOSTS
            && !self.found.iter().any(|one| one == name)
        {
            self.found.push(name.to_owned());
        }
    }

    /// Returns the files that a word behind `Include` means, in order.
    fn included(&self, pattern: &str) -> Vec<PathBuf> {
        let whole = match pattern.strip_prefix("~/") {
            Some(rest) => self.ssh_home.join(rest),
            None => self.ssh_home.join(".ssh").join(pattern),
        };
        let mut paths = vec![PathBuf::new()];
        for component in whole.components() {
            let name = component.as_os_str().to_string_lossy();
            if !matches!(component, Component::Normal(_)) || !name.contains(['*', '?']) {
                paths.iter_mut().for_each(|path| path.push(component));
                continue;
            }
            let mut next = Vec::new();
            for path in &paths {
                let Ok(entries) = path.read_dir() else { continue };
                let matching = entries.flatten().filter(|entry| {
                    let entry = entry.file_name();
                    let entry = entry.as_encoded_bytes();
                    // glob(7): a leading dot is matched by a dot alone.
                    (entry.first() != Some(&b'.') || name.starts_with('.'))
                        && wildcard::matches(name.as_bytes(), entry)
                });
                next.extend(matching.map(|entry| entry.path()));
            }
            next.sort();
            paths = next;
        }
        paths
    }
}

/// Returns whether a `Host` line with these patterns is about a host (ssh_config(5), PATTERNS).
fn selects(patterns: &[String], name: &str) -> bool {
    let matches = |pattern: &str| wildcard::matches(pattern.as_bytes(), name.as_bytes());
    let refused = patterns.iter().filter_map(|pattern| pattern.strip_prefix('!')).any(matches);
    !refused && patterns.iter().any(|pattern| !pattern.starts_with('!') && matches(pattern))
}

/// Returns the words of a line: the keyword may end with `=`, words may be quoted, `#` begins a comment.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut begun, mut quoted) = (Vec::new(), String::new(), false, false);
    for letter in line.trim().chars() {
        let separates = letter.is_whitespace() || (letter == '=' && words.is_empty());
        match letter {
            '"' => {
                quoted = !quoted;
                begun = true;
            }
            '#' if !quoted && !begun => break,
            _ if !quoted && separates => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            _ => {
                begun = true;
                word.push(letter);
            }
        }
    }
    if begun {
        words.push(word);
    }
    // `Host = name`: the sign stands alone.
    if words.get(1).is_some_and(|word| word == "=") {
        words.remove(1);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(home: &Path, name: &str, text: &str) {
        let path = home.join(".ssh").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn read(home: &Path) -> Vec<String> {
        aliases(&home.join(".ssh/config"), home).unwrap()
    }

    #[test]
    fn names_are_found_and_patterns_are_none() {
        let home = tempfile::tempdir().unwrap();
        assert!(read(home.path()).is_empty());
        let text = "# Host no\nHost a b *.example ?x !c\n  User u\nhost=d\nHOST \"e\" # f\nHost = g\n\
                    Host a\nHost *\nHost h !h\nMatch host m\n";
        write(home.path(), "config", text);
        assert_eq!(read(home.path()), ["a", "b", "d", "e", "g"]);
    }

    #[test]
    fn included_files_are_read_in_order_and_where_they_apply() {
        let home = tempfile::tempdir().unwrap();
        let text = "Include config.d/*.conf ~/.ssh/more\nHost z\nHost web-*\n  Include web\n\
                    Match exec true\n  Include never\nMatch all\n  Include config.d/1.conf last\n";
        write(home.path(), "config", text);
        write(home.path(), "config.d/2.conf", "Host two\n");
        write(home.path(), "config.d/1.conf", "Host one\n");
        write(home.path(), "config.d/.hidden.conf", "Host hidden\n");
        write(home.path(), "config.d/readme", "Host readme\n");
        write(home.path(), "more", "Host more\n");
        write(home.path(), "web", "Host web-1 db-1\n");
        write(home.path(), "never", "Host never\n");
        // It includes itself, which ends.
        write(home.path(), "last", "Host last\nInclude last\n");
        assert_eq!(read(home.path()), ["one", "two", "more", "z", "web-1", "last"]);
    }
}
