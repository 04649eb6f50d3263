//! `occ host`: texts, questions, requests.

#![allow(clippy::unwrap_used, reason = "a failing fixture is a failing test")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use common::{Answer, Done, Fake, connected, list, status};
use serde_json::{Value, json};
use testkit::terminal::Terminal;

fn saved(docker: Option<&str>, verify: bool) -> Value {
    let mut saved = json!({"host": connected("prod-1")});
    if verify {
        saved["test"] = json!({
            "name": "prod-1", "ssh_ok": true, "docker_ok": docker.is_some(),
            "docker_version": docker, "steps": [],
        });
    }
    saved
}

fn adding(docker: Option<&'static str>) -> Fake {
    Fake::new(move |seen| {
        assert_eq!(seen.line(), "POST /v1/hosts");
        let verify = seen.body["verify"] == json!(true);
        let mut answer = Answer::ok(saved(docker, verify));
        answer.status = 201;
        answer
    })
}

fn body(fake: &Fake) -> Value {
    fake.seen.lock().unwrap().last().unwrap().body.clone()
}

#[test]
fn add_takes_the_existing_tools_flags() {
    let fake = adding(Some("27.3.1"));
    let done = fake.occ(&[
        "host",
        "add",
        "prod-1",
        "203.0.113.10",
        "-u",
        "deploy",
        "-p",
        "2222",
        "-i",
        "~/.ssh/k",
        "-J",
        "bastion",
        "-g",
        "eu",
        "-g",
        "web",
        "-d",
        "the shop",
        "--force",
        "--no-ssh-config",
    ]);
    assert_eq!(
        done.out,
        "[prod-1] ✓ Connected (Docker 27.3.1)\nAdded: Host 'prod-1' added (203.0.113.10).\n"
    );
    assert_eq!(
        body(&fake),
        json!({"name": "prod-1", "verify": true, "force": true, "config": {
            "hostname": "203.0.113.10", "user": "deploy", "port": 2222,
            "identity_file": "~/.ssh/k", "jump_host": "bastion", "groups": ["eu", "web"],
            "description": "the shop",
        }})
    );
}

#[test]
fn add_takes_a_destination_apart_and_fills_nothing_in() {
    let fake = adding(None);
    let done = fake.occ(&["host", "add", "prod-1", "deploy@[2001:db8::1]:2222"]);
    assert!(done.out.starts_with("[prod-1] ✓ Connected (no Docker on this host)\n"), "{done:?}");
    assert!(done.out.ends_with("Added: Host 'prod-1' added (2001:db8::1).\n"), "{done:?}");
    let config = body(&fake)["config"].clone();
    assert_eq!(
        (&config["user"], &config["port"], &config["identity_file"]),
        (&json!("deploy"), &json!(2222), &Value::Null)
    );
    let done = fake.occ(&["host", "add", "prod-1", "h", "--no-verify", "-i", "keys/k"]);
    assert_eq!(done.out, "Added: Host 'prod-1' added (h).\n");
    // The daemon's directory is another: a path is made absolute here.
    let file = body(&fake)["config"]["identity_file"].as_str().unwrap().to_owned();
    assert!(file.starts_with('/') && file.ends_with("/keys/k"), "{file}");
}

fn refusing() -> Fake {
    Fake::new(|seen| match seen.body["verify"].as_bool() {
        Some(true) => {
            let mut problem =
                Answer::problem(409, "auth_failed", "Every key was refused.", "prod-1");
            problem.body =
                problem.body.replace("\"status\"", "\"phase\":\"authentication\",\"status\"");
            problem
        }
        _ => Answer::ok(saved(None, false)),
    })
}

const REFUSED: &str = "[prod-1] ✗ login
Error: Every key was refused. Nothing was written.
hint: ssh-copy-id deploy@h; then occ host add again
";

#[test]
fn a_host_that_refuses_is_not_added() {
    let fake = refusing();
    let done = fake.occ(&["host", "add", "prod-1", "deploy@h"]);
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (5, "", REFUSED));
    assert_eq!(fake.lines().len(), 1);
}

/// Runs `occ host add prod-1` where that fails.
fn failing_add(code: &'static str, detail: &'static str) -> Done {
    let fake = Fake::new(move |_| Answer::problem(409, code, detail, "prod-1"));
    let done = fake.occ(&["host", "add", "prod-1", "deploy@h"]);
    assert_eq!(done.code, 5, "{done:?}");
    done
}

