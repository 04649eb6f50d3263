//! Why a connection could not be made, was lost, or could not open a channel.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use occ_proto::status::Phase;
use occ_proto::{Code, HostName, InvalidName};

use super::known_hosts::KnownHostsError;
pub use super::refusal::{Offer, Refusal};
use super::ssh_config::SshConfigError;
use crate::host::machine::Retry;
use crate::prompts::NoAnswer;

/// Why an identity file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It cannot be read.
    #[error("the identity file {path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is a directory, a device or the like.
    #[error("the identity file {path} is not a regular file")]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// Others may read it, or it belongs to somebody else.
    #[error("the identity file {path} has mode {mode:04o}; a private key must be yours alone")]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It belongs to another user.
    #[error("the identity file {path} belongs to user id {owner}, not to you")]
    WrongOwner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// It holds something else than a private key.
    #[error("the identity file {path} is {what}, not a private key in OpenSSH or PEM format")]
    NotAKey {
        /// The file.
        path: PathBuf,
        /// What it seems to be.
        what: &'static str,
    },
    /// Only its public half is there, and no agent holds the other.
    #[error("the identity file {path} {what}, and {agent}")]
    NotInAgent {
        /// The file.
        path: PathBuf,
        /// Which half there is.
        what: &'static str,
        /// What is the matter with the agent, in words.
        agent: String,
    },
    /// It begins like a private key and does not parse.
    #[error("the identity file {path} is damaged or of an unsupported type")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        #[source]
        source: russh::keys::Error,
    },
}

