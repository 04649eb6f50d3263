//! The files in systemd/ and launchd/ are valid and say what occd does: it tells its starter when
//! clients are accepted, that it lives and when it stops, and takes the socket that it is given.

#![allow(clippy::unwrap_used, reason = "a failing fixture is a failing test")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
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
fn systemd_finds_no_fault_in_the_units() {
    if !require("systemd-analyze") {
        return;
    }
    let rig = DaemonRig::new();
    install(&rig);
    let output = command(&rig, "systemd-analyze")
        .args(["--user", "verify"])
        .args([file("systemd/occd.service"), file("systemd/occd.socket")])
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
    // launchd puts nothing aside.
    std::fs::write(&log, vec![b'\n'; 8 * 1024 * 1024]).unwrap();
    let mut child = command(&rig, &words[0]).args(&words[1..]).spawn().unwrap();
    blocking::wait_until("an answer", GUARD, || answers(&rig), |answers| *answers);
    // The process that launchd watches is occd itself.
    assert_eq!(rig.daemon_pid(), child.id());
    assert!(terminate(&mut child).success());
    assert!(std::fs::read_to_string(&log).unwrap().contains("ready"));
    assert!(std::fs::metadata(&log).unwrap().len() < 64 * 1024);
    assert!(log.with_extension("log.1").exists());

    // Why it does not start is where its log is.
    rig.write_config_toml("no such key = 1\n");
    let mut child = command(&rig, &words[0]).args(&words[1..]).spawn().unwrap();
    blocking::wait_for("occd to end", GUARD, || child.try_wait().unwrap());
    assert!(std::fs::read_to_string(log).unwrap().contains("occd.toml"));
}

/// Returns a socket in place of systemd's, and what comes there, one message after the other.
fn notify_socket(rig: &mut DaemonRig) -> UnixDatagram {
    let path = rig.root().join("notify.sock");
    let notified = UnixDatagram::bind(&path).unwrap();
    notified.set_read_timeout(Some(GUARD)).unwrap();
    rig.set_env("NOTIFY_SOCKET", &path);
    notified
}

/// Returns the lines of the next message.
fn next(notified: &UnixDatagram) -> Vec<String> {
    let mut message = [0; 512];
    let count = notified.recv(&mut message).unwrap();
    String::from_utf8_lossy(&message[..count]).lines().map(str::to_owned).collect()
}

#[test]
fn the_starter_is_told_when_clients_are_accepted_and_when_it_stops() {
    let mut rig = DaemonRig::new();
    let notified = notify_socket(&mut rig);
    let mut child = rig.spawn_daemon(&[]);
    let ready = next(&notified);
    assert_eq!(ready, ["READY=1", "STATUS=Clients are accepted."], "{}", rig.log());
    assert!(answers(&rig), "{}", rig.log());

    // What it reads anew it reads before it is ready again.
    rig.write_config_toml("[connection]\nmax_connections = 3\n");
    let process = Process::find(child.id()).unwrap();
    process.signal(Signal::HUP);
    let reloading = next(&notified);
    assert_eq!(reloading[0], "RELOADING=1", "{reloading:?}");
    assert!(reloading[1].starts_with("MONOTONIC_USEC="), "{reloading:?}");
    assert_eq!(next(&notified), ["READY=1"]);
    assert!(rig.log().contains("occd.toml was read anew"), "{}", rig.log());

    process.signal(Signal::TERM);
    assert_eq!(next(&notified)[0], "STOPPING=1", "{}", rig.log());
    let ended = blocking::wait_for("occd to end", GUARD, || child.try_wait().unwrap());
    assert!(ended.success(), "{ended}: {}", rig.log());
    assert!(!rig.socket().exists());
}

