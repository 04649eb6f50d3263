//! What a client of SOCKS wants: version 5 (RFC 1928) without a login, and 4 and 4a, of which only CONNECT. A name is not
//! looked up here: the host does that.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use occ_proto::forward::Endpoint;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

/// How long a client may take to say what it wants.
const REQUEST: Duration = Duration::from_secs(10);
/// The longest text of version 4, in bytes.
const LONGEST: usize = 255;

const CONNECT: u8 = 1;

/// The version that a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V4,
    V5,
}

/// Where a client wants to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) version: Version,
    pub(super) to: Endpoint,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Granted,
    /// The host is not connected.
    Unreachable,
    Forbidden,
    Refused,
    /// The name or the address is none.
    Failed,
    NoSuchCommand,
    NoSuchAddress,
}

impl Answer {
    /// Returns the number of RFC 1928, section 6.
    fn in_5(self) -> u8 {
        match self {
            Self::Granted => 0,
            Self::Failed => 1,
            Self::Forbidden => 2,
            Self::Unreachable => 4,
            Self::Refused => 5,
            Self::NoSuchCommand => 7,
            Self::NoSuchAddress => 8,
        }
    }
}

/// Reads what a client wants; nothing when it has been told that it does not get it.
///
/// # Errors
/// When it goes away, takes too long, or does not speak SOCKS.
pub(super) async fn request(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> io::Result<Option<Request>> {
    let reading = async {
        let wanted = match client.read_u8().await? {
            5 => v5(client).await?,
            4 => v4(client).await?,
            _ => return Err(garbage()),
        };
        match wanted {
            Ok(request) => Ok(Some(request)),
            Err((version, answer_)) => {
                answer(client, version, answer_).await?;
                Ok(None)
            }
        }
    };
    timeout(REQUEST, reading).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn garbage() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "this is not SOCKS")
}

type Wanted = Result<Request, (Version, Answer)>;

