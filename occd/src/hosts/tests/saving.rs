//! What is written: only what changed, atomically, with the mode and the links as they were.

use super::*;

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
