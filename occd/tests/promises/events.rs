//! What changes is told: from a snapshot on, without a gap that is not said, to any number of clients.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};

use occ_proto::event::{Change, Event, GapReason, Snapshot};
use occ_proto::status::State;
use serde_json::json;
use testkit::daemon::Target;
use testkit::proc::Signal;
use testkit::wait::blocking::wait_until;
use testkit::{DaemonRig, EmbeddedHost, FaultyLink, RealSshd};

use crate::ask::{GUARD, connect, echoes, list, look, post, problem};
use crate::support::exit_code;

/// A stream of events as a client without a library reads it.
pub(crate) struct Stream {
    reader: BufReader<UnixStream>,
    head: String,
}

impl Stream {
    pub(crate) fn open(rig: &DaemonRig, query: &str, headers: &str) -> Self {
        let mut socket = UnixStream::connect(rig.socket()).unwrap();
        socket.set_read_timeout(Some(GUARD)).unwrap();
        write!(socket, "GET /v1/events{query} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")
            .unwrap();
        let mut reader = BufReader::new(socket);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{head}");
        }
        Self { reader, head }
    }

    /// Returns the next chunk of the answer (RFC 9112, 7.1); nothing at its end.
    fn chunk(&mut self) -> Option<String> {
        let mut size = String::new();
        if self.reader.read_line(&mut size).ok()? == 0 {
            return None;
        }
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let mut data = vec![0; size + 2];
        self.reader.read_exact(&mut data).ok()?;
        data.truncate(size);
        (size > 0).then(|| String::from_utf8(data).unwrap())
    }

    /// Returns the next server-sent event: its name, its ID and its data.
    fn server_sent(&mut self) -> (String, String, Event) {
        loop {
            let text = self.chunk().expect("an event");
            if text.starts_with(':') {
                continue;
            }
            let field = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(name));
                line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().to_owned()
            };
            assert!(text.ends_with("\n\n"), "{text}");
            let event: Event = serde_json::from_str(&field("data:")).unwrap();
            assert_eq!(field("id:"), event.id);
            return (field("event:"), field("id:"), event);
        }
    }

    pub(crate) fn next(&mut self) -> Event {
        self.server_sent().2
    }

    /// Returns the first event that is one of those wanted.
    pub(crate) fn until(&mut self, what: &str, mut wanted: impl FnMut(&Change) -> bool) -> Event {
        let mut last = None;
        for _ in 0..1000 {
            let event = self.next();
            if wanted(&event.change) {
                return event;
            }
            last = Some(event);
        }
        panic!("waited for {what}, but {last:?}");
    }
}

fn snapshot(event: Event) -> Box<Snapshot> {
    match event.change {
        Change::Snapshot(snapshot) => snapshot,
        other => panic!("no snapshot: {other:?}"),
    }
}

fn is_state(wanted: State) -> impl FnMut(&Change) -> bool {
    move |change| match change {
        Change::Host { status: Some(status), .. } => status.state == wanted,
        _ => false,
    }
}

fn rig_with(hosts: &[(&str, Target)]) -> DaemonRig {
    let mut rig = DaemonRig::new();
    for (name, target) in hosts {
        rig.add_host(name, target.clone());
    }
    rig.write_config_toml("[connection]\nmax_backoff = \"200ms\"\n");
    rig.start_daemon(&[]);
    rig
}

#[test]
fn a_snapshot_comes_first_and_then_what_changes() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let link = FaultyLink::start(sshd.addr());
    let rig = rig_with(&[("h", Target::from(&sshd).through(&link))]);
    let mut stream = Stream::open(&rig, "", "");
    assert!(stream.head.contains("content-type: text/event-stream"), "{}", stream.head);
    let (name, _, first) = stream.server_sent();
    assert_eq!(name, "snapshot");
    let all = snapshot(first);
    assert_eq!(all.hosts.unwrap()[0].name.as_str(), "h");
    assert!(all.forwards.unwrap().is_empty() && all.prompts.unwrap().is_empty());
    assert!(all.sessions.unwrap().is_empty() && all.operations.unwrap().is_empty());

    connect(&rig, "h");
    stream.until("the connection", is_state(State::Connected));
    link.refuse(true);
    link.reset_all();
    let down = stream.until("the loss", is_state(State::Backoff));
    match down.change {
        Change::Host { status: Some(status), .. } => assert!(status.last_error.is_some()),
        other => panic!("{other:?}"),
    }
    link.refuse(false);
    stream.until("the way back", is_state(State::Connected));

    // Whatever has a state.
    let spec = json!({"host": "h", "local": "0:localhost:1"});
    let added = rig.http("POST", "/v1/forwards", &[], Some(spec));
    assert_eq!(added.status, 201, "{}", added.text());
    let id = added.json()["id"].as_str().unwrap().to_owned();
    stream.until("the forward", |change| {
        matches!(change, Change::Forward { forward_id, forward: Some(_), .. } if *forward_id == id)
    });
    rig.http("DELETE", &format!("/v1/forwards/{id}"), &[], None);
    stream.until("its end", |change| {
        matches!(change, Change::Forward { forward_id, forward: None, .. } if *forward_id == id)
    });
    let session = json!({"host": "h", "name": "s", "argv": ["true"]});
    let started = rig.http("POST", "/v1/sessions", &[], Some(session));
    assert_eq!(started.status, 201, "{}", started.text());
    stream.until("the session", |change| {
        matches!(change, Change::Session { session: Some(session), .. } if session.info.name == "s")
    });
    rig.add_host("new", &sshd);
    stream.until(
        "the host that hosts.json has now",
        |change| matches!(change, Change::Host { host, status: Some(_) } if host.as_str() == "new"),
    );
    rig.http("DELETE", "/v1/hosts/h?force=true", &[], None);
    stream.until("the host's end", |change| matches!(change, Change::Host { status: None, .. }));
}

