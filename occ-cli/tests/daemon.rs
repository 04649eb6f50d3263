//! Finding, trusting, starting and stopping the daemon.

#![allow(clippy::unwrap_used, reason = "a failing fixture is a failing test")]

mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Answer, Done, Fake, Seen, ago, connected, finish, occ, private_dir, run};
use serde_json::{Value, json};

fn version(pid: u32, socket: &Path) -> Value {
    json!({"version": "0.1.0", "api_version": 1, "min_client": "0.1.0", "capabilities": [],
        "pid": pid, "started_at": ago(7830), "socket": socket})
}

/// A daemon that answers for itself.
fn daemon(pid: u32) -> Fake {
    Fake::new(move |seen| match seen.path.as_str() {
        "/v1/version" => Answer::ok(version(pid, Path::new("/run/occd.sock"))),
        "/v1/hosts/h" => Answer::ok(connected("h")),
        path => panic!("{path}"),
    })
}

/// Writes a program that pretends to be occd.
fn program(dir: &Path, body: &str) -> String {
    let path = dir.join("fake-occd");
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Runs `occ` with a home of its own and a program to start.
fn start(home: &Path, program: &str, args: &[&str]) -> Command {
    let mut command = occ(args, home);
    command
        .env_remove("OCC_NO_AUTOSTART")
        .env("OCCD_BIN", program)
        .env("XDG_RUNTIME_DIR", home.join("run"));
    command
}

#[test]
fn without_a_daemon_and_without_autostart() {
    let home = private_dir();
    let done = run(&mut occ(&["status", "--host", "h"], home.path()));
    assert_eq!(done.code, 3);
    assert!(done.err.starts_with("Error: occd is not running (socket /"), "{done:?}");
    assert!(done.err.ends_with("hint: occ daemon start\n"), "{done:?}");
    assert!(!home.path().join(".local").exists());
}

#[test]
fn fifty_at_once_start_one_daemon() {
    let home = private_dir();
    let home = home.path();
    let fake = daemon(1);
    let socket = home.join("run/occ/occd.sock");
    // Renaming a socket's file leaves it listening: the daemon "starts" by appearing.
    let program = program(
        home,
        &format!(
            "echo \"$@\" >> {log}\nmv {from} {to} && echo ready {to}\nexec sleep 1",
            log = home.join("log").display(),
            from = fake.socket.display(),
            to = socket.display()
        ),
    );
    let children: Vec<_> = (0..50)
        .map(|_| {
            start(home, &program, &["status", "--host", "h"])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in children {
        let done = finish(child);
        assert_eq!((done.code, done.err.as_str()), (0, ""), "{done:?}");
    }
    assert_eq!(std::fs::read_to_string(home.join("log")).unwrap(), "--daemonize\n");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&home.join("run/occ")), 0o700);
    assert_eq!(mode(&home.join(".local/state/occ/start.lock")), 0o600);
}

#[test]
fn the_socket_is_passed_on_and_verbose_tells_of_the_start() {
    let home = private_dir();
    let home = home.path();
    let fake = daemon(1);
    let other = private_dir();
    let socket = other.path().join("s");
    let to = socket.to_str().unwrap();
    let program = program(
        home,
        &format!(
            "echo \"$@\" > {log}; mv {from} {to}; echo ready {to}",
            log = home.join("log").display(),
            from = fake.socket.display()
        ),
    );
    let done = run(&mut start(home, &program, &["status", "-v", "--host", "h", "--socket", to]));
    assert_eq!(
        done.err.lines().next().unwrap(),
        format!("occd was not running: started (socket {to}).")
    );
    let log = std::fs::read_to_string(home.join("log")).unwrap();
    assert_eq!(log, format!("--daemonize --socket {to}\n"));
}

#[test]
fn a_daemon_that_does_not_start_says_why() {
    let home = private_dir();
    let home = home.path();
    let args = ["status", "--host", "h"];
    let with = |body: &str| run(&mut start(home, &program(home, body), &args));
    let done = with("echo 'Error: occd.toml line 3: unknown key' >&2; exit 78");
    assert_eq!(done.code, 3);
    assert_eq!(
        done.err,
        "Error: occd did not start: occd.toml line 3: unknown key\nhint: mend that file, then occ daemon start\n"
    );
    let done = with("exit 1");
    assert!(done.err.starts_with("Error: occd did not start: exit status: 1\n"), "{done:?}");
    let done = run(&mut start(home, "/nowhere/occd", &args));
    assert_eq!(done.code, 3);
    assert!(done.err.starts_with("Error: occd was not found"), "{done:?}");
}

#[test]
fn a_directory_that_others_can_write_to_is_refused() {
    let fake = daemon(1);
    let set = |mode| {
        std::fs::set_permissions(fake.dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    set(0o755);
    let done = fake.occ(&["status", "--host", "h"]);
    assert_eq!(done.code, 3);
    assert!(done.err.contains("has mode 0755 instead of 0700"), "{done:?}");
    set(0o700);
    let link = private_dir();
    let link = link.path().join("link");
    std::os::unix::fs::symlink(fake.dir.path(), &link).unwrap();
    let done =
        run(fake.command(&["status", "--host", "h"]).env("OCC_SOCKET", link.join("occd.sock")));
    assert!(done.code == 3 && done.err.contains("symbolic link"), "{done:?}");
    assert!(fake.lines().is_empty());
}

#[test]
fn a_daemon_of_another_version_is_named_and_its_json_is_not_shown() {
    let with = |answer: Answer| {
        let fake = Fake::new(move |_| answer.clone());
        fake.occ(&["status", "--host", "h"])
    };
    let newer =
        Answer::ok(connected("h")).header("occ-version", "9.1.0").header("occ-api-version", "2");
    let done = with(newer);
    assert!(
        done.code == 3 && done.err.contains("API version 1, but occd 9.1.0 speaks 2"),
        "{done:?}"
    );
    assert!(
        done.err.ends_with("hint: install occ 9.1.0: this one is older than occd\n"),
        "{done:?}"
    );
    let newer = Answer::text("{\"state\": 3}").header("occ-version", "9.1.0");
    let done = with(newer);
    assert!(
        done.err.ends_with("hint: install occ 9.1.0: this one is older than occd\n"),
        "{done:?}"
    );
    let older = Answer::ok(connected("h")).header("occ-api-version", "0");
    for (done, words) in [
        (with(older), "API version 1, but occd 0.1.0 speaks 0"),
        (with(Answer::text("{\"name\": 3}")), "does not understand the answer of occd 0.1.0"),
        (with(Answer::text("not json")), "does not understand the answer of occd 0.1.0"),
        (with(Answer::status(500)), "occd answered 500"),
    ] {
        assert_eq!(done.code, 3, "{done:?}");
        assert!(done.err.contains(words) && done.err.contains("occ 0.1.0"), "{done:?}");
        assert!(done.err.ends_with("hint: occ daemon restart\n"), "{done:?}");
        assert!(!done.err.contains("column"), "{done:?}");
    }
}

#[test]
fn the_version_of_the_daemon_is_told_by_its_answers_and_costs_none() {
    for (other, says) in [
        ("0.1.0", ""),
        ("9.9.9", ""),
        ("0.0.9", "occd 0.0.9 is older than occ 0.1.0. hint: occ daemon restart\n"),
    ] {
        let fake = Fake::new(move |_| {
            let answer = Answer::ok(connected("h")).header("occ-version", other);
            answer.header("occ-min-client", "0.1.0")
        });
        let done = fake.occ(&["status", "--host", "h"]);
        assert_eq!((done.code, done.err.as_str()), (0, says), "{other}");
        assert_eq!(fake.lines(), ["GET /v1/hosts/h"], "{other}");
        // Whoever stops and starts it by hand needs no such word.
        let fake = Fake::new(move |_| {
            Answer::ok(version(1, Path::new("/run/occd.sock"))).header("occ-version", other)
        });
        assert!(!fake.occ(&["daemon", "start"]).err.contains("is older"), "{other}");
    }
}

#[test]
fn what_a_daemon_of_another_version_refuses_is_explained_by_that() {
    let with = |version: &'static str, code: &'static str, status| {
        let answer = Answer::problem(status, code, "There is no such route.", "h");
        let answer = answer.header("occ-version", version);
        let fake = Fake::new(move |_| answer.clone());
        fake.occ(&["history", "--host", "h"])
    };
    let done = with("0.0.9", "not_found", 404);
    let words = "hint: occ is 0.1.0, occd 0.0.9; if that is why: occ daemon restart\n";
    assert!(done.err.ends_with(words), "{done:?}");
    let done = with("9.1.0", "a_code_of_tomorrow", 409);
    assert!(done.err.contains("if that is why: install occ 9.1.0"), "{done:?}");
    assert!(!with("0.1.0", "not_found", 404).err.contains("if that is why"));
}

#[test]
fn words_of_a_newer_daemon_break_no_answer() {
    let mut status = connected("h");
    status["state"] = json!("hibernating");
    status["status"] = json!("resting");
    status["new_member"] = json!({"of": ["tomorrow"]});
    let shown = status.clone();
    let fake = Fake::new(move |_| Answer::ok(status.clone()));
    let done = fake.occ(&["status", "--host", "h"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.out.contains("unknown"), "{done:?}");
    let list = common::list(&[shown], None);
    let fake = Fake::new(move |_| Answer::ok(list.clone()));
    let done = fake.occ(&["host", "list"]);
    assert_eq!(done.code, 0, "{done:?}");
}

#[test]
fn daemon_status_says_whether_it_runs_and_starts_nothing() {
    let fake = daemon(4711);
    let done = fake.occ(&["daemon", "status"]);
    assert_eq!(
        (done.code, done.out.as_str()),
        (0, "occd 0.1.0 is running: process 4711, up 2h 10m, socket /run/occd.sock\n")
    );
    let document: Value =
        serde_json::from_str(&fake.occ(&["daemon", "status", "--json"]).out).unwrap();
    assert_eq!(
        (&document["running"], &document["socket"]),
        (&json!(true), &json!("/run/occd.sock"))
    );
    let home = private_dir();
    let status = |args: &[&str]| -> Done {
        run(occ(args, home.path()).env_remove("OCC_NO_AUTOSTART").env("OCCD_BIN", "/nowhere/occd"))
    };
    let done = status(&["daemon", "status"]);
    assert_eq!((done.code, done.out.starts_with("occd is not running (socket /")), (3, true));
    let done = status(&["daemon", "status", "--json"]);
    let document: Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!((done.code, &document["running"]), (3, &json!(false)));
}

#[test]
fn daemon_start_is_content_with_a_running_one() {
    let fake = daemon(1);
    let done = fake.occ(&["daemon", "start"]);
    let socket = fake.socket.display();
    assert_eq!(done.out, format!("occd is already running (socket {socket}).\n"));
}

#[test]
fn stop_signals_no_process_that_is_not_behind_the_socket() {
    // The cardboard daemon is this test: were it signalled, nothing below would run.
    let done = daemon(4711).occ(&["daemon", "stop"]);
    assert_eq!(done.code, 1);
    assert!(done.err.contains("says it is process 4711"), "{done:?}");
    let home = private_dir();
    let done = run(&mut occ(&["daemon", "stop"], home.path()));
    assert_eq!((done.code, done.out.as_str()), (0, "occd is not running.\n"));
}

#[test]
fn run_becomes_the_daemon() {
    let home = private_dir();
    let home = home.path();
    let program = program(home, "echo foreground \"$@\"; exit 9");
    let done = run(&mut start(home, &program, &["daemon", "run"]));
    assert_eq!((done.code, done.out.as_str()), (9, "foreground\n"));
    let done = run(&mut start(home, &program, &["daemon", "run", "--socket", "/x/s"]));
    assert_eq!(done.out, "foreground --socket /x/s\n");
}

/// Not a test of its own: the process that `stop_ends_the_daemon_behind_the_socket` runs as a daemon.
#[test]
fn daemon_process() {
    let Some(link) = std::env::var_os("CARDBOARD_DAEMON") else { return };
    let fake = match std::env::var_os("CARDBOARD_LOCK") {
        None => daemon(std::process::id()),
        Some(_) => Fake::new(|_| Answer::text("{}").header("occ-api-version", "2")),
    };
    let lock = std::env::var_os("CARDBOARD_LOCK").map(|path| {
        std::fs::write(&path, std::process::id().to_string()).unwrap();
        let file = std::fs::File::open(path).unwrap();
        file.try_lock().unwrap();
        file
    });
    std::fs::rename(&fake.socket, link).unwrap();
    println!("up");
    loop {
        std::thread::park();
        // Held until then.
        let _ = &lock;
    }
}

/// Checks that a process like `daemon_process` is ended by `occ daemon stop`.
fn is_ended_by_stop(lock: bool) {
    use std::io::{BufRead as _, BufReader};
    let dir = private_dir();
    let socket = dir.path().join("s");
    let mut daemon = Command::new(std::env::current_exe().unwrap());
    daemon.args(["--exact", "daemon_process", "--nocapture"]).env("CARDBOARD_DAEMON", &socket);
    if lock {
        daemon.env("CARDBOARD_LOCK", socket.with_extension("lock"));
    }
    let mut daemon = daemon.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(daemon.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.ends_with("up")));
    let done = run(occ(&["daemon", "stop"], dir.path()).env("OCC_SOCKET", &socket));
    let id = daemon.id();
    let _ = daemon.kill();
    let status = daemon.wait().unwrap();
    assert_eq!((done.code, done.out), (0, format!("occd stopped (process {id}).\n")));
    // By SIGTERM, not by the kill above.
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(15));
}

#[test]
fn stop_ends_the_daemon_behind_the_socket() {
    is_ended_by_stop(false);
}

#[test]
fn stop_ends_a_daemon_whose_answers_are_not_understood() {
    is_ended_by_stop(true);
}

#[test]
fn a_daemon_that_does_not_answer_is_named() {
    let dir = private_dir();
    let socket = dir.path().join("occd.sock");
    // Clients are connected by the kernel; nobody ever answers them.
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let _lock = hold_lock(&socket);
    let pid = std::process::id();
    let hint = format!("kill -CONT {pid} if it was stopped; else kill -9 {pid}");
    said_of_silence(dir.path(), &[&format!("occd (process {pid}) has not answered"), &hint]);
}

#[test]
fn a_program_that_says_nothing_and_is_no_occd_is_told_as_that() {
    let dir = private_dir();
    let socket = dir.path().join("occd.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let pid = std::process::id();
    let what = format!("what listens on {} (process {pid}, daemon-", socket.display());
    let hint = format!("ps -fp {pid} shows what it is; kill {pid} ends it");
    said_of_silence(dir.path(), &[&what, "is no occd, and has said nothing for ", &hint]);
    let done = run(occ(&["doctor"], dir.path()).env("OCC_SOCKET", &socket));
    assert!(done.out.contains(&what) && !done.out.contains("kill -9"), "{done:?}");
}

/// Holds the lock of the daemon behind a socket.
fn hold_lock(socket: &Path) -> std::fs::File {
    let lock = std::fs::File::create(socket.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    std::fs::write(socket.with_extension("lock"), std::process::id().to_string()).unwrap();
    lock
}

/// Looks at what commands say where nobody answers on a directory's socket.
fn said_of_silence(dir: &Path, words: &[&str]) {
    let commands: [&[&str]; 2] =
        [&["status", "--host", "h"], &["exec", "--host", "h", "--", "true"]];
    std::thread::scope(|scope| {
        for args in commands {
            scope.spawn(move || {
                let done = run(occ(args, dir).env("OCC_SOCKET", dir.join("occd.sock")));
                assert_eq!(done.code, 3, "{done:?}");
                for words in words {
                    assert!(done.err.contains(words), "{args:?}: {done:?}");
                }
            });
        }
    });
}

/// Listens on a socket, reads a bit and says `words`, to each client.
fn stranger(socket: &Path, words: &'static [u8]) {
    use std::io::{Read as _, Write as _};
    let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                // The client may have gone.
                let _ = stream.read(&mut [0; 1024]);
                let _ = stream.write_all(words);
            });
        }
    });
}

