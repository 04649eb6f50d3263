//! [`RealSshd`]: OpenSSH's own server, one per test, with its own keys, port and directory.
//!
//! It runs as the current user. As root its sessions log in as [`crate::user::test_user`], otherwise
//! as the current user. Its processes are followed by parentage from the listener, and by a mark in
//! the sessions' environment for programs that have left that tree.

mod config;

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::keys::{KeyFile, known_hosts_line_for};
use crate::proc::{self, Process, Signal};
use crate::require::{find_program, is_root, require};
use crate::wait::blocking;

pub use config::{RealSshdBuilder, sftp_server};

/// How long sshd may take to listen or to end: it is quick, a loaded machine is not.
const DEADLINE: Duration = Duration::from_secs(20);

/// How many free ports are tried: another process may take one before sshd does.
const PORT_ATTEMPTS: usize = 10;

/// A real sshd. Dropping it ends it with everything that it started.
#[derive(Debug)]
pub struct RealSshd {
    dir: TempDir,
    addr: SocketAddr,
    user: String,
    program: PathBuf,
    client_key: KeyFile,
    host_keys: Vec<KeyFile>,
    /// Programs that its sessions do not find, see [`RealSshdBuilder::without_sftp_server`].
    hidden: Vec<PathBuf>,
    listener: Option<Child>,
    /// Sessions whose listener was replaced: they are no longer below the current one.
    orphans: Vec<Process>,
}

impl RealSshd {
    /// Returns a builder, for settings other than the usual ones.
    pub fn builder() -> RealSshdBuilder {
        RealSshdBuilder::default()
    }

    /// Starts a server with OpenSSH's own defaults, one ed25519 host key and one client key.
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// Returns why sshd cannot be used here, if it cannot.
    pub fn availability() -> Result<(), String> {
        for program in ["sshd", "ssh", "ssh-keygen"] {
            find_program(program)?;
        }
        Ok(())
    }

    /// Returns whether sshd can be used here.
    pub fn available() -> bool {
        Self::availability().is_ok()
    }

    /// Returns whether a test with sshd may run; says so in its output when not.
    ///
    /// # Panics
    /// When sshd is missing and `OCC_REQUIRE_SSHD=1`.
    pub fn require() -> bool {
        require("OpenSSH's sshd", Self::availability(), "OCC_REQUIRE_SSHD")
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

    /// Returns its directory: configuration, keys, `authorized_keys`, log.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the file of accepted public keys. It is read at every login.
    pub fn authorized_keys_path(&self) -> PathBuf {
        self.dir().join("authorized_keys")
    }

    /// Returns the first host key as OpenSSH writes it: type and base64.
    pub fn host_public_key(&self) -> &str {
        &self.host_keys[0].public
    }

    /// Returns all host keys in the order of the builder.
    pub fn host_public_keys(&self) -> impl Iterator<Item = &str> {
        self.host_keys.iter().map(|key| key.public.as_str())
    }

    /// Returns lines for `known_hosts`, one per host key, without a line feed at the end.
    pub fn known_hosts_line(&self) -> String {
        let lines: Vec<String> =
            self.host_public_keys().map(|key| known_hosts_line_for(self.addr, key)).collect();
        lines.join("\n")
    }

    /// Returns its log so far, at level VERBOSE unless the configuration says otherwise.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.dir().join("sshd.log")
    }

    /// Returns the listener's process id.
    ///
    /// # Panics
    /// When it is stopped.
    pub fn pid(&self) -> u32 {
        self.listener.as_ref().expect("sshd is stopped").id()
    }

    /// Returns the per-connection processes: children of the listener and those of earlier ones.
    fn connections(&self) -> Vec<Process> {
        let listener = self.listener.as_ref().and_then(|child| Process::find(child.id()));
        let mut found: Vec<Process> =
            self.orphans.iter().copied().filter(|p| p.is_alive()).collect();
        found.extend(listener.map(Process::children).unwrap_or_default());
        found
    }

    /// Returns the per-connection processes with everything below them.
    fn session_tree(&self) -> Vec<Process> {
        let connections = self.connections();
        let below = connections.iter().flat_map(|process| process.descendants());
        connections.iter().copied().chain(below).collect()
    }

    /// Returns the number of connections: one child process of sshd each, logged in or not.
    pub fn session_count(&self) -> usize {
        self.connections().len()
    }

    /// Kills every connection with SIGKILL, and the programs that run in them; the listener stays.
    pub fn kill_sessions(&self) {
        // Until the first of them is gone, new ones may still belong to the same connection; those that
        // a client makes meanwhile are not this call's business.
        let doomed = self.session_tree();
        let find = || {
            let below = doomed.iter().flat_map(|process| process.descendants());
            doomed.iter().copied().chain(below).filter(|process| process.is_alive()).collect()
        };
        proc::kill_all("sshd's sessions", find);
    }

