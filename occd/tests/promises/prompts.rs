//! Questions to people: who is asked, what is asked once, and what happens when nobody answers.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;

use occ_proto::prompt::{Prompt, PromptEvent, PromptKind, PromptList};
use occ_proto::status::State;
use occ_proto::{Code, Problem};
use serde_json::{Value, json};
use testkit::http::Response;
use testkit::keys::KeyFile;
use testkit::wait::blocking::{wait_for, wait_until};
use testkit::{DaemonRig, EmbeddedHost, FaultyLink, RealSshd, Terminal};

use crate::ask::{GUARD, echoes, failure, look, post, problem};
use crate::files::Shared;

const PASSPHRASE: &str = "open sesame";
/// The header of a client that listens.
const LISTENS: (&str, &str) = ("occ-prompts", "a-test");

/// Returns a server and a daemon whose hosts, one for each name, log in there with one locked key.
fn locked(names: &[&str]) -> Option<(RealSshd, DaemonRig, KeyFile)> {
    if !RealSshd::require() {
        return None;
    }
    let sshd = RealSshd::start();
    let mut rig = DaemonRig::new();
    let key = KeyFile::generate_with(rig.home().join(".ssh/locked"), "ed25519", PASSPHRASE);
    fs::write(sshd.authorized_keys_path(), format!("{}\n", key.public)).unwrap();
    for name in names {
        rig.add_host(name, &sshd);
        set_key(&rig, name, Some(&key.path));
    }
    rig.start_daemon(&[]);
    Some((sshd, rig, key))
}

fn set_key(rig: &DaemonRig, name: &str, path: Option<&Path>) {
    rig.edit_hosts(|file| {
        let config = file.hosts.get_mut(name).unwrap();
        config.identity_file = path.map(|path| path.display().to_string());
    });
}

fn prompts(rig: &DaemonRig, client: &str) -> Vec<Prompt> {
    let path = format!("/v1/prompts?client={client}");
    let answer = rig.http("GET", &path, &[], None);
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice::<PromptList>(&answer.body).unwrap().prompts
}

fn prompt(rig: &DaemonRig, client: &str) -> Prompt {
    wait_for("a prompt", GUARD, || prompts(rig, client).into_iter().next())
}

fn answer(rig: &DaemonRig, id: u64, body: Value) -> Response {
    rig.http("POST", &format!("/v1/prompts/{id}?client=a-test"), &[], Some(body))
}

fn connect_listening(rig: &DaemonRig, host: &str, token: &str) -> Response {
    rig.http("POST", &format!("/v1/hosts/{host}/connect"), &[("occ-prompts", token)], None)
}

#[test]
fn a_passphrase_is_asked_for_once_for_all_hosts_and_before_anything_is_sent() {
    let names = ["a", "b", "c"];
    let Some((sshd, rig, key)) = locked(&names) else { return };
    thread::scope(|scope| {
        let rig = &rig;
        let connecting =
            names.map(|name| scope.spawn(move || connect_listening(rig, name, "a-test")));
        let first = prompt(rig, "a-test");
        assert_eq!((first.kind, first.secret, &first.host), (PromptKind::Passphrase, true, &None));
        assert_eq!(first.message, "Passphrase for ~/.ssh/locked (asked once for all hosts)");
        wait_until(
            "every host to say what it waits for",
            GUARD,
            || names.map(|name| look(rig, name).question),
            |questions| questions.iter().all(|q| q.as_deref() == Some(first.message.as_str())),
        );
        assert_eq!(prompts(rig, "a-test"), std::slice::from_ref(&first));
        assert_eq!(sshd.session_count(), 0);
        // A wrong one is told and asked for again.
        assert_eq!(answer(rig, first.id, json!({ "answer": "wrong" })).status, 204);
        let second = wait_for("another try", GUARD, || {
            prompts(rig, "a-test").into_iter().find(|prompt| prompt.id != first.id)
        });
        assert_eq!(second.note.as_deref(), Some("That passphrase is wrong."));
        assert_eq!(answer(rig, first.id, json!({ "answer": PASSPHRASE })).status, 404);
        assert_eq!(answer(rig, second.id, json!({ "answer": PASSPHRASE })).status, 204);
        for connecting in connecting {
            let response = connecting.join().unwrap();
            assert_eq!(response.status, 200, "{}", response.text());
        }
    });
    for name in names {
        let status = look(&rig, name);
        let auth = status.connection.unwrap().auth;
        assert_eq!(auth, format!("publickey {} (file)", key.path.display()));
        assert_eq!(status.question, None);
    }
    // The key is open: a new login asks nobody.
    assert_eq!(post(&rig, "/v1/hosts/a/reconnect").status, 200);
    assert_eq!(prompts(&rig, "a-test"), []);
    let log = rig.log();
    assert!(!log.contains(PASSPHRASE) && !log.contains("\"wrong\""), "{log}");
}

