//! `occ cp`, `ls`, `cat` and `rm`: what a copy that fails leaves, and what is said of it.

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};

use testkit::DaemonRig;

use crate::files::{Shared, sshd};
use crate::session::Far;
use crate::support::{GUARD, exit_code};

fn arg(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn there(path: &Path) -> String {
    format!("h:{}", path.display())
}

/// Runs `occ` and returns exit code and standard error.
fn fails(rig: &DaemonRig, args: &[&str]) -> (i32, String) {
    let output = rig.run_occ(args);
    (output.code(), output.stderr)
}

fn random(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(len as u64).fill(&mut bytes);
    bytes
}

#[test]
fn a_download_starts_no_daemon_that_somebody_has_stopped() {
    let Some((_sshd, mut rig)) = sshd() else { return };
    rig.set_env("OCCD_BIN", testkit::daemon::daemon_binary());
    let shared = Shared::new();
    let file = std::fs::File::create(shared.at("f")).unwrap();
    file.set_len(1 << 40).unwrap();
    let mut cat = rig.occ(&["cat", &there(&shared.at("f"))]);
    let mut cat = cat.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = cat.stdout.take().unwrap();
    std::io::Read::read_exact(&mut stdout, &mut [0; 1000]).unwrap();
    let reading = std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
    rig.occ_ok(&["daemon", "stop"]);
    let (code, mut said) = (exit_code(&mut cat), String::new());
    std::io::Read::read_to_string(&mut cat.stderr.take().unwrap(), &mut said).unwrap();
    let _ = reading.join().unwrap();
    assert!(code == 3 && said.contains("/f: occd stopped"), "{code}: {said}");
    assert!(said.contains("hint: occ cat h:"), "{said}");
    assert_eq!(rig.run_occ(&["daemon", "status"]).code(), 3);
}

#[test]
fn a_watch_and_a_search_say_that_the_daemon_is_stopped() {
    let Some((_sshd, mut rig)) = sshd() else { return };
    rig.set_env("OCCD_BIN", testkit::daemon::daemon_binary());
    let shared = Shared::new();
    // It is looked through for ever.
    std::fs::File::create(shared.at("f")).unwrap().set_len(1 << 40).unwrap();
    let dir = there(shared.path());
    for args in [&["files", "watch", &dir][..], &["files", "search", "x", &dir]] {
        rig.occ_ok(&["exec", "--host", "h", "--", "true"]);
        let mut occ = rig.occ(args);
        let mut occ = occ.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        crate::support::eventually("it to be under way", || {
            let asked = rig.http("POST", "/v1/hand-over?version=none", &[], None);
            asked.json()["in_flight"] == 1
        });
        rig.occ_ok(&["daemon", "stop"]);
        let (code, mut said) = (exit_code(&mut occ), String::new());
        std::io::Read::read_to_string(&mut occ.stderr.take().unwrap(), &mut said).unwrap();
        assert!(code == 3 && said.contains("occd is stopping"), "{args:?} {code}: {said}");
    }
}

#[test]
fn a_file_goes_there_and_back() {
    let Some((_sshd, rig)) = sshd() else { return };
    let (here, shared) = (Shared::new(), Shared::new());
    for len in [0, 5, 3_000_000] {
        let bytes = random(len);
        std::fs::write(here.at("f"), &bytes).unwrap();
        rig.occ_ok(&["cp", arg(&here.at("f")), &there(&shared.at("g"))]);
        assert!(std::fs::read(shared.at("g")).unwrap() == bytes);
        rig.occ_ok(&["cp", &there(&shared.at("g")), arg(&here.at("h"))]);
        assert!(std::fs::read(here.at("h")).unwrap() == bytes);
        let cat = rig.occ(&["cat", &there(&shared.at("g"))]).output().unwrap();
        assert!(cat.status.success() && cat.stdout == bytes);
    }
    // Into a directory, and from host to host.
    std::fs::create_dir(shared.at("dir")).unwrap();
    std::fs::set_permissions(shared.at("dir"), std::fs::Permissions::from_mode(0o777)).unwrap();
    rig.occ_ok(&["cp", arg(&here.at("f")), &there(&shared.at("dir"))]);
    rig.occ_ok(&["cp", &there(&shared.at("g")), &there(&shared.at("dir/k"))]);
    assert!(std::fs::read(shared.at("dir/k")).unwrap() == random(3_000_000));
    let listed = rig.occ_ok(&["ls", &there(&shared.at("dir"))]);
    assert_eq!(listed, "f\nk\n");
    rig.occ_ok(&["rm", &there(&shared.at("dir/f")), &there(&shared.at("dir/k"))]);
    rig.occ_ok(&["rm", "-f", &there(&shared.at("dir/f"))]);
    assert!(std::fs::read_dir(shared.at("dir")).unwrap().next().is_none());
}

#[test]
fn times_permissions_and_ends_of_lines() {
    let Some((_sshd, rig)) = sshd() else { return };
    let (here, shared) = (Shared::new(), Shared::new());
    std::fs::write(here.at("f"), "#!/bin/sh\r\necho\r\n").unwrap();
    std::fs::set_permissions(here.at("f"), std::fs::Permissions::from_mode(0o750)).unwrap();
    let touched = Command::new("touch").args(["-d", "@1000000000"]).arg(here.at("f")).status();
    assert!(touched.unwrap().success());
    rig.occ_ok(&["cp", "-p", arg(&here.at("f")), &there(&shared.at("f"))]);
    let meta = std::fs::metadata(shared.at("f")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0o750, 1_000_000_000));
    rig.occ_ok(&["cp", "-p", &there(&shared.at("f")), arg(&here.at("g"))]);
    let meta = std::fs::metadata(here.at("g")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0o750, 1_000_000_000));
    // Without -p a program stays one, and the time is that of the copy.
    rig.occ_ok(&["cp", "--eol", "lf", arg(&here.at("f")), &there(&shared.at("x"))]);
    let meta = std::fs::metadata(shared.at("x")).unwrap();
    assert_ne!(meta.mode() & 0o100, 0);
    assert_ne!(meta.mtime(), 1_000_000_000);
    assert_eq!(std::fs::read(shared.at("x")).unwrap(), b"#!/bin/sh\necho\n");
    // SFTP has no time before 1970.
    let touched = Command::new("touch").args(["-d", "@-1000"]).arg(here.at("f")).status();
    assert!(touched.unwrap().success());
    let copied = rig.run_occ(&["cp", "-p", arg(&here.at("f")), &there(&shared.at("f"))]);
    assert!(copied.code() == 0 && copied.stderr.contains("the nearest is kept"), "{copied:?}");
    assert_eq!(std::fs::metadata(shared.at("f")).unwrap().mtime(), 0);
}

