//! Trees of files as a stream: the format of GNU tar, as far as it is needed to write one and to read those of GNU, BSD
//! and busybox. Names are bytes of any number.
//!
//! Behind the end of the archive, where tar programs do not look, may be records with what went wrong while it was
//! made ([`trouble`]), and the names of what has no place in one, as those of FIFOs.

use crate::files::is_plain_name;

/// The length of a record, in bytes.
pub const BLOCK: usize = 512;
/// What an archive ends with.
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];
/// The longest name or note that is read, in bytes.
const LONGEST: u64 = 64 * 1024;
/// The kind of record that has what went wrong.
const TROUBLE: u8 = b'E';

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A file, whose bytes follow.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, and where it leads: any bytes.
    Symlink(Vec<u8>),
    /// Another name of an entry that came before.
    Hardlink(Vec<u8>),
    /// What is not copied: devices and the like.
    Other,
}

/// An entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path in the tree.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Its permissions.
    pub mode: u32,
    /// When it was changed last, in seconds since 1970.
    pub mtime: i64,
    /// The bytes that follow.
    pub size: u64,
}

/// Returns the parts of a path in a tree, without those that say nothing; nothing for one that leads out of it.
pub fn parts(path: &[u8]) -> Option<Vec<&[u8]>> {
    if path.starts_with(b"/") {
        return None;
    }
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    parts.map(|part| is_plain_name(part).then_some(part)).collect()
}

/// Returns the bytes behind an entry's own up to a whole record.
pub fn padding(size: u64) -> usize {
    // Less than a record.
    usize::try_from((BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64).unwrap_or(0)
}

/// Appends an entry's head.
pub fn head(out: &mut Vec<u8>, entry: &Entry) {
    let (kind, link) = match &entry.kind {
        Kind::File => (b'0', &b""[..]),
        // A FIFO, whatever it is: what there is in its name is not copied.
        Kind::Other => (b'6', &b""[..]),
        Kind::Directory => (b'5', &b""[..]),
        Kind::Symlink(target) => (b'2', &target[..]),
        Kind::Hardlink(target) => (b'1', &target[..]),
    };
    if link.len() > 100 {
        long(out, b'K', link);
    }
    if entry.path.len() > 100 {
        long(out, b'L', &entry.path);
    }
    let size = if kind == b'0' { entry.size } else { 0 };
    record(out, &entry.path, kind, entry.mode, entry.mtime, size, link);
}

/// Appends a name that has no room in a head.
fn long(out: &mut Vec<u8>, kind: u8, name: &[u8]) {
    note(out, kind, b"././@LongLink", name);
}

fn note(out: &mut Vec<u8>, kind: u8, title: &[u8], text: &[u8]) {
    let size = text.len() as u64 + 1;
    record(out, title, kind, 0o644, 0, size, b"");
    out.extend_from_slice(text);
    out.push(0);
    out.resize(out.len() + padding(size), 0);
}

/// Appends what went wrong, behind the end.
pub fn trouble(out: &mut Vec<u8>, text: &str) {
    note(out, TROUBLE, b"occ", text.as_bytes());
}

fn record(out: &mut Vec<u8>, path: &[u8], kind: u8, mode: u32, mtime: i64, size: u64, link: &[u8]) {
    let mut block = [0u8; BLOCK];
    let name = path.len().min(100);
    block[..name].copy_from_slice(&path[..name]);
    octal(&mut block[100..108], u64::from(mode & 0o7777));
    octal(&mut block[108..116], 0);
    octal(&mut block[116..124], 0);
    number(&mut block[124..136], size);
    number(&mut block[136..148], u64::try_from(mtime).unwrap_or(0));
    block[156] = kind;
    let target = link.len().min(100);
    block[157..157 + target].copy_from_slice(&link[..target]);
    block[257..265].copy_from_slice(b"ustar  \0");
    let sum = checksum(&block);
    octal(&mut block[148..155], sum);
    block[155] = b' ';
    out.extend_from_slice(&block);
}

/// The sum of all bytes, those of the sum itself taken as spaces.
fn checksum(block: &[u8; BLOCK]) -> u64 {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    sum(&block[..148]) + 8 * u64::from(b' ') + sum(&block[156..])
}

fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let text = format!("{value:0digits$o}");
    field[..digits].copy_from_slice(&text.as_bytes()[text.len() - digits..]);
}

/// A number that may need more than eleven digits: then it is in binary, as GNU tar has it.
fn number(field: &mut [u8], value: u64) {
    if value < 0o10_0000_0000_0000 / 8 {
        return octal(field, value);
    }
    let at = field.len() - 8;
    field[at..].copy_from_slice(&value.to_be_bytes());
    field[0] = 0x80;
}

fn read_number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let at = field.len() - 8;
        return Some(u64::from_be_bytes(field[at..].try_into().ok()?));
    }
    let is_end = |byte: &u8| *byte == 0 || *byte == b' ';
    let start = field.iter().position(|byte| *byte != b' ').unwrap_or(field.len());
    let digits = &field[start..];
    let digits = &digits[..digits.iter().position(is_end).unwrap_or(digits.len())];
    let text = std::str::from_utf8(digits).ok()?;
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

