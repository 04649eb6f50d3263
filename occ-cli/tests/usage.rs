//! The command line: what is accepted where, and how a wrong one is answered.

mod common;

use common::{Answer, Fake, connected, occ, private_dir, run, status};

fn fake() -> Fake {
    Fake::new(|seen| match seen.path.as_str() {
        "/v1/hosts/prod-1" => Answer::ok(connected("prod-1")),
        "/v1/hosts/web-07" => Answer::ok(status("web-07", "idle")),
        path => panic!("{path}"),
    })
}

#[test]
fn global_flags_work_on_both_sides_of_the_verb_and_under_both_names() {
    let fake = fake();
    for args in [
        ["--host", "prod-1", "status"],
        ["status", "--host", "prod-1"],
        ["--remote-host", "prod-1", "status"],
        ["status", "--remote-host", "prod-1"],
    ] {
        let done = fake.occ(&args);
        assert_eq!((done.code, done.out.starts_with("[prod-1] Link")), (0, true), "{done:?}");
    }
    for args in [["--json", "status", "--host=prod-1"], ["status", "--host=prod-1", "--json"]] {
        assert!(fake.occ(&args).out.starts_with('{'));
    }
    let socket = fake.socket.to_str().unwrap();
    for args in [
        ["--socket", socket, "status", "--host=prod-1"],
        ["status", "--host=prod-1", "--socket", socket],
    ] {
        assert_eq!(run(&mut occ(&args, fake.dir.path())).code, 0);
    }
}

#[test]
fn what_a_new_grant_gives_does_not_go_with_list_and_revoke() {
    let grant = |host| {
        serde_json::json!({ "name": format!("for-{host}"), "host": host, "allow": ["read"],
            "created": common::ago(1), "ends_at": common::ago(-9000), "any_uid": false, "socket": "/s" })
    };
    let grants = serde_json::json!({ "grants": [grant("a"), grant("b")] });
    let fake = Fake::new(move |_| Answer::ok(grants.clone()));
    assert!(fake.occ(&["grant", "-v", "list"]).out.contains("for-b"));
    let done = fake.occ(&["grant", "--host", "a", "list"]);
    assert!(done.out.contains("for-a") && !done.out.contains("for-b"), "{done:?}");
    for args in [&["grant", "--ttl", "2h", "list"][..], &["grant", "--any-uid", "revoke", "g"]] {
        let done = fake.occ(args);
        assert!(done.code == 2 && done.err.contains("does not go with list"), "{done:?}");
    }
}

