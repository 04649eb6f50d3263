//! The sandbox's logs over a broken link, operations that meet trouble halfway, and two sandboxes made alike.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use occ_proto::container::{DiskUse, SANDBOX_CONTAINER};
use occ_proto::operation::{Did, Operation, OperationList, OperationState};
use testkit::wait::blocking::wait_until;
use testkit::{DockerRig, FaultyLink, RealSshd, Registry, free_port};

use crate::ask::{GUARD, body, look};
use crate::sandbox::{OURS, World, fails, fetch, get, json, world, world_on};

fn begin(world: &World, verb: &str) -> Operation {
    let begun = world.rig.http("POST", &format!("/v1/hosts/h/container/{verb}"), &[], None);
    assert_eq!(begun.status, 202, "{}", begun.text());
    body(&begun)
}

fn now(world: &World, operation: &Operation) -> Operation {
    body(&world.rig.http("GET", &format!("/v1/operations/{}", operation.id), &[], None))
}

fn ended(world: &World, operation: &Operation) -> Operation {
    wait_until(
        "the end",
        GUARD,
        || now(world, operation),
        |operation| operation.state != OperationState::Running,
    )
}

#[test]
fn logs_go_on_over_a_broken_link_without_a_line_lost_or_doubled() {
    let image = "talker:1";
    let Some(world) = world(image, "") else { return };
    let World { docker, rig, link, .. } = &world;
    let nothing = fails(rig, &["logs", "--host", "h"], 1);
    assert!(nothing.contains("there is no sandbox"), "{nothing}");
    let talk =
        "CMD i=0; while true; do i=$((i+1)); echo line $i; echo err $i >&2; sleep 0.05; done";
    docker.import(image, &[], &[talk, "ENV PATH=/bin"]);
    docker.run(SANDBOX_CONTAINER, &["--label", OURS, image]);
    let mut child = rig.occ(&["logs", "--host", "h", "-n", "all", "-f"]);
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut expected = 1;
    let mut read = |count: usize| {
        for _ in 0..count {
            let line = lines.next().unwrap().unwrap();
            assert_eq!(line, format!("[h] line {expected}"));
            expected += 1;
        }
    };
    read(30);
    link.refuse(true);
    link.reset_all();
    wait_until("the loss", GUARD, || look(rig, "h").connection.is_none(), |lost| *lost);
    link.refuse(false);
    read(60);
    link.reset_all();
    read(60);
    let process = testkit::proc::Process::find(child.id()).unwrap();
    process.signal(testkit::proc::Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));

    let last = rig.occ_ok(&["logs", "--host", "h", "-n", "4", "--no-follow", "--no-prefix"]);
    assert!(last.lines().count() <= 4 && last.contains("line "), "{last}");
    let found =
        rig.occ_ok(&["logs", "--host", "h", "-n", "all", "--no-follow", "--grep", "line 17"]);
    assert!(found.lines().all(|line| line.starts_with("[h] line 17")), "{found}");
    let timed = rig.occ_ok(&["logs", "--local", "-n", "2", "--no-follow", "--timestamps"]);
    assert!(timed.lines().all(|line| line.starts_with("20") && line.contains("Z line")), "{timed}");
    // Nobody reads any more, and nothing of it stays.
    wait_until("calm", GUARD, || look(rig, "h").open_channels, |channels| *channels == 0);
}

