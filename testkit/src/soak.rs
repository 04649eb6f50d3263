//! A soak: hosts behind links that break at random, commands on all of them, and a checker of what must hold
//! whatever breaks: nothing runs twice, nothing that was said to have run did not, nothing that was said not to
//! have run did, no success lacks an exit status, no dead connection is taken for a live one for longer than
//! the keep-alive allows, and nothing is left behind.

#![allow(clippy::disallowed_methods, reason = "it is real time that passes")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::daemon::Target;
use crate::wait::blocking;
use crate::{DaemonRig, FaultyLink, RealSshd, http};

/// Commands at once.
const WORKERS: usize = 32;
/// A dead peer is found within three keep-alive intervals of 2 s; the rest is for a busy machine.
const DEATH: Duration = Duration::from_secs(12);
/// How long everything may take to be as it was before.
const CALM: Duration = Duration::from_secs(90);
const CONFIG: &str = "[connection]\nkeepalive_interval = \"2s\"\nkeepalive_count = 2\n\
                      connect_timeout = \"5s\"\nmax_backoff = \"2s\"\n";

/// How to soak.
#[derive(Debug, Clone, Copy)]
pub struct Soak {
    /// What is random follows from it.
    pub seed: u64,
    /// Hosts, at least two, each behind a link of its own. The last one's goes dead and is mended only when the
    /// daemon has found out.
    pub hosts: usize,
    /// For how long.
    pub time: Duration,
}

/// What happened.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Commands that were asked for.
    pub commands: u64,
    /// Commands that ended well.
    pub succeeded: u64,
    /// Commands whose end nobody saw.
    pub unknown: u64,
    /// Commands that were not started.
    pub not_started: u64,
    /// Changes of the links.
    pub faults: u64,
    /// Dead connections that were called connected at first, and then no longer.
    pub deaths: u64,
}

/// What a client was told of a command.
enum Told {
    Ran,
    Unknown,
    NotStarted,
}

impl Soak {
    /// Soaks.
    ///
    /// # Panics
    /// When something that must hold does not.
    pub fn run(self) -> Report {
        let sshd = RealSshd::builder().config("MaxStartups 1000").start();
        let ran = sshd.dir().join("ran");
        std::fs::create_dir(&ran).unwrap();
        let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(&ran, everyone).unwrap();
        let ran = ran.join("log");
        let mut rig = DaemonRig::new();
        let links: Vec<FaultyLink> =
            (0..self.hosts).map(|_| FaultyLink::start(sshd.addr())).collect();
        for (number, link) in links.iter().enumerate() {
            rig.add_host(&name(number), Target::from(&sshd).through(link));
        }
        rig.write_config_toml(CONFIG);
        rig.start_daemon(&[]);
        let script = format!("echo \"$0\" >> {}; echo \"$0\"", ran.display());
        let run = |host: usize, id: &str| exec(&rig, &name(host), &script, id);
        for host in 0..self.hosts {
            assert!(matches!(run(host, &format!("first-{host}")), Told::Ran), "{}", name(host));
        }
        settle(&rig, self.hosts);
        let (fds, tasks) = (rig.daemon_fds(), rig.daemon_tasks());

        let over = AtomicBool::new(false);
        let next = AtomicU64::new(0);
        let told: Mutex<HashMap<String, Told>> = Mutex::default();
        let black: Vec<Mutex<Option<Instant>>> = links.iter().map(|_| Mutex::default()).collect();
        let mut report = Report::default();
        thread::scope(|scope| {
            for worker in 0..WORKERS {
                let (over, next, told, run) = (&over, &next, &told, &run);
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(self.seed ^ (worker as u64 + 1));
                    while !over.load(Ordering::Relaxed) {
                        let id = format!("c{}", next.fetch_add(1, Ordering::Relaxed));
                        let what = run(random.usize(0..self.hosts), &id);
                        told.lock().unwrap_or_else(PoisonError::into_inner).insert(id, what);
                    }
                });
            }
            let (over_flag, rig, black) = (&over, &rig, &black);
            let (last_link, others) = links.split_last().unwrap();
            let deaths = scope.spawn(move || {
                let mut victim = Victim::new(last_link, black.last().unwrap());
                while !over_flag.load(Ordering::Relaxed) {
                    let alive = check_deaths(rig, black);
                    victim.is(alive.contains(&(self.hosts - 1)));
                    thread::sleep(Duration::from_millis(250));
                }
                victim.deaths
            });
            report.faults = self.torment(others, black);
            over.store(true, Ordering::Relaxed);
            report.deaths = deaths.join().unwrap();
        });
        for (link, black) in links.iter().zip(&black) {
            heal(link, black);
        }

        let log = std::fs::read_to_string(&ran).unwrap();
        let mut runs: HashMap<&str, u64> = HashMap::new();
        log.lines().for_each(|id| *runs.entry(id).or_default() += 1);
        let told = told.into_inner().unwrap_or_else(PoisonError::into_inner);
        for (id, what) in &told {
            report.commands += 1;
            let times = runs.get(id.as_str()).copied().unwrap_or(0);
            let (counter, allowed) = match what {
                Told::Ran => (&mut report.succeeded, 1..=1),
                Told::Unknown => (&mut report.unknown, 0..=1),
                Told::NotStarted => (&mut report.not_started, 0..=0),
            };
            *counter += 1;
            assert!(allowed.contains(&times), "{id} ran {times} times (seed {})", self.seed);
        }
        for host in 0..self.hosts {
            let id = format!("last-{host}");
            blocking::wait_for("each host to be back", CALM, || {
                matches!(run(host, &id), Told::Ran).then_some(())
            });
        }
        settle(&rig, self.hosts);
        let after = blocking::try_wait_for(CALM, || (rig.daemon_fds() <= fds).then_some(()));
        assert!(after.is_some(), "{fds} descriptors before, {} after", rig.daemon_fds());
        let after = blocking::try_wait_for(CALM, || (rig.daemon_tasks() <= tasks).then_some(()));
        assert!(after.is_some(), "{tasks} tasks before, {} after", rig.daemon_tasks());
        assert!(report.deaths > 0, "no connection was seen to die: {report:?}");
        blocking::wait_until(
            "the server's sessions to go",
            CALM,
            || sshd.session_count(),
            |n| *n == self.hosts,
        );
        report
    }

    /// Breaks and mends links until the time is over. Returns how often.
    fn torment(self, links: &[FaultyLink], black: &[Mutex<Option<Instant>>]) -> u64 {
        let mut random = fastrand::Rng::with_seed(self.seed);
        let end = Instant::now() + self.time;
        let mut faults = 0;
        while Instant::now() < end {
            let at = random.usize(0..links.len());
            let (link, black) = (&links[at], &black[at]);
            match random.u8(0..10) {
                0 | 1 => kill(link, black),
                2 => link.reset_all(),
                3 => link.close_all(),
                4 => link.refuse(true),
                5 => link.set_latency(Duration::from_millis(random.u64(0..100))),
                6 => link.slice(Some(random.usize(1..100))),
                _ => heal(link, black),
            }
            faults += 1;
            thread::sleep(Duration::from_millis(random.u64(20..400)));
        }
        faults
    }
}

