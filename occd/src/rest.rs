//! What the daemon gives back once nothing goes on: the pages of its program and of libraries that starting and logging in
//! took, and the memory that was freed.
//!
//! The kernel maps sixteen pages of a file for each one that is needed, and keeps them as long as there is memory, so
//! that nearly all of the program is resident soon, most of it for what happens once. What is dropped here comes
//! back page by page from the kernel's cache when it is needed: a twentieth of a millisecond for a request after a rest.
//! What was freed is kept by the C library's allocator for whoever wants it next; after ten thousand clients it is much.

#[cfg(target_os = "linux")]
use std::ops::Range;
#[cfg(target_os = "linux")]
use std::sync::OnceLock;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long nothing goes on before something is given back.
const QUIET: Duration = Duration::from_secs(30);
/// How long after that it is given back once more: what follows upon work, such as a first look at each connection and lists
/// that are saved, comes later than that, and is done with by then.
const SETTLED: Duration = Duration::from_secs(60);

/// What the allocator keeps of what is freed, at most, in bytes, and from which size on memory is taken for one thing alone.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT: (i32, i32) = (16 << 20, 4 << 20);

/// The files that were mapped at the start, when no other thread could load a library: one that is being loaded is mapped as a
/// whole before parts of it can be written to, and must not be touched then.
#[cfg(target_os = "linux")]
static FILES: OnceLock<Vec<Range<usize>>> = OnceLock::new();

/// Prepares for what is done at rest. To be called when a program starts, before it has other threads.
pub fn prepare() {
    keep_freed();
    #[cfg(target_os = "linux")]
    match files() {
        Ok(files) => drop(FILES.set(files)),
        Err(error) => tracing::debug!(%error, "the pages of files stay where they are"),
    }
}

/// Has the allocator keep what is freed, so that a stream does not take it from the system again for each piece: that was a
/// third of what a forward cost. Others than glibc's do so by themselves.
fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: It may be called at any time (mallopt(3)); what it does not take stays as it is.
    #[allow(unsafe_code)]
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT.0);
        libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT.1);
    }
}

/// Gives back what is not needed at rest each time when no event was told, and no client has left, for a while, until
/// `stop` is cancelled.
pub async fn keep_small(
    events: watch::Receiver<u64>,
    leaving: watch::Receiver<()>,
    stop: CancellationToken,
) {
    at_rest(events, leaving, stop, give_back).await;
}

async fn at_rest(
    mut events: watch::Receiver<u64>,
    mut leaving: watch::Receiver<()>,
    stop: CancellationToken,
    give_back: impl Fn(),
) {
    let mut stirs = async || {
        tokio::select! {
            event = events.changed() => event,
            left = leaving.changed() => left,
        }
    };
    let kept = async {
        loop {
            while let Ok(stirred) = timeout(QUIET, stirs()).await {
                if stirred.is_err() {
                    return;
                }
            }
            give_back();
            let stirred = match timeout(SETTLED, stirs()).await {
                Ok(stirred) => stirred,
                Err(_) => {
                    give_back();
                    stirs().await
                }
            };
            if stirred.is_err() {
                return;
            }
        }
    };
    stop.run_until_cancelled(kept).await;
}

#[cfg(target_os = "linux")]
fn give_back() {
    trim();
    FILES.get().into_iter().flatten().for_each(drop_pages);
}

/// Gives back what the allocator keeps though it was freed. Others than glibc's do so by themselves.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn trim() {
    // SAFETY: It may be called at any time, by any thread (malloc_trim(3)).
    #[allow(unsafe_code)]
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(all(target_os = "linux", not(target_env = "gnu")))]
fn trim() {}

#[cfg(not(target_os = "linux"))]
fn give_back() {}

/// Returns where files are mapped of which no page can be written to or has been changed: text and constants of the program and
/// its libraries (proc_pid_smaps(5)). What the loader has changed before it became read-only is not among them.
#[cfg(target_os = "linux")]
fn files() -> std::io::Result<Vec<Range<usize>>> {
    let smaps = std::fs::read_to_string("/proc/self/smaps")?;
    let (mut files, mut mapping) = (Vec::new(), None);
    for line in smaps.lines() {
        if let Some(mapped) = file(line) {
            mapping = Some(mapped);
        } else if line.starts_with("Anonymous:")
            && let Some(range) = mapping.take()
            && line.split_ascii_whitespace().nth(1) == Some("0")
        {
            files.push(range);
        }
    }
    Ok(files)
}

/// Returns the range of a mapping, from its first line, if it is one of a file that cannot be written to.
#[cfg(target_os = "linux")]
fn file(line: &str) -> Option<Range<usize>> {
    let mut fields = line.split_ascii_whitespace();
    let (range, mode) = (fields.next()?, fields.next()?);
    let (_offset, _device, inode) = (fields.next()?, fields.next()?, fields.next()?);
    let (start, end) = range.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    let range = address(start)?..address(end)?;
    (matches!(mode, "r-xp" | "r--p") && inode != "0").then_some(range)
}

#[cfg(target_os = "linux")]
fn drop_pages(range: &Range<usize>) {
    use rustix::mm::{Advice, madvise};

    let start = std::ptr::with_exposed_provenance_mut(range.start);
    // SAFETY: At the start, the kernel named the range as a private mapping of a file that cannot be written to and of which no
    // page is this process's own. Nothing changes the protection of such a mapping or unmaps it: the program and what it is linked
    // to stay. So what is in it is what is in the file, and an access after this finds that (madvise(2), MADV_DONTNEED).
    #[allow(unsafe_code)]
    let dropped = unsafe { madvise(start, range.len(), Advice::LinuxDontNeed) };
    if let Err(error) = dropped {
        tracing::debug!(%error, "the pages of files stay where they are");
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_work_brings_back_is_given_back_once_more_and_then_nothing() {
        let (event, events) = watch::channel(0);
        let (_left, leaving) = watch::channel(());
        let (stop, count) = (CancellationToken::new(), std::cell::Cell::new(0));
        let rest = at_rest(events, leaving, stop.clone(), || count.set(count.get() + 1));
        let look = async {
            let mut seen = Vec::new();
            for (seconds, stirs) in
                [(29, false), (2, false), (58, false), (3600, true), (31, false)]
            {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                seen.push(count.get());
                if stirs {
                    event.send_replace(1);
                }
            }
            stop.cancel();
            seen
        };
        let ((), seen) = tokio::join!(rest, look);
        assert_eq!(seen, [0, 1, 1, 2, 3]);
    }

    #[test]
    fn the_pages_of_files_are_found_and_given_back() {
        prepare();
        let ranges = FILES.get().unwrap();
        let here = give_back as *const () as usize;
        assert!(ranges.iter().any(|range| range.contains(&here)), "{ranges:?}");
        // The constants, too, and nothing that can be or was written to.
        let constant = "the pages of files stay where they are".as_ptr().expose_provenance();
        assert!(ranges.iter().any(|range| range.contains(&constant)), "{ranges:?}");
        static CHANGED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(true);
        let changed = std::ptr::from_ref(&CHANGED).expose_provenance();
        assert!(!ranges.iter().any(|range| range.contains(&changed)), "{ranges:?}");
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        let before = resident();
        give_back();
        assert!(resident() < before);
    }
}
