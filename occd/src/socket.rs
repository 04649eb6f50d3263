//! The control socket: who may hold it, where it lies, who may connect.
//!
//! The lock file beside the socket decides who is the daemon; the socket file never does. So a stale
//! socket is removed without asking, and a live daemon's never is.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use occ_proto::paths::{is_read_only, read_only_beside};
use rustix::fs::Mode;
use rustix::process::umask;

use crate::check::can_make_in;
use crate::ownership::{self, Exposed};

/// Why the daemon cannot have its socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another daemon holds the lock.
    #[error("occd is already running ({}it holds {})", .pid.map(|pid| format!("process {pid}, ")).unwrap_or_default(), .lock.display())]
    AlreadyRunning {
        /// The lock.
        lock: PathBuf,
        /// The process that holds it, as it wrote.
        pid: Option<u32>,
        /// The path that it wrote there first: in the lock of a state its socket, in that of a socket its state.
        other: Option<PathBuf>,
    },
    /// The directory is not private.
    #[error("the directory {path} is not private to you: {why}")]
    NotPrivate {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Others could put another directory in the place of the socket's.
    #[error("the directory {path} {source}")]
    Exposed {
        /// The directory above it, or the link on the way to it.
        path: PathBuf,
        /// Who.
        source: Exposed,
    },
    /// What lies at the socket's path is no socket.
    #[error("{0} exists and is not a socket; move it away")]
    NotASocket(PathBuf),
    /// systemd passed something else than the one socket of occd.socket.
    #[error("the socket that systemd passed cannot be used: {0}")]
    NotUsable(String),
    /// The path is that of a socket for those who only look.
    #[error(
        "{0} has the name of a socket that is read-only (-ro); the control socket needs another one"
    )]
    ReadOnlyName(PathBuf),
    /// The path has no directory.
    #[error("the socket path {0} has no directory")]
    NoDirectory(PathBuf),
    /// The system refused.
    #[error("{what} {path}")]
    Io {
        /// What was done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

fn io_error<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> SocketError + 'a {
    move |source| SocketError::Io { what, path: path.to_owned(), source }
}

/// The name under which systemd passes the control socket (`FileDescriptorName=` of occd.socket).
const PASSED_NAME: &str = "occd";
/// Clients that may wait to be accepted; the system's limit (`net.core.somaxconn`) may be less.
const BACKLOG: i32 = 4096;

/// The control socket as systemd passed it (sd_listen_fds(3)): it is bound, and clients may wait already.
#[derive(Debug)]
pub struct PassedSocket {
    listener: StdListener,
    path: PathBuf,
}

impl PassedSocket {
    /// Takes it, if there is one. Called before any thread exists: the variables that tell of it are removed, so
    /// that no program below us takes them for its own.
    pub fn take() -> Result<Option<Self>, SocketError> {
        let own = std::process::id().to_string();
        if std::env::var("LISTEN_PID").ok() != Some(own) {
            return Ok(None);
        }
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut passed = listenfd::ListenFd::from_env();
        let unusable = |why: String| SocketError::NotUsable(why);
        let index = match passed.len() {
            0 => return Ok(None),
            1 => 0,
            count => names
                .split(':')
                .position(|name| name == PASSED_NAME)
                .ok_or_else(|| unusable(format!("there are {count}, none named {PASSED_NAME}")))?,
        };
        let listener = passed
            .take_unix_listener(index)
            .map_err(|error| unusable(error.to_string()))?
            .ok_or_else(|| unusable(format!("there is none named {PASSED_NAME}")))?;
        let address = listener.local_addr().map_err(|error| unusable(error.to_string()))?;
        let path = address.as_pathname().filter(|path| path.is_absolute());
        let path = path.ok_or_else(|| unusable("it has no path".to_owned()))?.to_owned();
        Ok(Some(Self { listener, path }))
    }

