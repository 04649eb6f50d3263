//! What docs/api.md shows is what works: its commands are run as they stand, and none of the API is missing in it.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use occ_proto::Code;
use serde_json::Value;
use testkit::require::{find_program, require};
use testkit::{DaemonRig, RealSshd};

const DOCS: &str = include_str!("../../../docs/api.md");
const DOCUMENT: &str = include_str!("../../../docs/openapi.json");

/// What a command may be told all the same: its example names something that is not there, or takes Docker, which the
/// policy of this test keeps away from the machine that it runs on.
const TOLD: [(&str, &[Code]); 9] = [
    ("/v1/operations/1f3c9a2b", &[Code::OperationNotFound]),
    ("/v1/operations/ID", &[Code::OperationNotFound]),
    ("/v1/forwards/1f3c9a2b", &[Code::ForwardNotFound]),
    ("\"local\": \"8080:", &[Code::LocalPortTaken]),
    ("/v1/prompts/1", &[Code::PromptNotFound]),
    ("If-Match:", &[Code::FileChanged]),
    ("If-None-Match: *", &[Code::FileExists]),
    ("container", &[Code::PolicyDenied]),
    ("docker-s", &[Code::PolicyDenied, Code::InstallImpossible]),
];

/// Returns the commands, with what is set before each.
fn commands() -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut set = String::new();
    for block in testkit::docs::blocks(DOCS) {
        let lines: Vec<&str> = block.text.lines().collect();
        // A dialogue shows what comes as well.
        if lines.first().is_some_and(|line| line.starts_with("$ ")) {
            continue;
        }
        let mut command = String::new();
        for line in lines {
            command.push_str(line);
            command.push('\n');
            if command.matches('\'').count() % 2 == 1 {
                continue;
            }
            let whole = std::mem::take(&mut command);
            if whole.contains("curl ") {
                all.push((set.clone(), whole.trim().to_owned()));
            } else if let Some((name, _)) = whole.split_once('=')
                && name.len() == 1
                && !matches!(name, "S" | "F")
            {
                set.push_str(&whole);
            }
        }
    }
    all
}

/// Runs a command; of one that goes on, to its first words.
fn run(script: &str, goes_on: bool, here: &Path) -> (bool, Vec<u8>) {
    let mut child = Command::new("sh")
        .args(["-c", script])
        .current_dir(here)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    if goes_on {
        let mut some = vec![0; 64 * 1024];
        let length = child.stdout.take().unwrap().read(&mut some).unwrap();
        some.truncate(length);
        child.kill().unwrap();
        child.wait().unwrap();
        return (length > 0, some);
    }
    let output = child.wait_with_output().unwrap();
    (output.status.success(), output.stdout)
}

