//! A server that stalls, talks nonsense or hangs up in any phase of a dial: a clear word in time, and
//! nothing left behind.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use jiff::SignedDuration;
use occ_proto::name::Address;
use occ_proto::status::{Phase, State};
use occ_proto::{Code, HostConfig, HostName};
use serde_json::json;
use testkit::daemon::Target;
use testkit::embedded;
use testkit::keys::known_hosts_line_for;
use testkit::wait::blocking::{wait_for, wait_until};
use testkit::{DaemonRig, EmbeddedHost, FaultyLink, RealSshd};
use tokio::time::Instant;

use crate::ask::{GUARD, echoes, exec, failure, in_state, look, post, probed, problem};
use crate::invariants::Held;

/// A daemon that knows an embedded server as `far` and gives a dial one second.
fn far() -> (DaemonRig, EmbeddedHost) {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &host);
    rig.write_config_toml("[connection]\nconnect_timeout = \"1s\"\n");
    rig.start_daemon(&[]);
    (rig, host)
}

/// Stalls the server in a phase, dials, and compares what the dial says and leaves.
fn stalled(stall: embedded::Phase, phase: Phase) {
    let (rig, host) = far();
    let held = Held::by(&rig);
    host.stall_at(stall);
    let begun = Instant::now();
    rig.http("GET", "/v1/hosts/far", &[], None);
    let error = failure(&rig, "far", State::Backoff);
    // The limit of the whole dial, and some for a busy machine.
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!((error.code, error.phase), (Code::HostUnreachable, phase), "{error:?}");
    assert!(error.message.starts_with("no answer within 1 s"), "{error:?}");
    assert!(error.retryable, "{error:?}");
    assert_eq!(post(&rig, "/v1/hosts/far/disconnect").status, 200);
    held.is_all_again(&rig);

    host.clear_stall();
    assert_eq!(post(&rig, "/v1/hosts/far/connect").status, 200);
    echoes(&rig, "far");
}

#[test]
fn a_stall_before_the_identification_line_ends_in_time() {
    stalled(embedded::Phase::Banner, Phase::Banner);
}

#[test]
fn a_stall_in_the_key_exchange_ends_in_time() {
    stalled(embedded::Phase::Kex, Phase::KeyExchange);
}

#[test]
fn a_stall_in_the_middle_of_the_key_exchange_ends_in_time() {
    stalled(embedded::Phase::KexReply, Phase::KeyExchange);
}

#[test]
fn a_stall_during_the_login_ends_in_time() {
    stalled(embedded::Phase::Auth, Phase::Authentication);
}

#[test]
fn a_stall_after_the_signature_ends_in_time() {
    stalled(embedded::Phase::Signature, Phase::Authentication);
}

#[test]
fn a_stall_when_a_channel_is_opened_ends_the_command_and_not_the_connection() {
    let (rig, host) = far();
    host.stall_at(embedded::Phase::ChannelOpen);
    let held = Held::by(&rig);
    let begun = Instant::now();
    let answer = problem(&exec(&rig, "far", &["true"]));
    assert_eq!((answer.status, answer.code), (503, Code::HostUnreachable), "{answer:?}");
    assert_eq!(answer.phase, Some(Phase::ChannelOpen), "{answer:?}");
    assert!(answer.retryable, "{answer:?}");
    let took = begun.elapsed();
    assert!((9..20).contains(&took.as_secs()), "the limit is 10 s, it took {took:?}");
    assert_eq!(host.execs(), 0);
    let status = look(&rig, "far");
    assert_eq!((status.state, status.open_channels), (State::Connected, 0));

    host.clear_stall();
    echoes(&rig, "far");
    assert_eq!(host.connections(), 1);
    assert_eq!(post(&rig, "/v1/hosts/far/disconnect").status, 200);
    wait_until("the server's channels to be gone", GUARD, || host.open_channels(), |n| *n == 0);
    held.is_all_again(&rig);
}

