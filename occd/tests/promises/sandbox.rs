//! The sandbox's everyday commands against a real engine: made, started, reached, stopped, updated and rolled back, on a
//! host and on this machine.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use occ_proto::container::SANDBOX_CONTAINER;
use occ_proto::operation::{Did, Operation, OperationList, OperationState};
use testkit::daemon::{Output, Target};
use testkit::wait::blocking::{wait_for, wait_until};
use testkit::{DaemonRig, DockerRig, FaultyLink, RealSshd, Registry, free_port};

use crate::ask::{GUARD, body, look};
use crate::canary::holding;

/// What a container has that the existing tool made, or this one.
pub(crate) const OURS: &str = "managed-by=opencode-cloud";

/// A sandbox's world: an engine with a network behind a real server, and the daemon.
pub(crate) struct World {
    pub(crate) docker: DockerRig,
    /// Ends with the world.
    sshd: RealSshd,
    pub(crate) link: FaultyLink,
    pub(crate) rig: DaemonRig,
}

/// Returns a world whose host `h` has the image `image`, if one can be had. `extra` is more of `[hosts.h.sandbox]`.
pub(crate) fn world(image: &str, extra: &str) -> Option<World> {
    if !RealSshd::require() || !DockerRig::require() {
        return None;
    }
    world_on(RealSshd::start(), image, extra)
}

/// The same on that server.
pub(crate) fn world_on(sshd: RealSshd, image: &str, extra: &str) -> Option<World> {
    if !DockerRig::require() {
        return None;
    }
    let docker = DockerRig::start_with_network();
    docker.open_to_everyone();
    let link = FaultyLink::start(sshd.addr());
    let mut rig = DaemonRig::new();
    rig.add_host("h", Target::from(&sshd).through(&link));
    settings(&rig, &docker, image, extra);
    rig.set_env("DOCKER_HOST", docker.host());
    rig.start_daemon(&[]);
    Some(World { docker, sshd, link, rig })
}

pub(crate) fn settings(rig: &DaemonRig, docker: &DockerRig, image: &str, extra: &str) {
    let socket = docker.socket().display().to_string();
    rig.write_config_toml(&format!(
        "[connection]\nmax_backoff = \"200ms\"\n[forwards]\nby_name_port = {}\n\
         [hosts.h]\ndocker_socket = {socket:?}\n\
         [hosts.h.sandbox]\nimage = {image:?}\nsystemd = false\nport = {}\n{extra}\n\
         [local.sandbox]\nsystemd = false\n",
        free_port(),
        free_port()
    ));
}

/// Returns what a URL answers with.
pub(crate) fn fetch(url: &str, host: Option<&str>) -> std::io::Result<String> {
    request(url, "/", host)
}

/// Returns what a path of a URL answers with.
pub(crate) fn get(url: &str, path: &str) -> std::io::Result<String> {
    request(url, path, None)
}

fn request(url: &str, path: &str, host: Option<&str>) -> std::io::Result<String> {
    let at = url.strip_prefix("http://").unwrap().trim_end_matches('/');
    let mut stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(GUARD))?;
    let host = host.unwrap_or(at);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn said(output: &Output) -> String {
    format!("{}{}", output.stdout, output.stderr)
}

pub(crate) fn fails(rig: &DaemonRig, args: &[&str], exit: i32) -> String {
    let output = rig.run_occ(args);
    assert_eq!(output.status.code(), Some(exit), "{args:?}: {}", said(&output));
    said(&output)
}

