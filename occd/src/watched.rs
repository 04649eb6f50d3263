//! Files whose changes the kernel tells of (inotify(7)), so that nobody has to look at them time and again.
//!
//! [`Watched`] says whether files may be others than when they were looked at, never what has changed. It watches what
//! each path goes through: the files, the directories and links on the way, or as far as that leads. Where the kernel
//! cannot tell of everything (a file system that others change from elsewhere, another system than Linux, no watch to
//! be had) it says so, and its user looks as often as without it.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::sleep;
#[cfg(target_os = "linux")]
use tokio::time::timeout;

/// How often to look at files that are watched: for what passes the kernel by, such as another file system that is
/// mounted on the way, or what is written through a mapping.
#[cfg(target_os = "linux")]
const SELDOM: Duration = Duration::from_secs(60);
/// How long to wait after the kernel's word before a look: a change comes in several steps.
#[cfg(target_os = "linux")]
const STEPS: Duration = Duration::from_millis(75);

/// Some files.
#[derive(Debug)]
pub(crate) struct Watched {
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "nothing is watched there"))]
    paths: Vec<PathBuf>,
    #[cfg(target_os = "linux")]
    kernel: Option<kernel::Kernel>,
}

/// A moment from which on changes are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Since(#[cfg_attr(not(target_os = "linux"), expect(dead_code))] Option<u64>);

impl Watched {
    /// Returns them. They are watched from the first [`Self::begin`] on.
    pub(crate) fn new(paths: Vec<PathBuf>) -> Self {
        Self {
            paths,
            #[cfg(target_os = "linux")]
            kernel: kernel::Kernel::new(),
        }
    }

    /// Returns files of which nobody tells anything.
    #[cfg(test)]
    pub(crate) fn nobodys() -> Self {
        Self {
            paths: Vec::new(),
            #[cfg(target_os = "linux")]
            kernel: None,
        }
    }
}

#[cfg(target_os = "linux")]
impl Watched {
    /// Returns whether nothing has happened since the last look. Never waits for a disk.
    pub(crate) fn is_quiet(&self) -> bool {
        self.kernel.as_ref().is_some_and(kernel::Kernel::is_quiet)
    }

    /// Begins to watch. Called right before a look, on a thread that may wait for the disk.
    pub(crate) fn begin(&self) -> Since {
        Since(self.kernel.as_ref().and_then(|kernel| kernel.begin(&self.paths)))
    }

    /// Notes that what was looked at since then is known.
    pub(crate) fn looked(&self, since: Since) {
        if let Some(kernel) = &self.kernel {
            kernel.looked(since.0);
        }
    }

