//! A string that a shell or an option parser could take for something else passes none of the four
//! doors: the command line, the API, hosts.json, and what `ssh -G` says.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use occ_proto::{Address, Code};
use occd::hosts::{HostsFault, HostsStore};
use occd::ssh::ssh_config::Resolver;
use serde_json::{Value, json};
use testkit::{DaemonRig, EmbeddedHost};

use crate::ask::{exec, post, problem};

/// Strings that are neither a host's name nor an address nor a user.
fn corpus() -> Vec<String> {
    let mut all: Vec<String> = [
        "",
        "-",
        "--",
        "-v",
        "-oProxyCommand=x",
        "-oProxyCommand=$(id)",
        "-F/dev/null",
        "--help",
        "-J",
        "-p2222",
        "-lroot",
        "-W127.0.0.1:22",
        "-E/tmp/log",
        "-S/tmp/socket",
        "-oLocalCommand=id",
        "-oPermitLocalCommand=yes",
        "--host=other",
        "a;id",
        "$(touch /tmp/x)",
        "`touch /tmp/x`",
        "%(h)",
        "$(id)",
        "`id`",
        "${IFS}",
        "$HOME",
        "a;rm -rf ~",
        "a||b",
        "a&&b",
        "a&",
        "a>/tmp/x",
        "a</etc/passwd",
        "a\"b\"",
        "'a'",
        "../../etc/passwd",
        "/etc/passwd",
        "a/../b",
        "ssh://h/",
        "file:///etc/passwd",
        "h x",
        "h\nProxyCommand id",
        "h\r\nHost: evil",
        "a\0-oProxyCommand=id",
        "{a,b}",
        "a|b",
        "(a)",
        "\u{1b}]0;title\u{7}",
        "\u{1b}[31mred",
        "\u{9b}31m",
        "a\\",
    ]
    .map(str::to_owned)
    .into();
    let anywhere = [
        '\'',
        '`',
        '"',
        '$',
        ';',
        '&',
        '<',
        '>',
        '|',
        '(',
        ')',
        '{',
        '}',
        '/',
        ' ',
        '\t',
        '\n',
        '\r',
        '\0',
        '\u{1}',
        '\u{2}',
        '\u{7}',
        '\u{8}',
        '\u{b}',
        '\u{c}',
        '\u{1b}',
        '\u{1f}',
        '\u{7f}',
        '\u{80}',
        '\u{85}',
        '\u{a0}',
        '\u{ad}',
        '\u{61c}',
        '\u{1680}',
        '\u{2003}',
        '\u{200b}',
        '\u{200d}',
        '\u{200e}',
        '\u{200f}',
        '\u{2028}',
        '\u{2029}',
        '\u{202a}',
        '\u{202d}',
        '\u{202e}',
        '\u{202f}',
        '\u{205f}',
        '\u{2060}',
        '\u{2066}',
        '\u{2069}',
        '\u{3000}',
        '\u{206f}',
        '\u{fe00}',
        '\u{fe0f}',
        '\u{feff}',
        '\u{fff9}',
        '\u{e0001}',
        '\u{e007f}',
    ];
    for bad in anywhere {
        all.extend([format!("{bad}prod"), format!("pr{bad}od"), format!("prod{bad}")]);
    }
    all.push("x".repeat(254));
    all.push("ü".repeat(127));
    all
}

/// Where a string is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Name,
    Address,
    User,
}

const PLACES: [Place; 3] = [Place::Name, Place::Address, Place::User];

/// Returns name, address and user with `bad` in its place.
fn with(bad: &str, place: Place) -> (&str, &str, &str) {
    let or = |at, good| if place == at { bad } else { good };
    (or(Place::Name, "prod"), or(Place::Address, "example.com"), or(Place::User, "deploy"))
}

fn config_of(address: &str, user: &str) -> Value {
    json!({ "hostname": address, "user": user })
}

/// Returns every file below a directory with its content.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path());
            } else {
                found.insert(entry.path(), fs::read(entry.path()).unwrap());
            }
        }
    }
    found
}

