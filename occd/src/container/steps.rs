//! What `start`, `stop`, `restart` and `update` do, step by step.

use std::time::Duration;

use bollard::models::{ContainerCreateBody, ContainerInspectResponse};
use bollard::query_parameters::ListContainersOptions;
use occ_proto::container::{SANDBOX_CONTAINER, StartRequest, StopRequest, UpdateRequest};
use occ_proto::operation::{Did, Outcome};
use occ_proto::text::sanitize;

use super::answer::{self, Until, inspect, published};
use super::differs::{self, Difference};
use super::engine::TcpError;
use super::objects::{self, PREVIOUS, PREVIOUS_KEPT};
use super::operations::Progress;
use super::replace::{self, CutShort, mend, replace};
use super::session::Session;
use super::settings::SandboxSettings;
use super::{Engine, SandboxError, image, sandbox, there, volumes};

/// How long the sandbox has to end by itself unless a request says otherwise, in seconds.
const STOP: u32 = 30;
/// How much longer Docker may take to say that it has ended.
const GRACE: u32 = 30;
/// The exit code of a program that was killed: 128 plus SIGKILL.
const KILLED: i64 = 137;

/// Makes the sandbox if need be, starts it, and waits until it answers.
///
/// # Errors
/// When it cannot; what was made for it is gone again.
pub async fn start(
    engine: Engine,
    settings: &SandboxSettings,
    request: &StartRequest,
    progress: Progress,
) -> Result<Outcome, SandboxError> {
    let mut session = Session::new(engine, progress);
    let mut notes = Vec::new();
    let started = Box::pin(started(&mut session, settings, request, &mut notes)).await;
    match started {
        Ok(did) => outcome(&mut session, did, notes).await,
        Err(error) => {
            // That it is not as the settings say may be why.
            notes.into_iter().for_each(|note| session.progress.note(note));
            Err(error)
        }
    }
}

async fn started(
    session: &mut Session,
    settings: &SandboxSettings,
    request: &StartRequest,
    notes: &mut Vec<String>,
) -> Result<Did, SandboxError> {
    notes.extend(mend(session, CutShort::Finish).await?);
    let old = inspect(session).await?;
    let differences = match old.as_deref() {
        Some(old) => differences(session, old, settings, request).await?,
        None => Vec::new(),
    };
    if !request.yes {
        // What is asked for must be so; what only the settings say by now may wait.
        if differences.iter().any(|one| one.asked) {
            // Nobody is asked about what cannot be done.
            if !request.mounts.is_empty()
                && let Some(path) =
                    there::missing_path(&session.engine, &settings.named_mounts()).await
            {
                return Err(SandboxError::NoPath { path });
            }
            return Err(SandboxError::Otherwise { it_has: differs::words(&differences) });
        }
        notes.extend(differs::note(&session.engine, &differences));
    }
    let did = match old {
        Some(old) if request.yes && !differences.is_empty() => {
            let new = Box::pin(prepare(session, settings, request, Some(&old))).await?;
            notes.extend(Box::pin(replace(session, &old, new, Until::Ready)).await?);
            Did::Started
        }
        Some(old) if is_running(&old) => {
            if request.pull {
                notes.push("it runs already: occ update brings a newer image".to_owned());
            }
            // Docker counts one that is paused as running.
            let was_paused = is_paused(&old);
            if was_paused {
                session.progress.step("going on with the paused sandbox");
                replace::unpause(session).await?;
                notes.push("it was paused, and goes on where it was".to_owned());
            }
            // That it runs is not yet that it works.
            notes.extend(still_answers(session).await?);
            if was_paused { Did::Started } else { Did::WasRunning }
        }
        Some(old) => {
            if let Some((address, port)) = published(&old) {
                port_is_free(session, &address, port).await?;
            }
            session.progress.step("starting the sandbox");
            replace::start(session)
                .await
                .map_err(|error| explained_start(error, published(&old)))?;
            notes.extend(answered(session, Undo::Stop).await?);
            Did::Started
        }
        None => {
            let new = Box::pin(prepare(session, settings, request, None)).await?;
            let volumes = Box::pin(make(session, new)).await?;
            notes.extend(answered(session, Undo::Remove(volumes)).await?);
            Did::Started
        }
    };
    Ok(did)
}