#[test]
fn a_pull_goes_on_over_a_broken_link_and_tells_how_far_it_is() {
    if !Registry::require() {
        return;
    }
    let registry = Registry::start();
    let way = FaultyLink::start(([127, 0, 0, 1], registry.port()).into());
    let image = format!("127.0.0.1:{}/sandbox:latest", way.port());
    let Some(world) = world(&image, "") else { return };
    let World { docker, rig, link, .. } = &world;
    docker.import_sandbox(&image, "1.0", &[]);
    docker.docker_ok(&["push", &image]);
    docker.docker_ok(&["rmi", &image]);
    way.set_bandwidth(Some(400_000));
    let start = begin(&world, "start");
    // Somebody watches, as a client does.
    let mut watching = rig.occ(&["operations", "attach", &start.id]);
    let watching = watching.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    wait_until("the pull", GUARD, || way.bytes().1, |bytes| *bytes > 200_000);
    link.reset_all();
    let end = ended(&world, &start);
    assert_eq!(end.state, OperationState::Succeeded, "{end:?}");
    let output = watching.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("[h] the link to Docker broke; this goes on when it is back"), "{told}");
    assert!(told.contains("layers"), "{told}");
    assert!(fetch(&end.outcome.unwrap().url.unwrap(), None).unwrap().ends_with("1.0"));
    // A pull that is cancelled leaves nothing.
    rig.occ_ok(&["stop", "--host", "h", "-t", "1", "--remove"]);
    docker.docker_ok(&["rmi", "-f", &image]);
    way.set_bandwidth(Some(20_000));
    let again = begin(&world, "start");
    wait_until("the pull", GUARD, || now(&world, &again), |now| now.step.contains("pulling"));
    rig.occ_ok(&["operations", "cancel", &again.id]);
    assert_eq!(now(&world, &again).state, OperationState::Cancelled);
    assert_eq!(docker.docker_ok(&["ps", "--all", "--quiet"]), "");
}

#[test]
fn an_update_that_was_cut_short_is_undone_or_finished_by_the_next_operation() {
    let image = "sandbox:1";
    let Some(mut world) = world(image, "") else { return };
    world.docker.import_sandbox(image, "1.0", &[]);
    world.docker.import("program-other:1", &[], &[]);
    world.rig.occ_ok(&["start", "--host", "h"]);
    let docker = &world.docker;
    let id = |name: &str| docker.docker_ok(&["inspect", "--format", "{{.Id}}", name]);
    let old = id(SANDBOX_CONTAINER);
    let aside = "opencode-cloud-sandbox-before-update";
    let made_of = || docker.docker_ok(&["inspect", "--format", "{{.Image}}", SANDBOX_CONTAINER]);
    let old_image = made_of();
    // The daemon ended when the old one was set aside and there was no new one yet.
    docker.docker_ok(&["stop", "-t", "1", SANDBOX_CONTAINER]);
    docker.docker_ok(&["rename", SANDBOX_CONTAINER, aside]);
    // The name means the new image already.
    docker.docker_ok(&["tag", "program-other:1", image]);
    // And the other one the image that runs, since there was no update before.
    docker.docker_ok(&["tag", &old_image, "sandbox:previous"]);
    let tags = || docker.docker_ok(&["images", "--format", "{{.Tag}}", "sandbox"]);
    let started = world.rig.occ_ok(&["start", "--host", "h"]);
    assert!(started.contains("an update that was cut short is undone"), "{started}");
    assert_eq!(id(SANDBOX_CONTAINER), old);
    assert_eq!((id(image), tags()), (made_of(), "1".to_owned()));
    // It ended when the new one ran already.
    docker.docker_ok(&["rename", SANDBOX_CONTAINER, aside]);
    docker.docker_ok(&["stop", "-t", "1", aside]);
    let port = docker.docker_ok(&[
        "inspect",
        "--format",
        "{{(index (index .HostConfig.PortBindings \"3000/tcp\") 0).HostPort}}",
        aside,
    ]);
    let publish = format!("127.0.0.1:{port}:3000");
    let run = ["run", "-d", "--label", OURS, "--name", SANDBOX_CONTAINER, "-p", &publish, image];
    docker.docker_ok(&run);
    let new = id(SANDBOX_CONTAINER);
    docker.docker_ok(&["tag", &old_image, "sandbox:previous"]);
    docker.docker_ok(&["tag", "program-other:1", "sandbox:previous-before-update"]);
    let finished = world.rig.occ_ok(&["start", "--host", "h"]);
    assert!(finished.contains("an update that was cut short is finished"), "{finished}");
    assert_eq!((id(SANDBOX_CONTAINER), docker.docker_ok(&["ps", "-aq"]).lines().count()), (new, 1));
    let left = tags();
    assert!(left.contains("previous") && !left.contains("before-update"), "{left}");

    // A daemon that is killed in the middle of a start leaves one that the next start goes on with.
    docker.docker_ok(&["rm", "-f", SANDBOX_CONTAINER]);
    let begun = begin(&world, "start");
    wait_until(
        "it to be made",
        GUARD,
        || now(&world, &begun),
        |now| {
            ["starting", "waiting"].iter().any(|word| now.step.contains(word))
                || now.state == OperationState::Succeeded
        },
    );
    world.rig.kill_daemon();
    world.rig.start_daemon(&[]);
    let started = world.rig.occ_ok(&["start", "--host", "h", "-q"]);
    assert!(fetch(started.trim(), None).unwrap().ends_with("1.0"), "{started}");
}

