//! `occ exec`: bytes, exit codes, signals.

#![allow(clippy::unwrap_used, reason = "a failing fixture is a failing test")]

mod common;

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};

use common::{
    Answer, Done, Fake, Ws, connected, event, exit, finish, input, output, send, started, text,
};
use serde_json::{Value, json};
use testkit::terminal::Terminal;

/// Runs `occ exec --host prod-1 ARGS` against a script that gets the request.
fn exec(args: &[&str], script: impl Fn(&mut Ws, Value) + Send + Sync + 'static) -> Done {
    let fake = fake(script);
    fake.occ(&[&["exec", "--host", "prod-1"], args].concat())
}

fn fake(script: impl Fn(&mut Ws, Value) + Send + Sync + 'static) -> Fake {
    Fake::exec(move |mut ws| {
        let request = text(&mut ws);
        script(&mut ws, request);
    })
}

fn ended(ws: &mut Ws, exit: Value) {
    let mut exit = exit;
    exit["type"] = json!("exit");
    exit["duration_ms"] = json!(1200);
    event(ws, &exit);
    while ws.read().is_ok() {}
}

#[test]
fn the_request_is_what_was_typed() {
    let seen = Arc::new(Mutex::new(Value::Null));
    let copy = Arc::clone(&seen);
    let fake = fake(move |ws, request| {
        *copy.lock().unwrap() = request;
        exit(ws, 0);
    });
    let done = fake.occ(&[
        "exec",
        "--host",
        "prod-1",
        "--timeout",
        "1m30s",
        "--cwd",
        "/srv",
        "--env",
        "A=1",
        "--env",
        "B=x=y",
        "--retries",
        "0",
        "--",
        "printf",
        "%s",
        "a b",
        "$HOME",
        "-x",
        "",
    ]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(
        *seen.lock().unwrap(),
        json!({
            "argv": ["printf", "%s", "a b", "$HOME", "-x", ""], "cwd": "/srv",
            "env": {"A": "1", "B": "x=y"}, "timeout_ms": 90_000, "retries": 0,
        })
    );
    assert_eq!(fake.lines(), ["GET /v1/hosts/prod-1/exec"]);

    // Without `--`, options end at the program's name, as with ssh.
    fake.occ(&["exec", "--host", "prod-1", "ls", "--json", "--host", "x"]);
    // Where no directory is named, the daemon is told where it was typed.
    let here = std::env::current_dir().unwrap();
    let expected = json!({"argv": ["ls", "--json", "--host", "x"], "here": here});
    assert_eq!(*seen.lock().unwrap(), expected);
    fake.occ(&["exec", "--host", "prod-1", "--shell", "--", "echo $HOME", "| wc"]);
    assert_eq!(
        *seen.lock().unwrap(),
        json!({"argv": [], "shell": "echo $HOME | wc", "here": here})
    );

    // Words that are not UTF-8 arrive as they are.
    use std::os::unix::ffi::OsStrExt as _;
    let mut command = fake.command(&["exec", "--host", "prod-1", "--", "ls"]);
    common::run(command.arg(std::ffi::OsStr::from_bytes(b"\xff")));
    assert_eq!(*seen.lock().unwrap(), json!({"argv": ["ls", {"b64": "/w=="}], "here": here}));
}

#[test]
fn both_streams_arrive_byte_for_byte() {
    let fake = fake(|ws, _| {
        started(ws);
        send(ws, 1, b"out\x1b[31m\xff\0");
        send(ws, 2, b"err\x9b");
        send(ws, 1, b"\n");
        exit(ws, 0);
    });
    let mut command = fake.command(&["exec", "--host", "prod-1", "--", "x"]);
    let child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let output = output(child);
    assert_eq!(output.stdout, b"out\x1b[31m\xff\0\n");
    assert_eq!(output.stderr, b"err\x9b");
}

#[test]
fn much_output_arrives_whole_through_a_pipe_and_into_a_file() {
    const SIZE: usize = 200_000;
    let fake = fake(|ws, _| {
        started(ws);
        for n in 0..300u32 {
            let piece: Vec<u8> = (0..SIZE).map(|i| (i as u32 ^ n) as u8).collect();
            send(ws, 1, &piece);
        }
        exit(ws, 0);
    });
    let expected: Vec<u8> =
        (0..300u32).flat_map(|n| (0..SIZE).map(move |i| (i as u32 ^ n) as u8)).collect();
    let mut command = fake.command(&["exec", "--host", "prod-1", "--", "x"]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    assert!(output(child).stdout == expected);
    let path = fake.dir.path().join("file");
    let file = std::fs::File::create(&path).unwrap();
    let child = command.stdout(file).spawn().unwrap();
    assert!(output(child).status.success());
    assert!(std::fs::read(path).unwrap() == expected);
}

#[test]
fn input_arrives_and_ends() {
    let fake = fake(|ws, _| {
        started(ws);
        let all = input(ws);
        send(ws, 1, &all);
        exit(ws, 0);
    });
    let mut command = fake.command(&["exec", "--host", "prod-1", "--", "cat"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let data: Vec<u8> = (0..3_000_000u32).map(|i| (i / 7) as u8).collect();
    let mut stdin = child.stdin.take().unwrap();
    let copy = data.clone();
    std::thread::spawn(move || stdin.write_all(&copy));
    assert!(output(child).stdout == data);

    // With -n the command reads end of file although our input stays open.
    let mut child = fake
        .command(&["exec", "-n", "--host", "prod-1", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let held = child.stdin.take();
    assert_eq!(output(child).stdout, b"");
    drop(held);
}

#[test]
fn a_command_that_ends_is_not_held_by_open_input() {
    let fake = fake(|ws, _| {
        started(ws);
        exit(ws, 3);
    });
    let mut child = fake
        .command(&["exec", "--host", "prod-1", "--", "x"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let held = child.stdin.take();
    assert_eq!(output(child).status.code(), Some(3));
    drop(held);
}

#[test]
fn exit_codes_are_the_commands_own() {
    for code in [0, 1, 7, 255] {
        let done = exec(&["--own-exit", "99", "--", "x"], move |ws, _| exit(ws, code));
        assert_eq!((done.code, done.err.as_str()), (code as i32, ""));
    }
    let done = exec(&["--", "x"], |ws, _| ended(ws, json!({"code": null, "signal": "KILL"})));
    assert_eq!((done.code, done.err.as_str()), (137, ""));
    let done = exec(&["-v", "--", "x"], |ws, _| exit(ws, 3));
    assert_eq!(done.err, "[prod-1] exit 3 after 5ms\n");
    let done = exec(&["--", "x"], |ws, _| ended(ws, json!({"code": null})));
    assert_eq!(done.code, 255);
    assert_eq!(done.err, "Error: prod-1 ended the command without an exit status.\n");
}

#[test]
fn a_time_limit_is_told_apart_from_a_failure() {
    let end =
        |ws: &mut Ws, _| ended(ws, json!({"code": null, "signal": "TERM", "timed_out": true}));
    let done = exec(&["--timeout", "10s", "--", "x"], end);
    assert_eq!(done.code, 124);
    assert_eq!(done.err, "Error: the command ran longer than 10s and was ended on prod-1\n");
    assert_eq!(exec(&["--timeout", "10s", "--own-exit", "255", "--", "x"], end).code, 255);
    let done = exec(&["--timeout", "10s", "--", "x"], |ws, _| {
        ended(ws, json!({"code": null, "timed_out": true, "may_still_run": true}));
    });
    assert!(done.err.contains("may still run"), "{done:?}");
}

#[test]
fn problems_are_said_with_what_to_do() {
    let problem = |code: &'static str, detail: &'static str| {
        move |ws: &mut Ws, _| {
            event(
                ws,
                &json!({"type": "error", "problem": {
                    "status": 503, "code": code, "detail": detail, "host": "prod-1",
                }}),
            );
        }
    };
    let done = exec(&["--", "x"], problem("host_unreachable", "prod-1 is unreachable: refused"));
    assert_eq!(done.code, 5);
    assert_eq!(
        done.err,
        "Error: prod-1 is unreachable: refused. The command was not started.\n\
         hint: occ host test prod-1 shows where it stops\n"
    );
    let done = exec(&["--own-exit=255", "--", "x"], problem("host_unreachable", "x"));
    assert_eq!(done.code, 255);
    let done = exec(&["--", "x"], problem("outcome_unknown", "The link broke."));
    assert_eq!((done.code, done.err.contains("not started")), (6, false), "{done:?}");

    // A refused login is told with the address, which takes one more request.
    let fake = Fake::with_exec(
        |seen| match seen.path.as_str() {
            "/v1/hosts/prod-1" => {
                let mut status = connected("prod-1");
                status["connection"] = Value::Null;
                status["config"]["user"] = json!("deploy");
                Answer::ok(status)
            }
            _ => Answer::problem(409, "auth_failed", "Every key was refused.", "prod-1"),
        },
        |_| {},
    );
    let done = fake.occ(&["exec", "--host", "prod-1", "--", "x"]);
    assert_eq!(done.code, 5);
    assert_eq!(
        done.err,
        "Error: Every key was refused.\n\
         hint: ssh-copy-id deploy@203.0.113.10; then occ reconnect --host prod-1\n"
    );
}

#[test]
fn a_daemon_that_goes_away_leaves_the_outcome_unknown() {
    let done = exec(&["--", "x"], |ws, _| started(ws));
    assert_eq!(done.code, 6);
    assert!(done.err.starts_with("Error: occd went away while the command ran on prod-1. Outcome"));
    assert!(done.err.contains("hint: "));
}

#[test]
fn a_command_is_said_to_have_been_ended_only_where_its_status_is_not_its_own() {
    for (code, signal, exit, is_said) in [
        (Some(0), None, 0, false),
        (Some(3), None, 3, false),
        (None, Some("TERM"), 143, true),
        // As a shell tells of that.
        (Some(143), None, 143, true),
    ] {
        let done = exec(&["--", "x"], move |ws, _| {
            let end = json!({"code": code, "signal": signal, "cut_off": true, "timed_out": false});
            ended(ws, end);
        });
        assert_eq!(done.code, exit, "{done:?}");
        assert_eq!(done.err.contains("it was ended"), is_said, "{done:?}");
    }
}

#[test]
fn json_is_one_document() {
    let done = exec(&["--json", "--", "x"], |ws, _| {
        started(ws);
        send(ws, 1, b"hello\n");
        send(ws, 2, b"\xff");
        exit(ws, 4);
    });
    let document: Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(done.code, 4);
    assert_eq!(
        document,
        json!({"code": 4, "timed_out": false, "cut_off": false, "may_still_run": false,
            "duration_ms": 5,
            "stdout": "hello\n", "stderr_b64": "/w==", "truncated": false,
            "stdout_bytes": 6, "stderr_bytes": 1})
    );
    let done = exec(&["--json", "--timeout", "1", "--", "x"], |ws, _| {
        ended(ws, json!({"code": null, "signal": "TERM", "timed_out": true}));
    });
    assert_eq!((done.code, done.err.as_str()), (124, ""));
    let done = exec(&["--json", "--", "x"], |ws, _| started(ws));
    let document: Value = serde_json::from_str(&done.err).unwrap();
    assert_eq!((done.code, &document["code"]), (6, &json!("outcome_unknown")));
}

fn kill(pid: u32, signal: &str) {
    let pid = pid.to_string();
    assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
}

#[test]
fn an_interrupt_signals_then_cancels_and_waits_for_the_end() {
    for (signal, name, code, word) in
        [("-INT", "INT", 130, "interrupted"), ("-TERM", "TERM", 143, "terminated")]
    {
        let (ready, is_ready) = mpsc::channel();
        let fake = fake(move |ws, _| {
            started(ws);
            ready.send(()).unwrap();
            assert_eq!(text(ws), json!({"type": "signal", "signal": name}));
            // It does not help, so the command is cancelled.
            assert_eq!(text(ws), json!({"type": "cancel"}));
            send(ws, 1, b"last words");
            ended(ws, json!({"code": null, "signal": "TERM"}));
        });
        let child = fake
            .command(&["exec", "--host", "prod-1", "--", "sleep", "9"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        is_ready.recv().unwrap();
        kill(child.id(), signal);
        let done = finish(child);
        assert_eq!((done.code, done.out.as_str()), (code, "last words"));
        assert_eq!(done.err, format!("Error: {word}: the command was ended on prod-1.\n"));
    }
}

#[test]
fn a_second_interrupt_ends_at_once_even_when_nobody_reads_our_output() {
    let (ready, is_ready) = mpsc::channel();
    let fake = fake(move |ws, _| {
        started(ws);
        // More than a pipe holds, and less than the socket does: occ stands in a write.
        send(ws, 1, &[b'x'; 150_000]);
        ready.send(()).unwrap();
        loop {
            match ws.read() {
                Ok(message) if message.is_text() => ready.send(()).unwrap(),
                Ok(_) => {}
                Err(_) => return,
            }
        }
    });
    let mut child = fake
        .command(&["exec", "--host", "prod-1", "--", "yes"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let held = child.stdout.take();
    is_ready.recv().unwrap();
    kill(child.id(), "-INT");
    is_ready.recv().unwrap();
    kill(child.id(), "-INT");
    let done = finish(child);
    assert_eq!(done.code, 130, "{done:?}");
    assert_eq!(done.err, "Error: interrupted: occd ends the command on prod-1.\n");
    drop(held);
}

#[test]
fn a_reader_that_goes_away_ends_the_command_quietly() {
    let (gone, is_gone) = mpsc::channel();
    let fake = fake(move |ws, _| {
        started(ws);
        while send(ws, 1, &[b'x'; 10_000]) {}
        gone.send(()).unwrap();
    });
    let mut child = fake
        .command(&["exec", "--host", "prod-1", "--", "yes"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut some = [0; 100];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut some).unwrap();
    drop(stdout);
    let done = finish(child);
    assert_eq!((done.code, done.err.as_str()), (141, ""));
    is_gone.recv_timeout(common::GUARD).unwrap();
}

#[test]
fn a_hang_up_ends_the_command() {
    let (ready, is_ready) = mpsc::channel();
    let fake = fake(move |ws, _| {
        started(ws);
        ready.send(()).unwrap();
        while ws.read().is_ok() {}
        ready.send(()).unwrap();
    });
    let child = fake
        .command(&["exec", "-n", "--host", "prod-1", "--", "sleep", "9"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    is_ready.recv().unwrap();
    kill(child.id(), "-HUP");
    assert_eq!(finish(child).code, 129);
    is_ready.recv_timeout(common::GUARD).unwrap();
}

#[test]
fn a_person_is_told_when_there_is_no_connection_yet() {
    let (seen, is_seen) = mpsc::channel();
    let is_seen = Mutex::new(is_seen);
    let fake = fake(move |ws, _| {
        is_seen.lock().unwrap().recv_timeout(common::GUARD).unwrap();
        started(ws);
        exit(ws, 0);
    });
    let args = ["exec", "-n", "--host", "prod-1", "--", "true"];
    let mut terminal = Terminal::start(fake.command(&args));
    terminal.wait_for("[prod-1] not connected; trying …\n");
    seen.send(()).unwrap();
    let (screen, code) = terminal.finish();
    assert_eq!((screen.as_str(), code), ("[prod-1] not connected; trying …\n", 0));
    // Nobody reads it in a pipe.
    let child = fake
        .command(&args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    seen.send(()).unwrap();
    let done = finish(child);
    assert_eq!((done.code, done.err.as_str()), (0, ""));
}
