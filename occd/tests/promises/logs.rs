//! The log: where it goes, that it stays in bounds and outlives the disk, how much there is of it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use occ_proto::Code;
use occ_proto::log::LogLevel;
use serde_json::{Value, json};
use testkit::daemon::{Target, daemon_binary};
use testkit::require::{require_namespaces, require_root};
use testkit::wait::blocking::wait_until;
use testkit::{DaemonRig, EmbeddedHost};

use crate::ask::{GUARD, body, connect, echoes, post, problem};

const LIMIT: u64 = 8 * 1024 * 1024;

/// Returns where a daemon that occ starts logs to, in its directory.
fn log_file(rig: &DaemonRig) -> PathBuf {
    let path = rig.paths().log_file().unwrap();
    let dir = path.parent().unwrap();
    fs::create_dir_all(dir).unwrap();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).unwrap();
    path
}

/// Has the daemon log a line or two.
fn say(rig: &DaemonRig, level: &str) -> LogLevel {
    let answer = rig.http("PUT", "/v1/log-level", &[], Some(json!({ "level": level })));
    assert_eq!(answer.status, 200, "{}", answer.text());
    body(&answer)
}

fn lines(path: &Path) -> Vec<String> {
    let bytes = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
}

#[test]
fn a_large_log_is_put_aside_in_mid_run_and_shown_all_the_same() {
    let rig = DaemonRig::new();
    let path = log_file(&rig);
    let old = path.with_extension("log.1");
    let room = usize::try_from(LIMIT).unwrap() - 4096;
    fs::write(&path, "an old line\n".repeat(room / 12)).unwrap();
    rig.occ_ok(&["daemon", "start"]);
    // What changes of the machine, such as its network, is not to be among the lines that are compared.
    let level = "warn,occd::logging=info";
    wait_until("another file", GUARD, || (say(&rig, level), old.exists()), |(_, there)| *there);
    for path in [&path, &old] {
        let metadata = fs::metadata(path).unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o600);
        assert!(metadata.len() <= LIMIT, "{metadata:?}");
    }
    let all = [lines(&old), lines(&path)].concat();
    let said: Value =
        serde_json::from_str(&rig.occ_ok(&["daemon", "logs", "-n", "30", "--json"])).unwrap();
    assert_eq!(said["source"], path.to_str().unwrap());
    assert_eq!(said["lines"], json!(all[all.len() - 30..]));
    assert!(lines(&path).len() < 30, "the lines were to be in both files");
    let shown = rig.occ_ok(&["daemon", "logs", "-n", "30"]);
    assert_eq!(shown.lines().collect::<Vec<_>>(), all[all.len() - 30..]);

    let mut follow = rig.occ(&["daemon", "logs", "-f", "-n", "30"]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().unwrap();
    let mut shown = BufReader::new(follow.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(shown.by_ref().take(30).collect::<Vec<_>>(), all[all.len() - 30..]);
    say(&rig, level);
    assert!(shown.next().unwrap().contains("what is logged was changed"));
    follow.kill().unwrap();
    follow.wait().unwrap();
}

/// A small disk in a directory's place, until dropped.
pub(crate) struct Disk(PathBuf);

impl Disk {
    pub(crate) fn mount(at: &Path) -> Self {
        let options = ["-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs"];
        assert!(Command::new("mount").args(options).arg(at).status().unwrap().success());
        Self(at.to_owned())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_ends_nothing_and_is_told_once_there_is_room() {
    if !require_root("a small disk") || !require_namespaces(&["--mount"]) {
        return;
    }
    let rig = DaemonRig::new();
    let path = log_file(&rig);
    let _disk = Disk::mount(path.parent().unwrap());
    rig.occ_ok(&["daemon", "start"]);
    let pid = rig.daemon_pid();
    let filler = path.with_file_name("filler");
    assert!(fs::write(&filler, vec![0; 512 * 1024]).is_err(), "the disk was to be full");
    // Until the page that the log has is full, too.
    let size = || fs::metadata(&path).unwrap().len();
    let mut before = 0;
    wait_until(
        "a log that cannot grow",
        GUARD,
        || {
            say(&rig, "info");
            size() == std::mem::replace(&mut before, size())
        },
        |full| *full,
    );
    for _ in 0..10 {
        say(&rig, "info");
    }
    fs::remove_file(&filler).unwrap();
    say(&rig, "info");
    assert_eq!(rig.daemon_pid(), pid);
    let lines = lines(&path);
    let told = |line: &String| {
        line.contains(" lines of the log are missing here: No space left on device")
    };
    let at = lines.iter().position(told).unwrap_or_else(|| panic!("{lines:#?}"));
    let missing = lines[at].split_whitespace().nth(2).unwrap().parse::<u32>().unwrap();
    assert!(missing >= 20, "{}", lines[at]);
    // The audit log may say the same in between.
    assert!(
        lines[at + 1..].iter().any(|line| line.contains("what is logged was changed")),
        "{lines:#?}"
    );
    assert!(lines.iter().all(|line| line.starts_with("20")), "a piece of a line: {lines:#?}");
}

#[test]
fn a_log_whose_directory_is_gone_comes_back_with_it() {
    let rig = DaemonRig::new();
    let path = log_file(&rig);
    rig.occ_ok(&["daemon", "start"]);
    let dir = path.parent().unwrap();
    fs::rename(dir, dir.with_extension("away")).unwrap();
    wait_until("another file", GUARD, || (say(&rig, "info"), path.exists()), |(_, there)| *there);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn a_log_that_was_removed_is_made_anew_with_the_next_line() {
    let rig = DaemonRig::new();
    let path = log_file(&rig);
    rig.occ_ok(&["daemon", "start"]);
    fs::remove_file(&path).unwrap();
    let none = rig.run_occ(&["daemon", "logs"]);
    assert_eq!(none.code(), 1, "{none:?}");
    assert!(none.stderr.contains("or the file was removed"), "{none:?}");
    say(&rig, "info");
    let shown = rig.occ_ok(&["daemon", "logs"]);
    assert!(shown.contains("what is logged was changed"), "{shown}");
}

/// Returns what a daemon that logs JSON has said, each line checked.
fn said(rig: &DaemonRig) -> Vec<Value> {
    let log = rig.log();
    // The last one may be half written.
    let whole = log.rfind('\n').map_or("", |end| &log[..end]);
    let parse = |line: &str| -> Value {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        for member in ["time", "level", "target", "message"] {
            assert!(value[member].is_string(), "{member}: {line}");
        }
        value
    };
    whole.lines().map(parse).collect()
}

#[test]
fn every_attempt_and_what_becomes_of_it_is_a_line() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("h", Target::from(&host));
    rig.write_config_toml("[log]\nformat = \"json\"\n");
    rig.start_daemon(&[]);
    let lines = |count: usize| {
        let of_links = || {
            let own = |line: &Value| line["class"].is_string();
            said(&rig).into_iter().filter(own).collect::<Vec<_>>()
        };
        wait_until("the lines", GUARD, of_links, |lines| lines.len() >= count)
    };
    connect(&rig, "h");
    host.drop_connections();
    lines(3);
    connect(&rig, "h");
    post(&rig, "/v1/hosts/h/disconnect");
    lines(6);
    host.reject_auth(true);
    assert!(post(&rig, "/v1/hosts/h/connect").status >= 400);
    let wanted = [
        ("dialling", "configuration", "attempt"),
        ("connected", "established", "success"),
        ("the connection ended", "established", "transient"),
        ("dialling", "configuration", "attempt"),
        ("connected", "established", "success"),
        ("the connection ended", "established", "asked"),
        ("dialling", "configuration", "attempt"),
        ("the dial failed", "login", "permanent"),
    ];
    let lines = lines(wanted.len());
    let told: Vec<_> = lines
        .iter()
        .map(|line| {
            assert_eq!(line["host"], "h", "{line}");
            assert!(line["id"].is_u64(), "{line}");
            ["message", "phase", "class"].map(|name| line[name].as_str().unwrap_or_default())
        })
        .collect();
    assert_eq!(told, wanted.map(|(message, phase, class)| [message, phase, class]));
    assert_eq!(lines[7]["code"], "auth_failed", "{}", lines[7]);
}

/// Starts the daemon with a journal of the test's in the machine's place.
const UNDER_A_JOURNAL: &str = r#"
set -e
mount -t tmpfs tmpfs /run/systemd
mkdir /run/systemd/journal
touch /run/systemd/journal/socket
mount --bind "$JOURNAL" /run/systemd/journal/socket
exec "$OCCD"
"#;

/// Returns the fields of an entry, as the journal's protocol has them.
fn fields(entry: &[u8]) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut fields = Vec::new();
    let mut rest = entry;
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n').unwrap();
        let line = &rest[..end];
        rest = &rest[end + 1..];
        match line.iter().position(|byte| *byte == b'=') {
            Some(at) => fields.push((text(&line[..at]), text(&line[at + 1..]))),
            None => {
                let length =
                    usize::try_from(u64::from_le_bytes(rest[..8].try_into().unwrap())).unwrap();
                fields.push((text(line), text(&rest[8..8 + length])));
                rest = &rest[9 + length..];
            }
        }
    }
    fields
}

#[test]
fn under_systemd_the_journal_gets_levels_and_fields() {
    if !require_root("a journal of its own") || !require_namespaces(&["--mount"]) {
        return;
    }
    let host = EmbeddedHost::start();
    let rig = DaemonRig::new();
    rig.add_host("h", Target::from(&host));
    let path = rig.root().join("journal");
    let journal = UnixDatagram::bind(&path).unwrap();
    journal.set_read_timeout(Some(GUARD)).unwrap();
    let stderr = rig.root().join("occd.log");
    let log = fs::File::create(&stderr).unwrap();
    let metadata = log.metadata().unwrap();
    // Where systemd never ran, there is no place for it.
    fs::create_dir_all("/run/systemd").unwrap();
    let occ = rig.occ(&[]);
    let set = |(name, value): (&std::ffi::OsStr, Option<&std::ffi::OsStr>)| {
        Some((name.to_owned(), value?.to_owned()))
    };
    let mut daemon = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", UNDER_A_JOURNAL])
        .env_clear()
        .envs(occ.get_envs().filter_map(set))
        .env("JOURNAL", &path)
        .env("OCCD", daemon_binary())
        .env("JOURNAL_STREAM", format!("{}:{}", metadata.dev(), metadata.ino()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    // Returns the entry with that message.
    let entry = |message: &str| loop {
        let mut datagram = vec![0; 256 * 1024];
        let length = journal.recv(&mut datagram).unwrap();
        let fields = fields(&datagram[..length]);
        let of = |name: &str| {
            let found = fields.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        if of("MESSAGE").starts_with(message) {
            let names =
                ["MESSAGE", "PRIORITY", "HOST", "PHASE", "CLASS", "CODE", "SYSLOG_IDENTIFIER"];
            break names.map(of);
        }
    };
    entry("ready");
    wait_until(
        "the daemon",
        GUARD,
        || rig.http("GET", "/healthz", &[], None).status,
        |s| *s == 200,
    );
    connect(&rig, "h");
    let [message, priority, name, phase, class, _, program] = entry("connected");
    assert!(message.contains(" host=h "), "journalctl shows nothing else: {message}");
    assert_eq!(
        [&*priority, &*name, &*phase, &*class, &*program],
        ["6", "h", "established", "success", "occd"]
    );
    host.reject_auth(true);
    assert!(post(&rig, "/v1/hosts/h/reconnect").status >= 400);
    let [_, priority, name, _, class, code, _] = entry("the dial failed");
    assert_eq!([&*priority, &*name, &*class, &*code], ["4", "h", "permanent", "auth_failed"]);
    assert_eq!(fs::read_to_string(&stderr).unwrap(), "");
    // While the journal is away, what it would get goes to stderr, with the level that it reads there.
    drop(journal);
    say(&rig, "info");
    let said = fs::read_to_string(&stderr).unwrap();
    assert!(said.contains("<6>what is logged was changed filter=info\n"), "{said}");
    // What it was doing at that moment may come before it.
    assert!(said.lines().all(|line| line.starts_with("<6>")), "{said}");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

#[test]
fn what_is_logged_can_be_changed_and_comes_back() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("h", Target::from(&host));
    rig.write_config_toml("[log]\nformat = \"json\"\n");
    rig.set_env("OCCD_LOG", "warn");
    // What is skipped in it is told to those who want to know more.
    let known_hosts = fs::read_to_string(rig.known_hosts_file()).unwrap();
    fs::write(rig.known_hosts_file(), format!("{known_hosts}no line of it\n")).unwrap();
    rig.start_daemon(&[]);
    assert_eq!(rig.occ_ok(&["daemon", "log-level"]), "warn\n");
    assert_eq!(said(&rig), Vec::<Value>::new());
    assert_eq!(rig.occ_ok(&["daemon", "log-level", "trace"]), "trace\n");
    echoes(&rig, "h");
    let levels = || -> Vec<String> {
        said(&rig).iter().map(|line| line["level"].as_str().unwrap().to_owned()).collect()
    };
    wait_until("all levels", GUARD, levels, |levels| levels.iter().any(|level| level == "debug"));
    // Nor may those who would say what they receive, whatever is set.
    rig.occ_ok(&["daemon", "log-level", "trace,russh=trace,hyper=trace,zbus=trace"]);
    rig.run_occ(&["reconnect", "--host", "h"]);
    for line in said(&rig) {
        let (target, level) = (line["target"].as_str().unwrap(), line["level"].as_str().unwrap());
        let most: &[&str] = match target.split(['_', ':']).next().unwrap() {
            "russh" | "zbus" => &["error", "warn"],
            "hyper" => &["error", "warn", "info"],
            _ => continue,
        };
        assert!(most.contains(&level), "{line}");
    }
    // Single modules, for a while.
    let wanted = json!({ "level": "off,occd::api=info", "for_ms": 300 });
    let set: LogLevel = body(&rig.http("PUT", "/v1/log-level", &[], Some(wanted)));
    assert!(set.until.is_some() && set.at_start.as_str() == "warn", "{set:?}");
    let now = || -> LogLevel { body(&rig.http("GET", "/v1/log-level", &[], None)) };
    let back = wait_until("what was logged before", GUARD, now, |now| now.until.is_none());
    assert_eq!(back.level.as_str(), "warn");
    let said_for = rig.occ_ok(&["daemon", "log-level", "debug", "--for", "10m"]);
    assert!(
        said_for.starts_with("debug until ") && said_for.ends_with(", then warn\n"),
        "{said_for}"
    );

    for bad in ["loud", "debug,", "occd::ssh=", "Debug"] {
        let answer = rig.http("PUT", "/v1/log-level", &[], Some(json!({ "level": bad })));
        assert_eq!(problem(&answer).code, Code::BadRequest, "{bad}");
        let output = rig.run_occ(&["daemon", "log-level", bad]);
        assert_eq!(output.code(), 2, "{bad}: {output:?}");
    }
    let no_time = json!({ "level": "info", "for_ms": 0 });
    assert_eq!(rig.http("PUT", "/v1/log-level", &[], Some(no_time)).status, 400);
}

#[test]
fn a_level_that_is_none_is_said_and_costs_nothing() {
    let mut rig = DaemonRig::new();
    rig.set_env("OCCD_LOG", "loud");
    rig.start_daemon(&[]);
    assert!(rig.log().contains(" WARN OCCD_LOG: \"loud\" is no level "), "{}", rig.log());
    assert_eq!(rig.occ_ok(&["daemon", "log-level"]), "info\n");
}
