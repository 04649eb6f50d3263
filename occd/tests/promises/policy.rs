//! A policy in occd.toml is in force at every door, says which rule refuses, and asks a person where it is to.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use occ_proto::container::SANDBOX_CONTAINER;
use occ_proto::event::Change;
use occ_proto::{Code, Problem};
use serde_json::{Value, json};
use testkit::http::{self, Response};
use testkit::{DaemonRig, RealSshd};

use crate::events::Stream;
use crate::files::Shared;
use crate::support::{daemon_with, eventually, exit_code, post};

/// Returns a server with SFTP, and a daemon for it with an occd.toml.
pub(crate) fn sshd_with(config: &str) -> Option<(RealSshd, DaemonRig)> {
    if !RealSshd::require() {
        return None;
    }
    let sshd = RealSshd::builder().config("Subsystem sftp internal-sftp").start();
    let rig = daemon_with(&sshd, config);
    Some((sshd, rig))
}

/// Returns the reason of a refusal.
#[track_caller]
pub(crate) fn denied(response: &Response) -> String {
    let problem: Problem = serde_json::from_slice(&response.body)
        .unwrap_or_else(|error| panic!("{error}: {} {}", response.status, response.text()));
    assert_eq!((response.status, problem.code), (403, Code::PolicyDenied), "{}", problem.detail);
    problem.detail
}

#[test]
fn a_policy_outlives_its_file_until_the_daemon_is_started_anew() {
    let rules = "[[hosts.h.policy.rules]]\naction = \"deny\"\nprogram = \"rm\"\n";
    let Some((_sshd, mut rig)) = sshd_with(rules) else { return };
    denied(&post(&rig, argv(&["rm", "/nowhere"])));
    std::fs::remove_file(rig.paths().config_file().unwrap()).unwrap();
    // Whoever asks next is told, and refused as before.
    denied(&post(&rig, argv(&["rm", "/nowhere"])));
    let gone = "occd.toml is gone: the settings from before, with their policies, stay in force";
    let status = rig.run_occ(&["policy", "show", "--host", "h"]);
    assert!(status.stderr.contains(gone), "{status:?}");
    let status = rig.run_occ(&["daemon", "status"]);
    assert!((status.stdout + &status.stderr).contains(gone));
    eventually("the log to say so", || rig.log().contains(gone));
    // Written anew it counts, and so does its absence for the next daemon.
    rig.write_config_toml("");
    assert_eq!(post(&rig, argv(&["rm", "-f", "/nowhere"])).status, 200);
    rig.write_config_toml(rules);
    denied(&post(&rig, argv(&["rm", "/nowhere"])));
    std::fs::remove_file(rig.paths().config_file().unwrap()).unwrap();
    rig.terminate_daemon();
    rig.start_daemon(&[]);
    assert_eq!(post(&rig, argv(&["rm", "-f", "/nowhere"])).status, 200);
}

#[test]
fn what_docker_is_refused_for_is_a_sentence() {
    let Some((_sshd, rig)) = sshd_with("[hosts.h.policy]\nroot = \"/tmp\"\n") else { return };
    let why = denied(&rig.http("POST", "/v1/hosts/h/container/start", &[], Some(json!({}))));
    let said = "refused by root, rules or a default, with which Docker is only read: ";
    assert!(why.contains(said), "{why}");
}

#[test]
fn what_is_shown_of_docker_is_what_is_in_force() {
    let Some((_sshd, rig)) = sshd_with("") else { return };
    for (policy, docker, read, shown) in [
        ("root = \"/srv\"", "deny", "allow", "read only"),
        ("root = \"/srv\"\ndocker = \"deny\"", "deny", "deny", "deny"),
        ("root = \"/srv\"\ndocker = \"allow\"", "allow", "allow", "allow"),
        ("read_only = true", "deny", "allow", "read only"),
        ("read_only = true\ndocker = \"deny\"", "deny", "deny", "deny"),
        ("default = \"ask\"", "deny", "ask", "deny, reading ask"),
        ("docker = \"ask\"", "ask", "allow", "ask, reading allow"),
    ] {
        rig.write_config_toml(&format!("[hosts.h.policy]\n{policy}\n"));
        let view = rig.http("GET", "/v1/hosts/h/policy", &[], None).json();
        assert_eq!(
            (&view["docker"], &view["docker_read"]),
            (&json!(docker), &json!(read)),
            "{policy}: {view}"
        );
        let show = rig.occ_ok(&["policy", "show", "--host", "h"]);
        let line = format!("[h] docker     {shown}");
        assert!(show.lines().any(|shown| shown == line), "{policy}: {show}");
    }
}