    /// Returns where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The file of a socket that this daemon made. Dropping it removes the file.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl SocketFile {
    /// Binds a socket. Called with the lock held, and before any thread exists, because the file mode that the socket is
    /// born with comes from the process's umask.
    fn bind(path: &Path) -> Result<(Self, StdListener), SocketError> {
        remove_stale(path)?;
        let before = umask(Mode::from_raw_mode(0o177));
        let bound = StdListener::bind(path);
        umask(before);
        let listener = bound.map_err(io_error("could not bind", path))?;
        listener.set_nonblocking(true).map_err(io_error("could not set up", path))?;
        let file = Self::of(path).map_err(io_error("could not look at", path))?;
        Ok((file, listener))
    }

    /// Returns the file of a socket that was bound just now.
    ///
    /// # Errors
    /// When it is not there any more.
    pub fn of(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), inode: (metadata.dev(), metadata.ino()) })
    }

    /// Returns where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody may have replaced the file; theirs is not ours to remove.
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.inode);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "the socket could not be removed");
        }
    }
}

/// The socket that this daemon owns. Dropping it removes the socket file, if the daemon made it, then releases the
/// lock.
#[derive(Debug)]
pub struct OwnedSocket {
    path: PathBuf,
    /// That we made.
    _file: Option<SocketFile>,
    lock: File,
}

/// The file of a lock that is held. Somebody may remove it, or have another one in its place: the lock keeps nobody out
/// then.
#[derive(Debug)]
pub(crate) struct LockFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl LockFile {
    /// Returns the one that is there now.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), inode: (metadata.dev(), metadata.ino()) })
    }

    /// Returns whether it is gone for certain.
    pub(crate) fn is_lost(&self) -> bool {
        match Self::of(&self.path) {
            Ok(now) => now.inode != self.inode,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }
}

/// The lock beside a socket.
#[derive(Debug)]
pub struct SocketLock {
    path: PathBuf,
    lock: File,
}

impl SocketLock {
    /// Takes the lock of a socket, in a directory that is ours alone, and writes there who has it and where that has its
    /// state, its settings and its keys: the directory of each.
    pub fn take(path: &Path, has: [&Path; 3]) -> Result<Self, SocketError> {
        private_dir(directory(path)?)?;
        Ok(Self { path: path.to_owned(), lock: lock(&lock_of(path), &has)? })
    }

    /// Returns the file as it is now.
    pub(crate) fn file(&self) -> io::Result<LockFile> {
        LockFile::of(&lock_of(&self.path))
    }

    /// Binds the socket. Called before any thread exists, because the file mode that the socket is born with comes from
    /// the process's umask.
    pub fn bind(self) -> Result<(OwnedSocket, StdListener), SocketError> {
        let Self { path, lock } = self;
        let (file, listener) = SocketFile::bind(&path)?;
        Ok((OwnedSocket { path, _file: Some(file), lock }, listener))
    }

    /// Has the socket that systemd bound. It stays systemd's: it is not removed, and clients may wait there for the next
    /// daemon.
    pub fn adopt(self, passed: PassedSocket) -> Result<(OwnedSocket, StdListener), SocketError> {
        let Self { path, lock } = self;
        let listener = passed.listener;
        listener.set_nonblocking(true).map_err(io_error("could not set up", &path))?;
        // Whoever listens last is whom a client takes for its peer (SO_PEERCRED): us, and not systemd.
        socket2::SockRef::from(&listener)
            .listen(BACKLOG)
            .map_err(io_error("could not listen on", &path))?;
        Ok((OwnedSocket { path, _file: None, lock }, listener))
    }
}

impl Drop for OwnedSocket {
    /// Takes its name out of the lock: one that is killed leaves it, by which clients know that nobody wanted its end.
    fn drop(&mut self) {
        if let Err(error) = self.lock.set_len(0) {
            tracing::warn!(%error, "the lock keeps this daemon's name");
        }
    }
}

impl OwnedSocket {
    /// Binds the read-only socket, which lies beside this one: `occd-ro.sock` beside `occd.sock`.
    pub fn bind_read_only(&self) -> Result<(SocketFile, StdListener), SocketError> {
        SocketFile::bind(&read_only_beside(&self.path))
    }

