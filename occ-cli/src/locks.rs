//! The locks of the daemon and of whoever starts it.
//!
//! A daemon holds one beside its socket and one in this user's state, `occd.lock`: it is known by them also where nobody
//! reaches it. Who starts, or replaces, one holds `start.lock` meanwhile. That is one for each state, as the daemon is,
//! whatever the socket: an `occ` that looks for it elsewhere, as without XDG_RUNTIME_DIR, starts none beside it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use occ_proto::paths::Env;
use occ_proto::text::sanitize;
use rustix::fs::{Access, FlockOperation, OFlags, access, flock};
use rustix::process::geteuid;

use crate::autostart::START;
use crate::endpoint::{directory, shown};
use crate::error::CliError;
use crate::hint::{and_then, shell_word, ways_to};
use crate::output::Ui;

/// The lock of whoever starts a daemon.
const START_LOCK: &str = "start.lock";

/// How long whoever waits for a turn says nothing.
const AT_ONCE: Duration = Duration::from_secs(2);

/// What to do where root would leave its files in another user's place.
pub(crate) const NOT_AS_ROOT: &str =
    "run it as that user, without sudo, or with root's own HOME: sudo -H";

/// The right to start a daemon, or to replace the one there is, which one `occ` has at a time. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    /// Nothing where the state has no place for it: an occd that has none there either says so.
    _lock: Option<File>,
}

/// Waits until it is our turn to start a daemon. Where it is may be another place then: whoever was before us may have
/// started it.
pub(crate) async fn turn(ui: &Ui) -> Result<Turn, CliError> {
    refuse_as_root()?;
    let Some(path) = start_lock() else { return Ok(Turn { _lock: None }) };
    let made = DirBuilder::new().mode(0o700).recursive(true).create(directory(&path));
    let lock = match made.and_then(|()| open(&path, true)) {
        Ok(lock) => lock,
        Err(error) => {
            return match cure_of_lock(&path, START) {
                Some(cure) => Err(cannot_be_opened(&path, &error).hint(cure)),
                None => Ok(Turn { _lock: None }),
            };
        }
    };
    // Who has it stops a daemon and starts one, and both have their limits: this ends.
    let mut locking = tokio::task::spawn_blocking(|| {
        loop {
            match flock(&lock, FlockOperation::LockExclusive) {
                Err(rustix::io::Errno::INTR) => {}
                done => return done.map(|()| lock),
            }
        }
    });
    let locked = match tokio::time::timeout(AT_ONCE, &mut locking).await {
        Ok(locked) => locked,
        Err(_) => {
            let who = held(&path).filter(|text| !text.trim().is_empty());
            let who = who.map_or_else(
                || "another program".to_owned(),
                |pid| format!("process {}", sanitize(pid.trim())),
            );
            let path = shown(&path);
            ui.note(&format!("Waiting: {who} starts or replaces occd (it holds {path})."));
            locking.await
        }
    };
    // Not every file system has locks.
    let lock = locked.ok().and_then(Result::ok);
    if let Some(mut lock) = lock.as_ref() {
        // For whoever waits, and sees that it takes long. That it cannot be written is no reason not to start.
        let _ = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
    }
    Ok(Turn { _lock: lock })
}

/// Returns the lock of whoever starts a daemon.
fn start_lock() -> Option<PathBuf> {
    Env::from_process().state_dir().ok().map(|state| state.join(START_LOCK))
}

/// Refuses to start a daemon as root whose files would lie in what is another user's, as with `sudo` that keeps HOME: that user
/// could not use them afterwards.
pub(crate) fn refuse_as_root() -> Result<(), CliError> {
    if !geteuid().is_root() {
        return Ok(());
    }
    // One that is closed to root as well is told as that.
    let is_open = |(place, _): &(PathBuf, u32)| access(place, Access::WRITE_OK).is_ok();
    match Env::from_process().of_others(0).find(is_open) {
        Some((place, owner)) => {
            let text = format!(
                "{} belongs to user {owner}, who could not use what root leaves there.",
                shown(&place)
            );
            Err(CliError::daemon(text).hint(NOT_AS_ROOT))
        }
        None => Ok(()),
    }
}

