//! TCP to a server: its addresses, and a connection to the first of them that answers.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use occ_proto::status::Phase;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::error::ConnectError;
use crate::blocking::blocking;

/// How long a name may take to resolve.
const RESOLVE: Duration = Duration::from_secs(5);
/// Lookups at once. Each has a thread, and a name server that does not answer must not take those that the disk is
/// waited for on.
static LOOKUPS: Semaphore = Semaphore::const_new(32);
/// How long an address has before the next one is tried beside it (RFC 8305, section 5).
const STAGGER: Duration = Duration::from_millis(250);
/// How long written data may stay unacknowledged, or wait to be written, before the connection is given up.
pub(super) const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// What ssh_config says of our end of a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Local {
    /// Whether only IPv6 is used, or only IPv4 (`AddressFamily`).
    pub v6: Option<bool>,
    /// Our address where the server's is of IPv4, and where it is of IPv6; neither unless `BindAddress` is set.
    pub addresses: [Option<SocketAddr>; 2],
}

impl Local {
    /// Returns it with the addresses of `BindAddress`, of each family the first, as ssh takes them.
    pub(super) async fn bound_to(self, name: &str) -> Result<Self, ConnectError> {
        let found = lookup(name, 0).await.map_err(|error| match error {
            ConnectError::Resolve { host, source } => {
                ConnectError::Resolve { host: format!("{host} (BindAddress)"), source }
            }
            other => other,
        })?;
        let first = |v6| found.iter().find(|addr| addr.is_ipv6() == v6).copied();
        Ok(Self { addresses: [first(false), first(true)], ..self })
    }

    fn ours(self, addr: &SocketAddr) -> Option<SocketAddr> {
        self.addresses[usize::from(addr.is_ipv6())]
    }

    fn fits(self, addr: &SocketAddr) -> bool {
        let family = self.v6.is_none_or(|v6| addr.is_ipv6() == v6);
        family && (self.addresses == [None; 2] || self.ours(addr).is_some())
    }

    async fn connect(self, addr: SocketAddr) -> io::Result<TcpStream> {
        let Some(ours) = self.ours(&addr) else { return TcpStream::connect(addr).await };
        let socket = if addr.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }?;
        socket.bind(ours).map_err(|error| {
            let ours = ours.ip();
            io::Error::new(error.kind(), format!("BindAddress {ours} of ssh_config: {error}"))
        })?;
        socket.connect(addr).await
    }
}

/// Returns the addresses of a name, or of an address written out.
pub(super) async fn lookup(host: &str, port: u16) -> Result<Vec<SocketAddr>, ConnectError> {
    let error = |source| ConnectError::Resolve { host: host.to_owned(), source };
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let name = host.to_owned();
    let asking = async {
        // Never closed.
        let place = LOOKUPS.acquire().await;
        // The thread waits on when nobody does any more, and so the place is given up with it.
        blocking(move || {
            let _place = place;
            (name.as_str(), port).to_socket_addrs().map(|found| found.collect::<Vec<_>>())
        })
        .await
    };
    let addresses = match timeout(RESOLVE, asking).await {
        Ok(result) => result.map_err(error)?,
        Err(_) => return Err(ConnectError::Timeout { phase: Phase::Resolve, after: RESOLVE }),
    };
    if addresses.is_empty() {
        return Err(error(io::Error::other("no address")));
    }
    Ok(addresses)
}

/// Connects to the first address that answers, of those that fit our end. Both families are raced, so that a dead one costs a quarter
/// of a second and not a time-out (RFC 8305). The caller sets the limit.
pub(super) async fn connect(
    addresses: &[SocketAddr],
    local: Local,
) -> Result<(TcpStream, SocketAddr), ConnectError> {
    let attempt = |addr: SocketAddr| async move { (addr, local.connect(addr).await) };
    let fitting: Vec<SocketAddr> =
        addresses.iter().filter(|addr| local.fits(addr)).copied().collect();
    if let ([], Some(addr)) = (&fitting[..], addresses.first()) {
        let why = "AddressFamily or BindAddress of ssh_config asks for the other family";
        let source = io::Error::new(io::ErrorKind::AddrNotAvailable, why);
        return Err(ConnectError::Connect { addr: *addr, source });
    }
    let mut waiting = interleaved(&fitting).into_iter();
    let mut attempts: FuturesUnordered<_> = waiting.next().map(attempt).into_iter().collect();
    loop {
        let more = waiting.len() > 0;
        tokio::select! {
            biased;
            // There is always one: a failed one that was the last returns.
            Some((addr, result)) = attempts.next() => {
                let failed = |source| ConnectError::Connect { addr, source };
                match result {
                    Ok(tcp) => {
                        tune(&tcp).map_err(failed)?;
                        return Ok((tcp, addr));
                    }
                    // The next one at once, and the last error when there is none.
                    Err(source) => match waiting.next() {
                        Some(next) => attempts.push(attempt(next)),
                        None if attempts.is_empty() => return Err(failed(source)),
                        None => {}
                    },
                }
            }
            () = sleep(STAGGER), if more => attempts.extend(waiting.next().map(attempt)),
        }
    }
}

