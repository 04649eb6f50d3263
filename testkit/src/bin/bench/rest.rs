//! What the daemon costs who asks it, and who does not: an answer beside a bare server's, its start, the tools that ask
//! it, its memory and its wake-ups.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::header;
use axum::routing::get;
use occ_proto::{HostConfig, HostName};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use testkit::DaemonRig;
use testkit::proc::{Process, Signal};
use testkit::wait::blocking;

use super::{Bench, in_turns_of, median, ms};

/// Guards against hanging.
const GUARD: Duration = Duration::from_secs(60);
/// How this program is asked to be the bare server.
pub(super) const BARE: &str = "--bare";
/// Requests of one figure, and how many figures there are.
const REQUESTS: u32 = 5000;
const ROUNDS: usize = 15;

/// Serves a constant, as little else as axum can, until it is killed.
pub(super) fn serve_bare(socket: &str, answer: String) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let kind = [(header::CONTENT_TYPE, "application/json")];
    let router = Router::new().route("/{*path}", get(async move || (kind, answer)));
    runtime.block_on(async {
        let listener = tokio::net::UnixListener::bind(socket).unwrap();
        axum::serve(listener, router).await.unwrap();
    });
}

/// A client with one connection.
struct Client {
    stream: UnixStream,
    request: String,
    buffer: Vec<u8>,
}

impl Client {
    fn new(socket: &Path, path: &str) -> Self {
        let stream = blocking::wait_for("the server", GUARD, || UnixStream::connect(socket).ok());
        stream.set_read_timeout(Some(GUARD)).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        Self { stream, request, buffer: vec![0; 64 * 1024] }
    }

    /// Sends the request and reads the answer. Returns its body.
    fn ask(&mut self) -> &[u8] {
        self.stream.write_all(self.request.as_bytes()).unwrap();
        let mut length = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[length..]).unwrap();
            assert_ne!(read, 0, "the server has closed the connection");
            length += read;
            let seen = &self.buffer[..length];
            let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let head = std::str::from_utf8(&seen[..end]).unwrap();
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            let size = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if length == end + 4 + size.unwrap().parse::<usize>().unwrap() {
                return &self.buffer[end + 4..length];
            }
        }
    }

    fn time(&mut self) -> Duration {
        let begun = Instant::now();
        for _ in 0..REQUESTS {
            self.ask();
        }
        begun.elapsed()
    }
}

/// A program, until this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = (self.0.kill(), self.0.wait());
    }
}

/// A daemon of its own with so many hosts, which are all the same.
fn rig_with(bench: &Bench, count: usize) -> (DaemonRig, Vec<String>) {
    let rig = DaemonRig::new();
    rig.add_host("h", &bench.near);
    let first = HostName::new("h").unwrap();
    let names: Vec<String> = (0..count).map(|n| format!("h-{n}")).collect();
    rig.edit_hosts(|file| {
        let config: HostConfig = file.hosts[&first].clone();
        file.hosts.clear();
        for name in &names {
            file.hosts.insert(HostName::new(name.as_str()).unwrap(), config.clone());
        }
    });
    (rig, names)
}

impl Bench {
    /// A look at a host, beside a server that does nothing.
    pub(super) fn api(&mut self) {
        let mut ours = Client::new(&self.rig.socket(), "/v1/hosts/near");
        let constant = String::from_utf8(ours.ask().to_vec()).unwrap();
        let socket = self.rig.root().join("bare.sock");
        let program = std::env::current_exe().unwrap();
        let mut bare = Command::new(program);
        bare.arg(BARE).arg(&socket).arg(&constant);
        let _bare = Running(bare.spawn().unwrap());
        let mut theirs = Client::new(&socket, "/v1/hosts/near");
        let [mut occ, mut axum] = [Vec::new(), Vec::new()];
        for _ in 0..=ROUNDS {
            occ.push(ours.time());
            axum.push(theirs.time());
        }
        let note = "One request after the other on one connection. The other answers with the same bytes. In this table a \
                    ratio is how many times as fast occ is.";
        self.title_with("An answer of the API", note);
        let [occ, axum] = [occ, axum].map(|mut times| median(&mut times) / REQUESTS);
        let rate = |time: Duration| {
            format!("{:.1} µs ({:.0}/s)", time.as_secs_f64() * 1e6, 1.0 / time.as_secs_f64())
        };
        self.say(&format!("| `GET /v1/hosts/{{host}}` | {} | | |", rate(occ)));
        let ratio = axum.as_secs_f64() / occ.as_secs_f64();
        self.say(&format!("| a bare axum handler | {} | {ratio:.2} | ≥ 0.7 |", rate(axum)));
    }

