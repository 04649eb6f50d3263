//! What the daemon gives back once nothing goes on: the pages of its program that starting and logging in took, and the
//! memory that was freed.
//!
//! The kernel maps sixteen pages of a file for each one that is needed, and keeps them as long as there is memory, so
//! that nearly all of the program's text is resident soon, most of it for what happens once. What is dropped here comes
//! back page by page from the kernel's cache when it is needed: a twentieth of a millisecond for a request after a rest.
//! What was freed is kept by the C library's allocator for whoever wants it next; after ten thousand clients it is much.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long nothing goes on before something is given back.
const QUIET: Duration = Duration::from_secs(30);

/// What the allocator keeps of what is freed, at most, in bytes, and from which size on memory is taken for one thing alone.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT: (i32, i32) = (16 << 20, 4 << 20);

/// Has the allocator keep what is freed, so that a stream does not take it from the system again for each piece: that was a
/// third of what a forward cost. Others than glibc's do so by themselves.
pub fn keep_freed() {
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
    mut events: watch::Receiver<u64>,
    mut leaving: watch::Receiver<()>,
    stop: CancellationToken,
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
            if stirs().await.is_err() {
                return;
            }
        }
    };
    stop.run_until_cancelled(kept).await;
}

#[cfg(target_os = "linux")]
fn give_back() {
    trim();
    match text() {
        Ok(ranges) => ranges.into_iter().for_each(drop_pages),
        Err(error) => tracing::debug!(%error, "the program's text stays where it is"),
    }
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

/// Returns where the program's text is mapped (proc_pid_maps(5)).
#[cfg(target_os = "linux")]
fn text() -> std::io::Result<Vec<std::ops::Range<usize>>> {
    use std::os::unix::fs::MetadataExt as _;

    let program = std::fs::metadata("/proc/self/exe")?.ino().to_string();
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let range = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (range, mode) = (fields.next()?, fields.next()?);
        let (_offset, _device, inode) = (fields.next()?, fields.next()?, fields.next()?);
        let (start, end) = range.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        (mode == "r-xp" && inode == program).then_some(address(start)?..address(end)?)
    };
    Ok(maps.lines().filter_map(range).collect())
}

#[cfg(target_os = "linux")]
fn drop_pages(range: std::ops::Range<usize>) {
    use rustix::mm::{Advice, madvise};

    let start = std::ptr::with_exposed_provenance_mut(range.start);
    // SAFETY: The kernel has just named the range as a mapping of this program's own file that can be read and executed,
    // and not written to. Nobody else unmaps it, and what is in it is what is in the file, which cannot be written to
    // while it runs (ETXTBSY): an access after this finds the same bytes (madvise(2), MADV_DONTNEED).
    #[allow(unsafe_code)]
    let dropped = unsafe { madvise(start, range.len(), Advice::LinuxDontNeed) };
    if let Err(error) = dropped {
        tracing::debug!(%error, "the program's text stays where it is");
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_this_program_is_found_and_given_back() {
        let ranges = text().unwrap();
        let here = give_back as *const () as usize;
        assert!(ranges.iter().any(|range| range.contains(&here)), "{ranges:?}");
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
