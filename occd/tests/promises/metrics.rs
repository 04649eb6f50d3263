//! What the daemon and its hosts do is told in numbers, as Prometheus reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use occ_proto::Code;
use occ_proto::metrics::{Sample, parse};
use occ_proto::status::State;
use serde_json::{Value, json};
use testkit::daemon::Target;
use testkit::http::request;
use testkit::require::{find_fetched, require};
use testkit::wait::blocking::wait_until;
use testkit::{DaemonRig, EmbeddedHost, FaultyLink, RealSshd};

use crate::ask::{GUARD, connect, echoes, exec, in_state, post, problem};

fn text(rig: &DaemonRig) -> String {
    let answer = rig.http("GET", "/metrics", &[], None);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let kind = answer.header("content-type").unwrap();
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    answer.text()
}

fn samples(rig: &DaemonRig) -> Vec<Sample> {
    parse(&text(rig)).unwrap()
}

/// Returns the number of that name and those labels, 0 where there is none.
fn number(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> f64 {
    let fits = |sample: &&Sample| {
        sample.name == name
            && labels.iter().all(|(label, value)| sample.label(label) == Some(*value))
    };
    samples.iter().filter(fits).map(|sample| sample.value).sum()
}

/// A real server behind a link, and a daemon that knows it as `h`.
fn linked() -> (RealSshd, FaultyLink, DaemonRig) {
    let sshd = RealSshd::start();
    let link = FaultyLink::start(sshd.addr());
    let mut rig = DaemonRig::new();
    rig.add_host("h", Target::from(&sshd).through(&link));
    rig.start_daemon(&[]);
    (sshd, link, rig)
}

#[test]
fn a_command_raises_the_counters_and_a_cut_the_reconnects() {
    if !RealSshd::require() {
        return;
    }
    let (_sshd, link, rig) = linked();
    let of_h: &[_] = &[("host", "h")];
    let before = samples(&rig);
    assert_eq!(number(&before, "occd_hosts", &[("state", "idle")]), 1.0);
    assert_eq!(number(&before, "occd_host_dials_total", of_h), 0.0);

    connect(&rig, "h");
    echoes(&rig, "h");
    assert_eq!(exec(&rig, "h", &["false"]).status, 200);
    let limited = json!({"argv": ["sleep", "60"], "timeout_ms": 300});
    assert_eq!(rig.http("POST", "/v1/hosts/h/exec", &[], Some(limited)).json()["timed_out"], true);
    let after = samples(&rig);
    let count = |name: &str, label: (&str, &str)| number(&after, name, &[("host", "h"), label]);
    let commands = ["ok", "failed", "timed_out", "cut_off"]
        .map(|end| count("occd_host_commands_total", ("outcome", end)));
    assert_eq!(commands, [1.0, 1.0, 1.0, 0.0]);
    // One of them said something.
    assert_eq!(number(&after, "occd_host_exec_first_byte_seconds_count", of_h), 1.0);
    assert_eq!(number(&after, "occd_host_exec_seconds_count", of_h), 3.0);
    let spent = number(&after, "occd_host_exec_seconds_sum", of_h);
    // The limit counts from a moment before it is sent.
    assert!((0.2..30.0).contains(&spent), "{spent}");
    assert_eq!(count("occd_host_connect_seconds_count", ("outcome", "ok")), 1.0);
    for phase in ["resolve", "connect", "key_exchange", "login"] {
        assert_eq!(
            count("occd_host_connect_phase_seconds_count", ("phase", phase)),
            1.0,
            "{phase}"
        );
    }
    assert_eq!(count("occd_host_state", ("state", "connected")), 1.0);
    assert_eq!(count("occd_host_state", ("state", "idle")), 0.0);
    assert_eq!(number(&after, "occd_hosts", &[("state", "connected")]), 1.0);
    assert!(number(&after, "occd_host_received_bytes_total", of_h) > 1000.0);
    assert!(number(&after, "occd_host_sent_bytes_total", of_h) > 1000.0);
    let runs = &[("route", "/v1/hosts/{host}/exec"), ("method", "POST"), ("status", "2xx")];
    assert_eq!(number(&after, "occd_request_seconds_count", runs), 3.0);
    assert_eq!(number(&after, "occd_host_reconnects_total", of_h), 0.0);

    // The link is cut; the daemon connects again by itself.
    link.reset_all();
    let back = |all: &Vec<Sample>| number(all, "occd_host_reconnects_total", of_h) == 1.0;
    let now = wait_until("a reconnect", GUARD, || samples(&rig), back);
    let made = [("host", "h"), ("outcome", "ok")];
    assert_eq!(number(&now, "occd_host_connect_seconds_count", &made), 2.0);

    // Nobody is there: that is a failure with a code.
    link.refuse(true);
    post(&rig, "/v1/hosts/h/reconnect");
    in_state(&rig, "h", State::Backoff);
    let refused = samples(&rig);
    let failures = [("host", "h"), ("code", Code::HostUnreachable.as_str())];
    assert!(number(&refused, "occd_host_dial_failures_total", &failures) >= 1.0, "{refused:?}");
}

/// Checks what the format asks for, and what promtool does.
fn check_format(text: &str) {
    let mut families: BTreeMap<&str, &str> = BTreeMap::new();
    let mut helped = BTreeSet::new();
    let mut current = "";
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", name, help] => {
                assert!(helped.insert(name) && !help.is_empty(), "{line}");
            }
            ["#", "TYPE", name, kind] => {
                assert!(families.insert(name, kind).is_none(), "{name} comes twice");
                assert!(helped.contains(name), "{line}");
                assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
                current = name;
            }
            _ => {
                let sample = occ_proto::metrics::sample(line).unwrap();
                // All of a family stand together.
                let own = match families[current] {
                    "histogram" => {
                        ["_bucket", "_sum", "_count"].map(|end| format!("{current}{end}")).to_vec()
                    }
                    _ => vec![current.to_owned()],
                };
                assert!(own.contains(&sample.name), "{line} in {current}");
            }
        }
    }
    let mut seen = BTreeSet::new();
    let mut buckets: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    let mut counts = BTreeMap::new();
    for sample in parse(text).unwrap() {
        assert!(
            seen.insert(format!("{}{:?}", sample.name, sample.labels)),
            "{sample:?} comes twice"
        );
        let mut labels = sample.labels.clone();
        let bound = labels.remove("le");
        if let Some(of) = sample.name.strip_suffix("_bucket") {
            let bound: f64 = bound.unwrap().parse().unwrap();
            buckets.entry(format!("{of}{labels:?}")).or_default().push((bound, sample.value));
        } else if let Some(of) = sample.name.strip_suffix("_count") {
            counts.insert(format!("{of}{labels:?}"), sample.value);
        }
    }
    assert!(!buckets.is_empty());
    for (of, classes) in &buckets {
        assert!(classes.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{of}: {classes:?}");
        let last = classes.last().unwrap();
        assert_eq!((last.0, Some(&last.1)), (f64::INFINITY, counts.get(of)), "{of}");
    }
    assert_eq!(buckets.len(), counts.len());
}