#[test]
fn a_program_that_is_no_occd_is_told_with_its_process() {
    let pid = std::process::id();
    for words in [
        &b"SSH-2.0-garbage\r\n\r\n"[..],
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
    ] {
        let dir = private_dir();
        let socket = dir.path().join("occd.sock");
        stranger(&socket, words);
        let text = format!(
            "what listens on {} (process {pid}) is no occd, or does not speak",
            socket.display()
        );
        let hint = format!("ps -fp {pid} shows what it is; kill {pid} ends it");
        for args in [
            &["host", "list"][..],
            &["status", "--host", "h"],
            &["exec", "--host", "h", "--", "true"],
            &["host", "remove", "h", "-f"],
            &["ls", "h:/"],
            &["events", "--once"],
            &["events"],
            &["audit", "--follow"],
            &["daemon", "status"],
            &["daemon", "start"],
        ] {
            let done = run(occ(args, dir.path()).env("OCC_SOCKET", &socket));
            assert_eq!(done.code, 3, "{args:?}: {done:?}");
            assert!(done.err.contains(&text) && done.err.contains(&hint), "{args:?}: {done:?}");
            assert!(!done.err.contains("occ daemon status"), "{args:?}: {done:?}");
        }
        let done = run(occ(&["doctor"], dir.path()).env("OCC_SOCKET", &socket));
        let line = format!("✗ daemon       {text}");
        assert!(done.out.contains(&line) && done.out.contains(&hint), "{done:?}");
        assert!(!done.out.contains("occ daemon status"), "{done:?}");
    }
}

