//! Key files made by `ssh-keygen`, and lines of `known_hosts`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A key pair in files: the private key, and beside it the public one with `.pub`.
#[derive(Debug, Clone)]
pub struct KeyFile {
    /// The private key's path; its mode is 0600.
    pub path: PathBuf,
    /// The public key as OpenSSH writes it: type and base64, without a comment.
    pub public: String,
}

impl KeyFile {
    /// Makes a key of a type that `ssh-keygen -t` knows: `ed25519`, `ecdsa`, `rsa`.
    pub fn generate(path: impl Into<PathBuf>, kind: &str) -> Self {
        Self::generate_with(path, kind, "")
    }

    /// The same with a passphrase.
    pub fn generate_with(path: impl Into<PathBuf>, kind: &str, passphrase: &str) -> Self {
        let path = path.into();
        let public_path = with_pub(&path);
        // ssh-keygen asks before it overwrites.
        let _ = std::fs::remove_file(&path);
        run(Command::new("ssh-keygen")
            .args(["-q", "-t", kind, "-N", passphrase, "-C", "", "-f"])
            .arg(&path));
        let public = std::fs::read_to_string(public_path).unwrap().trim().to_owned();
        Self { path, public }
    }
}

impl KeyFile {
    /// Makes a certificate for the key, signed by `ca`, where ssh and sshd look for it: beside the key.
    /// `args` are those of `ssh-keygen -s`, such as `-h -n HOST` or `-n USER -V -2d:-1d`.
    pub fn certify(&self, ca: &KeyFile, args: &[&str]) -> PathBuf {
        run(Command::new("ssh-keygen")
            .args(["-q", "-s"])
            .arg(&ca.path)
            .args(["-I", "a-certificate"])
            .args(args)
            .arg(with_pub(&self.path)));
        let mut name = self.path.as_os_str().to_owned();
        name.push("-cert.pub");
        name.into()
    }
}

fn with_pub(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

/// Returns the line of `known_hosts` for a server: a port other than 22 is written `[host]:port`
/// (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT").
pub fn known_hosts_line(host: &str, port: u16, public: &str) -> String {
    match port {
        22 => format!("{host} {public}"),
        _ => format!("[{host}]:{port} {public}"),
    }
}

/// Returns the line for an address.
pub fn known_hosts_line_for(addr: SocketAddr, public: &str) -> String {
    known_hosts_line(&addr.ip().to_string(), addr.port(), public)
}

/// Runs a set-up command to its end.
///
/// # Panics
/// When it cannot be started or fails, with its error output.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
