//! `occ doctor` works where nothing else does, says what to type, and never hangs.

#![allow(clippy::unwrap_used, reason = "a failing fixture is a failing test")]

mod common;

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::thread;

use common::{Answer, Done, Fake, ago, broken, connected, list, occ, private_dir, run};
use serde_json::{Value, json};
use testkit::require::require_namespaces;
use testkit::user::bound_by_modes;

fn doctor(home: &Path, args: &[&str]) -> Command {
    occ(&[&["doctor"], args].concat(), home)
}

/// Returns the lines of a check, as `--json` has them. Whatever is not well has something to do about it.
fn findings(done: &Done, check: &str) -> Vec<Value> {
    let report: Value = serde_json::from_str(&done.out).unwrap();
    for found in report["checks"].as_array().unwrap() {
        assert!(found["level"] == "ok" || found["hint"].is_string(), "{found}");
    }
    let failed = report["checks"].as_array().unwrap().iter().any(|one| one["level"] == "failed");
    assert_eq!((report["ok"] == true, done.code == 0), (!failed, !failed), "{done:?}");
    let checks = report["checks"].as_array().unwrap().iter();
    checks.filter(|one| one["check"] == check).cloned().collect()
}

fn only(done: &Done, check: &str) -> Value {
    let mut found = findings(done, check);
    assert_eq!(found.len(), 1, "{check}: {done:?}");
    found.remove(0)
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Makes the configuration directory with a file in it.
fn config(home: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let dir = home.join(".config/opencode-cloud");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join(name), text).unwrap();
    set_mode(&dir.join(name), 0o600);
    dir.join(name)
}

#[test]
fn a_machine_on_which_nothing_is_set_up_is_well_and_stays_as_it_is() {
    let home = private_dir();
    let done = run(&mut doctor(home.path(), &["--json"]));
    assert_eq!(only(&done, "daemon")["level"], "warning", "autostart is off here: {done:?}");
    assert_eq!(only(&done, "hosts.json")["hint"], "occ setup");
    assert_eq!(only(&done, "files")["level"], "ok");
    assert_eq!(only(&done, "disk")["check"], "disk");
    let done = run(doctor(home.path(), &[]).env_remove("OCC_NO_AUTOSTART"));
    assert!(done.out.contains("✓ daemon       not running"), "{done:?}");
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "nothing was made");
}

#[cfg(target_os = "linux")]
#[test]
fn the_disk_of_the_hosts_is_looked_at_where_it_is_another() {
    let home = private_dir();
    // A file system without any room (proc(5)).
    let done = run(doctor(home.path(), &["--json"]).env("XDG_CONFIG_HOME", "/proc"));
    let found = findings(&done, "disk");
    assert_eq!(found.len(), 2, "{done:?}");
    assert_eq!((&found[1]["level"], &found[1]["hint"]), (&json!("failed"), &json!("df -h /proc")));
}

#[test]
fn without_home_it_says_so_and_goes_on() {
    let done = run(doctor(Path::new("/"), &["--json"]).env_remove("HOME"));
    assert_eq!(only(&done, "socket")["level"], "failed");
    assert_eq!(only(&done, "files")["level"], "failed");
    assert_eq!(findings(&done, "ssh").len(), 1);
}

#[test]
fn the_directory_that_is_in_the_way_is_the_one_to_look_at() {
    if !testkit::require::require_root("to make a directory somebody else's") {
        return;
    }
    let top = private_dir();
    let others = top.path().join("others");
    std::fs::create_dir(&others).unwrap();
    std::os::unix::fs::chown(&others, Some(65534), None).unwrap();
    set_mode(&others, 0o755);
    let done = run(&mut bound_by_modes(&doctor(&others.join("no/where"), &["--json"])));
    for check in ["state", "config"] {
        let finding = only(&done, check);
        let detail = finding["detail"].as_str().unwrap();
        let hint = finding["hint"].as_str().unwrap();
        assert!(detail.starts_with(&format!("{} cannot be written", others.display())), "{detail}");
        let look = format!("ls -ld {}", others.display());
        assert!(hint == look || hint.starts_with(&format!("{look};")), "{hint}");
    }
}

#[test]
fn a_relative_socket_is_told_with_what_to_set_instead() {
    let home = private_dir();
    let done = run(doctor(home.path(), &["--json"]).env("OCC_SOCKET", "here/occd.sock"));
    let found = only(&done, "socket");
    assert!(found["detail"].as_str().unwrap().contains("must be absolute"), "{found}");
    let hint = found["hint"].as_str().unwrap();
    assert!(hint.starts_with("export OCC_SOCKET=\"$PWD/here/occd.sock\""), "{found}");
    let listed = run(occ(&["status"], home.path()).env("OCC_SOCKET", "here/occd.sock"));
    assert!(listed.code == 2 && listed.err.contains(hint), "{listed:?}");
}

#[test]
fn a_directory_in_which_no_daemon_would_start_is_told_by_all_alike() {
    let home = private_dir();
    let dir = home.path().join("run");
    std::fs::create_dir(&dir).unwrap();
    set_mode(&dir, 0o711);
    let socket = dir.join("occd.sock");
    let done = run(doctor(home.path(), &["--json"]).env("OCC_SOCKET", &socket));
    let found = only(&done, "socket");
    let hint = format!("chmod 700 {}", dir.display());
    assert_eq!((&found["level"], &found["hint"]), (&json!("failed"), &json!(hint)), "{found}");
    let mut listed = occ(&["status"], home.path());
    let listed = run(listed.env("OCC_SOCKET", &socket).env_remove("OCC_NO_AUTOSTART"));
    assert!(listed.code == 3 && listed.err.contains(&hint), "{listed:?}");
}

