//! The wall clock may say what it likes: waits and keep-alives go by the time that passes, and only what is shown and
//! certificates go by it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use occ_proto::status::{HostList, HostStatus, State};
use testkit::daemon::Target;
use testkit::require::require;
use testkit::wait::blocking::wait_until;
use testkit::{DaemonRig, EmbeddedHost, FaultyLink};

use crate::ask::{GUARD, body, connect, echoes, in_state, list, look};

/// A mean year, and ten of them, in seconds.
const YEAR: i64 = 31_556_952;
const FAR: i64 = 10 * YEAR;

/// A clock of a daemon's own, which goes as the machine's does, and can be set.
struct WallClock {
    library: PathBuf,
    file: PathBuf,
}

impl WallClock {
    /// Returns a clock whose offset is in a file of this directory.
    fn new(dir: &Path) -> Option<Self> {
        let dirs = std::fs::read_dir("/usr/lib").unwrap().flatten();
        let library = dirs
            .map(|dir| dir.path().join("faketime/libfaketimeMT.so.1"))
            .find(|path| path.exists());
        let available = library.is_some().then_some(()).ok_or("it is not there".to_owned());
        if !require("libfaketime", available, "OCC_REQUIRE_SYSTEMD") {
            return None;
        }
        let clock = Self { library: library?, file: dir.join("offset") };
        clock.set(0);
        Some(clock)
    }

    /// Sets it so many seconds before or after the machine's.
    fn set(&self, offset: i64) {
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{offset:+}\n")).unwrap();
        std::fs::rename(new, &self.file).unwrap();
    }

    fn give(&self, rig: &mut DaemonRig) {
        rig.set_env("LD_PRELOAD", &self.library);
        rig.set_env("FAKETIME_TIMESTAMP_FILE", &self.file);
        for name in ["FAKETIME_NO_CACHE", "FAKETIME_DONT_FAKE_MONOTONIC", "NO_FAKE_STAT"] {
            rig.set_env(name, "1");
        }
    }
}

/// Returns the year by the daemon's clock.
fn year(rig: &DaemonRig) -> i16 {
    let answer = rig.http("POST", "/v1/hosts/nowhere/disconnect", &[], None);
    assert_eq!(answer.status, 404);
    rig.log().lines().last().unwrap()[..4].parse().unwrap()
}

#[test]
fn a_clock_that_is_set_ends_no_connection_and_hurries_no_wait() {
    let mut rig = DaemonRig::new();
    let Some(clock) = WallClock::new(rig.root()) else { return };
    clock.give(&mut rig);
    let (host, other) = (EmbeddedHost::start(), EmbeddedHost::start());
    let link = FaultyLink::start(other.addr());
    rig.add_host("up", &host);
    rig.add_host("down", Target::from(&other).through(&link));
    rig.write_config_toml("[connection]\nkeepalive_interval = \"1s\"\nmax_backoff = \"1s\"\n");
    rig.start_daemon(&[]);
    let up = connect(&rig, "up").connection.unwrap();
    connect(&rig, "down");
    let now = year(&rig);
    for offset in [FAR, -FAR, 0] {
        // Both are well: nothing is done but to keep them so.
        clock.set(offset);
        wait_until("the clock", GUARD, || year(&rig), |year| year - now == (offset / YEAR) as i16);
        let daemon = rig.daemon();
        let (waits, used) = loop {
            let (revision, before) = (list(&rig).revision, (daemon.waits(), daemon.cpu_time()));
            let next = rig.http("GET", &format!("/v1/hosts?since={revision}&wait=4s"), &[], None);
            if body::<HostList>(&next).revision == revision {
                let waits = daemon.waits().since(&before.0);
                break (waits, daemon.cpu_time() - before.1);
            }
        };
        // Two hosts, four keep-alives each, which take a few each.
        assert!(waits < 200 && used < Duration::from_secs(1), "{offset}: {waits}, {used:?}");

        // One is lost. It is dialled when its time has come, whatever the clock says meanwhile.
        link.refuse(true);
        link.reset_all();
        let attempts = |least: u32| {
            let what = format!("{least} dials");
            let least = |status: &HostStatus| status.attempt >= least;
            wait_until(&what, GUARD, || look(&rig, "down"), least)
        };
        attempts(2);
        clock.set(offset + FAR);
        attempts(3);
        clock.set(offset - FAR);
        attempts(4);
        link.refuse(false);
        in_state(&rig, "down", State::Connected);

        echoes(&rig, "up");
        assert_eq!(look(&rig, "up").connection.unwrap().id, up.id, "{offset}");
        // What is said of times that lie years before or behind.
        for args in [&["status"][..], &["status", "--host", "up"], &["history", "--host", "up"]] {
            rig.occ_ok(args);
        }
    }
    assert!(rig.terminate_daemon().success());
}
