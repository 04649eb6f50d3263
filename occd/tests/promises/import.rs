//! Hosts come out of ssh_config by `occ host import` and `occ setup`, and `occ doctor` looks at one.

use std::os::unix::fs::PermissionsExt as _;

use rustix::process::Signal;
use serde_json::{Value, json};
use testkit::{DaemonRig, EmbeddedHost, RealSshd, Terminal};

fn write_ssh_config(rig: &DaemonRig, text: &str) {
    let path = rig.home().join(".ssh/config");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Returns the lines that make names of a server.
fn block(names: &str, host: &EmbeddedHost) -> String {
    format!(
        "Host {names}\n  HostName 127.0.0.1\n  Port {}\n  User deploy\n  IdentityFile {}\n",
        host.port(),
        host.client_key_path().display()
    )
}

fn hosts(rig: &DaemonRig) -> Value {
    let dir = rig.paths().hosts_file_candidates().unwrap().remove(0);
    std::fs::read_to_string(dir).map_or(Value::Null, |text| serde_json::from_str(&text).unwrap())
}

/// Returns the names of the hosts that are saved.
fn names(rig: &DaemonRig) -> Vec<String> {
    let hosts = hosts(rig);
    hosts["hosts"].as_object().map_or_else(Vec::new, |all| all.keys().cloned().collect())
}

fn question(host: &str) -> String {
    format!("[{host}] does not work: [k]eep it, [t]ry again, or")
}

#[test]
fn hosts_of_ssh_config_are_imported_with_one_save() {
    if !RealSshd::require() {
        return;
    }
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    let more = rig.root().join("more");
    std::fs::write(&more, block("web-2", &host)).unwrap();
    let text = format!(
        "Include {}\nHost *.example.com !x\n  User x\n{}{}Host bad;name\n",
        more.display(),
        block("web-1 web-*", &host),
        block("db-1", &host)
    );
    write_ssh_config(&rig, &text);
    rig.start_daemon(&[]);

    let dry = rig.occ_ok(&["host", "import", "--dry-run"]);
    assert!(dry.contains("web-1") && dry.contains("deploy@127.0.0.1"), "{dry}");
    assert!(!dry.contains("example"), "{dry}");
    assert_eq!(hosts(&rig), Value::Null, "nothing was saved");
    // Nobody is there to be asked.
    assert_eq!(rig.run_occ(&["host", "import", "--all"]).code(), 2);
    assert_eq!(rig.run_occ(&["host", "import"]).code(), 2);

    rig.occ_ok(&["host", "add", "db-1", "192.0.2.1", "--no-verify"]);
    let before = rig.http("GET", "/v1/hosts", &[], None).json()["revision"].as_u64().unwrap();
    let output = rig.run_occ(&["host", "import", "--all", "-g", "eu", "--yes"]);
    assert_eq!(output.stdout, "Added: 2 hosts (web-2, web-1).\n", "{output:?}");
    assert!(output.stderr.contains("Skipped: db-1 (a host of this name is configured)."));
    assert!(output.stderr.contains("Skipped: bad;name ("), "{output:?}");
    assert!(rig.http("GET", "/v1/hosts", &[], None).json()["revision"].as_u64().unwrap() > before);
    let saved = hosts(&rig);
    assert_eq!(saved["hosts"]["web-1"]["hostname"], "web-1");
    assert_eq!(saved["hosts"]["web-1"]["groups"], json!(["eu"]));
    assert_eq!(saved["hosts"]["db-1"]["hostname"], "192.0.2.1", "it is as it was");
    // One save: what is kept beside it is from before all of them.
    let place = rig.paths().hosts_file_candidates().unwrap().remove(0);
    let kept = std::fs::read_to_string(place.with_extension("json.bak")).unwrap();
    assert!(!kept.contains("web-1") && !kept.contains("web-2") && kept.contains("db-1"), "{kept}");
    assert_eq!(rig.occ_ok(&["exec", "--host", "web-2", "--", "echo", "hi"]), "hi\n");

    let none = rig.run_occ(&["host", "import", "nosuch", "--yes"]);
    assert_eq!((none.code(), none.stdout.as_str()), (1, "No host was added.\n"), "{none:?}");
}

#[test]
fn it_is_said_that_ssh_config_names_no_host() {
    let mut rig = DaemonRig::new();
    rig.start_daemon(&[]);
    for args in [&["--all"][..], &["--all", "--yes"], &["--dry-run"]] {
        let output = rig.run_occ(&[&["host", "import"], args].concat());
        assert_eq!(output.code(), 0, "{args:?}: {output:?}");
        assert_eq!(output.stderr, "~/.ssh/config names no host.\n", "{args:?}");
    }
    let none = rig.run_occ(&["host", "import", "--match", "nix*"]);
    assert_eq!(none.code(), 1, "{none:?}");
    assert!(none.stderr.contains("nix* (~/.ssh/config names no host like it)"), "{none:?}");
}

#[test]
fn an_ssh_config_that_cannot_be_read_is_not_taken_for_an_empty_one() {
    let mut rig = DaemonRig::new();
    // A directory can be read by nobody, not even by root.
    std::fs::create_dir_all(rig.home().join(".ssh/config")).unwrap();
    rig.start_daemon(&[]);
    for words in [&["host", "import", "--all"][..], &["host", "import", "prod-1"]] {
        let output = rig.run_occ(words);
        assert_ne!(output.code(), 0, "{output:?}");
        assert!(output.stderr.contains(".ssh/config cannot be read"), "{output:?}");
    }
    let doctor = rig.run_occ(&["doctor"]);
    let line = doctor.stdout.lines().find(|line| line.contains("ssh_config")).unwrap_or_default();
    assert!(line.contains("cannot be read"), "{doctor:?}");
}

#[test]
fn a_pattern_picks_the_hosts_that_are_imported() {
    let mut rig = DaemonRig::new();
    let one = |name: &str| format!("Host {name}\n  HostName 192.0.2.1\n");
    write_ssh_config(&rig, &["web-1", "web-2", "web-10", "db-1"].map(one).concat());
    rig.start_daemon(&[]);
    let dry = rig.occ_ok(&["host", "import", "--match", "web-?", "--dry-run", "--json"]);
    let dry: Value = serde_json::from_str(&dry).unwrap();
    let would: Vec<_> = dry["would_add"].as_array().unwrap().iter().map(|h| &h["name"]).collect();
    assert_eq!(would, ["web-1", "web-2"], "{dry}");
    assert_eq!(hosts(&rig), Value::Null, "nothing was saved");

    let import = |args: &[&str]| {
        let output = rig.run_occ(&[&["host", "import", "--yes"], args].concat());
        let hosts = hosts(&rig);
        let names = |hosts: &Value| -> Vec<String> {
            hosts["hosts"].as_object().map_or_else(Vec::new, |all| all.keys().cloned().collect())
        };
        (output.code(), output.stdout, names(&hosts))
    };
    // `--all` beside it is all that match; a name is added to them.
    let (code, said, names) = import(&["--all", "--match", "web-??"]);
    assert_eq!((code, said.as_str()), (0, "Added: 1 host (web-10).\n"));
    assert_eq!(names, ["web-10"]);
    let (code, said, names) = import(&["--match", "*-1", "web-2"]);
    assert_eq!((code, said.as_str()), (0, "Added: 3 hosts (web-1, web-2, db-1).\n"));
    assert_eq!(names.len(), 4);
    let none = rig.run_occ(&["host", "import", "--yes", "--match", "nosuch*"]);
    assert_eq!((none.code(), none.stdout.as_str()), (1, "No host was added.\n"), "{none:?}");
    assert!(none.stderr.contains("nosuch* (~/.ssh/config names no host like it)"), "{none:?}");
}

#[test]
fn a_host_that_was_asked_for_and_is_not_there_is_a_failure_beside_those_that_were_added() {
    let mut rig = DaemonRig::new();
    write_ssh_config(&rig, "Host web-1 web-2\n  HostName 192.0.2.1\n");
    rig.start_daemon(&[]);
    for (args, added) in [
        (&["--dry-run", "web-1", "nope"][..], false),
        (&["--yes", "web-1", "nope"], true),
        (&["--yes", "web-2", "--match", "nope*"], true),
    ] {
        let output = rig.run_occ(&[&["host", "import"], args].concat());
        assert_eq!(
            (output.code(), output.stdout.contains("Added: 1 host")),
            (1, added),
            "{output:?}"
        );
        assert!(output.stderr.contains("Skipped: nope"), "{output:?}");
    }
    // What is there already is as it was asked for.
    assert_eq!(rig.run_occ(&["host", "import", "--yes", "web-1", "web-2"]).code(), 0);
}

#[test]
fn setup_leads_to_a_host_that_works() {
    if !RealSshd::require() {
        return;
    }
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.set_env("NO_COLOR", "1");
    write_ssh_config(
        &rig,
        &format!("{}Host dead\n  HostName 127.0.0.1\n  Port 1\n", block("web-1", &host)),
    );
    let nobody = rig.run_occ(&["setup"]);
    assert!(nobody.code() == 2 && nobody.stderr.contains("hint: occ host add"), "{nobody:?}");

    // It starts the daemon. `occ host add` alone is the same.
    let mut terminal = Terminal::start(rig.occ(&["host", "add"]));
    terminal.answer(
        "2 hosts in ~/.ssh/config: web-1, dead.\nAdd [a]ll, [p]ick, [n]one, or names:",
        "a",
    );
    terminal.answer("[dead] does not work: [k]eep it, [t]ry again, or [l]eave it out?", "k");
    let (screen, code) = terminal.finish();
    assert_eq!(code, 0, "{screen}");
    assert!(screen.contains("[web-1] ✓ Connected"), "{screen}");
    assert!(
        screen.contains("[dead] ✗ ") && screen.contains("hint: occ host test dead"),
        "{screen}"
    );
    assert!(screen.contains("Commands without --host go to web-1"), "{screen}");
    assert!(screen.contains("Next:\n") && screen.contains("occ exec --host web-1"), "{screen}");
    assert_eq!(hosts(&rig)["default_host"], "web-1");
    assert_eq!(rig.occ_ok(&["exec", "--", "echo", "hi"]), "hi\n");
}

#[test]
fn setup_keeps_no_host_of_ssh_config_that_does_not_work_unless_somebody_says_so() {
    if !RealSshd::require() {
        return;
    }
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.set_env("NO_COLOR", "1");
    let dead = "  HostName 127.0.0.1\n  Port 1\n";
    write_ssh_config(&rig, &format!("Host late\n{dead}Host dead\n{dead}"));
    rig.start_daemon(&[]);
    let mut terminal = Terminal::start(rig.occ(&["setup"]));
    terminal.answer("Add [a]ll, [p]ick, [n]one, or names:", "a");
    terminal.answer(&question("late"), "what?");
    // Not even while somebody thinks about it.
    assert_eq!(names(&rig), [""; 0]);
    write_ssh_config(&rig, &format!("{}Host dead\n{dead}", block("late", &host)));
    terminal.answer(&question("late"), "t");
    terminal.answer(&question("dead"), "");
    let (screen, code) = terminal.finish();
    assert_eq!(code, 0, "{screen}");
    assert!(screen.contains("[late] ✓ Connected"), "{screen}");
    assert!(screen.contains("[dead] ✗ ") && screen.contains("[dead] is left out."), "{screen}");
    assert_eq!(names(&rig), ["late"]);

    // Whoever leaves has not said that it is to be kept.
    let mut terminal = Terminal::control(&rig.occ(&["setup"]), "");
    terminal.answer("Add [a]ll, [p]ick, [n]one, or names:", "dead");
    terminal.wait_for(&question("dead"));
    terminal.type_text("\x03");
    let (screen, code) = terminal.finish();
    assert_eq!(code, 130, "{screen}");
    assert_eq!(names(&rig), ["late"]);

    // Nor has who leaves while nobody answers there.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    write_ssh_config(&rig, &format!("Host silent\n  HostName 127.0.0.1\n  Port {port}\n"));
    let mut terminal = Terminal::control(&rig.occ(&["setup"]), "");
    terminal.answer("Add [a]ll, [p]ick, [n]one, or names:", "silent");
    terminal.wait_for("[silent] connecting");
    drop(silent.accept().map(std::mem::forget));
    terminal.type_text("\x03");
    let (screen, code) = terminal.finish();
    assert_eq!(code, 130, "{screen}");
    assert!(screen.contains("Left out: silent."), "{screen}");
    assert_eq!(names(&rig), ["late"]);
}

#[test]
fn setup_leaves_out_what_nobody_answers_for() {
    let mut rig = DaemonRig::new();
    rig.set_env("NO_COLOR", "1");
    let dead = |name: &str| format!("Host {name}\n  HostName 127.0.0.1\n  Port 1\n");
    write_ssh_config(&rig, &["one", "two", "three"].map(dead).concat());
    rig.start_daemon(&[]);
    let asked = |first: &str| {
        let mut terminal = Terminal::start(rig.occ(&["setup"]));
        terminal.answer("Add [a]ll, [p]ick, [n]one, or names:", "one two three");
        if !first.is_empty() {
            terminal.answer(&question("one"), first);
        }
        terminal.wait_for(&question(if first.is_empty() { "one" } else { "two" }));
        terminal
    };
    let signal = |terminal: &Terminal, signal| {
        let pid = rustix::process::Pid::from_child(&terminal.child);
        rustix::process::kill_process(pid, signal).unwrap();
    };
    for (first, how, code, left, kept) in [
        ("", Signal::INT, 130, "Left out: one, two, three.", &[][..]),
        ("", Signal::HUP, 129, "Left out: one, two, three.", &[]),
        ("l", Signal::INT, 130, "Left out: two, three.", &[]),
        ("k", Signal::TERM, 143, "Left out: two, three.", &["one"]),
    ] {
        let terminal = asked(first);
        signal(&terminal, how);
        let (screen, ended) = terminal.finish();
        assert!(ended == code && screen.contains(left), "{ended}: {screen}");
        assert_eq!(names(&rig), kept, "{how:?}: {screen}");
    }
    rig.occ_ok(&["host", "remove", "one", "-f"]);
    // Nor does one come to be there that no signal can take away again.
    let terminal = asked("");
    signal(&terminal, Signal::KILL);
    let (screen, _) = terminal.finish();
    assert_eq!(names(&rig), [""; 0], "{screen}");
    // The end of input is no answer.
    let mut terminal = asked("");
    terminal.type_text("\u{4}");
    terminal.wait_for("[one] is left out.");
    terminal.wait_for(&question("two"));
    terminal.type_text("\u{4}");
    terminal.wait_for(&question("three"));
    terminal.type_text("\u{4}");
    let (screen, code) = terminal.finish();
    assert_eq!(code, 1, "{screen}");
    assert_eq!(names(&rig), [""; 0], "{screen}");
}

#[test]
fn setup_says_what_to_do_about_a_host_that_is_not_there_yet() {
    if !RealSshd::require() {
        return;
    }
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.set_env("NO_COLOR", "1");
    let key = rig.home().join("key");
    let made = std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&key)
        .status();
    assert!(made.unwrap().success());
    let wrong = block("wrongkey", &host)
        .replace(&host.client_key_path().display().to_string(), &key.display().to_string());
    write_ssh_config(&rig, &format!("{wrong}Host dead\n  HostName 127.0.0.1\n  Port 1\n"));
    rig.start_daemon(&[]);
    let mut terminal = Terminal::start(rig.occ(&["setup"]));
    terminal.answer("Add [a]ll, [p]ick, [n]one, or names:", "a");
    terminal.answer(&question("wrongkey"), "l");
    terminal.answer(&question("dead"), "k");
    let (screen, _) = terminal.finish();
    assert!(
        screen.contains("hint: ssh-copy-id ") && screen.contains("; then try again\n"),
        "{screen}"
    );
    assert!(screen.contains("hint: ssh -v dead shows where it stops"), "{screen}");
    // It is, once it is kept.
    let (_, kept) = screen.split_once("[dead] is kept, and does not work yet.").unwrap();
    assert!(kept.contains("hint: occ host test dead shows where it stops"), "{screen}");
    assert!(!screen.contains("occ reconnect"), "{screen}");
}

