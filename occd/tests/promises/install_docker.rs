//! Installing Docker on a host: a real server and an unprivileged login, whose sudo and package manager are scripts that
//! act like the real ones and write down what they were asked.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use occ_proto::Code;
use occ_proto::docker_setup::{DockerSetup, Family, Sudo};
use occ_proto::operation::{Did, Operation, OperationState};
use occ_proto::prompt::{Prompt, PromptKind, PromptList};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::daemon::Target;
use testkit::http::Response;
use testkit::user::OwnLogin;
use testkit::wait::blocking::{wait_for, wait_until};
use testkit::{DaemonRig, DockerRig, FaultyLink, RealSshd, Terminal, proc};

use crate::ask::{GUARD, body, problem};
use crate::canary::answers;
use crate::trace::{end_trace, start_trace, traced};

const PASSWORD: &str = "canary-sudo-7f3a9";
const LISTENS: (&str, &str) = ("occ-prompts", "a-test");
const SETUP: &str = "/v1/hosts/h/docker-setup";

/// What stands in front of PATH on the host. `%` is where the scripts write.
const SCRIPTS: [(&str, &str); 4] = [
    (
        "sudo",
        r#"export SUDO_COMMAND="$*"
echo "sudo $*" | tr '\n' ' ' >> %/log; echo >> %/log
n= s=
while [ $# -gt 0 ]; do case "$1" in
  -n) n=1; shift;; -k) shift;; -S) s=1; shift;; -p) shift 2;; --) shift; break;; *) break;;
esac; done
[ -e %/nobody ] && { echo "sudo: sorry, you must have a tty to run sudo" >&2; exit 1; }
# As with a terminal of its own (use_pty): out of reach of the signals that the server sends.
[ -e %/free ] && exec setsid --wait "$@"
[ -n "$n" ] && { echo "sudo: a password is required" >&2; exit 1; }
[ -n "$s" ] || exit 1
for try in 1 2 3; do
  IFS= read -r given || { echo "sudo: no password was provided" >&2; exit 1; }
  [ "$given" = "$(cat %/password)" ] && {
    [ -e %/unknown ] && { echo "u is not in the sudoers file." >&2; exit 1; }
    exec setsid --wait "$@"; }
  echo "Sorry, try again." >&2
done
exit 1"#,
    ),
    (
        "apt-get",
        r#"echo "apt-get $* $DEBIAN_FRONTEND" >> %/log
cat >> %/stdin
[ -e %/hang ] && { echo Reading; touch %/hanging; sleep 1000 & wait; }
[ -e %/fail ] && { echo "Reading package lists..."; echo "E: Unable to locate package docker.io" >&2; exit 100; }
echo "did $1"; exit 0"#,
    ),
    (
        "systemctl",
        r#"[ "$1" = is-system-running ] && { [ -e %/offline ] && echo offline || echo degraded; exit 1; }
echo "systemctl $*" >> %/log
cat >> %/stdin
touch %/enable
while [ ! -e %/enabled ]; do sleep 0.1; done"#,
    ),
    (
        "usermod",
        r#"echo "usermod $*" >> %/log
cat >> %/stdin
touch %/join
while [ ! -e %/joined ]; do sleep 0.1; done"#,
    ),
];

/// A host without Docker, and a daemon that knows it as `h`.
struct World {
    dir: TempDir,
    /// Ends with the world.
    _sshd: RealSshd,
    link: FaultyLink,
    rig: DaemonRig,
}