#[test]
fn what_to_type_works_for_a_host_that_is_not_there_yet() {
    for (code, detail, hint) in [
        (
            "no_identity",
            "no identity file",
            "ssh-add KEY puts a key into your agent, or -i KEY names a file; then occ host add again",
        ),
        (
            "no_identity",
            "no identity file, and ssh_config allows none (PubkeyAuthentication, P)",
            "auth = [\"password\"] under [hosts.prod-1] in /",
        ),
        ("auth_failed", "refused", "ssh-copy-id deploy@h; then occ host add again"),
        (
            "auth_failed",
            "refused; 3 more keys were not offered, five is the most",
            "occ host add with -i KEY names the right one",
        ),
        (
            "auth_method_needed",
            "it would take \"password\": auth = [\"password\"] for this host in occd.toml",
            "auth = [\"password\"] under [hosts.prod-1] in /",
        ),
        (
            "host_key_changed",
            "changed",
            "occ host add with --no-verify saves it without connecting, and occ trust --host prod-1 then shows both",
        ),
        (
            "host_key_revoked",
            "revoked",
            "ask the server's owner for another key; then occ host add again",
        ),
        ("key_locked", "p: there is nobody to ask", "on a terminal occ host add asks"),
        ("key_locked", "p: the answers were wrong", "occ host add again asks again"),
        ("ssh_config_invalid", "bad", "ssh -G h shows what applies; then occ host add again"),
        ("no_common_algorithm", "none", "choose what is offered; then occ host add again"),
        ("known_hosts_invalid", "bad", "the line that is named; then occ host add again"),
        (
            "identity_too_open",
            "the identity file /k has mode 0644",
            "chmod 600 /k; then occ host add again",
        ),
        (
            "identity_invalid",
            "the identity file /k is damaged",
            "ssh-keygen -y -f /k checks it; occ host add with -i KEY names another",
        ),
        ("host_unreachable", "gone", "is the server up? occ host add with --no-verify saves it"),
    ] {
        let done = failing_add(code, detail);
        assert!(done.err.contains(hint), "{code}: {done:?}");
        for other in ["occ host edit prod-1", "occ reconnect --host prod-1", "occ host show"] {
            assert!(!done.err.contains(other), "{code}: {done:?}");
        }
        // It is no cure, except where the network may be at fault.
        let saves = matches!(code, "host_unreachable" | "host_key_changed");
        assert_eq!(done.err.contains("--no-verify"), saves, "{code}: {done:?}");
    }
}

#[test]
fn on_a_terminal_it_can_be_kept_anyway() {
    for (answer, code, requests) in [("y\n", 0, 2), ("\n", 5, 1), ("n\n", 5, 1)] {
        let fake = refusing();
        let mut terminal = Terminal::start(fake.command(&["host", "add", "prod-1", "deploy@h"]));
        terminal.type_text(answer);
        let (screen, got) = terminal.finish();
        assert!(screen.contains("Add 'prod-1' anyway? [y/N]"), "{screen}");
        assert_eq!((got, fake.lines().len()), (code, requests), "{screen}");
        assert_eq!(screen.contains("Added: Host 'prod-1' added (h)."), code == 0, "{screen}");
    }
}

#[test]
fn a_name_that_is_taken_is_said_as_before() {
    let fake = Fake::new(|_| Answer::problem(409, "host_exists", "x", "prod-1"));
    let done = fake.occ(&["host", "add", "prod-1", "h"]);
    assert_eq!(done.code, 1);
    assert_eq!(
        done.err,
        "Error: Host 'prod-1' already exists. Use --force to overwrite, or choose a different name.\n"
    );
}

fn listed() -> Fake {
    let mut full = connected("prod-1");
    full["config"] = json!({"hostname": "203.0.113.10", "user": "deploy", "port": 2222,
        "groups": ["eu", "web"], "description": "d\u{1b}c"});
    let hosts = [full, status("build-1", "idle")];
    Fake::new(move |_| Answer::ok(list(&hosts, Some("prod-1"))))
}

