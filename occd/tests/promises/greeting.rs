//! Hosts whose start-up files print something before every command: what is ours is told from it.

use std::os::unix::fs::PermissionsExt as _;

use testkit::sshd::{RealSshdBuilder, sftp_server};
use testkit::wait::blocking::wait_for;
use testkit::{DaemonRig, RealSshd};

use crate::docker::engine;
use crate::files::Shared;
use crate::support::{GUARD, daemon_for, no_channels};

/// A server whose login shell prints a greeting, and a daemon for it.
struct Greeting {
    rig: DaemonRig,
    _sshd: RealSshd,
    _shell: Shared,
}

impl Greeting {
    /// Starts a server that runs a line of sh before whatever it is asked, its SFTP included.
    fn start(line: &str, with: impl FnOnce(RealSshdBuilder) -> RealSshdBuilder) -> Option<Self> {
        Self::around(line, "exec sh -c \"$SSH_ORIGINAL_COMMAND\"", with)
    }

    /// The same with the line that runs what is asked.
    fn around(
        line: &str,
        run: &str,
        with: impl FnOnce(RealSshdBuilder) -> RealSshdBuilder,
    ) -> Option<Self> {
        let program = sftp_server().filter(|_| RealSshd::require())?;
        let shell = Shared::new();
        let path = shell.at("shell");
        // sshd gives the name of a subsystem that it runs itself, which no shell knows.
        let script = format!(
            "#!/bin/sh\n{line}\n[ \"$SSH_ORIGINAL_COMMAND\" = {0} ] && exec {0}\n\
             {run}\n",
            program.display()
        );
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let builder = RealSshd::builder()
            .config(format!("Subsystem sftp {}", program.display()))
            .config(format!("ForceCommand {}", path.display()));
        let sshd = with(builder).start();
        let rig = daemon_for(&sshd);
        Some(Self { rig, _sshd: sshd, _shell: shell })
    }
}

/// Greetings: a line, one that does not end, and a long one.
const GREETINGS: [&str; 3] =
    ["echo Welcome; echo other", "printf Welcome", "head -c 200000 /dev/zero | tr '\\0' x"];

#[test]
fn sessions_run_where_every_command_begins_with_a_greeting() {
    for line in GREETINGS {
        let Some(Greeting { rig, .. }) = &Greeting::start(line, |sshd| sshd) else { return };
        let run = "read x; echo \"got $x\"; exit 3";
        rig.occ_ok(&["session", "start", "--host", "h", "--name", "work", "--", "sh", "-c", run]);
        // What this daemon knows of it is not asked for: the host tells.
        let listed = rig.occ_ok(&["session", "list", "--host", "h"]);
        assert!(listed.contains("work") && listed.contains("running"), "{listed}");
        let sent = rig.run_occ(&["session", "send", "work", "--eol", "lf", "it"]);
        assert_eq!(
            sent.code(),
            0,
            "{sent:?}: {:?}",
            rig.run_occ(&["session", "attach", "-n", "work"])
        );
        let attached = rig.run_occ(&["session", "attach", "-n", "work"]);
        assert_eq!((attached.code(), &attached.stdout[..]), (3, "got it\n"), "{attached:?}");
        rig.occ_ok(&["session", "rm", "work"]);
        let durable = ["exec", "--durable", "--host", "h", "--", "sh", "-c", "echo once; exit 4"];
        let durable = rig.run_occ(&durable);
        assert_eq!((durable.code(), &durable.stdout[..]), (4, "once\n"), "{durable:?}");
        no_channels(rig, GUARD);
    }
}

#[test]
fn sessions_run_where_something_is_said_after_every_command() {
    let run = "sh -c \"$SSH_ORIGINAL_COMMAND\"; r=$?; echo Goodbye; exit $r";
    let Some(Greeting { rig, .. }) = &Greeting::around(GREETINGS[0], run, |sshd| sshd) else {
        return;
    };
    rig.occ_ok(&["session", "start", "--host", "h", "--name", "work", "--", "cat"]);
    assert!(rig.occ_ok(&["session", "list", "--host", "h"]).contains("running"));
    rig.occ_ok(&["session", "send", "work", "--eof", "it"]);
    assert_eq!(rig.run_occ(&["session", "attach", "-n", "work"]).stdout, "it\n");
    rig.occ_ok(&["session", "rm", "work"]);
    let durable = ["exec", "--durable", "--host", "h", "--", "sh", "-c", "echo once; exit 4"];
    let durable = rig.run_occ(&durable);
    assert_eq!((durable.code(), &durable.stdout[..]), (4, "once\n"), "{durable:?}");
}

