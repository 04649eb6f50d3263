//! Putting another container in the sandbox's place, so that at every moment one of the two can be gone back to.

use bollard::models::{ContainerCreateBody, ContainerInspectResponse};
use bollard::query_parameters::{
    CreateContainerOptions, RemoveContainerOptions, RenameContainerOptions, StartContainerOptions,
    StopContainerOptions,
};
use occ_proto::container::SANDBOX_CONTAINER;

use super::answer::{self, Until, inspect, inspect_named};
use super::mount::not_mounted;
use super::objects::{NEXT, PREVIOUS, PREVIOUS_KEPT, SET_ASIDE};
use super::session::Session;
use super::{SandboxError, image, objects, steps};

/// How long the old one has to end by itself, in seconds.
const STOP: u32 = 30;
/// What is kept of the words of one that failed and is removed, in lines.
const KEPT_LINES: usize = 40;

/// Puts a container in the sandbox's place. It is made before the old one is stopped, which nothing that Docker does
/// not make is worth. The old one is set aside until the new one answers, and is back when it does not. Returns what a
/// person should know.
pub(super) async fn replace(
    session: &mut Session,
    old: &ContainerInspectResponse,
    new: Box<ContainerCreateBody>,
    until: Until,
) -> Result<Option<String>, SandboxError> {
    let was_running = old.state.as_ref().and_then(|state| state.running) == Some(true);
    let image = old.config.as_ref().and_then(|config| config.image.clone()).unwrap_or_default();
    let cancel = session.progress.cancelled().clone();
    let port = steps::binding(&new);
    let put = async {
        // Of one that was cut short, and maybe of other settings.
        remove(session, NEXT).await?;
        create(session, NEXT, new).await?;
        if was_running {
            session.progress.step("stopping the sandbox");
            stop(session, STOP).await?;
        }
        session.progress.step("putting the new sandbox in its place");
        rename(session, SANDBOX_CONTAINER, SET_ASIDE).await?;
        rename(session, NEXT, SANDBOX_CONTAINER).await?;
        start(session).await.map_err(|error| steps::explained_start(error, port))?;
        answer::wait(session, until).await
    };
    let error = match cancel.run_until_cancelled(Box::pin(put)).await {
        Some(Ok(note)) => {
            remove(session, SET_ASIDE).await?;
            return Ok(note);
        }
        Some(Err(error)) => error,
        None => SandboxError::Cancelled { undone: true },
    };
    let log = match error {
        SandboxError::Cancelled { .. } => Vec::new(),
        // It is removed with all that it said.
        _ => new_ones_words(session, old).await,
    };
    session.progress.step("going back to the sandbox from before");
    match go_back(session, was_running).await {
        Ok(()) if matches!(error, SandboxError::Cancelled { .. }) => Err(error),
        Ok(()) => Err(SandboxError::RolledBack { image, log, source: Box::new(error) }),
        Err(undo) => Err(SandboxError::Stuck {
            container: SET_ASIDE.to_owned(),
            undo: crate::ssh::error::chain(&undo),
            source: Box::new(error),
        }),
    }
}

/// Returns what the container said that took the old one's place, and tells it.
async fn new_ones_words(session: &mut Session, old: &ContainerInspectResponse) -> Vec<String> {
    match inspect(session).await {
        Ok(Some(new)) if new.id != old.id => {}
        // It was not made, or cannot be asked.
        _ => return Vec::new(),
    }
    let log = answer::last_words(session, KEPT_LINES).await;
    log.iter().for_each(|line| session.progress.output(line.as_str()));
    log
}

/// Brings the sandbox back that was set aside.
async fn go_back(session: &mut Session, was_running: bool) -> Result<(), SandboxError> {
    if inspect_named(session, SET_ASIDE).await?.is_some() {
        remove(session, SANDBOX_CONTAINER).await?;
        rename(session, SET_ASIDE, SANDBOX_CONTAINER).await?;
    }
    remove(session, NEXT).await?;
    // One that was not stopped yet still runs, and may be paused.
    let runs = inspect(session).await?.as_deref().is_some_and(steps::is_running);
    if was_running && !runs { start(session).await } else { Ok(()) }
}

/// What becomes of a new sandbox that already runs where a replacement was cut short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CutShort {
    /// It stays when it answers.
    Finish,
    /// It is not waited for.
    Undo,
}

/// Mends what a replacement left that was cut short, such as by the end of the daemon. Returns what was done.
pub(super) async fn mend(
    session: &mut Session,
    running: CutShort,
) -> Result<Option<String>, SandboxError> {
    let set_aside = inspect_named(session, SET_ASIDE).await?.is_some();
    if !set_aside && inspect_named(session, NEXT).await?.is_none() {
        return Ok(None);
    }
    if set_aside
        && running == CutShort::Finish
        && inspect(session).await?.as_deref().is_some_and(steps::is_running)
    {
        let cancel = session.progress.cancelled().clone();
        match cancel.run_until_cancelled(Box::pin(answer::wait(session, Until::Ready))).await {
            Some(Ok(_)) => {
                remove(session, SET_ASIDE).await?;
                leave_names(session).await?;
                return Ok(Some("an update that was cut short is finished".to_owned()));
            }
            Some(Err(_)) => {}
            // It stays cut short.
            None => return Err(SandboxError::Cancelled { undone: false }),
        }
    }
    go_back(session, false).await?;
    restore_names(session).await?;
    Ok(Some("an update that was cut short is undone".to_owned()))
}