#[test]
fn without_somebody_to_ask_a_command_fails_at_once_and_says_what_to_type() {
    let Some((sshd, rig, _key)) = locked(&["a"]) else { return };
    let refused = |what: &Response| {
        let problem = problem(what);
        assert_eq!((problem.status, problem.code), (409, Code::InputNeeded), "{problem:?}");
        assert!(!problem.retryable);
        assert!(
            problem.detail.contains("the passphrase for ~/.ssh/locked is needed"),
            "{problem:?}"
        );
    };
    refused(&post(&rig, "/v1/hosts/a/connect"));
    assert_eq!(sshd.session_count(), 0);
    let error = failure(&rig, "a", State::Failed);
    assert!(!error.retryable);
    let output = rig.run_occ(&["exec", "--host", "a", "--", "true"]);
    assert_eq!(output.code(), 5, "{}", output.stderr);
    assert!(output.stderr.contains("hint: ") && output.stderr.contains("occ connect --host a"));
    // While somebody else is asked, too.
    thread::scope(|scope| {
        let connecting = scope.spawn(|| connect_listening(&rig, "a", "a-test"));
        let asked = prompt(&rig, "a-test");
        let problem = problem(&post(&rig, "/v1/hosts/a/connect"));
        assert_eq!((problem.status, problem.code), (409, Code::InputNeeded), "{problem:?}");
        assert!(problem.detail.contains("somebody else is asked"), "{problem:?}");
        assert_eq!(answer(&rig, asked.id, json!({ "answer": PASSPHRASE })).status, 204);
        assert_eq!(connecting.join().unwrap().status, 200);
    });
    echoes(&rig, "a");
}

#[test]
fn who_declines_or_is_wrong_three_times_leaves_the_key_locked_until_somebody_unlocks_it() {
    let Some((_sshd, rig, key)) = locked(&["a", "b"]) else { return };
    for answers in [vec![json!({})], vec![json!({ "answer": "no" }); 3]] {
        thread::scope(|scope| {
            let connecting = scope.spawn(|| connect_listening(&rig, "a", "a-test"));
            let mut last = 0;
            for body in answers {
                let asked = wait_for("a new prompt", GUARD, || {
                    prompts(&rig, "a-test").into_iter().find(|prompt| prompt.id != last)
                });
                last = asked.id;
                assert_eq!(answer(&rig, asked.id, body).status, 204);
            }
            let problem = problem(&connecting.join().unwrap());
            assert_eq!((problem.status, problem.code), (409, Code::KeyLocked), "{problem:?}");
        });
        assert_eq!(failure(&rig, "a", State::Failed).code, Code::KeyLocked);
    }
    assert_eq!(problem(&post(&rig, "/v1/hosts/b/connect")).code, Code::InputNeeded);
    // Each host of that key is dialled when somebody has unlocked it.
    thread::scope(|scope| {
        let unlocking = scope.spawn(|| {
            let body = json!({ "identity_file": key.path });
            rig.http("POST", "/v1/unlock", &[LISTENS], Some(body))
        });
        let asked = prompt(&rig, "a-test");
        assert_eq!(answer(&rig, asked.id, json!({ "answer": PASSPHRASE })).status, 204);
        let unlocked = unlocking.join().unwrap();
        assert_eq!(unlocked.status, 200, "{}", unlocked.text());
        assert_eq!(unlocked.json(), json!({ "keys": [key.path], "hosts": ["a", "b"] }));
    });
    for name in ["a", "b"] {
        wait_until(
            "the host to be back",
            GUARD,
            || look(&rig, name).state,
            |state| *state == State::Connected,
        );
    }
    // Nothing is locked any more.
    let again = rig.http("POST", "/v1/unlock", &[LISTENS], Some(json!({ "host": "a" })));
    assert_eq!(again.json(), json!({ "keys": [], "hosts": [] }));
}

#[test]
fn a_default_key_is_asked_for_only_when_the_server_would_take_it() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let mut rig = DaemonRig::new();
    let right = KeyFile::generate_with(rig.home().join(".ssh/id_ecdsa"), "ecdsa", PASSPHRASE);
    // Offered first, and not taken.
    KeyFile::generate_with(rig.home().join(".ssh/id_ed25519"), "ed25519", "another");
    fs::write(sshd.authorized_keys_path(), format!("{}\n", right.public)).unwrap();
    rig.add_host("a", &sshd);
    set_key(&rig, "a", None);
    rig.start_daemon(&[]);
    // The server would take it: not "refused every key".
    let problem = problem(&post(&rig, "/v1/hosts/a/connect"));
    assert_eq!(problem.code, Code::InputNeeded, "{problem:?}");
    assert!(problem.detail.contains("~/.ssh/id_ecdsa"), "{problem:?}");
    thread::scope(|scope| {
        let connecting = scope.spawn(|| connect_listening(&rig, "a", "a-test"));
        let asked = prompt(&rig, "a-test");
        assert!(asked.message.contains("~/.ssh/id_ecdsa"), "{asked:?}");
        assert_eq!(answer(&rig, asked.id, json!({ "answer": PASSPHRASE })).status, 204);
        assert_eq!(connecting.join().unwrap().status, 200);
    });
    echoes(&rig, "a");
}