#[test]
fn setup_takes_an_address_and_suggests_a_name() {
    if !RealSshd::require() {
        return;
    }
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.set_env("NO_COLOR", "1");
    write_ssh_config(
        &rig,
        &format!("Host *\n  IdentityFile {}\n", host.client_key_path().display()),
    );
    let mut terminal = Terminal::start(rig.occ(&["setup"]));
    terminal.answer("(Enter for none):", "no good");
    // What does not work is said, and asked for again.
    terminal.answer("(Enter for none):", "deploy@localhost:1");
    terminal.answer("A name for it [localhost]:", "");
    // Whoever leaves while nobody answers there is out at once.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut leaving = Terminal::control(&rig.occ(&["setup"]), "");
    let address = format!("deploy@{}", silent.local_addr().unwrap());
    leaving.answer("(Enter for none):", &address);
    leaving.answer("A name for it", "silent");
    leaving.wait_for("connecting");
    std::mem::forget(silent.accept());
    leaving.type_text("\x03");
    let (screen, code) = leaving.finish();
    assert_eq!(code, 130, "{screen}");
    assert!(hosts(&rig)["hosts"].get("silent").is_none());
    terminal.answer("(Enter for none):", &format!("deploy@localhost:{}", host.port()));
    terminal.answer("A name for it [localhost]:", "");
    let (screen, code) = terminal.finish();
    assert_eq!(code, 0, "{screen}");
    assert!(screen.contains("Error: localhost: no connection to "), "{screen}");
    assert!(screen.contains("Added: Host 'localhost' added"), "{screen}");
    assert_eq!(hosts(&rig)["default_host"], "localhost");
}

