//! How long, and how often, a command tries to get a connection.

use std::time::Duration;

/// How long a command waits for a connection in all.
pub(crate) const COMMAND_PATIENCE: Duration = Duration::from_secs(30);
/// How many times a command's dial is repeated.
pub(super) const COMMAND_RETRIES: u32 = 3;

/// How long a command tries to get a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tries {
    /// It dials, and so many times again.
    Retries(u32),
    /// It has the host dialled for so long, more seldom.
    Wait(Duration),
}

impl Default for Tries {
    fn default() -> Self {
        Self::Retries(COMMAND_RETRIES)
    }
}

impl Tries {
    /// Returns what a request asks for.
    pub fn of(retries: Option<u32>, wait_ms: Option<u64>) -> Self {
        match (wait_ms, retries) {
            (Some(ms), _) => Self::Wait(Duration::from_millis(ms)),
            (None, Some(retries)) => Self::Retries(retries),
            (None, None) => Self::default(),
        }
    }

    /// Returns how long it may take in all.
    pub fn patience(self) -> Duration {
        match self {
            Self::Retries(_) => COMMAND_PATIENCE,
            Self::Wait(time) => time,
        }
    }

    /// Returns what is left of it after so many dials.
    pub fn after(self, dials: u32) -> Self {
        match self {
            Self::Retries(retries) => Self::Retries(retries.saturating_sub(dials)),
            wait => wait,
        }
    }

    /// Returns whether there is another try after so many dials.
    pub fn allow(self, dials: u32) -> bool {
        match self {
            Self::Retries(retries) => dials <= retries,
            Self::Wait(_) => true,
        }
    }
}
