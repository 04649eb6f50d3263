//! A session outlives the link, the daemon and the list of sessions: no byte is lost or comes twice, and nobody who is not
//! attached costs anything.

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::Duration;

use occ_proto::event::Change;
use occ_proto::session::{Session, SessionList, SessionState};
use occ_proto::status::State;
use serde_json::{Value, json};
use sha2::Digest as _;
use testkit::daemon::Target;
use testkit::proc::{self, Signal};
use testkit::wait::blocking::{wait_for, wait_until};
use testkit::{DaemonRig, FaultyLink, RealSshd};
use tokio::time::Instant;

use crate::ask::look;
use crate::events;
use crate::support::{GUARD, exit_code, no_channels, remote_programs, shell};

/// A real server behind a link, and a daemon that knows it as `h`.
pub(crate) struct Far {
    pub(crate) rig: DaemonRig,
    pub(crate) link: FaultyLink,
    pub(crate) sshd: RealSshd,
}

impl Far {
    pub(crate) fn start() -> Option<Self> {
        RealSshd::require().then(|| Self::at(RealSshd::start()))
    }

    /// The same at a server.
    pub(crate) fn at(sshd: RealSshd) -> Self {
        let link = FaultyLink::start(sshd.addr());
        let mut rig = DaemonRig::new();
        rig.add_host("h", Target::from(&sshd).through(&link));
        rig.start_daemon(&[]);
        Self { rig, link, sshd }
    }

    pub(crate) fn call(
        &self,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> testkit::http::Response {
        self.rig.http(method, &format!("/v1/sessions{path}"), &[], body)
    }

    /// Starts a session that runs a line of sh.
    pub(crate) fn begin(&self, name: &str, line: &str) -> Session {
        let request = json!({"host": "h", "name": name, "argv": ["sh", "-c", line]});
        let response = self.call("POST", "", Some(request));
        assert_eq!(response.status, 201, "{}", response.text());
        serde_json::from_slice(&response.body).unwrap()
    }

    pub(crate) fn look(&self, name: &str) -> Session {
        let response = self.call("GET", &format!("/{name}"), None);
        assert_eq!(response.status, 200, "{}", response.text());
        serde_json::from_slice(&response.body).unwrap()
    }

    pub(crate) fn wait_for_end(&self, name: &str) -> Session {
        wait_until("its end", GUARD, || self.look(name), |s| s.state != SessionState::Running)
    }

    /// Returns standard output from an offset on, to the end of the program.
    pub(crate) fn output(&self, name: &str, offset: u64) -> Vec<u8> {
        let accept = [("accept", "application/octet-stream")];
        let path = format!("/v1/sessions/{name}/output?offset={offset}");
        let response = self.rig.http("GET", &path, &accept, None);
        assert_eq!(response.status, 200, "{}", response.text());
        response.body
    }

    fn input(&self, name: &str, query: &str, data: &[u8]) -> Value {
        let path = format!("/v1/sessions/{name}/input{query}");
        let kind = [("content-type", "application/octet-stream")];
        let response =
            testkit::http::request(&self.rig.socket(), "POST", &path, &kind, Some(data)).unwrap();
        response.json()
    }
}

/// Bytes that repeat nowhere soon.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    let next = |state: &mut u32| {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (*state >> 24) as u8
    };
    (0..length).map(|_| next(&mut state)).collect()
}