#[test]
fn a_directory_that_may_not_be_removed_is_said_to_be_full() {
    let Some((_sshd, rig)) = sshd() else { return };
    // A system refuses that one to everybody, whatever is in it.
    for (path, shown) in [("h:/proc/sys", "h: /proc/sys"), ("local:/proc/sys", "/proc/sys")] {
        let (code, text) = fails(&rig, &["rm", path]);
        let hint = path.strip_prefix("local:").unwrap_or(path);
        let expected = format!("Error: {shown} is not empty.\nhint: occ rm -r {hint}\n");
        assert_eq!((code, text), (1, expected));
    }
}

#[test]
fn what_fails_is_a_sentence_and_the_next_command() {
    let Some((_sshd, rig)) = sshd() else { return };
    let (here, shared) = (Shared::new(), Shared::new());
    std::fs::write(here.at("f"), "f").unwrap();
    std::fs::create_dir(shared.at("dir")).unwrap();
    let (code, text) = fails(&rig, &["cat", &there(&shared.at("no\u{1b}[31m"))]);
    assert_eq!(code, 1);
    assert!(text.contains("is not there.\nhint: occ ls h:/tmp/occ-files-"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text:?}");
    let (_, text) = fails(&rig, &["cat", &there(&shared.at("dir"))]);
    assert!(text.contains("is a directory.\nhint: "), "{text}");
    let long = "x".repeat(300);
    let (_, text) = fails(&rig, &["cp", arg(&here.at("f")), &there(&shared.at(&long))]);
    assert!(text.contains("the name is too long.\nhint: "), "{text}");
    let (_, text) = fails(&rig, &["cp", arg(&here.at("f")), "h:/etc/occ-test"]);
    assert!(text.contains("/etc/occ-test: permission denied.\nhint: occ ls -la h:/etc"), "{text}");
    let (_, text) = fails(&rig, &["cp", arg(&here.at("none")), "h:x"]);
    assert!(text.contains("/none is not there.\nhint: "), "{text}");
    let (code, text) = fails(&rig, &["cp", arg(&here.at("f")), arg(&here.at("g"))]);
    assert_eq!(code, 2, "{text}");
    let (code, text) = fails(&rig, &["cp", arg(&here.at("f")), "nobody:x"]);
    assert_eq!(code, 4, "{text}");
    std::fs::write(shared.at("dir/f"), "f").unwrap();
    let (_, text) = fails(&rig, &["rm", &there(&shared.at("dir"))]);
    assert!(text.contains("is not empty.\nhint: occ rm -r "), "{text}");
    // As rm has it, and before anything in it is gone. Never with -r where it is the login directory.
    std::fs::create_dir(shared.at("dir/sub")).unwrap();
    let inside = |end: &str| there(&shared.at("dir")) + end;
    for args in [
        &["rm", "h:"][..],
        &["rm", "h:."],
        &["rm", "-r", &inside("/.")],
        &["rm", "-r", &inside("/./")],
        &["rm", "-r", &inside("/sub/..")],
    ] {
        let (code, text) = fails(&rig, args);
        assert_eq!(code, 2, "{args:?}: {text}");
        assert!(text.contains("'.', '..' and '/' are not removed"), "{args:?}: {text}");
        assert!(shared.at("dir/f").exists() && shared.at("dir/sub").exists(), "{args:?}");
    }
}

/// Mounts a small file system there, unless that is not allowed here.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn at(path: &'a Path) -> Option<Self> {
        std::fs::create_dir(path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=3m,mode=777", "tmpfs"]).arg(path);
        let mounted = mount.stderr(Stdio::null()).status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(path))
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_at_either_end_leaves_what_was_there() {
    let Some((_sshd, rig)) = sshd() else { return };
    let (here, shared) = (Shared::new(), Shared::new());
    let at = shared.at("small");
    let Some(small) = Small::at(&at) else { return };
    std::fs::write(here.at("big"), random(8_000_000)).unwrap();
    std::fs::write(at.join("f"), "before").unwrap();
    std::fs::set_permissions(at.join("f"), std::fs::Permissions::from_mode(0o666)).unwrap();
    let (code, text) = fails(&rig, &["cp", arg(&here.at("big")), &there(&at.join("f"))]);
    assert_eq!(code, 1, "{text}");
    let said = "small/f could not be written: the disk is full.\nhint: occ exec --host h -- df -h";
    assert!(text.contains(said), "{text}");
    assert_eq!(std::fs::read(at.join("f")).unwrap(), b"before");
    crate::support::eventually("nothing else to be left", || {
        std::fs::read_dir(&at).unwrap().count() == 1
    });
    let (code, text) = fails(&rig, &["cp", &there(&here.at("big")), arg(&at.join("f"))]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("the disk here is full.\nhint: df -h "), "{text}");
    assert_eq!(std::fs::read(at.join("f")).unwrap(), b"before");
    assert_eq!(std::fs::read_dir(&at).unwrap().count(), 1);
    drop(small);
}

/// A copy of which some bytes are under way; its input is a pipe, which gives them one after the other.
#[test]
fn a_copy_that_broke_goes_on_where_it_was() {
    let Some(far) = Far::start() else { return };
    let rig = &far.rig;
    // So slow that the cut comes first.
    far.link.set_bandwidth(Some(4_000_000));
    let (here, shared) = (Shared::new(), Shared::new());
    let bytes = random(30_000_000);
    std::fs::write(here.at("f"), &bytes).unwrap();
    std::fs::write(shared.at("f"), "before").unwrap();
    std::fs::set_permissions(shared.at("f"), std::fs::Permissions::from_mode(0o666)).unwrap();
    let part = || {
        let name = shared.names().into_iter().find(|name| name.starts_with(".f.occ-"))?;
        std::fs::metadata(shared.at(name)).ok()
    };
    // What the daemon wrote of a copy that broke.
    let mut cut = rig
        .occ(&["cp", arg(&here.at("f")), &there(&shared.at("f"))])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    testkit::wait::blocking::wait_until(
        "some of it to be there",
        GUARD,
        || part().map_or(0, |meta| meta.len()),
        |len| *len > 0,
    );
    far.link.reset_all();
    let code = exit_code(&mut cut);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut cut.stderr.take().unwrap(), &mut text).unwrap();
    far.link.set_bandwidth(None);
    assert_eq!(code, 5, "{text}");
    assert!(text.contains("the link broke at"), "{text}");
    let hint = format!("hint: occ cp --resume {}", here.at("f").display());
    assert!(text.contains(&hint), "{text}");
    assert_eq!(std::fs::read(shared.at("f")).unwrap(), b"before");
    let kept = shared.at(".f.occ-part");
    crate::support::eventually("it to be kept", || kept.exists());
    let kept = std::fs::metadata(&kept).unwrap().len();
    let resumed =
        rig.occ_ok(&["cp", "--json", "--resume", arg(&here.at("f")), &there(&shared.at("f"))]);
    let resumed: serde_json::Value = serde_json::from_str(&resumed).unwrap();
    assert_eq!(resumed["resumed"], kept, "{resumed}");
    assert!(std::fs::read(shared.at("f")).unwrap() == bytes);
    assert_eq!(shared.names(), ["f"]);
}