#[test]
fn a_relative_home_is_told_as_what_it_is() {
    let done = run(doctor(Path::new("/"), &["--json"]).env("HOME", "here"));
    for check in ["socket", "files", "known_hosts"] {
        let found = only(&done, check);
        let detail = found["detail"].as_str().unwrap();
        assert!(detail.contains("HOME is \"here\", which is not an absolute path"), "{detail}");
    }
    // Also where only the daemon's program needs it.
    let run_dir = private_dir();
    for home in [Some("here"), None] {
        let mut start = occ(&["daemon", "start"], Path::new("/"));
        start.env_remove("HOME").envs(home.map(|home| ("HOME", home)));
        let done = run(start.env("XDG_RUNTIME_DIR", run_dir.path()));
        assert!(done.code == 3 && done.err.contains("export HOME="), "{done:?}");
    }
}

#[test]
fn a_runtime_directory_that_cannot_be_made_is_told_with_the_variable() {
    let (home, closed) = (private_dir(), private_dir());
    set_mode(closed.path(), 0o500);
    let set = |mut command: Command| {
        run(&mut bound_by_modes(command.env("XDG_RUNTIME_DIR", closed.path().join("none"))))
    };
    let done = set(occ(&["daemon", "start"], home.path()));
    assert!(done.code == 3 && done.err.contains("unset XDG_RUNTIME_DIR"), "{done:?}");
    let found = only(&set(doctor(home.path(), &["--json"])), "daemon");
    assert!(found["hint"].as_str().unwrap().starts_with("unset XDG_RUNTIME_DIR"), "{found}");
}

#[test]
fn a_known_hosts_that_others_may_write_is_read_and_warned_of() {
    let home = private_dir();
    let file = home.path().join(".ssh/known_hosts");
    std::fs::create_dir(home.path().join(".ssh")).unwrap();
    std::fs::write(&file, "").unwrap();
    set_mode(&file, 0o666);
    let found = only(&run(&mut doctor(home.path(), &["--json"])), "known_hosts");
    let hint = format!("chmod go-w {}", file.display());
    assert_eq!((&found["level"], &found["hint"]), (&json!("warning"), &json!(hint)), "{found}");
}

#[test]
fn settings_that_are_too_large_are_told_as_that() {
    let home = private_dir();
    let file = config(home.path(), "occd.toml", "");
    std::fs::File::options().write(true).open(&file).unwrap().set_len(8 << 30).unwrap();
    let found = only(&run(&mut doctor(home.path(), &["--json"])), "occd.toml");
    assert!(found["detail"].as_str().unwrap().ends_with("is larger than 1 MiB"), "{found}");
    assert!(found["hint"].as_str().unwrap().starts_with("mv "), "{found}");
}

#[test]
fn a_known_hosts_that_keeps_nothing_is_as_somebody_wants_it() {
    let home = private_dir();
    let ssh = home.path().join(".ssh");
    std::fs::create_dir(&ssh).unwrap();
    std::fs::write(ssh.join("config"), "UserKnownHostsFile /dev/null\n").unwrap();
    let found = only(&run(&mut doctor(home.path(), &["--json"])), "known_hosts");
    assert_eq!((&found["level"], &found["hint"]), (&json!("ok"), &json!(null)), "{found}");
    assert!(found["detail"].as_str().unwrap().starts_with("/dev/null"), "{found}");
}

#[test]
fn a_known_hosts_that_every_connection_refuses_has_failed() {
    let home = private_dir();
    let ssh = home.path().join(".ssh");
    std::fs::create_dir(&ssh).unwrap();
    let looked = || {
        let done = run(&mut bound_by_modes(&doctor(home.path(), &["--json"])));
        only(&done, "known_hosts")
    };
    let refused = |file: &Path| {
        for (kind, words, cure) in [
            ("directory", "is not a file", "mv FILE FILE.old"),
            ("pipe", "is not a file", "mv FILE FILE.old"),
            ("large", "is larger than 16 MiB", "mv FILE FILE.old"),
            ("closed", "cannot be read: Permission denied", "chmod u+rw FILE"),
        ] {
            match kind {
                "directory" => std::fs::create_dir(file).unwrap(),
                "pipe" => {
                    assert!(Command::new("mkfifo").arg(file).status().unwrap().success());
                }
                _ => std::fs::write(file, "").unwrap(),
            }
            match kind {
                "large" => {
                    let opened = std::fs::OpenOptions::new().write(true).open(file).unwrap();
                    opened.set_len(16 * 1024 * 1024 + 1).unwrap();
                }
                "closed" => set_mode(file, 0),
                _ => {}
            }
            let found = looked();
            let detail = found["detail"].as_str().unwrap();
            assert!(detail.contains(words) && detail.ends_with("no host is dialled"), "{found}");
            let hint = cure.replace("FILE", &file.display().to_string());
            assert_eq!((&found["level"], &found["hint"]), (&json!("failed"), &json!(hint)));
            match kind {
                "directory" => std::fs::remove_dir(file).unwrap(),
                _ => std::fs::remove_file(file).unwrap(),
            }
            assert_eq!(looked()["level"], "ok", "{kind}");
        }
    };
    refused(&ssh.join("known_hosts"));
    refused(&ssh.join("known_hosts2"));
    // Where ssh_config names others, it is they that are read.
    std::fs::create_dir(ssh.join("known_hosts2")).unwrap();
    let other = ssh.join("others");
    let line = format!("UserKnownHostsFile {}\n", other.display());
    std::fs::write(ssh.join("config"), line).unwrap();
    refused(&other);
}

