//! Tables of single steps, and properties over random histories.

use proptest::prelude::*;

use super::*;
use crate::host::backoff::Caps;

const COMMAND: Event = Event::Wanted(Demand::Command { inputs_changed: false });
const GLANCE: Event = Event::Wanted(Demand::Glance);
const PERSON: Event = Event::Wanted(Demand::Person);
const ANSWER: Event = Event::Wanted(Demand::Answer);

fn id(n: u64) -> ConnectionId {
    ConnectionId(n)
}

fn lost(n: u64) -> Event {
    Event::Lost { id: id(n), loss: Loss::Broken }
}

/// A machine and its clock.
struct Rig {
    machine: HostMachine,
    now: Instant,
}

impl Rig {
    fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    fn with_limits(limits: Limits) -> Self {
        let now = fixed_instant();
        let backoff = DialBackoff::new(Caps::default(), fastrand::Rng::with_seed(7));
        Self { machine: HostMachine::new(now, backoff, limits), now }
    }

    fn after(&mut self, seconds: f64, event: Event) -> Vec<Action> {
        self.now += Duration::from_secs_f64(seconds);
        self.machine.handle(event, self.now)
    }

    fn on(&mut self, event: Event) -> Vec<Action> {
        self.after(0.0, event)
    }

    fn connected() -> Self {
        let mut rig = Self::new();
        rig.on(COMMAND);
        rig.on(Event::Dialled(id(1)));
        assert_eq!(rig.machine.state(), State::Connected);
        rig
    }

    fn failed() -> Self {
        let mut rig = Self::new();
        rig.on(COMMAND);
        rig.on(Event::DialFailed(id(1), Retry::Fatal));
        assert_eq!(rig.machine.state(), State::Failed);
        rig
    }

    fn in_backoff() -> Self {
        let mut rig = Self::new();
        rig.on(COMMAND);
        rig.on(Event::DialFailed(id(1), Retry::SlowDown));
        assert_eq!(rig.machine.state(), State::Backoff);
        rig
    }
}

/// The machine takes its time from its caller; any fixed point will do.
fn fixed_instant() -> Instant {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *START.get_or_init(Instant::now)
}

#[test]
fn any_demand_dials_an_idle_host_once() {
    for event in [GLANCE, COMMAND, PERSON] {
        let mut rig = Rig::new();
        assert_eq!(rig.on(event), [Action::Dial(id(1))]);
        assert_eq!(rig.on(COMMAND), []);
        assert_eq!(rig.on(PERSON), []);
        assert_eq!(rig.machine.state(), State::Connecting);
        assert_eq!(rig.machine.attempt(), 1);
    }
}

#[test]
fn a_dial_that_succeeds_connects_and_a_stale_one_is_closed() {
    let mut rig = Rig::new();
    rig.on(COMMAND);
    assert_eq!(rig.on(Event::Dialled(id(1))), []);
    assert_eq!(rig.machine.primary(), Some(id(1)));
    assert_eq!(rig.machine.attempt(), 0);
    assert_eq!(rig.on(Event::Dialled(id(9))), [Action::Close(id(9))]);
    assert_eq!(rig.on(lost(9)), []);
    assert_eq!(rig.machine.state(), State::Connected);
}

#[test]
fn a_failed_dial_backs_off_and_dials_again_when_due() {
    let mut rig = Rig::new();
    rig.on(COMMAND);
    rig.on(Event::DialFailed(id(1), Retry::Backoff));
    assert_eq!(rig.machine.state(), State::Backoff);
    let until = rig.machine.deadline().unwrap();
    assert!(until <= rig.now + Duration::from_millis(500));
    rig.now = until - Duration::from_nanos(1);
    assert_eq!(rig.on(Event::Due), []);
    rig.now = until;
    assert_eq!(rig.on(Event::Due), [Action::Dial(id(2))]);
    assert_eq!(rig.machine.attempt(), 2);
}