#[test]
fn what_runs_programs_that_do_not_show_is_denied_with_them() {
    let rule = "[[hosts.h.policy.rules]]\naction = \"deny\"\nprogram = \"rm\"\n";
    let Some((_sshd, rig)) = sshd_with(rule) else { return };
    let verdict = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let verdict = rig.http("POST", "/v1/hosts/h/policy/check", &[], Some(argv(&words)));
        verdict.json()["action"].as_str().unwrap().to_owned()
    };
    // Nobody could tell which of the two was judged.
    let both = json!({ "argv": ["rm"], "shell": "true" });
    assert_eq!(rig.http("POST", "/v1/hosts/h/policy/check", &[], Some(both)).status, 400);
    for line in [
        "sg users -c rm",
        "/usr/bin/newgrp users",
        "capsh -- -c rm",
        "guile -c (system)",
        "guile-3.0 -c (system)",
        "tclsh8.6",
        "tclsh script.tcl",
        "wish script.tcl",
        "expect -c x",
        "bash5.2 script",
        "lua5.4 -e x",
        "luajit -e x",
        "luajit-2.1 -e x",
        "julia --eval=x",
        "Rscript -e x",
        "pwsh -c x",
        "faketime yesterday rm x",
        "eatmydata rm x",
        "cpulimit -l 5 -- rm x",
        "dumb-init -r 15:3 -- rm x",
        "tini -s -p KILL -- rm x",
        "chronic -v rm x",
        "hyperfine rm",
        "nix-shell --run rm",
        "machinectl shell",
        "entr rm",
        "watchexec rm",
        "gosu root rm x",
        "su-exec root rm x",
        "run0 rm x",
    ] {
        assert_eq!(verdict(line), "deny", "{line}");
    }
    // What shows is asked about by itself.
    for line in ["eatmydata ls", "tini -s -- ls", "dumb-init -- ls", "chronic ls", "lua x.lua"] {
        assert_eq!(verdict(line), "allow", "{line}");
    }
    let group = rig.run_occ(&["exec", "--host", "h", "--", "sg", "root", "-c", "true"]);
    assert_eq!(group.code(), 7, "{group:?}");
}

fn argv(words: &[&str]) -> Value {
    json!({ "argv": words })
}

fn file(rig: &DaemonRig, method: &str, place: &str, path: &Path, query: &str) -> Response {
    let url = format!("/v1/hosts/{place}/files/{}{query}", path.display());
    let body = (method == "PUT").then_some(&b"x"[..]);
    http::request(&rig.socket(), method, &url, &[], body).unwrap()
}

#[test]
fn a_refusal_names_the_rule_and_its_line() {
    let rules =
        "[hosts.h.policy]\n\n[[hosts.h.policy.rules]]\naction = \"deny\"\nprogram = \"rm\"\n";
    let Some((_sshd, rig)) = sshd_with(rules) else { return };
    let why = denied(&post(&rig, argv(&["sudo", "/bin/rm", "-rf", "/nowhere"])));
    assert!(why.contains("the rule deny \"rm\" (occd.toml, line 3)"), "{why}");
    assert_eq!(post(&rig, argv(&["true"])).status, 200);

    let done = rig.run_occ(&["exec", "--host", "h", "--", "rm", "x"]);
    assert_eq!(done.code(), 7, "{}", done.stderr);
    assert!(done.stderr.contains("line 3"), "{}", done.stderr);
    assert!(done.stderr.contains("hint: occ policy show --host h"), "{}", done.stderr);
    for shell in [
        &["exec", "--host", "h", "--shell", "--", "ls"][..],
        &["exec", "--host", "h", "--", "sh", "-c", "ls"],
    ] {
        assert_eq!(rig.run_occ(shell).code(), 7);
    }
    let show = rig.occ_ok(&["policy", "show", "--host", "h"]);
    assert!(show.contains("deny  program \"rm\"  (occd.toml, line 3)"), "{show}");
    let check = rig.run_occ(&["policy", "check", "--host", "h", "--", "env", "A=b", "rm"]);
    assert_eq!(check.code(), 7);
    assert!(check.stdout.contains("deny: the rule deny \"rm\""), "{}", check.stdout);
    assert_eq!(rig.run_occ(&["policy", "check", "--host", "h", "--", "ls"]).code(), 0);
}

