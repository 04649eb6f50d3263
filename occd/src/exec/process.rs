//! A running program of this machine's, with the face that a channel of a host's has.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use occ_proto::exec::{STDERR, STDOUT, TtySize};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::local::Local;
use crate::ssh::{Closed, ExitReport, Frame};

/// How long a program has between TERM and KILL, and after KILL.
const GRACE: Duration = Duration::from_secs(2);
/// The most bytes of one frame.
const FRAME: usize = 64 * 1024;

/// A program on this machine. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Process {
    local: Arc<Local>,
    input: Mutex<Input>,
    output: Mutex<Output>,
    state: watch::Sender<State>,
    group: Group,
    tty: bool,
    told_to_end: AtomicBool,
}

/// The group that a program leads, until the program has ended: the number may be another's then.
#[derive(Debug, Clone)]
struct Group(Arc<StdMutex<Option<Pid>>>);

impl Group {
    fn lock(&self) -> MutexGuard<'_, Option<Pid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kill(&self, signal: Signal) {
        // Held, so that the number does not become another's in this moment.
        let group = self.lock();
        if let Some(group) = *group
            && let Err(error) = kill_process_group(group, signal)
        {
            tracing::debug!(%error, "a program could not be signalled");
        }
    }

    /// See [`Process::end`].
    async fn end(&self, state: &watch::Sender<State>, tty: bool) -> bool {
        // An interactive shell ignores TERM.
        for signal in [if tty { Signal::HUP } else { Signal::TERM }, Signal::KILL] {
            self.kill(signal);
            let mut exit = state.subscribe();
            if timeout(GRACE, exit.wait_for(|state| state.exit.is_some())).await.is_ok() {
                return true;
            }
        }
        false
    }
}

#[derive(Debug, Clone, Default)]
struct State {
    exit: Option<ExitReport>,
    /// All output was read.
    complete: bool,
}

/// The way to a program's input.
#[derive(Debug)]
pub(super) enum Input {
    Pipe(ChildStdin),
    Tty(pty_process::OwnedWritePty),
    None,
}

/// A program's output.
#[derive(Debug)]
pub(super) struct Output {
    first: Option<Source>,
    second: Option<Source>,
}

impl Output {
    /// Returns what comes through two pipes.
    pub(super) fn pipes(stdout: Option<ChildStdout>, stderr: Option<ChildStderr>) -> Self {
        Self {
            first: stdout.map(|pipe| Source::new(Reader::Out(pipe), STDOUT)),
            second: stderr.map(|pipe| Source::new(Reader::Err(pipe), STDERR)),
        }
    }

    /// Returns what a terminal shows.
    pub(super) fn tty(pty: pty_process::OwnedReadPty) -> Self {
        Self { first: Some(Source::new(Reader::Tty(pty), STDOUT)), second: None }
    }

    /// Returns words on standard error, and nothing else.
    fn words(words: &str) -> Self {
        let mut source = Source::new(Reader::Words, STDERR);
        source.buffer.extend_from_slice(words.as_bytes());
        Self { first: None, second: Some(source) }
    }
}

/// One stream of a program's.
#[derive(Debug)]
struct Source {
    reader: Reader,
    /// The stream's number, and what was read behind it.
    buffer: BytesMut,
    stream: u8,
}

#[derive(Debug)]
enum Reader {
    Out(ChildStdout),
    Err(ChildStderr),
    Tty(pty_process::OwnedReadPty),
    Words,
}

impl Source {
    fn new(reader: Reader, stream: u8) -> Self {
        let mut source = Self { reader, buffer: BytesMut::new(), stream };
        source.buffer.put_u8(stream);
        source
    }

    /// Waits for more. Nothing means the end. Dropping the future loses nothing.
    async fn read(&mut self) -> Option<Frame> {
        if self.buffer.len() == 1 {
            self.buffer.reserve(FRAME);
            let read = match &mut self.reader {
                Reader::Out(pipe) => fill(pipe, &mut self.buffer).await,
                Reader::Err(pipe) => fill(pipe, &mut self.buffer).await,
                Reader::Tty(pty) => fill(pty, &mut self.buffer).await,
                Reader::Words => 0,
            };
            if read == 0 {
                return None;
            }
        }
        let frame = self.buffer.split().freeze();
        self.buffer.put_u8(self.stream);
        Some(Frame::of(frame))
    }
}

