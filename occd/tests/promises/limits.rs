//! How much is done at a time, and how long a client is waited for that takes nothing.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;

use occ_proto::Code;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use testkit::http::Response;
use testkit::wait::blocking::wait_until;
use testkit::{DaemonRig, EmbeddedHost};

use crate::ask::{GUARD, begin_exec, problem};
use crate::files::Shared;

fn runs(rig: &DaemonRig) -> Response {
    rig.http("POST", "/v1/hosts/local/exec", &[], Some(json!({ "argv": ["true"] })))
}

/// Returns a number of `/metrics`, by its name with its labels.
pub(crate) fn number(rig: &DaemonRig, name: &str) -> Option<f64> {
    let text = rig.http("GET", "/metrics", &[], None).text();
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
    text.lines().find_map(value)
}

/// Waits until the daemon has noticed that all clients are gone but whoever asks.
pub(crate) fn alone(rig: &DaemonRig) {
    let clients = || number(rig, "occd_clients");
    wait_until("the clients to be gone", GUARD, clients, |count| *count == Some(1.0));
}

/// Opens a WebSocket for a command, of which nothing is said yet.
fn open(rig: &DaemonRig, host: &str) -> BufReader<UnixStream> {
    let mut client = BufReader::new(UnixStream::connect(rig.socket()).unwrap());
    let head = format!(
        "GET /v1/hosts/{host}/exec HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    client.get_mut().write_all(head.as_bytes()).unwrap();
    let mut line = String::new();
    client.read_line(&mut line).unwrap();
    assert!(line.starts_with("HTTP/1.1 101 "), "{line}");
    client
}

#[test]
fn operations_are_so_many_on_a_host_and_in_all() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("a", &host);
    rig.write_config_toml("[limits]\nmax_operations = 3\nmax_operations_per_host = 2\n");
    rig.start_daemon(&[]);
    let first = open(&rig, "local");
    let second = open(&rig, "loc%61l");
    let refused = runs(&rig);
    let told = problem(&refused);
    assert_eq!((told.status, told.code), (429, Code::TooManyRequests));
    assert_eq!((told.retryable, told.retry_after_ms), (true, Some(1000)));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(told.detail.contains("2 operations"), "{}", told.detail);
    assert_eq!(number(&rig, "occd_operations"), Some(2.0));
    assert_eq!(number(&rig, "occd_requests_turned_away_total{status=\"429\"}"), Some(1.0));
    // Another host has places, as far as there are any.
    let third = open(&rig, "a");
    let told = problem(&rig.http("GET", "/v1/hosts/a/files/x", &[], None));
    assert_eq!((told.status, told.code), (429, Code::TooManyRequests));
    assert!(told.detail.contains("3 operations"), "{}", told.detail);
    // What is no work on a host is as ever.
    assert_eq!(rig.http("GET", "/v1/hosts/a", &[], None).status, 200);
    assert_eq!(rig.http("POST", "/v1/hosts/a/disconnect", &[], None).status, 200);
    drop(third);
    // `occ` waits until there is a place, and says so.
    let mut occ = rig.occ(&["exec", "--local", "--", "true"]);
    let mut occ = occ.stderr(Stdio::piped()).spawn().unwrap();
    let line = BufReader::new(occ.stderr.take().unwrap()).lines().next().unwrap().unwrap();
    assert!(line.contains("2 operations") && line.contains("30 s"), "{line}");
    drop(first);
    assert!(occ.wait().unwrap().success());
    drop(second);
    wait_until("their end", GUARD, || number(&rig, "occd_operations"), |now| *now == Some(0.0));
}

