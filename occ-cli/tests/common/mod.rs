//! A daemon of cardboard: HTTP/1.1 on a Unix socket, with answers that the test gives.

#![allow(dead_code, unreachable_pub, missing_debug_implementations, reason = "for tests only")]
#![allow(clippy::unwrap_used, reason = "a failing fixture is a failing test")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Message, WebSocket};

/// Guards a test against hanging; nothing here takes a tenth of it.
pub const GUARD: Duration = Duration::from_secs(60);

/// A request that the daemon got.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Value,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Returns `GET /path`.
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// What the daemon answers.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn ok(body: Value) -> Self {
        Self { status: 200, headers: vec![], body: body.to_string() }
    }

    pub fn status(status: u16) -> Self {
        Self { status, headers: vec![], body: String::new() }
    }

    pub fn text(body: &str) -> Self {
        Self { status: 200, headers: vec![], body: body.to_owned() }
    }

    pub fn problem(status: u16, code: &str, detail: &str, host: &str) -> Self {
        let body = json!({
            "type": format!("urn:occ:problem:{code}"), "title": "t", "status": status,
            "detail": detail, "code": code, "retryable": false, "host": host,
        });
        Self { status, headers: vec![], body: body.to_string() }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

pub type Ws = WebSocket<UnixStream>;
type Handler = dyn Fn(&Seen) -> Answer + Send + Sync;
type Script = dyn Fn(Ws, &Seen) + Send + Sync;

pub struct Fake {
    pub dir: tempfile::TempDir,
    pub socket: PathBuf,
    pub seen: Arc<Mutex<Vec<Seen>>>,
}

impl Fake {
    /// Starts a daemon that answers with `handler`.
    pub fn new(handler: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        Self::with_exec(handler, |_| panic!("no exec was expected"))
    }

    /// Starts a daemon whose `exec` plays `script`.
    pub fn exec(script: impl Fn(Ws) + Send + Sync + 'static) -> Self {
        Self::with_exec(|_| host_not_found("prod-1"), script)
    }

    pub fn with_exec(
        handler: impl Fn(&Seen) -> Answer + Send + Sync + 'static,
        script: impl Fn(Ws) + Send + Sync + 'static,
    ) -> Self {
        Self::with_execs(handler, move |ws, _| script(ws))
    }

    /// The same with a script that knows which request it plays for.
    pub fn with_execs(
        handler: impl Fn(&Seen) -> Answer + Send + Sync + 'static,
        script: impl Fn(Ws, &Seen) + Send + Sync + 'static,
    ) -> Self {
        let dir = private_dir();
        let socket = dir.path().join("occd.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let handler: Arc<Handler> = Arc::new(handler);
        let script: Arc<Script> = Arc::new(script);
        let all = Arc::clone(&seen);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (handler, script, seen) =
                    (Arc::clone(&handler), Arc::clone(&script), Arc::clone(&all));
                let stream = stream.unwrap();
                thread::spawn(move || serve(stream, &*handler, &*script, &seen));
            }
        });
        Self { dir, socket, seen }
    }

    /// Returns the requests so far, as `GET /path`.
    pub fn lines(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(Seen::line).collect()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = occ(args, self.dir.path());
        command.env("OCC_SOCKET", &self.socket);
        command
    }

    /// Runs `occ` with nothing on its standard input.
    pub fn occ(&self, args: &[&str]) -> Done {
        run(&mut self.command(args))
    }
}

/// Returns a directory that only this user can enter.
pub fn private_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    dir
}

/// Returns `occ` in an environment of its own that starts no daemon.
pub fn occ(args: &[&str], home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_occ"));
    command.args(args).env_clear().env("HOME", home).env("OCC_NO_AUTOSTART", "1");
    command.env("PATH", "/usr/bin:/bin");
    command
}

/// What a program left behind.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

