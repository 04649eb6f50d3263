//! A host's files through its shell, where it has no SFTP.
//!
//! Each call is a command of its own (`sh/files.sh`), which needs what a POSIX system or busybox has. What went wrong is
//! read from the tools' words, which a program has no other way to learn.

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use occ_proto::exec::{ExecRequest, STDOUT};
use occ_proto::files::FileKind;
use occ_proto::text::sanitize;
use tokio::time::timeout;

use super::ending::{BEGIN, END, Ending};
use super::left::Home;
use super::remote::{SESSION, kind};
use super::script::arg;
use super::{Attrs, Entry, FileError, Shown};
use crate::exec::{Command, ExecError, Executor, Progress, Running, Step};
use crate::host::Tries;
use crate::prompts::Client;
use crate::ssh::{Connection, Preamble, SAY, TooLong};

static SCRIPT: LazyLock<String> =
    LazyLock::new(|| [SAY, "say files; ", BEGIN, include_str!("sh/files.sh"), END].concat());
/// What is kept of what a tool says, in bytes.
const SAID: usize = 4096;
/// The longest answer that is no file, in bytes: a directory of some hundred thousand names.
const ANSWER: usize = 64 * 1024 * 1024;
/// What the script exits with where a file is not as long as was thought.
const OTHER_LENGTH: u8 = 98;

/// A host's files through its shell.
#[derive(Debug, Clone)]
pub struct Shell {
    executor: Executor,
    tries: Tries,
    client: Client,
    home: Home,
}

impl Shell {
    pub(super) fn new(executor: Executor, tries: Tries, client: Client, home: Home) -> Self {
        Self { executor, tries, client, home }
    }

    pub(super) fn home(&self) -> &Home {
        &self.home
    }

    /// Returns the host's connection.
    pub(super) fn connection(&self) -> Option<Arc<Connection>> {
        self.home.host.snapshot().usable().cloned()
    }

    /// Returns whether the host has a shell and the tools.
    pub(super) async fn is_there(&self) -> Result<bool, FileError> {
        // What runs there instead of a shell may have no end.
        let asked = timeout(SESSION, self.ask("stat", b"/", &[b"-L"])).await;
        match asked.unwrap_or_else(|_| Err(FileError::NoAnswer(SESSION))) {
            Ok(answer) => Ok(record(answer.trim_ascii_end()).is_some()),
            Err(
                error @ (FileError::Unreachable(_) | FileError::NoSession(_) | FileError::Lost(..)),
            ) => Err(error),
            Err(error) => {
                tracing::debug!(%error, "no files through the shell");
                Ok(false)
            }
        }
    }

    async fn start(&self, what: &str, path: &[u8], more: &[&[u8]]) -> Result<Stream, FileError> {
        let ending = Ending::new();
        let mut argv = vec![
            "sh".into(),
            "-c".into(),
            SCRIPT.as_str().into(),
            "sh".into(),
            ending.word().into(),
            what.into(),
            arg(path),
        ];
        argv.extend(more.iter().map(|more| more.to_vec().into()));
        let request = ExecRequest { argv, ..ExecRequest::default() };
        let command = Command::new(request)
            .map_err(|error| FileError::Failed(Shown::of(path), error.to_string()))?;
        let progress = Progress::default();
        // Boxed, as its type is deep.
        let starting: BoxFuture<'_, _> =
            Box::pin(self.executor.start(&command, self.tries, &self.client, &progress));
        let running = starting.await.map_err(|error| not_run(path, error))?;
        Ok(Stream::new(running, path, ending))
    }

    /// Runs the script to its end. Returns what it printed.
    async fn ask(&self, what: &str, path: &[u8], more: &[&[u8]]) -> Result<Vec<u8>, FileError> {
        let stream = self.start(what, path, more).await?;
        // A tool that asks something gets no answer.
        let _ = stream.running.control().close_input().await;
        stream.rest().await
    }

    pub(super) async fn stat(&self, path: &[u8], follow: bool) -> Result<Attrs, FileError> {
        let answer = self.ask("stat", path, &[if follow { b"-L" } else { b"" }]).await?;
        record(answer.trim_ascii_end()).ok_or_else(|| odd(path))
    }

    pub(super) async fn list(&self, path: &[u8]) -> Result<Vec<Entry>, FileError> {
        let answer = self.ask("list", path, &[]).await?;
        entries(answer.into()).ok_or_else(|| odd(path))
    }

    pub(super) async fn real_path(&self, path: &[u8]) -> Result<Vec<u8>, FileError> {
        self.line("real", path).await
    }

    pub(super) async fn read_link(&self, path: &[u8]) -> Result<Vec<u8>, FileError> {
        self.line("readlink", path).await
    }