#[test]
fn an_answer_that_takes_longer_than_a_dial_may_is_in_time() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let mut rig = DaemonRig::new();
    let key = KeyFile::generate_with(rig.home().join(".ssh/locked"), "ed25519", PASSPHRASE);
    fs::write(sshd.authorized_keys_path(), format!("{}\n", key.public)).unwrap();
    // The bastion's key is locked; the host behind it has another.
    rig.add_host("bastion", &sshd);
    set_key(&rig, "bastion", Some(&key.path));
    let inner = EmbeddedHost::start();
    rig.add_host("inner", &inner);
    rig.edit_hosts(|file| {
        file.hosts.get_mut("inner").unwrap().jump_host = Some("bastion".into());
    });
    rig.write_config_toml("[connection]\nconnect_timeout = \"2s\"\n");
    rig.start_daemon(&[]);
    thread::scope(|scope| {
        let connecting = scope.spawn(|| connect_listening(&rig, "inner", "a-test"));
        let asked = prompt(&rig, "a-test");
        // It is asked on behalf of the host behind it, which says so.
        assert_eq!(look(&rig, "inner").question.as_deref(), Some(asked.message.as_str()));
        // After five seconds it is shown to everybody.
        let all = wait_until(
            "the prompt to be for all",
            GUARD,
            || rig.http("GET", "/v1/prompts", &[], None).json(),
            |list| list["prompts"].as_array().is_some_and(|list| !list.is_empty()),
        );
        assert_eq!(all["prompts"][0]["id"], json!(asked.id));
        assert!(!connecting.is_finished());
        assert_eq!(answer(&rig, asked.id, json!({ "answer": PASSPHRASE })).status, 204);
        let response = connecting.join().unwrap();
        assert_eq!(response.status, 200, "{}", response.text());
    });
}

/// Returns a bastion whose key is locked, and a host `inner` behind it whose key is not.
fn behind_a_locked_bastion() -> Option<(RealSshd, EmbeddedHost, DaemonRig, KeyFile)> {
    let (sshd, rig, key) = locked(&["bastion"])?;
    let inner = EmbeddedHost::start();
    rig.add_host("inner", &inner);
    rig.edit_hosts(|file| {
        file.hosts.get_mut("inner").unwrap().jump_host = Some("bastion".into());
    });
    Some((sshd, inner, rig, key))
}

#[test]
fn a_bastions_passphrase_is_asked_for_when_the_daemon_found_nobody_at_its_start() {
    let Some((_sshd, _inner, mut rig, _key)) = behind_a_locked_bastion() else { return };
    rig.terminate_daemon();
    rig.write_config_toml("[connection]\nautoconnect = \"all\"\n");
    rig.start_daemon(&[]);
    assert_eq!(failure(&rig, "inner", State::Backoff).code, Code::InputNeeded);
    let mut terminal = Terminal::control(&rig.occ(&["exec", "--host", "inner", "true"]), "");
    terminal.answer("Passphrase for ", PASSPHRASE);
    let (screen, code) = terminal.finish();
    assert_eq!(code, 0, "{screen}");
    // It would have said so after a second.
    assert!(!screen.contains("not connected"), "{screen}");
}

#[test]
fn what_is_said_of_other_hosts_goes_above_the_question() {
    let host = EmbeddedHost::start();
    let link = FaultyLink::start(host.addr());
    let Some((_sshd, mut rig, _key)) = locked(&["asks"]) else { return };
    rig.add_host("ready", &host);
    rig.edit_hosts(|file| {
        file.hosts.get_mut("ready").unwrap().port = Some(link.port());
        for host in file.hosts.values_mut() {
            host.groups = vec!["g".parse().unwrap()];
        }
    });
    // It connects when the question stands there.
    link.blackhole(true);
    let mut terminal = Terminal::control(&rig.occ(&["connect", "--group", "g"]), "");
    terminal.wait_for("Passphrase for ");
    link.blackhole(false);
    terminal.wait_for("[ready] Link");
    terminal.answer("Passphrase for ", PASSPHRASE);
    let (screen, code) = terminal.finish();
    assert_eq!(code, 0, "{screen}");
    assert!(screen.contains("\u{1b}[K[ready] Link"), "{screen:?}");

    // So are the lines of commands, whether they come at once or when they are too many to be kept.
    let restarted = |rig: &mut DaemonRig| {
        rig.terminate_daemon();
        rig.start_daemon(&[]);
    };
    let shared = Shared::new();
    for (args, last) in [(&["exec", "-v"][..], "2"), (&["exec"], "400")] {
        restarted(&mut rig);
        let asked = shared.at(last);
        let line = format!("until [ -e {} ]; do sleep 0.02; done; seq {last}", asked.display());
        let all = [args, &["--group", "g", "--", "sh", "-c", &line]].concat();
        let mut terminal = Terminal::control(&rig.occ(&all), "");
        terminal.wait_for("Passphrase for ");
        fs::write(&asked, "").unwrap();
        terminal.wait_for(&format!("[ready] {last}"));
        terminal.answer("Passphrase for ", PASSPHRASE);
        let (screen, code) = terminal.finish();
        assert_eq!(code, 0, "{screen}");
        assert!(screen.contains("\u{1b}[K[ready] 1"), "{screen:?}");
        assert!(!screen.contains("hosts): [ready]"), "{screen:?}");
    }
    // One that is withdrawn does not come back.
    restarted(&mut rig);
    let all = ["exec", "-v", "--group", "g", "--", "sh", "-c", "echo begun; exec sleep 1000"];
    let mut terminal = Terminal::control(&rig.occ(&all), "");
    terminal.wait_for("[ready] begun");
    terminal.wait_for("Passphrase for ");
    terminal.type_text("\u{3}");
    let (screen, code) = terminal.finish();
    assert_eq!(code, 130, "{screen}");
    let (_, after) = screen.rsplit_once("Passphrase for ").unwrap();
    assert!(after.contains("[ready] Error: interrupted"), "{screen:?}");
    assert!(!after.contains("hosts): ["), "{screen:?}");
}

