//! The end of the daemon: nothing is left that would have to be cut off, and it takes no longer than is said.

use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::time::Duration;

use testkit::daemon::Target;
use testkit::keys::KeyFile;
use testkit::proc::Signal;
use testkit::wait::blocking::{wait_for, wait_until};
use testkit::{DaemonRig, EmbeddedHost, RealSshd, Terminal};
use tokio::time::Instant;

use crate::ask::{GUARD, exec, look};
use crate::support::{exit_code, spawn_occ, sshd};

/// What the daemon says when it gives up waiting for its own tasks.
const CUT_OFF: &str = "not everything ended in time";

#[test]
fn a_daemon_that_is_stopped_while_its_hosts_connect_leaves_nothing_undone() {
    // A server that announces no host keys: a daemon that waits for them would be held up.
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    for name in ["used", "first", "second", "third"] {
        rig.add_host(name, &host);
    }
    for _ in 0..6 {
        rig.start_daemon(&[]);
        // The others are dialled beside it and may be connected at any moment of the stop.
        for name in ["first", "second", "third"] {
            rig.occ_ok(&["status", "--host", name]);
        }
        assert_eq!(exec(&rig, "used", &["true"]).status, 200);
        let begun = Instant::now();
        rig.terminate_daemon();
        assert!(!rig.log().contains(CUT_OFF), "{}", rig.log());
        // Nobody waits for programs that are not there, which would be 5 s.
        assert!(begun.elapsed() < Duration::from_secs(4), "{}", rig.log());
        wait_for("the connections to be gone", GUARD, || {
            (host.active_connections() == 0).then_some(())
        });
    }
}

#[test]
fn whoever_comes_while_a_daemon_stops_gets_the_next_one() {
    let Some((_sshd, rig)) = sshd() else { return };
    let first = rig.daemon();
    let mut deaf = spawn_occ(&rig, &["sh", "-c", DEAF]);
    until_deaf(&mut deaf);
    first.signal(Signal::TERM);
    wait_until("it to stop", GUARD, || rig.log(), |log| log.contains("INFO stopping"));
    let status = rig.run_occ(&["daemon", "status"]);
    assert_eq!(status.code(), 3, "it accepts nobody any more: {status:?}");
    rig.occ_ok(&["host", "list"]);
    // It lets go of its socket a moment before its process ends.
    wait_until("it to end", GUARD, || first.is_alive(), |is_alive| !is_alive);
    assert_ne!(exit_code(&mut deaf), 0);
}

#[test]
fn a_daemon_that_is_stopped_is_not_started_again_by_whoever_is_at_a_question() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let rig = DaemonRig::new();
    rig.add_host("h", Target::from(&sshd));
    std::fs::remove_file(rig.home().join(".ssh/known_hosts")).unwrap();
    rig.write_config_toml("[connection]\nstrict_host_key_checking = \"ask\"\n");
    let locked = KeyFile::generate_with(rig.root().join("key"), "ed25519", "secret").path;
    let key = locked.to_str().unwrap();
    let address = format!("127.0.0.1:{}", Target::from(&sshd).port);
    let commands: [(&[&str], &str, &str); 4] = [
        (
            &["exec", "--host", "h", "--", "true"],
            "Trust it (yes/no)",
            "The command was not started",
        ),
        (&["unlock", key], "Passphrase for", "occd stopped before anybody answered"),
        (&["host", "add", "new", &address], "Trust it (yes/no)", ""),
        (&["host", "test", "h"], "Trust it (yes/no)", "hint: occ daemon start"),
    ];
    for (args, question, told) in commands {
        rig.occ_ok(&["daemon", "start"]);
        let mut terminal = Terminal::control(&rig.occ(args), "");
        terminal.wait_for(question);
        rig.occ_ok(&["daemon", "stop"]);
        let (screen, code) = terminal.finish();
        assert_eq!(code, 3, "{screen}");
        assert!(screen.contains(told) && !screen.contains("started (socket"), "{screen}");
        assert!(!screen.contains("nobody to ask"), "{screen}");
        assert_eq!(rig.run_occ(&["daemon", "status"]).code(), 3);
    }
}

#[test]
fn a_daemon_that_somebody_has_stopped_ends_when_it_goes_on_as_is_said() {
    let mut rig = DaemonRig::new();
    rig.start_daemon(&[]);
    let daemon = rig.daemon();
    daemon.signal(Signal::STOP);
    let output = rig.run_occ(&["daemon", "stop"]);
    assert_ne!(output.code(), 0, "{output:?}");
    let pid = daemon.pid;
    let hint = format!("hint: kill -CONT {pid} if it was stopped; else kill -9 {pid}\n");
    assert!(output.stderr.ends_with(&hint), "{output:?}");
    daemon.signal(Signal::CONT);
    wait_until("it to end", GUARD, || daemon.is_alive(), |is_alive| !is_alive);
}

#[test]
fn what_ends_by_itself_in_a_moment_is_let_end() {
    let Some((_sshd, mut rig)) = sshd() else { return };
    let daemon = rig.daemon();
    // It goes on when the daemon has begun to stop, and would not live through TERM.
    let mut running = spawn_occ(&rig, &["sh", "-c", "echo ready; read line; echo $line; exit 7"]);
    let mut output = std::io::BufReader::new(running.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut output, &mut line).unwrap();
    assert_eq!(line, "ready\n");
    daemon.signal(Signal::TERM);
    wait_until("it to stop", GUARD, || rig.log(), |log| log.contains("INFO stopping"));
    std::io::Write::write_all(&mut running.stdin.take().unwrap(), b"done\n").unwrap();
    line.clear();
    std::io::BufRead::read_line(&mut output, &mut line).unwrap();
    assert_eq!((line.as_str(), exit_code(&mut running)), ("done\n", 7));
    assert!(rig.terminate_daemon().success(), "{}", rig.log());
}

/// A program that hears no signal but KILL, and says so.
const DEAF: &str = "trap '' TERM HUP INT; echo deaf; while :; do sleep 1; done";

fn until_deaf(child: &mut std::process::Child) {
    let mut line = String::new();
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut output, &mut line).unwrap();
    assert_eq!(line, "deaf\n");
}

/// Returns the sockets below a directory.
fn sockets(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let of = |entry: std::fs::DirEntry| match entry.file_type().unwrap() {
        kind if kind.is_dir() => sockets(&entry.path()),
        kind if kind.is_socket() => vec![entry.path()],
        _ => Vec::new(),
    };
    entries.flat_map(of).collect()
}

#[test]
fn work_that_does_not_end_holds_the_daemon_for_ten_seconds_at_most() {
    let Some((_sshd, mut rig)) = sshd() else { return };
    let run = rig.socket().parent().unwrap().to_owned();
    assert_eq!(rig.http("PUT", "/v1/hosts/h/docker-socket", &[], None).status, 200);
    rig.occ_ok(&["grant", "--name", "g", "--host", "h", "--allow", "read", "--ttl", "1h"]);
    assert!(sockets(&run).len() >= 3, "{:?}", sockets(&run));
    let mut deaf = spawn_occ(&rig, &["sh", "-c", DEAF]);
    until_deaf(&mut deaf);
    wait_until("its channel", GUARD, || look(&rig, "h").open_channels, |count| *count > 0);
    let begun = Instant::now();
    assert!(rig.terminate_daemon().success(), "{}", rig.log());
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}: {}", rig.log());
    assert_eq!(sockets(&run), Vec::<std::path::PathBuf>::new());
    assert_ne!(exit_code(&mut deaf), 0);
}
