//! The end of the daemon: nothing is left that would have to be cut off.

use testkit::wait::blocking::wait_for;
use testkit::{DaemonRig, EmbeddedHost};

use crate::ask::{GUARD, exec};

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
        rig.terminate_daemon();
        assert!(!rig.log().contains(CUT_OFF), "{}", rig.log());
        wait_for("the connections to be gone", GUARD, || {
            (host.active_connections() == 0).then_some(())
        });
    }
}