#[test]
fn a_word_that_ssh_config_does_not_name_is_told() {
    let mut rig = DaemonRig::new();
    rig.set_env("NO_COLOR", "1");
    write_ssh_config(&rig, "Host prod-1\n  HostName 127.0.0.1\n  Port 1\n");
    rig.start_daemon(&[]);
    let ask = "Add [a]ll, [p]ick, [n]one, or names:";
    let mut terminal = Terminal::control(&rig.occ(&["setup"]), "");
    // Among others it can be no address.
    terminal.answer(ask, "prod-1, prd-2 prd-3");
    terminal.wait_for("~/.ssh/config names none of these: prd-2, prd-3.\n");
    terminal.answer(ask, "prd-1");
    terminal.wait_for(
        "~/.ssh/config names no host prd-1: it is taken for an address.\nA name for it [prd-1]:",
    );
    terminal.type_text("\u{3}");
    let (screen, code) = terminal.finish();
    assert_eq!(code, 130, "{screen}");

    let mut terminal = Terminal::start(rig.occ(&["host", "import"]));
    terminal.answer(ask, "prd-1");
    let (screen, code) = terminal.finish();
    assert!(
        screen.contains("~/.ssh/config names no host prd-1.\nNothing was changed."),
        "{screen}"
    );
    assert_eq!(code, 0, "{screen}");
    // One that is there, and configured already, is no typing error.
    rig.occ_ok(&["host", "add", "prod-1", "192.0.2.1", "--no-verify"]);
    write_ssh_config(&rig, "Host prod-1 prod-2\n  HostName 127.0.0.1\n  Port 1\n");
    let mut terminal = Terminal::start(rig.occ(&["host", "import"]));
    terminal.answer(ask, "prod-1");
    let (screen, _) = terminal.finish();
    assert!(screen.contains("Skipped: prod-1 (a host of this name is configured)."), "{screen}");
}