#[test]
fn a_daemon_that_holds_its_lock_and_breaks_is_no_stranger() {
    let dir = private_dir();
    let socket = dir.path().join("occd.sock");
    stranger(&socket, b"");
    let _lock = hold_lock(&socket);
    let done = run(occ(&["host", "list"], dir.path()).env("OCC_SOCKET", &socket));
    assert!(done.err.contains("occd went away before it answered"), "{done:?}");
    assert!(done.err.contains("hint: occ daemon status"), "{done:?}");
}

#[test]
fn a_daemon_of_another_user_that_says_nothing_is_told_as_that() {
    const OTHER: u32 = 65534;
    if !testkit::require::require_root("to be somebody else") {
        return;
    }
    let dir = private_dir();
    let set_mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let run_dir = dir.path().join("run");
    std::fs::create_dir(&run_dir).unwrap();
    // Its own place may be closed to others.
    let client = dir.path().join("occ");
    std::fs::copy(env!("CARGO_BIN_EXE_occ"), &client).unwrap();
    [dir.path(), &run_dir, &client].iter().for_each(|path| set_mode(path, 0o755));
    std::os::unix::fs::chown(&run_dir, Some(OTHER), None).unwrap();
    let socket = run_dir.join("occd.sock");
    let listen = "import os, socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.bind(sys.argv[1])\n\
                  os.chmod(sys.argv[1], 0o666)\ns.listen()\nprint('up', flush=True)\n\
                  while True: s.accept()[0].close()";
    let Ok(mut other) = std::os::unix::process::CommandExt::uid(
        Command::new("python3").args(["-c", listen]).arg(&socket),
        OTHER,
    )
    .stdout(Stdio::piped())
    .spawn() else {
        return;
    };
    let mut line = String::new();
    let stdout = other.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
    assert_eq!(line, "up\n");
    let mut command = Command::new(&client);
    command.args(["host", "list"]).current_dir("/").env_clear().env("HOME", "/");
    command.env("OCC_SOCKET", &socket).env("OCC_NO_AUTOSTART", "1");
    command.env("OCC_SOCKET_OWNER", OTHER.to_string());
    let done = run(std::os::unix::process::CommandExt::uid(&mut command, 12345));
    let pid = other.id();
    other.kill().unwrap();
    other.wait().unwrap();
    let text = format!(
        "user {OTHER}'s program on {} (process {pid}) closed the connection without an answer",
        socket.display()
    );
    assert!(done.code == 3 && done.err.contains(&text), "{done:?}");
    assert!(done.err.contains("occd serves its own user alone"), "{done:?}");
    assert!(done.err.contains("hint: have that user type: occ grant "), "{done:?}");
}

