use super::*;

fn name(name: &str) -> HostName {
    HostName::new(name).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn change(seconds: i64, link: Link) -> Line {
    Line::Change(Change {
        at: at(seconds),
        link,
        code: None,
        phase: None,
        idle_reason: None,
        message: None,
    })
}

#[test]
fn availability_counts_the_time_in_which_the_link_was_wanted() {
    let mut rtt = RoundTrips::default();
    rtt.add(10.0);
    let lines = vec![
        change(0, Link::Idle),
        change(100, Link::Down),
        change(110, Link::Up),
        Line::Rtt { at: at(200), rtt },
        change(290, Link::Off),
        change(1000, Link::Failed),
    ];
    let all = history(name("a"), lines.clone(), at(-10), at(1010));
    assert_eq!((all.up_s, all.down_s, all.changes.len()), (180, 20, 5));
    assert!((all.availability.unwrap() - 0.9).abs() < 1e-9);
    assert!((all.rtt_ms.unwrap().p50 / 10.0 - 1.0).abs() < 0.08);
    // What held at the beginning is told, and counts from there on only.
    let late = history(name("a"), lines.clone(), at(250), at(1010));
    assert_eq!((late.up_s, late.down_s), (40, 10));
    assert_eq!((late.changes[0].link, late.rtt_ms), (Link::Up, None));
    let never = history(name("a"), vec![change(0, Link::Idle)], at(0), at(100));
    assert_eq!((never.availability, never.changes.len()), (None, 1));
}

#[test]
fn what_is_too_old_goes_and_what_held_then_stays() {
    let dir = tempfile::tempdir().unwrap();
    let directory = Directory::new(dir.path().join("history"));
    let lines = [
        change(0, Link::Idle),
        change(10, Link::Up),
        Line::Rtt { at: at(20), rtt: RoundTrips::default() },
        change(100, Link::Down),
    ];
    let (old, host) = (name("old"), name("a"));
    directory.append(&lines.clone().map(|line| (host.clone(), line)));
    directory.append(&[(old.clone(), change(5, Link::Up))]);
    directory.prune(at(50));
    assert_eq!(directory.read(&host).unwrap(), [change(10, Link::Up), change(100, Link::Down)]);
    assert_eq!(directory.read(&old).unwrap(), [change(5, Link::Up)]);
    // Nothing to do the second time.
    directory.prune(at(50));
    assert_eq!(directory.read(&host).unwrap().len(), 2);
}

#[test]
fn a_line_that_does_not_parse_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let directory = Directory::new(dir.path().to_owned());
    let host = name("a");
    assert_eq!(directory.read(&host).unwrap(), []);
    directory.append(&[(host.clone(), change(0, Link::Up))]);
    let path = dir.path().join("a.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{{\"at\":\n\u{0}\n{text}{{\"at")).unwrap();
    assert_eq!(directory.read(&host).unwrap(), [change(0, Link::Up)]);
    let long = name(&"x".repeat(250));
    directory.append(&[(long.clone(), change(0, Link::Up))]);
    assert_eq!(directory.read(&long).unwrap().len(), 1);
}

#[test]
fn a_file_that_is_none_holds_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let directory = Directory::new(dir.path().to_owned());
    let names = ["a", "b"].map(|name| HostName::new(name).unwrap());
    let made = std::process::Command::new("mkfifo").arg(dir.path().join("a.jsonl")).status();
    assert!(made.unwrap().success());
    let line = |name: &HostName| {
        (name.clone(), Line::Rtt { at: Timestamp::now(), rtt: RoundTrips::default() })
    };
    directory.append(&names.each_ref().map(line));
    assert!(directory.read(&names[0]).is_err());
    assert_eq!(directory.read(&names[1]).unwrap().len(), 1);
}