#[test]
fn doctor_looks_at_one_host_more_deeply() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let mut rig = DaemonRig::new();
    rig.add_host("h", &sshd);
    rig.start_daemon(&[]);
    let output = rig.run_occ(&["doctor", "--host", "h", "--json"]);
    let report: Value = serde_json::from_str(&output.stdout).unwrap();
    let of_host = |check: &str| -> Vec<Value> {
        let all = report["checks"].as_array().unwrap().iter();
        all.filter(|one| one["check"] == check && one["host"] == "h").cloned().collect()
    };
    let steps = of_host("host");
    assert!(
        steps.iter().any(|step| step["detail"].as_str().unwrap().starts_with("login: ")),
        "{report}"
    );
    assert_eq!(of_host("clock")[0]["level"], "ok", "{report}");
    // One that is not there is a line like any other.
    let none = rig.run_occ(&["doctor", "--host", "nosuch"]);
    assert!(none.code() == 4 && none.stdout.contains("✗ host         [nosuch] "), "{none:?}");
    // As every command has it.
    assert_eq!(rig.run_occ(&["host", "test", "nosuch"]).code(), 4);
    // Also where something else has failed.
    rig.occ_ok(&["host", "add", "dead", "127.0.0.1:1", "--no-verify"]);
    assert_eq!(rig.run_occ(&["doctor", "--host", "dead"]).code(), 1);
    write_ssh_config(&rig, "Bogus yes\n");
    let none = rig.run_occ(&["doctor", "--host", "nosuch"]);
    assert!(none.code() == 4 && none.stdout.contains("✗ ssh"), "{none:?}");
}

