//! Questions that the daemon puts to people: `/v1/prompts`.
//!
//! A client that can answer sends [`PROMPTS_HEADER`] with its requests and listens to
//! `/v1/prompts?client=TOKEN` while it waits. A request without the header that would need an answer fails at
//! once with the code `input_needed`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::name::HostName;
use crate::secret::Secret;
use crate::trust::NewHostKey;

/// The request header by which a client says that it listens for prompts, and under which token: 1 to 64
/// letters, digits and hyphens of its own choosing that nobody else can guess.
pub const PROMPTS_HEADER: &str = "occ-prompts";

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum PromptKind {
    /// The passphrase of a private key.
    Passphrase,
    /// A password for a login, or for sudo.
    Password,
    /// The answer to a question of the server's (keyboard-interactive), such as a one-time code.
    Code,
    /// Whether to trust a host key that is not on record: `yes` or `no`.
    HostKey,
    /// Whether a password that the server has taken is to be kept for the next time: `yes` or `no`.
    Keep,
    /// Nothing: a person is waited for elsewhere, at a security key, a dialog of the ssh-agent, a telephone. It
    /// can be declined, which gives the login up.
    Notice,
    /// Whether a command, or something else that a policy asks about, is to be done: `yes` or `no`. Whoever wants it done
    /// cannot answer.
    Approval,
    /// Something that a newer daemon asks for.
    #[serde(other)]
    Unknown,
}

/// A question that is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Prompt {
    /// Names it in the answer.
    pub id: u64,
    /// What is asked for.
    pub kind: PromptKind,
    /// The host concerned; absent where it is a key that several may need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
    /// The question in one line, safe for a terminal.
    pub message: String,
    /// What comes before it, such as why it is asked again or the server's instructions; safe for a terminal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Host keys that were recorded for the request and that no question has told of yet: who types a password
    /// should know that the server's key is trusted on first sight.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub new_host_keys: Vec<NewHostKey>,
    /// The answer must not be shown while it is typed.
    pub secret: bool,
    /// When it was asked.
    pub at: Timestamp,
    /// When it is withdrawn without an answer.
    pub expires_at: Timestamp,
}

/// The open questions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct PromptList {
    /// The oldest first.
    pub prompts: Vec<Prompt>,
}

/// A line of `GET /v1/prompts` with `Accept: application/x-ndjson`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum PromptEvent {
    /// A question.
    Opened {
        /// The question.
        prompt: Prompt,
    },
    /// It has been answered, or is asked no more.
    Closed {
        /// Which.
        id: u64,
    },
    /// An event of a newer daemon.
    #[serde(other)]
    Unknown,
}

/// The body of `POST /v1/prompts/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AnswerPrompt {
    /// The answer; absent when the person declines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Secret>,
}

/// The answer to `POST /v1/prompts/{id}?verdict=true`, which comes when it is known.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct PromptVerdict {
    /// The answer was wrong.
    pub wrong: bool,
    /// What is asked next: the same once more, or the next question of a login that takes more than one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Prompt>,
}

/// The body of `POST /v1/unlock`: which keys to unlock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case", deny_unknown_fields, try_from = "WrittenUnlock")]
pub enum Unlock {
    /// Those that the host's login would offer.
    Host(HostName),
    /// That file.
    IdentityFile(String),
}

/// The same as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenUnlock {
    host: Option<HostName>,
    identity_file: Option<String>,
}

impl TryFrom<WrittenUnlock> for Unlock {
    type Error = &'static str;

    fn try_from(written: WrittenUnlock) -> Result<Self, Self::Error> {
        match (written.host, written.identity_file) {
            (Some(host), None) => Ok(Self::Host(host)),
            (None, Some(file)) => Ok(Self::IdentityFile(file)),
            _ => Err("it has either `host` or `identity_file`"),
        }
    }
}

/// The answer to [`Unlock`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Unlocked {
    /// The key files that are open now and were behind a passphrase.
    pub keys: Vec<String>,
    /// The hosts that waited for one of them, and are dialled now.
    pub hosts: Vec<HostName>,
}
