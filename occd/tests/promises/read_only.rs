//! The read-only socket tells what is known, and nothing can be done through it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use occ_proto::Code;
use occ_proto::audit::{AuditEvent, AuditLine};
use occ_proto::status::State;
use serde_json::{Value, json};
use testkit::daemon::{Target, daemon_binary};
use testkit::http::{Response, request};
use testkit::wait::blocking::wait_until;
use testkit::{DaemonRig, EmbeddedHost, FaultyLink};

use crate::ask::{GUARD, connect, list, look, problem};
use crate::files::Shared;
use crate::limits::{self, alone};
use crate::policy::sshd_with;
use crate::start::output;

fn socket(rig: &DaemonRig) -> PathBuf {
    let version = rig.http("GET", "/v1/version", &[], None).json();
    PathBuf::from(version["read_only_socket"].as_str().unwrap())
}

fn ask(rig: &DaemonRig, method: &str, path: &str) -> Response {
    let body = (method != "GET").then_some(&b"{}"[..]);
    request(&socket(rig), method, path, &[], body).unwrap()
}

/// Fills in what a path leaves open.
fn filled(path: &str) -> String {
    let parts = path.split('/').map(|part| match part {
        "{host}" => "h",
        "{id}" | "{name}" => "1",
        "{path}" => "etc/hosts",
        other => other,
    });
    parts.collect::<Vec<_>>().join("/")
}

#[test]
fn nothing_is_done_through_the_read_only_socket() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("h", Target::from(&host));
    rig.start_daemon(&[]);
    let path = socket(&rig);
    assert_eq!(path, rig.socket().with_file_name("occd-ro.sock"));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    // occ says which socket has it.
    let mut occ = rig.occ(&["host", "remove", "h", "-f"]);
    let output = occ.env("OCC_SOCKET", &path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("unset OCC_SOCKET"), "{said}");

    for verb in ["stop", "restart"] {
        let mut occ = rig.occ(&["daemon", verb]);
        let output = occ.env("OCC_SOCKET", &path).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }

    let document = ask(&rig, "GET", "/v1/openapi.json").json();
    let mut refused = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys().filter(|name| *name != "parameters") {
            let method = method.to_uppercase();
            if matches!(path.as_str(), "/v1/events") {
                continue;
            }
            let answer = ask(&rig, &method, &filled(path));
            let says = format!("{method} {path}: {} {}", answer.status, answer.text());
            if answer.status == 403 {
                assert_eq!(problem(&answer).code, Code::ReadOnly, "{says}");
                refused += 1;
                continue;
            }
            assert_eq!(method, "GET", "{says}");
            assert!(matches!(answer.status, 200 | 404), "{says}");
        }
    }
    assert!(refused > 40, "{refused}");
    // What might be secret, and what asks hosts.
    for path in [
        "/v1/hosts/h/files/etc/hosts",
        "/v1/hosts/h/container/password",
        "/v1/hosts/h/container/logs",
        "/v1/sessions/1/output",
        "/v1/hosts/h?fresh=true",
        "/v1/hosts/h/exec",
        "/v1/sessions/1/attach",
    ] {
        assert_eq!(problem(&ask(&rig, "GET", path)).code, Code::ReadOnly, "{path}");
    }
    // A look at an idle host dials it on the other socket, and not here.
    assert_eq!(ask(&rig, "GET", "/v1/hosts/h").json()["state"], "idle");
    let seen =
        crate::start::output(rig.occ(&["status", "--host", "h"]).env("OCC_SOCKET", &path)).stdout;
    assert!(seen.contains("connected when somebody uses it"), "{seen}");
    assert_eq!(look(&rig, "h").state, State::Idle);
    assert_eq!(host.connections(), 0);
    // Nor does a jump host come to be that nobody has.
    let via = ask(&rig, "GET", "/v1/hosts/via:u@127.0.0.1:22");
    assert_eq!(problem(&via).code, Code::HostNotFound);
    assert!(list(&rig).via.is_empty());
    // What is known is told.
    connect(&rig, "h");
    let list: Value = ask(&rig, "GET", "/v1/hosts").json();
    assert_eq!(list["hosts"][0]["state"], "connected");

    let before = path.clone();
    rig.terminate_daemon();
    assert!(!before.exists(), "it goes with the daemon");
}

