//! What is remembered of forwards.

use std::path::Path;

use occ_proto::HostName;
use occ_proto::forward::{Direction, Endpoint, Service};
use serde::{Deserialize, Serialize};

use crate::state_file;

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

/// Reads the file. One that is not there remembers nothing; an entry that cannot be read is left out, and the file as it was
/// is kept beside the next one.
pub(super) fn load(file: &Path) -> Vec<Record> {
    let all: Vec<serde_json::Value> = state_file::load(file, "the forwards are not remembered");
    let count = all.len();
    let read = |entry| match serde_json::from_value::<Remembered>(entry) {
        Ok(remembered) => Some(Record::from(remembered)),
        Err(error) => {
            tracing::error!(%error, "a forward in {} cannot be read", file.display());
            None
        }
    };
    let records: Vec<Record> = all.into_iter().filter_map(read).collect();
    if records.len() < count
        && let Err(error) = state_file::copy_aside(file)
    {
        tracing::error!(%error, "{} is not kept beside", file.display());
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_older_daemon_remembered_keeps_its_port() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("forwards.json");
        assert_eq!(load(&file), []);
        std::fs::write(
            &file,
            r#"[{"host":"a","service":"sandbox","address":"127.0.0.1","port":3000,"local_port":3001,"open":false}]"#,
        )
        .unwrap();
        let before = load(&file);
        assert_eq!(before[0].listen, on_loopback(3001));
        assert_eq!(before[0].to, Some(on_loopback(3000)));
        state_file::save(&file, &before).unwrap();
        assert_eq!(load(&file), before);
        // What is wrong with one is nothing to the others.
        let text = std::fs::read_to_string(&file).unwrap().replacen('[', "[{\"id\": 1},", 1);
        std::fs::write(&file, &text).unwrap();
        assert_eq!(load(&file), before);
        let kept = dir.path().join("forwards.json.damaged");
        assert_eq!(std::fs::read_to_string(kept).unwrap(), text);
    }
}