#[test]
fn one_that_does_not_work_is_no_running_service() {
    let image = "dying:1";
    let Some(world) = world(image, "") else { return };
    let World { docker, rig, .. } = &world;
    // As the image says it.
    let password = "echo 'INITIAL ONE-TIME PASSWORD (IOTP): canary-otp-2'";
    let says = format!("CMD echo dying; {password}; sleep 0.2; exit 3");
    docker.import(image, &[], &[&says, "ENV PATH=/bin"]);
    for _ in 0..2 {
        let died = fails(rig, &["start", "--host", "h"], 1);
        let last = "exit code 3; it said last: INITIAL ONE-TIME PASSWORD: …";
        assert!(died.contains(last), "{died}");
        // It is there to be looked at, and is not started for ever.
        let state =
            docker.docker_ok(&["inspect", "--format", "{{.State.Status}}", SANDBOX_CONTAINER]);
        assert_eq!(state, "exited");
    }
    // Its last words are kept, its password nowhere.
    let operations = rig.http("GET", "/v1/operations", &[], None).text();
    assert!(operations.contains("ONE-TIME PASSWORD: …"), "{operations}");
    for kept in [operations, rig.log()] {
        assert!(!kept.contains("canary-otp-2"), "{kept}");
    }
    docker.docker_ok(&["start", SANDBOX_CONTAINER]);
    let restarting = fails(rig, &["start", "--host", "h"], 1);
    assert!(restarting.contains("exit code 3"), "{restarting}");
    // The docker program means the same engine as the sandbox commands.
    let elsewhere = DockerRig::start();
    let config = std::fs::read_to_string(rig.config_toml()).unwrap();
    let socket = elsewhere.socket().display().to_string();
    rig.write_config_toml(&config.replace(
        "[local.sandbox]",
        &format!("[local]\ndocker_socket = {socket:?}\n[local.sandbox]"),
    ));
    assert_eq!(rig.occ_ok(&["docker", "--local", "--", "ps", "-aq"]).trim(), "");
}

#[test]
fn where_forwarding_is_forbidden_no_address_is_promised() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::builder().config("AllowTcpForwarding no").start();
    let image = "sandbox:1";
    let Some(world) = world_on(sshd, image, "") else { return };
    world.docker.import_sandbox(image, "1.0", &[]);
    let started = world.rig.occ_ok(&["start", "--host", "h"]);
    assert!(started.contains("✓ Service started") && !started.contains("URL:"), "{started}");
    assert!(started.contains("it is reached on its host only, at http://127.0.0.1:"), "{started}");
    // That it is ready would be more than is known.
    assert!(started.contains("✓ Service started\n"), "{started}");
    assert!(started.contains("whether it answers was not looked at"), "{started}");
}

#[test]
fn a_disk_that_is_full_is_said_and_nothing_is_left() {
    if !Registry::require() {
        return;
    }
    let registry = Registry::start();
    let image = format!("{}/large:latest", registry.name());
    let Some(world) = world(&image, "") else { return };
    // What does not compress: two million bytes in hexadecimal digits that nobody has seen before.
    let mut seed = 1u64;
    let noise: String = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("{seed:016x}")
    })
    .take(2_000_000)
    .collect();
    world.docker.import_sandbox(&image, "1.0", &[("noise", 0o644, &noise)]);
    world.docker.docker_ok(&["push", &image]);
    let small = DockerRig::start_with_disk(24);
    small.open_to_everyone();
    crate::sandbox::settings(&world.rig, &small, &image, "");
    let full = fails(&world.rig, &["start", "--host", "h"], 1);
    assert!(
        full.contains("there is no room for the image") && full.contains("disk is full"),
        "{full}"
    );
    assert!(full.contains("hint: occ docker --host h -- system df shows"), "{full}");
    assert_eq!(small.docker_ok(&["ps", "--all", "--quiet"]), "");
}

