//! A daemon and a client of different versions: both work, and an older daemon is replaced when it is idle.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Stdio};

use serde_json::{Value, json};
use testkit::daemon::{Output, client_binary, daemon_binary};
use testkit::systemd::units_of;
use testkit::wait::blocking::{wait_for, wait_until};
use testkit::{DaemonRig, RealSshd, SystemdRig};

use crate::ask::{GUARD, look};

/// The version of this workspace, of which every program is built.
const OWN: &str = env!("CARGO_PKG_VERSION");
const OLDER: &str = "0.0.9";
const NEWER: &str = "0.2.0";

/// Returns a rig whose daemon, of another version, runs and has the server as its host `h`.
fn running(version: &str) -> Option<(RealSshd, DaemonRig)> {
    if !RealSshd::require() {
        return None;
    }
    let sshd = RealSshd::start();
    let mut rig = DaemonRig::new();
    rig.add_host("h", &sshd);
    rig.set_daemon_binary(rig.daemon_of_version(version));
    rig.start_daemon(&[]);
    assert_eq!(daemon_version(&rig), version);
    Some((sshd, rig))
}

fn daemon_version(rig: &DaemonRig) -> String {
    let version = rig.http("GET", "/v1/version", &[], None).json();
    version["version"].as_str().unwrap().to_owned()
}

fn pid(rig: &DaemonRig) -> Value {
    rig.http("GET", "/v1/version", &[], None).json()["pid"].clone()
}

fn succeeded(output: Output) -> Output {
    assert_eq!(output.code(), 0, "{output:?}");
    output
}

/// Ends a stream that somebody follows.
fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn an_older_daemon_is_replaced_and_sessions_and_forwards_go_on() {
    let Some((_sshd, rig)) = running(OLDER) else { return };
    // An answer for whoever comes through the forward.
    let echo = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let far = echo.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in echo.incoming().flatten() {
            let mut far = stream;
            let mut bytes = [0; 4];
            while far.read_exact(&mut bytes).is_ok() && far.write_all(&bytes).is_ok() {}
        }
    });
    let add = json!({ "host": "h", "local": format!("0:localhost:{far}") });
    let forward = rig.http("POST", "/v1/forwards", &[], Some(add)).json();
    let listen = forward["listen"].as_str().unwrap_or_else(|| panic!("{forward}")).to_owned();
    let through = || -> Option<TcpStream> {
        let mut near = TcpStream::connect(&listen).ok()?;
        near.set_read_timeout(Some(GUARD)).unwrap();
        near.write_all(b"ping").ok()?;
        let mut bytes = [0; 4];
        near.read_exact(&mut bytes).ok()?;
        Some(near)
    };
    let open = through().expect("the forward leads there");
    let lines = "for n in 1 2 3; do echo line $n; read x; done";
    succeeded(
        rig.run_occ(&[
            "session", "start", "--name", "work", "--host", "h", "--", "sh", "-c", lines,
        ]),
    );
    let old = pid(&rig);

    // A connection through the forward is something that would end.
    let busy = succeeded(rig.run_occ(&["status", "--all"]));
    assert_eq!(busy.stderr.lines().count(), 1, "{busy:?}");
    assert!(
        busy.stderr.starts_with(&format!("occd {OLDER} is older than occ {OWN} and at work")),
        "{busy:?}"
    );
    drop(open);
    wait_until(
        "the connection to end",
        GUARD,
        || rig.http("GET", "/v1/forwards", &[], None).json().to_string(),
        |forwards| forwards.contains("\"connections\":0"),
    );
    // And so is a session that is followed, and a command.
    for args in
        [&["session", "logs", "work", "-f"][..], &["exec", "--host", "h", "--", "sleep", "1000"]]
    {
        let mut stream = rig.occ(args);
        let stream = stream.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = stream.spawn().unwrap();
        wait_until("a channel", GUARD, || look(&rig, "h").open_channels, |count| *count > 0);
        let busy = wait_for("its stream", GUARD, || {
            let output = rig.run_occ(&["host", "show", "h"]);
            assert_eq!(pid(&rig), old, "{output:?}");
            output.stderr.contains("and at work").then_some(output)
        });
        assert_eq!(busy.code(), 0);
        end(child);
        wait_until("its end", GUARD, || look(&rig, "h").open_channels, |count| *count == 0);
    }

    let replaced = wait_for("the replacement", GUARD, || {
        let output = succeeded(rig.run_occ(&["status", "--all"]));
        (!output.stderr.contains("and at work")).then_some(output)
    });
    assert_eq!(replaced.stderr, format!("occd {OLDER} was older than occ {OWN}: started anew.\n"));
    assert!(replaced.stdout.contains('h'), "the command itself is not disturbed: {replaced:?}");
    assert_eq!(daemon_version(&rig), OWN);
    assert_ne!(pid(&rig), old);
    let silent = succeeded(rig.run_occ(&["status", "--all"]));
    assert_eq!(silent.stderr, "");

    // The same port, and every byte of the session.
    wait_for("the forward", GUARD, through);
    let output = rig.occ_ok(&["session", "logs", "work"]);
    assert_eq!(output, "line 1\n");
}

