//! The controlling terminal, for questions to the person at it: as with ssh, also where standard input and
//! output are something else.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;

use occ_proto::Secret;
use rustix::fs::OFlags;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};
use tokio::net::unix::pipe;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{CliError, HUNG_UP, INTERRUPTED, TERMINATED};

/// The longest answer, in bytes: what a terminal hands over as one line.
const LONGEST: usize = 4096;

/// The terminal of a process in its foreground.
#[derive(Debug)]
pub(crate) struct Terminal {
    file: File,
    /// The same open file. tokio's reader for pipes reads whatever can be polled.
    input: pipe::Receiver,
}

impl Terminal {
    /// Returns the terminal, if there is one and this process may read from it: in the background, reading
    /// would stop it.
    pub(crate) fn open() -> Option<Self> {
        let flags = OFlags::NOCTTY | OFlags::NONBLOCK;
        let file = File::options()
            .read(true)
            .write(true)
            .custom_flags(flags.bits().cast_signed())
            .open("/dev/tty")
            .ok()?;
        let in_foreground = tcgetpgrp(&file).is_ok_and(|group| group == rustix::process::getpgrp());
        if !in_foreground {
            return None;
        }
        let input = pipe::Receiver::from_file_unchecked(file.try_clone().ok()?).ok()?;
        Some(Self { file, input })
    }

    /// Writes text.
    pub(crate) fn write(&self, text: &str) {
        // A terminal that is gone shows in the reading.
        let _ = (&self.file).write_all(text.as_bytes());
    }

    /// Asks and returns the line that was typed; nothing for the end of input (Ctrl-D). A secret is not shown.
    /// Nothing of the terminal's state is changed when the future has been dropped.
    pub(crate) async fn ask(
        &self,
        question: &str,
        secret: bool,
    ) -> Result<Option<Secret>, CliError> {
        let failed = |error| CliError::failed(format!("the terminal: {error}"));
        let mut signals = Signals::new().map_err(failed)?;
        let hidden = if secret { Some(Hidden::new(&self.file).map_err(failed)?) } else { None };
        self.write(question);
        let answer = tokio::select! {
            biased;
            error = signals.next() => Err(error),
            line = self.line() => line.map_err(failed),
        };
        // The line feed that ended the answer was hidden, too.
        if hidden.is_some() || !matches!(answer, Ok(Some(_))) {
            self.write("\n");
        }
        answer
    }

    async fn line(&self) -> io::Result<Option<Secret>> {
        let mut line = zeroize::Zeroizing::new(Vec::with_capacity(LONGEST));
        let mut byte = [0];
        while line.len() < LONGEST {
            self.input.readable().await?;
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

/// A terminal that does not show what is typed, until this is dropped.
struct Hidden<'a> {
    file: &'a File,
    before: Termios,
}

impl<'a> Hidden<'a> {
    fn new(file: &'a File) -> io::Result<Self> {
        let before = tcgetattr(file)?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        // What was typed before the question is no answer to it.
        tcsetattr(file, OptionalActions::Flush, &hidden)?;
        Ok(Self { file, before })
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        // There is no better moment to try again.
        let _ = tcsetattr(self.file, OptionalActions::Flush, &self.before);
    }
}

/// The signals that end the program; until then the terminal must be as it was.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> CliError {
        let (exit, word) = tokio::select! {
            _ = self.interrupt.recv() => (INTERRUPTED, "interrupted"),
            _ = self.terminate.recv() => (TERMINATED, "terminated"),
            _ = self.hang_up.recv() => (HUNG_UP, "hung up"),
        };
        CliError { exit, code: "interrupted".into(), ..CliError::failed(format!("{word}.")) }
    }
}
