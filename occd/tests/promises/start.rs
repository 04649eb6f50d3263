//! Starting where something is in the way: it works, or one sentence says what is wrong and what to type.

use std::fs::{self, DirBuilder};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use occ_proto::{Code, Problem};
use serde_json::{Value, json};
use testkit::DaemonRig;
use testkit::daemon::{Output, client_binary};
use testkit::proc::{Process, Signal};
use testkit::require::{require_namespaces, require_root};
use testkit::user::bound_by_modes;
use testkit::wait::blocking::wait_until;

use crate::ask::{GUARD, problem};
use crate::support::sshd;

/// Checks that a command failed for the daemon's sake: exit 3, why, and what to type.
fn told(output: &Output, why: &str, hint: &str) {
    assert_eq!(output.code(), 3, "{output:?}");
    let lines: Vec<&str> = output.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{output:?}");
    assert!(lines[0].starts_with("Error: ") && lines[0].contains(why), "{output:?}");
    assert!(lines[1].starts_with("hint: ") && lines[1].contains(hint), "{output:?}");
}

/// Runs `occ host list` without some variables.
fn list_without(rig: &DaemonRig, variables: &[&str]) -> Output {
    let mut occ = rig.occ(&["host", "list"]);
    variables.iter().for_each(|name| _ = occ.env_remove(name));
    output(&mut occ)
}

