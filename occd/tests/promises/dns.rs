//! Names that do not resolve: said at once, given up in time, and nobody else's business.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;
use std::thread;
use std::time::Duration;

use occ_proto::Code;
use occ_proto::name::Address;
use occ_proto::status::{Phase, State};
use testkit::require::{require, require_namespaces};
use testkit::{DaemonRig, EmbeddedHost};
use tokio::time::Instant;

use crate::ask::{connect, echoes, exec, failure, problem};

/// Answers as the first label says: `nx` does not exist, `fail` is an error, `stall` gets no answer. Ends with the
/// test's process.
fn name_server() -> std::io::Result<String> {
    // The port is the only one that resolv.conf(5) knows; the address is nobody else's.
    let address = format!("127.53.{}.{}", fastrand::u8(1..255), fastrand::u8(1..255));
    let socket = UdpSocket::bind((address.as_str(), 53))?;
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query) {
            let query = &query[..length];
            let label = &query[13..13 + usize::from(query[12])];
            let code = match label {
                b"nx" => 3,
                b"fail" => 2,
                _ => continue,
            };
            // RFC 1035, section 4.1.1: an answer, with recursion, of no records.
            let head = [&query[..2], &[0x81, 0x80 | code], &query[4..6], &[0; 6]].concat();
            let _ = socket.send_to(&[&head, &query[12..]].concat(), from);
        }
    });
    Ok(address)
}

/// Returns a daemon that asks that name server, in a mount namespace of its own.
fn rig(server: &str) -> DaemonRig {
    let mut rig = DaemonRig::new();
    let resolv = rig.root().join("resolv.conf");
    fs::write(&resolv, format!("nameserver {server}\noptions timeout:30 attempts:1\n")).unwrap();
    let script = rig.root().join("occd");
    let text = format!(
        "#!/bin/sh\nexec unshare --mount sh -c 'mount --bind {} /etc/resolv.conf && exec {} \"$@\"' occd \"$@\"\n",
        resolv.display(),
        testkit::daemon::daemon_binary().display(),
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    rig.set_daemon_binary(script);
    rig
}

#[test]
fn a_name_that_does_not_resolve_is_said_in_time_and_disturbs_nobody() {
    let server = name_server();
    let available = server.as_ref().map(drop).map_err(|error| format!("port 53: {error}"));
    if !require("a name server", available, "OCC_REQUIRE_SYSTEMD")
        || !require_namespaces(&["--mount"])
    {
        return;
    }
    let mut rig = rig(&server.unwrap());
    let host = EmbeddedHost::start();
    rig.add_host("near", &host);
    for name in ["nx", "fail", "stall"] {
        rig.add_host(name, &host);
        rig.edit_hosts(|file| {
            let config = file.hosts.get_mut(name).unwrap();
            config.hostname = Address::new(format!("{name}.example.org")).unwrap();
        });
    }
    rig.write_config_toml("[connection]\nmax_backoff = \"1s\"\n");
    rig.start_daemon(&[]);
    connect(&rig, "near");
    for name in ["nx", "fail"] {
        let answer = problem(&exec(&rig, name, &["true"]));
        assert_eq!((answer.status, answer.code), (503, Code::HostUnreachable), "{answer:?}");
        let error = failure(&rig, name, State::Backoff);
        assert_eq!((error.phase, error.retryable), (Phase::Resolve, true), "{error:?}");
        assert!(error.message.contains(&format!("{name}.example.org")), "{error:?}");
    }
    thread::scope(|scope| {
        let begun = Instant::now();
        let stalled = scope.spawn(|| problem(&exec(&rig, "stall", &["true"])));
        while !stalled.is_finished() {
            let start = Instant::now();
            echoes(&rig, "near");
            assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        }
        let answer = stalled.join().unwrap();
        assert_eq!(answer.code, Code::HostUnreachable, "{answer:?}");
        assert!(answer.detail.contains("no answer within 5 s"), "{answer:?}");
        // Four times 5 s, and the pauses between them.
        assert!(begun.elapsed() < Duration::from_secs(32), "{:?}", begun.elapsed());
        let error = failure(&rig, "stall", State::Backoff);
        assert_eq!(error.phase, Phase::Resolve, "{error:?}");
    });
}
