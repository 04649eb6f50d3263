//! `occ api`: the API in lines of JSON, as docs/api.md says, whatever happens to the daemon or to the reader.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::mpsc;
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use occ_proto::exec::NDJSON;
use serde_json::{Value, json};
use testkit::DaemonRig;
use testkit::daemon::Target;
use testkit::proc::{Process, Signal};
use testkit::wait::blocking::{wait_for, wait_until};

use crate::files::{Shared, sshd};
use crate::support::{GUARD, eventually, exit_code, no_programs, remote_program};

/// A running `occ api`.
struct Lines {
    child: Child,
    input: Option<ChildStdin>,
    said: mpsc::Receiver<String>,
    /// Said already, and not asked for yet.
    kept: Vec<String>,
}

impl Lines {
    fn start(rig: &DaemonRig) -> Self {
        let (mut lines, output) = Self::unread(rig);
        let (send, said) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                if send.send(line.unwrap()).is_err() {
                    return;
                }
            }
        });
        lines.said = said;
        lines
    }

    /// The same, and nobody reads what it says.
    fn unread(rig: &DaemonRig) -> (Self, ChildStdout) {
        let mut occ = rig.occ(&["api"]);
        let mut child = occ.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take(), child.stdout.take().unwrap());
        (Self { child, input, said: mpsc::channel().1, kept: Vec::new() }, output)
    }

    fn line(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }

    fn ask(&mut self, line: Value) {
        self.line(&line.to_string());
    }

    /// Returns the next line that is wanted; all others stay for later.
    fn next(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        if let Some(found) = self.kept.iter().position(|line| wanted(line)) {
            return self.kept.remove(found);
        }
        loop {
            let line = self.said.recv_timeout(GUARD);
            let line = line.unwrap_or_else(|_| panic!("no {what}, but {:#?}", self.kept));
            if wanted(&line) {
                return line;
            }
            self.kept.push(line);
        }
    }

    /// Returns the next line of a request.
    fn of(&mut self, id: i64) -> Value {
        let start = format!("\"id\":{id}");
        let line = self
            .next(&start, |line| serde_json::from_str::<Value>(line).unwrap()["id"] == json!(id));
        serde_json::from_str(&line).unwrap()
    }

    fn get(&mut self, id: i64, path: &str) -> Value {
        self.ask(json!({"id": id, "method": "GET", "path": path}));
        self.of(id)
    }

    /// Ends the input and returns the exit code.
    fn finish(mut self) -> i32 {
        self.input = None;
        exit_code(&mut self.child)
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns whether a line is as the document shows it, where `…` is anything.
fn fits(shown: &str, line: &str) -> bool {
    let mut parts = shown.split('…');
    let mut rest = match line.strip_prefix(parts.next().unwrap()) {
        Some(rest) => rest,
        None => return false,
    };
    let mut last = "";
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
        last = part;
    }
    rest.is_empty() || line.ends_with(last) && shown.contains('…')
}

#[test]
fn a_path_that_is_too_long_is_told_as_over_http() {
    let mut rig = DaemonRig::new();
    rig.start_daemon(&[]);
    let mut lines = Lines::start(&rig);
    // The last that hyper reads, and the next.
    for (length, status, code) in [(65_534, 404, "not_found"), (65_535, 414, "too_large")] {
        let path = format!("/{}", "a".repeat(length - 1));
        let over_http = rig.http("GET", &path, &[], None).json();
        let said = lines.get(1, &path);
        for problem in [&over_http, &said["body"]] {
            assert_eq!((&problem["status"], &problem["code"]), (&json!(status), &json!(code)));
        }
        assert_eq!(said["body"]["title"], over_http["title"], "{said}");
        let detail = said["body"]["detail"].as_str().unwrap();
        assert!(status != 414 || detail.contains("longer than 64 KiB"), "{detail}");
    }
    assert_eq!(lines.finish(), 0);
}

