//! Under a real `systemd --user`: the unit of systemd/ starts, restarts and stops the daemon, and `occ`
//! starts it through that unit.

use std::process::Stdio;

use testkit::daemon::daemon_binary;
use testkit::proc::{Process, Signal};
use testkit::systemd::units_of;
use testkit::wait::blocking::{wait_for, wait_until};
use testkit::{DaemonRig, SystemdRig};

use crate::support::GUARD;

const UNIT: &str = "occd.service";

/// Returns a home with the unit installed as the README says, and its systemd.
fn installed() -> Option<(DaemonRig, SystemdRig)> {
    if !SystemdRig::require() {
        return None;
    }
    let rig = DaemonRig::new();
    let bin = rig.home().join(".local/bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::os::unix::fs::symlink(daemon_binary(), bin.join("occd")).unwrap();
    let units = units_of(&rig);
    std::fs::create_dir_all(&units).unwrap();
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../systemd/occd.service");
    std::fs::copy(unit, units.join(UNIT)).unwrap();
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