#[test]
fn a_command_has_three_tries_whatever_is_dialled_for_it() {
    let Some((_sshd, _inner, rig, _key)) = behind_a_locked_bastion() else { return };
    let mut terminal = Terminal::control(&rig.occ(&["exec", "--host", "inner", "true"]), "");
    for _ in 0..3 {
        terminal.answer("Passphrase for ", "wrong");
    }
    let (screen, code) = terminal.finish();
    assert_eq!((code, screen.matches("Passphrase for ").count()), (5, 3), "{screen}");
    assert!(screen.contains("the answers were wrong"), "{screen}");

    // A key whose public part cannot be read, for both: it is asked for before anything is sent to either.
    let shared = KeyFile::generate_with(rig.home().join(".ssh/id_ecdsa"), "ecdsa", PASSPHRASE).path;
    let mut pem = std::process::Command::new("ssh-keygen");
    pem.args(["-q", "-p", "-m", "PKCS8", "-P", PASSPHRASE, "-N", PASSPHRASE, "-f"]).arg(&shared);
    assert!(pem.status().unwrap().success());
    fs::remove_file(shared.with_extension("pub")).unwrap();
    for name in ["bastion", "inner"] {
        set_key(&rig, name, None);
        let named = || look(&rig, name).config.identity_file;
        wait_until("the edit to be in force", GUARD, named, |named| named.is_none());
    }
    let mut terminal = Terminal::control(&rig.occ(&["exec", "--host", "inner", "true"]), "");
    for _ in 0..3 {
        terminal.answer("Passphrase for ", "wrong");
    }
    let (screen, code) = terminal.finish();
    assert_eq!((code, screen.matches("Passphrase for ").count()), (5, 3), "{screen}");
    // Another command has tries of its own.
    let mut terminal = Terminal::control(&rig.occ(&["unlock", shared.to_str().unwrap()]), "");
    terminal.answer("Passphrase for ", "wrong");
    terminal.answer("That passphrase is wrong.", PASSPHRASE);
    let (screen, code) = terminal.finish();
    assert_eq!(code, 0, "{screen}");
}

#[test]
fn a_hosts_new_settings_leave_the_question_that_others_wait_for_open() {
    let Some((_sshd, rig, _key)) = locked(&["a", "b"]) else { return };
    thread::scope(|scope| {
        let rig = &rig;
        let mut connecting = vec![scope.spawn(|| connect_listening(rig, "a", "a-test"))];
        let asked = prompt(rig, "a-test");
        connecting.push(scope.spawn(|| connect_listening(rig, "b", "b-test")));
        let waits = || look(rig, "b").question;
        wait_until("b to wait for it", GUARD, waits, |question| question.is_some());
        rig.write_config_toml("[hosts.a.connection]\nconnect_timeout = \"14s\"\n");
        wait_for("the new settings", GUARD, || {
            let log = rig.log();
            log.contains("the configuration of the connection changed").then_some(())
        });
        let both = || ["a", "b"].map(|name| look(rig, name).question.is_some());
        wait_until("both to wait for it", GUARD, both, |waits| *waits == [true; 2]);
        for client in ["a-test", "b-test"] {
            assert_eq!(prompts(rig, client), std::slice::from_ref(&asked));
        }
        assert_eq!(answer(rig, asked.id, json!({ "answer": PASSPHRASE })).status, 204);
        for connecting in connecting {
            let response = connecting.join().unwrap();
            assert_eq!(response.status, 200, "{}", response.text());
        }
    });
}

#[test]
fn a_question_is_withdrawn_when_the_last_who_waits_for_it_has_gone() {
    let Some((_sshd, rig, _key)) = locked(&["a"]) else { return };
    let mut terminal = Terminal::control(&rig.occ(&["connect", "--host", "a"]), "");
    terminal.wait_for("Passphrase for ");
    assert_eq!(post(&rig, "/v1/hosts/a/disconnect").status, 200);
    let open = || rig.http("GET", "/v1/prompts", &[], None).json()["prompts"].clone();
    assert_eq!(open(), json!([]));
    assert_eq!(look(&rig, "a").question, None);
    let (screen, code) = terminal.finish();
    assert_eq!(code, 5, "{screen}");
}

