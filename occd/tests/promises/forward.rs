//! Forwards carry bytes as ssh's do, and are there again after whatever ended: the link, the server, the daemon.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use occ_proto::forward::{Direction, Forward, ForwardList, ForwardState};
use serde_json::json;
use testkit::daemon::Target;
use testkit::terminal::Terminal;
use testkit::wait::blocking::wait_until;
use testkit::{DaemonRig, FaultyLink, RealSshd, free_port};

use crate::ask::probed;
use crate::invariants::Held;
use crate::support::{GUARD, daemon_for, eventually, no_channels, settled, sshd, status};

/// Serves each client on a thread of its own, as long as the test runs. Returns the port.
fn serve(handler: fn(TcpStream) -> io::Result<()>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            thread::spawn(move || handler(client));
        }
    });
    port
}

/// Sends back what comes.
fn echo(mut client: TcpStream) -> io::Result<()> {
    let mut from = client.try_clone()?;
    io::copy(&mut from, &mut client)?;
    client.shutdown(Shutdown::Write)
}

/// Returns the port of a server that sends back what comes.
pub(crate) fn echo_server() -> u16 {
    serve(echo)
}

fn connect(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(GUARD))?;
    stream.set_write_timeout(Some(GUARD))?;
    Ok(stream)
}

/// Sends a line and returns what comes back up to the end.
fn ask(port: u16, line: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = connect(port)?;
    stream.write_all(line)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

/// Waits until an echo answers there.
fn answers(port: u16) {
    let answered = |answer: &io::Result<Vec<u8>>| answer.as_ref().is_ok_and(|a| a == b"hello");
    wait_until("the forward to answer", GUARD, || ask(port, b"hello"), answered).unwrap();
}

/// Adds forwards with `occ forward add` and returns the address of the last, which is all that is printed.
fn add(rig: &DaemonRig, args: &[&str]) -> String {
    let args = [&["forward", "add", "-q", "--host", "h"], args].concat();
    rig.occ_ok(&args).lines().last().unwrap().to_owned()
}

/// Returns the port at the end of an address.
fn port_of(address: &str) -> u16 {
    address.rsplit(':').next().unwrap().parse().unwrap()
}

fn list(rig: &DaemonRig) -> Vec<Forward> {
    let answer = rig.http("GET", "/v1/forwards", &[], None);
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice::<ForwardList>(&answer.body).unwrap().forwards
}

/// Returns the one forward.
fn the(rig: &DaemonRig) -> Forward {
    let mut all = list(rig);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

/// Waits until the one forward is in a state.
fn in_state(rig: &DaemonRig, state: ForwardState) -> Forward {
    wait_until(&format!("{state:?}"), GUARD, || the(rig), |forward| forward.state == state)
}

/// Waits until the link is another one.
fn reconnected(rig: &DaemonRig, before: u64) {
    wait_until(
        "another connection",
        GUARD,
        || status(rig),
        |now| now.connects > before && now.connection.is_some(),
    );
}

#[test]
fn a_port_leads_to_the_host_and_is_there_again_after_whatever_ended() {
    let Some((mut sshd, mut rig)) = sshd() else { return };
    let target = serve(echo);
    let port = port_of(&add(&rig, &["-L", &format!("0:localhost:{target}")]));
    answers(port);
    let shown = the(&rig);
    assert_eq!(shown.state, ForwardState::Listening);
    assert_eq!((shown.bytes_in, shown.bytes_out), (5, 5));
    assert_eq!(shown.connections_total, 1);

    let before = status(&rig).connects;
    sshd.kill_sessions();
    reconnected(&rig, before);
    answers(port);

    sshd.stop();
    in_state(&rig, ForwardState::Waiting);
    sshd.start_again();
    answers(port);

    assert!(rig.terminate_daemon().success());
    rig.start_daemon(&[]);
    answers(port);
    rig.kill_daemon();
    rig.start_daemon(&[]);
    answers(port);
    assert_eq!(the(&rig).listen.port(), Some(port));

    let said = rig.occ_ok(&["forward", "list"]);
    assert!(said.contains(&format!("localhost:{port}")), "{said}");
    let said = rig.occ_ok(&["forward", "remove", &port.to_string()]);
    assert!(said.starts_with("[h] Removed: "), "{said}");
    assert_eq!(list(&rig), []);
    let refused = connect(port).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    // At once: what it listened on was free when the command ended.
    assert_eq!(port_of(&add(&rig, &["-L", &format!("{port}:localhost:{target}")])), port);
}

#[test]
fn a_hosts_port_leads_here_and_is_there_again_after_whatever_ended() {
    let Some((mut sshd, mut rig)) = sshd() else { return };
    let target = serve(echo);
    let port = port_of(&add(&rig, &["-R", &format!("0:localhost:{target}")]));
    assert_ne!(port, 0, "the port that the server took is told");
    answers(port);
    let shown = the(&rig);
    assert_eq!((shown.state, shown.connections_total), (ForwardState::Listening, 1));

    let before = status(&rig).connects;
    sshd.kill_sessions();
    reconnected(&rig, before);
    answers(port);
    sshd.stop();
    in_state(&rig, ForwardState::Waiting);
    sshd.start_again();
    answers(port);
    rig.kill_daemon();
    rig.start_daemon(&[]);
    answers(port);
    assert_eq!(the(&rig).listen.port(), Some(port), "the port is kept");

    rig.occ_ok(&["forward", "remove", "--all"]);
    // A child of the server's that has just been forked holds it for a moment longer.
    wait_until("the port to be free", GUARD, || connect(port).is_err(), |free| *free);
    wait_until("no use of the link", GUARD, || status(&rig).open_channels, |open| *open == 0);
}

#[test]
fn what_is_added_while_the_host_is_disconnected_on_request_is_kept_for_when_it_is_connected() {
    let Some((_sshd, mut rig)) = sshd() else { return };
    let target = serve(echo);
    rig.occ_ok(&["disconnect", "--host", "h"]);
    let (socks, there) = (free_port(), free_port());
    let to = format!("0:localhost:{target}");
    let from = format!("{there}:localhost:{target}");
    let options = [("-L", to), ("-R", from), ("-D", socks.to_string())];
    for (option, text) in &options {
        let added = rig.run_occ(&["forward", "add", option, text, "--host", "h"]);
        assert_eq!(added.code(), 0, "{option}: {added:?}");
        let waits = "[h] is not connected: the forward is kept, and waits for that.";
        assert!(added.stderr.contains(waits), "{option}: {added:?}");
        assert!(added.stderr.contains("hint: occ connect --host h"), "{option}: {added:?}");
    }
    // Adding one has not connected the host, and nor has the next daemon.
    assert!(rig.terminate_daemon().success());
    rig.start_daemon(&[]);
    let waiting = list(&rig);
    assert_eq!(waiting.len(), 3);
    for forward in &waiting {
        assert_eq!((forward.state, &forward.last_error), (ForwardState::Waiting, &None));
    }
    assert_eq!(status(&rig).state, occ_proto::status::State::Stopped);
    rig.occ_ok(&["connect", "--host", "h"]);
    let all = |all: &Vec<Forward>| all.iter().all(|one| one.state == ForwardState::Listening);
    let listening = wait_until("all to listen", GUARD, || list(&rig), all);
    let of = |direction| listening.iter().find(|one| one.direction == direction).unwrap();
    answers(of(Direction::Local).listen.port().unwrap());
    answers(there);
    assert_eq!(of(Direction::Dynamic).listen.port(), Some(socks));
}

#[test]
fn the_end_of_each_way_passes_by_itself() {
    let Some((_sshd, rig)) = sshd() else { return };
    // It answers only what it has seen the end of, and its own end is seen before the client's.
    let after_the_end = serve(|mut client| {
        let mut all = Vec::new();
        client.read_to_end(&mut all)?;
        client.write_all(format!("{} bytes", all.len()).as_bytes())
    });
    let at_the_beginning = serve(|mut client| {
        client.write_all(b"bye")?;
        client.shutdown(Shutdown::Write)?;
        let mut all = Vec::new();
        client.read_to_end(&mut all)?;
        let mut report = connect(u16::from_be_bytes([all[0], all[1]]))?;
        report.write_all(&all[2..])
    });
    for (there, option) in [(false, "-L"), (true, "-R")] {
        let port = port_of(&add(&rig, &[option, &format!("0:localhost:{after_the_end}")]));
        assert_eq!(ask(port, &vec![7; 300_000]).unwrap(), b"300000 bytes", "{there}");
        let port = port_of(&add(&rig, &[option, &format!("0:localhost:{at_the_beginning}")]));
        let report = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = connect(port).unwrap();
        let mut all = Vec::new();
        client.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"bye");
        client.write_all(&report.local_addr().unwrap().port().to_be_bytes()).unwrap();
        client.write_all(b"still here").unwrap();
        drop(client);
        let mut said = String::new();
        report.accept().unwrap().0.read_to_string(&mut said).unwrap();
        assert_eq!(said, "still here");
    }
}

/// Serves each client of a Unix socket with an echo, as long as the test runs.
fn serve_unix(path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    // The server's user may be another one.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).unwrap();
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            thread::spawn(move || io::copy(&mut client.try_clone().unwrap(), &mut client));
        }
    });
}

