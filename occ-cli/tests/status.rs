//! `occ status`: the texts, the tables and the exit codes.

mod common;

use common::{Answer, Fake, ago, broken, connected, list, status};
use serde_json::{Value, json};
use testkit::terminal::Terminal;

fn one(value: Value) -> Fake {
    Fake::new(move |seen| match seen.path.as_str() {
        "/v1/hosts/h" | "/v1/hosts/h?fresh=true" => Answer::ok(value.clone()),
        "/v1/hosts/h/container?fresh=true" => Answer::ok(json!({
            "exists": true, "state": "running", "health": "healthy", "started_at": ago(7830),
            "image": "opencode-cloud-sandbox:latest", "image_id": "sha256:8f3a21c09d4eaaaa",
            "image_version": "25.1.3", "id": "x", "exit_code": null, "docker_version": "27",
            "as_of": ago(0),
            "ports": [{"container_port": "3000/tcp", "host_ip": "127.0.0.1", "host_port": 3000}],
        })),
        path => panic!("{path}"),
    })
}

fn text(value: Value) -> (String, String) {
    let done = one(value).occ(&["status", "--host", "h"]);
    assert_eq!(done.code, 0, "{done:?}");
    (done.out, done.err)
}

#[test]
fn one_request_answers_for_a_connected_host() {
    let mut value = connected("h");
    value["connection"]["via"] = json!(["bastion-eu"]);
    let fake = one(value);
    let done = fake.occ(&["status", "--host", "h"]);
    assert_eq!(
        done.out,
        "[h] Link      ● connected  2h 10m, 12 ms, deploy@203.0.113.10 via bastion-eu\n\
         [h] Sandbox   ? unknown    Docker has not answered yet, or is closed to you; --fresh says which\n"
    );
    assert_eq!((done.err.as_str(), fake.lines()), ("", vec!["GET /v1/hosts/h".to_owned()]));
}

#[test]
fn every_state_has_its_line_and_its_hint() {
    let mut value = broken("h", "backoff", "host_unreachable", "no route to host.");
    value["attempt"] = json!(4);
    value["next_retry_at"] = json!(ago(-7830));
    let (out, err) = text(value);
    assert_eq!(out, "[h] Link      ◐ backoff    2h 10m, no route to host; attempt 5 in 2h 10m\n");
    assert_eq!(err, "hint: occ reconnect --host h\n");

    let mut value = broken("h", "failed", "auth_failed", "every key was refused");
    value["config"]["user"] = json!("deploy");
    let (out, err) = text(value);
    assert_eq!(out, "[h] Link      ✗ failed     2h 10m, every key was refused\n");
    assert_eq!(err, "hint: ssh-copy-id deploy@203.0.113.10; then occ reconnect --host h\n");

    let on_this = "connecting on this request; --fresh waits for it\n";
    let mut idle = status("h", "idle");
    assert_eq!(text(idle.clone()).0, format!("[h] Link      ○ idle       {on_this}"));
    idle["idle_reason"] = json!("server_idle_policy");
    idle["idle_close_s"] = json!(301);
    let why = "the server closes idle connections after 5m 1s";
    assert_eq!(text(idle.clone()).0, format!("[h] Link      ○ idle       {why}; {on_this}"));
    idle["idle_reason"] = json!("a reason of a newer daemon");
    assert_eq!(text(idle).0, format!("[h] Link      ○ idle       {on_this}"));
    assert_eq!(text(status("h", "connecting")).0, "[h] Link      ◐ connecting 2h 10m, attempt 1\n");
    let (out, err) = text(status("h", "stopped"));
    assert_eq!(out, "[h] Link      ○ stopped    2h 10m, disconnected on request\n");
    assert_eq!(err, "hint: occ connect --host h\n");
}

#[test]
fn a_server_that_leaves_keep_alives_unanswered_is_told_of() {
    let mut value = connected("h");
    value["connection"]["unanswered_since"] = json!(ago(75 * 60));
    let done = one(value.clone()).occ(&["status", "--host", "h"]);
    // Two units are shown, so a slow machine changes neither.
    let says = "keep-alives unanswered for 1h 15m";
    assert!(done.out.contains(&format!("@203.0.113.10, {says}\n")), "{done:?}");
    let fake = Fake::new(move |_| Answer::ok(list(&[value.clone()], None)));
    let done = fake.occ(&["status", "--all"]);
    assert!(done.out.contains(&format!("  {says}\n")), "{done:?}");
}