/// What a refused string must not change: the configuration and everything ssh reads.
fn on_disk(rig: &DaemonRig) -> [BTreeMap<PathBuf, Vec<u8>>; 2] {
    [files(&rig.root().join("config")), files(&rig.home())]
}

/// A daemon with one good host, `prod`, that is never dialled.
fn rig_with_prod() -> DaemonRig {
    let mut rig = DaemonRig::new();
    rig.add_host_to("prod", "example.com", 22, "deploy", Path::new("~/.ssh/key"));
    rig.start_daemon(&[]);
    rig
}

/// What is no name of a group.
const BAD_GROUPS: [&str; 5] = ["", " ", "a\nprod-9", "x\u{1b}[31my", "x\0y"];

/// Returns a text as a path segment with every byte encoded (RFC 3986, section 2.1).
fn segment(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[test]
fn the_corpus_is_large_and_has_no_doubles() {
    let mut all = corpus();
    let count = all.len();
    assert!(count >= 200, "{count}");
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count);
}

#[test]
fn the_command_line_refuses_them_as_a_usage_error() {
    let rig = rig_with_prod();
    let before = on_disk(&rig);
    let add = |(name, address, user): (&str, &str, &str)| {
        let user = format!("--user={user}");
        rig.run_occ(&["host", "add", "--no-verify", &user, "--", name, address])
    };
    for bad in corpus() {
        // No command line can hold a NUL.
        for place in PLACES.into_iter().filter(|_| !bad.contains('\0')) {
            let output = add(with(&bad, place));
            assert_eq!(output.code(), 2, "{place:?} {bad:?}: {output:?}");
            assert!(!output.stderr.contains('\u{1b}'), "{place:?} {bad:?}: {output:?}");
        }
    }
    for bad in BAD_GROUPS.into_iter().filter(|bad| !bad.contains('\0')) {
        for (verb, option) in [("add", "--group"), ("edit", "--add-group")] {
            let group = format!("{option}={bad}");
            let address: &[&str] = if verb == "add" { &["example.com"] } else { &[] };
            let output =
                rig.run_occ(&[&["host", verb, "prod", "--no-verify", &group], address].concat());
            assert_eq!(output.code(), 2, "{group:?}: {output:?}");
            assert!(!output.stderr.contains('\u{1b}'), "{group:?}: {output:?}");
        }
    }
    for port in ["0", "70000", "-1", "22x"] {
        let output =
            rig.run_occ(&["host", "add", "--no-verify", "new", "example.com", "--port", port]);
        assert_eq!(output.code(), 2, "{port}: {output:?}");
        let target = format!("example.com:{port}");
        let output = rig.run_occ(&["host", "add", "--no-verify", "new", &target]);
        assert_eq!(output.code(), 2, "{port}: {output:?}");
    }
    assert_eq!(on_disk(&rig), before);
    let good = add(("new", "example.com", "deploy"));
    assert_eq!(good.code(), 0, "{good:?}");
    assert_ne!(on_disk(&rig), before, "and good ones are written there");
}

