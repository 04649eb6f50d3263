//! What docs/openapi.json says is what the daemon does: a program that knows nothing else asks it for everything.

use std::fs::Permissions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use testkit::keys::KeyFile;
use testkit::require::{find_fetched, require};
use testkit::{Bridge, DaemonRig, RealSshd};

/// How long the program goes on: it makes up requests until then.
const SECONDS: &str = "40";
/// The same requests each time.
const SEED: &str = "1";

/// Whatever is made up, it stays below a directory, and no program is run that harms.
fn policy(root: &str) -> String {
    format!(
        r#"
[policy]
root = "{root}"
default = "deny"
docker = "deny"
forward = "deny"
[[policy.rules]]
action = "allow"
what = ["read", "write"]
[[policy.rules]]
action = "allow"
program = "true"
[[policy.rules]]
action = "allow"
program = "cat"
"#
    )
}

#[test]
fn schemathesis_finds_no_answer_that_the_document_does_not_have() {
    let program = find_fetched("schemathesis");
    let available = program.as_ref().map(|_| ()).map_err(Clone::clone);
    if !require("schemathesis", available, "OCC_REQUIRE_SCHEMATHESIS") || !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let mut rig = DaemonRig::new();
    for name in ["h", "spare", "spare-2"] {
        rig.add_host(name, &sshd);
    }
    let files = rig.root().join("files");
    std::fs::create_dir_all(files.join("dir")).unwrap();
    std::fs::write(files.join("notes.txt"), "a note\n").unwrap();
    // The host's user is another one.
    for path in [files.clone(), files.join("dir"), files.join("notes.txt")] {
        std::fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    }
    let files = files.display().to_string();
    rig.write_config_toml(&policy(&files));
    rig.start_daemon(&[]);
    let session = json!({"host": "h", "name": "talk", "argv": ["cat"], "cwd": files});
    let started = rig.http("POST", "/v1/sessions", &[], Some(session));
    assert_eq!(started.status, 201, "{}", started.text());

    let key = KeyFile::generate(rig.root().join("key"), "ed25519");
    let key = STANDARD.encode(std::fs::read(key.path).unwrap());
    let of_the_caller = |name: &str, usual: &str| std::env::var(name).unwrap_or(usual.to_owned());
    let bridge = Bridge::to(rig.socket());
    let output = Command::new(program.unwrap())
        .arg("--config-file")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemathesis.toml"))
        .arg("run")
        .arg(format!("{}/v1/openapi.json", bridge.url()))
        .args(["--url", &bridge.url(), "--checks", "all", "--request-timeout", "20"])
        .args(["--seed", &of_the_caller("OCC_SCHEMATHESIS_SEED", SEED)])
        .args(["--max-time", &of_the_caller("OCC_SCHEMATHESIS_SECONDS", SECONDS)])
        .args(["--generation-database", "none", "--no-color", "--warnings", "off"])
        .env("FILES", &files)
        .env("KEY", key)
        .current_dir(rig.root())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    // The daemon is as well as before.
    assert_eq!(rig.http("GET", "/healthz", &[], None).status, 200);
}

/// Returns the beginning of the next answer.
fn answer(stream: &mut UnixStream) -> String {
    let mut all = Vec::new();
    let mut some = [0; 4096];
    while !String::from_utf8_lossy(&all).contains("}\n") {
        match stream.read(&mut some) {
            Ok(0) | Err(_) => break,
            Ok(length) => all.extend_from_slice(&some[..length]),
        }
    }
    String::from_utf8_lossy(&all).into_owned()
}

