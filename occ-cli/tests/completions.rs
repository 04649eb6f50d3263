//! TAB in real shells: names come from the daemon that runs, none is started, and no error is ever on the line.

#![allow(clippy::unwrap_used, reason = "a failing fixture is a failing test")]

mod common;

use std::path::Path;
use std::process::Command;

use common::{Answer, Fake, connected, list, occ, private_dir, run};
use serde_json::json;
use testkit::require::{find_program, require};
use testkit::terminal::Terminal;

/// Groups whose names mean something to a shell.
const ODD: [&str; 6] = ["my grp", "zz;touch pwned", "yy$(touch pwned)!x", "it's", "aa b1", "aa b2"];

/// A daemon with two hosts, a session and a forward.
fn daemon() -> Fake {
    Fake::new(|seen| match seen.path.as_str() {
        "/v1/hosts" => {
            let mut eu = connected("prod-1");
            eu["config"]["groups"] = json!(["eu", "web"]);
            eu["config"]["description"] = json!("the shop");
            let mut build = connected("build");
            build["config"]["groups"] = json!(ODD);
            Answer::ok(list(&[eu, build], None))
        }
        "/v1/hosts/prod-1" => Answer::ok(connected("prod-1")),
        "/v1/sessions" => Answer::ok(json!({"sessions": [
            {"name": "nightly", "host": "prod-1", "state": "running"}]})),
        "/v1/forwards" => Answer::ok(json!({"forwards": [{
            "id": "1f3c9a2b", "host": "prod-1", "direction": "local",
            "listen": "localhost:8080", "to": "localhost:80", "state": "listening",
            "connections": 0, "connections_total": 0, "bytes_in": 0, "bytes_out": 0}]})),
        path => Answer::problem(404, "not_found", path, "x"),
    })
}

/// Returns a shell that has this build's `occ` first in its PATH.
fn shell(program: &str, home: &Path, socket: &Path) -> Command {
    let mut command = Command::new(find_program(program).unwrap());
    let own = Path::new(env!("CARGO_BIN_EXE_occ")).parent().unwrap();
    let path = format!("{}:/usr/bin:/bin", own.display());
    command.env_clear().env("HOME", home).env("PATH", path).env("TERM", "dumb");
    command.env("OCC_SOCKET", socket).env("PS1", "ready> ").current_dir(home);
    command
}

fn has(program: &str) -> bool {
    require(program, find_program(program).map(drop), "OCC_REQUIRE_SHELLS")
}

/// Types a command with a TAB into a shell and lets it run.
fn typed(shell: &Command, setup: &[&str], line: &str) -> String {
    let mut terminal = Terminal::control(shell, "");
    for words in setup.iter().chain([&line, &"exit"]) {
        terminal.answer("ready> ", words);
    }
    terminal.finish().0
}