fn open(path: &Path, make: bool) -> io::Result<File> {
    // A named pipe without a writer does not hang the opening.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(make)
        .truncate(false)
        .mode(0o600)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

/// Returns what to do about something in the lock's place that cannot be opened. In a directory of ours it is ours to move, and
/// nothing is in it.
fn cure_of_lock(path: &Path, then: &str) -> Option<String> {
    path.symlink_metadata().ok()?;
    let word = shell_word(&path.to_string_lossy());
    Some(and_then(format!("mv {word} {word}.old"), then))
}

/// Returns why a lock that a start takes cannot be had, the starter's or the daemon's, and what to do. `then` starts it.
pub(crate) fn unusable(socket: &Path, then: &str) -> Option<(String, String)> {
    [start_lock(), Some(lock_of(socket))].iter().flatten().find_map(|path| {
        let cure = cure_of_lock(path, then)?;
        let error = open(path, false).err()?;
        Some((cannot_be_opened(path, &error).message, cure))
    })
}

fn cannot_be_opened(path: &Path, error: &io::Error) -> CliError {
    CliError::daemon(format!("{} cannot be opened: {error}", shown(path)))
}

/// Returns the lock of the daemon that has that socket.
fn lock_of(socket: &Path) -> PathBuf {
    socket.with_extension("lock")
}

/// Returns whether a daemon has that socket.
pub(crate) fn is_had(socket: &Path) -> bool {
    held(&lock_of(socket)).is_some()
}

/// Returns the process of a daemon that holds its lock. It may have no socket: somebody removed the file, or the directory with
/// the lock that is beside it.
pub(crate) fn holder(socket: &Path) -> Option<i32> {
    let beside = held(&lock_of(socket)).and_then(|text| text.lines().next()?.trim().parse().ok());
    beside.or_else(|| {
        let (pid, serves) = holder_of_state(&Env::from_process())?;
        (serves == socket).then_some(pid)
    })
}

/// Returns whether the last daemon that had that socket was killed: one that ends takes its name out of the lock.
pub(crate) fn was_killed(socket: &Path) -> bool {
    let has_name = std::fs::metadata(lock_of(socket)).is_ok_and(|meta| meta.len() > 0);
    has_name && holder(socket).is_none()
}

/// Returns the process of the daemon that has this user's state, and its socket, as it wrote them.
pub(crate) fn holder_of_state(env: &Env) -> Option<(i32, PathBuf)> {
    let text = held(&env.state_dir().ok()?.join("occd.lock"))?;
    let (pid, socket) = text.trim_end().split_once('\n')?;
    Some((pid.trim().parse().ok()?, PathBuf::from(socket)))
}

/// Returns what is to be said of a daemon that has that socket, and its state, settings or keys elsewhere than one that is
/// started in this environment: that would have other hosts.
pub(crate) fn holder_of_another_home(socket: &Path) -> Option<String> {
    const HAS: [&str; 3] = ["state", "settings", "home"];
    let env = Env::from_process();
    let own = [env.state_dir().ok()?, env.config_dir().ok()?, env.home.clone()?];
    let text = held(&lock_of(socket))?;
    let mut lines = text.lines();
    let pid = lines.next()?.trim();
    let theirs = HAS.iter().zip(lines).zip(own);
    let (what, there) =
        theirs.filter(|((_, line), own)| Path::new(line) != own).map(|(of, _)| of).next()?;
    let (pid, there) = (sanitize(pid), sanitize(there));
    let variable = match *what {
        "state" => "HOME or XDG_STATE_HOME",
        "settings" => "HOME or XDG_CONFIG_HOME",
        _ => "HOME",
    };
    Some(format!("process {pid} has its {what} in {there}: it was started with another {variable}"))
}

/// Returns where a daemon of ours serves that has another socket, and what to do about it.
pub(crate) fn elsewhere(socket: &Path) -> Option<(String, String)> {
    let (pid, other) = holder_of_state(&Env::from_process())?;
    (other != socket).then(|| {
        let other = shown(&other);
        let text = format!("Another occd (process {pid}) runs on the socket {other}.");
        (text, ways_to(&other))
    })
}

/// Returns what is written in a lock that somebody holds. What is in one that nobody holds is a process that is gone.
fn held(lock: &Path) -> Option<String> {
    // A named pipe without a writer does not hang the opening.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(lock).ok()?;
    let free = flock(&file, FlockOperation::NonBlockingLockShared).is_ok();
    let mut text = String::new();
    (!free && io::Read::read_to_string(&mut file, &mut text).is_ok()).then_some(text)
}
