//! Following a host's sandbox by Docker's event stream, from one connection to the next.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptions;
use futures_util::StreamExt as _;
use jiff::Timestamp;
use occ_proto::container::{ContainerStatus, SANDBOX_CONTAINER};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::memory::{Keeper, Known};
use super::objects::SET_ASIDE;
use super::{Docker, DockerError, disk, sandbox};
use crate::host::HostHandle;
use crate::ssh::Connection;

/// How long until the disk is looked at again.
const DISK: Duration = Duration::from_secs(3600);
/// The same for a sandbox that is new.
const DISK_MIN: Duration = Duration::from_secs(10);
/// How long until an engine that does not answer is asked again, at first and at most. As it doubles, one that is back is
/// seen after no longer than it was away; each time costs the host two programs.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(300);
/// The same for a host that has no Docker: most never have one, and there may be a thousand of them.
const RETRY_MISSING: Duration = Duration::from_secs(600);

/// Keeps what is known of a host's sandbox up to date, as long as there is the host. `answered` says that its engine
/// has answered somebody else.
pub(super) async fn follow(host: &HostHandle, known: &Keeper, answered: &Notify) {
    while let Some(connection) = host.next_connection().await {
        let closed = connection.closed();
        // A bulk stream is read at its reader's pace, and has the connection for itself.
        let bulk = connection.bulk();
        let socket = host.snapshot().settings.docker_socket.clone();
        let goes_on = tokio::select! {
            () = on(host, &connection, known, answered) => false,
            () = closed.cancelled() => false,
            () = bulk.cancelled() => false,
            () = host.docker_socket_other_than(socket.as_deref()) => true,
        };
        known.modify(|known| {
            known.live = false;
            known.error = None;
            if let Some(status) = &mut known.status {
                status.as_of = Timestamp::now();
            }
        });
        if !goes_on {
            // The next connection is another one.
            host.other_than(&connection).await;
        }
    }
}

/// The same on one connection.
async fn on(host: &HostHandle, connection: &Arc<Connection>, known: &Keeper, answered: &Notify) {
    let mut pause = RETRY;
    loop {
        let mut was_live = false;
        // In a box: there may be a thousand hosts, most of them without Docker.
        let error = Box::pin(events(host, connection, known, &mut was_live)).await.err();
        let is_missing = matches!(error, Some(DockerError::Missing));
        if let Some(error) = error {
            tracing::debug!(host = %host.name(), error = error.for_log(), "the sandbox is not followed");
            known.modify(|known| {
                if std::mem::take(&mut known.live)
                    && let Some(status) = &mut known.status
                {
                    status.as_of = Timestamp::now();
                }
                if is_missing {
                    known.status = None;
                }
                known.error = Some(Arc::new(error));
            });
        }
        pause = if was_live { RETRY } else { (pause * 2).min(RETRY_MAX) };
        tokio::select! {
            () = sleep(if is_missing { RETRY_MISSING } else { pause }) => {}
            () = answered.notified() => pause = RETRY,
        }
    }
}

/// Follows until the stream of events ends.
async fn events(
    host: &HostHandle,
    connection: &Arc<Connection>,
    known: &Keeper,
    was_live: &mut bool,
) -> Result<(), DockerError> {
    let socket = host.snapshot().settings.docker_socket.clone();
    let docker = Box::pin(Docker::connect(connection, socket.as_deref(), None)).await?;
    let filters = HashMap::from([
        ("type".to_owned(), vec!["container".to_owned()]),
        ("container".to_owned(), vec![SANDBOX_CONTAINER.to_owned(), SET_ASIDE.to_owned()]),
    ]);
    let options = EventsOptions { filters: Some(filters), ..EventsOptions::default() };
    let client = docker.client();
    let mut events = pin!(client.events(Some(options)).peekable());
    let version = Box::pin(sandbox::version(&docker)).await?;
    let look = async |known: &Keeper| {
        let mut status = Box::pin(sandbox::look(&docker, version.clone())).await?;
        known.modify(|known| {
            let disk = known.disk;
            status.set_aside = known.status.take().and_then(|before| before.set_aside);
            *known = Known { status: Some(status), disk, live: true, error: None };
        });
        Ok::<_, DockerError>(())
    };
    // After the sandbox itself, so that nobody waits for it.
    let look_aside = async |known: &Keeper| {
        let set_aside = Box::pin(sandbox::set_aside(&docker)).await?;
        known.modify(|known| {
            if let Some(status) = &mut known.status {
                status.set_aside = set_aside;
            }
        });
        Ok::<_, DockerError>(())
    };
    // The stream is asked for with the look, so that no change falls between the two.
    tokio::select! {
        biased;
        _ = events.as_mut().peek() => {}
        looked = look(known) => {
            looked?;
            *was_live = true;
        }
    }
    let told = async {
        let mut aside_is_known = *was_live;
        if aside_is_known {
            look_aside(known).await?;
        }
        loop {
            match events.next().await {
                Some(Ok(event)) => {
                    known.modify(|known| apply(known, &event));
                    look(known).await?;
                    *was_live = true;
                    if !aside_is_known || is_of_names(&event) {
                        look_aside(known).await?;
                        aside_is_known = true;
                    }
                }
                Some(Err(error)) => return Err(error.into()),
                None => return Ok(()),
            }
        }
    };
    tokio::select! {
        ended = told => ended,
        () = follow_disk(&docker, known) => Ok(()),
    }
}

