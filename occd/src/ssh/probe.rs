//! What the daemon wants to know about a host, asked once per connection with one command, and again when an engine is
//! not where it was.
//!
//! The first command on a connection also makes OpenSSH's server set TCP_NODELAY, without which its
//! first answers to channel opens wait 40 ms for an acknowledgement.

use std::sync::Arc;
use std::time::Duration;

use occ_proto::exec::STDOUT;
use occ_proto::status::{DockerSocket, RemoteSystem, SystemUnknown};
use occ_proto::text::sanitize;
use tokio::time::timeout;

use super::connection::Connection;
use super::inbox::Closed;
use super::preamble::Preamble;

/// How long a host may take to answer; some login shells read slow start-up files.
const PROBE: Duration = Duration::from_secs(30);
/// What the answer ends with, and how long a server may take after that to close the channel; not all do.
const END: &[u8] = b"occ-probe end=1";
const CLOSE: Duration = Duration::from_secs(1);
/// The most bytes of an answer that are looked at.
const LIMIT: usize = 16 * 1024;

/// One line without quotes inside, so that every shell of the sh, csh and fish families hands it to
/// `sh` unchanged. Each program that it starts is a fork on a host that may log in hundreds at once, so there
/// are few. Its first line is what `say` of `preamble` says, which has double quotes with an argument inside.
/// `docker context` is asked only where one is chosen: starting the docker client takes 20 ms and more.
const SCRIPT: &str = concat!(
    "exec sh -c '",
    "echo; echo occ-script probe; ",
    "echo occ-probe shell=$SHELL; ",
    "printf \"occ-probe uname=\"; uname -sm; ",
    "command -v docker >/dev/null 2>&1 && echo occ-probe docker=1; ",
    "r=${XDG_RUNTIME_DIR:-/run/user/$(id -u)}; ",
    "c=${DOCKER_CONFIG:-$HOME/.docker}/config.json; ",
    "test -f $c && grep -q currentContext $c && ",
    "x=$(docker context inspect -f {{.Endpoints.docker.Host}} 2>/dev/null); ",
    "for s in ${DOCKER_HOST#unix://} ${x#unix://} /var/run/docker.sock ",
    "$r/docker.sock $HOME/.docker/run/docker.sock /run/podman/podman.sock ",
    "$r/podman/podman.sock; do ",
    "test -S \"$s\" || continue; ",
    "if test -r \"$s\" && test -w \"$s\"; then echo occ-probe usable=$s; ",
    "else echo occ-probe denied=$s; ",
    "w=$(stat -Lc %a:%U:%G \"$s\" 2>/dev/null || stat -Lf %Lp:%Su:%Sg \"$s\" 2>/dev/null) && ",
    "echo occ-probe whose=$w:$(id -nG); fi; done; echo occ-probe end=1'",
);

/// What came of asking.
#[derive(Debug)]
pub(super) struct Answer {
    /// What is known of the host. What it did not answer stays empty; that is not an error, because a host may
    /// allow nothing but one forced command, and be useful all the same.
    pub(super) system: RemoteSystem,
    /// It ran something else than it was asked to.
    pub(super) forced: bool,
}

impl Answer {
    /// Returns that of a host that has not said what it is.
    pub(super) fn none(why: SystemUnknown) -> Self {
        let system = RemoteSystem { unknown: Some(why), ..RemoteSystem::default() };
        Self { system, forced: why == SystemUnknown::ForcedCommand }
    }
}

/// Asks the host. In the background it counts as no work of the connection's.
pub(super) async fn run(connection: &Arc<Connection>, in_background: bool) -> Answer {
    match timeout(PROBE, ask(connection, in_background)).await {
        Ok(Ok(answer)) => {
            let system = parse(&answer);
            match system.shell.is_empty() {
                true => Answer::none(SystemUnknown::ForcedCommand),
                false => Answer { system, forced: false },
            }
        }
        Ok(Err(error)) => {
            tracing::debug!(error, "the probe failed");
            Answer::none(SystemUnknown::NoAnswer)
        }
        Err(_) => {
            tracing::debug!("the probe was not answered");
            Answer::none(SystemUnknown::NoAnswer)
        }
    }
}