#[test]
fn occ_prompts_says_that_an_answer_was_wrong_and_asks_again() {
    let Some((_sshd, rig, _key)) = locked(&["a"]) else { return };
    let for_all = || {
        // Before that it says that another client is asked.
        let says = |text: &String| text.ends_with(" ago)\n");
        wait_until("the question to be for all", GUARD, || rig.occ_ok(&["prompts"]), says);
    };
    // In this order: an open key is asked for no more.
    for (answers, status) in [(["no"; 3].as_slice(), 409), (&["no", PASSPHRASE], 200)] {
        thread::scope(|scope| {
            let connecting = scope.spawn(|| connect_listening(&rig, "a", "a-test"));
            for_all();
            let mut terminal = Terminal::control(&rig.occ(&["prompts"]), "");
            let mut question = "Passphrase for ~/.ssh/locked";
            for text in answers {
                terminal.answer(question, text);
                question = "That passphrase is wrong.\nPassphrase for ~/.ssh/locked";
            }
            let (screen, code) = terminal.finish();
            assert_eq!(code, i32::from(status != 200), "{screen}");
            assert_eq!(screen.contains("it is not asked again"), status != 200, "{screen}");
            assert_eq!(connecting.join().unwrap().status, status);
        });
    }
}

#[test]
fn a_passphrase_is_refused_from_elsewhere_and_no_is_not_tried_as_one() {
    let Some((_sshd, rig, _key)) = locked(&["a"]) else { return };
    thread::scope(|scope| {
        let connecting = scope.spawn(|| connect_listening(&rig, "a", "a-test"));
        let id = prompt(&rig, "a-test").id.to_string();
        // It is everybody's after a while, and says which to decline.
        let is_for_all = |text: &String| text.starts_with(&format!("{id}: Passphrase for "));
        wait_until("it", GUARD, || rig.occ_ok(&["prompts"]), is_for_all);
        let allowed = rig.run_occ(&["prompts", "--allow", &id]);
        assert_eq!(allowed.code(), 2, "{allowed:?}");
        assert!(allowed.stderr.contains("is not one of yes or no"), "{allowed:?}");
        rig.occ_ok(&["prompts", "--deny", &id]);
        let problem = problem(&connecting.join().unwrap());
        assert!(problem.detail.contains("declined"), "{problem:?}");
    });
    assert!(prompts(&rig, "a-test").is_empty());
}

#[test]
fn a_command_whose_daemon_dies_at_a_question_was_not_started() {
    let Some((_sshd, mut rig, _key)) = locked(&["a"]) else { return };
    let mut terminal = Terminal::control(&rig.occ(&["exec", "--host", "a", "true"]), "");
    terminal.wait_for("(asked once for all hosts): ");
    rig.kill_daemon();
    let (screen, code) = terminal.finish();
    assert_eq!(code, 3, "{screen}");
    assert!(screen.contains("The command was not started."), "{screen}");
}

#[test]
fn the_lock_of_a_terminal_goes_with_who_asks_there() {
    let Some((_sshd, rig, _key)) = locked(&["a"]) else { return };
    let directory = rig.socket().parent().unwrap().to_owned();
    let locks = || {
        let names = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name());
        let names = names.map(|name| name.to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("terminal-")).collect::<Vec<_>>()
    };
    let mut killed = Terminal::control(&rig.occ(&["connect", "--host", "a"]), "");
    killed.wait_for("Passphrase for ");
    let mut terminal = Terminal::control(&rig.occ(&["connect", "--host", "a"]), "");
    terminal.wait_for("Passphrase for ");
    // That of one who asks elsewhere is left alone.
    assert_eq!(locks().len(), 2, "{:?}", locks());
    let occ = testkit::proc::marked(&rig.root().display().to_string());
    let occ = occ.into_iter().filter(|process| process.name() == "occ").collect::<Vec<_>>();
    assert_eq!(occ.len(), 2, "{occ:?}");
    for process in occ {
        process.signal(testkit::proc::Signal::KILL);
    }
    let _ended = (killed.finish(), terminal.finish());
    assert_eq!(locks().len(), 2, "{:?}", locks());
    let mut terminal = Terminal::control(&rig.occ(&["connect", "--host", "a"]), "");
    terminal.answer("Passphrase for ", PASSPHRASE);
    let (screen, code) = terminal.finish();
    assert_eq!(code, 0, "{screen}");
    assert_eq!(locks(), Vec::<String>::new());
}

#[test]
fn prompts_are_streamed_with_what_becomes_of_them() {
    let Some((_sshd, rig, _key)) = locked(&["a"]) else { return };
    let mut stream = UnixStream::connect(rig.socket()).unwrap();
    stream.set_read_timeout(Some(GUARD)).unwrap();
    let request = "GET /v1/prompts?client=a-test HTTP/1.1\r\nHost: localhost\r\n\
                   Accept: application/x-ndjson\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut lines = BufReader::new(stream).lines();
    let mut event = move || {
        let is_event = |line: &String| line.starts_with('{');
        let line = lines.by_ref().map(Result::unwrap).find(is_event).expect("the stream goes on");
        serde_json::from_str::<PromptEvent>(&line).unwrap()
    };
    thread::scope(|scope| {
        let connecting = scope.spawn(|| connect_listening(&rig, "a", "a-test"));
        let PromptEvent::Opened { prompt } = event() else { panic!() };
        assert_eq!(prompt.kind, PromptKind::Passphrase);
        assert_eq!(answer(&rig, prompt.id, json!({ "answer": PASSPHRASE })).status, 204);
        assert_eq!(event(), PromptEvent::Closed { id: prompt.id });
        assert_eq!(connecting.join().unwrap().status, 200);
    });
}