#[test]
fn a_configuration_that_ssh_refuses_is_told_in_its_own_words() {
    let home = private_dir();
    let ssh = home.path().join(".ssh");
    std::fs::create_dir(&ssh).unwrap();
    let file = ssh.join("config");
    std::fs::write(&file, "Host a\n").unwrap();
    assert_eq!(only(&run(&mut doctor(home.path(), &["--json"])), "ssh")["level"], "ok");
    std::fs::write(&file, "Bogus yes\n").unwrap();
    let found = only(&run(&mut doctor(home.path(), &["--json"])), "ssh");
    let detail = found["detail"].as_str().unwrap();
    let words = format!("{}: line 1: Bad configuration option: bogus", file.display());
    assert!(found["level"] == "failed" && detail.contains(&words), "{found}");
    assert_eq!(found["hint"], json!(format!("ssh -G -F {} localhost", file.display())));
}

#[test]
fn a_configuration_over_which_ssh_hangs_holds_nothing_up() {
    let home = private_dir();
    let bin = home.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let script = "#!/bin/sh\ncase \"$1 $2\" in -V*) echo OpenSSH >&2;; '-G -F') ;; *) exec sleep 60;; esac\n";
    std::fs::write(bin.join("ssh"), script).unwrap();
    set_mode(&bin.join("ssh"), 0o755);
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let found = only(&run(doctor(home.path(), &["--json"]).env("PATH", path)), "ssh");
    assert!(found["detail"].as_str().unwrap().contains("does not answer"), "{found}");
    assert_eq!(found["hint"], "ssh -G localhost");
}

#[test]
fn places_that_cannot_be_written_are_told() {
    if !require_namespaces(&["--mount", "--map-root-user"]) {
        return;
    }
    let home = private_dir();
    let made = home.path().join(".local/state/occ");
    for is_made in [false, true] {
        if is_made {
            std::fs::create_dir_all(&made).unwrap();
            set_mode(&made, 0o700);
        }
        let plain = doctor(home.path(), &["--json"]);
        let mut mounted = Command::new("unshare");
        mounted.args(["--mount", "--map-root-user", "sh", "-ec"]);
        mounted.arg(
            "mount --bind \"$HOME\" \"$HOME\"; mount -o remount,bind,ro \"$HOME\"; exec \"$@\"",
        );
        mounted.arg("sh").arg(plain.get_program()).args(plain.get_args()).env_clear();
        mounted.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let done = run(&mut mounted);
        let state = only(&done, "state");
        assert_eq!(state["level"], "failed", "{done:?}");
        assert!(state["detail"].as_str().unwrap().contains("Read-only file system"), "{state}");
        assert_eq!(only(&done, "daemon")["level"], "failed", "{done:?}");
        let config = findings(&done, "config");
        assert!(config.len() == 1 && config[0]["level"] == "warning", "{done:?}");
    }
}