#[test]
fn a_stall_when_a_command_is_started_ends_the_command_and_not_the_connection() {
    let (rig, host) = far();
    let held = Held::by(&rig);
    echoes(&rig, "far");
    probed(&rig, "far");
    let execs = host.execs();
    let spare = wait_until("a spare", GUARD, || host.open_channels(), |n| *n == 1);
    host.stall_at(embedded::Phase::Exec);
    // Not longer than it may last: without a limit it would be given 30 s.
    let request = json!({ "argv": ["true"], "timeout_ms": 1000 });
    let begun = Instant::now();
    let answer = problem(&rig.http("POST", "/v1/hosts/far/exec", &[], Some(request)));
    assert_eq!((answer.status, answer.code), (502, Code::OutcomeUnknown), "{answer:?}");
    let expected = "did not say within 1 s whether it started the command";
    assert!(answer.detail.contains(expected), "{answer:?}");
    let took = begun.elapsed();
    assert!((1..10).contains(&took.as_secs()), "the limit is 1 s, it took {took:?}");
    // It may have started, so it is not sent again.
    assert_eq!(host.execs() - execs, 1);
    host.clear_stall();
    wait_until("its channel to be gone", GUARD, || host.open_channels(), |n| *n <= spare);
    echoes(&rig, "far");
    let status = look(&rig, "far");
    assert_eq!((status.state, host.connections()), (State::Connected, 1));
    assert_eq!(post(&rig, "/v1/hosts/far/disconnect").status, 200);
    held.is_all_again(&rig);
}

/// Dials a peer that is no SSH server and returns what the host says then.
fn not_ssh(rig: &DaemonRig) -> String {
    let held = Held::by(rig);
    rig.http("GET", "/v1/hosts/far", &[], None);
    let error = failure(rig, "far", State::Backoff);
    assert_eq!((error.code, error.phase), (Code::NotSsh, Phase::Banner), "{error:?}");
    assert!(error.message.starts_with("the peer does not speak SSH"), "{error:?}");
    assert!(error.message.len() < 200, "{error:?}");
    assert!(!error.message.chars().any(char::is_control), "{error:?}");
    assert_eq!(post(rig, "/v1/hosts/far/disconnect").status, 200);
    held.is_all_again(rig);
    error.message
}

#[test]
fn a_web_server_is_not_an_ssh_server() {
    let (rig, host) = far();
    host.http_banner();
    let message = not_ssh(&rig);
    assert!(message.contains("HTTP/1.1 400 Bad Request"), "{message}");
    host.ssh_banner();
    post(&rig, "/v1/hosts/far/connect");
    echoes(&rig, "far");
}

#[test]
fn garbage_is_not_an_ssh_server_whether_it_ends_or_not() {
    for garbage in [
        b"\0\x01\x02\xff\xfe\x1b[31mred\x1b]0;title\x07".to_vec(),
        b"220 mail.example.com ESMTP\r\n".to_vec(),
        b"SSH-1.5-ancient\r\n".to_vec(),
        vec![b'A'; 1024 * 1024],
        b"line\r\n".repeat(100_000),
    ] {
        let shown = String::from_utf8_lossy(&garbage[..20.min(garbage.len())]).into_owned();
        println!("{shown:?}, {} bytes, and the connection stays open", garbage.len());
        let (rig, host) = far();
        host.garbage_banner(garbage.clone());
        not_ssh(&rig);
        println!("{shown:?}, and the connection is closed");
        let (rig, host) = far();
        host.farewell_banner(garbage);
        not_ssh(&rig);
    }
}

#[test]
fn a_peer_that_closes_without_a_word_is_lost_and_not_something_else() {
    let (rig, host) = far();
    host.farewell_banner("");
    rig.http("GET", "/v1/hosts/far", &[], None);
    let error = failure(&rig, "far", State::Backoff);
    assert_eq!((error.code, error.phase), (Code::HostUnreachable, Phase::Banner), "{error:?}");
}