#[test]
fn what_is_wrong_with_the_settings_is_told_without_a_value_and_to_their_owner_alone() {
    const SECRET: &str = "hunter2";
    let Some((_sshd, rig)) = sshd_with("") else { return };
    rig.occ_ok(&["exec", "--host", "h", "--", "true"]);
    let granted = rig.occ_ok(&["grant", "-q", "--host", "h", "--allow", "read", "--ttl", "1h"]);
    let granted = granted.trim();
    let config = rig.paths().config_dir().unwrap();
    for (file, text) in [
        ("occd.toml", "[hosts.h.sandbox]\nenv = \"TOKEN=hunter2\"\n"),
        ("hosts.json", "{\"version\": 1, \"hosts\": {\"h\": \"hunter2\"}}"),
        ("config.json", "{\"version\": 1, \"container_env\": \"TOKEN=hunter2\"}"),
    ] {
        let path = config.join(file);
        let before = std::fs::read(&path).unwrap_or_default();
        std::fs::write(&path, text).unwrap();
        let is_seen = || rig.run_occ(&["doctor"]).stdout.contains(file);
        wait_until("it to be read", GUARD, is_seen, |is_seen| *is_seen);
        for args in [&["host", "list"][..], &["doctor"], &["daemon", "status"], &["status", "h"]] {
            let said = rig.run_occ(args);
            assert!(!format!("{said:?}").contains(SECRET), "{args:?}: {said:?}");
        }
        for path in ["/v1/version", "/v1/hosts", "/v1/hosts/h"] {
            let answer = ask(&rig, "GET", path);
            let said = format!("{answer:?}{}", answer.text());
            assert!(!said.contains(SECRET) && !said.contains(file), "{path}: {said}");
        }
        let answer = request(granted.as_ref(), "GET", "/v1/hosts/h", &[], None).unwrap();
        let said = format!("{answer:?}{}", answer.text());
        assert!(!said.contains(SECRET) && !said.contains(file), "{said}");
        // To be without occd.toml would be wrong as well.
        match (file, before.is_empty()) {
            ("config.json", true) => std::fs::remove_file(&path).unwrap(),
            _ => std::fs::write(&path, before).unwrap(),
        }
    }
    assert!(!rig.log().contains(SECRET), "{}", rig.log());
}

/// Serves as a Docker would that refuses whatever it is asked with some words.
fn docker_that_says(socket: &Path, words: &'static str) {
    let listener = UnixListener::bind(socket).unwrap();
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o666)).unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let Ok(client) = client else { return };
            let mut lines = BufReader::new(client.try_clone().unwrap()).lines();
            let Some(Ok(asked)) = lines.next() else { continue };
            // A sandbox's body is of no interest, and the connection is closed.
            let _ = lines.find(|line| line.as_ref().is_ok_and(String::is_empty));
            let (status, body) = match asked.contains("/version ") || asked.contains("/_ping ") {
                true => (200, json!({ "ApiVersion": "1.43", "MinAPIVersion": "1.24" })),
                false => (500, json!({ "message": words })),
            };
            let body = body.to_string();
            let head = format!(
                "HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nApi-Version: 1.43\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            let _ = (&client).write_all([head, body].concat().as_bytes());
        }
    });
}

