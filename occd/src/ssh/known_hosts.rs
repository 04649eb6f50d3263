//! OpenSSH known_hosts files: looking a host key up and recording a new one.
//!
//! Owns the file format (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT") and the verdict on a key. The dialer asks
//! for the verdict and decides what follows from it; nothing here connects, asks or trusts on its own.
//!
//! The matcher is ours because russh's does not know wildcards, negation, tabs, markers or a second key
//! of one type, fails on one bad line, and takes a file that it cannot read for an empty one. Ours gives
//! the answers of OpenSSH's `check_host_key` with these exceptions, all to the safe side:
//! - a file that exists and cannot be read is an error; ssh goes on as if it were empty,
//! - a marker may end in a tab; ssh skips such a line, and with it a revocation,
//! - a revocation of the plain host name also holds on ports other than 22.
//!
//! Everything here blocks on the disk; asynchronous callers use `spawn_blocking`.

use std::fs::{File, Metadata};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use russh::keys::ssh_key::{self, Algorithm, HashAlg, PublicKey};
use sha1::Sha1;

mod locked;
mod replace;
mod revoked;
#[cfg(test)]
mod tests;
mod update;

use locked::{make_directory, open_locked, to_append};
use occ_proto::wildcard;
pub use replace::{obstacle, replace};
pub use revoked::RevokedKeysError;
pub use update::{Update, compare, update};

/// The largest file that is read: over 50,000 hashed lines with RSA keys, and no memory to speak of.
const MAX_FILE: u64 = 16 * 1024 * 1024;
/// The port whose keys are recorded under the bare host name.
const DEFAULT_PORT: u16 = 22;
/// What a hashed name begins with; 1 stands for HMAC-SHA1, the only kind there is.
const HASHED: &str = "|1|";
/// The length of a salt and of a hash: one SHA-1 digest. OpenSSH refuses every other salt.
const DIGEST: usize = 20;

/// Why known_hosts files could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum KnownHostsError {
    /// A file is there and cannot be read, so nobody can tell whether the key is the right one.
    #[error("the known_hosts file {} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file is implausibly large.
    #[error("the known_hosts file {} is larger than 16 MiB", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A directory, pipe, socket or disk where a file should be.
    #[error("the known_hosts file {} is not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// A file of `RevokedHostKeys` cannot be used, so nobody can tell whether the key is revoked.
    #[error("{}, which RevokedHostKeys of ssh_config names, cannot be used", path.display())]
    RevokedKeys {
        /// The file.
        path: PathBuf,
        /// Why.
        source: RevokedKeysError,
    },
    /// A line could not be added.
    #[error("the known_hosts file {} cannot be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A device, which `UserKnownHostsFile none` is as well: what is written there is gone.
    #[error(
        "UserKnownHostsFile of ssh_config is {}, which keeps nothing, so the key cannot be recorded",
        path.display()
    )]
    KeepsNothing {
        /// The device.
        path: PathBuf,
    },
    /// A name that the format would read as a pattern, a list or a second field.
    #[error("this host name cannot be recorded in a known_hosts file")]
    Name,
    /// A line that is meant for more hosts than the one whose key is replaced.
    #[error("line {line} of {} is a pattern for more hosts; change it by hand", path.display())]
    Pattern {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
    /// A key that has no place in a known_hosts file, such as a certificate.
    #[error("this kind of host key cannot be recorded in a known_hosts file")]
    KeyKind,
    /// A key that has no encoding.
    #[error("the host key cannot be encoded")]
    Key(#[source] ssh_key::Error),
}

/// What the files say about a host and the key it showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The key is on record for this host.
    Known,
    /// No key is on record for this host.
    Unknown,
    /// Other keys are on record for this host, and not this one.
    Changed {
        /// Where the first contradicting key is, one of the same type if there is one.
        file: PathBuf,
        /// Its line, counted from 1.
        line: usize,
        /// All keys on record, in file order, as `ssh-ed25519 SHA256:…`.
        known: Vec<String>,
        /// Whether one of them has the type of the key shown. If not, the server may merely have got a
        /// key of another type, or someone in between avoids the comparison.
        same_type: bool,
    },
    /// The key is marked `@revoked` for this host.
    Revoked {
        /// Where the mark is.
        file: PathBuf,
        /// Its line, counted from 1.
        line: usize,
    },
}

