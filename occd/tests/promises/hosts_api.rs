//! hosts.json and occd.toml through the API and by hand: nothing is lost, nothing broken is obeyed.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use occ_proto::exec::ExecResult;
use occ_proto::host::DefaultHost;
use occ_proto::status::{HostSaved, HostStatus, State};
use occ_proto::{Code, GroupName, HostsFile};
use serde_json::{Value, json};
use testkit::http::Response;
use testkit::keys::KeyFile;
use testkit::wait::blocking::{wait_for, wait_until};
use testkit::{DaemonRig, EmbeddedHost};

use crate::ask::{GUARD, body, connect, echoes, exec, list, look, post, problem};

/// A daemon without hosts.
fn empty_rig() -> DaemonRig {
    let mut rig = DaemonRig::new();
    rig.start_daemon(&[]);
    rig
}

fn add(rig: &DaemonRig, name: &str, config: Value) -> Response {
    rig.http(
        "POST",
        "/v1/hosts",
        &[],
        Some(json!({ "name": name, "config": config, "verify": false })),
    )
}

fn patch(rig: &DaemonRig, name: &str, change: Value) -> Response {
    rig.http("PATCH", &format!("/v1/hosts/{name}"), &[], Some(change))
}

fn get(rig: &DaemonRig, path: &str) -> Response {
    rig.http("GET", path, &[], None)
}

fn delete(rig: &DaemonRig, path: &str) -> Response {
    rig.http("DELETE", path, &[], None)
}

fn on_disk(rig: &DaemonRig) -> HostsFile {
    serde_json::from_slice(&fs::read(rig.hosts_file()).unwrap()).unwrap()
}

fn text_on_disk(rig: &DaemonRig) -> String {
    fs::read_to_string(rig.hosts_file()).unwrap()
}

/// What hosts.json says about a server, its key included.
fn config_of(host: &EmbeddedHost) -> Value {
    json!({
        "hostname": "127.0.0.1", "port": host.port(), "user": host.user(),
        "identity_file": host.client_key_path(),
    })
}

fn names(rig: &DaemonRig) -> Vec<String> {
    list(rig).hosts.iter().map(|host| host.name.to_string()).collect()
}

#[test]
fn the_connection_that_verified_a_host_is_the_hosts() {
    let server = EmbeddedHost::start();
    let rig = empty_rig();
    rig.add_known_host(&server.known_hosts_line());
    let config = config_of(&server);
    let add = json!({ "name": "h", "config": config });
    let added = rig.http("POST", "/v1/hosts", &[], Some(add));
    assert_eq!(added.status, 201, "{}", added.text());
    let added: HostSaved = body(&added);
    let generation = |status: &HostStatus| status.connection.as_ref().map(|made| made.id);
    assert_eq!((added.host.state, generation(&added.host)), (State::Connected, Some(1)));
    echoes(&rig, "h");
    assert_eq!(server.connections(), 1);

    // A connection with the new configuration takes the old one's place.
    let edited = patch(&rig, "h", json!({ "hostname": "localhost" }));
    assert_eq!(edited.status, 200, "{}", edited.text());
    let edited: HostSaved = body(&edited);
    assert_eq!(edited.host.state, State::Connected);
    assert_ne!(generation(&edited.host), Some(1));
    echoes(&rig, "h");
    assert_eq!(look(&rig, "h").connects, 2);
    wait_for("the old connection to end", GUARD, || {
        (server.active_connections() == 1).then_some(())
    });

    // One that somebody has disconnected stays so.
    assert_eq!(post(&rig, "/v1/hosts/h/disconnect").status, 200);
    let edited = patch(&rig, "h", json!({ "hostname": "127.0.0.1" }));
    assert_eq!(edited.status, 200, "{}", edited.text());
    assert_eq!(look(&rig, "h").state, State::Stopped);
    wait_for("all connections to end", GUARD, || (server.active_connections() == 0).then_some(()));

    // Nothing stays of one that cannot be connected to.
    server.reject_auth(true);
    let add = json!({ "name": "bad", "config": config });
    assert_eq!(rig.http("POST", "/v1/hosts", &[], Some(add)).status, 409);
    assert_eq!(names(&rig), ["h"]);
}

