//! How much is done at a time.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use occ_proto::Code;
use serde_json::json;
use testkit::http::Response;
use testkit::wait::blocking::wait_until;
use testkit::{DaemonRig, EmbeddedHost};

use crate::ask::{GUARD, problem};
use crate::files::Shared;

fn runs(rig: &DaemonRig) -> Response {
    rig.http("POST", "/v1/hosts/local/exec", &[], Some(json!({ "argv": ["true"] })))
}

/// Returns a number of `/metrics`, by its name with its labels.
fn number(rig: &DaemonRig, name: &str) -> Option<f64> {
    let text = rig.http("GET", "/metrics", &[], None).text();
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
    text.lines().find_map(value)
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
fn what_goes_on_without_its_client_keeps_its_place() {
    let mut rig = DaemonRig::new();
    rig.write_config_toml("[limits]\nmax_operations_per_host = 1\n");
    rig.start_daemon(&[]);
    let dir = Shared::new();
    let line = "echo x >ran; while [ ! -e go ]; do sleep 0.02; done";
    let body = json!({ "shell": line, "cwd": dir.path() }).to_string();
    let mut client = UnixStream::connect(rig.socket()).unwrap();
    write!(
        client,
        "POST /v1/hosts/local/exec HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         idempotency-key: left\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    wait_until("it to run", GUARD, || dir.at("ran").exists(), |ran| *ran);
    drop(client);
    wait_until(
        "its client to be gone",
        GUARD,
        || number(&rig, "occd_clients"),
        |n| *n == Some(1.0),
    );
    assert_eq!(runs(&rig).status, 429);
    std::fs::write(dir.at("go"), "").unwrap();
    wait_until("a place", GUARD, || runs(&rig).status, |status| *status == 200);
}
