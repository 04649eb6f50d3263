//! What a daemon holds of the system: after a scenario it must be what it was before.

use testkit::DaemonRig;
use testkit::wait::blocking::{wait_for, wait_until};

use crate::ask::GUARD;

/// The runtime keeps threads for file access as long as each is used once in 10 s, and the daemon looks
/// at its files once a second: a busy moment leaves a few more of them, however often it comes.
const SPARE_THREADS: usize = 8;

/// So many looks, 3 ms apart, see the daemon the same when it is at rest.
const LOOKS_AT_REST: u32 = 20;

/// The daemon's files, tasks, threads and children at one moment.
///
/// Files can only be counted by root: the daemon makes itself undumpable, and then `/proc/PID/fd` is
/// closed to its own user. Sockets, pipes and the like are what a leak would add, so all are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    files: usize,
    tasks: u64,
    threads: usize,
    children: usize,
}

impl Held {
    fn now(rig: &DaemonRig) -> Self {
        Self {
            files: rig.daemon_fds(),
            tasks: rig.daemon_tasks(),
            threads: rig.daemon_threads(),
            children: rig.daemon_children().len(),
        }
    }

    /// Returns what the daemon holds at rest, in the state that the scenario ends in: what it holds in
    /// many looks in a row, so that a client that has just left is not taken for something it keeps.
    pub(crate) fn by(rig: &DaemonRig) -> Self {
        let (mut last, mut looks) = (Self::now(rig), 0);
        wait_for("the daemon to be at rest", GUARD, || {
            let now = Self::now(rig);
            looks = if now == last { looks + 1 } else { 0 };
            last = now;
            (looks == LOOKS_AT_REST).then_some(now)
        })
    }

    /// Waits until the daemon holds no more than this.
    ///
    /// # Panics
    /// When it goes on holding more.
    pub(crate) fn is_all_again(self, rig: &DaemonRig) {
        let within = |now: &Self| {
            now.files <= self.files
                && now.tasks <= self.tasks
                && now.threads <= self.threads + SPARE_THREADS
                && now.children <= self.children
        };
        let what = format!("the daemon to hold no more than {self:?}");
        wait_until(&what, GUARD, || Self::now(rig), within);
    }
}