fn jq(filter: &str, input: &[u8]) -> bool {
    let mut jq = Command::new("sh")
        .args(["-c", &format!("jq {filter}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    jq.stdin.take().unwrap().write_all(input).unwrap();
    jq.wait().unwrap().success()
}

#[test]
fn the_commands_work_as_they_stand() {
    let programs = ["curl", "jq", "tar"].map(|program| find_program(program).map(|_| ()));
    let available = programs.into_iter().collect::<Result<(), _>>();
    if !require("curl, jq and tar", available, "OCC_REQUIRE_SSHD") || !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let mut rig = DaemonRig::new();
    rig.add_host("prod-1", &sshd);
    rig.add_host("prod-2", &sshd);
    // Docker, and its installation, would be those of this machine.
    rig.write_config_toml("[policy]\ndocker = \"deny\"\n");
    rig.start_daemon(&[]);
    let (here, there) = (rig.root().join("here"), rig.root().join("there"));
    for dir in [
        here.join("site"),
        there.join("etc/ssh"),
        there.join("var/log"),
        there.join("var/www/site"),
    ] {
        std::fs::create_dir_all(dir).unwrap();
    }
    for file in [here.join("notes.txt"), here.join("request"), here.join("site/index.html")] {
        std::fs::write(file, "some bytes\n").unwrap();
    }
    for file in ["etc/hosts", "var/log/syslog", "notes.txt"] {
        std::fs::write(there.join(file), "some bytes\n").unwrap();
    }
    // The host's user is another one.
    let writable = Command::new("chmod").args(["-R", "a+rwX"]).arg(&there).status();
    assert!(writable.unwrap().success());
    let socket = rig.socket().display().to_string();
    let there = there.display().to_string();
    let commands = commands();
    assert!(commands.len() > 60, "{}", commands.len());
    let mut wrong = Vec::new();
    for (set, command) in &commands {
        // The home directory is that of whoever runs this test.
        let safe = command.replace("\"to\": \"a/c\"", &format!("\"to\": \"{there}/a/c\""));
        let (curl, filter) = match safe.split_once(" | jq ") {
            Some((curl, filter)) => (curl, Some(filter)),
            None => (safe.as_str(), None),
        };
        let goes_on = curl.starts_with("curl -sN") || curl.contains("$W");
        let exec = if goes_on { "exec " } else { "" };
        let vars = format!("S={socket}\nF=http://localhost/v1/hosts/prod-1/files/{there}\n{set}");
        let (success, said) = run(&format!("{vars}{exec}{curl}"), goes_on, &here);
        let text = String::from_utf8_lossy(&said).into_owned();
        let value: Value = serde_json::from_slice(&said).unwrap_or_default();
        let problem = value["type"].as_str().and_then(|kind| kind.strip_prefix("urn:occ:problem:"));
        match problem {
            Some(code) => {
                let shown = command.replace("$C", "/container");
                let told = TOLD.iter().filter(|(part, _)| shown.contains(part));
                let may = told.flat_map(|(_, codes)| *codes).any(|may| may.as_str() == code);
                if !may {
                    wrong.push(format!("{command}\n  {text}"));
                }
            }
            None if !success => wrong.push(format!("{command}\n  failed: {text}")),
            None => {
                if filter.is_some_and(|filter| !jq(filter, &said)) {
                    wrong.push(format!("{command}\n  is not for jq: {text}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_path_of_the_document_is_named_and_has_a_command() {
    let document: Value = serde_json::from_str(DOCUMENT).unwrap();
    let commands: Vec<String> = commands()
        .into_iter()
        .map(|(set, command)| {
            let value =
                set.lines().rev().find_map(|line| line.strip_prefix("C=")).unwrap_or_default();
            let command = command.replace("$C", value);
            command.replace("$F", "http://localhost/v1/hosts/prod-1/files")
        })
        .collect();
    for path in document["paths"].as_object().unwrap().keys() {
        assert!(DOCS.contains(path.as_str()), "docs/api.md does not name {path}");
        let shown = commands.iter().any(|command| is_at(command, path));
        assert!(shown, "docs/api.md has no command for {path}");
    }
}

/// Returns whether a command is one for a path of the document.
fn is_at(command: &str, path: &str) -> bool {
    command.split("http://localhost").skip(1).any(|url| {
        let end = url.find(['?', ' ', '\'', '"', '\n']).unwrap_or(url.len());
        let mut parts = url[..end].split('/');
        for wanted in path.split('/') {
            match (wanted, parts.next()) {
                ("{path}", Some(_)) => return true,
                (wanted, Some(part))
                    if wanted == part || (wanted.starts_with('{') && !part.is_empty()) => {}
                _ => return false,
            }
        }
        parts.next().is_none()
    })
}

#[test]
fn every_code_has_its_line() {
    let mut lines =
        DOCS.lines().skip_while(|line| *line != "| code | status | what it means | what to do |");
    let rows: Vec<Vec<&str>> = lines
        .by_ref()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    let document: Value = serde_json::from_str(DOCUMENT).unwrap();
    let responses = document["components"]["responses"].as_object().unwrap();
    for code in Code::ALL {
        let word = format!("`{code}`");
        let row = rows.iter().find(|row| row[1] == word);
        let row = row.unwrap_or_else(|| panic!("docs/api.md does not explain {word}"));
        assert!(row[2..5].iter().all(|cell| !cell.is_empty()), "{row:?}");
        for (name, response) in responses {
            let has_it =
                response["x-codes"].as_array().unwrap().iter().any(|one| *one == code.as_str());
            let status = name.trim_start_matches("Problem").split('_').next().unwrap();
            assert!(!has_it || row[2].split(", ").any(|one| one == status), "{row:?}: {status}");
        }
    }
    // A code that is gone would break whoever knows it.
    assert_eq!(rows.len(), Code::ALL.len(), "docs/api.md explains a code that is no more");
}