impl World {
    /// Returns a host whose login is `user`, or the fixture's own, unless this machine is none that can act as one.
    fn start(user: Option<&str>) -> Option<Self> {
        let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
        if !RealSshd::require() || !os.contains("ID=debian") {
            return None;
        }
        let dir = tempfile::Builder::new().prefix("occ-inst-").tempdir_in("/tmp").unwrap();
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(dir.path(), 0o755);
        let (sbin, said) = (dir.path().join("sbin"), dir.path().join("said"));
        fs::create_dir_all(&sbin).unwrap();
        fs::create_dir_all(&said).unwrap();
        mode(&said, 0o777);
        for (name, text) in SCRIPTS {
            let text = text.replace("%/", &format!("{}/", said.display()));
            fs::write(sbin.join(name), format!("#!/bin/sh\n{text}\n")).unwrap();
            mode(&sbin.join(name), 0o755);
        }
        fs::write(said.join("password"), PASSWORD).unwrap();
        // Without /usr/sbin, where this machine may have a Docker of its own.
        let (dir_name, socket) = (dir.path().display(), dir.path().join("docker.sock"));
        let mut builder = RealSshd::builder().config(format!(
            "SetEnv OCC_TESTKIT={dir_name} PATH={dir_name}/sbin:/usr/bin:/bin DOCKER_HOST=unix://{}",
            socket.display()
        ));
        if let Some(user) = user {
            builder = builder.user(user);
        }
        let sshd = builder.start();
        let link = FaultyLink::start(sshd.addr());
        let mut rig = DaemonRig::new();
        rig.add_host("h", Target::from(&sshd).through(&link));
        rig.write_config_toml("[connection]\nmax_backoff = \"200ms\"\n");
        rig.set_env("OCCD_LOG", "trace");
        rig.set_env("NO_COLOR", "1");
        rig.start_daemon(&[]);
        Some(Self { dir, _sshd: sshd, link, rig })
    }

    /// Returns a file that the scripts look at or write.
    fn said(&self, name: &str) -> PathBuf {
        self.dir.path().join("said").join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.said(name)).unwrap_or_default()
    }

    fn touch(&self, name: &str) {
        fs::write(self.said(name), "").unwrap();
    }

    /// Returns the commands that were run as root.
    fn ran(&self) -> Vec<String> {
        let log = self.read("log");
        log.lines().filter(|line| !line.starts_with("sudo ")).map(str::to_owned).collect()
    }

    fn plan(&self) -> DockerSetup {
        let response = self.rig.http("GET", SETUP, &[], None);
        assert_eq!(response.status, 200, "{}", response.text());
        body(&response)
    }

    fn prompt(&self, after: u64) -> Prompt {
        wait_for("a question", GUARD, || {
            let answer = self.rig.http("GET", "/v1/prompts?client=a-test", &[], None);
            let list: PromptList = body(&answer);
            list.prompts.into_iter().find(|prompt| prompt.id > after)
        })
    }

    fn answer(&self, id: u64, answer: &Value) {
        let path = format!("/v1/prompts/{id}?client=a-test");
        assert_eq!(self.rig.http("POST", &path, &[], Some(answer.clone())).status, 204);
    }

    /// Begins, and answers the questions.
    fn begin(&self, answers: &[Value]) -> Response {
        thread::scope(|scope| {
            let begun = scope.spawn(|| self.rig.http("POST", SETUP, &[LISTENS], None));
            let mut last = 0;
            for answer in answers {
                let prompt = self.prompt(last);
                last = prompt.id;
                self.answer(last, answer);
            }
            begun.join().unwrap()
        })
    }

    /// Begins and returns the operation.
    fn begun(&self, answers: &[Value]) -> Operation {
        let response = self.begin(answers);
        assert_eq!(response.status, 202, "{}", response.text());
        body(&response)
    }

    fn mark(&self) -> String {
        format!("OCC_TESTKIT={}", self.dir.path().display())
    }

    /// Returns the answer to somebody who cannot be asked.
    fn post(&self, body: Option<Value>) -> Response {
        self.rig.http("POST", SETUP, &[], body)
    }

    fn events(&self, operation: &Operation) -> String {
        let path = format!("/v1/operations/{}/events", operation.id);
        self.rig.http("GET", &path, &[], None).text()
    }

    fn ended(&self, operation: &Operation) -> Operation {
        let path = format!("/v1/operations/{}", operation.id);
        wait_until(
            "the end",
            GUARD,
            || body(&self.rig.http("GET", &path, &[], None)),
            |operation: &Operation| operation.state != OperationState::Running,
        )
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // A step that nobody ended has left the server's tree.
        let mark = self.mark();
        proc::kill_all("what was begun on the host", || proc::marked(&mark));
    }
}