#[test]
fn who_was_away_is_told_what_was_missed_or_that_it_is_not_known() {
    let host = EmbeddedHost::start();
    let mut rig = rig_with(&[("h", Target::from(&host)), ("other", Target::from(&host))]);
    let mut stream = Stream::open(&rig, "", "");
    let seen = stream.next().id;
    drop(stream);
    connect(&rig, "h");
    // By the header as browsers send it, by the query, as lines of JSON.
    for (query, headers) in [
        (String::new(), format!("Last-Event-ID: {seen}\r\n")),
        (format!("?after={seen}"), String::new()),
    ] {
        let mut stream = Stream::open(&rig, &query, &headers);
        let first = stream.next();
        assert!(!matches!(first.change, Change::Snapshot(_) | Change::Gap { .. }), "{first:?}");
        let connected = stream.until("the connection", is_state(State::Connected));
        assert_ne!(connected.id, seen);
    }
    let lines = Stream::open(
        &rig,
        &format!("?after={seen}&kind=host&host=h"),
        "Accept: application/x-ndjson\r\n",
    )
    .chunk()
    .unwrap();
    let event: Event = serde_json::from_str(&lines).unwrap();
    assert!(matches!(event.change, Change::Host { .. }), "{event:?}");

    // Only what was asked for.
    let mut one = Stream::open(&rig, "?host=h&kind=host", "");
    let only = snapshot(one.next());
    assert_eq!(only.hosts.unwrap().len(), 1);
    assert!(only.forwards.is_none() && only.sessions.is_none());
    post(&rig, "/v1/hosts/other/connect");
    post(&rig, "/v1/hosts/h/disconnect");
    let next = one.next();
    match next.change {
        Change::Host { host, .. } => assert_eq!(host.as_str(), "h"),
        other => panic!("{other:?}"),
    }

    // Another daemon does not know what this one told.
    rig.terminate_daemon();
    rig.start_daemon(&[]);
    let mut stream = Stream::open(&rig, "", &format!("Last-Event-ID: {seen}\r\n"));
    let (name, _, gap) = stream.server_sent();
    assert_eq!((name.as_str(), gap.change), ("gap", Change::Gap { reason: GapReason::Restarted }));
    snapshot(stream.next());
}

#[test]
fn nonsense_is_a_problem() {
    let host = EmbeddedHost::start();
    let rig = rig_with(&[("h", Target::from(&host))]);
    for (query, status) in [("?kind=hots", 400), ("?host=a/b", 400), ("?host=nobody", 404)] {
        let answer = rig.http("GET", &format!("/v1/events{query}"), &[], None);
        assert_eq!(answer.status, status, "{query}: {}", answer.text());
        problem(&answer);
    }
    for query in ["since=x", "since=1&wait=nonsense", "since=1&wait=1h"] {
        let answer = rig.http("GET", &format!("/v1/hosts?{query}"), &[], None);
        assert_eq!(answer.status, 400, "{query}: {}", answer.text());
        problem(&answer);
    }
}

