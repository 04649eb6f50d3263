use occ_proto::exec::{STDERR, STDOUT};
use proptest::prelude::*;

use super::*;

fn inbox(limit: u64) -> (tempfile::TempDir, Inbox) {
    let dir = tempfile::tempdir().unwrap();
    let spill = SpillPolicy::new(dir.path().to_owned(), limit);
    (dir, Inbox::new(Arc::new(spill)))
}

async fn drain(inbox: &Inbox) -> (Vec<u8>, Vec<u8>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(frame) = inbox.recv().await {
        let to = if frame.stream() == STDOUT { &mut out } else { &mut err };
        to.extend_from_slice(&frame.data());
    }
    (out, err)
}

#[tokio::test]
async fn bytes_arrive_in_order_and_streams_stay_apart() {
    let (_dir, inbox) = inbox(1 << 30);
    inbox.push(STDOUT, b"a").await;
    inbox.push(STDOUT, b"b").await;
    inbox.push(STDERR, b"x").await;
    inbox.push(STDOUT, b"c").await;
    inbox.close(Closed::ByServer);
    let mut seen = Vec::new();
    while let Some(frame) = inbox.recv().await {
        seen.push((frame.stream(), frame.data()));
    }
    let b = Bytes::from_static;
    assert_eq!(seen, [(STDOUT, b(b"ab")), (STDERR, b(b"x")), (STDOUT, b(b"c"))]);
}

#[tokio::test]
async fn what_memory_cannot_hold_goes_to_an_unlinked_file_and_comes_back_whole() {
    let (dir, inbox) = inbox(1 << 30);
    let chunk: Vec<u8> = (0..32 * 1024u32).map(|i| i as u8).collect();
    for _ in 0..1024 {
        inbox.push(STDOUT, &chunk).await;
    }
    assert!(inbox.is_backlogged());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the file has no name");
    inbox.close(Closed::ByServer);
    let (out, _) = drain(&inbox).await;
    assert_eq!(out.len(), 1024 * chunk.len());
    assert!(out.chunks(chunk.len()).all(|c| c == chunk));
    assert!(!inbox.is_backlogged());
}

#[tokio::test]
async fn what_is_on_disk_is_known_until_it_is_taken_or_thrown_away() {
    let dir = tempfile::tempdir().unwrap();
    let spill = Arc::new(SpillPolicy::new(dir.path().to_owned(), 1 << 30));
    let chunk = vec![0; 64 * 1024];
    let full = async || {
        let inbox = Inbox::new(Arc::clone(&spill));
        for _ in 0..200 {
            inbox.push(STDOUT, &chunk).await;
        }
        inbox.close(Closed::ByServer);
        inbox
    };
    let (read, discarded, dropped) = (full().await, full().await, full().await);
    let three = spill.held();
    assert!(three > 15 << 20, "{three}");
    drain(&read).await;
    assert_eq!(spill.held(), three / 3 * 2);
    discarded.discard();
    assert_eq!(spill.held(), three / 3);
    drop(dropped);
    assert_eq!(spill.held(), 0);
}

#[tokio::test]
async fn a_new_limit_counts_for_a_stream_that_is_open() {
    let (_dir, inbox) = inbox(0);
    inbox.spill.set_limit(1 << 30);
    let chunk = vec![0; 64 * 1024];
    for _ in 0..200 {
        inbox.push(STDOUT, &chunk).await;
    }
    assert!(inbox.is_backlogged() && inbox.lost().is_none());
    inbox.spill.set_limit(1024);
    for _ in 0..200 {
        inbox.push(STDOUT, &chunk).await;
    }
    assert!(matches!(inbox.lost(), Some(OutputLost::Overflow { .. })));
}

