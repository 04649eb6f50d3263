//! [`EmbeddedHost`]: an SSH server in this process, for faults that a real one cannot produce, and as a
//! throw-away host for the demo.
//!
//! It runs commands for real with `/bin/sh -c` and forwards to real sockets, on a thread of its own.
//! It offers no terminal, no environment variables from the client and, but for files where it is told to, no subsystem: those are refused.
//! One limit of the library shows: a program that does not read its input stops its whole connection
//! once 64 MiB wait for it.

mod connection;
mod exec;
mod faults;
mod forward;
mod handler;
mod stream;

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{PrivateKey, PublicKey};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::keys::known_hosts_line_for;
use crate::proc;
use crate::worker::Worker;
use faults::Faults;

pub use faults::{Phase, Refusal};

/// A credential that a client offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The login name.
    pub user: String,
    /// The method: `none`, `publickey`, `password`, `keyboard-interactive`.
    pub method: &'static str,
    /// The key as OpenSSH writes it, for `publickey`.
    pub key: Option<String>,
}

/// What came of a channel that the server tried to open to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsolicited {
    /// The channel's type as RFC 4254 and OpenSSH name it.
    pub kind: &'static str,
    /// Whether the client refused it.
    pub rejected: bool,
}

#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicU64,
    active: Arc<AtomicUsize>,
    auth_attempts: AtomicU64,
    execs: AtomicU64,
    channels: Arc<AtomicUsize>,
    close_before_success: AtomicU64,
}

#[derive(Debug)]
struct Shared {
    faults: watch::Sender<Faults>,
    counters: Counters,
    offered: Mutex<Vec<Offer>>,
    unsolicited: Mutex<Vec<Unsolicited>>,
    host_key: Mutex<PrivateKey>,
    accepted_keys: Mutex<Vec<PublicKey>>,
    drop_connections: watch::Sender<()>,
    home: PathBuf,
    user: String,
}

/// An SSH server in this process. Dropping it ends its connections, its programs and its thread.
#[derive(Debug)]
pub struct EmbeddedHost {
    addr: SocketAddr,
    home: TempDir,
    shared: Arc<Shared>,
    worker: Option<Worker>,
}

impl EmbeddedHost {
    /// Starts a server on a free loopback port, with a new host key and one accepted client key.
    /// Every login name is accepted with that key.
    pub fn start() -> Self {
        let home = tempfile::Builder::new().prefix("occ-host-").tempdir_in("/tmp").unwrap();
        let client_key = new_key();
        let file = client_key_file(home.path());
        std::fs::write(&file, client_key.to_openssh(LineEnding::LF).unwrap().as_bytes()).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let shared = Arc::new(Shared {
            faults: watch::Sender::new(Faults::default()),
            counters: Counters::default(),
            offered: Mutex::default(),
            unsolicited: Mutex::default(),
            host_key: Mutex::new(new_key()),
            accepted_keys: Mutex::new(vec![client_key.public_key().clone()]),
            drop_connections: watch::Sender::new(()),
            home: home.path().to_owned(),
            user: crate::user::current_user(),
        });
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        let worker = Worker::start("embedded-host", |stop| {
            connection::accept_loop(listener, Arc::clone(&shared), stop)
        });
        Self { addr, home, shared, worker: Some(worker) }
    }

    /// Returns the address it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the port it listens on.
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Returns a login name to use; any other does as well. Programs run as the current user.
    pub fn user(&self) -> &str {
        &self.shared.user
    }

    /// Returns the home directory of its programs.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Returns the private key that is accepted.
    pub fn client_key_path(&self) -> PathBuf {
        client_key_file(self.home.path())
    }

    /// Returns the host key as OpenSSH writes it: type and base64.
    pub fn host_public_key(&self) -> String {
        self.shared.host_key.lock().unwrap().public_key().to_openssh().unwrap()
    }

    /// Returns the line for `known_hosts`.
    pub fn known_hosts_line(&self) -> String {
        known_hosts_line_for(self.addr, &self.host_public_key())
    }

    /// Uses a new host key for connections from now on.
    pub fn change_host_key(&self) {
        *self.shared.host_key.lock().unwrap() = new_key();
    }

    /// Accepts another public key, given as OpenSSH writes it.
    pub fn accept_key(&self, public: &str) {
        let key = PublicKey::from_openssh(public).unwrap();
        self.shared.accepted_keys.lock().unwrap().push(key);
    }

    fn set(&self, change: impl FnOnce(&mut Faults)) {
        self.shared.faults.send_modify(change);
    }

    /// Goes silent in a phase, for each connection that comes to it, until [`Self::clear_stall`].
    pub fn stall_at(&self, phase: Phase) {
        self.set(|faults| faults.stall = Some(phase));
    }

    /// Ends the stall; stalled connections go on, but a request for a command at which it stalled is lost.
    pub fn clear_stall(&self) {
        self.set(|faults| faults.stall = None);
    }

    /// Sends these bytes instead of an SSH server's first line, and keeps the connection open.
    pub fn garbage_banner(&self, bytes: impl Into<Vec<u8>>) {
        self.set(|faults| faults.banner = faults::Banner::Garbage(bytes.into()));
    }

    /// Sends these bytes instead of an SSH server's first line and closes, as sshd does with `Not
    /// allowed at this time` when it penalises an address.
    pub fn farewell_banner(&self, bytes: impl Into<Vec<u8>>) {
        self.set(|faults| faults.banner = faults::Banner::Farewell(bytes.into()));
    }