#[test]
fn broken_files_are_named_with_what_to_do() {
    let home = private_dir();
    let hosts = config(home.path(), "hosts.json", "{\n  \"hosts\": 1\n}");
    config(home.path(), "occd.toml", "[connection]\nretries = = 3\n");
    let done = run(&mut doctor(home.path(), &["--json"]));
    let found = only(&done, "hosts.json");
    assert!(found["level"] == "failed" && found["detail"].as_str().unwrap().contains("line 2"));
    assert!(only(&done, "occd.toml")["detail"].as_str().unwrap().contains("occd.toml:2: "));
    // On a terminal or in a pipe it is the same, in words. This machine's Docker is another matter.
    let done = run(doctor(home.path(), &[]).env("DOCKER_HOST", "tcp://127.0.0.1:1"));
    assert!(
        done.out.contains("✗ hosts.json") && done.out.contains("  hint: mend it: "),
        "{done:?}"
    );
    // The daemon, which would not start with them, and both files.
    assert!(done.out.ends_with("Failed: 3; warnings: 0.\n"), "{done:?}");
    let quiet = run(&mut doctor(home.path(), &["-q"]));
    assert!(quiet.code == 1 && !quiet.out.contains('✓'), "{quiet:?}");

    std::fs::write(&hosts, r#"{"version":1,"hosts":{}}"#).unwrap();
    set_mode(&hosts, 0o666);
    let found = only(&run(&mut doctor(home.path(), &["--json"])), "hosts.json");
    assert_eq!(found["hint"], json!(format!("chmod go-w {}", hosts.display())));
    let secret = config(home.path(), "age-identity.txt", "AGE-SECRET-KEY-1");
    set_mode(&secret, 0o644);
    let found = only(&run(&mut doctor(home.path(), &["--json"])), "secrets");
    assert!(found["level"] == "failed" && found["hint"].as_str().unwrap().starts_with("chmod go="));
}

#[test]
fn hosts_that_cannot_be_read_have_failed() {
    let home = private_dir();
    let hosts = config(home.path(), "hosts.json", r#"{"version":1,"hosts":{}}"#);
    set_mode(&hosts, 0);
    let found = only(&run(&mut bound_by_modes(&doctor(home.path(), &["--json"]))), "hosts.json");
    let words = format!("{} cannot be read: Permission denied", hosts.display());
    assert!(found["detail"].as_str().unwrap().starts_with(&words), "{found}");
    let hint = format!("chmod u+rw {}", hosts.display());
    assert_eq!((&found["level"], &found["hint"]), (&json!("failed"), &json!(hint)));
    set_mode(&hosts, 0o400);
    let found = only(&run(&mut bound_by_modes(&doctor(home.path(), &["--json"]))), "hosts.json");
    assert_eq!((&found["level"], &found["hint"]), (&json!("warning"), &json!(hint)), "{found}");
}

#[test]
fn what_keeps_a_daemon_from_starting_and_a_login_from_being_made_is_told_before() {
    let home = private_dir();
    config(home.path(), "occd.toml", "foo = 1\n");
    let ssh = home.path().join(".ssh");
    std::fs::create_dir(&ssh).unwrap();
    std::fs::write(ssh.join("config"), "Host a\n").unwrap();
    set_mode(&ssh.join("config"), 0o666);
    let done = run(&mut doctor(home.path(), &["--json"]));
    let found = only(&done, "daemon");
    let detail = found["detail"].as_str().unwrap();
    assert!(found["level"] == "failed" && detail.contains("unknown field `foo`"), "{detail}");
    let found = only(&done, "ssh_config");
    assert_eq!(found["hint"], json!(format!("chmod go-w {}", ssh.join("config").display())));
}

/// Returns what the daemon's line says of a home in which none would start, having checked that a start says the same.
fn would_not_start(home: &Path) -> String {
    let before = tree(home);
    let done = run(&mut bound_by_modes(&doctor(home, &["--json"])));
    let found = only(&done, "daemon");
    assert!(found["level"] == "failed" && found["hint"].is_string(), "{found}");
    assert_eq!(tree(home), before, "nothing is changed by looking");
    let detail = found["detail"].as_str().unwrap();
    let (_, why) = detail.split_once("it would not start: ").unwrap();
    let started = run(&mut bound_by_modes(&occ(&["daemon", "start"], home)));
    let cause = why.rsplit(": ").next().unwrap();
    assert!(started.code == 3 && started.err.contains(cause), "{cause}: {started:?}");
    why.to_owned()
}

/// Returns the names of all that is in a directory.
fn tree(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> = entries
        .flat_map(|path| {
            let below = if path.is_dir() && !path.is_symlink() { tree(&path) } else { Vec::new() };
            [vec![path], below].concat()
        })
        .collect();
    all.sort();
    all
}

#[test]
fn what_is_in_the_place_of_the_socket_is_told_before_a_start() {
    for is_dir in [false, true] {
        let home = private_dir();
        let run_dir = home.path().join(".local/state/occ/run");
        std::fs::create_dir_all(&run_dir).unwrap();
        for dir in [run_dir.parent().unwrap(), &run_dir] {
            set_mode(dir, 0o700);
        }
        let socket = run_dir.join("occd.sock");
        match is_dir {
            true => std::fs::create_dir(&socket).unwrap(),
            false => std::fs::write(&socket, "").unwrap(),
        }
        let why = would_not_start(home.path());
        assert!(why.ends_with("occd.sock exists and is not a socket; move it away"), "{why}");
        let hint = format!("mv {0} {0}.old, then: occ daemon start", socket.display());
        let found = only(&run(&mut doctor(home.path(), &["--json"])), "daemon");
        assert_eq!(found["hint"], json!(hint));
        let started = run(&mut occ(&["daemon", "start"], home.path()));
        assert!(started.err.contains(&hint), "{started:?}");
    }
}

#[test]
fn a_log_that_cannot_be_written_is_told_before_a_start() {
    for (is_link, words) in [(false, "Is a directory"), (true, "it is a symbolic link")] {
        let home = private_dir();
        let state = home.path().join(".local/state/occ");
        std::fs::create_dir_all(&state).unwrap();
        set_mode(&state, 0o700);
        let log = state.join("occd.log");
        match is_link {
            true => std::os::unix::fs::symlink("elsewhere", &log).unwrap(),
            false => std::fs::create_dir(&log).unwrap(),
        }
        let why = would_not_start(home.path());
        assert!(why.contains("occd.log cannot be written") && why.contains(words), "{why}");
    }
}

#[test]
fn a_directory_that_cannot_be_written_is_told_before_a_start() {
    // The state directory, and the home in which it is to be.
    for (name, has_socket_elsewhere) in
        [(".local/state/occ", true), (".local/state/occ", false), ("", false)]
    {
        let home = private_dir();
        let dir = home.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        set_mode(&dir, 0o500);
        let runtime = private_dir();
        let done = match has_socket_elsewhere {
            true => {
                let mut plain = doctor(home.path(), &["--json"]);
                plain.env("XDG_RUNTIME_DIR", runtime.path());
                only(&run(&mut bound_by_modes(&plain)), "daemon")["detail"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            }
            false => would_not_start(home.path()),
        };
        set_mode(&dir, 0o700);
        assert!(done.contains("Permission denied"), "{done}");
    }
}

#[test]
fn a_state_directory_that_cannot_be_used_is_told_by_all_with_what_makes_it_usable() {
    for (place, words, cure) in [
        ("0777", "written by others (mode 0777)", "chmod go-w STATE"),
        ("0000", "(mode 0000)", "chmod u+rwx STATE"),
        ("0200", "(mode 0200)", "chmod u+rwx STATE"),
        ("file", "is no directory", "mv STATE STATE.old"),
        ("link", "leads nowhere", "mkdir -p TARGET && chmod 700 TARGET"),
        ("links", "leads nowhere", "mkdir -p TARGET && chmod 700 TARGET"),
    ] {
        let (home, runtime) = (private_dir(), private_dir());
        let state = home.path().join(".local/state/occ");
        std::fs::create_dir_all(state.parent().unwrap()).unwrap();
        match (place, u32::from_str_radix(place, 8)) {
            (_, Ok(mode)) => {
                std::fs::create_dir(&state).unwrap();
                set_mode(&state, mode);
            }
            ("file", _) => std::fs::write(&state, "").unwrap(),
            ("links", _) => {
                std::os::unix::fs::symlink("between", &state).unwrap();
                std::os::unix::fs::symlink("away/occ", state.with_file_name("between")).unwrap();
            }
            _ => std::os::unix::fs::symlink("away/occ", &state).unwrap(),
        }
        let target = state.with_file_name("away").join("occ");
        let shown = |path: &Path| path.display().to_string();
        let cure = cure.replace("STATE", &shown(&state)).replace("TARGET", &shown(&target));
        for has_socket_elsewhere in [true, false] {
            let bound = |args: &[&str]| {
                let mut plain = occ(args, home.path());
                if has_socket_elsewhere {
                    plain.env("XDG_RUNTIME_DIR", runtime.path());
                }
                run(&mut bound_by_modes(&plain))
            };
            let done = bound(&["doctor", "--json"]);
            let found = only(&done, "state");
            assert_eq!((&found["level"], &found["hint"]), (&json!("failed"), &json!(cure)));
            assert!(found["detail"].as_str().unwrap().contains(words), "{found}");
            // Where the socket is to be in it, that is what is found first.
            let then = json!(format!("{cure}, then: occ daemon start"));
            let daemon = [findings(&done, "daemon"), findings(&done, "socket")].concat();
            assert_eq!((daemon.len(), &daemon[0]["hint"]), (1, &then), "{place}: {daemon:?}");
            let started = bound(&["daemon", "start"]);
            let hint = format!("hint: {}", then.as_str().unwrap());
            assert!(started.code == 3 && started.err.contains(&hint), "{place}: {started:?}");
        }
        // The directory of the test is to be removed.
        if state.is_dir() {
            set_mode(&state, 0o700);
        }
    }
}

#[test]
fn a_closed_directory_of_settings_is_told_as_such_and_not_by_each_file_in_it() {
    // Whose it is, whether it is the usual one, and the cure.
    for (owner, is_usual, cure) in [
        (0, true, "chmod u+rwx DIR"),
        (0, false, "chmod u+rwx DIR"),
        (1, true, "sudo chown -R \"$(id -un)\" DIR"),
        (1, false, "export XDG_CONFIG_HOME=DIRECTORY, with one of yours"),
    ] {
        let (home, elsewhere) = (private_dir(), private_dir());
        let dir = match is_usual {
            true => home.path().join(".config"),
            false => elsewhere.path().join("config"),
        };
        std::fs::create_dir(&dir).unwrap();
        std::os::unix::fs::chown(&dir, Some(owner), None).unwrap();
        set_mode(&dir, if owner == 0 { 0 } else { 0o700 });
        let bound = |args: &[&str]| {
            let mut plain = occ(args, home.path());
            if !is_usual {
                plain.env("XDG_CONFIG_HOME", &dir);
            }
            run(&mut bound_by_modes(&plain))
        };
        let cure = cure.replace(" DIR", &format!(" {}", dir.display()));
        let done = bound(&["doctor", "--json"]);
        let found = only(&done, "config");
        assert_eq!((&found["level"], &found["hint"]), (&json!("failed"), &json!(cure)));
        let then = format!("{cure}, then: occ daemon start");
        assert_eq!(only(&done, "daemon")["hint"], json!(then));
        for file in ["secrets", "hosts.json", "occd.toml", "config.json"] {
            assert!(findings(&done, file).is_empty(), "{done:?}");
        }
        let started = bound(&["daemon", "start"]);
        assert!(started.code == 3 && started.err.contains(&format!("hint: {then}")), "{started:?}");
    }
}

#[test]
fn a_socket_that_cannot_be_opened_is_told_with_what_to_look_at() {
    let home = private_dir();
    let socket = home.path().join("occd.sock");
    std::fs::write(&socket, "").unwrap();
    set_mode(&socket, 0o400);
    let mut plain = doctor(home.path(), &["--json"]);
    plain.env("OCC_SOCKET", &socket);
    let found = only(&run(&mut bound_by_modes(&plain)), "socket");
    assert!(found["detail"].as_str().unwrap().contains("cannot be opened"), "{found}");
    let hint = found["hint"].as_str().unwrap();
    assert!(hint.starts_with(&format!("ls -l {}; ", socket.display())), "{found}");
}

#[test]
fn a_socket_of_ones_own_that_one_may_not_write_to_has_a_cure_that_works() {
    let fake = Fake::new(|seen| match seen.path.as_str() {
        "/v1/version" => Answer::ok(version("0.1.0")),
        _ => Answer::ok(list(&[], None)),
    });
    let occ = |args: &[&str]| run(&mut bound_by_modes(&fake.command(args)));
    let cure = format!("chmod 600 {}", fake.socket.display());
    for mode in [0, 0o400] {
        set_mode(&fake.socket, mode);
        let found = only(&occ(&["doctor", "--json"]), "socket");
        assert_eq!((&found["level"], &found["hint"]), (&json!("failed"), &json!(cure)), "{found}");
        for args in [&["host", "list"][..], &["exec", "--host", "h", "--", "true"]] {
            let done = occ(args);
            let hint = format!("\nhint: {cure}\n");
            assert!(done.code == 3 && done.err.ends_with(&hint), "{done:?}");
        }
    }
    set_mode(&fake.socket, 0o600);
    assert_eq!(occ(&["host", "list"]).code, 0);
}

#[test]
fn a_program_that_occd_bin_names_and_that_is_no_occd_is_told_as_that() {
    let home = private_dir();
    let path = home.path().join("bin");
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("occd"), "#!/bin/sh\n").unwrap();
    set_mode(&path.join("occd"), 0o755);
    let path = format!("{}:/usr/bin:/bin", path.display());
    let with = |program: &str| {
        let mut command = doctor(home.path(), &["--json"]);
        run(command.env("OCCD_BIN", program).env("PATH", &path))
    };
    for program in ["/bin/false", "/nowhere/occd"] {
        let done = with(program);
        let found = only(&done, "daemon");
        let detail = found["detail"].as_str().unwrap();
        assert!(detail.contains(&format!("OCCD_BIN, {program}")), "{detail}");
        assert!(found["hint"].as_str().unwrap().starts_with("unset OCCD_BIN"), "{found}");
        let programs = only(&done, "programs");
        assert!(programs["detail"].as_str().unwrap().contains("OCCD_BIN"), "{programs}");
    }
}

#[test]
fn a_config_json_that_cannot_be_used_is_told_with_and_without_a_daemon() {
    let warned = |home: &Path, done: &Done| {
        let found = only(done, "config.json");
        let file = home.join(".config/opencode-cloud/config.json");
        let detail = found["detail"].as_str().unwrap();
        assert!(
            found["level"] == "warning" && detail.starts_with(file.to_str().unwrap()),
            "{found}"
        );
        assert!(found["hint"].as_str().unwrap().ends_with(file.to_str().unwrap()), "{found}");
        detail.to_owned()
    };
    let home = private_dir();
    config(home.path(), "config.json", "x\n");
    let done = run(&mut doctor(home.path(), &["--json"]));
    assert!(warned(home.path(), &done).contains("line 1"), "{done:?}");
    let fake = Fake::new(|seen| match seen.path.as_str() {
        "/v1/version" => Answer::ok(version("0.1.0")),
        _ => Answer::ok(list(&[], None)),
    });
    config(fake.dir.path(), "config.json", "{\"no_such_key\": 1}");
    let done = run(fake.command(&["doctor", "--json"]).env("HOME", fake.dir.path()));
    assert!(warned(fake.dir.path(), &done).contains("no_such_key"), "{done:?}");
    config(fake.dir.path(), "config.json", "{} // as it should be");
    let done = run(fake.command(&["doctor", "--json"]).env("HOME", fake.dir.path()));
    assert_eq!(findings(&done, "config.json"), [] as [Value; 0]);
}

#[test]
fn a_docker_that_is_installed_and_does_not_run_is_told_as_that() {
    let home = private_dir();
    let bin = home.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let socket = home.path().join("docker.sock");
    let found = |programs: &[&str]| {
        for program in programs {
            std::fs::write(bin.join(program), "").unwrap();
            set_mode(&bin.join(program), 0o755);
        }
        let mut command = doctor(home.path(), &["--json"]);
        command.env("DOCKER_HOST", format!("unix://{}", socket.display())).env("PATH", &bin);
        let found = only(&run(&mut command), "docker");
        programs.iter().for_each(|program| std::fs::remove_file(bin.join(program)).unwrap());
        found
    };
    let none = found(&[]);
    let detail = "none on this machine; only --local needs it";
    assert_eq!((&none["level"], &none["detail"]), (&json!("ok"), &json!(detail)));
    for (programs, named) in [(&["docker"][..], "docker"), (&["dockerd"], "dockerd")] {
        let stopped = found(programs);
        assert_eq!(stopped["level"], "warning", "{stopped}");
        let detail = stopped["detail"].as_str().unwrap();
        let words = format!("{} is installed, and does not run", bin.join(named).display());
        assert!(detail.starts_with(&words), "{stopped}");
        assert!(detail.contains(&socket.display().to_string()), "{stopped}");
        let hint = stopped["hint"].as_str().unwrap();
        assert!(hint.contains("sudo systemctl start docker"), "{stopped}");
    }
    // One that runs without root listens in another place.
    std::fs::write(bin.join("docker"), "").unwrap();
    set_mode(&bin.join("docker"), 0o755);
    let _engine = UnixListener::bind(&socket).unwrap();
    let mut command = doctor(home.path(), &["--json"]);
    command.env("XDG_RUNTIME_DIR", home.path()).env("PATH", &bin);
    let detail = only(&run(&mut command), "docker")["detail"].as_str().unwrap().to_owned();
    assert!(!detail.contains("is installed"), "{detail}");
}

#[test]
fn an_ssh_that_does_not_run_says_why() {
    let home = private_dir();
    let bin = home.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let found = |script: &str| {
        std::fs::write(bin.join("ssh"), format!("#!/bin/sh\n{script}\n")).unwrap();
        set_mode(&bin.join("ssh"), 0o755);
        let path = format!("{}:/usr/bin:/bin", bin.display());
        only(&run(doctor(home.path(), &["--json"]).env("PATH", path)), "ssh")
    };
    let nobody = found("echo 'No user exists for uid 54321' >&2; exit 255");
    let detail = nobody["detail"].as_str().unwrap();
    assert_eq!(detail, "ssh does not run: No user exists for uid 54321");
    let hint = nobody["hint"].as_str().unwrap();
    assert!(hint.starts_with("getent passwd 54321 "), "{nobody}");
    let broken = found("echo first >&2; echo 'libcrypto.so.3: not found' >&2; exit 127");
    let detail = broken["detail"].as_str().unwrap();
    assert_eq!(detail, "ssh does not run: libcrypto.so.3: not found");
    let mute = found("exit 3");
    assert_eq!(mute["detail"], "ssh does not run: exit status: 3");
    for found in [broken, mute] {
        assert_eq!(found["hint"], "ssh -V; type -a ssh shows which one that is", "{found}");
    }
}

#[test]
fn the_agent_is_asked_for_its_keys() {
    let home = private_dir();
    let socket = home.path().join("agent");
    let ask =
        || only(&run(doctor(home.path(), &["--json"]).env("SSH_AUTH_SOCK", &socket)), "agent");
    assert_eq!(ask()["level"], "failed");
    let listener = UnixListener::bind(&socket).unwrap();
    thread::spawn(move || {
        for (count, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            stream.read_exact(&mut [0; 5]).unwrap();
            match u8::try_from(count).unwrap() {
                // The third one gets no answer, and its connection stays.
                2 => std::mem::forget(stream),
                count => stream.write_all(&[0, 0, 0, 5, 12, 0, 0, 0, count]).unwrap(),
            }
        }
    });
    assert_eq!((&ask()["level"], &ask()["level"]), (&json!("warning"), &json!("ok")));
    let silent = ask();
    let told = |key: &str| silent[key].as_str().unwrap();
    assert!(silent["level"] == "failed" && told("detail").contains("does not answer"), "{silent}");
    assert!(told("hint").starts_with("unset SSH_AUTH_SOCK"), "{silent}");
}

#[test]
fn what_cannot_be_read_is_told_with_what_to_do() {
    let home = private_dir();
    let dir = home.path().join(".config/opencode-cloud");
    for name in ["hosts.json", "occd.toml"] {
        std::fs::create_dir_all(dir.join(name)).unwrap();
    }
    let ssh = home.path().join(".ssh");
    std::fs::create_dir(&ssh).unwrap();
    std::fs::write(ssh.join("known_hosts"), b"\xff\xfe").unwrap();
    let bin = home.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::fs::write(bin.join("ssh"), "#!/bin/sh\nexit 3\n").unwrap();
    set_mode(&bin.join("ssh"), 0o755);
    let engine = home.path().join("docker.sock");
    let listener = UnixListener::bind(&engine).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            stream.unwrap().write_all(b"SSH-2.0-no engine\r\n").unwrap();
        }
    });
    let mut command = doctor(home.path(), &["--json"]);
    command.env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
    command.env("DOCKER_HOST", format!("unix://{}", engine.display()));
    let done = run(&mut command);
    for check in ["hosts.json", "occd.toml", "known_hosts", "ssh", "docker"] {
        assert_ne!(only(&done, check)["level"], "ok", "{done:?}");
    }
}