/// Returns what of the sandbox is not as it would be made now.
async fn differences(
    session: &mut Session,
    old: &ContainerInspectResponse,
    settings: &SandboxSettings,
    request: &StartRequest,
) -> Result<Vec<Difference>, SandboxError> {
    let image = match &old.image {
        Some(id) => image::find(session, id).await?,
        None => None,
    };
    Ok(differs::differences(old, image.as_ref(), settings, request))
}

/// How a sandbox is brought back to what it was.
#[derive(Debug)]
pub(super) enum Undo {
    Stop,
    /// With the volumes that were made for it.
    Remove(Vec<String>),
}

/// Waits until the sandbox answers. One that does not is left to be looked at; only who cancels wants it undone.
pub(super) async fn answered(
    session: &mut Session,
    undo: Undo,
) -> Result<Option<String>, SandboxError> {
    let cancel = session.progress.cancelled().clone();
    let waiting = Box::pin(answer::wait(session, Until::Ready));
    if let Some(answered) = cancel.run_until_cancelled(waiting).await {
        // It stays to be looked at, and is not started for ever.
        if let Err(SandboxError::Ended { .. }) = &answered
            && let Err(error) = replace::stop(session, STOP).await
        {
            session.progress.note(format!("it could not be stopped: {error}"));
        }
        return answered;
    }
    session.progress.step("undoing the start");
    match undo {
        Undo::Stop => replace::stop(session, STOP).await?,
        Undo::Remove(volumes) => {
            replace::remove(session, SANDBOX_CONTAINER).await?;
            volumes::remove(session, &volumes).await;
        }
    }
    Err(SandboxError::Cancelled { undone: true })
}

/// The same of one that was to be running before, too: there is nothing to undo.
async fn still_answers(session: &mut Session) -> Result<Option<String>, SandboxError> {
    let cancel = session.progress.cancelled().clone();
    let waiting = Box::pin(answer::wait(session, Until::Ready));
    let answered = cancel.run_until_cancelled(waiting).await;
    answered.unwrap_or(Err(SandboxError::Cancelled { undone: false }))
}

/// Makes and starts a sandbox where there is none; nothing of it stays when that fails or is cancelled. Returns the
/// volumes that were made for it.
pub(super) async fn make(
    session: &mut Session,
    body: Box<ContainerCreateBody>,
) -> Result<Vec<String>, SandboxError> {
    let cancel = session.progress.cancelled().clone();
    let port = binding(&body);
    let volumes = volumes::missing(session, &body).await?;
    let made = async {
        session.progress.step("making the sandbox");
        replace::create(session, SANDBOX_CONTAINER, body).await?;
        session.progress.step("starting the sandbox");
        replace::start(session).await.map_err(|error| explained_start(error, port))
    };
    let error = match cancel.run_until_cancelled(Box::pin(made)).await {
        Some(Ok(())) => return Ok(volumes),
        Some(Err(error)) => error,
        None => SandboxError::Cancelled { undone: true },
    };
    match replace::remove(session, SANDBOX_CONTAINER).await {
        Ok(()) => volumes::remove(session, &volumes).await,
        Err(undo) => {
            session.progress.note(format!("what was made for it could not be removed: {undo}"));
        }
    }
    Err(error)
}

/// Checks what can be checked before anything is made, and has the image there.
async fn prepare(
    session: &mut Session,
    settings: &SandboxSettings,
    request: &StartRequest,
    old: Option<&ContainerInspectResponse>,
) -> Result<Box<ContainerCreateBody>, SandboxError> {
    if let Err(error) = there::make_directories(&settings.own_directories) {
        session.progress.note(format!("a directory of the sandbox cannot be made: {error}"));
    }
    if let Some(path) = there::missing_path(&session.engine, &settings.mounts).await {
        return Err(SandboxError::NoPath { path });
    }
    for mount in settings.mounts.iter().filter(|mount| mount.opens_the_host()) {
        session.progress.note(format!(
            "with the mount of {} what runs in the sandbox can do what root can on its host",
            sanitize(&mount.source)
        ));
    }
    let address = match settings.bind_address {
        ip if ip.is_unspecified() => "127.0.0.1".to_owned(),
        ip => ip.to_string(),
    };
    if !old.is_some_and(|old| has_port(old, settings.port)) {
        port_is_free(session, &address, settings.port).await?;
    }
    if request.pull || image::find(session, &settings.image).await?.is_none() {
        image::pull(session, &settings.image).await?;
    }
    let systemd = match settings.systemd {
        Some(systemd) => systemd,
        None => objects::runs_systemd(&session.ask(async |docker| docker.info().await).await?),
    };
    Ok(Box::new(objects::new(settings, systemd)))
}