/// Takes the second name from the image from before a finished update, and the image where that was its last one.
async fn leave_names(session: &mut Session) -> Result<(), SandboxError> {
    let Some(container) = inspect(session).await? else { return Ok(()) };
    let Some(name) = container.config.and_then(|config| config.image) else { return Ok(()) };
    let (repo, _) = objects::split(&name);
    let id = async |session: &mut Session, tag: &str| {
        let image = image::find(session, &format!("{repo}:{tag}")).await?;
        Ok::<_, SandboxError>(image.and_then(|image| image.id))
    };
    let (kept, previous) = (id(session, PREVIOUS_KEPT).await?, id(session, PREVIOUS).await?);
    if let (Some(kept), Some(previous)) = (kept, previous) {
        steps::unkeep(session, &repo, &previous).await;
        steps::tidy(session, &kept, &repo).await;
    }
    Ok(())
}

/// Has the names of the sandbox's images mean what they meant before the update: its own the image that it is made
/// of, and `previous` the one to go back to.
async fn restore_names(session: &mut Session) -> Result<(), SandboxError> {
    let Some(container) = inspect(session).await? else { return Ok(()) };
    let name = container.config.and_then(|config| config.image);
    let (Some(name), Some(id)) = (name, container.image) else { return Ok(()) };
    if name.starts_with("sha256:") {
        return Ok(());
    }
    let (repo, tag) = objects::split(&name);
    let kept = image::find(session, &format!("{repo}:{PREVIOUS_KEPT}")).await?;
    let kept = kept.and_then(|image| image.id);
    if let Some(kept) = &kept {
        image::tag(session, kept, &repo, PREVIOUS).await?;
        image::forget(session, &repo, PREVIOUS_KEPT).await?;
    }
    let new = image::find(session, &name).await?;
    let now = new.as_ref().and_then(|image| image.id.clone());
    if name.contains('@') || now.as_ref() == Some(&id) {
        return Ok(());
    }
    image::tag(session, &id, &repo, &tag).await?;
    let previous = image::find(session, &format!("{repo}:{PREVIOUS}")).await?;
    // The first update named it so, and there is nothing to go back to.
    if kept.is_none() && previous.and_then(|image| image.id).as_ref() == Some(&id) {
        image::forget(session, &repo, PREVIOUS).await?;
    }
    // The new one has lost its name, and can be pulled again.
    match new.filter(|image| image::comes_from(image, &repo)).and_then(|image| image.id) {
        Some(new) => image::remove_left(session, &new, &repo).await,
        None => Ok(()),
    }
}

/// Makes a container of the sandbox's.
pub(super) async fn create(
    session: &mut Session,
    name: &str,
    body: Box<ContainerCreateBody>,
) -> Result<(), SandboxError> {
    let options =
        CreateContainerOptions { name: Some(name.to_owned()), ..CreateContainerOptions::default() };
    let created = session.ask(async |docker| {
        docker.create_container(Some(options.clone()), (*body).clone()).await.map(drop)
    });
    match created.await {
        // Made by the question before this one, whose answer was lost with the link.
        Err(error) if error.refusal().is_some_and(|(status, _)| status == 409) => {
            match inspect_named(session, name).await? {
                Some(_) => Ok(()),
                None => Err(error),
            }
        }
        created => created.map_err(|error| steps::explained(error, &body)),
    }
}

/// Starts the sandbox's container.
pub(super) async fn start(session: &mut Session) -> Result<(), SandboxError> {
    session
        .ask(async |docker| {
            docker.start_container(SANDBOX_CONTAINER, None::<StartContainerOptions>).await
        })
        .await
        .map_err(|error| error.refusal().and_then(|(_, words)| not_mounted(words)).unwrap_or(error))
}

/// Has the sandbox's container go on that is paused.
pub(super) async fn unpause(session: &mut Session) -> Result<(), SandboxError> {
    let unpaused =
        session.ask(async |docker| docker.unpause_container(SANDBOX_CONTAINER).await).await;
    match (unpaused, inspect(session).await?) {
        // Somebody else was faster, or the answer to the question before this one was lost with the link.
        (Err(_), Some(container))
            if steps::is_running(&container) && !steps::is_paused(&container) =>
        {
            Ok(())
        }
        (unpaused, _) => unpaused,
    }
}

/// Stops the sandbox's container; it is killed after so many seconds.
pub(super) async fn stop(session: &mut Session, seconds: u32) -> Result<(), SandboxError> {
    let seconds_for_docker = i32::try_from(seconds).unwrap_or(i32::MAX);
    let options = StopContainerOptions { t: Some(seconds_for_docker), signal: None };
    session
        .ask(async |docker| {
            let docker = steps::patient(docker, seconds);
            docker.stop_container(SANDBOX_CONTAINER, Some(options.clone())).await
        })
        .await
}

async fn rename(session: &mut Session, from: &str, to: &str) -> Result<(), SandboxError> {
    let options = RenameContainerOptions { name: to.to_owned() };
    let renamed = session.ask(async |docker| docker.rename_container(from, options.clone()).await);
    match renamed.await {
        // Done by the question before this one, whose answer was lost with the link.
        Err(error) if error.is_not_found() => match inspect_named(session, to).await? {
            Some(_) => Ok(()),
            None => Err(error),
        },
        renamed => renamed,
    }
}

/// Removes a container of ours, running or not, and none of its volumes.
pub(super) async fn remove(session: &mut Session, name: &str) -> Result<(), SandboxError> {
    // By its identifier: the name may be another one's in the next moment.
    let Some(container) = inspect_named(session, name).await? else { return Ok(()) };
    let id = container.id.as_deref().unwrap_or(name);
    let options = RemoveContainerOptions { force: true, ..RemoveContainerOptions::default() };
    let removed =
        session.ask(async |docker| docker.remove_container(id, Some(options.clone())).await);
    match removed.await {
        Err(error) if error.is_not_found() => Ok(()),
        removed => removed,
    }
}
