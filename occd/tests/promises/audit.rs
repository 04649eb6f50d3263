//! The audit log: what was done through the daemon, on whose behalf, and how it ended; never a secret, and never in anybody's
//! way.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use occ_proto::Code;
use occ_proto::audit::{AuditEvent, AuditLine, AuditOutcome};
use serde_json::json;
use testkit::require::{require_namespaces, require_root};
use testkit::wait::blocking::{wait_for, wait_until};
use testkit::{DaemonRig, RealSshd};

use crate::logs::Disk;
use crate::support::{GUARD, daemon_with, exec, occ_exec, post, remote_program, spawn_occ};

/// What a host may not do.
const RULES: &str = "[[hosts.h.policy.rules]]\naction = \"deny\"\nprogram = \"rm\"\n";

fn read(rig: &DaemonRig, query: &str) -> Vec<AuditLine> {
    let answer = rig.http("GET", &format!("/v1/audit{query}"), &[], None);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Waits for a line that is as wanted. Lines are written behind the answer.
fn line(rig: &DaemonRig, what: &str, wanted: impl Fn(&AuditLine) -> bool) -> AuditLine {
    wait_for(what, GUARD, || read(rig, "").into_iter().rev().find(|line| wanted(line)))
}

/// The same for one that has ended.
fn ended(rig: &DaemonRig, action: &str) -> AuditLine {
    line(rig, action, |line| line.action == action && line.event == AuditEvent::End)
}

#[test]
fn whatever_is_done_is_told_with_who_did_it_and_how_it_ended() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let rig = daemon_with(&sshd, "");
    let mut occ = occ_exec(&rig);
    occ.args(["sh", "-c", "exit 3", "--password=hunter2"]);
    assert_eq!(occ.status().unwrap().code(), Some(3));
    let ran = ended(&rig, "exec");
    assert_eq!((ran.outcome, ran.exit_code), (Some(AuditOutcome::Exit), Some(3)));
    assert_eq!(ran.host.as_deref(), Some("h"));
    assert_eq!(ran.argv, ["sh", "-c", "exit 3", "--password=***"]);
    assert_eq!(ran.uid, Some(rustix::process::geteuid().as_raw()));
    assert!(ran.pid.is_some() && ran.ms.is_some(), "{ran:?}");
    assert!(ran.program.as_deref().unwrap().ends_with("/occ"), "{ran:?}");
    assert_eq!((ran.client.as_deref(), ran.via.as_deref()), (Some("cli"), Some("owner")));
    // Its parent is this test.
    let own = std::fs::read_to_string("/proc/self/comm").unwrap();
    assert_eq!(ran.parents.first().map(String::as_str), Some(own.trim()));

    // With variables, of which the names alone are told, and a signal.
    exec(&rig, json!({"argv": ["sh", "-c", "kill -9 $$"], "env": {"KEY": "hunter2"}, "cwd": "/"}));
    let killed = line(&rig, "the signal", |line| line.outcome == Some(AuditOutcome::Signal));
    assert_eq!((&killed.env[..], killed.cwd.as_deref()), (&["KEY".to_owned()][..], Some("/")));
    assert_eq!((killed.signal.as_deref(), killed.client.as_deref()), (Some("KILL"), Some("api")));
    exec(&rig, json!({"argv": ["sleep", "1000"], "timeout_ms": 200}));
    line(&rig, "the timeout", |line| line.outcome == Some(AuditOutcome::Timeout));

    // A test that stops somewhere, whose answer is a report all the same.
    rig.occ_ok(&["host", "add", "dead", "127.0.0.1:1", "--no-verify"]);
    let test = |host: &str| {
        let answer = rig.http("POST", &format!("/v1/hosts/{host}/test"), &[], None);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let of_it =
            |line: &AuditLine| line.action == "host.test" && line.host.as_deref() == Some(host);
        line(&rig, "the test", |line| of_it(line) && line.event == AuditEvent::End)
    };
    let (good, bad) = (test("h"), test("dead"));
    assert_eq!((good.outcome, good.code), (Some(AuditOutcome::Ok), None));
    let failed = (Some(AuditOutcome::Failed), Some(Code::HostUnreachable));
    assert_eq!((bad.outcome, bad.code), failed);

    // What is refused.
    rig.write_config_toml(RULES);
    assert_eq!(post(&rig, json!({"argv": ["rm", "x"]})).status, 403);
    let refused = line(&rig, "the refusal", |line| line.argv.first().is_some_and(|a| a == "rm"));
    assert_eq!(refused.outcome, Some(AuditOutcome::Refused));
    assert_eq!(refused.code, Some(Code::PolicyDenied));
    let only = occ_proto::paths::read_only_beside(&rig.socket());
    let ask = |path: &str| testkit::http::request(&only, "POST", path, &[], None).unwrap();
    assert_eq!(ask("/v1/hosts/h/disconnect").status, 403);
    let refused = ended(&rig, "host.disconnect");
    assert_eq!((refused.via.as_deref(), refused.code), (Some("read-only"), Some(Code::ReadOnly)));
    // Those who only look, and those with a grant, learn nothing of others.
    let looked = testkit::http::request(&only, "GET", "/v1/audit", &[], None).unwrap();
    assert_eq!(looked.status, 403);
    let grant = rig
        .occ_ok(&["grant", "-q", "--host", "h", "--allow", "exec", "--ttl", "1h", "--name", "g"]);
    let grant = std::path::Path::new(grant.trim());
    let asked = testkit::http::request(grant, "GET", "/v1/audit", &[], None).unwrap();
    assert_eq!(asked.status, 403);
    assert_eq!(ended(&rig, "grant.make").detail.as_deref(), Some("grant g"));
    let read_by_grant = ended(&rig, "read");
    assert_eq!(read_by_grant.via.as_deref(), Some("grant g"));
    // Whoever asks there is told so, and not what the files here have.
    for (socket, exit) in [(grant, 7), (only.as_path(), 1)] {
        let refused = rig.run_occ(&["--socket", socket.to_str().unwrap(), "audit"]);
        assert_eq!((refused.code(), refused.stdout.as_str()), (exit, ""), "{refused:?}");
    }
    rig.occ_ok(&["grant", "revoke", "g"]);
    assert_eq!(ended(&rig, "grant.end").host.as_deref(), Some("h"));
    assert_eq!(ended(&rig, "grant.revoke").host.as_deref(), Some("h"));
    let gone = rig.run_occ(&["--socket", grant.to_str().unwrap(), "audit"]);
    assert_eq!((gone.code(), gone.stdout.as_str()), (3, ""), "{gone:?}");
    let trace = rig.home().join("trace.jsonl");
    rig.occ_ok(&["trace", "--host", "h", "--for", "200ms", "-o", trace.to_str().unwrap()]);
    let traced = ended(&rig, "trace.start");
    assert_eq!((traced.path.as_deref(), traced.outcome), (trace.to_str(), Some(AuditOutcome::Ok)));

    // Files, hosts, sessions.
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let there = dir.path().join("there");
    let path = format!("/v1/hosts/h/files/{}", there.display());
    let kind = [("content-type", "application/octet-stream")];
    let put = testkit::http::request(&rig.socket(), "PUT", &path, &kind, Some(b"content"));
    assert_eq!(put.unwrap().status, 200);
    let written = ended(&rig, "files.write");
    assert_eq!(written.path.as_deref(), there.to_str());
    assert_eq!(written.outcome, Some(AuditOutcome::Ok));
    rig.occ_ok(&["host", "edit", "h", "--description", "mine", "--no-verify"]);
    assert!(ended(&rig, "host.edit").detail.unwrap().contains("mine"));
    rig.occ_ok(&[
        "session",
        "start",
        "--host",
        "h",
        "--name",
        "s",
        "--env",
        "K=hunter2",
        "--",
        "true",
    ]);
    assert_ne!(rig.run_occ(&["session", "rm", "nobody"]).code(), 0);
    let absent = ended(&rig, "session.remove");
    let of_absent = (absent.outcome, absent.detail.as_deref());
    assert_eq!(of_absent, (Some(AuditOutcome::Failed), Some("session nobody")));
    let started = ended(&rig, "session.start");
    assert_eq!((&started.argv[..], &started.env[..]), (&["true".into()][..], &["K".into()][..]));

    // Who only asks leaves no line, and a secret none at all.
    let lines = read(&rig, "");
    assert!(lines.iter().all(|line| !line.action.starts_with("GET")), "{lines:?}");
    let file = rig.root().join("state/occ/audit.jsonl");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!std::fs::read_to_string(&file).unwrap().contains("hunter2"));

    // For people, from the daemon and from the files.
    let told = rig.occ_ok(&["audit", "--host", "h", "--since", "1h"]);
    assert!(told.contains("  exit 3         h            exec  sh -c \"exit 3\""), "{told}");
    assert!(told.contains("  policy_denied  h            exec  rm x"), "{told}");
    assert!(!told.contains("daemon.start"), "{told}");
    assert_eq!(rig.occ_ok(&["audit", "-n", "1", "--json"]).lines().count(), 1);
    let mut rig = rig;
    rig.terminate_daemon();
    let offline = rig.occ_ok(&["audit", "--host", "h"]);
    assert!(offline.starts_with(told.as_str()), "{told}\n{offline}");
    assert!(rig.occ_ok(&["audit", "-n", "1"]).contains("daemon.stop"));
}

