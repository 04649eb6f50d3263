//! The link's faults, with plain TCP and with a real SSH login.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use testkit::ssh::{ssh, start};
use testkit::wait::blocking::wait_until;
use testkit::{FaultyLink, RealSshd};
use tokio::time::Instant;

const DEADLINE: Duration = Duration::from_secs(20);

/// How long silence is watched: a fault that does not hold shows within a few milliseconds.
const SILENCE: Duration = Duration::from_millis(200);

/// A server that sends back what it gets. Its threads end with their connections.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                stream.set_nodelay(true).unwrap();
                let _ = std::io::copy(&mut &stream, &mut &stream);
                let _ = stream.shutdown(std::net::Shutdown::Write);
            });
        }
    });
    addr
}

fn connect(link: &FaultyLink) -> TcpStream {
    let stream = TcpStream::connect(link.addr()).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

fn round_trip(stream: &mut TcpStream) -> Duration {
    let start = Instant::now();
    stream.write_all(b"ping").unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"ping");
    start.elapsed()
}

fn assert_silent(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    let error = stream.read(&mut [0; 1]).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
}

#[test]
fn latency_delays_both_ways_and_can_be_changed_under_way() {
    let link = FaultyLink::start(echo());
    let mut stream = connect(&link);
    round_trip(&mut stream);
    link.set_latency(Duration::from_millis(60));
    assert!(round_trip(&mut stream) >= Duration::from_millis(120));
    link.set_latency(Duration::ZERO);
    assert!(round_trip(&mut stream) < Duration::from_millis(60));
    assert_eq!((link.connections(), link.active()), (1, 1));
    wait_until("the count", DEADLINE, || link.bytes(), |bytes| *bytes == (12, 12));
    drop(stream);
    wait_until("the connection to end", DEADLINE, || link.active(), |n| *n == 0);
}

/// Sends `size` bytes from a server through the link, with a position in every eight bytes, and
/// returns how long they took to arrive.
fn transfer(link_latency: Duration, size: usize) -> Duration {
    let block: Vec<u8> = (0..32 * 1024_u64).flat_map(u64::to_le_bytes).collect();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let link = FaultyLink::start(listener.local_addr().unwrap());
    link.set_latency(link_latency);
    let mut client = connect(&link);
    let (mut server, _) = listener.accept().unwrap();
    let expected = block.clone();
    let writer = std::thread::spawn(move || {
        for _ in 0..size / block.len() {
            server.write_all(&block).unwrap();
        }
    });
    let start = Instant::now();
    let mut got = vec![0; expected.len()];
    for _ in 0..size / expected.len() {
        client.read_exact(&mut got).unwrap();
        assert!(got == expected, "bytes were lost or reordered");
    }
    writer.join().unwrap();
    start.elapsed()
}

#[test]
fn latency_keeps_order_and_holds_back_no_bandwidth() {
    // 192 MiB with 100 ms: a proxy that holds less than 64 MiB under way would need 300 ms and more
    // on top of what the copying costs, which is measured without latency.
    let size = 192 * 1024 * 1024;
    let plain = transfer(Duration::ZERO, size);
    let delayed = transfer(Duration::from_millis(100), size);
    println!("{} MiB: {plain:?} without, {delayed:?} with 100 ms", size >> 20);
    assert!(delayed < plain * 4 + Duration::from_millis(600), "{plain:?} became {delayed:?}");
}

#[test]
fn bandwidth_is_limited() {
    let link = FaultyLink::start(echo());
    link.set_bandwidth(Some(200_000));
    let mut stream = connect(&link);
    let start = Instant::now();
    stream.write_all(&[7; 100_000]).unwrap();
    stream.read_exact(&mut vec![0; 100_000]).unwrap();
    assert!(start.elapsed() > Duration::from_millis(450), "{:?}", start.elapsed());
    link.set_bandwidth(None);
    let start = Instant::now();
    stream.write_all(&[7; 100_000]).unwrap();
    stream.read_exact(&mut vec![0; 100_000]).unwrap();
    assert!(start.elapsed() < Duration::from_millis(450), "{:?}", start.elapsed());
}

#[test]
fn a_black_hole_swallows_old_and_new_connections_and_lets_go() {
    let link = FaultyLink::start(echo());
    let mut old = connect(&link);
    round_trip(&mut old);
    link.blackhole(true);
    let mut new = connect(&link);
    for stream in [&mut old, &mut new] {
        stream.write_all(b"ping").unwrap();
        assert_silent(stream);
    }
    link.blackhole(false);
    for stream in [&mut old, &mut new] {
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"ping");
    }
}

#[test]
fn refusing_keeps_the_port_and_the_open_connections() {
    let link = FaultyLink::start(echo());
    let mut old = connect(&link);
    round_trip(&mut old);
    for _ in 0..3 {
        link.refuse(true);
        let error = TcpStream::connect(link.addr()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        round_trip(&mut old);
        link.refuse(false);
        round_trip(&mut connect(&link));
    }
}

#[test]
fn connections_are_reset_or_closed_in_order() {
    let link = FaultyLink::start(echo());
    let mut stream = connect(&link);
    round_trip(&mut stream);
    link.reset_all();
    assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let mut stream = connect(&link);
    round_trip(&mut stream);
    link.close_all();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    wait_until("both to end", DEADLINE, || link.active(), |n| *n == 0);
}

#[test]
fn the_servers_bytes_stop_after_a_count_and_slices_lose_nothing() {
    let link = FaultyLink::start(echo());
    link.stall_after(Some(6));
    let mut stream = connect(&link);
    stream.write_all(b"0123456789").unwrap();
    let mut first = [0; 6];
    stream.read_exact(&mut first).unwrap();
    assert_silent(&mut stream);
    link.slice(Some(1));
    link.stall_after(None);
    let mut rest = [0; 4];
    stream.read_exact(&mut rest).unwrap();
    assert_eq!((&first, &rest), (b"012345", b"6789"));
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn a_target_that_is_gone_resets_and_drop_ends_everything() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let target = listener.local_addr().unwrap();
    drop(listener);
    let link = FaultyLink::start(target);
    assert!(connect(&link).read(&mut [0; 1]).is_err());
    let link = FaultyLink::start(echo());
    let mut stream = connect(&link);
    round_trip(&mut stream);
    let addr = link.addr();
    drop(link);
    assert!(matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_)));
    assert!(TcpStream::connect(addr).is_err());
}

#[test]
fn a_login_through_the_link_feels_its_faults() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let link = FaultyLink::start(sshd.addr());
    let client = || ssh(link.addr(), sshd.user(), sshd.client_key_path());
    let timed = || {
        let start = Instant::now();
        assert!(client().arg("true").status().unwrap().success());
        start.elapsed()
    };
    let near = timed();
    link.set_latency(Duration::from_millis(40));
    let far = timed();
    // A login and a command take at least five round trips.
    assert!(far >= Duration::from_millis(400), "{near:?} near, {far:?} far");
    link.set_latency(Duration::ZERO);

    let mut held = start(client(), "exec sleep 1000");
    link.reset_all();
    assert_eq!(held.wait().unwrap().code(), Some(255));

    link.blackhole(true);
    let before = link.connections();
    let mut lost = client().arg("true").spawn().unwrap();
    wait_until("the dial", DEADLINE, || link.connections(), |n| *n > before);
    std::thread::sleep(SILENCE);
    assert!(lost.try_wait().unwrap().is_none(), "a login went through a black hole");
    link.blackhole(false);
    assert!(lost.wait().unwrap().success());
}