#[test]
fn during_backoff_commands_cause_at_most_one_dial_in_two_seconds() {
    let mut rig = Rig::in_backoff();
    assert_eq!(rig.after(0.5, COMMAND), []);
    // Not forgotten: the dial is made as soon as it may be.
    assert_eq!(rig.machine.deadline(), Some(rig.now + Duration::from_millis(1500)));
    assert_eq!(rig.after(1.5, Event::Due), [Action::Dial(id(2))]);
    rig.on(Event::DialFailed(id(2), Retry::SlowDown));
    assert_eq!(rig.after(3.0, COMMAND), [Action::Dial(id(3))]);
}

#[test]
fn a_glance_does_not_hurry_backoff_and_a_person_does() {
    let mut rig = Rig::in_backoff();
    let until = rig.machine.deadline();
    assert_eq!(rig.after(5.0, GLANCE), []);
    assert_eq!(rig.machine.deadline(), until);
    assert_eq!(rig.on(PERSON), [Action::Dial(id(2))]);
}

#[test]
fn who_can_answer_is_asked_at_once_but_on_a_stopped_host() {
    let mut rig = Rig::new();
    rig.on(COMMAND);
    rig.on(Event::DialFailed(id(1), Retry::Wait));
    assert_eq!(rig.on(COMMAND), []);
    assert_eq!(rig.on(ANSWER), [Action::Dial(id(2))]);
    assert_eq!(rig.on(ANSWER), []);
    assert_eq!(Rig::failed().on(ANSWER), [Action::Dial(id(2))]);
    rig.on(Event::Disconnect);
    assert_eq!(rig.on(ANSWER), []);
}

#[test]
fn failed_keeps_its_error_for_30_s_unless_something_changed() {
    let mut rig = Rig::failed();
    assert_eq!(rig.after(29.0, COMMAND), []);
    assert_eq!(rig.on(GLANCE), []);
    assert_eq!(rig.on(Event::Due), []);
    assert_eq!(rig.machine.deadline(), None);
    assert_eq!(rig.after(1.0, COMMAND), [Action::Dial(id(2))]);

    let changed = Event::Wanted(Demand::Command { inputs_changed: true });
    assert_eq!(Rig::failed().on(changed), [Action::Dial(id(2))]);
    assert_eq!(Rig::failed().on(PERSON), [Action::Dial(id(2))]);
    assert_eq!(Rig::failed().on(Event::Reconnect), [Action::Dial(id(2))]);
}

#[test]
fn a_changed_config_frees_a_failed_host_and_replaces_a_connection() {
    let mut rig = Rig::failed();
    assert_eq!(rig.on(Event::ConfigChanged), []);
    assert_eq!(rig.machine.state(), State::Idle);

    let mut rig = Rig::connected();
    assert_eq!(rig.on(Event::ConfigChanged), [Action::Retire(id(1)), Action::Dial(id(2))]);
    assert_eq!(rig.machine.state(), State::Connecting);

    let mut rig = Rig::new();
    rig.on(COMMAND);
    assert_eq!(rig.on(Event::ConfigChanged), [Action::CancelDial(id(1)), Action::Dial(id(2))]);
}

#[test]
fn stopped_is_silent_until_a_person_connects() {
    let mut rig = Rig::connected();
    assert_eq!(rig.on(Event::Disconnect), [Action::Close(id(1))]);
    for event in [GLANCE, COMMAND, Event::Due, Event::ConfigChanged, lost(1), Event::Bulk(id(1))] {
        assert_eq!(rig.after(1000.0, event), []);
        assert_eq!(rig.machine.state(), State::Stopped);
    }
    assert_eq!(rig.on(PERSON), [Action::Dial(id(2))]);
}

#[test]
fn disconnect_ends_a_dial() {
    let mut rig = Rig::new();
    rig.on(COMMAND);
    assert_eq!(rig.on(Event::Disconnect), [Action::CancelDial(id(1))]);
    assert_eq!(rig.on(Event::Dialled(id(1))), [Action::Close(id(1))]);
    assert_eq!(rig.machine.state(), State::Stopped);
}

