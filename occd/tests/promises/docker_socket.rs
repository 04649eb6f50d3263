//! A Unix socket of this machine that speaks to a host's engine: the docker program works as if it were local.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use occ_proto::container::SANDBOX_CONTAINER;
use occ_proto::status::State;
use serde_json::{Value, json};
use testkit::daemon::Target;
use testkit::wait::blocking::{wait_for, wait_until};
use testkit::{DaemonRig, DockerRig, FaultyLink, RealSshd, http};

use crate::ask::{GUARD, in_state, look};

/// Returns a server behind a link with an engine, and a daemon that has a socket for it.
fn with_socket() -> Option<(DockerRig, RealSshd, FaultyLink, DaemonRig, PathBuf)> {
    let (docker, sshd, link, rig) = far_engine("busybox:1")?;
    let path = open(&rig);
    Some((docker, sshd, link, rig, path))
}

/// Returns a server behind a link with an engine that has one image, and a daemon with it as the host `h`.
pub(crate) fn far_engine(image: &str) -> Option<(DockerRig, RealSshd, FaultyLink, DaemonRig)> {
    far_engine_behind(image, RealSshd::start)
}

/// The same with a server of that kind.
fn far_engine_behind(
    image: &str,
    server: impl FnOnce() -> RealSshd,
) -> Option<(DockerRig, RealSshd, FaultyLink, DaemonRig)> {
    if !RealSshd::require() || !DockerRig::require() {
        return None;
    }
    let docker = DockerRig::start();
    docker.open_to_everyone();
    docker.import_busybox(image);
    let sshd = server();
    let link = FaultyLink::start(sshd.addr());
    let mut rig = DaemonRig::new();
    rig.add_host("h", Target::from(&sshd).through(&link));
    let socket = docker.socket().display().to_string();
    rig.write_config_toml(&format!(
        "[connection]\nmax_backoff = \"200ms\"\n[hosts.h]\ndocker_socket = {socket:?}\n"
    ));
    rig.start_daemon(&[]);
    Some((docker, sshd, link, rig))
}

fn open(rig: &DaemonRig) -> PathBuf {
    let answer = rig.http("PUT", "/v1/hosts/h/docker-socket", &[], None);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["path"].as_str().unwrap().into()
}

/// Returns the docker program for that socket.
fn docker_at(rig: &DaemonRig, socket: &std::path::Path, args: &[&str]) -> Command {
    let mut command = Command::new("docker");
    command
        .env("DOCKER_HOST", format!("unix://{}", socket.display()))
        .env("DOCKER_CONFIG", rig.root().join("docker"))
        .env("DOCKER_BUILDKIT", "0")
        .env_remove("DOCKER_CONTEXT")
        .args(args)
        .stdin(Stdio::null());
    command
}