#[test]
fn a_new_name_has_no_colon_and_an_old_one_is_read() {
    let rig = empty_rig();
    let refused = problem(&add(&rig, "a:b", json!({ "hostname": "192.0.2.1" })));
    assert_eq!((refused.status, refused.code), (400, Code::BadRequest));
    assert!(refused.detail.contains("':'"), "{refused:?}");
    let occ = rig.run_occ(&["host", "add", "a:b", "192.0.2.1", "--no-verify"]);
    assert!(occ.code() == 2 && occ.stderr.contains("':'"), "{occ:?}");
    // `occ cp` could not name it, but a file may have it.
    let old = json!({ "version": 1, "hosts": { "a:b": { "hostname": "192.0.2.1" } } });
    rig.write_hosts_json(&old.to_string());
    assert_eq!(names(&rig), ["a:b"]);
    let edited = patch(&rig, "a:b", json!({ "description": "old", "verify": false }));
    assert_eq!(edited.status, 200, "{}", edited.text());
    assert_eq!(delete(&rig, "/v1/hosts/a:b").status, 204);
}

#[test]
fn a_host_that_is_being_added_is_not_said_to_be_missing() {
    let rig = empty_rig();
    rig.write_config_toml("[hosts.ask]\n[hosts.nosuch]\n");
    let config = json!({ "hostname": "127.0.0.1", "port": 1 });
    let failed =
        rig.http("POST", "/v1/hosts", &[], Some(json!({ "name": "ask", "config": config })));
    assert_eq!(problem(&failed).code, Code::HostUnreachable);
    let warned = failed.header("occ-warning").unwrap();
    assert!(
        warned.contains("nosuch") && !format!("{failed:?}").contains("hosts.ask"),
        "{failed:?}"
    );
    let added = add(&rig, "ask", config);
    assert!(!format!("{added:?}").contains("hosts.ask"), "{added:?}");
}

#[test]
fn a_host_is_added_shown_edited_and_removed() {
    let rig = empty_rig();
    assert!(list(&rig).hosts.is_empty());
    assert!(get(&rig, "/v1/hosts").body.ends_with(b"}\n"), "curl's prompt stays on its own line");
    let full = json!({
        "hostname": "192.0.2.1", "user": "deploy", "port": 2222, "identity_file": "~/.ssh/k",
        "jump_host": null, "groups": ["eu"], "description": "the first",
    });
    let added = add(&rig, "prod-1", full.clone());
    assert_eq!(added.status, 201, "{}", added.text());
    let added: HostSaved = body(&added);
    assert_eq!((added.host.state, added.test), (State::Idle, None));
    assert_eq!(serde_json::to_value(&on_disk(&rig).hosts["prod-1"]).unwrap(), full);
    assert_eq!(add(&rig, "prod-2", json!({ "hostname": "192.0.2.2" })).status, 201);
    assert_eq!(names(&rig), ["prod-1", "prod-2"]);

    let again = problem(&add(&rig, "prod-1", json!({ "hostname": "192.0.2.9" })));
    assert_eq!((again.status, again.code), (409, Code::HostExists));
    // Not everybody who reads this has an option of that name.
    assert!(again.detail.contains("`force`") && !again.detail.contains("--"), "{}", again.detail);
    let force = json!({
        "name": "prod-2", "config": { "hostname": "192.0.2.3" }, "verify": false, "force": true,
    });
    assert_eq!(rig.http("POST", "/v1/hosts", &[], Some(force)).status, 201);
    assert_eq!(on_disk(&rig).hosts["prod-2"].hostname.as_str(), "192.0.2.3");

    // Absent stays, null clears.
    let change = json!({ "port": null, "user": null, "groups": [], "verify": false });
    let edited = patch(&rig, "prod-1", change);
    assert_eq!(edited.status, 200, "{}", edited.text());
    let config = body::<HostSaved>(&edited).host.config;
    assert_eq!((config.port, &config.user, config.groups.len()), (None, &None, 0));
    assert_eq!(config.description.as_deref(), Some("the first"));
    assert_eq!(on_disk(&rig).hosts["prod-1"], config);

    for (method, path) in [
        ("GET", "/v1/hosts/none-such"),
        ("PATCH", "/v1/hosts/none-such"),
        ("DELETE", "/v1/hosts/none-such"),
    ] {
        let answer = problem(&rig.http(method, path, &[], Some(json!({}))));
        assert_eq!((answer.status, answer.code), (404, Code::HostNotFound), "{method}");
        assert!(answer.detail.contains("none-such"), "{answer:?}");
    }
    assert_eq!(delete(&rig, "/v1/hosts/prod-1").status, 204);
    assert_eq!(names(&rig), ["prod-2"]);
    assert_eq!(on_disk(&rig).hosts.len(), 1);
}

