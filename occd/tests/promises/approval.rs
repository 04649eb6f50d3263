//! What a policy asks about waits for a person, who is not the one that wants it.

use std::process::Stdio;

use serde_json::{Value, json};
use testkit::DaemonRig;
use testkit::http;
use testkit::terminal::Terminal;
use testkit::wait::blocking::wait_for;

use crate::policy::{denied, sshd_with};
use crate::support::{GUARD, eventually, post};

const ASK: &str = "[[hosts.h.policy.rules]]\naction = \"ask\"\nprogram = \"touch\"\n";

/// Waits for the one question that is open.
pub(crate) fn question(rig: &DaemonRig) -> Value {
    wait_for("a question", GUARD, || {
        let list = rig.http("GET", "/v1/prompts", &[], None).json();
        list["prompts"].as_array().unwrap().first().cloned()
    })
}

fn nothing_is_asked(rig: &DaemonRig) {
    eventually("no question to be open", || {
        rig.http("GET", "/v1/prompts", &[], None).json()["prompts"] == json!([])
    });
}

/// Runs `occ` in a terminal of its own to its end.
pub(crate) fn elsewhere(rig: &DaemonRig, args: &[&str]) -> (String, i32) {
    Terminal::control(&rig.occ(args), "").finish()
}

#[test]
fn who_wants_an_end_by_then_waits_for_no_answer_longer_than_that() {
    let Some((_sshd, rig)) = sshd_with(ASK) else { return };
    let file = format!("/tmp/occ-never-{}", std::process::id());
    let said = rig.run_occ(&["exec", "--host", "h", "--timeout", "200ms", "--", "touch", &file]);
    assert_eq!(said.code(), 7, "{said:?}");
    assert!(said.stderr.contains("nobody allowed it in time"), "{said:?}");
    let durable = ["exec", "--durable", "--host", "h", "--timeout", "200ms", "--", "touch", &file];
    let said = rig.run_occ(&durable);
    assert_eq!(said.code(), 7, "{said:?}");
    assert!(!std::path::Path::new(&file).exists());
    nothing_is_asked(&rig);
}

#[test]
fn a_person_in_another_terminal_allows_it_and_the_first_answer_wins() {
    let Some((_sshd, rig)) = sshd_with(ASK) else { return };
    for (answer, exit) in [("--allow", 0), ("--deny", 7)] {
        let file = format!("/tmp/occ-approved-{}{answer}", std::process::id());
        let mut waiting =
            Terminal::control(&rig.occ(&["exec", "--host", "h", "--", "touch", &file]), "");
        let asked = question(&rig);
        let id = asked["id"].to_string();
        assert_eq!(asked["kind"], "approval");
        assert_eq!(asked["host"], "h");
        let message = asked["message"].as_str().unwrap();
        let pid = waiting.child.id();
        for part in [format!("touch {file}"), "Allow cli, process".into(), "(occ) on h".into()] {
            assert!(message.contains(&part), "{message} (of {pid})");
        }
        assert!(asked["note"].as_str().unwrap().contains("the rule ask \"touch\""), "{asked}");
        // It says what it waits for, and what answers it.
        waiting.wait_for(&format!("occ prompts --allow {id}"));
        assert!(!std::path::Path::new(&file).exists());
        let (said, code) = elsewhere(&rig, &["prompts", answer, &id]);
        assert_eq!(code, 0, "{said}");
        let (said, code) = waiting.finish();
        assert_eq!(code, exit, "{said}");
        assert_eq!(std::path::Path::new(&file).exists(), exit == 0);
        let (said, code) = elsewhere(&rig, &["prompts", "--allow", &id]);
        assert_ne!(code, 0, "{said}");
        let _ = std::fs::remove_file(&file);
    }
}