fn ok(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn the_docker_program_works_as_if_the_engine_were_here() {
    let Some((engine, sshd, _link, rig, socket)) = with_socket() else { return };
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o7777, 0o600);
    let docker = |args: &[&str]| docker_at(&rig, &socket, args);
    let version = ok(docker(&["version", "--format", "{{.Server.Version}}"]));
    // What is set here for another engine does not count.
    let mut occ =
        rig.occ(&["docker", "--host", "h", "--", "version", "--format", "{{.Server.Version}}"]);
    occ.env("DOCKER_TLS_VERIFY", "1")
        .env("DOCKER_CONTEXT", "no-such")
        .env("DOCKER_HOST", "unix:///none");
    assert_eq!(ok(occ), version);
    assert_eq!(version, engine.docker_ok(&["version", "--format", "{{.Server.Version}}"]));

    let run = ["run", "--rm", "--network", "none", "busybox:1", "echo", "in"];
    assert_eq!(ok(docker(&run)), "in");
    let mut background = run.to_vec();
    background.splice(1..2, ["-d", "--name", "cc"]);
    background.splice(7.., ["sh", "-c", "for i in 1 2 3; do echo line $i; done; sleep 1000"]);
    ok(docker(&background));
    // Both ways through a connection that has become a stream, with an end of the input.
    let mut child = docker(&["exec", "-i", "cc", "tr", "a-z", "A-Z"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"upper").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"UPPER");
    let logs = wait_for("the lines", GUARD, || {
        Some(ok(docker(&["logs", "cc"]))).filter(|logs| logs.contains("line 3"))
    });
    assert_eq!(logs, "line 1\nline 2\nline 3");
    let mut follow = docker(&["logs", "-f", "cc"]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().unwrap();

    let file = rig.root().join("file");
    fs::write(&file, "content").unwrap();
    ok(docker(&["cp", file.to_str().unwrap(), "cc:/tmp/file"]));
    assert_eq!(ok(docker(&["exec", "cc", "cat", "/tmp/file"])), "content");
    let context = rig.root().join("context");
    fs::create_dir(&context).unwrap();
    fs::write(context.join("Dockerfile"), "FROM busybox:1\nCOPY f /f\nRUN cat /f\n").unwrap();
    fs::write(context.join("f"), "built").unwrap();
    let build = ["build", "--network", "none", "-t", "built:1", context.to_str().unwrap()];
    assert!(ok(docker(&build)).contains("Successfully tagged built:1"));
    assert!(engine.docker_ok(&["images"]).contains("built"));
    ok(docker(&["kill", "cc"]));
    let followed = follow.wait().unwrap();
    assert!(followed.success(), "{followed:?}");

    // occ runs the program itself, and a context has a name for it.
    let occ = |args: &[&str]| {
        let mut command = rig.occ(args);
        ok({
            command.env("DOCKER_CONFIG", rig.root().join("docker")).env_remove("DOCKER_HOST");
            command
        })
    };
    assert!(
        occ(&["docker", "--host", "h", "--", "ps", "-a", "--format", "{{.Names}}"]).contains("cc")
    );
    assert_eq!(occ(&["docker-socket", "-q", "--host", "h"]), socket.display().to_string());
    let made: Value =
        serde_json::from_str(&occ(&["docker-context", "--host", "h", "--json"])).unwrap();
    let path = socket.display().to_string();
    assert_eq!(made, json!({ "host": "h", "context": "occ-h", "socket": path }));
    let mut by_context = docker(&["--context", "occ-h", "ps", "-a"]);
    by_context.env_remove("DOCKER_HOST");
    assert!(ok(by_context).contains("cc"));
    let listed = occ(&["docker-socket", "--all", "--json"]);
    assert!(listed.contains("\"host\":\"h\""), "{listed}");

    // Nothing is left over when they are gone; what is open ahead is no work.
    wait_until("no work", GUARD, || look(&rig, "h"), |status| status.open_channels == 0);
    assert_eq!(sshd.session_count(), 1);
    let gone: Value =
        serde_json::from_str(&occ(&["docker-context", "--host", "h", "--remove", "--json"]))
            .unwrap();
    assert_eq!(gone, json!({ "items": [{ "name": "occ-h", "done": "removed" }] }));
    assert!(!socket.exists());
    assert_eq!(rig.http("GET", "/v1/hosts/h/docker-socket", &[], None).status, 404);
}

#[test]
fn this_machines_own_engine_is_reached_alike_and_contexts_go_with_their_host() {
    let Some((engine, sshd, _link, rig)) = far_engine("sandbox:1") else { return };
    let path = engine.socket().display().to_string();
    let config = fs::read_to_string(rig.config_toml()).unwrap();
    rig.write_config_toml(&format!("{config}[local]\ndocker_socket = {path:?}\n"));
    let occ = |args: &[&str]| {
        let mut command = rig.occ(args);
        command.env("DOCKER_CONFIG", rig.root().join("docker"));
        command
    };
    assert_eq!(ok(occ(&["docker-socket", "--local", "-q"])), path);
    let taken = occ(&["docker-socket", "--local", "--remove"]).output().unwrap();
    assert_eq!(taken.status.code(), Some(2));
    ok(occ(&["docker-context", "--local"]));
    let mut by_context = docker_at(&rig, &engine.socket(), &["--context", "occ-local", "ps"]);
    by_context.env_remove("DOCKER_HOST");
    assert!(ok(by_context).contains("CONTAINER"));
    ok(occ(&["docker-context", "--local", "--remove"]));
    // What is gone already is no failure.
    let again = ok(occ(&["docker-context", "--local", "--remove"]));
    assert!(again.contains("Nothing to remove: there is no docker context 'occ-local'"), "{again}");
    assert!(engine.socket().exists(), "it is the engine's");

    // Watching this machine's sandbox.
    let mut watch = rig.occ(&["status", "--watch", "--local"]);
    let mut watch = watch.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert!(next().ends_with(" sandbox none"));
    engine.run(SANDBOX_CONTAINER, &["sandbox:1", "sleep", "1000"]);
    assert!(next().ends_with(" sandbox running"));
    let process = testkit::proc::Process::find(watch.id()).unwrap();
    process.signal(testkit::proc::Signal::INT);
    assert_eq!(watch.wait().unwrap().code(), Some(130));

    // A context that leads to our socket goes with its host, and no other.
    let contexts = || ok(docker_at(&rig, &engine.socket(), &["context", "ls", "--quiet"]));
    ok(occ(&["docker-context", "--host", "h"]));
    rig.add_host("other", Target::from(&sshd));
    let elsewhere = ["context", "create", "occ-other", "--docker", "host=unix:///elsewhere.sock"];
    ok(docker_at(&rig, &engine.socket(), &elsewhere));
    assert!(contexts().contains("occ-h") && contexts().contains("occ-other"));
    // Also when its socket was taken away before.
    ok(occ(&["docker-socket", "--host", "h", "--remove"]));
    ok(docker_at(&rig, &engine.socket(), &["context", "use", "occ-h"]));
    let removed = occ(&["host", "remove", "h", "-f"]).output().unwrap();
    let said = String::from_utf8_lossy(&removed.stdout).into_owned();
    assert!(said.contains("Removed: docker context 'occ-h'"), "{said}");
    // Without a word docker would speak to another engine from now on.
    let warned = String::from_utf8_lossy(&removed.stderr).into_owned();
    assert!(warned.contains("it was the current one, so docker speaks to this"), "{warned}");
    let removed = ok(occ(&["host", "remove", "other", "-f"]));
    assert!(!removed.contains("context"), "{removed}");
    assert!(!contexts().contains("occ-h") && contexts().contains("occ-other"));
}

#[test]
fn compose_works_over_the_socket() {
    let Some((_engine, _sshd, _link, rig, socket)) = with_socket() else { return };
    let compose = testkit::require::find_program("docker-compose");
    if !testkit::require::require("docker-compose", compose.map(drop), "OCC_REQUIRE_DOCKER") {
        return;
    }
    let dir = rig.root().join("compose");
    fs::create_dir_all(&dir).unwrap();
    let text = "version: \"3\"\nservices:\n  web:\n    image: busybox:1\n    network_mode: none\n    \
                stop_grace_period: 1s\n    command: sh -c 'echo composed; sleep 1000'\n";
    fs::write(dir.join("docker-compose.yml"), text).unwrap();
    let compose = |args: &[&str]| {
        let mut command = Command::new("docker-compose");
        command
            .current_dir(&dir)
            .env("DOCKER_HOST", format!("unix://{}", socket.display()))
            .args(args)
            .stdin(Stdio::null());
        ok(command)
    };
    compose(&["up", "-d"]);
    assert!(compose(&["ps"]).contains("Up"));
    assert!(compose(&["logs", "--no-color"]).contains("composed"));
    compose(&["down"]);
    // Each connection is in the audit log with what it began with, without the query: that may hold a secret.
    let raw = "GET /containers/json?token=hunter2 HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n";
    let mut client = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    client.write_all(raw.as_bytes()).unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut client, &mut answer).unwrap();
    let audit = wait_for("the line", GUARD, || {
        let told = rig.http("GET", "/v1/audit?host=h", &[], None).text();
        told.contains("\"detail\":\"GET /containers/json\"").then_some(told)
    });
    assert!(audit.contains("\"action\":\"docker\"") && !audit.contains("hunter2"), "{audit}");
    assert_eq!(ok(docker_at(&rig, &socket, &["ps", "-aq"])), "");
}