#[test]
fn what_ends_at_logout_is_told_also_without_a_unit() {
    let home = private_dir();
    let bin = home.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    for (lingers, kills, runtime_dir, level, words, hint) in [
        ("yes", "no", true, "ok", "occd goes on", ""),
        ("no", "no", false, "ok", "occd goes on", ""),
        ("no", "no", true, "warning", "occd's socket", "loginctl enable-linger"),
        ("no", "yes", true, "warning", "KillUserProcesses", "loginctl enable-linger"),
        ("yes", "yes", true, "warning", "KillUserProcesses", "occ daemon install"),
    ] {
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in *KillUserProcesses*) echo {kills};; *Linger*) echo {lingers};; *) exit 1;; esac\n"
        );
        std::fs::write(bin.join("loginctl"), script).unwrap();
        set_mode(&bin.join("loginctl"), 0o755);
        let path = format!("{}:/usr/bin:/bin", bin.display());
        let mut command = doctor(home.path(), &["--json"]);
        command.env("PATH", path);
        if runtime_dir {
            command.env("XDG_RUNTIME_DIR", home.path());
        }
        let done = run(&mut command);
        let found = only(&done, "linger");
        let told = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
        assert_eq!(found["level"], level, "{found}");
        assert!(told("detail").contains(words) && told("hint").contains(hint), "{found}");
    }
}

