//! Ports of this machine that nobody else takes by chance.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the ports that Linux gives to whoever asks for any (`ip_local_port_range`, 32768 and up): one of these
/// stays free between the moment it is let go and the next bind, however many connections are made meanwhile.
const PORTS: Range<u16> = 20_000..32_000;

/// Ports between where one process begins to look and where the next does, so that tests that run at the same
/// time do not meet.
const APART: u32 = 61;

/// Returns a port that nobody listens on at `address`.
pub fn free_port_at(address: IpAddr) -> u16 {
    listen_at(address).local_addr().unwrap().port()
}

/// Returns a port that nobody listens on at 127.0.0.1.
pub fn free_port() -> u16 {
    free_port_at(Ipv4Addr::LOCALHOST.into())
}

/// Listens on a port of 127.0.0.1 that may be closed and bound again.
pub(crate) fn listen() -> TcpListener {
    listen_at(Ipv4Addr::LOCALHOST.into())
}

fn listen_at(address: IpAddr) -> TcpListener {
    static ASKED: AtomicU16 = AtomicU16::new(0);
    let ports = u32::from(PORTS.end - PORTS.start);
    let first = std::process::id().wrapping_mul(APART) % ports;
    for _ in PORTS {
        let asked = ASKED.fetch_add(1, Ordering::Relaxed);
        let offset = (first + u32::from(asked)) % ports;
        let port = PORTS.start + u16::try_from(offset).unwrap();
        if let Ok(listener) = TcpListener::bind((address, port)) {
            return listener;
        }
    }
    panic!("no free port at {address} in {PORTS:?}");
}

#[cfg(test)]
mod tests {
    use super::{PORTS, free_port, listen};

    #[test]
    fn a_port_is_not_given_twice_and_not_one_that_somebody_has() {
        let held = listen().local_addr().unwrap().port();
        let ports = [held, free_port(), free_port()];
        assert!(ports.iter().all(|port| PORTS.contains(port)), "{ports:?}");
        assert!(ports[0] != ports[1] && ports[1] != ports[2], "{ports:?}");
    }
}