#[test]
fn since_tells_how_long_the_host_is_down_however_often_it_was_dialled() {
    let mut rig = Rig::connected();
    rig.after(100.0, lost(1));
    let down = rig.now;
    for n in 2..5 {
        rig.after(60.0, Event::Due);
        assert_eq!(rig.machine.since(), down);
        rig.on(Event::DialFailed(id(n), Retry::Backoff));
        assert_eq!(rig.machine.since(), down);
    }
    rig.after(60.0, Event::Due);
    rig.on(Event::Dialled(id(5)));
    assert_eq!(rig.machine.since(), rig.now);
}

#[test]
fn a_broken_connection_is_dialled_again_and_backoff_resets_only_after_60_s() {
    let mut rig = Rig::connected();
    rig.after(61.0, lost(1));
    assert!(rig.machine.deadline().unwrap() <= rig.now + Duration::from_millis(500));

    // Up for 20 s each time: the interval goes on growing.
    let mut rig = Rig::connected();
    let mut longest = Duration::ZERO;
    for n in 1..40 {
        rig.after(20.0, lost(n));
        let until = rig.machine.deadline().unwrap();
        longest = longest.max(until - rig.now);
        rig.now = until;
        assert_eq!(rig.on(Event::Due), [Action::Dial(id(n + 1))]);
        rig.on(Event::Dialled(id(n + 1)));
    }
    assert!(longest > Duration::from_secs(20), "{longest:?}");
}

#[test]
fn a_server_that_closes_idle_connections_twice_alike_is_left_alone() {
    let idle_close = |n| Event::Lost { id: id(n), loss: Loss::Idle };
    let mut rig = Rig::connected();
    rig.after(300.0, idle_close(1));
    assert_eq!((rig.machine.state(), rig.machine.idle_policy()), (State::Backoff, None));
    rig.after(1.0, Event::Due);
    rig.on(Event::Dialled(id(2)));
    rig.after(301.0, idle_close(2));
    assert_eq!(rig.machine.state(), State::Idle);
    assert_eq!(rig.machine.idle_policy(), Some(Duration::from_secs(301)));
    assert_eq!(rig.on(COMMAND), [Action::Dial(id(3))]);
    assert_eq!(rig.machine.idle_policy(), None);
    // Left alone at once the next time, unless it may be another server by now.
    rig.on(Event::Dialled(id(3)));
    rig.after(300.0, idle_close(3));
    assert_eq!(rig.machine.idle_policy(), Some(Duration::from_secs(300)));
    rig.on(Event::ConfigChanged);
    assert_eq!((rig.machine.state(), rig.machine.idle_policy()), (State::Idle, None));
    rig.on(COMMAND);
    rig.on(Event::Dialled(id(4)));
    rig.after(300.0, idle_close(4));
    assert_eq!(rig.machine.state(), State::Backoff);
}

#[test]
fn young_connections_must_be_closed_alike_more_often_and_without_a_failed_dial_between() {
    let idle_close = |n| Event::Lost { id: id(n), loss: Loss::Idle };
    // Connects again and loses that connection after so many seconds.
    let again = |rig: &mut Rig, n, seconds| {
        rig.now = rig.machine.deadline().unwrap();
        rig.on(Event::Due);
        rig.on(Event::Dialled(id(n)));
        rig.after(seconds, idle_close(n));
        rig.machine.state()
    };
    for (ages, left_alone) in [
        ([10.0, 11.0, 10.0, 11.0], true),
        ([10.0, 11.0, 30.0, 31.0], false),
        // Killed, most likely.
        ([0.5, 0.5, 0.5, 0.5], false),
    ] {
        let mut rig = Rig::connected();
        rig.after(ages[0], idle_close(1));
        for (n, age) in (2..).zip(&ages[1..3]) {
            assert_eq!(again(&mut rig, n, *age), State::Backoff, "{ages:?}");
        }
        let state = again(&mut rig, 4, ages[3]);
        assert_eq!(state == State::Idle, left_alone, "{ages:?}");
    }
    // A server that goes away and comes back flaps.
    let mut rig = Rig::connected();
    rig.after(10.0, idle_close(1));
    for n in [2, 4, 6, 8, 10] {
        rig.now = rig.machine.deadline().unwrap();
        rig.on(Event::Due);
        rig.on(Event::DialFailed(id(n), Retry::Backoff));
        assert_eq!(again(&mut rig, n + 1, 10.0), State::Backoff);
    }
}