#[test]
fn who_finds_all_places_taken_waits_for_one_and_says_so() {
    // As many as a socket serves at once, each of which waits for the rest of its request.
    const PLACES: usize = 1024;
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files }).unwrap();
    let mut rig = DaemonRig::new();
    rig.start_daemon(&[]);
    let head = "POST /v1/hosts/local/exec HTTP/1.1\r\nHost: localhost\r\n\
                Content-Type: application/json\r\nContent-Length: 99\r\n\r\n";
    let waits = || {
        let mut client = UnixStream::connect(rig.socket()).unwrap();
        client.write_all(head.as_bytes()).unwrap();
        client
    };
    let clients: Vec<UnixStream> = (0..PLACES).map(|_| waits()).collect();
    let at_work = || number(&rig, "occd_operations");
    wait_until("all of them to be there", GUARD, at_work, |count| *count == Some(1024.0));
    let mut occ = rig.occ(&["host", "list"]);
    let mut occ = occ.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let line = BufReader::new(occ.stderr.take().unwrap()).lines().next().unwrap().unwrap();
    assert!(line.contains("1024 requests are being served. Waiting for a place, 30 s"), "{line}");
    drop(clients);
    assert!(occ.wait().unwrap().success());
}

#[test]
fn what_goes_on_without_its_client_keeps_its_place() {
    let mut rig = DaemonRig::new();
    rig.write_config_toml("[limits]\nmax_operations_per_host = 1\n");
    rig.start_daemon(&[]);
    let dir = Shared::new();
    let line = "echo x >ran; while [ ! -e go ]; do sleep 0.02; done";
    let asked = json!({ "shell": line, "cwd": dir.path() });
    let client = begin_exec(&rig, "local", "idempotency-key: left", &asked);
    wait_until("it to run", GUARD, || dir.at("ran").exists(), |ran| *ran);
    drop(client);
    alone(&rig);
    let told = problem(&runs(&rig));
    assert_eq!((told.status, told.code), (429, Code::TooManyRequests));
    assert!(told.detail.contains("1 operation at work"), "{}", told.detail);
    std::fs::write(dir.at("go"), "").unwrap();
    wait_until("a place", GUARD, || runs(&rig).status, |status| *status == 200);
    // What found none is not told of as done.
    let audit = rig.occ_ok(&["audit", "--json"]);
    assert!(audit.contains("\"exec\"") && !audit.contains("too_many_requests"), "{audit}");
}

#[test]
fn a_sessions_requests_count_for_its_host_and_its_end_needs_no_place() {
    let mut rig = DaemonRig::new();
    rig.write_config_toml("[limits]\nmax_operations_per_host = 2\n");
    rig.start_daemon(&[]);
    rig.occ_ok(&["session", "start", "--local", "--name", "s", "--", "sleep", "1000"]);
    let first = open(&rig, "local");
    let second = open(&rig, "local");
    let told = problem(&rig.http("GET", "/v1/sessions/s/output", &[], None));
    assert_eq!((told.status, told.code), (429, Code::TooManyRequests));
    assert!(told.detail.contains("2 operations"), "{}", told.detail);
    let signalled = rig.http("POST", "/v1/sessions/s/signal", &[], Some(json!({})));
    assert_eq!(signalled.status, 200, "{signalled:?}");
    let removed = rig.http("DELETE", "/v1/sessions/s?force=true", &[], None);
    assert_eq!(removed.status, 204, "{removed:?}");
    drop((first, second));
}

/// Follows what changes. Returns the connection once the first event has come.
fn follow(rig: &DaemonRig) -> BufReader<UnixStream> {
    let stream = UnixStream::connect(rig.socket()).unwrap();
    stream.set_read_timeout(Some(GUARD)).unwrap();
    let mut stream = BufReader::new(stream);
    let head = "GET /v1/events HTTP/1.1\r\nHost: localhost\r\nAccept: application/x-ndjson\r\n\r\n";
    stream.get_mut().write_all(head.as_bytes()).unwrap();
    until(&mut stream, "\"snapshot\"");
    stream
}

/// Reads lines until one has some words in it.
fn until(stream: &mut impl BufRead, words: &str) {
    let mut line = String::new();
    while !line.contains(words) {
        line.clear();
        assert_ne!(stream.read_line(&mut line).unwrap(), 0, "the end before {words}");
    }
}