#[test]
fn a_client_without_streams_waits_for_the_next_revision() {
    let host = EmbeddedHost::start();
    let rig = rig_with(&[("h", Target::from(&host))]);
    let revision = wait_until(
        "the daemon to be quiet",
        GUARD,
        || {
            let before = list(&rig).revision;
            let path = format!("/v1/hosts?since={before}&wait=300ms");
            (before, rig.http("GET", &path, &[], None).json()["revision"].as_u64().unwrap())
        },
        |(before, after)| before == after,
    )
    .0;
    // One that is not the last is answered at once: nobody would wait so long for this test.
    let path = format!("/v1/hosts?since={}&wait=300s", revision.wrapping_sub(1));
    assert_eq!(rig.http("GET", &path, &[], None).json()["revision"], revision);

    let path = format!("/v1/hosts?since={revision}&wait=60s");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| rig.http("GET", &path, &[], None));
        connect(&rig, "h");
        let answer = waiting.join().unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.json()["revision"].as_u64().unwrap() > revision);
    });
}

/// Returns the hosts that are told of until that one is.
fn told_until(stream: &mut Stream, last: &str) -> Vec<String> {
    let mut told = Vec::new();
    stream.until(last, |change| match change {
        Change::Host { host, .. } => {
            told.push(host.to_string());
            host.as_str() == last
        }
        other => panic!("{other:?}"),
    });
    told
}