    /// Waits until it is time for a look: when something has happened, or every `often` where nobody tells.
    pub(crate) async fn due(&self, often: Duration) {
        match &self.kernel {
            Some(kernel) if kernel.is_quiet() => {
                let word = async {
                    kernel.touched().await;
                    sleep(STEPS).await;
                };
                let _ = timeout(SELDOM, word).await;
            }
            _ => sleep(often).await,
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl Watched {
    /// Returns whether nothing has happened since the last look.
    pub(crate) fn is_quiet(&self) -> bool {
        false
    }

    /// Begins to watch.
    pub(crate) fn begin(&self) -> Since {
        Since(None)
    }

    /// Notes that what was looked at since then is known.
    pub(crate) fn looked(&self, _: Since) {}

    /// Waits until it is time for a look.
    pub(crate) async fn due(&self, often: Duration) {
        sleep(often).await;
    }
}

#[cfg(target_os = "linux")]
mod kernel {
    use std::collections::{BTreeMap, BTreeSet, VecDeque};
    use std::ffi::OsString;
    use std::io;
    use std::path::{Component, Path, PathBuf};
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init, remove_watch};
    use rustix::io::{Errno, read};
    use tokio::net::unix::pipe::Receiver;
    use tokio::runtime::Handle;

    /// The most links on the way to one file, as the kernel has it (path_resolution(7)).
    const LINKS: usize = 40;
    /// The file systems (statfs(2)) that only this machine changes: ext, XFS, Btrfs, tmpfs, ramfs, ZFS, F2FS, overlay, bcachefs.
    const LOCAL: [u32; 9] = [
        0xef53,
        0x5846_5342,
        0x9123_683e,
        0x0102_1994,
        0x8584_58f6,
        0x2fc1_2fc1,
        0xf2f5_2010,
        0x794c_7630,
        0xca45_1a4e,
    ];

    #[derive(Debug)]
    pub(super) struct Kernel {
        /// tokio has no type for it; waiting is the same for whatever can be read from.
        inotify: Receiver,
        state: Mutex<State>,
        /// The watches there are. Locked while they are renewed.
        watches: Mutex<BTreeSet<i32>>,
    }

    #[derive(Debug, Default)]
    struct State {
        /// Grows with what happens.
        count: u64,
        /// What it was before the last look that is known.
        known: Option<u64>,
    }

    impl Kernel {
        pub(super) fn new() -> Option<Self> {
            // Waiting takes a runtime.
            Handle::try_current().ok()?;
            let inotify = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC);
            match inotify.map_err(io::Error::from).and_then(Receiver::from_owned_fd_unchecked) {
                Ok(inotify) => {
                    Some(Self { inotify, state: Mutex::default(), watches: Mutex::default() })
                }
                Err(error) => {
                    tracing::debug!(%error, "the settings are looked at, not watched");
                    None
                }
            }
        }

        /// Takes what has happened into account.
        fn state(&self) -> MutexGuard<'_, State> {
            // Locked before it is read: nobody else is to take the word and to be late with it.
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let mut words = [0; 4096];
            loop {
                match read(&self.inotify, &mut words) {
                    Err(Errno::AGAIN) => return state,
                    Err(Errno::INTR) => {}
                    Ok(_) => state.count += 1,
                    Err(_) => {
                        state.count += 1;
                        return state;
                    }
                }
            }
        }

        pub(super) fn is_quiet(&self) -> bool {
            let state = self.state();
            state.known == Some(state.count)
        }

        pub(super) fn looked(&self, since: Option<u64>) {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.known = since.map(|since| since.max(state.known.unwrap_or(0)));
        }

        /// Waits until something has happened that is not known.
        pub(super) async fn touched(&self) {
            while self.is_quiet() {
                if self.inotify.readable().await.is_err() {
                    return std::future::pending().await;
                }
                let mut state = self.state();
                // Has it wait for the next word.
                if self.inotify.try_read(&mut [0; 4096]).is_ok() {
                    state.count += 1;
                }
            }
        }

        /// Watches all that the paths go through. Returns nothing where that is not possible.
        pub(super) fn begin(&self, paths: &[PathBuf]) -> Option<u64> {
            let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
            let count = self.state().count;
            let mut walk = Walk { inotify: &self.inotify, watches: BTreeMap::new() };
            let whole = paths.iter().try_for_each(|path| walk.along(path));
            let new: BTreeSet<i32> = walk.watches.into_keys().collect();
            for old in watches.difference(&new) {
                // It is gone already where its file is.
                let _ = remove_watch(&self.inotify, *old);
            }
            *watches = new;
            match whole {
                Ok(()) => Some(count),
                Err(why) => {
                    tracing::debug!(why, "the settings are looked at, not watched");
                    None
                }
            }
        }
    }