#[test]
fn the_api_refuses_them_as_bad_requests() {
    let rig = rig_with_prod();
    let before = on_disk(&rig);
    let refused = |method: &str, path: &str, body: Value| {
        let problem = problem(&rig.http(method, path, &[], Some(body.clone())));
        assert_eq!((problem.status, problem.code), (400, Code::BadRequest), "{method} {body}");
        assert!(!problem.detail.chars().any(char::is_control), "{method} {body}: {problem:?}");
    };
    for bad in corpus() {
        for place in PLACES {
            let (name, address, user) = with(&bad, place);
            let config = config_of(address, user);
            let add = json!({ "name": name, "config": config, "verify": false });
            refused("POST", "/v1/hosts", add);
        }
        refused("PATCH", "/v1/hosts/prod", json!({ "hostname": bad, "verify": false }));
        refused("PATCH", "/v1/hosts/prod", json!({ "user": bad, "verify": false }));
        // Jump hosts are destinations: some of the corpus are good ones.
        if bad.starts_with('-') || bad.contains([' ', ';', '$', '`', '\n', '\0', '\'']) {
            refused("PATCH", "/v1/hosts/prod", json!({ "jump_host": bad, "verify": false }));
            let jump = format!("bastion,{bad}");
            let config = json!({ "hostname": "example.com", "jump_host": jump });
            let request = json!({ "name": "new", "config": config, "verify": false });
            refused("POST", "/v1/hosts", request);
        }
        refused("PUT", "/v1/default-host", json!({ "name": bad }));
        // Without a segment it is another route.
        if !bad.is_empty() {
            let path = format!("/v1/hosts/{}/connect", segment(&bad));
            let problem = problem(&post(&rig, &path));
            assert_eq!((problem.status, problem.code), (400, Code::BadRequest), "{bad:?}");
        }
    }
    for group in BAD_GROUPS {
        let groups = json!(["eu", group]);
        let config = json!({ "hostname": "example.com", "groups": groups });
        refused("POST", "/v1/hosts", json!({ "name": "new", "config": config, "verify": false }));
        refused("PATCH", "/v1/hosts/prod", json!({ "groups": groups, "verify": false }));
        refused("POST", "/v1/ssh-config/import", json!({ "names": [], "groups": groups }));
    }
    for port in [json!(0), json!(70000), json!(-1), json!("22"), json!(22.5)] {
        let config = json!({ "hostname": "example.com", "port": port });
        refused("POST", "/v1/hosts", json!({ "name": "new", "config": config, "verify": false }));
        refused("PATCH", "/v1/hosts/prod", json!({ "port": port, "verify": false }));
    }
    // A field that would run a program, in every place that takes fields.
    let config = config_of("example.com", "deploy");
    let mut with_proxy = config.clone();
    with_proxy["proxy_command"] = json!("id");
    refused("POST", "/v1/hosts", json!({ "name": "new", "config": with_proxy, "verify": false }));
    let beside = json!({ "name": "new", "config": config, "verify": false, "proxy_command": "id" });
    refused("POST", "/v1/hosts", beside);
    refused("PATCH", "/v1/hosts/prod", json!({ "proxy_command": "id", "verify": false }));
    refused("POST", "/v1/hosts/prod/exec", json!({ "argv": ["true"], "proxy_command": "id" }));
    assert_eq!(on_disk(&rig), before);

    let good = json!({ "name": "new", "config": config, "verify": false });
    assert_eq!(rig.http("POST", "/v1/hosts", &[], Some(good)).status, 201);
}

/// Returns a hosts.json with a line for each string, and the line of each place.
fn hosts_json(name: &str, address: &str, user: &str, port: &Value) -> String {
    let (name, address, user) = (json!(name), json!(address), json!(user));
    format!(
        "{{\n\"hosts\": {{\n{name}: {{\n\"hostname\": {address},\n\"user\": {user},\n\
         \"port\": {port}\n}}\n}}\n}}\n"
    )
}

#[test]
fn hosts_json_with_one_of_them_is_refused_and_the_line_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hosts.json");
    let line_of_fault = |text: &str| {
        fs::write(&file, text).unwrap();
        let snapshot = HostsStore::open(vec![file.clone()]).current();
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
        match &snapshot.problem.as_ref()?.fault {
            HostsFault::Invalid { line, message, .. } => {
                assert!(!message.chars().any(char::is_control), "{message:?}");
                assert!(snapshot.file.hosts.is_empty());
                Some(*line)
            }
            other => panic!("{other:?}: {text}"),
        }
    };
    for bad in corpus() {
        for (place, line) in PLACES.into_iter().zip([3, 4, 5]) {
            let (name, address, user) = with(&bad, place);
            let text = hosts_json(name, address, user, &json!(22));
            assert_eq!(line_of_fault(&text), Some(line), "{place:?}: {text}");
        }
    }
    for port in [json!(0), json!(70000), json!(-1), json!("22")] {
        let text = hosts_json("prod", "example.com", "deploy", &port);
        assert_eq!(line_of_fault(&text), Some(6), "{text}");
    }
    let good = hosts_json("prod", "example.com", "deploy", &json!(22));
    assert_eq!(line_of_fault(&good), None);
    let with_group =
        |group: &str| good.replace("22\n", &format!("22,\n\"groups\": [{}]\n", json!(group)));
    for bad in BAD_GROUPS {
        assert_eq!(line_of_fault(&with_group(bad)), Some(7), "{bad:?}");
    }
    // Nothing but people reads them.
    assert_eq!(line_of_fault(&with_group("my group; $(é)")), None);
}

