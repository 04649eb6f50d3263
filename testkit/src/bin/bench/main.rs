//! `cargo xtask bench`: what users wait for, side by side with the alternative, in one run.
//!
//! Every pair is measured in turns, so that a machine which slows down slows both. The medians are
//! printed and written to docs/benchmarks.md, with the command that made them.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a tool that prints its findings and ends when something is not there"
)]
#![allow(clippy::disallowed_methods, reason = "it measures real time")]

mod crowd;
mod docker;
mod echo;
mod files;
mod forward;
mod rest;
mod session;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use occ_proto::{HostConfig, HostName};
use testkit::daemon::Target;
use testkit::proc::Process;
use testkit::wait::blocking;
use testkit::{DaemonRig, DockerRig, FaultyLink, RealSshd};

/// Half of the far host's round trip of 50 ms.
const ONE_WAY: Duration = Duration::from_millis(25);
const CURVE25519: &str = "KexAlgorithms=curve25519-sha256";
const NEAR_BYTES: u64 = 2_000_000_000;
/// At 50 ms ssh moves 38 MB/s; more would only take longer.
const FAR_BYTES: u64 = 400_000_000;
const IDLE_CONNECTIONS: usize = 100;
/// Where the hand-written part of the report begins.
const FINDINGS: &str = "\n## Missed";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [bare, socket, answer] = &args[..]
        && bare == rest::BARE
    {
        return rest::serve_bare(socket, answer.clone());
    }
    let (options, wanted): (Vec<String>, Vec<String>) =
        args.into_iter().partition(|arg| arg.starts_with('-'));
    let full = options.iter().any(|option| option == "--full");
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|want| want == name);
    let mut bench = Bench::start();
    bench.full = full;
    for (name, run) in [
        ("status", Bench::status as fn(&mut Bench)),
        ("exec", Bench::exec),
        ("cold", Bench::cold),
        ("stream", Bench::stream),
        ("memory", Bench::memory),
        ("parallel", Bench::parallel),
        ("fleet", Bench::fleet),
        ("thousand", Bench::thousand),
        ("flood", Bench::flood),
        ("beside", Bench::beside),
        ("back", Bench::back),
        ("docker", Bench::docker),
        ("echo", Bench::echo),
        ("forward", Bench::forward),
        ("session", Bench::session),
        ("api", Bench::api),
        ("start", Bench::ready),
        ("client", Bench::client),
        ("rest", Bench::rest),
        ("files", Bench::files),
        ("far-files", Bench::far_files),
    ] {
        if wants(name) {
            run(&mut bench);
        }
    }
    bench.write_report(wanted.is_empty());
}

struct Bench {
    rig: DaemonRig,
    near: RealSshd,
    far: FaultyLink,
    ssh_config: PathBuf,
    report: String,
    /// `--full`: what takes minutes as well.
    full: bool,
}

impl Bench {
    fn start() -> Self {
        let user = testkit::user::test_user();
        let near = RealSshd::builder()
            .user(&user)
            .config("MaxStartups 500")
            .config("MaxSessions 100")
            .config("Subsystem sftp internal-sftp")
            .start();
        let far = FaultyLink::start(near.addr());
        far.set_latency(ONE_WAY);
        let mut rig = DaemonRig::new();
        rig.add_host("near", &near);
        rig.add_host("far", Target::from(&near).through(&far));
        rig.start_daemon(&[]);
        let ssh_config = rig.home().join(".ssh/bench_config");
        let bench = Self { rig, near, far, ssh_config, report: String::new(), full: false };
        for (host, port) in [("near", bench.near.port()), ("far", bench.far.port())] {
            bench.add_to_ssh_config(host, port, bench.near.client_key_path());
        }
        for host in ["near", "far"] {
            bench.rig.occ_ok(&["connect", "--host", host]);
            run(bench.ssh(&["-MNf", &format!("{host}-master")]));
        }
        bench
    }

    /// Lets ssh know a server as `HOST`, and as `HOST-master` over a ControlMaster.
    fn add_to_ssh_config(&self, host: &str, port: u16, key: &Path) {
        let user = testkit::user::test_user();
        let mut text = std::fs::read_to_string(&self.ssh_config).unwrap_or_default();
        for (name, master) in [(host.to_owned(), false), (format!("{host}-master"), true)] {
            write!(
                text,
                "Host {name}\n HostName 127.0.0.1\n Port {port}\n User {user}\n IdentityFile {}\n \
                 StrictHostKeyChecking no\n UserKnownHostsFile /dev/null\n LogLevel ERROR\n \
                 IdentitiesOnly yes\n",
                key.display()
            )
            .unwrap();
            if master {
                writeln!(text, " ControlPath {}/{name}", self.rig.root().display()).unwrap();
            }
        }
        std::fs::write(&self.ssh_config, text).unwrap();
    }