#[test]
fn whom_one_trusts_is_a_number_and_no_help_where_others_write() {
    let dir = private_dir();
    let socket = dir.path().join("occd.sock");
    stranger(&socket, b"");
    let with = |owner: &str| {
        run(occ(&["host", "list"], dir.path())
            .env("OCC_SOCKET", &socket)
            .env("OCC_SOCKET_OWNER", owner))
    };
    let done = with("abc");
    assert!(done.code == 2 && done.err.contains("OCC_SOCKET_OWNER is the number"), "{done:?}");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let own = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(dir.path()).unwrap());
    let done = with(&own.to_string());
    assert!(done.err.contains("can be written to by others than its owner"), "{done:?}");
    assert!(!done.err.contains("OCC_SOCKET_OWNER"), "{done:?}");
}

#[test]
fn a_socket_in_a_directory_for_all_has_a_hint_that_works() {
    if !testkit::require::require_root("to make a directory somebody else's") {
        return;
    }
    let dir = private_dir();
    let everybodys = dir.path().join("tmp");
    std::fs::create_dir(&everybodys).unwrap();
    std::fs::set_permissions(&everybodys, std::fs::Permissions::from_mode(0o1777)).unwrap();
    for owner in [0, 65534] {
        std::os::unix::fs::chown(&everybodys, Some(owner), None).unwrap();
        let done = run(occ(&["host", "list"], dir.path()).env("OCC_SOCKET", everybodys.join("x")));
        assert_eq!(done.code, 3, "{done:?}");
        assert!(done.err.contains("can be written to by others: not used"), "{done:?}");
        let hint = format!("hint: --socket {}/occ/x, or export OCC_SOCKET=", everybodys.display());
        assert!(done.err.contains(&hint) && !done.err.contains("chmod"), "{done:?}");
    }
    // It makes the directory.
    let own = everybodys.join("occ/x");
    let done = run(occ(&["host", "list"], dir.path()).env("OCC_SOCKET", own));
    assert!(done.err.contains("occd is not running"), "{done:?}");
}

