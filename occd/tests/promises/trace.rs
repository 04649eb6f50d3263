//! A trace has what goes through a host's channels, and nothing of its logins; it ends, and is nobody else's.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use occ_proto::Code;
use occ_proto::trace::TraceRecord;
use serde_json::{Value, json};
use testkit::daemon::Target;
use testkit::proc::{Process, Signal};
use testkit::user::password_user;
use testkit::wait::blocking::{wait_for, wait_until};
use testkit::{DaemonRig, EmbeddedHost, RealSshd, Terminal};

use crate::ask::{GUARD, echoes, problem};

/// Starts `occ trace` and waits until its file is there.
pub(crate) fn start_trace(rig: &DaemonRig, host: &str, file: &Path) -> Child {
    let file = file.to_str().unwrap();
    let mut occ = rig.occ(&["trace", "--host", host, "--for", "10m", "-o", file]);
    let trace = occ.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the file of the trace", GUARD, || Path::new(file).exists().then_some(()));
    trace
}

/// Ends it as Ctrl-C does, and returns what it said on standard output and on standard error.
pub(crate) fn end_trace(mut trace: Child) -> (String, String) {
    Process::find(trace.id()).unwrap().signal(Signal::INT);
    let (mut out, mut err) = (String::new(), String::new());
    trace.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    trace.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!(trace.wait().unwrap().code(), Some(0), "{out}{err}");
    (out, err)
}

/// Returns what is in the file of a trace, with the bytes as they were.
pub(crate) fn traced(file: &Path) -> Vec<(TraceRecord, Vec<u8>)> {
    let of = |line: &str| {
        let record: TraceRecord = serde_json::from_str(line).unwrap();
        let bytes = STANDARD.decode(&record.bytes).unwrap();
        (record, bytes)
    };
    fs::read_to_string(file).unwrap().lines().map(of).collect()
}

#[test]
fn a_trace_has_the_channels_and_no_login() {
    if !RealSshd::require() {
        return;
    }
    let Some((user, password)) = password_user() else { return };
    let builder = RealSshd::builder().user(user);
    let settings = ["PasswordAuthentication yes", "AuthenticationMethods password"];
    let sshd = settings.iter().fold(builder, |builder, line| builder.config(*line)).start();
    let mut rig = DaemonRig::new();
    rig.add_host("a", &sshd);
    rig.write_config_toml("[hosts.a]\nauth = [\"password\"]\n");
    rig.start_daemon(&[]);
    let file = rig.home().join("trace.jsonl");
    let trace = start_trace(&rig, "a", &file);
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    let mut terminal = Terminal::control(&rig.occ(&["connect", "--host", "a"]), "");
    terminal.answer(&format!("Password for {user} on a: "), password);
    terminal.answer("Keep the password in ", "n");
    assert_eq!(terminal.finish().1, 0);
    let cat = json!({ "argv": ["cat"], "stdin": "what cat echoes" });
    assert_eq!(
        rig.http("POST", "/v1/hosts/a/exec", &[], Some(cat)).json()["stdout"],
        "what cat echoes"
    );
    let noise = json!({ "shell": "echo aside >&2; exit 3" });
    assert_eq!(rig.http("POST", "/v1/hosts/a/exec", &[], Some(noise)).json()["code"], 3);

    // One at a time, and never over a file or a link that is there.
    let request = |file: &Path| json!({ "for_ms": 60_000, "file": file });
    let ask = |file: &Path| rig.http("POST", "/v1/hosts/a/trace", &[], Some(request(file)));
    assert_eq!(problem(&ask(&rig.home().join("other"))).code, Code::TraceRunning);
    let (said, warned) = end_trace(trace);
    assert!(warned.contains("passwords included"), "{warned}");
    let records = traced(&file);
    let counted = format!("{}: {} records, ", file.display(), records.len());
    assert!(said.starts_with(&counted), "{said} is not {counted}");
    for (what, direction, kind, bytes) in [
        ("input", "out", "data", "what cat echoes"),
        ("output", "in", "data", "what cat echoes"),
        ("standard error", "in", "stderr", "aside\n"),
        ("a command", "out", "exec", "cat"),
        ("an exit", "in", "exit", "3"),
    ] {
        let is_it = |(record, found): &(TraceRecord, Vec<u8>)| {
            let found = String::from_utf8_lossy(found);
            (&*record.direction, &*record.kind) == (direction, kind) && found.contains(bytes)
        };
        assert!(records.iter().any(is_it), "{what}: {records:#?}");
    }
    let times: Vec<_> = records.iter().map(|(record, _)| record.time).collect();
    assert!(times.is_sorted() && records.iter().all(|(record, _)| record.connection > 0));
    let all: Vec<u8> = records.into_iter().flat_map(|(_, bytes)| bytes).collect();
    assert!(!String::from_utf8_lossy(&all).contains(password));
    let size = fs::metadata(&file).unwrap().len();
    echoes(&rig, "a");
    assert_eq!(fs::metadata(&file).unwrap().len(), size, "nothing after its end");

    assert_eq!(problem(&ask(&file)).code, Code::FileExists);
    let link = rig.home().join("link");
    std::os::unix::fs::symlink(rig.home().join("elsewhere"), &link).unwrap();
    assert_eq!(problem(&ask(&link)).code, Code::FileExists);
    assert!(!rig.home().join("elsewhere").exists());
    assert_eq!(problem(&ask(Path::new("/tmp/occ-trace.jsonl"))).code, Code::PermissionDenied);
    assert_eq!(problem(&ask(Path::new("trace.jsonl"))).code, Code::BadRequest);
}

#[test]
fn a_trace_ends_by_itself_and_with_its_client() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("h", Target::from(&host));
    rig.start_daemon(&[]);
    let said = rig.occ_ok(&["trace", "--host", "h", "--for", "200ms", "--json"]);
    let events: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [started, ended] = &events[..] else { panic!("{said}") };
    assert_eq!(
        (&started["event"], &ended["event"], &ended["why"]),
        (&json!("started"), &json!("ended"), &json!("time"))
    );
    let traces = rig.paths().state_dir().unwrap().join("traces");
    assert!(
        Path::new(started["file"].as_str().unwrap()).starts_with(traces.canonicalize().unwrap()),
        "{started}"
    );

    let file = rig.home().join("trace.jsonl");
    let mut client = start_trace(&rig, "h", &file);
    client.kill().unwrap();
    client.wait().unwrap();
    let again = rig.home().join("again.jsonl");
    let request = json!({ "for_ms": 1, "file": again });
    let ask = || rig.http("POST", "/v1/hosts/h/trace", &[], Some(request.clone())).status;
    wait_until("the end of the trace", GUARD, ask, |status| *status == 200);
    assert_eq!(rig.http("DELETE", "/v1/hosts/h/trace", &[], None).status, 204);
}