fn ask_unix(path: &Path) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(GUARD))?;
    stream.write_all(b"hello")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    Ok(answer.to_vec())
}

fn answers_unix(path: &Path) {
    let answered = |answer: &io::Result<Vec<u8>>| answer.as_ref().is_ok_and(|a| a == b"hello");
    wait_until("the socket to answer", GUARD, || ask_unix(path), answered).unwrap();
}

#[test]
fn sockets_are_forwarded_both_ways_and_are_this_users_alone() {
    if !RealSshd::require() {
        return;
    }
    // As root sshd's sessions would be another user's, whose sockets are not in a directory of ours.
    let sshd = RealSshd::builder().user("root").start();
    let mut rig = daemon_for(&sshd);
    let there = rig.root().join("there.sock");
    serve_unix(&there);
    let (near, far) = (rig.root().join("near.sock"), rig.root().join("far.sock"));
    let pair = |listen: &Path| format!("{}:{}", listen.display(), there.display());
    assert_eq!(add(&rig, &["-L", &pair(&near)]), near.display().to_string());
    add(&rig, &["-R", &pair(&far)]);
    let tcp = port_of(&add(&rig, &["-L", &format!("0:{}", there.display())]));
    for path in [&near, &far] {
        answers_unix(path);
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    }
    assert_eq!(ask(tcp, b"hello").unwrap(), b"hello");

    // What a daemon left behind that was killed is in nobody's way; nor is what OpenSSH's server leaves behind.
    rig.kill_daemon();
    assert!(near.exists());
    rig.start_daemon(&[]);
    answers_unix(&near);
    answers_unix(&far);
    let before = status(&rig).connects;
    sshd.kill_sessions();
    reconnected(&rig, before);
    answers_unix(&far);

    for path in [&near, &far] {
        rig.occ_ok(&["forward", "remove", &path.display().to_string()]);
    }
    assert!(!near.exists(), "a socket's name goes with it");
    assert!(!far.exists(), "also where OpenSSH leaves it");
    add(&rig, &["-R", &pair(&far)]);
    answers_unix(&far);
    // A file that is no socket is nobody's to take away.
    std::fs::write(&near, "precious").unwrap();
    let output = rig.run_occ(&["forward", "add", "--host", "h", "-L", &pair(&near)]);
    assert_eq!(output.code(), 1);
    assert!(output.stderr.contains("exists and is no socket"), "{}", output.stderr);
    assert_eq!(std::fs::read_to_string(&near).unwrap(), "precious");
}

