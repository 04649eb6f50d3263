//! The journal's own protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): a datagram an entry, with its level and its fields.
//!
//! What the entry says in one line has the fields, too: `journalctl` shows that line alone. So no library does it:
//! tracing-journald has them as fields only.

use std::io::{self, Write as _};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use serde_json::Value;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::record::Record;

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// The longest text of a field, in bytes: some of them fit into a datagram.
const LONGEST: usize = 32 * 1024;
/// How long a journal that takes nothing is waited for. The entry goes to stderr then, like any that it does not take.
const PATIENCE: Duration = Duration::from_millis(100);

/// The way to the journal.
#[derive(Debug)]
pub(super) struct Journal {
    socket: UnixDatagram,
}

impl Journal {
    /// Returns it, if stderr leads there (systemd.exec(5), `$JOURNAL_STREAM`).
    pub(super) fn of_stderr() -> Option<Self> {
        let stream = std::env::var("JOURNAL_STREAM").ok()?;
        let (device, inode) = stream.split_once(':')?;
        let stat = rustix::fs::fstat(rustix::stdio::stderr()).ok()?;
        let is_stderr = device.parse() == Ok(stat.st_dev) && inode.parse() == Ok(stat.st_ino);
        // Where there is no socket, stderr does.
        if !is_stderr || std::fs::metadata(SOCKET).is_err() {
            return None;
        }
        let socket = UnixDatagram::unbound().ok()?;
        socket.set_write_timeout(Some(PATIENCE)).ok()?;
        Some(Self { socket })
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let record = Record::of(event);
        let priority = priority(*metadata.level());
        let line = record.line();
        let entry = entry(priority, metadata.target(), &line, &record);
        if self.socket.send_to(&entry, SOCKET).is_err() {
            // sd-daemon(3): a level before a line. There is nowhere else to say that this fails.
            let line = line.replace('\n', " ");
            let _ = writeln!(io::stderr(), "<{priority}>{line}");
        }
    }
}

/// Returns a level in syslog's numbers.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

fn entry(priority: u8, target: &str, line: &str, record: &Record) -> Vec<u8> {
    let mut entry = Vec::new();
    put(&mut entry, "MESSAGE", line);
    put(&mut entry, "PRIORITY", &priority.to_string());
    put(&mut entry, "SYSLOG_IDENTIFIER", "occd");
    put(&mut entry, "TARGET", target);
    for (name, value) in &record.fields {
        let name = name.to_ascii_uppercase().replace('.', "_");
        match value {
            Value::String(text) => put(&mut entry, &name, text),
            value => put(&mut entry, &name, &value.to_string()),
        }
    }
    entry
}

fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    let value = &value[..value.floor_char_boundary(LONGEST)];
    entry.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_its_line_its_level_and_its_fields() {
        let fields = vec![("host", "a b".into()), ("id", 7.into()), ("error", "x\ny".into())];
        let record = Record { message: "lost".into(), fields };
        let entry = entry(4, "occd::host", &record.line(), &record);
        let expected = b"MESSAGE=lost host=\"a b\" id=7 error=\"x\\ny\"\nPRIORITY=4\n\
            SYSLOG_IDENTIFIER=occd\nTARGET=occd::host\nHOST=a b\nID=7\nERROR\n\x03\0\0\0\0\0\0\0x\ny\n";
        assert_eq!(String::from_utf8_lossy(&entry), String::from_utf8_lossy(expected));
    }
}