/// Does as root what the scripts ask for, until it is told to end: the engine comes, and the login joins its group.
fn act(world: &World, docker: &DockerRig, login: &OwnLogin, end: &AtomicBool) {
    let once = |asked: &str, done: &str, work: &dyn Fn()| {
        if world.said(asked).exists() && !world.said(done).exists() {
            work();
            world.touch(done);
        }
    };
    wait_for("the end of the test", GUARD * 2, || {
        once("enable", "enabled", &|| {
            let socket = docker.socket();
            login.give(&socket);
            std::os::unix::fs::symlink(socket, world.dir.path().join("docker.sock")).unwrap();
        });
        once("join", "joined", &|| login.join());
        end.load(Ordering::Relaxed).then_some(())
    });
}

/// Runs a test beside what [`act`] does.
fn with_engine(test: impl FnOnce(&World, &DockerRig, &OwnLogin)) {
    if !DockerRig::require() || !RealSshd::require() {
        return;
    }
    let docker = DockerRig::start();
    let login = OwnLogin::new();
    let Some(world) = World::start(Some(login.name())) else { return };
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| act(&world, &docker, &login, &end));
        let _end = OnDrop(|| end.store(true, Ordering::Relaxed));
        test(&world, &docker, &login);
    });
}

struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

fn version(docker: &DockerRig) -> String {
    docker.docker_ok(&["version", "--format", "{{.Server.Version}}"])
}

fn given(password: &str) -> Value {
    json!({ "answer": password })
}

#[test]
fn docker_is_installed_as_it_was_shown_and_answers_over_a_connection_that_has_the_group() {
    with_engine(|world, docker, login| {
        let user = login.name();
        let plan = world.plan();
        assert_eq!(
            (plan.family, plan.sudo, plan.user.as_str()),
            (Family::Debian, Sudo::Password, user)
        );
        assert!(plan.os.starts_with("Debian GNU/Linux") && plan.docker_version.is_none());
        let env = "sudo env DEBIAN_FRONTEND=noninteractive";
        assert_eq!(
            plan.commands,
            [
                format!("{env} apt-get update"),
                format!("{env} apt-get -o DPkg::Lock::Timeout=120 install -y docker.io"),
                "sudo systemctl enable --now docker".to_owned(),
                format!("sudo usermod -aG docker {user}"),
            ]
        );
        assert!(world.ran().is_empty(), "looking changes nothing");
        // A command that runs meanwhile stays on the connection from before.
        let mut busy = world.rig.occ(&["exec", "--host", "h", "--", "cat"]);
        let mut busy = busy.stdin(std::process::Stdio::piped()).spawn().unwrap();
        wait_for("cat to run", GUARD, || {
            proc::marked(&world.mark()).into_iter().find(|process| process.name() == "cat")
        });

        let mut terminal = Terminal::control(&world.rig.occ(&["host", "install-docker", "h"]), "");
        terminal.wait_for("[h]   sudo systemctl enable --now docker\n");
        terminal.answer("[h] Run these commands there? [y/N]", "y");
        terminal.wait_for(&format!("[h] Password of {user} for sudo: "));
        terminal.answer("for sudo: ", "wrong one");
        terminal.wait_for("[h] That password is wrong.\n");
        terminal.answer("for sudo: ", PASSWORD);
        let (screen, code) = terminal.finish();
        assert_eq!(code, 0, "{screen}");
        assert!(screen.contains("[h] did update\n"), "{screen}");
        let done = format!("[h] ✓ Docker {} is installed\n", version(docker));
        assert!(screen.contains(&done), "{screen}");
        assert!(!screen.contains(PASSWORD), "{screen}");
        assert_eq!(
            world.ran(),
            [
                "apt-get update noninteractive".to_owned(),
                "apt-get -o DPkg::Lock::Timeout=120 install -y docker.io noninteractive".to_owned(),
                "systemctl enable --now docker".to_owned(),
                format!("usermod -aG docker {user}"),
            ]
        );
        assert_eq!(world.read("stdin"), "", "what sudo reads nobody else does");

        drop(busy.stdin.take());
        assert_eq!(busy.wait().unwrap().code(), Some(0), "the old connection was left alone");
        let again = world.rig.occ_ok(&["host", "install-docker", "h", "--yes"]);
        let there = format!("[h] ✓ Docker {} is there already\n", version(docker));
        assert_eq!(again, there);
        let now = world.rig.occ_ok(&["docker-socket", "-q", "--host", "h"]);
        assert!(!now.is_empty());
    });
}