/// Says who has the port, if somebody has.
pub(super) async fn port_is_free(
    session: &mut Session,
    address: &str,
    port: u16,
) -> Result<(), SandboxError> {
    let running =
        session.ask(async |docker| docker.list_containers(None::<ListContainersOptions>).await);
    for container in running.await? {
        let ports = container.ports.unwrap_or_default();
        if ports.iter().any(|published| published.public_port == Some(port)) {
            let name = container.names.unwrap_or_default().into_iter().next().unwrap_or_default();
            let by = format!("the container {}", sanitize(name.trim_start_matches('/')));
            return Err(SandboxError::PortTaken { port, by });
        }
    }
    match session.engine.tcp(address, port).await {
        Ok(_) => {
            let by = there::listener(&session.engine, port).await;
            Err(SandboxError::PortTaken { port, by })
        }
        // Docker finds out what cannot be looked at.
        Err(TcpError::Refused | TcpError::Forbidden | TcpError::Down) => Ok(()),
    }
}

/// Stops the sandbox, and removes its container if asked for.
///
/// # Errors
/// When Docker does not.
pub async fn stop(
    engine: Engine,
    request: &StopRequest,
    progress: Progress,
) -> Result<Outcome, SandboxError> {
    let mut session = Session::new(engine, progress);
    let session = &mut session;
    let was_running = inspect(session).await?.as_deref().is_some_and(is_running);
    // What is to end is not waited for.
    let notes = Vec::from_iter(mend(session, CutShort::Undo).await?);
    let Some(container) = inspect(session).await? else {
        return outcome(session, Did::NotFound, notes).await;
    };
    let mut did = if was_running { Did::Stopped } else { Did::WasStopped };
    if is_running(&container) {
        session.progress.step("stopping the sandbox");
        replace::stop(session, request.timeout_s.unwrap_or(STOP)).await?;
        let code = inspect(session).await?.and_then(|container| container.state?.exit_code);
        did = if code == Some(KILLED) { Did::Killed } else { Did::Stopped };
    }
    if request.remove {
        session.progress.step("removing the sandbox");
        replace::remove(session, SANDBOX_CONTAINER).await?;
        did = Did::Removed;
    }
    outcome(session, did, notes).await
}

/// Stops and starts the sandbox, and waits until it answers.
///
/// # Errors
/// When there is none, or it does not answer.
pub async fn restart(
    engine: Engine,
    settings: Result<SandboxSettings, SandboxError>,
    progress: Progress,
) -> Result<Outcome, SandboxError> {
    let mut session = Session::new(engine, progress);
    let session = &mut session;
    let mut notes = Vec::from_iter(mend(session, CutShort::Finish).await?);
    let container = inspect(session).await?.ok_or(SandboxError::NoSandbox)?;
    match settings {
        Ok(settings) => {
            let request = StartRequest::default();
            let differences = differences(session, &container, &settings, &request).await?;
            notes.extend(differs::note(&session.engine, &differences));
        }
        // It is made already.
        Err(error) => {
            notes.push(format!("whether it is as the settings say is not known: {error}"));
        }
    }
    if is_running(&container) {
        session.progress.step("stopping the sandbox");
        replace::stop(session, STOP).await?;
    } else if let Some((address, port)) = published(&container) {
        port_is_free(session, &address, port).await?;
    }
    session.progress.step("starting the sandbox");
    replace::start(session).await.map_err(|error| explained_start(error, published(&container)))?;
    notes.extend(still_answers(session).await?);
    outcome(session, Did::Restarted, notes).await
}

