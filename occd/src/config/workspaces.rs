//! Which directory of this machine is which on a host: `workspaces` of a host in occd.toml.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};

/// Directories here and, of each, the one on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Workspaces(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Workspaces {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map = BTreeMap::<String, String>::deserialize(deserializer)?;
        for text in map.iter().flat_map(|(here, there)| [here, there]) {
            if !super::is_anchored(text) {
                let why = format!("{text:?} is no directory that begins with / or ~/");
                return Err(serde::de::Error::custom(why));
            }
        }
        Ok(Self(map))
    }
}

impl Workspaces {
    /// Returns all of them, of this machine with this home directory.
    pub fn all(&self, home: &Path) -> Vec<(PathBuf, String)> {
        self.0.iter().map(|(here, there)| (expand(home, here), there.clone())).collect()
    }

    /// Returns what a directory here is on the host: the innermost workspace that it is in says so.
    pub fn there(&self, home: &Path, here: &Path) -> Option<String> {
        let all = self.all(home);
        let fitting =
            all.iter().filter_map(|(dir, there)| Some((here.strip_prefix(dir).ok()?, there)));
        let (rest, there) = fitting.min_by_key(|(rest, _)| rest.components().count())?;
        Some(Path::new(there).join(rest).to_str()?.trim_end_matches('/').to_owned())
    }

    /// Returns what a directory on the host is here.
    pub fn here(&self, home: &Path, there: &Path) -> Option<PathBuf> {
        let all = self.all(home);
        let fitting =
            all.iter().filter_map(|(dir, base)| Some((there.strip_prefix(base).ok()?, dir)));
        let (rest, dir) = fitting.min_by_key(|(rest, _)| rest.components().count())?;
        Some(dir.components().chain(rest.components()).collect())
    }
}

fn expand(home: &Path, path: &str) -> PathBuf {
    match path.strip_prefix('~') {
        Some(rest) => home.join(rest.trim_start_matches('/')),
        None => PathBuf::from(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_one_says_where() {
        let pairs = [("~/src", "/srv/src"), ("~/src/app", "~/app"), ("/data", "/mnt/data")];
        let own = |(here, there): (&str, &str)| (here.to_owned(), there.to_owned());
        let workspaces = Workspaces(pairs.map(own).into());
        let home = Path::new("/home/u");
        let there = |path: &str| workspaces.there(home, Path::new(path));
        assert_eq!(there("/home/u/src/lib/x").as_deref(), Some("/srv/src/lib/x"));
        assert_eq!(there("/home/u/src/app").as_deref(), Some("~/app"));
        assert_eq!(there("/home/u/src/app/a b").as_deref(), Some("~/app/a b"));
        assert_eq!(there("/home/u/source"), None);
        assert_eq!(there("/data").as_deref(), Some("/mnt/data"));
        let here = |path: &str| workspaces.here(home, Path::new(path));
        assert_eq!(here("/srv/src/lib").as_deref(), Some(Path::new("/home/u/src/lib")));
        assert_eq!(here("~/app/x").as_deref(), Some(Path::new("/home/u/src/app/x")));
        assert_eq!(here("/elsewhere"), None);
    }
}