/// Returns whether a text is in a file below a directory.
fn is_below(dir: &Path, text: &str) -> Option<PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).find_map(|path| {
        if path.is_dir() {
            return is_below(&path, text);
        }
        let is_file = fs::symlink_metadata(&path).is_ok_and(|file| file.is_file());
        let bytes = if is_file { fs::read(&path).unwrap_or_default() } else { Vec::new() };
        bytes.windows(text.len()).any(|part| part == text.as_bytes()).then_some(path)
    })
}

/// Returns the processes that have a text among their arguments or in their environment.
fn shows(text: &str) -> Vec<String> {
    let looks = |pid: u32| {
        ["cmdline", "environ"].into_iter().find_map(|file| {
            let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let is_in = bytes.windows(text.len()).any(|part| part == text.as_bytes());
            is_in.then(|| format!("{pid}: {}", String::from_utf8_lossy(&bytes)))
        })
    };
    proc::all().into_iter().filter_map(|process| looks(process.pid)).collect()
}

#[test]
fn the_password_is_nowhere_but_at_sudo() {
    let Some(world) = World::start(None) else { return };
    world.touch("fail");
    let file = world.rig.home().join("trace.jsonl");
    let trace = start_trace(&world.rig, "h", &file);
    let end = AtomicBool::new(false);
    let operation = thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut seen = Vec::new();
            while !end.load(Ordering::Relaxed) {
                seen.extend(shows(PASSWORD));
            }
            seen
        });
        let _end = OnDrop(|| end.store(true, Ordering::Relaxed));
        let begun = world.begin(&[given("wrong"), given(PASSWORD)]);
        assert!(!begun.text().contains(PASSWORD));
        let operation = world.ended(&body(&begun));
        end.store(true, Ordering::Relaxed);
        assert_eq!(watching.join().unwrap(), Vec::<String>::new());
        operation
    });
    assert_eq!(world.ran(), ["apt-get update noninteractive"]);
    end_trace(trace);
    let records = traced(&file);
    let length = Some(PASSWORD.len() as u64 + 1);
    assert!(records.iter().any(|(record, _)| record.left_out == length), "{records:#?}");
    for (record, bytes) in records {
        assert!(!String::from_utf8_lossy(&bytes).contains(PASSWORD), "{record:?}");
    }
    for (path, answer) in answers(&world.rig, &[("host", "h"), ("id", &operation.id)]) {
        assert!(!answer.contains(PASSWORD), "{path}: {answer}");
    }
    let events = world.events(&operation);
    assert!(events.contains("Unable to locate") && !events.contains(PASSWORD), "{events}");
    assert!(!world.rig.log().contains(PASSWORD));
    // The log, the state, the settings; and what the scripts were given as arguments.
    assert_eq!(is_below(world.rig.root(), PASSWORD), None);
    fs::remove_file(world.said("password")).unwrap();
    assert_eq!(is_below(world.dir.path(), PASSWORD), None);
    assert!(world.read("log").contains("sudo -k -S -p  -- env "), "{}", world.read("log"));
}

