//! Sessions as `occ` shows them: each command, and `exec --durable`, whose face is exec's.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Stdio};

use serde_json::Value;
use testkit::DaemonRig;
use testkit::proc::{Process, Signal};
use testkit::wait::blocking::{wait_for, wait_until};

use crate::exec::{NO_MESSAGES, breaks_off};
use crate::forward::echo_server;
use crate::session::{Far, noise, sum};
use crate::support::{GUARD, Ws, exit_code, no_channels, status};

pub(crate) fn spawn(rig: &DaemonRig, args: &[&str]) -> Child {
    rig.occ(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

pub(crate) fn signal(child: &Child, signal: Signal) {
    Process::find(child.id()).unwrap().signal(signal);
}

#[test]
fn each_command_does_its_part() {
    let Some(far) = Far::start() else { return };
    let rig = &far.rig;
    let start = ["session", "start", "--host", "h", "--name", "work", "--env", "K=v w", "--"];
    let line = "echo one; echo two; echo err >&2; read x; echo \"$K $x\"; exit 3";
    let started = rig.occ_ok(&[&start[..], &["sh", "-c", line]].concat());
    assert_eq!(started, "[h] session work started\n");
    let list = rig.occ_ok(&["session", "list"]);
    assert!(list.contains("work") && list.contains("running"), "{list}");
    rig.occ_ok(&["session", "send", "work", "--eol", "lf", "hello", "there"]);
    let waited = rig.run_occ(&["session", "wait", "work"]);
    assert_eq!((waited.code(), &waited.stderr[..]), (3, ""));
    assert_eq!(rig.occ_ok(&["session", "logs", "work"]), "one\ntwo\nv w hello there\n");
    assert_eq!(rig.occ_ok(&["session", "logs", "work", "-n", "1"]), "v w hello there\n");
    assert_eq!(rig.occ_ok(&["session", "logs", "work", "--stderr"]), "err\n");
    // Where nobody was attached before, it begins at the first byte, and then where that one stopped.
    let attached = rig.run_occ(&["session", "attach", "-n", "work"]);
    assert_eq!((attached.code(), &attached.stdout[..]), (3, "one\ntwo\nv w hello there\n"));
    assert_eq!(attached.stderr, "err\n");
    assert_eq!(rig.run_occ(&["session", "attach", "-n", "work"]).stdout, "");
    assert_eq!(
        rig.run_occ(&["session", "attach", "-n", "work", "--offset", "4"]).stdout,
        "two\nv w hello there\n"
    );

    let again = rig.run_occ(&["session", "start", "--name", "work"]);
    assert_eq!(again.code(), 2, "{}", again.stderr);
    assert!(again.stderr.contains('K'), "{}", again.stderr);
    rig.occ_ok(&["session", "edit", "work", "--name", "job", "--", "sleep", "1000"]);
    rig.occ_ok(&["session", "start", "--name", "job", "--env", "K=x"]);
    let busy = rig.run_occ(&["session", "rm", "job"]);
    assert_eq!(busy.code(), 1);
    assert!(busy.stderr.contains("occ session kill"), "{}", busy.stderr);
    assert_eq!(rig.occ_ok(&["session", "kill", "job"]), "[h] job: exit 143\n");
    assert_eq!(rig.occ_ok(&["session", "rm", "job"]), "Removed: session 'job'.\n");
    assert_eq!(rig.occ_ok(&["session", "list"]), "No sessions.\n");
}

#[test]
fn a_program_gets_documents_and_is_told_of_controls_that_are_none() {
    let Some(far) = Far::start() else { return };
    far.begin("work", "echo one; echo err >&2; read x; printf 'got %s \\377' \"$x\"; exit 3");
    let mut ws = Ws::attach(&far.rig, "work");
    ws.control(&serde_json::json!({ "type": "stop" }));
    let told = std::iter::repeat_with(|| ws.event()).find(|event| event["type"] == "bad_control");
    assert!(told.unwrap()["detail"].as_str().unwrap().contains("stop"));
    // As with a command of exec.
    ws.control(&serde_json::json!({ "type": "signal", "signal": "SIGINT" }));
    let told = event(&mut ws, "bad_control");
    assert_eq!(told["detail"], "\"SIGINT\" is no signal");
    far.rig.occ_ok(&["session", "send", "work", "it"]);
    let attached = far.rig.run_occ(&["session", "attach", "-n", "work", "--from-start", "--json"]);
    assert_eq!(attached.code(), 3, "{attached:?}");
    let lines = attached.stdout.lines().map(|line| serde_json::from_str(line).unwrap());
    let lines: Vec<serde_json::Value> = lines.collect();
    let bytes = |stream: &str| {
        let of_stream = lines.iter().filter(|line| line["type"] == stream);
        let data = of_stream.map(|line| {
            serde_json::from_value::<occ_proto::exec::Bytes>(line["data"].clone()).unwrap().0
        });
        data.collect::<Vec<_>>().concat()
    };
    assert_eq!(bytes("stdout"), b"one\ngot it \xff");
    assert_eq!(bytes("stderr"), b"err\n");
    assert_eq!(lines.last().unwrap(), &serde_json::json!({ "type": "exit", "code": 3 }));
}

#[test]
fn output_that_the_end_of_the_daemon_cuts_off_does_not_look_whole() {
    let Some(far) = Far::start() else { return };
    far.begin("work", "echo ready; exec sleep 1000");
    for accept in ["application/octet-stream", "text/event-stream"] {
        let mut curl = std::process::Command::new("curl");
        curl.args(["-sSN", "-H", &format!("accept: {accept}"), "--unix-socket"]);
        curl.arg(far.rig.socket()).arg("http://localhost/v1/sessions/work/output?offset=0");
        let mut curl = curl.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(curl.stdout.take().unwrap()).lines();
        let is_there = |line: std::io::Result<String>| line.unwrap().contains("ready");
        assert!(lines.by_ref().any(is_there), "{accept}");
        far.rig.occ_ok(&["daemon", "restart"]);
        // "Transferred a partial file", as curl(1) has it.
        assert_eq!(exit_code(&mut curl), 18, "{accept}");
    }
}

#[test]
fn who_is_attached_and_breaks_the_protocol_is_told_why_it_ends() {
    let Some(far) = Far::start() else { return };
    far.begin("work", "exec sleep 1000");
    for broken in NO_MESSAGES {
        let mut ws = Ws::attach(&far.rig, "work");
        event(&mut ws, "attached");
        breaks_off(ws, broken, 2);
    }
    let mut ws = Ws::attach(&far.rig, "work");
    event(&mut ws, "attached");
    for bytes in [&[][..], &[7, 1]] {
        ws.bytes(bytes);
        let told = event(&mut ws, "bad_control");
        assert!(told["detail"].as_str().unwrap().contains("binary message"), "{told}");
    }
    assert!(far.rig.occ_ok(&["session", "list"]).contains("running"));
}

/// Reads on to an event of that type.
fn event(ws: &mut Ws, kind: &str) -> Value {
    std::iter::repeat_with(|| ws.event()).find(|event| event["type"] == kind).unwrap()
}

#[test]
fn a_client_that_closes_in_order_is_answered_and_nothing_is_kept_for_it() {
    let Some(far) = Far::start() else { return };
    far.begin("work", "exec sleep 1000");
    let mut ws = Ws::attach(&far.rig, "work");
    event(&mut ws, "attached");
    ws.close();
    ws.closed();
    // The program says nothing, and what followed it has ended all the same.
    no_channels(&far.rig, GUARD);
    let handed_over = || far.rig.http("POST", "/v1/hand-over", &[], None).json();
    wait_until("nothing in flight", GUARD, handed_over, |answer| answer["in_flight"] == 0);
}

#[test]
fn a_program_is_signalled_also_by_a_client_that_sends_input_after_its_end() {
    let Some(far) = Far::start() else { return };
    far.begin("work", "cat; exec sleep 1000");
    let mut ws = Ws::attach(&far.rig, "work");
    assert!(ws.input(b"last"));
    assert!(ws.input(b""));
    while event(&mut ws, "input")["taken"] != 4 {}
    // More than could wait for the host.
    for _ in 0..64 {
        assert!(ws.input(b"late"));
    }
    ws.control(&serde_json::json!({ "type": "signal", "signal": "TERM" }));
    assert_eq!(event(&mut ws, "exit")["code"], 143);
}

#[test]
fn no_name_is_no_session() {
    let rig = testkit::DaemonRig::new();
    for command in ["attach", "logs", "wait", "kill", "rm", "send"] {
        let output = rig.run_occ(&["session", command, ""]);
        assert_eq!(output.code(), 2, "{command} {}", output.stderr);
        assert!(output.stderr.contains("occ session list shows them"), "{}", output.stderr);
    }
}

#[test]
fn an_unknown_session_is_told_with_those_that_there_are() {
    let Some(far) = Far::start() else { return };
    far.begin("work", "exec sleep 1000");
    for command in [&["attach", "-n"][..], &["logs"], &["wait"], &["kill"], &["rm"], &["send"]] {
        let output = far.rig.run_occ(&[&["session"], command, &["other"]].concat());
        assert_eq!(output.code(), 1, "{command:?} {}", output.stderr);
        assert!(
            output.stderr.contains("'other'") && output.stderr.contains("work"),
            "{}",
            output.stderr
        );
        assert!(output.stderr.contains("hint: occ session list"), "{}", output.stderr);
    }
}

#[test]
fn a_durable_command_has_the_face_of_exec() {
    let Some(far) = Far::start() else { return };
    let run =
        |args: &[&str]| far.rig.run_occ(&[&["exec", "--durable", "--host", "h"], args].concat());
    let both = run(&["--", "sh", "-c", "echo out; echo err >&2; pwd; exit 9"]);
    assert_eq!(both.code(), 9);
    assert!(both.stdout.starts_with("out\n/"), "{}", both.stdout);
    assert_eq!(both.stderr, "err\n");
    assert_eq!(
        run(&["--cwd", "/", "--env", "K=a b", "--", "sh", "-c", "pwd; echo $K"]).stdout,
        "/\na b\n"
    );
    assert_eq!(run(&["--shell", "--", "echo $((6*7)) | cat"]).stdout, "42\n");
    let late = run(&["--timeout", "300ms", "--", "sleep", "1000"]);
    assert_eq!(late.code(), 124, "{}", late.stderr);
    let json = run(&["--json", "--", "sh", "-c", "printf x; exit 2"]);
    let document: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&document["stdout"], &document["code"]), (&"x".into(), &2.into()));
    assert_eq!(run(&["--", "/no/such/program"]).code(), 127);
    assert_eq!(far.rig.occ_ok(&["session", "list"]), "No sessions.\n");
}

