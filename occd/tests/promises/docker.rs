//! The sandbox container of a host, asked for through the SSH connection.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use occ_proto::container::{ContainerStatus, SANDBOX_CONTAINER};
use occ_proto::status::{State, TestReport};
use occ_proto::{Code, Problem};
use testkit::user::OwnLogin;
use testkit::{DaemonRig, DockerRig, RealSshd};

use crate::ask::look;
use crate::support::{daemon_for, daemon_with, settled, status};

/// Returns an engine, unless one of the servers is missing.
pub(crate) fn engine() -> Option<DockerRig> {
    (RealSshd::require() && DockerRig::require()).then(DockerRig::start)
}

/// Returns a daemon that is told where the engine's socket is.
fn daemon(sshd: &RealSshd, docker: &DockerRig) -> DaemonRig {
    let socket = docker.socket().display().to_string();
    daemon_with(sshd, &format!("[hosts.h]\ndocker_socket = {socket:?}\n"))
}

fn container(rig: &DaemonRig) -> Result<ContainerStatus, Box<Problem>> {
    let response = rig.http("GET", "/v1/hosts/h/container?fresh=true", &[], None);
    match response.status {
        200 => Ok(serde_json::from_slice(&response.body).unwrap()),
        _ => Err(Box::new(serde_json::from_slice(&response.body).unwrap())),
    }
}

/// Returns the code and HTTP status of the container's problem. The link itself stays up.
fn problem(rig: &DaemonRig) -> (Code, u16) {
    let before = settled(rig).connects;
    let problem = container(rig).unwrap_err();
    let after = status(rig);
    assert_eq!((after.state, after.connects), (State::Connected, before), "{problem:?}");
    (problem.code, problem.status)
}

#[test]
fn the_sandbox_is_seen_as_docker_sees_it() {
    let Some(mut docker) = engine() else { return };
    docker.open_to_everyone();
    docker.import_busybox_with("sandbox:1", &["LABEL org.opencode-cloud.version=1.2.3"]);
    let sshd = RealSshd::start();
    let rig = daemon(&sshd, &docker);

    let absent = container(&rig).unwrap();
    assert!(!absent.exists && absent.state.is_none() && absent.id.is_none(), "{absent:?}");
    let version = docker.docker_ok(&["version", "--format", "{{.Server.Version}}"]);
    assert_eq!(absent.docker_version.as_deref(), Some(version.as_str()));

    let id = docker.run(
        SANDBOX_CONTAINER,
        &["sandbox:1", "sh", "-c", "trap 'exit 7' TERM; sleep 1000 & wait"],
    );
    let running = container(&rig).unwrap();
    assert!(running.exists);
    assert_eq!(running.state.as_deref(), Some("running"));
    assert_eq!(running.id.as_deref(), Some(id.as_str()));
    assert_eq!(running.image.as_deref(), Some("sandbox:1"));
    assert_eq!(running.image_version.as_deref(), Some("1.2.3"));
    assert_eq!((running.exit_code, running.ports.len()), (None, 0));
    let inspect =
        |format: &str| docker.docker_ok(&["inspect", "--format", format, SANDBOX_CONTAINER]);
    let started = running.started_at.expect("a running container has been started");
    assert_eq!(started, inspect("{{.State.StartedAt}}").parse().unwrap());
    assert!(running.as_of >= started);

    docker.docker_ok(&["stop", SANDBOX_CONTAINER]);
    let exited = container(&rig).unwrap();
    assert_eq!((exited.state.as_deref(), exited.exit_code), (Some("exited"), Some(7)));
    assert_eq!(exited.started_at, None);

    let report = rig.run_occ(&["host", "test", "h"]);
    assert_eq!(report.code(), 0, "{report:?}");
    let report: TestReport =
        serde_json::from_str(&rig.occ_ok(&["host", "test", "h", "--json"])).unwrap();
    assert!(report.ssh_ok && report.docker_ok, "{report:?}");
    assert_eq!(report.docker_version.as_deref(), Some(version.as_str()));

    // The engine goes away and comes back, as in an upgrade.
    docker.stop();
    assert_eq!(problem(&rig), (Code::DockerUnavailable, 503));
    let report: TestReport =
        serde_json::from_slice(&rig.http("POST", "/v1/hosts/h/test", &[], None).body).unwrap();
    assert!(report.ssh_ok && !report.docker_ok, "{report:?}");
    let step = report.steps.iter().find(|step| step.name == "docker").unwrap();
    assert!(!step.ok, "{step:?}");
    docker.restart();
    docker.open_to_everyone();
    assert!(container(&rig).unwrap().exists);
    assert_eq!(status(&rig).connects, 1);
}