#[test]
fn an_unlocked_key_is_forgotten_after_its_time() {
    let Some((_sshd, rig, _key)) = locked(&["a"]) else { return };
    rig.write_config_toml("[security]\nkey_lifetime = \"2s\"\n");
    wait_for("the new settings", GUARD, || {
        rig.log().contains("occd.toml was read anew").then_some(())
    });
    thread::scope(|scope| {
        let connecting = scope.spawn(|| connect_listening(&rig, "a", "a-test"));
        let asked = prompt(&rig, "a-test");
        assert_eq!(answer(&rig, asked.id, json!({ "answer": PASSPHRASE })).status, 204);
        assert_eq!(connecting.join().unwrap().status, 200);
    });
    wait_for("the key to be forgotten", GUARD, || {
        rig.log().contains("a key was locked: its time is over").then_some(())
    });
    // What is connected stays; a new login needs the passphrase again.
    echoes(&rig, "a");
    let problem: Problem = problem(&post(&rig, "/v1/hosts/a/reconnect"));
    assert_eq!(problem.code, Code::InputNeeded, "{problem:?}");
}

#[test]
fn tokens_and_answers_are_validated() {
    let rig = {
        let mut rig = DaemonRig::new();
        rig.add_host("a", &EmbeddedHost::start());
        rig.start_daemon(&[]);
        rig
    };
    let long = "x".repeat(65);
    for token in ["", "a b", long.as_str(), "a;b"] {
        let answer = connect_listening(&rig, "a", token);
        assert_eq!((answer.status, problem(&answer).code), (400, Code::BadRequest), "{token:?}");
    }
    // Also where nothing is ever asked.
    for token in ["", "%", long.as_str()] {
        let answer = rig.http("DELETE", "/v1/default-host", &[("occ-prompts", token)], None);
        assert_eq!((answer.status, problem(&answer).code), (400, Code::BadRequest), "{token:?}");
    }
    for id in ["0", "99", "x", "-1"] {
        let path = format!("/v1/prompts/{id}");
        let answer = rig.http("POST", &path, &[], Some(json!({ "answer": "a" })));
        assert_eq!((answer.status, problem(&answer).code), (404, Code::PromptNotFound), "{id}");
    }
    for body in [json!({ "identity_file": "relative" }), json!({ "host": "-a" }), json!({})] {
        let answer = rig.http("POST", "/v1/unlock", &[LISTENS], Some(body.clone()));
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
    }
    let gone = rig.http("POST", "/v1/unlock", &[LISTENS], Some(json!({ "host": "nobody" })));
    assert_eq!(problem(&gone).code, Code::HostNotFound);
    let passwd =
        rig.http("POST", "/v1/unlock", &[], Some(json!({ "identity_file": "/etc/passwd" })));
    assert_eq!(problem(&passwd).code, Code::IdentityInvalid);
    assert!(!passwd.text().contains("root:"), "{}", passwd.text());
}

#[test]
fn occ_asks_on_the_terminal_without_showing_what_is_typed() {
    let Some((_sshd, rig, _key)) = locked(&["a"]) else { return };
    // Its streams are something else, as in a pipeline.
    let out = rig.root().join("out");
    let redirect = format!("<{} >{} 2>&1", "/dev/null", out.display());
    let command = rig.occ(&["exec", "--host", "a", "--", "echo", "hello"]);
    let mut terminal = Terminal::control(&command, &redirect);
    terminal.wait_for("Passphrase for ~/.ssh/locked (asked once for all hosts): ");
    assert!(!terminal.echoes());
    terminal.type_text("wrong\n");
    terminal.wait_for("That passphrase is wrong.\n");
    terminal.type_text(&format!("{PASSPHRASE}\n"));
    let (screen, code) = terminal.finish();
    assert_eq!(code, 0, "{screen}");
    assert!(!screen.contains("wrong\n\n") && !screen.contains(PASSPHRASE), "{screen}");
    assert_eq!(fs::read_to_string(out).unwrap(), "hello\n");
}

#[test]
fn what_is_typed_before_the_command_runs_is_the_answer_and_not_its_input() {
    let Some((_sshd, rig, _key)) = locked(&["a"]) else { return };
    let mut terminal = Terminal::control(&rig.occ(&["exec", "--host", "a", "--", "cat"]), "");
    terminal.wait_for("Passphrase for ");
    terminal.type_text(&format!("{PASSPHRASE}\n"));
    wait_until("the terminal to show what is typed", GUARD, || terminal.echoes(), |echo| *echo);
    wait_until("the command to run", GUARD, || look(&rig, "a").open_channels, |n| *n == 1);
    terminal.type_text("typed\n\u{4}");
    let (screen, code) = terminal.finish();
    assert_eq!(code, 0, "{screen}");
    // Once by the terminal, once by cat.
    assert_eq!(screen.matches("typed\n").count(), 2, "{screen}");
    assert!(!screen.contains(PASSPHRASE));
}

