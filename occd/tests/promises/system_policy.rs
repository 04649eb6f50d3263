//! Whoever administers a machine restricts what occ does there, for all its users: hosts, features, and rules beside
//! those of occd.toml. The file here stands for /etc/occ/policy.toml, and is in force like it.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use serde_json::{Value, json};
use testkit::{DaemonRig, RealSshd};

use crate::policy::{denied, typed};
use crate::support::{eventually, exit_code, post};

struct Machine {
    sshd: RealSshd,
    rig: DaemonRig,
    policy: PathBuf,
}

impl Machine {
    fn start(policy: impl Fn(&RealSshd) -> String) -> Option<Self> {
        if !RealSshd::require() {
            return None;
        }
        let sshd = RealSshd::builder().config("Subsystem sftp internal-sftp").start();
        let rig = DaemonRig::new();
        rig.add_host("h", &sshd);
        let path = rig.root().join("policy.toml");
        let text = policy(&sshd);
        let mut machine = Self { sshd, rig, policy: path };
        machine.write(&text);
        machine.start_daemon();
        Some(machine)
    }

    fn start_daemon(&mut self) {
        self.rig.start_daemon(&["--system-policy", self.policy.to_str().unwrap()]);
    }

    fn write(&self, text: &str) {
        let new = self.policy.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::set_permissions(&new, PermissionsExt::from_mode(0o644)).unwrap();
        std::fs::rename(new, &self.policy).unwrap();
    }

    fn ask(&self, method: &str, path: &str, body: Value) -> testkit::http::Response {
        self.rig.http(method, path, &[], Some(body))
    }

    /// Starts a daemon that is to end, and returns its exit code and what it says.
    fn refused_start(&mut self) -> (i32, String) {
        self.rig.terminate_daemon();
        let before = self.rig.log().len();
        let mut child = self.rig.spawn_daemon(&["--system-policy", self.policy.to_str().unwrap()]);
        (exit_code(&mut child), self.rig.log()[before..].to_owned())
    }
}

fn names(why: &str, machine: &Machine) {
    assert!(why.contains(machine.policy.to_str().unwrap()), "the file is not named: {why}");
}

#[test]
fn hosts_that_are_not_allowed_are_neither_saved_nor_dialled() {
    let allow = |sshd: &RealSshd| format!("[hosts]\nallow = [\"127.0.0.1:{}\"]\n", sshd.port());
    let Some(machine) = Machine::start(allow) else { return };
    let rig = &machine.rig;
    assert_eq!(post(rig, json!({ "argv": ["true"] })).status, 200);

    let added = rig.run_occ(&["host", "add", "x", "u@192.0.2.1", "--no-verify"]);
    assert_eq!(added.code(), 7, "{}", added.stderr);
    names(&added.stderr, &machine);
    assert!(added.stderr.contains("u@192.0.2.1:22"), "{}", added.stderr);
    let jump = rig.run_occ(&[
        "host",
        "add",
        "x",
        "127.0.0.1",
        "--port",
        &machine.sshd.port().to_string(),
        "--jump-host",
        "u@192.0.2.1",
        "--no-verify",
    ]);
    assert_eq!(jump.code(), 7, "{}", jump.stderr);
    let edit = json!({ "hostname": "192.0.2.1", "verify": false });
    names(&denied(&machine.ask("PATCH", "/v1/hosts/h", edit)), &machine);
    // What is written by hand, and what ssh_config makes of a name.
    let ssh_config = rig.home().join(".ssh/config");
    let text =
        "Host far\n  HostName 192.0.2.1\nHost by\n  HostName 127.0.0.1\n  ProxyCommand nc %h %p\n";
    std::fs::write(&ssh_config, text).unwrap();
    std::fs::set_permissions(&ssh_config, PermissionsExt::from_mode(0o600)).unwrap();
    let done = machine.ask("POST", "/v1/ssh-config/import", json!({ "names": ["far"] })).json();
    assert_eq!(done["added"], json!([]), "{done}");
    names(done["skipped"][0]["why"].as_str().unwrap(), &machine);
    let (port, user) = (machine.sshd.port(), machine.sshd.user());
    let key = machine.sshd.client_key_path();
    rig.add_host_to("far", "far", port, user, key);
    rig.add_host_to("by", "by", port, user, key);
    rig.edit_hosts(|file| {
        let mut behind = file.hosts["h"].clone();
        behind.jump_host = Some("far".into());
        file.hosts.insert("behind".parse().unwrap(), behind);
    });
    for host in ["far", "behind"] {
        let done = rig.run_occ(&["exec", "--host", host, "--retries", "0", "--", "true"]);
        assert_eq!(done.code(), 7, "{host}: {}", done.stderr);
        names(&done.stderr, &machine);
    }
    // A program that connects goes anywhere.
    let by = rig.run_occ(&["exec", "--host", "by", "--", "true"]);
    assert!(by.stderr.contains("administrator forbids"), "{}", by.stderr);
}