/// The lines of one or more known_hosts files that could be parsed, by what they are good for.
#[derive(Debug, Clone, Default)]
pub struct KnownHosts {
    keys: Vec<Entry>,
    revoked: Vec<Entry>,
    authorities: Vec<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    file: Arc<Path>,
    line: usize,
    hosts: Hosts,
    key: PublicKey,
}

#[derive(Debug, Clone)]
enum Hosts {
    /// A comma list of patterns, in lower case.
    Patterns(Box<[u8]>),
    Hashed {
        salt: [u8; DIGEST],
        hash: [u8; DIGEST],
    },
}

enum Marker {
    None,
    Revoked,
    Authority,
}

impl KnownHosts {
    /// Returns what the files say, in the order given: the user's files first, then the global ones. A
    /// file that is not there counts as empty, and so does a device such as `/dev/null`. A line that
    /// does not parse is skipped.
    ///
    /// # Errors
    /// When a file is there and cannot be read, is no file, or is larger than 16 MiB.
    pub fn load(paths: &[PathBuf]) -> Result<Self, KnownHostsError> {
        let mut all = Self::default();
        for path in paths {
            let fail = |source| KnownHostsError::Read { path: path.clone(), source };
            match std::fs::metadata(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(fail(error)),
                // Looked at before opening: opening a pipe would wait for its writer.
                Ok(metadata) => {
                    if is_regular(path, &metadata)? {
                        let file = File::open(path).map_err(fail)?;
                        all.parse(path, &read_capped(path, &file)?);
                    }
                }
            }
        }
        Ok(all)
    }

    /// Returns the verdict on `key`, shown by `host` on `port`.
    ///
    /// On a port other than 22 the name looked up is `[host]:port`. Only if nothing at all is on record
    /// under that name, a record of this very key under the plain name is good as well (OpenSSH's
    /// "checking without port identifier"); a different key there proves nothing, since another port
    /// may belong to another server.
    ///
    /// A host known only by keys of other types counts as changed, as for OpenSSH: see
    /// [`Verdict::Changed::same_type`].
    pub fn check(&self, host: &str, port: u16, key: &PublicKey) -> Verdict {
        let name = lookup_name(host, port);
        let plain = lookup_name(host, DEFAULT_PORT);
        let is_key = |entry: &&Entry| entry.key.key_data() == key.key_data();

        if let Some(entry) = self
            .revoked
            .iter()
            .filter(is_key)
            .find(|entry| entry.hosts.contain(&name) || entry.hosts.contain(&plain))
        {
            return Verdict::Revoked { file: entry.file.to_path_buf(), line: entry.line };
        }
        // Keys are compared first: a comparison costs far less than hashing the name with a line's salt.
        if self.keys.iter().filter(is_key).any(|entry| entry.hosts.contain(&name)) {
            return Verdict::Known;
        }
        let known: Vec<&Entry> =
            self.keys.iter().filter(|entry| entry.hosts.contain(&name)).collect();
        let of_type = known.iter().find(|entry| entry.key.algorithm() == key.algorithm());
        let Some(first) = of_type.or(known.first()) else {
            let known_plain =
                self.keys.iter().filter(is_key).any(|entry| entry.hosts.contain(&plain));
            return if known_plain { Verdict::Known } else { Verdict::Unknown };
        };
        let mut descriptions = Vec::new();
        for entry in &known {
            let text = describe(&entry.key);
            if !descriptions.contains(&text) {
                descriptions.push(text);
            }
        }
        Verdict::Changed {
            file: first.file.to_path_buf(),
            line: first.line,
            known: descriptions,
            same_type: of_type.is_some(),
        }
    }

    /// Returns whether a key is on record under a name from [`lookup_name`].
    fn has(&self, name: &str, key: &PublicKey) -> bool {
        let same = |entry: &&Entry| entry.key.key_data() == key.key_data();
        self.keys.iter().filter(same).any(|entry| entry.hosts.contain(name))
    }