#[test]
fn jump_hosts_that_are_not_configured_are_counted_apart() {
    let fake = Fake::new(move |_| {
        let mut list = list(&[connected("h")], Some("h"));
        list["via"] = json!([
            connected("via:gate"),
            broken("via:u@far", "backoff", "host_unreachable", "down"),
        ]);
        Answer::ok(list)
    });
    let done = fake.occ(&["status", "--all"]);
    let summary = "1 host: 1 connected; 2 jump hosts: 1 connected, 1 backoff; * default: h\n";
    assert!(done.out.ends_with(summary), "{done:?}");
}

#[test]
fn fresh_waits_and_asks_docker() {
    let fake = one(connected("h"));
    let done = fake.occ(&["status", "--host", "h", "--fresh"]);
    assert_eq!(
        done.out,
        "[h] Link      ● connected  2h 10m, 12 ms, deploy@203.0.113.10\n\
         [h] Sandbox   ● running    2h 10m, healthy\n\
         [h] Image     opencode-cloud-sandbox:latest (25.1.3), 8f3a21c09d4e\n\
         [h] Port      127.0.0.1:3000 -> 3000/tcp\n\
         [h] Security  local only\n"
    );
    assert_eq!(
        fake.lines(),
        ["GET /v1/hosts/h?fresh=true", "GET /v1/hosts/h/container?fresh=true"]
    );
}

#[test]
fn docker_trouble_is_part_of_the_answer() {
    let fake = Fake::new(|seen| match seen.path.as_str() {
        "/v1/hosts/h?fresh=true" => Answer::ok(connected("h")),
        _ => {
            Answer::problem(502, "docker_permission", "h: docker.sock is not open to deploy.", "h")
        }
    });
    let done = fake.occ(&["status", "--host", "h", "--fresh"]);
    assert_eq!(done.code, 0);
    assert!(done.out.contains("[h] Sandbox   ? unknown    docker.sock is not open to deploy\n"));
    assert_eq!(
        done.err,
        "hint: on h: sudo usermod -aG docker deploy; then occ reconnect --host h\n"
    );
}

#[test]
fn a_fresh_look_that_cannot_be_had_is_no_success() {
    let mut value = broken("h", "backoff", "host_unreachable", "no route to host.");
    value["sandbox"] = json!({
        "exists": true, "state": "running", "as_of": ago(60), "stale": true, "exit_code": null,
        "docker_version": "27", "ports": [],
    });
    let fake = one(value);
    let done = fake.occ(&["status", "--host", "h", "--fresh"]);
    assert_eq!(done.code, 5, "{done:?}");
    assert!(done.out.contains("[h] Sandbox   ? running    as of 1m ago, stale"), "{done:?}");
    assert_eq!(done.err, "hint: occ reconnect --host h\n");
    assert_eq!(fake.occ(&["status", "--host", "h", "--fresh", "--json"]).code, 5);
    // From memory it is an answer.
    assert_eq!(fake.occ(&["status", "--host", "h"]).code, 0);
}

#[test]
fn a_daemon_that_does_not_answer_has_a_hint() {
    let mut value = connected("h");
    let down =
        "the Docker daemon does not answer on /s: Docker is installed, but its socket is not there";
    let hung = "the Docker daemon does not answer: it takes connections, and says nothing";
    for (message, hint) in [
        (down, "hint: on h: sudo systemctl start docker, where systemd runs"),
        (hung, "hint: on h: sudo systemctl restart docker, where systemd runs"),
    ] {
        value["docker_error"] = json!({ "code": "docker_unavailable", "message": message });
        let (out, err) = text(value.clone());
        assert!(out.contains(&format!("[h] Sandbox   ? unknown    {message}\n")), "{out}");
        assert!(err.starts_with(hint), "{err}");
    }
}

#[test]
fn a_host_without_docker_has_no_hint() {
    let fake = Fake::new(|seen| match seen.path.as_str() {
        "/v1/hosts/h" => Answer::ok(connected("h")),
        _ => Answer::problem(409, "docker_unavailable", "h: there is no Docker on this host.", "h"),
    });
    let done = fake.occ(&["status", "-v", "--host", "h"]);
    assert_eq!((done.code, done.err.as_str()), (0, ""), "{done:?}");
    assert!(done.out.contains("○ none       there is no Docker on this host\n"), "{done:?}");
}

#[test]
fn verbose_says_whether_the_connection_is_compressed() {
    let mut value = connected("h");
    value["connection"]["compressed"] = json!(true);
    let out = one(value).occ(&["status", "-v", "--host", "h"]).out;
    assert!(out.contains("[h] Cipher    aes128-gcm, compressed\n"), "{out}");
}

