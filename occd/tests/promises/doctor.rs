//! `occ doctor` beside a daemon that runs: what it says is true at this moment, and can be mended by what it says.

use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use occ_proto::daemon::Version;
use occ_proto::status::State;
use serde_json::Value;
use testkit::{DaemonRig, EmbeddedHost};

use crate::ask::{body, in_state};

/// Returns what doctor says of a check. Whatever is not well comes with what to type.
fn looked_at(rig: &DaemonRig, check: &str) -> Vec<Value> {
    let output = rig.run_occ(&["doctor", "--json"]);
    let report: Value =
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let checks = report["checks"].as_array().unwrap();
    assert!(checks.iter().all(|one| one["level"] == "ok" || one["hint"].is_string()), "{report}");
    checks.iter().filter(|one| one["check"] == check).cloned().collect()
}

/// Returns the only one that is not well, as its level, its detail and its hint.
fn wrong(rig: &DaemonRig, check: &str) -> (String, String, String) {
    let found = looked_at(rig, check);
    let bad: Vec<_> = found.iter().filter(|one| one["level"] != "ok").collect();
    let [one] = bad[..] else { panic!("{check}: {found:?}") };
    let text = |key: &str| one[key].as_str().unwrap().to_owned();
    (text("level"), text("detail"), text("hint"))
}

fn is_well(rig: &DaemonRig, check: &str) -> bool {
    looked_at(rig, check).iter().all(|one| one["level"] == "ok")
}

fn version(rig: &DaemonRig) -> Version {
    body(&rig.http("GET", "/v1/version", &[], None))
}

fn private_dir(path: &Path) {
    DirBuilder::new().mode(0o700).recursive(true).create(path).unwrap();
}

