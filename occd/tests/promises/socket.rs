//! The control socket: whose it is, who may speak on it and how, and that there is one daemon.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use occ_proto::Code;
use serde_json::json;
use testkit::daemon::client_binary;
use testkit::http;
use testkit::proc::{self, Process};
use testkit::require::{is_root, require_root};
use testkit::wait::blocking::{wait_for, wait_until};
use testkit::{DaemonRig, EmbeddedHost};
use tokio::time::Instant;

use crate::ask::{GUARD, connect, problem};

fn running() -> DaemonRig {
    let mut rig = DaemonRig::new();
    rig.start_daemon(&[]);
    rig
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}

/// Returns the directory of the rig's socket, made as the daemon makes it.
fn socket_dir(rig: &DaemonRig) -> PathBuf {
    let dir = rig.socket().parent().unwrap().to_owned();
    fs::create_dir_all(&dir).unwrap();
    set_mode(&dir, 0o700);
    dir
}

/// Starts a daemon that cannot start, and returns its exit code and its words.
fn fails_to_start(rig: &DaemonRig, args: &[&str]) -> (Option<i32>, String) {
    let before = rig.log().len();
    let mut child = rig.spawn_daemon(args);
    let status = wait_for("the daemon to end", GUARD, || child.try_wait().unwrap());
    let words = rig.log()[before..].trim_end().to_owned();
    assert_eq!(words.lines().count(), 1, "one clear sentence: {words}");
    (status.code(), words)
}