#[test]
fn a_link_that_is_down_is_an_answer_and_comes_back() {
    let Some((mut engine, _sshd, link, mut rig, socket)) = with_socket() else { return };
    let ask =
        |path: &str| http::request(&socket, "GET", path, &[("Host", "docker")], None).unwrap();
    wait_until("the engine", GUARD, || ask("/_ping").status, |status| *status == 200);
    // What is no request gets an answer, too.
    for nonsense in [&b"\0\x01\x02\r\n\r\n"[..], b"SSH-2.0-x\r\n\r\n", &[b'a'; 80_000]] {
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        // It may be refused before all of it is taken.
        let _ = stream.write_all(nonsense);
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    }
    link.refuse(true);
    link.reset_all();
    in_state(&rig, "h", State::Backoff);
    for path in ["/_ping", "/v1.41/containers/json"] {
        let answer = ask(path);
        assert_eq!(answer.status, 503, "{}", answer.text());
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        assert!(message.starts_with("h is unreachable: "), "{message}");
    }
    let output = docker_at(&rig, &socket, &["ps"]).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("h is unreachable"), "{said}");
    link.refuse(false);
    in_state(&rig, "h", State::Connected);
    assert!(ok(docker_at(&rig, &socket, &["ps"])).contains("CONTAINER"));

    // The engine goes; the link has nothing to do with it.
    engine.stop();
    // A request that the engine had begun to read when it ended has no answer, as on its own socket.
    let version = || {
        let answer = http::request(&socket, "GET", "/v1.41/version", &[("Host", "docker")], None);
        answer.map_or(0, |answer| answer.status)
    };
    wait_until("the end", GUARD, version, |status| *status == 503);
    engine.restart();
    engine.open_to_everyone();
    wait_until("the engine again", GUARD, || ask("/v1.41/version").status, |s| *s == 200);

    // A daemon that starts anew has the socket, too.
    rig.terminate_daemon();
    assert!(!socket.exists());
    rig.start_daemon(&[]);
    wait_for("the socket", GUARD, || socket.exists().then_some(()));
    assert!(ok(docker_at(&rig, &socket, &["ps"])).contains("CONTAINER"));
    rig.occ_ok(&["host", "remove", "h", "-f"]);
    wait_for("the socket to go", GUARD, || (!socket.exists()).then_some(()));
}