#[test]
fn a_host_without_docker_says_so() {
    if !RealSshd::require() {
        return;
    }
    // With no socket in a usual place and none told.
    let sshd = RealSshd::start();
    let rig = daemon_for(&sshd);
    let system = settled(&rig).connection.unwrap().system.unwrap();
    if system.docker_sockets.is_empty() {
        // Docker that is installed and has no socket is down, and is not missing.
        let (status, words) = match system.docker_cli {
            true => (503, "Docker is installed, but its socket is not there"),
            false => (409, "there is no Docker on this host"),
        };
        assert_eq!(problem(&rig), (Code::DockerUnavailable, status));
        let detail = container(&rig).unwrap_err().detail;
        assert!(detail.contains(words), "{detail}");
        // A test says what to do as every command does.
        let hint = match system.docker_cli {
            true => "hint: on h: sudo systemctl start docker",
            false => "hint: occ host install-docker h installs it",
        };
        for args in [&["start", "--host", "h"][..], &["host", "test", "h"]] {
            let said = rig.run_occ(args).stderr;
            assert_eq!(said.matches("hint: ").count(), 1, "{args:?}: {said}");
            assert!(said.contains(hint), "{args:?}: {said}");
        }
    }
    // A place that is told wrongly.
    let rig = daemon_with(&sshd, "[hosts.h]\ndocker_socket = \"/no/such/docker.sock\"\n");
    assert_eq!(problem(&rig), (Code::DockerUnavailable, 503));
    let words = "docker_socket in occd.toml names /no/such/docker.sock";
    for args in [
        &["start", "--host", "h"][..],
        &["docker", "--host", "h", "--", "ps"],
        &["status", "--host", "h", "--fresh"],
        &["host", "test", "h"],
    ] {
        let done = rig.run_occ(args);
        let said = format!("{}{}", done.stdout, done.stderr);
        assert!(said.contains(words), "{args:?}: {said}");
        // It may be right, and the engine stopped.
        for hint in [
            "hint: on h: sudo systemctl start docker",
            "docker_socket = \"PATH\" under [hosts.h] in ",
        ] {
            assert!(args[0] == "docker" || said.contains(hint), "{args:?}: {said}");
        }
    }
    assert_eq!(rig.run_occ(&["status", "-q", "--host", "h"]).code(), 5);
    // A socket that nobody listens on any more, as a killed engine leaves it.
    let left = sshd.dir().join("left.sock");
    drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
    std::fs::set_permissions(&left, std::fs::Permissions::from_mode(0o666)).unwrap();
    let left = left.display().to_string();
    let rig = daemon_with(&sshd, &format!("[hosts.h]\ndocker_socket = {left:?}\n"));
    assert_eq!(problem(&rig), (Code::DockerUnavailable, 503));
}

#[test]
fn a_socket_that_may_not_be_opened_is_named() {
    let Some(docker) = engine() else { return };
    docker.close_to_others();
    let sshd = RealSshd::start();
    if sshd.user() == "root" {
        return;
    }
    let rig = daemon(&sshd, &docker);
    assert_eq!(problem(&rig), (Code::DockerPermission, 409));
    // The same when the host itself says where the socket is.
    let host = format!("SetEnv DOCKER_HOST={}", docker.host());
    let sshd = RealSshd::builder().config(host).start();
    let rig = daemon_for(&sshd);
    assert_eq!(problem(&rig), (Code::DockerPermission, 409));
    let detail = container(&rig).unwrap_err().detail;
    let socket = docker.socket().display().to_string();
    assert!(detail.contains(&format!("{socket} (for its owner root alone)")), "{detail}");
    docker.open_to_everyone();
    // What the probe found is asked anew with the next connection.
    rig.occ_ok(&["reconnect", "--host", "h"]);
    assert!(!container(&rig).unwrap().exists);
}

#[test]
fn a_login_that_is_in_docker_is_not_told_to_join_it() {
    let Some(docker) = engine() else { return };
    let joined = Command::new("getent").args(["group", "docker"]).output().unwrap();
    if !joined.status.success() {
        // No group of that name to be in.
        return;
    }
    let login = OwnLogin::new();
    login.join_group("docker");
    let sshd = RealSshd::builder().user(login.name()).start();
    let rig = daemon(&sshd, &docker);
    let hint = || {
        let done = rig.run_occ(&["start", "--host", "h"]);
        assert!(done.stderr.contains("the login is in docker)"), "{done:?}");
        let hint = done.stderr.split_once("hint: ").unwrap().1.to_owned();
        assert!(!hint.contains("usermod"), "{hint}");
        hint
    };
    docker.close_to_others();
    assert!(hint().contains("sudo chmod 660"));
    // Of a group that the login is not in.
    login.give(&docker.socket());
    assert!(hint().contains("/etc/docker/daemon.json"));
}

