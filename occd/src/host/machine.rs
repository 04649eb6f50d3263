//! The life of one host's connection, as a pure state machine: an event and the time in, actions out.
//!
//! ```text
//!                 wanted                     dialled
//!        Idle ───────────────► Connecting ───────────────► Connected
//!          ▲                    ▲   │   │                      │
//!          │                due │   │   └─ failed, fatal ─┐    │ lost
//!          │              wanted│   │ failed              ▼    │
//!          │                    │   ▼                  Failed  │
//!          │                  Backoff ◄────────────────────────┤
//!          └───────────────────────────────────────────────────┘ closed in good order twice, or unused
//!
//!        any ── disconnect ──► Stopped ── connect ──► Connecting
//! ```
//!
//! - There is at most one primary connection and at most one dial; the types hold their ids, so a
//!   second one has no place to be. A dial may run beside the primary only to replace it, when the
//!   primary has become a bulk connection.
//! - Every dial has a [`ConnectionId`]; a result that carries another id than the one awaited is stale:
//!   a late success is closed, a late failure or loss is dropped.
//! - `Failed` means that a person must act. It is left only by a request or a changed configuration.
//! - `Stopped` is silent: nothing but an explicit connect leaves it.
//! - In every other state a connection that was made to verify the configuration may be given, and is the primary.
//!
//! The actor (`actor.rs`) carries the actions out. This module imports no IO, no clock, no randomness.

use std::time::Duration;

use occ_proto::status::State;
use tokio::time::Instant;

use super::backoff::{Caps, DialBackoff};

/// A connection that was up for this long has proved itself: the backoff starts anew.
pub const PROVEN: Duration = Duration::from_secs(60);
/// During backoff, commands cause at most one extra dial in this time.
pub const EXTRA_DIAL: Duration = Duration::from_secs(2);
/// A command on a failed host dials again when the failure is at least this old.
pub const FAILED_RETRY: Duration = Duration::from_secs(30);
/// What a server with too many logins under way is given to get through with them, at least.
pub const CROWD: Duration = Duration::from_secs(2);
/// How long a host waits for its jump host before it asks again by itself; usually it is told.
pub const HOP_WAIT: Duration = Duration::from_secs(60);
/// So many orderly closes of idle connections at like ages, with no dial failing in between, are a rule of the
/// server's: two of connections that had proved themselves, more of younger ones, which may have been killed.
const RULE: u32 = 2;
const RULE_YOUNG: u32 = 4;
/// What ends sooner than this was killed.
const YOUNGEST: Duration = Duration::from_secs(1);
/// Two ages at an orderly close are alike when they differ by less than this, or by a tenth.
const LIKE_AGE: Duration = Duration::from_secs(2);

/// One dial and the connection it makes: the generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// What to do after a failed dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Dial again, later each time.
    Backoff,
    /// The server said that we come too often: dial again much later.
    SlowDown,
    /// The server has too many logins under way at this moment: dial again in some seconds.
    Crowded,
    /// The jump host is not there: [`Event::HopUp`] tells when it is.
    Wait,
    /// A person must act.
    Fatal,
}

impl Retry {
    /// Returns whether to dial once more in this moment would bring the same answer.
    pub fn is_hopeless_now(self) -> bool {
        matches!(self, Self::Fatal | Self::SlowDown)
    }
}