/// Makes a stand-in for ssh that prints `answer` in its directory, but for the question about its own
/// defaults. Written by another program: were the file open for writing here, a fork in another thread
/// could make running it fail.
fn fake_ssh(dir: &Path) -> PathBuf {
    fs::create_dir_all(dir).unwrap();
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *'-F none'*) echo user root;; *) cat '{}/answer';; esac\n",
        dir.display()
    );
    let program = dir.join("ssh");
    let mut install = Command::new("install");
    install.args(["-m", "755", "/dev/stdin"]).arg(&program).stdin(Stdio::piped());
    let mut install = install.spawn().unwrap();
    std::io::Write::write_all(&mut install.stdin.take().unwrap(), script.as_bytes()).unwrap();
    assert!(install.wait().unwrap().success());
    program
}

fn answer(address: &str, user: &str, port: &str) -> String {
    format!("user {user}\nhostname {address}\nport {port}\n")
}

#[tokio::test]
async fn what_ssh_says_is_not_believed_either() {
    let dir = tempfile::tempdir().unwrap();
    let program = fake_ssh(dir.path());
    let alias = Address::new("alias").unwrap();
    let resolve = async |text: String| {
        fs::write(dir.path().join("answer"), text).unwrap();
        // A new one each time: a resolver keeps answers.
        let resolver = Resolver::with_programs(dir.path().to_owned(), vec![program.clone()]);
        resolver.resolve(&alias, None, None).await.map_err(|error| error.to_string())
    };
    // A line feed ends the value there.
    for bad in corpus().into_iter().filter(|bad| !bad.contains('\n')) {
        for (place, key) in [(Place::Address, "hostname"), (Place::User, "user")] {
            let (_, address, user) = with(&bad, place);
            let error = resolve(answer(address, user, "22")).await.unwrap_err();
            assert!(error.ends_with(&format!("value for {key}")), "{bad:?}: {error}");
        }
    }
    for port in ["0", "70000", "-1", ""] {
        let error = resolve(answer("example.com", "deploy", port)).await.unwrap_err();
        assert!(error.ends_with("value for port"), "{port}: {error}");
    }
    let good = resolve(answer("example.com", "deploy", "22")).await.unwrap();
    assert_eq!(good.hostname.unwrap().as_str(), "example.com");
}

#[test]
fn a_daemon_whose_ssh_lies_dials_nobody() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    let bin = rig.root().join("bin");
    fake_ssh(&bin);
    let path = std::env::var("PATH").unwrap();
    rig.set_env("PATH", format!("{}:{path}", bin.display()));
    rig.add_host("far", &host);
    rig.start_daemon(&[]);
    fs::write(bin.join("answer"), answer("-oProxyCommand=id", "deploy", "22")).unwrap();
    let refused = problem(&exec(&rig, "far", &["true"]));
    assert_eq!((refused.status, refused.code), (409, Code::SshConfigInvalid));
    assert!(refused.detail.contains("unusable value for hostname"), "{refused:?}");
    assert_eq!(host.connections(), 0);
    fs::write(bin.join("answer"), answer("127.0.0.1", "deploy", "22")).unwrap();
    assert_eq!(post(&rig, "/v1/hosts/far/connect").status, 200);
}
