//! This machine is a place to run commands on like a host: the same results, errors, streams, limits and signals.

use std::io::Write as _;
use std::process::Stdio;

use occ_proto::exec::ExecResult;
use serde_json::{Value, json};
use testkit::{DaemonRig, RealSshd, proc};

use crate::support::{eventually, sshd};

fn started(mut rig: DaemonRig) -> DaemonRig {
    rig.start_daemon(&[]);
    rig
}

/// Runs a command at a place through the API.
fn at(rig: &DaemonRig, place: &str, request: &Value) -> ExecResult {
    let path = format!("/v1/hosts/{place}/exec");
    let answer = rig.http("POST", &path, &[], Some(request.clone()));
    assert_eq!(answer.status, 200, "{place}: {}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

/// Returns what may be compared: everything but the time.
fn told(result: ExecResult) -> (Value, Option<String>) {
    let stderr = result.stderr.clone();
    let mut exit = serde_json::to_value(&result).unwrap();
    for differs in ["duration_ms", "stderr", "stderr_bytes", "new_host_key"] {
        exit.as_object_mut().unwrap().remove(differs);
    }
    (exit, stderr)
}

fn both(f: impl Fn(&DaemonRig, &RealSshd, &dyn Fn(&Value) -> [ExecResult; 2])) {
    let Some((sshd, rig)) = sshd() else { return };
    let run = |request: &Value| ["h", "local"].map(|place| at(&rig, place, request));
    f(&rig, &sshd, &run);
}

#[test]
fn a_host_and_this_machine_give_the_same_results() {
    both(|rig, _, run| {
        let dir = rig.root().join("a place");
        std::fs::create_dir(&dir).unwrap();
        let dir = dir.to_str().unwrap();
        let requests = [
            json!({"argv": ["printf", "%s|", "a b", "", "$HOME", "*", "it's", "two\nlines", {"b64": "/w=="}]}),
            json!({"argv": ["sh", "-c", "cat; echo err >&2; exit 7"], "stdin": "given"}),
            json!({"argv": ["pwd"], "cwd": dir}),
            json!({"argv": ["sh", "-c", "echo $A-$B"], "env": {"A": "1 2", "B": "'"}}),
            json!({"argv": ["/bin/sh", "-c", "echo ${HOME:-none} $ONLY"], "env": {"ONLY": "this"}, "clear_env": true}),
            json!({"shell": "echo a | tr a b; exit 3"}),
            json!({"shell": "echo $A", "env": {"A": "x"}, "cwd": "/"}),
            json!({"argv": ["sh", "-c", "kill -TERM $$"]}),
            json!({"argv": ["no-such-program-here"]}),
            json!({"argv": ["/etc/passwd"]}),
            json!({"argv": ["sleep", "60"], "timeout_ms": 300}),
            json!({"argv": ["sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"], "timeout_ms": 300}),
            // Something holds the output after the program's end.
            json!({"argv": ["sh", "-c", "echo done; sleep 60 &"]}),
            json!({"argv": ["sh", "-c", "(sleep 2; echo late) & echo early"], "wait_output": true}),
            json!({"argv": ["sh", "-c", "head -c 3000000 /dev/zero"]}),
        ];
        for request in requests {
            let [host, local] = run(&request).map(told);
            assert_eq!(host.0, local.0, "{request}");
            assert_eq!(
                host.1.is_some_and(|e| !e.is_empty()),
                local.1.is_some_and(|e| !e.is_empty())
            );
        }
    });
}

#[test]
fn what_is_not_there_is_named() {
    both(|_, _, run| {
        for result in run(&json!({"argv": ["no-such-program-here"]})) {
            assert_eq!(result.exit.code, Some(127));
            assert!(result.stderr.unwrap().contains("no-such-program-here"));
        }
        let ways = [json!({"argv": ["pwd"]}), json!({"shell": "pwd"})];
        for (cwd, shown, why) in [
            ("/no/such/place", "/no/such/place", "no such directory"),
            ("/etc/passwd", "/etc/passwd", "not a directory"),
            // No terminal acts on its name, whether it is written out or for a shell's echo to make.
            ("/no/\u{1b}[31m\u{9b}1m\n", "/no/\u{fffd}[31m\u{fffd}1m ", "no such directory"),
            (r"/no/\033[31m", r"/no/\033[31m", "no such directory"),
        ] {
            for way in &ways {
                let mut request = way.clone();
                request["cwd"] = json!(cwd);
                let mut told: Vec<String> = run(&request)
                    .into_iter()
                    .map(|result| {
                        assert_eq!(result.exit.code, Some(1), "{result:?}");
                        result.stderr.unwrap()
                    })
                    .collect();
                told.sort();
                let on = |place: &str| format!("occ: {shown} on {place}: {why}\n");
                assert_eq!(told, [on("h"), on("this machine")]);
            }
        }
        let [_, local] = run(&json!({"argv": ["no\u{1b}[31m"]}));
        assert_eq!(local.stderr.unwrap(), "no\u{fffd}[31m: not found\n");
    });
}

#[test]
fn occ_runs_it_here_where_it_is_typed() {
    let rig = started(DaemonRig::new());
    let dir = rig.root().join("here");
    std::fs::create_dir(&dir).unwrap();
    let mut occ = rig.occ(&[
        "exec",
        "--local",
        "--env",
        "B=2",
        "--",
        "sh",
        "-c",
        "pwd; echo $A $B; cat; exit 9",
    ]);
    occ.current_dir(&dir).env("A", "1").env("OCC_SSH_KEY", "");
    let mut child = occ.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"typed\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let expected = format!("{}\n1 2\ntyped\n", dir.display());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    assert_eq!(output.status.code(), Some(9));
}

#[test]
fn what_is_the_daemons_alone_is_not_given_to_programs() {
    let mut rig = DaemonRig::new();
    // A datagram socket that nobody reads.
    let notify = rig.root().join("notify");
    let _socket = std::os::unix::net::UnixDatagram::bind(&notify).unwrap();
    rig.set_env("NOTIFY_SOCKET", notify);
    let rig = started(rig);
    let result = at(&rig, "local", &json!({"argv": ["env"]}));
    let env = result.stdout.unwrap();
    assert!(env.contains("PATH="), "{env}");
    for name in ["NOTIFY_SOCKET", "OCC_SSH_KEY", "LISTEN_FDS"] {
        assert!(!env.contains(name), "{env}");
    }
}

#[test]
fn a_program_ends_with_its_client_and_with_the_daemon() {
    let mut rig = started(DaemonRig::new());
    let is_there = |mark: &str| proc::marked(mark).iter().any(|process| process.name() == "sh");
    let start = |mark: &str| {
        let line = format!("echo ready; sleep 77 # {mark}");
        let mut occ = rig.occ(&["exec", "--local", "--", "sh", "-c", &format!("{line}\n:")]);
        let mut child = occ.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        child
    };
    let (one, two) = (rig.root().join("one"), rig.root().join("two"));
    let (one, two) = (one.to_str().unwrap(), two.to_str().unwrap());
    let mut killed = start(one);
    assert!(is_there(one));
    killed.kill().unwrap();
    killed.wait().unwrap();
    eventually("what is to come", || !is_there(one));

    let mut left = start(two);
    rig.terminate_daemon();
    eventually("what is to come", || !is_there(two));
    let _ = left.wait().unwrap();
}

#[test]
fn a_reader_that_stops_holds_the_program_and_costs_no_memory() {
    let rig = started(DaemonRig::new());
    let mut occ = rig.occ(&["exec", "--local", "--", "yes"]);
    let mut child = occ.stdout(Stdio::piped()).spawn().unwrap();
    // The program stands still once all the pipes are full.
    eventually("a program that waits", || {
        let programs = rig.daemon().descendants();
        programs.iter().any(|program| program.name() == "yes" && program.is_waiting())
    });
    assert!(rig.daemon_rss_kib() < 64 * 1024, "{} KiB", rig.daemon_rss_kib());
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("what is to come", || rig.daemon_children().is_empty());
}