pub(crate) fn sum(data: &[u8]) -> String {
    sha2::Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns servers with each shell that is here as their `sh`: busybox with its own tools alone. The second part keeps what
/// is needed.
pub(crate) fn shells() -> Vec<(RealSshd, tempfile::TempDir)> {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let mut all = Vec::new();
    for name in ["dash", "bash", "busybox"] {
        let program = ["/bin", "/usr/bin"].map(|dir| std::path::Path::new(dir).join(name));
        let Some(program) = program.into_iter().find(|path| path.exists()) else { continue };
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        symlink(&program, dir.path().join("sh")).unwrap();
        let mut path = dir.path().display().to_string();
        if name == "busybox" {
            let list = std::process::Command::new(&program).arg("--list").output().unwrap();
            let list = String::from_utf8(list.stdout).unwrap();
            for applet in list.lines().filter(|applet| *applet != "sh") {
                symlink(&program, dir.path().join(applet)).unwrap();
            }
        } else {
            path.push_str(":/usr/bin:/bin");
        }
        // To a host that is slow the next connection compresses, and what these tests count is hardly anything then.
        let sshd = RealSshd::builder().env("PATH", &path).config("Compression no").start();
        all.push((sshd, dir));
    }
    all
}

#[test]
fn a_program_goes_on_through_cuts_and_every_byte_comes_once() {
    if !RealSshd::require() {
        return;
    }
    for (sshd, _path) in shells() {
        every_byte_comes_once(&Far::at(sshd));
    }
}

fn every_byte_comes_once(far: &Far) {
    // 3 MB, slowly enough that the cuts fall into it, also where they come all at once after one.
    far.link.set_bandwidth(Some(1_000_000));
    let line = "i=0; while [ $i -lt 30 ]; do head -c 100000 /dev/zero | tr '\\0' a; echo $i; i=$((i+1)); sleep 0.05; done; exit 7";
    far.begin("long", line);
    let mut expected = Vec::new();
    for i in 0..30 {
        expected.extend(std::iter::repeat_n(b'a', 100_000));
        expected.extend(format!("{i}\n").bytes());
    }
    let out = std::thread::scope(|scope| {
        let reading = scope.spawn(|| far.output("long", 0));
        let (mut seen, mut cuts) = (0, 0);
        while cuts < 4 {
            // Each after so much more has come.
            let look = || (far.link.bytes().1, reading.is_finished());
            let (now, finished) = wait_until("more, or the end", GUARD, look, |(now, finished)| {
                *finished || *now > seen + 300_000
            });
            if finished {
                break;
            }
            far.link.reset_all();
            seen = now;
            cuts += 1;
        }
        let out = reading.join().unwrap();
        assert!(cuts >= 2, "only {cuts} cuts, {} bytes, {:?}", out.len(), far.link.bytes());
        out
    });
    assert_eq!(out.len(), expected.len());
    assert!(out == expected, "the bytes differ");
    let session = far.wait_for_end("long");
    assert_eq!((session.state, session.exit), (SessionState::Ended, Some(7)));
    // What an ended one wrote is still there, from any byte on.
    assert!(far.output("long", 2_999_990) == expected[2_999_990..]);
    assert_eq!(far.call("DELETE", "/long", None).status, 204);
    assert_eq!(far.call("GET", "/long", None).status, 404);
}

#[test]
fn input_that_is_cut_off_is_read_exactly_once() {
    let Some(far) = Far::start() else { return };
    let data = noise(1_000_000);
    far.link.set_bandwidth(Some(2_000_000));
    let mut occ = durable(&far, &["sha256sum"]);
    let mut stdin = occ.stdin.take().unwrap();
    let out = std::thread::scope(|scope| {
        let sent = data.clone();
        scope.spawn(move || stdin.write_all(&sent).unwrap());
        let before = far.link.bytes().0;
        let (mut seen, mut cuts) = (before, 0);
        while cuts < 3 && occ.try_wait().unwrap().is_none() {
            let now = far.link.bytes().0;
            if now > seen + 150_000 {
                far.link.reset_all();
                seen = now;
                cuts += 1;
            }
            std::thread::yield_now();
        }
        assert!(cuts >= 2, "only {cuts} cuts");
        far.link.set_bandwidth(None);
        assert_eq!(exit_code(&mut occ), 0);
        read_all(&mut occ)
    });
    assert_eq!(out.split(' ').next(), Some(&sum(&data)[..]));
    // It is removed after its success.
    let list: SessionList = serde_json::from_slice(&far.call("GET", "", None).body).unwrap();
    assert_eq!(list.sessions, []);
}

fn durable(far: &Far, argv: &[&str]) -> Child {
    far.rig
        .occ(&["exec", "--durable", "--host", "h", "--"])
        .args(argv)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn read_all(child: &mut Child) -> String {
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

#[test]
fn input_by_offset_is_taken_once() {
    let Some(far) = Far::start() else { return };
    far.begin("cat", "exec cat");
    assert_eq!(far.input("cat", "?offset=0", b"hello ")["end"], 6);
    assert_eq!(far.input("cat", "?offset=0", b"hello ")["end"], 6);
    assert_eq!(far.input("cat", "?offset=9", b"x")["code"], "input_refused");
    assert_eq!(far.input("cat", "", b"world")["end"], 11);
    assert_eq!(far.input("cat", "?offset=11&eof=true", b"!")["end"], 12);
    assert_eq!(far.output("cat", 0), b"hello world!");
    assert_eq!(far.input("cat", "", b"x")["code"], "session_ended");
}

#[test]
fn a_killed_daemon_finds_its_sessions_again_and_so_does_one_without_a_list() {
    let Some(mut far) = Far::start() else { return };
    far.begin("work", "echo before; read x; echo $x; exec sleep 1000");
    far.rig.kill_daemon();
    far.rig.start_daemon(&[]);
    assert_eq!(far.input("work", "", b"after\n")["end"], 6);
    wait_until("its words", GUARD, || far.look("work").stdout, |at| *at == Some(13));

    far.rig.terminate_daemon();
    let list = far.rig.paths().state_dir().unwrap().join("sessions.json");
    std::fs::remove_file(list).unwrap();
    far.rig.start_daemon(&[]);
    assert_eq!(far.call("GET", "/work", None).status, 404);
    let found: SessionList =
        serde_json::from_slice(&far.call("GET", "?host=h", None).body).unwrap();
    assert_eq!(found.sessions.len(), 1);
    assert_eq!((&found.sessions[0].info.name[..], found.sessions[0].stdout), ("work", Some(13)));
    // From now on it is known again.
    let ended = far.call("POST", "/work/signal", None).json();
    assert_eq!((&ended["state"], &ended["exit"]), (&json!("ended"), &json!(143)));
    assert_eq!(far.output("work", 0), b"before\nafter\n");
}

#[test]
fn the_last_words_come_also_where_the_host_is_late_to_keep_them() {
    let Some(far) = Far::start() else { return };
    far.begin("work", "echo first; read x; echo last");
    let here = format!("OCC_TESTKIT={}", far.sshd.dir().display());
    let named = |name: &str| -> Vec<proc::Process> {
        proc::marked(&here).into_iter().filter(|process| process.name() == name).collect()
    };
    let mut rests = HashSet::new();
    let mut rested = |reading: &std::thread::ScopedJoinHandle<'_, Vec<u8>>| {
        rests.extend(named("sleep").into_iter().map(|process| process.pid));
        if reading.is_finished() { usize::MAX } else { rests.len() }
    };
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| far.output("work", 0));
        // More looks than are made where nothing comes after the end.
        wait_until("the reader's looks", GUARD, || rested(&reading), |count| *count > 160);
        let looks = wait_for("what looks", GUARD, || named("sleep").first()?.parent());
        // What keeps the output stands still, as on a host that has much else to do.
        let keepers = named("dd");
        assert_eq!(keepers.len(), 2);
        keepers.iter().for_each(|keeper| keeper.signal(Signal::STOP));
        far.input("work", "", b"go\n");
        let sessions = far.sshd.dir().join("cache/occ/sessions");
        let has_ended = || {
            let all = std::fs::read_dir(&sessions).unwrap();
            all.map(Result::unwrap).any(|session| session.path().join("exit").exists())
        };
        wait_until("its end", GUARD, has_ended, |ended| *ended);
        // Each look waits for what it runs. This is short, beside the time after which nothing more is expected.
        let so_far = looks.waits();
        wait_until(
            "some more looks, or the last",
            GUARD,
            || (looks.waits().since(&so_far), reading.is_finished()),
            |(waits, finished)| *finished || *waits > 20,
        );
        keepers.iter().for_each(|keeper| keeper.signal(Signal::CONT));
        assert_eq!(reading.join().unwrap(), b"first\nlast\n");
    });
}