#[test]
fn a_daemon_that_needs_a_newer_client_is_told_as_that() {
    const NEEDS: &str = "occd 9.9.9 needs occ 9.0.0 or newer, and this is occ 0.1.0.";
    const HINT: &str = "install occ 9.9.9: this one is older than occd";
    // What it says of itself is new, too, or is not.
    let known = json!({"version": "9.9.9", "api_version": 1, "min_client": "9.0.0",
        "capabilities": [], "pid": 1, "started_at": ago(7830), "socket": "/s"});
    for itself in [json!({"version": "9.9.9", "min_client": "9.0.0"}), known] {
        let is_known = itself["pid"] == 1;
        let fake = Fake::new(move |seen| {
            let answer = match seen.path.as_str() {
                "/v1/version" => itself.clone(),
                _ => json!({"hosts": "in another shape"}),
            };
            Answer::ok(answer).header("occ-version", "9.9.9")
        });
        let done = fake.occ(&["host", "list"]);
        assert_eq!((done.code, done.err), (3, format!("Error: {NEEDS}\nhint: {HINT}\n")));
        let done = fake.occ(&["host", "list", "--json"]);
        let problem: Value = serde_json::from_str(&done.err).unwrap();
        assert_eq!(problem["code"], "daemon_incompatible");
        assert_eq!((&problem["detail"], &problem["retryable"]), (&json!(NEEDS), &json!(false)));
        let done = fake.occ(&["daemon", "status"]);
        assert_eq!(done.code, if is_known { 0 } else { 3 }, "{done:?}");
        assert!(done.err.contains(NEEDS) && done.err.contains(HINT), "{done:?}");
        let done = fake.occ(&["doctor", "--json"]);
        let report: Value = serde_json::from_str(&done.out).unwrap();
        let all = report["checks"].as_array().unwrap();
        let found = all.iter().find(|one| one["check"] == "daemon").unwrap();
        assert_eq!((&found["detail"], &found["hint"]), (&json!(NEEDS), &json!(HINT)));
    }
}