#[test]
fn a_login_that_needs_a_person_is_not_repeated_in_the_background() {
    let mut rig = Rig::connected();
    rig.after(300.0, Event::Lost { id: id(1), loss: Loss::NeedsPerson });
    assert_eq!((rig.machine.state(), rig.machine.deadline()), (State::Failed, None));
    let command = |inputs_changed| Event::Wanted(Demand::Command { inputs_changed });
    assert_eq!(rig.on(command(false)), []);
    assert_eq!(rig.on(command(true)), [Action::Dial(id(2))]);
}

#[test]
fn waking_up_hurries_the_next_dial_unless_we_came_too_often() {
    let woken = Event::Woken { after: Duration::from_secs(1) };
    let mut rig = Rig::connected();
    rig.after(1.0, lost(1));
    // Far into the backoff.
    for n in 2..12 {
        let due = rig.machine.deadline().unwrap();
        rig.now = due;
        rig.on(Event::Due);
        rig.on(Event::DialFailed(id(n), Retry::Backoff));
    }
    rig.on(woken);
    assert!(rig.machine.deadline().unwrap() <= rig.now + Duration::from_secs(1));
    rig.after(1.0, Event::Due);
    rig.on(Event::DialFailed(id(12), Retry::SlowDown));
    let penalty = rig.machine.deadline();
    rig.on(woken);
    assert_eq!(rig.machine.deadline(), penalty);
    // A host that nobody wants is left alone.
    let mut idle = Rig::new();
    assert_eq!(idle.on(woken), []);
    assert_eq!((idle.machine.state(), idle.machine.deadline()), (State::Idle, None));
}

#[test]
fn a_bulk_primary_is_replaced_while_it_goes_on() {
    let mut rig = Rig::connected();
    let since = rig.machine.since();
    assert_eq!(rig.after(1.0, Event::Bulk(id(1))), [Action::Dial(id(2))]);
    assert_eq!(rig.on(Event::Bulk(id(1))), []);
    assert_eq!(rig.machine.primary(), Some(id(1)));
    assert_eq!(rig.on(Event::Dialled(id(2))), [Action::Retire(id(1))]);
    assert_eq!(rig.machine.primary(), Some(id(2)));
    assert_eq!(rig.machine.since(), since);

    // A replacement that fails leaves the host connected; a primary that dies waits for it.
    let mut rig = Rig::connected();
    rig.on(Event::Bulk(id(1)));
    rig.on(Event::DialFailed(id(2), Retry::Fatal));
    assert_eq!(rig.machine.state(), State::Connected);
    rig.on(Event::Bulk(id(1)));
    rig.on(lost(1));
    assert_eq!(rig.machine.state(), State::Connecting);
    rig.on(Event::Dialled(id(3)));
    assert_eq!(rig.machine.primary(), Some(id(3)));
}