#[test]
fn only_the_same_file_is_gone_on_with() {
    let Some((_sshd, rig)) = sshd() else { return };
    let (here, shared) = (Shared::new(), Shared::new());
    let bytes = random(5_000_000);
    std::fs::write(here.at("f"), &bytes).unwrap();
    let theirs = rig.occ_ok(&["exec", "--host", "h", "--", "id", "-u"]).trim().parse().ok();
    let resume = |from: &str, to: &str| {
        let answer = rig.occ_ok(&["cp", "--json", "--resume", from, to]);
        serde_json::from_str::<serde_json::Value>(&answer).unwrap()["resumed"].as_u64().unwrap()
    };
    for (part, kept) in [(&bytes[..2_000_000], 2_000_000), (&random(2_000_001)[..], 0)] {
        // Up.
        std::fs::write(shared.at(".f.occ-part"), part).unwrap();
        std::os::unix::fs::chown(shared.at(".f.occ-part"), theirs, None).unwrap();
        assert_eq!(resume(arg(&here.at("f")), &there(&shared.at("f"))), kept);
        assert!(std::fs::read(shared.at("f")).unwrap() == bytes);
        // Down.
        let mut file = std::fs::File::create(here.at(".g.occ-part")).unwrap();
        file.write_all(part).unwrap();
        assert_eq!(resume(&there(&shared.at("f")), arg(&here.at("g"))), kept);
        assert!(std::fs::read(here.at("g")).unwrap() == bytes);
    }
    assert_eq!((shared.names(), here.names()), (vec!["f".into()], vec!["f".into(), "g".into()]));
}

#[test]
fn a_link_in_the_place_of_what_was_kept_is_called_one() {
    let Some((_sshd, rig)) = sshd() else { return };
    let (here, shared) = (Shared::new(), Shared::new());
    let bytes = random(5_000_000);
    std::fs::write(shared.at("f"), &bytes).unwrap();
    std::fs::write(here.at("other"), &bytes[..2_000_000]).unwrap();
    std::os::unix::fs::symlink("other", here.at(".f.occ-part")).unwrap();
    let copied = rig.run_occ(&["cp", "--resume", &there(&shared.at("f")), arg(&here.at("f"))]);
    assert_eq!(copied.code(), 1, "{}", copied.stderr);
    assert!(copied.stderr.contains(".f.occ-part is a link"), "{}", copied.stderr);
    assert!(copied.stderr.contains("hint: rm "), "{}", copied.stderr);
    assert_eq!(std::fs::metadata(here.at("other")).unwrap().len(), 2_000_000);
}

/// A tree with everything that can be awkward about one.
fn plant(dir: &Path) {
    use std::os::unix::ffi::OsStrExt as _;
    let odd = std::ffi::OsStr::from_bytes(b"odd \n\xff");
    for sub in ["empty", "deep/er/still"] {
        std::fs::create_dir_all(dir.join(sub)).unwrap();
    }
    std::fs::create_dir(dir.join(odd)).unwrap();
    std::fs::write(dir.join(odd).join("-rf *"), "odd").unwrap();
    std::fs::write(dir.join("deep/er/still/f"), random(700_000)).unwrap();
    std::fs::write(dir.join("x".repeat(240)), "long").unwrap();
    std::fs::write(dir.join("Case"), "1").unwrap();
    std::fs::write(dir.join("case"), "2").unwrap();
    std::fs::write(dir.join("program"), "#!/bin/sh\n").unwrap();
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(dir.join("program"), mode).unwrap();
    std::os::unix::fs::symlink("Case", dir.join("link")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.join("out")).unwrap();
    for n in 0..200 {
        std::fs::write(dir.join(format!("deep/{n}")), n.to_string()).unwrap();
    }
}

/// Returns whether two trees are the same, with times and permissions where these were kept.
fn same(a: &Path, b: &Path, kept: bool) {
    let output =
        Command::new("diff").args(["-r", "--no-dereference"]).arg(a).arg(b).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    if kept {
        let list = |dir: &Path| {
            let mut find = Command::new("find");
            find.args([".", "-not", "-type", "l", "-printf", "%p %m %Ts %y\\0"]).current_dir(dir);
            let mut lines: Vec<Vec<u8>> =
                find.output().unwrap().stdout.split(|b| *b == 0).map(<[u8]>::to_vec).collect();
            lines.sort();
            lines.retain(|line| !line.starts_with(b". "));
            lines
        };
        assert_eq!(list(a), list(b));
    }
}

