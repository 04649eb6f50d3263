//! The controlling terminal, for questions to the person at it: as with ssh, also where standard input and
//! output are something else.

use std::cell::RefCell;
use std::fs::{File, Metadata};
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use occ_proto::Secret;
use rustix::fs::OFlags;
use rustix::termios::{
    LocalModes, OptionalActions, QueueSelector, Termios, tcflush, tcgetattr, tcgetpgrp, tcsetattr,
};
use tokio::net::unix::pipe;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{CliError, HUNG_UP, INTERRUPTED, QUIT, TERMINATED};
use crate::stdio::reader_gone;

/// The longest answer, in bytes: what a terminal hands over as one line.
const LONGEST: usize = 4096;

/// How often it is looked whether this process has come to the foreground, of which nobody tells it.
const LOOK: Duration = Duration::from_millis(200);

/// What the name of a terminal's lock begins and ends with; its session is between.
const LOCK_START: &str = "terminal-";
const LOCK_END: &str = ".lock";

/// The terminal of a process in its foreground.
#[derive(Debug)]
pub(crate) struct Terminal {
    file: File,
    /// The same open file. tokio's reader for pipes reads whatever can be polled.
    input: pipe::Receiver,
    /// The name of the lock that is held by whoever asks: two at a time would share the answer between them.
    lock: PathBuf,
}

impl Terminal {
    /// Returns the terminal, if there is one and this process may read from it: in the background, reading
    /// would stop it. `dir` is a private directory that every occ of this user knows.
    pub(crate) fn open(dir: &Path) -> Option<Self> {
        let flags = OFlags::NOCTTY | OFlags::NONBLOCK;
        let file = File::options()
            .read(true)
            .write(true)
            .custom_flags(flags.bits().cast_signed())
            .open("/dev/tty")
            .ok()?;
        if is_in_background(&file) {
            return None;
        }
        // A session has one controlling terminal.
        let session = rustix::process::getsid(None).ok()?.as_raw_nonzero();
        let lock = dir.join(format!("{LOCK_START}{session}{LOCK_END}"));
        let input = pipe::Receiver::from_file_unchecked(file.try_clone().ok()?).ok()?;
        Some(Self { file, input, lock })
    }

    /// Writes text.
    pub(crate) fn write(&self, text: &str) {
        // A terminal that is gone shows in the reading.
        let _ = (&self.file).write_all(text.as_bytes());
    }

    /// Forgets what has been typed and not read.
    pub(crate) fn forget_typed(&self) {
        if !is_in_background(&self.file) {
            // A terminal that is gone shows in the reading.
            let _ = tcflush(&self.file, QueueSelector::IFlush);
        }
    }

    /// Asks and returns the line that was typed; nothing for the end of input (Ctrl-D). A secret is not shown.
    /// Nothing of the terminal's state is changed when the future has been dropped.
    /// Others ask when the turn is dropped: when the daemon has the answer, which may be theirs as well.
    pub(crate) async fn ask(
        &self,
        question: &str,
        secret: bool,
        stands: &Standing,
    ) -> Result<(Option<Secret>, Turn), CliError> {
        let failed = |error| CliError::failed(format!("the terminal: {error}"));
        let mut signals = Signals::new().map_err(failed)?;
        let turn = tokio::select! {
            biased;
            Caught::End(error) = signals.next() => return Err(error),
            turn = self.turn() => turn,
        };
        let hidden = if secret { Some(Hidden::new(&self.file).map_err(failed)?) } else { None };
        // What comes next begins on a line of its own, also when the question is withdrawn.
        let mut line = OpenLine { terminal: self, stands, open: false };
        let mut asked = false;
        let answer = loop {
            tokio::select! {
                biased;
                caught = signals.next() => match caught {
                    Caught::End(error) => break Err(error),
                    // The shell has set the terminal as it likes it, and written over the question.
                    Caught::Continued => asked = false,
                },
                () = foreground(&self.file), if !asked => {
                    if let Some(hidden) = &hidden {
                        hidden.hide().map_err(failed)?;
                    }
                    self.write(question);
                    (asked, line.open) = (true, true);
                    stands.set(question);
                }
                line = self.line(), if asked => break line.map_err(failed),
            }
        };
        // The line feed that ended the answer was hidden, too.
        line.open = hidden.is_some() || !matches!(answer, Ok(Some(_)));
        drop(line);
        answer.map(|answer| (answer, Turn(turn)))
    }

    /// Waits until no other occ asks at this terminal. Without a lock file everybody asks at once.
    async fn turn(&self) -> Option<Lock> {
        let path = self.lock.clone();
        // A thread that still waits when the question is withdrawn lets go of the lock as soon as it has it.
        let locked = tokio::task::spawn_blocking(move || {
            let lock = Lock::wait(&path)?;
            sweep(&path);
            Ok::<_, io::Error>(lock)
        });
        locked.await.ok()?.ok()
    }

    async fn line(&self) -> io::Result<Option<Secret>> {
        let mut line = zeroize::Zeroizing::new(Vec::with_capacity(LONGEST));
        let mut byte = [0];
        while line.len() < LONGEST {
            self.input.readable().await?;
            foreground(&self.input).await;
            match self.input.try_read(&mut byte) {
                Ok(0) if line.is_empty() => return Ok(None),
                Ok(0) => break,
                Ok(_) if byte[0] == b'\n' => break,
                Ok(_) => line.push(byte[0]),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                    ) => {}
                Err(error) => return Err(error),
            }
        }
        let text = std::str::from_utf8(&line)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the answer is not UTF-8"))?;
        Ok(Some(Secret::new(text.to_owned())))
    }
}

/// A question that waits for its answer on the same line.
struct OpenLine<'a> {
    terminal: &'a Terminal,
    stands: &'a Standing,
    open: bool,
}