/// Returns a server that opens no sockets and has so many sessions.
fn no_sockets(max_sessions: u32) -> RealSshd {
    let builder = RealSshd::builder().config("AllowStreamLocalForwarding no");
    builder.max_sessions(max_sessions).start()
}

/// Thirty requests at once, and more that last, over a server that opens no sockets and has so many sessions.
fn many_at_once(max_sessions: u32, lasting: usize) {
    let server = || no_sockets(max_sessions);
    let Some((mut engine, _sshd, _link, rig)) = far_engine_behind("busybox:1", server) else {
        return;
    };
    let socket = open(&rig);
    let ask = |path: &str| {
        http::request_within(&socket, "GET", path, &[("Host", "docker")], None, GUARD).unwrap()
    };
    assert_eq!(ask("/_ping").status, 200);
    // Streams that last as long as their client wants.
    let mut streams = Vec::new();
    for _ in 0..lasting {
        streams.push(lasting_stream(&socket));
    }
    std::thread::scope(|scope| {
        let requests: Vec<_> =
            (0..30).map(|_| scope.spawn(|| ask("/v1.41/containers/json"))).collect();
        // Commands come through meanwhile.
        for _ in 0..3 {
            assert_eq!(rig.occ_ok(&["exec", "--host", "h", "--", "echo", "in"]).trim(), "in");
        }
        for request in requests {
            let answer = request.join().unwrap();
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    });
    drop(streams);
    wait_until("no work", GUARD, || look(&rig, "h"), |status| status.open_channels == 0);
    assert_eq!(ask("/v1.41/containers/json").status, 200);
    // A program that has no engine to speak to says so.
    engine.stop();
    let answer = ask("/v1.41/containers/json");
    assert_eq!(answer.status, 503, "{}", answer.text());
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("h: ") && message.contains("ocker"), "{message}");
}

#[test]
fn many_clients_at_once_get_their_turns_where_a_program_stands_in_for_the_socket() {
    many_at_once(10, 10);
}

#[test]
fn many_clients_at_once_get_their_turns_where_sessions_are_few() {
    many_at_once(3, 3);
}

/// Begins a stream that lasts as long as its client wants.
fn lasting_stream(socket: &std::path::Path) -> std::os::unix::net::UnixStream {
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(GUARD)).unwrap();
    stream.write_all(b"GET /v1.41/events HTTP/1.1\r\nHost: docker\r\n\r\n").unwrap();
    let mut begin = [0; 12];
    std::io::Read::read_exact(&mut stream, &mut begin).unwrap();
    assert_eq!(&begin, b"HTTP/1.1 200");
    stream
}

#[test]
fn a_stream_holds_the_connection_that_carries_it_and_no_other() {
    let Some((_engine, _sshd, _link, rig)) = far_engine_behind("busybox:1", || no_sockets(2))
    else {
        return;
    };
    let socket = open(&rig);
    // There is one for a stream at most, so the second is asked for on one connection and is carried by another.
    let first = lasting_stream(&socket);
    let second = lasting_stream(&socket);
    wait_until("two connections", GUARD, || look(&rig, "h"), |status| status.connections == 2);
    drop(first);
    wait_until("the first to go", GUARD, || look(&rig, "h"), |status| status.connections == 1);
    drop(second);
}

