//! The person's terminal while a program elsewhere has it: every key goes there, but for the escape.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use occ_proto::exec::{Tty, TtySize};
use rustix::fs::OFlags;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize};
use tokio::net::unix::pipe;
use tokio::sync::{Mutex, Notify, OwnedMutexGuard};

use crate::escape::{Escape, EscapeKey};
use crate::terminal::{foreground, set_modes};

/// What Ctrl-C is where the terminal makes no signal of it.
const CTRL_C: u8 = 3;

/// The most that is kept of what is typed in a pause, in bytes: more than anybody types.
const KEPT: usize = 64 * 1024;

/// The size of a terminal that does not tell.
const USUAL: TtySize = TtySize { cols: 80, rows: 24 };

/// Returns what the program's terminal is to be like: this one, as far as there is one.
pub(crate) fn wanted() -> Tty {
    let term = std::env::var("TERM").ok().filter(|term| !term.is_empty());
    Tty { term: term.unwrap_or_else(|| "dumb".to_owned()), size: size() }
}

/// Returns the size of this terminal.
pub(crate) fn size() -> TtySize {
    let of = |winsize: rustix::termios::Winsize| {
        (winsize.ws_col > 0 && winsize.ws_row > 0)
            .then_some(TtySize { cols: winsize.ws_col, rows: winsize.ws_row })
    };
    let sizes = [tcgetwinsize(io::stdout()), tcgetwinsize(io::stdin())];
    sizes.into_iter().flatten().find_map(of).unwrap_or(USUAL)
}

/// A terminal that hands over each key as it is pressed, until this is dropped.
#[derive(Debug)]
pub(crate) struct Raw {
    before: Termios,
}

impl Raw {
    /// Makes standard input raw, as soon as this process is in its foreground. Nothing where it is no terminal.
    pub(crate) async fn begin() -> io::Result<Option<Self>> {
        Self::with(Termios::make_raw).await
    }

    /// Does the same, but what is written is for a terminal as usual.
    async fn for_keys_only() -> io::Result<Option<Self>> {
        let modes = |modes: &mut Termios| {
            let output = modes.output_modes;
            modes.make_raw();
            modes.output_modes = output;
        };
        Self::with(modes).await
    }

    async fn with(change: impl FnOnce(&mut Termios)) -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        foreground(&stdin).await;
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        change(&mut raw);
        // What was typed ahead is for the program.
        set_modes(&stdin, OptionalActions::Drain, &raw)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // There is no better moment to try again.
        let _ = set_modes(io::stdin(), OptionalActions::Drain, &self.before);
    }
}

/// Who has the keys of this terminal: one at a time, and a pause only as long as nobody else wants them. One for all
/// copies.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keyboard {
    wanted: Rc<Notify>,
    turn: Arc<Mutex<()>>,
    /// What was typed in a pause, and is for the program behind it.
    kept: Rc<RefCell<BytesMut>>,
}

impl Keyboard {
    /// Takes the keys for a program or a question, with the terminal as it was before a pause, until this is dropped.
    pub(crate) async fn take(&self) -> OwnedMutexGuard<()> {
        self.wanted.notify_one();
        Arc::clone(&self.turn).lock_owned().await
    }

    /// Reads the keys whenever nobody else does, and keeps them for the program, until the escape is typed that leaves
    /// or Ctrl-C.
    pub(crate) async fn pause(&self) {
        let left = Arc::new(Notify::new());
        let Some(mut keys) = Keys::open(EscapeKey::default(), Arc::clone(&left), self, None) else {
            return std::future::pending().await;
        };
        loop {
            let _turn = self.turn.lock().await;
            let reading = async {
                // A terminal that cannot be made raw is used as it is.
                let _raw = Raw::for_keys_only().await;
                while !keys.keep().await {}
            };
            tokio::select! {
                biased;
                () = self.wanted.notified() => {}
                () = left.notified() => return,
                () = reading => return,
            }
        }
    }
}

/// What is on the terminal that shows another's screen, which alone would put back how the terminal was: where that cannot
/// come to it any more, it is done when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct OtherScreen {
    is_shown: Cell<bool>,
    /// Told when it is shown.
    shown: Arc<Notify>,
}

impl OtherScreen {
    /// It is shown from now on: what shows it has written something.
    pub(crate) fn begins(&self) {
        if !self.is_shown.replace(true) {
            self.shown.notify_one();
        }
    }

