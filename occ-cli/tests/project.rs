//! A project's `.occ.toml` says where its commands go, once it has been allowed.

#![allow(clippy::unwrap_used, reason = "a failing fixture is a failing test")]

mod common;

use common::{Fake, run};
use serde_json::Value;

/// Runs every command of the host's as one that exits with 9, if it is to run in that directory.
fn fake(directory: Option<&'static str>) -> Fake {
    Fake::with_execs(
        |_| common::host_not_found("nobody-asks"),
        move |mut ws, seen| {
            assert_eq!(seen.path, "/v1/hosts/there/exec");
            let request: Value =
                serde_json::from_str(ws.read().unwrap().to_text().unwrap()).unwrap();
            assert_eq!(request.get("cwd").and_then(Value::as_str), directory);
            common::started(&mut ws);
            common::exit(&mut ws, 9);
        },
    )
}

#[test]
fn commands_go_to_the_projects_host_once_it_is_allowed() {
    let fake = fake(Some("/srv/app"));
    let project = tempfile::tempdir().unwrap();
    let below = project.path().join("src");
    std::fs::create_dir(&below).unwrap();
    let file = project.path().join(".occ.toml");
    let occ = |args: &[&str]| {
        let mut command = fake.command(args);
        command.current_dir(&below);
        run(&mut command)
    };
    let none = occ(&["allow"]);
    assert_eq!(none.code, 2, "{none:?}");
    assert!(none.err.contains("no .occ.toml"), "{none:?}");

    std::fs::write(&file, "host = \"there\"\ndirectory = \"/srv/app\"\n").unwrap();
    let refused = occ(&["exec", "--", "make"]);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.err.contains("wants host there, directory \"/srv/app\""), "{refused:?}");
    assert!(refused.err.contains("occ allow"), "{refused:?}");
    assert_eq!(fake.lines(), Vec::<String>::new());

    for command in [&["status"][..], &["stop"], &["logs"], &["forward", "add", "-D", "1"]] {
        let refused = occ(command);
        assert_eq!(refused.code, 2, "{command:?} {refused:?}");
        assert!(refused.err.contains("occ allow"), "{command:?} {refused:?}");
    }

    let allowed = occ(&["allow"]);
    assert_eq!(allowed.code, 0, "{allowed:?}");
    let done = occ(&["exec", "--", "make"]);
    assert_eq!(done.code, 9, "{done:?}");
    occ(&["status"]);
    let asked = fake.lines();
    assert!(asked.iter().any(|line| line.starts_with("GET /v1/hosts/there")), "{asked:?}");

    // Another content is another question.
    std::fs::write(&file, "host = \"elsewhere\"\n").unwrap();
    let changed = occ(&["exec", "--", "make"]);
    assert_eq!(changed.code, 2, "{changed:?}");
    std::fs::write(&file, "host = \"there\"\ndirectory = \"/srv/app\"\n").unwrap();
    occ(&["allow", "--remove"]);
    assert_eq!(occ(&["exec", "--", "make"]).code, 2);
}

#[test]
fn a_file_that_means_nothing_is_named_with_its_line() {
    let fake = fake(None);
    let project = tempfile::tempdir().unwrap();
    for (text, words) in [
        ("host = \"a\"\nhsot = 1\n", "line 2"),
        ("host = \"-x\"\n", "line 1"),
        ("directory = \"/srv\"\n", "host"),
        ("host = ", "line 1"),
    ] {
        std::fs::write(project.path().join(".occ.toml"), text).unwrap();
        let mut command = fake.command(&["exec", "--", "make"]);
        let done = run(command.current_dir(project.path()));
        assert_eq!(done.code, 2, "{done:?}");
        assert!(done.err.contains(words) && done.err.contains(".occ.toml"), "{done:?}");
    }
    // What is said on the command line goes before.
    let mut command = fake.command(&["exec", "--host", "there", "--", "make"]);
    assert_eq!(run(command.current_dir(project.path())).code, 9);
}