#[test]
fn a_daemon_that_is_killed_leaves_word_of_what_went_on() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let mut rig = daemon_with(&sshd, "");
    let mut occ = spawn_occ(&rig, &["sleep", "1000"]);
    remote_program(&sshd, "sleep");
    let begun = line(&rig, "the command", |line| line.action == "exec");
    assert_eq!((begun.event, begun.outcome), (AuditEvent::Begin, None));
    rig.kill_daemon();
    occ.wait().unwrap();
    let offline = rig.occ_ok(&["audit", "--json"]);
    let offline: Vec<_> =
        offline.lines().map(|line| serde_json::from_str::<AuditLine>(line).unwrap()).collect();
    rig.start_daemon(&[]);
    let lines = read(&rig, "");
    let unknown = |lines: &[AuditLine]| {
        let found = lines.iter().find(|line| line.id == begun.id).unwrap();
        assert_eq!(found.argv, ["sleep", "1000"]);
        assert_eq!((found.event, found.outcome), (AuditEvent::End, Some(AuditOutcome::Unknown)));
    };
    unknown(&lines);
    unknown(&offline);
    // What goes on, goes on.
    let mut occ = spawn_occ(&rig, &["sleep", "2000"]);
    let goes_on = line(&rig, "the next command", |line| line.argv.contains(&"2000".to_owned()));
    assert_eq!((goes_on.event, goes_on.outcome), (AuditEvent::Begin, None));
    occ.kill().unwrap();
    occ.wait().unwrap();
    let starts = || read(&rig, "").iter().filter(|line| line.action == "daemon.start").count();
    wait_until("the next start", GUARD, starts, |count| *count == 2);
}

