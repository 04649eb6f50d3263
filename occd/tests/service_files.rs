//! The files in systemd/ and launchd/ are valid and say what occd does: it tells its starter when
//! clients are accepted and when it stops.

#![allow(clippy::unwrap_used, reason = "a failing fixture is a failing test")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use testkit::daemon::daemon_binary;
use testkit::proc::{Process, Signal};
use testkit::require::find_program;
use testkit::wait::blocking;
use testkit::{DaemonRig, http};

/// Guards against hanging.
const GUARD: Duration = Duration::from_secs(30);

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Returns whether a test that needs `program` may go on; it must where CI=true.
#[expect(clippy::print_stderr, reason = "a skipped test must be seen in its output")]
fn require(program: &str) -> bool {
    let Err(reason) = find_program(program) else { return true };
    assert!(std::env::var_os("CI").is_none_or(|value| value != "true"), "{reason}");
    eprintln!("SKIPPED: {reason}");
    false
}

/// Puts occd where both files expect it.
fn install(rig: &DaemonRig) {
    let bin = rig.home().join(".local/bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::os::unix::fs::symlink(daemon_binary(), bin.join("occd")).unwrap();
}

/// Returns a command with the environment of the rig's programs.
fn command(rig: &DaemonRig, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let occ = rig.occ(&[]);
    let mut command = Command::new(program);
    let variables = occ.get_envs().filter_map(|(name, value)| Some((name, value?)));
    command.env_clear().envs(variables).current_dir(rig.home()).stdin(Stdio::null());
    command
}

/// Returns whether the daemon answers at this moment.
fn answers(rig: &DaemonRig) -> bool {
    let answer = http::request_within(&rig.socket(), "GET", "/healthz", &[], None, GUARD);
    answer.is_ok_and(|answer| answer.status == 200)
}

fn terminate(child: &mut Child) -> ExitStatus {
    Process::find(child.id()).unwrap().signal(Signal::TERM);
    blocking::wait_for("occd to end", GUARD, || child.try_wait().unwrap())
}

#[test]
fn systemd_finds_no_fault_in_the_unit() {
    if !require("systemd-analyze") {
        return;
    }
    let rig = DaemonRig::new();
    install(&rig);
    let output = command(&rig, "systemd-analyze")
        .args(["--user", "verify"])
        .arg(file("systemd/occd.service"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{}: {said}", output.status);
}

#[test]
fn the_unit_knows_the_exit_status_of_a_bad_configuration() {
    let unit = std::fs::read_to_string(file("systemd/occd.service")).unwrap();
    let status = unit.lines().find_map(|line| line.strip_prefix("RestartPreventExitStatus="));
    let rig = DaemonRig::new();
    rig.write_config_toml("no such key = 1\n");
    let mut child = rig.spawn_daemon(&[]);
    let ended = blocking::wait_for("occd to end", GUARD, || child.try_wait().unwrap());
    assert_eq!(ended.code(), status.map(|status| status.parse().unwrap()), "{}", rig.log());
}

#[test]
fn the_launch_agent_parses_and_its_command_runs_occd() {
    if !require("python3") {
        return;
    }
    let script = "import json, plistlib, sys; \
                  print(json.dumps(plistlib.load(open(sys.argv[1], 'rb'))))";
    let output = Command::new("python3")
        .args(["-c", script])
        .arg(file("launchd/com.occd.agent.plist"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let agent: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(agent["Label"], "com.occd.agent");
    assert_eq!(agent["RunAtLoad"], true);
    assert_eq!(agent["KeepAlive"]["SuccessfulExit"], false);
    assert_eq!(agent["Umask"], 0o077);

    let words: Vec<String> = serde_json::from_value(agent["ProgramArguments"].clone()).unwrap();
    let rig = DaemonRig::new();
    install(&rig);
    let log = rig.home().join("Library/Logs/occd.log");
    std::fs::create_dir_all(log.parent().unwrap()).unwrap();
    let mut child = command(&rig, &words[0]).args(&words[1..]).spawn().unwrap();
    blocking::wait_until("an answer", GUARD, || answers(&rig), |answers| *answers);
    // The process that launchd watches is occd itself.
    assert_eq!(rig.daemon_pid(), child.id());
    assert!(terminate(&mut child).success());
    assert!(std::fs::read_to_string(log).unwrap().contains("ready"));
}

#[test]
fn the_starter_is_told_when_clients_are_accepted_and_when_it_stops() {
    let mut rig = DaemonRig::new();
    let path = rig.root().join("notify.sock");
    let notified = UnixDatagram::bind(&path).unwrap();
    notified.set_read_timeout(Some(GUARD)).unwrap();
    let next = || {
        let mut message = [0; 512];
        let count = notified.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..count]).trim_end().to_owned()
    };
    rig.set_env("NOTIFY_SOCKET", &path);
    let mut child = rig.spawn_daemon(&[]);
    assert_eq!(next(), "READY=1", "{}", rig.log());
    assert!(answers(&rig), "{}", rig.log());

    Process::find(child.id()).unwrap().signal(Signal::TERM);
    assert_eq!(next(), "STOPPING=1", "{}", rig.log());
    let ended = blocking::wait_for("occd to end", GUARD, || child.try_wait().unwrap());
    assert!(ended.success(), "{ended}: {}", rig.log());
    assert!(!rig.socket().exists());
}

#[test]
fn a_daemonized_occd_says_ready_and_leaves_its_starter() {
    let rig = DaemonRig::new();
    let mut child = command(&rig, daemon_binary())
        .arg("--daemonize")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, format!("ready {}\n", rig.socket().display()));
    assert!(answers(&rig));
    // Both streams end while it runs, so that whoever started it is not held.
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    let pid = rustix::process::Pid::from_child(&child);
    assert_eq!(rustix::process::getsid(Some(pid)), Ok(pid), "it leads a session of its own");
    assert!(terminate(&mut child).success());
    let log = std::fs::read_to_string(rig.paths().log_file().unwrap()).unwrap();
    assert!(log.contains("ready"), "{log}");
}
