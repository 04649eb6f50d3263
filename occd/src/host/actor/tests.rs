use occ_proto::status::State;
use testkit::EmbeddedHost;
use testkit::daemon::Target;

use super::*;
use crate::config::Config;
use crate::host::Tries;
use crate::host::Unreachable;
use crate::prompts::Client;
use crate::ssh::error::chain;
use crate::ssh::ssh_config::Resolver;

fn context(home: &std::path::Path) -> Arc<HostContext> {
    let (recorder, _writer, _archive) = crate::history::open(home.join("state"));
    Arc::new(HostContext {
        use_changed: Arc::default(),
        dial: Arc::new(DialEnvironment::alone(home)),
        changes: Arc::default(),
        tasks: TaskTracker::new(),
        recorder,
        clock: Arc::default(),
        stop: CancellationToken::new(),
    })
}

/// The same for a clock that is stopped: a program takes time of its own, of which that knows nothing.
fn without_programs(home: &std::path::Path) -> Arc<HostContext> {
    let mut context = Arc::into_inner(context(home)).unwrap();
    let mut environment = Arc::into_inner(context.dial).unwrap();
    environment.resolver = Resolver::with_programs(home.to_owned(), Vec::new());
    context.dial = Arc::new(environment);
    Arc::new(context)
}

fn host(name: &str, server: &EmbeddedHost, context: &Arc<HostContext>) -> HostHandle {
    let target = Target::from(server);
    let mut config = HostConfig::new(occ_proto::Address::new(&target.hostname).unwrap());
    config.port = Some(target.port);
    config.user = Some(occ_proto::UserName::new(&target.user).unwrap());
    config.identity_file = Some(target.key.display().to_string());
    let name = HostName::new(name).unwrap();
    let settings = Config::default().effective(&name);
    spawn(name, config, settings, Arc::clone(context), None, CancellationToken::new())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_costs_one_host_its_connections_and_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let context = context(directory.path());
    let server = EmbeddedHost::start();
    let (a, b) = (host("a", &server, &context), host("b", &server, &context));
    let connect = async |host: &HostHandle| -> Result<Arc<Connection>, Unreachable> {
        host.connection(Tries::Retries(0), &Client::default()).await
    };
    let (of_a, of_b) = (connect(&a).await.unwrap(), connect(&b).await.unwrap());
    a.requests.send(HostRequest::Panic).await.unwrap();
    of_a.closed().cancelled().await;
    let mut snapshots = a.snapshot.clone();
    let anew = snapshots.wait_for(|snapshot| snapshot.state == State::Idle).await.unwrap();
    let (error, _) = anew.last_error.clone().unwrap();
    drop(anew);
    assert!(chain(error.as_ref()).contains("internal error"), "{error:?}");
    let again = connect(&a).await.unwrap();
    assert!(!again.is_closed() && !of_b.is_closed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_a_connection_that_was_found_dead() {
    let directory = tempfile::tempdir().unwrap();
    let context = context(directory.path());
    let server = EmbeddedHost::start();
    let host = host("a", &server, &context);
    let dead = host.connection(Tries::Retries(0), &Client::default()).await.unwrap();
    dead.kill(LossCause::Asleep);
    // Before the loop that serves it has come round to its end.
    let found_closed = dead.is_closed();
    let next = host.connection(Tries::Retries(0), &Client::default()).await.unwrap();
    assert!(found_closed && !Arc::ptr_eq(&dead, &next));
}

#[tokio::test(start_paused = true)]
async fn settings_that_stay_are_no_news_of_a_host_that_waits_for_its_next_dial() {
    let directory = tempfile::tempdir().unwrap();
    let context = without_programs(directory.path());
    let server = EmbeddedHost::start();
    let down = host("down", &server, &context);
    drop(server);
    let _ = down.connection(Tries::Retries(0), &Client::default()).await.unwrap_err();
    let before = down.snapshot();
    assert_eq!(before.state, State::Backoff);
    context.changes.take();
    let configure = async |config: &HostConfig| {
        down.configure(config.clone(), before.settings.clone()).await;
        (down.snapshot().revision > before.revision, context.changes.take().len())
    };
    assert_eq!(configure(&before.config).await, (false, 0));
    let described = HostConfig { description: Some("d".to_owned()), ..before.config.clone() };
    assert_eq!(configure(&described).await, (true, 1));
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_host_that_is_down_looks_again_before_the_backoff_does() {
    let directory = tempfile::tempdir().unwrap();
    let context = without_programs(directory.path());
    let server = EmbeddedHost::start();
    let down = host("down", &server, &context);
    // Nobody listens there any more.
    drop(server);
    let wait = Tries::Wait(Duration::from_secs(300));
    let error = down.connection(wait, &Client::default()).await.unwrap_err();
    // The backoff alone dials some sixteen times in these five minutes.
    assert!(error.attempts >= 40, "{error:?}");
}