    fn ssh(&self, args: &[&str]) -> Command {
        let mut command = Command::new("ssh");
        command.arg("-F").arg(&self.ssh_config).args(args).stdin(Stdio::null());
        command
    }

    fn occ(&self, args: &[&str]) -> Command {
        self.rig.occ(args)
    }

    fn say(&mut self, line: &str) {
        println!("{line}");
        self.report.push_str(line);
        self.report.push('\n');
    }

    fn title(&mut self, title: &str) {
        self.title_with(title, "");
    }

    fn title_with(&mut self, title: &str, note: &str) {
        self.say(&format!("\n## {title}\n"));
        if !note.is_empty() {
            self.say(&format!("{note}\n"));
        }
        self.say("| what | median | ratio | goal |");
        self.say("| --- | --- | --- | --- |");
    }

    /// Prints ours and the others; the ratio is ours divided by theirs.
    fn rows(&mut self, ours: (&str, Duration), others: &[(&str, Duration, &str)]) {
        self.say(&format!("| {} | {} | | |", ours.0, ms(ours.1)));
        for (name, time, goal) in others {
            let ratio = ours.1.as_secs_f64() / time.as_secs_f64();
            self.say(&format!("| {name} | {} | {ratio:.4} | {goal} |", ms(*time)));
        }
    }

    fn status(&mut self) {
        let docker = DockerRig::require().then(DockerRig::start);
        let mut others = vec![("an empty process (`true`)", Command::new("true"), "≤ 2.5")];
        // The far end's docker must find the private engine, and ssh our keys.
        let mut remote = None;
        if let Some(docker) = &docker {
            docker.open_to_everyone();
            others.push(("`docker ps`, local engine", docker.docker(&["ps"]), "≤ 0.15"));
            let user = testkit::user::test_user();
            let sshd = RealSshd::builder()
                .user(&user)
                .config(format!("SetEnv DOCKER_HOST={}", docker.host()))
                .start();
            let path = self.ssh_wrapper(&sshd);
            let mut docker_ssh = Command::new("docker");
            docker_ssh
                .args(["-H", &format!("ssh://{user}@127.0.0.1:{}", sshd.port()), "ps"])
                .env("PATH", path);
            others.push(("`docker -H ssh:// ps`, no shared connection", docker_ssh, "≤ 0.0067"));
            remote = Some(sshd);
        }
        let note = "Each of the others is measured with `occ status` alone, in turns of five: what runs after \
                    docker finds its caches cold.";
        self.title_with("State of a connected host", note);
        for (name, other, goal) in others {
            let mut pair = [self.occ(&["status", "--host", "near"]), other];
            let times = in_turns_of(5, 40, &mut pair);
            self.rows(("`occ status --host h`", times[0]), &[(name, times[1], goal)]);
        }
        drop(remote);
    }

    /// Returns a PATH in which `ssh` uses the fixture's key: docker gives no way to say so.
    fn ssh_wrapper(&self, sshd: &RealSshd) -> std::ffi::OsString {
        let dir = self.rig.root().join("bin");
        std::fs::create_dir_all(&dir).unwrap();
        let script = format!(
            "#!/bin/sh\nexec {} -F none -i {} -o IdentitiesOnly=yes -o StrictHostKeyChecking=no \
             -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR \"$@\"\n",
            which("ssh").display(),
            sshd.client_key_path().display()
        );
        let path = dir.join("ssh");
        std::fs::write(&path, script).unwrap();
        run_ok(Command::new("chmod").arg("755").arg(&path));
        let mut dirs = vec![dir];
        dirs.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
        std::env::join_paths(dirs).unwrap()
    }

    fn exec(&mut self) {
        for (host, rounds) in [("near", 100), ("far", 30)] {
            let master = format!("{host}-master");
            let times = in_turns(
                rounds,
                &mut [
                    self.occ(&["exec", "--host", host, "--", "true"]),
                    self.ssh(&[&master, "true"]),
                ],
            );
            self.title(&format!("Run a command, {host} host"));
            let goal = if host == "near" { "≤ 0.55" } else { "" };
            self.rows(
                ("`occ exec -- true`", times[0]),
                &[("`ssh` over a ControlMaster", times[1], goal)],
            );
            if host == "far" {
                let trips = times[0].as_secs_f64() / (ONE_WAY * 2).as_secs_f64();
                self.say(&format!("| in round trips of 50 ms | {trips:.2} | | ≤ 1.2 |"));
            }
        }
    }