#[test]
fn an_engine_that_is_started_anew_does_not_stop_a_start() {
    let image = "slow:1";
    let Some(mut world) = world(image, "") else { return };
    let serve = "CMD trap 'exit 0' TERM; echo up >> /tmp/ups; n=$(wc -l < /tmp/ups); \
                 test $n -gt 1 && httpd -f -p 3000 -h /bin & while true; do sleep 0.1; done";
    world.docker.import(image, &[], &[serve, "ENV PATH=/bin"]);
    let start = begin(&world, "start");
    wait_until(
        "the wait for it",
        GUARD,
        || now(&world, &start),
        |now| now.step.contains("waiting for the sandbox"),
    );
    // It answers only the second time that it is up.
    world.docker.restart_with_containers();
    world.docker.open_to_everyone();
    let end = ended(&world, &start);
    assert_eq!(end.state, OperationState::Succeeded, "{end:?}");
    // Docker is down: that is said, and the link has nothing to do with it.
    world.docker.stop();
    let down = fails(&world.rig, &["restart", "--host", "h"], 1);
    assert!(down.contains("the Docker daemon does not answer"), "{down}");
    assert!(look(&world.rig, "h").connection.is_some());
}

#[test]
fn a_sandbox_is_made_like_another_one_without_its_secrets() {
    let image = "sandbox:1";
    let Some(world) = world(image, "env = [\"COLOUR=red\", \"API_KEY=canary-key-1\"]") else {
        return;
    };
    let World { docker, rig, .. } = &world;
    docker.import_sandbox(image, "1.0", &[]);
    rig.occ_ok(&["start", "--host", "h"]);
    // This machine's own engine is another one.
    let other = DockerRig::start_with_network();
    other.import_sandbox(image, "1.0", &[]);
    rig.write_config_toml(&format!(
        "{}[local]\ndocker_socket = {:?}\n[local.sandbox]\nsystemd = false\nimage = {image:?}\n\
         env = [\"COLOUR=blue\", \"API_KEY=own\"]\n",
        std::fs::read_to_string(rig.config_toml()).unwrap().split("[local").next().unwrap(),
        other.socket().display().to_string()
    ));
    let missing = fails(rig, &["sandbox", "diff", "--from", "h", "--to", "local"], 1);
    assert!(missing.contains("there is no sandbox"), "{missing}");
    // What is missing is the model, and not what is to be made like it.
    let no_model = fails(rig, &["sandbox", "sync", "--from", "local", "--to", "h", "--yes"], 1);
    assert!(
        no_model.contains("Error: there is no sandbox.\nhint: occ start --local\n"),
        "{no_model}"
    );
    rig.occ_ok(&["start", "--local", "-p", &free_port().to_string(), "--no-mounts"]);
    let differ = fails(rig, &["sandbox", "diff", "--from", "h", "--to", "local"], 1);
    assert!(
        differ.contains("env COLOUR") && differ.contains("red") && differ.contains("blue"),
        "{differ}"
    );
    assert!(!differ.contains("canary-key-1") && !differ.contains("env API_KEY"), "{differ}");
    let asked = fails(rig, &["sandbox", "sync", "--from", "h", "--to", "local"], 2);
    assert!(asked.contains("--yes"), "{asked}");
    // The port of the model is taken on this one machine, which a test has for both.
    let taken = fails(rig, &["sandbox", "sync", "--from", "h", "--to", "local", "--yes"], 1);
    assert!(taken.contains("is in use by"), "{taken}");
    assert!(
        taken.contains("or occ start --host h -p PORT --yes gives the model another"),
        "{taken}"
    );
    rig.occ_ok(&["stop", "--host", "h", "-t", "1"]);
    let stopped = rig.occ_ok(&["status", "--host", "h", "--fresh"]);
    assert!(!stopped.contains("http://"), "{stopped}");
    let synced = rig.occ_ok(&["sandbox", "sync", "--from", "h", "--to", "local", "--yes"]);
    assert!(synced.contains("✓ Service is like the other one now"), "{synced}");
    let env = other.docker_ok(&["inspect", "--format", "{{.Config.Env}}", SANDBOX_CONTAINER]);
    assert!(env.contains("COLOUR=red") && env.contains("API_KEY=own"), "{env}");
    // The image cannot be pulled there, so its own of that name had to do, which is said.
    assert!(synced.contains("is another image there"), "{synced}");
    let alike = fails(rig, &["sandbox", "diff", "--from", "h", "--to", "local"], 1);
    assert!(alike.contains("image id") && !alike.contains("env"), "{alike}");
    // What is like it already stays as it is, and its disk use is known.
    let disk = || -> Option<DiskUse> { look(rig, "h").sandbox?.disk };
    let disk = wait_until("the disk to be looked at", GUARD, disk, Option::is_some).unwrap();
    assert!(disk.image > 0, "{disk:?}");
    let port = free_port().to_string();
    let restarted = json(rig, &["start", "--host", "h", "-p", &port, "--yes"]);
    assert_eq!(restarted.outcome.unwrap().did, Did::Started);
    // The mounts are the model's, too.
    let gone = rig.root().join("gone");
    std::fs::create_dir(&gone).unwrap();
    let mount = format!("{}:/work", gone.display());
    rig.occ_ok(&["start", "--host", "h", "-p", &port, "--mount", &mount, "--yes"]);
    std::fs::remove_dir(&gone).unwrap();
    let missing = fails(rig, &["sandbox", "sync", "--from", "h", "--to", "local", "--yes"], 1);
    let hint = "or occ start --host h --no-mounts --yes has the model mount nothing";
    assert!(missing.contains("to mount") && missing.contains(hint), "{missing}");
}