/// A program that is killed in the end.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = (self.0.kill(), self.0.wait());
    }
}

fn curl(args: &[&str]) -> std::process::Output {
    Command::new("curl").args(["-sS", "--max-time", "60"]).args(args).output().unwrap()
}

#[test]
fn socks_clients_on_the_host_reach_what_this_machine_reaches() {
    let Some((_sshd, rig)) = sshd() else { return };
    let target = serve(echo);
    let added = add(&rig, &["-R", "0"]);
    let socks = port_of(&added);
    assert_ne!(socks, 0, "the port that the server took is told");
    assert_eq!(the(&rig).to, None);
    let talk = |to: u16| {
        let mut client = connect(socks).unwrap();
        let name = b"\x05\x01\x00\x05\x01\x00\x03\x09localhost";
        client.write_all(&[&name[..], &to.to_be_bytes()].concat()).unwrap();
        let mut answer = [0; 12];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer[..3], [5, 0, 5]);
        (client, answer[3])
    };
    let (mut client, code) = talk(target);
    assert_eq!(code, 0);
    client.write_all(b"hello").unwrap();
    let mut said = [0; 5];
    client.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"hello");
    drop(client);
    let (mut client, code) = talk(free_port());
    assert_eq!(code, 5, "refused");
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    let list = rig.occ_ok(&["forward", "list"]);
    assert!(list.contains("SOCKS here"), "{list}");
    wait_until("no open connection", GUARD, || the(&rig).connections, |open| *open == 0);
}

#[test]
fn socks_clients_reach_what_the_host_reaches_by_name() {
    let Some((_sshd, rig)) = sshd() else { return };
    std::fs::write(rig.root().join("page"), "from the host").unwrap();
    let web = free_port();
    let _server = Program(
        Command::new("python3")
            .args(["-m", "http.server", "--bind", "127.0.0.1", &web.to_string()])
            .arg("-d")
            .arg(rig.root())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    wait_until("the web server", GUARD, || connect(web).is_ok(), |up| *up);
    let socks = format!("localhost:{}", port_of(&add(&rig, &["-D", "0"])));
    let page = format!("http://localhost:{web}/page");
    for option in ["--socks5-hostname", "--socks5", "--socks4", "--socks4a"] {
        let output = curl(&[option, &socks, &page]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.stdout, b"from the host", "{option}: {said}");
    }
    // Curl's word for "connection refused" of RFC 1928.
    let output =
        curl(&["--socks5-hostname", &socks, &format!("http://localhost:{}/", free_port())]);
    assert_eq!(output.status.code(), Some(97), "{}", String::from_utf8_lossy(&output.stderr));

    // Something else than SOCKS is told so by the end, at once.
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\x02\0\x01", b"\x05\x01\x02"] {
        let mut client = connect(port_of(&socks)).unwrap();
        client.write_all(garbage).unwrap();
        let mut answer = Vec::new();
        match client.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
        }
        assert!(answer.len() <= 2, "{answer:?}");
    }
    let output = curl(&["--socks5-hostname", &socks, &page]);
    assert_eq!(output.stdout, b"from the host");
    wait_until("no open connection", GUARD, || the(&rig).connections, |open| *open == 0);
}