#[test]
fn work_stays_below_the_root_as_the_host_resolves_it() {
    let shared = Shared::new();
    let root = shared.at("app");
    std::fs::create_dir(&root).unwrap();
    std::fs::create_dir(shared.at("other")).unwrap();
    std::fs::create_dir(root.join("sub")).unwrap();
    std::fs::write(shared.at("other/secret"), "s").unwrap();
    std::fs::write(root.join("own"), "o").unwrap();
    for (link, to) in
        [("out", "../other"), ("file", "../other/secret"), ("dangling", "../other/new")]
    {
        std::os::unix::fs::symlink(to, root.join(link)).unwrap();
    }
    // The server's user may write everywhere here.
    for dir in [root.clone(), shared.at("other"), root.join("sub")] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(dir, mode).unwrap();
    }
    let config = format!("[policy]\nroot = {root:?}\n");
    let Some((_sshd, rig)) = sshd_with(&config) else { return };
    for place in ["h", "local"] {
        let run = |cwd: Option<&Path>| {
            let request = json!({ "argv": ["pwd", "-P"], "cwd": cwd });
            rig.http("POST", &format!("/v1/hosts/{place}/exec"), &[], Some(request))
        };
        // Where nothing else is said, commands run there.
        let there = run(None);
        assert_eq!(there.status, 200, "{}", there.text());
        assert_eq!(there.json()["stdout"], format!("{}\n", root.display()));
        assert_eq!(run(Some(&root.join("sub"))).status, 200);
        let inside = format!("{}\n", root.join("sub").display());
        assert_eq!(run(Some(Path::new("sub"))).json()["stdout"], inside);
        denied(&run(Some(Path::new("out"))));
        for outside in [shared.at("other"), root.join("out"), root.join("sub/../.."), "/".into()] {
            let why = denied(&run(Some(&outside)));
            assert!(why.contains("root = "), "{why}");
        }
        assert_eq!(file(&rig, "GET", place, &root.join("own"), "").text(), "o");
        assert_eq!(file(&rig, "GET", place, &root.join("sub/../own"), "").text(), "o");
        assert_eq!(file(&rig, "GET", place, &root, "?list=true").status, 200);
        let name = format!("{place}-new");
        assert_eq!(file(&rig, "PUT", place, &root.join("sub").join(name), "").status, 200);
        for (method, outside, query) in [
            ("GET", shared.at("other/secret"), ""),
            ("GET", shared.at("other/secret"), "?stat=true"),
            ("GET", root.join("file"), ""),
            ("GET", root.join("out/secret"), ""),
            ("GET", root.join("out"), "?list=true"),
            ("GET", root.join("out"), "?tar=true"),
            ("GET", root.join("../other/secret"), ""),
            ("PUT", shared.at("other/new"), ""),
            ("PUT", root.join("out/new"), ""),
            ("PUT", root.join("dangling"), ""),
            ("PUT", root.join("nothing/../../other/new"), ""),
            ("DELETE", root.join("out/secret"), ""),
            ("GET", "/etc/passwd".into(), ""),
        ] {
            let answer = file(&rig, method, place, &outside, query);
            let why = denied(&answer);
            assert!(why.contains("is not below it"), "{method} {outside:?}: {why}");
        }
        let act = |path: &Path, action: Value| {
            let url = format!("/v1/hosts/{place}/files/{}", path.display());
            rig.http("POST", &url, &[], Some(action))
        };
        let out = shared.at("other/moved");
        denied(&act(&root.join("own"), json!({ "action": "rename", "to": out })));
        denied(&act(&root.join("out/dir"), json!({ "action": "mkdir" })));
        denied(&act(
            &root.join("nowhere/../../other/dir"),
            json!({ "action": "mkdir", "parents": true }),
        ));
        denied(&act(&root.join("file"), json!({ "action": "chmod", "mode": 0o600 })));
        let made =
            act(&root.join(format!("{place}/a/b")), json!({ "action": "mkdir", "parents": true }));
        assert_eq!(made.status, 200, "{}", made.text());
    }
    assert!(!shared.at("other/new").exists() && shared.at("other/secret").exists());
}

