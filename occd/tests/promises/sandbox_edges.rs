//! The sandbox where something is not as it usually is: paused, its port taken, its cockpit not there, its first start in
//! vain.

use occ_proto::container::SANDBOX_CONTAINER;
use occ_proto::forward::ForwardList;
use occ_proto::operation::Did;
use testkit::Registry;

use crate::ask::body;
use crate::sandbox::{World, fails, fetch, free_port, get, json, world};

#[test]
fn the_port_of_a_stopped_sandbox_is_looked_at_before_anything_is_done() {
    if !Registry::require() {
        return;
    }
    let registry = Registry::start();
    let image = format!("{}/sandbox:latest", registry.name());
    let Some(world) = world(&image, "") else { return };
    let World { docker, rig, .. } = &world;
    docker.import_sandbox(&image, "1.0", &[]);
    docker.docker_ok(&["push", &image]);
    rig.occ_ok(&["start", "--host", "h"]);
    rig.occ_ok(&["stop", "--host", "h", "-t", "1"]);
    let first = docker.docker_ok(&["inspect", "--format", "{{.Id}}", &image]);
    docker.import_sandbox(&image, "2.0", &[]);
    docker.docker_ok(&["push", &image]);
    docker.docker_ok(&["tag", &first, &image]);
    let binding = "{{(index (index .HostConfig.PortBindings \"3000/tcp\") 0).HostPort}}";
    let port = docker.docker_ok(&["inspect", "--format", binding, SANDBOX_CONTAINER]);
    let publish = format!("127.0.0.1:{port}:80");
    docker.docker_ok(&["run", "-d", "--name", "web", "-p", &publish, &image]);
    let words = format!("port {port} is in use by the container web");
    for args in [
        &["update", "--host", "h", "-y"][..],
        &["restart", "--host", "h"],
        &["start", "--host", "h"],
    ] {
        let refused = fails(rig, args, 1);
        assert!(refused.contains(&words), "{args:?}: {refused}");
        // Nothing was pulled, and nothing undone.
        assert!(!refused.contains("pulling") && !refused.contains("undone"), "{args:?}: {refused}");
    }
    docker.docker_ok(&["rm", "-f", "web"]);
    let updated = rig.occ_ok(&["update", "--host", "h", "-y"]);
    assert!(updated.contains("version 1.0 -> 2.0"), "{updated}");
}
