//! Exchanging identifications and keys, and what a failure there means.

use std::sync::Arc;
use std::time::Duration;

use occ_proto::status::Phase;
use russh::client::Handle;
use russh::{Preferred, SshId};

use super::settings::DialSettings;
use crate::prompts::Questions;
use crate::ssh::error::{ConnectError, LossCause};
use crate::ssh::handler::{Handler, SessionError, loss_cause};
use crate::ssh::limit::Limit;
use crate::ssh::ssh_config::SshConfig;
use crate::ssh::stream::{GuardedStream, StreamControl};

/// The bounds of a channel's receive window, and the rate it should allow. OpenSSH's own 2 MiB allow 40 MB/s
/// at a round trip of 50 ms. More than is needed costs the server: OpenSSH's buffers grow to the window,
/// and at 16 MiB on a near host it spends twice the time.
const WINDOW_MIN: u32 = 2 * 1024 * 1024;
const WINDOW_MAX: u32 = 16 * 1024 * 1024;
const WINDOW_BYTES_PER_SECOND: f64 = 330e6;
/// SSH's usual largest packet, which every server takes (RFC 4254, section 5.2).
const PACKET: u32 = 32 * 1024;

pub(super) fn session_config(
    settings: &DialSettings,
    ssh_config: &SshConfig,
    preferred: Preferred,
    window: u32,
) -> russh::client::Config {
    let (_, count) = settings.keepalive(ssh_config);
    russh::client::Config {
        client_id: SshId::Standard(concat!("SSH-2.0-occd_", env!("CARGO_PKG_VERSION")).into()),
        window_size: window,
        maximum_packet_size: PACKET,
        preferred,
        inactivity_timeout: None,
        keepalive_interval: Some(settings.asks_after(ssh_config)),
        // Death is seen after (max + 1) intervals without a byte.
        keepalive_max: count as usize,
        nodelay: true,
        ..Default::default()
    }
}

/// Exchanges identifications and keys.
pub(super) async fn handshake(
    stream: GuardedStream,
    control: &Arc<StreamControl>,
    handler: Handler,
    config: russh::client::Config,
    limit: Limit,
    questions: &Questions,
) -> Result<Handle<Handler>, ConnectError> {
    let connecting = russh::client::connect_stream(Arc::new(config), stream, handler);
    tokio::pin!(connecting);
    // The error names the phase that failed, so the two waits have limits of their own.
    let first = async {
        Ok(tokio::select! {
            done = &mut connecting => Some(done),
            () = control.identified() => None,
        })
    };
    let done = match limit.of_a_phase(questions).bound(Phase::Banner, questions, first).await {
        Ok(Some(done)) => done,
        Ok(None) => {
            let second = async { Ok(connecting.await) };
            limit.of_a_phase(questions).bound(Phase::KeyExchange, questions, second).await?
        }
        Err(timeout) => return Err(no_identification(control).unwrap_or(timeout)),
    };
    done.map_err(|error| match error {
        SessionError::HostKey(error) => *error,
        SessionError::Russh(error) => classify(error, control),
    })
}

/// Returns what it means that a peer has said something, and not who it is.
fn no_identification(control: &StreamControl) -> Option<ConnectError> {
    let head = control.head();
    // A slow server may have said only the beginning of its identification.
    if control.is_identified() || head.is_empty() || is_beginning(&head) {
        return None;
    }
    let text = occ_proto::text::sanitize(&String::from_utf8_lossy(&head));
    // sshd's words to a client that it penalises, in place of its identification (sshd.c), and to one
    // that comes when MaxStartups is reached.
    let penalty = ["Not allowed at this time", "Exceeded MaxStartups"];
    Some(match penalty.into_iter().find(|word| text.contains(word)) {
        Some(word) => ConnectError::Penalised(word.into()),
        None => ConnectError::NotSsh(text.chars().take(60).collect()),
    })
}

/// Returns whether these bytes may be the beginning of an identification line.
fn is_beginning(head: &[u8]) -> bool {
    let last = head.split_inclusive(|b| *b == b'\n').next_back().unwrap_or_default();
    !last.ends_with(b"\n") && (last.starts_with(b"SSH-") || b"SSH-".starts_with(last))
}

/// Finds out what a failed handshake means from the error and the server's first words.
fn classify(error: russh::Error, control: &StreamControl) -> ConnectError {
    if let Some(error) = no_identification(control) {
        return error;
    }
    match error {
        russh::Error::NoCommonAlgo { kind, theirs, .. } => ConnectError::NoCommonAlgorithm {
            kind: format!("{kind:?}").to_lowercase(),
            theirs: occ_proto::text::sanitize_short(&theirs.join(","), 300),
        },
        // Its reason to disconnect, most likely; what it is nobody knows, so it may be another the next time.
        russh::Error::SshEncoding(_) => ConnectError::Lost {
            phase: Phase::KeyExchange,
            cause: LossCause::Protocol("it sent what cannot be read".into()),
        },
        russh::Error::Version => {
            let text = occ_proto::text::sanitize(&String::from_utf8_lossy(&control.head()));
            ConnectError::NotSsh(text.chars().take(60).collect())
        }
        error @ (russh::Error::IO(_)
        | russh::Error::HUP
        | russh::Error::Disconnect
        | russh::Error::Join(_)) => {
            let phase = if control.is_identified() { Phase::KeyExchange } else { Phase::Banner };
            ConnectError::Lost { phase, cause: loss_cause(&error) }
        }
        error => ConnectError::KeyExchange(error),
    }
}

/// Kills the stream of a dial that is given up.
pub(super) struct KillOnDrop(pub(super) Option<Arc<StreamControl>>);

impl KillOnDrop {
    pub(super) fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(control) = &self.0 {
            control.kill();
        }
    }
}

/// Returns the receive window for a round trip.
pub(super) fn window(rtt: Duration) -> u32 {
    let bytes = (rtt.as_secs_f64() * WINDOW_BYTES_PER_SECOND) as u32;
    bytes.clamp(WINDOW_MIN, WINDOW_MAX)
}