#[test]
fn an_interrupt_goes_to_the_program_and_a_second_one_detaches() {
    let Some(far) = Far::start() else { return };
    let line = "trap 'echo caught' INT; echo ready; while :; do sleep 0.1; done";
    let mut occ = spawn(&far.rig, &["exec", "--durable", "--host", "h", "--", "sh", "-c", line]);
    let mut lines = BufReader::new(occ.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    signal(&occ, Signal::INT);
    assert_eq!(lines.next().unwrap().unwrap(), "caught");
    signal(&occ, Signal::INT);
    assert_eq!(exit_code(&mut occ), 130);
    let list = far.rig.occ_ok(&["session", "list"]);
    assert!(list.contains("running"), "{list}");
    // A program that does nothing about it ends by the first.
    let mut occ = spawn(
        &far.rig,
        &["exec", "--durable", "--host", "h", "--", "sh", "-c", "echo ready; exec sleep 1000"],
    );
    let mut lines = BufReader::new(occ.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    signal(&occ, Signal::INT);
    assert_eq!(exit_code(&mut occ), 130);
}

#[test]
fn input_and_output_outlive_a_daemon_that_is_killed() {
    let Some(mut far) = Far::start() else { return };
    far.begin("work", "exec tee /dev/stderr");
    let data = noise(3_000_000);
    far.link.set_bandwidth(Some(3_000_000));
    // The daemon is to be this test's.
    let mut occ = far.rig.occ(&["session", "attach", "work", "--eof"]);
    occ.env("OCC_NO_AUTOSTART", "1");
    let streams = occ.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut occ = streams.spawn().unwrap();
    let mut stdin = occ.stdin.take().unwrap();
    let mut stdout = occ.stdout.take().unwrap();
    let mut stderr = occ.stderr.take().unwrap();
    let (out, err) = std::thread::scope(|scope| {
        let sent = &data;
        scope.spawn(move || stdin.write_all(sent).unwrap());
        let out = scope.spawn(move || {
            let mut bytes = Vec::new();
            stdout.read_to_end(&mut bytes).unwrap();
            bytes
        });
        let err = scope.spawn(move || {
            let mut bytes = Vec::new();
            stderr.read_to_end(&mut bytes).unwrap();
            bytes
        });
        for kills in 1..=2 {
            let at = kills * 900_000;
            wait_until("input to come that far", GUARD, || far.link.bytes().0, |sent| *sent > at);
            far.rig.kill_daemon();
            far.rig.start_daemon(&[]);
        }
        far.link.set_bandwidth(None);
        (out.join().unwrap(), err.join().unwrap())
    });
    let code = exit_code(&mut occ);
    assert_eq!(code, 0, "{}", String::from_utf8_lossy(&err[err.len().saturating_sub(300)..]));
    assert_eq!((out.len(), sum(&out)), (data.len(), sum(&data)));
    assert_eq!((err.len(), sum(&err)), (data.len(), sum(&data)));
}

#[test]
fn whoever_is_attached_waits_for_a_daemon_that_was_stopped_and_starts_none() {
    let Some(mut far) = Far::start() else { return };
    far.begin("work", "echo before; read x; echo after");
    let mut occ = spawn(&far.rig, &["session", "attach", "work"]);
    let mut lines = BufReader::new(occ.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "before");
    far.rig.terminate_daemon();
    far.rig.start_daemon(&[]);
    far.rig.occ_ok(&["session", "send", "work", "x"]);
    assert_eq!(lines.next().unwrap().unwrap(), "after");
    assert_eq!(exit_code(&mut occ), 0);
}

#[test]
fn a_session_on_this_machine_is_one_as_well() {
    let mut rig = DaemonRig::new();
    rig.start_daemon(&[]);
    let dir = rig.root().join("here");
    std::fs::create_dir(&dir).unwrap();
    let line = "pwd; echo $HERE; read x; echo $x; exec sleep 1000";
    let start = ["session", "start", "--local", "--name", "work", "--", "sh", "-c", line];
    let mut occ = rig.occ(&start);
    assert!(occ.current_dir(&dir).env("HERE", "ours").status().unwrap().success());
    rig.kill_daemon();
    rig.start_daemon(&[]);
    rig.occ_ok(&["session", "send", "work", "hello"]);
    let expected = format!("{}\nours\nhello\n", dir.display());
    wait_until("its words", GUARD, || rig.occ_ok(&["session", "logs", "work"]), |o| *o == expected);
    let found = rig.occ_ok(&["session", "list", "--local"]);
    assert!(found.contains("local") && found.contains("running"), "{found}");
    assert_eq!(rig.occ_ok(&["session", "kill", "work"]), "[local] work: exit 143\n");
    rig.occ_ok(&["session", "rm", "work"]);
    assert_eq!(
        rig.occ(&["exec", "--durable", "--local", "--", "sh", "-c", "exit 5"])
            .status()
            .unwrap()
            .code(),
        Some(5)
    );
}

/// A session with a terminal on a host, typed to, cut off, and attached to again.
fn keeps_its_screen(far: &Far) {
    let line = "test -t 0 && echo screen; read -r x; echo got $x; read y; exit 6";
    let start = ["session", "start", "--host", "h", "--name", "work", "--tty", "--"];
    far.rig.occ_ok(&[&start[..], &["sh", "-c", line]].concat());
    let logs = || far.rig.occ_ok(&["session", "logs", "work"]);
    wait_until("its screen", GUARD, logs, |out| out.contains("screen"));
    let mut occ = far.rig.occ(&["session", "attach", "work"]);
    occ.env("TERM", "xterm");
    let mut terminal = testkit::Terminal::control(&occ, "");
    terminal.resize(24, 80);
    terminal.wait_for("screen");
    terminal.type_text("hello\r");
    terminal.wait_for("got hello");
    far.link.reset_all();
    terminal.wait_for("paused");
    // The screen as it was, and its keys.
    terminal.type_text("\r");
    assert_eq!(terminal.finish().1, 6);
    // Lines that are sent are typed, whatever is in them.
    let odd = "^A \\ $HOME '\" ~x";
    let line = "stty -echo; echo ready; for i in 1 2 3 4 5; do read -r x; echo \"got $x\"; done";
    let start = ["session", "start", "--host", "h", "--name", "typed", "--tty", "--"];
    far.rig.occ_ok(&[&start[..], &["sh", "-c", line]].concat());
    let logs = || far.rig.occ_ok(&["session", "logs", "typed"]);
    wait_until("it to be ready", GUARD, logs, |out| out.contains("ready"));
    let sessions = far.sshd.dir().join("cache/occ/sessions");
    let log = sessions.join(&far.look("typed").info.id).join("tty");
    for line in [odd, "two;", ";", "three\\;", "four;;"] {
        // Screen opens its log anew when its times are others than they were, which happens by itself, too.
        let touched = std::process::Command::new("touch").args(["-d", "@0"]).arg(&log).status();
        assert!(touched.unwrap().success(), "{}", log.display());
        far.rig.occ_ok(&["session", "send", "typed", line]);
    }
    let waited = far.rig.run_occ(&["session", "wait", "typed"]);
    assert_eq!(waited.code(), 0, "{}", waited.stderr);
    let said: Vec<String> = logs().lines().map(|line| line.trim().to_owned()).collect();
    for expected in [odd, "two;", ";", "three\\;", "four;;"] {
        assert!(said.contains(&format!("got {expected}")), "{said:?}");
    }
}

#[test]
fn a_host_that_is_down_is_waited_for_by_whoever_wishes_it() {
    let Some(far) = Far::start() else { return };
    far.begin("work", "echo out; exec sleep 1000");
    far.link.refuse(true);
    far.link.reset_all();
    let failed = far.rig.run_occ(&["session", "attach", "-n", "work"]);
    assert_eq!(failed.code(), 5, "{}", failed.stderr);
    let hint = "hint: occ session attach --wait 10m work";
    assert!(failed.stderr.contains(hint), "{}", failed.stderr);
    let attempts = || status(&far.rig).attempt;
    let dials = attempts();
    let mut occ = spawn(&far.rig, &["session", "attach", "-n", "--wait", "10m", "work"]);
    wait_until("it to be dialled", GUARD, attempts, |now| *now >= dials + 3);
    far.link.refuse(false);
    let mut lines = BufReader::new(occ.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "out");
    signal(&occ, Signal::TERM);
    exit_code(&mut occ);
}

#[test]
fn who_is_attached_waits_for_a_host_that_is_down_also_at_the_next_daemon() {
    let Some(mut far) = Far::start() else { return };
    let go = far.rig.root().join("go");
    let line =
        format!("echo one; until [ -e {} ]; do sleep 0.05; done; echo two; exit 3", go.display());
    far.begin("work", &line);
    let mut occ = spawn(&far.rig, &["session", "attach", "-n", "work"]);
    let mut lines = BufReader::new(occ.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "one");
    far.link.refuse(true);
    far.link.reset_all();
    far.rig.kill_daemon();
    let root = far.rig.root().display().to_string();
    let daemon = || testkit::proc::marked(&root).into_iter().find(|it| it.name() == "occd");
    wait_for("another daemon", GUARD, daemon);
    // More often than for somebody who has just come.
    let attempts = || {
        let answer =
            testkit::http::request(&far.rig.socket(), "GET", "/v1/hosts/h", &[], None).ok()?;
        answer.json()["attempt"].as_u64()
    };
    wait_until("it to be dialled", GUARD, attempts, |count| count.is_some_and(|count| count > 5));
    far.link.refuse(false);
    std::fs::write(&go, "").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "two");
    assert_eq!(exit_code(&mut occ), 3);
}

/// Attaches to the screen of a session `work`, which says what it reads, and ends with 6 at `end`.
fn at_a_screen(far: &Far) -> testkit::Terminal {
    let line = "while read -r x; do echo got $x; test $x = end && exit 6; done";
    let start = ["session", "start", "--host", "h", "--name", "work", "--tty", "--"];
    far.rig.occ_ok(&[&start[..], &["sh", "-c", line]].concat());
    let mut occ = far.rig.occ(&["session", "attach", "work"]);
    occ.env("TERM", "xterm");
    let mut terminal = testkit::Terminal::control(&occ, "");
    terminal.resize(24, 80);
    terminal.type_text("first\r");
    terminal.wait_for("got first");
    terminal
}

#[test]
fn a_screen_outlives_daemons_that_are_killed() {
    let Some((mut far, _dir)) = far_with(&[&POSIX[..], &["tmux"]].concat()) else { return };
    let mut terminal = at_a_screen(&far);
    // The next one is started by whoever is attached, and killed as soon as it runs, or when it is of use again.
    let root = far.rig.root().display().to_string();
    let is_daemon = |process: &Process| process.name() == "occd";
    let running = || testkit::proc::marked(&root).into_iter().find(is_daemon);
    far.rig.kill_daemon();
    for round in 0..6 {
        let daemon = wait_for("another daemon", GUARD, running);
        if round % 2 == 1 {
            terminal.type_text(&format!("{round}\r"));
            terminal.wait_for(&format!("got {round}"));
        }
        daemon.signal(Signal::KILL);
        wait_until("its end", GUARD, || daemon.is_alive(), |alive| !alive);
    }
    // What is typed before the loss is seen went to the one that was killed, as with ssh.
    wait_for("another daemon", GUARD, running);
    terminal.type_text("end\r");
    let (screen, code) = terminal.finish();
    assert_eq!(code, 6, "{screen}");
    assert!(screen.contains("[work] paused: occd went away"), "{screen}");
    assert!(!screen.contains("Outcome unknown"), "{screen}");
}

#[test]
fn who_looks_at_a_screen_starts_no_daemon_that_somebody_stops() {
    let Some((mut far, _dir)) = far_with(&[&POSIX[..], &["tmux"]].concat()) else { return };
    far.rig.set_env("OCCD_BIN", testkit::daemon::daemon_binary());
    let mut terminal = at_a_screen(&far);
    let stopped = far.rig.occ_ok(&["daemon", "stop"]);
    assert!(!stopped.contains("started it again"), "{stopped}");
    terminal.wait_for("[work] paused: ");
    assert_eq!(far.rig.run_occ(&["daemon", "status"]).code(), 3);
    // With the one that somebody starts it goes on.
    far.rig.occ_ok(&["daemon", "start"]);
    terminal.type_text("end\r");
    let (screen, code) = terminal.finish();
    assert_eq!(code, 6, "{screen}");
    far.rig.occ_ok(&["daemon", "stop"]);
}

/// A host with these programs and no others.
pub(crate) fn far_with(tools: &[&str]) -> Option<(Far, tempfile::TempDir)> {
    if !testkit::RealSshd::require() {
        return None;
    }
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    for tool in tools {
        let found = ["/bin", "/usr/bin"].map(|bin| std::path::Path::new(bin).join(tool));
        let found = found.into_iter().find(|path| path.exists())?;
        std::os::unix::fs::symlink(found, dir.path().join(tool)).unwrap();
    }
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let path = dir.path().display().to_string();
    let far = Far::at(testkit::RealSshd::builder().env("PATH", &path).start());
    Some((far, dir))
}

pub(crate) const POSIX: [&str; 23] = [
    "sh", "id", "mkdir", "mkfifo", "cat", "ls", "dd", "tail", "head", "rm", "mv", "ln", "sleep",
    "find", "grep", "ps", "awk", "stty", "env", "kill", "wc", "test", "true",
];

#[test]
fn a_session_in_a_terminal_keeps_its_screen_through_a_cut() {
    let Some((far, _dir)) = far_with(&[&POSIX[..], &["tmux"]].concat()) else { return };
    keeps_its_screen(&far);
}

#[test]
fn screen_serves_where_there_is_no_tmux() {
    let Some((far, _dir)) = far_with(&[&POSIX[..], &["screen"]].concat()) else { return };
    keeps_its_screen(&far);
}

#[test]
fn a_host_with_neither_tmux_nor_screen_says_so() {
    let Some((far, _dir)) = far_with(&["sh", "id", "mkdir", "cat", "ls"]) else { return };
    let output = far.rig.run_occ(&["session", "start", "--host", "h", "--tty", "--", "top"]);
    assert_eq!(output.code(), 1);
    assert!(output.stderr.contains("neither tmux nor screen"), "{}", output.stderr);
}

#[test]
fn the_ports_whose_urls_a_session_prints_are_forwarded_as_long_as_it_runs() {
    let Some(mut far) = Far::start() else { return };
    let port = echo_server();
    // The port is this machine's as well, and taken.
    let taken = port.to_string();
    let script = format!(
        "printf 'ready at \\033[1mhttp://localhost:{taken}/app\\033[0m\\n' >&2; read x; echo http://localhost:{taken}/; read x"
    );
    let start = ["session", "start", "--host", "h", "--name", "web", "--forward-urls", "--"];
    far.rig.occ_ok(&[&start[..], &["sh", "-c", &script]].concat());
    let mut occ = spawn(&far.rig, &["session", "attach", "web"]);
    let mut said = BufReader::new(occ.stderr.take().unwrap()).lines().map(Result::unwrap);
    let line = said.find(|line| line.contains(" is http://localhost:")).unwrap();
    let here = line.split_once(" is http://localhost:").unwrap().1;
    let here: u16 = here.split_once("/app on this machine").unwrap().0.parse().unwrap();
    assert!(here > port && here <= port + 20, "{line}");
    let answers = |here| {
        let mut client = std::net::TcpStream::connect(("127.0.0.1", here)).ok()?;
        client.write_all(b"hello").ok()?;
        client.shutdown(std::net::Shutdown::Write).ok()?;
        let mut answer = String::new();
        client.read_to_string(&mut answer).ok()?;
        Some(answer)
    };
    assert_eq!(answers(here).as_deref(), Some("hello"));
    let forwards = || far.rig.occ_ok(&["forward", "list", "--json"]);
    let id = far.look("web").info.id;
    assert!(forwards().contains(&format!("\"session\":\"{id}\"")), "{}", forwards());
    drop(said);
    occ.kill().unwrap();
    occ.wait().unwrap();

    // The next daemon goes on with it, and does not make another.
    far.rig.kill_daemon();
    far.rig.start_daemon(&[]);
    far.rig.occ_ok(&["session", "send", "web", "again"]);
    let printed = || far.rig.occ_ok(&["session", "logs", "web"]);
    wait_until("the URL again", GUARD, printed, |printed| printed.contains("http"));
    wait_until("an answer", GUARD, || answers(here), |a| a.as_deref() == Some("hello"));
    far.rig.occ_ok(&["session", "kill", "web"]);
    let list = || -> occ_proto::forward::ForwardList {
        serde_json::from_str(&far.rig.occ_ok(&["forward", "list", "--json"])).unwrap()
    };
    wait_until("no forward", GUARD, list, |list| list.forwards.is_empty());
    assert_eq!(answers(here), None);
    // Nobody asked for it here.
    far.begin("quiet", "echo http://localhost:1/");
    far.wait_for_end("quiet");
    assert_eq!(list().forwards.len(), 0);
}

#[test]
fn a_durable_command_ends_when_nobody_reads_it_any_more() {
    let Some(far) = Far::start() else { return };
    let mut occ = spawn(&far.rig, &["exec", "--durable", "--host", "h", "--", "yes"]);
    let mut out = occ.stdout.take().unwrap();
    let mut line = [0; 2];
    out.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"y\n");
    drop(out);
    exit_code(&mut occ);
    let list = far.rig.occ_ok(&["session", "list", "--json"]);
    let list: Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list["sessions"], serde_json::json!([]), "{list}");
}

