//! A command on a host is the same as a command here: arguments, bytes, exit code, place, time limit.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Command, Stdio};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use occ_proto::exec::{Bytes, ExecEvent, NDJSON, RESULT_LIMIT, STDERR, STDOUT};
use occ_proto::status::State;
use occ_proto::{Code, Problem};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use testkit::daemon::client_binary;
use testkit::proc::{Process, Signal};
use testkit::wait::blocking::{wait_for, wait_until};
use testkit::{DaemonRig, RealSshd};
use tokio::time::Instant;

use crate::support::{
    GUARD, Incoming, Ws, daemon_for, daemon_with, exec, exit_code, no_channels, no_programs,
    occ_exec, post, remote_program, remote_programs, shell, spawn_occ, sshd, status,
};

/// Returns bytes of every value but NUL, which no argument can hold.
fn random_argument(random: &mut fastrand::Rng) -> Vec<u8> {
    // Characters that mean something to a shell are as frequent as all the others together.
    let special = b"\n\r\t '\"\\$`!*?[]{}()<>|&;#~=%^-";
    let byte = |random: &mut fastrand::Rng| match random.bool() {
        true => special[random.usize(..special.len())],
        false => random.u8(1..),
    };
    (0..random.usize(..40)).map(|_| byte(random)).collect()
}

/// Returns what `printf '%s\0'` prints for these arguments.
fn with_nuls(arguments: &[Vec<u8>]) -> Vec<u8> {
    arguments.iter().flat_map(|argument| argument.iter().copied().chain([0])).collect()
}

fn random_bytes(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::new().fill(&mut bytes);
    bytes
}

