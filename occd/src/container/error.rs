//! Why something with the sandbox did not work.

use std::time::Duration;

use bollard::errors::Error as BollardError;
use occ_proto::HostName;

use super::engine::TcpError;
use super::opencode_config::OpencodeConfigError;
use super::settings::BadSettings;
use super::{DockerError, EngineError, InstallError};
use crate::host::Unreachable;
use crate::ssh::error::chain;

/// Why something with the sandbox did not work.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The host is not connected.
    #[error("{}", .0.error)]
    Unreachable(Unreachable),
    /// Docker cannot be asked, or said no.
    #[error(transparent)]
    Docker(#[from] DockerError),
    /// config.json cannot be used.
    #[error(transparent)]
    Config(#[from] OpencodeConfigError),
    /// The settings mean nothing.
    #[error(transparent)]
    Settings(#[from] BadSettings),
    /// A path to be mounted is not there.
    #[error("there is no {path} to mount")]
    NoPath {
        /// The path on the host.
        path: String,
    },
    /// A path cannot be mounted where it is to be.
    #[error("{path} cannot be mounted at {target}: {why}")]
    BadMount {
        /// The path on the host.
        path: String,
        /// The path inside.
        target: String,
        /// Why.
        why: &'static str,
    },
    /// The port is in use.
    #[error("port {port} is in use by {by}")]
    PortTaken {
        /// The port on the host.
        port: u16,
        /// By what.
        by: String,
    },
    /// The image is not there and does not come.
    #[error("the image {image} cannot be pulled")]
    NoImage {
        /// Its name.
        image: String,
        /// Why.
        #[source]
        source: DockerError,
    },
    /// There is no room for the image, or for the sandbox.
    #[error("there is no room for {what}: the disk is full")]
    DiskFull {
        /// For what.
        what: String,
    },
    /// The image before the last update is not there.
    #[error("there is no image {image} to go back to")]
    NoPrevious {
        /// Its name.
        image: String,
    },
    /// The image before the last update is the one that runs.
    #[error("there is no earlier image to go back to: {image} is the one that runs")]
    NoEarlier {
        /// Its name.
        image: String,
    },
    /// There is no sandbox.
    #[error("there is no sandbox")]
    NoSandbox,
    /// A container of the sandbox's name was made by somebody else.
    #[error(
        "the container {container} is not a sandbox of this tool's, and is left alone: {owner}"
    )]
    NotOurs {
        /// Its name.
        container: String,
        /// Whose it is.
        owner: String,
    },
    /// There is no sandbox to make another one like, on that host or on this machine.
    #[error("there is no sandbox")]
    NoModel(Option<HostName>),
    /// The sandbox is made otherwise than asked for.
    #[error("the sandbox has {it_has}: it would have to be made anew")]
    Otherwise {
        /// What it has, and what it would have.
        it_has: String,
    },
    /// The container ended.
    #[error("the sandbox ended with exit code {code}{}", last_words(.log))]
    Ended {
        /// Its exit code.
        code: i64,
        /// What it said last.
        log: Vec<String>,
    },
    /// Nothing answers where its cockpit would.
    #[error("no cockpit answers on port {port} of its host")]
    NoCockpit {
        /// The port on the host.
        port: u16,
        /// Why.
        #[source]
        source: TcpError,
    },
    /// The sandbox does not answer.
    #[error("the sandbox runs, but does not answer on port {port} of its host within {} s", .within.as_secs())]
    Silent {
        /// The port on the host.
        port: u16,
        /// How long was waited.
        within: Duration,
    },
    /// Its own check says that it does not work.
    #[error("the sandbox is unhealthy{}", last_words(.log))]
    Unhealthy {
        /// What the check said.
        log: Vec<String>,
    },
    /// The new image did not work, and the old one is back.
    #[error("the new sandbox failed and was undone: it is as before, of {image}")]
    RolledBack {
        /// The image that runs.
        image: String,
        /// What the new one said last.
        log: Vec<String>,
        /// Why.
        #[source]
        source: Box<SandboxError>,
    },
    /// The new image did not work, and the old one could not be brought back.
    #[error(
        "the new sandbox failed, and so did going back ({undo}); the sandbox from before is the container {container}"
    )]
    Stuck {
        /// What it is called now.
        container: String,
        /// Why it could not be brought back.
        undo: String,
        /// Why the update failed.
        #[source]
        source: Box<SandboxError>,
    },
    /// Somebody cancelled it.
    #[error("cancelled{}", if *.undone { "; everything is as it was before" } else { "" })]
    Cancelled {
        /// Whether something had been done, and was undone.
        undone: bool,
    },
    /// It panicked: a defect of ours.
    #[error("internal error; the log of occd has more")]
    Defect,
    /// No port of this machine can be had.
    #[error("no port of this machine can be had for it")]
    Forward(#[source] std::io::Error),
    /// The forward to it, or its end, cannot be remembered.
    #[error("the forward cannot be remembered")]
    Unsaved(#[source] std::io::Error),
    /// Docker is not installed.
    #[error(transparent)]
    Install(#[from] InstallError),
}

fn last_words(log: &[String]) -> String {
    match log.last() {
        Some(line) => format!("; it said last: {line}"),
        None => String::new(),
    }
}

impl From<EngineError> for SandboxError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Unreachable(unreachable) => Self::Unreachable(unreachable),
            EngineError::Docker(error) => Self::Docker(error),
        }
    }
}

impl From<BollardError> for SandboxError {
    fn from(error: BollardError) -> Self {
        Self::Docker(error.into())
    }
}

impl SandboxError {
    /// Returns it for the log, without what Docker, its sandboxes and commands have said: whoever began the work is told.
    pub fn for_log(&self) -> String {
        match self {
            Self::Unreachable(unreachable) => unreachable.error.for_log(),
            Self::Docker(error) => error.for_log(),
            Self::NoImage { source, .. } => format!("{self}: {}", source.for_log()),
            Self::Ended { code, .. } => format!("the sandbox ended with exit code {code}"),
            Self::Unhealthy { .. } => "the sandbox is unhealthy".to_owned(),
            Self::RolledBack { source, .. } => format!("{self}: {}", source.for_log()),
            Self::Stuck { container, source, .. } => format!(
                "the new sandbox failed, and so did going back; the one from before is the container {container}: {}",
                source.for_log()
            ),
            Self::Install(error) => error.for_log(),
            error => chain(error),
        }
    }

    /// Returns the status and the words with which Docker refused, if it did.
    pub(super) fn refusal(&self) -> Option<(u16, &str)> {
        match self {
            Self::Docker(DockerError::Refused { status, words }) => Some((*status, words)),
            _ => None,
        }
    }

    /// Returns whether Docker does not know what it was asked for.
    pub(super) fn is_not_found(&self) -> bool {
        self.refusal().is_some_and(|(status, _)| status == 404)
    }
}
