//! The volumes that a sandbox brings about: Docker makes those that are missing with the container, and keeps them when
//! that goes.

use std::collections::HashSet;

use bollard::models::{ContainerCreateBody, MountType};
use bollard::query_parameters::{ListVolumesOptions, RemoveVolumeOptions};

use super::SandboxError;
use super::session::Session;

/// Returns the volumes that a container would have made.
pub(super) async fn missing(
    session: &mut Session,
    body: &ContainerCreateBody,
) -> Result<Vec<String>, SandboxError> {
    let mounts = body.host_config.as_ref().and_then(|host| host.mounts.as_ref());
    let volumes = mounts.into_iter().flatten().filter(|m| m.typ == Some(MountType::VOLUME));
    let mut names: Vec<String> = volumes.filter_map(|volume| volume.source.clone()).collect();
    let there = session.ask(async |docker| docker.list_volumes(None::<ListVolumesOptions>).await);
    let there = there.await?.volumes.unwrap_or_default();
    let there: HashSet<String> = there.into_iter().map(|volume| volume.name).collect();
    names.retain(|name| !there.contains(name));
    Ok(names)
}

/// Removes volumes that were made for a sandbox that is gone again. One that somebody uses by now stays, as Docker has
/// it; that is no failure of what has failed already.
pub(super) async fn remove(session: &mut Session, names: &[String]) {
    for name in names {
        let removed = session
            .ask(async |docker| docker.remove_volume(name, None::<RemoveVolumeOptions>).await);
        match removed.await {
            Err(error) if !error.is_not_found() => {
                session.progress.note(format!("the volume {name} stays: {error}"));
            }
            _ => {}
        }
    }
}
