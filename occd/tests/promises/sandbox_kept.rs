//! What becomes of a sandbox that is there already: settings that have changed since, a container that is somebody
//! else's, mounts that would break it, and what a failed or killed update leaves.

use std::os::unix::fs::PermissionsExt as _;

use occ_proto::container::{PublishedPort, SANDBOX_CONTAINER};
use occ_proto::operation::{Operation, OperationList, OperationState};
use occ_proto::{Code, Problem};
use testkit::require::require_root;
use testkit::wait::blocking::wait_until;
use testkit::{DaemonRig, DockerRig, Registry, free_port};

use crate::ask::{GUARD, body, connect, look};
use crate::logs::Disk;
use crate::sandbox::{OURS, World, fails, fetch, json, world};

/// The sandbox while it is replaced.
const ASIDE: &str = "opencode-cloud-sandbox-before-update";

fn said(rig: &DaemonRig, args: &[&str]) -> String {
    let output = rig.run_occ(args);
    assert!(output.status.success(), "{args:?}: {}{}", output.stdout, output.stderr);
    output.stdout + &output.stderr
}

#[test]
fn settings_that_have_changed_are_told_and_taken_over_when_asked_for() {
    let image = "sandbox:1";
    let Some(world) = world(image, "env = [\"COLOUR=red\"]") else { return };
    let World { docker, rig, .. } = &world;
    docker.import_sandbox(image, "1.0", &[]);
    let id = || docker.docker_ok(&["inspect", "--format", "{{.Id}}", SANDBOX_CONTAINER]);
    let started = said(rig, &["start", "--host", "h"]);
    assert!(!started.contains("Note:"), "{started}");
    let first = id();
    assert!(!said(rig, &["start", "--host", "h", "--yes"]).contains("Note:"));
    assert_eq!(id(), first, "there is nothing to make anew");

    let config = std::fs::read_to_string(rig.config_toml()).unwrap();
    let changed = config.replace("COLOUR=red", "COLOUR=canary-blue");
    rig.write_config_toml(&changed.replace(
        "[local.sandbox]",
        "mounts = [\"/tmp:/work\"]\nbind_address = \"127.0.0.2\"\n[local.sandbox]",
    ));
    // It goes on as it is, and every difference is told, with what takes the settings over.
    for verb in ["start", "restart"] {
        let told = said(rig, &[verb, "--host", "h"]);
        for words in [
            "no mounts instead of the mounts /tmp:/work",
            "the address 127.0.0.1 instead of the address 127.0.0.2",
            "other values of the variables COLOUR",
            "occ start --host h --yes makes it anew",
        ] {
            assert!(told.contains(words), "{verb}: {words}: {told}");
        }
        assert!(!told.contains("canary-blue") && !told.contains("image"), "{told}");
        assert_eq!(id(), first);
    }
    // Cockpit, too, is a setting, and what it says to do does it.
    let file = rig.home().join(".config/opencode-cloud/config.json");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "{\"version\": 1, \"cockpit_enabled\": true, \"cockpit_port\": 41997}")
        .unwrap();
    let disabled = said(rig, &["cockpit", "--host", "h"]);
    assert!(
        disabled.contains("then occ start --host h --yes makes the sandbox anew"),
        "{disabled}"
    );
    let anew = said(rig, &["start", "--host", "h", "--yes"]);
    assert!(!anew.contains("Note:"), "{anew}");
    assert_ne!(id(), first);
    let look_at =
        |format: &str| docker.docker_ok(&["inspect", "--format", format, SANDBOX_CONTAINER]);
    assert!(look_at("{{.Config.Env}}").contains("COLOUR=canary-blue"));
    assert!(look_at("{{.HostConfig.PortBindings}}").contains("127.0.0.2 41997"));
    docker.docker_ok(&["exec", SANDBOX_CONTAINER, "httpd", "-p", "9090", "-h", "/www"]);
    let cockpit = rig.occ_ok(&["cockpit", "--host", "h"]);
    assert!(cockpit.starts_with("[h] http://127.0.0.1:"), "{cockpit}");
    let of_many = fails(rig, &["cockpit", "--all"], 2);
    assert!(of_many.contains("--all does not go with this command"), "{of_many}");
    let sandbox = json(rig, &["start", "--host", "h"]).outcome.unwrap().sandbox.unwrap();
    assert!(sandbox.mounts.iter().any(|mount| mount.target == "/work"), "{sandbox:?}");
    // What cannot be read does not keep it from being started again.
    std::fs::write(&file, "{").unwrap();
    let unread = said(rig, &["restart", "--host", "h"]);
    assert!(unread.contains("whether it is as the settings say is not known"), "{unread}");
}