#[test]
fn a_step_that_fails_is_named_with_what_it_said_and_all_can_be_run_again() {
    let Some(world) = World::start(None) else { return };
    world.touch("fail");
    world.touch("free");
    assert_eq!(world.plan().sudo, Sudo::Free);
    for _ in 0..2 {
        let operation = world.ended(&world.begun(&[]));
        assert_eq!(operation.state, OperationState::Failed);
        let problem = operation.problem.unwrap();
        assert_eq!((problem.code, problem.status), (Code::InstallFailed, 502));
        let command = "`sudo env DEBIAN_FRONTEND=noninteractive apt-get update`";
        let last = "E: Unable to locate package docker.io";
        let words = format!("h: {command} ended with exit code 100; it said last: {last}.");
        assert_eq!(problem.detail, words);
        assert_eq!(problem.causes, ["Reading package lists...", last]);
    }
    assert_eq!(world.ran().len(), 2, "nothing comes after a step that failed");
    let output = world.rig.run_occ(&["host", "install-docker", "h", "--yes"]);
    assert_eq!(output.code(), 1, "{}", output.stderr);
    assert!(output.stderr.contains(&format!("[h] {}", "Reading package lists...")));
    assert!(output.stderr.contains("hint: mend what it says there"), "{}", output.stderr);
}

/// Returns the processes of steps on the host.
fn steps_of(world: &World) -> Vec<proc::Process> {
    let steps = proc::marked("OCC_STEP_ID=");
    let ours = proc::marked(&world.mark());
    steps.into_iter().filter(|process| ours.contains(process)).collect()
}

#[test]
fn cancelling_ends_the_step_on_the_host_and_nothing_else_is_begun_there_before() {
    let Some(world) = World::start(None) else { return };
    world.touch("hang");
    let operation = world.begun(&[given(PASSWORD)]);
    wait_for("the step", GUARD, || world.said("hanging").exists().then_some(()));
    // Nobody is asked for a password in vain.
    let busy = problem(&world.rig.http("POST", SETUP, &[LISTENS], None));
    assert_eq!((busy.status, busy.code), (409, Code::OperationRunning));
    // Nor is a confirmation.
    let (screen, code) =
        Terminal::control(&world.rig.occ(&["host", "install-docker", "h"]), "").finish();
    assert!(code != 0 && screen.contains("is at work"), "{code} {screen}");
    assert!(!screen.contains("[y/N]"), "{screen}");
    let path = format!("/v1/operations/{}", operation.id);
    assert_eq!(world.rig.http("DELETE", &path, &[], None).status, 202);
    let operation = world.ended(&operation);
    assert_eq!(operation.state, OperationState::Cancelled);
    wait_until("the step's processes to be gone", GUARD, || steps_of(&world), Vec::is_empty);
    let events = world.events(&operation);
    assert!(events.contains("was ended; installing again begins anew"), "{events}");
    assert_eq!(world.ran().len(), 1);
}

#[test]
fn a_daemon_that_stops_ends_the_step_as_well() {
    let Some(mut world) = World::start(None) else { return };
    world.touch("hang");
    world.begun(&[given(PASSWORD)]);
    wait_for("the step", GUARD, || world.said("hanging").exists().then_some(()));
    assert!(world.rig.terminate_daemon().success());
    assert_eq!(steps_of(&world), []);
}

#[test]
fn a_link_that_breaks_in_a_step_leaves_it_unknown_and_it_is_run_again() {
    let Some(world) = World::start(None) else { return };
    world.touch("hang");
    world.touch("free");
    let operation = world.begun(&[]);
    wait_for("the step", GUARD, || world.said("hanging").exists().then_some(()));
    world.link.reset_all();
    let problem = world.ended(&operation).problem.unwrap();
    assert_eq!((problem.code, problem.status), (Code::OutcomeUnknown, 502), "{problem:?}");
    assert!(problem.detail.contains("apt-get update` ended is not known"), "{problem:?}");
    fs::remove_file(world.said("hang")).unwrap();
    world.touch("fail");
    let again = world.ended(&world.begun(&[]));
    assert_eq!(again.problem.unwrap().code, Code::InstallFailed);
    assert_eq!(world.ran().len(), 2);
}

