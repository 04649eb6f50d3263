//! Approvals: what a policy asks a person about, who is not the one that wants it.

use std::sync::Arc;
use std::time::Duration;

use occ_proto::prompt::PromptKind;
use occ_proto::{HostName, Secret};
use tokio::time::timeout;

use super::clients::{Client, Clients};
use super::{NoAnswer, OnDrop, Prompts, Question};
use crate::peer::{Lineage, Peer};

/// Approvals that are waited for at a time. More are refused: a person would not read them, and each holds one of the
/// places for requests.
const MOST: usize = 64;

/// What is to be allowed.
#[derive(Debug, Clone)]
pub struct Approval {
    /// The host concerned; nothing is this machine.
    pub host: Option<HostName>,
    /// What, in one line, safe for a terminal.
    pub message: String,
    /// Why it is asked, safe for a terminal.
    pub note: Option<String>,
    /// Whoever wants it.
    pub by: Option<Peer>,
    /// Where they come from.
    pub lineage: Option<Lineage>,
    /// How long a person has.
    pub patience: Duration,
}

/// Who wants something.
#[derive(Debug, Clone)]
pub(super) struct Wants {
    by: Option<Peer>,
    lineage: Option<Lineage>,
}

impl Wants {
    /// Returns whether it is that very process.
    pub(super) fn are_by(&self, other: Option<Peer>) -> bool {
        let pid = |peer: Option<Peer>| peer.and_then(|peer| peer.pid);
        pid(self.by).is_some() && pid(self.by) == pid(other)
    }

    /// Returns whether that process is it, or comes from it. Whoever cannot be told may be.
    pub(super) fn are_of(&self, other: Option<Peer>) -> bool {
        let Some(pid) = other.and_then(|other| other.pid) else { return true };
        match (&self.lineage, self.by.and_then(|by| by.pid)) {
            (Some(lineage), _) => lineage.covers(pid),
            // Systems that tell no more than a number.
            (None, Some(own)) => own == pid,
            // Another machine's, as it were: a container's process is none of this machine's.
            (None, None) => false,
        }
    }
}

/// Returns whether an answer allows what is asked about.
pub(super) fn allows(answer: &Secret) -> bool {
    answer.expose().trim().eq_ignore_ascii_case("yes")
}

impl Prompts {
    /// Asks everybody but those who want it. `told` hears of the question.
    ///
    /// # Errors
    ///
    /// Nobody answers in time, or somebody declines to; [`NoAnswer::Nobody`] where too many are open.
    pub async fn approve(
        self: &Arc<Self>,
        approval: Approval,
        client: &Client,
        told: &(dyn Fn(u64, &str) + Send + Sync),
    ) -> Result<bool, NoAnswer> {
        let Approval { host, message, note, by, lineage, patience } = approval;
        let kind = PromptKind::Approval;
        if self.lock().iter().filter(|open| open.wants.is_some()).count() >= MOST {
            return Err(NoAnswer::Nobody);
        }
        let text = message.clone();
        let question = Question { kind, host, message, note, secret: false, again: false };
        // They are shown what they wait for.
        let clients = Clients::default();
        clients.add(client);
        let wants = Wants { by, lineage };
        let (place, pid) = (question.host.clone(), by.and_then(|by| by.pid));
        let (id, answered) = self.open_until(question, clients, true, patience, Some(wants));
        // Its words quote a command, which may have a secret: they are not for the log.
        let place = place.as_ref().map(HostName::as_str);
        tracing::info!(id, host = place, pid, "somebody is asked for an approval");
        let _withdrawn = OnDrop(|| drop(self.take(id)));
        told(id, &text);
        let reply = match timeout(patience, answered).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => return Err(NoAnswer::Stopping),
            Err(_) => return Err(NoAnswer::Timeout),
        };
        let answer = reply.answer.ok_or(NoAnswer::Declined)?;
        let allows = allows(&answer);
        tracing::info!(id, allows, "an approval was answered");
        Ok(allows)
    }
}
