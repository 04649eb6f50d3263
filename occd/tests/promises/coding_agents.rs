//! Agents on a host: a conversation that a cut in its middle does not disturb, and their start by name.

use std::fs::Permissions;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use serde_json::{Value, json};
use testkit::fake_model::HALVES;
use testkit::require::{find_fetched, require};
use testkit::wait::blocking::wait_until;
use testkit::{FakeModel, RealSshd, free_port};

use crate::session::Far;
use crate::support::{GUARD, eventually};

/// Returns a directory that the login's user may write to.
fn open_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
    dir
}

/// Returns a fetched program where the login's user can reach it.
fn reachable(program: &Path, dir: &Path) -> PathBuf {
    let here = dir.join(program.file_name().unwrap());
    if std::fs::hard_link(program, &here).is_err() {
        std::fs::copy(program, &here).unwrap();
    }
    here
}

/// A client of an agent that speaks JSON by lines, over an attached session.
struct Conversation {
    occ: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Conversation {
    fn attach(far: &Far, session: &str) -> Self {
        let mut occ = far.rig.occ(&["session", "attach", session]);
        let mut occ = occ.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (occ.stdin.take().unwrap(), occ.stdout.take().unwrap());
        Self { occ, input, output: BufReader::new(output) }
    }

    fn send(&mut self, message: &Value) {
        writeln!(self.input, "{message}").unwrap();
    }

    /// Reads on until a message fits, and returns it.
    fn until(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "the agent said no more");
            let message: Value = serde_json::from_str(&line).unwrap();
            if fits(&message) {
                return message;
            }
        }
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        let _ = self.occ.kill();
        let _ = self.occ.wait();
    }
}

#[test]
fn a_conversation_with_codex_goes_on_over_a_cut() {
    let program = find_fetched("codex");
    let available = program.clone().map(drop);
    if !require("Codex from npm", available, "OCC_REQUIRE_AGENTS") {
        return;
    }
    let Some(far) = Far::start() else { return };
    let model = FakeModel::start();
    let dir = open_dir();
    let codex = reachable(&program.unwrap(), dir.path());
    let settings = format!(
        "model = \"fake\"\nmodel_provider = \"fake\"\napproval_policy = \"never\"\n\
         sandbox_mode = \"read-only\"\n[model_providers.fake]\nname = \"fake\"\n\
         base_url = \"{}\"\nwire_api = \"responses\"\n",
        model.base_url()
    );
    std::fs::write(dir.path().join("config.toml"), settings).unwrap();
    let home = dir.path().to_str().unwrap();
    let request = json!({
        "host": "h", "name": "codex", "cwd": home, "argv": [codex.to_str().unwrap(), "app-server"],
        "env": {"CODEX_HOME": home, "HOME": home},
    });
    let begun = far.call("POST", "", Some(request));
    assert_eq!(begun.status, 201, "{}", begun.text());

    let mut talk = Conversation::attach(&far, "codex");
    let client = json!({"clientInfo": {"name": "occ", "title": "occ", "version": "0"}});
    talk.send(&json!({"id": 1, "method": "initialize", "params": client}));
    let initialized = talk.until(|message| message["id"] == 1);
    assert!(initialized["result"]["userAgent"].as_str().unwrap().contains("occ/"));
    talk.send(&json!({"method": "initialized"}));
    talk.send(&json!({"id": 2, "method": "thread/start", "params": {}}));
    let thread = talk.until(|message| message["id"] == 2)["result"]["thread"]["id"].clone();
    let say = json!({"threadId": thread, "input": [{"type": "text", "text": "hello"}]});
    talk.send(&json!({"id": 3, "method": "turn/start", "params": say}));
    let is_delta = |message: &Value| message["method"] == "item/agentMessage/delta";
    let half = talk.until(is_delta);
    assert_eq!(half["params"]["delta"], HALVES[0]);

    // The link goes; the agent and its model go on meanwhile.
    far.link.refuse(true);
    far.link.reset_all();
    eventually("a host that is down", || {
        let status = far.rig.http("GET", "/v1/hosts/h", &[], None).json();
        status["state"] != "connected"
    });
    model.let_go();
    far.link.refuse(false);
    far.rig.occ_ok(&["reconnect", "--host", "h"]);

    // What was missed comes, once.
    assert_eq!(talk.until(is_delta)["params"]["delta"], HALVES[1]);
    let whole = talk.until(|message| {
        message["method"] == "item/completed" && message["params"]["item"]["type"] == "agentMessage"
    });
    assert_eq!(whole["params"]["item"]["text"], HALVES.concat());
    talk.until(|message| message["method"] == "turn/completed");
    assert_eq!(model.begun(), 1);

    // And the conversation goes on.
    model.let_go();
    let say = json!({"threadId": thread, "input": [{"type": "text", "text": "more"}]});
    talk.send(&json!({"id": 4, "method": "turn/start", "params": say}));
    talk.until(|message| message["method"] == "turn/completed");
    drop(talk);
    far.rig.occ_ok(&["session", "kill", "codex"]);
    far.wait_for_end("codex");
}

