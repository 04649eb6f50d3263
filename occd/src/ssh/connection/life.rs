//! Whether a connection lives, and how it ends.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use occ_proto::HostName;
use russh::Disconnect;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Connection;
use crate::ssh::error::{LossCause, chain};
use crate::ssh::host_key::HostKeyPolicy;

/// How long a server may take to announce its host keys after the login.
const ANNOUNCED: Duration = Duration::from_secs(10);
/// How long it may take to prove them.
const PROOF: Duration = Duration::from_secs(10);
/// How long a server may take to give a sign of life after the machine has slept.
const CHECK: Duration = Duration::from_secs(3);
/// The same on a connection that a slow reader slows down: a full window is drained within 10 s.
const CHECK_RETIRED: Duration = Duration::from_secs(15);
/// In so long what had come before a check, and nobody had read, is read: it is no sign of life.
const UNREAD: Duration = Duration::from_millis(250);
/// How long an answer to a keep-alive may take before anybody is told that there is none.
const ANSWER: Duration = Duration::from_secs(2);
/// How long programs have to end before their connection is closed: TERM, 2 s, KILL, and the way back.
const END_WORK: Duration = Duration::from_secs(5);
/// How long a polite goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

impl Connection {
    /// Waits until the server has answered a question asked now, and so until all that it sent before has
    /// arrived; or until the connection has ended.
    pub async fn round_trip(&self) {
        tokio::select! {
            sent = self.handle.send_ping() => {
                if sent.is_ok() {
                    return;
                }
            }
            () = self.shared.closed.cancelled() => return,
        }
        // The session loop takes no messages any more; it says so in a moment.
        self.shared.closed.cancelled().await;
    }

    /// Measures the round trip to the server; nothing when the connection ends meanwhile.
    pub async fn measure(&self) -> Option<Duration> {
        let begun = Instant::now();
        self.round_trip().await;
        let rtt = begun.elapsed();
        (!self.is_closed()).then(|| {
            self.set_rtt(rtt);
            rtt
        })
    }

    /// Returns for how long the server has left a keep-alive unanswered, if it has for longer than an answer takes.
    pub fn unanswered(&self) -> Option<Duration> {
        let asked = self.control.silence().checked_sub(self.facts.keepalive)?;
        (asked >= ANSWER).then_some(asked)
    }

    /// Follows the server's change of host keys, if it announces one, in the background.
    pub fn follow_host_keys(self: &Arc<Self>, policy: HostKeyPolicy) {
        let trusted = self.shared.host_key.get().and_then(|key| key.recorded.clone());
        let Some(used) = trusted else { return };
        let connection = Arc::clone(self);
        self.spawn(async move {
            let mut announced = connection.shared.announced.subscribe();
            // A server that does announces them at the login.
            let announced = timeout(ANNOUNCED, announced.wait_for(Option::is_some));
            let keys = tokio::select! {
                announced = announced => match announced {
                    Ok(Ok(keys)) => keys.clone().unwrap_or_default(),
                    _ => return,
                },
                () = connection.shared.closed.cancelled() => return,
            };
            let prove =
                async |keys| match timeout(PROOF, connection.handle.hostkeys_prove(keys)).await {
                    Ok(Ok(())) => Ok(()),
                    _ => Err(()),
                };
            if let Err(error) = policy.update(used, keys, prove).await {
                let error = chain(&error);
                tracing::warn!(error, "known_hosts is not updated");
            }
        });
    }

    /// Asks the server for a sign of life in the background; a connection without one is closed.
    pub fn check(self: &Arc<Self>) {
        if self.checking.send_replace(true) {
            return;
        }
        let connection = Arc::clone(self);
        self.spawn(async move {
            // One that is read no faster than its reader reads may be so long behind with the answer.
            let retired = connection.shared.retired.load(Ordering::SeqCst);
            let patience = if retired { CHECK_RETIRED } else { CHECK };
            let mut asked = pin!(timeout(patience, connection.round_trip()));
            let is_alive = tokio::select! {
                answered = &mut asked => answered.is_ok(),
                () = sleep(UNREAD) => {
                    let before = connection.control.bytes_in();
                    // What is on its way before the answer is as good.
                    asked.await.is_ok() || connection.control.bytes_in() != before
                }
            };
            if !is_alive {
                connection.kill(LossCause::Asleep);
            }
            connection.checking.send_replace(false);
        });
    }

    /// Has the jump host checked, if there is one: it may be what is dead, and the next dial waits for the answer.
    pub fn doubt_hop(&self) {
        if let Some(hop) = self.facts.hop.as_ref().filter(|hop| !hop.connection.is_closed()) {
            hop.connection.check();
        }
    }

    /// Waits for the end of a check that is under way.
    pub async fn checked(&self) {
        let mut checking = self.checking.subscribe();
        // The sender is ours.
        let _ = checking.wait_for(|checking| !checking).await;
    }

    /// Returns whether new work may go over it.
    pub fn takes_work(&self) -> bool {
        let retired = self.shared.retired.load(Ordering::SeqCst);
        !retired && !self.is_closed() && !self.is_ending()
    }

    /// Gives the connection no new work; it closes when its last channel has ended.
    pub fn retire(&self) {
        self.shared.retired.store(true, Ordering::SeqCst);
        *self.spare_slot() = None;
        self.shared.freed.notify_waiters();
        self.stream_freed.notify_waiters();
        if self.active() == 0 {
            self.kill(LossCause::Ours);
        }
    }

    /// Returns a token that is cancelled when the connection is about to be closed, or that of its jump host: what
    /// runs on it is to end.
    pub fn ending(&self) -> CancellationToken {
        self.ending.clone()
    }

    /// Returns whether it is about to be closed.
    pub fn is_ending(&self) -> bool {
        self.ending.is_cancelled()
    }

    /// Returns the jump host whose connection is about to be closed, and this one with it.
    pub fn ending_hop(&self) -> Option<&HostName> {
        let hop = self.facts.hop.as_ref().filter(|hop| hop.connection.is_ending());
        hop.map(|hop| &hop.name)
    }

    /// From now on there is no new work for it, nor for what leads through it.
    pub fn begin_to_end(&self) {
        self.ending.cancel();
    }

    /// Ends what runs on the connection, says goodbye and closes. A program that does not end in time is left
    /// behind on the host, and whoever waits for it is told that its end is not known.
    pub async fn close(&self) {
        self.begin_to_end();
        let idle = async {
            loop {
                let freed = self.shared.freed.notified();
                tokio::pin!(freed);
                freed.as_mut().enable();
                if self.active() == 0 {
                    return;
                }
                freed.await;
            }
        };
        tokio::select! {
            () = idle => {}
            () = self.shared.closed.cancelled() => {}
            () = tokio::time::sleep(END_WORK) => {}
        }
        self.shared.set_cause(LossCause::Ours);
        let goodbye = self.handle.disconnect(Disconnect::ByApplication, "", "en");
        if timeout(GOODBYE, goodbye).await.is_ok_and(|sent| sent.is_ok()) {
            // Sent means queued: the loop ends by itself once it is on the wire.
            let _ = timeout(GOODBYE, self.shared.closed.cancelled()).await;
        }
        self.control.kill();
    }

    /// Ends the connection at once.
    pub fn kill(&self, cause: LossCause) {
        self.shared.set_cause(cause);
        self.control.kill();
    }
}