#[test]
fn the_document_is_what_it_does() {
    let Some((sshd, rig)) = sshd() else { return };
    rig.add_host("prod-1", Target::from(&sshd));
    let shared = Shared::new();
    let document = include_str!("../../../docs/api.md");
    let section = document.split("\n## JSON lines\n").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let mut lines = Lines::start(&rig);
    let mut played = 0;
    for shown in section.lines() {
        let shown = shown.replace("/srv/app", shared.path().to_str().unwrap());
        if let Some(asked) = shown.strip_prefix("→ ") {
            lines.line(asked);
        } else if let Some(said) = shown.strip_prefix("← ") {
            let line = lines.next(said, |line| fits(said, line));
            // What came before it is not said after it.
            lines.kept.clear();
            assert!(serde_json::from_str::<Value>(&line).is_ok(), "{line}");
            played += 1;
        }
    }
    assert!(played >= 25, "{played}");
    assert_eq!(std::fs::read(shared.at("notes.txt")).unwrap(), b"one\n\xff2\n");
    assert_eq!(lines.finish(), 0);
    // The help shows lines that work, too.
    let help = rig.occ_ok(&["api", "--help"]);
    let examples: Vec<&str> =
        help.lines().filter_map(|l| l.trim().strip_prefix("echo '")?.split('\'').next()).collect();
    assert_eq!(examples.len(), 3, "{help}");
    let mut lines = Lines::start(&rig);
    for example in examples {
        lines.line(example);
        let answer = lines.of(1);
        assert_eq!(answer["status"], 200, "{answer}");
        if answer.get("stream").is_some() {
            lines.ask(json!({"cancel": 1}));
            while lines.of(1).get("end").is_none() {}
        }
    }
}

#[test]
fn many_requests_are_in_flight_and_a_bad_line_or_a_slow_one_holds_up_none() {
    let Some((sshd, rig)) = sshd() else { return };
    let mut lines = Lines::start(&rig);
    let exec = |id: i64, line: &str| {
        let body = json!({"shell": line});
        json!({"id": id, "method": "POST", "path": "/v1/hosts/h/exec", "body": body})
    };
    lines.ask(exec(1000, "exec sleep 1000"));
    remote_program(&sshd, "sleep");
    for id in 0..40 {
        lines.ask(exec(id, &format!("echo {id}")));
        lines.line("{\"id\":1,");
        lines.line(&format!("{{\"id\":{},\"method\":\"GET\",\"path\":\"/healthz\"}}", 100 + id));
    }
    for id in (0..40).rev() {
        assert_eq!(lines.of(id)["body"]["stdout"], format!("{id}\n"));
        assert_eq!(lines.of(100 + id)["status"], 200);
    }
    let told = (0..40).map(|_| {
        let bad = lines.next("a problem", |line| line.starts_with("{\"id\":null"));
        let bad: Value = serde_json::from_str(&bad).unwrap();
        assert_eq!((&bad["id"], &bad["status"]), (&Value::Null, &json!(400)), "{bad}");
        assert_eq!(bad["body"]["position"]["column"], 8, "{bad}");
        bad["body"]["position"]["line"].as_u64().unwrap()
    });
    // In any order, as all answers: each names its line.
    let told: BTreeSet<u64> = told.collect();
    assert_eq!(told, (0..40).map(|n| 3 + 3 * n).collect());
    // An ID that is in flight.
    lines.ask(exec(1000, "true"));
    let bad = lines.next("a refusal", |line| line.contains("request in flight"));
    assert!(bad.contains("\"id\":null"), "{bad}");
    // The same of a line that cannot be one: that request goes on.
    lines.ask(json!({"id": 1000, "method": "GET"}));
    let bad = lines.next("a refusal", |line| line.contains("`path` is missing"));
    assert!(bad.contains("\"id\":null"), "{bad}");
    lines.ask(json!({"id": 1, "cancel": 1000}));
    assert_eq!(lines.of(1), json!({"id": 1, "cancelled": true}));
    let cancelled = lines.of(1000);
    assert_eq!(cancelled["body"]["code"], "cancelled", "{cancelled}");
    no_programs(&sshd, GUARD);
    lines.ask(json!({"id": 2, "cancel": 1000}));
    assert_eq!(lines.of(2), json!({"id": 2, "cancelled": false}));
    lines.ask(json!({"id": 1000, "send": "x"}));
    assert_eq!(lines.of(1000), json!({"id": 1000, "dropped": true}));
    // What is in flight at the end of the input is answered.
    lines.ask(exec(3, "cat /dev/null; sleep 0.2; echo done"));
    lines.input = None;
    assert_eq!(lines.of(3)["body"]["stdout"], "done\n");
    assert_eq!(exit_code(&mut lines.child), 0);
}