impl IdentityError {
    /// Returns whether there is no such file.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Why a dial failed or a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// `ssh -G` failed or gave something unusable.
    #[error("the ssh configuration for this host cannot be used")]
    SshConfig(#[from] SshConfigError),
    /// A name from the configuration is not valid.
    #[error("the configuration holds an invalid name")]
    Name(#[from] InvalidName),
    /// An identity file named for the host cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The known_hosts files cannot be read.
    #[error("the known_hosts files cannot be used")]
    KnownHosts(#[source] KnownHostsError),
    /// The host key could not be recorded.
    #[error("the host's key could not be recorded in known_hosts")]
    KnownHostsWrite(#[source] KnownHostsError),
    /// The name does not resolve.
    #[error("the name {host} does not resolve")]
    Resolve {
        /// The name.
        host: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The TCP connection failed.
    #[error("no connection to {addr}")]
    Connect {
        /// The address that was tried last.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The jump host is not connected. It is waited for.
    #[error("waiting for the jump host {name}")]
    Hop {
        /// Its name.
        name: HostName,
        /// Why it is not connected.
        #[source]
        source: std::sync::Arc<ConnectError>,
        /// When the daemon dials it next.
        next_retry_at: Option<Timestamp>,
    },
    /// The jump host did not open the way to the server.
    #[error("the jump host {name} does not connect to {peer}")]
    HopConnect {
        /// The jump host.
        name: HostName,
        /// The server.
        peer: String,
        /// What it answered.
        #[source]
        source: ChannelError,
    },
    /// Jump hosts that lead through one another.
    #[error("the jump hosts go in a circle: {0}")]
    HopCircle(String),
    /// A ProxyCommand where none may be run.
    #[error("ssh_config names a ProxyCommand, which {0} forbids")]
    ProxyCommandForbidden(&'static str),
    /// Whoever administers this machine does not have it connected to.
    #[error("{file} does not allow {place}: {why}")]
    NotAllowed {
        /// The policy.
        file: PathBuf,
        /// User, address and port.
        place: String,
        /// What in it, for a person.
        why: String,
    },
    /// ssh_config allows only algorithms that we do not have.
    #[error("ssh_config sets {option} to {list}, and occd has none of these")]
    UnknownAlgorithms {
        /// The option.
        option: &'static str,
        /// Its value.
        list: String,
    },
    /// The ProxyCommand did not start.
    #[error("the ProxyCommand cannot be run")]
    ProxyCommand {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The ProxyCommand ended before the server said anything.
    #[error("the ProxyCommand {how}")]
    ProxyCommandEnded {
        /// How, and its last words.
        how: String,
        /// There is no such program, or it cannot be run: by its exit code, as shells have it.
        not_run: bool,
    },
    /// A phase took too long.
    #[error("{}", timeout_text(*.phase, *.after))]
    Timeout {
        /// The phase.
        phase: Phase,
        /// Its limit.
        after: Duration,
    },
    /// The server closes new connections with a word that we come too often.
    #[error("the server refuses connections for a while: {0}")]
    Penalised(String),
    /// The peer is not an SSH server.
    #[error("the peer does not speak SSH; it sent {0:?}")]
    NotSsh(String),
    /// No algorithm is shared.
    #[error("no common {kind} algorithm; the server offers {theirs}")]
    NoCommonAlgorithm {
        /// The kind.
        kind: String,
        /// What the server offers.
        theirs: String,
    },
    /// The server's key differs from the recorded one.
    #[error(
        "the host key changed: the server shows {shown}, {file}:{line} has {recorded}. \
         Nothing was sent to it"
    )]
    HostKeyChanged {
        /// Type and fingerprint of the key shown.
        shown: String,
        /// Type and fingerprint of the keys on record.
        recorded: String,
        /// The known_hosts file.
        file: PathBuf,
        /// The line there.
        line: usize,
    },
    /// The server's key is revoked.
    #[error("the {what} {shown} is revoked by {file}:{line}. Nothing was sent to the server")]
    HostKeyRevoked {
        /// Whose key it is: the host's, or that of the authority which vouches for it.
        what: &'static str,
        /// Type and fingerprint of the key shown.
        shown: String,
        /// The known_hosts file.
        file: PathBuf,
        /// The line there.
        line: usize,
    },
    /// The server shows a certificate that is not good for it.
    #[error("the host certificate {shown} is refused: {why}. Nothing was sent to the server")]
    HostCertificate {
        /// Type and fingerprint of its key.
        shown: String,
        /// Why, safe to print.
        why: String,
    },
    /// The server's key is unknown and unknown keys are refused.
    #[error("the host key {shown} is not known, and {by} refuses unknown keys")]
    HostKeyUnknown {
        /// Type and fingerprint of the key shown.
        shown: String,
        /// What refuses it.
        by: &'static str,
    },
    /// The server proved its key wrongly, or the like.
    #[error("the key exchange failed")]
    KeyExchange(#[source] russh::Error),
    /// The server accepted none of the keys, or wants more than that.
    #[error("{0}")]
    AuthRefused(Box<Refusal>),
    /// The server took a key and closed the connection in place of a login: OpenSSH does so when PAM denies the
    /// account, also while the machine starts or stops (pam_nologin(8)).
    #[error(
        "the server took the key {key} and closed the connection: is the account {user} locked or expired?{}",
        said_text(.said)
    )]
    ClosedAtLogin {
        /// The login name.
        user: String,
        /// The file or the agent's comment.
        key: String,
        /// What it said then, safe to print.
        said: String,
    },
    /// There was nothing to offer.
    #[error("there is no key to log in with as {user}: {}, and {rest}", files_text(passed_over))]
    NoIdentity {
        /// The login name.
        user: String,
        /// What the agent said, or why it was not asked.
        rest: String,
        /// No agent could help: it is the files.
        is_of_files: bool,
        /// Why the files that are there cannot be used.
        passed_over: Vec<String>,
    },
    /// A person must answer a question, and none did.
    #[error("{question}: {why}")]
    Unanswered {
        /// What is needed, in a sentence's words.
        question: String,
        /// When it was asked.
        phase: Phase,
        /// The key file whose passphrase it is.
        key: Option<PathBuf>,
        /// Why there is no answer.
        why: NoAnswer,
    },
    /// The connection ended.
    #[error("the connection was lost{}", during(*.phase))]
    Lost {
        /// Where.
        phase: Phase,
        /// Why, as far as it is known.
        #[source]
        cause: LossCause,
    },
    /// The limit of retries was reached.
    #[error("given up after {attempts} attempts")]
    RetriesExhausted {
        /// How many.
        attempts: u32,
        /// The last failure.
        #[source]
        last: std::sync::Arc<ConnectError>,
    },
    /// The key was only looked at.
    #[error("the host key was only looked at")]
    Reviewed,
    /// Stopped on request.
    #[error("the host is disconnected on request")]
    Stopped,
    /// It was taken out of hosts.json.
    #[error("the host was removed")]
    Removed,
    /// The daemon stops.
    #[error("occd is stopping")]
    ShuttingDown,
}

/// Returns the phase in which a dial ended, for a sentence.
fn during(phase: Phase) -> String {
    match phase {
        Phase::Established => String::new(),
        phase => format!(" ({})", phase.as_str()),
    }
}

fn timeout_text(phase: Phase, after: Duration) -> String {
    let seconds = tenths(after);
    match phase {
        // The dial itself has a limit of its own and goes on.
        Phase::Unknown => format!("not connected within {seconds} s; the dial goes on"),
        phase => format!("no answer within {seconds} s ({})", phase.as_str()),
    }
}

/// Returns seconds as a person reads them.
pub fn tenths(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}

fn said_text(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(" It says: {said}") }
}

/// Returns whether a server says that the account is closed, in PAM's words or the like. What a machine says that
/// starts or stops (nologin(5)) is anything.
fn is_of_account(said: &str) -> bool {
    let said = said.to_lowercase();
    said.contains("account") && ["expired", "locked", "disabled"].iter().any(|w| said.contains(w))
}

fn files_text(passed_over: &[String]) -> String {
    match passed_over {
        [] => "no identity file".to_owned(),
        some => some.join("; "),
    }
}

/// Returns how a program ended without what it said.
fn unsaid(how: &str) -> &str {
    let end = how.find("says: ").unwrap_or(how.len());
    match how[..end].trim_end().trim_end_matches(" and") {
        "" => "ended",
        end => end,
    }
}

/// Why an established connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LossCause {
    /// The server sent a disconnect message.
    #[error("the server disconnected: {0}")]
    Disconnected(String),
    /// The server closed the stream.
    #[error("the server closed the connection")]
    Closed,
    /// Keep-alives were not answered.
    #[error("the server did not answer keep-alives")]
    KeepAlive,
    /// It was asked for a sign of life and gave none.
    #[error("the server gave no sign of life when it was asked for one")]
    Asleep,
    /// Reading or writing failed.
    #[error("{0}")]
    Io(String),
    /// The peer broke the protocol.
    #[error("the server broke the protocol: {0}")]
    Protocol(String),
    /// The jump host's connection ended, and this one with it.
    #[error("the connection to the jump host {0} ended")]
    Hop(HostName),
    /// The ProxyCommand ended: how, and its last words.
    #[error("the ProxyCommand {0}")]
    ProxyCommand(String),
    /// It sent a text in another encoding, which RFC 4252 (section 5.4) and RFC 4253 (section 11.1) forbid and
    /// the library does not read.
    #[error(
        "the server sent text that is not UTF-8, perhaps its banner (Banner in its sshd_config)"
    )]
    NotText,
    /// The server left no way to log in.
    #[error("the server has no authentication method")]
    NoMethod,
    /// We closed it.
    #[error("closed by occd")]
    Ours,
}

impl LossCause {
    /// Returns it for the log, as [`ConnectError::for_log`].
    pub fn for_log(&self) -> String {
        match self {
            Self::ProxyCommand(how) => format!("the ProxyCommand {}", unsaid(how)),
            Self::Disconnected(_) => "the server disconnected".to_owned(),
            cause => cause.to_string(),
        }
    }
}

impl ConnectError {
    /// Returns the phase that failed.
    pub fn phase(&self) -> Phase {
        match self {
            Self::Identity(IdentityError::NotInAgent { .. })
            | Self::AuthRefused(_)
            | Self::ClosedAtLogin { .. }
            | Self::NoIdentity { .. } => Phase::Authentication,
            Self::SshConfig(_)
            | Self::Name(_)
            | Self::Identity(_)
            | Self::HopCircle(_)
            | Self::UnknownAlgorithms { .. }
            | Self::ProxyCommandForbidden(_)
            | Self::NotAllowed { .. } => Phase::Config,
            Self::KnownHosts(_)
            | Self::KnownHostsWrite(_)
            | Self::HostKeyChanged { .. }
            | Self::HostKeyRevoked { .. }
            | Self::HostCertificate { .. }
            | Self::Reviewed
            | Self::HostKeyUnknown { .. } => Phase::HostKey,
            Self::Resolve { .. } => Phase::Resolve,
            Self::Connect { .. }
            | Self::HopConnect { .. }
            | Self::ProxyCommand { .. }
            | Self::ProxyCommandEnded { .. } => Phase::Connect,
            Self::Hop { source, .. } => source.phase(),
            Self::Timeout { phase, .. }
            | Self::Lost { phase, .. }
            | Self::Unanswered { phase, .. } => *phase,
            Self::Penalised(_) | Self::NotSsh(_) => Phase::Banner,
            Self::NoCommonAlgorithm { .. } | Self::KeyExchange(_) => Phase::KeyExchange,
            Self::RetriesExhausted { last, .. } => last.phase(),
            Self::Stopped | Self::Removed | Self::ShuttingDown => Phase::Established,
        }
    }