/// Sends raw bytes and returns what comes until the daemon closes.
fn raw(socket: &Path, bytes: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(GUARD)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

#[test]
fn what_a_browser_would_send_is_forbidden() {
    let rig = running();
    for (header, value) in [
        ("Origin", "http://evil.example"),
        ("Origin", "null"),
        ("Origin", "http://localhost"),
        ("Referer", "http://evil.example/page"),
        ("Referer", "http://localhost/"),
        ("Host", "evil.example"),
        ("Host", "evil.example:80"),
        ("Host", "localhost.evil.example"),
        ("Host", "127.0.0.1"),
        ("Host", "[::1]"),
        ("Host", "LOCALHOST.evil"),
        ("Host", "occd.example"),
        ("Host", "localhost@evil.example"),
        ("Host", "evil.example, localhost"),
    ] {
        for (method, path) in [("GET", "/v1/hosts"), ("POST", "/v1/hosts"), ("GET", "/no-route")] {
            let body = (method == "POST").then(|| json!({}));
            let answer = problem(&rig.http(method, path, &[(header, value)], body));
            let what = format!("{method} {path} with {header}: {value}");
            assert_eq!((answer.status, answer.code), (403, Code::Forbidden), "{what}");
        }
    }
    for host in ["localhost", "occd", "localhost:80", "occd:1234", ""] {
        let answer = rig.http("GET", "/healthz", &[("Host", host)], None);
        assert_eq!(answer.status, 200, "{host:?}");
        assert!(answer.header("access-control-allow-origin").is_none());
    }
    let without = raw(&rig.socket(), b"GET /healthz HTTP/1.0\r\n\r\n");
    assert!(without.starts_with(b"HTTP/1.0 200"), "{}", String::from_utf8_lossy(&without));
    // Two of them, one of which is good.
    let two = raw(
        &rig.socket(),
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
    );
    let two = String::from_utf8_lossy(&two).into_owned();
    assert!(two.starts_with("HTTP/1.1 400"), "{two}");
    // None at all (RFC 9112, section 3.2).
    let none = raw(&rig.socket(), b"GET /v1/version HTTP/1.1\r\nConnection: close\r\n\r\n");
    let none = String::from_utf8_lossy(&none).into_owned();
    assert!(none.starts_with("HTTP/1.1 400") && none.contains("bad_request"), "{none}");
    // An absolute target names a host too (RFC 9112, section 3.2.2).
    let absolute = raw(
        &rig.socket(),
        b"GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    );
    let absolute = String::from_utf8_lossy(&absolute).into_owned();
    assert!(absolute.starts_with("HTTP/1.1 403"), "{absolute}");
}

/// Names a socket to [`another_users_client`].
const FOREIGN: &str = "OCC_TEST_FOREIGN_SOCKET";

/// Not a test by itself: what [`a_client_of_another_user_gets_not_a_byte`] runs as somebody else.
#[test]
fn another_users_client() {
    let Some(socket) = std::env::var_os(FOREIGN) else { return };
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(GUARD)).unwrap();
    // The daemon may have closed already.
    let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: occd\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    println!("received {} bytes", answer.len());
}

#[test]
fn a_client_of_another_user_gets_not_a_byte() {
    const NOBODY: u32 = 65534;
    if !require_root("to be somebody else") {
        return;
    }
    let rig = running();
    // Whoever opens the doors still has the check of the peer.
    let dir = rig.socket().parent().unwrap().to_owned();
    for path in [rig.root(), rig.root().join("run").as_path(), &dir] {
        set_mode(path, 0o755);
    }
    set_mode(&rig.socket(), 0o666);
    // Its own place may be closed to others.
    let client = rig.root().join("client");
    fs::copy(std::env::current_exe().unwrap(), &client).unwrap();
    set_mode(&client, 0o755);
    let received = |uid: u32| {
        let output = Command::new(&client)
            .args(["--exact", "socket::another_users_client", "--nocapture"])
            .env(FOREIGN, rig.socket())
            .current_dir("/")
            .uid(uid)
            .gid(uid)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let rest = text.split("received ").nth(1).unwrap_or_else(|| panic!("{output:?}"));
        rest.split(' ').next().unwrap().parse::<usize>().unwrap()
    };
    assert_eq!(received(NOBODY), 0);
    assert!(rig.log().contains("refused a client of another user uid=65534"), "{}", rig.log());
    assert!(received(0) > 0, "the helper itself works");
}

#[test]
fn the_socket_is_private_whatever_the_umask() {
    let rig = DaemonRig::new();
    let socket = rig.socket();
    let mut daemon = Command::new("sh");
    daemon.args(["-c", "umask 000; exec \"$0\""]).arg(testkit::daemon::daemon_binary());
    daemon.env_clear().env("HOME", rig.home()).env("XDG_RUNTIME_DIR", rig.root().join("run"));
    daemon.env("XDG_CONFIG_HOME", rig.root().join("config"));
    daemon.env("XDG_STATE_HOME", rig.root().join("state"));
    let mut child = daemon.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the daemon", GUARD, || http::request(&socket, "GET", "/healthz", &[], None).ok());
    assert_eq!(mode(&socket), 0o600);
    assert_eq!(mode(socket.parent().unwrap()), 0o700);
    assert_eq!(mode(&socket.with_extension("lock")), 0o600);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_directory_that_others_could_use_is_refused() {
    let rig = DaemonRig::new();
    let dir = socket_dir(&rig);
    let refused = |says: &str| {
        let (code, words) = fails_to_start(&rig, &[]);
        assert_eq!(code, Some(1));
        let expected = format!("the directory {} is not private to you: {says}", dir.display());
        assert_eq!(words, expected);
        // The client does not trust it either, and starts nothing there.
        let output = rig.run_occ(&["host", "list"]);
        assert_eq!(output.code(), 3, "{output:?}");
        assert!(output.stderr.contains(&dir.display().to_string()), "{output:?}");
        assert!(!rig.socket().exists());
    };
    for open in [0o755, 0o777, 0o770, 0o701] {
        set_mode(&dir, open);
        refused(&format!("it has mode {open:04o}; chmod 700 it"));
    }
    set_mode(&dir, 0o700);
    if is_root() {
        std::os::unix::fs::chown(&dir, Some(65534), None).unwrap();
        refused("it belongs to user id 65534");
    }
    fs::remove_dir(&dir).unwrap();
    let real = rig.root().join("elsewhere");
    fs::create_dir(&real).unwrap();
    set_mode(&real, 0o700);
    symlink(&real, &dir).unwrap();
    refused("it is a symbolic link");
    fs::remove_file(&dir).unwrap();
    fs::write(&dir, "").unwrap();
    refused("it is not a directory");
}

#[test]
fn without_a_runtime_directory_the_socket_is_below_the_state() {
    let mut rig = DaemonRig::new();
    rig.set_env("XDG_RUNTIME_DIR", "");
    rig.start_daemon(&[]);
    let socket = rig.root().join("state/occ/run/occd.sock");
    assert_eq!(rig.socket(), socket);
    assert_eq!((mode(&socket), mode(socket.parent().unwrap())), (0o600, 0o700));
    rig.occ_ok(&["host", "list"]);
    assert!(!rig.root().join("run/occ").exists());
}

#[test]
fn a_socket_path_that_does_not_fit_is_told() {
    let mut rig = DaemonRig::new();
    let long = rig.root().join("x".repeat(120)).join("occd.sock");
    rig.set_env("OCC_SOCKET", &long);
    let (code, words) = fails_to_start(&rig, &[]);
    assert_eq!(code, Some(1));
    assert!(words.contains(&long.display().to_string()) && words.contains("limit is"), "{words}");
    let output = rig.run_occ(&["host", "list"]);
    assert_eq!(output.code(), 2, "{output:?}");
    assert!(output.stderr.contains("limit is"), "{output:?}");
    rig.set_env("OCC_SOCKET", "relative/occd.sock");
    let (_, words) = fails_to_start(&rig, &[]);
    assert!(words.contains("must be absolute"), "{words}");
    for (given, meant) in [
        ("here/occd.sock", "export OCC_SOCKET=\"$PWD/here/occd.sock\""),
        ("unix:///run/x/occd.sock", "export OCC_SOCKET=/run/x/occd.sock,"),
        ("unix:/run/x/occd.sock", "export OCC_SOCKET=/run/x/occd.sock,"),
    ] {
        rig.set_env("OCC_SOCKET", given);
        let output = rig.run_occ(&["host", "list"]);
        assert!(output.stderr.contains(&format!("hint: {meant}")), "{output:?}");
    }
}

#[test]
fn what_a_killed_daemon_left_is_not_in_the_way() {
    let mut rig = running();
    let stale = rig.socket();
    rig.kill_daemon();
    assert!(stale.exists(), "a killed daemon cannot tidy up");
    rig.start_daemon(&[]);
    assert!(rig.terminate_daemon().success());
    assert!(!stale.exists(), "one that ends does");
}

#[test]
fn something_else_at_the_sockets_path_is_not_removed() {
    let rig = DaemonRig::new();
    socket_dir(&rig);
    fs::write(rig.socket(), "precious").unwrap();
    let (code, words) = fails_to_start(&rig, &[]);
    assert_eq!(code, Some(1));
    assert!(words.contains("exists and is not a socket; move it away"), "{words}");
    assert_eq!(fs::read_to_string(rig.socket()).unwrap(), "precious");
}

#[test]
fn a_second_daemon_is_refused_and_the_first_goes_on() {
    let rig = running();
    let first = rig.daemon();
    let (code, words) = fails_to_start(&rig, &[]);
    assert_eq!(code, Some(1));
    let pid = first.pid;
    let said = format!("occd is already running (process {pid}, it holds ");
    assert!(words.contains(&said), "{words}");
    assert!(first.is_alive());
    assert_eq!(rig.http("GET", "/healthz", &[], None).status, 200);
    assert_eq!(rig.http("GET", "/v1/version", &[], None).json()["pid"], first.pid);
}

#[test]
fn a_second_daemon_on_another_socket_is_refused_the_same_state_directory() {
    let rig = running();
    let first = rig.daemon();
    let other = rig.socket().with_file_name("other.sock");
    let (code, words) = fails_to_start(&rig, &["--socket", other.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    let (pid, socket) = (first.pid, rig.socket());
    let who = format!("process {pid}, on the socket {}", socket.display());
    let said = format!("another occd ({who}) uses the state directory ");
    assert!(words.contains(&said), "{words}");
    assert!(!other.exists());
    assert!(first.is_alive());
    // Whoever names another one is told how to get at it.
    let other = other.to_str().unwrap();
    let listed = rig.run_occ(&["--socket", other, "host", "list"]);
    let cure = format!("occ --socket {} daemon stop ends it", socket.display());
    assert!(listed.code() == 3 && listed.stderr.contains(&cure), "{listed:?}");
    for verb in ["status", "stop"] {
        let told = rig.run_occ(&["--socket", other, "daemon", verb]);
        assert!(told.stderr.contains(&cure) && first.is_alive(), "{told:?}");
    }
    rig.occ_ok(&["--socket", socket.to_str().unwrap(), "daemon", "stop"]);
    assert!(!first.is_alive());
}

/// Returns the rig's daemons. The root's name is in the environment of everything started there.
fn daemons(rig: &DaemonRig) -> Vec<Process> {
    let all = proc::marked(&rig.root().display().to_string());
    all.into_iter().filter(|process| process.name() == "occd").collect()
}

#[test]
fn fifty_clients_at_once_start_one_daemon() {
    const CLIENTS: usize = 50;
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.set_env("OCCD_BIN", testkit::daemon::daemon_binary());
    rig.add_host("far", &host);
    let children: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let args = if n % 2 == 0 { ["status", "--all"] } else { ["host", "list"] };
            let mut command = rig.occ(&args);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("far"), "{output:?}");
    }
    assert_eq!(daemons(&rig).len(), 1);
    assert_eq!(rig.log().matches("INFO ready ").count(), 1, "{}", rig.log());
    let left = proc::marked(&rig.root().display().to_string());
    assert_eq!(left.len(), 1, "nothing but the daemon is left: {left:?}");
    rig.occ_ok(&["daemon", "stop"]);
    wait_until("the daemon to end", GUARD, || daemons(&rig), Vec::is_empty);
}

#[test]
fn a_body_is_json_of_a_bearable_size() {
    let rig = running();
    let hosts = |headers: &[(&str, &str)], body: &[u8]| {
        http::request(&rig.socket(), "POST", "/v1/hosts", headers, Some(body)).unwrap()
    };
    let large = problem(&hosts(&[], &vec![b' '; 1024 * 1024 + 1]));
    assert_eq!((large.status, large.code), (413, Code::TooLarge));
    // One that says so is not waited for.
    let head = "POST /v1/hosts HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                Content-Length: 2000000\r\n\r\n";
    let answer = String::from_utf8_lossy(&raw(&rig.socket(), head.as_bytes())).into_owned();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let query = rig.http("GET", "/v1/hosts?since=99999999999999999999999", &[], None);
    let says = problem(&query).detail;
    assert!(
        says.starts_with("The query is not valid: ") && !says.contains("deserialize"),
        "{says}"
    );
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""] {
        let answer = problem(&hosts(&[("Content-Type", kind)], b"{}"));
        assert_eq!((answer.status, answer.code), (415, Code::UnsupportedMediaType), "{kind:?}");
    }
    let with_charset = hosts(&[("Content-Type", "application/json; charset=utf-8")], b"{}");
    assert_eq!(problem(&with_charset).status, 400);
    for (body, place) in [
        (&b"{\n  \"name\": }"[..], "line 2 column 11"),
        (b"", "line 1 column 0"),
        (b"{\"name\": \"a\",\n\"config\": {\"hostname\": \"h\",\n\"port\": 0}}", "line 3 column "),
        (b"\xff", "line 1 column 1"),
    ] {
        let answer = problem(&hosts(&[], body));
        assert_eq!((answer.status, answer.code), (400, Code::BadRequest));
        assert!(answer.detail.contains(place), "{place}: {answer:?}");
    }
    // Small enough still works after all that.
    assert_eq!(rig.http("GET", "/healthz", &[], None).status, 200);
}

#[test]
fn every_wrong_request_gets_a_problem_document() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &host);
    rig.start_daemon(&[]);
    connect(&rig, "far");
    for (method, path, status, code) in [
        ("GET", "/", 404, Code::NotFound),
        ("GET", "/v2/hosts", 404, Code::NotFound),
        ("GET", "/v1/hosts/far/no-such", 404, Code::NotFound),
        ("POST", "/v1/hosts/far/nothing", 404, Code::NotFound),
        ("PUT", "/v1/hosts", 405, Code::MethodNotAllowed),
        ("DELETE", "/healthz", 405, Code::MethodNotAllowed),
        ("GET", "/v1/hosts/far/connect", 405, Code::MethodNotAllowed),
        ("BREW", "/v1/version", 405, Code::MethodNotAllowed),
        ("GET", "/v1/hosts/none-such", 404, Code::HostNotFound),
        ("GET", "/v1/hosts/%FF", 400, Code::BadRequest),
        ("DELETE", "/v1/hosts/%FF/password", 400, Code::BadRequest),
        ("GET", "/v1/hosts/%FF/files/x", 400, Code::BadRequest),
        ("GET", "/v1/forwards/%FF", 400, Code::BadRequest),
        ("DELETE", "/v1/grants/%FF", 400, Code::BadRequest),
        ("GET", "/v1/operations/%FF", 400, Code::BadRequest),
        ("GET", "/v1/operations/%FF/events", 400, Code::BadRequest),
        ("GET", "/v1/sessions/%FF", 400, Code::BadRequest),
        ("GET", "/v1/sessions/%FF/output", 400, Code::BadRequest),
        ("GET", "/v1/sessions/x/output?stream=stdin", 400, Code::BadRequest),
        ("GET", "/v1/hosts/far?fresh=perhaps", 400, Code::BadRequest),
        ("DELETE", "/v1/hosts/far?force=perhaps", 400, Code::BadRequest),
        // A WebSocket that is asked for without being one.
        ("GET", "/v1/hosts/far/exec", 400, Code::BadRequest),
    ] {
        let response = rig.http(method, path, &[], None);
        assert_eq!(response.status, status, "{method} {path}: {}", response.text());
        let answer = problem(&response);
        assert_eq!(answer.code, code, "{method} {path}: {answer:?}");
        assert!(response.header("occ-version").is_some(), "{method} {path}");
        assert_eq!(response.header("occ-api-version"), Some("1"), "{method} {path}");
        let oldest = response.header("occ-min-client");
        assert_eq!(oldest, Some(occ_proto::MIN_CLIENT), "{method} {path}");
        if status == 405 {
            // RFC 9110, section 15.5.6.
            assert!(response.header("allow").is_some_and(|allow| !allow.is_empty()), "{path}");
        }
    }
}