    /// Returns whether a key is marked `@revoked` for a host.
    pub fn is_revoked(&self, host: &str, port: u16, key: &PublicKey) -> bool {
        matches!(self.check(host, port, key), Verdict::Revoked { .. })
    }

    /// Returns the types of the keys on record for a host, in file order and without repetition, so that
    /// the dialer can ask for these first and does not take a new type for a change. Revoked keys do not
    /// count. RSA is `ssh-rsa` here, the name of the key type, not of a signature algorithm.
    pub fn known_algorithms(&self, host: &str, port: u16) -> Vec<Algorithm> {
        let name = lookup_name(host, port);
        let plain = lookup_name(host, DEFAULT_PORT);
        let mut entries: Vec<&Entry> =
            self.keys.iter().filter(|entry| entry.hosts.contain(&name)).collect();
        if entries.is_empty() {
            entries = self.keys.iter().filter(|entry| entry.hosts.contain(&plain)).collect();
        }
        let mut algorithms = Vec::new();
        for entry in entries {
            let algorithm = entry.key.algorithm();
            let is_revoked =
                || matches!(self.check(host, port, &entry.key), Verdict::Revoked { .. });
            if !algorithms.contains(&algorithm) && !is_revoked() {
                algorithms.push(algorithm);
            }
        }
        algorithms
    }

    /// Returns the certificate authorities that may vouch for a host: those of the plain name may do so on every
    /// port. [`KnownHosts::check`] ignores them.
    pub fn cert_authorities(&self, host: &str, port: u16) -> Vec<&PublicKey> {
        let names = [lookup_name(host, port), lookup_name(host, DEFAULT_PORT)];
        let is_for_host = |entry: &&Entry| names.iter().any(|name| entry.hosts.contain(name));
        let lines = self.authorities.iter().filter(is_for_host);
        lines.map(|entry| &entry.key).collect()
    }

    fn parse(&mut self, path: &Path, content: &[u8]) {
        let file: Arc<Path> = path.into();
        for (index, line) in content.split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let number = index + 1;
            let Some((marker, hosts, key)) = parse_line(line) else {
                tracing::debug!(file = %path.display(), line = number, "skipped a line that does not parse");
                continue;
            };
            let entries = match marker {
                Marker::None => &mut self.keys,
                Marker::Revoked => &mut self.revoked,
                Marker::Authority => &mut self.authorities,
            };
            entries.push(Entry { file: file.clone(), line: number, hosts, key });
        }
    }
}

impl Hosts {
    fn parse(field: &[u8]) -> Option<Self> {
        if !field.starts_with(b"|") {
            return Some(Self::Patterns(field.to_ascii_lowercase().into()));
        }
        let (salt, hash) =
            std::str::from_utf8(field).ok()?.strip_prefix(HASHED)?.split_once('|')?;
        let decode = |text: &str| STANDARD.decode(text).ok()?.try_into().ok();
        Some(Self::Hashed { salt: decode(salt)?, hash: decode(hash)? })
    }

    /// Returns whether a name from [`lookup_name`] is meant.
    fn contain(&self, name: &str) -> bool {
        match self {
            Self::Hashed { salt, hash } => hash_name(name, salt) == Some(*hash),
            Self::Patterns(list) => {
                let mut found = false;
                for pattern in list.split(|byte| *byte == b',') {
                    match pattern.strip_prefix(b"!") {
                        Some(negated) if wildcard::matches(negated, name.as_bytes()) => {
                            return false;
                        }
                        Some(_) => {}
                        None => found |= wildcard::matches(pattern, name.as_bytes()),
                    }
                }
                found
            }
        }
    }
}

/// Returns the parts of a line that is neither empty nor a comment, or nothing if it does not parse.
fn parse_line(line: &[u8]) -> Option<(Marker, Hosts, PublicKey)> {
    let mut fields =
        line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|field| !field.is_empty());
    let mut hosts = fields.next()?;
    let marker = match hosts {
        b"@revoked" => Marker::Revoked,
        b"@cert-authority" => Marker::Authority,
        _ if hosts.starts_with(b"@") => return None,
        _ => Marker::None,
    };
    if !matches!(marker, Marker::None) {
        hosts = fields.next()?;
    }
    let hosts = Hosts::parse(hosts)?;
    let algorithm = fields.next()?;
    let key = PublicKey::from_bytes(&STANDARD.decode(fields.next()?).ok()?).ok()?;
    let fits = key.algorithm().as_str().as_bytes() == algorithm;
    (fits && is_plain(&key)).then_some((marker, hosts, key))
}