#[test]
fn a_session_survives_a_restart_of_sshd() {
    let Some(mut far) = Far::start() else { return };
    far.begin("work", "read x; echo $x");
    far.sshd.stop();
    far.sshd.start_again();
    assert_eq!(far.input("work", "", b"still here\n")["end"], 11);
    assert_eq!(far.output("work", 0), b"still here\n");
}

#[test]
fn a_host_that_ends_what_a_user_leaves_running_is_told_of() {
    let Some(far) = Far::start() else { return };
    far.begin("work", "echo x; exec sleep 1000");
    wait_until("its word", GUARD, || far.look("work").stdout, |at| *at == Some(2));
    far.sshd.kill_sessions();
    for process in remote_programs(&far.sshd) {
        process.signal(Signal::KILL);
    }
    let session = far.wait_for_end("work");
    assert_eq!((session.state, session.exit), (SessionState::Lost, None));
    let waited = far.rig.run_occ(&["session", "wait", "work"]);
    assert_eq!(waited.code(), 6, "{}", waited.stderr);
    assert!(waited.stderr.contains("loginctl enable-linger"), "{}", waited.stderr);
}

#[test]
fn a_start_takes_two_round_trips() {
    let Some(far) = Far::start() else { return };
    assert_eq!(far.rig.http("POST", "/v1/hosts/h/connect", &[], None).status, 200);
    far.begin("warm", "exec sleep 1000");
    no_channels(&far.rig, GUARD);
    far.link.set_latency(Duration::from_millis(250));
    let begun = Instant::now();
    far.begin("far", "exec sleep 1000");
    // A third would make it 1.5 s; the rest is what a busy machine takes.
    assert!(begun.elapsed() < Duration::from_millis(1490), "{:?}", begun.elapsed());
}

