//! A secret goes where it is needed and nowhere else: not into a log, the audit log, a file, an answer, a list of processes or
//! the environment of another program, however much is logged and whatever fails.
//!
//! Passwords that are kept are in `secrets.rs`, sudo's in `install_docker.rs`, a sandbox's own in `sandbox.rs`; they ask
//! [`answers`], too.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use occ_proto::prompt::PromptList;
use serde_json::{Value, json};
use testkit::keys::KeyFile;
use testkit::terminal::Terminal;
use testkit::wait::blocking::wait_for;
use testkit::{DaemonRig, RealSshd, http};

use crate::approval::{elsewhere, question};
use crate::support::{GUARD, eventually, remote_programs, shell};

const PASSPHRASE: &str = "canary-passphrase-4d1f";
const WRONG: &str = "canary-wrong-passphrase-90aa";
const ENV: &str = "canary-exec-env-77c2";
const SESSION_ENV: &str = "canary-session-env-b3e8";
const STDIN: &str = "canary-stdin-05fd";
const ARGUMENT: &str = "canary-argument-61b7";

/// How long a stream is listened to that has no end.
const LISTEN: Duration = Duration::from_millis(300);

/// Returns what all GET routes of the API answer that docs/openapi.json has, each with `values` in its path.
pub(crate) fn answers(rig: &DaemonRig, values: &[(&str, &str)]) -> Vec<(String, String)> {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
    let document: Value = serde_json::from_slice(&fs::read(document).unwrap()).unwrap();
    let mut answers = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        if item.get("get").is_none() {
            continue;
        }
        let mut path = path.clone();
        for (name, value) in values {
            path = path.replace(&format!("{{{name}}}"), value);
        }
        // Whatever has no value names nothing, which is an answer, too.
        let path = path.replace(['{', '}'], "");
        let mut stream = UnixStream::connect(rig.socket()).unwrap();
        stream.set_read_timeout(Some(LISTEN)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = Vec::new();
        // Those that go on are left.
        let _ = stream.read_to_end(&mut answer);
        answers.push((path, String::from_utf8_lossy(&answer).into_owned()));
    }
    assert!(answers.len() > 25, "{}", answers.len());
    answers
}

/// Returns the files below a directory that hold a text.
pub(crate) fn holding(directory: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(directory) else { return found };
    for path in entries.flatten().map(|entry| entry.path()) {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.is_dir() {
            found.extend(holding(&path, text));
        } else if meta.is_file() {
            let bytes = fs::read(&path).unwrap_or_default();
            if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
                found.push(path);
            }
        }
    }
    found
}

/// Returns the processes of this machine that show a text in a file of theirs, but for those.
fn showing(file: &str, text: &str, but: &[u32]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let bytes = fs::read(entry.path().join(file)).unwrap_or_default();
        if !but.contains(&pid) && bytes.windows(text.len()).any(|part| part == text.as_bytes()) {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            found.push(format!("{pid}: {}", String::from_utf8_lossy(&line)));
        }
    }
    found
}

fn answer(rig: &DaemonRig, text: &str) {
    let path = "/v1/prompts?client=a-test";
    let id = wait_for("a question", GUARD, || {
        let list = rig.http("GET", path, &[], None);
        let list: PromptList = serde_json::from_slice(&list.body).unwrap();
        list.prompts.first().map(|prompt| prompt.id)
    });
    let path = format!("/v1/prompts/{id}?client=a-test&verdict=true");
    let given = rig.http("POST", &path, &[], Some(json!({ "answer": text })));
    assert_eq!(given.status, 200, "{}", given.text());
}

