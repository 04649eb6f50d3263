//! Whether a settings file is to be trusted: who can write to it decides where connections go.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use occ_proto::paths::Env;

use crate::process::login_user;

/// Somebody else can write to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Exposed {
    /// It is neither this user's nor root's.
    #[error("belongs to user id {0}, not to you (chown)")]
    Owner(u32),
    /// It is not root's.
    #[error("belongs to user id {0}, not to root (chown root)")]
    NotRoots(u32),
    /// Its mode lets others write, or a group that is not this user's own.
    #[error("can be written by others, its mode is {0:04o} (chmod go-w)")]
    Mode(u32),
}

/// Refuses a file that somebody else could have written. A group that is the user's alone may write: where everybody
/// has one, that is how files come into being (a umask of 002).
pub fn check(metadata: &Metadata) -> Result<(), Exposed> {
    check_bits(metadata, 0o002)?;
    match check_strictly(metadata) {
        Err(Exposed::Mode(_)) if is_own_group(metadata.gid()) => Ok(()),
        result => result,
    }
}

/// The same, and no group may write, as ssh has it for its own files (ssh_config(5), FILES).
pub fn check_strictly(metadata: &Metadata) -> Result<(), Exposed> {
    check_bits(metadata, 0o022)
}

/// Refuses a directory in whose place somebody else could put another one: by a directory above it, or by a link on the way
/// to it. Like sshd on the way to ~/.ssh, it looks no further than the home directory (sshd_config(5), StrictModes). Returns
/// what is wrong with which.
pub fn check_way_to(dir: &Path) -> Result<(), (PathBuf, Exposed)> {
    let home = Env::from_process().home;
    let me = rustix::process::geteuid().as_raw();
    let real = dir.ancestors().find_map(|place| Some((place, place.canonicalize().ok()?)));
    // Of one that is not there yet, what is there is above it.
    let real = real.map(|(place, real)| if place == dir { real } else { real.join("new") });
    for way in [Some(dir.to_owned()), real].into_iter().flatten() {
        for place in way.ancestors().skip(1) {
            // Whatever is not there is made, and is ours.
            let Ok(metadata) = place.symlink_metadata() else { continue };
            exchanged_in(&metadata, me).map_err(|exposed| (place.to_owned(), exposed))?;
            if home.as_deref() == Some(place) {
                break;
            }
        }
    }
    Ok(())
}

/// Refuses a directory in which others can exchange what is there, or a link that they can turn elsewhere. In one for
/// everybody, as /tmp is, each has what is their own. What root lets a group do is its affair; in a container whose user is
/// any number, root's group is all that there is.
fn exchanged_in(metadata: &Metadata, me: u32) -> Result<(), Exposed> {
    const STICKY: u32 = 0o1000;
    let (owner, mode, group) = (metadata.uid(), metadata.mode() & 0o7777, metadata.gid());
    if owner != me && owner != 0 && !is_from_outside(owner) {
        return Err(Exposed::Owner(owner));
    }
    if metadata.is_symlink() || mode & STICKY != 0 {
        return Ok(());
    }
    let by_group = mode & 0o020 != 0 && owner == me && me != 0 && group != 0;
    match mode & 0o002 != 0 || by_group && !is_own_group(group) {
        true => Err(Exposed::Mode(mode)),
        false => Ok(()),
    }
}

/// Returns whether an owner is one whom a user namespace does not know, as root is of the directories that a rootless
/// container has from outside (user_namespaces(7), "Unmapped user and group IDs").
fn is_from_outside(owner: u32) -> bool {
    let number = |text: &str| text.trim().parse::<u32>().ok();
    let unmapped = std::fs::read_to_string("/proc/sys/fs/overflowuid").ok();
    unmapped.as_deref().and_then(number) == Some(owner)
        && std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| {
            let all: Vec<&str> = map.split_whitespace().collect();
            all != ["0", "0", "4294967295"]
        })
}

/// Refuses a file that anybody but root could have written.
pub fn check_roots(metadata: &Metadata) -> Result<(), Exposed> {
    if metadata.uid() != 0 {
        return Err(Exposed::NotRoots(metadata.uid()));
    }
    check_bits(metadata, 0o022)
}

fn check_bits(metadata: &Metadata, others: u32) -> Result<(), Exposed> {
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if ![0, rustix::process::geteuid().as_raw()].contains(&owner) {
        return Err(Exposed::Owner(owner));
    }
    if mode & others == 0 { Ok(()) } else { Err(Exposed::Mode(mode)) }
}

