//! Where the settings are: in occd.toml or, in its place, encrypted in occd.toml.age.

use std::fs::File;
use std::io::ErrorKind::NotFound;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use occ_proto::paths::{Env, PathError};

use super::{Config, ConfigError};
use crate::ownership;
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
        if let Some(sealed) = read(&self.sealed)? {
            return self.unseal(&sealed);
        }
        let Some(text) = read(&self.plain)? else { return Ok(Config::default()) };
        let text = String::from_utf8(text).map_err(|error| ConfigError::Read {
            path: self.plain.clone(),
            source: std::io::Error::new(std::io::ErrorKind::InvalidData, error),
        })?;
        Config::parse(&text, &self.plain)
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
        vec![self.plain.clone(), self.sealed.clone()]
    }

    /// Returns how the files look now.
    pub fn stamp(&self) -> [Option<Stamp>; 2] {
        [&self.plain, &self.sealed].map(|path| Stamp::of(path).ok())
    }
}

/// Returns what is in a file, if it is there.
fn read(path: &Path) -> Result<Option<Vec<u8>>, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    ownership::check(&file.metadata().map_err(failed)?)
        .map_err(|source| ConfigError::Exposed { path: path.to_owned(), source })?;
    let mut content = Vec::new();
    file.read_to_end(&mut content).map_err(failed)?;
    Ok(Some(content))
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
