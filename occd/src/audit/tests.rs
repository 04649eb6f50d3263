use std::os::unix::fs::PermissionsExt as _;

use occ_proto::Code;
use occ_proto::audit::AuditOutcome;
use tokio::time::timeout;

use super::*;

/// Guards against hanging.
const GUARD: Duration = Duration::from_secs(30);

fn all() -> AuditFilter {
    AuditFilter::default()
}

/// Writes all that was said.
async fn flush(audit: &Audit, writer: Writer) {
    drop(audit.clone());
    let stop = CancellationToken::new();
    stop.cancel();
    timeout(GUARD, writer.run(stop)).await.unwrap();
}

#[tokio::test]
async fn what_is_done_has_a_beginning_and_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let (audit, writer) = open(dir.path(), &AuditConfig::default());
    let trail = audit.trail(&Arc::default(), "owner", "host.add");
    trail.set(|line| line.host = Some("h".into()));
    trail.begin();
    let kept = trail.clone();
    trail.done();
    drop(trail);
    // Somebody still works at it.
    drop(kept);
    // One whose end nobody says.
    drop(audit.trail(&Arc::default(), "owner", "exec"));
    flush(&audit, writer).await;
    let path = dir.path().join("audit.jsonl");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 3, "{text}");
    let (lines, _) = audit.read(all(), 10).await.unwrap();
    let outcomes: Vec<_> = lines.iter().map(|line| line.outcome).collect();
    assert_eq!(outcomes, [Some(AuditOutcome::Ok), Some(AuditOutcome::Unknown)]);
    assert_eq!(lines[0].host.as_deref(), Some("h"));
}

#[tokio::test]
async fn whoever_is_refused_fills_no_files_with_that() {
    let dir = tempfile::tempdir().unwrap();
    let (audit, writer) = open(dir.path(), &AuditConfig::default());
    for _ in 0..500 {
        audit.trail(&Arc::default(), "grant a", "read").failed(Code::PolicyDenied);
    }
    audit.trail(&Arc::default(), "grant b", "read").failed(Code::PolicyDenied);
    flush(&audit, writer).await;
    let (lines, _) = audit.read(all(), 1000).await.unwrap();
    let of = |via: &str| lines.iter().filter(|line| line.via.as_deref() == Some(via)).count();
    assert_eq!((of("grant a"), of("grant b")), (60, 1));
    assert_eq!(lines.iter().filter_map(|line| line.lost).sum::<u64>(), 440);
}

#[tokio::test]
async fn a_full_file_is_put_aside_and_few_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::new(dir.path());
    for number in 0..10 {
        let line = AuditLine::new(Timestamp::now(), number.to_string(), AuditEvent::End, "x");
        let mut text = serde_json::to_vec(&line).unwrap();
        text.push(b'\n');
        log.append(&text, 100).unwrap();
    }
    let count = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(count, 5);
    let (audit, _writer) = open(dir.path(), &AuditConfig::default());
    let ids = |lines: &[AuditLine]| lines.iter().map(|line| line.id.clone()).collect::<Vec<_>>();
    let (lines, mut following) = audit.read(all(), 100).await.unwrap();
    assert_eq!(ids(&lines), ["5", "6", "7", "8", "9"]);
    // Half a line that a full disk has left is nobody's.
    use std::io::Write as _;
    let half = std::fs::File::options().append(true).open(dir.path().join("audit.jsonl"));
    half.unwrap().write_all(b"{\"at").unwrap();
    for id in ["a", "b"] {
        let line = AuditLine::new(Timestamp::now(), id.into(), AuditEvent::End, "x");
        let mut text = serde_json::to_vec(&line).unwrap();
        text.push(b'\n');
        log.append(&text, if id == "a" { 1 << 20 } else { 100 }).unwrap();
    }
    audit.0.written.send_modify(|times| *times += 1);
    timeout(GUARD, following.changed()).await.unwrap();
    let next = following.read().await.unwrap();
    assert_eq!(ids(&next), ["a", "b"]);
}