#[test]
fn a_server_that_leaves_keep_alives_unanswered_is_told_of_before_it_counts_as_dead() {
    let host = EmbeddedHost::start();
    let link = FaultyLink::start(host.addr());
    let mut rig = DaemonRig::new();
    rig.add_host("far", Target::from(&host).through(&link));
    rig.write_config_toml("[connection]\nkeepalive_interval = \"1s\"\nkeepalive_count = 100\n");
    rig.start_daemon(&[]);
    echoes(&rig, "far");
    let since = || look(&rig, "far").connection.unwrap().unanswered_since;
    assert_eq!(since(), None);
    link.blackhole(true);
    let first = wait_for("the silence to be told of", GUARD, since);
    let told = rig.occ_ok(&["status", "--host", "far"]);
    assert!(told.contains("connected") && told.contains("keep-alives unanswered for "), "{told}");
    let again = since().unwrap();
    let apart = again.duration_since(first).abs();
    assert!(apart < jiff::SignedDuration::from_secs(1), "{first} {again}");
    link.blackhole(false);
    wait_until("an answer", GUARD, since, Option::is_none);
    assert_eq!(look(&rig, "far").connects, 1);
}

#[test]
fn a_penalty_is_waited_out() {
    // A crowd is over sooner than a penalty.
    for (farewell, least) in
        [("Not allowed at this time\r\n", 14_990), ("Exceeded MaxStartups\r\n", 1_990)]
    {
        let (rig, host) = far();
        host.farewell_banner(farewell);
        rig.http("GET", "/v1/hosts/far", &[], None);
        let status = in_state(&rig, "far", State::Backoff);
        let error = status.last_error.unwrap();
        assert_eq!((error.code, error.phase), (Code::HostUnreachable, Phase::Banner), "{error:?}");
        assert!(error.message.contains(farewell.trim_end()), "{error:?}");
        let wait = status.next_retry_at.unwrap().duration_since(error.at);
        assert!(wait >= SignedDuration::from_millis(least), "{wait}");
        assert_eq!(host.connections(), 1);
        let said = rig.run_occ(&["status", "--host", "far"]).stderr;
        assert!(said.contains("hint: wait: occd tries again by itself"), "{said}");
    }
}

#[test]
fn a_server_that_closes_before_it_says_who_it_is_may_be_crowded() {
    let (rig, host) = far();
    host.farewell_banner("");
    rig.http("GET", "/v1/hosts/far", &[], None);
    let status = in_state(&rig, "far", State::Backoff);
    let error = status.last_error.unwrap();
    assert_eq!((error.code, error.phase), (Code::HostUnreachable, Phase::Banner), "{error:?}");
    let wait = status.next_retry_at.unwrap().duration_since(error.at);
    assert!(wait >= SignedDuration::from_millis(1_990), "{wait}");
    // The history says where it was, and once.
    let history = wait_for("the history", GUARD, || {
        Some(rig.occ_ok(&["history", "--host", "far"])).filter(|text| text.contains("(banner)"))
    });
    let line = history.lines().find(|line| line.contains("(banner)")).unwrap();
    assert_eq!(line.matches("(banner)").count(), 1, "{history}");
}

#[test]
fn a_connection_lost_during_the_login_is_retried_and_not_a_refused_login() {
    let (rig, host) = far();
    host.drop_during_auth(true);
    rig.http("GET", "/v1/hosts/far", &[], None);
    let error = failure(&rig, "far", State::Backoff);
    assert_eq!((error.code, error.phase), (Code::HostUnreachable, Phase::Authentication));
    assert!(error.retryable, "{error:?}");
    wait_until("another dial by itself", GUARD, || host.connections(), |n| *n >= 2);
    host.drop_during_auth(false);
    in_state(&rig, "far", State::Connected);
}

#[test]
fn a_connection_dropped_right_after_the_login_runs_nothing_and_recovers() {
    let (rig, host) = far();
    let held = Held::by(&rig);
    host.drop_after_auth(true);
    let answer = problem(&exec(&rig, "far", &["true"]));
    assert_eq!((answer.status, answer.code), (503, Code::HostUnreachable), "{answer:?}");
    assert!(answer.retryable, "{answer:?}");
    assert_eq!(host.execs(), 0);
    let dials = host.connections();
    assert!((1..=5).contains(&dials), "{dials} dials for one command");
    host.drop_after_auth(false);
    in_state(&rig, "far", State::Connected);
    echoes(&rig, "far");
    assert_eq!(post(&rig, "/v1/hosts/far/disconnect").status, 200);
    held.is_all_again(&rig);
}

