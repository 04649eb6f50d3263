//! A write to a program ends when the program or its connection does, also while it waits for a window that
//! nobody opens any more. Tested on the channel itself: above it, the end of the output hides the writer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use occ_proto::{Address, HostConfig, HostName, UserName};
use occd::config::Config;
use occd::host::machine::ConnectionId;
use occd::prompts::Questions;
use occd::ssh::dial::{Dial, DialEnvironment, Steps};
use occd::ssh::hop::HopDemand;
use occd::ssh::seen::Seen;
use occd::ssh::{Closed, Connection};
use testkit::RealSshd;
use testkit::daemon::Target;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::support::GUARD;

/// Returns a connection to a server, whose keys it records in a home of its own.
async fn connect(target: Target, home: &std::path::Path) -> Arc<Connection> {
    let mut config = HostConfig::new(Address::new(&target.hostname).unwrap());
    config.port = Some(target.port);
    config.user = Some(UserName::new(&target.user).unwrap());
    config.identity_file = Some(target.key.display().to_string());
    let environment = DialEnvironment::alone(home);
    let questions = Arc::new(Questions::new(Arc::clone(&environment.prompts)));
    let settings = Config::default().effective(&HostName::new("h").unwrap()).dial;
    let tasks = TaskTracker::new();
    let mut steps = Steps::default();
    let dial = Dial {
        id: ConnectionId(1),
        name: None,
        config: &config,
        settings: &settings,
        demand: HopDemand::Command,
        used: None,
        lend_agent: false,
        looks_at_hop: false,
        questions: &questions,
        environment: &environment,
        seen: &Seen::default(),
        tasks: &tasks,
    };
    dial.run(&mut steps).await.unwrap()
}

/// Writes until a write has to wait, then lets `event` happen and returns how the write ended.
async fn stuck_write(connection: &Arc<Connection>, program: &str, event: impl FnOnce()) -> Closed {
    let (channel, _) = connection.session(false).await.unwrap();
    channel.request_exec(program.as_bytes()).await.unwrap();
    assert!(channel.accepted().await.unwrap());
    let writing = async {
        loop {
            // Far more in all than a window and the pipe behind it hold.
            if let Err(closed) = channel.write(Bytes::from(vec![0; 256 * 1024])).await {
                return closed;
            }
        }
    };
    tokio::pin!(writing);
    let early = timeout(Duration::from_secs(2), &mut writing).await;
    assert!(early.is_err(), "the write was to wait: {early:?}");
    event();
    timeout(GUARD, writing).await.expect("the write ends with its channel")
}

#[tokio::test]
async fn a_write_that_waits_ends_with_its_program() {
    if !RealSshd::require() {
        return;
    }
    let (sshd, home) = (RealSshd::start(), tempfile::tempdir().unwrap());
    let connection = connect(Target::from(&sshd), home.path()).await;
    let stop = home.path().join("stop");
    std::fs::write(&stop, "").unwrap();
    std::fs::set_permissions(home.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    // It reads nothing and ends when the file is gone.
    let program = format!("while [ -e {} ]; do sleep 0.05; done", stop.display());
    let closed = stuck_write(&connection, &program, || std::fs::remove_file(&stop).unwrap()).await;
    assert_eq!(closed, Closed::ByServer);
    connection.close().await;
}

#[tokio::test]
async fn a_write_that_waits_ends_with_its_connection() {
    if !RealSshd::require() {
        return;
    }
    let (sshd, home) = (RealSshd::start(), tempfile::tempdir().unwrap());
    let connection = connect(Target::from(&sshd), home.path()).await;
    let closed = stuck_write(&connection, "sleep 1000", || sshd.kill_sessions()).await;
    assert!(matches!(closed, Closed::Connection(_)), "{closed:?}");
}