#[test]
fn where_nothing_answers_that_connection_is_reset_and_the_forward_stays() {
    let Some((_sshd, rig)) = sshd() else { return };
    let nothing = free_port();
    for option in ["-L", "-R"] {
        let port = port_of(&add(&rig, &[option, &format!("0:localhost:{nothing}")]));
        for _ in 0..3 {
            let ended = ask(port, b"hello");
            let kind = ended.as_ref().map_err(io::Error::kind);
            match option {
                // The second is what is left of it for who still sends.
                "-L" => assert!(
                    matches!(
                        kind,
                        Err(io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected)
                    ),
                    "{kind:?}"
                ),
                // How the host's own end of it ends is its server's.
                _ => assert!(kind.is_err() || ended.unwrap().is_empty()),
            }
        }
        let shown = the(&rig);
        assert_eq!(shown.state, ForwardState::Listening);
        let said = shown.last_error.unwrap();
        assert!(said.contains(&format!("nothing answers at localhost:{nothing}")), "{said}");
        let listener = TcpListener::bind(("127.0.0.1", nothing)).unwrap();
        let client = connect(port).unwrap();
        let (mut served, _) = listener.accept().unwrap();
        served.write_all(b"now").unwrap();
        drop(served);
        let mut said = String::new();
        (&client).read_to_string(&mut said).unwrap();
        assert_eq!(said, "now");
        rig.occ_ok(&["forward", "remove", &port.to_string()]);
    }
}

#[test]
fn a_client_that_hangs_up_is_no_error_of_its_forward() {
    let Some((_sshd, rig)) = sshd() else { return };
    let endless = serve(|mut client| {
        loop {
            client.write_all(&[b'x'; 65536])?;
        }
    });
    let port = port_of(&add(&rig, &["-L", &format!("0:localhost:{endless}")]));
    let socks = port_of(&add(&rig, &["-D", "0"]));
    for (port, hello) in [(port, None), (socks, Some(endless))] {
        let mut client = connect(port).unwrap();
        if let Some(to) = hello {
            // SOCKS 4 to 127.0.0.1 (its protocol has no number of bytes to wait for but eight).
            let [high, low] = to.to_be_bytes();
            client.write_all(&[4, 1, high, low, 127, 0, 0, 1, 0]).unwrap();
            client.read_exact(&mut [0; 8]).unwrap();
        }
        client.read_exact(&mut [0; 100_000]).unwrap();
        drop(client);
    }
    let open = || list(&rig).iter().map(|forward| forward.connections).sum::<u64>();
    wait_until("the connections to end", GUARD, open, |open| *open == 0);
    for forward in list(&rig) {
        assert_eq!(forward.last_error, None, "{forward:?}");
        assert!(forward.bytes_in > 0, "{forward:?}");
    }
}

#[test]
fn what_a_server_forbids_is_said_and_tried_again() {
    if !RealSshd::require() {
        return;
    }
    let target = serve(echo);
    for (allowed, local, remote) in
        [("local", true, false), ("remote", false, true), ("no", false, false)]
    {
        let sshd = RealSshd::builder().config(format!("AllowTcpForwarding {allowed}")).start();
        let rig = daemon_for(&sshd);
        let port = port_of(&add(&rig, &["-L", &format!("0:localhost:{target}")]));
        if local {
            answers(port);
        } else {
            assert_eq!(ask(port, b"x").unwrap_err().kind(), io::ErrorKind::ConnectionReset);
            let shown = in_state(&rig, ForwardState::Refused);
            assert!(shown.last_error.unwrap().contains("AllowTcpForwarding"));
        }
        let output =
            rig.run_occ(&["forward", "add", "--host", "h", "-R", &format!("0:localhost:{target}")]);
        match remote {
            true => assert_eq!(output.code(), 0, "{}", output.stderr),
            false => {
                assert_eq!(output.code(), 1, "{}", output.stderr);
                assert!(output.stderr.contains("AllowTcpForwarding"), "{}", output.stderr);
                assert!(output.stderr.contains("hint: "), "{}", output.stderr);
                assert_eq!(list(&rig).len(), 1, "it is not kept");
            }
        }
    }
}