#[test]
fn a_sync_goes_on_without_its_client_and_cancelling_it_undoes_it() {
    let image = "sandbox:1";
    let Some(world) = world(image, "env = [\"COLOUR=red\"]") else { return };
    let World { docker, rig, .. } = &world;
    docker.import_sandbox(image, "1.0", &[]);
    rig.occ_ok(&["start", "--host", "h", "--no-mounts"]);
    rig.occ_ok(&["stop", "--host", "h", "-t", "1"]);
    // On this machine's own engine the image of that name never answers.
    let other = DockerRig::start_with_network();
    let config = std::fs::read_to_string(rig.config_toml()).unwrap();
    let socket = other.socket().display().to_string();
    rig.write_config_toml(&config.replace(
        "[local.sandbox]",
        &format!("[local]\ndocker_socket = {socket:?}\n[local.sandbox]\nimage = {image:?}"),
    ));
    let silent = "CMD trap 'exit 0' TERM; sleep 1000 & wait";
    other.import(image, &[], &[silent, "ENV PATH=/bin"]);
    let containers = || {
        let format = "{{.ID}} {{.Names}} {{.State}}";
        other.docker_ok(&["ps", "--all", "--no-trunc", "--format", format])
    };
    let newest = || body::<OperationList>(&rig.http("GET", "/v1/operations", &[], None));
    let newest = || newest().operations.into_iter().next().unwrap();
    // Where there is none, and where there is one that runs.
    for before in ["", "one"] {
        if !before.is_empty() {
            let run = ["run", "--detach", "--label", OURS, "--name", SANDBOX_CONTAINER, image];
            other.docker_ok(&run);
        }
        let before = containers();
        let mut sync = rig.occ(&["sandbox", "sync", "--from", "h", "--to", "local", "--yes"]);
        let mut sync = sync.stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(sync.stderr.take().unwrap()).lines();
        let waiting = said.find(|line| line.as_ref().unwrap().contains("waiting for the sandbox"));
        waiting.unwrap().unwrap();
        let process = testkit::proc::Process::find(sync.id()).unwrap();
        process.signal(testkit::proc::Signal::INT);
        assert_eq!(sync.wait().unwrap().code(), Some(130));
        let rest: Vec<String> = said.map(Result::unwrap).collect();
        assert!(rest.iter().any(|line| line.contains("goes on without you")), "{rest:?}");
        let operation = newest();
        assert_eq!(operation.state, OperationState::Running, "{operation:?}");
        assert_ne!(containers(), before);
        let cancelled = rig.occ_ok(&["operations", "cancel", &operation.id]);
        assert!(cancelled.contains("everything is as it was before"), "{cancelled}");
        assert_eq!(newest().state, OperationState::Cancelled);
        assert_eq!(containers(), before);
    }
}