#[test]
fn an_upload_to_a_server_that_is_gone_ends_on_every_way_there() {
    if !RealSshd::require() {
        return;
    }
    let (bastion, server) = (RealSshd::start(), RealSshd::start());
    let link = FaultyLink::start_narrow(server.addr());
    let mut rig = DaemonRig::new();
    let names = ["direct", "behind", "proxied"];
    rig.add_host("bastion", &bastion);
    for name in names {
        rig.add_host(name, Target::from(&server).through(&link));
    }
    let key = server.host_public_keys().next().unwrap();
    rig.add_known_host(&known_hosts_line_for(link.addr(), key));
    rig.edit_hosts(|file| {
        file.hosts.get_mut("behind").unwrap().jump_host = Some("bastion".to_owned());
        file.hosts.get_mut("proxied").unwrap().hostname = Address::new("alias").unwrap();
    });
    let config = format!(
        "Host alias\n  HostName 127.0.0.1\n  ProxyCommand ssh -F none -q -o BatchMode=yes \
         -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -i {} -p {} -W %h:%p {}@127.0.0.1\n",
        bastion.client_key_path().display(),
        bastion.port(),
        bastion.user()
    );
    let file = rig.home().join(".ssh/config");
    fs::write(&file, config).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    // Not found by a keep-alive: while something waits to be sent, none is looked at.
    rig.write_config_toml("[connection]\nkeepalive_interval = \"10m\"\n");
    rig.start_daemon(&[]);
    // As many as it takes to fill every buffer on the way: one stops at its channel's window before.
    let uploads = names.map(|name| [name; 9]).concat();
    let uploads: Vec<_> = uploads
        .into_iter()
        .map(|name| {
            let mut command = rig.occ(&["exec", "--host", name, "--shell", "--", "cat >/dev/null"]);
            command.stdin(fs::File::open("/dev/zero").unwrap()).stderr(Stdio::piped());
            (name, command.spawn().unwrap())
        })
        .collect();
    for name in names {
        wait_for("the upload to run", GUARD, || {
            let sent = look(&rig, name).connection.map_or(0, |connection| connection.bytes_out);
            // More than the windows of all nine (2 MiB each), so that each has sent until it had to wait.
            (sent > 40_000_000).then_some(())
        });
    }
    link.blackhole(true);
    let begun = Instant::now();
    for (name, upload) in uploads {
        let output = upload.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(6), "{name}: {said}");
        assert!(begun.elapsed() < Duration::from_secs(45), "{name}: {:?}", begun.elapsed());
    }
    assert_eq!(look(&rig, "bastion").state, State::Connected);
}

/// Passes connections on to a server, and puts a packet that means nothing behind the server's first one, as
/// somebody on the way could who is about to leave out a later one (Terrapin, CVE-2023-48795).
fn injecting(server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(server).unwrap();
            let (mut up, mut down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || std::io::copy(&mut up, &mut down));
            thread::spawn(move || inject(&server, &client));
        }
    });
    address
}

fn inject(mut server: &TcpStream, mut client: &TcpStream) -> std::io::Result<()> {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let mut byte = [0];
        server.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    let mut length = [0; 4];
    server.read_exact(&mut length)?;
    let mut first = vec![0; u32::from_be_bytes(length) as usize];
    server.read_exact(&mut first)?;
    client.write_all(&[&line[..], &length, &first].concat())?;
    // SSH_MSG_IGNORE with no data (RFC 4253, sections 6 and 11.2): 12 bytes, 6 of them padding.
    client.write_all(&[0, 0, 0, 12, 6, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])?;
    std::io::copy(&mut server, &mut client).map(drop)
}

#[test]
fn a_packet_that_somebody_slips_into_the_key_exchange_ends_it() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let between = injecting(sshd.addr());
    let mut rig = DaemonRig::new();
    rig.add_host("straight", &sshd);
    rig.add_host("between", &sshd);
    rig.edit_hosts(|file| file.hosts.get_mut("between").unwrap().port = Some(between.port()));
    let key = sshd.host_public_keys().next().unwrap();
    rig.add_known_host(&known_hosts_line_for(between, key));
    rig.start_daemon(&[]);
    echoes(&rig, "straight");
    assert!(
        look(&rig, "straight").connection.unwrap().strict_kex,
        "this sshd is too old to test with"
    );
    let answer = problem(&exec(&rig, "between", &["true"]));
    assert!(answer.detail.contains("Violation detected during strict key exchange"), "{answer:?}");
    let error = failure(&rig, "between", State::Failed);
    assert_eq!(error.phase, Phase::KeyExchange, "{error:?}");
    assert_eq!(sshd.log().matches("Accepted publickey").count(), 1, "{}", sshd.log());
}