#[test]
fn what_comes_is_followed() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let rig = daemon_with(&sshd, "");
    let mut occ = rig.occ(&["audit", "--follow", "--json", "--host", "h"]);
    let mut occ = occ.stdout(Stdio::piped()).spawn().unwrap();
    // It follows from the beginning on, whenever that is.
    exec(&rig, json!({"argv": ["true"]}));
    let mut lines = BufReader::new(occ.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<AuditLine>(&lines.next().unwrap().unwrap()).unwrap();
    while next().outcome != Some(AuditOutcome::Exit) {}
    exec(&rig, json!({"argv": ["false"]}));
    let (begin, end) = (next(), next());
    assert_eq!((begin.event, &begin.argv[..]), (AuditEvent::Begin, &["false".into()][..]));
    assert_eq!((end.id, end.exit_code), (begin.id, Some(1)));
    // Also over a restart, and nothing twice.
    rig.occ_ok(&["daemon", "restart"]);
    exec(&rig, json!({"argv": ["test", "x"]}));
    let then = next();
    assert_eq!(then.argv, ["test", "x"]);
    occ.kill().unwrap();
    occ.wait().unwrap();
}

#[test]
fn a_log_that_cannot_be_written_is_said_and_work_goes_on() {
    let mut rig = DaemonRig::new();
    let file = rig.root().join("state/occ/audit.jsonl");
    std::fs::create_dir_all(&file).unwrap();
    let state = file.parent().unwrap();
    std::fs::set_permissions(state, std::fs::Permissions::from_mode(0o700)).unwrap();
    rig.start_daemon(&[]);
    assert_eq!(rig.run_occ(&["exec", "--local", "--", "true"]).code(), 0);
    let says = "the audit log";
    wait_until(
        "it to be said",
        GUARD,
        || rig.run_occ(&["daemon", "status"]).stderr,
        |told| told.contains(says) && told.contains("cannot be written"),
    );
    let doctor = rig.run_occ(&["doctor"]);
    assert!(doctor.stdout.contains(says), "{doctor:?}");
    // It is in nobody's way, and no reason for anything else.
    let output = rig.run_occ(&["exec", "--local", "--", "true"]);
    assert!(!output.stderr.contains(says), "{output:?}");
    assert!(rig.log().contains(says));
    std::fs::remove_dir(&file).unwrap();
    assert_eq!(rig.run_occ(&["exec", "--local", "--", "true"]).code(), 0);
    line(&rig, "how many were lost", |line| line.event == AuditEvent::Lost);
    assert!(!rig.run_occ(&["daemon", "status"]).stderr.contains(says));
}