/// Copies a tree there and back, over one that is there, and into one.
pub(crate) fn round_trip(rig: &DaemonRig) -> (Shared, Shared) {
    let (here, shared) = (Shared::new(), Shared::new());
    std::fs::create_dir(here.at("tree")).unwrap();
    plant(&here.at("tree"));
    rig.occ_ok(&["cp", "-rp", arg(&here.at("tree")), &there(&shared.at("new"))]);
    same(&here.at("tree"), &shared.at("new"), true);
    rig.occ_ok(&["cp", "-rp", &there(&shared.at("new")), arg(&here.at("back"))]);
    same(&here.at("tree"), &here.at("back"), true);
    // Over one that is there: what it has more stays, and nothing is left beside it.
    std::fs::write(here.at("tree/Case"), "changed").unwrap();
    rig.occ_ok(&["cp", "-r", arg(&here.at("tree/.")), &there(&shared.at("new"))]);
    same(&here.at("tree"), &shared.at("new"), false);
    // Into one.
    std::fs::create_dir(here.at("in")).unwrap();
    rig.occ_ok(&["cp", "-r", &there(&shared.at("new")), arg(&here.at("in"))]);
    same(&here.at("tree"), &here.at("in/new"), false);
    (here, shared)
}

#[test]
fn directories_go_with_everything_in_them() {
    let Some((_sshd, rig)) = sshd() else { return };
    let (_here, shared) = round_trip(&rig);
    // From host to host.
    rig.occ_ok(&["cp", "-rp", &there(&shared.at("new")), &there(&shared.at("again"))]);
    same(&shared.at("new"), &shared.at("again"), true);
    assert_eq!(shared.names(), ["again", "new"]);
    rig.occ_ok(&["rm", "-r", &there(&shared.at("again")), &there(&shared.at("new"))]);
    assert!(shared.names().is_empty());
}

/// Returns a server whose sessions find nothing but a shell, and a daemon for it.
fn without_tar() -> Option<(testkit::RealSshd, DaemonRig, Shared)> {
    if !testkit::RealSshd::require() {
        return None;
    }
    let bin = Shared::new();
    std::os::unix::fs::symlink("/bin/sh", bin.at("sh")).unwrap();
    let path = format!("SetEnv PATH={}", bin.path().display());
    let sshd =
        testkit::RealSshd::builder().config("Subsystem sftp internal-sftp").config(path).start();
    let rig = crate::support::daemon_for(&sshd);
    Some((sshd, rig, bin))
}

#[test]
fn a_host_without_tar_gets_each_file_by_itself() {
    let Some((_sshd, rig, _bin)) = without_tar() else { return };
    let (here, shared) = (Shared::new(), Shared::new());
    std::fs::create_dir(here.at("tree")).unwrap();
    plant(&here.at("tree"));
    rig.occ_ok(&["cp", "-r", arg(&here.at("tree")), &there(&shared.at("new"))]);
    same(&here.at("tree"), &shared.at("new"), false);
    rig.occ_ok(&["cp", "-r", &there(&shared.at("new")), arg(&here.at("back"))]);
    same(&here.at("tree"), &here.at("back"), false);
}

#[test]
fn a_directory_that_does_not_fit_leaves_nothing() {
    let Some((_sshd, rig)) = sshd() else { return };
    let (here, shared) = (Shared::new(), Shared::new());
    let at = shared.at("small");
    let Some(small) = Small::at(&at) else { return };
    std::fs::create_dir(here.at("tree")).unwrap();
    for n in 0..80 {
        std::fs::write(here.at(format!("tree/{n}")), random(100_000)).unwrap();
    }
    let (code, text) = fails(&rig, &["cp", "-r", arg(&here.at("tree")), &there(&at.join("new"))]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("the disk is full.\nhint: occ exec --host h -- df -h"), "{text}");
    let nothing = || std::fs::read_dir(&at).unwrap().next().is_none();
    crate::support::eventually("nothing to be left", nothing);
    // Down, the same; what comes into a directory that is there is in it file by file.
    let tree = there(&here.at("tree"));
    let (code, text) = fails(&rig, &["cp", "-r", &tree, arg(&at.join("new"))]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("the disk here is full.\nhint: df -h "), "{text}");
    assert!(text.contains("/small/new/"), "{text}");
    assert!(nothing());
    std::fs::create_dir(at.join("new")).unwrap();
    std::fs::write(at.join("new/mine"), "mine").unwrap();
    let (code, text) = fails(&rig, &["cp", "-r", &there(&here.at("tree/.")), arg(&at.join("new"))]);
    assert_eq!(code, 1, "{text}");
    assert_eq!(std::fs::read(at.join("new/mine")).unwrap(), b"mine");
    for entry in std::fs::read_dir(at.join("new")).unwrap() {
        let (name, len) = (entry.as_ref().unwrap().file_name(), entry.unwrap().metadata().unwrap());
        assert!(name == "mine" || len.len() == 100_000, "{name:?}: {len:?}");
    }
    drop(small);
}

#[test]
fn without_tar_too_a_directory_that_does_not_fit_leaves_nothing() {
    let Some((_sshd, rig, _bin)) = without_tar() else { return };
    let (here, shared) = (Shared::new(), Shared::new());
    let at = shared.at("small");
    let Some(small) = Small::at(&at) else { return };
    std::fs::create_dir(here.at("tree")).unwrap();
    for n in 0..40 {
        std::fs::write(here.at(format!("tree/{n}")), random(100_000)).unwrap();
    }
    let mut tar = Command::new("tar");
    let tar = tar.args(["-cf", "-", "-C", arg(&here.at("tree")), "."]).output().unwrap().stdout;
    let url = format!("/v1/hosts/local/files/{}?tar=true", arg(&at.join("new")));
    let answer = testkit::http::request(&rig.socket(), "PUT", &url, &[], Some(&tar)).unwrap();
    assert_eq!(answer.status, 507, "{}", answer.text());
    assert!(answer.text().contains("/small/new/"), "{}", answer.text());
    let nothing = || std::fs::read_dir(&at).unwrap().next().is_none();
    crate::support::eventually("nothing to be left here", nothing);
    let (code, text) = fails(&rig, &["cp", "-r", arg(&here.at("tree")), &there(&at.join("new"))]);
    assert_eq!(code, 1, "{text}");
    crate::support::eventually("nothing to be left there", nothing);
    drop(small);
}