#[test]
fn what_stands_in_files_and_what_programs_say_is_for_their_owner_alone() {
    const SECRET: &str = "hunter2";
    let Some((_sshd, rig)) = sshd_with("") else { return };
    rig.occ_ok(&["daemon", "log-level", "trace"]);
    // A server of Docker's words.
    let shared = Shared::new();
    let docker = shared.at("docker.sock");
    docker_that_says(&docker, SECRET);
    rig.write_config_toml(&format!("[hosts.h]\ndocker_socket = {docker:?}\n"));
    let started = rig.run_occ(&["start", "--host", "h", "--yes"]);
    assert!(started.stderr.contains(SECRET), "the owner is told: {started:?}");
    // A shell quotes the whole line that it cannot read.
    let proxy = "Host 127.0.0.9\n  ProxyCommand connect -H user:hunter2@proxy (x) %h %p\n";
    let broken = "Host 127.0.0.8\n  Port hunter2\n";
    std::fs::write(rig.home().join(".ssh/config"), [proxy, broken].concat()).unwrap();
    std::fs::set_permissions(
        rig.home().join(".ssh/config"),
        std::fs::Permissions::from_mode(0o600),
    )
    .unwrap();
    for (name, address) in [("proxied", "127.0.0.9"), ("odd", "127.0.0.8")] {
        rig.occ_ok(&["host", "add", "--no-verify", name, address]);
        let granted =
            rig.occ_ok(&["grant", "-q", "--host", name, "--allow", "exec,read", "--ttl", "1h"]);
        let exec = rig.run_occ(&["exec", "--host", name, "--retries", "0", "--", "true"]);
        assert!(exec.stderr.contains(SECRET), "the owner is told: {exec:?}");
        for args in [&["exec", "--retries", "0", "--", "true"][..], &["ls", "/"], &["status"]] {
            let said = output(rig.occ(args).env("OCC_SOCKET", granted.trim()));
            assert!(!format!("{said:?}").contains(SECRET), "{args:?}: {said:?}");
            assert!(!format!("{said:?}").contains(".ssh/config"), "{args:?}: {said:?}");
        }
        for lines in ["application/json", "application/x-ndjson"] {
            let body = br#"{"argv": ["true"], "retries": 0}"#;
            let path = format!("/v1/hosts/{name}/exec");
            let headers = [("Accept", lines)];
            let answer = request(granted.trim().as_ref(), "POST", &path, &headers, Some(body));
            let said = answer.unwrap().text();
            assert!(!said.contains(SECRET) && said.contains("urn:occ:problem"), "{said}");
        }
        let fresh = format!("/v1/hosts/{name}?fresh=true");
        assert_eq!(rig.http("GET", &fresh, &[], None).status, 200);
        // A client of a forward has it dialled.
        rig.occ_ok(&["disconnect", "--host", name]);
        let forward = rig.occ_ok(&["forward", "add", "-q", "-L", "0:127.0.0.1:9", "--host", name]);
        let port = forward.trim().rsplit(':').next().unwrap().parse::<u16>().unwrap();
        rig.run_occ(&["connect", "--host", name]);
        drop(TcpStream::connect(("127.0.0.1", port)).unwrap());
        let error = || rig.http("GET", "/v1/forwards", &[], None).text();
        let is_told = |text: &String| text.contains("is not connected: ");
        wait_until("why the forward does not work", GUARD, error, is_told);
        rig.occ_ok(&["forward", "remove", &port.to_string(), "--host", name]);
        for path in ["/v1/hosts", "/v1/operations", "/v1/forwards"] {
            let seen = ask(&rig, "GET", path).text();
            assert!(!seen.contains(SECRET), "{path}: {seen}");
        }
    }
    let config = rig.paths().config_dir().unwrap();
    for (file, text) in [
        ("occd.toml", "[local]\ndocker_socket = \"tcp://u:hunter2@h\"\n"),
        ("hosts.json", "{\"hosts\": {\"h\": {\"hostname\": \"ssh://u:hunter2@h\"}}}"),
    ] {
        let before = std::fs::read(config.join(file)).unwrap_or_default();
        std::fs::write(config.join(file), text).unwrap();
        let said = || rig.run_occ(&["doctor"]).stdout;
        wait_until("its owner to be told", GUARD, said, |said| said.contains(SECRET));
        std::fs::write(config.join(file), before).unwrap();
    }
    let log = rig.log();
    assert!(!log.contains(SECRET), "{log}");
    assert!(
        log.contains("Docker answered with status 500")
            && log.contains("asked for a fresh status")
            && log.contains("the dial failed")
            && log.contains("occd.toml, line 2; occ doctor"),
        "{log}"
    );
}

#[test]
fn what_it_refuses_does_not_fill_the_audit_log() {
    let Some((_sshd, rig)) = sshd_with("") else { return };
    for _ in 0..100 {
        assert_eq!(ask(&rig, "DELETE", "/v1/hosts/h").status, 403);
    }
    let lines = || {
        let told = rig.occ_ok(&["audit", "--json", "-n", "20000"]);
        let lines = told.lines().map(|line| serde_json::from_str(line).unwrap());
        lines.collect::<Vec<AuditLine>>()
    };
    let lost = |lines: &Vec<AuditLine>| lines.iter().any(|line| line.event == AuditEvent::Lost);
    // It is written with the next line.
    let lines = wait_until(
        "the count of those that are not written",
        GUARD,
        || {
            rig.http("POST", "/v1/hosts/h/reconnect", &[], None);
            lines()
        },
        lost,
    );
    let refused = |line: &&AuditLine| line.via.as_deref() == Some("read-only");
    let count = lines.iter().filter(refused).count();
    assert!(count <= 60, "{count} lines");
}