/// Returns what bash is offered at the end of a line.
fn offered(fake: &Fake, line: &str) -> Vec<String> {
    let script = r#"
        source <(occ completions bash)
        COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDS=($1) COMP_CWORD=${#COMP_WORDS[@]}
        [[ $1 == *' ' ]] || COMP_CWORD=$((COMP_CWORD - 1))
        _occ
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let mut bash = shell("bash", fake.dir.path(), &fake.socket);
    let done = run(bash.args(["-c", script, "bash", line]));
    assert_eq!((done.code, done.err.as_str()), (0, ""), "{line}");
    done.out.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn a_tab_in_bash_completes_a_host_that_the_daemon_knows() {
    if !has("bash") {
        return;
    }
    let fake = daemon();
    let mut bash = shell("bash", fake.dir.path(), &fake.socket);
    bash.args(["--norc", "--noprofile", "-i"]);
    let screen = typed(&bash, &["source <(occ completions bash)"], "occ status --host pr\t");
    assert!(fake.lines().contains(&"GET /v1/hosts/prod-1".to_owned()), "{screen}");
    // bash takes the equals sign for the end of a word.
    let before = fake.lines().len();
    let screen = typed(&bash, &["source <(occ completions bash)"], "occ status --host=pr\t");
    assert!(fake.lines()[before..].contains(&"GET /v1/hosts/prod-1".to_owned()), "{screen}");
}

#[test]
fn what_a_tab_in_bash_inserts_is_one_word_that_means_nothing_to_the_shell() {
    if !has("bash") {
        return;
    }
    let fake = daemon();
    std::fs::write(fake.dir.path().join("files of \"$x\".txt"), "").unwrap();
    std::fs::create_dir(fake.dir.path().join("own dir")).unwrap();
    std::fs::write(fake.dir.path().join("own dir/f"), "").unwrap();
    let mut bash = shell("bash", fake.dir.path(), &fake.socket);
    bash.args(["--norc", "--noprofile", "-i"]).env("LC_ALL", "C.UTF-8");
    std::fs::write(fake.dir.path().join("ünx file"), "").unwrap();
    let shown = "occ() { printf '<%s>' \"$@\"; echo; }";
    for (line, words) in [
        ("occ status --group my\t", "<status><--group><my grp>"),
        ("occ status --group \"my\t", "<status><--group><my grp>"),
        ("occ status --group 'my\t", "<status><--group><my grp>"),
        ("occ status --group my\\ g\t", "<status><--group><my grp>"),
        ("occ status --group zz\t", "<status><--group><zz;touch pwned>"),
        ("occ status --group=zz\t", "<status><--group=zz;touch pwned>"),
        ("occ status --group='zz\t", "<status><--group=zz;touch pwned>"),
        ("occ status --group yy\t", "<status><--group><yy$(touch pwned)!x>"),
        ("occ status --group \"yy\t", "<status><--group><yy$(touch pwned)!x>"),
        ("occ status --group 'yy\t", "<status><--group><yy$(touch pwned)!x>"),
        ("occ status --group it\t", "<status><--group><it's>"),
        ("occ status --group 'it\t", "<status><--group><it's>"),
        ("occ status --group \"it\t", "<status><--group><it's>"),
        // What both have in common, and then the rest.
        ("occ status --group aa\t2", "<status><--group><aa b2>"),
        ("occ status --group 'aa\t2'", "<status><--group><aa b2>"),
        ("occ cp fil\t", "<cp><files of \"$x\".txt>"),
        ("occ cp \"fil\t", "<cp><files of \"$x\".txt>"),
        ("occ cp own\t\t", "<cp><own dir/f>"),
        ("occ cp 'own\t\t", "<cp><own dir/f>"),
        ("occ cp ~/fil\t", "/files of \"$x\".txt>"),
        // bash counts in characters.
        ("occ cp 'ü ü' ün\t", "<cp><ü ü><ünx file>"),
        ("occ status --host 'üüü' --summ\t", "<--host><üüü><--summary>"),
        // bash knows what stands for what.
        ("occ cp $HOME/own\t\t", "/own dir/f>"),
        // No blank comes between a host and a path there.
        ("occ cat prod-1:\tx", "<cat><prod-1:x>"),
        ("occ cat prod-\tx", "<cat><prod-1:x>"),
    ] {
        let screen = typed(&bash, &["source <(occ completions bash)", shown], line);
        assert!(screen.contains(words), "{line:?}: {screen}");
    }
    assert!(!fake.dir.path().join("pwned").exists());
}

#[test]
fn behind_a_host_no_files_of_this_machine_are_offered() {
    let fake = daemon();
    std::fs::create_dir(fake.dir.path().join("presents")).unwrap();
    std::fs::write(fake.dir.path().join("a:b"), "").unwrap();
    let none = Vec::<String>::new();
    for command in ["rm", "cat", "ls", "cp", "edit", "files watch"] {
        for path in ["prod-1:", "prod-1:pr", "C:pr", "a:", "no-host:pr"] {
            assert_eq!(offered(&fake, &format!("occ {command} {path}")), none, "{command} {path}");
        }
        // Bare, it would be a host's.
        assert!(!offered(&fake, &format!("occ {command} a")).contains(&"a:b".to_owned()));
        // What occ cp takes for a path here, and this machine by its name.
        assert_eq!(offered(&fake, &format!("occ {command} ./a:")), ["b"]);
        assert_eq!(offered(&fake, &format!("occ {command} ./a")), ["./a:b"]);
        assert_eq!(offered(&fake, &format!("occ {command} local:pr")), ["presents/"]);
        // A path without a host is on the one that is named.
        let there = offered(&fake, &format!("occ {command} --host build pr"));
        let copied: &[&str] = if command == "cp" { &["presents/"] } else { &[] };
        assert_eq!(there, [&["prod-1:"], copied].concat(), "{command}");
    }
}

#[test]
fn a_tab_in_zsh_completes_a_host_that_the_daemon_knows() {
    if !has("zsh") {
        return;
    }
    let fake = daemon();
    let mut zsh = shell("zsh", fake.dir.path(), &fake.socket);
    zsh.args(["-f", "-i"]);
    let setup = ["autoload -Uz compinit; compinit -u -D", "source <(occ completions zsh)"];
    let screen = typed(&zsh, &setup, "occ status --host pr\t");
    assert!(fake.lines().contains(&"GET /v1/hosts/prod-1".to_owned()), "{screen}");
    // As a file of a directory in fpath, as packages install it.
    let functions = fake.dir.path().join("functions");
    std::fs::create_dir(&functions).unwrap();
    std::fs::write(functions.join("_occ"), fake.occ(&["completions", "zsh"]).out).unwrap();
    let setup = ["fpath=(~/functions $fpath); autoload -Uz compinit; compinit -u -D"];
    let before = fake.lines().len();
    let screen = typed(&zsh, &setup, "occ status --host pr\t");
    assert!(fake.lines()[before..].contains(&"GET /v1/hosts/prod-1".to_owned()), "{screen}");
}

#[test]
fn fish_is_offered_hosts_with_what_they_are() {
    if !has("fish") {
        return;
    }
    let fake = daemon();
    let complete = |line: &str| {
        let script = format!("occ completions fish | source; complete -C '{line}'");
        let mut fish = shell("fish", fake.dir.path(), &fake.socket);
        let done = run(fish.args(["--no-config", "-c", &script]));
        assert_eq!(done.code, 0, "{done:?}");
        done.out
    };
    assert_eq!(complete("occ status --host pr"), "prod-1\tthe shop\n");
    assert_eq!(complete("occ status --host=pr"), "--host=prod-1\tthe shop\n");
    assert!(complete("occ hos").starts_with("host\t"));
    assert!(complete("occ cp pr").starts_with("prod-1:\t"));
    // The host is whole, and what comes behind it is not known: no blank.
    assert_eq!(complete("occ cat prod-1:"), "");
    // fish quotes what it inserts; what is there already has its quotes.
    for begun in ["my", "\"my", "my\\\\ g"] {
        assert_eq!(
            complete(&format!("occ status --group {begun}")),
            "my grp\thosts: 1\n",
            "{begun}"
        );
    }
}

#[test]
fn names_of_all_kinds_are_offered() {
    let fake = daemon();
    assert_eq!(offered(&fake, "occ exec --host "), ["prod-1", "build"]);
    assert_eq!(offered(&fake, "occ host show "), ["prod-1", "build"]);
    assert_eq!(offered(&fake, "occ exec --group w"), ["web"]);
    assert_eq!(offered(&fake, "occ session attach "), ["nightly"]);
    assert_eq!(offered(&fake, "occ forward remove 1f"), ["1f3c9a2b"]);
    assert_eq!(offered(&fake, "occ host default n"), ["none"]);
    assert_eq!(offered(&fake, "occ operations attach "), Vec::<String>::new());
    std::fs::create_dir(fake.dir.path().join("presents")).unwrap();
    assert_eq!(offered(&fake, "occ cp pr"), ["prod-1:", "presents/"]);
}

#[test]
fn without_a_daemon_hosts_json_is_read_and_nothing_is_started() {
    let home = private_dir();
    let ask = |words: &[&str]| {
        let mut command = occ(&[&["__complete", "fish", "occ"], words].concat(), home.path());
        // It could start one.
        command.env_remove("OCC_NO_AUTOSTART").env("OCCD_BIN", "/bin/false");
        let done = run(&mut command);
        assert_eq!((done.code, done.err.as_str()), (0, ""));
        done.out
    };
    assert_eq!(ask(&["status", "--host", ""]), "words\n");
    let dir = home.path().join(".config/opencode-cloud");
    std::fs::create_dir_all(&dir).unwrap();
    let text = r#"{"version":1,"hosts":{"prod-9":{"hostname":"203.0.113.9","groups":["us"]}}}"#;
    std::fs::write(dir.join("hosts.json"), text).unwrap();
    assert_eq!(ask(&["status", "--host", ""]), "words\nprod-9\t203.0.113.9\n");
    assert_eq!(ask(&["exec", "--group", ""]), "words\nus\thosts: 1\n");
    assert_eq!(ask(&["session", "attach", ""]), "words\n");
    std::fs::write(dir.join("hosts.json"), "{").unwrap();
    assert_eq!(ask(&["status", "--host", ""]), "words\n");
    assert!(!home.path().join(".local").exists());
}
