//! What the promises about commands share: a daemon with one host `h`, requests, and a raw WebSocket.

use std::io::{BufRead as _, BufReader, IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use occ_proto::Problem;
use occ_proto::exec::{DESCRIPTORS_HEADER, ExecEvent, ExecResult, STDIN};
use occ_proto::status::{HostStatus, State};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};
use testkit::daemon::Target;
use testkit::http::Response;
use testkit::proc::{self, Process};
use testkit::wait::blocking::{wait_for, wait_until};
use testkit::{DaemonRig, RealSshd};
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Message, WebSocket};

use crate::ask::is_probed;

/// Guards a test against hanging; nothing takes a tenth of it on an idle machine.
pub(crate) const GUARD: Duration = Duration::from_secs(60);

/// Waits until something holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    wait_until(what, GUARD, &mut holds, |held| *held);
}

/// Returns a running daemon whose host `h` is the server.
pub(crate) fn daemon_for(target: impl Into<Target>) -> DaemonRig {
    daemon_with(target, "")
}

/// The same with an occd.toml.
pub(crate) fn daemon_with(target: impl Into<Target>, config: &str) -> DaemonRig {
    let mut rig = DaemonRig::new();
    rig.add_host("h", target);
    rig.write_config_toml(config);
    rig.start_daemon(&[]);
    rig
}

/// Returns a real sshd and a daemon for it, unless there is no sshd.
pub(crate) fn sshd() -> Option<(RealSshd, DaemonRig)> {
    if !RealSshd::require() {
        return None;
    }
    let sshd = RealSshd::start();
    let rig = daemon_for(&sshd);
    Some((sshd, rig))
}

/// Sends `POST /v1/hosts/h/exec`.
pub(crate) fn post(rig: &DaemonRig, request: Value) -> Response {
    rig.http("POST", "/v1/hosts/h/exec", &[], Some(request))
}

/// Runs a command through the API to a result.
///
/// # Panics
/// When the answer is a problem, showing it.
pub(crate) fn exec(rig: &DaemonRig, request: Value) -> ExecResult {
    let response = post(rig, request);
    assert_eq!(response.status, 200, "{}", response.text());
    serde_json::from_slice(&response.body).unwrap()
}

/// Runs a line of the remote shell through the API.
pub(crate) fn shell(rig: &DaemonRig, line: &str) -> ExecResult {
    exec(rig, json!({ "shell": line }))
}

/// Returns an `occ exec --host h --` command, ready for the remote argv.
pub(crate) fn occ_exec(rig: &DaemonRig) -> Command {
    rig.occ(&["exec", "--host", "h", "--"])
}