pub fn run(command: &mut Command) -> Done {
    command.stdin(Stdio::null());
    finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

/// Waits for a child whose streams are pipes.
pub fn finish(child: Child) -> Done {
    let Output { status, stdout, stderr } = output(child);
    Done {
        code: status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&stdout).into_owned(),
        err: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

pub fn output(child: Child) -> Output {
    let id = child.id();
    let (send, receive) = mpsc::channel();
    thread::spawn(move || send.send(child.wait_with_output()));
    match receive.recv_timeout(GUARD) {
        Ok(output) => output.unwrap(),
        Err(_) => {
            let _ = Command::new("kill").args(["-9", &id.to_string()]).status();
            panic!("occ hangs");
        }
    }
}

pub fn host_not_found(host: &str) -> Answer {
    Answer::problem(404, "host_not_found", "No such host.", host)
}

fn serve(stream: UnixStream, handler: &Handler, script: &Script, all: &Mutex<Vec<Seen>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        let mut words = first.split_whitespace();
        let (method, path) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim().split_once(": ") else { break };
            headers.push((name.to_lowercase(), value.to_owned()));
        }
        let mut seen = Seen { method, path, headers, body: Value::Null };
        let length: usize = seen.header("content-length").map_or(0, |n| n.parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        if !body.is_empty() {
            seen.body = serde_json::from_slice(&body).unwrap();
            assert_eq!(seen.header("content-type"), Some("application/json"));
        }
        assert_eq!(seen.header("host"), Some("localhost"));
        all.lock().unwrap().push(seen.clone());
        let mut out = &stream;
        if seen.header("upgrade").is_some() {
            let answer = handler(&seen);
            if answer.status >= 400 && !answer.body.contains("host_not_found") {
                write(out, &answer);
                continue;
            }
            let more = head_of(&answer);
            write!(
                out,
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n{more}\r\n",
            )
            .unwrap();
            assert!(reader.buffer().is_empty());
            script(WebSocket::from_raw_socket(stream, Role::Server, None), &seen);
            return;
        }
        write(out, &handler(&seen));
    }
}

/// Returns the headers of an answer, with the versions that it does not name itself.
fn head_of(answer: &Answer) -> String {
    let named = |name: &str| answer.headers.iter().any(|(key, _)| key == name);
    let versions = [("occ-api-version", "1"), ("occ-version", "0.1.0")];
    let versions = versions.into_iter().filter(|(name, _)| !named(name));
    let own = answer.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    versions.chain(own).map(|(name, value)| format!("{name}: {value}\r\n")).collect()
}

fn write(mut out: &UnixStream, answer: &Answer) {
    let kind = if answer.status >= 400 { "application/problem+json" } else { "application/json" };
    let mut text = format!("HTTP/1.1 {} X\r\ncontent-type: {kind}\r\n", answer.status);
    if answer.status != 204 {
        text.push_str(&format!("content-length: {}\r\n", answer.body.len()));
    }
    text.push_str(&head_of(answer));
    // The client may have gone, which some tests want.
    let _ = out.write_all(format!("{text}\r\n{}", answer.body).as_bytes());
}

/// Returns the time so many seconds ago; half a second more, so that rounding cannot tip it.
pub fn ago(seconds: i64) -> String {
    (Timestamp::now() - SignedDuration::from_secs(seconds)).to_string()
}

/// Returns a host's status.
pub fn status(name: &str, state: &str) -> Value {
    let plain = match state {
        "connected" => "connected",
        "failed" => "error",
        _ => "disconnected",
    };
    json!({
        "name": name, "state": state, "status": plain, "since": ago(7830), "attempt": 0,
        "next_retry_at": null, "last_error": null, "rtt_ms": null, "connections": 0,
        "open_channels": 0, "config": {"hostname": "203.0.113.10"}, "revision": 1,
        "etag": "\"7\"", "a_key_of_a_newer_daemon": true,
    })
}

/// Returns a connected host's status.
pub fn connected(name: &str) -> Value {
    let mut value = status(name, "connected");
    value["rtt_ms"] = json!(12.3);
    value["connections"] = json!(1);
    value["connection"] = json!({
        "id": 1, "user": "deploy", "peer": "203.0.113.10:22", "since": ago(7830),
        "server": "OpenSSH_9.2", "kex": "curve25519-sha256", "cipher": "aes128-gcm",
        "host_key": "ssh-ed25519 SHA256:Qm3nV", "auth": "publickey ~/.ssh/id_ed25519",
        "bytes_in": 1_234_567, "bytes_out": 980,
        "system": {"shell": "/bin/bash", "os": "Linux", "arch": "x86_64",
                   "docker_sockets": [{"path": "/var/run/docker.sock", "usable": true}],
                   "docker_cli": true},
    });
    value
}

/// Returns a host's status with a failure.
pub fn broken(name: &str, state: &str, code: &str, message: &str) -> Value {
    let mut value = status(name, state);
    value["last_error"] = json!({
        "code": code, "phase": "connect", "message": message, "at": ago(7830), "retryable": true,
    });
    value
}

pub fn list(hosts: &[Value], default: Option<&str>) -> Value {
    json!({"hosts": hosts, "default_host": default, "revision": 1})
}

/// Returns the client's next text message as JSON.
pub fn text(ws: &mut Ws) -> Value {
    loop {
        match ws.read().unwrap() {
            Message::Text(text) => return serde_json::from_str(text.as_str()).unwrap(),
            Message::Binary(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Returns the client's input until its end.
pub fn input(ws: &mut Ws) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        match ws.read().unwrap() {
            Message::Binary(bytes) => {
                assert_eq!(bytes[0], 0);
                if bytes.len() == 1 {
                    return all;
                }
                all.extend_from_slice(&bytes[1..]);
            }
            other => panic!("{other:?}"),
        }
    }
}

pub fn event(ws: &mut Ws, event: &Value) {
    // The client may have gone, which some tests want.
    let _ = ws.send(Message::text(event.to_string()));
}

pub fn started(ws: &mut Ws) {
    event(ws, &json!({"type": "started"}));
}

pub fn send(ws: &mut Ws, stream: u8, bytes: &[u8]) -> bool {
    let mut message = vec![stream];
    message.extend_from_slice(bytes);
    ws.send(Message::Binary(message.into())).is_ok()
}

pub fn exit(ws: &mut Ws, code: u32) {
    event(ws, &json!({"type": "exit", "code": code, "duration_ms": 5}));
    // The client reads to here before it goes.
    while ws.read().is_ok() {}
}