#[test]
fn verbose_shows_the_connection() {
    let out = one(connected("h")).occ(&["status", "-v", "--host", "h"]).out;
    for line in [
        "[h] Server    OpenSSH_9.2\n",
        "[h] Host key  ssh-ed25519 SHA256:Qm3nV\n",
        "[h] Login     publickey ~/.ssh/id_ed25519\n",
        "[h] Cipher    aes128-gcm\n",
        "[h] Exchange  curve25519-sha256, not post-quantum\n",
        "[h] Traffic   1.2 MB in, 980 B out; connections 1, channels in use 0\n",
        "[h] System    Linux x86_64, /bin/bash\n",
        "[h] Docker    /var/run/docker.sock, docker in PATH\n",
    ] {
        assert!(out.contains(line), "{line}{out}");
    }
}

#[test]
fn a_servers_text_cannot_drive_the_terminal() {
    let (out, _) =
        text(broken("h", "failed", "not_ssh", "banner \u{1b}]52;c;eA==\u{7}\u{9b}2J\u{202e}"));
    assert!(!out.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'), "{out:?}");
}

#[test]
fn quiet_is_an_exit_code() {
    let with = |sandbox: Value| {
        let mut value = connected("h");
        value["sandbox"] = sandbox;
        value
    };
    let mut gone = sandbox("running", 0, false);
    gone["exists"] = json!(false);
    gone["state"] = Value::Null;
    let mut no_docker = connected("h");
    no_docker["connection"]["system"] = json!({
        "shell": "/bin/sh", "os": "Linux", "arch": "x86_64", "docker_sockets": [], "docker_cli": false,
    });
    for (value, code) in [
        (with(sandbox("running", 0, false)), 0),
        (with(sandbox("exited", 0, false)), 1),
        (with(gone), 1),
        (no_docker, 1),
        (with(sandbox("running", 60, true)), 5),
        (connected("h"), 5),
        (status("h", "backoff"), 5),
        (status("h", "idle"), 5),
    ] {
        let done = one(value.clone()).occ(&["status", "-q", "--host", "h"]);
        assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (code, "", ""), "{value}");
    }
}

#[test]
fn json_is_the_daemons_document() {
    let value = connected("h");
    let done = one(value.clone()).occ(&["status", "--json", "--host", "h"]);
    assert_eq!(done.out, format!("{value}\n"));
}

#[test]
fn errors_of_the_daemon_have_exit_codes_and_with_json_their_document() {
    let fake = Fake::new(|_| common::host_not_found("h"));
    let done = fake.occ(&["status", "--host", "h"]);
    assert_eq!(done.code, 4);
    assert_eq!(
        done.err,
        "Error: Host 'h' not found.\nhint: occ host list shows the available hosts\n"
    );
    let done = fake.occ(&["status", "--host", "h", "--json"]);
    let document: Value = serde_json::from_str(&done.err).unwrap();
    assert_eq!((done.code, &document["code"]), (4, &json!("host_not_found")));
    assert_eq!(done.out, "");
}

fn many() -> Fake {
    let mut backoff = broken("web-07", "backoff", "host_unreachable", "no route to host");
    backoff["next_retry_at"] = json!(ago(-7830));
    let mut described = connected("prod-1");
    described["config"]["description"] = json!("the shop");
    let mut left_alone = status("build-1", "idle");
    left_alone["idle_reason"] = json!("server_idle_policy");
    left_alone["idle_close_s"] = json!(7830);
    let hosts = [
        left_alone,
        described,
        backoff,
        connected("prod-2"),
        broken("prod-3", "failed", "host_key_changed", "host key changed"),
        broken("web-08", "backoff", "host_unreachable", "waiting for the jump host gate"),
    ];
    Fake::new(move |seen| match seen.path.as_str() {
        "/v1/default-host" => Answer::ok(json!({"name": null})),
        "/v1/hosts" => {
            let mut list = list(&hosts, Some("prod-1"));
            list["warnings"] = json!(["hosts.json line 3: \u{1b}[31mbad"]);
            Answer::ok(list)
        }
        path => panic!("{path}"),
    })
}

const TABLE: &str = "  \
  HOST      LINK       FOR  RTT    NOTE
✗ prod-3    failed     2h   -      host key changed
◐ web-07    backoff    2h   -      no route to host, next try in 2h 10m
◐ web-08    backoff    2h   -      waiting for the jump host gate
● prod-1 *  connected  2h   12 ms  the shop
● prod-2    connected  2h   12 ms
○ build-1   idle       -    -      the server closes idle connections after 2h 10m; connects on use

6 hosts: 2 connected, 2 backoff, 1 failed, 1 idle; * default: prod-1
";

#[test]
fn the_table_has_problems_first() {
    let done = many().occ(&["status", "--all"]);
    assert_eq!(done.out, TABLE);
    assert_eq!(done.err, "Warning: hosts.json line 3: \u{fffd}[31mbad\n");
    assert_eq!(done.code, 0);
}

