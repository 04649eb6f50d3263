//! The daemon's socket: where it is, and whether who serves it is to be trusted.

use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::time::Duration;

use occ_proto::paths::{Env, PathError, is_grants};
use occ_proto::text::sanitize;
use tokio::net::UnixStream;

use crate::autostart::RESTART;
use crate::commands::Context;
use crate::error::CliError;
use crate::hint::{NO_HOME, and_then, cure_of, in_the_way, shell_word};
use crate::locks;

/// How long to wait in line to be let in.
const IN_LINE: Duration = Duration::from_secs(10);

/// Why there is no connection.
pub(crate) enum Failure {
    /// Nobody listens.
    Absent,
    /// Somebody does, or something is wrong.
    Refused(CliError),
}

/// Returns where the daemon's socket is. Where nobody names one, and no daemon has the usual one, it is that of the daemon which
/// has this user's state: that may have been started with another XDG_RUNTIME_DIR, or none, as cron and `su` do.
pub(crate) fn socket_path(context: &Context<'_>) -> Result<PathBuf, CliError> {
    let socket = lasting_socket(context)?;
    if socket.symlink_metadata().is_ok() { Ok(socket) } else { named_socket(context) }
}

/// Returns the same also where the daemon has lost its socket: it can be told to end by its lock alone.
pub(crate) fn lasting_socket(context: &Context<'_>) -> Result<PathBuf, CliError> {
    let usual = named_socket(context)?;
    let env = Env::from_process();
    // One that was left behind is nobody's.
    let is_had = || usual.symlink_metadata().is_ok() && locks::is_had(&usual);
    if context.socket.is_some() || env.occ_socket.is_some() || is_had() {
        return Ok(usual);
    }
    Ok(locks::holder_of_state(&env).map_or(usual, |(_, socket)| socket))
}

/// Returns where it is by what is named: `--socket`, OCC_SOCKET, else the usual place.
pub(crate) fn named_socket(context: &Context<'_>) -> Result<PathBuf, CliError> {
    Env::from_process().socket(context.socket.as_deref()).map_err(|error| {
        let text = sanitize(&error.to_string());
        match error {
            PathError::NoHome(_) | PathError::RelativeHome(..) => {
                CliError::daemon(format!("{text}.")).hint(NO_HOME)
            }
            PathError::SocketNotAbsolute(path) => {
                let given =
                    if context.socket.is_some() { "--socket " } else { "export OCC_SOCKET=" };
                // As Docker's variables have it, and D-Bus's.
                let of_url = ["unix://", "unix:"]
                    .iter()
                    .find_map(|scheme| path.to_str()?.strip_prefix(scheme));
                let meant = match of_url.filter(|path| path.starts_with('/')) {
                    Some(path) => shown(Path::new(path)),
                    None => format!("\"$PWD/{}\"", shown(&path)),
                };
                CliError::usage(format!("{text}."))
                    .hint(format!("{given}{meant}, or leave it out for the usual one"))
            }
            PathError::SocketPathTooLong { .. } => CliError::usage(format!("{text}."))
                .hint("export OCC_SOCKET=PATH, with a shorter one in a directory of its own"),
        }
    })
}

/// Returns a checked connection to a daemon that must be there.
pub(crate) async fn connect_checked(socket: &Path) -> Result<UnixStream, CliError> {
    match try_connect(socket).await {
        Ok(stream) => Ok(stream),
        Err(Failure::Refused(error)) => Err(error),
        Err(Failure::Absent) => Err(CliError::daemon("occd went away.").hint("occ daemon start")),
    }
}