#[tokio::test]
async fn what_is_read_counts_no_more_and_takes_no_disk() {
    use std::os::unix::fs::MetadataExt as _;
    const LIMIT: u64 = 8 << 20;
    let (_dir, inbox) = inbox(LIMIT);
    let chunk = vec![7; 64 * 1024];
    for _ in 0..96 {
        inbox.push(STDOUT, &chunk).await;
    }
    // The reader is six megabytes behind, and stays so for ten times what may be kept.
    let mut taken = 0;
    for pushed in 97..=1280 {
        inbox.push(STDOUT, &chunk).await;
        while taken + 96 * chunk.len() < pushed * chunk.len() {
            taken += inbox.recv().await.unwrap().data().len();
        }
    }
    assert_eq!(inbox.lost(), None);
    let disk = inbox.lock().file.as_ref().unwrap().file.metadata().unwrap().blocks() * 512;
    assert!(disk < 2 * LIMIT, "{disk} bytes of disk");
    assert!(inbox.spill.held() <= LIMIT);
    inbox.close(Closed::ByServer);
    assert_eq!(taken + drain(&inbox).await.0.len(), 1280 * chunk.len());
    assert_eq!(inbox.spill.held(), 0);
}

#[tokio::test]
async fn past_the_limit_the_channel_ends_with_a_reason() {
    let (_dir, inbox) = inbox(2 * 1024 * 1024);
    let chunk = vec![0; 64 * 1024];
    for _ in 0..200 {
        inbox.push(STDOUT, &chunk).await;
    }
    assert!(matches!(inbox.lost(), Some(OutputLost::Overflow { .. })));
    assert_eq!(drain(&inbox).await.0.len(), 0, "a stream with a hole is not delivered");
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_ends_the_channel_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("not-a-directory");
    std::fs::write(&file, "").unwrap();
    let inbox = Inbox::new(Arc::new(SpillPolicy::new(file, 1 << 30)));
    let chunk = vec![0; 64 * 1024];
    for _ in 0..200 {
        inbox.push(STDOUT, &chunk).await;
    }
    assert!(matches!(inbox.lost(), Some(OutputLost::Spill(_))));
}

#[tokio::test]
async fn a_reader_that_waits_is_woken_by_each_kind_of_change() {
    let (_dir, inbox) = inbox(1 << 20);
    let inbox = Arc::new(inbox);
    let waiting = |inbox: &Arc<Inbox>| {
        let inbox = Arc::clone(inbox);
        async move { inbox.accepted().await }
    };
    let (accepted, ()) = tokio::join!(waiting(&inbox), async { inbox.set_accepted(true) });
    assert_eq!(accepted, Ok(true));
    let (frame, _) = tokio::join!(inbox.recv(), inbox.push(STDOUT, b"x"));
    assert_eq!(frame.unwrap().data(), "x");
    let (end, ()) = tokio::join!(inbox.recv(), async { inbox.set_eof() });
    assert_eq!(end, None);
    let ((), ()) = tokio::join!(inbox.exited(), async { inbox.set_exit(ExitReport::Status(3)) });
    assert_eq!(inbox.exit(), Some(ExitReport::Status(3)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// Whatever the sizes and however reading and writing interleave, every byte arrives once.
    #[test]
    fn nothing_is_lost_or_doubled(
        pushes in proptest::collection::vec((any::<bool>(), 1usize..200_000, 0usize..4), 1..120),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (_dir, inbox) = inbox(1 << 30);
            let (mut out, mut err): (Vec<u8>, Vec<u8>) = (Vec::new(), Vec::new());
            let (mut got_out, mut got_err) = (Vec::new(), Vec::new());
            let mut counter = 0u8;
            let mut pending = 0usize;
            for (to_out, len, reads) in pushes {
                counter = counter.wrapping_add(1);
                let data = vec![counter; len];
                if to_out { out.extend(&data) } else { err.extend(&data) }
                inbox.push(if to_out { STDOUT } else { STDERR }, &data).await;
                pending += len;
                for _ in 0..reads {
                    if pending == 0 { break }
                    let frame = inbox.recv().await.unwrap();
                    pending -= frame.data().len();
                    if frame.stream() == STDOUT { got_out.extend(frame.data()) } else { got_err.extend(frame.data()) }
                }
            }
            inbox.set_eof();
            let (rest_out, rest_err) = drain(&inbox).await;
            got_out.extend(rest_out);
            got_err.extend(rest_err);
            assert!(out == got_out && err == got_err);
        });
    }
}
