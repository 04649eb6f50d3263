//! [`Dropbear`]: the small SSH server of routers and containers, whose channels behave differently.
//!
//! Dropbear reads `~/.ssh/authorized_keys` of the account and nothing else, so it is used only as
//! root, with the account of [`crate::user::test_user`]: no person's own file is touched. Tests run at
//! once, so each server adds its key there under a lock and takes it out again.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::keys::{KeyFile, known_hosts_line_for, run};
use crate::ports::free_port;
use crate::proc::{self, Process};
use crate::require::{find_program, is_root, require};
use crate::user::{home_of, lock, test_user};
use crate::wait::blocking;

/// How long dropbear may take to listen.
const DEADLINE: Duration = Duration::from_secs(20);

/// How many free ports are tried: another process may take one before dropbear does.
const PORT_ATTEMPTS: usize = 10;

/// A real dropbear on a free loopback port. Dropping it ends it with everything that it started.
#[derive(Debug)]
pub struct Dropbear {
    dir: TempDir,
    addr: SocketAddr,
    user: String,
    client_key: KeyFile,
    host_key: String,
    child: Child,
}

impl Dropbear {
    /// Returns why dropbear cannot be used here, if it cannot.
    pub fn availability() -> Result<(), String> {
        for program in ["dropbear", "dropbearkey", "ssh-keygen"] {
            find_program(program)?;
        }
        is_root().then_some(()).ok_or_else(|| "only root can use another account's keys".to_owned())
    }

    /// Returns whether dropbear can be used here.
    pub fn available() -> bool {
        Self::availability().is_ok()
    }

    /// Returns whether a test with dropbear may run; says so in its output when not.
    ///
    /// # Panics
    /// When dropbear cannot be used and `OCC_REQUIRE_SSHD=1`.
    pub fn require() -> bool {
        require("dropbear", Self::availability(), "OCC_REQUIRE_SSHD")
    }

    /// Starts a server.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with further arguments.
    pub fn start_with(args: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("occ-dropbear-").tempdir_in("/tmp").unwrap();
        let user = test_user();
        let client_key = KeyFile::generate(dir.path().join("client_key"), "ed25519");
        edit_authorized_keys(&user, |lines| lines.push(client_key.public.clone()));
        let host_key_file = dir.path().join("host_key");
        let made = run(Command::new(find_program("dropbearkey").unwrap())
            .args(["-t", "ed25519", "-f"])
            .arg(&host_key_file));
        // The public key is among what it prints, with a comment of its own after it.
        let line = made.lines().find(|line| line.starts_with("ssh-")).unwrap();
        let host_key = line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        for _ in 0..PORT_ATTEMPTS {
            let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
            if let Some(child) = try_start(dir.path(), addr, &host_key_file, args) {
                return Self { dir, addr, user, client_key, host_key, child };
            }
        }
        panic!("no free port for dropbear:\n{}", read_log(dir.path()));
    }

    /// Returns the address it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the port it listens on.
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Returns the login name that the client key is accepted for.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Returns the private key that is accepted.
    pub fn client_key_path(&self) -> &Path {
        &self.client_key.path
    }

    /// Returns the host key as OpenSSH writes it: type and base64.
    pub fn host_public_key(&self) -> &str {
        &self.host_key
    }

    /// Returns the line for `known_hosts`.
    pub fn known_hosts_line(&self) -> String {
        known_hosts_line_for(self.addr, &self.host_key)
    }

    /// Returns its log so far.
    pub fn log(&self) -> String {
        read_log(self.dir.path())
    }

    /// Returns the number of connections: one child process each.
    pub fn session_count(&self) -> usize {
        Process::find(self.child.id()).map_or(0, |process| process.children().len())
    }

    /// Kills every connection with SIGKILL; the listener stays.
    pub fn kill_sessions(&self) {
        let doomed = Process::find(self.child.id()).map(Process::descendants).unwrap_or_default();
        proc::kill_all("dropbear's sessions", || {
            doomed.iter().copied().filter(|process| process.is_alive()).collect()
        });
    }

    /// Returns the mark that the environment of every program of this server holds.
    fn mark(dir: &Path) -> String {
        format!("OCC_TESTKIT={}", dir.display())
    }
}

/// Returns the running server, or nothing when the port was taken.
fn try_start(dir: &Path, addr: SocketAddr, host_key: &Path, args: &[&str]) -> Option<Child> {
    let log = File::options().create(true).append(true).open(log_path(dir)).unwrap();
    let (name, value) = ("OCC_TESTKIT", dir);
    let mut child = Command::new(find_program("dropbear").unwrap())
        // In the foreground, log to stderr, pass the environment on to sessions.
        .args(["-F", "-E", "-e", "-p", &addr.to_string(), "-r"])
        .arg(host_key)
        .arg("-P")
        .arg(dir.join("pid"))
        .args(args)
        .env(name, value)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    // It logs its start before it listens and goes on with no port at all when that is taken.
    let listening = blocking::wait_for("dropbear to listen or fail", DEADLINE, || {
        if read_log(dir).lines().any(|line| line.contains("Failed listening")) {
            return Some(false);
        }
        if child.try_wait().unwrap().is_some() {
            return Some(false);
        }
        std::net::TcpStream::connect(addr).is_ok().then_some(true)
    });
    if listening {
        return Some(child);
    }
    let _ = (child.kill(), child.wait(), std::fs::remove_file(log_path(dir)));
    None
}

fn log_path(dir: &Path) -> PathBuf {
    dir.join("dropbear.log")
}

fn read_log(dir: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(log_path(dir)).unwrap_or_default()).into_owned()
}

/// Changes the lines of the test user's `authorized_keys`.
fn edit_authorized_keys(user: &str, edit: impl FnOnce(&mut Vec<String>)) {
    let _lock = lock();
    let home = home_of(user).unwrap();
    let ssh = home.join(".ssh");
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&ssh).unwrap();
    let path = ssh.join("authorized_keys");
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    edit(&mut lines);
    let new = ssh.join("authorized_keys.new");
    std::fs::write(&new, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
    let id = |flag: &str| run(Command::new("id").args([flag, user])).trim().parse().ok();
    let (uid, gid) = (id("-u"), id("-g"));
    chown(&ssh, uid, gid).unwrap();
    chown(&new, uid, gid).unwrap();
    std::fs::rename(new, path).unwrap();
}

impl Drop for Dropbear {
    fn drop(&mut self) {
        let listener = Process::find(self.child.id());
        let mark = Self::mark(self.dir.path());
        proc::kill_all("dropbear and its sessions", || {
            let tree =
                listener.iter().flat_map(|root| std::iter::once(*root).chain(root.descendants()));
            tree.filter(|process| process.is_alive()).chain(proc::marked(&mark)).collect()
        });
        let _ = self.child.wait();
        edit_authorized_keys(&self.user, |lines| {
            lines.retain(|line| *line != self.client_key.public);
        });
    }
}