#[test]
fn keys_that_others_may_read_are_told() {
    let home = private_dir();
    let ssh = home.path().join(".ssh");
    std::fs::create_dir(&ssh).unwrap();
    let key = ssh.join("key");
    std::fs::write(&key, "").unwrap();
    let host = |key: &str| json!({"hostname": "h", "identity_file": key});
    let mut hosts =
        json!({"version": 1, "hosts": {"a": host("~/.ssh/key"), "b": host("~/.ssh/none")}});
    hosts["hosts"]["c"] = host("~/.ssh/key.pub");
    std::fs::write(ssh.join("key.pub"), "").unwrap();
    set_mode(&ssh.join("key.pub"), 0o644);
    config(home.path(), "hosts.json", &hosts.to_string());
    for (path, mode, good, cure) in [(&key, 0o644, 0o600, "600"), (&ssh, 0o777, 0o700, "700")] {
        set_mode(&ssh, 0o700);
        set_mode(path, mode);
        let found = only(&run(&mut doctor(home.path(), &["--json"])), "keys");
        let hint = format!("chmod {cure} {}", path.display());
        assert_eq!((&found["level"], &found["hint"]), (&json!("failed"), &json!(hint)));
        set_mode(path, good);
        assert_eq!(findings(&run(&mut doctor(home.path(), &["--json"])), "keys").len(), 0);
    }
}