#[test]
fn an_edit_of_one_host_is_told_of_that_host_alone_and_once() {
    let host = EmbeddedHost::start();
    let names: Vec<String> = (0..40).map(|n| format!("n{n:02}")).collect();
    let targets: Vec<_> = names.iter().map(|name| (name.as_str(), Target::from(&host))).collect();
    let rig = rig_with(&targets);
    connect(&rig, "n07");
    // What it says of itself is news.
    let system = || look(&rig, "n07").connection.and_then(|connection| connection.system);
    wait_until("what n07 is", GUARD, system, Option::is_some);
    let mut all = Stream::open(&rig, "?kind=host", "");
    let mut other = Stream::open(&rig, "?host=n39", "");
    snapshot(all.next());
    snapshot(other.next());
    // Whoever asks for a host that is idle has it dialled, which is told: none is asked for.
    let describe = |name: &str| {
        let change = json!({"description": "by the API"});
        let answer = rig.http("PATCH", &format!("/v1/hosts/{name}"), &[], Some(change));
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    describe("n00");
    // In their order, in which changes at one moment are told.
    describe("n01");
    describe("n07");
    assert_eq!(told_until(&mut all, "n07"), ["n00", "n01", "n07"]);

    // By hand, and with settings that no answer shows.
    rig.edit_hosts(|file| file.hosts["n02"].description = Some("by hand".to_owned()));
    rig.write_config_toml("[connection]\nmax_backoff = \"300ms\"\ncommand_timeout = \"1h\"\n");
    assert_eq!(told_until(&mut all, "n02"), ["n02"]);
    wait_until("the settings", GUARD, || rig.log(), |log| log.contains("occd.toml was read anew"));
    let reloaded = |log: &String| log.contains("hosts.json and occd.toml were looked at");
    rig.daemon().signal(Signal::HUP);
    wait_until("the reload", GUARD, || rig.log(), reloaded);
    describe("n03");
    assert_eq!(told_until(&mut all, "n03"), ["n03"]);

    // Who listens to another host has heard nothing until now.
    describe("n39");
    match other.next().change {
        Change::Host { status: Some(status), .. } => {
            assert_eq!(status.config.description.as_deref(), Some("by the API"));
        }
        change => panic!("{change:?}"),
    }
    rig.http("DELETE", "/v1/hosts/n04?force=true", &[], None);
    describe("n05");
    assert_eq!(told_until(&mut all, "n05"), ["n39", "n04", "n05"]);
}

#[test]
fn a_look_at_files_that_say_the_same_wakes_nobody() {
    let host = EmbeddedHost::start();
    let rig = rig_with(&[("h", Target::from(&host)), ("other", Target::from(&host))]);
    connect(&rig, "h");
    let looks = || rig.log().matches("hosts.json and occd.toml were looked at").count();
    let look = || {
        let before = looks();
        rig.daemon().signal(Signal::HUP);
        wait_until("the look", GUARD, looks, |now| *now > before);
    };
    look();
    // At first there is more to be known of a host that has just been connected.
    wait_until(
        "a look after which the revision is as it was",
        GUARD,
        || (list(&rig).revision, look(), list(&rig).revision),
        |(before, (), after)| before == after,
    );
    // What a list says besides its hosts is news.
    let before = list(&rig).revision;
    rig.write_config_toml("nonsense");
    let moved = |revision: &u64| *revision > before;
    wait_until("the problem to be told", GUARD, || list(&rig).revision, moved);
    assert!(!list(&rig).warnings.is_empty());
}

/// What a command prints, line by line.
struct Lines {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Lines {
    fn of(rig: &DaemonRig, args: &[&str]) -> Self {
        let mut child =
            rig.occ(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn until(&mut self, wanted: &str) -> String {
        loop {
            let line =
                self.lines.next().unwrap_or_else(|| panic!("no line with {wanted}")).unwrap();
            if line.contains(wanted) {
                return line;
            }
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn occ_events_prints_them_and_outlives_the_daemon() {
    let host = EmbeddedHost::start();
    let mut rig = rig_with(&[("h", Target::from(&host))]);
    let once = rig.occ_ok(&["events", "--once", "--json", "--kind", "host"]);
    let event: Event = serde_json::from_str(&once).unwrap();
    assert_eq!(snapshot(event).hosts.unwrap().len(), 1);
    let unknown = rig.run_occ(&["events", "--host", "nobody"]);
    assert_eq!(unknown.code(), 4, "{unknown:?}");
    let kind = rig.run_occ(&["events", "--kind", "hots"]);
    assert_eq!(kind.code(), 2, "{kind:?}");
    assert!(kind.stderr.contains("known are host, container"), "{kind:?}");

    let mut text = Lines::of(&rig, &["events"]);
    text.until("h                idle");
    let mut json = Lines::of(&rig, &["events", "--json", "--host", "h"]);
    json.until("\"event\":\"snapshot\"");
    connect(&rig, "h");
    text.until("h                connected");
    json.until("\"state\":\"connected\"");
    rig.kill_daemon();
    rig.start_daemon(&[]);
    assert!(json.until("\"event\":\"gap\"").contains("restarted"));
    json.until("\"event\":\"snapshot\"");
    // It comes back by itself, before or after that.
    assert_eq!(post(&rig, "/v1/hosts/h/disconnect").status, 200);
    json.until("\"state\":\"stopped\"");
    text.until("h                stopped");
    connect(&rig, "h");
    json.until("\"state\":\"connected\"");
    text.until("h                connected");
}

#[test]
fn clients_that_listen_cost_others_nothing() {
    let host = EmbeddedHost::start();
    let rig = rig_with(&[("h", Target::from(&host))]);
    connect(&rig, "h");
    let fds = rig.daemon_fds();
    let mut streams: Vec<Stream> = (0..300).map(|_| Stream::open(&rig, "?kind=host", "")).collect();
    for stream in &mut streams {
        snapshot(stream.next());
    }
    echoes(&rig, "h");
    post(&rig, "/v1/hosts/h/disconnect");
    for stream in &mut streams {
        stream.until("the end of the link", is_state(State::Stopped));
    }
    drop(streams);
    wait_until("their descriptors to be closed", GUARD, || rig.daemon_fds(), |now| *now <= fds);
}

#[test]
fn a_stream_that_has_nothing_to_say_shows_that_it_lives() {
    let host = EmbeddedHost::start();
    let rig = rig_with(&[("h", Target::from(&host))]);
    let mut stream = Stream::open(&rig, "?kind=session", "");
    snapshot(stream.next());
    assert_eq!(stream.chunk().unwrap(), ":\n\n");
}

#[test]
fn what_follows_ends_when_nobody_reads_any_more() {
    let mut rig = DaemonRig::new();
    let host = EmbeddedHost::start();
    rig.add_host("h", &host);
    rig.start_daemon(&[]);
    // Each has told something, and then has nothing to say.
    for words in [&["events"][..], &["status", "--watch"], &["status", "--watch", "--summary"]] {
        let mut occ = rig.occ(words).stdout(Stdio::piped()).spawn().unwrap();
        let mut told = BufReader::new(occ.stdout.take().unwrap());
        assert_ne!(told.read_line(&mut String::new()).unwrap(), 0, "{words:?}");
        drop(told);
        assert_eq!(exit_code(&mut occ), 141, "{words:?}");
    }
}

#[test]
fn what_a_host_says_of_itself_and_what_keeps_docker_from_being_asked_is_told() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let rig = rig_with(&[("h", Target::from(&sshd))]);
    rig.write_config_toml("[hosts.h]\ndocker_socket = \"/nowhere/docker.sock\"\n");
    let mut stream = Stream::open(&rig, "?kind=host", "");
    snapshot(stream.next());
    connect(&rig, "h");
    let mut told = None;
    let is_all = |change: &Change| {
        let Change::Host { status: Some(status), .. } = change else { return false };
        let system = status.connection.as_ref().and_then(|connection| connection.system.clone());
        told = system.zip(status.docker_error.clone());
        told.is_some()
    };
    stream.until("both to be told", is_all);
    let now = look(&rig, "h");
    assert_eq!(now.connection.and_then(|connection| connection.system).zip(now.docker_error), told);
    assert!(told.is_some_and(|(system, _)| system.unknown.is_none()));
}