#[test]
fn without_questions_here_an_approval_is_waited_for_all_the_same() {
    let Some((_sshd, rig)) = sshd_with(ASK) else { return };
    let args = ["--no-input", "exec", "--host", "h", "--", "touch", "/dev/null"];
    let waiting = rig.occ(&args).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let id = question(&rig)["id"].to_string();
    let (said, code) = elsewhere(&rig, &["prompts", "--allow", &id]);
    assert_eq!(code, 0, "{said}");
    let done = waiting.wait_with_output().unwrap();
    assert!(done.status.success(), "{done:?}");
    let help = rig.occ_ok(&["exec", "--help"]);
    let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        words.contains("what needs an answer fails; what a policy asks others waits for them"),
        "{help}"
    );
}

#[test]
fn whoever_wants_it_and_what_that_starts_cannot_allow_it() {
    let Some((_sshd, rig)) = sshd_with(ASK) else { return };
    let occ = rig.occ(&[]);
    let program = occ.get_program().to_str().unwrap();
    // An agent in a terminal, whose tools run in sessions of their own and without a terminal, some of them left
    // behind by their parents.
    let script = format!(
        "{program} exec --host h -- touch /tmp/occ-never & \
         while ! {program} prompts --json | grep -q approval; do :; done; \
         {program} prompts --allow 1; echo same-terminal=$?; \
         setsid --wait {program} prompts --allow 1; echo own-session=$?; \
         sh -c '{program} prompts --allow 1; echo child=$?'; \
         setsid --wait sh -c '(setsid --wait {program} prompts --allow 1; echo deeper=$?)'; \
         wait"
    );
    let mut command = rig.occ(&[]);
    let mut agent = std::process::Command::new("sh");
    agent.args(["-c", &script]);
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            agent.env(name, value);
        }
    }
    agent.current_dir(rig.home());
    command.stdin(Stdio::null());
    let mut terminal = Terminal::control(&agent, "");
    for way in ["same-terminal", "own-session", "child", "deeper"] {
        terminal.wait_for(&format!("{way}=7"));
    }
    let asked = question(&rig);
    assert_eq!(asked["id"], 1, "it is open still");
    let (said, code) = elsewhere(&rig, &["prompts", "--deny", "1"]);
    assert_eq!(code, 0, "{said}");
    let (said, _) = terminal.finish();
    assert!(said.contains("did not allow it"), "{said}");
    assert!(said.contains("Whoever wants it done"), "{said}");
}

#[test]
fn a_client_without_a_terminal_cannot_allow_what_its_relatives_want() {
    let Some((_sshd, rig)) = sshd_with(ASK) else { return };
    let mut wants = rig.occ(&["exec", "--host", "h", "--", "touch", "/tmp/occ-never"]);
    let wants = wants.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let id = question(&rig)["id"].to_string();
    // This test is the parent of both.
    let answer = rig.run_occ(&["prompts", "--allow", &id]);
    assert_eq!(answer.code(), 7, "{}", answer.stderr);
    let body = json!({ "answer": "yes" }).to_string();
    let own = http::request(
        &rig.socket(),
        "POST",
        &format!("/v1/prompts/{id}"),
        &[("Content-Type", "application/json")],
        Some(body.as_bytes()),
    );
    denied(&own.unwrap());
    let mut wants = wants;
    wants.kill().unwrap();
    wants.wait().unwrap();
    // Nobody waits for it any more.
    nothing_is_asked(&rig);
}

#[test]
fn whoever_wants_it_may_give_it_up() {
    let Some((_sshd, rig)) = sshd_with(ASK) else { return };
    for answer in ["--deny", "no answer"] {
        let mut wants = rig.occ(&["exec", "--host", "h", "--", "touch", "/tmp/occ-never"]);
        let wants = wants.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let id = question(&rig)["id"].to_string();
        // This test is the parent of both.
        match answer {
            "--deny" => _ = rig.occ_ok(&["prompts", "--deny", &id]),
            _ => {
                let path = format!("/v1/prompts/{id}");
                assert_eq!(rig.http("POST", &path, &[], Some(json!({}))).status, 204);
            }
        }
        let done = wants.wait_with_output().unwrap();
        assert_eq!(done.status.code(), Some(7), "{done:?}");
        nothing_is_asked(&rig);
    }
}

