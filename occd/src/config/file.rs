//! Where the settings are: in occd.toml or, in its place, encrypted in occd.toml.age.

use std::io::ErrorKind::NotFound;
use std::path::{Path, PathBuf};

use occ_proto::paths::{Env, PathError};

use super::{Config, ConfigError};
use crate::sealed::{self, Key, SealError};
use crate::stamp::Stamp;

/// The two files, of which the encrypted one counts where there are both.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    plain: PathBuf,
    sealed: PathBuf,
    /// Has the key of the encrypted one. There is nobody to ask for a passphrase when a daemon starts.
    identity: PathBuf,
}

impl ConfigFile {
    /// Returns the files of an environment.
    pub fn of(env: &Env) -> Result<Self, PathError> {
        Ok(Self {
            plain: env.config_file()?,
            sealed: env.sealed_config_file()?,
            identity: env.age_identity()?,
        })
    }

    /// Reads the settings. No file means the defaults.
    pub fn load(&self) -> Result<Config, ConfigError> {
        let failed = |path: &Path, source| ConfigError::Read { path: path.to_owned(), source };
        match std::fs::read(&self.sealed) {
            Ok(sealed) => return self.unseal(&sealed),
            Err(error) if error.kind() == NotFound => {}
            Err(error) => return Err(failed(&self.sealed, error)),
        }
        match std::fs::read_to_string(&self.plain) {
            Ok(text) => Config::parse(&text, &self.plain),
            Err(error) if error.kind() == NotFound => Ok(Config::default()),
            Err(error) => Err(failed(&self.plain, error)),
        }
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

    /// Returns how the files look now.
    pub fn stamp(&self) -> [Option<Stamp>; 2] {
        [&self.plain, &self.sealed].map(|path| Stamp::of(path).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_means_the_defaults() {
        let nowhere = |name: &str| Path::new("/nonexistent").join(name);
        let file = ConfigFile {
            plain: nowhere("occd.toml"),
            sealed: nowhere("occd.toml.age"),
            identity: nowhere("age-identity.txt"),
        };
        assert_eq!(file.load().unwrap(), Config::default());
    }
}