#[test]
fn without_the_password_nothing_is_run() {
    let Some(world) = World::start(None) else { return };
    let refused = |response: &Response, words: &str| {
        let problem = problem(response);
        assert_eq!((problem.status, problem.code), (409, Code::InputNeeded), "{problem:?}");
        assert!(problem.detail.contains("the sudo password of "), "{problem:?}");
        assert!(problem.detail.contains(words), "{problem:?}");
    };
    refused(&world.post(None), "there is nobody to ask");
    refused(&world.begin(&[json!({})]), "declined");
    refused(&world.begin(&[given("a"), given("b"), given("c")]), "wrong");
    let output = world.rig.run_occ(&["host", "install-docker", "h", "--yes"]);
    assert_eq!(output.code(), 5, "{}", output.stderr);
    assert!(output.stderr.contains("hint: on a terminal: occ host install-docker h asks"));
    // A password that is right, of somebody who may not.
    world.touch("unknown");
    let unknown = problem(&world.begin(&[given(PASSWORD)]));
    assert_eq!((unknown.status, unknown.code), (409, Code::InstallImpossible));
    assert!(unknown.detail.contains("is not in the sudoers file; run as root: env DEBIAN"));
    assert_eq!(world.ran(), Vec::<String>::new());
}

#[test]
fn whoever_looks_at_the_open_questions_can_answer() {
    let Some(world) = World::start(None) else { return };
    world.touch("fail");
    let begun = thread::scope(|scope| {
        let begun = scope.spawn(|| world.rig.http("POST", SETUP, &[LISTENS], None));
        let asked = wait_for("a question for all", GUARD, || {
            let answer = world.rig.http("GET", "/v1/prompts", &[], None);
            body::<PromptList>(&answer).prompts.into_iter().next()
        });
        assert_eq!((asked.kind, asked.secret), (PromptKind::Password, true));
        assert_eq!(asked.host.unwrap().as_str(), "h");
        let path = format!("/v1/prompts/{}?verdict=true", asked.id);
        let verdict = world.rig.http("POST", &path, &[], Some(given(PASSWORD)));
        assert_eq!(verdict.json(), json!({ "wrong": false }));
        begun.join().unwrap()
    });
    assert_eq!(begun.status, 202, "{}", begun.text());
}

#[test]
fn who_cannot_become_root_is_told_what_root_has_to_run() {
    let Some(world) = World::start(None) else { return };
    world.touch("nobody");
    let plan = world.plan();
    assert_eq!(plan.sudo, Sudo::None);
    assert_eq!(plan.commands[0], "env DEBIAN_FRONTEND=noninteractive apt-get update");
    let refused = problem(&world.post(None));
    assert_eq!((refused.status, refused.code), (409, Code::InstallImpossible));
    assert!(refused.detail.contains("you must have a tty to run sudo"), "{refused:?}");
    let output = world.rig.run_occ(&["host", "install-docker", "h", "--yes"]);
    assert_eq!(output.code(), 1, "{}", output.stderr);
    assert!(output.stderr.contains("[h]   systemctl enable --now docker\n"), "{}", output.stderr);
    assert!(output.stderr.contains("hint: run them as root on h; then"), "{}", output.stderr);
    // A test of the host went well all the same.
    let (screen, code) = Terminal::control(&world.rig.occ(&["host", "test", "h"]), "").finish();
    assert_eq!(code, 0, "{screen}");
    assert!(
        screen.ends_with("hint: run them as root on h; then occ reconnect --host h\n"),
        "{screen}"
    );
    assert_eq!(world.ran(), Vec::<String>::new());
}

