//! What changes: `GET /v1/events`, as server-sent events or as lines of JSON.
//!
//! A stream begins with a [`Snapshot`], then tells every change. Who was away names the last event that it has seen (the
//! header `Last-Event-ID`, or `?after=`) and is told what it missed; where that is not known any more, a
//! [`Change::Gap`] and another snapshot come.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::container::ContainerStatus;
use crate::forward::Forward;
use crate::name::HostName;
use crate::operation::Operation;
use crate::prompt::Prompt;
use crate::session::Session;
use crate::status::HostStatus;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A host's link and settings.
    Host,
    /// A host's sandbox.
    Container,
    /// A forward.
    Forward,
    /// A session.
    Session,
    /// A question that waits for a person.
    Prompt,
    /// An operation.
    Operation,
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Host, Self::Container, Self::Forward, Self::Session, Self::Prompt, Self::Operation];

    /// Returns the word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Container => "container",
            Self::Forward => "forward",
            Self::Session => "session",
            Self::Prompt => "prompt",
            Self::Operation => "operation",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no kind of event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownKind(String);

impl fmt::Display for UnknownKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = EventKind::ALL.map(EventKind::as_str).join(", ");
        write!(f, "'{}' is no kind of event; known are {known}", self.0)
    }
}

impl std::error::Error for UnknownKind {}

impl FromStr for EventKind {
    type Err = UnknownKind;

    fn from_str(word: &str) -> Result<Self, UnknownKind> {
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == word);
        found.ok_or_else(|| UnknownKind(word.to_owned()))
    }
}

/// An event: a line of `GET /v1/events` with `Accept: application/x-ndjson`, or the data of a server-sent event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Event {
    /// What to name in `Last-Event-ID` to go on after it.
    pub id: String,
    /// What has happened.
    #[serde(flatten)]
    pub change: Change,
}

/// What has happened. A thing that is absent is no more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Change {
    /// How everything is.
    Snapshot(Box<Snapshot>),
    /// Events were missed that are not known any more; a snapshot follows.
    Gap {
        /// Why.
        reason: GapReason,
    },
    /// A host.
    Host {
        /// Which.
        host: HostName,
        /// How it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        status: Option<Box<HostStatus>>,
    },
    /// A host's sandbox.
    Container {
        /// The host.
        host: HostName,
        /// How it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        container: Option<Box<ContainerStatus>>,
    },
    /// A forward.
    Forward {
        /// Its ID.
        forward_id: String,
        /// Its host.
        host: HostName,
        /// How it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        forward: Option<Box<Forward>>,
    },
    /// A session.
    Session {
        /// Its ID.
        session_id: String,
        /// Its host; absent for this machine.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<HostName>,
        /// How it is, as it was known last.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session: Option<Box<Session>>,
    },
    /// A question that waits for a person; absent when it is answered, or asked no more.
    Prompt {
        /// Its ID.
        prompt_id: u64,
        /// Its host, if it is about one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<HostName>,
        /// The question.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        prompt: Option<Box<Prompt>>,
    },
    /// An operation.
    Operation {
        /// Its ID.
        operation_id: String,
        /// Its host; absent for this machine.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<HostName>,
        /// How it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        operation: Option<Box<Operation>>,
    },
    /// An event of a newer daemon.
    #[serde(other)]
    Unknown,
}

/// How everything is, as far as it was asked for.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Snapshot {
    /// The hosts, with their sandboxes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<HostStatus>>,
    /// The sandboxes that are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub containers: Option<Vec<HostContainer>>,
    /// The forwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwards: Option<Vec<Forward>>,
    /// The sessions, as they were known last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<Vec<Session>>,
    /// The questions that wait for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompts: Option<Vec<Prompt>>,
    /// The operations, the newest first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations: Option<Vec<Operation>>,
}

/// A sandbox in a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct HostContainer {
    /// Its host.
    pub host: HostName,
    /// How it is.
    pub container: ContainerStatus,
}

/// Why events were missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// It was another daemon that told of them.
    Restarted,
    /// They are too long ago, or came faster than they were read.
    Forgotten,
    /// What was said to be the last event that was seen is none; or a reason of a newer daemon.
    #[serde(other)]
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_flat_object() {
        let host = HostName::new("h").unwrap();
        let event =
            Event { id: "a-1".into(), change: Change::Host { host: host.clone(), status: None } };
        let text = serde_json::to_string(&event).unwrap();
        assert_eq!(text, r#"{"id":"a-1","event":"host","host":"h"}"#);
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event);
        let newer = r#"{"id":"a-2","event":"weather","host":"h"}"#;
        assert_eq!(serde_json::from_str::<Event>(newer).unwrap().change, Change::Unknown);
    }

    #[test]
    fn kinds_are_named_as_they_are_on_the_wire() {
        for kind in EventKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        let error = "hots".parse::<EventKind>().unwrap_err().to_string();
        assert!(error.starts_with("'hots' is no kind of event; known are host, "), "{error}");
    }
}