#[test]
fn a_writer_who_read_something_else_is_refused() {
    let rig = empty_rig();
    add(&rig, "prod", json!({ "hostname": "192.0.2.1" }));
    let shown = rig.http("GET", "/v1/hosts/prod", &[], None);
    let etag = shown.header("etag").expect("an entity tag").to_owned();
    assert_eq!(body::<HostStatus>(&shown).etag, etag);
    let edit = |tag: &str, text: &str| {
        rig.http(
            "PATCH",
            "/v1/hosts/prod",
            &[("If-Match", tag)],
            Some(json!({ "description": text })),
        )
    };
    assert_eq!(edit(&etag, "first").status, 200);
    let late = problem(&edit(&etag, "second"));
    assert_eq!((late.status, late.code), (412, Code::EditConflict));
    assert_eq!(late.host.unwrap().as_str(), "prod");
    let removal = rig.http("DELETE", "/v1/hosts/prod", &[("If-Match", &etag)], None);
    assert_eq!(problem(&removal).status, 412);
    assert_eq!(on_disk(&rig).hosts["prod"].description.as_deref(), Some("first"));
    assert_eq!(edit("*", "third").status, 200);
    let new = look(&rig, "prod").etag;
    assert_ne!(new, etag);
    assert_eq!(rig.http("DELETE", "/v1/hosts/prod", &[("If-Match", &new)], None).status, 204);
}

#[test]
fn a_host_with_work_is_removed_only_by_force() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &host);
    rig.start_daemon(&[]);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| exec(&rig, "far", &["sleep", "1000"]));
        wait_until("the work", GUARD, || look(&rig, "far").open_channels, |n| *n > 0);
        wait_until("the program", GUARD, || host.execs(), |n| *n >= 2);
        let busy = problem(&delete(&rig, "/v1/hosts/far"));
        assert_eq!((busy.status, busy.code), (409, Code::HostBusy));
        assert_eq!(names(&rig), ["far"]);
        assert_eq!(delete(&rig, "/v1/hosts/far?force=true").status, 204);
        let ended = running.join().unwrap();
        let result: ExecResult = serde_json::from_slice(&ended.body).unwrap();
        assert_eq!(
            (ended.status, result.exit.signal.as_deref()),
            (200, Some("TERM")),
            "{result:?}"
        );
    });
    assert!(names(&rig).is_empty());
    wait_until("its connection to end", GUARD, || host.active_connections(), |n| *n == 0);
}