#[test]
fn what_is_no_request_gets_a_problem_with_the_versions_too() {
    let rig = running();
    let long = |length| "a".repeat(length);
    let many = "x: y\r\n".repeat(200);
    for (bytes, status, code) in [
        ("nonsense\r\n\r\n".to_owned(), 400, "bad_request"),
        ("\0\u{1}\r\n\r\n".to_owned(), 400, "bad_request"),
        // What a client of HTTP/2 begins with (RFC 9113, section 3.4).
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0".to_owned(), 400, "bad_request"),
        (format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", long(70_000)), 414, "too_large"),
        (format!("GET / HTTP/1.1\r\n{many}\r\n"), 431, "too_large"),
        (
            "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nnonsense\r\n\r\n".to_owned(),
            400,
            "bad_request",
        ),
    ] {
        let answer = String::from_utf8(raw(&rig.socket(), bytes.as_bytes())).unwrap();
        let shown = &bytes[..bytes.len().min(40)];
        let last = answer.rfind("HTTP/1.1 ").map(|at| &answer[at..]).unwrap_or_default();
        let (head, body) = last.split_once("\r\n\r\n").unwrap_or_default();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{shown:?}: {answer}");
        let head = head.to_ascii_lowercase();
        for header in [
            "\nocc-version: ",
            "\nocc-api-version: 1",
            "\nocc-min-client: ",
            "\ncontent-type: application/problem+json",
        ] {
            assert!(head.contains(header), "{shown:?}: {head}");
        }
        let problem: occ_proto::Problem = serde_json::from_str(body).unwrap();
        assert_eq!((problem.code.as_str(), problem.status), (code, status), "{shown:?}");
        assert!(head.contains(&problem.title.to_ascii_lowercase()), "{shown:?}: {problem:?}");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
    }
    let numbers = rig.http("GET", "/metrics", &[], None).text();
    for status in [414, 431] {
        let counted = format!("\noccd_requests_turned_away_total{{status=\"{status}\"}} 1\n");
        assert!(numbers.contains(&counted), "{numbers}");
    }
}

#[test]
fn who_is_refused_in_the_middle_of_a_body_sees_why() {
    let rig = running();
    let length = 16 * 1024 * 1024;
    let head = format!(
        "PUT /v1/hosts/nobody/files/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
    );
    // Neither does the sign of life's route look.
    let mut alive = UnixStream::connect(rig.socket()).unwrap();
    let asks = "PUT /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n";
    alive.write_all(asks.as_bytes()).unwrap();
    alive.write_all(b"{}").unwrap();
    alive
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answers = String::new();
    alive.read_to_string(&mut answers).unwrap();
    assert!(
        answers.starts_with("HTTP/1.1 405 ") && answers.contains("HTTP/1.1 200 OK"),
        "{answers}"
    );
    let mut stream = UnixStream::connect(rig.socket()).unwrap();
    stream.set_write_timeout(Some(GUARD)).unwrap();
    stream.set_read_timeout(Some(GUARD)).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    // It does not look before all of it is sent.
    stream.write_all(&vec![0; length]).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("host_not_found"), "{answer}");
}

