//! Work that the daemon does to its end, whether or not its client stays: starting, restarting and updating a
//! sandbox, installing Docker.
//!
//! A `POST` starts one and answers `202` with an [`Operation`]; `GET /v1/operations/{id}/events` streams an
//! [`OperationEvent`] per line until it has ended, `DELETE /v1/operations/{id}` cancels it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::container::ContainerStatus;
use crate::error::Problem;
use crate::name::HostName;

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// Makes the sandbox if need be, and starts it.
    Start,
    /// Stops the sandbox, and may remove it.
    Stop,
    /// Stops and starts the sandbox.
    Restart,
    /// Brings the sandbox to the newest image, or back to the one before.
    Update,
    /// Makes the sandbox like another one.
    Sync,
    /// Installs Docker.
    InstallDocker,
    /// Something of a newer daemon.
    #[serde(other)]
    Unknown,
}

impl OperationKind {
    /// Returns the word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Update => "update",
            Self::Sync => "sync",
            Self::InstallDocker => "install docker",
            Self::Unknown => "unknown",
        }
    }
}

/// How far an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// It goes on.
    Running,
    /// It has done what it was to do.
    Succeeded,
    /// It has failed; `problem` says why.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
    /// The daemon ended in the middle of it; what came of it is not known.
    Interrupted,
    /// One of a newer daemon that this program does not know.
    #[serde(other)]
    Unknown,
}

impl OperationState {
    /// Returns the word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
            Self::Unknown => "unknown",
        }
    }
}

/// An operation: `GET /v1/operations/{id}`. It stays readable for a while after its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Operation {
    /// Its name.
    pub id: String,
    /// What it does.
    pub kind: OperationKind,
    /// Where; absent for this machine's own Docker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
    /// How far it is.
    pub state: OperationState,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// What it does at the moment, or did last.
    #[serde(default)]
    pub step: String,
    /// What came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Box<Problem>>,
}

/// `GET /v1/operations`, the newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct OperationList {
    /// The operations that go on, and those that ended not long ago.
    pub operations: Vec<Operation>,
}

/// What came of an operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Outcome {
    /// What was done.
    pub did: Did,
    /// The sandbox afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<ContainerStatus>,
    /// Where it answers on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The version of Docker that was installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_version: Option<String>,
    /// What a person should know beside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What an operation did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Did {
    /// The sandbox was started.
    Started,
    /// It was running already.
    WasRunning,
    /// It was stopped and started.
    Restarted,
    /// It was stopped.
    Stopped,
    /// It did not stop in time and was killed.
    Killed,
    /// It was not running.
    WasStopped,
    /// It was stopped and removed.
    Removed,
    /// There is none.
    NotFound,
    /// It runs a newer image.
    Updated,
    /// Its image was the newest already.
    UpToDate,
    /// It runs the image from before the last update.
    RolledBack,
    /// It is like the other one now.
    Synced,
    /// Docker was installed.
    Installed,
    /// Something of a newer daemon.
    #[serde(other)]
    Unknown,
}

/// What happens in an operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum OperationEvent {
    /// The next step begins.
    Step {
        /// What it is.
        text: String,
    },
    /// An image comes; what was said of it before is out of date.
    Pull(PullProgress),
    /// A program that is run says something.
    Output {
        /// A line, without its end.
        text: String,
    },
    /// A person should know something.
    Note {
        /// What.
        text: String,
    },
    /// The operation has ended. The last event.
    End {
        /// How.
        operation: Box<Operation>,
    },
    /// An event of a newer daemon, to be ignored.
    #[serde(other)]
    Unknown,
}

/// How much of an image is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct PullProgress {
    /// Its layers, as far as they are known.
    pub layers: u32,
    /// Those that are there.
    pub layers_done: u32,
    /// The bytes of layers that came.
    pub bytes: u64,
    /// The bytes of layers that are known to come in all.
    pub total: u64,
}