/// Starts `occ exec` with pipes for all its streams.
pub(crate) fn spawn_occ(rig: &DaemonRig, argv: &[&str]) -> Child {
    occ_exec(rig)
        .args(argv)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits for the end of a child and returns its exit code, 128 + n for a signal.
pub(crate) fn exit_code(child: &mut Child) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    let status = wait_for("the program's end", GUARD, || child.try_wait().unwrap());
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// Returns the state of `h`.
pub(crate) fn status(rig: &DaemonRig) -> HostStatus {
    let response = rig.http("GET", "/v1/hosts/h", &[], None);
    assert_eq!(response.status, 200, "{}", response.text());
    serde_json::from_slice(&response.body).unwrap()
}

/// Waits until `h` is connected and its probe has answered.
pub(crate) fn settled(rig: &DaemonRig) -> HostStatus {
    wait_until(
        "a settled connection",
        GUARD,
        || status(rig),
        |status| status.state == State::Connected && is_probed(status) && status.open_channels == 0,
    )
}

/// Waits until no channel of `h` is in use.
pub(crate) fn no_channels(rig: &DaemonRig, within: Duration) {
    wait_until("channels in use to be none", within, || status(rig).open_channels, |n| *n == 0);
}

/// Returns the programs that run in the server's sessions, wherever they are by now.
pub(crate) fn remote_programs(sshd: &RealSshd) -> Vec<Process> {
    proc::marked(&format!("OCC_TESTKIT={}", sshd.dir().display()))
}

/// Waits until the server runs a program of that name and returns it.
pub(crate) fn remote_program(sshd: &RealSshd, name: &str) -> Process {
    wait_for(&format!("a remote {name}"), GUARD, || {
        remote_programs(sshd).into_iter().find(|process| process.name() == name)
    })
}

/// Waits until nothing runs in the server's sessions any more.
pub(crate) fn no_programs(sshd: &RealSshd, within: Duration) {
    wait_until(
        "the remote programs to be gone",
        within,
        || {
            let names = |process: &Process| (process.pid, process.name());
            remote_programs(sshd).iter().map(names).collect::<Vec<_>>()
        },
        Vec::is_empty,
    );
}

/// A request on the daemon's socket whose answer is read as it comes, or not at all.
#[derive(Debug)]
pub(crate) struct Stream {
    reader: BufReader<UnixStream>,
}

impl Stream {
    /// Sends `POST /v1/hosts/h/exec` and reads nothing.
    pub(crate) fn post(rig: &DaemonRig, accept: &str, request: &Value) -> Self {
        let mut socket = connect(rig);
        let body = request.to_string();
        write!(
            socket,
            "POST /v1/hosts/h/exec HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        Self { reader: BufReader::new(socket) }
    }

    /// Reads on until a line contains `text`, and returns that line.
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        loop {
            let mut line = Vec::new();
            self.reader.read_until(b'\n', &mut line).unwrap();
            let line = String::from_utf8_lossy(&line).into_owned();
            assert!(!line.is_empty(), "the answer ended before {text:?} came");
            if line.contains(text) {
                return line;
            }
        }
    }
}

fn connect(rig: &DaemonRig) -> UnixStream {
    let socket = UnixStream::connect(rig.socket()).unwrap();
    socket.set_read_timeout(Some(GUARD)).unwrap();
    socket.set_write_timeout(Some(GUARD)).unwrap();
    socket
}

/// What comes on a WebSocket.
#[derive(Debug, PartialEq)]
pub(crate) enum Incoming {
    /// Bytes of a stream.
    Bytes(u8, Vec<u8>),
    /// An event.
    Event(ExecEvent),
    /// The end of the connection.
    End,
}

/// Upgrades a connection with more header lines and returns it with the head of the answer.
fn handshake(rig: &DaemonRig, path: &str, headers: &str) -> (UnixStream, String) {
    let mut socket = connect(rig);
    write!(
        socket,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n",
    )
    .unwrap();
    // Byte by byte, so that nothing of the first frame is taken.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    (socket, head)
}

const EXEC: &str = "/v1/hosts/h/exec";

/// `GET /v1/hosts/h/exec` as a client of its own: nothing is read before it is asked for.
///
/// Reading and writing are apart: where the daemon has closed, a write that failed would be tried again
/// before what it has sent is read.
pub(crate) struct Ws {
    reader: WebSocket<UnixStream>,
    writer: WebSocket<UnixStream>,
}

impl Ws {
    /// Opens the WebSocket and sends the request.
    pub(crate) fn start(rig: &DaemonRig, request: &Value) -> Self {
        let mut ws = Self::open(rig);
        ws.ask(request);
        ws
    }

    /// Opens the WebSocket.
    pub(crate) fn open(rig: &DaemonRig) -> Self {
        Self::over(handshake(rig, EXEC, "").0)
    }

    /// Sends the request.
    pub(crate) fn ask(&mut self, request: &Value) {
        self.writer.send(Message::text(request.to_string())).unwrap();
    }

    /// Sends bytes that may be no frame.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.writer.get_mut().write_all(bytes).unwrap();
    }

    /// Sends the head of a message that is so long, and as much of it as the daemon takes. Returns whether it took all.
    pub(crate) fn long(&mut self, opcode: u8, length: usize) -> bool {
        let mut frame = vec![0x80 | opcode, 0x80 | 127];
        frame.extend_from_slice(&u64::try_from(length).unwrap().to_be_bytes());
        // A mask of zeros changes nothing (RFC 6455, section 5.2).
        frame.resize(frame.len() + 4 + length, 0);
        self.writer.get_mut().write_all(&frame).is_ok()
    }

    /// Reads on to the daemon's last word. Returns the problem before it, and the code and the reason of that.
    pub(crate) fn broken(&mut self) -> (Problem, u16, String) {
        let mut problem = None;
        loop {
            match self.reader.read().unwrap() {
                Message::Text(text) => {
                    let event: Value = serde_json::from_str(&text).unwrap();
                    if event["type"] == "error" {
                        problem = Some(serde_json::from_value(event["problem"].clone()).unwrap());
                    }
                }
                Message::Close(frame) => {
                    let frame = frame.expect("a code");
                    let problem = problem.expect("a problem before the end");
                    return (problem, frame.code.into(), frame.reason.to_string());
                }
                _ => {}
            }
        }
    }

    /// Reads on to the daemon's close frame, and returns its code; nothing where it ends without one.
    pub(crate) fn close_code(&mut self) -> Option<u16> {
        loop {
            match self.reader.read() {
                Ok(Message::Close(frame)) => return frame.map(|frame| frame.code.into()),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    /// Asks for a sign of life.
    pub(crate) fn ping(&mut self) {
        self.writer.send(Message::Ping(Vec::new().into())).unwrap();
    }

    /// The same with descriptors attached to the request. Also returns whether the daemon takes up the
    /// offer.
    pub(crate) fn passing(
        rig: &DaemonRig,
        offer: &str,
        descriptors: &[BorrowedFd<'_>],
        request: &Value,
    ) -> (Self, bool) {
        let (socket, head) = handshake(rig, EXEC, &format!("{DESCRIPTORS_HEADER}: {offer}\r\n"));
        let text = request.to_string();
        // The last of a text; a mask of zeros changes nothing (RFC 6455, section 5.2).
        let mut frame = vec![0x81, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0];
        assert!(text.len() < 126, "a longer one has another head");
        frame.extend_from_slice(text.as_bytes());
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(32))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
        }
        let sent =
            sendmsg(&socket, &[IoSlice::new(&frame)], &mut control, SendFlags::empty()).unwrap();
        assert_eq!(sent, frame.len());
        let taken = head.contains(&format!("{DESCRIPTORS_HEADER}: {offer}\r\n"));
        (Self::over(socket), taken)
    }

    /// Opens a session's WebSocket.
    pub(crate) fn attach(rig: &DaemonRig, session: &str) -> Self {
        Self::over(handshake(rig, &format!("/v1/sessions/{session}/attach"), "").0)
    }

    /// Returns the next event, whatever it is.
    pub(crate) fn event(&mut self) -> Value {
        loop {
            if let Message::Text(text) = self.reader.read().unwrap() {
                return serde_json::from_str(&text).unwrap();
            }
        }
    }

    fn over(socket: UnixStream) -> Self {
        let half = |socket| WebSocket::from_raw_socket(socket, Role::Client, None);
        Self { writer: half(socket.try_clone().unwrap()), reader: half(socket) }
    }

    /// Sends bytes for the program; none at all is the end of file. Returns whether the daemon still
    /// takes them.
    pub(crate) fn input(&mut self, bytes: &[u8]) -> bool {
        self.writer.send(Message::binary([&[STDIN], bytes].concat())).is_ok()
    }

    /// Sends a binary message as it is.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.writer.send(Message::binary(bytes.to_vec())).unwrap();
    }

    /// Sends a control message.
    pub(crate) fn control(&mut self, control: &Value) {
        self.writer.send(Message::text(control.to_string())).unwrap();
    }

    /// Says that nothing more comes (RFC 6455, section 7.1.2).
    pub(crate) fn close(&mut self) {
        self.writer.close(None).unwrap();
        self.writer.flush().unwrap();
    }

    /// Reads on to the daemon's own word that nothing more comes.
    pub(crate) fn closed(&mut self) {
        while !self.reader.read().unwrap().is_close() {}
    }

    /// Returns what comes next.
    pub(crate) fn next(&mut self) -> Incoming {
        loop {
            match self.reader.read() {
                Ok(Message::Binary(data)) => return Incoming::Bytes(data[0], data[1..].to_vec()),
                Ok(Message::Text(text)) => match serde_json::from_str(&text).unwrap() {
                    // How long a login takes is nobody's concern.
                    ExecEvent::Waiting | ExecEvent::Sending => {}
                    event => return Incoming::Event(event),
                },
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
                Ok(Message::Close(_)) => return Incoming::End,
                Err(error) => panic!("the WebSocket failed: {error}"),
            }
        }
    }

    /// Waits until the host has accepted the command.
    pub(crate) fn started(&mut self) {
        assert_eq!(self.next(), Incoming::Event(ExecEvent::Started { new_host_key: None }));
    }
}