#[test]
fn a_client_that_is_slow_with_its_head_is_cut_off_and_holds_up_nobody() {
    let rig = running();
    let socket = rig.socket();
    std::thread::scope(|scope| {
        let slow: Vec<_> = [&b""[..], b"GET /healthz HTTP/1.1\r\nHost: loc"]
            .into_iter()
            .map(|head| {
                let socket = socket.clone();
                scope.spawn(move || {
                    let begun = Instant::now();
                    let answer = raw(&socket, head);
                    (begun.elapsed(), answer)
                })
            })
            .collect();
        assert_eq!(rig.http("GET", "/healthz", &[], None).status, 200);
        let mut answers = Vec::new();
        for thread in slow {
            let (took, answer) = thread.join().unwrap();
            // The limit is 5 s; some more for a busy machine.
            assert!((4..12).contains(&took.as_secs()), "{took:?}");
            answers.push(String::from_utf8_lossy(&answer).into_owned());
        }
        // Who has not begun with anything is not told anything.
        assert_eq!(answers[0], "");
        assert!(answers[1].starts_with("HTTP/1.1 408 ") && answers[1].contains("request_timeout"));
        assert!(answers[1].to_lowercase().contains("retry-after: 1\r\n"), "{}", answers[1]);
        let numbers = rig.http("GET", "/metrics", &[], None).text();
        let counted = "\noccd_requests_turned_away_total{status=\"408\"} 1\n";
        assert!(numbers.contains(counted), "{numbers}");
    });
}