/// Connects, and waits where others are before us: the kernel's line is full then (`EAGAIN`, unix(7)).
async fn open(socket: &Path) -> io::Result<UnixStream> {
    let full = match UnixStream::connect(socket).await {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => error,
        done => return done,
    };
    // Who waits in the kernel has its turn; who asks again and again has none where others do so, too.
    let path = socket.to_owned();
    let waiting = tokio::task::spawn_blocking(|| std::os::unix::net::UnixStream::connect(path));
    let stream = match tokio::time::timeout(IN_LINE, waiting).await {
        Ok(waited) => waited.map_err(io::Error::other)??,
        Err(_) => return Err(full),
    };
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

pub(crate) async fn try_connect(socket: &Path) -> Result<UnixStream, Failure> {
    match check_directory(socket) {
        Ok(true) => {}
        Ok(false) => return Err(Failure::Absent),
        Err(error) => return Err(Failure::Refused(error)),
    }
    let stream = match open(socket).await {
        Ok(stream) => stream,
        Err(error) => {
            return Err(match error.kind() {
                // Whoever listened may end at this moment.
                io::ErrorKind::NotFound
                | io::ErrorKind::ConnectionRefused
                | io::ErrorKind::ConnectionReset => {
                    displaced(socket).map_or(Failure::Absent, Failure::Refused)
                }
                io::ErrorKind::WouldBlock => Failure::Refused(
                    CliError::daemon(format!(
                        "occd takes no more clients at {}: others wait there already.",
                        shown(socket)
                    ))
                    .hint("ss -xp shows which programs they are; try again"),
                ),
                _ => Failure::Refused(
                    displaced(socket).unwrap_or_else(|| cannot_be_opened(socket, &error)),
                ),
            });
        }
    };
    let peer = stream
        .peer_cred()
        .map_err(|error| Failure::Refused(CliError::daemon(format!("occd's user: {error}"))))?;
    let own = rustix::process::geteuid().as_raw();
    if peer.uid() != own && Some(peer.uid()) != trusted_owner().map_err(Failure::Refused)? {
        return Err(Failure::Refused(
            CliError::daemon(format!(
                "the program behind {} runs as user {}, not as you ({own}): not used.",
                shown(socket),
                peer.uid()
            ))
            .hint(format!("rm {}, if that user is to have nothing there", shown(socket))),
        ));
    }
    Ok(stream)
}

/// Returns that a daemon runs and something else has its socket's place, if that is how it is: it serves clients that it
/// has, and no other reaches it. The next one could not start either.
pub(crate) fn displaced(socket: &Path) -> Option<CliError> {
    let pid = locks::holder(socket)?;
    let meta = socket.symlink_metadata().ok()?;
    if meta.file_type().is_socket() {
        return None;
    }
    let what = format!("{} exists and is not a socket", shown(socket));
    let cure = and_then(in_the_way(&what)?, RESTART);
    let text = format!("occd (process {pid}) runs and cannot be reached: {what}.");
    Some(CliError::daemon(text).hint(cure))
}

/// Returns the error for a socket that is there, and cannot be opened.
fn cannot_be_opened(socket: &Path, error: &io::Error) -> CliError {
    let shown = shown(socket);
    // To open it takes the right to write, unix(7).
    let is_closed = socket.metadata().is_ok_and(|meta| {
        let is_ours = meta.uid() == rustix::process::geteuid().as_raw();
        meta.file_type().is_socket() && is_ours && meta.mode() & 0o200 == 0
    });
    let hint = match is_closed {
        true => format!("chmod 600 {}", shell_word(&shown)),
        false => format!("ls -l {shown}; move it away if it is not a socket of yours"),
    };
    CliError::daemon(format!("occd's socket {shown} cannot be opened: {error}")).hint(hint)
}

/// Returns whose socket is trusted beside this user's: the number that OCC_SOCKET_OWNER has. In a container, a grant's
/// socket is that of a user whom the container does not know.
fn trusted_owner() -> Result<Option<u32>, CliError> {
    const NAME: &str = "OCC_SOCKET_OWNER";
    let Some(set) = std::env::var_os(NAME).filter(|set| !set.is_empty()) else { return Ok(None) };
    let number = set.to_str().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| {
        CliError::usage(format!("{NAME} is the number of a user, such as 1000, and that is none."))
            .hint("id -u NAME tells it")
    })
}

/// Returns a path as text that is safe for a terminal.
pub(crate) fn shown(path: &Path) -> String {
    sanitize(&path.to_string_lossy())
}

/// Returns the directory of a socket; sockets are absolute paths.
pub(crate) fn directory(socket: &Path) -> &Path {
    socket.parent().unwrap_or(Path::new("/"))
}