#[test]
fn a_daemon_that_goes_away_ends_what_is_in_flight_and_the_next_request_starts_another() {
    let Some((sshd, mut rig)) = sshd() else { return };
    let mut lines = Lines::start(&rig);
    lines.ask(json!({"id": 1, "method": "GET", "path": "/v1/events"}));
    assert_eq!(lines.of(1)["stream"], "events");
    assert_eq!(lines.of(1)["event"], "snapshot");
    let exec = json!({"argv": ["sleep", "1000"]});
    lines.ask(json!({"id": 2, "method": "POST", "path": "/v1/hosts/h/exec", "body": exec}));
    remote_program(&sshd, "sleep");
    lines.ask(json!({"id": 3, "method": "GET", "path": "/v1/prompts?client=a", "headers": {"accept": NDJSON}}));
    assert_eq!(lines.of(3)["stream"], "lines");
    rig.kill_daemon();
    let end = loop {
        let line = lines.of(1);
        if line.get("end").is_some() {
            break line;
        }
    };
    assert_eq!(end["problem"]["code"], "daemon_unreachable", "{end}");
    assert_eq!(end["problem"]["retryable"], true, "{end}");
    let unknown = lines.of(2);
    assert_eq!(
        (&unknown["status"], &unknown["body"]["code"]),
        (&json!(502), &json!("outcome_unknown"))
    );
    assert_eq!(lines.of(3)["problem"]["code"], "daemon_unreachable");
    // What only looks need not start another.
    lines.ask(json!({"id": 8, "method": "GET", "path": "/healthz", "start": false}));
    assert_eq!(lines.of(8)["body"]["code"], "daemon_not_running");
    // Many at once start one.
    for id in 10..30 {
        lines.ask(json!({"id": id, "method": "GET", "path": "/v1/version"}));
    }
    let pids: Vec<Value> = (10..30).map(|id| lines.of(id)["body"]["pid"].clone()).collect();
    assert!(pids[0].is_u64() && pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
    let body = json!({"argv": ["echo", "again"]});
    lines.ask(json!({"id": 7, "method": "POST", "path": "/v1/hosts/h/exec", "body": body}));
    assert_eq!(lines.of(7)["body"]["stdout"], "again\n");
    assert_eq!(lines.finish(), 0);
}

#[test]
fn what_was_not_begun_or_may_be_asked_again_is_asked_of_the_next_daemon() {
    let Some((_sshd, mut rig)) = sshd() else { return };
    rig.kill_daemon();
    let shared = Shared::new();
    let (done, file) = (shared.at("done"), shared.at("file"));
    let run = json!({"shell": format!("echo once >>{}", done.display())});
    let (exec, put) = ("/v1/hosts/h/exec", format!("/v1/hosts/local/files/{}", file.display()));
    let key = json!({"idempotency-key": "deploy-17"});
    let cat = json!({"argv": ["cat", "/dev/null"]});
    let mut lines = Lines::start(&rig);
    for (id, request) in [
        (1, json!({"method": "GET", "path": "/v1/hosts"})),
        (2, json!({"method": "HEAD", "path": "/v1/version"})),
        (3, json!({"method": "GET", "path": "/v1/events"})),
        (4, json!({"method": "POST", "path": exec, "body": run})),
        (5, json!({"method": "POST", "path": exec, "body": run, "headers": key})),
        (6, json!({"method": "PUT", "path": put, "upload": true})),
        (7, json!({"method": "GET", "path": exec, "websocket": true, "body": cat})),
    ] {
        rig.start_daemon(&[]);
        let daemon = rig.daemon();
        // It takes what is asked, as far as the kernel does that for it, and never answers.
        daemon.signal(Signal::STOP);
        wait_until("it to be stopped", GUARD, || daemon.is_stopped(), |stopped| *stopped);
        let mut request = request.clone();
        request["id"] = json!(id);
        lines.ask(request);
        if id == 6 {
            lines.ask(json!({"id": id, "send": "whole"}));
            lines.ask(json!({"id": id, "close": true}));
        }
        let asking = Process::find(lines.child.id()).unwrap();
        let is_asking = || asking.open_files().iter().any(|file| file.starts_with("socket:"));
        wait_until("it to ask", GUARD, is_asking, |asking| *asking);
        rig.kill_daemon();
        let answer = lines.of(id);
        let status = if id == 7 { 101 } else { 200 };
        assert_eq!(answer["status"], status, "{answer}");
        if id == 3 {
            lines.ask(json!({"cancel": id}));
        }
        rig.occ_ok(&["daemon", "stop"]);
    }
    assert_eq!(std::fs::read_to_string(&done).unwrap(), "once\nonce\n");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "whole");
    assert_eq!(lines.finish(), 0);
}