    fn cold(&mut self) {
        for (host, rounds, goal) in [("near", 20, "≤ 0.45"), ("far", 10, "≤ 0.9")] {
            // A host is cold once, so there is one for each measurement.
            let names: Vec<String> = (0..=rounds).map(|n| format!("cold-{host}-{n}")).collect();
            self.same_as(host, &names);
            let (mut occ, mut ssh, mut default) = (Vec::new(), Vec::new(), Vec::new());
            for name in &names {
                occ.push(time(&mut self.occ(&["exec", "--host", name, "--", "true"])));
                ssh.push(time(&mut self.ssh(&["-o", CURVE25519, host, "true"])));
                default.push(time(&mut self.ssh(&[host, "true"])));
            }
            self.title(&format!("First command on a cold host, {host}"));
            self.rows(
                ("`occ exec -- true`", median(&mut occ)),
                &[
                    ("`ssh`, curve25519-sha256 as with occ", median(&mut ssh), goal),
                    ("`ssh`, its default key exchange", median(&mut default), ""),
                ],
            );
            self.forget(&names);
        }
    }

    /// Configures more names for a host and waits until the daemon knows them.
    fn same_as(&self, host: &str, names: &[String]) {
        let host = HostName::new(host).unwrap();
        self.rig.edit_hosts(|file| {
            let config: HostConfig = file.hosts[&host].clone();
            for name in names {
                file.hosts.insert(HostName::new(name.as_str()).unwrap(), config.clone());
            }
        });
        self.rig.occ_ok(&["host", "show", names.last().unwrap()]);
    }

    fn forget(&self, names: &[String]) {
        self.rig.edit_hosts(|file| {
            file.hosts.retain(|name, _| !names.iter().any(|gone| gone == name.as_str()));
        });
        let known = names.last().unwrap();
        blocking::wait_for("the hosts to be gone", Duration::from_secs(10), || {
            let list = self.rig.occ_ok(&["host", "list", "--names-only"]);
            (!list.contains(known.as_str())).then_some(())
        });
    }

    fn stream(&mut self) {
        for (host, bytes, rounds) in [("near", NEAR_BYTES, 5), ("far", FAR_BYTES, 3)] {
            let (count, file) = (bytes.to_string(), "/dev/zero");
            let remote = ["head", "-c", &count, file];
            let mut commands = [
                self.occ(&[&["exec", "--host", host, "--"], &remote[..]].concat()),
                self.ssh(&[&[host], &remote[..]].concat()),
                self.ssh(&[&["-c", "aes128-gcm@openssh.com", host], &remote[..]].concat()),
            ];
            let times = in_turns(rounds, &mut commands);
            let note = "In this table a ratio is how many times as fast occ is.";
            self.title_with(&format!("Stream {} MB from a host, {host}", bytes / 1_000_000), note);
            let speed = |time: Duration| bytes as f64 / 1e6 / time.as_secs_f64();
            self.say(&format!(
                "| `occ exec -- head -c …` | {} ({:.0} MB/s) | | |",
                ms(times[0]),
                speed(times[0])
            ));
            let goals = if host == "near" { ["≥ 1.5", "≥ 1.0"] } else { ["≥ 3", ""] };
            let names = ["`ssh`, default cipher", "`ssh`, aes128-gcm"];
            for at in 0..2 {
                let (time, name, goal) = (times[at + 1], names[at], goals[at]);
                let ratio = time.as_secs_f64() / times[0].as_secs_f64();
                self.say(&format!(
                    "| {name} | {} ({:.0} MB/s) | {ratio:.2} | {goal} |",
                    ms(time),
                    speed(time)
                ));
            }
        }
    }

    fn memory(&mut self) {
        let names: Vec<String> = (0..IDLE_CONNECTIONS).map(|n| format!("idle-{n}")).collect();
        // A few first, so that what the daemon allocates once is not counted.
        self.same_as("near", &names);
        let (warm, counted) = names.split_at(10);
        for name in warm {
            self.rig.occ_ok(&["connect", "--host", name]);
        }
        let private = |bench: &Self| bench.rig.daemon_private_dirty_kib();
        let before = settled(|| private(self));
        for name in counted {
            self.rig.occ_ok(&["connect", "--host", name]);
        }
        let after = settled(|| private(self));
        let each = (after - before) as f64 / counted.len() as f64;
        let master = self.master_kib("near-master");
        self.title("Memory of an idle connection");
        self.say(&format!(
            "| occd, each of {} | {each:.0} KiB | {:.3} | ≤ 110 KiB |",
            counted.len(),
            each / master
        ));
        self.say(&format!("| a ControlMaster process | {master:.0} KiB | | |"));
        self.forget(&names);
    }