#[test]
fn list_is_a_table() {
    let fake = listed();
    assert_eq!(
        fake.occ(&["host", "list"]).out,
        "\
NAME     HOSTNAME      USER    PORT  GROUPS   DEFAULT
prod-1   203.0.113.10  deploy  2222  eu, web  *
build-1  203.0.113.10  -       -     -
"
    );
    assert_eq!(fake.occ(&["host", "list", "--names-only"]).out, "prod-1\nbuild-1\n");
    assert_eq!(fake.occ(&["host", "list", "-g", "eu", "--names-only"]).out, "prod-1\n");
    assert_eq!(fake.occ(&["host", "list", "-g", "us"]).out, "No hosts in group 'us'.\n");
    let document: Value =
        serde_json::from_str(&fake.occ(&["host", "list", "-g", "eu", "--json"]).out).unwrap();
    assert_eq!(document["hosts"].as_array().unwrap().len(), 1);
    assert_eq!(document["hosts"][0]["a_key_of_a_newer_daemon"], json!(true));

    let none = Fake::new(|_| Answer::ok(list(&[], None)));
    let done = none.occ(&["host", "list"]);
    assert_eq!((done.code, done.out.as_str()), (0, "No hosts configured.\n"));
}

#[test]
fn show_prints_the_configuration() {
    let fake = listed();
    let done = fake.occ(&["host", "show", "prod-1"]);
    assert!(done.out.contains("User           deploy\nPort           2222\n"), "{done:?}");
    assert!(done.out.contains("Description    d\u{fffd}c\nDefault        yes\n"), "{done:?}");
    let document: Value =
        serde_json::from_str(&fake.occ(&["host", "show", "prod-1", "--json"]).out).unwrap();
    assert_eq!((&document["port"], &document["default"]), (&json!(2222), &json!(true)));
    let done = fake.occ(&["host", "show", "nope"]);
    assert_eq!(done.code, 4);
    assert!(done.err.starts_with("Error: Host 'nope' not found.\nhint: occ host list"), "{done:?}");
}

#[test]
fn edit_sends_what_changes_and_retries_a_conflict_once() {
    let conflicted = AtomicBool::new(false);
    let fake = Fake::new(move |seen| match seen.line().as_str() {
        "GET /v1/hosts/prod-1" => {
            let mut status = connected("prod-1");
            status["config"]["groups"] = json!(["a", "b"]);
            Answer::ok(status).header("etag", "\"9\"")
        }
        "PATCH /v1/hosts/prod-1" => {
            assert_eq!(seen.header("if-match"), Some("\"9\""));
            if conflicted.swap(true, Ordering::SeqCst) {
                Answer::ok(saved(Some("27"), true))
            } else {
                Answer::problem(412, "edit_conflict", "It was changed.", "prod-1")
            }
        }
        line => panic!("{line}"),
    });
    let done = fake.occ(&[
        "host",
        "edit",
        "prod-1",
        "--hostname",
        "h2",
        "-u",
        "",
        "-p",
        "",
        "-J",
        "",
        "-i",
        "",
        "-d",
        "",
        "--add-group",
        "c",
        "--remove-group",
        "a",
    ]);
    assert_eq!(done.out, "[prod-1] ✓ Connected (Docker 27)\nUpdated: Host 'prod-1' updated.\n");
    assert_eq!(
        body(&fake),
        json!({"hostname": "h2", "user": null, "port": null, "jump_host": null,
            "identity_file": null, "description": null, "groups": ["b", "c"]})
    );
    assert_eq!(fake.lines().len(), 4);

    let always = Fake::new(|seen| match seen.method.as_str() {
        "GET" => Answer::ok(connected("prod-1")),
        _ => Answer::problem(412, "edit_conflict", "It was changed.", "prod-1"),
    });
    let done = always.occ(&["host", "edit", "prod-1", "-p", "23", "--no-verify"]);
    assert_eq!((done.code, always.lines().len()), (1, 4));
    assert_eq!(body(&always), json!({"port": 23, "verify": false}));
}

fn removing() -> Fake {
    let mut behind = connected("web-1");
    behind["config"]["jump_host"] = json!("gate,prod-1");
    let list = list(&[connected("prod-1"), behind, connected("web-2")], None);
    Fake::new(move |seen| match seen.line().as_str() {
        "GET /v1/hosts" => Answer::ok(list.clone()),
        "GET /v1/forwards" => Answer::ok(json!({"forwards": []})),
        "GET /v1/grants" => Answer::ok(json!({"grants": []})),
        "GET /v1/hosts/prod-1" => Answer::ok(connected("prod-1")),
        "DELETE /v1/hosts/prod-1" => {
            Answer::problem(409, "host_busy", "2 commands run on prod-1.", "prod-1")
        }
        "DELETE /v1/hosts/prod-1?force=true" => Answer::status(204),
        _ => common::host_not_found("nope"),
    })
}