#[test]
fn without_a_host_it_is_this_machine() {
    let answering = |exists: bool| {
        Fake::new(move |seen| match seen.path.as_str() {
            "/v1/default-host" => Answer::ok(json!({"name": null})),
            "/v1/hosts/local/container?disk=true" => {
                let mut sandbox = sandbox("running", 0, false);
                sandbox["exists"] = exists.into();
                Answer::ok(sandbox)
            }
            other => panic!("{other}"),
        })
    };
    let done = answering(true).occ(&["status"]);
    assert!(done.out.starts_with("Sandbox   ● running"), "{done:?}");
    assert_eq!(answering(false).occ(&["status", "--local"]).out, "Sandbox   ○ No service found.\n");
    let none = Fake::new(|seen| match seen.path.as_str() {
        "/v1/default-host" => Answer::ok(json!({"name": null})),
        _ => Answer::problem(409, "docker_unavailable", "there is no Docker on this host.", "h"),
    });
    assert_eq!(none.occ(&["status"]).code, 0);
    assert_eq!(none.occ(&["status", "-q"]).code, 1);
    assert_eq!(none.occ(&["status", "-q", "--json"]).code, 1);
    let down = Fake::new(|seen| match seen.path.as_str() {
        "/v1/default-host" => Answer::ok(json!({"name": null})),
        _ => Answer::problem(503, "docker_unavailable", "the Docker daemon does not answer.", "h"),
    });
    assert!(down.occ(&["status"]).out.starts_with("Sandbox   ? unknown"));
    assert_eq!(down.occ(&["status"]).code, 0);
    assert_eq!(down.occ(&["status", "-q"]).code, 5);
    // The same question has the same answer for scripts.
    let done = down.occ(&["status", "--json"]);
    assert_eq!((done.code, done.err.as_str()), (0, ""), "{done:?}");
    let document: Value = serde_json::from_str(&done.out).unwrap();
    let fault =
        json!({"code": "docker_unavailable", "message": "the Docker daemon does not answer."});
    assert_eq!(document, json!({ "docker_error": fault }));
}

#[test]
fn a_host_that_is_not_there_gets_the_nearest_that_is() {
    let fake = Fake::new(|seen| match seen.path.as_str() {
        "/v1/hosts" => Answer::ok(list(&[connected("build"), connected("web-1")], None)),
        path => common::host_not_found(path.rsplit('/').next().unwrap()),
    });
    for args in [&["status", "--host", "wbe-1"][..], &["host", "show", "wbe-1"]] {
        let done = fake.occ(args);
        let expected = "Error: Host 'wbe-1' not found.\n\
                        hint: did you mean web-1? occ host list shows the available hosts\n";
        assert_eq!((done.code, done.err.as_str()), (4, expected), "{args:?}");
    }
    let done = fake.occ(&["status", "--host", "nothing"]);
    assert!(done.err.ends_with("\nhint: occ host list shows the available hosts\n"), "{done:?}");
}

#[test]
fn occ_alone_on_a_terminal_is_the_table_and_without_hosts_the_help() {
    let (screen, code) = Terminal::start(many().command(&["--no-color"])).finish();
    assert_eq!((screen.contains(TABLE), code), (true, 0), "{screen}");
    let empty = Fake::new(|_| Answer::ok(list(&[], None)));
    let (screen, code) = Terminal::start(empty.command(&[])).finish();
    assert_eq!((screen.starts_with("occ: your servers"), code), (true, 0), "{screen}");
}

#[test]
fn colours_are_for_terminals_only_and_can_be_refused() {
    let fake = one(connected("h"));
    let screen = |args: &[&str], variables: &[(&str, &str)]| {
        let mut command = fake.command(args);
        command.env("TERM", "xterm").envs(variables.iter().copied());
        Terminal::start(command).finish().0
    };
    let args = ["status", "--host", "h"];
    assert!(screen(&args, &[]).contains("\u{1b}[32m● connected"));
    for refused in [("NO_COLOR", "1"), ("TERM", "dumb"), ("TERM", "")] {
        assert!(!screen(&args, &[refused]).contains('\u{1b}'), "{refused:?}");
    }
    assert!(!screen(&["status", "--host", "h", "--no-color"], &[]).contains('\u{1b}'));
    assert!(!fake.occ(&args).out.contains('\u{1b}'));
    // A document on a terminal is indented and has the same keys in the same order.
    let screen = screen(&["status", "--host", "h", "--json"], &[]);
    assert!(screen.contains("\n  \"name\": \"h\",\n"), "{screen}");
}

