//! The clock is paused in the tests of the watcher: the runtime steps from one `stat` to the next as
//! soon as the test waits, so nothing depends on how fast the machine is.

use std::convert::Infallible;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::{env, fs, io, thread};

use occ_proto::host::HostConfig;
use occ_proto::name::{Address, HostName};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::*;

const V0: &str = r#"{
  "version": 0,
  "default_host": "zeta",
  "hosts": {
    "zeta": {
      "hostname": "zeta.example.com",
      "user": "deploy",
      "port": 2222,
      "identity_file": "~/.ssh/id",
      "jump_host": "a@b:22,c",
      "groups": [
        "prod",
        "eu"
      ],
      "description": "ü \"quoted\""
    },
    "alpha": {
      "hostname": "alpha.example.com",
      "user": "root",
      "port": null,
      "identity_file": null,
      "jump_host": null,
      "groups": [],
      "description": null
    },
    "mid": {
      "hostname": "mid",
      "port": null,
      "identity_file": null,
      "jump_host": null,
      "groups": [],
      "description": null
    }
  }
}"#;

/// Long enough for any loaded machine; only ends a test that would hang. Paused time passes at once.
const GUARD: Duration = Duration::from_secs(120);

struct Place {
    dir: TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts.json");
        Self { dir, path }
    }

    fn with(text: &str) -> Self {
        let place = Self::new();
        fs::write(&place.path, text).unwrap();
        place
    }

    fn store(&self) -> HostsStore {
        HostsStore::open(vec![self.path.clone()])
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.path).unwrap()
    }

    fn bak(&self) -> PathBuf {
        self.dir.path().join("hosts.json.bak")
    }

    fn names(&self) -> Vec<String> {
        names_in(self.dir.path())
    }
}

fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn name(text: &str) -> HostName {
    HostName::new(text).unwrap()
}

fn host(text: &str) -> HostConfig {
    HostConfig::new(Address::new(text).unwrap())
}

fn insert(file: &mut HostsFile, host_name: &str) -> Result<(), Infallible> {
    file.hosts.insert(name(host_name), host("h.example.com"));
    Ok(())
}

fn describe(file: &mut HostsFile, host_name: &str, text: &str) -> Result<(), Infallible> {
    file.hosts[host_name].description = Some(text.into());
    Ok(())
}

fn keys(snapshot: &HostsSnapshot) -> Vec<&str> {
    snapshot.file.hosts.keys().map(HostName::as_str).collect()
}