#[test]
fn an_address_is_denied_by_whatever_name_and_an_edit_counts() {
    let Some(machine) = Machine::start(|_| "[hosts]\n".to_owned()) else { return };
    let (rig, sshd) = (&machine.rig, &machine.sshd);
    assert_eq!(post(rig, json!({ "argv": ["true"] })).status, 200);
    rig.add_host_to("name", "localhost", sshd.port(), sshd.user(), sshd.client_key_path());
    machine.write(&format!("[hosts]\ndeny = [\"127.0.0.1:{}\", \"::1\"]\n", sshd.port()));
    for host in ["h", "name"] {
        let done = rig.run_occ(&["exec", "--host", host, "--retries", "0", "--", "true"]);
        assert_eq!(done.code(), 7, "{host}: {}", done.stderr);
        names(&done.stderr, &machine);
    }
    machine.write("");
    assert_eq!(post(rig, json!({ "argv": ["true"] })).status, 200);
}

#[test]
fn what_is_turned_off_is_refused_at_its_door() {
    let Some(machine) = Machine::start(|_| String::new()) else { return };
    let rig = &machine.rig;
    let grant = rig.occ_ok(&["grant", "-q", "--host", "h", "--allow", "exec", "--ttl", "1h"]);
    rig.occ_ok(&["session", "start", "--host", "h", "--name", "s", "--", "sleep", "1000"]);
    rig.occ_ok(&["session", "start", "--host", "h", "--name", "t", "--tty", "--", "true"]);
    let off = |features: &[&str]| {
        let lines: Vec<String> = features.iter().map(|key| format!("{key} = false\n")).collect();
        machine.write(&format!("[features]\n{}", lines.concat()));
    };
    let forward = |spec: Value| machine.ask("POST", "/v1/forwards", spec);
    type Ask<'a> = (&'a str, Box<dyn Fn() -> testkit::http::Response + 'a>);
    let asks: Vec<Ask<'_>> = vec![
        ("exec", Box::new(|| post(rig, json!({ "argv": ["true"] })))),
        ("shell", Box::new(|| post(rig, json!({ "argv": [] })))),
        ("shell", Box::new(|| rig.http("POST", "/v1/sessions/t/start", &[], None))),
        (
            "sessions",
            Box::new(|| {
                machine.ask("POST", "/v1/sessions", json!({ "host": "h", "argv": ["true"] }))
            }),
        ),
        ("sessions", Box::new(|| rig.http("GET", "/v1/sessions/s/output?follow=false", &[], None))),
        ("files", Box::new(|| rig.http("GET", "/v1/hosts/h/files/tmp?list=true", &[], None))),
        ("docker", Box::new(|| rig.http("GET", "/v1/hosts/h/container", &[], None))),
        ("local_forwards", Box::new(|| forward(json!({ "host": "h", "local": "0:localhost:9" })))),
        (
            "remote_forwards",
            Box::new(|| forward(json!({ "host": "h", "remote": "0:localhost:9" }))),
        ),
        (
            "public_forwards",
            Box::new(|| {
                forward(json!({ "host": "h", "local": "0.0.0.0:0:localhost:9", "public": true }))
            }),
        ),
        (
            "grants",
            Box::new(|| {
                machine.ask(
                    "POST",
                    "/v1/grants",
                    json!({ "host": "h", "allow": ["read"], "ttl_ms": 60000 }),
                )
            }),
        ),
        (
            "trust_on_first_use",
            Box::new(|| machine.ask("POST", "/v1/hosts/h/trust", json!({ "shown": "x" }))),
        ),
    ];
    for (feature, ask) in &asks {
        // Each request sees the file as it is.
        off(&[feature]);
        let why = denied(&ask());
        assert!(why.contains(&format!("{feature} = false")), "{feature}: {why}");
        names(&why, &machine);
    }
    // Also what was there before.
    off(&["grants", "local_forwards"]);
    assert_eq!(rig.http("GET", "/v1/hosts/h", &[], None).status, 200);
    let through = testkit::http::request(grant.trim().as_ref(), "GET", "/v1/hosts/h", &[], None);
    denied(&through.unwrap());
    // A session runs a command, and takes more of them.
    off(&["exec"]);
    assert_eq!(rig.http("GET", "/v1/hosts/h", &[], None).status, 200);
    let argv = json!({ "host": "h", "argv": ["true"] });
    for (path, body) in [
        ("/v1/sessions", argv),
        ("/v1/sessions/s/start", Value::Null),
        ("/v1/sessions/s/input", Value::Null),
    ] {
        let body = (!body.is_null()).then_some(body);
        let why = denied(&rig.http("POST", path, &[], body));
        assert!(why.contains("exec = false"), "{path}: {why}");
    }
    let durable = rig.run_occ(&["exec", "--durable", "--host", "h", "--", "true"]);
    assert_eq!(durable.code(), 7, "{}", durable.stderr);
    assert!(durable.stderr.contains("exec = false"), "{}", durable.stderr);
    assert!(durable.stderr.contains("occ policy show --host h "), "{}", durable.stderr);
    let again = rig.run_occ(&["session", "start", "--name", "s"]);
    assert!(again.stderr.contains("occ policy show --host h "), "{}", again.stderr);
    let (code, said) = typed(rig, &["session", "attach", "s"]);
    assert_eq!(code, 7, "{said}");
    assert!(said.contains("exec = false"), "{said}");
    // What it has written can be looked at.
    rig.occ_ok(&["session", "logs", "s"]);
    // And what it ends is ended nevertheless.
    off(&["exec", "sessions"]);
    rig.occ_ok(&["session", "kill", "s"]);
    rig.occ_ok(&["session", "rm", "s"]);
}