#[test]
fn usage_errors_exit_2_and_say_why() {
    let home = private_dir();
    for (args, words) in [
        (&["status", "--host", "a", "--local"][..], "cannot be used with"),
        (&["--local", "status", "--host", "a"], "cannot be used with"),
        (&["--host", "a", "status", "--local"], "cannot be used with"),
        (&["frobnicate"], "frobnicate"),
        (&["exec", "--host", "a"], "<ARGV>"),
        (&["exec", "--host", "a", "--timeout", "soon", "--", "x"], "length of time"),
        (&["exec", "--host", "a", "--env", "1=x", "--", "x"], "the name must be"),
        (&["connect", "--local"], "needs a host"),
        (&["shell", "--local"], "needs a terminal"),
        (&["start", "--no-daemon"], "occd itself is the daemon"),
        (&["start", "--cached-rebuild-sandbox-image"], "builds no images from source"),
        (&["start", "--mount", "/a:/b", "--no-mounts"], "cannot be used with"),
        (&["--sandbox-instance", "x", "start"], "one sandbox on each host"),
        (&["start", "--sandbox-instance=x"], "one sandbox on each host"),
        (&["--runtime", "host", "status"], "does not run inside the sandbox"),
        (&["logs", "--broker"], "container's own log alone"),
        (&["update", "opencode", "--branch", "main"], "its images bring it"),
        (&["update", "opencode", "--commit", "abc"], "its images bring it"),
        (&["start", "-p", "0"], "1 to 65535"),
        (&["logs", "-n", "some"], "neither a number of lines nor all"),
        (&["logs", "-f", "--no-follow"], "cannot be used with"),
        (
            &["sandbox", "diff", "--host", "a", "--from", "b", "--to", "c"],
            "do not go with occ sandbox",
        ),
        (&["--local", "sandbox", "diff", "--from", "b", "--to", "c"], "do not go with occ sandbox"),
        (&["daemon", "stop", "--host", "nope"], "do not go with occ daemon"),
        (&["--host", "nope", "daemon", "status"], "do not go with occ daemon"),
        (&["daemon", "logs", "--local"], "do not go with occ daemon"),
        (&["update", "cli"], "does not replace itself"),
        (&["update", "opencode"], "builds inside the sandbox"),
        (&["status", "--host", "-x"], "begins with '-'"),
        (&["status", "--host=-x"], "begins with '-'"),
        (&["status", "--host", "a;b"], "shell would interpret"),
        (&["host", "add", "a", "b", "-p", "0"], "1 to 65535"),
        (&["host", "add", "a", "b", "-p", "70000"], "1 to 65535"),
        (&["host", "add", "a", "b", "-p", "-1"], "1 to 65535"),
        (&["host", "add", "a", "b:70000"], "1 to 65535"),
        (&["host", "add", "local", "b"], "reserved"),
        (&["host", "add", "a", "u@b", "-u", "v"], "two different"),
        (&["host", "edit", "a", "-p", "0"], "1 to 65535"),
        (&["host", "edit", "a"], "Nothing to change"),
        (&["connect", "--socket", "relative"], "must be absolute"),
    ] {
        let done = run(&mut occ(args, home.path()));
        assert_eq!(done.code, 2, "{args:?} {done:?}");
        assert!(done.err.starts_with("Error: ") && done.err.contains(words), "{args:?} {done:?}");
        assert_eq!(done.out, "");
    }
}

#[test]
fn with_json_a_usage_error_is_a_problem_document() {
    let home = private_dir();
    for args in [&["--json", "frobnicate"][..], &["connect", "--json", "--local"]] {
        let done = run(&mut occ(args, home.path()));
        let document: serde_json::Value = serde_json::from_str(&done.err).unwrap();
        assert_eq!((done.code, &document["status"]), (2, &400.into()), "{done:?}");
    }
}

#[test]
fn commands_of_the_existing_tool_are_recognised() {
    let home = private_dir();
    for name in ["config", "user", "mount", "reset", "install", "uninstall"] {
        let done = run(&mut occ(&[name, "-p", "3", "--open", "x"], home.path()));
        assert_eq!(done.code, 2, "{done:?}");
        assert!(done.err.starts_with(&format!("Error: occ {name} is a command of")), "{done:?}");
        assert!(done.err.contains("hint: "), "{done:?}");
    }
    let done = run(&mut occ(&["daemon", "update"], home.path()));
    assert!(done.err.contains("unrecognized subcommand 'update'"), "{done:?}");
}

#[test]
fn a_sandbox_with_a_name_is_not_taken_for_the_one_without() {
    let home = private_dir();
    let mut named = occ(&["stop"], home.path());
    let done = run(named.env("OPENCODE_SANDBOX_INSTANCE", "other"));
    assert_eq!(done.code, 2, "{done:?}");
    assert!(done.err.starts_with("Error: OPENCODE_SANDBOX_INSTANCE: occ has one"), "{done:?}");
}

