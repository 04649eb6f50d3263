//! What this process takes of the machine.

/// What this process takes; nothing where the system does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory in bytes.
    pub memory: Option<u64>,
    /// Open file descriptors.
    pub descriptors: Option<u64>,
    /// The most that there may be.
    pub most_descriptors: Option<u64>,
}

impl Usage {
    /// Looks. It reads files of the kernel's, which takes long where there are ten thousand descriptors.
    pub fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").ok();
        let directory = if cfg!(target_os = "linux") { "/proc/self/fd" } else { "/dev/fd" };
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        Self {
            memory: status.as_deref().and_then(resident),
            // One of them is the look itself.
            descriptors: std::fs::read_dir(directory)
                .ok()
                .map(|all| (all.count() as u64).saturating_sub(1)),
            most_descriptors: limit.current,
        }
    }
}

/// Returns the resident memory of proc_pid_status(5), which counts in KiB.
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_counts_in_kib() {
        let status = "Name:\toccd\nVmHWM:\t   12000 kB\nVmRSS:\t    9216 kB\nThreads:\t3\n";
        assert_eq!(resident(status), Some(9 << 20));
        assert_eq!(resident("Name:\toccd\n"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn one_more_descriptor_is_seen() {
        let before = Usage::now();
        assert!(before.memory.unwrap() > 1 << 20, "{before:?}");
        assert!(before.most_descriptors >= before.descriptors);
        // Other tests of this process have none open for long: at least the hundred are there.
        let files: Vec<_> =
            (0..100).map(|_| std::fs::File::open("/proc/self/status").unwrap()).collect();
        assert!(Usage::now().descriptors.unwrap() >= 100, "{}", files.len());
    }
}
