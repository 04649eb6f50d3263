//! The sandbox where something is not as it usually is: paused, its port taken, its cockpit not there, its first start in
//! vain.

use occ_proto::container::SANDBOX_CONTAINER;
use occ_proto::forward::ForwardList;
use occ_proto::operation::Did;
use testkit::{Registry, free_port};

use crate::ask::body;
use crate::sandbox::{World, fails, fetch, get, json, world};

#[test]
fn a_paused_sandbox_goes_on_where_it_was() {
    let image = "sandbox:1";
    let Some(world) = world(image, "") else { return };
    let World { docker, rig, .. } = &world;
    docker.import_sandbox(image, "1.0", &[]);
    let url = rig.occ_ok(&["start", "--host", "h", "-q"]).trim().to_owned();
    let look = |format: &str| docker.docker_ok(&["inspect", "--format", format, SANDBOX_CONTAINER]);
    let before = look("{{.Id}} {{.State.StartedAt}}");
    docker.docker_ok(&["pause", SANDBOX_CONTAINER]);
    let started = rig.occ_ok(&["start", "--host", "h"]);
    assert!(started.contains("✓ Service started and ready"), "{started}");
    assert!(started.contains("it was paused, and goes on where it was"), "{started}");
    assert_eq!(look("{{.State.Status}}"), "running");
    assert_eq!(look("{{.Id}} {{.State.StartedAt}}"), before);
    assert!(fetch(&url, None).unwrap().ends_with("1.0"));
    // What cannot be put in its place costs nothing, also while it is paused.
    docker.docker_ok(&["pause", SANDBOX_CONTAINER]);
    let closed = tempfile::tempdir().unwrap();
    let mount = format!("{}/none:/work", closed.path().display());
    let refused = fails(rig, &["start", "--host", "h", "--yes", "--mount", &mount], 1);
    assert!(refused.contains("to mount") && !refused.contains("so did going back"), "{refused}");
    assert_eq!(look("{{.Id}} {{.State.Paused}}").split(' ').next(), before.split(' ').next());
    rig.occ_ok(&["stop", "--host", "h", "-t", "1"]);
}

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

#[test]
fn a_cockpit_that_is_not_there_is_said_and_leaves_no_address() {
    let image = "sandbox:1";
    let Some(world) = world(image, "") else { return };
    let World { docker, rig, .. } = &world;
    let config = rig.home().join(".config/opencode-cloud/config.json");
    std::fs::create_dir_all(config.parent().unwrap()).unwrap();
    let port = free_port();
    let text = format!("{{ \"version\": 1, \"cockpit_enabled\": true, \"cockpit_port\": {port} }}");
    std::fs::write(&config, text).unwrap();
    docker.import_sandbox(image, "1.0", &[]);
    rig.occ_ok(&["start", "--host", "h"]);
    let forwards = || {
        let list: ForwardList = body(&rig.http("GET", "/v1/forwards", &[], None));
        list.forwards.len()
    };
    let before = forwards();
    let none = fails(rig, &["cockpit", "--host", "h"], 1);
    assert!(none.contains(&format!("no cockpit answers on port {port} of its host")), "{none}");
    assert!(none.contains("hint: its image may have none"), "{none}");
    assert_eq!(forwards(), before);
    // One that is there.
    rig.occ_ok(&["stop", "--host", "h", "-t", "1", "--remove"]);
    let serve = "CMD trap 'exit 0' TERM; httpd -p 9090 -h /www; httpd -f -p 3000 -h /www & wait";
    docker.import(
        image,
        &[("www/index.html", 0o644, "a cockpit")],
        &[serve, "EXPOSE 3000", "ENV PATH=/bin"],
    );
    rig.occ_ok(&["start", "--host", "h"]);
    let url = rig.occ_ok(&["cockpit", "--host", "h"]);
    let url = url.trim().trim_start_matches("[h] ");
    assert!(get(url, "/").unwrap().ends_with("a cockpit"), "{url}");
    assert_eq!(forwards(), before + 1);
}

#[test]
fn a_first_start_in_vain_leaves_no_volumes_of_its_own() {
    let image = "broken:1";
    let Some(world) = world(image, "") else { return };
    let World { docker, rig, .. } = &world;
    docker.import(image, &[], &["CMD [\"/no/such/program\"]", "ENV PATH=/bin"]);
    // This one was there before.
    docker.docker_ok(&["volume", "create", "opencode-data"]);
    let failed = fails(rig, &["start", "--host", "h"], 1);
    assert!(failed.contains("no such file or directory"), "{failed}");
    // What Docker says is told once.
    assert_eq!(failed.matches("Docker ").count(), 1, "{failed}");
    assert_eq!(docker.docker_ok(&["ps", "--all", "--quiet"]), "");
    assert_eq!(docker.docker_ok(&["volume", "ls", "--quiet"]), "opencode-data");
}

#[test]
fn directories_that_nobody_named_are_made_beside_a_mount_that_is_asked_for() {
    let Some(world) = world("unused", "") else { return };
    let World { docker, rig, .. } = &world;
    docker.import_sandbox("ghcr.io/prizz/opencode-cloud-sandbox:latest", "2.0", &[]);
    let port = free_port().to_string();
    let work = rig.root().join("work");
    let mount = format!("{}:/work", work.display());
    let start = ["start", "--local", "-p", &port, "--mount", &mount];
    let missing = fails(rig, &start, 1);
    assert!(missing.contains(&format!("there is no {} to mount", work.display())), "{missing}");
    std::fs::create_dir_all(&work).unwrap();
    assert_eq!(json(rig, &start).outcome.unwrap().did, Did::Started);
    let binds = "{{range .Mounts}}{{if eq .Type \"bind\"}}{{.Source}} {{end}}{{end}}";
    let mounted = docker.docker_ok(&["inspect", "--format", binds, SANDBOX_CONTAINER]);
    assert!(mounted.contains(&work.display().to_string()), "{mounted}");
    let own = rig.home().join(".local/share/opencode");
    assert!(own.is_dir() && mounted.contains(&own.display().to_string()), "{mounted}");
}

#[test]
fn what_cannot_be_mounted_is_refused_while_the_sandbox_runs() {
    let image = "sandbox:1";
    let Some(world) = world(image, "") else { return };
    let World { docker, rig, .. } = &world;
    docker.import_sandbox(image, "1.0", &[]);
    rig.occ_ok(&["start", "--host", "h"]);
    let now = || {
        let format = "{{.Id}} {{.State.StartedAt}}";
        docker.docker_ok(&["inspect", "--format", format, SANDBOX_CONTAINER])
    };
    let before = now();
    for (mounts, words) in [
        (&["--mount", "/tmp:/bin"][..], "would hide the sandbox's own programs"),
        (&["--mount", "/tmp:/usr"], "would hide the sandbox's own programs"),
        (&["--mount", "/tmp:/a", "--mount", "/srv:/a/"], "is the second one there"),
    ] {
        let refused = fails(rig, &[&["start", "--host", "h", "--yes"], mounts].concat(), 1);
        assert!(refused.contains(words), "{refused}");
        assert_eq!(now(), before);
    }
}