#[test]
fn no_tcp_port_is_opened() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &host);
    rig.start_daemon(&[]);
    connect(&rig, "far");
    // `socket:[INODE]`; the tables name the inode in their tenth column (proc(5), /proc/net/tcp).
    let own = rig.daemon().open_files();
    let in_table = |table: &str, listening: bool| {
        let text = fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
        let is_ours = |line: &&str| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let inode = fields.get(9).map(|inode| format!("socket:[{inode}]"));
            let listens = fields.get(3) == Some(&"0A");
            listens == listening && inode.is_some_and(|inode| own.contains(&inode))
        };
        text.lines().filter(is_ours).count()
    };
    assert_eq!(in_table("tcp", false), 1, "the connection to the host is seen");
    for table in ["tcp", "tcp6"] {
        assert_eq!(in_table(table, true), 0, "{table}");
    }
    for table in ["udp", "udp6", "raw", "raw6"] {
        assert_eq!(in_table(table, false) + in_table(table, true), 0, "{table}");
    }
}

#[test]
fn a_daemon_that_occ_starts_holds_nothing_of_the_shell() {
    let rig = DaemonRig::new();
    // A script that passes a pipe on: its reader sees the end only when nobody holds it any more.
    let line = format!("{} host list 7>&1 >/dev/null 2>&1", client_binary().display());
    let occ = rig.occ(&[]);
    let variables = occ.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let output = std::process::Command::new("sh")
        .args(["-c", &line])
        .env_clear()
        .envs(variables)
        .output()
        .unwrap();
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!(rig.occ_ok(&["daemon", "status"]).contains("is running"));
}