#[test]
fn a_container_that_is_somebody_elses_is_left_alone() {
    let image = "sandbox:1";
    let Some(world) = world(image, "") else { return };
    let World { docker, rig, .. } = &world;
    docker.import_sandbox(image, "1.0", &[]);
    let project = ["--label", "com.docker.compose.project=shop"];
    let id = docker.run(SANDBOX_CONTAINER, &[&project[..], &[image]].concat());
    let is_as_it_was = |name: &str| {
        let format = "{{.Id}} {{.State.Running}} {{.RestartCount}}";
        assert_eq!(
            docker.docker_ok(&["inspect", "--format", format, name]),
            format!("{id} true 0")
        );
    };
    for args in [
        &["stop", "--host", "h", "--remove"][..],
        &["stop", "--host", "h"],
        &["start", "--host", "h", "--yes", "--no-mounts"],
        &["restart", "--host", "h"],
        &["update", "--host", "h", "-y"],
        &["logs", "--host", "h", "--no-follow"],
        &["sandbox", "diff", "--from", "h", "--to", "local"],
        &["sandbox", "sync", "--from", "h", "--to", "local", "--yes"],
    ] {
        let refused = fails(rig, args, 1);
        assert!(refused.contains("it belongs to the compose project shop"), "{refused}");
        assert!(refused.contains("is left alone"), "{refused}");
        is_as_it_was(SANDBOX_CONTAINER);
    }
    for (method, part) in [("GET", "spec"), ("GET", "password"), ("POST", "cockpit")] {
        let refused = rig.http(method, &format!("/v1/hosts/h/container/{part}"), &[], None);
        assert_eq!(refused.json()["code"], "sandbox_foreign", "{part}: {}", refused.text());
    }
    let told = |rig: &DaemonRig| rig.occ_ok(&["status", "--host", "h"]);
    let status = wait_until("the status", GUARD, || told(rig), |text| text.contains("running"));
    assert!(status.contains("[h] Note      somebody else's container of this name"), "{status}");
    // What the hint says makes room for ours, and so does not touch it.
    let refused = fails(rig, &["start", "--host", "h"], 1);
    let theirs = "opencode-cloud-sandbox-theirs";
    let hint = format!("occ docker --host h -- rename {SANDBOX_CONTAINER} {theirs}");
    assert!(refused.contains(&hint), "{refused}");
    rig.occ_ok(&["docker", "--host", "h", "--", "rename", SANDBOX_CONTAINER, theirs]);
    rig.occ_ok(&["start", "--host", "h"]);
    is_as_it_was(theirs);
    // Nor is one that has the other name which is used here.
    docker.docker_ok(&["create", "--name", ASIDE, image]);
    let refused = fails(rig, &["restart", "--host", "h"], 1);
    assert!(refused.contains(&format!("the container {ASIDE} is not a sandbox")), "{refused}");
    assert!(refused.contains("without the label managed-by=opencode-cloud"), "{refused}");
    docker.docker_ok(&["inspect", ASIDE]);
    assert!(!told(rig).contains("cut short"));
}

/// Publishes an image in a registry, and keeps nothing of it.
fn publish(docker: &DockerRig, image: &str, import: impl FnOnce()) {
    import();
    docker.docker_ok(&["push", image]);
    docker.docker_ok(&["rmi", image]);
}