    /// Returns the private memory of the ControlMaster of that name.
    fn master_kib(&self, name: &str) -> f64 {
        let output = self.ssh(&["-O", "check", name]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let pid = text.split("pid=").nth(1).and_then(|rest| rest.split(')').next()).unwrap();
        let process = Process::find(pid.parse().unwrap()).unwrap();
        process.memory_kib("Private_Dirty").unwrap() as f64
    }

    /// Writes the report; of a part of it, the tables that were measured anew.
    fn write_report(&self, whole: bool) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks.md");
        let before = std::fs::read_to_string(&path).unwrap_or_default();
        if !whole {
            std::fs::write(&path, with_tables(&before, &self.report)).unwrap();
            println!("\nwritten to docs/benchmarks.md: the tables above");
            return;
        }
        let version = |program: &str, arg: &str| {
            let output = Command::new(program).arg(arg).output().unwrap();
            let text = [output.stdout, output.stderr].concat();
            String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
        };
        let cores = std::thread::available_parallelism().unwrap();
        let text = format!(
            "# Benchmarks\n\nWritten by `cargo xtask bench`. Each table was measured in turns in a run of its own on \
             one machine ({cores} cores, {}, {}), against a real sshd on loopback whose user has /bin/sh. \
             Absolute times differ between machines; the ratios are what counts. A ratio is occ's time \
             divided by the other's unless the table says otherwise.\n\n\
             The far host is behind a TCP proxy that delays each direction by 25 ms. It hides TCP's own \
             handshake and congestion window, so far throughput is an upper bound for both sides.\n{}",
            version("ssh", "-V"),
            version("docker", "--version"),
            self.report
        );
        // What a person wrote about the findings stays.
        let findings = before.find(FINDINGS).map_or("", |at| &before[at..]);
        std::fs::write(&path, text + findings).unwrap();
        println!("\nwritten to docs/benchmarks.md");
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for host in ["near-master", "far-master"] {
            let _ = self.ssh(&["-O", "exit", host]).stderr(Stdio::null()).status();
        }
        // The link and the server end with their fields.
        let _ = (&self.near, &self.far);
    }
}

/// Returns a report in which the tables of `new` take the place of those with the same title.
fn with_tables(report: &str, new: &str) -> String {
    let (tables, findings) = match report.find(FINDINGS) {
        Some(at) => report.split_at(at),
        None => (report, ""),
    };
    const HEADING: &str = "\n## ";
    let title = |table: &str| table.lines().next().unwrap_or_default().to_owned();
    let mut all: Vec<String> = tables.split(HEADING).map(str::to_owned).collect();
    for table in new.split(HEADING).skip(1) {
        match all.iter_mut().skip(1).find(|old| title(old) == title(table)) {
            Some(old) => *old = table.to_owned(),
            None => all.push(table.to_owned()),
        }
    }
    all.join(HEADING) + findings
}

/// Runs each command once to warm up, then all of them in turns. Returns their medians.
fn in_turns(rounds: usize, commands: &mut [Command]) -> Vec<Duration> {
    in_turns_of(1, rounds, commands)
}

/// The same with so many runs to a turn.
fn in_turns_of(turn: usize, rounds: usize, commands: &mut [Command]) -> Vec<Duration> {
    let mut times = vec![Vec::new(); commands.len()];
    for command in commands.iter_mut() {
        time(command);
    }
    for _ in 0..rounds.div_ceil(turn) {
        for (command, times) in commands.iter_mut().zip(&mut times) {
            times.extend((0..turn).map(|_| time(command)));
        }
    }
    times.iter_mut().map(|times| median(times)).collect()
}

fn time(command: &mut Command) -> Duration {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let begun = Instant::now();
    let status = command.status().unwrap();
    let time = begun.elapsed();
    assert!(status.success(), "{command:?} ended with {status}");
    time
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn ms(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    if ms < 1000.0 { format!("{ms:.2} ms") } else { format!("{:.2} s", ms / 1000.0) }
}

/// Waits until a figure has not changed for a while.
fn settled(figure: impl Fn() -> u64) -> u64 {
    let (mut last, mut same) = (figure(), 0);
    blocking::wait_for("memory to settle", Duration::from_secs(60), || {
        std::thread::sleep(Duration::from_millis(200));
        let now = figure();
        same = if now.abs_diff(last) <= 8 { same + 1 } else { 0 };
        last = now;
        (same >= 10).then_some(now)
    })
}

fn run(mut command: Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?} ended with {status}");
}

fn run_ok(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?} failed");
}

fn which(program: &str) -> PathBuf {
    testkit::require::find_program(program).unwrap()
}