/// sd_notify(3): a name with `@` before it is one in the abstract namespace.
#[cfg(target_os = "linux")]
#[test]
fn the_starter_may_listen_where_no_file_is() {
    use std::os::linux::net::SocketAddrExt as _;
    let mut rig = DaemonRig::new();
    let name = format!("occ-test-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let notified = UnixDatagram::bind_addr(&address).unwrap();
    notified.set_read_timeout(Some(GUARD)).unwrap();
    rig.set_env("NOTIFY_SOCKET", format!("@{name}"));
    let mut child = rig.spawn_daemon(&[]);
    assert_eq!(next(&notified), ["READY=1", "STATUS=Clients are accepted."], "{}", rig.log());
    Process::find(child.id()).unwrap().signal(Signal::TERM);
    assert_eq!(next(&notified)[0], "STOPPING=1", "{}", rig.log());
    assert!(blocking::wait_for("its end", GUARD, || child.try_wait().unwrap()).success());
}

#[test]
fn the_starter_hears_that_the_daemon_lives_for_as_long_as_it_does() {
    let mut rig = DaemonRig::new();
    let notified = notify_socket(&mut rig);
    rig.set_env("WATCHDOG_USEC", "400000");
    let mut child = rig.spawn_daemon(&[]);
    assert_eq!(next(&notified)[0], "READY=1");
    for _ in 0..3 {
        let alive = ["WATCHDOG=1", "STATUS=0 of 0 hosts are connected."];
        assert_eq!(next(&notified), alive, "{}", rig.log());
    }
    let process = Process::find(child.id()).unwrap();
    process.signal(Signal::STOP);
    blocking::wait_until("it to be stopped", GUARD, || process.is_stopped(), |stopped| *stopped);
    // What was sent before, and then nothing: for ten times as long as it should take.
    notified.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut message = [0; 512];
    while notified.recv(&mut message).is_ok() {}
    process.signal(Signal::CONT);
    notified.set_read_timeout(Some(GUARD)).unwrap();
    assert_eq!(next(&notified)[0], "WATCHDOG=1");
    assert!(terminate(&mut child).success());
}

/// Returns a listener at the rig's socket, bound as systemd does it.
fn listener(rig: &DaemonRig) -> UnixListener {
    use std::os::unix::fs::DirBuilderExt as _;
    let dir = rig.socket().parent().unwrap().to_owned();
    std::fs::DirBuilder::new().mode(0o700).recursive(true).create(dir).unwrap();
    UnixListener::bind(rig.socket()).unwrap()
}

/// Starts occd with sockets as systemd passes them (sd_listen_fds(3)): `variables` in its environment, and what
/// `redirect` makes of `socket`, which is standard input there.
fn start_with(rig: &DaemonRig, socket: OwnedFd, variables: &str, redirect: &str) -> Child {
    let log = rig.root().join("occd.log");
    let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
    let line = format!("exec {redirect} </dev/null; exec env {variables} \"$0\"");
    command(rig, "sh")
        .args(["-c", &line])
        .arg(daemon_binary())
        .stdin(socket)
        .stderr(log)
        .spawn()
        .unwrap()
}

#[test]
fn the_socket_that_systemd_passes_is_served_and_stays() {
    let rig = DaemonRig::new();
    let listener = listener(&rig);
    let inode = std::fs::metadata(rig.socket()).unwrap().ino();
    let passed = || OwnedFd::from(listener.try_clone().unwrap());
    // Somebody who came before the daemon, as the first client always does.
    let mut first = UnixStream::connect(rig.socket()).unwrap();
    first.set_read_timeout(Some(GUARD)).unwrap();
    first
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    for (variables, redirect) in [
        ("LISTEN_PID=$$ LISTEN_FDS=1", "3<&0"),
        ("LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=occd", "3<&0"),
        ("LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=other:occd", "3</dev/null 4<&0"),
    ] {
        let mut daemon = start_with(&rig, passed(), variables, redirect);
        let mut answer = String::new();
        first.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{variables}: {answer}{}", rig.log());
        // Whoever comes now sees whom it talks to: occd, and not who bound the socket.
        assert_eq!(rig.daemon_pid(), daemon.id());
        let mut stop = rig.occ(&["daemon", "stop"]).stdout(Stdio::null()).spawn().unwrap();
        let ended = blocking::wait_for("occd to end", GUARD, || daemon.try_wait().unwrap());
        assert!(ended.success() && stop.wait().unwrap().success(), "{}", rig.log());
        assert_eq!(std::fs::metadata(rig.socket()).unwrap().ino(), inode, "it is not occd's");
        // Nobody is refused meanwhile.
        first = UnixStream::connect(rig.socket()).unwrap();
        first.set_read_timeout(Some(GUARD)).unwrap();
        first
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .unwrap();
    }
}

#[test]
fn sockets_for_somebody_else_or_of_another_kind_are_not_served() {
    let rig = DaemonRig::new();
    let listener = listener(&rig);
    let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    for (variables, redirect, says) in [
        ("LISTEN_PID=$$ LISTEN_FDS=1", "3<&0", "fd 3 is not a socket"),
        ("LISTEN_PID=$$ LISTEN_FDS=2", "3<&0 4<&0", "there are 2, none named occd"),
    ] {
        let before = rig.log().len();
        let mut daemon = start_with(&rig, null(), variables, redirect);
        let ended = blocking::wait_for("occd to end", GUARD, || daemon.try_wait().unwrap());
        assert_eq!(ended.code(), Some(1), "{}", rig.log());
        let words = rig.log()[before..].trim_end().to_owned();
        let expected = format!("the socket that systemd passed cannot be used: {says}");
        assert_eq!(words, expected);
    }
    // What a program that was started by systemd has in its environment is meant for that program.
    let mut daemon = start_with(&rig, listener.into(), "LISTEN_PID=1 LISTEN_FDS=1", "3<&0");
    blocking::wait_until("it to be ready", GUARD, || rig.log(), |log| log.contains("INFO ready"));
    assert!(answers(&rig));
    assert!(terminate(&mut daemon).success());
    assert!(!rig.socket().exists(), "it was occd's own");
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