#[test]
fn the_names_of_jump_hosts_are_the_daemons_own() {
    let fake = removing();
    let done = fake.occ(&["host", "add", "via:gate", "192.0.2.1"]);
    assert_eq!(done.code, 2);
    assert!(done.err.contains("names that begin with 'via:' are occd's own"), "{done:?}");
    // One that was in use, and is no more.
    let done = fake.occ(&["host", "show", "via:gate"]);
    assert_eq!(done.code, 4);
    let expected = "Error: The jump host 'via:gate' is not in use.\n\
                    hint: occ status --all shows the jump hosts in use\n";
    assert_eq!(done.err, expected);
}

#[test]
fn remove_asks_and_names_running_work() {
    let fake = removing();
    let done = fake.occ(&["host", "remove", "prod-1", "-f"]);
    assert_eq!((done.code, done.out.as_str()), (0, "Removed: Host 'prod-1' removed.\n"));
    assert_eq!(done.err, "Warning: Hosts that are reached through it: web-1.\n");
    assert_eq!(fake.occ(&["host", "remove", "nope", "-f"]).code, 4);

    let mut terminal = Terminal::start(fake.command(&["host", "remove", "prod-1"]));
    terminal.type_text("y\ny\n");
    let (screen, code) = terminal.finish();
    assert!(screen.contains("2 commands run on prod-1.") && code == 0, "{screen}");
    let mut terminal = Terminal::start(fake.command(&["host", "remove", "prod-1"]));
    terminal.type_text("n\n");
    let (screen, code) = terminal.finish();
    assert!(screen.contains("Cancelled.") && code == 0, "{screen}");
    assert!(screen.contains("Hosts that are reached through it: web-1."), "{screen}");

    let without = fake.occ(&["host", "remove", "prod-1"]);
    assert_eq!(without.code, 2);
    assert!(without.err.contains("hint: occ host remove prod-1 -f"), "{without:?}");
}

#[test]
fn whoever_removes_the_default_host_is_told_what_commands_use_then() {
    let list = list(&[connected("web-1"), connected("web-2")], Some("web-2"));
    let fake = Fake::new(move |seen| match seen.line().as_str() {
        "GET /v1/hosts" => Answer::ok(list.clone()),
        "GET /v1/forwards" => Answer::ok(json!({"forwards": []})),
        "GET /v1/grants" => Answer::ok(json!({"grants": []})),
        "DELETE /v1/hosts/web-1/password" | "DELETE /v1/hosts/web-2/password" => {
            common::host_not_found("web-2")
        }
        line if line.starts_with("GET") => Answer::ok(connected("web-2")),
        _ => Answer::status(204),
    });
    let done = fake.occ(&["host", "remove", "web-2", "-f"]);
    let expected = "Removed: Host 'web-2' removed. It was the default host: commands without --host \
                    will use local Docker.\n";
    assert_eq!((done.code, done.out.as_str()), (0, expected));
    let done = fake.occ(&["host", "remove", "web-2", "-f", "--json"]);
    let document: Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(document["items"][0]["about"], json!({"default": true}));
    let done = fake.occ(&["host", "remove", "web-1", "-f"]);
    assert_eq!(done.out, "Removed: Host 'web-1' removed.\n");
    let mut terminal = Terminal::start(fake.command(&["host", "remove", "web-2"]));
    terminal.type_text("n\n");
    let (screen, _) = terminal.finish();
    let words = "It is the default host: without it, commands without --host use local Docker.";
    let said = screen.find(words).unwrap_or_else(|| panic!("{screen}"));
    assert!(said < screen.find("Remove host 'web-2'?").unwrap(), "{screen}");
}

#[test]
fn all_of_import_are_those_of_ssh_config() {
    let fake = Fake::new(|_| panic!("nothing is asked"));
    let help = fake.occ(&["host", "import", "--help"]).out;
    let all = help.lines().skip_while(|line| !line.trim_start().starts_with("--all"));
    let all: String = all.take(2).collect();
    assert!(all.contains("All hosts that ~/.ssh/config names"), "{help}");
    assert!(!help.contains("hosts.json lists"), "{help}");
}