#[test]
fn the_words_of_commands_and_of_questions_stay_out_of_it() {
    let config = "[[hosts.h.policy.rules]]\naction = \"ask\"\nprogram = \"touch\"\n";
    let Some((_sshd, rig)) = sshd_with(config) else { return };
    rig.occ_ok(&[
        "session", "start", "--host", "h", "--name", "s", "--", "sleep", "1000", "hunter2",
    ]);
    let mut asks = rig.occ(&["exec", "--host", "h", "--", "touch", "/tmp/hunter2"]);
    let mut asks = asks.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let open = || rig.http("GET", "/v1/prompts", &[], None).text();
    wait_until("the question", GUARD, open, |text| text.contains("touch /tmp/hunter2"));
    let sessions = ask(&rig, "GET", "/v1/sessions");
    assert_eq!(sessions.json()["sessions"][0]["argv"], json!(["sleep"]), "{}", sessions.text());
    for (of, count) in [("h", 1), ("local", 0)] {
        let list = ask(&rig, "GET", &format!("/v1/sessions?host={of}"));
        assert_eq!(
            list.json()["sessions"].as_array().map(Vec::len),
            Some(count),
            "{}",
            list.text()
        );
    }
    let asked = ask(&rig, "GET", "/v1/prompts").json();
    assert_eq!(
        (&asked["prompts"][0]["kind"], &asked["prompts"][0]["host"]),
        (&json!("approval"), &json!("h"))
    );
    let stream = |socket: PathBuf, path: &str| {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(GUARD)).unwrap();
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/x-ndjson\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        BufReader::new(stream).lines().map(Result::unwrap)
    };
    let mut seen = String::new();
    let mut until = |lines: &mut dyn Iterator<Item = String>, wanted: &str| {
        for line in lines {
            seen.push_str(&line);
            if line.contains(wanted) {
                return;
            }
        }
        panic!("no {wanted}: {seen}");
    };
    // The snapshot, what comes behind it, and the questions as they come.
    let mut events = stream(socket(&rig), "/v1/events");
    until(&mut events, "snapshot");
    until(&mut stream(socket(&rig), "/v1/prompts"), "opened");
    let mut all = stream(rig.socket(), "/v1/events");
    let whole = all.find(|line| line.contains("snapshot")).unwrap();
    assert!(whole.contains("touch /tmp/hunter2"), "{whole}");
    rig.occ_ok(&[
        "session", "start", "--host", "h", "--name", "t", "--", "sleep", "1000", "hunter2",
    ]);
    until(&mut events, "\"name\":\"t\"");
    assert!(!seen.contains("hunter2") && seen.contains("approval"), "{seen}");
    for path in ["/v1/hosts", "/v1/hosts/h", "/v1/sessions", "/v1/operations", "/v1/prompts"] {
        let told = ask(&rig, "GET", path).text();
        assert!(!told.contains("hunter2"), "{path}: {told}");
    }
    asks.kill().unwrap();
    asks.wait().unwrap();
}

#[test]
fn a_flood_of_requests_takes_no_place_from_the_sign_of_life() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    // Nobody answers there, and whoever wants it waits.
    let link = FaultyLink::start(host.addr());
    link.refuse(true);
    rig.add_host("h", Target::from(&host).through(&link));
    rig.start_daemon(&[]);
    let mut waiting = Vec::new();
    for _ in 0..1100 {
        let mut socket = UnixStream::connect(rig.socket()).unwrap();
        socket.set_read_timeout(Some(GUARD)).unwrap();
        let head = "POST /v1/hosts/h/connect?wait_ms=300000 HTTP/1.1\r\nHost: localhost\r\n\r\n";
        socket.write_all(head.as_bytes()).unwrap();
        waiting.push(socket);
    }
    let refused = wait_until(
        "all places to be taken",
        GUARD,
        || rig.http("GET", "/v1/hosts", &[], None),
        |answer| answer.status == 429,
    );
    assert_eq!(problem(&refused).code, Code::TooManyRequests);
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(rig.http("GET", "/healthz", &[], None).status, 200);
    // Nor from the numbers, which tell of it.
    let numbers = rig.http("GET", "/metrics", &[], None);
    assert_eq!(numbers.status, 200);
    let counted = "occd_requests_turned_away_total{status=\"429\"} ";
    let text = numbers.text();
    let line = text.lines().find_map(|line| line.strip_prefix(counted));
    assert!(line.is_some_and(|count| count != "0"), "{line:?}");
    // Who looks on has places of their own.
    assert_eq!(ask_hosts(&rig).status, 200);
    drop(waiting);
    let status = || rig.http("GET", "/v1/hosts", &[], None).status;
    wait_until("places", GUARD, status, |status| *status == 200);
}