/// Returns whether a key is of a type that OpenSSH takes from a known_hosts file: neither a certificate
/// nor a type unknown to the library.
fn is_plain(key: &PublicKey) -> bool {
    !key.key_data().is_certificate() && !key.key_data().is_other()
}

/// Returns the name under which a host is recorded: lower case, with the port unless that is 22.
fn lookup_name(host: &str, port: u16) -> String {
    let host = host.to_ascii_lowercase();
    if port == DEFAULT_PORT { host } else { format!("[{host}]:{port}") }
}

fn hash_name(name: &str, salt: &[u8; DIGEST]) -> Option<[u8; DIGEST]> {
    // An HMAC takes a key of any length, so this is never nothing.
    let mac = Hmac::<Sha1>::new_from_slice(salt).ok()?;
    Some(mac.chain_update(name).finalize().into_bytes().into())
}

/// Returns whether there is something to read or write. A character device (`/dev/null`, where some people
/// point their known_hosts) holds nothing, and reading from a terminal would wait for ever.
fn is_regular(path: &Path, metadata: &Metadata) -> Result<bool, KnownHostsError> {
    if metadata.is_file() {
        Ok(true)
    } else if metadata.file_type().is_char_device() {
        Ok(false)
    } else {
        Err(KnownHostsError::NotAFile { path: path.to_owned() })
    }
}

fn read_capped(path: &Path, file: &File) -> Result<Vec<u8>, KnownHostsError> {
    let mut content = Vec::new();
    file.take(MAX_FILE + 1)
        .read_to_end(&mut content)
        .map_err(|source| KnownHostsError::Read { path: path.to_owned(), source })?;
    if content.len() as u64 > MAX_FILE {
        return Err(KnownHostsError::TooLarge { path: path.to_owned() });
    }
    Ok(content)
}

/// Returns the fingerprint as OpenSSH prints it: `SHA256:` and 43 characters of base64.
pub fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

/// Returns type and fingerprint of a key, as errors and answers show it.
pub fn describe(key: &PublicKey) -> String {
    format!("{} {}", key.algorithm(), fingerprint(key))
}

/// Adds a line for `key`, with the host's name hashed if `hash` says so (`HashKnownHosts`). Does nothing if
/// the host already has this key in this file, or if the file is a device such as `/dev/null`.
///
/// Other keys of the host stay, so this also serves a user who trusts a second key. For a host that nobody
/// has vouched for, [`record_first`] is the one to call.
///
/// # Errors
/// When the file cannot be read or written, or the name or the key cannot be recorded.
pub fn append(
    path: &Path,
    host: &str,
    port: u16,
    key: &PublicKey,
    hash: bool,
) -> Result<(), KnownHostsError> {
    let name = lookup_name(host, port);
    let objection = |known: &KnownHosts| known.has(&name, key).then_some(());
    add_unless(path, host, port, key, hash, objection).map(|_| ())
}

/// Adds a line for the first key ever seen of a host, and returns the verdict of this file from then on:
/// [`Verdict::Known`] if the line was added or was there, and without adding anything
/// [`Verdict::Changed`] or [`Verdict::Revoked`] if someone else recorded something against the key since
/// the caller looked. Otherwise, of two first connections at a time, an impostor's would leave its key
/// beside the right one. Also returns whether a line was added: to a device such as `/dev/null` none is.
///
/// # Errors
/// When the file cannot be read or written, or the name or the key cannot be recorded.
pub fn record_first(
    path: &Path,
    host: &str,
    port: u16,
    key: &PublicKey,
    hash: bool,
) -> Result<(Verdict, bool), KnownHostsError> {
    let added = add_unless(path, host, port, key, hash, |known| {
        Some(known.check(host, port, key)).filter(|verdict| *verdict != Verdict::Unknown)
    })?;
    Ok(match added {
        Added::Yes => (Verdict::Known, true),
        Added::No(objection) => (objection.unwrap_or(Verdict::Known), false),
    })
}

