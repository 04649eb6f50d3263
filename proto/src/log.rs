//! What the daemon logs.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing.
    Off,
    /// What went wrong for good.
    Error,
    /// What went wrong.
    Warn,
    /// What happens to connections, and each request that changes something.
    Info,
    /// What it takes to find a defect.
    Debug,
    /// All of it.
    Trace,
}

impl Level {
    /// Every level with its word.
    pub const ALL: [(Self, &str); 6] = [
        (Self::Off, "off"),
        (Self::Error, "error"),
        (Self::Warn, "warn"),
        (Self::Info, "info"),
        (Self::Debug, "debug"),
        (Self::Trace, "trace"),
    ];
}

/// Why a text is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no level (off, error, warn, info, debug, trace), nor one with its target, such as occd::ssh=trace"
)]
pub struct InvalidFilter(String);

/// The level of whatever a filter does not name: whoever looks at one module does not want the errors of all others gone.
const REST: &str = "info";

/// The longest text of a filter, in bytes: nobody types as much.
const LONGEST: usize = 512;

/// What is logged: a level, and levels for single modules, by comma: `debug`, `warn,occd::ssh=trace`. The rest
/// is logged from `info` on, unless a level without a module says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct LogFilter(String);

impl LogFilter {
    /// Returns each target with its level; the one without is for all others.
    pub fn parts(&self) -> impl Iterator<Item = (Option<&str>, Level)> {
        self.0.split(',').filter_map(part)
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn part(text: &str) -> Option<(Option<&str>, Level)> {
    let (target, word) = match text.split_once('=') {
        Some((target, word)) => (Some(target), word),
        None => (None, text),
    };
    let is_name = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    if !target.is_none_or(|target| target.split("::").all(is_name)) {
        return None;
    }
    let (level, _) = Level::ALL.into_iter().find(|(_, one)| *one == word)?;
    Some((target, level))
}

impl FromStr for LogFilter {
    type Err = InvalidFilter;

    fn from_str(text: &str) -> Result<Self, InvalidFilter> {
        let wrong = text.split(',').find(|text| part(text).is_none());
        match wrong {
            // Cut, since it goes to a terminal.
            Some(wrong) => Err(InvalidFilter(wrong.chars().take(60).collect())),
            None if text.len() > LONGEST => Err(InvalidFilter("so long a text".into())),
            None if text.split(',').all(|part| part.contains('=')) => {
                Ok(Self(format!("{REST},{text}")))
            }
            None => Ok(Self(text.to_owned())),
        }
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for LogFilter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// `GET /v1/log-level`, and the answer of a `PUT`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct LogLevel {
    /// What is logged now.
    pub level: LogFilter,
    /// What was logged when the daemon started.
    pub at_start: LogFilter,
    /// When that comes back by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// `PUT /v1/log-level`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetLogLevel {
    /// What to log from now on.
    pub level: LogFilter,
    /// After so many milliseconds what was logged at the start is logged again; else when the daemon starts anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(minimum = 1, maximum = 604_800_000))]
    pub for_ms: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_levels_with_and_without_targets() {
        for text in ["off", "debug", "warn,occd::ssh=trace,occd=off", "_a=info,warn"] {
            assert_eq!(text.parse::<LogFilter>().unwrap().to_string(), text);
        }
        let module: LogFilter = "occd::ssh=trace".parse().unwrap();
        assert_eq!(module.to_string(), "info,occd::ssh=trace");
        for bad in [
            "",
            "Debug",
            "loud",
            "debug,",
            ",",
            "occd=",
            "=debug",
            "occd=loud",
            "a b=info",
            "occd::=info",
            "occd:ssh=info",
            "debug\n",
            "occd[span]=info",
            "a=b=info",
            "9=info",
        ] {
            assert!(bad.parse::<LogFilter>().is_err(), "{bad:?}");
        }
        assert!(vec!["info"; 200].join(",").parse::<LogFilter>().is_err());
        let filter: LogFilter = "warn,occd::ssh=trace".parse().unwrap();
        let parts: Vec<_> = filter.parts().collect();
        assert_eq!(parts, [(None, Level::Warn), (Some("occd::ssh"), Level::Trace)]);
    }
}
