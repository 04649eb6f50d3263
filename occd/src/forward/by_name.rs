//! One port for all sandboxes: `http://NAME.localhost:4180` leads to the sandbox of the host NAME. Each has an origin of
//! its own then, so that a browser keeps their cookies apart.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::open::open;
use super::relay::relay;
use super::running::Running;
use super::stream::LocalStream;
use super::{Forwards, serve};

/// How long a client may take to send its request's head.
const HEADER_TIME: Duration = Duration::from_secs(10);
/// The longest head that is read, in bytes.
const LONGEST: usize = 64 * 1024;
/// The most headers of one.
const HEADERS: usize = 100;
/// What a name ends with that browsers look for on this machine (RFC 6761, section 6.3).
const SUFFIX: &str = ".localhost";

/// Serves a client to its end. An error is one that went away.
pub(super) async fn client(mut client: TcpStream, forwards: Weak<Forwards>) -> io::Result<()> {
    client.set_nodelay(true)?;
    let port = client.local_addr()?.port();
    let mut head = Vec::new();
    let asked = timeout(HEADER_TIME, asked_for(&mut client, &mut head)).await;
    let name = match asked {
        Ok(Ok(Some(name))) => name,
        Ok(Ok(None)) => {
            let why = "The address must be http://NAME.localhost, where NAME is a host of occ's.";
            return serve::refuse(client, "421 Misdirected Request", why).await;
        }
        Ok(Err(error)) => return Err(error),
        Err(_) => return Ok(()),
    };
    let found = forwards.upgrade().and_then(|forwards| forwards.sandbox_of(&name));
    let Some(running) = found else {
        let known = forwards.upgrade().map(|forwards| forwards.names()).unwrap_or_default();
        let known: Vec<String> =
            known.iter().map(|name| format!("http://{name}{SUFFIX}:{port}")).collect();
        let known = match known.is_empty() {
            true => "None is known".to_owned(),
            false => format!("Known are {}", known.join(", ")),
        };
        let why = format!(
            "There is no sandbox of '{name}' here. {known}. occ start --host NAME adds one, and occ host list shows the hosts."
        );
        return serve::refuse(client, "404 Not Found", &why).await;
    };
    // The port goes on for the others when this sandbox's forward ends.
    let served = served(client, head, &running);
    running.end.run_until_cancelled(served).await.unwrap_or(Ok(()))
}

/// Serves a client of that sandbox, whose first request has this head.
async fn served(client: TcpStream, head: Vec<u8>, running: &Arc<Running>) -> io::Result<()> {
    let Some(to) = &running.record.to else { return Ok(()) };
    let _open = running.connection();
    match open(&running.host, to, running.whose()).await {
        Ok(channel) => {
            // A browser keeps a connection for one origin, so what follows is for the same host.
            let (client, begun) = (LocalStream::Tcp(client), Bytes::from(head));
            if let Err(broken) = relay(client, begun, channel, &running.counts).await {
                running.broke(&broken);
            }
            Ok(())
        }
        Err(no_way) => {
            running.failed(no_way.why());
            serve::unavailable(client, running, &no_way).await
        }
    }
}

/// Reads a request's head. Returns the name of the host that it is for, if it names one.
async fn asked_for(client: &mut TcpStream, head: &mut Vec<u8>) -> io::Result<Option<String>> {
    loop {
        if client.read_buf(head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(head) {
            Ok(httparse::Status::Complete(_)) => return Ok(named(request.headers)),
            Ok(httparse::Status::Partial) if head.len() < LONGEST => {}
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Returns the host's name in the one Host header. A page elsewhere that resolves to this machine has another one.
fn named(headers: &[httparse::Header<'_>]) -> Option<String> {
    let mut hosts = headers.iter().filter(|header| header.name.eq_ignore_ascii_case("host"));
    let (host, more) = (hosts.next()?, hosts.next());
    let host = std::str::from_utf8(host.value).ok()?.trim();
    let (name, port) = host.split_once(':').map_or((host, ""), |(name, port)| (name, port));
    let name = name.to_ascii_lowercase();
    let name = name.strip_suffix(SUFFIX)?;
    let fits = !name.is_empty() && more.is_none() && port.bytes().all(|b| b.is_ascii_digit());
    fits.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_taken() {
        let of = |values: &[&'static str]| {
            let headers: Vec<_> = values
                .iter()
                .map(|value| httparse::Header { name: "hOst", value: value.as_bytes() })
                .collect();
            named(&headers)
        };
        assert_eq!(of(&["prod-1.localhost:4180"]).as_deref(), Some("prod-1"));
        assert_eq!(of(&["Prod.EU.localhost"]).as_deref(), Some("prod.eu"));
        for bad in
            ["localhost:4180", ".localhost", "evil.com", "a.localhost.evil.com", "a.localhost:x"]
        {
            assert_eq!(of(&[bad]), None, "{bad}");
        }
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["a.localhost", "b.localhost"]), None);
    }
}