#[test]
fn an_edit_by_hand_counts_for_the_next_request() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("k", &host);
    rig.start_daemon(&[]);
    let file = rig.paths().hosts_file_candidates().unwrap().remove(0);
    let whole = std::fs::read_to_string(&file).unwrap();
    for _ in 0..3 {
        assert_eq!(exec(&rig, "k", &["true"]).status, 200);
        std::fs::write(&file, r#"{"hosts":{}}"#).unwrap();
        assert_eq!(problem(&exec(&rig, "k", &["true"])).code, Code::HostNotFound);
        std::fs::write(&file, "{bad").unwrap();
        let warned = rig.http("GET", "/v1/hosts", &[], None);
        assert!(warned.header("occ-warning").is_some(), "{warned:?}");
        std::fs::write(&file, whole.replace("\"k\"", "\"k9\"")).unwrap();
        assert_eq!(exec(&rig, "k9", &["true"]).status, 200);
        assert_eq!(problem(&exec(&rig, "k", &["true"])).code, Code::HostNotFound);
        std::fs::write(&file, &whole).unwrap();
    }
}

#[test]
fn nobody_confirms_the_removal_of_a_host_that_is_not_there() {
    let rig = empty_rig();
    add(&rig, "prod", json!({ "hostname": "192.0.2.1" }));
    let unconfirmed = rig.run_occ(&["host", "remove", "prod"]);
    assert_eq!(unconfirmed.code(), 2, "{unconfirmed:?}");
    assert!(unconfirmed.stderr.contains("hint: occ host remove prod -f"), "{unconfirmed:?}");
    let absent = rig.run_occ(&["host", "remove", "prd"]);
    assert_eq!(absent.code(), 4, "{absent:?}");
    assert!(absent.stderr.contains("prd") && !absent.stderr.contains("confirm"), "{absent:?}");
}

#[test]
fn the_default_host_is_set_cleared_and_always_one_that_exists() {
    let rig = empty_rig();
    add(&rig, "prod", json!({ "hostname": "192.0.2.1" }));
    let shown = || body::<DefaultHost>(&rig.http("GET", "/v1/default-host", &[], None)).name;
    let set = |name: Value| rig.http("PUT", "/v1/default-host", &[], Some(json!({ "name": name })));
    assert_eq!(shown(), None);
    assert_eq!(set(json!("prod")).status, 200);
    assert_eq!(shown().unwrap().as_str(), "prod");
    assert_eq!(on_disk(&rig).default_host.unwrap().as_str(), "prod");
    let unknown = problem(&set(json!("none-such")));
    assert_eq!((unknown.status, unknown.code), (404, Code::HostNotFound));
    assert_eq!(shown().unwrap().as_str(), "prod");
    assert_eq!(set(Value::Null).status, 200);
    assert_eq!(shown(), None);
    set(json!("prod"));
    assert_eq!(delete(&rig, "/v1/default-host").status, 204);
    assert_eq!(shown(), None);
    // The removal of the default host leaves none that does not exist.
    set(json!("prod"));
    assert_eq!(delete(&rig, "/v1/hosts/prod").status, 204);
    assert_eq!((shown(), on_disk(&rig).default_host), (None, None));
}

#[test]
fn a_host_that_cannot_be_reached_is_not_written() {
    let host = EmbeddedHost::start();
    let rig = empty_rig();
    let wrong = KeyFile::generate(rig.home().join("wrong"), "ed25519");
    let mut config = config_of(&host);
    config["identity_file"] = json!(wrong.path);
    let request = json!({ "name": "far", "config": config });
    let refused = problem(&rig.http("POST", "/v1/hosts", &[], Some(request)));
    assert_eq!((refused.status, refused.code), (409, Code::AuthFailed));
    assert!(!rig.hosts_file().exists());
    assert!(names(&rig).is_empty());

    let request = json!({ "name": "far", "config": config_of(&host) });
    let saved = rig.http("POST", "/v1/hosts", &[], Some(request));
    assert_eq!(saved.status, 201, "{}", saved.text());
    let test = body::<HostSaved>(&saved).test.expect("the test that was made");
    assert!(test.ssh_ok && !test.docker_ok, "no Docker is not a failure: {test:?}");

    let before = text_on_disk(&rig);
    let dials = host.connections();
    let refused = problem(&patch(&rig, "far", json!({ "identity_file": wrong.path })));
    assert_eq!((refused.status, refused.code), (409, Code::AuthFailed));
    assert_eq!(text_on_disk(&rig), before);
    assert_eq!(host.connections(), dials + 1);
    // A label needs no test.
    assert_eq!(patch(&rig, "far", json!({ "description": "d" })).status, 200);
    assert_eq!(host.connections(), dials + 1);
}