#[test]
fn a_replacement_that_fails_is_dialled_again_later() {
    let mut rig = Rig::connected();
    rig.on(Event::Bulk(id(1)));
    assert_eq!(rig.on(Event::DialFailed(id(2), Retry::Backoff)), []);
    assert_eq!((rig.machine.state(), rig.machine.primary()), (State::Connected, Some(id(1))));
    // Not at once, however often it is asked for, and then by itself.
    assert_eq!(rig.on(Event::Bulk(id(1))), []);
    let due = rig.machine.deadline().expect("another dial is due");
    let wait = due.duration_since(rig.now);
    assert_eq!(rig.after(wait.as_secs_f64(), Event::Due), [Action::Dial(id(3))]);
    assert_eq!(rig.on(Event::Dialled(id(3))), [Action::Retire(id(1))]);
    assert_eq!(rig.machine.deadline(), None);

    // Not where a person must act first.
    let mut rig = Rig::connected();
    rig.on(Event::Bulk(id(1)));
    rig.on(Event::DialFailed(id(2), Retry::Fatal));
    assert_eq!(rig.machine.deadline(), None);
}

#[test]
fn a_limit_of_retries_fails_the_host() {
    let mut rig = Rig::with_limits(Limits { max_retries: Some(2) });
    rig.on(COMMAND);
    for n in 1..=2 {
        rig.on(Event::DialFailed(id(n), Retry::Backoff));
        assert_eq!(rig.machine.state(), State::Backoff);
        rig.after(60.0, Event::Due);
    }
    rig.on(Event::DialFailed(id(3), Retry::Backoff));
    assert_eq!(rig.machine.state(), State::Failed);
    assert!(rig.machine.retries_exhausted());
}

#[test]
fn reconnect_closes_and_dials_at_once() {
    let mut rig = Rig::connected();
    assert_eq!(rig.on(Event::Reconnect), [Action::Close(id(1)), Action::Dial(id(2))]);
    assert_eq!(rig.on(Event::Reconnect), []);
}

#[test]
fn a_host_that_nobody_uses_says_so_until_it_is_used() {
    let mut rig = Rig::connected();
    assert_eq!(rig.on(Event::Unused), [Action::Close(id(1))]);
    assert!(rig.machine.is_unused());
    rig.on(COMMAND);
    assert!(!rig.machine.is_unused());
}

#[test]
fn a_connection_that_is_given_takes_the_place_of_whatever_there_was() {
    let mut rig = Rig::new();
    assert_eq!(rig.on(Event::Given), []);
    assert_eq!((rig.machine.state(), rig.machine.primary()), (State::Connected, Some(id(1))));
    assert_eq!(rig.on(Event::Given), [Action::Retire(id(1))]);
    assert_eq!(rig.machine.primary(), Some(id(2)));
    let mut rig = Rig::new();
    rig.on(COMMAND);
    assert_eq!(rig.on(Event::Given), [Action::CancelDial(id(1))]);
    assert_eq!((rig.machine.primary(), rig.machine.attempt()), (Some(id(2)), 0));
    for mut rig in [Rig::failed(), Rig::in_backoff()] {
        assert_eq!(rig.on(Event::Given), []);
        assert_eq!(rig.machine.state(), State::Connected);
    }
    let mut rig = Rig::connected();
    rig.on(Event::Disconnect);
    assert_eq!(rig.on(Event::Given), []);
    assert_eq!((rig.machine.state(), rig.machine.primary()), (State::Stopped, None));
}

