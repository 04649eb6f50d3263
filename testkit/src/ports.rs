//! Ports of this machine that nobody else takes by chance.
//!
//! A port that is closed to be bound again, or bound by who does not listen yet, is anybody's: Linux gives it to the next
//! who asks with `SO_REUSEADDR`, as every server does. So each process has ports of its own while it runs.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Below the ports that Linux gives to whoever asks for any (`ip_local_port_range`, 32768 and up): one of these
/// stays free between the moment it is let go and the next bind, however many connections are made meanwhile.
const PORTS: Range<u16> = 20_000..32_000;

/// Ports that a process takes at a time. It listens on the first of them, which shows whose they are.
const BLOCK: u16 = 60;

/// The ports of this process.
static OWN: Mutex<Own> = Mutex::new(Own { marks: Vec::new(), left: 0..0 });

struct Own {
    marks: Vec<TcpListener>,
    /// Those that were not given yet.
    left: Range<u16>,
}

impl Own {
    /// Returns a port that was not given before.
    fn next(&mut self) -> u16 {
        loop {
            if let Some(port) = self.left.next() {
                return port;
            }
            self.take();
        }
    }

    /// Takes a block that no other process has.
    fn take(&mut self) {
        let blocks = u32::from(PORTS.end - PORTS.start) / u32::from(BLOCK);
        for offset in 0..blocks {
            // Not all of them begin to look at the same one.
            let block = std::process::id().wrapping_add(offset) % blocks;
            let first = PORTS.start + u16::try_from(block).unwrap() * BLOCK;
            if let Ok(mark) = TcpListener::bind((Ipv4Addr::LOCALHOST, first)) {
                self.marks.push(mark);
                self.left = first + 1..first + BLOCK;
                return;
            }
        }
        panic!("no free ports in {PORTS:?}");
    }
}

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
    let mut own = OWN.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if let Ok(listener) = TcpListener::bind((address, own.next())) {
            return listener;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{BLOCK, Own, PORTS, free_port, listen};

    #[test]
    fn a_port_is_not_given_twice() {
        let held = listen().local_addr().unwrap().port();
        let ports = [held, free_port(), free_port()];
        assert!(ports.iter().all(|port| PORTS.contains(port)), "{ports:?}");
        assert!(ports[0] != ports[1] && ports[1] != ports[2], "{ports:?}");
    }

    #[test]
    fn two_have_no_port_in_common_however_many_they_take() {
        let new = || Own { marks: Vec::new(), left: 0..0 };
        let mut owns = [new(), new()];
        let mut given = std::collections::HashSet::new();
        for _ in 0..2 * BLOCK {
            for own in &mut owns {
                assert!(given.insert(own.next()));
            }
        }
    }
}