fn sha(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the bytes of a result's standard output.
fn stdout(result: &occ_proto::exec::ExecResult) -> Vec<u8> {
    match (&result.stdout, &result.stdout_b64) {
        (Some(text), None) => text.clone().into_bytes(),
        (None, Some(b64)) => STANDARD.decode(b64).unwrap(),
        both => panic!("one of the two is set: {both:?}"),
    }
}

#[test]
fn arguments_arrive_exactly() {
    let Some((_sshd, rig)) = sshd() else { return };
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let nasty: Vec<Vec<u8>> = [
        &b""[..],
        b"\n",
        b"a\nb\n",
        b"''",
        b"\"",
        b"$(id)",
        b"\xff\xfe",
        b"-n",
        b"--",
        b"\\",
        b"!x",
    ]
    .map(<[u8]>::to_vec)
    .into();
    let rounds = (0..40).map(|_| {
        let count = random.usize(1..12);
        (0..count).map(|_| random_argument(&mut random)).collect::<Vec<_>>()
    });
    let rounds: Vec<_> = std::iter::once(nasty).chain(rounds).collect();
    for arguments in &rounds {
        let mut argv = vec![Bytes::from("printf"), Bytes::from("%s\\0")];
        argv.extend(arguments.iter().cloned().map(Bytes));
        let result = exec(&rig, json!({ "argv": argv }));
        assert_eq!(stdout(&result), with_nuls(arguments), "seed {seed}: {result:?}");
    }
    for arguments in &rounds[..10] {
        let output = occ_exec(&rig)
            .args(["printf", "%s\\0"])
            .args(arguments.iter().map(|bytes| OsStr::from_bytes(bytes)))
            .output()
            .unwrap();
        assert_eq!(output.stdout, with_nuls(arguments), "seed {seed}: {output:?}");
    }
}

#[test]
fn input_is_streamed_to_its_end() {
    let Some((_sshd, rig)) = sshd() else { return };
    // A body is at most 1 MiB, and these bytes grow by a third in base64.
    let small = random_bytes(700 * 1024);
    let result = exec(&rig, json!({ "argv": ["cat"], "stdin": Bytes(small.clone()) }));
    assert_eq!(sha(&stdout(&result)), sha(&small));
    // Without input the program reads the end of file.
    assert_eq!(exec(&rig, json!({ "argv": ["wc", "-c"] })).stdout.unwrap().trim(), "0");

    let large = random_bytes(8 * 1024 * 1024);
    let mut occ = spawn_occ(&rig, &["cat"]);
    let mut stdin = occ.stdin.take().unwrap();
    let copy = large.clone();
    let writer = thread::spawn(move || stdin.write_all(&copy).unwrap());
    let output = occ.wait_with_output().unwrap();
    writer.join().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(sha(&output.stdout), sha(&large));
}

#[test]
fn standard_output_and_error_are_apart() {
    let Some((_sshd, rig)) = sshd() else { return };
    let line = r"printf 'out\377'; printf 'err\376' >&2; printf 'more'";
    let result = shell(&rig, line);
    assert_eq!(stdout(&result), b"out\xffmore");
    assert_eq!(STANDARD.decode(result.stderr_b64.unwrap()).unwrap(), b"err\xfe");
    assert_eq!((result.stdout_bytes, result.stderr_bytes, result.truncated), (8, 4, false));
    let output = rig.occ(&["exec", "--host", "h", "--shell", "--", line]).output().unwrap();
    assert_eq!(output.stdout, b"out\xffmore");
    assert_eq!(output.stderr, b"err\xfe");
}

#[test]
fn exit_codes_and_signals_pass() {
    let Some((_sshd, rig)) = sshd() else { return };
    for code in [0, 1, 7, 255] {
        let script = format!("exit {code}");
        let result = exec(&rig, json!({ "argv": ["sh", "-c", script] }));
        assert_eq!((result.exit.code, result.exit.signal), (Some(code), None));
        let occ = rig.run_occ(&["exec", "--host", "h", "--", "sh", "-c", &script]);
        assert_eq!(occ.code(), code.cast_signed(), "{occ:?}");
    }
    for (signal, number) in [("TERM", 15), ("KILL", 9), ("SEGV", 11), ("USR1", 10)] {
        let script = format!("kill -{signal} $$");
        let result = exec(&rig, json!({ "argv": ["sh", "-c", script] }));
        assert_eq!((result.exit.code, result.exit.signal.as_deref()), (None, Some(signal)));
        let occ = rig.run_occ(&["exec", "--host", "h", "--", "sh", "-c", &script]);
        assert_eq!(occ.code(), 128 + number, "{occ:?}");
    }
    let missing = exec(&rig, json!({ "argv": ["/no/such/program"] }));
    assert_eq!(missing.exit.code, Some(127), "{missing:?}");
    assert!(missing.stderr.unwrap().contains("/no/such/program"));
}

#[test]
fn a_command_runs_where_and_as_it_is_told() {
    let Some((sshd, rig)) = sshd() else { return };
    let home = shell(&rig, "echo $HOME").stdout.unwrap().trim().to_owned();
    let pwd = |cwd: &str| exec(&rig, json!({ "argv": ["pwd"], "cwd": cwd }));
    assert_eq!(pwd("/usr/lib").stdout.unwrap(), "/usr/lib\n");
    assert_eq!(pwd("~").stdout.unwrap(), format!("{home}\n"));
    // A directory of this test's own: tests share the login user.
    let name = sshd.dir().file_name().unwrap().to_string_lossy().into_owned();
    let odd = format!("{name}/it's $HOME");
    shell(&rig, &format!("mkdir -p \"$HOME/{name}/it's \\$HOME\""));
    assert_eq!(pwd(&format!("~/{odd}")).stdout.unwrap(), format!("{home}/{odd}\n"));
    shell(&rig, &format!("rm -r \"$HOME/{name}\""));
    let missing = pwd("/no/such/directory");
    assert_ne!(missing.exit.code, Some(0), "{missing:?}");
    assert_eq!(missing.stdout.as_deref(), Some(""), "the command ran in another place");
    assert!(missing.stderr.unwrap().contains("/no/such/directory"));

    let env = json!({ "A": "a b", "B_2": "it's\n$HOME=`id`" });
    let script = r#"printf '%s|%s' "$A" "$B_2""#;
    let result = exec(&rig, json!({ "argv": ["sh", "-c", script], "env": env }));
    assert_eq!(result.stdout.unwrap(), "a b|it's\n$HOME=`id`");
    let output = rig.run_occ(&[
        "exec",
        "--host",
        "h",
        "--cwd",
        "/usr",
        "--env",
        "A=x y",
        "--",
        "sh",
        "-c",
        "pwd; echo $A",
    ]);
    assert_eq!(output.stdout, "/usr\nx y\n", "{output:?}");

    // A line is the login shell's own: pipes and expansion are what it is for.
    let line = "cd /usr; echo $((1+1)) `pwd` | tr a-z A-Z";
    assert_eq!(shell(&rig, line).stdout.unwrap(), "2 /USR\n");
    let result =
        exec(&rig, json!({ "shell": "pwd; echo $A | tr a b", "cwd": "/usr", "env": { "A": "a" } }));
    assert_eq!(result.stdout.unwrap(), "/usr\nb\n");
    let output =
        rig.occ_ok(&["exec", "--host", "h", "--shell", "--", "echo", "$((20+3))", "|", "cat"]);
    assert_eq!(output, "23\n");
    // Who writes it as ssh takes it is told.
    let output = rig.run_occ(&["exec", "--host", "h", "-v", "--", "ls -la"]);
    assert_eq!(output.code(), 127, "{output:?}");
    assert!(output.stderr.contains("occ exec --shell -- 'ls -la'"), "{output:?}");
}

#[test]
fn what_cannot_be_passed_is_refused_and_not_run() {
    let Some((_sshd, rig)) = sshd() else { return };
    for request in [
        json!({ "argv": [] }),
        json!({ "argv": ["true", "a\u{0}b"] }),
        json!({ "argv": ["-c"] }),
        json!({ "argv": ["true"], "shell": "true" }),
        json!({ "argv": ["true"], "env": { "A=B": "" } }),
        json!({ "argv": ["true"], "timeout_ms": 0 }),
        json!({ "argv": ["true"], "unknown": 1 }),
        json!("true"),
    ] {
        let response = post(&rig, request.clone());
        assert_eq!(response.status, 400, "{request}: {}", response.text());
        assert_eq!(response.json()["code"], "bad_request", "{request}");
    }
    // None of them was worth a connection.
    assert_eq!(status(&rig).connects, 0);
}

#[test]
fn a_time_limit_ends_the_command_and_is_a_result() {
    let Some((sshd, rig)) = sshd() else { return };
    let request = json!({ "shell": "echo before; exec sleep 1000", "timeout_ms": 2000 });
    let result = exec(&rig, request);
    assert!(result.exit.timed_out && !result.exit.may_still_run, "{result:?}");
    assert_eq!(result.exit.status(), 124);
    assert_eq!(result.stdout.as_deref(), Some("before\n"));
    // The time that it took to connect is part of it.
    assert!(result.exit.duration_ms > 0 && result.exit.limit_ms == Some(2000), "{result:?}");
    no_programs(&sshd, GUARD);

    let limited = ["exec", "--host", "h", "--timeout", "300ms"];
    let occ = rig.run_occ(&[&limited[..], &["--", "sleep", "1000"]].concat());
    assert_eq!(occ.code(), 124, "{occ:?}");
    no_programs(&sshd, GUARD);
    let occ = rig.run_occ(&[&limited[..], &["--json", "--", "sleep", "1000"]].concat());
    let document: Value = serde_json::from_str(&occ.stdout).unwrap();
    assert_eq!((occ.code(), &document["timed_out"]), (124, &json!(true)), "{occ:?}");
    no_programs(&sshd, GUARD);
    // A command that is quicker is left alone.
    let quick = exec(&rig, json!({ "argv": ["true"], "timeout_ms": 60_000 }));
    assert!(!quick.exit.timed_out);
    assert_eq!(quick.exit.code, Some(0));
}

#[test]
fn a_background_child_does_not_hold_the_command() {
    let Some((sshd, rig)) = sshd() else { return };
    let begun = Instant::now();
    let result = exec(&rig, json!({ "argv": ["sh", "-c", "sleep 1000 & echo started"] }));
    let took = begun.elapsed();
    assert_eq!((result.stdout.as_deref(), result.exit.code), (Some("started\n"), Some(0)));
    // Silence of one second is the sign; the child would sleep for a quarter of an hour.
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(20), "{took:?}");
    let child = remote_program(&sshd, "sleep");
    no_channels(&rig, GUARD);
    // What somebody put into the background is not ours to end.
    assert!(child.is_alive());
    assert_eq!(shell(&rig, "echo next").stdout.unwrap(), "next\n");
}