/// One step of a random history. `slot` picks an id that was given out, or one that never was.
#[derive(Debug, Clone)]
struct Step {
    millis: u64,
    kind: u8,
    slot: u64,
    flag: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0u64..120_000, 0u8..14, 0u64..4, any::<bool>())
        .prop_map(|(millis, kind, slot, flag)| Step { millis, kind, slot, flag });
    proptest::collection::vec(step, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]
    #[test]
    fn histories_keep_the_invariants(seed: u64, steps in steps(), limit in proptest::option::of(0u32..6)) {
        let mut now = fixed_instant();
        let backoff = DialBackoff::new(Caps::default(), fastrand::Rng::with_seed(seed));
        let mut machine = HostMachine::new(now, backoff, Limits { max_retries: limit });
        // The model: dials under way, connections that take new work, and the highest id.
        let mut dials: Vec<ConnectionId> = Vec::new();
        let mut live: Vec<ConnectionId> = Vec::new();
        let mut highest: u64 = 0;
        for step in steps {
            now += Duration::from_millis(step.millis);
            let any_id = ConnectionId(highest.saturating_sub(step.slot));
            let retry = match step.slot { 0 | 1 => Retry::Backoff, 2 => Retry::SlowDown, _ => Retry::Fatal };
            let event = match step.kind {
                0 => GLANCE,
                1 => Event::Wanted(Demand::Command { inputs_changed: step.flag }),
                2 if step.flag => ANSWER,
                2 => PERSON,
                3 => Event::Reconnect,
                4 => Event::Disconnect,
                5 if step.flag => Event::Renew,
                5 => Event::ConfigChanged,
                6 | 7 => Event::Dialled(any_id),
                8 => Event::DialFailed(any_id, retry),
                9 => Event::Lost {
                    id: any_id,
                    loss: if step.flag { Loss::Idle } else { Loss::Broken },
                },
                10 => Event::Bulk(any_id),
                11 => Event::Woken { after: Duration::from_millis(step.millis % 2000) },
                12 => Event::Given,
                _ => Event::Due,
            };
            if matches!(event, Event::Dialled(id) if live.contains(&id)) {
                continue; // a dial ends once
            }
            let before = machine.state();
            // What the world does before the machine hears of it.
            match event {
                Event::Dialled(id) => {
                    if let Some(at) = dials.iter().position(|d| *d == id) {
                        dials.remove(at);
                        live.push(id);
                    }
                }
                Event::DialFailed(id, _) => dials.retain(|d| *d != id),
                Event::Lost { id, .. } => live.retain(|c| *c != id),
                _ => {}
            }
            let given = event == Event::Given && before != State::Stopped;
            let dialled_unasked = matches!(event, Event::Dialled(_));
            for action in machine.handle(event, now) {
                match action {
                    Action::Dial(id) => {
                        prop_assert!(id.0 > highest, "ids grow");
                        highest = id.0;
                        dials.push(id);
                        prop_assert!(before != State::Stopped
                            || matches!(event, PERSON | Event::Reconnect), "Stopped is silent");
                        prop_assert!(before != State::Failed
                            || matches!(event, Event::Wanted(_) | Event::Reconnect), "Failed waits");
                    }
                    Action::CancelDial(id) => {
                        prop_assert!(dials.contains(&id), "cancels what is under way");
                        dials.retain(|d| *d != id);
                    }
                    Action::Close(id) | Action::Retire(id) => {
                        prop_assert!(live.contains(&id) || dialled_unasked, "closes what is live");
                        live.retain(|c| *c != id);
                    }
                }
            }
            if given && let Some(id) = machine.primary() {
                prop_assert!(id.0 > highest, "ids grow");
                highest = id.0;
                live.push(id);
            }
            prop_assert!(dials.len() <= 1, "two dials: {dials:?}");
            prop_assert!(live.len() <= 1, "two connections: {live:?}");
            prop_assert_eq!(machine.primary(), live.first().copied());
            if before == State::Failed && machine.state() != State::Failed {
                prop_assert!(matches!(event, Event::Wanted(_) | Event::Reconnect | Event::Disconnect | Event::ConfigChanged | Event::Renew | Event::Given));
            }
            match machine.state() {
                State::Backoff => prop_assert!(machine.deadline().is_some()),
                State::Connected => {} // a replacement may be due
                _ => prop_assert!(machine.deadline().is_none()),
            }
            if machine.state() == State::Backoff && before != State::Backoff && let Some(until) = machine.deadline() {
                prop_assert!(until <= now + Duration::from_secs(750), "600 s penalty and a quarter");
                if !matches!(event, Event::DialFailed(_, Retry::SlowDown)) {
                    prop_assert!(until <= now + Duration::from_secs(300));
                }
            }
            if machine.state() == State::Connecting {
                prop_assert_eq!(dials.len(), 1, "connecting means a dial is under way");
            }
        }
    }
}