#[test]
fn nothing_is_written_over_an_open_question() {
    let Some((_sshd, rig, _key)) = locked(&["a"]) else { return };
    for args in [&["exec", "--host", "a", "--", "true"][..], &["reconnect", "--host", "a"]] {
        let mut terminal = Terminal::control(&rig.occ(args), "");
        terminal.wait_for("Passphrase for ");
        // By then a person would have been told long ago what is waited for.
        wait_until(
            "the question to be for all",
            GUARD,
            || rig.http("GET", "/v1/prompts", &[], None).json(),
            |list| list["prompts"].as_array().is_some_and(|list| !list.is_empty()),
        );
        terminal.type_text("\u{4}");
        let (screen, code) = terminal.finish();
        assert_eq!(code, 5, "{screen}");
        assert!(!screen.contains(" …"), "{screen}");
    }
}

#[test]
fn an_interrupted_question_leaves_the_terminal_as_it_was() {
    let Some((_sshd, rig, _key)) = locked(&["a"]) else { return };
    for args in [&["connect", "--host", "a"][..], &["exec", "--host", "a", "--", "true"]] {
        let mut terminal = Terminal::control(&rig.occ(args), "");
        terminal.wait_for("Passphrase for ");
        wait_until("the terminal to be silent", GUARD, || terminal.echoes(), |echo| !*echo);
        terminal.type_text("\u{3}");
        wait_until("the terminal to be as it was", GUARD, || terminal.echoes(), |echo| *echo);
        let (screen, code) = terminal.finish();
        assert_eq!(code, 130, "{screen}");
    }
}

#[test]
fn a_failure_begins_on_a_line_of_its_own() {
    let Some((_sshd, mut rig, _key)) = locked(&["a"]) else { return };
    let mut terminal = Terminal::control(&rig.occ(&["connect", "--host", "a"]), "");
    terminal.wait_for("(asked once for all hosts): ");
    rig.kill_daemon();
    let (screen, code) = terminal.finish();
    assert_eq!(code, 3, "{screen}");
    assert!(screen.contains(": \nError: occd "), "{screen}");
}

#[test]
fn unlock_without_a_name_opens_what_waits() {
    let Some((_sshd, rig, key)) = locked(&["a"]) else { return };
    let output = rig.run_occ(&["unlock"]);
    assert_eq!(output.code(), 2, "{output:?}");
    assert!(output.stderr.contains("name a host or a key file"), "{output:?}");
    assert_eq!(problem(&post(&rig, "/v1/hosts/a/connect")).code, Code::InputNeeded);
    let mut terminal = Terminal::control(&rig.occ(&["unlock"]), "");
    terminal.wait_for("Passphrase for ");
    terminal.type_text(&format!("{PASSPHRASE}\n"));
    let (screen, code) = terminal.finish();
    assert_eq!(code, 0, "{screen}");
    assert!(screen.contains(&format!("Unlocked: {}", key.path.display())), "{screen}");
}

#[test]
fn what_to_type_next_fits_who_was_asked() {
    let Some((_sshd, rig, key)) = locked(&["a"]) else { return };
    let path = key.path.to_str().unwrap();
    let mut terminal = Terminal::control(&rig.occ(&["unlock", path]), "");
    terminal.answer("Passphrase for ", "\u{4}");
    let (screen, code) = terminal.finish();
    assert_eq!(code, 5, "{screen}");
    assert!(screen.contains(&format!("hint: occ unlock {path} asks again\n")), "{screen}");
    let output = rig.run_occ(&["unlock", path]);
    let says = format!("hint: on a terminal: occ unlock {path} asks\n");
    assert!(output.stderr.contains(&says), "{output:?}");
}

#[test]
fn a_question_comes_again_without_showing_the_answer_when_occ_was_stopped() {
    let Some((_sshd, rig, _key)) = locked(&["a"]) else { return };
    let mut terminal = Terminal::control(&rig.occ(&["connect", "--host", "a"]), "");
    terminal.wait_for("Passphrase for ");
    wait_until("the terminal to be silent", GUARD, || terminal.echoes(), |echo| !*echo);
    let occ = wait_for("occ", GUARD, || {
        let all = testkit::proc::marked(&rig.root().display().to_string());
        all.into_iter().find(|process| process.name() == "occ")
    });
    // As a shell that has taken the terminal back does.
    occ.signal(testkit::proc::Signal::STOP);
    terminal.set_echo(true);
    occ.signal(testkit::proc::Signal::CONT);
    wait_until("the terminal to be silent again", GUARD, || terminal.echoes(), |echo| !*echo);
    terminal.type_text(&format!("{PASSPHRASE}\n"));
    let (screen, code) = terminal.finish();
    assert_eq!(code, 0, "{screen}");
    assert_eq!(screen.matches("Passphrase for ").count(), 2, "{screen}");
    assert!(!screen.contains(PASSPHRASE), "{screen}");
}

