//! `Idempotency-Key`: a request that is sent again is not done again.

use std::os::unix::fs::PermissionsExt as _;

use occ_proto::Code;
use occ_proto::exec::ExecResult;
use serde_json::{Value, json};
use testkit::DaemonRig;
use testkit::http::Response;
use testkit::wait::blocking::wait_until;

use crate::ask::{begin_exec, problem};
use crate::files::Shared;
use crate::support::{GUARD, sshd, status};

/// A directory that both sides see, where commands leave a line when they run and wait for a word to go on.
struct Dir(Shared);

impl Dir {
    fn new() -> Self {
        Self(Shared::new())
    }

    fn request(&self, line: &str) -> Value {
        json!({ "shell": line, "cwd": self.0.path() })
    }

    fn ran(&self) -> String {
        std::fs::read_to_string(self.0.at("ran")).unwrap_or_default()
    }

    fn wait_for(&self, ran: &str) {
        wait_until("it to run", GUARD, || self.ran(), |now| now == ran);
    }

    fn go(&self) {
        std::fs::write(self.0.at("go"), "").unwrap();
    }
}

fn send(rig: &DaemonRig, key: &str, request: &Value) -> Response {
    let headers = [("idempotency-key", key)];
    rig.http("POST", "/v1/hosts/h/exec", &headers, Some(request.clone()))
}

fn stdout(response: &Response) -> String {
    assert_eq!(response.status, 200, "{}", response.text());
    let result: ExecResult = serde_json::from_slice(&response.body).unwrap();
    result.stdout.unwrap()
}

#[test]
fn a_command_with_a_key_runs_once_and_has_one_answer() {
    let Some((_sshd, rig)) = sshd() else { return };
    let dir = Dir::new();
    let request = dir.request("echo x >>ran; cat ran | wc -l");
    let first = send(&rig, "one", &request);
    assert_eq!(stdout(&first), "1\n");
    assert_eq!(first.header("idempotency-replayed"), None);
    let again = send(&rig, "one", &request);
    assert_eq!(stdout(&again), "1\n");
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(stdout(&send(&rig, "two", &request)), "2\n");
    // The key is of that request alone.
    let other = problem(&send(&rig, "one", &dir.request("echo x >>ran")));
    assert_eq!((other.status, other.code), (422, Code::KeyReused));
    // Also on another host, and for something else.
    let local = "/v1/hosts/local/exec";
    let same = |path: &str| {
        let headers = [("idempotency-key", "one")];
        rig.http("POST", path, &headers, Some(request.clone()))
    };
    for path in [local, "/v1/hosts/h/connect", "/v1/sessions"] {
        let other = problem(&same(path));
        assert_eq!((other.status, other.code), (422, Code::KeyReused), "{path}");
    }
    // And with another query.
    let connect = |query: &str| {
        let headers = [("idempotency-key", "three")];
        rig.http("POST", &format!("/v1/hosts/h/connect{query}"), &headers, None)
    };
    assert_eq!(connect("").status, 200);
    let other = problem(&connect("?retries=1"));
    assert_eq!((other.status, other.code), (422, Code::KeyReused));
    // And by another kind of client, which a policy may refuse.
    let headers = [("idempotency-key", "one"), ("occ-client", "mcp")];
    let other = rig.http("POST", "/v1/hosts/h/exec", &headers, Some(request.clone()));
    assert_eq!(problem(&other).code, Code::KeyReused);
    // Only where something may be done twice.
    let headers = [("idempotency-key", "one")];
    assert_eq!(rig.http("GET", "/v1/hosts", &headers, None).status, 200);
    assert_eq!(dir.ran(), "x\nx\n");
}

#[test]
fn two_keys_on_one_request_are_refused_before_anything_is_done() {
    let mut rig = DaemonRig::new();
    rig.start_daemon(&[]);
    let dir = Dir::new();
    let request = dir.request("echo x >>ran");
    let local = |keys: &[&str]| {
        let headers: Vec<_> = keys.iter().map(|key| ("idempotency-key", *key)).collect();
        rig.http("POST", "/v1/hosts/local/exec", &headers, Some(request.clone()))
    };
    for keys in [["one", "two"], ["one", "one"]] {
        let refused = problem(&local(&keys));
        assert_eq!((refused.status, refused.code), (400, Code::BadRequest), "{keys:?}");
    }
    assert_eq!(dir.ran(), "");
    // None of them was taken.
    for key in ["one", "two"] {
        let done = local(&[key]);
        assert_eq!((done.status, done.header("idempotency-replayed")), (200, None), "{key}");
    }
    assert_eq!(dir.ran(), "x\nx\n");
}