#[test]
fn what_was_lost_is_counted_over_a_restart() {
    if !require_root("a small disk") || !require_namespaces(&["--mount"]) {
        return;
    }
    let mut rig = DaemonRig::new();
    let state = rig.root().join("state/occ");
    std::fs::create_dir_all(&state).unwrap();
    let _disk = Disk::mount(&state);
    rig.start_daemon(&[]);
    let run = || assert_eq!(rig.run_occ(&["exec", "--local", "--", "true"]).code(), 0);
    let (filler, kept) = (state.join("filler"), state.join("audit.lost"));
    assert!(std::fs::write(&filler, vec![0; 512 * 1024]).is_err(), "the disk was to be full");
    let told = || {
        let version = rig.http("GET", "/v1/version", &[], None).text();
        let (_, lost) = version.split_once("lines lost so far: ")?;
        lost.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
    };
    let lost = wait_for("twenty lines to be lost", GUARD, || {
        run();
        told().filter(|lost| *lost >= 20)
    });
    rig.kill_daemon();
    std::fs::remove_file(&filler).unwrap();
    rig.start_daemon(&[]);
    let said = line(&rig, "how many were lost", |line| line.event == AuditEvent::Lost);
    assert!(said.lost.unwrap() >= lost, "{said:?}, and {lost} were told");
    // Once.
    wait_until(
        "the count",
        GUARD,
        || std::fs::read_to_string(&kept).unwrap(),
        |count| count.trim().parse() == Ok(0),
    );
    let mode = std::fs::metadata(&kept).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    rig.terminate_daemon();
    rig.start_daemon(&[]);
    assert_eq!(rig.run_occ(&["exec", "--local", "--", "echo", "again"]).code(), 0);
    line(&rig, "what came next", |line| line.argv.contains(&"again".to_owned()));
    let all = read(&rig, "").into_iter().filter(|line| line.event == AuditEvent::Lost);
    assert_eq!(all.count(), 1);
}

#[test]
fn it_can_be_turned_off_while_the_daemon_runs() {
    let mut rig = DaemonRig::new();
    rig.write_config_toml("[audit]\nenabled = false\n");
    rig.start_daemon(&[]);
    let run = |argument: &str| {
        assert_eq!(rig.run_occ(&["exec", "--local", "--", "true", argument]).code(), 0);
    };
    run("first");
    rig.write_config_toml("[audit]\nenabled = true\nmax_size_mib = 1\n");
    wait_for("a line", GUARD, || {
        run("second");
        read(&rig, "").into_iter().find(|line| line.argv.contains(&"second".to_owned()))
    });
    assert!(!read(&rig, "").iter().any(|line| line.argv.contains(&"first".to_owned())));
}