#[test]
fn edits_by_hand_are_noticed() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.start_daemon(&[]);
    assert!(names(&rig).is_empty());
    rig.add_host("far", &host);
    // A command that names a host never misses it, though the file is looked at once a second.
    echoes(&rig, "far");
    let before = look(&rig, "far");
    rig.edit_hosts(|file| file.hosts.get_mut("far").unwrap().description = Some("by hand".into()));
    let after = wait_until(
        "the description",
        GUARD,
        || look(&rig, "far"),
        |status| status.config.description.is_some(),
    );
    assert_eq!(after.connection.unwrap().id, before.connection.unwrap().id, "not dialled anew");
    rig.edit_hosts(|file| {
        file.hosts.shift_remove("far");
    });
    wait_until("the host to go", GUARD, || names(&rig), Vec::is_empty);
    wait_until("its connection to end", GUARD, || host.active_connections(), |n| *n == 0);
}

#[test]
fn a_connection_moves_when_its_address_is_edited() {
    let (old, new) = (EmbeddedHost::start(), EmbeddedHost::start());
    let mut rig = DaemonRig::new();
    rig.add_host("far", &old);
    rig.start_daemon(&[]);
    connect(&rig, "far");
    let mut change = config_of(&new);
    change["verify"] = json!(false);
    assert_eq!(patch(&rig, "far", change).status, 200);
    wait_until("the old connection to end", GUARD, || old.active_connections(), |n| *n == 0);
    echoes(&rig, "far");
    assert_eq!(look(&rig, "far").connection.unwrap().peer, new.addr().to_string());
}

#[test]
fn a_hundred_edits_at_once_lose_none() {
    const HOSTS: usize = 100;
    let rig = empty_rig();
    let name = |n: usize| format!("host-{n}");
    let all = |work: &(dyn Fn(usize) -> Response + Sync), status: u16| {
        std::thread::scope(|scope| {
            let tasks: Vec<_> = (0..HOSTS).map(|n| scope.spawn(move || work(n))).collect();
            for task in tasks {
                let answer = task.join().unwrap();
                assert_eq!(answer.status, status, "{}", answer.text());
            }
        });
    };
    all(&|n| add(&rig, &name(n), json!({ "hostname": "192.0.2.1" })), 201);
    all(&|n| patch(&rig, &name(n), json!({ "description": format!("edit {n}") })), 200);
    let file = on_disk(&rig);
    assert_eq!(file.hosts.len(), HOSTS);
    for n in 0..HOSTS {
        let expected = format!("edit {n}");
        assert_eq!(file.hosts[name(n).as_str()].description, Some(expected));
    }
    assert_eq!(list(&rig).hosts.len(), HOSTS);
    let left = fs::read_dir(rig.hosts_file().parent().unwrap()).unwrap().count();
    assert_eq!(left, 2, "hosts.json and its .bak, no temporary file");
}