#[test]
fn updates_leave_what_the_failed_one_said_and_no_images() {
    if !Registry::require() {
        return;
    }
    let registry = Registry::start();
    let image = format!("{}/sandbox:latest", registry.name());
    let Some(world) = world(&image, "") else { return };
    let World { docker, rig, .. } = &world;
    let version = |version: &str| {
        publish(docker, &image, || docker.import_sandbox(&image, version, &[]));
    };
    version("1");
    rig.occ_ok(&["start", "--host", "h"]);
    // Somebody else's, without a name: not ours to remove.
    docker.import("theirs:1", &[("f", 0o644, "theirs")], &[]);
    let theirs = docker.docker_ok(&["inspect", "--format", "{{.Id}}", "theirs:1"]);
    docker.import("theirs:1", &[("f", 0o644, "newer")], &[]);
    let nameless = || {
        let list = ["images", "--no-trunc", "--quiet", "--filter", "dangling=true"];
        let mut ids: Vec<String> = docker.docker_ok(&list).lines().map(str::to_owned).collect();
        ids.sort();
        ids
    };
    let mine = || docker.docker_ok(&["inspect", "--format", "{{.Image}}", SANDBOX_CONTAINER]);
    for next in ["2", "3", "4"] {
        version(next);
        rig.occ_ok(&["update", "--host", "h", "-y"]);
        assert_eq!(nameless(), std::slice::from_ref(&theirs), "after the update to {next}");
    }
    // What a container is made of stays.
    let third = format!("{}/sandbox:previous", registry.name());
    let third = docker.docker_ok(&["inspect", "--format", "{{.Id}}", &third]);
    docker.docker_ok(&["create", "--name", "stranger", &third]);
    version("5");
    rig.occ_ok(&["update", "--host", "h", "-y"]);
    let mut both = vec![theirs.clone(), third];
    both.sort();
    assert_eq!(nameless(), both);

    let fifth = mine();
    let talk = "CMD for i in $(seq 1 99); do echo line $i; done; exit 3";
    publish(docker, &image, || docker.import(&image, &[], &[talk, "ENV PATH=/bin"]));
    let failed = fails(rig, &["update", "--host", "h", "-y"], 1);
    assert!(failed.contains("[h] line 60\n") && failed.contains("[h] line 99\n"), "{failed}");
    assert!(!failed.contains("[h] line 59\n"), "{failed}");
    assert_eq!((mine(), nameless()), (fifth, both));
    let list: OperationList = body(&rig.http("GET", "/v1/operations", &[], None));
    let problem: &Problem = list.operations[0].problem.as_ref().unwrap();
    assert_eq!((problem.causes.len(), problem.causes[39].as_str()), (40, "line 99"));
    // What to type names it.
    let id = &list.operations[0].id;
    let hint = format!("occ operations attach {id} shows what the new one said");
    assert!(failed.contains(&hint), "{failed}");
    let again = fails(rig, &["operations", "attach", id], 1);
    assert!(again.contains("[h] line 99\n"), "{again}");
}

#[test]
fn what_the_end_of_the_daemon_cut_short_is_told() {
    if !Registry::require() {
        return;
    }
    let registry = Registry::start();
    let image = format!("{}/sandbox:latest", registry.name());
    let Some(mut world) = world(&image, "") else { return };
    let World { docker, rig, .. } = &mut world;
    publish(docker, &image, || docker.import_sandbox(&image, "1", &[]));
    let url = rig.occ_ok(&["start", "--host", "h", "-q"]).trim().to_owned();
    let silent = "CMD [\"busybox\", \"sleep\", \"1000\"]";
    publish(docker, &image, || docker.import(&image, &[], &[silent, "ENV PATH=/bin"]));
    let begun = rig.http("POST", "/v1/hosts/h/container/update", &[], None);
    let begun: Operation = body(&begun);
    let path = format!("/v1/operations/{}", begun.id);
    let kept = rig.root().join("state/occ/operations.json");
    let step = || {
        let list: Vec<Operation> = serde_json::from_slice(&std::fs::read(&kept).unwrap()).unwrap();
        list[0].step.clone()
    };
    wait_until("the step to be kept", GUARD, step, |step| step.starts_with("waiting for the"));
    // As long as it is at work, the one that is set aside is its own business.
    let now: Operation = body(&rig.http("GET", &path, &[], None));
    assert_eq!(now.state, OperationState::Running);
    assert!(!rig.occ_ok(&["status", "--host", "h", "--fresh"]).contains("cut short"));
    rig.kill_daemon();
    rig.start_daemon(&[]);
    connect(rig, "h");
    let aside = || look(rig, "h").sandbox.and_then(|sandbox| sandbox.set_aside);
    wait_until("it to be seen", GUARD, aside, |aside| aside.as_deref() == Some(ASIDE));
    let words = "occ start --host h finishes or undoes it";
    let status = rig.occ_ok(&["status", "--host", "h"]);
    assert!(status.contains(ASIDE) && status.contains(words), "{status}");
    assert!(rig.occ_ok(&["status", "--host", "h", "--fresh"]).contains(words));
    let list = rig.occ_ok(&["operations"]);
    assert!(
        list.contains("interrupted: occd ended in the middle of it (waiting for the"),
        "{list}"
    );
    assert!(list.contains("start") && list.contains("succeeded"), "{list}");
    let attached = fails(rig, &["operations", "attach", &begun.id], 6);
    assert!(attached.contains("hint: occ status --host h shows how it is now"), "{attached}");
    // Nobody has to wait for the new one, which never answers.
    let start: Operation = body(&rig.http("POST", "/v1/hosts/h/container/start", &[], None));
    let path = format!("/v1/operations/{}", start.id);
    let step = || body::<Operation>(&rig.http("GET", &path, &[], None)).step;
    wait_until("the wait for it", GUARD, step, |step| step.starts_with("waiting for the"));
    let cancelled = rig.occ_ok(&["operations", "cancel", &start.id]);
    assert!(cancelled.contains("cancelled."), "{cancelled}");
    wait_until("it to be seen", GUARD, aside, |aside| aside.as_deref() == Some(ASIDE));

    docker.docker_ok(&["kill", SANDBOX_CONTAINER]);
    let started = rig.occ_ok(&["start", "--host", "h"]);
    assert!(started.contains("an update that was cut short is undone"), "{started}");
    assert!(fetch(&url, None).unwrap().ends_with('1'));
    wait_until("it to be over", GUARD, aside, Option::is_none);
}

