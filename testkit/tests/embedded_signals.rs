//! Signals to the embedded host's programs: OpenSSH's client cannot send them, russh's can.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use std::sync::Arc;
use std::time::Duration;

use russh::client::{Config, Handle, Handler, connect};
use russh::keys::{PrivateKeyWithHashAlg, PublicKeyOrCertificate, load_secret_key};
use russh::{Channel, ChannelMsg, Sig, client};
use testkit::wait::wait_until;
use testkit::{EmbeddedHost, proc};

const DEADLINE: Duration = Duration::from_secs(20);

struct Anything;

impl Handler for Anything {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        _key: &PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

async fn login(host: &EmbeddedHost) -> Handle<Anything> {
    let mut handle = connect(Arc::new(Config::default()), host.addr(), Anything).await.unwrap();
    let key = Arc::new(load_secret_key(host.client_key_path(), None).unwrap());
    let key = PrivateKeyWithHashAlg::new(key, None);
    assert!(handle.authenticate_publickey(host.user(), key).await.unwrap().success());
    handle
}

/// Starts a script and waits for its first line.
async fn start(handle: &Handle<Anything>, script: &str) -> Channel<client::Msg> {
    let mut channel = handle.channel_open_session().await.unwrap();
    channel.exec(true, format!("{script}\necho up; while :; do sleep 0.05; done")).await.unwrap();
    while !matches!(channel.wait().await.unwrap(), ChannelMsg::Data { .. }) {}
    channel
}

/// Returns what the server says until it closes the channel: output, exit code, signal.
async fn end(channel: &mut Channel<client::Msg>) -> (String, Option<u32>, Option<String>) {
    let (mut output, mut code, mut signal) = (Vec::new(), None, None);
    while let Some(message) = channel.wait().await {
        match message {
            ChannelMsg::Data { data } => output.extend_from_slice(&data),
            ChannelMsg::ExitStatus { exit_status } => code = Some(exit_status),
            ChannelMsg::ExitSignal { signal_name, .. } => signal = Some(format!("{signal_name:?}")),
            _ => {}
        }
    }
    (String::from_utf8(output).unwrap(), code, signal)
}

#[tokio::test]
async fn signals_reach_the_whole_group_unless_they_are_ignored() {
    let host = EmbeddedHost::start();
    let handle = login(&host).await;

    let mut channel = start(&handle, "trap 'echo got; exit 5' TERM").await;
    channel.signal(Sig::TERM).await.unwrap();
    assert_eq!(end(&mut channel).await, ("got\n".to_owned(), Some(5), None));

    let mut channel = start(&handle, "sleep 1000 &").await;
    channel.signal(Sig::KILL).await.unwrap();
    // The background program holds the output open: its end too is needed for the channel to close.
    assert_eq!(end(&mut channel).await, (String::new(), None, Some("KILL".to_owned())));

    host.ignore_signals(true);
    let channel = start(&handle, "").await;
    channel.signal(Sig::KILL).await.unwrap();
    // A later command on the same connection is answered after the signal was taken.
    drop(start(&handle, "").await);
    let mark = format!("OCC_TESTKIT={}", host.home().display());
    let shells = || proc::marked(&mark).into_iter().filter(|p| p.name() == "sh").count();
    wait_until("two shells", DEADLINE, async || shells(), |n| *n == 2).await;
    // A channel that its client closes takes its programs with it.
    channel.close().await.unwrap();
    wait_until("one shell", DEADLINE, async || shells(), |n| *n == 1).await;
    assert_eq!(host.open_channels(), 1);
}