/// Returns whether a group is this user's alone.
fn is_own_group(gid: u32) -> bool {
    // Where there is no such file, it says nothing.
    let read = |path| {
        let bytes = std::fs::read(path).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    gid == rustix::process::getegid().as_raw()
        && login_user().is_ok_and(|user| {
            let uid = rustix::process::geteuid().as_raw();
            is_private(gid, uid, &user, &read("/etc/group"), &read("/etc/passwd"))
        })
}

/// Returns whether a group has a user's name or number, and nobody else in it as far as these files tell (group(5),
/// passwd(5)). They need not name it: the database may be more than files.
fn is_private(gid: u32, uid: u32, user: &str, group: &str, passwd: &str) -> bool {
    let number = |field: Option<&str>| field.and_then(|text| text.parse::<u32>().ok());
    let mut has_name = gid == uid;
    for line in group.lines() {
        let mut fields = line.split(':');
        let name = fields.next();
        if number(fields.nth(1)) != Some(gid) {
            continue;
        }
        has_name |= name == Some(user);
        let mut members = fields.next().unwrap_or_default().split(',').map(str::trim);
        if members.any(|member| !member.is_empty() && member != user) {
            return false;
        }
    }
    let is_of_another = |line: &str| {
        let mut fields = line.split(':').skip(2);
        number(fields.next()) != Some(uid) && number(fields.next()) == Some(gid)
    };
    has_name && !passwd.lines().any(is_of_another)
}

#[cfg(test)]
mod tests {
    use std::fs::{File, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_directory_that_others_could_exchange_is_refused() {
        let top = tempfile::tempdir().unwrap();
        let above = top.path().join("above");
        let dir = above.join("between/dir");
        std::fs::create_dir_all(&dir).unwrap();
        let mode = |mode| std::fs::set_permissions(&above, Permissions::from_mode(mode)).unwrap();
        let refused = |dir: &Path| check_way_to(dir).err();
        for (bits, good) in [(0o755, true), (0o1777, true), (0o777, false), (0o702, false)] {
            mode(bits);
            let exposed = (!good).then(|| (above.clone(), Exposed::Mode(bits)));
            assert_eq!(refused(&dir), exposed, "{bits:o}");
            // Nor one that is to be made there, or that a link leads to.
            assert_eq!(refused(&dir.join("new/er")), exposed, "{bits:o}");
            let link = top.path().join(format!("link-{bits:o}"));
            std::os::unix::fs::symlink(&dir, &link).unwrap();
            assert_eq!(refused(&link), exposed, "{bits:o}");
        }
        mode(0o755);
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let link = top.path().join("anothers");
        std::os::unix::fs::symlink(&above, &link).unwrap();
        std::os::unix::fs::lchown(&link, Some(65534), None).unwrap();
        let other = Exposed::Owner(65534);
        assert_eq!(refused(&link.join("between/dir")), Some((link.clone(), other)));
        std::os::unix::fs::chown(&above, Some(65534), Some(4242)).unwrap();
        mode(0o1755);
        assert_eq!(refused(&dir), Some((above.clone(), other)));
        // As their owner sees a directory that a group of others may write to.
        for (bits, good) in [(0o770, false), (0o1770, true), (0o750, true)] {
            mode(bits);
            assert_eq!(exchanged_in(&above.metadata().unwrap(), 65534).is_ok(), good, "{bits:o}");
        }
    }

    #[test]
    fn a_file_that_others_can_write_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let file = File::create(&path).unwrap();
        let own = is_own_group(file.metadata().unwrap().gid());
        for (mode, good) in
            [(0o600, true), (0o644, true), (0o664, own), (0o666, false), (0o602, false)]
        {
            file.set_permissions(Permissions::from_mode(mode)).unwrap();
            let refused = check(&file.metadata().unwrap()).err();
            assert_eq!(refused, (!good).then_some(Exposed::Mode(mode)), "{mode:o}");
            let strictly = check_strictly(&file.metadata().unwrap()).is_ok();
            assert_eq!(strictly, good && mode != 0o664, "{mode:o}");
        }
    }

    #[test]
    fn what_binds_all_users_is_roots() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let file = File::create(&path).unwrap();
        file.set_permissions(Permissions::from_mode(0o644)).unwrap();
        let own = rustix::process::geteuid().as_raw();
        if own != 0 {
            assert_eq!(check_roots(&file.metadata().unwrap()), Err(Exposed::NotRoots(own)));
            return;
        }
        assert_eq!(check_roots(&file.metadata().unwrap()), Ok(()));
        file.set_permissions(Permissions::from_mode(0o664)).unwrap();
        assert_eq!(check_roots(&file.metadata().unwrap()), Err(Exposed::Mode(0o664)));
        std::os::unix::fs::chown(&path, Some(1), None).unwrap();
        assert_eq!(check_roots(&file.metadata().unwrap()), Err(Exposed::NotRoots(1)));
    }

    #[test]
    fn only_a_group_of_the_user_alone_may_write() {
        const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n\
            bob:x:1001:100::/home/bob:/bin/sh\neve:x:1002:1000::/home/eve:/bin/sh\n\
            joe:x:1003:2003::/home/joe:/bin/sh\n";
        for (gid, uid, user, group, private) in [
            (0, 0, "root", "root:x:0:", true),
            (0, 0, "root", "root:x:0:bob", false),
            // A group of one's own, by its name or its number.
            (2003, 1003, "joe", "joe:x:2003:", true),
            (2003, 1003, "joe", "joe:x:2003:joe", true),
            (1004, 1004, "far", "", true),
            // Of others as well.
            (2003, 1003, "joe", "joe:x:2003:joe,bob", false),
            (2003, 1003, "joe", "joe:x:2003:\nsame:x:2003:bob", false),
            (1000, 1000, "ann", "ann:x:1000:", false),
            // Everybody's.
            (100, 1001, "bob", "users:x:100:", false),
            (100, 1001, "bob", "", false),
            (20, 501, "mac", "staff:*:20:root", false),
        ] {
            let got = is_private(gid, uid, user, group, PASSWD);
            assert_eq!(got, private, "{gid} {user} {group:?}");
        }
    }
}