#[test]
fn a_newer_daemon_serves_an_older_client_and_is_left_alone() {
    let Some((_sshd, rig)) = running(NEWER) else { return };
    let before = pid(&rig);
    let output = succeeded(rig.run_occ(&["exec", "--host", "h", "--", "echo", "well"]));
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("well\n", ""));
    assert_eq!(pid(&rig), before);
    let status = succeeded(rig.run_occ(&["daemon", "status"]));
    let newer = format!("occ is {OWN}. hint: install occ {NEWER}");
    assert!(status.stderr.starts_with(&newer), "{status:?}");
}

#[test]
fn an_older_daemon_is_not_replaced_by_another_old_one() {
    let Some((_sshd, mut rig)) = running(OLDER) else { return };
    let before = pid(&rig);
    rig.set_env("OCCD_BIN", rig.root().join("other/occd"));
    let output = succeeded(rig.run_occ(&["host", "list"]));
    let says = format!("and the one that would be started is {OLDER}. hint: install occd {OWN}");
    assert!(output.stderr.contains(&says), "{output:?}");
    rig.set_env("OCCD_BIN", "");
    rig.set_env("OCC_NO_AUTOSTART", "1");
    let output = succeeded(rig.run_occ(&["host", "list"]));
    assert!(output.stderr.contains("hint: occ daemon restart"), "{output:?}");
    assert_eq!(pid(&rig), before);
    assert!(client_binary().exists());
    rig.occ_ok(&["daemon", "restart"]);
    assert_eq!(daemon_version(&rig), OWN);
}

#[test]
fn under_systemd_the_unit_starts_the_one_that_took_its_place() {
    if !SystemdRig::require() {
        return;
    }
    let rig = DaemonRig::new();
    // What an upgrade replaces.
    let program = rig.daemon_of_version(OLDER);
    let units = units_of(&rig);
    fs::create_dir_all(&units).unwrap();
    let service = include_str!("../../../systemd/occd.service");
    let service = service.replace("%h/.local/bin/occd", program.to_str().unwrap());
    fs::write(units.join("occd.service"), service).unwrap();
    fs::write(units.join("occd.socket"), include_str!("../../../systemd/occd.socket")).unwrap();
    let systemd = SystemdRig::start(&rig);
    rig.occ_ok(&["daemon", "start"]);
    let main_pid = || systemd.show("occd.service", "MainPID");
    let old = main_pid();
    assert_eq!((daemon_version(&rig).as_str(), pid(&rig).to_string()), (OLDER, old.clone()));
    let kept = succeeded(rig.run_occ(&["host", "list"]));
    assert!(kept.stderr.contains("and the one that would be started is"), "{kept:?}");
    assert_eq!(main_pid(), old);

    fs::remove_file(&program).unwrap();
    std::os::unix::fs::symlink(daemon_binary(), &program).unwrap();
    // Many at once replace it, and none of them fails.
    let children: Vec<_> = (0..10)
        .map(|_| {
            let mut occ = rig.occ(&["host", "list"]);
            occ.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let said: Vec<String> = children
        .into_iter()
        .map(|child| {
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{said}");
            said
        })
        .collect();
    let last = succeeded(rig.run_occ(&["host", "list"]));
    let all = || said.iter().chain([&last.stderr]);
    assert!(all().any(|said| said.contains("started anew")), "{said:?} {last:?}");
    // Each other's requests are work, too.
    let odd =
        |said: &&String| said.contains("hint: occ daemon restart") && !said.contains("at work");
    assert_eq!(all().find(odd), None);
    assert_eq!(daemon_version(&rig), OWN);
    assert_ne!(main_pid(), old);
    assert_eq!(pid(&rig).to_string(), main_pid());
}

#[test]
fn who_waits_for_another_list_keeps_no_daemon_from_handing_over() {
    let mut rig = DaemonRig::new();
    rig.start_daemon(&[]);
    let revision = rig.http("GET", "/v1/hosts", &[], None).json()["revision"].to_string();
    let mut waiting = std::os::unix::net::UnixStream::connect(rig.socket()).unwrap();
    waiting.set_read_timeout(Some(GUARD)).unwrap();
    let request = format!(
        "GET /v1/hosts?since={revision}&wait=60s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    );
    waiting.write_all(request.as_bytes()).unwrap();
    // Its head comes at once.
    let mut piece = [0; 4096];
    let length = waiting.read(&mut piece).unwrap();
    assert!(piece[..length].starts_with(b"HTTP/1.1 200 "));
    // Not the one that is meant: it has gone already.
    let meant = format!("/v1/hand-over?version={OLDER}");
    assert_eq!(rig.http("POST", &meant, &[], None).json()["ending"], false);
    let meant = format!("/v1/hand-over?version={OWN}");
    let handed_over = rig.http("POST", &meant, &[], None).json();
    assert_eq!((&handed_over["ending"], &handed_over["in_flight"]), (&true.into(), &0.into()));
    let mut rest = String::new();
    waiting.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("\"hosts\""), "{rest}");
}