/// Its head has come by then.
#[test]
fn a_change_that_is_waited_for_is_waited_for_at_the_next_daemon() {
    let mut rig = DaemonRig::new();
    rig.start_daemon(&[]);
    let mut lines = Lines::start(&rig);
    lines.ask(json!({"id": 1, "method": "GET", "path": "/v1/hosts"}));
    let revision = lines.of(1)["body"]["revision"].clone();
    let path = format!("/v1/hosts?since={revision}&wait=5m");
    lines.ask(json!({"id": 2, "method": "GET", "path": path}));
    let metrics = || rig.http("GET", "/metrics", &[], None).text();
    wait_until("it to wait", GUARD, metrics, |text| text.contains("\noccd_open_streams 1.0\n"));
    rig.kill_daemon();
    let answer = lines.of(2);
    assert_eq!(answer["status"], 200, "{answer}");
    assert_ne!(answer["body"]["revision"], revision, "{answer}");
    assert_eq!(lines.finish(), 0);
}

#[test]
fn what_had_begun_is_asked_again_only_with_its_key_and_is_not_done_again() {
    let Some((_sshd, mut rig)) = sshd() else { return };
    let shared = Shared::new();
    let done = shared.at("done");
    let mut lines = Lines::start(&rig);
    let exec = |id: i64, headers: Value| {
        let body = json!({"shell": format!("echo {id} >>{}; exec sleep 600", done.display())});
        json!({"id": id, "method": "POST", "path": "/v1/hosts/h/exec", "headers": headers, "body": body})
    };
    lines.ask(exec(1, json!({})));
    let read = || std::fs::read_to_string(&done).unwrap_or_default();
    wait_until("the first to begin", GUARD, read, |text| text == "1\n");
    lines.ask(exec(2, json!({"idempotency-key": "deploy-18"})));
    wait_until("the second to begin", GUARD, read, |text| text == "1\n2\n");
    rig.kill_daemon();
    for (id, words) in [(1, "went away"), (2, "not done again")] {
        let told = lines.of(id);
        assert_eq!(told["body"]["code"], "outcome_unknown", "{told}");
        assert!(told["body"]["detail"].as_str().unwrap().contains(words), "{told}");
    }
    assert_eq!(read(), "1\n2\n");
}