    /// Returns the failure at the bottom of it, and the jump host that it befell, if it is not the host's own.
    pub fn blame(&self) -> (&Self, Option<&HostName>) {
        let (mut error, mut hop) = (self, None);
        while let Self::Hop { name, source, .. } = error {
            (error, hop) = (source, Some(name));
        }
        (error, hop)
    }

    /// Returns it for the log, without the words of what ssh_config runs, and of a peer that is no server: a shell quotes the
    /// whole of a command that it cannot read, with whatever password is in it.
    pub fn for_log(&self) -> String {
        match self {
            Self::Hop { name, source, .. } => {
                format!("waiting for the jump host {name}: {}", source.for_log())
            }
            Self::SshConfig(SshConfigError::Failed { status, .. }) => {
                format!("{self}: ssh -G failed ({status})")
            }
            Self::ProxyCommandEnded { how, .. } => format!("the ProxyCommand {}", unsaid(how)),
            Self::Lost { cause, .. } => format!("{self}: {}", cause.for_log()),
            Self::RetriesExhausted { last, .. } => format!("{self}: {}", last.for_log()),
            Self::NotSsh(_) => "the peer does not speak SSH".to_owned(),
            _ => chain(self),
        }
    }

    /// Returns whether somebody who can answer would bring it further.
    pub fn needs_answer(&self) -> bool {
        matches!(self.blame().0, Self::Unanswered { .. })
    }

