//! Processes as `/proc` shows them: finding and ending what a fixture started.
//!
//! Process ids are reused, so what outlives a call is kept as a [`Process`] with its start time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

use crate::wait::blocking;

/// How long a killed process may take to leave the table: one that writes to a slow disk needs some.
const GONE: Duration = Duration::from_secs(10);

/// A process that cannot be mistaken for a later one with the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Process {
    /// The process id.
    pub pid: u32,
    /// When it started, in clock ticks since boot (`proc(5)`, field 22 of `stat`).
    started: u64,
}

/// How often each thread of a process has waited, by its id.
#[derive(Debug, Clone)]
pub struct Waits(BTreeMap<u32, u64>);

impl Waits {
    /// Returns how often they have waited since: of a thread that ended meanwhile nothing is known.
    pub fn since(&self, earlier: &Self) -> u64 {
        let before = |thread: &u32| earlier.0.get(thread).copied().unwrap_or(0);
        self.0.iter().map(|(thread, waits)| waits.saturating_sub(before(thread))).sum()
    }
}

struct Stat {
    name: String,
    state: char,
    parent: u32,
    started: u64,
}

/// Reads `/proc/PID/stat`. The name is in parentheses and may hold any character, so the rest is
/// counted from the last closing one.
fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    let (head, tail) = text.rsplit_once(')')?;
    let fields: Vec<&str> = tail.split_whitespace().collect();
    Some(Stat {
        name: head.split_once('(')?.1.to_owned(),
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

impl Process {
    /// Returns the process that has `pid` now, unless it is gone or only waits to be reaped.
    pub fn find(pid: u32) -> Option<Self> {
        let stat = stat(pid).filter(|stat| !matches!(stat.state, 'Z' | 'X'))?;
        Some(Self { pid, started: stat.started })
    }

    /// Returns whether it still runs. A process that waits to be reaped does not.
    pub fn is_alive(self) -> bool {
        Self::find(self.pid) == Some(self)
    }

    /// Returns whether it is stopped by SIGSTOP.
    pub fn is_stopped(self) -> bool {
        self.is_alive() && stat(self.pid).is_some_and(|stat| stat.state == 'T')
    }

    /// Returns whether it waits for something.
    pub fn is_waiting(self) -> bool {
        self.is_alive() && stat(self.pid).is_some_and(|stat| stat.state == 'S')
    }

    /// Returns its short name, such as `sshd`; empty when it is gone.
    pub fn name(self) -> String {
        stat(self.pid).filter(|_| self.is_alive()).map(|stat| stat.name).unwrap_or_default()
    }

    /// Sends a signal if the process is still there.
    pub fn signal(self, signal: Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|_| self.is_alive()) {
            // It may go away between the check and the signal; both mean that it is gone.
            let _ = kill_process(pid, signal);
        }
    }

    /// Returns the living processes below it, parents before their children, itself not included.
    pub fn descendants(self) -> Vec<Process> {
        let all: Vec<(Process, u32)> = all()
            .into_iter()
            .filter_map(|process| Some((process, stat(process.pid)?.parent)))
            .collect();
        let mut found = vec![self];
        let mut next = 0;
        while let Some(parent) = found.get(next).copied() {
            found.extend(
                all.iter().filter(|(_, of)| *of == parent.pid).map(|(process, _)| *process),
            );
            next += 1;
        }
        found.split_off(1)
    }

    /// Returns what started it, or has taken that one's place.
    pub fn parent(self) -> Option<Process> {
        stat(self.pid).and_then(|stat| Process::find(stat.parent))
    }

    /// Returns its living children.
    pub fn children(self) -> Vec<Process> {
        let is_child = |process: &Process| stat(process.pid).is_some_and(|s| s.parent == self.pid);
        all().into_iter().filter(is_child).collect()
    }

    /// Returns what its open file descriptors point at, such as `socket:[123]`.
    pub fn open_files(self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(format!("/proc/{}/fd", self.pid)) else {
            return Vec::new();
        };
        // A descriptor may be closed while the list is read.
        let targets = entries.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
        targets.map(|target: PathBuf| target.to_string_lossy().into_owned()).collect()
    }

    /// Returns the number of its threads; 0 when it is gone.
    pub fn threads(self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.pid)).map_or(0, Iterator::count)
    }

    /// Returns the processor time that it has used, all threads together (proc(5), `/proc/pid/stat`).
    pub fn cpu_time(self) -> Duration {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        // Behind the name, which may hold spaces; utime and stime are fields 14 and 15.
        let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks = rest.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok());
        // USER_HZ, which is 100 on every Linux.
        Duration::from_millis(ticks.sum::<u64>() * 10)
    }

    /// Returns how often each of its threads that run now has waited for something (proc(5), `voluntary_ctxt_switches`).
    pub fn waits(self) -> Waits {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid)).into_iter().flatten();
        let of_task = |task: std::io::Result<std::fs::DirEntry>| -> Option<(u32, u64)> {
            let task = task.ok()?;
            let status = std::fs::read_to_string(task.path().join("status")).ok()?;
            let line = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
            Some((task.file_name().to_str()?.parse().ok()?, line?.trim().parse().ok()?))
        };
        Waits(tasks.filter_map(of_task).collect())
    }

    /// Returns a line of `smaps_rollup` such as `Rss` or `Private_Dirty`, in KiB.
    pub fn memory_kib(self, line: &str) -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid)).ok()?;
        let value = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(':'))?;
        value.trim().trim_end_matches(" kB").parse().ok()
    }
}

/// Returns every process that runs now.
pub fn all() -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(Process::find).collect()
}

/// Returns the processes, this one apart, whose environment or command line contains `needle`: those
/// that were started with a directory or mark of a fixture, however far they have gone from it.
pub fn marked(needle: &str) -> Vec<Process> {
    let holds = |process: &Process| {
        ["environ", "cmdline"].iter().any(|file| {
            let text = std::fs::read(format!("/proc/{}/{file}", process.pid)).unwrap_or_default();
            text.windows(needle.len()).any(|window| window == needle.as_bytes())
        })
    };
    let own = std::process::id();
    all().into_iter().filter(|process| process.pid != own).filter(holds).collect()
}

/// Kills the processes that `find` returns, again and again until it returns none: a process may
/// start another one while the list is read.
///
/// # Panics
/// When some do not go; in a test that panics already they are left alone.
pub fn kill_all(what: &str, find: impl Fn() -> Vec<Process>) {
    let mut left = Vec::new();
    let gone = blocking::try_wait_for(GONE, || {
        left = find();
        left.iter().for_each(|process| process.signal(Signal::KILL));
        left.is_empty().then_some(())
    });
    if gone.is_none() && !std::thread::panicking() {
        panic!("{what} did not go within {GONE:?} of SIGKILL: {left:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_tree_is_found_by_parent_and_by_mark_and_is_killed() {
        let mark = format!("occ-mark-{}", std::process::id());
        let mut child = Command::new("sh")
            .args(["-c", "sleep 1000 & setsid sleep 1000 & wait"])
            .env("MARK", &mark)
            .spawn()
            .unwrap();
        let process = Process::find(child.id()).unwrap();
        let deadline = Duration::from_secs(5);
        blocking::wait_until("two sleeps", deadline, || process.descendants(), |d| d.len() == 2);
        assert_eq!(marked(&mark).len(), 3);
        assert!(process.threads() == 1 && process.memory_kib("Rss") > Some(0));
        kill_all("the marked processes", || marked(&mark));
        assert!(!process.is_alive());
        child.wait().unwrap();
    }
}