#[test]
fn a_timeout_denies_and_names_the_rule() {
    let config = format!("[policy]\nask_timeout = \"500ms\"\n{ASK}");
    let Some((_sshd, rig)) = sshd_with(&config) else { return };
    let why = denied(&post(&rig, json!({ "argv": ["touch", "/tmp/occ-never"] })));
    assert!(why.contains("nobody allowed it in time") && why.contains("line 3"), "{why}");
    let done = rig.run_occ(&["exec", "--host", "h", "--", "touch", "/tmp/occ-never"]);
    assert_eq!(done.code(), 7, "{}", done.stderr);
    assert!(done.stderr.contains("waiting: Allow cli"), "{}", done.stderr);
    nothing_is_asked(&rig);
}

#[test]
fn whoever_is_at_the_question_is_told_when_it_is_over() {
    let config = format!("[policy]\nask_timeout = \"3s\"\n{ASK}");
    let Some((_sshd, rig)) = sshd_with(&config) else { return };
    for how in ["denied", "left", "late"] {
        let wants = rig.occ(&["exec", "--host", "h", "--", "touch", "/tmp/occ-never"]);
        let mut wants = Terminal::control(&wants, "");
        let id = question(&rig)["id"].to_string();
        let mut asked = Terminal::control(&rig.occ(&["prompts"]), "");
        asked.wait_for("[y/N]: ");
        match how {
            "denied" => assert_eq!(elsewhere(&rig, &["prompts", "--deny", &id]).1, 0),
            "left" => wants.type_text("\u{3}"),
            _ => {}
        }
        let (screen, code) = asked.finish();
        assert!(screen.contains("\nIt is asked no more"), "{how}: {screen}");
        assert_eq!(code, 1, "{how}: {screen}");
        wants.finish();
        nothing_is_asked(&rig);
    }
}

#[test]
fn what_is_typed_for_a_question_that_is_over_is_no_answer_to_the_next() {
    let Some((_sshd, rig)) = sshd_with(ASK) else { return };
    let touch = |name: &str| {
        let wants = rig.occ(&["exec", "--host", "h", "--", "touch", name]);
        Terminal::control(&wants, "")
    };
    let first = touch("/tmp/occ-never-1");
    let id = question(&rig)["id"].to_string();
    let second = touch("/tmp/occ-never-2");
    eventually("both to be asked", || {
        let list = rig.http("GET", "/v1/prompts", &[], None).json();
        list["prompts"].as_array().unwrap().len() == 2
    });
    let mut asked = Terminal::control(&rig.occ(&["prompts"]), "");
    asked.wait_for("occ-never-1");
    asked.wait_for("[y/N]: ");
    asked.press('y');
    assert_eq!(elsewhere(&rig, &["prompts", "--deny", &id]).1, 0);
    asked.answer("occ-never-2", "");
    let (screen, code) = asked.finish();
    assert_eq!(code, 0, "one was answered: {screen}");
    assert_eq!(first.finish().1, 7);
    assert_eq!(second.finish().1, 7);
}

#[test]
fn a_daemon_that_stops_is_no_person_who_says_no() {
    let Some((_sshd, mut rig)) = sshd_with(ASK) else { return };
    let mut wants = rig.occ(&["exec", "--host", "h", "--", "touch", "/tmp/occ-never"]);
    let wants = wants.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    question(&rig);
    let mut terminal = Terminal::control(&rig.occ(&["prompts"]), "");
    terminal.wait_for("touch /tmp/occ-never");
    rig.terminate_daemon();
    // Nor is one started for an answer that nobody waits for any more.
    let (screen, code) = terminal.finish();
    assert!(!screen.contains("started") && screen.contains("occd has ended"), "{screen}");
    assert_eq!(code, 3, "{screen}");
    let said = wants.wait_with_output().unwrap();
    assert_eq!(said.status.code(), Some(3));
    let said = String::from_utf8_lossy(&said.stderr);
    assert!(said.contains("occd stopped before anybody allowed it"), "{said}");
    assert!(!said.contains("refused") && said.contains("hint: occ daemon start"), "{said}");
}