#[test]
fn writers_of_one_host_who_check_what_they_read_lose_nothing() {
    const WRITERS: usize = 8;
    let rig = empty_rig();
    add(&rig, "prod", json!({ "hostname": "192.0.2.1" }));
    let join = |n: usize| {
        wait_for("a turn", GUARD, || {
            let shown = rig.http("GET", "/v1/hosts/prod", &[], None);
            let etag = shown.header("etag").unwrap().to_owned();
            let mut groups = body::<HostStatus>(&shown).config.groups;
            groups.push(GroupName::new(format!("group-{n}")).unwrap());
            let change = Some(json!({ "groups": groups }));
            let answer = rig.http("PATCH", "/v1/hosts/prod", &[("If-Match", &etag)], change);
            assert!(matches!(answer.status, 200 | 412), "{}", answer.text());
            (answer.status == 200).then_some(())
        });
    };
    let join = &join;
    std::thread::scope(|scope| {
        (0..WRITERS).for_each(|n| drop(scope.spawn(move || join(n))));
    });
    let mut groups = on_disk(&rig).hosts["prod"].groups.clone();
    groups.sort();
    let joined = (0..WRITERS).map(|n| GroupName::new(format!("group-{n}")).unwrap());
    assert_eq!(groups, joined.collect::<Vec<_>>());
}

/// Broken in line 3: the comma is missing.
const BROKEN: &str =
    "{\n  \"hosts\": {\n    \"far\": {\"hostname\": \"h\" \"user\": \"u\"}\n  }\n}\n";

#[test]
fn a_file_that_breaks_at_run_time_changes_nothing_and_is_shown() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &host);
    rig.start_daemon(&[]);
    connect(&rig, "far");
    let good = text_on_disk(&rig);
    rig.write_hosts_json(BROKEN);
    let shown = wait_until("the warning", GUARD, || list(&rig), |list| !list.warnings.is_empty());
    let [warning] = &shown.warnings[..] else { panic!("{shown:?}") };
    assert!(warning.contains("at line 3 column ") && warning.contains("hosts.json"), "{warning}");
    assert_eq!(shown.hosts[0].state, State::Connected);
    echoes(&rig, "far");
    // Whoever looks at one host is told as well.
    assert_eq!(body::<HostStatus>(&get(&rig, "/v1/hosts/far")).warnings, shown.warnings);
    let status = rig.run_occ(&["status", "--host", "far"]);
    assert_eq!(status.code(), 0, "{status:?}");
    assert!(status.stderr.contains("Warning: hosts.json does not parse"), "{status:?}");
    // A host that is perhaps in the broken file is not just "not found".
    let riddle = problem(&get(&rig, "/v1/hosts/new"));
    assert_eq!((riddle.status, riddle.code), (409, Code::HostsFileInvalid));
    assert!(riddle.detail.contains("'new' is not one of them"), "{riddle:?}");
    // It belongs to whoever is editing it: nothing is written over it.
    let refused = problem(&patch(&rig, "far", json!({ "description": "d" })));
    assert_eq!((refused.status, refused.code), (409, Code::HostsFileInvalid));
    assert!(refused.detail.contains("line 3 column "), "{refused:?}");
    assert_eq!(problem(&add(&rig, "new", json!({ "hostname": "h" }))).status, 409);
    assert_eq!(text_on_disk(&rig), BROKEN);
    assert_eq!(host.connections(), 1);

    rig.write_hosts_json(&good);
    wait_until("the warning to go", GUARD, || list(&rig).warnings, Vec::is_empty);
    assert_eq!(patch(&rig, "far", json!({ "description": "d" })).status, 200);
}