#[test]
fn a_reader_that_went_away_ends_it_quietly() {
    let fake = many();
    let mut child = fake
        .command(&["status", "--all", "-q", "--json"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let done = common::finish(child);
    assert_eq!((done.code, done.err.as_str()), (141, ""));
}

fn sandbox(state: &str, as_of: i64, stale: bool) -> Value {
    json!({
        "exists": true, "state": state, "health": "healthy", "started_at": ago(7830),
        "image": "opencode-cloud-sandbox:latest", "image_id": "sha256:8f3a21c09d4eaaaa",
        "image_version": "25.1.3", "id": "x", "exit_code": null, "docker_version": "27",
        "as_of": ago(as_of), "stale": stale, "ports": [],
    })
}

#[test]
fn the_sandbox_comes_from_memory_with_the_time_it_was_seen() {
    let mut value = connected("h");
    value["sandbox"] = sandbox("running", 0, false);
    let fake = one(value.clone());
    let out = fake.occ(&["status", "--host", "h"]).out;
    assert!(out.contains("[h] Sandbox   ● running    2h 10m, healthy\n"), "{out}");
    assert_eq!(fake.lines(), ["GET /v1/hosts/h"]);

    let mut down = broken("h", "backoff", "host_unreachable", "no route to host.");
    down["sandbox"] = sandbox("running", 52, true);
    let (out, _) = text(down.clone());
    // A loaded machine takes its time between the document and the look.
    let aged = |age| format!("[h] Sandbox   ? running    as of {age}s ago, stale, healthy\n");
    assert!((52..60).any(|age| out.contains(&aged(age))), "{out}");

    value["docker_error"] = json!({"code": "docker_unavailable", "message": "nobody answers"});
    value["sandbox"]["stale"] = json!(true);
    let (out, _) = text(value.clone());
    assert!(out.contains("[h] Docker    ✗ nobody answers\n"), "{out}");

    let mut plain = connected("p");
    plain["sandbox"] = sandbox("exited", 0, false);
    let hosts = list(&[down, plain, status("idle", "idle")], None);
    let fake = Fake::new(move |_| Answer::ok(hosts.clone()));
    let out = fake.occ(&["status", "--all"]).out;
    let rows: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0][..7], ["HOST", "LINK", "FOR", "RTT", "SANDBOX", "AS", "OF"]);
    assert!((52..60).any(|age| out.contains(&format!("running?  {age}s"))), "{out}");
    assert!(out.contains("exited    now"), "{out}");
}

/// Many hosts behind a bastion that is down, and a few others.
fn behind_a_bastion() -> Value {
    let mut hosts: Vec<Value> = (1..=61)
        .map(|number| {
            let mut host = broken(
                &format!("us-{number}"),
                "backoff",
                "host_unreachable",
                "wait for bastion-us",
            );
            host["config"]["groups"] = json!(["us"]);
            host
        })
        .collect();
    hosts.extend([connected("eu-1"), connected("eu-2"), status("idle-1", "idle")]);
    list(&hosts, Some("us-3"))
}

#[test]
fn on_a_terminal_rows_that_are_alike_are_one() {
    let fake = Fake::new(|_| Answer::ok(behind_a_bastion()));
    let screen = |args: &[&str]| {
        let (screen, code) = Terminal::start(fake.command(args)).finish();
        assert_eq!(code, 0, "{screen}");
        screen
    };
    // The default host has a mark that no other has.
    let folded = screen(&["status", "--all", "--no-color"]);
    assert_eq!(
        folded,
        "  \
  HOST      LINK       FOR  RTT    NOTE
◐ 60 hosts  backoff    2h   -      wait for bastion-us
◐ us-3 *    backoff    2h   -      wait for bastion-us
● eu-1      connected  2h   12 ms
● eu-2      connected  2h   12 ms
○ idle-1    idle       -    -

64 hosts: 2 connected, 61 backoff, 1 idle; * default: us-3
"
    );
    assert_eq!(fake.lines(), ["GET /v1/hosts"]);
    assert!(screen(&["status", "--all", "-v"]).contains("us-61 "));
    assert!(fake.occ(&["status", "--all"]).out.contains("us-61 "));
    let group = screen(&["status", "--group", "us"]);
    assert!(group.contains("60 hosts") && !group.contains("eu-1"), "{group}");
    assert!(group.contains("61 hosts: 61 backoff; * default: us-3\n"), "{group}");
}

#[test]
fn a_group_is_the_daemons_document_with_its_hosts_alone() {
    let fake = Fake::new(|_| Answer::ok(behind_a_bastion()));
    let done = fake.occ(&["status", "--group", "us", "--json", "-q"]);
    let document: Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!((done.code, document["hosts"].as_array().unwrap().len()), (1, 61));
    assert_eq!(document["hosts"][0]["a_key_of_a_newer_daemon"], true);
    assert_eq!(fake.occ(&["status", "--group", "asia"]).code, 4);
}