    async fn line(&self, what: &str, path: &[u8]) -> Result<Vec<u8>, FileError> {
        let mut answer = self.ask(what, path, &[]).await?;
        if answer.pop() != Some(b'\n') {
            return Err(odd(path));
        }
        Ok(answer)
    }

    pub(super) async fn symlink(&self, target: &[u8], path: &[u8]) -> Result<(), FileError> {
        self.ask("symlink", path, &[target]).await.map(drop)
    }

    pub(super) async fn mkdir(&self, path: &[u8], mode: Option<u32>) -> Result<(), FileError> {
        self.ask("mkdir", path, &[octal(mode).as_bytes()]).await.map(drop)
    }

    pub(super) async fn rename(
        &self,
        from: &[u8],
        to: &[u8],
        replace: bool,
    ) -> Result<(), FileError> {
        let how: &[u8] = if replace { b"replace" } else { b"" };
        match self.ask("rename", from, &[&arg(to).0, how]).await {
            // It is about the other one, unless the first is not there.
            Err(FileError::NotFound(_)) => {
                self.stat(from, false).await?;
                Err(FileError::NotFound(Shown::of(to)))
            }
            Err(FileError::Exists(_)) => Err(FileError::Exists(Shown::of(to))),
            Err(FileError::IsDirectory(_)) => Err(FileError::IsDirectory(Shown::of(to))),
            Err(FileError::Permission(_)) => Err(FileError::Permission(Shown::of(to))),
            result => result.map(drop),
        }
    }

    pub(super) async fn remove(&self, path: &[u8], kind: FileKind) -> Result<(), FileError> {
        let what = if kind == FileKind::Directory { "rmdir" } else { "rm" };
        self.ask(what, path, &[]).await.map(drop)
    }

    /// Removes a directory with everything in it.
    pub(super) async fn remove_all(&self, path: &[u8]) -> Result<(), FileError> {
        self.ask("rmall", path, &[]).await.map(drop)
    }

    pub(super) async fn chmod(&self, path: &[u8], mode: u32) -> Result<(), FileError> {
        self.ask("chmod", path, &[octal(Some(mode)).as_bytes()]).await.map(drop)
    }

    pub(super) async fn touch(&self, path: &[u8], mtime: i64) -> Result<(), FileError> {
        self.ask("touch", path, &[stamp(mtime).as_bytes()]).await.map(drop)
    }

    /// Moves what is in a directory into another one.
    pub(super) async fn merge(&self, from: &[u8], to: &[u8]) -> Result<(), FileError> {
        self.ask("merge", from, &[&arg(to).0]).await.map(drop)
    }

    /// Begins to read a file, from an offset up to before another.
    pub(super) async fn read(
        &self,
        path: &[u8],
        range: Option<(u64, u64)>,
    ) -> Result<Stream, FileError> {
        let (first, length) = match range {
            // tail counts from one.
            Some((start, end)) => ((start + 1).to_string(), (end - start).to_string()),
            None => (String::new(), String::new()),
        };
        let mut stream = self.start("read", path, &[first.as_bytes(), length.as_bytes()]).await?;
        let _ = stream.running.control().close_input().await;
        // A line feed says that it could be opened.
        stream.begun().await?;
        Ok(stream)
    }

    /// Begins to write a file that must not be there, or, at an offset, one that is so long.
    pub(super) async fn write(
        &self,
        path: &[u8],
        private: bool,
        offset: u64,
    ) -> Result<Stream, FileError> {
        let private: &[u8] = if private { b"private" } else { b"" };
        let offset = offset.to_string();
        let mut stream = self.start("write", path, &[private, offset.as_bytes()]).await?;
        stream.begun().await?;
        Ok(stream)
    }

    /// Gives a file that was written what it is to have.
    pub(super) async fn settle(&self, path: &[u8], given: &Given) -> Result<(), FileError> {
        let mtime = given.mtime.map_or(String::new(), stamp);
        let owner = given.owner.map_or(String::new(), |(uid, gid)| format!("{uid}:{gid}"));
        let sync: &[u8] = if given.sync { b"sync" } else { b"" };
        let (mode, new_mode) = (octal(given.mode), octal(given.new_mode));
        let more = [mode.as_bytes(), new_mode.as_bytes(), mtime.as_bytes(), owner.as_bytes(), sync];
        self.ask("settle", path, &more).await.map(drop)
    }
}

/// What a file is given when it is whole.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) mode: Option<u32>,
    pub(super) new_mode: Option<u32>,
    pub(super) mtime: Option<i64>,
    pub(super) owner: Option<(u32, u32)>,
    pub(super) sync: bool,
}

fn octal(mode: Option<u32>) -> String {
    mode.map_or(String::new(), |mode| format!("{:o}", mode & 0o7777))
}

