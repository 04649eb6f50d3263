//! Settings that say how long: for a host that is down, for a command, for a connection that nobody uses.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::thread;

use occ_proto::Code;
use occ_proto::status::{IdleReason, State};
use serde_json::json;
use testkit::embedded::Phase;
use testkit::proc::Signal;
use testkit::wait::blocking::{wait_for, wait_until};
use testkit::{DaemonRig, EmbeddedHost, FaultyLink, Terminal};

use crate::ask::{GUARD, connect, echoes, exec, in_state, look, post, problem};

#[test]
fn who_wants_to_wait_waits_for_a_host_that_is_down() {
    let host = EmbeddedHost::start();
    let link = FaultyLink::start(host.addr());
    link.refuse(true);
    let mut rig = DaemonRig::new();
    rig.add_host("far", testkit::daemon::Target::from(&host).through(&link));
    rig.write_config_toml("[connection]\nmax_backoff = \"300ms\"\n");
    rig.start_daemon(&[]);
    thread::scope(|scope| {
        let waiting = [
            scope.spawn(|| {
                rig.run_occ(&["exec", "--host", "far", "--wait", "1m", "--", "echo", "in"])
            }),
            scope.spawn(|| rig.run_occ(&["connect", "--host", "far", "--wait", "1m"])),
        ];
        // More dials than a command makes by itself.
        let dials = || rig.log().matches("the dial failed").count();
        wait_until("the dials", GUARD, dials, |count| *count > 6);
        link.refuse(false);
        for waiting in waiting {
            let output = waiting.join().unwrap();
            assert_eq!(output.code(), 0, "{output:?}");
        }
    });
    // It ends with the time that it was given, and says why.
    link.refuse(true);
    host.drop_connections();
    in_state(&rig, "far", State::Backoff);
    let output = rig.run_occ(&["exec", "--host", "far", "--wait", "500ms", "--", "true"]);
    assert_eq!(output.code(), 5, "{output:?}");
    assert!(output.stderr.contains("was not started"), "{output:?}");
    // What a person must mend is not waited for.
    host.reject_auth(true);
    link.refuse(false);
    let output = rig.run_occ(&["exec", "--host", "far", "--wait", "1m", "--", "true"]);
    assert_eq!(output.code(), 5, "{output:?}");
    assert!(output.stderr.contains("refused every key"), "{output:?}");
}

#[test]
fn a_command_has_the_time_that_the_settings_give_it() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &host);
    rig.write_config_toml("[hosts.far.connection]\ncommand_timeout = \"300ms\"\n");
    rig.start_daemon(&[]);
    connect(&rig, "far");
    let answer = exec(&rig, "far", &["sleep", "1000"]);
    assert_eq!((answer.status, &answer.json()["timed_out"]), (200, &json!(true)));
    let output = rig.run_occ(&["exec", "--host", "far", "--", "sleep", "1000"]);
    assert_eq!(output.code(), 124, "{output:?}");
    let says = "ran longer than 300ms (command_timeout in occd.toml)";
    assert!(output.stderr.contains(says), "{output:?}");
    // The command's own limit counts.
    let script = "exec sleep 0.6";
    let output =
        rig.run_occ(&["exec", "--host", "far", "--timeout", "1m", "--shell", "--", script]);
    assert_eq!(output.code(), 0, "{output:?}");
}

#[test]
fn a_limit_is_for_the_connection_and_the_command_together() {
    let host = EmbeddedHost::start();
    // It takes the connection and says nothing: the dial has 15 s.
    host.stall_at(Phase::Banner);
    let mut rig = DaemonRig::new();
    rig.add_host("far", &host);
    rig.start_daemon(&[]);
    let output = rig.run_occ(&["exec", "--host", "far", "--timeout", "300ms", "--", "true"]);
    assert_eq!(output.code(), 5, "{output:?}");
    let says = "far: not connected within 0.3 s; the dial goes on";
    assert!(
        output.stderr.contains(says) && output.stderr.contains("was not started"),
        "{output:?}"
    );
    let request = json!({ "argv": ["true"], "timeout_ms": 300 });
    let answer = problem(&rig.http("POST", "/v1/hosts/far/exec", &[], Some(request)));
    assert_eq!(answer.code, Code::HostUnreachable, "{answer:?}");
    assert!(answer.detail.contains("within 0.3 s"), "{answer:?}");
    // Who wants to wait says for how long, and the command has its own time.
    let args = ["exec", "--host", "far", "--wait", "1m", "--timeout", "10s", "--", "true"];
    thread::scope(|scope| {
        let waiting = scope.spawn(|| rig.run_occ(&args));
        host.clear_stall();
        let output = waiting.join().unwrap();
        assert_eq!(output.code(), 0, "{output:?}");
    });
}