/// What of a tree is not copied: one FIFO, one socket; and a file and a directory that only root may read.
fn plant_special(dir: &Path) -> std::os::unix::net::UnixListener {
    std::fs::create_dir_all(dir.join("sub/closed")).unwrap();
    std::fs::write(dir.join("f"), "f").unwrap();
    std::fs::write(dir.join("sub/g"), "g").unwrap();
    std::fs::write(dir.join("sub/secret"), "secret").unwrap();
    std::fs::write(dir.join("sub/closed/in"), "in").unwrap();
    for (name, mode) in [("sub/secret", 0o000), ("sub/closed", 0o000)] {
        std::fs::set_permissions(dir.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    assert!(Command::new("mkfifo").arg(dir.join("sub/fifo")).status().unwrap().success());
    std::os::unix::net::UnixListener::bind(dir.join("sock")).unwrap()
}

/// Copies a tree with all that cannot be copied, and returns the warning, the error and the document.
fn copied_with_holes(rig: &DaemonRig, from: &str, to: &str) -> (i32, String, serde_json::Value) {
    let output = rig.run_occ(&["cp", "-r", from, to]);
    let again = rig.run_occ(&["cp", "-r", "--json", from, &format!("{to}-again")]);
    let document = serde_json::from_str(&again.stdout).unwrap_or_default();
    assert_eq!(again.code(), output.code(), "{again:?}");
    (output.code(), output.stderr, document)
}

#[test]
fn a_copy_that_a_signal_or_the_daemons_death_cuts_off_says_how_to_go_on() {
    let Some(mut far) = Far::start() else { return };
    far.link.set_bandwidth(Some(4_000_000));
    let here = Shared::new();
    std::fs::write(here.at("f"), random(30_000_000)).unwrap();
    for dies in [false, true] {
        let shared = Shared::new();
        let to = there(&shared.at("f"));
        let mut cut = far.rig.occ(&["cp", arg(&here.at("f")), &to]);
        let mut cut = cut.stderr(Stdio::piped()).spawn().unwrap();
        let size = || {
            let name = shared.names().into_iter().find(|name| name.starts_with(".f.occ-"));
            name.and_then(|name| std::fs::metadata(shared.at(name)).ok())
                .map_or(0, |meta| meta.len())
        };
        testkit::wait::blocking::wait_until("some of it to be there", GUARD, size, |len| *len > 0);
        if dies {
            far.rig.kill_daemon();
        } else {
            let occ = testkit::proc::Process::find(cut.id()).unwrap();
            occ.signal(testkit::proc::Signal::TERM);
        }
        let code = exit_code(&mut cut);
        let mut text = String::new();
        std::io::Read::read_to_string(&mut cut.stderr.take().unwrap(), &mut text).unwrap();
        assert_eq!(code, if dies { 3 } else { 143 }, "{text}");
        let hint = format!("hint: occ cp --resume {} {to}", here.at("f").display());
        assert!(text.contains(&hint), "{text}");
        let went = "Error: occd went away before it answered.\n";
        assert!(!dies || text.contains(went), "{text}");
    }
    far.rig.start_daemon(&[]);
}

#[test]
fn whatever_is_removed_is_told_as_json_where_that_is_asked_for() {
    let Some(far) = crate::session::Far::start() else { return };
    let rig = &far.rig;
    let shared = Shared::new();
    let json = |args: &[&str]| -> serde_json::Value {
        let said = rig.occ_ok(&[args, &["--json"]].concat());
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
    };
    let done =
        |name: &str, done: &str| serde_json::json!({ "items": [{ "name": name, "done": done }] });
    let path = format!("h:{}", shared.at("f").display());
    std::fs::write(shared.at("f"), "x").unwrap();
    assert_eq!(json(&["rm", &path]), done(&path, "removed"));
    assert_eq!(json(&["rm", "-f", &path]), done(&path, "absent"));
    rig.occ_ok(&["session", "start", "--host", "h", "--name", "s", "--", "true"]);
    rig.run_occ(&["session", "wait", "s"]);
    let logs = rig.run_occ(&["session", "logs", "s", "--json"]);
    assert_eq!(logs.code(), 2, "{logs:?}");
    assert_eq!(json(&["session", "rm", "s"]), done("s", "removed"));
    for name in ["s", "t"] {
        rig.occ_ok(&["session", "start", "--host", "h", "--name", name, "--", "sleep", "1000"]);
    }
    assert_eq!(json(&["session", "kill", "--signal", "TERM", "t"]), done("t", "signalled"));
    let killed = json(&["session", "kill", "s"]);
    let item = &killed["items"][0];
    assert_eq!((&item["name"], &item["done"]), (&"s".into(), &"ended".into()), "{killed}");
    assert_eq!(item["about"]["state"], "ended", "{killed}");
    rig.occ_ok(&["grant", "--host", "h", "--allow", "read", "--ttl", "1h", "--name", "g"]);
    assert_eq!(json(&["grant", "revoke", "g"]), done("g", "removed"));
    assert_eq!(json(&["forward", "remove", "--all"]), serde_json::json!({ "items": [] }));
    let ports = ["-L", "0:localhost:1", "-L", "0:localhost:2"];
    rig.occ_ok(&[&["forward", "add", "--host", "h"], &ports[..]].concat());
    let all = json(&["forward", "remove", "--all"]);
    let items = all["items"].as_array().unwrap();
    assert!(items.len() == 2 && items.iter().all(|item| item["done"] == "removed"), "{all}");
    assert_eq!(items[0]["name"], items[0]["about"]["id"], "{all}");
    rig.occ_ok(&["docker-socket", "--host", "h"]);
    assert_eq!(json(&["docker-socket", "--host", "h", "--remove"]), done("h", "removed"));
    // There is none any more.
    assert_eq!(json(&["docker-socket", "--host", "h", "--remove"]), done("h", "absent"));
    let each = json(&["docker-socket", "--all", "--remove"]);
    assert_eq!((&each["host"], &each["items"][0]["name"]), (&"h".into(), &"h".into()), "{each}");
    assert_eq!(each["items"][0]["done"], "absent", "{each}");
    for hosts in [&["--host", "h"][..], &["--all"]] {
        let text = rig.occ_ok(&[&["docker-socket", "--remove"], hosts].concat());
        assert!(text.contains("Nothing to remove: there is no Docker socket of 'h'."), "{text}");
    }
    let removed = json(&["host", "remove", "h", "-f"]);
    let item = &removed["items"][0];
    assert_eq!((&item["name"], &item["done"]), (&"h".into(), &"removed".into()), "{removed}");
}

#[test]
fn what_was_removed_before_something_failed_is_told_as_well() {
    let Some((_sshd, rig)) = sshd() else { return };
    let shared = Shared::new();
    let names = ["a", "b", "c"].map(|name| there(&shared.at(name)));
    std::fs::write(shared.at("a"), "x").unwrap();
    std::fs::write(shared.at("c"), "x").unwrap();
    let output = rig.run_occ(&["rm", &names[0], &names[1], &names[2], "--json"]);
    assert_eq!(output.code(), 1, "{output:?}");
    let told: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    let items = told["items"].as_array().unwrap();
    let word = |item: &serde_json::Value| (item["name"].clone(), item["done"].clone());
    let wanted = ["removed", "failed", "untouched"];
    for ((item, name), done) in items.iter().zip(&names).zip(wanted) {
        assert_eq!(word(item), (name.as_str().into(), done.into()), "{told}");
    }
    assert_eq!(items.len(), 3, "{told}");
    assert_eq!(items[1]["problem"]["code"], "file_not_found", "{told}");
    let problem: serde_json::Value = serde_json::from_str(&output.stderr).unwrap();
    assert_eq!(problem, items[1]["problem"]);
    assert!(!shared.at("a").exists() && shared.at("c").exists());
}

#[test]
fn what_is_left_out_of_a_directory_is_named() {
    let Some((_sshd, rig)) = sshd() else { return };
    let Some((_bare, bare, _bin)) = without_tar() else { return };
    let (here, shared) = (Shared::new(), Shared::new());
    let _sock = plant_special(&here.at("tree"));
    std::fs::remove_file(here.at("tree/sub/secret")).unwrap();
    std::fs::remove_dir_all(here.at("tree/sub/closed")).unwrap();
    let tree = arg(&here.at("tree")).to_owned();
    let far = |rig: &DaemonRig, name: &str| {
        let way = copied_with_holes(rig, &format!("h:{tree}"), arg(&here.at(name)));
        (here.at(name), way)
    };
    let up = copied_with_holes(&rig, &tree, &there(&shared.at("up")));
    let across = copied_with_holes(&rig, &format!("h:{tree}"), &there(&shared.at("across")));
    let ways = [
        (shared.at("up"), up),
        (shared.at("across"), across),
        far(&rig, "down"),
        far(&bare, "bare"),
    ];
    for (to, (code, text, document)) in ways {
        assert_eq!(code, 0, "{to:?}: {text}");
        let said = "Left out: 2, neither file nor directory nor link: ";
        assert!(text.contains(said), "{to:?}: {text}");
        assert!(text.contains("sock") && text.contains("sub/fifo"), "{to:?}: {text}");
        assert_eq!(document["left_out"]["count"], 2, "{to:?}: {document}");
        assert_eq!(document["files"], 2, "{to:?}: {document}");
        assert_eq!(std::fs::read(to.join("sub/g")).unwrap(), b"g");
        assert!(!to.join("sub/fifo").exists() && !to.join("sock").exists(), "{to:?}");
    }
    // What somebody else puts into an archive is not made either.
    let mut tar = Command::new("tar");
    let tar = tar.args(["-cf", "-", "-C", &tree, "f", "sub/fifo"]).output().unwrap().stdout;
    let url = format!("/v1/hosts/h/files/{}?tar=true", arg(&shared.at("api")));
    let answer = testkit::http::request(&rig.socket(), "PUT", &url, &[], Some(&tar)).unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(answer["left_out"]["first"], serde_json::json!(["sub/fifo"]), "{answer}");
    assert!(shared.at("api/f").exists() && !shared.at("api/sub/fifo").exists());
}

#[test]
fn what_cannot_be_read_is_named_and_all_else_is_copied() {
    if !testkit::require::require_root("files that another user may not read") {
        return;
    }
    let Some((_sshd, rig)) = sshd() else { return };
    let Some((_bare, bare, _bin)) = without_tar() else { return };
    let (here, shared) = (Shared::new(), Shared::new());
    let _sock = plant_special(&here.at("tree"));
    let tree = arg(&here.at("tree")).to_owned();
    std::fs::create_dir(here.at("to")).unwrap();
    let ways = [
        (
            here.at("to/down"),
            copied_with_holes(&rig, &format!("h:{tree}"), arg(&here.at("to/down"))),
        ),
        (
            here.at("to/bare"),
            copied_with_holes(&bare, &format!("h:{tree}"), arg(&here.at("to/bare"))),
        ),
        (
            shared.at("over"),
            copied_with_holes(&rig, &format!("h:{tree}"), &there(&shared.at("over"))),
        ),
    ];
    for (to, (code, text, document)) in ways {
        assert_eq!(code, 1, "{to:?}: {text}");
        assert!(text.contains("tree: not all was copied: "), "{to:?}: {text}");
        assert!(text.contains("sub/secret: ") && text.contains("sub/closed: "), "{to:?}: {text}");
        assert!(text.to_lowercase().contains("permission denied"), "{to:?}: {text}");
        assert_eq!(document["unread"]["count"], 2, "{to:?}: {document}");
        assert_eq!(std::fs::read(to.join("sub/g")).unwrap(), b"g");
        assert!(!to.join("sub/secret").exists(), "{to:?}");
    }
}

#[test]
fn a_directory_that_is_missing_is_named_or_made() {
    let Some((_sshd, rig)) = sshd() else { return };
    let (here, shared) = (Shared::new(), Shared::new());
    std::fs::create_dir(here.at("tree")).unwrap();
    std::fs::write(here.at("tree/f"), "f").unwrap();
    let (file, tree) = (here.at("tree/f"), here.at("tree"));
    let (down, down_tree) = (here.at("down/f"), here.at("a/b/tree"));
    let ways = [
        (["cp", arg(&file), &there(&shared.at("up/f"))], shared.at("up")),
        (["cp", &there(&file), arg(&down)], here.at("down")),
        (["cp", arg(&tree), &there(&shared.at("a/b/tree"))], shared.at("a/b")),
        (["cp", &there(&tree), arg(&down_tree)], here.at("a/b")),
    ];
    for (args, dir) in ways {
        let (code, text) = fails(&rig, &[&args[..], &["-r"]].concat());
        assert_eq!(code, 1, "{text}");
        let said = format!("he directory {} is not there.\nhint: occ cp --mkpath", dir.display());
        assert!(text.contains(&said), "{text}");
        rig.occ_ok(&[&args[..], &["--mkpath", "-r"]].concat());
    }
    for copied in [shared.at("up/f"), here.at("down/f"), shared.at("a/b/tree/f")] {
        assert_eq!(std::fs::read(copied).unwrap(), b"f");
    }
    assert_eq!(std::fs::read(here.at("a/b/tree/f")).unwrap(), b"f");
}

#[test]
fn options_may_be_anywhere_and_one_path_is_too_few() {
    let Some((_sshd, rig)) = sshd() else { return };
    let (here, shared) = (Shared::new(), Shared::new());
    std::fs::create_dir(here.at("tree")).unwrap();
    std::fs::write(here.at("tree/f"), "f").unwrap();
    let tree = arg(&here.at("tree")).to_owned();
    for (n, args) in
        [[&tree, "-r", "TO"], [&tree, "TO", "-r"], ["-r", &tree, "TO"]].iter().enumerate()
    {
        let to = there(&shared.at(n.to_string()));
        let args = args.map(|arg| if arg == "TO" { to.as_str() } else { arg });
        rig.occ_ok(&[&["cp"][..], &args].concat());
        assert_eq!(std::fs::read(shared.at(format!("{n}/f"))).unwrap(), b"f");
    }
    let f = there(&shared.at("0/f"));
    let own = std::fs::metadata(shared.at("0/f")).unwrap();
    let line = rig.occ_ok(&["ls", &f, "-l"]);
    let owner = format!("  {}:{}  ", own.uid(), own.gid());
    assert!(line.starts_with("-rw") && line.contains(&owner), "{line}");
    assert_eq!(rig.occ_ok(&["cat", &f, "--no-color", &f]), "ff");
    rig.occ_ok(&["rm", &f, "-f", &there(&shared.at("1")), "-r"]);
    assert_eq!(shared.names(), ["0", "2"]);
    for args in [&["cp", "-r", &tree][..], &["cp", "--all", ":x"]] {
        let (code, text) = fails(&rig, args);
        assert_eq!(code, 2, "{text}");
        assert!(text.contains("needs something to copy, and where to"), "{text}");
    }
}

#[test]
fn texts_of_a_directory_get_line_feeds() {
    let Some((_sshd, rig)) = sshd() else { return };
    let (here, shared) = (Shared::new(), Shared::new());
    std::fs::create_dir(here.at("tree")).unwrap();
    let long = "a line of it\r\n".repeat(30_000);
    let image = [b"\0\r\n".as_slice(), &random(9000)].concat();
    let texts = [("empty", ""), ("short", "a\r\nb\r"), ("long", &long), ("unix", "a\n")];
    for (name, text) in texts {
        std::fs::write(here.at("tree").join(name), text).unwrap();
    }
    std::fs::write(here.at("tree/image"), &image).unwrap();
    let tree = here.at("tree");
    rig.occ_ok(&["cp", "-r", "--eol", "lf", arg(&tree), &there(&shared.at("up"))]);
    rig.occ_ok(&["cp", "-r", "--eol", "lf", &there(&tree), arg(&here.at("down"))]);
    for dir in [shared.at("up"), here.at("down")] {
        for (name, text) in texts {
            let copied = std::fs::read_to_string(dir.join(name)).unwrap();
            assert!(copied == text.replace("\r\n", "\n"), "{dir:?} {name}");
        }
        assert!(std::fs::read(dir.join("image")).unwrap() == image, "{dir:?}");
    }
    let args = ["cp", "-r", "--eol", "lf", &there(&tree), &there(&shared.at("x"))];
    let (code, text) = fails(&rig, &args);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("goes from here to a host, or from a host to here"), "{text}");
}

#[test]
fn names_go_to_a_program_as_they_are_and_to_a_terminal_so_that_they_do_it_no_harm() {
    use std::os::unix::ffi::OsStrExt as _;
    let Some((_sshd, rig)) = sshd() else { return };
    let shared = Shared::new();
    let odd = std::ffi::OsStr::from_bytes(b"a\x1b[31m\n\xff");
    std::fs::write(shared.at(odd), "needle \x1b[31m\n").unwrap();
    std::fs::create_dir(shared.at("d")).unwrap();
    let dir = there(shared.path());
    let said = |args: &[&str]| rig.occ(args).output().unwrap().stdout;
    assert_eq!(said(&["ls", &dir]), b"a\x1b[31m\n\xff\nd/\n");
    assert_eq!(said(&["ls", "-0", &dir]), b"a\x1b[31m\n\xff\0d\0");
    let found = said(&["files", "search", "--null", "needle", &dir]);
    assert!(found.starts_with(b"a\x1b[31m\n\xff\x001:"), "{:?}", String::from_utf8_lossy(&found));
    for args in [&["ls", &dir][..], &["ls", "-l", &dir], &["files", "search", "needle", &dir]] {
        let (shown, code) = testkit::terminal::Terminal::control(&rig.occ(args), "").finish();
        assert_eq!(code, 0, "{shown}");
        assert!(!shown.contains("\u{1b}[31m"), "{shown:?}");
    }
}

#[test]
fn what_is_left_of_a_copy_goes_with_the_next_one_or_with_the_file() {
    let Some((_sshd, rig)) = sshd() else { return };
    let (here, shared) = (Shared::new(), Shared::new());
    std::fs::write(here.at("f"), "short").unwrap();
    let part = |dir: &Shared| {
        std::fs::write(dir.at(".f.occ-part"), "old").unwrap();
        let mode = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions(dir.at(".f.occ-part"), mode).unwrap();
    };
    part(&shared);
    rig.occ_ok(&["cp", arg(&here.at("f")), &there(&shared.at("f"))]);
    crate::support::eventually("the part to go", || shared.names() == ["f"]);
    part(&here);
    rig.occ_ok(&["cp", &there(&shared.at("f")), arg(&here.at("f"))]);
    assert_eq!(here.names(), ["f"]);
    part(&shared);
    rig.occ_ok(&["rm", &there(&shared.at("f"))]);
    assert!(shared.names().is_empty());
    part(&shared);
    rig.occ_ok(&["rm", &there(&shared.at("f"))]);
    assert!(shared.names().is_empty());
    assert_eq!(rig.run_occ(&["rm", &there(&shared.at("f"))]).code(), 1);
}

#[test]
fn an_archive_that_is_none_is_the_clients_fault() {
    let Some((_sshd, rig)) = sshd() else { return };
    let Some((_bare, bare, _bin)) = without_tar() else { return };
    let shared = Shared::new();
    let archive = |path: &[u8], kind| {
        let mut out = Vec::new();
        let path = path.to_vec();
        let entry = occ_proto::tar::Entry { path, kind, mode: 0o644, mtime: 9, size: 0 };
        occ_proto::tar::head(&mut out, &entry);
        out.extend_from_slice(&occ_proto::tar::END);
        out
    };
    use occ_proto::tar::Kind;
    let bad = [
        vec![b'x'; 4096],
        archive(b"../outside", Kind::File),
        archive(b"/outside", Kind::File),
        archive(b"l", Kind::Hardlink(b"not/there".to_vec())),
    ];
    for (rig, place) in [(&rig, "h"), (&bare, "h"), (&rig, "local")] {
        for (n, bytes) in bad.iter().enumerate() {
            let path = arg(&shared.at("new")).to_owned();
            let url = format!("/v1/hosts/{place}/files/{path}?tar=true");
            let answer =
                testkit::http::request(&rig.socket(), "PUT", &url, &[], Some(bytes)).unwrap();
            assert_eq!(answer.status, 400, "{place} {n}: {}", answer.text());
            assert!(answer.text().contains("\"archive_invalid\""), "{n}: {}", answer.text());
            crate::support::eventually("nothing to be left", || shared.names().is_empty());
        }
    }
}

#[test]
fn a_long_copy_to_a_far_host_goes_on_where_it_was() {
    let Some(far) = Far::start() else { return };
    let rig = &far.rig;
    far.link.set_latency(std::time::Duration::from_millis(25));
    let (here, shared) = (Shared::new(), Shared::new());
    let bytes = random(60_000_000);
    std::fs::write(here.at("f"), &bytes).unwrap();
    far.link.set_bandwidth(Some(12_000_000));
    let mut cut = rig
        .occ(&["cp", arg(&here.at("f")), &there(&shared.at("f"))])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let sessions = || far.sshd.log().matches("Starting session: ").count();
    // Enough for more than one session to write, and so for gaps.
    testkit::wait::blocking::wait_until(
        "several sessions to write",
        GUARD,
        || {
            let name = shared.names().into_iter().find(|name| name.starts_with(".f.occ-"));
            let len = name.and_then(|name| std::fs::metadata(shared.at(name)).ok());
            (len.map_or(0, |meta| meta.len()), sessions())
        },
        |(len, _)| *len > 24_000_000,
    );
    assert!(sessions() >= 4, "{}", far.sshd.log());
    far.link.reset_all();
    assert_eq!(exit_code(&mut cut), 5);
    far.link.set_bandwidth(None);
    let kept = shared.at(".f.occ-part");
    crate::support::eventually("it to be kept", || kept.exists());
    let resumed =
        rig.occ_ok(&["cp", "--json", "--resume", arg(&here.at("f")), &there(&shared.at("f"))]);
    let resumed: serde_json::Value = serde_json::from_str(&resumed).unwrap();
    assert!(resumed["resumed"].as_u64().unwrap() > 1_000_000, "{resumed}");
    assert!(std::fs::read(shared.at("f")).unwrap() == bytes);
    assert_eq!(shared.names(), ["f"]);
}

#[test]
fn a_file_goes_to_every_host_of_a_group() {
    if !testkit::RealSshd::require() {
        return;
    }
    let sftp = || testkit::RealSshd::builder().config("Subsystem sftp internal-sftp").start();
    let (one, two, mut down) = (sftp(), sftp(), sftp());
    let mut rig = DaemonRig::new();
    for (name, sshd) in [("eu-1", &one), ("eu-2", &two), ("eu-3", &down)] {
        rig.add_host(name, sshd);
    }
    rig.edit_hosts(|file| {
        file.hosts
            .values_mut()
            .for_each(|config| config.groups.push(occ_proto::GroupName::new("eu").unwrap()));
    });
    rig.start_daemon(&[]);
    down.stop();
    let (here, shared) = (Shared::new(), Shared::new());
    std::fs::write(here.at("f"), "content").unwrap();
    let to = format!(":{}", shared.at("f").display());
    let output = rig.run_occ(&["cp", "-v", "--group", "eu", arg(&here.at("f")), &to]);
    assert_eq!(output.code(), 1, "{output:?}");
    assert_eq!(std::fs::read(shared.at("f")).unwrap(), b"content");
    for line in ["[eu-1] /tmp/", "[eu-2] /tmp/", "[eu-3] Error: ", "2 ok, 1 failed: eu-3 ("] {
        assert!(output.stderr.contains(line), "{line}: {output:?}");
    }
    assert_eq!(shared.names(), ["f"]);
    let (code, text) = fails(&rig, &["cp", "--group", "eu", arg(&here.at("f")), "eu-1:x"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("hint: occ cp --group eu FILE :PATH"), "{text}");
}

#[test]
fn what_is_no_file_is_not_waited_for() {
    let Some((_sshd, rig)) = crate::files::sshd() else { return };
    let fifo = rig.root().join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    let output = rig.run_occ(&["cp", fifo.to_str().unwrap(), "h:"]);
    assert_eq!(output.code(), 1);
    assert!(output.stderr.contains("is no regular file"), "{}", output.stderr);
}