fn minimal(hosts: &[&str]) -> String {
    let hosts: Vec<_> = hosts.iter().map(|h| format!(r#""{h}":{{"hostname":"x"}}"#)).collect();
    format!(r#"{{"version":1,"hosts":{{{}}}}}"#, hosts.join(","))
}

/// Returns a receiver, and the task that runs `watch` until it is dropped.
fn watched(store: &HostsStore) -> (watch::Receiver<Arc<HostsSnapshot>>, JoinSet<()>) {
    let (receiver, mut watcher, store) = (store.subscribe(), JoinSet::new(), store.clone());
    watcher.spawn(async move { store.watch(CancellationToken::new()).await });
    (receiver, watcher)
}

async fn wait(
    receiver: &mut watch::Receiver<Arc<HostsSnapshot>>,
    until: impl Fn(&HostsSnapshot) -> bool,
) -> Arc<HostsSnapshot> {
    timeout(GUARD, receiver.wait_for(|s| until(s))).await.expect("in time").unwrap().clone()
}

// ---- what is written ----

#[tokio::test]
async fn only_the_changed_hosts_lines_change_in_either_version_with_either_end() {
    for version in ["0", "1"] {
        for end in ["", "\n"] {
            let before = V0.replace("\"version\": 0", &format!("\"version\": {version}")) + end;
            let place = Place::with(&before);
            let store = place.store();
            store.update(|file| describe(file, "alpha", "new")).await.unwrap();

            let after = place.text();
            let changed: Vec<_> =
                before.lines().zip(after.lines()).filter(|(old, new)| old != new).collect();
            let line = ("      \"description\": null", "      \"description\": \"new\"");
            assert_eq!(changed, [line]);
            assert_eq!(before.len() - "null".len() + "\"new\"".len(), after.len());
            assert_eq!(fs::read_to_string(place.bak()).unwrap(), before);
            assert_eq!(keys(&store.current()), ["zeta", "alpha", "mid"]);

            store
                .update(|file| {
                    file.hosts["alpha"].description = None;
                    Ok::<_, Infallible>(())
                })
                .await
                .unwrap();
            assert_eq!(place.text(), before, "back to the same bytes");
        }
    }
}

#[tokio::test]
async fn a_user_that_is_not_set_is_no_key_because_the_existing_tool_refuses_a_null_there() {
    let place = Place::with(r#"{"hosts":{"a":{"hostname":"h","user":null}}}"#);
    place.store().update(|file| insert(file, "b")).await.unwrap();
    let text = place.text();
    assert!(!text.contains("\"user\""), "{text}");
    assert!(text.contains("\"port\": null"), "{text}");
}

#[tokio::test]
async fn a_change_of_nothing_writes_nothing() {
    // Not pretty-printed, so any writing would show.
    let place = Place::with(&minimal(&["a"]));
    let (store, before) = (place.store(), place.text());
    let count = store.update(|file| Ok::<_, Infallible>(file.hosts.len())).await.unwrap();
    assert_eq!(count, 1);
    assert_eq!(place.text(), before);
    assert_eq!(place.names(), ["hosts.json"]);
    assert_eq!(store.current().revision, 1);
}

#[tokio::test]
async fn a_new_order_of_hosts_is_a_change() {
    let place = Place::with(&minimal(&["a", "b"]));
    let store = place.store();
    store
        .update(|file| {
            file.hosts.move_index(0, 1);
            Ok::<_, Infallible>(())
        })
        .await
        .unwrap();
    assert_eq!(keys(&store.current()), ["b", "a"]);
    fs::write(&place.path, minimal(&["a", "b"])).unwrap();
    assert_eq!(keys(&*store.refresh().await), ["a", "b"]);
}

#[tokio::test]
async fn a_change_that_refuses_changes_nothing() {
    let place = Place::with(V0);
    let store = place.store();
    let result = store
        .update(|file| {
            file.hosts.clear();
            Err::<(), _>(io::Error::other("no such host"))
        })
        .await;
    assert!(matches!(result, Err(UpdateError::Change(_))));
    assert_eq!(place.text(), V0);
    assert_eq!(store.current().revision, 1);
}

#[tokio::test]
async fn a_change_that_could_not_be_read_back_is_not_written() {
    let place = Place::with(V0);
    let store = place.store();
    let changes: [fn(&mut HostsFile); 3] = [
        |file| file.hosts["mid"].port = Some(0),
        |file| file.version = 2,
        |file| file.hosts["mid"].description = Some("x".repeat(5 << 20)),
    ];
    for change in changes {
        let result = store
            .update(|file| {
                change(file);
                Ok::<_, Infallible>(())
            })
            .await;
        let Err(UpdateError::Write(error)) = result else { panic!("{result:?}") };
        assert_eq!(error.step, WriteStep::Encode);
        assert_eq!(place.text(), V0);
        assert_eq!(place.names(), ["hosts.json"]);
    }
}

#[tokio::test]
async fn the_first_host_makes_a_private_directory_and_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config/opencode-cloud/hosts.json");
    let store = HostsStore::open(vec![path.clone()]);
    assert!(store.current().problem.is_none());
    assert!(store.current().usable().unwrap().hosts.is_empty());
    store.update(|file| insert(file, "a")).await.unwrap();

    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    assert_eq!(names_in(path.parent().unwrap()), ["hosts.json"], "nothing to back up");
    assert!(fs::read_to_string(&path).unwrap().starts_with("{\n  \"version\": 1,"));
}

#[tokio::test]
async fn the_mode_stays_and_the_backup_is_private() {
    let place = Place::with(V0);
    fs::set_permissions(&place.path, fs::Permissions::from_mode(0o640)).unwrap();
    place.store().update(|file| insert(file, "new")).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place.path), 0o640);
    assert_eq!(mode(&place.bak()), 0o600);
}

#[tokio::test]
async fn a_link_stays_a_link_and_its_target_is_replaced() {
    let place = Place::new();
    let dotfiles = place.dir.path().join("dotfiles");
    fs::create_dir(&dotfiles).unwrap();
    fs::write(dotfiles.join("real.json"), V0).unwrap();
    symlink("dotfiles/real.json", dotfiles.join("../hosts.json")).unwrap();
    let store = place.store();
    store.update(|file| insert(file, "new")).await.unwrap();

    assert!(fs::symlink_metadata(&place.path).unwrap().is_symlink());
    assert!(fs::read_to_string(dotfiles.join("real.json")).unwrap().contains("\"new\""));
    assert_eq!(fs::read_to_string(place.bak()).unwrap(), V0);
    assert_eq!(names_in(&dotfiles), ["real.json"]);
    assert_eq!(place.names(), ["dotfiles", "hosts.json", "hosts.json.bak"]);
    assert_eq!(store.current().path, place.path);
}

#[tokio::test]
async fn the_first_file_that_exists_is_the_one() {
    let place = Place::new();
    let candidates = vec![place.dir.path().join("ours/hosts.json"), place.path.clone()];
    fs::write(&place.path, V0).unwrap();
    let store = HostsStore::open(candidates.clone());
    store.update(|file| insert(file, "new")).await.unwrap();
    assert_eq!(store.current().path, place.path);
    assert!(!candidates[0].exists());

    fs::create_dir(place.dir.path().join("ours")).unwrap();
    fs::write(&candidates[0], minimal(&["own"])).unwrap();
    assert_eq!(keys(&*store.refresh().await), ["own"]);
    assert_eq!(store.current().path, candidates[0]);
}

#[tokio::test]
async fn what_a_killed_process_left_is_removed_and_nothing_else() {
    let place = Place::with(V0);
    let old = std::time::SystemTime::now() - Duration::from_secs(3600);
    for file in [".hosts.json.dead.occ-tmp", ".hosts.json.swp", "notes"] {
        fs::File::create(place.dir.path().join(file)).unwrap().set_modified(old).unwrap();
    }
    fs::write(place.dir.path().join(".hosts.json.live.occ-tmp"), "").unwrap();
    place.store();
    assert_eq!(
        place.names(),
        [".hosts.json.live.occ-tmp", ".hosts.json.swp", "hosts.json", "notes"]
    );
}

// ---- what is refused ----

#[tokio::test]
async fn errors_name_line_and_column_at_start_and_at_run_time() {
    let cases = [
        // Text, part of the message, line, column.
        ("{\n  \"version\": 1,\n  \"hosts\": {\n", "EOF while parsing", 4, 0),
        ("{\n  \"version\": 1\n  \"hosts\": {}\n}", "expected `,` or `}`", 3, 3),
        ("{\n  \"extra\": 1,\n  \"hosts\": {}\n}", "unknown field `extra`", 2, 9),
        (
            "{\"hosts\": {\n  \"a\": {\n    \"hostname\": \"h\",\n    \"proxy\": 1\n  }\n}}",
            "unknown field `proxy`, expected one of",
            4,
            11,
        ),
        // The offending value is the last of its object: the line is its own, not the brace's.
        (
            "{\"hosts\": {\n  \"a\": {\n    \"hostname\": \"h\",\n    \"port\": 70000\n  }\n}}",
            "port 70000 is not 1 to 65535",
            4,
            17,
        ),
        (
            "{\"hosts\": {\n  \"a\": {\n    \"user\": \"u\"\n  }\n}}",
            "missing field `hostname`",
            3,
            15,
        ),
        ("[]", "the whole file is an array", 1, 1),
        ("{\"hosts\": {\"a\": [\"h\"]}}", "the host \"a\" is an array", 1, 1),
        ("{\"hosts\": {\n  \"-a\": {}\n}}", "begins with '-'", 2, 6),
        ("{\"hosts\": []}", "invalid type: sequence", 1, 10),
        ("", "EOF while parsing", 1, 0),
    ];
    for (text, message, line, column) in cases {
        let check = |problem: &HostsFileError| {
            let shown = problem.to_string();
            assert!(shown.starts_with("hosts.json does not parse: "), "{shown}");
            assert!(shown.contains(message), "{shown}");
            assert!(shown.contains(&format!(" at line {line} column {column} (/")), "{shown}");
            assert!(std::error::Error::source(problem).is_none());
        };

        let place = Place::with(text);
        let store = place.store();
        check(store.current().problem.as_ref().unwrap());
        check(store.current().usable().unwrap_err());
        let refused = store.update(|file| insert(file, "a")).await;
        assert!(matches!(&refused, Err(UpdateError::File(problem)) if problem.bak.is_none()));
        assert_eq!(place.text(), text, "left for a person to mend");

        let place = Place::with(V0);
        let store = place.store();
        store.update(|file| insert(file, "new")).await.unwrap();
        fs::write(&place.path, text).unwrap();
        let snapshot = store.refresh().await;
        check(snapshot.problem.as_ref().unwrap());
        assert_eq!(snapshot.problem.as_ref().unwrap().bak.as_ref(), Some(&place.bak()));
        assert_eq!(snapshot.usable().unwrap().hosts.len(), 4, "the last good state stays");
        let refused = store.update(|file| insert(file, "other")).await;
        assert!(matches!(refused, Err(UpdateError::File(_))));
        assert_eq!(place.text(), text);
        assert_eq!(fs::read_to_string(place.bak()).unwrap(), V0);

        fs::write(&place.path, V0).unwrap();
        let snapshot = store.refresh().await;
        assert!(snapshot.problem.is_none());
        assert_eq!(snapshot.file.hosts.len(), 3);
    }
}

#[tokio::test]
async fn every_torn_prefix_is_an_error_and_never_fewer_hosts() {
    let place = Place::new();
    for end in 0..V0.len() - 1 {
        fs::write(&place.path, &V0.as_bytes()[..end]).unwrap();
        let snapshot = place.store().current();
        assert!(snapshot.problem.is_some(), "{end} bytes");
        assert!(snapshot.usable().is_err());
    }
}

#[tokio::test]
async fn a_broken_file_after_none_is_not_an_empty_one() {
    let place = Place::new();
    let store = place.store();
    fs::write(&place.path, "{").unwrap();
    assert!(store.refresh().await.usable().is_err());
}

#[tokio::test]
async fn other_versions_are_refused_even_with_keys_of_their_own() {
    for version in ["2", "-1", "1.5", "99999999999999999999"] {
        let place = Place::with(&format!(r#"{{"version":{version},"teams":{{}}}}"#));
        let problem = place.store().current().problem.clone().unwrap();
        assert!(matches!(problem.fault, HostsFault::Version(_)), "{problem}");
        assert!(problem.to_string().contains("only versions 0 and 1"), "{problem}");
    }
}

#[tokio::test]
async fn a_default_host_that_is_not_there_is_kept() {
    let place = Place::with(r#"{"version":1,"default_host":"gone","hosts":{}}"#);
    let store = place.store();
    store.update(|file| insert(file, "a")).await.unwrap();
    assert!(place.text().contains("\"default_host\": \"gone\""));
}

#[tokio::test]
async fn what_is_no_regular_file_is_an_error_and_does_not_hang() {
    let pipe = Place::new();
    assert!(Command::new("mkfifo").arg(&pipe.path).status().unwrap().success());
    let directory = Place::new();
    fs::create_dir(&directory.path).unwrap();
    let device = Place::new();
    symlink("/dev/zero", &device.path).unwrap();
    let dangling = Place::new();
    symlink("/nonexistent/hosts.json", &dangling.path).unwrap();
    let looping = Place::new();
    symlink("hosts.json", &looping.path).unwrap();

    for (place, text) in [
        (&pipe, "is a named pipe, not a regular file"),
        (&directory, "is a directory, not a regular file"),
        (&device, "is a device, not a regular file"),
        (&dangling, "is a symbolic link to /nonexistent/hosts.json, which does not exist"),
        (&looping, "cannot be read"),
    ] {
        let store = place.store();
        let shown = store.current().problem.as_ref().unwrap().to_string();
        assert!(shown.contains(text), "{shown}");
        assert!(matches!(store.update(|file| insert(file, "a")).await, Err(UpdateError::File(_))));
        assert_eq!(place.names(), ["hosts.json"]);
    }
    assert!(fs::metadata(&pipe.path).unwrap().file_type().is_fifo());
    let problem = looping.store().current().problem.clone().unwrap();
    assert!(std::error::Error::source(&problem).is_some(), "the cause is in the chain");
}

#[tokio::test]
async fn a_huge_file_is_refused() {
    let place = Place::new();
    fs::File::create(&place.path).unwrap().set_len(1 << 40).unwrap();
    let problem = place.store().current().problem.clone().unwrap();
    assert!(matches!(problem.fault, HostsFault::TooLarge), "{problem}");
}

// ---- edits by hand ----

#[tokio::test(start_paused = true)]
async fn every_way_of_editing_by_hand_is_noticed() {
    let place = Place::new();
    let dir = place.dir.path().join("later");
    let path = dir.join("hosts.json");
    let store = HostsStore::open(vec![path.clone()]);
    let (mut seen, _watcher) = watched(&store);

    fs::create_dir(&dir).unwrap();
    fs::write(&path, minimal(&["appears"])).unwrap();
    wait(&mut seen, |s| keys(s) == ["appears"]).await;

    fs::write(&path, minimal(&["plain"])).unwrap();
    wait(&mut seen, |s| keys(s) == ["plain"]).await;

    // vim with backupcopy=no: the old file is moved away, a new one written.
    fs::rename(&path, dir.join("hosts.json~")).unwrap();
    fs::write(&path, minimal(&["vim"])).unwrap();
    wait(&mut seen, |s| keys(s) == ["vim"]).await;

    fs::write(dir.join("temporary"), minimal(&["renamed"])).unwrap();
    fs::rename(dir.join("temporary"), &path).unwrap();
    wait(&mut seen, |s| keys(s) == ["renamed"]).await;

    // Same inode and length, and the old time: only the content, or the inode's time, tells.
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, minimal(&["RENAMED"]).as_bytes(), 0).unwrap();
    file.set_modified(modified).unwrap();
    wait(&mut seen, |s| keys(s) == ["RENAMED"]).await;

    // Dotfile managers switch a whole directory.
    let other = place.dir.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("hosts.json"), minimal(&["switched"])).unwrap();
    fs::rename(&dir, place.dir.path().join("old")).unwrap();
    symlink(&other, &dir).unwrap();
    wait(&mut seen, |s| keys(s) == ["switched"]).await;

    fs::write(other.join("hosts.json"), "{").unwrap();
    let broken = wait(&mut seen, |s| s.problem.is_some()).await;
    assert_eq!(keys(&broken), ["switched"]);

    fs::remove_file(other.join("hosts.json")).unwrap();
    let gone = wait(&mut seen, |s| s.problem.is_none()).await;
    assert!(gone.file.hosts.is_empty(), "deleted on purpose");
}

#[tokio::test]
async fn an_edit_is_noticed_in_real_time_too() {
    let place = Place::with(V0);
    let store = place.store();
    let (mut seen, _watcher) = watched(&store);
    fs::write(&place.path, minimal(&["edited"])).unwrap();
    wait(&mut seen, |s| keys(s) == ["edited"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_gone_or_torn_for_a_moment_is_neither_empty_nor_broken() {
    let disturb: [fn(&Path); 3] = [
        |path| fs::remove_file(path).unwrap(),
        |path| fs::write(path, "").unwrap(),
        |path| fs::write(path, &V0[..100]).unwrap(),
    ];
    for disturb in disturb {
        let place = Place::with(V0);
        let store = place.store();
        let (mut seen, _watcher) = watched(&store);
        disturb(&place.path);
        // The watcher sees the disturbance, and is waiting for the file to keep still when it ends.
        sleep(POLL + SETTLE / 2).await;
        assert_eq!(store.current().revision, 1);
        fs::write(&place.path, minimal(&["after"])).unwrap();
        seen.changed().await.unwrap();
        let after = seen.borrow_and_update().clone();
        assert_eq!((after.revision, keys(&after)), (2, vec!["after"]));
        assert!(after.problem.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn an_update_waits_for_an_editor_that_is_between_two_renames() {
    let place = Place::with(V0);
    let store = place.store();
    fs::rename(&place.path, place.dir.path().join("aside")).unwrap();
    let (result, ()) = tokio::join!(store.update(|file| insert(file, "new")), async {
        sleep(SETTLE / 2).await;
        fs::rename(place.dir.path().join("aside"), &place.path).unwrap();
    });
    result.unwrap();
    assert_eq!(keys(&store.current()), ["zeta", "alpha", "mid", "new"]);
}

#[tokio::test(start_paused = true)]
async fn own_writes_and_edits_that_say_the_same_make_no_revision() {
    let place = Place::with(V0);
    let store = place.store();
    let (mut seen, _watcher) = watched(&store);
    for count in 0..10 {
        store.update(|file| describe(file, "mid", &count.to_string())).await.unwrap();
        assert_eq!(store.current().revision, count + 2);
        sleep(POLL * 2).await;
        assert_eq!(store.current().revision, count + 2);
    }
    seen.borrow_and_update();
    fs::write(&place.path, place.text() + "\n\n").unwrap();
    sleep(POLL * 5).await;
    assert!(!seen.has_changed().unwrap());
}

#[tokio::test(start_paused = true)]
async fn the_watcher_ends_when_cancelled() {
    let place = Place::with(V0);
    let (store, cancel) = (place.store(), CancellationToken::new());
    let mut watcher = JoinSet::new();
    watcher.spawn({
        let cancel = cancel.clone();
        async move { store.watch(cancel).await }
    });
    cancel.cancel();
    timeout(GUARD, watcher.join_all()).await.expect("in time");
}

#[tokio::test]
async fn an_unchanged_file_is_read_again_only_while_its_times_cannot_be_trusted() {
    let place = Place::with(V0);
    assert!(place.store().shared.changed(), "it could be written again within the same tick");
    let old = std::time::SystemTime::now() - Duration::from_secs(10);
    fs::File::options().write(true).open(&place.path).unwrap().set_modified(old).unwrap();
    let store = place.store();
    assert!(!store.shared.changed());
    store.update(|file| insert(file, "new")).await.unwrap();
    assert!(store.shared.changed());
}

// ---- several writers ----

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_hundred_parallel_updates_lose_none() {
    let place = Place::with(V0);
    let store = place.store();
    let (watching, _watcher) = watched(&store);
    let mut updates = JoinSet::new();
    for n in 0..200 {
        let store = store.clone();
        updates.spawn(async move { store.update(|file| insert(file, &format!("h{n}"))).await });
    }
    for result in updates.join_all().await {
        result.unwrap();
    }
    let read: HostsFile = serde_json::from_str(&place.text()).unwrap();
    assert_eq!(read.hosts.len(), 203);
    assert_eq!(store.current().file, read);
    assert_eq!(store.current().revision, 201);
    assert_eq!(watching.borrow().revision, 201);
    assert_eq!(place.names(), ["hosts.json", "hosts.json.bak"]);
}

#[tokio::test]
async fn an_edit_by_hand_since_the_last_look_is_merged() {
    let place = Place::with(&minimal(&["a"]));
    let store = place.store();
    fs::write(&place.path, minimal(&["a", "by-hand"])).unwrap();
    store.update(|file| insert(file, "ours")).await.unwrap();
    assert_eq!(keys(&store.current()), ["a", "by-hand", "ours"]);
    assert_eq!(fs::read_to_string(place.bak()).unwrap(), minimal(&["a", "by-hand"]));
}

#[tokio::test]
async fn an_edit_by_hand_during_a_change_is_merged() {
    let place = Place::with(&minimal(&["a"]));
    let store = place.store();
    let mut calls = 0;
    store
        .update(|file| {
            calls += 1;
            if calls == 1 {
                fs::write(&place.path, minimal(&["a", "by-hand"])).unwrap();
            }
            insert(file, "ours")
        })
        .await
        .unwrap();
    assert_eq!(calls, 2);
    assert_eq!(keys(&store.current()), ["a", "by-hand", "ours"]);
    assert_eq!(fs::read_to_string(place.bak()).unwrap(), minimal(&["a", "by-hand"]));
    assert_eq!(place.names(), ["hosts.json", "hosts.json.bak"]);
}

#[tokio::test]
async fn a_file_that_never_keeps_still_is_given_up_and_keeps_the_others_content() {
    let place = Place::with(&minimal(&["a"]));
    let store = place.store();
    let mut calls = 0;
    let result = store
        .update(|file| {
            calls += 1;
            fs::write(&place.path, minimal(&["a", &format!("w{calls}")])).unwrap();
            insert(file, "ours")
        })
        .await;
    assert!(matches!(result, Err(UpdateError::Contended { .. })), "{result:?}");
    assert_eq!(calls, 5);
    assert_eq!(place.text(), minimal(&["a", "w5"]));
    assert_eq!(place.names(), ["hosts.json", "hosts.json.bak"]);
}

#[tokio::test]
async fn an_update_dropped_while_it_writes_is_finished_before_the_next_begins() {
    let place = Place::with(V0);
    let store = place.store();
    let called = AtomicBool::new(false);
    let dropped = store.update(|file| {
        called.store(true, Ordering::Relaxed);
        // Takes long enough to write that the next update would overtake it.
        file.hosts["mid"].description = Some("x".repeat(3 << 20));
        insert(file, "dropped")
    });
    let in_progress = async {
        while !called.load(Ordering::Relaxed) {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        result = dropped => panic!("done at once: {result:?}"),
        () = in_progress => {}
    }
    let found = store
        .update(|file| {
            insert(file, "next")?;
            Ok::<_, Infallible>(file.hosts.contains_key("dropped"))
        })
        .await
        .unwrap();
    assert!(found);
    assert_eq!(keys(&store.current()), ["zeta", "alpha", "mid", "dropped", "next"]);
}

// ---- failures ----

/// Makes an update that must fail at `step`, and checks that nothing has changed.
async fn fails_at(place: &Place, step: WriteStep) -> WriteError {
    let (before, names) = (place.text(), place.names());
    let store = place.store();
    let result = store.update(|file| insert(file, "new")).await;
    let Err(UpdateError::Write(error)) = result else { panic!("{result:?}") };
    assert_eq!(error.step, step, "{error:?}");
    assert_eq!(place.text(), before);
    assert_eq!(place.names(), names);
    assert_eq!(store.current().revision, 1);
    assert!(!store.current().file.hosts.contains_key("new"));
    error
}

#[tokio::test]
async fn a_backup_that_cannot_be_written_stops_the_change() {
    let place = Place::with(V0);
    fs::create_dir_all(place.bak().join("full")).unwrap();
    let error = fails_at(&place, WriteStep::Backup).await;
    assert_eq!(error.path, place.bak());
    assert!(!error.is_no_space());
    assert!(error.to_string().starts_with("hosts.json is not saved: cannot write the backup /"));
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_told() {
    let place = Place::new();
    fs::write(place.dir.path().join("config"), "a file").unwrap();
    let store = HostsStore::open(vec![place.dir.path().join("config/occ/hosts.json")]);
    let result = store.update(|file| insert(file, "new")).await;
    let Err(UpdateError::Write(error)) = result else { panic!("{result:?}") };
    assert_eq!(error.step, WriteStep::CreateDirectory);
    assert!(store.current().file.hosts.is_empty());
}

/// Runs the test `child` of this program with `role` on `place`.
fn run_child(program: &Path, role: &str, place: &Place) -> Command {
    let (_, module) = module_path!().split_once("::").unwrap();
    let mut command = Command::new(program);
    command
        .args([&format!("{module}::child"), "--exact", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(DIRECTORY, place.dir.path());
    command
}

const ROLE: &str = "OCC_HOSTS_TEST_ROLE";
const DIRECTORY: &str = "OCC_HOSTS_TEST_DIRECTORY";

/// Not a test of its own: what the tests below run in another process.
#[tokio::test]
async fn child() {
    let (Some(role), Some(directory)) = (env::var_os(ROLE), env::var_os(DIRECTORY)) else { return };
    let path = PathBuf::from(directory).join("hosts.json");
    match role.to_str().unwrap() {
        "loop" => {
            let store = HostsStore::open(vec![path]);
            for n in generation(&store.current().file).unwrap().. {
                store.update(|file| set_generation(file, n + 1)).await.unwrap();
            }
        }
        role => {
            let result = HostsStore::open(vec![path]).update(|file| insert(file, "new")).await;
            let Err(UpdateError::Write(error)) = result else { panic!("{result:?}") };
            let kind = error.source.kind();
            let expected = match role {
                "read-only directory" => {
                    (WriteStep::Backup, io::ErrorKind::PermissionDenied, false)
                }
                "read-only target" => (WriteStep::Stage, io::ErrorKind::PermissionDenied, false),
                "read-only file" => {
                    (WriteStep::CheckWritable, io::ErrorKind::PermissionDenied, false)
                }
                "no room" => (WriteStep::Stage, io::ErrorKind::FileTooLarge, true),
                _ => panic!("{role}"),
            };
            assert_eq!((error.step, kind, error.is_no_space()), expected, "{error:?}");
        }
    }
}

fn passed(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{output:?}");
}

/// Returns this test program where `nobody` can run it.
fn program_for_anyone(place: &Place) -> PathBuf {
    let (from, to) = (env::current_exe().unwrap(), place.dir.path().join("program"));
    if fs::hard_link(&from, &to).is_err() {
        fs::copy(&from, &to).unwrap();
    }
    fs::set_permissions(place.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    to
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn without_permission_to_write_nothing_changes() {
    const NOBODY: u32 = 65534;
    let programs = Place::new();
    let program = program_for_anyone(&programs);
    for role in ["read-only directory", "read-only target", "read-only file"] {
        let place = Place::new();
        let real = place.dir.path().join("real");
        fs::create_dir(&real).unwrap();
        let file = if role == "read-only target" { real.join("file") } else { place.path.clone() };
        fs::write(&file, V0).unwrap();
        if file != place.path {
            symlink(&file, &place.path).unwrap();
        }
        if is_root() {
            for path in [place.dir.path(), &real, &file] {
                std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
        let (locked, mode) = match role {
            "read-only directory" => (place.dir.path(), 0o555),
            "read-only target" => (&*real, 0o555),
            _ => (&*file, 0o444),
        };
        fs::set_permissions(locked, fs::Permissions::from_mode(mode)).unwrap();
        let names = place.names();

        let mut command = run_child(&program, role, &place);
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        let output = command.output().unwrap();
        fs::set_permissions(place.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        passed(&output);
        assert_eq!(place.text(), V0, "{role}");
        assert_eq!(place.names(), names, "{role}");
        assert!(fs::read_dir(&real).unwrap().count() <= 1);
    }
}

#[test]
fn without_room_nothing_changes() {
    // With a limit of 2,048 bytes the old content, and so its backup, fits, and the new content is cut
    // in the middle. The shell ignores SIGXFSZ, so that the write fails as it does on a full disk.
    let text = V0.replace('ü', &"x".repeat(2000 - V0.len()));
    let place = Place::with(&text);

    let child = run_child(&env::current_exe().unwrap(), "no room", &place);
    let mut shell = Command::new("bash");
    shell.args(["-c", "trap '' XFSZ; ulimit -f 2; exec \"$@\"", "bash"]);
    shell.arg(child.get_program()).args(child.get_args());
    shell.envs(child.get_envs().filter_map(|(key, value)| Some((key, value?))));
    passed(&shell.output().unwrap());
    assert_eq!(place.text(), text);
    assert_eq!(place.names(), ["hosts.json"]);
}

const GENERATION_HOSTS: usize = 50;

/// Writes one number into every host, so that a mixture of two states shows.
fn set_generation(file: &mut HostsFile, n: u64) -> Result<(), Infallible> {
    for host in file.hosts.values_mut() {
        // The length changes too.
        host.description = Some(format!("{n} {}", "x".repeat((n % 50) as usize)));
    }
    Ok(())
}

/// Returns the number in the file; `None` for a mixture.
fn generation(file: &HostsFile) -> Option<u64> {
    let n = file.hosts[0].description.as_deref()?.split(' ').next()?.parse().ok()?;
    let mut whole = file.clone();
    set_generation(&mut whole, n).unwrap();
    (whole == *file && file.hosts.len() == GENERATION_HOSTS).then_some(n)
}

#[test]
fn killed_at_any_moment_the_file_is_an_old_or_a_new_state() {
    let mut file = HostsFile::default();
    for n in 0..GENERATION_HOSTS {
        insert(&mut file, &format!("h{n}")).unwrap();
    }
    set_generation(&mut file, 0).unwrap();
    let place = Place::with(&serde_json::to_string_pretty(&file).unwrap());
    let read = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        let file: HostsFile = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        generation(&file).expect("one state, not a mixture")
    };

    let mut last = 0;
    for _ in 0..30 {
        let mut child = run_child(&env::current_exe().unwrap(), "loop", &place)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let started = tokio::time::Instant::now();
        while read(&place.path) < last + 2 {
            assert!(started.elapsed() < GUARD && child.try_wait().unwrap().is_none());
            thread::yield_now();
        }
        // Not a wait for something: the random moment of the kill.
        thread::sleep(Duration::from_micros(fastrand::u64(0..5000)));
        child.kill().unwrap();
        child.wait().unwrap();
        let now = read(&place.path);
        let bak = read(&place.bak());
        assert!(now >= last + 2);
        assert!(bak == now || bak + 1 == now, "backup {bak}, file {now}");
        assert!(place.store().current().problem.is_none());
        last = now;
    }
    let leftovers = place.names().len() - 2;
    assert!(leftovers <= 60, "at most two of each killed process: {leftovers}");
}