pub(crate) fn output(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    Output {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[test]
fn a_lock_that_a_dead_process_left_is_not_in_the_way() {
    let rig = DaemonRig::new();
    let dir = rig.socket().parent().unwrap().to_owned();
    fs::create_dir_all(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    // A number that another process has by now: this one.
    for name in ["occd.lock", "start.lock"] {
        fs::write(dir.join(name), format!("{}\n", std::process::id())).unwrap();
    }
    // And a socket that nobody listens on.
    drop(UnixListener::bind(rig.socket()).unwrap());
    let status = rig.run_occ(&["daemon", "status"]);
    assert_eq!(status.code(), 3, "{status:?}");
    assert!(status.stdout.starts_with("occd is not running"), "{status:?}");
    rig.occ_ok(&["host", "list"]);
    rig.occ_ok(&["daemon", "stop"]);
    assert!(!rig.socket().exists());
}

#[test]
fn without_a_home_one_is_asked_for() {
    let rig = DaemonRig::new();
    let why = "HOME is not set, so there is no place for";
    told(&list_without(&rig, &["HOME"]), why, "export HOME=");
    let all = ["HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME"];
    told(&list_without(&rig, &all), why, "export HOME=");
}

#[test]
fn a_state_directory_that_cannot_be_written_to_is_told() {
    if !require_namespaces(&["--mount"]) {
        return;
    }
    let rig = DaemonRig::new();
    let state = rig.root().join("state");
    let read_only =
        "mount --bind \"$1\" \"$1\" && mount -o remount,ro,bind \"$1\" && exec \"$2\" host list";
    let listed = || {
        let occ = rig.occ(&[]);
        let variables = occ.get_envs().filter_map(|(name, value)| Some((name, value?)));
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", read_only, "sh"]);
        command.arg(&state).arg(client_binary()).env_clear().envs(variables);
        output(command.stdin(Stdio::null()))
    };
    // It is not there, and it is there.
    let dir = state.join("occ");
    told(&listed(), &format!("{}", dir.display()), &format!("{}", dir.display()));
    fs::create_dir(&dir).unwrap();
    told(&listed(), &format!("{}", dir.display()), &format!("{}", dir.display()));
    // Nothing runs, and nothing stays in the way of the next.
    rig.occ_ok(&["host", "list"]);
}

#[test]
fn what_is_said_of_a_state_directory_has_a_daemon_start() {
    for place in ["mode", "file", "link"] {
        let rig = DaemonRig::new();
        let state = rig.paths().state_dir().unwrap();
        fs::create_dir_all(state.parent().unwrap()).unwrap();
        match place {
            "mode" => {
                fs::create_dir(&state).unwrap();
                fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
            }
            "file" => fs::write(&state, "").unwrap(),
            _ => std::os::unix::fs::symlink("away/occ", &state).unwrap(),
        }
        let refused = rig.run_occ(&["daemon", "start"]);
        told(&refused, "occd did not start", ", then: occ daemon start");
        let hint = refused.stderr.lines().nth(1).unwrap();
        let (cure, _) = hint.strip_prefix("hint: ").unwrap().split_once(", then: ").unwrap();
        // A person's umask may let a group write.
        let typed = format!("umask 002; {cure}");
        assert!(Command::new("sh").args(["-c", &typed]).status().unwrap().success(), "{cure}");
        rig.occ_ok(&["daemon", "start"]);
        rig.occ_ok(&["daemon", "stop"]);
    }
}

#[test]
fn what_is_remembered_and_closed_to_this_user_is_not_taken_for_damaged() {
    let rig = DaemonRig::new();
    let state = rig.paths().state_dir().unwrap();
    DirBuilder::new().mode(0o700).recursive(true).create(&state).unwrap();
    fs::create_dir(state.join("history")).unwrap();
    let bound = |args: &[&str]| output(&mut bound_by_modes(&rig.occ(args)));
    for name in ["forwards.json", "occd.lock", "occd.log", "audit.jsonl", "history"] {
        let file = state.join(name);
        if name != "history" {
            fs::write(&file, "").unwrap();
        }
        for (owner, cure) in [(0, "chmod -R u+rwX "), (1, "sudo chown -R \"$(id -un)\" ")] {
            std::os::unix::fs::chown(&file, Some(owner), None).unwrap();
            fs::set_permissions(
                &file,
                fs::Permissions::from_mode(if owner == 0 { 0 } else { 0o700 }),
            )
            .unwrap();
            let refused = bound(&["daemon", "start"]);
            assert_eq!(refused.code(), 3, "{name}: {refused:?}");
            told(&refused, &format!("{} cannot be read and written", file.display()), cure);
            let doctor = bound(&["doctor"]);
            assert!(doctor.stdout.contains(cure), "{name}: {doctor:?}");
        }
        std::os::unix::fs::chown(&file, Some(0), None).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o700)).unwrap();
        if name != "history" {
            fs::remove_file(&file).unwrap();
        }
    }
    // A lock that is none, and one that nobody opens.
    let fifo = Command::new("mkfifo").arg(state.join("occd.lock")).status();
    assert!(fifo.unwrap().success());
    told(&bound(&["daemon", "start"]), "occd.lock cannot be read and written", "mv ");
    fs::remove_file(state.join("occd.lock")).unwrap();
    fs::create_dir(state.join("occd.lock")).unwrap();
    told(&bound(&["daemon", "start"]), "occd.lock cannot be read and written", "mv ");
    fs::remove_dir(state.join("occd.lock")).unwrap();
    // What nobody reads any more keeps nobody from starting.
    fs::write(state.join("forwards.json.damaged"), "").unwrap();
    fs::set_permissions(state.join("forwards.json.damaged"), fs::Permissions::from_mode(0o000))
        .unwrap();
    let started = bound(&["daemon", "start"]);
    assert_eq!(started.code(), 0, "{started:?}");
    rig.occ_ok(&["daemon", "stop"]);
}

#[test]
fn a_lock_of_whoever_starts_that_cannot_be_opened_is_told() {
    let rig = DaemonRig::new();
    let dir = rig.paths().state_dir().unwrap();
    DirBuilder::new().mode(0o700).recursive(true).create(&dir).unwrap();
    let lock = dir.join("start.lock");
    fs::write(&lock, "").unwrap();
    fs::set_permissions(&lock, fs::Permissions::from_mode(0o000)).unwrap();
    let bound = |args: &[&str]| output(&mut bound_by_modes(&rig.occ(args)));
    let cure = format!("mv {0} {0}.old, then: occ daemon start", lock.display());
    told(&bound(&["host", "list"]), "start.lock", &cure);
    let doctor = bound(&["doctor"]);
    assert!(
        doctor.stdout.contains("occ would not start it") && doctor.stdout.contains(&cure),
        "{doctor:?}"
    );
    fs::rename(&lock, dir.join("start.lock.old")).unwrap();
    assert_eq!(bound(&["host", "list"]).code(), 0);
    rig.occ_ok(&["daemon", "stop"]);
}

#[test]
fn a_daemon_is_found_whether_it_was_started_with_a_runtime_directory_or_without() {
    let rig = DaemonRig::new();
    let run = |has_runtime_dir: bool, args: &[&str]| {
        let mut occ = rig.occ(args);
        if !has_runtime_dir {
            occ.env_remove("XDG_RUNTIME_DIR");
        }
        let done = output(&mut occ);
        assert!(done.code() == 0 || args == ["daemon", "status"], "{args:?}: {done:?}");
        done.stdout
    };
    // As from a login and then by cron, and the other way round.
    for first in [true, false] {
        let second = !first;
        run(first, &["daemon", "start"]);
        let process = |status: &str| {
            status.split_once("process ").unwrap().1.split(',').next().unwrap().to_owned()
        };
        let status = run(first, &["daemon", "status"]);
        assert_eq!(process(&run(second, &["daemon", "status"])), process(&status));
        run(second, &["host", "list"]);
        assert!(run(second, &["daemon", "start"]).contains("is already running"));
        let doctor = run(second, &["doctor"]);
        assert!(doctor.contains(&format!("runs, process {}", process(&status))), "{doctor}");
        // What leads to its sockets stays where it is.
        run(second, &["daemon", "restart"]);
        let socket = |status: &str| status.split_once("socket ").unwrap().1.to_owned();
        assert_eq!(socket(&run(first, &["daemon", "status"])), socket(&status));
        // One that is killed leaves a socket behind, which hides nobody.
        let pid = process(&run(first, &["daemon", "status"])).parse().unwrap();
        let killed = Process::find(pid).unwrap();
        killed.signal(Signal::KILL);
        wait_until("its end", GUARD, || killed.is_alive(), |is_alive| !is_alive);
        run(second, &["host", "list"]);
        run(first, &["host", "list"]);
        let status = run(second, &["daemon", "status"]);
        assert_eq!(process(&run(first, &["daemon", "status"])), process(&status));
        assert!(run(first, &["daemon", "stop"]).starts_with("occd stopped"));
        assert!(run(second, &["daemon", "status"]).starts_with("occd is not running"));
    }
}

#[test]
fn clients_with_a_runtime_directory_and_without_start_one_daemon() {
    let rig = DaemonRig::new();
    for _ in 0..2 {
        let codes: Vec<i32> = std::thread::scope(|scope| {
            let list = |client: usize| {
                let mut occ = rig.occ(&["host", "list"]);
                if client.is_multiple_of(2) {
                    occ.env_remove("XDG_RUNTIME_DIR");
                }
                scope.spawn(move || output(&mut occ))
            };
            let all: Vec<_> = (0..16).map(list).collect();
            all.into_iter().map(|one| one.join().unwrap().code()).collect()
        });
        assert_eq!(codes, [0; 16]);
        rig.occ_ok(&["daemon", "stop"]);
    }
}

#[test]
fn a_restart_keeps_the_socket_whoever_comes_meanwhile() {
    let rig = DaemonRig::new();
    let own = rig.root().join("own/occd.sock");
    let occ = |place: usize, args: &[&str]| {
        let mut occ = rig.occ(args);
        match place {
            0 => _ = occ.env_remove("XDG_RUNTIME_DIR"),
            1 => {}
            _ => _ = occ.env("OCC_SOCKET", &own),
        }
        occ
    };
    // From a login, by cron, and with a socket that somebody chose.
    for (first, second) in [(1, 0), (0, 1), (2, 0), (2, 1)] {
        let status = |place| {
            let status = output(&mut occ(place, &["daemon", "status", "--json"])).stdout;
            let status: Value = serde_json::from_str(&status).unwrap();
            (status["socket"].clone(), status["pid"].clone())
        };
        assert_eq!(output(&mut occ(first, &["daemon", "start"])).code(), 0);
        let (socket, mut pid) = status(first);
        std::thread::scope(|scope| {
            let (done, is_done) = std::sync::mpsc::channel::<()>();
            let clients = scope.spawn(move || {
                let (mut count, going) = (0, std::sync::mpsc::TryRecvError::Empty);
                while count == 0 || is_done.try_recv() == Err(going) {
                    let listed = output(&mut occ(second, &["host", "list"]));
                    assert_eq!(listed.code(), 0, "{listed:?}");
                    count += 1;
                }
            });
            for _ in 0..4 {
                let restarted = output(&mut occ(second, &["daemon", "restart"]));
                assert!(restarted.stdout.starts_with("occd restarted"), "{restarted:?}");
                let before = std::mem::replace(&mut pid, status(first).1);
                assert_eq!(status(second), (socket.clone(), pid.clone()));
                assert_ne!(pid, before);
            }
            drop(done);
            clients.join().unwrap();
        });
        assert_eq!(output(&mut occ(first, &["daemon", "stop"])).code(), 0);
    }
}

#[test]
fn a_restart_replaces_no_daemon_of_another_home() {
    let rig = DaemonRig::new();
    rig.occ_ok(&["daemon", "start"]);
    let before = rig.occ_ok(&["daemon", "status", "--json"]);
    let home = rig.root().join("other");
    fs::create_dir(&home).unwrap();
    let elsewhere = |args: &[&str]| {
        let mut occ = rig.occ(args);
        output(occ.env("HOME", &home).env_remove("XDG_STATE_HOME").env_remove("XDG_CONFIG_HOME"))
    };
    told(&elsewhere(&["daemon", "restart"]), "another HOME", "occ daemon restart where it was");
    let settings = output(rig.occ(&["daemon", "restart"]).env("XDG_CONFIG_HOME", &home));
    told(&settings, "its settings in", "occ daemon restart where it was");
    let keys = output(rig.occ(&["daemon", "restart"]).env("HOME", &home));
    told(&keys, "its home in", "occ daemon restart where it was");
    assert_eq!(rig.occ_ok(&["daemon", "status", "--json"]), before);
    // Whoever means it can have one from there.
    assert!(elsewhere(&["daemon", "stop"]).stdout.starts_with("occd stopped"));
    assert_eq!(elsewhere(&["daemon", "start"]).code(), 0);
    assert!(elsewhere(&["daemon", "restart"]).stdout.starts_with("occd restarted"));
    assert!(elsewhere(&["daemon", "stop"]).stdout.starts_with("occd stopped"));
}

#[test]
fn whoever_wants_a_daemon_at_another_socket_is_told_of_the_one_there_is() {
    let rig = DaemonRig::new();
    rig.occ_ok(&["daemon", "start"]);
    let own = rig.root().join("own/occd.sock");
    for _ in 0..3 {
        std::thread::scope(|scope| {
            let list = |_| {
                let mut occ = rig.occ(&["host", "list"]);
                occ.env("OCC_SOCKET", &own);
                scope.spawn(move || output(&mut occ))
            };
            for client in (0..8).map(list).collect::<Vec<_>>() {
                told(&client.join().unwrap(), "another occd", "uses that one");
            }
        });
        assert!(!own.exists());
    }
    rig.occ_ok(&["daemon", "stop"]);
}

#[test]
fn a_daemon_that_has_lost_its_state_is_replaced() {
    let rig = DaemonRig::new();
    rig.occ_ok(&["daemon", "start"]);
    fs::remove_dir_all(rig.paths().state_dir().unwrap()).unwrap();
    assert!(rig.occ_ok(&["daemon", "restart"]).starts_with("occd restarted"));
    assert!(rig.occ_ok(&["daemon", "stop"]).starts_with("occd stopped"));
}

#[test]
fn a_restart_loses_no_hosts_whose_file_is_broken() {
    let Some((_sshd, rig)) = sshd() else { return };
    rig.occ_ok(&["daemon", "start"]);
    let before = rig.occ_ok(&["daemon", "status", "--json"]);
    let file = rig.paths().config_dir().unwrap().join("hosts.json");
    let hosts = fs::read(&file).unwrap();
    fs::write(&file, "{").unwrap();
    told(&rig.run_occ(&["daemon", "restart"]), "hosts.json does not parse", "mend that file");
    assert!(rig.occ_ok(&["host", "list"]).contains("h "));
    fs::write(&file, hosts).unwrap();
    let status: Value = serde_json::from_str(&before).unwrap();
    let now = rig.occ_ok(&["daemon", "status", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&now).unwrap()["pid"], status["pid"]);
    rig.occ_ok(&["daemon", "restart"]);
}

#[test]
fn a_daemon_that_nobody_finds_any_more_ends() {
    let rig = DaemonRig::new();
    for _ in 0..2 {
        rig.occ_ok(&["daemon", "start"]);
        let daemon = Process::find(rig.daemon_pid()).unwrap();
        let run = rig.socket().parent().unwrap().to_owned();
        fs::remove_dir_all(&run).unwrap();
        fs::remove_dir_all(rig.paths().state_dir().unwrap()).unwrap();
        // Another one starts beside it.
        rig.occ_ok(&["host", "list"]);
        wait_until("its end", GUARD, || daemon.is_alive(), |is_alive| !is_alive);
        assert!(rig.socket().exists());
        rig.occ_ok(&["daemon", "stop"]);
    }
}

#[test]
fn whoever_waits_for_another_to_start_it_says_so() {
    let rig = DaemonRig::new();
    rig.occ_ok(&["daemon", "start"]);
    rig.occ_ok(&["daemon", "stop"]);
    let path = rig.paths().state_dir().unwrap().join("start.lock");
    // Who had it last.
    fs::write(&path, "7\n").unwrap();
    let lock = fs::File::open(&path).unwrap();
    lock.lock().unwrap();
    let mut occ = rig.occ(&["host", "list"]);
    let mut occ = occ.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(occ.stderr.as_mut().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(
        said,
        format!("Waiting: process 7 starts or replaces occd (it holds {}).\n", path.display())
    );
    drop(lock);
    assert!(occ.wait().unwrap().success());
    assert_ne!(fs::read_to_string(&path).unwrap(), "7\n");
    rig.occ_ok(&["daemon", "stop"]);
}

#[test]
fn a_daemon_that_has_lost_the_directory_of_its_socket_is_replaced_as_is_said() {
    let rig = DaemonRig::new();
    for command in ["restart", "stop"] {
        rig.occ_ok(&["daemon", "start"]);
        fs::remove_dir_all(rig.socket().parent().unwrap()).unwrap();
        told(
            &rig.run_occ(&["host", "list"]),
            "another occd",
            "its socket is gone: occ daemon restart",
        );
        let doctor = rig.run_occ(&["doctor"]).stdout;
        assert!(
            doctor.contains("nobody listens on") && doctor.contains("occ daemon restart"),
            "{doctor}"
        );
        // Whoever comes without a runtime directory can do so as well.
        for has_runtime_dir in [true, false] {
            let mut occ = rig.occ(&["daemon", command]);
            if !has_runtime_dir {
                occ.env_remove("XDG_RUNTIME_DIR");
            }
            let done = output(&mut occ);
            assert!(done.code() == 0 && !done.stdout.contains("is not running"), "{done:?}");
            rig.occ_ok(&["host", "list"]);
            fs::remove_dir_all(rig.socket().parent().unwrap()).unwrap();
        }
        rig.occ_ok(&["daemon", "stop"]);
    }
}

#[test]
fn a_restart_that_could_not_start_leaves_the_daemon_that_works() {
    let rig = DaemonRig::new();
    rig.occ_ok(&["daemon", "start"]);
    let before = rig.occ_ok(&["daemon", "status", "--json"]);
    let lock = rig.paths().state_dir().unwrap().join("start.lock");
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    let cure = format!("mv {0} {0}.old, then: occ daemon restart", lock.display());
    told(&rig.run_occ(&["daemon", "restart"]), "occd is not restarted", &cure);
    assert!(rig.run_occ(&["doctor"]).stdout.contains(&cure));
    assert_eq!(rig.occ_ok(&["daemon", "status", "--json"]), before);
    fs::rename(&lock, lock.with_extension("old")).unwrap();
    rig.occ_ok(&["daemon", "restart"]);
    rig.occ_ok(&["daemon", "stop"]);
}

#[test]
fn root_starts_no_daemon_in_what_is_another_users() {
    if !require_root("a directory of another user's") {
        return;
    }
    let rig = DaemonRig::new();
    let state = rig.paths().state_dir().unwrap();
    let place = state.parent().unwrap();
    fs::create_dir_all(place).unwrap();
    std::os::unix::fs::chown(place, Some(1), None).unwrap();
    fs::write(rig.root().join(".occ.toml"), "host = \"h\"\n").unwrap();
    let in_project = |args: &[&str]| output(rig.occ(args).current_dir(rig.root()));
    told(&in_project(&["allow"]), "belongs to user 1", "without sudo");
    assert!(!state.exists());
    for args in
        [&["host", "list"][..], &["daemon", "start"], &["daemon", "run"], &["daemon", "install"]]
    {
        told(&rig.run_occ(args), "belongs to user 1", "without sudo");
        assert!(!state.exists() && !rig.socket().exists());
    }
    let doctor = rig.run_occ(&["doctor"]);
    assert!(doctor.code() == 1 && doctor.stdout.contains("belongs to user 1"), "{doctor:?}");
    let occd = output(&mut rig.occd(&[]));
    assert!(occd.code() == 1 && occd.stderr.contains("without sudo"), "{occd:?}");
    assert!(!state.exists() && !rig.socket().exists());
    std::os::unix::fs::chown(place, Some(0), None).unwrap();
}

#[test]
fn what_cannot_be_remembered_is_refused_with_what_to_look_at() {
    let Some((_sshd, rig)) = sshd() else { return };
    let state = rig.paths().state_dir().unwrap();
    // What is in the place of a file cannot be replaced by one: root may do the rest.
    for (file, args) in [
        ("sessions.json", &["session", "start", "--host", "h", "--", "true"][..]),
        ("forwards.json", &["forward", "add", "--host", "h", "-L", "0:localhost:1"]),
        ("grants.json", &["grant", "--host", "h", "--allow", "read", "--ttl", "1h", "--name", "g"]),
        ("docker-sockets.json", &["docker-socket", "--host", "h"]),
        ("used.json", &["disconnect", "--host", "h"]),
    ] {
        fs::create_dir_all(state.join(file).join("in-the-way")).unwrap();
        let output = rig.run_occ(&[&["--json"], args].concat());
        assert_eq!(output.code(), 1, "{output:?}");
        let problem: Problem = serde_json::from_str(&output.stderr).unwrap();
        assert_eq!(problem.code, Code::StateWrite, "{problem:?}");
        let output = rig.run_occ(args);
        let hint = format!("hint: df -h {0}; ls -ld {0}", state.display());
        assert!(output.stderr.contains(&hint), "{output:?}");
    }
    fs::create_dir_all(state.join("requests.jsonl")).unwrap();
    let key = [("idempotency-key", "k")];
    let keyed = rig.http("POST", "/v1/hosts/h/exec", &key, Some(json!({ "argv": ["true"] })));
    assert_eq!(problem(&keyed).code, Code::StateWrite, "{}", keyed.text());
}

#[test]
fn a_daemon_that_could_not_start_again_is_not_stopped_for_that() {
    let mut rig = DaemonRig::new();
    rig.set_env("OCCD_BIN", testkit::daemon::daemon_binary());
    rig.occ_ok(&["daemon", "start"]);
    let pid = rig.daemon_pid();
    let config = rig.root().join("config/opencode-cloud/occd.toml");
    fs::create_dir_all(config.parent().unwrap()).unwrap();
    fs::write(&config, "[x").unwrap();
    let output = rig.run_occ(&["daemon", "restart"]);
    assert_eq!(output.code(), 3, "{output:?}");
    assert!(output.stderr.contains("occd is not restarted: "), "{output:?}");
    assert!(output.stderr.contains("occd.toml, line 1"), "{output:?}");
    assert_eq!(rig.daemon_pid(), pid);
    fs::remove_file(&config).unwrap();
    // It would hang whoever waits for it to be written.
    assert!(Command::new("mkfifo").arg(&config).status().unwrap().success());
    let output = rig.run_occ(&["daemon", "restart"]);
    assert!(output.code() == 3 && output.stderr.contains("it is not a file"), "{output:?}");
    fs::remove_file(&config).unwrap();
    // Programs that are none: of a copy that was cut short, for one.
    let program = rig.root().join("occd");
    for (text, mode, words) in [
        ("#!/bin/sh\nexit 1\n", 0o700, "says nothing (exit status: 1)"),
        ("#!/bin/sh\nexit 0\n", 0o700, "is no occd"),
        ("\u{7f}ELF", 0o700, "Exec format error"),
        ("", 0o600, "Permission denied"),
    ] {
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(mode)).unwrap();
        rig.set_env("OCCD_BIN", &program);
        let output = rig.run_occ(&["daemon", "restart"]);
        assert_eq!(output.code(), 3, "{output:?}");
        assert!(output.stderr.contains("occd is not restarted: "), "{output:?}");
        assert!(output.stderr.contains(words), "{output:?}");
        assert_eq!(rig.daemon_pid(), pid);
    }
    rig.set_env("OCCD_BIN", testkit::daemon::daemon_binary());
    rig.occ_ok(&["daemon", "restart"]);
    assert_ne!(rig.daemon_pid(), pid);
    rig.occ_ok(&["daemon", "stop"]);
}

#[test]
fn a_umask_that_takes_everything_away_is_in_nobodys_way() {
    let mut rig = DaemonRig::new();
    rig.set_env("OCCD_BIN", testkit::daemon::daemon_binary());
    let occ = rig.occ(&[]);
    let variables = occ.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let mut command = Command::new("sh");
    command.args(["-c", "umask 0777; exec \"$0\" host list"]).arg(client_binary());
    command.env_clear().envs(variables).stdin(Stdio::null());
    let listed = output(&mut command);
    assert_eq!(listed.code(), 0, "{listed:?}");
    let mode = fs::metadata(rig.socket().parent().unwrap()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    rig.occ_ok(&["daemon", "stop"]);
}

#[test]
fn a_socket_of_somebody_elses_is_not_used() {
    if !require_root("a process of another user") {
        return;
    }
    let rig = DaemonRig::new();
    let dir = rig.socket().parent().unwrap().to_owned();
    fs::create_dir_all(&dir).unwrap();
    // As if it had been open for a moment.
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(rig.root(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(rig.root().join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    let listen = "import socket, sys, time\n\
                  s = socket.socket(socket.AF_UNIX)\ns.bind(sys.argv[1])\ns.listen()\n\
                  print('up', flush=True)\nsys.stdin.read()";
    let Ok(mut other) = Command::new("python3")
        .args(["-c", listen])
        .arg(rig.socket())
        .uid(65534)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
    else {
        return;
    };
    let mut line = String::new();
    let stdout = other.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
    assert_eq!(line, "up\n");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    let refused = rig.run_occ(&["host", "list"]);
    assert!(refused.stderr.contains("runs as user 65534, not as you"), "{refused:?}");
    told(&refused, "not used", "rm ");
    other.kill().unwrap();
    other.wait().unwrap();
    // Nobody is behind it any more, so whoever has the lock may take it away.
    rig.occ_ok(&["host", "list"]);
}