pub(crate) fn json(rig: &DaemonRig, args: &[&str]) -> Operation {
    let text = rig.occ_ok(&[args, &["--json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_sandbox_lives_on_a_host_as_if_it_were_here() {
    let image = "sandbox:1";
    let Some(world) = world(image, "env = [\"GREETING=hello\"]") else { return };
    let World { docker, link, rig, .. } = &world;
    // No image, and none can be had: nothing is made.
    let none = fails(rig, &["start", "--host", "h"], 1);
    assert!(none.contains("the image sandbox:1 cannot be pulled"), "{none}");
    assert_eq!(docker.docker_ok(&["ps", "--all", "--quiet"]), "");

    let helper = "#!/bin/sh\necho '{\"ok\":true,\"active\":true,\"otp\":\"canary-otp-1\"}'\n";
    docker.import_sandbox(
        image,
        "1.0",
        &[("usr/local/bin/opencode-cloud-bootstrap", 0o755, helper)],
    );
    let started = rig.occ_ok(&["start", "--host", "h"]);
    assert!(started.contains("[h] ✓ Service started and ready"), "{started}");
    assert!(started.contains("[LOCAL ONLY]"), "{started}");
    assert!(started.contains("one-time password canary-otp-1"), "{started}");
    // It is in that answer and nowhere else; the log and the audit log are below the directory, too.
    assert_eq!(holding(rig.root(), "canary-otp-1"), [] as [std::path::PathBuf; 0]);
    let url = rig.occ_ok(&["start", "--host", "h", "-q"]).trim().to_owned();
    assert!(fetch(&url, None).unwrap().ends_with("1.0"), "{url}");
    // As the existing tool makes it.
    let look_at =
        |format: &str| docker.docker_ok(&["inspect", "--format", format, SANDBOX_CONTAINER]);
    assert_eq!(
        look_at("{{index .Config.Labels \"managed-by\"}} {{.Config.Hostname}}"),
        "opencode-cloud opencode-cloud-sandbox"
    );
    assert!(look_at("{{.Config.Env}}").contains("GREETING=hello"));
    let volumes = docker.docker_ok(&["volume", "ls", "--quiet"]);
    assert!(volumes.lines().any(|name| name == "opencode-workspace"), "{volumes}");
    // By name, and by no other.
    let by_name = rig.http("GET", "/v1/forwards", &[], None).json()["by_name_port"].clone();
    let at = format!("http://127.0.0.1:{by_name}");
    assert!(fetch(&at, Some("H.localhost:4180")).unwrap().ends_with("1.0"));
    let unknown = fetch(&at, Some("other.localhost")).unwrap();
    assert!(unknown.starts_with("HTTP/1.1 404"), "{unknown}");
    let known = format!("Known are http://h.localhost:{by_name}. occ start --host NAME");
    assert!(unknown.contains(&known), "{unknown}");
    assert!(fetch(&at, Some("evil.example")).unwrap().starts_with("HTTP/1.1 421"));

    // A path that is not there is said before anybody is asked whether to make it anew.
    let nowhere = rig.run_occ(&["start", "--host", "h", "--mount", "/no/such:/x"]);
    assert!(nowhere.stderr.contains("there is no /no/such to mount"), "{nowhere:?}");

    let again = rig.occ_ok(&["start", "--host", "h"]);
    assert!(again.contains("Service is already running"), "{again}");
    let status = rig.occ_ok(&["status", "--host", "h"]);
    assert!(status.contains(&format!("[h] URL       {url}")), "{status}");
    // What happens to the link does not change the address.
    link.refuse(true);
    link.reset_all();
    let refused = wait_until(
        "the loss",
        GUARD,
        || fetch(&url, None).unwrap_or_default(),
        |answer| answer.starts_with("HTTP/1.1 503"),
    );
    assert!(refused.contains("h is not connected"), "{refused}");
    link.refuse(false);
    wait_until(
        "the way back",
        GUARD,
        || fetch(&url, None).unwrap_or_default(),
        |answer| answer.ends_with("1.0"),
    );

    let restarted = json(rig, &["restart", "--host", "h"]);
    let outcome = restarted.outcome.unwrap();
    assert_eq!((outcome.did, outcome.url.as_deref()), (Did::Restarted, Some(url.as_str())));
    let stopped = rig.occ_ok(&["stop", "--host", "h", "-t", "1"]);
    assert!(stopped.contains("[h] ✓ Service stopped ("), "{stopped}");
    assert!(rig.occ_ok(&["stop", "--host", "h"]).contains("Service is not running"));
    assert_eq!(json(rig, &["start", "--host", "h"]).outcome.unwrap().url.unwrap(), url);
    assert!(
        rig.occ_ok(&["stop", "--host", "h", "-t", "1", "--remove"]).contains("stopped and removed")
    );
    assert!(rig.occ_ok(&["stop", "--host", "h"]).contains("No service found."));
    let missing = fails(rig, &["restart", "--host", "h"], 1);
    assert!(
        missing.contains("there is no sandbox") && missing.contains("hint: occ start --host h")
    );
    assert!(fetch(&url, None).is_err(), "the forward is gone with the sandbox");
    // Volumes stay.
    assert_eq!(docker.docker_ok(&["volume", "ls", "--quiet"]), volumes);
    // Nobody wrote the password down.
    let log = rig.log();
    assert!(!log.contains("canary-otp-1"), "{log}");
    let operations = rig.http("GET", "/v1/operations", &[], None).text();
    assert!(!operations.contains("canary-otp-1"), "{operations}");
}

#[test]
fn what_another_program_serves_at_a_stopped_sandboxs_port_is_not_shown_as_the_sandbox() {
    let image = "sandbox:1";
    let Some(world) = world(image, "") else { return };
    let World { docker, rig, .. } = &world;
    docker.import_sandbox(image, "1.0", &[]);
    let url = rig.occ_ok(&["start", "--host", "h", "-q"]).trim().to_owned();
    assert!(fetch(&url, None).unwrap().ends_with("1.0"), "{url}");
    let forwards = rig.http("GET", "/v1/forwards", &[], None).json();
    let by_name = format!("http://127.0.0.1:{}", forwards["by_name_port"]);
    let at = forwards["forwards"][0]["to"].as_str().unwrap().to_owned();
    rig.occ_ok(&["stop", "--host", "h", "-t", "1"]);

    // Any user of the host may take the port now.
    let other = std::net::TcpListener::bind(&at).unwrap();
    other.set_nonblocking(true).unwrap();
    for answer in [fetch(&url, None).unwrap(), fetch(&by_name, Some("h.localhost")).unwrap()] {
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        let why = "h: the sandbox is not running (exited). occ status --host h shows more.";
        assert!(answer.contains(why), "{answer}");
    }
    let reached = other.accept().unwrap_err();
    assert_eq!(reached.kind(), std::io::ErrorKind::WouldBlock, "{reached}");

    // It is back, whoever has started it.
    drop(other);
    docker.docker_ok(&["start", SANDBOX_CONTAINER]);
    wait_until(
        "the sandbox that somebody else has started",
        GUARD,
        || fetch(&url, None).unwrap_or_default(),
        |answer| answer.ends_with("1.0"),
    );
}

#[test]
fn the_ports_of_a_sandbox_are_closed_where_docker_is_denied() {
    let image = "sandbox:1";
    let Some(mut world) = world(image, "") else { return };
    let cgi = "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\nbegun\\n'\nsleep 1000\n";
    world.docker.import_sandbox(image, "1.0", &[("www/cgi-bin/slow", 0o755, cgi)]);
    let World { docker, sshd, rig, .. } = &mut world;
    // Another host with the same engine, so that the port behind which hosts have names stays.
    let config = std::fs::read_to_string(rig.config_toml()).unwrap();
    let socket = docker.socket().display().to_string();
    let config = format!("{config}[hosts.other]\ndocker_socket = {socket:?}\n");
    rig.write_config_toml(&config);
    rig.add_host("other", &*sshd);
    let url = rig.occ_ok(&["start", "--host", "h", "-q"]).trim().to_owned();
    rig.occ_ok(&["start", "--host", "other", "-q"]);
    let by_name = rig.http("GET", "/v1/forwards", &[], None).json()["by_name_port"].clone();
    let by_name = format!("http://127.0.0.1:{by_name}");
    let named = |host: &str| fetch(&by_name, Some(&format!("{host}.localhost"))).unwrap();
    assert!(named("h").ends_with("1.0") && named("other").ends_with("1.0"));
    let open = [url.as_str(), &by_name].map(|at| {
        let mut stream = TcpStream::connect(at.strip_prefix("http://").unwrap()).unwrap();
        stream.set_read_timeout(Some(GUARD)).unwrap();
        write!(stream, "GET /cgi-bin/slow HTTP/1.1\r\nHost: h.localhost\r\n\r\n").unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"begun\n") {
            let mut byte = [0];
            assert_eq!(stream.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&head));
            head.push(byte[0]);
        }
        stream
    });

    rig.write_config_toml(&format!("{config}[hosts.h.policy]\ndocker = \"deny\"\n"));
    // One that has just been accepted is ended.
    let refused = Err(std::io::ErrorKind::ConnectionRefused);
    let at_port = || fetch(&url, None).map_err(|error| error.kind());
    assert_eq!(wait_until("the port's end", GUARD, at_port, |answer| *answer == refused), refused);
    assert!(named("h").starts_with("HTTP/1.1 404"), "{}", named("h"));
    assert!(named("other").ends_with("1.0"));
    for mut stream in open {
        let ended = stream.read(&mut [0]);
        assert!(!matches!(&ended, Ok(1..)), "{ended:?}");
        let kind = ended.err().map(|error| error.kind());
        assert_ne!(kind, Some(std::io::ErrorKind::WouldBlock), "a connection goes on");
    }
    let forwards = rig.http("GET", "/v1/forwards", &[], None).json();
    let of_h = forwards["forwards"].as_array().unwrap().iter().find(|one| one["host"] == "h");
    let why = of_h.unwrap()["last_error"].as_str().unwrap();
    assert!(why.contains("docker = \"deny\""), "{why}");

    // Nor does the next daemon open it, for which the machine's administrator says so.
    rig.terminate_daemon();
    rig.write_config_toml(&config);
    let policy = rig.root().join("policy.toml");
    std::fs::write(&policy, "[features]\ndocker = false\n").unwrap();
    rig.start_daemon(&["--system-policy", policy.to_str().unwrap()]);
    assert!(fetch(&url, None).is_err() && fetch(&by_name, Some("h.localhost")).is_err());
    // What is said of forwards is nothing to it.
    let forwards = "[features]\nlocal_forwards = false\n";
    std::fs::write(&policy, forwards).unwrap();
    wait_until(
        "the sandbox that is reached again",
        GUARD,
        || fetch(&url, None).unwrap_or_default(),
        |answer| answer.ends_with("1.0"),
    );
    assert!(named("h").ends_with("1.0"), "{}", named("h"));
}

#[test]
fn this_machine_has_a_sandbox_of_its_own() {
    let Some(world) = world("unused", "") else { return };
    let World { docker, rig, .. } = &world;
    let none = rig.occ_ok(&["status", "--local"]);
    assert!(none.contains("No service found."), "{none}");
    assert_eq!(rig.run_occ(&["status", "-q"]).status.code(), Some(1));
    docker.import_sandbox("ghcr.io/prizz/opencode-cloud-sandbox:latest", "2.0", &[]);
    let config = rig.home().join(".config/opencode-cloud/config.json");
    let port = free_port();
    std::fs::create_dir_all(config.parent().unwrap()).unwrap();
    let work = rig.root().join("work");
    std::fs::create_dir_all(&work).unwrap();
    let text = format!(
        "{{ // theirs\n\"version\": 1, \"opencode_web_port\": {port}, \"mounts\": [\"{}:/home/opencoder/workspace\"] }}",
        work.display()
    );
    std::fs::write(&config, text).unwrap();
    let started = rig.occ_ok(&["start"]);
    assert!(started.starts_with("✓ Service started and ready"), "{started}");
    let url = format!("http://127.0.0.1:{port}");
    assert!(started.contains(&url), "{started}");
    assert!(fetch(&url, None).unwrap().ends_with("2.0"));
    let binds = "{{range .Mounts}}{{if eq .Type \"bind\"}}{{.Source}} {{end}}{{end}}";
    let mounted = docker.docker_ok(&["inspect", "--format", binds, SANDBOX_CONTAINER]);
    assert!(mounted.contains(&work.display().to_string()), "{mounted}");
    let status = rig.occ_ok(&["status"]);
    assert!(status.contains("Sandbox   ● running") && status.contains(&url), "{status}");
    assert!(status.contains("Disk      ") && status.contains("image "), "{status}");
    assert_eq!(rig.run_occ(&["status", "-q"]).status.code(), Some(0));
    rig.occ_ok(&["stop", "-t", "1", "--remove"]);
    // A bad file is said, and nothing else is taken for it.
    std::fs::write(&config, "{ \"version\": 1, \"prot\": 1 }").unwrap();
    let bad = fails(rig, &["start"], 1);
    assert!(bad.contains("prot") && bad.contains("config.json"), "{bad}");
}

#[test]
fn bad_wishes_are_refused_before_anything_is_made() {
    let image = "sandbox:1";
    let Some(world) = world(image, "") else { return };
    let World { docker, rig, .. } = &world;
    docker.import_sandbox(image, "1.0", &[]);
    let nothing_made = || {
        assert_eq!(docker.docker_ok(&["ps", "--all", "--quiet"]), "");
    };
    let path = fails(rig, &["start", "--host", "h", "--mount", "/nowhere/at/all:/x"], 1);
    assert!(path.contains("there is no /nowhere/at/all to mount"), "{path}");
    let form = fails(rig, &["start", "--host", "h", "--mount", "here"], 1);
    assert!(form.contains("/host/path:/path/inside"), "{form}");
    for target in ["/proc", "/dev", "/sys/", "/a/../proc/sys"] {
        let mount = format!("/tmp:{target}");
        let system = fails(rig, &["start", "--host", "h", "--mount", &mount], 1);
        assert!(system.contains("the kernel's own directory inside the sandbox"), "{system}");
    }
    nothing_made();
    // Somebody else has the port: a program, then a container.
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let program = fails(rig, &["start", "--host", "h", "-p", &port], 1);
    assert!(program.contains(&format!("port {port} is in use by")), "{program}");
    assert!(program.contains("-p PORT takes another"), "{program}");
    nothing_made();
    drop(taken);
    let publish = format!("127.0.0.1:{port}:80");
    docker.docker_ok(&["run", "-d", "--name", "web", "-p", &publish, image]);
    let container = fails(rig, &["start", "--host", "h", "-p", &port], 1);
    assert!(container.contains("in use by the container web"), "{container}");
    docker.docker_ok(&["rm", "-f", "web"]);
    // Flags of the existing tool that build images.
    let build = fails(rig, &["start", "--host", "h", "--full-rebuild-sandbox-image"], 2);
    assert!(build.contains("occ builds no images from source"), "{build}");
    nothing_made();

    // One that was made otherwise is not replaced without a word.
    rig.occ_ok(&["start", "--host", "h"]);
    let id = docker.docker_ok(&["inspect", "--format", "{{.Id}}", SANDBOX_CONTAINER]);
    let other = free_port().to_string();
    let asked = fails(rig, &["start", "--host", "h", "-p", &other], 1);
    assert!(asked.contains("--yes"), "{asked}");
    assert_eq!(docker.docker_ok(&["inspect", "--format", "{{.Id}}", SANDBOX_CONTAINER]), id);
    let outcome = json(rig, &["start", "--host", "h", "-p", &other, "--yes"]).outcome.unwrap();
    let sandbox = outcome.sandbox.unwrap();
    assert_eq!(sandbox.ports[0].host_port.to_string(), other);
    assert_ne!(sandbox.id.as_deref(), Some(id.as_str()));
    assert_eq!(docker.docker_ok(&["ps", "--all", "--quiet"]).lines().count(), 1);
}

#[test]
fn an_update_brings_the_new_image_or_leaves_the_old_one() {
    if !Registry::require() {
        return;
    }
    let registry = Registry::start();
    let image = format!("{}/sandbox:latest", registry.name());
    let Some(world) = world(&image, "") else { return };
    let World { docker, rig, .. } = &world;
    let publish = |version: &str, files: &[(&str, u32, &str)]| {
        docker.import_sandbox(&image, version, files);
        docker.docker_ok(&["push", &image]);
        docker.docker_ok(&["rmi", &image]);
    };
    publish("1.0", &[]);
    let work = rig.root().join("work");
    std::fs::create_dir_all(&work).unwrap();
    let mount = format!("{}:/home/opencoder/workspace", work.display());
    let pulled = rig.run_occ(&["start", "--host", "h", "--mount", &mount]);
    assert!(pulled.status.success(), "{}", said(&pulled));
    assert!(said(&pulled).contains("[h] pulling 127.0.0.1:"), "{}", said(&pulled));
    let url = rig.occ_ok(&["start", "--host", "h", "-q"]).trim().to_owned();
    let version = || fetch(&url, None).unwrap().rsplit('\n').next().unwrap().to_owned();
    let up_to_date = rig.occ_ok(&["update", "--host", "h", "-y"]);
    assert!(up_to_date.contains("Service is up to date"), "{up_to_date}");

    let stranger = docker.docker_ok(&["create", "--name", "stranger", &image]);
    let current = docker.docker_ok(&["inspect", "--format", "{{.Image}}", SANDBOX_CONTAINER]);
    docker.docker_ok(&["tag", &current, "kept:1"]);
    docker.docker_ok(&["rmi", "-f", &image]);
    publish("2.0", &[]);
    let output = rig.run_occ(&["update", "--host", "h", "-y"]);
    let updated = &output.stdout;
    assert!(
        updated.contains("✓ Service updated") && updated.contains("version 1.0 -> 2.0"),
        "{output:?}"
    );
    // It is told before anything is replaced, too: what fails then is known by its version.
    let at = |step: &str| output.stderr.find(step).unwrap_or_else(|| panic!("{step}: {output:?}"));
    assert!(
        at("from version 1.0 to 2.0") < at("putting the new sandbox in its place"),
        "{output:?}"
    );
    assert_eq!(version(), "2.0");
    let binds = "{{range .Mounts}}{{if eq .Type \"bind\"}}{{.Source}}{{end}}{{end}}";
    let mounted = docker.docker_ok(&["inspect", "--format", binds, SANDBOX_CONTAINER]);
    assert_eq!(mounted, work.display().to_string());
    // Other people's containers are theirs.
    assert_eq!(docker.docker_ok(&["inspect", "--format", "{{.Id}}", "stranger"]), stranger);
    assert_eq!(docker.docker_ok(&["ps", "--all", "--quiet"]).lines().count(), 2);

    // One that does not work: the old one is back by itself, and the names with it.
    docker.docker_ok(&["rmi", "-f", &image]);
    docker.import(&image, &[], &["CMD [\"busybox\", \"false\"]", "ENV PATH=/bin"]);
    docker.docker_ok(&["push", &image]);
    docker.docker_ok(&["rmi", &image]);
    let failed = fails(rig, &["update", "--host", "h", "-y"], 1);
    assert!(failed.contains("the new sandbox failed and was undone"), "{failed}");
    assert!(failed.contains("ended with exit code 1"), "{failed}");
    assert_eq!(version(), "2.0");
    assert_eq!(docker.docker_ok(&["ps", "--all", "--quiet"]).lines().count(), 2);

    let back = rig.occ_ok(&["update", "--host", "h", "--rollback", "-y"]);
    assert!(back.contains("rolled back"), "{back}");
    // What a second one would do is said.
    assert!(back.contains(":previous: another --rollback goes back to that one"), "{back}");
    assert_eq!(version(), "1.0");
    rig.occ_ok(&["update", "--host", "h", "--rollback", "-y"]);
    assert_eq!(version(), "2.0");
}

#[test]
fn an_operation_goes_on_without_its_client_and_can_be_cancelled() {
    let image = "sandbox:1";
    let Some(world) = world(image, "") else { return };
    let World { docker, rig, link, .. } = &world;
    // One that never answers.
    docker.import(image, &[], &["CMD [\"busybox\", \"sleep\", \"1000\"]", "ENV PATH=/bin"]);
    let begun = rig.http("POST", "/v1/hosts/h/container/start", &[], None);
    assert_eq!(begun.status, 202, "{}", begun.text());
    let begun: Operation = body(&begun);
    let path = format!("/v1/operations/{}", begun.id);
    let now = || body::<Operation>(&rig.http("GET", &path, &[], None));
    wait_until("the sandbox to be waited for", GUARD, now, |operation| {
        operation.step.contains("waiting for the sandbox")
    });
    let second = fails(rig, &["stop", "--host", "h"], 1);
    assert!(second.contains("another operation (start)") && second.contains(&begun.id), "{second}");
    // The link may break meanwhile.
    link.reset_all();
    let list = rig.occ_ok(&["operations"]);
    assert!(list.contains(&begun.id) && list.contains("running"), "{list}");
    // Those of one place, and their names alone.
    let id = format!("{}\n", begun.id);
    assert_eq!(rig.occ_ok(&["operations", "-q"]), id);
    assert_eq!(rig.occ_ok(&["operations", "--host", "h", "-q"]), id);
    assert_eq!(rig.occ_ok(&["operations", "--local", "-q"]), "");
    assert_eq!(rig.occ_ok(&["operations", "--local"]), "No operations.\n");
    let of_h = rig.occ_ok(&["operations", "--host", "h", "--json"]);
    let of_h: OperationList = serde_json::from_str(&of_h).unwrap();
    assert_eq!(of_h.operations[0].id, begun.id);
    let mut attached = rig.occ(&["operations", "attach", &begun.id]);
    let mut attached = attached.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let cancelled = rig.occ_ok(&["operations", "cancel", &begun.id]);
    assert!(cancelled.contains("cancelled"), "{cancelled}");
    assert_eq!(now().state, OperationState::Cancelled);
    assert_eq!(attached.wait().unwrap().code(), Some(1));
    wait_for("the host to be there", GUARD, || look(rig, "h").connection.is_some().then_some(()));
    // Nothing half made is left behind.
    assert_eq!(docker.docker_ok(&["ps", "--all", "--quiet"]), "");
    // One that hears no TERM.
    docker.docker_ok(&["run", "-d", "--label", OURS, "--name", SANDBOX_CONTAINER, image]);
    let killed = rig.occ_ok(&["stop", "--host", "h", "-t", "1"]);
    assert!(killed.contains("force killed after"), "{killed}");
    let unknown = fails(rig, &["operations", "attach", "nope"], 1);
    assert!(unknown.contains("no such operation"), "{unknown}");
}
