//! occd.toml: an edit counts for the command that comes next, and a file that cannot be used is said where it matters.

use occ_proto::Code;
use testkit::daemon::Output;
use testkit::wait::blocking::wait_until;
use testkit::{DaemonRig, EmbeddedHost};

use crate::ask::{GUARD, echoes, look, post, problem};

/// Returns whether a command has this on its standard error, once.
fn warns(output: &Output, warning: &str) -> bool {
    output.stderr.matches(&format!("Warning: {warning}")).count() == 1
}

#[test]
fn each_file_that_is_kept_is_told_of() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("a", &host);
    rig.start_daemon(&[]);
    echoes(&rig, "a");
    let key = [("Idempotency-Key", "k"), ("Content-Type", "application/json")];
    let body = serde_json::json!({ "argv": ["true"] });
    assert_eq!(rig.http("POST", "/v1/hosts/a/exec", &key, Some(body)).status, 200);
    rig.occ_ok(&["forward", "add", "-L", "0:127.0.0.1:9", "--host", "a"]);
    rig.occ_ok(&["grant", "--host", "a", "--allow", "read", "--ttl", "1h"]);
    rig.occ_ok(&["session", "start", "--local", "--", "true"]);
    // Of operations those that fail are remembered as well.
    rig.run_occ(&["start", "--host", "a", "--yes"]);
    rig.terminate_daemon();
    let docs = testkit::docs::text("docs/configuration.md");
    let (_, places) = docs.split_once("## Where everything is").unwrap();
    let mut kept = 0;
    for entry in std::fs::read_dir(rig.paths().state_dir().unwrap()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(places.contains(&name), "{name}");
        kept += 1;
    }
    assert!(kept > 8, "{kept}");
}

#[test]
fn an_edit_counts_for_the_next_command() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("a", &host);
    rig.start_daemon(&[]);
    echoes(&rig, "a");
    for seconds in [1, 2, 1] {
        let setting = format!("[hosts.a.connection]\ncommand_timeout = \"{seconds}00ms\"\n");
        rig.write_config_toml(&setting);
        let output = rig.run_occ(&["exec", "--host", "a", "--", "sleep", "30"]);
        assert_eq!(output.code(), 124, "{output:?}");
        let says =
            format!("ran longer than {seconds}00ms (command_timeout in occd.toml) and was ended");
        assert!(output.stderr.contains(&says), "{output:?}");
    }
}

#[test]
fn what_is_no_part_of_a_dial_leaves_the_connection_alone() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("a", &host);
    rig.start_daemon(&[]);
    echoes(&rig, "a");
    for setting in ["[connection]\nmax_backoff = \"100ms\"\n", "[security]\npasswords = false\n"] {
        // The time limit shows that the edit is in force.
        rig.write_config_toml(&format!(
            "{setting}[hosts.a.connection]\ncommand_timeout = \"100ms\"\n"
        ));
        let output = rig.run_occ(&["exec", "--host", "a", "--", "sleep", "30"]);
        assert_eq!(output.code(), 124, "{output:?}");
        assert_eq!(look(&rig, "a").connects, 1, "{setting}");
        rig.write_config_toml("");
        echoes(&rig, "a");
    }
    assert!(!rig.log().contains("the configuration of the connection changed"));
    // And the backoff is another: without it the fifth dial may take eight seconds to come.
    rig.write_config_toml("[connection]\nmax_backoff = \"100ms\"\n");
    echoes(&rig, "a");
    host.drop_during_auth(true);
    let before = host.connections();
    post(&rig, "/v1/hosts/a/reconnect");
    let now = || host.connections() - before;
    wait_until("many dials", GUARD, now, |dials| *dials >= 40);
}

#[test]
fn a_file_that_cannot_be_used_is_said_by_every_command() {
    let host = EmbeddedHost::start();
    host.reject_auth(true);
    let mut rig = DaemonRig::new();
    rig.add_host("a", &host);
    rig.start_daemon(&[]);
    assert_eq!(problem(&post(&rig, "/v1/hosts/a/connect")).code, Code::AuthFailed);
    rig.write_config_toml("[hosts.a]\nauth = [\"pasword\"]\n");
    let file = rig.config_toml();
    let start = format!("{}, line 2: ", file.display());
    for args in [
        &["exec", "--host", "a", "--", "true"][..],
        &["connect", "--host", "a"],
        &["reconnect", "--host", "a"],
        &["host", "test", "a"],
    ] {
        let output = rig.run_occ(args);
        assert!(!output.status.success(), "{args:?}: {output:?}");
        assert!(warns(&output, &start), "{args:?}: {output:?}");
        assert!(output.stderr.contains("; the settings from before stay in force\n"), "{output:?}");
    }
    for args in [&["daemon", "status"][..], &["status", "--host", "a"], &["status", "--all"]] {
        let output = rig.run_occ(args);
        assert!(output.stderr.contains(&start), "{args:?}: {output:?}");
    }
    // Whether the command's own end is good or bad.
    host.reject_auth(false);
    for (args, code) in [
        (&["reconnect", "--host", "a"][..], 0),
        (&["host", "test", "a"], 0),
        (&["exec", "--host", "a", "--", "true"], 0),
        (&["exec", "--host", "a", "--", "sh", "-c", "exit 3"], 3),
    ] {
        let output = rig.run_occ(args);
        assert_eq!(output.code(), code, "{args:?}: {output:?}");
        assert!(warns(&output, &start), "{args:?}: {output:?}");
    }
    // A host that is not there is a slip of the finger.
    rig.write_config_toml("[hosts.a]\n[hosts.nosuch]\n[hosts.\"via:gate\"]\n");
    for args in [&["status", "--all"][..], &["daemon", "status"]] {
        let output = rig.run_occ(args);
        let says = "occd.toml, line 2: there is no host for [hosts.nosuch]\n";
        assert!(output.stderr.contains(says), "{args:?}: {output:?}");
        assert_eq!(output.stderr.matches("there is no host").count(), 1, "{output:?}");
    }
    rig.write_config_toml("");
    let output = rig.run_occ(&["connect", "--host", "a"]);
    assert!(!output.stderr.contains("Warning"), "{output:?}");
}