#[test]
fn a_hosts_port_that_is_taken_is_said_and_had_once_it_is_free() {
    let Some((sshd, mut rig)) = sshd() else { return };
    let target = serve(echo);
    // OpenSSH's server is content with one of a name's addresses.
    let take =
        |port: u16| [TcpListener::bind(("127.0.0.1", port)), TcpListener::bind(("::1", port))];
    let port = free_port();
    let taken = take(port);
    let spec = format!("{port}:localhost:{target}");
    let output = rig.run_occ(&["forward", "add", "--host", "h", "-R", &spec]);
    assert_eq!(output.code(), 1);
    assert!(
        output.stderr.contains(&format!("localhost:{port} is taken on the host")),
        "{}",
        output.stderr
    );
    let output =
        rig.run_occ(&["forward", "add", "--host", "h", "-R", &format!("80:localhost:{target}")]);
    if sshd.user() != "root" {
        assert!(output.stderr.contains("only root may listen on port 80"), "{}", output.stderr);
    }
    drop(taken);
    add(&rig, &["-R", &spec]);
    answers(port);
    // It is taken while the daemon is away.
    assert!(rig.terminate_daemon().success());
    let is_had = |taken: &[io::Result<TcpListener>; 2]| taken[0].is_ok();
    let taken = wait_until("the port", GUARD, || take(port), is_had);
    rig.start_daemon(&[]);
    let shown = in_state(&rig, ForwardState::Refused);
    assert!(shown.last_error.unwrap().contains("is taken on the host"));
    let said = rig.occ_ok(&["forward", "list"]);
    assert!(said.contains("refused") && said.contains("is taken on the host"), "{said}");
    drop(taken);
    answers(port);
    assert_eq!(in_state(&rig, ForwardState::Listening).last_error, None);
}

#[test]
fn a_port_of_this_machine_that_is_taken_names_who_has_it_and_what_to_type() {
    let Some((_sshd, mut rig)) = sshd() else { return };
    let target = serve(echo);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let spec = format!("{port}:localhost:{target}");
    let output = rig.run_occ(&["forward", "add", "--host", "h", "-L", &spec]);
    assert_eq!(output.code(), 1);
    let who = format!("localhost:{port} is taken by ");
    let (_, said) = output.stderr.split_once(&who).unwrap_or_else(|| panic!("{}", output.stderr));
    assert!(said.contains(&format!("(process {})", std::process::id())), "{said}");
    let hint = said.split_once("hint: ").unwrap().1;
    let command = hint.split_once(" takes a free port").unwrap().0;
    let words: Vec<&str> = command.split_whitespace().skip(1).collect();
    assert!(rig.occ_ok(&words).starts_with("[h] localhost:"));
    let other = the(&rig);
    let free = other.listen.port().unwrap();
    answers(free);

    // Our own is named by its ID; the same once more is no other.
    let output = rig.run_occ(&["forward", "add", "--host", "h", "-D", &free.to_string()]);
    assert!(
        output.stderr.contains(&format!("by the forward {} to h", other.id)),
        "{}",
        output.stderr
    );
    assert!(
        output.stderr.contains(&format!("occ forward remove {}", other.id)),
        "{}",
        output.stderr
    );
    add(&rig, &["-L", &format!("{free}:localhost:{target}")]);
    assert_eq!(list(&rig).len(), 1);

    // After a restart the port is waited for, and no other taken.
    assert!(rig.terminate_daemon().success());
    let taken =
        wait_until("the port", GUARD, || TcpListener::bind(("127.0.0.1", free)), Result::is_ok);
    rig.start_daemon(&[]);
    let shown = in_state(&rig, ForwardState::Refused);
    assert!(shown.last_error.unwrap().contains(&format!("(process {})", std::process::id())));
    drop(taken);
    answers(free);
}

#[test]
fn others_may_connect_only_where_that_was_asked_for() {
    let Some((_sshd, rig)) = sshd() else { return };
    let target = serve(echo);
    let port = free_port();
    for bind in ["*", "0.0.0.0", "[::]", ""] {
        let spec = format!("{bind}:{port}:localhost:{target}");
        let output = rig.run_occ(&["forward", "add", "--host", "h", "-L", &spec]);
        assert_eq!(output.code(), 2, "{}", output.stderr);
        assert!(output.stderr.contains("which takes -g"), "{}", output.stderr);
    }
    let asked = json!({ "host": "h", "local": format!("*:{port}:localhost:{target}") });
    assert_eq!(rig.http("POST", "/v1/forwards", &[], Some(asked)).status, 400);
    let output = rig.run_occ(&[
        "forward",
        "add",
        "--host",
        "h",
        "-g",
        "-L",
        &format!("{port}:localhost:{target}"),
    ]);
    assert_eq!(output.code(), 0, "{}", output.stderr);
    assert!(output.stderr.contains("Warning: whoever reaches this machine"), "{}", output.stderr);
    answers(port);

    for (args, said) in [
        (&["forward", "add", "--host", "local", "-L", "8080:localhost:80"][..], "needs a host"),
        (&["forward", "add", "--host", "h", "-L", "8080"], "it must be [ADDRESS:]PORT:HOST:PORT"),
        (&["forward", "add", "--host", "h"], "-L"),
        (&["forward", "remove"], "named by its port, path or ID"),
    ] {
        let output = rig.run_occ(args);
        assert_eq!(output.code(), 2, "{args:?}: {}", output.stderr);
        assert!(output.stderr.contains(said), "{args:?}: {}", output.stderr);
    }
    let asked = json!({ "host": "local", "local": "8080:localhost:80" });
    let answer = rig.http("POST", "/v1/forwards", &[], Some(asked));
    assert_eq!((answer.status, answer.json()["code"].as_str()), (400, Some("bad_request")));
    assert_eq!(rig.http("DELETE", "/v1/forwards/none", &[], None).status, 404);
}