#[test]
fn several_occ_on_one_terminal_ask_one_after_the_other() {
    let Some((_sshd, rig, _key)) = locked(&["a", "b", "c"]) else { return };
    let mut script = rig.occ(&[]);
    let program = script.get_program().to_owned();
    script = {
        let mut shell = std::process::Command::new("sh");
        let run = "for h in a b c; do \"$0\" exec --host $h -- echo $h is done & done; wait";
        shell.args(["-c", run]).arg(program);
        shell.env_clear().envs(script.get_envs().filter_map(|(k, v)| Some((k, v?))));
        shell
    };
    let mut terminal = Terminal::control(&script, "");
    terminal.wait_for("Passphrase for ");
    wait_until("the terminal to be silent", GUARD, || terminal.echoes(), |echo| !*echo);
    terminal.type_text(&format!("{PASSPHRASE}\n"));
    for host in ["a", "b", "c"] {
        terminal.wait_for(&format!("{host} is done\n"));
    }
    wait_until("the terminal to be as it was", GUARD, || terminal.echoes(), |echo| *echo);
    let (screen, code) = terminal.finish();
    assert_eq!(code, 0, "{screen}");
    assert!(!screen.contains("wrong") && !screen.contains(PASSPHRASE), "{screen}");
}

#[test]
fn occ_unlock_and_occ_prompts_ask_and_no_input_asks_nothing() {
    let Some((_sshd, rig, key)) = locked(&["a"]) else { return };
    let refused = Terminal::control(&rig.occ(&["connect", "--host", "a", "--no-input"]), "");
    let (screen, code) = refused.finish();
    assert_eq!(code, 5, "{screen}");
    assert!(screen.contains("hint: ") && !screen.contains("Passphrase for"), "{screen}");
    assert_eq!(rig.occ_ok(&["prompts"]), "Nothing waits for an answer.\n");
    // Asked for by one client, answered by a person at another terminal.
    thread::scope(|scope| {
        let rig = &rig;
        let connecting = scope.spawn(|| connect_listening(rig, "a", "a-test"));
        wait_until(
            "the question to be for all",
            GUARD,
            || rig.occ_ok(&["prompts"]),
            |text| text.starts_with("1: Passphrase for ~/.ssh/locked") && text.contains(" ago)\n"),
        );
        let status = rig.occ_ok(&["status", "--host", "a"]);
        assert!(status.contains("waits for a person (occ prompts): Passphrase"), "{status}");
        // Enter leaves it to somebody else, and costs no try.
        let mut terminal = Terminal::control(&rig.occ(&["prompts"]), "");
        terminal.answer("Passphrase for ~/.ssh/locked", "");
        let (screen, code) = terminal.finish();
        assert!(code == 0 && screen.contains("It is left open."), "{screen}");
        let mut terminal = Terminal::control(&rig.occ(&["prompts"]), "");
        terminal.wait_for("Passphrase for ~/.ssh/locked");
        terminal.type_text(&format!("{PASSPHRASE}\n"));
        assert_eq!(terminal.finish().1, 0);
        assert_eq!(connecting.join().unwrap().status, 200);
    });
    assert!(rig.occ_ok(&["unlock", "--host", "a"]).starts_with("Nothing to unlock"));
    // A daemon that was started anew knows nothing.
    let mut rig = rig;
    rig.terminate_daemon();
    rig.start_daemon(&[]);
    let mut terminal = Terminal::control(&rig.occ(&["unlock", key.path.to_str().unwrap()]), "");
    terminal.wait_for("Passphrase for ~/.ssh/locked");
    terminal.type_text(&format!("{PASSPHRASE}\n"));
    let (screen, code) = terminal.finish();
    assert_eq!(code, 0, "{screen}");
    assert!(screen.contains(&format!("Unlocked: {}\n", key.path.display())), "{screen}");
    echoes(&rig, "a");
}

#[test]
fn an_unknown_host_key_is_asked_about_where_that_is_set() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let mut rig = DaemonRig::new();
    rig.add_host("a", &sshd);
    fs::write(rig.known_hosts_file(), "").unwrap();
    rig.write_config_toml("[connection]\nstrict_host_key_checking = \"ask\"\n");
    rig.start_daemon(&[]);
    let nobody = problem(&post(&rig, "/v1/hosts/a/connect"));
    assert_eq!(nobody.code, Code::InputNeeded, "{nobody:?}");
    for (says, code, recorded) in [("maybe\nno\n", 5, false), ("yes\n", 0, true)] {
        let mut terminal = Terminal::control(&rig.occ(&["connect", "--host", "a"]), "");
        terminal.wait_for("[a] The server shows ssh-ed25519 SHA256:");
        terminal.type_text(says);
        let (screen, ended) = terminal.finish();
        assert_eq!(ended, code, "{screen}");
        assert_eq!(screen.contains("Type yes or no"), !recorded, "{screen}");
        let known = fs::read_to_string(rig.known_hosts_file()).unwrap();
        assert_eq!(known.contains(&sshd.known_hosts_line()), recorded, "{known}");
    }
    echoes(&rig, "a");
}