#[test]
fn a_daemon_whose_socket_was_removed_is_told_and_can_be_stopped() {
    let rig = DaemonRig::new();
    rig.occ_ok(&["daemon", "start"]);
    let pid = rig.daemon_pid();
    std::fs::remove_file(rig.socket()).unwrap();
    for args in [&["daemon", "status"][..], &["host", "list"]] {
        let refused = rig.run_occ(args);
        assert_eq!(refused.code(), 3, "{refused:?}");
        assert!(refused.stderr.contains(&format!("process {pid}")), "{refused:?}");
        assert!(refused.stderr.ends_with("occ daemon restart\n"), "{refused:?}");
    }
    assert_eq!(rig.occ_ok(&["daemon", "stop"]), format!("occd stopped (process {pid}).\n"));
    assert!(Process::find(pid).is_none());
    rig.occ_ok(&["host", "list"]);
}

#[test]
fn a_state_directory_that_others_could_write_to_is_refused() {
    let rig = DaemonRig::new();
    let dir = rig.root().join("state/occ");
    fs::create_dir_all(&dir).unwrap();
    set_mode(&dir, 0o777);
    let (code, words) = fails_to_start(&rig, &[]);
    assert_eq!(code, Some(1));
    let expected = format!("the directory {} can be written by others", dir.display());
    assert!(words.starts_with(&expected), "{words}");
    set_mode(&dir, 0o755);
    // Nor may they put another one in its place.
    let above = dir.parent().unwrap();
    set_mode(above, 0o777);
    let (code, words) = fails_to_start(&rig, &[]);
    assert_eq!(code, Some(1));
    let expected = format!("the directory {} can be written by others", above.display());
    assert!(words.starts_with(&expected), "{words}");
    set_mode(above, 0o1777);
    let mut rig = rig;
    rig.start_daemon(&[]);
}

