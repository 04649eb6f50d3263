//! What an [`EmbeddedHost`](super::EmbeddedHost) is told to do wrong.

use russh::ChannelOpenFailure;

/// A phase in which the server can go silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// After the TCP connection: no identification line comes.
    Banner,
    /// After the identification line: the key exchange does not start.
    Kex,
    /// After the first packet of the key exchange: the algorithms are agreed, the keys are not.
    KexReply,
    /// At the first authentication request: no answer.
    Auth,
    /// At a good signature, of a key that was said to be acceptable: no answer.
    Signature,
    /// When a channel is opened: no answer; everything else on the connection goes on.
    ChannelOpen,
    /// At a request to run a command: neither an answer nor the command.
    Exec,
}

/// How the opening of a channel is refused (RFC 4254, section 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// `SSH_OPEN_ADMINISTRATIVELY_PROHIBITED`
    AdministrativelyProhibited,
    /// `SSH_OPEN_CONNECT_FAILED`: what OpenSSH says at MaxSessions.
    ConnectFailed,
    /// `SSH_OPEN_RESOURCE_SHORTAGE`
    ResourceShortage,
}

impl From<Refusal> for ChannelOpenFailure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::AdministrativelyProhibited => Self::AdministrativelyProhibited,
            Refusal::ConnectFailed => Self::ConnectFailed,
            Refusal::ResourceShortage => Self::ResourceShortage,
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Banner {
    #[default]
    Ssh,
    Garbage(Vec<u8>),
    Farewell(Vec<u8>),
    Http,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Faults {
    pub(super) stall: Option<Phase>,
    pub(super) banner: Banner,
    pub(super) before_login: Option<String>,
    pub(super) ask_passwords: bool,
    pub(super) ask_twice: bool,
    pub(super) drop_after_auth: bool,
    pub(super) drop_during_auth: bool,
    pub(super) reject_auth: bool,
    pub(super) never_close: bool,
    pub(super) open_unsolicited: bool,
    pub(super) max_sessions: Option<(usize, Refusal)>,
    pub(super) ignore_signals: bool,
    pub(super) exit_without_status: bool,
    pub(super) disconnect_before_output: bool,
    pub(super) files_alone: bool,
}