#[test]
fn the_plain_result_holds_head_and_tail() {
    let Some((_sshd, rig)) = sshd() else { return };
    let text: String = (0..300_000).map(|n| format!("{n}\n")).collect();
    let result = exec(&rig, json!({ "argv": ["seq", "0", "299999"] }));
    assert!(result.truncated);
    assert_eq!(result.stdout_bytes, text.len() as u64);
    let kept = result.stdout.unwrap();
    let half = RESULT_LIMIT / 2;
    assert_eq!(kept.len(), RESULT_LIMIT);
    assert!(kept[..half] == text[..half] && kept[half..] == text[text.len() - half..]);

    let whole = shell(&rig, &format!("head -c {RESULT_LIMIT} /dev/zero; echo all >&2"));
    assert!(!whole.truncated);
    assert_eq!(whole.stdout.unwrap().len(), RESULT_LIMIT);
    assert_eq!(whole.stderr.as_deref(), Some("all\n"));

    let binary = shell(&rig, "head -c 2000000 /dev/zero | tr '\\0' '\\377'");
    assert!(binary.truncated && binary.stdout.is_none());
    assert_eq!(stdout(&binary), vec![0xff; RESULT_LIMIT]);
    assert_eq!(binary.stdout_bytes, 2_000_000);
}

