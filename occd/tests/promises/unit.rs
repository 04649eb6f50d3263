//! Under a real `systemd --user`: the unit of systemd/ starts, restarts and stops the daemon, and `occ`
//! starts it through that unit.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use testkit::daemon::daemon_binary;
use testkit::proc::{Process, Signal};
use testkit::systemd::units_of;
use testkit::wait::blocking::{wait_for, wait_until};
use testkit::{DaemonRig, EmbeddedHost, SystemdRig};

use crate::support::GUARD;

const UNIT: &str = "occd.service";
const SOCKET: &str = "occd.socket";

/// Returns a home with the unit alone, and its systemd.
fn installed() -> Option<(DaemonRig, SystemdRig)> {
    with_units(&[UNIT])
}

/// Returns a home with units of systemd/, and its systemd.
fn with_units(names: &[&str]) -> Option<(DaemonRig, SystemdRig)> {
    if !SystemdRig::require() {
        return None;
    }
    let rig = DaemonRig::new();
    let bin = rig.home().join(".local/bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::os::unix::fs::symlink(daemon_binary(), bin.join("occd")).unwrap();
    let units = units_of(&rig);
    std::fs::create_dir_all(&units).unwrap();
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd");
    for name in names {
        std::fs::copy(files.join(name), units.join(name)).unwrap();
    }
    let systemd = SystemdRig::start(&rig);
    Some((rig, systemd))
}

fn main_pid(systemd: &SystemdRig) -> u32 {
    systemd.show(UNIT, "MainPID").parse().unwrap()
}

#[test]
fn the_unit_runs_the_daemon() {
    let Some((rig, systemd)) = installed() else { return };
    let started = systemd.systemctl(&["start", UNIT]);
    assert!(started.status.success(), "{started:?}");
    // Type=notify: clients are accepted from this moment on.
    let pid = main_pid(&systemd);
    assert_eq!(rig.daemon_pid(), pid);
    assert!(rig.occ_ok(&["daemon", "status"]).contains(&format!("process {pid}")));

    // A crash is nobody's errand.
    Process::find(pid).unwrap().signal(Signal::KILL);
    let next = wait_until("another daemon", GUARD, || main_pid(&systemd), |p| *p != 0 && *p != pid);
    wait_until("it to be ready", GUARD, || systemd.show(UNIT, "ActiveState"), |s| s == "active");
    assert_eq!(rig.daemon_pid(), next);

    // Told to stop by either side it stops, and stays so.
    rig.occ_ok(&["daemon", "stop"]);
    wait_until("the end", GUARD, || systemd.show(UNIT, "ActiveState"), |s| s == "inactive");
    assert_eq!(systemd.show(UNIT, "Result"), "success");
    assert!(systemd.systemctl(&["start", UNIT]).status.success());
    assert!(systemd.systemctl(&["stop", UNIT]).status.success());
    assert_eq!(systemd.show(UNIT, "Result"), "success");
    assert_eq!(rig.run_occ(&["daemon", "status"]).code(), 3);
}

#[test]
fn occ_starts_the_daemon_through_the_unit() {
    let Some((rig, systemd)) = installed() else { return };
    let children: Vec<_> = (0..50)
        .map(|_| {
            let mut occ = rig.occ(&["host", "list"]);
            occ.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        })
        .collect();
    for mut child in children {
        let status = wait_for("occ", GUARD, || child.try_wait().unwrap());
        assert!(status.success(), "{status}");
    }
    assert_eq!(systemd.show(UNIT, "ActiveState"), "active");
    assert_eq!(systemd.show(UNIT, "NRestarts"), "0");
    assert_eq!(rig.daemon_pid(), main_pid(&systemd));
}

#[test]
fn a_unit_that_fails_is_told_and_keeps_nobody_from_working() {
    let Some((rig, systemd)) = installed() else { return };
    // What is wrong with the settings is wrong for any daemon: said once, with its line, and not retried.
    rig.write_config_toml("[connection]\nkeepalive = 3\n");
    let refused = rig.run_occ(&["host", "list"]);
    assert_eq!(refused.code(), 3, "{refused:?}");
    assert!(refused.stderr.contains("occd.toml, line 2"), "{refused:?}");
    assert_eq!(systemd.show(UNIT, "ExecMainStatus"), "78");
    assert_eq!(systemd.show(UNIT, "NRestarts"), "0");

    // A unit that names a program which is not there: occ's own serves.
    rig.write_config_toml("");
    std::fs::remove_file(rig.home().join(".local/bin/occd")).unwrap();
    let warned = rig.run_occ(&["host", "list"]);
    assert_eq!(warned.code(), 0, "{warned:?}");
    assert!(warned.stderr.contains("systemd could not start occd.service"), "{warned:?}");
    assert_eq!(rig.occ_ok(&["daemon", "status"]).lines().count(), 1);
}

#[test]
fn systemd_holds_the_socket_and_starts_the_daemon_for_whoever_uses_it() {
    let Some((rig, systemd)) = with_units(&[UNIT, SOCKET]) else { return };
    let started = systemd.systemctl(&["start", SOCKET]);
    assert!(started.status.success(), "{started:?}");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&rig.socket()), mode(rig.socket().parent().unwrap())), (0o600, 0o700));
    // To look is not to use.
    let status = rig.run_occ(&["daemon", "status"]);
    assert_eq!(status.code(), 3, "{status:?}");
    assert!(status.stdout.contains("systemd starts it"), "{status:?}");
    assert_eq!(systemd.show(UNIT, "ActiveState"), "inactive");

    let children: Vec<_> = (0..50)
        .map(|_| {
            let mut occ = rig.occ(&["host", "list"]);
            occ.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        })
        .collect();
    for mut child in children {
        let status = wait_for("occ", GUARD, || child.try_wait().unwrap());
        assert!(status.success(), "{status}");
    }
    let first = main_pid(&systemd);
    assert_eq!(rig.daemon_pid(), first);

    // Between one daemon and the next nobody is refused.
    assert!(systemd.systemctl(&["stop", UNIT]).status.success());
    assert!(rig.socket().exists());
    let started = format!("occd started (socket {}).\n", rig.socket().display());
    assert_eq!(rig.occ_ok(&["daemon", "start"]), started);
    assert_ne!(main_pid(&systemd), first);
    assert!(rig.occ_ok(&["daemon", "start"]).contains("already running"));

    let stopped = rig.run_occ(&["daemon", "stop"]);
    assert_eq!(stopped.code(), 0, "{stopped:?}");
    for unit in [UNIT, SOCKET] {
        wait_until("the end", GUARD, || systemd.show(unit, "ActiveState"), |s| s == "inactive");
    }
    assert!(!rig.socket().exists());
    // As after an installation: whoever needs it has both again.
    rig.occ_ok(&["host", "list"]);
    assert_eq!(systemd.show(SOCKET, "ActiveState"), "active");
}