/// Who wants the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Somebody looked at the host: dials an idle host, nothing else.
    Glance,
    /// A command waits: also dials during backoff, and on a failed host if something may have changed.
    Command {
        /// Whether a key, the agent, known_hosts or ssh_config changed since the host failed.
        inputs_changed: bool,
    },
    /// A command waits, and with it somebody who can answer what the last dial failed for: nothing is sent to a
    /// server in vain, so it dials in every state but `Stopped`.
    Answer,
    /// A person asked for the connection itself (`occ connect`): dials in every state.
    Person,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The connection is wanted.
    Wanted(Demand),
    /// A person asked for a new connection: the old one is closed.
    Reconnect,
    /// Another connection is wanted in place of the one that there is.
    Renew,
    /// A person asked to disconnect, or the daemon stops.
    Disconnect,
    /// A field that decides where or how to connect was edited.
    ConfigChanged,
    /// There is a connection that was made elsewhere, for the configuration in force: it is to be the primary.
    Given,
    /// A dial ended well.
    Dialled(ConnectionId),
    /// A dial failed.
    DialFailed(ConnectionId, Retry),
    /// A connection ended.
    Lost {
        /// Which.
        id: ConnectionId,
        /// What kind of end it was.
        loss: Loss,
    },
    /// A connection carries a bulk stream.
    Bulk(ConnectionId),
    /// Nobody has used the host for so long that it is to be disconnected.
    Unused,
    /// The jump host that was waited for is there.
    HopUp,
    /// The machine woke up, or its network changed: what failed before may go well now.
    Woken {
        /// When to dial, so that not all hosts do at once.
        after: Duration,
    },
    /// [`HostMachine::deadline`] has passed.
    Due,
}

/// How a connection ended, as far as it decides what comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// It broke.
    Broken,
    /// The server closed it in good order while nothing ran on it.
    Idle,
    /// Whichever it was, a new login would need a person, who has not asked for one.
    NeedsPerson,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start a dial.
    Dial(ConnectionId),
    /// End a dial that is under way.
    CancelDial(ConnectionId),
    /// Close a connection now, with everything on it.
    Close(ConnectionId),
    /// Give a connection no new work and close it when its last channel has ended.
    Retire(ConnectionId),
}

/// Settings of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Failed dials in a row after which the host is failed; `None` means for ever.
    pub max_retries: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Connecting { dial: ConnectionId },
    Connected { primary: ConnectionId, since: Instant, replacement: Replacement },
    Backoff { until: Instant },
    Failed { at: Instant },
    Stopped,
}

/// What becomes of a primary that has become a bulk connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Replacement {
    /// None is needed, or a person must act before there can be one.
    None,
    /// It is being dialled.
    Dialling(ConnectionId),
    /// Its dial failed; the next one has a time.
    Due(Instant),
}

impl Replacement {
    fn dial(self) -> Option<ConnectionId> {
        match self {
            Self::Dialling(id) => Some(id),
            Self::None | Self::Due(_) => None,
        }
    }
}

/// The state machine of one host.
#[derive(Debug)]
pub struct HostMachine {
    phase: Phase,
    since: Instant,
    /// Dials since the last good connection.
    attempt: u32,
    /// Failed dials and broken connections since one proved itself.
    failures: u32,
    retries_exhausted: bool,
    /// The last failed dial was refused because we come too often.
    penalised: bool,
    last_dial: Option<Instant>,
    down_since: Option<Instant>,
    /// It is idle because nobody used it.
    unused: bool,
    /// The age of the last connection that was closed idle, and how many were in a row.
    idle_closes: Option<(Duration, u32)>,
    next_id: u64,
    backoff: DialBackoff,
    limits: Limits,
}

impl HostMachine {
    /// Returns an idle host.
    pub fn new(now: Instant, backoff: DialBackoff, limits: Limits) -> Self {
        Self {
            phase: Phase::Idle,
            since: now,
            attempt: 0,
            failures: 0,
            retries_exhausted: false,
            penalised: false,
            last_dial: None,
            down_since: None,
            unused: false,
            idle_closes: None,
            next_id: 1,
            backoff,
            limits,
        }
    }

    /// Returns the state.
    pub fn state(&self) -> State {
        match self.phase {
            Phase::Idle => State::Idle,
            Phase::Connecting { .. } => State::Connecting,
            Phase::Connected { .. } => State::Connected,
            Phase::Backoff { .. } => State::Backoff,
            Phase::Failed { .. } => State::Failed,
            Phase::Stopped => State::Stopped,
        }
    }

    /// Returns since when the host is in its state. Connecting and backoff count as one: since when it
    /// is down.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Returns the number of dials since the last good connection; 0 when connected.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Returns whether the host failed because the limit of retries was reached.
    pub fn retries_exhausted(&self) -> bool {
        self.retries_exhausted
    }