#[test]
fn an_update_that_was_cut_short_is_undone_at_once_with_the_image_from_before() {
    if !Registry::require() {
        return;
    }
    let registry = Registry::start();
    let image = format!("{}/sandbox:latest", registry.name());
    let Some(mut world) = world(&image, "") else { return };
    let World { docker, rig, .. } = &mut world;
    publish(docker, &image, || docker.import_sandbox(&image, "1", &[]));
    rig.occ_ok(&["start", "--host", "h"]);
    let names = || {
        let list = ["images", "--no-trunc", "--format", "{{.Tag}} {{.ID}}"];
        let mut names: Vec<String> = docker.docker_ok(&list).lines().map(str::to_owned).collect();
        names.retain(|name| !name.starts_with("<none>"));
        names.sort();
        names
    };
    // A first update that fails leaves nothing to go back to.
    let dies = "CMD [\"busybox\", \"false\"]";
    publish(docker, &image, || docker.import(&image, &[], &[dies, "ENV PATH=/bin"]));
    fails(rig, &["update", "--host", "h", "-y"], 1);
    assert_eq!(names().len(), 1, "{:?}", names());
    publish(docker, &image, || docker.import_sandbox(&image, "2", &[]));
    rig.occ_ok(&["update", "--host", "h", "-y"]);
    let before = names();
    assert_eq!(before.len(), 2, "{before:?}");
    let silent = "CMD [\"busybox\", \"sleep\", \"1000\"]";
    publish(docker, &image, || docker.import(&image, &[], &[silent, "ENV PATH=/bin"]));
    let begun: Operation = body(&rig.http("POST", "/v1/hosts/h/container/update", &[], None));
    let path = format!("/v1/operations/{}", begun.id);
    let step = || body::<Operation>(&rig.http("GET", &path, &[], None)).step;
    wait_until("the wait for it", GUARD, step, |step| step.starts_with("waiting for the"));
    rig.kill_daemon();
    rig.start_daemon(&[]);
    // It is not waited for until it answers, which it never does.
    let stopped = said(rig, &["stop", "--host", "h"]);
    assert!(stopped.contains("✓ Service stopped"), "{stopped}");
    assert!(stopped.contains("an update that was cut short is undone"), "{stopped}");
    assert!(!stopped.contains("waiting for the sandbox"), "{stopped}");
    assert_eq!(names(), before);
    // Nor does what it pulled stay without a name.
    let nameless = ["images", "--quiet", "--filter", "dangling=true"];
    assert_eq!(docker.docker_ok(&nameless), "");
    rig.occ_ok(&["update", "--host", "h", "-y", "--rollback"]);
    // What it goes back to is not what it is of already.
    let latest = docker.docker_ok(&["inspect", "--format", "{{.Image}}", SANDBOX_CONTAINER]);
    docker.docker_ok(&["tag", &latest, &image.replace(":latest", ":previous")]);
    let refused = fails(rig, &["update", "--host", "h", "-y", "--rollback"], 1);
    assert!(refused.contains("there is no earlier image to go back to"), "{refused}");
    let hint = "hint: an update keeps the image from before it; occ docker --host h -- image ls ";
    assert!(refused.contains(hint), "{refused}");
}