#[test]
fn a_reader_that_stops_costs_no_memory_and_one_that_is_gone_ends_it() {
    let Some((_sshd, rig)) = sshd() else { return };
    let (mut lines, output) = Lines::unread(&rig);
    const LENGTH: usize = 192 * 1024 * 1024;
    let shared = Shared::new();
    let file = std::fs::File::create(shared.at("long")).unwrap();
    file.set_len(LENGTH as u64).unwrap();
    let path = format!("/v1/hosts/local/files/{}", shared.at("long").display());
    lines.ask(json!({"id": 1, "method": "GET", "path": path}));
    for id in 2..20 {
        lines.ask(json!({"id": id, "method": "GET", "path": "/v1/hosts"}));
    }
    let occ = Process::find(lines.child.id()).unwrap();
    let mut quiet = (occ.cpu_time(), 0);
    eventually("occ to do nothing any more", || {
        let now = occ.cpu_time();
        quiet = if now == quiet.0 { (now, quiet.1 + 1) } else { (now, 0) };
        quiet.1 > 50
    });
    let rss = occ.memory_kib("Rss").unwrap();
    assert!(rss < 48 * 1024, "{rss} KiB");
    let mut length = 0;
    let mut answered = 0;
    for line in BufReader::new(output).lines() {
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        match line["data_b64"].as_str() {
            Some(data) => length += STANDARD.decode(data).unwrap().len(),
            None if line["body"].is_object() => answered += 1,
            None => {}
        }
        if line.get("end").is_some() {
            break;
        }
    }
    assert_eq!((length, answered), (LENGTH, 18));
    let rss = occ.memory_kib("Rss").unwrap();
    assert!(rss < 48 * 1024, "{rss} KiB");
    // Nobody reads, and there is nothing to say; the input has ended.
    let (mut lines, output) = Lines::unread(&rig);
    lines.ask(json!({"id": 1, "method": "GET", "path": "/v1/sessions"}));
    lines.ask(json!({"id": 2, "method": "GET", "path": "/v1/prompts?client=a", "headers": {"accept": NDJSON}}));
    let mut said = BufReader::new(output).lines();
    said.next().unwrap().unwrap();
    said.next().unwrap().unwrap();
    drop(said);
    lines.input = None;
    assert_eq!(exit_code(&mut lines.child), 141);
}

#[test]
fn an_upload_that_the_end_of_the_input_cuts_short_changes_nothing_and_says_so() {
    let mut rig = DaemonRig::new();
    rig.start_daemon(&[]);
    let mut lines = Lines::start(&rig);
    let shared = Shared::new();
    std::fs::write(shared.at("there"), "before").unwrap();
    for (id, name) in [(1, "there"), (2, "new")] {
        let path = format!("/v1/hosts/local/files/{}", shared.at(name).display());
        lines.ask(json!({"id": id, "method": "PUT", "path": path, "upload": true}));
        lines.ask(json!({"id": id, "send": "partial", "ack": "taken"}));
        assert_eq!(lines.of(id)["ack"], "taken");
    }
    lines.input = None;
    for id in [1, 2] {
        let cut = lines.of(id);
        assert_eq!(
            (&cut["status"], &cut["body"]["code"]),
            (&json!(400), &json!("bad_request")),
            "{cut}"
        );
        let detail = cut["body"]["detail"].as_str().unwrap();
        assert!(detail.contains("input ended before `close`"), "{cut}");
        assert!(detail.contains("is unchanged"), "{cut}");
    }
    assert_eq!(exit_code(&mut lines.child), 0);
    assert_eq!(std::fs::read_to_string(shared.at("there")).unwrap(), "before");
    assert!(!shared.at("new").exists());
}

