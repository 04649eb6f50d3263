//! What is remembered of forwards.

use std::io;
use std::path::Path;

use occ_proto::HostName;
use occ_proto::forward::{Direction, Endpoint, Service};
use serde::{Deserialize, Serialize};

/// A forward as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: String,
    pub(super) host: HostName,
    pub(super) direction: Direction,
    pub(super) listen: Endpoint,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) to: Option<Endpoint>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) service: Option<Service>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) session: Option<String>,
}

impl Record {
    /// Returns the record of a service of a host's, on a port of this machine.
    pub(super) fn of_service(
        host: HostName,
        service: Service,
        (address, port): (&str, u16),
        local_port: u16,
    ) -> Self {
        Self {
            id: new_id(),
            host,
            direction: Direction::Local,
            listen: on_loopback(local_port),
            to: Some(Endpoint::Tcp { host: address.to_owned(), port }),
            service: Some(service),
            session: None,
        }
    }
}

pub(super) fn new_id() -> String {
    format!("{:08x}", fastrand::u32(..))
}

pub(super) fn on_loopback(port: u16) -> Endpoint {
    Endpoint::Tcp { host: "127.0.0.1".to_owned(), port }
}

/// An entry of the file, which an older daemon may have written.
#[derive(Deserialize)]
#[serde(untagged)]
enum Remembered {
    Now(Record),
    Before { host: HostName, service: Service, address: String, port: u16, local_port: u16 },
}

impl From<Remembered> for Record {
    fn from(remembered: Remembered) -> Self {
        match remembered {
            Remembered::Now(record) => record,
            Remembered::Before { host, service, address, port, local_port } => {
                Self::of_service(host, service, (&address, port), local_port)
            }
        }
    }
}

/// Reads the file. One that is not there remembers nothing.
pub(super) fn load(file: &Path) -> io::Result<Vec<Record>> {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let all: Vec<Remembered> = serde_json::from_slice(&bytes)?;
    Ok(all.into_iter().map(Record::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_older_daemon_remembered_keeps_its_port() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("forwards.json");
        assert_eq!(load(&file).unwrap(), []);
        std::fs::write(
            &file,
            r#"[{"host":"a","service":"sandbox","address":"127.0.0.1","port":3000,"local_port":3001,"open":false}]"#,
        )
        .unwrap();
        let before = load(&file).unwrap();
        assert_eq!(before[0].listen, on_loopback(3001));
        assert_eq!(before[0].to, Some(on_loopback(3000)));
        crate::state_file::save(&file, &before).unwrap();
        assert_eq!(load(&file).unwrap(), before);
    }
}