/// Brings the sandbox to the newest image, or back to the one before. Nothing is pruned.
///
/// # Errors
/// When it does not work; the sandbox is as it was before then.
pub async fn update(
    engine: Engine,
    settings: &SandboxSettings,
    request: &UpdateRequest,
    progress: Progress,
) -> Result<Outcome, SandboxError> {
    let mut session = Session::new(engine, progress);
    let session = &mut session;
    let mut notes = Vec::from_iter(mend(session, CutShort::Finish).await?);
    let old = inspect(session).await?.ok_or(SandboxError::NoSandbox)?;
    // The new one is started, whether or not the old one runs.
    if let Some((address, port)) = published(&old).filter(|(_, port)| !has_port(&old, *port)) {
        port_is_free(session, &address, port).await?;
    }
    let name = differs::image_name(&old, settings);
    let now = old.image.clone().unwrap_or_default();
    let old_image = image::find(session, &now).await?;
    let (repo, previous) = objects::with_tag(&name, PREVIOUS);
    let previous_name = format!("{repo}:{previous}");
    let before = image::find(session, &previous_name).await?.and_then(|image| image.id);
    let mut pulled = false;
    let new = if request.rollback {
        let missing = || SandboxError::NoPrevious { image: previous_name.clone() };
        before.clone().ok_or_else(missing)?
    } else {
        let there = image::identifiers(session).await?;
        image::pull(session, &name).await?;
        let new = image::find(session, &name).await?.and_then(|image| image.id);
        let new = new.unwrap_or_default();
        pulled = !there.contains(&new);
        new
    };
    if new == now {
        if request.rollback {
            return Err(SandboxError::NoEarlier { image: previous_name });
        }
        return outcome(session, Did::UpToDate, notes).await;
    }
    // Told before anything is replaced: whoever reads of a failure then knows what failed.
    if let Some((from, to)) = versions(session, old_image.as_ref(), &new).await? {
        session.progress.step(format!("going from version {from} to {to}"));
        notes.push(format!("version {from} -> {to}"));
    }
    if let Some(before) = &before {
        image::tag(session, before, &repo, PREVIOUS_KEPT).await?;
    }
    // From now on the name means the new image, and `previous` the one that runs.
    let (repo, tag) = objects::split(&name);
    image::tag(session, &new, &repo, &tag).await?;
    image::tag(session, &now, &repo, PREVIOUS).await?;
    let body = Box::new(objects::like(&old, old_image.as_ref(), &name));
    match replace(session, &old, body, Until::Healthy).await {
        Ok(note) => {
            notes.extend(note);
            if before.is_some() {
                unkeep(session, &repo, &now).await;
            }
            // The name that it had from the last update is another one's now.
            if let Some(before) =
                before.filter(|before| [&new, &now].iter().all(|id| *id != before))
            {
                tidy(session, &before, &repo).await;
            }
        }
        Err(error) => {
            // Neither name is worth an error of its own: the sandbox is what counts.
            let kept = before.clone();
            let tags = [(Some(now), tag), (before, PREVIOUS.to_owned())];
            for (id, tag) in tags.into_iter().filter_map(|(id, tag)| Some((id?, tag))) {
                if let Err(undo) = image::tag(session, &id, &repo, &tag).await {
                    session
                        .progress
                        .note(format!("{repo}:{tag} still names the other image: {undo}"));
                }
            }
            match kept {
                Some(kept) => unkeep(session, &repo, &kept).await,
                // There was none before, and there is nothing to go back to.
                None if matches!(error, SandboxError::Stuck { .. }) => {}
                None => {
                    if let Err(undo) = image::forget(session, &repo, PREVIOUS).await {
                        session.progress.note(format!(
                            "{previous_name} still names the image that runs: {undo}"
                        ));
                    }
                }
            }
            if pulled && !matches!(error, SandboxError::Stuck { .. }) {
                tidy(session, &new, &repo).await;
            }
            return Err(error);
        }
    }
    if request.rollback {
        notes.push(format!("the image that ran until now is {previous_name}: another --rollback goes back to that one"));
    }
    let did = if request.rollback { Did::RolledBack } else { Did::Updated };
    outcome(session, did, notes).await
}

/// Takes the second name from the image from before, which an update needs no more. `previous` is what `previous`
/// names now: an image keeps no name as its last one, which Docker would not take from a container's image.
pub(super) async fn unkeep(session: &mut Session, repo: &str, previous: &str) {
    let taken = async {
        image::tag(session, previous, repo, PREVIOUS_KEPT).await?;
        image::forget(session, repo, PREVIOUS_KEPT).await
    };
    if let Err(error) = taken.await {
        session.progress.note(format!("{repo}:{PREVIOUS_KEPT} still names an image: {error}"));
    }
}

