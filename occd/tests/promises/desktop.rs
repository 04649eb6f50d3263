//! The desktop is told of a question that nobody answers, and is told no more than that.

use std::collections::HashMap;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use testkit::require::{find_program, require};
use testkit::wait::blocking::wait_until;
use testkit::{Bus, DaemonRig, EmbeddedHost, Terminal};
use zbus::zvariant::OwnedValue;

use crate::ask::GUARD;

/// What a desktop was told, the number of each notification being its place from 1.
#[derive(Debug, Clone, Default)]
struct Desktop(Arc<Mutex<Told>>);

#[derive(Debug, Clone, Default)]
struct Told {
    /// Summaries and bodies.
    shown: Vec<(String, String)>,
    closed: Vec<u32>,
}

#[zbus::interface(name = "org.freedesktop.Notifications")]
impl Desktop {
    #[allow(clippy::too_many_arguments, reason = "as specified")]
    fn notify(
        &self,
        _program: &str,
        _replaces: u32,
        _icon: &str,
        summary: String,
        body: String,
        _actions: Vec<String>,
        _hints: HashMap<String, OwnedValue>,
        _time: i32,
    ) -> u32 {
        let mut told = self.0.lock().unwrap();
        told.shown.push((summary, body));
        u32::try_from(told.shown.len()).unwrap()
    }

    fn close_notification(&self, id: u32) {
        self.0.lock().unwrap().closed.push(id);
    }
}

impl Desktop {
    fn told(&self) -> Told {
        self.0.lock().unwrap().clone()
    }
}

/// Returns a daemon on that bus whose host has that name and asks before it lets anybody touch anything.
fn daemon(bus: &Bus, name: &str, host: &EmbeddedHost, config: &str) -> DaemonRig {
    let mut rig = DaemonRig::new();
    rig.set_env("DBUS_SESSION_BUS_ADDRESS", bus.address());
    rig.add_host(name, host);
    rig.write_config_toml(&format!(
        "{config}\n[[policy.rules]]\naction = \"ask\"\nprogram = \"touch\"\n"
    ));
    rig.start_daemon(&[]);
    rig
}

/// Has a question raised that is about a file of that name, and waits until so many are open.
fn ask(rig: &DaemonRig, host: &str, file: &str, open: usize) -> Child {
    let mut occ = rig.occ(&["exec", "--host", host, "--", "touch", file]);
    let child = occ.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let count = || ids(rig).len();
    wait_until("the question", GUARD, count, |count| *count == open);
    child
}

fn ids(rig: &DaemonRig) -> Vec<String> {
    let list = rig.http("GET", "/v1/prompts", &[], None).json();
    list["prompts"].as_array().unwrap().iter().map(|prompt| prompt["id"].to_string()).collect()
}

#[test]
fn a_question_that_nobody_answers_is_shown_and_taken_back() {
    let found = find_program("dbus-daemon").map(drop);
    if !require("a session bus", found, "OCC_REQUIRE_KEYRING") {
        return;
    }
    let bus = Bus::new();
    let desktop = Desktop::default();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
    let served = zbus::connection::Builder::address(bus.address().as_str())
        .and_then(|builder| builder.name("org.freedesktop.Notifications"))
        .and_then(|builder| builder.serve_at("/org/freedesktop/Notifications", desktop.clone()))
        .unwrap();
    let _served = runtime.block_on(served.build()).unwrap();
    let host = EmbeddedHost::start();
    let quiet = daemon(&bus, "quiet", &host, "[prompts]\nnotify = false\n");
    let rig = daemon(&bus, "prod-1", &host, "");
    // Asked before the others: if it were to be shown it would be the first.
    let mut children = vec![ask(&quiet, "quiet", "/tmp/secret-0", 1)];
    for number in 1..=4 {
        children.push(ask(&rig, "prod-1", &format!("/tmp/secret-{number}"), number));
    }
    let shown = |count: usize| {
        let told = || desktop.told();
        wait_until("notifications", GUARD, told, |told| told.shown.len() == count)
    };
    let told = shown(3);
    for (summary, body) in &told.shown {
        assert_eq!(summary, "prod-1 needs leave to do something");
        assert_eq!(body, "Nobody has answered yet. In a terminal: occ prompts");
    }
    assert_eq!(told.closed, [0; 0]);
    // One that is answered makes room for the next, and the end of the daemon takes all away.
    let first = &ids(&rig)[0];
    let (said, code) = Terminal::control(&rig.occ(&["prompts", "--deny", first]), "").finish();
    assert_eq!(code, 0, "{said}");
    let told = shown(4);
    assert_eq!(told.closed, [1]);
    let mut rig = rig;
    rig.terminate_daemon();
    wait_until("the end", GUARD, || desktop.told().closed, |closed| *closed == [1, 2, 3, 4]);
    for mut child in children {
        let _ = child.kill();
        child.wait().unwrap();
    }
}
