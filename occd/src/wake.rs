//! Notices that the machine has slept and that its network has changed: connections may be dead then without
//! anybody having said so, and hosts that could not be reached may be reachable.
//!
//! Sleep shows as a jump of the clock that goes on while the machine sleeps. The clock is looked at seldom, and at once
//! when the machine wakes up after the time for a look (timerfd_create(2)). The kernel tells of addresses that come and go
//! (rtnetlink(7)); elsewhere than on Linux only sleep is noticed, by timers that stand still in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::pool::Pool;

/// How often the clock is looked at.
const TICK: Duration = Duration::from_secs(12);
/// So much more than a tick between two looks was sleep, or the process was stopped.
const GAP: Duration = Duration::from_millis(12_500);
/// A network that changes does so in several steps.
#[cfg(target_os = "linux")]
const SETTLE: Duration = Duration::from_millis(250);
/// Containers that come and go change addresses, too: the hosts are not asked more often than this.
#[cfg(target_os = "linux")]
const AT_MOST: Duration = Duration::from_secs(5);
/// How long a command waits for a clock that is late: it is looked at as soon as somebody asks.
const LATE: Duration = Duration::from_secs(1);

/// The clock that notices sleep.
#[derive(Debug)]
pub struct SleepClock {
    /// The last look, in milliseconds since boot.
    last: AtomicU64,
    ticked: watch::Sender<()>,
    asked: Notify,
    #[cfg(target_os = "linux")]
    alarm: Option<alarm::Alarm>,
}

impl Default for SleepClock {
    fn default() -> Self {
        let last = AtomicU64::new(since_boot());
        Self {
            last,
            ticked: watch::Sender::default(),
            asked: Notify::new(),
            #[cfg(target_os = "linux")]
            alarm: alarm::Alarm::new(),
        }
    }
}

impl SleepClock {
    /// Waits until the sleep that has just ended, if any, has been noticed: no command is to be sent on a
    /// connection that nobody has looked at since.
    pub async fn settled(&self) {
        if !self.is_late() {
            return;
        }
        let mut ticked = self.ticked.subscribe();
        if self.is_late() {
            // The timers stood still as well: the next look may be almost a tick away.
            self.asked.notify_one();
            // Better late than never: the connection is what it is.
            let _ = timeout(LATE, ticked.changed()).await;
        }
    }

    /// Returns what changes with each look at the clock: for what is looked at as seldom, and wakes nothing for it.
    pub fn ticks(&self) -> watch::Receiver<()> {
        self.ticked.subscribe()
    }

    /// Waits until it is time to look at the clock.
    async fn due(&self) {
        tokio::select! {
            () = self.tick() => {}
            () = self.asked.notified() => {}
        }
    }

    #[cfg(target_os = "linux")]
    async fn tick(&self) {
        match &self.alarm {
            Some(alarm) => alarm.after(TICK).await,
            None => sleep(TICK).await,
        }
    }

    #[cfg(not(target_os = "linux"))]
    async fn tick(&self) {
        sleep(TICK).await;
    }

    /// Looks at the clock, and has `check` done before anybody goes on if the machine was asleep.
    fn look(&self, check: impl FnOnce()) {
        if self.is_late() {
            tracing::info!("the machine was asleep, or the process stopped: every host is checked");
            check();
        }
        self.last.store(since_boot(), Ordering::Relaxed);
        self.ticked.send_replace(());
    }

    fn is_late(&self) -> bool {
        let elapsed = since_boot().saturating_sub(self.last.load(Ordering::Relaxed));
        Duration::from_millis(elapsed) > TICK + GAP
    }
}

/// Returns the milliseconds since boot, those in which the machine slept included.
fn since_boot() -> u64 {
    #[cfg(target_os = "linux")]
    let clock = rustix::time::ClockId::Boottime;
    // Goes on during sleep on the systems that have no such clock; it is never set back.
    #[cfg(not(target_os = "linux"))]
    let clock = rustix::time::ClockId::Monotonic;
    let time = rustix::time::clock_gettime(clock);
    let (seconds, nanos) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
    seconds * 1000 + nanos / 1_000_000
}