#[test]
fn a_body_that_nobody_reads_costs_no_answer() {
    let mut rig = DaemonRig::new();
    rig.write_config_toml("[policy]\ndocker = \"deny\"\n");
    rig.start_daemon(&[]);
    let stop = |length: usize, more: &str| {
        format!(
            "POST /v1/hosts/local/container/stop HTTP/1.1\r\nHost: localhost\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n{more}\r\n"
        )
    };
    let health = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    // A policy refuses it by its head alone; the body follows, and the connection is as good as before.
    let mut stream = UnixStream::connect(rig.socket()).unwrap();
    for _ in 0..3 {
        let body = "{\"remove\": false}";
        stream.write_all(stop(body.len(), "").as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        let first = answer(&mut stream);
        assert!(first.starts_with("HTTP/1.1 403"), "{first}");
        assert!(!first.to_lowercase().contains("connection: close"), "{first}");
        stream.write_all(health).unwrap();
        assert!(answer(&mut stream).starts_with("HTTP/1.1 200"));
    }
    // What is too large, or comes only when it is asked for, is not waited for; that is said.
    for (length, more) in [(5_000_000, ""), (20, "Expect: 100-continue\r\n"), (20, "")] {
        let mut stream = UnixStream::connect(rig.socket()).unwrap();
        stream.write_all(stop(length, more).as_bytes()).unwrap();
        let first = answer(&mut stream);
        assert!(first.starts_with("HTTP/1.1 403"), "{first}");
        assert!(first.to_lowercase().contains("connection: close"), "{length}: {first}");
    }
}

#[test]
fn a_method_that_a_route_does_not_take_is_refused_as_such_whatever_the_policy_says() {
    let mut rig = DaemonRig::new();
    rig.write_config_toml("[policy]\ndocker = \"deny\"\ndefault = \"deny\"\n");
    rig.start_daemon(&[]);
    for (path, allow) in [
        ("/v1/hosts/local/container", "GET, HEAD"),
        ("/v1/hosts/local/container/start", "POST"),
        ("/v1/sessions/x/start", "POST"),
        ("/v1/hosts/local/files", "GET, PUT, POST, DELETE, HEAD"),
        ("/v1/hosts/local/files/", "GET, PUT, POST, DELETE, HEAD"),
        ("/v1/hosts/local/files/x/y", "GET, PUT, POST, DELETE, HEAD"),
    ] {
        let answer = rig.http("TRACE", path, &[], None);
        assert_eq!(answer.status, 405, "{path}: {}", answer.text());
        assert_eq!(answer.json()["code"], "method_not_allowed");
        assert_eq!(answer.header("allow"), Some(allow), "{path}");
    }
}

#[test]
fn what_a_query_may_not_say_is_refused_and_not_passed_over() {
    let mut rig = DaemonRig::new();
    rig.start_daemon(&[]);
    for (path, takes) in [
        ("/v1/events?kinds=host", "its query takes host, kind, after."),
        ("/v1/hosts?since=1&waits=1s", "its query takes since, wait."),
        ("/v1/version?x", "its query takes nothing."),
        ("/v1/hosts/local/files?lists=true", "its query takes "),
    ] {
        let answer = rig.http("GET", path, &[], None);
        assert_eq!(answer.status, 400, "{path}: {}", answer.text());
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(takes), "{path}: {detail}");
    }
    // A token that no request can have is a slip.
    for token in ["", "a%20b", "!!", &"x".repeat(65)] {
        let answer = rig.http("GET", &format!("/v1/prompts?client={token}"), &[], None);
        assert_eq!(answer.status, 400, "{token}: {}", answer.text());
        assert!(answer.text().contains("client: must be 1 to 64 letters"), "{}", answer.text());
    }
    // A list of nothing is not one of everything.
    for path in ["/v1/events?kind=", "/v1/events?host=", "/v1/events?kind=host,,link"] {
        let answer = rig.http("GET", path, &[], None);
        assert_eq!(answer.status, 400, "{path}: {}", answer.text());
    }
    // Names may be written in any way.
    let answer = rig.http("GET", "/v1/hosts?%77ait=1s&", &[], None);
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn a_body_is_an_object_and_never_a_list_of_its_fields() {
    let mut rig = DaemonRig::new();
    rig.start_daemon(&[]);
    let list = rig.http("POST", "/v1/hosts", &[], Some(json!(["h", null])));
    assert_eq!(list.status, 400, "{}", list.text());
    let said = "The body is not valid: it is an array, not an object, at line 1 column 1.";
    assert_eq!(list.json()["detail"], said);
    assert_eq!(list.json()["position"], json!({ "line": 1, "column": 1 }));
    // Nor is what is in it.
    let inner = json!({ "name": "h", "config": ["203.0.113.1"] });
    let inner = rig.http("POST", "/v1/hosts", &[], Some(inner));
    assert_eq!(inner.status, 400, "{}", inner.text());
    let said = inner.json()["detail"].as_str().unwrap().to_owned();
    assert!(said.contains("invalid type: an array, expected an object at line 1"), "{said}");
}