#[test]
fn a_host_that_nobody_uses_is_disconnected_where_the_settings_say_so() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &host);
    rig.write_config_toml("[connection]\nidle_timeout = \"700ms\"\n");
    rig.start_daemon(&[]);
    assert_eq!(post(&rig, "/v1/hosts/far/connect").status, 200);
    // A command that runs is use, however long it takes.
    let output = rig.run_occ(&["exec", "--host", "far", "--", "sh", "-c", "sleep 1.6; echo in"]);
    assert_eq!((output.code(), output.stdout.as_str()), (0, "in\n"), "{output:?}");
    assert_eq!(host.connections(), 1);
    in_state(&rig, "far", State::Idle);
    wait_until("the connection to end", GUARD, || host.active_connections(), |count| *count == 0);
    // Nobody is told of a failure, and the next command connects.
    let idle = look(&rig, "far");
    assert_eq!((idle.last_error, idle.idle_reason), (None, Some(IdleReason::IdleTimeout)));
    let why = "nobody used it for as long as idle_timeout says";
    let table = rig.occ_ok(&["status", "--all"]);
    assert!(table.contains(&format!("{why}; connects on use")), "{table}");
    wait_for("the history", GUARD, || {
        rig.occ_ok(&["history", "--host", "far"]).contains(why).then_some(())
    });
    echoes(&rig, "far");
    assert_eq!(host.connections(), 2);
    assert_eq!(look(&rig, "far").idle_reason, None);
    let answer = problem(&rig.http("POST", "/v1/hosts/far/connect?wait_ms=soon", &[], None));
    assert_eq!(answer.code, Code::BadRequest);
}

#[test]
fn who_waits_for_a_host_at_a_terminal_is_told() {
    let host = EmbeddedHost::start();
    host.stall_at(Phase::Banner);
    let mut rig = DaemonRig::new();
    rig.add_host("far", &host);
    rig.start_daemon(&[]);
    for kind in ["--no-stdin", "--durable"] {
        let command = rig.occ(&["exec", "--host", "far", "--wait", "2s", kind, "--", "true"]);
        let (screen, code) = Terminal::control(&command, "").finish();
        assert_eq!(code, 5, "{screen}");
        assert!(screen.contains("[far] not connected; trying …"), "{screen}");
    }
}

#[test]
fn who_waits_for_a_daemon_that_answers_nobody_is_told() {
    let host = EmbeddedHost::start();
    let link = FaultyLink::start(host.addr());
    link.refuse(true);
    let mut rig = DaemonRig::new();
    rig.add_host("far", testkit::daemon::Target::from(&host).through(&link));
    rig.start_daemon(&[]);
    let mut waiting = rig.occ(&["connect", "--host", "far", "--wait", "1m"]);
    let mut waiting = waiting.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let dials = || rig.log().matches("the dial failed").count();
    wait_until("the dials", GUARD, dials, |count| *count > 0);
    let daemon = rig.daemon();
    daemon.signal(Signal::STOP);
    let mut said = BufReader::new(waiting.stderr.take().unwrap()).lines().map(Result::unwrap);
    let told = said.next();
    daemon.signal(Signal::CONT);
    let pid = daemon.pid;
    let wanted = format!("occd (process {pid}) has not answered for 15 seconds. Still waiting.");
    assert_eq!(told, Some(wanted));
    assert!(said.next().is_some_and(|hint| hint.contains(&format!("kill -CONT {pid}"))));
    // It has lost nothing.
    link.refuse(false);
    let output = waiting.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