/// Has every connection checked after each sleep and each change of the network, until `stop` is cancelled.
pub async fn watch(pool: Arc<Pool>, clock: Arc<SleepClock>, stop: CancellationToken) {
    let clock = async {
        loop {
            clock.due().await;
            clock.look(|| pool.check_all());
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = clock => {}
        () = network(&pool) => {}
    }
}

#[cfg(target_os = "linux")]
async fn network(pool: &Pool) {
    let changes = match netlink::Changes::open() {
        Ok(changes) => changes,
        Err(error) => {
            tracing::warn!(%error, "changes of the network are not noticed");
            return std::future::pending().await;
        }
    };
    loop {
        changes.next().await;
        sleep(SETTLE).await;
        tracing::info!("the network changed: every host is checked");
        pool.check_all();
        sleep(AT_MOST).await;
    }
}

#[cfg(not(target_os = "linux"))]
async fn network(_: &Pool) {
    std::future::pending().await
}

#[cfg(target_os = "linux")]
mod alarm {
    use std::io;
    use std::time::Duration;

    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    use tokio::net::unix::pipe::Receiver;
    use tokio::runtime::Handle;
    use tokio::time::sleep;

    /// A timer that goes on while the machine sleeps, and is due at once when it wakes up later. tokio has no type for it;
    /// waiting is the same for whatever can be read from.
    #[derive(Debug)]
    pub(super) struct Alarm(Receiver);

    impl Alarm {
        pub(super) fn new() -> Option<Self> {
            // Waiting takes a runtime.
            Handle::try_current().ok()?;
            let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
            let timer = timerfd_create(TimerfdClockId::Boottime, flags);
            match timer.map_err(io::Error::from).and_then(Receiver::from_owned_fd_unchecked) {
                Ok(timer) => Some(Self(timer)),
                Err(error) => {
                    tracing::debug!(%error, "sleep is noticed by a timer that stands still in it");
                    None
                }
            }
        }

        /// Waits so long. Nobody else waits for the same alarm.
        pub(super) async fn after(&self, time: Duration) {
            if self.ring(time).await.is_err() {
                sleep(time).await;
            }
        }

        async fn ring(&self, time: Duration) -> io::Result<()> {
            let once = Timespec { tv_sec: 0, tv_nsec: 0 };
            let due = Timespec::try_from(time).map_err(io::Error::other)?;
            let due = Itimerspec { it_interval: once, it_value: due };
            // This takes back what has not been read.
            timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &due)?;
            loop {
                self.0.readable().await?;
                // How often it was due.
                match self.0.try_read(&mut [0; 8]) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    read => return read.map(drop),
                }
            }
        }
    }
}

#[cfg(target_os = "linux")]
mod netlink {
    use std::io;
    use std::os::unix::net::UnixDatagram as StdDatagram;

    use rustix::net::netlink::SocketAddrNetlink;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
    use tokio::net::UnixDatagram;

    /// RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR of linux/rtnetlink.h: addresses that come and go.
    const ADDRESSES: u32 = 0x10 | 0x100;
    /// More than one message; what does not fit is cut off, and its contents do not matter.
    const MESSAGE: usize = 8 * 1024;

    /// The kernel's word of addresses that come and go.
    pub(super) struct Changes(UnixDatagram);

    impl Changes {
        pub(super) fn open() -> io::Result<Self> {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            // Without a protocol: NETLINK_ROUTE is 0.
            let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
            bind(&socket, &SocketAddrNetlink::new(0, ADDRESSES))?;
            // tokio has no type for a netlink socket; recv(2) is the same for every socket of datagrams.
            Ok(Self(UnixDatagram::from_std(StdDatagram::from(socket))?))
        }

        /// Waits for a change, and takes all that have been told.
        pub(super) async fn next(&self) {
            let mut buffer = [0; MESSAGE];
            // An error is word of lost messages (ENOBUFS), and so of changes.
            let _ = self.0.recv(&mut buffer).await;
            while self.0.try_recv(&mut buffer).is_ok() {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_to_ask_after_a_sleep_waits_for_the_check_and_not_for_a_timer() {
        let clock = SleepClock::default();
        clock.last.store(since_boot().saturating_sub(60_000), Ordering::Relaxed);
        let checked = AtomicBool::new(false);
        let looks = async {
            loop {
                clock.due().await;
                clock.look(|| checked.store(true, Ordering::Relaxed));
            }
        };
        let begun = Instant::now();
        tokio::select! {
            () = clock.settled() => {}
            () = looks => {}
        }
        assert!(checked.load(Ordering::Relaxed));
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert!(!clock.is_late());
    }
}
