//! A mount as the existing tool writes it: `/host/path:/path/inside`, with `:ro` or `:rw` behind it.

use std::str::FromStr;

use bollard::models::{Mount, MountType};
use occ_proto::text::sanitize;
use serde::{Deserialize, Deserializer};

use super::SandboxError;

/// What of the host is mounted, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindMount {
    /// The path on the host.
    pub source: String,
    /// The path inside.
    pub target: String,
    /// Whether it cannot be written to from inside.
    pub read_only: bool,
}

/// Why a mount is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadMount {
    /// Not two paths.
    #[error("{0:?} is not /host/path:/path/inside, with :ro or :rw behind it")]
    Form(String),
    /// A path that depends on where one stands.
    #[error("{0:?} is not an absolute path")]
    Relative(String),
    /// A path that would take the place of what the sandbox runs.
    #[error("{0:?} would hide the sandbox's own programs")]
    Hides(String),
    /// A path that has another mount already.
    #[error("at {0:?} is the second one there: only one can be mounted at one path")]
    Twice(String),
    /// A path that the kernel fills, without which no program works.
    #[error(
        "{0:?} is the kernel's own directory inside the sandbox: nothing can be mounted over it"
    )]
    System(String),
}

/// Where a system's programs and their libraries are, without which nothing in it starts.
const PROGRAMS: [&str; 10] = [
    "/bin",
    "/lib",
    "/lib32",
    "/lib64",
    "/sbin",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/usr/lib64",
    "/usr/sbin",
];

/// Returns a path as the kernel takes it: without empty parts, `.` and `..`.
fn plain(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn is_within(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl FromStr for BindMount {
    type Err = BadMount;

    fn from_str(text: &str) -> Result<Self, BadMount> {
        let form = || BadMount::Form(text.to_owned());
        let parts: Vec<&str> = text.split(':').collect();
        let (source, target, read_only) = match parts[..] {
            [source, target] => (source, target, false),
            [source, target, mode] if mode.eq_ignore_ascii_case("ro") => (source, target, true),
            [source, target, mode] if mode.eq_ignore_ascii_case("rw") => (source, target, false),
            _ => return Err(form()),
        };
        if text.chars().any(char::is_control) {
            return Err(form());
        }
        for path in [source, target] {
            if !path.starts_with('/') {
                return Err(BadMount::Relative(path.to_owned()));
            }
        }
        let inside = plain(target);
        if inside == "/" || PROGRAMS.contains(&&*inside) || is_within(&inside, "/opt/opencode") {
            return Err(BadMount::Hides(target.to_owned()));
        }
        // A device, or a control group's directory, may well be mounted at its own place.
        if ["/sys", "/dev"].contains(&inside.as_str()) || is_within(&inside, "/proc") {
            return Err(BadMount::System(target.to_owned()));
        }
        Ok(Self { source: source.to_owned(), target: inside, read_only })
    }
}

impl<'de> Deserialize<'de> for BindMount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl BindMount {
    /// Returns whether it gives the sandbox power over the whole host: its root, or its engine's socket.
    pub(super) fn opens_the_host(&self) -> bool {
        let source = plain(&self.source);
        ["/", "/proc", "/sys", "/dev"].contains(&source.as_str())
            || source.ends_with("/docker.sock")
            || source.ends_with("/podman.sock")
    }

    /// Returns it as Docker's API has it. Docker refuses a path that is not there, and makes none.
    pub(super) fn to_docker(&self) -> Mount {
        Mount {
            typ: Some(MountType::BIND),
            source: Some(self.source.clone()),
            target: Some(self.target.clone()),
            read_only: Some(self.read_only),
            ..Mount::default()
        }
    }
}

/// Returns which path could not be mounted, where that is what Docker's runtime says in several lines of its own.
pub(super) fn not_mounted(words: &str) -> Option<SandboxError> {
    let (path, rest) = words.split_once("error mounting \"")?.1.split_once('"')?;
    let (target, rest) = rest.split_once("at \"")?.1.split_once('"')?;
    let reasons = [
        ("not a directory", "one of the two is a directory, and the other is none"),
        ("no such file or directory", "it is not there"),
        ("permission denied", "permission denied"),
        ("read-only file system", "the place inside cannot be made"),
    ];
    let (_, why) = reasons.into_iter().find(|(said, _)| rest.contains(said))?;
    Some(SandboxError::BadMount { path: sanitize(path), target: sanitize(target), why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_a_mount() {
        let bind = |source: &str, target: &str, read_only| BindMount {
            source: source.into(),
            target: target.into(),
            read_only,
        };
        assert_eq!("/a:/b".parse(), Ok(bind("/a", "/b", false)));
        assert_eq!("/a b:/c/:ro".parse(), Ok(bind("/a b", "/c", true)));
        assert_eq!("/a:/b:RW".parse(), Ok(bind("/a", "/b", false)));
        for bad in ["", "/a", "/a:/b:xx", "/a:/b:ro:z", "a:/b", "/a:b", "/a:/", "/a:/..", "/a\n:/b"]
        {
            assert!(bad.parse::<BindMount>().is_err(), "{bad:?}");
        }
        assert_eq!(
            "/x:/opt/opencode/bin".parse::<BindMount>(),
            Err(BadMount::Hides("/opt/opencode/bin".into()))
        );
        for bad in ["/bin", "/usr/", "/usr/./bin", "/lib64"] {
            assert_eq!(format!("/x:{bad}").parse::<BindMount>(), Err(BadMount::Hides(bad.into())));
        }
        assert!("/x:/usr/local/bin".parse::<BindMount>().is_ok());
        assert!("/x:/opt/opencode-data".parse::<BindMount>().is_ok());
        for bad in ["/proc", "/proc/sys", "/sys/", "//dev", "/a/../dev/.", "/./proc/"] {
            let mount = format!("/x:{bad}").parse::<BindMount>();
            assert_eq!(mount, Err(BadMount::System(bad.into())), "{bad:?}");
        }
        assert!("/x:/a/../opt/opencode".parse::<BindMount>().is_err());
        // What works is nobody's to forbid.
        for good in ["/dev/fuse:/dev/fuse", "/:/host", "/proc:/host/proc:ro", "/x:/system"] {
            assert!(good.parse::<BindMount>().is_ok(), "{good:?}");
        }
        assert_eq!("/a:/b//./c/../d".parse(), Ok(bind("/a", "/b/d", false)));
    }

    #[test]
    fn what_the_runtime_says_of_a_mount_is_one_sentence() {
        let words = "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: error during container init: error mounting \"/srv/a\" to rootfs at \"/etc\": mount /srv/a:/etc (via /proc/self/fd/6), flags: 0x5000: not a directory: unknown: Are you trying to mount a directory onto a file (or vice-versa)?";
        let said = not_mounted(words).unwrap().to_string();
        let why = "one of the two is a directory, and the other is none";
        assert_eq!(said, format!("/srv/a cannot be mounted at /etc: {why}"));
        assert!(not_mounted("port is already allocated").is_none());
    }
}
