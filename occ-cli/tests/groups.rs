//! Commands over many hosts: which ones, how many at once, whose lines are whose, and how it went in all.

#![allow(clippy::unwrap_used, reason = "a failing fixture is a failing test")]

mod common;

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use common::{
    Answer, Fake, Seen, Ws, connected, event, exit, finish, input, list, send, started, text,
};
use serde_json::{Value, json};
use testkit::terminal::Terminal;

/// Hosts by their names; those whose names begin with `eu` are in the group `eu`.
fn hosts(names: &[&str]) -> Value {
    let host = |name: &&str| {
        let mut host = connected(name);
        host["config"]["groups"] =
            if name.starts_with("eu") { json!(["eu"]) } else { json!(["us", "lab"]) };
        host
    };
    let mut list = list(&names.iter().map(host).collect::<Vec<_>>(), None);
    list["via"] = json!([connected("via:gate")]);
    list
}

/// Returns the host that a request is about.
fn host_of(seen: &Seen) -> &str {
    seen.path.split('/').nth(3).unwrap().split('?').next().unwrap()
}

/// A daemon that runs commands on the hosts by a script that gets the host's name and the request.
fn running(names: &[&str], script: impl Fn(&mut Ws, &str, Value) + Send + Sync + 'static) -> Fake {
    let list = hosts(names);
    Fake::with_execs(
        move |seen| match seen.path.as_str() {
            "/v1/hosts" => Answer::ok(list.clone()),
            path if path.ends_with("/exec") => {
                match host_of(seen) {
                    down if down.contains("down") => Answer::problem(
                        503,
                        "host_unreachable",
                        &format!(
                            "{down}: no connection to 203.0.113.10:22: Connection refused (os error 111). The command was not started."
                        ),
                        down,
                    ),
                    // Only an answer that is a failure is one.
                    _ => Answer::status(200),
                }
            }
            path => panic!("{path}"),
        },
        move |mut ws, seen| {
            let request = text(&mut ws);
            script(&mut ws, host_of(seen), request);
        },
    )
}