#[test]
fn a_client_has_a_host_dialled_that_is_down_and_the_port_stays() {
    let Some((mut sshd, rig)) = sshd() else { return };
    let target = serve(echo);
    let port = port_of(&add(&rig, &["-L", &format!("0:localhost:{target}")]));
    rig.occ_ok(&["disconnect", "--host", "h"]);
    in_state(&rig, ForwardState::Waiting);
    assert_eq!(ask(port, b"x").unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert!(the(&rig).last_error.unwrap().contains("h is not connected"));
    let log = rig.log();
    assert!(log.contains("a connection through a forward failed"), "{log}");
    rig.occ_ok(&["connect", "--host", "h"]);
    answers(port);
    sshd.stop();
    in_state(&rig, ForwardState::Waiting);
    // It waits for the dial, which goes well.
    let client = thread::spawn(move || ask(port, b"hello"));
    sshd.start_again();
    match client.join().unwrap() {
        Ok(answer) => assert_eq!(answer, b"hello"),
        // Every dial came before the server.
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
    answers(port);
}

#[test]
fn two_hundred_connections_at_once_leave_nothing_behind() {
    let Some((_sshd, rig)) = sshd() else { return };
    settled(&rig);
    let target = serve(echo);
    let ports =
        ["-L", "-R"].map(|option| port_of(&add(&rig, &[option, &format!("0:localhost:{target}")])));
    ports.into_iter().for_each(answers);
    wait_until(
        "no open connection",
        GUARD,
        || list(&rig),
        |all| all.iter().all(|f| f.connections == 0),
    );
    let before = Held::by(&rig);
    let payload: Vec<u8> = (0..50_000_u32).map(|n| (n % 251) as u8).collect();
    for port in ports {
        thread::scope(|scope| {
            for _ in 0..200 {
                scope.spawn(|| assert!(ask(port, &payload).unwrap() == payload));
            }
        });
    }
    wait_until(
        "no open connection",
        GUARD,
        || list(&rig),
        |all| all.iter().all(|f| f.connections == 0),
    );
    before.is_all_again(&rig);
    let all = list(&rig);
    assert!(all.iter().all(|f| f.connections_total == 201 && f.bytes_in == f.bytes_out), "{all:?}");
    rig.occ_ok(&["forward", "remove", "--all"]);
    no_channels(&rig, Duration::from_secs(30));
}

#[test]
fn a_hosts_port_moves_on_from_a_connection_that_a_stream_has_for_itself() {
    let Some((_sshd, rig)) = sshd() else { return };
    let target = serve(echo);
    let port = port_of(&add(&rig, &["-R", &format!("0:localhost:{target}")]));
    // Not settled: the listener is a channel in use.
    let old = probed(&rig, "h").connection.unwrap().id;
    // What makes it a bulk connection goes through the forward itself, and arrives whole.
    let payload: Vec<u8> = (0..12_000_000_u32).map(|n| (n % 251) as u8).collect();
    let client = thread::spawn(move || {
        let mut stream = connect(port).unwrap();
        let mut from = stream.try_clone().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                stream.write_all(&payload).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
            });
            let mut answer = Vec::new();
            from.read_to_end(&mut answer).unwrap();
            assert!(answer == payload);
        });
    });
    client.join().unwrap();
    wait_until(
        "another connection",
        GUARD,
        || status(&rig),
        |now| now.connection.as_ref().is_some_and(|connection| connection.id > old),
    );
    answers(port);
    assert_eq!(the(&rig).listen.port(), Some(port));
    wait_until("the old one to be closed", GUARD, || status(&rig), |now| now.connections == 1);
}

#[test]
fn a_server_that_keeps_a_port_to_itself_is_said_to() {
    if !RealSshd::require() {
        return;
    }
    let target = serve(echo);
    for (setting, said) in [("no", "GatewayPorts"), ("clientspecified", "whoever reaches the host")]
    {
        let sshd = RealSshd::builder().config(format!("GatewayPorts {setting}")).start();
        let rig = daemon_for(&sshd);
        let spec = format!("0:localhost:{target}");
        let output = rig.run_occ(&["forward", "add", "--host", "h", "-g", "-R", &spec]);
        assert_eq!(output.code(), 0, "{}", output.stderr);
        assert!(output.stderr.contains(said), "{setting}: {}", output.stderr);
        answers(the(&rig).listen.port().unwrap());
    }
}

#[test]
fn a_forward_that_was_just_added_says_that_it_listens() {
    let Some((_sshd, rig)) = sshd() else { return };
    for spec in [
        json!({"local": "0:localhost:1"}),
        json!({"dynamic": "0"}),
        json!({"remote": "0:localhost:1"}),
    ] {
        let mut request = spec;
        request["host"] = "h".into();
        let added = rig.http("POST", "/v1/forwards", &[], Some(request));
        assert_eq!((added.status, &added.json()["state"]), (201, &json!("listening")));
    }
}

