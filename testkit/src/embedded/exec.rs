//! Running a program for a session channel.
//!
//! The program leads a process group of its own. Its status is sent when it ends, the channel is closed
//! when its output is at the end too, as OpenSSH does it. When the channel or the connection goes
//! first, the whole group is killed.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use russh::server::{Handle, Msg};
use russh::{Channel, ChannelId, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::handler::Guards;
use super::{MARK, Shared};

/// Messages that may wait for a program that does not read its input: 64 MiB of full packets. Past
/// that the connection stops, since russh itself does not hold a client back.
const STDIN_MESSAGES: usize = 2048;

/// Bytes per read of a program's output: russh's packet size.
const OUTPUT_CHUNK: usize = 32 * 1024;

/// The data type code of standard error (RFC 4254, section 5.2).
const STDERR: u32 = 1;

/// A program that has been started.
pub(super) struct Program {
    child: Child,
    group: Group,
    stdin: ChildStdin,
    stdout: ChildStdout,
    stderr: ChildStderr,
}

/// The process group of a program.
struct Group {
    leader: Pid,
    /// Set when the leader's status has been taken: from then on OpenSSH sends no signals.
    ended: AtomicBool,
}

impl Group {
    fn signal(&self, signal: Signal) {
        // No such group means that it is over.
        let _ = kill_process_group(self.leader, signal);
    }
}

impl Program {
    /// Starts `sh -c command`, or a shell that reads its commands from its input.
    pub(super) fn start(command: Option<&[u8]>, shared: &Shared) -> io::Result<Self> {
        let mut shell = Command::new("/bin/sh");
        if let Some(command) = command {
            shell.arg("-c").arg(OsStr::from_bytes(command));
        }
        let mut child = shell
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .env("HOME", &shared.home)
            .env("USER", &shared.user)
            .env("LOGNAME", &shared.user)
            .env("SHELL", "/bin/sh")
            .env(MARK, &shared.home)
            .current_dir(&shared.home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let leader = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let leader = leader.ok_or(io::ErrorKind::NotFound)?;
        Ok(Self {
            stdin: child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?,
            stdout: child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?,
            stderr: child.stderr.take().ok_or(io::ErrorKind::BrokenPipe)?,
            group: Group { leader, ended: AtomicBool::new(false) },
            child,
        })
    }
}

/// What the programs of a connection share.
pub(super) struct Sessions {
    pub(super) handle: Handle,
    pub(super) shared: Arc<Shared>,
    pub(super) token: CancellationToken,
}

impl Sessions {
    /// Moves bytes and signals until the program and its output are at the end, or the client's end of
    /// the channel is.
    pub(super) async fn run(self, program: Program, channel: Channel<Msg>, guards: Guards) {
        let Program { mut child, group, stdin, stdout, stderr } = program;
        let id = channel.id();
        let (mut reader, writer) = channel.split();
        let (to_stdin, for_stdin) = mpsc::channel(STDIN_MESSAGES);
        let output = async {
            let status = async {
                let status = child.wait().await;
                group.ended.store(true, Ordering::SeqCst);
                self.report(id, status).await;
            };
            if self.shared.faults.borrow().disconnect_before_output {
                status.await;
                let (reason, text) = (russh::Disconnect::ByApplication, "before the output");
                // An error is a connection that is gone.
                let _ = self.handle.disconnect(reason, text.to_owned(), String::new()).await;
                return;
            }
            let (out, err) = (copy(stdout, &writer, None), copy(stderr, &writer, Some(STDERR)));
            tokio::join!(status, out, err);
        };
        let input = async {
            feed(stdin, for_stdin).await;
            // The end of the input ends nothing else.
            std::future::pending::<()>().await;
        };
        let finished = tokio::select! {
            () = self.token.cancelled() => false,
            () = self.listen(&mut reader, to_stdin, &group) => false,
            () = input => false,
            () = output => true,
        };
        if !finished {
            drop(guards);
            group.signal(Signal::KILL);
            let _ = child.wait().await;
            let _ = writer.close().await;
            return;
        }
        let _ = writer.eof().await;
        if self.shared.faults.borrow().never_close {
            tokio::select! {
                () = self.token.cancelled() => {}
                () = closed(&mut reader) => {}
            }
            return;
        }
        // Before the close: the client may open its next channel as soon as it hears of it.
        drop(guards);
        let _ = writer.close().await;
    }

    /// Takes what the client sends until it closes the channel or is gone.
    async fn listen(
        &self,
        reader: &mut ChannelReadHalf,
        to_stdin: mpsc::Sender<Bytes>,
        group: &Group,
    ) {
        let mut to_stdin = Some(to_stdin);
        while let Some(message) = reader.wait().await {
            match message {
                ChannelMsg::Data { data } => {
                    if let Some(to_stdin) = &to_stdin {
                        // A program that has closed its input loses what comes for it.
                        let _ = to_stdin.send(data).await;
                    }
                }
                ChannelMsg::Eof => to_stdin = None,
                ChannelMsg::Signal { signal } => {
                    let ignored = self.shared.faults.borrow().ignore_signals;
                    if let Some(signal) = signal_of(&signal)
                        && !ignored
                        && !group.ended.load(Ordering::SeqCst)
                    {
                        group.signal(signal);
                    }
                }
                ChannelMsg::Close => return,
                _ => {}
            }
        }
    }

    async fn report(&self, id: ChannelId, status: io::Result<ExitStatus>) {
        if self.shared.faults.borrow().exit_without_status {
            return;
        }
        let Ok(status) = status else { return };
        // An error is a connection that is gone.
        let _ = match (status.code(), status.signal()) {
            (Some(code), _) => self.handle.exit_status_request(id, code.cast_unsigned()).await,
            (None, signal) => {
                let signal = name_of(signal.unwrap_or_default());
                let core_dumped = status.core_dumped();
                let (text, language) = (String::new(), String::new());
                self.handle.exit_signal_request(id, signal, core_dumped, text, language).await
            }
        };
    }
}

/// Writes to the program until the input ends. When the program stops reading, the rest is dropped.
async fn feed(mut stdin: ChildStdin, mut bytes: mpsc::Receiver<Bytes>) {
    while let Some(bytes) = bytes.recv().await {
        if stdin.write_all(&bytes).await.is_err() {
            break;
        }
    }
}

/// Sends a program's output to its end. It may wait for the client for ever: the caller ends it.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    to: &ChannelWriteHalf<Msg>,
    data_type: Option<u32>,
) {
    loop {
        let mut buffer = BytesMut::with_capacity(OUTPUT_CHUNK);
        match from.read_buf(&mut buffer).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return,
        }
        let bytes = buffer.freeze();
        let sent = match data_type {
            None => to.data_bytes(bytes).await,
            Some(data_type) => to.extended_data_bytes(data_type, bytes).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Waits until the client has closed the channel or is gone.
async fn closed(reader: &mut ChannelReadHalf) {
    while !matches!(reader.wait().await, None | Some(ChannelMsg::Close)) {}
}

/// Returns the signal of a name: those of RFC 4254, section 6.10.
fn signal_of(name: &Sig) -> Option<Signal> {
    Some(match name {
        Sig::ABRT => Signal::ABORT,
        Sig::ALRM => Signal::ALARM,
        Sig::FPE => Signal::FPE,
        Sig::HUP => Signal::HUP,
        Sig::ILL => Signal::ILL,
        Sig::INT => Signal::INT,
        Sig::KILL => Signal::KILL,
        Sig::PIPE => Signal::PIPE,
        Sig::QUIT => Signal::QUIT,
        Sig::SEGV => Signal::SEGV,
        Sig::TERM => Signal::TERM,
        Sig::USR1 => Signal::USR1,
        Sig::Custom(name) if name == "USR2" => Signal::USR2,
        Sig::Custom(_) => return None,
    })
}

/// Returns the name of a signal that ended a program.
fn name_of(number: i32) -> Sig {
    match Signal::from_named_raw(number) {
        Some(Signal::ABORT) => Sig::ABRT,
        Some(Signal::ALARM) => Sig::ALRM,
        Some(Signal::FPE) => Sig::FPE,
        Some(Signal::HUP) => Sig::HUP,
        Some(Signal::ILL) => Sig::ILL,
        Some(Signal::INT) => Sig::INT,
        Some(Signal::KILL) => Sig::KILL,
        Some(Signal::PIPE) => Sig::PIPE,
        Some(Signal::QUIT) => Sig::QUIT,
        Some(Signal::SEGV) => Sig::SEGV,
        Some(Signal::TERM) => Sig::TERM,
        Some(Signal::USR1) => Sig::USR1,
        // Not in the RFC's list; OpenSSH names it like this too.
        _ => Sig::Custom("SIG@openssh.com".to_owned()),
    }
}