async fn ask(connection: &Arc<Connection>, in_background: bool) -> Result<Vec<u8>, String> {
    let (channel, _) = connection.session(false).await.map_err(|e| e.to_string())?;
    if in_background {
        channel.in_background();
    }
    channel.request_exec(SCRIPT.as_bytes()).await.map_err(|e| format!("{e:?}"))?;
    if !channel.accepted().await.map_err(|e| format!("{e:?}"))? {
        return Err("refused".into());
    }
    channel.eof().await.map_err(|e| format!("{e:?}"))?;
    let (mut preamble, mut answer) = (Preamble::default(), Vec::new());
    let mut is_whole = false;
    while let Some(frame) = channel.recv().await {
        if frame.stream() != STDOUT || answer.len() >= LIMIT {
            continue;
        }
        // What runs something else may say what it likes.
        if let Ok(Some(data)) = preamble.pass(frame.data()) {
            answer.extend_from_slice(&data);
        }
        is_whole = answer.windows(END.len()).any(|part| part == END);
        if is_whole {
            break;
        }
    }
    let closed = channel.closed();
    if is_whole {
        // Either way, all is known.
        let _ = timeout(CLOSE, closed).await;
        return Ok(answer);
    }
    match closed.await {
        Closed::ByServer => Ok(answer),
        lost => Err(format!("{lost:?}")),
    }
}

fn parse(answer: &[u8]) -> RemoteSystem {
    let text = String::from_utf8_lossy(answer);
    let mut system = RemoteSystem::default();
    for line in text.lines() {
        let Some((key, value)) = line.strip_prefix("occ-probe ").and_then(|l| l.split_once('='))
        else {
            continue;
        };
        let value = sanitize(value.trim());
        match key {
            "shell" => system.shell = value,
            "uname" => {
                let (os, arch) = value.split_once(' ').unwrap_or((&value, ""));
                (system.os, system.arch) = (os.to_owned(), arch.to_owned());
            }
            "docker" => system.docker_cli = true,
            "usable" | "denied" => {
                let usable = key == "usable";
                if !system.docker_sockets.iter().any(|socket| socket.path == value) {
                    system.docker_sockets.push(DockerSocket { path: value, usable, whose: None });
                }
            }
            "whose" => {
                if let Some(socket) = system.docker_sockets.last_mut().filter(|s| !s.usable) {
                    socket.whose = whose(&value);
                }
            }
            _ => {}
        }
    }
    system
}

/// Returns who may use a socket, from its mode, its owner, its group and the groups of who may not: `660:root:docker:me`.
pub(crate) fn whose(line: &str) -> Option<String> {
    let mut fields = line.trim().splitn(4, ':');
    let mode = u32::from_str_radix(fields.next()?, 8).ok()?;
    let (owner, group) = (fields.next()?, fields.next()?);
    let groups = fields.next().unwrap_or_default();
    let whose = match mode & 0o060 {
        0o060 => format!("of the group {group}"),
        _ => format!("for its owner {owner} alone"),
    };
    // What opens Docker usually does not help here.
    let joined = groups.split(' ').any(|one| one == "docker");
    Some(sanitize(&if joined { format!("{whose}; the login is in docker") } else { whose }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_a_socket_is_depends_on_its_mode() {
        for (line, words) in [
            ("660:root:docker:me", "of the group docker"),
            ("660:root:wheel:me docker", "of the group wheel; the login is in docker"),
            ("600:root:root:me docker\n", "for its owner root alone; the login is in docker"),
            ("640:root:docker:me", "for its owner root alone"),
            ("755:me:me:", "for its owner me alone"),
        ] {
            assert_eq!(whose(line).unwrap(), words);
        }
        assert_eq!((whose(""), whose("660:root"), whose("?:a:b:c")), (None, None, None));
    }

    #[test]
    fn an_answer_is_read_line_by_line() {
        let system = parse(
            b"occ-probe shell=/bin/bash\nocc-probe uname=Linux x86_64\n\
              occ-probe docker=1\nocc-probe usable=/var/run/docker.sock\n\
              occ-probe usable=/var/run/docker.sock\nocc-probe denied=/run/podman/podman.sock\n\
              occ-probe whose=660:root:podman:me\n",
        );
        assert_eq!(system.docker_sockets[1].whose.as_deref(), Some("of the group podman"));
        assert_eq!(system.shell, "/bin/bash");
        assert_eq!((system.os.as_str(), system.arch.as_str()), ("Linux", "x86_64"));
        assert!(system.docker_cli);
        assert_eq!(system.docker_sockets.len(), 2);
        assert!(!system.docker_sockets[1].usable);
        assert_eq!(parse(b"\xff garbage"), RemoteSystem::default());
    }

    #[test]
    fn the_script_has_nothing_that_csh_or_fish_would_change() {
        let inner = SCRIPT.strip_prefix("exec sh -c '").unwrap().strip_suffix('\'').unwrap();
        assert!(!inner.contains(['\'', '!', '\n', '\\']));
    }
}