#[test]
fn a_restart_that_fails_leaves_what_there_was() {
    let Some(far) = Far::start() else { return };
    let rig = &far.rig;
    rig.occ_ok(&["session", "start", "--host", "h", "--name", "keep", "--", "echo", "precious"]);
    far.wait_for_end("keep");
    rig.occ_ok(&["session", "edit", "keep", "--cwd", "/no/such"]);
    let failed = rig.run_occ(&["session", "start", "--name", "keep"]);
    assert_eq!(failed.code(), 1, "{}", failed.stderr);
    assert_eq!(rig.occ_ok(&["session", "logs", "keep"]), "precious\n");
    let waited = rig.run_occ(&["session", "wait", "keep"]);
    assert_eq!(waited.code(), 0, "{}", waited.stderr);
    // A host without any, and one that is no more.
    rig.occ_ok(&["session", "rm", "keep"]);
    assert!(rig.occ_ok(&["session", "list", "--host", "h"]).contains("No sessions"));
    rig.occ_ok(&["session", "start", "--host", "h", "--name", "orphan", "--", "true"]);
    far.wait_for_end("orphan");
    // A host that is down.
    far.link.refuse(true);
    far.link.reset_all();
    let down = rig.run_occ(&["session", "rm", "orphan"]);
    assert!(down.code() == 5 && down.stderr.contains("rm --forget orphan"), "{down:?}");
    far.link.refuse(false);
    rig.occ_ok(&["host", "remove", "h", "--force"]);
    let stuck = rig.run_occ(&["session", "rm", "orphan"]);
    assert!(stuck.stderr.contains("rm --forget"), "{}", stuck.stderr);
    rig.occ_ok(&["session", "rm", "--forget", "orphan"]);
}

#[test]
fn input_that_is_sent_outlives_a_daemon_that_is_killed() {
    let Some(mut far) = Far::start() else { return };
    far.begin("work", "exec sha256sum");
    let data = noise(3_000_000);
    far.link.set_bandwidth(Some(3_000_000));
    let mut occ = far.rig.occ(&["session", "send", "work", "--eof"]);
    occ.env("OCC_NO_AUTOSTART", "1").stdin(Stdio::piped());
    let mut occ = occ.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = occ.stdin.take().unwrap();
    std::thread::scope(|scope| {
        let sent = &data;
        scope.spawn(move || stdin.write_all(sent).unwrap());
        wait_until("half of it", GUARD, || far.link.bytes().0, |sent| *sent > 1_500_000);
        far.rig.kill_daemon();
        far.rig.start_daemon(&[]);
        far.link.set_bandwidth(None);
    });
    assert_eq!(exit_code(&mut occ), 0);
    far.wait_for_end("work");
    assert_eq!(far.output("work", 0), format!("{}  -\n", sum(&data)).as_bytes());
}