fn text(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|byte| *byte == 0).unwrap_or(field.len())]
}

/// What is no archive, or ends too early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the archive is damaged")]
pub struct Damaged;

/// What is read of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// An entry begins.
    Entry(Entry),
    /// Bytes of the file that began last.
    Data(Vec<u8>),
    /// What went wrong while it was made.
    Trouble(String),
}

/// Takes an archive apart as it comes.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// What of the buffer has been taken.
    taken: usize,
    /// Bytes of a file that are still to come, and what is behind them.
    left: u64,
    padding: usize,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    mtime: Option<i64>,
    ended: bool,
}

impl Decoder {
    /// Adds what has come.
    pub fn feed(&mut self, data: &[u8]) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(data);
    }

    /// Returns whether the archive has come to its end, and nothing is left over.
    pub fn is_whole(&self) -> bool {
        self.ended && self.left == 0
    }

    fn have(&self) -> usize {
        self.buffer.len() - self.taken
    }

    fn take(&mut self, count: usize) -> &[u8] {
        let start = self.taken;
        self.taken += count;
        &self.buffer[start..self.taken]
    }

    /// Returns what is next; nothing until more has come.
    ///
    /// # Errors
    ///
    /// Not an archive. What comes after that is not read.
    pub fn item(&mut self) -> Result<Option<Item>, Damaged> {
        loop {
            if self.left > 0 {
                let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(self.have());
                if count == 0 {
                    return Ok(None);
                }
                self.left -= count as u64;
                return Ok(Some(Item::Data(self.take(count).to_vec())));
            }
            if self.have() < self.padding + BLOCK {
                return Ok(None);
            }
            let (padding, start) = (self.padding, self.taken + self.padding);
            let block: [u8; BLOCK] =
                self.buffer[start..start + BLOCK].try_into().map_err(|_| Damaged)?;
            if block == [0; BLOCK] {
                (self.padding, self.ended) = (0, true);
                self.take(padding + BLOCK);
                continue;
            }
            if read_number(&block[148..156]) != Some(checksum(&block)) {
                return Err(Damaged);
            }
            let kind = block[156];
            let size = read_number(&block[124..136]).ok_or(Damaged)?;
            if matches!(kind, b'L' | b'K' | b'x' | b'g' | TROUBLE) {
                if size > LONGEST {
                    return Err(Damaged);
                }
                let length = usize::try_from(size).map_err(|_| Damaged)?;
                let behind = self::padding(size);
                if self.have() < padding + BLOCK + length + behind {
                    return Ok(None);
                }
                self.padding = 0;
                self.take(padding + BLOCK);
                let note = self.take(length + behind)[..length].to_vec();
                match kind {
                    b'L' => self.path = Some(text(&note).to_vec()),
                    b'K' => self.link = Some(text(&note).to_vec()),
                    b'x' => self.extended(&note)?,
                    TROUBLE => {
                        let text = String::from_utf8_lossy(text(&note)).into_owned();
                        return Ok(Some(Item::Trouble(text)));
                    }
                    _ => {}
                }
                continue;
            }
            self.padding = 0;
            self.take(padding + BLOCK);
            return self.entry(&block, kind, size).map(Some);
        }
    }

    fn entry(&mut self, block: &[u8; BLOCK], kind: u8, size: u64) -> Result<Item, Damaged> {
        let size = self.size.take().unwrap_or(size);
        let link = self.link.take().unwrap_or_else(|| text(&block[157..257]).to_vec());
        let path = self.path.take().unwrap_or_else(|| {
            let name = text(&block[..100]);
            // POSIX has room for a directory, where GNU has something else.
            match text(&block[345..500]) {
                [] => name.to_vec(),
                _ if &block[257..263] != b"ustar\0" => name.to_vec(),
                prefix => [prefix, b"/", name].concat(),
            }
        });
        let kind = match kind {
            b'0' | 0 | b'7' if path.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' => Kind::File,
            b'1' => Kind::Hardlink(link),
            b'2' => Kind::Symlink(link),
            b'5' => Kind::Directory,
            _ => Kind::Other,
        };
        let mode = read_number(&block[100..108]).ok_or(Damaged)?;
        let mtime = match self.mtime.take() {
            Some(mtime) => mtime,
            // A time before 1970 is a negative number in binary.
            None => read_number(&block[136..148])
                .map_or(Err(Damaged), |time| Ok(i64::from_be_bytes(time.to_be_bytes())))?,
        };
        self.left = size;
        self.padding = padding(size);
        let mode = u32::try_from(mode & 0o7777).map_err(|_| Damaged)?;
        Ok(Item::Entry(Entry { path, kind, mode, mtime, size }))
    }

    /// Reads a note of POSIX's: lines of a length, a name and a value.
    fn extended(&mut self, mut note: &[u8]) -> Result<(), Damaged> {
        while !note.is_empty() {
            let space = note.iter().position(|byte| *byte == b' ').ok_or(Damaged)?;
            let length = std::str::from_utf8(&note[..space]).map_err(|_| Damaged)?;
            let length: usize = length.parse().map_err(|_| Damaged)?;
            if length > note.len() || length < space + 2 {
                return Err(Damaged);
            }
            let line = &note[space + 1..length - 1];
            let equals = line.iter().position(|byte| *byte == b'=').ok_or(Damaged)?;
            let (name, value) = (&line[..equals], &line[equals + 1..]);
            let digits = || {
                let text = std::str::from_utf8(value).map_err(|_| Damaged)?;
                text.split('.').next().unwrap_or_default().parse::<i64>().map_err(|_| Damaged)
            };
            match name {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(u64::try_from(digits()?).map_err(|_| Damaged)?),
                b"mtime" => self.mtime = Some(digits()?),
                _ => {}
            }
            note = &note[length..];
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn archive(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (entry, data) in entries {
            head(&mut out, entry);
            out.extend_from_slice(data);
            out.resize(out.len() + padding(data.len() as u64), 0);
        }
        out.extend_from_slice(&END);
        out
    }

    fn read(archive: &[u8], piece: usize) -> (Vec<(Entry, Vec<u8>)>, bool) {
        let mut decoder = Decoder::default();
        let mut found: Vec<(Entry, Vec<u8>)> = Vec::new();
        for piece in archive.chunks(piece) {
            decoder.feed(piece);
            while let Some(item) = decoder.item().unwrap() {
                match item {
                    Item::Entry(entry) => found.push((entry, Vec::new())),
                    Item::Data(data) => found.last_mut().unwrap().1.extend(data),
                    Item::Trouble(_) => {}
                }
            }
        }
        (found, decoder.is_whole())
    }

    fn file(path: &[u8], data: &[u8]) -> (Entry, Vec<u8>) {
        let (kind, size) = (Kind::File, data.len() as u64);
        (Entry { path: path.to_vec(), kind, mode: 0o644, mtime: 9, size }, data.to_vec())
    }

    #[test]
    fn what_leads_out_of_a_tree_is_no_path_in_it() {
        for bad in [&b"/etc"[..], b"..", b"a/../b", b"a/..", b"a\0b"] {
            assert_eq!(parts(bad), None, "{bad:?}");
        }
        assert_eq!(parts(b"./a//b/"), Some(vec![&b"a"[..], b"b"]));
        assert_eq!(parts(b"./"), Some(vec![]));
    }

    #[test]
    fn gnu_tar_reads_ours_and_we_read_its() {
        use std::io::Write as _;
        use std::process::{Command, Stdio};
        let long = [&b"d/"[..], &[b'x'; 200], b"\xff"].concat();
        let ours = archive(&[file(b"a", b"1"), file(&long, &[7; 1000])]);
        let mut list = Command::new("tar");
        let mut list = list
            .args(["-tf", "-", "--quoting-style=literal"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        list.stdin.take().unwrap().write_all(&ours).unwrap();
        let output = list.wait_with_output().unwrap();
        assert_eq!(output.stdout, [b"a\n", &long[..], b"\n"].concat());
        let dir = std::env::temp_dir().join(format!("occ-tar-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let name = "n".repeat(180);
        std::fs::write(dir.join(&name), "content").unwrap();
        for format in ["gnu", "pax", "ustar"] {
            let mut tar = Command::new("tar");
            tar.arg(format!("--format={format}")).args(["-cf", "-", "-C"]).arg(&dir).arg(".");
            let theirs = tar.output().unwrap().stdout;
            let (found, whole) = read(&theirs, 700);
            assert!(whole, "{format}");
            // ustar has no room for such a name.
            if format != "ustar" {
                assert_eq!(found[1].0.path, [b"./", name.as_bytes()].concat(), "{format}");
                assert_eq!(found[1].1, b"content");
            }
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn trouble_is_behind_the_end() {
        let mut out = archive(&[file(b"a", b"1")]);
        trouble(&mut out, "b could not be read");
        let mut decoder = Decoder::default();
        decoder.feed(&out);
        let mut last = None;
        while let Some(item) = decoder.item().unwrap() {
            last = Some(item);
        }
        assert_eq!(last, Some(Item::Trouble("b could not be read".into())));
    }

    proptest! {
        #[test]
        fn archives_survive_in_any_pieces(
            files in proptest::collection::vec(
                (proptest::collection::vec(1u8.., 1..300), proptest::collection::vec(any::<u8>(), 0..1200)), 0..6),
            piece in 1usize..3000,
        ) {
            let entries: Vec<_> = files.iter()
                .map(|(path, data)| file(&[b"p", &path[..], b"q"].concat(), data))
                .collect();
            let (found, whole) = read(&archive(&entries), piece);
            prop_assert!(whole);
            prop_assert_eq!(found, entries);
        }

        #[test]
        fn whatever_comes_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut decoder = Decoder::default();
            decoder.feed(&bytes);
            while let Ok(Some(_)) = decoder.item() {}
        }
    }
}