#[test]
fn stopping_a_daemon_is_done_also_where_another_client_starts_it_again() {
    let mut rig = DaemonRig::new();
    rig.set_env("OCCD_BIN", testkit::daemon::daemon_binary());
    let rig = rig;
    let done = std::sync::atomic::AtomicBool::new(false);
    /// Ends the other client also where the test fails: the scope waits for it.
    struct Done<'a>(&'a std::sync::atomic::AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }
    std::thread::scope(|scope| {
        let ends = Done(&done);
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                // It may meet the daemon that goes.
                rig.run_occ(&["host", "list"]);
            }
        });
        // Whether the next one is there by then is a matter of chance.
        let again = wait_for("another one to be told of", GUARD, || {
            rig.occ_ok(&["daemon", "start"]);
            let begun = Instant::now();
            let output = rig.run_occ(&["daemon", "stop"]);
            let said = output.stdout.strip_prefix("occd stopped (process ")?.split_once(')');
            let (pid, rest) = said.unwrap_or_else(|| panic!("{output:?}"));
            // A daemon without work ends at once; it is not its successor that is waited for.
            assert!(begun.elapsed() < std::time::Duration::from_secs(8), "{output:?}");
            assert!(Process::find(pid.parse().unwrap()).is_none(), "{output:?}");
            Some(rest.strip_prefix("; ")?.to_owned())
        });
        drop(ends);
        assert!(again.starts_with("another client has started it again (process "), "{again}");
    });
    rig.occ_ok(&["daemon", "stop"]);
    wait_until("the daemon to end", GUARD, || daemons(&rig), Vec::is_empty);
}
