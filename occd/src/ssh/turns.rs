//! Whose turn it is to dial: so many at once in all, fewer to one server or through one jump host, because a
//! server refuses logins that come in crowds (`MaxStartups` of sshd_config(5): from ten on). Who is waited for
//! comes first, then what was used last, then whoever asked first.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use occ_proto::HostName;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::hop::HopDemand;
use crate::prompts::Questions;

/// Dials at once.
const IN_ALL: usize = 16;
/// Dials at once through one jump host, whose processor they share with all others.
const PER_HOP: usize = 4;
/// Dials at once to one server, which may have several names.
const PER_SERVER: usize = 8;
/// How long what can wait waits for the dials to be over.
const PATIENCE: Duration = Duration::from_secs(2);

/// What dials share that only so many can pass at once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Lane {
    /// A jump host.
    Hop(HostName),
    /// A server's address and port.
    Server(String, u16),
}

impl Lane {
    fn limit(&self) -> usize {
        match self {
            Self::Hop(_) => PER_HOP,
            Self::Server(..) => PER_SERVER,
        }
    }
}

/// The turns of all hosts.
#[derive(Debug, Default)]
pub struct Turns {
    state: Mutex<State>,
    /// How many dials run or wait.
    busy: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct State {
    running: usize,
    lanes: HashMap<Lane, usize>,
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    host: Option<HostName>,
    lane: Lane,
    demand: HopDemand,
    /// When the host was last used.
    used: Option<Timestamp>,
    grant: oneshot::Sender<()>,
}

impl Turns {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn. Whoever stops waiting is passed over.
    pub async fn turn(
        self: &Arc<Self>,
        host: Option<&HostName>,
        lane: Lane,
        demand: HopDemand,
        used: Option<Timestamp>,
    ) -> Turn {
        let (grant, granted) = oneshot::channel();
        let host = host.cloned();
        let turns = Arc::clone(self);
        let mut turn = Turn { turns, lane: lane.clone(), granted: Some(granted), holds: false };
        self.lock().waiting.push(Waiting { host, lane, demand, used, grant });
        self.next();
        if let Some(granted) = &mut turn.granted {
            // The other end is in the list until it is given.
            turn.holds = granted.await.is_ok();
            turn.granted = None;
        }
        turn
    }

    /// Lets a host's dial pass those that nobody waits for.
    pub fn hurry(&self, host: &HostName) {
        let mut state = self.lock();
        for waiting in state.waiting.iter_mut().filter(|w| w.host.as_ref() == Some(host)) {
            waiting.demand = HopDemand::Command;
        }
    }

    /// Waits until nobody dials in a lane, but not for long.
    pub async fn calm(&self, lane: &Lane) {
        let mut changes = self.busy.subscribe();
        let calm = async {
            // The sender is ours.
            while self.lock().is_busy(lane) && changes.changed().await.is_ok() {}
        };
        // Either way: it was only a courtesy.
        let _ = timeout(PATIENCE, calm).await;
    }

    /// Gives out what turns there are.
    fn next(&self) {
        let mut state = self.lock();
        state.waiting.retain(|waiting| !waiting.grant.is_closed());
        while state.running < IN_ALL {
            let free = |waiting: &Waiting| {
                let running = state.lanes.get(&waiting.lane).copied().unwrap_or(0);
                running < waiting.lane.limit()
            };
            // Of equals the first is taken, which has waited longest.
            let rank = |waiting: &Waiting| match waiting.demand {
                HopDemand::Command => (false, None),
                HopDemand::Background => (true, Some(Reverse(waiting.used))),
            };
            let candidates = state.waiting.iter().enumerate().filter(|(_, waiting)| free(waiting));
            let Some((at, _)) = candidates.min_by_key(|(_, waiting)| rank(waiting)) else { break };
            let Waiting { lane, grant, .. } = state.waiting.remove(at);
            if grant.send(()).is_ok() {
                state.take(&lane);
            }
        }
        let busy = state.running + state.waiting.len();
        drop(state);
        self.busy.send_replace(busy);
    }
}

impl State {
    fn is_busy(&self, lane: &Lane) -> bool {
        self.lanes.contains_key(lane) || self.waiting.iter().any(|waiting| waiting.lane == *lane)
    }

    fn take(&mut self, lane: &Lane) {
        self.running += 1;
        *self.lanes.entry(lane.clone()).or_default() += 1;
    }

    fn give_back(&mut self, lane: &Lane) {
        self.running = self.running.saturating_sub(1);
        if let Some(count) = self.lanes.get_mut(lane) {
            *count -= 1;
            if *count == 0 {
                self.lanes.remove(lane);
            }
        }
    }
}

/// A turn in a lane. It ends when it is dropped.
#[derive(Debug)]
pub struct Turn {
    turns: Arc<Turns>,
    lane: Lane,
    /// Still waiting, or given up: a grant that nobody has taken goes back.
    granted: Option<oneshot::Receiver<()>>,
    holds: bool,
}

impl Turn {
    /// Returns the lane.
    pub fn lane(&self) -> &Lane {
        &self.lane
    }

    /// Waits for `work`. Others may dial while a person is asked.
    pub async fn around<T>(&mut self, questions: &Questions, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            let asked = questions.open().is_some();
            self.set_paused(asked);
            tokio::select! {
                biased;
                done = &mut work => {
                    self.set_paused(false);
                    return done;
                }
                () = questions.until(!asked) => {}
            }
        }
    }