#[test]
fn a_host_without_sftp_resolves_directories_too() {
    if !RealSshd::require() {
        return;
    }
    let shared = Shared::new();
    let root = shared.at("app");
    std::fs::create_dir_all(root.join("sub")).unwrap();
    std::os::unix::fs::symlink("..", root.join("up")).unwrap();
    // The root may be behind a link itself.
    std::os::unix::fs::symlink("app", shared.at("link")).unwrap();
    for dir in [&root, &root.join("sub")] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir, mode).unwrap();
    }
    // Neither offered nor there as a program.
    let without = "ForceCommand case \"$SSH_ORIGINAL_COMMAND\" in *sftp-server*) exit 127;; \
                   *) exec sh -c \"$SSH_ORIGINAL_COMMAND\";; esac";
    let sshd = RealSshd::builder().config(without).start();
    let config = format!("[hosts.h.policy]\nroot = {:?}\n", shared.at("link"));
    let rig = daemon_with(&sshd, &config);
    let file = rig.http("GET", "/v1/hosts/h/files/etc/hostname", &[], None).json();
    assert_eq!(file["code"], "policy_denied", "{file}");
    let run = |cwd: Option<&str>| post(&rig, json!({ "argv": ["pwd", "-P"], "cwd": cwd }));
    assert_eq!(run(None).json()["stdout"], format!("{}\n", root.display()));
    assert_eq!(run(root.join("sub").to_str()).status, 200);
    for outside in ["up", "/"] {
        denied(&run(root.join(outside).to_str()));
    }
    // From the root.
    for outside in ["up", "/", "~", ".."] {
        denied(&run(Some(outside)));
    }
    assert_eq!(run(Some("sub")).json()["stdout"], format!("{}\n", root.join("sub").display()));
    for missing in ["-", "nowhere"] {
        let ran = run(Some(missing)).json();
        assert!(ran["code"] != 0 && ran["stdout"] == "", "{ran}");
    }
    for missing in ["~", "-", "nowhere"] {
        let ran = run(root.join(missing).to_str()).json();
        assert!(ran["code"] != 0 && ran["stdout"] == "", "{ran}");
    }
}

#[test]
fn read_only_refuses_whatever_changes_something() {
    let shared = Shared::new();
    std::fs::write(shared.at("f"), "x").unwrap();
    let Some((_sshd, rig)) = sshd_with("[hosts.h.policy]\nread_only = true\n") else { return };
    let f = shared.at("f");
    assert_eq!(file(&rig, "GET", "h", &f, "").text(), "x");
    assert_eq!(post(&rig, json!({ "argv": ["cat", f] })).status, 200);
    denied(&post(&rig, json!({ "argv": ["touch", f] })));
    denied(&post(&rig, json!({ "shell": "cat" })));
    denied(&file(&rig, "PUT", "h", &f, ""));
    denied(&file(&rig, "DELETE", "h", &f, ""));
    let url = format!("/v1/hosts/h/files/{}", f.display());
    denied(&rig.http("POST", &url, &[], Some(json!({ "action": "chmod", "mode": 0o600 }))));
    denied(&rig.http(
        "POST",
        "/v1/forwards",
        &[],
        Some(json!({ "host": "h", "local": "0:localhost:80" })),
    ));
    let session = json!({ "host": "h", "argv": ["sleep-less"] });
    denied(&rig.http("POST", "/v1/sessions", &[], Some(session)));
    denied(&rig.http("POST", "/v1/hosts/h/container/start", &[], Some(json!({}))));
    denied(&rig.http("POST", "/v1/hosts/h/docker-setup", &[], Some(json!({}))));
    // The programs of occ say the same, with the same exit code.
    let copied = rig.run_occ(&["cp", &f.display().to_string(), "h:/tmp/never"]);
    assert_eq!(copied.code(), 7, "{}", copied.stderr);
    let copied = rig.run_occ(&["cp", &format!("h:{}", f.display()), "copy"]);
    assert_eq!(copied.code(), 0, "{}", copied.stderr);
    for args in [
        &["rm", "h:/tmp/never"][..],
        &["session", "start", "--host", "h", "--", "make"],
        &["agent", "start", "codex", "--host", "h"],
        &["forward", "add", "-L", "0:localhost:80", "--host", "h"],
        &["exec", "--host", "h", "--durable", "--", "make"],
    ] {
        let done = rig.run_occ(args);
        assert_eq!(done.code(), 7, "{args:?}: {}", done.stderr);
    }
}