#[test]
fn a_conversation_with_opencode_through_a_forward_goes_on_over_a_cut() {
    let program = find_fetched("opencode");
    if !require("opencode from npm", program.clone().map(drop), "OCC_REQUIRE_AGENTS") {
        return;
    }
    let Some(far) = Far::start() else { return };
    let model = FakeModel::start();
    let dir = open_dir();
    let opencode = reachable(&program.unwrap(), dir.path());
    let settings = json!({
        "model": "fake/fake", "autoupdate": false, "share": "disabled",
        "provider": {"fake": {
            "npm": "@ai-sdk/openai-compatible", "name": "fake", "models": {"fake": {"name": "fake"}},
            "options": {"baseURL": model.base_url(), "apiKey": "none"},
        }},
    });
    let settings_file = dir.path().join("opencode.json");
    std::fs::write(&settings_file, settings.to_string()).unwrap();
    let home = dir.path().to_str().unwrap();
    let port = free_port().to_string();
    let request = json!({
        "host": "h", "name": "opencode", "cwd": home,
        "argv": [opencode.to_str().unwrap(), "serve", "--port", port],
        "env": {"HOME": home, "OPENCODE_CONFIG": settings_file, "OPENCODE_DISABLE_MODELS_FETCH": "1"},
    });
    let begun = far.call("POST", "", Some(request));
    assert_eq!(begun.status, 201, "{}", begun.text());
    let socket = far.rig.root().join("opencode.sock");
    let spec = format!("{}:127.0.0.1:{port}", socket.display());
    far.rig.occ_ok(&["forward", "add", "--host", "h", "-L", &spec]);
    let call = |method: &str, path: &str, body: Option<Value>| {
        let body = body.map(|body| body.to_string());
        testkit::http::request(&socket, method, path, &[], body.as_deref().map(str::as_bytes))
    };
    let said = || far.rig.occ_ok(&["session", "logs", "opencode"]);
    wait_until("opencode to listen", GUARD, said, |said| said.contains("listening on"));
    // With a title, since the model would be asked for one.
    let session = call("POST", "/session", Some(json!({"title": "hello"}))).unwrap().json();
    let session = format!("/session/{}", session["id"].as_str().unwrap());

    let mut events = UnixStream::connect(&socket).unwrap();
    events.write_all(b"GET /event HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut lines = BufReader::new(events).lines();
    let connected = lines.find(|line| line.as_ref().unwrap().contains("server.connected"));
    assert!(connected.is_some());
    let say = json!({
        "model": {"providerID": "fake", "modelID": "fake"},
        "parts": [{"type": "text", "text": "hello"}],
    });
    let asked = call("POST", &format!("{session}/prompt_async"), Some(say.clone())).unwrap();
    assert_eq!(asked.status, 204, "{}", asked.text());
    let half = lines.find(|line| line.as_ref().unwrap().contains(HALVES[0]));
    assert!(half.is_some());

    // The link goes, and with it what was open; opencode and its model go on meanwhile.
    far.link.refuse(true);
    far.link.reset_all();
    for line in lines {
        if line.is_err() {
            break;
        }
    }
    model.let_go();
    far.link.refuse(false);
    far.rig.occ_ok(&["reconnect", "--host", "h"]);

    // The forward is there again, and the whole answer.
    let answers = || {
        let messages = call("GET", &format!("{session}/message"), None);
        messages.map(|messages| messages.text()).unwrap_or_default()
    };
    eventually("the whole answer", || answers().contains(&HALVES.concat()));
    assert_eq!(model.begun(), 1);

    // And the conversation goes on.
    model.let_go();
    let answer = call("POST", &format!("{session}/message"), Some(say)).unwrap();
    assert!(answer.text().contains(&HALVES.concat()), "{}", answer.text());
    far.rig.occ_ok(&["session", "kill", "opencode"]);
    far.wait_for_end("opencode");
}

/// Makes a program of sh that says its version, and otherwise what it was started with.
fn stand_in(dir: &Path, name: &str) {
    let text =
        "#!/bin/sh\n[ \"$1\" = --version ] && echo \"it 9.9.9\" && exit\necho \"$0 $*\"; cat\n";
    let program = dir.join(name);
    std::fs::write(&program, text).unwrap();
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn an_agent_is_started_by_its_name_where_it_is_there() {
    if !RealSshd::require() {
        return;
    }
    let dir = open_dir();
    let path = format!("{}:/usr/bin:/bin", dir.path().display());
    let far = Far::at(RealSshd::builder().env("PATH", &path).start());
    let missing = far.rig.run_occ(&["agent", "start", "codex", "--host", "h"]);
    assert_eq!(missing.code(), 1, "{missing:?}");
    assert!(missing.stderr.contains("There is no codex in the PATH"), "{missing:?}");
    assert!(missing.stderr.contains("npm install -g @openai/codex"), "{missing:?}");

    stand_in(dir.path(), "codex");
    stand_in(dir.path(), "opencode");
    // Another version is here.
    let here = open_dir();
    let codex = here.path().join("codex");
    std::fs::write(&codex, "#!/bin/sh\necho it 1.0.0\n").unwrap();
    std::fs::set_permissions(&codex, Permissions::from_mode(0o755)).unwrap();
    let mut occ = far.rig.occ(&["agent", "start", "codex", "--host", "h"]);
    let output = occ.env("PATH", here.path()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}");
    assert!(told.contains("Note: codex is 9.9.9 on h, and 1.0.0 here."), "{told}");
    far.rig.occ_ok(&["session", "send", "codex", "--eof", "hello"]);
    far.wait_for_end("codex");
    let said = far.rig.occ_ok(&["session", "logs", "codex"]);
    assert!(said.ends_with("codex app-server\nhello\n"), "{said}");

    let args =
        ["agent", "start", "opencode", "--host", "h", "--name", "web", "--", "--port", "4096"];
    far.rig.occ_ok(&args);
    far.rig.occ_ok(&["session", "send", "web", "--eof"]);
    far.wait_for_end("web");
    let said = far.rig.occ_ok(&["session", "logs", "web"]);
    assert!(said.ends_with("opencode serve --hostname 127.0.0.1 --port 4096\n"), "{said}");
}
