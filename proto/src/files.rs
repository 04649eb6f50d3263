//! Files of a host, and of this machine: what `/v1/hosts/{host}/files/{path}` takes and answers.
//!
//! The path is what follows `files/`, percent-encoded, its slashes as they are: `files//etc/hosts` is `/etc/hosts`,
//! `files/notes.txt` and `files/~/notes.txt` are in the home directory. Names are bytes ([`Bytes`]).

use serde::{Deserialize, Serialize};

pub use crate::exec::Bytes;
pub use crate::files_action::FileAction;

/// The media type of a tree of files, in the form of GNU tar.
pub const TAR: &str = "application/x-tar";

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// Bytes.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, a socket, a pipe.
    #[serde(other)]
    Other,
}

/// What is known of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct FileInfo {
    /// Its name in the list, or its path as it was asked for.
    pub name: Bytes,
    /// What it is.
    pub kind: FileKind,
    /// Its length in bytes.
    pub size: u64,
    /// Its permissions, the lower twelve bits of its mode.
    pub mode: u32,
    /// The number of its owner.
    pub uid: u32,
    /// The number of its group.
    pub gid: u32,
    /// When it was changed last, in seconds since 1970.
    pub mtime: i64,
    /// Where a link leads, where that was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Bytes>,
    /// Changes with the file, for `If-Match`.
    pub etag: String,
}

/// The names in a directory, sorted by their bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct FileList {
    /// The directory, without links.
    pub path: Bytes,
    /// What is in it.
    pub entries: Vec<FileInfo>,
}

/// The answer to [`FileAction::Digest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct FileDigest {
    /// In hexadecimal digits.
    pub sha256: String,
    /// Of so many bytes.
    pub length: u64,
}

/// The answer to an archive that was unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct TreeWritten {
    /// How many files it had.
    pub files: u64,
    /// What it had that is neither file nor directory nor link: that is not made.
    #[serde(default, skip_serializing_if = "Listed::is_empty")]
    pub left_out: Listed,
    /// What could not be read where it was made.
    #[serde(default, skip_serializing_if = "Listed::is_empty")]
    pub unread: Listed,
}

/// Things of which there may be very many: how many, and the first of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Listed {
    /// How many.
    pub count: u64,
    /// The first of them, for a person.
    pub first: Vec<String>,
}

impl Listed {
    /// So many are named: as many as a screen has lines, or fewer.
    const NAMED: usize = 20;

    /// Adds one.
    pub fn add(&mut self, text: &str) {
        self.count += 1;
        if self.first.len() < Self::NAMED {
            self.first.push(crate::text::sanitize(text));
        }
    }

    /// Adds the path of one in a tree.
    pub fn add_path(&mut self, path: &[u8]) {
        let path = path.strip_prefix(b"./").unwrap_or(path);
        self.add(&String::from_utf8_lossy(path));
    }

    /// Adds others.
    pub fn join(&mut self, others: Self) {
        self.count += others.count;
        self.first.extend(others.first);
        self.first.truncate(Self::NAMED);
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl std::fmt::Display for Listed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.first.join(", "))?;
        match self.count - (self.first.len() as u64).min(self.count) {
            0 => Ok(()),
            more => write!(f, ", and {more} more"),
        }
    }
}

/// Returns a path for a URL: all but unreserved characters and slashes encoded (RFC 3986, section 2.1).
pub fn encode_path(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for &byte in path {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            const HEX: &[u8; 16] = b"0123456789ABCDEF";
            text.push('%');
            text.push(char::from(HEX[usize::from(byte >> 4)]));
            text.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    text
}

/// Returns the bytes of an encoded path; nothing when a `%` is followed by no byte.
pub fn decode_path(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut path = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            path.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            path.push(byte);
        }
    }
    Some(path)
}

/// Returns the name beside a file under which an upload that can be gone on with is kept.
pub fn partial_name(name: &[u8]) -> Vec<u8> {
    beside(name, b"part")
}

/// Returns whether a name is of what is being written (`beside` with eight digits), on hosts too where both cases of letters are one.
pub fn is_unfinished(name: &[u8]) -> bool {
    let Some((before, digits)) = name.split_last_chunk::<8>() else { return false };
    let marked = before.len() >= 5 && before[before.len() - 5..].eq_ignore_ascii_case(b".occ-");
    name.starts_with(b".") && marked && digits.iter().all(u8::is_ascii_hexdigit)
}

/// Returns a name beside a file, for what becomes that file: hidden, and no longer than names may be.
pub fn beside(name: &[u8], what: &[u8]) -> Vec<u8> {
    /// Of 255 that file systems allow.
    const MOST: usize = 200;
    let mut other = vec![b'.'];
    other.extend_from_slice(&name[..name.len().min(MOST)]);
    if name.len() > MOST {
        // Two long names with the same beginning must not meet (FNV-1a).
        let hash = name.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        other.extend_from_slice(format!("~{hash:016x}").as_bytes());
    }
    other.extend_from_slice(b".occ-");
    other.extend_from_slice(what);
    other
}

/// Returns whether a name from elsewhere is one that a directory can have: nothing that leads out of it.
pub fn is_plain_name(name: &[u8]) -> bool {
    !name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/') && !name.contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_lead_elsewhere_are_none() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0"] {
            assert!(!is_plain_name(bad), "{bad:?}");
        }
        for good in [&b"a"[..], b"...", b" ", b"\n", b"\xff", b"-rf"] {
            assert!(is_plain_name(good), "{good:?}");
        }
    }

    #[test]
    fn long_names_stay_within_the_limit_and_apart() {
        let (a, b) =
            ([vec![b'x'; 250], vec![b'a']].concat(), [vec![b'x'; 250], vec![b'b']].concat());
        assert_ne!(partial_name(&a), partial_name(&b));
        assert!(partial_name(&a).len() <= 255 && is_plain_name(&partial_name(&a)));
        assert_eq!(partial_name(b"f"), b".f.occ-part");
    }

    #[test]
    fn what_is_unfinished_is_told_by_its_name() {
        for name in [&b"f"[..], b"", &[b'x'; 250]] {
            assert!(is_unfinished(&beside(name, b"0123cdef")), "{name:?}");
        }
        assert!(is_unfinished(b".F.OCC-0123CDEF"));
        for other in [&b".f.occ-part"[..], b"f.occ-0123cdef", b".f.occ-0123cdeg", b"0123cdef"] {
            assert!(!is_unfinished(other), "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn paths_survive_a_url(path in proptest::collection::vec(any::<u8>(), 0..64)) {
            let text = encode_path(&path);
            prop_assert!(text.is_ascii());
            prop_assert_eq!(decode_path(&text), Some(path));
        }
    }

    #[test]
    fn a_percent_sign_needs_two_digits() {
        for bad in ["%", "%4", "%zz", "a%+1"] {
            assert_eq!(decode_path(bad), None, "{bad}");
        }
    }
}