#[test]
fn a_terminal_and_a_group_are_doors_as_well() {
    let rules = "[[policy.rules]]\naction = \"deny\"\nprogram = \"rm\"\n";
    let Some((_sshd, rig)) = sshd_with(rules) else { return };
    let shell = rig.occ(&["shell", "--host", "h"]);
    let (said, code) = testkit::terminal::Terminal::control(&shell, "").finish();
    assert_eq!(code, 7, "{said}");
    let why = "h: refused by the rule deny \"rm\"";
    let hidden = ", the strictest that could apply, because what it runs does not show.";
    assert!(said.contains(why) && said.contains(hidden), "{said}");
    let local = rig.run_occ(&["exec", "--local", "--", "rm", "x"]);
    assert_eq!(local.code(), 7, "{}", local.stderr);
    let all = rig.run_occ(&["exec", "--all", "--", "rm", "x"]);
    assert_eq!(all.code(), 1, "{}", all.stderr);
    assert!(all.stderr.contains("the rule deny \"rm\""), "{}", all.stderr);
}

#[test]
fn an_engine_behind_a_policy_is_only_read() {
    let Some((engine, _sshd, _link, rig)) = crate::docker_socket::far_engine("busybox:1") else {
        return;
    };
    let path = rig.http("PUT", "/v1/hosts/h/docker-socket", &[], None).json()["path"].clone();
    let path = std::path::PathBuf::from(path.as_str().unwrap());
    let docker = |args: &[&str]| {
        let mut command = std::process::Command::new("docker");
        command.env("DOCKER_HOST", format!("unix://{}", path.display()));
        command.env("DOCKER_CONFIG", rig.root().join("docker")).env_remove("DOCKER_CONTEXT");
        let output = command.args(args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), said + &String::from_utf8_lossy(&output.stderr))
    };
    engine.run("web", &["busybox:1", "sh", "-c", "echo hello; sleep 1000"]);
    assert!(docker(&["ps"]).0);
    let socket = engine.socket().display().to_string();
    let with = |policy: &str| {
        rig.write_config_toml(&format!("[hosts.h]\ndocker_socket = {socket:?}\n{policy}"));
        // The socket is no request of the API's that looks at the file.
        assert_eq!(rig.http("GET", "/v1/hosts/h", &[], None).status, 200);
    };
    with("[hosts.h.policy]\nroot = \"/srv\"\n");
    let (listed, said) = docker(&["ps", "--format", "{{.Names}}"]);
    assert!(listed && said.trim() == "web", "{said}");
    assert!(docker(&["logs", "web"]).1.contains("hello"));
    assert!(docker(&["inspect", "web"]).0);
    let run = ["run", "--rm", "-v", "/:/host", "busybox:1", "ls", "/host"];
    for args in [
        &run[..],
        &["exec", "web", "id"],
        &["rm", "-f", "web"],
        &["cp", "web:/bin/busybox", "-"],
        &["kill", "web"],
        &["rmi", "busybox:1"],
    ] {
        let (done, said) = docker(args);
        assert!(!done && said.contains("h: refused by"), "{args:?}: {said}");
    }
    // Whatever follows the first request on a connection goes nowhere.
    let two = "GET /containers/json HTTP/1.1\r\nHost: d\r\n\r\n\
               POST /containers/web/kill HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n";
    let mut raw = std::os::unix::net::UnixStream::connect(&path).unwrap();
    std::io::Write::write_all(&mut raw, two.as_bytes()).unwrap();
    let mut said = String::new();
    std::io::Read::read_to_string(&mut raw, &mut said).unwrap();
    assert_eq!(said.matches("HTTP/1.1 ").count(), 1, "{said}");
    assert_eq!(engine.docker_ok(&["ps", "-q"]).lines().count(), 1);
    with("[hosts.h.policy]\ndocker = \"deny\"\n");
    assert!(!docker(&["ps"]).0);
    denied(&rig.http("GET", "/v1/hosts/h/container", &[], None));
    denied(&rig.http("PUT", "/v1/hosts/h/docker-socket", &[], None));
    with("[hosts.h.policy]\nroot = \"/srv\"\ndocker = \"allow\"\n");
    assert!(docker(&["kill", "web"]).0);
}