#[test]
fn without_arguments_and_terminal_add_says_what_setup_says() {
    let fake = Fake::new(|_| panic!("nothing is asked"));
    let (add, setup) = (fake.occ(&["host", "add"]), fake.occ(&["setup"]));
    assert_eq!((add.code, &add.err), (2, &setup.err));
    assert!(add.err.contains("hint: occ host add NAME USER@ADDRESS"), "{add:?}");
}

#[test]
fn a_new_name_does_not_begin_with_what_a_shell_expands() {
    let fake = Fake::new(|_| panic!("nothing is asked"));
    let done = fake.occ(&["host", "add", "~z", "192.0.2.1"]);
    assert_eq!(done.code, 2);
    assert!(done.err.contains("does not begin with '~', which a shell expands"), "{done:?}");
}

#[test]
fn default_is_shown_set_and_cleared() {
    let fake = Fake::new(|seen| match seen.line().as_str() {
        "GET /v1/default-host" => Answer::ok(json!({"name": null})),
        "PUT /v1/default-host" if seen.body == json!({"name": "prod-1"}) => {
            Answer::ok(seen.body.clone())
        }
        "PUT /v1/default-host" => common::host_not_found("nope"),
        "DELETE /v1/default-host" => Answer::status(204),
        line => panic!("{line}"),
    });
    for (args, out) in [
        (&["host", "default"][..], "Default host: local (local Docker)\n"),
        (&["host", "default", "-q"], "local\n"),
        (&["host", "default", "prod-1"], "Updated: Default host set to 'prod-1'.\n"),
        (
            &["host", "default", "none"],
            "Updated: Default cleared. Commands will use local Docker.\n",
        ),
        (&["host", "default", "local", "-q"], ""),
    ] {
        let done = fake.occ(args);
        assert_eq!((done.code, done.out.as_str()), (0, out), "{args:?} {done:?}");
    }
    assert_eq!(fake.occ(&["host", "default", "nope"]).code, 4);
}

#[test]
fn test_shows_each_step_and_the_way_on() {
    let report = |ssh_ok: bool, steps: Value| {
        let mut report = json!({"name": "prod-1", "ssh_ok": ssh_ok, "docker_ok": false,
            "docker_version": null, "steps": steps});
        let problem = |code: &str, text: &str| json!({"status": 409, "code": code, "detail": text});
        match ssh_ok {
            true => {
                let denied = "prod-1: permission denied on /var/run/docker.sock.";
                report["docker_problem"] = problem("docker_permission", denied);
            }
            false => report["problem"] = problem("auth_failed", "x"),
        }
        report
    };
    let serve = |report: Value| {
        Fake::new(move |seen| match seen.line().as_str() {
            "POST /v1/hosts/prod-1/test" => Answer::ok(report.clone()),
            _ => {
                let mut host = connected("prod-1");
                host["config"]["user"] = json!("deploy");
                Answer::ok(list(&[host], None))
            }
        })
    };
    let fake = serve(report(
        true,
        json!([
            {"name": "resolve", "ok": true, "detail": "203.0.113.10:22 as deploy", "ms": 2.0},
            {"name": "connect", "ok": true, "detail": "TCP", "ms": 12.4},
            {"name": "docker", "ok": false, "detail": "permission denied on /var/run/docker.sock"},
        ]),
    ));
    let done = fake.occ(&["host", "test", "prod-1"]);
    assert_eq!(
        done.out,
        "\
[prod-1] ✓ resolve   203.0.113.10:22 as deploy      2 ms
[prod-1] ✓ connect   TCP                           12 ms
[prod-1] ✗ docker    permission denied on /var/run/docker.sock
"
    );
    assert_eq!(
        (done.code, done.err.as_str()),
        (0, "hint: on prod-1: sudo usermod -aG docker deploy; then occ reconnect --host prod-1\n")
    );
    let fake = serve(report(false, json!([{"name": "login", "ok": false, "detail": "refused"}])));
    let done = fake.occ(&["host", "test", "prod-1"]);
    assert_eq!((done.code, done.out.as_str()), (5, "[prod-1] ✗ login     refused\n"));
    assert!(done.err.contains("ssh-copy-id deploy@203.0.113.10"), "{done:?}");
    let done = fake.occ(&["host", "test", "prod-1", "-q"]);
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (1, "", ""));
}