/// Returns the addresses with the families in turns, the resolver's first one first (RFC 8305, section 4).
fn interleaved(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.iter().partition(|addr| addr.is_ipv6() == first_is_v6);
    let longer = first.len().max(second.len());
    (0..longer).flat_map(|at| [first.get(at), second.get(at)]).flatten().copied().collect()
}

fn tune(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(tcp).set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn families_take_turns() {
        let of = |text: &[&str]| -> Vec<SocketAddr> {
            text.iter().map(|addr| addr.parse().unwrap()).collect()
        };
        let mixed = of(&["[::1]:1", "[::2]:1", "[::3]:1", "127.0.0.1:1", "127.0.0.2:1"]);
        let turns = of(&["[::1]:1", "127.0.0.1:1", "[::2]:1", "127.0.0.2:1", "[::3]:1"]);
        assert_eq!(interleaved(&mixed), turns);
        assert_eq!(interleaved(&of(&["127.0.0.1:1"])), of(&["127.0.0.1:1"]));
    }

    /// Returns an address that takes a connection and never completes it: its queue is full.
    async fn silent() -> (socket2::Socket, Vec<TcpStream>, SocketAddr) {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.9:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.listen(0).unwrap();
        let addr = socket.local_addr().unwrap().as_socket().unwrap();
        let mut fill = Vec::new();
        while let Ok(Ok(tcp)) = timeout(Duration::from_millis(200), TcpStream::connect(addr)).await
        {
            fill.push(tcp);
        }
        (socket, fill, addr)
    }

    #[tokio::test]
    async fn a_dead_address_does_not_hold_up_a_live_one() {
        let (_socket, _fill, dead) = silent().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let live = listener.local_addr().unwrap();
        let begun = Instant::now();
        let (_, addr) = connect(&[dead, live], Local::default()).await.unwrap();
        assert_eq!(addr, live);
        // Far below the time that an address has when nothing else is to be had.
        assert!(begun.elapsed() < Duration::from_secs(5));
    }

    #[tokio::test]
    async fn the_error_is_that_of_the_last_address() {
        let refused: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let error = connect(&[refused, refused], Local::default()).await.unwrap_err();
        assert!(matches!(error, ConnectError::Connect { addr, .. } if addr == refused));
    }

    #[tokio::test]
    async fn our_end_is_what_is_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = listener.local_addr().unwrap();
        let local = Local { v6: Some(false), ..Local::default() };
        let local = local.bound_to("127.0.0.77").await.unwrap();
        let (tcp, _) = connect(&["[::1]:1".parse().unwrap(), there], local).await.unwrap();
        assert_eq!(tcp.local_addr().unwrap().ip().to_string(), "127.0.0.77");
        for local in [
            Local { v6: Some(true), ..Local::default() },
            Local::default().bound_to("::1").await.unwrap(),
        ] {
            let error = connect(&[there], local).await.unwrap_err();
            let ConnectError::Connect { source, .. } = error else { panic!("{error}") };
            assert!(source.to_string().contains("AddressFamily"), "{source}");
        }
    }

    #[tokio::test]
    async fn an_address_that_is_not_ours_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = listener.local_addr().unwrap();
        // RFC 5737: nobody has it.
        let local = Local::default().bound_to("203.0.113.77").await.unwrap();
        let error = connect(&[there], local).await.unwrap_err();
        let ConnectError::Connect { source, .. } = error else { panic!("{error}") };
        let says = "BindAddress 203.0.113.77 of ssh_config: ";
        assert!(source.to_string().starts_with(says), "{source}");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn our_end_may_be_a_name_or_have_an_interface() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = listener.local_addr().unwrap();
        let local = Local::default().bound_to("localhost").await.unwrap();
        let (tcp, _) = connect(&[there], local).await.unwrap();
        assert!(tcp.local_addr().unwrap().ip().is_loopback());
        let local = Local::default().bound_to("fe80::1%lo").await.unwrap();
        let [None, Some(SocketAddr::V6(ours))] = local.addresses else { panic!("{local:?}") };
        assert_ne!(ours.scope_id(), 0);
    }
}