#[test]
fn a_secret_is_where_it_is_needed_and_nowhere_else() {
    if !RealSshd::require() {
        return;
    }
    // The host notes every line that it is asked to run.
    let there = tempfile::tempdir_in("/tmp").unwrap();
    fs::set_permissions(there.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let (script, lines) = (there.path().join("note"), there.path().join("lines"));
    let text = format!(
        "#!/bin/sh\nprintf '%s\\n' \"$SSH_ORIGINAL_COMMAND\" >>{}\nexec sh -c \"$SSH_ORIGINAL_COMMAND\"\n",
        lines.display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let builder = RealSshd::builder().config("AcceptEnv CANARY_*");
    let sshd = builder.config(format!("ForceCommand {}", script.display())).start();
    let mut rig = DaemonRig::new();
    rig.set_env("OCCD_LOG", "trace");
    let key = KeyFile::generate_with(rig.home().join(".ssh/locked"), "ed25519", PASSPHRASE);
    let own = fs::read(sshd.client_key_path()).unwrap();
    let keys = fs::read_to_string(sshd.authorized_keys_path()).unwrap();
    fs::write(sshd.authorized_keys_path(), format!("{keys}{}\n", key.public)).unwrap();
    rig.add_host("h", &sshd);
    rig.add_host("given", &sshd);
    rig.edit_hosts(|file| {
        file.hosts.get_mut("h").unwrap().identity_file = Some(key.path.display().to_string());
        file.hosts.get_mut("given").unwrap().identity_file = None;
    });
    // Nobody listens there.
    rig.add_host("dead", &sshd);
    rig.edit_hosts(|file| file.hosts.get_mut("dead").unwrap().port = Some(1));
    rig.start_daemon(&[]);

    // A passphrase, wrong and right.
    std::thread::scope(|scope| {
        let connecting = scope
            .spawn(|| rig.http("POST", "/v1/hosts/h/connect", &[("occ-prompts", "a-test")], None));
        answer(&rig, WRONG);
        answer(&rig, PASSPHRASE);
        assert_eq!(connecting.join().unwrap().status, 200);
    });
    // A key of the client's.
    let given = STANDARD.encode(own);
    let mut occ = rig.occ(&["exec", "--host", "given", "--", "sleep", "1001"]);
    let mut with_key = occ.env("OCC_SSH_KEY", &given).spawn().unwrap();
    let given = &given[200..240];

    // Values of variables, and input; where it goes well and where it does not.
    let variable = format!("CANARY_A={ENV}");
    let mut occ = rig.occ(&["exec", "--host", "h", "--env", &variable, "--", "sleep", "1002"]);
    let mut with_env = occ.spawn().unwrap();
    wait_for("both programs", GUARD, || {
        let names = remote_programs(&sshd).into_iter().map(|process| process.name());
        (names.filter(|name| name == "sleep").count() == 2).then_some(())
    });
    let variable = format!("CANARY_S={SESSION_ENV}");
    rig.occ_ok(&[
        "session", "start", "--host", "h", "--name", "s", "--env", &variable, "--", "sleep", "1003",
    ]);
    wait_for("the session's program", GUARD, || {
        let names = remote_programs(&sshd).into_iter().map(|process| process.name());
        (names.filter(|name| name == "sleep").count() == 3).then_some(())
    });
    let post = |host: &str, body: Value| {
        rig.http("POST", &format!("/v1/hosts/{host}/exec"), &[], Some(body)).status
    };
    let asked = json!({"argv": ["wc", "-c"], "stdin": STDIN, "env": {"CANARY_A": ENV}});
    assert_eq!(post("h", asked.clone()), 200);
    assert_eq!(post("local", asked.clone()), 200);
    assert_eq!(post("dead", asked), 503);
    for argv in [&["no-such-program"][..], &["sh", "-c", "kill -9 $$"], &["cat"]] {
        let body =
            json!({"argv": argv, "stdin": "x", "env": {"CANARY_A": ENV}, "timeout_ms": 5000});
        assert_eq!(post("h", body), 200);
    }
    assert_eq!(post("h", json!({"argv": ["true"], "env": {"CANARY_A": format!("{ENV}\0")}})), 400);
    let session = |body: Value| rig.http("POST", "/v1/sessions", &[], Some(body)).status;
    let env = json!({"CANARY_S": SESSION_ENV});
    assert_eq!(session(json!({"host": "dead", "argv": ["true"], "env": env})), 503);
    assert!(session(json!({"host": "h", "cwd": "/nowhere", "argv": ["true"], "env": env})) >= 400);
    // What a command line has that looks like a secret is in no log, either.
    let option = format!("--password={ARGUMENT}");
    assert_eq!(post("h", json!({"argv": ["true", option]})), 200);

    let clients = [with_key.id(), with_env.id(), std::process::id()];
    let id = rig.http("GET", "/v1/sessions/s", &[], None).json()["id"].as_str().unwrap().to_owned();
    let answers = answers(&rig, &[("host", "h"), ("id", &id), ("path", "")]);
    let log = rig.log();
    assert!(log.contains("DEBUG"), "the log was to say all it can");
    let audit = fs::read_to_string(rig.root().join("state/occ/audit.jsonl")).unwrap();
    assert!(audit.contains("--password=***") && audit.contains("CANARY_A"), "{audit}");
    let ran = fs::read_to_string(&lines).unwrap();
    assert!(ran.contains("1002") && ran.contains("1003"), "{ran}");
    // They would be seen: the program has its variable, and our own client was typed with it.
    assert!(!showing("environ", ENV, &clients).is_empty());
    assert!(!showing("cmdline", ENV, &[]).is_empty());
    for secret in [PASSPHRASE, WRONG, ENV, SESSION_ENV, STDIN, given] {
        assert_eq!(holding(rig.root(), secret), [] as [PathBuf; 0], "{secret}");
        // Of the session there was a file, for the moment of its start.
        assert_eq!(holding(&sshd.dir().join("cache"), secret), [] as [PathBuf; 0], "{secret}");
        assert!(!ran.contains(secret), "{secret}: {ran}");
        assert!(!log.contains(secret), "{secret}");
        for (path, answer) in &answers {
            assert!(!answer.contains(secret), "{secret}: {path}: {answer}");
        }
        assert_eq!(showing("cmdline", secret, &clients), [""; 0], "{secret}");
        let mut may: Vec<u32> = clients.to_vec();
        if [ENV, SESSION_ENV].contains(&secret) {
            // It was meant for them.
            may.extend(remote_programs(&sshd).iter().map(|process| process.pid));
        }
        assert_eq!(showing("environ", secret, &may), [""; 0], "{secret}");
    }
    // Typed as an argument, it is one: for the host, and for no log.
    assert!(!audit.contains(ARGUMENT) && !log.contains(ARGUMENT));
    assert_eq!(holding(rig.root(), ARGUMENT), [] as [PathBuf; 0]);
    for child in [&mut with_key, &mut with_env] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    rig.occ_ok(&["session", "kill", "s"]);
}

#[test]
fn the_variables_of_a_session_are_in_a_file_of_its_owners_alone_until_it_has_begun() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let rig = crate::support::daemon_for(&sshd);
    let request = json!({
        "host": "h", "name": "s", "env": {"CANARY_S": SESSION_ENV},
        "argv": ["sh", "-c", "umask; echo ${#CANARY_S}; cat /proc/$$/cmdline /proc/$PPID/cmdline"]
    });
    assert_eq!(rig.http("POST", "/v1/sessions", &[], Some(request)).status, 201);
    let output = wait_for("its output", GUARD, || {
        let told = rig.run_occ(&["session", "logs", "s"]);
        told.stdout.contains("CANARY_S").then_some(told.stdout)
    });
    assert!(output.contains(&format!("\n{}\n", SESSION_ENV.len())), "{output}");
    assert!(!output.contains(SESSION_ENV), "{output}");
    let cache = sshd.dir().join("cache");
    assert_eq!(holding(&cache, SESSION_ENV), [] as [PathBuf; 0]);
    // Nobody else comes to where it was.
    let modes = shell(&rig, "stat -c %a \"${XDG_CACHE_HOME:-$HOME/.cache}\"/occ/sessions/*").stdout;
    assert!(modes.unwrap().lines().all(|mode| mode == "700"));
}

#[test]
fn what_is_asked_about_and_what_is_printed_is_in_no_log() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let mut rig = DaemonRig::new();
    rig.set_env("OCCD_LOG", "trace");
    rig.add_host("h", &sshd);
    rig.add_host("printing", &sshd);
    let ask = "[[hosts.h.policy.rules]]\naction = \"ask\"\nprogram = \"true\"\n";
    rig.write_config_toml(ask);
    rig.start_daemon(&[]);
    // The last one looks like nothing.
    let command = ["true", "--token=canary-a1", "https://u:canary-a2@x/", "canary-a3"];
    let args = [&["exec", "--host", "h", "--"][..], &command].concat();
    for answer in ["--allow", "--deny"] {
        let waiting = Terminal::control(&rig.occ(&args), "");
        let asked = question(&rig);
        // Whoever decides sees all of it.
        for word in command {
            assert!(asked["message"].as_str().unwrap().contains(word), "{asked}");
        }
        let (said, code) = elsewhere(&rig, &["prompts", answer, &asked["id"].to_string()]);
        assert_eq!(code, 0, "{said}");
        waiting.finish();
    }
    // So is the address that a program prints, with what lets its reader in.
    let line = "read line; echo http://localhost:9/?token=canary-a4; sleep 1000";
    let start = ["session", "start", "--host", "printing", "--name", "s", "--forward-urls", "--"];
    rig.occ_ok(&[&start[..], &["sh", "-c", line]].concat());
    rig.write_config_toml(&format!("{ask}[hosts.printing.policy]\nforward = \"deny\"\n"));
    let input = "/v1/sessions/s/input";
    let input = http::request(&rig.socket(), "POST", input, &[], Some(b"go\n")).unwrap();
    assert_eq!(input.status, 200, "{}", input.text());
    eventually("the refusal of a forward", || rig.log().contains("no forward"));
    rig.occ_ok(&["session", "kill", "s"]);
    let log = rig.log();
    assert!(log.contains("an approval was answered"), "{log}");
    for word in command.iter().skip(1).chain(&["canary-a4"]) {
        assert!(!log.contains(word), "{word}: {log}");
    }
}
