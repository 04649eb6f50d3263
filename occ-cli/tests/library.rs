//! What programs may link: requests by type, commands as they run, and events over a restart of the daemon.

use occ_cli::daemon::Daemon;
use occ_proto::Code;
use occ_proto::event::Change;
use occ_proto::exec::{Bytes, ExecEvent, ExecRequest};
use occ_proto::status::{HostList, HostStatus, State};
use testkit::{DaemonRig, RealSshd};

#[tokio::test]
async fn a_program_asks_runs_and_follows() {
    if !RealSshd::require() {
        return;
    }
    let sshd = RealSshd::start();
    let mut rig = DaemonRig::new();
    rig.add_host("h", &sshd);
    rig.start_daemon(&[]);
    let daemon = Daemon::connect(Some(rig.socket())).await.unwrap();
    let mut events = daemon.events("kind=host", None).await.unwrap();
    assert!(matches!(events.next().await.unwrap().change, Change::Snapshot(_)));

    let list: HostList = daemon.get("/v1/hosts").await.unwrap();
    let host = list.hosts[0].name.clone();
    let request = ExecRequest {
        argv: ["sh", "-c", "echo hello; exit 3"].map(Bytes::from).to_vec(),
        ..ExecRequest::default()
    };
    let mut command = daemon.exec(&host, &request).await.unwrap();
    let mut said = Vec::new();
    let exit = loop {
        match command.next().await.unwrap().expect("an end") {
            ExecEvent::Stdout { data } => said.extend(data.0),
            ExecEvent::Exit(exit) => break exit,
            _ => {}
        }
    };
    assert_eq!((&said[..], exit.status()), (&b"hello\n"[..], 3));
    assert_eq!(command.next().await.unwrap(), None);

    let error = daemon.get::<HostStatus>("/v1/hosts/nobody").await.unwrap_err();
    assert_eq!(error.code(), Some(Code::HostNotFound));
    assert_eq!(error.problem().unwrap().status, 404);
    let gone: HostStatus =
        daemon.request("POST", "/v1/hosts/h/disconnect", None::<&()>).await.unwrap();
    assert_eq!(gone.name, host);
    daemon.request::<()>("DELETE", "/v1/hosts/h?force=true", None::<&()>).await.unwrap();
    assert!(daemon.sessions().await.unwrap().list().await.unwrap().is_empty());
    loop {
        if let Change::Host { status: None, .. } = events.next().await.unwrap().change {
            break;
        }
    }
    assert!(events.seen().is_some());

    // Events go on; what happened meanwhile is a new snapshot.
    rig.kill_daemon();
    rig.add_host("other", &sshd);
    rig.start_daemon(&[]);
    loop {
        if let Change::Snapshot(all) = events.next().await.unwrap().change {
            assert_eq!(all.hosts.unwrap()[0].name.as_str(), "other");
            break;
        }
    }
    let status: HostStatus =
        daemon.post("/v1/hosts/other/connect", &serde_json::json!(null)).await.unwrap();
    assert_eq!(status.state, State::Connected);
}
