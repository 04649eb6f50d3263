//! Whether the sandbox answers, asked from its host's side of the wire.
//!
//! That its port can be connected to says little: Docker's own proxy listens there from the first moment.

use std::net::IpAddr;
use std::time::Duration;

use bollard::models::{ContainerInspectResponse, HealthStatusEnum};
use bollard::query_parameters::{InspectContainerOptions, LogsOptions};
use futures_util::StreamExt as _;
use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use occ_proto::container::SANDBOX_CONTAINER;
use occ_proto::text::sanitize;
use tokio::time::{Instant, sleep, timeout};

use super::engine::TcpError;
use super::objects::{self, WEB};
use super::session::Session;
use super::{Engine, SandboxError};

/// How long a sandbox may take to answer: systemd starts a lot in it.
const READY: Duration = Duration::from_secs(60);
/// How long a health check of the image's own may take to its first verdict: it runs every 30 s.
const HEALTHY: Duration = Duration::from_secs(180);
/// How long until it is asked again.
const AGAIN: Duration = Duration::from_millis(200);
/// How often one that has ended is looked at again, and when.
const ENDED_LOOKS: u32 = 3;
const ENDED_AGAIN: Duration = Duration::from_millis(700);
/// How often Docker may have started it again until it counts as one that does not work.
const RESTARTS: i64 = 3;
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(5);
/// How long what is beside the sandbox itself may take to answer, such as one that systemd starts when it is asked for.
const MOMENT: Duration = Duration::from_secs(3);
/// What of its last words is told.
const LAST_LINES: usize = 5;
/// How much of one line that is, in characters.
const LONGEST: usize = 1000;

/// What the image announces its password with.
const PASSWORD: &str = "one-time password";

/// How sure one has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// It answers.
    Ready,
    /// Its image's own check, where there is one, says so, too.
    Healthy,
}

/// Waits until the sandbox answers. Returns what a person should know about that.
pub(super) async fn wait(
    session: &mut Session,
    until: Until,
) -> Result<Option<String>, SandboxError> {
    session.progress.step("waiting for the sandbox to answer");
    let begun = Instant::now();
    let mut answers = false;
    let mut ended_looks = 0;
    loop {
        let container = inspect(session).await?.ok_or(SandboxError::NoSandbox)?;
        let state = container.state.clone().unwrap_or_default();
        if state.running != Some(true) || state.restarting == Some(true) {
            // Docker may start it again, as it is told to, also when Docker itself ends and starts.
            let tries = container.restart_count.unwrap_or(0);
            if ended_looks == ENDED_LOOKS || tries >= RESTARTS {
                let code = state.exit_code.unwrap_or(-1);
                return Err(SandboxError::Ended {
                    code,
                    log: last_words(session, LAST_LINES).await,
                });
            }
            ended_looks += 1;
            sleep(ENDED_AGAIN).await;
            continue;
        }
        ended_looks = 0;
        let health = state.health.as_ref().and_then(|health| health.status);
        if health == Some(HealthStatusEnum::UNHEALTHY) {
            let log = state.health.and_then(|health| health.log).unwrap_or_default();
            let said = log.last().and_then(|result| result.output.as_deref());
            let said = said.map(|said| without_password(&sanitize(said)));
            return Err(SandboxError::Unhealthy { log: said.into_iter().collect() });
        }
        let (address, port) = published(&container).unwrap_or_else(|| ("127.0.0.1".into(), 3000));
        if !answers {
            match timeout(ANSWER, ask(&session.engine, &address, port)).await {
                Ok(Ok(())) => answers = true,
                Ok(Err(TcpError::Forbidden)) => {
                    return Ok(Some(
                        "whether it answers was not looked at: the SSH server forbids forwarding"
                            .to_owned(),
                    ));
                }
                Ok(Err(_)) | Err(_) => {}
            }
        }
        let checked = !matches!(health, Some(HealthStatusEnum::STARTING));
        if answers && (checked || until == Until::Ready) {
            return Ok(None);
        }
        let within = if answers { HEALTHY } else { READY };
        if begun.elapsed() > within {
            return Err(SandboxError::Silent { port, within });
        }
        sleep(AGAIN).await;
    }
}

/// Returns once something answers over HTTP at that port of the host's, or why nothing does.
///
/// # Errors
/// When nothing does within a moment, or the port cannot be asked.
pub async fn answers(engine: &Engine, address: &str, port: u16) -> Result<(), TcpError> {
    let begun = Instant::now();
    loop {
        let error = match timeout(MOMENT, ask(engine, address, port)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => TcpError::Refused,
        };
        if error != TcpError::Refused || begun.elapsed() >= MOMENT {
            return Err(error);
        }
        sleep(AGAIN).await;
    }
}

