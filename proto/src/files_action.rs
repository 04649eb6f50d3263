//! What a POST does with a path of a host.

use serde::{Deserialize, Deserializer, Serialize};

use crate::exec::Bytes;

/// What a POST does with a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "action", rename_all = "lowercase", deny_unknown_fields, try_from = "Written")]
pub enum FileAction {
    /// Makes a directory.
    Mkdir {
        /// Its permissions; the host's own way unless said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mode: Option<u32>,
        /// Those above it as well, and one that is there is no error.
        #[serde(default)]
        parents: bool,
    },
    /// Gives it another path.
    Rename {
        /// That path.
        to: Bytes,
        /// In the place of what is there.
        #[serde(default)]
        replace: bool,
    },
    /// Sets its permissions.
    Chmod {
        /// They.
        mode: u32,
    },
    /// Sets when it was changed last.
    Touch {
        /// In seconds since 1970.
        mtime: i64,
    },
    /// Computes the SHA-256 of its beginning, on the host where that has a program for it.
    Digest {
        /// So many bytes; all unless said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        length: Option<u64>,
    },
}

/// A body as it is written. An enum with a tag is read through a buffer that forgets where in the text its values were, and
/// what is wrong with one of them is to be told with its place.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    action: Word,
    #[serde(default)]
    mode: Option<u32>,
    #[serde(default, deserialize_with = "given")]
    parents: Option<bool>,
    #[serde(default, deserialize_with = "given")]
    to: Option<Bytes>,
    #[serde(default, deserialize_with = "given")]
    replace: Option<bool>,
    #[serde(default, deserialize_with = "given")]
    mtime: Option<i64>,
    #[serde(default)]
    length: Option<u64>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Mkdir,
    Rename,
    Chmod,
    Touch,
    Digest,
}

/// Reads something that is there, and is not `null`.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

impl TryFrom<Written> for FileAction {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written { action, mode, parents, to, replace, mtime, length } = written;
        let members = [
            ("mode", mode.is_some()),
            ("parents", parents.is_some()),
            ("to", to.is_some()),
            ("replace", replace.is_some()),
            ("mtime", mtime.is_some()),
            ("length", length.is_some()),
        ];
        let (name, takes): (_, &[&str]) = match action {
            Word::Mkdir => ("mkdir", &["mode", "parents"]),
            Word::Rename => ("rename", &["to", "replace"]),
            Word::Chmod => ("chmod", &["mode"]),
            Word::Touch => ("touch", &["mtime"]),
            Word::Digest => ("digest", &["length"]),
        };
        if let Some((other, _)) = members.iter().find(|(name, is)| *is && !takes.contains(name)) {
            return Err(format!("{name} has no `{other}`"));
        }
        let missing = |what: &str| format!("{name} needs `{what}`");
        Ok(match action {
            Word::Mkdir => Self::Mkdir { mode, parents: parents.unwrap_or_default() },
            Word::Rename => {
                let to = to.ok_or_else(|| missing("to"))?;
                Self::Rename { to, replace: replace.unwrap_or_default() }
            }
            Word::Chmod => Self::Chmod { mode: mode.ok_or_else(|| missing("mode"))? },
            Word::Touch => Self::Touch { mtime: mtime.ok_or_else(|| missing("mtime"))? },
            Word::Digest => Self::Digest { length },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_is_read_as_it_is_written() {
        let to = Bytes::from("x");
        for action in [
            FileAction::Mkdir { mode: None, parents: false },
            FileAction::Mkdir { mode: Some(0o700), parents: true },
            FileAction::Rename { to: to.clone(), replace: true },
            FileAction::Rename { to, replace: false },
            FileAction::Chmod { mode: 0 },
            FileAction::Touch { mtime: -1 },
            FileAction::Digest { length: None },
            FileAction::Digest { length: Some(0) },
        ] {
            let text = serde_json::to_string(&action).unwrap();
            assert_eq!(serde_json::from_str::<FileAction>(&text).unwrap(), action, "{text}");
        }
    }

    #[test]
    fn what_an_action_does_not_have_is_refused_by_its_name() {
        for (text, said) in [
            (r#"{"action":"chmod"}"#, "chmod needs `mode`"),
            (r#"{"action":"chmod","mode":null}"#, "chmod needs `mode`"),
            (r#"{"action":"chmod","mode":7,"parents":false}"#, "chmod has no `parents`"),
            (r#"{"action":"rename","to":null}"#, "expected a string"),
            (r#"{"action":"touch","mtime":1,"length":1}"#, "touch has no `length`"),
            (r#"{"action":"mkdir","bogus":1}"#, "unknown field `bogus`"),
            (r#"{"action":"mkdir","mode":1,"mode":1}"#, "duplicate field `mode`"),
            (r#"{"action":"cp"}"#, "unknown variant `cp`"),
            (r#"{"to":"x"}"#, "missing field `action`"),
        ] {
            let error = serde_json::from_str::<FileAction>(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