/// Returns a daemon for a server behind a link, once the host is connected.
fn behind_a_link(sshd: &RealSshd) -> (FaultyLink, DaemonRig) {
    let link = FaultyLink::start(sshd.addr());
    let rig = daemon_for(Target::from(sshd).through(&link));
    rig.occ_ok(&["connect", "--host", "h"]);
    settled(&rig);
    (link, rig)
}

/// Sends a request whose answer nobody waits for, once `begun` holds.
fn ask_and_leave(rig: &DaemonRig, head: &str, body: &str, begun: impl FnMut() -> bool) {
    let mut client = UnixStream::connect(rig.socket()).unwrap();
    let length = body.len();
    write!(
        client,
        "{head} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    eventually("the request to be at work", begun);
}

/// Returns how many forwards the next daemon would have.
fn remembered(rig: &DaemonRig) -> usize {
    let file = rig.paths().state_dir().unwrap().join("forwards.json");
    // There is none before the first.
    let all = std::fs::read(file).unwrap_or_else(|_| b"[]".to_vec());
    serde_json::from_slice::<Vec<serde_json::Value>>(&all).unwrap().len()
}

#[test]
fn what_is_removed_is_forgotten_also_when_the_client_does_not_wait() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let (link, rig) = behind_a_link(&sshd);
    add(&rig, &["-R", "0:localhost:1"]);
    assert_eq!(remembered(&rig), 1);
    // The server does not say that it listens no more.
    link.blackhole(true);
    let head = format!("DELETE /v1/forwards/{}", the(&rig).id);
    ask_and_leave(&rig, &head, "", || list(&rig).is_empty());
    wait_until("it to be forgotten", GUARD, || remembered(&rig), |count| *count == 0);
}

#[test]
fn what_is_added_is_remembered_also_when_the_client_does_not_wait() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let (link, rig) = behind_a_link(&sshd);
    let body = json!({"host": "h", "remote": format!("{}:localhost:1", free_port())}).to_string();
    link.blackhole(true);
    ask_and_leave(&rig, "POST /v1/forwards", &body, || !list(&rig).is_empty());
    wait_until("it to be remembered", GUARD, || remembered(&rig), |count| *count == 1);
    link.blackhole(false);
    in_state(&rig, ForwardState::Listening);
}

#[test]
fn what_the_server_refuses_is_not_kept_also_when_the_client_does_not_wait() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::builder().config("AllowTcpForwarding local").start();
    let (link, rig) = behind_a_link(&sshd);
    let body = json!({"host": "h", "remote": "0:localhost:1"}).to_string();
    link.blackhole(true);
    ask_and_leave(&rig, "POST /v1/forwards", &body, || !list(&rig).is_empty());
    link.blackhole(false);
    wait_until("it to be taken away", GUARD, || list(&rig), Vec::is_empty);
    wait_until("it to be forgotten", GUARD, || remembered(&rig), |count| *count == 0);
}