#[test]
fn a_file_that_is_broken_at_the_start_fails_every_host_command() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &host);
    let good = text_on_disk(&rig);
    fs::write(rig.hosts_file().with_extension("json.bak"), &good).unwrap();
    rig.write_hosts_json(BROKEN);
    rig.start_daemon(&[]);
    let far = json!({ "hostname": "h" });
    for (method, path, request) in [
        ("GET", "/v1/hosts", None),
        ("POST", "/v1/hosts", Some(json!({ "name": "n", "config": far, "verify": false }))),
        ("GET", "/v1/hosts/far", None),
        ("PATCH", "/v1/hosts/far", Some(json!({ "description": "d" }))),
        ("DELETE", "/v1/hosts/far", None),
        ("GET", "/v1/default-host", None),
        ("PUT", "/v1/default-host", Some(json!({ "name": "far" }))),
        ("DELETE", "/v1/default-host", None),
        ("POST", "/v1/hosts/far/connect", None),
        ("POST", "/v1/hosts/far/disconnect", None),
        ("POST", "/v1/hosts/far/reconnect", None),
        ("POST", "/v1/hosts/far/test", None),
        ("POST", "/v1/hosts/far/exec", Some(json!({ "argv": ["true"] }))),
        ("GET", "/v1/hosts/far/container", None),
    ] {
        let answer = problem(&rig.http(method, path, &[], request));
        let what = format!("{method} {path}: {answer:?}");
        assert_eq!((answer.status, answer.code), (409, Code::HostsFileInvalid), "{what}");
        assert!(answer.detail.contains("at line 3 column "), "{what}");
        assert!(answer.causes.iter().any(|cause| cause.contains("hosts.json.bak")), "{what}");
    }
    // The daemon itself is well.
    assert_eq!(rig.http("GET", "/healthz", &[], None).status, 200);
    let output = rig.run_occ(&["exec", "--host", "far", "--", "true"]);
    assert_eq!(output.code(), 1, "{output:?}");
    assert!(output.stderr.contains("line 3") && output.stderr.contains(".bak"), "{output:?}");
    assert_eq!(text_on_disk(&rig), BROKEN, "the file is not moved");

    rig.write_hosts_json(&good);
    echoes(&rig, "far");
}

#[test]
fn an_unknown_key_and_a_later_version_are_refused_and_version_0_is_kept() {
    for (text, says) in [
        ("{\"hosts\": {},\n\"extra\": 1}", "unknown field `extra`"),
        ("{\"hosts\": {\"a\": {\"hostname\": \"h\",\n\"proxy_command\": \"x\"}}}", "proxy_command"),
    ] {
        let mut rig = DaemonRig::new();
        rig.write_hosts_json(text);
        rig.start_daemon(&[]);
        let refused = problem(&rig.http("GET", "/v1/hosts", &[], None));
        assert_eq!((refused.status, refused.code), (409, Code::HostsFileInvalid));
        assert!(refused.detail.contains(says) && refused.detail.contains("line 2"), "{refused:?}");
    }
    let mut rig = DaemonRig::new();
    rig.write_hosts_json("{\"version\": 2, \"hosts\": {}, \"news\": 1}");
    rig.start_daemon(&[]);
    let refused = problem(&rig.http("GET", "/v1/hosts", &[], None));
    assert!(refused.detail.contains("has version 2"), "{refused:?}");

    let mut rig = DaemonRig::new();
    rig.write_hosts_json("{\"version\": 0, \"hosts\": {\"a\": {\"hostname\": \"h\"}}}");
    rig.start_daemon(&[]);
    assert_eq!(patch(&rig, "a", json!({ "description": "d" })).status, 200);
    assert_eq!(on_disk(&rig).version, 0);
}

#[test]
fn the_previous_file_is_kept_beside_the_new_one() {
    let rig = empty_rig();
    add(&rig, "a", json!({ "hostname": "192.0.2.1" }));
    let before = text_on_disk(&rig);
    patch(&rig, "a", json!({ "description": "d" }));
    let bak = rig.hosts_file().with_extension("json.bak");
    assert_eq!(fs::read_to_string(bak).unwrap(), before);
}