#[test]
fn a_daemon_that_needs_a_newer_client_is_refused_by_every_command() {
    const NEEDS: &str = "Error: occd 0.2.0 needs occ 0.2.0 or newer, and this is occ 0.1.0.\n\
                         hint: install occ 0.2.0: this one is older than occd\n";
    // Its answers say so, or it is asked.
    let fake = |oldest: &'static str, is_said: bool| {
        let answered = move |seen: &Seen| {
            let answer = match seen.path.as_str() {
                "/v1/version" => json!({"version": "0.2.0", "min_client": oldest}),
                "/v1/forwards" => json!({"forwards": []}),
                _ => json!({"hosts": [], "default_host": null, "revision": 1}),
            };
            let answer = Answer::ok(answer).header("occ-version", "0.2.0");
            if is_said { answer.header("occ-min-client", oldest) } else { answer }
        };
        Fake::with_exec(answered, |_| {})
    };
    for is_said in [true, false] {
        let newer = fake("0.2.0", is_said);
        for args in [
            &["status", "--all"][..],
            &["status", "--host", "h"],
            &["host", "list"],
            &["forward", "list"],
            &["session", "list"],
            &["prompts"],
            &["events"],
            &["exec", "--host", "h", "--", "true"],
            &["cp", "h:/a", "/tmp"],
        ] {
            let done = newer.occ(args);
            assert_eq!((done.code, &*done.out, &*done.err), (3, "", NEEDS), "{args:?}");
        }
    }
    // One that serves this occ costs nothing where it says so, and one question where it does not.
    for (is_said, asked) in
        [(true, &["GET /v1/hosts"][..]), (false, &["GET /v1/hosts", "GET /v1/version"])]
    {
        let good = fake("0.1.0", is_said);
        assert_eq!(good.occ(&["host", "list"]).out, "No hosts configured.\n");
        assert_eq!(good.lines(), asked);
    }
}