/// Sends the request and returns the events of the streaming answer.
fn events(rig: &DaemonRig, request: Value) -> Vec<ExecEvent> {
    let accept = [("Accept", NDJSON)];
    let response = rig.http("POST", "/v1/hosts/h/exec", &accept, Some(request));
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.header("content-type"), Some(NDJSON));
    response.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Returns the bytes of both streams, joined, in the order of the events.
fn joined(events: &[ExecEvent]) -> (Vec<u8>, Vec<u8>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    for event in events {
        match event {
            ExecEvent::Stdout { data } => out.extend(&data.0),
            ExecEvent::Stderr { data } => err.extend(&data.0),
            _ => {}
        }
    }
    (out, err)
}

#[test]
fn events_come_in_order() {
    let Some((_sshd, rig)) = sshd() else { return };
    let script = r"seq 1 50000; printf '\377' >&2; exit 3";
    let events = events(&rig, json!({ "argv": ["sh", "-c", script] }));
    assert_eq!(events.first(), Some(&ExecEvent::Started { new_host_key: None }));
    let Some(ExecEvent::Exit(exit)) = events.last() else { panic!("{:?}", events.last()) };
    assert_eq!(exit.code, Some(3));
    let middle = &events[1..events.len() - 1];
    let is_output =
        |e: &ExecEvent| matches!(e, ExecEvent::Stdout { .. } | ExecEvent::Stderr { .. });
    assert!(middle.iter().all(is_output));
    let expected: String = (1..=50_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(joined(&events), (expected.into_bytes(), vec![0xff]));
}

#[test]
fn events_come_while_the_command_runs() {
    let Some((sshd, rig)) = sshd() else { return };
    let request = json!({ "argv": ["sh", "-c", "echo first; exec sleep 1000"] });
    let mut stream = crate::support::Stream::post(&rig, NDJSON, &request);
    stream.wait_for("started");
    stream.wait_for("first");
    assert!(remote_program(&sshd, "sleep").is_alive());
}

#[test]
fn a_websocket_carries_a_command() {
    let Some((_sshd, rig)) = sshd() else { return };
    let mut ws = Ws::start(&rig, &json!({ "argv": ["sh", "-c", "cat; echo bye >&2; exit 9"] }));
    ws.started();
    let input = random_bytes(1024 * 1024);
    for chunk in input.chunks(50_000) {
        assert!(ws.input(chunk));
    }
    assert!(ws.input(&[]));
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let exit = loop {
        match ws.next() {
            Incoming::Bytes(STDOUT, bytes) => out.extend(bytes),
            Incoming::Bytes(STDERR, bytes) => err.extend(bytes),
            Incoming::Event(ExecEvent::Exit(exit)) => break exit,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((sha(&out), err.as_slice(), exit.code), (sha(&input), &b"bye\n"[..], Some(9)));
    assert_eq!(ws.next(), Incoming::End);

    // A signal reaches the program, which may handle it.
    let script = "trap 'echo got; exit 5' USR1; echo ready; while :; do :; done";
    let mut ws = Ws::start(&rig, &json!({ "argv": ["sh", "-c", script] }));
    ws.started();
    assert_eq!(ws.next(), Incoming::Bytes(STDOUT, b"ready\n".to_vec()));
    // What is no control is told, and nothing comes of it.
    for (bad, word) in [
        (json!({ "type": "stop" }), "stop"),
        (json!({ "type": "signal", "signal": "NONE" }), "NONE"),
        (json!(["cancel"]), "an array"),
        (json!(["signal", "USR1"]), "an array"),
    ] {
        ws.control(&bad);
        let Incoming::Event(ExecEvent::BadControl { detail }) = ws.next() else { panic!("{bad}") };
        assert!(detail.contains(word), "{detail}");
    }
    ws.control(&json!({ "type": "signal", "signal": "USR1" }));
    assert_eq!(ws.next(), Incoming::Bytes(STDOUT, b"got\n".to_vec()));
    let Incoming::Event(ExecEvent::Exit(exit)) = ws.next() else { panic!() };
    assert_eq!(exit.code, Some(5));

    // A request that cannot be run is answered by a problem, with the words that a body would get.
    for (bad, place) in [
        (json!({ "argv": [] }), None),
        (json!([["echo", "ran"]]), Some(1)),
        (json!({ "argv": [7] }), Some(11)),
    ] {
        let mut ws = Ws::start(&rig, &bad);
        let Incoming::Event(ExecEvent::Error { problem }) = ws.next() else { panic!("{bad}") };
        assert_eq!(problem.code, Code::BadRequest);
        assert_eq!(problem.position.map(|place| place.column), place, "{problem:?}");
        let by_http = rig.http("POST", "/v1/hosts/h/exec", &[], Some(bad)).json();
        let said = by_http["detail"].as_str().unwrap().replace("The body", "The request");
        assert_eq!(problem.detail, said);
    }
}

/// What is no message of a WebSocket, what is sent, and the code with which the connection ends (RFC 6455, section 7.4.1).
pub(crate) const NO_MESSAGES: [(&str, &[u8], u16); 4] = [
    ("unmasked", b"\x81\x02{}", 1002),
    ("opcode", b"\x83\x80\0\0\0\0", 1002),
    ("UTF-8", b"\x81\x82\0\0\0\0\xff\xfe", 1007),
    ("2 MiB", b"", 1009),
];

/// Sends what is no message, and checks what is said of it.
pub(crate) fn breaks_off(mut ws: Ws, (words, bytes, code): (&str, &[u8], u16), opcode: u8) {
    if bytes.is_empty() {
        // What it still sends is read to the end: it is to see the answer, and no broken pipe.
        assert!(ws.long(opcode, 3_000_000), "{words}");
    }
    ws.raw(bytes);
    let (problem, told, reason) = ws.broken();
    assert_eq!(told, code, "{problem:?}");
    assert!(reason.contains(words) && problem.detail.contains(words), "{reason}: {problem:?}");
    let expected = if code == 1009 { Code::TooLarge } else { Code::BadRequest };
    assert_eq!(problem.code, expected, "{problem:?}");
}

#[test]
fn a_websocket_that_breaks_the_protocol_is_told_why_it_ends() {
    let Some((sshd, rig)) = sshd() else { return };
    for broken in NO_MESSAGES {
        breaks_off(Ws::open(&rig), broken, 1);
        let mut ws = Ws::start(&rig, &json!({ "argv": ["sleep", "1000"] }));
        ws.started();
        let sleep = remote_program(&sshd, "sleep");
        breaks_off(ws, broken, 2);
        wait_for("the command's end", GUARD, || (!sleep.is_alive()).then_some(()));
    }
}

#[test]
fn a_close_is_answered() {
    let Some((_sshd, rig)) = sshd() else { return };
    let mut running = Ws::start(&rig, &json!({ "argv": ["cat"] }));
    running.started();
    for mut ws in [Ws::open(&rig), running] {
        // 1000 and "bye", with a mask of zeros.
        ws.raw(b"\x88\x85\0\0\0\0\x03\xe8bye");
        assert_eq!(ws.close_code(), Some(1000));
    }
}

#[test]
fn an_input_that_cannot_be_read_is_told() {
    let Some((_sshd, rig)) = sshd() else { return };
    for more in [&[][..], &["--durable"]] {
        let mut occ = rig.occ(&[&["exec", "--host", "h"], more, &["--", "wc", "-c"]].concat());
        let output = occ.stdin(std::fs::File::open("/").unwrap()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("standard input cannot be read"), "{more:?}: {output:?}");
    }
}

#[test]
fn bytes_for_no_stream_are_told_like_a_control_that_is_none() {
    let Some((_sshd, rig)) = sshd() else { return };
    let mut ws = Ws::start(&rig, &json!({ "argv": ["cat"] }));
    ws.started();
    for bytes in [&[][..], &[7, 1]] {
        ws.bytes(bytes);
        let Incoming::Event(ExecEvent::BadControl { detail }) = ws.next() else { panic!() };
        assert!(detail.contains("binary message"), "{detail}");
    }
    assert!(ws.input(b"on") && ws.input(&[]));
    assert_eq!(ws.next(), Incoming::Bytes(STDOUT, b"on".to_vec()));
}

#[test]
fn an_unknown_host_is_named() {
    let Some((_sshd, rig)) = sshd() else { return };
    let answer = rig.http("POST", "/v1/hosts/nope/exec", &[], Some(json!({ "argv": ["true"] })));
    assert_eq!(answer.status, 404);
    let problem: Problem = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((problem.code, problem.status), (Code::HostNotFound, 404));
    assert!(problem.detail.contains("nope"));
    let occ = rig.run_occ(&["exec", "--host", "nope", "--", "true"]);
    assert_eq!(occ.code(), 4, "{occ:?}");
    assert!(occ.stderr.contains("nope"), "{occ:?}");
}

#[test]
fn ctrl_c_ends_the_remote_command() {
    let Some((sshd, rig)) = sshd() else { return };
    let mut occ = spawn_occ(&rig, &["sleep", "1000"]);
    let sleep = remote_program(&sshd, "sleep");
    Process::find(occ.id()).unwrap().signal(Signal::INT);
    assert_eq!(exit_code(&mut occ), 130);
    // occ says so only when it is true.
    assert!(!sleep.is_alive());
    no_channels(&rig, GUARD);

    // A program that does not mind SIGINT is ended all the same.
    let script = "trap '' INT; echo ready; while :; do sleep 0.05; done";
    let mut occ = spawn_occ(&rig, &["sh", "-c", script]);
    let mut line = String::new();
    BufReader::new(occ.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    Process::find(occ.id()).unwrap().signal(Signal::INT);
    assert_eq!(exit_code(&mut occ), 130);
    no_programs(&sshd, GUARD);
}

#[test]
fn a_reader_that_leaves_ends_an_endless_command() {
    let Some((sshd, rig)) = sshd() else { return };
    let mut occ = spawn_occ(&rig, &["yes"]);
    let yes = remote_program(&sshd, "yes");
    let head = Command::new("head")
        .args(["-n", "2000"])
        .stdin(Stdio::from(occ.stdout.take().unwrap()))
        .output()
        .unwrap();
    assert!(head.stdout == b"y\n".repeat(2000), "{} bytes", head.stdout.len());
    // 128 + SIGPIPE, as the local `yes` ends in a shell.
    assert_eq!(exit_code(&mut occ), 141);
    let mut error = String::new();
    occ.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert_eq!(error, "");
    testkit::wait::blocking::wait_until("yes to end", GUARD, || yes.is_alive(), |alive| !alive);
    no_channels(&rig, GUARD);
}

#[test]
fn a_hundred_commands_at_once_answer_right() {
    let Some((_sshd, rig)) = sshd() else { return };
    let occ = client_binary();
    assert!(occ.is_file(), "{} is not built", occ.display());
    thread::scope(|scope| {
        for n in 0..100u32 {
            let rig = &rig;
            scope.spawn(move || {
                let (word, code) = (format!("answer-{n}"), n % 50);
                let script = format!("cat; echo {word}; echo e{n} >&2; exit {code}");
                let argv = ["sh", "-c", &script];
                if n % 2 == 0 {
                    let result = exec(rig, json!({ "argv": argv, "stdin": format!("in-{n} ") }));
                    assert_eq!(result.stdout.unwrap(), format!("in-{n} {word}\n"));
                    assert_eq!(result.stderr.unwrap(), format!("e{n}\n"));
                    assert_eq!(result.exit.code, Some(code));
                } else {
                    let output = occ_exec(rig).args(argv).output().unwrap();
                    assert_eq!(output.stdout, format!("{word}\n").as_bytes(), "{output:?}");
                    assert_eq!(output.stderr, format!("e{n}\n").as_bytes());
                    assert_eq!(output.status.code(), Some(code.cast_signed()));
                }
            });
        }
    });
    assert_eq!(status(&rig).state, State::Connected);
    no_channels(&rig, GUARD);
}

#[test]
fn a_thousand_commands_answer_right() {
    let Some((_sshd, rig)) = sshd() else { return };
    let rig = Arc::new(rig);
    let workers: Vec<_> = (0..20)
        .map(|worker| {
            let rig = Arc::clone(&rig);
            thread::spawn(move || {
                for n in 0..50 {
                    let word = format!("{worker}-{n}");
                    let result = exec(&rig, json!({ "argv": ["echo", word] }));
                    assert_eq!(result.stdout.unwrap(), format!("{word}\n"));
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
    no_channels(&rig, GUARD);
}

#[test]
fn a_thousand_commands_at_once_answer_right() {
    const ALL: usize = 1000;
    /// A client's thread: room for a small request, a thousand times.
    const STACK: usize = 256 * 1024;
    let Some((sshd, rig)) = sshd() else { return };
    // A client each, so more files than many systems let a program have unasked.
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files }).unwrap();
    status(&rig);
    let at_once = Barrier::new(ALL);
    thread::scope(|scope| {
        let run = |n: usize| {
            at_once.wait();
            let result = exec(&rig, json!({ "shell": format!("echo {n}; exit {}", n % 200) }));
            let code = u32::try_from(n % 200).unwrap();
            let right = (Some(format!("{n}\n")), Some(code));
            assert_eq!((result.stdout, result.exit.code), right, "command {n}");
        };
        for n in 0..ALL {
            let thread = thread::Builder::new().stack_size(STACK);
            thread.spawn_scoped(scope, move || run(n)).unwrap();
        }
    });
    no_channels(&rig, GUARD);
    assert_eq!(remote_programs(&sshd), []);
    assert_eq!(status(&rig).last_error, None);
}

#[test]
fn more_long_commands_than_sessions_all_run() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::builder().max_sessions(3).start();
    let rig = crate::support::daemon_for(&sshd);
    // Three of them hold every session for longer than a channel may take to open.
    let results: Vec<_> = thread::scope(|scope| {
        let run = || exec(&rig, json!({ "argv": ["sh", "-c", "sleep 12; echo done"] }));
        let workers: Vec<_> = (0..5).map(|_| scope.spawn(run)).collect();
        workers.into_iter().map(|worker| worker.join()).collect()
    });
    for result in results {
        assert_eq!(result.unwrap().stdout.as_deref(), Some("done\n"));
    }
    assert_eq!(remote_programs(&sshd), []);
}

#[test]
fn a_child_in_the_background_holds_nobody_longer_than_a_second_of_silence() {
    let Some((sshd, rig)) = sshd() else { return };
    let sleeps = |n: &str| testkit::proc::marked(n).into_iter().any(|p| p.name() == "sleep");
    let timed = |args: &[&str], line: &str| {
        let output = occ_exec_with(&rig, args, line).output().unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned() + &output.status.to_string()
    };
    // It outlives its command, which therefore did not wait for it.
    let n = format!("1000.{}", fastrand::u32(1_000_000..));
    assert_eq!(timed(&[], &format!("sleep {n} & echo started")), "exit status: 0");
    assert!(sleeps(&n));
    // A time limit is the program's, which ended long before.
    let line = format!("sleep {n} & exit 3");
    assert_eq!(timed(&["--timeout", "1500ms"], &line), "exit status: 3");
    // One that goes on writing is left behind when the time is up.
    let noisy = format!("(while sleep 0.2; do echo {n}; done) & exit 4");
    assert_eq!(timed(&["--timeout", "2s"], &noisy), "exit status: 4");
    sshd.kill_sessions();
    testkit::proc::kill_all("what was left behind", || testkit::proc::marked(&n));
}

/// Returns `occ exec ARGS --host h -- sh -c LINE`.
fn occ_exec_with(rig: &DaemonRig, args: &[&str], line: &str) -> std::process::Command {
    rig.occ(&[&["exec", "--host", "h"], args, &["--", "sh", "-c", line]].concat())
}

#[test]
fn a_command_that_is_too_long_for_the_server_is_not_sent_and_harms_nobody() {
    let Some((sshd, rig)) = sshd() else { return };
    let long = "a".repeat(100_000);
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            exec(&rig, json!({ "argv": ["sh", "-c", "read x; echo $x"], "stdin": "in" }))
        });
        let request = json!({ "argv": ["true", long, long, long] });
        let answer = post(&rig, request);
        assert_eq!(answer.status, 413, "{}", answer.text());
        assert_eq!(answer.json()["code"], json!("command_too_long"));
        let occ = rig.run_occ(&["exec", "--host", "h", "--", "true", &long, &long, &long]);
        assert_eq!(occ.code(), 2, "{occ:?}");
        // Long, and not too long.
        let output = exec(&rig, json!({ "argv": ["sh", "-c", "echo $#", "sh", long, "b"] }));
        assert_eq!(output.stdout.as_deref(), Some("2\n"));
        assert_eq!(other.join().unwrap().stdout.as_deref(), Some("in\n"));
    });
    assert_eq!(status(&rig).connects, 1);
    drop(sshd);
}

#[test]
fn the_bytes_of_a_host_are_those_of_all_its_connections() {
    let Some((_sshd, rig)) = sshd() else { return };
    let sent = || status(&rig).bytes_in;
    let run = ["exec", "--host", "h", "--", "head", "-c", "20000000", "/dev/zero"];
    let output = rig.occ(&run).output().unwrap();
    assert_eq!(output.stdout.len(), 20_000_000);
    assert!(sent() >= 20_000_000);
    // The connection of a stream goes when that is over; what it carried does not.
    wait_until("one connection", GUARD, || status(&rig), |s| s.connections == 1 && s.connects == 2);
    assert!(sent() >= 20_000_000);
}

#[test]
fn a_host_may_have_a_directory_for_its_commands() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let rig = daemon_with(&sshd, "[hosts.h]\ndirectory = \"/usr\"\n");
    for (request, expected) in [
        (json!({"argv": ["pwd"]}), "/usr\n"),
        (json!({"shell": "pwd"}), "/usr\n"),
        (json!({"argv": ["pwd"], "cwd": "/"}), "/\n"),
    ] {
        assert_eq!(exec(&rig, request.clone()).stdout.as_deref(), Some(expected), "{request}");
    }
    assert_eq!(rig.occ_ok(&["exec", "--host", "h", "--", "pwd"]), "/usr\n");
}

#[test]
fn a_variable_goes_the_protocols_own_way_where_the_server_takes_it() {
    if !RealSshd::require() {
        return;
    }
    // What is asked to be run, and what came beside it.
    let forced = "AcceptEnv TAKEN*\nForceCommand printf '%s|%s%s' \"$SSH_ORIGINAL_COMMAND\" \"$TAKEN\" \"$TAKEN2\"";
    let sshd = RealSshd::builder().config(forced).start();
    let rig = daemon_for(&sshd);
    let ran = |request: Value| exec(&rig, request).stdout.unwrap();
    let both = json!({ "argv": ["true"], "env": { "TAKEN": "a b", "OTHER": "c" } });
    // The second time, the server is not asked whether it does.
    for _ in 0..2 {
        assert_eq!(ran(both.clone()), "exec env OTHER=c true|a b");
    }
    // Nothing of it is there for the next command.
    assert_eq!(ran(json!({ "argv": ["true"] })), "exec true|");
    let two = json!({ "argv": ["true"], "env": { "TAKEN": "'$x", "TAKEN2": "\n\u{e4}" } });
    assert_eq!(ran(two), "exec true|'$x\n\u{e4}");
    // Many at once, which the server has not heard of.
    let many: std::collections::BTreeMap<String, String> =
        (10..90).map(|n| (format!("OTHER{n}"), n.to_string())).collect();
    let words = many.iter().map(|(name, value)| format!("{name}={value} ")).collect::<String>();
    assert_eq!(ran(json!({ "argv": ["true"], "env": many })), format!("exec env {words}true|"));
    let alone = json!({ "argv": ["true"], "env": { "TAKEN": "a" }, "clear_env": true });
    assert_eq!(ran(alone), "exec env -i TAKEN=a true|");
    no_channels(&rig, GUARD);
}

#[test]
fn a_program_that_had_ended_by_itself_was_not_cut_off() {
    let Some((sshd, rig)) = sshd() else { return };
    // What it leaves behind holds its output, which is waited for.
    let script = "sleep 1000 & echo $$; exit 3";
    let request = json!({ "argv": ["sh", "-c", script], "wait_output": true });
    let mut stream = Ws::start(&rig, &request);
    stream.started();
    let Incoming::Bytes(STDOUT, shown) = stream.next() else { panic!("no output") };
    let pid = String::from_utf8(shown).unwrap();
    shell(&rig, &format!("while kill -0 {} 2>/dev/null; do sleep 0.02; done", pid.trim()));
    // The server tells of ends in their order.
    shell(&rig, "true");
    assert_eq!(rig.http("POST", "/v1/hosts/h/disconnect", &[], None).status, 200);
    let exit = loop {
        match stream.next() {
            Incoming::Event(ExecEvent::Exit(exit)) => break exit,
            Incoming::Bytes(..) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((exit.code, exit.cut_off), (Some(3), false), "{exit:?}");
    remote_program(&sshd, "sleep").signal(Signal::KILL);
}
