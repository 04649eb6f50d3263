//! `.occ.toml` in a project: where commands typed there go. A file that came with somebody's repository must not choose the
//! host by itself, so it counts once its content has been allowed, as with direnv.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use occ_proto::HostName;
use occ_proto::paths::Env;
use occ_proto::wording::in_words;
use serde::Deserialize;

use crate::error::CliError;

/// The file's name.
const NAME: &str = ".occ.toml";
/// The largest that is read, in bytes: it has two lines.
const LARGEST: u64 = 64 * 1024;

/// A project's file.
#[derive(Debug)]
pub(crate) struct Project {
    /// Where it is.
    pub(crate) path: PathBuf,
    text: String,
    /// What it says.
    pub(crate) wishes: Wishes,
}

/// What a project wants.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wishes {
    /// The host that its commands go to.
    pub(crate) host: HostName,
    /// The directory there.
    #[serde(default)]
    pub(crate) directory: Option<String>,
}

impl Project {
    /// Finds the file of the directory that occ is called in, or of one above it.
    ///
    /// # Errors
    ///
    /// When there is one that cannot be read or means nothing.
    pub(crate) fn find() -> Result<Option<Self>, CliError> {
        // Where there is no current directory there is no project.
        let Ok(here) = std::env::current_dir() else { return Ok(None) };
        here.ancestors().find_map(|dir| Self::read(dir.join(NAME)).transpose()).transpose()
    }

    fn read(path: PathBuf) -> Result<Option<Self>, CliError> {
        let bad = |why: String| CliError::usage(format!("{}: {why}.", path.display()));
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.len() > LARGEST => {
                return Err(bad("it is larger than 64 KiB".into()));
            }
            Ok(metadata) if metadata.is_file() => {}
            _ => return Ok(None),
        }
        let text = std::fs::read_to_string(&path).map_err(|error| bad(error.to_string()))?;
        let wishes = toml::from_str(&text).map_err(|error| {
            let before = error.span().map_or(0, |span| span.start).min(text.len());
            let line = text.as_bytes()[..before].iter().filter(|byte| **byte == b'\n').count() + 1;
            bad(format!("line {line}: {}", in_words(error.message())))
        })?;
        Ok(Some(Self { path, text, wishes }))
    }

    /// Returns what it says, in words.
    pub(crate) fn words(&self) -> String {
        let Wishes { host, directory } = &self.wishes;
        match directory {
            Some(directory) => format!("host {host}, directory {directory:?}"),
            None => format!("host {host}"),
        }
    }

    /// Returns what it wants, if its content has been allowed.
    ///
    /// # Errors
    ///
    /// When it has not: nothing is run elsewhere instead.
    pub(crate) fn allowed(self) -> Result<Wishes, CliError> {
        if load(&store()?)?.get(&self.path) == Some(&self.text) {
            return Ok(self.wishes);
        }
        let message =
            format!("{} wants {}, and has not been allowed.", self.path.display(), self.words());
        Err(CliError::usage(message).hint("occ allow, if that is what you want; else --host NAME"))
    }

    /// Allows the content that it has now, or no content.
    pub(crate) fn allow(&self, allow: bool) -> Result<(), CliError> {
        let store = store()?;
        let mut all = load(&store)?;
        // What is gone needs no permission.
        all.retain(|path, _| path.exists());
        if allow {
            all.insert(self.path.clone(), self.text.clone());
        } else {
            all.remove(&self.path);
        }
        save(&store, &all)
            .map_err(|error| CliError::failed(format!("{}: {error}", store.display())))
    }
}

/// The contents that were allowed, by their files.
type Allowed = BTreeMap<PathBuf, String>;

fn store() -> Result<PathBuf, CliError> {
    let dir = Env::from_process().state_dir();
    dir.map(|dir| dir.join("projects.json")).map_err(|error| CliError::failed(error.to_string()))
}

fn load(store: &Path) -> Result<Allowed, CliError> {
    let failed = |why: String| CliError::failed(format!("{}: {why}", store.display()));
    match std::fs::read(store) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Allowed::new()),
        Err(error) => Err(failed(error.to_string())),
    }
}

fn save(store: &Path, allowed: &Allowed) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    if let Some(dir) = store.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let beside = store.with_extension(format!("json.{}", std::process::id()));
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(&serde_json::to_vec_pretty(allowed)?)?;
    file.sync_all()?;
    std::fs::rename(&beside, store)
}

#[cfg(test)]
mod tests {
    use testkit::docs::{known_keys, literals, sections, text};

    use super::Wishes;

    #[test]
    fn every_key_is_told_with_an_example_that_is_taken() {
        let parse = |text: &str| toml::from_str::<Wishes>(text);
        let refused = parse("no_such_key = 1").unwrap_err();
        let mut known = known_keys(refused.message()).unwrap();
        let document = sections(&text("docs/configuration.md"));
        let section = document.iter().find(|section| section.heading == "A project").unwrap();
        for row in &section.rows {
            let [key, example] = [0, 4].map(|at| literals(&row[at])[0]);
            let host = if key == "host" { "" } else { "host = \"a\"\n" };
            parse(&format!("{host}{key} = {example}")).unwrap();
            known.retain(|known| known != key);
        }
        assert!(known.is_empty(), "docs/configuration.md does not tell {known:?} of .occ.toml");
    }
}