impl Drop for OpenLine<'_> {
    fn drop(&mut self) {
        self.stands.0.take();
        if self.open {
            self.terminal.write("\n");
        }
    }
}

/// The question that stands on the terminal, whose last line has the cursor: what else is said goes above it, so that
/// nobody types a secret without seeing what it is for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Standing(Rc<RefCell<Option<String>>>);

impl Standing {
    fn set(&self, question: &str) {
        let last = question.rsplit('\n').next().unwrap_or_default();
        self.0.replace(Some(last.to_owned()));
    }

    /// Returns whole lines as they are written to the terminal: over the question, which comes again below them.
    pub(crate) fn above(&self, lines: Vec<u8>) -> Vec<u8> {
        match self.0.borrow().as_ref().filter(|_| lines.ends_with(b"\n")) {
            Some(question) => [b"\r\x1b[K", &lines[..], question.as_bytes()].concat(),
            None => lines,
        }
    }
}

/// The right to ask at the terminal.
#[derive(Debug)]
pub(crate) struct Turn(#[expect(dead_code, reason = "held until it is dropped")] Option<Lock>);

/// A lock on a file that lasts as long as the lock: it is removed under the lock, so whoever has waited for one
/// that is gone takes the next.
#[derive(Debug)]
struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Waits for the lock of that name.
    fn wait(path: &Path) -> io::Result<Self> {
        loop {
            let mut options = File::options();
            let file = options.append(true).create(true).mode(0o600).open(path)?;
            file.lock()?;
            if is_at(&file, path) {
                return Ok(Self { file, path: path.to_owned() });
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Somebody may have removed the directory.
        if is_at(&self.file, &self.path) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let same = |a: &Metadata, b: &Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    matches!((file.metadata(), std::fs::metadata(path)), (Ok(a), Ok(b)) if same(&a, &b))
}

/// Removes the locks beside `own` that nobody holds: whoever made them was killed.
fn sweep(own: &Path) {
    let Some(Ok(entries)) = own.parent().map(std::fs::read_dir) else { return };
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| path != own) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !(name.starts_with(LOCK_START) && name.ends_with(LOCK_END)) {
            continue;
        }
        let Ok(file) = File::options().append(true).open(&path) else { continue };
        if file.try_lock().is_ok() {
            drop(Lock { file, path });
        }
    }
}

/// A terminal that does not show what is typed once it is told so, until this is dropped.
struct Hidden<'a> {
    file: &'a File,
    before: Termios,
}

impl<'a> Hidden<'a> {
    fn new(file: &'a File) -> io::Result<Self> {
        Ok(Self { file, before: tcgetattr(file)? })
    }

    fn hide(&self) -> io::Result<()> {
        let mut hidden = self.before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        // What was typed before the question is no answer to it.
        set_modes(self.file, OptionalActions::Flush, &hidden)
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        // There is no better moment to try again.
        let _ = set_modes(self.file, OptionalActions::Flush, &self.before);
    }
}

/// Returns whether this process is in the background of a terminal: the kernel stops it there as soon as it reads or sets
/// modes (SIGTTIN, SIGTTOU), time and again, and for ever where the signals are caught that would end it. On a terminal
/// that is not the controlling one, or has gone, that is nobody's.
pub(crate) fn is_in_background(terminal: impl AsFd) -> bool {
    tcgetpgrp(terminal).is_ok_and(|group| group != rustix::process::getpgrp())
}

/// Returns when this process is not in the background of a terminal.
pub(crate) async fn foreground(terminal: &impl AsFd) {
    while is_in_background(terminal) {
        tokio::time::sleep(LOOK).await;
    }
}

/// Sets a terminal's modes, but not in its background: whoever is in the foreground has set them.
pub(crate) fn set_modes(
    terminal: impl AsFd,
    when: OptionalActions,
    modes: &Termios,
) -> io::Result<()> {
    if is_in_background(&terminal) {
        return Ok(());
    }
    Ok(tcsetattr(terminal, when, modes)?)
}

/// Waits until a signal ends the program, and returns how. It listens from the call on, also before it is awaited.
pub(crate) fn ended() -> impl Future<Output = CliError> {
    let signals = Signals::new();
    async {
        let mut signals = match signals {
            Ok(signals) => signals,
            Err(error) => return CliError::failed(format!("signals cannot be caught: {error}")),
        };
        loop {
            if let Caught::End(error) = signals.next().await {
                return error;
            }
        }
    }
}

/// Waits until whatever follows something is to end, and returns how: a signal says so, or nobody reads standard output any
/// more.
pub(crate) async fn following_ended() -> CliError {
    let signal = ended();
    tokio::select! {
        biased;
        error = signal => error,
        () = reader_gone() => CliError::closed_pipe(),
    }
}

/// What a signal means to a question.
enum Caught {
    /// The program is to end; before that the terminal must be as it was.
    End(CliError),
    /// It was stopped, and goes on.
    Continued,
}

/// The signals that matter while a question is open.
struct Signals {
    interrupt: Signal,
    quit: Signal,
    continued: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            continued: signal(SignalKind::from_raw(rustix::process::Signal::CONT.as_raw()))?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Caught {
        let (exit, word) = tokio::select! {
            _ = self.continued.recv() => return Caught::Continued,
            _ = self.interrupt.recv() => (INTERRUPTED, "interrupted"),
            _ = self.quit.recv() => (QUIT, "quit"),
            _ = self.terminate.recv() => (TERMINATED, "terminated"),
            _ = self.hang_up.recv() => (HUNG_UP, "hung up"),
        };
        let error = CliError::failed(format!("{word}."));
        Caught::End(CliError { exit, code: "interrupted".into(), ..error })
    }
}