#[test]
fn how_long_an_input_was_is_told_and_nothing_of_it() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let rig = daemon_with(&sshd, "");
    let feed = |mut occ: std::process::Child, text: &str| {
        occ.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(occ.wait_with_output().unwrap().status.success());
    };
    feed(spawn_occ(&rig, &["cat"]), "hunter2");
    let ran = line(&rig, "the command", |line| line.exit_code == Some(0));
    assert_eq!((ran.action.as_str(), ran.input_bytes), ("exec", Some(7)));
    exec(&rig, json!({"argv": ["cat", "x"], "stdin": "hunter22"}));
    let ran = line(&rig, "the next", |line| {
        line.argv.contains(&"x".to_owned()) && line.event == AuditEvent::End
    });
    assert_eq!(ran.input_bytes, Some(8));
    exec(&rig, json!({"argv": ["true", "none"]}));
    let ran = line(&rig, "one without", |line| {
        line.argv.contains(&"none".to_owned()) && line.event == AuditEvent::End
    });
    assert_eq!(ran.input_bytes, None);
    rig.occ_ok(&["session", "start", "--host", "h", "--name", "s", "--", "cat"]);
    let mut attach = rig.occ(&["session", "attach", "s", "--eof"]);
    let attach = attach.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    feed(attach, "hunter2 and so on");
    let attached = ended(&rig, "session.attach");
    assert_eq!(attached.input_bytes, Some(17), "{attached:?}");
    assert!(attached.detail.as_deref().unwrap().contains("(s)"), "{attached:?}");
    let told = rig.occ_ok(&["audit"]);
    assert!(told.contains("17 bytes of input") && !told.contains("hunter2"), "{told}");
}

#[test]
fn a_password_is_forgotten_where_one_was_kept() {
    let mut rig = DaemonRig::new();
    rig.start_daemon(&[]);
    rig.occ_ok(&["host", "add", "h", "127.0.0.1", "--no-verify"]);
    rig.occ_ok(&["host", "remove", "h", "--force"]);
    let removed = ended(&rig, "host.remove");
    assert_eq!(removed.host.as_deref(), Some("h"));
    // Lines are in order: what came before this one is written.
    assert_eq!(rig.run_occ(&["exec", "--local", "--", "true"]).code(), 0);
    ended(&rig, "exec");
    let lines = read(&rig, "");
    assert!(lines.iter().all(|line| line.action != "password.forget"), "{lines:?}");
}

#[test]
fn a_piece_of_a_line_loses_no_other() {
    let mut rig = DaemonRig::new();
    rig.start_daemon(&[]);
    assert_eq!(rig.run_occ(&["exec", "--local", "--", "true", "first"]).code(), 0);
    line(&rig, "the first", |line| line.argv.contains(&"first".to_owned()));
    let file = rig.root().join("state/occ/audit.jsonl");
    let mut torn = std::fs::File::options().append(true).open(&file).unwrap();
    torn.write_all(b"{\"at\":\"2026-11-26T12:00:00Z\",\"id\":\"\xff").unwrap();
    assert_eq!(rig.run_occ(&["exec", "--local", "--", "true", "second"]).code(), 0);
    let both = || {
        let lines = rig.occ_ok(&["audit"]);
        ["true first", "true second"].iter().all(|command| lines.contains(command))
    };
    wait_until("both", GUARD, both, |both| *both);
    let times = |log: String| log.matches("has lines that cannot be read").count();
    assert_eq!(times(rig.log()), 1, "{}", rig.log());
    rig.terminate_daemon();
    let offline = rig.run_occ(&["audit"]);
    assert!(offline.stderr.contains("1 lines cannot be read"), "{offline:?}");
    assert!(offline.stdout.contains("true first") && offline.stdout.contains("true second"));
}

#[test]
fn more_than_is_told_is_refused_before_anybody_is_asked() {
    let rig = DaemonRig::new();
    let refused = rig.run_occ(&["audit", "-n", "20001"]);
    assert_eq!(refused.code(), 2, "{refused:?}");
    assert!(refused.stderr.contains("20000 at most"), "{refused:?}");
    assert_eq!(rig.run_occ(&["audit", "-n", "20000"]).code(), 0);
}