/// Returns a time as `touch -t` takes it, in UTC.
fn stamp(mtime: i64) -> String {
    let time = Timestamp::from_second(mtime).unwrap_or_default();
    time.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y%m%d%H%M.%S").to_string()
}

fn odd(path: &[u8]) -> FileError {
    FileError::Failed(Shown::of(path), "the host's tools say something else than was asked".into())
}

pub(super) fn not_run(path: &[u8], error: ExecError) -> FileError {
    match error {
        ExecError::Unreachable(unreachable) => FileError::Unreachable(unreachable),
        ExecError::NoSession(error) => FileError::NoSession(error),
        ExecError::LinkLost { cause, .. } | ExecError::OutputCut { cause, .. } => {
            FileError::Lost(Shown::of(path), cause)
        }
        error => FileError::Failed(Shown::of(path), crate::ssh::error::chain(&error)),
    }
}

/// A command of ours, what it prints and what it reads.
pub(super) struct Stream {
    running: Running,
    path: Vec<u8>,
    said: Vec<u8>,
    preamble: Preamble,
    ending: Ending,
    first: VecDeque<Bytes>,
    ended: bool,
}

impl Stream {
    fn new(running: Running, path: &[u8], ending: Ending) -> Self {
        let (path, said, first) = (path.to_vec(), Vec::new(), VecDeque::new());
        Self { running, path, said, preamble: Preamble::default(), ending, first, ended: false }
    }

    /// Waits for the line that says that the file is open.
    async fn begun(&mut self) -> Result<(), FileError> {
        let mut begun = BytesMut::new();
        loop {
            let Some(data) = self.next().await? else { return Err(odd(&self.path)) };
            begun.extend_from_slice(&data);
            if let Some(end) = begun.iter().position(|byte| *byte == b'\n') {
                begun.advance(end + 1);
                if !begun.is_empty() {
                    self.first.push_back(begun.freeze());
                }
                return Ok(());
            }
        }
    }

    /// Returns the next bytes; nothing at a good end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, FileError> {
        if let Some(first) = self.first.pop_front() {
            return Ok(Some(first));
        }
        if self.ended {
            return Ok(None);
        }
        loop {
            match self.running.next().await {
                Step::Output(frame) if frame.stream() == STDOUT => {
                    match self.preamble.pass(frame.data()) {
                        Ok(data) => {
                            if let Some(data) = data.and_then(|data| self.ending.pass(data)) {
                                return Ok(Some(data));
                            }
                        }
                        Err(TooLong) => return Err(odd(&self.path)),
                    }
                }
                Step::Output(frame) => {
                    let room = SAID.saturating_sub(self.said.len());
                    let data = frame.data();
                    self.said.extend_from_slice(&data[..data.len().min(room)]);
                }
                Step::Ended(Ok(exit)) => {
                    self.ended = true;
                    // What runs the script may have a status of its own.
                    return match self.ending.status().unwrap_or(exit.status()) {
                        0 if self.ending.status().is_none() => Err(odd(&self.path)),
                        0 => Ok(None),
                        OTHER_LENGTH => Err(FileError::NotKept(Shown::of(&self.path))),
                        status => Err(FileError::cut_off(&self.path, &exit)
                            .unwrap_or_else(|| error_of(&self.path, &self.said, status))),
                    };
                }
                Step::Ended(Err(error)) => {
                    self.ended = true;
                    return Err(not_run(&self.path, error));
                }
            }
        }
    }

    /// Returns the rest.
    async fn rest(mut self) -> Result<Vec<u8>, FileError> {
        let mut rest = Vec::new();
        while let Some(data) = self.next().await? {
            if rest.len() + data.len() > ANSWER {
                return Err(odd(&self.path));
            }
            rest.extend_from_slice(&data);
        }
        Ok(rest)
    }

    /// Sends bytes to be written.
    pub(super) async fn put(&mut self, data: Bytes) -> Result<(), FileError> {
        match self.running.control().write(data).await {
            Ok(()) => Ok(()),
            // It says itself why it has ended.
            Err(_) => match self.close().await {
                Ok(()) => Err(FileError::Ended(Shown::of(&self.path))),
                Err(error) => Err(error),
            },
        }
    }

    /// Waits until all is written.
    pub(super) async fn close(&mut self) -> Result<(), FileError> {
        // It may have ended.
        let _ = self.running.control().close_input().await;
        while self.next().await?.is_some() {}
        Ok(())
    }
}