#[test]
fn only_what_was_shown_is_run() {
    let Some(world) = World::start(None) else { return };
    world.touch("free");
    world.touch("fail");
    let changed = problem(&world.post(Some(json!({ "digest": "0" }))));
    assert_eq!((changed.status, changed.code), (412, Code::PlanChanged));
    assert_eq!(world.ran(), Vec::<String>::new());
    let unknown = problem(&world.post(Some(json!({ "digets": "0" }))));
    assert_eq!((unknown.status, unknown.code), (400, Code::BadRequest));
    // Without a terminal nothing is begun that was not confirmed.
    let unconfirmed = world.rig.run_occ(&["host", "install-docker", "h"]);
    assert_eq!(unconfirmed.code(), 2, "{}", unconfirmed.stderr);
    assert!(unconfirmed.stderr.contains("needs a confirmation"), "{}", unconfirmed.stderr);
    let dry = world.rig.occ_ok(&["host", "install-docker", "h", "--dry-run"]);
    assert!(dry.contains("[h]   sudo systemctl enable --now docker\n"), "{dry}");
    let shown: DockerSetup = serde_json::from_str(&world.rig.occ_ok(&[
        "host",
        "install-docker",
        "h",
        "--dry-run",
        "--json",
    ]))
    .unwrap();
    assert_eq!(shown, world.plan());
    assert_eq!(world.ran(), Vec::<String>::new());
    assert_eq!(world.post(Some(json!({ "digest": shown.digest }))).status, 202);
}

#[test]
fn where_nothing_starts_docker_that_is_said() {
    let Some(world) = World::start(None) else { return };
    ["free", "offline", "joined"].iter().for_each(|name| world.touch(name));
    if Path::new("/run/systemd/system").exists() {
        return;
    }
    let plan = world.plan();
    assert!(plan.notes.iter().any(|note| note.contains("nothing starts Docker")), "{plan:?}");
    let operation = world.ended(&world.begun(&[]));
    let outcome = operation.outcome.unwrap_or_else(|| panic!("{:?}", operation.problem));
    assert_eq!((outcome.did, outcome.docker_version), (Did::Installed, None));
    assert_eq!(outcome.notes, ["nothing starts it there, and it does not run"]);
    assert_eq!(world.ran().len(), 3);
}

#[test]
fn nobody_waits_for_a_docker_that_nothing_starts() {
    let Some(world) = World::start(None) else { return };
    ["free", "offline", "joined"].iter().for_each(|name| world.touch(name));
    if Path::new("/run/systemd/system").exists() {
        return;
    }
    let dockerd = world.dir.path().join("sbin/dockerd");
    fs::write(&dockerd, "").unwrap();
    fs::set_permissions(&dockerd, fs::Permissions::from_mode(0o755)).unwrap();
    // Something that is no Docker, and counts how often it is asked.
    let socket = world.dir.path().join("docker.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let (end, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            wait_for("the end of the test", GUARD * 2, || {
                asked.fetch_add(listener.accept().is_ok().into(), Ordering::Relaxed);
                end.load(Ordering::Relaxed).then_some(())
            });
        });
        let _end = OnDrop(|| end.store(true, Ordering::Relaxed));
        let mut terminal = Terminal::control(&world.rig.occ(&["host", "install-docker", "h"]), "");
        terminal.answer("[h] Run this command there? [y/N]", "y");
        let (screen, code) = terminal.finish();
        assert!(code == 0 && screen.contains("nothing starts it there"), "{code} {screen}");
        let all = asked.load(Ordering::Relaxed);
        assert!(all < 10, "asked {all} times: {screen}");
        assert_eq!(world.ran().len(), 1);
    });
}

#[test]
fn a_login_of_roots_needs_no_sudo() {
    if !testkit::require::require_root("a login as root") {
        return;
    }
    let Some(world) = World::start(Some("root")) else { return };
    world.touch("fail");
    let plan = world.plan();
    assert_eq!((plan.sudo, plan.user.as_str()), (Sudo::NotNeeded, "root"));
    assert!(!plan.commands.iter().any(|command| command.contains("usermod")), "{plan:?}");
    let operation = world.ended(&world.begun(&[]));
    assert_eq!(operation.problem.unwrap().code, Code::InstallFailed);
    assert_eq!(world.read("log"), "apt-get update noninteractive\n");
}

