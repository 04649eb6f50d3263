//! Who listens on a port of this machine, as far as Linux tells (proc(5)).

use std::path::Path;

use occ_proto::text::sanitize;
use rustix::process::geteuid;

/// `TCP_LISTEN` of the kernel's `tcp_states.h`.
const LISTEN: &str = "0A";

/// A listener in a table of the kernel's.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    port: u16,
    /// Only this machine's own programs reach it.
    is_loopback: bool,
    uid: u32,
    inode: u64,
}

/// Returns who listens on a port, in words.
pub(super) async fn of_port(port: u16) -> String {
    let unknown = || "another program".to_owned();
    tokio::task::spawn_blocking(move || find(Path::new("/proc"), port))
        .await
        .ok()
        .flatten()
        .unwrap_or_else(unknown)
}

fn find(proc: &Path, port: u16) -> Option<String> {
    let tables = ["net/tcp", "net/tcp6"].map(|name| std::fs::read_to_string(proc.join(name)));
    let tables: Vec<String> = tables.into_iter().flatten().collect();
    let entries = tables.iter().flat_map(|table| listeners(table));
    let found: Vec<Entry> = entries.filter(|entry| entry.port == port).collect();
    let first = found.first()?;
    if let Some((pid, name)) = found.iter().find_map(|entry| process_with(proc, entry.inode)) {
        return Some(format!("{} (process {pid})", sanitize(&name)));
    }
    // Only root sees what others have open.
    (first.uid != geteuid().as_raw()).then(|| match first.uid {
        0 => "a program of root's".to_owned(),
        uid => format!("a program of the user with the number {uid}"),
    })
}

/// Returns whether only programs of the machine itself reach a port, by its tables one after the other; nothing when they
/// do not have the port.
pub(super) fn is_on_loopback_alone(tables: &str, port: u16) -> Option<bool> {
    let mut found = listeners(tables).filter(|entry| entry.port == port).peekable();
    found.peek()?;
    Some(found.all(|entry| entry.is_loopback))
}

/// Reads the listeners of a table.
fn listeners(table: &str) -> impl Iterator<Item = Entry> {
    table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state) = (fields.get(1)?, fields.get(3)?);
        let (address, port) = local.rsplit_once(':')?;
        (*state == LISTEN).then_some(())?;
        Some(Entry {
            port: u16::from_str_radix(port, 16).ok()?,
            // Words of four bytes, in the order of most machines.
            is_loopback: (address.len() == 8 && address.ends_with("7F"))
                || address == "00000000000000000000000001000000",
            uid: fields.get(7)?.parse().ok()?,
            inode: fields.get(9)?.parse().ok()?,
        })
    })
}

/// Returns the process that has a socket open.
fn process_with(proc: &Path, inode: u64) -> Option<(u32, String)> {
    let wanted = format!("socket:[{inode}]");
    std::fs::read_dir(proc).ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let open = std::fs::read_dir(entry.path().join("fd")).ok()?;
        let has = |file: &std::fs::DirEntry| {
            std::fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == wanted.as_str())
        };
        open.flatten().any(|file| has(&file)).then_some(())?;
        let name = std::fs::read_to_string(entry.path().join("comm")).ok()?;
        Some((pid, name.trim().to_owned()))
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn only_listeners_are_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4242 1 0 100 0 0 10 0\n   \
            1: 0100007F:1F91 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 4243 1 0 100 0 0 10 0\n";
        let read: Vec<Entry> = listeners(table).collect();
        assert_eq!(is_on_loopback_alone(table, 8080), Some(true));
        assert_eq!(is_on_loopback_alone(table, 8081), None);
        assert_eq!(
            is_on_loopback_alone(&table.replace("0100007F:1F90", "00000000:1F90"), 8080),
            Some(false)
        );
        assert_eq!(read, [Entry { port: 8080, is_loopback: true, uid: 1000, inode: 4242 }]);
    }

    #[test]
    fn a_process_is_found_by_its_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let said = find(Path::new("/proc"), listener.local_addr().unwrap().port()).unwrap();
        assert!(said.ends_with(&format!("(process {})", std::process::id())), "{said}");
    }
}