    /// Returns the socket's path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Returns the lock of a socket.
pub(crate) fn lock_of(path: &Path) -> PathBuf {
    path.with_extension("lock")
}

/// Returns why the socket could not be had, except that another daemon holds the lock. Changes nothing.
pub(crate) fn check(path: &Path) -> Result<(), SocketError> {
    let dir = directory(path)?;
    if dir.symlink_metadata().is_ok() {
        check_private(dir)?;
    }
    can_make_in(dir).map_err(io_error("nothing can be made in", dir))?;
    let lock = lock_of(path);
    match open_lock(OpenOptions::new().read(true).write(true), &lock) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io_error("could not open the lock", &lock)(error));
        }
        _ => {}
    }
    is_stale(path).map(|_| ())
}

/// Refuses a lock that another daemon holds.
pub(crate) fn check_free(lock: &Path) -> Result<(), SocketError> {
    // One that cannot be looked at is nobody's, as it is to a daemon that starts.
    let Ok(mut file) = open_lock(OpenOptions::new().read(true), lock) else { return Ok(()) };
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Err(held_by(lock, &mut file)),
        _ => Ok(()),
    }
}

fn open_lock(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    // A named pipe without a writer does not hang the opening.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    options.custom_flags(flags.bits().cast_signed()).open(path)
}

/// Returns that another holds a lock, with what it wrote there.
fn held_by(path: &Path, lock: &mut File) -> SocketError {
    let mut text = String::new();
    // One that cannot be read is held all the same.
    let _ = lock.read_to_string(&mut text);
    let mut lines = text.lines();
    let pid = lines.next().and_then(|line| line.trim().parse().ok());
    let other = lines.next().map(PathBuf::from);
    SocketError::AlreadyRunning { lock: path.to_owned(), pid, other }
}

/// Returns the directory that a control socket is in.
fn directory(path: &Path) -> Result<&Path, SocketError> {
    if is_read_only(path) {
        return Err(SocketError::ReadOnlyName(path.to_owned()));
    }
    path.parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .ok_or_else(|| SocketError::NoDirectory(path.to_owned()))
}

/// Makes the directory, or checks that the one there is ours alone: anybody who can write to it could put
/// a socket of his own in place of ours.
fn private_dir(dir: &Path) -> Result<(), SocketError> {
    match DirBuilder::new().mode(0o700).recursive(true).create(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(io_error("could not create", dir)(error)),
    }
    check_private(dir)
}

fn check_private(dir: &Path) -> Result<(), SocketError> {
    let metadata = std::fs::symlink_metadata(dir).map_err(io_error("could not look at", dir))?;
    let not_private = |why: String| Err(SocketError::NotPrivate { path: dir.to_owned(), why });
    if metadata.is_symlink() {
        return not_private("it is a symbolic link".into());
    }
    if !metadata.is_dir() {
        return not_private("it is not a directory".into());
    }
    let me = rustix::process::geteuid().as_raw();
    if metadata.uid() != me {
        return not_private(format!("it belongs to user id {}", metadata.uid()));
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return not_private(format!("it has mode {mode:04o}; chmod 700 it"));
    }
    ownership::check_way_to(dir).map_err(|(path, source)| SocketError::Exposed { path, source })
}

/// How often, and after which pause, a lock is tried again: whoever asks who holds it has it for a moment.
const LOOKS: u32 = 20;
const LOOK: Duration = Duration::from_millis(5);