#[test]
fn a_daemon_that_systemd_cannot_start_for_a_client_is_told() {
    let Some((rig, systemd)) = with_units(&[UNIT, SOCKET]) else { return };
    assert!(systemd.systemctl(&["start", SOCKET]).status.success());
    rig.write_config_toml("[connection]\nkeepalive = 3\n");
    let refused = rig.run_occ(&["host", "list"]);
    assert_eq!(refused.code(), 3, "{refused:?}");
    assert!(refused.stderr.contains("hint: "), "{refused:?}");
    // Whoever comes next is told why, and works when it is mended.
    let told = rig.run_occ(&["host", "list"]);
    assert_eq!(told.code(), 3, "{told:?}");
    assert!(told.stderr.contains("occd.toml, line 2"), "{told:?}");
    rig.write_config_toml("");
    rig.occ_ok(&["host", "list"]);
}

#[test]
fn a_daemon_that_hangs_is_started_again() {
    let Some((rig, systemd)) = installed() else { return };
    let more = units_of(&rig).join("occd.service.d");
    std::fs::create_dir_all(&more).unwrap();
    std::fs::write(more.join("soon.conf"), "[Service]\nWatchdogSec=1\n").unwrap();
    assert!(systemd.systemctl(&["daemon-reload"]).status.success());
    assert!(systemd.systemctl(&["start", UNIT]).status.success());
    let status = || systemd.show(UNIT, "StatusText");
    wait_until("a word from it", GUARD, status, |said| said == "0 of 0 hosts are connected.");
    let hung = main_pid(&systemd);
    Process::find(hung).unwrap().signal(Signal::STOP);
    let next = wait_until("another", GUARD, || main_pid(&systemd), |p| *p != 0 && *p != hung);
    wait_until("it to be ready", GUARD, || systemd.show(UNIT, "ActiveState"), |s| s == "active");
    assert_eq!(rig.daemon_pid(), next);
    assert_eq!(systemd.show(UNIT, "NRestarts"), "1");
}

#[test]
fn the_unit_keeps_nothing_from_what_ssh_config_names() {
    let host = EmbeddedHost::start();
    let Some((rig, systemd)) = installed() else { return };
    rig.add_host("h", &host);
    let asked = rig.root().join("asked");
    let config = format!(
        "Match exec \"grep -q 'NoNewPrivs:.0' /proc/self/status && touch {}\"\n  \
         ProxyCommand bash -c 'exec 3<>/dev/tcp/%h/%p; cat <&3 & exec cat >&3'\n",
        asked.display()
    );
    std::fs::write(rig.home().join(".ssh/config"), config).unwrap();
    assert!(systemd.systemctl(&["start", UNIT]).status.success());
    assert!(rig.occ_ok(&["connect", "--host", "h"]).contains("h"));
    assert!(asked.exists(), "what Match exec runs may gain rights, as sudo does");
    let children = rig.daemon_children();
    assert!(!children.is_empty(), "the connection goes through the ProxyCommand");
    let limits = format!("/proc/{}/limits", main_pid(&systemd));
    let limits = std::fs::read_to_string(limits).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    // It is no reason to end.
    let before = rig.daemon_pid();
    assert!(systemd.systemctl(&["reload", UNIT]).status.success());
    assert_eq!(rig.http("GET", "/healthz", &[], None).status, 200);
    assert_eq!(rig.daemon_pid(), before);
}