/// Asks for anything over HTTP. Every answer is one.
async fn ask(engine: &Engine, address: &str, port: u16) -> Result<(), TcpError> {
    let stream = engine.tcp(address, port).await?;
    let asked = async {
        let (mut sender, http) = http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::builder()
            .uri("/")
            .header(hyper::header::HOST, format!("{address}:{port}"))
            .body(Empty::<Bytes>::new());
        let request = match request {
            Ok(request) => request,
            // Both are plain text of ours.
            Err(error) => unreachable!("{error}"),
        };
        let mut asked = std::pin::pin!(sender.send_request(request));
        let answered = tokio::select! {
            answer = &mut asked => answer.is_ok(),
            // With the answer, or without: Docker's proxy takes a connection for which there is nobody inside.
            _ended = http => asked.await.is_ok(),
        };
        Ok(answered)
    };
    match asked.await {
        Ok(true) => Ok(()),
        Ok(false) => Err(TcpError::Refused),
        Err::<_, hyper::Error>(_) => Err(TcpError::Refused),
    }
}

/// Returns the sandbox, if there is one.
pub(super) async fn inspect(
    session: &mut Session,
) -> Result<Option<Box<ContainerInspectResponse>>, SandboxError> {
    inspect_named(session, SANDBOX_CONTAINER).await
}

/// Returns a container of ours, if it is there.
///
/// # Errors
/// When one of that name is somebody else's, which is not to be touched.
pub(super) async fn inspect_named(
    session: &mut Session,
    name: &str,
) -> Result<Option<Box<ContainerInspectResponse>>, SandboxError> {
    let look = session
        .ask(async |docker| docker.inspect_container(name, None::<InspectContainerOptions>).await);
    match look.await {
        Ok(container) => {
            objects::check_ours(&container, name)?;
            Ok(Some(Box::new(container)))
        }
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns where a container's web port is reached on its host.
pub(super) fn published(container: &ContainerInspectResponse) -> Option<(String, u16)> {
    let bindings = container.host_config.as_ref()?.port_bindings.as_ref()?.get(WEB)?.as_ref()?;
    let binding = bindings.first()?;
    let port = binding.host_port.as_ref()?.parse().ok()?;
    Some((reached_at(binding.host_ip.as_deref().unwrap_or_default()), port))
}

/// Returns the address at which a host itself reaches a port that is bound to `bound` there.
pub(super) fn reached_at(bound: &str) -> String {
    match bound.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) if ip.is_unspecified() => "::1".to_owned(),
        Ok(ip) if !ip.is_unspecified() => ip.to_string(),
        _ => "127.0.0.1".to_owned(),
    }
}

/// Returns what the sandbox said last, so many lines of it at most.
pub(super) async fn last_words(session: &mut Session, lines: usize) -> Vec<String> {
    let options = LogsOptions {
        stdout: true,
        stderr: true,
        tail: lines.to_string(),
        ..LogsOptions::default()
    };
    let read = session.ask(async |docker| {
        let mut lines = docker.logs(SANDBOX_CONTAINER, Some(options.clone()));
        let mut text = Vec::new();
        while let Some(line) = lines.next().await {
            text.extend_from_slice(&line?.into_bytes());
        }
        Ok(text)
    });
    match read.await {
        Ok(text) => String::from_utf8_lossy(&text)
            .lines()
            .map(|line| without_password(&sanitize(line)).chars().take(LONGEST).collect::<String>())
            .filter(|line| !line.trim().is_empty())
            .collect(),
        Err(error) => {
            tracing::debug!(error = error.for_log(), "the sandbox's last words cannot be read");
            Vec::new()
        }
    }
}

/// Returns what the sandbox said without its one-time password, which the image prints: what is told of a failure is written
/// down, and the password nowhere.
fn without_password(line: &str) -> String {
    // As long as it was: only letters of ASCII change.
    match line.to_ascii_lowercase().find(PASSWORD) {
        Some(at) => format!("{}: …", &line[..at + PASSWORD.len()]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::container::LocalEngine;

    #[test]
    fn the_password_is_left_out_of_what_is_told() {
        for (said, told) in [
            ("INITIAL ONE-TIME PASSWORD (IOTP): sekr1t", "INITIAL ONE-TIME PASSWORD: …"),
            ("é one-time password=sekr1t for you", "é one-time password: …"),
            ("listening on 3000", "listening on 3000"),
        ] {
            assert_eq!(without_password(said), told);
        }
    }

    /// Returns how it is asked by a server that says so much and closes, many times.
    async fn asked(says: &'static str) -> Vec<bool> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let engine = Engine::Local(Arc::new(LocalEngine::at("/none".into(), TaskTracker::new())));
        let serve = async {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                assert!(client.read(&mut [0; 4096]).await.unwrap() > 0);
                client.write_all(says.as_bytes()).await.unwrap();
            }
        };
        let ask = async {
            let mut answers = Vec::new();
            for _ in 0..50 {
                answers.push(super::ask(&engine, "127.0.0.1", port).await.is_ok());
            }
            answers
        };
        tokio::select! {
            answers = ask => answers,
            () = serve => unreachable!(),
        }
    }

    #[tokio::test]
    async fn an_answer_counts_also_where_its_connection_ends_with_it() {
        for answer in [
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\n1.0",
            "HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.0 302 Found\r\nLocation: /x\r\n\r\n",
        ] {
            assert_eq!(asked(answer).await, [true; 50], "{answer:?}");
        }
        assert_eq!(asked("").await, [false; 50]);
    }
}