#[test]
fn sessions_that_nobody_is_attached_to_cost_no_channel_and_little_memory() {
    let Some(far) = Far::start() else { return };
    // What a hundred commands leave in the allocator is not the sessions'.
    for n in 0..100 {
        assert_eq!(shell(&far.rig, &format!("echo {n}")).exit.code, Some(0));
    }
    for n in 0..20 {
        far.begin(&format!("first{n}"), "exec sleep 1000");
    }
    no_channels(&far.rig, GUARD);
    let before = far.rig.daemon_private_dirty_kib();
    for n in 0..100 {
        far.begin(&format!("n{n}"), "exec sleep 1000");
    }
    no_channels(&far.rig, GUARD);
    // What the starts themselves took is given back in a moment.
    let more = || far.rig.daemon_private_dirty_kib().saturating_sub(before);
    wait_until("little memory, in KiB", GUARD, more, |more| *more <= 10 * 1024);
    let list: SessionList = serde_json::from_slice(&far.call("GET", "", None).body).unwrap();
    assert_eq!(list.sessions.iter().filter(|s| s.state == SessionState::Running).count(), 120);
}

/// Waits until events have told that sessions are in these states, in whatever order.
fn told(stream: &mut events::Stream, states: &[(&str, SessionState, Option<u8>)]) {
    let mut missing = states.to_vec();
    while !missing.is_empty() {
        stream.until("an end", |change| {
            let before = missing.len();
            if let Change::Session { session: Some(now), .. } = change {
                missing.retain(|wanted| *wanted != (&now.info.name, now.state, now.exit));
            }
            missing.len() < before
        });
    }
}