    /// It has gone by itself.
    pub(crate) fn is_gone(&self) {
        self.is_shown.set(false);
    }

    /// Returns what is told when it is shown.
    pub(crate) fn shown(&self) -> Arc<Notify> {
        Arc::clone(&self.shown)
    }
}

impl Drop for OtherScreen {
    fn drop(&mut self) {
        /// What full-screen programs turn on (xterm's control sequences): the alternate screen, keys for applications,
        /// brackets around what is pasted, words of the mouse and of the focus, a hidden cursor, colours.
        const OFF: &str = "\x1b[?1049l\x1b[?1l\x1b>\x1b[?2004l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1004l\x1b[?25h\x1b[0m";
        if self.is_shown.get() && io::stdout().is_terminal() {
            let mut out = io::stdout();
            // A terminal that is gone needs nothing.
            let _ = out.write_all(OFF.as_bytes()).and_then(|()| out.flush());
        }
    }
}

/// Standard input, key by key.
#[derive(Debug)]
pub(crate) struct Keys {
    input: pipe::Receiver,
    escape: Escape,
    /// Told when the escape was typed that ends it.
    left: Arc<Notify>,
    keyboard: Keyboard,
    /// Until it is told they are kept: the other terminal would take them for a line, and some for signals, before its
    /// screen is shown.
    held: Option<Arc<Notify>>,
}

impl Keys {
    /// Returns the keys of the controlling terminal, opened once more so that only our own reading does not
    /// block; nothing where standard input is another one or none.
    pub(crate) fn open(
        escape: EscapeKey,
        left: Arc<Notify>,
        keyboard: &Keyboard,
        held: Option<Arc<Notify>>,
    ) -> Option<Self> {
        if !io::stdin().is_terminal() {
            return None;
        }
        let flags = (OFlags::NOCTTY | OFlags::NONBLOCK).bits().cast_signed();
        let file =
            File::options().read(true).write(true).custom_flags(flags).open("/dev/tty").ok()?;
        let same = rustix::termios::ttyname(io::stdin(), Vec::new()).ok()?;
        let own = rustix::termios::ttyname(&file, Vec::new()).ok();
        if own.is_some_and(|own| own != same && own.as_bytes() != b"/dev/tty") {
            return None;
        }
        let input = pipe::Receiver::from_file_unchecked(file).ok()?;
        let keyboard = keyboard.clone();
        Some(Self { input, escape: Escape::new(escape), left, keyboard, held })
    }

    /// Returns the same without an escape: what is typed line by line, as the terminal is.
    pub(crate) fn plain() -> Option<Self> {
        Self::open(EscapeKey::NONE, Arc::default(), &Keyboard::default(), None)
    }

    /// Reads keys into the room that `buffer` has and returns how many; 0 is the end. Nothing is lost when the
    /// future is dropped. In the background of the terminal there are none: they are for others.
    pub(crate) async fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        if let Some(shown) = self.held.clone() {
            loop {
                tokio::select! {
                    biased;
                    () = shown.notified() => break,
                    _ = self.keep() => {}
                }
            }
            self.held = None;
        }
        let kept = self.keyboard.kept.take();
        if !kept.is_empty() {
            buffer.extend_from_slice(&kept);
            return Ok(kept.len());
        }
        self.read_new(buffer).await
    }

    /// Keeps what is typed next for whoever reads then. Returns whether Ctrl-C was among it.
    async fn keep(&mut self) -> bool {
        let mut typed = BytesMut::new();
        if !matches!(self.read_new(&mut typed).await, Ok(1..)) {
            // The terminal is gone, of which a signal tells.
            return std::future::pending().await;
        }
        let mut kept = self.keyboard.kept.borrow_mut();
        if kept.len() + typed.len() <= KEPT {
            kept.extend_from_slice(&typed);
        }
        typed.contains(&CTRL_C)
    }

    async fn read_new(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        let filled = buffer.len();
        let mut typed = [0; 4096];
        loop {
            self.input.readable().await?;
            foreground(&self.input).await;
            let read = match self.input.try_read(&mut typed) {
                Ok(0) => return Ok(0),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if self.escape.pass(&typed[..read], buffer) {
                self.left.notify_one();
                return std::future::pending().await;
            }
            if buffer.len() > filled {
                return Ok(buffer.len() - filled);
            }
        }
    }
}