#[test]
fn who_is_one_too_many_is_told_so_and_lookers_leave_room_for_the_owner() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("h", Target::from(&host));
    // Where there are few descriptors, clients have a quarter of them.
    rig.set_daemon_binary(with_descriptors(&rig, 256));
    rig.start_daemon(&[]);
    let looks = socket_beside(&rig);
    let looking: Vec<UnixStream> = (0..100).map(|_| UnixStream::connect(&looks).unwrap()).collect();
    assert_eq!(rig.http("GET", "/healthz", &[], None).status, 200);
    drop(looking);
    let mut clients = Vec::new();
    let refused = wait_until(
        "the last place to be taken",
        GUARD,
        || {
            clients.push(UnixStream::connect(rig.socket()).unwrap());
            rig.http("GET", "/v1/hosts", &[], None)
        },
        |answer| answer.status == 429,
    );
    assert_eq!(problem(&refused).code, Code::TooManyRequests);
    assert!(refused.header("occ-version").is_some() && refused.header("retry-after").is_some());
    // A sign of life is there all the same.
    assert_eq!(rig.http("GET", "/healthz", &[], None).status, 200);
    drop(clients);
}

/// Returns clients that take all places and keep them: they wait for a change that does not come.
fn take_all_places(rig: &DaemonRig) -> Vec<UnixStream> {
    let revision = rig.http("GET", "/v1/hosts", &[], None).json()["revision"].clone();
    let path = format!("/v1/hosts?since={revision}&wait=5m");
    let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut clients = Vec::new();
    let full = || {
        let mut client = UnixStream::connect(rig.socket()).unwrap();
        client.write_all(head.as_bytes()).unwrap();
        clients.push(client);
        rig.http("GET", "/v1/hosts", &[], None).status
    };
    wait_until("the last place to be taken", GUARD, full, |status| *status == 429);
    clients
}

#[test]
fn who_is_far_too_many_is_told_so_too() {
    let mut rig = DaemonRig::new();
    rig.set_daemon_binary(with_descriptors(&rig, 256));
    rig.start_daemon(&[]);
    let clients = take_all_places(&rig);
    for _ in 0..3 {
        // Those that are heard out say nothing, and nothing is left for the others but to be told at once.
        let silent: Vec<UnixStream> =
            (0..64).map(|_| UnixStream::connect(rig.socket()).unwrap()).collect();
        for _ in 0..200 {
            let refused = rig.http("GET", "/v1/hosts", &[], None);
            let told = problem(&refused);
            assert_eq!((told.status, told.code), (429, Code::TooManyRequests));
            assert_eq!((told.retryable, told.retry_after_ms), (true, Some(1000)));
            assert_eq!(refused.header("retry-after"), Some("1"));
            assert_eq!(refused.header("content-type"), Some("application/problem+json"));
            assert!(refused.header("occ-version").is_some(), "{refused:?}");
            assert!(refused.header("occ-api-version").is_some(), "{refused:?}");
        }
        drop(silent);
    }
    drop(clients);
    let free = || rig.http("GET", "/v1/hosts", &[], None).status;
    wait_until("a place", GUARD, free, |status| *status == 200);
    assert!(!rig.log().contains("could not accept"), "{}", rig.log());
}

#[test]
fn occ_waits_to_be_let_in_and_says_so_once() {
    let mut rig = DaemonRig::new();
    rig.set_daemon_binary(with_descriptors(&rig, 256));
    rig.start_daemon(&[]);
    for command in
        [&["host", "list"][..], &["exec", "--local", "--", "true"], &["events", "--once"]]
    {
        let clients = take_all_places(&rig);
        let mut occ = rig.occ(command);
        let mut occ = occ.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(occ.stderr.take().unwrap()).lines().map(Result::unwrap);
        let line = said.next().unwrap();
        assert!(line.contains("takes no more") && line.contains("30 s"), "{command:?}: {line}");
        drop(clients);
        assert!(occ.wait().unwrap().success(), "{command:?}");
        let again: Vec<_> = said.filter(|line| line.contains("takes no more")).collect();
        assert_eq!(again, Vec::<String>::new(), "{command:?}");
    }
    // In the end it says what is so, and what to type.
    let clients = take_all_places(&rig);
    let refused = rig.run_occ(&["host", "list"]);
    assert_eq!(refused.code(), 1, "{refused:?}");
    assert!(refused.stderr.contains("Error: occd has 64 clients"), "{refused:?}");
    assert!(refused.stderr.contains("hint: ss -xp"), "{refused:?}");
    drop(clients);
}