#[test]
fn who_only_listens_is_told_how_programs_end() {
    let Some(far) = Far::start() else { return };
    let mut stream = events::Stream::open(&far.rig, "?kind=session", "");
    far.begin("here-and-gone", "exit 4");
    let end = far.sshd.dir().join("end");
    let waits = format!("while [ ! -e {} ]; do sleep 0.1; done; exit 5", end.display());
    far.begin("later", &waits);
    let gone = far.begin("removed", "exec sleep 1000");
    let local = json!({"host": "local", "name": "here", "argv": ["sh", "-c", "exit 6"]});
    assert_eq!(far.call("POST", "", Some(local)).status, 201);
    let ended = |name, status| (name, SessionState::Ended, Some(status));
    told(&mut stream, &[ended("here-and-gone", 4), ended("here", 6)]);
    // Also what ends while the link is down, and what somebody else removes.
    far.link.refuse(true);
    far.link.reset_all();
    std::fs::write(&end, "").unwrap();
    let kept = far.sshd.dir().join("cache/occ/sessions").join(&gone.info.id);
    // Others may write there at this moment.
    wait_for("its removal", GUARD, || std::fs::remove_dir_all(&kept).ok());
    far.link.refuse(false);
    told(&mut stream, &[ended("later", 5), ("removed", SessionState::Gone, None)]);
    // Those who only look see the same.
    let viewers = occ_proto::paths::read_only_beside(&far.rig.socket());
    let looks = testkit::http::request(&viewers, "GET", "/v1/sessions", &[], None);
    let list: SessionList = serde_json::from_slice(&looks.unwrap().body).unwrap();
    assert!(list.sessions.iter().all(|session| session.state != SessionState::Running));
    no_channels(&far.rig, GUARD);
}

#[test]
fn what_a_lost_session_left_behind_goes_with_it_though_nobody_has_asked() {
    let Some(far) = Far::start() else { return };
    let session = far.begin("lost", "exec sleep 1000");
    let kept = far.sshd.dir().join("cache/occ/sessions").join(&session.info.id);
    let program = wait_for("the program", GUARD, || {
        proc::Process::find(std::fs::read_to_string(kept.join("pid")).ok()?.trim().parse().ok()?)
    });
    let supervisor = std::fs::read_to_string(kept.join("sup")).unwrap();
    proc::Process::find(supervisor.trim().parse().unwrap()).unwrap().signal(Signal::KILL);
    assert_eq!(far.call("DELETE", "/lost", None).status, 204);
    wait_until("its end", GUARD, || program.is_alive(), |alive| !alive);
}

#[test]
fn a_session_whose_directory_was_removed_says_how_to_end_what_is_left_of_it() {
    let Some(far) = Far::start() else { return };
    let session = far.begin("work", "exec sleep 1000");
    let kept = far.sshd.dir().join("cache/occ/sessions").join(&session.info.id);
    let program = wait_for("the program", GUARD, || {
        proc::Process::find(std::fs::read_to_string(kept.join("pid")).ok()?.trim().parse().ok()?)
    });
    // Others may write there at this moment.
    wait_for("its removal", GUARD, || std::fs::remove_dir_all(&kept).ok());
    let input = far.input("work", "", b"x");
    assert_eq!((&input["code"], &input["status"]), (&json!("session_gone"), &json!(410)));
    assert_eq!(input["title"], "Gone");
    let waited = far.rig.run_occ(&["session", "wait", "work"]);
    assert_eq!(waited.code(), 1, "{}", waited.stderr);
    assert!(waited.stderr.contains("occ session kill "), "{}", waited.stderr);
    assert_eq!(far.rig.occ_ok(&["session", "kill", "work"]), "[h] work: gone\n");
    wait_until("its end", GUARD, || program.is_alive(), |alive| !alive);
}