    /// Returns whether that is all there is to it: nobody who waited then could be asked.
    pub fn asked_nobody(&self) -> bool {
        let error = self.blame().0;
        let nobody = [NoAnswer::Nobody, NoAnswer::Left, NoAnswer::Elsewhere, NoAnswer::Stopping];
        matches!(error, Self::Unanswered { why, .. } if nobody.contains(why))
    }

    /// Returns whether it is only that the jump host's connection ended: nobody refused anything.
    pub fn is_end_of_hop(&self) -> bool {
        matches!(self, Self::Lost { cause: LossCause::Hop(_), .. })
    }

    /// Returns what to do about it.
    pub fn retry(&self) -> Retry {
        match self {
            // It will be there the next time.
            Self::Lost { cause: LossCause::NotText, .. } => Retry::Fatal,
            // So does sshd at MaxStartups, whose words to that may be lost on the way.
            Self::Lost { phase: Phase::Banner, cause: LossCause::Closed | LossCause::Io(_) } => {
                Retry::Crowded
            }
            Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::Timeout { .. }
            | Self::Lost { .. }
            | Self::ProxyCommandEnded { not_run: false, .. }
            // A server that is starting up may show either.
            | Self::NotSsh(_) => Retry::Backoff,
            // It is dialled when the jump host is there again, whatever keeps that away.
            Self::Hop { .. } => Retry::Wait,
            Self::HopConnect { source: ChannelError::Prohibited, .. } => Retry::Fatal,
            Self::HopConnect { .. } => Retry::Backoff,
            Self::Penalised(word) if word.contains("MaxStartups") => Retry::Crowded,
            Self::ClosedAtLogin { said, .. } if is_of_account(said) => Retry::Fatal,
            // It may be a person's to mend, or a machine that starts: not to be asked often.
            Self::Penalised(_) | Self::ClosedAtLogin { .. } => Retry::SlowDown,
            Self::SshConfig(_)
            | Self::Name(_)
            | Self::HopCircle(_)
            | Self::UnknownAlgorithms { .. }
            | Self::ProxyCommandForbidden(_)
            | Self::NotAllowed { .. }
            | Self::ProxyCommand { .. }
            | Self::ProxyCommandEnded { not_run: true, .. }
            | Self::Identity(_)
            | Self::KnownHosts(_)
            | Self::KnownHostsWrite(_)
            | Self::NoCommonAlgorithm { .. }
            | Self::HostKeyChanged { .. }
            | Self::HostKeyRevoked { .. }
            | Self::HostCertificate { .. }
            | Self::HostKeyUnknown { .. }
            | Self::KeyExchange(_)
            | Self::AuthRefused(_)
            | Self::NoIdentity { .. }
            | Self::Unanswered { .. }
            | Self::RetriesExhausted { .. }
            | Self::Reviewed
            | Self::Stopped
            | Self::Removed
            | Self::ShuttingDown => Retry::Fatal,
        }
    }

    /// Returns a word for whether dialling again may help without anybody's doing, for the log.
    pub fn class(&self) -> &'static str {
        if self.retry() == Retry::Fatal { "permanent" } else { "transient" }
    }