#[test]
fn a_host_key_is_taken_from_nobody_where_that_is_turned_off() {
    let policy = |_: &RealSshd| "[features]\ntrust_on_first_use = false\n".to_owned();
    let Some(machine) = Machine::start(policy) else { return };
    let rig = &machine.rig;
    assert_eq!(post(rig, json!({ "argv": ["true"] })).status, 200);
    rig.write_config_toml("[connection]\nstrict_host_key_checking = \"accept-new\"\n");
    std::fs::write(rig.known_hosts_file(), "").unwrap();
    let done = rig.run_occ(&["reconnect", "--host", "h"]);
    assert_ne!(done.code(), 0);
    assert!(done.stderr.contains("trust_on_first_use"), "{}", done.stderr);
}

#[test]
fn its_rules_go_before_those_of_occd_toml_and_are_shown() {
    let rules =
        "[policy]\nforward = \"deny\"\n[[policy.rules]]\naction = \"deny\"\nprogram = \"rm\"\n";
    let policy = |_: &RealSshd| {
        format!("{rules}[hosts]\ndeny = [\"*.invalid\"]\n[features]\ngrants = false\n")
    };
    let Some(machine) = Machine::start(policy) else { return };
    let rig = &machine.rig;
    rig.write_config_toml(
        "[policy]\ndefault = \"allow\"\nforward = \"allow\"\n[[policy.rules]]\naction = \"allow\"\n",
    );
    for place in ["h", "local"] {
        let path = format!("/v1/hosts/{place}/exec");
        let why = denied(&machine.ask("POST", &path, json!({ "argv": ["rm", "/nowhere"] })));
        assert!(why.contains("policy.toml, line 3"), "{why}");
        names(&why, &machine);
        assert_eq!(machine.ask("POST", &path, json!({ "argv": ["true"] })).status, 200);
    }
    let forward = json!({ "host": "h", "local": "0:localhost:9" });
    let why = denied(&machine.ask("POST", "/v1/forwards", forward));
    names(&why, &machine);
    let show = rig.occ_ok(&["policy", "show", "--host", "h"]);
    names(&show, &machine);
    for line in ["deny       *.invalid", "off        grants", "rule       deny  program \"rm\""] {
        assert!(show.contains(line), "{line}: {show}");
    }
    let check = rig.run_occ(&["policy", "check", "--host", "h", "--", "rm", "x"]);
    assert_eq!(check.code(), 7, "{}", check.stdout);
    let doctor = rig.run_occ(&["doctor"]);
    names(&doctor.stdout, &machine);
}