    /// Stops every connection's sshd with SIGSTOP: the link is up and silent. The programs go on.
    pub fn pause(&self) {
        self.signal_sessions(Signal::STOP);
    }

    /// Undoes [`Self::pause`].
    pub fn resume(&self) {
        self.signal_sessions(Signal::CONT);
    }

    fn signal_sessions(&self, signal: Signal) {
        // `sshd-session` is its name since OpenSSH 9.8.
        let of_sshd = |process: &Process| process.name().starts_with("sshd");
        self.session_tree().into_iter().filter(of_sshd).for_each(|process| process.signal(signal));
    }

    /// Ends only the listening process, as `systemctl restart ssh` does, and starts it on the same
    /// port again. Connections stay.
    pub fn restart_listener(&mut self) {
        self.stop_listener();
        self.start_again();
    }

    /// Ends only the listening process: new connections are refused, existing ones stay.
    pub fn stop_listener(&mut self) {
        self.orphans = self.connections();
        let Some(mut child) = self.listener.take() else { return };
        if let Some(process) = Process::find(child.id()) {
            process.signal(Signal::TERM);
        }
        let ended = blocking::try_wait_for(DEADLINE, || child.try_wait().unwrap());
        if ended.is_none() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Ends the server and every connection, as a reboot does. The port is free until
    /// [`Self::start_again`].
    pub fn stop(&mut self) {
        self.stop_listener();
        self.kill_sessions();
        self.orphans.clear();
    }

    /// Starts the stopped server on the same port.
    pub fn start_again(&mut self) {
        assert!(self.listener.is_none(), "sshd runs already");
        let started = blocking::try_wait_for(DEADLINE, || self.try_start().ok());
        started.unwrap_or_else(|| panic!("sshd did not start again:\n{}", self.log()));
    }

    /// Replaces the host keys by new ones of the same types, as a reinstalled machine has, and restarts
    /// the listener.
    pub fn change_host_keys(&mut self) {
        self.stop_listener();
        for (index, key) in self.host_keys.iter_mut().enumerate() {
            let kind = config::host_key_kind(&key.path);
            *key = config::generate_host_key(self.dir.path(), index, &kind);
        }
        self.start_again();
    }

    /// Starts the listener on `self.addr`; an error is a port that is taken.
    fn try_start(&mut self) -> Result<(), String> {
        let before = self.log().len();
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = match self.hidden.is_empty() {
            true => Command::new(&self.program),
            false => {
                // In a view of the file system of its own, where what is not to be found is no program.
                let mut hiding = Command::new("unshare");
                let script = "while [ \"$1\" != -- ]; do mount --bind /dev/null \"$1\" || exit; shift; done; \
                     shift; exec \"$@\"";
                hiding.args(["--mount", "sh", "-c", script, "sh"]).args(&self.hidden).arg("--");
                hiding.arg(&self.program);
                hiding
            }
        };
        let mut child = command
            .args(["-D", "-e", "-f"])
            .arg(self.dir().join("sshd_config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let state = blocking::wait_for("sshd to listen or fail", DEADLINE, || {
            let new = self.log().get(before..).unwrap_or_default().to_owned();
            if child.try_wait().unwrap().is_some() {
                return Some(Err(new));
            }
            let line = format!("Server listening on {} port {}", self.addr.ip(), self.addr.port());
            new.contains(&line).then_some(Ok(()))
        });
        match state {
            Ok(()) => {
                self.listener = Some(child);
                Ok(())
            }
            Err(log) if log.contains("Address already in use") => Err(log),
            Err(log) => panic!("sshd did not start:\n{log}"),
        }
    }

    /// Returns the mark that the environment of every program of this server holds.
    fn mark(dir: &Path) -> String {
        format!("OCC_TESTKIT={}", dir.display())
    }
}

impl Drop for RealSshd {
    fn drop(&mut self) {
        let listener = self.listener.as_ref().and_then(|child| Process::find(child.id()));
        let mark = Self::mark(self.dir());
        let orphans = std::mem::take(&mut self.orphans);
        proc::kill_all("sshd and its sessions", || {
            let roots = listener.iter().chain(&orphans).copied();
            let tree = roots.flat_map(|root| std::iter::once(root).chain(root.descendants()));
            tree.filter(|process| process.is_alive()).chain(proc::marked(&mark)).collect()
        });
        if let Some(mut child) = self.listener.take() {
            let _ = child.wait();
        }
    }
}
