//! Edits by hand are noticed, once, and what is torn for a moment is not believed.

use super::*;

#[tokio::test(start_paused = true)]
async fn every_way_of_editing_by_hand_is_noticed() {
    let place = Place::new();
    let dir = place.dir.path().join("later");
    let path = dir.join("hosts.json");
    let store = unwatched(path.clone());
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
    for store in [HostsStore::open_with as fn(_, _) -> _, |paths, _| HostsStore::open(paths)] {
        let place = Place::with(V0);
        let store = store(vec![place.path.clone()], Watched::nobodys());
        let (mut seen, _watcher) = watched(&store);
        fs::write(&place.path, minimal(&["edited"])).unwrap();
        wait(&mut seen, |s| keys(s) == ["edited"]).await;
    }
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