#[test]
fn where_only_the_group_is_missing_only_that_is_done() {
    with_engine(|world, docker, login| {
        login.give(&docker.socket());
        let socket = world.dir.path().join("docker.sock");
        std::os::unix::fs::symlink(docker.socket(), socket).unwrap();
        world.touch("free");
        // The socket's own group is the one that opens it.
        let join = format!("usermod -aG {0}-g {0}", login.name());
        assert_eq!(world.plan().commands, [format!("sudo {join}")]);
        let done = world.rig.occ_ok(&["host", "install-docker", "h", "--yes", "--json"]);
        let done: Operation = serde_json::from_str(&done).unwrap();
        let outcome = done.outcome.unwrap();
        assert_eq!((outcome.did, outcome.docker_version), (Did::Installed, Some(version(docker))));
        let again = world.rig.occ_ok(&["host", "install-docker", "h", "--yes", "--json"]);
        let again: Operation = serde_json::from_str(&again).unwrap();
        let outcome = again.outcome.unwrap();
        assert_eq!((outcome.did, outcome.docker_version), (Did::Installed, Some(version(docker))));
        assert_eq!(outcome.notes, ["it was there already"]);
        assert_eq!(world.ran(), [join]);
        // Where Docker answers there is nothing to be asked, and nobody has to be there.
        let there = world.rig.occ_ok(&["host", "install-docker", "h"]);
        assert!(there.contains("is there already"), "{there}");
    });
}

#[test]
fn a_host_that_is_added_or_tested_is_offered_docker_and_gets_none_unasked() {
    with_engine(|world, docker, _| {
        world.touch("free");
        world.rig.edit_hosts(|file| {
            let host = file.hosts.values().next().unwrap().clone();
            file.hosts.clear();
            let text = serde_json::to_string(&host).unwrap();
            fs::write(world.rig.root().join("h.json"), text).unwrap();
        });
        let text = fs::read_to_string(world.rig.root().join("h.json")).unwrap();
        let host: Value = serde_json::from_str(&text).unwrap();
        let of = |name: &str| host[name].as_str().unwrap().to_owned();
        let at = format!("{}@{}:{}", of("user"), of("hostname"), host["port"]);
        let add = |more: &[&str]| {
            let key = of("identity_file");
            let args = ["host", "add", "n", &at, "-i", &key, "--force"];
            world.rig.occ(&[&args, more].concat())
        };
        // There is a docker program, and so it is taken for a Docker that is down.
        let hint = "Docker there has to start it\n";
        let question = "[n] Run these commands there? [y/N]";
        // Without a terminal, and with somebody who wants no questions.
        let output = add(&[]).output().unwrap();
        assert!(String::from_utf8_lossy(&output.stderr).ends_with(hint), "{output:?}");
        assert!(add(&["--yes"]).output().unwrap().status.success());
        let mut terminal = Terminal::control(&add(&[]), "");
        terminal.answer(question, "n");
        let (screen, code) = terminal.finish();
        assert!(code == 0 && screen.contains("its socket is not there"), "{screen}");
        assert!(screen.ends_with(hint), "{screen}");
        let mut terminal = Terminal::control(&world.rig.occ(&["host", "test", "n"]), "");
        terminal.answer(question, "n");
        assert_eq!(terminal.finish().1, 0);
        assert_eq!(world.ran(), Vec::<String>::new());
        let output = add(&["--install-docker", "--json"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(said["host"]["name"], "n");
        assert_eq!(said["operation"]["outcome"]["docker_version"], version(docker));
        assert_eq!(world.ran().len(), 4);
        // Another time there is nothing to do.
        let output = add(&["--install-docker"]).output().unwrap();
        let done = format!("[n] ✓ Connected (Docker {})\n", version(docker));
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.starts_with(&done), "{output:?}");
        assert_eq!(world.ran().len(), 4);
    });
}