/// Returns how much was read; an error is an end: a terminal has it in place of one (EIO).
async fn fill(reader: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> usize {
    reader.read_buf(buffer).await.unwrap_or(0)
}

impl Process {
    pub(super) fn new(
        local: Arc<Local>,
        child: Option<Child>,
        input: Input,
        output: Output,
    ) -> Self {
        let pid = child.as_ref().and_then(Child::id).and_then(|id| i32::try_from(id).ok());
        let group = Group(Arc::new(StdMutex::new(pid.and_then(Pid::from_raw))));
        let state = watch::Sender::new(State::default());
        if let Some(mut child) = child {
            let (told, group) = (state.clone(), group.clone());
            local.tasks.spawn(async move {
                let exit = match child.wait().await {
                    Ok(status) => report(status),
                    // Somebody else has waited for it.
                    Err(error) => {
                        tracing::warn!(%error, "a program's end is not known");
                        ExitReport::Status(255)
                    }
                };
                group.lock().take();
                told.send_modify(|state| state.exit = Some(exit));
            });
        }
        let tty = matches!(input, Input::Tty(_));
        Self {
            local,
            input: Mutex::new(input),
            output: Mutex::new(output),
            state,
            group,
            tty,
            told_to_end: AtomicBool::new(false),
        }
    }

    /// Returns what a program is that could not be started: it has ended, and said why.
    pub(super) fn failed(local: Arc<Local>, status: u32, words: &str) -> Self {
        let process = Self::new(local, None, Input::None, Output::words(words));
        process.state.send_modify(|state| state.exit = Some(ExitReport::Status(status)));
        process
    }

    pub(super) async fn write(&self, data: Bytes) -> Result<(), Closed> {
        let mut input = self.input.lock().await;
        let writing = async {
            match &mut *input {
                Input::Pipe(pipe) => pipe.write_all(&data).await,
                Input::Tty(pty) => pty.write_all(&data).await,
                Input::None => Err(io::ErrorKind::BrokenPipe.into()),
            }
        };
        // A child of the program's may hold the input open and not read it.
        tokio::select! {
            written = writing => written.map_err(|_| Closed::ByServer),
            () = self.exited() => Err(Closed::ByServer),
        }
    }

    pub(super) async fn eof(&self) -> Result<(), Closed> {
        let mut input = self.input.lock().await;
        if let Input::Tty(pty) = &mut *input {
            // The character that is an end of file at a line's begin (termios(3), VEOF).
            return pty.write_all(&[4]).await.map_err(|_| Closed::ByServer);
        }
        *input = Input::None;
        Ok(())
    }

    pub(super) fn signal(&self, name: &str) {
        let signal = match name {
            "ABRT" => Signal::ABORT,
            "ALRM" => Signal::ALARM,
            "FPE" => Signal::FPE,
            "HUP" => Signal::HUP,
            "ILL" => Signal::ILL,
            "INT" => Signal::INT,
            "KILL" => Signal::KILL,
            "PIPE" => Signal::PIPE,
            "QUIT" => Signal::QUIT,
            "SEGV" => Signal::SEGV,
            "TERM" => Signal::TERM,
            "USR1" => Signal::USR1,
            "USR2" => Signal::USR2,
            _ => return,
        };
        self.group.kill(signal);
    }

    pub(super) async fn resize(&self, size: TtySize) -> bool {
        let size = pty_process::Size::new(size.rows, size.cols);
        match &*self.input.lock().await {
            Input::Tty(pty) => pty.resize(size).is_ok(),
            _ => false,
        }
    }

    pub(super) async fn recv(&self) -> Option<Frame> {
        let mut output = self.output.lock().await;
        loop {
            let Output { first, second } = &mut *output;
            let (frame, is_first) = tokio::select! {
                frame = next(first), if first.is_some() => (frame, true),
                frame = next(second), if second.is_some() => (frame, false),
                else => {
                    self.state.send_if_modified(|state| !std::mem::replace(&mut state.complete, true));
                    return None;
                }
            };
            match frame {
                Some(frame) => return Some(frame),
                None if is_first => *first = None,
                None => *second = None,
            }
        }
    }

    pub(super) async fn exited(&self) {
        // The sender is ours.
        let _ = self.state.subscribe().wait_for(|state| state.exit.is_some()).await;
    }

    pub(super) async fn closed(&self) -> Closed {
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| state.exit.is_some() && state.complete).await;
        Closed::ByServer
    }

    pub(super) fn exit(&self) -> Option<ExitReport> {
        self.state.borrow().exit.clone()
    }

    pub(super) fn closed_reason(&self) -> Option<Closed> {
        let state = self.state.borrow();
        (state.exit.is_some() && state.complete).then_some(Closed::ByServer)
    }

    pub(super) async fn end(&self) -> bool {
        self.told_to_end.store(true, Ordering::Relaxed);
        self.group.end(&self.state, self.tty).await
    }

    pub(super) fn was_told_to_end(&self) -> bool {
        self.told_to_end.load(Ordering::Relaxed)
    }

    pub(super) fn ending(&self) -> WaitForCancellationFutureOwned {
        self.local.stop.clone().cancelled_owned()
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.local.tasks.spawn(task);
    }
}

async fn next(source: &mut Option<Source>) -> Option<Frame> {
    match source {
        Some(source) => source.read().await,
        None => None,
    }
}

fn report(status: std::process::ExitStatus) -> ExitReport {
    match (status.code(), status.signal()) {
        (Some(code), _) => ExitReport::Status(u32::try_from(code).unwrap_or(255)),
        (None, Some(number)) => ExitReport::Signal(occ_proto::exec::signal_name(number)),
        (None, None) => ExitReport::Status(255),
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.group.lock().is_none() || self.was_told_to_end() {
            return;
        }
        let (state, group, tty) = (self.state.clone(), self.group.clone(), self.tty);
        self.local.tasks.spawn(async move {
            group.end(&state, tty).await;
        });
    }
}