fn name(number: usize) -> String {
    format!("soak-{number}")
}

/// The host whose link is dead until the daemon has found out.
struct Victim<'a> {
    link: &'a FaultyLink,
    black: &'a Mutex<Option<Instant>>,
    /// It was called connected while its link was dead.
    believed: bool,
    deaths: u64,
}

impl<'a> Victim<'a> {
    fn new(link: &'a FaultyLink, black: &'a Mutex<Option<Instant>>) -> Self {
        Self { link, black, believed: false, deaths: 0 }
    }

    /// Takes what the daemon says of it.
    fn is(&mut self, connected: bool) {
        let dead = self.black.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        match (connected, dead) {
            (true, false) => {
                self.believed = false;
                kill(self.link, self.black);
            }
            (true, true) => self.believed = true,
            (false, true) => {
                self.deaths += u64::from(self.believed);
                heal(self.link, self.black);
            }
            (false, false) => {}
        }
    }
}

fn kill(link: &FaultyLink, black: &Mutex<Option<Instant>>) {
    link.blackhole(true);
    black.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(Instant::now());
}

fn heal(link: &FaultyLink, black: &Mutex<Option<Instant>>) {
    link.blackhole(false);
    *black.lock().unwrap_or_else(PoisonError::into_inner) = None;
    link.refuse(false);
    link.set_latency(Duration::ZERO);
    link.slice(None);
}

/// Runs a command and says what its client knows of it.
fn exec(rig: &DaemonRig, host: &str, script: &str, id: &str) -> Told {
    let body = json!({ "argv": ["sh", "-c", script, id], "timeout_ms": 15_000 }).to_string();
    let path = format!("/v1/hosts/{host}/exec");
    let answer = http::request(&rig.socket(), "POST", &path, &[], Some(body.as_bytes())).unwrap();
    let answer_json = answer.json();
    let says = |key: &str| answer_json.get(key).cloned().unwrap_or(Value::Null);
    if answer.status == 200 {
        if says("timed_out") == json!(true) {
            return Told::Unknown;
        }
        assert_eq!(says("code"), json!(0), "no success without an exit status: {answer_json}");
        assert_eq!(says("stdout"), json!(format!("{id}\n")), "{answer_json}");
        return Told::Ran;
    }
    match says("code").as_str() {
        Some("outcome_unknown") => Told::Unknown,
        Some("host_unreachable" | "session_refused" | "exec_refused") => Told::NotStarted,
        other => panic!("{other:?}: {answer_json}"),
    }
}

/// Checks that no host behind a link that has been dead for long enough is called connected. Returns the
/// numbers of those that are called so.
fn check_deaths(rig: &DaemonRig, black: &[Mutex<Option<Instant>>]) -> Vec<usize> {
    let dead =
        |black: &Mutex<Option<Instant>>| *black.lock().unwrap_or_else(PoisonError::into_inner);
    let before: Vec<Option<Instant>> = black.iter().map(dead).collect();
    let list = rig.http("GET", "/v1/hosts", &[], None).json();
    let mut connected = Vec::new();
    for host in list["hosts"].as_array().unwrap() {
        let number = host["name"].as_str().and_then(|name| name.strip_prefix("soak-"));
        let number: usize = number.unwrap().parse().unwrap();
        let alive = host["state"] == json!("connected");
        connected.extend(alive.then_some(number));
        // The same dead time before and after the question.
        if let Some(since) = before[number].filter(|_| dead(&black[number]) == before[number]) {
            assert!(!alive || since.elapsed() < DEATH, "dead for {:?}: {host}", since.elapsed());
        }
    }
    connected
}

/// Waits until every host has one connection and nothing runs.
fn settle(rig: &DaemonRig, hosts: usize) {
    let states = || -> Value { rig.http("GET", "/v1/hosts", &[], None).json() };
    blocking::wait_until("every host to be calm", CALM, states, |list| {
        let calm = |host: &&Value| {
            host["state"] == json!("connected")
                && host["connections"] == json!(1)
                && host["open_channels"] == json!(0)
                && !host["connection"]["system"].is_null()
        };
        list["hosts"].as_array().unwrap().iter().filter(calm).count() == hosts
    });
}