/// Takes a lock, and writes there who has it, and other paths by which it is known.
pub(crate) fn lock(path: &Path, others: &[&Path]) -> Result<File, SocketError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file =
        open_lock(&mut options, path).map_err(io_error("could not open the lock", path))?;
    let mut locked = file.try_lock();
    for _ in 0..LOOKS {
        if !matches!(locked, Err(TryLockError::WouldBlock)) {
            break;
        }
        std::thread::sleep(LOOK);
        locked = file.try_lock();
    }
    match locked {
        Ok(()) => {
            // For whoever finds the lock held and no socket, or no state: somebody may have removed that.
            let mut lines = format!("{}\n", std::process::id());
            lines.extend(others.iter().map(|path| format!("{}\n", path.display())));
            // In this order it is never empty, as one that has ended leaves it.
            let written = file.write_all(lines.as_bytes());
            let written = written.and_then(|()| file.set_len(lines.len() as u64));
            written.map_err(io_error("could not write", path))?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => Err(held_by(path, &mut file)),
        Err(TryLockError::Error(error)) => Err(io_error("could not lock", path)(error)),
    }
}

/// Removes the socket that a daemon left behind. Only called with the lock held.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    if !is_stale(path)? {
        return Ok(());
    }
    std::fs::remove_file(path).map_err(io_error("could not remove the stale socket", path))
}

/// Returns whether there is a socket, and refuses what is none.
fn is_stale(path: &Path) -> Result<bool, SocketError> {
    use std::os::unix::fs::FileTypeExt as _;
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io_error("could not look at", path)(error)),
        Ok(metadata) if metadata.file_type().is_socket() => Ok(true),
        Ok(_) => Err(SocketError::NotASocket(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn bind(path: &Path) -> Result<(OwnedSocket, StdListener), SocketError> {
        SocketLock::take(path, [Path::new("/home"); 3])?.bind()
    }

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().mode() & 0o777
    }

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_socket_and_its_directory_are_private_whatever_the_umask() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("occ/occd.sock");
        let (owned, _listener) = bind(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        drop(owned);
        assert!(!path.exists());
    }

    #[test]
    fn a_second_daemon_is_refused_and_a_stale_socket_is_not_in_the_way() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("occ/occd.sock");
        let (owned, _listener) = bind(&path).unwrap();
        let own = std::process::id();
        let refused = bind(&path);
        assert!(
            matches!(refused, Err(SocketError::AlreadyRunning { pid, .. }) if pid == Some(own))
        );
        assert!(path.exists(), "the live daemon's socket stays");
        // What a daemon that was killed leaves: the file, without the lock.
        std::mem::drop(owned);
        drop(StdListener::bind(&path).unwrap());
        assert!(path.exists());
        bind(&path).unwrap();
    }

    #[test]
    fn a_directory_that_others_could_use_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let refused =
            |dir: &Path| matches!(bind(&dir.join("s.sock")), Err(SocketError::NotPrivate { .. }));
        let open = root.path().join("open");
        std::fs::create_dir(&open).unwrap();
        set_mode(&open, 0o755);
        assert!(refused(&open));

        let real = root.path().join("real");
        std::fs::create_dir(&real).unwrap();
        set_mode(&real, 0o700);
        let link = root.path().join("link");
        symlink(&real, &link).unwrap();
        assert!(refused(&link));

        if rustix::process::geteuid().is_root() {
            let foreign = root.path().join("foreign");
            std::fs::create_dir(&foreign).unwrap();
            set_mode(&foreign, 0o700);
            std::os::unix::fs::chown(&foreign, Some(65534), None).unwrap();
            assert!(refused(&foreign));
        }

        // Whoever may write to the one above could put another in its place.
        let above = root.path().join("above");
        let within = above.join("occ");
        std::fs::create_dir(&above).unwrap();
        set_mode(&above, 0o777);
        let exposed = bind(&within.join("s.sock"));
        assert!(matches!(exposed, Err(SocketError::Exposed { path, .. }) if path == above));
        set_mode(&above, 0o1777);
        assert!(bind(&within.join("s.sock")).is_ok());
    }

    #[test]
    fn a_file_in_the_way_is_not_removed() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("d");
        std::fs::create_dir(&dir).unwrap();
        set_mode(&dir, 0o700);
        let path = dir.join("s.sock");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path), Err(SocketError::NotASocket(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