/// Reads the text as Prometheus' own library does, and prints what it read.
const READER: &str = "\
import json, sys
from prometheus_client.parser import text_string_to_metric_families
print(json.dumps([
    [family.name, family.type, bool(family.documentation), len(family.samples)]
    for family in text_string_to_metric_families(sys.stdin.read())
]))
";

#[test]
fn prometheus_can_read_it() {
    if !RealSshd::require() {
        return;
    }
    let (_sshd, _link, rig) = linked();
    connect(&rig, "h");
    echoes(&rig, "h");
    let text = text(&rig);
    check_format(&text);

    let program = find_fetched("prometheus-client");
    let available = program.as_ref().map(|_| ()).map_err(Clone::clone);
    if !require("prometheus-client", available, "OCC_REQUIRE_PROMETHEUS") {
        return;
    }
    // By the path that it has in its environment, from which it finds its packages.
    let link = program.unwrap();
    let python: PathBuf = link.parent().unwrap().join(link.read_link().unwrap());
    let mut child = Command::new(python)
        .args(["-c", READER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let families: Vec<(String, String, bool, usize)> =
        serde_json::from_slice(&output.stdout).unwrap();
    let read: usize = families.iter().map(|family| family.3).sum();
    assert_eq!(read, parse(&text).unwrap().len());
    for (name, kind, is_told, _) in &families {
        assert!(*is_told && kind != "unknown", "{name} is of the kind {kind}");
    }
    let kind =
        |name: &str| families.iter().find(|family| family.0 == name).map(|one| one.1.as_str());
    assert_eq!(kind("occd_host_exec_seconds"), Some("histogram"));
    assert_eq!(kind("occd_host_state"), Some("gauge"));
    assert_eq!(kind("occd_host_commands"), Some("counter"));
}

#[test]
fn nothing_that_a_client_says_is_in_it() {
    if !RealSshd::require() {
        return;
    }
    let (_sshd, _link, rig) = linked();
    let word = "canary5f2c";
    let request = json!({
        "argv": ["sh", "-c", "cat; echo $SECRET", word],
        "env": {"SECRET": word},
        "stdin": format!("{word}\n"),
    });
    let answer = rig.http("POST", "/v1/hosts/h/exec", &[], Some(request));
    assert!(answer.text().contains(word), "{}", answer.text());
    for (method, path) in [
        ("GET", format!("/v1/hosts/h/files/tmp/{word}")),
        ("GET", format!("/v1/hosts/{word}")),
        ("GET", format!("/{word}?{word}={word}")),
    ] {
        assert!(rig.http(method, &path, &[], None).status >= 400, "{path}");
    }
    assert_eq!(rig.http("CANARY5F2C", "/metrics", &[], None).status, 405);
    let text = text(&rig);
    check_format(&text);
    assert!(!text.to_lowercase().contains(word), "{text}");
    assert!(text.contains("route=\"none\",method=\"GET\",status=\"4xx\""), "{text}");
    assert!(text.contains("method=\"other\",status=\"4xx\""), "{text}");
}

#[test]
fn a_host_that_is_removed_is_gone_from_it() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let mut rig = DaemonRig::new();
    rig.add_host("stays", &sshd);
    rig.add_host("goes", &sshd);
    rig.start_daemon(&[]);
    for host in ["stays", "goes"] {
        echoes(&rig, host);
    }
    let names = |all: &[Sample]| -> BTreeSet<String> {
        all.iter().filter_map(|sample| sample.label("host")).map(str::to_owned).collect()
    };
    assert_eq!(names(&samples(&rig)), BTreeSet::from(["stays".to_owned(), "goes".to_owned()]));
    rig.occ_ok(&["host", "remove", "goes", "-f"]);
    assert_eq!(names(&samples(&rig)), BTreeSet::from(["stays".to_owned()]));
    // One that comes again begins anew.
    rig.add_host("goes", &sshd);
    let all = wait_until("the host", GUARD, || samples(&rig), |all| names(all).len() == 2);
    assert_eq!(number(&all, "occd_host_commands_total", &[("host", "goes")]), 0.0);
    assert_eq!(number(&all, "occd_host_commands_total", &[("host", "stays")]), 1.0);
}

#[test]
fn a_jump_host_without_a_name_is_in_it_once_it_is_dialled() {
    let (gate, server) = (EmbeddedHost::start(), EmbeddedHost::start());
    let mut rig = DaemonRig::new();
    rig.add_known_host(&gate.known_hosts_line());
    let key = format!("IdentityFile {}\n", gate.client_key_path().display());
    std::fs::write(rig.home().join(".ssh/config"), key).unwrap();
    let way = format!("{}@127.0.0.1:{}", gate.user(), gate.port());
    rig.add_host("far", &server);
    rig.edit_hosts(|file| {
        file.hosts.values_mut().for_each(|host| host.jump_host = Some(way.clone()));
    });
    rig.start_daemon(&[]);
    let via = format!("via:{way}");
    assert_eq!(number(&samples(&rig), "occd_host_dials_total", &[("host", &via)]), 0.0);
    echoes(&rig, "far");
    let text = text(&rig);
    check_format(&text);
    let all = parse(&text).unwrap();
    assert_eq!(number(&all, "occd_host_dials_total", &[("host", &via)]), 1.0);
    let waited = [("host", "far"), ("phase", "jump")];
    assert_eq!(number(&all, "occd_host_connect_phase_seconds_count", &waited), 1.0);
    // Hosts are those that hosts.json has.
    assert_eq!(number(&all, "occd_hosts", &[]), 1.0);
}

#[test]
fn those_who_look_see_it_and_what_is_refused_is_counted() {
    let mut rig = DaemonRig::new();
    rig.start_daemon(&[]);
    let version = rig.http("GET", "/v1/version", &[], None).json();
    let look = PathBuf::from(version["read_only_socket"].as_str().unwrap());
    let answer = request(&look, "GET", "/metrics", &[], None).unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.text().contains("\nprocess_resident_memory_bytes "), "{}", answer.text());

    let too_large = json!({"name": "x".repeat(2 << 20), "hostname": "x"});
    let answer = rig.http("POST", "/v1/hosts", &[], Some(too_large));
    assert_eq!(problem(&answer).code, Code::TooLarge);
    let all = samples(&rig);
    assert_eq!(number(&all, "occd_requests_turned_away_total", &[("status", "413")]), 1.0);
    assert_eq!(number(&all, "occd_requests_turned_away_total", &[("status", "429")]), 0.0);

    // A stream is open until its client leaves; what it missed is a gap.
    let streams = |all: &Vec<Sample>| number(all, "occd_open_streams", &[]);
    assert_eq!(streams(&all), 0.0);
    let mut child =
        rig.occ(&["events", "--after", "00000000-5"]).stdout(Stdio::null()).spawn().unwrap();
    let all = wait_until("a stream", GUARD, || samples(&rig), |all| streams(all) == 1.0);
    assert_eq!(number(&all, "occd_event_gaps_total", &[("reason", "restarted")]), 1.0);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("its end", GUARD, || samples(&rig), |all| streams(all) == 0.0);
}