#[test]
fn a_file_that_cannot_be_used_keeps_the_daemon_from_starting_and_changes_nothing_later() {
    let rule = "[[policy.rules]]\naction = \"deny\"\nprogram = \"rm\"\n";
    let Some(mut machine) = Machine::start(|_| rule.to_owned()) else { return };
    let rm = |machine: &Machine| denied(&post(&machine.rig, json!({ "argv": ["rm"] })));
    rm(&machine);
    // Malformed, and gone: what it said stays in force, and is said.
    machine.write("[features]\n\nexce = false\n");
    rm(&machine);
    let done = machine.rig.run_occ(&["exec", "--host", "h", "--", "true"]);
    assert_eq!(done.code(), 0, "{}", done.stderr);
    assert!(done.stderr.contains("policy.toml, line 3, column 1"), "{}", done.stderr);
    assert!(done.stderr.contains("the settings from before stay in force"), "{}", done.stderr);
    let (code, said) = machine.refused_start();
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("policy.toml, line 3, column 1"), "{said}");

    machine.write(rule);
    machine.start_daemon();
    rm(&machine);
    std::fs::remove_file(&machine.policy).unwrap();
    rm(&machine);
    machine.rig.write_config_toml("[policy]\ndefault = \"allow\"\n");
    rm(&machine);
    eventually("the log to say so", || machine.rig.log().contains("policy.toml is gone"));

    // Somebody else's is nobody's policy.
    machine.write(rule);
    std::fs::set_permissions(&machine.policy, PermissionsExt::from_mode(0o666)).unwrap();
    let (code, said) = machine.refused_start();
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("can be written by others"), "{said}");
}

#[test]
fn a_link_that_leads_nowhere_is_a_file_that_cannot_be_read() {
    let rule = "[[policy.rules]]\naction = \"deny\"\nprogram = \"rm\"\n";
    let Some(mut machine) = Machine::start(|_| rule.to_owned()) else { return };
    let rm = |machine: &Machine| denied(&post(&machine.rig, json!({ "argv": ["rm"] })));
    let target = machine.rig.root().join("elsewhere.toml");
    let lead_nowhere = |machine: &Machine| {
        std::fs::remove_file(&machine.policy).unwrap();
        symlink(&target, &machine.policy).unwrap();
    };
    lead_nowhere(&machine);
    rm(&machine);
    let done = machine.rig.run_occ(&["exec", "--host", "h", "--", "true"]);
    assert!(done.stderr.contains("policy.toml cannot be read"), "{}", done.stderr);
    assert!(done.stderr.contains("the settings from before stay in force"), "{}", done.stderr);
    let (code, said) = machine.refused_start();
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("policy.toml cannot be read"), "{said}");
    // One that leads somewhere is as good as what it leads to.
    std::fs::write(&target, rule).unwrap();
    std::fs::set_permissions(&target, PermissionsExt::from_mode(0o644)).unwrap();
    machine.start_daemon();
    rm(&machine);
    std::fs::remove_file(&target).unwrap();
    rm(&machine);
    let done = machine.rig.run_occ(&["exec", "--host", "h", "--", "true"]);
    assert!(done.stderr.contains("policy.toml cannot be read"), "{}", done.stderr);

    // The same of its directory.
    let dir = machine.rig.root().join("etc");
    symlink(machine.rig.root().join("nowhere"), &dir).unwrap();
    machine.policy = dir.join("policy.toml");
    let (code, said) = machine.refused_start();
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("policy.toml cannot be read"), "{said}");
    // Where there is nothing there is no policy.
    std::fs::remove_file(&dir).unwrap();
    machine.start_daemon();
    assert_eq!(post(&machine.rig, json!({ "argv": ["true"] })).status, 200);
    // Nor is one that comes to be without being read.
    std::fs::create_dir(&dir).unwrap();
    symlink(&target, &machine.policy).unwrap();
    let done = machine.rig.run_occ(&["exec", "--host", "h", "--", "true"]);
    assert!(done.stderr.contains("policy.toml cannot be read"), "{}", done.stderr);
}