/// Returns the names of the grants.
fn grants(rig: &DaemonRig) -> Vec<String> {
    let list = rig.http("GET", "/v1/grants", &[], None).json();
    let all = list["grants"].as_array().unwrap();
    all.iter().map(|grant| grant["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_leads_to_a_host_goes_with_it_and_not_to_another_server_of_its_name() {
    let Some((_sshd, mut rig)) = sshd() else { return };
    let target = serve(echo);
    let local = port_of(&add(&rig, &["-L", &format!("0:localhost:{target}")]));
    let remote = port_of(&add(&rig, &["-R", &format!("0:localhost:{target}")]));
    let socks = port_of(&add(&rig, &["-D", "0"]));
    answers(local);
    answers(remote);
    rig.occ_ok(&["docker-socket", "--host", "h"]);
    rig.occ_ok(&["grant", "--host", "h", "--allow", "exec", "--ttl", "2h", "--name", "g"]);

    // Who is asked is told what goes, and it stays as long as nobody says yes.
    let goes = "With it go 3 forwards, 1 grant and its Docker socket.";
    let mut terminal = Terminal::control(&rig.occ(&["host", "remove", "h"]), "");
    terminal.answer("Remove host 'h'?", "n");
    let (screen, _) = terminal.finish();
    assert!(screen.contains(goes), "{screen}");
    assert_eq!((list(&rig).len(), grants(&rig).len()), (3, 1));
    answers(local);

    let said = rig.occ_ok(&["host", "remove", "h", "-f"]);
    assert!(said.starts_with("Removed: Host 'h' removed. With it go"), "{said}");
    assert!(said.contains(goes), "{said}");
    assert_eq!((list(&rig), remembered(&rig), grants(&rig)), (vec![], 0, vec![]));
    for port in [local, remote, socks] {
        wait_until("the port to be free", GUARD, || connect(port).is_err(), |free| *free);
    }

    let other = RealSshd::start();
    rig.add_host("h", &other);
    for _ in 0..2 {
        rig.occ_ok(&["connect", "--host", "h"]);
        assert_eq!((list(&rig), grants(&rig)), (vec![], vec![]));
        assert_eq!(rig.http("GET", "/v1/hosts/h/docker-socket", &[], None).status, 404);
        assert!(rig.terminate_daemon().success());
        rig.start_daemon(&[]);
    }
    // For scripts it is all there.
    let port = port_of(&add(&rig, &["-L", &format!("{local}:localhost:{target}")]));
    assert_eq!(port, local, "its port is free");
    let said = rig.occ_ok(&["--json", "host", "remove", "h", "-f"]);
    let about = &serde_json::from_str::<serde_json::Value>(&said).unwrap()["items"][0]["about"];
    assert_eq!(about["forwards"][0]["listen"], json!(format!("localhost:{local}")), "{said}");
}

#[test]
fn what_leads_to_a_host_goes_with_it_also_when_the_client_does_not_wait() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let (link, rig) = behind_a_link(&sshd);
    add(&rig, &["-R", "0:localhost:1"]);
    // The server does not say that it listens no more.
    link.blackhole(true);
    ask_and_leave(&rig, "DELETE /v1/hosts/h?force=true", "", || list(&rig).is_empty());
    wait_until("it to be forgotten", GUARD, || remembered(&rig), |count| *count == 0);
    eventually("the host to go", || rig.http("GET", "/v1/hosts/h", &[], None).status == 404);
}

#[test]
fn an_edit_by_hand_keeps_what_leads_to_a_host_for_when_it_is_there_again() {
    let Some((_sshd, rig)) = sshd() else { return };
    let target = serve(echo);
    let port = port_of(&add(&rig, &["-L", &format!("0:localhost:{target}")]));
    answers(port);
    let whole = std::fs::read_to_string(rig.hosts_file()).unwrap();
    rig.write_hosts_json(r#"{"hosts":{}}"#);
    in_state(&rig, ForwardState::Waiting);
    rig.write_hosts_json(&whole);
    answers(port);
}

#[test]
fn a_host_that_is_added_gets_nothing_of_an_earlier_one_that_an_edit_took_out() {
    let Some((_sshd, mut rig)) = sshd() else { return };
    let port = port_of(&add(&rig, &["-L", &format!("0:localhost:{}", serve(echo))]));
    answers(port);
    rig.occ_ok(&["docker-socket", "--host", "h"]);
    rig.occ_ok(&["grant", "--host", "h", "--allow", "exec", "--ttl", "2h", "--name", "g"]);
    rig.write_hosts_json(r#"{"hosts":{}}"#);
    in_state(&rig, ForwardState::Waiting);
    // The next daemon remembers them, too.
    assert!(rig.terminate_daemon().success());
    rig.start_daemon(&[]);

    let added = rig.run_occ(&["host", "add", "h", "127.0.0.1", "--no-verify"]);
    assert!(added.status.success(), "{added:?}");
    let gone =
        "What led to an earlier host of this name is taken away: the grant g, the forward at";
    assert!(added.stderr.contains(gone) && added.stderr.contains("the Docker socket"), "{added:?}");
    assert_eq!((list(&rig), remembered(&rig), grants(&rig)), (vec![], 0, vec![]));
    assert_eq!(rig.http("GET", "/v1/hosts/h/docker-socket", &[], None).status, 404);
    // A host in the place of one that is there has what that one had.
    rig.occ_ok(&["grant", "--host", "h", "--allow", "exec", "--ttl", "2h", "--name", "kept"]);
    let again = rig.run_occ(&["host", "add", "h", "localhost", "--no-verify", "--force"]);
    assert!(again.status.success() && !again.stderr.contains("taken away"), "{again:?}");
    assert_eq!(grants(&rig), ["kept"]);
}

#[test]
fn a_port_that_is_the_systems_alone_is_refused_with_another_to_type() {
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    // In most containers all ports are everybody's.
    if !RealSshd::require() || first.is_ok_and(|first| first.trim() != "1024") {
        return;
    }
    let sshd = RealSshd::start();
    let mut rig = DaemonRig::new();
    rig.add_host("h", &sshd);
    // Root's are to be like anybody's.
    let path = rig.root().join("occd-without-ports");
    let text = format!(
        "#!/bin/sh\nif test $(id -u) = 0; then set -- setpriv {without} {occd} \"$@\"; else set -- {occd} \"$@\"; fi\nexec \"$@\"\n",
        without = "--inh-caps=-net_bind_service --bounding-set=-net_bind_service",
        occd = testkit::daemon::daemon_binary().display(),
    );
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    rig.set_daemon_binary(path);
    rig.start_daemon(&[]);
    let output = rig.run_occ(&["forward", "add", "--host", "h", "-L", "80:localhost:9"]);
    assert_eq!(output.code(), 1, "{output:?}");
    let hint = "hint: ports below 1024 are root's; occ forward add -L 8080:localhost:9 --host h";
    assert!(output.stderr.contains(hint), "{output:?}");
}