#[test]
fn what_docker_tells_is_shown_to_those_alone_who_may_ask_it() {
    let image = "sandbox:1";
    let Some(world) = crate::sandbox::world(image, "") else { return };
    let rig = &world.rig;
    world.docker.import_sandbox(image, "1.0", &[]);
    let grant = rig.occ_ok(&["grant", "-q", "--host", "h", "--allow", "read", "--ttl", "1h"]);
    let grant = PathBuf::from(grant.trim());
    rig.occ_ok(&["start", "--host", "h"]);
    let config = std::fs::read_to_string(rig.config_toml()).unwrap();
    let with = |policy: &str| rig.write_config_toml(&format!("{config}{policy}"));
    let own = rig.socket();
    let read_only = own.with_file_name("occd-ro.sock");
    // The host by every way to it, as one kind of client sees it.
    let shown = |client: &str| {
        let get = |socket: &Path, path: &str| {
            http::request(socket, "GET", path, &[("Occ-Client", client)], None).unwrap().json()
        };
        let mut events =
            Stream::open(rig, "?kind=host,container", &format!("Occ-Client: {client}\r\n"));
        let Change::Snapshot(snapshot) = events.next().change else { panic!("no snapshot") };
        let snapshot = serde_json::to_value(snapshot).unwrap();
        [
            get(&own, "/v1/hosts/h"),
            get(&read_only, "/v1/hosts/h"),
            get(&own, "/v1/hosts")["hosts"][0].clone(),
            get(&read_only, "/v1/hosts")["hosts"][0].clone(),
            snapshot["hosts"][0].clone(),
            json!({ "name": "h", "sandbox": snapshot["containers"][0]["container"] }),
        ]
    };
    let knows = |client: &str| {
        shown(client).map(|host| {
            assert_eq!(host["name"], "h", "{host}");
            !host["sandbox"].is_null()
        })
    };
    eventually("the sandbox to be known", || knows("cli") == [true; 6]);
    let mut events = Stream::open(rig, "?kind=container", "");
    events.next();
    let through = http::request(&grant, "GET", "/v1/hosts/h", &[], None).unwrap().json();
    assert_eq!((&through["name"], &through["sandbox"]), (&json!("h"), &Value::Null));

    with("[hosts.h.policy]\ndocker = \"deny\"\n");
    denied(&rig.http("GET", "/v1/hosts/h/container", &[], None));
    assert_eq!(knows("cli"), [false; 6]);
    // Those who listen are told that there is nothing to be known any more.
    events.until("the end of what is known", |change| {
        matches!(change, Change::Container { container: None, .. })
    });
    let status = rig.occ_ok(&["status", "--host", "h"]);
    assert!(!status.contains(image), "{status}");
    // A rule may be about one kind of client.
    with("[[hosts.h.policy.rules]]\naction = \"deny\"\nwhat = [\"read\"]\nclient = [\"mcp\"]\n");
    eventually("the sandbox to be known again", || knows("cli") == [true; 6]);
    assert_eq!(knows("mcp"), [false; 6]);
    let mut theirs = Stream::open(rig, "?kind=container", "Occ-Client: mcp\r\n");
    theirs.next();
    world.docker.docker_ok(&["stop", "-t", "1", SANDBOX_CONTAINER]);
    events.until("the stopped sandbox", |change| {
        matches!(change, Change::Container { container: Some(sandbox), .. }
            if sandbox.state.as_deref() == Some("exited"))
    });
    let told = theirs.next().change;
    assert!(matches!(told, Change::Container { container: None, .. }), "{told:?}");
    with("[hosts.h.policy]\ndefault = \"ask\"\n");
    eventually("what a person is to be asked about to be hidden", || knows("cli") == [false; 6]);
}