/// Identifies itself and turns everybody away with a message (RFC 4253, section 11.1), before anything is agreed.
fn turning_away(reason: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut payload = vec![1, 0, 0, 0, 12];
    for text in [reason, ""] {
        payload.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        payload.extend(text.as_bytes());
    }
    // Blocks of 8 bytes, and at least 4 of padding (section 6).
    let padding = 4 + (8 - (payload.len() + 9) % 8) % 8;
    let length = u32::try_from(1 + payload.len() + padding).unwrap();
    let mut packet = length.to_be_bytes().to_vec();
    packet.push(u8::try_from(padding).unwrap());
    packet.extend(payload);
    packet.extend(vec![0; padding]);
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let words = [b"SSH-2.0-Gate\r\n", &packet[..]].concat();
            // Whoever hangs up first shows in the client's answer.
            let _ = client.write_all(&words).and_then(|()| client.read_to_end(&mut Vec::new()));
        }
    });
    address
}

#[test]
fn what_a_server_says_when_it_turns_us_away_is_told_and_drives_no_terminal() {
    let gate = turning_away("closed for \u{1b}[31mmaintenance\nuntil noon");
    let mut rig = DaemonRig::new();
    rig.edit_hosts(|file| {
        let mut config = HostConfig::new(Address::new("127.0.0.1").unwrap());
        config.port = Some(gate.port());
        file.hosts.insert(HostName::new("far").unwrap(), config);
    });
    rig.start_daemon(&[]);
    let output = rig.run_occ(&["connect", "--host", "far"]);
    assert_eq!(output.code(), 5, "{output:?}");
    let expected = "(key exchange): the server disconnected: closed for ";
    assert!(output.stderr.contains(expected), "{output:?}");
    assert!(output.stderr.contains("until noon"), "{output:?}");
    assert!(!output.stderr.contains('\u{1b}'), "{output:?}");
    let error = look(&rig, "far").last_error.unwrap();
    assert_eq!(error.phase, Phase::KeyExchange);
}

#[test]
fn a_banner_in_another_encoding_is_named_and_not_tried_again_and_again() {
    if !RealSshd::require() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let banner = dir.path().join("banner");
    fs::write(&banner, b"Zugang f\xfcr Befugte\n").unwrap();
    let sshd = RealSshd::builder().config(format!("Banner {}", banner.display())).start();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &sshd);
    rig.start_daemon(&[]);
    let output = rig.run_occ(&["connect", "--host", "far"]);
    assert_eq!(output.code(), 5, "{output:?}");
    let expected = "(login): the server sent text that is not UTF-8, perhaps its banner";
    assert!(output.stderr.contains(expected), "{output:?}");
    assert_eq!(look(&rig, "far").state, State::Failed);
    fs::write(&banner, "Zugang für Befugte\n").unwrap();
    rig.occ_ok(&["connect", "--host", "far"]);
}

#[test]
fn without_a_common_algorithm_the_settings_are_named() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::builder().config("Ciphers aes128-ctr").start();
    let mut rig = DaemonRig::new();
    rig.add_host("far", &sshd);
    fs::write(rig.home().join(".ssh/config"), "Ciphers aes256-gcm@openssh.com\n").unwrap();
    rig.start_daemon(&[]);
    for command in [&["connect", "--host", "far"][..], &["host", "test", "far"]] {
        let output = rig.run_occ(command);
        assert_eq!(output.code(), 5, "{output:?}");
        let said = format!("{}{}", output.stdout, output.stderr);
        assert!(
            said.contains("no common cipher algorithm; the server offers aes128-ctr"),
            "{said}"
        );
        assert!(said.contains("hint: Ciphers, MACs, KexAlgorithms"), "{said}");
    }
}
