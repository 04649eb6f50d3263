//! Many at once: commands on one host, hosts at the same time, a thousand idle connections.

use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use occ_proto::HostName;
use serde_json::{Value, json};
use testkit::wait::blocking;
use testkit::{DaemonRig, EmbeddedHost, RealSshd, http};

use super::{Bench, CURVE25519, ms, run};

/// Commands in all.
const COMMANDS: usize = 1000;
/// Sessions that OpenSSH grants a connection unless told otherwise, and so what a ControlMaster can do at once.
const AT_ONCE: usize = 10;

impl Bench {
    /// A thousand commands on one host whose server has OpenSSH's defaults.
    pub(super) fn parallel(&mut self) {
        let sshd = RealSshd::builder().user(&testkit::user::test_user()).start();
        self.rig.add_host("crowd", &sshd);
        self.rig.occ_ok(&["connect", "--host", "crowd"]);
        self.add_to_ssh_config("crowd", sshd.port(), sshd.client_key_path());
        run(self.ssh(&["-MNf", "crowd-master"]));
        let socket = self.rig.socket();
        let api = |number: usize| {
            let body = json!({ "argv": ["echo", number.to_string()] }).to_string();
            let path = "/v1/hosts/crowd/exec";
            let answer = http::request(&socket, "POST", path, &[], Some(body.as_bytes())).unwrap();
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(answer.json()["stdout"], json!(format!("{number}\n")));
        };
        let ssh = |number: usize| {
            let mut command = self.ssh(&["crowd-master", "echo", &number.to_string()]);
            let output = command.output().unwrap();
            assert_eq!(output.stdout, format!("{number}\n").as_bytes(), "{output:?}");
        };
        let (mut all, mut ours, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..3 {
            all.push(workers(COMMANDS, COMMANDS, &api));
            ours.push(workers(AT_ONCE, COMMANDS, &api));
            theirs.push(workers(AT_ONCE, COMMANDS, &ssh));
        }
        let [all, ours, theirs] = [all, ours, theirs].map(|mut times| super::median(&mut times));
        let note = "The server grants ten sessions to a connection, OpenSSH's default. In this table a ratio is how \
                    many times as fast occ is.";
        self.title_with(&format!("{COMMANDS} commands on one host"), note);
        let rate = |time: Duration| COMMANDS as f64 / time.as_secs_f64();
        for (name, time, goal) in [
            ("the API, all at once", all, "≥ 2"),
            ("the API, ten at a time", ours, "≥ 2"),
            ("`ssh` over a ControlMaster, ten at a time", theirs, ""),
        ] {
            let ratio = theirs.as_secs_f64() / time.as_secs_f64();
            self.say(&format!(
                "| {name} | {} ({:.0}/s) | {ratio:.2} | {goal} |",
                ms(time),
                rate(time)
            ));
        }
        run(self.ssh(&["-O", "exit", "crowd-master"]));
    }
}

impl Bench {
    /// Fifty hosts at the same time.
    pub(super) fn fleet(&mut self) {
        const HOSTS: usize = 50;
        let names = |round: usize| -> Vec<String> {
            (0..HOSTS).map(|n| format!("fleet-{round}-{n}")).collect()
        };
        let (mut cold, mut cold_ssh, mut warm, mut warm_ssh) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let ssh = |_| {
            let mut command = self.ssh(&["-o", CURVE25519, "near", "true"]);
            assert!(command.status().unwrap().success());
        };
        for round in 0..3 {
            let names = names(round);
            self.same_as("near", &names);
            cold.push(workers(HOSTS, HOSTS, &|n| self.post(&names[n], "connect", "")));
            warm.push(workers(HOSTS, HOSTS, &|n| {
                self.post(&names[n], "exec", r#"{"argv":["true"]}"#);
            }));
            cold_ssh.push(workers(HOSTS, HOSTS, &ssh));
            warm_ssh.push(workers(HOSTS, HOSTS, &ssh));
            self.forget(&names);
        }
        let [cold, cold_ssh, warm, warm_ssh] =
            [cold, cold_ssh, warm, warm_ssh].map(|mut times| super::median(&mut times));
        let note = "All through one server, so its processor is what both sides wait for.";
        self.title_with(&format!("{HOSTS} hosts at the same time"), note);
        let theirs = "50 parallel `ssh`, curve25519-sha256";
        self.rows(("connect all, through the API", cold), &[(theirs, cold_ssh, "≤ 0.5")]);
        self.rows(("a command on all, connected", warm), &[(theirs, warm_ssh, "≤ 0.35")]);
    }

    /// Hundreds of idle connections to a server in this process: when they have just been made, and at rest.
    pub(super) fn thousand(&mut self) {
        const IDLE: Duration = Duration::from_secs(30);
        // By then occd has given back what it does not need, and asks an engine that does not answer every few minutes.
        const REST: Duration = Duration::from_secs(130);
        const MOST: usize = 1000;
        let host = EmbeddedHost::start();
        let mut rows = Vec::new();
        for count in [10, 100, MOST] {
            let mut rig = DaemonRig::new();
            rig.add_host("crowd", &host);
            let name = HostName::new("crowd").unwrap();
            let names: Vec<String> = (0..count).map(|n| format!("crowd-{n}")).collect();
            rig.edit_hosts(|file| {
                let config = file.hosts[&name].clone();
                file.hosts.clear();
                for name in &names {
                    file.hosts.insert(HostName::new(name.as_str()).unwrap(), config.clone());
                }
            });
            rig.start_daemon(&[]);
            workers(16, count, &|n| post(&rig, &names[n], "connect", ""));
            let figures = || {
                let resident = super::settled(|| rig.daemon_rss_kib()) as f64 / 1024.0;
                let before = rig.daemon().cpu_time();
                thread::sleep(IDLE);
                let used = (rig.daemon().cpu_time() - before).as_secs_f64() / IDLE.as_secs_f64();
                (resident, used * 100.0)
            };
            rows.push((count, "just made", figures()));
            if count == MOST {
                thread::sleep(REST);
                rows.push((count, "at rest", figures()));
            }
            let list: Value = rig.http("GET", "/v1/hosts", &[], None).json();
            let states = list["hosts"].as_array().unwrap().iter();
            assert!(states.filter(|host| host["state"] == "connected").count() == count);
        }
        self.say("\n## Idle connections\n");
        self.say(
            "With keep-alive every 15 s, measured over 30 s: right after the last was made, and two minutes later. The \
             hosts have the docker program and no engine that runs, so that each is asked for it again four times in \
             the first half minute.\n",
        );
        self.say("| connected hosts | | resident | of one core | goal |");
        self.say("| --- | --- | --- | --- | --- |");
        for (count, when, (mib, percent)) in rows {
            let goal = if when == "at rest" { "≤ 130 MiB, < 2 %" } else { "" };
            self.say(&format!("| {count} | {when} | {mib:.1} MiB | {percent:.2} % | {goal} |"));
        }
    }

    /// A sign of life while a client floods: with commands on a host, and with programs of this machine.
    pub(super) fn flood(&mut self) {
        const REQUESTS: usize = 1000;
        let note = format!(
            "{REQUESTS} commands are asked for at once, and `GET /healthz` is asked again and again until all have \
             ended. Beside 1,000 programs on two cores any program waits for the processor."
        );
        self.title_with("`/healthz` while a client floods", &note);
        for host in ["near", "local"] {
            let socket = self.rig.socket();
            let done = AtomicUsize::new(0);
            let mut times = Vec::new();
            thread::scope(|scope| {
                for _ in 0..REQUESTS {
                    scope.spawn(|| {
                        self.post(host, "exec", r#"{"argv":["true"]}"#);
                        done.fetch_add(1, Ordering::Relaxed);
                    });
                }
                while done.load(Ordering::Relaxed) < REQUESTS {
                    times.push(timed(|| {
                        let answer = http::request(&socket, "GET", "/healthz", &[], None).unwrap();
                        assert_eq!(answer.status, 200);
                    }));
                }
            });
            times.sort_unstable();
            let (middle, worst) = (times[times.len() / 2], times[times.len() - 1]);
            let what = if host == "local" { "this machine" } else { "a near host" };
            self.say(&format!("| commands on {what}: median | {} | | |", ms(middle)));
            self.say(&format!("| the longest | {} | | ≤ 100 ms |", ms(worst)));
        }
    }

    /// Commands beside a reader that has stopped.
    pub(super) fn beside(&mut self) {
        const ROUNDS: usize = 400;
        let run_all = || -> Vec<Duration> {
            let exec = |_| {
                let begun = Instant::now();
                self.post("near", "exec", r#"{"argv":["true"]}"#);
                begun.elapsed()
            };
            (0..ROUNDS).map(exec).collect()
        };
        run_all();
        let mut alone = run_all();
        let mut stopped = self.occ(&["exec", "--host", "near", "--", "yes"]);
        let mut stopped = stopped.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        // Until its output has nowhere to go but the disk, and new work has a connection of its own.
        blocking::wait_for("the reader to be behind", Duration::from_secs(60), || {
            let status = self.rig.http("GET", "/v1/hosts/near", &[], None).json();
            (status["connections"] == json!(2)).then_some(())
        });
        let mut beside = run_all();
        stopped.kill().unwrap();
        stopped.wait().unwrap();
        self.title("A command beside a reader that has stopped (`occ exec -- yes`)");
        let p99 = |times: &mut Vec<Duration>| {
            times.sort_unstable();
            times[ROUNDS * 99 / 100]
        };
        let (middle, worst) = (super::median(&mut beside), p99(&mut beside));
        let (middle_alone, worst_alone) = (super::median(&mut alone), p99(&mut alone));
        self.rows(("median, beside it", middle), &[("median, without it", middle_alone, "")]);
        self.rows(("99th percentile, beside it", worst), &[("without it", worst_alone, "≤ 2")]);
    }

    /// Coming back after the server has gone.
    pub(super) fn back(&mut self) {
        const ROUNDS: usize = 10;
        let mut sshd = RealSshd::builder().user(&testkit::user::test_user()).start();
        let (mut by_itself, mut asked, mut cold) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let name = format!("back-{round}");
            self.rig.add_host(&name, &sshd);
            self.rig.occ_ok(&["host", "show", &name]);
            cold.push(timed(|| self.post(&name, "connect", "")));
            asked.push(timed(|| self.post(&name, "reconnect", "")));
            sshd.stop();
            let state = || self.rig.http("GET", &format!("/v1/hosts/{name}"), &[], None).json();
            blocking::wait_for("the loss to be seen", Duration::from_secs(30), || {
                (state()["state"] != json!("connected")).then_some(())
            });
            sshd.start_again();
            let begun = Instant::now();
            blocking::wait_for("the host to be back", Duration::from_secs(90), || {
                (state()["state"] == json!("connected")).then_some(())
            });
            by_itself.push(begun.elapsed());
            self.forget(&[name]);
        }
        let [by_itself, asked, cold] =
            [by_itself, asked, cold].map(|mut times| super::median(&mut times));
        self.title("Back after a restart of the server");
        self.say(&format!(
            "| by itself, from when the server listens again | {} | | one step of the backoff |",
            ms(by_itself)
        ));
        self.rows(("`reconnect`", asked), &[("`connect` on a cold host", cold, "≤ 1.2")]);
    }

    fn post(&self, host: &str, verb: &str, body: &str) {
        post(&self.rig, host, verb, body);
    }
}

fn post(rig: &DaemonRig, host: &str, verb: &str, body: &str) {
    let path = format!("/v1/hosts/{host}/{verb}");
    let body = (!body.is_empty()).then_some(body.as_bytes());
    let answer = http::request(&rig.socket(), "POST", &path, &[], body).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

fn timed(work: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    work();
    begun.elapsed()
}

/// Runs so many jobs on so many threads and returns how long all of them took.
fn workers(threads: usize, jobs: usize, job: &(impl Fn(usize) + Sync)) -> Duration {
    let next = AtomicUsize::new(0);
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= jobs {
                        return;
                    }
                    job(number);
                }
            });
        }
    });
    begun.elapsed()
}