async fn v5(client: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<Wanted> {
    let count = client.read_u8().await?;
    let mut methods = vec![0; count.into()];
    client.read_exact(&mut methods).await?;
    if !methods.contains(&0) {
        // It insists on a login (RFC 1928, section 3).
        client.write_all(&[5, 0xFF]).await?;
        return Err(garbage());
    }
    client.write_all(&[5, 0]).await?;
    let mut head = [0; 4];
    client.read_exact(&mut head).await?;
    let [5, command, 0, kind] = head else { return Err(garbage()) };
    let host = match kind {
        1 => Ipv4Addr::from_bits(client.read_u32().await?).to_string(),
        4 => Ipv6Addr::from_bits(client.read_u128().await?).to_string(),
        3 => {
            let length = client.read_u8().await?;
            let mut name = vec![0; length.into()];
            client.read_exact(&mut name).await?;
            String::from_utf8(name).unwrap_or_default()
        }
        _ => return Ok(Err((Version::V5, Answer::NoSuchAddress))),
    };
    let port = client.read_u16().await?;
    Ok(wanted(Version::V5, command, host, port))
}

async fn v4(client: &mut (impl AsyncRead + Unpin)) -> io::Result<Wanted> {
    let command = client.read_u8().await?;
    let port = client.read_u16().await?;
    let address = client.read_u32().await?;
    text(client).await?;
    // 4a: a name follows an address that is none.
    let host = match address {
        1..=255 => String::from_utf8(text(client).await?).unwrap_or_default(),
        _ => Ipv4Addr::from_bits(address).to_string(),
    };
    Ok(wanted(Version::V4, command, host, port))
}

/// Reads up to a NUL.
async fn text(client: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    loop {
        match client.read_u8().await? {
            0 => return Ok(text),
            byte if text.len() < LONGEST => text.push(byte),
            _ => return Err(garbage()),
        }
    }
}

fn wanted(version: Version, command: u8, host: String, port: u16) -> Wanted {
    if command != CONNECT {
        return Err((version, Answer::NoSuchCommand));
    }
    let to = Endpoint::Tcp { host, port };
    // What would not be understood as one elsewhere is none.
    let is_one = port != 0 && to.to_string().parse::<Endpoint>().as_ref() == Ok(&to);
    if is_one { Ok(Request { version, to }) } else { Err((version, Answer::Failed)) }
}

/// Tells a client what became of its wish.
pub(super) async fn answer(
    client: &mut (impl AsyncWrite + Unpin),
    version: Version,
    answer: Answer,
) -> io::Result<()> {
    match version {
        // The address is that of the host's end, which nobody tells.
        Version::V5 => client.write_all(&[5, answer.in_5(), 0, 1, 0, 0, 0, 0, 0, 0]).await?,
        Version::V4 => {
            let code = if answer == Answer::Granted { 0x5A } else { 0x5B };
            client.write_all(&[0, code, 0, 0, 0, 0, 0, 0]).await?;
        }
    }
    if answer != Answer::Granted {
        client.shutdown().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Gives a client's bytes and returns what is understood and what is answered.
    fn given(bytes: &[u8]) -> (io::Result<Option<Request>>, Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (mut near, mut far) = tokio::io::duplex(4096);
            near.write_all(bytes).await.unwrap();
            near.shutdown().await.unwrap();
            let understood = request(&mut far).await;
            drop(far);
            let mut answered = Vec::new();
            near.read_to_end(&mut answered).await.unwrap();
            (understood, answered)
        })
    }

    fn to(host: &str, port: u16) -> Endpoint {
        Endpoint::Tcp { host: host.to_owned(), port }
    }

    #[test]
    fn versions_4_4a_and_5_are_understood() {
        let name = b"\x05\x02\x02\x00\x05\x01\x00\x03\x0bexample.com\x01\xbb";
        let (request, answered) = given(name);
        let wanted = Request { version: Version::V5, to: to("example.com", 443) };
        assert_eq!(request.unwrap().unwrap(), wanted);
        assert_eq!(answered, [5, 0]);
        let v4 = b"\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50";
        assert_eq!(given(v4).0.unwrap().unwrap().to, to("127.0.0.1", 80));
        let mut v6 = b"\x05\x01\x00\x05\x01\x00\x04".to_vec();
        v6.extend_from_slice(&Ipv6Addr::LOCALHOST.octets());
        v6.extend_from_slice(&[0, 80]);
        assert_eq!(given(&v6).0.unwrap().unwrap().to, to("::1", 80));
        let four = Request { version: Version::V4, to: to("10.0.0.1", 80) };
        assert_eq!(given(b"\x04\x01\x00\x50\x0a\x00\x00\x01me\0").0.unwrap().unwrap(), four);
        let four_a = given(b"\x04\x01\x00\x50\x00\x00\x00\x01me\0db.internal\0").0;
        assert_eq!(four_a.unwrap().unwrap().to, to("db.internal", 80));
    }

    #[test]
    fn what_is_not_done_is_said() {
        // BIND; an address of another kind; a name that is none; port 0.
        for (tail, code) in [
            (&b"\x02\x00\x01\x7f\x00\x00\x01\x00\x50"[..], 7),
            (b"\x01\x00\x09", 8),
            (b"\x01\x00\x03\x03a\nb\x00\x50", 1),
            (b"\x01\x00\x03\x00\x00\x50", 1),
            (b"\x01\x00\x01\x7f\x00\x00\x01\x00\x00", 1),
        ] {
            let (request, answered) = given(&[b"\x05\x01\x00\x05", tail].concat());
            assert_eq!(request.unwrap(), None);
            assert_eq!(answered[..4], [5, 0, 5, code]);
        }
        assert_eq!(given(b"\x05\x01\x02").1, [5, 0xFF], "a login is insisted on");
        assert_eq!(given(b"\x04\x02\x00\x50\x0a\x00\x00\x01\0").1[..2], [0, 0x5B]);
    }

    #[test]
    fn something_else_is_no_socks() {
        for other in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01", b"", b"\x05\x01\x00\x04"] {
            let (request, _) = given(other);
            assert!(request.is_err());
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = given(&bytes);
        }

        #[test]
        fn a_name_arrives_as_it_was_sent(name in "[a-z0-9][a-z0-9.-]{0,60}", port in 1..=u16::MAX) {
            let mut bytes = vec![5, 1, 0, 5, 1, 0, 3, u8::try_from(name.len()).unwrap()];
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(&port.to_be_bytes());
            prop_assert_eq!(given(&bytes).0.unwrap().unwrap().to, to(&name, port));
        }
    }
}