    struct Walk<'a> {
        inotify: &'a Receiver,
        watches: BTreeMap<i32, WatchFlags>,
    }

    impl Walk<'_> {
        /// Watches what is on the way to a file, and the file.
        fn along(&mut self, path: &Path) -> Result<(), &'static str> {
            const OWN: WatchFlags =
                WatchFlags::DELETE_SELF.union(WatchFlags::MOVE_SELF).union(WatchFlags::DONT_FOLLOW);
            const NAMES: WatchFlags =
                WatchFlags::CREATE.union(WatchFlags::DELETE).union(WatchFlags::MOVE);
            // Of a directory ATTRIB would tell what becomes of all that is in it.
            const CONTENT: WatchFlags = WatchFlags::MODIFY
                .union(WatchFlags::CLOSE_WRITE)
                .union(WatchFlags::ATTRIB)
                .union(WatchFlags::DONT_FOLLOW);
            let mut at = PathBuf::from("/");
            let mut ahead = names(path);
            let mut links = 0;
            while let Some(name) = ahead.pop_front() {
                if name == ".." {
                    at.pop();
                    continue;
                }
                let next = at.join(&name);
                let is_last = ahead.is_empty();
                // Before the file is looked for: it may come, or go, in between.
                if is_last && self.add(&at, NAMES)? != Added::Yes {
                    return Err("its directory cannot be watched");
                }
                let added = self.add(&next, OWN)?;
                let Ok(found) = std::fs::symlink_metadata(&next) else {
                    if !is_last && self.add(&at, NAMES)? != Added::Yes {
                        return Err("the directory in which it would be cannot be watched");
                    }
                    // It may have come before that was watched.
                    return match std::fs::symlink_metadata(&next) {
                        Ok(_) => Err("it is being made"),
                        Err(_) => Ok(()),
                    };
                };
                match added {
                    Added::Yes => {}
                    Added::Missing => return Err("it is being made"),
                    // A directory that we may not list belongs to somebody else, who seldom moves it.
                    Added::Forbidden if found.is_dir() && !is_last => {}
                    Added::Forbidden => return Err("it cannot be read"),
                }
                if found.is_symlink() {
                    // Another takes its place.
                    self.add(&next, WatchFlags::ATTRIB.union(WatchFlags::DONT_FOLLOW))?;
                    links += 1;
                    let target = std::fs::read_link(&next).ok().filter(|_| links <= LINKS);
                    let target = target.ok_or("a link leads nowhere")?;
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    let rest = std::mem::replace(&mut ahead, names(&target));
                    ahead.extend(rest);
                    continue;
                }
                is_local(&next)?;
                if !found.is_dir() {
                    self.add(&next, CONTENT)?;
                    return if is_last {
                        Ok(())
                    } else {
                        Err("a file is where a directory should be")
                    };
                }
                at = next;
            }
            Ok(())
        }

        fn add(&mut self, path: &Path, what: WatchFlags) -> Result<Added, &'static str> {
            let added = match add_watch(self.inotify, path, what) {
                Ok(watch) => watch,
                Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Added::Missing),
                Err(Errno::ACCESS) => return Ok(Added::Forbidden),
                Err(_) => return Err("there are no more watches to be had"),
            };
            // That took the place of what it was watched for, of which this walk's own part stays.
            let before = self.watches.insert(added, what);
            if let Some(before) = before.filter(|before| !what.contains(*before)) {
                self.watches.insert(added, what.union(before));
                if add_watch(self.inotify, path, what.union(before)) != Ok(added) {
                    return Err("it is being changed");
                }
            }
            Ok(Added::Yes)
        }
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Added {
        Yes,
        Missing,
        Forbidden,
    }

    fn is_local(path: &Path) -> Result<(), &'static str> {
        let kind = rustix::fs::statfs(path).map_err(|_| "its file system is not known")?.f_type;
        match u32::try_from(kind) {
            Ok(kind) if LOCAL.contains(&kind) => Ok(()),
            _ => Err("others may change its file system"),
        }
    }

    fn names(path: &Path) -> VecDeque<OsString> {
        let name = |component: Component<'_>| match component {
            Component::Normal(_) | Component::ParentDir => Some(component.as_os_str().to_owned()),
            _ => None,
        };
        path.components().filter_map(name).collect()
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::path::Path;

    use super::*;

    /// Guards against hanging; far less than [`SELDOM`].
    const GUARD: Duration = Duration::from_secs(20);

    /// What happens to a file, and what makes it happen.
    type Step<'a> = (&'static str, &'a dyn Fn(&Path));

    /// Looks, and finds nothing to happen after that.
    fn look(watched: &Watched) {
        // What a look itself makes happen, such as an end of old watches, takes a second one.
        for _ in 0..3 {
            let since = watched.begin();
            watched.looked(since);
            if watched.is_quiet() {
                return;
            }
        }
        panic!("it is never quiet: {watched:?}");
    }

    #[tokio::test]
    async fn whatever_makes_a_file_another_is_told() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path();
        // The way there: a link to a directory below which all is.
        fs::create_dir_all(root.join("real/a")).unwrap();
        symlink("real", root.join("link")).unwrap();
        let file = root.join("link/a/b/hosts.json");
        let watched = Watched::new(vec![file.clone(), root.join("other/hosts.json")]);
        assert!(!watched.is_quiet(), "nobody has looked");
        look(&watched);
        let steps: [Step<'_>; 14] = [
            ("its directory is made", &|file| fs::create_dir(file.parent().unwrap()).unwrap()),
            ("it is made", &|file| fs::write(file, "1").unwrap()),
            ("it is written", &|file| fs::write(file, "2").unwrap()),
            ("another takes its place", &|file| {
                fs::write(file.with_extension("new"), "3").unwrap();
                fs::rename(file.with_extension("new"), file).unwrap();
            }),
            ("the other is written", &|file| fs::write(file, "4").unwrap()),
            ("others may read it", &|file| {
                fs::set_permissions(file, fs::Permissions::from_mode(0o604)).unwrap();
            }),
            ("it is written by another name", &|file| {
                fs::hard_link(file, root.join("name")).unwrap();
                fs::write(root.join("name"), "5").unwrap();
            }),
            ("it is moved away", &|file| fs::rename(file, root.join("away")).unwrap()),
            ("it is a link", &|file| symlink(root.join("away"), file).unwrap()),
            ("what the link leads to is written", &|_| fs::write(root.join("away"), "6").unwrap()),
            ("a directory on the way is moved", &|_| {
                fs::rename(root.join("real/a"), root.join("real/c")).unwrap();
            }),
            ("it is moved back", &|_| {
                fs::rename(root.join("real/c"), root.join("real/a")).unwrap();
            }),
            ("a link on the way leads elsewhere", &|_| {
                symlink("elsewhere", root.join("new")).unwrap();
                fs::rename(root.join("new"), root.join("link")).unwrap();
            }),
            ("the other place comes to be", &|_| fs::create_dir(root.join("other")).unwrap()),
        ];
        for (what, step) in steps {
            step(&file);
            assert!(!watched.is_quiet(), "{what}");
            look(&watched);
        }
    }

    #[tokio::test]
    async fn what_happens_beside_the_way_is_not_told() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path();
        let file = root.join("a/hosts.json");
        fs::create_dir(root.join("a")).unwrap();
        fs::write(&file, "1").unwrap();
        let watched = Watched::new(vec![file.clone()]);
        look(&watched);
        fs::write(root.join("unrelated"), "").unwrap();
        fs::set_permissions(root.join("unrelated"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::remove_file(root.join("unrelated")).unwrap();
        fs::read(&file).unwrap();
        assert!(watched.is_quiet());
    }

    #[tokio::test]
    async fn what_was_not_looked_at_since_stays_told() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("hosts.json");
        let watched = Watched::new(vec![file.clone()]);
        look(&watched);
        let since = watched.begin();
        // After the look, and before it is known.
        fs::write(&file, "1").unwrap();
        assert!(!watched.is_quiet());
        watched.looked(since);
        assert!(!watched.is_quiet());
        look(&watched);
    }

    #[tokio::test]
    async fn where_others_may_change_it_nothing_is_quiet() {
        // proc(5) tells of no change.
        let watched = Watched::new(vec!["/proc/self/status".into()]);
        let since = watched.begin();
        watched.looked(since);
        assert!(!watched.is_quiet());
        let nobodys = Watched::nobodys();
        let since = nobodys.begin();
        nobodys.looked(since);
        assert!(!nobodys.is_quiet());
    }

    #[tokio::test]
    async fn a_look_is_due_soon_after_a_change() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("hosts.json");
        let watched = Watched::new(vec![file.clone()]);
        for text in ["1", "2"] {
            look(&watched);
            let due = watched.due(SELDOM * 2);
            tokio::pin!(due);
            let early = timeout(STEPS * 2, &mut due).await;
            assert!(early.is_err(), "nothing has happened");
            fs::write(&file, text).unwrap();
            timeout(GUARD, due).await.expect("in time");
            assert!(!watched.is_quiet());
        }
    }
}
