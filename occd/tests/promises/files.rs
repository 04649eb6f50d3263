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

/// Runs the same on a host and on this machine: both are to give the same.
fn both(test: impl Fn(&DaemonRig, &Shared, &str)) {
    let Some((_sshd, rig)) = sshd() else { return };
    for place in ["h", "local"] {
        test(&rig, &Shared::new(), place);
    }
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
        let url = format!("{url}?if_sha256={wrong}");
        refused(&ask(rig, "PUT", &url, &[], Some(b"two")), 412, Code::FileChanged);
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
