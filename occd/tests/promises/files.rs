//! Files of a host are read and written as if they were here: byte for byte, whole or not at all.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use occ_proto::files::{Bytes, FileInfo, FileKind, FileList, encode_path};
use occ_proto::{Code, Problem};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::http::{self, Response};
use testkit::{DaemonRig, RealSshd};

use crate::support::{daemon_for, eventually, status};

/// Returns a server as it is installed, with SFTP, and a daemon for it.
pub(crate) fn sshd() -> Option<(RealSshd, DaemonRig)> {
    if !RealSshd::require() {
        return None;
    }
    let sshd = RealSshd::builder().config("Subsystem sftp internal-sftp").start();
    let rig = daemon_for(&sshd);
    Some((sshd, rig))
}

/// A directory that the server's user may write to, seen from both ends.
pub(crate) struct Shared(TempDir);

impl Shared {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("occ-files-").tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        Self(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn at(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.path().join(name.as_ref())
    }

    /// Returns the names that are there, the hidden ones too.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

fn url(place: &str, path: &Path, query: &str) -> String {
    format!("/v1/hosts/{place}/files/{}{query}", encode_path(path.as_os_str().as_bytes()))
}

fn ask(
    rig: &DaemonRig,
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
) -> Response {
    http::request(&rig.socket(), method, url, headers, body).unwrap()
}

fn act(rig: &DaemonRig, url: &str, action: Value) -> Response {
    rig.http("POST", url, &[], Some(action))
}

#[track_caller]
fn refused(response: &Response, status: u16, code: Code) -> Problem {
    assert_eq!(response.status, status, "{}", response.text());
    let problem: Problem = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(problem.code, code, "{}", problem.detail);
    problem
}

/// Runs the same on a host, on this machine, and on hosts that have a shell only, of GNU's tools and of busybox's: all are
/// to give the same.
fn both(test: impl Fn(&DaemonRig, &Shared, &str)) {
    let Some((_sshd, rig)) = sshd() else { return };
    for place in ["h", "local"] {
        test(&rig, &Shared::new(), place);
    }
    for busybox in [false, true] {
        let Some((_sshd, rig, _bin)) = bare(busybox) else { continue };
        test(&rig, &Shared::new(), "h");
        assert!(_sshd.log().matches("sftp").count() <= 4, "{}", _sshd.log());
    }
}

/// Returns a server without SFTP, whose sessions find GNU's tools or those of busybox alone.
pub(crate) fn bare(busybox: bool) -> Option<(RealSshd, DaemonRig, Shared)> {
    if !RealSshd::require() || !testkit::require::require_root("a server without sftp-server") {
        return None;
    }
    let bin = Shared::new();
    let mut sshd = RealSshd::builder().without_sftp_server();
    if busybox {
        let program = testkit::require::find_program("busybox").ok()?;
        let list = std::process::Command::new(&program).arg("--list").output().unwrap().stdout;
        for name in String::from_utf8(list).unwrap().lines() {
            symlink(&program, bin.at(name)).unwrap();
        }
        sshd = sshd.env("PATH", bin.path().to_str().unwrap());
    }
    let sshd = sshd.start();
    let rig = daemon_for(&sshd);
    Some((sshd, rig, bin))
}

fn random(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(len as u64).fill(&mut bytes);
    bytes
}

#[test]
fn what_is_written_is_read_again() {
    both(|rig, shared, place| {
        // None, one, more than one request, more than are under way, and not a whole one at the end.
        for len in [0, 1, 40_000, 300_000, 9_000_001] {
            let bytes = random(len);
            let url = url(place, &shared.at("a file"), "");
            let written = ask(rig, "PUT", &url, &[], Some(&bytes));
            assert_eq!(written.status, 200, "{}", written.text());
            assert!(std::fs::read(shared.at("a file")).unwrap() == bytes, "{place} {len}");
            let read = ask(rig, "GET", &url, &[], None);
            assert!(read.body == bytes, "{place} {len}");
            assert_eq!(read.header("etag"), written.header("etag"));
        }
        assert_eq!(shared.names(), ["a file"]);
    });
}

#[test]
fn a_range_is_a_part() {
    both(|rig, shared, place| {
        let bytes = random(500_000);
        std::fs::write(shared.at("f"), &bytes).unwrap();
        let url = url(place, &shared.at("f"), "");
        for (range, part) in [
            ("bytes=0-9", &bytes[..10]),
            ("bytes=499990-", &bytes[499_990..]),
            ("bytes=-5", &bytes[499_995..]),
            ("bytes=100000-399999", &bytes[100_000..400_000]),
        ] {
            let read = ask(rig, "GET", &url, &[("Range", range)], None);
            assert_eq!(read.status, 206, "{range}");
            assert!(read.body == part, "{range}");
        }
        let beyond = ask(rig, "GET", &url, &[("Range", "bytes=500000-")], None);
        refused(&beyond, 416, Code::OutOfRange);
        assert_eq!(beyond.header("content-range"), Some("bytes */500000"));
    });
}

#[test]
fn a_file_that_somebody_changed_is_not_overwritten() {
    both(|rig, shared, place| {
        std::fs::write(shared.at("f"), "one").unwrap();
        std::fs::set_permissions(shared.at("f"), std::fs::Permissions::from_mode(0o666)).unwrap();
        let url = url(place, &shared.at("f"), "");
        let etag = ask(rig, "GET", &url, &[], None).header("etag").unwrap().to_owned();
        std::fs::write(shared.at("f"), "somebody else's").unwrap();
        let second = ask(rig, "PUT", &url, &[("If-Match", &etag)], Some(b"two"));
        let problem = refused(&second, 412, Code::FileChanged);
        assert!(problem.detail.contains("has changed since it was read"), "{}", problem.detail);
        let again = ask(rig, "PUT", &url, &[("If-None-Match", "*")], Some(b"two"));
        refused(&again, 412, Code::FileExists);
        assert_eq!(std::fs::read(shared.at("f")).unwrap(), b"somebody else's");
        // The same length within the same second has the same tag: its bytes are another matter.
        let wrong = "0".repeat(64);
        let with = |hash: &str| format!("{url}?if_sha256={hash}");
        refused(&ask(rig, "PUT", &with(&wrong), &[], Some(b"two")), 412, Code::FileChanged);
        // What is none is no guess at them.
        for none in ["", "00", &"g".repeat(64), &"0".repeat(65)] {
            let answer = ask(rig, "PUT", &with(none), &[], Some(b"two"));
            let problem = refused(&answer, 400, Code::BadRequest);
            assert!(problem.detail.contains("64 hexadecimal digits"), "{}", problem.detail);
        }
        assert_eq!(shared.names(), ["f"]);
    });
}

#[test]
fn of_many_that_change_a_file_at_the_same_time_one_has_it() {
    const CLIENTS: usize = 10;
    /// SHA-256 of "a".
    const OF_A: &str = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb";
    both(|rig, shared, place| {
        for by_tag in [true, false] {
            std::fs::write(shared.at("f"), "a").unwrap();
            std::fs::set_permissions(shared.at("f"), std::fs::Permissions::from_mode(0o666))
                .unwrap();
            let plain = url(place, &shared.at("f"), "");
            let etag = ask(rig, "GET", &plain, &[], None).header("etag").unwrap().to_owned();
            let put = |length: usize| {
                // No two of them have the same tag afterwards.
                let body = vec![b'x'; length + 2];
                match by_tag {
                    true => ask(rig, "PUT", &plain, &[("If-Match", &etag)], Some(&body)),
                    false => {
                        ask(rig, "PUT", &format!("{plain}?if_sha256={OF_A}"), &[], Some(&body))
                    }
                }
            };
            let answers: Vec<u16> = std::thread::scope(|scope| {
                let put = &put;
                let all: Vec<_> =
                    (0..CLIENTS).map(|length| scope.spawn(move || put(length).status)).collect();
                all.into_iter().map(|one| one.join().unwrap()).collect()
            });
            let won: Vec<usize> = (0..CLIENTS).filter(|client| answers[*client] == 200).collect();
            let lost = answers.iter().filter(|status| **status == 412).count();
            assert_eq!((won.len(), lost), (1, CLIENTS - 1), "{place}: {answers:?}");
            assert_eq!(std::fs::metadata(shared.at("f")).unwrap().len(), won[0] as u64 + 2);
        }
        // What was refused is removed behind the answer.
        eventually("what is left", || shared.names() == ["f"]);
    });
}

#[test]
fn what_cannot_be_as_it_is_asked_for_is_refused() {
    both(|rig, shared, place| {
        std::fs::write(shared.at("f"), "a").unwrap();
        std::fs::set_permissions(shared.at("f"), std::fs::Permissions::from_mode(0o666)).unwrap();
        let (file, dir) = (url(place, &shared.at("f"), ""), url(place, &shared.at("d"), ""));
        for (url, action) in [
            (&file, json!({ "action": "chmod", "mode": 0o10000 })),
            (&dir, json!({ "action": "mkdir", "mode": 99999 })),
            (&file, json!({ "action": "touch", "mtime": -5 })),
            (&file, json!({ "action": "touch", "mtime": 99_999_999_999_u64 })),
        ] {
            refused(&act(rig, url, action), 400, Code::BadRequest);
        }
        for mtime in ["-5", "99999999999"] {
            let answer = ask(rig, "PUT", &format!("{file}?mtime={mtime}"), &[], Some(b"b"));
            refused(&answer, 400, Code::BadRequest);
        }
        let body = json!({ "action": "rename", "to": shared.at("g") }).to_string();
        let headers = [("If-Match", "\"zz\""), ("Content-Type", "application/json")];
        let moved = ask(rig, "POST", &file, &headers, Some(body.as_bytes()));
        refused(&moved, 412, Code::FileChanged);
        assert_eq!(std::fs::read(shared.at("f")).unwrap(), b"a");
        assert_eq!(shared.names(), ["f"]);
    });
}

#[test]
fn permissions_stay_and_links_lead_to_what_is_written() {
    both(|rig, shared, place| {
        std::fs::write(shared.at("real"), "one").unwrap();
        std::fs::set_permissions(shared.at("real"), std::fs::Permissions::from_mode(0o640))
            .unwrap();
        // The server's user is another one where the tests run as root.
        let owner = std::fs::metadata(shared.at("real")).unwrap();
        if place == "h" {
            let shown = rig.http("GET", "/v1/hosts/h", &[], None).json();
            let _ = std::process::Command::new("chown")
                .arg(shown["connection"]["user"].as_str().unwrap_or("root"))
                .arg(shared.at("real"))
                .status();
        }
        symlink("real", shared.at("link")).unwrap();
        let url = url(place, &shared.at("link"), "");
        let written = ask(rig, "PUT", &url, &[], Some(b"two"));
        assert_eq!(written.status, 200, "{}", written.text());
        assert!(shared.at("link").is_symlink());
        let meta = std::fs::metadata(shared.at("real")).unwrap();
        assert_eq!(meta.mode() & 0o7777, 0o640);
        if place == "local" {
            assert_eq!(meta.uid(), owner.uid());
        }
        assert_eq!(std::fs::read(shared.at("real")).unwrap(), b"two");
    });
}

#[test]
fn names_of_any_bytes_survive() {
    both(|rig, shared, place| {
        let names: [&[u8]; 6] =
            [b"with space", b"new\nline", b"\xff\xfe", "\u{fc}".as_bytes(), b"-rf", b"A%2fb"];
        for name in names {
            let url = url(place, &shared.at(OsStr::from_bytes(name)), "");
            assert_eq!(ask(rig, "PUT", &url, &[], Some(name)).status, 200);
            assert_eq!(ask(rig, "GET", &url, &[], None).body, name);
        }
        let listed = ask(rig, "GET", &url(place, shared.path(), "?list=true"), &[], None);
        let list: FileList = serde_json::from_slice(&listed.body).unwrap();
        let mut sorted = names.to_vec();
        sorted.sort();
        let found: Vec<&[u8]> = list.entries.iter().map(|entry| &entry.name.0[..]).collect();
        assert_eq!(found, sorted);
        assert!(listed.text().contains(r#"{"b64":"//4="}"#), "{}", listed.text());
    });
}

#[test]
fn directories_are_made_renamed_and_removed() {
    both(|rig, shared, place| {
        let at = |name: &str, query: &str| url(place, &shared.at(name), query);
        let made = act(rig, &at("a/b/c", ""), json!({"action": "mkdir", "parents": true}));
        assert_eq!(made.status, 200, "{}", made.text());
        refused(&act(rig, &at("a", ""), json!({"action": "mkdir"})), 412, Code::FileExists);
        refused(&act(rig, &at("x/y", ""), json!({"action": "mkdir"})), 404, Code::FileNotFound);
        assert_eq!(ask(rig, "PUT", &at("a/b/f", ""), &[], Some(b"1")).status, 200);
        let to = Bytes(shared.at("a/g").into_os_string().into_encoded_bytes());
        let moved = act(rig, &at("a/b/f", ""), json!({"action": "rename", "to": to}));
        assert_eq!(moved.status, 200, "{}", moved.text());
        assert_eq!(ask(rig, "PUT", &at("a/b/f", ""), &[], Some(b"2")).status, 200);
        let again = act(rig, &at("a/b/f", ""), json!({"action": "rename", "to": to}));
        refused(&again, 412, Code::FileExists);
        let over = json!({"action": "rename", "to": to, "replace": true});
        assert_eq!(act(rig, &at("a/b/f", ""), over).status, 200);
        assert_eq!(std::fs::read(shared.at("a/g")).unwrap(), b"2");
        let mode = act(rig, &at("a/g", ""), json!({"action": "chmod", "mode": 0o600}));
        let info: FileInfo = serde_json::from_slice(&mode.body).unwrap();
        assert_eq!((info.mode, info.kind, info.size), (0o600, FileKind::File, 1));
        let touched = act(rig, &at("a/g", ""), json!({"action": "touch", "mtime": 1_000_000_000}));
        let info: FileInfo = serde_json::from_slice(&touched.body).unwrap();
        assert_eq!(info.mtime, 1_000_000_000);
        let digest = act(rig, &at("a/g", ""), json!({"action": "digest"})).json();
        assert_eq!(
            digest["sha256"],
            "d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35"
        );
        refused(&ask(rig, "DELETE", &at("a", ""), &[], None), 409, Code::NotEmpty);
        // A link that leads out is removed, and what it leads to is not.
        std::fs::write(shared.at("kept"), "kept").unwrap();
        symlink(shared.path(), shared.at("a/b/out")).unwrap();
        let removed = ask(rig, "DELETE", &at("a", "?recursive=true"), &[], None);
        assert_eq!(removed.status, 204, "{}", removed.text());
        assert_eq!(shared.names(), ["kept"]);
    });
}

#[test]
fn what_cannot_be_is_said_with_its_path() {
    both(|rig, shared, place| {
        let at = |name: &str, query: &str| url(place, &shared.at(name), query);
        std::fs::create_dir(shared.at("dir")).unwrap();
        std::fs::write(shared.at("f"), "f").unwrap();
        let missing = ask(rig, "GET", &at("nothing", ""), &[], None);
        let problem = refused(&missing, 404, Code::FileNotFound);
        assert!(problem.detail.contains("/nothing is not there"), "{}", problem.detail);
        refused(&ask(rig, "GET", &at("dir", ""), &[], None), 409, Code::IsDirectory);
        refused(&ask(rig, "PUT", &at("dir", ""), &[], Some(b"x")), 409, Code::IsDirectory);
        refused(&ask(rig, "GET", &at("f", "?list=true"), &[], None), 409, Code::NotDirectory);
        let long = "x".repeat(300);
        refused(&ask(rig, "PUT", &at(&long, ""), &[], Some(b"x")), 400, Code::NameTooLong);
        refused(&ask(rig, "PUT", &at("no/such/dir", ""), &[], Some(b"x")), 404, Code::FileNotFound);
        let bad = ask(rig, "GET", &format!("/v1/hosts/{place}/files/a%00b"), &[], None);
        refused(&bad, 400, Code::BadRequest);
        let bad = ask(rig, "GET", &format!("/v1/hosts/{place}/files/a%zz"), &[], None);
        refused(&bad, 400, Code::BadRequest);
        // Reading a pipe would wait for ever, in the server as well.
        rustix::fs::mknodat(
            rustix::fs::CWD,
            shared.at("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o666),
            0,
        )
        .unwrap();
        refused(&ask(rig, "GET", &at("pipe", ""), &[], None), 409, Code::FileError);
        if place == "h" && rustix::process::geteuid().is_root() {
            let secret = Shared::new();
            std::fs::write(secret.at("s"), "s").unwrap();
            std::fs::set_permissions(secret.at("s"), std::fs::Permissions::from_mode(0o600))
                .unwrap();
            let read = ask(rig, "GET", &url(place, &secret.at("s"), ""), &[], None);
            refused(&read, 403, Code::PermissionDenied);
        }
        assert_eq!(shared.names(), ["dir", "f", "pipe"]);
    });
}

#[test]
fn a_small_request_needs_no_new_session() {
    let Some((sshd, rig)) = sshd() else { return };
    let shared = Shared::new();
    std::fs::write(shared.at("f"), "f").unwrap();
    let url = url("h", &shared.at("f"), "");
    for _ in 0..5 {
        assert_eq!(ask(&rig, "GET", &url, &[], None).body, b"f");
    }
    assert_eq!(sshd.log().matches("subsystem 'sftp'").count(), 1, "{}", sshd.log());
    // It stands by: the host counts as unused.
    eventually("no channel in use", || status(&rig).open_channels == 0);
}

#[test]
fn without_the_subsystem_the_program_is_found() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let rig = daemon_for(&sshd);
    let shared = Shared::new();
    let url = url("h", &shared.at("f"), "");
    let written = ask(&rig, "PUT", &url, &[], Some(b"without"));
    assert_eq!(written.status, 200, "{}", written.text());
    assert_eq!(ask(&rig, "GET", &url, &[], None).body, b"without");
}

/// Returns the lines of a stream that is still open.
pub(crate) struct Lines(std::io::BufReader<std::os::unix::net::UnixStream>);

impl Lines {
    fn of(rig: &DaemonRig, url: &str) -> Self {
        Self::on(&rig.socket(), url)
    }

    pub(crate) fn on(socket: &Path, url: &str) -> Self {
        use std::io::{BufRead as _, Write as _};
        let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(crate::support::GUARD)).unwrap();
        write!(stream, "GET {url} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut lines = std::io::BufReader::new(stream);
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 200"), "{line}");
        while line != "\r\n" {
            line.clear();
            lines.read_line(&mut line).unwrap();
        }
        Self(lines)
    }

    /// Returns the next document, whatever it comes in.
    pub(crate) fn next(&mut self) -> Value {
        use std::io::BufRead as _;
        loop {
            let mut line = String::new();
            assert_ne!(self.0.read_line(&mut line).unwrap(), 0, "the stream has ended");
            if line.starts_with('{') {
                return serde_json::from_str(&line).unwrap();
            }
        }
    }

    /// Returns the next document that is about something else than was told before.
    pub(crate) fn until(&mut self, wanted: &Value) {
        loop {
            let next = self.next();
            if next == *wanted {
                return;
            }
            assert_ne!(next["event"], "failed", "{next} instead of {wanted}");
        }
    }
}

#[test]
fn what_changes_in_a_directory_is_told() {
    both(|rig, shared, place| {
        std::fs::create_dir(shared.at("d")).unwrap();
        let mut lines = Lines::of(rig, &url(place, shared.path(), "?watch=true&recursive=true"));
        let ready = lines.next();
        assert_eq!(ready["event"], "ready", "{ready}");
        std::fs::write(shared.at("d/a b"), "1").unwrap();
        lines.until(&json!({"event": "created", "path": "d/a b"}));
        std::fs::write(shared.at("d/a b"), "longer").unwrap();
        lines.until(&json!({"event": "changed", "path": "d/a b"}));
        std::fs::rename(shared.at("d/a b"), shared.at("d/new\nline")).unwrap();
        lines.until(&json!({"event": "created", "path": "d/new\nline"}));
        std::fs::remove_file(shared.at("d/new\nline")).unwrap();
        lines.until(&json!({"event": "removed", "path": "d/new\nline"}));
        // The name of a file, whichever file has it.
        std::fs::write(shared.at("f"), "1").unwrap();
        let mut one = Lines::of(rig, &url(place, &shared.at("f"), "?watch=true"));
        assert_eq!(one.next()["event"], "ready");
        std::fs::write(shared.at("other"), "1").unwrap();
        std::fs::write(shared.at("g"), "another").unwrap();
        std::fs::rename(shared.at("g"), shared.at("f")).unwrap();
        let told = one.next();
        assert_eq!(told["path"], "f", "{told}");
        refused(
            &ask(rig, "GET", &url(place, &shared.at("no"), "?watch=true"), &[], None),
            404,
            Code::FileNotFound,
        );
    });
}

#[test]
fn a_watch_ends_with_its_directory() {
    both(|rig, shared, place| {
        for moved in [false, true] {
            let dir = shared.at("d");
            std::fs::create_dir_all(dir.join("sub")).unwrap();
            let mut lines = Lines::of(rig, &url(place, &dir, "?watch=true&recursive=true"));
            assert_eq!(lines.next()["event"], "ready");
            match moved {
                true => std::fs::rename(&dir, shared.at("e")).unwrap(),
                false => std::fs::remove_dir_all(&dir).unwrap(),
            }
            let mut last = lines.next();
            while last["event"] == "removed" {
                last = lines.next();
            }
            let gone = json!({"event": "failed", "reason": "the directory is gone"});
            assert_eq!(last, gone, "{place} {moved}");
        }
    });
}

#[test]
fn a_watch_outlives_the_link_and_nothing_outlives_the_watch() {
    let Some(far) = crate::session::Far::start() else { return };
    let shared = Shared::new();
    let mut lines = Lines::of(&far.rig, &url("h", shared.path(), "?watch=true"));
    assert_eq!(lines.next(), json!({"event": "ready", "by": "inotify"}));
    far.link.reset_all();
    let resync = lines.next();
    assert_eq!(resync["event"], "resync", "{resync}");
    lines.until(&json!({"event": "ready", "by": "inotify"}));
    std::fs::write(shared.at("f"), "1").unwrap();
    lines.until(&json!({"event": "created", "path": "f"}));
    crate::support::eventually("one to be left", || {
        let programs = crate::support::remote_programs(&far.sshd);
        programs.iter().filter(|program| program.name() == "inotifywait").count() == 1
    });
    drop(lines);
    crate::support::no_programs(&far.sshd, crate::support::GUARD);
}

#[test]
fn a_watch_whose_link_is_closed_does_not_say_that_the_directory_is_gone() {
    for stops in [false, true] {
        let Some((_sshd, mut rig)) = sshd() else { return };
        let shared = Shared::new();
        let mut lines = Lines::of(&rig, &url("h", shared.path(), "?watch=true"));
        assert_eq!(lines.next(), json!({"event": "ready", "by": "inotify"}));
        if stops {
            rig.terminate_daemon();
            let failed = json!({
                "event": "failed", "reason": "occd is stopping", "code": "shutting_down",
            });
            assert_eq!(lines.next(), failed);
            continue;
        }
        rig.occ_ok(&["disconnect", "--host", "h"]);
        let closed = json!({"event": "resync", "reason": "the connection was closed by occd"});
        assert_eq!(lines.next(), closed);
        let failed =
            json!({"event": "failed", "reason": "no connection to the host: host stopped"});
        assert_eq!(lines.next(), failed);
    }
}

#[test]
fn lines_are_found_whichever_program_looks() {
    both(|rig, shared, place| {
        std::fs::create_dir(shared.at("d")).unwrap();
        std::fs::write(shared.at("d/a:1:b.txt"), "none\nsome Needle here\n").unwrap();
        std::fs::write(shared.at("z.rs"), "needle(1)\n").unwrap();
        std::fs::write(shared.at("not.bin"), "needle").unwrap();
        let found = |query: &str| -> (Vec<Value>, Value) {
            let answer = ask(rig, "GET", &url(place, shared.path(), query), &[], None);
            assert_eq!(answer.status, 200, "{}", answer.text());
            let text = answer.text();
            let mut all: Vec<Value> =
                text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            let done = all.pop().unwrap();
            all.sort_by_key(|found| found["path"].to_string());
            (all, done)
        };
        let (all, done) =
            found("?search=needle&ignore_case=true&literal=true&globs=*.txt%0A*.rs%0A!not*");
        assert_eq!((&done["event"], &done["matches"]), (&json!("done"), &json!(2)), "{done}");
        let hit = json!({"event": "match", "path": "d/a:1:b.txt", "line": 2, "column": 6, "text": "some Needle here"});
        assert_eq!(all[0], hit);
        assert_eq!((&all[1]["path"], &all[1]["line"]), (&json!("z.rs"), &json!(1)));
        let (all, done) = found("?search=ne%2Bdle%5C(1&globs=*.rs");
        assert_eq!(all.len(), 1, "{done} {all:?}");
        let (all, done) = found("?search=needle&ignore_case=true&limit=1");
        assert_eq!((all.len(), &done["limited"]), (1, &json!(true)), "{done}");
        let (all, done) = found("?search=nothing+like+it");
        assert!(all.is_empty() && done["event"] == "done", "{done}");
    });
}

#[test]
fn a_search_that_could_not_read_everything_names_its_program_and_what_that_says() {
    let Some((_sshd, rig)) = sshd() else { return };
    let shared = Shared::new();
    std::fs::write(shared.at("open"), "needle\n").unwrap();
    // Another user's, and of no use to the host's.
    std::fs::write(shared.at("shut"), "needle\n").unwrap();
    std::fs::set_permissions(shared.at("shut"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let answer = ask(&rig, "GET", &url("h", shared.path(), "?search=needle"), &[], None);
    let text = answer.text();
    let done: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((&done["event"], &done["matches"]), (&json!("done"), &json!(1)), "{text}");
    let by = done["by"].as_str().unwrap();
    let wanted = format!("some of it could not be read ({by} ended with 2)");
    assert_eq!(done["trouble"], wanted);
}

#[test]
fn a_line_that_is_too_long_to_be_kept_is_cut_and_harms_no_other() {
    both(|rig, shared, place| {
        let long = [&b"needle "[..], &vec![b'x'; 6_000_000], b"\nneedle 2\n"].concat();
        std::fs::write(shared.at("a"), long).unwrap();
        std::fs::write(shared.at("b"), "needle 3\n").unwrap();
        let answer =
            ask(rig, "GET", &url(place, shared.path(), "?search=needle&literal=true"), &[], None);
        let all = answer.text();
        let all = all.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut told: Vec<_> = all
            .map(|found| {
                let text = found["text"].as_str().unwrap_or_default().get(..8).unwrap_or_default();
                (found["path"].clone(), found["line"].clone(), text.to_owned())
            })
            .collect();
        told.pop();
        told.sort_by_key(|(path, line, _)| (path.to_string(), line.to_string()));
        let hit = |path, line, text: &str| (json!(path), json!(line), text.to_owned());
        let hits = [hit("a", 1, "needle x"), hit("a", 2, "needle 2"), hit("b", 1, "needle 3")];
        assert_eq!(told, hits, "{place}");
    });
}

#[test]
fn what_is_told_of_a_long_line_has_the_match_in_it() {
    both(|rig, shared, place| {
        let line = format!("{}needle{}\n", "\u{e4}".repeat(5_001), "\u{fc}".repeat(5_000));
        std::fs::write(shared.at("a"), line).unwrap();
        for query in ["?search=needle&literal=true", "?search=(needle)x*"] {
            let answer = ask(rig, "GET", &url(place, shared.path(), query), &[], None);
            let text = answer.text();
            let found: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
            let piece = found["text"].as_str().unwrap_or_else(|| panic!("no UTF-8: {found}"));
            assert!(piece.len() <= 1000 && piece.contains("needle"), "{place} {query}: {found}");
            if let Some(column) = found["column"].as_u64() {
                let at = found["text_column"].as_u64().unwrap() - 1;
                assert_eq!(piece.find("needle").unwrap() as u64 + at, column - 1, "{found}");
            }
        }
    });
}

#[test]
fn two_uploads_of_one_file_do_not_mix() {
    use std::io::{Read as _, Write as _};
    both(|rig, shared, place| {
        let at = url(place, &shared.at("f"), "?resume=0");
        let begin = |bytes: &[u8]| {
            let mut stream = std::os::unix::net::UnixStream::connect(rig.socket()).unwrap();
            stream.set_read_timeout(Some(crate::support::GUARD)).unwrap();
            let length = bytes.len();
            let head = format!(
                "PUT {at} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(&bytes[..length / 2]).unwrap();
            stream
        };
        let end = |mut stream: std::os::unix::net::UnixStream, bytes: &[u8]| {
            stream.write_all(&bytes[bytes.len() / 2..]).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        let (one, two) = (vec![b'1'; 2_000_000], vec![b'2'; 2_000_000]);
        let (first, second) = (begin(&one), begin(&two));
        let parts = || shared.names().iter().filter(|name| name.starts_with(".f.occ-")).count();
        crate::support::eventually("both to be under way", || parts() == 2);
        let answer = end(second, &two);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(std::fs::read(shared.at("f")).unwrap() == two);
        let answer = end(first, &one);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(std::fs::read(shared.at("f")).unwrap() == one);
        assert_eq!(shared.names(), ["f"]);
    });
}

#[test]
fn what_a_broken_link_leaves_is_cleared_away() {
    let Some(mut far) = crate::session::Far::start() else { return };
    let shared = Shared::new();
    let at = url("h", &shared.at("f"), "");
    let part = || shared.names().into_iter().find(|name| name.starts_with(".f.occ-"));
    for killed in [false, true] {
        use std::io::Write as _;
        let mut stream = std::os::unix::net::UnixStream::connect(far.rig.socket()).unwrap();
        let head =
            format!("PUT {at} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&[7; 1_000_000]).unwrap();
        crate::support::eventually("some of it to be there", || {
            part().is_some_and(|part| std::fs::metadata(shared.at(part)).unwrap().len() > 0)
        });
        if killed {
            let noted = far.rig.root().join("state/occ/left.json");
            crate::support::eventually("it to be noted", || {
                std::fs::read_to_string(&noted).is_ok_and(|text| text.contains(".f.occ-"))
            });
            far.rig.kill_daemon();
            assert!(part().is_some());
            far.rig.start_daemon(&[]);
            // Nobody asks for files: to be connected is enough.
            far.rig.occ_ok(&["exec", "--host", "h", "--", "true"]);
        } else {
            far.link.reset_all();
        }
        drop(stream);
        crate::support::eventually("nothing to be left", || shared.names().is_empty());
    }
}

#[test]
fn nothing_else_is_cleared_away_whatever_the_list_says() {
    let Some((_sshd, mut rig)) = sshd() else { return };
    let shared = Shared::new();
    let (mine, left) = (shared.at("mine"), shared.at(".f.occ-01234567"));
    for dir in [&mine, &left] {
        let made = act(&rig, &url("h", dir, ""), json!({"action": "mkdir"}));
        assert_eq!(made.status, 200, "{}", made.text());
    }
    rig.terminate_daemon();
    let list = json!({"h": [{"path": mine, "tree": true}, {"path": left, "tree": true}]});
    std::fs::write(rig.root().join("state/occ/left.json"), list.to_string()).unwrap();
    rig.start_daemon(&[]);
    rig.occ_ok(&["exec", "--host", "h", "--", "true"]);
    crate::support::eventually("it to be cleared away", || !left.exists());
    assert!(mine.is_dir());
}

#[test]
fn a_request_whose_body_does_not_come_is_answered_when_the_daemon_stops() {
    use std::io::{Read as _, Write as _};
    let mut rig = DaemonRig::new();
    for (path, more) in [
        ("/v1/hosts/local/exec", ""),
        ("/v1/hosts", "Idempotency-Key: k\r\n"),
        ("/v1/sessions/s/input", ""),
    ] {
        rig.start_daemon(&[]);
        let mut post = std::os::unix::net::UnixStream::connect(rig.socket()).unwrap();
        post.set_read_timeout(Some(crate::support::GUARD)).unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{more}Content-Length: 1000\r\n\r\n{{"
        );
        post.write_all(head.as_bytes()).unwrap();
        eventually("it to be read", || {
            let asked = rig.http("POST", "/v1/hand-over?version=none", &[], None);
            asked.json()["in_flight"] == 1
        });
        rig.terminate_daemon();
        let mut answer = String::new();
        post.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503"), "{path}: {answer}");
        assert!(answer.contains("\"shutting_down\""), "{path}: {answer}");
        assert!(!rig.log().contains("not everything ended in time"), "{path}");
    }
}

#[test]
fn an_upload_that_does_not_go_on_is_answered_when_the_daemon_stops_and_leaves_nothing() {
    use std::io::{Read as _, Write as _};
    let Some((_sshd, mut rig)) = sshd() else { return };
    let shared = Shared::new();
    for (place, query) in [("h", ""), ("local", ""), ("h", "?tar=true")] {
        rig.occ_ok(&["exec", "--host", "h", "--", "true"]);
        let at = url(place, &shared.at("f"), query);
        let mut put = std::os::unix::net::UnixStream::connect(rig.socket()).unwrap();
        put.set_read_timeout(Some(crate::support::GUARD)).unwrap();
        let head =
            format!("PUT {at} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n");
        put.write_all(head.as_bytes()).unwrap();
        let mut start = Vec::new();
        if !query.is_empty() {
            let path = b"f".to_vec();
            let kind = occ_proto::tar::Kind::File;
            let entry =
                occ_proto::tar::Entry { path, kind, mode: 0o644, mtime: 1, size: 9_000_000 };
            occ_proto::tar::head(&mut start, &entry);
        }
        start.resize(start.len() + 1_000_000, 7);
        put.write_all(&start).unwrap();
        eventually("it to be under way", || shared.names().len() == 1);
        rig.terminate_daemon();
        let mut answer = Vec::new();
        put.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 503"), "{place}{query}: {answer}");
        assert!(answer.contains("\"shutting_down\""), "{place}{query}: {answer}");
        assert_eq!(shared.names(), [""; 0], "{place}{query}");
        assert!(!rig.log().contains("not everything ended in time"), "{place}{query}");
        rig.start_daemon(&[]);
    }
}

#[test]
fn a_copy_that_the_daemons_end_cuts_off_does_not_blame_the_host() {
    use std::io::{Read as _, Write as _};
    for with_sftp in [true, false] {
        let (_sshd, mut rig) = match with_sftp {
            true => match sshd() {
                Some((sshd, rig)) => (sshd, rig),
                None => return,
            },
            false => match bare(false) {
                Some((sshd, rig, _bin)) => (sshd, rig),
                None => return,
            },
        };
        let shared = Shared::new();
        let mut tree = Vec::new();
        let kind = occ_proto::tar::Kind::File;
        let entry = occ_proto::tar::Entry {
            path: b"f".to_vec(),
            kind,
            mode: 0o644,
            mtime: 1,
            size: 9_000_000,
        };
        occ_proto::tar::head(&mut tree, &entry);
        for query in ["?tar=true", ""] {
            let at = url("h", &shared.at("new"), query);
            let mut put = std::os::unix::net::UnixStream::connect(rig.socket()).unwrap();
            let head = format!(
                "PUT {at} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 9000000\r\n\r\n"
            );
            put.write_all(head.as_bytes()).unwrap();
            put.write_all(&tree).unwrap();
            put.write_all(&[7; 1_000_000]).unwrap();
            crate::support::eventually("it to be under way", || shared.names().len() == 1);
            // It goes on, slowly, until it is told.
            let mut sender = put.try_clone().unwrap();
            put.set_nonblocking(true).unwrap();
            let sending = std::thread::spawn(move || {
                let mut answer = Vec::new();
                loop {
                    match put.read_to_end(&mut answer) {
                        Ok(_) => return String::from_utf8(answer).unwrap(),
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                        Err(error) => panic!("{error}: {}", String::from_utf8_lossy(&answer)),
                    }
                    if answer.is_empty() {
                        // It may be refused in this moment.
                        let _ = sender.write(&[7; 4096]);
                    } else {
                        let _ = sender.shutdown(std::net::Shutdown::Write);
                    }
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
            });
            rig.terminate_daemon();
            let answer = sending.join().unwrap();
            let is_cut = answer.contains("file_interrupted") && answer.contains("closed by occd");
            assert!(is_cut || answer.contains("shutting_down"), "{query}: {answer}");
            rig.start_daemon(&[]);
            rig.occ_ok(&["exec", "--host", "h", "--", "true"]);
            crate::support::eventually("nothing to be left", || shared.names().is_empty());
        }
    }
}

#[test]
fn what_an_upload_leaves_in_a_directory_with_a_new_name_is_cleared_away() {
    use std::io::Write as _;
    let with_sftp = sshd();
    let without = bare(false);
    let rigs = [with_sftp.as_ref().map(|(_, rig)| rig), without.as_ref().map(|(_, rig, _)| rig)];
    // By whatever names the two go.
    let ways =
        [("", "old", ""), ("in/..", "old", ""), ("link", "old", ""), ("", "link/old", "link")];
    for (rig, (above, old, beside)) in
        rigs.into_iter().flatten().flat_map(|rig| ways.map(|way| (rig, way)))
    {
        let shared = Shared::new();
        std::os::unix::fs::symlink(".", shared.at("link")).unwrap();
        std::fs::create_dir(shared.at("in")).unwrap();
        let old = url("h", &shared.at(old), "");
        let made = act(rig, &old, json!({"action": "mkdir"}));
        assert_eq!(made.status, 200, "{}", made.text());
        let at = url("h", &shared.at(above).join("old/f"), "");
        let mut stream = std::os::unix::net::UnixStream::connect(rig.socket()).unwrap();
        let head =
            format!("PUT {at} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&[7; 1_000_000]).unwrap();
        let names = |dir: &str| {
            let entries = std::fs::read_dir(shared.at(dir)).into_iter().flatten();
            entries.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>()
        };
        crate::support::eventually("it to be under way", || names("old").len() == 1);
        let renamed =
            act(rig, &old, json!({"action": "rename", "to": shared.at(beside).join("new")}));
        assert_eq!(renamed.status, 200, "{}", renamed.text());
        assert_eq!(names("new").len(), 1);
        drop(stream);
        crate::support::eventually("nothing to be left", || names("new").is_empty());
    }
}

#[test]
fn files_of_a_shell_are_copied_with_everything_in_them() {
    for busybox in [false, true] {
        let Some((_sshd, rig, bin)) = bare(busybox) else { return };
        // With tar, and with nothing but a shell's own tools.
        for tar in [true, false] {
            if !tar {
                if !busybox {
                    continue;
                }
                std::fs::remove_file(bin.at("tar")).unwrap();
            }
            crate::files_cli::round_trip(&rig);
        }
    }
}

#[test]
fn dropbear_without_sftp_serves_files_through_its_shell() {
    if !testkit::Dropbear::require() || std::path::Path::new("/usr/lib/sftp-server").exists() {
        // Debian's dropbear serves SFTP by OpenSSH's program, which is there.
        return;
    }
    let dropbear = testkit::Dropbear::start();
    let rig = daemon_for(&dropbear);
    let shared = Shared::new();
    let at = url("h", &shared.at("f"), "");
    assert_eq!(ask(&rig, "PUT", &at, &[], Some(b"x")).status, 200);
    assert_eq!(ask(&rig, "GET", &at, &[], None).body, b"x");
}

#[test]
fn hard_links_arrive_as_files_where_there_is_no_tar() {
    let Some((_sshd, rig)) = sshd() else { return };
    let shared = Shared::new();
    std::fs::create_dir(shared.at("tree")).unwrap();
    std::fs::write(shared.at("tree/one"), "content").unwrap();
    std::fs::hard_link(shared.at("tree/one"), shared.at("tree/two")).unwrap();
    let tree = ask(&rig, "GET", &url("h", &shared.at("tree"), "?tar=true"), &[], None).body;
    // This machine's files are written one by one.
    let written =
        ask(&rig, "PUT", &url("local", &shared.at("copy"), "?tar=true"), &[], Some(&tree));
    assert_eq!(written.status, 200, "{}", written.text());
    for name in ["copy/one", "copy/two"] {
        assert_eq!(std::fs::read(shared.at(name)).unwrap(), b"content", "{name}");
    }
    assert_eq!(written.json()["files"], 2);
}

#[test]
fn a_link_in_a_tree_leads_nothing_out_of_it() {
    let Some((_sshd, rig)) = sshd() else { return };
    let (shared, outside) = (Shared::new(), Shared::new());
    use occ_proto::tar::{self, Entry, Kind};
    let mut tree = Vec::new();
    let entry =
        |path: &[u8], kind, size| Entry { path: path.to_vec(), kind, mode: 0o644, mtime: 1, size };
    let out = outside.path().as_os_str().as_bytes().to_vec();
    tar::head(&mut tree, &entry(b"l", Kind::Symlink(out), 0));
    tar::head(&mut tree, &entry(b"l/f", Kind::File, 1));
    tree.push(b'x');
    tree.resize(tree.len() + tar::padding(1), 0);
    tree.extend_from_slice(&tar::END);
    let put = ask(&rig, "PUT", &url("local", &shared.at("t"), "?tar=true"), &[], Some(&tree));
    assert_ne!(put.status, 500, "{}", put.text());
    assert!(outside.names().is_empty());
}

#[test]
fn what_is_gone_on_with_is_a_file_and_no_link_that_somebody_has_put_there() {
    let Some((_sshd, rig)) = sshd() else { return };
    let plain = RealSshd::start();
    let without_sftp = daemon_for(&plain);
    for (rig, place) in [(&rig, "h"), (&rig, "local"), (&without_sftp, "h")] {
        let shared = Shared::new();
        let victim = shared.at("victim");
        std::fs::write(&victim, "theirs\n").unwrap();
        std::fs::set_permissions(&victim, std::fs::Permissions::from_mode(0o666)).unwrap();
        for offset in [3, 7] {
            symlink(&victim, shared.at(".f.occ-part")).unwrap();
            let at = url(place, &shared.at("f"), &format!("?resume={offset}"));
            let answer = http::request(&rig.socket(), "PUT", &at, &[], Some(b"ours\n")).unwrap();
            assert_eq!(answer.status, 416, "{place}: {}", answer.text());
            // How long the other one is, is nobody's business.
            assert!(!answer.text().contains("7 bytes"), "{}", answer.text());
            assert_eq!(std::fs::read_to_string(&victim).unwrap(), "theirs\n", "{place}");
            assert_eq!(shared.names(), ["victim"], "{place}");
        }
    }
}

#[test]
fn what_somebody_else_made_is_not_gone_on_with_and_keeps_nobody_from_copying() {
    if !testkit::require::require_root("a file of somebody else's") {
        return;
    }
    both(|rig, shared, place| {
        let part = shared.at(".f.occ-part");
        std::fs::write(&part, "abc").unwrap();
        std::fs::set_permissions(&part, std::fs::Permissions::from_mode(0o666)).unwrap();
        std::os::unix::fs::chown(&part, Some(4242), Some(4242)).unwrap();
        let theirs = std::fs::File::open(&part).unwrap();
        let at = |query: &str| url(place, &shared.at("f"), query);
        let answer = ask(rig, "PUT", &at("?resume=3"), &[], Some(b"ours\n"));
        let detail = refused(&answer, 416, Code::OutOfRange).detail;
        assert!(
            detail.ends_with(
                "f cannot be gone on with there: another length of it is kept, or nothing."
            ),
            "{place}: {detail}"
        );
        assert_eq!(theirs.metadata().unwrap().len(), 3, "{place}");
        assert!(shared.names().is_empty(), "{place}: {:?}", shared.names());
        // Nor is it gone on with where another length is kept.
        let put = ask(rig, "PUT", &url(place, &part, ""), &[], Some(b"our"));
        assert_eq!(put.status, 200, "{}", put.text());
        let answer = ask(rig, "PUT", &at("?resume=2"), &[], Some(b"rs\n"));
        let detail = refused(&answer, 416, Code::OutOfRange).detail;
        assert!(
            detail.ends_with(
                "f cannot be gone on with there: another length of it is kept, or nothing."
            ),
            "{place}: {detail}"
        );
        eventually("it to be kept still", || std::fs::read(&part).is_ok_and(|kept| kept == b"our"));
        std::fs::remove_file(&part).unwrap();
        // What cannot be removed is in nobody's way.
        std::fs::create_dir_all(part.join("x")).unwrap();
        for query in ["?resume=3", "?resume=0"] {
            let answer = ask(rig, "PUT", &at(query), &[], Some(b"ours\n"));
            let wanted = if query == "?resume=0" { 200 } else { 416 };
            assert_eq!(answer.status, wanted, "{place}: {}", answer.text());
            eventually("it to be back", || part.join("x").exists());
        }
        assert_eq!(std::fs::read(shared.at("f")).unwrap(), b"ours\n");
        assert_ne!(std::fs::metadata(shared.at("f")).unwrap().uid(), 4242);
    });
}

/// Begins to write a file slowly, puts something else where its bytes go meanwhile, and writes the rest. Returns the answer.
fn exchanged(rig: &DaemonRig, shared: &Shared, query: &str, bytes: &[u8], link: &Path) -> String {
    use std::io::{Read as _, Write as _};
    let mut put = std::os::unix::net::UnixStream::connect(rig.socket()).unwrap();
    let (at, length) = (url("h", &shared.at("f"), query), bytes.len());
    write!(put, "PUT {at} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n")
        .unwrap();
    let (first, rest) = bytes.split_at(length / 10);
    put.write_all(first).unwrap();
    let part = || shared.names().into_iter().find(|name| name.starts_with(".f.occ-"));
    let part = testkit::wait::blocking::wait_until(
        "the first bytes",
        crate::support::GUARD,
        part,
        Option::is_some,
    );
    std::fs::rename(shared.at(part.as_ref().unwrap()), shared.at("moved")).unwrap();
    symlink(link, shared.at(part.unwrap())).unwrap();
    put.write_all(rest).unwrap();
    let mut answer = String::new();
    put.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_long_file_is_not_written_through_a_link_that_takes_its_place() {
    let Some(far) = crate::session::Far::start() else { return };
    far.link.set_latency(std::time::Duration::from_millis(25));
    let shared = Shared::new();
    let victim = shared.at("victim");
    std::fs::write(&victim, "theirs\n").unwrap();
    std::fs::set_permissions(&victim, std::fs::Permissions::from_mode(0o666)).unwrap();
    let answer = exchanged(&far.rig, &shared, "?resume=0", &vec![b'x'; 60_000_000], &victim);
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "theirs\n");
}

#[test]
fn where_a_shell_writes_a_link_gives_its_file_no_permissions() {
    let Some((_sshd, rig, _bin)) = bare(false) else { return };
    let shared = Shared::new();
    let victim = shared.at("victim");
    let line = format!("umask 077; echo theirs >{}", victim.display());
    rig.occ_ok(&["exec", "--host", "h", "--shell", "--", &line]);
    let answer = exchanged(&rig, &shared, "?mode=666", b"0123456789", &victim);
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(std::fs::metadata(&victim).unwrap().mode() & 0o777, 0o600);
}