#[test]
fn a_broken_occd_toml_at_the_start_ends_the_daemon_with_78_and_names_the_line() {
    for (text, line, says) in [
        ("[connection]\n\nkeepalive_count = \"two\"\n", "line 3", "expected"),
        ("[connection]\nkeepalive_cuont = 2\n", "line 2", "unknown field `keepalive_cuont`"),
        ("[connection]\nkeepalive_count = 0\n", "line 2", "at least 1"),
        (
            "[hosts.a.connection]\nmax_retries = 1\nmax_backoff = \"1ms\"\n",
            "line 3",
            "at least 100ms",
        ),
        ("nonsense\n", "line 1", "expected"),
    ] {
        let rig = DaemonRig::new();
        rig.write_config_toml(text);
        let mut child = rig.spawn_daemon(&[]);
        let status = wait_for("the daemon to end", GUARD, || child.try_wait().unwrap());
        let log = rig.log();
        assert_eq!(status.code(), Some(78), "{log}");
        assert!(log.contains(&format!("occd.toml, {line}: ")) && log.contains(says), "{log}");
        assert_eq!(log.trim_end().lines().count(), 1, "one line is enough: {log}");

        let output = rig.run_occ(&["host", "list"]);
        assert_eq!(output.code(), 3, "{output:?}");
        assert!(output.stderr.contains(line) && output.stderr.contains(says), "{output:?}");
    }
}

#[test]
fn a_broken_occd_toml_at_run_time_is_a_warning_and_the_last_good_one_stays() {
    let host = EmbeddedHost::start();
    host.drop_during_auth(true);
    let mut rig = DaemonRig::new();
    rig.add_host("far", &host);
    rig.write_config_toml("[connection]\nmax_retries = 1\nmax_backoff = \"100ms\"\n");
    rig.start_daemon(&[]);
    rig.write_config_toml("[connection]\nmax_retries = 1\nmax_bakcoff = \"100ms\"\n");
    let shown = wait_until("the warning", GUARD, || list(&rig), |list| !list.warnings.is_empty());
    let [warning] = &shown.warnings[..] else { panic!("{shown:?}") };
    assert!(warning.contains("occd.toml, line 3: unknown field `max_bakcoff`"), "{warning}");
    let answer = problem(&post(&rig, "/v1/hosts/far/connect"));
    assert!(answer.detail.contains("given up after 2 attempts"), "{answer:?}");

    rig.write_config_toml("[connection]\nmax_retries = 2\nmax_backoff = \"100ms\"\n");
    wait_until("the warning to go", GUARD, || list(&rig).warnings, Vec::is_empty);
    let expected = "given up after 3 attempts";
    wait_for("the new limit to be in force", Duration::from_secs(20), || {
        let answer = problem(&post(&rig, "/v1/hosts/far/connect"));
        answer.detail.contains(expected).then_some(())
    });
}

#[test]
fn files_that_others_could_have_written_are_not_obeyed() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &host);
    rig.write_config_toml("[connection]\nmax_retries = 1\n");
    let toml = rig.config_toml();
    let hosts = rig.hosts_file();
    let chmod =
        |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    chmod(&toml, 0o666);
    let mut child = rig.spawn_daemon(&[]);
    let status = wait_for("the daemon to end", GUARD, || child.try_wait().unwrap());
    let log = rig.log();
    assert_eq!(status.code(), Some(78), "{log}");
    let says = "occd.toml can be written by others, its mode is 0666 (chmod go-w)";
    assert!(log.contains(says), "{log}");

    chmod(&toml, 0o600);
    rig.start_daemon(&[]);
    let warning = |word: &'static str| {
        wait_until(
            "the warning",
            GUARD,
            || list(&rig).warnings,
            move |warnings| warnings.iter().any(|text| text.contains(word)),
        )
    };
    chmod(&toml, 0o606);
    warning("occd.toml can be written by others");
    chmod(&hosts, 0o646);
    warning("hosts.json can be written by others");
    chmod(&toml, 0o600);
    chmod(&hosts, 0o600);
    wait_until("no warning", GUARD, || list(&rig).warnings, Vec::is_empty);
    echoes(&rig, "far");
}