#[test]
fn a_host_goes_into_ssh_config_as_well_where_that_is_asked_for() {
    if !RealSshd::require() {
        return;
    }
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    write_ssh_config(&rig, &block("old", &host));
    rig.start_daemon(&[]);
    let key = host.client_key_path().display().to_string();
    let add = |name: &str, more: &[&str]| {
        let address = format!("deploy@127.0.0.1:{}", host.port());
        let output = rig.run_occ(&[&["host", "add", name, &address, "-i", &key], more].concat());
        assert_eq!(output.code(), 0, "{output:?}");
        output.stderr
    };
    add("plain", &[]);
    assert!(add("new", &["--ssh-config"]).contains("Host 'new' added to ~/.ssh/config"));
    assert!(add("old", &["--ssh-config"]).contains("names old already"));
    let text = std::fs::read_to_string(rig.home().join(".ssh/config")).unwrap();
    assert!(text.starts_with("Host new\n  HostName 127.0.0.1\n  User deploy\n"), "{text}");
    assert!(text.ends_with(&block("old", &host)) && !text.contains("plain"), "{text}");
    // What reads it finds the server.
    rig.occ_ok(&["host", "remove", "new", "-f"]);
    rig.occ_ok(&["host", "import", "new", "--yes"]);
    assert_eq!(rig.occ_ok(&["exec", "--host", "new", "--", "echo", "hi"]), "hi\n");
}
