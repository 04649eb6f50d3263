//! The private Docker Engine.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use testkit::{DockerRig, http, proc};

#[test]
fn a_container_runs_and_nothing_is_left() {
    if !DockerRig::require() {
        return;
    }
    let mut rig = DockerRig::start();
    rig.import_busybox_with("busybox:1", &["LABEL kind=test"]);
    assert_eq!(
        rig.docker_ok(&["run", "--rm", "--network", "none", "busybox:1", "echo", "hi"]),
        "hi"
    );
    // One that ignores SIGTERM, as the first process of a container does.
    let id = rig.run("held", &["busybox:1", "sleep", "1000"]);
    let list = http::request(&rig.socket(), "GET", "/containers/json", &[], None).unwrap().json();
    assert_eq!(list[0]["Id"], id.as_str());
    assert_eq!(list[0]["Names"][0], "/held");
    assert_eq!(list[0]["State"], "running");
    assert!(rig.output(&["exec", "held", "true"]).status.success());
    rig.restart();
    let state = rig.docker_ok(&["inspect", "--format", "{{.State.Status}}", "held"]);
    assert_eq!(state, "exited");
    let socket = rig.socket();
    let dir = socket.parent().unwrap().to_owned();
    drop(rig);
    assert!(!dir.exists(), "{} is left", dir.display());
    let mark = dir.display().to_string();
    assert_eq!(proc::marked(&mark), []);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&mark), "{mounts}");
}