#[test]
fn a_daemon_that_goes_away_is_told_with_what_becomes_of_its_operation() {
    let image = "sandbox:1";
    let Some(mut world) = world(image, "") else { return };
    world.docker.import(image, &[], &["CMD [\"busybox\", \"sleep\", \"1000\"]", "ENV PATH=/bin"]);
    let mut start = world.rig.occ(&["start", "--host", "h"]);
    let mut start = start.stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(start.stderr.take().unwrap()).lines();
    let waiting = said.find(|line| line.as_ref().unwrap().contains("waiting for the sandbox"));
    waiting.unwrap().unwrap();
    world.rig.kill_daemon();
    assert_eq!(start.wait().unwrap().code(), Some(3));
    let rest: Vec<String> = said.map(Result::unwrap).collect();
    let rest = rest.join("\n");
    assert!(rest.contains("Error: occd went away in the middle of operation "), "{rest}");
    assert!(rest.contains("is undone or finished by the next operation there"), "{rest}");
    assert!(rest.contains("hint: occ operations "), "{rest}");
}

#[test]
fn that_a_sandbox_is_not_as_the_settings_say_is_told_also_when_it_fails() {
    let image = "dying:1";
    let Some(world) = world(image, "") else { return };
    let World { docker, rig, .. } = &world;
    docker.import(image, &[], &["CMD echo dying; exit 3", "ENV PATH=/bin"]);
    fails(rig, &["start", "--host", "h"], 1);
    docker.import_sandbox("sandbox:2", "2.0", &[]);
    let config = std::fs::read_to_string(rig.config_toml()).unwrap();
    rig.write_config_toml(&config.replace(image, "sandbox:2"));
    let failed = fails(rig, &["start", "--host", "h"], 1);
    assert!(failed.contains("the image dying:1 instead of the image sandbox:2"), "{failed}");
    assert!(failed.contains("occ start --host h --yes makes it anew"), "{failed}");
    rig.occ_ok(&["start", "--host", "h", "--yes"]);
}

#[test]
fn the_real_opencode_answers_on_the_address_that_start_prints() {
    // `cargo xtask test` fetches it where there is npm.
    let program = testkit::require::find_fetched("opencode");
    let found = program.clone().map(drop);
    if !testkit::require::require("opencode", found, "OCC_REQUIRE_OPENCODE") {
        return;
    }
    let program = program.unwrap();
    let image = "opencode:1";
    let Some(world) = world(image, "") else { return };
    let World { docker, rig, .. } = &world;
    let serve = "CMD [\"opencode\", \"serve\", \"--hostname\", \"0.0.0.0\", \"--port\", \"3000\"]";
    docker.import_program(image, &program, &["ENV PATH=/usr/bin:/bin HOME=/tmp", serve]);
    let url = rig.occ_ok(&["start", "--host", "h", "-q"]).trim().to_owned();
    let health = get(&url, "/global/health").unwrap();
    assert!(health.contains("\"healthy\":true"), "{health}");
    let logs = rig.occ_ok(&["logs", "--host", "h", "--no-follow"]);
    assert!(logs.contains("opencode server listening on http://0.0.0.0:3000"), "{logs}");
}
