//! Forwards for sessions whose programs print a local URL: what a web server on a host says of itself is then true here, too.

use std::sync::Arc;

use occ_proto::forward::{Direction, Endpoint, Spec};
use occ_proto::session::{OutputStream, Session, SessionState};

use super::App;
use super::extract::host_named;
use super::sessions::handle;
use crate::config::Feature;
use crate::forward::AddError;
use crate::host::{HostHandle, Tries};
use crate::policy::Request;
use crate::prompts::Client;
use crate::session::{Event, Forwarded, LocalUrl, Scanner, Wanted};

/// How many ports of one session are forwarded. Output may be made to look like anything.
const PORTS: usize = 16;
/// How far from the host's port one of this machine is looked for.
const NEARBY: u16 = 20;

/// Goes on with those that a daemon before this one followed.
pub fn restore(app: &Arc<App>) {
    for session in app.sessions.known() {
        // Of what was printed long ago, the forwards are remembered.
        begin(app, &session, "lines:200");
    }
}

/// Follows a session's output for as long as it runs, if that is wished for it.
pub(super) fn follow(app: &Arc<App>, session: &Session) {
    begin(app, session, "0");
}

fn begin(app: &Arc<App>, session: &Session, from: &'static str) {
    let Some(name) = session.host.host().filter(|_| session.info.forward_urls) else { return };
    if session.state != SessionState::Running {
        return;
    }
    let (id, name) = (session.info.id.clone(), name.to_string());
    let owner = Arc::clone(app);
    app.tasks.spawn(async move {
        let app = owner;
        let work = watch(&app, &id, name, from);
        // With the daemon, the forwards stay.
        if app.stop.run_until_cancelled(work).await.is_some()
            && let Err(error) = app.forwards.remove_of_session(&id).await
        {
            tracing::error!(session = id, %error, "the forwards of a session stay remembered");
        }
    });
}

/// Returns when the program has ended.
async fn watch(app: &Arc<App>, id: &str, name: String, from: &str) {
    let host = host_named(app, name);
    let session = handle(app, id, Client::default()).await;
    let (Ok(host), Ok((session, _))) = (host, session) else { return };
    let wanted = Wanted { stdout: from.to_owned(), stderr: from.to_owned(), on: true };
    let mut events = session.follow(&app.sessions, wanted);
    let mut scanners = [Scanner::default(), Scanner::default()];
    let mut found: Vec<LocalUrl> = Vec::new();
    while let Some(event) = events.recv().await {
        match event {
            Event::Output { stream, data, .. } => {
                let scanner = &mut scanners[usize::from(stream == OutputStream::Stderr)];
                for url in scanner.push(&data) {
                    let known = found.iter().any(|known| known.port == url.port);
                    if known || found.len() == PORTS {
                        continue;
                    }
                    // Whoever started it was allowed to; the policy may be another by now.
                    let permitted = app
                        .guard
                        .check_feature(Feature::LocalForwards)
                        .and_then(|()| app.guard.still_permits(host.name(), &Request::Forward));
                    // Its address may have a token, which is not for the log.
                    if let Err(denied) = permitted {
                        tracing::warn!(session = id, port = url.port, %denied, "no forward");
                        continue;
                    }
                    match forward(app, &host, id, &url).await {
                        Ok(port) => {
                            let here = url.at(port);
                            session.tell(Forwarded { url: url.url.clone(), here });
                        }
                        Err(error) => {
                            tracing::warn!(session = id, port = url.port, %error, "no forward");
                        }
                    }
                    found.push(url);
                }
            }
            Event::Ended(..) => return,
            Event::Failed(failure) => {
                tracing::info!(session = id, %failure, "its URLs are forwarded no more");
                return;
            }
            Event::Attached { .. }
            | Event::Gap { .. }
            | Event::NoSpace(_)
            | Event::Paused(_)
            | Event::CaughtUp => {}
        }
    }
}

/// Returns the port of this machine: the host's if it is free, else one nearby.
async fn forward(
    app: &App,
    host: &HostHandle,
    session: &str,
    url: &LocalUrl,
) -> Result<u16, AddError> {
    let to = Endpoint::Tcp { host: url.address.to_owned(), port: url.port };
    if let Some(port) = app.forwards.of_session(session, &to) {
        return Ok(port);
    }
    let mut port = url.port.max(1024);
    let last = port.saturating_add(NEARBY);
    loop {
        let listen = Endpoint::Tcp { host: "127.0.0.1".to_owned(), port };
        let spec = Spec { direction: Direction::Local, listen, to: Some(to.clone()) };
        let how = (Tries::default(), &Client::default());
        match app.forwards.add(host, spec, Some(session), how).await {
            Ok(_) => return Ok(port),
            Err(AddError::Bind(_) | AddError::Own { .. }) if port < last => port += 1,
            Err(error) => return Err(error),
        }
    }
}