#[test]
fn where_sockets_are_forbidden_the_docker_program_carries() {
    let Some(docker) = engine() else { return };
    docker.open_to_everyone();
    docker.import_busybox("busybox:1");
    docker.run(SANDBOX_CONTAINER, &["busybox:1", "sleep", "1000"]);
    let sshd = RealSshd::builder()
        .config("AllowStreamLocalForwarding no")
        .config(format!("SetEnv DOCKER_HOST={}", docker.host()))
        .start();
    let rig = daemon_for(&sshd);
    for _ in 0..3 {
        assert_eq!(container(&rig).unwrap().state.as_deref(), Some("running"));
    }
    assert_eq!(status(&rig).connects, 1);
    crate::support::no_channels(&rig, crate::support::GUARD);
}

#[test]
fn what_keeps_docker_from_answering_is_named_where_sockets_are_forbidden() {
    let Some(mut docker) = engine() else { return };
    docker.open_to_everyone();
    let forbidden = "AllowStreamLocalForwarding no";
    let words = |rig: &DaemonRig| {
        let fresh = rig.run_occ(&["status", "--host", "h", "--fresh"]);
        let by_docker = rig.run_occ(&["docker", "--host", "h", "--", "ps"]);
        [fresh, by_docker].map(|said| said.stdout + &said.stderr)
    };
    // No docker program is in the path of the login, and the engine is well.
    let path = tempfile::tempdir().unwrap();
    std::fs::set_permissions(path.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["sh", "uname", "id", "stat", "grep", "readlink"] {
        let program = ["/bin", "/usr/bin"].map(|dir| Path::new(dir).join(name));
        let program = program.iter().find(|program| program.exists()).unwrap();
        std::os::unix::fs::symlink(program, path.path().join(name)).unwrap();
    }
    let sshd = RealSshd::builder()
        .config(forbidden)
        .config(format!("SetEnv DOCKER_HOST={} PATH={}", docker.host(), path.path().display()))
        .start();
    let rig = daemon_for(&sshd);
    for said in words(&rig) {
        assert!(said.contains("the SSH server forbids forwarding of sockets"), "{said}");
        assert!(said.contains("there is no docker program on the host"), "{said}");
    }
    // The program is there, and nobody listens on the socket.
    let sshd = RealSshd::builder()
        .config(forbidden)
        .config(format!("SetEnv DOCKER_HOST={}", docker.host()))
        .start();
    docker.stop();
    let socket = docker.socket();
    let _ = std::fs::remove_file(&socket);
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    docker.open_to_everyone();
    let rig = daemon_for(&sshd);
    for said in words(&rig) {
        // In docker's own words, which are not the same in all its versions.
        assert!(said.contains("connection refused") || said.contains("Cannot connect"), "{said}");
    }
}

#[test]
fn an_engine_that_was_down_at_the_login_is_found_by_itself_wherever_it_is() {
    let Some(mut docker) = engine() else { return };
    docker.import_busybox("busybox:1");
    docker.stop();
    let _ = std::fs::remove_file(docker.socket());
    let host = format!("SetEnv DOCKER_HOST={}", docker.host());
    let sshd = RealSshd::builder().config(host).start();
    let rig = daemon_for(&sshd);
    rig.occ_ok(&["connect", "--host", "h"]);
    // Where it usually is there may be this machine's own, which the login may not open or finds nobody at.
    let told = || look(&rig, "h").docker_error.is_some();
    crate::support::eventually("it to be missed", told);
    docker.restart();
    docker.open_to_everyone();
    let seen = || look(&rig, "h").sandbox.is_some_and(|sandbox| !sandbox.stale);
    crate::support::eventually("it to be found", seen);
    assert_eq!(status(&rig).connects, 1);
    // Whoever asks finds it at once, also where it has gone meanwhile.
    docker.stop();
    assert_eq!(problem(&rig).0, Code::DockerUnavailable);
    docker.restart();
    docker.open_to_everyone();
    assert!(!container(&rig).unwrap().exists);
    assert_eq!(status(&rig).connects, 1);
}

#[test]
fn of_this_machines_docker_that_is_down_nothing_is_known() {
    let Some(mut docker) = engine() else { return };
    let mut rig = DaemonRig::new();
    let socket = docker.socket();
    rig.write_config_toml(&format!("[local]\ndocker_socket = {socket:?}\n"));
    rig.start_daemon(&[]);
    assert_eq!(rig.run_occ(&["status", "-q", "--local"]).code(), 1);
    docker.stop();
    // As a killed engine leaves it.
    let _ = std::fs::remove_file(&socket);
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert_eq!(rig.run_occ(&["status", "-q", "--local"]).code(), 5);
    let said = rig.run_occ(&["status", "--local"]);
    assert!(said.stdout.contains("? unknown    the Docker daemon does not answer"), "{said:?}");
    assert!(said.stderr.contains("hint: on this machine: sudo systemctl start docker"), "{said:?}");
    std::fs::remove_file(&socket).unwrap();
    assert_eq!(rig.run_occ(&["status", "-q", "--local"]).code(), 5);
    let said = rig.run_occ(&["status", "--local"]);
    assert!(said.stdout.contains("docker_socket in occd.toml names"), "{said:?}");
}