#[test]
fn a_kind_of_client_is_what_it_says_and_api_unless_it_says() {
    let config =
        "[[policy.rules]]\naction = \"deny\"\nprogram = \"true\"\nclient = [\"api\", \"mcp\"]\n";
    let Some((_sshd, mut rig)) = sshd_with(config) else { return };
    let run = |kind: Option<&str>| {
        let headers: Vec<(&str, &str)> =
            kind.map(|kind| ("Occ-Client", kind)).into_iter().collect();
        rig.http("POST", "/v1/hosts/h/exec", &headers, Some(json!({ "argv": ["true"] }))).status
    };
    assert_eq!(run(None), 403);
    assert_eq!(run(Some("mcp")), 403);
    assert_eq!(run(Some("editor")), 200);
    assert_eq!(run(Some("person")), 400);
    assert_eq!(rig.run_occ(&["exec", "--host", "h", "--", "true"]).code(), 0);
    rig.set_env("OCC_CLIENT", "mcp");
    assert_eq!(rig.run_occ(&["exec", "--host", "h", "--", "true"]).code(), 7);
}

#[test]
fn a_session_that_was_allowed_to_start_is_not_asked_about_again() {
    let config = "[[policy.rules]]\naction = \"ask\"\nprogram = \"cat\"\n";
    let Some((_sshd, rig)) = sshd_with(config) else { return };
    let durable = rig.occ(&["exec", "--host", "h", "--durable", "--", "cat", "/etc/hostname"]);
    let waiting = Terminal::control(&durable, "");
    let id = question(&rig)["id"].to_string();
    assert_eq!(elsewhere(&rig, &["prompts", "--allow", &id]).1, 0);
    let (said, code) = waiting.finish();
    assert_eq!(code, 0, "{said}");
    assert!(said.contains(std::fs::read_to_string("/etc/hostname").unwrap().trim()), "{said}");
    nothing_is_asked(&rig);
}

#[test]
fn without_a_terminal_too_it_is_said_what_a_file_or_a_forward_waits_for() {
    use std::io::{BufRead as _, BufReader};
    let config =
        "[[policy.rules]]\naction = \"ask\"\nwhat = [\"write\"]\n\n[policy]\nforward = \"ask\"\n";
    let Some((_sshd, rig)) = sshd_with(config) else { return };
    let target = format!("h:/tmp/occ-never-{}", std::process::id());
    std::fs::write(rig.home().join("f"), "x").unwrap();
    for args in [
        &["cp", "f", &target][..],
        &["rm", &target],
        &["forward", "add", "--host", "h", "-L", "0:localhost:1"],
    ] {
        let mut wants = rig.occ(args);
        let mut wants = wants.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let id = question(&rig)["id"].to_string();
        let mut said = BufReader::new(wants.stderr.take().unwrap()).lines();
        let line = said.next().unwrap().unwrap();
        assert!(line.starts_with("waiting: Allow cli, process "), "{args:?}: {line}");
        let hint = said.next().unwrap().unwrap();
        assert!(hint.contains(&format!("occ prompts --allow {id}")), "{args:?}: {hint}");
        wants.kill().unwrap();
        wants.wait().unwrap();
        nothing_is_asked(&rig);
    }
}

#[test]
fn a_change_of_a_file_waits_as_a_command_does() {
    let config = "[[policy.rules]]\naction = \"ask\"\nwhat = [\"write\"]\n";
    let Some((_sshd, rig)) = sshd_with(config) else { return };
    let target = format!("/tmp/occ-copied-{}", std::process::id());
    std::fs::write(rig.home().join("f"), "x").unwrap();
    let mut copying = Terminal::control(&rig.occ(&["cp", "f", &format!("h:{target}")]), "");
    let asked = question(&rig);
    assert!(asked["message"].as_str().unwrap().contains(&target), "{asked}");
    let id = asked["id"].to_string();
    copying.wait_for(&format!("occ prompts --allow {id}"));
    assert!(!std::path::Path::new(&target).exists());
    assert_eq!(elsewhere(&rig, &["prompts", "--allow", &id]).1, 0);
    let (said, code) = copying.finish();
    assert_eq!(code, 0, "{said}");
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "x");
    std::fs::remove_file(target).unwrap();
}