#[test]
fn a_broken_policy_leaves_the_old_one_in_force_and_each_command_says_so() {
    let rules = "[[hosts.h.policy.rules]]\naction = \"deny\"\nprogram = \"rm\"\n";
    let Some((_sshd, mut rig)) = sshd_with(rules) else { return };
    denied(&post(&rig, argv(&["rm"])));
    rig.write_config_toml("[[hosts.h.policy.rules]]\naction = \"dney\"\nprogram = \"rm\"\n");
    denied(&post(&rig, argv(&["rm"])));
    let done = rig.run_occ(&["exec", "--host", "h", "--", "true"]);
    assert_eq!(done.code(), 0);
    assert!(done.stderr.contains("occd.toml, line 2"), "{}", done.stderr);
    assert!(done.stderr.contains("the settings from before stay in force"), "{}", done.stderr);
    // A daemon that has no settings from before does not begin without.
    rig.terminate_daemon();
    let done = rig.run_occ(&["exec", "--host", "h", "--", "true"]);
    assert_eq!(done.code(), 3, "{}", done.stderr);
    assert!(done.stderr.contains("occd.toml, line 2"), "{}", done.stderr);
    rig.write_config_toml(rules);
    rig.start_daemon(&[]);
    denied(&post(&rig, argv(&["rm"])));
}

#[test]
fn a_session_is_what_its_command_is() {
    let Some((_sshd, rig)) = sshd_with("") else { return };
    let session = json!({ "host": "h", "name": "s", "argv": ["cat"] });
    let started = rig.http("POST", "/v1/sessions", &[], Some(session));
    assert_eq!(started.status, 201, "{}", started.text());
    rig.write_config_toml("[[hosts.h.policy.rules]]\naction = \"deny\"\nprogram = \"cat\"\n");
    let input = || {
        let body = Some(&b"x"[..]);
        http::request(&rig.socket(), "POST", "/v1/sessions/s/input", &[], body).unwrap()
    };
    denied(&input());
    // Nor is it called something else.
    denied(&rig.http("PATCH", "/v1/sessions/s", &[], Some(json!({ "argv": ["ls"] }))));
    denied(&rig.http("POST", "/v1/sessions/s/signal", &[], None));
    denied(&rig.http("DELETE", "/v1/sessions/s?force=true", &[], None));
    denied(&rig.http("POST", "/v1/sessions/s/start", &[], None));
    let (code, said) = typed(&rig, &["session", "attach", "s"]);
    assert_eq!(code, 7, "{said}");
    rig.write_config_toml("[hosts.h.policy]\ndefault = \"deny\"\n");
    denied(&rig.http("GET", "/v1/sessions/s/output?follow=false", &[], None));
    rig.write_config_toml("");
    assert_eq!(input().status, 200);
    assert_eq!(rig.http("DELETE", "/v1/sessions/s?force=true", &[], None).status, 204);
}

/// Runs `occ` with a line as its input, and returns its exit code and what it says.
pub(crate) fn typed(rig: &DaemonRig, args: &[&str]) -> (i32, String) {
    use std::io::{Read as _, Write as _};
    let mut occ = rig.occ(args);
    let mut occ = occ.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    occ.stdin.take().unwrap().write_all(b"x\n").unwrap();
    let (code, mut said) = (exit_code(&mut occ), String::new());
    occ.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (code, said)
}