#[test]
fn who_takes_nothing_of_a_stream_loses_it_and_who_reads_on_does_not() {
    let mut rig = DaemonRig::new();
    rig.write_config_toml("[limits]\nstream_idle_timeout = \"2s\"\n");
    rig.start_daemon(&[]);
    let streams = || number(&rig, "occd_open_streams");
    let (reads, mut stopped) = (follow(&rig), follow(&rig));
    assert_eq!(streams(), Some(2.0));
    let (told, heard) = mpsc::channel();
    let reader = thread::spawn(move || {
        reads.lines().map_while(Result::ok).try_for_each(|line| told.send(line))
    });
    let hear = |name: &str| {
        let body =
            json!({ "name": name, "config": { "hostname": "203.0.113.1" }, "verify": false });
        assert_eq!(rig.http("POST", "/v1/hosts", &[], Some(body)).status, 201);
        while !heard.recv_timeout(GUARD).unwrap().contains(name) {}
    };
    hear("first-one");
    wait_until("the end of the stream", GUARD, streams, |now| *now == Some(1.0));
    // Whoever reads is told on.
    hear("second-one");
    assert_eq!(streams(), Some(1.0));
    // What was sent before can be read still, and has no end as it should have.
    let mut all = Vec::new();
    let ended = stopped.read_to_end(&mut all);
    let text = String::from_utf8_lossy(&all).into_owned();
    assert!(text.contains("first-one") && !text.contains("second-one"), "{text}");
    assert!(ended.is_err() || !text.ends_with("0\r\n\r\n"), "{text}");
    rig.kill_daemon();
    drop(heard);
    let _ = reader.join().unwrap();
}

#[test]
fn a_sessions_output_that_nobody_takes_ends_and_can_be_had_from_there_on() {
    let mut rig = DaemonRig::new();
    rig.write_config_toml("[limits]\nstream_idle_timeout = \"1s\"\n");
    rig.start_daemon(&[]);
    let line = "head -c 9000000 /dev/zero; sleep 1000";
    let request = json!({ "host": "local", "name": "s", "argv": ["sh", "-c", line] });
    assert_eq!(rig.http("POST", "/v1/sessions", &[], Some(request)).status, 201);
    let mut stopped = UnixStream::connect(rig.socket()).unwrap();
    let head = "GET /v1/sessions/s/output HTTP/1.1\r\nHost: localhost\r\n\
                Accept: application/octet-stream\r\n\r\n";
    stopped.write_all(head.as_bytes()).unwrap();
    let streams = || number(&rig, "occd_open_streams");
    wait_until("the stream", GUARD, streams, |now| *now == Some(1.0));
    wait_until("its end", GUARD, streams, |now| *now == Some(0.0));
    let path = "/v1/sessions/s/output?offset=8999990&follow=false";
    let rest = rig.http("GET", path, &[("accept", "application/octet-stream")], None);
    assert_eq!((rest.status, rest.body), (200, vec![0; 10]));
    assert_eq!(rig.http("DELETE", "/v1/sessions/s?force=true", &[], None).status, 204);
    drop(stopped);
}

#[test]
fn a_command_waits_for_whoever_reads_it() {
    let mut rig = DaemonRig::new();
    rig.write_config_toml("[limits]\nstream_idle_timeout = \"100ms\"\n");
    rig.start_daemon(&[]);
    let stopped = follow(&rig);
    let asked = json!({ "shell": "head -c 50000000 /dev/zero; echo last" });
    let client = begin_exec(&rig, "local", "accept: application/x-ndjson", &asked);
    let begun = || number(&rig, "occd_open_streams");
    wait_until("both", GUARD, begun, |now| *now == Some(2.0));
    let change = json!({ "name": "one", "config": { "hostname": "203.0.113.1" }, "verify": false });
    assert_eq!(rig.http("POST", "/v1/hosts", &[], Some(change)).status, 201);
    // As long as it takes to lose the other one.
    wait_until("the end of the other", GUARD, begun, |now| *now == Some(1.0));
    let mut client = BufReader::new(client);
    until(&mut client, "last");
    until(&mut client, "\"exit\"");
    drop(stopped);
}