    /// Behaves as a web server: says nothing first, answers the client's line with `400` and closes.
    pub fn http_banner(&self) {
        self.set(|faults| faults.banner = faults::Banner::Http);
    }

    /// Speaks SSH again.
    pub fn ssh_banner(&self) {
        self.set(|faults| faults.banner = faults::Banner::Ssh);
    }

    /// Says this before the login (RFC 4252, section 5.4).
    pub fn say_before_login(&self, text: &str) {
        self.set(|faults| faults.before_login = Some(text.to_owned()));
    }

    /// Asks for passwords, too. None is right.
    pub fn ask_passwords(&self, on: bool) {
        self.set(|faults| faults.ask_passwords = on);
    }

    /// Asks two questions, one after the other, whose answers are `pin` and `code`.
    pub fn ask_twice(&self, on: bool) {
        self.set(|faults| faults.ask_twice = on);
    }

    /// Closes each connection just after it has logged in.
    pub fn drop_after_auth(&self, on: bool) {
        self.set(|faults| faults.drop_after_auth = on);
    }

    /// Closes each connection at its first offer of a credential, without an answer.
    pub fn drop_during_auth(&self, on: bool) {
        self.set(|faults| faults.drop_during_auth = on);
    }

    /// Refuses every credential.
    pub fn reject_auth(&self, on: bool) {
        self.set(|faults| faults.reject_auth = on);
    }

    /// Closes the channels of the next `count` commands before saying whether they started; they do not.
    pub fn close_channel_before_success(&self, count: u64) {
        self.shared.counters.close_before_success.store(count, Ordering::SeqCst);
    }

    /// Never closes a channel first: after a program's end its status and the end of its output come,
    /// and then nothing.
    pub fn never_close_channel(&self, on: bool) {
        self.set(|faults| faults.never_close = on);
    }

    /// Opens channels of every kind to each client that has logged in, see [`Self::unsolicited`].
    pub fn open_unsolicited_channels(&self, on: bool) {
        self.set(|faults| faults.open_unsolicited = on);
    }

    /// Refuses session channels beyond `count` per connection. `None` lifts the limit.
    pub fn max_sessions(&self, limit: Option<(usize, Refusal)>) {
        self.set(|faults| faults.max_sessions = limit);
    }

    /// Takes signals and does nothing with them.
    pub fn ignore_signals(&self, on: bool) {
        self.set(|faults| faults.ignore_signals = on);
    }

    /// Closes channels without saying how the program ended.
    pub fn exit_without_status(&self, on: bool) {
        self.set(|faults| faults.exit_without_status = on);
    }

    /// Tells how a program ended and then disconnects; what the program wrote is never sent. OpenSSH, too, may
    /// send a status before output, and a link may break between the two.
    pub fn disconnect_before_output(&self, on: bool) {
        self.set(|faults| faults.disconnect_before_output = on);
    }

    /// Serves files, through OpenSSH's `sftp-server`, and refuses every command.
    pub fn serve_files_alone(&self, on: bool) {
        self.set(|faults| faults.files_alone = on);
    }

    /// Closes every open connection without a word of SSH; programs in them are killed.
    pub fn drop_connections(&self) {
        self.shared.drop_connections.send_replace(());
    }

    /// Returns the number of TCP connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.counters.accepted.load(Ordering::SeqCst)
    }

    /// Returns the number of TCP connections open now.
    pub fn active_connections(&self) -> usize {
        self.shared.counters.active.load(Ordering::SeqCst)
    }

    /// Returns the number of credentials offered so far, the `none` of a client's first question apart.
    pub fn auth_attempts(&self) -> u64 {
        self.shared.counters.auth_attempts.load(Ordering::SeqCst)
    }

    /// Returns the offers so far, in their order.
    pub fn offered_auth(&self) -> Vec<Offer> {
        self.shared.offered.lock().unwrap().clone()
    }

    /// Returns the number of channels open now, on all connections.
    pub fn open_channels(&self) -> usize {
        self.shared.counters.channels.load(Ordering::SeqCst)
    }

    /// Returns the number of commands asked for so far, those that were not started included.
    pub fn execs(&self) -> u64 {
        self.shared.counters.execs.load(Ordering::SeqCst)
    }

    /// Returns what came of the unsolicited channels so far.
    pub fn unsolicited(&self) -> Vec<Unsolicited> {
        self.shared.unsolicited.lock().unwrap().clone()
    }
}

/// The number of unsolicited channels that each login gets, when they are on.
pub const UNSOLICITED_KINDS: usize = 7;

/// What marks the programs of a host in their environment, with the value of its home.
const MARK: &str = "OCC_TESTKIT";

fn client_key_file(home: &Path) -> PathBuf {
    home.join("client_key")
}

/// Returns a new ed25519 key. Made without `ssh-keygen`, so that the demo needs nothing installed.
fn new_key() -> PrivateKey {
    let mut seed = [0; 32];
    let mut random = std::fs::File::open("/dev/urandom").unwrap();
    std::io::Read::read_exact(&mut random, &mut seed).unwrap();
    PrivateKey::from(Ed25519Keypair::from_seed(&seed))
}

impl Drop for EmbeddedHost {
    fn drop(&mut self) {
        drop(self.worker.take());
        // Programs that left their group, or were left running by a command that ended.
        let mark = format!("{MARK}={}", self.home.path().display());
        proc::kill_all("the embedded host's programs", || proc::marked(&mark));
    }
}
