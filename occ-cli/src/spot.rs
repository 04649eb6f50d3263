//! A file on the command line: `host:path`, or a path here.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use occ_proto::HostName;
use occ_proto::files::encode_path;
use occ_proto::text::sanitize;

use crate::client::host_path;
use crate::error::CliError;
use crate::hint::shell_word;

/// A path, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spot {
    /// The host; nothing for this machine.
    pub(crate) host: Option<HostName>,
    /// The path there, in bytes.
    pub(crate) path: Vec<u8>,
}

impl Spot {
    /// Returns what an argument means, as with scp: `host:path` up to the first colon that no slash is before. Without
    /// one it is a path at `home`.
    pub(crate) fn of(arg: &OsStr, home: Option<&HostName>) -> Result<Self, CliError> {
        let bytes = arg.as_bytes();
        let Some(colon) = colon(bytes) else {
            return Ok(Self { host: home.cloned(), path: bytes.to_vec() });
        };
        let (name, path) = (&bytes[..colon], bytes[colon + 1..].to_vec());
        if name == b"local" {
            return Ok(Self { host: None, path });
        }
        let name = String::from_utf8_lossy(name);
        let host = HostName::new(name).map_err(|error| {
            CliError::usage(format!("{}: {error}", sanitize(&arg.to_string_lossy())))
                .hint("./ before a path of this machine with a colon in it")
        })?;
        Ok(Self { host: Some(host), path })
    }

    /// Returns whether an argument says itself where it is.
    pub(crate) fn names_its_place(arg: &OsStr) -> bool {
        colon(arg.as_bytes()).is_some()
    }

    /// Returns the path of the API, with a query.
    pub(crate) fn api(&self, query: &str) -> Result<String, CliError> {
        let files = |path: &[u8]| format!("/files/{}{query}", encode_path(path));
        Ok(match &self.host {
            Some(host) => host_path(host, &files(&self.path)),
            // The daemon has a directory of its own.
            None => {
                let here = std::env::current_dir()
                    .map_err(|error| CliError::failed(format!("the current directory: {error}")))?;
                let path = here.join(self.here());
                format!("/v1/hosts/local{}", files(path.as_os_str().as_bytes()))
            }
        })
    }

    /// Returns the path as one of this machine's.
    pub(crate) fn here(&self) -> PathBuf {
        match self.path.as_slice() {
            b"" => PathBuf::from("."),
            path => PathBuf::from(OsStr::from_bytes(path)),
        }
    }

    /// Returns what is in it under that name.
    pub(crate) fn join(&self, name: &[u8]) -> Self {
        let mut path = self.path.clone();
        if !path.is_empty() && !path.ends_with(b"/") {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Self { host: self.host.clone(), path }
    }

    /// Returns the last part of the path; nothing where that is no name.
    pub(crate) fn name(&self) -> Option<&[u8]> {
        // What is in a directory, which Path takes for the directory.
        if self.path.ends_with(b"/.") {
            return None;
        }
        Path::new(OsStr::from_bytes(&self.path)).file_name().map(OsStr::as_bytes)
    }

    /// Returns what is before that, as a path.
    pub(crate) fn parent(&self) -> Self {
        let parent = Path::new(OsStr::from_bytes(&self.path)).parent();
        let path = parent.map_or(Vec::new(), |parent| parent.as_os_str().as_bytes().to_vec());
        Self { host: self.host.clone(), path }
    }

    /// Returns it as it is typed in a shell.
    pub(crate) fn word(&self) -> String {
        let path = String::from_utf8_lossy(&self.path);
        match &self.host {
            Some(host) => format!("{host}:{}", shell_word(&path)),
            None => shell_word(&path),
        }
    }
}

/// Returns where the colon is behind a host's name.
fn colon(arg: &[u8]) -> Option<usize> {
    let first = arg.iter().position(|byte| *byte == b':' || *byte == b'/')?;
    (first > 0 && arg[first] == b':').then_some(first)
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(host) = &self.host {
            write!(f, "{host}:")?;
        }
        f.write_str(&sanitize(&String::from_utf8_lossy(&self.path)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_before_any_slash_names_a_host() {
        let host = |name| Some(HostName::new(name).unwrap());
        let spot = |text: &str| Spot::of(OsStr::new(text), None).unwrap();
        let is = |host, path: &str| Spot { host, path: path.into() };
        assert_eq!(spot("prod-1:/etc/hosts"), is(host("prod-1"), "/etc/hosts"));
        assert_eq!(spot("prod-1:"), is(host("prod-1"), ""));
        assert_eq!(spot("a:b:c"), is(host("a"), "b:c"));
        assert_eq!(spot("./a:b"), is(None, "./a:b"));
        assert_eq!(spot("/a:b"), is(None, "/a:b"));
        assert_eq!(spot(":b"), is(None, ":b"));
        assert_eq!(spot("local:b"), is(None, "b"));
        let home = HostName::new("h").unwrap();
        assert_eq!(Spot::of(OsStr::new("x"), Some(&home)).unwrap(), is(host("h"), "x"));
        assert!(Spot::of(OsStr::new("-x:b"), None).is_err());
    }

    #[test]
    fn a_path_becomes_one_of_the_api() {
        let spot = Spot::of(OsStr::from_bytes(b"h:/a b/\xff"), None).unwrap();
        assert_eq!(spot.api("?stat=true").unwrap(), "/v1/hosts/h/files//a%20b/%FF?stat=true");
        assert_eq!(spot.name(), Some(&b"\xff"[..]));
        assert_eq!(spot.join(b"x").path, b"/a b/\xff/x");
        assert_eq!(spot.to_string(), "h:/a b/\u{fffd}");
    }
}
