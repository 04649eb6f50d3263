//! The keys on disk: `requests.jsonl` in the state directory, a line for what has begun and a line for what did not begin
//! after all. It is written anew at the start of the daemon, and when it has grown.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Digest;
use crate::state_file::ends_whole;

/// What has begun. Keys and requests are told from others by their digests; what they say is nobody's business.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) key: Digest,
    pub(super) at: Timestamp,
    pub(super) request: Digest,
}

#[derive(Debug, Serialize, Deserialize)]
struct Wire {
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at: Option<Timestamp>,
    /// Absent when it did not begin after all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request: Option<String>,
}

#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    kept: Duration,
    most: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    /// Made with the first line: most daemons have none.
    file: Option<File>,
    lines: usize,
}

impl Journal {
    /// Returns the lines that are not older than `kept`, `most` of them, in their order.
    pub(super) fn open(state: &Path, kept: Duration, most: usize) -> (Self, Vec<Line>) {
        let path = state.join("requests.jsonl");
        let journal = Self { path, kept, most, open: Mutex::default() };
        let lines = match journal.shorten() {
            Ok(lines) => lines,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                let file = journal.path.display();
                tracing::warn!(%file, %error, "earlier Idempotency-Keys are forgotten");
                Vec::new()
            }
        };
        journal.lock().lines = lines.len();
        (journal, lines)
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the file anew, with what is still of use.
    fn shorten(&self) -> io::Result<Vec<Line>> {
        let mut lines = read(&self.path)?;
        let oldest = Timestamp::now() - self.kept;
        lines.retain(|line| line.at >= oldest);
        lines.drain(..lines.len().saturating_sub(self.most));
        write(&self.path, &lines)?;
        Ok(lines)
    }

    pub(super) fn begin(&self, line: &Line) -> io::Result<()> {
        self.append(&wire(line))
    }

    pub(super) fn undo(&self, key: &Digest) -> io::Result<()> {
        self.append(&Wire { key: hex(key), at: None, request: None })
    }

    fn append(&self, wire: &Wire) -> io::Result<()> {
        let mut open = self.lock();
        if open.lines > 2 * self.most {
            open.file = None;
            open.lines = self.shorten()?.len();
        }
        let file = match &mut open.file {
            Some(file) => file,
            none => {
                if let Some(dir) = self.path.parent() {
                    std::fs::create_dir_all(dir)?;
                }
                let mut options = OpenOptions::new();
                options.create(true).read(true).append(true).mode(0o600);
                none.insert(options.open(&self.path)?)
            }
        };
        if !ends_whole(file)? {
            // The disk was full in the middle of a line.
            file.write_all(b"\n")?;
        }
        let mut text = serde_json::to_vec(wire).map_err(io::Error::other)?;
        text.push(b'\n');
        file.write_all(&text)?;
        open.lines += 1;
        Ok(())
    }
}

fn wire(line: &Line) -> Wire {
    Wire { key: hex(&line.key), at: Some(line.at), request: Some(hex(&line.request)) }
}

fn read(path: &Path) -> io::Result<Vec<Line>> {
    let mut lines: Vec<Line> = Vec::new();
    for text in BufReader::new(File::open(path)?).lines() {
        // The last one may have been cut off by the daemon's end.
        let Ok(wire) = serde_json::from_str::<Wire>(&text?) else { continue };
        let Some(key) = from_hex(&wire.key) else { continue };
        match (wire.at, wire.request.as_deref().and_then(from_hex)) {
            (Some(at), Some(request)) => lines.push(Line { key, at, request }),
            _ => {
                if let Some(index) = lines.iter().rposition(|line| line.key == key) {
                    lines.remove(index);
                }
            }
        }
    }
    Ok(lines)
}

fn write(path: &Path, lines: &[Line]) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::NotFound)?;
    let mut staged = tempfile::NamedTempFile::new_in(dir)?;
    for line in lines {
        serde_json::to_writer(&mut staged, &wire(line)).map_err(io::Error::other)?;
        staged.write_all(b"\n")?;
    }
    staged.persist(path)?;
    Ok(())
}

fn hex(digest: &Digest) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Digest> {
    let mut digest = Digest::default();
    if text.len() != 2 * digest.len() || !text.is_ascii() {
        return None;
    }
    for (byte, index) in digest.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&text[index..index + 2], 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_begun_is_known_again_and_what_did_not_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let hour = Duration::from_hours(1);
        let at = Timestamp::now();
        let line = |key, at| Line { key: [key; 32], at, request: [key + 100; 32] };
        let (journal, none) = Journal::open(dir.path(), hour, 3);
        assert_eq!(none.len(), 0);
        journal.begin(&line(0, at - 2 * hour)).unwrap();
        for key in 1..6 {
            journal.begin(&line(key, at)).unwrap();
        }
        journal.undo(&[4; 32]).unwrap();
        let mut file = OpenOptions::new().append(true).open(&journal.path).unwrap();
        file.write_all(b"{\"key\":\"05").unwrap();
        let (again, lines) = Journal::open(dir.path(), hour, 3);
        let keys: Vec<u8> = lines.iter().map(|line| line.key[0]).collect();
        assert_eq!(keys, [2, 3, 5]);
        assert_eq!((lines[0].request, lines[0].at), ([102; 32], at));
        let length = || std::fs::read_to_string(&again.path).unwrap().lines().count();
        assert_eq!(length(), 3);
        for key in 10..100 {
            again.begin(&line(key, at)).unwrap();
            assert!(length() <= 8, "{}", length());
        }
        let (_, lines) = Journal::open(dir.path(), hour, 3);
        assert_eq!(lines.iter().map(|line| line.key[0]).collect::<Vec<_>>(), [97, 98, 99]);
    }

    #[test]
    fn a_line_that_was_cut_off_spoils_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let (hour, at) = (Duration::from_hours(1), Timestamp::now());
        let line = |key| Line { key: [key; 32], at, request: [key + 100; 32] };
        let (journal, _) = Journal::open(dir.path(), hour, 10);
        journal.begin(&line(1)).unwrap();
        // The disk was full in the middle of a line.
        let mut file = OpenOptions::new().append(true).open(&journal.path).unwrap();
        file.write_all(b"{\"key\":\"05").unwrap();
        journal.begin(&line(2)).unwrap();
        journal.begin(&line(3)).unwrap();
        let (_, lines) = Journal::open(dir.path(), hour, 10);
        assert_eq!(lines.iter().map(|line| line.key[0]).collect::<Vec<_>>(), [1, 2, 3]);
    }
}
