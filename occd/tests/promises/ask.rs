//! Asking a rig's daemon, with the wire's own types.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use occ_proto::Problem;
use occ_proto::status::{HostList, HostStatus, LastError, State};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use testkit::DaemonRig;
use testkit::http::Response;
use testkit::wait::blocking::{wait_for, wait_until};

/// Guards a test against hanging. What is waited for takes a fraction of it.
pub(crate) const GUARD: Duration = Duration::from_secs(60);

/// Returns an answer's body.
pub(crate) fn body<T: DeserializeOwned>(response: &Response) -> T {
    serde_json::from_slice(&response.body)
        .unwrap_or_else(|e| panic!("status {}, {e}: {}", response.status, response.text()))
}

/// Returns the problem that an answer is, after checking that it is one in every respect.
pub(crate) fn problem(response: &Response) -> Problem {
    let text = response.text();
    assert!(response.status >= 400, "not a problem: {} {text}", response.status);
    assert_eq!(response.header("content-type"), Some("application/problem+json"), "{text}");
    let problem: Problem = body(response);
    assert_eq!(problem.status, response.status, "{text}");
    assert!(!problem.detail.is_empty() && !problem.detail.contains('\n'), "{text}");
    problem
}

/// Returns the list of hosts. Unlike a look at one host it starts no dial.
pub(crate) fn list(rig: &DaemonRig) -> HostList {
    let response = rig.http("GET", "/v1/hosts", &[], None);
    assert_eq!(response.status, 200, "{}", response.text());
    body(&response)
}

/// Returns a host as it is, without starting a dial.
pub(crate) fn look(rig: &DaemonRig, host: &str) -> HostStatus {
    let found = list(rig).hosts.into_iter().find(|status| status.name.as_str() == host);
    found.unwrap_or_else(|| panic!("{host} is not in the list"))
}

/// Returns the host once it is in `state`.
pub(crate) fn in_state(rig: &DaemonRig, host: &str, state: State) -> HostStatus {
    let what = format!("{host} to be {}", state.as_str());
    wait_until(&what, GUARD, || look(rig, host), |status| status.state == state)
}

/// Returns the host once what every new connection is asked for has been answered. The question is a command on the
/// server, and it comes when it suits the other dials: a test that counts commands waits for it first.
pub(crate) fn probed(rig: &DaemonRig, host: &str) -> HostStatus {
    wait_until("the probe's answer", GUARD, || look(rig, host), is_probed)
}

pub(crate) fn is_probed(status: &HostStatus) -> bool {
    status.connection.as_ref().is_some_and(|connection| connection.system.is_some())
}

/// Returns the failure that the host shows once it is in `state`.
pub(crate) fn failure(rig: &DaemonRig, host: &str, state: State) -> LastError {
    in_state(rig, host, state).last_error.expect("a reason for the state")
}

/// Sends a POST without a body.
pub(crate) fn post(rig: &DaemonRig, path: &str) -> Response {
    rig.http("POST", path, &[], None)
}

/// Connects and returns the host as it is then.
pub(crate) fn connect(rig: &DaemonRig, host: &str) -> HostStatus {
    let response = post(rig, &format!("/v1/hosts/{host}/connect"));
    assert_eq!(response.status, 200, "{}", response.text());
    body(&response)
}

/// Runs a program on the host.
pub(crate) fn exec(rig: &DaemonRig, host: &str, argv: &[&str]) -> Response {
    rig.http("POST", &format!("/v1/hosts/{host}/exec"), &[], Some(json!({ "argv": argv })))
}

/// Asks for a command with one header more, and waits for nothing.
pub(crate) fn begin_exec(rig: &DaemonRig, host: &str, header: &str, asked: &Value) -> UnixStream {
    let mut client = UnixStream::connect(rig.socket()).unwrap();
    client.set_read_timeout(Some(GUARD)).unwrap();
    let asked = asked.to_string();
    write!(
        client,
        "POST /v1/hosts/{host}/exec HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         {header}\r\ncontent-length: {}\r\n\r\n{asked}",
        asked.len()
    )
    .unwrap();
    client
}

/// Runs `echo` on the host and checks that it was that host which answered.
pub(crate) fn echoes(rig: &DaemonRig, host: &str) {
    let response = exec(rig, host, &["echo", "it", "works"]);
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.json()["stdout"], "it works\n");
}

/// Returns when a host that has nothing to do with the test has been dialled `count` more times: long
/// enough for one that retries by itself to have done so.
pub(crate) fn meanwhile(rig: &DaemonRig, other: &Clock, count: u64) {
    let before = other.0.connections();
    post(rig, &format!("/v1/hosts/{}/reconnect", Clock::HOST));
    wait_for("another host to be dialled again and again", GUARD, || {
        (other.0.connections() >= before + count).then_some(())
    });
}

/// A host that can never be reached and is therefore dialled for ever, see [`meanwhile`].
#[derive(Debug)]
pub(crate) struct Clock(testkit::EmbeddedHost);

impl Clock {
    const HOST: &str = "clock";

    /// What occd.toml needs for the clock to tick: ten times a second.
    pub(crate) const CONFIG: &str = "[hosts.clock.connection]\nmax_backoff = \"100ms\"\n";

    /// Adds the clock to a rig that has not been started.
    pub(crate) fn add(rig: &DaemonRig) -> Self {
        let host = testkit::EmbeddedHost::start();
        host.drop_during_auth(true);
        rig.add_host(Self::HOST, &host);
        Self(host)
    }
}
