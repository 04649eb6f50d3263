//! Several writers lose nothing.

use super::*;

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