/// Returns the line for a key, to be put behind `content`.
fn new_line(
    content: &[u8],
    name: &str,
    key: &PublicKey,
    hash: bool,
    path: &Path,
) -> Result<Vec<u8>, KnownHostsError> {
    let blob = STANDARD.encode(key.to_bytes().map_err(KnownHostsError::Key)?);
    let name = match hash {
        true => hashed_field(name)
            .map_err(|source| KnownHostsError::Write { path: path.to_owned(), source })?,
        false => name.to_owned(),
    };
    let newline = if content.is_empty() || content.ends_with(b"\n") { "" } else { "\n" };
    Ok(format!("{newline}{name} {} {blob}\n", key.algorithm()).into_bytes())
}

/// What became of a line.
enum Added<T> {
    Yes,
    /// There was an objection, or the file is a device that keeps nothing.
    No(Option<T>),
}

/// Adds a line unless `objection`, asked under the lock, returns something; returns that.
fn add_unless<T>(
    path: &Path,
    host: &str,
    port: u16,
    key: &PublicKey,
    hash: bool,
    objection: impl FnOnce(&KnownHosts) -> Option<T>,
) -> Result<Added<T>, KnownHostsError> {
    let fail = |source| KnownHostsError::Write { path: path.to_owned(), source };
    if !is_recordable(host) {
        return Err(KnownHostsError::Name);
    }
    if !is_plain(key) {
        return Err(KnownHostsError::KeyKind);
    }
    match std::fs::metadata(path) {
        Ok(metadata) if !is_regular(path, &metadata)? => return Ok(Added::No(None)),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_directory(path).map_err(fail)?;
        }
        Err(error) => return Err(fail(error)),
    }
    // Opened in place, through symbolic links, as ssh does: people keep this file in a repository of
    // dotfiles, and a replaced file would lose the entries that ssh adds meanwhile.
    // ssh itself takes no lock; against it, the single write below in append mode has to do.
    let mut file = open_locked(path, &to_append()).map_err(fail)?;
    let content = read_capped(path, &file)?;
    let mut known = KnownHosts::default();
    known.parse(path, &content);
    if let Some(objection) = objection(&known) {
        return Ok(Added::No(Some(objection)));
    }

    let line = new_line(&content, &lookup_name(host, port), key, hash, path)?;
    file.write_all(&line).and_then(|()| file.sync_all()).map_err(fail)?;
    Ok(Added::Yes)
}

/// See [`crate::fuzz`].
pub(crate) fn fuzz(content: &[u8]) {
    use russh::keys::ssh_key::public::{Ed25519PublicKey, KeyData};

    let key = PublicKey::from(KeyData::Ed25519(Ed25519PublicKey([7; 32])));
    let path = Path::new("known_hosts");
    let mut known = KnownHosts::default();
    known.parse(path, content);
    let before = known.check("h", 22, &key);
    let Ok(line) = key.to_openssh() else { return };
    known.parse(path, format!("h {line}\n").as_bytes());
    let after = known.check("h", 22, &key);
    // Only a revocation outweighs the line that follows.
    assert!(after == Verdict::Known || matches!(after, Verdict::Revoked { .. }), "{after:?}");
    assert_eq!(matches!(before, Verdict::Revoked { .. }), matches!(after, Verdict::Revoked { .. }));
}

/// Returns whether a host name would be read back as itself: OpenSSH's list of characters it does not
/// record (`check_host_key` in sshconnect.c), and those that end a field or a pattern.
fn is_recordable(host: &str) -> bool {
    let special = |c: char| "@?*#[]|'\"\\!,".contains(c) || c.is_control() || c.is_whitespace();
    !host.is_empty() && !host.contains(special)
}

/// Returns the name as `|1|salt|hash` with a new salt.
fn hashed_field(name: &str) -> io::Result<String> {
    let mut salt = [0; DIGEST];
    File::open("/dev/urandom")?.read_exact(&mut salt)?;
    let hash = hash_name(name, &salt).ok_or_else(|| io::Error::other("HMAC-SHA1 failed"))?;
    Ok(format!("{HASHED}{}|{}", STANDARD.encode(salt), STANDARD.encode(hash)))
}