/// Returns the error that a tool's words mean: those of POSIX's errors in C, and of shells that have words of their own.
fn error_of(path: &[u8], said: &[u8], status: u8) -> FileError {
    let text = String::from_utf8_lossy(said);
    let has = |words: &str| text.contains(words);
    let path = Shown::of(path);
    match () {
        () if has("No space left") => FileError::NoSpace(path),
        () if has("uota exceeded") || has("File too large") => FileError::Quota(path),
        () if has("name too long") || has("Filename too long") => FileError::NameTooLong(path),
        () if has("ermission denied") || has("not permitted") || has("Read-only file system") => {
            FileError::Permission(path)
        }
        () if has("Not a directory") || has("not a directory") => FileError::NotDirectory(path),
        () if has("No such file") || has("nonexistent") || has("nonexistent directory") => {
            FileError::NotFound(path)
        }
        () if has("File exists") || has("file exists") => FileError::Exists(path),
        () if has("not empty") => FileError::NotEmpty(path),
        () if has("s a directory") => FileError::IsDirectory(path),
        () => {
            let line = text.lines().map(str::trim).find(|line| !line.is_empty());
            let line = line.map_or_else(|| format!("a tool there ended with {status}"), sanitize);
            FileError::Failed(path, line)
        }
    }
}

/// Returns what a line of the script tells of a file.
fn record(line: &[u8]) -> Option<Attrs> {
    let text = std::str::from_utf8(line).ok()?;
    let mut fields = text.split(' ');
    let mode = mode_of(fields.next()?)?;
    let size = fields.next()?.parse().ok()?;
    let owner = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let mtime = fields.next()?.parse().ok()?;
    let kind = kind(mode);
    Some(Attrs { kind, size, mode: mode & 0o7777, owner, mtime, stamp: u64::from(mode) })
}

/// Reads a mode: hexadecimal digits, or as `ls -l` shows it.
fn mode_of(text: &str) -> Option<u32> {
    let shown = text.as_bytes();
    if shown.len() < 10 {
        return u32::from_str_radix(text, 16).ok();
    }
    let kind = match shown[0] {
        b'-' => 0o100_000,
        b'd' => 0o040_000,
        b'l' => 0o120_000,
        b'p' => 0o010_000,
        b's' => 0o140_000,
        b'c' => 0o020_000,
        b'b' => 0o060_000,
        _ => return None,
    };
    let mut mode = kind;
    for (at, letter) in shown[1..10].iter().enumerate() {
        let bit = 0o400 >> at;
        let special = [0o4000, 0o2000, 0o1000][at / 3];
        mode |= match letter {
            b'-' => 0,
            b's' | b't' => bit | special,
            b'S' | b'T' => special,
            _ => bit,
        };
    }
    Some(mode)
}

/// Reads a list: the names, each with a NUL byte behind it, an empty one, and the records of those that were still there.
fn entries(answer: Bytes) -> Option<Vec<Entry>> {
    let mut names = Vec::new();
    let mut rest = answer;
    loop {
        let end = rest.iter().position(|byte| *byte == 0)?;
        let name = rest.split_to(end);
        rest.advance(1);
        if name.is_empty() {
            break;
        }
        names.push(name);
    }
    let mut entries = Vec::new();
    for name in names {
        // A line per file, the last of which is its name, whatever is in that.
        let Some(slash) = rest.iter().position(|byte| *byte == b'/') else { break };
        let behind = &rest[slash + 1..];
        if !behind.starts_with(&name) || behind.get(name.len()) != Some(&b'\n') {
            continue;
        }
        let attrs = record(rest[..slash].trim_ascii_end())?;
        rest.advance(slash + 1 + name.len() + 1);
        let name = name.strip_prefix(b"./").map_or(name.clone(), |bare| name.slice_ref(bare));
        entries.push(Entry { name, attrs });
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_in_either_form() {
        assert_eq!(mode_of("81a4"), Some(0o100_644));
        assert_eq!(mode_of("-rw-r--r--"), Some(0o100_644));
        assert_eq!(mode_of("drwxrwxrwt"), Some(0o041_777));
        assert_eq!(mode_of("-rwsr-Sr-x."), Some(0o106_745));
        assert_eq!(mode_of("zzz"), None);
    }

    #[test]
    fn names_of_any_bytes_are_told_from_what_is_said_of_them() {
        let answer = b"./a\0./new\n81a4 1 2 3 4 /./x\0./gone\0./\xff\0\081a4 1 0 0 9 /./a\n81a4 2 0 0 9 /./new\n81a4 1 2 3 4 /./x\na1ff 3 0 0 9 /./\xff\n";
        let found = entries(Bytes::from_static(answer)).unwrap();
        let names: Vec<&[u8]> = found.iter().map(|entry| &entry.name[..]).collect();
        assert_eq!(names, [&b"a"[..], b"new\n81a4 1 2 3 4 /./x", b"\xff"]);
        assert_eq!(found[2].attrs.kind, FileKind::Symlink);
        assert_eq!(found[1].attrs.size, 2);
        assert!(entries(Bytes::from_static(b"\0")).unwrap().is_empty());
        assert!(entries(Bytes::from_static(b"nothing like it")).is_none());
    }
}