#[test]
fn many_at_once_with_one_key_run_it_once() {
    let Some((_sshd, rig)) = sshd() else { return };
    let dir = Dir::new();
    let request = dir.request("echo x >>ran; while [ ! -e go ]; do sleep 0.02; done; wc -l <ran");
    std::thread::scope(|scope| {
        let all: Vec<_> =
            (0..20).map(|_| scope.spawn(|| stdout(&send(&rig, "many", &request)))).collect();
        dir.wait_for("x\n");
        dir.go();
        for one in all {
            assert_eq!(one.join().unwrap(), "1\n");
        }
    });
}

#[test]
fn a_client_that_leaves_finds_the_answer_with_its_key() {
    let Some((_sshd, rig)) = sshd() else { return };
    let dir = Dir::new();
    let request = dir.request("echo x >>ran; while [ ! -e go ]; do sleep 0.02; done; wc -l <ran");
    let client = begin_exec(&rig, "h", "idempotency-key: left", &request);
    dir.wait_for("x\n");
    drop(client);
    dir.go();
    assert_eq!(stdout(&send(&rig, "left", &request)), "1\n");
}

#[test]
fn what_did_not_begin_may_be_tried_again_with_its_key() {
    let Some((mut sshd, rig)) = sshd() else { return };
    let request = json!({ "argv": ["echo", "now"], "retries": 0 });
    sshd.stop();
    let refused = problem(&send(&rig, "later", &request));
    assert_eq!(refused.code, Code::HostUnreachable, "{refused:?}");
    sshd.start_again();
    rig.occ_ok(&["reconnect", "--host", "h"]);
    assert_eq!(stdout(&send(&rig, "later", &request)), "now\n");
}

#[test]
fn a_daemon_that_is_killed_leaves_the_key() {
    let Some((_sshd, mut rig)) = sshd() else { return };
    let dir = Dir::new();
    let ended = dir.request("echo x >>ran");
    let cut = dir.request("echo x >>ran; exec sleep 1000");
    assert_eq!(stdout(&send(&rig, "ended", &ended)), "");
    let missing = send(&rig, "missing", &json!({ "argv": ["true"], "cwd": "\0" }));
    assert_eq!(missing.status, 400);
    std::thread::scope(|scope| {
        let socket = rig.socket();
        let body = cut.to_string();
        let lost = scope.spawn(move || {
            let headers = [("idempotency-key", "cut"), ("content-type", "application/json")];
            testkit::http::request(
                &socket,
                "POST",
                "/v1/hosts/h/exec",
                &headers,
                Some(body.as_bytes()),
            )
        });
        dir.wait_for("x\nx\n");
        rig.kill_daemon();
        assert!(lost.join().unwrap().is_err());
    });
    rig.start_daemon(&[]);
    for (key, request) in [("ended", &ended), ("cut", &cut)] {
        let told = problem(&send(&rig, key, request));
        assert_eq!((told.status, told.code), (502, Code::OutcomeUnknown), "{told:?}");
        assert!(told.detail.contains("not done again"), "{told:?}");
    }
    let told = problem(&send(&rig, "cut", &ended));
    assert_eq!(told.code, Code::KeyReused);
    assert_eq!(stdout(&send(&rig, "missing", &json!({ "argv": ["echo", "a"] }))), "a\n");
    assert_eq!(status(&rig).connects, 1);
    assert_eq!(dir.ran(), "x\nx\n");
    // What was asked is not in the file, which is the user's alone.
    let file = rig.paths().state_dir().unwrap().join("requests.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.contains("sleep") && !text.contains("cut"), "{text}");
    assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_key_that_is_none_and_a_stream_are_refused() {
    let Some((_sshd, rig)) = sshd() else { return };
    let request = json!({ "argv": ["true"] });
    let long = "k".repeat(256);
    for key in ["", long.as_str(), "\u{e4}", "a b"] {
        let told = problem(&send(&rig, key, &request));
        assert_eq!((told.status, told.code), (400, Code::BadRequest), "{key}");
    }
    let headers = [("idempotency-key", "k"), ("accept", "application/x-ndjson")];
    let told = problem(&rig.http("POST", "/v1/hosts/h/exec", &headers, Some(request)));
    assert_eq!((told.status, told.code), (400, Code::BadRequest));
    assert_eq!(status(&rig).connects, 0);
}