#[test]
fn occ_shows_them_to_people_and_to_programs() {
    if !RealSshd::require() {
        return;
    }
    let (sshd, _link, rig) = linked();
    rig.add_host("other", &sshd);
    echoes(&rig, "h");
    rig.occ_ok(&["exec", "--local", "true"]);
    let shown = |table: &String| table.contains("other");
    let table = wait_until("the new host", GUARD, || rig.occ_ok(&["metrics"]), shown);
    let lines: Vec<&str> = table.lines().collect();
    let heading = "HOST   STATE      RECONNECTS  CONNECT p50/p95";
    assert!(lines[0].starts_with(heading), "{table}");
    assert!(lines[1].starts_with("h      connected  0"), "{table}");
    assert!(lines[2].starts_with("local  -          -"), "{table}");
    assert!(lines[3].starts_with("other  idle"), "{table}");
    assert!(lines[4].starts_with("occd 0.") && lines[4].contains(" descriptors; "), "{table}");

    let one: Value =
        serde_json::from_str(&rig.occ_ok(&["metrics", "--host", "h", "--json"])).unwrap();
    assert_eq!(one["hosts"].as_array().unwrap().len(), 1);
    assert_eq!(one["hosts"][0]["commands"], json!({"ok": 1}));
    assert!(one["hosts"][0]["connect"]["p95_ms"].as_f64().unwrap() > 0.0, "{one}");
    assert!(one["daemon"]["request_p99_ms"].as_f64().unwrap() > 0.0, "{one}");

    check_format(&rig.occ_ok(&["metrics", "--raw"]));
    let raw = rig.occ_ok(&["metrics", "--raw", "--host", "h"]);
    check_format(&raw);
    assert!(parse(&raw).unwrap().iter().all(|sample| sample.label("host") == Some("h")), "{raw}");
    let output = rig.run_occ(&["metrics", "--host", "nobody"]);
    assert_eq!(output.code(), 4, "{output:?}");
    assert!(output.stderr.contains("'nobody'"), "{output:?}");
}