#[test]
fn keys_that_a_login_offers_by_itself_are_looked_at_too() {
    let home = private_dir();
    let ssh = home.path().join(".ssh");
    std::fs::create_dir(&ssh).unwrap();
    set_mode(&ssh, 0o700);
    for name in ["id_ed25519", "id_ecdsa", "id_rsa"] {
        let key = ssh.join(name);
        std::fs::write(&key, "").unwrap();
        set_mode(&key, 0o644);
        let found = only(&run(&mut doctor(home.path(), &["--json"])), "keys");
        let hint = format!("chmod 600 {}", key.display());
        assert_eq!((&found["level"], &found["hint"]), (&json!("failed"), &json!(hint)));
        set_mode(&key, 0o600);
        assert_eq!(findings(&run(&mut doctor(home.path(), &["--json"])), "keys").len(), 0);
    }
}

#[test]
fn a_policy_that_cannot_be_read_is_told_as_what_it_is_to_a_daemon_that_runs() {
    if !require_namespaces(&["--mount", "--map-root-user"]) {
        return;
    }
    let fake = Fake::new(|seen| match seen.path.as_str() {
        "/v1/version" => Answer::ok(version("0.1.0")),
        _ => Answer::ok(list(&[], None)),
    });
    let plain = fake.command(&["doctor", "--json"]);
    let mut mounted = Command::new("unshare");
    mounted.args(["--mount", "--map-root-user", "sh", "-ec"]);
    mounted.arg(
        "mount -t tmpfs none /etc; mkdir /etc/occ; ln -s /nowhere /etc/occ/policy.toml; exec \"$@\"",
    );
    mounted.arg("sh").arg(plain.get_program()).args(plain.get_args()).env_clear();
    mounted.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let done = run(&mut mounted);
    assert_eq!(only(&done, "daemon")["level"], "ok", "{done:?}");
    let found = only(&done, "policy");
    let detail = found["detail"].as_str().unwrap();
    assert!(detail.ends_with("leads nowhere: the next start of occd fails"), "{found}");
}