#[test]
fn an_upload_that_may_have_lost_a_piece_changes_nothing_and_says_so() {
    let mut rig = DaemonRig::new();
    rig.start_daemon(&[]);
    let shared = Shared::new();
    // What is wrong, and whether it is known of which of them.
    for (piece, is_told) in [
        (r#"{"id":1,"send_b64":"c2Vjb25kOw"}"#, true),
        (r#"{"id":1,"send_b64":7}"#, true),
        (r#"{"id":1,"send":"b",}"#, false),
        ("nonsense", false),
    ] {
        let mut lines = Lines::start(&rig);
        for id in [1, 2] {
            let file = shared.at(id.to_string());
            std::fs::write(&file, "before").unwrap();
            let path = format!("/v1/hosts/local/files/{}", file.display());
            lines.ask(json!({"id": id, "method": "PUT", "path": path, "upload": true}));
            lines.ask(json!({"id": id, "send": "first;", "ack": "taken"}));
            assert_eq!(lines.of(id)["ack"], "taken");
        }
        lines.line(piece);
        for id in [1, 2] {
            lines.ask(json!({"id": id, "send": "third"}));
            lines.ask(json!({"id": id, "close": true}));
            let whole = id == 2 && is_told;
            // What comes behind its end is told as dropped, before or after that.
            let mut answer = lines.of(id);
            while answer["dropped"] == true {
                answer = lines.of(id);
            }
            assert_eq!(answer["status"], if whole { 200 } else { 400 }, "{piece}: {answer}");
            let content = if whole { "first;third" } else { "before" };
            assert_eq!(std::fs::read_to_string(shared.at(id.to_string())).unwrap(), content);
            if !whole {
                assert_eq!(answer["body"]["code"], "bad_request", "{answer}");
                assert_eq!(answer["body"]["position"]["line"], 5, "{answer}");
            }
        }
    }
}

#[test]
fn a_cancelled_request_with_a_key_goes_on_and_its_key_fetches_the_outcome() {
    let Some((sshd, rig)) = sshd() else { return };
    let shared = Shared::new();
    let go = shared.at("go");
    let shell = format!("while [ ! -e {} ]; do sleep 0.05; done; echo done", go.display());
    let exec = |id: i64| {
        json!({
            "id": id, "method": "POST", "path": "/v1/hosts/h/exec",
            "headers": {"idempotency-key": "deploy-17"}, "body": {"shell": shell}
        })
    };
    let mut lines = Lines::start(&rig);
    lines.ask(exec(1));
    remote_program(&sshd, "sleep");
    lines.ask(json!({"id": 2, "cancel": 1}));
    assert_eq!(lines.of(2), json!({"id": 2, "cancelled": true}));
    let left = lines.of(1);
    assert_eq!(
        (&left["status"], &left["body"]["code"]),
        (&json!(502), &json!("outcome_unknown")),
        "{left}"
    );
    assert!(left["body"]["detail"].as_str().unwrap().contains("Idempotency-Key"), "{left}");
    std::fs::write(&go, "").unwrap();
    lines.ask(exec(3));
    let answer = lines.of(3);
    assert_eq!(answer["body"]["stdout"], "done\n", "{answer}");
    assert_eq!(answer["headers"]["idempotency-replayed"], "true", "{answer}");
    assert_eq!(lines.finish(), 0);
}

#[test]
fn input_that_nobody_reads_is_refused_at_last() {
    let Some((sshd, rig)) = sshd() else { return };
    let mut lines = Lines::start(&rig);
    let body = json!({"argv": ["sleep", "1000"]});
    lines.ask(json!({"id": 1, "method": "GET", "path": "/v1/hosts/h/exec", "websocket": true, "body": body}));
    remote_program(&sshd, "sleep");
    let piece = STANDARD.encode([&[0], &vec![b'x'; 1024 * 1024][..]].concat());
    // More than all that lies in between can hold.
    for _ in 0..64 {
        lines.ask(json!({"id": 1, "send_b64": piece}));
    }
    let end = lines.next("its end", |line| line.contains("\"end\""));
    assert!(end.contains("too_large"), "{end}");
    no_programs(&sshd, GUARD);
    assert_eq!(lines.get(2, "/healthz")["status"], 200);
    let one =
        wait_for("a host", GUARD, || lines.get(3, "/v1/hosts")["body"]["hosts"].get(0).cloned());
    assert_eq!(one["name"], "h");
}
