//! The history of a link: when it was down, why, and what was before the daemon started.

use occ_proto::Code;
use occ_proto::history::{Change, History, Link};
use occ_proto::status::{Phase, State};
use testkit::daemon::Target;
use testkit::wait::blocking::wait_until;
use testkit::{DaemonRig, EmbeddedHost, FaultyLink};

use crate::ask::{GUARD, body, echoes, in_state, post, problem};

fn history(rig: &DaemonRig, query: &str) -> History {
    let answer = rig.http("GET", &format!("/v1/hosts/far/history{query}"), &[], None);
    assert_eq!(answer.status, 200, "{}", answer.text());
    body(&answer)
}

/// Waits until the history ends like that.
fn ends_with(rig: &DaemonRig, links: &[Link]) -> Vec<Change> {
    let changes = wait_until(
        "the history",
        GUARD,
        || history(rig, "").changes,
        |changes| changes.iter().map(|change| change.link).collect::<Vec<_>>().ends_with(links),
    );
    assert!(changes.is_sorted_by_key(|change| change.at), "{changes:?}");
    changes
}

#[test]
fn it_tells_why_a_host_was_down_and_survives_the_daemon() {
    let host = EmbeddedHost::start();
    let link = FaultyLink::start(host.addr());
    let mut rig = DaemonRig::new();
    rig.add_host("far", Target::from(&host).through(&link));
    rig.start_daemon(&[]);
    assert_eq!(history(&rig, "").changes, []);
    echoes(&rig, "far");
    ends_with(&rig, &[Link::Up]);
    host.http_banner();
    host.drop_connections();
    let changes = ends_with(&rig, &[Link::Up, Link::Down, Link::Down]);
    let [.., lost, refused] = &changes[..] else { panic!("{changes:?}") };
    assert_eq!((lost.code, lost.phase), (Some(Code::HostUnreachable), Some(Phase::Established)));
    assert_eq!((refused.code, refused.phase), (Some(Code::NotSsh), Some(Phase::Banner)));
    // The same failure again is no change.
    wait_until(
        "more attempts",
        GUARD,
        || in_state(&rig, "far", State::Backoff).attempt,
        |n| *n > 3,
    );
    assert_eq!(history(&rig, "").changes, changes);
    host.ssh_banner();
    ends_with(&rig, &[Link::Down, Link::Up]);
    let told = history(&rig, "");
    assert!(told.availability.is_some_and(|part| part > 0.0 && part < 1.0), "{told:?}");

    let text = rig.occ_ok(&["history", "--host", "far", "--since", "1h"]);
    assert!(text.contains("does not speak SSH") && text.contains("(banner)"), "{text}");
    assert!(text.lines().last().is_some_and(|line| line.starts_with("[far] up ")), "{text}");

    // A daemon that was killed wrote no last word: the next one says until when it was seen.
    rig.kill_daemon();
    rig.start_daemon(&[]);
    echoes(&rig, "far");
    ends_with(&rig, &[Link::Down, Link::Up, Link::Off, Link::Up]);
    // One that is ended in good order does.
    rig.terminate_daemon();
    rig.start_daemon(&[]);
    assert_eq!(post(&rig, "/v1/hosts/far/disconnect").status, 200);
    ends_with(&rig, &[Link::Up, Link::Off, Link::Stopped]);

    let bad = rig.http("GET", "/v1/hosts/far/history?since=yesterday", &[], None);
    assert_eq!(problem(&bad).code, Code::BadRequest);
    // More than is kept is not taken for all that is.
    for much in ["91d", "400d", "2001-01-01T00:00:00Z"] {
        let path = format!("/v1/hosts/far/history?since={much}");
        let much = problem(&rig.http("GET", &path, &[], None));
        assert_eq!(much.code, Code::BadRequest);
        assert!(much.detail.contains("90 days"), "{much:?}");
    }
    history(&rig, "?since=90d");
    let much = rig.run_occ(&["history", "--host", "far", "--since", "91d"]);
    assert!(much.code() == 2 && much.stderr.contains("90 days"), "{much:?}");
    let mode = std::fs::metadata(rig.root().join("state/occ/history")).unwrap().permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o700);
}
