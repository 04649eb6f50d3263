//! What takes a program on the host does without one where the server runs none, or says so; and a login shell that talks
//! before a program does no harm.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use occ_proto::files::encode_path;
use occ_proto::{Code, Problem};
use serde_json::json;
use testkit::sshd::sftp_server;
use testkit::{DaemonRig, EmbeddedHost, RealSshd};

use crate::files::{Lines, Shared};
use crate::support::daemon_for;

/// Returns a server that runs this whatever it is asked for, and a daemon for it.
fn forced(command: &str) -> Option<(RealSshd, DaemonRig)> {
    if !RealSshd::require() {
        return None;
    }
    let sshd = RealSshd::builder()
        .config("Subsystem sftp internal-sftp")
        .config(format!("ForceCommand {command}"))
        .start();
    let rig = daemon_for(&sshd);
    Some((sshd, rig))
}

/// Does something on each server that has files and no programs: one says so and ends, the other speaks SFTP.
fn without_programs(test: impl Fn(&DaemonRig, &Shared)) {
    let program = sftp_server().map(|path| path.display().to_string());
    for command in std::iter::once("internal-sftp".to_owned()).chain(program) {
        let Some((_sshd, rig)) = forced(&command) else { return };
        test(&rig, &Shared::new());
    }
}

fn url(path: &Path, query: &str) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    format!("/v1/hosts/h/files/{}{query}", encode_path(path.as_os_str().as_bytes()))
}

/// Searches, which the host cannot.
fn not_searched(rig: &DaemonRig, shared: &Shared, why: &str) {
    let answer = rig.http("GET", &url(shared.path(), "?search=needle"), &[], None);
    let problem: Problem = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((problem.code, answer.status), (Code::FileError, 502), "{problem:?}");
    assert!(problem.detail.contains(why), "{problem:?}");
}

/// Watches, and is told who does it.
fn watched_by(rig: &DaemonRig, shared: &Shared, by: &str) {
    let mut lines = Lines::on(&rig.socket(), &url(shared.path(), "?watch=true"));
    assert_eq!(lines.next(), json!({"event": "ready", "by": by}));
    std::fs::write(shared.at("seen"), "1").unwrap();
    lines.until(&json!({"event": "created", "path": "seen"}));
}

#[test]
fn directories_are_copied_file_by_file_where_the_server_runs_no_programs() {
    without_programs(|rig, _| {
        let (_here, there) = crate::files_cli::round_trip(rig);
        assert_eq!(there.names(), ["new"]);
    });
}

#[test]
fn a_search_that_no_program_can_do_finds_not_nothing_but_says_so() {
    without_programs(|rig, shared| {
        std::fs::write(shared.at("f"), "needle\n").unwrap();
        not_searched(rig, shared, "runs no programs");
    });
}

#[test]
fn a_directory_is_looked_at_where_the_server_runs_no_programs() {
    without_programs(|rig, shared| watched_by(rig, shared, "polling"));
}

#[test]
fn a_digest_is_made_here_where_the_server_runs_no_programs() {
    without_programs(|rig, shared| {
        std::fs::write(shared.at("f"), "abc").unwrap();
        let answer =
            rig.http("POST", &url(&shared.at("f"), ""), &[], Some(json!({"action": "digest"})));
        // FIPS 180-4, its first example.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(answer.json()["sha256"], abc, "{}", answer.text());
    });
}

#[test]
fn what_a_login_shell_says_before_a_program_is_no_part_of_its_output() {
    let (Some(program), shared) = (sftp_server(), Shared::new()) else { return };
    let shell = shared.at("shell");
    let script = format!(
        "#!/bin/sh\n[ \"$SSH_ORIGINAL_COMMAND\" = internal-sftp ] && exec {}\n\
         echo Welcome; echo other; echo rg; head -c 5000 /dev/zero; exec sh -c \"$SSH_ORIGINAL_COMMAND\"\n",
        program.display()
    );
    std::fs::write(&shell, script).unwrap();
    std::fs::set_permissions(&shell, std::fs::Permissions::from_mode(0o755)).unwrap();
    let Some((_sshd, rig)) = forced(&shell.display().to_string()) else { return };
    crate::files_cli::round_trip(&rig);
    std::fs::create_dir(shared.at("d")).unwrap();
    std::fs::write(shared.at("d/f"), "needle\n").unwrap();
    let found =
        rig.occ_ok(&["files", "search", "needle", &format!("h:{}/d", shared.path().display())]);
    assert_eq!(found.lines().count(), 1, "{found}");
    assert!(found.starts_with("f:1:"), "{found}");
    watched_by(&rig, &shared, "inotify");
}

#[test]
fn a_server_that_refuses_commands_is_not_asked_again_and_again() {
    if sftp_server().is_none() {
        return;
    }
    let (host, shared) = (EmbeddedHost::start(), Shared::new());
    host.serve_files_alone(true);
    let rig = daemon_for(&host);
    watched_by(&rig, &shared, "polling");
    not_searched(&rig, &shared, "refused");
}