/// Removes an image that an update has left. That it cannot be removed is no failure of the update.
pub(super) async fn tidy(session: &mut Session, id: &str, repo: &str) {
    if let Err(error) = image::remove_left(session, id, repo).await {
        session.progress.note(format!("an image that nothing uses any more stays: {error}"));
    }
}

/// Returns the versions of two images, where they have some and differ.
async fn versions(
    session: &mut Session,
    old: Option<&bollard::models::ImageInspect>,
    new: &str,
) -> Result<Option<(String, String)>, SandboxError> {
    let new = image::find(session, new).await?;
    let of = |image: &bollard::models::ImageInspect| {
        let labels = image.config.as_ref()?.labels.as_ref()?;
        labels.get(objects::VERSION_LABEL).map(|version| sanitize(version))
    };
    let (from, to) = (old.and_then(of), new.as_ref().and_then(of));
    Ok(from.zip(to).filter(|(from, to)| from != to))
}

/// Returns what came of an operation, with the sandbox as it is now.
pub(super) async fn outcome(
    session: &mut Session,
    did: Did,
    notes: Vec<String>,
) -> Result<Outcome, SandboxError> {
    let container = inspect(session).await?;
    let sandbox = container.map_or_else(|| sandbox::absent(None), |c| sandbox::of(*c, None));
    Ok(Outcome { did, sandbox: Some(sandbox), url: None, docker_version: None, notes })
}

pub(super) fn is_running(container: &ContainerInspectResponse) -> bool {
    container.state.as_ref().and_then(|state| state.running) == Some(true)
}

pub(super) fn is_paused(container: &ContainerInspectResponse) -> bool {
    container.state.as_ref().and_then(|state| state.paused) == Some(true)
}

/// Returns whether a sandbox has a port of its host's at this moment. One that does not run has none.
pub(super) fn has_port(container: &ContainerInspectResponse, port: u16) -> bool {
    is_running(container) && published(container).is_some_and(|(_, own)| own == port)
}

pub(super) fn binding(body: &ContainerCreateBody) -> Option<(String, u16)> {
    let bindings =
        body.host_config.as_ref()?.port_bindings.as_ref()?.get(objects::WEB)?.as_ref()?;
    let binding = bindings.first()?;
    Some((binding.host_ip.clone().unwrap_or_default(), binding.host_port.as_ref()?.parse().ok()?))
}

/// Returns a client that waits for an answer that takes Docker so long, in seconds.
pub(super) fn patient(docker: bollard::Docker, seconds: u32) -> bollard::Docker {
    docker.with_timeout(Duration::from_secs(u64::from(seconds) + u64::from(GRACE)))
}

/// Returns why Docker did not make a container, in our words where they say more.
pub(super) fn explained(error: SandboxError, body: &ContainerCreateBody) -> SandboxError {
    if let Some((_, words)) = error.refusal()
        && let Some((_, path)) = words.split_once("bind source path does not exist: ")
    {
        return SandboxError::NoPath { path: sanitize(path.trim()) };
    }
    explained_start(error, binding(body))
}

/// Returns why Docker did not make or start a container, in our words where the port or the disk is to blame.
pub(super) fn explained_start(error: SandboxError, binding: Option<(String, u16)>) -> SandboxError {
    if error.refusal().is_some_and(|(_, words)| words.contains(image::FULL)) {
        return SandboxError::DiskFull { what: "the sandbox".to_owned() };
    }
    let taken = ["port is already allocated", "address already in use"];
    match (error.refusal(), binding) {
        (Some((_, words)), Some((_, port))) if taken.iter().any(|text| words.contains(text)) => {
            SandboxError::PortTaken { port, by: "another program there".to_owned() }
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::DockerError;

    #[test]
    fn what_docker_says_of_a_disk_that_is_full_is_one_sentence() {
        let words = "mkdir /var/lib/docker/overlay2/x: no space left on device".to_owned();
        let refused = SandboxError::from(DockerError::Refused { status: 500, words });
        let said = explained(refused, &ContainerCreateBody::default()).to_string();
        assert_eq!(said, "there is no room for the sandbox: the disk is full");
    }
}