#[test]
fn connect_disconnect_reconnect() {
    let fake = Fake::new(|seen| match seen.line().as_str() {
        "POST /v1/hosts/prod-1/connect" => Answer::ok(connected("prod-1")),
        "POST /v1/hosts/prod-1/disconnect" => Answer::ok(status("prod-1", "stopped")),
        "POST /v1/hosts/prod-1/reconnect" => {
            Answer::problem(503, "host_unreachable", "No route to host.", "prod-1")
        }
        line => panic!("{line}"),
    });
    assert!(fake.occ(&["connect", "--host", "prod-1"]).out.contains("● connected  2h 10m, 12 ms"));
    assert!(fake.occ(&["disconnect", "--host", "prod-1"]).out.contains("○ stopped"));
    let done = fake.occ(&["reconnect", "--host", "prod-1"]);
    assert_eq!(done.code, 5);
    assert_eq!(
        done.err,
        "Error: No route to host.\nhint: occ host test prod-1 shows where it stops\n"
    );
}

#[test]
fn a_host_without_docker_has_no_fault() {
    let fake = Fake::new(|_| {
        Answer::ok(json!({
            "name": "prod-1", "ssh_ok": true, "docker_ok": false, "docker_version": null,
            "steps": [
                {"name": "login", "ok": true, "detail": "key", "ms": 1.0},
                {"name": "docker", "ok": false, "detail": "there is no Docker on this host"},
            ],
            "docker_problem": {
                "status": 409, "code": "docker_unavailable",
                "detail": "prod-1: there is no Docker on this host."
            },
        }))
    });
    let done = fake.occ(&["host", "test", "prod-1"]);
    // Without a terminal nothing is offered, only named.
    let hint = "hint: occ host install-docker prod-1 installs it\n";
    assert_eq!((done.code, done.err.as_str()), (0, hint), "{done:?}");
    assert!(done.out.contains("[prod-1] – docker    no Docker on this host\n"), "{done:?}");
}

#[test]
fn a_bad_key_of_the_environment_goes_by_its_variable() {
    let detail = "OCC_SSH_KEY, or occ-ssh-key, is not base64.";
    for name in ["OCC_SSH_KEY", "TENDHOST_SSH_KEY"] {
        let fake = Fake::new(move |_| Answer::problem(400, "bad_request", detail, "prod-1"));
        let done = common::run(fake.command(&["host", "test", "prod-1"]).env(name, "x"));
        let said =
            format!("Error: {name} is not base64.\nhint: export {name}=$(base64 -w0 KEYFILE)\n");
        assert_eq!((done.code, done.err), (2, said));
    }
}

#[test]
fn what_is_wrong_with_the_settings_is_said_by_every_command() {
    let warning = "/c/occd.toml, line 2: no; the settings from before stay in force";
    let header = json!(warning).to_string();
    let of = move |answer: Answer| answer.header("occ-warning", &header);
    let failing = of.clone();
    let fake = Fake::new(move |seen| match seen.line().as_str() {
        "POST /v1/hosts/prod-1/test" => failing(Answer::ok(json!({
            "name": "prod-1", "ssh_ok": false, "docker_ok": false, "docker_version": null,
            "steps": [{"name": "connect", "ok": false, "detail": "refused"}],
        }))),
        "GET /v1/hosts/prod-1" => failing(Answer::ok(connected("prod-1"))),
        _ => failing(Answer::problem(503, "host_unreachable", "It is down.", "prod-1")),
    });
    let line = format!("Warning: {warning}\n");
    for args in [
        &["host", "test", "prod-1"][..],
        &["connect", "--host", "prod-1"],
        &["exec", "--host", "prod-1", "--", "true"],
        &["host", "add", "prod-1", "h"],
    ] {
        let done = fake.occ(args);
        assert_eq!((done.code, done.err.matches(&line).count()), (5, 1), "{args:?}: {done:?}");
    }
    let fake = Fake::new(move |_| of(Answer::ok(connected("prod-1"))));
    let done = fake.occ(&["connect", "--host", "prod-1"]);
    assert_eq!((done.code, done.err.as_str()), (0, line.as_str()), "{done:?}");
    let done = fake.occ(&["connect", "-q", "--host", "prod-1"]);
    assert_eq!((done.code, done.err.as_str()), (0, ""), "{done:?}");
}
