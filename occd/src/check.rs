//! `occd --check`: what a start needs before it is ready, looked at without changing anything.
//!
//! Each part looks at its own: the settings (`config`), the socket (`socket`), the state directory (`daemon`) and the log
//! (`logging`). What is right when it is looked at may be wrong when a daemon starts; that says so, too.

use std::io;
use std::path::{Path, PathBuf};

use occ_proto::paths::Env;
use rustix::fs::{Access, access};
use rustix::process::geteuid;

use crate::config::ConfigFile;
use crate::daemon::{self, StartError};
use crate::socket::{self, SocketError};

/// Returns why a daemon would not start. `socket` is the control socket, where it is ours to make.
pub fn check(
    env: &Env,
    system_policy: Option<PathBuf>,
    socket: Option<&Path>,
) -> Result<(), StartError> {
    env.home("ssh keys and known_hosts")?;
    refuse_as_root(env)?;
    ConfigFile::of(env, system_policy)?.load()?;
    let state = env.state_dir()?;
    daemon::check_state_dir(&state)?;
    let to_make = socket;
    let Some(socket) = socket else { return Ok(()) };
    socket::check(socket)?;
    // Of a daemon that runs on this very socket, the lock is as it should be.
    if socket::check_free(&socket::lock_of(socket)).is_ok()
        && let Err(SocketError::AlreadyRunning { pid, other: socket, .. }) =
            socket::check_free(&daemon::state_lock(&state))
        // It has lost its socket's directory, and is the one that is to go.
        && socket.as_deref() != to_make
    {
        return Err(StartError::StateInUse { path: state, pid, socket });
    }
    Ok(())
}

/// Refuses to run as root on what is another user's, as with `sudo` that keeps HOME.
pub(crate) fn refuse_as_root(env: &Env) -> Result<(), StartError> {
    if !geteuid().is_root() {
        return Ok(());
    }
    // One that is closed to root as well is told as that.
    let is_open = |(place, _): &(PathBuf, u32)| access(place, Access::WRITE_OK).is_ok();
    match env.of_others(0).find(is_open) {
        Some((path, owner)) => Err(StartError::OfAnother { path, owner }),
        None => Ok(()),
    }
}

/// Returns why nothing could be made in a directory, which may itself have to be made first.
pub(crate) fn can_make_in(dir: &Path) -> io::Result<()> {
    for place in dir.ancestors() {
        match std::fs::metadata(place) {
            Ok(metadata) if metadata.is_dir() => {
                return Ok(access(place, Access::WRITE_OK | Access::EXEC_OK)?);
            }
            Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
            // Nor is it made through a link that leads nowhere.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && place.symlink_metadata().is_err() => {
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::DirBuilder;
    use std::os::unix::fs::DirBuilderExt as _;

    use super::*;

    #[test]
    fn another_daemon_that_uses_the_state_directory_is_found() {
        let root = tempfile::tempdir().unwrap();
        let env = Env { home: Some(root.path().to_owned()), ..Env::default() };
        let run = root.path().join("run");
        let socket = run.join("occd.sock");
        check(&env, None, Some(&socket)).unwrap();
        for dir in [&run, &env.state_dir().unwrap()] {
            DirBuilder::new().mode(0o700).recursive(true).create(dir).unwrap();
        }
        let _state = socket::lock(&daemon::state_lock(&env.state_dir().unwrap()), &[]).unwrap();
        let own = std::process::id();
        assert!(matches!(
            check(&env, None, Some(&socket)),
            Err(StartError::StateInUse { pid, .. }) if pid == Some(own)
        ));
        // It may be the one that runs on this socket.
        let _lock = socket::lock(&socket::lock_of(&socket), &[]).unwrap();
        check(&env, None, Some(&socket)).unwrap();
    }

    #[test]
    fn something_can_be_made_below_what_is_there() {
        let root = tempfile::tempdir().unwrap();
        can_make_in(root.path()).unwrap();
        can_make_in(&root.path().join("a/b")).unwrap();
        std::fs::write(root.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink("nowhere", root.path().join("link")).unwrap();
        assert!(can_make_in(&root.path().join("file/a")).is_err());
        assert!(can_make_in(&root.path().join("link/a")).is_err());
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 2, "nothing is made");
    }
}
