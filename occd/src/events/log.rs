//! The last events, by number.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use occ_proto::HostName;
use occ_proto::event::{Change, Event, EventKind, GapReason};
use tokio::sync::watch;

/// How many are kept.
const KEPT: usize = 2048;
/// How many bytes of them.
const BYTES: usize = 4 * 1024 * 1024;
/// How many are handed out at once.
const BATCH: usize = 64;

/// An event that was told.
#[derive(Debug)]
pub struct Told {
    /// Its number.
    pub number: u64,
    /// What it is about.
    pub kind: EventKind,
    /// The host that it is about.
    pub host: Option<HostName>,
    /// The event as JSON.
    pub json: String,
}

/// The events after a number are not known any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost(pub GapReason);

/// The last events.
#[derive(Debug)]
pub struct Events {
    /// Tells the events of this daemon from those of another.
    epoch: u32,
    log: Mutex<Log>,
    latest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Log {
    told: VecDeque<Arc<Told>>,
    bytes: usize,
    latest: u64,
}

impl Default for Events {
    fn default() -> Self {
        Self { epoch: fastrand::u32(..), log: Mutex::default(), latest: watch::Sender::default() }
    }
}

impl Events {
    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of a change.
    pub fn tell(&self, kind: EventKind, host: Option<HostName>, change: Change) {
        let number = {
            let mut log = self.lock();
            log.latest += 1;
            let number = log.latest;
            let json = self.json(number, change);
            log.bytes += json.len();
            log.told.push_back(Arc::new(Told { number, kind, host, json }));
            while log.told.len() > KEPT || log.bytes > BYTES {
                let Some(oldest) = log.told.pop_front() else { break };
                log.bytes -= oldest.json.len();
            }
            number
        };
        self.latest.send_replace(number);
    }

    /// Returns a change as an event of that number, in JSON.
    pub fn json(&self, number: u64, change: Change) -> String {
        let event = Event { id: self.id(number), change };
        // Strings, numbers and maps with string keys: this always serialises.
        let mut json = serde_json::to_string(&event).unwrap_or_default();
        // Many are kept, for long.
        json.shrink_to_fit();
        json
    }

    /// Returns the number of the last event.
    pub fn latest(&self) -> u64 {
        self.lock().latest
    }

    /// Returns how many are kept.
    pub fn kept(&self) -> usize {
        self.lock().told.len()
    }

    /// Returns a watch of that number.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.latest.subscribe()
    }

    /// Returns the name of an event.
    pub fn id(&self, number: u64) -> String {
        name(self.epoch, number)
    }

    /// Returns the number of the event that has that name.
    ///
    /// # Errors
    /// When it is none of this daemon's, or no event's at all.
    pub fn number(&self, id: &str) -> Result<u64, Lost> {
        match read(id) {
            Some((epoch, number)) if epoch == self.epoch && number <= self.latest() => Ok(number),
            Some((epoch, _)) if epoch != self.epoch => Err(Lost(GapReason::Restarted)),
            _ => Err(Lost(GapReason::Unknown)),
        }
    }

    /// Returns the next events after that number, none when there are none yet.
    ///
    /// # Errors
    /// When some of them are not kept any more.
    pub fn after(&self, number: u64) -> Result<Vec<Arc<Told>>, Lost> {
        let log = self.lock();
        // They are numbered without a gap.
        let oldest = log.told.front().map_or(log.latest + 1, |told| told.number);
        if number + 1 < oldest {
            return Err(Lost(GapReason::Forgotten));
        }
        let skip = usize::try_from(number + 1 - oldest).unwrap_or(usize::MAX);
        Ok(log.told.iter().skip(skip).take(BATCH).cloned().collect())
    }
}

/// Returns what a daemon calls an event.
fn name(epoch: u32, number: u64) -> String {
    format!("{epoch:08x}-{number}")
}

/// Reads such a name as it is written, and no other.
fn read(id: &str) -> Option<(u32, u64)> {
    let (epoch, number) = id.split_once('-')?;
    let (epoch, number) = (u32::from_str_radix(epoch, 16).ok()?, number.parse().ok()?);
    (name(epoch, number) == id).then_some((epoch, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tell(events: &Events, name: &str) {
        let host = HostName::new(name).unwrap();
        let change = Change::Host { host: host.clone(), status: None };
        events.tell(EventKind::Host, Some(host), change);
    }

    fn numbers(told: &[Arc<Told>]) -> Vec<u64> {
        told.iter().map(|told| told.number).collect()
    }

    #[test]
    fn a_reader_goes_on_where_it_was() {
        let events = Events::default();
        assert!(events.after(0).unwrap().is_empty());
        for _ in 0..3 {
            tell(&events, "h");
        }
        assert_eq!(numbers(&events.after(0).unwrap()), [1, 2, 3]);
        let seen = events.number(&events.id(2)).unwrap();
        assert_eq!(numbers(&events.after(seen).unwrap()), [3]);
        assert!(events.after(3).unwrap().is_empty());
        assert!(events.after(1).unwrap()[0].json.contains(&events.id(2)));
    }

    #[test]
    fn what_is_not_kept_is_said() {
        let events = Events::default();
        for _ in 0..KEPT + 10 {
            tell(&events, "h");
        }
        assert_eq!(events.after(9).unwrap_err(), Lost(GapReason::Forgotten));
        assert_eq!(numbers(&events.after(10).unwrap())[0], 11);
        let other = name(events.epoch.wrapping_add(1), 3);
        assert_eq!(events.number(&other), Err(Lost(GapReason::Restarted)));
        // Of no daemon, and one that has not been yet.
        let damaged = format!("{}x", events.id(3));
        for id in ["", "-", "x", "-1", "zz-1", "+1234567-3", &damaged, &events.id(100_000)] {
            assert_eq!(events.number(id), Err(Lost(GapReason::Unknown)), "{id}");
        }
    }

    #[test]
    fn large_events_do_not_take_all_memory() {
        let events = Events::default();
        let log = |events: &Events| events.lock().bytes;
        let text = "x".repeat(64 * 1024);
        for _ in 0..200 {
            let forward_id = text.clone();
            let host = HostName::new("h").unwrap();
            events.tell(
                EventKind::Forward,
                None,
                Change::Forward { forward_id, host, forward: None },
            );
        }
        assert!(log(&events) <= BYTES, "{}", log(&events));
        assert!(!events.after(199).unwrap().is_empty());
    }
}