#[test]
fn what_was_wrong_with_a_host_that_is_tested_is_no_news() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &host);
    rig.start_daemon(&[]);
    host.reject_auth(true);
    assert_ne!(rig.run_occ(&["connect", "--host", "far"]).code(), 0);
    in_state(&rig, "far", State::Failed);
    let hosts_that_failed = |args: &[&str]| {
        let report: Value = serde_json::from_str(&rig.run_occ(args).stdout).unwrap();
        let checks = report["checks"].as_array().unwrap().clone();
        let of_far = checks.iter().filter(|one| one["host"] == "far" && one["level"] == "failed");
        of_far.map(|one| one["check"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(hosts_that_failed(&["doctor", "--json"]), ["hosts"]);
    assert_eq!(hosts_that_failed(&["doctor", "--host", "far", "--json"]), ["host"]);
    host.reject_auth(false);
    assert_eq!(hosts_that_failed(&["doctor", "--host", "far", "--json"]), [""; 0]);
}

#[test]
fn the_settings_are_told_as_they_are_on_disk_at_this_moment() {
    let mut rig = DaemonRig::new();
    rig.start_daemon(&[]);
    let file = rig.config_toml();
    for (text, words) in [("x = [\n", "unclosed array"), ("\ny = 1\n", "unknown field `y`")] {
        rig.write_config_toml(text);
        let (level, detail, _) = wrong(&rig, "config");
        assert!(level == "failed" && detail.contains(words), "{detail}");
        rig.write_config_toml("");
        assert!(is_well(&rig, "config"), "{text}");
    }
    rig.write_hosts_json("{");
    assert!(wrong(&rig, "config").1.contains("hosts.json"));
    rig.write_hosts_json(r#"{"version":1,"hosts":{}}"#);
    assert!(is_well(&rig, "config"));
    // Gone: nothing is there to be mended.
    std::fs::remove_file(&file).unwrap();
    let (_, detail, hint) = wrong(&rig, "config");
    assert!(detail.contains("occd.toml is gone") && hint.contains("occ daemon restart"), "{hint}");
}

#[test]
fn settings_that_never_counted_can_be_taken_away_again() {
    let mut rig = DaemonRig::new();
    rig.start_daemon(&[]);
    assert!(!rig.config_toml().exists());
    for _ in 0..2 {
        rig.write_config_toml("[bad");
        assert_eq!(wrong(&rig, "config").0, "failed");
        std::fs::remove_file(rig.config_toml()).unwrap();
        assert!(is_well(&rig, "config"), "the defaults are in force, as before");
    }
    // Once some have counted, they are not lifted by a detour.
    rig.write_config_toml("[policy]\nread_only = true\n");
    assert!(is_well(&rig, "config"));
    rig.write_config_toml("[bad");
    assert_eq!(wrong(&rig, "config").0, "failed");
    std::fs::remove_file(rig.config_toml()).unwrap();
    let (_, detail, _) = wrong(&rig, "config");
    assert!(detail.contains("occd.toml is gone"), "{detail}");
}

#[test]
fn the_line_of_the_settings_is_what_the_daemon_would_say_of_them() {
    let rig = DaemonRig::new();
    let file = rig.config_toml();
    rig.write_config_toml("[log]\ny = 1\n");
    let (level, detail, hint) = wrong(&rig, "occd.toml");
    assert!(level == "failed" && detail.contains("unknown field `y`"), "{detail}");
    assert!(hint.ends_with(&format!(" +2 {}", file.display())), "{hint}");
    rig.write_config_toml("[log]\n");
    assert!(is_well(&rig, "occd.toml"));
}

#[test]
fn what_is_in_the_place_of_the_read_only_socket_is_said() {
    for is_dir in [false, true] {
        let mut rig = DaemonRig::new();
        let dir = rig.socket().parent().unwrap().to_owned();
        private_dir(&dir);
        let path = dir.join("occd-ro.sock");
        match is_dir {
            true => std::fs::create_dir(&path).unwrap(),
            false => std::fs::write(&path, "").unwrap(),
        }
        rig.start_daemon(&[]);
        let version = version(&rig);
        assert_eq!(version.read_only_socket, None);
        let [warning] = &version.warnings[..] else { panic!("{:?}", version.warnings) };
        assert!(warning.contains("there is no read-only socket"), "{warning}");
        assert!(rig.log().contains("there is no read-only socket"), "{}", rig.log());
        let (level, detail, hint) = wrong(&rig, "socket");
        assert!(level == "warning" && detail.contains("is not a socket"), "{detail}");
        assert_eq!(hint, format!("mv {0} {0}.old, then: occ daemon restart", path.display()));
        assert!(is_well(&rig, "config"));
    }
}

#[test]
fn a_damaged_state_file_is_said_until_it_is_taken_away() {
    let names = ["forwards", "sessions", "grants", "operations", "docker-sockets"];
    let mut rig = DaemonRig::new();
    let state = rig.paths().state_dir().unwrap();
    private_dir(&state);
    for name in names {
        std::fs::write(state.join(format!("{name}.json")), "{{{").unwrap();
    }
    rig.start_daemon(&[]);
    let damaged = |name| state.join(format!("{name}.json.damaged"));
    let warnings = version(&rig).warnings;
    let found = looked_at(&rig, "state");
    let status = rig.run_occ(&["daemon", "status"]);
    for name in names {
        let path = damaged(name).display().to_string();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{{{");
        assert_eq!(warnings.iter().filter(|text| text.contains(&path)).count(), 1, "{warnings:?}");
        assert!(status.stderr.contains(&path), "{status:?}");
        let hint = format!("rm {path}, then: occ daemon restart");
        let is_said = |one: &Value| one["hint"].as_str().is_some_and(|text| text.contains(&hint));
        assert!(found.iter().any(is_said), "{found:?}");
    }
    // The next one finds it still there.
    rig.terminate_daemon();
    rig.start_daemon(&[]);
    assert_eq!(version(&rig).warnings.len(), names.len());
    rig.terminate_daemon();
    names.iter().for_each(|name| std::fs::remove_file(damaged(name)).unwrap());
    rig.start_daemon(&[]);
    assert_eq!(version(&rig).warnings, [""; 0]);
}

#[test]
fn hosts_that_others_could_have_written_are_told_with_what_takes_that_away() {
    let mut rig = DaemonRig::new();
    rig.write_hosts_json(r#"{"version":1,"hosts":{}}"#);
    let file = rig.hosts_file();
    std::fs::set_permissions(&file, Permissions::from_mode(0o666)).unwrap();
    rig.start_daemon(&[]);
    let cure = format!("chmod go-w {}", file.display());
    let output = rig.run_occ(&["exec", "--host", "a", "--", "true"]);
    assert!(output.stderr.contains(&cure), "{output:?}");
    for check in ["hosts.json", "hosts", "config"] {
        assert!(wrong(&rig, check).2.contains(&cure), "{check}: {:?}", looked_at(&rig, check));
    }
}

#[test]
fn a_daemon_whose_socket_was_replaced_is_not_stopped_for_one_that_could_not_start() {
    for is_dir in [false, true] {
        let mut rig = DaemonRig::new();
        rig.start_daemon(&[]);
        let (pid, socket) = (rig.daemon_pid(), rig.socket());
        let aside = socket.with_extension("aside");
        std::fs::rename(&socket, &aside).unwrap();
        match is_dir {
            true => std::fs::create_dir(&socket).unwrap(),
            false => std::fs::write(&socket, "").unwrap(),
        }
        let words = format!("{} exists and is not a socket", socket.display());
        let cure = format!("mv {0} {0}.old, then: occ daemon restart", socket.display());
        let (level, detail, hint) = wrong(&rig, "socket");
        assert!(level == "failed" && detail.contains(&words), "{detail}");
        assert!(detail.contains(&format!("process {pid}")), "{detail}");
        assert_eq!(hint, cure);
        for args in [&["host", "list"][..], &["daemon", "status"], &["daemon", "restart"]] {
            let refused = rig.run_occ(args);
            assert_eq!(refused.code(), 3, "{refused:?}");
            assert!(refused.stderr.contains(&words), "{refused:?}");
            assert!(refused.stderr.ends_with(&format!("hint: {cure}\n")), "{refused:?}");
        }
        // The same daemon, with all that it has open.
        std::fs::rename(&socket, socket.with_extension("sock.old")).unwrap();
        std::fs::rename(&aside, &socket).unwrap();
        assert_eq!(version(&rig).pid, pid);
    }
}

#[test]
fn a_daemon_whose_socket_was_replaced_can_be_stopped_and_started_again() {
    let mut rig = DaemonRig::new();
    rig.set_env("OCCD_BIN", testkit::daemon::daemon_binary());
    let (socket, old) = (rig.socket(), rig.socket().with_extension("sock.old"));
    rig.occ_ok(&["daemon", "start"]);
    for stops in [false, true] {
        let pid = rig.daemon_pid();
        std::fs::remove_file(&socket).unwrap();
        std::fs::write(&socket, "").unwrap();
        if stops {
            let said = rig.occ_ok(&["daemon", "stop"]);
            assert_eq!(said, format!("occd stopped (process {pid}).\n"));
        }
        std::fs::rename(&socket, &old).unwrap();
        rig.occ_ok(&["daemon", "restart"]);
        assert_ne!(rig.daemon_pid(), pid);
    }
    rig.occ_ok(&["daemon", "stop"]);
}

#[test]
fn the_socket_of_a_grant_is_well_and_said_to_be_one() {
    let mut rig = DaemonRig::new();
    rig.start_daemon(&[]);
    rig.occ_ok(&["host", "add", "h", "u@127.0.0.1:9", "--no-verify"]);
    let told = |rig: &DaemonRig, args: &[&str], socket: &Path| {
        let mut occ = rig.occ(args);
        let output = occ.env("OCC_SOCKET", socket).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    for (name, options) in [("mine", &[][..]), ("anybodys", &["--any-uid"])] {
        let make = ["grant", "-q", "--host", "h", "--allow", "read", "--ttl", "1h", "--name", name];
        let socket = rig.occ_ok(&[&make, options].concat());
        let socket = Path::new(socket.trim());
        let (_, out) = told(&rig, &["doctor", "--json"], socket);
        let report: Value = serde_json::from_str(&out).unwrap();
        let checks = report["checks"].as_array().unwrap();
        for check in ["daemon", "socket", "hosts"] {
            let mut found = checks.iter().filter(|one| one["check"] == check);
            assert!(found.all(|one| one["level"] == "ok"), "{check}: {report}");
        }
        let daemon = checks.iter().find(|one| one["check"] == "daemon").unwrap();
        let words = format!("the grant {name}");
        assert!(daemon["detail"].as_str().unwrap().contains(&words), "{daemon}");
        let (code, out) = told(&rig, &["daemon", "status"], socket);
        assert!(code == Some(0) && out.contains(&words), "{out}");
        let (code, out) = told(&rig, &["daemon", "status", "--json"], socket);
        let document: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(
            (code, &document["running"], &document["grant"]),
            (Some(0), &true.into(), &name.into())
        );
        // What is wrong with it is.
        std::fs::remove_file(socket).unwrap();
        assert_ne!(told(&rig, &["doctor"], socket).0, Some(0));
        assert_eq!(told(&rig, &["daemon", "status"], socket).0, Some(3));
    }
}