#[test]
fn a_host_is_known_whatever_its_greeting_is() {
    for line in GREETINGS {
        let Some(Greeting { rig, .. }) = &Greeting::start(line, |sshd| sshd) else { return };
        rig.occ_ok(&["exec", "--host", "h", "--", "true"]);
        // It is asked beside the command.
        let os = wait_for("what the host says of itself", GUARD, || {
            let status = rig.http("GET", "/v1/hosts/h", &[], None).json();
            status["connection"]["system"].as_object().map(|system| system["os"].clone())
        });
        assert_eq!(os, "Linux", "{line}");
    }
}

#[test]
fn files_go_through_the_shell_where_something_is_said_before_and_after() {
    // With the command's exit status, and with one of its own.
    for end in ["exit $r", "exit 0"] {
        let run = format!("sh -c \"$SSH_ORIGINAL_COMMAND\"; r=$?; echo Goodbye; {end}");
        let Some(Greeting { rig, .. }) = &Greeting::around(GREETINGS[0], &run, |sshd| sshd) else {
            return;
        };
        let shared = Shared::new();
        let (file, copy) = (shared.at("f"), shared.at("copy"));
        let bytes: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
        std::fs::write(&file, &bytes).unwrap();
        let far = |path: &std::path::Path| format!("h:{}", path.display());
        rig.occ_ok(&["cp", file.to_str().unwrap(), &far(&copy)]);
        assert!(std::fs::read(&copy).unwrap() == bytes);
        assert_eq!(rig.occ_ok(&["ls", &far(shared.path())]), "copy\nf\n");
        let read = rig.run_occ(&["cat", &far(&file)]);
        assert!(read.stdout == String::from_utf8_lossy(&bytes), "{}", read.stderr);
        let missing = rig.run_occ(&["cat", &far(&shared.at("missing"))]);
        assert!(missing.stderr.contains("is not there"), "{missing:?}");
        std::fs::write(&file, "one\ntwo\n").unwrap();
        let path = format!("/v1/hosts/h/files/{}?search=two", shared.path().display());
        let found = rig.http("GET", &path, &[], None).text();
        assert!(found.contains("\"line\":2") && !found.contains("Goodbye"), "{found}");
        rig.occ_ok(&["rm", &far(&file), &far(&copy)]);
        assert!(shared.names().is_empty());
        crate::files_cli::round_trip(rig);
        no_channels(rig, GUARD);
    }
}

#[test]
fn files_go_through_the_shell_where_a_greeting_damages_sftp() {
    for line in GREETINGS {
        let Some(Greeting { rig, .. }) = &Greeting::start(line, |sshd| sshd) else { return };
        crate::files_cli::round_trip(rig);
        let shared = Shared::new();
        let (file, copy) = (shared.at("f"), shared.at("copy"));
        let bytes: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
        std::fs::write(&file, &bytes).unwrap();
        let far = |path: &std::path::Path| format!("h:{}", path.display());
        rig.occ_ok(&["cp", file.to_str().unwrap(), &far(&copy)]);
        assert_eq!(std::fs::read(&copy).unwrap(), bytes);
        assert!(rig.occ_ok(&["ls", &far(shared.path())]).contains("copy"));
        let read = rig.run_occ(&["cat", &far(&file)]);
        assert!(read.stdout == String::from_utf8_lossy(&bytes), "{}", read.stderr);
    }
}

#[test]
fn docker_answers_by_its_program_behind_a_greeting() {
    let Some(docker) = engine() else { return };
    docker.open_to_everyone();
    let host = format!("SetEnv DOCKER_HOST={}", docker.host());
    let with =
        |sshd: RealSshdBuilder| sshd.config("AllowStreamLocalForwarding no").config(host.clone());
    let Some(Greeting { rig, .. }) = &Greeting::start(GREETINGS[0], with) else { return };
    assert!(rig.occ_ok(&["docker", "--host", "h", "--", "ps"]).starts_with("CONTAINER"));
    // A greeting is no path that is missing.
    let started = rig.run_occ(&["start", "--host", "h", "--mount", "/tmp:/x"]);
    assert!(!started.stderr.contains("to mount"), "{started:?}");
}
