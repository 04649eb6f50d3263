//! Desktop notifications of questions that nobody answers.
//!
//! A question is shown to the client that raised it, then to all; when nobody has answered it after a while all the same, the
//! desktop is told, if there is one on the session bus
//! (<https://specifications.freedesktop.org/notification-spec>). What it is told is the host and what is asked for: no word
//! of a server's, and none of an answer. Nothing here answers a question.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use occ_proto::prompt::{Prompt, PromptKind};
use occ_proto::text::sanitize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::LoadedConfig;
use crate::prompts::Prompts;

/// How long a question has been for all when the desktop is told.
const NEGLECTED: Duration = Duration::from_secs(10);
/// Notifications at a time: more would hide what they are about.
const AT_A_TIME: usize = 3;
/// Notifications in [`WINDOW`]: whoever raises questions without an end does not fill the screen.
const MOST: usize = 6;
const WINDOW: Duration = Duration::from_secs(60);
/// How long the desktop may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Tells the desktop until `stop` is cancelled, as long as the settings want it.
pub async fn run(
    prompts: Arc<Prompts>,
    mut config: watch::Receiver<LoadedConfig>,
    stop: CancellationToken,
) {
    let mut changes = prompts.changes();
    let mut desktop = Desktop::default();
    loop {
        changes.borrow_and_update();
        let wanted = config.borrow_and_update().config.prompts.notify;
        let (neglected, next) = prompts.neglected(NEGLECTED);
        let later = desktop.tell(if wanted { &neglected } else { &[] }).await;
        let due = next.into_iter().chain(later).min();
        let wait = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        let goes_on = tokio::select! {
            () = stop.cancelled() => false,
            changed = changes.changed() => changed.is_ok(),
            changed = config.changed() => changed.is_ok(),
            () = wait => true,
        };
        if !goes_on {
            desktop.tell(&[]).await;
            return;
        }
    }
}

/// What the desktop has been told.
#[derive(Default)]
struct Desktop {
    /// Held while anything is shown: some desktops take away what a program has shown that has left the bus.
    bus: Option<bus::Bus>,
    /// The notifications that are shown, by their questions.
    shown: BTreeMap<u64, u32>,
    /// Questions that were told, or could not be.
    told: BTreeSet<u64>,
    budget: Budget,
}

impl Desktop {
    /// Shows these questions and no others. Returns when to try again to show those that would have been too many.
    async fn tell(&mut self, questions: &[Prompt]) -> Option<Instant> {
        let is_open = |id: &u64| questions.iter().any(|question| question.id == *id);
        self.told.retain(is_open);
        let over: Vec<u64> = self.shown.keys().copied().filter(|id| !is_open(id)).collect();
        for id in over {
            if let (Some(notification), Some(bus)) = (self.shown.remove(&id), &self.bus) {
                bus.close(notification).await;
            }
        }
        let mut later = None;
        let new = questions.iter().filter(|question| question.kind != PromptKind::Notice);
        for question in new {
            if self.told.contains(&question.id) || self.shown.len() >= AT_A_TIME {
                continue;
            }
            if let Some(at) = self.budget.spend(Instant::now()) {
                later = Some(at);
                break;
            }
            self.told.insert(question.id);
            if self.bus.is_none() {
                self.bus = bus::Bus::open().await;
            }
            let Some(bus) = &self.bus else { continue };
            if let Some(notification) = bus.show(&Text::of(question)).await {
                self.shown.insert(question.id, notification);
            }
        }
        if self.shown.is_empty() {
            self.bus = None;
        }
        later
    }
}

/// How many notifications there may be.
#[derive(Default)]
struct Budget {
    spent: VecDeque<Instant>,
}

impl Budget {
    /// Counts one more. Returns when there may be one, where it is not now.
    fn spend(&mut self, now: Instant) -> Option<Instant> {
        while self.spent.front().is_some_and(|at| *at + WINDOW <= now) {
            self.spent.pop_front();
        }
        if self.spent.len() >= MOST {
            return self.spent.front().map(|at| *at + WINDOW);
        }
        self.spent.push_back(now);
        None
    }
}

/// What a notification says.
#[derive(Debug, PartialEq, Eq)]
struct Text {
    summary: String,
    body: String,
    /// For how long it is of use.
    time: Duration,
}

impl Text {
    fn of(question: &Prompt) -> Self {
        let what = match question.kind {
            PromptKind::Passphrase => "the passphrase of a key",
            PromptKind::Password => "a password",
            PromptKind::Code => "a code",
            PromptKind::HostKey => "a decision on a host key",
            PromptKind::Keep => "whether to keep a password",
            PromptKind::Approval => "leave to do something",
            PromptKind::Notice | PromptKind::Unknown => "a person",
        };
        let who = question.host.as_ref().map_or("occ", |host| host.as_str());
        // Names have no character of markup.
        let who = sanitize(who);
        let left = question.expires_at.duration_since(Timestamp::now());
        Self {
            summary: format!("{who} needs {what}"),
            body: "Nobody has answered yet. In a terminal: occ prompts".to_owned(),
            time: Duration::try_from(left).unwrap_or(Duration::ZERO),
        }
    }
}