fn lines(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn each_line_has_its_host_and_the_end_says_how_it_went() {
    let fake = running(&["eu-1", "us-1", "eu-2", "eu-down"], |ws, host, request| {
        let here = std::env::current_dir().unwrap();
        assert_eq!(request, json!({"argv": ["x"], "here": here, "retries": 0}));
        started(ws);
        send(ws, 1, format!("one of {host}\ntwo").as_bytes());
        send(ws, 2, b"oops\n");
        exit(ws, if host == "eu-2" { 3 } else { 0 });
    });
    let done = fake.occ(&["exec", "--group", "eu", "--", "x"]);
    assert_eq!(done.code, 1, "{done:?}");
    assert_eq!(
        lines(&done.out),
        ["[eu-1] one of eu-1", "[eu-1] two", "[eu-2] one of eu-2", "[eu-2] two"]
    );
    assert_eq!(
        lines(&done.err),
        [
            "1 ok, 2 failed: eu-2 (exit 3), eu-down (Connection refused)",
            "[eu-1] oops",
            "[eu-2] oops",
            "[eu-down] Error: no connection to 203.0.113.10:22: Connection refused (os error 111). The command was not started.",
            "[eu-down] hint: occ host test eu-down shows where it stops",
        ]
        .into_iter()
        .collect::<Vec<_>>(),
        "{done:?}"
    );
    let quiet = fake.occ(&["--all", "exec", "-q", "--retries", "2", "--", "x"]);
    assert!(!quiet.err.contains(" ok"), "{quiet:?}");
}

#[test]
fn a_line_is_never_torn_by_another_hosts() {
    let names: Vec<String> = (0..12).map(|number| format!("eu-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let fake = running(&names, |ws, host, _| {
        started(ws);
        for _ in 0..200 {
            // Each line in three pieces.
            let letter = &host[3..];
            for piece in [letter.repeat(40), letter.repeat(40), "\n".to_owned()] {
                send(ws, 1, piece.as_bytes());
            }
        }
        exit(ws, 0);
    });
    let done = fake.occ(&["exec", "--all", "-n", "--", "x"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(done.out.lines().count(), 12 * 200);
    for line in done.out.lines() {
        let (host, rest) = line.strip_prefix("[eu-").unwrap().split_once("] ").unwrap();
        assert_eq!(rest, host.repeat(80));
    }
}

#[test]
fn with_json_there_is_a_document_per_host() {
    let fake = running(&["eu-1", "eu-2", "eu-down"], |ws, host, _| {
        started(ws);
        send(ws, 1, b"x\n");
        exit(ws, if host == "eu-2" { 3 } else { 0 });
    });
    let done = fake.occ(&["exec", "--group", "eu", "--json", "--", "x"]);
    assert_eq!((done.code, done.err.as_str()), (1, ""), "{done:?}");
    let mut documents: Vec<Value> =
        done.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    documents.sort_by_key(|document| document["host"].as_str().unwrap().to_owned());
    assert_eq!(documents.len(), 3, "{done:?}");
    assert_eq!(
        (&documents[0]["host"], &documents[0]["stdout"], &documents[0]["code"]),
        (&json!("eu-1"), &json!("x\n"), &json!(0))
    );
    assert_eq!(documents[1]["code"], 3);
    assert_eq!(
        (&documents[2]["host"], &documents[2]["problem"]["code"]),
        (&json!("eu-down"), &json!("host_unreachable"))
    );
}

#[test]
fn the_input_is_read_once_and_given_to_each() {
    let fake = running(&["eu-1", "eu-2"], |ws, _, _| {
        started(ws);
        let all = input(ws);
        send(ws, 1, format!("{}\n", all.len()).as_bytes());
        exit(ws, 0);
    });
    let with = |bytes: usize, args: &[&str]| {
        let mut child = fake
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::thread::spawn(move || {
            use std::io::Write as _;
            // It may not be read to its end.
            let _ = stdin.write_all(&vec![b'x'; bytes]);
        });
        finish(child)
    };
    let done = with(300_000, &["exec", "--all", "--", "wc", "-c"]);
    assert_eq!(lines(&done.out), ["[eu-1] 300000", "[eu-2] 300000"], "{done:?}");
    let done = with(300_000, &["exec", "--all", "-n", "--", "wc", "-c"]);
    assert_eq!(lines(&done.out), ["[eu-1] 0", "[eu-2] 0"], "{done:?}");
    let done = with(17 * 1024 * 1024, &["exec", "--all", "--", "wc", "-c"]);
    assert_eq!((done.code, done.err.contains("longer than 16 MiB")), (2, true), "{done:?}");
}

#[test]
fn so_many_run_at_once_and_no_more() {
    let at_once = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (full, is_full) = mpsc::channel();
    let (go, may_go) = mpsc::channel::<()>();
    let (count, peak, may_go) = (Arc::clone(&at_once), Arc::clone(&most), Mutex::new(may_go));
    let names: Vec<String> = (0..7).map(|number| format!("eu-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let fake = running(&names, move |ws, _, _| {
        let now = count.fetch_add(1, Ordering::SeqCst) + 1;
        peak.fetch_max(now, Ordering::SeqCst);
        started(ws);
        full.send(()).unwrap();
        may_go.lock().unwrap().recv().unwrap();
        count.fetch_sub(1, Ordering::SeqCst);
        exit(ws, 0);
    });
    let child = fake
        .command(&["exec", "--all", "--parallel", "3", "-n", "--", "x"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The ones that block hold their turns; each that ends makes room for one.
    for _ in 0..3 {
        is_full.recv_timeout(common::GUARD).unwrap();
    }
    for _ in 0..4 {
        go.send(()).unwrap();
        is_full.recv_timeout(common::GUARD).unwrap();
    }
    (0..3).for_each(|_| go.send(()).unwrap());
    let done = finish(child);
    assert_eq!((done.code, done.err.as_str()), (0, "7 ok\n"), "{done:?}");
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

#[test]
fn an_interrupt_ends_what_runs_and_says_how_far_it_was() {
    let (ready, is_ready) = mpsc::channel();
    let fake = running(&["eu-1", "eu-2", "eu-3"], move |ws, host, _| {
        started(ws);
        send(ws, 1, b"here\n");
        if host == "eu-1" {
            return exit(ws, 0);
        }
        ready.send(()).unwrap();
        assert_eq!(text(ws), json!({"type": "signal", "signal": "INT"}));
        let signalled = json!({"type": "exit", "code": null, "signal": "INT", "duration_ms": 5});
        event(ws, &signalled);
        while ws.read().is_ok() {}
    });
    let child = fake
        .command(&["exec", "--all", "--parallel", "1", "-n", "--", "x"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    is_ready.recv_timeout(common::GUARD).unwrap();
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.unwrap().success());
    let done = finish(child);
    assert_eq!(done.code, 130, "{done:?}");
    assert_eq!(lines(&done.out), ["[eu-1] here", "[eu-2] here"]);
    assert!(done.err.contains("[eu-2] Error: interrupted: the command was ended on eu-2.\n"));
    assert!(done.err.ends_with("1 ok, 1 interrupted, 1 not begun\n"), "{done:?}");
}

#[test]
fn on_a_terminal_what_is_equal_is_shown_once() {
    let fake =
        running(&["eu-1", "eu-2", "eu-3", "eu-4", "eu-5", "eu-down"], |ws, host, request| {
            started(ws);
            if request["argv"][0] == "long" {
                for number in 0..400 {
                    send(ws, 1, format!("{number}\n").as_bytes());
                }
            } else {
                send(ws, 1, if host == "eu-5" { b"6.1.0-18\n" } else { b"6.1.0-25\n" });
            }
            exit(ws, 0);
        });
    let screen = |args: &[&str]| {
        let (screen, code) = Terminal::start(fake.command(args)).finish();
        assert_eq!(code, 1, "{screen}");
        screen
    };
    let folded = screen(&["exec", "--all", "--", "uname", "-r"]);
    assert_eq!(
        folded,
        "\
6.1.0-25      4 hosts
6.1.0-18      1 host : eu-5
failed        1 host : eu-down (Connection refused)
"
    );
    // What nobody reads twice, or who wants all of it.
    for args in [&["exec", "--all", "--", "long"][..], &["exec", "--all", "-v", "--", "uname"]] {
        let screen = screen(args);
        assert!(!screen.contains(" hosts"), "{screen}");
        assert!(screen.contains("5 ok, 1 failed: eu-down (Connection refused)\n"), "{screen}");
        let of_one = screen.matches("\n[eu-1] ").count() + screen.starts_with("[eu-1] ") as usize;
        assert!(of_one >= if args[3] == "long" { 400 } else { 1 }, "{screen}");
    }
}

#[test]
fn on_a_terminal_how_far_it_is_stands_there_until_it_is_done() {
    let (go, may_go) = mpsc::channel::<()>();
    let may_go = Mutex::new(may_go);
    let fake = running(&["eu-1", "eu-2"], move |ws, host, _| {
        started(ws);
        if host == "eu-2" {
            may_go.lock().unwrap().recv().unwrap();
        }
        send(ws, 1, b"x\n");
        exit(ws, 0);
    });
    let args = ["exec", "--all", "--", "x"];
    let mut terminal = Terminal::start(fake.command(&args));
    terminal.wait_for("1 of 2 …");
    go.send(()).unwrap();
    let (screen, code) = terminal.finish();
    assert_eq!(code, 0);
    // Erased, and nothing of it after that.
    assert!(screen.ends_with("\u{1b}[Kx      2 hosts: eu-1 eu-2\n"), "{screen:?}");
    go.send(()).unwrap();
    assert_eq!(fake.occ(&args).err, "2 ok\n");
}

#[test]
fn a_reader_that_goes_away_ends_all_of_it() {
    let (gone, is_gone) = mpsc::channel();
    let both = std::sync::Barrier::new(2);
    let fake = running(&["eu-1", "eu-2"], move |ws, _, _| {
        started(ws);
        both.wait();
        while send(ws, 1, b"xxxxxxxxxxxxxxxxxxxxxxxx\n") {}
        gone.send(()).unwrap();
    });
    let mut child = fake
        .command(&["exec", "--all", "-n", "--", "yes"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let done = finish(child);
    assert_eq!((done.code, done.err.as_str()), (141, ""));
    (0..2).for_each(|_| is_gone.recv_timeout(common::GUARD).unwrap());
}

#[test]
fn who_is_meant_is_checked() {
    let fake = running(&["eu-1", "us-1"], |_, _, _| panic!("nothing is run"));
    for (args, code, words) in [
        (
            &["exec", "--group", "asia", "--", "x"][..],
            4,
            "No host is in a group 'asia'.\nhint: the groups are eu, lab, us\n",
        ),
        (&["--group", "eu", "exec", "--host", "a", "--", "x"], 2, "cannot be used with"),
        (&["exec", "--group", "eu", "--all", "--", "x"], 2, "cannot be used with"),
        (&["--all", "exec", "--group", "eu", "--", "x"], 2, "cannot be used with"),
        (&["--all", "status", "--local"], 2, "cannot be used with"),
        (&["exec", "--all", "--parallel", "0", "--", "x"], 2, "from 1 on"),
        (&["trust", "--group", "eu"], 2, "does not go with this command"),
        (&["daemon", "stop", "--all"], 2, "does not go with this command"),
        (&["host", "test"], 2, "a host's name, --group or --all"),
        (&["host", "test", "eu-1", "--all"], 2, "cannot be used with"),
        (&["start", "--all", "--open"], 2, "for one host"),
        (&["update", "--host", "eu-1", "--batch", "2"], 2, "for --group or --all"),
        (
            &["update", "--group", "eu", "--canary", "us-1", "-y"],
            4,
            "not among those of --group eu",
        ),
        (&["logs", "--all", "--parallel", "1"], 2, "too small"),
    ] {
        let done = fake.occ(args);
        assert_eq!((done.code, done.err.contains(words)), (code, true), "{args:?} {done:?}");
    }
    assert_eq!(fake.lines().iter().filter(|line| *line != "GET /v1/hosts").count(), 0);
    // The options of that name that these have of their own.
    let done = fake.occ(&["host", "list", "--group", "eu", "--names-only"]);
    assert_eq!((done.code, done.out.as_str()), (0, "eu-1\n"));

    let none = Fake::new(|_| Answer::ok(list(&[], None)));
    let done = none.occ(&["exec", "--all", "--", "x"]);
    assert_eq!((done.code, done.err.starts_with("Error: No hosts configured.\n")), (4, true));
}

#[test]
fn links_are_made_and_cut_for_all() {
    let fake = Fake::new({
        let list = hosts(&["eu-1", "eu-2", "us-1"]);
        move |seen| match seen.path.as_str() {
            "/v1/hosts" => Answer::ok(list.clone()),
            path if path.contains("eu-2") && !path.contains("disconnect") => {
                let detail = "eu-2: the server refused every key for deploy; offered x.";
                Answer::problem(409, "auth_failed", detail, "eu-2")
            }
            _ => Answer::ok(connected(host_of(seen))),
        }
    });
    let done = fake.occ(&["connect", "--group", "eu"]);
    assert_eq!(
        (done.code, done.out.contains("[eu-1] Link      ● connected")),
        (1, true),
        "{done:?}"
    );
    // The hint knows the host's address.
    assert!(done.err.contains("[eu-2] hint: ssh-copy-id deploy@203.0.113.10; then"), "{done:?}");
    assert!(done.err.ends_with("1 ok, 1 failed: eu-2 (every key refused)\n"), "{done:?}");
    assert!(fake.lines().contains(&"POST /v1/hosts/eu-1/connect?retries=0".to_owned()));
    let done = fake.occ(&["reconnect", "--all", "--json"]);
    let documents: Vec<Value> =
        done.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((done.code, documents.len()), (1, 3), "{done:?}");
    let problems = documents.iter().filter(|document| document["problem"].is_object()).count();
    assert_eq!(problems, 1, "{done:?}");
    assert_eq!(fake.occ(&["disconnect", "--all"]).code, 0);
    assert!(!fake.lines().iter().any(|line| line.contains("via")));
}

/// A daemon whose operations end as `end` says; those it says nothing of go on until the test is over. Returns
/// it with the hosts on which something was begun, in that order, and those of which the end was told.
fn operating(
    names: &[&str],
    end: impl Fn(&str) -> Option<Value> + Send + Sync + 'static,
) -> (Fake, Arc<Mutex<Vec<String>>>) {
    let list = hosts(names);
    let told = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&told);
    let running = |host: &str| {
        json!({"id": host.replace('-', ""), "kind": "update", "host": host, "state": "running",
            "started_at": common::ago(3), "step": "pulling"})
    };
    let all: Vec<String> = names.iter().map(ToString::to_string).collect();
    let fake = Fake::new(move |seen| {
        let path = seen.path.as_str();
        let note = |what: &str, host: &str| log.lock().unwrap().push(format!("{what} {host}"));
        if path == "/v1/hosts" {
            return Answer::ok(list.clone());
        }
        if path == "/v1/operations" {
            let still: Vec<Value> =
                all.iter().filter(|host| end(host).is_none()).map(|h| running(h)).collect();
            return Answer::ok(json!({ "operations": still }));
        }
        if path.ends_with("/container/password") {
            return Answer::ok(json!({"password": "once"}));
        }
        if let Some(id) = path.strip_prefix("/v1/operations/") {
            let id = id.strip_suffix("/events").unwrap();
            let host = all.iter().find(|host| host.replace('-', "") == id).unwrap();
            let Some(end) = end(host) else {
                note("follow", host);
                // Its client goes first.
                std::thread::sleep(common::GUARD);
                return Answer::status(500);
            };
            let mut operation = running(host);
            operation["state"] = json!("succeeded");
            operation["ended_at"] = json!(common::ago(0));
            for (key, value) in end.as_object().unwrap() {
                operation[key] = value.clone();
            }
            note("end", host);
            return Answer::text(&format!("{}\n", json!({"event": "end", "operation": operation})));
        }
        assert!(path.contains("/container/") && path.ends_with("?retries=0"), "{path}");
        note("begin", host_of(seen));
        Answer { status: 202, ..Answer::ok(running(host_of(seen))) }
    });
    (fake, told)
}

fn did(what: &str) -> Option<Value> {
    Some(json!({"outcome": {"did": what}}))
}

fn failing(host: &str) -> Option<Value> {
    Some(json!({"state": "failed", "problem": {"status": 502, "code": "sandbox_not_ready",
        "detail": format!("{host}: the sandbox does not answer."), "host": host}}))
}

#[test]
fn an_update_goes_canary_first_and_in_batches_up_to_too_many_failures() {
    let names = ["eu-1", "eu-2", "eu-3", "eu-4", "eu-5", "eu-6", "us-1"];
    let (fake, told) = operating(&names, |host| match host {
        "eu-1" | "eu-4" => failing(host),
        "eu-3" => did("up_to_date"),
        _ => did("updated"),
    });
    let update = |args: &[&str]| {
        told.lock().unwrap().clear();
        let done = fake.occ(&[&["update", "--group", "eu", "-y"], args].concat());
        (done, told.lock().unwrap().clone())
    };
    // One after the other, up to the first that fails.
    let (done, order) = update(&[]);
    assert_eq!(order, ["begin eu-1", "end eu-1"]);
    assert_eq!(done.code, 1);
    assert_eq!(
        done.err,
        "\
[eu-1] Error: the sandbox does not answer.
[eu-1] hint: occ logs --host eu-1
1 failed: eu-1 (the sandbox does not answer)
5 not touched: eu-2, eu-3, eu-4, eu-5, eu-6
"
    );
    let (done, order) =
        update(&["--canary", "eu-3", "--batch", "2", "--max-fail", "1", "--parallel", "9"]);
    assert_eq!(order[..2], ["begin eu-3", "end eu-3"]);
    let of_batch = |order: &[String]| {
        let mut hosts: Vec<String> =
            order.iter().map(|line| line[line.len() - 4..].into()).collect();
        hosts.sort_unstable();
        hosts.dedup();
        hosts
    };
    assert_eq!(of_batch(&order[2..6]), ["eu-1", "eu-2"]);
    assert_eq!(of_batch(&order[6..]), ["eu-4", "eu-5"]);
    assert!(
        done.err.ends_with(
            "\
2 updated: eu-2, eu-5
1 up to date already: eu-3
2 failed: eu-1 (the sandbox does not answer), eu-4 (the sandbox does not answer)
1 not touched: eu-6
"
        ),
        "{done:?}"
    );
    // A canary that fails is the last, whatever may fail.
    let (done, order) = update(&["--canary", "eu-4", "--max-fail", "5", "--json"]);
    assert_eq!((done.code, order.len()), (1, 2));
    let documents: Vec<Value> =
        done.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(documents.len(), 6, "{done:?}");
    assert_eq!(documents[0]["problem"]["code"], "sandbox_not_ready");
    assert_eq!(documents[1], json!({"host": "eu-1", "untouched": true}));
    let (done, order) = update(&["--max-fail", "9", "--batch", "9"]);
    assert_eq!((done.code, order.len()), (1, 12), "{done:?}");
}

#[test]
fn what_the_daemon_goes_on_with_after_an_interrupt_is_said() {
    let (fake, told) =
        operating(&["eu-1", "eu-2", "eu-3"], |host| (host == "eu-1").then(|| did("updated"))?);
    for (args, end) in [
        (
            &["update", "--all", "-y"][..],
            "1 updated: eu-1\n1 interrupted: eu-2\n1 not touched: eu-3\n",
        ),
        (&["stop", "--all", "-y", "--parallel", "1"], "1 ok, 1 interrupted, 1 not begun\n"),
    ] {
        told.lock().unwrap().clear();
        let child = fake
            .command(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        testkit::wait::blocking::wait_until(
            "eu-2 to be followed",
            common::GUARD,
            || told.lock().unwrap().clone(),
            |told| told.contains(&"follow eu-2".to_owned()),
        );
        let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        assert!(kill.unwrap().success());
        let done = finish(child);
        assert_eq!(done.code, 130, "{done:?}");
        assert_eq!(
            done.err,
            format!(
                "[eu-2] The operation goes on without you: eu2.\n\
                 [eu-2] hint: occ operations attach eu2; occ operations cancel eu2\n{end}"
            )
        );
    }
}

#[test]
fn what_cannot_be_undone_is_asked_for_once() {
    let names = ["eu-1", "eu-2", "eu-3", "eu-4", "eu-5", "eu-6"];
    let (fake, told) = operating(&names, |_| did("stopped"));
    for args in [
        &["stop", "--all"][..],
        &["restart", "--group", "eu"],
        &["update", "--group", "eu"],
        &["stop", "--all", "--remove"],
    ] {
        let done = fake.occ(args);
        assert_eq!(done.code, 2, "{done:?}");
        assert!(done.err.contains("on 6 hosts needs a confirmation"), "{done:?}");
        let hint = format!("hint: occ {} {} --yes\n", args[0], args[1..].join(" "));
        assert!(args[0] == "stop" || done.err.ends_with(&hint), "{done:?}");
    }
    let mut terminal = Terminal::start(fake.command(&["stop", "--all", "--remove"]));
    let question =
        "Stop and remove the sandbox on 6 hosts (eu-1, eu-2, eu-3, eu-4, eu-5, …)? [y/N] ";
    terminal.answer(question, "n");
    assert!(terminal.finish().0.ends_with("Cancelled.\n"));
    assert_eq!(told.lock().unwrap().len(), 0);
    let mut terminal = Terminal::start(fake.command(&["stop", "--all", "--no-color"]));
    terminal.answer("[y/N] ", "y");
    let (screen, code) = terminal.finish();
    assert_eq!((code, screen.matches("✓ Service stopped").count()), (0, 6), "{screen}");
    assert!(screen.ends_with("6 ok\n"), "{screen}");
}

#[test]
fn a_start_tells_each_hosts_password() {
    let (fake, _) = operating(&["eu-1", "eu-2"], |_| did("started"));
    let done = fake.occ(&["start", "--group", "eu"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.out.contains("[eu-2] First login: one-time password once\n"), "{done:?}");
    let done = fake.occ(&["start", "--group", "eu", "--json"]);
    for line in done.out.lines() {
        let document: Value = serde_json::from_str(line).unwrap();
        assert!(document["host"].as_str().unwrap().starts_with("eu-"), "{document}");
        assert_eq!(document["one_time_password"], "once");
    }
    assert_eq!(done.out.lines().count(), 2);
}

#[test]
fn commands_that_were_cut_short_fold_by_what_did_it() {
    let fake = running(&["eu-1", "eu-2", "eu-3", "eu-4"], |ws, host, _| {
        started(ws);
        let ended = match host {
            "eu-1" | "eu-2" => json!({"type": "exit", "code": 143, "timed_out": true,
                "limit_ms": 1000, "duration_ms": 1000}),
            _ => json!({"type": "error", "problem": {"status": 502, "code": "outcome_unknown",
                "detail": format!("{host}: the link broke 0.{} s into the command.", host.len())}}),
        };
        event(ws, &ended);
        while ws.read().is_ok() {}
    });
    let args = ["exec", "--all", "--timeout", "1s", "--", "x"];
    let (screen, code) = Terminal::start(fake.command(&args)).finish();
    assert_eq!(
        (screen.as_str(), code),
        (
            "\
failed      2 hosts: eu-1 eu-2 (timed out)
failed      2 hosts: eu-3 eu-4 (outcome unknown, it may still run)
",
            1
        )
    );
}

#[test]
fn tests_and_logs_are_told_host_by_host() {
    let list = hosts(&["eu-1", "eu-2"]);
    let fake = Fake::new(move |seen| match seen.path.as_str() {
        "/v1/hosts" => Answer::ok(list.clone()),
        "/v1/hosts/eu-2/container/logs?lines=50&follow=false&retries=0" => {
            Answer::problem(409, "no_sandbox", "eu-2: there is no sandbox.", "eu-2")
        }
        path if path.ends_with("/test") => {
            let host = host_of(seen);
            let ok = host == "eu-1";
            let problem = json!({"status": 503, "code": "auth_failed", "host": host,
                "detail": "eu-2: the server refused every key for u."});
            Answer::ok(
                json!({"name": host, "ssh_ok": ok, "docker_ok": false, "docker_version": null,
                "steps": [{"name": "login", "ok": ok, "detail": "x"}],
                "problem": if ok { Value::Null } else { problem }}),
            )
        }
        path if path.contains("/logs?") => {
            Answer::text("{\"text\":\"a line\"}\n{\"text\":\"b\"}\n")
        }
        path => panic!("{path}"),
    });
    let done = fake.occ(&["host", "test", "--group", "eu"]);
    assert_eq!(done.code, 1, "{done:?}");
    assert_eq!(lines(&done.out), ["[eu-1] ✓ login     x", "[eu-2] ✗ login     x"]);
    assert_eq!(done.err, "1 ok, 1 failed: eu-2 (every key refused)\n");
    let done = fake.occ(&["logs", "--all", "--no-follow"]);
    assert_eq!(lines(&done.out), ["[eu-1] a line", "[eu-1] b"], "{done:?}");
    assert!(done.err.ends_with("1 ok, 1 failed: eu-2 (there is no sandbox)\n"), "{done:?}");
    let done = fake.occ(&["logs", "--all", "--no-follow", "--json"]);
    assert!(done.out.contains("{\"host\":\"eu-1\","), "{done:?}");
}
