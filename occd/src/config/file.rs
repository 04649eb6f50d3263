//! Where the settings are: in occd.toml or, in its place, encrypted in occd.toml.age; and above them, what the
//! administrator of this machine says.

use std::fs::{File, Metadata};
use std::io::ErrorKind::NotFound;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use occ_proto::paths::{Env, MAX_SETTINGS, PathError, SYSTEM_POLICY, dangling_link};

use super::{Config, ConfigError, SystemPolicy};
use crate::ownership::{self, Exposed};
use crate::sealed::{self, Key, SealError};
use crate::stamp::Stamp;

/// How the files looked: the two of the settings, and those of the system-wide policies.
pub type Stamps = ([Option<Stamp>; 2], Vec<Option<Stamp>>);

/// The two files of the settings, of which the encrypted one counts where there are both, and the policies above them.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    plain: PathBuf,
    sealed: PathBuf,
    /// Has the key of the encrypted one. There is nobody to ask for a passphrase when a daemon starts.
    identity: PathBuf,
    /// The policies of this machine's administrator, and one that is in force like them; all count.
    system: Vec<(PathBuf, Whose)>,
}

/// Who may have written a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// Root.
    Root,
    /// This user, too: it restricts nobody else, and lifts nothing.
    User,
}

impl ConfigFile {
    /// Returns the files of an environment, and `policy` as one of those above them.
    pub fn of(env: &Env, policy: Option<PathBuf>) -> Result<Self, PathError> {
        let system = std::iter::once((PathBuf::from(SYSTEM_POLICY), Whose::Root));
        Ok(Self {
            system: system.chain(policy.map(|path| (path, Whose::User))).collect(),
            plain: env.config_file()?,
            sealed: env.sealed_config_file()?,
            identity: env.age_identity()?,
        })
    }

    /// Reads the settings, and the policies above them. No file means the defaults.
    pub fn load(&self) -> Result<Config, ConfigError> {
        // First: who may not use something is not to be told that only something else is wrong.
        let system = self.load_system()?;
        Ok(Config { system, ..self.load_own()? })
    }

    /// Reads the system-wide policies.
    pub(super) fn load_system(&self) -> Result<Vec<SystemPolicy>, ConfigError> {
        let read = self.system.iter().map(|(path, whose)| read_system(path, *whose));
        read.filter_map(Result::transpose).collect()
    }

    fn load_own(&self) -> Result<Config, ConfigError> {
        if let Some(sealed) = read(&self.sealed)? {
            return self.unseal(&sealed);
        }
        let Some(text) = read(&self.plain)? else { return Ok(Config::default()) };
        Config::parse(&utf8(text, &self.plain)?, &self.plain)
    }

    fn unseal(&self, sealed: &[u8]) -> Result<Config, ConfigError> {
        let path = &self.sealed;
        let failed = |source| ConfigError::Sealed { path: path.clone(), source };
        let text = sealed::unseal(sealed, &Key::Identity(self.identity.clone())).map_err(failed)?;
        let text = std::str::from_utf8(&text)
            .map_err(|_| failed(SealError::Damaged("its content is not UTF-8".into())))?;
        Config::parse(text, path)
    }

    /// Returns a warning when there are both files.
    pub fn warning(&self) -> Option<String> {
        let both = self.plain.exists() && self.sealed.exists();
        both.then(|| {
            format!("{} is not read, because occd.toml.age is there", self.plain.display())
        })
    }

    /// Returns the files.
    pub fn paths(&self) -> Vec<PathBuf> {
        let system = self.system.iter().map(|(path, _)| path.clone());
        [self.plain.clone(), self.sealed.clone()].into_iter().chain(system).collect()
    }

    /// Returns how the files look now.
    pub fn stamp(&self) -> Stamps {
        // One that leads nowhere is a file that cannot be read, not none.
        let look = |path: &Path| Stamp::of(path).or_else(|_| Stamp::of_link(path)).ok();
        let system = self.system.iter().map(|(path, _)| look(path));
        ([&self.plain, &self.sealed].map(|path| look(path)), system.collect())
    }
}

fn utf8(text: Vec<u8>, path: &Path) -> Result<String, ConfigError> {
    String::from_utf8(text).map_err(|error| ConfigError::Read {
        path: path.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidData, error),
    })
}

/// Returns a system-wide policy, if there is one. Whoever could exchange it could write it.
fn read_system(path: &Path, whose: Whose) -> Result<Option<SystemPolicy>, ConfigError> {
    let check = match whose {
        Whose::Root => ownership::check_roots,
        Whose::User => ownership::check_strictly,
    };
    let Some(text) = read_if(path, check)? else { return Ok(None) };
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = |source| ConfigError::Read { path: dir.to_owned(), source };
    check(&std::fs::metadata(dir).map_err(failed)?)
        .map_err(|source| ConfigError::Exposed { path: dir.to_owned(), source })?;
    SystemPolicy::parse(&utf8(text, path)?, path).map(Some)
}

/// Returns what is in a file of the settings, if it is there.
fn read(path: &Path) -> Result<Option<Vec<u8>>, ConfigError> {
    read_if(path, ownership::check)
}

/// Returns what is in a file, if it is there and `check` lets it be used.
fn read_if(
    path: &Path,
    check: fn(&Metadata) -> Result<(), Exposed>,
) -> Result<Option<Vec<u8>>, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    // A named pipe without a writer does not hang the opening.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = match File::options().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == NotFound => {
            // It names a file that is missing, which is not the same as none.
            let Some(link) = dangling_link(path) else { return Ok(None) };
            let why = format!("{} is a link that leads nowhere", link.display());
            return Err(failed(io::Error::new(NotFound, why)));
        }
        Err(error) => return Err(failed(error)),
    };
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(failed(io::Error::other("it is not a file")));
    }
    check(&meta).map_err(|source| ConfigError::Exposed { path: path.to_owned(), source })?;
    let mut content = Vec::new();
    file.take(MAX_SETTINGS + 1).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > MAX_SETTINGS {
        return Err(failed(io::Error::other("it is larger than 1 MiB")));
    }
    Ok(Some(content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_no_settings_could_be_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("occd.toml");
        File::create(&path).unwrap().set_len(MAX_SETTINGS + 1).unwrap();
        let error = read(&path).unwrap_err();
        assert!(crate::ssh::error::chain(&error).contains("larger than 1 MiB"), "{error:?}");
        let error = read(Path::new("/dev/zero")).unwrap_err();
        assert!(crate::ssh::error::chain(&error).contains("not a file"), "{error:?}");
    }

    #[test]
    fn no_file_means_the_defaults() {
        let nowhere = |name: &str| Path::new("/nonexistent").join(name);
        let file = ConfigFile {
            plain: nowhere("occd.toml"),
            sealed: nowhere("occd.toml.age"),
            identity: nowhere("age-identity.txt"),
            system: vec![(nowhere("policy.toml"), Whose::Root)],
        };
        assert_eq!(file.load().unwrap(), Config::default());
    }
}