#[test]
fn a_clock_of_which_nobody_knows_has_a_line() {
    let home = private_dir();
    let bin = home.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::fs::write(bin.join("timedatectl"), "#!/bin/sh\nexit 1\n").unwrap();
    set_mode(&bin.join("timedatectl"), 0o755);
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let found = only(&run(doctor(home.path(), &["--json"]).env("PATH", path)), "clock");
    assert!(found["detail"].as_str().unwrap().contains("not known"), "{found}");
}

#[test]
fn another_occ_in_the_path_is_told() {
    let home = private_dir();
    let dir = home.path().join("bin");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("occ"), "#!/bin/sh\n").unwrap();
    set_mode(&dir.join("occ"), 0o755);
    let path = format!("{}:/usr/bin:/bin", dir.display());
    let done = run(doctor(home.path(), &["--json"]).env("PATH", path));
    let others = findings(&done, "programs");
    let other = others.iter().find(|one| one["level"] == "warning").unwrap();
    assert!(other["detail"].as_str().unwrap().contains("bin/occ"), "{other}");
}

fn version(version: &str) -> Value {
    json!({"version": version, "api_version": 1, "min_client": "0.1.0", "capabilities": [],
        "pid": 7, "started_at": ago(7830), "socket": "/s"})
}

#[test]
fn a_daemon_is_told_with_its_hosts_and_none_is_asked_anything() {
    let fake = Fake::new(|seen| match seen.path.as_str() {
        "/v1/version" => Answer::ok(version("9.9.9")),
        "/v1/hosts" => {
            let mut other = connected("prod-2");
            other["docker_error"] =
                json!({"code": "docker_permission", "message": "permission denied on x.sock"});
            let down = broken("prod-1", "failed", "auth_failed", "refused every key");
            Answer::ok(list(&[down, other], None))
        }
        path => panic!("{path}"),
    });
    set_mode(&fake.socket, 0o666);
    let done = fake.occ(&["doctor", "--json"]);
    assert_eq!(only(&done, "socket")["level"], "warning");
    let daemon = only(&done, "daemon");
    let hint = daemon["hint"].as_str().unwrap();
    assert!(daemon["level"] == "warning" && hint.starts_with("install occ 9.9.9"), "{daemon}");
    let hosts = findings(&done, "hosts");
    let failed = hosts.iter().find(|one| one["host"] == "prod-1").unwrap();
    assert_eq!(
        (&failed["level"], &failed["hint"]),
        (&json!("failed"), &json!("occ doctor --host prod-1"))
    );
    let docker = findings(&done, "docker");
    let fault = docker.iter().find(|one| one["host"] == "prod-2").unwrap();
    assert_eq!(fault["level"], "warning");
}

#[test]
fn a_daemon_that_does_not_answer_holds_nothing_up() {
    let dir = private_dir();
    let socket = dir.path().join("occd.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    let lock = std::fs::File::create(socket.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    std::fs::write(socket.with_extension("lock"), std::process::id().to_string()).unwrap();
    let done = run(doctor(dir.path(), &["--json"]).env("OCC_SOCKET", &socket));
    let daemon = only(&done, "daemon");
    assert_eq!(daemon["level"], "failed");
    // It may be one that was stopped, which is this process here.
    let hint = format!("kill -CONT {} if it was stopped; else kill -9", std::process::id());
    assert!(daemon["hint"].as_str().is_some_and(|text| text.starts_with(&hint)), "{daemon}");
    // It is one thing that is wrong, and no file system.
    assert!(findings(&done, "hosts").is_empty(), "{done:?}");
    assert_eq!(only(&done, "hosts.json")["level"], "ok");
}