#[tokio::test]
async fn what_cannot_be_written_is_said_and_stops_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    // Not even root writes to a directory.
    std::fs::create_dir(&path).unwrap();
    let (audit, writer) = open(dir.path(), &AuditConfig::default());
    let stop = CancellationToken::new();
    let run = writer.run(stop.clone());
    let work = async {
        audit.note("a", None, String::new());
        while audit.problem().is_none() {
            tokio::task::yield_now().await;
        }
        let problem = audit.problem().unwrap();
        assert!(
            problem.contains("cannot be written") && problem.contains("so far: 1"),
            "{problem}"
        );
        std::fs::remove_dir(&path).unwrap();
        audit.note("b", None, String::new());
        stop.cancel();
    };
    timeout(GUARD, async { tokio::join!(run, work) }).await.unwrap();
    assert_eq!(audit.problem(), None);
    let (lines, _) = audit.read(all(), 10).await.unwrap();
    assert_eq!((lines[0].event, lines[0].lost), (AuditEvent::Lost, Some(1)));
    assert_eq!(lines[1].action, "b");
}

#[tokio::test]
async fn what_is_lost_is_counted_from_one_daemon_to_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let (path, count) = (dir.path().join("audit.jsonl"), dir.path().join("audit.lost"));
    // Somebody else's is nothing.
    std::fs::write(&count, b"\xff of more than a number's length").unwrap();
    std::fs::create_dir(&path).unwrap();
    for _ in 0..2 {
        let (audit, writer) = open(dir.path(), &AuditConfig::default());
        audit.note("a", None, String::new());
        flush(&audit, writer).await;
    }
    std::fs::remove_dir(&path).unwrap();
    for _ in 0..2 {
        let (audit, writer) = open(dir.path(), &AuditConfig::default());
        audit.note("b", None, String::new());
        flush(&audit, writer).await;
    }
    let (audit, _writer) = open(dir.path(), &AuditConfig::default());
    let (lines, _) = audit.read(all(), 10).await.unwrap();
    let lost: Vec<_> = lines.iter().map(|line| line.lost).collect();
    assert_eq!(lost, [Some(2), None, None]);
}

#[tokio::test]
async fn where_there_is_to_be_none_there_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let (audit, writer) = open(dir.path(), &AuditConfig { enabled: false, max_size_mib: 1 });
    audit.note("a", None, String::new());
    audit.set(&AuditConfig::default());
    audit.note("b", None, String::new());
    flush(&audit, writer).await;
    let (lines, _) = audit.read(all(), 10).await.unwrap();
    assert_eq!(lines.iter().map(|line| line.action.as_str()).collect::<Vec<_>>(), ["b"]);
}

/// Not a test of what is right: `cargo test -- --ignored --nocapture` prints what a command costs.
#[tokio::test]
#[ignore = "it measures"]
async fn cost() {
    const COMMANDS: u32 = 20_000;
    let dir = tempfile::tempdir().unwrap();
    let (audit, writer) = open(dir.path(), &AuditConfig::default());
    let stop = CancellationToken::new();
    let who = Who::of(Some(crate::peer::Peer { pid: Some(std::process::id()), uid: 0 }));
    let request = occ_proto::exec::ExecRequest {
        argv: ["git", "log", "--oneline", "-n", "20"].map(Into::into).to_vec(),
        ..Default::default()
    };
    let work = async {
        let mut said = Duration::ZERO;
        let begun = tokio::time::Instant::now();
        for number in 0..COMMANDS {
            let at = tokio::time::Instant::now();
            let trail = audit.trail(&who, "owner", "exec");
            trail.begin_exec(&request);
            trail.done();
            drop(trail);
            said += at.elapsed();
            if number % 500 == 0 {
                tokio::task::yield_now().await;
            }
        }
        stop.cancel();
        (said / COMMANDS, begun)
    };
    let ((), (said, begun)) = tokio::join!(writer.run(stop.clone()), work);
    println!(
        "{said:?} to say, {:?} in all; lost {:?}",
        begun.elapsed() / COMMANDS,
        audit.problem()
    );
}