    /// From the start of the daemon until clients are accepted.
    pub(super) fn ready(&mut self) {
        const HOSTS: usize = 200;
        let (rig, _) = rig_with(self, HOSTS);
        let [mut occ, mut empty] = [Vec::new(), Vec::new()];
        for _ in 0..=20 {
            let mut daemon = rig.occd(&["--daemonize"]);
            daemon.stdout(Stdio::piped()).stderr(Stdio::null());
            let begun = Instant::now();
            let mut daemon = daemon.spawn().unwrap();
            let mut said = String::new();
            BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut said).unwrap();
            occ.push(begun.elapsed());
            assert!(said.starts_with("ready"), "{said}");
            Process::find(daemon.id()).unwrap().signal(Signal::TERM);
            assert!(daemon.wait().unwrap().success());
            empty.push(super::time(&mut Command::new("true")));
        }
        self.title(&format!("Start to ready, with {HOSTS} hosts"));
        self.rows(
            ("`occd`", median(&mut occ)),
            &[("an empty process (`true`)", median(&mut empty), "≤ 20")],
        );
    }

    /// What a person, or a shell, asks the daemon.
    pub(super) fn client(&mut self) {
        /// A file that was changed in the last two seconds is read again for each look at the hosts: the next change could
        /// leave its time as it is.
        const YOUNG: Duration = Duration::from_secs(5);
        let (mut rig, _) = rig_with(self, 10);
        rig.start_daemon(&[]);
        thread::sleep(YOUNG);
        self.title("Tools that ask the daemon, with 10 hosts");
        for (name, args) in [
            (
                "a completion of a host's name",
                &["__complete", "fish", "occ", "status", "--host", ""][..],
            ),
            ("`occ status`", &["status", "--host", "h-0"]),
            ("`occ host list`", &["host", "list"]),
        ] {
            let mut ours = rig.occ(args);
            // Hints, such as that Docker does not run there.
            ours.stderr(Stdio::null());
            let mut pair = [ours, Command::new("true")];
            let times = in_turns_of(5, 100, &mut pair);
            self.rows((name, times[0]), &[("an empty process (`true`)", times[1], "≤ 2.5")]);
        }
    }

    /// What the daemon takes while nobody asks for anything.
    pub(super) fn rest(&mut self) {
        const WINDOW: Duration = Duration::from_secs(120);
        self.say("\n## The daemon at rest\n");
        self.say(&format!(
            "Wake-ups are voluntary context switches of all threads, over {} s. A keep-alive every 15 s, its answer, and a \
             round trip that is measured every minute, take a few for each host.\n",
            WINDOW.as_secs()
        ));
        self.say("| what | resident at first | at rest | wake-ups a minute | goal |");
        self.say("| --- | --- | --- | --- | --- |");
        for connected in [0, 10] {
            let (mut rig, names) = rig_with(self, 10);
            rig.start_daemon(&[]);
            for name in &names[..connected] {
                rig.occ_ok(&["connect", "--host", name]);
            }
            let busy = super::settled(|| rig.daemon_rss_kib());
            let before = rig.daemon().waits();
            thread::sleep(WINDOW);
            let woken = rig.daemon().waits().since(&before) as f64 / WINDOW.as_secs_f64() * 60.0;
            let (rest, goal) =
                (rig.daemon_rss_kib(), if connected == 10 { "≤ 12 MiB" } else { "" });
            self.say(&format!(
                "| {connected} of 10 hosts connected | {} | {} | {woken:.0} | {goal} |",
                mib(busy),
                mib(rest)
            ));
        }
        let (mut rig, _) = rig_with(self, 1000);
        rig.start_daemon(&[]);
        let resident = super::settled(|| rig.daemon_rss_kib());
        let rest = given_back(&rig, resident);
        self.say(&format!(
            "| 1000 hosts, none of them connected | {} | {} | | |",
            mib(resident),
            mib(rest)
        ));
        self.streams();
    }

    fn streams(&mut self) {
        const STREAMS: usize = 10_000;
        let files = STREAMS as u64 * 2;
        let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX).max(files);
        setrlimit(Resource::Nofile, Rlimit { current: Some(hard), maximum: Some(hard) }).unwrap();
        let (mut rig, _) = rig_with(self, 10);
        rig.start_daemon(&[]);
        let before = super::settled(|| rig.daemon_rss_kib());
        let open = |_| {
            let mut stream = UnixStream::connect(rig.socket()).unwrap();
            stream.write_all(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            let mut head = [0; 12];
            stream.read_exact(&mut head).unwrap();
            assert_eq!(&head, b"HTTP/1.1 200");
            stream
        };
        let streams: Vec<UnixStream> = (0..STREAMS).map(open).collect();
        // What nobody has read yet would count, too.
        for mut stream in &streams {
            stream.set_nonblocking(true).unwrap();
            while stream.read(&mut [0; 64 * 1024]).is_ok_and(|length| length > 0) {}
        }
        let beside = super::settled(|| rig.daemon_rss_kib());
        let begun = Instant::now();
        assert_eq!(rig.http("GET", "/healthz", &[], None).status, 200);
        let alive = begun.elapsed();
        let each = (beside - before) as f64 / STREAMS as f64;
        self.say(&format!(
            "| {STREAMS} clients that follow events, {each:.1} KiB each | {} | | | |",
            mib(beside)
        ));
        drop(streams);
        let after = super::settled(|| rig.daemon_rss_kib());
        let rest = given_back(&rig, after);
        self.say(&format!("| after them | {} | {} | | |", mib(after), mib(rest)));
        self.say(&format!("\nBeside those clients the sign of life takes {}.", ms(alive)));
    }
}

/// Waits until the daemon is at rest and has given back what it does not need. Returns what is resident then.
fn given_back(rig: &DaemonRig, before: u64) -> u64 {
    blocking::wait_for("memory to be given back", GUARD, || {
        let now = rig.daemon_rss_kib();
        (now < before / 4 * 3).then_some(now)
    });
    super::settled(|| rig.daemon_rss_kib())
}

fn mib(kib: u64) -> String {
    format!("{:.1} MiB", kib as f64 / 1024.0)
}