#[test]
fn a_connection_is_filled_with_streams_before_another_is_made() {
    let Some((_engine, _sshd, _link, rig)) = far_engine_behind("busybox:1", || no_sockets(3))
    else {
        return;
    };
    let socket = open(&rig);
    // Three sessions: one is left to commands, and who follows the engine's events gives way. Where all is slow, what
    // looks at the engine at first may hold one for too long.
    let connects = || look(&rig, "h").connects;
    let two = || {
        let before = connects();
        let streams = [lasting_stream(&socket), lasting_stream(&socket)];
        (connects() == before).then_some(streams)
    };
    // Connected first.
    drop(lasting_stream(&socket));
    let streams = wait_for("two streams on one connection", GUARD, two);
    assert_eq!(rig.occ_ok(&["exec", "--host", "h", "--", "echo", "in"]).trim(), "in");
    drop(streams);
}

#[test]
fn a_line_that_does_not_move_ends_with_words() {
    let Some((engine, _sshd, _link, mut rig)) = far_engine_behind("busybox:1", || no_sockets(2))
    else {
        return;
    };
    let socket = engine.socket().display().to_string();
    rig.write_config_toml(&format!(
        "[connection]\nmax_connections = 1\n[hosts.h]\ndocker_socket = {socket:?}\n"
    ));
    rig.terminate_daemon();
    rig.start_daemon(&[]);
    let socket = open(&rig);
    let stream = lasting_stream(&socket);
    let ask = || {
        let path = "/v1.41/version";
        http::request_within(&socket, "GET", path, &[("Host", "docker")], None, GUARD).unwrap()
    };
    let answer = ask();
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.text().contains("MaxSessions"), "{}", answer.text());
    drop(stream);
    assert_eq!(ask().status, 200);
}

#[test]
fn compose_works_where_a_program_stands_in_for_the_socket() {
    let server = || RealSshd::builder().config("AllowStreamLocalForwarding no").start();
    let Some((_engine, _sshd, _link, rig)) = far_engine_behind("busybox:1", server) else {
        return;
    };
    let compose = testkit::require::find_program("docker-compose");
    if !testkit::require::require("docker-compose", compose.map(drop), "OCC_REQUIRE_DOCKER") {
        return;
    }
    let socket = open(&rig);
    let dir = rig.root().join("compose");
    fs::create_dir_all(&dir).unwrap();
    let service = "image: busybox:1\n    network_mode: none\n    stop_grace_period: 1s\n    \
                   command: sh -c 'echo composed; sleep 1000'\n";
    let services: String = (0..12).map(|n| format!("  web{n}:\n    {service}")).collect();
    fs::write(dir.join("docker-compose.yml"), format!("version: \"3\"\nservices:\n{services}"))
        .unwrap();
    let compose = |args: &[&str]| {
        let mut command = Command::new("docker-compose");
        command
            .current_dir(&dir)
            .env("DOCKER_HOST", format!("unix://{}", socket.display()))
            .args(args)
            .stdin(Stdio::null());
        ok(command)
    };
    compose(&["up", "-d"]);
    assert_eq!(compose(&["ps"]).matches("Up").count(), 12);
    assert_eq!(compose(&["logs", "--no-color"]).matches("| composed").count(), 12);
    compose(&["down"]);
    assert_eq!(ok(docker_at(&rig, &socket, &["ps", "-aq"])), "");
}

#[test]
fn clients_that_ask_at_once_are_given_one_socket_that_is_there() {
    let mut rig = DaemonRig::new();
    // Nobody listens there: the socket is there all the same.
    rig.add_host_to("h", "127.0.0.1", 1, "nobody", std::path::Path::new("/nonexistent"));
    rig.start_daemon(&[]);
    for _ in 0..50 {
        let paths: Vec<PathBuf> = std::thread::scope(|scope| {
            let asking: Vec<_> = (0..8).map(|_| scope.spawn(|| open(&rig))).collect();
            asking.into_iter().map(|asking| asking.join().unwrap()).collect()
        });
        for path in paths {
            std::os::unix::net::UnixStream::connect(&path).unwrap();
        }
        assert_eq!(rig.http("DELETE", "/v1/hosts/h/docker-socket", &[], None).status, 204);
    }
}