#[test]
fn a_default_host_that_is_in_another_group_is_not_said_to_be_missing() {
    let fake = |default: &'static str| {
        let mut other = connected("other");
        other["config"]["groups"] = json!(["g"]);
        Fake::new(move |_| Answer::ok(list(&[connected("here"), other.clone()], Some(default))))
    };
    let done = fake("here").occ(&["status", "--group", "g"]);
    assert!(done.out.ends_with("\n1 host: 1 connected\n"), "{done:?}");
    let done = fake("other").occ(&["status", "--group", "g"]);
    assert!(done.out.ends_with("\n1 host: 1 connected; * default: other\n"), "{done:?}");
    let done = fake("gone").occ(&["status", "--group", "g"]);
    assert!(done.out.ends_with("; * default: gone, which does not exist\n"), "{done:?}");
}

#[test]
fn documents_keep_the_order_in_which_the_daemon_wrote_them() {
    let fake = Fake::new(|seen| match seen.path.as_str() {
        "/v1/default-host" => Answer::ok(json!({"name": null})),
        _ => {
            let host = connected("a").to_string();
            let mut host: serde_json::Map<String, Value> = serde_json::from_str(&host).unwrap();
            let first: Vec<String> = ["name", "state", "status", "since"]
                .iter()
                .map(|key| format!("{}:{}", json!(key), host.remove(*key).unwrap()))
                .collect();
            let rest = json!(host).to_string();
            let config = r#""config":{"hostname":"203.0.113.10","groups":["us"]}"#;
            let rest = rest.replace(r#""config":{"hostname":"203.0.113.10"}"#, config);
            let host = format!("{{{},{}", first.join(","), &rest[1..]);
            Answer::text(&format!(
                r#"{{"hosts":[{host}],"via":[],"default_host":null,"warnings":[],"revision":1}}"#
            ))
        }
    });
    let in_order = |text: &str, keys: &[&str]| {
        let places: Vec<_> =
            keys.iter().map(|key| text.find(&format!("\"{key}\":")).expect(text)).collect();
        assert!(places.is_sorted(), "{keys:?}: {text}");
    };
    let of_host = ["name", "state", "status", "since", "hostname", "groups"];
    let group = fake.occ(&["status", "--group", "us", "--json"]);
    in_order(&group.out, &["hosts", "default_host", "warnings"]);
    in_order(&group.out, &of_host);
    in_order(&fake.occ(&["host", "list", "-g", "us", "--json"]).out, &of_host);

    use std::io::BufRead as _;
    let mut watch = fake.command(&["status", "--watch", "--all", "--json"]);
    let mut child = watch.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    in_order(&line, &of_host);
}

/// A daemon whose memory is another one at each look; the last one stays.
fn changing(looks: Vec<Value>) -> Fake {
    let next = std::sync::atomic::AtomicUsize::new(0);
    Fake::new(move |seen| match seen.path.as_str() {
        "/v1/default-host" => Answer::ok(json!({"name": null})),
        path if path.starts_with("/v1/hosts") => {
            let at = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            Answer::ok(looks[at.min(looks.len() - 1)].clone())
        }
        path => panic!("{path}"),
    })
}

#[test]
fn watching_in_a_pipe_is_a_line_per_change() {
    let mut sick = connected("a");
    sick["sandbox"] = sandbox("running", 0, false);
    let mut well = sick.clone();
    sick["sandbox"]["health"] = json!("unhealthy");
    for host in [&mut sick, &mut well] {
        host["since"] = json!("2026-11-26T06:00:00.5Z");
    }
    let mut down = broken("b", "backoff", "host_unreachable", "no route to host.");
    down["since"] = json!("2026-11-26T06:00:07Z");
    let mut idle = status("b", "idle");
    idle["since"] = json!("2026-11-26T06:00:01Z");
    let looks = vec![
        list(&[well.clone(), idle], None),
        list(&[well, down.clone()], None),
        list(&[sick.clone(), down], None),
        list(&[sick], None),
    ];
    let watch = |args: &[&str], lines: usize| {
        use std::io::BufRead as _;
        let fake = changing(looks.clone());
        let mut child = fake
            .command(args)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = std::io::BufReader::new(child.stdout.take().unwrap());
        let told: Vec<String> = stdout.lines().take(lines).map(Result::unwrap).collect();
        let id = child.id().to_string();
        let kill = std::process::Command::new("kill").args(["-INT", &id]).status();
        assert!(kill.unwrap().success());
        assert_eq!(common::finish(child).code, 130);
        told
    };
    let told = watch(&["status", "--watch"], 6);
    assert_eq!(told[0], "[a] 2026-11-26T06:00:00Z connected");
    assert!(told[1].starts_with("[a] ") && told[1].ends_with("Z sandbox running, healthy"));
    assert_eq!(told[2], "[b] 2026-11-26T06:00:01Z idle");
    assert_eq!(told[3], "[b] 2026-11-26T06:00:07Z backoff: no route to host");
    assert!(told[4].ends_with("Z sandbox running, unhealthy"), "{told:?}");
    assert!(told[5].starts_with("[b] ") && told[5].ends_with("Z removed"), "{told:?}");
    let told = watch(&["status", "--watch", "--all", "--json"], 5);
    let documents: Vec<Value> = told.iter().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((&documents[2]["host"], &documents[2]["state"]), (&json!("b"), &json!("backoff")));
    assert_eq!(documents[2]["a_key_of_a_newer_daemon"], true);
    assert_eq!(documents[3]["sandbox"]["health"], "unhealthy");
    assert_eq!(documents[4], json!({"host": "b", "removed": true}));
    let told = watch(&["status", "--watch", "--host", "a", "-q"], 3);
    assert!(told[2].ends_with("Z sandbox running, unhealthy"), "{told:?}");
}

#[test]
fn watching_asks_for_the_next_change_and_not_again_and_again() {
    use std::io::BufRead as _;
    use std::sync::{Mutex, mpsc};
    let (change, changed) = mpsc::channel::<()>();
    let changed = Mutex::new(changed);
    let at = |revision: u64, state: &str| {
        let mut list = list(&[status("a", state)], None);
        list["revision"] = json!(revision);
        Answer::ok(list)
    };
    let fake = Fake::new(move |seen| match seen.path.as_str() {
        "/v1/default-host" => Answer::ok(json!({"name": null})),
        "/v1/hosts" => at(7, "idle"),
        "/v1/hosts?since=7&wait=60s" => {
            changed.lock().unwrap().recv().unwrap();
            at(8, "connecting")
        }
        "/v1/hosts?since=8&wait=60s" => {
            changed.lock().unwrap().recv().unwrap();
            at(9, "connected")
        }
        // As long as the test lasts nothing changes any more.
        _ => {
            let _ = changed.lock().unwrap().recv();
            at(9, "connected")
        }
    });
    let mut child = fake.command(&["status", "--watch", "--all"]);
    let mut child = child.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert!(next().ends_with(" idle"));
    change.send(()).unwrap();
    assert!(next().ends_with(" connecting"));
    change.send(()).unwrap();
    assert!(next().ends_with(" connected"));
    let asked = || {
        let lines = fake.lines();
        lines.into_iter().filter(|line| line.contains("/v1/hosts")).collect::<Vec<_>>()
    };
    testkit::wait::blocking::wait_until("the last", common::GUARD, asked, |asked| asked.len() == 4);
    let since = |revision: u64| format!("GET /v1/hosts?since={revision}&wait=60s");
    assert_eq!(asked(), ["GET /v1/hosts".to_owned(), since(7), since(8), since(9)]);
    drop(change);
    let id = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_status_bar_is_told_a_line_when_there_is_another() {
    use std::io::BufRead as _;
    let lines = |mut command: std::process::Command, count: usize| {
        let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let out = std::io::BufReader::new(child.stdout.take().unwrap());
        let told: Vec<String> = out.lines().take(count).map(Result::unwrap).collect();
        let id = child.id().to_string();
        let kill = std::process::Command::new("kill").args(["-TERM", &id]).status();
        assert!(kill.unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(143));
        told
    };
    let idle = list(&[status("a", "idle"), status("b", "idle")], None);
    let up = list(&[status("a", "idle"), connected("b")], None);
    let fake = changing(vec![idle.clone(), idle, up]);
    let args = ["status", "--watch", "--summary"];
    let told = lines(fake.command(&args), 2);
    assert!(told[0].starts_with("2 hosts: ") && !told[0].contains("connected"), "{told:?}");
    assert!(told[1].starts_with("2 hosts: ") && told[1].contains("1 connected"), "{told:?}");
    // Without a daemon it says so, waits for one and starts none.
    let mut away = fake.command(&args);
    away.env("OCC_SOCKET", fake.dir.path().join("none.sock"));
    assert_eq!(lines(away, 1), ["occ off"]);
}

#[test]
fn watching_on_a_terminal_shows_only_what_is_new() {
    let first = list(&[status("a", "stopped")], None);
    let then = list(&[connected("a")], None);
    let fake = changing(vec![first.clone(), first.clone(), first, then]);
    let args = ["status", "--watch", "--all", "--no-color"];
    let mut terminal = Terminal::control(&fake.command(&args), "");
    terminal.wait_for("● a");
    assert!(!terminal.echoes());
    terminal.type_text("\u{3}");
    let (screen, code) = terminal.finish();
    assert_eq!(code, 130, "{screen}");
    // The same picture is not drawn twice, and drawing does not begin with clearing.
    assert_eq!(screen.matches("○ a").count(), 1, "{screen:?}");
    assert!(!screen.contains("\u{1b}[2J"), "{screen:?}");
    let (before, after) = screen.rsplit_once("\u{1b}[?7h\u{1b}[?25h\u{1b}[?1049l").unwrap();
    assert_eq!(before.matches("\u{1b}[?1049h\u{1b}[?25l\u{1b}[?7l").count(), 1);
    assert!(after.contains("● a") && after.contains("1 host: 1 connected"), "{screen:?}");
}

#[test]
fn watching_gives_the_screen_back_while_it_is_stopped() {
    let fake = changing(vec![list(&[connected("a")], None)]);
    let mut terminal = Terminal::start(fake.command(&["status", "--watch", "--all", "--no-color"]));
    let id = terminal.child.id().to_string();
    let signal = |name: &str| {
        let kill = std::process::Command::new("kill").args([name, &id]).status();
        assert!(kill.unwrap().success());
    };
    terminal.wait_for("● a");
    signal("-TSTP");
    terminal.wait_for("\u{1b}[?1049l");
    let state = || std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    testkit::wait::blocking::wait_until("it to stop", common::GUARD, state, |stat| {
        stat.rsplit(')').next().unwrap().trim_start().starts_with('T')
    });
    assert!(terminal.echoes());
    signal("-CONT");
    terminal.wait_for("\u{1b}[?1049l\u{1b}[?1049h");
    signal("-TERM");
    let (screen, code) = terminal.finish();
    assert_eq!((code, screen.matches("\u{1b}[?1049l").count()), (143, 2), "{screen:?}");
}

#[test]
fn what_cannot_be_watched_is_said_on_the_screen_where_it_was_asked() {
    let fake = changing(vec![list(&[connected("a")], None)]);
    for (args, code) in [
        (&["status", "--watch", "--host", "b"][..], 4),
        (&["status", "--watch", "--group", "b"], 4),
        (&["status", "--watch", "--fresh"], 2),
    ] {
        let done = fake.occ(args);
        assert_eq!((done.code, done.out.as_str()), (code, ""), "{done:?}");
        let (screen, _) = Terminal::start(fake.command(args)).finish();
        assert!(!screen.contains("\u{1b}[?1049h"), "{screen:?}");
    }
}

#[test]
fn a_foreign_container_is_no_running_sandbox_and_what_is_to_be_known_is_in_the_table() {
    let sandbox = |more: Value| {
        let mut value = connected("h");
        value["sandbox"] = json!({
            "exists": true, "state": "running", "id": "x", "exit_code": null, "as_of": ago(0),
        });
        for (key, part) in more.as_object().unwrap() {
            value["sandbox"][key] = part.clone();
        }
        value
    };
    let all = |value: Value| {
        let fake = Fake::new(move |_| Answer::ok(list(std::slice::from_ref(&value), None)));
        let done = fake.occ(&["status", "--all"]);
        assert_eq!(done.code, 0, "{done:?}");
        done.out
    };
    let foreign = sandbox(json!({ "foreign": true }));
    assert_eq!(one(foreign.clone()).occ(&["status", "-q", "--host", "h"]).code, 1);
    assert_eq!(one(sandbox(json!({}))).occ(&["status", "-q", "--host", "h"]).code, 0);
    let table = all(foreign);
    assert!(table.contains("somebody else's container of this name"), "{table}");
    let table = all(sandbox(json!({ "set_aside": "before" })));
    let words = "an update was cut short: occ start --host h finishes or undoes it";
    assert!(table.contains(words), "{table}");
}

#[test]
fn a_host_without_docker_is_said_to_have_none_also_from_memory() {
    let mut value = connected("h");
    value["connection"]["system"]["docker_cli"] = json!(false);
    value["connection"]["system"]["docker_sockets"] = json!([]);
    let (out, _) = text(value);
    assert!(out.contains("[h] Sandbox   ○ none       there is no Docker on this host\n"), "{out}");
}

#[test]
fn the_list_of_operations_has_a_line_for_each() {
    let long = format!("h: it failed: {}\nand more", "x".repeat(300));
    let fake = Fake::new(move |_| {
        let problem = json!({"type": "about:blank", "title": "x", "status": 502,
            "code": "docker_error", "detail": long, "retryable": false});
        Answer::ok(json!({"operations": [{"id": "a1", "host": "h", "kind": "start",
            "state": "failed", "step": "starting the sandbox", "started_at": ago(60),
            "ended_at": ago(0), "problem": problem}]}))
    });
    let done = fake.occ(&["operations"]);
    let lines: Vec<&str> = done.out.lines().collect();
    assert!(lines.len() == 2 && lines[1].ends_with("xx…"), "{done:?}");
    assert!(lines[1].chars().count() < 160, "{done:?}");
}