/// Returns whether a socket's directory is there, and refuses one that another user could put a socket into, or in which
/// occd would not start.
fn check_directory(socket: &Path) -> Result<bool, CliError> {
    let dir = directory(socket);
    let refused = |why: &str| {
        let text = format!("the socket directory {} {why}: not used.", shown(dir));
        CliError::daemon(text).hint(format!("ls -ld {}", shown(dir)))
    };
    let refuse = |why: &str| Err(refused(why));
    let meta = match std::fs::symlink_metadata(dir) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => {
            let refused = refused(&format!("cannot be looked at ({error})"));
            // That of a grant is wherever whoever made it put it.
            return Err(if is_grants(socket) { refused } else { refused.hint(cure_of(dir)) });
        }
    };
    if meta.file_type().is_symlink() {
        return refuse("is a symbolic link");
    }
    if !meta.is_dir() {
        return refuse("is not a directory");
    }
    // Mounted from another machine, as it were; only its owner can put anything there.
    if Some(meta.uid()) == trusted_owner()? {
        return match meta.mode() & 0o022 {
            0 => Ok(true),
            _ => refuse("can be written to by others than its owner"),
        };
    }
    let is_ours = meta.uid() == rustix::process::geteuid().as_raw();
    // One for everybody, as /tmp is, is to stay as it is; in another user's there is nothing for us.
    let is_for_all = meta.uid() == 0 && !is_ours || meta.mode() & 0o1000 != 0;
    if meta.mode() & 0o022 != 0 && is_for_all {
        let own = shown(&dir.join("occ").join(socket.file_name().unwrap_or_default()));
        return Err(refused("can be written to by others").hint(format!(
            "--socket {own}, or export OCC_SOCKET={own}: occ makes that directory, for you alone"
        )));
    }
    if !is_ours {
        let error = refused(&format!("belongs to user {}", meta.uid()));
        return Err(error.hint(format!(
            "ls -ld {}; OCC_SOCKET_OWNER={} if that is whom you trust here",
            shown(dir),
            meta.uid()
        )));
    }
    // Through that of a grant for any user others may pass, and can neither look nor put anything there.
    let is_grants = is_grants(socket);
    let mode = meta.mode() & 0o777;
    if mode != 0o700 && !(is_grants && mode == 0o711) {
        let why = format!("has mode {:04o} instead of 0700", meta.mode() & 0o7777);
        return Err(refused(&why).hint(format!("chmod 700 {}", shown(dir))));
    }
    Ok(true)
}

/// Makes the directory of a socket, where it is not there.
pub(crate) fn make_directory(socket: &Path) -> Result<(), CliError> {
    if check_directory(socket)? {
        return Ok(());
    }
    let dir = directory(socket);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        // Whatever the umask takes away.
        .and_then(|()| std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)))
        .map_err(|error| {
            CliError::daemon(format!("cannot create {}: {error}", shown(dir))).hint(cure_of(dir))
        })?;
    check_directory(socket).map(drop)
}

#[cfg(test)]
mod tests {
    use occ_proto::policy::GRANT_SOCKET;

    use super::*;

    #[test]
    fn only_a_private_directory_of_ours_will_do() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("run");
        let (socket, granted) = (dir.join("occd.sock"), dir.join(GRANT_SOCKET));
        assert!(!check_directory(&socket).unwrap());
        std::fs::create_dir(&dir).unwrap();
        for (mode, good, good_for_grant) in [
            (0o700, true, true),
            (0o750, false, false),
            (0o711, false, true),
            (0o777, false, false),
            (0o701, false, false),
        ] {
            std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(check_directory(&socket).is_ok(), good, "{mode:o}");
            assert_eq!(check_directory(&granted).is_ok(), good_for_grant, "{mode:o}");
        }
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
        let link = top.path().join("link");
        std::os::unix::fs::symlink(&dir, &link).unwrap();
        let error = check_directory(&link.join("occd.sock")).unwrap_err();
        assert!(error.message.contains("symbolic link") && error.exit == 3, "{}", error.message);
    }
}