#[test]
fn sessions_of_a_host_that_is_down_are_listed_as_they_were_known() {
    let Some(far) = Far::start() else { return };
    far.begin("work", "exec sleep 1000");
    far.link.refuse(true);
    far.link.reset_all();
    let listed = far.rig.run_occ(&["session", "list", "--host", "h"]);
    assert_eq!(listed.code(), 5, "{}", listed.stderr);
    let row = listed.stdout.lines().find(|line| line.starts_with("work "));
    assert!(row.is_some_and(|row| row.contains(" running? ")), "{}", listed.stdout);
    assert!(listed.stderr.contains("refused"), "{}", listed.stderr);
    // A document is whole, or none.
    let listed = far.rig.run_occ(&["session", "list", "--host", "h", "--json"]);
    assert!(!listed.stdout.contains("\"sessions\""), "{}", listed.stdout);
    far.link.refuse(false);
}

#[test]
fn a_look_at_sessions_is_no_use_of_their_host() {
    let Some(far) = Far::start() else { return };
    far.rig.write_config_toml("[connection]\nidle_timeout = \"3s\"\n");
    let started = far.begin("long", "exec sleep 1000");
    // Unlike the host's own status, the list dials nothing.
    let state = || look(&far.rig, "h").state;
    wait_until("nobody to use it", GUARD, state, |state| *state == State::Idle);
    // Nor does anybody dial for it.
    assert_eq!(look(&far.rig, "h").connects, 1);
    assert_eq!(started.state, SessionState::Running);
}

#[test]
fn a_client_that_leaves_leaves_nothing_behind_but_the_program() {
    let Some(far) = Far::start() else { return };
    far.begin("work", "echo x; exec sleep 1000");
    let mut socket = UnixStream::connect(far.rig.socket()).unwrap();
    socket.set_read_timeout(Some(GUARD)).unwrap();
    let request = "GET /v1/sessions/work/output HTTP/1.1\r\nHost: localhost\r\n\r\n";
    socket.write_all(request.as_bytes()).unwrap();
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("\"data\":\"x\\n\"") {
        let mut some = [0; 512];
        let read = socket.read(&mut some).unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&some[..read]);
    }
    assert!(String::from_utf8_lossy(&seen).contains("id: 2\nevent: output\n"));
    drop(socket);
    no_channels(&far.rig, GUARD);
    let followers = || {
        let all = proc::marked(&format!("OCC_TESTKIT={}", far.sshd.dir().display()));
        all.iter().filter(|process| process.name() == "cat").count()
    };
    wait_until("the follower's end", GUARD, followers, |count| *count == 0);
    assert_eq!(far.look("work").state, SessionState::Running);
}

#[test]
fn a_session_moves_with_its_next_start_and_names_are_answered_for() {
    let Some(far) = Far::start() else { return };
    far.begin("work", "echo $K; exit 4");
    far.wait_for_end("work");
    let edit = json!({"name": "job", "argv": ["sh", "-c", "echo again"]});
    assert_eq!(far.call("PATCH", "/work", Some(edit)).status, 200);
    assert_eq!(far.call("POST", "/job/start", None).status, 200);
    assert_eq!(far.wait_for_end("job").exit, Some(0));
    assert_eq!(far.output("job", 0), b"again\n");
    let unknown = far.call("GET", "/other", None).json();
    assert_eq!(unknown["code"], "session_not_found");
    assert!(unknown["detail"].as_str().unwrap().contains("job"), "{unknown}");
    let taken = json!({"host": "h", "name": "job", "argv": ["true"]});
    assert_eq!(far.call("POST", "", Some(taken)).json()["code"], "session_exists");
    let nowhere = json!({"host": "h", "argv": ["true"], "cwd": "/no/such"});
    let refused = far.call("POST", "", Some(nowhere)).json();
    assert_eq!(refused["code"], "session_failed", "{refused}");
    let detail = "h: the session could not be started: /no/such: no such directory.";
    assert_eq!(refused["detail"], detail, "{refused}");
    let missing = far.begin("missing", "exec /no/such/program");
    assert_eq!(far.wait_for_end(&missing.info.id).exit, Some(127));
}