#[test]
fn what_cannot_be_mounted_costs_no_restart() {
    let image = "sandbox:1";
    let Some(world) = world(image, "") else { return };
    let World { docker, rig, .. } = &world;
    docker.import_sandbox(image, "1", &[]);
    rig.occ_ok(&["start", "--host", "h"]);
    let now = || {
        let format = "{{.Id}} {{.State.StartedAt}}";
        docker.docker_ok(&["inspect", "--format", format, SANDBOX_CONTAINER])
    };
    let before = now();
    // The login user sees nothing of what is in it, and it is for Docker to say that there is none.
    let closed = tempfile::tempdir().unwrap();
    std::fs::set_permissions(closed.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let path = closed.path().join("none").display().to_string();
    let mount = format!("{path}:/work");
    let refused = fails(rig, &["start", "--host", "h", "--yes", "--mount", &mount], 1);
    assert!(refused.contains(&format!("there is no {path} to mount")), "{refused}");
    assert_eq!(now(), before);
    assert_eq!(docker.docker_ok(&["ps", "--all", "--quiet"]).lines().count(), 1);
}

#[test]
fn an_address_that_leads_to_the_port_from_before_is_not_told() {
    let image = "sandbox:1";
    let Some(world) = world(image, "") else { return };
    let World { docker, rig, .. } = &world;
    docker.import_sandbox(image, "1", &[]);
    rig.occ_ok(&["start", "--host", "h"]);
    // Somebody makes it anew there, as the existing tool does.
    docker.docker_ok(&["rm", "--force", SANDBOX_CONTAINER]);
    let port = free_port();
    let publish = format!("127.0.0.1:{port}:3000");
    let run = ["run", "-d", "--label", OURS, "--name", SANDBOX_CONTAINER, "-p", &publish, image];
    docker.docker_ok(&run);
    let sandbox = || look(rig, "h").sandbox.filter(|sandbox| sandbox.state.is_some());
    let is_new = |ports: &[PublishedPort]| ports.iter().any(|one| one.host_port == port);
    let seen = wait_until("the new one", GUARD, sandbox, |sandbox| {
        sandbox.as_ref().is_some_and(|sandbox| is_new(&sandbox.ports))
    });
    assert_eq!(seen.unwrap().url, None);
    let url = rig.occ_ok(&["start", "--host", "h", "-q"]).trim().to_owned();
    assert!(fetch(&url, None).unwrap().ends_with('1'), "{url}");
    assert_eq!(sandbox().unwrap().url, Some(url));
}

#[test]
fn a_port_that_cannot_be_remembered_is_no_port_and_says_why() {
    if !require_root("a small disk") {
        return;
    }
    let image = "sandbox:1";
    let Some(world) = world(image, "") else { return };
    let World { docker, rig, .. } = &world;
    docker.import_sandbox(image, "1.0", &[]);
    // Made by the existing tool: nothing is forwarded yet.
    let publish = format!("127.0.0.1:{}:3000", free_port());
    let run = ["run", "-d", "--label", OURS, "--name", SANDBOX_CONTAINER, "-p", &publish, image];
    docker.docker_ok(&run);
    let state = rig.root().join("state/occ");
    let disk = Disk::mount(&state);
    assert!(std::fs::write(state.join("filler"), vec![0; 512 * 1024]).is_err(), "a full disk");
    for verb in ["start", "restart"] {
        let said = fails(rig, &[verb, "--host", "h"], 1);
        assert!(said.contains("the forward cannot be remembered: No space left on"), "{said}");
        assert!(said.contains("hint: df -h "), "{said}");
        let list: OperationList = body(&rig.http("GET", "/v1/operations", &[], None));
        let full = list.operations[0].problem.as_ref().unwrap();
        assert_eq!((full.code, full.status), (Code::StateWrite, 507), "{full:?}");
        let forwards = rig.http("GET", "/v1/forwards", &[], None).json();
        assert_eq!(forwards["forwards"], serde_json::json!([]), "{verb}");
    }
    std::fs::remove_file(state.join("filler")).unwrap();
    let url = rig.occ_ok(&["start", "--host", "h", "-q"]).trim().to_owned();
    assert!(fetch(&url, None).unwrap().ends_with("1.0"), "{url}");
    drop(disk);
}