#[test]
fn whoever_may_read_sees_a_session_and_changes_nothing() {
    let Some((_sshd, rig)) = sshd_with("") else { return };
    let start = ["session", "start", "--host", "h", "--name", "s", "--", "sh", "-c"];
    rig.occ_ok(&[&start[..], &["echo out; read x; echo got $x"]].concat());
    let logs = || rig.run_occ(&["session", "logs", "s"]);
    eventually("its output", || logs().stdout == "out\n");
    for policy in [
        "read_only = true",
        "root = \"/srv\"\n[[policy.rules]]\naction = \"deny\"\nprogram = \"*\"",
    ] {
        rig.write_config_toml(&format!("[policy]\n{policy}\n"));
        assert_eq!(logs().stdout, "out\n", "{policy}");
        let mut watching = rig.occ(&["session", "attach", "-n", "--from-start", "s"]);
        let mut watching = watching.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut out = std::io::BufReader::new(watching.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        assert_eq!(line, "out\n", "{policy}");
        watching.kill().unwrap();
        watching.wait().unwrap();
        for change in
            [&["attach", "s"][..], &["send", "s", "x"], &["kill", "s"], &["rm", "-f", "s"]]
        {
            let (code, said) = typed(&rig, &[&["session"], change].concat());
            assert_eq!(code, 7, "{policy}, {change:?}: {said}");
            assert!(said.contains("refused by"), "{change:?}: {said}");
        }
    }
    // What can be run shows its output, too; and that a program has ended is no secret.
    rig.write_config_toml("[[policy.rules]]\naction = \"deny\"\nwhat = [\"read\"]\n");
    assert_eq!(logs().stdout, "out\n");
    rig.write_config_toml("[policy]\ndefault = \"deny\"\n");
    assert_eq!(logs().code(), 7);
    let mut wait = rig.occ(&["session", "wait", "s"]).spawn().unwrap();
    rig.write_config_toml("");
    rig.occ_ok(&["session", "send", "s", "x"]);
    assert_eq!(exit_code(&mut wait), 0);
}

#[test]
fn an_archive_is_not_unpacked_through_links() {
    use occ_proto::tar::{self, Entry, Kind};
    let shared = Shared::new();
    let root = shared.at("app");
    for dir in [&root, &shared.at("other"), &root.join("old")] {
        std::fs::create_dir(dir).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(dir, mode).unwrap();
    }
    std::os::unix::fs::symlink(shared.at("other"), root.join("old/out")).unwrap();
    let archive = |entries: &[(&str, Kind)]| {
        let mut bytes = Vec::new();
        for (path, kind) in entries {
            let path = path.as_bytes().to_vec();
            let entry = Entry { path, kind: kind.clone(), mode: 0o755, mtime: 1, size: 0 };
            tar::head(&mut bytes, &entry);
        }
        bytes.extend_from_slice(&tar::END);
        bytes
    };
    let outside = Kind::Symlink(b"../../other".to_vec());
    let config = format!("[policy]\nroot = {root:?}\n");
    let Some((_sshd, rig)) = sshd_with(&config) else { return };
    for place in ["h", "local"] {
        let put = |name: &str, entries: &[(&str, Kind)]| {
            let path = root.join(name);
            let url = format!("/v1/hosts/{place}/files/{}?tar=true", path.display());
            http::request(&rig.socket(), "PUT", &url, &[], Some(&archive(entries))).unwrap()
        };
        let link = ("l", outside.clone());
        denied(&put(place, &[link.clone(), ("l/new", Kind::File)]));
        denied(&put(place, &[link.clone(), ("l/new", Kind::Directory)]));
        denied(&put(place, &[link.clone(), ("l", Kind::File)]));
        denied(&put("old", &[("out/new", Kind::File)]));
        denied(&put("old", &[("out", Kind::Directory), ("out/new", Kind::File)]));
        denied(&put(place, &[("h", Kind::Hardlink(b"../../other/x".to_vec()))]));
        denied(&put(place, &[link.clone(), ("h", Kind::Hardlink(b"l/x".to_vec()))]));
        let name = format!("{place}-good");
        let good = put(&name, &[link, ("d", Kind::Directory), ("d/f", Kind::File)]);
        assert_eq!(good.status, 200, "{}", good.text());
        assert!(root.join(&name).join("d/f").exists());
    }
    assert_eq!(std::fs::read_dir(shared.at("other")).unwrap().count(), 0);
}

#[test]
fn a_forward_that_a_policy_forbids_is_closed_and_comes_back() {
    let Some((_sshd, mut rig)) = sshd_with("") else { return };
    let added = rig.http(
        "POST",
        "/v1/forwards",
        &[],
        Some(json!({ "host": "h", "local": "0:localhost:9" })),
    );
    assert_eq!(added.status, 201, "{}", added.text());
    let url = format!("/v1/forwards/{}", added.json()["id"].as_str().unwrap());
    let port: u16 =
        added.json()["listen"].as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap();
    let is_open = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
    assert!(is_open());
    rig.write_config_toml("[hosts.h.policy]\nforward = \"deny\"\n");
    eventually("the forward to be closed", || !is_open());
    let shown = rig.http("GET", &url, &[], None).json();
    assert!(shown["last_error"].as_str().unwrap().contains("forward = \"deny\""), "{shown}");
    // Nor does the next daemon open it.
    rig.terminate_daemon();
    rig.start_daemon(&[]);
    assert!(!is_open());
    rig.write_config_toml("");
    eventually("the forward to be open", is_open);
}