/// Looks at the disk now and then. That takes a while where there is much, and nobody waits for it.
async fn follow_disk(docker: &Docker, known: &Keeper) {
    let image_of = |known: &Known| known.status.as_ref().and_then(|status| status.image_id.clone());
    loop {
        let measured = image_of(&known.borrow());
        match Box::pin(disk::measure(docker)).await {
            Ok(disk) => known.modify(|known| known.disk = disk),
            Err(error) => tracing::debug!(error = error.for_log(), "the disk was not looked at"),
        }
        sleep(DISK_MIN).await;
        let mut changes = known.subscribe();
        let is_new = |known: &Known| {
            known.status.as_ref().is_some_and(|status| status.exists)
                // What is known is another container's disk where that is of another image.
                && (known.disk.is_none() || image_of(known) != measured)
        };
        tokio::select! {
            () = sleep(DISK) => {}
            // The sender is there as long as this is.
            _ = changes.wait_for(is_new) => {}
        }
    }
}

/// Returns whether after an event another container may have one of the two names.
fn is_of_names(event: &EventMessage) -> bool {
    matches!(event.action.as_deref(), Some("create" | "rename" | "destroy"))
}

/// Takes over what an event itself says, which is known half a round trip before the next look has its answer.
fn apply(known: &mut Known, event: &EventMessage) {
    let Some(status) = &mut known.status else { return };
    let actor = event.actor.as_ref();
    if status.id.as_ref() != actor.and_then(|actor| actor.id.as_ref()) {
        return;
    }
    let attribute = |name: &str| actor?.attributes.as_ref()?.get(name);
    match event.action.as_deref() {
        Some("die") => {
            status.state = Some("exited".into());
            status.exit_code = attribute("exitCode").and_then(|code| code.parse().ok());
            (status.started_at, status.health) = (None, None);
        }
        Some("destroy") => {
            known.disk = None;
            let set_aside = status.set_aside.take();
            let absent = sandbox::absent(status.docker_version.clone());
            known.status = Some(ContainerStatus { set_aside, ..absent });
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::EventActor;

    use super::*;

    #[test]
    fn the_end_of_a_container_is_taken_from_the_event() {
        let mut status = sandbox::absent(None);
        (status.exists, status.id, status.state) = (true, Some("a".into()), Some("running".into()));
        let mut known = Known { status: Some(status), live: true, ..Known::default() };
        let event = |action: &str, id: &str| EventMessage {
            action: Some(action.to_owned()),
            actor: Some(EventActor {
                id: Some(id.to_owned()),
                attributes: Some(HashMap::from([("exitCode".to_owned(), "137".to_owned())])),
            }),
            ..EventMessage::default()
        };
        let state = |known: &Known| {
            let status = known.status.as_ref().unwrap();
            (status.state.clone(), status.exit_code, status.exists)
        };
        // Of one that had the name before.
        apply(&mut known, &event("die", "b"));
        assert_eq!(state(&known), (Some("running".into()), None, true));
        apply(&mut known, &event("die", "a"));
        assert_eq!(state(&known), (Some("exited".into()), Some(137), true));
        apply(&mut known, &event("destroy", "a"));
        assert_eq!(state(&known), (None, None, false));
    }
}