    /// Lets others dial, or comes back, without waiting again.
    fn set_paused(&mut self, paused: bool) {
        if self.holds == paused {
            let mut state = self.turns.lock();
            if paused {
                state.give_back(&self.lane);
            } else {
                state.take(&self.lane);
            }
            drop(state);
            self.holds = !paused;
            self.turns.next();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let untaken = self.granted.as_mut().is_some_and(|granted| {
            granted.close();
            granted.try_recv().is_ok()
        });
        if self.holds || untaken {
            self.turns.lock().give_back(&self.lane);
        }
        self.turns.next();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use futures_util::future::BoxFuture;

    use super::*;

    fn name(name: &str) -> HostName {
        HostName::new(name).unwrap()
    }

    /// A server of its own.
    fn server(number: usize) -> Lane {
        Lane::Server(number.to_string(), 22)
    }

    fn wait<'a>(
        turns: &'a Arc<Turns>,
        host: &'a HostName,
        lane: Lane,
        demand: HopDemand,
    ) -> BoxFuture<'a, Turn> {
        wait_used(turns, host, lane, demand, None)
    }

    fn wait_used<'a>(
        turns: &'a Arc<Turns>,
        host: &'a HostName,
        lane: Lane,
        demand: HopDemand,
        used: Option<Timestamp>,
    ) -> BoxFuture<'a, Turn> {
        let mut waiting = turns.turn(Some(host), lane, demand, used).boxed();
        assert!((&mut waiting).now_or_never().is_none(), "{host} was to wait");
        waiting
    }

    fn take(turns: &Arc<Turns>, count: usize, lane: impl Fn(usize) -> Lane) -> Vec<Turn> {
        let turn =
            |number| turns.turn(None, lane(number), HopDemand::Background, None).now_or_never();
        (0..count).map(|number| turn(number).expect("there is room")).collect()
    }

    #[tokio::test]
    async fn who_is_waited_for_comes_first_then_who_came_first() {
        let turns = Arc::new(Turns::default());
        let mut running = take(&turns, IN_ALL, server);
        let names: Vec<HostName> = ["a", "b", "c", "d"].map(name).into();
        let mut a = wait(&turns, &names[0], server(99), HopDemand::Background);
        let mut b = wait(&turns, &names[1], server(99), HopDemand::Background);
        let mut c = wait(&turns, &names[2], server(99), HopDemand::Command);
        let d = wait(&turns, &names[3], server(99), HopDemand::Command);
        drop(running.pop());
        let c = (&mut c).now_or_never().expect("it is waited for");
        // One that stops waiting is passed over, one that is waited for by now comes first.
        drop(d);
        turns.hurry(&names[1]);
        drop(c);
        let b = (&mut b).now_or_never().expect("it is waited for by now");
        assert!((&mut a).now_or_never().is_none());
        drop((b, running));
        drop(a.await);
        assert_eq!(*turns.busy.borrow(), 0);
    }

    #[tokio::test]
    async fn of_those_that_nobody_waits_for_the_last_used_comes_first() {
        let turns = Arc::new(Turns::default());
        let mut running = take(&turns, IN_ALL, server);
        let names: Vec<HostName> = ["never", "long-ago", "lately"].map(name).into();
        let at = |second| Some(Timestamp::from_second(second).unwrap());
        let mut waiting: Vec<_> = names
            .iter()
            .zip([None, at(1), at(1_000_000)])
            .map(|(name, used)| wait_used(&turns, name, server(99), HopDemand::Background, used))
            .collect();
        for expected in [2, 1, 0] {
            drop(running.pop());
            let granted = (&mut waiting[expected]).now_or_never();
            drop(granted.unwrap_or_else(|| panic!("it is the turn of {}", names[expected])));
            // Another takes the place.
            running.extend(take(&turns, 0, server));
        }
    }

    #[tokio::test]
    async fn a_lane_has_a_limit_of_its_own_that_holds_nobody_else_up() {
        let turns = Arc::new(Turns::default());
        let (lane, host) = (Lane::Hop(name("bastion")), name("a"));
        let mut behind = take(&turns, PER_HOP, |_| lane.clone());
        let mut waiting = wait(&turns, &host, lane.clone(), HopDemand::Command);
        drop(take(&turns, IN_ALL - PER_HOP, server));
        assert!((&mut waiting).now_or_never().is_none());
        // While a person is asked, somebody else may dial.
        behind[0].set_paused(true);
        let turn = waiting.now_or_never().expect("there is room");
        behind[0].set_paused(false);
        assert_eq!(turns.lock().running, PER_HOP + 1);
        drop((turn, behind));
        let state = turns.lock();
        assert_eq!((state.running, state.lanes.len()), (0, 0));
    }

    #[tokio::test]
    async fn a_grant_that_nobody_takes_goes_on_to_the_next() {
        let turns = Arc::new(Turns::default());
        let running = take(&turns, IN_ALL, server);
        let (first, second) = (name("a"), name("b"));
        let one = wait(&turns, &first, server(99), HopDemand::Background);
        let two = wait(&turns, &second, server(99), HopDemand::Background);
        // Both are granted, and one is dropped before it looks.
        drop(running);
        drop(one);
        drop(two.await);
        assert_eq!((turns.lock().running, *turns.busy.borrow()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_can_wait_waits_for_the_dials_but_not_for_ever() {
        let turns = Arc::new(Turns::default());
        let (lane, other) = (server(0), server(1));
        turns.calm(&lane).now_or_never().expect("nobody dials");
        let running = take(&turns, 1, server);
        turns.calm(&other).now_or_never().expect("nobody dials there");
        let mut calm = turns.calm(&lane).boxed();
        assert!((&mut calm).now_or_never().is_none());
        drop(running);
        calm.now_or_never().expect("nobody dials any more");
        let running = take(&turns, 1, server);
        turns.calm(&lane).await;
        drop(running);
    }
}