    /// Returns the stable word for it.
    pub fn code(&self) -> Code {
        match self {
            Self::SshConfig(_)
            | Self::Name(_)
            | Self::HopCircle(_)
            | Self::UnknownAlgorithms { .. }
            | Self::ProxyCommandForbidden(_)
            | Self::ProxyCommand { .. }
            | Self::ProxyCommandEnded { not_run: true, .. } => Code::SshConfigInvalid,
            Self::KnownHosts(_) | Self::KnownHostsWrite(_) => Code::KnownHostsInvalid,
            Self::Identity(IdentityError::TooOpen { .. } | IdentityError::WrongOwner { .. }) => {
                Code::IdentityTooOpen
            }
            Self::Identity(IdentityError::NotInAgent { .. }) => Code::NoIdentity,
            Self::Identity(_) | Self::NoIdentity { is_of_files: true, .. } => Code::IdentityInvalid,
            Self::NoIdentity { .. } => Code::NoIdentity,
            Self::Unanswered { why: NoAnswer::Stopping, .. } => Code::ShuttingDown,
            // Whoever asks again from a terminal is asked.
            Self::Unanswered {
                why: NoAnswer::Nobody | NoAnswer::Left | NoAnswer::Elsewhere,
                ..
            } => Code::InputNeeded,
            Self::Unanswered { key: Some(_), .. } => Code::KeyLocked,
            Self::Unanswered { .. } => Code::InputNeeded,
            Self::Hop { source, .. } => source.code(),
            Self::NotSsh(_)
            | Self::KeyExchange(_)
            | Self::Lost { cause: LossCause::NotText, .. } => Code::NotSsh,
            Self::NoCommonAlgorithm { .. } => Code::NoCommonAlgorithm,
            Self::ClosedAtLogin { said, .. } if is_of_account(said) => Code::AuthFailed,
            Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::Timeout { .. }
            | Self::Penalised(_)
            | Self::HopConnect { .. }
            | Self::ClosedAtLogin { .. }
            | Self::ProxyCommandEnded { not_run: false, .. }
            | Self::Lost { .. } => Code::HostUnreachable,
            Self::HostKeyChanged { .. } => Code::HostKeyChanged,
            Self::HostKeyRevoked { .. } => Code::HostKeyRevoked,
            Self::HostCertificate { .. } => Code::HostCertificate,
            Self::HostKeyUnknown { .. } | Self::Reviewed => Code::HostKeyUnknown,
            Self::AuthRefused(refusal) if refusal.is_for_the_agent() => Code::AgentRefused,
            Self::AuthRefused(refusal) if refusal.wants_another_method() => Code::AuthMethodNeeded,
            Self::AuthRefused(refusal) if !refusal.answered.is_empty() => Code::LoginRefused,
            Self::AuthRefused(_) => Code::AuthFailed,
            Self::RetriesExhausted { last, .. } => last.code(),
            Self::NotAllowed { .. } => Code::PolicyDenied,
            Self::Stopped => Code::HostStopped,
            Self::Removed => Code::HostNotFound,
            Self::ShuttingDown => Code::ShuttingDown,
        }
    }
}

/// Why a channel could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The server refused.
    #[error("the server refused to open a channel ({0})")]
    Refused(String),
    /// The server's settings forbid it.
    #[error("its sshd_config forbids it (AllowTcpForwarding, PermitOpen)")]
    Prohibited,
    /// The server did not answer.
    #[error("the server did not open a channel within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The connection was replaced by another while a free session was awaited.
    #[error("the connection takes no new work")]
    Retired,
    /// Every session that the server grants is in use.
    #[error("all sessions of the server are in use, and none became free within {} s", tenths(*.0).max(0.1))]
    Full(Duration),
    /// The connection ended meanwhile.
    #[error("the connection was lost while opening a channel")]
    Lost(#[source] LossCause),
}

/// Returns an error and its causes as one line, causes after colons.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // A transparent wrapper repeats its source; once is enough.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_that_is_said_to_be_closed_is_not_tried_again() {
        for (said, retry) in [
            ("Your account has expired; please contact your system administrator.", Retry::Fatal),
            ("This account is LOCKED.", Retry::Fatal),
            ("", Retry::SlowDown),
            // As pam_nologin has it.
            (
                "System is booting up. Unprivileged users are not permitted to log in yet.",
                Retry::SlowDown,
            ),
        ] {
            let (user, key, said) = ("u".to_owned(), "k".to_owned(), said.to_owned());
            let error = ConnectError::ClosedAtLogin { user, key, said };
            assert_eq!(error.retry(), retry, "{error}");
            let code = if retry == Retry::Fatal { Code::AuthFailed } else { Code::HostUnreachable };
            assert_eq!(error.code(), code, "{error}");
        }
    }

    #[test]
    fn a_chain_names_each_cause_once() {
        let error =
            ConnectError::Resolve { host: "h".into(), source: io::Error::other("no such name") };
        assert_eq!(chain(&error), "the name h does not resolve: no such name");
    }
}
