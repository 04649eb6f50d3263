//! The sandbox's state from memory: told by Docker's events, dated, and called stale when nobody tells any more.

use occ_proto::container::{ContainerStatus, SANDBOX_CONTAINER};
use occ_proto::status::{HostStatus, State};
use testkit::DaemonRig;
use testkit::wait::blocking::wait_until;

use crate::ask::{GUARD, body, in_state, look, post};
use crate::docker_socket::far_engine;

/// Returns the sandbox of the host `h` as the list of hosts has it, once it is as it should be.
fn known(rig: &DaemonRig, what: &str, is: impl Fn(&ContainerStatus) -> bool) -> ContainerStatus {
    let sandbox = || look(rig, "h").sandbox;
    let found = wait_until(what, GUARD, sandbox, |sandbox| sandbox.as_ref().is_some_and(&is));
    found.unwrap()
}

fn is(state: &str) -> impl Fn(&ContainerStatus) -> bool {
    let state = state.to_owned();
    move |sandbox| sandbox.state.as_ref() == Some(&state) && !sandbox.stale
}

#[test]
fn the_sandbox_is_followed_and_remembered() {
    let Some((mut docker, sshd, link, rig)) = far_engine("sandbox:1") else { return };
    assert_eq!(look(&rig, "h").sandbox, None);
    assert_eq!(post(&rig, "/v1/hosts/h/connect").status, 200);
    known(&rig, "no sandbox", |sandbox| !sandbox.exists);

    // Nobody asks; Docker tells.
    let id = docker.run(SANDBOX_CONTAINER, &["sandbox:1", "sleep", "1000"]);
    let running = known(&rig, "the sandbox to run", is("running"));
    assert_eq!(running.id.as_deref(), Some(id.as_str()));
    let status = rig.occ_ok(&["status", "--host", "h"]);
    assert!(status.contains("Sandbox   ● running"), "{status}");
    // What only stands by is no work, and ends with nothing left.
    let calm: HostStatus = look(&rig, "h");
    assert_eq!((calm.connections, calm.open_channels), (1, 0));
    docker.docker_ok(&["pause", SANDBOX_CONTAINER]);
    known(&rig, "the pause", is("paused"));
    docker.docker_ok(&["unpause", SANDBOX_CONTAINER]);
    known(&rig, "the end of it", is("running"));
    docker.docker_ok(&["kill", SANDBOX_CONTAINER]);
    let ended = known(&rig, "the end", is("exited"));
    assert_eq!((ended.exit_code, ended.started_at), (Some(137), None));

    // The link breaks: what was seen stays, with its age, and what happened meanwhile is found afterwards.
    link.refuse(true);
    link.reset_all();
    let stale = known(&rig, "the loss", |sandbox| sandbox.stale);
    assert_eq!(stale.state.as_deref(), Some("exited"));
    let again: ContainerStatus = body(&rig.http("GET", "/v1/hosts/h/container", &[], None));
    assert_eq!((again.stale, again.as_of), (true, stale.as_of));
    let table = rig.occ_ok(&["status", "--all"]);
    assert!(table.contains("exited?"), "{table}");
    docker.docker_ok(&["start", SANDBOX_CONTAINER]);
    link.refuse(false);
    let back = known(&rig, "the way back", is("running"));
    assert!(back.as_of > stale.as_of);

    // The engine goes, and the link has nothing to do with it.
    let connects = in_state(&rig, "h", State::Connected).connects;
    docker.stop();
    let fault = wait_until("the fault", GUARD, || look(&rig, "h"), |s| s.docker_error.is_some());
    assert!(fault.sandbox.is_some_and(|sandbox| sandbox.stale));
    docker.restart();
    docker.open_to_everyone();
    known(&rig, "the engine to tell again", is("exited"));
    docker.docker_ok(&["rm", SANDBOX_CONTAINER]);
    known(&rig, "no sandbox any more", |sandbox| !sandbox.exists && !sandbox.stale);
    let end = in_state(&rig, "h", State::Connected);
    assert_eq!((end.connects, end.docker_error), (connects, None));
    // Without the host nobody follows it.
    rig.occ_ok(&["host", "remove", "h", "-f"]);
    wait_until("the session to end", GUARD, || sshd.session_count(), |count| *count == 0);
}

#[test]
fn the_disk_is_looked_at_anew_for_another_image() {
    let Some((docker, _sshd, _link, rig)) = far_engine("sandbox:1") else { return };
    docker.import("sandbox:2", &[("more", 0o644, &"x".repeat(1_000_000))], &["ENV PATH=/bin"]);
    docker.run(SANDBOX_CONTAINER, &["sandbox:1", "sleep", "1000"]);
    assert_eq!(post(&rig, "/v1/hosts/h/connect").status, 200);
    let disk = |sandbox: &ContainerStatus| sandbox.disk.as_ref().map(|disk| disk.image);
    let first = known(&rig, "the disk", |sandbox| disk(sandbox).is_some());
    let first = disk(&first).unwrap();
    // One takes the other's name, which is not removed.
    docker.docker_ok(&["rename", SANDBOX_CONTAINER, "another"]);
    docker.run(SANDBOX_CONTAINER, &["sandbox:2", "sleep", "1000"]);
    let second = known(&rig, "it again", |sandbox| disk(sandbox).is_some_and(|now| now != first));
    assert!(disk(&second).unwrap() >= first + 1_000_000, "{second:?}");
}

#[test]
fn an_engine_that_has_answered_somebody_is_followed_again_at_once() {
    let Some((mut docker, _sshd, _link, mut rig)) = far_engine("sandbox:1") else { return };
    rig.terminate_daemon();
    rig.set_env("OCCD_LOG", "debug");
    rig.start_daemon(&[]);
    docker.run(SANDBOX_CONTAINER, &["sandbox:1", "sleep", "1000"]);
    assert_eq!(post(&rig, "/v1/hosts/h/connect").status, 200);
    known(&rig, "the sandbox", is("running"));
    docker.stop();
    // It has been asked in vain for so often that the next time is 16 s away.
    let asked = || rig.log().matches("the sandbox is not followed").count();
    wait_until("a long pause", GUARD, asked, |asked| *asked >= 5);
    docker.restart();
    docker.open_to_everyone();
    rig.occ_ok(&["status", "--host", "h", "--fresh"]);
    let sandbox = || look(&rig, "h").sandbox;
    let soon = std::time::Duration::from_secs(8);
    let again = |sandbox: &Option<ContainerStatus>| sandbox.as_ref().is_some_and(|one| !one.stale);
    wait_until("it to be followed", soon, sandbox, again);
}