    /// Returns at what age the server closed the last connections, where the host is idle because it does so by a
    /// rule of its own.
    pub fn idle_policy(&self) -> Option<Duration> {
        self.idle_closes.filter(|_| self.phase == Phase::Idle).map(|(age, _)| age)
    }

    /// Returns whether the host is idle because nobody used it.
    pub fn is_unused(&self) -> bool {
        self.unused
    }

    /// Returns when [`Event::Due`] is to be delivered.
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Backoff { until }
            | Phase::Connected { replacement: Replacement::Due(until), .. } => Some(until),
            _ => None,
        }
    }

    /// Returns the connection that new work goes to.
    pub fn primary(&self) -> Option<ConnectionId> {
        match self.phase {
            Phase::Connected { primary, .. } => Some(primary),
            _ => None,
        }
    }

    /// Puts new limits in force, from the next failure on.
    pub fn set_limits(&mut self, limits: Limits, caps: Caps) {
        self.limits = limits;
        self.backoff.set_caps(caps);
    }

    /// Takes an event and returns what to do, in order.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        match event {
            Event::Wanted(demand) => self.wanted(demand, now),
            Event::Reconnect => self.reconnect(now),
            Event::Disconnect => self.disconnect(now),
            // A connection of the configuration from before is no better than one that is to be replaced.
            Event::ConfigChanged | Event::Renew => self.config_changed(now),
            Event::Given => self.given(now),
            Event::Dialled(id) => self.dialled(id, now),
            Event::DialFailed(id, retry) => self.dial_failed(id, retry, now),
            Event::Lost { id, loss } => self.lost(id, loss, now),
            Event::Bulk(id) => self.bulk(id, now),
            Event::Unused => match self.phase {
                Phase::Connected { primary, replacement: Replacement::None, .. } => {
                    self.enter(Phase::Idle, now);
                    self.unused = true;
                    vec![Action::Close(primary)]
                }
                _ => Vec::new(),
            },
            Event::HopUp => match self.phase {
                Phase::Backoff { .. } => self.dial(now),
                _ => Vec::new(),
            },
            Event::Woken { after } => {
                if let Phase::Backoff { until } = self.phase
                    && !self.penalised
                {
                    self.backoff.reset();
                    self.phase = Phase::Backoff { until: until.min(now + after) };
                }
                Vec::new()
            }
            Event::Due => match self.phase {
                Phase::Backoff { until } if until <= now => self.dial(now),
                Phase::Connected { primary, since, replacement: Replacement::Due(until) }
                    if until <= now =>
                {
                    self.replace(primary, since, now)
                }
                _ => Vec::new(),
            },
        }
    }

    fn wanted(&mut self, demand: Demand, now: Instant) -> Vec<Action> {
        let dial_now = match (self.phase, demand) {
            (Phase::Connecting { .. } | Phase::Connected { .. }, _) => false,
            (_, Demand::Person) => true,
            (Phase::Failed { .. } | Phase::Backoff { .. }, Demand::Answer) => true,
            (Phase::Idle, _) => true,
            (Phase::Failed { at }, Demand::Command { inputs_changed }) => {
                inputs_changed || now.duration_since(at) >= FAILED_RETRY
            }
            (Phase::Backoff { until }, Demand::Command { .. }) => {
                let earliest = self.last_dial.map_or(now, |last| last + EXTRA_DIAL);
                // Too early for an extra dial: it is made as soon as it may be.
                self.phase = Phase::Backoff { until: until.min(earliest.max(now)) };
                earliest <= now
            }
            (Phase::Backoff { .. } | Phase::Failed { .. }, Demand::Glance) => false,
            (Phase::Stopped, _) => false,
        };
        if dial_now { self.dial(now) } else { Vec::new() }
    }

    fn reconnect(&mut self, now: Instant) -> Vec<Action> {
        self.backoff.reset();
        match self.phase {
            // That dial is as new as another one would be.
            Phase::Connecting { .. } => Vec::new(),
            Phase::Connected { primary, replacement, .. } => {
                let mut actions = vec![Action::Close(primary)];
                match replacement.dial() {
                    Some(dial) => self.enter(Phase::Connecting { dial }, now),
                    None => actions.extend(self.dial(now)),
                }
                actions
            }
            _ => self.dial(now),
        }
    }

    fn disconnect(&mut self, now: Instant) -> Vec<Action> {
        let actions = match self.phase {
            Phase::Connecting { dial } => vec![Action::CancelDial(dial)],
            Phase::Connected { primary, replacement, .. } => replacement
                .dial()
                .map(Action::CancelDial)
                .into_iter()
                .chain([Action::Close(primary)])
                .collect(),
            _ => Vec::new(),
        };
        self.forget_failures();
        self.enter(Phase::Stopped, now);
        actions
    }

    fn config_changed(&mut self, now: Instant) -> Vec<Action> {
        self.forget_failures();
        // It may be another server's rule, or none.
        self.idle_closes = None;
        let mut actions = Vec::new();
        match self.phase {
            Phase::Idle | Phase::Stopped => return actions,
            Phase::Failed { .. } => {
                self.enter(Phase::Idle, now);
                return actions;
            }
            Phase::Backoff { .. } => {}
            Phase::Connecting { dial } => actions.push(Action::CancelDial(dial)),
            // What runs on the old connection may end in peace.
            Phase::Connected { primary, replacement, .. } => {
                actions.extend(replacement.dial().map(Action::CancelDial));
                actions.push(Action::Retire(primary));
            }
        }
        actions.extend(self.dial(now));
        actions
    }

    /// Takes a connection that was made elsewhere, whose id is that of the primary from now on. A host that is
    /// stopped takes none.
    fn given(&mut self, now: Instant) -> Vec<Action> {
        self.forget_failures();
        self.idle_closes = None;
        let mut actions = Vec::new();
        match self.phase {
            Phase::Stopped => return actions,
            Phase::Idle | Phase::Failed { .. } | Phase::Backoff { .. } => {}
            Phase::Connecting { dial } => actions.push(Action::CancelDial(dial)),
            Phase::Connected { primary, replacement, .. } => {
                actions.extend(replacement.dial().map(Action::CancelDial));
                actions.push(Action::Retire(primary));
            }
        }
        let (primary, replacement) = (self.new_dial(now), Replacement::None);
        self.down_since = None;
        self.enter(Phase::Connected { primary, since: now, replacement }, now);
        actions
    }

    fn dialled(&mut self, id: ConnectionId, now: Instant) -> Vec<Action> {
        match self.phase {
            Phase::Connecting { dial } if dial == id => {
                let replacement = Replacement::None;
                self.enter(Phase::Connected { primary: id, since: now, replacement }, now);
                self.attempt = 0;
                self.down_since = None;
                self.retries_exhausted = false;
                Vec::new()
            }
            Phase::Connected { primary, replacement: Replacement::Dialling(dial), .. }
                if dial == id =>
            {
                // The host was connected all along: its `since` stays.
                let replacement = Replacement::None;
                self.phase = Phase::Connected { primary: id, since: now, replacement };
                vec![Action::Retire(primary)]
            }
            _ => vec![Action::Close(id)],
        }
    }

    fn dial_failed(&mut self, id: ConnectionId, retry: Retry, now: Instant) -> Vec<Action> {
        // A server that was away closed nothing by a rule.
        self.idle_closes = None;
        match self.phase {
            Phase::Connecting { dial } if dial == id => {}
            Phase::Connected { primary, since, replacement: Replacement::Dialling(dial) }
                if dial == id =>
            {
                // The old primary goes on meanwhile.
                let delay = self.delay(retry, Duration::ZERO);
                let replacement =
                    delay.map_or(Replacement::None, |delay| Replacement::Due(now + delay));
                self.phase = Phase::Connected { primary, since, replacement };
                return Vec::new();
            }
            _ => return Vec::new(),
        }
        self.penalised = retry == Retry::SlowDown;
        if retry == Retry::Wait {
            // Not this host's failure; nothing was sent to it.
            self.enter(Phase::Backoff { until: now + HOP_WAIT }, now);
            return Vec::new();
        }
        self.failures += 1;
        let down_for = now.duration_since(*self.down_since.get_or_insert(now));
        let limit = self.limits.max_retries.filter(|_| retry != Retry::Fatal);
        let exhausted = limit.is_some_and(|limit| self.failures > limit);
        self.retries_exhausted |= exhausted;
        let delay = if exhausted { None } else { self.delay(retry, down_for) };
        let Some(delay) = delay else {
            self.enter(Phase::Failed { at: now }, now);
            return Vec::new();
        };
        self.enter(Phase::Backoff { until: now + delay }, now);
        Vec::new()
    }

    /// Returns how long to wait before the next dial; nothing where a person must act first.
    fn delay(&mut self, retry: Retry, down_for: Duration) -> Option<Duration> {
        match retry {
            Retry::Fatal => None,
            Retry::Backoff => Some(self.backoff.next(down_for)),
            Retry::SlowDown => Some(self.backoff.next_penalty()),
            Retry::Crowded => Some(self.backoff.next(down_for) + CROWD),
            Retry::Wait => Some(HOP_WAIT),
        }
    }

    fn lost(&mut self, id: ConnectionId, loss: Loss, now: Instant) -> Vec<Action> {
        let Phase::Connected { primary, since, replacement } = self.phase else {
            return Vec::new();
        };
        if primary != id {
            return Vec::new();
        }
        let age = now.duration_since(since);
        if age >= PROVEN {
            self.forget_failures();
        }
        self.idle_closes = (loss == Loss::Idle && age >= YOUNGEST).then(|| {
            let before = self.idle_closes.filter(|(last, _)| is_like_age(*last, age));
            (age, before.map_or(1, |(_, count)| count + 1))
        });
        let needed = if age >= PROVEN { RULE } else { RULE_YOUNG };
        let alike = self.idle_closes.is_some_and(|(_, count)| count >= needed);
        self.down_since = Some(now);
        if let Some(dial) = replacement.dial() {
            self.attempt = 1;
            self.enter(Phase::Connecting { dial }, now);
        } else if loss == Loss::NeedsPerson {
            self.enter(Phase::Failed { at: now }, now);
        } else if alike {
            // The server ends idle connections by a rule of its own; fighting it helps nobody.
            self.enter(Phase::Idle, now);
        } else {
            let delay = self.backoff.next(Duration::ZERO);
            self.enter(Phase::Backoff { until: now + delay }, now);
        }
        Vec::new()
    }

    fn bulk(&mut self, id: ConnectionId, now: Instant) -> Vec<Action> {
        match self.phase {
            Phase::Connected { primary, since, replacement: Replacement::None }
                if primary == id =>
            {
                self.replace(primary, since, now)
            }
            _ => Vec::new(),
        }
    }

    /// Dials a connection that is to take the primary's place.
    fn replace(&mut self, primary: ConnectionId, since: Instant, now: Instant) -> Vec<Action> {
        let dial = self.new_dial(now);
        let replacement = Replacement::Dialling(dial);
        self.phase = Phase::Connected { primary, since, replacement };
        vec![Action::Dial(dial)]
    }

    fn dial(&mut self, now: Instant) -> Vec<Action> {
        let dial = self.new_dial(now);
        self.attempt += 1;
        self.enter(Phase::Connecting { dial }, now);
        vec![Action::Dial(dial)]
    }

    fn new_dial(&mut self, now: Instant) -> ConnectionId {
        let id = ConnectionId(self.next_id);
        self.next_id += 1;
        self.last_dial = Some(now);
        id
    }

    fn forget_failures(&mut self) {
        self.backoff.reset();
        self.attempt = 0;
        self.failures = 0;
        self.retries_exhausted = false;
    }

    fn enter(&mut self, phase: Phase, now: Instant) {
        // Dialling and waiting in turns is one long time of being down.
        let down = |phase: Phase| matches!(phase, Phase::Connecting { .. } | Phase::Backoff { .. });
        if !(down(self.phase) && down(phase)) {
            self.since = now;
        }
        self.unused = false;
        self.phase = phase;
    }
}

fn is_like_age(a: Duration, b: Duration) -> bool {
    let difference = a.abs_diff(b);
    difference < LIKE_AGE || difference < a.max(b) / 10
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