#[test]
fn a_websocket_keeps_its_place_among_the_clients() {
    let mut rig = DaemonRig::new();
    rig.set_daemon_binary(with_descriptors(&rig, 256));
    rig.start_daemon(&[]);
    let handshake = "GET /v1/hosts/local/exec HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\n\
                     Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let open = || {
        let mut client = BufReader::new(UnixStream::connect(rig.socket()).unwrap());
        client.get_mut().write_all(handshake.as_bytes()).unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(client.read_line(&mut head).unwrap(), 0, "{head}");
        }
        (head.starts_with("HTTP/1.1 101 "), client)
    };
    let clients = std::iter::repeat_with(open).take(100);
    let all: Vec<_> = clients.take_while(|(is_open, _)| *is_open).collect();
    assert_eq!(all.len(), 64);
    drop(all);
    let number = || limits::number(&rig, "occd_clients");
    alone(&rig);
    let (is_open, one) = open();
    assert!(is_open);
    wait_until("it to count", GUARD, number, |count| *count == Some(2.0));
    drop(one);
    wait_until("it to count no more", GUARD, number, |count| *count == Some(1.0));
}

/// Returns a program that is the daemon with so many file descriptors at most.
fn with_descriptors(rig: &DaemonRig, most: usize) -> PathBuf {
    let few = rig.root().join("few");
    let script =
        format!("#!/bin/sh\nulimit -n {most}\nexec {} \"$@\"\n", daemon_binary().display());
    std::fs::write(&few, script).unwrap();
    std::fs::set_permissions(&few, std::fs::Permissions::from_mode(0o755)).unwrap();
    few
}

#[test]
fn clients_leave_descriptors_to_hosts_where_there_are_next_to_none() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("h", Target::from(&host));
    rig.set_daemon_binary(with_descriptors(&rig, 64));
    rig.start_daemon(&[]);
    let clients: Vec<UnixStream> =
        (0..20).map(|_| UnixStream::connect(rig.socket()).unwrap()).collect();
    let full = || rig.http("GET", "/v1/hosts", &[], None).status;
    wait_until("no place to be left", GUARD, full, |status| *status == 429);
    let looks = socket_beside(&rig);
    let looking: Vec<UnixStream> = (0..100).map(|_| UnixStream::connect(&looks).unwrap()).collect();
    assert_eq!(rig.http("GET", "/healthz", &[], None).status, 200);
    // They leave, and a host can be dialled while the others still look.
    drop(clients);
    wait_until("a place", GUARD, full, |status| *status == 200);
    connect(&rig, "h");
    assert!(!rig.log().contains("could not accept"), "{}", rig.log());
    drop(looking);
}

fn socket_beside(rig: &DaemonRig) -> PathBuf {
    rig.socket().with_file_name("occd-ro.sock")
}

fn ask_hosts(rig: &DaemonRig) -> Response {
    request(&socket_beside(rig), "GET", "/v1/hosts", &[], None).unwrap()
}

#[test]
fn no_daemon_has_its_control_socket_where_others_may_only_look() {
    let mut rig = DaemonRig::new();
    let viewers = occ_proto::paths::read_only_beside(&rig.socket());
    let path = viewers.to_str().unwrap();
    let asked = rig.run_occ(&["--socket", path, "status", "--all"]);
    assert_eq!(asked.code(), 3, "{}", asked.stderr);
    assert!(asked.stderr.contains("occ daemon start"), "{}", asked.stderr);
    let refused = rig.occd(&["--socket", path]).output().unwrap();
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("read-only"), "{said}");
    assert!(!viewers.exists());
    rig.start_daemon(&[]);
    assert!(rig.occ_ok(&["--socket", path, "status", "--all"]).contains("No hosts"));
}