#[cfg(target_os = "linux")]
mod bus {
    use std::collections::HashMap;

    use zbus::Connection;
    use zbus::zvariant::Value;

    use super::{PATIENCE, Text, timeout};

    const NAME: &str = "org.freedesktop.Notifications";
    const PATH: &str = "/org/freedesktop/Notifications";

    /// The session bus.
    pub(super) struct Bus(Connection);

    impl Bus {
        /// Returns the bus, if there is one.
        pub(super) async fn open() -> Option<Self> {
            match timeout(PATIENCE, Connection::session()).await {
                Ok(Ok(connection)) => Some(Self(connection)),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "there is no session bus for notifications");
                    None
                }
                Err(_) => {
                    tracing::debug!("the session bus does not answer");
                    None
                }
            }
        }

        /// Shows a notification, and returns its number.
        pub(super) async fn show(&self, text: &Text) -> Option<u32> {
            // Not kept by the desktop once it is over, and of normal urgency.
            let hints =
                HashMap::from([("transient", Value::from(true)), ("urgency", Value::from(1_u8))]);
            let time = i32::try_from(text.time.as_millis()).unwrap_or(i32::MAX);
            let no_actions: &[&str] = &[];
            let body = ("occ", 0_u32, "", &*text.summary, &*text.body, no_actions, hints, time);
            let asked = async {
                let answer =
                    self.0.call_method(Some(NAME), PATH, Some(NAME), "Notify", &body).await?;
                answer.body().deserialize::<u32>()
            };
            match timeout(PATIENCE, asked).await {
                Ok(Ok(number)) => Some(number),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "there is nobody to show notifications");
                    None
                }
                Err(_) => {
                    tracing::debug!("the desktop does not answer");
                    None
                }
            }
        }

        /// Takes a notification back. One that a person has closed is gone already.
        pub(super) async fn close(&self, number: u32) {
            let closed =
                self.0.call_method(Some(NAME), PATH, Some(NAME), "CloseNotification", &number);
            if let Ok(Err(error)) = timeout(PATIENCE, closed).await {
                tracing::debug!(%error, "a notification was gone");
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod bus {
    use super::Text;

    /// There is none.
    pub(super) struct Bus;

    impl Bus {
        #[expect(clippy::unused_async, reason = "as where there is one")]
        pub(super) async fn open() -> Option<Self> {
            None
        }

        #[expect(clippy::unused_async, reason = "as where there is one")]
        pub(super) async fn show(&self, _: &Text) -> Option<u32> {
            None
        }

        #[expect(clippy::unused_async, reason = "as where there is one")]
        pub(super) async fn close(&self, _: u32) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_the_host_and_the_kind_and_no_words_of_others() {
        let question = |kind: &str, host: Option<&str>| -> Prompt {
            serde_json::from_value(serde_json::json!({
                "id": 1, "kind": kind, "host": host, "message": "Token <b>of</b> hunter2:",
                "note": "welcome & beware", "secret": true,
                "at": Timestamp::now(), "expires_at": Timestamp::now() + Duration::from_secs(45),
            }))
            .unwrap()
        };
        for (kind, summary) in [
            ("code", "prod-1 needs a code"),
            ("password", "prod-1 needs a password"),
            ("approval", "prod-1 needs leave to do something"),
            ("passphrase", "prod-1 needs the passphrase of a key"),
        ] {
            let text = Text::of(&question(kind, Some("prod-1")));
            assert_eq!(text.summary, summary);
            assert!(!text.body.contains("hunter2") && !text.body.contains("beware"), "{text:?}");
            assert!(text.time > Duration::from_secs(40) && text.time < Duration::from_secs(46));
        }
        assert_eq!(
            Text::of(&question("passphrase", None)).summary,
            "occ needs the passphrase of a key"
        );
        for marked in ["a<b", "a>b", "a&b"] {
            assert!(occ_proto::HostName::new(marked).is_err(), "{marked}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_so_many_in_a_minute_and_no_more() {
        let mut budget = Budget::default();
        let begun = Instant::now();
        for second in 0..6 {
            assert_eq!(budget.spend(begun + Duration::from_secs(second)), None);
        }
        let more = begun + Duration::from_secs(30);
        assert_eq!(budget.spend(more), Some(begun + WINDOW));
        assert_eq!(budget.spend(begun + WINDOW), None);
        assert_eq!(budget.spend(begun + WINDOW), Some(begun + WINDOW + Duration::from_secs(1)));
    }
}