#[test]
fn help_and_version_need_no_daemon() {
    let home = private_dir();
    for args in
        [&["--help"][..], &["-h"], &["help"], &["exec", "--help"], &["host", "add", "--help"]]
    {
        let done = run(&mut occ(args, home.path()));
        assert_eq!(done.code, 0);
        assert!(
            done.out.contains("occ exec --host") || done.out.contains("occ host add"),
            "{done:?}"
        );
    }
    for args in [["help", "host", "add"], ["host", "help", "add"]] {
        let done = run(&mut occ(&args, home.path()));
        assert!(done.code == 0 && done.out.contains("Usage: occ host add"), "{done:?}");
    }
    let version = run(&mut occ(&["--version"], home.path()));
    assert_eq!(version.out, format!("occ {}\n", env!("CARGO_PKG_VERSION")));
    // Each command has its one place there.
    let help = run(&mut occ(&["--help"], home.path())).out;
    let commands = help.lines().filter_map(|line| line.strip_prefix("  ")?.split_once("  "));
    let mut names: Vec<&str> = commands.flat_map(|(names, _)| names.split(' ')).collect();
    names.retain(|name| !name.starts_with('-') && *name != "occ");
    names.sort_unstable();
    let twice = names.windows(2).find(|pair| pair[0] == pair[1]);
    assert_eq!(twice, None, "{help}");
    // Alone and not on a terminal: the help.
    assert!(run(&mut occ(&[], home.path())).out.starts_with("occ: your servers"));
}

#[test]
fn the_order_of_targets() {
    let fake = Fake::new(|seen| match seen.path.as_str() {
        "/v1/default-host" => Answer::ok(serde_json::json!({"name": "from-default"})),
        path => Answer::ok(connected(path.rsplit('/').next().unwrap())),
    });
    let host = |args: &[&str], env: &str| {
        let done = run(fake.command(args).env("OCC_HOST", env));
        done.out.split(']').next().unwrap().trim_start_matches('[').to_owned()
    };
    assert_eq!(host(&["status", "--host", "from-flag"], "from-env"), "from-flag");
    assert_eq!(host(&["status"], "from-env"), "from-env");
    assert_eq!(host(&["status"], ""), "from-default");
    let local = run(fake.command(&["connect", "--local"]).env("OCC_HOST", "from-env"));
    assert_eq!(local.code, 2);
    let bad = run(fake.command(&["status"]).env("OCC_HOST", "a b"));
    assert_eq!((bad.code, bad.err.starts_with("Error: OCC_HOST: ")), (2, true));
}

#[test]
fn a_default_host_that_is_missing_is_an_error_and_never_local() {
    let fake = Fake::new(|seen| match seen.path.as_str() {
        "/v1/default-host" => Answer::ok(serde_json::json!({"name": "gone"})),
        _ => common::host_not_found("gone"),
    });
    let done = fake.occ(&["status"]);
    assert_eq!(done.code, 4);
    assert_eq!(
        done.err,
        "Error: The default host 'gone' does not exist.\nhint: occ host default NAME, or occ host default none\n"
    );
}

#[test]
fn without_a_host_exec_says_how_to_choose_one() {
    let fake = Fake::new(|_| Answer::ok(serde_json::json!({"name": null})));
    let done = fake.occ(&["exec", "--", "true"]);
    assert_eq!(done.code, 2);
    assert_eq!(
        done.err,
        "Error: No host is selected, and occ exec needs one.\n\
         hint: occ exec --host NAME, or occ host default NAME\n"
    );
}

#[test]
fn a_usage_error_as_json_says_all_of_it() {
    let fake = Fake::new(|_| panic!("nothing is asked"));
    let done = fake.occ(&["host", "add", "--json"]);
    assert_eq!(done.code, 2);
    let problem: serde_json::Value = serde_json::from_str(&done.err).unwrap();
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("<NAME>") && detail.contains("<HOSTNAME>"), "{detail}");
}

#[test]
fn a_name_that_looks_like_an_option_is_refused_as_a_name() {
    let fake = Fake::new(|_| panic!("nothing is asked"));
    for args in [
        &["exec", "--host", "-oProxyCommand=x", "--", "true"][..],
        &["host", "add", "n", "h", "-u", "-l"],
        &["host", "add", "n", "h", "-J", "-oProxyCommand=x"],
        &["host", "edit", "n", "--hostname", "-v"],
    ] {
        let done = fake.occ(args);
        assert_eq!(done.code, 2, "{args:?}: {done:?}");
        assert!(done.err.contains("begins with '-'"), "{args:?}: {done:?}");
    }
}
